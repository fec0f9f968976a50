//! Which repositories had the blobs that go: what a cache that is keyed by repository has to forget.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Id, IdSet, Inventory, Word};

use super::decide::{ImageVerdict, ItemVerdict, Plan, named_blobs};

/// The repositories that had, or may have had, each blob of the images that may go.
///
/// A repository had a blob if one of its stream's items names the image, or an index above it, or if the image was
/// pushed there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repositories {
    names: Vec<Box<str>>,
    /// Each blob with the position of a repository's name, sorted.
    of: Vec<(Id, u32)>,
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
        let mut pushed: BTreeMap<Word, Vec<Id>> = BTreeMap::new();
        for image in &candidates {
            let record = images.find(*image).map(|position| &images.all()[position]);
            if let Some(repository) = record.and_then(|record| record.repository) {
                pushed.entry(repository).or_default().push(*image);
            }
        }
        let candidates: IdSet = candidates.into_iter().collect();
        let mut found = Self::default();
        let mut blobs = IdSet::with_names(inventory.names.len());
        for stream in &inventory.streams {
            let repository = stream.repository();
            let items = stream.tags.iter().flat_map(|tag| &tag.items).map(|item| item.image);
            let named: BTreeSet<Id> = items.collect();
            let word = inventory.names.words.find(&repository);
            let pushed = word.and_then(|repository| pushed.remove(&repository));
            let named =
                images.with_submanifests(named).into_iter().filter(|image| candidates.contains(*image));
            found.add(inventory, &repository, named.chain(pushed.into_iter().flatten()), &mut blobs);
        }
        for (repository, of_it) in pushed {
            found.add(inventory, inventory.names.words.text(repository), of_it, &mut blobs);
        }
        for (blob, repositories) in &plan.leftovers.repositories {
            for repository in repositories {
                found.include(*blob, repository);
            }
        }
        found.of.sort_unstable();
        found
    }

    /// Notes a repository of these images; `seen` is emptied.
    #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^32 image streams")]
    fn add(
        &mut self,
        inventory: &Inventory,
        repository: &str,
        images: impl IntoIterator<Item = Id>,
        seen: &mut IdSet,
    ) {
        seen.clear();
        let number = self.names.len() as u32;
        for position in images.into_iter().filter_map(|image| inventory.images.find(image)) {
            let new = named_blobs(inventory, position).filter(|blob| seen.insert(*blob));
            self.of.extend(new.map(|blob| (blob, number)));
        }
        self.names.push(repository.into());
    }

    /// Notes a repository of one blob.
    #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^32 image streams")]
    fn include(&mut self, blob: Id, repository: &str) {
        self.of.push((blob, self.names.len() as u32));
        self.names.push(repository.into());
    }

    /// The repositories of a blob, each `namespace/name` once.
    #[must_use]
    pub fn of_blob(&self, blob: Id) -> BTreeSet<&str> {
        let begin = self.of.partition_point(|(other, _)| *other < blob);
        let of_it = self.of[begin..].iter().take_while(|(other, _)| *other == blob);
        of_it.filter_map(|(_, number)| self.names.get(*number as usize)).map(AsRef::as_ref).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Image, Import, Item, Stream, Tag};
    use crate::plan::{Keep, Rules, decide};

    fn stream(name: &str, latest: Word, images: &[Id]) -> Stream {
        let items = images.iter().map(|image| Item { created: 0, image: *image }).collect();
        Stream {
            namespace: "shop".into(),
            name: name.into(),
            resource_version: "1".into(),
            created: 0,
            protected: false,
            selected: true,
            tags: vec![Tag { name: latest, items, import: Import::Never }],
        }
    }

    #[test]
    fn a_blob_was_in_every_repository_that_listed_or_got_an_image_with_it() {
        let mut inventory = Inventory::default();
        let mut id = |name: &str| inventory.names.intern(name);
        let (kept, old, index, sub, orphan) = (id("kept"), id("old"), id("index"), id("sub"), id("orphan"));
        let (layer, other, lone) = (id("layer"), id("other"), id("lone"));
        let [lost, latest] = ["shop/lost", "latest"].map(|word| inventory.names.words.intern(word));
        inventory.images.push(Image::named(kept), &[other], &[]);
        inventory.images.push(Image::named(old), &[layer], &[]);
        let mut manifests = Image::named(index);
        manifests.index = true;
        inventory.images.push(manifests, &[], &[sub]);
        inventory.images.push(Image::named(sub), &[layer], &[]);
        let mut pushed = Image::named(orphan);
        pushed.repository = Some(lost);
        inventory.images.push(pushed, &[lone], &[]);
        inventory.streams = vec![stream("api", latest, &[kept, old]), stream("web", latest, &[kept, index])];
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
