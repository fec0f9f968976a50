//! The image-registry operator: it makes the Deployment what its own configuration says, whatever others wrote there.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::set_condition;
use crate::api::Store;
use crate::workload::{self, NAME, NAMESPACE};

const CONFIGS: &str = "configs";
const CLUSTER: &str = "cluster";

/// An image-registry operator.
#[derive(Clone, Debug)]
pub struct Operator {
    /// It acts on a change within this time.
    pub delay: Duration,
    /// The `spec` of `configs.imageregistry.operator.openshift.io/cluster`; `managementState` and `replicas` are filled
    /// in where they are absent.
    pub spec: Value,
}

impl Default for Operator {
    fn default() -> Self {
        Self { delay: Duration::from_millis(50), spec: json!({}) }
    }
}

impl Operator {
    /// Makes its configuration, and all that follows from it.
    pub(crate) fn install(&self, store: &Store, replicas: usize) {
        let mut spec = self.spec.clone();
        let defaults = json!({
            "managementState": "Managed", "replicas": replicas, "logging": 2, "logLevel": "Normal",
            "operatorLogLevel": "Normal", "rolloutStrategy": "RollingUpdate", "readOnly": false,
            "disableRedirect": false, "defaultRoute": false, "unsupportedConfigOverrides": null,
            "observedConfig": null, "storage": { "pvc": { "claim": "image-registry-storage" } },
        });
        for (field, value) in defaults.as_object().into_iter().flatten() {
            if spec[field].is_null() {
                spec[field] = value.clone();
            }
        }
        let metadata = json!({ "name": CLUSTER, "generation": 1 });
        store.create(CONFIGS, json!({ "metadata": metadata, "spec": spec, "status": {} }));
        sync(store);
    }
}

/// Does what its configuration says.
pub(super) fn sync(store: &Store) {
    let Some(config) = store.get(CONFIGS, "", CLUSTER) else { return };
    let state = config["spec"]["managementState"].as_str().unwrap_or("Managed");
    let mut generation = last_generation(&config);
    match state {
        "Managed" => {
            workload::ensure_service(store);
            generation = apply(store, &config, generation);
            ensure_budget(store, &config);
        }
        "Removed" => {
            for resource in ["deployments", "services", "poddisruptionbudgets"] {
                store.delete(resource, NAMESPACE, NAME);
            }
        }
        _ => {}
    }
    report(store, &config, state, generation);
}

/// The generation of the Deployment that it wrote last.
fn last_generation(config: &Value) -> Option<i64> {
    let generations = config["status"]["generations"].as_array()?;
    generations.iter().find(|entry| entry["name"] == NAME)?["lastGeneration"].as_i64()
}

/// The Deployment as it should be.
fn expected(config: &Value) -> Value {
    let spec = &config["spec"];
    let replicas = spec["replicas"].as_i64().unwrap_or(1);
    let mut deployment = workload::deployment(replicas, &[]);
    let container = &mut deployment["spec"]["template"]["spec"]["containers"][0];
    if let Some(env) = container["env"].as_array_mut() {
        let mut add = |name: &str, value: &str| env.push(json!({ "name": name, "value": value }));
        if spec["readOnly"] == true {
            add("REGISTRY_STORAGE_MAINTENANCE_READONLY", "{enabled: true}");
        }
        if spec["disableRedirect"] == true {
            add("REGISTRY_STORAGE_REDIRECT_DISABLE", "true");
        }
        for (field, kind) in [("read", "READ"), ("write", "WRITE")] {
            let limits = &spec["requests"][field];
            let number = |field: &str| limits[field].as_i64().unwrap_or_default();
            if number("maxRunning") != 0 || number("maxInQueue") != 0 {
                let wait = limits["maxWaitInQueue"].as_str().unwrap_or("0s");
                for (name, value) in [
                    ("MAXRUNNING", number("maxRunning").to_string()),
                    ("MAXINQUEUE", number("maxInQueue").to_string()),
                    ("MAXWAITINQUEUE", wait.to_owned()),
                ] {
                    add(&format!("REGISTRY_OPENSHIFT_REQUESTS_{kind}_{name}"), &value);
                }
            }
        }
    }
    let strategy = match spec["rolloutStrategy"].as_str() {
        Some("Recreate") => json!({ "type": "Recreate" }),
        _ if replicas == 2 => {
            json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 1, "maxSurge": 1 } })
        }
        _ => json!({
            "type": "RollingUpdate",
            "rollingUpdate": { "maxUnavailable": replicas - 1, "maxSurge": "25%" },
        }),
    };
    deployment["spec"]["strategy"] = strategy;
    let annotations = &mut deployment["spec"]["template"]["metadata"]["annotations"];
    *annotations = json!({
        "imageregistry.operator.openshift.io/dependencies-checksum": checksum(&json!("dependencies")),
        "openshift.io/required-scc": "restricted-v2",
    });
    deployment["metadata"]["annotations"] = json!({ "release.openshift.io/version": "4.20.0" });
    let overrides = &spec["unsupportedConfigOverrides"]["deployment"];
    for (key, value) in overrides["annotations"].as_object().into_iter().flatten() {
        deployment["spec"]["template"]["metadata"]["annotations"][key] = value.clone();
        deployment["metadata"]["annotations"][key] = value.clone();
    }
    let sum = checksum(&deployment);
    deployment["metadata"]["annotations"]["imageregistry.operator.openshift.io/checksum"] = sum.into();
    let sum = checksum(&deployment["spec"]);
    deployment["metadata"]["annotations"]["operator.openshift.io/spec-hash"] = sum.into();
    deployment
}

fn checksum(value: &Value) -> String {
    format!("sha256:{:x}", Sha256::digest(value.to_string()))
}

/// Writes the whole Deployment if its generation, or what the operator wants in its metadata, is not what it was.
fn apply(store: &Store, config: &Value, last: Option<i64>) -> Option<i64> {
    let expected = expected(config);
    if store.get("deployments", NAMESPACE, NAME).is_none() {
        let mut new = expected;
        new["metadata"]["generation"] = 1.into();
        return store.create("deployments", new)["metadata"]["generation"].as_i64();
    }
    let mut generation = last;
    store.update("deployments", NAMESPACE, NAME, |existing| {
        let before = existing["metadata"].clone();
        for field in ["labels", "annotations"] {
            for (key, value) in expected["metadata"][field].as_object().into_iter().flatten() {
                existing["metadata"][field][key] = value.clone();
            }
        }
        let found = existing["metadata"]["generation"].as_i64().unwrap_or(1);
        if existing["metadata"] == before && Some(found) == last {
            return;
        }
        let changed = existing["spec"] != expected["spec"];
        existing["spec"] = expected["spec"].clone();
        existing["metadata"]["generation"] = (found + i64::from(changed)).into();
        generation = Some(found + i64::from(changed));
    });
    generation
}

/// The budget of the registry's pods.
fn ensure_budget(store: &Store, config: &Value) {
    let least = i64::from(config["spec"]["replicas"].as_i64().unwrap_or(1) > 1);
    let spec = json!({
        "minAvailable": least,
        "selector": { "matchLabels": { "docker-registry": "default" } },
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    });
    if !store.update("poddisruptionbudgets", NAMESPACE, NAME, |budget| budget["spec"] = spec.clone()) {
        let metadata = json!({ "namespace": NAMESPACE, "name": NAME, "generation": 1 });
        store.create("poddisruptionbudgets", json!({ "metadata": metadata, "spec": spec }));
    }
}

/// Writes the status of its configuration.
fn report(store: &Store, config: &Value, state: &str, generation: Option<i64>) {
    let deployment = store.get("deployments", NAMESPACE, NAME);
    let number = |pointer: &str| {
        deployment
            .as_ref()
            .and_then(|deployment| deployment.pointer(pointer))
            .and_then(Value::as_i64)
            .unwrap_or_default()
    };
    let (wanted, ready) = (number("/spec/replicas"), number("/status/readyReplicas"));
    let whole = number("/status/observedGeneration") == number("/metadata/generation")
        && number("/status/updatedReplicas") == wanted
        && number("/status/availableReplicas") == wanted;
    let available = number("/status/availableReplicas") > 0;
    store.update(CONFIGS, "", CLUSTER, |object| {
        let status = &mut object["status"];
        status["observedGeneration"] = config["metadata"]["generation"].as_i64().unwrap_or(1).into();
        status["readyReplicas"] = ready.into();
        if let Some(generation) = generation {
            status["generations"] = json!([{
                "group": "apps", "resource": "deployments", "namespace": NAMESPACE, "name": NAME,
                "hash": "", "lastGeneration": generation,
            }]);
        }
        let conditions = &mut status["conditions"];
        let mut set = |kind: &str, holds: bool, reason: &str, message: &str| {
            set_condition(conditions, kind, if holds { "True" } else { "False" }, reason, message);
        };
        match state {
            "Removed" => {
                set("Available", true, "Removed", "The registry is removed");
                set("Progressing", false, "Removed", "All registry resources are removed");
                set("Removed", true, "Removed", "The registry is removed");
            }
            "Unmanaged" => {
                set("Progressing", false, "Unmanaged", "The registry configuration is set to unmanaged mode");
                set("Removed", false, "", "");
            }
            _ => {
                let (reason, message) = if available {
                    ("MinimumAvailability", "The registry has minimum availability")
                } else {
                    ("NoReplicasAvailable", "The deployment does not have available replicas")
                };
                set("Available", available, reason, message);
                let (reason, message) = if whole {
                    ("Ready", "The registry is ready")
                } else {
                    ("DeploymentNotCompleted", "The deployment has not completed")
                };
                set("Progressing", !whole, reason, message);
                set("Removed", false, "", "");
            }
        }
        set("Degraded", false, "", "");
    });
}
