//! The document and the text of a hard prune.

use std::io::{self, Write};

use schemars::JsonSchema;
use serde::Serialize;

use super::document::API_VERSION;
use super::human;
use crate::cache::CacheOutcome;
use crate::hard_prune::{Findings, Line, Mode, Precondition};

/// What a hard prune would delete, or has deleted.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HardPruneResult {
    /// `prune-images/v1alpha1`.
    pub api_version: &'static str,
    /// `HardPruneResult`.
    pub kind: &'static str,
    /// The URL of the API server.
    pub server: String,
    /// The pod that it ran in.
    pub pod: String,
    /// `--confirm`: whether anything was deleted.
    pub confirmed: bool,
    /// What has to hold before.
    pub preconditions: Vec<Precondition>,
    /// What would be deleted, as the check said; in a confirmed run, before it.
    pub check: Found,
    /// What was deleted; absent if nothing was to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Found>,
    /// What became of read-only mode; absent without `--confirm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<ReadOnlyOutcome>,
    /// Why it did not end well, and what it complained of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
    /// What ended it early: `SIGINT`, `SIGTERM`, `SIGHUP`, `timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupted: Option<&'static str>,
    /// What was done about the registry's caches; absent without `--confirm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheOutcome>,
}

/// What became of read-only mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ReadOnlyOutcome {
    /// It was never switched on: there was nothing to be deleted.
    Untouched,
    /// Somebody else had it on, and it is on still.
    KeptOn,
    /// It was switched on for the time of the deletion, or by an earlier run, and is what it was before.
    PutBack,
    /// It is on, or not every replica is back: see `failures`.
    LeftOn,
}

/// What hard prune named, and how much it counted.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// Repositories without an image stream, which go with all their links.
    pub repositories: Vec<String>,
    /// Links to manifests that their image stream does not list.
    pub manifest_links: Vec<ManifestLink>,
    /// The digests of blobs that no image uses.
    pub blobs: Vec<String>,
    /// How many blobs.
    pub blob_count: u64,
    /// How many bytes they hold, as the registry prints it: four digits. Absent where it did not come to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// A link of a repository to a manifest.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManifestLink {
    /// The repository.
    pub repository: String,
    /// The manifest's digest.
    pub digest: String,
}

impl Found {
    /// What was found, name by name.
    #[must_use]
    pub fn of(findings: &Findings) -> Self {
        let link = |(repository, digest)| ManifestLink { repository, digest };
        Self {
            repositories: findings.repositories().map(ToOwned::to_owned).collect(),
            manifest_links: findings.manifest_links().map(link).collect(),
            blobs: findings.blobs().collect(),
            ..Self::counts(findings)
        }
    }

    /// How much was found, without names: as text these cost several times what they do in the findings.
    #[must_use]
    pub fn counts(findings: &Findings) -> Self {
        Self { blob_count: findings.blob_count(), bytes: findings.bytes, ..Self::default() }
    }
}

impl HardPruneResult {
    /// A document of which nothing is known yet but where it is about.
    #[must_use]
    pub fn new(
        server: String,
        pod: String,
        confirmed: bool,
        preconditions: Vec<Precondition>,
        check: Found,
    ) -> Self {
        Self {
            api_version: API_VERSION,
            kind: "HardPruneResult",
            server,
            pod,
            confirmed,
            preconditions,
            check,
            deleted: None,
            read_only: None,
            failures: Vec::new(),
            interrupted: None,
            cache: None,
        }
    }
}

/// The line about something that goes, in the registry's words; nothing for any other line.
#[must_use]
pub fn line(mode: Mode, line: &Line) -> Option<String> {
    let verb = if mode == Mode::Check { "Would delete" } else { "Deleting" };
    match line {
        Line::Repository(name) => Some(format!("{verb} repository: {name}")),
        Line::ManifestLink { repository, digest } => {
            Some(format!("{verb} manifest link: {repository}@{digest}"))
        }
        Line::Blob(digest) => Some(format!("{verb} blob: {digest}")),
        Line::Blobs(_) | Line::Bytes(_) | Line::Problem(_) | Line::Other => None,
    }
}

/// How much there was, on one line.
#[must_use]
pub fn counts(findings: &Findings) -> String {
    let bytes = match findings.bytes {
        Some(bytes) => format!(", {}", human::bytes(bytes)),
        None => String::new(),
    };
    format!(
        "{} blob(s){bytes}, {} manifest link(s), {} repository(ies) without an image stream",
        findings.blob_count(),
        findings.link_count(),
        findings.repository_count()
    )
}

/// The end of the text.
///
/// # Errors
/// It cannot be written.
pub fn end(out: &mut dyn Write, mode: Mode, findings: &Findings) -> io::Result<()> {
    let (deleted, freed) = match mode {
        Mode::Check => ("Would delete", "Would free up"),
        Mode::Delete => ("Deleted", "Freed up"),
    };
    writeln!(
        out,
        "{deleted} {} blobs, {} manifest links, {} repositories",
        findings.blob_count(),
        findings.link_count(),
        findings.repository_count()
    )?;
    match findings.bytes {
        Some(bytes) => writeln!(out, "{freed} {} of disk space", human::bytes(bytes)),
        None => Ok(()),
    }
}
