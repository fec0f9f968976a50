//! What the cluster holds, reduced to what the plan needs: names as 32-bit ids, images and streams as flat
//! records, and the references of everything that runs. No I/O, no clock.

mod images;
mod inventory;
mod names;
pub mod pull_spec;
mod quantity;
mod referrers;
mod selector;
mod set;
mod words;

pub use images::{Image, Images, Uuid};
pub use inventory::{Import, Inventory, Item, LimitRange, Stream, Tag};
pub use names::{Id, Names, is_digest};
pub use quantity::Quantity;
pub use referrers::{InvalidTarget, Kind, Mention, Referrer, Referrers, Source, Target, TargetText};
pub use selector::{Selector, SelectorError};
pub use set::IdSet;
pub use words::{Word, Words};
