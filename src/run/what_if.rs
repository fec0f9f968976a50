//! `what-if`: reads once, decides for each combination of values, and shows what each would free.

use std::sync::Arc;

use super::look;
use super::page::{self, PageFile};
use super::signals::{interrupted, unless_ended};
use crate::cli::{Keep, PruneOptions, WhatIfOptions};
use crate::error::{Exit, Failure};
use crate::plan;
use crate::plan::usage::{Level, Shown};
use crate::report::document::View;
use crate::report::html::{self, Found};
use crate::report::usage::{SortBy, Usage};
use crate::schedule::api;
use crate::schedule::operator::{AutomaticPruner, PrunerSettings};
use crate::ui::Ui;

const TITLE: &str = "What other values would free";

/// Shows what each combination of values would free. Nothing is changed.
pub(super) async fn run(options: &WhatIfOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    unless_ended(ui, interrupted, show(options, ui)).await.map(|()| Exit::Done)
}

async fn show(options: &WhatIfOptions, ui: &Arc<Ui>) -> Result<(), Failure> {
    let file = options.report.as_deref().map(PageFile::begin).transpose()?;
    let cluster = look::connect(&options.connection, ui).await?;
    let look = look::read_and_show(&cluster, &options.prune, ui).await?;
    let pruner = api::automatic_pruner(&cluster).await;
    // The most cautious combination sees the most references: what does not parse for any does not for it.
    let (plan, context) = look.decide_and_tell(&cluster, &options.prune, ui)?;
    tokio::task::block_in_place(|| {
        let view = View { inventory: &look.inventory, plan: &plan };
        let what_if = page::what_if(&look, &context, &options.prune, &pruner, options.grid.clone(), view);
        page::write(
            ui,
            options.output,
            &what_if,
            |out| what_if.write_table(out),
            file,
            || {
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
                html::page(TITLE, &Found::new(view, usage, Some(what_if.clone()), &shown), None)
            },
        )
    })
}
