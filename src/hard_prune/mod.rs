//! The registry's own hard prune (`/usr/bin/dockerregistry -prune=…` in one of its pods): deletes what is in the storage
//! and the API no longer knows of.
//!
//! `output` reads what it writes, `findings` keeps it (both pure), `process` runs it, finds those that run, and ends them,
//! `rights` finds out whether it can run at all (I/O).

mod findings;
mod output;
mod process;
mod rights;

use std::path::PathBuf;
use std::time::Duration;

pub use findings::Findings;
pub use output::{Line, read};
pub use process::{End, Mode, Other, Target, others, run, stop, target};
pub use rights::{Precondition, may_execute, preconditions};

use crate::cache::commands::ClusterAccess;
use crate::cache::redis::RedisOptions;
use crate::cache::rollout::Pace;
use crate::cli::OutputFormat;

/// Everything that `hard-prune` was asked for.
#[derive(Debug, Clone)]
pub struct HardPruneOptions {
    /// Which cluster, and as whom; where the registry runs, and how to trust its replicas.
    pub access: ClusterAccess,
    /// `--redis-…`.
    pub redis: RedisOptions,
    /// `--confirm`: delete, rather than check.
    pub confirm: bool,
    /// `--restore`: only put read-only mode back.
    pub restore: bool,
    /// `--take-over`: end a hard prune that runs.
    pub take_over: bool,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// `--cache-timeout`: for each rollout.
    pub rollout_timeout: Duration,
    /// `--output`: `Text`, `Json` or `Yaml`.
    pub output: OutputFormat,
    /// `--report`.
    pub report: Option<PathBuf>,
    /// `-v`.
    pub verbosity: u8,
    /// `oc prune-images`, or how else it is called.
    pub program: String,
    /// The flags to repeat this with, but for `--confirm`, `--restore` and `--take-over`, each with a blank in front.
    pub flags: String,
    /// How often to look at a rollout; for tests.
    pub pace: Pace,
}

impl HardPruneOptions {
    /// The command that does this with these words.
    #[must_use]
    pub fn command(&self, words: &str) -> String {
        format!("{} hard-prune{words}{}", self.program, self.flags)
    }
}
