//! What counts of the registry's objects: pods, the Deployment or `DeploymentConfig` behind them, the operator's
//! configuration, and the keys of Secrets and `ConfigMap`s. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, PodStatus, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use secrecy::SecretString;
use serde::Deserialize;

use super::environment::Declared;
use super::rights::Rule;
use crate::text::sanitize;

/// The port of the integrated registry.
const PORT: u16 = 5000;

/// What was asked of the API server, or why it is not known.
#[derive(Debug, Clone)]
pub enum Reading<T> {
    /// It is there.
    Is(T),
    /// It is not there.
    Absent,
    /// It could not be read: count with it.
    Unreadable {
        /// What the server said.
        why: String,
        /// The right that would allow it, if a right is missing.
        rule: Option<Rule>,
    },
}

impl<T> Reading<T> {
    /// What is there, if that is known.
    #[must_use]
    pub fn get(&self) -> Option<&T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Unreadable { .. } => None,
        }
    }

    /// The right that would show it.
    #[must_use]
    pub fn missing_rule(&self) -> Option<&Rule> {
        match self {
            Self::Unreadable { rule, .. } => rule.as_ref(),
            Self::Is(_) | Self::Absent => None,
        }
    }
}

/// A pod of the registry that serves, may serve or has served; not one whose containers have ended for good.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its UID: a pod of the same name may be another one.
    pub uid: String,
    /// The node that it runs on; empty while it has none.
    pub node: String,
    /// Where it listens; absent while it has no address, and then nobody has asked it anything.
    pub address: Option<SocketAddr>,
    /// Whether it is an endpoint of the service.
    pub ready: bool,
    /// Whether it is being deleted; it may serve until then.
    pub terminating: bool,
    /// Whether the registry's process may run; one that does not remembers nothing.
    pub runs: bool,
    /// When it is to be gone, if it is being deleted.
    pub deletion: Option<Timestamp>,
    /// Why a container of it does not run (`CrashLoopBackOff: back-off 5m0s …`), safe to print.
    pub waiting: Option<String>,
    /// Why no node takes it, safe to print.
    pub unschedulable: Option<String>,
    /// Which version of the Deployment's template it is made from: `pod-template-hash`.
    pub template_hash: Option<String>,
    /// The `ReplicaSet` or `ReplicationController` that it belongs to.
    pub owner: Option<String>,
}

impl Pod {
    /// Whether a port-forward to it leads to the registry.
    #[must_use]
    pub fn takes_forward(&self) -> bool {
        self.ready && !self.terminating && self.address.is_some()
    }
}

/// What kind of object makes the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkloadKind {
    /// A Deployment.
    Deployment,
    /// A `DeploymentConfig`, on old clusters.
    DeploymentConfig,
}

impl WorkloadKind {
    /// The resource as `oc` writes it in front of a name: `deployment`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::DeploymentConfig => "deploymentconfig",
        }
    }

    /// API group and resource, as a rule names them.
    #[must_use]
    pub fn resource(self) -> (&'static str, &'static str) {
        match self {
            Self::Deployment => ("apps", "deployments"),
            Self::DeploymentConfig => ("apps.openshift.io", "deploymentconfigs"),
        }
    }
}

/// How new pods take the place of old ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Some at a time.
    #[default]
    Rolling,
    /// All old ones end before the first new one starts.
    Recreate,
    /// Another way, which a `DeploymentConfig` may name.
    Other(String),
}

/// How many pods there are, as the status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// All that are not being deleted.
    pub replicas: u32,
    /// Those of the present template.
    pub updated: u32,
    /// Those that are ready.
    pub ready: u32,
    /// Those that have been ready for long enough.
    pub available: u32,
    /// Those that are wanted and are not available.
    pub unavailable: u32,
}

/// The object that makes the pods.
#[derive(Debug, Clone)]
pub struct Workload {
    /// What it is.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
    /// How many pods it wants.
    pub replicas: u32,
    /// Selects its pods, as in `labelSelector`; empty if it says nothing.
    pub selector: String,
    /// How its registry container is configured.
    pub declared: Declared,
    /// Changes with the spec.
    pub generation: i64,
    /// The generation that the status is about.
    pub observed_generation: i64,
    /// Whether a new template starts no rollout.
    pub paused: bool,
    /// How new pods take the place of old ones.
    pub strategy: Strategy,
    /// After how many seconds without progress a rollout counts as failed.
    pub progress_deadline: Option<u32>,
    /// How many pods there are.
    pub counts: Counts,
}

/// What the image-registry operator does with the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManagementState {
    /// It writes the Deployment again whenever that is changed.
    Managed,
    /// Hands off.
    Unmanaged,
    /// It removes the registry.
    Removed,
    /// Another word; count with [`ManagementState::Managed`].
    Other(String),
}

impl ManagementState {
    /// The word as the operator's configuration has it, safe to print.
    #[must_use]
    pub fn word(&self) -> &str {
        match self {
            Self::Managed => "Managed",
            Self::Unmanaged => "Unmanaged",
            Self::Removed => "Removed",
            Self::Other(word) => word,
        }
    }
}

/// The configuration of the image-registry operator: `configs.imageregistry.operator.openshift.io/cluster`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// `spec.managementState`.
    pub management_state: ManagementState,
    /// `spec.readOnly`.
    pub read_only: bool,
    /// `spec.replicas`.
    pub replicas: Option<u32>,
}

/// The container that is the registry: by its name, else by its port, else the first one.
pub(super) fn registry_container(containers: &[Container]) -> Option<&Container> {
    let has_port = |container: &&Container| {
        container.ports.iter().flatten().any(|port| port.container_port == i32::from(PORT))
    };
    containers
        .iter()
        .find(|container| container.name == "registry")
        .or_else(|| containers.iter().find(has_port))
        .or_else(|| containers.first())
}

#[derive(Deserialize)]
struct PodList {
    items: Vec<k8s_openapi::api::core::v1::Pod>,
}

/// Reads a list of pods, each with how it is configured.
pub(super) fn pods(body: &[u8]) -> Result<Vec<(Pod, Declared)>, serde_json::Error> {
    let list: PodList = serde_json::from_slice(body)?;
    Ok(list.items.into_iter().filter_map(pod).collect())
}

/// Takes what counts of a pod. One that has ended keeps its address, which may belong to another pod by now.
fn pod(pod: k8s_openapi::api::core::v1::Pod) -> Option<(Pod, Declared)> {
    let ObjectMeta { name, uid, deletion_timestamp, namespace, labels, owner_references, .. } = pod.metadata;
    let status = pod.status.unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let spec = pod.spec.unwrap_or_default();
    let port = registry_container(&spec.containers)
        .and_then(|container| container.ports.as_deref()?.first())
        .and_then(|port| u16::try_from(port.container_port).ok())
        .unwrap_or(PORT);
    let ip: Option<IpAddr> = status.pod_ip.as_deref().and_then(|ip| ip.parse().ok());
    let is_true = |kind: &str| {
        status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == kind && condition.status == "True")
    };
    let declared = Declared::of(&spec, &namespace.unwrap_or_default());
    let owner = owner_references.unwrap_or_default().into_iter().find(|owner| owner.controller == Some(true));
    let pod = Pod {
        name: name.unwrap_or_default(),
        uid: uid.unwrap_or_default(),
        ready: is_true("Ready"),
        node: spec.node_name.unwrap_or_default(),
        address: ip.map(|ip| SocketAddr::new(ip, port)),
        terminating: deletion_timestamp.is_some(),
        runs: runs(&status, registry_container(&spec.containers).map(|container| container.name.as_str())),
        deletion: deletion_timestamp.map(|time| time.0),
        waiting: waiting(&status),
        unschedulable: unschedulable(&status),
        template_hash: labels.and_then(|mut labels| labels.remove("pod-template-hash")),
        owner: owner.map(|owner| owner.name),
    };
    Some((pod, declared))
}

/// Whether the container may run: it does unless its state says otherwise.
fn runs(status: &PodStatus, container: Option<&str>) -> bool {
    let mut containers = status.container_statuses.iter().flatten();
    let found = containers.find(|known| Some(known.name.as_str()) == container);
    found
        .and_then(|container| container.state.as_ref())
        .is_none_or(|state| state.waiting.is_none() && state.terminated.is_none())
}

/// `Reason: message`, as far as there is one of each.
fn because(reason: Option<&str>, message: Option<&str>) -> Option<String> {
    let parts: Vec<_> =
        [reason, message].into_iter().flatten().filter(|part| !part.is_empty()).map(sanitize).collect();
    (!parts.is_empty()).then(|| parts.join(": "))
}

fn waiting(status: &PodStatus) -> Option<String> {
    let containers =
        [&status.init_container_statuses, &status.container_statuses].into_iter().flatten().flatten();
    let mut waiting = containers.filter_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let told = because(waiting.reason.as_deref(), waiting.message.as_deref())?;
        // Why it crashed says more than for how long nobody tries again.
        let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let last = last.and_then(|last| because(last.reason.as_deref(), last.message.as_deref()));
        Some(last.map_or_else(|| told.clone(), |last| format!("{told} (it ended: {last})")))
    });
    waiting.next()
}

fn unschedulable(status: &PodStatus) -> Option<String> {
    let conditions = status.conditions.iter().flatten();
    let mut scheduled =
        conditions.filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    scheduled.next().and_then(|condition| because(condition.reason.as_deref(), condition.message.as_deref()))
}

fn count(number: Option<i32>) -> u32 {
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
}

/// Reads a Deployment.
pub(super) fn deployment(body: &[u8]) -> Result<Workload, serde_json::Error> {
    let object: k8s_openapi::api::apps::v1::Deployment = serde_json::from_slice(body)?;
    let spec = object.spec.unwrap_or_default();
    let status = object.status.unwrap_or_default();
    let template = spec.template.spec.unwrap_or_default();
    let namespace = object.metadata.namespace.unwrap_or_default();
    let strategy = spec.strategy.and_then(|strategy| strategy.type_);
    Ok(Workload {
        kind: WorkloadKind::Deployment,
        name: object.metadata.name.unwrap_or_default(),
        replicas: spec.replicas.map_or(1, |replicas| count(Some(replicas))),
        selector: selector(&spec.selector),
        declared: Declared::of(&template, &namespace),
        generation: object.metadata.generation.unwrap_or_default(),
        observed_generation: status.observed_generation.unwrap_or_default(),
        paused: spec.paused.unwrap_or_default(),
        strategy: strategy_of(strategy.as_deref()),
        progress_deadline: spec.progress_deadline_seconds.map(|seconds| count(Some(seconds))),
        counts: Counts {
            replicas: count(status.replicas),
            updated: count(status.updated_replicas),
            ready: count(status.ready_replicas),
            available: count(status.available_replicas),
            unavailable: count(status.unavailable_replicas),
        },
    })
}

fn strategy_of(word: Option<&str>) -> Strategy {
    match word {
        None | Some("" | "RollingUpdate" | "Rolling") => Strategy::Rolling,
        Some("Recreate") => Strategy::Recreate,
        Some(other) => Strategy::Other(sanitize(other)),
    }
}

#[derive(Deserialize)]
struct DeploymentConfig {
    metadata: ObjectMeta,
    spec: DeploymentConfigSpec,
    #[serde(default)]
    status: DeploymentConfigStatus,
}

#[derive(Deserialize)]
#[serde(default)]
struct DeploymentConfigSpec {
    replicas: u32,
    selector: BTreeMap<String, String>,
    template: Option<Template>,
    paused: bool,
    strategy: DeploymentConfigStrategy,
}

impl Default for DeploymentConfigSpec {
    fn default() -> Self {
        Self {
            replicas: 1,
            selector: BTreeMap::new(),
            template: None,
            paused: false,
            strategy: DeploymentConfigStrategy::default(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DeploymentConfigStrategy {
    r#type: String,
    rolling_params: Option<StrategyParams>,
    recreate_params: Option<StrategyParams>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StrategyParams {
    timeout_seconds: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DeploymentConfigStatus {
    observed_generation: i64,
    replicas: u32,
    updated_replicas: u32,
    ready_replicas: u32,
    available_replicas: u32,
    unavailable_replicas: u32,
}

#[derive(Deserialize)]
struct Template {
    spec: PodSpec,
}

/// Reads a `DeploymentConfig`.
pub(super) fn deployment_config(body: &[u8]) -> Result<Workload, serde_json::Error> {
    let DeploymentConfig { metadata, spec, status } = serde_json::from_slice(body)?;
    let template = spec.template.map(|template| template.spec).unwrap_or_default();
    let labels = LabelSelector { match_labels: Some(spec.selector), ..LabelSelector::default() };
    let params = spec.strategy.rolling_params.or(spec.strategy.recreate_params).unwrap_or_default();
    Ok(Workload {
        kind: WorkloadKind::DeploymentConfig,
        name: metadata.name.unwrap_or_default(),
        replicas: spec.replicas,
        selector: selector(&labels),
        declared: Declared::of(&template, &metadata.namespace.unwrap_or_default()),
        generation: metadata.generation.unwrap_or_default(),
        observed_generation: status.observed_generation,
        paused: spec.paused,
        strategy: strategy_of(Some(&spec.strategy.r#type)),
        progress_deadline: params.timeout_seconds,
        counts: Counts {
            replicas: status.replicas,
            updated: status.updated_replicas,
            ready: status.ready_replicas,
            available: status.available_replicas,
            unavailable: status.unavailable_replicas,
        },
    })
}

#[derive(Deserialize)]
struct OperatorConfig {
    #[serde(default)]
    spec: OperatorSpec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OperatorSpec {
    management_state: String,
    read_only: bool,
    replicas: Option<u32>,
}

/// Reads the operator's configuration.
pub(super) fn operator(body: &[u8]) -> Result<Operator, serde_json::Error> {
    let OperatorConfig { spec } = serde_json::from_slice(body)?;
    let management_state = match spec.management_state.as_str() {
        // The operator's own reading of an empty one.
        "" | "Managed" => ManagementState::Managed,
        "Unmanaged" => ManagementState::Unmanaged,
        "Removed" => ManagementState::Removed,
        other => ManagementState::Other(sanitize(other)),
    };
    Ok(Operator { management_state, read_only: spec.read_only, replicas: spec.replicas })
}

/// Reads the keys of a Secret.
pub(super) fn secret(body: &[u8]) -> Result<BTreeMap<String, SecretString>, serde_json::Error> {
    let secret: Secret = serde_json::from_slice(body)?;
    let data = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, text(value.0)));
    Ok(data.collect())
}

/// Reads the keys of a `ConfigMap`.
pub(super) fn config_map(body: &[u8]) -> Result<BTreeMap<String, SecretString>, serde_json::Error> {
    let map: ConfigMap = serde_json::from_slice(body)?;
    let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, text(value.0)));
    let plain = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into()));
    Ok(binary.chain(plain).collect())
}

fn text(bytes: Vec<u8>) -> SecretString {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
        .into()
}

/// The selector in the form of a query.
fn selector(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten().map(|(name, value)| format!("{name}={value}"));
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let (key, values) = (&expression.key, expression.values.as_deref().unwrap_or_default().join(","));
        match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        }
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_that_ended_are_no_replicas() {
        let one = |name: &str, phase: &str, status: &str| {
            json!({
                "metadata": { "name": name, "uid": format!("uid-{name}") },
                "spec": { "nodeName": "n", "containers": [
                    { "name": "sidecar", "ports": [{ "containerPort": 9 }] },
                    { "name": "registry", "ports": [{ "containerPort": 5443 }] },
                ] },
                "status": {
                    "phase": phase, "podIP": "fd00::7",
                    "conditions": [{ "type": "Ready", "status": status }],
                },
            })
        };
        let mut items =
            vec![one("a", "Running", "True"), one("b", "Failed", "False"), one("c", "Running", "False")];
        items[2]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        items.push(json!({ "metadata": { "name": "d" }, "status": { "phase": "Pending" } }));
        let pods = pods(json!({ "items": items }).to_string().as_bytes()).unwrap();
        let pods: Vec<Pod> = pods.into_iter().map(|(pod, _)| pod).collect();
        let names: Vec<_> = pods.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(names, ["a", "c", "d"]);
        assert_eq!(pods[0].address, Some("[fd00::7]:5443".parse().unwrap()));
        assert_eq!((pods[0].ready, pods[0].terminating), (true, false));
        assert_eq!((pods[1].ready, pods[1].terminating), (false, true));
        assert_eq!(pods[2].address, None);
    }

    #[test]
    fn a_pod_says_why_it_does_not_serve_and_what_it_belongs_to() {
        let object = json!({ "items": [
            {
                "metadata": {
                    "name": "a", "labels": { "pod-template-hash": "5b7d" }, "deletionTimestamp": "2026-01-01T00:00:00Z",
                    "ownerReferences": [
                        { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "image-registry-5b7d", "uid": "u", "controller": true },
                    ],
                },
                "status": { "containerStatuses": [{
                    "name": "registry", "ready": false, "restartCount": 3, "image": "i", "imageID": "",
                    "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 5m0s\u{1b}[2J" } },
                    "lastState": { "terminated": { "exitCode": 1, "reason": "Error", "message": "panic: no cache" } },
                }] },
            },
            {
                "metadata": { "name": "b" },
                "status": { "conditions": [
                    { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes" },
                ] },
            },
        ] });
        let pods: Vec<Pod> =
            pods(object.to_string().as_bytes()).unwrap().into_iter().map(|(pod, _)| pod).collect();
        assert_eq!(pods[0].template_hash.as_deref(), Some("5b7d"));
        assert_eq!(pods[0].owner.as_deref(), Some("image-registry-5b7d"));
        assert_eq!(pods[0].deletion, Some("2026-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(
            pods[0].waiting.as_deref(),
            Some("CrashLoopBackOff: back-off 5m0s\\u{1b}[2J (it ended: Error: panic: no cache)")
        );
        assert_eq!(pods[1].unschedulable.as_deref(), Some("Unschedulable: 0/3 nodes"));
        assert_eq!((&pods[1].waiting, &pods[1].owner), (&None, &None));
    }

    #[test]
    fn a_deployment_says_how_far_its_rollout_is() {
        let object = json!({
            "metadata": { "namespace": "n", "name": "image-registry", "generation": 7 },
            "spec": {
                "paused": true, "progressDeadlineSeconds": 120, "strategy": { "type": "Recreate" },
                "selector": {
                    "matchLabels": { "docker-registry": "default" },
                    "matchExpressions": [{ "key": "tier", "operator": "In", "values": ["a", "b"] }],
                },
                "template": {},
            },
            "status": { "observedGeneration": 6, "replicas": 3, "updatedReplicas": 1, "readyReplicas": 2,
                        "availableReplicas": 2, "unavailableReplicas": 1 },
        });
        let found = deployment(object.to_string().as_bytes()).unwrap();
        assert_eq!((found.replicas, &*found.selector), (1, "docker-registry=default,tier in (a,b)"));
        assert_eq!((found.generation, found.observed_generation, found.paused), (7, 6, true));
        assert_eq!((found.strategy, found.progress_deadline), (Strategy::Recreate, Some(120)));
        let counts = Counts { replicas: 3, updated: 1, ready: 2, available: 2, unavailable: 1 };
        assert_eq!(found.counts, counts);
        let old = json!({
            "metadata": { "namespace": "default", "name": "docker-registry", "generation": 2 },
            "spec": {
                "replicas": 2, "selector": { "docker-registry": "default" },
                "strategy": { "type": "Rolling", "rollingParams": { "timeoutSeconds": 600 } },
                "template": { "spec": { "containers": [] } },
            },
            "status": { "observedGeneration": 2, "updatedReplicas": 2 },
        });
        let found = deployment_config(old.to_string().as_bytes()).unwrap();
        assert_eq!((found.replicas, &*found.selector), (2, "docker-registry=default"));
        assert_eq!((found.strategy, found.progress_deadline), (Strategy::Rolling, Some(600)));
        assert_eq!((found.observed_generation, found.counts.updated), (2, 2));
    }

    #[test]
    fn the_operator_says_whether_it_manages_the_registry() {
        let read =
            |spec: serde_json::Value| operator(json!({ "spec": spec }).to_string().as_bytes()).unwrap();
        let managed = read(json!({ "managementState": "Managed", "replicas": 2, "readOnly": true }));
        let expected =
            Operator { management_state: ManagementState::Managed, read_only: true, replicas: Some(2) };
        assert_eq!(managed, expected);
        assert_eq!(read(json!({ "managementState": "Removed" })).management_state, ManagementState::Removed);
        assert_eq!(read(json!({})).management_state, ManagementState::Managed);
        assert_eq!(read(json!({ "managementState": "Force" })).management_state.word(), "Force");
    }

    #[test]
    fn keys_are_read_and_do_not_print() {
        use secrecy::ExposeSecret as _;
        let object = json!({ "data": { "password": "aHVudGVyMg==" } }).to_string();
        let keys = secret(object.as_bytes()).unwrap();
        assert_eq!(keys["password"].expose_secret(), "hunter2");
        assert!(!format!("{keys:?}").contains("hunter2"));
        let object = json!({ "data": { "a": "1" }, "binaryData": { "b": "Mg==" } }).to_string();
        let keys = config_map(object.as_bytes()).unwrap();
        assert_eq!((keys["a"].expose_secret(), keys["b"].expose_secret()), ("1", "2"));
    }
}
