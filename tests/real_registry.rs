//! The registry's Redis after deletions, with real processes: `docker-registry` and its own garbage collection, Redis
//! standalone, with TLS, Cluster, Sentinel and ACL users.
//!
//! Needs `docker-registry` and `redis-server`; without them the tests say so and do nothing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests: whatever is wrong here fails them"
)]

#[path = "common/docker_registry.rs"]
mod docker_registry;
#[path = "common/plugin.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod plugin;
#[path = "common/redis.rs"]
mod redis_keys;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use docker_registry::DockerRegistry;
use http::{Method, StatusCode};
use plugin::{Plugin, Ran};
use redis_keys::FOREIGN;
use sandbox::fault::{Action, Fault};
use sandbox::redis::{Server, free_port};
use sandbox::registry::client::{Client, Format, Pushed};
use sandbox::registry::{Digest, RedisCache, RegistryConfig, docker_registry_binary};
use sandbox::tls::Authority;
use sandbox::{Cluster, ClusterConfig};
use serde_json::json;
use tokio::runtime::Runtime;

const PASSWORD: &str = "geheim-9f3c";

/// Where the registry's keys are; others have theirs in the same Redis.
const DATABASE: usize = 3;

const REPLICAS: usize = 2;

fn is_installed() -> bool {
    for (found, package) in
        [(Server::installed(), "redis-server"), (docker_registry_binary().is_some(), "docker-registry")]
    {
        if !found {
            eprintln!("skipped: {package} is missing; apt-get install {package}");
            return false;
        }
    }
    true
}

/// Every key of every database with its bytes; sets as their sorted members.
type Dump = BTreeMap<(usize, String), Vec<u8>>;

fn dump(server: &Server, databases: impl IntoIterator<Item = usize>) -> Dump {
    let of =
        |database| server.dump_of(database).into_iter().map(move |(key, bytes)| ((database, key), bytes));
    databases.into_iter().flat_map(of).collect()
}

/// The members of a set but for some.
fn sorted(members: &[u8], without: &BTreeSet<String>) -> Vec<u8> {
    let text = std::str::from_utf8(members).unwrap();
    let members: BTreeSet<&str> = text.lines().filter(|member| !without.contains(*member)).collect();
    members.into_iter().collect::<Vec<_>>().join("\n").into_bytes()
}

/// Keys of others: GitLab's registry and Harbor, too.
fn foreign() -> impl Iterator<Item = String> {
    let further = [
        "SETEX blobs::cached:5 3600 x",
        "SET registry:api:{repository:shop:00}:pull 1",
        "SET cache:repository:shop/web::blobs 1",
    ];
    FOREIGN.into_iter().chain(further).map(str::to_owned)
}

fn seed_foreign(server: &Server) {
    let lines: Vec<_> = foreign().collect();
    for database in [0, DATABASE, 9] {
        let answers = server.send_lines(database, &lines);
        assert!(answers.iter().all(|answer| !answer.starts_with(b"-")), "{answers:?}");
    }
}

/// What of the cache is to be gone.
#[derive(Debug, Default)]
struct Gone {
    blobs: BTreeSet<String>,
    /// Where they are forgotten, too.
    repositories: Vec<&'static str>,
    /// Repositories that are forgotten a blob, which may stay elsewhere.
    links: BTreeSet<(String, String)>,
}

impl Gone {
    /// The keys that are left of these, with their bytes.
    fn left_of(&self, before: &Dump, database: usize) -> Dump {
        let mut left = before.clone();
        left.retain(|(own, key), bytes| {
            if *own != database {
                return true;
            }
            if let Some(digest) = key.strip_prefix("blobs::") {
                return !self.blobs.contains(digest);
            }
            let Some((repository, rest)) =
                key.strip_prefix("repository::").and_then(|rest| rest.split_once("::blobs"))
            else {
                return true;
            };
            let mut lost: BTreeSet<String> = self
                .links
                .iter()
                .filter(|(name, _)| name == repository)
                .map(|(_, digest)| digest.clone())
                .collect();
            if self.repositories.contains(&repository) {
                lost.extend(self.blobs.iter().cloned());
            }
            match rest.strip_prefix("::") {
                Some(digest) => !lost.contains(digest),
                None if lost.is_empty() => true,
                None => {
                    *bytes = sorted(bytes, &lost);
                    !bytes.is_empty()
                }
            }
        });
        left
    }
}

#[track_caller]
fn assert_same(after: &Dump, expected: &Dump) {
    for (key, bytes) in expected {
        match after.get(key) {
            None => panic!("{key:?} is lost"),
            Some(now) => assert_eq!(
                String::from_utf8_lossy(now),
                String::from_utf8_lossy(bytes),
                "{key:?} has changed"
            ),
        }
    }
    let left: Vec<_> = after.keys().filter(|key| !expected.contains_key(key)).collect();
    assert!(left.is_empty(), "still there: {left:?}");
}

/// The bytes of a layer.
fn layer(name: &str) -> Vec<u8> {
    format!("{name} ").repeat(2000).into_bytes()
}

const REPOSITORIES: [&str; 2] = ["shop/web", "shop/api"];
const MOUNTED: &str = "shop/mounted";

async fn push(client: &Client, repository: &str, tag: &str, layers: &[&str]) -> Pushed {
    let config =
        json!({ "architecture": "amd64", "os": "linux", "repository": repository, "layers": layers });
    let layers: Vec<_> = layers.iter().map(|name| layer(name)).collect();
    client.push_image(repository, Some(tag), Format::Docker, &layers, &config).await.unwrap()
}

/// A registry with two repositories, and a Redis that others use as well.
struct Plain {
    runtime: Runtime,
    registry: DockerRegistry,
    redis: Server,
    pruned: Digest,
    /// What garbage collection has said.
    gone: Vec<String>,
}

impl Plain {
    /// The images `old` and `new` in each repository, all with layers in common; then `old` is deleted and its garbage
    /// collected.
    fn start(redis: Server) -> Self {
        let address = redis.address();
        Self::start_with(redis, &address)
    }

    /// [`Plain::start`] where the registry reaches its Redis at another address.
    fn start_with(redis: Server, address: &str) -> Self {
        seed_foreign(&redis);
        let registry = DockerRegistry::start(&json!({
            "addr": address,
            "password": PASSWORD,
            "db": DATABASE,
        }));
        let runtime = Runtime::new().unwrap();
        let client = registry.client();
        runtime.block_on(async {
            for repository in REPOSITORIES {
                let old = push(&client, repository, "old", &["base", "pruned"]).await;
                push(&client, repository, "new", &["base", repository]).await;
                for tag in ["old", "new"] {
                    client.pull_whole(repository, tag).await.unwrap();
                }
                let path = format!("/v2/{repository}/manifests/{}", old.digest);
                let deleted = client.send(Method::DELETE, &path, &[], "").await.unwrap();
                assert_eq!(deleted.status(), StatusCode::ACCEPTED);
            }
        });
        let pruned = Digest::of(&layer("pruned"));
        Self { runtime, registry, redis, pruned, gone: Vec::new() }
    }

    /// Collects the garbage: the layer, and manifest and config of both images.
    fn collect_garbage(&mut self) {
        self.gone = self.registry.collect_garbage();
        assert_eq!(self.gone.len(), 5, "{:?}", self.gone);
        assert!(self.gone.iter().any(|digest| digest == self.pruned.as_str()));
        assert!(
            self.gone.iter().all(|digest| self
                .registry
                .storage()
                .blob_size(&Digest::parse(digest).unwrap())
                .is_none())
        );
    }

    /// A registry that lies about the garbage that was collected, and what its Redis holds then.
    fn start_stale() -> (Self, Dump) {
        let mut plain = Self::start(standalone());
        plain.collect_garbage();
        plain.assert_stale();
        let before = plain.dump();
        (plain, before)
    }

    fn status(&self, method: Method, path: &str) -> StatusCode {
        self.runtime.block_on(self.registry.client().send(method, path, &[], "")).unwrap().status()
    }

    /// What the registry claims to have and has not, as repository and digest.
    fn stale(&self) -> Vec<(&'static str, String)> {
        let client = self.registry.client();
        let mut stale = Vec::new();
        for repository in REPOSITORIES {
            for digest in &self.gone {
                let path = format!("/v2/{repository}/blobs/{digest}");
                match self.status(Method::HEAD, &path) {
                    StatusCode::NOT_FOUND => {
                        assert_eq!(self.status(Method::GET, &path), StatusCode::NOT_FOUND);
                    }
                    StatusCode::OK => {
                        let got = self.runtime.block_on(client.send(Method::GET, &path, &[], ""));
                        let broken = got.unwrap_err().to_string();
                        assert!(broken.starts_with("GET /v2/"), "{broken}");
                        stale.push((repository, digest.clone()));
                    }
                    status => panic!("{path}: {status}"),
                }
            }
        }
        stale
    }

    fn push_again(&self) -> bool {
        let client = self.registry.client();
        self.runtime.block_on(async {
            push(&client, "shop/web", "again", &["base", "pruned"]).await;
            client.pull_whole("shop/web", "again").await.is_ok()
        })
    }

    fn mount(&self) -> StatusCode {
        let mounting = async || self.registry.client().mount_blob(MOUNTED, &self.pruned, "shop/web").await;
        self.runtime.block_on(mounting()).unwrap()
    }

    /// Fails unless Redis has the registry lie: there is something to be flushed.
    #[track_caller]
    fn assert_stale(&self) {
        let stale = self.stale();
        assert_eq!(stale.len(), 4, "the layer and a config in each of two repositories: {stale:?}");
        assert_eq!(self.mount(), StatusCode::CREATED, "it can be mounted");
        let path = format!("/v2/{MOUNTED}/blobs/{}", self.pruned);
        assert_eq!(self.status(Method::HEAD, &path), StatusCode::OK, "and is there, too");
        assert!(!self.push_again(), "a push that re-uses it is accepted, and broken");
        assert!(self.registry.storage().blob_size(&self.pruned).is_none(), "the push has not uploaded it");
    }

    /// Fails unless the registry says what is true, and a push that re-uses the layer is whole.
    #[track_caller]
    fn assert_clean(&self) {
        assert_eq!(self.stale(), []);
        assert_eq!(self.mount(), StatusCode::ACCEPTED, "it has to be uploaded");
        assert!(self.push_again());
        assert_eq!(self.registry.storage().read_blob(&self.pruned).unwrap(), layer("pruned"));
        let client = self.registry.client();
        for repository in REPOSITORIES {
            self.runtime.block_on(client.pull_whole(repository, "new")).unwrap();
        }
    }

    fn dump(&self) -> Dump {
        dump(&self.redis, 0..16)
    }

    fn url(&self) -> String {
        format!("{}/{DATABASE}", self.redis.url())
    }

    /// What garbage collection has printed, as it is; or with each repository in front.
    fn list(&self, repositories: &[&str]) -> String {
        let mut lines = Vec::new();
        for digest in &self.gone {
            lines.extend(repositories.iter().map(|repository| format!("{repository}@{digest}\n")));
            if repositories.is_empty() {
                lines.push(format!("{digest}\n"));
            }
        }
        lines.concat()
    }

    fn expect(&self, before: &Dump, repositories: &[&'static str]) -> Dump {
        let gone = Gone {
            blobs: self.gone.iter().cloned().collect(),
            repositories: repositories.to_vec(),
            links: BTreeSet::new(),
        };
        gone.left_of(before, DATABASE)
    }
}

/// `cache flush` with the password, not yet started.
fn flush(url: &str) -> Plugin {
    let plugin = Plugin::new().args(["cache", "flush"]).arg(format!("--redis-url={url}"));
    plugin.file("pw", PASSWORD).arg("--redis-password-file=pw")
}

fn silent(ran: Ran) -> Ran {
    assert!(!format!("{}{}", ran.stdout, ran.stderr).contains(PASSWORD), "a password is shown\n{ran}");
    ran
}

fn standalone() -> Server {
    Server::start(&[&format!("requirepass {PASSWORD}")]).with_password(PASSWORD)
}

#[test]
fn what_garbage_collection_prints_is_enough_to_be_clean() {
    if !is_installed() {
        return;
    }
    let (plain, before) = Plain::start_stale();
    let ran = flush(&plain.url()).arg("--digests-from=-").input(plain.list(&[])).run();
    silent(ran.exits(0)).prints("Summary: evicted 5 key(s) and 0 set member(s)");
    assert_same(&plain.dump(), &plain.expect(&before, &[]));
    plain.assert_clean();
}

#[test]
fn lines_with_repositories_leave_no_trace_of_the_blobs_there() {
    if !is_installed() {
        return;
    }
    let (plain, before) = Plain::start_stale();
    let list = plain.list(&REPOSITORIES);
    let dry = flush(&plain.url()).args(["--digests-from=-", "--dry-run"]).input(list.clone()).run();
    silent(dry.exits(0)).prints("Summary: would evict 9 key(s) and 4 set member(s)");
    assert_same(&plain.dump(), &before);
    let ran = flush(&plain.url()).arg("--digests-from=list").file("list", list).run();
    silent(ran.exits(0)).prints("Summary: evicted 9 key(s) and 4 set member(s)");
    assert_same(&plain.dump(), &plain.expect(&before, &REPOSITORIES));
    plain.assert_clean();
}

#[test]
fn a_scan_finds_every_repository_of_the_blobs() {
    if !is_installed() {
        return;
    }
    let (plain, before) = Plain::start_stale();
    assert!(before.contains_key(&(DATABASE, format!("repository::{MOUNTED}::blobs"))));
    let ran =
        flush(&plain.url()).args(["--digests-from=-", "--scan-repositories"]).input(plain.list(&[])).run();
    silent(ran.exits(0)).prints("Summary: evicted 10 key(s) and 5 set member(s)");
    assert_same(&plain.dump(), &plain.expect(&before, &[REPOSITORIES[0], REPOSITORIES[1], MOUNTED]));
    plain.assert_clean();
}

#[test]
fn all_of_the_cache_goes_and_nothing_of_others() {
    if !is_installed() {
        return;
    }
    let mut plain = Plain::start(standalone());
    plain.collect_garbage();
    plain.assert_stale();
    // Distribution takes a first component with capitals for a host.
    plain.runtime.block_on(push(&plain.registry.client(), "Team.io/web", "new", &["base"]));
    let before = plain.dump();
    let mut expected = before.clone();
    let foreign: BTreeSet<_> =
        foreign().filter_map(|line| line.split(' ').nth(1).map(str::to_owned)).collect();
    expected.retain(|(database, key), _| *database != DATABASE || foreign.contains(key));
    assert!(before.len() > expected.len() + 20);
    let ran = flush(&plain.url()).arg("--all").run();
    silent(ran.exits(0)).prints(&format!("Summary: evicted {} key(s)", before.len() - expected.len()));
    assert_same(&plain.dump(), &expected);
    plain.assert_clean();
}

#[test]
fn over_tls_with_a_client_certificate_redis_forgets_as_well() {
    if !is_installed() {
        return;
    }
    // The packaged registry knows no TLS for its Redis (`redis.tls` is ignored): it gets a port without.
    let authority = Authority::default();
    let lines = [format!("port {}", free_port()), format!("requirepass {PASSWORD}")];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let redis = Server::start_tls(&authority, &lines).with_password(PASSWORD);
    let plain_address = lines[0].replace("port ", "127.0.0.1:");
    let mut plain = Plain::start_with(redis, &plain_address);
    plain.collect_garbage();
    plain.assert_stale();
    let before = plain.dump();
    let url = format!("rediss://localhost:{}/{DATABASE}", plain.redis.port());
    let client = authority.client("flush");
    let run = |args: &[&str]| {
        let plugin = flush(&url).file("ca", authority.pem()).file("crt", &client.certificate_pem);
        let plugin = plugin.file("key", &client.key_pem).args(args.iter().copied()).arg("--digests-from=-");
        silent(plugin.input(plain.list(&REPOSITORIES)).run())
    };
    run(&[]).exits(4).says("certificate signed by unknown authority");
    assert_same(&plain.dump(), &before);
    let ran = run(&["--redis-ca=ca", "--redis-client-certificate=crt", "--redis-client-key=key"]).exits(0);
    ran.prints(&format!("Summary: evicted 9 key(s) and 4 set member(s) of {url}"));
    assert_same(&plain.dump(), &plain.expect(&before, &REPOSITORIES));
    plain.assert_clean();
}

#[test]
fn restarts_do_not_help_and_a_redis_that_was_away_is_flushed_by_repeating_the_command() {
    if !is_installed() {
        return;
    }
    let mut plain = Plain::start(standalone());
    // As the manual says: nobody pushes during the collection.
    plain.registry.stop();
    plain.collect_garbage();
    plain.registry.start_again();
    plain.assert_stale();
    assert_eq!(plain.redis.text("SAVE"), "+OK");
    plain.redis.stop();
    let run = |plain: &Plain| {
        let plugin =
            flush(&plain.url()).args(["--digests-from=-", "--scan-repositories", "--redis-timeout=300ms"]);
        silent(plugin.input(plain.list(&[])).run())
    };
    let repeat = format!(
        "cache flush --redis-url={} --redis-password-file=pw --redis-timeout=300ms --digests-from=-",
        plain.url()
    );
    run(&plain).exits(4).says("connection refused").says(&repeat);
    plain.redis.start_again();
    plain.registry.start_again();
    plain.assert_stale();
    let before = plain.dump();
    run(&plain).exits(0);
    let repositories = [REPOSITORIES[0], REPOSITORIES[1], MOUNTED];
    assert_same(&plain.dump(), &plain.expect(&before, &repositories));
    plain.registry.start_again();
    plain.assert_clean();
}

/// A cluster whose registry's bytes a `docker-registry` moves, and two streams that have layers in common:
/// - `shop/web`: `[base, old]`, `[base, pruned, shared]`, `[base, web]`, the last one is kept;
/// - `shop/api`: `[base, pruned]`, `[base, shared]`, the last one is kept.
struct Shop {
    cluster: Cluster,
}

/// What a prune of the [`Shop`] deletes.
const PRUNE: [&str; 4] = ["--confirm", "--keep-tag-revisions=1", "--keep-younger-than=0s", "-o=json"];

impl Shop {
    fn start(redis: Option<RedisCache>) -> Self {
        let registry = RegistryConfig { redis, ..RegistryConfig::default() };
        let config =
            ClusterConfig { registry: Some(registry), replicas: REPLICAS, ..ClusterConfig::default() };
        let cluster = Cluster::start(config.with_installed_registry());
        let shop = Self { cluster };
        let client = shop.cluster.client("admin");
        shop.cluster.block_on(async {
            for (repository, layers) in [
                ("shop/web", ["base", "old", ""]),
                ("shop/web", ["base", "pruned", "shared"]),
                ("shop/api", ["base", "pruned", ""]),
                ("shop/web", ["base", "web", ""]),
                ("shop/api", ["base", "shared", ""]),
            ] {
                let layers: Vec<_> = layers.into_iter().filter(|layer| !layer.is_empty()).collect();
                push(&client, repository, "latest", &layers).await;
            }
        });
        // Now every replica knows all of it.
        for (repository, links) in shop.links() {
            for digest in links {
                for replica in 0..REPLICAS {
                    assert_eq!(shop.head(replica, &repository, &digest), StatusCode::OK);
                }
            }
        }
        shop
    }

    /// The layers and configs of each repository.
    fn links(&self) -> BTreeMap<String, BTreeSet<Digest>> {
        let storage = self.cluster.storage();
        let repositories = storage.repositories().into_iter();
        repositories.map(|name| (name.clone(), storage.layer_links(&name))).collect()
    }

    fn head(&self, replica: usize, repository: &str, digest: &Digest) -> StatusCode {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let client = self.cluster.client_of(replica, "admin");
        self.cluster.block_on(client.send(Method::HEAD, &path, &[], "")).unwrap().status()
    }

    fn plugin(&self) -> Plugin {
        self.plugin_of("pruner")
    }

    fn plugin_of(&self, user: &str) -> Plugin {
        let plugin = Plugin::new();
        let kubeconfig = self.cluster.kubeconfig(plugin.home(), user);
        let plugin = plugin.file("ca.crt", self.cluster.sandbox().ca_pem()).file("pw", PASSWORD);
        plugin.arg("--kubeconfig").arg(kubeconfig).arg("--certificate-authority=ca.crt").args(PRUNE)
    }

    /// Has Redis know the pruned layer again when its links are deleted already and its data is not: what a client does
    /// that asks at the wrong moment.
    fn refill(&self, redis: &Arc<Server>) {
        let (redis, pruned) = (Arc::clone(redis), Digest::of(&layer("pruned")));
        let size = layer("pruned").len();
        let line =
            format!("HSET blobs::{pruned} digest {pruned} size {size} mediatype application/octet-stream");
        let refill =
            move || assert!(!redis.send_lines(DATABASE, std::slice::from_ref(&line))[0].starts_with(b"-"));
        let fault = Fault::new(Action::hook(refill)).method(Method::DELETE).path("^/admin/blobs/").times(1);
        self.cluster.sandbox().faults().add(fault);
    }

    /// What is no longer there, by the document of the run.
    fn gone(&self, ran: &Ran) -> Gone {
        let document = ran.json();
        let mut gone = Gone { repositories: REPOSITORIES.to_vec(), ..Gone::default() };
        for change in document["result"]["changes"].as_array().unwrap() {
            let text = |field: &str| change[field].as_str().unwrap_or_default().to_owned();
            match change["kind"].as_str().unwrap() {
                "blob" => assert!(gone.blobs.insert(text("digest"))),
                "layerLink" | "manifestLink" => {
                    assert!(gone.links.insert((text("repository"), text("digest"))));
                }
                _ => {}
            }
        }
        // Three manifests and their configs, and two layers.
        assert_eq!(gone.blobs.len(), 8, "{ran}");
        let has = |name: &str| gone.blobs.contains(Digest::of(&layer(name)).as_str());
        assert!(has("old") && has("pruned") && !has("shared") && !has("base"), "{ran}");
        let shared = Digest::of(&layer("shared"));
        assert!(gone.links.contains(&("shop/web".to_owned(), shared.as_str().to_owned())), "{ran}");
        assert!(
            gone.blobs.iter().all(|digest| self
                .cluster
                .storage()
                .blob_size(&Digest::parse(digest).unwrap())
                .is_none())
        );
        gone
    }

    /// The answers of all replicas to HEAD of the layers that are gone, in both repositories, each with how often.
    fn answers(&self) -> BTreeMap<u16, usize> {
        let mut answers = BTreeMap::new();
        for replica in 0..REPLICAS {
            for repository in REPOSITORIES {
                let status = self.head(replica, repository, &Digest::of(&layer("pruned")));
                *answers.entry(status.as_u16()).or_default() += 1;
            }
        }
        answers
    }

    /// Fails unless all replicas say what is true, and a push that re-uses a layer is whole.
    #[track_caller]
    fn assert_clean(&self, ran: &Ran) {
        let pruned = Digest::of(&layer("pruned"));
        assert_eq!(self.answers(), BTreeMap::from([(404, 2 * REPLICAS)]), "{ran}");
        self.cluster.block_on(async {
            for replica in 0..REPLICAS {
                let client = self.cluster.client_of(replica, "admin");
                let mounted = client.mount_blob("shop/api", &pruned, "shop/web").await.unwrap();
                assert_eq!(mounted, StatusCode::ACCEPTED, "replica {replica}\n{ran}");
                for repository in REPOSITORIES {
                    client.pull_whole(repository, "latest").await.unwrap();
                }
            }
            let client = self.cluster.client_of(REPLICAS - 1, "admin");
            let pushed = push(&client, "shop/web", "again", &["base", "pruned", "old"]).await;
            assert_eq!(self.cluster.storage().read_blob(&pruned).unwrap(), layer("pruned"));
            for replica in 0..REPLICAS {
                let client = self.cluster.client_of(replica, "admin");
                let pulled = client.pull_whole("shop/web", pushed.digest.as_str()).await.unwrap();
                assert!(pulled.blobs.contains(&pruned));
            }
        });
    }
}

#[test]
fn a_prune_without_the_step_leaves_every_replica_and_redis_stale() {
    if !is_installed() {
        return;
    }
    let redis = Arc::new(Server::start(&[]));
    let shop = Shop::start(Some(RedisCache { database: 3, ..RedisCache::at(redis.address()) }));
    shop.refill(&redis);
    let ran = shop.plugin().arg("--registry-cache=none").run().exits(0);
    shop.gone(&ran);
    let pruned = Digest::of(&layer("pruned"));
    assert!(dump(&redis, [DATABASE]).contains_key(&(DATABASE, format!("blobs::{pruned}"))), "{ran}");
    assert_eq!(shop.answers(), BTreeMap::from([(500, 2 * REPLICAS)]), "{ran}");
    // It can be mounted, and an image that names it is taken and broken.
    shop.cluster.block_on(async {
        let client = shop.cluster.client_of(1, "admin");
        let mounted = client.mount_blob("shop/web", &pruned, "shop/api").await.unwrap();
        assert_eq!(mounted, StatusCode::CREATED, "{ran}");
    });
}

#[test]
fn a_prune_with_evict_or_auto_leaves_no_replica_and_no_redis_stale() {
    if !is_installed() {
        return;
    }
    for (step, password) in [("evict", Some(PASSWORD.to_owned())), ("auto", None)] {
        let redis = Arc::new(if password.is_some() { standalone() } else { Server::start(&[]) });
        seed_foreign(&redis);
        let cache = RedisCache { database: 3, password, ..RedisCache::at(redis.address()) };
        let shop = Shop::start(Some(cache.clone()));
        shop.refill(&redis);
        let before = dump(&redis, 0..16);
        let mut plugin = shop.plugin().arg(format!("--registry-cache={step}"));
        if cache.password.is_some() {
            // The pruner may not read the Secret that has it.
            plugin = plugin.arg(format!("--redis-url={}/{DATABASE}", redis.url()));
            plugin = plugin.arg("--redis-password-file=pw");
        }
        let ran = silent(plugin.run().exits(0));
        assert_eq!(ran.json()["cache"]["step"], "evict", "{ran}");
        let gone = shop.gone(&ran);
        let (expected, mut after) = (gone.left_of(&before, DATABASE), dump(&redis, 0..16));
        // The registry itself forgets a blob's descriptor when one of its links is deleted.
        for (_, digest) in &gone.links {
            let key = (DATABASE, format!("blobs::{digest}"));
            if let Some(bytes) = expected.get(&key) {
                after.entry(key).or_insert_with(|| bytes.clone());
            }
        }
        assert_same(&after, &expected);
        shop.assert_clean(&ran);
    }
}

/// What a registry with this storage keeps in its Redis.
fn seeds(shop: &Shop) -> Vec<String> {
    let storage = shop.cluster.storage();
    let descriptor = |digest: &Digest| {
        let size = storage.blob_size(digest).unwrap();
        format!("HSET blobs::{digest} digest {digest} size {size} mediatype application/octet-stream")
    };
    let mut lines = Vec::new();
    for (repository, digests) in shop.links() {
        lines.extend(storage.manifest_links(&repository).iter().map(descriptor));
        for digest in &digests {
            lines.push(format!("SADD repository::{repository}::blobs {digest}"));
            lines.push(descriptor(digest));
            lines.push(format!(
                "HSET repository::{repository}::blobs::{digest} mediatype application/octet-stream"
            ));
        }
    }
    lines
}

/// The rights that the documentation names.
fn documented_user() -> String {
    let manual = include_str!("../docs/cache.md");
    let line = manual.lines().find(|line| line.starts_with("ACL SETUSER cache on ")).unwrap();
    line.replace("PASSWORD", PASSWORD)
}

#[test]
fn a_user_with_the_documented_rights_may_do_all_that_a_prune_needs() {
    if !is_installed() {
        return;
    }
    let redis = Server::start(&[]);
    let shop = Shop::start(None);
    seed_foreign(&redis);
    assert!(redis.send_lines(DATABASE, &seeds(&shop)).iter().all(|answer| !answer.starts_with(b"-")));
    assert_eq!(redis.text(&documented_user()), "+OK");
    let before = dump(&redis, 0..16);
    let url = format!("redis://cache@{}/{DATABASE}", redis.address());
    let args = [format!("--redis-url={url}"), "--redis-password-file=pw".to_owned()];
    let ran = silent(shop.plugin().args(args.clone()).run().exits(0));
    assert_same(&dump(&redis, 0..16), &shop.gone(&ran).left_of(&before, DATABASE));
    for further in
        [["--all", "--dry-run"].as_slice(), &["--digests-from=list", "--scan-repositories"], &["--all"]]
    {
        let flush = Plugin::new().args(["cache", "flush"]).args(args.clone()).file("pw", PASSWORD);
        silent(flush.file("list", Digest::of(b"x").as_str()).args(further.iter().copied()).run().exits(0));
    }
    assert_eq!(redis.text("ACL LOG"), "", "nothing else was tried");
    shop.assert_clean(&ran);
}

/// What a server holds that has copied its data, and keeps it in another order.
fn contents(server: &Server) -> Dump {
    redis_keys::contents(server).into_iter().map(|(key, bytes)| ((0, key), bytes)).collect()
}

#[test]
fn a_prune_makes_every_master_of_a_cluster_forget() {
    if !is_installed() {
        return;
    }
    let nodes = Server::start_cluster(3);
    let shop = Shop::start(None);
    for line in seeds(&shop).into_iter().chain(foreign()) {
        let told = nodes.iter().filter(|node| !node.text(&line).starts_with('-')).count();
        assert_eq!(told, 1, "{line}");
    }
    for node in &nodes {
        assert_eq!(node.text(&documented_user()), "+OK");
    }
    let all = || nodes.iter().flat_map(|node| dump(node, [0])).collect::<Dump>();
    let before = all();
    let url = format!("--redis-url=redis-cluster://cache@127.0.0.1:{}", nodes[1].port());
    let ran = shop.plugin().args([url.as_str(), "--redis-password-file=pw"]).run();
    let ran = silent(ran.exits(0));
    let gone = shop.gone(&ran);
    let holds = |node: &&Server| {
        gone.blobs.iter().any(|digest| {
            before.keys().any(|(_, key)| {
                *key == format!("blobs::{digest}") && node.text(&format!("EXISTS {key}")) == ":0"
            })
        })
    };
    assert_eq!(nodes.iter().filter(holds).count(), 3, "each of them had something to forget");
    assert_same(&all(), &gone.left_of(&before, 0));
    for node in &nodes {
        assert_eq!(node.text("ACL LOG"), "", "nothing was tried that the documentation does not name");
    }
    shop.assert_clean(&ran);
}

#[test]
fn a_prune_follows_a_failover_of_the_sentinels_in_its_middle() {
    if !is_installed() {
        return;
    }
    let auth = [format!("requirepass {PASSWORD}"), format!("masterauth {PASSWORD}")];
    let auth: Vec<&str> = auth.iter().map(String::as_str).collect();
    let master = Server::start(&auth).with_password(PASSWORD);
    let follows = format!("replicaof 127.0.0.1 {}", master.port());
    let replica = Server::start(&[auth[0], auth[1], &follows]).with_password(PASSWORD);
    replica.wait_for("INFO replication", "master_link_status:up");
    let sentinel = master.start_sentinel("mymaster");
    let shop = Shop::start(None);
    let lines: Vec<_> = seeds(&shop).into_iter().chain(foreign()).collect();
    assert!(master.send_lines(0, &lines).iter().all(|answer| !answer.starts_with(b"-")));
    replica.wait_for("DBSIZE", &master.text("DBSIZE"));
    let before = contents(&replica);
    // It finds out soon that its master is down.
    for setting in ["down-after-milliseconds 2500", "failover-timeout 3000"] {
        assert_eq!(sentinel.text(&format!("SENTINEL SET mymaster {setting}")), "+OK");
    }
    sentinel.wait_for_replica("mymaster");
    // The master dies, and the Sentinel finds out by itself, later than a blob waits for Redis: the replicas have to be
    // asked whether they filled up from it meanwhile, which takes a user who may pull.
    let dying = Mutex::new(Some(master));
    let fault = Fault::new(Action::hook(move || drop(dying.lock().unwrap().take())));
    let fault = fault.method(Method::DELETE).path("^/admin/blobs/").skip(2).times(1);
    let fault = shop.cluster.sandbox().faults().add(fault);
    let url = format!("--redis-url=redis-sentinel://127.0.0.1:{}/mymaster", sentinel.port());
    let ran = silent(shop.plugin_of("admin").args([url.as_str(), "--redis-password-file=pw"]).run().exits(0));
    assert_eq!(shop.cluster.sandbox().faults().hits(fault), 1, "{ran}");
    assert!(replica.text("ROLE").contains("master"), "{ran}");
    assert_same(&contents(&replica), &shop.gone(&ran).left_of(&before, 0));
    shop.assert_clean(&ran);
}

#[test]
fn a_blob_that_was_uploaded_under_its_sha512_is_forgotten_under_both_names() {
    if !is_installed() {
        return;
    }
    let mut plain = Plain::start(standalone());
    let other = "sha512:b030eade3c76066e854afde060a58d562e103878b92ba17586070c1373c0c31f8c80389eeabbc1370284d983fb066f2c1cee3ad22fd5c580223a13efc5e31832";
    let uploads = "/v2/shop/web/blobs/uploads/";
    let client = plain.registry.client();
    plain.runtime.block_on(async {
        let begun = client.send(Method::POST, uploads, &[], "").await.unwrap();
        let location = format!("{}&digest={other}", begun.headers()["location"].to_str().unwrap());
        let kind = [("content-type", "application/octet-stream")];
        let done = client.send(Method::PUT, &location, &kind, "layer").await.unwrap();
        assert_eq!(done.status(), StatusCode::CREATED, "{done:?}");
    });
    let path = format!("/v2/shop/web/blobs/{other}");
    assert_eq!(plain.status(Method::HEAD, &path), StatusCode::OK);
    plain.gone = plain.registry.collect_garbage();
    assert!(plain.gone.iter().any(|digest| digest == Digest::of(b"layer").as_str()));
    let run = |list: String| {
        let plugin = flush(&plain.url()).args(["--digests-from=-", "--scan-repositories"]);
        silent(plugin.input(list).run()).exits(0)
    };
    run(plain.list(&[]));
    let stale = plain.status(Method::HEAD, &path);
    assert_eq!(stale, StatusCode::INTERNAL_SERVER_ERROR, "that name was not in the list");
    run(format!("{}{other}\n", plain.list(&[])));
    assert_eq!(plain.status(Method::HEAD, &path), StatusCode::NOT_FOUND);
    plain.assert_clean();
}
