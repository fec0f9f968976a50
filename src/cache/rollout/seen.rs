//! What is seen of the registry at one moment: its workload, its pods, and who serves. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::settings::{Settings, registry_container};
use crate::text::brief;

/// Everything at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// What makes the pods.
    pub(crate) controller: Controller,
    /// The pods that its selector selects.
    pub(crate) pods: Vec<Pod>,
    /// What the namespace's services send to; `None` if that may not be read.
    pub(crate) endpoints: Option<Vec<Endpoint>>,
    /// Whether these include pods that are ending and still serve: `EndpointSlices` do, `Endpoints` do not.
    pub(crate) shows_ending: bool,
}

/// What makes the pods.
#[derive(Debug, Clone, Default)]
pub(crate) enum Controller {
    /// It is there.
    Is(Box<Workload>),
    /// There is none.
    #[default]
    Absent,
    /// It may not be read.
    Hidden,
}

impl Controller {
    /// The workload, if it is known.
    #[must_use]
    pub(crate) fn workload(&self) -> Option<&Workload> {
        match self {
            Self::Is(workload) => Some(workload),
            Self::Absent | Self::Hidden => None,
        }
    }
}

/// A Deployment or `DeploymentConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Workload {
    /// How often its specification changed.
    pub(crate) generation: i64,
    /// The change that its controller has seen last.
    pub(crate) observed: i64,
    /// How many pods it wants.
    pub(crate) wanted: usize,
    /// How many pods it has that are not ending.
    pub(crate) replicas: usize,
    /// How many of these are of its present template.
    pub(crate) updated: usize,
    /// Whether changes of its template have no effect at present.
    pub(crate) paused: bool,
    /// Whether its old pods end before new ones start.
    pub(crate) recreates: bool,
    /// Its pod template's annotations.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Its pod template's settings of caches.
    pub(crate) settings: Settings,
    /// The name of the registry's container.
    pub(crate) container: Option<String>,
    /// The controller's message that the rollout does not get on (`ProgressDeadlineExceeded`).
    pub(crate) stuck: Option<String>,
    /// The controller's message that pods cannot be made (`ReplicaFailure`): a quota, an admission plugin.
    pub(crate) refused: Option<String>,
}

impl Workload {
    /// Whether its controller has nothing left to replace.
    #[must_use]
    pub(crate) fn is_settled(&self) -> bool {
        // A paused one makes pods of the template that it had.
        self.observed >= self.generation
            && (self.paused || (self.updated == self.replicas && self.replicas == self.wanted))
    }
}

/// A pod of the registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pod {
    /// Its name.
    pub(crate) name: String,
    /// Its UID: a pod of the same name may be another one.
    pub(crate) uid: String,
    /// Its addresses.
    pub(crate) addresses: Vec<String>,
    /// Whether it says that it can serve.
    pub(crate) ready: bool,
    /// Whether it is being deleted.
    pub(crate) terminating: bool,
    /// How long it has for that.
    pub(crate) grace: Duration,
    /// Whether its containers have ended for good.
    pub(crate) ended: bool,
    /// Its settings of caches.
    pub(crate) settings: Settings,
    /// Why it does not get ready, in the words of the scheduler or the kubelet.
    pub(crate) trouble: Option<String>,
}

/// One address that a service sends to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The UID of its pod, if it says.
    pub(crate) uid: Option<String>,
    /// The name of its pod, if it says.
    pub(crate) name: Option<String>,
    /// Its addresses.
    pub(crate) addresses: BTreeSet<String>,
}

impl Endpoint {
    /// Whether it sends to this pod. One that names no pod is known by its address.
    #[must_use]
    pub(crate) fn is_of(&self, uid: &str, name: &str, addresses: &[String]) -> bool {
        match (&self.uid, &self.name) {
            (Some(own), _) => own == uid,
            (None, Some(own)) => own == name,
            (None, None) => addresses.iter().any(|address| self.addresses.contains(address)),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    name: String,
    uid: String,
    generation: i64,
    deletion_timestamp: Option<String>,
    deletion_grace_period_seconds: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
}

impl Condition {
    /// The text of a condition for people: its message, else its reason.
    fn text(&self) -> String {
        brief(if self.message.is_empty() { &self.reason } else { &self.message })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawWorkload {
    metadata: Meta,
    spec: RawWorkloadSpec,
    status: RawWorkloadStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawWorkloadSpec {
    replicas: Option<i64>,
    paused: bool,
    strategy: RawStrategy,
    template: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawStrategy {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawWorkloadStatus {
    observed_generation: i64,
    replicas: usize,
    updated_replicas: usize,
    conditions: Vec<Condition>,
}

/// Reads a Deployment or `DeploymentConfig`.
pub(super) fn workload(body: &[u8]) -> Result<Workload, serde_json::Error> {
    let RawWorkload { metadata, spec, status } = serde_json::from_slice(body)?;
    let containers = spec.template["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let annotations = spec.template["metadata"]["annotations"].as_object().into_iter().flatten();
    let condition = |kind: &str, status_is: &str| {
        status.conditions.iter().find(|condition| condition.kind == kind && condition.status == status_is)
    };
    Ok(Workload {
        generation: metadata.generation,
        observed: status.observed_generation,
        wanted: spec.replicas.map_or(1, |replicas| usize::try_from(replicas).unwrap_or_default()),
        replicas: status.replicas,
        updated: status.updated_replicas,
        paused: spec.paused,
        recreates: spec.strategy.kind == "Recreate",
        annotations: annotations
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
        settings: Settings::of(containers, None),
        container: registry_container(containers, None)
            .and_then(|index| Some(containers[index]["name"].as_str()?.to_owned())),
        stuck: condition("Progressing", "False").map(Condition::text),
        refused: condition("ReplicaFailure", "True").map(Condition::text),
    })
}

#[derive(Debug, Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawPod {
    metadata: Meta,
    spec: RawPodSpec,
    status: RawPodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawPodSpec {
    containers: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawPodStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<RawAddress>,
    conditions: Vec<Condition>,
    init_container_statuses: Vec<RawContainerStatus>,
    container_statuses: Vec<RawContainerStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawAddress {
    ip: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawContainerStatus {
    name: String,
    state: RawState,
    last_state: RawState,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawState {
    waiting: Option<RawReason>,
    terminated: Option<RawReason>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawReason {
    reason: String,
    message: String,
    exit_code: Option<i64>,
}

/// Reads a list of pods. `container` is the name of the registry's.
pub(super) fn pods(body: &[u8], container: Option<&str>) -> Result<Vec<Pod>, serde_json::Error> {
    let list: List<RawPod> = serde_json::from_slice(body)?;
    Ok(list.items.into_iter().map(|pod| self::pod(pod, container)).collect())
}

fn pod(pod: RawPod, container: Option<&str>) -> Pod {
    let RawPod { metadata, spec, status } = pod;
    let trouble = trouble(&status);
    let mut addresses: Vec<String> = status.pod_ips.into_iter().map(|address| address.ip).collect();
    addresses.extend(status.pod_ip);
    addresses.sort();
    addresses.dedup();
    Pod {
        addresses,
        ready: status
            .conditions
            .iter()
            .any(|condition| condition.kind == "Ready" && condition.status == "True"),
        terminating: metadata.deletion_timestamp.is_some(),
        grace: Duration::from_secs(metadata.deletion_grace_period_seconds.unwrap_or(30)),
        ended: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
        settings: Settings::of(&spec.containers, container),
        trouble,
        name: metadata.name,
        uid: metadata.uid,
    }
}

/// Why a pod does not start, if the kubelet or the scheduler says so.
fn trouble(status: &RawPodStatus) -> Option<String> {
    let unscheduled = status
        .conditions
        .iter()
        .find(|condition| condition.kind == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unscheduled {
        return Some(format!("{}: {}", brief(&condition.reason), condition.text()));
    }
    status.init_container_statuses.iter().chain(&status.container_statuses).find_map(|container| {
        let RawContainerStatus { name, state, last_state } = container;
        let ended = |ended: &RawReason| {
            let code = ended.exit_code.unwrap_or_default();
            let text = if ended.message.is_empty() { &ended.reason } else { &ended.message };
            format!("ended with exit code {code}: {}", brief(text))
        };
        let text = match (&state.waiting, &state.terminated) {
            (Some(waiting), _)
                if !matches!(waiting.reason.as_str(), "" | "ContainerCreating" | "PodInitializing") =>
            {
                let mut text = brief(&waiting.reason);
                if !waiting.message.is_empty() {
                    text = format!("{text}: {}", brief(&waiting.message));
                }
                match &last_state.terminated {
                    Some(last) => format!("{text} (it {})", ended(last)),
                    None => text,
                }
            }
            (_, Some(terminated)) if terminated.exit_code.unwrap_or_default() != 0 => ended(terminated),
            _ => return None,
        };
        Some(format!("container {}: {text}", brief(name)))
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawSlice {
    endpoints: Option<Vec<RawSliceEndpoint>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawSliceEndpoint {
    addresses: Vec<String>,
    conditions: RawEndpointConditions,
    target_ref: Option<RawTarget>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawEndpointConditions {
    ready: Option<bool>,
    serving: Option<bool>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct RawTarget {
    name: String,
    uid: String,
}

/// Reads a list of `EndpointSlices`: those endpoints that are sent to. A condition that is not given counts as true.
pub(super) fn slices(body: &[u8]) -> Result<Vec<Endpoint>, serde_json::Error> {
    let list: List<RawSlice> = serde_json::from_slice(body)?;
    let endpoints = list.items.into_iter().flat_map(|slice| slice.endpoints.unwrap_or_default());
    let serving = endpoints.filter(|endpoint| {
        let RawEndpointConditions { ready, serving } = endpoint.conditions;
        ready.unwrap_or(true) || serving.unwrap_or(ready.unwrap_or(true))
    });
    Ok(serving.map(|endpoint| self::endpoint(endpoint.target_ref, endpoint.addresses)).collect())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawEndpoints {
    subsets: Option<Vec<RawSubset>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawSubset {
    addresses: Vec<RawSubsetAddress>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawSubsetAddress {
    ip: String,
    target_ref: Option<RawTarget>,
}

/// Reads the `Endpoints` of a service.
pub(super) fn endpoints(body: &[u8]) -> Result<Vec<Endpoint>, serde_json::Error> {
    let object: RawEndpoints = serde_json::from_slice(body)?;
    let addresses = object.subsets.into_iter().flatten().flat_map(|subset| subset.addresses);
    Ok(addresses.map(|address| endpoint(address.target_ref, vec![address.ip])).collect())
}

fn endpoint(target: Option<RawTarget>, addresses: Vec<String>) -> Endpoint {
    let target = target.unwrap_or_default();
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    Endpoint { uid: given(target.uid), name: given(target.name), addresses: addresses.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_workload_is_settled_when_its_controller_has_nothing_left_to_replace() {
        let read = |status: Value, paused: bool| {
            let object = json!({
                "metadata": { "generation": 3 },
                "spec": { "replicas": 2, "paused": paused, "strategy": { "type": "Recreate" }, "template": {
                    "metadata": { "annotations": { "a": "b" } },
                    "spec": { "containers": [{ "name": "registry" }] },
                } },
                "status": status,
            });
            workload(object.to_string().as_bytes()).unwrap()
        };
        let settled = |observed: u8, replicas: u8, updated: u8| {
            read(
                json!({ "observedGeneration": observed, "replicas": replicas, "updatedReplicas": updated }),
                false,
            )
            .is_settled()
        };
        assert!(settled(3, 2, 2));
        assert!(!settled(2, 2, 2), "the controller has not seen the change");
        assert!(!settled(3, 3, 2) && !settled(3, 2, 1) && !settled(3, 1, 1) && !settled(3, 3, 3));
        let paused = read(json!({ "observedGeneration": 3, "replicas": 2 }), true);
        assert!(paused.is_settled() && paused.recreates);
        assert_eq!(paused.annotations["a"], "b");
        let stuck = read(
            json!({ "conditions": [
                { "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "RS timed out\u{1b}" },
                { "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota" },
            ] }),
            false,
        );
        assert_eq!(stuck.stuck.as_deref(), Some("RS timed out\\u{1b}"));
        assert_eq!(stuck.refused.as_deref(), Some("exceeded quota"));
    }

    #[test]
    fn pods_say_why_they_do_not_start() {
        let of = |status: Value| {
            let list = json!({ "items": [{ "metadata": { "name": "p", "uid": "u" }, "status": status }] });
            pods(list.to_string().as_bytes(), None).unwrap().remove(0)
        };
        let trouble = |status: Value| of(status).trouble;
        assert_eq!(trouble(json!({})), None);
        let unscheduled = json!({ "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available",
        }] });
        assert_eq!(trouble(unscheduled).unwrap(), "Unschedulable: 0/3 nodes are available");
        let container = |state: Value, last: Value| json!({ "containerStatuses": [{ "name": "registry", "state": state, "lastState": last }] });
        let waiting = |reason: &str| json!({ "waiting": { "reason": reason, "message": "m" } });
        assert_eq!(trouble(container(waiting("ContainerCreating"), json!({}))), None);
        assert_eq!(
            trouble(container(waiting("ImagePullBackOff"), json!({}))).unwrap(),
            "container registry: ImagePullBackOff: m"
        );
        let ended = json!({ "terminated": { "reason": "Error", "exitCode": 2, "message": "panic: no" } });
        assert_eq!(
            trouble(container(waiting("CrashLoopBackOff"), ended.clone())).unwrap(),
            "container registry: CrashLoopBackOff: m (it ended with exit code 2: panic: no)"
        );
        assert_eq!(
            trouble(container(ended, json!({}))).unwrap(),
            "container registry: ended with exit code 2: panic: no"
        );
        let done = json!({ "terminated": { "reason": "Completed", "exitCode": 0 } });
        assert_eq!(trouble(container(done, json!({}))), None);

        let pod = of(
            json!({ "phase": "Failed", "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }] }),
        );
        assert!(pod.ended);
        assert_eq!(pod.addresses, ["10.0.0.1", "fd00::1"]);
    }

    #[test]
    fn endpoints_that_are_sent_to_count() {
        let list = json!({ "items": [
            { "endpoints": null },
            { "endpoints": [
                { "addresses": ["a"], "conditions": { "ready": true }, "targetRef": { "uid": "1", "name": "p" } },
                { "addresses": ["b"], "conditions": { "ready": false, "serving": true, "terminating": true } },
                { "addresses": ["c"], "conditions": { "ready": false, "serving": false } },
                { "addresses": ["d"], "conditions": { "ready": false } },
                { "addresses": ["e"] },
            ] },
        ] });
        let found = slices(list.to_string().as_bytes()).unwrap();
        let addresses: Vec<_> = found.iter().flat_map(|endpoint| &endpoint.addresses).collect();
        assert_eq!(addresses, ["a", "b", "e"]);
        assert!(
            found[0].is_of("1", "other", &[]) && !found[0].is_of("2", "p", &["a".to_owned()]),
            "the UID decides"
        );
        assert!(found[1].is_of("2", "p", &["b".to_owned()]));

        let object = json!({ "subsets": [
            { "addresses": [{ "ip": "a", "targetRef": { "name": "p" } }], "notReadyAddresses": [{ "ip": "b" }] },
        ] });
        let found = endpoints(object.to_string().as_bytes()).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].is_of("any", "p", &[]));
        assert!(endpoints(b"{}").unwrap().is_empty());
    }
}
