//! What the cluster holds, reduced to what the plan needs: names as 32-bit ids, images and streams as flat
//! records, and the references of everything that runs. No I/O, no clock.

mod inventory;
mod names;
pub mod pull_spec;
mod quantity;
mod selector;

pub use inventory::{
    Image, Images, Import, Inventory, Item, Kind, LimitRange, Mention, Place, Referrer, Source, Stream, Tag,
    Target,
};
pub use names::{Id, Names, is_digest};
pub use quantity::Quantity;
pub use selector::{Selector, SelectorError};
