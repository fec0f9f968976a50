//! Plan and outcome as text for people, lines for log scrapers, and documents for programs. Pure: writes into what
//! it is given.

pub mod cache;
pub mod document;
pub mod explain;
mod human;
mod reason;
pub mod summary;
pub mod text;

pub use human::bytes;

pub use crate::text::printable;
