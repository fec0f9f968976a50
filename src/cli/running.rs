//! How a run is carried out and what it leaves behind, apart from what is pruned.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    options::OutputFormat,
    validate::{NO_LIMIT, invalid, nonempty, nonempty_path, switch, timeout, word},
};
use crate::{error::Failure, verify::Extent};

/// The longest name of a field manager, in bytes.
const FIELD_MANAGER_MAX: usize = 128;

/// How a run is carried out, as typed.
#[derive(Args)]
pub(super) struct RunningArgs {
    /// Also print what stays, and why
    ///
    /// With -o text; -o wide always does, documents too.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    show_kept: Option<String>,

    /// End the run after this time, and leave the rest
    ///
    /// What was begun is finished, and the registry's caches forget what was deleted, for which --cache-timeout holds.
    /// The exit code is 124, and the next run goes on. Default: no limit.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,

    /// How often what may not be watched is read again during a confirmed run
    ///
    /// What becomes referenced while the run goes on stays. Pods and other objects are watched for that where the user may;
    /// otherwise they are listed again so often. Default: 15s, or ten times as long as that takes.
    #[arg(long, value_name = "DURATION")]
    poll_interval: Option<String>,

    /// Write numbers about the run to this file, for Prometheus
    ///
    /// In the text format that node-exporter's textfile collector reads, at the end of every run, replaced as a whole.
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,

    /// Also write a page for a browser to this file
    ///
    /// Where the storage goes, what stays and why, what other values would free, and what the run did. One file that needs
    /// no network and no JavaScript. Whether it can be written is found out first.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Which images that stay to ask the registry for at the end
    ///
    /// off, shared or all. shared: those that shared blobs with what was deleted, and of them these blobs and the
    /// manifests. Asking needs the right to get imagestreams/layers. Default: shared.
    #[arg(long, value_name = "EXTENT")]
    verify: Option<String>,

    #[command(flatten)]
    writing: WritingArgs,
}

/// How the values of [`RunningArgs`] are used.
pub(super) struct Running {
    pub(super) show_kept: bool,
    pub(super) timeout: Option<Duration>,
    pub(super) poll_interval: Option<Duration>,
    pub(super) metrics_file: Option<PathBuf>,
    pub(super) report: Option<PathBuf>,
    /// `--verify`, if it was given.
    pub(super) verify: Option<Extent>,
    pub(super) field_manager: Option<String>,
}

impl RunningArgs {
    /// Checks the values, given the form of the output.
    pub(super) fn options(self, output: OutputFormat) -> Result<Running, Failure> {
        let show_kept = switch("--show-kept", self.show_kept.as_deref())?;
        if show_kept && output == OutputFormat::Name {
            return Err(Failure::usage("--show-kept cannot be specified with --output=name"));
        }
        let limit = timeout("--timeout", self.timeout.as_deref(), NO_LIMIT)?;
        let every = timeout("--poll-interval", self.poll_interval.as_deref(), NO_LIMIT)?;
        Ok(Running {
            show_kept: show_kept || output == OutputFormat::Wide,
            timeout: (limit != NO_LIMIT).then_some(limit),
            poll_interval: (every != NO_LIMIT).then_some(every),
            metrics_file: nonempty_path(self.metrics_file),
            report: nonempty_path(self.report),
            verify: nonempty(self.verify)
                .map(|given| word("--verify", Some(given), Extent::BY_NAME))
                .transpose()?,
            field_manager: self.writing.field_manager()?,
        })
    }
}

/// In whose name objects are changed, as typed; every command that changes some has it.
#[derive(Args)]
pub(super) struct WritingArgs {
    /// The name under which the API server notes changes
    ///
    /// In metadata.managedFields of what is changed. Default: oc-prune-images.
    #[arg(long, value_name = "NAME")]
    field_manager: Option<String>,
}

impl WritingArgs {
    pub(super) fn field_manager(self) -> Result<Option<String>, Failure> {
        let Some(name) = nonempty(self.field_manager) else { return Ok(None) };
        // The server's rule: at most 128 printable characters.
        if name.len() > FIELD_MANAGER_MAX || name.chars().any(char::is_control) {
            return Err(invalid("--field-manager", &name, "it must be at most 128 printable characters"));
        }
        Ok(Some(name))
    }
}
