//! Which caches the registry has: reads pods and configuration with the rights that there are, and says which are
//! missing ([`discover`], I/O); decides what the configuration means ([`cache_of`], pure).

mod caches;
mod discover;
mod objects;

pub use caches::{CacheConfig, DescriptorCache, DigestCache, Password, Redis, Setting, cache_of};
pub(in crate::cache) use discover::pods;
pub use discover::{Discovery, Place, Reading, discover};
pub use objects::{Environment, Origin, Pod, Rule, Source, Value, Workload, WorkloadKind};
