//! The ways to restart the registry, and which of them is open. Pure.

use std::fmt;

use super::super::detect::{Need, Place, Rule, WorkloadKind};
use super::seen::Controller;

/// A way to restart the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// An annotation of the pod template, as `oc rollout restart` sets it.
    Annotate,
    /// An annotation that the operator carries over into the pod template.
    Override,
    /// The pods one by one through the Eviction API, which heeds a `PodDisruptionBudget`.
    Evict,
    /// The pods one by one by deleting them.
    Delete,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Annotate => "a rollout",
            Self::Override => "a rollout through the operator's configuration",
            Self::Evict => "evicting its pods one by one",
            Self::Delete => "deleting its pods one by one",
        })
    }
}

/// The rights that the ways need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needed {
    /// For [`Way::Annotate`].
    pub(crate) annotate: Rule,
    /// For [`Way::Override`], next to reading it.
    pub(crate) configure: Rule,
    /// To read the operator's configuration.
    pub(crate) read_operator: Rule,
    /// For [`Way::Evict`].
    pub(crate) evict: Rule,
    /// For [`Way::Delete`].
    pub(crate) delete: Rule,
}

impl Needed {
    /// The rights for the registry at this place.
    #[must_use]
    pub(crate) fn at(place: &Place) -> Self {
        Self {
            annotate: Need::annotate(WorkloadKind::Deployment, place).rule,
            configure: Need::configure().rule,
            read_operator: Need::read_operator().rule,
            evict: Need::evict_pods(place).rule,
            delete: Need::delete_pods(place).rule,
        }
    }
}

/// What this user may do; what could not be found out counts as allowed, and shows when it is tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each right")]
pub(crate) struct Rights {
    /// Patch the Deployment.
    pub(crate) annotate: bool,
    /// Update the operator's configuration.
    pub(crate) configure: bool,
    /// Evict pods.
    pub(crate) evict: bool,
    /// Delete pods.
    pub(crate) delete: bool,
}

/// Who looks after the Deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operator {
    /// Nobody.
    Absent,
    /// Its configuration may not be read: there may be one.
    Hidden,
    /// One whose `managementState` is this.
    Is(String),
}

impl Operator {
    /// Whether nobody turns a change of the Deployment back.
    #[must_use]
    pub(crate) fn is_hands_off(&self) -> bool {
        match self {
            Self::Absent => true,
            Self::Hidden => false,
            Self::Is(state) => state == "Unmanaged",
        }
    }
}

/// Everything that the choice depends on.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// What makes the pods.
    pub(crate) controller: Controller,
    /// What kind of object that is.
    pub(crate) kind: WorkloadKind,
    /// Who looks after it.
    pub(crate) operator: Operator,
    /// What this user may do.
    pub(crate) rights: Rights,
}

/// Which ways are open, the best first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// The open ones.
    pub possible: Vec<Way>,
    /// The rights any of which would open another one.
    pub missing: Vec<Rule>,
    /// Why there is nothing to restart, if there is not.
    pub nothing: Option<String>,
    /// Why it could not be found out, if it could not.
    pub obstacle: Option<String>,
    /// What to say before it is done.
    pub notes: Vec<String>,
}

impl Ways {
    /// Whether the registry can be restarted, or need not be.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        self.nothing.is_some() || !self.possible.is_empty()
    }
}

/// Chooses.
#[must_use]
pub(crate) fn choose(facts: &Facts, place: &Place) -> Ways {
    let Facts { controller, kind, operator, rights } = facts;
    let workload = controller.workload();
    let mut ways = Ways { nothing: nothing(facts, place), ..Ways::default() };
    let is_paused = workload.is_some_and(|workload| workload.paused);
    let rolls_out = *kind == WorkloadKind::Deployment && !is_paused && workload.is_some();
    let needed = Needed::at(place);
    let mut offer = |way, is_of_use: bool, has_right: bool, right: &Rule| {
        if is_of_use && has_right {
            ways.possible.push(way);
        } else if is_of_use && !ways.missing.contains(right) {
            ways.missing.push(right.clone());
        }
    };
    let is_managed = matches!(operator, Operator::Is(_)) && !operator.is_hands_off();
    offer(Way::Annotate, rolls_out && operator.is_hands_off(), rights.annotate, &needed.annotate);
    offer(Way::Override, rolls_out && is_managed, rights.configure, &needed.configure);
    offer(Way::Override, rolls_out && *operator == Operator::Hidden, false, &needed.read_operator);
    offer(Way::Evict, true, rights.evict, &needed.evict);
    offer(Way::Delete, true, rights.delete, &needed.delete);
    // An operator that may be there may turn it back, and nothing could be done about it then.
    let is_last_resort = ways.possible.is_empty() && rolls_out && *operator == Operator::Hidden;
    if is_last_resort && rights.annotate {
        ways.possible.push(Way::Annotate);
    }
    if ways.nothing.is_some() {
        ways.missing.clear();
        return ways;
    }
    ways.notes = notes(facts, place, is_paused, &ways);
    ways
}

fn nothing(facts: &Facts, place: &Place) -> Option<String> {
    let Place { namespace, deployment } = place;
    let word = facts.kind.word();
    match &facts.controller {
        Controller::Absent if facts.operator == Operator::Is("Removed".to_owned()) => Some(
            "the registry is removed (managementState: Removed): nothing runs, so nothing caches".to_owned(),
        ),
        Controller::Absent => {
            Some(format!("there is no deployment/{deployment} in namespace {namespace}: nothing to restart"))
        }
        Controller::Is(workload) if workload.wanted == 0 => Some(format!(
            "{word}/{deployment} in namespace {namespace} has spec.replicas: 0: nothing runs, so nothing caches"
        )),
        Controller::Is(_) | Controller::Hidden => None,
    }
}

fn notes(facts: &Facts, place: &Place, is_paused: bool, ways: &Ways) -> Vec<String> {
    let Place { namespace, deployment } = place;
    let mut notes = Vec::new();
    let Some(workload) = facts.controller.workload() else { return notes };
    let word = facts.kind.word();
    if is_paused {
        notes.push(format!(
            "{word}/{deployment} is paused, so a change of its pod template has no effect: its pods are replaced one by one (oc rollout resume {word}/{deployment} -n {namespace} ends the pause)"
        ));
    }
    let one_by_one = matches!(ways.possible.first(), Some(Way::Evict | Way::Delete));
    if workload.recreates && !one_by_one {
        notes.push(format!(
            "{word}/{deployment} ends its old pods before it starts new ones (strategy Recreate): the registry will be away for a moment"
        ));
    } else if workload.wanted == 1 && one_by_one {
        notes.push("the registry has a single replica: it will be away for a moment".to_owned());
    } else if workload.wanted == 1 {
        notes.push("the registry has a single replica: it may be away for a moment".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::super::seen::Workload;
    use super::*;

    const ALL: Rights = Rights { annotate: true, configure: true, evict: true, delete: true };

    fn facts(operator: &str, rights: Rights) -> Facts {
        let operator = match operator {
            "" => Operator::Absent,
            "?" => Operator::Hidden,
            state => Operator::Is(state.to_owned()),
        };
        let controller = Controller::Is(Box::new(Workload { wanted: 2, ..Workload::default() }));
        Facts { controller, kind: WorkloadKind::Deployment, operator, rights }
    }

    fn possible(facts: &Facts) -> Vec<Way> {
        choose(facts, &Place::default()).possible
    }

    #[test]
    fn the_operator_decides_which_rollout_lasts() {
        use Way::{Annotate, Delete, Evict, Override};
        for state in ["", "Unmanaged"] {
            assert_eq!(possible(&facts(state, ALL)), [Annotate, Evict, Delete], "{state}");
        }
        for state in ["Managed", "Force"] {
            assert_eq!(possible(&facts(state, ALL)), [Override, Evict, Delete], "{state}");
        }
        assert_eq!(possible(&facts("?", ALL)), [Evict, Delete]);
        let only_patch = Rights { annotate: true, ..Rights::default() };
        assert_eq!(possible(&facts("?", only_patch)), [Annotate], "better than nothing");
        assert!(possible(&facts("Managed", only_patch)).is_empty(), "it would be turned back");
        let config = DeploymentConfigFacts::with(facts("", ALL));
        assert_eq!(possible(&config), [Evict, Delete]);
    }

    struct DeploymentConfigFacts;

    impl DeploymentConfigFacts {
        fn with(facts: Facts) -> Facts {
            Facts { kind: WorkloadKind::DeploymentConfig, ..facts }
        }
    }

    #[test]
    fn missing_rights_are_named() {
        let missing = |facts: &Facts| {
            choose(facts, &Place::default()).missing.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (evict, delete) = (
            "create pods/eviction in namespace openshift-image-registry",
            "delete pods in namespace openshift-image-registry",
        );
        assert_eq!(
            missing(&facts("", Rights::default())),
            ["patch deployments.apps/image-registry in namespace openshift-image-registry", evict, delete]
        );
        assert_eq!(
            missing(&facts("Managed", Rights::default())),
            [
                "update configs.imageregistry.operator.openshift.io/cluster in the whole cluster",
                evict,
                delete
            ]
        );
        assert_eq!(
            missing(&facts("?", Rights { annotate: true, ..Rights::default() })),
            ["get configs.imageregistry.operator.openshift.io/cluster in the whole cluster", evict, delete]
        );
    }

    #[test]
    fn what_runs_nothing_needs_no_restart() {
        let with = |controller: Controller, operator: &str| {
            choose(&Facts { controller, ..facts(operator, Rights::default()) }, &Place::default())
        };
        let none = Controller::Is(Box::default());
        for (ways, words) in [
            (with(none, "Managed"), "has spec.replicas: 0"),
            (with(Controller::Absent, "Removed"), "managementState: Removed"),
            (with(Controller::Absent, ""), "there is no deployment/image-registry"),
        ] {
            assert!(ways.is_possible());
            assert!(ways.nothing.as_ref().is_some_and(|why| why.contains(words)), "{ways:?}");
        }
    }

    #[test]
    fn what_will_be_felt_is_said_before() {
        let notes = |workload: Workload, operator: &str, rights: Rights| {
            choose(
                &Facts { controller: Controller::Is(Box::new(workload)), ..facts(operator, rights) },
                &Place::default(),
            )
            .notes
            .join("; ")
        };
        let one = Workload { wanted: 1, ..Workload::default() };
        assert!(notes(one.clone(), "", ALL).contains("it may be away for a moment"));
        assert!(notes(one.clone(), "?", ALL).contains("it will be away for a moment"));
        let recreate = Workload { recreates: true, wanted: 3, ..Workload::default() };
        assert!(notes(recreate.clone(), "", ALL).contains("strategy Recreate"));
        assert_eq!(notes(recreate, "?", ALL), "", "evictions go one by one");
        let paused = Facts {
            controller: Controller::Is(Box::new(Workload { paused: true, wanted: 2, ..Workload::default() })),
            ..facts("", ALL)
        };
        let ways = choose(&paused, &Place::default());
        assert_eq!(ways.possible, [Way::Evict, Way::Delete]);
        assert!(
            ways.notes[0].contains("oc rollout resume deployment/image-registry -n openshift-image-registry")
        );
    }
}
