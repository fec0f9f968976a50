//! After the deletions: what was pushed meanwhile.
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
use crate::inventory;
use crate::model::{Id, Inventory};
use crate::plan::named_blobs;
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
}

/// What was pushed while the run was on, as far as it matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meanwhile {
    /// Deleted blobs that such images name.
    suspects: Vec<Suspect>,
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

    /// Looks for images that streams name now, that were not there when the plan was made or were deleted, and that name
    /// a blob which this run has deleted.
    ///
    /// # Errors
    /// The streams or images cannot be read: nothing is known of such images.
    pub async fn meanwhile(&mut self, cluster: &Cluster) -> Result<Meanwhile, Failure> {
        let Self { outcome, inventory, before } = self;
        let gone: BTreeSet<&str> = outcome
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Blob { digest, .. } => Some(digest.as_str()),
                _ => None,
            })
            .collect();
        if gone.is_empty() {
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
        let mut meanwhile = Meanwhile::default();
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

/// Asks which of the blobs are there again; the images that lack one are broken.
pub async fn broken_images(registry: &Registry, meanwhile: &Meanwhile) -> Vec<BrokenImage> {
    let answers = futures::stream::iter(&meanwhile.suspects).map(|suspect| async move {
        let freshness = registry.ask(&suspect.repository, &suspect.digest).await;
        (suspect, freshness)
    });
    let mut broken: Vec<BrokenImage> = Vec::new();
    for (suspect, freshness) in answers.buffered(AT_ONCE).collect::<Vec<_>>().await {
        let certain = match freshness {
            Freshness::ThereAgain => continue,
            Freshness::Clean | Freshness::Stale(_) => true,
            Freshness::NotAllowed | Freshness::Unknown(_) => false,
        };
        let Suspect { repository, tag, image, digest } = suspect.clone();
        match broken
            .iter_mut()
            .find(|known| known.image == image && known.repository == repository && known.tag == tag)
        {
            Some(known) => {
                known.certain |= certain;
                if !known.missing.contains(&digest) {
                    known.missing.push(digest);
                }
            }
            None => broken.push(BrokenImage { repository, tag, image, missing: vec![digest], certain }),
        }
    }
    broken
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
                places.insert((stream.repository(), tag.name.to_string(), item.image));
            }
        }
    }
    places.into_iter().collect()
}
