//! What keeps the registry's pods as its Deployment wants them: the controllers of a cluster, a scheduler and nodes.
//!
//! Each acts on its own, a while after what it sees has changed. How long a while is comes from a seed, so that a test
//! that runs with many seeds meets the orders in which a cluster does things, and can meet one of them again.

mod deployment;
mod endpoints;
mod node;
mod operator;
mod service;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::api::{Settings, Store};
use crate::cluster::Running;
use crate::lock;
use crate::workload::NAMESPACE;

pub use operator::Operator;

pub(crate) use service::serve as serve_service;

/// How fast things happen in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From a pod that has a node to its container that runs; a container that crashes waits twice as long each time.
    pub start: Duration,
    /// From a container that runs to a pod that is ready.
    pub ready: Duration,
    /// How long a pod still serves that is being deleted.
    pub terminate: Duration,
    /// From a change of the pods to the endpoints that say so.
    pub endpoint_lag: Duration,
    /// Each of these, and each step of a controller, takes up to this much longer.
    pub jitter: Duration,
    /// What the jitter and all choices come from.
    pub seed: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            start: Duration::from_millis(5),
            ready: Duration::from_millis(10),
            terminate: Duration::from_millis(10),
            endpoint_lag: Duration::from_millis(3),
            jitter: Duration::from_millis(5),
            seed: 0,
        }
    }
}

impl Pace {
    /// The same, from another seed.
    #[must_use]
    pub fn seeded(self, seed: u64) -> Self {
        Self { seed, ..self }
    }
}

/// What tests do to the nodes; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    state: Arc<Mutex<Weather>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Weather {
    unschedulable: Option<String>,
    unready: bool,
    pace: Option<Pace>,
    /// Pods, by name, whose containers have just crashed.
    crashed: Vec<String>,
}

impl Nodes {
    /// Lets no further pod be scheduled, for the reason that it is to be told, until that is `None` again.
    pub fn unschedulable(&self, message: Option<&str>) {
        self.change(|weather| weather.unschedulable = message.map(ToOwned::to_owned));
    }

    /// Lets no further pod become ready, until that is over.
    pub fn unready(&self, unready: bool) {
        self.change(|weather| weather.unready = unready);
    }

    /// Goes on at another pace; its seed counts for nothing.
    pub fn set_pace(&self, pace: Pace) {
        self.change(|weather| weather.pace = Some(pace));
    }

    pub(crate) fn crash(&self, pod: &str) {
        self.change(|weather| weather.crashed.push(pod.to_owned()));
    }

    fn change(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut lock(&self.state));
        self.changed.notify_one();
    }
}

/// Chance, and how long things take.
#[derive(Debug)]
struct Dice {
    random: Rng,
    pace: Pace,
}

impl Dice {
    /// The moment this much later, or a little after that.
    fn after(&mut self, pause: Duration, now: Instant) -> Instant {
        now + pause + self.up_to(self.pace.jitter)
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.random.f64())
    }
}

/// All that acts on the registry's objects.
pub(crate) struct Controllers {
    running: Arc<Running>,
    store: Store,
    dice: Dice,
    /// When each controller looks at what has changed; `None` if nothing has.
    deployments_due: Option<Instant>,
    replica_sets_due: Option<Instant>,
    operator_due: Option<Instant>,
    rollout: deployment::Rollout,
    pods: HashMap<String, node::Pod>,
    /// What the endpoints are going to be, and when.
    endpoints: VecDeque<(Instant, endpoints::Endpoints)>,
    /// What the endpoints are.
    told: Option<endpoints::Endpoints>,
    operator: Option<Operator>,
}

impl Controllers {
    pub(crate) fn new(running: Arc<Running>, pace: Pace, operator: Option<Operator>) -> Self {
        let dice = Dice { random: Rng::with_seed(pace.seed), pace };
        Self {
            store: running.api().store().clone(),
            running,
            dice,
            deployments_due: None,
            replica_sets_due: None,
            operator_due: None,
            rollout: deployment::Rollout::default(),
            pods: HashMap::new(),
            endpoints: VecDeque::new(),
            told: None,
            operator,
        }
    }

    /// How an API server has to behave that has nodes.
    pub(crate) fn settings(settings: &mut Settings) {
        settings.nodes = true;
    }

    /// Acts until the cluster ends.
    pub(crate) async fn run(mut self) {
        let nodes = self.running.nodes().clone();
        let mut revisions = self.store.subscribe();
        let mut seen = 0;
        loop {
            revisions.borrow_and_update();
            let now = Instant::now();
            let (changed, revision) = self.store.touched(seen, watched);
            seen = revision;
            if changed {
                self.notice(now);
            }
            let next = self.act(now);
            tokio::select! {
                result = revisions.changed() => if result.is_err() { return },
                () = nodes.changed.notified() => {}
                () = async { sleep_until(next.unwrap_or(now)).await }, if next.is_some() => {}
            }
        }
    }

    /// Something has changed: each controller looks soon.
    fn notice(&mut self, now: Instant) {
        for due in [&mut self.deployments_due, &mut self.replica_sets_due] {
            if due.is_none() {
                *due = Some(self.dice.after(Duration::ZERO, now));
            }
        }
        if let (Some(operator), None) = (&self.operator, self.operator_due) {
            self.operator_due = Some(now + self.dice.up_to(operator.delay));
        }
        let wanted = endpoints::Endpoints::of(&self.store);
        let newest = self.endpoints.back().map(|(_, newest)| newest).or(self.told.as_ref());
        if newest != Some(&wanted) {
            let due = self.dice.after(self.dice.pace.endpoint_lag, now);
            // They are told in order.
            let due = self.endpoints.back().map_or(due, |(earlier, _)| due.max(*earlier));
            self.endpoints.push_back((due, wanted));
        }
    }

    /// Does all that is due, and returns when something is next.
    fn act(&mut self, now: Instant) -> Option<Instant> {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if let Some(pace) = lock(&self.running.nodes().state).pace.take() {
            self.dice.pace = pace;
        }
        if is_due(self.operator_due) {
            self.operator_due = None;
            operator::sync(&self.store);
        }
        if is_due(self.deployments_due) || is_due(self.rollout.deadline) {
            self.deployments_due = None;
            self.rollout.sync(&self.store, now);
        }
        if is_due(self.replica_sets_due) {
            self.replica_sets_due = None;
            deployment::sync_replica_sets(self.running.api(), &mut self.dice.random);
            budgets(&self.store);
        }
        while self.endpoints.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, endpoints)) = self.endpoints.pop_front() {
                endpoints.write(&self.store);
                self.told = Some(endpoints);
            }
        }
        let pods_due = self.live(now);
        [self.operator_due, self.deployments_due, self.replica_sets_due, self.rollout.deadline, pods_due]
            .into_iter()
            .chain([self.endpoints.front().map(|(due, _)| *due)])
            .flatten()
            .min()
    }
}

/// Whether a change of this object can mean something to a controller.
fn watched(plural: &str, key: &str) -> bool {
    match plural {
        "pods"
        | "replicasets"
        | "deployments"
        | "services"
        | "secrets"
        | "configmaps"
        | "poddisruptionbudgets" => key.split_once('/').is_some_and(|(namespace, _)| namespace == NAMESPACE),
        "configs" => true,
        _ => false,
    }
}

/// Writes the status of the budgets.
fn budgets(store: &Store) {
    for budget in store.in_namespace("poddisruptionbudgets", NAMESPACE) {
        let status = crate::api::evict::budget_status(store, &budget);
        let name = crate::api::metadata(&budget, "name");
        store.update("poddisruptionbudgets", NAMESPACE, name, |budget| budget["status"] = status);
    }
}

/// Changes a condition; one that keeps its status keeps the time of its last transition.
fn set_condition(conditions: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
    let time = crate::api::now();
    if !conditions.is_array() {
        *conditions = Value::Array(Vec::new());
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    let mut new = serde_json::json!({ "type": kind, "status": status, "lastTransitionTime": time });
    for (field, text) in [("reason", reason), ("message", message)] {
        if !text.is_empty() {
            new[field] = text.into();
        }
    }
    match conditions.iter_mut().find(|condition| condition["type"] == kind) {
        Some(condition) => {
            if condition["status"] == status {
                new["lastTransitionTime"] = condition["lastTransitionTime"].take();
            }
            *condition = new;
        }
        None => conditions.push(new),
    }
}

/// The objects among these whose controller is the one with this UID.
fn owned(objects: Vec<Value>, uid: &str) -> Vec<Value> {
    objects.into_iter().filter(|object| owner(object).is_some_and(|owner| owner["uid"] == uid)).collect()
}

/// The owner of an object that controls it.
fn owner(object: &Value) -> Option<&Value> {
    object["metadata"]["ownerReferences"].as_array()?.iter().find(|owner| owner["controller"] == true)
}

/// A reference to the owner that controls an object.
fn owner_reference(kind: &str, owner: &Value) -> Value {
    serde_json::json!([{
        "apiVersion": "apps/v1", "kind": kind,
        "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": true,
    }])
}
