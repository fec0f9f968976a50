//! Rounds of pushing, pruning and pulling on a real `docker-registry` with a real Redis, while clients push, mount and ask,
//! and pods come that run what is about to go.
//!
//! A few rounds run here. All of them, with their figures on stderr (`tests/soak 200`):
//!
//! ```text
//! SOAK_ROUNDS=200 cargo test --test soak -- --nocapture
//! ```
//!
//! After each round: no image that a pod used when its deletion was sent is gone; no push that was accepted is broken without
//! having been reported; no cache answers for what is gone; and no planned blob is left in the storage that nothing names.

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
use http::Method;
use load::{Amount, Site, SiteConfig};
use sandbox::redis::Server;
use sandbox::registry::{Backend, Digest, docker_registry_binary};
use serde_json::{Value, json};

/// How many rounds run without being asked for more.
const ROUNDS: u64 = 2;

/// An event reaches a watcher later than the client that caused it hears of it; what is deleted within this time of a
/// pod's creation counts as in flight.
const IN_FLIGHT: Duration = Duration::from_millis(250);

/// What was counted.
#[derive(Debug, Default)]
struct Figures {
    rounds: u64,
    deleted: usize,
    spared: usize,
    pushes: usize,
    refused: usize,
    pods: usize,
    /// Images that went within [`IN_FLIGHT`] of the creation of a pod that uses them; each was reported.
    in_flight: usize,
    in_use_deleted: usize,
    broken: usize,
    broken_unreported: usize,
    stale: usize,
    orphaned: usize,
    took: Duration,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, deleted, spared, pushes, refused, pods, in_flight, .. } = self;
        let Self { in_use_deleted, broken, broken_unreported, stale, orphaned, took, .. } = self;
        write!(
            f,
            "{rounds} rounds in {took:.0?}: {deleted} blobs deleted, {spared} objects spared, {pushes} pushes ({refused} refused), \
             {pods} pods ({in_flight} came while the deletion was on its way); objects in use deleted {in_use_deleted}; images \
             broken {broken} ({broken_unreported} of them not reported); stale answers {stale}; orphaned blobs {orphaned}"
        )
    }
}

/// Every name that an Image in the API needs: its own, its config's and its layers'.
fn needed(site: &Site) -> BTreeSet<String> {
    let images = site.cluster.sandbox().store().list("images");
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    images
        .iter()
        .flat_map(|image| {
            let layers = image["dockerImageLayers"].as_array().cloned().unwrap_or_default();
            let layers: Vec<_> = layers.iter().filter_map(|layer| text(&layer["name"])).collect();
            let own = [text(&image["metadata"]["name"]), text(&image["dockerImageMetadata"]["Id"])];
            layers.into_iter().chain(own.into_iter().flatten())
        })
        .collect()
}

/// Whether what pods came for is there: they were created at the time beside the image.
fn judge_pods(
    site: &Site,
    planned: &load::Plan,
    pods: &[(Digest, Instant)],
    context: &str,
    figures: &mut Figures,
) {
    let log = site.cluster.sandbox().request_log();
    for (image, created) in pods {
        figures.pods += 1;
        if site.cluster.sandbox().store().get("images", "", image.as_str()).is_some() {
            continue;
        }
        let path = format!("/images/{image}");
        let gone = log.filter(|entry| entry.method == Method::DELETE && entry.path.ends_with(&path));
        let blobs = &planned.images.iter().find(|(name, _)| name == image.as_str()).unwrap().1;
        let first_blob = log.filter(|entry| {
            entry.method == Method::DELETE
                && blobs.iter().any(|blob| entry.path.ends_with(&format!("/admin/blobs/{blob}")))
        });
        let first = gone.iter().chain(&first_blob).map(|entry| entry.at).min();
        if first.is_some_and(|first| first > *created + IN_FLIGHT) {
            figures.in_use_deleted += 1;
            eprintln!(
                "{context}: {image} was deleted {:?} after a pod came",
                first.map(|first| first - *created)
            );
        } else {
            figures.in_flight += 1;
        }
    }
}

/// Whether what was pushed can be pulled; returns whether a push was refused.
fn judge_pushes(
    site: &Site,
    pushes: &[load::Push],
    ran: &common::Ran,
    context: &str,
    figures: &mut Figures,
) -> bool {
    let document = ran.json();
    let is_reported = |repository: &str, image: &Digest| {
        document["result"]["broken"].as_array().is_some_and(|all| {
            all.iter().any(|known| known["image"] == image.as_str() && known["repository"] == repository)
        })
    };
    let mut refused = false;
    for push in pushes {
        figures.pushes += 1;
        match &push.result {
            Err(_) => {
                refused = true;
                figures.refused += 1;
            }
            Ok(image) => {
                if let Err(why) = site.whole(&push.repository, image) {
                    figures.broken += 1;
                    if !is_reported(&push.repository, image) {
                        figures.broken_unreported += 1;
                        eprintln!("{context}: {}:{} is broken: {why}\n{ran}", push.repository, push.tag);
                    }
                }
            }
        }
    }
    refused
}

fn round(seed: u64, redis: &Server, binary: &std::path::Path, figures: &mut Figures) {
    let config =
        SiteConfig { replicas: 2, redis: Some(redis), ttl: Duration::from_secs(600), controller: None, seed };
    let site = Site::start_with(&config, |cluster| {
        let backend = Backend::DockerRegistry { binary: binary.to_owned() };
        cluster.registry.get_or_insert_default().backend = backend;
    });
    let amount = Amount { askers: 2, mounters: 1, pushers: 3, pushes: 4, at_once: seed.is_multiple_of(2) };
    let load = site.load(&amount, seed);
    let repositories = load.repositories();
    let mut random = Rng::with_seed(seed);
    let planned = load::Plan::of(&site.plan_of("admin"));
    let (ran, pods) = std::thread::scope(|scope| {
        let newcomers = scope.spawn(|| {
            let store = site.cluster.sandbox().store();
            let mut pods = Vec::new();
            let mut olds: Vec<&Digest> = site.old.iter().collect();
            random.shuffle(&mut olds);
            // Half of what goes is run by somebody, sooner or later.
            for (number, image) in olds.into_iter().take(site.old.len() / 2).enumerate() {
                std::thread::sleep(Duration::from_millis(random.u64(0..120)));
                let host = site.cluster.registry_host();
                let spec =
                    json!({ "containers": [{ "name": "app", "image": format!("{host}/load/any@{image}") }] });
                let metadata = json!({ "namespace": "load", "name": format!("new-{number}") });
                store.create(
                    "pods",
                    json!({ "metadata": metadata, "spec": spec, "status": { "phase": "Pending" } }),
                );
                pods.push((image.clone(), Instant::now()));
            }
            pods
        });
        let ran = site.plugin("admin", &["--confirm", "--registry-cache=evict", "--check=all"]).run();
        (ran, newcomers.join().unwrap())
    });
    let tally = load.finish();
    let context = format!("round with seed {seed}");
    let document = ran.json();
    assert!(matches!(ran.code, Some(0 | 3)), "{context}\n{ran}");
    let result = &document["result"];
    assert_eq!(result["failures"], json!([]), "{context}\n{ran}");

    judge_pods(&site, &planned, &pods, &context, figures);
    let refused = judge_pushes(&site, &tally.pushes, &ran, &context, figures);
    site.kept_is_whole(&context);

    // Caches.
    let deleted: BTreeSet<String> = result["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|change| change["kind"] == "blob")
        .map(|change| change["digest"].as_str().unwrap().to_owned())
        .collect();
    let stale = site.stale(&deleted, &repositories, Some(redis));
    let in_old_repositories =
        |what: &str| load::REPOSITORIES.iter().any(|name| what.contains(&format!("/v2/{name}/")));
    figures.stale +=
        stale.iter().filter(|stale| stale.who == "redis" || in_old_repositories(&stale.what)).count();

    // The storage: of what was planned nothing is left that no Image names; but for layers that a refused push brought
    // back, and left.
    let needed = needed(&site);
    let layers: BTreeSet<String> = site.layers.iter().map(|layer| layer.digest.to_string()).collect();
    for blob in planned.blobs() {
        let there = site.cluster.storage().blob_size(&Digest::parse(&blob).unwrap()).is_some();
        if there && !needed.contains(&blob) && !(refused && layers.contains(&blob)) {
            figures.orphaned += 1;
            eprintln!("{context}: {blob} is orphaned\n{ran}");
        }
    }
    figures.deleted += deleted.len();
    figures.spared += result["spared"].as_array().map_or(0, Vec::len);
    figures.rounds += 1;
}

#[test]
fn nothing_in_use_goes_and_nothing_is_left_behind() {
    let (true, Some(binary)) = (Server::installed(), docker_registry_binary()) else {
        eprintln!(
            "skipped: redis-server or docker-registry is missing; apt-get install redis-server docker-registry"
        );
        return;
    };
    let redis = Server::start(&[]);
    let rounds = std::env::var("SOAK_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    let mut figures = Figures::default();
    let begun = Instant::now();
    for seed in 0..rounds {
        round(seed, &redis, &binary, &mut figures);
    }
    figures.took = begun.elapsed();
    eprintln!("{figures}");
    assert!(figures.deleted > 0 && figures.pods > 0, "the prune or the load did not happen: {figures}");
    let wrong = figures.in_use_deleted + figures.broken_unreported + figures.stale + figures.orphaned;
    assert_eq!(wrong, 0, "{figures}");
}
