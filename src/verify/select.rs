//! What to ask for. Pure.

use std::collections::BTreeSet;

use super::PartKind;
use crate::model::{Id, Inventory, Stream};

/// An image in a repository that uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The position of the stream in the inventory.
    pub stream: usize,
    /// The image that an item of the stream names.
    pub image: Id,
    /// What a pull of it needs.
    pub parts: Vec<Part>,
}

/// A manifest or blob that a pull needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// The manifest or blob.
    pub digest: Id,
    /// What it is.
    pub kind: PartKind,
    /// Its size, where an Image tells it.
    pub bytes: Option<u64>,
}

/// An image in a repository: the position of the stream, and the image.
pub type Place = (usize, Id);

/// Every image that items of the streams name, in each repository once: those that were pushed to the integrated registry.
/// What was imported has its data elsewhere. `namespace` limits the streams.
pub fn places<'a>(inventory: &'a Inventory, namespace: Option<&str>) -> impl Iterator<Item = Place> + 'a {
    let namespace: Option<Box<str>> = namespace.map(Into::into);
    let in_scope =
        move |stream: &Stream| namespace.as_deref().is_none_or(|namespace| *stream.namespace == *namespace);
    let streams = inventory.streams.iter().enumerate().filter(move |(_, stream)| in_scope(stream));
    streams.flat_map(|(position, stream)| {
        named(inventory, stream).into_iter().map(move |image| (position, image))
    })
}

/// What is asked for there: everything that a pull needs.
#[must_use]
pub fn check(inventory: &Inventory, (stream, image): Place) -> Check {
    Check { stream, image, parts: parts(inventory, image) }
}

/// Of these places only those whose image shares a blob with `deleted`, images by name, and of each only these blobs and
/// the manifests.
#[must_use]
pub fn sharing(
    inventory: &Inventory,
    places: impl Iterator<Item = Place>,
    deleted: &BTreeSet<Id>,
) -> Vec<Check> {
    let named = inventory.images.with_submanifests(deleted.iter().copied());
    let blobs: BTreeSet<Id> =
        named.into_iter().flat_map(|image| parts(inventory, image)).map(|part| part.digest).collect();
    let shares = |part: &Part| blobs.contains(&part.digest);
    places
        .map(|place| check(inventory, place))
        .filter(|check| check.parts.iter().any(shares))
        .map(|mut check| {
            check.parts.retain(|part| part.kind == PartKind::Manifest || shares(part));
            check
        })
        .collect()
}

/// So many of them; `random` chooses.
#[must_use]
pub fn sample(places: Vec<Place>, size: usize, random: &mut fastrand::Rng) -> Vec<Place> {
    let mut chosen = random.choose_multiple(places, size);
    chosen.sort_unstable();
    chosen
}

fn named(inventory: &Inventory, stream: &Stream) -> BTreeSet<Id> {
    let images = &inventory.images;
    let items = stream.tags.iter().flat_map(|tag| &tag.items);
    let is_managed = |image: &Id| images.find(*image).is_some_and(|position| images.all()[position].managed);
    items.map(|item| item.image).filter(is_managed).collect()
}

/// What a pull of the image needs: of an index, its manifests at any depth with what they need.
fn parts(inventory: &Inventory, image: Id) -> Vec<Part> {
    let images = &inventory.images;
    let mut parts = BTreeSet::new();
    let mut add = |digest, kind| {
        // What is no digest no registry holds.
        if inventory.names.is_digest(digest) {
            parts.insert(Part {
                digest,
                kind,
                bytes: images.blob_bytes(digest).filter(|_| kind == PartKind::Layer),
            });
        }
    };
    for manifest in images.with_submanifests([image]) {
        add(manifest, PartKind::Manifest);
        let Some(position) = images.find(manifest) else { continue };
        let record = &images.all()[position];
        if let Some(config) = record.config.filter(|_| record.config_deletable) {
            add(config, PartKind::Config);
        }
        for layer in images.layers(position) {
            add(*layer, PartKind::Layer);
        }
    }
    parts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Image, Import, Item, Tag};

    fn digest(letter: char) -> String {
        format!("sha256:{}", letter.to_string().repeat(64))
    }

    /// `shop/web` has a (layers 1, 2) and the index i of b (layers 2, 3); `shop/copy` has a, and c, which was imported.
    fn cluster() -> (Inventory, impl Fn(char) -> Id) {
        let mut inventory = Inventory::default();
        let letters = ['a', 'b', 'c', 'd', '1', '2', '3', 'e'];
        let ids: Vec<Id> = letters.iter().map(|letter| inventory.names.intern(&digest(*letter))).collect();
        let id = move |letter: char| ids[letters.iter().position(|other| *other == letter).unwrap()];
        let image = |letter, config: Option<char>, index| {
            let mut image = Image::named(id(letter));
            (image.managed, image.index, image.config_deletable) = (letter != 'c', index, config.is_some());
            image.config = config.map(&id);
            image
        };
        inventory.images.push(image('a', Some('e'), false), &[id('1'), id('2')], &[]);
        inventory.images.push(image('b', None, false), &[id('2'), id('3')], &[]);
        inventory.images.push(image('c', None, false), &[id('1')], &[]);
        inventory.images.push(image('d', None, true), &[], &[id('b')]);
        inventory.images.set_blob_bytes(id('1'), 100);
        let latest = inventory.names.words.intern("latest");
        let stream = |name: &str, images: &[char]| Stream {
            namespace: "shop".into(),
            name: name.into(),
            resource_version: "1".into(),
            created: 0,
            protected: false,
            selected: true,
            tags: vec![Tag {
                name: latest,
                items: images.iter().map(|image| Item { created: 0, image: id(*image) }).collect(),
                import: Import::Never,
            }],
        };
        inventory.streams = vec![stream("copy", &['a', 'c', 'a']), stream("web", &['a', 'd'])];
        (inventory, id)
    }

    #[test]
    fn every_pushed_image_is_asked_for_once_in_each_repository() {
        let (inventory, id) = cluster();
        let found: Vec<Check> = places(&inventory, None).map(|place| check(&inventory, place)).collect();
        let there: Vec<_> = found.iter().map(|check| (check.stream, check.image)).collect();
        assert_eq!(there, [(0, id('a')), (1, id('a')), (1, id('d'))]);
        let kinds =
            |check: &Check| check.parts.iter().map(|part| (part.digest, part.kind)).collect::<Vec<_>>();
        assert_eq!(
            kinds(&found[2]),
            [
                (id('b'), PartKind::Manifest),
                (id('d'), PartKind::Manifest),
                (id('2'), PartKind::Layer),
                (id('3'), PartKind::Layer)
            ],
            "an index needs what its manifests need"
        );
        assert_eq!(found[0].parts.iter().find(|part| part.digest == id('1')).unwrap().bytes, Some(100));
        assert!(kinds(&found[0]).contains(&(id('e'), PartKind::Config)));
        assert_eq!(places(&inventory, Some("other")).next(), None);
    }

    #[test]
    fn after_a_prune_only_what_was_shared_is_asked_for() {
        let (inventory, id) = cluster();
        let shared = sharing(&inventory, places(&inventory, None), &[id('c')].into());
        let parts: Vec<Vec<Id>> =
            shared.iter().map(|check| check.parts.iter().map(|part| part.digest).collect()).collect();
        assert_eq!(parts, [vec![id('a'), id('1')], vec![id('a'), id('1')]]);
        assert_eq!(sharing(&inventory, places(&inventory, None), &BTreeSet::new()), []);
    }

    #[test]
    fn a_sample_is_bounded_and_sorted() {
        let (inventory, _) = cluster();
        let all: Vec<Place> = places(&inventory, None).collect();
        let mut random = fastrand::Rng::with_seed(3);
        assert_eq!(sample(all.clone(), 3, &mut random), all);
        let two = sample(all.clone(), 2, &mut random);
        assert!(two.len() == 2 && two.iter().all(|place| all.contains(place)));
    }
}
