//! Reads the cluster: all lists of `docs/decision.md`, paged, several in flight, each object reduced as it arrives.

mod decode;
mod lists;

pub use lists::{Absence, Content, List, Parts, Read, read_lists};
