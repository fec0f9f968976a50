//! Rights: what the cache step needs them for, as data, and what the present user has of them. Pure.
//!
//! [`Need`] is the one table of them: what is asked about, what a restart looks for, and what a schedule's roles give
//! come from it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::discover::Place;
use super::environment::Source;
use super::objects::WorkloadKind;
use crate::cluster::pruner_may;
use crate::journal::LEASE;

/// The API group of the image-registry operator.
pub(in crate::cache) const OPERATOR_GROUP: &str = "imageregistry.operator.openshift.io";

/// A right, as a rule of a role gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// `get`, `list`, `create`, ….
    pub verb: &'static str,
    /// The API group; empty for core.
    pub group: &'static str,
    /// The resource, plural.
    pub resource: &'static str,
    /// The subresource; empty for the resource itself.
    pub subresource: &'static str,
    /// The namespace; absent for the whole cluster.
    pub namespace: Option<String>,
    /// The only object that it is needed for; all of them if absent.
    pub name: Option<String>,
}

impl Rule {
    /// A right in one namespace.
    #[must_use]
    pub fn namespaced(
        verb: &'static str,
        group: &'static str,
        resource: &'static str,
        namespace: &str,
    ) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..Self::cluster_wide(verb, group, resource) }
    }

    /// A right in all namespaces, or to what is in none.
    #[must_use]
    pub fn cluster_wide(verb: &'static str, group: &'static str, resource: &'static str) -> Self {
        Self { verb, group, resource, subresource: "", namespace: None, name: None }
    }

    /// The same for one object alone.
    #[must_use]
    pub fn of(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// The same for a subresource.
    #[must_use]
    pub fn subresource(self, subresource: &'static str) -> Self {
        Self { subresource, ..self }
    }

    /// The resource as a role or `oc create role --resource` names it: `pods/eviction`, `deployments.apps`.
    #[must_use]
    pub fn qualified(&self) -> String {
        let Self { group, resource, subresource, .. } = self;
        let dot = if group.is_empty() { "" } else { "." };
        let slash = if subresource.is_empty() { "" } else { "/" };
        format!("{resource}{dot}{group}{slash}{subresource}")
    }

    /// The command by which an administrator gives a user this right, `<user>` being the user's name.
    #[must_use]
    pub fn command(&self) -> String {
        Self::command_of(std::slice::from_ref(self))
    }

    /// The same for rights that differ in their verbs alone; empty for none.
    #[must_use]
    pub fn command_of(rules: &[Self]) -> String {
        let Some(first) = rules.first() else { return String::new() };
        if let Some(role) = first.known_role() {
            return format!("oc adm policy add-cluster-role-to-user {role} <user>");
        }
        let Self { resource, subresource, namespace, name, .. } = first;
        let verbs: Vec<&str> = rules.iter().map(|rule| rule.verb).collect();
        let verb = verbs.join("-");
        let mut role = format!("prune-images-{verb}-{resource}");
        for part in
            [Some(*subresource), name.as_deref()].into_iter().flatten().filter(|part| !part.is_empty())
        {
            role.push('-');
            role.push_str(part);
        }
        let resource = first.qualified();
        let verb = verbs.join(",");
        let only = name.as_ref().map(|name| format!(" --resource-name={name}")).unwrap_or_default();
        match namespace {
            Some(namespace) => format!(
                "oc create role {role} --verb={verb} --resource={resource}{only} -n {namespace} && \
                 oc adm policy add-role-to-user {role} <user> --role-namespace={namespace} -n {namespace}"
            ),
            None => format!(
                "oc create clusterrole {role} --verb={verb} --resource={resource}{only} && \
                 oc adm policy add-cluster-role-to-user {role} <user>"
            ),
        }
    }

    /// The role of every cluster that has the right and little else.
    fn known_role(&self) -> Option<&'static str> {
        if (self.verb, self.resource, self.subresource) == ("get", "imagestreams", "layers") {
            return Some("registry-viewer");
        }
        let is_pruners = self.subresource.is_empty() && pruner_may(self.verb, self.resource);
        is_pruners.then_some("system:image-pruner")
    }

    /// The `SelfSubjectAccessReview` that asks for it.
    pub(in crate::cache) fn review(&self) -> serde_json::Value {
        let mut attributes = serde_json::Map::new();
        for (name, value) in [
            ("verb", self.verb),
            ("group", self.group),
            ("resource", self.resource),
            ("subresource", self.subresource),
            ("namespace", self.namespace.as_deref().unwrap_or_default()),
            ("name", self.name.as_deref().unwrap_or_default()),
        ] {
            if !value.is_empty() {
                attributes.insert(name.to_owned(), value.into());
            }
        }
        serde_json::json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": attributes },
        })
    }
}

impl Rule {
    /// The `SubjectAccessReview` that asks for it in the name of a service account.
    pub(in crate::cache) fn review_of_account(&self, namespace: &str, account: &str) -> serde_json::Value {
        let mut review = self.review();
        review["kind"] = "SubjectAccessReview".into();
        review["spec"]["user"] = format!("system:serviceaccount:{namespace}:{account}").into();
        review["spec"]["groups"] = serde_json::json!([
            "system:serviceaccounts",
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated",
        ]);
        review
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.qualified())?;
        if let Some(name) = &self.name {
            write!(f, "/{name}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => f.write_str(" in the whole cluster"),
        }
    }
}

/// A right, and what the cache step is to do with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// The right.
    pub rule: Rule,
    /// What it is good for, in a few words.
    pub purpose: &'static str,
}

impl Need {
    fn new(rule: Rule, purpose: &'static str) -> Self {
        Self { rule, purpose }
    }

    fn in_registry(verb: &'static str, resource: &'static str, place: &Place, purpose: &'static str) -> Self {
        Self::new(Rule::namespaced(verb, "", resource, &place.namespace), purpose)
    }

    fn workload(verb: &'static str, kind: WorkloadKind, place: &Place, purpose: &'static str) -> Self {
        let (group, resource) = kind.resource();
        Self::new(Rule::namespaced(verb, group, resource, &place.namespace).of(&place.deployment), purpose)
    }

    fn operator(verb: &'static str, purpose: &'static str) -> Self {
        Self::new(Rule::cluster_wide(verb, OPERATOR_GROUP, "configs").of("cluster"), purpose)
    }

    /// To list the registry's pods.
    #[must_use]
    pub fn list_pods(place: &Place) -> Self {
        Self::in_registry("list", "pods", place, "find the replicas")
    }

    /// To keep other runs away by a Lease.
    #[must_use]
    pub fn lease(place: &Place) -> [Self; 3] {
        let rule = |verb| Rule::namespaced(verb, "coordination.k8s.io", "leases", &place.namespace);
        // What is about to be created has no name yet.
        [rule("get").of(LEASE), rule("create"), rule("update").of(LEASE)]
            .map(|rule| Self::new(rule, "keep a second prune away"))
    }

    /// To read the Deployment or `DeploymentConfig`.
    #[must_use]
    pub fn read_workload(kind: WorkloadKind, place: &Place) -> Self {
        Self::workload("get", kind, place, "read the registry's configuration")
    }

    /// To read a Secret or `ConfigMap` that the registry's configuration refers to; none for what only the pod knows.
    #[must_use]
    pub fn read_source(source: &Source) -> Option<Self> {
        let rule = Rule::namespaced("get", "", source.resource()?, &source.namespace).of(&source.name);
        Some(Self::new(rule, "read the registry's configuration"))
    }

    /// To read which authority signs the replicas' certificates, where a route is vouched for by another one.
    #[must_use]
    pub fn read_authority(place: &Place) -> Self {
        let rule = Rule::namespaced("get", "", "configmaps", &place.namespace).of("openshift-service-ca.crt");
        Self::new(rule, "verify the certificates of the replicas")
    }

    /// To delete in the registry.
    #[must_use]
    pub fn delete_images() -> Self {
        let rule = Rule::cluster_wide("delete", "image.openshift.io", "images");
        Self::new(rule, "prune in the registry, and make replicas forget")
    }

    /// To ask the registry for blobs and manifests, which is to pull.
    #[must_use]
    pub fn check() -> Self {
        let rule = Rule::cluster_wide("get", "image.openshift.io", "imagestreams").subresource("layers");
        Self::new(rule, "ask replicas what they still answer for")
    }

    /// To reach pods through the API server.
    #[must_use]
    pub fn forward(place: &Place) -> [Self; 2] {
        ["get", "create"].map(|verb| {
            let rule = Rule::namespaced(verb, "", "pods", &place.namespace).subresource("portforward");
            Self::new(rule, "reach replicas from outside the cluster")
        })
    }

    /// To find a route to the registry's service.
    #[must_use]
    pub fn list_routes(place: &Place) -> Self {
        let rule = Rule::namespaced("list", "route.openshift.io", "routes", &place.namespace);
        Self::new(rule, "reach the registry by a route")
    }

    /// To find the pods behind a service's name.
    #[must_use]
    pub fn read_services(place: &Place) -> Self {
        Self::in_registry("get", "services", place, "reach a Redis from outside the cluster")
    }

    /// To restart by an annotation of the pod template.
    #[must_use]
    pub fn annotate(kind: WorkloadKind, place: &Place) -> Self {
        Self::workload("patch", kind, place, "restart the replicas")
    }

    /// To read the operator's configuration.
    #[must_use]
    pub fn read_operator() -> Self {
        Self::operator("get", "restart what the operator manages")
    }

    /// To restart by the operator's configuration.
    #[must_use]
    pub fn configure() -> Self {
        Self::operator("update", "restart what the operator manages")
    }

    /// To replace pods as their budget allows.
    #[must_use]
    pub fn evict_pods(place: &Place) -> Self {
        let rule = Rule::namespaced("create", "", "pods", &place.namespace).subresource("eviction");
        Self::new(rule, "replace replicas one by one")
    }

    /// To replace pods whatever their budget says.
    #[must_use]
    pub fn delete_pods(place: &Place) -> Self {
        Self::in_registry("delete", "pods", place, "replace replicas one by one")
    }

    /// To change the variables of the registry's container.
    #[must_use]
    pub fn switch_off(kind: WorkloadKind, place: &Place) -> Self {
        Self::workload("update", kind, place, "switch the registry's caches off")
    }

    /// To run a command in a pod of the registry.
    #[must_use]
    pub fn execute(place: &Place) -> [Self; 2] {
        ["get", "create"].map(|verb| {
            let rule = Rule::namespaced(verb, "", "pods", &place.namespace).subresource("exec");
            Self::new(rule, "run hard prune in a pod of the registry")
        })
    }

    /// To see that no operator would turn a change of the Deployment back.
    #[must_use]
    pub fn see_operator() -> Self {
        Self::operator("get", "see whether the operator would turn the change back")
    }
}

/// What the API server says about a right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The user has it.
    Allowed,
    /// The user does not have it.
    Denied,
    /// It did not say: why. Count with either.
    NotKnown(String),
}

/// A right that the cache step may need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// The right.
    pub rule: Rule,
    /// What it is good for, in a few words.
    pub purpose: &'static str,
    /// Whether the user has it.
    pub verdict: Verdict,
}

/// What the present user may do of what the cache step may need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights(pub Vec<Right>);

impl Rights {
    /// Whether the user surely has it. A rule that was not asked about counts as one that is missing.
    #[must_use]
    pub fn allow(&self, verb: &str, resource: &str, subresource: &str) -> bool {
        self.0.iter().any(|right| {
            let Rule { verb: asked, resource: of, subresource: sub, .. } = right.rule;
            (asked, of, sub) == (verb, resource, subresource) && right.verdict == Verdict::Allowed
        })
    }
}

#[derive(Deserialize, Serialize)]
struct Review {
    status: ReviewStatus,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct ReviewStatus {
    allowed: bool,
    evaluation_error: String,
}

/// Reads the answer to a review. An error in one role does not take away what another one gives.
pub(super) fn verdict(body: &[u8]) -> Result<Verdict, serde_json::Error> {
    let Review { status } = serde_json::from_slice(body)?;
    Ok(match status {
        ReviewStatus { allowed: true, .. } => Verdict::Allowed,
        ReviewStatus { evaluation_error, .. } if evaluation_error.is_empty() => Verdict::Denied,
        ReviewStatus { evaluation_error, .. } => Verdict::NotKnown(crate::text::sanitize(&evaluation_error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_print_and_say_how_to_give_them() {
        let secret = Rule::namespaced("get", "", "secrets", "n").of("redis");
        assert_eq!(secret.to_string(), "get secrets/redis in namespace n");
        assert_eq!(
            secret.command(),
            "oc create role prune-images-get-secrets-redis --verb=get --resource=secrets --resource-name=redis -n n && \
             oc adm policy add-role-to-user prune-images-get-secrets-redis <user> --role-namespace=n -n n"
        );
        let forward = Rule::namespaced("create", "", "pods", "n").subresource("portforward");
        assert_eq!(forward.to_string(), "create pods/portforward in namespace n");
        assert!(forward.command().contains("--resource=pods/portforward -n n"), "{}", forward.command());
        let get = Rule::namespaced("get", "", "pods", "n").subresource("portforward");
        assert_eq!(
            Rule::command_of(&[get, forward]),
            "oc create role prune-images-get-create-pods-portforward --verb=get,create --resource=pods/portforward -n n && \
             oc adm policy add-role-to-user prune-images-get-create-pods-portforward <user> --role-namespace=n -n n"
        );
        let config =
            Rule::cluster_wide("update", "imageregistry.operator.openshift.io", "configs").of("cluster");
        assert_eq!(
            config.to_string(),
            "update configs.imageregistry.operator.openshift.io/cluster in the whole cluster"
        );
        assert_eq!(
            config.command(),
            "oc create clusterrole prune-images-update-configs-cluster --verb=update \
             --resource=configs.imageregistry.operator.openshift.io --resource-name=cluster && \
             oc adm policy add-cluster-role-to-user prune-images-update-configs-cluster <user>"
        );
        let layers = Rule::cluster_wide("get", "image.openshift.io", "imagestreams").subresource("layers");
        assert_eq!(layers.to_string(), "get imagestreams.image.openshift.io/layers in the whole cluster");
        assert_eq!(layers.command(), "oc adm policy add-cluster-role-to-user registry-viewer <user>");
        assert_eq!(
            layers.review()["spec"]["resourceAttributes"],
            serde_json::json!({ "verb": "get", "group": "image.openshift.io", "resource": "imagestreams", "subresource": "layers" })
        );
    }

    #[test]
    fn reviews_that_failed_leave_it_open() {
        let read = |text: &str| verdict(text.as_bytes()).unwrap();
        assert_eq!(read(r#"{"status":{"allowed":true,"reason":"RBAC"}}"#), Verdict::Allowed);
        assert_eq!(read(r#"{"status":{"allowed":false}}"#), Verdict::Denied);
        let error = r#"{"status":{"allowed":false,"evaluationError":"no\u001b[2J role"}}"#;
        assert_eq!(read(error), Verdict::NotKnown("no\\u{1b}[2J role".to_owned()));
    }
}
