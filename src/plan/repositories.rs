//! Which repositories had the blobs that go: what a cache that is keyed by repository has to forget.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Id, Inventory};

use super::decide::{ImageVerdict, ItemVerdict, Plan, named_blobs};

/// The repositories that had, or may have had, each blob of the images that may go.
///
/// A repository had a blob if one of its stream's items names the image, or an index above it, or if the image was
/// pushed there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repositories {
    names: Vec<Box<str>>,
    of: BTreeMap<Id, Vec<u32>>,
}

impl Repositories {
    /// Reads them from what the cluster was before the first change.
    #[must_use]
    pub fn of(inventory: &Inventory, plan: &Plan) -> Self {
        let images = &inventory.images;
        let doomed = images.all().iter().zip(&plan.images);
        let doomed = doomed
            .filter(|(_, decision)| decision.verdict == ImageVerdict::Delete)
            .map(|(image, _)| image.name);
        let removed = plan.streams.iter().flat_map(|stream| &stream.items);
        let removed =
            removed.filter(|item| matches!(item.verdict, ItemVerdict::Remove(_))).map(|item| item.image);
        let candidates = images.with_submanifests(doomed.chain(removed));
        let mut found = Self::default();
        for (position, stream) in inventory.streams.iter().enumerate() {
            found.names.push(stream.repository().into());
            let items = stream.tags.iter().flat_map(|tag| &tag.items).map(|item| item.image);
            let named: BTreeSet<Id> = items.collect();
            for image in images.with_submanifests(named) {
                if candidates.contains(&image) {
                    found.add(inventory, image, position);
                }
            }
        }
        let mut pushed: BTreeMap<Id, usize> = BTreeMap::new();
        for image in candidates {
            let Some(record) = images.find(image).map(|position| &images.all()[position]) else { continue };
            let Some(repository) = record.repository else { continue };
            let position = *pushed.entry(repository).or_insert_with(|| {
                found.names.push(inventory.names.text(repository).into());
                found.names.len() - 1
            });
            found.add(inventory, image, position);
        }
        for (blob, repositories) in &plan.leftovers.repositories {
            for repository in repositories {
                found.include(*blob, repository);
            }
        }
        found
    }

    #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^32 image streams")]
    fn include(&mut self, blob: Id, repository: &str) {
        let known = self.of_blob(blob).contains(repository);
        if !known {
            self.of.entry(blob).or_default().push(self.names.len() as u32);
            self.names.push(repository.into());
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^32 image streams")]
    fn add(&mut self, inventory: &Inventory, image: Id, repository: usize) {
        let Some(position) = inventory.images.find(image) else { return };
        for blob in named_blobs(inventory, position) {
            let repositories = self.of.entry(blob).or_default();
            if repositories.last() != Some(&(repository as u32)) {
                repositories.push(repository as u32);
            }
        }
    }

    /// The repositories of a blob, each `namespace/name` once.
    #[must_use]
    pub fn of_blob(&self, blob: Id) -> BTreeSet<&str> {
        let positions = self.of.get(&blob).into_iter().flatten();
        positions.filter_map(|position| self.names.get(*position as usize)).map(AsRef::as_ref).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Image, Import, Item, Stream, Tag};
    use crate::plan::{Keep, Rules, decide};

    fn stream(name: &str, images: &[Id]) -> Stream {
        let items = images.iter().map(|image| Item { created: 0, image: *image }).collect();
        Stream {
            namespace: "shop".into(),
            name: name.into(),
            resource_version: "1".into(),
            created: 0,
            protected: false,
            selected: true,
            tags: vec![Tag { name: "latest".into(), items, import: Import::Never }],
        }
    }

    #[test]
    fn a_blob_was_in_every_repository_that_listed_or_got_an_image_with_it() {
        let mut inventory = Inventory::default();
        let mut id = |name: &str| inventory.names.intern(name);
        let (kept, old, index, sub, orphan) = (id("kept"), id("old"), id("index"), id("sub"), id("orphan"));
        let (layer, other, lone) = (id("layer"), id("other"), id("lone"));
        let lost = id("shop/lost");
        inventory.images.push(Image::named(kept), &[other], &[]);
        inventory.images.push(Image::named(old), &[layer], &[]);
        let mut manifests = Image::named(index);
        manifests.index = true;
        inventory.images.push(manifests, &[], &[sub]);
        inventory.images.push(Image::named(sub), &[layer], &[]);
        let mut pushed = Image::named(orphan);
        pushed.repository = Some(lost);
        inventory.images.push(pushed, &[lone], &[]);
        inventory.streams = vec![stream("api", &[kept, old]), stream("web", &[kept, index])];
        let rules = Rules {
            keep: Keep::Recent { tag_revisions: 1, cutoff: 1_000_000_000 },
            all: true,
            namespace: None,
            prune_registry: true,
        };
        let plan = decide(&inventory, &rules);
        let repositories = Repositories::of(&inventory, &plan);
        let of = |blob| repositories.of_blob(blob).into_iter().collect::<Vec<_>>();
        assert_eq!(of(layer), ["shop/api", "shop/web"], "through the image and through the index");
        assert_eq!(of(old), ["shop/api"]);
        assert_eq!(of(sub), ["shop/web"]);
        assert_eq!(of(lone), ["shop/lost"], "no stream names it, but it was pushed there");
        assert_eq!(of(other), Vec::<&str>::new(), "it stays");
    }
}
