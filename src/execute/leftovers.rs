//! What another run has left behind, and this one takes up: links of streams that were updated, blobs of images that are
//! gone. Whether nothing needs them is looked at once more right before they go.

use std::collections::BTreeSet;

use super::streams::Link;
use super::{FailedObject, Run, Spared};
use crate::error::Failure;
use crate::model::{Inventory, Stream};
use crate::plan::Links;
use crate::throttle::Order;

impl Run<'_> {
    /// Deletes the links, when the streams of the plan are done.
    pub(super) async fn leftover_links(&self) {
        for (repository, links) in &self.plan.leftovers.links {
            if !self.goes_on() {
                return;
            }
            match self.still_unneeded(repository, links).await {
                Ok(now) => {
                    self.tell_spared(repository, links, &now).await;
                    let held = BTreeSet::new();
                    self.links(None, repository, &now.manifests, Link::Manifest, &held).await;
                    self.links(None, repository, &now.layers, Link::Layer, &held).await;
                }
                Err(Failure { message: cause, hints, .. }) => self.ledger.failed(FailedObject {
                    failed: "read image stream",
                    cause,
                    object: repository.to_string(),
                    hints,
                }),
            }
        }
    }

    /// Which of the links the repository does not need, by its stream as it is now.
    async fn still_unneeded(&self, repository: &str, links: &Links) -> Result<Links, Failure> {
        let known = {
            let inventory = self.inventory.read().await;
            inventory.streams.iter().find(|stream| stream.repository() == repository).cloned()
        };
        // One that was gone may have been made again.
        let stream = known.unwrap_or_else(|| Stream::named(repository));
        let mut turn = self.api.turn(Order::New).await;
        let stream = self.fetch(&mut turn, &stream).await?.map(|(_, now)| now);
        drop(turn);
        Ok(self.plan.unneeded(&*self.inventory.read().await, repository, stream.as_ref(), links))
    }

    async fn tell_spared(&self, repository: &str, planned: &Links, now: &Links) {
        let inventory = self.inventory.read().await;
        let stays =
            planned.manifests.difference(&now.manifests).chain(planned.layers.difference(&now.layers));
        for id in stays {
            let object = format!("{repository}@{}", inventory.names.text(*id));
            self.ledger.spared(Spared { object, reason: "referencedNewly", by: None });
        }
    }

    /// Deletes the blobs, when the images of the plan are done.
    pub(super) async fn leftover_blobs(&self, inventory: &Inventory) {
        let blobs = &self.plan.leftovers.blobs;
        if blobs.is_empty() {
            return;
        }
        let orphans = self.plan.orphans(inventory, &self.plan.rules);
        for blob in blobs {
            let digest = inventory.names.text(*blob).into_owned();
            if !orphans.contains(blob) {
                self.ledger.spared(Spared { object: digest, reason: "referencedNewly", by: None });
            } else if self.goes_on() {
                self.blob(&mut self.registry.turn(Order::New).await, inventory, *blob).await;
            }
        }
    }
}
