//! What the reference implementation would delete and the plan keeps, each with its reason and referrers.

use std::collections::{BTreeMap, BTreeSet};

use super::Difference;
use super::decide::{
    ImageVerdict, ItemKeep, ItemVerdict, Plan, ReferenceDecision, StreamDecision, StreamVerdict, UsedBy,
    decide_as_reference, named_blobs,
};
use super::references::Use;
use crate::model::{Id, IdSet, Inventory};

/// One thing that stays although the reference implementation would delete it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Differing<'d> {
    /// What stays.
    pub object: DifferingObject,
    /// Why.
    pub reason: Difference,
    /// Who refers to it, where a referrer decided.
    pub referrers: &'d [Use],
}

/// Everything that stays although the reference implementation would delete it, in flat arrays.
#[derive(Debug, Clone, Default)]
pub struct Differences {
    objects: Vec<DifferingObject>,
    /// The position of the cause of each; what stays for the same cause shares it.
    cause_of: Vec<u32>,
    causes: Vec<(Difference, Box<[Use]>)>,
}

impl Differences {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Differing<'_>> {
        self.objects.iter().zip(&self.cause_of).map(|(object, cause)| {
            let (reason, referrers) = &self.causes[*cause as usize];
            Differing { object: *object, reason: *reason, referrers }
        })
    }

    fn push(&mut self, object: DifferingObject, cause: Cause) {
        self.objects.push(object);
        self.cause_of.push(cause.0);
    }
}

/// The position of a cause.
#[derive(Debug, Clone, Copy)]
struct Cause(u32);

/// What stays although the reference implementation would delete it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DifferingObject {
    /// A tag event item, by the positions of stream, tag and item.
    Item(u32, u32, u32),
    /// A manifest link, by the position of the stream.
    ManifestLink(u32, Id),
    /// A layer link, by the position of the stream.
    LayerLink(u32, Id),
    /// An Image object, by its position.
    Image(usize),
    /// A blob.
    Blob(Id),
}

impl DifferingObject {
    /// The stream, by its position, that it is in.
    fn stream(self) -> Option<u32> {
        match self {
            Self::Item(stream, ..) | Self::ManifestLink(stream, _) | Self::LayerLink(stream, _) => {
                Some(stream)
            }
            Self::Image(_) | Self::Blob(_) => None,
        }
    }
}

/// Compares the plan with what the reference implementation would decide.
pub(super) fn differences(inventory: &Inventory, plan: &Plan) -> Differences {
    let submanifests =
        inventory.images.all_manifests().flat_map(|(_, manifests)| manifests).copied().collect();
    let (unreferred, found) = (BTreeMap::new(), Differences::default());
    let mut comparison = Comparison { inventory, plan, submanifests, unreferred, found };
    let reference = decide_as_reference(inventory, plan, |position, theirs| {
        let ours = &plan.streams[position];
        if ours != theirs {
            comparison.stream(position, ours, theirs);
        }
    });
    comparison.images(reference);
    comparison.found
}

struct Comparison<'a> {
    inventory: &'a Inventory,
    plan: &'a Plan,
    /// What any index lists.
    submanifests: IdSet,
    /// The causes that no referrer decided.
    unreferred: BTreeMap<Difference, Cause>,
    found: Differences,
}

impl Comparison<'_> {
    #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^32 objects")]
    fn cause(&mut self, reason: Difference, referrers: &[Use]) -> Cause {
        let causes = &mut self.found.causes;
        let mut new = || {
            causes.push((reason, referrers.into()));
            Cause(causes.len() as u32 - 1)
        };
        if referrers.is_empty() { *self.unreferred.entry(reason).or_insert_with(new) } else { new() }
    }

    fn stream(&mut self, stream: usize, ours: &StreamDecision, reference: &StreamDecision) {
        #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^32 streams")]
        let stream = stream as u32;
        let is_removed = |verdict: &ItemVerdict| matches!(verdict, ItemVerdict::Remove(_));
        let mut kept: Vec<(Id, Cause)> = Vec::new();
        for (position, item) in
            reference.items.iter().enumerate().filter(|(_, item)| is_removed(&item.verdict))
        {
            let cause = match ours.items.get(position) {
                None if ours.verdict == StreamVerdict::Protected => self.cause(Difference::Protected, &[]),
                Some(our) if !is_removed(&our.verdict) => {
                    self.item_cause(stream, item.tag, item.image, our.verdict)
                }
                _ => continue,
            };
            self.found.push(DifferingObject::Item(stream, item.tag, item.position), cause);
            kept.push((item.image, cause));
        }
        let links = |reference: &[Id], ours: &[Id]| {
            let ours: BTreeSet<Id> = ours.iter().copied().collect();
            reference.iter().copied().filter(|link| !ours.contains(link)).collect::<Vec<Id>>()
        };
        for link in links(&reference.manifest_links, &ours.manifest_links) {
            let cause = self.link_cause(stream, ours, &kept, link);
            self.found.push(DifferingObject::ManifestLink(stream, link), cause);
        }
        for link in links(&reference.layer_links, &ours.layer_links) {
            let cause = self.link_cause(stream, ours, &kept, link);
            self.found.push(DifferingObject::LayerLink(stream, link), cause);
        }
    }

    fn item_cause(&mut self, stream: u32, tag: u32, image: Id, verdict: ItemVerdict) -> Cause {
        let of_stream = &self.inventory.streams[stream as usize];
        let references = &self.plan.references;
        match verdict {
            ItemVerdict::Keep(keep, Some(difference)) => {
                let uses = match keep {
                    ItemKeep::TagReferenced => {
                        references.of_tag(self.inventory, of_stream, of_stream.tags[tag as usize].name)
                    }
                    ItemKeep::ImageReferenced => references.of_image(self.inventory, of_stream, image),
                    ItemKeep::SubmanifestReferenced => {
                        references.of_submanifest(self.inventory, of_stream, image)
                    }
                    _ => &[],
                };
                self.cause(difference, uses)
            }
            // Cannot be: what makes no difference stays in the reference's decision as well.
            _ => self.cause(Difference::Protected, &[]),
        }
    }

    /// Why a link stays: an item that stays, a reference to an image that no item names, a config of unknown
    /// media type, or because it names no digest.
    fn link_cause(&mut self, stream: u32, ours: &StreamDecision, kept: &[(Id, Cause)], link: Id) -> Cause {
        if !self.inventory.names.is_digest(link) {
            return self.cause(Difference::NotADigest, &[]);
        }
        if let Some((_, cause)) = kept.iter().find(|(image, _)| self.names(*image, link)) {
            return *cause;
        }
        let of_stream = &self.inventory.streams[stream as usize];
        for (referenced, uses) in self.plan.references.of_stream(self.inventory, of_stream).images() {
            let below = self.inventory.images.with_submanifests([referenced]);
            if below.into_iter().any(|image| self.names(image, link)) {
                return self.cause(self.reference_difference(referenced, uses), uses);
            }
        }
        debug_assert!(ours.items.iter().any(|item| self.config_of(item.image) == Some(link)));
        self.cause(Difference::ConfigOfUnknownMediaType, &[])
    }

    fn reference_difference(&self, referenced: Id, uses: &[Use]) -> Difference {
        if self.submanifests.contains(referenced) {
            return Difference::ReferencedSubmanifest;
        }
        super::references::difference_of_all(self.inventory, &self.plan.rules, uses)
            .unwrap_or(Difference::ReferencedByDigest)
    }

    fn images(&mut self, reference: ReferenceDecision) {
        let ReferenceDecision { deleted, blobs: mut missing } = reference;
        let (inventory, plan) = (self.inventory, self.plan);
        let in_streams = self.found.len();
        let mut kept: Vec<(usize, Cause)> = Vec::new();
        for (position, image) in inventory.images.all().iter().enumerate() {
            let verdict = plan.images.at(position).verdict;
            if deleted.contains(image.name) && verdict != ImageVerdict::Delete {
                kept.push((position, self.image_cause(verdict, in_streams)));
            }
        }
        for blob in plan.images.blobs() {
            missing.remove(*blob);
        }
        let mut causes: BTreeMap<Id, Cause> = BTreeMap::new();
        for (position, cause) in &kept {
            for blob in named_blobs(inventory, *position) {
                if missing.contains(blob) {
                    causes.entry(blob).or_insert(*cause);
                }
            }
        }
        for (position, cause) in kept {
            self.found.push(DifferingObject::Image(position), cause);
        }
        for blob in missing.iter() {
            let cause = if !inventory.names.is_digest(blob) {
                self.cause(Difference::NotADigest, &[])
            } else if let Some(cause) = causes.get(&blob) {
                *cause
            } else {
                self.cause(Difference::ConfigOfUnknownMediaType, &[])
            };
            self.found.push(DifferingObject::Blob(blob), cause);
        }
    }

    /// Why an image stays; of what was found, so many are in streams.
    fn image_cause(&mut self, verdict: ImageVerdict, in_streams: usize) -> Cause {
        let plan = self.plan;
        match verdict {
            ImageVerdict::KeepReferenced(referenced, difference) => {
                self.cause(difference, plan.references.of_digest(referenced))
            }
            ImageVerdict::KeepUsed(UsedBy::Item { stream, tag }, Some(difference)) => {
                // What stays in streams is in their order.
                let objects = &self.found.objects[..in_streams];
                let first = objects.partition_point(|object| object.stream() < Some(stream));
                let of_stream = (first..in_streams).take_while(|at| objects[*at].stream() == Some(stream));
                let item = of_stream.into_iter().find(|at| {
                    let is_of_tag =
                        matches!(objects[*at], DifferingObject::Item(_, of_tag, _) if of_tag == tag);
                    is_of_tag && self.found.causes[self.found.cause_of[*at] as usize].0 == difference
                });
                match item {
                    Some(item) => Cause(self.found.cause_of[item]),
                    None => self.cause(difference, &[]),
                }
            }
            ImageVerdict::KeepUsed(UsedBy::Index(index), difference) => {
                let inherited = self.image_cause(plan.images.at(index as usize).verdict, in_streams);
                let (reason, referrers) = &self.found.causes[inherited.0 as usize];
                match difference {
                    Some(difference) if difference != *reason => {
                        let referrers = referrers.clone();
                        self.cause(difference, &referrers)
                    }
                    _ => inherited,
                }
            }
            _ => self.cause(Difference::Protected, &[]),
        }
    }

    /// Whether the image is, or needs, this name.
    fn names(&self, image: Id, name: Id) -> bool {
        image == name
            || self.config_of(image) == Some(name)
            || self
                .inventory
                .images
                .find(image)
                .is_some_and(|position| self.inventory.images.layers(position).contains(&name))
    }

    fn config_of(&self, image: Id) -> Option<Id> {
        self.inventory.images.all()[self.inventory.images.find(image)?].config
    }
}
