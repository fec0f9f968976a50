//! The prune itself: inventory, plan, then a dry run's report, or the execution and its report.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jiff::Timestamp;
use tokio::sync::watch;

use super::interactive::{self, Offer};
use super::keeping::{self, Keeping};
use super::look::{self, Look};
use super::metrics::Tally;
use super::page::{self, PageFile};
use super::resume;
use super::signals::{listen_to_signals, nothing_done, or_lost, stopped, timeout_flag, until};
use super::verify;
use super::write_document;
use crate::cache::redis::Whereabouts;
use crate::cache::{self, CacheEvent, CacheOutcome, CachePlan, CacheStep};
use crate::cli::{self, Options, OutputFormat};
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::execute::{
    self, BrokenImage, Change, Event, Executed, FailedObject, Meanwhile, Outcome, Signal, Stop, Tools,
};
use crate::inventory::{ListState, Told, Watching};
use crate::journal::{Inherited, Journal, Loaded, Step};
use crate::model::Inventory;
use crate::plan::{Counts, Plan, Repositories, Unfinished};
use crate::registry::{self, Registry, Settings};
use crate::report::cache::CacheReport;
use crate::report::document::{Context, PrunePlan, PruneResult, View};
use crate::report::html::{self, Done, Found};
use crate::report::{self, printable, text};
use crate::schedule;
use crate::text::quoted;
use crate::ui::{Bar, Ui};
use crate::verify::Verification;

/// Plans a prune, and carries it out if `--confirm` or somebody at the terminal says so.
pub(super) async fn run(options: &Options, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    let mut tally = Tally::begin();
    let result = Box::pin(plan_and_prune(options, ui, &mut tally)).await;
    if let Some(path) = &options.metrics_file {
        let exit = result.as_ref().map_or_else(|failure| failure.exit, |exit| *exit);
        tally.write(path, exit, ui);
    }
    result
}

async fn plan_and_prune(options: &Options, ui: &Arc<Ui>, tally: &mut Tally) -> Result<Exit, Failure> {
    let mut file = options.report.as_deref().map(PageFile::begin).transpose()?;
    let signals = listen_to_signals(ui.clone());
    let stop = until(signals.clone(), options.timeout, ui.clone());
    let begin = Box::pin(begin(options, ui, tally, &mut file));
    let job = unless_stopped(options, stop.clone(), begin).await?;
    match job {
        Some(job) => Box::pin(carry_out(ui, job, Ends { signals, stop, file }, tally)).await,
        None => Ok(Exit::Done),
    }
}

/// Until something is changed there is nothing to finish: a signal ends the run at once.
pub(super) async fn unless_stopped<T>(
    options: &Options,
    mut stop: watch::Receiver<Option<Stop>>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        stop = stopped(&mut stop) => Err(nothing_done(stop, options.timeout)),
        done = work => done,
    }
}

/// Takes the lock, writes the journal, and carries out what was agreed to.
pub(super) async fn carry_out(
    ui: &Arc<Ui>,
    job: Job,
    ends: Ends,
    tally: &mut Tally,
) -> Result<Exit, Failure> {
    let mut keeping = Keeping::none();
    let kept = unless_stopped(&job.options, ends.stop.clone(), keep(ui, &job, &mut keeping)).await;
    if let Err(failure) = kept {
        keeping.release(ui).await;
        return Err(failure);
    }
    Ok(Box::pin(prune(ui, job, keeping, ends, tally)).await)
}

/// What has to be there before the first change.
async fn keep(ui: &Arc<Ui>, job: &Job, keeping: &mut Keeping) -> Result<(), Failure> {
    let Job { options, begun: Begun { cluster, look, .. }, planned, resumed, .. } = job;
    if resumed.is_none() && planned.plan.counts(&look.inventory) == Counts::default() {
        return Ok(());
    }
    let holder = keeping.lock(options, cluster, ui).await?;
    if let Some(Resumed { path, loaded, .. }) = resumed {
        return keeping.resume(path, loaded, &holder);
    }
    keeping.begin(options, cluster, look, planned, &holder, ui).await
}

/// What may end a run that has begun to change something, and what is left of it.
pub(super) struct Ends {
    /// Ends the cache step, too, where that takes long.
    pub(super) signals: watch::Receiver<Option<Signal>>,
    /// Ends the deletions: a signal, or the end of the run's time.
    pub(super) stop: watch::Receiver<Option<Stop>>,
    /// Where its page goes when it has ended.
    pub(super) file: Option<PageFile>,
}

/// Everything before the first change: reads, decides, asks, and gets ready for what is to be carried out, if anything
/// is.
async fn begin(
    options: &Options,
    ui: &Arc<Ui>,
    tally: &mut Tally,
    file: &mut Option<PageFile>,
) -> Result<Option<Job>, Failure> {
    tally.confirmed = options.confirm;
    let cluster = look::connect(&options.connection, ui).await?;
    if options.confirm {
        has_token(options, &cluster).await?;
    }
    let left_open = keeping::unfinished(&cluster);
    if options.may_ask && ui.can_ask() {
        match interactive::offer(ui, &left_open).await? {
            Offer::Finish(path) => {
                let options = Options { confirm: true, may_ask: false, ..options.clone() };
                return Box::pin(resume::begin(&options, ui, &cluster, &path, tally, file)).await;
            }
            Offer::GoOn => {}
            Offer::Quit => return Ok(None),
        }
    } else {
        keeping::tell_unfinished(options, &left_open, ui);
    }
    let (look, second_pruner) = tokio::join!(
        Box::pin(look::read_and_show(&cluster, &options.prune, ui)),
        Box::pin(schedule::api::second_pruner(&cluster))
    );
    let mut look = look?;
    look.warnings.extend(second_pruner);
    let unfinished = keeping::left_behind(&options.prune, &left_open, &mut look.inventory, ui);
    let begun = Begun { cluster, look, unfinished };
    if options.may_ask && ui.can_ask() {
        return Box::pin(interactive::agree(options, ui, begun)).await;
    }
    let planned = decide(options, ui, &begun, &mut BTreeSet::new())?;
    tally.planned = Some(View { inventory: &begun.look.inventory, plan: &planned.plan }.summary());
    if !options.confirm {
        let cache = foresee(options, &begun, planned.plan.changes_registry()).await;
        tally.cache_plan(&cache);
        report_dry_run(options, ui, &begun, &planned, cache);
        if let Some(file) = file.take() {
            let Planned { plan, context, .. } = &planned;
            let found = page::found(&begun.cluster, &begun.look, plan, context, &options.prune).await;
            file.finish(&html::page("What a prune would do", &found, None))?;
        }
        return Ok(None);
    }
    let ready = get_ready(options, ui, &begun, planned.plan.changes_registry()).await?;
    tell_unread(ui, &begun.look);
    Ok(Some(Job { options: options.clone(), begun, planned, ready, resumed: None }))
}

/// What was read.
pub(super) struct Begun {
    pub(super) cluster: Cluster,
    pub(super) look: Look,
    /// Links that runs which were cut short may have left behind: they go before the blobs do, for of a blob that is gone the
    /// registry deletes no link.
    pub(super) unfinished: Unfinished,
}

/// What was decided from it.
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) context: Context,
    repositories: OnceLock<Repositories>,
}

impl Planned {
    pub(super) fn new(plan: Plan, context: Context) -> Self {
        Self { plan, context, repositories: OnceLock::new() }
    }

    /// Which repositories have what goes: the journal and the caches ask, and every stream is looked through for it.
    pub(super) fn repositories(&self, inventory: &Inventory) -> &Repositories {
        self.repositories.get_or_init(|| Repositories::of(inventory, &self.plan))
    }
}

/// What a plan is carried out with.
pub(super) struct Ready {
    /// Absent with `--prune-registry=false`, and where there is nothing to be deleted from one.
    pub(super) registry: Option<Registry>,
    /// Absent where nothing is deleted from a registry.
    pub(super) caches: Option<CacheStep>,
}

/// What is carried out.
pub(super) struct Job {
    pub(super) options: Options,
    pub(super) begun: Begun,
    pub(super) planned: Planned,
    pub(super) ready: Ready,
    /// Of a run that goes on where another one was cut short.
    pub(super) resumed: Option<Resumed>,
}

/// What another run has left.
pub(super) struct Resumed {
    /// Its journal.
    pub(super) path: PathBuf,
    /// What it says.
    pub(super) loaded: Loaded,
    /// What caches may name.
    pub(super) inherited: Inherited,
    /// When the last of it may have been deleted.
    pub(super) last: Timestamp,
}

/// Whoever deletes in the registry has to log in to it.
pub(super) async fn has_token(options: &Options, cluster: &Cluster) -> Result<(), Failure> {
    if options.prune.prune_registry && cluster.bearer_token().await?.is_none() {
        return Err(registry::no_token());
    }
    Ok(())
}

/// What whoever impersonates somebody should know before the registry is changed.
pub(super) fn impersonation(options: &Options, cluster: &Cluster) -> Option<String> {
    let user = cluster.impersonated_user().filter(|_| options.confirm && options.prune.prune_registry)?;
    Some(format!("--as={user} reaches only the API server: the registry sees the token's own user"))
}

/// Decides by these flags, and says what the administrator should know, unless it was said before.
pub(super) fn decide(
    options: &Options,
    ui: &Arc<Ui>,
    begun: &Begun,
    said: &mut BTreeSet<String>,
) -> Result<Planned, Failure> {
    let Begun { cluster, look, unfinished } = begun;
    let deciding = Bar::endless(ui, "deciding");
    let (mut plan, more) = look.decide(&options.prune, ui)?;
    plan.take_up(&look.inventory, unfinished.clone());
    drop(deciding);
    let of_reading = look.warnings.iter().cloned();
    let warnings = impersonation(options, cluster).into_iter().chain(of_reading).chain(more);
    let context = look.context(cluster, &options.prune, warnings, said, ui);
    Ok(Planned::new(plan, context))
}

/// Connects to the registry and prepares the cache step. Nothing is changed yet.
pub(super) async fn get_ready(
    options: &Options,
    ui: &Arc<Ui>,
    begun: &Begun,
    changes_registry: bool,
) -> Result<Ready, Failure> {
    let Begun { cluster, look, .. } = begun;
    if !options.prune.prune_registry {
        return Ok(Ready { registry: None, caches: None });
    }
    let _connecting = Bar::endless(ui, "connecting to the registry");
    let registry = match look.registry_address(options.registry.url.as_ref()) {
        // Without a registry there is nothing to be deleted from one.
        Err(_) if look.repositories.is_empty() && !changes_registry => None,
        address => Some(connect_registry(options, cluster, address?, ui).await?),
    };
    let caches = match &registry {
        Some(registry) if changes_registry => {
            Some(CacheStep::prepare(cluster, registry, &options.cache, &cache_events(ui, None)).await?)
        }
        _ => None,
    };
    Ok(Ready { registry, caches })
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
pub(super) async fn foresee(options: &Options, begun: &Begun, changes_registry: bool) -> CachePlan {
    if options.prune.prune_registry && changes_registry {
        cache::foreseen_plan(&begun.cluster, &options.cache).await
    } else {
        CachePlan::unneeded(NOTHING_DELETED)
    }
}

pub(super) fn report_dry_run(options: &Options, ui: &Ui, begun: &Begun, planned: &Planned, cache: CachePlan) {
    let Planned { plan, context, .. } = planned;
    let view = View { inventory: &begun.look.inventory, plan };
    ui.message("Dry run enabled - no modifications will be made. Add --confirm to remove images");
    tell_unread(ui, &begun.look);
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
    if view.summary().images > 0 && !options.prune.prune_registry {
        ui.message(&format!(
            "With --prune-registry=false the images' blobs stay in the registry's storage, and the API knows of them no longer: only hard prune deletes them then: {}",
            hard_prune(options)
        ));
    }
}

/// The command that deletes from the storage what the API no longer knows of.
fn hard_prune(options: &Options) -> String {
    let Options { program, cache, connection, .. } = options;
    format!("{program} hard-prune{}{}", cache.place.flags(), connection.flags())
}

/// Says which lists that only protect could not be read.
pub(super) fn tell_unread(ui: &Ui, look: &Look) {
    if !look.unread.is_empty() {
        let unread: Vec<&str> = look.unread.iter().map(String::as_str).collect();
        ui.message(&format!("Less is protected than could be: rights are missing: {}", unread.join(", ")));
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
async fn prune(ui: &Arc<Ui>, job: Job, mut keeping: Keeping, ends: Ends, tally: &mut Tally) -> Exit {
    let Ends { signals, stop, file } = ends;
    let Job { options, begun, planned, ready, resumed } = job;
    let stop = match keeping.lost() {
        Some(lost) => or_lost(stop, lost, ui.clone()),
        None => stop,
    };
    let options = &options;
    let Begun { cluster, look, unfinished: _ } = begun;
    // Only caches are keyed by repository.
    if ready.caches.is_some() {
        planned.repositories(&look.inventory);
    }
    let Planned { plan, context, repositories } = planned;
    let page = page_before(file, &cluster, &look, &plan, &context, options).await;
    let Look { inventory, states, .. } = look;
    let Ready { registry, caches } = ready;
    let context = Context { registry: registry.as_ref().map(Registry::access), ..context };
    api_only_notice(options, ui);
    let lines = matches!(options.output, OutputFormat::Text | OutputFormat::Wide);
    let view = View { inventory: &inventory, plan: &plan };
    // Whoever was asked has seen as much of it as they wanted to.
    if lines && !options.may_ask {
        ui.result(|out| text::plan(out, view, options.show_kept));
    }
    let counts = view.summary();
    (tally.confirmed, tally.planned) = (true, Some(counts));
    let watching = match watch(options, ui, &cluster, states, &counts).await {
        Ok(watching) => watching,
        Err(failure) => return nothing_begun(options, ui, &mut keeping, resumed.is_some(), &failure).await,
    };
    let events = cache_events(ui, None);
    let cache_plan = caches.as_ref().map_or_else(|| CachePlan::unneeded(NOTHING_DELETED), CacheStep::plan);
    tally.cache_plan(&cache_plan);
    if let Some(caches) = &caches {
        ui.message(&report::cache::plan_line(&cache_plan));
        if let Err(failure) = caches.before(&cluster, &options.connection, &options.program, &events).await {
            return nothing_begun(options, ui, &mut keeping, resumed.is_some(), &failure).await;
        }
        if let Some(Resumed { inherited, last, .. }) = &resumed {
            caches.inherit(inherited, *last).await;
        }
    }
    let document =
        matches!(options.output, OutputFormat::Json | OutputFormat::Yaml).then(|| view.body(&context));
    let mut executed = {
        let bar = Bar::of(ui, "pruning", steps(&counts));
        let tools = Tools {
            cluster: &cluster,
            scope: &look::scope(&options.prune),
            registry: registry.as_ref(),
            caches: caches.as_ref(),
            repositories: repositories.into_inner().unwrap_or_default(),
            workers: options.num_workers,
            news: watching.as_ref().map(|watching| &**watching.news()),
            stop: stop.clone(),
            journal: keeping.journal(),
            tell: &teller(ui, &bar, caches.as_ref(), keeping.journal(), lines),
        };
        execute::execute(tools, &plan, inventory).await
    };
    end_watch(ui, watching, &mut executed).await;
    let cache = if let (Some(caches), Some(registry)) = (&caches, &registry) {
        let repeat = repeat_flush(options, keeping.journal().map(Journal::path));
        forget(ui, &cluster, caches, registry, &mut executed, signals, repeat).await
    } else {
        let meanwhile = look_at_meanwhile(&mut executed, &cluster, ui).await;
        executed.outcome.broken = execute::broken_images(registry.as_ref(), &meanwhile).await;
        let mut cache = CacheOutcome::from_plan(cache_plan);
        cache.nothing_deleted();
        cache
    };
    let resume = keeping.journal().map(|_| keeping::resume_command(options, options.journal.as_deref()));
    keeping.end(&plan, executed.inventory(), &executed.outcome, &cache, ui).await;
    if let Some(registry) = &registry {
        let _verifying = Bar::endless(ui, "verifying what stays");
        executed.outcome.verification =
            verify::after(&cluster, registry, &executed, &plan.rules, options.verify, &stop).await;
    }
    let mut outcome = executed.outcome;
    outcome.left = outcome.interrupted.map(|_| counts.without(&outcome.deleted));
    tally.done(&outcome, &cache);
    let exit = exit_of(&outcome, &cache);
    report_outcome(options, ui, &outcome, &cache, resume.as_deref());
    write_page(options, ui, page, &outcome, &cache);
    if let Some(body) = document {
        write_document(ui, options.output, &PruneResult::new(body, outcome, cache));
    }
    exit
}

/// The end of a run that could not begin.
async fn nothing_begun(
    options: &Options,
    ui: &Ui,
    keeping: &mut Keeping,
    is_resumed: bool,
    failure: &Failure,
) -> Exit {
    report_end(options, ui, &Outcome::default());
    ui.failure(failure);
    // What another run has left is left still.
    if !is_resumed {
        keeping.unchanged();
    }
    keeping.release(ui).await;
    failure.exit
}

/// Follows the lists from what they showed on, if there is anything to be deleted: what becomes needed stays.
async fn watch(
    options: &Options,
    ui: &Arc<Ui>,
    cluster: &Cluster,
    states: Vec<ListState>,
    counts: &Counts,
) -> Result<Option<Watching>, Failure> {
    if steps(counts) == 0 {
        return Ok(None);
    }
    let _waiting = Bar::endless(ui, "watching the cluster");
    let told = Arc::clone(ui);
    let tell = Arc::new(move |event| match event {
        Told::Polled(lists, every) => told.message(&text::polled_line(&lists, every)),
        Told::Unread(list, why) => told.warning(&format!(
            "{} could not be read again: what became referenced since may be noticed late: {}",
            printable(&list),
            printable(&why)
        )),
    });
    Watching::begin(cluster, states, options.poll_interval, tell).await.map(Some)
}

/// Looks for the last time, once the last request was answered.
async fn end_watch(ui: &Ui, watching: Option<Watching>, executed: &mut Executed) {
    let Some(watching) = watching else { return };
    if !executed.outcome.changes.is_empty()
        && let Err(failure) = watching.look_again().await
    {
        ui.warning(&format!("what became referenced meanwhile may have been missed: {}", failure.message));
    }
    executed.learn(watching.news());
}

/// What was pushed or became needed meanwhile, as far as it can be told.
async fn look_at_meanwhile(executed: &mut Executed, cluster: &Cluster, ui: &Ui) -> Meanwhile {
    executed.meanwhile(cluster).await.unwrap_or_else(|failure| {
        ui.warning(&format!("images that were pushed meanwhile could not be looked at: {}", failure.message));
        Meanwhile::default()
    })
}

/// Finishes the cache step; `repeat` is the command that does it otherwise.
async fn forget(
    ui: &Arc<Ui>,
    cluster: &Cluster,
    caches: &CacheStep,
    registry: &Registry,
    executed: &mut Executed,
    signals: watch::Receiver<Option<Signal>>,
    repeat: String,
) -> CacheOutcome {
    ui.before_abort(Some(format!(
        "the registry's caches may still name what was deleted\nhint: finish it: {repeat}"
    )));
    let mut meanwhile = look_at_meanwhile(executed, cluster, ui).await;
    let finishing = Arc::new(Bar::endless(ui, "cache step"));
    let events = cache_events(ui, Some(&finishing));
    let mut cache = caches.finish(cluster, &meanwhile, &events, signals.clone()).await;
    // Pushes go on, and one that was under way may have left something in a cache after it was looked at.
    for _ in 0..LOOKS {
        let Ok(later) = executed.meanwhile(cluster).await else { break };
        let is_new = later != meanwhile;
        meanwhile = later;
        if !is_new || !caches.evicts() {
            break;
        }
        cache = caches.finish(cluster, &meanwhile, &events, signals.clone()).await;
    }
    drop((events, finishing));
    executed.outcome.broken = execute::broken_images(Some(registry), &meanwhile).await;
    ui.before_abort(None);
    if cache.may_lie() || cache.is_left() {
        cache.repeat = Some(repeat);
    }
    cache
}

/// What the page of a run shows of the time before anything is deleted.
async fn page_before(
    file: Option<PageFile>,
    cluster: &Cluster,
    look: &Look,
    plan: &Plan,
    context: &Context,
    options: &Options,
) -> Option<(PageFile, Found)> {
    Some((file?, page::found(cluster, look, plan, context, &options.prune).await))
}

/// Writes the page of a run. The run has ended: that it cannot be written changes nothing about it.
fn write_page(
    options: &Options,
    ui: &Ui,
    page: Option<(PageFile, Found)>,
    outcome: &Outcome,
    cache: &CacheOutcome,
) {
    let Some((file, found)) = page else { return };
    let report = cache_report(options, cache);
    let done = Done { outcome, cache, report: &report };
    if let Err(failure) = file.finish(&html::page("What a prune did", &found, Some(done))) {
        ui.warning(&failure.message);
    }
}

/// How often the caches are looked at again because of what was pushed since.
const LOOKS: usize = 3;

/// What a run says that was ended because its lock was lost.
const LOST: &str = "lostLock";

const NOTHING_DELETED: &str = "nothing is deleted from the registry";

/// The command that finishes the cache step, without a password.
fn repeat_flush(options: &Options, journal: Option<&Path>) -> String {
    let cli::Options { program, cache, connection, registry, .. } = options;
    let mut line = format!("{program} cache flush{}", cache.redis.flags);
    if matches!(cache.redis.whereabouts, Whereabouts::At(_)) {
        line.push_str(" --replicas");
    }
    let file = match (journal, options.output) {
        (Some(path), _) => quoted(&path.to_string_lossy()),
        (None, OutputFormat::Json | OutputFormat::Yaml) => "<the output of this run>".to_owned(),
        (None, _) => "<the output of a prune with -o json>".to_owned(),
    };
    // Writing to a `String` cannot fail.
    let _ = write!(line, " --from={file}");
    line + &cache.place.flags() + &registry.flags() + &connection.flags()
}

/// Tells of each change as it happens: on the bar, and with `lines` on stdout.
fn teller<'a>(
    ui: &'a Ui,
    bar: &'a Bar,
    caches: Option<&'a CacheStep>,
    journal: Option<&'a Journal>,
    lines: bool,
) -> impl Fn(Event<'_>) + Sync + 'a {
    // Changes are told by many workers at once; a line must not be torn.
    let one_at_a_time = Mutex::new(());
    move |event| {
        if let (Event::Changed(change), Some(journal)) = (event, journal) {
            let forgotten = match change {
                Change::Blob { digest, .. } => caches.is_some_and(|caches| caches.has_forgotten(digest)),
                _ => false,
            };
            journal.done(Step::of(change, forgotten));
        }
        let _line = one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Changed(_) | Event::Spared(_) => bar.step(),
            Event::Failed(_) => bar.fail(),
        }
        if let Some(keys) = caches.and_then(CacheStep::evicted_keys) {
            bar.note(&format!("{keys} Redis keys"));
        }
        match event {
            Event::Changed(change) if lines => {
                ui.result(|out| writeln!(out, "{}", text::change_line(change)));
            }
            Event::Changed(_) => {}
            Event::Failed(failed) => ui.message(&text::failed_line(failed)),
            Event::Spared(spared) => tracing::info!("{} stays: {}", spared.object, spared.reason),
        }
    }
}

/// How many changes a plan takes, if nothing comes between.
fn steps(counts: &Counts) -> usize {
    let Counts { images, image_streams, layer_links, manifest_links, blobs, .. } = counts;
    images + image_streams + layer_links + manifest_links + blobs
}

/// What the cache step tells goes to stderr, and to a bar if there is one.
fn cache_events(ui: &Arc<Ui>, bar: Option<&Arc<Bar>>) -> cache::Tell {
    let (warn, ui, bar) = (ui.clone(), ui.clone(), bar.cloned());
    let say = move |text: &str| ui.message(&format!("Cache step: {}", printable(text)));
    Arc::new(move |event| match event {
        CacheEvent::Progress(text) => say(&text),
        CacheEvent::Pods { replaced, total, text } => {
            if let Some(bar) = bar.as_ref().filter(|_| total > 0) {
                bar.note(&format!("{replaced} of {total} pods replaced"));
            }
            say(&text);
        }
        CacheEvent::Warning(text) => warn.warning(&printable(&text)),
    })
}

fn exit_of(outcome: &Outcome, cache: &CacheOutcome) -> Exit {
    match outcome.interrupted.filter(|by| *by != LOST) {
        Some("SIGTERM" | "SIGHUP") => Exit::Terminated,
        // The step was finished whatever the time was: the next run does not do it again.
        Some("timeout") if !cache.may_lie() => Exit::Timeout,
        None | Some("timeout") if cache.may_lie() => Exit::CacheMayLie,
        Some(_) => Exit::Interrupted,
        None if outcome.failures.is_empty()
            && outcome.broken.is_empty()
            && !outcome.has_broken()
            && outcome.interrupted.is_none() =>
        {
            Exit::Done
        }
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

fn report_outcome(options: &Options, ui: &Ui, outcome: &Outcome, cache: &CacheOutcome, resume: Option<&str>) {
    report_end(options, ui, outcome);
    report_cache(options, ui, cache);
    if !outcome.broken.is_empty() {
        ui.failure(&broken(&outcome.broken));
    }
    if let Some(verification) = &outcome.verification {
        report_verification(ui, verification);
    }
    if !outcome.spared.is_empty() {
        ui.message(&text::spared(&outcome.spared));
    }
    if !outcome.failures.is_empty() {
        ui.failure(&failures(options, &outcome.failures, resume.is_some()));
    }
    if !options.prune.prune_registry && outcome.deleted.images > 0 {
        ui.message(&format!(
            "The images' blobs are still in the registry's storage, and the API knows of them no longer: only hard prune deletes them: {}",
            hard_prune(options)
        ));
    }
    if let Some(by) = outcome.interrupted {
        let by = match by {
            "timeout" => timeout_flag(options.timeout),
            LOST => "the loss of its lock".to_owned(),
            by => by.to_owned(),
        };
        let left = outcome.left.as_ref().map(text::left_line).unwrap_or_default();
        ui.failure(
            &Failure::nothing_changed(format!(
                "the run was ended early by {by}: what was begun is finished, the rest is as it was\n  {left}"
            ))
            .hint(match resume {
                Some(resume) => format!(
                    "run the same command again to prune the rest; exactly what is left of this one: {resume}"
                ),
                None => "run the same command again to prune the rest".to_owned(),
            }),
        );
    }
}

/// Whether what stays can be pulled. That it could not be asked for ends no run badly.
fn report_verification(ui: &Ui, verification: &Verification) {
    if verification.not_allowed == verification.questions && verification.questions > 0 {
        ui.message(&format!("Verify: not done: {}", verify::MAY_ASK));
        return;
    }
    ui.message(&format!("Verify: {}", verification.line()));
    let Some(failure) = verify::conclusion(verification, Exit::Done) else { return };
    if verification.broken.is_empty() {
        ui.warning(&failure.message);
        for hint in &failure.hints {
            ui.message(&format!("hint: {hint}"));
        }
        return;
    }
    let mut lines = Vec::new();
    // Writing to memory cannot fail.
    let _ = verification.write_broken(&mut lines);
    ui.message(String::from_utf8_lossy(&lines).trim_end());
    ui.failure(&failure);
}

/// How the cache step ended, in words.
fn cache_report(options: &Options, cache: &CacheOutcome) -> CacheReport {
    let place = &options.cache.place;
    let restart = format!("oc rollout restart deployment/{} -n {}", place.deployment, place.namespace);
    let repeat = cache.repeat.clone().unwrap_or_else(|| repeat_flush(options, None));
    report::cache::report(cache, &repeat, &restart)
}

fn report_cache(options: &Options, ui: &Ui, cache: &CacheOutcome) {
    let report = cache_report(options, cache);
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
    let mut message = format!(
        "prune: {} image(s) were pushed, or became referenced, while a part of theirs was deleted",
        images.len()
    );
    for image in images {
        let _ = write!(message, "\n  {}", text::broken_line(image));
    }
    Failure { exit: Exit::Failures, message, hints: Vec::new() }
        .hint("push these images again, or build or import them again: their layers are uploaded anew then")
}

/// All failures, those of the same kind and cause together.
fn failures(options: &Options, failures: &[FailedObject], has_journal: bool) -> Failure {
    let mut message = format!("prune: {} object(s) could not be pruned", failures.len());
    let mut group = None;
    let mut hints = vec!["run the same command again: what is left is tried again".to_owned()];
    if failures.iter().any(|failure| failure.failed.ends_with("link")) {
        if has_journal {
            hints[0] = "run the same command again, from here: what is left is tried again, also the links, of which only the journal knows".into();
        } else {
            hints[0] = "run the same command again: what is left is tried again, but for the links, which the API no longer knows of".into();
            hints.insert(0, format!("links to manifests are removed by the registry's hard prune, and links to layers hold no data: {}", hard_prune(options)));
        }
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
