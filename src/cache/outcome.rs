//! What the cache step chose, and how it ended: data for the documents and for people.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use super::check::CheckOutcome;
use super::choose::{Choice, ReplicaStep};

/// What is done about the registry's caches, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CachePlan {
    /// The word of `--registry-cache`: `evict`, `restart`, `flush`, `wait`, `disable`, `none`; `unneeded` if nothing
    /// can go stale.
    pub step: &'static str,
    /// Whether Redis keys are evicted.
    pub redis: bool,
    /// What is done about the replicas' own caches.
    pub replicas: ReplicaStep,
    /// What is chosen and why, on one line.
    pub message: String,
    /// What stays stale, or may, whatever is done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
}

impl CachePlan {
    pub(super) fn of(choice: &Choice) -> Self {
        let Choice { step, redis, replicas, next: _, message, left } = choice;
        Self { step, redis: *redis, replicas: *replicas, message: message.clone(), left: left.clone() }
    }

    /// For a run that deletes nothing from a registry.
    #[must_use]
    pub fn unneeded(why: &str) -> Self {
        Self {
            step: "unneeded",
            redis: false,
            replicas: ReplicaStep::Unneeded,
            message: format!("none needed: {why}"),
            left: Vec::new(),
        }
    }
}

/// What was done about Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisOutcome {
    /// Its address, without a password.
    pub address: String,
    /// Keys that were evicted.
    pub keys: u64,
    /// Members that were removed from sets.
    pub members: u64,
    /// Deleted blobs of which no eviction was confirmed.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unconfirmed: BTreeSet<String>,
    /// Why the eviction is not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// How the cache step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheOutcome {
    /// What was chosen.
    #[serde(flatten)]
    pub plan: CachePlan,
    /// Whether anything was deleted from the registry, so that the step had something to do.
    pub needed: bool,
    /// What was done about Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_eviction: Option<RedisOutcome>,
    /// Blobs that a replica may still believe in, by the name of its pod.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stale: BTreeMap<String, BTreeSet<String>>,
    /// When what the replicas remember will have expired (RFC 3339), where something may be stale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_until: Option<String>,
    /// The pods that were replaced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<String>,
    /// What the replicas answered at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckOutcome>,
    /// Why the step is not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What helps: the exact command or flag.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// The command that finishes the step, if it is not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat: Option<String>,
}

impl CacheOutcome {
    pub(super) fn of(choice: &Choice) -> Self {
        Self::from_plan(CachePlan::of(choice))
    }

    /// The outcome of a run that has done nothing yet.
    #[must_use]
    pub fn from_plan(plan: CachePlan) -> Self {
        Self {
            plan,
            needed: true,
            redis_eviction: None,
            stale: BTreeMap::new(),
            stale_until: None,
            replaced: Vec::new(),
            check: None,
            failure: None,
            hints: Vec::new(),
            repeat: None,
        }
    }

    /// For a run that deleted nothing from the registry: nothing is stale.
    pub fn nothing_deleted(&mut self) {
        self.needed = false;
        self.plan.left.clear();
    }

    /// Whether a cache may still name what was deleted, although it was to be made to forget.
    #[must_use]
    pub fn may_lie(&self) -> bool {
        if !self.needed {
            return false;
        }
        let asked_for =
            matches!((self.plan.step, self.plan.replicas), ("none" | "flush", ReplicaStep::Leave));
        let redis_is_stale = self
            .redis_eviction
            .as_ref()
            .is_some_and(|redis| redis.failure.is_some() || !redis.unconfirmed.is_empty());
        let left = !asked_for && !self.plan.left.is_empty() && !self.is_proven();
        redis_is_stale || left || !self.stale.is_empty() || self.failure.is_some()
    }

    /// Whether something is left to be made to forget, as was asked for or because nobody knows which caches there are.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.needed && (self.plan.replicas == ReplicaStep::Leave || self.plan.step == "none")
    }

    /// Whether the replicas' own answers show that nothing is stale, whatever else is not known.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.check.as_ref().is_some_and(CheckOutcome::proves)
    }
}
