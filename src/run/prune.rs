//! The prune itself: inventory, plan, then a dry run's report, or the execution and its report.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::kept::KeptResult;
use super::look::{self, Look};
use super::signals::{first_signal, interrupted, listen_to_signals};
use super::write_document;
use crate::cache::redis::Whereabouts;
use crate::cache::{self, CacheEvent, CacheOutcome, CachePlan, CacheStep, ReplicaStep};
use crate::cli::{self, Options, OutputFormat};
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::execute::{self, BrokenImage, Event, FailedObject, Meanwhile, Outcome, Signal, Tools};
use crate::plan::Plan;
use crate::registry::{self, Registry, Settings};
use crate::report::document::{Context, PrunePlan, PruneResult, View};
use crate::report::{self, printable, text};
use crate::text::quoted;
use crate::ui::Ui;

/// Plans a prune, and carries it out if `--confirm` says so.
pub(super) async fn run(options: &Options, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    let mut stop = listen_to_signals(ui.clone());
    // Until something is changed there is nothing to finish: a signal ends the run at once.
    let (planned, ready) = tokio::select! {
        signal = first_signal(&mut stop) => return Err(interrupted(signal)),
        begun = begin(options, ui) => begun?,
    };
    match ready {
        Some(ready) => Ok(Box::pin(prune(options, ui, planned, ready, stop)).await),
        None => Ok(Exit::Done),
    }
}

/// Everything before the first change: reads, decides, and gets ready for what is to be carried out, if anything is.
async fn begin(options: &Options, ui: &Arc<Ui>) -> Result<(Planned, Option<Ready>), Failure> {
    let cluster = look::connect(&options.connection, ui).await?;
    if options.confirm {
        has_token(options, &cluster).await?;
    }
    let look = look::read(&cluster, &options.prune, &look::log_reading).await?;
    let planned = decide(options, ui, cluster, look)?;
    if !options.confirm {
        let cache = foresee(options, &planned).await;
        report_dry_run(options, ui, &planned, cache);
        return Ok((planned, None));
    }
    let ready = get_ready(options, ui, &planned).await?;
    Ok((planned, Some(ready)))
}

/// What is to be done, and what it was decided from.
struct Planned {
    cluster: Cluster,
    look: Look,
    plan: Plan,
    context: Context,
}

/// Whoever deletes in the registry has to log in to it.
async fn has_token(options: &Options, cluster: &Cluster) -> Result<(), Failure> {
    if options.prune.prune_registry && cluster.bearer_token().await?.is_none() {
        return Err(registry::no_token());
    }
    Ok(())
}

/// Decides by these flags, and says what the administrator should know.
fn decide(options: &Options, ui: &Ui, cluster: Cluster, look: Look) -> Result<Planned, Failure> {
    let mut warnings = Vec::new();
    if options.confirm
        && options.prune.prune_registry
        && let Some(user) = cluster.impersonated_user()
    {
        warnings
            .push(format!("--as={user} reaches only the API server: the registry sees the token's own user"));
    }
    warnings.extend(look.warnings.iter().cloned());
    let (plan, more) = look.decide(&options.prune, ui)?;
    warnings.extend(more);
    for warning in &mut warnings {
        *warning = printable(warning).into_owned();
    }
    for warning in &warnings {
        ui.warning(warning);
    }
    let context = Context {
        server: cluster.server().to_owned(),
        now: look.now,
        ignore_invalid_refs: options.prune.ignore_invalid_refs,
        registry: None,
        warnings,
    };
    Ok(Planned { cluster, look, plan, context })
}

/// What a plan is carried out with.
struct Ready {
    /// Absent with `--prune-registry=false`, and where there is nothing to be deleted from one.
    registry: Option<Registry>,
    /// Absent where nothing is deleted from a registry.
    caches: Option<CacheStep>,
}

/// Connects to the registry and prepares the cache step. Nothing is changed yet.
async fn get_ready(options: &Options, ui: &Arc<Ui>, planned: &Planned) -> Result<Ready, Failure> {
    let Planned { cluster, look, plan, context: _ } = planned;
    if !options.prune.prune_registry {
        return Ok(Ready { registry: None, caches: None });
    }
    let Look { repositories, managed_hosts, .. } = look;
    let managed =
        managed_hosts.iter().flat_map(|(host, count)| std::iter::repeat_n(format!("{host}/"), *count));
    let address = registry::choose(options.registry.url.as_ref(), repositories.clone(), managed);
    let registry = match address {
        // Without a registry there is nothing to be deleted from one.
        Err(_) if repositories.is_empty() && !changes_registry(plan) => None,
        address => Some(connect_registry(options, cluster, address?, ui).await?),
    };
    let caches = match &registry {
        Some(registry) if changes_registry(plan) => {
            Some(CacheStep::prepare(cluster, registry, &options.cache, &cache_events(ui)).await?)
        }
        _ => None,
    };
    Ok(Ready { registry, caches })
}

fn changes_registry(plan: &Plan) -> bool {
    plan.streams.iter().any(|stream| !stream.layer_links.is_empty() || !stream.manifest_links.is_empty())
        || plan.images.iter().any(|image| !image.blobs.is_empty())
}

async fn connect_registry(
    options: &Options,
    cluster: &Cluster,
    address: registry::Address,
    ui: &Arc<Ui>,
) -> Result<Registry, Failure> {
    let settings = Settings::of(&options.registry, cluster, address, ui.warnings());
    let registry = registry::reach(cluster, &options.cache.place, settings).await?;
    ui.message(&format!("Registry: {}, reached {}", registry.url(), registry.way()));
    Ok(registry)
}

/// What a confirmed run would do about the registry's caches.
async fn foresee(options: &Options, planned: &Planned) -> CachePlan {
    if options.prune.prune_registry && changes_registry(&planned.plan) {
        cache::foreseen_plan(&planned.cluster, &options.cache).await
    } else {
        CachePlan::unneeded(NOTHING_DELETED)
    }
}

fn report_dry_run(options: &Options, ui: &Ui, planned: &Planned, cache: CachePlan) {
    let Planned { look, plan, context, .. } = planned;
    let view = View { inventory: &look.inventory, plan };
    ui.message("Dry run enabled - no modifications will be made. Add --confirm to remove images");
    api_only_notice(options, ui);
    ui.message(&report::cache::plan_line(&cache));
    match options.output {
        OutputFormat::Text | OutputFormat::Wide => {
            ui.result(|out| text::dry_run(out, view, options.show_kept));
        }
        OutputFormat::Name => ui.result(|out| text::names(out, view)),
        format @ (OutputFormat::Json | OutputFormat::Yaml) => {
            write_document(ui, format, &PrunePlan::new(view.body(context), cache));
        }
    }
}

fn api_only_notice(options: &Options, ui: &Ui) {
    if !options.prune.prune_registry {
        let notice =
            "Only API objects will be removed.  No modifications to the image registry will be made.";
        match options.output {
            OutputFormat::Text | OutputFormat::Wide => ui.result(|out| writeln!(out, "{notice}")),
            _ => ui.message(notice),
        }
    }
}

/// Carries the plan out and reports.
async fn prune(
    options: &Options,
    ui: &Arc<Ui>,
    planned: Planned,
    ready: Ready,
    stop: watch::Receiver<Option<Signal>>,
) -> Exit {
    let Planned { cluster, look: Look { inventory, .. }, plan, context } = planned;
    let Ready { registry, caches } = ready;
    let context = Context { registry: registry.as_ref().map(Registry::access), ..context };
    api_only_notice(options, ui);
    let lines = matches!(options.output, OutputFormat::Text | OutputFormat::Wide);
    if lines {
        let view = View { inventory: &inventory, plan: &plan };
        ui.result(|out| text::plan(out, view, options.show_kept));
    }
    // Changes are told by many workers at once; a line must not be torn.
    let one_at_a_time = Mutex::new(());
    let tell = |event: Event<'_>| {
        let _line = one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Changed(change) if lines => {
                ui.result(|out| writeln!(out, "{}", text::change_line(change)));
            }
            Event::Changed(_) => {}
            Event::Failed(failed) => ui.message(&text::failed_line(failed)),
            Event::Spared(spared) => tracing::info!("{} stays: {}", spared.object, spared.reason),
        }
    };
    let events = cache_events(ui);
    let cache_plan = caches.as_ref().map_or_else(|| CachePlan::unneeded(NOTHING_DELETED), CacheStep::plan);
    if let Some(caches) = &caches {
        ui.message(&report::cache::plan_line(&cache_plan));
        if let Err(failure) = caches.before(&cluster, &options.connection, &options.program, &events).await {
            report_end(options, ui, &Outcome::default());
            ui.failure(&failure);
            return failure.exit;
        }
    }
    let scope = look::scope(&options.prune);
    let tools = Tools {
        cluster: &cluster,
        scope: &scope,
        registry: registry.as_ref(),
        caches: caches.as_ref(),
        workers: options.num_workers.get(),
        stop: stop.clone(),
        tell: &tell,
    };
    let document = matches!(options.output, OutputFormat::Json | OutputFormat::Yaml)
        .then(|| View { inventory: &inventory, plan: &plan }.body(&context));
    let mut executed = execute::execute(tools, &plan, inventory).await;
    let mut cache = CacheOutcome::from_plan(cache_plan);
    match (caches, &registry) {
        (Some(caches), Some(registry)) => {
            let kept = KeptResult::write(&context.server, &executed.outcome);
            let repeat = repeat_flush(options, kept.as_ref());
            ui.before_abort(Some(format!(
                "the registry's caches may still name what was deleted\nhint: finish it: {repeat}"
            )));
            let mut meanwhile = executed.meanwhile(&cluster).await.unwrap_or_else(|failure| {
                ui.warning(&format!(
                    "images that were pushed meanwhile could not be looked at: {}",
                    failure.message
                ));
                Meanwhile::default()
            });
            cache = caches.finish(&cluster, &meanwhile, &events, stop.clone()).await;
            // Pushes go on, and one that was under way may have left something in a cache after it was looked at.
            for _ in 0..LOOKS {
                let Ok(later) = executed.meanwhile(&cluster).await else { break };
                let is_new = later != meanwhile;
                meanwhile = later;
                if !is_new || !caches.evicts() {
                    break;
                }
                cache = caches.finish(&cluster, &meanwhile, &events, stop.clone()).await;
            }
            executed.outcome.broken = execute::broken_images(registry, &meanwhile).await;
            ui.before_abort(None);
            let is_left = cache.needed && cache.plan.replicas == ReplicaStep::Leave;
            if cache.may_lie() || is_left {
                cache.repeat = Some(repeat);
            } else if let Some(kept) = kept {
                kept.remove();
            }
        }
        _ => cache.nothing_deleted(),
    }
    let outcome = executed.outcome;
    let exit = exit_of(&outcome, &cache);
    report_outcome(options, ui, &outcome, &cache);
    if let Some(body) = document {
        write_document(ui, options.output, &PruneResult::new(body, outcome, cache));
    }
    exit
}

/// How often the caches are looked at again because of what was pushed since.
const LOOKS: usize = 3;

const NOTHING_DELETED: &str = "nothing is deleted from the registry";

/// The command that finishes the cache step, without a password.
fn repeat_flush(options: &Options, kept: Option<&KeptResult>) -> String {
    let cli::Options { program, cache, connection, registry, .. } = options;
    let mut line = format!("{program} cache flush{}", cache.redis.flags);
    if matches!(cache.redis.whereabouts, Whereabouts::At(_)) {
        line.push_str(" --replicas");
    }
    let file = match (kept, options.output) {
        (Some(KeptResult(path)), _) => quoted(&path.to_string_lossy()),
        (None, OutputFormat::Json | OutputFormat::Yaml) => "<the output of this run>".to_owned(),
        (None, _) => "<the output of a prune with -o json>".to_owned(),
    };
    // Writing to a `String` cannot fail.
    let _ = write!(line, " --from={file}");
    line + &cache.place.flags() + &registry.flags() + &connection.flags()
}

/// What the cache step tells goes to stderr.
fn cache_events(ui: &Arc<Ui>) -> cache::Tell {
    let ui = ui.clone();
    Arc::new(move |event| match event {
        CacheEvent::Progress(text) => ui.message(&format!("Cache step: {}", printable(&text))),
        CacheEvent::Warning(text) => ui.warning(&printable(&text)),
    })
}

fn exit_of(outcome: &Outcome, cache: &CacheOutcome) -> Exit {
    match outcome.interrupted {
        Some("SIGTERM") => Exit::Terminated,
        Some(_) => Exit::Interrupted,
        None if cache.may_lie() => Exit::CacheMayLie,
        None if outcome.failures.is_empty() && outcome.broken.is_empty() => Exit::Done,
        None => Exit::Failures,
    }
}

/// The end of stdout, but for a document.
fn report_end(options: &Options, ui: &Ui, outcome: &Outcome) {
    match options.output {
        OutputFormat::Text | OutputFormat::Wide => ui.result(|out| text::end(out, &outcome.deleted, false)),
        OutputFormat::Name => ui.result(|out| text::changed_names(out, outcome)),
        OutputFormat::Json | OutputFormat::Yaml => {}
    }
}

fn report_outcome(options: &Options, ui: &Ui, outcome: &Outcome, cache: &CacheOutcome) {
    report_end(options, ui, outcome);
    report_cache(options, ui, cache);
    if !outcome.broken.is_empty() {
        ui.failure(&broken(&outcome.broken));
    }
    if !outcome.spared.is_empty() {
        ui.message(&text::spared(&outcome.spared));
    }
    if !outcome.failures.is_empty() {
        ui.failure(&failures(&outcome.failures));
    }
    if let Some(signal) = outcome.interrupted {
        ui.failure(
            &Failure::nothing_changed(format!(
                "the run was ended early by {signal}: what was begun is finished, the rest is as it was"
            ))
            .hint("run the same command again to prune the rest"),
        );
    }
}

fn report_cache(options: &Options, ui: &Ui, cache: &CacheOutcome) {
    let place = &options.cache.place;
    let restart = format!("oc rollout restart deployment/{} -n {}", place.deployment, place.namespace);
    let repeat = cache.repeat.clone().unwrap_or_else(|| repeat_flush(options, None));
    let report = report::cache::report(cache, &repeat, &restart);
    for line in &report.lines {
        ui.message(line);
    }
    for warning in &report.warnings {
        ui.warning(warning);
    }
    for hint in &report.hints {
        ui.message(&format!("hint: {hint}"));
    }
    if let Some(failure) = &report.failure {
        ui.failure(failure);
    }
}

/// Images that were pushed meanwhile and lack a blob.
fn broken(images: &[BrokenImage]) -> Failure {
    let mut message =
        format!("prune: {} image(s) were pushed while a blob of theirs was deleted", images.len());
    for BrokenImage { repository, tag, image, missing, certain } in images {
        let verb = if *certain { "lacks" } else { "may lack" };
        let place = format!("{repository}:{tag} ({image})");
        let _ = write!(message, "\n  {} {verb} {}", printable(&place), printable(&missing.join(", ")));
    }
    Failure { exit: Exit::Failures, message, hints: Vec::new() }
        .hint("push these images again, or build them again: their layers are uploaded anew then")
}

/// All failures, those of the same kind and cause together.
fn failures(failures: &[FailedObject]) -> Failure {
    let mut message = format!("prune: {} object(s) could not be pruned", failures.len());
    let mut group = None;
    let mut hints = vec!["run the same command again: what is left is tried again".to_owned()];
    if failures.iter().any(|failure| failure.failed.ends_with("link")) {
        hints[0] = "run the same command again: what is left is tried again, but for the links, which the API no longer knows of".into();
        hints.insert(0, "links are removed by the registry's hard prune: oc -n openshift-image-registry exec deployment/image-registry -- /usr/bin/dockerregistry -prune=check".into());
    }
    for FailedObject { failed, cause, object, hints: more } in failures {
        if group != Some((*failed, cause)) {
            group = Some((*failed, cause));
            let _ = write!(message, "\n  {failed}: {}", printable(cause));
        }
        let _ = write!(message, "\n    {}", printable(object));
        for hint in more {
            if !hints.contains(hint) {
                hints.insert(hints.len() - 1, hint.clone());
            }
        }
    }
    Failure { exit: Exit::Failures, message, hints }
}
