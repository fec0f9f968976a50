//! `usage`: reads and decides, and shows where the storage goes.

use std::sync::Arc;

use super::look;
use super::page::PageFile;
use super::signals::{first_signal, interrupted, listen_to_signals};
use super::write_document;
use crate::cli::{LookFormat, OutputFormat, UsageOptions};
use crate::error::{Exit, Failure};
use crate::plan::usage::Shown;
use crate::report::document::{Context, View};
use crate::report::html::{self, Found};
use crate::report::printable;
use crate::report::usage::Usage;
use crate::ui::Ui;

const TITLE: &str = "Where the registry's storage goes";

/// Shows where the storage goes. Nothing is changed.
pub(super) async fn run(options: &UsageOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    let mut stop = listen_to_signals(ui.clone());
    tokio::select! {
        signal = first_signal(&mut stop) => Err(interrupted(signal)),
        shown = show(options, ui) => shown.map(|()| Exit::Done),
    }
}

async fn show(options: &UsageOptions, ui: &Arc<Ui>) -> Result<(), Failure> {
    let file = options.report.as_deref().map(PageFile::begin).transpose()?;
    let cluster = look::connect(&options.connection, ui).await?;
    let mut look = look::read_and_show(&cluster, &options.prune, ui).await?;
    let shown = Shown::of(&look.inventory, options.namespace.as_deref());
    // What is shown does not limit what is decided.
    let selector = look.select_all(&cluster, &options.prune).await?;
    let (plan, more) = look.decide(&options.prune, ui)?;
    let warnings = look.warnings.iter().chain(&more).map(|warning| printable(warning).into_owned()).collect();
    let context = Context {
        server: cluster.server().to_owned(),
        now: look.now,
        ignore_invalid_refs: options.prune.ignore_invalid_refs,
        registry: None,
        warnings,
    };
    for warning in &context.warnings {
        ui.warning(warning);
    }
    tokio::task::block_in_place(|| {
        let view = View { inventory: &look.inventory, plan: &plan };
        let mut metadata = view.metadata(&context);
        metadata.namespace.clone_from(&options.namespace);
        metadata.selector = selector.map(|selector| selector.to_string());
        let warnings = context.warnings.clone();
        let usage = Usage::new(view, metadata, warnings, (options.by, options.sort), &shown);
        if usage.rows.is_empty() && !shown.is_all() {
            ui.warning("there is no such image stream: nothing to show");
        }
        match options.output {
            LookFormat::Table => ui.result(|out| usage.write_table(out)),
            LookFormat::Json => write_document(ui, OutputFormat::Json, &usage),
            LookFormat::Yaml => write_document(ui, OutputFormat::Yaml, &usage),
            LookFormat::Html => {}
        }
        let page = (file.is_some() || options.output == LookFormat::Html)
            .then(|| html::page(TITLE, &Found::new(view, usage, None, &shown), None));
        if options.output == LookFormat::Html {
            ui.result(|out| write!(out, "{}", page.as_deref().unwrap_or_default()));
        }
        file.map_or(Ok(()), |file| file.finish(page.as_deref().unwrap_or_default()))
    })
}
