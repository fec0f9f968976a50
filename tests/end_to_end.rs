//! Images that are really pushed, pruned by the plugin, and pulled again: over `docker-registry` where it is installed.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;

use common::objects::{KEEP_ONE, hours_ago};
use common::{Cluster, Plugin};
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

/// The file of a blob's data.
fn data(cluster: &Cluster, digest: &Digest) -> std::path::PathBuf {
    let hex = digest.hex();
    let blobs = cluster.registry.storage().directory().join("docker/registry/v2/blobs/sha256");
    blobs.join(&hex[..2]).join(hex).join("data")
}

fn verify(cluster: &Cluster, user: &str, words: &[&str]) -> Plugin {
    let kubeconfig = cluster.kubeconfig(user);
    let registry = format!("--registry-url={}", cluster.registry_url());
    Plugin::new().arg("verify").args(words).arg(registry).arg("--kubeconfig").arg(kubeconfig)
}

fn finds_what_cannot_be_pulled(backend: Backend) {
    let cluster = Cluster::with(Config::default(), RegistryConfig { backend, ..RegistryConfig::default() });
    let push = Pusher { cluster: &cluster, client: client(&cluster, "admin") };
    let lost = push.image("shop/web", Some("lost"), Format::Docker, "lost", "shared");
    let whole = push.image("shop/web", Some("whole"), Format::Oci, "whole", "kept");
    let cut = push.image("shop/api", Some("cut"), Format::Oci, "cut", "other");
    push.image("shop/api", Some("cut"), Format::Oci, "newer", "other");
    let index = push.index("other/multi", "v1", Format::Oci, "index");
    for (name, image) in [("runner", "shop/web:lost"), ("by-digest", "shop/web@")] {
        let digest = if name == "by-digest" { lost.digest.as_str() } else { "" };
        let image = format!(
            "{}/{image}{digest}",
            cluster.registry_url().trim_start_matches("https://").trim_end_matches('/')
        );
        cluster.sandbox.store().create("pods", common::objects::pod("shop", name, &image));
    }
    age(&cluster);
    // The line of numbers holds while everything is there.
    let all = verify(&cluster, "admin", &["--all"]).run().exits(0);
    all.prints("5 image(s) asked for, ").prints(" question(s): 5 whole\n");

    std::fs::remove_file(data(&cluster, &Digest::of(&layer("lost")))).unwrap();
    let cut_layer = Digest::of(&layer("cut"));
    let bytes = std::fs::read(data(&cluster, &cut_layer)).unwrap();
    std::fs::write(data(&cluster, &cut_layer), &bytes[..700]).unwrap();

    let found = verify(&cluster, "admin", &["--all", "-ojson"]).run().exits(3);
    let document = found.json();
    assert_eq!((document["images"].as_u64(), document["whole"].as_u64()), (Some(5), Some(3)), "{found}");
    let broken: Vec<_> = document["broken"].as_array().unwrap().iter().collect();
    let of = |repository: &str| broken.iter().find(|image| image["repository"] == repository).unwrap();
    assert_eq!(of("shop/web")["image"], lost.digest.as_str());
    assert_eq!(of("shop/web")["tags"], json!(["lost"]));
    assert_eq!(of("shop/web")["parts"][0]["digest"], Digest::of(&layer("lost")).as_str());
    assert_eq!(of("shop/web")["parts"][0]["problem"], "missingBlob");
    assert_eq!(of("shop/web")["parts"].as_array().unwrap().len(), 1, "{found}");
    let runs: Vec<_> = of("shop/web")["referrers"].as_array().unwrap().iter().map(|by| &by["name"]).collect();
    assert_eq!(runs, ["by-digest", "runner"]);
    assert_eq!(of("shop/api")["tags"], json!(["cut@1"]));
    assert_eq!(of("shop/api")["image"], cut.digest.as_str());
    assert_eq!(of("shop/api")["parts"][0]["problem"], "truncated");
    assert_eq!(of("shop/api")["parts"][0]["bytes"], bytes.len());
    let text = verify(&cluster, "admin", &["--all", "-n", "shop"]).run().exits(3);
    let text = text
        .prints(&format!("broken: shop/web:lost ({})\n", lost.digest))
        .prints("  used by pod/runner namespace=shop (container app)\n")
        .says("error: verify: 2 image(s) cannot be pulled\nhint: push these images again");
    assert!(!text.stdout.contains(whole.digest.as_str()) && !text.stdout.contains(index.digest.as_str()));

    // Whoever may prune may not pull.
    verify(&cluster, "pruner", &["--all"])
        .run()
        .exits(1)
        .says("error: verify: not every question was answered")
        .says("hint: asking the registry takes the right to get imagestreams/layers");

    // A prune asks for what stays and shared something with what went, and for nothing else.
    push.image("shop/web", Some("whole"), Format::Oci, "whole 2", "kept");
    push.image("shop/web", Some("lost"), Format::Docker, "found", "shared");
    age(&cluster);
    std::fs::remove_file(data(&cluster, &Digest::of(&layer("kept")))).unwrap();
    let registry = format!("--registry-url={}", cluster.registry_url());
    let pruned = cluster.plugin("admin").args(["--confirm", &registry, KEEP_ONE, "-ojson"]).run();
    let verification = &pruned.json()["result"]["verification"];
    let broken = verification["broken"].as_array().unwrap();
    assert!(broken.iter().any(|image| image["tags"] == json!(["whole"])), "{pruned}");
    pruned.exits(3).says("cannot be pulled");
}

#[test]
fn verify_finds_what_cannot_be_pulled() {
    finds_what_cannot_be_pulled(Backend::InProcess);
}

#[test]
fn verify_finds_it_over_docker_registry() {
    if let Some(binary) = docker_registry_binary() {
        finds_what_cannot_be_pulled(Backend::DockerRegistry { binary });
    }
}
