//! From flags to exit code: one room for each kind of run.

mod complete;
mod dialogue;
mod explain;
mod hard_prune;
mod interactive;
mod journal;
mod keeping;
mod look;
mod metrics;
mod page;
mod place_files;
mod prune;
mod resume;
mod schedule;
mod signals;
mod usage;
mod verify;
mod what_if;

use std::sync::Arc;

use crate::cache::commands::check::{self, CheckOptions};
use crate::cache::commands::flush::{self, FlushOptions};
use crate::cache::commands::status::{self, StatusOptions};
use crate::cache::commands::switch::{self, SwitchOptions};
use crate::cli::{Invocation, OutputFormat};
use crate::cluster;
use crate::error::{Exit, Failure};
use crate::ui::Ui;
pub use verify::ImageVerification;

use page::PageFile;
use signals::unless_ended;

/// Does what the command line asks for.
///
/// # Errors
/// What ended the run before any change was made. Failures after that are told on stderr, and are in the exit code.
pub fn run(invocation: Invocation, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    let options = match invocation {
        Invocation::Print(text) => {
            ui.result(|out| write!(out, "{text}"));
            return Ok(Exit::Done);
        }
        Invocation::Complete(completion) => return Ok(complete::run(*completion, ui)),
        Invocation::PlaceFiles(options) => return place_files::run(&options, ui),
        Invocation::CacheCheck(options) => return check_caches(&options, ui),
        Invocation::CacheFlush(options) => return flush_cache(&options, ui),
        Invocation::CacheSwitch(options) => return switch_caches(&options, ui),
        Invocation::CacheStatus(options) => return show_cache(&options, ui),
        Invocation::Explain(options) => return start(options.verbosity, explain::run(&options, ui)),
        Invocation::HardPrune(options) => return start(options.verbosity, hard_prune::run(&options, ui)),
        Invocation::Usage(options) => return start(options.verbosity, usage::run(&options, ui)),
        Invocation::Verify(options) => return start(options.verbosity, verify::run(&options, ui)),
        Invocation::WhatIf(options) => return start(options.verbosity, what_if::run(&options, ui)),
        Invocation::Journal(options) => return journal::run(&options, ui),
        Invocation::Resume(options) => return start(options.verbosity, resume::run(&options, ui)),
        Invocation::Schedule(options) => return start(options.verbosity, schedule::run(&options, ui)),
        Invocation::Prune(options) => options,
    };
    start(options.verbosity, prune::run(&options, ui))
}

fn flush_cache(options: &FlushOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    start(options.verbosity, async {
        // An eviction may be done twice, and the next run does the rest.
        let run = unless_ended(ui, |signal| flush::interrupted(options, signal), flush::flush(options, ui));
        PageFile::around(options.report.as_deref(), "What was evicted", ui, run).await
    })
}

fn switch_caches(options: &SwitchOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    start(options.verbosity, async {
        // The old values are kept before anything is changed, and the next run goes on.
        let run =
            unless_ended(ui, |signal| switch::interrupted(options, signal), switch::switch(options, ui));
        PageFile::around(options.report.as_deref(), "The registry's caches, turned off or on", ui, run).await
    })
}

fn check_caches(options: &CheckOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    start(options.verbosity, async {
        let file = options.report.as_deref().map(PageFile::begin).transpose()?;
        let found = unless_ended(ui, check::interrupted, check::check(options, ui)).await?;
        if let Some(file) = file {
            file.finish_with_text("What the registry's replicas answer", &found.server, |out| {
                check::write_text(out, &found)
            })?;
        }
        match options.output {
            OutputFormat::Json | OutputFormat::Yaml => write_document(ui, options.output, &found),
            OutputFormat::Text | OutputFormat::Wide | OutputFormat::Name => {
                ui.result(|out| check::write_text(out, &found));
            }
        }
        check::conclusion(options, &found).map_or(Ok(Exit::Done), Err)
    })
}

fn show_cache(options: &StatusOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    start(options.verbosity, async {
        let file = options.report.as_deref().map(PageFile::begin).transpose()?;
        let found = unless_ended(ui, status::interrupted, status::find(options, ui)).await?;
        if let Some(file) = file {
            file.finish_with_text("The registry's caches", &found.server, |out| {
                status::write_text(out, &found)
            })?;
        }
        match options.output {
            OutputFormat::Json | OutputFormat::Yaml => write_document(ui, options.output, &found),
            OutputFormat::Text | OutputFormat::Wide | OutputFormat::Name => {
                ui.result(|out| status::write_text(out, &found));
            }
        }
        Ok(Exit::Done)
    })
}

/// Starts what every run needs, and runs it.
fn start(verbosity: u8, run: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    start_log(verbosity);
    cluster::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::nothing_changed(format!("start the runtime: {error}")))?;
    let exit = runtime.block_on(run);
    // A name look-up that hangs in a worker thread must not keep the process.
    runtime.shutdown_background();
    exit
}

/// The log of the libraries and of ourselves, on stderr: nothing but what went wrong without `-v`.
fn start_log(verbosity: u8) {
    let filter = match verbosity {
        0 => "off",
        1..=3 => "oc_prune_images=info",
        4..=5 => "oc_prune_images=debug",
        // Not the libraries' traces: they show whole requests, credentials included.
        _ => "debug,oc_prune_images=trace",
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // A second start, in a test, changes nothing.
    let _ = log.try_init();
}

fn write_document(ui: &Ui, format: OutputFormat, document: &impl serde::Serialize) {
    ui.result(|out| {
        if format == OutputFormat::Yaml {
            let text = serde_saphyr::to_string(document).map_err(std::io::Error::other)?;
            write!(out, "{text}")
        } else {
            serde_json::to_writer_pretty(&mut *out, document)?;
            writeln!(out)
        }
    });
}
