//! The cache step of a prune: chosen before the first change, done blob by blob, finished at the end.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use super::detect::{CacheConfig, DescriptorCache, DigestCache, Place, discover};
use super::replicas::{Evictor, Pace, Unconfirmed};
use crate::cluster::Cluster;
use crate::registry::{Freshness, Registry};

/// What is done about the registry's caches, and why.
#[derive(Debug)]
pub enum CacheStep {
    /// Each replica is made to forget each blob right after its data is gone.
    Evict(Evictor),
    /// The registry caches nothing that could go stale.
    Unneeded(&'static str),
    /// The caches stay as they are: why.
    Left(String),
}

/// How the cache step ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheOutcome {
    /// `evict`, `unneeded` or `none`.
    pub step: &'static str,
    /// What was chosen and why, or what is left and why.
    pub message: String,
    /// Blobs that a replica may still believe in, by the name of its pod.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stale: BTreeMap<String, BTreeSet<String>>,
}

impl CacheStep {
    /// Chooses the step: eviction where the replicas are the only caches and all of them can be reached from here.
    ///
    /// With a Redis the replicas would fill up from it again, so eviction alone is not complete.
    pub async fn choose(cluster: &Cluster, registry: &Registry) -> Self {
        let found = discover(cluster, &Place::default()).await;
        match found.caches() {
            None => {
                return Self::Left(
                    "the registry's deployment cannot be read, so its caches are not known".into(),
                );
            }
            Some(CacheConfig { descriptor_cache: DescriptorCache::Redis(_), .. }) => {
                return Self::Left(
                    "the registry has a Redis, from which its replicas would fill up again".into(),
                );
            }
            Some(CacheConfig { descriptor_cache: DescriptorCache::Unknown(_), .. }) => {
                return Self::Left("the registry may have a Redis: its configuration cannot be read".into());
            }
            Some(CacheConfig { digest_cache: DigestCache::Off, .. }) => {
                return Self::Unneeded("the registry's caches are off");
            }
            Some(_) => {}
        }
        let evictor = match Evictor::start(cluster.clone(), registry.clone(), &found, Pace::default()).await {
            Ok(evictor) => evictor,
            Err(why) => return Self::Left(format!("the registry's pods cannot be listed: {why}")),
        };
        let answers = evictor.reachable().await;
        if answers.is_empty() {
            return Self::Left("no pod of the registry was found".into());
        }
        match answers.into_iter().find_map(|(pod, answer)| Some((pod.name, answer.err()?))) {
            Some((pod, why)) => Self::Left(format!("replica {pod} cannot be reached from here: {why}")),
            None => Self::Evict(evictor),
        }
    }

    /// The step in one line.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Evict(evictor) => format!(
                "evict: each of {} registry replica(s) forgets each blob right after it is deleted",
                evictor.replicas().len()
            ),
            Self::Unneeded(why) => format!("none needed: {why}"),
            Self::Left(why) => format!("none: {why}"),
        }
    }

    /// What replicas are made to forget blobs with, if they are.
    #[must_use]
    pub fn evictor(&self) -> Option<&Evictor> {
        match self {
            Self::Evict(evictor) => Some(evictor),
            Self::Unneeded(_) | Self::Left(_) => None,
        }
    }

    /// Asks replicas that did not confirm, or came late, and says what is left. `repository_of` names a repository
    /// that had a blob.
    pub async fn finish(self, repository_of: impl Fn(&str) -> Option<String>) -> CacheOutcome {
        let message = self.describe();
        let evictor = match self {
            Self::Evict(evictor) => evictor,
            Self::Unneeded(_) => {
                return CacheOutcome { step: "unneeded", message, ..CacheOutcome::default() };
            }
            Self::Left(_) => return CacheOutcome { step: "none", message, ..CacheOutcome::default() },
        };
        let listed = evictor.refresh().await;
        let mut stale: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for Unconfirmed { replica, digests } in evictor.unconfirmed() {
            for digest in digests {
                let clean = match repository_of(&digest) {
                    Some(repository) => {
                        let freshness = replica.settle(&repository, &digest).await;
                        matches!(freshness, Freshness::Clean | Freshness::ThereAgain)
                    }
                    None => false,
                };
                if !clean {
                    stale.entry(replica.pod().name.clone()).or_default().insert(digest);
                }
            }
        }
        let message = match listed {
            Err(why) => format!("the registry's pods could not be listed again: {why}"),
            Ok(()) if stale.is_empty() => message,
            Ok(()) => format!("{} replica(s) did not confirm that they forgot every blob", stale.len()),
        };
        CacheOutcome { step: "evict", message, stale }
    }
}
