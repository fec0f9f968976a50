//! The matrix of `docs/cache.md`: which caches, which step, how many replicas, how many stale answers after it. And what a
//! prune does about the caches where things are not as they should be.
//!
//! `UPDATE_DOCS=1 cargo test --test cache_matrix` writes the matrix anew.
//!
//! A *question* is a HEAD of a pruned layer, at one replica, in a repository that had it before the prune. Its answer is
//! *stale* unless it is 404: a cache names what is gone. Needs `redis-server` for the rows with a Redis.

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
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::{Plugin, Ran};
use http::{Method, StatusCode};
use load::{CHECKER, Site, SiteConfig};
use sandbox::api::{port_forwarder, restarter};
use sandbox::fault::{Action, Fault};
use sandbox::log::Server as Asked;
use sandbox::redis::Server;
use sandbox::{Cluster, ClusterConfig, Pace};
use serde_json::Value;

const PASSWORD: &str = "geheim-7d1c";

const STEPS: [&str; 6] = ["none", "flush", "restart", "wait", "evict", "auto"];
const REPLICAS: [usize; 2] = [1, 3];
const LONG: Duration = Duration::from_secs(600);
/// Longer than a prune takes, short enough to be waited for.
const SHORT: Duration = Duration::from_secs(3);

/// A row of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    InMemory,
    Redis,
    Refilled,
    Disabled,
}

const ROWS: [Row; 4] = [Row::InMemory, Row::Redis, Row::Refilled, Row::Disabled];

impl Row {
    fn name(self) -> &'static str {
        match self {
            Self::InMemory => "in-memory",
            Self::Redis => "Redis",
            Self::Refilled => "Redis, re-filled during the prune",
            Self::Disabled => "disabled",
        }
    }

    fn has_redis(self) -> bool {
        matches!(self, Self::Redis | Self::Refilled)
    }
}

fn installed() -> bool {
    let found = Server::installed();
    if !found {
        eprintln!("skipped: redis-server is missing; apt-get install redis-server");
    }
    found
}

fn site(row: Row, replicas: usize, ttl: Duration, redis: Option<&Server>) -> Site {
    let config = SiteConfig { replicas, redis, ttl, controller: Some(Pace::default()), seed: 7 };
    let change = |cluster: &mut ClusterConfig| {
        if let Some(registry) = &mut cluster.registry {
            registry.cache_disabled = row == Row::Disabled;
        }
    };
    let site = Site::start_with(&config, change);
    site.cluster.sandbox().access().grant(CHECKER, restarter());
    site
}

/// What a registry writes into Redis of every layer.
fn lines(site: &Site) -> Vec<String> {
    let mut lines = Vec::new();
    for layer in &site.layers {
        let digest = &layer.digest;
        lines.push(format!(
            "HSET blobs::{digest} digest {digest} size {} mediatype application/octet-stream",
            layer.bytes.len()
        ));
        for repository in &layer.repositories {
            lines.push(format!("SADD repository::{repository}::blobs {digest}"));
            lines.push(format!(
                "HSET repository::{repository}::blobs::{digest} mediatype application/octet-stream"
            ));
        }
    }
    lines
}

/// Puts back what Redis had of every layer, before each deletion of a blob is looked at: what clients do that ask while
/// one of two repositories has lost its link and the other one has not, and then some.
fn refill(site: &Site, redis: &Arc<Server>) {
    let lines = lines(site);
    let redis = Arc::clone(redis);
    let hook = Action::hook(move || {
        for line in &lines {
            assert!(!redis.run(line).starts_with(b"-"), "{line}");
        }
    });
    site.cluster.sandbox().faults().add(Fault::new(hook).method(Method::DELETE).path("/admin/blobs/"));
}

/// How many of how many answers are stale.
fn ask(site: &Site) -> (usize, usize) {
    let (mut stale, mut asked) = (0, 0);
    for client in site.clients() {
        for layer in &site.layers {
            for repository in &layer.repositories {
                let path = format!("/v2/{repository}/blobs/{}", layer.digest);
                let answer = site.cluster.block_on(client.send(Method::HEAD, &path, &[], "")).unwrap();
                asked += 1;
                stale += usize::from(answer.status() != StatusCode::NOT_FOUND);
            }
        }
    }
    (stale, asked)
}

fn digests(site: &Site) -> BTreeSet<String> {
    site.layers.iter().map(|layer| layer.digest.to_string()).collect()
}

fn repositories(site: &Site) -> BTreeSet<String> {
    site.layers.iter().flat_map(|layer| layer.repositories.clone()).collect()
}

/// Runs one cell, and says what it shows.
fn cell(row: Row, step: &str, replicas: usize) -> String {
    let redis = row.has_redis().then(|| Arc::new(Server::start(&[])));
    let ttl = if step == "wait" { SHORT } else { LONG };
    let site = site(row, replicas, ttl, redis.as_deref());
    if row == Row::Refilled {
        refill(&site, redis.as_ref().unwrap());
    }
    let flag = format!("--registry-cache={step}");
    let ran = site.plugin(CHECKER, &["--confirm", &flag, "--check=all"]).run();
    site.cluster.sandbox().faults().clear();
    if step == "flush" && !row.has_redis() {
        let ran = ran.exits(1).says("error: --registry-cache=flush: the registry has no Redis");
        assert!(site.cluster.sandbox().request_log().filter(is_deletion).is_empty(), "{ran}");
        return "refused".to_owned();
    }
    let ran = ran.exits(0);
    assert!(
        site.layers.iter().all(|layer| site.cluster.storage().blob_size(&layer.digest).is_none()),
        "{ran}"
    );
    let (stale, asked) = ask(&site);
    let complete = !matches!(step, "none" | "flush");
    if complete {
        assert_eq!(stale, 0, "{row:?}, {step}, {replicas} replicas: of {asked}\n{ran}");
        let left = site.stale(&digests(&site), &repositories(&site), redis.as_deref());
        assert!(left.is_empty(), "{row:?}, {step}: {left:?}\n{ran}");
        assert!(site.accepted(&digests(&site)).is_empty(), "{row:?}, {step}\n{ran}");
    }
    let cache = &ran.json()["cache"];
    if step == "auto" {
        let expected = if row == Row::Disabled { "unneeded" } else { "evict" };
        assert_eq!(cache["step"], expected, "{ran}");
    }
    site.kept_is_whole(&ran);
    if stale == 0 { "0".to_owned() } else { "stale".to_owned() }
}

fn is_deletion(entry: &sandbox::log::Entry) -> bool {
    entry.method == Method::DELETE
}

const BEGIN: &str = "<!-- matrix: written by tests/cache_matrix.rs -->\n";
const END: &str = "<!-- end of the matrix -->";

/// The rows are tests of their own, and share the page.
static PAGE: Mutex<()> = Mutex::new(());

fn line(row: Row) -> String {
    let mut line = format!("| {} |", row.name());
    for step in STEPS {
        let cells = REPLICAS.map(|replicas| cell(row, step, replicas));
        let shown = if cells[0] == cells[1] { cells[0].clone() } else { cells.join(" / ") };
        let _ = write!(line, " {shown} |");
    }
    line
}

fn check(row: Row) {
    let line = line(row);
    let _one_at_a_time = PAGE.lock().unwrap_or_else(PoisonError::into_inner);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cache.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (table, after) = rest.split_once(END).unwrap();
    let key = format!("| {} |", row.name());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let mut lines: Vec<&str> = table.lines().filter(|known| !known.starts_with(&key)).collect();
        lines.push(&line);
        let place =
            |line: &&str| ROWS.iter().position(|row| line.starts_with(&format!("| {} |", row.name())));
        lines.sort_by_key(|line| place(line).map_or(0, |place| place + 1));
        let table = lines.join("\n");
        std::fs::write(&path, format!("{before}{BEGIN}{table}\n{END}{after}")).unwrap();
        return;
    }
    let written = table.lines().find(|line| line.starts_with(&key)).unwrap_or("(missing)");
    assert_eq!(written, line, "docs/cache.md is not current: UPDATE_DOCS=1 cargo test --test cache_matrix");
}

#[test]
fn the_row_in_memory() {
    check(Row::InMemory);
}

#[test]
fn the_row_with_redis() {
    if installed() {
        check(Row::Redis);
    }
}

#[test]
fn the_row_with_a_redis_that_is_filled_again() {
    if installed() {
        check(Row::Refilled);
    }
}

#[test]
fn the_row_with_disabled_caches() {
    check(Row::Disabled);
}

/// A registry of two replicas, as the plain pruner sees it.
struct Here {
    site: Site,
}

impl Here {
    fn start(ttl: Duration, redis: Option<&Server>, change: impl FnOnce(&mut ClusterConfig)) -> Self {
        let config = SiteConfig { replicas: 2, redis, ttl, controller: Some(Pace::default()), seed: 11 };
        Self { site: Site::start_with(&config, change) }
    }

    fn cluster(&self) -> &Cluster {
        &self.site.cluster
    }

    fn plugin(&self, user: &str, args: &[&str]) -> Plugin {
        self.site.plugin(user, args).arg("--confirm")
    }

    /// Runs the command that finishes the cache step.
    fn repeat(&self, cache: &Value) -> Ran {
        let words = cache["repeat"].as_str().unwrap().strip_prefix("oc prune-images ").unwrap();
        let plugin = Plugin::new();
        let kubeconfig = self.cluster().kubeconfig(plugin.home(), CHECKER);
        let plugin = plugin.file("ca.crt", self.cluster().sandbox().ca_pem());
        let plugin = plugin.args(words.split(' ')).arg("--kubeconfig").arg(kubeconfig);
        plugin.arg("--certificate-authority=ca.crt").run()
    }

    /// Nothing is stale, as far as storage, Redis, memory and answers tell.
    #[track_caller]
    fn is_clean(&self, redis: Option<&Server>, ran: &Ran) {
        let left = self.site.stale(&digests(&self.site), &repositories(&self.site), redis);
        assert!(left.is_empty(), "{left:?}\n{ran}");
    }
}

fn cache(ran: &Ran) -> Value {
    ran.json()["cache"].clone()
}

#[test]
fn the_pruner_alone_evicts_everywhere_and_says_that_it_may_not_ask() {
    if !installed() {
        return;
    }
    let redis = Server::start(&[]);
    let here = Here::start(LONG, Some(&redis), |_| ());
    let ran = here.plugin("pruner", &[]).run().exits(0);
    assert_eq!(cache(&ran)["step"], "evict", "{ran}");
    here.is_clean(Some(&redis), &ran);
    ran.says("Cache step: not checked: asking the replicas takes the right to get imagestreams/layers");
}

#[test]
fn pods_out_of_reach_are_reached_by_port_forwards() {
    let here = Here::start(LONG, None, |cluster| cluster.pods_reachable = false);
    here.cluster().sandbox().access().grant("pruner", port_forwarder());
    let ran = here.plugin("pruner", &[]).run().exits(0);
    here.is_clean(None, &ran);
    ran.says("Cache step: evict: each of 2 registry replica(s) by port-forward forgets each blob");
}

#[test]
fn pods_out_of_reach_are_restarted_where_that_is_allowed() {
    let here = Here::start(LONG, None, |cluster| cluster.pods_reachable = false);
    here.cluster().sandbox().access().grant("pruner", restarter());
    let ran = here.plugin("pruner", &[]).run().exits(0);
    here.is_clean(None, &ran);
    assert_eq!(cache(&ran)["replaced"].as_array().unwrap().len(), 2, "{ran}");
    ran.says(
        "Cache step: restart: all replicas of the registry are replaced after the last deletion (a rollout)",
    )
    .says("the right to create pods/portforward in namespace openshift-image-registry is missing");
}

#[test]
fn where_nothing_is_allowed_the_entries_are_left_to_expire() {
    if !installed() {
        return;
    }
    let redis = Server::start(&[]);
    let here = Here::start(SHORT, Some(&redis), |cluster| cluster.pods_reachable = false);
    let ran = here.plugin("pruner", &[]).run().exits(0);
    here.is_clean(Some(&redis), &ran);
    ran.says("Cache step: wait: redis://").says("3s after the last deletion").says("Ctrl-C ends the wait");
}

#[test]
fn a_wait_that_is_interrupted_says_until_when_what_is_stale() {
    let here = Here::start(LONG, None, |cluster| cluster.pods_reachable = false);
    let running = here.plugin("pruner", &[]).start();
    running.wait_until_it_says("Ctrl-C ends the wait");
    running.signal("INT");
    let ran = running.wait().exits(4);
    assert!(cache(&ran)["staleUntil"].as_str().is_some(), "{ran}");
    ran.says("the wait was ended early")
        .says("replicas forget by themselves at 20")
        .says("hint: finish it: oc prune-images cache flush --from=/");
}

#[test]
fn what_is_asked_for_by_name_and_not_possible_is_refused_before_any_change() {
    let here = Here::start(LONG, None, |cluster| cluster.pods_reachable = false);
    for (step, why) in [
        ("evict", "error: --registry-cache=evict: replica image-registry-"),
        ("restart", "error: --registry-cache=restart: any of these rights would allow it: "),
        ("flush", "error: --registry-cache=flush: the registry has no Redis"),
    ] {
        let flag = format!("--registry-cache={step}");
        let ran = here.plugin("pruner", &[&flag]).run().exits(1);
        ran.says(why).says("hint: let the first step that is possible be taken: --registry-cache=auto");
    }
    let ran =
        here.plugin("pruner", &["--registry-cache=flush", "--redis-url=redis://127.0.0.1:1"]).run().exits(1);
    ran.says("connect to 127.0.0.1:1: ");
    assert!(here.cluster().sandbox().request_log().filter(is_deletion).is_empty());
}

#[test]
fn a_redis_that_dies_for_good_is_told_with_the_command_that_finishes_it() {
    if !installed() {
        return;
    }
    let redis = Arc::new(Mutex::new(Server::start(&["save \"\""])));
    let here = Here::start(LONG, Some(&redis.lock().unwrap()), |_| ());
    let victim = Arc::clone(&redis);
    let kill = Action::hook(move || victim.lock().unwrap().stop());
    let fault = Fault::new(kill).method(Method::DELETE).path("/admin/blobs/").skip(2).times(1);
    here.cluster().sandbox().faults().add(fault);
    let home = tempfile::tempdir().unwrap();
    let plugin = here.plugin(CHECKER, &["--redis-timeout=2s"]).env("XDG_STATE_HOME", home.path());
    let ran = plugin.run().exits(4);
    let cache = cache(&ran);
    assert!(!cache["redisEviction"]["unconfirmed"].as_array().unwrap().is_empty(), "{ran}");
    let repeat = cache["repeat"].as_str().unwrap().to_owned();
    let _ = ran
        .says("error: cache step: a cache may still name what was deleted")
        .says(&format!("hint: finish it: {repeat}"));
    // As it was when it went: what nobody evicted is there again.
    redis.lock().unwrap().start_again();
    let server = redis.lock().unwrap();
    for line in lines(&here.site) {
        assert!(!server.run(&line).starts_with(b"-"), "{line}");
    }
    assert_ne!(ask(&here.site).0, 0);
    let ran = here.repeat(&cache).exits(0);
    here.is_clean(Some(&server), &ran);
    ran.prints("Summary: evicted ");
}

#[test]
fn a_redis_that_comes_back_is_caught_up_on() {
    if !installed() {
        return;
    }
    let redis = Arc::new(Mutex::new(Server::start(&[])));
    let here = Here::start(LONG, Some(&redis.lock().unwrap()), |_| ());
    for (skip, back) in [(1, false), (4, true)] {
        let victim = Arc::clone(&redis);
        let act = Action::hook(move || {
            let mut server = victim.lock().unwrap();
            if back { server.start_again() } else { server.stop() }
        });
        let fault = Fault::new(act).method(Method::DELETE).path("/admin/blobs/").skip(skip).times(1);
        here.cluster().sandbox().faults().add(fault);
    }
    let ran = here.plugin(CHECKER, &["--check=all"]).run().exits(0);
    here.is_clean(Some(&redis.lock().unwrap()), &ran);
}

#[test]
fn a_replica_that_hangs_slows_nothing_down_for_long_and_is_told_of() {
    // The service leads to the first replica.
    let config = SiteConfig { replicas: 2, redis: None, ttl: LONG, controller: None, seed: 11 };
    let here = Here { site: Site::start(&config) };
    let hang = Fault::new(Action::Hang).server(Asked::Registry(1)).method(Method::DELETE);
    here.cluster().sandbox().faults().add(hang);
    let home = tempfile::tempdir().unwrap();
    let plugin = here.plugin(CHECKER, &["--registry-cache=evict", "--check=off"]);
    let ran = plugin.env("XDG_STATE_HOME", home.path()).run().exits(4);
    let (pod, cache) = (here.cluster().pod_name(1), cache(&ran));
    assert!(!cache["stale"][&pod].as_array().unwrap().is_empty(), "{ran}");
    let ran = ran.says("1 replica(s) did not confirm that they forgot every blob");
    let ran = ran.says(&format!("replica {pod}: "));
    assert_ne!(ask(&here.site).0, 0, "{ran}");
    // Once it answers again, the command that is named makes it forget.
    here.cluster().sandbox().faults().clear();
    let ran = here.repeat(&cache).exits(0);
    here.is_clean(None, &ran);
}

#[test]
fn a_run_that_is_interrupted_finishes_the_step_for_what_it_deleted() {
    let here = Here::start(LONG, None, |_| ());
    let (sender, receiver) = std::sync::mpsc::channel();
    let sender = Mutex::new(sender);
    let told = Action::hook(move || {
        let _ = sender.lock().unwrap().send(());
        std::thread::sleep(Duration::from_millis(50));
    });
    here.cluster().sandbox().faults().add(Fault::new(told).method(Method::DELETE).path("/admin/blobs/"));
    let running = here.plugin(CHECKER, &["--num-workers=1", "--check=all"]).start();
    receiver.recv_timeout(Duration::from_secs(30)).unwrap();
    running.signal("INT");
    let ran = running.wait().exits(130);
    let document = ran.json();
    assert_eq!(document["result"]["interrupted"], "SIGINT");
    let deleted = document["result"]["deleted"]["blobs"].as_u64().unwrap();
    assert!(deleted > 0 && deleted < digests(&here.site).len() as u64, "{ran}");
    here.is_clean(None, &ran);
    // Once more, and all is gone.
    let ran = here.plugin(CHECKER, &["--check=all"]).run().exits(0);
    here.is_clean(None, &ran);
    assert!(here.site.layers.iter().all(|layer| here.cluster().storage().blob_size(&layer.digest).is_none()));
}

#[test]
fn without_deletions_from_the_registry_there_is_no_step() {
    let here = Here::start(LONG, None, |_| ());
    let ran = here.plugin("pruner", &["--prune-registry=false"]).run().exits(0);
    assert_eq!((&cache(&ran)["step"], &cache(&ran)["needed"]), (&"unneeded".into(), &false.into()), "{ran}");
    let blobs = here.cluster().sandbox().request_log().filter(|entry| entry.path.starts_with("/admin/"));
    assert!(blobs.is_empty(), "{blobs:?}");
}

/// A cluster whose registry has a Redis with a password.
fn with_password() -> (Server, Here) {
    let redis = Server::start(&[&format!("requirepass {PASSWORD}")]).with_password(PASSWORD);
    let mut settings = sandbox::registry::RedisCache::at(redis.address());
    settings.password = Some(PASSWORD.to_owned());
    let here = Here::start(LONG, None, |cluster| {
        cluster.registry.as_mut().unwrap().redis = Some(settings);
    });
    (redis, here)
}

#[test]
fn passwords_are_in_no_output_and_in_no_command_line() {
    if !installed() {
        return;
    }
    let (redis, here) = with_password();
    let token = here.cluster().sandbox().token(CHECKER);
    // Found in a Secret by who may read it, and given in a file.
    here.cluster().sandbox().access().grant(CHECKER, sandbox::api::settings_reader());
    let (sender, receiver) = std::sync::mpsc::channel();
    let sender = Mutex::new(sender);
    let look = Action::hook(move || {
        let mut lines = String::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains("oc-prune_images") {
                lines.push_str(&String::from_utf8_lossy(&line));
            }
        }
        let _ = sender.lock().unwrap().send(lines);
    });
    here.cluster()
        .sandbox()
        .faults()
        .add(Fault::new(look).method(Method::DELETE).path("/admin/blobs/").times(1));
    let home = tempfile::tempdir().unwrap();
    let ran = here.plugin(CHECKER, &["-v=10"]).env("XDG_STATE_HOME", home.path()).run().exits(0);
    let lines = receiver.recv_timeout(Duration::from_secs(1)).unwrap();
    assert!(lines.contains("--confirm"), "{lines}");
    assert_eq!(cache(&ran)["step"], "evict", "{ran}");
    assert_eq!(cache(&ran)["redis"], true, "{ran}");
    here.is_clean(Some(&redis), &ran);
    for secret in [PASSWORD, &token] {
        for text in [&ran.stdout, &ran.stderr, &lines] {
            assert!(!text.contains(secret), "a secret is shown: {secret}");
        }
    }
}

#[test]
fn a_password_that_may_not_be_read_is_given_in_a_file() {
    if !installed() {
        return;
    }
    let (redis, here) = with_password();
    // The pruner may read no Secret: what is not known is not called clean.
    let ran = here.plugin("pruner", &["--registry-cache=flush"]).run().exits(1);
    let _ = ran.says("--registry-cache=flush: the registry's Redis (unknown) cannot be spoken to: the password stands in secret");
    let plugin = here.plugin("pruner", &["--redis-password-file=pw"]).file("pw", PASSWORD);
    let ran = plugin.run().exits(0);
    assert_eq!(cache(&ran)["redis"], true, "{ran}");
    here.is_clean(Some(&redis), &ran);
}
