//! The subcommand `cache check`: asks every replica of the registry for blobs that were deleted.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::super::check::{self, CheckOutcome, Extent, Mend, Question, StaleCache};
use super::super::redis::Doomed;
use super::flush::{Source, read_input};
use super::session::{ClusterAccess, Session};
use crate::cli::OutputFormat;
use crate::error::{Exit, Failure};
use crate::execute::Signal;
use crate::report::document::API_VERSION;
use crate::text::printable;
use crate::ui::Ui;

/// Everything that `cache check` was asked for.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// Which cluster, and where its registry is.
    pub cluster: ClusterAccess,
    /// What was deleted.
    pub source: Source,
    /// `--check`.
    pub extent: Extent,
    /// The form of the output.
    pub output: OutputFormat,
    /// `--report`.
    pub report: Option<PathBuf>,
    /// `-v`.
    pub verbosity: u8,
    /// `oc prune-images`, or how else it is called.
    pub program: String,
}

/// What the replicas answered.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheCheck {
    /// `prune-images/v1alpha1`.
    pub api_version: &'static str,
    /// `CacheCheck`.
    pub kind: &'static str,
    /// The URL of the API server.
    pub server: String,
    /// `clean`, `stale`, or `unproven`: not every question that was chosen got an answer.
    pub verdict: &'static str,
    /// Deleted blobs of which no repository is known: they cannot be asked for.
    pub without_repository: usize,
    /// Replicas that could not be asked, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unreachable: BTreeMap<String, String>,
    /// The answers.
    pub check: CheckOutcome,
}

/// What helps where the replicas may not be asked.
pub(super) const MAY_ASK: &str = "asking takes the right to get imagestreams/layers: oc adm policy add-cluster-role-to-user registry-viewer <user>";

/// What helps where nobody knows what to ask.
pub(super) const GIVE_REPOSITORIES: &str =
    "a blob is asked for in a repository that had it: give lines of the form NAMESPACE/NAME@sha256:HEX";

/// Asks, and returns what was answered.
///
/// # Errors
/// Exit code 1 if the input cannot be read, or the replicas cannot be found.
pub async fn check(options: &CheckOptions, ui: &Arc<Ui>) -> Result<CacheCheck, Failure> {
    let doomed = read_input(&options.source).await?.unwrap_or_default();
    let session = Session::open(&options.cluster, ui).await?;
    let evictor = session.replicas(&options.cluster, ui).await?;
    let (questions, without_repository) = questions(&doomed);
    let deleted = questions.len() + without_repository;
    let chosen = check::select(options.extent, questions, &mut fastrand::Rng::new());
    let unreachable: BTreeMap<String, String> =
        evictor.unreachable().into_iter().map(|(pod, why)| (pod.name, why)).collect();
    let answers = check::ask(&evictor, &chosen, deleted, Mend::No).await;
    Ok(CacheCheck {
        api_version: API_VERSION,
        kind: "CacheCheck",
        server: session.cluster.server().to_owned(),
        verdict: verdict(&answers, without_repository),
        without_repository,
        unreachable,
        check: answers,
    })
}

fn verdict(answers: &CheckOutcome, without_repository: usize) -> &'static str {
    if !answers.stale.is_empty() {
        "stale"
    } else if answers.deleted == 0 || without_repository == 0 && answers.is_clean() {
        "clean"
    } else {
        "unproven"
    }
}

/// Each deleted blob in each of its repositories: a replica answers for each by itself. And how many blobs have none.
pub(super) fn questions(doomed: &Doomed) -> (Vec<Question>, usize) {
    let questions: Vec<Question> = doomed
        .links()
        // A digest that lost only a link is still there elsewhere, and answered for.
        .filter(|(_, digest)| doomed.has_blob(digest))
        .map(|(repository, digest)| Question { repository: repository.to_owned(), digest: digest.to_owned() })
        .collect();
    (questions, doomed.without_repository())
}

/// The exit code, and what is told on stderr.
#[must_use]
pub fn conclusion(options: &CheckOptions, found: &CacheCheck) -> Option<Failure> {
    let place = &options.cluster.place;
    match found.verdict {
        "clean" => None,
        "stale" => {
            let redis = found.check.stale.iter().any(|stale| stale.cache == StaleCache::Redis);
            let failure = Failure {
                exit: Exit::CacheMayLie,
                message: format!("check the caches: {} answer(s) are stale", found.check.stale.len()),
                hints: Vec::new(),
            };
            let failure = failure.hint(format!(
                "make Redis and the replicas forget: {} cache flush{}{}",
                options.program,
                options.source.flags(),
                options.cluster.flags()
            ));
            if redis {
                return Some(failure);
            }
            Some(failure.hint(format!(
                "or restart the replicas, after Redis: oc rollout restart deployment/{} -n {}",
                place.deployment, place.namespace
            )))
        }
        _ => {
            let failure =
                Failure::nothing_changed("check the caches: not every replica answered every question");
            Some(if found.check.not_allowed > 0 {
                failure.hint(MAY_ASK)
            } else if found.without_repository > 0 {
                failure.hint(GIVE_REPOSITORIES)
            } else {
                failure.hint(format!("see which replicas can be reached: {} cache status", options.program))
            })
        }
    }
}

/// Writes the answers for people.
///
/// # Errors
/// Those of the writer.
pub fn write_text(out: &mut dyn Write, found: &CacheCheck) -> io::Result<()> {
    writeln!(out, "{}", printable(&found.check.line()))?;
    if found.without_repository > 0 {
        writeln!(out, "{} blob(s) without a repository were not asked for", found.without_repository)?;
    }
    for (replica, why) in &found.unreachable {
        writeln!(out, "replica {} cannot be asked: {}", printable(replica), printable(why))?;
    }
    for answer in &found.check.unknown_answers {
        writeln!(out, "unknown: {}", printable(answer))?;
    }
    for stale in &found.check.stale {
        let cache = match stale.cache {
            StaleCache::DigestCacheOrRedis => "digest cache or Redis",
            StaleCache::Redis => "Redis",
        };
        writeln!(
            out,
            "stale: replica {} believes in {} in {} ({cache})",
            printable(&stale.replica),
            printable(&stale.digest),
            printable(&stale.repository)
        )?;
    }
    Ok(())
}

/// The failure of a run that a signal has ended.
#[must_use]
pub fn interrupted(signal: Signal) -> Failure {
    Failure {
        exit: signal.exit(),
        message: format!("check the caches: ended by {}", signal.name()),
        hints: Vec::new(),
    }
}
