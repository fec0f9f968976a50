//! Plan and outcome as text for people, lines for log scrapers, and documents for programs. Pure: writes into what
//! it is given.

pub mod cache;
pub mod document;
pub mod explain;
pub mod hard_prune;
pub mod html;
mod human;
pub mod journal;
pub mod metrics;
mod reason;
pub mod summary;
mod table;
pub mod text;
pub mod usage;
pub mod what_if;

pub use human::bytes;

pub use crate::text::printable;
