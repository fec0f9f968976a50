//! Reading the cluster: pages, answers that go wrong, rights and groups that are missing, absurd objects.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;

use common::objects::{HOST, KEEP_ONE, digest, image, item, shop, stream};
use common::{Cluster, Ran};
use http::{HeaderMap, Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use sandbox::Config;
use sandbox::fault::{Action, Answer, Fault};
use sandbox::generate::Generator;
use sandbox::registry::RegistryConfig;
use serde_json::{Value, json};

/// More images than two pages hold.
fn large() -> Cluster {
    let cluster = Cluster::start();
    cluster.sandbox.generate(&Generator { images: 1200, streams: 10, referrers: 50, ..Generator::default() });
    cluster
}

/// What a plan decides, without the times.
fn decisions(ran: &Ran) -> Value {
    let mut document = ran.json();
    document["metadata"].take();
    document["warnings"].take();
    document
}

/// The queries of the requests for a list, in order.
fn queries(cluster: &Cluster, list: &str) -> Vec<String> {
    let requests = cluster.sandbox.request_log().filter(|entry| entry.path.ends_with(list));
    requests.into_iter().map(|entry| entry.query).collect()
}

/// The images that go, as JSON says.
fn doomed(ran: &Ran) -> BTreeSet<String> {
    let document = ran.json();
    let images = document["images"].as_array().unwrap().iter().filter(|image| image["decision"] == "delete");
    images.map(|image| image["name"].as_str().unwrap().to_owned()).collect()
}

fn digests(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| digest(name)).collect()
}

#[test]
fn lists_are_read_in_pages() {
    let cluster = large();
    let ran = cluster.dry_run(&["-ojson"]).exits(0);
    assert_eq!(ran.json()["images"].as_array().unwrap().len(), 1200);
    let queries = queries(&cluster, "/images");
    assert_eq!(queries.len(), 3, "{queries:?}");
    assert_eq!(queries[0], "limit=500");
    assert!(queries[1..].iter().all(|query| query.starts_with("limit=500&continue=")), "{queries:?}");
}

#[test]
fn a_server_without_protobuf_is_read_alike() {
    let cluster = Cluster::of(shop());
    let in_protobuf = decisions(&cluster.dry_run(&[KEEP_ONE, "-ojson"]).exits(0));
    cluster.sandbox.api().configure(|settings| settings.protobuf = false);
    assert_eq!(in_protobuf, decisions(&cluster.dry_run(&[KEEP_ONE, "-ojson"]).exits(0)));
}

#[test]
fn an_expired_continue_token_restarts_the_list() {
    let cluster = large();
    let undisturbed = decisions(&cluster.dry_run(&["-ojson"]).exits(0));
    cluster.sandbox.expire_continue_after(1);
    let ran = cluster.dry_run(&["-ojson"]).exits(0);
    assert_eq!(decisions(&ran), undisturbed);
    let queries = queries(&cluster, "/images");
    let (expired, restarted) = (&queries[4], &queries[5]);
    assert!(expired.contains("continue=") && !restarted.contains("continue="), "{queries:?}");
}

#[test]
fn answers_that_pass_are_asked_for_again() {
    let cluster = Cluster::of(shop());
    let undisturbed = decisions(&cluster.dry_run(&[KEEP_ONE, "-ojson"]).exits(0));
    let unavailable = Answer::kubernetes(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "not now");
    for action in [
        Action::Answer(Answer::too_many_requests(1)),
        Action::Answer(unavailable),
        Action::ResetBefore,
        Action::ResetAfter,
        Action::Truncate(700),
        Action::garbage(),
        Action::ReplaceBody("{".into()),
    ] {
        for list in ["/images?", "/imagestreams?", "/pods?", "/daemonsets?"] {
            let id = cluster.sandbox.faults().add(Fault::new(action.clone()).path(list).times(1));
            let ran = cluster.dry_run(&[KEEP_ONE, "-ojson"]).exits(0);
            assert_eq!(decisions(&ran), undisturbed, "{action:?} of {list}\n{ran}");
            assert_eq!(cluster.sandbox.faults().hits(id), 1, "{action:?} of {list}");
            cluster.sandbox.faults().clear();
        }
    }
}

#[test]
fn a_busy_server_s_pause_is_kept() {
    let cluster = Cluster::of(shop());
    let busy = Action::Answer(Answer::too_many_requests(1));
    cluster.sandbox.faults().add(Fault::new(busy).path("/images?").times(1));
    cluster.dry_run(&[]).exits(0);
    let requests = cluster.sandbox.request_log().filter(|entry| entry.path.ends_with("/images"));
    assert!(requests[1].at - requests[0].at >= std::time::Duration::from_secs(1));
}

#[test]
fn a_list_that_stays_unreadable_stops_the_run() {
    for (action, said) in [
        (Action::garbage(), "images.image.openshift.io"),
        (Action::ReplaceBody(r#"{"kind":"ImageList","items":5}"#.into()), "images.image.openshift.io"),
        (Action::ReplaceBody("<html>Log in</html>".into()), "images.image.openshift.io"),
    ] {
        let cluster = Cluster::of(shop());
        cluster.sandbox.faults().add(Fault::new(action).path("/images?"));
        cluster.prune(&[]).exits(1).says(said).says("error: ");
        assert!(cluster.changes().is_empty());
    }
}

#[test]
fn a_list_that_hangs_ends() {
    let cluster = Cluster::of(shop());
    cluster.sandbox.faults().add(Fault::new(Action::Hang).path("/deployments?"));
    cluster.prune(&["--request-timeout=1s"]).exits(1).says("deployments.apps").says("--request-timeout=5m");
    assert!(cluster.changes().is_empty());
}

#[test]
fn only_the_groups_of_deployment_configs_and_builds_may_be_missing() {
    for (group, code) in [
        ("apps.openshift.io", 0),
        ("build.openshift.io", 0),
        ("image.openshift.io", 1),
        ("apps", 1),
        ("batch", 1),
    ] {
        let cluster = Cluster::with(Config::default().without_group(group), RegistryConfig::default());
        cluster.sandbox.load_objects(shop().into());
        let ran = cluster.prune(&[KEEP_ONE]).exits(code);
        assert_eq!(cluster.changes().is_empty(), code == 1, "{group}\n{ran}");
        if code == 1 {
            ran.says(&format!(".{group}: the server does not serve this API"));
        }
    }
}

#[test]
fn every_list_that_may_not_be_read_stops_the_run() {
    let cluster = Cluster::of(shop());
    for (group, resource) in [
        ("", "pods"),
        ("", "replicationcontrollers"),
        ("", "limitranges"),
        ("apps", "daemonsets"),
        ("apps", "deployments"),
        ("apps", "replicasets"),
        ("apps", "statefulsets"),
        ("batch", "jobs"),
        ("batch", "cronjobs"),
        ("apps.openshift.io", "deploymentconfigs"),
        ("build.openshift.io", "builds"),
        ("build.openshift.io", "buildconfigs"),
        ("image.openshift.io", "imagestreams"),
        ("image.openshift.io", "images"),
    ] {
        cluster.sandbox.access().add_user("limited", "limited", sandbox::api::image_pruner());
        cluster.sandbox.access().deny("limited", "list", group, resource);
        let url = format!("--registry-url={}", cluster.registry_url());
        let ran = cluster.plugin("limited").args(["--confirm", KEEP_ONE, &url]).run().exits(1);
        ran.says(&format!(r#"User "limited" cannot list resource "{resource}" in API group "{group}""#))
            .says("hint: oc adm policy add-cluster-role-to-user system:image-pruner limited\n");
    }
    assert!(cluster.changes().is_empty());
}

/// Lets the list of images hold these instead of what the cluster has.
fn with_images(images: &[Value]) -> Cluster {
    let cluster = Cluster::of(vec![image("a", &["base"]), stream("shop", "web", &["a"])]);
    let list = json!({
        "kind": "ImageList",
        "apiVersion": "image.openshift.io/v1",
        "metadata": { "resourceVersion": "2000" },
        "items": images,
    });
    cluster.sandbox.faults().add(Fault::new(Action::ReplaceBody(list.to_string().into())).path("/images?"));
    cluster
}

/// An orphan, changed.
fn orphan(change: impl FnOnce(&mut Value)) -> Value {
    let mut object = image("o", &["o1"]);
    change(&mut object);
    object
}

#[test]
fn absurd_images_have_defined_outcomes() {
    let huge = "x".repeat(10 << 20);
    for (name, object) in [
        ("a negative size", orphan(|image| image["dockerImageLayers"][0]["size"] = (-5).into())),
        ("a 10 MB manifest", orphan(|image| image["dockerImageManifest"] = huge.clone().into())),
        ("null layers", orphan(|image| image["dockerImageLayers"] = Value::Null)),
    ] {
        let cluster = with_images(&[image("a", &["base"]), object]);
        let ran = cluster.dry_run(&["-ojson"]).exits(0);
        assert_eq!(doomed(&ran), digests(&["o"]), "{name}\n{ran}");
    }
}

#[test]
fn an_image_without_a_name_stops_the_run() {
    let nameless = orphan(|image| image["metadata"]["name"] = Value::Null);
    let cluster = with_images(&[image("a", &["base"]), nameless]);
    cluster
        .prune(&[])
        .exits(1)
        .says("error: list images.image.openshift.io: malformed answer: object 1 of the page has no name\n");
    assert!(cluster.changes().is_empty());
}

#[test]
fn layers_that_are_no_digests_are_never_sent() {
    let cluster = with_images(&[
        image("a", &["base"]),
        orphan(|image| {
            image["dockerImageLayers"][0]["name"] = "4a8dba85".into();
            image["dockerImageLayers"]
                .as_array_mut()
                .unwrap()
                .push(json!({ "name": "../../../etc", "size": 1 }));
        }),
    ]);
    cluster.prune(&[]).exits(0);
    let sent = cluster.changes().blobs;
    let expected = [digest("o"), digest("config of o")];
    assert_eq!(sent.keys().collect::<BTreeSet<_>>(), expected.iter().collect());
}

#[test]
fn metadata_that_cannot_be_decoded_stops_the_run() {
    for broken in [json!("geheim"), json!({ "Id": 7 }), json!({ "Size": "big" }), json!([1])] {
        let cluster = with_images(&[
            image("a", &["base"]),
            orphan(|image| image["dockerImageMetadata"] = broken.clone()),
        ]);
        let ran = cluster.prune(&[]).exits(1);
        ran.says("no changes made").says(&digest("o"));
        assert!(cluster.changes().is_empty(), "{broken}");
    }
}

#[test]
fn absent_metadata_protects_streams_and_images() {
    let without = |name: &str| {
        let mut object = image(name, &["base"]);
        object["dockerImageMetadata"].take();
        object
    };
    let mut objects = shop();
    objects.push(without("bare"));
    objects.push(stream("shop", "bare", &["e", "bare"]));
    let cluster = Cluster::of(objects);
    let ran = cluster.prune(&[KEEP_ONE, "-ojson"]).exits(0);
    assert_eq!(ran.json()["stage2"], "skippedForMetadata");
    let changes = cluster.changes();
    assert!(changes.blobs.is_empty() && changes.images.is_empty(), "{ran}");
    assert_eq!(changes.statuses.into_keys().collect::<Vec<_>>(), ["shop/api", "shop/web"]);
    ran.says("warning: image stream shop/bare stays as it is").says("warning: no image is deleted");
}

#[test]
fn names_do_not_steer_the_terminal() {
    let nasty = "web\u{1b}]0;title\u{7}\u{1b}[2J\nerror: forged";
    let mut object = stream("shop", nasty, &["a", "b"]);
    object["status"]["tags"][0]["tag"] = nasty.into();
    let list = json!({ "kind": "ImageStreamList", "apiVersion": "image.openshift.io/v1", "metadata": {}, "items": [object] });
    let pods = json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [
        common::objects::pod("shop", nasty, &format!("{nasty}:")),
    ] });
    let cluster = Cluster::of(shop());
    let replace = |list: &Value, path| Fault::new(Action::ReplaceBody(list.to_string().into())).path(path);
    cluster.sandbox.faults().add(replace(&list, "/imagestreams?"));
    cluster.sandbox.faults().add(replace(&pods, "/pods?"));
    for args in [
        &[KEEP_ONE][..],
        &[KEEP_ONE, "--ignore-invalid-refs"],
        &[KEEP_ONE, "--ignore-invalid-refs", "-owide"],
        &[KEEP_ONE, "--ignore-invalid-refs", "-oname"],
        &[KEEP_ONE, "--ignore-invalid-refs", "-oyaml"],
        &[KEEP_ONE, "--ignore-invalid-refs", "-ojson", "-v=10"],
    ] {
        let ran = cluster.dry_run(args);
        for text in [&ran.stdout, &ran.stderr] {
            assert!(!text.contains(['\u{1b}', '\u{7}']), "{args:?}");
            assert!(!text.lines().any(|line| line.starts_with("error: forged")), "{args:?}\n{ran}");
        }
    }
}

#[test]
fn the_earlier_of_two_clocks_counts() {
    let mut objects = vec![image("a", &["base"]), image("b", &["base"])];
    let mut web = stream("shop", "web", &["a"]);
    let mut young = item("b", 1);
    // 90 minutes old for the local clock, 30 for a server that is an hour behind.
    young["created"] = sandbox::api::timestamp(Timestamp::now() - SignedDuration::from_mins(90)).into();
    web["status"]["tags"][0]["items"].as_array_mut().unwrap().push(young);
    objects.push(web);
    let cluster = Cluster::of(objects);
    let args = ["--keep-tag-revisions=1", "-ojson"];
    assert_eq!(doomed(&cluster.dry_run(&args).exits(0).does_not_say("clock")), digests(&["b"]));

    for (hours, expected) in [(-1, digests(&[])), (1, digests(&["b"]))] {
        let date = Timestamp::now() + SignedDuration::from_hours(hours);
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date).unwrap();
        let headers = HeaderMap::from_iter([(http::header::DATE, date.parse().unwrap())]);
        cluster.sandbox.faults().clear();
        cluster.sandbox.faults().add(Fault::new(Action::SetHeaders(headers)).method(Method::GET));
        let ran = cluster.dry_run(&args).exits(0).says("warning: the local clock is 3");
        assert_eq!(doomed(&ran), expected, "{ran}");
    }
}

#[test]
fn what_is_marked_is_kept() {
    let keep = json!({ "prune-images/keep": "true" });
    let all = digests(&["b", "d", "f", "o"]);
    for (resource, namespace, name, less) in [
        ("images", "", digest("o"), &["o"][..]),
        ("images", "", digest("b"), &["b"]),
        ("imagestreams", "shop", "web".to_owned(), &["b", "d"]),
        ("namespaces", "", "shop".to_owned(), &["b", "d", "f"]),
    ] {
        for place in ["labels", "annotations"] {
            let cluster = Cluster::of(shop());
            let marked = cluster.sandbox.store().update(resource, namespace, &name, |object| {
                object["metadata"][place]["prune-images/keep"] = keep["prune-images/keep"].clone();
            });
            assert!(marked, "{resource} {name}");
            let ran = cluster.plugin("admin").args([KEEP_ONE, "-ojson"]).run().exits(0);
            let expected: BTreeSet<String> = all.difference(&digests(less)).cloned().collect();
            assert_eq!(doomed(&ran), expected, "{resource} {name} {place}");
        }
    }
}

#[test]
fn namespaces_need_not_be_readable() {
    let cluster = Cluster::of(shop());
    let ran = cluster.dry_run(&[KEEP_ONE, "-ojson"]).exits(0);
    assert_eq!(doomed(&ran), digests(&["b", "d", "f", "o"]));
    let asked = cluster.sandbox.request_log().filter(|entry| entry.path == "/api/v1/namespaces");
    assert!(asked.iter().all(|entry| entry.status == Some(StatusCode::FORBIDDEN)) && !asked.is_empty());
}

#[test]
fn what_named_resources_refer_to_stays() {
    let mut objects = shop();
    objects.push(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "namespace": "shop", "name": "settings" },
        "data": { "image": format!("{HOST}/shop/web@{}", digest("o")) },
    }));
    let cluster = Cluster::of(objects);
    let dry_run = |user: &str, resource: &str| {
        cluster.plugin(user).args([KEEP_ONE, "-ojson", &format!("--referrers-from={resource}")]).run()
    };
    let plan = dry_run("admin", "configmaps").exits(0).json();
    let orphan =
        plan["images"].as_array().unwrap().iter().find(|image| image["name"] == digest("o")).unwrap();
    assert_eq!((&orphan["decision"], &orphan["reason"]), (&json!("keep"), &json!("referencedByDigest")));
    assert_eq!(orphan["referrers"][0]["kind"], "configmaps");
    // Who names a resource counts on it: it is not left out because it cannot be read, or is not there.
    dry_run("pruner", "configmaps").exits(1).says("list configmaps: forbidden");
    dry_run("admin", "builds.v9.build.openshift.io").exits(1).says("list builds.build.openshift.io");
}
