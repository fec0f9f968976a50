//! `explain`, through the real binary: is the first line the answer, and is the answer true?

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::objects::{HOST, KEEP_ONE, digest, hours_ago, image, pod, shop, stream};
use common::{Cluster, Plugin, Ran};
use sandbox::log::Server;
use serde_json::{Value, json};

fn explain(cluster: &Cluster, args: &[&str]) -> Ran {
    let ran =
        Plugin::new().args(["explain", "--kubeconfig"]).arg(cluster.kubeconfig("pruner")).args(args).run();
    // Whatever is asked, nothing is changed, and no registry is asked.
    assert!(cluster.changes().is_empty());
    let entries = cluster.sandbox.request_log().entries();
    assert!(entries.iter().all(|entry| !matches!(entry.server, Server::Registry(_))), "{ran}");
    ran
}

/// The document, which fits its schema.
fn document(cluster: &Cluster, args: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["-ojson"]).collect();
    let ran = explain(cluster, &args);
    let document = ran.json();
    let schema: Value = serde_json::from_str(include_str!("../docs/schema/explanation.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&document).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{document:#}");
    document
}

#[track_caller]
fn first_line(ran: &Ran) -> &str {
    ran.stdout.lines().next().unwrap_or_default()
}

/// A stream that gets a tag of its own with every build, each with a layer of its own size.
fn builds(tags: &[&str]) -> Vec<Value> {
    let mut objects = Vec::new();
    let mut lists = Vec::new();
    for (hours, tag) in (100..).step_by(24).zip(tags) {
        let name = format!("build {tag}");
        objects.push(image(&name, &["base", &name]));
        lists.push(json!({
            "tag": tag,
            "items": [{ "created": hours_ago(hours), "image": digest(&name), "generation": 1 }],
        }));
    }
    let mut of_builds = stream("ci", "builds", &[]);
    of_builds["status"]["tags"] = lists.into();
    objects.push(of_builds);
    objects
}

#[test]
fn the_first_line_is_the_answer() {
    let cluster = Cluster::of(shop());
    for (target, answer) in [
        (
            digest("c"),
            format!(
                "{} stays: shop/web:latest at position 2 out of 4 names it: the image is in use by pod/shop/user \
                 (container app)",
                digest("c")
            ),
        ),
        (
            digest("a"),
            format!(
                "{} stays: shop/web:latest at position 0 out of 4 names it: within --keep-tag-revisions=1",
                digest("a")
            ),
        ),
        (digest("d"), format!("{} goes: nothing uses it", digest("d"))),
        (digest("o"), format!("{} goes: nothing uses it", digest("o"))),
        ("shop/web".into(), "shop/web: 2 of 4 items go, 2 stay".into()),
        ("shop/web:latest".into(), "shop/web:latest: 2 of 4 items go, 2 stay".into()),
        ("shop/api@".to_owned() + &digest("f")[7..20], format!("{} goes: nothing uses it", digest("f"))),
        (
            format!("registry.example.com/shop/api:latest@{}", digest("e")),
            format!(
                "{} stays: shop/api:latest at position 0 out of 2 names it: within --keep-tag-revisions=1",
                digest("e")
            ),
        ),
    ] {
        let ran = explain(&cluster, &[KEEP_ONE, &target]).exits(0);
        assert_eq!(first_line(&ran), answer, "{ran}");
    }
    explain(&cluster, &["-nshop", KEEP_ONE, "web:latest"])
        .exits(0)
        .prints("shop/web:latest: 2 of 4 items go");
}

#[test]
fn everything_that_holds_an_image_is_named_with_what_to_do() {
    let mut objects = shop();
    objects.push(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "namespace": "prod", "name": "front", "creationTimestamp": hours_ago(100) },
        "spec": { "template": { "spec": {
            "initContainers": [{ "name": "setup", "image": format!("{HOST}/shop/web@{}", digest("c")) }],
            "containers": [{ "name": "app", "image": format!("{HOST}/shop/web@{}", digest("c")) }],
        } } },
    }));
    let cluster = Cluster::of(objects);
    let ran = explain(&cluster, &[&digest("c")]).exits(0);
    for line in [
        "    shop/web:latest at position 2 out of 4: stays, within --keep-tag-revisions=3",
        "      also held: the image is in use",
        "        by pod/shop/user (container app)",
        "        by deployment/prod/front (init container setup)",
        "        by deployment/prod/front (container app)",
        "    - --keep-tag-revisions=2 or less, for every tag in the cluster",
        "    - pod/shop/user (container app) uses it: delete it",
        "        oc delete pod user -n shop",
        "        oc set image deployment/front setup=IMAGE app=IMAGE -n prod",
    ] {
        assert!(ran.stdout.lines().any(|told| told == line), "expected: {line}\n{ran}");
    }
    // Its layer `c1` has 1001 bytes, its config the rest of 3000; `base` is in every image.
    ran.prints("If it went, it would free 1.9KiB in 3 blob(s)")
        .prints("1 blob(s) of 1000B stay, because other images share them:");
}

#[test]
fn what_it_asks_for_is_enough() {
    let cluster = Cluster::of(shop());
    let of_image = |name: &str, args: &[&str]| {
        let args: Vec<&str> = args.iter().copied().chain(["-ojson"]).collect();
        let plan = cluster.dry_run(&args).exits(0).json();
        let images = plan["images"].as_array().unwrap().clone();
        images.into_iter().find(|image| image["name"] == digest(name)).unwrap()
    };
    for (name, with_a_way) in [("a", true), ("b", true), ("c", false), ("e", true)] {
        let explained = document(&cluster, &[&digest(name)]);
        let explained = &explained["explanations"][0]["images"][0];
        let planned = of_image(name, &[]);
        assert_eq!(
            (&explained["decision"], &explained["reason"]),
            (&planned["decision"], &planned["reason"])
        );
        let changes = explained["toBePruned"]["allOf"].as_array().unwrap();
        let flags: Vec<&str> = changes.iter().filter_map(|change| change["flag"].as_str()).collect();
        let then = of_image(name, &flags);
        assert_eq!(then["decision"] == "delete", with_a_way, "{explained:#}");
        if with_a_way {
            assert!(then["bytes"].as_u64().unwrap() <= explained["freedBytes"].as_u64().unwrap(), "{then:#}");
        } else {
            assert!(
                changes.iter().any(|change| change["command"] == "oc delete pod user -n shop"),
                "{changes:#?}"
            );
        }
    }
}

#[test]
fn several_targets_are_one_document() {
    let cluster = Cluster::of(shop());
    let all = document(&cluster, &[KEEP_ONE, "shop/web", &digest("o"), "shop/none"]);
    assert_eq!((&all["apiVersion"], &all["kind"]), (&"prune-images/v1alpha1".into(), &"Explanation".into()));
    assert_eq!(all["explanations"][0]["images"].as_array().unwrap().len(), 4);
    assert_eq!(all["explanations"][1]["images"][0]["decision"], "delete");
    assert_eq!(all["notFound"][0]["target"], "shop/none");
    let yaml = explain(&cluster, &[KEEP_ONE, "shop/web", "-oyaml"]).exits(0);
    let yaml: Value = serde_saphyr::from_str(&yaml.stdout).unwrap();
    assert_eq!(yaml["explanations"][0]["images"], all["explanations"][0]["images"]);
}

#[test]
fn what_is_not_found_gets_its_nearest() {
    let cluster = Cluster::of(shop());
    explain(&cluster, &["shop/wbe"])
        .exits(1)
        .says("error: explain shop/wbe: there is no image stream shop/wbe")
        .says("hint: did you mean: oc prune-images explain shop/web");
    explain(&cluster, &["shop/web:lastest"]).exits(1).says("explain shop/web:latest");
    explain(&cluster, &["-nshop", "other/web"])
        .exits(1)
        .says("namespace other is not shop, which --namespace limits");
    // What was found is explained all the same.
    explain(&cluster, &["shop/wbe", "shop/api"]).exits(1).prints("shop/api: 0 of 2 items go, 2 stay");
    // Two of the digests begin with the same digit, which alone is ambiguous.
    let names: Vec<String> = ["a", "b", "c", "d", "e", "f", "o"].map(digest).into();
    let first = |name: &String| name[7..8].to_owned();
    let shared =
        names.iter().find(|name| names.iter().filter(|other| first(other) == first(name)).count() > 1);
    let shared = shared.unwrap();
    let ran = explain(&cluster, &[&format!("sha256:{}", first(shared))]).exits(1);
    let ran = ran.says("images have a digest that begins so");
    for name in names.iter().filter(|name| first(name) == first(shared)) {
        assert!(ran.stderr.contains(name.as_str()), "{name}\n{ran}");
    }
    let layer = digest("bd");
    explain(&cluster, &[&layer])
        .exits(1)
        .says("it is no image but a layer or config of 2 image(s)")
        .says(&digest("b"));
    explain(&cluster, &[]).exits(2).says("a target is needed, or --stuck");
    explain(&cluster, &["--stuck", "shop/web"]).exits(2);
}

#[test]
fn items_without_an_image_are_explained() {
    let mut objects = shop();
    objects.push(stream("shop", "lost", &["a", "gone"]));
    objects.push(pod("shop", "holder", &format!("{HOST}/shop/empty:latest")));
    objects.push(stream("shop", "empty", &["gone too"]));
    let cluster = Cluster::of(objects);
    let ran = explain(&cluster, &[&digest("gone")]).exits(0);
    assert_eq!(
        first_line(&ran),
        format!("{} has no Image object: the items that name it go", digest("gone"))
    );
    ran.prints("shop/lost:latest at position 1 out of 2: goes, its Image object does not exist");
    let ran = explain(&cluster, &[&digest("gone too")]).exits(0);
    assert!(
        first_line(&ran).contains("has no Image object, and shop/empty:latest at position 0 out of 1"),
        "{ran}"
    );
    ran.prints("oc delete pod holder -n shop");
}

#[test]
fn a_reference_that_does_not_parse_stops_no_explanation() {
    let mut objects = shop();
    objects.push(pod("shop", "invalid", &format!("{HOST}/shop/web:")));
    let cluster = Cluster::of(objects);
    cluster.dry_run(&[]).exits(1);
    explain(&cluster, &["shop/web"]).exits(0).prints("shop/web: 1 of 4 items go, 3 stay").says(
        "1 reference(s) do not parse: a prune stops because of them, unless --ignore-invalid-refs is given",
    );
    explain(&cluster, &["shop/web", "--ignore-invalid-refs"]).exits(0).does_not_say("a prune stops");
}

#[test]
fn hostile_names_reach_no_terminal() {
    let evil = "v\u{1b}[31m\nerror: forged\u{202e}";
    let mut objects = shop();
    let mut hostile = stream("shop", "evil", &["a", "e"]);
    hostile["status"]["tags"][0]["tag"] = evil.into();
    objects.push(hostile);
    let mut user = pod("shop", "user2", &format!("{HOST}/shop/web@{}", digest("e")));
    user["spec"]["containers"][0]["name"] = evil.into();
    objects.push(user);
    objects.extend(builds(&["20260101", evil, "20260103", "20260104", "20260105", "x y;`id`"]));
    let cluster = Cluster::of(objects);
    for args in [
        &["shop/evil"][..],
        &[&digest("e")],
        &[&digest("a"), "--keep-tag-revisions=9"],
        &["--stuck"],
        &["shop/nothing\u{1b}[31m\nx"],
        &["shop/evil:\u{1b}[2J"],
    ] {
        let ran = explain(&cluster, args);
        for text in [&ran.stdout, &ran.stderr] {
            assert!(!text.contains(['\u{1b}', '\u{202e}']), "{ran}");
            assert!(text.lines().all(|line| !line.starts_with("error: forged")), "{ran}");
        }
    }
    let ran = explain(&cluster, &["--stuck", "--keep-tag-revisions=1"]).exits(0);
    // Safe to paste: the shell sees one word.
    ran.prints("'builds:x y;`id`'");
    document(&cluster, &["shop/evil", "--keep-tag-revisions=1"]);
}

#[test]
fn tags_that_never_get_a_history_are_stuck() {
    let tags = ["20261120-a", "2026.11.19-153000", "2026-11-18", "nightly", "20261116", "20261115"];
    let mut objects = shop();
    objects.extend(builds(&tags));
    // In use: deleting the tag would break it, so it is not stuck.
    objects.push(pod("ci", "tester", &format!("{HOST}/ci/builds:20261115")));
    let cluster = Cluster::of(objects);
    let ran = explain(&cluster, &["--stuck", "--keep-tag-revisions=2"]).exits(0);
    assert_eq!(
        first_line(&ran),
        "5 image(s) in 1 image stream(s) are stuck: no value of --keep-tag-revisions above 0 can ever prune them"
    );
    let ran = ran.prints("ci/builds: 5 tag(s) with one item, 4 with a date in the name");
    let ran = ran.prints("  oc delete istag -n ci builds:2026-11-18 builds:nightly builds:20261116\n");
    ran.prints("20261120-a  (2026-11-20)").prints("nightly  (no date)");

    let found = document(&cluster, &["--stuck", "--keep-tag-revisions=2"]);
    let found = &found["stuck"]["imageStreams"][0];
    assert_eq!(found["dated"], 4);
    let proposed = found["tags"].as_array().unwrap().iter().filter(|tag| tag["proposed"] == true);
    let proposed: Vec<String> = proposed.map(|tag| tag["tag"].as_str().unwrap().to_owned()).collect();

    // The proposal, carried out, frees what was told.
    let bytes =
        || cluster.dry_run(&["--keep-tag-revisions=2", "-ojson"]).exits(0).json()["summary"]["bytes"].clone();
    let before = bytes().as_u64().unwrap();
    cluster.sandbox.store().update("imagestreams", "ci", "builds", |stream| {
        let tags = stream["status"]["tags"].as_array_mut().unwrap();
        tags.retain(|tag| !proposed.iter().any(|name| tag["tag"] == **name));
    });
    assert_eq!(bytes().as_u64().unwrap() - before, found["freedBytes"].as_u64().unwrap());
    assert!(found["freedBytes"].as_u64().unwrap() > 0);

    // What is left is younger than this.
    explain(&cluster, &["--stuck", "--keep-younger-than=720h"]).exits(0).prints("Nothing is stuck");
    explain(&cluster, &["--stuck", "-nshop"]).exits(0).prints("Nothing is stuck");
}
