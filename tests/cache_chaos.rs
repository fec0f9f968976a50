//! What dies in the middle of a confirmed run: Redis, a replica, the connection to the API server, the run itself. Running
//! the same command again converges to clean: nothing is stale, all that was planned is gone, what stays is whole.
//!
//! `CACHE_CHAOS_SEEDS=N` runs more of it, `CACHE_CHAOS_SEED=N` begins with another one; each is printed when it fails.
//! Needs `redis-server`; without it the test says so and does nothing.

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
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use common::{Plugin, Ran};
use fastrand::Rng;
use http::{Method, StatusCode};
use load::{CHECKER, Site, SiteConfig};
use sandbox::Pace;
use sandbox::fault::{Action, Answer, Fault};
use sandbox::log::Server as Asked;
use sandbox::redis::Server;

const SEEDS: u64 = 16;

/// What dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// Redis, until the run has ended.
    Redis,
    /// Redis, and it is back after some more deletions.
    RedisForAWhile,
    /// A replica's process: its pod has another one at once.
    Process,
    /// A replica with its pod.
    Pod,
    /// Every other request to the API server.
    Api,
    /// The run, by a signal that it hears of.
    Told(&'static str),
    /// The run, at once.
    Killed,
}

const DEATHS: [Death; 8] = [
    Death::Redis,
    Death::RedisForAWhile,
    Death::Process,
    Death::Pod,
    Death::Api,
    Death::Told("INT"),
    Death::Told("TERM"),
    Death::Killed,
];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Does something at the n-th deletion in the registry, before it is looked at.
fn at_deletion(site: &Site, n: usize, act: impl Fn() + Send + Sync + 'static) {
    let fault = Fault::new(Action::hook(act)).method(Method::DELETE).skip(n).times(1);
    // Deletions of Image objects go to another server.
    site.cluster.sandbox().faults().add(fault);
}

/// The run that something happens to.
fn disturbed(site: &Site, death: Death, random: &mut Rng, redis: &Arc<Mutex<Server>>, home: &Path) -> Ran {
    // Links come first, then blobs, each at three replicas.
    let n = random.usize(0..70);
    let plugin = site.plugin(CHECKER, &["--confirm", "--redis-timeout=2s"]).env("XDG_STATE_HOME", home);
    match death {
        Death::Redis | Death::RedisForAWhile => {
            let victim = Arc::clone(redis);
            at_deletion(site, n, move || victim.lock().unwrap().stop());
            if death == Death::RedisForAWhile {
                let victim = Arc::clone(redis);
                at_deletion(site, n + random.usize(1..20), move || victim.lock().unwrap().start_again());
            }
            plugin.run()
        }
        Death::Process | Death::Pod => {
            let running = plugin.start();
            let number = site.cluster.serving()[random.usize(0..3)];
            let (sender, receiver) = mpsc::channel();
            let sender = Mutex::new(sender);
            at_deletion(site, n, move || {
                let _ = sender.lock().unwrap().send(());
            });
            // It may have ended before.
            if receiver.recv_timeout(Duration::from_secs(2)).is_ok() {
                if death == Death::Pod {
                    site.cluster.stop_replica(number);
                } else {
                    site.cluster.crash_replica(number);
                }
            }
            running.wait()
        }
        Death::Api => {
            let faults = site.cluster.sandbox().faults();
            for _ in 0..random.usize(1..4) {
                let action = match random.usize(0..3) {
                    0 => Action::ResetBefore,
                    1 => Action::ResetAfter,
                    _ => Action::Answer(Answer::new(StatusCode::SERVICE_UNAVAILABLE)),
                };
                let fault = Fault::new(action).server(Asked::Api).skip(random.usize(0..60));
                faults.add(fault.times(random.usize(1..4)));
            }
            plugin.run()
        }
        Death::Told(_) | Death::Killed => {
            let running = plugin.start();
            let (sender, receiver) = mpsc::channel();
            let sender = Mutex::new(sender);
            at_deletion(site, n, move || {
                let _ = sender.lock().unwrap().send(());
                std::thread::sleep(Duration::from_millis(30));
            });
            if receiver.recv_timeout(Duration::from_secs(2)).is_ok() {
                running.signal(if let Death::Told(name) = death { name } else { "KILL" });
            }
            running.wait()
        }
    }
}

/// The command that a run named to finish its cache step, if it named one.
fn finish(site: &Site, ran: &Ran) -> Option<Ran> {
    let line = ran.stderr.lines().find_map(|line| line.strip_prefix("hint: finish it: oc prune-images "))?;
    let plugin = Plugin::new();
    let kubeconfig = site.cluster.kubeconfig(plugin.home(), CHECKER);
    let plugin = plugin.file("ca.crt", site.cluster.sandbox().ca_pem());
    let plugin = plugin.args(line.split(' ')).arg("--kubeconfig").arg(kubeconfig);
    Some(plugin.arg("--certificate-authority=ca.crt").run())
}

fn round(seed: u64) {
    let mut random = Rng::with_seed(seed);
    let death = DEATHS[usize::try_from(seed).unwrap() % DEATHS.len()];
    let redis = Arc::new(Mutex::new(Server::start(&["appendonly yes", "appendfsync always"])));
    let site = {
        let server = redis.lock().unwrap();
        let config = SiteConfig {
            replicas: 3,
            redis: Some(&server),
            ttl: Duration::from_secs(600),
            controller: Some(Pace::default().seeded(seed)),
            seed,
        };
        Site::start(&config)
    };
    let home = tempfile::tempdir().unwrap();
    let first = disturbed(&site, death, &mut random, &redis, home.path());
    site.cluster.sandbox().faults().clear();
    if death == Death::Redis || death == Death::RedisForAWhile {
        // What was there when it went is there again.
        let mut server = redis.lock().unwrap();
        server.stop();
        server.start_again();
    }
    let context = format!("CACHE_CHAOS_SEED={seed}, {death:?}\nfirst: {first}");
    let server = redis.lock().unwrap();
    let digests: BTreeSet<String> = site.layers.iter().map(|layer| layer.digest.to_string()).collect();
    let repositories: BTreeSet<String> =
        site.layers.iter().flat_map(|layer| layer.repositories.clone()).collect();
    if first.code == Some(0) {
        // What is called clean is clean, before anything is mended.
        let stale = site.stale(&digests, &repositories, Some(&server));
        assert!(stale.is_empty(), "called clean: {stale:#?}\n{context}");
    }
    let finished = finish(&site, &first);
    let again = site.plugin(CHECKER, &["--confirm", "--check=all"]).env("XDG_STATE_HOME", home.path()).run();
    let context = format!(
        "{context}\nfinished: {}\nagain: {again}",
        finished.map_or("-".into(), |ran| ran.to_string())
    );
    assert_eq!(again.code, Some(0), "{context}");
    let stale = site.stale(&digests, &repositories, Some(&server));
    assert!(stale.is_empty(), "{stale:#?}\n{context}");
    for layer in &site.layers {
        assert!(
            site.cluster.storage().blob_size(&layer.digest).is_none(),
            "{} is there\n{context}",
            layer.digest
        );
    }
    for image in &site.old {
        let object = site.cluster.sandbox().store().get("images", "", image.as_str());
        assert!(object.is_none(), "{image} is there\n{context}");
    }
    site.kept_is_whole(&context);
    site.pushes_are_whole_again(&mut random, &context);
}

#[test]
fn whatever_dies_running_again_converges_to_clean() {
    if !Server::installed() {
        eprintln!("skipped: redis-server is missing; apt-get install redis-server");
        return;
    }
    let first = number("CACHE_CHAOS_SEED", 0);
    for seed in first..first + number("CACHE_CHAOS_SEEDS", SEEDS) {
        round(seed);
    }
}
