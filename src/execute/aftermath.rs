//! After the deletions: what was pushed meanwhile, or became needed too late.
//!
//! A client that asked for a layer just before it was deleted does not upload it; a manifest that names it was accepted
//! if a cache still named the layer, and then the image is broken. Nobody but the pusher can mend it, so it is told. And
//! an upload that came between two replicas' evictions may leave one of them stale, in a repository that had nothing to do
//! with the prune: so these repositories are asked for, too.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;

use super::{BrokenImage, Change, Outcome};
use crate::cluster::Cluster;
use crate::error::Failure;
use crate::inventory::{self, News};
use crate::model::{Id, Inventory};
use crate::plan::{Broken, Gone, Guard, Holder, Rules, named_blobs};
use crate::registry::{Freshness, Registry};

/// How many questions are on their way at once.
const AT_ONCE: usize = 8;

/// What a run did, and what is known of the cluster by then.
#[derive(Debug)]
pub struct Executed {
    /// What was done.
    pub outcome: Outcome,
    /// What is known of the cluster.
    pub(super) inventory: Inventory,
    /// The resource version of each stream before the first change.
    pub(super) before: BTreeMap<String, Box<str>>,
    /// What became needed meanwhile.
    pub(super) guard: Guard,
    pub(super) rules: Rules,
}

/// What was pushed while the run was on, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meanwhile {
    /// Deleted blobs that such images name.
    suspects: Vec<Suspect>,
    /// What became needed after a part of it was deleted.
    broken: Vec<Broken>,
    /// Repositories whose streams were made or changed by others.
    repositories: BTreeSet<String>,
}

/// A deleted blob that an image names which was pushed meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Suspect {
    repository: String,
    tag: String,
    image: String,
    digest: String,
}

impl Meanwhile {
    /// The deleted blobs that images name which were pushed meanwhile, each in a repository of such an image.
    pub fn suspects(&self) -> impl Iterator<Item = (&str, &str)> {
        self.suspects.iter().map(|suspect| (suspect.repository.as_str(), suspect.digest.as_str()))
    }

    /// Repositories that others have pushed to.
    pub fn repositories(&self) -> impl Iterator<Item = &str> {
        self.repositories.iter().map(String::as_str)
    }
}

impl Executed {
    /// What is known of the cluster by now.
    #[must_use]
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Takes in what was seen since the last request.
    pub fn learn(&mut self, news: &News) {
        for seen in news.take() {
            self.guard.learn(&self.inventory, &self.rules, &seen);
        }
    }

    /// Looks for images that streams name now, that were not there when the plan was made or were deleted, and that name
    /// a blob which this run has deleted; and for what else needs something that it has deleted.
    ///
    /// # Errors
    /// The streams or images cannot be read: nothing is known of such images.
    pub async fn meanwhile(&mut self, cluster: &Cluster) -> Result<Meanwhile, Failure> {
        let Self { outcome, inventory, before, guard, rules: _ } = self;
        if outcome.changes.is_empty() {
            return Ok(Meanwhile::default());
        }
        let all_gone = gone(&outcome.changes);
        let gone = &all_gone.blobs;
        if gone.is_empty() && guard.is_empty() {
            return Ok(Meanwhile::default());
        }
        let mut deleted = BTreeSet::new();
        let mut updated = BTreeSet::new();
        for change in &outcome.changes {
            match change {
                Change::Image { name } => deleted.extend(inventory.names.find(name)),
                Change::Items { repository, .. } => drop(updated.insert(repository.as_str())),
                _ => {}
            }
        }
        inventory::reread_streams(cluster, inventory).await?;
        let named = suspicious_images(inventory, &deleted);
        let missing: Vec<Id> =
            named.iter().copied().filter(|image| inventory.images.find(*image).is_none()).collect();
        inventory::add_appeared(cluster, inventory, &missing).await?;
        let mut meanwhile = Meanwhile { broken: guard.broken(inventory, &all_gone), ..Meanwhile::default() };
        for (repository, tag, image) in places(inventory, &named) {
            for part in inventory.images.with_submanifests([image]) {
                let Some(position) = inventory.images.find(part) else { continue };
                for blob in named_blobs(inventory, position) {
                    let digest = inventory.names.text(blob).into_owned();
                    if gone.contains(digest.as_str()) {
                        let image = inventory.names.text(image).into_owned();
                        let (repository, tag) = (repository.clone(), tag.clone());
                        meanwhile.suspects.push(Suspect { repository, tag, image, digest });
                    }
                }
            }
        }
        let changed = inventory.streams.iter().filter_map(|stream| {
            let repository = stream.repository();
            let is_as_before =
                before.get(&repository).is_some_and(|version| *version == stream.resource_version);
            (!is_as_before && !updated.contains(repository.as_str())).then_some(repository)
        });
        meanwhile.repositories = changed.collect();
        Ok(meanwhile)
    }
}

/// What was deleted, by kind.
fn gone(changes: &[Change]) -> Gone<'_> {
    let mut gone = Gone::default();
    for change in changes {
        match change {
            Change::Items { .. } => {}
            Change::ManifestLink { repository, digest } => {
                gone.manifest_links.insert((repository, digest));
            }
            Change::LayerLink { repository, digest } => {
                gone.layer_links.insert((repository, digest));
            }
            Change::Blob { digest, .. } => {
                gone.blobs.insert(digest);
            }
            Change::Image { name } => {
                gone.images.insert(name);
            }
        }
    }
    gone
}

/// Asks which of the blobs are there again; the images that lack one are broken. Without a registry nobody can be asked.
pub async fn broken_images(registry: Option<&Registry>, meanwhile: &Meanwhile) -> Vec<BrokenImage> {
    // Whatever is asked for, once.
    let of_streams = meanwhile.suspects.iter().map(|suspect| (&*suspect.repository, &*suspect.digest));
    let of_needs = meanwhile.broken.iter().flat_map(|broken| {
        let digests = broken.blobs.iter().chain(&broken.links);
        digests.map(|digest| (&*broken.repository, &**digest))
    });
    let questions: BTreeSet<(&str, &str)> = of_streams.chain(of_needs).collect();
    let answers = futures::stream::iter(questions).map(|(repository, digest)| async move {
        let answer = match registry.filter(|_| !repository.is_empty()) {
            Some(registry) => match registry.ask(repository, digest).await {
                Freshness::ThereAgain => Answer::ThereAgain,
                Freshness::Clean | Freshness::Stale(_) => Answer::Gone,
                Freshness::NotAllowed | Freshness::Unknown(_) => Answer::Unknown,
            },
            None => Answer::Unknown,
        };
        ((repository, digest), answer)
    });
    let answers: BTreeMap<(&str, &str), Answer> = answers.buffered(AT_ONCE).collect().await;
    let answer = |repository: &str, digest: &str| {
        answers.get(&(repository, digest)).copied().unwrap_or(Answer::Unknown)
    };
    let mut broken: Vec<BrokenImage> = Vec::new();
    for Suspect { repository, tag, image, digest } in &meanwhile.suspects {
        let certain = match answer(repository, digest) {
            Answer::ThereAgain => continue,
            answer => answer == Answer::Gone,
        };
        let lacks = BrokenImage {
            repository: repository.clone(),
            tag: tag.clone(),
            image: image.clone(),
            by: None,
            missing: vec![digest.clone()],
            unlisted: false,
            certain,
        };
        add(&mut broken, lacks);
    }
    for Broken { holder, repository, tag, image, blobs, links, unlisted } in &meanwhile.broken {
        let blobs = blobs.iter().map(|digest| (digest, true));
        // A link that nobody can ask for is there again if the image was pushed again, which is what mostly happens.
        let links = links.iter().map(|digest| (digest, *unlisted));
        let (mut missing, mut certain) = (Vec::new(), *unlisted);
        for (digest, counts) in blobs.chain(links) {
            let answer = answer(repository, digest);
            certain |= answer == Answer::Gone;
            if answer == Answer::Gone || (answer == Answer::Unknown && counts) {
                missing.push(digest.clone());
            }
        }
        if missing.is_empty() && !unlisted {
            continue;
        }
        let by = Some(holder.clone()).filter(|_| !is_tag(holder, repository));
        let lacks = BrokenImage {
            repository: repository.clone(),
            tag: tag.clone(),
            image: image.clone(),
            by,
            missing,
            unlisted: *unlisted,
            certain,
        };
        add(&mut broken, lacks);
    }
    // An image needs its own parts: that is told where nothing else names it.
    let named: BTreeSet<String> =
        broken.iter().filter(|lacks| !is_own(lacks)).map(|lacks| lacks.image.clone()).collect();
    broken.retain(|lacks| !is_own(lacks) || !named.contains(&lacks.image));
    broken
}

/// Whether nothing but the image itself is known to need its parts.
fn is_own(lacks: &BrokenImage) -> bool {
    lacks.by.as_ref().is_some_and(|by| by.kind == "image" && by.name == lacks.image)
}

/// What the registry says of a deleted blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    ThereAgain,
    Gone,
    Unknown,
}

/// Whether it is the tag of the stream under which the image is looked for.
fn is_tag(holder: &Holder, repository: &str) -> bool {
    holder.kind == "imagestream" && repository == format!("{}/{}", holder.namespace, holder.name)
}

/// Adds what an image lacks to what is known of it.
fn add(broken: &mut Vec<BrokenImage>, lacks: BrokenImage) {
    let known = broken.iter_mut().find(|known| {
        (&known.image, &known.repository, &known.tag, &known.by)
            == (&lacks.image, &lacks.repository, &lacks.tag, &lacks.by)
    });
    let Some(known) = known else { return broken.push(lacks) };
    known.certain |= lacks.certain;
    known.unlisted |= lacks.unlisted;
    for digest in lacks.missing {
        if !known.missing.contains(&digest) {
            known.missing.push(digest);
        }
    }
}

/// Images that items name and that were not there before, or were deleted since.
fn suspicious_images(inventory: &Inventory, deleted: &BTreeSet<Id>) -> BTreeSet<Id> {
    let named = inventory.streams.iter().flat_map(|stream| &stream.tags).flat_map(|tag| &tag.items);
    named
        .map(|item| item.image)
        .filter(|image| !inventory.names.text(*image).is_empty())
        .filter(|image| match inventory.images.find(*image) {
            None => true,
            Some(position) => inventory.images.all()[position].appeared || deleted.contains(image),
        })
        .collect()
}

/// Where streams name these images: repository and tag, each once.
fn places(inventory: &Inventory, images: &BTreeSet<Id>) -> Vec<(String, String, Id)> {
    let mut places = BTreeSet::new();
    for stream in &inventory.streams {
        for tag in &stream.tags {
            for item in tag.items.iter().filter(|item| images.contains(&item.image)) {
                places.insert((
                    stream.repository(),
                    inventory.names.words.text(tag.name).to_owned(),
                    item.image,
                ));
            }
        }
    }
    places.into_iter().collect()
}
