//! The subcommand `cache flush`: reads what was deleted and makes Redis forget it, and the replicas that are stale. With
//! `--redis-url` it needs no cluster, and leaves the replicas alone.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::check::{self, Mend};
use super::super::choose::SharedRedis;
use super::super::detect::Place;
use super::super::input::{self, InputError};
use super::super::redis::{
    Access, Dialer, Doomed, Event, Evicted, Layout, Redis, RedisFailure, RedisOptions, Selection,
};
use super::super::step::{dialer, redis_access};
use super::check::{GIVE_REPOSITORIES, MAY_ASK};
use super::session::{ClusterAccess, Session};
use crate::cause::io_text;
use crate::error::{Exit, Failure};
use crate::execute::Signal;
use crate::text::{self, printable, sanitize};
use crate::ui::Ui;

/// How often a scan says how far it is, where somebody watches.
const PROGRESS: Duration = Duration::from_secs(2);

/// What to evict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `--digests-from`: a list; `-` is the standard input.
    Digests(PathBuf),
    /// `--from`: the document of a confirmed prune.
    Result(PathBuf),
    /// `--all`: every key of the cache.
    All,
}

impl Source {
    /// The flag to repeat this with, with a blank in front; what came from the standard input is gone.
    #[must_use]
    pub fn flags(&self) -> String {
        let name = |path: &Path| {
            if path.as_os_str() == "-" { "FILE".into() } else { path.to_string_lossy().into_owned() }
        };
        match self {
            Self::Digests(path) => text::flags([("--digests-from", Some(name(path)))]),
            Self::Result(path) => text::flags([("--from", Some(name(path)))]),
            Self::All => " --all".to_owned(),
        }
    }
}

/// Everything that `cache flush` was asked for.
#[derive(Debug, Clone)]
pub struct FlushOptions {
    /// Which Redis, and who to be there.
    pub redis: RedisOptions,
    /// Whose registry's Redis and replicas; none for the Redis of `--redis-url` alone.
    pub cluster: Option<ClusterAccess>,
    /// What to evict.
    pub source: Source,
    /// `--scan-repositories`: find the repositories of the blobs in Redis itself.
    pub scan_repositories: bool,
    /// `--dry-run`: only count.
    pub dry_run: bool,
    /// `--key-prefix`.
    pub key_prefix: String,
    /// `--report`.
    pub report: Option<PathBuf>,
    /// `-v`.
    pub verbosity: u8,
    /// The command to repeat all this, without a password.
    pub repeat: String,
}

/// Flushes, and tells what was evicted.
///
/// # Errors
/// Exit code 1 if the input cannot be read, or a dry run failed; 4 if the cache may still name what was deleted.
pub async fn flush(options: &FlushOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    let doomed = read_input(&options.source).await?;
    let mut done = Evicted::default();
    if doomed.as_ref().is_some_and(Doomed::is_empty) {
        tell_result(options, ui, "Redis", done);
        return Ok(Exit::Done);
    }
    let session = match &options.cluster {
        Some(access) => Some(Session::open(access, ui).await.map_err(|failure| {
            failure.hint("or name the Redis, which needs no cluster: --redis-url=redis://HOST:6379/DATABASE")
        })?),
        None => None,
    };
    let access = match &session {
        Some(session) => find_redis(options, session)?,
        None => options.redis.access(None),
    };
    match &access {
        Some(access) => {
            let dialer = match &session {
                Some(Session { cluster, found }) => dialer(cluster, found, &options.redis),
                None => Dialer::direct(),
            };
            let address = access.address.to_string();
            if let Err(failure) = evict(options, access, dialer, doomed.as_ref(), ui, &mut done).await {
                if done != Evicted::default() {
                    tell_result(options, ui, &address, done);
                }
                return Err(failed(options, &failure, access));
            }
            tell_result(options, ui, &address, done);
            if let Some(doomed) = &doomed {
                tell_unknown_repositories(options, ui, doomed);
            }
        }
        None => ui.message("the registry has no Redis"),
    }
    if options.dry_run {
        return Ok(Exit::Done);
    }
    if let (Some(access), Some(session), Some(doomed)) = (&options.cluster, &session, &doomed) {
        return settle_replicas(options, access, session, doomed, ui).await;
    }
    ui.warning(
        "each replica of the integrated registry has a digest cache of its own, which still names what was deleted for up to 10 minutes",
    );
    ui.message(
        "hint: pushes that re-use a deleted layer are broken until then; make the replicas forget: oc rollout restart deployment/image-registry -n openshift-image-registry",
    );
    Ok(Exit::Done)
}

/// The Redis that the registry is configured with; nothing if it has none.
fn find_redis(options: &FlushOptions, session: &Session) -> Result<Option<Access>, Failure> {
    let why = match redis_access(&session.found, &options.redis) {
        Ok(access) => return Ok(Some(access)),
        Err(SharedRedis::Absent) => return Ok(None),
        Err(SharedRedis::Reachable(address)) => address,
        Err(SharedRedis::MayBeThere(why)) => format!("there may be one: {why}"),
        Err(SharedRedis::Unreachable { why, .. }) => why,
    };
    let exit = if options.dry_run { Exit::NothingChanged } else { Exit::CacheMayLie };
    let message = format!("find the registry's Redis: {}", printable(&why));
    Err(Failure { exit, message, hints: Vec::new() }
        .hint("name it: --redis-url=redis://HOST:6379/DATABASE --redis-password-file=FILE")
        .hint("or say that there is none: --redis-url=none")
        .hint("see what there is, and which rights are missing: oc prune-images cache status"))
}

/// Makes replicas forget that have just answered that the data of a deleted blob is missing, and no others: to tell one
/// that has not could remove a fresh upload.
async fn settle_replicas(
    options: &FlushOptions,
    access: &ClusterAccess,
    session: &Session,
    doomed: &Doomed,
    ui: &Arc<Ui>,
) -> Result<Exit, Failure> {
    let evictor = session.replicas(access, ui).await.map_err(|failure| Failure {
        exit: Exit::CacheMayLie,
        ..failure
            .hint(format!("replicas may still name what was deleted; then repeat it: {}", options.repeat))
    })?;
    let (questions, without) = super::check::questions(doomed);
    let asked = questions.len();
    let answers = check::ask(&evictor, &questions, asked + without, Mend::Yes).await;
    ui.result(|out| writeln!(out, "{}", printable(&answers.line())));
    let unreachable = evictor.unreachable();
    for (pod, why) in &unreachable {
        ui.warning(&format!("replica {} cannot be asked: {}", printable(&pod.name), printable(why)));
    }
    if without == 0 && answers.is_clean() {
        return Ok(Exit::Done);
    }
    let Place { namespace, deployment } = &access.place;
    let mut failure = Failure {
        exit: Exit::CacheMayLie,
        message: "flush the caches: not every replica is known to have forgotten what was deleted".to_owned(),
        hints: Vec::new(),
    };
    if answers.not_allowed > 0 {
        failure = failure.hint(MAY_ASK);
    }
    if without > 0 {
        failure = failure.hint(GIVE_REPOSITORIES);
    }
    Err(failure
        .hint(format!("repeat it: {}", options.repeat))
        .hint(format!("or restart the replicas: oc rollout restart deployment/{deployment} -n {namespace}")))
}

async fn evict(
    options: &FlushOptions,
    access: &Access,
    dialer: Dialer,
    doomed: Option<&Doomed>,
    ui: &Arc<Ui>,
    done: &mut Evicted,
) -> Result<(), RedisFailure> {
    let tell = {
        let (ui, last) = (ui.clone(), Mutex::new(Instant::now()));
        Arc::new(move |event: &Event| match event {
            Event::Followed { replica, master } => {
                ui.warning(&format!("{replica} is a read-only replica: its master {master} is used"));
            }
            Event::Scanned(done) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if ui.is_watched() && last.elapsed() >= PROGRESS {
                    *last = Instant::now();
                    ui.message(&format!("{} key(s) looked at, {} evicted", done.scanned, done.keys));
                }
            }
        })
    };
    let layout = Layout::new(options.key_prefix.as_str());
    let mut redis = Redis::connect(access.clone(), dialer, options.dry_run, tell).await?;
    let Some(doomed) = doomed else { return redis.scan(&layout, Selection::All, done).await };
    redis.evict(&layout.evictions(doomed), done).await?;
    if options.scan_repositories {
        redis.scan(&layout, Selection::RepositoriesOf(doomed), done).await?;
    }
    Ok(())
}

/// Reads what was deleted; `None` stands for everything.
///
/// # Errors
/// It cannot be read, or says something else.
pub(super) async fn read_input(source: &Source) -> Result<Option<Doomed>, Failure> {
    let source = source.clone();
    // The standard input may be a terminal: a signal must not wait for what somebody types.
    tokio::task::spawn_blocking(move || load(&source))
        .await
        .map_err(|error| Failure::nothing_changed(format!("read the input: {error}")))?
}

fn load(source: &Source) -> Result<Option<Doomed>, Failure> {
    match source {
        Source::All => Ok(None),
        Source::Digests(path) => read(path, "digests", input::digests).map(Some),
        Source::Result(path) => read(path, "the result", input::result).map(Some),
    }
}

fn read(
    path: &Path,
    what: &str,
    parse: impl FnOnce(&str) -> Result<Doomed, InputError>,
) -> Result<Doomed, Failure> {
    let from_stdin = path == Path::new("-");
    let name = if from_stdin { "the standard input".to_owned() } else { sanitize(&path.to_string_lossy()) };
    let failed = |cause: &str| Failure::nothing_changed(format!("read {what} from {name}: {cause}"));
    let text = if from_stdin {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    let text = text.map_err(|error| failed(&io_text(&error)))?;
    parse(&text).map_err(|error| {
        let failure = failed(&error.to_string());
        match error {
            InputError::NoDigest { .. } | InputError::NoRepository { .. } => {
                failure.hint("the form of a line is [NAMESPACE/NAME@]sha256:HEX; blank lines and those with # in front are skipped")
            }
            InputError::NoJournal(_) => failure.hint("see what is wrong with it: oc prune-images journal show --journal=FILE"),
            InputError::NoDocument(_) | InputError::OtherKind(_) => {
                failure.hint("write one with: oc prune-images --confirm -o json > result.json")
            }
        }
    })
}

fn tell_result(options: &FlushOptions, ui: &Ui, address: &str, done: Evicted) {
    let Evicted { keys, members, scanned } = done;
    let verb = if options.dry_run { "would evict" } else { "evicted" };
    let scanned = if scanned == 0 { String::new() } else { format!(", {scanned} key(s) looked at") };
    ui.result(|out| {
        writeln!(out, "Summary: {verb} {keys} key(s) and {members} set member(s) of {address}{scanned}")
    });
}

/// A digest alone does not say which repositories had the blob.
fn tell_unknown_repositories(options: &FlushOptions, ui: &Ui, doomed: &Doomed) {
    let unknown = doomed.without_repository();
    if unknown == 0 || options.scan_repositories {
        return;
    }
    ui.warning(&format!(
        "{unknown} blob(s) came without a repository: only blobs::<digest> is evicted, what Redis holds about them in repositories stays"
    ));
    ui.message(&format!(
        "hint: it makes a deleted blob answerable again once its digest is cached anew; find it by a scan: {} --scan-repositories",
        options.repeat
    ));
}

fn failed(options: &FlushOptions, failure: &RedisFailure, access: &Access) -> Failure {
    let exit = if options.dry_run { Exit::NothingChanged } else { Exit::CacheMayLie };
    let hints = failure.hints(&access.address);
    let mut told = Failure { exit, message: failure.to_string(), hints };
    if !options.dry_run {
        told = told
            .hint(format!("the cache may still name what was deleted; then repeat it: {}", options.repeat));
    }
    told
}

/// The failure of a run that a signal has ended.
#[must_use]
pub fn interrupted(options: &FlushOptions, signal: Signal) -> Failure {
    let message = format!("flush the cache: ended early by {}", signal.name());
    Failure {
        exit: signal.exit(),
        message,
        hints: vec![format!("repeat it, twice does no harm: {}", options.repeat)],
    }
}
