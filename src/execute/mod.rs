//! Carries a plan out: stage 1 (image streams and their links), stage 2 (images and their blobs).
//!
//! The order is that of `docs/decision.md`: for each stream its status, then manifest links, then layer links; when
//! all streams are done, for each image its blobs, its manifest, then the Image object. What is decided here anew,
//! because the cluster changed meanwhile, is decided by the same pure functions that made the plan.

mod images;
mod outcome;
mod streams;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{RwLock, Semaphore, watch};

pub use outcome::{Change, FailedObject, Outcome, Spared};

use crate::cache::replicas::Evictor;
use crate::cluster::Cluster;
use crate::error::Failure;
use crate::inventory;
use crate::model::{Id, Inventory};
use crate::plan::{ImageDecision, ImageVerdict, Plan, Stage2, decide_images, missing_images};
use crate::registry::Registry;
use outcome::Ledger;

/// A signal that ends the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT (Ctrl-C).
    Interrupt,
    /// SIGTERM.
    Terminate,
}

/// What a plan is carried out with.
pub struct Tools<'a> {
    /// The API server.
    pub cluster: &'a Cluster,
    /// The registry; absent with `--prune-registry=false`.
    pub registry: Option<&'a Registry>,
    /// Makes the registry's replicas forget each blob as it goes, where they can be reached.
    pub evictor: Option<&'a Evictor>,
    /// How many requests are on their way at once.
    pub workers: usize,
    /// Becomes something when the run is to end: what is in flight is finished, nothing new is started.
    pub stop: watch::Receiver<Option<Signal>>,
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
    permits: Semaphore,
    ledger: Ledger<'a>,
    stopped: AtomicBool,
    /// The registry deletes no links at all: what goes on would leave links that nobody knows of any longer.
    refused: AtomicBool,
}

/// Carries the plan out. Failures of single objects do not stop the others.
pub async fn execute(tools: Tools<'_>, plan: &Plan, inventory: Inventory) -> Outcome {
    let planned: BTreeSet<Id> = inventory
        .images
        .all()
        .iter()
        .zip(&plan.images)
        .filter(|(_, decision)| decision.verdict == ImageVerdict::Delete)
        .map(|(image, _)| image.name)
        .collect();
    let run = Run {
        ledger: Ledger::new(tools.tell),
        permits: Semaphore::new(tools.workers),
        tools,
        plan,
        inventory: RwLock::new(inventory),
        stopped: AtomicBool::new(false),
        refused: AtomicBool::new(false),
    };
    let removed = run.streams().await;
    let candidates: BTreeSet<Id> = planned.union(&removed).copied().collect();
    if plan.stage2 == Stage2::Runs && !candidates.is_empty() && run.goes_on() {
        run.second_stage(&planned, &candidates).await;
    }
    let signal = if run.stopped.load(Ordering::Relaxed) { *run.tools.stop.borrow() } else { None };
    run.ledger.finish(signal)
}

impl Run<'_> {
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

    /// Stage 2, from the streams as they are now.
    async fn second_stage(&self, planned: &BTreeSet<Id>, candidates: &BTreeSet<Id>) {
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
        for (image, decision) in inventory.images.all().iter().zip(&decisions) {
            if planned.contains(&image.name) && decision.verdict != ImageVerdict::Delete {
                let object = inventory.names.text(image.name).into_owned();
                self.ledger.spared(Spared { object, reason: "referencedNewly" });
            }
        }
        self.images(&inventory, &decisions).await;
    }

    async fn decide_again(&self, candidates: &BTreeSet<Id>) -> Result<Vec<ImageDecision>, Failure> {
        let mut inventory = self.inventory.write().await;
        inventory::reread_streams(self.tools.cluster, &mut inventory).await?;
        let missing = missing_images(&inventory, &self.plan.rules, &inventory.streams);
        inventory::add_appeared(self.tools.cluster, &mut inventory, &missing).await?;
        let all = inventory.images.all();
        match decide_images(&inventory, self.plan, |position| candidates.contains(&all[position].name)) {
            (decisions, Stage2::Runs) => Ok(decisions),
            _ => Err(Failure::nothing_changed("an image without metadata appeared meanwhile")),
        }
    }
}
