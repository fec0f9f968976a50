//! Follows a rollout to its proof: from what is seen at a moment to what is to be done next. Pure: time is an argument,
//! counted from the beginning.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::seen::{Controller, Endpoint, Pod, Seen, Workload};

/// What a rollout is to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Goal {
    /// None of the pods that were there at the beginning serves any more.
    Replaced {
        /// The annotation of the pod template that asks for it: key and value; none if the pods are replaced one by one.
        mark: Option<(String, String)>,
    },
    /// No pod serves whose settings leave a cache on.
    CachesOff,
    /// No pod serves whose settings of caches differ from the pod template's.
    LikeTemplate,
    /// No pod serves that is in read-only mode, or none that is not.
    ReadOnly(bool),
}

impl Goal {
    /// Whether the pod template asks for it.
    fn is_asked_by(&self, workload: &Workload) -> bool {
        match self {
            Self::Replaced { mark: None } | Self::LikeTemplate => true,
            Self::Replaced { mark: Some((key, value)) } => workload.annotations.get(key) == Some(value),
            Self::CachesOff => workload.settings.are_off(),
            Self::ReadOnly(on) => workload.settings.is_read_only() == *on,
        }
    }

    /// Whether this pod must go, whenever it was made.
    fn is_missed_by(&self, pod: &Pod, workload: Option<&Workload>) -> bool {
        match self {
            Self::Replaced { .. } => false,
            Self::CachesOff => !pod.settings.are_off(),
            Self::ReadOnly(on) => pod.settings.is_read_only() != *on,
            Self::LikeTemplate => workload.is_some_and(|workload| workload.settings != pod.settings),
        }
    }
}

/// How long to be patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// With a new pod that does not start.
    pub(crate) trouble: Duration,
    /// With an operator that does not carry a change over.
    pub(crate) operator: Duration,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is proven.
    Done(Proof),
    /// Look again soon: what is waited for.
    Wait(String),
    /// Replace this pod.
    Replace {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// It does not get on.
    Failed(Cause),
}

/// Why a rollout does not get on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The controller gave up: its message, and that of a new pod.
    Stuck(String),
    /// A new pod does not start: which one, and why.
    PodTrouble {
        /// Its name.
        pod: String,
        /// Why.
        why: String,
    },
    /// The change of the pod template was turned back, and nothing else is possible.
    Reverted,
    /// The pods have to be replaced one by one, and that is not allowed.
    NotAllowed,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stuck(why) => write!(f, "the rollout does not get on: {why}"),
            Self::PodTrouble { pod, why } => write!(f, "the new pod {pod} does not start: {why}"),
            Self::Reverted => {
                write!(f, "somebody, the operator mostly, has turned the change of the pod template back")
            }
            Self::NotAllowed => {
                write!(f, "the pods that are left would have to be replaced one by one, which is not allowed")
            }
        }
    }
}

/// What was proven.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// The names of the pods that served before and serve no more.
    pub replaced: Vec<String>,
    /// The names of the pods that serve now.
    pub serving: Vec<String>,
    /// The names of those pods that are still ending, long past their time, while nothing is sent to them.
    pub lingering: Vec<String>,
}

/// A pod that is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// What keeps it.
    pub why: &'static str,
}

#[derive(Debug, Clone)]
struct Old {
    name: String,
    addresses: Vec<String>,
    /// When it was first seen ending.
    ending_since: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It runs.
    Alive,
    /// It is being deleted.
    Ending,
    /// Its deletion hangs, and nothing is sent to it.
    Lingering,
    /// It is gone, and a service still sends to it.
    Sent,
    /// It is gone.
    Gone,
}

/// Follows a rollout.
#[derive(Debug)]
pub(crate) struct Follower {
    goal: Goal,
    patience: Patience,
    /// Whether pods may be replaced one by one.
    may_replace: bool,
    old: BTreeMap<String, Old>,
    /// How many pods are to be ready before the next one is replaced.
    healthy: usize,
    /// Whether some service sent to the pods.
    expects_endpoints: bool,
    /// Whether the pod template has asked for the goal.
    asked: bool,
    /// By the UID of a new pod: since when it does not start.
    trouble: BTreeMap<String, Duration>,
    held_until: Option<(Duration, String)>,
    survivors: Vec<Survivor>,
}

impl Follower {
    /// Begins with what is seen before the change.
    #[must_use]
    pub(crate) fn new(goal: Goal, before: &Seen, may_replace: bool, patience: Patience) -> Self {
        let replaces_all = matches!(goal, Goal::Replaced { .. });
        let mut follower = Self {
            goal,
            patience,
            may_replace,
            old: BTreeMap::new(),
            healthy: 0,
            expects_endpoints: false,
            asked: false,
            trouble: BTreeMap::new(),
            held_until: None,
            survivors: Vec::new(),
        };
        for pod in before.pods.iter().filter(|pod| replaces_all && !pod.ended) {
            follower.add(pod);
        }
        let ready = before.pods.iter().filter(|pod| pod.ready && !pod.terminating && !pod.ended);
        let running = |(uid, old): (&String, &Old)| Survivor {
            name: old.name.clone(),
            uid: uid.clone(),
            why: "it still runs",
        };
        follower.survivors = follower.old.iter().map(running).collect();
        follower.healthy = ready.clone().count();
        let endpoints = before.endpoints.as_deref().unwrap_or_default();
        follower.expects_endpoints =
            ready.into_iter().any(|pod| endpoints.iter().any(|endpoint| is_of(endpoint, pod)));
        follower
    }

    fn add(&mut self, pod: &Pod) {
        let old = Old { name: pod.name.clone(), addresses: Vec::new(), ending_since: None };
        let old = self.old.entry(pod.uid.clone()).or_insert(old);
        if !pod.addresses.is_empty() {
            old.addresses.clone_from(&pod.addresses);
        }
    }

    /// How many pods have to go, those that went included.
    #[must_use]
    pub(crate) fn total(&self) -> usize {
        self.old.len()
    }

    /// How many have gone.
    #[must_use]
    pub(crate) fn replaced(&self) -> usize {
        self.old.len() - self.survivors.len()
    }

    /// Those that are left, as of the last look.
    #[must_use]
    pub(crate) fn survivors(&self) -> &[Survivor] {
        &self.survivors
    }

    /// The pod template is known to ask for it.
    pub(crate) fn asked(&mut self) {
        self.asked = true;
    }

    /// Pods may no longer be replaced one by one.
    pub(crate) fn forbid_replacing(&mut self) {
        self.may_replace = false;
    }

    /// No pod is replaced until then.
    pub(crate) fn hold(&mut self, until: Duration, why: String) {
        self.held_until = Some((until, why));
    }

    /// Decides what to do about what is seen now.
    pub(crate) fn look(&mut self, seen: &Seen, now: Duration) -> Verdict {
        let workload = seen.controller.workload();
        for pod in &seen.pods {
            if !pod.ended && (self.old.contains_key(&pod.uid) || self.goal.is_missed_by(pod, workload)) {
                self.add(pod);
            }
        }
        let states = self.states(seen, now);
        self.survivors = self.survivors_of(&states);
        let new: Vec<&Pod> = seen
            .pods
            .iter()
            .filter(|pod| !self.old.contains_key(&pod.uid) && !pod.ended && !pod.terminating)
            .collect();
        let asks = workload.is_none_or(|workload| self.goal.is_asked_by(workload));
        self.asked |= asks && workload.is_some();
        if self.is_done(seen, &new, asks) {
            return Verdict::Done(self.proof(&states, &new));
        }
        if let Some(cause) = self.failure(workload, &new, asks, now) {
            return Verdict::Failed(cause);
        }
        self.next(seen, &states, &new, asks, now)
    }

    fn states(&mut self, seen: &Seen, now: Duration) -> BTreeMap<String, State> {
        let endpoints = seen.endpoints.as_deref();
        let mut states = BTreeMap::new();
        for (uid, old) in &mut self.old {
            let pod = seen.pods.iter().find(|pod| pod.uid == *uid && !pod.ended);
            // An address may belong to another pod by now.
            let own = |address: &&String| {
                pod.is_some()
                    || !seen
                        .pods
                        .iter()
                        .any(|other| !other.ended && other.uid != *uid && other.addresses.contains(address))
            };
            let addresses: Vec<String> = old.addresses.iter().filter(own).cloned().collect();
            let is_sent_to = endpoints
                .is_some_and(|all| all.iter().any(|endpoint| endpoint.is_of(uid, &old.name, &addresses)));
            let state = match pod {
                None if is_sent_to => State::Sent,
                None => State::Gone,
                Some(pod) if pod.terminating => {
                    let since = *old.ending_since.get_or_insert(now);
                    let is_overdue = now >= since + pod.grace;
                    if seen.shows_ending && !is_sent_to && is_overdue {
                        State::Lingering
                    } else {
                        State::Ending
                    }
                }
                Some(_) => State::Alive,
            };
            states.insert(uid.clone(), state);
        }
        states
    }

    fn survivors_of(&self, states: &BTreeMap<String, State>) -> Vec<Survivor> {
        let survivor = |(uid, old): (&String, &Old)| {
            let why = match states.get(uid)? {
                State::Alive => "it still runs",
                State::Ending => "it is being deleted, and may answer until it has ended",
                State::Sent => "it is gone, but a service still sends to it",
                State::Lingering | State::Gone => return None,
            };
            Some(Survivor { name: old.name.clone(), uid: uid.clone(), why })
        };
        self.old.iter().filter_map(survivor).collect()
    }

    fn is_done(&self, seen: &Seen, new: &[&Pod], asks: bool) -> bool {
        let workload = seen.controller.workload();
        let wanted = self.wanted(&seen.controller);
        let has_served = wanted == 0
            || new.iter().any(|pod| {
                let endpoints = seen.endpoints.as_deref().filter(|_| self.expects_endpoints);
                pod.ready && endpoints.is_none_or(|all| all.iter().any(|endpoint| is_of(endpoint, pod)))
            });
        // A controller that is not done yet may make another pod of the old template.
        let is_final = match self.goal {
            Goal::Replaced { .. } => true,
            Goal::CachesOff | Goal::LikeTemplate | Goal::ReadOnly(_) => {
                asks && workload.is_none_or(Workload::is_settled)
            }
        };
        self.survivors.is_empty() && has_served && is_final
    }

    fn wanted(&self, controller: &Controller) -> usize {
        match controller {
            Controller::Is(workload) => workload.wanted,
            Controller::Absent => 0,
            Controller::Hidden => self.healthy,
        }
    }

    fn proof(&self, states: &BTreeMap<String, State>, new: &[&Pod]) -> Proof {
        let is_lingering = |uid: &String| states.get(uid) == Some(&State::Lingering);
        let names = |lingering: bool| {
            let picked = self.old.iter().filter(move |(uid, _)| is_lingering(uid) == lingering);
            picked.map(|(_, old)| old.name.clone()).collect()
        };
        Proof {
            replaced: self.old.values().map(|old| old.name.clone()).collect(),
            serving: new.iter().filter(|pod| pod.ready).map(|pod| pod.name.clone()).collect(),
            lingering: names(true),
        }
    }

    fn failure(
        &mut self,
        workload: Option<&Workload>,
        new: &[&Pod],
        asks: bool,
        now: Duration,
    ) -> Option<Cause> {
        self.trouble.retain(|uid, _| new.iter().any(|pod| pod.uid == *uid && !pod.ready));
        for pod in new.iter().filter(|pod| !pod.ready && pod.trouble.is_some()) {
            self.trouble.entry(pod.uid.clone()).or_insert(now);
        }
        if self.asked && !asks && matches!(self.goal, Goal::CachesOff | Goal::ReadOnly(_)) {
            return Some(Cause::Reverted);
        }
        // A message from before the change says nothing about it.
        let ours = self.asked && asks && !matches!(self.goal, Goal::Replaced { mark: None });
        let stuck = workload.filter(|workload| ours && workload.observed >= workload.generation);
        if let Some(message) = stuck.and_then(|workload| workload.stuck.clone()) {
            let reason = Self::reason(workload, new).map(|reason| format!("; {reason}")).unwrap_or_default();
            return Some(Cause::Stuck(format!("{message}{reason}")));
        }
        let (pod, why) = new.iter().find_map(|pod| {
            let since = *self.trouble.get(&pod.uid)?;
            let is_long = now.saturating_sub(since) >= self.patience.trouble;
            Some((pod.name.clone(), pod.trouble.clone()?)).filter(|_| is_long)
        })?;
        Some(Cause::PodTrouble { pod, why })
    }

    /// Why new pods do not come, if anybody says so.
    fn reason(workload: Option<&Workload>, new: &[&Pod]) -> Option<String> {
        let of_pod = new
            .iter()
            .filter(|pod| !pod.ready)
            .find_map(|pod| Some(format!("pod {}: {}", pod.name, pod.trouble.as_ref()?)));
        of_pod.or_else(|| workload?.refused.clone())
    }

    fn next(
        &mut self,
        seen: &Seen,
        states: &BTreeMap<String, State>,
        new: &[&Pod],
        asks: bool,
        now: Duration,
    ) -> Verdict {
        let workload = seen.controller.workload();
        let reason = Self::reason(workload, new).map(|reason| format!(" ({reason})")).unwrap_or_default();
        let is_alive = |pod: &&Pod| states.get(&pod.uid) == Some(&State::Alive);
        let mut alive: Vec<&Pod> = seen.pods.iter().filter(is_alive).collect();
        if alive.is_empty() {
            return Verdict::Wait(match self.survivors.first() {
                Some(survivor) => format!("pod {}: {}", survivor.name, survivor.why),
                None => format!("waiting for a new pod to serve{reason}"),
            });
        }
        if !asks && !self.asked && now < self.patience.operator {
            return Verdict::Wait("waiting for the operator to carry the change over".to_owned());
        }
        if !workload.is_none_or(Workload::is_settled) {
            let what = if asks || !self.asked {
                "the rollout is under way"
            } else {
                "the rollout was turned back, and is settling"
            };
            return Verdict::Wait(format!("{what}{reason}"));
        }
        if !self.may_replace {
            // Whoever asked for a rollout that is not noticed yet may be only slow.
            let is_refused = self.asked || matches!(self.goal, Goal::Replaced { mark: None });
            return match (is_refused, asks) {
                (true, false) => Verdict::Failed(Cause::Reverted),
                (true, true) => Verdict::Failed(Cause::NotAllowed),
                (false, _) => Verdict::Wait("waiting for the operator to carry the change over".to_owned()),
            };
        }
        // One that does not serve is missed by nobody.
        alive.sort_by(|a, b| a.ready.cmp(&b.ready).then_with(|| a.name.cmp(&b.name)));
        let next = alive[0];
        if let Some((until, why)) = &self.held_until
            && now < *until
        {
            return Verdict::Wait(why.clone());
        }
        let ready = seen.pods.iter().filter(|pod| pod.ready && !pod.terminating && !pod.ended).count();
        let enough = self.healthy.min(self.wanted(&seen.controller));
        if next.ready && ready < enough {
            return Verdict::Wait(format!(
                "waiting for {} more pod(s) to get ready before the next one is replaced{reason}",
                enough - ready
            ));
        }
        Verdict::Replace { name: next.name.clone(), uid: next.uid.clone() }
    }
}

fn is_of(endpoint: &Endpoint, pod: &Pod) -> bool {
    endpoint.is_of(&pod.uid, &pod.name, &pod.addresses)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::settings::{DESCRIPTOR, DISABLED, Settings};
    use super::*;

    const KEY: &str = "restartedAt";
    const PATIENCE: Patience =
        Patience { trouble: Duration::from_secs(100), operator: Duration::from_secs(50) };

    fn pod(uid: &str) -> Pod {
        Pod {
            name: format!("pod-{uid}"),
            uid: uid.to_owned(),
            addresses: vec![format!("10.0.0.{uid}")],
            ready: true,
            grace: Duration::from_secs(30),
            ..Pod::default()
        }
    }

    fn endpoint(uid: &str) -> Endpoint {
        Endpoint { uid: Some(uid.to_owned()), ..Endpoint::default() }
    }

    fn workload(wanted: usize, marked: bool) -> Workload {
        let annotations = if marked { [(KEY.to_owned(), "now".to_owned())].into() } else { BTreeMap::new() };
        Workload {
            generation: 1,
            observed: 1,
            wanted,
            replicas: wanted,
            updated: wanted,
            annotations,
            ..Workload::default()
        }
    }

    fn seen(workload: Workload, pods: &[Pod]) -> Seen {
        Seen { controller: Controller::Is(Box::new(workload)), pods: pods.to_vec(), ..Seen::default() }
    }

    /// As seen where endpoints may be read.
    fn with_endpoints(workload: Workload, pods: &[Pod], uids: &[&str]) -> Seen {
        let endpoints = Some(uids.iter().map(|uid| endpoint(uid)).collect());
        Seen { endpoints, shows_ending: true, ..seen(workload, pods) }
    }

    fn marked() -> Goal {
        Goal::Replaced { mark: Some((KEY.to_owned(), "now".to_owned())) }
    }

    fn one_by_one() -> Goal {
        Goal::Replaced { mark: None }
    }

    fn follower(goal: Goal, before: &Seen) -> Follower {
        Follower::new(goal, before, true, PATIENCE)
    }

    fn wait(verdict: Verdict) -> String {
        match verdict {
            Verdict::Wait(why) => why,
            other => panic!("{other:?}"),
        }
    }

    fn replace(verdict: Verdict) -> String {
        match verdict {
            Verdict::Replace { uid, .. } => uid,
            other => panic!("{other:?}"),
        }
    }

    const START: Duration = Duration::ZERO;

    #[test]
    fn it_is_done_only_when_no_old_pod_is_left() {
        let before = seen(workload(2, false), &[pod("1"), pod("2")]);
        let mut follower = follower(marked(), &before);
        assert_eq!((follower.replaced(), follower.total()), (0, 2));
        let rolling = Workload { updated: 1, ..workload(2, true) };
        let why = wait(follower.look(&seen(rolling, &[pod("2"), pod("3")]), START));
        assert_eq!((why.as_str(), follower.replaced()), ("the rollout is under way", 1));
        let ending = Pod { terminating: true, ..pod("2") };
        let why = wait(follower.look(&seen(workload(2, true), &[ending.clone(), pod("3"), pod("4")]), START));
        assert_eq!(why, "pod pod-2: it is being deleted, and may answer until it has ended");
        let late = Duration::from_secs(1000);
        assert!(
            matches!(follower.look(&seen(workload(2, true), &[ending, pod("3")]), late), Verdict::Wait(_)),
            "nobody knows who sends to it"
        );
        let unready = Pod { ready: false, ..pod("3") };
        let why = wait(follower.look(&seen(workload(2, true), &[unready]), START));
        assert_eq!(why, "waiting for a new pod to serve");
        let proof = follower.look(&seen(workload(2, true), &[pod("3"), pod("4")]), START);
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(
            proof,
            Verdict::Done(Proof {
                replaced: names(&["pod-1", "pod-2"]),
                serving: names(&["pod-3", "pod-4"]),
                lingering: Vec::new(),
            })
        );
    }

    #[test]
    fn an_endpoint_that_lags_is_waited_for() {
        let before = with_endpoints(workload(1, false), &[pod("1")], &["1"]);
        let mut follower = follower(marked(), &before);
        let new = [pod("2")];
        let why = wait(follower.look(&with_endpoints(workload(1, true), &new, &["1", "2"]), START));
        assert_eq!(why, "pod pod-1: it is gone, but a service still sends to it");
        let why = wait(follower.look(&with_endpoints(workload(1, true), &new, &[]), START));
        assert_eq!(why, "waiting for a new pod to serve", "nobody sends to it yet");
        assert!(matches!(
            follower.look(&with_endpoints(workload(1, true), &new, &["2"]), START),
            Verdict::Done(_)
        ));
    }

    #[test]
    fn an_endpoint_without_a_pod_is_known_by_its_address_until_a_new_pod_has_it() {
        let bare = Endpoint { addresses: ["10.0.0.1".to_owned()].into(), ..Endpoint::default() };
        let with =
            |pods: &[Pod]| Seen { endpoints: Some(vec![bare.clone()]), ..seen(workload(1, true), pods) };
        let mut follower = follower(marked(), &with(&[pod("1")]));
        assert!(matches!(follower.look(&with(&[pod("2")]), START), Verdict::Wait(_)));
        let heir = Pod { addresses: vec!["10.0.0.1".to_owned()], ..pod("3") };
        assert!(matches!(follower.look(&with(&[heir]), START), Verdict::Done(_)));
    }

    #[test]
    fn a_deletion_that_hangs_is_not_waited_for_once_nothing_is_sent_there() {
        let before = with_endpoints(workload(1, false), &[pod("1")], &["1"]);
        let mut follower = follower(marked(), &before);
        let pods = [Pod { terminating: true, ..pod("1") }, pod("2")];
        let after = with_endpoints(workload(1, true), &pods, &["2"]);
        let begun = Duration::from_secs(10);
        assert!(matches!(follower.look(&after, begun), Verdict::Wait(_)));
        assert!(matches!(follower.look(&after, begun + Duration::from_secs(29)), Verdict::Wait(_)));
        let late = begun + Duration::from_secs(30);
        let serving = with_endpoints(workload(1, true), &pods, &["1", "2"]);
        assert!(matches!(follower.look(&serving, late), Verdict::Wait(_)), "it is still sent to");
        let blind = Seen { shows_ending: false, ..after.clone() };
        assert!(matches!(follower.look(&blind, late), Verdict::Wait(_)), "it may be sent to");
        match follower.look(&after, late) {
            Verdict::Done(proof) => assert_eq!(proof.lingering, ["pod-1"]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_reverted_rollout_left_is_replaced_one_by_one() {
        let all = [pod("1"), pod("2"), pod("3")];
        let mut follower = follower(marked(), &seen(workload(3, false), &all));
        let rolling = Workload { updated: 1, ..workload(3, true) };
        assert!(matches!(follower.look(&seen(rolling, &all), START), Verdict::Wait(_)));
        let half = [pod("2"), pod("3"), pod("4")];
        let unseen = Workload { generation: 2, ..workload(3, false) };
        let why = wait(follower.look(&seen(unseen, &half), START));
        assert_eq!(why, "the rollout was turned back, and is settling");
        assert_eq!(replace(follower.look(&seen(workload(3, false), &half), START)), "2");
        // It is gone, and the next one waits for the new pod.
        let starting = [Pod { ready: false, ..pod("5") }, pod("3"), pod("4")];
        let why = wait(follower.look(&seen(workload(3, false), &starting), START));
        assert_eq!(why, "waiting for 1 more pod(s) to get ready before the next one is replaced");
        let started = [pod("5"), pod("3"), pod("4")];
        assert_eq!(replace(follower.look(&seen(workload(3, false), &started), START)), "3");
        assert!(matches!(
            follower.look(&seen(workload(3, false), &[pod("4"), pod("5"), pod("6")]), START),
            Verdict::Done(_)
        ));
    }

    #[test]
    fn pods_that_are_not_ready_are_replaced_first_and_at_once() {
        let pods = [pod("1"), Pod { ready: false, ..pod("2") }];
        let mut follower = follower(one_by_one(), &seen(workload(2, false), &pods));
        assert_eq!(replace(follower.look(&seen(workload(2, false), &pods), START)), "2");
        // One was ready before, so one is enough.
        let next = [pod("1"), Pod { ready: false, ..pod("3") }];
        assert_eq!(replace(follower.look(&seen(workload(2, false), &next), START)), "1");
        follower.hold(Duration::from_secs(5), "a budget".to_owned());
        assert_eq!(wait(follower.look(&seen(workload(2, false), &next), Duration::from_secs(4))), "a budget");
        assert_eq!(replace(follower.look(&seen(workload(2, false), &next), Duration::from_secs(5))), "1");
    }

    #[test]
    fn an_operator_that_does_nothing_is_not_waited_for_long() {
        let pods = [pod("1")];
        let unchanged = seen(workload(1, false), &pods);
        let mut follower = follower(marked(), &unchanged);
        assert_eq!(
            wait(follower.look(&unchanged, START)),
            "waiting for the operator to carry the change over"
        );
        assert_eq!(replace(follower.look(&unchanged, PATIENCE.operator)), "1");
        follower.forbid_replacing();
        assert!(matches!(follower.look(&unchanged, PATIENCE.operator), Verdict::Wait(_)));
    }

    #[test]
    fn without_the_right_to_replace_a_reverted_rollout_fails() {
        let pods = [pod("1")];
        let mut reverted = Follower::new(marked(), &seen(workload(1, false), &pods), false, PATIENCE);
        let rolling = Workload { updated: 0, ..workload(1, true) };
        assert!(matches!(reverted.look(&seen(rolling, &pods), START), Verdict::Wait(_)));
        assert_eq!(reverted.look(&seen(workload(1, false), &pods), START), Verdict::Failed(Cause::Reverted));
        assert_eq!(reverted.survivors().len(), 1);
        let mut forbidden = Follower::new(one_by_one(), &seen(workload(1, false), &pods), false, PATIENCE);
        assert_eq!(
            forbidden.look(&seen(workload(1, false), &pods), START),
            Verdict::Failed(Cause::NotAllowed)
        );
    }

    #[test]
    fn new_pods_that_do_not_start_are_told_and_waited_for_not_for_ever() {
        let mut follower = follower(marked(), &seen(workload(2, false), &[pod("1"), pod("2")]));
        let crashing = Pod { ready: false, trouble: Some("CrashLoopBackOff".to_owned()), ..pod("3") };
        let quiet = Pod { trouble: None, ..crashing.clone() };
        let rolling = Workload { replicas: 3, updated: 1, ..workload(2, true) };
        let look =
            |pod: &Pod| seen(rolling.clone(), &[super::tests::pod("1"), super::tests::pod("2"), pod.clone()]);
        let why = wait(follower.look(&look(&crashing), START));
        assert_eq!(why, "the rollout is under way (pod pod-3: CrashLoopBackOff)");
        // Between two crashes it looks as if it ran.
        assert!(matches!(follower.look(&look(&quiet), PATIENCE.trouble), Verdict::Wait(_)));
        let failed = follower.look(&look(&crashing), PATIENCE.trouble);
        let why = "CrashLoopBackOff".to_owned();
        assert_eq!(failed, Verdict::Failed(Cause::PodTrouble { pod: "pod-3".to_owned(), why }));
        assert!(matches!(follower.look(&look(&pod("3")), PATIENCE.trouble), Verdict::Wait(_)));
        assert!(
            matches!(follower.look(&look(&crashing), PATIENCE.trouble * 2), Verdict::Wait(_)),
            "it was ready meanwhile"
        );
    }

    #[test]
    fn the_controllers_own_deadline_counts_only_for_our_change() {
        let old = [pod("1")];
        let stuck = |marked: bool, observed: i64| {
            let stuck = Some("timed out progressing".to_owned());
            Workload { stuck, observed, replicas: 2, ..workload(1, marked) }
        };
        let unscheduled =
            Pod { ready: false, trouble: Some("Unschedulable: no nodes".to_owned()), ..pod("2") };
        let pods = [pod("1"), unscheduled];
        let mut of_ours = follower(marked(), &seen(workload(1, false), &old));
        assert!(matches!(of_ours.look(&seen(stuck(true, 0), &pods), START), Verdict::Wait(_)), "from before");
        let failed = of_ours.look(&seen(stuck(true, 1), &pods), START);
        let why = "timed out progressing; pod pod-2: Unschedulable: no nodes".to_owned();
        assert_eq!(failed, Verdict::Failed(Cause::Stuck(why)));
        let mut one_by_one = follower(one_by_one(), &seen(stuck(false, 1), &old));
        assert!(matches!(one_by_one.look(&seen(stuck(false, 1), &old), START), Verdict::Wait(_)));
    }

    #[test]
    fn nothing_that_runs_has_nothing_to_forget() {
        let mut none = follower(marked(), &seen(workload(0, false), &[]));
        assert!(matches!(none.look(&seen(workload(0, false), &[]), START), Verdict::Done(_)));
        let ending = [Pod { terminating: true, ..pod("1") }];
        let mut absent = follower(one_by_one(), &Seen { pods: ending.to_vec(), ..Seen::default() });
        assert!(matches!(
            absent.look(&Seen { pods: ending.to_vec(), ..Seen::default() }, START),
            Verdict::Wait(_)
        ));
        assert!(matches!(absent.look(&Seen::default(), START), Verdict::Done(_)));
        let ended = [Pod { ended: true, ..pod("1") }];
        assert_eq!(follower(one_by_one(), &seen(workload(1, false), &ended)).total(), 0);
    }

    #[test]
    fn settings_count_pod_by_pod_and_only_once_the_controller_is_settled() {
        let entry = |name: &str, value: &str| Some(json!({ "name": name, "value": value }));
        let off = Settings {
            disabled: entry(DISABLED, "true"),
            descriptor: entry(DESCRIPTOR, "inmemory"),
            read_only: None,
        };
        let with = |uid: &str, settings: &Settings| Pod { settings: settings.clone(), ..pod(uid) };
        let template = |settings: &Settings, updated: usize| Workload {
            settings: settings.clone(),
            updated,
            ..workload(1, false)
        };
        let on = Settings::default();
        let mut follower = follower(Goal::CachesOff, &seen(template(&on, 1), &[with("1", &on)]));
        assert!(matches!(
            follower.look(&seen(template(&off, 0), &[with("1", &on)]), START),
            Verdict::Wait(_)
        ));
        assert!(matches!(
            follower.look(&seen(template(&off, 0), &[with("2", &off)]), START),
            Verdict::Wait(_)
        ));
        // The old template's controller made another one.
        assert!(matches!(
            follower.look(&seen(template(&off, 0), &[with("2", &off), with("3", &on)]), START),
            Verdict::Wait(_)
        ));
        assert_eq!(follower.total(), 2);
        assert!(matches!(
            follower.look(&seen(template(&off, 1), &[with("2", &off)]), START),
            Verdict::Done(_)
        ));
        assert_eq!(
            follower.look(&seen(template(&on, 1), &[with("2", &off)]), START),
            Verdict::Failed(Cause::Reverted)
        );

        let mut back =
            super::tests::follower(Goal::LikeTemplate, &seen(template(&off, 1), &[with("2", &off)]));
        assert!(matches!(back.look(&seen(template(&on, 0), &[with("2", &off)]), START), Verdict::Wait(_)));
        assert!(matches!(back.look(&seen(template(&on, 1), &[with("4", &on)]), START), Verdict::Done(_)));
    }
}
