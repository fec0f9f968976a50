//! Carries a plan out: stage 1 (image streams and their links), stage 2 (images and their blobs).
//!
//! The order is that of `docs/decision.md`: for each stream its status, then manifest links, then layer links; when
//! all streams are done, for each image its blobs, its manifest, then the Image object. What is decided here anew,
//! because the cluster changed meanwhile, is decided by the same pure functions that made the plan.

mod aftermath;
mod images;
mod leftovers;
mod outcome;
mod streams;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::{RwLock, watch};

pub use aftermath::{Executed, Meanwhile, broken_images};
pub use outcome::{BrokenImage, Change, FailedObject, Outcome, Spared};

use crate::cache::CacheStep;
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::inventory::{self, News, Scope};
use crate::journal::Journal;
use crate::model::{Id, Inventory};
use crate::plan::{
    Guard, Holder, ImageDecisions, ImageVerdict, ItemVerdict, Plan, Repositories, Stage2, decide_images,
    missing_images,
};
use crate::registry::{Registry, RegistryError};
use crate::throttle::{Throttle, law};
use outcome::Ledger;

/// A signal that ends the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT (Ctrl-C).
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP: the terminal went away.
    HangUp,
}

impl Signal {
    /// `SIGINT`, `SIGTERM` or `SIGHUP`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::HangUp => "SIGHUP",
        }
    }

    /// How a run ends that it has ended.
    #[must_use]
    pub fn exit(self) -> Exit {
        match self {
            Self::Interrupt => Exit::Interrupted,
            Self::Terminate | Self::HangUp => Exit::Terminated,
        }
    }
}

/// Why a run ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Somebody asked for it.
    Signal(Signal),
    /// `--timeout`.
    Timeout,
    /// Another run may have begun.
    LostLock,
}

impl Stop {
    /// The word for it in documents: `SIGINT`, `SIGTERM`, `SIGHUP`, `timeout`, `lostLock`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Signal(signal) => signal.name(),
            Self::Timeout => "timeout",
            Self::LostLock => "lostLock",
        }
    }
}

/// What a plan is carried out with.
pub struct Tools<'a> {
    /// The API server.
    pub cluster: &'a Cluster,
    /// What was read for the plan: referrers are read again before images go.
    pub scope: &'a Scope,
    /// The registry; absent with `--prune-registry=false`.
    pub registry: Option<&'a Registry>,
    /// Makes the registry's caches forget each link and blob as it goes.
    pub caches: Option<&'a CacheStep>,
    /// How many requests are on their way at once, to both servers together; if it is not given, each server's number
    /// follows its answers.
    pub workers: Option<NonZeroUsize>,
    /// Which repositories had the blobs that go; empty where no cache has to forget them.
    pub repositories: Repositories,
    /// What is seen of the cluster while the plan is carried out.
    pub news: Option<&'a News>,
    /// Becomes something when the run is to end: what is in flight is finished, nothing new is started.
    pub stop: watch::Receiver<Option<Stop>>,
    /// Hears of each stream before it is updated.
    pub journal: Option<&'a Journal>,
    /// Hears of every change once the server has confirmed it, and of every failure.
    pub tell: &'a (dyn Fn(Event<'_>) + Sync),
}

/// What happens while a plan is carried out.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The server confirmed this change.
    Changed(&'a Change),
    /// This object could not be pruned.
    Failed(&'a FailedObject),
    /// This was planned, and stays because of what happened meanwhile.
    Spared(&'a Spared),
}

struct Run<'a> {
    tools: Tools<'a>,
    plan: &'a Plan,
    /// What is known of the cluster; grows when streams change and images appear.
    inventory: RwLock<Inventory>,
    api: Throttle,
    registry: Throttle,
    /// How many streams or images are begun and not done, at most. More than requests may be on their way: one that is
    /// slow, or has to be tried again, must not hold the others back.
    most_open: usize,
    /// What became needed since the lists were read.
    guard: Mutex<Guard>,
    ledger: Ledger<'a>,
    stopped: AtomicBool,
    /// The registry does not delete: what goes on would leave links that nobody knows of any longer.
    refused: AtomicBool,
    /// How many deletions in a row got no answer, or a server error.
    unanswered: AtomicUsize,
    /// What a link could not be deleted of.
    linked: Mutex<BTreeSet<Id>>,
}

/// After so many deletions in a row without an answer the registry counts as gone.
const UNANSWERED: usize = 5;

/// Carries the plan out. Failures of single objects do not stop the others.
pub async fn execute(tools: Tools<'_>, plan: &Plan, inventory: Inventory) -> Executed {
    let versions =
        inventory.streams.iter().map(|stream| (stream.repository(), stream.resource_version.clone()));
    let before = versions.collect();
    let planned: BTreeSet<Id> = inventory
        .images
        .all()
        .iter()
        .zip(&plan.images)
        .filter(|(_, decision)| decision.verdict == ImageVerdict::Delete)
        .map(|(image, _)| image.name)
        .collect();
    let [api, registry] = Throttle::of_servers(tools.workers);
    let run = Run {
        ledger: Ledger::new(tools.tell),
        api,
        registry,
        most_open: tools.workers.map_or(law::MOST, NonZeroUsize::get).saturating_mul(2),
        tools,
        plan,
        inventory: RwLock::new(inventory),
        guard: Mutex::default(),
        stopped: AtomicBool::new(false),
        refused: AtomicBool::new(false),
        unanswered: AtomicUsize::new(0),
        linked: Mutex::default(),
    };
    let removed = run.streams().await;
    run.leftover_links().await;
    let candidates: BTreeSet<Id> = planned.union(&removed).copied().collect();
    let something_goes = !candidates.is_empty() || !plan.leftovers.blobs.is_empty();
    if plan.stage2 == Stage2::Runs && something_goes && run.goes_on() {
        run.second_stage(&planned, &removed, &candidates).await;
    }
    let stop = if run.stopped.load(Ordering::Relaxed) { *run.tools.stop.borrow() } else { None };
    Executed {
        outcome: run.ledger.finish(stop),
        inventory: run.inventory.into_inner(),
        before,
        guard: run.guard.into_inner().unwrap_or_else(PoisonError::into_inner),
        rules: plan.rules.clone(),
    }
}

impl Run<'_> {
    /// Asks the guard, which first takes in what was seen since it was asked last.
    fn guard<T>(&self, inventory: &Inventory, ask: impl FnOnce(&mut Guard) -> T) -> T {
        // A panic elsewhere leaves it as complete as it was.
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        for seen in self.tools.news.map(News::take).unwrap_or_default() {
            guard.learn(inventory, &self.plan.rules, &seen);
        }
        ask(&mut guard)
    }

    /// Notes that something stays because of who needs it by now.
    fn spare(&self, object: String, by: Holder) {
        self.ledger.spared(Spared { object, reason: "referencedNewly", by: Some(by) });
    }

    /// Whether anything new may be started.
    fn goes_on(&self) -> bool {
        if self.refused.load(Ordering::Relaxed) {
            return false;
        }
        let goes_on = self.tools.stop.borrow().is_none();
        if !goes_on {
            self.stopped.store(true, Ordering::Relaxed);
        }
        goes_on
    }

    /// Nothing new is started once the registry refuses to delete, or is not there.
    fn registry_failed(&self, error: &RegistryError) {
        let refused = match error {
            RegistryError::DeletionDisabled
            | RegistryError::ReadOnly
            | RegistryError::Unauthorized { .. }
            | RegistryError::Token(_) => true,
            RegistryError::Unavailable { .. } | RegistryError::Connection { .. } => {
                self.unanswered.fetch_add(1, Ordering::Relaxed) + 1 >= UNANSWERED
            }
            RegistryError::InvalidName { .. }
            | RegistryError::StillListedOrDisabled
            | RegistryError::Unexpected { .. } => false,
        };
        if refused {
            self.refused.store(true, Ordering::Relaxed);
        }
    }

    /// The next run tries again what the journal knows of, and the registry deletes no link of what is gone.
    fn link_failed(&self, id: Id) {
        if self.tools.journal.is_some() {
            self.linked.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        }
    }

    /// What has to stay because of a link.
    fn linked(&self) -> BTreeSet<Id> {
        self.linked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn registry_answered(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
    }

    /// Stage 2, from the streams as they are now.
    async fn second_stage(&self, planned: &BTreeSet<Id>, removed: &BTreeSet<Id>, candidates: &BTreeSet<Id>) {
        let decisions = match self.decide_again(candidates).await {
            Ok(decisions) => decisions,
            Err(failure) => {
                self.ledger.failed(FailedObject {
                    failed: "read image streams again",
                    cause: failure.message,
                    object: "all images".into(),
                    hints: failure.hints,
                });
                return;
            }
        };
        let inventory = self.inventory.read().await;
        // Images whose items were to go and did not: their stream could not be updated.
        let left: BTreeSet<Id> = self
            .plan
            .streams
            .iter()
            .flat_map(|stream| &stream.items)
            .filter(|item| matches!(item.verdict, ItemVerdict::Remove(_)) && !removed.contains(&item.image))
            .map(|item| item.image)
            .collect();
        for (image, decision) in inventory.images.all().iter().zip(&decisions) {
            if planned.contains(&image.name) && decision.verdict != ImageVerdict::Delete {
                let object = inventory.names.text(image.name).into_owned();
                let by = self.guard(&inventory, |guard| guard.image(image.name).cloned());
                let is_left = by.is_none() && left.contains(&image.name);
                let reason = if is_left { "failedRemoval" } else { "referencedNewly" };
                self.ledger.spared(Spared { object, reason, by });
            }
        }
        self.images(&inventory, &decisions).await;
        self.leftover_blobs(&inventory).await;
    }

    async fn decide_again(&self, candidates: &BTreeSet<Id>) -> Result<ImageDecisions, Failure> {
        let mut inventory = self.inventory.write().await;
        inventory::reread_streams(self.tools.cluster, &mut inventory).await?;
        inventory::reread_referrers(self.tools.cluster, self.tools.scope, &mut inventory).await?;
        let missing = missing_images(&inventory, &self.plan.rules, &inventory.streams);
        inventory::add_appeared(self.tools.cluster, &mut inventory, &missing).await?;
        let all = inventory.images.all();
        match decide_images(&inventory, &self.plan.rules, |position| candidates.contains(&all[position].name))
        {
            (decisions, Stage2::Runs) => Ok(decisions),
            _ => Err(Failure::nothing_changed("an image without metadata appeared meanwhile")),
        }
    }
}
