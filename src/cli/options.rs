//! What the program needs: values that are checked, complete and free of the command line's spelling.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use jiff::SignedDuration;

use crate::{
    cache::CacheOptions,
    cluster::ConnectionOptions,
    inventory::ResourceName,
    model::Selector,
    registry::{RegistryUrl, Via},
    text, verify,
};

/// Everything that a prune was asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// How the user calls the program, for hints: `oc prune-images` or `kubectl prune-images`.
    pub program: String,
    /// What to prune.
    pub prune: PruneOptions,
    /// Which registry, and how to trust it.
    pub registry: RegistryOptions,
    /// `--confirm`: really delete. Without it the run is a dry run.
    pub confirm: bool,
    /// Whether the command line leaves it open what is to be done, so that somebody at a terminal may be asked: neither
    /// `--confirm` nor `--dry-run` nor `--output`.
    pub may_ask: bool,
    /// `--journal`: where the journal goes, or is.
    pub journal: Option<PathBuf>,
    /// `--num-workers`: deletions in flight; without it they follow how the servers answer.
    pub num_workers: Option<NonZeroUsize>,
    /// `--verify`: which images that stay are asked for at the end.
    pub verify: verify::Extent,
    /// `--output`.
    pub output: OutputFormat,
    /// `--show-kept`: text also says what stays, and why.
    pub show_kept: bool,
    /// `--timeout`: when the run begins nothing new any more.
    pub timeout: Option<Duration>,
    /// `--poll-interval`: how often what cannot be watched is read again.
    pub poll_interval: Option<Duration>,
    /// `--metrics-file`.
    pub metrics_file: Option<PathBuf>,
    /// `--report`: a page for a browser.
    pub report: Option<PathBuf>,
    /// `-v`: 0 is silent, 10 the most.
    pub verbosity: u8,
    /// What is done about the registry's caches.
    pub cache: CacheOptions,
    /// Which cluster, and as whom.
    pub connection: ConnectionOptions,
}

/// Everything that an explanation was asked for.
#[derive(Debug, Clone)]
pub struct ExplainOptions {
    /// How the user calls the program, for hints.
    pub program: String,
    /// What to explain, as typed.
    pub targets: Vec<String>,
    /// `--stuck`: list images that no value of `--keep-tag-revisions` above 0 can prune.
    pub stuck: bool,
    /// The prune that is asked about.
    pub prune: PruneOptions,
    /// `--output`.
    pub output: OutputFormat,
    /// `--report`.
    pub report: Option<PathBuf>,
    /// `-v`: 0 is silent, 10 the most.
    pub verbosity: u8,
    /// Which cluster, and as whom.
    pub connection: ConnectionOptions,
}

/// What to prune; the rules are in `docs/decision.md`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneOptions {
    /// `--all`: also images that were not pushed to the integrated registry (the default).
    pub all: bool,
    /// What decides that an item stays.
    pub keep: Keep,
    /// `--ignore-invalid-refs`: go on when references do not parse.
    pub ignore_invalid_refs: bool,
    /// `--namespace`: only the streams of this namespace. The kubeconfig's namespace does not count.
    pub namespace: Option<String>,
    /// `--selector`: only the streams with these labels.
    pub selector: Option<Selector>,
    /// `--referrers-from`: resources whose objects protect images, too.
    pub referrers_from: Vec<ResourceName>,
    /// `--prune-registry`: also remove data from the registry (the default), not only API objects.
    pub prune_registry: bool,
}

/// What decides that an item stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The newest revisions of each tag, and whatever is young.
    Revisions {
        /// `--keep-tag-revisions`: how many items of each tag stay.
        keep_tag_revisions: u32,
        /// `--keep-younger-than`: never negative.
        keep_younger_than: SignedDuration,
    },
    /// `--prune-over-size-limit`: every image within the size limits of its namespace.
    OverSizeLimit,
}

/// Which registry, and how to trust it.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// `--registry-url`; without it, the address is found in the cluster.
    pub url: Option<RegistryUrl>,
    /// `--certificate-authority`: the CA that signed the registry's certificate.
    pub ca: Option<CaBundle>,
    /// `--force-insecure`: skip verification, and speak plain HTTP if need be.
    pub force_insecure: bool,
    /// `--registry-via`; without it, any way, or that to the address of `--registry-url` alone.
    pub via: Option<Via>,
}

impl RegistryOptions {
    /// The flags to repeat a command with, each with a blank in front.
    #[must_use]
    pub fn flags(&self) -> String {
        text::flags([
            ("--registry-url", self.url.as_ref().map(ToString::to_string)),
            ("--registry-via", self.via.map(|via| via.word().to_owned())),
            ("--certificate-authority", self.ca.as_ref().map(|ca| ca.path.to_string_lossy().into_owned())),
            ("--force-insecure", self.force_insecure.then(|| "true".to_owned())),
        ])
    }
}

/// A file of CA certificates that was read and holds at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaBundle {
    /// The file as the user named it.
    pub path: PathBuf,
    /// Its content.
    pub pem: Vec<u8>,
}

/// The form of what goes to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// For people with wide terminals.
    Wide,
    /// A versioned JSON document.
    Json,
    /// The same document in YAML.
    Yaml,
    /// One `kind/name` per line, for pipes.
    Name,
}

impl OutputFormat {
    /// All formats by the word that selects them, sorted as kubectl lists them.
    pub const BY_NAME: [(&'static str, Self); 5] = [
        ("json", Self::Json),
        ("name", Self::Name),
        ("text", Self::Text),
        ("wide", Self::Wide),
        ("yaml", Self::Yaml),
    ];
}

/// The form of what a command that only looks writes to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LookFormat {
    /// For people.
    #[default]
    Table,
    /// A page for a browser.
    Html,
    /// A versioned JSON document.
    Json,
    /// The same document in YAML.
    Yaml,
}

impl LookFormat {
    /// All formats by the word that selects them, sorted as kubectl lists them.
    pub const BY_NAME: [(&'static str, Self); 4] =
        [("html", Self::Html), ("json", Self::Json), ("table", Self::Table), ("yaml", Self::Yaml)];
}
