//! Stage 2: the blobs of an image, its manifest, then the Image object.
//!
//! Images are started in the order of the plan, in which each blob stands with the last image that names it. Before
//! such a blob goes, the other images that name it must be gone: they were started earlier, so waiting for them
//! cannot lock up. If one of them could not be deleted, the blob stays, for that image still names it.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::watch;

use super::{Change, FailedObject, Run, Spared};
use crate::cluster::{ApiError, ApiRequest};
use crate::inventory::image_path;
use crate::model::{Id, Image, Inventory};
use crate::plan::{ImageDecision, ImageVerdict, named_blobs};

/// How far an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Gone,
    Failed,
}

struct Progress {
    /// One for each image of the inventory; images that stay are never looked at.
    states: watch::Sender<Vec<State>>,
    /// The images that go and name a blob, for blobs that several of them name.
    shared: BTreeMap<Id, Vec<usize>>,
}

impl Progress {
    fn new(inventory: &Inventory, decisions: &[ImageDecision]) -> Self {
        let doomed: Vec<usize> = (0..decisions.len())
            .filter(|position| decisions[*position].verdict == ImageVerdict::Delete)
            .collect();
        let mut shared: BTreeMap<Id, Vec<usize>> = doomed
            .iter()
            .flat_map(|position| &decisions[*position].blobs)
            .map(|blob| (*blob, Vec::new()))
            .collect();
        for position in doomed {
            for blob in named_blobs(inventory, position) {
                if let Some(images) = shared.get_mut(&blob)
                    && images.last() != Some(&position)
                {
                    images.push(position);
                }
            }
        }
        shared.retain(|_, images| images.len() > 1);
        Self { states: watch::Sender::new(vec![State::Open; decisions.len()]), shared }
    }

    fn finish(&self, position: usize, state: State) {
        self.states.send_modify(|states| states[position] = state);
    }

    /// Waits until the other images that name the blob are done; whether all of them are gone.
    async fn others_are_gone(&self, position: usize, blob: Id) -> bool {
        let Some(images) = self.shared.get(&blob) else { return true };
        let others = || images.iter().copied().filter(|other| *other < position);
        let mut states = self.states.subscribe();
        let done = states.wait_for(|states| others().all(|other| states[other] != State::Open)).await;
        done.is_ok_and(|states| others().all(|other| states[other] == State::Gone))
    }
}

impl Run<'_> {
    /// Deletes the images that the decisions name, with their blobs.
    pub(super) async fn images(&self, inventory: &Inventory, decisions: &[ImageDecision]) {
        let progress = &Progress::new(inventory, decisions);
        let doomed =
            decisions.iter().enumerate().filter(|(_, decision)| decision.verdict == ImageVerdict::Delete);
        let deletions = futures::stream::iter(doomed).map(|(position, decision)| async move {
            // An image that was not started is not gone: what it names stays.
            let gone = self.goes_on() && self.image(inventory, progress, position, decision).await;
            progress.finish(position, if gone { State::Gone } else { State::Failed });
        });
        deletions.buffer_unordered(self.tools.workers).collect::<()>().await;
    }

    /// Whether the image is gone.
    async fn image(
        &self,
        inventory: &Inventory,
        progress: &Progress,
        position: usize,
        decision: &ImageDecision,
    ) -> bool {
        let image = &inventory.images.all()[position];
        let mut all_gone = true;
        for blob in &decision.blobs {
            let digest = inventory.names.text(*blob).into_owned();
            if progress.others_are_gone(position, *blob).await {
                all_gone &= self.blob(*blob, digest, inventory.images.blob_bytes(*blob)).await;
            } else {
                self.ledger.spared(Spared { object: digest, reason: "failedRemoval" });
            }
        }
        let name = inventory.names.text(image.name).into_owned();
        if !all_gone {
            // Without its Image object nobody would know of the blob any longer: the next run tries again.
            self.ledger.spared(Spared { object: name, reason: "failedRemoval" });
            return false;
        }
        self.image_object(image, name).await
    }

    /// Whether the blob is gone.
    async fn blob(&self, blob: Id, digest: String, bytes: Option<u64>) -> bool {
        // Without a registry nothing is gone from one, unless it was to be left alone.
        let Some(registry) = self.tools.registry else { return !self.plan.rules.prune_registry };
        let permit = self.permits.acquire().await;
        let result = registry.delete_blob(&digest).await;
        drop(permit);
        match result {
            Ok(_) => {
                self.registry_answered();
                let repositories = self.repositories.of_blob(blob);
                if let Some(caches) = self.tools.caches {
                    caches.blob_gone(&digest, &repositories).await;
                }
                let repositories = repositories.into_iter().map(str::to_owned).collect();
                self.ledger.changed(Change::Blob { digest, bytes, repositories });
                true
            }
            Err(error) => {
                self.registry_failed(&error);
                let (cause, hints) = (error.to_string(), error.hints());
                self.ledger.failed(FailedObject { failed: "delete blob", cause, object: digest, hints });
                false
            }
        }
    }

    /// Whether the Image object is gone.
    async fn image_object(&self, image: &Image, name: String) -> bool {
        // The precondition keeps an image that was deleted and pushed again meanwhile.
        let options = serde_json::json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": image.uid.map(|uid| serde_json::json!({ "uid": hyphenated(uid) })),
        });
        let request = ApiRequest::delete(image_path(&name), Bytes::from(options.to_string()));
        let permit = self.permits.acquire().await;
        let answer = self.tools.cluster.request(request).await;
        drop(permit);
        match answer {
            Ok(_) => {
                self.ledger.changed(Change::Image { name });
                true
            }
            Err(ApiError::NotFound { .. }) => true,
            Err(error) => {
                let hints = self.tools.cluster.failure(&error, "delete image").hints;
                let cause = error.to_string();
                self.ledger.failed(FailedObject { failed: "delete image", cause, object: name, hints });
                false
            }
        }
    }
}

fn hyphenated(uid: u128) -> String {
    let hex = format!("{uid:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_reads_as_it_was_written() {
        assert_eq!(
            hyphenated(0x8ded_3349_5a58_434c_8a04_7de8_9a82_4d07),
            "8ded3349-5a58-434c-8a04-7de89a824d07"
        );
    }
}
