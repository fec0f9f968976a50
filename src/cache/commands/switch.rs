//! The subcommands `cache disable` and `cache enable`: turn the registry's caches off for good, and on again.
//!
//! Every step can be repeated, and what was there before is written down before anything is changed: a run that was
//! interrupted is finished by the next one.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::super::detect::{Place, WorkloadKind};
use super::super::rollout::settings::{self, Kept, OFF, Settings, SettingsError};
use super::super::rollout::{
    Follower, Goal, Operator, Pace, Progress, Proof, Rollout, RolloutFailure, Stop, Way,
};
use crate::cluster::{ApiError, Cluster, ConnectionOptions, Environment};
use crate::error::{Exit, Failure};
use crate::execute::Signal;
use crate::text::{brief, quoted, sanitize};
use crate::ui::Ui;

/// What is typed to have the operator keep its hands off.
const TYPED: &str = "unmanaged";

/// The value of `--set-unmanaged` that needs nobody to type anything.
pub const SPELLED_OUT: &str = "yes-the-registry-gets-no-more-updates";

/// How often a change is made again that was turned back.
const AGAIN: u32 = 3;

/// The state in which the operator keeps its hands off.
const UNMANAGED: &str = "Unmanaged";

/// Which way to turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// `cache disable`.
    Off,
    /// `cache enable`.
    On,
}

impl Turn {
    fn word(self) -> &'static str {
        match self {
            Self::Off => "disable",
            Self::On => "enable",
        }
    }
}

/// Whether the operator may be told to keep its hands off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// No.
    None,
    /// Whoever sits at the terminal decides.
    Ask,
    /// Yes: it was spelled out.
    Given,
}

/// Everything that `cache disable` or `cache enable` was asked for.
#[derive(Debug, Clone)]
pub struct SwitchOptions {
    /// Which cluster, and as whom.
    pub connection: ConnectionOptions,
    /// Where the registry runs.
    pub place: Place,
    /// Which way.
    pub turn: Turn,
    /// `--confirm`: do it, rather than say what would be done.
    pub confirm: bool,
    /// `--cache-timeout`.
    pub timeout: Duration,
    /// `--set-unmanaged`.
    pub set_unmanaged: Consent,
    /// `--redis-is-flushed`.
    pub redis_is_flushed: bool,
    /// `--report`.
    pub report: Option<PathBuf>,
    /// `-v`.
    pub verbosity: u8,
    /// `oc prune-images`, or how else it is called.
    pub program: String,
    /// The command to repeat all this, which begins with `PROGRAM cache WORD --confirm`; without `--set-unmanaged`.
    pub repeat: String,
    /// How often to look; for tests.
    pub pace: Pace,
}

impl SwitchOptions {
    /// The command that repeats this with the same consent.
    fn again(&self) -> String {
        match self.set_unmanaged {
            Consent::None => self.repeat.clone(),
            Consent::Ask => self.with_consent(""),
            Consent::Given => self.with_consent(&format!("={SPELLED_OUT}")),
        }
    }

    fn with_consent(&self, word: &str) -> String {
        self.repeat.replacen(" --confirm", &format!(" --confirm --set-unmanaged{word}"), 1)
    }

    /// The command that undoes `cache disable`.
    fn enable(&self) -> String {
        let (place, connection) = (self.place.flags(), self.connection.writing_flags());
        format!("{} cache enable --confirm{place}{connection}", self.program)
    }
}

/// Turns the caches off or on, or says what would be done.
///
/// # Errors
/// Exit code 1 if nothing was changed; 4 if something was, and it is not proven that it works.
pub async fn switch(options: &SwitchOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    let cluster = Cluster::connect(&options.connection, &Environment::of_process()).await?;
    let cluster = cluster.on_warning(ui.server_warnings());
    let ask = || {
        let (ui, can_ask) = (ui.clone(), std::io::stdin().is_terminal() && std::io::stderr().is_terminal());
        async move { if can_ask { Some(type_word(&ui).await) } else { None } }
    };
    let tell = |progress: &Progress| ui.message(&progress.to_string());
    let done = switch_with(options, &cluster, &tell, ask).await?;
    ui.result(|out| done.lines.iter().try_for_each(|line| writeln!(out, "{line}")));
    for message in &done.messages {
        ui.message(message);
    }
    Ok(Exit::Done)
}

/// What somebody types at the terminal.
async fn type_word(ui: &Ui) -> bool {
    ui.message(&format!(
        "{}\nType {TYPED} to go on, anything else to stop:",
        means_unmanaged("cache enable")
    ));
    // A signal must not wait for what somebody types.
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    matches!(line.await, Ok(Ok(line)) if line.trim() == TYPED)
}

fn means_unmanaged(enable: &str) -> String {
    format!(
        "managementState: {UNMANAGED} means that the operator no longer looks after the registry: an upgrade of the \
         cluster leaves its image as it is, and changes of its storage, certificates, proxy, routes and replicas have \
         no effect, until {enable} puts the state back."
    )
}

/// What was done, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Switched {
    /// For stdout.
    pub lines: Vec<String>,
    /// For stderr.
    pub messages: Vec<String>,
}

/// [`switch`] without a terminal: `ask` is what the one who sits there says, or `None` if nobody does.
///
/// # Errors
/// As [`switch`].
pub async fn switch_with<F, A>(
    options: &SwitchOptions,
    cluster: &Cluster,
    tell: &(dyn Fn(&Progress) + Send + Sync),
    ask: F,
) -> Result<Switched, Failure>
where
    F: Fn() -> A,
    A: Future<Output = Option<bool>>,
{
    let rollout = Rollout::open(cluster, &options.place, options.timeout, options.pace, tell).await?;
    let switch = Switch { options, cluster, rollout };
    let workload = switch.workload().await?;
    let operator = switch.rollout.persist(|| switch.rollout.api.operator()).await;
    let operator =
        operator.map_err(|stop| switch.failure(&stop, "read the operator's configuration", false))?;
    match options.turn {
        Turn::Off => switch.disable(&workload, &operator, ask).await,
        Turn::On => switch.enable(&workload, &operator).await,
    }
}

struct Switch<'a> {
    options: &'a SwitchOptions,
    cluster: &'a Cluster,
    rollout: Rollout<'a>,
}

impl Switch<'_> {
    /// The Deployment, if it is one whose pod template can be changed with effect.
    async fn workload(&self) -> Result<Value, Failure> {
        let api = &self.rollout.api;
        let Place { namespace, .. } = api.place();
        let (name, word) = (api.name(), self.options.turn.word());
        let workload = match self.rollout.persist(|| api.workload()).await {
            Ok(workload) => workload,
            Err(Stop::Error(ApiError::NotFound { .. })) => {
                return Err(Failure::nothing_changed(format!(
                    "{word} the registry's caches: there is no {name} in namespace {namespace}"
                ))
                .hint("name another one: --registry-namespace=NAME --registry-deployment=NAME")
                .hint("a registry that is removed has no caches: oc get configs.imageregistry.operator.openshift.io/cluster -o jsonpath='{.spec.managementState}'"));
            }
            Err(stop) => return Err(self.failure(&stop, &format!("read {name}"), false)),
        };
        if api.kind() == WorkloadKind::DeploymentConfig {
            let set = match self.options.turn {
                Turn::Off => OFF.map(|(name, value)| format!("{name}={value}")),
                Turn::On => OFF.map(|(name, _)| format!("{name}-")),
            };
            return Err(Failure::nothing_changed(format!(
                "{word} the registry's caches: {name} is no Deployment"
            ))
            .hint(format!("do it by hand: oc set env {name} -n {namespace} {}", set.join(" ")))
            .hint(format!(
                "and have it rolled out, if that has not begun: oc rollout latest {name} -n {namespace}"
            )));
        }
        if workload["spec"]["paused"] == true {
            return Err(Failure::nothing_changed(format!(
                "{word} the registry's caches: {name} is paused, so a change has no effect"
            ))
            .hint(format!("end the pause: oc rollout resume {name} -n {namespace}")));
        }
        Ok(workload)
    }

    async fn disable<F, A>(&self, workload: &Value, operator: &Operator, ask: F) -> Result<Switched, Failure>
    where
        F: Fn() -> A,
        A: Future<Output = Option<bool>>,
    {
        let now = settings::current(workload).map_err(|error| self.unfit(&error))?;
        let kept = settings::kept(workload).map_err(|error| self.unfit(&error))?;
        let are_off = settings_of(workload).are_off();
        if !operator.is_hands_off() {
            self.consent(operator, ask).await?;
        }
        let kept = to_keep(kept, &now, operator);
        let mut steps: Vec<String> = Vec::new();
        if let (Some(state), false) = (&kept.management_state, operator.is_hands_off()) {
            steps.push(format!("managementState of the operator: {UNMANAGED} ({} now)", brief(state)));
        }
        if !are_off {
            for (variable, (name, value)) in now.env.iter().zip(OFF) {
                steps.push(format!(
                    "{name}={value} in container {} ({})",
                    brief(&now.container),
                    shown(variable.was.as_ref())
                ));
            }
        }
        if !self.options.confirm {
            return Ok(self.would(&steps));
        }
        // What nobody has changed needs no record of how it was.
        let changes = !steps.is_empty();
        if changes {
            let write_down = || {
                self.edit(
                    move |workload: &mut Value, kept: &Kept| {
                        settings::keep(workload, Some(kept));
                        Ok(())
                    },
                    &kept,
                )
            };
            self.rollout
                .persist(write_down)
                .await
                .map_err(|stop| self.failure(&stop, "keep the old values", false))?;
        }
        if !operator.is_hands_off() {
            self.set_state(None, UNMANAGED)
                .await
                .map_err(|stop| self.failure(&stop, "tell the operator to keep its hands off", true))?;
        }
        // Whatever comes now, nobody may find the operator like that without having been told.
        let told = |failure: Failure| match &kept.management_state {
            Some(_) => failure.hint(format!(
                "the operator is {UNMANAGED} until this puts it back: {}",
                self.options.enable()
            )),
            None => failure,
        };
        let turn_off = || {
            self.edit(
                |workload: &mut Value, kept: &Kept| settings::turn_off(workload, Some(&kept.container)),
                &kept,
            )
        };
        let before = self
            .rollout
            .persist(|| self.rollout.api.look())
            .await
            .map_err(|stop| told(self.failure(&stop, "list the registry's pods", changes)))?;
        let mut again = 0;
        loop {
            if !are_off || again > 0 {
                self.rollout
                    .persist(turn_off)
                    .await
                    .map_err(|stop| told(self.failure(&stop, "change the pod template", true)))?;
            }
            let mut follower = self.rollout.follower(Goal::CachesOff, &before, true);
            follower.asked();
            match self.follow(&mut follower).await {
                Ok(proof) => {
                    let mut done = self.done("off", &proof, changes);
                    if kept.management_state.is_some() {
                        done.messages.push(means_unmanaged(&self.options.enable()));
                    }
                    return Ok(done);
                }
                // The operator may have been in the middle of it when it was told to keep its hands off.
                Err(failure) if failure.reverted && again < AGAIN => again += 1,
                Err(failure) => return Err(told(self.not_proven(failure))),
            }
        }
    }

    async fn enable(&self, workload: &Value, operator: &Operator) -> Result<Switched, Failure> {
        let name = self.rollout.api.name();
        let Place { namespace, .. } = self.rollout.api.place();
        let kept = settings::kept(workload).map_err(|error| self.unfit(&error))?;
        let Some(kept) = kept else {
            if settings_of(workload).are_off() {
                let unset = OFF.map(|(name, _)| format!("{name}-")).join(" ");
                return Err(Failure::nothing_changed(format!(
                    "enable the registry's caches: {name} does not say how they were before: cache disable did not turn them off"
                ))
                .hint(format!("turn them on by hand: oc set env {name} -n {namespace} {unset}")));
            }
            if !self.options.confirm {
                return Ok(self.would(&[]));
            }
            return self.prove_on(false).await;
        };
        let mut restored = workload.clone();
        let stay = settings::restore(&mut restored, &kept).map_err(|error| {
            let failure = self.unfit(&error);
            match &kept.management_state {
                Some(state) => failure.hint(put_back(state)),
                None => failure,
            }
        })?;
        if !kept.env.is_empty() && settings::may_use_redis(&restored) {
            flushed_before_enable(self.options)?;
        }
        let mut steps: Vec<String> = kept
            .env
            .iter()
            .filter(|variable| !stay.contains(&variable.name))
            .map(|variable| {
                format!(
                    "{} in container {}: {}",
                    brief(&variable.name),
                    brief(&kept.container),
                    to_be(variable.was.as_ref())
                )
            })
            .collect();
        let state = kept
            .management_state
            .as_deref()
            .filter(|_| *operator == Operator::Is(UNMANAGED.to_owned()) || *operator == Operator::Hidden);
        steps.extend(state.map(|state| format!("managementState of the operator: {}", brief(state))));
        if !self.options.confirm {
            let mut would = self.would(&steps);
            would.messages.extend(stay.iter().map(|name| stays(name)));
            return Ok(would);
        }
        let left = kept.management_state.is_some().then(|| Kept { env: Vec::new(), ..kept.clone() });
        let restore = || {
            self.edit(
                |workload: &mut Value, kept: &Kept| {
                    settings::restore(workload, kept)?;
                    settings::keep(workload, left.as_ref());
                    Ok(())
                },
                &kept,
            )
        };
        self.rollout
            .persist(restore)
            .await
            .map_err(|stop| self.failure(&stop, "restore the pod template", false))?;
        if let Some(state) = state {
            self.set_state(Some(UNMANAGED), state).await.map_err(|stop| {
                self.failure(&stop, "put the operator's managementState back", true).hint(put_back(state))
            })?;
        }
        if left.is_some() {
            let forget = || {
                self.edit(
                    |workload: &mut Value, _: &Kept| {
                        settings::keep(workload, None);
                        Ok(())
                    },
                    &kept,
                )
            };
            self.rollout
                .persist(forget)
                .await
                .map_err(|stop| self.failure(&stop, "remove the old values", true))?;
        }
        let mut done = self.prove_on(true).await?;
        done.messages.extend(stay.iter().map(|name| stays(name)));
        Ok(done)
    }

    async fn prove_on(&self, changed: bool) -> Result<Switched, Failure> {
        let before = self
            .rollout
            .persist(|| self.rollout.api.look())
            .await
            .map_err(|stop| self.failure(&stop, "list the registry's pods", changed))?;
        let mut follower = self.rollout.follower(Goal::LikeTemplate, &before, true);
        follower.asked();
        match self.follow(&mut follower).await {
            Ok(proof) => Ok(self.done("as they were before", &proof, changed)),
            Err(failure) => Err(self.not_proven(failure)),
        }
    }

    async fn follow(&self, follower: &mut Follower) -> Result<Proof, RolloutFailure> {
        // A pod that the controller leaves alone, though it is not of its template, is replaced; never past a budget.
        // Changed by now, if not by this run.
        self.rollout.follow(follower, vec![Way::Evict], true).await
    }

    /// Whether the operator may be told to keep its hands off, which is asked for only once it is to be done.
    async fn consent<F, A>(&self, operator: &Operator, ask: F) -> Result<(), Failure>
    where
        F: Fn() -> A,
        A: Future<Output = Option<bool>>,
    {
        let enable = self.options.enable();
        let with_flag = self.options.with_consent("");
        let spelled = self.options.with_consent(&format!("={SPELLED_OUT}"));
        let state = match operator {
            Operator::Is(state) => state,
            Operator::Absent | Operator::Hidden => {
                return Err(Failure::nothing_changed(
                    "disable the registry's caches: the operator's configuration may not be read: an operator that is Managed would turn the change back",
                )
                .hint("the right that shows it: get configs.imageregistry.operator.openshift.io/cluster")
                .hint("who may: oc adm policy who-can get configs.imageregistry.operator.openshift.io"));
            }
        };
        let overwritten = || {
            Failure::nothing_changed(format!(
                "disable the registry's caches: the operator (managementState: {}) would turn the change back",
                brief(state)
            ))
        };
        let accepted = match self.options.set_unmanaged {
            Consent::None => {
                return Err(overwritten()
                    .hint(format!("have it keep its hands off: {with_flag}"))
                    .hint(means_unmanaged(&enable)));
            }
            // What would be done needs no consent.
            Consent::Ask if !self.options.confirm => true,
            Consent::Given => true,
            Consent::Ask => match ask().await {
                Some(accepted) => accepted,
                None => {
                    return Err(overwritten()
                        .hint(format!("nobody is at a terminal to type {TYPED}; spell it out: {spelled}"))
                        .hint(means_unmanaged(&enable)));
                }
            },
        };
        if accepted {
            Ok(())
        } else {
            Err(Failure::nothing_changed(format!("disable the registry's caches: {TYPED} was not typed")))
        }
    }

    /// Reads the workload, changes it, and updates it if nobody else has done so meanwhile. What needs no change gets
    /// none.
    async fn edit(
        &self,
        change: impl Fn(&mut Value, &Kept) -> Result<(), SettingsError>,
        kept: &Kept,
    ) -> Result<(), ApiError> {
        let api = &self.rollout.api;
        let before = api.workload().await?;
        let mut after = before.clone();
        change(&mut after, kept).map_err(|error| ApiError::Invalid { message: error.to_string() })?;
        if after == before { Ok(()) } else { api.put_workload(&after).await }
    }

    /// Sets the operator's `managementState`, if it is this one now.
    async fn set_state(&self, from: Option<&str>, to: &str) -> Result<(), Stop> {
        let api = &self.rollout.api;
        let set = async || {
            let mut config = api.operator_config().await?;
            let now = config["spec"]["managementState"].as_str().unwrap_or_default();
            if now == to || from.is_some_and(|from| from != now) {
                return Ok(());
            }
            config["spec"]["managementState"] = to.into();
            api.put_operator_config(&config).await
        };
        self.rollout.persist(set).await
    }

    fn would(&self, steps: &[String]) -> Switched {
        let Place { namespace, .. } = self.rollout.api.place();
        let (name, word) = (self.rollout.api.name(), self.options.turn.word());
        let mut would = Switched::default();
        if steps.is_empty() {
            let state = if self.options.turn == Turn::Off { "off" } else { "on" };
            would.lines.push(format!("{name} in namespace {namespace}: the caches are {state} already"));
            return would;
        }
        would.lines.push(format!("{name} in namespace {namespace}: {word} would set"));
        would.lines.extend(steps.iter().map(|step| format!("  {step}")));
        would.messages.push(
            "nothing was changed: add --confirm to do it; the registry's pods are replaced then".to_owned(),
        );
        would
    }

    fn done(&self, state: &str, proof: &Proof, changed: bool) -> Switched {
        let Place { namespace, .. } = self.rollout.api.place();
        let name = self.rollout.api.name();
        let serving = if proof.serving.is_empty() {
            "no pod runs".to_owned()
        } else {
            format!("serving: {}", proof.serving.join(", "))
        };
        let already = if changed { "" } else { " already" };
        let mut lines =
            vec![format!("{name} in namespace {namespace}: the caches are {state}{already}; {serving}")];
        if !proof.lingering.is_empty() {
            lines.push(format!("  still ending, and sent nothing: {}", proof.lingering.join(", ")));
        }
        Switched { lines, messages: Vec::new() }
    }

    fn not_proven(&self, failure: RolloutFailure) -> Failure {
        let word = self.options.turn.word();
        let changed = failure.changed;
        let mut failure = Failure::from(failure);
        failure.message = format!("{word} the registry's caches: {}", failure.message);
        if changed {
            failure = failure.hint(format!("then repeat it, which does no harm: {}", self.options.again()));
        }
        failure
    }

    fn failure(&self, stop: &Stop, doing: &str, changed: bool) -> Failure {
        let word = self.options.turn.word();
        let what = format!("{word} the registry's caches: {doing}");
        let mut failure = match stop {
            Stop::Error(error) => self.cluster.failure(error, &what),
            Stop::Timeout(_) => Failure::nothing_changed(format!("{what}: {stop}")),
        };
        // What had no answer may have been done.
        if changed || matches!(stop, Stop::Timeout(_)) {
            failure.exit = if changed { Exit::CacheMayLie } else { failure.exit };
            failure = failure.hint(format!("repeat it, which does no harm: {}", self.options.again()));
        }
        failure
    }

    fn unfit(&self, error: &SettingsError) -> Failure {
        let (name, word) = (self.rollout.api.name(), self.options.turn.word());
        let Place { namespace, .. } = self.rollout.api.place();
        let failure = Failure::nothing_changed(format!("{word} the registry's caches: {name}: {error}"));
        match error {
            SettingsError::Annotation(_) => {
                failure.hint(format!("look at it: oc get {name} -n {namespace} -o yaml; without it: oc annotate {name} -n {namespace} {}-", settings::KEPT))
            }
            SettingsError::NoContainer | SettingsError::OtherContainer(_) => {
                failure.hint(format!("look at it: oc get {name} -n {namespace} -o yaml"))
            }
        }
    }
}

/// What is in Redis has not been evicted while it was out of use: before it is used again, it has to be flushed.
fn flushed_before_enable(options: &SwitchOptions) -> Result<(), Failure> {
    if options.redis_is_flushed {
        return Ok(());
    }
    Err(Failure::nothing_changed(
        "enable the registry's caches: it had, or may have had, a Redis, which may still hold blobs that were pruned meanwhile",
    )
    .hint(format!("flush it first: {} cache flush --all --redis-url=redis://HOST:6379", options.program))
    .hint(format!("then: {} --redis-is-flushed", options.repeat)))
}

/// What to write down: the first values stay, whatever is set by now.
fn to_keep(kept: Option<Kept>, now: &Kept, operator: &Operator) -> Kept {
    let mut keep = kept.unwrap_or_else(|| now.clone());
    if keep.env.is_empty() {
        keep.env.clone_from(&now.env);
        keep.container.clone_from(&now.container);
    }
    if let (None, Operator::Is(state), false) = (&keep.management_state, operator, operator.is_hands_off()) {
        keep.management_state = Some(state.clone());
    }
    keep
}

/// The command that gives the operator its state again.
fn put_back(state: &str) -> String {
    format!(
        "put the operator's state back: oc patch configs.imageregistry.operator.openshift.io/cluster --type=merge -p '{{\"spec\":{{\"managementState\":\"{}\"}}}}'",
        brief(state)
    )
}

fn settings_of(workload: &Value) -> Settings {
    let containers = workload["spec"]["template"]["spec"]["containers"].as_array();
    Settings::of(containers.map(Vec::as_slice).unwrap_or_default(), None)
}

/// An entry of an environment as it is now.
fn shown(entry: Option<&Value>) -> String {
    match entry {
        None => "not set now".to_owned(),
        Some(entry) if entry["valueFrom"].is_null() => {
            format!("{} now", quoted(entry["value"].as_str().unwrap_or_default()))
        }
        Some(_) => "from another object now".to_owned(),
    }
}

/// An entry of an environment as it will be.
fn to_be(entry: Option<&Value>) -> String {
    match entry {
        None => "not set".to_owned(),
        Some(entry) if entry["valueFrom"].is_null() => quoted(entry["value"].as_str().unwrap_or_default()),
        Some(_) => "from another object".to_owned(),
    }
}

fn stays(name: &str) -> String {
    format!("{} was changed since the caches were disabled: it stays as it is", sanitize(name))
}

/// The failure of a run that a signal has ended.
#[must_use]
pub fn interrupted(options: &SwitchOptions, signal: Signal) -> Failure {
    let message = format!("{} the registry's caches: ended early by {}", options.turn.word(), signal.name());
    Failure {
        exit: signal.exit(),
        message,
        hints: vec![format!("repeat it, twice does no harm: {}", options.again())],
    }
}
