//! Carrying a plan out while the cluster changes, requests fail, and the user loses patience.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::cluster::names;
use common::objects::{HOST, KEEP_ONE, digest, hours_ago, image, item, pod, shop, stream};
use common::{Cluster, Ran};
use http::{Method, StatusCode};
use sandbox::fault::{Action, Answer, Fault, FaultId};
use sandbox::log::Server;
use sandbox::registry::{Digest, Link};
use serde_json::{Value, json};

const WEB_STATUS: &str = "/namespaces/shop/imagestreams/web/status";
const ADMIN_BLOBS: &str = "^/admin/blobs/";

fn fault(cluster: &Cluster, method: Method, path: &str, action: Action) -> FaultId {
    cluster.sandbox.faults().add(Fault::new(action).method(method).path(path))
}

fn once(cluster: &Cluster, method: Method, path: &str, action: Action) {
    cluster.sandbox.faults().add(Fault::new(action).method(method).path(path).times(1));
}

fn digests(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| digest(name)).collect()
}

fn blob(name: &str) -> String {
    format!("{ADMIN_BLOBS}{}$", digest(name))
}

fn image_object(name: &str) -> String {
    format!("/images/{}$", digest(name))
}

/// A failure that does not pass, as a registry without space gives it.
fn broken() -> Action {
    Action::Answer(Answer::new(StatusCode::INTERNAL_SERVER_ERROR).body(r#"{"errors":[{"code":"UNKNOWN"}]}"#))
}

fn unavailable() -> Action {
    Action::Answer(Answer::kubernetes(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "not now"))
}

/// What was planned and stays: object and reason.
fn spared(ran: &Ran) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let document = ran.json();
    let spared = document["result"]["spared"].as_array().unwrap().iter();
    spared.map(|spared| (text(&spared["object"]), text(&spared["reason"]))).collect()
}

fn failures(ran: &Ran) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let document = ran.json();
    let failures = document["result"]["failures"].as_array().unwrap().iter();
    failures.map(|failed| (text(&failed["failed"]), text(&failed["object"]))).collect()
}

#[test]
fn everything_planned_goes_and_a_second_run_finds_nothing() {
    let cluster = Cluster::of(shop());
    cluster.prune(&[KEEP_ONE]).exits(0);
    assert_eq!(cluster.images(), digests(&["a", "c", "e"]));
    let left: BTreeSet<String> =
        cluster.registry.storage().blobs().iter().map(|blob| blob.as_str().to_owned()).collect();
    let kept = ["a", "c", "e"]
        .into_iter()
        .flat_map(|name| [digest(name), digest(&format!("config of {name}")), digest(&format!("{name}1"))]);
    assert_eq!(left, kept.chain([digest("base")]).collect());

    let before = cluster.sandbox.request_log().len();
    cluster.prune(&[KEEP_ONE]).exits(0).prints("Summary: deleted 0 objects\n");
    assert!(cluster.changes_since(before).is_empty());
}

#[test]
fn a_stream_that_changed_is_decided_about_again() {
    let mut objects = shop();
    objects.push(image("n", &["base", "n1"]));
    let cluster = Cluster::of(objects);
    let push = cluster.sandbox.hook(|store| {
        store.update("imagestreams", "shop", "web", |stream| {
            let items = stream["status"]["tags"][0]["items"].as_array_mut().unwrap();
            let mut new = item("n", 0);
            new["created"] = hours_ago(0).into();
            items.insert(0, new);
        });
    });
    once(&cluster, Method::PUT, WEB_STATUS, push);
    let ran = cluster.prune(&[KEEP_ONE, "-ojson"]).exits(0);
    let left: Vec<String> = ["n", "c"].map(digest).into();
    // a is no longer the newest, and is as old as the others.
    assert_eq!(cluster.tags("shop", "web")["latest"], left, "{ran}");
    assert_eq!(cluster.changes().statuses["shop/web"].len(), 2);
    assert!(cluster.images().is_superset(&digests(&["n", "c"])));
    assert!(!cluster.images().contains(&digest("b")));
}

/// The shop, with a label on each of its streams.
fn labelled() -> Vec<Value> {
    let mut objects = shop();
    for object in objects.iter_mut().filter(|object| object["kind"] == "ImageStream") {
        object["metadata"]["labels"] = json!({ "app": object["metadata"]["name"] });
    }
    objects
}

#[test]
fn a_selector_changes_the_selected_streams_alone_and_no_image() {
    let cluster = Cluster::of(labelled());
    let ran = cluster.prune(&[KEEP_ONE, "--selector=app in (api,other)"]).exits(0);
    let changes = cluster.changes();
    assert_eq!(names(&changes.statuses), ["shop/api".to_owned()].into(), "{ran}");
    assert_eq!(names(&changes.manifest_links), [format!("shop/api@{}", digest("f"))].into());
    assert!(changes.images.is_empty() && changes.blobs.is_empty(), "{ran}");

    // Both have to fit.
    let before = cluster.sandbox.request_log().len();
    cluster.prune(&[KEEP_ONE, "-lapp=web", "-nelsewhere"]).exits(0).prints("Summary: deleted 0 objects\n");
    assert!(cluster.changes_since(before).is_empty());
}

#[test]
fn a_stream_that_is_no_longer_selected_stays() {
    let cluster = Cluster::of(labelled());
    let relabel = cluster.sandbox.hook(|store| {
        store.update("imagestreams", "shop", "web", |stream| stream["metadata"]["labels"] = json!({}));
    });
    once(&cluster, Method::PUT, WEB_STATUS, relabel);
    let ran = cluster.prune(&[KEEP_ONE, "-lapp"]).exits(0);
    let web = ["a", "b", "c", "d"].map(digest);
    assert_eq!(cluster.tags("shop", "web")["latest"], web, "{ran}");
    assert_eq!(cluster.tags("shop", "api")["latest"], [digest("e")], "{ran}");
}

#[test]
fn an_update_whose_answer_is_lost_is_not_forgotten() {
    for action in [Action::ResetAfter, Action::AnswerAfter(Answer::new(StatusCode::GATEWAY_TIMEOUT))] {
        let cluster = Cluster::of(shop());
        once(&cluster, Method::PUT, WEB_STATUS, action);
        let ran = cluster.prune(&[KEEP_ONE]).exits(0);
        ran.prints("deleted 3 image stream tag item(s), updated 2 image stream(s)");
        let web = digest("b");
        assert!(names(&cluster.changes().manifest_links).contains(&format!("shop/web@{web}")));
        assert!(!cluster.has_blob(&web));
    }
}

#[test]
fn a_stream_that_is_deleted_meanwhile_is_no_failure() {
    let cluster = Cluster::of(shop());
    let delete = cluster.sandbox.hook(|store| {
        store.delete("imagestreams", "shop", "web");
    });
    once(&cluster, Method::PUT, WEB_STATUS, delete);
    let ran = cluster.prune(&[KEEP_ONE, "-ojson"]).exits(0);
    let links = names(&cluster.changes().manifest_links);
    assert_eq!(links, [format!("shop/api@{}", digest("f"))].into(), "{ran}");
}

#[test]
fn an_image_stays_if_a_blob_of_it_cannot_be_deleted() {
    let cluster = Cluster::of(shop());
    fault(&cluster, Method::DELETE, &blob("b1"), broken());
    let ran = cluster.prune(&[KEEP_ONE]).exits(3);
    assert_eq!(cluster.images(), digests(&["a", "b", "c", "e"]), "{ran}");
    let listed = format!("\n    {}\n", digest("b1"));
    assert_eq!(ran.stderr.matches(&listed).count(), 1, "{ran}");
    ran.says("error: prune: 1 object(s) could not be pruned\n  delete blob: ");

    cluster.sandbox.faults().clear();
    cluster.prune(&[KEEP_ONE]).exits(0);
    assert_eq!(cluster.images(), digests(&["a", "c", "e"]));
    assert!(!cluster.has_blob(&digest("b1")));
}

#[test]
fn failures_with_the_same_cause_are_told_together() {
    let cluster = Cluster::of(shop());
    for name in ["b1", "d1", "f1"] {
        fault(&cluster, Method::DELETE, &blob(name), broken());
    }
    let ran = cluster.prune(&[KEEP_ONE]).exits(3).says("error: prune: 3 object(s) could not be pruned\n");
    assert_eq!(ran.stderr.matches("\n  delete blob: ").count(), 1, "{ran}");
    assert_eq!(cluster.images(), digests(&["a", "b", "c", "d", "e", "f"]), "{ran}");
}

#[test]
fn an_image_that_may_not_be_deleted_stops_no_other() {
    let cluster = Cluster::of(shop());
    let forbidden = Answer::kubernetes(StatusCode::FORBIDDEN, "Forbidden", "images is forbidden: no");
    fault(&cluster, Method::DELETE, &image_object("o"), Action::Answer(forbidden));
    let ran = cluster.prune(&[KEEP_ONE, "-ojson"]).exits(3);
    assert_eq!(failures(&ran), [("delete image".to_owned(), digest("o"))]);
    assert_eq!(cluster.images(), digests(&["a", "c", "e", "o"]));
}

#[test]
fn a_blob_stays_as_long_as_an_image_that_could_not_be_deleted_names_it() {
    let cluster = Cluster::of(shop());
    let plan = cluster.dry_run(&[KEEP_ONE, "-ojson"]).exits(0).json();
    let images = plan["images"].as_array().unwrap().iter();
    let mut with_shared = images.filter(|image| {
        let blobs = image["blobs"].as_array().into_iter().flatten();
        blobs.into_iter().any(|blob| blob["digest"] == digest("bd"))
    });
    // The shared blob stands with the last image that names it: the other one fails.
    let last = with_shared.next().unwrap()["name"].as_str().unwrap().to_owned();
    let (first, last_name) = if last == digest("b") { ("d", "b") } else { ("b", "d") };
    let forbidden = Answer::kubernetes(StatusCode::FORBIDDEN, "Forbidden", "images is forbidden: no");
    fault(&cluster, Method::DELETE, &image_object(first), Action::Answer(forbidden));
    let ran = cluster.prune(&[KEEP_ONE, "-ojson"]).exits(3);
    assert!(cluster.has_blob(&digest("bd")), "{ran}");
    assert!(spared(&ran).contains(&(digest("bd"), "failedRemoval".to_owned())), "{ran}");
    assert!(
        cluster.images().contains(&digest(first)) && !cluster.images().contains(&digest(last_name)),
        "{ran}"
    );
}

#[test]
fn what_protected_and_cannot_be_read_any_longer_protects() {
    let mut objects = shop();
    let container = json!({ "name": "app", "image": format!("{HOST}/other/gone@{}", digest("b")) });
    objects.push(json!({
        "apiVersion": "apps.openshift.io/v1",
        "kind": "DeploymentConfig",
        "metadata": { "name": "old", "namespace": "shop", "creationTimestamp": hours_ago(100) },
        "spec": { "template": { "spec": { "containers": [container] } } },
    }));
    let cluster = Cluster::of(objects);
    // Its item goes, and the image stays for this object alone.
    let gone = Answer::new(StatusCode::NOT_FOUND).body("404 page not found\n");
    // Before the first change, and before the images.
    for (requests, code) in [(1, 1), (3, 3)] {
        let gone = Fault::new(Action::Answer(gone.clone())).path("/deploymentconfigs?").skip(requests);
        let fault = cluster.sandbox.faults().add(gone);
        cluster
            .prune(&[KEEP_ONE])
            .exits(code)
            .says("list deploymentconfigs.apps.openshift.io: the server does not serve");
        assert_eq!(cluster.changes().is_empty(), code == 1);
        cluster.sandbox.faults().remove(fault);
    }
    assert!(cluster.images().contains(&digest("b")) && cluster.has_blob(&digest("b1")));
    cluster.sandbox.faults().clear();
    cluster.prune(&[KEEP_ONE]).exits(0);
    assert!(cluster.images().contains(&digest("b")) && cluster.has_blob(&digest("b1")));
}

#[test]
fn an_image_that_was_pushed_again_stays() {
    let cluster = Cluster::of(shop());
    let push_again = cluster.sandbox.hook(|store| {
        store.delete("images", "", &digest("o"));
        store.create("images", image("o", &["base", "o1"]));
    });
    once(&cluster, Method::DELETE, &image_object("o"), push_again);
    let ran = cluster.prune(&[KEEP_ONE, "-ojson"]);
    assert!(cluster.images().contains(&digest("o")), "{ran}");
    let request = cluster.sandbox.request_log().filter(|entry| entry.path.ends_with(&digest("o")));
    let deletion = request.iter().find(|entry| entry.server == Server::Api).unwrap();
    assert_eq!(deletion.status, Some(StatusCode::CONFLICT));
    assert!(deletion.json()["preconditions"]["uid"].is_string());
    ran.exits(3);
}

#[test]
fn what_is_gone_already_counts_as_deleted() {
    let cluster = Cluster::of(shop());
    let storage = cluster.registry.storage();
    let parsed = |name: &str| Digest::parse(&digest(name)).unwrap();
    storage.unlink(Link::Layer, "shop/web", &parsed("b1")).unwrap();
    storage.unlink(Link::Manifest, "shop/web", &parsed("b")).unwrap();
    storage.delete_blob(&parsed("d1")).unwrap();
    // What a replica says that has the blob in its cache, but no link.
    let path =
        format!("/docker/registry/v2/repositories/shop/web/_layers/sha256/{}/link", parsed("d1").hex());
    let detail = json!({ "DriverName": "filesystem", "Path": path });
    let stale = json!({ "errors": [{ "code": "UNKNOWN", "message": "unknown error", "detail": detail }] });
    let stale = Answer::new(StatusCode::INTERNAL_SERVER_ERROR)
        .header("content-type", "application/json")
        .body(stale.to_string());
    fault(&cluster, Method::DELETE, &format!("/v2/shop/web/blobs/{}", digest("d1")), Action::Answer(stale));
    let gone = cluster.sandbox.hook(|store| {
        store.delete("images", "", &digest("o"));
    });
    once(&cluster, Method::DELETE, &image_object("o"), gone);
    let ran = cluster.prune(&[KEEP_ONE, "-ojson"]).exits(0);
    assert_eq!(failures(&ran), []);
    assert_eq!(cluster.images(), digests(&["a", "c", "e"]));
}

#[test]
fn what_passes_is_tried_again() {
    let busy = || Action::Answer(Answer::too_many_requests(1));
    let cluster = Cluster::of(shop());
    for (method, path, action) in [
        (Method::PUT, WEB_STATUS.to_owned(), unavailable()),
        (Method::GET, "/namespaces/shop/imagestreams/api$".to_owned(), Action::ResetBefore),
        (Method::DELETE, blob("b1"), unavailable()),
        (Method::DELETE, blob("d1"), Action::ResetBefore),
        (Method::DELETE, blob("f1"), Action::ResetAfter),
        (Method::DELETE, blob("o1"), busy()),
        (Method::DELETE, "/v2/shop/web/manifests/".to_owned(), unavailable()),
        (Method::DELETE, "/v2/shop/web/blobs/".to_owned(), Action::ResetAfter),
        (Method::DELETE, image_object("b"), unavailable()),
        (Method::DELETE, image_object("d"), Action::ResetAfter),
        (Method::DELETE, image_object("f"), busy()),
    ] {
        once(&cluster, method, &path, action);
    }
    let ran = cluster.prune(&[KEEP_ONE]).exits(0);
    assert_eq!(cluster.images(), digests(&["a", "c", "e"]), "{ran}");
}

#[test]
fn without_the_registry_nothing_is_sent_to_one() {
    let cluster = Cluster::of(shop());
    let ran = cluster.prune(&[KEEP_ONE, "--prune-registry=false"]).exits(0);
    ran.prints("Only API objects will be removed.  No modifications to the image registry will be made.\n");
    let sent = cluster.sandbox.request_log().filter(|entry| entry.server != Server::Api);
    assert_eq!(sent.len(), 0, "{sent:?}");
    assert_eq!(cluster.images(), digests(&["a", "c", "e"]));
}

#[test]
fn a_namespace_limits_the_streams_and_keeps_all_images() {
    let mut objects = shop();
    objects.push(stream("other", "app", &["a", "f"]));
    let cluster = Cluster::of(objects);
    let before = cluster.images();
    cluster.prune(&[KEEP_ONE, "--namespace=other"]).exits(0);
    let changes = cluster.changes();
    assert_eq!(changes.statuses.into_keys().collect::<Vec<_>>(), ["other/app"]);
    assert!(changes.images.is_empty() && changes.blobs.is_empty());
    assert!(changes.layer_links.keys().all(|link| link.starts_with("other/app@")));
    assert_eq!(cluster.images(), before);
}

#[test]
fn what_is_in_use_by_now_stays() {
    let cluster = Cluster::of(shop());
    let tag = cluster.sandbox.hook(|store| {
        if store.get("imagestreams", "shop", "late").is_none() {
            store.create("imagestreams", stream("shop", "late", &["o"]));
        }
    });
    once(&cluster, Method::PUT, WEB_STATUS, tag);
    let ran = cluster.prune(&[KEEP_ONE, "-ojson"]).exits(0);
    assert_eq!(cluster.images(), digests(&["a", "c", "e", "o"]));
    for name in ["o", "o1", "config of o"] {
        assert!(cluster.has_blob(&digest(name)), "{name}");
    }
    assert_eq!(spared(&ran), [(digest("o"), "referencedNewly".to_owned())].into());
}

#[test]
fn what_a_new_pod_runs_stays() {
    let cluster = Cluster::of(shop());
    let start = cluster.sandbox.hook(|store| {
        if store.get("pods", "shop", "new").is_none() {
            store.create("pods", pod("shop", "new", &format!("{HOST}/shop/web@{}", digest("o"))));
        }
    });
    once(&cluster, Method::PUT, WEB_STATUS, start);
    let ran = cluster.prune(&[KEEP_ONE, "-ojson"]).exits(0);
    assert!(cluster.images().contains(&digest("o")), "{ran}");
    for name in ["o", "o1", "config of o"] {
        assert!(cluster.has_blob(&digest(name)), "{name}");
    }
    assert_eq!(spared(&ran), [(digest("o"), "referencedNewly".to_owned())].into());
}

#[test]
fn an_index_that_appears_brings_its_submanifests() {
    let cluster = Cluster::of(shop());
    let push = cluster.sandbox.hook(|store| {
        if store.get("imagestreams", "shop", "late").is_none() {
            let mut index = image("late index", &[]);
            index["dockerImageManifestMediaType"] = "application/vnd.oci.image.index.v1+json".into();
            index["dockerImageManifests"] = json!([{ "digest": digest("late arm"), "mediaType":
                "application/vnd.oci.image.manifest.v1+json", "manifestSize": 500, "architecture": "arm64", "os": "linux" }]);
            store.create("images", index);
            // It shares the only layer of the orphan that goes.
            store.create("images", image("late arm", &["o1"]));
            store.create("imagestreams", stream("shop", "late", &["late index"]));
        }
    });
    once(&cluster, Method::PUT, WEB_STATUS, push);
    let ran = cluster.prune(&[KEEP_ONE]).exits(0);
    assert!(cluster.has_blob(&digest("o1")), "{ran}");
    assert!(!cluster.images().contains(&digest("o")), "{ran}");
}

#[test]
fn images_that_share_a_config_of_which_one_does_not_know_do_not_wait_for_each_other() {
    let mut objects = shop();
    for pair in 0..4 {
        let (layer, config) = (format!("layer {pair}"), digest(&format!("config {pair}")));
        for (name, media_type) in
            [("knows", "application/vnd.docker.distribution.manifest.v2+json"), ("not", "")]
        {
            let mut shares = image(&format!("{name} {pair}"), &[&layer]);
            shares["dockerImageMetadata"]["Id"] = config.clone().into();
            shares["dockerImageManifestMediaType"] = media_type.into();
            objects.push(shares);
        }
    }
    for workers in ["--num-workers=1", "--num-workers=8"] {
        let cluster = Cluster::of(objects.clone());
        let ran = cluster.prune(&[KEEP_ONE, workers]).exits(0);
        assert_eq!(cluster.images(), digests(&["a", "c", "e"]), "{ran}");
        for pair in 0..4 {
            assert!(!cluster.has_blob(&digest(&format!("config {pair}"))), "{ran}");
            assert!(!cluster.has_blob(&digest(&format!("layer {pair}"))), "{ran}");
        }
    }
}

#[test]
fn a_registry_that_refuses_the_token_stops_the_run() {
    let cluster = Cluster::of(shop());
    let refuse = Fault::new(Action::Answer(Answer::new(StatusCode::UNAUTHORIZED)));
    cluster.sandbox.faults().add(refuse.method(Method::DELETE).path("/v2/"));
    let ran = cluster.prune(&[KEEP_ONE, "--num-workers=1"]).exits(3);
    assert!(cluster.changes().images.is_empty(), "{ran}");
    assert_eq!(cluster.changes().statuses.len(), 1, "{ran}");
    ran.says("hint: run the same command again, from here: what is left is tried again, also the links");
}

/// Holds requests until the test lets them go.
struct Gate {
    arrived: Receiver<()>,
    open: Sender<()>,
}

fn gate(cluster: &Cluster, method: Method, path: &str) -> Gate {
    let (arrive, arrived) = channel();
    let (open, opened) = channel::<()>();
    let opened = Mutex::new(opened);
    let hook = Action::hook(move || {
        let _ = arrive.send(());
        // An error means that the gate is gone: open for good.
        let _ = opened.lock().unwrap().recv();
    });
    once(cluster, method, path, hook);
    Gate { arrived, open }
}

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_signal_ends_the_run_after_what_is_in_flight() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let cluster = Cluster::of(shop());
        let Gate { arrived, open } = gate(&cluster, Method::DELETE, ADMIN_BLOBS);
        let running = cluster.confirmed(&[KEEP_ONE, "--num-workers=1", "-ojson"]).start();
        arrived.recv_timeout(PATIENCE).unwrap();
        running.signal(signal);
        running.wait_until_it_says("ending: what was begun is being finished");
        open.send(()).unwrap();
        let ran = running.wait().exits(code).says(&format!("ended early by SIG{signal}"));
        let document = ran.json();
        assert_eq!(document["result"]["interrupted"], format!("SIG{signal}"));
        let changes = cluster.changes();
        assert_eq!(document["result"]["deleted"]["images"], changes.images.len(), "{ran}");
        assert_eq!(document["result"]["deleted"]["blobs"], changes.blobs.len(), "{ran}");
        assert_eq!(changes.images.len(), 1, "only the image that was begun goes\n{ran}");
    }
}

/// Counts how many deletions are on their way at once, each of which takes a while; the most, and how many there were.
fn count(cluster: &Cluster, path: &str) -> impl Fn() -> (usize, usize) {
    let counts = Arc::new(Mutex::new((0_usize, 0_usize, 0_usize)));
    let counting = Arc::clone(&counts);
    let hook = Action::hook(move || {
        {
            let (now, most, all) = &mut *counting.lock().unwrap();
            *now += 1;
            *most = (*most).max(*now);
            *all += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
        counting.lock().unwrap().0 -= 1;
    });
    fault(cluster, Method::DELETE, path, hook);
    move || {
        let (_, most, all) = *counts.lock().unwrap();
        (most, all)
    }
}

/// So many images that nothing uses, each with layers of its own.
fn orphans(number: usize) -> Vec<Value> {
    let each = (0..number).map(|number| {
        let layers = [format!("layer {number}"), format!("other layer {number}")];
        image(&format!("orphan {number}"), &[&layers[0], &layers[1]])
    });
    each.collect()
}

#[test]
fn no_more_requests_are_on_their_way_than_the_user_says() {
    let cluster = Cluster::of(orphans(10));
    let counted = count(&cluster, "");
    cluster.prune(&[KEEP_ONE, "--num-workers=3"]).exits(0);
    assert_eq!(counted(), (3, 50));
    assert!(cluster.images().is_empty());
}

#[test]
fn without_a_number_more_requests_are_on_their_way_as_long_as_the_servers_keep_up() {
    let cluster = Cluster::of(orphans(60));
    let counted = count(&cluster, ADMIN_BLOBS);
    cluster.prune(&[KEEP_ONE]).exits(0);
    let (most, all) = counted();
    assert!(most > 5, "{most}");
    assert_eq!(all, 240);
}

#[test]
fn a_server_that_wants_to_be_left_alone_is_and_the_other_one_is_not() {
    let cluster = Cluster::of(orphans(10));
    let busy = Action::Answer(Answer::too_many_requests(1));
    let id = cluster.sandbox.faults().add(Fault::new(busy).path(ADMIN_BLOBS).skip(5).times(1));
    let ran = cluster.prune(&[KEEP_ONE, "--num-workers=1"]).exits(0);
    assert_eq!(cluster.sandbox.faults().hits(id), 1, "{ran}");
    let asked = cluster.sandbox.request_log().filter(|entry| entry.method == Method::DELETE);
    let refused = asked.iter().position(|entry| entry.status == Some(StatusCode::TOO_MANY_REQUESTS)).unwrap();
    let blobs = |entry: &&sandbox::log::Entry| entry.path.starts_with("/admin/blobs/");
    let next = asked[refused + 1..].iter().find(blobs).unwrap();
    assert!(next.at.duration_since(asked[refused].at) >= Duration::from_secs(1), "{ran}");
    assert!(cluster.images().is_empty());
}

#[test]
fn an_image_that_waits_for_another_keeps_nobody_waiting() {
    let mut objects = orphans(3);
    for name in ["first", "second", "third"] {
        objects.push(image(name, &["shared"]));
    }
    let cluster = Cluster::of(objects);
    let slow = image_object("first");
    let Gate { arrived, open } = gate(&cluster, Method::DELETE, &slow);
    let running = cluster.confirmed(&[KEEP_ONE, "--num-workers=2"]).start();
    arrived.recv_timeout(PATIENCE).unwrap();
    // One that names the shared layer has to wait, and does so without a turn.
    let begun = std::time::Instant::now();
    while cluster.images().len() > 2 && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(cluster.images().len(), 2);
    assert!(cluster.has_blob(&digest("shared")));
    open.send(()).unwrap();
    running.wait().exits(0);
    assert!(cluster.images().is_empty() && !cluster.has_blob(&digest("shared")));
}

#[test]
fn a_stream_that_is_tried_again_keeps_nobody_waiting() {
    let cluster = Cluster::of(shop());
    let conflict = || Action::Answer(Answer::kubernetes(StatusCode::CONFLICT, "Conflict", "it changed"));
    let web = cluster.sandbox.faults().add(Fault::new(conflict()).path(WEB_STATUS).times(3));
    let ran = cluster.prune(&[KEEP_ONE, "--num-workers=1"]).exits(0);
    assert_eq!(cluster.sandbox.faults().hits(web), 3);
    let updates = cluster.sandbox.request_log().filter(|entry| entry.method == Method::PUT);
    let of_api = updates.iter().position(|entry| entry.path.contains("/imagestreams/api/")).unwrap();
    assert!(of_api + 1 < updates.len(), "the other one was made before the last try\n{ran}");
}

#[test]
fn what_frees_most_goes_first() {
    let mut objects = orphans(4);
    for (object, sizes) in objects.iter_mut().zip([[10, 20], [5000, 1], [7, 700], [300, 300]]) {
        for (layer, size) in object["dockerImageLayers"].as_array_mut().unwrap().iter_mut().zip(sizes) {
            layer["size"] = size.into();
        }
        object["dockerImageMetadata"]["Size"] = 1.into();
    }
    let cluster = Cluster::of(objects);
    cluster.prune(&[KEEP_ONE, "--num-workers=1"]).exits(0);
    let asked = cluster.sandbox.request_log().filter(|entry| entry.method == Method::DELETE);
    let places = |names: &[&str]| -> Vec<usize> {
        let at = |name: &&str| asked.iter().position(|entry| entry.path.ends_with(&digest(name))).unwrap();
        names.iter().map(at).collect()
    };
    let begun = places(&["layer 1", "other layer 2", "layer 3", "other layer 0"]);
    assert!(begun.is_sorted(), "{begun:?}");
    let of_one = places(&["other layer 2", "layer 2", "orphan 2"]);
    assert!(of_one.is_sorted(), "{of_one:?}");
}

#[test]
fn a_signal_prints_the_summary_of_what_was_done() {
    let cluster = Cluster::of(shop());
    let Gate { arrived, open } = gate(&cluster, Method::PUT, "/status?");
    let running = cluster.confirmed(&[KEEP_ONE, "--num-workers=1"]).start();
    arrived.recv_timeout(PATIENCE).unwrap();
    running.signal("INT");
    running.wait_until_it_says("ending: what was begun is being finished");
    open.send(()).unwrap();
    let ran = running.wait().exits(130).says("hint: run the same command again");
    assert_eq!(cluster.changes().statuses.len(), 1, "{ran}");
    assert!(cluster.changes().images.is_empty(), "{ran}");
    ran.prints("updated 1 image stream(s)");
}

#[test]
fn a_time_limit_ends_the_run_after_what_is_in_flight() {
    // A machine under load may need longer than the first limit to get there.
    for limit in [3, 60] {
        let cluster = Cluster::of(shop());
        let Gate { arrived, open } = gate(&cluster, Method::DELETE, ADMIN_BLOBS);
        let timeout = format!("--timeout={limit}s");
        let running = cluster.confirmed(&[KEEP_ONE, "--num-workers=1", "-ojson", &timeout]).start();
        if arrived.recv_timeout(Duration::from_secs(limit + 1)).is_err() {
            running.wait();
            continue;
        }
        running.wait_until_it_says("ending: the time is over");
        open.send(()).unwrap();
        let ran = running
            .wait()
            .exits(124)
            .says(&format!("error: the run was ended early by {timeout}: what was begun is finished"))
            .says("\n  left: 3 image object(s), ")
            .says("\nhint: run the same command again")
            // The cache step comes nevertheless; this cluster knows of no registry whose caches could forget.
            .says("warning: the registry's caches may still name the deleted blobs");
        let document = ran.json();
        assert_eq!(document["result"]["interrupted"], "timeout");
        assert_eq!(document["result"]["left"]["images"], 3, "{ran}");
        assert_eq!(cluster.changes().images.len(), 1, "only the image that was begun goes\n{ran}");

        cluster.prune(&[KEEP_ONE]).exits(0);
        assert_eq!(cluster.images(), digests(&["a", "c", "e"]));
        return;
    }
    panic!("not even the longer limit was long enough");
}

#[test]
fn a_time_limit_that_is_over_before_the_first_change_changes_nothing() {
    let cluster = Cluster::of(shop());
    let Gate { arrived: _arrived, open } = gate(&cluster, Method::GET, "/pods?");
    let ran = cluster.prune(&[KEEP_ONE, "--timeout=300ms"]).exits(124);
    ran.says("error: prune: ended by --timeout=300ms - no changes made\n");
    drop(open);
    assert!(cluster.changes().is_empty());
}

#[test]
fn changes_are_noted_under_the_name_of_the_field_manager() {
    for (flag, query) in [
        (None, "fieldManager=oc-prune-images"),
        (Some("--field-manager=nightly prune"), "fieldManager=nightly+prune"),
    ] {
        let cluster = Cluster::of(shop());
        let args: Vec<&str> = flag.into_iter().chain([KEEP_ONE]).collect();
        cluster.prune(&args).exits(0);
        let updates = cluster.sandbox.request_log().filter(|entry| entry.method == Method::PUT);
        assert_eq!(updates.len(), 2);
        assert!(updates.iter().all(|entry| entry.query == query), "{updates:#?}");
    }
}

#[test]
fn a_second_signal_aborts() {
    let cluster = Cluster::of(shop());
    let Gate { arrived, open } = gate(&cluster, Method::DELETE, ADMIN_BLOBS);
    let running = cluster.confirmed(&[KEEP_ONE]).start();
    arrived.recv_timeout(PATIENCE).unwrap();
    running.signal("INT");
    running.wait_until_it_says("ending: what was begun is being finished");
    running.signal("INT");
    running.wait().exits(130);
    drop(open);
}

#[test]
fn a_signal_before_the_first_change_ends_the_run_at_once() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let cluster = Cluster::of(shop());
        let Gate { arrived, open } = gate(&cluster, Method::GET, "/pods?");
        let running = cluster.confirmed(&[KEEP_ONE]).start();
        arrived.recv_timeout(PATIENCE).unwrap();
        running.signal(signal);
        running.wait().exits(code).says(&format!("error: prune: ended by SIG{signal} - no changes made\n"));
        drop(open);
        assert!(cluster.changes().is_empty());
    }
}

#[test]
fn a_token_file_that_is_rotated_meanwhile_is_read_again() {
    let cluster = Cluster::of(shop());
    let path = cluster.directory().join("token");
    let old = cluster.sandbox.token("pruner");
    std::fs::write(&path, format!("{old}\n")).unwrap();
    let (access, rotated) = (cluster.sandbox.access().clone(), path.clone());
    let rotate = Action::hook(move || {
        access.add_token("pruner", "sha256~new");
        access.revoke_token(&old);
        std::fs::write(&rotated, "sha256~new\n").unwrap();
    });
    once(&cluster, Method::PUT, "/status?", rotate);
    let plugin = cluster.plugin_with(&format!("tokenFile: {}", path.display()));
    let ran = plugin.args(["--confirm", KEEP_ONE]).run().exits(0);
    assert_eq!(cluster.images(), digests(&["a", "c", "e"]), "{ran}");
}

#[test]
fn a_login_program_logs_in_to_the_api_server_and_the_registry_once() {
    let cluster = Cluster::of(shop());
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": { "token": cluster.sandbox.token("pruner") },
    });
    let (program, runs) = (cluster.directory().join("login"), cluster.directory().join("runs"));
    let script = format!("#!/bin/sh\necho run >> {}\necho '{credential}'\n", runs.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let exec = format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1, command: {}, interactiveMode: Never}}",
        program.display()
    );
    cluster.plugin_with(&exec).args(["--confirm", KEEP_ONE]).run().exits(0);
    assert_eq!(cluster.images(), digests(&["a", "c", "e"]));
    assert_eq!(std::fs::read_to_string(runs).unwrap(), "run\n");
}

#[test]
fn the_link_of_a_submanifest_whose_index_stays_is_no_failure() {
    let mut index = image("i", &[]);
    index["dockerImageManifestMediaType"] =
        "application/vnd.docker.distribution.manifest.list.v2+json".into();
    index["dockerImageManifests"] = json!([{ "digest": digest("s"), "mediaType":
        "application/vnd.docker.distribution.manifest.v2+json", "manifestSize": 500, "architecture": "amd64", "os": "linux" }]);
    index["dockerImageMetadata"]["Id"] = "".into();
    let objects = vec![index, image("s", &["s1"]), stream("shop", "multi", &["i", "s"])];
    let cluster = Cluster::of(objects);
    let ran = cluster.prune(&[KEEP_ONE]).exits(0);
    assert_eq!(cluster.images(), digests(&["i", "s"]), "{ran}");
}
