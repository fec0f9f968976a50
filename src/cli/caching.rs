//! The flags that say what a prune does about the registry's caches.

use std::time::Duration;

use clap::Args;

use super::{
    place::{CACHE, PlaceArgs},
    redis::RedisArgs,
    validate::{nonempty, timeout, word},
};
use crate::{
    cache::{CacheOptions, Extent, Strategy},
    error::Failure,
};

const CACHE_TIMEOUT: Duration = Duration::from_secs(600);

/// What is done about the caches, as typed.
#[derive(Args)]
#[command(next_help_heading = CACHE)]
pub(super) struct CacheArgs {
    /// What makes the registry's caches forget the deleted blobs
    ///
    /// auto: the first that is possible and complete of evict, restart and wait. evict: Redis and each replica forget
    /// each blob right after it is deleted, without downtime. restart: Redis, then all replicas are replaced. flush:
    /// Redis alone. wait: Redis, then until what the replicas remember has expired. disable: the caches are switched
    /// off for good, before the first deletion. none: nothing; what stays stale is said.
    #[arg(long, value_name = "STEP")]
    registry_cache: Option<String>,

    /// How many deleted blobs to ask every replica for at the end
    ///
    /// off, sample or all. Asking needs the right to get imagestreams/layers. Default: sample.
    #[arg(long, value_name = "EXTENT")]
    check: Option<String>,

    /// How long the replacement of the replicas may take
    ///
    /// Default: 10m.
    #[arg(long, value_name = "DURATION")]
    cache_timeout: Option<String>,

    #[command(flatten)]
    pub(super) place: PlaceArgs,

    #[command(flatten)]
    pub(super) redis: RedisArgs,
}

impl CacheArgs {
    /// Checks the values, and reads the files that they name.
    pub(super) fn options(self) -> Result<CacheOptions, Failure> {
        Ok(CacheOptions {
            strategy: self.strategy()?,
            check: self.check()?.unwrap_or_default(),
            timeout: self.timeout()?,
            place: self.place.place()?,
            redis: self.redis.options()?,
        })
    }

    pub(super) fn strategy(&self) -> Result<Strategy, Failure> {
        word("--registry-cache", self.registry_cache.clone(), Strategy::BY_NAME)
    }

    /// `--check`, if it was given.
    pub(super) fn check(&self) -> Result<Option<Extent>, Failure> {
        let given = nonempty(self.check.clone());
        given.map(|given| word("--check", Some(given), Extent::BY_NAME)).transpose()
    }

    pub(super) fn timeout(&self) -> Result<Duration, Failure> {
        timeout("--cache-timeout", self.cache_timeout.as_deref(), CACHE_TIMEOUT)
    }
}
