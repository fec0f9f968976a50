//! The rules of stage 1 (items and links) and stage 2 (images and blobs).

use std::collections::BTreeSet;

use super::differences::{Differences, differences};
use super::leftovers::Leftovers;
use super::references::{References, StreamReferences, Use, difference_of_all};
use super::{Counts, Difference, Keep, Rules};
use crate::model::{Id, IdSet, Image, Images, Import, Inventory, Item, Stream, Tag};

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
    pub images: ImageDecisions,
    /// Whether stage 2 takes place.
    pub stage2: Stage2,
    /// Everything that the reference implementation would delete and this plan does not.
    pub differences: Differences,
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
    /// A sub-manifest of this index is referenced in this stream: [`References::of_submanifest`] says by whom.
    SubmanifestReferenced,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageDecision<'d> {
    /// Keep or delete.
    pub verdict: ImageVerdict,
    /// The blobs that go with it, the manifest last: each blob stands with the last image that names it.
    pub blobs: &'d [Id],
}

/// The decisions about all images, in flat arrays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageDecisions {
    verdicts: Vec<ImageVerdict>,
    blobs: Vec<Id>,
    /// Where the blobs of each image end; empty if no blob goes.
    ends: Vec<u32>,
}

impl ImageDecisions {
    /// How many images there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.verdicts.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.verdicts.is_empty()
    }

    /// The decision about the image at this position of the inventory.
    #[must_use]
    pub fn at(&self, position: usize) -> ImageDecision<'_> {
        let begin = position.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(position).copied().unwrap_or(0);
        ImageDecision { verdict: self.verdicts[position], blobs: &self.blobs[begin as usize..end as usize] }
    }

    /// All of them, in the order of the inventory.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ImageDecision<'_>> + DoubleEndedIterator + Clone {
        (0..self.len()).map(|position| self.at(position))
    }

    /// Every blob that goes, each once.
    #[must_use]
    pub fn blobs(&self) -> &[Id] {
        &self.blobs
    }
}

impl<'d> IntoIterator for &'d ImageDecisions {
    type Item = ImageDecision<'d>;
    type IntoIter = Box<dyn Iterator<Item = ImageDecision<'d>> + 'd>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
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
    decide_agreed(inventory, rules, |_, _, _| true, |_| true)
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
    let mut decider = Decider::new(inventory, rules, &references, Safety::Ours);
    let streams: Vec<_> = inventory.streams.iter().map(|stream| decider.stream_if(stream, &item)).collect();
    let mut used = Used::of(inventory);
    for (position, decision) in streams.iter().enumerate() {
        decider.mark_used_by_items(position, decision, &mut used);
    }
    let images = decider.images(used, |position| image(&inventory.images.all()[position]));
    let stage2 = decider.stage2;
    Plan {
        rules: rules.clone(),
        references,
        streams,
        images,
        stage2,
        differences: Differences::default(),
        leftovers: Leftovers::default(),
    }
}

/// What the reference implementation would decide about images from the same state.
pub(super) struct ReferenceDecision {
    /// Which images it would delete.
    pub(super) deleted: IdSet,
    /// Which blobs it would delete.
    pub(super) blobs: IdSet,
}

/// Decides as the reference implementation would from the same state; what it would do to each stream, by position, is
/// told and forgotten.
pub(super) fn decide_as_reference(
    inventory: &Inventory,
    plan: &Plan,
    mut tell: impl FnMut(usize, &StreamDecision),
) -> ReferenceDecision {
    let mut decider = Decider::new(inventory, &plan.rules, &plan.references, Safety::Reference);
    let images = &inventory.images;
    let mut used = IdSet::with_names(inventory.names.len());
    for (position, stream) in inventory.streams.iter().enumerate() {
        let decision = decider.stream(stream);
        used.extend(decider.left(position, &decision).map(|(_, image, _)| image));
        tell(position, &decision);
    }
    // One level of an index is followed.
    let of_indexes = images.all_manifests().filter(|(index, _)| used.contains(images.all()[*index].name));
    let below: Vec<Id> = of_indexes.flat_map(|(_, manifests)| manifests).copied().collect();
    used.extend(below);
    let mut deleted = IdSet::with_names(inventory.names.len());
    if decider.stage2 == Stage2::Runs {
        let unused = images.all().iter().filter(|image| !used.contains(image.name));
        let deletable = unused.filter(|image| decider.unused(image) == ImageVerdict::Delete);
        deleted.extend(deletable.map(|image| image.name));
    }
    decider.find_blobs(|position| deleted.contains(images.all()[position].name));
    ReferenceDecision { deleted, blobs: decider.gone }
}

impl Plan {
    /// Every blob that goes.
    #[must_use]
    pub fn doomed_blobs(&self) -> IdSet {
        self.images.blobs().iter().copied().collect()
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
        counts.images = self.images.iter().filter(|image| image.verdict == ImageVerdict::Delete).count();
        for blob in self.images.blobs() {
            counts.add_blob(inventory.images.blob_bytes(*blob));
        }
        self.leftovers.count(&mut counts, inventory);
        counts
    }

    /// Whether anything in the registry goes.
    #[must_use]
    pub fn changes_registry(&self) -> bool {
        self.streams.iter().any(|stream| !stream.layer_links.is_empty() || !stream.manifest_links.is_empty())
            || !self.images.blobs().is_empty()
            || !self.leftovers.is_empty()
    }

    /// Decides about one stream as it is now: for a stream that changed since it was read.
    #[must_use]
    pub fn decide_stream(&self, inventory: &Inventory, stream: &Stream) -> StreamDecision {
        Decider::new(inventory, &self.rules, &self.references, Safety::Ours).stream(stream)
    }
}

/// Decides about images once stage 1 is done: `inventory` has streams and referrers as they are now, and all items
/// count. Only images of which `planned` says so (by position) may go: nobody agreed to more.
#[must_use]
pub fn decide_images(
    inventory: &Inventory,
    rules: &Rules,
    planned: impl Fn(usize) -> bool,
) -> (ImageDecisions, Stage2) {
    let references = References::collect(inventory, rules);
    let mut decider = Decider::new(inventory, rules, &references, Safety::Ours);
    let mut used = Used::of(inventory);
    for (position, stream) in inventory.streams.iter().enumerate() {
        decider.mark_used_by_items(position, &all_kept(stream), &mut used);
    }
    (decider.images(used, planned), decider.stage2)
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

/// The indexes that list sub-manifests.
#[derive(Debug, Clone)]
pub(super) struct Parents {
    /// A sub-manifest and the position of an index, sorted.
    pairs: Vec<(Id, u32)>,
}

impl Parents {
    #[expect(clippy::cast_possible_truncation, reason = "positions come from a u32 table")]
    pub(super) fn of(images: &Images) -> Self {
        let pairs = images.all_manifests().flat_map(|(position, manifests)| {
            manifests.iter().map(move |manifest| (*manifest, position as u32))
        });
        let mut pairs: Vec<(Id, u32)> = pairs.collect();
        pairs.sort_unstable();
        Self { pairs }
    }

    /// The positions of the indexes that list it.
    pub(super) fn of_manifest(&self, manifest: Id) -> impl Iterator<Item = usize> + '_ {
        let begin = self.pairs.partition_point(|(listed, _)| *listed < manifest);
        let of_it = self.pairs[begin..].iter().take_while(move |(listed, _)| *listed == manifest);
        of_it.map(|(_, position)| *position as usize)
    }
}

/// What is used, as far as is known.
struct Used {
    /// An image that nothing is known to use is to be deleted.
    verdicts: Vec<ImageVerdict>,
    /// The used images that list sub-manifests, in the order in which they were found.
    indexes: Vec<usize>,
}

impl Used {
    fn of(inventory: &Inventory) -> Self {
        Self { verdicts: vec![ImageVerdict::Delete; inventory.images.all().len()], indexes: Vec::new() }
    }
}

/// Gives an image that nothing was known to use a reason to stay.
fn keep_unused(verdict: &mut ImageVerdict, reason: ImageVerdict) {
    if *verdict == ImageVerdict::Delete {
        *verdict = reason;
    }
}

struct Decider<'a> {
    inventory: &'a Inventory,
    rules: &'a Rules,
    references: &'a References,
    safety: Safety,
    stage2: Stage2,
    /// The first image without metadata, by position.
    absent: Option<usize>,
    parents: Parents,
    kept: IdSet,
    gone: IdSet,
    /// Manifests of a stream whose links are decided about: counted apart, for a manifest's digest can also be
    /// somebody's layer.
    manifests: IdSet,
}

impl<'a> Decider<'a> {
    fn new(inventory: &'a Inventory, rules: &'a Rules, references: &'a References, safety: Safety) -> Self {
        let images = &inventory.images;
        let absent = images.all().iter().position(|image| image.metadata_absent);
        let stage2 = if rules.namespace.is_some() {
            Stage2::SkippedForNamespace
        } else if inventory.selector.is_some() {
            Stage2::SkippedForSelector
        } else if let Some(position) = absent {
            Stage2::SkippedForMetadata(position)
        } else {
            Stage2::Runs
        };
        let set = || IdSet::with_names(inventory.names.len());
        let (kept, gone, manifests) = (set(), set(), set());
        let parents = Parents::of(images);
        Self { inventory, rules, references, safety, stage2, absent, parents, kept, gone, manifests }
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
        let references = self.references.of_stream(self.inventory, stream);
        let held = self.indexes_of_referenced(&references);
        let count = stream.tags.iter().map(|tag| tag.items.len()).sum();
        let mut decision = StreamDecision { items: Vec::with_capacity(count), ..StreamDecision::default() };
        for (tag, position, item) in items(stream) {
            let verdict = match self.item(stream, tag, position, item, &references, &held) {
                ItemVerdict::Remove(_) if !agreed(stream, &stream.tags[tag as usize], item) => {
                    ItemVerdict::Keep(ItemKeep::NotPlanned, None)
                }
                verdict => verdict,
            };
            decision.items.push(ItemDecision { tag, position, image: item.image, verdict });
        }
        if self.rules.prune_registry && decision.removed() > 0 {
            self.links(&references, &mut decision);
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
        if self.absent.is_none() {
            return StreamVerdict::Examined;
        }
        let absent = items(stream)
            .filter_map(|(_, _, item)| self.image(item.image))
            .find(|(_, image)| image.metadata_absent);
        absent.map_or(StreamVerdict::Examined, |(position, _)| StreamVerdict::MetadataAbsent(position))
    }

    /// The indexes that hold a sub-manifest which is referenced in the stream, at any depth.
    fn indexes_of_referenced(&self, references: &StreamReferences<'_>) -> BTreeSet<Id> {
        let mut held = BTreeSet::new();
        if self.safety == Safety::Reference {
            return held;
        }
        for (referenced, _) in references.images() {
            let mut open = vec![referenced];
            while let Some(manifest) = open.pop() {
                for parent in self.parents.of_manifest(manifest) {
                    let index = self.inventory.images.all()[parent].name;
                    if index != referenced && held.insert(index) {
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
        references: &StreamReferences<'_>,
        held: &BTreeSet<Id>,
    ) -> ItemVerdict {
        if self.rules.is_young(item.created) {
            return ItemVerdict::Keep(ItemKeep::Young, None);
        }
        if position == 0
            && let Some(difference) = self.counts(references.tag(stream.tags[tag as usize].name))
        {
            return ItemVerdict::Keep(ItemKeep::TagReferenced, difference);
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
        if let Some(difference) = self.counts(references.image(item.image)) {
            return ItemVerdict::Keep(ItemKeep::ImageReferenced, difference);
        }
        if held.contains(&item.image) {
            let difference = Some(Difference::ReferencedSubmanifest);
            return ItemVerdict::Keep(ItemKeep::SubmanifestReferenced, difference);
        }
        if image.protected && self.safety == Safety::Ours {
            return ItemVerdict::Keep(ItemKeep::Protected, Some(Difference::Protected));
        }
        ItemVerdict::Remove(removal)
    }

    /// Whether references protect, and the difference they make.
    #[expect(clippy::option_option, reason = "outer: whether they protect; inner: the difference it makes")]
    fn counts(&self, uses: &[Use]) -> Option<Option<Difference>> {
        if uses.is_empty() {
            return None;
        }
        let difference = difference_of_all(self.inventory, self.rules, uses);
        (difference.is_none() || self.safety == Safety::Ours).then_some(difference)
    }

    fn exceeds_limit(&self, stream: &Stream, image: &Image) -> bool {
        let limits = self.inventory.limits.get(&stream.namespace);
        limits.into_iter().flatten().any(|limit| limit.max_storage.cmp_bytes(image.size).is_lt())
    }

    /// The links of what the removed items named and the kept ones do not. A count that reaches 0 in the
    /// reference implementation is the same as: removed somewhere, kept nowhere.
    fn links(&mut self, references: &StreamReferences<'_>, decision: &mut StreamDecision) {
        self.kept.clear();
        self.gone.clear();
        self.manifests.clear();
        for item in &decision.items {
            if let ItemVerdict::Keep(..) = item.verdict
                && let Some((position, image)) = self.image(item.image)
            {
                self.manifests.insert(image.name);
                self.keep_blobs(position);
            }
        }
        if self.safety == Safety::Ours {
            let mut in_use: Vec<Id> = references.images().map(|(image, _)| image).collect();
            if !in_use.is_empty() {
                let named: BTreeSet<Id> = decision.items.iter().map(|item| item.image).collect();
                in_use.retain(|image| !named.contains(image));
            }
            for image in in_use {
                for position in self.with_submanifests(image) {
                    self.manifests.insert(self.inventory.images.all()[position].name);
                    self.keep_blobs(position);
                }
            }
        }
        for item in &decision.items {
            if item.verdict != ItemVerdict::Remove(ItemRemove::ImageMissing)
                && let ItemVerdict::Remove(_) = item.verdict
                && let Some((position, image)) = self.image(item.image)
            {
                if self.may_go(image.name) && self.manifests.insert(image.name) {
                    decision.manifest_links.push(image.name);
                }
                for blob in deletable_blobs(self.inventory, position) {
                    if self.goes(blob) {
                        decision.layer_links.push(blob);
                    }
                }
            }
        }
        decision.manifest_links.shrink_to_fit();
        decision.layer_links.shrink_to_fit();
    }

    /// Whether this blob goes now: kept by nothing, not gone already, and one that a registry can hold.
    fn goes(&mut self, blob: Id) -> bool {
        self.may_go(blob) && !self.kept.contains(blob) && self.gone.insert(blob)
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
            self.kept.insert(*layer);
        }
        if let Some(config) = image.config
            && (image.config_deletable || self.protects_config(config))
        {
            self.kept.insert(config);
        }
    }

    /// A config id protects whatever the media type, if it is a digest.
    fn protects_config(&self, config: Id) -> bool {
        self.safety == Safety::Ours && self.inventory.names.is_digest(config)
    }

    /// Stage 2, once it is known what the items that are left use.
    fn images(&mut self, used: Used, planned: impl Fn(usize) -> bool) -> ImageDecisions {
        if self.stage2 != Stage2::Runs {
            let verdicts = vec![ImageVerdict::KeepStage2Skipped; used.verdicts.len()];
            return ImageDecisions { verdicts, ..ImageDecisions::default() };
        }
        let verdicts = self.verdicts(used, planned);
        self.find_blobs(|position| verdicts[position] == ImageVerdict::Delete);
        self.placed(verdicts)
    }

    /// The items of a stream that are left: tag, image, and the difference that it makes that the item is left.
    fn left<'d>(
        &self,
        stream: usize,
        decision: &'d StreamDecision,
    ) -> impl Iterator<Item = (u32, Id, Option<Difference>)> + use<'a, 'd> {
        let kept = decision.items.iter().filter_map(|item| match item.verdict {
            ItemVerdict::Keep(_, difference) => Some((item.tag, item.image, difference)),
            ItemVerdict::Remove(_) => None,
        });
        let difference = (decision.verdict == StreamVerdict::Protected).then_some(Difference::Protected);
        let inventory = self.inventory;
        let all = (decision.verdict != StreamVerdict::Examined).then(|| items(&inventory.streams[stream]));
        kept.chain(all.into_iter().flatten().map(move |(tag, _, item)| (tag, item.image, difference)))
    }

    /// What the items of a stream that are left use.
    fn mark_used_by_items(&self, stream: usize, decision: &StreamDecision, used: &mut Used) {
        let images = &self.inventory.images;
        for (tag, image, difference) in self.left(stream, decision) {
            let Some(position) = images.find(image) else { continue };
            #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^32 streams")]
            let by = UsedBy::Item { stream: stream as u32, tag };
            // An item that the reference implementation keeps, too, makes no difference.
            match used.verdicts[position] {
                ImageVerdict::Delete if images.manifests(position).is_empty() => {}
                ImageVerdict::Delete => used.indexes.push(position),
                ImageVerdict::KeepUsed(_, Some(_)) if difference.is_none() => {}
                _ => continue,
            }
            used.verdicts[position] = ImageVerdict::KeepUsed(by, difference);
        }
    }

    fn verdicts(&self, used: Used, planned: impl Fn(usize) -> bool) -> Vec<ImageVerdict> {
        let images = self.inventory.images.all();
        let Used { mut verdicts, indexes } = used;
        self.mark_submanifests(&indexes, &mut verdicts);
        self.mark_protected(&mut verdicts);
        self.mark_referenced(&mut verdicts);
        for (position, (verdict, image)) in verdicts.iter_mut().zip(images).enumerate() {
            keep_unused(verdict, self.unused(image));
            if !planned(position) {
                keep_unused(verdict, ImageVerdict::KeepNotPlanned);
            }
        }
        verdicts
    }

    /// What a used index lists is used, at every level; the reference implementation follows one.
    fn mark_submanifests(&self, indexes: &[usize], verdicts: &mut [ImageVerdict]) {
        // Those that make no difference first, so that what they hold makes none either.
        let makes_one = |verdict| matches!(verdict, ImageVerdict::KeepUsed(_, Some(_)));
        let (without, with): (Vec<usize>, Vec<usize>) =
            indexes.iter().partition(|position| !makes_one(verdicts[**position]));
        for root in without.into_iter().chain(with) {
            let inherited = match verdicts[root] {
                ImageVerdict::KeepUsed(_, difference) => difference,
                _ => None,
            };
            let mut open = vec![(root, 0)];
            while let Some((parent, depth)) = open.pop() {
                let nested = (depth > 0).then_some(Difference::NestedIndex);
                for manifest in self.inventory.images.manifests(parent) {
                    if let Some((position, _)) = self.image(*manifest)
                        && verdicts[position] == ImageVerdict::Delete
                    {
                        #[expect(
                            clippy::cast_possible_truncation,
                            reason = "positions come from a u32 table"
                        )]
                        let by = UsedBy::Index(parent as u32);
                        verdicts[position] = ImageVerdict::KeepUsed(by, inherited.or(nested));
                        open.push((position, depth + 1));
                    }
                }
            }
        }
    }

    fn mark_protected(&self, verdicts: &mut [ImageVerdict]) {
        for image in self.inventory.images.all().iter().filter(|image| image.protected) {
            for position in self.with_submanifests(image.name) {
                keep_unused(&mut verdicts[position], ImageVerdict::KeepProtected);
            }
        }
    }

    fn mark_referenced(&self, verdicts: &mut [ImageVerdict]) {
        for (referenced, uses) in self.references.digests() {
            let Some((own, _)) = self.image(referenced) else { continue };
            let difference = match difference_of_all(self.inventory, self.rules, uses) {
                _ if self.parents.of_manifest(referenced).next().is_some() => {
                    Difference::ReferencedSubmanifest
                }
                Some(difference) => difference,
                None => Difference::ReferencedByDigest,
            };
            let reason = ImageVerdict::KeepReferenced(referenced, difference);
            keep_unused(&mut verdicts[own], reason);
            if !self.inventory.images.manifests(own).is_empty() {
                for position in self.with_submanifests(referenced) {
                    keep_unused(&mut verdicts[position], reason);
                }
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

    /// Finds the blobs that no kept image names: `gone` holds them afterwards.
    fn find_blobs(&mut self, is_deleted: impl Fn(usize) -> bool) {
        self.kept.clear();
        self.gone.clear();
        if !self.rules.prune_registry {
            return;
        }
        let all = 0..self.inventory.images.all().len();
        for position in all.clone() {
            if !is_deleted(position) {
                self.kept.insert(self.inventory.images.all()[position].name);
                self.keep_blobs(position);
            }
        }
        for position in all {
            if is_deleted(position) {
                let manifest = self.inventory.images.all()[position].name;
                for blob in deletable_blobs(self.inventory, position).chain([manifest]) {
                    self.goes(blob);
                }
            }
        }
    }

    /// Places each blob that goes with the last image that names it in any way, so that whoever waits for the others
    /// waits for earlier ones alone.
    fn placed(&mut self, verdicts: Vec<ImageVerdict>) -> ImageDecisions {
        let count = self.gone.len();
        if count == 0 {
            return ImageDecisions { verdicts, ..ImageDecisions::default() };
        }
        // What goes is in one of two sets: those that are placed, and those that are not.
        let Self { gone: left, .. } = self;
        let mut blobs: Vec<Id> = Vec::with_capacity(count);
        let mut ends = vec![0; verdicts.len()];
        let mut of_image = Vec::new();
        for (position, verdict) in verdicts.iter().enumerate().rev() {
            // Counted from the end so far.
            #[expect(clippy::cast_possible_truncation, reason = "ids are 32 bits")]
            let behind = blobs.len() as u32;
            ends[position] = behind;
            if *verdict == ImageVerdict::Delete {
                of_image.extend(named_blobs(self.inventory, position).filter(|blob| left.remove(*blob)));
                blobs.extend(of_image.drain(..).rev());
            }
        }
        blobs.reverse();
        #[expect(clippy::cast_possible_truncation, reason = "ids are 32 bits")]
        let all = blobs.len() as u32;
        for end in &mut ends {
            *end = all - *end;
        }
        ImageDecisions { verdicts, blobs, ends }
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
