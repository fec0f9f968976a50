//! Follows the replicas and makes each of them forget a blob.
//!
//! Which replicas there are is asked again and again, for `system:image-pruner` may not watch pods. A replica that is
//! found late may have cached, from a client that was quick, a blob whose data was deleted between two lists; it is
//! remembered with those digests, as one is that did not confirm. To tell it later to forget them could remove a fresh
//! upload, so that takes an answer of the replica itself that the data is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::task::AbortHandle;
use tracing::debug;

use super::detect::{Discovery, Place, Pod, Reading, pods};
use crate::cluster::Cluster;
use crate::registry::{Deletion, Evidence, Freshness, Limits, Registry, RegistryError};

/// How long to wait for replicas, and how often to look for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// The time between two lists of the pods.
    pub refresh: Duration,
    /// The time that one replica has to forget one blob, connection included.
    pub forget: Duration,
    /// The time that one replica has to show that it can be reached.
    pub reach: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(2),
            forget: Duration::from_secs(5),
            reach: Duration::from_secs(2),
        }
    }
}

/// One replica, spoken to at the address of its pod.
#[derive(Debug, Clone)]
pub struct Replica {
    pod: Pod,
    address: SocketAddr,
    registry: Registry,
    deadline: Duration,
}

impl Replica {
    /// Its pod, as it was when it was last listed.
    #[must_use]
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Makes it forget the blob: `DELETE /admin/blobs/<digest>`, sent once.
    ///
    /// # Warning
    ///
    /// This removes the data as well, if there is any. To be sent right after the data was deleted, and later only if
    /// [`Replica::ask`] has just found it stale by [`Evidence::Replica`].
    ///
    /// # Errors
    ///
    /// It did not confirm: it may or may not have forgotten.
    pub async fn forget(&self, digest: &str) -> Result<(), RegistryError> {
        let answer = tokio::time::timeout(self.deadline, self.registry.delete_blob(digest)).await;
        match answer {
            Ok(answer) => answer.map(|(Deletion::Deleted | Deletion::AlreadyGone)| ()),
            Err(_) => Err(RegistryError::Unavailable {
                attempts: 1,
                cause: format!("no answer within {:?}", self.deadline),
            }),
        }
    }

    /// Asks whether it would still answer for a blob in a repository that had it.
    pub async fn ask(&self, repository: &str, digest: &str) -> Freshness {
        self.registry.ask(repository, digest).await
    }

    /// Asks and, if the replica itself says that the data is missing, makes it forget and asks again.
    pub async fn settle(&self, repository: &str, digest: &str) -> Freshness {
        let freshness = self.ask(repository, digest).await;
        if freshness != Freshness::Stale(Evidence::Replica) {
            return freshness;
        }
        match self.forget(digest).await {
            Ok(()) => self.ask(repository, digest).await,
            Err(error) => {
                debug!(replica = self.pod.name, %error, "a stale replica does not forget");
                freshness
            }
        }
    }
}

/// What one replica did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its pod.
    pub pod: Pod,
    /// Whether it confirmed that it forgot the blob.
    pub result: Result<(), RegistryError>,
}

/// What the replicas did.
#[derive(Debug, Clone, Default)]
pub struct Eviction {
    /// One by one.
    pub outcomes: Vec<Outcome>,
}

impl Eviction {
    /// Whether there was a replica, and all confirmed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.outcomes.is_empty() && self.outcomes.iter().all(|outcome| outcome.result.is_ok())
    }
}

/// A replica that runs, and what it may still believe in.
#[derive(Debug, Clone)]
pub struct Unconfirmed {
    /// The replica.
    pub replica: Replica,
    /// Blobs that it did not confirm, or that were evicted before it was found.
    pub digests: BTreeSet<String>,
}

/// Follows the replicas until it is dropped.
#[derive(Debug)]
pub struct Evictor {
    shared: Arc<Shared>,
    poller: AbortHandle,
}

impl Drop for Evictor {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

#[derive(Debug)]
struct Shared {
    cluster: Cluster,
    registry: Registry,
    place: Place,
    selector: String,
    pace: Pace,
    state: Mutex<State>,
    /// Held while listing: lists that overtake each other would bring back replicas that are gone.
    listing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    replicas: Vec<Replica>,
    /// By the pod's UID.
    unconfirmed: BTreeMap<String, BTreeSet<String>>,
    /// Digests that a replica which is not listed yet may have cached, and when they were evicted.
    recent: Vec<(Instant, String)>,
}

impl Evictor {
    /// Lists the replicas and goes on following them.
    ///
    /// `registry` is the connection that was chosen and logged in on: replicas are spoken to with the same protection,
    /// authorities and login, under the service's name. `found` says which pods are replicas.
    ///
    /// # Errors
    ///
    /// The pods cannot be listed: what the server said.
    pub async fn start(
        cluster: Cluster,
        registry: Registry,
        found: &Discovery,
        pace: Pace,
    ) -> Result<Self, String> {
        let shared = Arc::new(Shared {
            cluster,
            registry,
            place: found.place.clone(),
            selector: found.selector.clone(),
            pace,
            state: Mutex::default(),
            listing: tokio::sync::Mutex::default(),
        });
        shared.refresh().await?;
        let following = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(following.pace.refresh.max(Duration::from_millis(1)));
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            // The first tick is at once, and the list is new.
            ticks.tick().await;
            loop {
                ticks.tick().await;
                if let Err(error) = following.refresh().await {
                    debug!(error, "the registry's pods cannot be listed");
                }
            }
        });
        Ok(Self { shared, poller: task.abort_handle() })
    }

    /// Lists the replicas now.
    ///
    /// # Errors
    ///
    /// What the server said; the replicas stay those of the last list.
    pub async fn refresh(&self) -> Result<(), String> {
        self.shared.refresh().await
    }

    /// The replicas of the last list that have an address.
    #[must_use]
    pub fn replicas(&self) -> Vec<Replica> {
        self.shared.state().replicas.clone()
    }

    /// Finds out which replicas can be reached from here. Pod addresses cannot be, mostly, from outside the cluster.
    pub async fn reachable(&self) -> Vec<(Pod, Result<(), String>)> {
        let limit = self.shared.pace.reach;
        let pings = self.replicas().into_iter().map(|replica| async move {
            let answer = tokio::time::timeout(limit, replica.registry.ping()).await;
            (replica.pod, answer.unwrap_or_else(|_| Err(format!("no answer within {limit:?}"))))
        });
        join_all(pings).await
    }

    /// Makes all replicas forget the blob, all at once.
    ///
    /// # Warning
    ///
    /// See [`Replica::forget`]: once per blob, right after its data was deleted and its Redis keys are gone.
    pub async fn evict(&self, digest: &str) -> Eviction {
        let replicas = {
            let mut state = self.shared.state();
            // Under the same lock as the snapshot: a replica is in this one, or learns that it missed the digest.
            state.recent.push((Instant::now(), digest.to_owned()));
            state.replicas.clone()
        };
        let requests = replicas.into_iter().map(|replica| async move {
            let result = replica.forget(digest).await;
            Outcome { pod: replica.pod, result }
        });
        let outcomes = join_all(requests).await;
        let mut state = self.shared.state();
        for outcome in outcomes.iter().filter(|outcome| outcome.result.is_err()) {
            state.unconfirmed.entry(outcome.pod.uid.clone()).or_default().insert(digest.to_owned());
        }
        drop(state);
        Eviction { outcomes }
    }

    /// The replicas that are still there and may be stale, and for which blobs: [`Replica::settle`] each.
    #[must_use]
    pub fn unconfirmed(&self) -> Vec<Unconfirmed> {
        let state = self.shared.state();
        let digests = |replica: &Replica| state.unconfirmed.get(&replica.pod.uid).cloned();
        state
            .replicas
            .iter()
            .filter_map(|replica| Some(Unconfirmed { replica: replica.clone(), digests: digests(replica)? }))
            .collect()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn refresh(&self) -> Result<(), String> {
        let _one_at_a_time = self.listing.lock().await;
        let begun = Instant::now();
        let listed = match pods(&self.cluster, &self.place, &self.selector).await {
            Reading::Is(pods) => pods,
            Reading::Absent => Vec::new(),
            Reading::Unreadable { why, .. } => return Err(why),
        };
        let mut listed: Vec<Replica> = listed.into_iter().filter_map(|pod| self.replica(pod)).collect();
        let mut state = self.state();
        for replica in &mut listed {
            // The same pod keeps its connections.
            let same = |old: &&Replica| old.pod.uid == replica.pod.uid && old.address == replica.address;
            let known = state.replicas.iter().find(same).map(|old| old.registry.clone());
            if let Some(registry) = known {
                replica.registry = registry;
            } else {
                let missed = state.recent.iter().map(|(_, digest)| digest.clone()).collect::<Vec<_>>();
                if !missed.is_empty() {
                    state.unconfirmed.entry(replica.pod.uid.clone()).or_default().extend(missed);
                }
            }
        }
        // What has no address now has been asked nothing: it cannot have cached what was gone before the list began.
        state.recent.retain(|(at, _)| *at >= begun);
        let uids: BTreeSet<String> = listed.iter().map(|replica| replica.pod.uid.clone()).collect();
        state.unconfirmed.retain(|uid, _| uids.contains(uid));
        state.replicas = listed;
        Ok(())
    }

    /// A client of the pod, if it has an address.
    fn replica(&self, pod: Pod) -> Option<Replica> {
        let address = pod.address?;
        let Pace { forget, .. } = self.pace;
        let limits =
            Limits { connect: forget, answer: forget, delete: forget, attempts: 1, ..Limits::default() };
        // A route's name is none that a replica has a certificate for.
        let service = self.place.service_name();
        let own = self.registry.host();
        let name = if own.starts_with(&service) { own } else { &service };
        match self.registry.pinned(name, address, limits) {
            Ok(registry) => Some(Replica { pod, address, registry, deadline: forget }),
            Err(failure) => {
                debug!(pod = pod.name, error = failure.message, "a replica cannot be addressed");
                None
            }
        }
    }
}
