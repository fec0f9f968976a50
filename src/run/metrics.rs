//! `--metrics-file`: what is gathered of a run, and the file that it goes to.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Instant;

use jiff::Timestamp;

use crate::cache::{CacheOutcome, CachePlan};
use crate::error::Exit;
use crate::execute::Outcome;
use crate::plan::Counts;
use crate::report::metrics::{RunMetrics, last_success};
use crate::ui::Ui;

/// What is known of a run so far, for the metrics at its end.
#[derive(Debug)]
pub(super) struct Tally {
    started: Timestamp,
    clock: Instant,
    /// Whether the run is one that changes something.
    pub(super) confirmed: bool,
    /// What was planned.
    pub(super) planned: Option<Counts>,
    cache_step: Option<&'static str>,
    done: Option<(Outcome, bool)>,
}

impl Tally {
    pub(super) fn begin() -> Self {
        Self {
            started: Timestamp::now(),
            clock: Instant::now(),
            confirmed: false,
            planned: None,
            cache_step: None,
            done: None,
        }
    }

    /// What would be done about the registry's caches, or is going to be.
    pub(super) fn cache_plan(&mut self, plan: &CachePlan) {
        self.cache_step = Some(plan.step);
    }

    /// What was done.
    pub(super) fn done(&mut self, outcome: &Outcome, cache: &CacheOutcome) {
        // Of the changes only the numbers are told.
        let outcome = Outcome { changes: Vec::new(), spared: Vec::new(), ..outcome.clone() };
        self.done = Some((outcome, !cache.may_lie() && !cache.is_left()));
    }

    /// Writes the metrics; that they cannot be written changes nothing about the run.
    pub(super) fn write(&self, path: &Path, exit: Exit, ui: &Ui) {
        let ended = Timestamp::now();
        // A file that cannot be read tells of no success; that it cannot be replaced either is said below.
        let before = std::fs::read_to_string(path).ok().and_then(|text| last_success(&text));
        let succeeded = exit == Exit::Done && self.confirmed;
        let metrics = RunMetrics {
            started: self.started.as_second(),
            ended: ended.as_second(),
            duration: self.clock.elapsed().as_secs_f64(),
            exit: exit as u8,
            dry_run: !self.confirmed,
            last_success: if succeeded { Some(ended.as_second()) } else { before },
            planned: self.planned,
            outcome: self.done.as_ref().map(|(outcome, _)| outcome),
            cache_step: self.cache_step,
            cache_clean: self.done.as_ref().map(|(_, is_clean)| *is_clean),
        };
        let mut text = Vec::new();
        if let Err(error) = metrics.write(&mut text).and_then(|()| replace(path, &text)) {
            ui.warning(&format!(
                "--metrics-file={} cannot be written: {}",
                crate::report::printable(&path.to_string_lossy()),
                crate::cause::io_text(&error)
            ));
        }
    }
}

/// Replaces the file as a whole: whoever reads it meanwhile sees the old one or the new one.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // Collectors read what ends in `.prom`.
    let temporary = path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let written = write_new(&temporary, content).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // Of no use to anybody, and perhaps not there at all.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    // Whatever the umask is: the collector is another user.
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.sync_all()
}
