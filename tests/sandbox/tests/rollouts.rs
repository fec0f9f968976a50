//! Rollouts of the registry as a cluster's controllers make them, its operator, and what else befalls its pods.
#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use http::{Method, StatusCode};
use sandbox::api::Store;
use sandbox::redis::Server;
use sandbox::registry::{Digest, Link, RedisCache, RegistryConfig};
use sandbox::{Cluster, ClusterConfig, Operator, Pace};
use serde_json::{Value, json};

const NAMESPACE: &str = "openshift-image-registry";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/openshift-image-registry/deployments/image-registry";
const CONFIG: &str = "/apis/imageregistry.operator.openshift.io/v1/configs/cluster";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const SOON: Duration = Duration::from_secs(20);

struct Fixture {
    cluster: Cluster,
    http: reqwest::Client,
}

impl Fixture {
    fn start(mut config: ClusterConfig) -> Self {
        config.sandbox.tls = false;
        Self::start_as(config)
    }

    fn start_as(config: ClusterConfig) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = ClusterConfig { registry_tls: false, ..config };
        if config.controller.is_none() {
            config.controller = Some(Pace::default());
        }
        Self { cluster: Cluster::start(config), http: reqwest::Client::new() }
    }

    fn replicas(replicas: usize) -> Self {
        Self::start(ClusterConfig { replicas, ..ClusterConfig::default() })
    }

    fn operated(replicas: usize, seed: u64) -> Self {
        let controller = Some(Pace::default().seeded(seed));
        Self::start(ClusterConfig {
            replicas,
            controller,
            operator: Some(Operator::default()),
            ..ClusterConfig::default()
        })
    }

    fn store(&self) -> &Store {
        self.cluster.sandbox().store()
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: &Value) -> (StatusCode, Value) {
        let sandbox = self.cluster.sandbox();
        let request = self
            .http
            .request(method, format!("{}{path}", sandbox.api_url()))
            .bearer_auth(sandbox.token("admin"))
            .header("content-type", kind)
            .body(body.to_string());
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
    }

    async fn patch(&self, kind: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.send(Method::PATCH, path, kind, &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// `oc rollout restart`.
    async fn restart(&self) {
        let annotations = json!({ "kubectl.kubernetes.io/restartedAt": jiff::Timestamp::now().to_string() });
        let template = json!({ "metadata": { "annotations": annotations } });
        self.patch(STRATEGIC, DEPLOYMENT, json!({ "spec": { "template": template } })).await;
    }

    async fn set_env(&self, variables: Value) {
        let container = json!({ "name": "registry", "env": variables });
        let template = json!({ "spec": { "containers": [container] } });
        self.patch(STRATEGIC, DEPLOYMENT, json!({ "spec": { "template": template } })).await;
    }

    fn deployment(&self) -> Value {
        self.store().get("deployments", NAMESPACE, "image-registry").unwrap()
    }

    fn pods(&self) -> Vec<Value> {
        self.store().in_namespace("pods", NAMESPACE)
    }

    fn uids(&self) -> BTreeSet<String> {
        self.pods().iter().map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
    }

    async fn rolled_out(&self) {
        assert!(self.cluster.wait_for_rollout(SOON).await, "{:#}\n{:#?}", self.deployment(), self.pods());
    }

    async fn until(&self, wanted: impl Fn(&Store) -> bool) {
        let fine = self.cluster.wait_until(SOON, wanted).await;
        assert!(fine, "{:#}\n{:#?}", self.deployment(), self.pods());
    }

    fn layer(&self, text: &str) -> Digest {
        let digest = self.cluster.storage().put_blob(text.as_bytes()).unwrap();
        self.cluster.storage().link(Link::Layer, "shop/web", &digest).unwrap();
        digest
    }

    async fn head(&self, replica: usize, digest: &Digest) -> StatusCode {
        let path = format!("/v2/shop/web/blobs/{digest}");
        let client = self.cluster.client_of(replica, "admin");
        client.send(Method::HEAD, &path, &[], "").await.unwrap().status()
    }
}

fn condition(object: &Value, kind: &str) -> (String, String) {
    let found =
        object["status"]["conditions"].as_array().into_iter().flatten().find(|found| found["type"] == kind);
    let text = |field: &str| found.map_or("", |found| found[field].as_str().unwrap_or_default()).to_owned();
    (text("status"), text("reason"))
}

fn progressing(store: &Store) -> String {
    condition(&store.get("deployments", NAMESPACE, "image-registry").unwrap(), "Progressing").1
}

fn ready(pod: &Value) -> bool {
    condition(pod, "Ready").0 == "True"
}

/// The UIDs of the pods that the service leads to.
fn endpoints(store: &Store) -> BTreeSet<String> {
    let object = store.get("endpoints", NAMESPACE, "image-registry").unwrap_or_default();
    let subsets = object["subsets"].as_array().cloned().unwrap_or_default();
    let addresses = subsets.iter().filter_map(|subset| subset["addresses"].as_array()).flatten();
    addresses.map(|address| address["targetRef"]["uid"].as_str().unwrap().to_owned()).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_starts_with_all_pods_ready() {
    let fixture = Fixture::replicas(3);
    let deployment = fixture.deployment();
    let wanted = json!({
        "observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3,
    });
    for (field, value) in wanted.as_object().unwrap() {
        assert_eq!(&deployment["status"][field], value, "{deployment:#}");
    }
    assert_eq!(
        condition(&deployment, "Available"),
        ("True".to_owned(), "MinimumReplicasAvailable".to_owned())
    );
    assert_eq!(
        condition(&deployment, "Progressing"),
        ("True".to_owned(), "NewReplicaSetAvailable".to_owned())
    );
    let sets = fixture.store().in_namespace("replicasets", NAMESPACE);
    assert_eq!(sets.len(), 1);
    assert_eq!(sets[0]["metadata"]["ownerReferences"][0]["uid"], deployment["metadata"]["uid"]);
    let pods = fixture.pods();
    assert_eq!(pods.len(), 3);
    for pod in &pods {
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], sets[0]["metadata"]["uid"]);
        assert_eq!(pod["metadata"]["labels"]["docker-registry"], "default");
        assert_eq!(
            pod["metadata"]["labels"]["pod-template-hash"],
            sets[0]["metadata"]["labels"]["pod-template-hash"]
        );
        assert!(ready(pod));
        let number = fixture.cluster.replica_of_pod(text(&pod["metadata"]["name"])).unwrap();
        let port = &pod["spec"]["containers"][0]["ports"][0]["containerPort"];
        assert_eq!(
            fixture.cluster.registry_url(number),
            format!("http://{}:{port}", text(&pod["status"]["podIP"]))
        );
    }
    assert_eq!(endpoints(fixture.store()), fixture.uids());
    let slice = fixture.store().get("endpointslices", NAMESPACE, "image-registry-x7k2p").unwrap();
    assert_eq!(slice["endpoints"].as_array().unwrap().len(), 3);
    for _ in 0..20 {
        let answer = fixture.cluster.client("admin").send(Method::GET, "/v2/", &[], "").await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let asked: BTreeSet<String> = fixture
        .cluster
        .sandbox()
        .request_log()
        .entries()
        .iter()
        .map(|entry| format!("{:?}", entry.server))
        .collect();
    assert_eq!(asked.len(), 3, "the service leads to each of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_replaces_every_pod_and_its_cache_and_the_service_stays() {
    let fixture = Fixture::replicas(3);
    let layer = fixture.layer("a layer");
    for replica in fixture.cluster.serving() {
        assert_eq!(fixture.head(replica, &layer).await, StatusCode::OK);
    }
    fixture.cluster.storage().delete_blob(&layer).unwrap();
    let old = fixture.uids();
    let before = fixture.cluster.serving();
    let revision = fixture.store().revision();
    fixture.restart().await;
    fixture.rolled_out().await;
    assert!(fixture.uids().is_disjoint(&old));
    assert!(endpoints(fixture.store()).is_disjoint(&old));
    let after = fixture.cluster.serving();
    assert!(after.iter().all(|number| !before.contains(number)), "{before:?} {after:?}");
    for number in after {
        assert_eq!(fixture.head(number, &layer).await, StatusCode::NOT_FOUND, "{number}");
    }
    assert!(fixture.store().revision() > revision);
    let sets = fixture.store().in_namespace("replicasets", NAMESPACE);
    let sizes: BTreeSet<i64> = sets.iter().map(|set| set["spec"]["replicas"].as_i64().unwrap()).collect();
    assert_eq!(sizes, [0, 3].into());
    assert_eq!(fixture.deployment()["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    assert_eq!(fixture.deployment()["status"]["observedGeneration"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_any_timing_a_rollout_ends_and_keeps_as_many_pods_as_it_promises() {
    for seed in 0..20 {
        let pace = Pace {
            start: Duration::from_millis(1),
            ready: Duration::from_millis(2),
            terminate: Duration::from_millis(5),
            endpoint_lag: Duration::from_millis(2),
            jitter: Duration::from_millis(10),
            seed,
        };
        let replicas = 1 + usize::try_from(seed).unwrap() % 4;
        let fixture =
            Fixture::start(ClusterConfig { replicas, controller: Some(pace), ..ClusterConfig::default() });
        let rolling = json!({ "maxUnavailable": 0, "maxSurge": 1 });
        let strategy = json!({ "type": "RollingUpdate", "rollingUpdate": rolling });
        fixture.patch(MERGE, DEPLOYMENT, json!({ "spec": { "strategy": strategy } })).await;
        for _ in 0..2 {
            let old = fixture.uids();
            fixture.restart().await;
            let enough = std::sync::atomic::AtomicBool::new(true);
            let watching = fixture.cluster.wait_until(SOON, |store| {
                let pods = store.in_namespace("pods", NAMESPACE);
                let serving =
                    pods.iter().filter(|pod| ready(pod) && pod["metadata"]["deletionTimestamp"].is_null());
                if serving.count() < replicas {
                    enough.store(false, std::sync::atomic::Ordering::SeqCst);
                }
                endpoints(store).is_disjoint(&old) && pods.len() == replicas
            });
            assert!(watching.await, "{seed}");
            assert!(enough.into_inner(), "{seed}: fewer than {replicas}");
            fixture.rolled_out().await;
            assert!(fixture.uids().is_disjoint(&old), "{seed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_pods_are_configured_by_their_environment() {
    let fixture = Fixture::replicas(2);
    let layer = fixture.layer("a layer");
    fixture.set_env(json!([{ "name": "REGISTRY_OPENSHIFT_CACHE_DISABLED", "value": "true" }])).await;
    fixture.rolled_out().await;
    for replica in fixture.cluster.serving() {
        assert_eq!(fixture.head(replica, &layer).await, StatusCode::OK);
        assert!(!fixture.cluster.replica(replica).remembers(&layer));
    }
    // From a Secret that is not there yet.
    let reference = json!({ "secretKeyRef": { "name": "settings", "key": "disabled" } });
    let variable =
        json!({ "name": "REGISTRY_OPENSHIFT_CACHE_DISABLED", "value": null, "valueFrom": reference });
    fixture.set_env(json!([variable])).await;
    let waits = |store: &Store| {
        let pods = store.in_namespace("pods", NAMESPACE);
        pods.iter().any(|pod| {
            let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
            waiting["reason"] == "CreateContainerConfigError"
                && waiting["message"] == "secret \"settings\" not found"
        })
    };
    fixture.until(waits).await;
    let secret = json!({ "metadata": { "name": "settings" }, "stringData": { "disabled": "false" } });
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
    let (status, _) = fixture.send(Method::POST, &path, "application/json", &secret).await;
    assert_eq!(status, StatusCode::CREATED);
    fixture.rolled_out().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_crashes_never_gets_ready_and_the_old_one_serves_on() {
    let fixture = Fixture::replicas(2);
    fixture.patch(MERGE, DEPLOYMENT, json!({ "spec": { "progressDeadlineSeconds": 1 } })).await;
    fixture.set_env(json!([{ "name": "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR", "value": "none" }])).await;
    fixture.until(|store| progressing(store) == "ProgressDeadlineExceeded").await;
    let pods = fixture.pods();
    let crashing: Vec<&Value> = pods.iter().filter(|pod| !ready(pod)).collect();
    assert!(!crashing.is_empty());
    for pod in crashing {
        let status = &pod["status"]["containerStatuses"][0];
        assert_eq!(status["state"]["waiting"]["reason"], "CrashLoopBackOff", "{pod:#}");
        assert_eq!(status["lastState"]["terminated"]["reason"], "Error");
        assert_ne!(status["lastState"]["terminated"]["message"], "");
        assert!(status["restartCount"].as_u64().unwrap() > 1, "{status:#}");
    }
    // With two replicas and a quarter nothing may be missing.
    assert_eq!(endpoints(fixture.store()).len(), 2);
    let deployment = fixture.deployment();
    assert_eq!(condition(&deployment, "Progressing").0, "False");
    assert_eq!(condition(&deployment, "Available").0, "True");
    fixture.set_env(json!([{ "name": "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR", "value": "inmemory" }])).await;
    fixture.rolled_out().await;
    assert_eq!(progressing(fixture.store()), "NewReplicaSetAvailable");
    assert_eq!(fixture.cluster.serving().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_scaled_and_recreated() {
    let fixture = Fixture::replicas(2);
    fixture.patch(MERGE, DEPLOYMENT, json!({ "spec": { "paused": true } })).await;
    let old = fixture.uids();
    fixture.restart().await;
    fixture.until(|store| progressing(store) == "DeploymentPaused").await;
    // A paused Deployment is scaled all the same.
    fixture.patch(MERGE, DEPLOYMENT, json!({ "spec": { "replicas": 3 } })).await;
    fixture.until(|store| endpoints(store).len() == 3).await;
    assert_eq!(fixture.store().in_namespace("replicasets", NAMESPACE).len(), 1);
    assert!(fixture.uids().is_superset(&old));
    fixture.patch(MERGE, DEPLOYMENT, json!({ "spec": { "paused": false } })).await;
    fixture.rolled_out().await;
    assert!(fixture.uids().is_disjoint(&old));

    fixture.patch(MERGE, DEPLOYMENT, json!({ "spec": { "replicas": 0 } })).await;
    fixture.rolled_out().await;
    assert!(fixture.pods().is_empty() && fixture.cluster.serving().is_empty());
    let client = fixture.cluster.client("admin");
    assert!(client.send(Method::GET, "/v2/", &[], "").await.is_err(), "a service without endpoints");
    fixture.patch(MERGE, DEPLOYMENT, json!({ "spec": { "replicas": 2 } })).await;
    fixture.rolled_out().await;

    let recreate = json!({ "spec": { "strategy": { "type": "Recreate", "rollingUpdate": null } } });
    fixture.patch(MERGE, DEPLOYMENT, recreate).await;
    let old = fixture.uids();
    fixture.restart().await;
    let overlap = std::sync::atomic::AtomicBool::new(false);
    let over = fixture.cluster.wait_until(SOON, |store| {
        let pods = store.in_namespace("pods", NAMESPACE);
        let uids = pods.iter().map(|pod| text(&pod["metadata"]["uid"]).to_owned()).collect::<BTreeSet<_>>();
        let (of_old, of_new) = (uids.intersection(&old).count(), uids.difference(&old).count());
        if of_old > 0 && of_new > 0 {
            overlap.store(true, std::sync::atomic::Ordering::SeqCst);
        }
        of_new == 2
    });
    assert!(over.await);
    assert!(!overlap.into_inner(), "old and new pods at once");
    fixture.rolled_out().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_are_deleted_evicted_or_crash_are_replaced() {
    let fixture = Fixture::replicas(2);
    let layer = fixture.layer("a layer");
    let first = fixture.cluster.serving()[0];
    assert_eq!(fixture.head(first, &layer).await, StatusCode::OK);
    let slow = Pace { terminate: Duration::from_secs(1), ..Pace::default() };
    fixture.cluster.nodes().set_pace(slow);
    let pod = fixture.cluster.pod_name(first);
    let (path, uid) = (format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}"), fixture.cluster.pod_uid(first));
    let eviction =
        json!({ "metadata": { "name": pod }, "deleteOptions": { "preconditions": { "uid": uid } } });
    let (status, answer) =
        fixture.send(Method::POST, &format!("{path}/eviction"), "application/json", &eviction).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    fixture.until(|store| !endpoints(store).contains(&uid)).await;
    assert!(fixture.uids().contains(&uid), "still going");
    assert_eq!(fixture.head(first, &layer).await, StatusCode::OK, "and still serving");
    let slice = fixture.store().get("endpointslices", NAMESPACE, "image-registry-x7k2p").unwrap();
    let own =
        slice["endpoints"].as_array().unwrap().iter().find(|own| own["targetRef"]["uid"] == uid.as_str());
    assert_eq!(own.unwrap()["conditions"], json!({ "ready": false, "serving": true, "terminating": true }));
    fixture.rolled_out().await;
    assert!(!fixture.uids().contains(&uid));
    assert!(!fixture.cluster.serving().contains(&first));

    let first = fixture.cluster.serving()[0];
    let uid = fixture.cluster.pod_uid(first);
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}", fixture.cluster.pod_name(first));
    let now = json!({ "gracePeriodSeconds": 0 });
    fixture.send(Method::DELETE, &path, "application/json", &now).await;
    assert!(!fixture.uids().contains(&uid));
    fixture.rolled_out().await;
    assert!(!fixture.cluster.serving().contains(&first));

    let first = fixture.cluster.serving()[0];
    let (pod, uid) = (fixture.cluster.pod_name(first), fixture.cluster.pod_uid(first));
    assert_eq!(fixture.head(first, &layer).await, StatusCode::OK);
    fixture.cluster.crash_replica(first);
    fixture.until(|store| !endpoints(store).contains(&uid)).await;
    fixture.rolled_out().await;
    assert!(fixture.uids().contains(&uid), "the same pod");
    let again = fixture.cluster.replica_of_pod(&pod).unwrap();
    assert_ne!(again, first);
    assert!(!fixture.cluster.replica(again).remembers(&layer));
    let object = fixture.store().get("pods", NAMESPACE, &pod).unwrap();
    assert_eq!(object["status"]["containerStatuses"][0]["restartCount"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_no_node_takes_or_that_do_not_get_ready_hold_a_rollout_up() {
    let fixture = Fixture::replicas(2);
    let old = fixture.uids();
    let message = "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.";
    fixture.cluster.nodes().unschedulable(Some(message));
    fixture.restart().await;
    let unscheduled = |store: &Store| {
        let pods = store.in_namespace("pods", NAMESPACE);
        pods.iter()
            .any(|pod| condition(pod, "PodScheduled") == ("False".to_owned(), "Unschedulable".to_owned()))
    };
    fixture.until(unscheduled).await;
    assert!(fixture.uids().is_superset(&old));
    fixture.cluster.nodes().unready(true);
    fixture.cluster.nodes().unschedulable(None);
    fixture
        .until(|store| {
            let pods = store.in_namespace("pods", NAMESPACE);
            pods.iter().any(|pod| pod["status"]["phase"] == "Running" && !ready(pod))
        })
        .await;
    assert_eq!(endpoints(fixture.store()), old);
    fixture.cluster.nodes().unready(false);
    fixture.rolled_out().await;
    assert!(fixture.uids().is_disjoint(&old));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_takes_a_restart_back() {
    let mut survived = 0;
    for seed in 0..10 {
        let fixture = Fixture::operated(3, seed);
        let old = fixture.uids();
        let template = fixture.deployment()["spec"]["template"].clone();
        fixture.restart().await;
        fixture.set_env(json!([{ "name": "REGISTRY_LOG_LEVEL", "value": "debug" }])).await;
        fixture
            .until(|store| {
                store.get("deployments", NAMESPACE, "image-registry").unwrap()["spec"]["template"] == template
            })
            .await;
        fixture.rolled_out().await;
        survived += fixture.uids().intersection(&old).count();
        let config = fixture.store().get("configs", "", "cluster").unwrap();
        let generation = &fixture.deployment()["metadata"]["generation"];
        assert_eq!(&config["status"]["generations"][0]["lastGeneration"], generation);
    }
    assert!(survived > 0, "some pods must have outlived what was taken back");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_keeps_what_its_own_configuration_says() {
    let fixture = Fixture::operated(2, 1);
    let old = fixture.uids();
    let overrides = |value: &str| json!({ "spec": { "unsupportedConfigOverrides": { "deployment": { "annotations": { "restart": value } } } } });
    fixture.patch(MERGE, CONFIG, overrides("1")).await;
    fixture
        .until(|store| {
            let deployment = store.get("deployments", NAMESPACE, "image-registry").unwrap();
            deployment["spec"]["template"]["metadata"]["annotations"]["restart"] == "1"
        })
        .await;
    fixture.rolled_out().await;
    assert!(fixture.uids().is_disjoint(&old));
    let strategy = fixture.deployment()["spec"]["strategy"].clone();
    assert_eq!(strategy["rollingUpdate"], json!({ "maxUnavailable": 1, "maxSurge": 1 }));
    let budget = || fixture.store().get("poddisruptionbudgets", NAMESPACE, "image-registry").unwrap();
    assert_eq!(budget()["spec"]["minAvailable"], 1);
    fixture
        .until(|store| {
            let budget = store.get("poddisruptionbudgets", NAMESPACE, "image-registry").unwrap();
            budget["status"]["disruptionsAllowed"] == 1
        })
        .await;

    fixture.patch(MERGE, CONFIG, json!({ "spec": { "replicas": 1, "readOnly": true } })).await;
    fixture
        .until(|store| {
            store.get("deployments", NAMESPACE, "image-registry").unwrap()["spec"]["replicas"] == 1
        })
        .await;
    fixture.rolled_out().await;
    assert_eq!(budget()["spec"]["minAvailable"], 0);
    let deployment = fixture.deployment();
    let env = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    assert!(
        env.contains(&json!({ "name": "REGISTRY_STORAGE_MAINTENANCE_READONLY", "value": "{enabled: true}" }))
    );
    let upload =
        fixture.cluster.client("admin").send(Method::POST, "/v2/shop/web/blobs/uploads/", &[], "").await;
    assert_eq!(upload.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread")]
async fn unmanaged_the_operator_keeps_its_hands_off_and_removed_it_removes() {
    let fixture = Fixture::operated(2, 2);
    fixture.patch(MERGE, CONFIG, json!({ "spec": { "managementState": "Unmanaged" } })).await;
    fixture
        .until(|store| store.get("configs", "", "cluster").unwrap()["status"]["observedGeneration"] == 2)
        .await;
    let old = fixture.uids();
    fixture.restart().await;
    fixture.rolled_out().await;
    assert!(fixture.uids().is_disjoint(&old));
    let annotations = fixture.deployment()["spec"]["template"]["metadata"]["annotations"].clone();
    assert!(annotations["kubectl.kubernetes.io/restartedAt"].is_string());

    fixture.patch(MERGE, CONFIG, json!({ "spec": { "managementState": "Managed" } })).await;
    fixture
        .until(|store| {
            let deployment = store.get("deployments", NAMESPACE, "image-registry").unwrap();
            deployment["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"]
                .is_null()
        })
        .await;
    fixture.patch(MERGE, CONFIG, json!({ "spec": { "managementState": "Removed" } })).await;
    assert!(
        fixture
            .cluster
            .wait_until(SOON, |store| {
                ["deployments", "replicasets", "pods", "services", "endpoints", "poddisruptionbudgets"]
                    .iter()
                    .all(|resource| store.in_namespace(resource, NAMESPACE).is_empty())
            })
            .await
    );
    assert!(fixture.cluster.serving().is_empty());
    fixture.patch(MERGE, CONFIG, json!({ "spec": { "managementState": "Managed" } })).await;
    assert!(fixture.cluster.wait_for_rollout(SOON).await);
    assert_eq!(fixture.cluster.serving().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_lag() {
    let fixture = Fixture::replicas(1);
    let lag = Duration::from_secs(1);
    fixture.cluster.nodes().set_pace(Pace { endpoint_lag: lag, ..Pace::default() });
    let old = fixture.uids();
    fixture.restart().await;
    fixture
        .until(|store| {
            let pods = store.in_namespace("pods", NAMESPACE);
            pods.len() == 1
                && pods.iter().all(|pod| !old.contains(text(&pod["metadata"]["uid"])) && ready(pod))
        })
        .await;
    assert_eq!(endpoints(fixture.store()), old, "the pod is gone, its endpoint is not");
    fixture.rolled_out().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_pods_come_and_go() {
    let pace =
        Pace { start: Duration::ZERO, ready: Duration::ZERO, terminate: Duration::ZERO, ..Pace::default() };
    let fixture = Fixture::start(ClusterConfig {
        replicas: 5,
        controller: Some(pace),
        pods_reachable: false,
        ..ClusterConfig::default()
    });
    let mut seen = fixture.uids();
    for _ in 0..60 {
        let old = fixture.uids();
        fixture.restart().await;
        fixture.rolled_out().await;
        assert!(fixture.uids().is_disjoint(&old));
        seen.extend(fixture.uids());
    }
    assert!(seen.len() >= 305, "{}", seen.len());
    let serving = fixture.cluster.serving();
    assert_eq!(serving.len(), 5);
    let ips: BTreeSet<String> =
        fixture.pods().iter().map(|pod| text(&pod["status"]["podIP"]).to_owned()).collect();
    assert_eq!(ips.len(), 5);
    assert!(ips.iter().all(|ip| ip.starts_with("127.128.")), "{ips:?}");
    let sets = fixture.store().in_namespace("replicasets", NAMESPACE).len();
    assert!(sets <= 12, "{sets} ReplicaSets are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_does_not_start_at_all_is_still_a_cluster() {
    let config = RegistryConfig { delete_enabled: false, ..RegistryConfig::default() };
    let fixture =
        Fixture::start(ClusterConfig { registry: Some(config), replicas: 0, ..ClusterConfig::default() });
    assert!(fixture.pods().is_empty());
    assert_eq!(endpoints(fixture.store()), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_says_how_the_registry_is_set_up() {
    let redis = RedisCache { password: Some("hush".to_owned()), ..RedisCache::at("redis.cache.svc:6379") };
    let config = RegistryConfig {
        ttl: Duration::from_millis(2500),
        delete_enabled: false,
        redis: Some(redis),
        ..RegistryConfig::default()
    };
    let fixture =
        Fixture::start(ClusterConfig { registry: Some(config.clone()), ..ClusterConfig::default() });
    let own = Cluster::start(ClusterConfig { registry: Some(config), ..ClusterConfig::default() });
    for store in [fixture.store(), own.sandbox().store()] {
        let deployment = store.get("deployments", NAMESPACE, "image-registry").unwrap();
        let pod = &store.in_namespace("pods", NAMESPACE)[0];
        for spec in [&deployment["spec"]["template"]["spec"], &pod["spec"]] {
            let env = spec["containers"][0]["env"].as_array().unwrap();
            let value = |name: &str| {
                let mut own = env.iter().filter(|variable| variable["name"] == name);
                let found = own.next().unwrap();
                assert!(own.next().is_none(), "{name} twice");
                found
            };
            assert_eq!(value("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR")["value"], "redis");
            assert_eq!(value("REGISTRY_REDIS_ADDR")["value"], "redis.cache.svc:6379");
            assert_eq!(value("REGISTRY_OPENSHIFT_CACHE_BLOBREPOSITORYTTL")["value"], "2500ms");
            assert_eq!(value("REGISTRY_STORAGE_DELETE_ENABLED")["value"], "false");
            let reference = &value("REGISTRY_REDIS_PASSWORD")["valueFrom"]["secretKeyRef"];
            assert_eq!(reference["key"], "REGISTRY_REDIS_PASSWORD");
        }
    }
    assert_eq!(fixture.cluster.serving().len(), 1, "it starts with that");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_in_the_environment_leads_where_it_is_told() {
    if !Server::installed() {
        return;
    }
    let redis = Server::start(&[]);
    let fixture = Fixture::replicas(1);
    fixture.cluster.map_host("redis.cache.svc:6379", redis.address().parse().unwrap());
    let variables =
        [("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR", "redis"), ("REGISTRY_REDIS_ADDR", "redis.cache.svc:6379")];
    fixture.set_env(variables.map(|(name, value)| json!({ "name": name, "value": value })).into()).await;
    fixture.rolled_out().await;
    let layer = fixture.layer("a layer");
    assert_eq!(fixture.head(fixture.cluster.serving()[0], &layer).await, StatusCode::OK);
    assert!(redis.keys().contains(&format!("blobs::{layer}")), "{:?}", redis.keys());
}

/// Runs kubectl as the administrator and returns what it says.
fn kubectl(fixture: &Fixture, args: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = fixture.cluster.kubeconfig(directory.path(), "admin");
    let output = Command::new("kubectl")
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--namespace={NAMESPACE}"))
        .arg(format!("--cache-dir={}", directory.path().display()))
        .args(args)
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}: {stdout}{stderr}");
    stdout.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_finds_a_cluster() {
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        return;
    }
    // It sends no token without TLS.
    let fixture = Fixture::start_as(ClusterConfig { replicas: 2, ..ClusterConfig::default() });
    let old = fixture.uids();
    let restarted = kubectl(&fixture, &["rollout", "restart", "deployment/image-registry"]);
    assert_eq!(restarted, "deployment.apps/image-registry restarted\n");
    let status = kubectl(&fixture, &["rollout", "status", "deployment/image-registry", "--timeout=20s"]);
    assert!(status.ends_with("deployment \"image-registry\" successfully rolled out\n"), "{status}");
    fixture.rolled_out().await;
    assert!(fixture.uids().is_disjoint(&old));
    kubectl(&fixture, &["set", "env", "deployment/image-registry", "REGISTRY_OPENSHIFT_CACHE_DISABLED=true"]);
    kubectl(&fixture, &["rollout", "status", "deployment/image-registry", "--timeout=20s"]);
    kubectl(&fixture, &["annotate", "deployment/image-registry", "note=x"]);
    kubectl(&fixture, &["rollout", "pause", "deployment/image-registry"]);
    fixture.until(|store| progressing(store) == "DeploymentPaused").await;
    kubectl(&fixture, &["rollout", "resume", "deployment/image-registry"]);
    fixture.rolled_out().await;
    let pod = fixture.cluster.pod_name(fixture.cluster.serving()[0]);
    let deleted = kubectl(&fixture, &["delete", "pod", &pod, "--timeout=20s"]);
    assert!(deleted.contains("deleted"), "{deleted}");
    kubectl(&fixture, &["rollout", "undo", "deployment/image-registry"]);
    fixture.rolled_out().await;
    let env = fixture.deployment()["spec"]["template"]["spec"]["containers"][0]["env"].to_string();
    assert!(!env.contains("REGISTRY_OPENSHIFT_CACHE_DISABLED"));
}
