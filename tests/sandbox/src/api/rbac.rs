//! Rights that objects give: roles, cluster roles and their bindings.

use serde_json::{Value, json};

use super::Api;
use super::access::{Rule, group, image_pruner};
use super::resource::Resource;
use super::status::{Failure, Target};
use super::store::{Store, metadata};

/// Puts the roles into a store that every cluster has.
pub(super) fn prepare(store: &Store) {
    let puller = Rule::new(&["get"], &["", "image.openshift.io"], &["imagestreams/layers"]);
    for (name, rules) in [
        ("cluster-admin", vec![Rule::new(&["*"], &["*"], &["*"])]),
        ("system:image-pruner", image_pruner()),
        ("system:image-puller", vec![puller]),
    ] {
        let rules: Vec<Value> = rules.iter().map(written).collect();
        store.create("clusterroles", json!({ "metadata": { "name": name }, "rules": rules }));
    }
}

/// A rule as objects and reviews have it.
pub(super) fn written(rule: &Rule) -> Value {
    let mut written = json!({ "verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources });
    if !rule.names.is_empty() {
        written["resourceNames"] = rule.names.as_slice().into();
    }
    written
}

fn read(rule: &Value, namespace: Option<&str>) -> Rule {
    let list = |field: &str| -> Vec<String> {
        let values = rule[field].as_array().into_iter().flatten();
        values.filter_map(Value::as_str).map(ToOwned::to_owned).collect()
    };
    Rule {
        verbs: list("verbs"),
        groups: list("apiGroups"),
        resources: list("resources"),
        namespace: namespace.map(ToOwned::to_owned),
        names: list("resourceNames"),
    }
}

/// Whether a subject of a binding is this user, or a group that the user is in.
fn is_subject(subject: &Value, user: &str) -> bool {
    let name = subject["name"].as_str().unwrap_or_default();
    let account = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match (subject["kind"].as_str(), account) {
        (Some("ServiceAccount"), Some((namespace, account))) => {
            name == account && subject["namespace"].as_str() == Some(namespace)
        }
        (Some("User"), _) => name == user,
        (Some("Group"), Some((namespace, _))) => {
            name == "system:serviceaccounts"
                || name.strip_prefix("system:serviceaccounts:") == Some(namespace)
                || name == "system:authenticated"
        }
        (Some("Group"), None) => name == group(user),
        _ => false,
    }
}

/// A binding that gives a user rights, and these.
struct Given {
    binding: Value,
    kind: &'static str,
    rules: Vec<Rule>,
}

fn given(store: &Store, user: &str) -> Vec<Given> {
    let mut given = Vec::new();
    for (resource, kind) in [("clusterrolebindings", "ClusterRoleBinding"), ("rolebindings", "RoleBinding")] {
        for binding in store.list(resource) {
            let mut subjects = binding["subjects"].as_array().into_iter().flatten();
            if subjects.any(|subject| is_subject(subject, user)) {
                let rules = rules(store, &binding);
                given.push(Given { binding, kind, rules });
            }
        }
    }
    given
}

/// The rules that a binding gives; those of a role that is not there are none.
fn rules(store: &Store, binding: &Value) -> Vec<Rule> {
    let namespace = Some(metadata(binding, "namespace")).filter(|namespace| !namespace.is_empty());
    let name = binding["roleRef"]["name"].as_str().unwrap_or_default();
    let role = match binding["roleRef"]["kind"].as_str() {
        Some("Role") => store.get("roles", namespace.unwrap_or_default(), name),
        _ => store.get("clusterroles", "", name),
    };
    let rules = role.as_ref().and_then(|role| role["rules"].as_array()).into_iter().flatten();
    rules.map(|rule| read(rule, namespace)).collect()
}

impl Api {
    /// Why a user may do this; `None` if they may not.
    pub(super) fn reason(&self, user: &str, verb: &str, target: &Target<'_>) -> Option<String> {
        if self.access.is_denied(user, verb, target) {
            return None;
        }
        if let Some(reason) = self.access.reason(user, verb, target) {
            return Some(reason);
        }
        let given = given(&self.store, user).into_iter();
        given
            .filter(|given| given.rules.iter().any(|rule| rule.allows(verb, target)))
            .map(explain(user))
            .next()
    }

    /// All rules that count for a user in a namespace.
    pub(super) fn rules_of(&self, user: &str, namespace: &str) -> Vec<Rule> {
        let mut rules = self.access.rules(user);
        rules.extend(given(&self.store, user).into_iter().flat_map(|given| given.rules));
        rules.retain(|rule| rule.namespace.as_deref().is_none_or(|only| only == namespace));
        rules
    }

    /// Fails if a role or a binding would give what its author does not have.
    pub(super) fn no_escalation(
        &self,
        resource: &Resource,
        user: &str,
        object: &Value,
    ) -> Result<(), Failure> {
        let namespace = metadata(object, "namespace");
        let rules = match resource.plural {
            "roles" | "clusterroles" => {
                let rules = object["rules"].as_array().into_iter().flatten();
                rules.map(|rule| read(rule, None)).collect()
            }
            "rolebindings" | "clusterrolebindings" => rules(&self.store, object),
            _ => return Ok(()),
        };
        let missing = rules.iter().find(|rule| !self.has(user, namespace, rule));
        match missing {
            None => Ok(()),
            Some(rule) => Err(Failure::escalation(resource, metadata(object, "name"), user, rule)),
        }
    }

    fn has(&self, user: &str, namespace: &str, rule: &Rule) -> bool {
        let names: Vec<&str> =
            if rule.names.is_empty() { vec![""] } else { rule.names.iter().map(String::as_str).collect() };
        let mut targets = rule.groups.iter().flat_map(|group| {
            let names = &names;
            rule.resources.iter().flat_map(move |resource| {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                names.iter().map(move |name| Target { group, resource, subresource, namespace, name })
            })
        });
        targets.all(|target| rule.verbs.iter().all(|verb| self.reason(user, verb, &target).is_some()))
    }
}

fn explain(user: &str) -> impl Fn(Given) -> String {
    move |Given { binding, kind, .. }| {
        let role = &binding["roleRef"];
        let word = |field: &str| role[field].as_str().unwrap_or_default().to_owned();
        let name = match metadata(&binding, "namespace") {
            "" => metadata(&binding, "name").to_owned(),
            namespace => format!("{}/{namespace}", metadata(&binding, "name")),
        };
        let of = format!("of {} {:?}", word("kind"), word("name"));
        let subject = match user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
        {
            Some((namespace, account)) => format!("ServiceAccount {:?}", format!("{account}/{namespace}")),
            None => format!("User {user:?}"),
        };
        format!("RBAC: allowed by {kind} {name:?} {of} to {subject}")
    }
}
