//! Replays the recorded decisions of the reference implementation through the plugin against a sandbox.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::cluster::{Changes, names, repository, tags};
use common::{Cluster, Ran};
use http::{Method, StatusCode};
use sandbox::fault::{Action, Answer, Fault};
use serde_json::Value;

/// The reasons of `docs/decision.md` that can show in a recorded case, and whether they name who refers.
const REASONS: [(&str, bool); 9] = [
    ("referencedByDigest", true),
    ("referencedSubmanifest", true),
    ("referencedAcrossNamespaces", true),
    ("nestedIndex", false),
    ("configOfUnknownMediaType", false),
    ("invalidButReadable", true),
    ("notADigest", false),
    ("whatRuns", true),
    ("moreReferrers", true),
];

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Sets {
    items: BTreeMap<String, usize>,
    layer_links: BTreeSet<String>,
    manifest_links: BTreeSet<String>,
    blobs: BTreeSet<String>,
    images: BTreeSet<String>,
}

struct Case {
    directory: PathBuf,
    args: Vec<String>,
    expected: Value,
}

fn cases() -> Vec<Case> {
    let root = std::env::var_os("SHARED_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let Ok(entries) = std::fs::read_dir(root.join("oracle")) else { return Vec::new() };
    let mut directories: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    directories.sort();
    let json = |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    directories
        .into_iter()
        .filter(|directory| directory.is_dir())
        .map(|directory| Case {
            args: strings(&json(&directory.join("flags.json"))["args"]),
            expected: json(&directory.join("expected.json")),
            directory,
        })
        .collect()
}

fn strings<C: FromIterator<String>>(value: &Value) -> C {
    value.as_array().unwrap().iter().map(text).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

impl Case {
    fn name(&self) -> String {
        self.directory.file_name().unwrap().to_string_lossy().into_owned()
    }

    fn cluster(&self) -> Cluster {
        let cluster = Cluster::start();
        cluster.sandbox.load_oracle(&self.directory);
        cluster
    }

    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        self.args.iter().map(String::as_str).chain(more.iter().copied()).collect()
    }

    fn theirs(&self) -> Sets {
        let items = self.expected["streamItems"].as_object().unwrap();
        let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
        Sets {
            items: items.iter().map(|(stream, items)| (stream.clone(), number(items))).collect(),
            layer_links: strings(&self.expected["layerLinks"]),
            manifest_links: strings(&self.expected["manifestLinks"]),
            blobs: strings(&self.expected["blobs"]),
            images: strings(&self.expected["images"]),
        }
    }
}

/// What a document plans.
fn planned(document: &Value) -> Sets {
    let mut sets = Sets::default();
    for stream in array(&document["imageStreams"]) {
        let repository = format!("{}/{}", text(&stream["namespace"]), text(&stream["name"]));
        let removed = array(&stream["items"]).filter(|item| item["decision"] == "remove").count();
        if removed > 0 {
            sets.items.insert(repository.clone(), removed);
        }
        let link = |digest: &Value| format!("{repository}@{}", text(digest));
        sets.layer_links.extend(array(&stream["layerLinks"]).map(link));
        sets.manifest_links.extend(array(&stream["manifestLinks"]).map(link));
    }
    for image in array(&document["images"]) {
        if image["decision"] == "delete" {
            sets.images.insert(text(&image["name"]));
        }
        let blobs = image["blobs"].as_array().into_iter().flatten();
        sets.blobs.extend(blobs.map(|blob| text(&blob["digest"])));
    }
    sets
}

/// Adds what the document says it keeps: the result must be what the reference did.
fn with_differences(mut sets: Sets, document: &Value) -> Sets {
    for difference in array(&document["differences"]) {
        let object = text(&difference["object"]);
        let new = match difference["kind"].as_str().unwrap() {
            "item" => {
                *sets.items.entry(object.rsplit_once(':').unwrap().0.to_owned()).or_default() += 1;
                true
            }
            "manifestLink" => sets.manifest_links.insert(object),
            "layerLink" => sets.layer_links.insert(object),
            "image" => sets.images.insert(object),
            "blob" => sets.blobs.insert(object),
            other => panic!("a difference of kind {other}"),
        };
        assert!(new, "planned and yet different: {difference}");
    }
    sets
}

#[track_caller]
fn assert_same(what: &str, ours: &Sets, theirs: &Sets) {
    assert_eq!(ours.items, theirs.items, "{what}: items");
    for (kind, ours, theirs) in [
        ("images", &ours.images, &theirs.images),
        ("manifest links", &ours.manifest_links, &theirs.manifest_links),
        ("layer links", &ours.layer_links, &theirs.layer_links),
        ("blobs", &ours.blobs, &theirs.blobs),
    ] {
        let (more, fewer): (Vec<_>, Vec<_>) =
            (ours.difference(theirs).collect(), theirs.difference(ours).collect());
        assert!(
            more.is_empty() && fewer.is_empty(),
            "{what}: {kind}: only the first {more:#?}, only the second {fewer:#?}"
        );
    }
}

/// Every difference has a reason that is allowed, and referrers that exist.
fn check_differences(cluster: &Cluster, document: &Value, count: &mut BTreeMap<String, usize>) {
    for difference in array(&document["differences"]) {
        let reason = text(&difference["reason"]);
        let known = REASONS.iter().find(|(known, _)| *known == reason);
        let (_, refers) = known.unwrap_or_else(|| panic!("not an allowed reason: {difference}"));
        let referrers: Vec<&Value> = difference["referrers"].as_array().into_iter().flatten().collect();
        assert_eq!(*refers, !referrers.is_empty(), "{difference}");
        for referrer in referrers {
            let resource = format!("{}s", text(&referrer["kind"]));
            let (namespace, name) = (text(&referrer["namespace"]), text(&referrer["name"]));
            assert!(cluster.sandbox.store().get(&resource, &namespace, &name).is_some(), "{difference}");
        }
        *count.entry(reason).or_default() += 1;
    }
}

fn dry_run(case: &Case, cluster: &Cluster, count: &mut BTreeMap<String, usize>) {
    let ran = cluster.dry_run(&case.args(&["-ojson"]));
    assert!(cluster.changes().is_empty(), "a dry run changed something\n{ran}");
    if case.expected["exitCode"] == 1 {
        return refused(case, &ran);
    }
    let document = ran.exits(0).json();
    assert_eq!(document["kind"], "PrunePlan");
    assert_same("plan and reference", &with_differences(planned(&document), &document), &case.theirs());
    check_differences(cluster, &document, count);
}

/// The run stopped because of references that do not parse, and names each as the reference does.
fn refused(case: &Case, ran: &Ran) {
    let bullets = |text: &str| -> BTreeSet<String> {
        text.lines().filter(|line| line.starts_with("  ")).map(ToOwned::to_owned).collect()
    };
    assert_eq!(ran.code, Some(1), "{ran}");
    assert_eq!(bullets(&ran.stderr), bullets(case.expected["stderr"].as_str().unwrap()), "{ran}");
    assert!(ran.stderr.contains("error: failed to build graph - no changes made"), "{ran}");
}

/// A confirmed run changes exactly what its document says, in the right order.
fn confirmed(case: &Case, cluster: &Cluster, format: &str) {
    let store = cluster.sandbox.store();
    let before: Vec<Value> = store.list("imagestreams");
    let images_before = cluster.images();
    let plan = cluster.dry_run(&case.args(&["-ojson"]));
    if plan.code == Some(0) {
        accept_links_of_submanifests(cluster, &plan.json());
    }
    let ran = cluster.prune(&case.args(&[format]));
    if case.expected["exitCode"] == 1 {
        assert!(cluster.changes().is_empty(), "{ran}");
        return refused(case, &ran);
    }
    let ran = ran.exits(0);
    let document = if format == "-ojson" { ran.json() } else { plan.exits(0).json() };
    let changes = cluster.changes();
    let planned = planned(&document);
    let made = Sets {
        // The log has the streams; that the right items went shows in what is left, below.
        items: planned.items.clone(),
        layer_links: names(&changes.layer_links),
        manifest_links: names(&changes.manifest_links),
        blobs: names(&changes.blobs),
        images: names(&changes.images),
    };
    assert_same("requests and plan", &made, &planned);
    assert_same("requests and reference", &with_differences(made, &document), &case.theirs());
    assert_eq!(names(&changes.statuses), planned.items.keys().cloned().collect(), "{ran}");
    check_order(&changes, &document);
    check_streams(case, cluster, &before, &document);
    let left: BTreeSet<String> = images_before.difference(&planned.images).cloned().collect();
    assert_eq!(cluster.images(), left, "{ran}");
    let blobs = cluster.registry.storage().blobs();
    let stale: Vec<_> = blobs.iter().filter(|blob| planned.blobs.contains(blob.as_str())).collect();
    assert!(stale.is_empty(), "still in the storage: {stale:?}");
    if format == "-ojson" {
        assert_eq!(document["kind"], "PruneResult");
        check_counts(&document["result"]["deleted"], &planned, &ran);
    } else if array(&document["differences"]).next().is_none() {
        let summary = format!("Summary: {}", text(&case.expected["summary"]));
        assert!(ran.stdout.lines().any(|line| line == summary), "expected {summary}\n{ran}");
    }
}

/// The reference asks for the manifest link of a removed item even if an index that stays holds the manifest, and it
/// recorded success. The sandbox's registry refuses that (405).
fn accept_links_of_submanifests(cluster: &Cluster, plan: &Value) {
    for stream in array(&plan["imageStreams"]) {
        let kept = array(&stream["items"]).filter(|item| item["decision"] == "keep");
        let images =
            kept.filter_map(|item| cluster.sandbox.store().get("images", "", item["image"].as_str()?));
        let held: BTreeSet<String> = images
            .flat_map(|image| image["dockerImageManifests"].as_array().cloned().unwrap_or_default())
            .map(|manifest| text(&manifest["digest"]))
            .collect();
        for link in array(&stream["manifestLinks"]).map(text).filter(|link| held.contains(link)) {
            let answer = Action::Answer(Answer::new(StatusCode::ACCEPTED));
            let path =
                format!("^/v2/{}/{}/manifests/{link}$", text(&stream["namespace"]), text(&stream["name"]));
            cluster.sandbox.faults().add(Fault::new(answer).method(Method::DELETE).path(&path));
        }
    }
}

fn check_counts(deleted: &Value, planned: &Sets, ran: &Ran) {
    for (name, count) in [
        ("images", planned.images.len()),
        ("imageStreamTagItems", planned.items.values().sum()),
        ("imageStreams", planned.items.len()),
        ("layerLinks", planned.layer_links.len()),
        ("manifestLinks", planned.manifest_links.len()),
        ("blobs", planned.blobs.len()),
    ] {
        assert_eq!(deleted[name], count, "{name}\n{ran}");
    }
}

/// Each stream's status before its manifest links before its layer links, all streams before the first blob, an
/// image's blobs before its Image object; and nothing twice.
fn check_order(changes: &Changes, document: &Value) {
    let Changes { statuses, manifest_links, layer_links, blobs, images } = changes;
    for (object, requests) in [statuses, manifest_links, layer_links, blobs, images].into_iter().flatten() {
        assert_eq!(requests.len(), 1, "{object} was asked for more than once");
    }
    let of = |links: &BTreeMap<String, Vec<usize>>, stream: &str| -> Vec<usize> {
        let prefix = format!("{stream}@");
        links.iter().filter(|(link, _)| link.starts_with(&prefix)).map(|(_, requests)| requests[0]).collect()
    };
    for (stream, status) in statuses {
        let (manifests, layers) = (of(manifest_links, stream), of(layer_links, stream));
        assert!(
            manifests.iter().chain(&layers).all(|link| *link > status[0]),
            "{stream}: a link before the status"
        );
        assert!(manifests.iter().max() < layers.iter().min() || layers.is_empty(), "{stream}: layers first");
    }
    let last = statuses.values().chain(manifest_links.values()).chain(layer_links.values()).flatten().max();
    let first = blobs.values().chain(images.values()).flatten().min();
    assert!(first.is_none() || last < first, "stage 2 began before stage 1 was over");
    for image in array(&document["images"]).filter(|image| image["decision"] == "delete") {
        let object = images[image["name"].as_str().unwrap()][0];
        for blob in image["blobs"].as_array().into_iter().flatten() {
            let blob = blobs[blob["digest"].as_str().unwrap()][0];
            assert!(blob < object, "an Image object before its blob: {image}");
        }
    }
}

/// The streams hold what the reference left in them, and the items that the document keeps.
fn check_streams(case: &Case, cluster: &Cluster, before: &[Value], document: &Value) {
    let kept: BTreeSet<String> = array(&document["differences"])
        .filter(|difference| difference["kind"] == "item")
        .map(|difference| text(&difference["object"]))
        .collect();
    let decisions: BTreeMap<String, &Value> = array(&document["imageStreams"])
        .map(|stream| (format!("{}/{}", text(&stream["namespace"]), text(&stream["name"])), stream))
        .collect();
    for stream in before {
        let repository = repository(stream);
        let (namespace, name) = repository.split_once('/').unwrap();
        let now = cluster.tags(namespace, name);
        let Some(reference) = case.expected["streamStatusAfter"].get(&repository) else {
            assert_eq!(now, tags(stream), "{repository} was not to be changed");
            continue;
        };
        let mut ours: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut theirs: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for item in array(&decisions[&repository]["items"]).filter(|item| item["decision"] == "keep") {
            let (tag, image) = (text(&item["tag"]), text(&item["image"]));
            ours.entry(tag.clone()).or_default().push(image.clone());
            if !kept.contains(&format!("{repository}:{tag}@{}", item["position"])) {
                theirs.entry(tag).or_default().push(image);
            }
        }
        assert_eq!(now, ours, "{repository}");
        let reference: BTreeMap<String, Vec<String>> =
            reference.as_object().unwrap().iter().map(|(tag, items)| (tag.clone(), strings(items))).collect();
        assert_eq!(theirs, reference, "{repository}");
    }
}

fn replay(case: &Case) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    let cluster = case.cluster();
    cluster.seed();
    dry_run(case, &cluster, &mut count);
    confirmed(case, &cluster, "-ojson");
    // Here the registry has nothing of it: what is gone already counts as deleted, and the requests are the same.
    confirmed(case, &case.cluster(), "-otext");
    count
}

#[test]
fn every_recorded_case_replays_over_http() {
    let cases = cases();
    if cases.is_empty() {
        println!("no recorded cases beside the checkout (SHARED_DIR names another place): nothing replayed");
        return;
    }
    let (next, count, failed) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match std::panic::catch_unwind(|| replay(case)) {
                        Ok(differences) => {
                            for (reason, differences) in differences {
                                *count.lock().unwrap().entry(reason).or_insert(0) += differences;
                            }
                        }
                        Err(_) => failed.lock().unwrap().push(case.name()),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} cases failed (see above): {failed:?}", failed.len(), cases.len());
    println!("{} cases, differences: {:?}", cases.len(), count.into_inner().unwrap());
}
