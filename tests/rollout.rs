//! Restarts a sandbox's registry, and turns its caches off and on, while its controllers, its nodes and its operator do
//! what they do.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: whatever is wrong here fails the test"
)]

mod common;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use common::Plugin;
use http::{Method, StatusCode};
use oc_prune_images::cache::commands::switch::{self, Consent, SPELLED_OUT, SwitchOptions, Switched, Turn};
use oc_prune_images::cache::detect::Place;
use oc_prune_images::cache::rollout::{
    Pace, Progress, Restart, Restarted, RolloutFailure, Way, Ways, restart, ways,
};
use oc_prune_images::cluster::{ConnectionOptions, Environment, install_crypto};
use oc_prune_images::error::{Exit, Failure};
use sandbox::api::{Rule, image_pruner};
use sandbox::fault::{Action, Answer, Fault};
use sandbox::log::{Entry, Server};
use sandbox::registry::{Digest, Link};
use sandbox::{Cluster, ClusterConfig, Operator};
use serde_json::{Value, json};
use tempfile::TempDir;

const NAMESPACE: &str = "openshift-image-registry";
const NAME: &str = "image-registry";
const REPOSITORY: &str = "shop/web";
const LIMIT: Duration = Duration::from_secs(30);

/// As fast as the sandbox's nodes.
const PACE: Pace = Pace {
    poll: Duration::from_millis(4),
    hold: Duration::from_millis(10),
    trouble: Duration::from_millis(400),
    operator: Duration::from_secs(5),
};

/// What happens to a pod of the sandbox takes this long.
fn quick() -> sandbox::Pace {
    sandbox::Pace::default()
}

struct Fixture {
    cluster: Cluster,
    directory: TempDir,
}

impl Fixture {
    fn start(replicas: usize) -> Self {
        Self::with(ClusterConfig { replicas, controller: Some(quick()), ..ClusterConfig::default() })
    }

    fn managed(replicas: usize, operator: Operator, pace: sandbox::Pace) -> Self {
        Self::with(ClusterConfig {
            replicas,
            controller: Some(pace),
            operator: Some(operator),
            ..ClusterConfig::default()
        })
    }

    fn with(config: ClusterConfig) -> Self {
        install_crypto();
        let cluster = Cluster::start(config);
        cluster.sandbox().load_objects(json!([{
            "apiVersion": "image.openshift.io/v1", "kind": "ImageStream",
            "metadata": { "namespace": "shop", "name": "web" },
        }]));
        let fixture = Self { cluster, directory: tempfile::tempdir().unwrap() };
        // The pruner, with one more right each.
        let pods =
            |verb: &str, resource: &str| Rule::new(&[verb], &[""], &[resource]).in_namespace(NAMESPACE);
        let endpoints =
            Rule::new(&["list"], &["discovery.k8s.io"], &["endpointslices"]).in_namespace(NAMESPACE);
        for (user, rules) in [
            ("evictor", vec![pods("create", "pods/eviction"), endpoints]),
            ("deleter", vec![pods("delete", "pods"), pods("get", "endpoints")]),
            ("annotator", vec![Rule::new(&["patch"], &["apps"], &["deployments"]).in_namespace(NAMESPACE)]),
        ] {
            let rules = image_pruner().into_iter().chain(rules).collect();
            fixture.cluster.sandbox().access().add_user(user, user, rules);
        }
        fixture
    }

    async fn api(&self, user: &str) -> oc_prune_images::cluster::Cluster {
        oc_prune_images::cluster::Cluster::connect(&self.connection(user), &Environment::of_process())
            .await
            .unwrap()
    }

    fn connection(&self, user: &str) -> ConnectionOptions {
        ConnectionOptions {
            kubeconfig: Some(self.cluster.kubeconfig(self.directory.path(), user)),
            ..ConnectionOptions::default()
        }
    }

    async fn restart(&self, user: &str) -> (Result<Restarted, RolloutFailure>, Vec<String>) {
        self.restart_within(user, LIMIT).await
    }

    async fn restart_within(
        &self,
        user: &str,
        timeout: Duration,
    ) -> (Result<Restarted, RolloutFailure>, Vec<String>) {
        let told = Mutex::new(Vec::new());
        let api = self.api(user).await;
        let tell = |progress: &Progress| told.lock().unwrap().push(progress.to_string());
        let order = Restart { cluster: &api, place: &Place::default(), timeout, pace: PACE };
        let result = restart(order, &tell).await;
        (result, told.into_inner().unwrap())
    }

    /// Restarts, and returns by which way.
    async fn proven(&self, user: &str) -> (Way, Vec<String>) {
        let before = self.uids();
        let (result, told) = self.restart(user).await;
        match result {
            Ok(Restarted::Proven { way, proof }) => {
                assert!(!proof.replaced.is_empty() && !proof.serving.is_empty(), "{proof:#?}\n{told:#?}");
                self.assert_none_serves(&before, &told);
                // Who may not see the slices knows only that the pods are gone.
                if user == "admin" || user == "evictor" {
                    self.assert_nothing_is_sent_to(&before, &told);
                }
                (way, told)
            }
            other => panic!("{other:#?}\n{told:#?}"),
        }
    }

    async fn ways(&self, user: &str) -> Ways {
        ways(&self.api(user).await, &Place::default()).await
    }

    /// The UIDs of the registry's pods.
    fn uids(&self) -> BTreeSet<String> {
        let pods = self.cluster.sandbox().store().in_namespace("pods", NAMESPACE);
        pods.iter().map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
    }

    /// No replica of these pods listens.
    fn assert_none_serves(&self, old: &BTreeSet<String>, told: &[String]) {
        for replica in self.cluster.serving() {
            assert!(!old.contains(&self.cluster.pod_uid(replica)), "replica {replica} serves\n{told:#?}");
        }
    }

    /// No service sends to these pods.
    fn assert_nothing_is_sent_to(&self, old: &BTreeSet<String>, told: &[String]) {
        for slice in self.cluster.sandbox().store().in_namespace("endpointslices", NAMESPACE) {
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                let uid = endpoint["targetRef"]["uid"].as_str().unwrap();
                let is_sent_to = endpoint["conditions"]["serving"] != false;
                assert!(!(is_sent_to && old.contains(uid)), "{endpoint}\n{told:#?}");
            }
        }
    }

    fn deployment(&self) -> Value {
        self.cluster.sandbox().store().get("deployments", NAMESPACE, NAME).unwrap()
    }

    /// Changes the Deployment as a user does.
    async fn patch(&self, patch: &Value) {
        let api = self.api("admin").await;
        let mut request = oc_prune_images::cluster::ApiRequest::new(
            Method::PATCH,
            format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}"),
        );
        request.content_type = "application/strategic-merge-patch+json";
        request.body = Some(patch.to_string().into());
        api.request(request).await.unwrap();
    }

    async fn settled(&self) {
        assert!(self.cluster.wait_for_rollout(LIMIT).await, "{:#}", self.deployment());
    }

    /// Requests that change objects of the registry's namespace or of the operator.
    fn changes(&self) -> Vec<Entry> {
        self.cluster.sandbox().request_log().filter(|entry| {
            entry.server == Server::Api && entry.is_mutation() && !entry.path.contains("selfsubject")
        })
    }

    /// A layer that a client pushed, asked all replicas for, and a prune deleted through one of them.
    async fn pruned_layer(&self, text: &str) -> Digest {
        let digest = self.cluster.storage().put_blob(text.as_bytes()).unwrap();
        self.cluster.storage().link(Link::Layer, REPOSITORY, &digest).unwrap();
        for replica in self.cluster.serving() {
            assert_eq!(self.head(replica, &digest).await, StatusCode::OK);
        }
        let first = self.cluster.serving()[0];
        let pruner = self.cluster.client_of(first, "pruner");
        for path in [format!("/v2/{REPOSITORY}/blobs/{digest}"), format!("/admin/blobs/{digest}")] {
            assert!(
                pruner.send(Method::DELETE, &path, &[], "").await.unwrap().status().is_success(),
                "{path}"
            );
        }
        digest
    }

    async fn head(&self, replica: usize, digest: &Digest) -> StatusCode {
        let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
        self.cluster.client_of(replica, "admin").send(Method::HEAD, &path, &[], "").await.unwrap().status()
    }

    /// How many replicas answer for what is gone.
    async fn stale(&self, digest: &Digest) -> usize {
        let mut stale = 0;
        for replica in self.cluster.serving() {
            stale += usize::from(self.head(replica, digest).await != StatusCode::NOT_FOUND);
        }
        stale
    }
}

fn failure(result: Result<Restarted, RolloutFailure>, told: &[String]) -> RolloutFailure {
    match result {
        Err(failure) => failure,
        Ok(other) => panic!("{other:#?}\n{told:#?}"),
    }
}

fn has(lines: &[String], text: &str) -> bool {
    lines.iter().any(|line| line.contains(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_followed_to_the_proof_and_no_replica_is_stale_after_it() {
    let fixture = Fixture::start(3);
    let layer = fixture.pruned_layer("a layer").await;
    assert_eq!(fixture.stale(&layer).await, 2, "all but the one that deleted it");
    let (way, told) = fixture.proven("annotator").await;
    assert_eq!(way, Way::Annotate);
    assert!(has(&told, "the registry is restarted by a rollout"), "{told:#?}");
    assert_eq!(fixture.stale(&layer).await, 0);
    let changes = fixture.changes();
    let own: Vec<_> = changes.iter().map(|entry| entry.method.as_str()).collect();
    assert_eq!(own, ["PATCH"], "one change is enough");
    let template = &fixture.deployment()["spec"]["template"];
    assert!(template["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_old_pod_serves_against_a_reverting_operator_in_50_of_50_runs() {
    let mut ways = Vec::new();
    for seed in 0..50 {
        let mut random = fastrand::Rng::with_seed(seed);
        let millis = |random: &mut fastrand::Rng, most: u64| Duration::from_millis(random.u64(0..=most));
        let operator = Operator { delay: millis(&mut random, 60), ..Operator::default() };
        let pace = sandbox::Pace {
            start: millis(&mut random, 15),
            ready: millis(&mut random, 15),
            terminate: millis(&mut random, 30),
            endpoint_lag: millis(&mut random, 30),
            jitter: millis(&mut random, 15),
            seed,
        };
        let fixture = Fixture::managed(random.usize(1..=4), operator, pace);
        let layer = fixture.pruned_layer("a layer").await;
        let user = match seed % 3 {
            0 => "admin",
            1 => "evictor",
            _ => {
                // Nobody knows of the operator, which turns the rollout back.
                let absent = Answer::kubernetes(StatusCode::NOT_FOUND, "NotFound", "no configs here");
                let fault = Fault::new(Action::Answer(absent)).server(Server::Api).path("configs/cluster");
                fixture.cluster.sandbox().faults().add(fault);
                "admin"
            }
        };
        let (way, told) = fixture.proven(user).await;
        assert_eq!(fixture.stale(&layer).await, 0, "{told:#?}");
        ways.push((seed % 3, way, has(&told, "turned back") && has(&told, "is evicted")));
    }
    for (kind, expected) in [(0, Way::Override), (1, Way::Evict), (2, Way::Annotate)] {
        assert!(
            ways.iter().filter(|(seed, ..)| *seed == kind).all(|(_, way, _)| *way == expected),
            "{ways:?}"
        );
    }
    assert!(ways.iter().any(|(kind, _, reverted)| *kind == 2 && *reverted), "no pod survived: {ways:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_was_interrupted_is_finished_by_the_next_one() {
    let fixture = Fixture::managed(3, Operator::default(), quick());
    let layer = fixture.pruned_layer("a layer").await;
    for seed in 0..10 {
        let api = fixture.api(if seed % 2 == 0 { "admin" } else { "evictor" }).await;
        let place = Place::default();
        let order = Restart { cluster: &api, place: &place, timeout: LIMIT, pace: PACE };
        let pause = Duration::from_millis(fastrand::Rng::with_seed(seed).u64(0..60));
        let _ = tokio::time::timeout(pause, restart(order, &|_| ())).await;
    }
    fixture.proven("evictor").await;
    assert_eq!(fixture.stale(&layer).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_fails_now_and_then_is_asked_again() {
    let fixture = Fixture::managed(3, Operator::default(), quick());
    let faults = fixture.cluster.sandbox().faults();
    let unavailable =
        || Answer::kubernetes(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "etcd has no leader");
    let conflict = || Answer::kubernetes(StatusCode::CONFLICT, "Conflict", "the object has been modified");
    let gone = || Answer::kubernetes(StatusCode::GONE, "Expired", "too old");
    for action in [
        Action::Answer(unavailable()),
        Action::ResetBefore,
        Action::ResetAfter,
        Action::Answer(Answer::too_many_requests(0)),
        Action::Answer(gone()),
        Action::Truncate(10),
    ] {
        faults.add(
            Fault::new(action.clone()).server(Server::Api).method(Method::GET).path("/pods").skip(1).times(3),
        );
        faults.add(Fault::new(action).server(Server::Api).path("/configs/cluster").skip(1).times(1));
    }
    faults.add(Fault::new(Action::Answer(conflict())).server(Server::Api).method(Method::PUT).times(2));
    let (way, told) = fixture.proven("admin").await;
    assert_eq!(way, Way::Override);
    assert!(has(&told, "trying again"), "{told:#?}");

    // An eviction without an answer may have been made.
    faults.clear();
    faults.add(
        Fault::new(Action::ResetAfter).server(Server::Api).method(Method::POST).path("eviction").times(2),
    );
    faults.add(
        Fault::new(Action::Answer(unavailable()))
            .server(Server::Api)
            .method(Method::POST)
            .path("eviction")
            .times(2),
    );
    fixture.proven("evictor").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_annotations_of_the_operators_configuration_stay() {
    let overrides =
        json!({ "deployment": { "annotations": { "a": "b" }, "runtimeClassName": "c" }, "other": 1 });
    let spec = json!({ "unsupportedConfigOverrides": overrides });
    let fixture = Fixture::managed(2, Operator { spec, ..Operator::default() }, quick());
    assert_eq!(fixture.proven("admin").await.0, Way::Override);
    let config = fixture.cluster.sandbox().store().get("configs", "", "cluster").unwrap();
    let mut overridden = config["spec"]["unsupportedConfigOverrides"].clone();
    let value = overridden["deployment"]["annotations"]
        .as_object_mut()
        .unwrap()
        .shift_remove("prune-images/restartedAt");
    assert!(value.is_some_and(|value| value.is_string()));
    assert_eq!(overridden, overrides);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_crash_are_told_in_their_own_words_and_the_old_ones_are_named() {
    let fixture = Fixture::start(2);
    let old = fixture.uids();
    // What the registry panics at, in an object that the next pods read.
    fixture.cluster.sandbox().load_objects(json!([{
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "namespace": NAMESPACE, "name": "cache" }, "data": { "kind": "inmemory" },
    }]));
    let from = json!({ "configMapKeyRef": { "name": "cache", "key": "kind" } });
    let entry = json!({ "name": "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR", "value": null, "valueFrom": from });
    fixture
        .patch(&json!({ "spec": { "template": { "spec": { "containers": [{ "name": "registry", "env": [entry] }] } } } }))
        .await;
    fixture.settled().await;
    assert!(fixture.uids().is_disjoint(&old));
    fixture
        .cluster
        .sandbox()
        .store()
        .update("configmaps", NAMESPACE, "cache", |map| map["data"]["kind"] = "none".into());
    let (result, told) = fixture.restart("annotator").await;
    let failure = failure(result, &told);
    assert!(failure.changed && !failure.old.is_empty(), "{failure:#?}");
    assert!(failure.message.contains("CrashLoopBackOff"), "{failure}");
    assert!(failure.message.contains("none"), "the container's last words: {failure}");
    assert!(has(&told, "CrashLoopBackOff"), "told before it was given up: {told:#?}");
    assert!(has(&failure.hints, "--previous"), "{failure:#?}");
    let names: Vec<_> = failure.old.iter().map(|survivor| survivor.name.as_str()).collect();
    assert!(names.iter().all(|name| failure.message.contains(name)), "{failure}");
    assert_eq!(Failure::from(failure).exit, Exit::CacheMayLie);

    fixture
        .cluster
        .sandbox()
        .store()
        .update("configmaps", NAMESPACE, "cache", |map| map["data"]["kind"] = "inmemory".into());
    fixture.proven("annotator").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_nobody_takes_are_told_in_the_schedulers_words() {
    let fixture = Fixture::start(2);
    let message = "0/3 nodes are available: 3 Insufficient memory.";
    fixture.cluster.nodes().unschedulable(Some(message));
    let (result, told) = fixture.restart("annotator").await;
    let failure = failure(result, &told);
    assert!(failure.message.contains(message), "{failure}");
    assert!(has(&told, message), "{told:#?}");

    // The controller's own deadline comes first where it is shorter.
    fixture.patch(&json!({ "spec": { "progressDeadlineSeconds": 1 } })).await;
    let told = Mutex::new(Vec::new());
    let api = fixture.api("annotator").await;
    let pace = Pace { trouble: LIMIT, ..PACE };
    let order = Restart { cluster: &api, place: &Place::default(), timeout: LIMIT, pace };
    let tell = |progress: &Progress| told.lock().unwrap().push(progress.to_string());
    let result = restart(order, &tell).await;
    let failure = self::failure(result, &told.into_inner().unwrap());
    assert!(failure.message.contains("has timed out progressing"), "{failure}");
    assert!(failure.message.contains(message), "{failure}");

    fixture.cluster.nodes().unschedulable(None);
    fixture.settled().await;
    fixture.proven("annotator").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_blocks_for_a_while_is_waited_for() {
    let fixture = Fixture::managed(3, Operator::default(), quick());
    fixture.cluster.sandbox().api().configure(|settings| settings.refuse_evictions = 5);
    let (way, told) = fixture.proven("evictor").await;
    assert_eq!(way, Way::Evict);
    assert!(
        has(
            &told,
            "may not be evicted yet: Cannot evict pod as it would violate the pod's disruption budget."
        ),
        "{told:#?}"
    );

    // For ever: then it is said what is left.
    fixture.cluster.sandbox().api().configure(|settings| settings.refuse_evictions = usize::MAX);
    let (result, told) = fixture.restart_within("evictor", Duration::from_millis(200)).await;
    let failure = failure(result, &told);
    assert!(failure.message.contains("disruption budget"), "{failure}");
    assert_eq!(failure.old.len(), 3);
    assert!(!failure.changed);
    assert!(has(&failure.hints, "oc delete pod "), "{failure:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_about_evictions_is_heeded() {
    let fixture = Fixture::start(1);
    let faults = fixture.cluster.sandbox().faults();
    let eviction =
        |answer| Fault::new(Action::Answer(answer)).server(Server::Api).path("/eviction$").times(1);
    faults.add(eviction(Answer::too_many_requests(1)));
    let begun = std::time::Instant::now();
    fixture.proven("evictor").await;
    assert!(begun.elapsed() >= Duration::from_secs(1), "it asked to be left alone for a second");

    let unknown = "no kind \"Eviction\" is registered for version \"policy/v1\" in scheme";
    faults.add(eviction(Answer::kubernetes(StatusCode::BAD_REQUEST, "BadRequest", unknown)));
    fixture.proven("evictor").await;
    let log = fixture.cluster.sandbox().request_log();
    let last = log.filter(|entry| entry.path.ends_with("/eviction")).pop().unwrap().json();
    assert_eq!(last["apiVersion"], "policy/v1beta1");

    // Who may evict by the review alone deletes.
    let forbidden = Answer::kubernetes(StatusCode::FORBIDDEN, "Forbidden", "pods is forbidden");
    faults.add(Fault::new(Action::Answer(forbidden)).server(Server::Api).path("/eviction$"));
    fixture.patch(&json!({ "spec": { "paused": true } })).await;
    fixture.proven("admin").await;
    assert_eq!(fixture.changes().pop().unwrap().method, Method::DELETE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_config_is_changed_by_its_own_commands() {
    let fixture = Fixture::start(1);
    fixture.cluster.sandbox().load_objects(json!([{
        "apiVersion": "apps.openshift.io/v1", "kind": "DeploymentConfig",
        "metadata": { "namespace": "default", "name": "docker-registry" },
        "spec": { "replicas": 1, "selector": { "a": "b" }, "template": { "spec": { "containers": [{ "name": "registry" }] } } },
    }]));
    let place = Place { namespace: "default".to_owned(), deployment: "docker-registry".to_owned() };
    let off = SwitchOptions { place: place.clone(), ..options(&fixture, Turn::Off, "admin") };
    let refused = turn(&fixture, &off, None).await.unwrap_err();
    assert_eq!(refused.exit, Exit::NothingChanged);
    let set = "oc set env deploymentconfig/docker-registry -n default REGISTRY_OPENSHIFT_CACHE_DISABLED=true REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR=inmemory";
    assert!(has(&refused.hints, set), "{refused}");
    let ways = ways(&fixture.api("admin").await, &place).await;
    assert_eq!(ways.possible, [Way::Evict, Way::Delete], "{ways:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_replaced_one_by_one_and_the_registry_stays_there() {
    for user in ["evictor", "deleter"] {
        let fixture = Fixture::start(3);
        let store = fixture.cluster.sandbox().store().clone();
        let done = std::sync::atomic::AtomicBool::new(false);
        let watch = async {
            let mut fewest = usize::MAX;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let pods = store.in_namespace("pods", NAMESPACE);
                let ready = pods.iter().filter(|pod| {
                    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
                    let mut ready =
                        conditions.filter(|one| one["type"] == "Ready" && one["status"] == "True");
                    pod["metadata"]["deletionTimestamp"].is_null() && ready.next().is_some()
                });
                fewest = fewest.min(ready.count());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            fewest
        };
        let run = async {
            let proven = fixture.proven(user).await;
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            proven
        };
        let ((way, told), fewest) = tokio::join!(run, watch);
        assert_eq!(way, if user == "evictor" { Way::Evict } else { Way::Delete });
        assert!(fewest >= 2, "only {fewest} were ready\n{told:#?}");
        assert_eq!(fixture.changes().len(), 3, "each pod once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_lag_are_waited_for() {
    let pace = sandbox::Pace { endpoint_lag: Duration::from_millis(300), ..quick() };
    let fixture =
        Fixture::with(ClusterConfig { replicas: 2, controller: Some(pace), ..ClusterConfig::default() });
    let (_, told) = fixture.proven("admin").await;
    assert!(has(&told, "a service still sends to it"), "{told:#?}");
    // Without the right to see them, the pods have to be gone.
    let (_, told) = fixture.proven("annotator").await;
    assert!(!has(&told, "a service still sends to it"), "{told:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_deployment_is_restarted_pod_by_pod_or_not_at_all() {
    let fixture = Fixture::start(2);
    fixture.patch(&json!({ "spec": { "paused": true } })).await;
    let (result, told) = fixture.restart("annotator").await;
    let failure = failure(result, &told);
    assert!(!failure.changed);
    assert!(
        has(&failure.hints, "oc rollout resume deployment/image-registry -n openshift-image-registry"),
        "{failure:#?}"
    );
    let (way, told) = fixture.proven("admin").await;
    assert_eq!(way, Way::Evict);
    assert!(has(&told, "is paused"), "{told:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_will_be_felt_is_said_before_it_is_done() {
    let recreate = Operator { spec: json!({ "rolloutStrategy": "Recreate" }), ..Operator::default() };
    let fixture = Fixture::managed(2, recreate, quick());
    let (way, told) = fixture.proven("admin").await;
    assert_eq!(way, Way::Override);
    assert!(told[0].contains("strategy Recreate") && told[0].contains("away for a moment"), "{told:#?}");

    let fixture = Fixture::managed(1, Operator::default(), quick());
    let (_, told) = fixture.proven("evictor").await;
    assert!(told[0].contains("single replica: it will be away for a moment"), "{told:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_run_is_not_restarted() {
    let nothing = |result: Result<Restarted, RolloutFailure>, words: &str| match result {
        Ok(Restarted::Nothing(why)) => assert!(why.contains(words), "{why}"),
        other => panic!("{other:#?}"),
    };
    let fixture = Fixture::start(2);
    fixture.patch(&json!({ "spec": { "replicas": 0 } })).await;
    // Also while its pods are still ending.
    nothing(fixture.restart("pruner").await.0, "spec.replicas: 0");
    assert!(fixture.cluster.serving().is_empty());
    let removed = Operator { spec: json!({ "managementState": "Removed" }), ..Operator::default() };
    let fixture = Fixture::managed(2, removed, quick());
    nothing(fixture.restart("admin").await.0, "managementState: Removed");
    nothing(fixture.restart("pruner").await.0, "there is no deployment/image-registry");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_right_nothing_is_changed_and_the_rights_are_named() {
    let fixture = Fixture::managed(2, Operator::default(), quick());
    let (result, told) = fixture.restart("pruner").await;
    let failure = failure(result, &told);
    assert!(!failure.changed);
    for right in [
        "get configs.imageregistry.operator.openshift.io/cluster",
        "create pods/eviction in namespace openshift-image-registry",
        "delete pods in namespace openshift-image-registry",
    ] {
        assert!(has(&failure.hints, right), "{failure:#?}");
    }
    assert!(fixture.changes().is_empty());
    assert_eq!(Failure::from(failure).exit, Exit::NothingChanged);

    for (user, possible) in [
        ("pruner", vec![]),
        ("evictor", vec![Way::Evict]),
        ("annotator", vec![Way::Annotate]),
        ("admin", vec![Way::Override, Way::Evict, Way::Delete]),
    ] {
        let ways = fixture.ways(user).await;
        assert_eq!(ways.possible, possible, "{user}: {ways:#?}");
        assert_eq!(ways.is_possible(), user != "pruner");
    }
    let ways = fixture.ways("nobody").await;
    assert!(ways.obstacle.is_some() && !ways.is_possible(), "{ways:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_is_turned_back_without_the_right_to_do_more_says_which_pods_are_left() {
    // The operator may be there, and is.
    let mut reverted = 0;
    for seed in 0..8 {
        let operator = Operator { delay: Duration::from_millis(seed), ..Operator::default() };
        let fixture = Fixture::managed(3, operator, quick().seeded(seed));
        let old = fixture.uids();
        match fixture.restart("annotator").await {
            (Ok(Restarted::Proven { way: Way::Annotate, .. }), told) => {
                fixture.assert_none_serves(&old, &told);
            }
            (Err(failure), told) => {
                assert!(failure.reverted && failure.changed, "{failure:#?}\n{told:#?}");
                assert!(!failure.old.is_empty() && has(&failure.hints, "oc delete pod "), "{failure:#?}");
                reverted += 1;
            }
            other => panic!("{other:#?}"),
        }
    }
    assert!(reverted > 0);
}

fn options(fixture: &Fixture, turn: Turn, user: &str) -> SwitchOptions {
    let word = if turn == Turn::Off { "disable" } else { "enable" };
    SwitchOptions {
        report: None,
        connection: fixture.connection(user),
        place: Place::default(),
        turn,
        confirm: true,
        timeout: LIMIT,
        set_unmanaged: Consent::None,
        redis_is_flushed: false,
        verbosity: 0,
        program: "oc prune-images".to_owned(),
        repeat: format!("oc prune-images cache {word} --confirm"),
        pace: PACE,
    }
}

async fn turn(fixture: &Fixture, options: &SwitchOptions, typed: Option<bool>) -> Result<Switched, Failure> {
    let api = oc_prune_images::cluster::Cluster::connect(&options.connection, &Environment::of_process())
        .await
        .unwrap();
    let _ = fixture;
    switch::switch_with(options, &api, &|_| (), || async move { typed }).await
}

impl Fixture {
    fn env(&self) -> Value {
        self.deployment()["spec"]["template"]["spec"]["containers"][0]["env"].clone()
    }

    fn variable(&self, name: &str) -> Option<String> {
        let env = self.env();
        let entry = env.as_array().unwrap().iter().find(|entry| entry["name"] == name)?;
        Some(entry["value"].as_str().unwrap_or("?").to_owned())
    }

    fn state(&self) -> String {
        let config = self.cluster.sandbox().store().get("configs", "", "cluster").unwrap();
        config["spec"]["managementState"].as_str().unwrap().to_owned()
    }
}

const DISABLED: &str = "REGISTRY_OPENSHIFT_CACHE_DISABLED";
const DESCRIPTOR: &str = "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR";
const KEPT: &str = "prune-images/caches-before-disable";

#[tokio::test(flavor = "multi_thread")]
async fn caches_are_turned_off_and_on_again_exactly_as_they_were() {
    let fixture = Fixture::start(2);
    let layer = fixture.pruned_layer("before").await;
    assert_eq!(fixture.stale(&layer).await, 1);
    let (env, off) = (fixture.env(), options(&fixture, Turn::Off, "admin"));

    let would = turn(&fixture, &SwitchOptions { confirm: false, ..off.clone() }, None).await.unwrap();
    assert!(
        has(&would.lines, "REGISTRY_OPENSHIFT_CACHE_DISABLED=true in container registry (not set now)"),
        "{would:#?}"
    );
    assert!(has(&would.messages, "--confirm"), "{would:#?}");
    assert!(fixture.changes().is_empty());

    let done = turn(&fixture, &off, None).await.unwrap();
    assert!(has(&done.lines, "the caches are off; serving: "), "{done:#?}");
    assert_eq!(fixture.variable(DISABLED).as_deref(), Some("true"));
    assert_eq!(fixture.stale(&layer).await, 0);
    let never = fixture.pruned_layer("after").await;
    assert_eq!(fixture.stale(&never).await, 0, "never stale");
    let kept = fixture.deployment()["metadata"]["annotations"][KEPT].clone();

    let (again, changes) = (turn(&fixture, &off, None).await.unwrap(), fixture.changes().len());
    assert!(has(&again.lines, "off already"), "{again:#?}");
    assert_eq!(fixture.deployment()["metadata"]["annotations"][KEPT], kept, "the first values stay");

    let on = options(&fixture, Turn::On, "admin");
    assert_eq!(fixture.changes().len(), changes);
    let done = turn(&fixture, &on, None).await.unwrap();
    assert!(has(&done.lines, "as they were before"), "{done:#?}");
    assert_eq!(fixture.env(), env);
    assert!(fixture.deployment()["metadata"]["annotations"][KEPT].is_null());
    let cached = fixture.pruned_layer("again").await;
    assert_eq!(fixture.stale(&cached).await, 1, "the caches are on");
    let nothing = turn(&fixture, &on, None).await.unwrap();
    assert!(has(&nothing.lines, "already"), "{nothing:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_is_told_to_keep_its_hands_off_only_after_its_own_confirmation() {
    let fixture = Fixture::managed(2, Operator::default(), quick());
    let off = options(&fixture, Turn::Off, "admin");
    let refused = turn(&fixture, &off, Some(true)).await.unwrap_err();
    assert_eq!(refused.exit, Exit::NothingChanged);
    assert!(refused.message.contains("managementState: Managed"), "{refused}");
    assert!(
        has(&refused.hints, "--set-unmanaged") && has(&refused.hints, "upgrade of the cluster"),
        "{refused}"
    );
    let ask = SwitchOptions { set_unmanaged: Consent::Ask, ..off.clone() };
    let untyped = turn(&fixture, &ask, Some(false)).await.unwrap_err();
    assert!(untyped.message.contains("was not typed"), "{untyped}");
    let nobody = turn(&fixture, &ask, None).await.unwrap_err();
    assert!(has(&nobody.hints, SPELLED_OUT), "{nobody}");
    let hidden = turn(
        &fixture,
        &SwitchOptions { set_unmanaged: Consent::Given, ..options(&fixture, Turn::Off, "annotator") },
        None,
    )
    .await
    .unwrap_err();
    assert!(hidden.message.contains("may not be read"), "{hidden}");
    assert!(fixture.changes().is_empty());

    let env = fixture.env();
    turn(&fixture, &ask, Some(true)).await.unwrap();
    assert_eq!(
        (fixture.state().as_str(), fixture.variable(DISABLED).as_deref()),
        ("Unmanaged", Some("true"))
    );
    let layer = fixture.pruned_layer("a layer").await;
    assert_eq!(fixture.stale(&layer).await, 0);
    turn(&fixture, &off, None).await.unwrap();

    turn(&fixture, &options(&fixture, Turn::On, "admin"), None).await.unwrap();
    assert_eq!(fixture.state(), "Managed");
    fixture.settled().await;
    assert_eq!(fixture.env(), env);
    assert!(fixture.deployment()["metadata"]["annotations"][KEPT].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn switching_that_was_interrupted_is_finished_by_the_next_run() {
    for seed in 0..10 {
        let operator = Operator { delay: Duration::from_millis(seed * 3), ..Operator::default() };
        let fixture = Fixture::managed(2, operator, quick().seeded(seed));
        let env = fixture.env();
        let mut random = fastrand::Rng::with_seed(seed);
        let off = SwitchOptions { set_unmanaged: Consent::Given, ..options(&fixture, Turn::Off, "admin") };
        for options in [off, options(&fixture, Turn::On, "admin")] {
            for _ in 0..3 {
                let pause = Duration::from_millis(random.u64(0..40));
                let _ = tokio::time::timeout(pause, turn(&fixture, &options, None)).await;
            }
            turn(&fixture, &options, None).await.unwrap();
            let is_off = options.turn == Turn::Off;
            assert_eq!(fixture.state(), if is_off { "Unmanaged" } else { "Managed" }, "{seed}");
            if is_off {
                assert_eq!(fixture.variable(DISABLED).as_deref(), Some("true"), "{seed}");
                let layer = fixture.pruned_layer("a layer").await;
                assert_eq!(fixture.stale(&layer).await, 0, "{seed}");
            }
        }
        fixture.settled().await;
        assert_eq!(fixture.env(), env, "{seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_comes_back_only_after_it_was_flushed() {
    let fixture = Fixture::start(1);
    let entry = json!({ "name": "B", "value": "redis" });
    fixture
        .patch(&json!({ "spec": { "template": { "spec": { "containers": [{ "name": "registry", "env": [entry] }] } } } }))
        .await;
    fixture.settled().await;
    turn(&fixture, &options(&fixture, Turn::Off, "admin"), None).await.unwrap();
    // As if it had been that one.
    fixture.cluster.sandbox().store().update("deployments", NAMESPACE, NAME, |deployment| {
        let kept = deployment["metadata"]["annotations"][KEPT].as_str().unwrap().replace("inmemory", "redis");
        deployment["metadata"]["annotations"][KEPT] = kept.into();
    });
    let changes = fixture.changes().len();
    let refused = turn(&fixture, &options(&fixture, Turn::On, "admin"), None).await.unwrap_err();
    assert_eq!(refused.exit, Exit::NothingChanged);
    assert!(has(&refused.hints, "oc prune-images cache flush --all --redis-url="), "{refused}");
    assert!(has(&refused.hints, "--redis-is-flushed"), "{refused}");
    assert_eq!(fixture.changes().len(), changes);
    assert_eq!(fixture.variable(DESCRIPTOR).as_deref(), Some("inmemory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_proven_is_exit_code_4_with_the_command_to_repeat() {
    let fixture = Fixture::start(2);
    fixture.cluster.nodes().unschedulable(Some("no node is left"));
    let failed = turn(&fixture, &options(&fixture, Turn::Off, "admin"), None).await.unwrap_err();
    assert_eq!(failed.exit, Exit::CacheMayLie);
    assert!(failed.message.contains("no node is left"), "{failed}");
    assert!(has(&failed.hints, "oc prune-images cache disable --confirm"), "{failed}");
    fixture.cluster.nodes().unschedulable(None);
    turn(&fixture, &options(&fixture, Turn::Off, "admin"), None).await.unwrap();
    let forbidden = turn(&fixture, &options(&fixture, Turn::On, "pruner"), None).await.unwrap_err();
    assert_eq!(forbidden.exit, Exit::NothingChanged);
    assert!(forbidden.message.contains("forbidden"), "{forbidden}");
}

impl Fixture {
    /// A run of the plugin itself.
    fn plugin(&self, user: &str, words: &[&str]) -> Plugin {
        let kubeconfig = self.cluster.kubeconfig(self.directory.path(), user);
        Plugin::new().args(words).arg("--kubeconfig").arg(kubeconfig)
    }
}

#[test]
fn the_plugin_turns_caches_off_and_on() {
    let fixture = Fixture::managed(2, Operator::default(), quick());
    let run = |words: &[&str]| fixture.plugin("admin", words).run();
    // The command that undoes it is for the same cluster.
    let kubeconfig = fixture.cluster.kubeconfig(fixture.directory.path(), "admin");
    let enable = format!("oc prune-images cache enable --confirm --kubeconfig={}", kubeconfig.display());
    let refused = run(&["cache", "disable", "--confirm"]).exits(1).prints("");
    refused.says("error: disable the registry's caches: the operator (managementState: Managed) would turn the change back")
        .says("hint: have it keep its hands off: oc prune-images cache disable --confirm --set-unmanaged");
    run(&["cache", "disable", "--confirm", "--set-unmanaged"])
        .exits(1)
        .says(&format!("--set-unmanaged={SPELLED_OUT}"));
    run(&["cache", "disable", "--confirm", "--set-unmanaged=yes"]).exits(2);
    let spelled = format!("--set-unmanaged={SPELLED_OUT}");
    run(&["cache", "disable", &spelled])
        .exits(0)
        .prints("managementState of the operator: Unmanaged (Managed now)")
        .prints("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR=inmemory in container registry (inmemory now)")
        .says("nothing was changed: add --confirm");
    assert!(fixture.changes().is_empty());
    let page = fixture.directory.path().join("page.html");
    run(&["cache", "disable", "--confirm", &spelled, &format!("--report={}", page.display())])
        .exits(0)
        .prints("the caches are off; serving: ")
        .says("of 2 pods replaced)")
        .says("the operator no longer looks after the registry")
        .says(&format!("until {enable} puts the state back"));
    let written = std::fs::read_to_string(page).unwrap();
    assert!(written.contains("of 2 pods replaced)") && written.contains("the caches are off;"), "{written}");
    assert_eq!(fixture.state(), "Unmanaged");
    run(&["cache", "enable"]).exits(0).prints("managementState of the operator: Managed");
    run(&["cache", "enable", "--confirm"]).exits(0).prints("as they were before; serving: ");
    assert_eq!(fixture.state(), "Managed");
    // What cannot be proven leaves the operator as it is, and says so, with the same consent to repeat it with.
    fixture.cluster.nodes().unschedulable(Some("no node is left"));
    run(&["cache", "disable", "--confirm", "--cache-timeout=1s", &spelled])
        .exits(4)
        .says(&format!("repeat it, which does no harm: oc prune-images cache disable --confirm {spelled}"))
        .says(&format!("hint: the operator is Unmanaged until this puts it back: {enable}\n"));
    fixture.cluster.nodes().unschedulable(None);
    run(&["cache", "enable", "--confirm"]).exits(0);
    run(&["cache", "disable", "--confirm", "--registry-namespace=elsewhere"])
        .exits(1)
        .says("there is no deployment/image-registry in namespace elsewhere");
}

#[test]
fn a_signal_ends_the_plugin_and_it_says_how_to_go_on() {
    let fixture = Fixture::start(2);
    fixture.cluster.nodes().unschedulable(Some("no node is left"));
    let running = fixture.plugin("admin", &["cache", "disable", "--confirm"]).start();
    running.wait_until_it_says("no node is left");
    running.signal("INT");
    running
        .wait()
        .exits(130)
        .says("hint: repeat it, twice does no harm: oc prune-images cache disable --confirm");
    fixture
        .plugin("admin", &["cache", "disable", "--confirm", "--cache-timeout=1s"])
        .run()
        .exits(4)
        .says("not done within 1s");
    fixture.cluster.nodes().unschedulable(None);
    fixture.plugin("admin", &["cache", "disable", "--confirm"]).run().exits(0).prints("the caches are off");
}

#[test]
fn at_a_terminal_the_word_has_to_be_typed() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: there is no script(1) to make a terminal with");
        return;
    }
    let fixture = Fixture::managed(1, Operator::default(), quick());
    let kubeconfig = fixture.cluster.kubeconfig(fixture.directory.path(), "admin");
    for (typed, code, state) in [("yes\n", 1, "Managed"), ("unmanaged\n", 0, "Unmanaged")] {
        let plugin = env!("CARGO_BIN_EXE_oc-prune_images");
        let line =
            format!("{plugin} cache disable --confirm --set-unmanaged --kubeconfig {}", kubeconfig.display());
        let mut child = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The terminal's input waits until it is read.
        child.stdin.as_mut().unwrap().write_all(typed.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("Type unmanaged to go on, anything else to stop:"), "{text}");
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert_eq!(fixture.state(), state);
    }
}
