//! The registry's caches: makes them forget what a prune deleted.
//!
//! `detect` reads which caches there are, `choose` decides what is done about them (pure); `redis` evicts from the one
//! that the replicas share, `replicas` from each replica's own; `rollout` restarts the registry, where that is the way,
//! and proves it; `check` asks the replicas whether it worked. `step` is what a prune does of all this, `outcome` how it
//! ended (pure); `forget` is Redis after a hard prune. `input` reads what an earlier prune deleted, for `commands`: the subcommands of `cache`.

mod check;
mod choose;
pub mod commands;
pub mod detect;
mod foresee;
mod forget;
mod input;
mod outcome;
pub mod redis;
pub mod replicas;
pub mod rollout;
mod step;

pub use check::{CheckOutcome, Extent, Stale, StaleCache};
pub use choose::{Memory, Reach, ReplicaStep, SharedRedis, Situation, Strategy};
pub use foresee::plan as foreseen_plan;
pub use forget::{Forget, Forgetting, ask_for_deleted};
pub use input::{InputError, digests, result_document};
pub use outcome::{CacheOutcome, CachePlan, RedisOutcome};
pub use step::{CacheEvent, CacheOptions, CacheStep, StepOption, Tell};
