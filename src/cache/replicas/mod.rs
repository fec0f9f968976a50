//! The registry's replicas: finds them and their caches, and makes each of them forget a blob.
//!
//! [`discover`] reads pods and configuration with the rights that there are, and says which are missing;
//! [`cache_of`] decides, without I/O, what the configuration means. An [`Evictor`] follows the replicas and sends
//! `DELETE /admin/blobs/<digest>` to each of them. When that may be done is decided by its caller: once per blob, right
//! after the blob's data is gone, and never for a blob that stays.

mod caches;
mod discover;
mod evictor;
mod objects;

pub use caches::{CacheConfig, DescriptorCache, DigestCache, Password, Redis, Setting, cache_of};
pub use discover::{Discovery, Place, Reading, discover};
pub use evictor::{Eviction, Evictor, Outcome, Pace, Replica, Unconfirmed};
pub use objects::{Environment, Origin, Pod, Rule, Source, Value, Workload, WorkloadKind};
