//! What a run that was cut short has left behind: links of streams that were updated, blobs of images that are gone.
//!
//! No list of the cluster names them any longer, so the reference implementation leaves them for ever. What may go of
//! them is decided from the cluster as it is now.

use std::collections::{BTreeMap, BTreeSet};

use super::decide::{Needed, Plan, Stage2, StreamVerdict, named_blobs, needed_in_repository};
use super::references::References;
use super::{Counts, Rules};
use crate::model::{Id, Inventory, Stream};

/// Links of one repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// Of manifests.
    pub manifests: BTreeSet<Id>,
    /// Of layers and configs.
    pub layers: BTreeSet<Id>,
}

/// What a run had planned and is not known to have done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// By repository, `namespace/name`.
    pub links: BTreeMap<Box<str>, Links>,
    /// Blobs.
    pub blobs: BTreeSet<Id>,
    /// The repositories that had blobs.
    pub repositories: BTreeMap<Id, BTreeSet<Box<str>>>,
}

/// What goes of it, because nothing in the cluster names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// By repository, `namespace/name`.
    pub links: BTreeMap<Box<str>, Links>,
    /// Blobs.
    pub blobs: BTreeSet<Id>,
    /// The repositories that had blobs, these and others that go.
    pub repositories: BTreeMap<Id, BTreeSet<Box<str>>>,
}

impl Leftovers {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty() && self.blobs.is_empty()
    }

    /// Adds what they are.
    pub(super) fn count(&self, counts: &mut Counts, inventory: &Inventory) {
        for Links { manifests, layers } in self.links.values() {
            counts.manifest_links += manifests.len();
            counts.layer_links += layers.len();
        }
        for blob in &self.blobs {
            counts.add_blob(inventory.images.blob_bytes(*blob));
        }
    }
}

impl Plan {
    /// Takes what another run has left behind into the plan, as far as nothing names it now.
    pub fn take_up(&mut self, inventory: &Inventory, unfinished: Unfinished) {
        let Unfinished { links, blobs, repositories } = unfinished;
        let mut leftovers = Leftovers { repositories, ..Leftovers::default() };
        if self.rules.prune_registry {
            let streams: BTreeMap<String, usize> =
                inventory.streams.iter().map(Stream::repository).zip(0..).collect();
            for (repository, links) in links {
                let position = streams.get(&*repository).copied();
                let verdict = position.map(|position| self.streams[position].verdict);
                // Nobody knows what such a stream needs, or everything in it is to stay.
                if let Some(StreamVerdict::Protected | StreamVerdict::MetadataAbsent(_)) = verdict {
                    continue;
                }
                let stream = position.map(|position| &inventory.streams[position]);
                let links = self.unneeded(inventory, &repository, stream, &links);
                if links != Links::default() {
                    leftovers.links.insert(repository, links);
                }
            }
            if self.stage2 == Stage2::Runs {
                leftovers.blobs = orphans(inventory, &self.references, &blobs);
            }
        }
        self.leftovers = leftovers;
    }

    /// Which of these links the repository does not need, now that its stream is this, or gone.
    #[must_use]
    pub fn unneeded(
        &self,
        inventory: &Inventory,
        repository: &str,
        stream: Option<&Stream>,
        links: &Links,
    ) -> Links {
        let Needed { mut manifests, mut blobs, submanifests } =
            stream.map(|stream| needed_in_repository(inventory, stream)).unwrap_or_default();
        let (namespace, name) = repository.split_once('/').unwrap_or(("", repository));
        let referenced = self.references.of_repository(inventory, namespace, name);
        let referenced = referenced.images().map(|(image, _)| image);
        for name in inventory.images.with_submanifests(referenced).into_iter().chain(submanifests) {
            manifests.insert(name);
            if let Some(position) = inventory.images.find(name) {
                blobs.extend(named_blobs(inventory, position));
            }
        }
        Links {
            manifests: links.manifests.difference(&manifests).copied().collect(),
            layers: links.layers.difference(&blobs).copied().collect(),
        }
    }

    /// Which of the blobs that were left behind still nothing names, now that the cluster is this.
    #[must_use]
    pub fn orphans(&self, inventory: &Inventory, rules: &Rules) -> BTreeSet<Id> {
        orphans(inventory, &References::collect(inventory, rules), &self.leftovers.blobs)
    }
}

/// Those of these blobs that no Image names in any way, whether it goes or stays, and that nothing refers to.
fn orphans(inventory: &Inventory, references: &References, blobs: &BTreeSet<Id>) -> BTreeSet<Id> {
    let mut orphans = blobs.clone();
    for position in 0..inventory.images.all().len() {
        if orphans.is_empty() {
            break;
        }
        for name in
            named_blobs(inventory, position).chain(inventory.images.manifests(position).iter().copied())
        {
            orphans.remove(&name);
        }
    }
    for item in inventory.streams.iter().flat_map(|stream| &stream.tags).flat_map(|tag| &tag.items) {
        orphans.remove(&item.image);
    }
    orphans.retain(|blob| references.of_digest(*blob).is_empty());
    orphans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Image, Import, Item, Kind, Mention, Referrer, Source, Tag, TargetText};
    use crate::plan::{ImageVerdict, ItemKeep, ItemVerdict, Keep, decide_agreed};

    const RULES: Rules = Rules {
        keep: Keep::Recent { tag_revisions: 1, cutoff: 1_000_000_000_000 },
        all: true,
        namespace: None,
        prune_registry: true,
    };

    fn digest(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    fn stream(inventory: &mut Inventory, images: &[char]) -> Stream {
        let items =
            images.iter().map(|c| Item { created: 0, image: inventory.names.intern(&digest(*c)) }).collect();
        Stream {
            namespace: "shop".into(),
            name: "web".into(),
            resource_version: "1".into(),
            created: 0,
            protected: false,
            selected: true,
            tags: vec![Tag { name: inventory.names.words.intern("latest"), items, import: Import::Never }],
        }
    }

    /// `shop/web` with the images a (layer 1) and b (layer 2), both of which have the layer 9; c (layer 3) is gone.
    fn inventory() -> Inventory {
        let mut inventory = Inventory::default();
        let stream = stream(&mut inventory, &['a', 'b']);
        for (name, layers) in [('a', ['1', '9']), ('b', ['2', '9'])] {
            let layers = layers.map(|layer| inventory.names.intern(&digest(layer)));
            let mut image = Image::named(inventory.names.intern(&digest(name)));
            image.created = 0;
            inventory.images.push(image, &layers, &[]);
        }
        inventory.streams = vec![stream];
        inventory
    }

    fn unfinished(
        inventory: &mut Inventory,
        manifests: &[char],
        layers: &[char],
        blobs: &[char],
    ) -> Unfinished {
        let mut ids = |of: &[char]| of.iter().map(|c| inventory.names.intern(&digest(*c))).collect();
        let links = Links { manifests: ids(manifests), layers: ids(layers) };
        let blobs = ids(blobs);
        Unfinished { links: [("shop/web".into(), links)].into(), blobs, repositories: BTreeMap::new() }
    }

    fn refer(inventory: &mut Inventory, target: TargetText<'_>) {
        let target = target.intern(&mut inventory.names);
        let mut word = |text: &str| inventory.names.words.intern(text);
        let (place, namespace, name) = (word("container app"), word("shop"), word("user"));
        inventory.referrers.mention(Mention { place, source: Source::Spec, target });
        inventory.referrers.close(Referrer::named(Kind::Pod, namespace, name));
    }

    fn plan(inventory: &Inventory, agreed: bool) -> Plan {
        decide_agreed(inventory, &RULES, |_, _, _| agreed, |_| agreed)
    }

    fn names(inventory: &Inventory, ids: &BTreeSet<Id>) -> String {
        ids.iter().filter_map(|id| inventory.names.text(*id).chars().last()).collect()
    }

    #[test]
    fn only_what_was_agreed_to_goes() {
        let inventory = inventory();
        let agreed = plan(&inventory, true);
        assert_eq!((agreed.streams[0].removed(), agreed.counts(&inventory).images), (1, 1));
        let not = plan(&inventory, false);
        assert_eq!(not.counts(&inventory), Counts::default());
        assert_eq!(not.streams[0].items[1].verdict, ItemVerdict::Keep(ItemKeep::NotPlanned, None));
        let items = decide_agreed(&inventory, &RULES, |_, _, _| true, |_| false);
        assert_eq!(items.images.at(1).verdict, ImageVerdict::KeepNotPlanned);
    }

    #[test]
    fn what_something_names_now_stays() {
        let mut inventory = inventory();
        let open = unfinished(&mut inventory, &['a', 'c'], &['1', '3', '9'], &['1', '3', 'c']);
        let mut plan = plan(&inventory, false);
        plan.take_up(&inventory, open);
        let links = &plan.leftovers.links["shop/web"];
        assert_eq!(names(&inventory, &links.manifests), "c");
        assert_eq!(names(&inventory, &links.layers), "3");
        assert_eq!(names(&inventory, &plan.leftovers.blobs), "c3");
        let counts = plan.counts(&inventory);
        assert_eq!((counts.manifest_links, counts.layer_links, counts.blobs), (1, 1, 2));
        assert!(plan.changes_registry());
    }

    #[test]
    fn links_of_a_stream_that_is_gone_go() {
        let mut inventory = inventory();
        let open = unfinished(&mut inventory, &['a'], &['1'], &[]);
        inventory.streams.clear();
        let mut plan = plan(&inventory, false);
        plan.take_up(&inventory, open);
        let links = &plan.leftovers.links["shop/web"];
        assert_eq!(
            (names(&inventory, &links.manifests), names(&inventory, &links.layers)),
            ("a".into(), "1".into())
        );
    }

    #[test]
    fn references_and_marks_protect_what_was_left_behind() {
        let (used, left) = (digest('b'), digest('c'));
        let target = TargetText::Image { namespace: "shop", stream: "web", digest: &used };
        let mut inventory = inventory();
        let open = unfinished(&mut inventory, &['b'], &['2'], &['c']);
        inventory.streams[0].tags[0].items.truncate(1);
        refer(&mut inventory, target);
        refer(&mut inventory, TargetText::Digest(&left));
        let mut plan = self::plan(&inventory, false);
        plan.take_up(&inventory, open);
        assert!(plan.leftovers.is_empty(), "{:?}", plan.leftovers);

        let mut inventory = self::inventory();
        let open = unfinished(&mut inventory, &['c'], &['3'], &[]);
        inventory.streams[0].protected = true;
        let mut plan = self::plan(&inventory, false);
        plan.take_up(&inventory, open.clone());
        assert!(plan.leftovers.is_empty());

        let mut inventory = self::inventory();
        let mut rules = RULES;
        rules.prune_registry = false;
        let mut plan = decide_agreed(&inventory, &rules, |_, _, _| false, |_| false);
        let open = unfinished(&mut inventory, &['c'], &['3'], &['3']);
        plan.take_up(&inventory, open);
        assert!(plan.leftovers.is_empty(), "the registry is to be left alone");
    }

    #[test]
    fn a_blob_that_was_pushed_again_is_no_orphan() {
        let mut inventory = inventory();
        let open = unfinished(&mut inventory, &[], &[], &['3']);
        let mut plan = plan(&inventory, false);
        plan.take_up(&inventory, open);
        assert_eq!(names(&inventory, &plan.orphans(&inventory, &RULES)), "3");
        let image = Image::named(inventory.names.intern(&digest('d')));
        let layer = inventory.names.intern(&digest('3'));
        inventory.images.push(image, &[layer], &[]);
        assert_eq!(names(&inventory, &plan.orphans(&inventory, &RULES)), "");
    }
}
