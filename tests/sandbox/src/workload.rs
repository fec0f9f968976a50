//! The registry as the API server knows it: what the image-registry operator makes, and a pod per replica.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::api::{Store, metadata, now};
use crate::registry::RegistryConfig;

pub(crate) const NAMESPACE: &str = "openshift-image-registry";
/// The port of the registry's container and of its service.
pub(crate) const PORT: u16 = 5000;
pub(crate) const NAME: &str = "image-registry";
/// The service account of the registry's pods.
pub(crate) const ACCOUNT: &str = "registry";
const PRIVATE: &str = "image-registry-private-configuration";
const REDIS_PASSWORD: &str = "REGISTRY_REDIS_PASSWORD";
const IMAGE: &str = "quay.io/openshift/origin-docker-registry:latest";

/// The name of a replica's pod.
pub(crate) fn pod_name(replica: usize) -> String {
    format!("{NAME}-5b7d9c9d6f-{replica:05}")
}

/// The labels of all that is the registry's.
fn labels() -> Value {
    json!({ "docker-registry": "default" })
}

/// Makes the namespace, the service, and the `ConfigMap` with the authority that signs the certificates of services.
pub(crate) fn prepare(store: &Store, service_ca: &str) {
    if store.get("namespaces", "", NAMESPACE).is_none() {
        let namespace = json!({ "metadata": { "name": NAMESPACE }, "status": { "phase": "Active" } });
        store.create("namespaces", namespace);
    }
    ensure_service(store);
    let metadata = json!({ "namespace": NAMESPACE, "name": "openshift-service-ca.crt" });
    store.create("configmaps", json!({ "metadata": metadata, "data": { "service-ca.crt": service_ca } }));
}

/// Makes the Secret that the container's environment refers to.
pub(crate) fn create_secret(store: &Store, config: &RegistryConfig) {
    let metadata = json!({ "namespace": NAMESPACE, "name": PRIVATE });
    // Any value does.
    let mut data = json!({ "REGISTRY_HTTP_SECRET": STANDARD.encode("sandbox") });
    if let Some(password) = config.redis.as_ref().and_then(|redis| redis.password.as_ref()) {
        data[REDIS_PASSWORD] = STANDARD.encode(password).into();
    }
    store.create("secrets", json!({ "metadata": metadata, "type": "Opaque", "data": data }));
}

/// Makes the service, if it is not there.
pub(crate) fn ensure_service(store: &Store) {
    if store.get("services", NAMESPACE, NAME).is_some() {
        return;
    }
    store.create(
        "services",
        json!({
            "metadata": { "namespace": NAMESPACE, "name": NAME, "labels": labels() },
            "spec": {
                "selector": labels(),
                "ports": [{ "name": "5000-tcp", "port": PORT, "protocol": "TCP", "targetPort": PORT }],
            },
        }),
    );
}

/// The variables that configure a registry so, where it is not configured as the operator does it. A password is one
/// that a Secret keeps.
pub(crate) fn environment(config: &RegistryConfig) -> Vec<Value> {
    let mut variables = Vec::new();
    let mut set = |name: &str, value: &str| variables.push(json!({ "name": name, "value": value }));
    if config.cache_disabled {
        set("REGISTRY_OPENSHIFT_CACHE_DISABLED", "true");
    }
    if config.ttl != Duration::from_secs(600) {
        set("REGISTRY_OPENSHIFT_CACHE_BLOBREPOSITORYTTL", &format!("{}ms", config.ttl.as_millis()));
    }
    if config.readonly {
        set("REGISTRY_STORAGE_MAINTENANCE_READONLY", "{enabled: true}");
    }
    if !config.delete_enabled {
        set("REGISTRY_STORAGE_DELETE_ENABLED", "false");
    }
    if let Some(redis) = &config.redis {
        set("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR", "redis");
        set("REGISTRY_REDIS_ADDR", &redis.address);
        if redis.database != 0 {
            set("REGISTRY_REDIS_DB", &redis.database.to_string());
        }
        if redis.tls_ca.is_some() {
            set("REGISTRY_REDIS_TLS_ENABLED", "true");
        }
        if redis.password.is_some() {
            let reference = json!({ "secretKeyRef": { "name": PRIVATE, "key": REDIS_PASSWORD } });
            variables.push(json!({ "name": REDIS_PASSWORD, "valueFrom": reference }));
        }
    }
    variables
}

/// Lays variables over those of a container.
fn overlay(container: &mut Value, variables: &[Value]) {
    let Some(env) = container["env"].as_array_mut() else { return };
    for variable in variables {
        env.retain(|earlier| earlier["name"] != variable["name"]);
        env.push(variable.clone());
    }
}

/// The Deployment that the image-registry operator makes, with further variables.
pub(crate) fn deployment(replicas: i64, variables: &[Value]) -> Value {
    let mut container = container(PORT);
    overlay(&mut container, variables);
    let labels = labels();
    json!({
        "metadata": { "namespace": NAMESPACE, "name": NAME, "labels": labels },
        "spec": {
            "replicas": replicas,
            "progressDeadlineSeconds": 120,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "serviceAccountName": ACCOUNT, "containers": [container] },
            },
        },
    })
}

/// Makes a Deployment whose replicas are all there.
pub(crate) fn create_deployment(store: &Store, replicas: usize, variables: &[Value]) {
    let mut deployment = deployment(i64::try_from(replicas).expect("fewer replicas than that"), variables);
    deployment["status"] =
        json!({ "replicas": replicas, "readyReplicas": replicas, "updatedReplicas": replicas });
    store.create("deployments", deployment);
}

/// Makes the pod of a replica, and returns it as an endpoint. Replicas share one machine, so each has a port of its own.
pub(crate) fn add_pod(store: &Store, replica: usize, address: SocketAddr, variables: &[Value]) -> Endpoint {
    let time = now();
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .map(|kind| json!({ "type": kind, "status": "True", "lastTransitionTime": time }));
    let mut container = container(address.port());
    overlay(&mut container, variables);
    let image = &container["image"];
    let status = json!({
        "phase": "Running",
        "podIP": address.ip().to_string(),
        "podIPs": [{ "ip": address.ip().to_string() }],
        "hostIP": "10.0.0.1",
        "startTime": time,
        "conditions": conditions,
        "containerStatuses": [{
            "name": "registry", "ready": true, "started": true, "restartCount": 0, "image": image,
            "state": { "running": { "startedAt": time } },
        }],
    });
    let node = format!("worker-{replica}");
    let pod = store.create(
        "pods",
        json!({
            "metadata": {
                "namespace": NAMESPACE,
                "name": pod_name(replica),
                "labels": { "docker-registry": "default", "pod-template-hash": "5b7d9c9d6f" },
            },
            "spec": { "nodeName": node, "serviceAccountName": ACCOUNT, "containers": [container] },
            "status": status,
        }),
    );
    let uid = metadata(&pod, "uid").to_owned();
    Endpoint { pod: pod_name(replica), uid, node, address, ready: true, terminating: false }
}

/// A pod that the service may lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    pub(crate) address: SocketAddr,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
}

const SLICE: &str = "image-registry-x7k2p";

/// Makes these pods the service's endpoints.
pub(crate) fn set_endpoints(store: &Store, endpoints: &[Endpoint]) {
    let target = |endpoint: &Endpoint| json!({ "kind": "Pod", "namespace": NAMESPACE, "name": endpoint.pod, "uid": endpoint.uid });
    // A subset has one set of ports, and here each replica has its own.
    let subsets: Value = endpoints
        .iter()
        .filter(|endpoint| !endpoint.terminating)
        .map(|endpoint| {
            let field = if endpoint.ready { "addresses" } else { "notReadyAddresses" };
            let address = json!({
                "ip": endpoint.address.ip().to_string(), "nodeName": endpoint.node, "targetRef": target(endpoint),
            });
            let port = json!({ "name": "5000-tcp", "port": endpoint.address.port(), "protocol": "TCP" });
            json!({ field: [address], "ports": [port] })
        })
        .collect();
    let slice: Value = endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "addresses": [endpoint.address.ip().to_string()],
                "conditions": {
                    "ready": endpoint.ready && !endpoint.terminating,
                    "serving": endpoint.ready,
                    "terminating": endpoint.terminating,
                },
                "nodeName": endpoint.node,
                "targetRef": target(endpoint),
            })
        })
        .collect();
    if !store.update("endpoints", NAMESPACE, NAME, |object| object["subsets"] = subsets.clone()) {
        let metadata = json!({ "namespace": NAMESPACE, "name": NAME, "labels": labels() });
        store.create("endpoints", json!({ "metadata": metadata, "subsets": subsets }));
    }
    if !store.update("endpointslices", NAMESPACE, SLICE, |object| object["endpoints"] = slice.clone()) {
        let metadata = json!({
            "namespace": NAMESPACE,
            "name": SLICE,
            "labels": { "kubernetes.io/service-name": NAME, "docker-registry": "default" },
        });
        let object = json!({ "metadata": metadata, "addressType": "IPv4", "endpoints": slice, "ports": [] });
        store.create("endpointslices", object);
    }
}

/// Removes the endpoints, as happens when the service goes.
pub(crate) fn remove_endpoints(store: &Store) {
    store.delete("endpoints", NAMESPACE, NAME);
    store.delete("endpointslices", NAMESPACE, SLICE);
}

/// The registry's container with the environment that the operator sets.
fn container(port: u16) -> Value {
    let variables = [
        ("REGISTRY_STORAGE", "filesystem"),
        ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/registry"),
        ("REGISTRY_HTTP_ADDR", ":5000"),
        ("REGISTRY_HTTP_NET", "tcp"),
        ("REGISTRY_LOG_LEVEL", "info"),
        ("REGISTRY_OPENSHIFT_QUOTA_ENABLED", "true"),
        ("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR", "inmemory"),
        ("REGISTRY_STORAGE_DELETE_ENABLED", "true"),
        ("REGISTRY_OPENSHIFT_METRICS_ENABLED", "true"),
        ("REGISTRY_OPENSHIFT_SERVER_ADDR", "image-registry.openshift-image-registry.svc:5000"),
        ("REGISTRY_HTTP_TLS_CERTIFICATE", "/etc/secrets/tls.crt"),
        ("REGISTRY_HTTP_TLS_KEY", "/etc/secrets/tls.key"),
    ];
    let plain = variables.map(|(name, value)| json!({ "name": name, "value": value }));
    let secret = json!({
        "name": "REGISTRY_HTTP_SECRET",
        "valueFrom": {
            "secretKeyRef": { "name": PRIVATE, "key": "REGISTRY_HTTP_SECRET" },
        },
    });
    json!({
        "name": "registry",
        "image": IMAGE,
        "ports": [{ "containerPort": port, "protocol": "TCP" }],
        "env": plain.into_iter().chain([secret]).collect::<Value>(),
        "volumeMounts": [
            { "name": "registry-storage", "mountPath": "/registry" },
            { "name": "registry-tls", "mountPath": "/etc/secrets" },
        ],
    })
}
