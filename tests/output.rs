//! What is printed, in every format, and whether the documents fit their schemas.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;

use common::Cluster;
use common::objects::{HOST, KEEP_ONE, digest, pod, shop};
use http::Method;
use jsonschema::Validator;
use sandbox::fault::{Action, Answer, Fault};
use serde_json::Value;

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
    ran.prints(&format!("  latest  2  {}  stays: the image is in use by pod/shop/user\n", digest("c")))
        .prints(&format!("  latest  0  {}  stays: within --keep-tag-revisions=1\n", digest("a")))
        .prints(&format!("Image {}: stays (referencedByDigest by pod/shop/stray)\n", digest("o")))
        .prints(&format!("Image {}: stays (usedByItem shop/web:latest)\n", digest("a")));
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
