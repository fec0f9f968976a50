//! The rules of stage 1 (items and links) and stage 2 (images and blobs).

use std::collections::{BTreeMap, BTreeSet};

use super::differences::{Differing, differences};
use super::leftovers::Leftovers;
use super::marks::Marks;
use super::references::{References, StreamReferences, Use, difference_of_all};
use super::{Counts, Difference, Keep, Rules};
use crate::model::{Id, Image, Images, Import, Inventory, Item, Stream, Tag};

/// What is to be pruned, and why everything else stays.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The rules it was made with.
    pub rules: Rules,
    /// The references that count.
    pub references: References,
    /// One decision for each stream of the inventory, in its order.
    pub streams: Vec<StreamDecision>,
    /// One decision for each image of the inventory, in its order.
    pub images: Vec<ImageDecision>,
    /// Whether stage 2 takes place.
    pub stage2: Stage2,
    /// Everything that the reference implementation would delete and this plan does not.
    pub differences: Vec<Differing>,
    /// What a run that was cut short has left behind, and no list of the cluster names any longer.
    pub leftovers: Leftovers,
}

/// Whether images and blobs are deleted at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage2 {
    /// They are.
    Runs,
    /// `--namespace` was given: images belong to no namespace.
    SkippedForNamespace,
    /// `--selector` was given: images have no labels of streams.
    SkippedForSelector,
    /// This image (by position) is no index and has no metadata: nobody knows which config it needs.
    SkippedForMetadata(usize),
}

/// The decision about one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamDecision {
    /// Why nothing in it changes, whatever its items say.
    pub verdict: StreamVerdict,
    /// One decision for each item, by tag and position.
    pub items: Vec<ItemDecision>,
    /// Manifests that no item names any longer.
    pub manifest_links: Vec<Id>,
    /// Blobs that no item needs any longer.
    pub layer_links: Vec<Id>,
}

impl StreamDecision {
    /// How many items go.
    #[must_use]
    pub fn removed(&self) -> usize {
        self.items.iter().filter(|item| matches!(item.verdict, ItemVerdict::Remove(_))).count()
    }

    /// Whether the server imports again what this decision about `stream` takes from the item's tag. Only what is
    /// current comes back: older items were replaced by what the tag's source has now.
    #[must_use]
    pub fn reimport(&self, stream: &Stream, item: &ItemDecision) -> Option<Reimport> {
        if item.position > 0 || !matches!(item.verdict, ItemVerdict::Remove(_)) {
            return None;
        }
        // Sorted by tag and position.
        let of_tag = &self.items[self.items.partition_point(|other| other.tag < item.tag)..];
        let kept = of_tag
            .iter()
            .take_while(|other| other.tag == item.tag)
            .find(|other| matches!(other.verdict, ItemVerdict::Keep(..)));
        // A tag without items is dropped, and with it everything that tells of an import.
        let is_forgotten = |imported: u32| match kept {
            Some(kept) => kept.position >= imported,
            None => imported < u32::MAX,
        };
        match stream.tags[item.tag as usize].import {
            Import::Never => None,
            Import::OnChange { imported } => is_forgotten(imported).then_some(Reimport::AtOnce),
            Import::Scheduled { imported } if is_forgotten(imported) => Some(Reimport::AtOnce),
            Import::Scheduled { .. } => Some(Reimport::OnSchedule),
        }
    }
}

/// When the server imports a pruned image again, because `spec.tags` still asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Reimport {
    /// As soon as it sees the change: nothing in the status tells any longer that the tag was imported.
    AtOnce,
    /// With the next scheduled import of the tag: every 15 minutes, unless the cluster is configured otherwise.
    OnSchedule,
}

/// Whether the items of a stream are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamVerdict {
    /// They are.
    #[default]
    Examined,
    /// It is not in the namespace that `--namespace` gives.
    OtherNamespace,
    /// Its labels do not match `--selector`.
    NotSelected,
    /// It is younger than the cutoff.
    Young,
    /// It, or its namespace, carries the protecting label or annotation.
    Protected,
    /// It names this image (by position), which has no metadata.
    MetadataAbsent(usize),
}

impl StreamVerdict {
    /// Whether the flags mean the stream at all.
    #[must_use]
    pub fn is_in_scope(self) -> bool {
        !matches!(self, Self::OtherNamespace | Self::NotSelected)
    }
}

/// The decision about one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemDecision {
    /// The position of the tag in `status.tags`.
    pub tag: u32,
    /// The position of the item in the tag.
    pub position: u32,
    /// The image it names.
    pub image: Id,
    /// Keep or remove.
    pub verdict: ItemVerdict,
}

/// Keep or remove an item, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemVerdict {
    /// It stays; with the difference from the reference implementation, if it makes one.
    Keep(ItemKeep, Option<Difference>),
    /// It goes.
    Remove(ItemRemove),
}

/// Why an item stays: the first rule that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemKeep {
    /// Rule 3a: created after the cutoff.
    Young,
    /// Rule 3b: the current item of a tag that is referenced.
    TagReferenced,
    /// Rule 3c: its image appeared after the images were read.
    ImageAppeared,
    /// Rule 3d: among the first `--keep-tag-revisions` items.
    Revision,
    /// Rule 3d in over-size mode: exceeds no limit.
    WithinSizeLimit,
    /// Rule 3e: the image is referenced in this stream.
    ImageReferenced,
    /// A sub-manifest of this index (by id) is referenced in this stream.
    SubmanifestReferenced(Id),
    /// The image carries the protecting label or annotation.
    Protected,
    /// Nothing keeps it, but the plan that was agreed to does not name it.
    NotPlanned,
}

/// Why an item goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemRemove {
    /// Rule 3c: its Image object does not exist.
    ImageMissing,
    /// Rule 3f: beyond `--keep-tag-revisions`, and nothing refers to it.
    Unreferenced,
    /// Rule 3f in over-size mode: exceeds a limit, and nothing refers to it.
    OverSizeLimit,
}

/// The decision about one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDecision {
    /// Keep or delete.
    pub verdict: ImageVerdict,
    /// The blobs that go with it, the manifest last: each blob stands with the last image that names it.
    pub blobs: Vec<Id>,
}

/// Keep or delete an image, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageVerdict {
    /// Nothing uses it.
    Delete,
    /// Stage 2 does not take place.
    KeepStage2Skipped,
    /// An item names it, or an index that uses it.
    KeepUsed(UsedBy, Option<Difference>),
    /// `--all=false`, and it was not pushed to the integrated registry.
    KeepNotManaged,
    /// Created after the cutoff.
    KeepYoung,
    /// It appeared after the images were read.
    KeepAppeared,
    /// Nothing uses it any longer, but the plan that was agreed to does not name it.
    KeepNotPlanned,
    /// A live object refers to this digest: its own, or that of an index it belongs to.
    KeepReferenced(Id, Difference),
    /// It, or an index it belongs to, carries the protecting label or annotation.
    KeepProtected,
}

/// What names an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsedBy {
    /// An item, by the positions of its stream and of its tag there.
    Item {
        /// The position of the stream in the inventory.
        stream: u32,
        /// The position of the tag in the stream.
        tag: u32,
    },
    /// A used index, by its position among the images.
    Index(u32),
}

/// Whether the rules that the reference implementation does not have apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Safety {
    Ours,
    Reference,
}

/// Decides about everything.
#[must_use]
pub fn decide(inventory: &Inventory, rules: &Rules) -> Plan {
    let mut plan = decide_alone(inventory, rules);
    plan.differences = differences(inventory, &plan);
    plan
}

/// Decides about everything, without a look at what the reference implementation would do.
pub(super) fn decide_alone(inventory: &Inventory, rules: &Rules) -> Plan {
    let references = References::collect(inventory, rules);
    let (mut decider, stage2) = Decider::new(inventory, rules, &references, Safety::Ours);
    let streams: Vec<_> = inventory.streams.iter().map(|stream| decider.stream(stream)).collect();
    let images = decider.images(&streams, stage2, |_| true);
    Plan {
        rules: rules.clone(),
        references,
        streams,
        images,
        stage2,
        differences: Vec::new(),
        leftovers: Leftovers::default(),
    }
}

/// Decides about everything; of what may go, only that goes of which `item` and `image` say that it was agreed to
/// before.
#[must_use]
pub fn decide_agreed(
    inventory: &Inventory,
    rules: &Rules,
    item: impl Fn(&Stream, &Tag, &Item) -> bool,
    image: impl Fn(&Image) -> bool,
) -> Plan {
    let references = References::collect(inventory, rules);
    let (mut decider, stage2) = Decider::new(inventory, rules, &references, Safety::Ours);
    let streams: Vec<_> = inventory.streams.iter().map(|stream| decider.stream_if(stream, &item)).collect();
    let images = decider.images(&streams, stage2, |position| image(&inventory.images.all()[position]));
    Plan {
        rules: rules.clone(),
        references,
        streams,
        images,
        stage2,
        differences: Vec::new(),
        leftovers: Leftovers::default(),
    }
}

/// What the reference implementation would decide from the same state.
pub(super) fn decide_as_reference(
    inventory: &Inventory,
    plan: &Plan,
) -> (Vec<StreamDecision>, Vec<ImageDecision>) {
    let (mut decider, stage2) = Decider::new(inventory, &plan.rules, &plan.references, Safety::Reference);
    let streams: Vec<_> = inventory.streams.iter().map(|stream| decider.stream(stream)).collect();
    let images = decider.images(&streams, stage2, |_| true);
    (streams, images)
}

impl Plan {
    /// Every blob that goes.
    #[must_use]
    pub fn doomed_blobs(&self) -> BTreeSet<Id> {
        self.images.iter().flat_map(|image| &image.blobs).copied().collect()
    }

    /// How much goes.
    #[must_use]
    pub fn counts(&self, inventory: &Inventory) -> Counts {
        let mut counts = Counts::default();
        for decision in &self.streams {
            let removed = decision.removed();
            counts.image_stream_tag_items += removed;
            counts.image_streams += usize::from(removed > 0);
            counts.layer_links += decision.layer_links.len();
            counts.manifest_links += decision.manifest_links.len();
        }
        for decision in &self.images {
            counts.images += usize::from(decision.verdict == ImageVerdict::Delete);
            for blob in &decision.blobs {
                counts.add_blob(inventory.images.blob_bytes(*blob));
            }
        }
        self.leftovers.count(&mut counts, inventory);
        counts
    }

    /// Whether anything in the registry goes.
    #[must_use]
    pub fn changes_registry(&self) -> bool {
        self.streams.iter().any(|stream| !stream.layer_links.is_empty() || !stream.manifest_links.is_empty())
            || self.images.iter().any(|image| !image.blobs.is_empty())
            || !self.leftovers.is_empty()
    }

    /// Decides about one stream as it is now: for a stream that changed since it was read.
    #[must_use]
    pub fn decide_stream(&self, inventory: &Inventory, stream: &Stream) -> StreamDecision {
        Decider::new(inventory, &self.rules, &self.references, Safety::Ours).0.stream(stream)
    }
}

/// Decides about images once stage 1 is done: `inventory` has streams and referrers as they are now, and all items
/// count. Only images of which `planned` says so (by position) may go: nobody agreed to more.
#[must_use]
pub fn decide_images(
    inventory: &Inventory,
    rules: &Rules,
    planned: impl Fn(usize) -> bool,
) -> (Vec<ImageDecision>, Stage2) {
    let references = References::collect(inventory, rules);
    let (mut decider, stage2) = Decider::new(inventory, rules, &references, Safety::Ours);
    let kept: Vec<_> = inventory.streams.iter().map(all_kept).collect();
    (decider.images(&kept, stage2, planned), stage2)
}

/// What the items of a stream need in its repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// Manifests whose links must stay.
    pub manifests: BTreeSet<Id>,
    /// Blobs whose layer links must stay.
    pub blobs: BTreeSet<Id>,
    /// These manifests, and those that indexes among them hold at any depth: the registry serves them without a link of
    /// their own, and refuses to delete that link (405).
    pub submanifests: BTreeSet<Id>,
}

/// What the items of a stream, as it is now, need in its repository.
#[must_use]
pub fn needed_in_repository(inventory: &Inventory, stream: &Stream) -> Needed {
    let mut needed = Needed::default();
    for (_, _, item) in items(stream) {
        needed.manifests.insert(item.image);
        if let Some(position) = inventory.images.find(item.image) {
            needed.blobs.extend(inventory.images.layers(position));
            needed.blobs.extend(inventory.images.all()[position].config);
        }
    }
    needed.submanifests = inventory.images.with_submanifests(needed.manifests.iter().copied());
    needed
}

fn all_kept(stream: &Stream) -> StreamDecision {
    let items = items(stream).map(|(tag, position, item)| ItemDecision {
        tag,
        position,
        image: item.image,
        verdict: ItemVerdict::Keep(ItemKeep::Revision, None),
    });
    StreamDecision { items: items.collect(), ..StreamDecision::default() }
}

/// The images that items name and the list of images does not have: each must be asked for by name before its
/// items may go (rule 3c).
#[must_use]
pub fn missing_images(inventory: &Inventory, rules: &Rules, streams: &[Stream]) -> Vec<Id> {
    let in_scope = |stream: &&Stream| {
        stream.selected && rules.namespace.as_deref().is_none_or(|namespace| *namespace == *stream.namespace)
    };
    let named = streams.iter().filter(in_scope).flat_map(items).map(|(_, _, item)| item.image);
    let mut missing: Vec<Id> = named.filter(|image| inventory.images.find(*image).is_none()).collect();
    // No image can have an empty name, and asking for it would list them all.
    missing.retain(|image| !inventory.names.text(*image).is_empty());
    missing.sort_unstable();
    missing.dedup();
    missing
}

fn items(stream: &Stream) -> impl Iterator<Item = (u32, u32, &Item)> {
    (0..).zip(&stream.tags).flat_map(|(tag_position, tag)| {
        (0..).zip(&tag.items).map(move |(position, item)| (tag_position, position, item))
    })
}

/// The indexes (positions) that list each sub-manifest.
pub(super) fn parents(images: &Images) -> BTreeMap<Id, Vec<usize>> {
    let mut parents: BTreeMap<Id, Vec<usize>> = BTreeMap::new();
    for position in 0..images.all().len() {
        for manifest in images.manifests(position) {
            parents.entry(*manifest).or_default().push(position);
        }
    }
    parents
}

struct Decider<'a> {
    inventory: &'a Inventory,
    rules: &'a Rules,
    references: &'a References,
    safety: Safety,
    /// The indexes (positions) that list a sub-manifest.
    parents: BTreeMap<Id, Vec<usize>>,
    kept: Marks,
    gone: Marks,
}

impl<'a> Decider<'a> {
    fn new(
        inventory: &'a Inventory,
        rules: &'a Rules,
        references: &'a References,
        safety: Safety,
    ) -> (Self, Stage2) {
        let images = &inventory.images;
        let parents = parents(images);
        let stage2 = if rules.namespace.is_some() {
            Stage2::SkippedForNamespace
        } else if inventory.selector.is_some() {
            Stage2::SkippedForSelector
        } else if let Some(position) = images.all().iter().position(|image| image.metadata_absent) {
            Stage2::SkippedForMetadata(position)
        } else {
            Stage2::Runs
        };
        let names = inventory.names.len();
        let (kept, gone) = (Marks::new(names), Marks::new(names));
        (Self { inventory, rules, references, safety, parents, kept, gone }, stage2)
    }

    fn image(&self, name: Id) -> Option<(usize, &'a Image)> {
        let position = self.inventory.images.find(name)?;
        Some((position, &self.inventory.images.all()[position]))
    }

    /// Stage 1 for one stream.
    fn stream(&mut self, stream: &Stream) -> StreamDecision {
        self.stream_if(stream, &|_: &Stream, _: &Tag, _: &Item| true)
    }

    /// The same, where an item goes only if `agreed` says so.
    fn stream_if(
        &mut self,
        stream: &Stream,
        agreed: &impl Fn(&Stream, &Tag, &Item) -> bool,
    ) -> StreamDecision {
        let verdict = self.stream_verdict(stream);
        if verdict != StreamVerdict::Examined {
            return StreamDecision { verdict, ..StreamDecision::default() };
        }
        let references = self.references.of_stream(&stream.repository());
        let held = references.map(|references| self.indexes_of_referenced(references)).unwrap_or_default();
        let mut decision = StreamDecision::default();
        for (tag, position, item) in items(stream) {
            let verdict = match self.item(stream, tag, position, item, references, &held) {
                ItemVerdict::Remove(_) if !agreed(stream, &stream.tags[tag as usize], item) => {
                    ItemVerdict::Keep(ItemKeep::NotPlanned, None)
                }
                verdict => verdict,
            };
            decision.items.push(ItemDecision { tag, position, image: item.image, verdict });
        }
        if self.rules.prune_registry && decision.removed() > 0 {
            self.links(references, &mut decision);
        }
        decision
    }

    fn stream_verdict(&self, stream: &Stream) -> StreamVerdict {
        if self.rules.namespace.as_deref().is_some_and(|namespace| *namespace != *stream.namespace) {
            return StreamVerdict::OtherNamespace;
        }
        if !stream.selected {
            return StreamVerdict::NotSelected;
        }
        if self.rules.is_young(stream.created) {
            return StreamVerdict::Young;
        }
        let protected =
            stream.protected || self.inventory.protected_namespaces.binary_search(&stream.namespace).is_ok();
        if protected && self.safety == Safety::Ours {
            return StreamVerdict::Protected;
        }
        let absent = items(stream)
            .filter_map(|(_, _, item)| self.image(item.image))
            .find(|(_, image)| image.metadata_absent);
        absent.map_or(StreamVerdict::Examined, |(position, _)| StreamVerdict::MetadataAbsent(position))
    }

    /// The indexes that hold a sub-manifest which is referenced in the stream, at any depth, with the
    /// sub-manifest that decided.
    fn indexes_of_referenced(&self, references: &StreamReferences) -> BTreeMap<Id, Id> {
        let mut held = BTreeMap::new();
        if self.safety == Safety::Reference {
            return held;
        }
        for referenced in references.images.keys() {
            let mut open = vec![*referenced];
            while let Some(manifest) = open.pop() {
                for parent in self.parents.get(&manifest).into_iter().flatten() {
                    let index = self.inventory.images.all()[*parent].name;
                    if !held.contains_key(&index) && index != *referenced {
                        held.insert(index, *referenced);
                        open.push(index);
                    }
                }
            }
        }
        held
    }

    /// Rule 3: the first part that fits decides.
    fn item(
        &self,
        stream: &Stream,
        tag: u32,
        position: u32,
        item: &Item,
        references: Option<&StreamReferences>,
        held: &BTreeMap<Id, Id>,
    ) -> ItemVerdict {
        if self.rules.is_young(item.created) {
            return ItemVerdict::Keep(ItemKeep::Young, None);
        }
        if position == 0 {
            let uses = references.and_then(|references| references.tags.get(&stream.tags[tag as usize].name));
            if let Some(difference) = self.counts(uses) {
                return ItemVerdict::Keep(ItemKeep::TagReferenced, difference);
            }
        }
        let Some((_, image)) = self.image(item.image) else {
            return ItemVerdict::Remove(ItemRemove::ImageMissing);
        };
        if image.appeared {
            return ItemVerdict::Keep(ItemKeep::ImageAppeared, None);
        }
        let removal = match self.rules.keep {
            Keep::Recent { tag_revisions, .. } if position < tag_revisions => {
                return ItemVerdict::Keep(ItemKeep::Revision, None);
            }
            Keep::WithinSizeLimit if !self.exceeds_limit(stream, image) => {
                return ItemVerdict::Keep(ItemKeep::WithinSizeLimit, None);
            }
            Keep::Recent { .. } => ItemRemove::Unreferenced,
            Keep::WithinSizeLimit => ItemRemove::OverSizeLimit,
        };
        if let Some(difference) =
            self.counts(references.and_then(|references| references.images.get(&item.image)))
        {
            return ItemVerdict::Keep(ItemKeep::ImageReferenced, difference);
        }
        if let Some(submanifest) = held.get(&item.image) {
            let keep = ItemKeep::SubmanifestReferenced(*submanifest);
            return ItemVerdict::Keep(keep, Some(Difference::ReferencedSubmanifest));
        }
        if image.protected && self.safety == Safety::Ours {
            return ItemVerdict::Keep(ItemKeep::Protected, Some(Difference::Protected));
        }
        ItemVerdict::Remove(removal)
    }

    /// Whether references protect, and the difference they make.
    #[expect(clippy::option_option, reason = "outer: whether they protect; inner: the difference it makes")]
    fn counts(&self, uses: Option<&Vec<Use>>) -> Option<Option<Difference>> {
        let uses = uses.filter(|uses| !uses.is_empty())?;
        let difference = difference_of_all(self.inventory, self.rules, uses);
        (difference.is_none() || self.safety == Safety::Ours).then_some(difference)
    }

    fn exceeds_limit(&self, stream: &Stream, image: &Image) -> bool {
        let limits = self.inventory.limits.get(&stream.namespace);
        limits.into_iter().flatten().any(|limit| limit.max_storage.cmp_bytes(image.size).is_lt())
    }

    /// The links of what the removed items named and the kept ones do not. A count that reaches 0 in the
    /// reference implementation is the same as: removed somewhere, kept nowhere.
    fn links(&mut self, references: Option<&StreamReferences>, decision: &mut StreamDecision) {
        self.kept.clear();
        self.gone.clear();
        // A manifest's digest can also be somebody's layer: manifest links and layer links are counted apart.
        let mut manifests = BTreeSet::new();
        for item in &decision.items {
            if let ItemVerdict::Keep(..) = item.verdict
                && let Some((position, image)) = self.image(item.image)
            {
                manifests.insert(image.name);
                self.keep_blobs(position);
            }
        }
        if self.safety == Safety::Ours {
            let named: Vec<Id> = decision.items.iter().map(|item| item.image).collect();
            for (referenced, _) in references.iter().flat_map(|references| &references.images) {
                if !named.contains(referenced) {
                    for position in self.with_submanifests(*referenced) {
                        manifests.insert(self.inventory.images.all()[position].name);
                        self.keep_blobs(position);
                    }
                }
            }
        }
        for item in &decision.items {
            if item.verdict != ItemVerdict::Remove(ItemRemove::ImageMissing)
                && let ItemVerdict::Remove(_) = item.verdict
                && let Some((position, image)) = self.image(item.image)
            {
                if self.may_go(image.name) && manifests.insert(image.name) {
                    decision.manifest_links.push(image.name);
                }
                for blob in deletable_blobs(self.inventory, position) {
                    if self.goes(blob) {
                        decision.layer_links.push(blob);
                    }
                }
            }
        }
    }

    /// Whether this blob goes now: kept by nothing, not gone already, and one that a registry can hold.
    fn goes(&mut self, blob: Id) -> bool {
        self.may_go(blob) && !self.kept.has(blob) && self.gone.add(blob)
    }

    fn may_go(&self, name: Id) -> bool {
        self.safety == Safety::Reference || self.inventory.names.is_digest(name)
    }

    /// An image and, if it is an index, all its sub-manifests at any depth, by position.
    fn with_submanifests(&self, name: Id) -> Vec<usize> {
        let images = &self.inventory.images;
        images.with_submanifests([name]).into_iter().filter_map(|name| images.find(name)).collect()
    }

    fn keep_blobs(&mut self, position: usize) {
        let image = &self.inventory.images.all()[position];
        for layer in self.inventory.images.layers(position) {
            self.kept.add(*layer);
        }
        if let Some(config) = image.config
            && (image.config_deletable || self.protects_config(config))
        {
            self.kept.add(config);
        }
    }

    /// A config id protects whatever the media type, if it is a digest.
    fn protects_config(&self, config: Id) -> bool {
        self.safety == Safety::Ours && self.inventory.names.is_digest(config)
    }

    /// Stage 2: `streams` say which items are left.
    fn images(
        &mut self,
        streams: &[StreamDecision],
        stage2: Stage2,
        planned: impl Fn(usize) -> bool,
    ) -> Vec<ImageDecision> {
        let images = &self.inventory.images;
        if stage2 != Stage2::Runs {
            let kept = ImageDecision { verdict: ImageVerdict::KeepStage2Skipped, blobs: Vec::new() };
            return vec![kept; images.all().len()];
        }
        let mut verdicts: Vec<Option<ImageVerdict>> = vec![None; images.all().len()];
        self.mark_used_by_items(streams, &mut verdicts);
        if self.safety == Safety::Ours {
            self.mark_protected(&mut verdicts);
            self.mark_referenced(&mut verdicts);
        }
        let verdicts: Vec<ImageVerdict> = verdicts
            .into_iter()
            .zip(images.all())
            .enumerate()
            .map(|(position, (verdict, image))| match verdict.unwrap_or_else(|| self.unused(image)) {
                ImageVerdict::Delete if !planned(position) => ImageVerdict::KeepNotPlanned,
                verdict => verdict,
            })
            .collect();
        self.with_blobs(verdicts)
    }

    fn mark_used_by_items(&self, streams: &[StreamDecision], verdicts: &mut [Option<ImageVerdict>]) {
        let mut roots = Vec::new();
        for (stream_position, (stream, decision)) in (0..).zip(self.inventory.streams.iter().zip(streams)) {
            let mut mark = |tag: u32, name: Id, difference: Option<Difference>| {
                if let Some((position, _)) = self.image(name) {
                    let by = UsedBy::Item { stream: stream_position, tag };
                    // An item that the reference implementation keeps, too, makes no difference.
                    match verdicts[position] {
                        None => roots.push(position),
                        Some(ImageVerdict::KeepUsed(_, Some(_))) if difference.is_none() => {}
                        Some(_) => return,
                    }
                    verdicts[position] = Some(ImageVerdict::KeepUsed(by, difference));
                }
            };
            if decision.verdict == StreamVerdict::Examined {
                for item in &decision.items {
                    if let ItemVerdict::Keep(_, difference) = item.verdict {
                        mark(item.tag, item.image, difference);
                    }
                }
            } else {
                let protected = decision.verdict == StreamVerdict::Protected;
                for (tag, _, item) in items(stream) {
                    mark(tag, item.image, protected.then_some(Difference::Protected));
                }
            }
        }
        // Roots that make no difference first, so that what they hold makes none either.
        roots.sort_by_key(|position| matches!(verdicts[*position], Some(ImageVerdict::KeepUsed(_, Some(_)))));
        self.mark_submanifests(roots, verdicts);
    }

    /// What a used index lists is used, at every level; the reference implementation follows one.
    fn mark_submanifests(&self, roots: Vec<usize>, verdicts: &mut [Option<ImageVerdict>]) {
        for root in roots {
            let inherited = match verdicts[root] {
                Some(ImageVerdict::KeepUsed(_, difference)) => difference,
                _ => None,
            };
            let mut open = vec![(root, 0)];
            while let Some((parent, depth)) = open.pop() {
                if depth > 0 && self.safety == Safety::Reference {
                    continue;
                }
                let nested = (depth > 0).then_some(Difference::NestedIndex);
                for manifest in self.inventory.images.manifests(parent) {
                    if let Some((position, _)) = self.image(*manifest)
                        && verdicts[position].is_none()
                    {
                        #[expect(
                            clippy::cast_possible_truncation,
                            reason = "positions come from a u32 table"
                        )]
                        let by = UsedBy::Index(parent as u32);
                        verdicts[position] = Some(ImageVerdict::KeepUsed(by, inherited.or(nested)));
                        open.push((position, depth + 1));
                    }
                }
            }
        }
    }

    fn mark_protected(&self, verdicts: &mut [Option<ImageVerdict>]) {
        for image in self.inventory.images.all().iter().filter(|image| image.protected) {
            for position in self.with_submanifests(image.name) {
                verdicts[position].get_or_insert(ImageVerdict::KeepProtected);
            }
        }
    }

    fn mark_referenced(&self, verdicts: &mut [Option<ImageVerdict>]) {
        for (referenced, uses) in self.references.digests() {
            let Some((own, _)) = self.image(referenced) else { continue };
            let difference = match difference_of_all(self.inventory, self.rules, uses) {
                _ if self.parents.contains_key(&referenced) => Difference::ReferencedSubmanifest,
                Some(difference) => difference,
                None => Difference::ReferencedByDigest,
            };
            verdicts[own].get_or_insert(ImageVerdict::KeepReferenced(referenced, difference));
            for position in self.with_submanifests(referenced) {
                verdicts[position].get_or_insert(ImageVerdict::KeepReferenced(referenced, difference));
            }
        }
    }

    fn unused(&self, image: &Image) -> ImageVerdict {
        if image.appeared {
            ImageVerdict::KeepAppeared
        } else if !self.rules.all && !image.managed {
            ImageVerdict::KeepNotManaged
        } else if self.rules.is_young(image.created) {
            ImageVerdict::KeepYoung
        } else {
            ImageVerdict::Delete
        }
    }

    /// The blobs that no kept image names go with the last image that names them.
    fn with_blobs(&mut self, verdicts: Vec<ImageVerdict>) -> Vec<ImageDecision> {
        self.kept.clear();
        self.gone.clear();
        for (position, verdict) in verdicts.iter().enumerate() {
            if *verdict != ImageVerdict::Delete {
                self.kept.add(self.inventory.images.all()[position].name);
                self.keep_blobs(position);
            }
        }
        let mut decisions: Vec<ImageDecision> =
            verdicts.into_iter().map(|verdict| ImageDecision { verdict, blobs: Vec::new() }).collect();
        if self.rules.prune_registry {
            let doomed = |decision: &ImageDecision| decision.verdict == ImageVerdict::Delete;
            for (position, _) in decisions.iter().enumerate().filter(|(_, decision)| doomed(decision)) {
                let manifest = self.inventory.images.all()[position].name;
                for blob in deletable_blobs(self.inventory, position).chain([manifest]) {
                    self.goes(blob);
                }
            }
            // With the last image that names it in any way, so that whoever waits for the others waits for earlier
            // ones alone.
            let mut placed = Marks::new(self.inventory.names.len());
            for (position, decision) in decisions.iter_mut().enumerate().rev() {
                if doomed(decision) {
                    let named = named_blobs(self.inventory, position);
                    decision.blobs = named.filter(|blob| self.gone.has(*blob) && placed.add(*blob)).collect();
                }
            }
        }
        decisions
    }
}

/// Every blob that an image names in any way, its manifest last.
pub fn named_blobs(inventory: &Inventory, position: usize) -> impl Iterator<Item = Id> + '_ {
    let image = &inventory.images.all()[position];
    inventory.images.layers(position).iter().copied().chain(image.config).chain([image.name])
}

/// What the reference implementation deletes with an image: layers, and the config where the media type has one.
pub(super) fn deletable_blobs(inventory: &Inventory, position: usize) -> impl Iterator<Item = Id> + '_ {
    let image = &inventory.images.all()[position];
    let config = image.config.filter(|_| image.config_deletable);
    inventory.images.layers(position).iter().copied().chain(config)
}
