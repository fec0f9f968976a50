//! Asks the replicas for deleted blobs: whether a cache still names what is gone.
//!
//! Asking takes the right to get imagestreams/layers (`registry-viewer`, `system:image-puller`), which the pruner does not
//! have: without it nothing is proven, and nothing is called stale.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use schemars::JsonSchema;
use serde::Serialize;

use super::replicas::{Evictor, Replica};
use crate::registry::{Evidence, Freshness};

/// How many blobs `--check=sample` asks for.
const SAMPLE: usize = 50;

/// How many questions one replica is asked at once.
const AT_ONCE: usize = 8;

/// After so many questions in a row that took too long a replica is asked nothing more.
const UNANSWERED: usize = 3;

/// What takes too long.
const SLOW: Duration = Duration::from_secs(4);

/// How many answers that settle nothing are repeated in a report.
const SHOWN: usize = 5;

/// `--check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Extent {
    /// Nothing is asked.
    Off,
    /// Some of the blobs.
    #[default]
    Sample,
    /// Every blob.
    All,
}

impl Extent {
    /// The values of the flag.
    pub const BY_NAME: [(&'static str, Self); 3] =
        [("off", Self::Off), ("sample", Self::Sample), ("all", Self::All)];
}

/// A deleted blob, and a repository that had it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Question {
    /// `namespace/name`.
    pub(super) repository: String,
    /// The blob.
    pub(super) digest: String,
}

/// Chooses what to ask for; `random` makes the choice.
#[must_use]
pub(super) fn select(extent: Extent, questions: Vec<Question>, random: &mut fastrand::Rng) -> Vec<Question> {
    match extent {
        Extent::Off => Vec::new(),
        Extent::All => questions,
        Extent::Sample => random.choose_multiple(questions, SAMPLE),
    }
}

/// Which cache is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StaleCache {
    /// The replica's own digest cache, or a Redis: its answer does not tell.
    DigestCacheOrRedis,
    /// The replica forgot, and believes in the blob again: it filled up from Redis.
    Redis,
}

/// What a replica still believes in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stale {
    /// The name of the replica's pod.
    pub replica: String,
    /// A repository that had the blob.
    pub repository: String,
    /// The blob.
    pub digest: String,
    /// Which cache names it.
    pub cache: StaleCache,
}

/// What the replicas answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckOutcome {
    /// How many replicas were asked.
    pub replicas: usize,
    /// How many replicas could not be asked.
    pub unreachable: usize,
    /// How many questions each of them was asked: deleted blobs, each in every repository that had it.
    pub blobs: usize,
    /// How many such questions there are.
    pub deleted: usize,
    /// Answers that say: gone.
    pub clean: usize,
    /// Answers that say: an upload brought it back.
    pub there_again: usize,
    /// Questions that this user may not ask.
    pub not_allowed: usize,
    /// Answers that settle nothing.
    pub unknown: usize,
    /// The first of these answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown_answers: Vec<String>,
    /// Caches that still name what is gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stale: Vec<Stale>,
}

impl CheckOutcome {
    /// Whether every replica was asked every question, each got an answer, and none was stale.
    #[must_use]
    pub fn proves(&self) -> bool {
        self.blobs > 0 && self.blobs == self.deleted && self.replicas > 0 && self.is_clean()
    }

    /// Whether every replica answered what was asked, whatever was not, and none was stale.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.unreachable == 0 && self.stale.is_empty() && self.not_allowed == 0 && self.unknown == 0
    }

    /// Adds what was stale in answers before these.
    pub(super) fn and_stale(mut self, before: Vec<Stale>) -> Self {
        let question =
            |stale: &Stale| (stale.replica.clone(), stale.repository.clone(), stale.digest.clone());
        let known: BTreeSet<_> = before.iter().map(question).collect();
        self.stale.retain(|stale| !known.contains(&question(stale)));
        self.stale.extend(before);
        self.stale.sort();
        self
    }

    fn add(&mut self, replica: &str, question: &Question, freshness: Freshness, told: bool) {
        match freshness {
            Freshness::Clean => self.clean += 1,
            Freshness::ThereAgain => self.there_again += 1,
            Freshness::NotAllowed => self.not_allowed += 1,
            Freshness::Unknown(why) => {
                self.unknown += 1;
                if self.unknown_answers.len() < SHOWN {
                    self.unknown_answers.push(format!("{replica}: {why}"));
                }
            }
            Freshness::Stale(evidence) => self.stale.push(Stale {
                replica: replica.to_owned(),
                repository: question.repository.clone(),
                digest: question.digest.clone(),
                cache: match evidence {
                    Evidence::Replica if told => StaleCache::Redis,
                    _ => StaleCache::DigestCacheOrRedis,
                },
            }),
        }
    }

    /// The answers in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self {
            replicas,
            unreachable,
            blobs,
            deleted,
            clean,
            there_again,
            not_allowed,
            unknown,
            unknown_answers: _,
            stale,
        } = self;
        let mut parts = vec![format!("{clean} clean")];
        for (count, what) in [
            (*there_again, "there again by a new upload"),
            (stale.len(), "stale"),
            (*not_allowed, "not allowed to ask"),
            (*unknown, "unknown"),
            (*unreachable, "replica(s) not reached"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        format!(
            "{replicas} replica(s) asked {blobs} of {deleted} question(s) about deleted blobs: {}",
            parts.join(", ")
        )
    }

    /// Stale blobs by replica.
    #[must_use]
    pub fn stale_by_replica(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for stale in &self.stale {
            all.entry(stale.replica.clone()).or_default().insert(stale.digest.clone());
        }
        all
    }
}

/// Whether a replica that has just answered that its data is missing is told to forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mend {
    /// It is told, and asked again.
    Yes,
    /// It is only asked.
    No,
}

/// Asks every replica every question.
///
/// `deleted` is how many questions there would be to ask.
pub(super) async fn ask(
    evictor: &Evictor,
    questions: &[Question],
    deleted: usize,
    mend: Mend,
) -> CheckOutcome {
    let replicas = evictor.replicas();
    let asked = replicas.iter().map(|replica| ask_one(replica, questions, mend));
    let mut outcome = CheckOutcome {
        replicas: replicas.len(),
        unreachable: evictor.unreachable().len(),
        blobs: questions.len(),
        deleted,
        ..CheckOutcome::default()
    };
    for (replica, answers) in replicas.iter().zip(futures::future::join_all(asked).await) {
        for (question, freshness) in answers {
            outcome.add(replica.name(), question, freshness, mend == Mend::Yes);
        }
    }
    outcome.stale.sort();
    outcome
}

/// Asks one replica. One that hangs is left alone after a few questions.
pub(super) async fn ask_one<'a>(
    replica: &Replica,
    questions: &'a [Question],
    mend: Mend,
) -> Vec<(&'a Question, Freshness)> {
    let unanswered = &AtomicUsize::new(0);
    let answers = futures::stream::iter(questions).map(|question| async move {
        let Question { repository, digest } = question;
        if unanswered.load(Ordering::Relaxed) >= UNANSWERED {
            return (question, Freshness::Unknown("left alone: it did not answer before".to_owned()));
        }
        let begun = Instant::now();
        let freshness = match mend {
            Mend::Yes => replica.settle(repository, digest).await,
            Mend::No => replica.ask(repository, digest).await,
        };
        // An answer comes soon, whatever it says.
        if begun.elapsed() < SLOW {
            unanswered.store(0, Ordering::Relaxed);
        } else {
            unanswered.fetch_add(1, Ordering::Relaxed);
        }
        (question, freshness)
    });
    answers.buffer_unordered(AT_ONCE).collect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions(count: usize) -> Vec<Question> {
        (0..count).map(|n| Question { repository: "a/b".into(), digest: format!("sha256:{n}") }).collect()
    }

    #[test]
    fn a_sample_is_bounded_and_without_repetition() {
        let mut random = fastrand::Rng::with_seed(7);
        assert_eq!(select(Extent::Off, questions(9), &mut random), []);
        assert_eq!(select(Extent::All, questions(900), &mut random).len(), 900);
        assert_eq!(select(Extent::Sample, questions(9), &mut random), questions(9));
        let sample = select(Extent::Sample, questions(900), &mut random);
        let different: BTreeSet<_> = sample.iter().collect();
        assert_eq!((sample.len(), different.len()), (SAMPLE, SAMPLE));
        assert_ne!(sample, questions(SAMPLE));
    }

    #[test]
    fn what_was_stale_before_stays_so_once() {
        let stale = |digest: &str, cache| Stale {
            replica: "r".into(),
            repository: "a/b".into(),
            digest: digest.into(),
            cache,
        };
        let again = CheckOutcome {
            replicas: 1,
            blobs: 2,
            deleted: 2,
            stale: vec![
                stale("x", StaleCache::DigestCacheOrRedis),
                stale("z", StaleCache::DigestCacheOrRedis),
            ],
            ..CheckOutcome::default()
        };
        let both = again.and_stale(vec![stale("y", StaleCache::Redis), stale("x", StaleCache::Redis)]);
        let found: Vec<_> = both.stale.iter().map(|stale| (stale.digest.as_str(), stale.cache)).collect();
        assert_eq!(
            found,
            [("x", StaleCache::Redis), ("y", StaleCache::Redis), ("z", StaleCache::DigestCacheOrRedis)]
        );
        let clean = CheckOutcome { replicas: 1, blobs: 1, deleted: 1, ..CheckOutcome::default() };
        assert!(!clean.and_stale(vec![stale("x", StaleCache::Redis)]).proves());
    }

    #[test]
    fn only_answers_prove_anything() {
        let question = &questions(1)[0];
        let mut outcome = CheckOutcome { replicas: 1, blobs: 1, deleted: 1, ..CheckOutcome::default() };
        outcome.add("r", question, Freshness::Clean, true);
        assert!(outcome.proves());
        outcome.add("r", question, Freshness::ThereAgain, true);
        assert!(outcome.proves());
        for freshness in [
            Freshness::NotAllowed,
            Freshness::Unknown("503".into()),
            Freshness::Stale(Evidence::Storage),
            Freshness::Stale(Evidence::Replica),
        ] {
            let mut outcome = outcome.clone();
            outcome.add("r", question, freshness, true);
            assert!(!outcome.proves(), "{outcome:?}");
            assert!(!outcome.line().contains(" 0 "), "{}", outcome.line());
        }
        assert!(!CheckOutcome::default().proves(), "nothing asked is nothing proven");
    }
}
