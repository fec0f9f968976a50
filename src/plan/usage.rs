//! Where the registry's storage goes: bytes per namespace, stream and tag.
//!
//! A blob is a layer, a config or a manifest that an Image names and that a registry can hold (its name is a digest).
//! Whoever holds an image holds its blobs, and those of the sub-manifests below it at any depth. In each sum a blob
//! counts once.

use super::{ImageVerdict, Plan, decide::named_blobs};
use crate::model::{Id, IdSet, Inventory, Stream, Tag};

/// How finely storage is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// By namespace.
    Namespace,
    /// By image stream.
    #[default]
    Stream,
    /// By tag.
    Tag,
}

impl Level {
    /// All of them by the word that selects them.
    pub const BY_NAME: [(&'static str, Self); 3] =
        [("namespace", Self::Namespace), ("stream", Self::Stream), ("tag", Self::Tag)];
}

/// Who holds a part of the storage; positions are those of the inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A namespace, by the position of its first stream.
    Namespace(usize),
    /// A stream.
    Stream(usize),
    /// A tag, by the positions of its stream and of itself there.
    Tag(usize, usize),
    /// The images that no stream names.
    Untagged,
}

/// What a holder holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Images, sub-manifests included.
    pub images: usize,
    /// Those of them that the plan deletes.
    pub prunable_images: usize,
    /// Blobs.
    pub blobs: usize,
    /// Those of them whose size no Image tells: most manifests. They count 0 bytes.
    pub blobs_of_unknown_size: usize,
    /// The bytes of the blobs.
    pub bytes: u64,
    /// Of these, what no other holder of the same level holds.
    pub unique_bytes: u64,
    /// What a live object needs: the images it names, by tag or by digest.
    pub referenced_bytes: u64,
    /// What the plan frees.
    pub prunable_bytes: u64,
    /// Of the unique bytes, what the plan frees.
    pub unique_prunable_bytes: u64,
    /// What only images name that were not pushed to the integrated registry: it holds these blobs only if it mirrored
    /// them.
    pub imported_bytes: u64,
}

impl Amounts {
    /// What other holders of the same level hold, too.
    #[must_use]
    pub fn shared_bytes(&self) -> u64 {
        self.bytes - self.unique_bytes
    }
}

/// Storage divided among its holders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The holders, in the order of the inventory; [`Holder::Untagged`] last, if there are such images.
    pub holders: Vec<(Holder, Amounts)>,
    /// All of them together: each blob once. `unique_bytes` are those that one holder holds alone.
    pub total: Amounts,
}

/// Which image streams are shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shown(Option<Vec<bool>>);

impl Shown {
    /// All of them, and the images that no stream names.
    #[must_use]
    pub fn all() -> Self {
        Self(None)
    }

    /// Those of which this says so, in the order of the inventory; nothing else.
    #[must_use]
    pub fn streams(shown: impl IntoIterator<Item = bool>) -> Self {
        Self(Some(shown.into_iter().collect()))
    }

    /// The streams of this namespace that a selector means; all without either.
    #[must_use]
    pub fn of(inventory: &Inventory, namespace: Option<&str>) -> Self {
        if namespace.is_none() && inventory.selector.is_none() {
            return Self::all();
        }
        let is_of = |stream: &Stream| namespace.is_none_or(|namespace| *namespace == *stream.namespace);
        Self::streams(inventory.streams.iter().map(|stream| stream.selected && is_of(stream)))
    }

    /// Whether nothing is left out.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    fn has(&self, stream: usize) -> bool {
        self.0.as_ref().is_none_or(|shown| shown.get(stream).copied().unwrap_or_default())
    }
}

/// Divides the storage among the holders of a level. Only those that are shown are returned and summed up; what others
/// hold still decides what is unique. A namespace of which some streams are shown holds what these hold.
#[must_use]
pub fn usage(inventory: &Inventory, plan: &Plan, level: Level, shown: &Shown) -> Usage {
    let mut meter = Meter::new(inventory, plan);
    let mut holders: Vec<(Holder, Amounts)> = Vec::new();
    let mut is_shown = Vec::new();
    for Group { holder, shown, named } in groups(inventory, level, shown) {
        holders.push((holder, meter.measure(named)));
        is_shown.push(shown);
    }
    let untagged = meter.measure_untagged();
    if untagged.images > 0 {
        holders.push((Holder::Untagged, untagged));
        is_shown.push(shown.is_all());
    }
    meter.divide(&mut holders);
    let mut total = meter.measure_all(shown);
    let mut is_shown = is_shown.into_iter();
    holders.retain(|_| is_shown.next().unwrap_or_default());
    total.unique_bytes = holders.iter().map(|(_, amounts)| amounts.unique_bytes).sum();
    total.unique_prunable_bytes = holders.iter().map(|(_, amounts)| amounts.unique_prunable_bytes).sum();
    Usage { holders, total }
}

/// A holder, and the images that its items name.
struct Group {
    holder: Holder,
    shown: bool,
    named: Vec<Id>,
}

/// The holders of a level.
fn groups<'a>(
    inventory: &'a Inventory,
    level: Level,
    shown: &'a Shown,
) -> Box<dyn Iterator<Item = Group> + 'a> {
    fn of_tag(tag: &Tag) -> impl Iterator<Item = Id> + '_ {
        tag.items.iter().map(|item| item.image)
    }
    let of_stream = |stream: &Stream| stream.tags.iter().flat_map(of_tag).collect::<Vec<_>>();
    let streams = &inventory.streams;
    match level {
        Level::Namespace => {
            let of_namespace = move |first: usize, next: usize| {
                let group = move |is_shown: bool| {
                    let of_it = (first..next).filter(|position| shown.has(*position) == is_shown);
                    let mut of_it = of_it.peekable();
                    of_it.peek()?;
                    let named = of_it.flat_map(|position| of_stream(&streams[position])).collect();
                    Some(Group { holder: Holder::Namespace(first), shown: is_shown, named })
                };
                [true, false].into_iter().filter_map(group)
            };
            let mut next = 0;
            let namespaces = std::iter::from_fn(move || {
                let first = next;
                let namespace = &streams.get(first)?.namespace;
                while streams.get(next).is_some_and(|stream| stream.namespace == *namespace) {
                    next += 1;
                }
                Some((first, next))
            });
            Box::new(namespaces.flat_map(move |(first, next)| of_namespace(first, next)))
        }
        Level::Stream => Box::new(streams.iter().enumerate().map(move |(position, stream)| Group {
            holder: Holder::Stream(position),
            shown: shown.has(position),
            named: of_stream(stream),
        })),
        Level::Tag => Box::new(streams.iter().enumerate().flat_map(move |(position, stream)| {
            stream.tags.iter().enumerate().map(move |(number, tag)| Group {
                holder: Holder::Tag(position, number),
                shown: shown.has(position),
                named: of_tag(tag).collect(),
            })
        })),
    }
}

/// What is known of a name.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    /// The plan deletes the blob.
    goes: bool,
    /// A live object needs the blob.
    referenced: bool,
    /// An image that was pushed here names the blob.
    pushed: bool,
}

/// Who holds a blob.
const NOBODY: u32 = u32::MAX;
const SEVERAL: u32 = u32::MAX - 1;

struct Meter<'a> {
    inventory: &'a Inventory,
    plan: &'a Plan,
    facts: Vec<Facts>,
    holder: Vec<u32>,
    next_holder: u32,
    /// The images that any stream holds.
    tagged: IdSet,
    images: IdSet,
    blobs: IdSet,
}

impl<'a> Meter<'a> {
    fn new(inventory: &'a Inventory, plan: &'a Plan) -> Self {
        let names = inventory.names.len();
        let mut meter = Self {
            inventory,
            plan,
            facts: vec![Facts::default(); names],
            holder: vec![NOBODY; names],
            next_holder: 0,
            tagged: IdSet::with_names(names),
            images: IdSet::with_names(names),
            blobs: IdSet::with_names(names),
        };
        for blob in plan.images.blobs() {
            meter.facts[blob.index()].goes = true;
        }
        for (position, image) in inventory.images.all().iter().enumerate() {
            if image.managed {
                for blob in named_blobs(inventory, position) {
                    meter.facts[blob.index()].pushed = true;
                }
            }
        }
        for position in meter.with_submanifests(referenced_images(inventory, plan)) {
            for blob in named_blobs(inventory, position) {
                meter.facts[blob.index()].referenced = true;
            }
        }
        meter
    }

    /// The positions of these images and of the sub-manifests below them that are there, each once.
    fn with_submanifests(&mut self, names: impl IntoIterator<Item = Id>) -> Vec<usize> {
        self.images.clear();
        let images = &self.inventory.images;
        let mut open: Vec<Id> = names.into_iter().collect();
        let mut positions = Vec::new();
        while let Some(name) = open.pop() {
            if self.images.insert(name)
                && let Some(position) = images.find(name)
            {
                positions.push(position);
                open.extend(images.manifests(position));
            }
        }
        positions
    }

    /// What the next holder holds, who holds the images of these names.
    fn measure(&mut self, names: Vec<Id>) -> Amounts {
        let positions = self.with_submanifests(names);
        for position in &positions {
            self.tagged.insert(self.inventory.images.all()[*position].name);
        }
        self.measure_images(&positions)
    }

    /// What the images hold that no holder had so far.
    fn measure_untagged(&mut self) -> Amounts {
        let all = self.inventory.images.all().iter().enumerate();
        let untagged: Vec<usize> = all
            .filter(|(_, image)| !self.tagged.contains(image.name))
            .map(|(position, _)| position)
            .collect();
        self.measure_images(&untagged)
    }

    fn measure_images(&mut self, positions: &[usize]) -> Amounts {
        let amounts = self.sum(positions);
        let holder = self.next_holder;
        self.next_holder += 1;
        for position in positions {
            for blob in named_blobs(self.inventory, *position) {
                let known = &mut self.holder[blob.index()];
                *known = if *known == NOBODY || *known == holder { holder } else { SEVERAL };
            }
        }
        amounts
    }

    fn sum(&mut self, positions: &[usize]) -> Amounts {
        let mut amounts = Amounts::default();
        self.blobs.clear();
        for position in positions {
            amounts.images += 1;
            amounts.prunable_images +=
                usize::from(self.plan.images.at(*position).verdict == ImageVerdict::Delete);
            for blob in named_blobs(self.inventory, *position) {
                if !self.inventory.names.is_digest(blob) || !self.blobs.insert(blob) {
                    continue;
                }
                amounts.blobs += 1;
                let Some(bytes) = self.inventory.images.blob_bytes(blob) else {
                    amounts.blobs_of_unknown_size += 1;
                    continue;
                };
                let Facts { goes, referenced, pushed } = self.facts[blob.index()];
                amounts.bytes += bytes;
                amounts.referenced_bytes += if referenced { bytes } else { 0 };
                amounts.prunable_bytes += if goes { bytes } else { 0 };
                amounts.imported_bytes += if pushed { 0 } else { bytes };
            }
        }
        amounts
    }

    /// Gives each blob that one holder holds alone to it.
    fn divide(&mut self, holders: &mut [(Holder, Amounts)]) {
        self.blobs.clear();
        for position in 0..self.inventory.images.all().len() {
            for blob in named_blobs(self.inventory, position) {
                if self.inventory.names.is_digest(blob)
                    && self.blobs.insert(blob)
                    && let Some((_, amounts)) = holders.get_mut(self.holder[blob.index()] as usize)
                {
                    let bytes = self.inventory.images.blob_bytes(blob).unwrap_or(0);
                    amounts.unique_bytes += bytes;
                    amounts.unique_prunable_bytes += if self.facts[blob.index()].goes { bytes } else { 0 };
                }
            }
        }
    }

    /// All images of the streams that are shown.
    fn measure_all(&mut self, shown: &Shown) -> Amounts {
        let inventory = self.inventory;
        let streams = inventory.streams.iter().enumerate().filter(|(position, _)| shown.has(*position));
        let items = streams.flat_map(|(_, stream)| &stream.tags).flat_map(|tag| &tag.items);
        let mut positions = self.with_submanifests(items.map(|item| item.image));
        if shown.is_all() {
            let all = inventory.images.all().iter().enumerate();
            positions.extend(
                all.filter(|(_, image)| !self.tagged.contains(image.name)).map(|(position, _)| position),
            );
        }
        self.sum(&positions)
    }
}

/// The images that a live object names, by tag or by digest.
fn referenced_images(inventory: &Inventory, plan: &Plan) -> Vec<Id> {
    let mut referenced: Vec<Id> = plan.references.digests().map(|(image, _)| image).collect();
    for stream in &inventory.streams {
        let uses = plan.references.of_stream(inventory, stream);
        let in_use = |tag: &&Tag| !uses.tag(tag.name).is_empty();
        let current = stream.tags.iter().filter(in_use).filter_map(|tag| tag.items.first());
        referenced.extend(current.map(|item| item.image));
    }
    referenced
}

/// A part of the storage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Area {
    /// Its bytes.
    pub bytes: u64,
    /// What of it the plan frees.
    pub prunable: u64,
}

/// A namespace's part of the storage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceMap {
    /// The position of the namespace's first stream.
    pub first: usize,
    /// What each stream, by its position, holds alone.
    pub streams: Vec<(usize, Area)>,
    /// What several streams of this namespace hold, and nothing else does.
    pub shared: Area,
}

/// The storage, cut so that each byte is in one place: a picture of it has areas that add up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageMap {
    /// The namespaces.
    pub namespaces: Vec<NamespaceMap>,
    /// What several namespaces hold, or a namespace and what is not shown, or images that no stream names.
    pub shared: Area,
    /// What only images hold that no stream names.
    pub untagged: Area,
    /// All of it.
    pub total: Area,
}

/// Cuts the storage that is shown into what streams hold alone, what they share within a namespace, and what namespaces share.
#[must_use]
pub fn storage_map(inventory: &Inventory, plan: &Plan, shown: &Shown) -> StorageMap {
    let by_namespace = usage(inventory, plan, Level::Namespace, shown);
    let by_stream = usage(inventory, plan, Level::Stream, shown);
    let alone =
        |amounts: &Amounts| Area { bytes: amounts.unique_bytes, prunable: amounts.unique_prunable_bytes };
    let mut map = StorageMap {
        total: Area { bytes: by_stream.total.bytes, prunable: by_stream.total.prunable_bytes },
        ..StorageMap::default()
    };
    let mut left = map.total;
    let mut streams = by_stream.holders.iter().peekable();
    for (holder, amounts) in &by_namespace.holders {
        let mut shared = alone(amounts);
        left = left.without(shared);
        match *holder {
            Holder::Namespace(first) => {
                let mut namespace = NamespaceMap { first, ..NamespaceMap::default() };
                let is_of_it = |(holder, _): &&(Holder, Amounts)| match holder {
                    Holder::Stream(position) => {
                        inventory.streams[*position].namespace == inventory.streams[first].namespace
                    }
                    _ => false,
                };
                while let Some((Holder::Stream(position), amounts)) = streams.next_if(is_of_it) {
                    let area = alone(amounts);
                    shared = shared.without(area);
                    namespace.streams.push((*position, area));
                }
                namespace.shared = shared;
                map.namespaces.push(namespace);
            }
            _ => map.untagged = shared,
        }
    }
    map.shared = left;
    map
}

impl Area {
    /// What is left of it. A part is never larger than the whole.
    fn without(self, part: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(part.bytes),
            prunable: self.prunable.saturating_sub(part.prunable),
        }
    }
}
