//! Which caches the registry has, and what the present user may do about them: reads with the rights that there are,
//! and says which are missing ([`discover`], [`rights`], I/O); decides what it means ([`cache_of`], pure).
//!
//! `objects` takes what counts of the API's objects, `environment` puts a container's variables and files together as
//! the kubelet does, `settings` those to the configuration as the registry does, `caches` says what that means.

mod caches;
mod discover;
mod environment;
mod objects;
mod rights;
mod settings;

pub use caches::{
    CacheConfig, ConfiguredSetting, DescriptorCache, DigestCache, Password, Redis, Setting, cache_of,
};
pub use discover::{Configuration, Discovery, Place, discover, rights};
pub(crate) use discover::{ask, ask_of_account, pods, whereabouts};
pub use environment::{ConfigFile, Declared, Environment, KeyOf, Origin, Source, Value, Variable};
pub use objects::{Counts, ManagementState, Operator, Pod, Reading, Strategy, Workload, WorkloadKind};
pub use rights::{Need, Right, Rights, Rule, Verdict};
pub use settings::Configured;
