//! Read-only mode for as long as something is done behind the registry's back: switched on, followed until every pod that
//! serves is read-only, and put back to what it was.
//!
//! Where an operator manages the registry, its `spec.readOnly` says it; elsewhere a variable of the registry's container.
//! What was there before is written into an annotation of the same object by the same update, so that there is no moment
//! in which one is changed and the other not: whoever is killed in between leaves enough for the next run to put it back.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::detect::{Need, Place, Rule, WorkloadKind};
use super::settings::{self, READ_ONLY, registry_container};
use super::{Goal, Operator, Pace, Proof, Rollout, RolloutFailure, Stop, Tell, Way};
use crate::cluster::{ApiError, Cluster};
use crate::error::{Exit, Failure};
use crate::text::{brief, quoted};

/// The annotation that keeps what was there before: of the operator's configuration, or of the workload.
pub const KEPT: &str = "prune-images/read-only-before";

/// The value that the documentation of OpenShift gives.
const ON: &str = "{\"enabled\":true}";

/// What the annotation keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Which run has switched it on, or has taken it over from one that did.
    pub run: String,
    /// Who that is, for people.
    pub by: String,
    /// Since when (RFC 3339).
    pub since: String,
    /// `spec.readOnly` as it was, or the entry of the environment; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<Value>,
    /// The container whose environment was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Where the entry stood. `$(NAME)` refers only to what stands above.
    #[serde(default)]
    pub at: usize,
}

/// A run that switches it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Tells it from any other run.
    pub run: String,
    /// Who that is, for people.
    pub by: String,
    /// Now (RFC 3339).
    pub since: String,
}

/// Where it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SetIn {
    /// `spec.readOnly` of the operator's configuration.
    Operator,
    /// The environment of the workload's container.
    Workload,
}

/// How it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Whether it is on, as far as the objects say.
    pub on: bool,
    /// What a run has kept that has not put it back, or not yet.
    pub kept: Option<Kept>,
    /// Where it is set, for people.
    pub set_in: String,
    /// The rights that it takes to switch it.
    pub rights: Vec<Rule>,
}

impl State {
    /// Whether somebody else has it on, who will want it to stay on.
    #[must_use]
    pub fn is_anothers(&self) -> bool {
        self.on && self.kept.is_none()
    }
}

/// How it was put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Back {
    /// There was nothing to put back.
    Nothing,
    /// Another run has taken it over, and puts it back.
    Anothers(Kept),
    /// No pod that was read-only serves any more.
    Proven(Proof),
}

/// The switch of one registry.
#[derive(Debug)]
pub struct ReadOnly<'a> {
    cluster: &'a Cluster,
    place: Place,
    timeout: Duration,
    pace: Pace,
}

impl<'a> ReadOnly<'a> {
    /// The registry at this place; each rollout may take `timeout`.
    #[must_use]
    pub fn new(cluster: &'a Cluster, place: &Place, timeout: Duration, patience: Pace) -> Self {
        Self { cluster, place: place.clone(), timeout, pace: patience }
    }

    async fn open<'t>(&'t self, tell: Tell<'t>) -> Result<Opened<'t>, Failure> {
        let rollout = Rollout::open(self.cluster, &self.place, self.timeout, self.pace, tell).await?;
        let operator = rollout.persist(|| rollout.api.operator()).await;
        let operator = operator.map_err(|stop| self.failure(&stop, "read the operator's configuration"))?;
        let (name, namespace) = (rollout.api.name(), rollout.api.place().namespace.clone());
        let set_in = match &operator {
            Operator::Is(state) if state == "Managed" => SetIn::Operator,
            Operator::Is(state) if state == "Unmanaged" => SetIn::Workload,
            Operator::Absent => SetIn::Workload,
            Operator::Is(state) => {
                return Err(Failure::nothing_changed(format!(
                    "find out how read-only mode is switched: the operator's managementState is {}",
                    brief(state)
                )));
            }
            Operator::Hidden => {
                return Err(Failure::nothing_changed(
                    "find out how read-only mode is switched: the operator's configuration may not be read: an operator that is Managed would turn a change of the deployment back",
                )
                .hint(format!("the right that shows it: {}", Need::see_operator().rule))
                .hint(format!("have an administrator give it: {}", Need::see_operator().rule.command())));
            }
        };
        if set_in == SetIn::Workload && rollout.api.kind() == WorkloadKind::DeploymentConfig {
            return Err(Failure::nothing_changed(format!("switch read-only mode: {name} is no Deployment")).hint(
                format!("switch it on by hand, and off afterwards: oc set env {name} -n {namespace} {READ_ONLY}={}", quoted(ON)),
            ));
        }
        Ok(Opened { rollout, set_in })
    }

    /// How it is now.
    ///
    /// # Errors
    /// It cannot be found out: exit code 1.
    pub async fn state(&self) -> Result<State, Failure> {
        let opened = self.open(&|_| ()).await?;
        let object = opened.rollout.persist(|| opened.read()).await;
        let object = object.map_err(|stop| self.failure(&stop, &format!("read {}", opened.name())))?;
        let kept = kept(&object).map_err(|why| opened.unreadable(&why))?;
        Ok(State { on: opened.is_on(&object), kept, set_in: opened.name(), rights: opened.rights() })
    }

    /// Switches it on in this run's name, or takes over what an earlier one has kept, and returns once every pod that
    /// serves is read-only.
    ///
    /// # Errors
    /// Exit code 1 if nothing was changed; [`Exit::Failures`] if it is on, or may be, and not every pod is read-only.
    pub async fn switch_on(&self, holder: &Holder, tell: Tell<'_>) -> Result<Proof, Failure> {
        let opened = self.open(tell).await?;
        let rollout = &opened.rollout;
        let before = rollout
            .persist(|| rollout.api.look())
            .await
            .map_err(|stop| self.failure(&stop, "list the registry's pods"))?;
        let set = async || {
            let object = opened.read().await?;
            let mut changed = object.clone();
            opened.turn_on(&mut changed, holder)?;
            if changed == object { Ok(()) } else { opened.write(&changed).await }
        };
        rollout.persist(set).await.map_err(|stop| {
            let failure = self.failure(&stop, "switch read-only mode on");
            // What had no answer may have been done.
            if matches!(stop, Stop::Timeout(_)) {
                Failure { exit: Exit::Failures, ..failure }
            } else {
                failure
            }
        })?;
        let mut follower = rollout.follower(Goal::ReadOnly(true), &before, true);
        if opened.set_in == SetIn::Workload {
            follower.asked();
        }
        rollout
            .follow(&mut follower, vec![Way::Evict], true)
            .await
            .map_err(|failure| changed(failure, "switch read-only mode on"))
    }

    /// Puts it back to what it was, and returns once no pod that was read-only serves any more. `run` is whose it has to
    /// be; anybody's if absent.
    ///
    /// # Errors
    /// It is, or may be, as it was before the call, or not every pod is replaced yet: [`Exit::CacheMayLie`].
    pub async fn put_back(&self, run: Option<&str>, tell: Tell<'_>) -> Result<Back, Failure> {
        let failed = |failure: Failure| Failure { exit: Exit::CacheMayLie, ..failure };
        let opened = self.open(tell).await.map_err(failed)?;
        let rollout = &opened.rollout;
        let before = rollout
            .persist(|| rollout.api.look())
            .await
            .map_err(|stop| failed(self.failure(&stop, "list the registry's pods")))?;
        let set = async || {
            let object = opened.read().await?;
            let Some(kept) = kept(&object).map_err(|message| ApiError::Invalid { message })? else {
                return Ok(Some(Back::Nothing));
            };
            if run.is_some_and(|run| run != kept.run) {
                return Ok(Some(Back::Anothers(kept)));
            }
            let mut changed = object.clone();
            opened.turn_back(&mut changed, &kept)?;
            opened.write(&changed).await.map(|()| None)
        };
        match rollout.persist(set).await {
            // The second try of an update that was made, but not answered, finds nothing left to put back.
            Ok(Some(Back::Nothing)) if run.is_none() => return Ok(Back::Nothing),
            Ok(Some(back @ Back::Anothers(_))) => return Ok(back),
            Ok(_) => {}
            Err(stop) => return Err(failed(self.failure(&stop, "put read-only mode back"))),
        }
        let mut follower = rollout.follower(Goal::ReadOnly(false), &before, true);
        if opened.set_in == SetIn::Workload {
            follower.asked();
        }
        let proof = rollout.follow(&mut follower, vec![Way::Evict], true).await;
        proof.map(Back::Proven).map_err(|failure| failed(changed(failure, "put read-only mode back")))
    }

    fn failure(&self, stop: &Stop, doing: &str) -> Failure {
        match stop {
            Stop::Error(error) => self.cluster.failure(error, doing),
            Stop::Timeout(_) => Failure::nothing_changed(format!("{doing}: {stop}")),
        }
    }

    /// The command that puts it back by hand, if nothing else does.
    #[must_use]
    pub fn by_hand(&self, state: &State) -> String {
        if state.set_in.starts_with("configs.") {
            format!("oc patch {} --type=merge -p '{{\"spec\":{{\"readOnly\":false}}}}'", state.set_in)
        } else {
            format!("oc set env {} -n {} {READ_ONLY}-", state.set_in, self.place.namespace)
        }
    }
}

fn changed(failure: RolloutFailure, doing: &str) -> Failure {
    let message = format!("{doing}: {}", failure.message);
    Failure { exit: Exit::Failures, message, hints: failure.hints }
}

/// A switch whose objects were found.
struct Opened<'a> {
    rollout: Rollout<'a>,
    set_in: SetIn,
}

impl Opened<'_> {
    /// The object that says it, as `oc` names it.
    fn name(&self) -> String {
        match self.set_in {
            SetIn::Operator => "configs.imageregistry.operator.openshift.io/cluster".to_owned(),
            SetIn::Workload => self.rollout.api.name(),
        }
    }

    fn rights(&self) -> Vec<Rule> {
        match self.set_in {
            SetIn::Operator => vec![Need::see_operator().rule, Need::configure().rule],
            SetIn::Workload => {
                let (kind, place) = (self.rollout.api.kind(), self.rollout.api.place());
                vec![Need::read_workload(kind, place).rule, Need::switch_off(kind, place).rule]
            }
        }
    }

    async fn read(&self) -> Result<Value, ApiError> {
        match self.set_in {
            SetIn::Operator => self.rollout.api.operator_config().await,
            SetIn::Workload => self.rollout.api.workload().await,
        }
    }

    async fn write(&self, object: &Value) -> Result<(), ApiError> {
        match self.set_in {
            SetIn::Operator => self.rollout.api.put_operator_config(object).await,
            SetIn::Workload => self.rollout.api.put_workload(object).await,
        }
    }

    fn is_on(&self, object: &Value) -> bool {
        match self.set_in {
            SetIn::Operator => object["spec"]["readOnly"] == true,
            SetIn::Workload => settings::Settings::of(settings::containers(object), None).is_read_only(),
        }
    }

    fn turn_on(&self, object: &mut Value, holder: &Holder) -> Result<(), ApiError> {
        let earlier = kept(object).map_err(|message| ApiError::Invalid { message })?;
        if earlier.is_none() && self.is_on(object) {
            return Ok(());
        }
        let Holder { run, by, since } = holder.clone();
        let mut keep =
            earlier.unwrap_or(Kept { run: String::new(), by, since, was: None, container: None, at: 0 });
        let is_first = keep.run.is_empty();
        keep.run = run;
        match self.set_in {
            SetIn::Operator => {
                if is_first {
                    keep.was = Some(object["spec"]["readOnly"].clone()).filter(|was| !was.is_null());
                }
                object["spec"]["readOnly"] = true.into();
            }
            SetIn::Workload => {
                let containers = settings::containers(object);
                let index = registry_container(containers, keep.container.as_deref());
                let Some(index) = index else { return Err(no_container()) };
                let container = containers[index]["name"].as_str().unwrap_or_default().to_owned();
                let env = env(object, index)?;
                let at = env.iter().rposition(|entry| entry["name"] == READ_ONLY);
                if is_first {
                    keep.was = at.map(|at| env[at].clone());
                    keep.at = at.unwrap_or(env.len());
                    keep.container = Some(container);
                }
                let entry = json!({ "name": READ_ONLY, "value": ON });
                match at {
                    Some(at) => env[at] = entry,
                    None => env.push(entry),
                }
            }
        }
        annotate(object, Some(&keep));
        Ok(())
    }

    fn turn_back(&self, object: &mut Value, kept: &Kept) -> Result<(), ApiError> {
        // What somebody has switched off meanwhile stays off.
        if self.is_on(object) {
            match self.set_in {
                SetIn::Operator => match (&kept.was, object["spec"].as_object_mut()) {
                    (Some(was), Some(spec)) => {
                        spec.insert("readOnly".to_owned(), was.clone());
                    }
                    (None, Some(spec)) => {
                        spec.shift_remove("readOnly");
                    }
                    (_, None) => {}
                },
                SetIn::Workload => {
                    let index = registry_container(settings::containers(object), kept.container.as_deref());
                    let env = env(object, index.ok_or_else(no_container)?)?;
                    if let Some(at) = env.iter().rposition(|entry| entry["name"] == READ_ONLY) {
                        env.remove(at);
                    }
                    if let Some(was) = &kept.was {
                        env.insert(kept.at.min(env.len()), was.clone());
                    }
                }
            }
        }
        annotate(object, None);
        Ok(())
    }

    fn unreadable(&self, why: &str) -> Failure {
        let name = self.name();
        Failure::nothing_changed(format!("read {name}: {why}"))
            .hint(format!("without the annotation nothing is put back: oc annotate {name} {KEPT}-"))
    }
}

fn no_container() -> ApiError {
    ApiError::Invalid { message: "its pod template has no container of the registry".to_owned() }
}

fn env(object: &mut Value, container: usize) -> Result<&mut Vec<Value>, ApiError> {
    let env = &mut object["spec"]["template"]["spec"]["containers"][container]["env"];
    if !env.is_array() {
        *env = json!([]);
    }
    env.as_array_mut().ok_or_else(no_container)
}

/// Reads the annotation; or why it cannot be read.
fn kept(object: &Value) -> Result<Option<Kept>, String> {
    let Some(text) = object["metadata"]["annotations"][KEPT].as_str() else { return Ok(None) };
    let kept = serde_json::from_str(text);
    kept.map(Some).map_err(|error| brief(&format!("the annotation {KEPT} cannot be read: {error}")))
}

fn annotate(object: &mut Value, kept: Option<&Kept>) {
    match kept {
        Some(kept) => {
            let annotations = &mut object["metadata"]["annotations"];
            if !annotations.is_object() {
                *annotations = json!({});
            }
            annotations[KEPT] = json!(kept).to_string().into();
        }
        None => {
            if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
                annotations.shift_remove(KEPT);
            }
        }
    }
}
