//! `hard-prune`: checks what has to hold, has the registry say what it would delete, and with `--confirm` has it deleted
//! while the registry is read-only.
//!
//! The order is what keeps images whole. Every replica is read-only before hard prune lists the images, and stays so until
//! its process is known to have ended: whatever is pushed in between would be deleted under its image. Redis forgets while
//! nobody can push, before the first replica is restarted, which would fill up from it; then putting read-only mode back
//! restarts every replica, and empties their own caches.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use super::page::PageFile;
use super::signals::{listen_to_signals, nothing_done, stopped, timeout_flag, until};
use super::write_document;
use super::{keeping, look};
use crate::cache::detect::{Discovery, discover};
use crate::cache::rollout::read_only::{Back, Holder, ReadOnly, State};
use crate::cache::rollout::{self, Progress, Restart, Restarted};
use crate::cache::{self, CacheOutcome, CachePlan, Forget, Forgetting, ReplicaStep};
use crate::cli::OutputFormat;
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::execute::Stop;
use crate::hard_prune::{
    self, End, Findings, HardPruneOptions, Line, Mode, Other, Precondition, Target, may_execute,
    preconditions,
};
use crate::journal::{self, Held, Locks};
use crate::report::hard_prune::{Found, HardPruneResult, ReadOnlyOutcome};
use crate::report::{self, printable};
use crate::text::sanitize;
use crate::ui::{Bar, Ui};

/// In how many links' repositories replicas are asked.
const ASKED: usize = 100;

/// How often hard prune is begun again after its connection broke.
const ATTEMPTS: usize = 3;

/// How long it is tried to end a process whose connection broke: the API server may be away for a while.
const END_PATIENCE: Duration = Duration::from_secs(600);

/// The pause between two tries.
const END_PAUSE: Duration = Duration::from_secs(2);

/// The exit codes of a process that somebody has ended: SIGKILL and SIGTERM.
const KILLED: [i32; 2] = [137, 143];

/// Checks, or deletes, or puts read-only mode back.
pub(super) async fn run(options: &HardPruneOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    let run = Box::pin(check_and_prune(options, ui));
    PageFile::around(options.report.as_deref(), "What the registry's hard prune deletes", ui, run).await
}

async fn check_and_prune(options: &HardPruneOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    let signals = listen_to_signals(ui.clone());
    let mut stop = until(signals, options.timeout, ui.clone());
    let begun = tokio::select! {
        stop = stopped(&mut stop) => return Err(nothing_done(stop, options.timeout)),
        begun = Box::pin(begin(options, ui)) => begun?,
    };
    // A prune's links and blobs are not for two to delete at once.
    let held = if options.confirm { Some(keep_others_away(ui, &begun).await?) } else { None };
    let ended = Box::pin(go_on(options, ui, begun, stop)).await;
    if let Some(held) = held
        && let Err(why) = held.release().await
    {
        ui.message(&format!("Lock: it ends by itself: {}", printable(&why)));
    }
    ended
}

/// Takes the lock that every run takes which changes something.
async fn keep_others_away(ui: &Ui, begun: &Begun) -> Result<Held, Failure> {
    let holder = journal::Holder::of_process(look::user(&begun.cluster).await);
    let place = keeping::place(&begun.cluster);
    let locks = Locks {
        cluster: &begun.cluster,
        namespace: &begun.found.place.namespace,
        place: place.as_ref(),
        holder: &holder,
        pace: journal::Pace::default(),
    };
    let held = locks.take().await.map_err(journal::Busy::failure)?;
    if let Some(gap) = &held.gap {
        ui.message(&format!("Lock: {}", printable(gap)));
    }
    Ok(held)
}

async fn go_on(
    options: &HardPruneOptions,
    ui: &Arc<Ui>,
    begun: Begun,
    mut stop: watch::Receiver<Option<Stop>>,
) -> Result<Exit, Failure> {
    if options.restore {
        return Box::pin(restore(options, ui, begun)).await;
    }
    let check = check(options, ui, &begun, &mut stop).await?;
    let Begun { cluster, preconditions, target, .. } = &begun;
    let document = HardPruneResult::new(
        cluster.server().to_owned(),
        target.pod.clone(),
        options.confirm,
        preconditions.clone(),
        found(options, &check),
    );
    if !options.confirm {
        finish_check(options, ui, &begun, &check, &document);
        return Ok(Exit::Done);
    }
    ui.message(&format!("Check: {}", report::hard_prune::counts(&check)));
    if check.is_empty() && begun.left_on().is_none() {
        let document = HardPruneResult { read_only: Some(ReadOnlyOutcome::Untouched), ..document };
        report_end(options, ui, Mode::Delete, &check, &document);
        return Ok(Exit::Done);
    }
    // Whoever cannot make Redis forget must not delete what it goes on naming.
    let warn = ui.warnings();
    let redis = Forgetting::prepare(&begun.cluster, &begun.found, &options.redis, warn).await?;
    let confirmed = Confirmed { options, ui, begun, check, redis, stop, document, failures: Vec::new() };
    Ok(Box::pin(confirmed.prune()).await)
}

/// What is known before anything is done.
struct Begun {
    cluster: Cluster,
    found: Discovery,
    target: Target,
    read_only: Result<State, Failure>,
    others: Result<Vec<(Target, Other)>, String>,
    preconditions: Vec<Precondition>,
}

impl Begun {
    /// The read-only mode that another run has left on.
    fn left_on(&self) -> Option<&State> {
        self.read_only.as_ref().ok().filter(|state| state.kept.is_some())
    }

    fn switch(&self, options: &HardPruneOptions) -> ReadOnly<'_> {
        ReadOnly::new(&self.cluster, &self.found.place, options.rollout_timeout, options.pace)
    }
}

/// Connects, finds the registry, and finds out what holds. What a confirmed run needs ends it here.
async fn begin(options: &HardPruneOptions, ui: &Arc<Ui>) -> Result<Begun, Failure> {
    let cluster = look::connect(&options.access.connection, ui).await?;
    let found = discover(&cluster, &options.access.place).await;
    let may_execute = may_execute(&cluster, &found).await;
    if may_execute.holds == Some(false) {
        return Err(may_execute.failure());
    }
    let target = hard_prune::target(&cluster, &found).await?;
    let read_only =
        ReadOnly::new(&cluster, &found.place, options.rollout_timeout, options.pace).state().await;
    let others = hard_prune::others(&cluster, &found, &target).await;
    let told = others.as_ref().map(|others| others.iter().map(|(_, other)| other.clone()).collect());
    let words = if options.restore { " --restore --confirm --take-over" } else { " --confirm --take-over" };
    let mut all = vec![may_execute];
    let told = told.map_err(Clone::clone);
    all.extend(preconditions(&cluster, &target, &read_only, &told, &options.command(words)).await);
    for condition in &all {
        let sign = match condition.holds {
            Some(true) => "ok",
            Some(false) => "no",
            None => "??",
        };
        ui.message(&format!("{sign}  {}", printable(&condition.message)));
    }
    let needed = |condition: &&Precondition| match condition.name {
        "account" => !options.restore,
        "alone" => options.confirm && !options.take_over,
        "readOnly" => options.confirm,
        _ => true,
    };
    if let Some(condition) = all.iter().filter(needed).find(|condition| condition.holds == Some(false)) {
        return Err(condition.failure());
    }
    for condition in all.iter().filter(|condition| condition.holds != Some(true)) {
        for hint in &condition.hints {
            ui.message(&format!("hint: {hint}"));
        }
    }
    Ok(Begun { cluster, found, target, read_only, others, preconditions: all })
}

/// Has the registry say what it would delete.
async fn check(
    options: &HardPruneOptions,
    ui: &Arc<Ui>,
    begun: &Begun,
    stop: &mut watch::Receiver<Option<Stop>>,
) -> Result<Findings, Failure> {
    let Begun { cluster, target, .. } = begun;
    ui.message(&format!("Checking in pod {}: it looks at everything in the storage", printable(&target.pod)));
    let lines = options.output == OutputFormat::Text && !options.confirm;
    let mut findings = Findings::default();
    let ended = {
        let bar = Bar::endless(ui, "checking");
        let mut tell = teller(ui, &bar, Mode::Check, lines, &mut findings);
        hard_prune::run(cluster, target, Mode::Check, stop, &mut tell).await
    };
    let doing = "hard prune: check";
    match ended.map_err(|error| cluster.failure(&error, doing))? {
        End::Exited(0) => {
            tell_problems(ui, &findings);
            Ok(findings)
        }
        End::Exited(code) => {
            let mut message = format!("{doing}: it ended with exit code {code}");
            for problem in &findings.problems {
                let _ = write!(message, "\n  {}", printable(problem));
            }
            let account = begun.preconditions.iter().filter(|condition| condition.name == "account");
            let hints = account.flat_map(|condition| condition.hints.clone()).collect();
            Err(Failure { hints, ..Failure::nothing_changed(message) })
        }
        End::Failed(why) => Err(Failure::nothing_changed(format!("{doing}: {}", printable(&why)))
            .hint("the image of the registry has to be that of OpenShift: /usr/bin/dockerregistry and /bin/sh in it")),
        End::Lost(why) => {
            // What only looks around does no harm; whether it is ended does not matter.
            let _ = hard_prune::stop(cluster, target, Mode::Check).await;
            Err(Failure::nothing_changed(format!("{doing}: the connection broke: {}", printable(&why)))
                .hint("run the same command again"))
        }
        End::Stopped(stop) => {
            let _ = hard_prune::stop(cluster, target, Mode::Check).await;
            Err(nothing_done(stop, options.timeout))
        }
    }
}

fn finish_check(
    options: &HardPruneOptions,
    ui: &Arc<Ui>,
    begun: &Begun,
    check: &Findings,
    document: &HardPruneResult,
) {
    report_end(options, ui, Mode::Check, check, document);
    if let Some(State { kept: Some(kept), .. }) = begun.left_on() {
        ui.warning(&format!(
            "the registry is read-only since {}: {} has switched that on, and not put it back",
            printable(&kept.since),
            printable(&kept.by)
        ));
        ui.message(&format!("hint: put it back: {}", options.command(" --restore --confirm")));
    }
    if check.is_empty() {
        return;
    }
    ui.message(&format!(
        "nothing was deleted: add --confirm to do it; the registry is read-only meanwhile, and its pods are replaced twice: {}",
        options.command(" --confirm")
    ));
}

/// Hears of each line: on the bar, and with `lines` on stdout.
fn teller<'a>(
    ui: &'a Ui,
    bar: &'a Bar,
    mode: Mode,
    lines: bool,
    findings: &'a mut Findings,
) -> impl FnMut(Line) + Send + 'a {
    move |line| {
        if let Some(text) = report::hard_prune::line(mode, &line) {
            bar.step();
            if lines {
                ui.result(|out| writeln!(out, "{text}"));
            }
        }
        findings.add(line);
    }
}

fn tell_problems(ui: &Ui, findings: &Findings) {
    for problem in &findings.problems {
        ui.warning(&format!("the registry says: {}", printable(problem)));
    }
}

/// The end of stdout.
fn report_end(
    options: &HardPruneOptions,
    ui: &Ui,
    mode: Mode,
    findings: &Findings,
    document: &HardPruneResult,
) {
    match options.output {
        OutputFormat::Json | OutputFormat::Yaml => write_document(ui, options.output, document),
        OutputFormat::Text | OutputFormat::Wide | OutputFormat::Name => {
            ui.result(|out| report::hard_prune::end(out, mode, findings));
        }
    }
}

/// What is known of it for the document, if there is to be one.
fn found(options: &HardPruneOptions, findings: &Findings) -> Found {
    match options.output {
        OutputFormat::Json | OutputFormat::Yaml => Found::of(findings),
        OutputFormat::Text | OutputFormat::Wide | OutputFormat::Name => Found::counts(findings),
    }
}

/// How the deletion ended.
enum Ending {
    /// Everything is gone.
    Done,
    /// It ended before: why.
    Failed(String),
    /// The run is to end, and it has ended.
    Stopped(Stop),
    /// It may go on: why. And whether the run is to end.
    MayGoOn(String, Option<Stop>),
}

/// A confirmed run from its first change on.
struct Confirmed<'a> {
    options: &'a HardPruneOptions,
    ui: &'a Arc<Ui>,
    begun: Begun,
    check: Findings,
    /// The Redis that the replicas share, if they do.
    redis: Option<Forgetting>,
    stop: watch::Receiver<Option<Stop>>,
    document: HardPruneResult,
    failures: Vec<Failure>,
}

impl Confirmed<'_> {
    async fn prune(mut self) -> Exit {
        let Self { options, ui, .. } = self;
        let holder = holder();
        let state = self.begun.read_only.clone();
        let state = match state {
            Ok(state) => state,
            Err(failure) => return end_with(ui, &failure),
        };
        if let Err(failure) = self.end_others().await {
            return end_with(ui, &failure);
        }
        let put_back = options.command(" --restore --confirm");
        ui.before_abort(Some(format!(
            "the registry may be read-only, and hard prune may go on in it\nhint: see, and put it back: {put_back}"
        )));
        let mut deleted = Findings::default();
        let ending = match self.begin_read_only(&state, &holder).await {
            Ok(None) => Some(self.delete(&mut deleted).await),
            Ok(ending) => ending,
            Err(failure) if failure.exit == Exit::NothingChanged => {
                ui.before_abort(None);
                return end_with(ui, &failure);
            }
            Err(failure) => {
                self.failures.push(failure);
                None
            }
        };
        let (mut stopped, mut goes_on) = (None, false);
        match ending {
            None | Some(Ending::Done) => {}
            Some(Ending::Failed(why)) => self.failures.push(self.failed(&why)),
            Some(Ending::Stopped(stop)) => stopped = Some(stop),
            Some(Ending::MayGoOn(why, stop)) => {
                (stopped, goes_on) = (stop, true);
                self.failures.push(self.goes_on(&why));
            }
        }
        tell_problems(ui, &deleted);
        let cache = self.finish(&state, &holder, &deleted, goes_on).await;
        ui.before_abort(None);
        self.report(&deleted, cache, stopped)
    }

    /// Ends hard prunes that nobody waits for.
    async fn end_others(&self) -> Result<(), Failure> {
        for (target, other) in self.begun.others.iter().flatten().filter(|(_, other)| other.deletes) {
            self.ui.message(&format!("Ending {other}"));
            hard_prune::stop(&self.begun.cluster, target, Mode::Delete).await.map_err(|why| {
                Failure::nothing_changed(format!("end {other}: {}", printable(&why))).hint(format!(
                    "end it with its pod: oc delete pod {} -n {}",
                    target.pod, target.namespace
                ))
            })?;
        }
        Ok(())
    }

    /// Sees to it that every replica is read-only. Returns how the run ends before anything is deleted, if it does.
    async fn begin_read_only(&self, state: &State, holder: &Holder) -> Result<Option<Ending>, Failure> {
        let Self { options, ui, begun, .. } = self;
        let what = if state.is_anothers() { "it is on, and stays on" } else { "switching it on" };
        ui.message(&format!("Read-only mode: {what} ({})", state.set_in));
        let tell = |progress: &Progress| ui.message(&format!("Read-only mode: {progress}"));
        let switch = begun.switch(options);
        let mut stop = self.stop.clone();
        let proof = tokio::select! {
            switched = switch.switch_on(holder, &tell) => switched?,
            stop = stopped(&mut stop) => return Ok(Some(Ending::Stopped(stop))),
        };
        ui.message(&format!("Read-only mode: on; serving: {}", printable(&proof.serving.join(", "))));
        // One that was begun while this run waited for the rollout.
        let others =
            hard_prune::others(&begun.cluster, &begun.found, &begun.target).await.unwrap_or_default();
        let other = others.into_iter().find(|(_, other)| other.deletes);
        Ok(other.map(|(_, other)| Ending::MayGoOn(format!("another one is deleting: {other}"), None)))
    }

    async fn delete(&mut self, deleted: &mut Findings) -> Ending {
        let (mut was_lost, mut last) = (false, String::new());
        for attempt in 1..=ATTEMPTS {
            let target = match hard_prune::target(&self.begun.cluster, &self.begun.found).await {
                Ok(target) => target,
                Err(failure) => {
                    last = failure.message;
                    tokio::time::sleep(END_PAUSE).await;
                    continue;
                }
            };
            let again = if attempt == 1 { "" } else { " again" };
            self.ui.message(&format!("Deleting in pod {}{again}", printable(&target.pod)));
            let mut part = Findings::default();
            let ended = self.run(&target, &mut part).await;
            deleted.add_names(&part);
            (deleted.counted, deleted.bytes) = (part.counted, part.bytes);
            deleted.problems = part.problems;
            deleted.more_problems = part.more_problems;
            last = match ended {
                Ok(End::Exited(0)) => {
                    if was_lost {
                        // What was deleted while nobody listened is what the check named and is gone by now.
                        deleted.add_names(&self.check);
                        (deleted.counted, deleted.bytes) = (None, self.check.bytes);
                    }
                    return Ending::Done;
                }
                Ok(End::Exited(code)) if !KILLED.contains(&code) => {
                    return Ending::Failed(format!("it ended with exit code {code}"));
                }
                Ok(End::Failed(why)) => return Ending::Failed(why),
                Ok(End::Stopped(stop)) => {
                    self.ui.message("Ending the hard prune in its pod");
                    return match self.end(&target).await {
                        Ok(()) => Ending::Stopped(stop),
                        Err(why) => Ending::MayGoOn(why, Some(stop)),
                    };
                }
                Ok(End::Exited(code)) => format!("somebody ended it (exit code {code})"),
                Ok(End::Lost(why)) => format!("the connection broke: {why}"),
                Err(error) if error.is_transient() => error.to_string(),
                Err(error) => return Ending::Failed(error.to_string()),
            };
            was_lost = true;
            self.ui.warning(&format!("hard prune in pod {}: {}", printable(&target.pod), printable(&last)));
            if let Err(why) = self.end(&target).await {
                let stop = *self.stop.borrow();
                return Ending::MayGoOn(format!("{last}; {why}"), stop);
            }
        }
        Ending::Failed(format!("given up after {ATTEMPTS} attempts: {last}"))
    }

    async fn run(
        &mut self,
        target: &Target,
        findings: &mut Findings,
    ) -> Result<End, crate::cluster::ApiError> {
        let bar =
            Bar::of(self.ui, "deleting", usize::try_from(self.check.blob_count()).unwrap_or(usize::MAX));
        let lines = self.options.output == OutputFormat::Text;
        let mut tell = teller(self.ui, &bar, Mode::Delete, lines, findings);
        hard_prune::run(&self.begun.cluster, target, Mode::Delete, &mut self.stop, &mut tell).await
    }

    /// Ends the process in the pod, however often that has to be tried.
    async fn end(&self, target: &Target) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let why = match hard_prune::stop(&self.begun.cluster, target, Mode::Delete).await {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            if begin.elapsed() >= END_PATIENCE {
                return Err(why);
            }
            self.ui.message(&format!("it cannot be ended yet: {}; trying again", printable(&why)));
            tokio::time::sleep(END_PAUSE).await;
        }
    }

    /// Has the caches forget, and puts read-only mode back, which restarts every replica.
    async fn finish(
        &mut self,
        state: &State,
        holder: &Holder,
        deleted: &Findings,
        goes_on: bool,
    ) -> CacheOutcome {
        let unknown = state.kept.is_some() || deleted.has_unnamed() || goes_on;
        let has_deleted = !deleted.is_empty() || unknown;
        let mut outcome = cache_outcome(self.redis.is_some(), has_deleted);
        let doomed = if self.redis.is_some() && !unknown { Some(deleted.doomed()) } else { None };
        let forget = doomed.as_ref().map_or(Forget::All, Forget::Blobs);
        if has_deleted && let Some(redis) = &mut self.redis {
            self.ui.message("Cache step: Redis forgets what was deleted");
            redis.forget(forget).await;
        }
        let (options, ui, begun) = (self.options, self.ui, &self.begun);
        let by_hand = begun.switch(options).by_hand(state);
        let (mode, failure) = if goes_on && !state.is_anothers() {
            ui.warning(
                "the registry stays read-only: as long as hard prune goes on, it would delete what is pushed",
            );
            outcome.failure =
                Some("the replicas were not restarted: the registry stays read-only".to_owned());
            (ReadOnlyOutcome::LeftOn, None)
        } else if state.is_anothers() {
            let failure =
                if has_deleted { restart(options, ui, begun, &mut outcome).await.err() } else { None };
            (ReadOnlyOutcome::KeptOn, failure)
        } else {
            match put_back(options, ui, begun, Some(&holder.run), &mut outcome).await {
                Ok(mode) => (mode, None),
                Err(failure) => {
                    outcome.failure = Some(failure.message.clone());
                    let failure = failure
                        .hint(format!("try it again: {}", options.command(" --restore --confirm")))
                        .hint(format!("or by hand: {by_hand}"));
                    (ReadOnlyOutcome::LeftOn, Some(failure))
                }
            }
        };
        self.document.read_only = Some(mode);
        self.failures.extend(failure);
        if has_deleted && let Some(redis) = &mut self.redis {
            redis.forget(forget).await;
            let (told, hints) = redis.outcome();
            outcome.redis_eviction = Some(told);
            outcome.hints.extend(hints);
        }
        if has_deleted && outcome.failure.is_none() {
            self.ask(deleted, &mut outcome).await;
        }
        if outcome.may_lie() {
            outcome.repeat = Some(format!(
                "{} cache flush --all{}{}",
                options.program,
                options.redis.flags,
                options.access.place.flags() + &options.access.connection.flags()
            ));
        }
        outcome
    }

    /// Asks the replicas that serve now for some of what was deleted. Who may not ask, or cannot reach them, goes by the
    /// restart alone.
    async fn ask(&self, deleted: &Findings, outcome: &mut CacheOutcome) {
        let Self { options, ui, begun, .. } = self;
        let repositories: BTreeSet<String> =
            deleted.manifest_links().map(|(repository, _)| repository).take(ASKED).collect();
        let asked =
            cache::ask_for_deleted(&begun.cluster, &options.access, ui, deleted.blobs(), &repositories).await;
        match asked {
            Ok(check) => {
                for (replica, digests) in check.stale_by_replica() {
                    outcome.stale.entry(replica).or_default().extend(digests);
                }
                outcome.check = Some(check);
            }
            Err(why) => ui.message(&format!("Cache step: not checked: {}", printable(&why))),
        }
    }

    fn report(mut self, deleted: &Findings, cache: CacheOutcome, stopped: Option<Stop>) -> Exit {
        let (options, ui, begun, failures) = (self.options, self.ui, &self.begun, &self.failures);
        let exit = exit_of(failures, &cache, stopped);
        self.document.deleted = Some(found(options, deleted));
        self.document.interrupted = stopped.map(Stop::name);
        self.document.failures = failures.iter().map(|failure| failure.message.clone()).collect();
        self.document.failures.extend(deleted.problems.iter().cloned());
        let place = &begun.found.place;
        let restart = format!("oc rollout restart deployment/{} -n {}", place.deployment, place.namespace);
        let repeat = cache.repeat.clone().unwrap_or_default();
        let told = report::cache::report(&cache, &repeat, &restart);
        self.document.cache = Some(cache);
        report_end(options, ui, Mode::Delete, deleted, &self.document);
        for line in &told.lines {
            ui.message(line);
        }
        for failure in failures {
            ui.failure(failure);
        }
        if let Some(failure) = &told.failure {
            ui.failure(failure);
        }
        if let Some(stop) = stopped {
            let by =
                if stop == Stop::Timeout { timeout_flag(options.timeout) } else { stop.name().to_owned() };
            let left = self.check.blob_count().saturating_sub(deleted.blob_count());
            ui.failure(
                &Failure::nothing_changed(format!(
                    "hard prune: ended early by {by}: {} blob(s) deleted, about {left} left",
                    deleted.blob_count()
                ))
                .hint(format!("delete the rest: {}", options.command(" --confirm"))),
            );
        }
        exit
    }

    fn failed(&self, why: &str) -> Failure {
        Failure {
            exit: Exit::Failures,
            message: format!("hard prune: {}", printable(why)),
            hints: vec![format!("run it again, which goes on: {}", self.options.command(" --confirm"))],
        }
    }

    fn goes_on(&self, why: &str) -> Failure {
        let Self { options, begun, .. } = self;
        Failure {
            exit: Exit::Failures,
            message: format!(
                "hard prune: it may go on in the registry, and cannot be ended from here: {}",
                printable(why)
            ),
            hints: vec![
                format!("end it, and finish: {}", options.command(" --confirm --take-over")),
                format!(
                    "or only end it, and put read-only mode back: {}",
                    options.command(" --restore --confirm --take-over")
                ),
                format!("see what runs: oc get pods -n {}", begun.found.place.namespace),
            ],
        }
    }
}

fn end_with(ui: &Ui, failure: &Failure) -> Exit {
    ui.failure(failure);
    failure.exit
}

fn exit_of(failures: &[Failure], cache: &CacheOutcome, stopped: Option<Stop>) -> Exit {
    match stopped {
        Some(Stop::Signal(signal)) => signal.exit(),
        _ if cache.may_lie() => Exit::CacheMayLie,
        Some(Stop::Timeout) => Exit::Timeout,
        Some(Stop::LostLock) => Exit::Failures,
        None => failures.iter().map(|failure| failure.exit).max().unwrap_or(Exit::Done),
    }
}

/// What is done about the caches, whatever was deleted.
fn cache_outcome(redis: bool, needed: bool) -> CacheOutcome {
    let forgets = if redis { "Redis forgets what was deleted, then " } else { "" };
    let mut outcome = CacheOutcome::from_plan(CachePlan {
        step: "restart",
        redis,
        replicas: ReplicaStep::Restart,
        message: format!("restart: {forgets}every replica is replaced as read-only mode ends"),
        left: Vec::new(),
    });
    if !needed {
        outcome.nothing_deleted();
    }
    outcome
}

/// Puts read-only mode back, as this run or any other has found it.
async fn put_back(
    options: &HardPruneOptions,
    ui: &Arc<Ui>,
    begun: &Begun,
    run: Option<&str>,
    outcome: &mut CacheOutcome,
) -> Result<ReadOnlyOutcome, Failure> {
    ui.message("Read-only mode: putting it back to what it was");
    let tell = |progress: &Progress| ui.message(&format!("Read-only mode: {progress}"));
    match begun.switch(options).put_back(run, &tell).await? {
        Back::Nothing => Ok(ReadOnlyOutcome::PutBack),
        Back::Proven(proof) => {
            ui.message(&format!(
                "Read-only mode: as it was before; serving: {}",
                printable(&proof.serving.join(", "))
            ));
            outcome.replaced = proof.replaced;
            Ok(ReadOnlyOutcome::PutBack)
        }
        Back::Anothers(kept) => Err(Failure {
            exit: Exit::CacheMayLie,
            ..Failure::nothing_changed(format!(
                "put read-only mode back: another run has taken it over: {} at {}",
                sanitize(&kept.by),
                sanitize(&kept.since)
            ))
        }),
    }
}

/// Restarts the replicas of a registry that stays read-only: somebody else wants it so.
async fn restart(
    options: &HardPruneOptions,
    ui: &Arc<Ui>,
    begun: &Begun,
    outcome: &mut CacheOutcome,
) -> Result<(), Failure> {
    let tell = |progress: &Progress| ui.message(&format!("Cache step: {progress}"));
    let restart = Restart {
        cluster: &begun.cluster,
        place: &begun.found.place,
        timeout: options.rollout_timeout,
        pace: options.pace,
    };
    match rollout::restart(restart, &tell).await {
        Ok(Restarted::Nothing(why)) => ui.message(&why),
        Ok(Restarted::Proven { proof, .. }) => outcome.replaced = proof.replaced,
        Err(failure) => {
            outcome.failure = Some(failure.message.clone());
            outcome.hints.extend(failure.hints.iter().cloned());
            return Err(Failure { exit: Exit::CacheMayLie, ..failure.into() });
        }
    }
    Ok(())
}

/// Only puts read-only mode back, after a run that was killed.
async fn restore(options: &HardPruneOptions, ui: &Arc<Ui>, begun: Begun) -> Result<Exit, Failure> {
    let state = begun.read_only.clone()?;
    let Some(kept) = &state.kept else {
        ui.result(|out| {
            writeln!(out, "no run of hard-prune has left read-only mode on: nothing to put back")
        });
        return Ok(Exit::Done);
    };
    let since = format!("switched on by {} at {}", sanitize(&kept.by), sanitize(&kept.since));
    if !options.confirm {
        ui.result(|out| writeln!(out, "read-only mode ({}), {since}, would be put back", state.set_in));
        ui.message(&format!(
            "nothing was changed: add --confirm to do it; the registry's pods are replaced then: {}",
            options.command(" --restore --confirm")
        ));
        return Ok(Exit::Done);
    }
    let mut redis = Forgetting::prepare(&begun.cluster, &begun.found, &options.redis, ui.warnings()).await?;
    let mut outcome = cache_outcome(redis.is_some(), true);
    for (target, other) in begun.others.iter().flatten().filter(|(_, other)| other.deletes) {
        ui.message(&format!("Ending {other}"));
        hard_prune::stop(&begun.cluster, target, Mode::Delete)
            .await
            .map_err(|why| Failure::nothing_changed(format!("end {other}: {}", printable(&why))))?;
    }
    if let Some(redis) = &mut redis {
        redis.forget(Forget::All).await;
    }
    put_back(options, ui, &begun, None, &mut outcome).await?;
    if let Some(redis) = &mut redis {
        redis.forget(Forget::All).await;
        let (told, hints) = redis.outcome();
        outcome.redis_eviction = Some(told);
        outcome.hints.extend(hints);
    }
    ui.result(|out| writeln!(out, "read-only mode ({}), {since}, is put back", state.set_in));
    let place = &begun.found.place;
    let restart = format!("oc rollout restart deployment/{} -n {}", place.deployment, place.namespace);
    let told = report::cache::report(&outcome, &options.command(" --restore --confirm"), &restart);
    for line in &told.lines {
        ui.message(line);
    }
    told.failure.map_or(Ok(Exit::Done), Err)
}

/// This run, for the annotation.
fn holder() -> Holder {
    let host =
        std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    let host = host.map(|host| host.trim().to_owned()).filter(|host| !host.is_empty());
    let host = host.unwrap_or_else(|| "an unnamed host".to_owned());
    Holder {
        run: format!("{:016x}", fastrand::u64(..)),
        by: format!("process {} on {}", std::process::id(), sanitize(&host)),
        since: Timestamp::now().to_string(),
    }
}
