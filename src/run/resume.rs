//! `resume`: finishes prunes that were cut short, by their journals.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::keeping;
use super::look;
use super::metrics::Tally;
use super::page::{self, PageFile};
use super::prune::{
    Begun, Ends, Job, Planned, Resumed, carry_out, foresee, get_ready, has_token, impersonation,
    report_dry_run, tell_unread, unless_stopped,
};
use super::signals::{listen_to_signals, until};
use crate::cli::Options;
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::journal::{Inherited, Place, Standing, last_write};
use crate::plan::Unfinished;
use crate::report::document::View;
use crate::report::html;
use crate::text::printable;
use crate::ui::{Bar, Ui};

/// Finishes what was cut short, or says what is left of it.
pub(super) async fn run(options: &Options, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    let mut tally = Tally::begin();
    let result = Box::pin(finish_all(options, ui, &mut tally)).await;
    if let Some(path) = &options.metrics_file {
        let exit = result.as_ref().map_or_else(|failure| failure.exit, |exit| *exit);
        tally.write(path, exit, ui);
    }
    result
}

async fn finish_all(options: &Options, ui: &Arc<Ui>, tally: &mut Tally) -> Result<Exit, Failure> {
    let signals = listen_to_signals(ui.clone());
    let stop = until(signals.clone(), options.timeout, ui.clone());
    let find = async {
        let cluster = look::connect(&options.connection, ui).await?;
        let paths = match &options.journal {
            Some(path) => vec![path.clone()],
            None => unfinished(&cluster, ui),
        };
        Ok((cluster, paths))
    };
    let (cluster, paths) = unless_stopped(options, stop.clone(), find).await?;
    if paths.is_empty() {
        ui.message("Nothing to resume: no journal of this cluster has anything left to do");
    }
    let mut file = options.report.as_deref().map(PageFile::begin).transpose()?;
    let mut worst = Exit::Done;
    for (position, path) in paths.iter().enumerate() {
        let begun = Box::pin(begin(options, ui, &cluster, path, tally, &mut file));
        let done = match unless_stopped(options, stop.clone(), begun).await {
            Ok(None) => Ok(Exit::Done),
            Ok(Some(job)) => {
                let ends = Ends { signals: signals.clone(), stop: stop.clone(), file: file.take() };
                Box::pin(carry_out(ui, job, ends, tally)).await
            }
            Err(failure) => Err(failure),
        };
        let is_last = position + 1 == paths.len();
        match done {
            Ok(exit) => worst = worst.max(exit),
            Err(failure) if is_last && worst == Exit::Done => return Err(failure),
            // The others do not depend on it.
            Err(failure) => {
                ui.failure(&failure);
                worst = worst.max(failure.exit);
            }
        }
        if stop.borrow().is_some() {
            break;
        }
    }
    Ok(worst)
}

/// Every journal that is not finished, the oldest first.
fn unfinished(cluster: &Cluster, ui: &Ui) -> Vec<PathBuf> {
    let journals = keeping::place(cluster).as_ref().map(Place::journals).unwrap_or_default();
    let mut paths = Vec::new();
    for found in journals {
        match found.standing {
            Standing::CutShort | Standing::Open(_) | Standing::Early(_) => paths.push(found.path),
            Standing::Running => ui.message(&format!(
                "the prune of {} by {} goes on: it is left alone",
                found.header.started,
                printable(&found.header.user)
            )),
            Standing::Void | Standing::Finished(_) => {}
        }
    }
    paths
}

/// Everything before the first change: what the journal says, what the cluster is now, and what is left by that.
pub(super) async fn begin(
    options: &Options,
    ui: &Arc<Ui>,
    cluster: &Cluster,
    path: &Path,
    tally: &mut Tally,
    file: &mut Option<PageFile>,
) -> Result<Option<Job>, Failure> {
    let shown = printable(&path.to_string_lossy()).into_owned();
    let loaded = keeping::load(path)?;
    let header = &loaded.header;
    if header.cluster != Place::cluster_id(cluster.server(), cluster.ca_pem().as_deref()) {
        return Err(Failure::nothing_changed(format!(
            "go on with the journal {shown}: it is of another cluster, {}",
            printable(&header.server)
        ))
        .hint("choose that cluster: --context=NAME, with the server and the authority that the run was begun with"));
    }
    ui.message(&format!(
        "Journal {shown}: the prune of {} by {}@{}, {} step(s) of which are done",
        header.started,
        printable(&header.user),
        printable(&header.host),
        loaded.steps
    ));
    if !loaded.planned {
        ui.message("Nothing was changed by that run");
        return Ok(None);
    }
    let prune = keeping::prune_options(&header.selection)?;
    let options = &Options { prune, ..options.clone() };
    tally.confirmed = options.confirm;
    if options.confirm {
        has_token(options, cluster).await?;
    }
    let mut look = look::read_and_show(cluster, &options.prune, ui).await?;
    // What was young then is young still.
    look.now = look.now.min(header.selection.now);
    let deciding = Bar::endless(ui, "deciding what is left");
    let (plan, more) = look.decide_left(&loaded, &options.prune, ui)?;
    drop(deciding);
    let of_reading = look.warnings.clone();
    let warnings = impersonation(options, cluster).into_iter().chain(of_reading).chain(more);
    let context = look.context(cluster, &options.prune, warnings, &mut BTreeSet::new(), ui);
    let inherited = Inherited::of(&loaded, &look.inventory, &plan);
    let planned = Planned::new(plan, context);
    let begun = Begun { cluster: cluster.clone(), look, unfinished: Unfinished::default() };
    tally.planned = Some(View { inventory: &begun.look.inventory, plan: &planned.plan }.summary());
    let changes_registry = planned.plan.changes_registry() || !inherited.is_empty();
    if !options.confirm {
        let cache = foresee(options, &begun, changes_registry).await;
        tally.cache_plan(&cache);
        report_dry_run(options, ui, &begun, &planned, cache);
        ui.message(&format!(
            "hint: finish it: {}",
            keeping::resume_command(options, options.journal.as_deref())
        ));
        if let Some(file) = file.take() {
            let Planned { plan, context, .. } = &planned;
            let found = page::found(&begun.cluster, &begun.look, plan, context, &options.prune).await;
            file.finish(&html::page("What is left of a prune", &found, None))?;
        }
        return Ok(None);
    }
    let ready = get_ready(options, ui, &begun, changes_registry).await?;
    tell_unread(ui, &begun.look);
    let last = last_write(path).and_then(|last| Timestamp::try_from(last).ok());
    let resumed =
        Resumed { path: path.to_owned(), loaded, inherited, last: last.unwrap_or_else(Timestamp::now) };
    Ok(Some(Job { options: options.clone(), begun, planned, ready, resumed: Some(resumed) }))
}
