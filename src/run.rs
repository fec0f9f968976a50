//! One run from flags to exit code: inventory, plan, then a dry run's report, or the execution and its report.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::cache::commands::check::{self, CheckOptions};
use crate::cache::commands::flush::{self, FlushOptions};
use crate::cache::commands::status::{self, StatusOptions};
use crate::cache::commands::switch::{self, SwitchOptions};
use crate::cache::redis::Whereabouts;
use crate::cache::{self, CacheEvent, CacheOutcome, CachePlan, CacheStep, ReplicaStep};
use crate::cli::{self, Invocation, Options, OutputFormat};
use crate::cluster::{self, ApiError, ApiRequest, Cluster, Environment};
use crate::error::{Exit, Failure};
use crate::execute::{self, BrokenImage, Event, FailedObject, Meanwhile, Outcome, Signal, Tools};
use crate::inventory::{self, Read, Scope};
use crate::model::{Inventory, Target};
use crate::plan::{self, Plan, Rules, Stage2, StreamVerdict};
use crate::registry::{self, Registry, Settings};
use crate::report::document::{Context, PrunePlan, PruneResult, View};
use crate::report::{self, printable, text};
use crate::text::quoted;
use crate::ui::Ui;

/// How far the local clock and the server's may be apart without a warning, in seconds.
const SKEW: i64 = 10;

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
        Invocation::CacheCheck(options) => return check_caches(&options, ui),
        Invocation::CacheFlush(options) => return flush_cache(&options, ui),
        Invocation::CacheSwitch(options) => return switch_caches(&options, ui),
        Invocation::CacheStatus(options) => return show_cache(&options, ui),
        Invocation::Prune(options) => options,
    };
    start(options.verbosity, async {
        let mut stop = listen_to_signals(ui.clone());
        // Until something is changed there is nothing to finish: a signal ends the run at once.
        let prepared = tokio::select! {
            signal = first_signal(&mut stop) => return Err(interrupted(signal)),
            prepared = prepare(&options, ui) => prepared?,
        };
        if options.confirm {
            Ok(prune(&options, ui, prepared, stop).await)
        } else {
            let cache = tokio::select! {
                signal = first_signal(&mut stop) => return Err(interrupted(signal)),
                cache = foresee(&options, &prepared) => cache,
            };
            report_dry_run(&options, ui, &prepared, cache);
            Ok(Exit::Done)
        }
    })
}

fn flush_cache(options: &FlushOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    start(options.verbosity, async {
        let mut stop = listen_to_signals(ui.clone());
        // An eviction may be done twice: it is ended wherever it is, and the next run does the rest.
        tokio::select! {
            signal = first_signal(&mut stop) => Err(flush::interrupted(options, signal)),
            flushed = flush::flush(options, ui) => flushed,
        }
    })
}

fn switch_caches(options: &SwitchOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    start(options.verbosity, async {
        let mut stop = listen_to_signals(ui.clone());
        // The old values are kept before anything is changed: it is ended wherever it is, and the next run goes on.
        tokio::select! {
            signal = first_signal(&mut stop) => Err(switch::interrupted(options, signal)),
            switched = switch::switch(options, ui) => switched,
        }
    })
}

fn check_caches(options: &CheckOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    start(options.verbosity, async {
        let mut stop = listen_to_signals(ui.clone());
        let found = tokio::select! {
            signal = first_signal(&mut stop) => return Err(check::interrupted(signal)),
            found = check::check(options, ui) => found?,
        };
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
        let mut stop = listen_to_signals(ui.clone());
        tokio::select! {
            signal = first_signal(&mut stop) => Err(status::interrupted(signal)),
            found = status::find(options, ui) => {
                let found = found?;
                match options.output {
                    OutputFormat::Json | OutputFormat::Yaml => write_document(ui, options.output, &found),
                    OutputFormat::Text | OutputFormat::Wide | OutputFormat::Name => {
                        ui.result(|out| status::write_text(out, &found));
                    }
                }
                Ok(Exit::Done)
            }
        }
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

/// What a run has before it changes anything.
struct Prepared {
    cluster: Cluster,
    /// Absent in a dry run and with `--prune-registry=false`.
    registry: Option<Registry>,
    inventory: Inventory,
    plan: Plan,
    /// Absent where nothing is deleted from a registry.
    caches: Option<CacheStep>,
    context: Context,
}

async fn prepare(options: &Options, ui: &Arc<Ui>) -> Result<Prepared, Failure> {
    let server_warnings = {
        let ui = ui.clone();
        Arc::new(move |warning: &str| ui.message(&format!("Warning: {warning}")))
    };
    let cluster = Cluster::connect(&options.connection, &Environment::of_process()).await?;
    let cluster = cluster.on_warning(server_warnings);
    let needs_registry = options.confirm && options.prune.prune_registry;
    if needs_registry && cluster.bearer_token().await?.is_none() {
        return Err(registry::no_token());
    }
    let mut warnings = Vec::new();
    if needs_registry && let Some(user) = cluster.impersonated_user() {
        warnings
            .push(format!("--as={user} reaches only the API server: the registry sees the token's own user"));
    }
    let now = now(&cluster, &mut warnings).await?;
    let rules = rules(&options.prune, now);
    let read = inventory::read(&cluster, &scope(&options.prune), &log_reading).await?;
    let Read { mut inventory, repositories, managed_hosts, undecodable, warnings: more } = read;
    warnings.extend(more);
    refuse_undecodable(&undecodable)?;
    let missing = plan::missing_images(&inventory, &rules, &inventory.streams);
    inventory::add_appeared(&cluster, &mut inventory, &missing).await?;
    let plan = tokio::task::block_in_place(|| plan::decide(&inventory, &rules));
    refuse_invalid(&inventory, &plan, options, ui)?;
    plan_warnings(&inventory, &plan, &mut warnings);
    for warning in &warnings {
        ui.warning(warning);
    }
    let registry = if needs_registry {
        let managed =
            managed_hosts.iter().flat_map(|(host, count)| std::iter::repeat_n(format!("{host}/"), *count));
        let repositories_are_unknown = repositories.is_empty();
        let address = registry::choose(options.registry.url.as_ref(), repositories, managed);
        match address {
            // Without a registry there is nothing to be deleted from one.
            Err(_) if repositories_are_unknown && !changes_registry(&plan) => None,
            address => Some(connect_registry(options, &cluster, address?, ui).await?),
        }
    } else {
        None
    };
    let caches = match &registry {
        Some(registry) if changes_registry(&plan) => {
            Some(CacheStep::prepare(&cluster, registry, &options.cache, &cache_events(ui)).await?)
        }
        _ => None,
    };
    let context = Context {
        server: cluster.server().to_owned(),
        now,
        ignore_invalid_refs: options.prune.ignore_invalid_refs,
        warnings,
    };
    Ok(Prepared { cluster, registry, inventory, plan, caches, context })
}

/// The earlier of the local clock and the server's: what is young for either stays.
async fn now(cluster: &Cluster, warnings: &mut Vec<String>) -> Result<Timestamp, Failure> {
    let local = Timestamp::now();
    let answer = match cluster.request(ApiRequest::get("/version")).await {
        Ok(answer) => answer,
        Err(ApiError::Forbidden { .. } | ApiError::NotFound { .. }) => return Ok(local),
        Err(error) => return Err(cluster.failure(&error, "reach the API server")),
    };
    let date = answer.headers.get(http::header::DATE).and_then(|date| date.to_str().ok());
    let Some(server) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) else { return Ok(local) };
    let server = server.timestamp();
    let ahead = local.as_second() - server.as_second();
    if ahead.abs() > SKEW {
        let (which, seconds) = if ahead > 0 { ("ahead of", ahead) } else { ("behind", -ahead) };
        warnings.push(format!(
            "the local clock is {seconds} seconds {which} the API server's: ages are counted from the earlier of the two"
        ));
    }
    Ok(local.min(server))
}

fn scope(options: &cli::PruneOptions) -> Scope {
    Scope { namespace: options.namespace.clone(), referrers_from: options.referrers_from.clone() }
}

fn rules(options: &cli::PruneOptions, now: Timestamp) -> Rules {
    let cli::PruneOptions { all, keep, ignore_invalid_refs: _, namespace, prune_registry, referrers_from: _ } =
        options;
    let keep = match keep {
        cli::Keep::Revisions { keep_tag_revisions, keep_younger_than } => plan::Keep::Recent {
            tag_revisions: *keep_tag_revisions,
            cutoff: now.as_nanosecond() - keep_younger_than.as_nanos(),
        },
        cli::Keep::OverSizeLimit => plan::Keep::WithinSizeLimit,
    };
    Rules { keep, all: *all, namespace: namespace.clone(), prune_registry: *prune_registry }
}

fn log_reading(event: inventory::Event) {
    match event {
        inventory::Event::Progress(resource, count) => tracing::info!("{count} {resource} read"),
        inventory::Event::Restarted(resource) => tracing::info!("the list of {resource} starts again"),
        inventory::Event::Skipped(resource, why) => tracing::info!("{resource} are not read: {why}"),
    }
}

fn refuse_undecodable(undecodable: &[(String, String)]) -> Result<(), Failure> {
    const SHOWN: usize = 20;
    let Some((name, error)) = undecodable.first() else { return Ok(()) };
    let mut message = format!(
        "read image metadata - no changes made: failed to read image metadata for {}: {error}",
        printable(name)
    );
    for (name, error) in undecodable.iter().skip(1).take(SHOWN - 1) {
        let _ = write!(message, "\n  failed to read image metadata for {}: {error}", printable(name));
    }
    if undecodable.len() > SHOWN {
        let _ = write!(message, "\n  and {} more", undecodable.len() - SHOWN);
    }
    Err(Failure::nothing_changed(message).hint(format!(
        "nobody knows which config such an image needs; look at it: oc get image {} -o yaml",
        printable(name)
    )))
}

/// References that do not parse stop the run, in the reference's words; with `--ignore-invalid-refs` each is named.
fn refuse_invalid(inventory: &Inventory, plan: &Plan, options: &Options, ui: &Ui) -> Result<(), Failure> {
    let invalid = plan.references.invalid();
    if invalid.is_empty() {
        return Ok(());
    }
    let lines =
        invalid.iter().map(|invalid| (*invalid, printable(&invalid.describe(inventory)).into_owned()));
    if options.prune.ignore_invalid_refs {
        for (invalid, line) in lines {
            let readable = matches!(
                &invalid.place().mention(inventory).target,
                Target::Invalid { readable: Some(_), .. }
            );
            let effect = if readable {
                "it protects what it names without the white space"
            } else {
                "it protects nothing"
            };
            ui.warning(&format!("{line} - ignored: {effect}"));
        }
        return Ok(());
    }
    let mut message =
        "Failed to build graph!\n\nThe following objects have invalid references:\n\n".to_owned();
    for (_, line) in lines {
        let _ = writeln!(message, "  {line}");
    }
    message.push_str("\nEither fix the references or delete the objects to make the pruner proceed.");
    ui.message(&message);
    Err(Failure::nothing_changed("failed to build graph - no changes made")
        .hint("prune without what these references protect: --ignore-invalid-refs"))
}

fn plan_warnings(inventory: &Inventory, plan: &Plan, warnings: &mut Vec<String>) {
    if let Some(namespace) = &plan.rules.namespace
        && inventory.streams.is_empty()
    {
        warnings.push(format!("there is no image stream in namespace {namespace}: nothing to prune"));
    }
    for place in plan.references.unknown_kinds() {
        let referrer = place.referrer(inventory);
        if let Target::UnknownKind(kind) = &place.mention(inventory).target {
            warnings.push(format!(
                "{}/{} namespace={}: the build's source is of kind {:?}, which refers to no image stream: ignored",
                referrer.kind.word(),
                referrer.name,
                referrer.namespace,
                kind
            ));
        }
    }
    for (stream, decision) in inventory.streams.iter().zip(&plan.streams) {
        if let StreamVerdict::MetadataAbsent(image) = decision.verdict {
            let image = inventory.names.text(inventory.images.all()[image].name);
            warnings.push(format!(
                "image stream {} stays as it is: its image {image} has no metadata",
                stream.repository()
            ));
        }
    }
    if let Stage2::SkippedForMetadata(image) = plan.stage2 {
        let image = inventory.names.text(inventory.images.all()[image].name);
        warnings.push(format!(
            "no image is deleted: image {image} has no metadata, and nobody knows which config it needs"
        ));
    }
    for warning in warnings {
        if let std::borrow::Cow::Owned(harmless) = printable(warning) {
            *warning = harmless;
        }
    }
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
    let announce = {
        let ui = ui.clone();
        Arc::new(move |warning: &str| ui.warning(warning))
    };
    let settings = Settings {
        force_insecure: options.registry.force_insecure,
        ca_pem: options.registry.ca.as_ref().map(|ca| ca.pem.clone()),
        kubeconfig_ca: cluster.ca_pem(),
        kubeconfig_insecure: cluster.allows_insecure(),
        in_cluster: cluster.is_in_cluster(),
        ..Settings::new(address, announce)
    };
    registry::connect(settings, cluster.token_source()).await
}

/// What a confirmed run would do about the registry's caches.
async fn foresee(options: &Options, prepared: &Prepared) -> CachePlan {
    if options.prune.prune_registry && changes_registry(&prepared.plan) {
        cache::foreseen_plan(&prepared.cluster, &options.cache).await
    } else {
        CachePlan::unneeded(NOTHING_DELETED)
    }
}

fn report_dry_run(options: &Options, ui: &Ui, prepared: &Prepared, cache: CachePlan) {
    let Prepared { inventory, plan, context, .. } = prepared;
    let view = View { inventory, plan };
    ui.message("Dry run enabled - no modifications will be made. Add --confirm to remove images");
    api_only_notice(options, ui);
    ui.message(&report::cache::plan_line(&cache));
    match options.output {
        OutputFormat::Text => ui.result(|out| text::dry_run(out, view, false)),
        OutputFormat::Wide => ui.result(|out| text::dry_run(out, view, true)),
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

/// Carries the plan out and reports.
async fn prune(
    options: &Options,
    ui: &Arc<Ui>,
    prepared: Prepared,
    stop: watch::Receiver<Option<Signal>>,
) -> Exit {
    let Prepared { cluster, registry, inventory, plan, caches, context } = prepared;
    api_only_notice(options, ui);
    let lines = matches!(options.output, OutputFormat::Text | OutputFormat::Wide);
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
    let planned = caches.as_ref().map_or_else(|| CachePlan::unneeded(NOTHING_DELETED), CacheStep::plan);
    if let Some(caches) = &caches {
        ui.message(&report::cache::plan_line(&planned));
        if let Err(failure) = caches.before(&cluster, &options.connection, &options.program, &events).await {
            ui.failure(&failure);
            return failure.exit;
        }
    }
    let scope = scope(&options.prune);
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
    let mut cache = CacheOutcome::from_plan(planned);
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

/// What was deleted, written down before the cache step is finished: if that fails or is cut short, it is what
/// `cache flush` repeats it from. Removed once nothing is left to be done.
struct KeptResult(PathBuf);

/// The part of a `PruneResult` that `cache flush` reads.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct KeptDocument<'a> {
    api_version: &'static str,
    kind: &'static str,
    server: &'a str,
    result: &'a Outcome,
}

impl KeptResult {
    /// Writes it below `XDG_STATE_HOME`; nothing if nothing was deleted, or it cannot be written.
    fn write(server: &str, outcome: &Outcome) -> Option<Self> {
        if outcome.changes.is_empty() {
            return None;
        }
        let folder = state_folder()?;
        let path =
            folder.join(format!("result-{}-{}.json", Timestamp::now().as_second(), std::process::id()));
        let document = KeptDocument {
            api_version: report::document::API_VERSION,
            kind: "PruneResult",
            server,
            result: outcome,
        };
        let written = std::fs::create_dir_all(&folder).and_then(|()| {
            let mut file = std::fs::OpenOptions::new();
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600);
            let file = file.write(true).create_new(true).open(&path)?;
            let mut file = std::io::BufWriter::new(file);
            serde_json::to_writer(&mut file, &document)?;
            std::io::Write::flush(&mut file)
        });
        match written {
            Ok(()) => Some(Self(path)),
            Err(error) => {
                tracing::info!("{} cannot be written: {error}", path.display());
                None
            }
        }
    }

    fn remove(self) {
        // A file that stays does no harm.
        let _ = std::fs::remove_file(self.0);
    }
}

/// `$XDG_STATE_HOME/oc-prune-images`, by the XDG Base Directory Specification.
fn state_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("oc-prune-images"))
}

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

fn report_outcome(options: &Options, ui: &Ui, outcome: &Outcome, cache: &CacheOutcome) {
    match options.output {
        OutputFormat::Text | OutputFormat::Wide => ui.result(|out| text::outcome(out, outcome)),
        OutputFormat::Name => ui.result(|out| text::changed_names(out, outcome)),
        OutputFormat::Json | OutputFormat::Yaml => {}
    }
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

fn interrupted(signal: Signal) -> Failure {
    Failure {
        exit: signal.exit(),
        message: format!("prune: ended by {} - no changes made", signal.name()),
        hints: Vec::new(),
    }
}

async fn first_signal(stop: &mut watch::Receiver<Option<Signal>>) -> Signal {
    let first = stop.wait_for(Option::is_some).await.ok().and_then(|signal| *signal);
    match first {
        Some(signal) => signal,
        // The listener is gone: no signal will come.
        None => std::future::pending().await,
    }
}

/// The first signal asks the run to end, the second one ends the process.
fn listen_to_signals(ui: Arc<Ui>) -> watch::Receiver<Option<Signal>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut signals = Signals::new();
        let first = signals.next().await;
        if sender.send(Some(first)).is_ok() {
            ui.message("ending: what was begun is being finished; a second signal aborts at once");
        }
        let second = signals.next().await;
        ui.abort();
        #[expect(clippy::exit, reason = "the user asked twice: nothing is waited for any longer")]
        std::process::exit(interrupted(second).exit as i32);
    });
    receiver
}

struct Signals {
    #[cfg(unix)]
    terminate: Option<tokio::signal::unix::Signal>,
}

impl Signals {
    fn new() -> Self {
        Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ok(),
        }
    }

    async fn next(&mut self) -> Signal {
        #[cfg(unix)]
        let terminate = async {
            match &mut self.terminate {
                Some(terminate) => terminate.recv().await,
                None => std::future::pending().await,
            }
        };
        #[cfg(not(unix))]
        let terminate = std::future::pending::<Option<()>>();
        tokio::select! {
            _ = tokio::signal::ctrl_c() => Signal::Interrupt,
            _ = terminate => Signal::Terminate,
        }
    }
}
