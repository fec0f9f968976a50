//! The controller of the registry's endpoints.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::api::evict::{ready, selects, terminating};
use crate::api::{Store, metadata};
use crate::workload::{self, NAME, NAMESPACE, PORT};

/// Which pods the service leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Endpoints {
    /// `None` without a service.
    pods: Option<Vec<workload::Endpoint>>,
}

impl Endpoints {
    /// As the pods are now.
    pub(super) fn of(store: &Store) -> Self {
        let Some(service) = store.get("services", NAMESPACE, NAME) else { return Self::default() };
        let selector = json!({ "matchLabels": service["spec"]["selector"] });
        let pods = store.in_namespace("pods", NAMESPACE);
        let chosen = pods.iter().filter(|pod| selects(&selector, pod));
        Self { pods: Some(chosen.filter_map(endpoint).collect()) }
    }

    /// Makes the service's endpoints so.
    pub(super) fn write(&self, store: &Store) {
        match &self.pods {
            Some(pods) => workload::set_endpoints(store, pods),
            None => workload::remove_endpoints(store),
        }
    }
}

/// A pod that has an IP.
fn endpoint(pod: &Value) -> Option<workload::Endpoint> {
    let ip = pod["status"]["podIP"].as_str()?.parse().ok()?;
    let port = pod["spec"]["containers"][0]["ports"][0]["containerPort"].as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(PORT);
    Some(workload::Endpoint {
        pod: metadata(pod, "name").to_owned(),
        uid: metadata(pod, "uid").to_owned(),
        node: pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned(),
        address: SocketAddr::new(ip, port),
        ready: ready(pod),
        terminating: terminating(pod),
    })
}
