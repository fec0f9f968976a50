//! Evicts from the shared Redis for all workers of a prune at once.
//!
//! One task speaks with Redis. What workers ask for while it is under way goes into its next batch, so a blob waits for
//! at most two round trips, however many workers there are. A Redis that fails must not hold the prune up: after the
//! first one that waited in vain, workers are sent on at once until Redis has confirmed something again; what was not
//! confirmed is caught up on by the task in the background, and by [`SharedCache::finish`] at the latest.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::address::Access;
use super::client::{Evicted, Redis, Retry, Tell};
use super::dial::Dialer;
use super::keys::{Doomed, Entry, Layout};
use super::ledger::{self, Item, Ledger};
use super::problem::{Problem, RedisFailure};

/// How many items are looked at for one batch. Keys are as long as names, so they are not computed all at once.
const BATCH: usize = 512;

/// The pause after a failure that does not pass by itself.
const LATER: Duration = Duration::from_secs(5);

const STEP: &str = "evict keys";

/// What had come back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Again {
    /// The blobs whose descriptor Redis may have given to a replica after the blob was deleted: those that had one
    /// again, and those whose eviction was not confirmed in time.
    pub blobs: BTreeSet<String>,
}

/// The Redis that all replicas share, for many workers at once. Clones share everything.
#[derive(Clone)]
pub struct SharedCache {
    shared: Arc<Shared>,
    worker: Arc<Worker>,
}

impl std::fmt::Debug for SharedCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedCache").finish_non_exhaustive()
    }
}

/// The task that speaks with Redis; it ends with the last clone.
struct Worker(Mutex<Option<JoinHandle<()>>>);

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(task) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

struct Shared {
    layout: Layout,
    redis: tokio::sync::Mutex<Redis>,
    state: Mutex<State>,
    /// There is something to do.
    wake: Notify,
}

#[derive(Default)]
struct State {
    ledger: Ledger,
    /// What somebody waits for.
    fresh: VecDeque<Ticket>,
    /// What nobody waits for any more.
    late: Vec<Item>,
    /// What is under way.
    current: Vec<Item>,
    /// What went wrong last, since Redis last confirmed something.
    trouble: Option<RedisFailure>,
    /// Workers are sent on at once, and told this.
    refused: Option<RedisFailure>,
    has_finished: bool,
    evicted: Evicted,
    again: Again,
}

struct Ticket {
    items: Vec<Item>,
    done: oneshot::Sender<Result<(), RedisFailure>>,
}

impl SharedCache {
    /// Connects, logs in and finds the master.
    ///
    /// # Errors
    /// As [`Redis::connect`].
    pub async fn connect(
        access: Access,
        dialer: Dialer,
        layout: Layout,
        tell: Tell,
    ) -> Result<Self, RedisFailure> {
        let redis = Redis::connect(access, dialer, false, tell).await?;
        let shared = Arc::new(Shared {
            layout,
            redis: tokio::sync::Mutex::new(redis),
            state: Mutex::default(),
            wake: Notify::new(),
        });
        let task = tokio::spawn(work(Arc::clone(&shared)));
        Ok(Self { shared, worker: Arc::new(Worker(Mutex::new(Some(task)))) })
    }

    /// Evicts the entries of what is doomed, and returns once Redis has confirmed it.
    ///
    /// # Errors
    /// It was not confirmed within `deadline`, or is not allowed: it is remembered, and tried again in the background.
    /// Until Redis has confirmed something again, every call fails at once.
    pub async fn evict(&self, doomed: Doomed, deadline: Duration) -> Result<(), RedisFailure> {
        if doomed.is_empty() {
            return Ok(());
        }
        let mut confirmed = {
            let mut state = self.shared.state();
            let items = state.ledger.add(&doomed);
            if state.has_finished {
                state.late.extend(items);
                return Err(RedisFailure::new(Problem::Other, STEP, "the last eviction is over"));
            }
            if let Some(first) = state.refused.clone() {
                // What is known by now says more than that time ran out.
                let failure = state.trouble.clone().unwrap_or(first);
                state.late.extend(items);
                state.again.blobs.extend(doomed.digests().map(str::to_owned));
                return Err(failure);
            }
            let (done, confirmed) = oneshot::channel();
            state.fresh.push_back(Ticket { items, done });
            confirmed
        };
        self.shared.wake.notify_one();
        let answer = tokio::time::timeout(deadline, &mut confirmed).await;
        if let Ok(Ok(Ok(()))) = answer {
            return Ok(());
        }
        let mut state = self.shared.state();
        let answer = match answer {
            Ok(Ok(answer)) => Some(answer),
            // The confirmation, which is sent under the same lock, may have come in this very moment.
            _ => confirmed.try_recv().ok(),
        };
        let failure = match answer {
            Some(Ok(())) => return Ok(()),
            Some(Err(failure)) => failure,
            None => {
                let failure = state.trouble.clone().unwrap_or_else(|| {
                    RedisFailure::new(Problem::TimedOut, STEP, format!("no answer within {deadline:?}"))
                });
                state.refused = Some(failure.clone());
                failure
            }
        };
        state.again.blobs.extend(doomed.digests().map(str::to_owned));
        Err(failure)
    }

    /// Evicts everything that was ever asked for once more, with the user's whole patience: what was not confirmed, and
    /// what was put back meanwhile. To be called when all workers are done.
    ///
    /// # Errors
    /// As [`Redis::evict`]; it may be called again.
    pub async fn finish(&self) -> Result<Again, RedisFailure> {
        let task = self.worker.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            // However it ended, it holds nothing any more.
            let _ = task.await;
        }
        let mut redis = self.shared.redis.lock().await;
        let (first, rest) = {
            let mut state = self.shared.state();
            state.has_finished = true;
            state.give_up();
            let first = state.late.clone();
            let mut rest = state.ledger.all();
            rest.retain(|item| first.binary_search(item).is_err());
            (first, rest)
        };
        for items in first.chunks(BATCH) {
            let doomed = self.shared.state().ledger.doomed(items);
            self.shared.evict(&mut redis, &doomed, &mut |_| ()).await?;
            let mut state = self.shared.state();
            state.late.drain(..items.len());
            state.again.blobs.extend(doomed.digests().map(str::to_owned));
        }
        for items in rest.chunks(BATCH) {
            let doomed = self.shared.state().ledger.doomed(items);
            let mut back = Vec::new();
            let mut was_there = |key: &str| {
                if let Some(Entry::Blob(digest)) = self.shared.layout.entry(key) {
                    back.push(digest.to_owned());
                }
            };
            let result = self.shared.evict(&mut redis, &doomed, &mut was_there).await;
            self.shared.state().again.blobs.extend(back);
            result?;
        }
        Ok(self.shared.state().again.clone())
    }

    /// What was removed until now.
    #[must_use]
    pub fn evicted(&self) -> Evicted {
        self.shared.state().evicted
    }

    /// What no confirmation came for.
    #[must_use]
    pub fn unconfirmed(&self) -> Doomed {
        let state = self.shared.state();
        let fresh = state.fresh.iter().flat_map(|ticket| &ticket.items);
        let items: Vec<_> = fresh.chain(&state.late).chain(&state.current).copied().collect();
        state.ledger.doomed(&items)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how the batch under way has ended, and tells who waits for it.
    fn settle(&self, tickets: Vec<Ticket>, done: Evicted, result: &Result<(), RedisFailure>) {
        let mut state = self.state();
        state.evicted += done;
        match result {
            Ok(()) => {
                state.current.clear();
                (state.trouble, state.refused) = (None, None);
            }
            Err(failure) => {
                let State { late, current, .. } = &mut *state;
                late.append(current);
                state.refused = Some(failure.clone());
            }
        }
        for ticket in tickets {
            // Who waited may have gone on meanwhile.
            let _ = ticket.done.send(result.clone());
        }
    }

    /// Evicts with the user's patience.
    async fn evict(
        &self,
        redis: &mut Redis,
        doomed: &Doomed,
        was_there: &mut (dyn FnMut(&str) + Send),
    ) -> Result<(), RedisFailure> {
        let mut retry = redis.patience();
        let mut done = Evicted::default();
        let result = redis.evict_with(&self.layout.evictions(doomed), &mut retry, &mut done, was_there).await;
        self.state().evicted += done;
        result
    }
}

impl State {
    /// The next batch: what somebody waits for, then what is late, as far as there is room.
    fn take(&mut self) -> Option<(Vec<Ticket>, Doomed)> {
        let mut tickets = Vec::new();
        while self.current.len() < BATCH
            && let Some(ticket) = self.fresh.pop_front()
        {
            self.current.extend(&ticket.items);
            tickets.push(ticket);
        }
        let room = BATCH.saturating_sub(self.current.len());
        let kept = self.late.len().saturating_sub(room);
        self.current.extend(self.late.drain(kept..));
        (!self.current.is_empty()).then(|| (tickets, self.ledger.doomed(&self.current)))
    }

    /// Makes everything late that is not confirmed, sorted.
    fn give_up(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        self.late.extend(fresh.into_iter().flat_map(|ticket| ticket.items));
        self.late.append(&mut self.current);
        ledger::sort(&mut self.late);
    }
}

/// Evicts what is asked for, until it is aborted.
async fn work(shared: Arc<Shared>) {
    loop {
        let batch = shared.state().take();
        let Some((tickets, doomed)) = batch else {
            shared.wake.notified().await;
            continue;
        };
        let mut done = Evicted::default();
        let result = {
            let watch = |failure: &RedisFailure| shared.state().trouble = Some(failure.clone());
            let mut retry = Retry::endless(&watch);
            let evictions = shared.layout.evictions(&doomed);
            shared.redis.lock().await.evict_with(&evictions, &mut retry, &mut done, &mut |_| ()).await
        };
        let has_failed = result.is_err();
        shared.settle(tickets, done, &result);
        if has_failed {
            tokio::time::sleep(LATER).await;
        }
    }
}
