//! `cronjob` and `job`: the objects of a prune that the cluster runs, printed, compared with what is there, or applied.

use std::sync::Arc;

use jiff::Timestamp;

use super::look;
use super::signals::unless_ended;
use crate::cache::detect::{self, Discovery};
use crate::cluster::{ApiError, Cluster};
use crate::error::{Exit, Failure};
use crate::execute::Signal;
use crate::schedule::operator::{SUSPEND, Settings};
use crate::schedule::{
    Apply, Document, Found, ScheduleOptions, api, difference, documents, list, path, title, yaml,
};
use crate::text::printable;
use crate::ui::Ui;

/// Does what was asked for.
pub(super) async fn run(options: &ScheduleOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    // What was applied stays: every object can be applied again.
    let ended = |signal: Signal| Failure {
        exit: signal.exit(),
        message: format!("ended by {}", signal.name()),
        hints: Vec::new(),
    };
    unless_ended(ui, ended, make(options, ui)).await
}

async fn make(options: &ScheduleOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    let now = Timestamp::now().to_zoned(options.zone());
    if options.apply.is_none() && !options.from_imagepruner {
        let job = options.job(&Found::default(), &now)?;
        return Ok(print(options, &documents(&job, &now), ui));
    }
    let cluster = look::connect(&options.connection, ui).await?;
    let settings = if options.from_imagepruner { Some(settings(&cluster).await?) } else { None };
    let registry = match options.prune.step {
        Some(_) => Some(detect::discover(&cluster, &options.prune.place).await),
        None => None,
    };
    for warning in api::second_pruner(&cluster).await {
        ui.warning(&printable(&warning));
    }
    for warning in registry.iter().filter_map(unreadable) {
        ui.warning(&printable(&warning));
    }
    let found = Found { settings: settings.as_ref(), registry: registry.as_ref() };
    let documents = documents(&options.job(&found, &now)?, &now);
    match options.apply {
        None => Ok(print(options, &documents, ui)),
        Some(apply) => carry_out(options, &cluster, &documents, apply, ui).await,
    }
}

/// What could not be seen of the registry's configuration, and so may need a right that the job does not get.
fn unreadable(found: &Discovery) -> Option<String> {
    let why = found.redis_unknowns();
    let hidden = found.caches().is_none() && !found.is_absent();
    (hidden && !why.is_empty()).then(|| {
        format!(
            "the registry's configuration cannot be read from here ({}): the job may need --registry-secret=NAME or --registry-configmap=NAME",
            why.join("; ")
        )
    })
}

async fn settings(cluster: &Cluster) -> Result<Settings, Failure> {
    match api::settings(cluster).await {
        Ok(Some(settings)) => Ok(settings),
        Ok(None) => Err(Failure::nothing_changed(
            "take the settings of the cluster's own pruner: it has no imagepruners.imageregistry.operator.openshift.io/cluster",
        )
        .hint("give them as flags instead of --from-imagepruner: --schedule='0 1 * * *' --keep-tag-revisions=3")),
        Err(error) => {
            let failure = cluster.failure(&error, "take the settings of the cluster's own pruner");
            Err(match error {
                ApiError::Forbidden { .. } => failure.hint(
                    "an administrator may read them, or give them as flags instead of --from-imagepruner",
                ),
                _ => failure,
            })
        }
    }
}

fn print(options: &ScheduleOptions, documents: &[Document], ui: &Ui) -> Exit {
    if options.json {
        ui.result(|out| {
            serde_json::to_writer_pretty(&mut *out, &list(documents))?;
            writeln!(out)
        });
        return Exit::Done;
    }
    let head = [
        format!("Made by: {}", printable(&options.words)),
        "Apply it: oc apply -f -".to_owned(),
        format!("Suspend the cluster's own pruner, which clears no cache: {SUSPEND}"),
    ];
    let text = yaml(&head, documents);
    ui.result(|out| write!(out, "{}", text.map_err(std::io::Error::other)?));
    Exit::Done
}

/// Shows what applying would change, for all objects before the first is applied.
async fn carry_out(
    options: &ScheduleOptions,
    cluster: &Cluster,
    documents: &[Document],
    apply: Apply,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let mut changed = Vec::new();
    for Document { object, .. } in documents {
        let (title, path) = (title(object), path(object));
        let live = api::live(cluster, &path)
            .await
            .map_err(|error| cluster.failure(&error, &format!("look at {title}")))?;
        let would_be = api::apply(cluster, &path, object, apply.force, true)
            .await
            .map_err(|error| refused(options, cluster, &error, &title))?;
        if let Some(difference) = difference(&title, live.as_ref(), &would_be) {
            changed.push(title);
            ui.result(|out| difference.lines().try_for_each(|line| writeln!(out, "{}", printable(line))));
        }
    }
    if !apply.confirm {
        ui.message(&match changed.len() {
            0 => "Nothing would change.".to_owned(),
            count => format!("{count} object(s) would change - nothing was. Add --confirm to apply them"),
        });
        return Ok(Exit::Done);
    }
    for (number, Document { object, .. }) in documents.iter().enumerate() {
        let title = title(object);
        api::apply(cluster, &path(object), object, apply.force, false).await.map_err(|error| {
            let failure = refused(options, cluster, &error, &title);
            match number {
                0 => failure,
                _ => failure
                    .hint(format!("{number} object(s) before it were applied: run the same command again")),
            }
        })?;
        let done = if changed.contains(&title) { "applied" } else { "unchanged" };
        ui.result(|out| writeln!(out, "{title} {done}"));
    }
    Ok(Exit::Done)
}

/// Why an object cannot be applied.
fn refused(options: &ScheduleOptions, cluster: &Cluster, error: &ApiError, title: &str) -> Failure {
    let failure = cluster.failure(error, &format!("apply {title}"));
    match error {
        ApiError::Conflict { .. } => failure.hint(format!(
            "take these fields over from whoever set them: {} --apply --confirm --force-conflicts",
            printable(&options.words)
        )),
        ApiError::Forbidden { message } if message.contains("attempting to grant RBAC permissions") => {
            failure.hint("only who has a right may give it: apply it as a cluster administrator")
        }
        _ => failure,
    }
}
