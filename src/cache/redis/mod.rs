//! The Redis that the registry's replicas share: `keys` says what to remove, `address` where it is (both pure),
//! `client` speaks with it, `problem` says what failed and what helps.

mod address;
mod client;
mod keys;
mod problem;

pub use address::{
    Access, AddressError, Certificates, Protocol, RedisAddress, RedisOptions, Topology, Whereabouts,
};
pub use client::{Event, Evicted, Redis, Selection, Tell};
pub use keys::{Doomed, Entry, Eviction, Layout, is_digest};
pub use problem::{Problem, RedisFailure};
