//! `usage`: reads and decides, and shows where the storage goes.

use std::sync::Arc;

use super::look;
use super::page::{self, PageFile};
use super::signals::{interrupted, unless_ended};
use crate::cli::UsageOptions;
use crate::error::{Exit, Failure};
use crate::plan::usage::Shown;
use crate::report::document::View;
use crate::report::html::{self, Found};
use crate::report::usage::Usage;
use crate::ui::Ui;

const TITLE: &str = "Where the registry's storage goes";

/// Shows where the storage goes. Nothing is changed.
pub(super) async fn run(options: &UsageOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    unless_ended(ui, interrupted, show(options, ui)).await.map(|()| Exit::Done)
}

async fn show(options: &UsageOptions, ui: &Arc<Ui>) -> Result<(), Failure> {
    let file = options.report.as_deref().map(PageFile::begin).transpose()?;
    let cluster = look::connect(&options.connection, ui).await?;
    let mut look = look::read_and_show(&cluster, &options.prune, ui).await?;
    let shown = Shown::of(&look.inventory, options.namespace.as_deref());
    // What is shown does not limit what is decided.
    let selector = look.select_all(&cluster, &options.prune).await?;
    let (plan, context) = look.decide_and_tell(&cluster, &options.prune, ui)?;
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
        page::write(
            ui,
            options.output,
            &usage,
            |out| usage.write_table(out),
            file,
            || html::page(TITLE, &Found::new(view, usage.clone(), None, &shown), None),
        )
    })
}
