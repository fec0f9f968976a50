//! The decision: inventory + rules -> plan, with a reason for everything that stays and goes.
//!
//! Pure: no I/O and no clock. The rules are those of `docs/decision.md`, which names their source.

mod danger;
mod decide;
mod differences;
pub mod explain;
mod guard;
mod leftovers;
mod references;
mod repositories;
pub mod stays;
pub mod usage;
mod what_if;

use serde::{Deserialize, Serialize};

pub use danger::{Danger, dangers};
pub use decide::{
    ImageDecision, ImageDecisions, ImageVerdict, ItemDecision, ItemKeep, ItemRemove, ItemVerdict, Plan,
    Reimport, Stage2, StreamDecision, StreamVerdict, UsedBy, decide, decide_agreed, decide_images,
    missing_images, named_blobs, needed_in_repository,
};
pub use differences::{Differences, Differing, DifferingObject};
pub use guard::{Broken, Gone, Guard, Holder};
pub use leftovers::{Leftovers, Links, Unfinished};
pub use references::{InvalidReference, References, Use};
pub use repositories::Repositories;
pub use what_if::{Freed, what_if};

/// What the flags ask for, with the cutoff worked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// What stays although nothing refers to it.
    pub keep: Keep,
    /// `--all`: images that were not pushed to the integrated registry go, too.
    pub all: bool,
    /// `--namespace`: only streams of this namespace lose items, and stage 2 is skipped.
    pub namespace: Option<String>,
    /// `--prune-registry`: links and blobs in the registry go, too.
    pub prune_registry: bool,
}

/// What stays although nothing refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// `--keep-tag-revisions` and `--keep-younger-than`.
    Recent {
        /// How many items of each tag stay.
        tag_revisions: u32,
        /// Now minus `--keep-younger-than`, in nanoseconds since the Unix epoch.
        cutoff: i128,
    },
    /// `--prune-over-size-limit`: every image that exceeds no limit of its namespace.
    WithinSizeLimit,
}

const NANOS: i128 = 1_000_000_000;

impl Rules {
    /// Whether something created at this time (seconds) is younger than the cutoff. Never in over-size mode.
    #[must_use]
    pub fn is_young(&self, created: i64) -> bool {
        match self.keep {
            Keep::Recent { cutoff, .. } => i128::from(created) * NANOS > cutoff,
            Keep::WithinSizeLimit => false,
        }
    }

    /// Whether something created at this time (seconds) is older than the cutoff. Never in over-size mode.
    #[must_use]
    pub fn is_older(&self, created: i64) -> bool {
        match self.keep {
            Keep::Recent { cutoff, .. } => i128::from(created) * NANOS < cutoff,
            Keep::WithinSizeLimit => false,
        }
    }
}

/// Where the plan keeps what the reference implementation would delete: the closed list of
/// `docs/decision.md`, "Where this tool is safer".
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Difference {
    /// A live object refers to the image by digest, and no stream item names it.
    ReferencedByDigest,
    /// A live object refers to a sub-manifest's digest.
    ReferencedSubmanifest,
    /// With `--namespace`: an object of another namespace refers to it.
    ReferencedAcrossNamespaces,
    /// It belongs to a used index, more than one level down.
    NestedIndex,
    /// It became referenced while the run was on.
    ReferencedNewly,
    /// It is the config of a kept image whose media type does not tell so.
    ConfigOfUnknownMediaType,
    /// The label or annotation `prune-images/keep: "true"`.
    Protected,
    /// A reference that parses once the white space around it is gone.
    InvalidButReadable,
    /// The name is no digest: the registry can hold no such blob.
    NotADigest,
    /// A container of a pod runs this digest.
    WhatRuns,
    /// A reference in a place that the reference implementation does not read.
    MoreReferrers,
}

/// How much goes, or went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Image objects.
    pub images: usize,
    /// Tag event items.
    pub image_stream_tag_items: usize,
    /// Image streams that lose items.
    pub image_streams: usize,
    /// Layer links.
    pub layer_links: usize,
    /// Manifest links.
    pub manifest_links: usize,
    /// Blobs, manifests included.
    pub blobs: usize,
    /// The bytes that the blobs hold in the registry's storage, each blob once, where an Image tells the size.
    pub bytes: u64,
    /// How many of the blobs have a size that no Image tells: most manifests.
    pub blobs_of_unknown_size: usize,
}

impl Counts {
    /// What is left of these when `done` is done.
    #[must_use]
    pub fn without(&self, done: &Self) -> Self {
        let Self {
            images,
            image_stream_tag_items,
            image_streams,
            layer_links,
            manifest_links,
            blobs,
            bytes,
            blobs_of_unknown_size,
        } = self;
        Self {
            images: images.saturating_sub(done.images),
            image_stream_tag_items: image_stream_tag_items.saturating_sub(done.image_stream_tag_items),
            image_streams: image_streams.saturating_sub(done.image_streams),
            layer_links: layer_links.saturating_sub(done.layer_links),
            manifest_links: manifest_links.saturating_sub(done.manifest_links),
            blobs: blobs.saturating_sub(done.blobs),
            bytes: bytes.saturating_sub(done.bytes),
            blobs_of_unknown_size: blobs_of_unknown_size.saturating_sub(done.blobs_of_unknown_size),
        }
    }

    /// Adds a blob of this size.
    pub fn add_blob(&mut self, bytes: Option<u64>) {
        self.blobs += 1;
        self.bytes += bytes.unwrap_or(0);
        self.blobs_of_unknown_size += usize::from(bytes.is_none());
    }
}
