//! The cache step under load: clients ask for, mount and push the very layers that are being pruned, at full speed, at
//! three replicas with a Redis.
//!
//! A few rounds run here. All of them, with their figures on stderr:
//!
//! ```text
//! CACHE_LOAD_ROUNDS=200 cargo test --test cache_load -- --nocapture --test-threads=1
//! ```
//!
//! `CACHE_LOAD_SEED=N` begins with another seed; each round's is printed when it fails.
//!
//! - A *stale answer*: the storage has not got the data of a deleted blob, and all the same Redis or the memory of a
//!   replica names it, or a replica answers HEAD with anything but 404, or mounts it, or accepts a manifest that names it.
//!   Looked for when the run and all clients have ended. In the repositories that had the blob there is to be none; in
//!   those that the clients have made meanwhile there may be, rarely: see `of_the_prune`.
//! - A push is *disturbed* if it ended with an error, or was accepted and cannot be pulled whole from every replica at the
//!   end.
//! - The *control* does what the reference does under the same load: per stream its layer links, then its status, then its
//!   manifest links; then one `DELETE /admin/blobs/<digest>` per blob, all through one replica.
//!
//! Needs `redis-server`; without it the tests say so and do nothing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests: whatever is wrong here fails them"
)]

mod common;
#[path = "common/load.rs"]
mod load;

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::StreamExt as _;
use http::Method;
use load::{Amount, CHECKER, Plan, Push, Site, SiteConfig, Stale};
use sandbox::redis::Server;
use serde_json::Value;

/// How many rounds run without being asked for more.
const ROUNDS: u64 = 15;

const REPLICAS: usize = 3;

/// What the reference has in flight.
const WORKERS: usize = 5;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn rounds() -> u64 {
    number("CACHE_LOAD_ROUNDS", ROUNDS)
}

fn redis() -> Option<Server> {
    if Server::installed() {
        return Some(Server::start(&[]));
    }
    eprintln!("skipped: redis-server is missing; apt-get install redis-server");
    None
}

/// In every fourth round the pushes begin before the prune does, so that some of what is planned stays.
fn amount(seed: u64) -> Amount {
    Amount { askers: 3, mounters: 2, pushers: 3, pushes: 6, at_once: seed % 4 == 3 }
}

/// What was counted.
#[derive(Debug, Default)]
struct Figures {
    rounds: u64,
    blobs: usize,
    asked: usize,
    mounted: usize,
    pushes: usize,
    /// Of these, begun before the prune had ended.
    pushes_meanwhile: usize,
    refused: usize,
    broken: usize,
    disturbed_meanwhile: usize,
    reported: usize,
    stale: usize,
    /// Blobs that are stale only in repositories of the clients: see `of_the_prune`.
    elsewhere: usize,
    clean_runs: u64,
    honest_runs: u64,
    took: Duration,
}

impl Figures {
    fn disturbed(&self) -> usize {
        self.refused + self.broken
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, blobs, asked, mounted, pushes, pushes_meanwhile, .. } = self;
        let Self { refused, broken, disturbed_meanwhile, reported, stale, elsewhere, .. } = self;
        let Self { clean_runs, honest_runs, took, .. } = self;
        write!(
            f,
            "{rounds} rounds in {took:.0?}: {blobs} blobs deleted, {asked} asked, {mounted} mounted, {pushes} pushed \
             ({pushes_meanwhile} begun during the prune); stale answers {stale} (blobs that are stale in new repositories of the clients alone: {elsewhere}); disturbed pushes {} ({refused} refused, \
             {broken} broken; {disturbed_meanwhile} of those begun during the prune); broken images that runs reported {reported}; \
             runs that called it clean {clean_runs}, that said what may be stale {honest_runs}",
            self.disturbed(),
        )
    }
}

/// Adds the pushes of a round; gives back the images that are broken.
fn judge(site: &Site, pushes: Vec<Push>, pruned: Instant, figures: &mut Figures) -> Vec<(Push, String)> {
    let mut broken = Vec::new();
    for push in pushes {
        let meanwhile = push.begun < pruned;
        figures.pushes += 1;
        figures.pushes_meanwhile += usize::from(meanwhile);
        let why = match &push.result {
            Err(_) => {
                figures.refused += 1;
                None
            }
            Ok(digest) => {
                let Err(why) = site.whole(&push.repository, digest) else { continue };
                figures.broken += 1;
                Some(why)
            }
        };
        figures.disturbed_meanwhile += usize::from(meanwhile);
        broken.extend(why.map(|why| (push, why)));
    }
    broken
}

/// The blobs that a run says it deleted.
fn deleted(document: &Value) -> BTreeSet<String> {
    let changes = document["result"]["changes"].as_array().unwrap();
    let blobs = changes.iter().filter(|change| change["kind"] == "blob");
    blobs.map(|change| change["digest"].as_str().unwrap().to_owned()).collect()
}

/// Where a run says that a blob may be stale.
fn admits(document: &Value, Stale { who, digest, .. }: &Stale) -> bool {
    let cache = &document["cache"];
    let lists =
        |list: &Value| list.as_array().is_some_and(|list| list.iter().any(|known| known == digest.as_str()));
    if who == "redis" {
        return lists(&cache["redisEviction"]["unconfirmed"]);
    }
    lists(&cache["stale"][who])
}

/// Splits off what is stale only in repositories that the clients have made while the prune was on. An upload or a mount
/// that comes between the evictions of two replicas may leave the layer in the memory of one of them, for the repository
/// that it went to. The run asks in repositories that streams name by then; what comes later, or never gets a stream, it
/// cannot know of. It is gone with the entry's life.
fn of_the_prune(stale: Vec<Stale>) -> (Vec<Stale>, Vec<Stale>) {
    let is_known = |what: &str| {
        load::REPOSITORIES.iter().any(|repository| what.starts_with(&format!("HEAD /v2/{repository}/")))
    };
    let (mut known, mut rest): (Vec<Stale>, Vec<Stale>) =
        stale.into_iter().partition(|stale| !stale.what.starts_with("HEAD ") || is_known(&stale.what));
    let remembered: Vec<Stale> = known.extract_if(.., |stale| stale.what == "remembers").collect();
    for entry in remembered {
        let is_seen = known.iter().any(|other| other.who == entry.who && other.digest == entry.digest);
        if is_seen { known.push(entry) } else { rest.push(entry) }
    }
    (known, rest)
}

/// Asserts that the run tells of this broken image, and what to do about it.
#[track_caller]
fn assert_reported(ran: &common::Ran, document: &Value, (push, why): &(Push, String), context: &str) {
    let image = push.result.as_ref().unwrap();
    let reported = document["result"]["broken"].as_array().is_some_and(|all| {
        all.iter().any(|broken| {
            broken["repository"] == push.repository.as_str()
                && broken["tag"] == push.tag.as_str()
                && broken["image"] == image.as_str()
        })
    });
    // A run that says that its caches may lie says what becomes of pushes until they do not.
    let foretold = ran.code == Some(4) && ran.stderr.contains("push such an image again afterwards");
    assert!(
        reported || foretold,
        "{context}: broken and not reported: {}:{} ({image}): {why}\n{ran}",
        push.repository,
        push.tag
    );
    for text in ["while a part of theirs was deleted", "hint: push these images again"] {
        assert!(ran.stderr.contains(text), "{context}: not said: {text}\n{ran}");
    }
}

/// A round with the plugin.
fn round(user: &str, seed: u64, redis: &Server, figures: &mut Figures) {
    let config = SiteConfig {
        replicas: REPLICAS,
        redis: Some(redis),
        ttl: Duration::from_secs(600),
        controller: None,
        seed,
    };
    let site = Site::start(&config);
    let load = site.load(&amount(seed), seed);
    let repositories = load.repositories();
    let ran = site.plugin(user, &["--confirm", "--registry-cache=evict", "--check=all"]).run();
    let pruned = Instant::now();
    let tally = load.finish();
    let context = format!("round with CACHE_LOAD_SEED={seed}");
    let document = ran.json();
    let deleted = deleted(&document);

    let mut stale = site.stale(&deleted, &repositories, Some(redis));
    let layers: BTreeSet<String> = site
        .layers
        .iter()
        .map(|layer| layer.digest.to_string())
        .filter(|digest| deleted.contains(digest))
        .collect();
    stale.extend(site.accepted(&layers));
    let (stale, elsewhere) = of_the_prune(stale);
    figures.stale += stale.len();
    let elsewhere: BTreeSet<&str> = elsewhere.iter().map(|stale| stale.digest.as_str()).collect();
    figures.elsewhere += elsewhere.len();
    let code = ran.code.unwrap();
    if user == CHECKER {
        assert!(stale.is_empty(), "{context}: {stale:#?}\n{ran}");
        assert!(matches!(code, 0 | 3), "{context}\n{ran}");
    } else {
        let hidden: Vec<_> = stale.iter().filter(|stale| code != 4 || !admits(&document, stale)).collect();
        assert!(hidden.is_empty(), "{context}: not said: {hidden:#?}\n{ran}");
        assert!(matches!(code, 0 | 3 | 4), "{context}\n{ran}");
    }
    figures.clean_runs += u64::from(code != 4);
    figures.honest_runs += u64::from(code == 4);

    let broken = judge(&site, tally.pushes, pruned, figures);
    for image in &broken {
        assert_reported(&ran, &document, image, &context);
        assert!(matches!(code, 3 | 4), "{context}\n{ran}");
    }
    figures.reported += document["result"]["broken"].as_array().map_or(0, Vec::len);
    assert_eq!(document["result"]["failures"], Value::Array(Vec::new()), "{context}\n{ran}");
    site.kept_is_whole(&context);
    if stale.is_empty() {
        site.pushes_are_whole_again(&mut Rng::with_seed(seed), &context);
    }
    figures.rounds += 1;
    figures.blobs += deleted.len();
    figures.asked += tally.asked;
    figures.mounted += tally.mounted;
}

/// A round with the reference's order and requests.
fn control(seed: u64, redis: &Server, figures: &mut Figures) {
    let config = SiteConfig {
        replicas: REPLICAS,
        redis: Some(redis),
        ttl: Duration::from_secs(600),
        controller: None,
        seed,
    };
    let site = Site::start(&config);
    let plan = site.plan();
    let load = site.load(&amount(seed), seed);
    let repositories = load.repositories();
    reference(&site, &plan);
    let pruned = Instant::now();
    let tally = load.finish();
    figures.stale += site.stale(&plan.blobs(), &repositories, Some(redis)).len();
    judge(&site, tally.pushes, pruned, figures);
    figures.rounds += 1;
    figures.blobs += plan.blobs().len();
    figures.asked += tally.asked;
    figures.mounted += tally.mounted;
}

/// What the reference does with this plan.
fn reference(site: &Site, plan: &Plan) {
    let client = site.cluster.client_of(0, "pruner");
    let store = site.cluster.sandbox().store();
    let delete = async |path: String| client.send(Method::DELETE, &path, &[], "").await.unwrap();
    let streams = load::REPOSITORIES.into_iter().map(async |repository| {
        for (_, digest) in plan.layer_links.iter().filter(|(name, _)| name == repository) {
            delete(format!("/v2/{repository}/blobs/{digest}")).await;
        }
        let (namespace, name) = repository.split_once('/').unwrap();
        store.update("imagestreams", namespace, name, |stream| {
            let items = stream["status"]["tags"][0]["items"].as_array_mut().unwrap();
            items.retain(|item| !plan.images.iter().any(|(image, _)| item["image"] == image.as_str()));
        });
        for (_, digest) in plan.manifest_links.iter().filter(|(name, _)| name == repository) {
            delete(format!("/v2/{repository}/manifests/{digest}")).await;
        }
    });
    let images = plan.images.iter().map(async |(image, blobs)| {
        for digest in blobs {
            delete(format!("/admin/blobs/{digest}")).await;
        }
        store.delete("images", "", image);
    });
    site.cluster.block_on(async {
        futures::stream::iter(streams).buffer_unordered(WORKERS).collect::<Vec<()>>().await;
        futures::stream::iter(images).buffer_unordered(WORKERS).collect::<Vec<()>>().await;
    });
}

#[test]
fn nothing_is_stale_after_the_step_and_no_more_pushes_are_disturbed_than_by_the_reference() {
    let Some(redis) = redis() else { return };
    let seeds = number("CACHE_LOAD_SEED", 0)..;
    let (mut ours, mut control_figures) = (Figures::default(), Figures::default());
    for seed in seeds.take(usize::try_from(rounds()).unwrap()) {
        let begun = Instant::now();
        round(CHECKER, seed, &redis, &mut ours);
        let between = Instant::now();
        control(seed, &redis, &mut control_figures);
        ours.took += between - begun;
        control_figures.took += between.elapsed();
    }
    eprintln!("evict:   {ours}\ncontrol: {control_figures}");
    assert!(ours.blobs > 0 && control_figures.stale > 0, "the load or the prune did not happen");
    assert!(ours.disturbed() <= control_figures.disturbed());
    assert!(ours.elsewhere * 100 <= ours.blobs, "{ours}");
}

#[test]
fn what_the_pruner_alone_calls_clean_is_clean() {
    let Some(redis) = redis() else { return };
    let mut figures = Figures::default();
    let begun = Instant::now();
    for seed in (number("CACHE_LOAD_SEED", 0)..).take(usize::try_from(rounds().div_ceil(3)).unwrap()) {
        round("pruner", seed, &redis, &mut figures);
    }
    figures.took = begun.elapsed();
    eprintln!("evict, as system:image-pruner alone: {figures}");
}
