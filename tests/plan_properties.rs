//! Properties of the pure plan on random clusters.

#![expect(clippy::unwrap_used, reason = "a generated cluster that cannot be read fails the test")]

#[path = "common/explained.rs"]
mod explained;

use std::collections::{BTreeMap, BTreeSet};

use oc_prune_images::inventory::{read_lists, read_lists_selecting};
use oc_prune_images::model::{Inventory, Selector};
use oc_prune_images::plan::explain::{Change, Explainer, apply, stuck};
use oc_prune_images::plan::stays::stays;
use oc_prune_images::plan::usage::{Amounts, Area, Level, Shown, storage_map, usage};
use oc_prune_images::plan::{
    Guard, ImageVerdict, ItemVerdict, Keep, Plan, Rules, Stage2, decide, decide_images, named_blobs, what_if,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: i64 = 1_767_225_600;
const HOST: &str = "image-registry.openshift-image-registry.svc:5000";

/// A small world, so that images share layers, streams share images and references hit.
#[derive(Debug, Clone)]
struct World {
    images: Vec<ImageSpec>,
    streams: Vec<StreamSpec>,
    pods: Vec<PodSpec>,
}

#[derive(Debug, Clone)]
struct ImageSpec {
    layers: Vec<u8>,
    config: Option<u8>,
    media_type: u8,
    manifests: Vec<u8>,
    hours: i64,
    managed: bool,
    keep: bool,
}

#[derive(Debug, Clone)]
struct StreamSpec {
    hours: i64,
    keep: bool,
    tags: Vec<Vec<(u8, i64)>>,
}

#[derive(Debug, Clone)]
struct PodSpec {
    stream: u8,
    reference: Reference,
    running: bool,
    hours: i64,
    ephemeral: bool,
    image_id: Option<u8>,
}

#[derive(Debug, Clone)]
enum Reference {
    Tag(u8),
    Digest(u8),
}

fn images() -> impl Strategy<Value = Vec<ImageSpec>> {
    let image = (
        prop::collection::vec(0..24_u8, 0..5),
        prop::option::of(24..30_u8),
        0..4_u8,
        prop::collection::vec(0..14_u8, 0..3),
        0..200_i64,
        any::<bool>(),
        prop::bool::weighted(0.05),
    );
    let spec = image.prop_map(|(layers, config, media_type, manifests, hours, managed, keep)| ImageSpec {
        layers,
        config,
        media_type,
        manifests,
        hours,
        managed,
        keep,
    });
    prop::collection::vec(spec, 1..14)
}

fn streams() -> impl Strategy<Value = Vec<StreamSpec>> {
    // Images 14 and 15 never exist.
    let tag = prop::collection::vec((0..16_u8, 0..200_i64), 0..7);
    let spec = (0..200_i64, prop::bool::weighted(0.05), prop::collection::vec(tag, 0..4))
        .prop_map(|(hours, keep, tags)| StreamSpec { hours, keep, tags });
    prop::collection::vec(spec, 0..5)
}

fn pods() -> impl Strategy<Value = Vec<PodSpec>> {
    let reference = prop_oneof![(0..4_u8).prop_map(Reference::Tag), (0..16_u8).prop_map(Reference::Digest)];
    let spec = (0..5_u8, reference, any::<bool>(), 0..200_i64, any::<bool>(), prop::option::of(0..16_u8))
        .prop_map(|(stream, reference, running, hours, ephemeral, image_id)| PodSpec {
            stream,
            reference,
            running,
            hours,
            ephemeral,
            image_id,
        });
    prop::collection::vec(spec, 0..6)
}

fn worlds() -> impl Strategy<Value = World> {
    (images(), streams(), pods()).prop_map(|(images, streams, pods)| World { images, streams, pods })
}

fn rules() -> impl Strategy<Value = Rules> {
    (0..4_u32, prop_oneof![Just(0), Just(3600), Just(90 * 3600)], any::<bool>(), any::<bool>()).prop_map(
        |(tag_revisions, younger, all, prune_registry)| Rules {
            keep: Keep::Recent { tag_revisions, cutoff: i128::from(NOW - younger) * 1_000_000_000 },
            all,
            namespace: None,
            prune_registry,
        },
    )
}

fn digest(kind: &str, number: u8) -> String {
    let letter = if kind == "image" { 'a' } else { 'b' };
    format!("sha256:{}{number:02x}", letter.to_string().repeat(62))
}

fn time(hours: i64) -> String {
    // Half an hour off every threshold, so that rounding decides nothing.
    jiff::Timestamp::from_second(NOW - hours * 3600 - 1800).unwrap().to_string()
}

impl World {
    fn lists(&self) -> BTreeMap<&'static str, Vec<Value>> {
        let images = self.images.iter().zip(0_u8..).map(|(image, number)| {
            let index = image.media_type == 0;
            let media_type = [
                "application/vnd.oci.image.index.v1+json",
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.oci.image.manifest.v1+json",
                "",
            ][usize::from(image.media_type)];
            let layers: Vec<Value> = if index {
                Vec::new()
            } else {
                image
                    .layers
                    .iter()
                    .map(|layer| json!({"name": digest("blob", *layer), "size": 10 + 7 * i64::from(*layer)}))
                    .collect()
            };
            let manifests: Vec<Value> = if index {
                image.manifests.iter().map(|manifest| json!({"digest": digest("image", *manifest)})).collect()
            } else {
                Vec::new()
            };
            json!({
                "metadata": {
                    "name": digest("image", number),
                    "creationTimestamp": time(image.hours),
                    "annotations": {"openshift.io/image.managed": image.managed.to_string()},
                    "labels": {"prune-images/keep": image.keep.to_string()},
                },
                "dockerImageMetadata": {"Id": image.config.map(|config| digest("blob", config)), "Size": 100},
                "dockerImageManifestMediaType": media_type,
                "dockerImageLayers": layers,
                "dockerImageManifests": manifests,
            })
        });
        let streams = self.streams.iter().enumerate().map(|(number, stream)| {
            let tags = stream.tags.iter().enumerate().map(|(tag, items)| {
                let items: Vec<Value> = items
                    .iter()
                    .map(|(image, hours)| json!({"image": digest("image", *image), "created": time(*hours)}))
                    .collect();
                json!({"tag": format!("t{tag}"), "items": items})
            });
            json!({
                "metadata": {
                    "namespace": "ns",
                    "name": format!("s{number}"),
                    "resourceVersion": "1",
                    "creationTimestamp": time(stream.hours),
                    "annotations": {"prune-images/keep": stream.keep.to_string()},
                    "labels": {"number": number.to_string()},
                },
                "status": {"tags": tags.collect::<Vec<_>>()},
            })
        });
        let pods = self.pods.iter().enumerate().map(|(number, pod)| {
            let image = pod.pull_spec();
            let field = if pod.ephemeral { "ephemeralContainers" } else { "containers" };
            let statuses: Vec<Value> = pod
                .image_id
                .iter()
                .map(|id| json!({"name": "app", "imageID": format!("{HOST}/ns/s{}@{}", pod.stream, digest("image", *id))}))
                .collect();
            json!({
                "metadata": {"namespace": "ns", "name": format!("p{number}"), "creationTimestamp": time(pod.hours)},
                "spec": {field: [{"name": "app", "image": image}]},
                "status": {"phase": if pod.running { "Running" } else { "Succeeded" }, "containerStatuses": statuses},
            })
        });
        BTreeMap::from([
            ("images", images.collect()),
            ("imagestreams", streams.collect()),
            ("pods", pods.collect()),
        ])
    }
}

impl PodSpec {
    fn pull_spec(&self) -> String {
        match self.reference {
            Reference::Tag(tag) => format!("{HOST}/ns/s{}:t{tag}", self.stream),
            Reference::Digest(image) => format!("{HOST}/ns/s{}@{}", self.stream, digest("image", image)),
        }
    }

    fn counts(&self, rules: &Rules) -> bool {
        self.running || !rules.is_older(NOW - self.hours * 3600 - 1800)
    }
}

fn pages(lists: &BTreeMap<&'static str, Vec<Value>>) -> Vec<(&'static str, Vec<u8>)> {
    let page = |items: &Vec<Value>| json!({ "items": items }).to_string().into_bytes();
    lists.iter().map(|(resource, items)| (*resource, page(items))).collect()
}

/// The lists with every other stream in a namespace of its own.
fn in_two_namespaces(mut lists: BTreeMap<&'static str, Vec<Value>>) -> BTreeMap<&'static str, Vec<Value>> {
    for stream in lists.get_mut("imagestreams").unwrap().iter_mut().step_by(2) {
        stream["metadata"]["namespace"] = "other".into();
    }
    lists
}

fn read(lists: &BTreeMap<&'static str, Vec<Value>>) -> Inventory {
    let pages = pages(lists);
    read_lists(pages.iter().map(|(resource, page)| (*resource, page.as_slice()))).unwrap().inventory
}

fn read_selecting(lists: &BTreeMap<&'static str, Vec<Value>>, selector: &str) -> Inventory {
    let pages = pages(lists);
    let selector = Some(Selector::parse(selector).unwrap());
    let lists = pages.iter().map(|(resource, page)| (*resource, page.as_slice()));
    read_lists_selecting(lists, selector).unwrap().inventory
}

/// Everything that goes, by name.
fn deleted(inventory: &Inventory, plan: &Plan) -> BTreeSet<String> {
    let text = |id| inventory.names.text(id).into_owned();
    let mut all = BTreeSet::new();
    for (stream, decision) in inventory.streams.iter().zip(&plan.streams) {
        let repository = stream.repository();
        for item in &decision.items {
            if let ItemVerdict::Remove(_) = item.verdict {
                all.insert(format!("item {repository} {} {}", item.tag, item.position));
            }
        }
        all.extend(decision.layer_links.iter().map(|id| format!("layer link {repository}@{}", text(*id))));
        all.extend(
            decision.manifest_links.iter().map(|id| format!("manifest link {repository}@{}", text(*id))),
        );
    }
    for (image, decision) in inventory.images.all().iter().zip(&plan.images) {
        if decision.verdict == ImageVerdict::Delete {
            all.insert(format!("image {}", text(image.name)));
        }
        all.extend(decision.blobs.iter().map(|id| format!("blob {}", text(*id))));
    }
    all
}

/// What stage 1 deletes of it.
fn stage1(deleted: &BTreeSet<String>) -> BTreeSet<String> {
    deleted.iter().filter(|name| !name.starts_with("image ") && !name.starts_with("blob ")).cloned().collect()
}

/// The cluster after the plan was carried out.
fn after(
    lists: &BTreeMap<&'static str, Vec<Value>>,
    deleted: &BTreeSet<String>,
) -> BTreeMap<&'static str, Vec<Value>> {
    let mut lists = lists.clone();
    lists
        .get_mut("images")
        .unwrap()
        .retain(|image| !deleted.contains(&format!("image {}", image["metadata"]["name"].as_str().unwrap())));
    for stream in lists.get_mut("imagestreams").unwrap() {
        let repository = format!("ns/{}", stream["metadata"]["name"].as_str().unwrap());
        let tags = stream["status"]["tags"].as_array_mut().unwrap();
        let mut changed = false;
        for (tag, entry) in tags.iter_mut().enumerate() {
            let mut position = 0..;
            entry["items"].as_array_mut().unwrap().retain(|_| {
                let gone = deleted.contains(&format!("item {repository} {tag} {}", position.next().unwrap()));
                changed |= gone;
                !gone
            });
        }
        if changed {
            tags.retain(|tag| !tag["items"].as_array().unwrap().is_empty());
        }
    }
    lists
}

/// The blobs, manifest included, that an image needs to run, sub-manifests at any depth included.
fn needs(images: &[Value], name: &str, seen: &mut BTreeSet<String>) {
    if !seen.insert(name.to_owned()) {
        return;
    }
    for image in images.iter().filter(|image| image["metadata"]["name"] == name) {
        for layer in image["dockerImageLayers"].as_array().unwrap() {
            seen.insert(layer["name"].as_str().unwrap().to_owned());
        }
        if let Some(config) = image["dockerImageMetadata"]["Id"].as_str()
            && image["dockerImageManifestMediaType"] != "application/vnd.oci.image.index.v1+json"
        {
            seen.insert(config.to_owned());
        }
        for manifest in image["dockerImageManifests"].as_array().unwrap() {
            needs(images, manifest["digest"].as_str().unwrap(), seen);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_in_use_is_deleted((world, rules) in (worlds(), rules())) {
        let lists = world.lists();
        let inventory = read(&lists);
        let deleted = deleted(&inventory, &decide(&inventory, &rules));
        let left = after(&lists, &deleted);
        let mut used = BTreeSet::new();
        // What streams still list.
        for stream in &left["imagestreams"] {
            for tag in stream["status"]["tags"].as_array().unwrap() {
                for item in tag["items"].as_array().unwrap() {
                    needs(&lists["images"], item["image"].as_str().unwrap(), &mut used);
                }
            }
        }
        // What pods that count name by digest, run, or name by tag.
        for pod in world.pods.iter().filter(|pod| pod.counts(&rules)) {
            let mut images: Vec<String> = pod.image_id.iter().map(|id| digest("image", *id)).collect();
            match pod.reference {
                Reference::Digest(image) => images.push(digest("image", image)),
                Reference::Tag(tag) => images.extend(
                    world
                        .streams
                        .get(usize::from(pod.stream))
                        .and_then(|stream| stream.tags.get(usize::from(tag)))
                        .and_then(|items| items.first())
                        .map(|(image, _)| digest("image", *image)),
                ),
            }
            let digests = pod.image_id.into_iter().chain(match pod.reference {
                Reference::Digest(image) => Some(image),
                Reference::Tag(_) => None,
            });
            let listed = world.streams.get(usize::from(pod.stream)).map(|stream| stream.tags.concat());
            for image in digests {
                // What is pulled by digest keeps its links in that repository, though no item names it.
                if listed.as_ref().is_some_and(|items| items.iter().all(|(named, _)| *named != image)) {
                    let mut needed = BTreeSet::new();
                    needs(&lists["images"], &digest("image", image), &mut needed);
                    for name in needed {
                        let link = format!("layer link ns/s{}@{name}", pod.stream);
                        prop_assert!(!deleted.contains(&link), "{link} is in use");
                    }
                }
            }
            for image in images {
                needs(&lists["images"], &image, &mut used);
            }
        }
        for name in &used {
            prop_assert!(!deleted.contains(&format!("image {name}")), "image {name} is in use");
            prop_assert!(!deleted.contains(&format!("blob {name}")), "blob {name} is in use");
        }
        // Every image that stays stays whole, used or not.
        for image in &left["images"] {
            let mut whole = BTreeSet::new();
            let mut alone = image.clone();
            alone["dockerImageManifests"] = json!([]);
            let name = image["metadata"]["name"].as_str().unwrap();
            needs(&[alone], name, &mut whole);
            for blob in whole {
                prop_assert!(!deleted.contains(&format!("blob {blob}")), "{name} stays and loses {blob}");
            }
        }
        // No stream that keeps an item loses the links that it needs.
        for stream in &left["imagestreams"] {
            let repository = format!("ns/{}", stream["metadata"]["name"].as_str().unwrap());
            for item in stream["status"]["tags"].as_array().unwrap().iter().flat_map(|tag| tag["items"].as_array().unwrap()) {
                let name = item["image"].as_str().unwrap();
                for image in lists["images"].iter().filter(|image| image["metadata"]["name"] == name) {
                    let manifest = format!("manifest link {repository}@{name}");
                    prop_assert!(!deleted.contains(&manifest), "{manifest}");
                    for layer in image["dockerImageLayers"].as_array().unwrap() {
                        let link = format!("layer link {repository}@{}", layer["name"].as_str().unwrap());
                        prop_assert!(!deleted.contains(&link), "{link}");
                    }
                }
            }
        }
    }

    #[test]
    fn planning_again_after_executing_gives_nothing((world, rules) in (worlds(), rules())) {
        let lists = world.lists();
        let inventory = read(&lists);
        let first = deleted(&inventory, &decide(&inventory, &rules));
        let left = read(&after(&lists, &first));
        let second = deleted(&left, &decide(&left, &rules));
        prop_assert!(second.is_empty(), "{second:#?}");
    }

    #[test]
    fn a_blob_goes_once_and_with_the_last_image_that_names_it((world, rules) in (worlds(), rules())) {
        let inventory = read(&world.lists());
        let plan = decide(&inventory, &rules);
        let doomed = |position: &usize| plan.images.at(*position).verdict == ImageVerdict::Delete;
        let mut seen = BTreeSet::new();
        for (position, decision) in plan.images.iter().enumerate() {
            for blob in decision.blobs {
                prop_assert!(seen.insert(*blob), "{} goes twice", inventory.names.text(*blob));
                let names = |other: &usize| named_blobs(&inventory, *other).any(|named| named == *blob);
                let last = (0..plan.images.len()).filter(doomed).rfind(names);
                prop_assert_eq!(last, Some(position));
            }
        }
    }

    #[test]
    fn the_order_of_the_lists_does_not_matter((world, rules, seed) in (worlds(), rules(), any::<usize>())) {
        let lists = world.lists();
        let mut shuffled = lists.clone();
        for items in shuffled.values_mut() {
            let length = items.len();
            if length > 1 {
                items.rotate_left(seed % length);
                items.swap(0, seed / 7 % length);
            }
        }
        let (one, other) = (read(&lists), read(&shuffled));
        prop_assert_eq!(deleted(&one, &decide(&one, &rules)), deleted(&other, &decide(&other, &rules)));
    }

    #[test]
    fn keeping_more_revisions_deletes_a_subset((world, rules, more) in (worlds(), rules(), 1..4_u32)) {
        let inventory = read(&world.lists());
        let fewer = deleted(&inventory, &decide(&inventory, &rules));
        let Keep::Recent { tag_revisions, cutoff } = rules.keep else { unreachable!("the strategy makes no other") };
        let keep = Keep::Recent { tag_revisions: tag_revisions + more, cutoff };
        let kept_more = deleted(&inventory, &decide(&inventory, &Rules { keep, ..rules }));
        prop_assert!(kept_more.is_subset(&fewer), "{:#?}", kept_more.difference(&fewer).collect::<Vec<_>>());
    }

    #[test]
    fn a_selector_deletes_a_subset_of_the_selected_streams_and_no_image(
        (world, rules, number) in (worlds(), rules(), 0..5_usize)
    ) {
        let lists = world.lists();
        let all = deleted(&read(&lists), &decide(&read(&lists), &rules));
        let of_one: BTreeSet<String> = all.iter().filter(|name| name.contains(&format!(" ns/s{number}"))).cloned().collect();
        for (selector, expected) in [
            (format!("number={number}"), of_one.clone()),
            (format!("number notin ({number})"), &stage1(&all) - &of_one),
            ("!number".to_owned(), BTreeSet::new()),
        ] {
            let inventory = read_selecting(&lists, &selector);
            let plan = decide(&inventory, &rules);
            let found = deleted(&inventory, &plan);
            // What a stream loses depends on no other stream; so this is the whole of it.
            prop_assert_eq!(&found, &expected, "{}", selector);
            prop_assert!(found.iter().all(|name| !name.starts_with("image ") && !name.starts_with("blob ")));
            prop_assert_eq!(plan.stage2, Stage2::SkippedForSelector);
        }
    }

    #[test]
    fn the_plan_deletes_no_more_than_the_reference((world, rules) in (worlds(), rules())) {
        let inventory = read(&world.lists());
        let plan = decide(&inventory, &rules);
        // Each difference names something that stays: none of them is deleted as well.
        let deleted = deleted(&inventory, &plan);
        for differing in plan.differences.iter() {
            use oc_prune_images::plan::DifferingObject as Object;
            let text = |id| inventory.names.text(id).into_owned();
            let repository = |stream: u32| inventory.streams[stream as usize].repository();
            let name = match differing.object {
                Object::Item(stream, tag, position) => format!("item {} {tag} {position}", repository(stream)),
                Object::ManifestLink(stream, id) => format!("manifest link {}@{}", repository(stream), text(id)),
                Object::LayerLink(stream, id) => format!("layer link {}@{}", repository(stream), text(id)),
                Object::Image(position) => format!("image {}", text(inventory.images.all()[position].name)),
                Object::Blob(id) => format!("blob {}", text(id)),
            };
            prop_assert!(!deleted.contains(&name), "{name} differs and is deleted");
        }
    }

    #[test]
    fn storage_is_divided_without_a_rest((world, rules) in (worlds(), rules())) {
        let inventory = read(&in_two_namespaces(world.lists()));
        let plan = decide(&inventory, &rules);
        let all = (0..inventory.images.all().len()).flat_map(|image| named_blobs(&inventory, image));
        let all: BTreeSet<_> = all.filter(|blob| inventory.names.is_digest(*blob)).collect();
        let bytes: u64 = all.iter().filter_map(|blob| inventory.images.blob_bytes(*blob)).sum();
        let mut totals = Vec::new();
        for level in [Level::Namespace, Level::Stream, Level::Tag] {
            let found = usage(&inventory, &plan, level, &Shown::all());
            prop_assert_eq!(
                (found.total.images, found.total.blobs, found.total.bytes),
                (inventory.images.all().len(), all.len(), bytes)
            );
            prop_assert_eq!(found.total.prunable_bytes, plan.counts(&inventory).bytes);
            prop_assert_eq!(found.total.prunable_images, plan.counts(&inventory).images);
            let unique: u64 = found.holders.iter().map(|(_, amounts)| amounts.unique_bytes).sum();
            prop_assert_eq!(found.total.unique_bytes, unique);
            for amounts in found.holders.iter().map(|(_, amounts)| amounts).chain([&found.total]) {
                let Amounts { bytes, unique_bytes, referenced_bytes, prunable_bytes, imported_bytes, .. } = *amounts;
                prop_assert!(unique_bytes <= bytes && imported_bytes <= bytes);
                // What is in use never goes.
                prop_assert!(referenced_bytes + prunable_bytes <= bytes);
                prop_assert!(amounts.unique_prunable_bytes <= unique_bytes.min(prunable_bytes));
                prop_assert!(bytes <= found.total.bytes);
            }
            totals.push(Amounts { unique_bytes: 0, unique_prunable_bytes: 0, ..found.total });
        }
        totals.dedup();
        prop_assert_eq!(totals.len(), 1);
        let none = usage(&inventory, &plan, Level::Stream, &Shown::of(&inventory, Some("elsewhere")));
        prop_assert_eq!((none.holders.len(), none.total), (0, Amounts::default()));
        for namespace in ["ns", "other"] {
            let one = usage(&inventory, &plan, Level::Namespace, &Shown::of(&inventory, Some(namespace)));
            prop_assert!(one.holders.len() <= 1);
            for (_, amounts) in &one.holders {
                prop_assert_eq!(amounts, &one.total);
            }
        }
    }

    #[test]
    fn the_map_of_the_storage_adds_up((world, rules, seed) in (worlds(), rules(), any::<u8>())) {
        let inventory = read(&in_two_namespaces(world.lists()));
        let plan = decide(&inventory, &rules);
        let some = Shown::streams((0..inventory.streams.len()).map(|number| seed >> number & 1 == 1));
        for shown in [Shown::all(), some] {
            let map = storage_map(&inventory, &plan, &shown);
            let add = |one: Area, other: &Area| Area {
                bytes: one.bytes + other.bytes,
                prunable: one.prunable + other.prunable,
            };
            let namespaces = map.namespaces.iter();
            let parts = namespaces
                .flat_map(|namespace| namespace.streams.iter().map(|(_, area)| area).chain([&namespace.shared]))
                .chain([&map.shared, &map.untagged]);
            let sum = parts.fold(Area::default(), add);
            prop_assert_eq!(sum, map.total);
            let total = usage(&inventory, &plan, Level::Tag, &shown).total;
            prop_assert_eq!(map.total, Area { bytes: total.bytes, prunable: total.prunable_bytes });
        }
    }

    #[test]
    fn what_stays_has_a_reason_and_counts_once((world, rules) in (worlds(), rules())) {
        let inventory = read(&world.lists());
        let plan = decide(&inventory, &rules);
        let stays = stays(&inventory, &plan);
        let freed = plan.counts(&inventory);
        let kept: usize = stays.iter().map(|stays| stays.images).sum();
        prop_assert_eq!(kept + freed.images, inventory.images.all().len());
        let total = usage(&inventory, &plan, Level::Stream, &Shown::all()).total.bytes;
        let bytes: u64 = stays.iter().map(|stays| stays.bytes).sum();
        if rules.prune_registry {
            prop_assert_eq!(bytes + freed.bytes, total);
        }
    }

    #[test]
    fn what_if_says_what_a_plan_with_these_values_says((world, rules) in (worlds(), rules())) {
        let inventory = read(&world.lists());
        let ages = [0_i64, 1, 30, 90, 300];
        let combinations: Vec<Keep> = (0..5)
            .flat_map(|tag_revisions| {
                ages.map(|hours| Keep::Recent { tag_revisions, cutoff: i128::from(NOW - hours * 3600) * 1_000_000_000 })
            })
            .collect();
        let freed = what_if(&inventory, &rules, &combinations);
        prop_assert_eq!(freed.len(), combinations.len());
        for (freed, keep) in freed.iter().zip(&combinations) {
            let plan = decide(&inventory, &Rules { keep: *keep, ..rules.clone() });
            prop_assert_eq!((freed.keep, freed.counts), (*keep, plan.counts(&inventory)));
            prop_assert_eq!(freed.invalid_references, plan.references.invalid().len());
        }
        for (position, less) in freed.iter().enumerate() {
            // Further down and further right more is kept.
            let more = [Some(position + ages.len()), (position % ages.len() + 1 < ages.len()).then_some(position + 1)];
            for more in more.into_iter().flatten().filter_map(|more| freed.get(more)) {
                prop_assert!(more.counts.images <= less.counts.images && more.counts.bytes <= less.counts.bytes);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_explanation_says_what_the_plan_does((world, (rules, selector)) in (worlds(), scoped_rules())) {
        let inventory = read_scoped(&world, selector);
        let plan = decide(&inventory, &rules);
        explained::agrees(&inventory, &plan, jiff::Timestamp::from_second(NOW).unwrap());
    }

    #[test]
    fn what_an_explanation_asks_to_change_is_enough((world, (rules, selector)) in (worlds(), scoped_rules())) {
        let inventory = read_scoped(&world, selector);
        let plan = decide(&inventory, &rules);
        let explainer = Explainer::new(&inventory, &plan);
        for image in inventory.images.all() {
            explained::changes_are_enough(&inventory, &plan, &explainer.image(image.name));
        }
    }

    #[test]
    fn what_is_stuck_goes_with_no_value_above_0_and_frees_what_is_told((world, rules) in (worlds(), rules())) {
        let inventory = read(&world.lists());
        let Keep::Recent { tag_revisions, cutoff } = rules.keep else { unreachable!("the strategy makes no other") };
        let with = |tag_revisions| Rules { keep: Keep::Recent { tag_revisions, cutoff }, ..rules.clone() };
        let found = stuck(&inventory, &rules).unwrap();
        let now = with(tag_revisions.max(1));
        let blobs = |inventory: &Inventory| -> BTreeSet<_> {
            decide(inventory, &now).images.blobs().iter().copied().collect()
        };
        let before = blobs(&inventory);
        let freed = |changes: &[Change]| -> u64 {
            let after = blobs(&apply(&inventory, &now, changes).0);
            after.difference(&before).filter_map(|blob| inventory.images.blob_bytes(*blob)).sum()
        };
        let mut all = Vec::new();
        let mut named = BTreeSet::new();
        for of_stream in &found.streams {
            let stream = &inventory.streams[of_stream.stream];
            let mut deleted = Vec::new();
            for image in &of_stream.images {
                named.insert(image.image);
                prop_assert_eq!(stream.tags[image.tag].items.len(), 1);
                let at = inventory.images.find(image.image).unwrap();
                for (value, goes) in [(0, true), (1, false), (2, false), (7, false)] {
                    let plan = decide(&inventory, &with(value));
                    let tag = u32::try_from(image.tag).unwrap();
                    let item = plan.streams[of_stream.stream].items.iter().find(|item| item.tag == tag).unwrap();
                    prop_assert_eq!(matches!(item.verdict, ItemVerdict::Remove(_)), goes);
                    prop_assert!(goes || plan.images.at(at).verdict != ImageVerdict::Delete);
                }
                if image.proposed {
                    deleted.push(Change::DeleteTag { stream: of_stream.stream, tag: image.tag });
                }
            }
            prop_assert_eq!(of_stream.freed, freed(&deleted));
            all.extend(deleted);
        }
        prop_assert_eq!((found.images, found.freed), (named.len(), freed(&all)));
    }
}

/// What is seen of these objects alone.
fn seen(lists: &[(&'static str, Vec<Value>)]) -> Inventory {
    read(&lists.iter().cloned().collect())
}

/// What is still deleted of a plan once the guard has seen what changed.
fn left_by(guard: &Guard, inventory: &Inventory, plan: &Plan) -> BTreeSet<String> {
    let mut plan = plan.clone();
    let mut kept = BTreeSet::new();
    for (stream, decision) in inventory.streams.iter().zip(&mut plan.streams) {
        let spared = guard.spare(inventory, stream, decision);
        kept.extend(inventory.images.with_submanifests(spared.into_iter().map(|(_, image, _)| image)));
        let repository = stream.repository();
        decision.manifest_links.retain(|link| guard.manifest_link(&repository, *link).is_none());
        decision.layer_links.retain(|link| guard.layer_link(&repository, *link).is_none());
    }
    let mut left = deleted(inventory, &plan);
    for image in inventory.images.all() {
        if guard.image(image.name).is_some() || kept.contains(&image.name) {
            left.remove(&format!("image {}", inventory.names.text(image.name)));
        }
    }
    // Images are decided about once more after stage 1: what its items name stays whole.
    let by_items: BTreeSet<_> = kept
        .iter()
        .filter_map(|image| inventory.images.find(*image))
        .flat_map(|position| named_blobs(inventory, position))
        .collect();
    for blob in plan.images.blobs() {
        if guard.blob(*blob).is_some() || by_items.contains(blob) {
            left.remove(&format!("blob {}", inventory.names.text(*blob)));
        }
    }
    left
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_becomes_referenced_or_marked_meanwhile_stays(
        (world, late, rules) in (worlds(), pods(), rules()),
        (marked_image, marked_stream) in (prop::option::of(0..14_usize), prop::option::of(0..5_usize)),
    ) {
        let mut lists = world.lists();
        let inventory = read(&lists);
        let plan = decide(&inventory, &rules);
        let mut now = vec![("pods", World { pods: late, ..world.clone() }.lists()["pods"].clone())];
        for pod in &mut now[0].1 {
            pod["metadata"]["namespace"] = "late".into();
        }
        lists.get_mut("pods").unwrap().extend(now[0].1.clone());
        for (resource, position) in [("images", marked_image), ("imagestreams", marked_stream)] {
            if let Some(object) = position.and_then(|position| lists.get_mut(resource).unwrap().get_mut(position)) {
                object["metadata"]["annotations"]["prune-images/keep"] = "true".into();
                now.push((resource, vec![object.clone()]));
            }
        }
        let mut guard = Guard::default();
        guard.learn(&inventory, &rules, &seen(&now));
        let after = read(&lists);
        let may_go = deleted(&after, &decide(&after, &rules));
        for name in left_by(&guard, &inventory, &plan) {
            prop_assert!(may_go.contains(&name), "{name} is needed");
        }
    }

    #[test]
    fn what_is_pushed_or_tagged_meanwhile_stays(
        (world, rules, new_images) in (worlds(), rules(), 0..4_usize),
        new_items in prop::collection::vec((0..5_usize, 0..4_usize, 0..16_u8), 0..4),
    ) {
        let after = world.lists();
        let mut lists = after.clone();
        let left = lists["images"].len().saturating_sub(new_images);
        let pushed = lists.get_mut("images").unwrap().split_off(left);
        let inventory = read(&lists);
        let mut after = after;
        let mut changed = BTreeSet::new();
        for (stream, tag, image) in new_items {
            let Some(stream_now) = after.get_mut("imagestreams").unwrap().get_mut(stream) else { continue };
            let tags = stream_now["status"]["tags"].as_array_mut().unwrap();
            let item = json!({"image": digest("image", image), "created": time(0)});
            match tags.get_mut(tag) {
                Some(tag) => tag["items"].as_array_mut().unwrap().insert(0, item),
                None => tags.push(json!({"tag": format!("new{image}"), "items": [item]})),
            }
            changed.insert(stream);
        }
        let streams = changed.iter().map(|stream| after["imagestreams"][*stream].clone()).collect();
        let mut guards = [Guard::default(), Guard::default()];
        let (images, streams) = (seen(&[("images", pushed)]), seen(&[("imagestreams", streams)]));
        // One watch may be faster than the other.
        guards[0].learn(&inventory, &rules, &images);
        guards[0].learn(&inventory, &rules, &streams);
        guards[1].learn(&inventory, &rules, &streams);
        guards[1].learn(&inventory, &rules, &images);
        let after = read(&after);
        let (now, stage2) = decide_images(&after, &rules, |_| true);
        let (then, _) = decide_images(&inventory, &rules, |_| true);
        prop_assume!(stage2 == Stage2::Runs);
        let names = |inventory: &Inventory, decisions: &oc_prune_images::plan::ImageDecisions| {
            let all = inventory.images.all().iter().zip(decisions);
            let images = all.filter(|(_, decision)| decision.verdict == ImageVerdict::Delete).map(|(image, _)| image.name);
            (images.collect::<Vec<_>>(), decisions.blobs().to_vec())
        };
        let text = |inventory: &Inventory, id| inventory.names.text(id).into_owned();
        let (images_now, blobs_now) = names(&after, &now);
        let images_now: BTreeSet<String> = images_now.into_iter().map(|id| text(&after, id)).collect();
        let blobs_now: BTreeSet<String> = blobs_now.into_iter().map(|id| text(&after, id)).collect();
        let (images, blobs) = names(&inventory, &then);
        for guard in guards {
            for id in images.iter().filter(|id| guard.image(**id).is_none()) {
                prop_assert!(images_now.contains(&text(&inventory, *id)), "image {}", text(&inventory, *id));
            }
            for id in blobs.iter().filter(|id| guard.blob(**id).is_none()) {
                prop_assert!(blobs_now.contains(&text(&inventory, *id)), "blob {}", text(&inventory, *id));
            }
        }
    }
}

/// Rules of every kind: by revisions and by size, with a namespace and without; with the stream to be selected.
fn scoped_rules() -> impl Strategy<Value = (Rules, Option<u8>)> {
    let namespace = prop::option::weighted(0.2, prop_oneof![Just("ns"), Just("other")]);
    let selected = prop::option::weighted(0.2, 0..5_u8);
    (rules(), prop::bool::weighted(0.2), namespace, selected).prop_map(
        |(rules, by_size, namespace, selected)| {
            let keep = if by_size { Keep::WithinSizeLimit } else { rules.keep };
            (Rules { keep, namespace: namespace.map(ToOwned::to_owned), ..rules }, selected)
        },
    )
}

fn read_scoped(world: &World, selected: Option<u8>) -> Inventory {
    match selected {
        Some(number) => read_selecting(&world.lists(), &format!("number={number}")),
        None => read(&world.lists()),
    }
}
