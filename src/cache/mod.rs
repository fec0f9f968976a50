//! The registry's caches: makes them forget what a prune deleted.
//!
//! `detect` reads which caches there are; `redis` evicts from the one that the replicas share, `replicas` from each
//! replica's own; `rollout` restarts the registry, where that is the way, and proves it; `step` is what a prune does
//! of it. `input` reads what an earlier prune deleted, for `commands`: the subcommands of `cache`.

pub mod commands;
pub mod detect;
mod input;
pub mod redis;
pub mod replicas;
pub mod rollout;
mod step;

pub use input::{InputError, digests, result_document};
pub use step::{CacheOutcome, CacheStep};
