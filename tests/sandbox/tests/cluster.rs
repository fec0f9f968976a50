//! A whole cluster: what its halves share, how it is seeded, and that it ends.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are no tests to clippy")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use http::{Method, StatusCode};
use sandbox::example::Example;
use sandbox::log::Server;
use sandbox::registry::client::Format;
use sandbox::registry::{Backend, Digest, Link};
use sandbox::{Cluster, ClusterConfig, Config};
use serde_json::{Value, json};

fn config_blob() -> Value {
    json!({"architecture": "amd64", "config": {}})
}

#[test]
fn what_is_pushed_through_one_replica_is_pulled_through_the_other() {
    let cluster = Cluster::start(ClusterConfig { replicas: 2, ..ClusterConfig::default() });
    let (admin, other) = (cluster.client("admin"), cluster.client_of(1, "admin"));
    let layers = [b"a layer".to_vec()];
    let image = cluster
        .block_on(admin.push_image("shop/web", Some("v1"), Format::Oci, &layers, &config_blob()))
        .unwrap();
    let pulled = cluster.block_on(other.pull_whole("shop/web", "v1")).unwrap();
    assert_eq!((pulled.digest, pulled.blobs.len()), (image.digest.clone(), 2));

    let store = cluster.sandbox().store();
    let host = cluster.registry_host();
    assert_eq!(format!("https://{host}"), cluster.registry_url(0));
    assert_ne!(cluster.registry_url(0), cluster.registry_url(1));
    let stream = store.get("imagestreams", "shop", "web").unwrap();
    assert_eq!(stream["status"]["dockerImageRepository"], format!("{host}/shop/web"));
    let object = store.get("images", "", image.digest.as_str()).unwrap();
    assert_eq!(object["dockerImageReference"], format!("{host}/shop/web@{}", image.digest));

    let layer = Digest::of(&layers[0]);
    assert!(cluster.replica(0).remembers(&layer) && cluster.replica(1).remembers(&layer));
    let servers: BTreeSet<String> =
        cluster.sandbox().request_log().entries().iter().map(|entry| format!("{:?}", entry.server)).collect();
    assert_eq!(servers, [0, 1].map(|n| format!("{:?}", Server::Registry(n))).into());
}

#[tokio::test]
async fn starts_and_ends_inside_a_runtime_and_without_tls_or_registry() {
    let cluster = Cluster::start(ClusterConfig { registry_tls: false, ..ClusterConfig::default() });
    assert!(cluster.registry_url(0).starts_with("http://127.0.0.1:"));
    let answer = cluster.client("nobody").send(Method::GET, "/v2/", &[], "").await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    drop(cluster);

    let cluster = Cluster::start(ClusterConfig { registry: None, ..ClusterConfig::default() });
    assert_eq!(cluster.registry_host(), "image-registry.openshift-image-registry.svc:5000");
}

#[test]
fn keeps_a_storage_that_it_was_given_and_removes_its_own() {
    let given = tempfile::tempdir().unwrap();
    let storage_dir = Some(given.path().to_owned());
    let own = {
        let cluster = Cluster::start(ClusterConfig::default());
        let other = Cluster::start(ClusterConfig { storage_dir, ..ClusterConfig::default() });
        for cluster in [&cluster, &other] {
            cluster.storage().put_blob(b"a blob").unwrap();
        }
        cluster.storage().directory().to_owned()
    };
    assert!(!own.exists());
    assert!(given.path().join("docker").is_dir());
}

/// How many processes this one has started that still run or were not waited for.
fn children() -> usize {
    let own = std::process::id().to_string();
    let stats = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok());
    // pid (comm) state ppid …
    stats
        .filter(|stat| stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)) == Some(&own))
        .count()
}

#[test]
fn leaves_no_process_behind() {
    let config = ClusterConfig::default().with_installed_registry();
    if config.registry.as_ref().unwrap().backend == Backend::InProcess
        || !Path::new("/proc/self/stat").exists()
    {
        eprintln!("docker-registry is not installed: that it ends is not tested");
        return;
    }
    let cluster = Cluster::start(config);
    let (admin, layers, config) = (cluster.client("admin"), [b"x".to_vec()], config_blob());
    cluster.block_on(admin.push_image("shop/web", Some("v1"), Format::Docker, &layers, &config)).unwrap();
    assert_eq!(children(), 1);
    drop(cluster);
    assert_eq!(children(), 0);
}

fn oracle() -> Option<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracle");
    if !directory.is_dir() {
        eprintln!("{} is not there: no recorded case is seeded", directory.display());
        return None;
    }
    Some(directory)
}

#[test]
fn seeds_what_a_recorded_cluster_names() {
    let Some(oracle) = oracle() else { return };
    for case in ["case-001", "case-010", "case-020", "case-030"] {
        let mut config = Config::default();
        config.settings.rewrite_registry_host = true;
        let cluster = Cluster::start(ClusterConfig { sandbox: config, ..ClusterConfig::default() });
        let store = cluster.sandbox().store();
        cluster.sandbox().load_oracle(&oracle.join(case));
        let seeded = cluster.seed_registry();

        let mut named = BTreeSet::new();
        for image in store.list("images") {
            let array = |field: &str| image[field].as_array().cloned().unwrap_or_default();
            let is_index = !array("dockerImageManifests").is_empty();
            let mut all = vec![image["metadata"]["name"].clone()];
            all.extend(array("dockerImageLayers").iter().map(|layer| layer["name"].clone()));
            all.extend(array("dockerImageManifests").iter().map(|manifest| manifest["digest"].clone()));
            all.extend(Some(image["dockerImageMetadata"]["Id"].clone()).filter(|_| !is_index));
            named.extend(all.iter().filter_map(|name| Digest::parse(name.as_str()?)));
            for layer in array("dockerImageLayers") {
                if let Some(digest) = layer["name"].as_str().and_then(Digest::parse) {
                    assert!(
                        cluster.storage().blob_size(&digest) >= layer["size"].as_u64(),
                        "{case} {digest}"
                    );
                }
            }
        }
        for stream in store.list("imagestreams") {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let repository =
                format!("{}/{}", text(&stream["metadata"]["namespace"]), text(&stream["metadata"]["name"]));
            for tag in stream["status"]["tags"].as_array().into_iter().flatten() {
                for item in tag["items"].as_array().into_iter().flatten() {
                    if let Some(digest) = item["image"].as_str().and_then(Digest::parse) {
                        assert!(
                            cluster.storage().is_linked(Link::Manifest, &repository, &digest),
                            "{case} {digest}"
                        );
                        named.insert(digest);
                    }
                }
            }
        }
        assert!(!named.is_empty());
        assert_eq!(seeded.blobs, named, "{case}");
        assert_eq!(cluster.storage().blobs(), named, "{case}");

        let expected: Value =
            serde_json::from_slice(&fs::read(oracle.join(case).join("expected.json")).unwrap()).unwrap();
        let links = |set: &BTreeSet<(String, Digest)>| -> BTreeSet<String> {
            set.iter().map(|(repository, digest)| format!("{repository}@{digest}")).collect()
        };
        for (field, found) in [
            ("layerLinks", links(&seeded.layer_links)),
            ("manifestLinks", links(&seeded.manifest_links)),
            ("blobs", seeded.blobs.iter().map(ToString::to_string).collect()),
        ] {
            for deleted in expected[field].as_array().into_iter().flatten() {
                let deleted = deleted.as_str().unwrap();
                let digest = deleted.rsplit('@').next().unwrap();
                assert!(
                    found.contains(deleted) || Digest::parse(digest).is_none(),
                    "{case} {field} {deleted}"
                );
            }
        }
    }
}

#[test]
fn the_example_is_old_and_can_be_pulled() {
    let cluster = Cluster::start(ClusterConfig::default());
    let example = cluster.block_on(Example::build(&cluster)).unwrap();
    let client = cluster.client("puller");
    for (repository, digest) in &example.in_use {
        cluster.block_on(client.pull_whole(repository, digest.as_str())).unwrap();
    }
    let (_, orphan) = example.orphan.unwrap();
    let orphan = cluster.sandbox().store().get("images", "", orphan.as_str()).unwrap();
    let created: jiff::Timestamp = orphan["metadata"]["creationTimestamp"].as_str().unwrap().parse().unwrap();
    assert!(created < jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24));
}
