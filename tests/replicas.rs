//! Finds the replicas of a sandbox's registry, and makes each of them forget.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: whatever is wrong here fails the test"
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use oc_prune_images::cache::detect::{CacheConfig, DescriptorCache, DigestCache, Place, Reading, discover};
use oc_prune_images::cache::replicas::{Evictor, Pace, Way};
use oc_prune_images::cluster::{ConnectionOptions, Environment, install_crypto};
use oc_prune_images::registry::{
    self, Address, Evidence, Freshness, Registry, RegistryError, RegistryUrl, Settings,
};
use sandbox::api::Rule;
use sandbox::fault::{Action, Answer, Fault};
use sandbox::log::Server;
use sandbox::registry::{Digest, Link};
use sandbox::{Cluster, ClusterConfig};
use serde_json::json;
use tempfile::TempDir;

const REPOSITORY: &str = "shop/web";
const OTHER: &str = "shop/other";

struct Fixture {
    cluster: Cluster,
    directory: TempDir,
}

impl Fixture {
    fn start(replicas: usize) -> Self {
        install_crypto();
        let cluster = Cluster::start(ClusterConfig { replicas, ..ClusterConfig::default() });
        cluster.sandbox().load_objects(json!([{
            "apiVersion": "image.openshift.io/v1", "kind": "ImageStream",
            "metadata": { "namespace": "shop", "name": "web" },
        }, {
            "apiVersion": "image.openshift.io/v1", "kind": "ImageStream",
            "metadata": { "namespace": "shop", "name": "other" },
        }]));
        Self { cluster, directory: tempfile::tempdir().unwrap() }
    }

    async fn api(&self, user: &str) -> oc_prune_images::cluster::Cluster {
        let options = ConnectionOptions {
            kubeconfig: Some(self.cluster.kubeconfig(self.directory.path(), user)),
            ..ConnectionOptions::default()
        };
        oc_prune_images::cluster::Cluster::connect(&options, &Environment::of_process()).await.unwrap()
    }

    async fn registry(&self, api: &oc_prune_images::cluster::Cluster) -> Registry {
        let url = RegistryUrl::parse(&self.cluster.registry_url(0)).unwrap();
        let address = Address { url, origin: registry::Origin::Flag };
        let settings =
            Settings { kubeconfig_ca: api.ca_pem(), ..Settings::new(address, Arc::new(|_: &str| ())) };
        registry::connect(settings, api.token_source()).await.unwrap()
    }

    /// Lists pods only when it is told to.
    async fn evictor(&self, user: &str) -> Evictor {
        let api = self.api(user).await;
        let registry = self.registry(&api).await;
        let found = discover(&api, &Place::default()).await;
        let pace =
            Pace { refresh: Duration::from_secs(3600), forget: Duration::from_secs(2), ..Pace::default() };
        Evictor::start(api, registry, &found, pace).await.unwrap()
    }

    /// A layer in a repository.
    fn layer(&self, text: &str) -> Digest {
        let digest = self.cluster.storage().put_blob(text.as_bytes()).unwrap();
        self.cluster.storage().link(Link::Layer, REPOSITORY, &digest).unwrap();
        digest
    }

    async fn head(&self, replica: usize, digest: &Digest) -> StatusCode {
        let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
        self.cluster.client_of(replica, "admin").send(Method::HEAD, &path, &[], "").await.unwrap().status()
    }

    async fn mount(&self, replica: usize, digest: &Digest) -> StatusCode {
        self.cluster.client_of(replica, "admin").mount_blob(OTHER, digest, REPOSITORY).await.unwrap()
    }

    /// Lets clients ask these replicas for a layer, then prunes it through the first one, as the reference does.
    async fn prune_after_questions(&self, digest: &Digest, replicas: &[usize]) {
        for &replica in replicas {
            assert_eq!(self.head(replica, digest).await, StatusCode::OK);
        }
        let pruner = self.cluster.client("pruner");
        for (path, status) in [
            (format!("/v2/{REPOSITORY}/blobs/{digest}"), StatusCode::ACCEPTED),
            (format!("/admin/blobs/{digest}"), StatusCode::NO_CONTENT),
        ] {
            let answer = pruner.send(Method::DELETE, &path, &[], "").await.unwrap();
            assert_eq!(answer.status(), status, "{path}");
        }
    }

    fn forgotten(&self, digest: &Digest) -> usize {
        let path = format!("/admin/blobs/{digest}");
        let asked = |server| matches!(server, Server::Registry(_));
        self.cluster.sandbox().request_log().filter(|entry| asked(entry.server) && entry.path == path).len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pruner_finds_the_replicas_and_their_caches() {
    let fixture = Fixture::start(3);
    let api = fixture.api("pruner").await;
    let found = discover(&api, &Place::default()).await;
    let Reading::Is(pods) = &found.pods else { panic!("{found:?}") };
    let names: BTreeSet<String> = pods.iter().map(|pod| pod.name.clone()).collect();
    assert_eq!(names, (0..3).map(|number| fixture.cluster.pod_name(number)).collect());
    let addresses: BTreeSet<String> =
        pods.iter().map(|pod| format!("https://{}", pod.address.unwrap())).collect();
    assert_eq!(addresses, (0..3).map(|number| fixture.cluster.registry_url(number)).collect());
    assert!(pods.iter().all(|pod| pod.ready && !pod.terminating && !pod.uid.is_empty()));
    let Reading::Is(workload) = &found.workload else { panic!("{found:?}") };
    assert_eq!((workload.replicas, &*workload.selector), (3, "docker-registry=default"));
    let ttl = Duration::from_secs(600);
    let CacheConfig { digest_cache, descriptor_cache, .. } = found.caches().unwrap();
    assert_eq!((digest_cache, descriptor_cache), (DigestCache::On { ttl }, DescriptorCache::InMemory));
    let mut rules = found.missing_rules();
    rules.retain(|rule| rule.resource != "configs");
    assert_eq!(rules, [], "the registry's own secrets are no cache");
    assert!(fixture.cluster.sandbox().request_log().mutations().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_read_is_said_with_the_rule() {
    let fixture = Fixture::start(1);
    let api = fixture.api("nobody").await;
    let found = discover(&api, &Place::default()).await;
    let mut rules = found.missing_rules();
    rules.retain(|rule| rule.resource != "configs");
    let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        rules,
        [
            "get deployments.apps/image-registry in namespace openshift-image-registry",
            "list pods in namespace openshift-image-registry",
        ]
    );
    assert_eq!(found.caches(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_config_of_an_old_cluster_is_found() {
    let fixture = Fixture::start(1);
    let store = fixture.cluster.sandbox().store();
    store.delete("deployments", "openshift-image-registry", "image-registry");
    store.create(
        "deploymentconfigs",
        json!({
            "metadata": { "namespace": "default", "name": "docker-registry" },
            "spec": {
                "replicas": 2,
                "selector": { "docker-registry": "default" },
                "template": { "spec": { "containers": [{ "name": "registry", "env": [
                    { "name": "REGISTRY_OPENSHIFT_CACHE_DISABLED", "value": "true" },
                ] }] } },
            },
        }),
    );
    let found = discover(&fixture.api("pruner").await, &Place::default()).await;
    assert_eq!(found.place.service_name(), "docker-registry.default.svc");
    assert_eq!(found.caches().unwrap().digest_cache, DigestCache::Off);
    assert!(matches!(found.pods, Reading::Absent), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_forgets_and_the_pruner_may_do_that() {
    let fixture = Fixture::start(3);
    let layer = fixture.layer("asked for everywhere");
    let evictor = fixture.evictor("pruner").await;
    assert_eq!((evictor.replicas().len(), evictor.unreachable()), (3, vec![]));
    assert!(evictor.replicas().iter().all(|replica| replica.way() == Way::Direct));
    fixture.prune_after_questions(&layer, &[0, 1, 2]).await;
    for replica in [1, 2] {
        assert_eq!(fixture.head(replica, &layer).await, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(fixture.mount(replica, &layer).await, StatusCode::CREATED, "stale, and mounted");
    }
    let eviction = evictor.evict(layer.as_str()).await;
    assert!(eviction.is_complete() && eviction.outcomes.len() == 3, "{eviction:?}");
    assert_eq!(fixture.forgotten(&layer), 4, "once for the prune, once for each replica");
    for replica in 0..3 {
        assert_eq!(fixture.head(replica, &layer).await, StatusCode::NOT_FOUND);
        assert_eq!(fixture.mount(replica, &layer).await, StatusCode::ACCEPTED);
    }
    assert!(evictor.unconfirmed().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_asked_whether_it_is_stale() {
    let fixture = Fixture::start(2);
    let (gone, back) = (fixture.layer("gone"), fixture.layer("there again"));
    fixture.prune_after_questions(&gone, &[0, 1]).await;
    let ask = async |user: &str, replica: usize, digest: &Digest| {
        let evictor = fixture.evictor(user).await;
        let name = fixture.cluster.pod_name(replica);
        let replica = evictor.replicas().into_iter().find(|replica| replica.pod().name == name).unwrap();
        replica.ask(REPOSITORY, digest.as_str()).await
    };
    assert_eq!(ask("pruner", 1, &gone).await, Freshness::NotAllowed);
    let rule = Rule::new(&["get"], &["image.openshift.io"], &["imagestreams/layers"]);
    fixture.cluster.sandbox().access().grant("pruner", rule);
    assert_eq!(ask("pruner", 0, &gone).await, Freshness::Clean);
    assert_eq!(ask("pruner", 1, &gone).await, Freshness::Stale(Evidence::Replica));
    assert_eq!(ask("pruner", 1, &back).await, Freshness::ThereAgain);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_followed_without_credentials() {
    let fixture = Fixture::start(2);
    let layer = fixture.layer("in object storage");
    let evictor = fixture.evictor("admin").await;
    let replica = evictor.replicas().remove(0);
    let number = (0..2).find(|number| fixture.cluster.pod_name(*number) == replica.pod().name).unwrap();
    let storage = 1 - number;
    let faults = fixture.cluster.sandbox().faults();
    for (status, expected) in [
        (StatusCode::NOT_FOUND, Freshness::Stale(Evidence::Storage)),
        (StatusCode::FORBIDDEN, Freshness::Stale(Evidence::Storage)),
        (StatusCode::OK, Freshness::ThereAgain),
    ] {
        faults.clear();
        let target = format!("{}/bucket?signature=s", fixture.cluster.registry_url(storage));
        let redirect = Action::Answer(sandbox::fault::Answer::redirect(&target));
        faults.add(Fault::new(redirect).server(Server::Registry(number)).method(Method::HEAD));
        let answer = Action::Answer(sandbox::fault::Answer::new(status));
        faults.add(Fault::new(answer).server(Server::Registry(storage)).path("^/bucket"));
        assert_eq!(replica.ask(REPOSITORY, layer.as_str()).await, expected, "{status}");
    }
    let log = fixture.cluster.sandbox().request_log();
    assert_eq!(log.filter(|entry| entry.path == "/bucket" && entry.method == Method::HEAD).len(), 3);

    // Whoever is asked for this answers 200 with credentials, and 401 without.
    faults.clear();
    let target = format!("{}/v2/", fixture.cluster.registry_url(storage));
    let redirect = Action::Answer(sandbox::fault::Answer::redirect(&target));
    faults.add(Fault::new(redirect).server(Server::Registry(number)).method(Method::HEAD));
    let freshness = replica.ask(REPOSITORY, layer.as_str()).await;
    assert_eq!(freshness, Freshness::Unknown("ask the storage: 401 Unauthorized".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_come_and_go_are_followed() {
    let fixture = Fixture::start(2);
    let (before, between) = (fixture.layer("before"), fixture.layer("between"));
    let evictor = fixture.evictor("admin").await;
    fixture.prune_after_questions(&before, &[0, 1]).await;
    assert_eq!(evictor.evict(before.as_str()).await.outcomes.len(), 2);
    evictor.refresh().await.unwrap();

    // It was not listed yet when it was asked and when the blob was evicted.
    let added = fixture.cluster.add_replica();
    fixture.prune_after_questions(&between, &[0, 1, added]).await;
    assert_eq!(evictor.evict(between.as_str()).await.outcomes.len(), 2);
    assert_eq!(fixture.head(added, &between).await, StatusCode::INTERNAL_SERVER_ERROR);
    evictor.refresh().await.unwrap();
    let late = evictor.unconfirmed();
    let [late] = late.as_slice() else { panic!("{late:?}") };
    assert_eq!(late.pod.name, fixture.cluster.pod_name(added));
    assert_eq!(late.digests, BTreeSet::from([between.to_string()]), "what was gone before cannot be cached");
    let settled = late.replica.as_ref().unwrap().settle(REPOSITORY, between.as_str()).await;
    assert_eq!(settled, Freshness::Clean);
    assert_eq!(fixture.head(added, &between).await, StatusCode::NOT_FOUND);

    fixture.cluster.stop_replica(0);
    evictor.refresh().await.unwrap();
    let left: BTreeSet<String> =
        evictor.replicas().into_iter().map(|replica| replica.pod().name.clone()).collect();
    assert_eq!(left, [1, added].map(|number| fixture.cluster.pod_name(number)).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_refreshed_without_being_told() {
    let fixture = Fixture::start(1);
    let api = fixture.api("pruner").await;
    let registry = fixture.registry(&api).await;
    let pace = Pace { refresh: Duration::from_millis(20), ..Pace::default() };
    let found = discover(&api, &Place::default()).await;
    let evictor = Evictor::start(api, registry, &found, pace).await.unwrap();
    let added = fixture.cluster.pod_name(fixture.cluster.add_replica());
    let follows = async {
        while !evictor.replicas().iter().any(|replica| replica.pod().name == added) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), follows).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_out_of_reach_is_reported_and_remembered() {
    let fixture = Fixture::start(3);
    let layer = fixture.layer("cut off");
    let evictor = fixture.evictor("pruner").await;
    fixture.prune_after_questions(&layer, &[0, 1, 2]).await;
    fixture.cluster.disconnect_replica(1);
    let hang = Fault::new(Action::Hang).server(Server::Registry(2)).method(Method::DELETE);
    fixture.cluster.sandbox().faults().add(hang);

    let name = |number| fixture.cluster.pod_name(number);
    let eviction = evictor.evict(layer.as_str()).await;
    assert!(!eviction.is_complete());
    for outcome in &eviction.outcomes {
        match &outcome.result {
            Ok(()) => assert_eq!(outcome.pod.name, name(0)),
            Err(RegistryError::Unavailable { attempts: 1, .. }) => assert_ne!(outcome.pod.name, name(0)),
            Err(error) => panic!("{error}"),
        }
    }
    let unconfirmed: BTreeSet<String> = evictor
        .unconfirmed()
        .into_iter()
        .inspect(|one| assert_eq!(one.digests, BTreeSet::from([layer.to_string()])))
        .map(|one| one.pod.name.clone())
        .collect();
    assert_eq!(unconfirmed, [1, 2].map(name).into());
    // The prune, one answer, one that hangs; never twice.
    assert_eq!(fixture.forgotten(&layer), 3);
    fixture.cluster.stop_replica(1);
    evictor.refresh().await.unwrap();
    assert_eq!(evictor.unconfirmed().len(), 1, "a replica that is gone believes in nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_has_to_show_the_certificate_of_the_service() {
    let fixture = Fixture::start(2);
    let layer = fixture.layer("not for strangers");
    let api = fixture.api("pruner").await;
    let registry = fixture.registry(&api).await;
    let mut found = discover(&api, &Place::default()).await;
    found.place.deployment = "another".to_owned();
    let evictor = Evictor::start(api, registry, &found, Pace::default()).await.unwrap();
    assert!(evictor.replicas().is_empty());
    let unreachable = evictor.unreachable();
    assert_eq!(unreachable.len(), 2);
    for (pod, why) in unreachable {
        assert!(why.contains("not another.openshift-image-registry.svc"), "{}: {why}", pod.name);
    }
    let eviction = evictor.evict(layer.as_str()).await;
    assert_eq!(eviction.outcomes.len(), 2);
    let refused =
        |result: &Result<(), RegistryError>| matches!(result, Err(RegistryError::Unavailable { .. }));
    assert!(eviction.outcomes.iter().all(|outcome| refused(&outcome.result)), "{eviction:?}");
    assert_eq!(fixture.forgotten(&layer), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_uploaded_again_is_not_removed() {
    let fixture = Fixture::start(2);
    let layer = fixture.layer("brought back");
    let evictor = fixture.evictor("admin").await;
    fixture.prune_after_questions(&layer, &[0, 1]).await;
    fixture.layer("brought back");
    for replica in evictor.replicas() {
        assert_eq!(replica.settle(REPOSITORY, layer.as_str()).await, Freshness::ThereAgain);
    }
    assert_eq!(fixture.forgotten(&layer), 1, "the prune's own");
    assert!(fixture.cluster.storage().blob_size(&layer).is_some());
}

/// A storage that had trouble for a moment answers like a replica whose memory alone has the blob.
#[tokio::test(flavor = "multi_thread")]
async fn one_answer_that_says_nothing_is_no_leave_to_delete() {
    let fixture = Fixture::start(1);
    let layer = fixture.layer("brought back");
    let evictor = fixture.evictor("admin").await;
    fixture.prune_after_questions(&layer, &[0]).await;
    fixture.layer("brought back");
    let trouble = Answer::new(StatusCode::INTERNAL_SERVER_ERROR)
        .header("content-type", "application/json")
        .body(r#"{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{}}]}"#);
    let path = format!("/v2/{REPOSITORY}/blobs/{layer}");
    for method in [Method::HEAD, Method::GET] {
        let fault = Fault::new(Action::Answer(trouble.clone())).server(Server::Registry(0)).method(method);
        fixture.cluster.sandbox().faults().add(fault.path(&path).times(1));
    }
    let replica = evictor.replicas().remove(0);
    assert_eq!(replica.settle(REPOSITORY, layer.as_str()).await, Freshness::ThereAgain);
    assert_eq!(fixture.forgotten(&layer), 1, "the prune's own");
    assert!(fixture.cluster.storage().blob_size(&layer).is_some());
}
