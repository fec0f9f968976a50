//! `--report`: what the page shows is collected before anything is changed, and the file is written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::look::{self, Look};
use super::write_document;
use crate::cause::io_text;
use crate::cli::{Keep, LookFormat, OutputFormat, PruneOptions};
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::plan::usage::{Level, Shown};
use crate::plan::{self, Plan};
use crate::report::document::{Context, View};
use crate::report::html::{self, Found};
use crate::report::usage::{SortBy, Usage};
use crate::report::what_if::{Grid, WhatIf};
use crate::schedule::api;
use crate::schedule::operator::AutomaticPruner;
use crate::text::sanitize;
use crate::ui::Ui;

/// A file that is there under its name once it is complete.
pub(super) struct PageFile {
    path: PathBuf,
    /// Beside it, so that it can take its name; gone when the run ends without a page.
    temporary: PathBuf,
    file: Option<File>,
}

impl PageFile {
    /// Makes sure that the file can be written, before anything is read or changed.
    ///
    /// # Errors
    /// It cannot, or something else than a file has its name.
    pub(super) fn begin(path: &Path) -> Result<Self, Failure> {
        // A link stays one: what it points to is replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let failure = |cause: &str| {
            Failure::nothing_changed(format!(
                "write the report {}: {cause}",
                sanitize(&path.to_string_lossy())
            ))
            .hint("name a file in a folder that you may write to: --report=report.html")
        };
        if target.exists() && !target.is_file() {
            return Err(failure("it is there, and no regular file"));
        }
        let Some(name) = target.file_name() else { return Err(failure("this names no file")) };
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.part", std::process::id()));
        let temporary = target.with_file_name(temporary);
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = file.map_err(|error| failure(&io_text(&error)))?;
        Ok(Self { path: target, temporary, file: Some(file) })
    }

    /// Writes the page and gives the file its name.
    pub(super) fn finish(mut self, page: &str) -> Result<(), Failure> {
        let written = match self.file.take() {
            Some(mut file) => self.write(&mut file, page),
            None => Ok(()),
        };
        written.map_err(|error| {
            let path = sanitize(&self.path.to_string_lossy());
            Failure::nothing_changed(format!("write the report {path}: {}", io_text(&error)))
        })
    }

    /// Writes what a command printed as a page.
    pub(super) fn finish_with_text(
        self,
        title: &str,
        server: &str,
        write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let mut text = Vec::new();
        // Writing to memory cannot fail.
        let _ = write(&mut text);
        self.finish(&html::text_page(title, Some(server), &String::from_utf8_lossy(&text)))
    }

    /// Runs what changes something, and writes what it said as a page, however it ended. The run is over by then: that the
    /// page cannot be written changes nothing about it.
    pub(super) async fn around(
        path: Option<&Path>,
        title: &str,
        ui: &Ui,
        run: impl Future<Output = Result<Exit, Failure>>,
    ) -> Result<Exit, Failure> {
        let Some(path) = path else { return run.await };
        let file = Self::begin(path)?;
        ui.keep_transcript();
        let ended = run.await;
        let mut said = ui.said();
        if let Err(failure) = &ended {
            said.push_str(&failure.to_string());
        }
        if let Err(failure) = file.finish(&html::text_page(title, None, &said)) {
            ui.warning(&failure.message);
        }
        ended
    }

    fn write(&self, file: &mut File, page: &str) -> io::Result<()> {
        file.write_all(page.as_bytes())?;
        file.sync_all()?;
        fs::rename(&self.temporary, &self.path)
    }
}

impl Drop for PageFile {
    fn drop(&mut self) {
        // After a rename there is none; one that stays does no harm.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Writes what was found in this format, and its page to the file, if there is one. The page is made only where it is
/// wanted.
pub(super) fn write(
    ui: &Ui,
    format: LookFormat,
    document: &impl serde::Serialize,
    table: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    file: Option<PageFile>,
    page: impl FnOnce() -> String,
) -> Result<(), Failure> {
    match format {
        LookFormat::Table => ui.result(table),
        LookFormat::Json => write_document(ui, OutputFormat::Json, document),
        LookFormat::Yaml => write_document(ui, OutputFormat::Yaml, document),
        LookFormat::Html => {}
    }
    if file.is_none() && format != LookFormat::Html {
        return Ok(());
    }
    let page = page();
    if format == LookFormat::Html {
        ui.result(|out| write!(out, "{page}"));
    }
    file.map_or(Ok(()), |file| file.finish(&page))
}

/// What the page of a prune shows beside what was done: the storage by streams, and what other values would free.
pub(super) async fn found(
    cluster: &Cluster,
    look: &Look,
    plan: &Plan,
    context: &Context,
    options: &PruneOptions,
) -> Found {
    let view = View { inventory: &look.inventory, plan };
    let what_if = match options.keep {
        Keep::Revisions { keep_tag_revisions, keep_younger_than } => {
            let pruner = api::automatic_pruner(cluster).await;
            let mut grid = Grid::default();
            grid.add(keep_tag_revisions, keep_younger_than);
            Some(tokio::task::block_in_place(|| what_if(look, context, options, &pruner, grid, view)))
        }
        Keep::OverSizeLimit => None,
    };
    tokio::task::block_in_place(|| {
        let shown = Shown::of(&look.inventory, options.namespace.as_deref());
        let warnings = context.warnings.clone();
        let by = (Level::Stream, SortBy::Bytes);
        let usage = Usage::new(view, view.metadata(context), warnings, by, &shown);
        Found::new(view, usage, what_if, &shown)
    })
}

/// Decides for each combination of the grid, to which the automatic pruner's setting is added.
pub(super) fn what_if(
    look: &Look,
    context: &Context,
    options: &PruneOptions,
    pruner: &AutomaticPruner,
    mut grid: Grid,
    view: View<'_>,
) -> WhatIf {
    grid.add_pruner(pruner);
    let rules = look::rules(options, look.now);
    let keep = |(tag_revisions, age): (u32, jiff::SignedDuration)| plan::Keep::Recent {
        tag_revisions,
        cutoff: look.now.as_nanosecond() - age.as_nanos(),
    };
    let combinations: Vec<plan::Keep> = grid.combinations().map(keep).collect();
    let freed = plan::what_if(&look.inventory, &rules, &combinations);
    WhatIf::new(view.metadata(context), context.warnings.clone(), pruner, &grid, &freed)
}
