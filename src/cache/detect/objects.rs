//! What counts of the registry's objects: pods, and the Deployment or `DeploymentConfig` behind them. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use secrecy::SecretString;
use serde::Deserialize;

/// Where the image's own configuration file is; the registry is started with it.
const CONFIG_FILE: &str = "/config.yml";
/// The variable that names another one.
const CONFIG_PATH: &str = "REGISTRY_CONFIGURATION_PATH";
/// The port of the integrated registry.
const PORT: u16 = 5000;

/// A pod of the registry that serves, may serve or has served; not one whose containers have ended for good.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// How the registry's container is configured.
    pub environment: Environment,
}

/// The kind of object that a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A Secret.
    Secret,
    /// A `ConfigMap`.
    ConfigMap,
    /// The pod itself, or its limits.
    Pod,
}

/// Where a value or a file comes from that is not written into the workload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The kind of object.
    pub origin: Origin,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Source {
    /// The right that is needed to read it; none for what only the pod itself knows.
    #[must_use]
    pub fn rule(&self) -> Option<Rule> {
        let resource = match self.origin {
            Origin::Secret => "secrets",
            Origin::ConfigMap => "configmaps",
            Origin::Pod => return None,
        };
        let (namespace, name) = (self.namespace.clone(), Some(self.name.clone()));
        Some(Rule { verb: "get", group: "", resource, namespace, name })
    }
}

/// A right that would allow more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// `get` or `list`.
    pub verb: &'static str,
    /// The API group; empty for core.
    pub group: &'static str,
    /// The resource, plural.
    pub resource: &'static str,
    /// The namespace.
    pub namespace: String,
    /// The only object that it is needed for; all of the namespace if absent.
    pub name: Option<String>,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, group, resource, namespace, name } = self;
        let dot = if group.is_empty() { "" } else { "." };
        write!(f, "{verb} {resource}{dot}{group}")?;
        if let Some(name) = name {
            write!(f, "/{name}")?;
        }
        write!(f, " in namespace {namespace}")
    }
}

/// The value of a variable.
#[derive(Debug, Clone)]
pub enum Value {
    /// It is written there. May be a password, so it does not print.
    Plain(SecretString),
    /// It is somewhere else, and cannot be read with the rights of `system:image-pruner`.
    Elsewhere(Source),
}

/// How the registry's container is configured, as far as its pod template says.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The variables by name.
    pub variables: BTreeMap<String, Value>,
    /// Objects all of whose keys become variables, with the prefix that they get. They cannot be read.
    pub bulk: Vec<(String, Source)>,
    /// The object that is mounted in place of the image's own configuration file, if one is.
    pub file: Option<Source>,
}

impl Environment {
    /// The variable's value; if it is not there but may come in bulk, from where.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Value> {
        let bulk = || {
            let (_, source) = self.bulk.iter().rev().find(|(prefix, _)| name.starts_with(prefix))?;
            Some(Value::Elsewhere(source.clone()))
        };
        self.variables.get(name).cloned().or_else(bulk)
    }

    fn of(spec: &PodSpec, namespace: &str) -> Self {
        let Some(container) = registry_container(&spec.containers) else { return Self::default() };
        let source =
            |origin, name: &str| Source { origin, namespace: namespace.to_owned(), name: name.to_owned() };
        let mut variables = BTreeMap::new();
        for variable in container.env.iter().flatten() {
            let text = variable.value.as_deref().unwrap_or_default();
            let value = match &variable.value_from {
                // `$(NAME)` is replaced when the container starts; with what, its own environment decides.
                None if text.contains("$(") => Value::Elsewhere(source(Origin::Pod, "")),
                None => Value::Plain(text.to_owned().into()),
                Some(from) => Value::Elsewhere(if let Some(secret) = &from.secret_key_ref {
                    source(Origin::Secret, &secret.name)
                } else if let Some(map) = &from.config_map_key_ref {
                    source(Origin::ConfigMap, &map.name)
                } else {
                    source(Origin::Pod, "")
                }),
            };
            variables.insert(variable.name.clone(), value);
        }
        let bulk = container.env_from.iter().flatten().filter_map(|from| {
            let source = match (&from.secret_ref, &from.config_map_ref) {
                (Some(secret), _) => source(Origin::Secret, &secret.name),
                (None, Some(map)) => source(Origin::ConfigMap, &map.name),
                (None, None) => return None,
            };
            Some((from.prefix.clone().unwrap_or_default(), source))
        });
        let mut environment = Self { variables, bulk: bulk.collect(), file: None };
        environment.file = mounted_file(container, spec.volumes.as_deref().unwrap_or_default(), &environment)
            .map(|(origin, name)| source(origin, &name));
        environment
    }
}

/// The container that is the registry: by its name, else by its port, else the first one.
fn registry_container(containers: &[Container]) -> Option<&Container> {
    let has_port = |container: &&Container| {
        container.ports.iter().flatten().any(|port| port.container_port == i32::from(PORT))
    };
    containers
        .iter()
        .find(|container| container.name == "registry")
        .or_else(|| containers.iter().find(has_port))
        .or_else(|| containers.first())
}

/// The Secret or `ConfigMap` that is mounted where the configuration file is, or over a folder that it is in.
fn mounted_file(
    container: &Container,
    volumes: &[Volume],
    environment: &Environment,
) -> Option<(Origin, String)> {
    use secrecy::ExposeSecret as _;
    let named = match environment.variables.get(CONFIG_PATH) {
        Some(Value::Plain(path)) => path.expose_secret().to_owned(),
        _ => CONFIG_FILE.to_owned(),
    };
    let mount = container
        .volume_mounts
        .iter()
        .flatten()
        .filter(|mount| std::path::Path::new(&named).starts_with(&mount.mount_path))
        .max_by_key(|mount| mount.mount_path.len())?;
    let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
    let secret = volume.secret.as_ref().and_then(|secret| secret.secret_name.clone());
    let map = volume.config_map.as_ref().map(|map| map.name.clone());
    secret.map(|name| (Origin::Secret, name)).or(map.map(|name| (Origin::ConfigMap, name)))
}

#[derive(Deserialize)]
struct PodList {
    items: Vec<k8s_openapi::api::core::v1::Pod>,
}

/// Reads a list of pods.
pub(super) fn pods(body: &[u8]) -> Result<Vec<Pod>, serde_json::Error> {
    let list: PodList = serde_json::from_slice(body)?;
    Ok(list.items.into_iter().filter_map(pod).collect())
}

/// Takes what counts of a pod. One that has ended keeps its address, which may belong to another pod by now.
fn pod(pod: k8s_openapi::api::core::v1::Pod) -> Option<Pod> {
    let ObjectMeta { name, uid, deletion_timestamp, .. } = pod.metadata;
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
    Some(Pod {
        name: name.unwrap_or_default(),
        uid: uid.unwrap_or_default(),
        ready: is_true("Ready"),
        node: spec.node_name.unwrap_or_default(),
        address: ip.map(|ip| SocketAddr::new(ip, port)),
        terminating: deletion_timestamp.is_some(),
    })
}

/// Reads a Deployment.
pub(super) fn deployment(body: &[u8]) -> Result<Workload, serde_json::Error> {
    let object: k8s_openapi::api::apps::v1::Deployment = serde_json::from_slice(body)?;
    let spec = object.spec.unwrap_or_default();
    let template = spec.template.spec.unwrap_or_default();
    let namespace = object.metadata.namespace.unwrap_or_default();
    Ok(Workload {
        kind: WorkloadKind::Deployment,
        name: object.metadata.name.unwrap_or_default(),
        replicas: spec.replicas.map_or(1, |replicas| u32::try_from(replicas).unwrap_or_default()),
        selector: selector(&spec.selector),
        environment: Environment::of(&template, &namespace),
    })
}

#[derive(Deserialize)]
struct DeploymentConfig {
    metadata: ObjectMeta,
    spec: DeploymentConfigSpec,
}

#[derive(Deserialize)]
#[serde(default)]
struct DeploymentConfigSpec {
    replicas: u32,
    selector: BTreeMap<String, String>,
    template: Option<Template>,
}

impl Default for DeploymentConfigSpec {
    fn default() -> Self {
        Self { replicas: 1, selector: BTreeMap::new(), template: None }
    }
}

#[derive(Deserialize)]
struct Template {
    spec: PodSpec,
}

/// Reads a `DeploymentConfig`.
pub(super) fn deployment_config(body: &[u8]) -> Result<Workload, serde_json::Error> {
    let DeploymentConfig { metadata, spec } = serde_json::from_slice(body)?;
    let template = spec.template.map(|template| template.spec).unwrap_or_default();
    let labels = LabelSelector { match_labels: Some(spec.selector), ..LabelSelector::default() };
    Ok(Workload {
        kind: WorkloadKind::DeploymentConfig,
        name: metadata.name.unwrap_or_default(),
        replicas: spec.replicas,
        selector: selector(&labels),
        environment: Environment::of(&template, &metadata.namespace.unwrap_or_default()),
    })
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
        let names: Vec<_> = pods.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(names, ["a", "c", "d"]);
        assert_eq!(pods[0].address, Some("[fd00::7]:5443".parse().unwrap()));
        assert_eq!((pods[0].ready, pods[0].terminating), (true, false));
        assert_eq!((pods[1].ready, pods[1].terminating), (false, true));
        assert_eq!(pods[2].address, None);
    }

    #[test]
    fn what_is_not_written_there_is_noted_with_the_rule_that_would_read_it() {
        let object = json!({
            "metadata": { "namespace": "n", "name": "image-registry" },
            "spec": {
                "selector": {
                    "matchLabels": { "docker-registry": "default" },
                    "matchExpressions": [{ "key": "tier", "operator": "In", "values": ["a", "b"] }],
                },
                "template": { "spec": {
                    "containers": [{
                        "name": "registry",
                        "env": [
                            { "name": "A", "value": "1" },
                            { "name": "B", "value": "$(REDIS_SERVICE_HOST):6379" },
                            { "name": "REGISTRY_REDIS_PASSWORD",
                              "valueFrom": { "secretKeyRef": { "name": "redis", "key": "password" } } },
                        ],
                        "envFrom": [{ "prefix": "REGISTRY_", "configMapRef": { "name": "more" } }],
                        "volumeMounts": [{ "name": "file", "mountPath": "/config.yml", "subPath": "config.yml" }],
                    }],
                    "volumes": [{ "name": "file", "secret": { "secretName": "config" } }],
                } },
            },
        });
        let workload = deployment(object.to_string().as_bytes()).unwrap();
        assert_eq!((workload.replicas, &*workload.selector), (1, "docker-registry=default,tier in (a,b)"));
        let environment = workload.environment;
        let rule = |name: &str| match environment.get(name) {
            Some(Value::Elsewhere(source)) => source.rule().unwrap().to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(rule("REGISTRY_REDIS_PASSWORD"), "get secrets/redis in namespace n");
        assert_eq!(rule("REGISTRY_REDIS_ADDR"), "get configmaps/more in namespace n");
        assert!(matches!(environment.get("A"), Some(Value::Plain(_))));
        assert!(matches!(environment.get("B"), Some(Value::Elsewhere(source)) if source.rule().is_none()));
        assert!(environment.get("OTHER").is_none());
        assert_eq!(
            environment.file.unwrap().rule().unwrap().to_string(),
            "get secrets/config in namespace n"
        );
    }
}
