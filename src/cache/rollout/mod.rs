//! Restarts the registry, and proves pod by pod that nothing that served before serves any more.
//!
//! `seen` reads what there is, `follow` decides what is to be done about it, `ways` which ways are open, `settings`
//! what turns caches off (all pure); `api` asks the API server, and this file goes through the steps (I/O).
//!
//! The operator writes the registry's Deployment again whenever somebody else has changed it, so that a rollout may be
//! turned back half-way, and pods survive it. Hence the proof by UID, and the pods that are left are replaced one by one.

pub(in crate::cache) mod api;
mod follow;
pub mod read_only;
mod seen;
pub(in crate::cache) mod settings;
mod ways;

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use self::api::{Api, FindError};
use self::follow::{Cause, Patience, Verdict};
pub(in crate::cache) use self::follow::{Follower, Goal};
pub use self::follow::{Proof, Survivor};
use self::seen::Seen;
pub(crate) use self::settings::registry_container;
pub(in crate::cache) use self::ways::Operator;
use self::ways::{Facts, Needed, Rights, choose};
pub use self::ways::{Way, Ways};
use super::detect::Place;
use crate::cluster::{ApiError, Cluster};
use crate::error::{Exit, Failure};

/// The annotation that `oc rollout restart` sets.
const RESTARTED: &str = "kubectl.kubernetes.io/restartedAt";

/// The annotation that the operator carries over.
const OVERRIDE: &str = "prune-images/restartedAt";

/// What to restart, and how long to try.
#[derive(Debug)]
pub struct Restart<'a> {
    /// The connection.
    pub cluster: &'a Cluster,
    /// Where the registry runs.
    pub place: &'a Place,
    /// `--cache-timeout`: for all of it.
    pub timeout: Duration,
    /// How often to look, and how long to be patient.
    pub pace: Pace,
}

/// How often to look, and how long to be patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The time between two looks.
    pub poll: Duration,
    /// The time after which an eviction that was refused is tried again, if the server does not say.
    pub hold: Duration,
    /// How long a new pod may not start.
    pub trouble: Duration,
    /// How long the operator may take to carry a change over.
    pub operator: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(1),
            hold: Duration::from_secs(5),
            // Longer than the progress deadline that the operator sets: the controller's own message says more.
            trouble: Duration::from_secs(180),
            operator: Duration::from_secs(60),
        }
    }
}

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many pods serve no more.
    pub replaced: usize,
    /// How many are to be replaced.
    pub total: usize,
    /// What is being done or waited for.
    pub message: String,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replaced, total, message } = self;
        if *total == 0 {
            f.write_str(message)
        } else {
            write!(f, "{message} ({replaced} of {total} pods replaced)")
        }
    }
}

/// Told of progress, whenever there is some.
pub type Tell<'a> = &'a (dyn Fn(&Progress) + Send + Sync);

/// How a restart ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restarted {
    /// There was nothing to restart: why.
    Nothing(String),
    /// No pod that served before serves any more.
    Proven {
        /// How it was begun. Pods that were left may have been evicted.
        way: Way,
        /// Which pods went, and which serve now.
        proof: Proof,
    },
}

/// A rollout that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutFailure {
    /// `<what failed>: <cause>`.
    pub message: String,
    /// What helps: exact commands, one line each.
    pub hints: Vec<String>,
    /// The pods that still serve, or may.
    pub old: Vec<Survivor>,
    /// Whether something was changed in the cluster.
    pub changed: bool,
    /// Whether somebody turned the change back.
    pub reverted: bool,
}

impl RolloutFailure {
    fn before(message: impl Into<String>) -> Self {
        Self { message: message.into(), hints: Vec::new(), old: Vec::new(), changed: false, reverted: false }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for RolloutFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RolloutFailure {}

impl From<RolloutFailure> for Failure {
    fn from(failure: RolloutFailure) -> Self {
        let exit = if failure.changed { Exit::CacheMayLie } else { Exit::NothingChanged };
        Self { exit, message: failure.message, hints: failure.hints }
    }
}

/// Finds out which ways there are to restart the registry, and which rights are missing for the others.
pub async fn ways(cluster: &Cluster, place: &Place) -> Ways {
    let obstacle = |why: String| Ways { obstacle: Some(why), ..Ways::default() };
    let api = match Api::find(cluster, place).await {
        Ok(api) => api,
        Err(FindError::Name(why) | FindError::Unreadable(why)) => return obstacle(why),
    };
    let seen = match api.look().await {
        Ok(seen) => seen,
        Err(error) => return obstacle(format!("the registry's pods cannot be listed: {error}")),
    };
    match open_ways(&api, &seen).await {
        Ok(ways) => ways,
        Err(error) => obstacle(error.to_string()),
    }
}

async fn open_ways(api: &Api<'_>, seen: &Seen) -> Result<Ways, ApiError> {
    let needed = Needed::at(api.place());
    let (operator, annotate, configure, evict, delete) = tokio::try_join!(
        Box::pin(api.operator()),
        Box::pin(api.may(&needed.annotate)),
        Box::pin(api.may(&needed.configure)),
        Box::pin(api.may(&needed.evict)),
        Box::pin(api.may(&needed.delete)),
    )?;
    // What cannot be found out shows when it is tried.
    let rights = Rights {
        annotate: annotate.unwrap_or(true),
        configure: configure.unwrap_or(true),
        evict: evict.unwrap_or(true),
        delete: delete.unwrap_or(true),
    };
    let facts = Facts { controller: seen.controller.clone(), kind: api.kind(), operator, rights };
    Ok(choose(&facts, api.place()))
}

/// Restarts the registry, and returns once no pod that served before is an endpoint any more.
///
/// # Errors
/// What kept it, which pods are left, and the commands that help. `changed` says whether it was begun.
pub async fn restart(restart: Restart<'_>, tell: Tell<'_>) -> Result<Restarted, RolloutFailure> {
    let Restart { cluster, place, timeout, pace } = restart;
    let rollout = Rollout::open(cluster, place, timeout, pace, tell).await?;
    let api = &rollout.api;
    let before = rollout
        .persist(|| api.look())
        .await
        .map_err(|stop| rollout.not_begun("list the registry's pods", &stop))?;
    let ways = rollout
        .persist(|| open_ways(api, &before))
        .await
        .map_err(|stop| rollout.not_begun("find out what is allowed", &stop))?;
    if let Some(why) = ways.nothing {
        // What is ending may still serve.
        let mut follower = rollout.follower(Goal::Replaced { mark: None }, &before, false);
        rollout.follow(&mut follower, Vec::new(), false).await?;
        return Ok(Restarted::Nothing(why));
    }
    for note in &ways.notes {
        rollout.say(note.clone(), None);
    }
    let value = Timestamp::now().to_string();
    let mut refused = Vec::new();
    for (position, way) in ways.possible.iter().enumerate() {
        let key = match way {
            Way::Annotate => Some(RESTARTED),
            Way::Override => Some(OVERRIDE),
            Way::Evict | Way::Delete => None,
        };
        let begun = match (way, key) {
            (Way::Annotate, Some(key)) => rollout.persist(|| api.annotate(key, &value)).await,
            (Way::Override, Some(key)) => rollout.persist(|| api.configure(key, &value)).await,
            _ => Ok(()),
        };
        match begun {
            Ok(()) => {}
            Err(Stop::Error(ApiError::Forbidden { message })) => {
                debug!(message, "this way is closed");
                refused.push(message);
                continue;
            }
            Err(stop) => {
                // Without an answer nobody knows whether it was made.
                let changed = matches!(stop, Stop::Timeout(_));
                let failure = rollout.not_begun("restart the registry", &stop);
                return Err(RolloutFailure { changed, ..failure });
            }
        }
        let means: Vec<Way> = ways.possible[position..]
            .iter()
            .copied()
            .filter(|way| matches!(way, Way::Evict | Way::Delete))
            .collect();
        let goal = Goal::Replaced { mark: key.map(|key| (key.to_owned(), value.clone())) };
        let mut follower = rollout.follower(goal, &before, !means.is_empty());
        if *way == Way::Annotate {
            follower.asked();
        }
        rollout.say(format!("the registry is restarted by {way}"), Some(&follower));
        let proof = rollout.follow(&mut follower, means, key.is_some()).await?;
        return Ok(Restarted::Proven { way: *way, proof });
    }
    Err(nobody_may(api, &ways, &refused))
}

/// No way is open.
fn nobody_may(api: &Api<'_>, ways: &Ways, refused: &[String]) -> RolloutFailure {
    let Place { namespace, .. } = api.place();
    let mut why = ways.missing.iter().map(ToString::to_string).collect::<Vec<_>>();
    why.extend(refused.iter().cloned());
    let mut failure = RolloutFailure::before(format!("restart {}: it is not allowed", api.name()));
    failure.hints.extend(ways.notes.iter().cloned());
    if !why.is_empty() {
        failure = failure.hint(format!("any of these rights allows it: {}", why.join("; ")));
    }
    failure
        .hint(format!(
            "the role edit has them for the pods: oc adm policy add-role-to-user edit USER -n {namespace}"
        ))
        .hint(format!(
            "or have it done: oc delete pods -l {} -n {namespace}",
            crate::text::quoted(api.selector())
        ))
}

/// Why trying ended.
#[derive(Debug)]
pub(in crate::cache) enum Stop {
    /// Trying again does not help.
    Error(ApiError),
    /// The time is over; the last error.
    Timeout(Option<ApiError>),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) | Self::Timeout(Some(error)) => error.fmt(f),
            Self::Timeout(None) => f.write_str("--cache-timeout is over"),
        }
    }
}

/// A rollout under way, with its deadline.
pub(in crate::cache) struct Rollout<'a> {
    pub(in crate::cache) api: Api<'a>,
    pace: Pace,
    timeout: Duration,
    begun: Instant,
    deadline: Instant,
    tell: Tell<'a>,
    told: Mutex<Option<Progress>>,
}

impl<'a> Rollout<'a> {
    /// Finds the registry.
    pub(in crate::cache) async fn open(
        cluster: &'a Cluster,
        place: &Place,
        timeout: Duration,
        patience: Pace,
        tell: Tell<'a>,
    ) -> Result<Self, RolloutFailure> {
        let begun = Instant::now();
        // A time that no clock can tell is as good as none.
        let deadline = begun.checked_add(timeout).unwrap_or(begun + Duration::from_secs(1 << 30));
        let failed = |error| match error {
            FindError::Name(why) => RolloutFailure::before(format!("find the registry: {why}")).hint(
                "name its namespace and deployment: --registry-namespace=NAME --registry-deployment=NAME",
            ),
            FindError::Unreadable(why) => RolloutFailure::before(format!("find the registry: {why}")),
        };
        let api = match timeout_at(deadline, Api::find(cluster, place)).await {
            Ok(found) => found.map_err(failed)?,
            Err(_) => return Err(failed(FindError::Unreadable("--cache-timeout is over".to_owned()))),
        };
        Ok(Self { api, pace: patience, timeout, begun, deadline, tell, told: Mutex::default() })
    }

    pub(in crate::cache) fn follower(&self, goal: Goal, before: &Seen, may_replace: bool) -> Follower {
        let patience =
            Patience { trouble: self.pace.trouble, operator: self.begun.elapsed() + self.pace.operator };
        Follower::new(goal, before, may_replace, patience)
    }

    /// Tells, unless it was the last thing that was told.
    pub(in crate::cache) fn say(&self, message: String, follower: Option<&Follower>) {
        let (replaced, total) = follower.map_or((0, 0), |follower| (follower.replaced(), follower.total()));
        let progress = Progress { replaced, total, message };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.as_ref() != Some(&progress) {
            (self.tell)(&progress);
            *told = Some(progress);
        }
    }

    /// Tries until it succeeds, trying again does not help, or the time is over. A conflict is tried again: what is
    /// tried reads anew.
    pub(in crate::cache) async fn persist<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, Stop>
    where
        F: Future<Output = Result<T, ApiError>>,
    {
        let mut last = None;
        loop {
            let Ok(answer) = timeout_at(self.deadline, attempt()).await else {
                return Err(Stop::Timeout(last));
            };
            let error = match answer {
                Ok(value) => return Ok(value),
                Err(error) if passes(&error) => error,
                Err(error) => return Err(Stop::Error(error)),
            };
            let wait = self.wait_after(&error);
            if !matches!(error, ApiError::Conflict { .. }) {
                self.say(format!("{error}; trying again"), None);
            }
            last = Some(error);
            if Instant::now() + wait >= self.deadline {
                return Err(Stop::Timeout(last));
            }
            tokio::time::sleep(wait).await;
        }
    }

    fn wait_after(&self, error: &ApiError) -> Duration {
        match error {
            ApiError::TooManyRequests { retry_after: Some(wait), .. } => self.pace.poll.max(*wait),
            _ => self.pace.poll,
        }
    }

    /// Follows until it is proven. `means` are the ways to replace pods one by one.
    pub(in crate::cache) async fn follow(
        &self,
        follower: &mut Follower,
        mut means: Vec<Way>,
        mut changed: bool,
    ) -> Result<Proof, RolloutFailure> {
        let mut last = String::new();
        loop {
            let mut wait = self.pace.poll;
            match timeout_at(self.deadline, self.api.look()).await {
                Err(_) => return Err(self.timed_out(follower, changed, &last)),
                Ok(Ok(seen)) => match follower.look(&seen, self.begun.elapsed()) {
                    Verdict::Done(proof) => return Ok(proof),
                    Verdict::Failed(cause) => return Err(self.failed(follower, changed, &cause)),
                    Verdict::Wait(why) => {
                        self.say(why.clone(), Some(follower));
                        last = why;
                    }
                    Verdict::Replace { name, uid } => {
                        let replacing = self.replace(follower, &mut means, &name, &uid);
                        let Ok((accepted, message)) = timeout_at(self.deadline, replacing).await else {
                            // Whether it was made is not known.
                            return Err(self.timed_out(follower, true, &last));
                        };
                        changed |= accepted;
                        if let Some(message) = message {
                            self.say(message.clone(), Some(follower));
                            last = message;
                        }
                    }
                },
                Ok(Err(error)) if passes(&error) => {
                    wait = self.wait_after(&error);
                    last = format!("the API server does not answer: {error}");
                    self.say(format!("{error}; trying again"), Some(follower));
                }
                Ok(Err(error)) => {
                    let failure = self.left_over(
                        follower,
                        changed,
                        format!("follow the rollout of {}: {error}", self.api.name()),
                    );
                    return Err(failure);
                }
            }
            if Instant::now() + wait >= self.deadline {
                return Err(self.timed_out(follower, changed, &last));
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Replaces one pod. Returns whether that was accepted, or may have been, and what to say.
    async fn replace(
        &self,
        follower: &mut Follower,
        means: &mut Vec<Way>,
        name: &str,
        uid: &str,
    ) -> (bool, Option<String>) {
        let (answer, verb) = match means.first() {
            Some(Way::Delete) => (self.api.delete(name, uid).await, "deleted"),
            _ => (self.api.evict(name, uid).await, "evicted"),
        };
        let now = self.begun.elapsed();
        match answer {
            Ok(()) => (true, Some(format!("pod {name} is {verb}, to be replaced"))),
            // It is gone, or another one has its name: the next look shows it.
            Err(ApiError::NotFound { .. } | ApiError::Conflict { .. }) => (false, None),
            Err(ApiError::Forbidden { message }) => {
                debug!(message, "pods cannot be replaced in this way");
                if !means.is_empty() {
                    means.remove(0);
                }
                if means.is_empty() {
                    follower.forbid_replacing();
                }
                (false, None)
            }
            Err(ApiError::TooManyRequests { message, retry_after }) => {
                let why = format!("pod {name} may not be {verb} yet: {message}");
                follower.hold(now + retry_after.unwrap_or(self.pace.hold), why.clone());
                (false, Some(why))
            }
            Err(error) => {
                let why = format!("pod {name} cannot be {verb}: {error}; trying again");
                follower.hold(now + self.pace.hold, why.clone());
                (!matches!(error, ApiError::Invalid { .. }), Some(why))
            }
        }
    }

    /// A failure before anything was changed, or of the change itself: whether one without an answer was made is not
    /// known.
    pub(in crate::cache) fn not_begun(&self, doing: &str, stop: &Stop) -> RolloutFailure {
        let failure = RolloutFailure::before(format!("{doing}: {stop}"));
        match stop {
            Stop::Error(ApiError::Forbidden { .. }) => failure.hint(format!(
                "the role edit allows it: oc adm policy add-role-to-user edit USER -n {}",
                self.api.place().namespace
            )),
            Stop::Timeout(_) => failure.hint(self.more_time()),
            Stop::Error(_) => failure,
        }
    }

    fn more_time(&self) -> String {
        let timeout = jiff::SignedDuration::try_from(self.timeout * 2).unwrap_or(jiff::SignedDuration::MAX);
        format!("give it more time: --cache-timeout={}", crate::cli::duration::format(timeout))
    }

    fn timed_out(&self, follower: &Follower, changed: bool, last: &str) -> RolloutFailure {
        let last = if last.is_empty() { String::new() } else { format!(": {last}") };
        let timeout = jiff::SignedDuration::try_from(self.timeout).unwrap_or(jiff::SignedDuration::MAX);
        let message = format!(
            "follow the rollout of {}: not done within {}{last}",
            self.api.name(),
            crate::cli::duration::format(timeout)
        );
        self.left_over(follower, changed, message).hint(self.more_time())
    }

    fn failed(&self, follower: &Follower, changed: bool, cause: &Cause) -> RolloutFailure {
        let (name, namespace) = (self.api.name(), &self.api.place().namespace);
        let mut failure = self.left_over(follower, changed, format!("follow the rollout of {name}: {cause}"));
        match cause {
            Cause::Stuck(_) => {
                failure = failure.hint(format!("see why: oc describe {name} -n {namespace}"));
            }
            Cause::PodTrouble { pod, .. } => {
                failure = failure.hint(format!(
                    "see why: oc describe pod/{pod} -n {namespace}; oc logs pod/{pod} -n {namespace} --previous"
                ));
            }
            Cause::Reverted | Cause::NotAllowed => {
                failure = failure.hint(format!(
                    "the rights that allow it: {}, or {}",
                    Needed::at(self.api.place()).evict,
                    Needed::at(self.api.place()).configure
                ));
            }
        }
        failure.reverted = *cause == Cause::Reverted;
        failure
    }

    /// Says which pods are left, and how to finish by hand.
    fn left_over(&self, follower: &Follower, changed: bool, message: String) -> RolloutFailure {
        let Place { namespace, .. } = self.api.place();
        let old = follower.survivors().to_vec();
        let mut message = message;
        for survivor in &old {
            message.push_str("\n  pod ");
            message.push_str(&survivor.name);
            message.push_str(": ");
            message.push_str(survivor.why);
        }
        let mut failure = RolloutFailure { old, changed, ..RolloutFailure::before(message) };
        let names: Vec<&str> = failure.old.iter().map(|survivor| survivor.name.as_str()).collect();
        if !names.is_empty() {
            let hint = format!(
                "finish it by hand, once new pods are ready: oc delete pod {} -n {namespace}",
                names.join(" ")
            );
            failure.hints.push(hint);
        }
        failure.hint(format!(
            "see how far it is: oc get pods -l {} -n {namespace} -o wide",
            crate::text::quoted(self.api.selector())
        ))
    }
}

/// Whether the same request may succeed later.
fn passes(error: &ApiError) -> bool {
    error.is_transient() || matches!(error, ApiError::Conflict { .. } | ApiError::Gone { .. })
}
