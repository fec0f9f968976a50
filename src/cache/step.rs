//! The cache step of a prune: chosen before the first change, done blob by blob, finished and proven at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use super::check::{self, Extent, Mend, Question};
use super::choose::{
    Choice, Memory, Reach, ReplicaStep, SharedRedis, Situation, Strategy, choose, unknown_ttl,
};
use super::commands::switch::{Consent, SwitchOptions, Turn, switch_with};
use super::detect::{
    CacheConfig, DescriptorCache, DigestCache, Discovery, Place, Pod, Reading, Source, discover,
};
use super::outcome::{CacheOutcome, CachePlan, RedisOutcome};
use super::redis::{
    Access, Dialer, Doomed, Event as RedisEvent, Layout, RedisAddress, RedisOptions, SharedCache, Whereabouts,
};
use super::replicas::{Evictor, Pace, Unconfirmed, Way};
use super::rollout::{self, Progress, Proof, Restart, Restarted, Survivor, Ways};
use crate::cluster::{Cluster, ConnectionOptions};
use crate::error::Failure;
use crate::execute::{Meanwhile, Signal};
use crate::journal::{Inherited, InheritedBlob};
use crate::registry::{self, Freshness, Registry, is_repository};
use crate::text::time_text;

/// How long one blob waits for Redis before the replicas are told all the same; what Redis did not confirm by then is
/// caught up on.
const REDIS_DEADLINE: Duration = Duration::from_millis(500);

/// How often replicas that had to be told are followed by Redis and asked again.
const ROUNDS: usize = 3;

/// How many questions are asked of each replica in repositories that others have pushed to.
const ELSEWHERE: usize = 20_000;

/// How long after its time a pod may take to end, how often to look, and how long to wait for one in all.
const ENDING: Duration = Duration::from_secs(10);
const ENDING_POLL: Duration = Duration::from_secs(2);
const LONGEST_ENDING: Duration = Duration::from_secs(120);

/// How long an entry lives in a replica, by the image's own configuration.
const DEFAULT_TTL: Duration = Duration::from_secs(600);

/// What flags say about the cache step.
#[derive(Debug, Clone)]
pub struct CacheOptions {
    /// `--registry-cache`.
    pub strategy: Strategy,
    /// `--check`.
    pub check: Extent,
    /// `--cache-timeout`: how long a rollout may take.
    pub timeout: Duration,
    /// `--registry-namespace` and `--registry-deployment`.
    pub place: Place,
    /// `--redis-…`.
    pub redis: RedisOptions,
}

/// What happens in the cache step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheEvent {
    /// Something worth a line on stderr.
    Progress(String),
    /// A rollout goes on.
    Pods {
        /// How many of the pods that served before serve no more.
        replaced: usize,
        /// How many there were; 0 while nobody knows.
        total: usize,
        /// What is worth a line on stderr.
        text: String,
    },
    /// Something that the administrator should know.
    Warning(String),
}

impl CacheEvent {
    fn of(progress: &Progress) -> Self {
        let Progress { replaced, total, message: _ } = progress;
        Self::Pods { replaced: *replaced, total: *total, text: progress.to_string() }
    }
}

/// A step that could be taken instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepOption {
    /// What takes it.
    pub strategy: Strategy,
    /// The word of `--registry-cache`.
    pub step: &'static str,
    /// What is done and to whom, on one line, or why that is not possible.
    pub effect: Result<String, String>,
}

/// Hears of what happens.
pub type Tell = Arc<dyn Fn(CacheEvent) + Send + Sync>;

/// The caches as they were found, and what is done about them.
#[derive(Debug)]
pub struct CacheStep {
    options: CacheOptions,
    choice: Choice,
    memory: Memory,
    /// What the choice was made from; absent for a registry of which nothing is known.
    situation: Option<Situation>,
    /// The Redis that can be spoken to, whether that is chosen or not.
    redis: Option<(SharedCache, RedisAddress)>,
    evictor: Option<Evictor>,
    gone: Mutex<Gone>,
}

/// What is gone from the registry.
#[derive(Debug, Default)]
struct Gone {
    /// Each blob, with the repositories that had it as far as they are known.
    blobs: BTreeMap<String, Vec<String>>,
    links: usize,
    last: Option<(Instant, Timestamp)>,
}

impl CacheStep {
    /// Looks for the caches, finds out what can be done, and chooses.
    ///
    /// # Errors
    /// What `--registry-cache` asks for by name is not possible, or the Redis of `--redis-url` cannot be spoken to: exit
    /// code 1.
    pub async fn prepare(
        cluster: &Cluster,
        registry: &Registry,
        options: &CacheOptions,
        tell: &Tell,
    ) -> Result<Self, Failure> {
        let found = discover(cluster, &options.place).await;
        if let Some(choice) = for_nowhere(options, &found) {
            let memory = Memory::MayBeOn { ttl: DEFAULT_TTL, why: choice.message.clone() };
            return Ok(Self {
                options: options.clone(),
                choice,
                memory,
                situation: None,
                redis: None,
                evictor: None,
                gone: Mutex::default(),
            });
        }
        let memory = memory(&found);
        let (shared, redis) = redis(cluster, &found, &options.redis, tell).await?;
        let registry = service_ca(cluster, &found.place, registry.clone()).await;
        let (reach, evictor) = reach(cluster, &registry, &found).await;
        let situation = Situation { memory, redis: shared, reach, restart: restart(cluster, &found).await };
        let choice = choose(options.strategy, &situation).map_err(|impossible| {
            Failure::nothing_changed(impossible.to_string())
                .hint("let the first step that is possible be taken: --registry-cache=auto")
                .hint("see what there is, and which rights would allow more: oc prune-images cache status")
        })?;
        let memory = situation.memory.clone();
        let (options, situation) = (options.clone(), Some(situation));
        Ok(Self { options, choice, memory, situation, redis, evictor, gone: Mutex::default() })
    }

    /// What could be done instead, and what is chosen now, in the order of the flag's values; nothing where nothing has
    /// to be done, or nothing is known of the registry.
    #[must_use]
    pub fn alternatives(&self) -> Vec<StepOption> {
        let Some(situation) = self.situation.as_ref().filter(|_| self.choice.step != "unneeded") else {
            return Vec::new();
        };
        let named = Strategy::BY_NAME.into_iter().filter(|(_, strategy)| *strategy != Strategy::Auto);
        named
            .map(|(step, strategy)| {
                let effect = if step == self.choice.step {
                    Ok(self.choice.message.clone())
                } else {
                    match choose(strategy, situation) {
                        Ok(choice) => Ok(choice.message),
                        Err(impossible) => Err(impossible.why),
                    }
                };
                StepOption { strategy, step, effect }
            })
            .collect()
    }

    /// Takes another step. The one that is chosen already stays as it is, with what it falls back to.
    ///
    /// # Errors
    /// It is not possible: exit code 1.
    pub fn choose(&mut self, option: &StepOption) -> Result<(), Failure> {
        if let Some(situation) = self.situation.as_ref().filter(|_| option.step != self.choice.step) {
            self.choice = choose(option.strategy, situation)
                .map_err(|impossible| Failure::nothing_changed(impossible.to_string()))?;
        }
        Ok(())
    }

    fn redis(&self) -> Option<&(SharedCache, RedisAddress)> {
        self.redis.as_ref().filter(|_| self.choice.redis)
    }

    /// How many Redis keys were evicted so far, if a Redis is made to forget.
    #[must_use]
    pub fn evicted_keys(&self) -> Option<u64> {
        self.redis().map(|(redis, _)| redis.evicted().keys)
    }

    /// Whether a Redis is made to forget.
    #[must_use]
    pub fn has_redis(&self) -> bool {
        self.redis().is_some()
    }

    /// Whether each replica is made to forget each blob.
    #[must_use]
    pub fn evicts(&self) -> bool {
        self.choice.replicas == ReplicaStep::Evict
    }

    /// What is done and why, for the document and before the confirmation.
    #[must_use]
    pub fn plan(&self) -> CachePlan {
        CachePlan::of(&self.choice)
    }

    fn gone(&self) -> MutexGuard<'_, Gone> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what has to be done before the first deletion.
    ///
    /// # Errors
    /// The caches could not be switched off: nothing was deleted.
    pub async fn before(
        &self,
        cluster: &Cluster,
        connection: &ConnectionOptions,
        program: &str,
        tell: &Tell,
    ) -> Result<(), Failure> {
        if self.choice.replicas != ReplicaStep::Disable {
            return Ok(());
        }
        let CacheOptions { place, timeout, .. } = &self.options;
        let repeat =
            format!("{program} cache disable --confirm{}{}", place.flags(), connection.writing_flags());
        let options = SwitchOptions {
            report: None,
            connection: connection.clone(),
            place: place.clone(),
            turn: Turn::Off,
            confirm: true,
            timeout: *timeout,
            set_unmanaged: Consent::None,
            redis_is_flushed: false,
            verbosity: 0,
            program: program.to_owned(),
            repeat,
            pace: rollout::Pace::default(),
        };
        let progress = |progress: &Progress| tell(CacheEvent::of(progress));
        let switched = switch_with(&options, cluster, &progress, async || None).await?;
        for line in switched.lines.into_iter().chain(switched.messages) {
            tell(CacheEvent::Progress(line));
        }
        Ok(())
    }

    /// Makes the caches forget a blob whose data the registry has just deleted, in the only order that works: Redis,
    /// then every replica.
    pub async fn blob_gone(&self, digest: &str, repositories: &BTreeSet<&str>) {
        {
            let mut gone = self.gone();
            let repositories = repositories.iter().map(|name| (*name).to_owned()).collect();
            gone.blobs.insert(digest.to_owned(), repositories);
            gone.last = Some((Instant::now(), Timestamp::now()));
        }
        let mut in_doubt = false;
        if let Some((redis, _)) = self.redis() {
            let mut doomed = Doomed::default();
            doomed.blob(digest);
            for repository in repositories.iter().filter(|name| is_repository(name)) {
                doomed.link(repository, digest);
            }
            if let Err(failure) = redis.evict(doomed, REDIS_DEADLINE).await {
                tracing::debug!(digest, %failure, "Redis did not confirm in time");
                in_doubt = true;
            }
        }
        if let Some(evictor) = &self.evictor
            && self.evicts()
        {
            // At once: the later it is sent, the more likely it removes what an upload has brought back.
            evictor.evict(digest).await;
            if in_doubt {
                evictor.doubt(digest);
            }
        }
    }

    /// Makes Redis forget that a repository has a blob; the blob itself may stay, so the replicas are not told.
    pub async fn link_gone(&self, repository: &str, digest: &str) {
        self.gone().links += 1;
        if let Some((redis, _)) = self.redis()
            && is_repository(repository)
        {
            let mut doomed = Doomed::default();
            doomed.link(repository, digest);
            // What is not confirmed is tried again at the end.
            let _ = redis.evict(doomed, REDIS_DEADLINE).await;
        }
    }

    /// Whether Redis and every replica have confirmed that they forgot this blob, which is gone.
    #[must_use]
    pub fn has_forgotten(&self, digest: &str) -> bool {
        let evictor = self.evictor.as_ref().filter(|_| self.evicts());
        evictor.is_some_and(|evictor| !evictor.is_doubtful(digest))
    }

    /// Takes over what another run has, or may have, deleted, the last of it at `last`. Redis forgets it at once. Replicas
    /// are told nothing: who did not confirm that it forgot a blob is asked for it at the end, and one that has just
    /// answered twice that the data is missing is told then, so that no upload which came since is lost.
    pub async fn inherit(&self, inherited: &Inherited, last: Timestamp) {
        let Inherited { blobs, links } = inherited;
        if inherited.is_empty() {
            return;
        }
        {
            let mut gone = self.gone();
            gone.links += links.len();
            for InheritedBlob { digest, repositories, .. } in blobs {
                gone.blobs.insert(digest.clone(), repositories.iter().cloned().collect());
            }
            let (now, time) = (Instant::now(), Timestamp::now());
            let ago = Duration::try_from(time.duration_since(last)).unwrap_or_default();
            // A machine may have been started since.
            gone.last = Some((now.checked_sub(ago).unwrap_or(now), last.min(time)));
        }
        if let Some((redis, _)) = self.redis() {
            let mut doomed = Doomed::default();
            for InheritedBlob { digest, repositories, .. } in blobs {
                doomed.blob(digest);
                for repository in repositories.iter().filter(|name| is_repository(name)) {
                    doomed.link(repository, digest);
                }
            }
            for (repository, digest) in links.iter().filter(|(repository, _)| is_repository(repository)) {
                doomed.link(repository, digest);
            }
            // What is not confirmed is tried again at the end.
            let _ = redis.evict(doomed, REDIS_DEADLINE).await;
        }
        if let Some(evictor) = self.evictor.as_ref().filter(|_| self.evicts()) {
            for InheritedBlob { digest, .. } in blobs.iter().filter(|blob| !blob.forgotten) {
                evictor.doubt(digest);
            }
        }
    }

    /// Finishes the step for what was deleted: Redis once more, what is left of the replicas, and the proof.
    ///
    /// What takes long, a wait or a restart, ends when `stop` becomes something, and is not begun after that. Where replicas are evicted it may be done again, for what was pushed since.
    pub async fn finish(
        &self,
        cluster: &Cluster,
        meanwhile: &Meanwhile,
        tell: &Tell,
        stop: watch::Receiver<Option<Signal>>,
    ) -> CacheOutcome {
        let mut finishing = Finishing {
            outcome: CacheOutcome::of(&self.choice),
            step: self,
            cluster,
            meanwhile,
            tell,
            stop,
            is_stale_elsewhere: false,
        };
        let (blobs, links) = {
            let gone = self.gone();
            (gone.blobs.len(), gone.links)
        };
        if blobs + links == 0 {
            finishing.outcome.nothing_deleted();
            return finishing.outcome;
        }
        finishing.redis().await;
        if blobs > 0 {
            finishing.replicas().await;
        }
        finishing.outcome
    }

    /// Each deleted blob in each of its repositories: a replica answers for each by itself. And how many questions there
    /// would be if at least one repository of every blob were known.
    fn questions(&self) -> (Vec<Question>, usize) {
        let gone = self.gone();
        let questions: Vec<Question> =
            gone.blobs.iter().flat_map(|(digest, repositories)| questions_of(digest, repositories)).collect();
        let unknown = gone.blobs.values().filter(|repositories| repositories.is_empty()).count();
        let all = questions.len() + unknown;
        (questions, all)
    }

    fn ttl(&self) -> Duration {
        match &self.memory {
            Memory::Off => Duration::ZERO,
            Memory::On { ttl } | Memory::MayBeOn { ttl, .. } => *ttl,
        }
    }

    /// The second from which on no replica remembers what was deleted (RFC 3339).
    fn stale_until(&self) -> Option<String> {
        let (_, time) = self.expires()?;
        Some(Timestamp::from_second(time.as_second() + 1).unwrap_or(time).to_string())
    }

    /// When the replicas' entries have expired.
    fn expires(&self) -> Option<(Instant, Timestamp)> {
        let (at, time) = self.gone().last?;
        Some((at + self.ttl(), time.saturating_add(self.ttl()).unwrap_or(time)))
    }
}

/// The end of the step.
struct Finishing<'a> {
    step: &'a CacheStep,
    cluster: &'a Cluster,
    meanwhile: &'a Meanwhile,
    tell: &'a Tell,
    stop: watch::Receiver<Option<Signal>>,
    outcome: CacheOutcome,
    /// Whether a replica may be stale in a repository that had nothing to do with the prune: of those the check asks
    /// nothing, so it proves nothing about them.
    is_stale_elsewhere: bool,
}

impl Finishing<'_> {
    fn progress(&self, text: impl Into<String>) {
        (self.tell)(CacheEvent::Progress(text.into()));
    }

    /// Whether somebody asked for an end, before this or meanwhile.
    fn is_to_end(&self) -> bool {
        self.stop.borrow().is_some()
    }

    /// Whether there is a Redis that may still name what was deleted, although it was to be made to forget.
    fn redis_is_stale(&self) -> bool {
        self.outcome.redis_eviction.as_ref().is_some_and(|redis| redis.failure.is_some())
    }

    /// Redis once more, for what was not confirmed and what was put back meanwhile.
    async fn redis(&mut self) {
        let Some((redis, address)) = self.step.redis() else { return };
        let finished = redis.finish().await;
        let evicted = redis.evicted();
        let unconfirmed = redis.unconfirmed();
        let mut told = RedisOutcome {
            address: address.to_string(),
            keys: evicted.keys,
            members: evicted.members,
            unconfirmed: unconfirmed.digests().map(str::to_owned).collect(),
            failure: None,
        };
        match finished {
            Ok(again) => {
                // A replica may have filled up from what Redis had again, until just now.
                if !again.blobs.is_empty() {
                    self.step.gone().last = Some((Instant::now(), Timestamp::now()));
                }
                if let Some(evictor) = self.step.evictor.as_ref().filter(|_| self.step.evicts()) {
                    for digest in &again.blobs {
                        evictor.doubt(digest);
                    }
                }
            }
            Err(failure) => {
                for hint in failure.hints(address) {
                    if !self.outcome.hints.contains(&hint) {
                        self.outcome.hints.push(hint);
                    }
                }
                told.failure = Some(failure.to_string());
            }
        }
        self.outcome.redis_eviction = Some(told);
    }

    /// What is left of the replicas, each next choice until nothing is stale, and the proof.
    async fn replicas(&mut self) {
        let mut steps =
            std::iter::once(self.step.choice.replicas).chain(self.step.choice.next.iter().copied());
        let Some(mut current) = steps.next() else { return };
        loop {
            let done = match current {
                ReplicaStep::Unneeded | ReplicaStep::Disable => true,
                ReplicaStep::Evict => self.settle_for_good().await,
                ReplicaStep::Restart => self.restart().await,
                ReplicaStep::Wait => self.wait().await,
                ReplicaStep::Leave => {
                    self.outcome.stale_until = self.step.stale_until();
                    false
                }
            };
            let clean = match current {
                // Nobody claims that it is clean.
                ReplicaStep::Leave => true,
                _ => self.check(current, done).await,
            };
            if clean && current != ReplicaStep::Leave {
                self.outcome.stale.clear();
                self.outcome.stale_until = None;
            }
            // Whatever empties the replicas' own caches, they would fill up from a Redis again.
            if clean || self.redis_is_stale() {
                return;
            }
            self.outcome.stale_until = self.step.stale_until();
            if self.is_to_end() {
                let why = "the run was ended before the replicas' caches were empty";
                self.outcome.failure.get_or_insert_with(|| why.to_owned());
                return;
            }
            let Some(next) = steps.next() else { return };
            current = next;
            self.progress(match next {
                ReplicaStep::Restart => "some replicas may still be stale: they are restarted",
                _ => "some replicas may still be stale: what they remember is left to expire",
            });
        }
    }

    /// [`Finishing::settle`], and Redis once more, until no replica had to be told anything.
    async fn settle_for_good(&mut self) -> bool {
        let told = || self.step.evictor.as_ref().map_or(0, Evictor::told);
        let mut before = told();
        let mut done = self.settle().await;
        for _ in 0..ROUNDS {
            if told() == before {
                break;
            }
            before = told();
            self.redis().await;
            done = self.settle().await;
        }
        done
    }

    /// Asks replicas that did not confirm, or came late; whether nothing is left.
    async fn settle(&mut self) -> bool {
        let Some(evictor) = &self.step.evictor else { return true };
        let listed = self.until_ended(evictor).await;
        let asked = evictor.unconfirmed().into_iter().map(|unconfirmed| self.still_stale(unconfirmed));
        let asked = futures::future::join_all(asked).await;
        let mut stale: BTreeMap<String, BTreeSet<String>> =
            asked.into_iter().filter(|(_, digests)| !digests.is_empty()).collect();
        let elsewhere = self.elsewhere(evictor).await;
        self.is_stale_elsewhere = !elsewhere.is_empty();
        for (replica, digest) in elsewhere {
            stale.entry(replica).or_default().insert(digest);
        }
        if let Err(why) = listed {
            self.outcome.failure = Some(format!("the registry's pods could not be listed again: {why}"));
        }
        let done = stale.is_empty() && self.outcome.failure.is_none();
        if !stale.is_empty() {
            self.progress(format!(
                "{} replica(s) did not confirm that they forgot every blob: {}",
                stale.len(),
                stale.keys().cloned().collect::<Vec<_>>().join(", ")
            ));
        }
        self.outcome.stale = stale;
        done
    }

    /// Lists the replicas, again and again while pods that did not confirm are about to end: what they remember ends with
    /// them.
    async fn until_ended(&self, evictor: &Evictor) -> Result<(), String> {
        let mut stop = self.stop.clone();
        let begun = Instant::now();
        loop {
            evictor.refresh().await?;
            let ending = evictor.unconfirmed().into_iter().filter(|unconfirmed| unconfirmed.pod.terminating);
            let is_due = |pod: &Pod| {
                let due = pod
                    .deletion
                    .is_some_and(|due| Timestamp::now() < due.saturating_add(ENDING).unwrap_or(due));
                due && begun.elapsed() < LONGEST_ENDING
            };
            let pods: Vec<Pod> = ending.map(|unconfirmed| unconfirmed.pod).filter(is_due).collect();
            let Some(pod) = pods.first() else { return Ok(()) };
            self.progress(format!("waiting for pod {}, which is ending", pod.name));
            tokio::select! {
                () = tokio::time::sleep(ENDING_POLL) => {}
                _ = stop.wait_for(Option::is_some) => return Ok(()),
            }
        }
    }

    /// What replicas may still believe in because of uploads that came between their evictions: in repositories that
    /// others have pushed to meanwhile, which had nothing to do with the prune.
    async fn elsewhere(&self, evictor: &Evictor) -> Vec<(String, String)> {
        let blobs: Vec<String> = self.step.gone().blobs.keys().cloned().collect();
        let question = |repository: &str, digest: &str| Question {
            repository: repository.to_owned(),
            digest: digest.to_owned(),
        };
        let suspects: BTreeSet<Question> =
            self.meanwhile.suspects().map(|(repository, digest)| question(repository, digest)).collect();
        let mut questions = suspects.clone();
        if self.meanwhile.repositories().count().saturating_mul(blobs.len()) <= ELSEWHERE {
            questions.extend(
                self.meanwhile
                    .repositories()
                    .flat_map(|repository| blobs.iter().map(move |digest| question(repository, digest))),
            );
        }
        let questions: Vec<Question> = questions.into_iter().collect();
        let (mut left, replicas) = (Vec::new(), evictor.replicas());
        let (Some(first), Some(replica)) = (questions.first(), replicas.first()) else { return left };
        if replica.ask(&first.repository, &first.digest).await == Freshness::NotAllowed {
            for replica in &replicas {
                left.extend(
                    suspects.iter().map(|suspect| (replica.name().to_owned(), suspect.digest.clone())),
                );
            }
            return left;
        }
        for replica in replicas {
            for (question, freshness) in check::ask_one(&replica, &questions, Mend::Yes).await {
                let may_be_stale = match freshness {
                    Freshness::Clean | Freshness::ThereAgain => false,
                    Freshness::Stale(_) => true,
                    // Somebody has brought the blob up, so there is reason to doubt.
                    Freshness::NotAllowed | Freshness::Unknown(_) => suspects.contains(question),
                };
                if may_be_stale {
                    left.push((replica.name().to_owned(), question.digest.clone()));
                }
            }
        }
        left
    }

    /// Which blobs a replica may still believe in, once it was asked for them.
    async fn still_stale(&self, unconfirmed: Unconfirmed) -> (String, BTreeSet<String>) {
        let Unconfirmed { pod, replica, mut digests } = unconfirmed;
        let Ok(replica) = replica else { return (pod.name, digests) };
        let questions: Vec<Question> = {
            let gone = self.step.gone();
            let known = digests.iter().filter_map(|digest| gone.blobs.get_key_value(digest));
            known.flat_map(|(digest, repositories)| questions_of(digest, repositories)).collect()
        };
        // What is in no repository cannot be asked for.
        let asked: BTreeSet<&str> = questions.iter().map(|question| question.digest.as_str()).collect();
        digests.retain(|digest| !asked.contains(digest.as_str()));
        for (question, freshness) in check::ask_one(&replica, &questions, Mend::Yes).await {
            if !matches!(freshness, Freshness::Clean | Freshness::ThereAgain) {
                digests.insert(question.digest.clone());
            }
        }
        (pod.name, digests)
    }

    /// Replaces all replicas; whether it is proven that no pod that served before serves any more.
    async fn restart(&mut self) -> bool {
        if self.is_to_end() || self.redis_is_stale() {
            return false;
        }
        let CacheOptions { place, timeout, .. } = &self.step.options;
        let tell = self.tell;
        let progress = |progress: &Progress| tell(CacheEvent::of(progress));
        let pace = rollout::Pace::default();
        let restart =
            rollout::restart(Restart { cluster: self.cluster, place, timeout: *timeout, pace }, &progress);
        let restarted = tokio::select! {
            restarted = restart => restarted,
            _ = self.stop.wait_for(Option::is_some) => {
                self.outcome.failure = Some("the restart of the registry was not waited for".to_owned());
                return false;
            }
        };
        match restarted {
            Ok(Restarted::Nothing(why)) => self.progress(why),
            Ok(Restarted::Proven { way, proof }) => {
                let Proof { replaced, serving, lingering: _ } = &proof;
                self.progress(format!(
                    "restarted by {way}: {} pod(s) that served before serve no more, {} serve now",
                    replaced.len(),
                    serving.len()
                ));
                self.outcome.replaced.clone_from(replaced);
            }
            Err(failure) => {
                for Survivor { name, why, .. } in &failure.old {
                    self.progress(format!("pod {name} {why}"));
                }
                self.outcome.failure = Some(failure.message);
                self.outcome.hints.extend(failure.hints);
                return false;
            }
        }
        self.outcome.failure = None;
        true
    }

    /// Waits until what the replicas remember has expired; whether it has.
    async fn wait(&mut self) -> bool {
        const SAY: Duration = Duration::from_secs(60);
        if self.redis_is_stale() {
            return false;
        }
        let Some((until, time)) = self.step.expires() else { return true };
        let mut left = until.saturating_duration_since(Instant::now());
        if !left.is_zero() && !self.is_to_end() {
            self.progress(format!(
                "waiting {} until {time}, when the replicas' entries have expired; Ctrl-C ends the wait",
                time_text(left)
            ));
        }
        while !left.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(left.min(SAY)) => {}
                _ = self.stop.wait_for(Option::is_some) => {
                    self.outcome.failure = Some("the wait was ended early".to_owned());
                    return false;
                }
            }
            left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                self.progress(format!("waiting {} more", time_text(left)));
            }
        }
        // The wait was as long as a registry remembers that nobody has configured otherwise.
        if let Memory::MayBeOn { why, .. } = &self.step.memory {
            let open = unknown_ttl(why);
            if !self.outcome.plan.left.contains(&open) {
                self.outcome.plan.left.push(open);
            }
        }
        self.outcome.failure = None;
        true
    }

    /// Asks the replicas; whether they are clean as far as anybody can tell. `done` says whether the step before has
    /// done all that it had to.
    async fn check(&mut self, current: ReplicaStep, mut done: bool) -> bool {
        let extent = self.step.options.check;
        let mut random = fastrand::Rng::new();
        let (questions, deleted) = self.step.questions();
        let questions = check::select(extent, questions, &mut random);
        let Some(evictor) = self.step.evictor.as_ref().filter(|_| !questions.is_empty()) else { return done };
        if current != ReplicaStep::Evict && evictor.refresh().await.is_err() {
            return done;
        }
        if evictor.replicas().is_empty() {
            return done;
        }
        // Only eviction has the leave to delete, and only where a replica has just said that its data is missing.
        let mend = if current == ReplicaStep::Evict { Mend::Yes } else { Mend::No };
        let told = evictor.told();
        let mut asked = check::ask(evictor, &questions, deleted, mend).await;
        if evictor.told() != told {
            // Telling a replica may have removed what an upload had just brought back, and others believe in that.
            self.redis().await;
            done &= self.settle_for_good().await;
            asked = check::ask(evictor, &questions, deleted, Mend::No).await.and_stale(asked.stale);
        }
        let is_stale = !asked.stale.is_empty();
        let proves = asked.proves();
        if is_stale {
            self.progress(asked.line());
            for (replica, digests) in asked.stale_by_replica() {
                self.outcome.stale.entry(replica).or_default().extend(digests);
            }
        }
        self.outcome.check = Some(asked);
        !is_stale && (done || proves && !self.is_stale_elsewhere)
    }
}

pub(super) fn memory(found: &Discovery) -> Memory {
    match found.caches() {
        Some(CacheConfig { digest_cache: DigestCache::On { ttl }, .. }) => Memory::On { ttl },
        Some(CacheConfig { digest_cache: DigestCache::Off, .. }) => Memory::Off,
        Some(CacheConfig { digest_cache: DigestCache::DoesNotStart(why), .. }) => {
            Memory::MayBeOn { ttl: DEFAULT_TTL, why }
        }
        Some(CacheConfig { digest_cache: DigestCache::Unknown(source), .. }) => {
            Memory::MayBeOn { ttl: DEFAULT_TTL, why: unread(&source) }
        }
        None => Memory::MayBeOn { ttl: DEFAULT_TTL, why: unread_workload(found) },
    }
}

fn questions_of(digest: &str, repositories: &[String]) -> impl Iterator<Item = Question> {
    repositories
        .iter()
        .map(move |repository| Question { repository: repository.clone(), digest: digest.to_owned() })
}

fn unread(source: &Source) -> String {
    match source.rule() {
        Some(rule) => format!("its configuration cannot be read (missing right: {rule})"),
        None => "its configuration depends on the pod".to_owned(),
    }
}

fn unread_workload(found: &Discovery) -> String {
    match &found.workload {
        Reading::Unreadable { rule: Some(rule), .. } => {
            format!("its deployment cannot be read (missing right: {rule})")
        }
        Reading::Unreadable { why, rule: None } => format!("its deployment cannot be read: {why}"),
        Reading::Is(_) | Reading::Absent => "its deployment cannot be found".to_owned(),
    }
}

/// The step for a registry that runs somewhere else: nothing is known of its caches.
pub(super) fn for_nowhere(options: &CacheOptions, found: &Discovery) -> Option<Choice> {
    let is_named = matches!(options.redis.whereabouts, Whereabouts::At(_));
    if options.strategy != Strategy::Auto || !found.is_absent() || is_named {
        return None;
    }
    let Place { namespace, deployment } = &found.place;
    Some(Choice {
        step: "none",
        redis: false,
        replicas: ReplicaStep::Unneeded,
        next: Vec::new(),
        message: format!(
            "none: there is no deployment/{deployment} in namespace {namespace}, and none of its pods, so the registry's caches are not known"
        ),
        left: Vec::new(),
    })
}

/// How to reach the Redis; where there is none to be reached, what is known of it.
pub(super) fn redis_access(found: &Discovery, options: &RedisOptions) -> Result<Access, SharedRedis> {
    let detected = match (&options.whereabouts, found.caches().map(|caches| caches.descriptor_cache)) {
        (Whereabouts::At(_), _) => None,
        (Whereabouts::Detect, Some(DescriptorCache::Redis(_))) => match &options.password {
            Some(password) => found.redis_address_with(password),
            None => found.redis_address(),
        },
        (Whereabouts::Absent, _)
        | (Whereabouts::Detect, Some(DescriptorCache::InMemory | DescriptorCache::Absent)) => {
            return Err(SharedRedis::Absent);
        }
        (Whereabouts::Detect, None) => return Err(SharedRedis::MayBeThere(unread_workload(found))),
        (Whereabouts::Detect, Some(DescriptorCache::Unknown(source))) => {
            return Err(SharedRedis::MayBeThere(unread(&source)));
        }
        (Whereabouts::Detect, Some(DescriptorCache::DoesNotStart(why))) => {
            return Err(SharedRedis::MayBeThere(why));
        }
    };
    options.access(detected).ok_or_else(|| {
        let rules: Vec<String> = found.missing_source_rules().iter().map(ToString::to_string).collect();
        let right = match rules.as_slice() {
            [] => String::new(),
            rules => format!(" (the right that is missing: {})", rules.join(", ")),
        };
        let unknown = found.redis_unknowns().join("; ");
        let why = format!("{unknown}{right}; name it: --redis-url=redis://HOST:6379");
        SharedRedis::Unreachable { address: "(unknown)".to_owned(), why }
    })
}

/// How to reach its nodes.
pub(super) fn dialer(cluster: &Cluster, found: &Discovery, options: &RedisOptions) -> Dialer {
    let namespace = found.place.namespace.clone();
    match options.whereabouts {
        Whereabouts::At(_) => Dialer::through(cluster.clone(), namespace),
        Whereabouts::Detect | Whereabouts::Absent => Dialer::found_in(cluster.clone(), namespace),
    }
}

/// Which Redis there is, and a connection to it.
async fn redis(
    cluster: &Cluster,
    found: &Discovery,
    options: &RedisOptions,
    tell: &Tell,
) -> Result<(SharedRedis, Option<(SharedCache, RedisAddress)>), Failure> {
    let access = match redis_access(found, options) {
        Ok(access) => access,
        Err(shared) => return Ok((shared, None)),
    };
    let address = access.address.to_string();
    let dialer = dialer(cluster, found, options);
    let events = {
        let tell = Arc::clone(tell);
        Arc::new(move |event: &RedisEvent| {
            if let RedisEvent::Followed { replica, master } = event {
                tell(CacheEvent::Warning(format!(
                    "{replica} is a read-only replica: its master {master} is used"
                )));
            }
        })
    };
    match SharedCache::connect(access.clone(), dialer, Layout::default(), events).await {
        Ok(cache) => Ok((SharedRedis::Reachable(address), Some((cache, access.address)))),
        // What the user named has to be there.
        Err(failure) if matches!(options.whereabouts, Whereabouts::At(_)) => {
            let told = Failure::nothing_changed(failure.to_string());
            Err(failure.hints(&access.address).into_iter().fold(told, Failure::hint))
        }
        Err(failure) => {
            let why = failure.to_string();
            for hint in failure.hints(&access.address) {
                tell(CacheEvent::Progress(format!("hint: {hint}")));
            }
            Ok((SharedRedis::Unreachable { address, why }, None))
        }
    }
}

/// The registry, with the authority that signs the certificates of services, if it may be read: a connection by a route
/// is vouched for by another one.
pub(super) async fn service_ca(cluster: &Cluster, place: &Place, registry: Registry) -> Registry {
    let Ok(pem) = registry::service_ca(cluster, place).await else { return registry };
    registry.trusting(&pem).unwrap_or(registry)
}

/// Which replicas can be spoken to.
async fn reach(cluster: &Cluster, registry: &Registry, found: &Discovery) -> (Reach, Option<Evictor>) {
    let evictor = match Evictor::start(cluster.clone(), registry.clone(), found, Pace::default()).await {
        Ok(evictor) => evictor,
        Err(why) => return (Reach::NotAll(format!("the registry's pods cannot be listed: {why}")), None),
    };
    let replicas = evictor.replicas();
    let reach = match evictor.unreachable().into_iter().next() {
        Some((pod, why)) => Reach::NotAll(format!("replica {} cannot be reached from here: {why}", pod.name)),
        None if replicas.is_empty() => {
            Reach::NotAll(format!("no pod of the registry was found in namespace {}", found.place.namespace))
        }
        None => {
            let direct = replicas.iter().filter(|replica| replica.way() == Way::Direct).count();
            Reach::All { direct, forwarded: replicas.len() - direct }
        }
    };
    (reach, Some(evictor))
}

/// How the replicas could be restarted, in words, or why they cannot be.
pub(super) async fn restart(cluster: &Cluster, found: &Discovery) -> Result<String, String> {
    let Ways { possible, missing, nothing, obstacle, notes: _ } = rollout::ways(cluster, &found.place).await;
    if let Some(why) = obstacle.or(nothing) {
        return Err(why);
    }
    match possible.first() {
        Some(way) => Ok(way.to_string()),
        None if missing.is_empty() => Err("there is no way to restart it".to_owned()),
        None => {
            let rights: Vec<String> = missing.iter().map(ToString::to_string).collect();
            Err(format!("any of these rights would allow it: {}", rights.join(", ")))
        }
    }
}
