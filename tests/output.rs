//! What is printed, in every format, and whether the documents fit their schemas.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use common::Cluster;
use common::objects::{HOST, KEEP_ONE, digest, hours_ago, image, pod, shop};
use http::Method;
use jsonschema::Validator;
use sandbox::fault::{Action, Answer, Fault};
use serde_json::{Value, json};

/// The schema of this name, if it is written.
fn schema(name: &str) -> Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema").join(name);
    let schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

#[track_caller]
fn assert_valid(schema: &Validator, document: &Value) {
    let errors: Vec<String> =
        schema.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// A cluster with a bit of everything that a plan can say.
fn cluster() -> Cluster {
    let mut objects = shop();
    objects.push(pod("shop", "stray", &format!("{HOST}/other/gone@{}", digest("o"))));
    objects.push(pod("shop", "invalid", &format!("{HOST}/shop/web:")));
    Cluster::of(objects)
}

const IGNORE: &str = "--ignore-invalid-refs";

#[test]
fn the_plan_fits_its_schema() {
    let cluster = cluster();
    for args in [
        &[KEEP_ONE, IGNORE, "-ojson"][..],
        &["--prune-over-size-limit", IGNORE, "-ojson"],
        &["-nshop", IGNORE, "-ojson"],
    ] {
        let document = cluster.dry_run(args).exits(0).json();
        assert_eq!(
            (&document["apiVersion"], &document["kind"]),
            (&"prune-images/v1alpha1".into(), &"PrunePlan".into())
        );
        assert_valid(&schema("prune-plan.json"), &document);
    }
}

#[test]
fn the_result_fits_its_schema_with_failures_too() {
    let cluster = cluster();
    let broken = Action::Answer(Answer::new(http::StatusCode::INTERNAL_SERVER_ERROR));
    let path = format!("^/admin/blobs/{}", digest("b1"));
    cluster.sandbox.faults().add(Fault::new(broken).method(Method::DELETE).path(&path));
    let document = cluster.prune(&[KEEP_ONE, IGNORE, "-ojson"]).exits(3).json();
    assert_eq!(document["kind"], "PruneResult");
    assert!(!document["result"]["failures"].as_array().unwrap().is_empty());
    assert_valid(&schema("prune-result.json"), &document);
}

#[test]
fn a_schema_refuses_what_is_no_plan() {
    let cluster = cluster();
    let mut document = cluster.dry_run(&[IGNORE, "-ojson"]).exits(0).json();
    document["images"] = "none".into();
    assert!(!schema("prune-plan.json").is_valid(&document));
}

#[test]
fn yaml_says_what_json_says() {
    let cluster = cluster();
    let json = cluster.dry_run(&[KEEP_ONE, IGNORE, "-ojson"]).exits(0).json();
    let yaml = cluster.dry_run(&[KEEP_ONE, IGNORE, "-oyaml"]).exits(0);
    let mut yaml: Value = serde_saphyr::from_str(&yaml.stdout).unwrap();
    for time in ["now", "cutoff"] {
        yaml["metadata"][time] = json["metadata"][time].clone();
    }
    assert_eq!(yaml, json);
}

#[test]
fn names_are_those_that_kubectl_takes() {
    let cluster = cluster();
    let expected = "imagestream.image.openshift.io/shop/api\nimagestream.image.openshift.io/shop/web\n";
    let planned = cluster.dry_run(&[KEEP_ONE, IGNORE, "-oname"]).exits(0).prints(expected);
    let done = cluster.prune(&[KEEP_ONE, IGNORE, "-oname"]).exits(0);
    let lines = |text: &str| text.lines().map(ToOwned::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(lines(&planned.stdout), lines(&done.stdout));
    assert_eq!(
        planned.stdout.lines().filter(|line| line.starts_with("image.image.openshift.io/sha256:")).count(),
        3
    );
}

#[test]
fn a_dry_run_says_so_and_uses_the_reference_s_words() {
    let cluster = cluster();
    let ran = cluster.dry_run(&[KEEP_ONE, IGNORE]).exits(0);
    let (b, web) = (digest("b"), "shop/web");
    ran.says("Dry run enabled - no modifications will be made. Add --confirm to remove images\n")
        .prints(&format!("Deleting 2 items from image stream {web}\n"))
        .prints(&format!("Deleting manifest link {b} in repository {web}\n"))
        .prints(&format!("Deleting layer link {} in repository {web}\n", digest("b1")))
        .prints(&format!("Deleting blob {b}\n"))
        .prints(&format!("Deleting image {b}\n"))
        .prints(
            "\nSummary: would delete 3 image object(s), would delete 3 image stream tag item(s), would update 2 image \
             stream(s), would delete 7 layer link(s), would delete 3 manifest link(s), would delete 10 blob(s)\n",
        );
}

#[test]
fn wide_adds_what_stays_and_why() {
    let cluster = cluster();
    let ran = cluster.dry_run(&[KEEP_ONE, IGNORE, "-owide"]).exits(0);
    let ran = ran
        .prints(&format!("  latest  2  {}  stays: the image is in use by pod/shop/user\n", digest("c")))
        .prints(&format!("  latest  0  {}  stays: within --keep-tag-revisions=1\n", digest("a")))
        .prints(&format!("Image {}: stays: its digest is in use by pod/shop/stray\n", digest("o")))
        .prints(&format!("Image {}: stays: an item names it: shop/web:latest\n", digest("a")));
    let same = cluster.dry_run(&[KEEP_ONE, IGNORE, "--show-kept"]).exits(0);
    assert_eq!(same.stdout, ran.stdout);
    assert!(!cluster.dry_run(&[KEEP_ONE, IGNORE]).exits(0).stdout.contains("stays"), "{ran}");
}

/// Lines of both kinds of run in one order and with the same verbs: what happens at once has no order of its own.
fn comparable(stdout: &str) -> Vec<String> {
    let mut lines: Vec<String> = stdout
        .lines()
        .map(|line| {
            line.replace("would delete", "deleted")
                .replace("would update", "updated")
                .replace("Would free", "Freed")
        })
        .collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_run_prints_what_the_dry_run_printed() {
    for args in [&[KEEP_ONE, IGNORE][..], &["--show-kept", KEEP_ONE, IGNORE], &["-nshop", KEEP_ONE, IGNORE]] {
        let cluster = cluster();
        let planned = cluster.dry_run(args).exits(0);
        let done = cluster.prune(args).exits(0);
        assert_eq!(comparable(&planned.stdout), comparable(&done.stdout), "{planned}{done}");
        for ran in [planned, done] {
            let last = ran.stdout.lines().last().unwrap();
            assert!(last.ends_with("whose size no Image tells") || last.ends_with("storage"), "{last}");
        }
    }
}

#[test]
fn an_item_that_spec_tags_imports_again_is_marked() {
    let mut objects = shop();
    let web = objects.iter_mut().find(|object| object["metadata"]["name"] == "web").unwrap();
    for (tag, images) in [
        ("once", &["x"][..]),
        // The first one is gone; the second one is in use and was imported as the spec is.
        ("nightly", &["y", "c"]),
        ("hourly", &["x"]),
        ("follows", &["z"]),
        ("reference", &["w"]),
    ] {
        let items = images.iter().map(|image| {
            json!({ "created": hours_ago(48), "image": digest(image), "dockerImageReference": "", "generation": 2 })
        });
        let tag = json!({ "tag": tag, "items": items.collect::<Vec<_>>() });
        web["status"]["tags"].as_array_mut().unwrap().push(tag);
    }
    let mut spec: Vec<Value> = [
        ("once", "DockerImage", "quay.io/x/y:1"),
        ("nightly", "DockerImage", "quay.io/x/y:2"),
        ("hourly", "DockerImage", "quay.io/x/y:3"),
        ("latest", "DockerImage", "quay.io/x/y:4"),
        ("reference", "DockerImage", "quay.io/x/y:5"),
        ("follows", "ImageStreamTag", "web:latest"),
    ]
    .map(|(tag, kind, name)| json!({ "name": tag, "from": { "kind": kind, "name": name }, "generation": 2 }))
    .into();
    spec[1]["importPolicy"] = json!({ "scheduled": true });
    spec[2]["importPolicy"] = json!({ "scheduled": true });
    spec[4]["reference"] = true.into();
    web["spec"]["tags"] = spec.into();
    objects.extend(["x", "y", "z", "w"].map(|name| image(name, &["base", &format!("{name}1")])));
    let cluster = Cluster::of(objects);
    cluster.sandbox.store().delete("images", "", &digest("y"));
    let args = ["--keep-tag-revisions=0"];
    let document = cluster.dry_run(&[args[0], "-ojson"]).exits(0).json();
    assert_valid(&schema("prune-plan.json"), &document);
    let streams = document["imageStreams"].as_array().unwrap();
    let web = streams.iter().find(|stream| stream["name"] == "web").unwrap();
    let marks: Vec<(&str, u64, &str)> = web["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|item| {
            Some((item["tag"].as_str()?, item["position"].as_u64()?, item["reimport"].as_str()?))
        })
        .collect();
    assert_eq!(
        marks,
        [
            // c stays at position 2, and is of generation 1: older than the spec.
            ("latest", 0, "atOnce"),
            ("once", 0, "atOnce"),
            ("nightly", 0, "onSchedule"),
            ("hourly", 0, "atOnce"),
        ]
    );
    assert_eq!(document["reimports"]["items"], 4);
    // a1, x1 and their configs; base is in images that stay.
    assert!(document["reimports"]["bytes"].as_u64().unwrap() > 2000, "{}", document["reimports"]);

    let ran = cluster.dry_run(&args).exits(0);
    let ran = ran.prints("; will be imported again at once\n")
        .prints("  shop/web:once  at once; no more after: oc tag -d shop/web:once\n")
        .prints("; will be imported again with the next scheduled import\n")
        .says("warning: 4 item(s) that go will be imported again, because spec.tags asks for them: 3 at once, 1 with");
    assert_eq!(ran.stdout.matches("will be imported again at once\n").count(), 3, "{ran}");
}

#[test]
fn what_is_broken_is_listed_with_who_owns_it() {
    let mut objects = shop();
    objects.push(controlled(pod("shop", "web-1-x", &format!("{HOST}/shop/web:")), "ReplicaSet", "web-1"));
    objects.push(controlled(pod("shop", "api-x", &format!("{HOST}/shop/api:latest")), "Job", "api"));
    objects.push(controlled(
        workload("ReplicaSet", "web-1", &format!("{HOST}/shop/web:")),
        "Deployment",
        "web",
    ));
    let cluster = Cluster::of(objects);
    cluster.sandbox.store().delete("images", "", &digest("e"));

    let ran = cluster.dry_run(&[KEEP_ONE]).exits(1);
    ran.says("\n- pod/web-1-x namespace=shop is of deployment/web\n- replicaset/web-1 namespace=shop is of deployment/web\n");

    let ran = cluster.dry_run(&[KEEP_ONE, IGNORE]).exits(0);
    let line = "pod/web-1-x namespace=shop: container app: invalid image reference \"image-registry.openshift-image-registry.svc:5000/shop/web:\": invalid reference format - ignored: it protects nothing (of deployment/web)\n";
    ran.says(&format!("warning: {line}"))
        .prints(&format!("2 reference(s) that do not parse:\n  {line}"))
        .prints(&format!(
            "1 item(s) whose Image object does not exist:\n  shop/api:latest  0  {}  stays: the tag is in use\n    used by pod/shop/api-x container app (of job/api)\n",
            digest("e")
        ));

    let document = cluster.dry_run(&[KEEP_ONE, IGNORE, "-ojson"]).exits(0).json();
    assert_valid(&schema("prune-plan.json"), &document);
    let invalid = &document["invalidReferences"][0];
    assert_eq!(invalid["value"], "image-registry.openshift-image-registry.svc:5000/shop/web:");
    assert_eq!(invalid["owner"], json!({ "kind": "deployment", "name": "web" }));
    assert_eq!(invalid["place"], "container app");
    let missing = &document["missingImages"][0];
    assert_eq!((&missing["image"], &missing["decision"]), (&digest("e").into(), &"keep".into()));
    assert_eq!(missing["referrers"][0]["owner"], json!({ "kind": "job", "name": "api" }));
}

/// The value of a metric.
fn metric(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("oc_prune_images_{name} ")))?;
    Some(line.parse().unwrap())
}

#[test]
fn numbers_of_every_run_are_in_the_metrics_file() {
    let cluster = cluster();
    let path = cluster.directory().join("prune.prom");
    let flag = format!("--metrics-file={}", path.display());
    let read = || std::fs::read_to_string(&path).unwrap();

    cluster.dry_run(&[KEEP_ONE, IGNORE, &flag]).exits(0);
    let text = read();
    assert_eq!(metric(&text, "dry_run"), Some(1.0));
    assert_eq!(metric(&text, r#"images{state="planned"}"#), Some(3.0));
    assert_eq!(metric(&text, "last_success_timestamp_seconds"), None, "nothing was pruned yet\n{text}");
    assert!(text.contains("\noc_prune_images_cache_step{step=\""), "{text}");

    let forbidden = Answer::kubernetes(http::StatusCode::FORBIDDEN, "Forbidden", "images is forbidden: no");
    let path_of_o = format!("/images/{}$", digest("b"));
    cluster
        .sandbox
        .faults()
        .add(Fault::new(Action::Answer(forbidden)).method(Method::DELETE).path(&path_of_o));
    cluster.prune(&[KEEP_ONE, IGNORE, &flag]).exits(3);
    let text = read();
    assert_eq!(metric(&text, "exit_code"), Some(3.0));
    assert_eq!(metric(&text, "failures"), Some(1.0));
    assert_eq!(metric(&text, r#"images{state="failed"}"#), Some(1.0));
    assert_eq!(metric(&text, r#"images{state="deleted"}"#), Some(2.0));
    assert_eq!(metric(&text, "last_success_timestamp_seconds"), None);

    cluster.sandbox.faults().clear();
    cluster.prune(&[KEEP_ONE, IGNORE, &flag]).exits(0);
    let text = read();
    let success = metric(&text, "last_success_timestamp_seconds");
    assert_eq!(success, metric(&text, "end_timestamp_seconds"));
    assert!(metric(&text, "cache_clean").is_some(), "{text}");
    assert_valid_metrics(&text);

    // A run that fails before it has a plan tells what it can, and keeps the last success.
    cluster.dry_run(&["--kubeconfig=nowhere", &flag]).exits(1);
    let text = read();
    assert_eq!(metric(&text, "exit_code"), Some(1.0));
    assert_eq!(metric(&text, "last_success_timestamp_seconds"), success);
    assert_eq!(metric(&text, r#"images{state="planned"}"#), None);

    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o644);
    let files = std::fs::read_dir(cluster.directory()).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.contains(".tmp")), "{names:?}");
}

#[test]
fn metrics_that_cannot_be_written_are_a_warning() {
    let cluster = cluster();
    let ran = cluster.dry_run(&[IGNORE, "--metrics-file=/nowhere/at/all.prom"]).exits(0);
    ran.says("warning: --metrics-file=/nowhere/at/all.prom cannot be written: no such file or directory\n");
}

/// What Prometheus' own tool says of it, where it is installed.
fn assert_valid_metrics(text: &str) {
    let mut tool = std::process::Command::new("promtool");
    tool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut tool) = tool.spawn() else { return };
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = tool.wait_with_output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}\n{text}");
}

fn controlled(mut object: Value, kind: &str, name: &str) -> Value {
    object["metadata"]["ownerReferences"] =
        json!([{ "kind": "Other", "name": "no" }, { "kind": kind, "name": name, "controller": true }]);
    object
}

fn workload(kind: &str, name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": { "namespace": "shop", "name": name, "creationTimestamp": hours_ago(100) },
        "spec": { "template": { "spec": { "containers": [{ "name": "app", "image": image }] } } },
    })
}

#[test]
fn every_change_is_one_line_once_it_is_done() {
    let cluster = cluster();
    let ran = cluster.prune(&[KEEP_ONE, IGNORE]).exits(0);
    let count = |start: &str| ran.stdout.lines().filter(|line| line.starts_with(start)).count();
    let changes = cluster.changes();
    assert_eq!(count("Deleting manifest link "), changes.manifest_links.len(), "{ran}");
    assert_eq!(count("Deleting layer link "), changes.layer_links.len(), "{ran}");
    assert_eq!(count("Deleting blob "), changes.blobs.len(), "{ran}");
    assert_eq!(count("Deleting image "), changes.images.len(), "{ran}");
    assert_eq!(count("Summary: deleted 3 image object(s), deleted 3 image stream tag item(s), "), 1, "{ran}");
}
