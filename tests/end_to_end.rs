//! Images that are really pushed, pruned by the plugin, and pulled again: over `docker-registry` where it is installed.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;

use common::Cluster;
use common::objects::{KEEP_ONE, hours_ago};
use sandbox::Config;
use sandbox::registry::client::{Client, Credentials, Format, Pushed};
use sandbox::registry::{Backend, Digest, RegistryConfig, docker_registry_binary};
use serde_json::json;

fn client(cluster: &Cluster, user: &str) -> Client {
    let sandbox = &cluster.sandbox;
    Client::new(&cluster.registry_url(), Credentials::Basic(sandbox.token(user)), Some(&sandbox.ca_pem()))
}

/// A layer with this text; long enough that all layers differ.
fn layer(text: &str) -> Vec<u8> {
    text.repeat(500).into_bytes()
}

struct Pusher<'a> {
    cluster: &'a Cluster,
    client: Client,
}

impl Pusher<'_> {
    /// Pushes an image with the layer `base`, one of its own and perhaps a further one.
    fn image(&self, repository: &str, tag: Option<&str>, format: Format, name: &str, more: &str) -> Pushed {
        let layers = [layer("base"), layer(name), layer(more)];
        let config =
            json!({ "architecture": "amd64", "os": "linux", "config": { "Labels": { "name": name } } });
        let push = self.client.push_image(repository, tag, format, &layers, &config);
        self.cluster.sandbox.runtime().block_on(push).unwrap()
    }

    fn index(&self, repository: &str, tag: &str, format: Format, name: &str) -> Pushed {
        let [amd64, arm64] = ["amd64", "arm64"]
            .map(|platform| self.image(repository, None, format, &format!("{name} {platform}"), "index"));
        let manifests = [(amd64, "amd64"), (arm64, "arm64")];
        let push = self.client.push_index(repository, Some(tag), format, &manifests);
        self.cluster.sandbox.runtime().block_on(push).unwrap()
    }
}

/// Makes everything two days old.
fn age(cluster: &Cluster) {
    let store = cluster.sandbox.store();
    for name in store.names("images") {
        store.update("images", "", &name, |image| {
            image["metadata"]["creationTimestamp"] = hours_ago(48).into();
        });
    }
    for stream in store.names("imagestreams") {
        let (namespace, name) = stream.split_once('/').unwrap();
        store.update("imagestreams", namespace, name, |stream| {
            stream["metadata"]["creationTimestamp"] = hours_ago(48).into();
            for tag in stream["status"]["tags"].as_array_mut().unwrap() {
                for item in tag["items"].as_array_mut().unwrap() {
                    item["created"] = hours_ago(48).into();
                }
            }
        });
    }
}

fn prunes_what_was_pushed(backend: Backend) {
    let cluster = Cluster::with(Config::default(), RegistryConfig { backend, ..RegistryConfig::default() });
    let push = Pusher { cluster: &cluster, client: client(&cluster, "admin") };
    let mut gone: Vec<(&str, Pushed)> = Vec::new();
    for (format, tag) in [(Format::Docker, "docker"), (Format::Oci, "oci")] {
        gone.push(("shop/web", push.image("shop/web", Some(tag), format, &format!("{tag} 1"), "shared")));
        gone.push(("shop/web", push.image("shop/web", Some(tag), format, &format!("{tag} 2"), "shared")));
        push.image("shop/web", Some(tag), format, &format!("{tag} 3"), "kept");
        gone.push(("shop/api", push.index("shop/api", tag, format, &format!("{tag} index 1"))));
        push.index("shop/api", tag, format, &format!("{tag} index 2"));
    }
    // The same layers in a second repository, in an image that stays.
    push.image("other/web", Some("v1"), Format::Docker, "docker 1", "other");
    age(&cluster);

    let runtime = cluster.sandbox.runtime();
    let pulled_before: Vec<_> = gone
        .iter()
        .map(|(repository, image)| {
            runtime.block_on(push.client.pull_whole(repository, image.digest.as_str())).unwrap()
        })
        .collect();
    let kept = [
        ("shop/web", "docker"),
        ("shop/web", "oci"),
        ("shop/api", "docker"),
        ("shop/api", "oci"),
        ("other/web", "v1"),
    ];
    let pull_kept = || -> BTreeSet<Digest> {
        let pull = |(repository, tag): &(&str, &str)| {
            runtime.block_on(push.client.pull_whole(repository, tag)).unwrap()
        };
        kept.iter().map(pull).flat_map(|pulled| pulled.manifests.into_iter().chain(pulled.blobs)).collect()
    };
    let needed = pull_kept();

    let ran = cluster.prune(&[KEEP_ONE, "-ojson"]).exits(0);

    assert_eq!(pull_kept(), needed, "{ran}");
    assert_eq!(cluster.registry.storage().blobs(), needed, "{ran}");
    for ((repository, image), pulled) in gone.iter().zip(&pulled_before) {
        let pull = push.client.pull_whole(repository, image.digest.as_str());
        assert!(runtime.block_on(pull).is_err(), "{repository}@{} is still there", image.digest);
        for blob in pulled.blobs.iter().filter(|blob| !needed.contains(*blob)) {
            assert!(cluster.registry.storage().blob_size(blob).is_none(), "{blob}");
        }
    }
    let before = cluster.sandbox.request_log().len();
    cluster.prune(&[KEEP_ONE]).exits(0).prints("Summary: deleted 0 objects\n");
    assert!(cluster.changes_since(before).is_empty());
}

#[test]
fn in_process() {
    prunes_what_was_pushed(Backend::InProcess);
}

#[test]
fn over_docker_registry() {
    let Some(binary) = docker_registry_binary() else {
        println!("docker-registry is not installed (apt-get install docker-registry): not tested with it");
        return;
    };
    prunes_what_was_pushed(Backend::DockerRegistry { binary });
}
