//! Users, their tokens and their rights.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::status::Target;
use crate::lock;

/// The user without credentials.
pub const ANONYMOUS: &str = "system:anonymous";

/// A rule of a role; `*` stands for everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The verbs.
    pub verbs: Vec<String>,
    /// The API groups.
    pub groups: Vec<String>,
    /// The resources, with their subresource: `imagestreams/status`.
    pub resources: Vec<String>,
    /// The only namespace it counts in; all (and the cluster scope) if absent.
    pub namespace: Option<String>,
    /// The only objects it counts for; all if empty.
    pub names: Vec<String>,
}

impl Rule {
    /// A rule for all namespaces.
    #[must_use]
    pub fn new(verbs: &[&str], groups: &[&str], resources: &[&str]) -> Self {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Self {
            verbs: owned(verbs),
            groups: owned(groups),
            resources: owned(resources),
            namespace: None,
            names: Vec::new(),
        }
    }

    /// Restricts the rule to a namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Restricts the rule to objects of these names.
    #[must_use]
    pub fn named(mut self, names: &[&str]) -> Self {
        self.names = names.iter().map(ToString::to_string).collect();
        self
    }

    pub(super) fn allows(&self, verb: &str, target: &Target<'_>) -> bool {
        let has = |names: &[String], name: &str| names.iter().any(|known| known == "*" || known == name);
        let resource = match target.subresource {
            "" => target.resource.to_owned(),
            subresource => format!("{}/{subresource}", target.resource),
        };
        has(&self.verbs, verb)
            && has(&self.groups, target.group)
            && has(&self.resources, &resource)
            && self.namespace.as_deref().is_none_or(|namespace| namespace == target.namespace)
            && (self.names.is_empty() || self.names.iter().any(|name| name == target.name))
    }
}

/// The group that a user is in.
pub(crate) fn group(user: &str) -> &'static str {
    if user == ANONYMOUS { "system:unauthenticated" } else { "system:authenticated" }
}

/// The rules of the cluster role `system:image-pruner`.
#[must_use]
pub fn image_pruner() -> Vec<Rule> {
    vec![
        Rule::new(&["get", "list"], &[""], &["pods", "replicationcontrollers"]),
        Rule::new(&["list"], &[""], &["limitranges"]),
        Rule::new(&["get", "list"], &["", "build.openshift.io"], &["buildconfigs", "builds"]),
        Rule::new(&["get", "list"], &["", "apps.openshift.io"], &["deploymentconfigs"]),
        Rule::new(&["get", "list"], &["batch"], &["jobs", "cronjobs"]),
        Rule::new(&["get", "list"], &["apps"], &["daemonsets", "deployments", "replicasets", "statefulsets"]),
        Rule::new(&["delete"], &["", "image.openshift.io"], &["images"]),
        Rule::new(&["get", "list", "watch"], &["", "image.openshift.io"], &["images", "imagestreams"]),
        Rule::new(&["update"], &["", "image.openshift.io"], &["imagestreams/status"]),
    ]
}

/// The user name of the service account that the registry's pods have.
pub const REGISTRY_ACCOUNT: &str = "system:serviceaccount:openshift-image-registry:registry";

/// The rules of the cluster role `system:registry`, as far as they are of image streams and images.
fn registry() -> Vec<Rule> {
    const IMAGE: &[&str] = &["image.openshift.io"];
    vec![
        Rule::new(&["list"], &[""], &["limitranges", "resourcequotas"]),
        Rule::new(&["get"], IMAGE, &["imagestreamimages", "imagestreams/layers", "imagestreams/secrets"]),
        Rule::new(&["get", "update"], IMAGE, &["imagestreams"]),
        Rule::new(&["delete"], IMAGE, &["imagestreamtags"]),
        Rule::new(&["get", "update", "create"], IMAGE, &["images"]),
        Rule::new(&["create"], IMAGE, &["imagestreammappings"]),
        Rule::new(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews"]),
    ]
}

/// The rules of `system:image-pruner` and further ones.
#[must_use]
pub fn pruner_and(further: impl IntoIterator<Item = Rule>) -> Vec<Rule> {
    image_pruner().into_iter().chain(further).collect()
}

const REGISTRY: &str = "openshift-image-registry";

/// What it takes besides [`image_pruner`] to reach the registry's pods through port-forwards.
#[must_use]
pub fn port_forwarder() -> Rule {
    Rule::new(&["get", "create"], &[""], &["pods/portforward"]).in_namespace(REGISTRY)
}

/// What it takes besides [`image_pruner`] to run commands in the registry's pods.
#[must_use]
pub fn executor() -> Rule {
    Rule::new(&["get", "create"], &[""], &["pods/exec"]).in_namespace(REGISTRY)
}

/// What it takes besides [`image_pruner`] to find the routes to the registry.
#[must_use]
pub fn route_reader() -> Rule {
    Rule::new(&["list"], &["route.openshift.io"], &["routes"]).in_namespace(REGISTRY)
}

/// What it takes besides [`image_pruner`] to read who signs the certificates of the registry's service.
#[must_use]
pub fn service_ca_reader() -> Rule {
    Rule::new(&["get"], &[""], &["configmaps"]).in_namespace(REGISTRY).named(&["openshift-service-ca.crt"])
}

/// What it takes besides [`image_pruner`] to change the registry's Deployment.
#[must_use]
pub fn restarter() -> Rule {
    Rule::new(&["patch"], &["apps"], &["deployments"]).in_namespace(REGISTRY).named(&["image-registry"])
}

/// What it takes besides [`image_pruner`] to evict the registry's pods.
#[must_use]
pub fn evictor() -> Rule {
    Rule::new(&["create"], &[""], &["pods/eviction"]).in_namespace(REGISTRY)
}

/// What it takes besides [`image_pruner`] to change the configuration of the registry's operator.
#[must_use]
pub fn operator_configurator() -> Rule {
    Rule::new(&["get", "patch", "update"], &["imageregistry.operator.openshift.io"], &["configs"])
        .named(&["cluster"])
}

/// What it takes besides [`image_pruner`] to read what the registry's environment refers to.
#[must_use]
pub fn settings_reader() -> Rule {
    Rule::new(&["get"], &[""], &["configmaps", "secrets"]).in_namespace(REGISTRY)
}

/// What it takes besides [`image_pruner`] to read which pods the registry's service leads to.
#[must_use]
pub fn endpoint_reader() -> Rule {
    let (groups, resources) = (["", "discovery.k8s.io"], ["services", "endpoints", "endpointslices"]);
    Rule::new(&["get", "list", "watch"], &groups, &resources).in_namespace(REGISTRY)
}

#[derive(Debug, Default)]
struct Account {
    role: String,
    rules: Vec<Rule>,
    denied: Vec<(String, String, String)>,
}

#[derive(Debug, Default)]
struct State {
    accounts: HashMap<String, Account>,
    /// Token to user.
    tokens: HashMap<String, String>,
}

/// The users of a sandbox; clones share them. Everything can be changed while requests come in.
#[derive(Clone, Debug)]
pub struct Access {
    state: Arc<Mutex<State>>,
}

impl Default for Access {
    fn default() -> Self {
        let access = Self { state: Arc::default() };
        access.add_user("admin", "cluster-admin", vec![Rule::new(&["*"], &["*"], &["*"])]);
        access.add_user("pruner", "system:image-pruner", image_pruner());
        let pull = Rule::new(&["get"], &["", "image.openshift.io"], &["imagestreams/layers"]);
        access.add_user("puller", "system:image-puller", vec![pull]);
        access.add_user("nobody", "", Vec::new());
        access.add_user(REGISTRY_ACCOUNT, "system:registry", registry());
        lock(&access.state).accounts.insert(ANONYMOUS.to_owned(), Account::default());
        access
    }
}

impl Access {
    /// Adds a user with the rules of a role, or replaces one, with a new token.
    pub fn add_user(&self, user: &str, role: &str, rules: Vec<Rule>) {
        let account = Account { role: role.to_owned(), rules, ..Account::default() };
        lock(&self.state).accounts.insert(user.to_owned(), account);
        let token: String = std::iter::repeat_with(fastrand::alphanumeric).take(43).collect();
        self.add_token(user, &format!("sha256~{token}"));
    }

    /// Gives a user further rights.
    pub fn grant(&self, user: &str, rule: Rule) {
        if let Some(account) = lock(&self.state).accounts.get_mut(user) {
            account.rules.push(rule);
        }
    }

    /// Takes one right away: `resource` is a plural with its subresource, if any.
    pub fn deny(&self, user: &str, verb: &str, group: &str, resource: &str) {
        if let Some(account) = lock(&self.state).accounts.get_mut(user) {
            account.denied.push((verb.to_owned(), group.to_owned(), resource.to_owned()));
        }
    }

    /// A valid token of the user; empty without one.
    #[must_use]
    pub fn token(&self, user: &str) -> String {
        let state = lock(&self.state);
        state
            .tokens
            .iter()
            .find(|(_, owner)| *owner == user)
            .map(|(token, _)| token.clone())
            .unwrap_or_default()
    }

    /// Makes a token valid for a user.
    pub fn add_token(&self, user: &str, token: &str) {
        lock(&self.state).tokens.insert(token.to_owned(), user.to_owned());
    }

    /// Makes a token invalid, as if it had expired.
    pub fn revoke_token(&self, token: &str) {
        lock(&self.state).tokens.remove(token);
    }

    /// The user of a valid token.
    #[must_use]
    pub fn user(&self, token: &str) -> Option<String> {
        lock(&self.state).tokens.get(token).cloned()
    }

    /// Whether this right was taken away from the user.
    pub(super) fn is_denied(&self, user: &str, verb: &str, target: &Target<'_>) -> bool {
        let resource = match target.subresource {
            "" => target.resource.to_owned(),
            subresource => format!("{}/{subresource}", target.resource),
        };
        let state = lock(&self.state);
        let denied = state.accounts.get(user).into_iter().flat_map(|account| &account.denied);
        denied
            .into_iter()
            .any(|(what, group, name)| what == verb && group == target.group && *name == resource)
    }

    /// Why the user may do this by their own rules; `None` if they may not.
    pub(super) fn reason(&self, user: &str, verb: &str, target: &Target<'_>) -> Option<String> {
        // Reviews of oneself are everybody's right.
        if verb == "create" && target.resource.starts_with("selfsubject") && user != ANONYMOUS {
            return Some(String::new());
        }
        let state = lock(&self.state);
        let account = state.accounts.get(user)?;
        if !account.rules.iter().any(|rule| rule.allows(verb, target)) {
            return None;
        }
        let role = &account.role;
        Some(format!("RBAC: allowed by ClusterRoleBinding {user:?} of ClusterRole {role:?} to User {user:?}"))
    }

    /// The user's own rules.
    pub(super) fn rules(&self, user: &str) -> Vec<Rule> {
        lock(&self.state).accounts.get(user).map(|account| account.rules.clone()).unwrap_or_default()
    }
}
