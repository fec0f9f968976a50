//! The shared Redis after something deleted blobs behind the registry's back: hard prune, which tells no cache.
//!
//! Evicted once the data is gone and before any replica is restarted: a replica that starts fills up from Redis. And once
//! more when the last old replica has ended: one that had looked at a blob just before it was deleted may have put it back.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::check::{self, CheckOutcome, Extent, Mend, Question};
use super::choose::SharedRedis;
use super::commands::{ClusterAccess, Session};
use super::detect::{Discovery, discover};
use super::outcome::RedisOutcome;
use super::redis::{
    Doomed, Event, Evicted, Layout, Redis, RedisAddress, RedisFailure, RedisOptions, Selection,
};
use super::step::{dialer, redis_access};
use crate::cluster::Cluster;
use crate::error::Failure;
use crate::text::printable;
use crate::ui::Ui;

/// Of how many blobs a sample is taken.
const MOST: usize = 2_000;

/// The Redis that the replicas share, ready to forget.
pub struct Forgetting {
    redis: Redis,
    address: RedisAddress,
    layout: Layout,
    done: Evicted,
    failure: Option<RedisFailure>,
}

impl std::fmt::Debug for Forgetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Forgetting").field(&self.address).finish()
    }
}

/// What is to be forgotten.
#[derive(Debug, Clone, Copy)]
pub enum Forget<'a> {
    /// These blobs, wherever they are named.
    Blobs(&'a Doomed),
    /// Everything: nobody knows what was deleted.
    All,
}

impl Forgetting {
    /// Connects to the Redis that the registry is configured with; nothing if it has none.
    ///
    /// # Errors
    /// There is one, or may be, that cannot be spoken to: exit code 1.
    pub async fn prepare(
        cluster: &Cluster,
        found: &Discovery,
        options: &RedisOptions,
        warn: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> Result<Option<Self>, Failure> {
        let access = match redis_access(found, options) {
            Ok(access) => access,
            Err(SharedRedis::Absent) => return Ok(None),
            Err(
                SharedRedis::Reachable(why)
                | SharedRedis::MayBeThere(why)
                | SharedRedis::Unreachable { why, .. },
            ) => {
                return Err(Failure::nothing_changed(format!(
                    "find the registry's Redis: {}",
                    printable(&why)
                ))
                .hint("name it: --redis-url=redis://HOST:6379/DATABASE --redis-password-file=FILE")
                .hint("or say that there is none: --redis-url=none"));
            }
        };
        let address = access.address.clone();
        let dialer = dialer(cluster, found, options);
        let tell = Arc::new(move |event: &Event| {
            if let Event::Followed { replica, master } = event {
                warn(&format!("{replica} is a read-only replica: its master {master} is used"));
            }
        });
        match Redis::connect(access, dialer, false, tell).await {
            Ok(redis) => Ok(Some(Self {
                redis,
                address,
                layout: Layout::default(),
                done: Evicted::default(),
                failure: None,
            })),
            Err(failure) => {
                let told = Failure::nothing_changed(failure.to_string());
                Err(failure.hints(&address).into_iter().fold(told, Failure::hint))
            }
        }
    }

    /// Evicts; whether all of it was confirmed is in [`Forgetting::outcome`]. May be done again, and a later success takes
    /// an earlier failure back.
    pub async fn forget(&mut self, what: Forget<'_>) {
        self.failure = match what {
            Forget::All => self.redis.scan(&self.layout, Selection::All, &mut self.done).await,
            Forget::Blobs(doomed) => {
                match self.redis.evict(&self.layout.evictions(doomed), &mut self.done).await {
                    // A digest alone does not say which repositories had it.
                    Ok(()) => {
                        self.redis.scan(&self.layout, Selection::RepositoriesOf(doomed), &mut self.done).await
                    }
                    Err(failure) => Err(failure),
                }
            }
        }
        .err();
    }

    /// How it ended.
    #[must_use]
    pub fn outcome(&self) -> (RedisOutcome, Vec<String>) {
        let outcome = RedisOutcome {
            address: self.address.to_string(),
            keys: self.done.keys,
            members: self.done.members,
            failure: self.failure.as_ref().map(ToString::to_string),
            ..RedisOutcome::default()
        };
        (outcome, self.failure.as_ref().map(|failure| failure.hints(&self.address)).unwrap_or_default())
    }
}

/// Asks every replica for some of these blobs, in each of these repositories: a hard prune does not say where a blob was.
///
/// # Errors
/// Why none can be asked, in one line.
pub async fn ask_for_deleted(
    cluster: &Cluster,
    access: &ClusterAccess,
    ui: &Arc<Ui>,
    blobs: impl Iterator<Item = String>,
    repositories: &BTreeSet<String>,
) -> Result<CheckOutcome, String> {
    let mut questions: Vec<Question> = Vec::new();
    for digest in blobs.take(MOST) {
        let digest = &digest;
        questions.extend(
            repositories
                .iter()
                .take(MOST / 100)
                .map(|repository| Question { repository: repository.clone(), digest: digest.clone() }),
        );
    }
    if questions.is_empty() {
        return Err("no repository of what was deleted is known".to_owned());
    }
    let session = Session { cluster: cluster.clone(), found: discover(cluster, &access.place).await };
    let evictor = session.replicas(access, ui).await.map_err(|failure| failure.message)?;
    let all = questions.len();
    let chosen = check::select(Extent::Sample, questions, &mut fastrand::Rng::new());
    Ok(check::ask(&evictor, &chosen, all, Mend::No).await)
}
