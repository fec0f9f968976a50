//! The registry against the recorded answers of the real one, its replicas against what is known of their caches,
//! and pushes and pulls with either backend.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are no tests to clippy")]

#[allow(dead_code, reason = "each test uses a part")]
mod registry_support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Method, StatusCode};
use registry_support::{ADMIN, CLEAN, PRUNER, Pruned, STALE, Served, backends, digest, in_process, status};
use sandbox::fault::{Action, Fault};
use sandbox::log::Server;
use sandbox::registry::client::{Answer, Broken, Client, Credentials, Format};
use sandbox::registry::{Digest, Link, RegistryConfig};
use sandbox::registry_backend::Cluster as _;
use sandbox::serve::listen;
use serde_json::{Value, json};
use tokio::runtime::Handle;

// ---- recorded answers ----

fn fixtures() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = own.ancestors().map(|above| above.join("shared/fixtures")).find(|path| path.is_dir());
    if found.is_none() {
        eprintln!("shared/fixtures is nowhere above: the recorded answers are not compared");
    }
    found
}

fn read_json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Replays recorded requests and remembers which.
struct Replay {
    directory: PathBuf,
    done: BTreeSet<String>,
}

impl Replay {
    fn body(&self, name: &str) -> Vec<u8> {
        fs::read(self.directory.join(name)).unwrap()
    }

    /// Sends the request of a fixture to a replica and compares the whole answer.
    async fn check(&mut self, served: &Served, replica: usize, name: &str) {
        let meta = read_json(self.directory.join(format!("{name}.meta.json")));
        let (request, expected) = (&meta["request"], &meta["response"]);
        let token = match request["user"].as_str() {
            Some("admin") => ADMIN,
            Some("pruner") => PRUNER,
            Some("nobody") => "nobody-token",
            Some(_) => "unknown-token",
            None => "",
        };
        let basic = name.ends_with("-basic") || name.starts_with("token.");
        let credentials = match token {
            "" => Credentials::None,
            token if basic => Credentials::Basic(token.to_owned()),
            token => Credentials::Bearer(token.to_owned()),
        };
        let headers: Vec<(&str, &str)> = request["headers"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| *name != "Authorization")
            .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
            .collect();
        let answer = served
            .client(replica, credentials)
            .send(
                request["method"].as_str().unwrap().parse().unwrap(),
                request["path"].as_str().unwrap(),
                &headers,
                request["body"].as_str().unwrap_or_default().to_owned(),
            )
            .await
            .unwrap();

        let expected_headers: BTreeMap<String, String> = expected["headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| (pair[0].as_str().unwrap().to_lowercase(), pair[1].as_str().unwrap().to_owned()))
            .collect();
        let body = self.body(meta["body"].as_str().unwrap());
        assert_eq!(answer.status().as_u16(), expected["status"], "{name}: status");
        assert_eq!(comparable(received(&answer)), comparable(expected_headers), "{name}: headers");
        let (found, wanted) = (String::from_utf8_lossy(answer.body()), String::from_utf8_lossy(&body));
        assert_eq!(found, wanted, "{name}: body");
        self.done.insert(name.to_owned());
    }
}

fn received(answer: &Answer) -> BTreeMap<String, String> {
    let headers = answer.headers().iter();
    headers.map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned())).collect()
}

/// Headers without what differs from one run to the next: the time, ports, and the names of uploads.
fn comparable(mut headers: BTreeMap<String, String>) -> BTreeMap<String, String> {
    headers.remove("date");
    for (name, value) in &mut headers {
        match name.as_str() {
            "docker-upload-uuid" => "an upload".clone_into(value),
            // Which scheme was spoken has a test of its own.
            "www-authenticate" | "location" => {
                if let Some((before, after)) = value.replace("http:", "https:").split_once("https://") {
                    let path = after.split_once('/').unwrap().1;
                    let path = path.split_once("/uploads/").map_or(path, |(path, _)| path);
                    *value = format!("{before}registry/{path}");
                }
            }
            _ => {}
        }
    }
    headers
}

/// The state of the cluster when the answers were recorded, as far as they show it.
fn seed(served: &Served, replay: &Replay) {
    let (storage, cluster) = (served.storage(), &served.cluster);
    let streams = read_json(replay.directory.join("../lists/imagestreams.body.json"));
    for stream in streams["items"].as_array().unwrap() {
        let metadata = &stream["metadata"];
        let name =
            format!("{}/{}", metadata["namespace"].as_str().unwrap(), metadata["name"].as_str().unwrap());
        cluster.add_stream(&name);
        // An empty layer, so that the storage knows the repository.
        storage.seed_fake(&Digest::of(b""), 0, &[&name], &[]).unwrap();
        for tag in stream["status"]["tags"].as_array().into_iter().flatten() {
            for item in tag["items"].as_array().into_iter().flatten().rev() {
                cluster.add_item(&name, tag["tag"].as_str().unwrap(), item["image"].as_str().unwrap());
            }
        }
    }
    for image in read_json(replay.directory.join("../lists/images.body.json"))["items"].as_array().unwrap() {
        let digest = image["metadata"]["name"].as_str().unwrap();
        cluster.images.lock().unwrap().insert(digest.to_owned(), image.clone());
    }
    for name in ["latest", "v1", "v3", "v5"] {
        storage.tag("shop/web", name, &Digest::of(b"")).unwrap();
    }

    let layer = storage.put_blob(&replay.body("blob.get.200.body.txt")).unwrap();
    storage.link(Link::Layer, "shop/web", &layer).unwrap();
    for (repository, name) in [
        ("shop/web", "manifest.get.200"),
        ("shop/web", "manifest.get.200-tag"),
        ("tools/cli", "manifest.get.200-oci"),
        ("tools/multi", "manifest.get.200-list"),
        ("tools/multi", "manifest.get.200-index"),
    ] {
        let digest = storage.put_blob(&replay.body(&format!("{name}.body.json"))).unwrap();
        storage.link(Link::Manifest, repository, &digest).unwrap();
    }
}

const GONE_LAYERS: [&str; 4] = [
    "sha256:fbcafa67735717ef46b93379e0ddcaf8f25fac6a8b071e8ff81bdd16dcf6aa2e",
    "sha256:3b338521362742f72301d5d904641907f5f2c0b75b292a60178a5e63ea4f9c43",
    "sha256:78ddb73bba7df563947cc736b551ae5229f136daac2c3525502a92a1224080b9",
    "sha256:ac8aef244e389581d14ef1c14885ee9c38ec812e8092c08c1daa53cf2802d055",
];
const GONE_MANIFEST: &str = "sha256:99bbeb89a19a31cdf1771d4ac231f6756c3d297e37fd5b4153e1afcc6aa9d412";

/// The repository whose links the recorded deletions removed, while its stream still lists the image.
fn seed_gone(served: &Served) {
    for layer in GONE_LAYERS {
        served.storage().seed_fake(&digest(layer), 300, &["gone/app"], &[]).unwrap();
    }
    let manifest = digest(GONE_MANIFEST);
    served.storage().seed_fake(&manifest, 500, &[], &["gone/app"]).unwrap();
    let layers: Value = GONE_LAYERS.iter().map(|layer| json!({"name": layer})).collect();
    let image = json!({"metadata": {"name": manifest.as_str()}, "dockerImageLayers": layers});
    served.cluster.image_pushed("gone", "app", Some("old"), image);
}

#[tokio::test]
async fn recorded_answers() {
    let Some(fixtures) = fixtures() else { return };
    let mut replay = Replay { directory: fixtures.join("registry"), done: BTreeSet::new() };
    let names: BTreeSet<String> = fs::read_dir(&replay.directory)
        .unwrap()
        .filter_map(|entry| {
            entry.unwrap().file_name().into_string().unwrap().strip_suffix(".meta.json").map(str::to_owned)
        })
        .collect();

    let served = Served::start(in_process()).await;
    seed(&served, &replay);
    for name in names.iter().filter(|name| {
        let group = name.split('.').next().unwrap();
        ["blob", "catalog", "manifest", "ping", "plain", "tags", "token"].contains(&group)
    }) {
        replay.check(&served, 0, name).await;
    }

    seed_gone(&served);
    let refused = ["anonymous", "nobody", "nobody-basic", "invalid-token", "invalid-token-basic"];
    for kind in refused {
        replay.check(&served, 0, &format!("delete.layer-link.{kind}")).await;
        replay.check(&served, 0, &format!("delete.blob.{kind}")).await;
    }
    for name in [
        "repository-path",
        "manifest.405-still-in-image-stream",
        "manifest.by-tag-as-pruner",
        "layer-link.first",
        "layer-link.again",
        "layer-link.bearer",
        "layer-link.unknown",
        "layer-link.unknown-repository",
        "layer-link.invalid-digest",
    ] {
        replay.check(&served, 0, &format!("delete.{name}")).await;
    }
    served.cluster.empty_stream("gone/app");
    for name in [
        "manifest.first",
        "manifest.again",
        "manifest.unknown",
        "blob.first",
        "blob.again",
        "blob.bearer",
        "blob.unknown",
        "blob.get-method",
        "blob.invalid-digest",
    ] {
        replay.check(&served, 0, &format!("delete.{name}")).await;
    }
    let left: Vec<Digest> = served.storage().layer_links("gone/app").into_iter().collect();
    assert_eq!(left, [digest(GONE_LAYERS[2]), digest(GONE_LAYERS[3])]);
    assert_eq!(served.storage().manifest_links("gone/app"), BTreeSet::new());
    assert!(!served.storage().blobs().contains(GONE_LAYERS[0]));

    for (prefix, config) in [
        ("nodelete.", RegistryConfig { delete_enabled: false, ..in_process() }),
        ("readonly.", RegistryConfig { readonly: true, ..in_process() }),
    ] {
        let served = Served::start(config).await;
        seed_gone(&served);
        served.cluster.empty_stream("gone/app");
        for name in names.iter().filter(|name| name.starts_with(prefix)) {
            replay.check(&served, 0, name).await;
        }
    }

    recorded_stale_and_clean(&mut replay).await;
    assert_eq!(replay.done, names);
}

/// A layer is pruned through replica 0 while replica 1 has it in its cache; then both are asked the same.
async fn recorded_stale_and_clean(replay: &mut Replay) {
    let served = Served::start(in_process()).await;
    let layer = digest("sha256:7f185d3d3df08a1af2a6f2d19c02be9b00cb4a0d981c7576a8ac28333691331e");
    served.storage().seed_fake(&layer, 300, &["stale/app"], &[]).unwrap();
    for config in [
        "sha256:547168899e4c047620a0e9121c8efb2a8f87f6013c331d8efb92e40ec4b5dc15",
        "sha256:a4a03d4f3e6467d64f63e80aa03dbbe146d9f61d61aae697121da2852ef816ff",
    ] {
        served.storage().seed_fake(&digest(config), 181, &["stale/other"], &[]).unwrap();
    }
    served.cluster.add_stream("stale/app");
    let path = format!("/v2/stale/app/blobs/{layer}");
    assert_eq!(status(&served.admin(1), Method::HEAD, &path).await, StatusCode::OK);
    assert_eq!(status(&served.pruner(0), Method::DELETE, &path).await, StatusCode::ACCEPTED);
    let blob = format!("/admin/blobs/{layer}");
    assert_eq!(status(&served.pruner(0), Method::DELETE, &blob).await, StatusCode::NO_CONTENT);

    let common = ["head", "get", "mount", "put-manifest"];
    let after = ["delete-blob", "head-after-delete-blob", "delete-link"];
    // The mount through the stale replica writes a link: the clean one is asked before.
    for (replica, name) in [(0, "clean-replica"), (1, "stale-replica")] {
        for step in common.iter().chain(&after) {
            let name = format!("{name}.pruned-layer.{step}");
            if replay.directory.join(format!("{name}.meta.json")).is_file() {
                replay.check(&served, replica, &name).await;
            }
        }
    }
}

#[tokio::test]
async fn the_challenge_names_the_scheme_and_host_that_were_asked() {
    let served = Served::start(in_process()).await;
    let plain = served.replicas[0].0.serve(&Handle::current(), listen(), None, &served.faults, &served.log);
    for url in [format!("http://{}", plain.address()), format!("https://{}", served.replicas[0].1.address())]
    {
        let client = Client::new(&url, Credentials::None, Some(&served.authority.pem()));
        let answer = client.send(Method::GET, "/v2/", &[], "").await.unwrap();
        let challenge = answer.headers()["www-authenticate"].to_str().unwrap();
        assert_eq!(challenge, format!("Bearer realm=\"{url}/openshift/token\""));
    }
}

#[tokio::test]
async fn recorded_image_objects() {
    let Some(fixtures) = fixtures() else { return };
    let served = Served::start(in_process()).await;
    let images = read_json(fixtures.join("lists/images.body.json"));
    let mut compared = 0;
    for (repository, name) in [
        ("shop/web", "manifest.get.200"),
        ("tools/cli", "manifest.get.200-oci"),
        ("tools/multi", "manifest.get.200-list"),
        ("tools/multi", "manifest.get.200-index"),
    ] {
        let body = fs::read(fixtures.join(format!("registry/{name}.body.json"))).unwrap();
        let manifest: Value = serde_json::from_slice(&body).unwrap();
        let pushed = Digest::of(&body);
        let mut expected = images["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|image| image["metadata"]["name"] == pushed.as_str())
            .unwrap()
            .clone();
        if let Some(config) = manifest["config"].as_object() {
            for layer in manifest["layers"].as_array().unwrap() {
                let (name, size) = (layer["digest"].as_str().unwrap(), layer["size"].as_u64().unwrap());
                served.storage().seed_fake(&digest(name), size, &[repository], &[]).unwrap();
            }
            // The recording has no configs: one is made up from what became of it, under its digest.
            let metadata = &expected["dockerImageMetadata"];
            let content = json!({
                "created": "2026-01-02T03:04:05Z",
                "architecture": metadata["Architecture"],
                "config": metadata["Config"],
                "rootfs": {},
            });
            let config_digest = digest(config["digest"].as_str().unwrap());
            served.storage().seed_fake(&config_digest, 0, &[repository], &[]).unwrap();
            let size = usize::try_from(config["size"].as_u64().unwrap()).unwrap();
            let hex = config_digest.hex();
            let path = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
            fs::write(served.storage().directory().join(path), format!("{:size$}", content.to_string()))
                .unwrap();
        }
        let media_type = manifest["mediaType"].as_str().unwrap().to_owned();
        let path = format!("/v2/{repository}/manifests/pushed");
        let headers = [("content-type", media_type.as_str())];
        let answer = served.admin(0).send(Method::PUT, &path, &headers, body).await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED, "{name}: {:?}", answer.body());

        let mut found = served.cluster.image(pushed.as_str()).unwrap();
        for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
            expected["metadata"].as_object_mut().unwrap().remove(field);
        }
        for field in ["kind", "apiVersion"] {
            assert!(found.as_object_mut().unwrap().remove(field).is_some());
        }
        if manifest["config"].is_null() {
            // An index was created when it was pushed.
            for image in [&mut expected, &mut found] {
                let created =
                    image["dockerImageMetadata"].as_object_mut().unwrap().remove("Created").unwrap();
                assert_eq!(created.as_str().unwrap().len(), "2026-01-02T03:04:05Z".len());
            }
        }
        assert_eq!(found, expected, "{name}");
        compared += 1;
    }
    assert_eq!(compared, 4);
}

// ---- caches ----

/// A layer in `a/one`, known to replica 1, then pruned through replica 0.
#[tokio::test]
async fn a_replica_that_did_not_prune_is_stale() {
    for config in backends() {
        let pruned = Pruned::start(config).await;
        assert_eq!(pruned.ask(0).await, CLEAN);
        assert_eq!(pruned.ask(1).await, STALE);
        let error = pruned.served.admin(1).pull_whole("a/two", "broken").await.unwrap_err();
        let Broken::Refused { request, status, .. } = error else { panic!("{error}") };
        assert_eq!((request, status.as_u16()), (format!("GET /v2/a/two/blobs/{}", pruned.layer), 500));
    }
}

#[tokio::test]
async fn deleting_the_blob_through_a_stale_replica_cleans_it() {
    for config in backends() {
        let pruned = Pruned::start(config).await;
        let again = status(&pruned.served.pruner(1), Method::DELETE, &pruned.blob()).await;
        assert_eq!(again, StatusCode::NO_CONTENT);
        assert!(!pruned.served.replicas[1].0.remembers(&pruned.layer));
        assert_eq!(pruned.ask(1).await, CLEAN);
    }
}

#[tokio::test]
async fn a_restart_cleans_a_replica() {
    let pruned = Pruned::start(in_process()).await;
    pruned.served.replicas[1].0.restart();
    assert_eq!(pruned.ask(1).await, CLEAN);
}

#[tokio::test]
async fn without_a_digest_cache_no_replica_is_stale() {
    for config in [
        RegistryConfig { cache_disabled: true, ..in_process() },
        RegistryConfig { ttl: Duration::ZERO, ..in_process() },
    ] {
        let pruned = Pruned::start(config).await;
        assert_eq!(pruned.ask(1).await, CLEAN);
    }
}

#[tokio::test]
async fn an_entry_lives_from_its_first_insertion() {
    let config = RegistryConfig { ttl: Duration::from_secs(2), ..in_process() };
    let pruned = Pruned::start(config).await;
    let client = pruned.served.admin(1);
    let mut hits = 0;
    // Every question is a hit, and none of them prolongs the entry's life.
    for _ in 0..50 {
        match status(&client, Method::HEAD, &pruned.path()).await {
            StatusCode::INTERNAL_SERVER_ERROR => hits += 1,
            StatusCode::NOT_FOUND => break,
            other => panic!("{other}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!((1..50).contains(&hits), "{hits} hits");
    assert_eq!(pruned.ask(1).await, CLEAN);
}

#[tokio::test]
async fn a_link_that_is_gone_is_an_error_only_while_it_is_cached() {
    for config in backends() {
        let pruned = Pruned::start(config).await;
        let path = pruned.path();
        let answer = pruned.served.pruner(1).send(Method::DELETE, &path, &[], "").await.unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body: Value = serde_json::from_slice(answer.body()).unwrap();
        assert!(
            body["errors"][0]["detail"]["Path"].as_str().unwrap().contains("/a/one/_layers/sha256/"),
            "{body}"
        );
        for replica in [0, 1] {
            let again = status(&pruned.served.pruner(replica), Method::DELETE, &path).await;
            assert_eq!(again, StatusCode::NOT_FOUND, "replica {replica}");
        }
    }
}

#[tokio::test]
async fn a_stream_answers_for_a_layer_without_a_link() {
    for config in backends() {
        let served = Served::start(config).await;
        let layer = b"a layer that two streams have".to_vec();
        let client = served.admin(0);
        let image = client
            .push_image("a/one", Some("latest"), Format::Oci, std::slice::from_ref(&layer), &json!({}))
            .await;
        let image = image.unwrap().digest;
        let path = format!("/v2/a/two/blobs/{}", Digest::of(&layer));
        assert_eq!(status(&client, Method::GET, &path).await, StatusCode::NOT_FOUND);
        served.cluster.add_item("a/two", "promoted", image.as_str());
        assert_eq!(client.send(Method::GET, &path, &[], "").await.unwrap().body(), &layer);
        served.admin(1).pull_whole("a/two", "promoted").await.unwrap();
        served.cluster.remove_stream("a/two");
        served.replicas[1].0.restart();
        assert_eq!(status(&served.admin(1), Method::GET, &path).await, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn a_question_between_link_and_stream_makes_a_replica_stale() {
    let served = Served::start(in_process()).await;
    let layer = b"a layer that is asked for too early".to_vec();
    let layers = std::slice::from_ref(&layer);
    served.admin(0).push_image("a/one", Some("latest"), Format::Docker, layers, &json!({})).await.unwrap();
    let layer = Digest::of(&layer);
    let path = format!("/v2/a/one/blobs/{layer}");
    assert_eq!(status(&served.pruner(0), Method::DELETE, &path).await, StatusCode::ACCEPTED);
    assert_eq!(served.storage().layer_links("a/one").len(), 1);
    assert_eq!(status(&served.admin(1), Method::HEAD, &path).await, StatusCode::OK);
    served.cluster.empty_stream("a/one");
    let blob = format!("/admin/blobs/{layer}");
    assert_eq!(status(&served.pruner(0), Method::DELETE, &blob).await, StatusCode::NO_CONTENT);
    assert_eq!(status(&served.admin(0), Method::HEAD, &path).await, StatusCode::NOT_FOUND);
    assert_eq!(status(&served.admin(1), Method::HEAD, &path).await, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn what_was_pruned_can_be_pushed_again_except_through_a_stale_replica() {
    for config in backends() {
        let served = Served::start(config).await;
        let layer = b"pushed more than once".to_vec();
        let push = async |replica| {
            let layers = std::slice::from_ref(&layer);
            let client = served.admin(replica);
            client.push_image("a/one", Some("latest"), Format::Docker, layers, &json!({})).await.unwrap()
        };
        let prune = async |manifest: &Digest| {
            served.cluster.empty_stream("a/one");
            let pruner = served.pruner(0);
            let path = format!("/v2/a/one/manifests/{manifest}");
            assert_eq!(status(&pruner, Method::DELETE, &path).await, StatusCode::ACCEPTED);
            for layer in served.storage().layer_links("a/one") {
                let path = format!("/v2/a/one/blobs/{layer}");
                assert_eq!(status(&pruner, Method::DELETE, &path).await, StatusCode::ACCEPTED);
            }
            for blob in served.storage().blobs() {
                let path = format!("/admin/blobs/{blob}");
                assert_eq!(status(&pruner, Method::DELETE, &path).await, StatusCode::NO_CONTENT);
            }
            assert_eq!(served.storage().manifest_links("a/one"), BTreeSet::new());
            assert_eq!(served.storage().blobs(), BTreeSet::new());
        };

        let image = push(0).await;
        served.admin(1).pull_whole("a/one", "latest").await.unwrap();
        prune(&image.digest).await;
        push(0).await;
        served.admin(0).pull_whole("a/one", "latest").await.unwrap();
        prune(&image.digest).await;
        // The layer is uploaded again, but the manifest is believed to be there.
        push(1).await;
        assert!(served.storage().blobs().contains(&Digest::of(&layer)));
        let error = served.admin(1).pull_whole("a/one", "latest").await.unwrap_err();
        assert!(matches!(error, Broken::Refused { status: StatusCode::NOT_FOUND, .. }), "{error}");
    }
}

// ---- pushes and pulls ----

#[tokio::test]
async fn pushed_images_can_be_pulled_from_every_replica() {
    for config in backends() {
        let served = Served::start(config).await;
        let client = served.admin(0);
        let (base, top) = (vec![1; 5000], vec![2; 700]);
        let config =
            json!({"architecture": "amd64", "config": {"Env": ["A=b"]}, "created": "2026-01-02T03:04:05.6Z"});
        for format in [Format::Docker, Format::Oci] {
            let layers = [base.clone(), top.clone()];
            let image = client.push_image("shop/web", Some("v1"), format, &layers, &config).await.unwrap();
            for (replica, reference) in [(0, "v1"), (1, "v1"), (1, image.digest.as_str())] {
                let pulled = served.admin(replica).pull_whole("shop/web", reference).await.unwrap();
                assert_eq!(pulled.digest, image.digest);
                assert_eq!(pulled.blobs.len(), 3);
                assert!(pulled.blobs.is_superset(&layers.iter().map(|layer| Digest::of(layer)).collect()));
            }
            assert!(served.storage().manifest_links("shop/web").contains(&image.digest));
            let object = served.cluster.image(image.digest.as_str()).unwrap();
            assert_eq!(object["dockerImageMetadata"]["Created"], "2026-01-02T03:04:05Z");
            let size = 5700 + config.to_string().len();
            assert_eq!(object["dockerImageMetadata"]["Size"], size);
        }
        let blobs = served.storage().layer_links("shop/web");
        assert_eq!(blobs.len(), 3);
        assert!(served.storage().blobs().is_superset(&blobs));
        let tags = client.send(Method::GET, "/v2/shop/web/tags/list", &[], "").await.unwrap();
        assert_eq!(tags.body(), "{\"name\":\"shop/web\",\"tags\":[\"v1\"]}\n");
    }
}

#[tokio::test]
async fn pushed_indexes_can_be_pulled_whole() {
    for config in backends() {
        let served = Served::start(config).await;
        let client = served.admin(0);
        for format in [Format::Docker, Format::Oci] {
            let mut images = Vec::new();
            for architecture in ["amd64", "arm64"] {
                let layer = format!("{format:?} {architecture}").into_bytes();
                let config = json!({"architecture": architecture, "config": {}});
                let image = client.push_image("tools/multi", None, format, &[layer], &config).await.unwrap();
                assert!(served.cluster.image(image.digest.as_str()).is_some());
                images.push((image, architecture));
            }
            let index = client.push_index("tools/multi", Some("latest"), format, &images).await.unwrap();
            let pulled = served.admin(1).pull_whole("tools/multi", "latest").await.unwrap();
            assert_eq!(pulled.digest, index.digest);
            assert_eq!((pulled.manifests.len(), pulled.blobs.len()), (3, 4));

            served.storage().delete_blob(pulled.blobs.first().unwrap()).unwrap();
            assert!(served.admin(1).pull_whole("tools/multi", "latest").await.is_err());
        }
    }
}

#[tokio::test]
async fn a_blob_that_another_repository_has_is_mounted_for_those_who_may_read_it() {
    for config in backends() {
        let served = Served::start(config).await;
        let client = served.admin(0);
        let blob = client.push_blob("a/one", b"shared").await.unwrap();
        assert_eq!(client.mount_blob("a/two", &blob, "a/three").await.unwrap(), StatusCode::ACCEPTED);
        assert_eq!(served.storage().layer_links("a/two"), BTreeSet::new());
        assert_eq!(client.mount_blob("a/two", &blob, "a/one").await.unwrap(), StatusCode::CREATED);
        assert_eq!(served.storage().layer_links("a/two"), BTreeSet::from([blob.clone()]));
        let pruner = served.pruner(0).mount_blob("a/two", &blob, "a/one").await.unwrap();
        assert_eq!(pruner, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn uploads_are_checked() {
    for config in backends() {
        let served = Served::start(config).await;
        let client = served.admin(0);
        let uploads = "/v2/a/one/blobs/uploads/";
        let right = Digest::of(b"right");
        let code = |answer: Answer| {
            let body: Value = serde_json::from_slice(answer.body()).unwrap();
            (answer.status().as_u16(), body["errors"][0]["code"].as_str().unwrap().to_owned())
        };

        let whole = format!("{uploads}?digest={right}");
        let begun = client.send(Method::POST, &whole, &[], "right").await.unwrap();
        assert_eq!(begun.status(), StatusCode::ACCEPTED, "like distribution 2.8");
        assert_eq!(served.storage().blobs(), BTreeSet::new());
        let location = begun.headers()["location"].to_str().unwrap().to_owned();
        assert!(location.starts_with("https://127.0.0.1:"), "{location}");
        let answer =
            client.send(Method::PUT, &format!("{location}&digest={right}"), &[], "wrong").await.unwrap();
        assert_eq!(code(answer), (400, "DIGEST_INVALID".to_owned()));
        let answer =
            client.send(Method::PUT, &format!("{location}&digest={right}"), &[], "right").await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        assert_eq!(served.storage().blobs(), BTreeSet::new());

        let begun = client.send(Method::POST, uploads, &[], "").await.unwrap();
        let location = begun.headers()["location"].to_str().unwrap();
        assert_eq!(status(&client, Method::DELETE, location).await, StatusCode::NO_CONTENT);
        assert_eq!(status(&client, Method::GET, location).await, StatusCode::NOT_FOUND);

        let begun = client.send(Method::POST, uploads, &[], "").await.unwrap();
        let location = begun.headers()["location"].to_str().unwrap();
        let answer =
            client.send(Method::PUT, &format!("{location}&digest={right}"), &[], "right").await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        assert_eq!(served.storage().layer_links("a/one"), BTreeSet::from([right]));
    }
}

#[tokio::test]
async fn requests_are_logged_by_replica_and_user_and_can_fail() {
    let served = Served::start(in_process()).await;
    served.faults.add(
        Fault::new(Action::Answer(sandbox::fault::Answer::too_many_requests(3)))
            .server(Server::Registry(1))
            .method(Method::DELETE),
    );
    let path = format!("/admin/blobs/{}", Digest::of(b"x"));
    assert_eq!(status(&served.pruner(0), Method::DELETE, &path).await, StatusCode::NO_CONTENT);
    assert_eq!(status(&served.pruner(1), Method::DELETE, &path).await, StatusCode::TOO_MANY_REQUESTS);
    let log: Vec<_> = served
        .log
        .mutations()
        .into_iter()
        .map(|entry| (entry.server, entry.user, entry.status.unwrap().as_u16()))
        .collect();
    let expected = [(Server::Registry(0), Some("pruner".to_owned()), 204), (Server::Registry(1), None, 429)];
    assert_eq!(log, expected);
}
