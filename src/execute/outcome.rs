//! What was done, what failed and what was spared.

use std::sync::{Mutex, PoisonError};

use schemars::JsonSchema;
use serde::Serialize;

use super::{Event, Stop};
use crate::plan::{Counts, Holder};
use crate::verify::Verification;

/// One change, confirmed by the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Change {
    /// Items were removed from the status of an image stream.
    Items {
        /// `namespace/stream`.
        repository: String,
        /// How many.
        items: usize,
    },
    /// A manifest link is gone from a repository.
    ManifestLink {
        /// `namespace/stream`.
        repository: String,
        /// The manifest.
        digest: String,
    },
    /// A layer link is gone from a repository.
    LayerLink {
        /// `namespace/stream`.
        repository: String,
        /// The blob.
        digest: String,
    },
    /// A blob is gone from the registry's storage.
    Blob {
        /// The blob.
        digest: String,
        /// Its size, where an Image tells it.
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
        /// The repositories that had it, as far as streams and images tell.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        repositories: Vec<String>,
    },
    /// An Image object is gone.
    Image {
        /// Its name.
        name: String,
    },
}

/// An object that could not be pruned. The next run tries again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedObject {
    /// What was to be done: `delete blob`, `update image stream`, ….
    pub failed: &'static str,
    /// Why it failed.
    pub cause: String,
    /// The object.
    pub object: String,
    /// What helps: the exact command or flag.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

/// Something that was planned, and stays because of what happened meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Spared {
    /// A digest; of an item `namespace/stream:tag@digest`, of a link `namespace/stream@digest`.
    pub object: String,
    /// Why it stays: `referencedNewly` (something names it now), `failedRemoval` (an image that names it could not
    /// be deleted), `heldByIndex` (a manifest link that the registry keeps, because an index in the stream needs it).
    pub reason: &'static str,
    /// What needs it now, where that was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Holder>,
}

/// An image that something needs, and of which this run deleted a part before that was seen. Pushing it again mends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokenImage {
    /// `namespace/stream`; empty where a running container tells no more than the digest.
    pub repository: String,
    /// A tag that names it; empty for a reference by digest.
    pub tag: String,
    /// The image.
    pub image: String,
    /// What needs it, unless it is the stream's tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Holder>,
    /// The blobs and links that are gone.
    pub missing: Vec<String>,
    /// Whether the stream's item that named it is gone, or its Image object.
    pub unlisted: bool,
    /// Whether that is sure; otherwise the registry could not be asked.
    pub certain: bool,
}

/// What a confirmed run did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// How much was done; links and blobs that were gone already count, as in the reference implementation.
    pub deleted: Counts,
    /// Every change, in the order in which the servers confirmed them.
    pub changes: Vec<Change>,
    /// What could not be pruned.
    pub failures: Vec<FailedObject>,
    /// What was planned and stays.
    pub spared: Vec<Spared>,
    /// Images that were pushed or became referenced meanwhile, and lack a part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<BrokenImage>,
    /// Whether images that stay can be pulled; absent where nothing was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// What ended the run early: `SIGINT`, `SIGTERM`, `SIGHUP` at a terminal that went away, `timeout`, or
    /// `lostLock` where another run may have begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupted: Option<&'static str>,
    /// What was planned and not done, where the run was ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<Counts>,
}

impl Outcome {
    /// Whether an image that stays cannot be pulled.
    #[must_use]
    pub fn has_broken(&self) -> bool {
        self.verification.as_ref().is_some_and(|verification| !verification.broken.is_empty())
    }
}

/// Collects what happens and passes it on.
pub(super) struct Ledger<'a> {
    tell: &'a (dyn Fn(Event<'_>) + Sync),
    outcome: Mutex<Outcome>,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(tell: &'a (dyn Fn(Event<'_>) + Sync)) -> Self {
        Self { tell, outcome: Mutex::default() }
    }

    fn with(&self, change: impl FnOnce(&mut Outcome)) {
        // A panic elsewhere leaves the lists as true as they were.
        change(&mut self.outcome.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn changed(&self, change: Change) {
        (self.tell)(Event::Changed(&change));
        self.with(|outcome| {
            let counts = &mut outcome.deleted;
            match &change {
                Change::Items { items, .. } => {
                    counts.image_stream_tag_items += items;
                    counts.image_streams += 1;
                }
                Change::ManifestLink { .. } => counts.manifest_links += 1,
                Change::LayerLink { .. } => counts.layer_links += 1,
                Change::Blob { bytes, .. } => counts.add_blob(*bytes),
                Change::Image { .. } => counts.images += 1,
            }
            outcome.changes.push(change);
        });
    }

    pub(super) fn failed(&self, failed: FailedObject) {
        (self.tell)(Event::Failed(&failed));
        self.with(|outcome| outcome.failures.push(failed));
    }

    pub(super) fn spared(&self, spared: Spared) {
        (self.tell)(Event::Spared(&spared));
        self.with(|outcome| outcome.spared.push(spared));
    }

    pub(super) fn finish(self, stop: Option<Stop>) -> Outcome {
        let mut outcome = self.outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcome.failures.sort();
        outcome.interrupted = stop.map(Stop::name);
        outcome
    }
}
