//! What becomes needed while a plan is carried out, seen by watching and by reading again.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use common::objects::{HOST, KEEP_ONE, digest, hours_ago, image, item, pod, shop, stream};
use common::plugin::Running;
use common::{Cluster, Ran};
use http::{Method, StatusCode};
use sandbox::api::Store;
use sandbox::fault::{Action, Answer, Fault};
use serde_json::{Value, json};

/// Who may watch everything, and who may watch images and streams alone.
const USERS: [&str; 2] = ["admin", "pruner"];
const PATIENCE: Duration = Duration::from_secs(30);

/// Holds requests, each under its name, until it is dropped.
struct Gate {
    arrived: Receiver<String>,
    _open: Sender<()>,
}

impl Gate {
    /// Holds the first request to each of these paths.
    fn of<'a>(
        cluster: &Cluster,
        method: &Method,
        paths: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Self {
        let (arrive, arrived) = channel();
        let (open, opened) = channel::<()>();
        let opened = std::sync::Arc::new(Mutex::new(opened));
        for (name, path) in paths {
            let (arrive, opened, name) = (arrive.clone(), opened.clone(), name.to_owned());
            let hook = Action::hook(move || {
                let _ = arrive.send(name.clone());
                // The rest of the server goes on; an error means that the gate is open.
                tokio::task::block_in_place(|| opened.lock().unwrap().recv()).unwrap_err();
            });
            cluster.sandbox.faults().add(Fault::new(hook).method(method.clone()).path(&path).times(1));
        }
        Self { arrived, _open: open }
    }

    fn wait(&self) -> String {
        self.arrived.recv_timeout(PATIENCE).unwrap()
    }
}

/// A confirmed run as this user, that tells what it sees and reads again what it may not watch in no time.
fn start(cluster: &Cluster, user: &str, args: &[&str]) -> Running {
    let registry = format!("--registry-url={}", cluster.registry_url());
    let fixed = ["--confirm", "--num-workers=1", "--poll-interval=30ms", "--v=4", "-ojson", &registry];
    cluster.plugin(user).args(fixed).args(args).start()
}

/// Runs until a request is held, changes the cluster, and goes on when that was seen.
fn run_with(
    cluster: &Cluster,
    user: &str,
    args: &[&str],
    (method, path): (Method, String),
    change: impl FnOnce(&Store),
    seen: &str,
) -> Ran {
    let gate = Gate::of(cluster, &method, [("", path)]);
    let running = start(cluster, user, args);
    gate.wait();
    change(cluster.sandbox.store());
    running.wait_until_it_says(&format!("new or changed: {seen}"));
    drop(gate);
    running.wait()
}

fn start_pod(name: &str, image: &str) -> impl FnOnce(&Store) {
    let pod = pod("late", name, &format!("{HOST}/{image}"));
    move |store| drop(store.create("pods", pod))
}

fn at(repository: &str, image: &str) -> String {
    format!("{repository}@{}", digest(image))
}

const POD: &str = "pods late/new";

fn fetch_web() -> (Method, String) {
    (Method::GET, "/imagestreams/web$".to_owned())
}

/// What stays, with what needs it.
fn spared(ran: &Ran) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let document = ran.json();
    let spared = document["result"]["spared"].as_array().unwrap().iter();
    spared
        .map(|spared| {
            assert_eq!(spared["reason"], "referencedNewly", "{ran}");
            let by = &spared["by"];
            let parts = ["kind", "namespace", "name", "place"].map(|part| text(&by[part]));
            (text(&spared["object"]), parts.join(" "))
        })
        .collect()
}

fn broken(ran: &Ran) -> Vec<Value> {
    ran.json()["result"]["broken"].as_array().cloned().unwrap_or_default()
}

fn is_whole(cluster: &Cluster, image: &str) -> bool {
    cluster.images().contains(&digest(image))
        && [image.to_owned(), format!("{image}1"), format!("config of {image}")]
            .iter()
            .all(|blob| cluster.has_blob(&digest(blob)))
}

fn is_gone(cluster: &Cluster, image: &str) -> bool {
    !cluster.images().contains(&digest(image)) && !cluster.has_blob(&digest(&format!("{image}1")))
}

const POD_APP: &str = "pod late new container app";

#[test]
fn an_item_that_a_new_pod_names_stays() {
    for user in USERS {
        let cluster = Cluster::of(shop());
        let b = at("shop/web", "b");
        let ran = run_with(&cluster, user, &[KEEP_ONE], fetch_web(), start_pod("new", &b), POD).exits(0);
        assert_eq!(cluster.tags("shop", "web")["latest"], ["a", "b", "c"].map(digest), "{ran}");
        assert!(is_whole(&cluster, "b") && is_gone(&cluster, "d"), "{ran}");
        let item = format!("shop/web:latest@{}", digest("b"));
        assert_eq!(spared(&ran).iter().find(|(object, _)| *object == item).unwrap().1, POD_APP);
        assert_eq!(broken(&ran), Vec::<Value>::new());
        let links = cluster.changes();
        assert!(links.manifest_links.keys().chain(links.layer_links.keys()).all(|link| *link != b), "{ran}");
        let layers = ["base", "bd", "b1"].map(|layer| at("shop/web", layer));
        assert!(layers.iter().all(|layer| !links.layer_links.contains_key(layer)), "{ran}");
    }
}

#[test]
fn the_current_item_of_a_tag_that_a_new_pod_names_stays() {
    for user in USERS {
        let cluster = Cluster::of(shop());
        let pod = start_pod("new", "shop/web:latest");
        let ran = run_with(&cluster, user, &["--keep-tag-revisions=0"], fetch_web(), pod, POD).exits(0);
        assert_eq!(cluster.tags("shop", "web")["latest"], ["a", "c"].map(digest), "{ran}");
        assert!(is_whole(&cluster, "a"), "{ran}");
    }
}

#[test]
fn what_a_new_pod_names_when_its_item_is_gone_is_told_and_loses_no_more() {
    for user in USERS {
        let cluster = Cluster::of(shop());
        let link = (Method::DELETE, format!("/v2/shop/web/manifests/{}$", digest("b")));
        let d = at("shop/web", "d");
        let gone_before = || cluster.changes().manifest_links.contains_key(&d);
        let ran = run_with(&cluster, user, &[KEEP_ONE], link, start_pod("new", &d), POD);
        let was_unlinked = gone_before();
        let ran = ran.exits(3).says("hint: push these images again, or build or import them again");
        assert!(is_whole(&cluster, "d") && is_gone(&cluster, "b"), "{ran}");
        assert!(cluster.has_blob(&digest("bd")), "{ran}");
        assert_eq!(broken(&ran).len(), 1, "{ran}");
        let lacks = &broken(&ran)[0];
        assert_eq!(
            (&lacks["repository"], &lacks["image"]),
            (&"shop/web".into(), &digest("d").into()),
            "{ran}"
        );
        assert_eq!((&lacks["unlisted"], &lacks["certain"]), (&true.into(), &true.into()), "{ran}");
        assert_eq!(lacks["by"]["name"], "new");
        assert_eq!(lacks["missing"].as_array().unwrap().contains(&digest("d").into()), was_unlinked, "{ran}");
        ran.says(&format!("  {d}, needed by pod/late/new container app, lacks its item in the stream"));
    }
}

/// The images that go with [`KEEP_ONE`], each held at its own layer.
fn at_the_images(cluster: &Cluster) -> Gate {
    let layers =
        ["b", "d", "f", "o"].map(|name| (name, format!("^/admin/blobs/{}$", digest(&format!("{name}1")))));
    Gate::of(cluster, &Method::DELETE, layers)
}

/// Runs until the first image's layer is to be deleted, changes the cluster for another image, and goes on when that was
/// seen. `change` gets the other image's name, and says what is seen.
fn run_to_the_images(
    cluster: &Cluster,
    user: &str,
    change: impl FnOnce(&Store, &str) -> String,
) -> (&'static str, Ran) {
    let gate = at_the_images(cluster);
    let running = start(cluster, user, &[KEEP_ONE]);
    let first = gate.wait();
    // Not b and d, which share a layer.
    let other = if first == "o" { "f" } else { "o" };
    let seen = change(cluster.sandbox.store(), other);
    running.wait_until_it_says(&format!("new or changed: {seen}"));
    drop(gate);
    let ran = running.wait();
    assert!(is_gone(cluster, &first), "{ran}");
    (other, ran)
}

#[test]
fn an_image_that_a_new_pod_names_stays() {
    for user in USERS {
        let cluster = Cluster::of(shop());
        let (image, ran) = run_to_the_images(&cluster, user, |store, image| {
            // No stream of this name is there: the digest alone tells.
            start_pod("new", &at("any/where", image))(store);
            POD.to_owned()
        });
        let ran = ran.exits(0);
        assert!(is_whole(&cluster, image), "{ran}");
        assert_eq!(spared(&ran), [(digest(image), POD_APP.to_owned())].into());
    }
}

#[test]
fn an_image_that_is_tagged_stays() {
    let cluster = Cluster::of(shop());
    let (image, ran) = run_to_the_images(&cluster, "pruner", |store, image| {
        store.create("imagestreams", stream("late", "copy", &[image]));
        "imagestreams.image.openshift.io late/copy".to_owned()
    });
    let ran = ran.exits(0);
    assert!(is_whole(&cluster, image), "{ran}");
    assert_eq!(spared(&ran), [(digest(image), "imagestream late copy tag latest".to_owned())].into());
}

#[test]
fn an_image_that_is_marked_stays() {
    let cluster = Cluster::of(shop());
    let (image, ran) = run_to_the_images(&cluster, "pruner", |store, image| {
        store.update("images", "", &digest(image), |object| {
            object["metadata"]["labels"] = json!({ "prune-images/keep": "true" });
        });
        format!("images.image.openshift.io {}", digest(image))
    });
    assert!(is_whole(&cluster, image), "{ran}");
    assert_eq!(spared(&ran.exits(0)), [(digest(image), format!("image  {} ", digest(image)))].into());
}

#[test]
fn what_a_pushed_image_shares_stays() {
    let cluster = Cluster::of(shop());
    let (shared, ran) = run_to_the_images(&cluster, "pruner", |store, other| {
        // As the registry does it: first the image, then its tag.
        let mut new = image("n", &["base", &format!("{other}1")]);
        new["metadata"]["creationTimestamp"] = hours_ago(0).into();
        store.create("images", new);
        store.update("imagestreams", "shop", "api", |stream| {
            let items = stream["status"]["tags"][0]["items"].as_array_mut().unwrap();
            let mut new = item("n", 0);
            new["created"] = hours_ago(0).into();
            items.insert(0, new);
        });
        format!("images.image.openshift.io {}", digest("n"))
    });
    let layer = digest(&format!("{shared}1"));
    assert!(cluster.has_blob(&layer), "{ran}");
    // The image itself goes, but for what it shares.
    assert!(!cluster.images().contains(&digest(shared)) && !cluster.has_blob(&digest(shared)), "{ran}");
    assert_eq!(spared(&ran.exits(0)), [(layer, format!("image  {} ", digest("n")))].into());
}

#[test]
fn links_that_a_pushed_image_needs_stay_and_others_go() {
    let cluster = Cluster::of(shop());
    let link = (Method::DELETE, format!("/v2/shop/web/manifests/{}$", digest("b")));
    let push = |store: &Store| {
        // The registry creates the image before a tag names it.
        let mut new = image("n", &["base", "bd"]);
        new["metadata"]["creationTimestamp"] = hours_ago(0).into();
        store.create("images", new);
    };
    let seen = format!("images.image.openshift.io {}", digest("n"));
    let ran = run_with(&cluster, "pruner", &[KEEP_ONE], link, push, &seen).exits(0);
    let links = cluster.changes().layer_links;
    assert!(!links.contains_key(&at("shop/web", "bd")) && cluster.has_blob(&digest("bd")), "{ran}");
    assert!(links.contains_key(&at("shop/web", "b1")) && is_gone(&cluster, "b"), "{ran}");
    let by = format!("image  {} ", digest("n"));
    assert_eq!(spared(&ran), [(at("shop/web", "bd"), by.clone()), (digest("bd"), by)].into());
}

#[test]
fn a_submanifest_that_a_new_pod_names_stays() {
    let mut index = image("i", &[]);
    index["dockerImageManifestMediaType"] = "application/vnd.oci.image.index.v1+json".into();
    let manifest = |name| json!({ "digest": digest(name), "manifestSize": 500, "mediaType": "application/vnd.oci.image.manifest.v1+json", "architecture": "arm64", "os": "linux" });
    index["dockerImageManifests"] = json!([manifest("m"), manifest("n")]);
    index["dockerImageMetadata"]["Id"] = "".into();
    // Nothing of it is named by a stream, and it frees least.
    let small = |name: &str| {
        let mut image = image(name, &[&format!("{name}1")]);
        image["dockerImageLayers"][0]["size"] = 1.into();
        image
    };
    let mut objects = shop();
    objects.extend([index, small("m"), small("n")]);
    let cluster = Cluster::of(objects);
    let held = [
        ("o", format!("^/admin/blobs/{}$", digest("o1"))),
        ("m", format!("^/admin/blobs/{}$", digest("m1"))),
    ];
    let gate = Gate::of(&cluster, &Method::DELETE, held);
    let running = start(&cluster, "pruner", &[KEEP_ONE]);
    // Whichever comes first: the other one is named.
    let image = if gate.wait() == "o" { "m" } else { "o" };
    start_pod("new", &at("shop/multi", image))(cluster.sandbox.store());
    running.wait_until_it_says("new or changed: pods late/new");
    drop(gate);
    let ran = running.wait().exits(0);
    assert!(is_whole(&cluster, image), "{ran}");
    assert_eq!(cluster.images().len(), 4, "{ran}");
}

#[test]
fn an_image_that_is_needed_too_late_is_told_with_what_needs_it() {
    for user in USERS {
        let cluster = Cluster::of(shop());
        let object = (Method::DELETE, format!("/images/{}$", digest("o")));
        let ran = run_with(&cluster, user, &[KEEP_ONE], object, start_pod("new", &at("shop/web", "o")), POD);
        let ran = ran.exits(3);
        let found = broken(&ran);
        assert_eq!(found.len(), 1, "{ran}");
        let lacks = &found[0];
        assert_eq!(
            lacks["by"],
            json!({ "kind": "pod", "namespace": "late", "name": "new", "place": "container app" })
        );
        // The request was on its way.
        assert_eq!(lacks["unlisted"], true, "{ran}");
        let missing: BTreeSet<&str> =
            lacks["missing"].as_array().unwrap().iter().map(|digest| digest.as_str().unwrap()).collect();
        let all = ["o", "o1", "config of o"].map(digest);
        assert_eq!(missing, all.iter().map(String::as_str).collect(), "{ran}");
    }
}

#[test]
fn a_watch_that_expired_or_broke_off_misses_nothing() {
    let faults = [
        // As some servers say it, as others do, and a connection that broke.
        Action::Answer(Answer::kubernetes(StatusCode::GONE, "Expired", "too old resource version")),
        Action::hook(|| {}),
        Action::Truncate(0),
        Action::ResetBefore,
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let cluster = Cluster::of(shop());
        let store = cluster.sandbox.store().clone();
        let start_and_forget = Action::hook(move || {
            if store.get("pods", "late", "new").is_none() {
                start_pod("new", &at("shop/web", "b"))(&store);
                store.compact();
            }
        });
        let pods = "/pods?watch=1";
        cluster.sandbox.faults().add(Fault::new(start_and_forget).path(pods).times(1));
        cluster.sandbox.faults().add(Fault::new(fault).path(pods).times(1));
        let ran = run_with(&cluster, "admin", &[KEEP_ONE], fetch_web(), |_| {}, POD).exits(0);
        assert_eq!(cluster.tags("shop", "web")["latest"], ["a", "b", "c"].map(digest), "{number}\n{ran}");
        assert!(is_whole(&cluster, "b") && is_gone(&cluster, "f"), "{ran}");
        ran.does_not_say("cannot be watched");
    }
}

#[test]
fn a_server_that_watches_nothing_is_read_again() {
    for status in [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_FOUND] {
        let cluster = Cluster::of(shop());
        // Nor does it send metadata alone.
        cluster.sandbox.api().configure(|settings| settings.partial_metadata = false);
        let refuses = Answer::kubernetes(status, "MethodNotAllowed", "watch is not supported");
        cluster.sandbox.faults().add(Fault::new(Action::Answer(refuses)).path("watch=1"));
        let (image, ran) = run_to_the_images(&cluster, "admin", |store, image| {
            store.create("imagestreams", stream("late", "copy", &[image]));
            "imagestreams.image.openshift.io late/copy".to_owned()
        });
        let ran = ran.exits(0);
        assert!(is_whole(&cluster, image), "{ran}");
        ran.says("images.image.openshift.io and 14 more kinds cannot be watched");
    }
}

#[test]
fn who_may_not_watch_is_told_how_often_it_is_read_again() {
    let cluster = Cluster::of(shop());
    let line = "pods and 10 more kinds cannot be watched with these rights: they are read again every 15s\n";
    cluster.prune(&[KEEP_ONE]).exits(0).says(line);
    let cluster = Cluster::of(shop());
    let registry = format!("--registry-url={}", cluster.registry_url());
    cluster
        .plugin("admin")
        .args(["--confirm", KEEP_ONE, &registry])
        .run()
        .exits(0)
        .does_not_say("read again");
}
