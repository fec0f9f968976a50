//! Follows the replicas and makes each of them forget a blob.
//!
//! A replica is spoken to at the address of its pod, which works inside the cluster, or else through a port-forward of
//! its own; only so where the registry itself is reached in this way. Which replicas there are is asked again and again, for `system:image-pruner` may not watch pods. A replica
//! that is found late may have cached, from a client that was quick, a blob whose data was deleted between two lists; it
//! is remembered with those digests, as one is that did not confirm. To tell it later to forget them could remove a
//! fresh upload, so that takes an answer of the replica itself that the data is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::task::AbortHandle;
use tracing::debug;

use super::detect::{Discovery, Place, Pod, Reading, pods};
use crate::cluster::{ApiError, Cluster, Forward};
use crate::registry::{self, Deletion, Evidence, Freshness, Limits, Protection, Registry, RegistryError};
use crate::text::sanitize;
use crate::throttle::Turn;

/// After so many failures in a row a replica is left alone until it answers a ping again: one that hangs must not slow
/// down every deletion.
const FAILURES: u32 = 3;

/// How long to wait for replicas, and how often to look for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// The time between two lists of the pods.
    pub refresh: Duration,
    /// The time that one replica has to forget one blob, connection included.
    pub forget: Duration,
    /// The time that one replica has to show that it can be reached at its address.
    pub reach: Duration,
    /// The same by a port-forward, which goes a longer way.
    pub forward: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(2),
            forget: Duration::from_secs(5),
            reach: Duration::from_secs(2),
            forward: Duration::from_secs(10),
        }
    }
}

/// How a replica is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// At the address of its pod.
    Direct,
    /// Through the API server.
    PortForward,
}

/// One replica that can be spoken to.
#[derive(Debug, Clone)]
pub struct Replica {
    pod: Pod,
    way: Way,
    registry: Registry,
    deadline: Duration,
    /// How often any replica was told to forget because it was stale.
    told: Arc<AtomicUsize>,
    /// Keeps the port open.
    _forward: Option<Arc<Forward>>,
}

impl Replica {
    /// Its pod, as it was when it was last listed.
    #[must_use]
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// The name of its pod.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.pod.name
    }

    /// How it is reached.
    #[must_use]
    pub fn way(&self) -> Way {
        self.way
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
        let answer =
            tokio::time::timeout(self.deadline, self.registry.delete_blob(&mut Turn::free(), digest)).await;
        match answer {
            Ok(answer) => answer.map(|(Deletion::Deleted | Deletion::AlreadyGone)| ()),
            Err(_) => Err(unavailable(format!("no answer within {:?}", self.deadline))),
        }
    }

    /// Asks whether it would still answer for a blob in a repository that had it.
    pub async fn ask(&self, repository: &str, digest: &str) -> Freshness {
        self.registry.ask(repository, digest).await
    }

    /// Asks and, if the replica itself says twice that the data is missing, makes it forget and asks again.
    pub async fn settle(&self, repository: &str, digest: &str) -> Freshness {
        // Twice: to be told removes data that is there, and once it may have been a storage that had trouble.
        for _ in 0..2 {
            let freshness = self.ask(repository, digest).await;
            if freshness != Freshness::Stale(Evidence::Replica) {
                return freshness;
            }
        }
        self.told.fetch_add(1, Ordering::Relaxed);
        match self.forget(digest).await {
            Ok(()) => self.ask(repository, digest).await,
            Err(error) => {
                debug!(replica = self.pod.name, %error, "a stale replica does not forget");
                Freshness::Stale(Evidence::Replica)
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

/// A pod that is still there, and what it may still believe in.
#[derive(Debug, Clone)]
pub struct Unconfirmed {
    /// The pod.
    pub pod: Pod,
    /// How it is spoken to, to [settle](Replica::settle) it; or why it cannot be.
    pub replica: Result<Replica, String>,
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
    told: Arc<AtomicUsize>,
    state: Mutex<State>,
    /// Held while listing: lists that overtake each other would bring back replicas that are gone.
    listing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The pods of the last list that may remember something.
    members: Vec<Member>,
    /// By the pod's UID.
    unconfirmed: BTreeMap<String, BTreeSet<String>>,
    /// Digests that a replica which is not listed yet may have cached, and when they were evicted.
    recent: Vec<(Instant, String)>,
}

/// A pod, and how it is spoken to.
#[derive(Debug, Clone)]
struct Member {
    pod: Pod,
    /// Or why it cannot be.
    replica: Result<Replica, String>,
    /// Evictions in a row that it did not confirm.
    failures: u32,
}

impl Evictor {
    /// Lists the replicas, finds out how each can be reached, and goes on following them.
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
            told: Arc::default(),
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

    /// The replicas of the last list that can be spoken to.
    #[must_use]
    pub fn replicas(&self) -> Vec<Replica> {
        self.shared.state().members.iter().filter_map(|member| member.replica.clone().ok()).collect()
    }

    /// The pods of the last list that cannot be spoken to, and why not.
    #[must_use]
    pub fn unreachable(&self) -> Vec<(Pod, String)> {
        let state = self.shared.state();
        let members = state.members.iter();
        members.filter_map(|member| Some((member.pod.clone(), member.replica.clone().err()?))).collect()
    }

    /// Makes all replicas forget the blob, all at once.
    ///
    /// # Warning
    ///
    /// See [`Replica::forget`]: once per blob, right after its data was deleted and its Redis keys are gone.
    pub async fn evict(&self, digest: &str) -> Eviction {
        let members = {
            let mut state = self.shared.state();
            // Under the same lock as the snapshot: a replica is in this one, or learns that it missed the digest.
            state.recent.push((Instant::now(), digest.to_owned()));
            state.members.clone()
        };
        let requests = members.into_iter().map(|Member { pod, replica, failures }| async move {
            let result = match replica {
                Ok(replica) if failures < FAILURES => replica.forget(digest).await,
                Ok(_) => Err(unavailable("it did not answer before".to_owned())),
                Err(why) => Err(unavailable(why)),
            };
            Outcome { pod, result }
        });
        let outcomes = join_all(requests).await;
        let mut state = self.shared.state();
        for Outcome { pod, result } in &outcomes {
            if let Some(member) = state.members.iter_mut().find(|member| member.pod.uid == pod.uid) {
                member.failures = if result.is_ok() { 0 } else { member.failures.saturating_add(1) };
            }
            if result.is_err() {
                state.unconfirmed.entry(pod.uid.clone()).or_default().insert(digest.to_owned());
            }
        }
        drop(state);
        Eviction { outcomes }
    }

    /// How often a replica was told to forget because it was stale. Such a deletion may have removed what an upload has just
    /// brought back, and then other caches are stale.
    #[must_use]
    pub fn told(&self) -> usize {
        self.shared.told.load(Ordering::Relaxed)
    }

    /// Counts every replica as one that may believe in this blob, as after a Redis from which it may have filled up.
    pub fn doubt(&self, digest: &str) {
        let mut state = self.shared.state();
        let uids: Vec<String> = state.members.iter().map(|member| member.pod.uid.clone()).collect();
        for uid in uids {
            state.unconfirmed.entry(uid).or_default().insert(digest.to_owned());
        }
    }

    /// Whether a replica may believe in this blob.
    #[must_use]
    pub fn is_doubtful(&self, digest: &str) -> bool {
        self.shared.state().unconfirmed.values().any(|digests| digests.contains(digest))
    }

    /// The pods that are still there and may be stale, and for which blobs.
    #[must_use]
    pub fn unconfirmed(&self) -> Vec<Unconfirmed> {
        let state = self.shared.state();
        let unconfirmed = state.members.iter().filter_map(|member| {
            let digests = state.unconfirmed.get(&member.pod.uid)?.clone();
            Some(Unconfirmed { pod: member.pod.clone(), replica: member.replica.clone(), digests })
        });
        unconfirmed.collect()
    }
}

fn unavailable(cause: String) -> RegistryError {
    RegistryError::Unavailable { attempts: 1, cause }
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
        // A pod without an address has been asked nothing, and memory ends with its process.
        let listed = listed.into_iter().filter(|pod| pod.address.is_some() && pod.runs);
        let known = self.state().members.clone();
        let members = listed.map(|pod| {
            let before = known.iter().find(|member| member.pod.uid == pod.uid).cloned();
            self.member(pod, before)
        });
        let mut members = join_all(members).await;
        let mut state = self.state();
        for member in &mut members {
            if let Some(now) = state.members.iter().find(|known| known.pod.uid == member.pod.uid) {
                // Only an answer makes the failures forgotten, and more may have come in meanwhile.
                if member.failures > 0 || now.failures < FAILURES {
                    member.failures = now.failures;
                }
            } else {
                let missed = state.recent.iter().map(|(_, digest)| digest.clone()).collect::<Vec<_>>();
                if !missed.is_empty() {
                    state.unconfirmed.entry(member.pod.uid.clone()).or_default().extend(missed);
                }
            }
        }
        // What has no address now has been asked nothing: it cannot have cached what was gone before the list began.
        state.recent.retain(|(at, _)| *at >= begun);
        let uids: BTreeSet<&String> = members.iter().map(|member| &member.pod.uid).collect();
        state.unconfirmed.retain(|uid, _| uids.contains(uid));
        state.members = members;
        Ok(())
    }

    /// The pod as it is now, and how it is spoken to: as before, unless that no longer works.
    async fn member(&self, pod: Pod, before: Option<Member>) -> Member {
        let limit = self.pace.reach;
        if let Some(Member { replica: Ok(replica), pod: old, failures }) = before
            && old.address == pod.address
        {
            let replica = Replica { pod: pod.clone(), ..replica };
            if failures < FAILURES {
                return Member { pod, replica: Ok(replica), failures };
            }
            if ping(&replica.registry, limit).await.is_ok() {
                return Member { pod, replica: Ok(replica), failures: 0 };
            }
        }
        let replica = self.reach(&pod).await;
        Member { pod, replica, failures: 0 }
    }

    /// Finds out how the pod can be spoken to.
    async fn reach(&self, pod: &Pod) -> Result<Replica, String> {
        let Some(address) = pod.address else { return Err("it has no address yet".to_owned()) };
        let limit = self.pace.reach;
        // Outside the cluster the address may be anybody's, and only a certificate tells.
        let direct = if matches!(self.registry.way(), registry::Way::PortForward { .. }) {
            "its address is not tried where the registry is reached through port-forwards".to_owned()
        } else if self.registry.protection() == Protection::Verified || self.cluster.is_in_cluster() {
            match self.replica(pod, address, Way::Direct, None) {
                Ok(replica) => match ping(&replica.registry, limit).await {
                    Ok(()) => return Ok(replica),
                    Err(why) => why,
                },
                Err(why) => why,
            }
        } else {
            "its address is not tried without a certificate that is verified".to_owned()
        };
        let forward = self.cluster.forward(&self.place.namespace, &pod.name, address.port());
        let limit = self.pace.forward;
        let forwarded = match tokio::time::timeout(limit, forward).await {
            Ok(Ok(forward)) => {
                let address = forward.address();
                match self.replica(pod, address, Way::PortForward, Some(Arc::new(forward))) {
                    Ok(replica) => match ping(&replica.registry, limit).await {
                        Ok(()) => return Ok(replica),
                        Err(why) => why,
                    },
                    Err(why) => why,
                }
            }
            Ok(Err(ApiError::Forbidden { .. })) => {
                format!(
                    "the right to create pods/portforward in namespace {} is missing",
                    self.place.namespace
                )
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {limit:?}"),
        };
        Err(format!("its address {address}: {}; port-forward: {}", sanitize(&direct), sanitize(&forwarded)))
    }

    /// A client of the pod at this address.
    fn replica(
        &self,
        pod: &Pod,
        address: SocketAddr,
        way: Way,
        forward: Option<Arc<Forward>>,
    ) -> Result<Replica, String> {
        let Pace { forget, .. } = self.pace;
        let limits =
            Limits { connect: forget, answer: forget, delete: forget, attempts: 1, ..Limits::default() };
        let name = self.place.certificate_name(self.registry.host());
        let registry = self.registry.pinned(&name, address, limits).map_err(|failure| failure.message)?;
        let told = Arc::clone(&self.told);
        Ok(Replica { pod: pod.clone(), way, registry, deadline: forget, told, _forward: forward })
    }
}

async fn ping(registry: &Registry, limit: Duration) -> Result<(), String> {
    let answer = tokio::time::timeout(limit, registry.ping()).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
}
