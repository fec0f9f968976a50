//! What has to hold before a hard prune: found out before anything is changed, each with the command that helps (I/O).

use std::fmt::Write as _;

use futures::future::join_all;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::process::{Other, Target};
use crate::cache::detect::{Discovery, Need, Rule, Verdict, ask, ask_of_account};
use crate::cache::rollout::read_only::State;
use crate::cluster::{ApiRequest, Cluster};
use crate::error::Failure;
use crate::text::brief;

/// A `ClusterRole` that gives the service account what it needs, and is there on every cluster.
const ROLES: [&str; 3] = ["system:image-pruner", "cluster-admin", "cluster-reader"];

/// Something that has to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Precondition {
    /// `exec`: this user may run commands in the registry's pods; `account`: the registry's service account may read what
    /// it needs; `readOnly`: read-only mode is on, or this user may switch it; `alone`: no other hard prune deletes.
    pub name: &'static str,
    /// Whether it holds; absent if that cannot be found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holds: Option<bool>,
    /// In one line.
    pub message: String,
    /// What helps: the exact command or flag.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

impl Precondition {
    fn new(name: &'static str, holds: Option<bool>, message: String) -> Self {
        Self { name, holds, message, hints: Vec::new() }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The failure of a run that needs it.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let failure = Failure::nothing_changed(format!("hard prune: {}", self.message));
        self.hints.iter().fold(failure, |failure, hint| failure.hint(hint.clone()))
    }
}

/// Whether this user may run commands in the registry's pods.
pub async fn may_execute(cluster: &Cluster, found: &Discovery) -> Precondition {
    let rules = Need::execute(&found.place).map(|need| need.rule);
    of_user("exec", cluster, &rules, "run commands in the registry's pods").await
}

/// What has to hold, in the order in which it is needed. `others` are the hard prunes that run, or why that is not known.
pub async fn preconditions(
    cluster: &Cluster,
    target: &Target,
    read_only: &Result<State, Failure>,
    others: &Result<Vec<Other>, String>,
    take_over: &str,
) -> Vec<Precondition> {
    let read_only = async {
        match read_only {
            Ok(state) if state.is_anothers() => Precondition::new(
                "readOnly",
                Some(true),
                format!("read-only mode is on ({}), and stays on", state.set_in),
            ),
            Ok(state) => {
                let what = format!("switch read-only mode ({})", state.set_in);
                let mut holds = of_user("readOnly", cluster, &state.rights, &what).await;
                if let Some(kept) = &state.kept {
                    // Writing to a `String` cannot fail.
                    let _ = write!(
                        holds.message,
                        "; it was switched on by {} at {}, and not put back",
                        brief(&kept.by),
                        brief(&kept.since)
                    );
                }
                holds
            }
            Err(failure) => Precondition {
                hints: failure.hints.clone(),
                ..Precondition::new("readOnly", Some(false), failure.message.clone())
            },
        }
    };
    let (account, read_only) = tokio::join!(account(cluster, target), read_only);
    vec![account, read_only, alone(others, take_over)]
}

fn alone(others: &Result<Vec<Other>, String>, take_over: &str) -> Precondition {
    match others {
        Err(why) => Precondition::new("alone", None, format!("whether another hard prune runs is not known: {why}")),
        Ok(others) => match others.iter().find(|other| other.deletes) {
            None => Precondition::new("alone", Some(true), "no other hard prune deletes".to_owned()),
            Some(other) => Precondition::new("alone", Some(false), format!("another one is deleting: {other}"))
                .hint("wait until it has ended; if nobody waits for it any longer, because its run was killed or lost its connection:")
                .hint(format!("end it, and go on: {take_over}")),
        },
    }
}

async fn of_user(name: &'static str, cluster: &Cluster, rules: &[Rule], what: &str) -> Precondition {
    let verdicts = join_all(rules.iter().map(|rule| ask(cluster, rule))).await;
    let is_missing = |(_, verdict): &(&Rule, &Verdict)| **verdict == Verdict::Denied;
    let missing: Vec<Rule> =
        rules.iter().zip(&verdicts).filter(is_missing).map(|(rule, _)| rule.clone()).collect();
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        let message = format!("you may not {what}: missing: {}", names.join(", "));
        // They are of the same resource.
        return Precondition::new(name, Some(false), message)
            .hint(format!("have an administrator give the right: {}", Rule::command_of(&missing)));
    }
    let unknown = verdicts.iter().find_map(|verdict| match verdict {
        Verdict::NotKnown(why) => Some(why),
        Verdict::Allowed | Verdict::Denied => None,
    });
    match unknown {
        None => Precondition::new(name, Some(true), format!("you may {what}")),
        Some(why) => {
            Precondition::new(name, None, format!("whether you may {what} is not known: {}", brief(why)))
        }
    }
}

/// Whether the registry's service account may list images and read every image stream, without which hard prune stops.
async fn account(cluster: &Cluster, target: &Target) -> Precondition {
    const NAME: &str = "account";
    let Target { namespace, account, .. } = target;
    let rules = [("list", "images"), ("get", "imagestreams")]
        .map(|(verb, resource)| Rule::cluster_wide(verb, "image.openshift.io", resource));
    let asked = rules.iter().map(|rule| ask_of_account(cluster, rule, namespace, account));
    let verdicts = join_all(asked).await;
    let give = format!(
        "give it the role: oc adm policy add-cluster-role-to-user system:image-pruner -z {account} -n {namespace}"
    );
    let may = format!("the registry's service account {account} may list images and read image streams");
    if verdicts.iter().all(|verdict| *verdict == Verdict::Allowed) {
        return Precondition::new(NAME, Some(true), may);
    }
    let missing: Vec<String> = rules
        .iter()
        .zip(&verdicts)
        .filter(|(_, verdict)| **verdict == Verdict::Denied)
        .map(|(rule, _)| rule.to_string())
        .collect();
    if !missing.is_empty() {
        let message = format!(
            "the registry's service account {account} lacks what hard prune needs: {}",
            missing.join(", ")
        );
        return Precondition::new(NAME, Some(false), message).hint(give);
    }
    // Whoever may not ask on behalf of others may perhaps see who has which role.
    match bound(cluster, namespace, account).await {
        Ok(Some(role)) => Precondition::new(NAME, Some(true), format!("{may} (ClusterRole {role})")),
        // Another role may give it.
        Ok(None) => Precondition::new(
            NAME,
            None,
            format!("whether the registry's service account {account} may list images is not known: it has none of the ClusterRoles {}", ROLES.join(", ")),
        )
        .hint(give),
        Err(why) => Precondition::new(
            NAME,
            None,
            format!("whether the registry's service account {account} may list images is not known: {why}; hard prune itself says so if it may not"),
        )
        .hint(give),
    }
}

/// The role that a binding gives the service account, of those that are known to suffice.
async fn bound(cluster: &Cluster, namespace: &str, account: &str) -> Result<Option<String>, String> {
    let request = ApiRequest::get("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings");
    let answer = cluster.request(request).await.map_err(|error| brief(&error.to_string()))?;
    let list: Value = serde_json::from_slice(&answer.body).map_err(|error| brief(&error.to_string()))?;
    let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    let is_subject = |subject: &Value| match subject["kind"].as_str() {
        Some("ServiceAccount") => subject["namespace"] == namespace && subject["name"] == account,
        Some("User") => subject["name"] == format!("system:serviceaccount:{namespace}:{account}").as_str(),
        Some("Group") => groups.iter().any(|group| subject["name"] == group.as_str()),
        _ => false,
    };
    let bindings = list["items"].as_array().into_iter().flatten();
    let mut roles = bindings.filter_map(|binding| {
        let role = binding["roleRef"]["name"].as_str().filter(|role| ROLES.contains(role))?;
        binding["subjects"].as_array()?.iter().any(is_subject).then(|| role.to_owned())
    });
    Ok(roles.next())
}
