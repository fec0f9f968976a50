//! Runs that are killed at any point, and what `resume` makes of what they leave; locks; and what a journal gives back.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests: whatever is wrong here fails them"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use common::cluster::tags;
use common::shop::{self, REPOSITORIES};
use common::{Plugin, Ran};
use http::Method;
use sandbox::api::{Rule, pruner_and};
use sandbox::fault::{Action, Fault};
use sandbox::log::{Entry, Server};
use sandbox::redis;
use sandbox::registry::client::Format;
use sandbox::registry::{Digest, RedisCache, RegistryConfig};
use sandbox::{Cluster, ClusterConfig, Config};
use serde_json::json;

const KEEP_ONE: &str = "--keep-tag-revisions=1";
/// Who may prune, ask for blobs, and hold the Lease.
const LOCKER: &str = "locker";
/// Who may prune and ask for blobs.
const CHECKER: &str = "checker";
const LEASES: &str = "openshift-image-registry";

/// Two replicas that remember everything; two streams with an image that stays and one that goes, which share a layer.
struct Shop {
    cluster: Cluster,
    /// Where runs keep their state.
    state: tempfile::TempDir,
    /// The blobs that go, and the repositories that have them.
    gone: Vec<(Digest, String)>,
    /// How many requests there were before the first run.
    before: usize,
}

/// What the cluster holds.
#[derive(Debug, PartialEq, Eq)]
struct Snapshot {
    images: BTreeSet<String>,
    tags: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    blobs: BTreeSet<Digest>,
    links: BTreeMap<String, (BTreeSet<Digest>, BTreeSet<Digest>)>,
    /// What a replica or Redis still names although the data is gone.
    stale: BTreeSet<String>,
}

impl Shop {
    fn start(redis: Option<&redis::Server>) -> Self {
        let layers = Rule::new(&["get"], &["", "image.openshift.io"], &["imagestreams/layers"]);
        let config = Config::default()
            .user(LOCKER, "locker", pruner_and([layers.clone(), lease_rule(&["get", "create", "update"])]))
            .user(CHECKER, "checker", pruner_and([layers]));
        let redis = redis.map(|server| RedisCache::at(server.address()));
        let cluster = Cluster::start(ClusterConfig {
            sandbox: config,
            registry: Some(RegistryConfig { redis, ..RegistryConfig::default() }),
            replicas: 2,
            ..ClusterConfig::default()
        });
        let gone = shop::fill(&cluster);
        let mut shop = Self { cluster, state: tempfile::tempdir().unwrap(), gone, before: 0 };
        shop.before = shop.cluster.sandbox().request_log().len();
        shop
    }

    fn plugin(&self, user: &str, args: &[&str]) -> Plugin {
        let plugin = Plugin::new();
        let kubeconfig = self.cluster.kubeconfig(plugin.home(), user);
        let plugin = plugin.file("ca.crt", self.cluster.sandbox().ca_pem());
        let plugin = plugin.env("XDG_STATE_HOME", self.state.path());
        plugin.args(args).arg("--kubeconfig").arg(kubeconfig)
    }

    fn prune(&self, user: &str, args: &[&str]) -> Plugin {
        self.plugin(user, &["--confirm", KEEP_ONE, "--certificate-authority=ca.crt"]).args(args)
    }

    fn resume(&self, user: &str, args: &[&str]) -> Plugin {
        self.plugin(user, &["resume", "--confirm", "--certificate-authority=ca.crt"]).args(args)
    }

    /// The folder of the only cluster that this shop's runs know.
    fn folder(&self) -> PathBuf {
        let root = self.state.path().join("oc-prune-images");
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries.remove(0)
    }

    fn journals(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder()).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<PathBuf> =
            entries.filter(|path| path.extension().is_some_and(|end| end == "journal")).collect();
        paths.sort();
        paths
    }

    fn mutations(&self) -> Vec<Entry> {
        let entries = self.cluster.sandbox().request_log().entries();
        entries.into_iter().skip(self.before).filter(Entry::is_mutation).collect()
    }

    /// How many links there are: 5 of each image, of which two stay.
    fn links(&self) -> usize {
        let storage = self.cluster.storage();
        let links = |of: &&str| storage.layer_links(of).len() + storage.manifest_links(of).len();
        REPOSITORIES.iter().map(links).sum()
    }

    fn snapshot(&self, redis: Option<&redis::Server>) -> Snapshot {
        let store = self.cluster.sandbox().store();
        let storage = self.cluster.storage();
        let repositories = storage.repositories().into_iter();
        let mut stale = shop::stale(&self.cluster, &self.gone);
        for (digest, _) in &self.gone {
            if let Some(redis) = redis
                && storage.blob_size(digest).is_none()
                && redis.text(&format!("HEXISTS blobs::{digest} digest")) == ":1"
            {
                stale.insert(format!("redis: {digest}"));
            }
        }
        Snapshot {
            images: store.names("images").into_iter().collect(),
            tags: store
                .list("imagestreams")
                .iter()
                .map(|stream| (common::cluster::repository(stream), tags(stream)))
                .collect(),
            blobs: storage.blobs(),
            links: repositories
                .map(|name| {
                    let links = (storage.manifest_links(&name), storage.layer_links(&name));
                    (name, links)
                })
                .collect(),
            stale,
        }
    }

    /// Runs this, and kills it when it sends its `number`th change, before or after the server has made it.
    fn kill_at(&self, plugin: Plugin, number: usize, moment: Moment) -> Ran {
        let victim: Arc<(Mutex<Option<u32>>, Condvar)> = Arc::default();
        let faults = self.cluster.sandbox().faults();
        let killer = Arc::clone(&victim);
        let at = |action| Fault::new(action).mutations().skip(number).times(1);
        match moment {
            Moment::Before => {
                faults.add(at(Action::hook(move || kill(&killer))));
                faults.add(at(Action::ResetBefore));
            }
            Moment::After => {
                faults.add(at(Action::hook_after(move || kill(&killer))));
            }
        }
        let running = plugin.start();
        *victim.0.lock().unwrap() = Some(running.pid());
        victim.1.notify_all();
        let ran = running.wait();
        faults.clear();
        ran
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Before,
    After,
}

/// Kills a process, and returns when it is dead.
fn kill((pid, known): &(Mutex<Option<u32>>, Condvar)) {
    let pid = pid.lock().unwrap();
    let pid = *known.wait_while(pid, |pid| pid.is_none()).unwrap();
    let pid = pid.unwrap();
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    // Its threads may do a last thing until the kernel has ended them all: then it is a zombie.
    let stat = format!("/proc/{pid}/stat");
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        std::thread::yield_now();
    }
}

fn lease_rule(verbs: &[&str]) -> Rule {
    Rule::new(verbs, &["coordination.k8s.io"], &["leases"]).in_namespace(LEASES)
}

fn kind(entry: &Entry) -> &'static str {
    match (entry.server, entry.path.as_str()) {
        (_, path) if path.contains("/leases") => "lease",
        (Server::Api, path) if path.contains("/imagestreams/") => "stream status",
        (Server::Api, _) => "image object",
        (_, path) if path.contains("/manifests/") => "manifest link",
        (_, path) if path.contains("/v2/") => "layer link",
        _ => "blob, eviction",
    }
}

/// Does this for each of these, some at a time.
fn in_parallel<T: Sync>(all: &[T], each: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    each(item);
                }
            });
        }
    });
}

/// A kill after every change that a run asks for, before and after the server has made it, then `resume`: the cluster, the
/// registry's storage and its caches end as after a run that nothing cut short.
#[test]
fn whenever_a_run_is_killed_resume_finishes_it() {
    let whole = Shop::start(None);
    whole.prune(CHECKER, &[]).run().exits(0);
    let expected = whole.snapshot(None);
    assert_eq!(expected.stale, BTreeSet::new());
    assert_eq!((expected.images.len(), expected.blobs.len()), (2, 8), "{expected:?}");
    let count = whole.mutations().len();
    let cells: Vec<(usize, Moment)> =
        (0..count).flat_map(|number| [(number, Moment::Before), (number, Moment::After)]).collect();
    // By what was asked for when it was killed.
    let table: Mutex<Table> = Mutex::default();
    let broken: Mutex<Vec<String>> = Mutex::default();
    in_parallel(&cells, |(number, moment)| {
        let shop = Shop::start(None);
        let killed = shop.kill_at(shop.prune(CHECKER, &[]), *number, *moment);
        let at = shop.mutations().get(*number).map_or("nothing", kind);
        let resumed = shop.resume(CHECKER, &[]).run();
        let after = shop.snapshot(None);
        let held = killed.code.is_none() && resumed.code == Some(0) && after == expected;
        let mut table = table.lock().unwrap();
        let (run, good) = table.entry((at, *moment)).or_default();
        (*run, *good) = (*run + 1, *good + usize::from(held));
        if !held {
            broken.lock().unwrap().push(format!(
                "killed {moment:?} change {number} ({at})\n{killed}\n{resumed}\n{after:#?}\nexpected {expected:#?}"
            ));
        }
    });
    let table = table.into_inner().unwrap();
    eprintln!("{}", shown(&table));
    let broken = broken.into_inner().unwrap();
    assert!(broken.is_empty(), "{} cells did not hold\n{}", broken.len(), broken[0]);
    assert_eq!(table.values().map(|(run, _)| run).sum::<usize>(), cells.len());
}

/// Cells that were run, and that held, by what was asked for and when.
type Table = BTreeMap<(&'static str, Moment), (usize, usize)>;

fn shown(table: &Table) -> String {
    let mut text = String::from("killed at            server         cells   held\n");
    let (mut cells, mut held) = (0, 0);
    for ((kind, moment), (run, good)) in table {
        let acted = if *moment == Moment::Before { "did nothing" } else { "acted" };
        writeln!(text, "{kind:20} {acted:12} {run:7} {good:6}").unwrap();
        (cells, held) = (cells + run, held + good);
    }
    writeln!(text, "all                  {:12} {cells:7} {held:6}", "").unwrap();
    text
}

/// The same with Redis in front of the storage, a Lease in the cluster, and every few changes.
#[test]
fn redis_and_the_lease_outlive_a_kill() {
    if !redis::Server::installed() {
        eprintln!("skipped: redis-server is missing; apt-get install redis-server");
        return;
    }
    let expected = {
        let server = redis::Server::start(&[]);
        let whole = Shop::start(Some(&server));
        whole.prune(LOCKER, &[]).run().exits(0).does_not_say("Lock:");
        whole.snapshot(Some(&server))
    };
    assert_eq!(expected.stale, BTreeSet::new());
    // The first change takes the Lease: nothing is written down before it.
    let cells: Vec<usize> = (1..25).step_by(5).collect();
    in_parallel(&cells, |number| {
        let server = redis::Server::start(&[]);
        let shop = Shop::start(Some(&server));
        let killed = shop.kill_at(shop.prune(LOCKER, &[]), *number, Moment::After);
        assert_eq!(killed.code, None, "{killed}");
        // Its Lease goes on for a while, and its lock file says that it is dead.
        let resumed = shop.resume(LOCKER, &[]).run().exits(0).does_not_say("Lock:");
        assert_eq!(shop.snapshot(Some(&server)), expected, "{killed}\n{resumed}");
        let lease = shop.cluster.sandbox().store().get("leases", LEASES, "oc-prune-images").unwrap();
        assert_eq!(lease["spec"]["holderIdentity"], "", "{lease}");
    });
}

/// Cut short after the status of the first stream was updated.
fn cut_short() -> Shop {
    let shop = Shop::start(None);
    let killed = shop.kill_at(shop.prune(CHECKER, &["--num-workers=1"]), 0, Moment::After);
    assert_eq!(killed.code, None, "{killed}");
    shop
}

#[test]
fn the_next_run_says_that_one_was_cut_short() {
    let shop = cut_short();
    let is_told = |ran: Ran| {
        ran.says("warning: the prune of 20")
            .says(&format!("by {CHECKER}@"))
            .says("was cut short: what it was about to delete may be left behind in the registry and its caches")
            .says("hint: finish it: oc prune-images resume --confirm --certificate-authority=ca.crt --kubeconfig=/")
    };
    let before = shop.cluster.sandbox().store().revision();
    let left = "Left behind by a run that was cut short, and named by nothing:\n  manifest link shop/";
    let args = [KEEP_ONE, "--certificate-authority=ca.crt"];
    is_told(shop.plugin(CHECKER, &args).run().exits(0).prints(left));
    let shown = shop.plugin(CHECKER, &["resume", "--certificate-authority=ca.crt"]).run().exits(0);
    let shown = shown.prints(left).says("hint: finish it: oc prune-images resume --confirm");
    assert_eq!(shop.cluster.sandbox().store().revision(), before, "{shown}");
    assert_eq!(shop.links(), 18);
    let document = shop.resume(CHECKER, &["-o", "json"]).run().exits(0).json();
    assert_eq!(document["kind"], "PruneResult");
    let links = |kind: &str| document["leftovers"][kind].as_array().map_or(0, Vec::len);
    assert_eq!((links("manifestLinks"), links("layerLinks"), links("blobs")), (1, 3, 0), "{document:#}");
    assert_eq!(document["result"]["deleted"]["layerLinks"], 6);
    assert_eq!(document["result"]["deleted"]["images"], 2);
    assert_eq!(shop.links(), 10);
    shop.prune(CHECKER, &[]).run().exits(0).does_not_say("was cut short");
    shop.resume(CHECKER, &[]).run().exits(0).says("Nothing to resume");
}

#[test]
fn the_next_run_removes_the_links_before_their_blobs_are_gone() {
    let shop = cut_short();
    shop.prune(CHECKER, &[]).run().exits(0).says("hint: finish it: oc prune-images resume --confirm");
    // Of a blob that is gone no link can be deleted.
    assert_eq!(shop.links(), 10);
    shop.resume(CHECKER, &[]).run().exits(0);
    shop.prune(CHECKER, &[]).run().exits(0).does_not_say("was cut short");
}

#[test]
fn a_resume_that_is_cut_short_is_resumed() {
    let shop = cut_short();
    let killed = shop.kill_at(shop.resume(CHECKER, &[]), 2, Moment::After);
    assert_eq!(killed.code, None, "{killed}");
    let again = shop.kill_at(shop.resume(CHECKER, &[]), 5, Moment::Before);
    assert_eq!(again.code, None, "{again}");
    let whole = Shop::start(None);
    whole.prune(CHECKER, &[]).run().exits(0);
    let resumed = shop.resume(CHECKER, &[]).run().exits(0);
    assert_eq!(shop.snapshot(None), whole.snapshot(None), "{resumed}");
    let shown = shop.plugin(CHECKER, &["journal", "show", "-o", "json"]).run().exits(0).json();
    assert_eq!(shown["standing"], "finished", "{shown:#}");
    assert_eq!(shown["resumed"].as_array().unwrap().len(), 3);
}

/// Of the blobs that both images have, one was deleted from the storage, and nothing was evicted.
fn a_blob_short() -> (Shop, Digest) {
    let shared = Digest::of(b"shared");
    let shop = Shop::start(None);
    let path = format!("/admin/blobs/{shared}");
    let victim: Arc<(Mutex<Option<u32>>, Condvar)> = Arc::default();
    let killer = Arc::clone(&victim);
    let faults = shop.cluster.sandbox().faults();
    faults.add(Fault::new(Action::hook_after(move || kill(&killer))).path(&path).times(1));
    let running = shop.prune(CHECKER, &[]).start();
    *victim.0.lock().unwrap() = Some(running.pid());
    victim.1.notify_all();
    assert_eq!(running.wait().code, None);
    faults.clear();
    assert!(shop.cluster.storage().blob_size(&shared).is_none());
    (shop, shared)
}

#[test]
fn what_was_pushed_again_since_is_not_evicted() {
    let (shop, shared) = a_blob_short();
    // Whoever asked the replica that deleted it uploads it; the other one believed in it all the time.
    let client = shop.cluster.client_of(0, "admin");
    let content: Vec<Vec<u8>> = [b"base".to_vec(), b"shared".to_vec()].into();
    let config = json!({ "architecture": "amd64", "os": "linux", "of": "a later push" });
    let pushed = shop
        .cluster
        .block_on(client.push_image("shop/later", Some("latest"), Format::Docker, &content, &config))
        .unwrap();
    assert!(shop.cluster.storage().blob_size(&shared).is_some());
    let resumed = shop.resume(CHECKER, &["--check=off"]).run().exits(0);
    assert!(shop.cluster.storage().blob_size(&shared).is_some(), "{resumed}");
    for replica in shop.cluster.serving() {
        let client = shop.cluster.client_of(replica, "admin");
        let whole = shop.cluster.block_on(client.pull_whole("shop/later", pushed.digest.as_str()));
        assert!(whole.is_ok(), "{replica}\n{resumed}");
    }
}

#[test]
fn a_replica_that_still_believes_in_what_is_gone_forgets_it() {
    let (shop, shared) = a_blob_short();
    let stale =
        shop.cluster.serving().into_iter().find(|number| shop.cluster.replica(*number).remembers(&shared));
    // Whoever mounts it there makes an image that lacks it, and for whose sake it is not deleted again.
    let client = shop.cluster.client_of(stale.unwrap(), "admin");
    let mounted = shop.cluster.block_on(client.mount_blob("shop/web", &shared, "shop/api")).unwrap();
    assert_eq!(mounted.as_u16(), 201);
    let content: Vec<Vec<u8>> = [b"base".to_vec()].into();
    let config = json!({ "architecture": "amd64", "os": "linux", "of": "a later push" });
    let push = client.push_image("shop/web", Some("latest"), Format::Docker, &content, &config);
    let later = shop.cluster.block_on(push).unwrap();
    let lacking = json!({ "name": shared.as_str(), "size": 6, "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip" });
    shop.cluster.sandbox().store().update("images", "", later.digest.as_str(), |image| {
        image["dockerImageLayers"].as_array_mut().unwrap().push(lacking);
    });
    let resumed = shop.resume(CHECKER, &["--check=off", "--verify=off"]).run().exits(0);
    for replica in shop.cluster.serving() {
        assert!(!shop.cluster.replica(replica).remembers(&shared), "{replica}\n{resumed}");
    }
}

#[test]
fn a_run_that_failed_to_delete_links_is_resumed() {
    let shop = Shop::start(None);
    let refused =
        Action::Answer(sandbox::fault::Answer::new(http::StatusCode::INTERNAL_SERVER_ERROR).body("{}"));
    shop.cluster
        .sandbox()
        .faults()
        .add(Fault::new(refused).method(Method::DELETE).path("^/v2/shop/web/blobs/"));
    shop.prune(CHECKER, &[]).run().exits(3).says("hint: run the same command again, from here: what is left is tried again, also the links, of which only the journal knows");
    shop.cluster.sandbox().faults().clear();
    // What has a link stays until that is gone.
    assert_eq!(shop.links(), 13);
    let next = shop.prune(CHECKER, &[]).run().exits(0);
    next.says("could not delete 3 object(s) of the registry that nothing else names any longer");
    assert_eq!(shop.links(), 10);
    shop.resume(CHECKER, &[]).run().exits(0);
    shop.prune(CHECKER, &[]).run().exits(0).does_not_say("hint: finish it");
}

#[test]
fn a_second_run_stays_away_and_says_why() {
    for user in [CHECKER, LOCKER] {
        let shop = Shop::start(None);
        let (waiting, release) = (Arc::new((Mutex::new((false, false)), Condvar::new())), ());
        let () = release;
        let gate = Arc::clone(&waiting);
        let hold = Action::hook(move || {
            let mut state = gate.0.lock().unwrap();
            state.0 = true;
            gate.1.notify_all();
            drop(gate.1.wait_while(state, |state| !state.1).unwrap());
        });
        let faults = shop.cluster.sandbox().faults();
        faults.add(Fault::new(hold).method(Method::PUT).path("/imagestreams/").times(1));
        let first = shop.prune(user, &["--num-workers=1"]).start();
        drop(waiting.1.wait_while(waiting.0.lock().unwrap(), |state| !state.0).unwrap());
        let pid = first.pid();
        // From this machine the file keeps others away, from elsewhere the Lease.
        let second = shop.prune(user, &[]);
        let elsewhere = tempfile::tempdir().unwrap();
        let (second, said) = if user == LOCKER {
            (second.env("XDG_STATE_HOME", elsewhere.path()), "its lock ends by itself at 20")
        } else {
            (second, "hint: wait until that run is over, then repeat this command")
        };
        let before = shop.mutations().len();
        second
            .run()
            .exits(1)
            .says(&format!("error: take the lock: {user}@"))
            .says(&format!("/{pid} has been changing this cluster since 20"))
            .says("- no changes made")
            .says(said);
        assert_eq!(shop.mutations().len(), before);
        shop.plugin(user, &["resume"]).run().exits(0).says("goes on: it is left alone");
        {
            waiting.0.lock().unwrap().1 = true;
            waiting.1.notify_all();
        }
        first.wait().exits(0);
        shop.prune(user, &[]).run().exits(0);
    }
}

#[test]
fn what_was_deleted_can_be_looked_at_and_created_again() {
    let shop = Shop::start(None);
    let store = shop.cluster.sandbox().store();
    let (images, stream) = (store.list("images"), store.get("imagestreams", "shop", "web").unwrap());
    shop.prune(CHECKER, &["--prune-registry=false"]).run().exits(0);
    let gone: Vec<&serde_json::Value> = images
        .iter()
        .filter(|image| store.get("images", "", image["metadata"]["name"].as_str().unwrap()).is_none())
        .collect();
    assert_eq!(gone.len(), 2);
    let shown = shop.plugin(CHECKER, &["journal", "show"]).run().exits(0);
    shown
        .prints("Flags     --keep-tag-revisions=1 --keep-younger-than=1h --prune-registry=false\n")
        .prints("State     it is finished (20")
        .prints("Done      2 image(s), 0 manifest link(s), 0 layer link(s), 0 blob(s)\n");
    let exported = shop.plugin(CHECKER, &["journal", "export"]).run().exits(0).json();
    assert_eq!((exported["kind"].as_str(), exported["items"].as_array().unwrap().len()), (Some("List"), 2));
    for item in exported["items"].as_array().unwrap() {
        let was = gone.iter().find(|image| image["metadata"]["name"] == item["metadata"]["name"]).unwrap();
        for field in [
            "dockerImageReference",
            "dockerImageLayers",
            "dockerImageMetadata",
            "dockerImageManifestMediaType",
        ] {
            assert_eq!(item[field], was[field], "{field}");
        }
        assert!(item["metadata"].get("uid").is_none() && item["kind"] == "Image", "{item:#}");
    }
    let yaml = shop.plugin(CHECKER, &["journal", "export", "-o", "yaml"]).run().exits(0);
    let read: serde_json::Value = serde_saphyr::from_str(&yaml.stdout).unwrap();
    assert_eq!(read["items"][1]["metadata"], exported["items"][1]["metadata"]);
    let streams = shop.plugin(CHECKER, &["journal", "export", "--streams"]).run().exits(0);
    let web = streams.json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|item| item["metadata"]["name"] == "web")
        .cloned();
    assert_eq!(web.unwrap()["status"]["tags"], stream["status"]["tags"]);
    // As the documentation says.
    let home = tempfile::tempdir().unwrap();
    let kubeconfig = shop.cluster.kubeconfig(home.path(), "admin");
    let kubectl = |args: &[&str], input: &str| {
        let mut command = Command::new("kubectl");
        command.env("HOME", home.path()).arg("--kubeconfig").arg(&kubeconfig).args(args);
        let Ok(mut child) = command.stdin(std::process::Stdio::piped()).spawn() else { return false };
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "kubectl {args:?}");
        true
    };
    if !kubectl(&["create", "-f", "-"], &exported.to_string()) {
        eprintln!("skipped: kubectl is missing; apt-get install kubernetes-client");
        return;
    }
    assert_eq!(store.names("images").len(), images.len());
    // kubectl has it since 1.24.
    let help = Command::new("kubectl").args(["replace", "--help"]).output().unwrap();
    if !String::from_utf8_lossy(&help.stdout).contains("--subresource") {
        eprintln!("skipped: this kubectl is too old for --subresource");
        return;
    }
    kubectl(&["replace", "--subresource=status", "-f", "-"], &streams.stdout);
    assert_eq!(store.get("imagestreams", "shop", "web").unwrap()["status"]["tags"], stream["status"]["tags"]);
}

#[test]
fn a_journal_that_cannot_be_used_is_told() {
    let shop = cut_short();
    let path = shop.journals().remove(0);
    let resume = |path: &std::path::Path| {
        shop.plugin(CHECKER, &["resume", &format!("--journal={}", path.display())]).run()
    };
    // The last line was being written.
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&whole, &br#"{"record":"done","ki"#[..]].concat()).unwrap();
    resume(&path).exits(0);
    let garbage = shop.state.path().join("garbage.journal");
    std::fs::write(&garbage, [&whole, &b"\xff\x1b[2J\n"[..]].concat()).unwrap();
    let lines = String::from_utf8_lossy(&whole).lines().count();
    let ran =
        resume(&garbage).exits(1).says(&format!("garbage.journal: line {}: ", lines + 1)).says("hint: ");
    assert!(!ran.stderr.contains('\u{1b}'), "{ran}");
    std::fs::write(&garbage, String::from_utf8(whole.clone()).unwrap().replace("127.0.0.1-", "elsewhere-"))
        .unwrap();
    resume(&garbage).exits(1).says("it is of another cluster, https://127.0.0.1");
    std::fs::write(&garbage, &whole[..20]).unwrap();
    resume(&garbage).exits(1).says("it is no journal: its first line is not whole");
    resume(&shop.state.path().join("none")).exits(1).says("no such file or directory");
    // What is in front of the first change is nothing to be resumed.
    let planned = String::from_utf8(whole).unwrap();
    let void = planned.split_inclusive('\n').take_while(|line| !line.contains("planned")).collect::<String>();
    std::fs::write(&garbage, void).unwrap();
    resume(&garbage).exits(0).says("Nothing was changed by that run");
}

#[test]
fn without_a_place_for_a_journal_the_run_says_what_is_lost() {
    let shop = Shop::start(None);
    let file = shop.state.path().join("file");
    std::fs::write(&file, "").unwrap();
    shop.prune(CHECKER, &[&format!("--journal={}", file.join("j").display())])
        .run()
        .exits(1)
        .says("error: write the journal ")
        .says("hint: name a new file in a folder that you may write to: --journal=FILE");
    assert_eq!(shop.mutations().len(), 0);
    shop.prune(CHECKER, &[])
        .env("XDG_STATE_HOME", &file)
        .run()
        .exits(0)
        .says("warning: no journal is kept: ")
        .says("hint: name a file for it: --journal=FILE; in a container, on a volume that outlives it")
        .says("Lock: none: ");
}

#[test]
fn a_journal_has_no_secrets_and_goes_where_it_is_told() {
    let shop = Shop::start(None);
    let path = shop.state.path().join("mine");
    shop.prune(CHECKER, &[&format!("--journal={}", path.display())]).run().exits(0);
    let token = shop.cluster.sandbox().token(CHECKER);
    for file in [path.clone(), oc_prune_images::journal::objects_path(&path)] {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains(&token) && !text.is_empty(), "{}", file.display());
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
    let ran = shop.prune(CHECKER, &[&format!("--journal={}", path.display())]).run();
    // Nothing goes any more, so nothing is written.
    ran.exits(0);
}
