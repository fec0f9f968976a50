//! The registry's caches: makes them forget what a prune deleted.
//!
//! `keys` says what to remove from Redis, `input` reads what was deleted, `address` reads where Redis is (all pure);
//! `redis` speaks with it; `flush` is the subcommand `cache flush`. `replicas` finds the registry's replicas and makes
//! each of them forget; `step` is what a prune does of it.

mod address;
pub mod flush;
mod input;
mod keys;
mod problem;
mod redis;
pub mod replicas;
mod step;

pub use address::{Access, AddressError, Certificates, Protocol, RedisAddress, Topology};
pub use input::{InputError, digests, result_document};
pub use keys::{Doomed, Entry, Eviction, Layout, is_digest};
pub use problem::{Problem, RedisFailure};
pub use redis::{Event, Evicted, Redis, Selection, Tell};
pub use step::{CacheOutcome, CacheStep};
