//! `what-if`: reads once, decides for each combination of values, and shows what each would free.

use std::sync::Arc;

use super::look;
use super::page::{self, PageFile};
use super::signals::{first_signal, interrupted, listen_to_signals};
use super::write_document;
use crate::cli::{Keep, LookFormat, OutputFormat, PruneOptions, WhatIfOptions};
use crate::error::{Exit, Failure};
use crate::inventory::automatic_pruner::{self, AutomaticPruner, PrunerSettings};
use crate::plan;
use crate::plan::usage::{Level, Shown};
use crate::report::document::{Context, View};
use crate::report::html::{self, Found};
use crate::report::printable;
use crate::report::usage::{SortBy, Usage};
use crate::ui::Ui;

const TITLE: &str = "What other values would free";

/// Shows what each combination of values would free. Nothing is changed.
pub(super) async fn run(options: &WhatIfOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    let mut stop = listen_to_signals(ui.clone());
    tokio::select! {
        signal = first_signal(&mut stop) => Err(interrupted(signal)),
        shown = show(options, ui) => shown.map(|()| Exit::Done),
    }
}

async fn show(options: &WhatIfOptions, ui: &Arc<Ui>) -> Result<(), Failure> {
    let file = options.report.as_deref().map(PageFile::begin).transpose()?;
    let cluster = look::connect(&options.connection, ui).await?;
    let look = look::read_and_show(&cluster, &options.prune, ui).await?;
    let pruner = automatic_pruner::read(&cluster).await;
    // The most cautious combination sees the most references: what does not parse for any does not for it.
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
        let what_if = page::what_if(&look, &context, &options.prune, &pruner, options.grid.clone(), view);
        match options.output {
            LookFormat::Table => ui.result(|out| what_if.write_table(out)),
            LookFormat::Json => write_document(ui, OutputFormat::Json, &what_if),
            LookFormat::Yaml => write_document(ui, OutputFormat::Yaml, &what_if),
            LookFormat::Html => {}
        }
        if file.is_none() && options.output != LookFormat::Html {
            return Ok(());
        }
        // The page is about the setting that prunes the cluster today, or would without other flags.
        let today = match &pruner {
            AutomaticPruner::Found(settings) => settings.clone(),
            AutomaticPruner::Absent | AutomaticPruner::Unknown(_) => PrunerSettings::default(),
        };
        let PrunerSettings { keep_tag_revisions, keep_younger_than, .. } = today;
        let keep = Keep::Revisions { keep_tag_revisions, keep_younger_than };
        let rules = look::rules(&PruneOptions { keep, ..options.prune.clone() }, look.now);
        let plan = plan::decide(&look.inventory, &rules);
        let view = View { inventory: &look.inventory, plan: &plan };
        let shown = Shown::of(&look.inventory, options.prune.namespace.as_deref());
        let by = (Level::Stream, SortBy::Bytes);
        let usage = Usage::new(view, view.metadata(&context), context.warnings.clone(), by, &shown);
        let page = html::page(TITLE, &Found::new(view, usage, Some(what_if), &shown), None);
        if options.output == LookFormat::Html {
            ui.result(|out| write!(out, "{page}"));
        }
        file.map_or(Ok(()), |file| file.finish(&page))
    })
}
