//! What was found.

use std::fmt::Write as _;
use std::io::{self, Write};

use schemars::JsonSchema;
use serde::Serialize;

use crate::report::document::ReferrerEntry;
use crate::text::printable;

/// What the registry answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// How many images were asked for; one that several repositories use counts for each.
    pub images: usize,
    /// How many there would be to ask for.
    pub candidates: usize,
    /// Of the former, how many can be pulled, as far as was asked.
    pub whole: usize,
    /// How many questions there were: manifests and blobs, each once in a repository.
    pub questions: usize,
    /// Questions that this user may not ask.
    pub not_allowed: usize,
    /// Questions whose answer settles nothing, or that were not asked because the run was to end.
    pub unknown: usize,
    /// The first of these answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown_answers: Vec<String>,
    /// Images that cannot be pulled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<VerifiedBroken>,
}

/// An image that cannot be pulled from a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedBroken {
    /// The repository: `namespace/stream`.
    pub repository: String,
    /// The tags whose items name it: `latest` where it is the current one, else `latest@2`, with the item's position.
    pub tags: Vec<String>,
    /// The image.
    pub image: String,
    /// What is wrong.
    pub parts: Vec<BrokenPart>,
    /// Who runs it, or would.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<ReferrerEntry>,
}

/// Part of an image that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokenPart {
    /// What it is.
    pub kind: PartKind,
    /// The manifest or blob.
    pub digest: String,
    /// What is wrong with it.
    pub problem: Problem,
    /// How many bytes it should have, where an Image tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How many bytes there are, where the registry says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found_bytes: Option<u64>,
}

/// What part of an image it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PartKind {
    /// The image's manifest, or one that its index lists.
    Manifest,
    /// The config.
    Config,
    /// A layer.
    Layer,
}

/// What is wrong with a part of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Problem {
    /// The repository does not have it.
    Missing,
    /// The repository does not have it, and another one does: the link is missing.
    MissingLink,
    /// The repository has it, the storage does not: a cache that lies, or lost data.
    MissingBlob,
    /// The data ends too early.
    Truncated,
}

impl Problem {
    fn text(self) -> &'static str {
        match self {
            Self::Missing => "is missing",
            Self::MissingLink => "is missing in this repository (its link; another repository has it)",
            Self::MissingBlob => "has no data in the storage",
            Self::Truncated => "is truncated",
        }
    }
}

impl PartKind {
    fn word(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Config => "config",
            Self::Layer => "layer",
        }
    }
}

impl Verification {
    /// Whether every question was answered, and every image can be pulled.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.broken.is_empty() && self.not_allowed == 0 && self.unknown == 0
    }

    /// The numbers in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { images, candidates, whole, questions, not_allowed, unknown, unknown_answers: _, broken } =
            self;
        let of = if images == candidates { String::new() } else { format!(" of {candidates}") };
        let mut parts = vec![format!("{whole} whole")];
        for (count, what) in [(broken.len(), "broken"), (images - whole - broken.len(), "not verified")] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        let mut line =
            format!("{images}{of} image(s) asked for, {questions} question(s): {}", parts.join(", "));
        for (count, what) in [(*not_allowed, "not allowed"), (*unknown, "without an answer")] {
            if count > 0 {
                let _ = write!(line, "; {count} question(s) {what}");
            }
        }
        line
    }

    /// The images that cannot be pulled, for people.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_broken(&self, out: &mut dyn Write) -> io::Result<()> {
        for VerifiedBroken { repository, tags, image, parts, referrers } in &self.broken {
            let tags = tags.join(", ");
            writeln!(out, "broken: {}", printable(&format!("{repository}:{tags} ({image})")))?;
            for BrokenPart { kind, digest, problem, bytes, found_bytes } in parts {
                let sizes = match (bytes, found_bytes) {
                    (Some(bytes), Some(found)) => format!(" ({found} of {bytes} bytes)"),
                    _ => String::new(),
                };
                writeln!(out, "  {} {} {}{sizes}", kind.word(), printable(digest), problem.text())?;
            }
            for ReferrerEntry { kind, namespace, name, place, owner: _ } in referrers {
                let place = if place.is_empty() { String::new() } else { format!(" ({place})") };
                let object = format!("{kind}/{name} namespace={namespace}{place}");
                writeln!(out, "  used by {}", printable(&object))?;
            }
        }
        Ok(())
    }
}
