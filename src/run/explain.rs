//! `explain`: inventory and plan as for a dry run, then why images stay or go.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::look;
use super::page::{self, PageFile};
use super::signals::{interrupted, unless_ended};
use super::write_document;
use crate::cli::{ExplainOptions, OutputFormat, PruneOptions};
use crate::error::{Exit, Failure};
use crate::plan::explain::{find, stuck};
use crate::report::document::View;
use crate::report::explain::{Explanation, NotFoundEntry, Reporter, write_text};
use crate::report::html::{self, Found};
use crate::report::printable;
use crate::text::quoted;
use crate::ui::Ui;

/// Explains what the command line names.
pub(super) async fn run(options: &ExplainOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    let file = options.report.as_deref().map(PageFile::begin).transpose()?;
    let (document, found) = unless_ended(ui, interrupted, explain(options, ui)).await?;
    if let (Some(file), Some(found)) = (file, found) {
        let mut text = Vec::new();
        // Writing to memory cannot fail.
        let _ = write_text(&mut text, &document, &options.program);
        let text = String::from_utf8_lossy(&text);
        file.finish(&html::page_with_text("Why images stay or go", &found, &text))?;
    }
    match options.output {
        OutputFormat::Json | OutputFormat::Yaml => write_document(ui, options.output, &document),
        OutputFormat::Text | OutputFormat::Wide | OutputFormat::Name => {
            ui.result(|out| write_text(out, &document, &options.program));
        }
    }
    not_found(&document, &options.program).map_or(Ok(Exit::Done), Err)
}

async fn explain(options: &ExplainOptions, ui: &Arc<Ui>) -> Result<(Explanation, Option<Found>), Failure> {
    let cluster = look::connect(&options.connection, ui).await?;
    let look = look::read_and_show(&cluster, &options.prune, ui).await?;
    // What a prune would refuse to do without the flag can be explained all the same.
    let ignoring = PruneOptions { ignore_invalid_refs: true, ..options.prune.clone() };
    let (plan, more) = look.decide(&ignoring, ui)?;
    let mut warnings: Vec<String> = look.warnings.iter().cloned().chain(more).collect();
    let invalid = plan.references.invalid().len();
    if invalid > 0 && !options.prune.ignore_invalid_refs {
        warnings.push(format!(
            "{invalid} reference(s) do not parse: a prune stops because of them, unless --ignore-invalid-refs is given"
        ));
    }
    let context = look.context(&cluster, &options.prune, warnings, &mut BTreeSet::new(), ui);
    let found = match &options.report {
        Some(_) => Some(page::found(&cluster, &look, &plan, &context, &ignoring).await),
        None => None,
    };
    tokio::task::block_in_place(|| {
        let namespace = options.prune.namespace.as_deref();
        let targets = options.targets.iter();
        let targets =
            targets.map(|target| (target.clone(), find(&look.inventory, target, namespace))).collect();
        let stuck = if options.stuck { stuck(&look.inventory, &plan.rules) } else { None };
        let reporter = Reporter::new(View { inventory: &look.inventory, plan: &plan }, look.now);
        Ok((reporter.document(&context, targets, stuck.as_ref()), found))
    })
}

/// The targets that were not found, with what could have been meant.
fn not_found(document: &Explanation, program: &str) -> Option<Failure> {
    const SHOWN: usize = 10;
    let first = document.not_found.first()?;
    let line = |entry: &NotFoundEntry| format!("{}: {}", printable(&entry.target), printable(&entry.cause));
    let mut message = format!("explain {}", line(first));
    for entry in &document.not_found[1..] {
        message.push_str("\n  ");
        message.push_str(&line(entry));
    }
    let mut failure = Failure::nothing_changed(message);
    let mut candidates: Vec<&String> = Vec::new();
    for candidate in document.not_found.iter().flat_map(|entry| &entry.candidates) {
        if !candidates.contains(&candidate) {
            candidates.push(candidate);
        }
    }
    for candidate in candidates.iter().take(SHOWN) {
        failure = failure.hint(format!("did you mean: {program} explain {}", quoted(candidate)));
    }
    match candidates.len() {
        0 => failure = failure.hint("see what there is: oc get imagestreamtags --all-namespaces"),
        n if n > SHOWN => failure = failure.hint(format!("and {} more", n - SHOWN)),
        _ => {}
    }
    Some(failure)
}
