//! The registry as the API server knows it: what the image-registry operator makes, and a pod per replica.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::api::{Store, now};

pub(crate) const NAMESPACE: &str = "openshift-image-registry";
/// The port of the registry's container and of its service.
pub(crate) const PORT: u16 = 5000;
const NAME: &str = "image-registry";
const IMAGE: &str = "quay.io/openshift/origin-docker-registry:latest";

/// The name of a replica's pod.
pub(crate) fn pod_name(replica: usize) -> String {
    format!("{NAME}-5b7d9c9d6f-{replica:05}")
}

/// Makes namespace, deployment, service and empty endpoints.
pub(crate) fn register(store: &Store, replicas: usize) {
    let labels = json!({ "docker-registry": "default" });
    if store.get("namespaces", "", NAMESPACE).is_none() {
        let namespace = json!({ "metadata": { "name": NAMESPACE }, "status": { "phase": "Active" } });
        store.create("namespaces", namespace);
    }
    store.create(
        "deployments",
        json!({
            "metadata": { "namespace": NAMESPACE, "name": NAME, "labels": labels },
            "spec": {
                "replicas": replicas,
                "progressDeadlineSeconds": 120,
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": { "containers": [container(PORT)] },
                },
            },
            "status": { "replicas": replicas, "readyReplicas": replicas, "updatedReplicas": replicas },
        }),
    );
    store.create(
        "services",
        json!({
            "metadata": { "namespace": NAMESPACE, "name": NAME, "labels": labels },
            "spec": {
                "selector": labels,
                "ports": [{ "name": "5000-tcp", "port": 5000, "protocol": "TCP", "targetPort": 5000 }],
            },
        }),
    );
    let metadata = json!({ "namespace": NAMESPACE, "name": NAME, "labels": labels });
    store.create("endpoints", json!({ "metadata": metadata, "subsets": [] }));
    let metadata = json!({
        "namespace": NAMESPACE,
        "name": format!("{NAME}-x7k2p"),
        "labels": { "kubernetes.io/service-name": NAME, "docker-registry": "default" },
    });
    let slice = json!({ "metadata": metadata, "addressType": "IPv4", "endpoints": [], "ports": [] });
    store.create("endpointslices", slice);
}

/// Makes the pod of a replica. Replicas share one machine, so each has a port of its own.
pub(crate) fn add_pod(store: &Store, replica: usize, address: SocketAddr) {
    let time = now();
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .map(|kind| json!({ "type": kind, "status": "True", "lastTransitionTime": time }));
    let container = container(address.port());
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
    store.create(
        "pods",
        json!({
            "metadata": {
                "namespace": NAMESPACE,
                "name": pod_name(replica),
                "labels": { "docker-registry": "default", "pod-template-hash": "5b7d9c9d6f" },
            },
            "spec": { "nodeName": format!("worker-{replica}"), "containers": [container] },
            "status": status,
        }),
    );
}

/// Removes the pod of a replica.
pub(crate) fn remove_pod(store: &Store, replica: usize) {
    store.delete("pods", NAMESPACE, &pod_name(replica));
}

/// Makes these replicas the service's endpoints.
pub(crate) fn set_endpoints(store: &Store, replicas: &[(usize, SocketAddr)]) {
    let target = |replica: usize| json!({ "kind": "Pod", "namespace": NAMESPACE, "name": pod_name(replica) });
    // A subset has one set of ports, and here each replica has its own.
    let subsets: Value = replicas
        .iter()
        .map(|(replica, address)| {
            json!({
                "addresses": [{ "ip": address.ip().to_string(), "targetRef": target(*replica) }],
                "ports": [{ "name": "5000-tcp", "port": address.port(), "protocol": "TCP" }],
            })
        })
        .collect();
    store.update("endpoints", NAMESPACE, NAME, |object| object["subsets"] = subsets.clone());
    let endpoints: Value = replicas
        .iter()
        .map(|(replica, address)| {
            json!({
                "addresses": [address.ip().to_string()],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "targetRef": target(*replica),
            })
        })
        .collect();
    store.update("endpointslices", NAMESPACE, &format!("{NAME}-x7k2p"), |object| {
        object["endpoints"] = endpoints.clone();
    });
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
            "secretKeyRef": { "name": "image-registry-private-configuration", "key": "REGISTRY_HTTP_SECRET" },
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
