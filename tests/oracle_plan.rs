//! Replays the recorded decisions of the reference implementation on the pure plan.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot read its data fails")]

#[path = "common/explained.rs"]
mod explained;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use oc_prune_images::inventory::{Read, read_lists};
use oc_prune_images::model::Inventory;
use oc_prune_images::plan::{
    Difference, DifferingObject, ImageVerdict, ItemVerdict, Keep, Plan, Rules, decide,
};
use serde_json::Value;

fn cases() -> Vec<PathBuf> {
    let root = std::env::var_os("SHARED_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let Ok(entries) = std::fs::read_dir(root.join("oracle")) else { return Vec::new() };
    let mut cases: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    cases.sort();
    cases
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn load(case: &Path) -> (Read, i64) {
    let cluster = json(&case.join("cluster.json"));
    let epoch: jiff::Timestamp = cluster["epoch"].as_str().unwrap().parse().unwrap();
    let lists: Vec<(String, Vec<u8>)> = cluster["objects"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(resource, list)| (resource.clone(), serde_json::to_vec(list).unwrap()))
        .collect();
    let read = read_lists(lists.iter().map(|(resource, list)| (resource.as_str(), list.as_slice()))).unwrap();
    assert_eq!(read.undecodable, []);
    (read, epoch.as_second())
}

/// The recorded lists of one state, in both formats.
#[test]
fn protobuf_and_json_give_the_same_inventory() {
    let root = std::env::var_os("SHARED_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let folder = root.join("fixtures/lists");
    if !folder.is_dir() {
        println!("skipped: no recorded answers in {}", folder.display());
        return;
    }
    let pages = |ending: &str| -> Vec<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let mut pages: Vec<_> = entries
            .filter_map(|path| {
                let name = path.file_name()?.to_str()?.strip_suffix(ending)?;
                (!name.contains('.')).then(|| (name.to_owned(), std::fs::read(&path).unwrap()))
            })
            .collect();
        pages.sort();
        pages
    };
    let (json, protobuf) = (pages(".body.json"), pages(".pb.body.pb"));
    let names = |pages: &[(String, Vec<u8>)]| pages.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&json), names(&protobuf));
    assert_eq!(json.len(), 14);
    let mut with_content = 0;
    for ((resource, json), (_, protobuf)) in json.iter().zip(&protobuf) {
        let read = |page: &[u8]| format!("{:#?}", read_lists([(resource.as_str(), page)]).unwrap());
        let from_json = read(json);
        let from_protobuf = read(protobuf);
        let differing =
            from_json.lines().zip(from_protobuf.lines()).find(|(json, protobuf)| json != protobuf);
        assert_eq!(differing, None, "{resource}");
        assert_eq!(from_json.len(), from_protobuf.len(), "{resource}");
        with_content += usize::from(from_json != format!("{:#?}", Read::default()));
        // A page that broke off is an error wherever it breaks off; four bytes after the list say that it is plain.
        for length in 0..protobuf.len() - 4 {
            assert!(read_lists([(resource.as_str(), &protobuf[..length])]).is_err(), "{resource}: {length}");
        }
    }
    // An answer that has no list in it is no empty list.
    for answer in [&b"k8s\0"[..], b"k8s\0\x12\0", b"k8s\0\x0a\x02\x0a\0\x12\0"] {
        assert!(read_lists([("pods", answer)]).is_err(), "{answer:?}");
    }
    // The recorded stateful sets name no image of a stream.
    assert_eq!(with_content, 13);
}

struct Flags {
    rules: Rules,
    ignore_invalid_refs: bool,
}

fn flags(case: &Path, epoch: i64) -> Flags {
    let mut revisions = 3;
    let mut younger = 3600;
    let mut over_size = false;
    let mut flags = Flags {
        rules: Rules { keep: Keep::WithinSizeLimit, all: true, namespace: None, prune_registry: true },
        ignore_invalid_refs: false,
    };
    for arg in json(&case.join("flags.json"))["args"].as_array().unwrap() {
        let (name, value) = arg.as_str().unwrap().split_once('=').unwrap_or((arg.as_str().unwrap(), "true"));
        match name {
            "--all" => flags.rules.all = value == "true",
            "--keep-tag-revisions" => revisions = value.parse().unwrap(),
            "--keep-younger-than" => {
                younger = match value {
                    "0" => 0,
                    "10m" => 600,
                    "60m" => 3600,
                    "1h30m" => 5400,
                    "96h" => 96 * 3600,
                    other => panic!("duration {other}"),
                }
            }
            "--prune-over-size-limit" => over_size = value == "true",
            "--prune-registry" => flags.rules.prune_registry = value == "true",
            "--namespace" => flags.rules.namespace = Some(value.into()),
            "--ignore-invalid-refs" => flags.ignore_invalid_refs = value == "true",
            other => panic!("flag {other}"),
        }
    }
    if !over_size {
        let cutoff = i128::from(epoch - younger) * 1_000_000_000;
        flags.rules.keep = Keep::Recent { tag_revisions: revisions, cutoff };
    }
    flags
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Sets {
    items: BTreeMap<String, usize>,
    layer_links: BTreeSet<String>,
    manifest_links: BTreeSet<String>,
    blobs: BTreeSet<String>,
    images: BTreeSet<String>,
}

fn ours(inventory: &Inventory, plan: &Plan) -> Sets {
    let mut sets = Sets::default();
    for (stream, decision) in inventory.streams.iter().zip(&plan.streams) {
        let removed =
            decision.items.iter().filter(|item| matches!(item.verdict, ItemVerdict::Remove(_))).count();
        if removed > 0 {
            sets.items.insert(stream.repository(), removed);
        }
        let name = |id| format!("{}@{}", stream.repository(), inventory.names.text(id));
        sets.layer_links.extend(decision.layer_links.iter().map(|id| name(*id)));
        sets.manifest_links.extend(decision.manifest_links.iter().map(|id| name(*id)));
    }
    for (image, decision) in inventory.images.all().iter().zip(&plan.images) {
        sets.blobs.extend(decision.blobs.iter().map(|id| inventory.names.text(*id).into_owned()));
        if decision.verdict == ImageVerdict::Delete {
            sets.images.insert(inventory.names.text(image.name).into_owned());
        }
    }
    sets
}

fn reference(case: &Path) -> (Sets, Value) {
    let expected = json(&case.join("expected.json"));
    let strings = |key: &str| -> BTreeSet<String> {
        expected[key].as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
    };
    let items = expected["streamItems"].as_object().unwrap();
    let sets = Sets {
        items: items
            .iter()
            .map(|(stream, n)| (stream.clone(), usize::try_from(n.as_u64().unwrap()).unwrap()))
            .collect(),
        layer_links: strings("layerLinks"),
        manifest_links: strings("manifestLinks"),
        blobs: strings("blobs"),
        images: strings("images"),
    };
    (sets, expected)
}

/// Adds what differs to our sets: the result must be exactly what the reference did.
fn with_differences(inventory: &Inventory, plan: &Plan, mut sets: Sets) -> Sets {
    let text = |id| inventory.names.text(id).into_owned();
    for differing in plan.differences.iter() {
        let stream = |position: u32| inventory.streams[position as usize].repository();
        match differing.object {
            DifferingObject::Item(position, ..) => *sets.items.entry(stream(position)).or_default() += 1,
            DifferingObject::ManifestLink(position, id) => {
                assert!(sets.manifest_links.insert(format!("{}@{}", stream(position), text(id))));
            }
            DifferingObject::LayerLink(position, id) => {
                assert!(sets.layer_links.insert(format!("{}@{}", stream(position), text(id))));
            }
            DifferingObject::Image(position) => {
                assert!(sets.images.insert(text(inventory.images.all()[position].name)));
            }
            DifferingObject::Blob(id) => assert!(sets.blobs.insert(text(id))),
        }
    }
    sets
}

#[test]
fn the_plan_is_the_reference_s_less_the_documented_differences() {
    let cases = cases();
    if cases.is_empty() {
        println!("no recorded cases beside the checkout: nothing replayed");
        return;
    }
    let mut count: BTreeMap<Difference, usize> = BTreeMap::new();
    for case in &cases {
        let (read, epoch) = load(case);
        let flags = flags(case, epoch);
        let plan = decide(&read.inventory, &flags.rules);
        let (theirs, expected) = reference(case);
        if !plan.references.invalid().is_empty() && !flags.ignore_invalid_refs {
            assert_eq!(expected["exitCode"], 1, "{}", case.display());
            for invalid in plan.references.invalid() {
                let line = invalid.describe(&read.inventory);
                assert!(expected["stderr"].as_str().unwrap().contains(&line), "{}: {line}", case.display());
            }
            continue;
        }
        assert_eq!(expected["exitCode"], 0, "{}", case.display());
        let ours = with_differences(&read.inventory, &plan, ours(&read.inventory, &plan));
        pretty(&case.display().to_string(), &ours, &theirs);
        for differing in plan.differences.iter() {
            *count.entry(differing.reason).or_default() += 1;
            for place in differing.referrers {
                let name = place.referrer(&read.inventory).name;
                assert!(!read.inventory.names.words.text(name).is_empty());
            }
            let needs_referrer = !matches!(
                differing.reason,
                Difference::NestedIndex
                    | Difference::ConfigOfUnknownMediaType
                    | Difference::Protected
                    | Difference::NotADigest
            );
            assert_eq!(
                needs_referrer,
                !differing.referrers.is_empty(),
                "{differing:?} in {}",
                case.display()
            );
        }
    }
    println!("{} cases replayed; differences: {count:?}", cases.len());
    // A rule that is lost makes no difference any longer, and would not be missed otherwise.
    for seen in [
        Difference::ReferencedByDigest,
        Difference::ReferencedSubmanifest,
        Difference::ReferencedAcrossNamespaces,
        Difference::ConfigOfUnknownMediaType,
        Difference::NotADigest,
        Difference::MoreReferrers,
    ] {
        assert!(count.contains_key(&seen), "no recorded case shows {seen:?}");
    }
}

#[test]
fn an_explanation_says_of_every_image_what_the_plan_does_and_why() {
    let mut images = 0;
    for case in cases() {
        let (read, epoch) = load(&case);
        let flags = flags(&case, epoch);
        let inventory = &read.inventory;
        let plan = decide(inventory, &flags.rules);
        let now = jiff::Timestamp::from_second(epoch).unwrap();
        explained::agrees(inventory, &plan, now);
        images += inventory.images.all().len();
    }
    println!("{images} images explained");
}

#[test]
fn what_an_explanation_asks_to_change_is_enough() {
    // Each takes several decisions about the whole cluster: a few images of every case.
    const IMAGES: usize = 6;
    for case in cases() {
        let (read, epoch) = load(&case);
        let flags = flags(&case, epoch);
        let inventory = &read.inventory;
        let plan = decide(inventory, &flags.rules);
        let explainer = oc_prune_images::plan::explain::Explainer::new(inventory, &plan);
        let all = inventory.images.all();
        for image in all.iter().step_by((all.len() / IMAGES).max(1)) {
            explained::changes_are_enough(inventory, &plan, &explainer.image(image.name));
        }
    }
}

fn pretty(case: &str, ours: &Sets, theirs: &Sets) {
    let diff = |what: &str, ours: &BTreeSet<String>, theirs: &BTreeSet<String>| {
        let more: Vec<_> = ours.difference(theirs).collect();
        let fewer: Vec<_> = theirs.difference(ours).collect();
        assert!(
            more.is_empty() && fewer.is_empty(),
            "{case}: {what}: only ours {more:#?}, only theirs {fewer:#?}"
        );
    };
    assert_eq!(ours.items, theirs.items, "{case}: items");
    diff("images", &ours.images, &theirs.images);
    diff("manifest links", &ours.manifest_links, &theirs.manifest_links);
    diff("layer links", &ours.layer_links, &theirs.layer_links);
    diff("blobs", &ours.blobs, &theirs.blobs);
}
