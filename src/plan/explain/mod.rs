//! Why an image stays or goes: every rule that holds it, everyone who refers to it, and what would have to change.
//!
//! The plan stops at the first rule that fits; here all of them are looked at, because whoever wants an image gone has
//! to undo all of them. Pure.

mod change;
mod dates;
mod find;
mod stuck;

use std::collections::{BTreeMap, BTreeSet};

pub use change::{Change, Mark, apply};
pub use dates::date_in;
pub use find::{Found, Within, find};
pub use stuck::{Stuck, StuckImage, StuckStream, stuck};

use super::decide::{ImageVerdict, ItemVerdict, Parents, Plan, Reimport, StreamVerdict, named_blobs};
use super::references::Use;
use super::{Keep, Rules};
use crate::model::{Id, IdSet, Inventory, Item, Stream};

/// One rule that holds an item or an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The stream is not in the namespace that `--namespace` gives.
    OtherNamespace,
    /// The stream's labels do not match `--selector`.
    NotSelected,
    /// The stream is younger than the cutoff.
    StreamYoung,
    /// The stream, or its namespace, carries the protecting mark.
    StreamProtected(Vec<Mark>),
    /// The stream names these images, which have no metadata.
    StreamMetadataAbsent(Vec<Id>),
    /// The item is younger than the cutoff.
    ItemYoung,
    /// The item is its tag's current one, and these refer to the tag.
    TagReferenced(Vec<Use>),
    /// The image appeared after the images were read.
    Appeared,
    /// The item is among the first `--keep-tag-revisions`.
    Revision,
    /// The image exceeds no limit of the stream's namespace.
    WithinSizeLimit,
    /// These refer to the image in the stream.
    ImageReferenced(Vec<Use>),
    /// These refer, in the stream, to sub-manifests (the first of each pair) of the image, which is an index.
    SubmanifestReferenced(Vec<(Id, Use)>),
    /// The image, or one of the indexes above it, carries the protecting mark.
    ImageProtected(Vec<Id>),
    /// Images belong to no namespace: none is deleted with `--namespace`.
    Stage2Namespace,
    /// Images have no labels of streams: none is deleted with `--selector`.
    Stage2Selector,
    /// No image is deleted, because these have no metadata.
    Stage2Metadata(Vec<Id>),
    /// These refer to the digest (the first of each pair) of the image, or of an index above it, in whatever stream.
    ReferencedByDigest(Vec<(Id, Use)>),
    /// `--all=false`, and the image was not pushed to the integrated registry.
    NotManaged,
    /// The image is younger than the cutoff.
    ImageYoung,
}

/// An item, where it stands, and everything that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The position of the stream in the inventory.
    pub stream: usize,
    /// The position of the tag in the stream.
    pub tag: usize,
    /// The position of the item in the tag; 0 is the current one.
    pub position: u32,
    /// How many items the tag has.
    pub of: usize,
    /// When the tag began to point at the image.
    pub created: i64,
    /// The index that the item names, where it holds the image because that is one of its sub-manifests.
    pub through: Option<Id>,
    /// What the plan says.
    pub verdict: PlaceVerdict,
    /// Every rule that holds it, the deciding one first; none if it goes.
    pub obstacles: Vec<Obstacle>,
    /// When the server imports again what goes.
    pub reimport: Option<Reimport>,
}

/// What the plan says of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceVerdict {
    /// Its whole stream stays as it is.
    StreamStays(StreamVerdict),
    /// The item itself was looked at.
    Item(ItemVerdict),
}

impl Place {
    /// Whether the item stays.
    #[must_use]
    pub fn stays(&self) -> bool {
        !matches!(self.verdict, PlaceVerdict::Item(ItemVerdict::Remove(_)))
    }
}

/// What becomes of a blob that an image names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobFate {
    /// The blob.
    pub blob: Id,
    /// Its size in bytes, where an Image tells it.
    pub bytes: Option<u64>,
    /// Whether it goes from the registry if the image goes (an index with its sub-manifests), and nothing else that stays
    /// today.
    pub goes: bool,
    /// The images, by position, that stay and name it.
    pub shared_with: Vec<usize>,
}

/// An image, and everything that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageExplanation {
    /// Its name.
    pub image: Id,
    /// Its position among the images; absent if there is no such Image object.
    pub position: Option<usize>,
    /// What the plan says of the Image object.
    pub verdict: Option<ImageVerdict>,
    /// The items that name it, then those that name an index above it.
    pub places: Vec<Place>,
    /// What holds it beside items, the deciding rule first.
    pub obstacles: Vec<Obstacle>,
    /// Its layers, its config and its manifest, each once; of an index, also those of the sub-manifests that would go
    /// with it.
    pub blobs: Vec<BlobFate>,
}

impl ImageExplanation {
    /// Whether there is an Image object, and it stays.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.verdict.is_some_and(|verdict| verdict != ImageVerdict::Delete)
    }

    /// What would have to change, all of it, for every item that holds the image, and for the image, to be removed;
    /// `None` if nothing can make a rule give way.
    #[must_use]
    pub fn changes(&self, inventory: &Inventory) -> Option<Vec<Change>> {
        let mut changes = Vec::new();
        for place in &self.places {
            changes.extend(place.changes(inventory)?);
        }
        changes.extend(self.own_changes(inventory)?);
        Some(change::merged(changes))
    }

    /// The same with the tags of the items that hold it deleted, which frees the image from what these tags are kept for.
    #[must_use]
    pub fn changes_with_tags_deleted(&self, inventory: &Inventory) -> Option<Vec<Change>> {
        let kept = self.places.iter().filter(|place| place.stays());
        let tags = kept.map(|place| Change::DeleteTag { stream: place.stream, tag: place.tag });
        Some(change::merged(tags.chain(self.own_changes(inventory)?).collect()))
    }

    fn own_changes(&self, inventory: &Inventory) -> Option<Vec<Change>> {
        let created = self.position.map_or(i64::MIN, |position| inventory.images.all()[position].created);
        let each = self.obstacles.iter().map(|obstacle| obstacle.changes(created));
        each.collect::<Option<Vec<_>>>().map(|changes| changes.concat())
    }
}

impl Place {
    /// What would have to change, all of it, for the item to be removed; `None` if nothing can make a rule give way.
    #[must_use]
    pub fn changes(&self, inventory: &Inventory) -> Option<Vec<Change>> {
        let stream = &inventory.streams[self.stream];
        let image = stream.tags[self.tag].items[self.position as usize].image;
        let each = self.obstacles.iter().map(|obstacle| match obstacle {
            Obstacle::StreamYoung => Some(vec![Change::KeepYoungerThan(stream.created)]),
            Obstacle::Revision => Some(vec![Change::KeepTagRevisions(self.position)]),
            Obstacle::WithinSizeLimit => {
                let size = inventory.images.all()[inventory.images.find(image)?].size;
                let limit = Change::LowerLimit { namespace: stream.namespace.clone(), below: size };
                // No limit is below nothing.
                (size > 0).then(|| vec![limit])
            }
            other => other.changes(self.created),
        });
        each.collect::<Option<Vec<_>>>().map(|changes| change::merged(changes.concat()))
    }

    /// The change that takes the item away with its whole tag; `None` where objects refer to the tag and would miss it.
    #[must_use]
    pub fn deleted_tag(&self) -> Option<Change> {
        let in_use = self.obstacles.iter().any(|obstacle| matches!(obstacle, Obstacle::TagReferenced(_)));
        (self.stays() && !in_use).then_some(Change::DeleteTag { stream: self.stream, tag: self.tag })
    }
}

impl Obstacle {
    /// Everyone whose reference is the obstacle.
    #[must_use]
    pub fn uses(&self) -> Vec<Use> {
        match self {
            Self::TagReferenced(uses) | Self::ImageReferenced(uses) => uses.clone(),
            Self::SubmanifestReferenced(pairs) | Self::ReferencedByDigest(pairs) => {
                pairs.iter().map(|(_, place)| *place).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What would have to change for it; `created` is of the item or image that it holds.
    fn changes(&self, created: i64) -> Option<Vec<Change>> {
        let forget = |images: &[Id]| images.iter().map(|image| Change::ForgetImage(*image)).collect();
        Some(match self {
            Self::OtherNamespace | Self::Stage2Namespace => vec![Change::NoNamespace],
            Self::NotSelected | Self::Stage2Selector => vec![Change::NoSelector],
            Self::StreamProtected(marks) => marks.iter().cloned().map(Change::Unmark).collect(),
            Self::StreamMetadataAbsent(images) | Self::Stage2Metadata(images) => forget(images),
            Self::ItemYoung | Self::ImageYoung => vec![Change::KeepYoungerThan(created)],
            Self::Appeared => vec![Change::PlanAgain],
            Self::ImageProtected(images) => {
                images.iter().map(|image| Change::Unmark(Mark::Image(*image))).collect()
            }
            Self::NotManaged => vec![Change::All],
            Self::TagReferenced(_)
            | Self::ImageReferenced(_)
            | Self::SubmanifestReferenced(_)
            | Self::ReferencedByDigest(_) => self.uses().into_iter().map(Change::Dereference).collect(),
            // Those that depend on the place are the place's to answer.
            Self::StreamYoung | Self::Revision | Self::WithinSizeLimit => return None,
        })
    }
}

/// Explains images of a plan.
#[derive(Debug)]
pub struct Explainer<'a> {
    inventory: &'a Inventory,
    plan: &'a Plan,
    rules: &'a Rules,
    /// The items that name an image: positions of stream, tag and item.
    items: BTreeMap<Id, Vec<(usize, usize, u32)>>,
    parents: Parents,
    /// The images without metadata.
    absent: Vec<Id>,
    /// Each blob with the position of an image that names it and stays, sorted.
    kept_blobs: Vec<(Id, usize)>,
    /// The blobs that go by the plan or would if their image went.
    deletable: IdSet,
}

impl<'a> Explainer<'a> {
    /// Looks everything up that an explanation needs.
    #[must_use]
    pub fn new(inventory: &'a Inventory, plan: &'a Plan) -> Self {
        let images = &inventory.images;
        let mut items: BTreeMap<Id, Vec<(usize, usize, u32)>> = BTreeMap::new();
        for (stream_position, stream) in inventory.streams.iter().enumerate() {
            for (tag_position, tag) in stream.tags.iter().enumerate() {
                for (position, item) in (0..).zip(&tag.items) {
                    items.entry(item.image).or_default().push((stream_position, tag_position, position));
                }
            }
        }
        let parents = Parents::of(images);
        let mut kept_blobs = Vec::new();
        let mut deletable = IdSet::with_names(inventory.names.len());
        for position in 0..images.all().len() {
            let goes = super::decide::deletable_blobs(inventory, position);
            let goes = goes.chain([images.all()[position].name]);
            deletable.extend(goes.filter(|blob| inventory.names.is_digest(*blob)));
            if plan.images.at(position).verdict != ImageVerdict::Delete {
                kept_blobs.extend(named_blobs(inventory, position).map(|blob| (blob, position)));
            }
        }
        kept_blobs.sort_unstable();
        kept_blobs.dedup();
        let absent = images.all().iter().filter(|image| image.metadata_absent).map(|image| image.name);
        Self {
            inventory,
            plan,
            rules: &plan.rules,
            items,
            parents,
            absent: absent.collect(),
            kept_blobs,
            deletable,
        }
    }

    /// Explains one image, whether or not its Image object is there.
    #[must_use]
    pub fn image(&self, image: Id) -> ImageExplanation {
        let explained = self.without_blobs(image);
        ImageExplanation { blobs: self.blobs(&explained), ..explained }
    }

    fn without_blobs(&self, image: Id) -> ImageExplanation {
        let position = self.inventory.images.find(image);
        let above = self.indexes_above(image);
        let mut places = self.places_of(image, None);
        for index in &above {
            places.extend(self.places_of(self.inventory.images.all()[*index].name, Some(image)));
        }
        ImageExplanation {
            image,
            position,
            verdict: position.map(|position| self.plan.images.at(position).verdict),
            places,
            obstacles: position.map(|position| self.of_image(position, &above)).unwrap_or_default(),
            blobs: Vec::new(),
        }
    }

    /// Explains one item.
    #[must_use]
    pub fn place(&self, stream: usize, tag: usize, position: u32) -> Place {
        let of_stream = &self.inventory.streams[stream];
        let items = &of_stream.tags[tag].items;
        let item = &items[position as usize];
        let decision = &self.plan.streams[stream];
        let (verdict, reimport) = if decision.verdict == StreamVerdict::Examined {
            let before: usize = of_stream.tags[..tag].iter().map(|tag| tag.items.len()).sum();
            let decided = &decision.items[before + position as usize];
            (PlaceVerdict::Item(decided.verdict), decision.reimport(of_stream, decided))
        } else {
            (PlaceVerdict::StreamStays(decision.verdict), None)
        };
        let mut obstacles = self.of_stream(of_stream);
        obstacles.extend(self.of_item(of_stream, tag, position, item));
        Place {
            stream,
            tag,
            position,
            of: items.len(),
            created: item.created,
            through: None,
            verdict,
            obstacles,
            reimport,
        }
    }

    fn places_of(&self, name: Id, held: Option<Id>) -> Vec<Place> {
        let places = self.items.get(&name).into_iter().flatten();
        let places = places.map(|(stream, tag, position)| Place {
            through: held.map(|_| name),
            ..self.place(*stream, *tag, *position)
        });
        places.collect()
    }

    /// The indexes, by position, that hold the image at any depth.
    fn indexes_above(&self, image: Id) -> Vec<usize> {
        let mut above = Vec::new();
        let mut open = vec![image];
        while let Some(name) = open.pop() {
            for parent in self.parents.of_manifest(name) {
                let index = self.inventory.images.all()[parent].name;
                if index != image && !above.contains(&parent) {
                    above.push(parent);
                    open.push(index);
                }
            }
        }
        above
    }

    /// What holds every item of a stream.
    fn of_stream(&self, stream: &Stream) -> Vec<Obstacle> {
        let mut found = Vec::new();
        if self.rules.namespace.as_deref().is_some_and(|namespace| *namespace != *stream.namespace) {
            found.push(Obstacle::OtherNamespace);
        }
        if !stream.selected {
            found.push(Obstacle::NotSelected);
        }
        if self.rules.is_young(stream.created) {
            found.push(Obstacle::StreamYoung);
        }
        let mut marks = Vec::new();
        if stream.protected {
            marks.push(Mark::Stream { namespace: stream.namespace.clone(), name: stream.name.clone() });
        }
        if self.inventory.protected_namespaces.contains(&stream.namespace) {
            marks.push(Mark::Namespace(stream.namespace.clone()));
        }
        if !marks.is_empty() {
            found.push(Obstacle::StreamProtected(marks));
        }
        let named: BTreeSet<Id> =
            stream.tags.iter().flat_map(|tag| &tag.items).map(|item| item.image).collect();
        let absent: Vec<Id> = self.absent.iter().copied().filter(|image| named.contains(image)).collect();
        if !absent.is_empty() {
            found.push(Obstacle::StreamMetadataAbsent(absent));
        }
        found
    }

    /// What holds one item of a stream that is looked at, in the order of the rules.
    fn of_item(&self, stream: &Stream, tag: usize, position: u32, item: &Item) -> Vec<Obstacle> {
        let mut found = Vec::new();
        let references = self.plan.references.of_stream(self.inventory, stream);
        if self.rules.is_young(item.created) {
            found.push(Obstacle::ItemYoung);
        }
        let of_tag = references.tag(stream.tags[tag].name);
        if position == 0 && !of_tag.is_empty() {
            found.push(Obstacle::TagReferenced(of_tag.to_vec()));
        }
        let Some(image) = self.inventory.images.find(item.image) else { return found };
        let image = &self.inventory.images.all()[image];
        if image.appeared {
            found.push(Obstacle::Appeared);
        }
        match self.rules.keep {
            Keep::Recent { tag_revisions, .. } if position < tag_revisions => found.push(Obstacle::Revision),
            Keep::WithinSizeLimit => {
                let limits = self.inventory.limits.get(&stream.namespace).into_iter().flatten();
                if !limits.into_iter().any(|limit| limit.max_storage.cmp_bytes(image.size).is_lt()) {
                    found.push(Obstacle::WithinSizeLimit);
                }
            }
            Keep::Recent { .. } => {}
        }
        let of_image = references.image(item.image);
        if !of_image.is_empty() {
            found.push(Obstacle::ImageReferenced(of_image.to_vec()));
        }
        let below = self.inventory.images.with_submanifests([item.image]);
        let below = below.into_iter().filter(|manifest| *manifest != item.image);
        let of_submanifests: Vec<(Id, Use)> = below
            .flat_map(|manifest| references.image(manifest).iter().map(move |place| (manifest, *place)))
            .collect();
        if !of_submanifests.is_empty() {
            found.push(Obstacle::SubmanifestReferenced(of_submanifests));
        }
        if image.protected {
            found.push(Obstacle::ImageProtected(vec![image.name]));
        }
        found
    }

    /// What holds an image beside items, in the order of the rules.
    fn of_image(&self, position: usize, above: &[usize]) -> Vec<Obstacle> {
        let images = self.inventory.images.all();
        let image = &images[position];
        let mut found = Vec::new();
        if self.rules.namespace.is_some() {
            found.push(Obstacle::Stage2Namespace);
        }
        if self.inventory.selector.is_some() {
            found.push(Obstacle::Stage2Selector);
        }
        if !self.absent.is_empty() {
            found.push(Obstacle::Stage2Metadata(self.absent.clone()));
        }
        let itself_and_above = || [position].into_iter().chain(above.iter().copied());
        let marked: Vec<Id> = itself_and_above()
            .filter(|position| images[*position].protected)
            .map(|position| images[position].name)
            .collect();
        if !marked.is_empty() {
            found.push(Obstacle::ImageProtected(marked));
        }
        let referenced: Vec<(Id, Use)> = itself_and_above()
            .map(|position| images[position].name)
            .flat_map(|name| self.plan.references.of_digest(name).iter().map(move |place| (name, *place)))
            .collect();
        if !referenced.is_empty() {
            found.push(Obstacle::ReferencedByDigest(referenced));
        }
        if image.appeared {
            found.push(Obstacle::Appeared);
        }
        if !self.rules.all && !image.managed {
            found.push(Obstacle::NotManaged);
        }
        if self.rules.is_young(image.created) {
            found.push(Obstacle::ImageYoung);
        }
        found
    }

    /// What becomes of the blobs of the image, and of those of its sub-manifests that go with it.
    fn blobs(&self, explained: &ImageExplanation) -> Vec<BlobFate> {
        let Some(position) = explained.position else { return Vec::new() };
        let going = self.going_along(position, explained);
        let mut seen = BTreeSet::new();
        let named = going.iter().flat_map(|image| named_blobs(self.inventory, *image));
        let fates = named.filter(|blob| seen.insert(*blob)).map(|blob| {
            let from = self.kept_blobs.partition_point(|(kept, _)| *kept < blob);
            let sharers = self.kept_blobs[from..].iter().take_while(|(kept, _)| *kept == blob);
            let shared_with: Vec<usize> =
                sharers.map(|(_, other)| *other).filter(|other| !going.contains(other)).collect();
            BlobFate {
                blob,
                bytes: self.inventory.images.blob_bytes(blob),
                goes: self.rules.prune_registry && shared_with.is_empty() && self.deletable.contains(blob),
                shared_with,
            }
        });
        fates.collect()
    }

    /// The image, and its sub-manifests that are held by nothing but what holds the image, by position.
    fn going_along(&self, position: usize, explained: &ImageExplanation) -> Vec<usize> {
        let mut going = vec![position];
        let below = self.inventory.images.with_submanifests([explained.image]);
        let below: Vec<Id> = below.into_iter().filter(|manifest| *manifest != explained.image).collect();
        let Some(changes) = explained.changes(self.inventory).filter(|_| !below.is_empty()) else {
            return going;
        };
        for manifest in below {
            let Some(submanifest) = self.inventory.images.find(manifest) else { continue };
            let needed = self.without_blobs(manifest).changes(self.inventory);
            if needed.is_some_and(|needed| needed.iter().all(|change| change.is_part_of(&changes))) {
                going.push(submanifest);
            }
        }
        going
    }

    /// An item that names the image, the first in the inventory: where to look for it.
    #[must_use]
    pub fn a_place_of(&self, position: usize) -> Option<(usize, usize)> {
        let name = self.inventory.images.all()[position].name;
        let (stream, tag, _) = self.items.get(&name)?.first()?;
        Some((*stream, *tag))
    }
}
