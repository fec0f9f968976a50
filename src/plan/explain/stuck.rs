//! Images that no value of `--keep-tag-revisions` above 0 can ever prune (openshift/openshift-docs#3409).

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;

use super::{Change, Explainer, Obstacle, apply, date_in};
use crate::model::{Id, IdSet, Inventory, Stream};
use crate::plan::decide::{ImageVerdict, Plan, decide_alone, named_blobs};
use crate::plan::{Keep, Rules};

/// What is stuck in the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stuck {
    /// The streams that hold stuck images, the one whose deletion frees most first.
    pub streams: Vec<StuckStream>,
    /// How many images there are.
    pub images: usize,
    /// The bytes of all their blobs, each once.
    pub bytes: u64,
    /// The bytes that a prune frees once all proposed tags are deleted, beyond what it frees today.
    pub freed: u64,
}

/// A stream that holds stuck images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StuckStream {
    /// Its position in the inventory.
    pub stream: usize,
    /// The bytes of all blobs of its stuck images, each once.
    pub bytes: u64,
    /// The bytes that a prune frees once the proposed tags of this stream alone are deleted.
    pub freed: u64,
    /// Its stuck tags, the largest first.
    pub images: Vec<StuckImage>,
}

/// A tag that has one item, and the image that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StuckImage {
    /// The position of the tag in the stream.
    pub tag: usize,
    /// When the tag was made.
    pub created: i64,
    /// The image.
    pub image: Id,
    /// The date in the name of the tag.
    pub date: Option<Date>,
    /// The bytes of the image's blobs, each once.
    pub bytes: u64,
    /// Of these, the bytes of blobs that no other image names that stays.
    pub unique: u64,
    /// Whether it is proposed to delete the tag: it is not among the newest of its stream.
    pub proposed: bool,
}

/// Finds the stuck images.
///
/// An item is stuck if it is the only one of its tag, older than the cutoff, and nothing but the rule of the revisions
/// holds it: no value above 0 removes it, and its tag never had a second item that would push it back. The newest tags
/// of a stream, as many as `--keep-tag-revisions` (but one at least), are stuck as well, but not proposed for deletion.
/// `None` where images are not selected by revisions.
#[must_use]
pub fn stuck(inventory: &Inventory, rules: &Rules) -> Option<Stuck> {
    let Keep::Recent { tag_revisions, cutoff } = rules.keep else { return None };
    let newest = (tag_revisions.max(1)) as usize;
    let keep = Keep::Recent { tag_revisions: tag_revisions.max(1), cutoff };
    // What is freed is freed by a prune of the whole cluster, whichever streams are looked at.
    let keep = Rules { keep, ..rules.clone() };
    let (everything, everywhere) = apply(inventory, &keep, &[Change::NoNamespace, Change::NoSelector]);
    let in_scope = |stream: &Stream| {
        stream.selected && rules.namespace.as_deref().is_none_or(|only| *only == *stream.namespace)
    };
    let scope: Vec<bool> = inventory.streams.iter().map(in_scope).collect();
    let inventory = &everything;
    let plan = decide_alone(inventory, &everywhere);
    let explainer = Explainer::new(inventory, &plan);
    let mut streams = Vec::new();
    let mut deleted = Vec::new();
    for (position, stream) in inventory.streams.iter().enumerate() {
        if !scope[position] {
            continue;
        }
        let kept_newest = newest_tags(inventory, position, newest);
        let mut images: Vec<StuckImage> = Vec::new();
        for (tag, of_tag) in stream.tags.iter().enumerate() {
            let [item] = of_tag.items.as_slice() else { continue };
            if explainer.place(position, tag, 0).obstacles != [Obstacle::Revision] {
                continue;
            }
            let proposed = !kept_newest.contains(&tag);
            if proposed {
                deleted.push(Change::DeleteTag { stream: position, tag });
            }
            let fates = explainer.image(item.image).blobs;
            let sum = |only_unique: bool| {
                let blobs = fates.iter().filter(|blob| blob.goes || !only_unique);
                blobs.filter_map(|blob| blob.bytes).sum()
            };
            images.push(StuckImage {
                tag,
                created: item.created,
                image: item.image,
                date: date_in(inventory.names.words.text(of_tag.name)),
                bytes: sum(false),
                unique: sum(true),
                proposed,
            });
        }
        if !images.is_empty() {
            images.sort_by_key(|image| (std::cmp::Reverse(image.bytes), image.tag));
            let bytes = bytes_of(inventory, images.iter().map(|image| image.image));
            streams.push(StuckStream { stream: position, bytes, freed: 0, images });
        }
    }
    let (after, _) = apply(inventory, &everywhere, &deleted);
    let then = decide_alone(&after, &everywhere);
    let today = plan.doomed_blobs();
    let freed: IdSet = then.doomed_blobs().iter().filter(|blob| !today.contains(*blob)).collect();
    share_out(inventory, (&plan, &then), &freed, &explainer, &mut streams);
    let freed = freed.iter().filter_map(|blob| inventory.images.blob_bytes(blob)).sum();
    streams.sort_by_key(|stream| (std::cmp::Reverse((stream.freed, stream.bytes)), stream.stream));
    let all: BTreeSet<Id> =
        streams.iter().flat_map(|stream| &stream.images).map(|image| image.image).collect();
    Some(Stuck { images: all.len(), bytes: bytes_of(inventory, all), freed, streams })
}

/// The tags of a stream that were made, or moved, last.
fn newest_tags(inventory: &Inventory, stream: usize, number: usize) -> BTreeSet<usize> {
    let tags = inventory.streams[stream].tags.iter().enumerate();
    let mut by_age: Vec<(i64, usize)> =
        tags.filter_map(|(tag, of_tag)| Some((of_tag.items.first()?.created, tag))).collect();
    by_age.sort_unstable_by(|one, other| other.cmp(one));
    by_age.into_iter().take(number).map(|(_, tag)| tag).collect()
}

/// The bytes of the blobs of these images, sub-manifests included, each once.
fn bytes_of(inventory: &Inventory, images: impl IntoIterator<Item = Id>) -> u64 {
    let all = inventory.images.with_submanifests(images);
    let there = all.into_iter().filter_map(|image| inventory.images.find(image));
    let blobs: BTreeSet<Id> = there.flat_map(|position| named_blobs(inventory, position)).collect();
    blobs.into_iter().filter_map(|blob| inventory.images.blob_bytes(blob)).sum()
}

/// Works out what each stream frees alone: the blobs whose every user that stays today goes because of this stream.
fn share_out(
    inventory: &Inventory,
    (now, then): (&Plan, &Plan),
    freed: &IdSet,
    explainer: &Explainer<'_>,
    streams: &mut [StuckStream],
) {
    let by_position: BTreeMap<usize, usize> =
        streams.iter().enumerate().map(|(index, stream)| (stream.stream, index)).collect();
    // The one stream that holds each image that goes then and stays now; `None` where several do.
    let mut holder: BTreeMap<usize, Option<usize>> = BTreeMap::new();
    for (position, (one, other)) in now.images.iter().zip(&then.images).enumerate() {
        if one.verdict != ImageVerdict::Delete && other.verdict == ImageVerdict::Delete {
            let places = explainer.image(inventory.images.all()[position].name).places;
            let holding: BTreeSet<usize> =
                places.iter().filter(|place| place.stays()).map(|place| place.stream).collect();
            let mut holding = holding.into_iter();
            holder.insert(position, holding.next().filter(|_| holding.next().is_none()));
        }
    }
    let mut users: BTreeMap<Id, BTreeSet<Option<usize>>> = BTreeMap::new();
    for (position, decision) in now.images.iter().enumerate() {
        if decision.verdict != ImageVerdict::Delete {
            for blob in named_blobs(inventory, position).filter(|blob| freed.contains(*blob)) {
                users.entry(blob).or_default().insert(holder.get(&position).copied().flatten());
            }
        }
    }
    for (blob, holders) in users {
        let mut holders = holders.into_iter();
        if let (Some(Some(stream)), None) = (holders.next(), holders.next())
            && let Some(index) = by_position.get(&stream)
        {
            streams[*index].freed += inventory.images.blob_bytes(blob).unwrap_or(0);
        }
    }
}
