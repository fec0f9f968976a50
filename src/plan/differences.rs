//! What the reference implementation would delete and the plan keeps, each with its reason and referrers.

use std::collections::{BTreeMap, BTreeSet};

use super::Difference;
use super::decide::{
    ImageDecision, ImageVerdict, ItemKeep, ItemVerdict, Plan, StreamDecision, StreamVerdict, UsedBy,
    decide_as_reference,
};
use super::references::Use;
use crate::model::{Id, Inventory};

/// One thing that stays although the reference implementation would delete it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differing {
    /// What stays.
    pub object: DifferingObject,
    /// Why.
    pub reason: Difference,
    /// Who refers to it, where a referrer decided.
    pub referrers: Vec<Use>,
}

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

type Cause = (Difference, Vec<Use>);

/// Compares the plan with what the reference implementation would decide.
pub(super) fn differences(inventory: &Inventory, plan: &Plan) -> Vec<Differing> {
    let (streams, images) = decide_as_reference(inventory, plan);
    let all = &inventory.images;
    let submanifests = (0..all.all().len()).flat_map(|index| all.manifests(index)).copied().collect();
    let comparison = Comparison { inventory, plan, submanifests };
    let mut found = Vec::new();
    for (position, (ours, reference)) in (0..).zip(plan.streams.iter().zip(&streams)) {
        if ours != reference {
            comparison.stream(position, ours, reference, &mut found);
        }
    }
    comparison.images(&images, &mut found);
    found
}

struct Comparison<'a> {
    inventory: &'a Inventory,
    plan: &'a Plan,
    /// What any index lists.
    submanifests: BTreeSet<Id>,
}

impl Comparison<'_> {
    fn stream(
        &self,
        stream: u32,
        ours: &StreamDecision,
        reference: &StreamDecision,
        found: &mut Vec<Differing>,
    ) {
        let is_removed = |verdict: &ItemVerdict| matches!(verdict, ItemVerdict::Remove(_));
        let mut kept: Vec<(Id, Cause)> = Vec::new();
        for (position, item) in
            reference.items.iter().enumerate().filter(|(_, item)| is_removed(&item.verdict))
        {
            let cause = match ours.items.get(position) {
                None if ours.verdict == StreamVerdict::Protected => (Difference::Protected, Vec::new()),
                Some(our) if !is_removed(&our.verdict) => {
                    self.item_cause(stream, item.tag, item.image, our.verdict)
                }
                _ => continue,
            };
            let object = DifferingObject::Item(stream, item.tag, item.position);
            found.push(Differing { object, reason: cause.0, referrers: cause.1.clone() });
            kept.push((item.image, cause));
        }
        let links = |reference: &[Id], ours: &[Id]| {
            let ours: BTreeSet<Id> = ours.iter().copied().collect();
            reference.iter().copied().filter(|link| !ours.contains(link)).collect::<Vec<Id>>()
        };
        for link in links(&reference.manifest_links, &ours.manifest_links) {
            let (reason, referrers) = self.link_cause(stream, ours, &kept, link);
            found.push(Differing { object: DifferingObject::ManifestLink(stream, link), reason, referrers });
        }
        for link in links(&reference.layer_links, &ours.layer_links) {
            let (reason, referrers) = self.link_cause(stream, ours, &kept, link);
            found.push(Differing { object: DifferingObject::LayerLink(stream, link), reason, referrers });
        }
    }

    fn item_cause(&self, stream: u32, tag: u32, image: Id, verdict: ItemVerdict) -> Cause {
        let of_stream = &self.inventory.streams[stream as usize];
        let repository = of_stream.repository();
        let references = &self.plan.references;
        match verdict {
            ItemVerdict::Keep(keep, Some(difference)) => {
                let uses = match keep {
                    ItemKeep::TagReferenced => {
                        references.of_tag(&repository, &of_stream.tags[tag as usize].name)
                    }
                    ItemKeep::ImageReferenced => references.of_image(&repository, image),
                    ItemKeep::SubmanifestReferenced(submanifest) => {
                        references.of_image(&repository, submanifest)
                    }
                    _ => &[],
                };
                (difference, uses.to_vec())
            }
            // Cannot be: what makes no difference stays in the reference's decision as well.
            _ => (Difference::Protected, Vec::new()),
        }
    }

    /// Why a link stays: an item that stays, a reference to an image that no item names, a config of unknown
    /// media type, or because it names no digest.
    fn link_cause(&self, stream: u32, ours: &StreamDecision, kept: &[(Id, Cause)], link: Id) -> Cause {
        if !self.inventory.names.is_digest(link) {
            return (Difference::NotADigest, Vec::new());
        }
        if let Some((_, cause)) = kept.iter().find(|(image, _)| self.names(*image, link)) {
            return cause.clone();
        }
        let repository = self.inventory.streams[stream as usize].repository();
        if let Some(references) = self.plan.references.of_stream(&repository) {
            for (referenced, uses) in &references.images {
                let below = self.inventory.images.with_submanifests([*referenced]);
                if below.into_iter().any(|image| self.names(image, link)) {
                    return (self.reference_difference(*referenced, uses), uses.clone());
                }
            }
        }
        debug_assert!(ours.items.iter().any(|item| self.config_of(item.image) == Some(link)));
        (Difference::ConfigOfUnknownMediaType, Vec::new())
    }

    fn reference_difference(&self, referenced: Id, uses: &[Use]) -> Difference {
        if self.submanifests.contains(&referenced) {
            return Difference::ReferencedSubmanifest;
        }
        super::references::difference_of_all(self.inventory, &self.plan.rules, uses)
            .unwrap_or(Difference::ReferencedByDigest)
    }

    fn images(&self, reference: &[ImageDecision], found: &mut Vec<Differing>) {
        let mut kept: BTreeMap<usize, Cause> = BTreeMap::new();
        for (position, (ours, theirs)) in self.plan.images.iter().zip(reference).enumerate() {
            if theirs.verdict == ImageVerdict::Delete && ours.verdict != ImageVerdict::Delete {
                let cause = self.image_cause(ours.verdict, found);
                kept.insert(position, cause);
            }
        }
        let our_blobs: BTreeSet<Id> =
            self.plan.images.iter().flat_map(|image| &image.blobs).copied().collect();
        let missing: BTreeSet<Id> = reference
            .iter()
            .flat_map(|image| &image.blobs)
            .copied()
            .filter(|blob| !our_blobs.contains(blob))
            .collect();
        let mut causes: BTreeMap<Id, &Cause> = BTreeMap::new();
        for (position, cause) in &kept {
            let image = self.inventory.images.all()[*position].name;
            let config = self.config_of(image).into_iter();
            for blob in self.inventory.images.layers(*position).iter().copied().chain([image]).chain(config) {
                if missing.contains(&blob) {
                    causes.entry(blob).or_insert(cause);
                }
            }
        }
        for (position, (reason, referrers)) in &kept {
            let (object, referrers) = (DifferingObject::Image(*position), referrers.clone());
            found.push(Differing { object, reason: *reason, referrers });
        }
        for blob in missing {
            let (reason, referrers) = if !self.inventory.names.is_digest(blob) {
                (Difference::NotADigest, Vec::new())
            } else if let Some(cause) = causes.get(&blob) {
                (*cause).clone()
            } else {
                (Difference::ConfigOfUnknownMediaType, Vec::new())
            };
            found.push(Differing { object: DifferingObject::Blob(blob), reason, referrers });
        }
    }

    fn image_cause(&self, verdict: ImageVerdict, items: &[Differing]) -> Cause {
        match verdict {
            ImageVerdict::KeepReferenced(referenced, difference) => {
                (difference, self.plan.references.of_digest(referenced).to_vec())
            }
            ImageVerdict::KeepUsed(UsedBy::Item { stream, tag }, Some(difference)) => {
                let item = items.iter().find(|differing| match differing.object {
                    DifferingObject::Item(of_stream, of_tag, _) => {
                        (of_stream, of_tag, differing.reason) == (stream, tag, difference)
                    }
                    _ => false,
                });
                (difference, item.map(|item| item.referrers.clone()).unwrap_or_default())
            }
            ImageVerdict::KeepUsed(UsedBy::Index(index), difference) => {
                let (inherited, referrers) =
                    self.image_cause(self.plan.images[index as usize].verdict, items);
                (difference.unwrap_or(inherited), referrers)
            }
            _ => (Difference::Protected, Vec::new()),
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
