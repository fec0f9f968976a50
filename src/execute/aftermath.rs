//! After the deletions: images that were pushed meanwhile and name a blob that is gone.
//!
//! A client that asked for a layer just before it was deleted does not upload it; a manifest that names it was accepted
//! if a cache still named the layer, and then the image is broken. Nobody but the pusher can mend it, so it is told.

use std::collections::BTreeSet;

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

/// Looks for images that streams name now, that were not there when the plan was made or were deleted, and that name a
/// blob which this run has deleted and nobody has brought back.
///
/// # Errors
/// The streams or images cannot be read: nothing is known of such images.
pub async fn broken_images(
    cluster: &Cluster,
    registry: &Registry,
    inventory: &mut Inventory,
    outcome: &Outcome,
) -> Result<Vec<BrokenImage>, Failure> {
    let gone: BTreeSet<&str> = outcome
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::Blob { digest, .. } => Some(digest.as_str()),
            _ => None,
        })
        .collect();
    if gone.is_empty() {
        return Ok(Vec::new());
    }
    let deleted: BTreeSet<Id> = outcome
        .changes
        .iter()
        .filter_map(|change| match change {
            Change::Image { name } => inventory.names.find(name),
            _ => None,
        })
        .collect();
    inventory::reread_streams(cluster, inventory).await?;
    let suspects = suspects(inventory, &deleted);
    let missing: Vec<Id> =
        suspects.iter().copied().filter(|image| inventory.images.find(*image).is_none()).collect();
    inventory::add_appeared(cluster, inventory, &missing).await?;
    let mut questions = Vec::new();
    for (repository, tag, image) in places(inventory, &suspects) {
        for part in inventory.images.with_submanifests([image]) {
            let Some(position) = inventory.images.find(part) else { continue };
            for blob in named_blobs(inventory, position) {
                let digest = inventory.names.text(blob).into_owned();
                if gone.contains(digest.as_str()) {
                    questions.push((repository.clone(), tag.clone(), image, digest));
                }
            }
        }
    }
    let answers = futures::stream::iter(questions).map(|(repository, tag, image, digest)| async move {
        let freshness = registry.ask(&repository, &digest).await;
        (repository, tag, image, digest, freshness)
    });
    let mut broken: Vec<BrokenImage> = Vec::new();
    for (repository, tag, image, digest, freshness) in answers.buffered(AT_ONCE).collect::<Vec<_>>().await {
        let certain = match freshness {
            Freshness::ThereAgain => continue,
            Freshness::Clean | Freshness::Stale(_) => true,
            Freshness::NotAllowed | Freshness::Unknown(_) => false,
        };
        let image = inventory.names.text(image).into_owned();
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
    Ok(broken)
}

/// Images that items name and that were not there before, or were deleted since.
fn suspects(inventory: &Inventory, deleted: &BTreeSet<Id>) -> BTreeSet<Id> {
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
