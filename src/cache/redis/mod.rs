//! The Redis that the registry's replicas share: `keys` says what to remove, `address` where it is (both pure),
//! `connector` connects to it, by way of the API server where `dial` finds no other, `client` speaks with it, `problem`
//! says what failed and what helps. `shared` evicts for many workers at once, and remembers in `ledger`.

pub(in crate::cache) mod address;
mod client;
mod connector;
mod dial;
mod keys;
mod ledger;
mod problem;
mod shared;

pub use address::{
    Access, AddressError, Certificates, Protocol, RedisAddress, RedisOptions, Topology, Whereabouts,
};
pub use client::{Event, Evicted, Redis, Selection, Tell};
pub use dial::Dialer;
pub use keys::{Doomed, Entry, Eviction, Layout, is_cached_repository, is_digest};
pub use problem::{Problem, RedisFailure};
pub use shared::{Again, SharedCache};
