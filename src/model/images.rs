//! The Image objects as flat records.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Id, Word};

/// One Image object (`image.openshift.io/v1`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "six independent facts about an object, not states of one machine"
)]
pub struct Image {
    /// `metadata.name`: the manifest's digest.
    pub name: Id,
    /// `metadata.uid`, when it has the form of a UUID: the precondition of its deletion.
    pub uid: Option<Uuid>,
    /// `metadata.creationTimestamp`; the smallest value when absent, as Go's zero time.
    pub created: i64,
    /// `dockerImageMetadata.Size` in bytes; 0 when absent.
    pub size: i64,
    /// `dockerImageMetadata.Id`, when not empty and the image is no index.
    pub config: Option<Id>,
    /// Whether the media type is Docker schema 2 or an OCI manifest: only then is the config deleted.
    pub config_deletable: bool,
    /// Whether the media type is an image index or a manifest list.
    pub index: bool,
    /// Annotation `openshift.io/image.managed` is "true".
    pub managed: bool,
    /// Label or annotation `prune-images/keep` is "true".
    pub protected: bool,
    /// No index, and without `dockerImageMetadata`: nobody knows which config it needs.
    pub metadata_absent: bool,
    /// `namespace/name` in `dockerImageReference` of a managed image: the repository that it was pushed to.
    pub repository: Option<Word>,
    /// It was not in the list of images and was found by name later: pushed meanwhile.
    pub appeared: bool,
    has_manifests: bool,
    layers: u32,
}

/// A UUID, as the API server gives one to each object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// Reads `8-4-4-4-12` hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let has_form = text.len() == 36
            && text.bytes().enumerate().all(|(i, c)| (c == b'-') == matches!(i, 8 | 13 | 18 | 23));
        if !has_form {
            return None;
        }
        text.bytes()
            .filter(|c| *c != b'-')
            .try_fold(0_u128, |sum, c| Some(sum << 4 | u128::from(char::from(c).to_digit(16)?)))
            .map(|bits| Self(bits.to_be_bytes()))
    }

    /// Its 128 bits.
    #[must_use]
    pub fn bits(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

/// `8-4-4-4-12` lower-case hex digits.
impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, byte) in self.0.iter().enumerate() {
            if matches!(position, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The Image objects, with their layers and sub-manifests in flat arrays.
#[derive(Debug, Default, Clone)]
pub struct Images {
    records: Vec<Image>,
    /// Of all images, one behind the other; a record tells where its own begin.
    layers: Vec<Id>,
    manifests: Vec<Id>,
    /// Which images have manifests: their positions, and where their own begin.
    with_manifests: Vec<(u32, u32)>,
    positions: Positions,
    sizes: Sizes,
}

impl Images {
    /// All images, in the order they were added.
    #[must_use]
    pub fn all(&self) -> &[Image] {
        &self.records
    }

    /// The position of the image of this name in [`Images::all`].
    #[must_use]
    pub fn find(&self, name: Id) -> Option<usize> {
        self.positions.find(name)
    }

    /// The names in `dockerImageLayers`, in order, duplicates included.
    #[must_use]
    pub fn layers(&self, position: usize) -> &[Id] {
        let end = self.records.get(position + 1).map_or(self.layers.len(), |next| next.layers as usize);
        &self.layers[self.records[position].layers as usize..end]
    }

    /// The digests in `dockerImageManifests`, in order.
    #[must_use]
    pub fn manifests(&self, position: usize) -> &[Id] {
        if !self.records[position].has_manifests {
            return &[];
        }
        match self.with_manifests.binary_search_by_key(&position, |(position, _)| *position as usize) {
            Ok(found) => self.manifests_of(found),
            Err(_) => &[],
        }
    }

    fn manifests_of(&self, found: usize) -> &[Id] {
        let end = self.with_manifests.get(found + 1).map_or(self.manifests.len(), |(_, next)| *next as usize);
        &self.manifests[self.with_manifests[found].1 as usize..end]
    }

    /// Each image, by its position, that lists sub-manifests, with their names.
    pub fn all_manifests(&self) -> impl Iterator<Item = (usize, &[Id])> {
        self.with_manifests
            .iter()
            .enumerate()
            .map(|(found, (position, _))| (*position as usize, self.manifests_of(found)))
    }

    /// These names, and those of the sub-manifests below them at any depth, whether or not their Images are there.
    #[must_use]
    pub fn with_submanifests(&self, names: impl IntoIterator<Item = Id>) -> BTreeSet<Id> {
        let mut open: Vec<Id> = names.into_iter().collect();
        let mut all: BTreeSet<Id> = open.iter().copied().collect();
        if self.with_manifests.is_empty() {
            return all;
        }
        while let Some(name) = open.pop() {
            if let Some(position) = self.find(name) {
                open.extend(self.manifests(position).iter().filter(|manifest| all.insert(**manifest)));
            }
        }
        all
    }

    /// The size of a blob in bytes, where any Image tells it.
    #[must_use]
    pub fn blob_bytes(&self, blob: Id) -> Option<u64> {
        self.sizes.get(blob)
    }

    /// Notes the size of a blob, in bytes; zero and less mean unknown.
    pub fn set_blob_bytes(&mut self, blob: Id, bytes: i64) {
        if let Ok(bytes @ 1..) = u64::try_from(bytes) {
            self.sizes.set(blob, bytes);
        }
    }

    /// These images as `change` makes them, without those that it answers `None` for.
    #[must_use]
    pub fn filtered(&self, change: impl Fn(&Image) -> Option<Image>) -> Self {
        let mut images = Self { sizes: self.sizes.clone(), ..Self::default() };
        for (position, image) in self.records.iter().enumerate() {
            if let Some(image) = change(image) {
                images.push(image, self.layers(position), self.manifests(position));
            }
        }
        images
    }

    /// Adds an image; where its layers stand is filled in here. The first image of a name wins.
    ///
    /// # Panics
    /// Never in practice: 2^32 layers do not fit into the API server.
    #[expect(clippy::cast_possible_truncation, reason = "2^32 layers do not fit into the API server")]
    pub fn push(&mut self, mut image: Image, layers: &[Id], manifests: &[Id]) {
        let position = self.records.len() as u32;
        if !self.positions.insert(image.name, position) {
            return;
        }
        image.layers = self.layers.len() as u32;
        self.layers.extend_from_slice(layers);
        image.has_manifests = !manifests.is_empty();
        if image.has_manifests {
            self.with_manifests.push((position, self.manifests.len() as u32));
            self.manifests.extend_from_slice(manifests);
        }
        self.records.push(image);
    }
}

impl Image {
    /// An image that is nothing but its name; the reader fills in the rest.
    #[must_use]
    pub fn named(name: Id) -> Self {
        Self {
            name,
            uid: None,
            created: i64::MIN,
            size: 0,
            config: None,
            config_deletable: false,
            index: false,
            managed: false,
            protected: false,
            metadata_absent: false,
            repository: None,
            appeared: false,
            has_manifests: false,
            layers: 0,
        }
    }
}

/// Where the image of a name is. Most images get the greatest id there is so far, because nothing named them before: they
/// are counted in a set of bits. The others are in a map.
#[derive(Debug, Default, Clone)]
struct Positions {
    /// For each 64 ids: which are names of images, and how many such names have lesser ids.
    parts: Vec<(u64, u32)>,
    /// The positions of these images, by their ids.
    in_order: Vec<u32>,
    others: BTreeMap<Id, u32>,
}

impl Positions {
    fn find(&self, name: Id) -> Option<usize> {
        let (part, bit) = (name.index() / 64, name.index() % 64);
        if let Some((bits, before)) = self.parts.get(part)
            && bits >> bit & 1 == 1
        {
            let lesser = (bits & ((1 << bit) - 1)).count_ones();
            return self.in_order.get((before + lesser) as usize).map(|position| *position as usize);
        }
        self.others.get(&name).map(|position| *position as usize)
    }

    /// Whether there was no image of this name.
    fn insert(&mut self, name: Id, position: u32) -> bool {
        if self.find(name).is_some() {
            return false;
        }
        let (part, bit) = (name.index() / 64, name.index() % 64);
        if self.parts.len() > part + 1 || self.parts.get(part).is_some_and(|(bits, _)| bits >> bit != 0) {
            self.others.insert(name, position);
            return true;
        }
        #[expect(clippy::cast_possible_truncation, reason = "positions are 32 bits")]
        let before = self.in_order.len() as u32;
        if self.parts.len() <= part {
            self.parts.resize(part + 1, (0, before));
        }
        self.parts[part].0 |= 1 << bit;
        self.in_order.push(position);
        true
    }
}

/// Sizes of blobs in bytes.
#[derive(Debug, Default, Clone)]
struct Sizes {
    /// 0 is unknown, the greatest value is in `large`.
    small: Vec<u32>,
    large: BTreeMap<Id, u64>,
}

impl Sizes {
    fn get(&self, blob: Id) -> Option<u64> {
        match *self.small.get(blob.index())? {
            0 => None,
            u32::MAX => self.large.get(&blob).copied(),
            bytes => Some(u64::from(bytes)),
        }
    }

    fn set(&mut self, blob: Id, bytes: u64) {
        if self.small.len() <= blob.index() {
            self.small.resize(blob.index() + 1, 0);
        }
        let small = u32::try_from(bytes).unwrap_or(u32::MAX);
        if small == u32::MAX {
            self.large.insert(blob, bytes);
        }
        self.small[blob.index()] = small;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::Names;

    #[test]
    fn a_uuid_is_read_and_written_in_its_form_alone() {
        let text = "0123abcd-ef01-4234-8567-89abcdef0123";
        assert_eq!(Uuid::parse(text).map(|uuid| uuid.to_string()).as_deref(), Some(text));
        assert_eq!(Uuid::parse(&text.to_uppercase()), Uuid::parse(text));
        for bad in ["", "0123abcd", &text.replace('-', "0"), &text.replace('a', "g"), &format!("{text}0")] {
            assert_eq!(Uuid::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_record_is_small() {
        assert!(size_of::<Image>() <= 56, "{}", size_of::<Image>());
    }

    #[test]
    fn sizes_of_all_magnitudes_are_kept() {
        let mut names = Names::default();
        let mut images = Images::default();
        let large = i64::from(u32::MAX);
        let sizes = [1, 0, large - 1, large, large + 1, i64::MAX, -1];
        let ids: Vec<Id> = sizes.iter().map(|size| names.intern(&format!("blob-{size}"))).collect();
        for (id, size) in ids.iter().zip(sizes) {
            images.set_blob_bytes(*id, size);
            assert_eq!(images.blob_bytes(*id), u64::try_from(size).ok().filter(|size| *size > 0));
        }
        images.set_blob_bytes(ids[0], 5);
        assert_eq!(images.blob_bytes(ids[0]), Some(5));
        assert_eq!(images.blob_bytes(names.intern("new")), None);
    }

    proptest::proptest! {
        #[test]
        fn images_are_found_whatever_order_their_names_came_in(
            pushed in proptest::collection::vec((0_usize..400, proptest::collection::vec(0_usize..400, 0..3)), 0..200),
        ) {
            let mut images = Images::default();
            let mut expected: BTreeMap<usize, (usize, Vec<Id>)> = BTreeMap::new();
            for (name, manifests) in pushed {
                let manifests: Vec<Id> = manifests.into_iter().map(Id::at).collect();
                images.push(Image::named(Id::at(name)), &manifests, &manifests);
                let position = expected.len();
                expected.entry(name).or_insert((position, manifests));
            }
            proptest::prop_assert_eq!(images.all().len(), expected.len());
            for name in 0..401 {
                let found = images.find(Id::at(name));
                proptest::prop_assert_eq!(found, expected.get(&name).map(|(position, _)| *position));
                if let Some(position) = found {
                    proptest::prop_assert_eq!(images.layers(position), &expected[&name].1[..]);
                    proptest::prop_assert_eq!(images.manifests(position), &expected[&name].1[..]);
                }
            }
            let with = expected.values().filter(|(_, manifests)| !manifests.is_empty()).count();
            proptest::prop_assert_eq!(images.all_manifests().count(), with);
        }
    }
}
