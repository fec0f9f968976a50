//! A small registry whose old images are to be pruned, clients that ask for, mount and push the very layers that go, and
//! what is wrong afterwards.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: whatever is wrong here fails the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::StreamExt as _;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{Method, StatusCode};
use sandbox::api::{Rule, pruner_and};
use sandbox::fault::{Action, Fault};
use sandbox::redis::Server;
use sandbox::registry::client::{Client, Format};
use sandbox::registry::{DOCKER_MANIFEST, Digest, RedisCache, RegistryConfig};
use sandbox::{Cluster, ClusterConfig, Config, Pace};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::common::Plugin;
use crate::common::objects::age_stream;

/// The repositories whose old images go.
pub(crate) const REPOSITORIES: [&str; 3] = ["load/a", "load/b", "load/c"];

/// What the pruner is called who may ask for blobs.
pub(crate) const CHECKER: &str = "checker";

/// How many images of each repository go.
const OLD: usize = 2;

const LAYER_SIZE: usize = 700;

/// A layer, and the repositories that had it before the prune.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
    pub(crate) repositories: Vec<String>,
}

/// How a [`Site`] starts.
pub(crate) struct SiteConfig<'a> {
    pub(crate) replicas: usize,
    pub(crate) redis: Option<&'a Server>,
    /// How long entries of the replicas live.
    pub(crate) ttl: Duration,
    /// Whether pods come and go by themselves.
    pub(crate) controller: Option<Pace>,
    /// What all content comes from.
    pub(crate) seed: u64,
}

/// A cluster whose registry holds three streams, each with one image that stays and some that go. All images have the
/// layer `base`; those that go share another one, those of two streams a third one, and each has two of its own.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    /// The layers that no image needs which stays.
    pub(crate) layers: Vec<Layer>,
    /// The images that stay, as repository and digest.
    pub(crate) kept: Vec<(String, Digest)>,
    /// The images that go.
    pub(crate) old: Vec<Digest>,
    base: Layer,
}

impl Site {
    pub(crate) fn start(config: &SiteConfig<'_>) -> Self {
        Self::start_with(config, |_| ())
    }

    /// The same with a cluster that is configured otherwise.
    pub(crate) fn start_with(config: &SiteConfig<'_>, change: impl FnOnce(&mut ClusterConfig)) -> Self {
        let rule = Rule::new(&["get"], &["", "image.openshift.io"], &["imagestreams/layers"]);
        let redis = config.redis.map(|server| RedisCache::at(server.address()));
        if let Some(server) = config.redis {
            assert_eq!(server.text("FLUSHALL"), "+OK");
        }
        let mut cluster = ClusterConfig {
            sandbox: Config::default().user(CHECKER, "checker", pruner_and([rule])),
            registry: Some(RegistryConfig { redis, ttl: config.ttl, ..RegistryConfig::default() }),
            replicas: config.replicas,
            controller: config.controller.clone(),
            ..ClusterConfig::default()
        };
        change(&mut cluster);
        let cluster = Cluster::start(cluster);
        let mut random = Rng::with_seed(config.seed);
        let base = layer(&mut random);
        let mut site = Self { cluster, layers: Vec::new(), kept: Vec::new(), old: Vec::new(), base };
        site.cluster.sandbox().store().create("namespaces", json!({ "metadata": { "name": "load" } }));
        site.push_all(&mut random);
        site.warm();
        site
    }

    fn push_all(&mut self, random: &mut Rng) {
        let (common, pair) = (layer(random), layer(random));
        let mut layers: BTreeMap<Digest, Layer> = BTreeMap::new();
        let client = self.cluster.client("admin");
        for (index, repository) in REPOSITORIES.into_iter().enumerate() {
            for number in 0..=OLD {
                let goes = number < OLD;
                let mut own = vec![layer(random), layer(random)];
                if goes {
                    own.push(common.clone());
                    if index < 2 && number == 0 {
                        own.push(pair.clone());
                    }
                }
                let content: Vec<Vec<u8>> =
                    std::iter::once(&self.base).chain(&own).map(|layer| layer.bytes.clone()).collect();
                let config = json!({ "architecture": "amd64", "os": "linux", "n": random.u64(..) });
                let push = client.push_image(repository, Some("latest"), Format::Docker, &content, &config);
                let pushed = self.cluster.block_on(push).unwrap();
                if goes {
                    self.old.push(pushed.digest);
                    for layer in own {
                        let known = layers.entry(layer.digest.clone()).or_insert(layer);
                        if !known.repositories.iter().any(|name| name == repository) {
                            known.repositories.push(repository.to_owned());
                        }
                    }
                } else {
                    self.kept.push((repository.to_owned(), pushed.digest));
                }
            }
            age_stream(self.cluster.sandbox().store(), repository);
        }
        self.base.repositories = REPOSITORIES.map(str::to_owned).to_vec();
        self.layers = layers.into_values().collect();
    }

    /// Lets every replica, and Redis, learn of every layer that goes.
    pub(crate) fn warm(&self) {
        for client in self.clients() {
            for layer in &self.layers {
                for repository in &layer.repositories {
                    let path = format!("/v2/{repository}/blobs/{}", layer.digest);
                    let answer = self.cluster.block_on(client.send(Method::HEAD, &path, &[], "")).unwrap();
                    assert_eq!(answer.status(), StatusCode::OK);
                }
            }
        }
    }

    /// A client of each replica that serves.
    pub(crate) fn clients(&self) -> Vec<Client> {
        self.cluster.serving().into_iter().map(|number| self.cluster.client_of(number, "admin")).collect()
    }

    /// A run of the plugin as this user, not yet started.
    pub(crate) fn plugin(&self, user: &str, args: &[&str]) -> Plugin {
        let plugin = Plugin::new();
        let kubeconfig = self.cluster.kubeconfig(plugin.home(), user);
        let plugin = plugin.file("ca.crt", self.cluster.sandbox().ca_pem());
        let plugin = plugin.arg("--kubeconfig").arg(kubeconfig).arg("--certificate-authority=ca.crt");
        plugin.args(["--keep-tag-revisions=1", "-o", "json"]).args(args)
    }

    /// What a dry run plans.
    pub(crate) fn plan(&self) -> Plan {
        Plan::of(&self.plan_of(CHECKER))
    }

    /// The document of a dry run as this user.
    pub(crate) fn plan_of(&self, user: &str) -> Value {
        self.plugin(user, &[]).run().exits(0).json()
    }

    /// Every stale answer that is possible now for these digests, in these repositories: what Redis or the memory of a
    /// replica still names although the storage has not got it, and what each replica answers to HEAD.
    pub(crate) fn stale(
        &self,
        digests: &BTreeSet<String>,
        repositories: &BTreeSet<String>,
        redis: Option<&Server>,
    ) -> Vec<Stale> {
        let mut stale = Vec::new();
        let gone: Vec<Digest> = digests
            .iter()
            .map(|digest| Digest::parse(digest).unwrap())
            .filter(|digest| self.cluster.storage().blob_size(digest).is_none())
            .collect();
        if let Some(redis) = redis {
            for digest in &gone {
                if redis.text(&format!("HEXISTS blobs::{digest} digest")) == ":1" {
                    stale.push(Stale { who: "redis".into(), digest: digest.to_string(), what: "key".into() });
                }
            }
        }
        for number in self.cluster.serving() {
            let (replica, who) = (self.cluster.replica(number), self.cluster.pod_name(number));
            let client = self.cluster.client_of(number, "admin");
            for digest in &gone {
                let mut add = |what: String| {
                    stale.push(Stale { who: who.clone(), digest: digest.to_string(), what });
                };
                if replica.remembers(digest) {
                    add("remembers".into());
                }
                let asked = repositories.iter().map(|repository| {
                    let (client, path) = (&client, format!("/v2/{repository}/blobs/{digest}"));
                    async move { (client.send(Method::HEAD, &path, &[], "").await.unwrap().status(), path) }
                });
                for (status, path) in
                    self.cluster.block_on(futures::stream::iter(asked).buffered(8).collect::<Vec<_>>())
                {
                    if status != StatusCode::NOT_FOUND {
                        add(format!("HEAD {path}: {status}"));
                    }
                }
            }
        }
        stale
    }

    /// For each replica: tries to mount each layer, and to push a manifest that names it, where the storage has not got it.
    /// What is accepted is a stale answer.
    pub(crate) fn accepted(&self, layers: &BTreeSet<String>) -> Vec<Stale> {
        let mut stale = Vec::new();
        let mut repositories = REPOSITORIES.iter().cycle();
        for number in self.cluster.serving() {
            let (client, who) = (self.cluster.client_of(number, "admin"), self.cluster.pod_name(number));
            for digest in layers.iter().map(|digest| Digest::parse(digest).unwrap()) {
                if self.cluster.storage().blob_size(&digest).is_some() {
                    continue;
                }
                let from = repositories.next().unwrap();
                let mounted = self.cluster.block_on(client.mount_blob("load/late", &digest, from)).unwrap();
                let manifest = manifest(&self.base, &[(digest.as_str(), LAYER_SIZE)]);
                let push = client.push_manifest(from, None, DOCKER_MANIFEST, manifest.into());
                let pushed = self.cluster.block_on(push).is_ok();
                for (what, is_accepted) in [("mount", mounted == StatusCode::CREATED), ("manifest", pushed)] {
                    if is_accepted {
                        let what = format!("{what} accepted, {from}");
                        stale.push(Stale { who: who.clone(), digest: digest.to_string(), what });
                    }
                }
            }
        }
        stale
    }

    /// Whether an image can be pulled whole from every replica; else why not.
    pub(crate) fn whole(&self, repository: &str, digest: &Digest) -> Result<(), String> {
        for number in self.cluster.serving() {
            let client = self.cluster.client_of(number, "admin");
            self.cluster
                .block_on(client.pull_whole(repository, digest.as_str()))
                .map_err(|broken| format!("{}: {broken}", self.cluster.pod_name(number)))?;
        }
        Ok(())
    }

    /// Fails unless the images that stay are whole.
    #[track_caller]
    pub(crate) fn kept_is_whole(&self, context: &dyn std::fmt::Display) {
        for (repository, digest) in &self.kept {
            if let Err(why) = self.whole(repository, digest) {
                panic!("{repository}@{digest} was to stay whole: {why}\n{context}");
            }
        }
    }

    /// Pushes an image with every layer that went through each replica; it has to be whole.
    #[track_caller]
    pub(crate) fn pushes_are_whole_again(&self, random: &mut Rng, context: &dyn std::fmt::Display) {
        for (number, client) in self.clients().into_iter().enumerate() {
            let layers: Vec<&Layer> = std::iter::once(&self.base).chain(&self.layers).collect();
            let repository = format!("load/again-{number}");
            let clients = [client];
            let push = push(&clients, &repository, "t", &layers, random);
            let digest = self.cluster.block_on(push).unwrap_or_else(|why| panic!("{why}\n{context}"));
            if let Err(why) = self.whole(&repository, &digest) {
                panic!("a push after the step is broken: {why}\n{context}");
            }
        }
    }

    /// Starts clients at full speed. Pushes begin once the first blob goes, or at once.
    pub(crate) fn load(&self, amount: &Amount, seed: u64) -> Load {
        Load::start(self, amount, seed)
    }
}

/// What a prune is going to delete.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) layer_links: Vec<(String, String)>,
    pub(crate) manifest_links: Vec<(String, String)>,
    /// Each image with the blobs that go with it.
    pub(crate) images: Vec<(String, Vec<String>)>,
}

impl Plan {
    pub(crate) fn of(document: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let links = |kind: &str| {
            let mut links = Vec::new();
            for stream in list(&document["imageStreams"]) {
                let repository = format!("{}/{}", text(&stream["namespace"]), text(&stream["name"]));
                links.extend(list(&stream[kind]).iter().map(|digest| (repository.clone(), text(digest))));
            }
            links
        };
        let images = list(&document["images"]);
        let images = images.iter().filter(|image| image["decision"] == "delete");
        let images = images.map(|image| {
            (text(&image["name"]), list(&image["blobs"]).iter().map(|blob| text(&blob["digest"])).collect())
        });
        Self {
            layer_links: links("layerLinks"),
            manifest_links: links("manifestLinks"),
            images: images.collect(),
        }
    }

    /// All blobs that go.
    pub(crate) fn blobs(&self) -> BTreeSet<String> {
        self.images.iter().flat_map(|(_, blobs)| blobs.iter().cloned()).collect()
    }
}

/// One answer, or memory, that is not true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stale {
    /// A pod, or `redis`.
    pub(crate) who: String,
    pub(crate) digest: String,
    pub(crate) what: String,
}

/// How many clients there are, and how much they push.
#[derive(Clone, Debug)]
pub(crate) struct Amount {
    pub(crate) askers: usize,
    pub(crate) mounters: usize,
    pub(crate) pushers: usize,
    /// How often each of them pushes.
    pub(crate) pushes: usize,
    /// Whether they begin before the prune does, or as the first blob goes.
    pub(crate) at_once: bool,
}

/// A push that was tried.
#[derive(Clone, Debug)]
pub(crate) struct Push {
    pub(crate) repository: String,
    pub(crate) tag: String,
    pub(crate) begun: Instant,
    /// The image if it was accepted; else why it was not.
    pub(crate) result: Result<Digest, String>,
}

/// What clients did.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) asked: usize,
    pub(crate) mounted: usize,
    pub(crate) pushes: Vec<Push>,
}

struct Crowd {
    clients: Vec<Client>,
    layers: Vec<Layer>,
    base: Layer,
    stop: AtomicBool,
    asked: AtomicUsize,
    mounted: AtomicUsize,
    pushes: Mutex<Vec<Push>>,
}

/// Clients that are at work.
pub(crate) struct Load {
    crowd: Arc<Crowd>,
    pushers: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
    begin: Arc<watch::Sender<bool>>,
    mounters: usize,
    // Last: it ends what runs on it.
    runtime: Runtime,
}

impl Load {
    fn start(site: &Site, amount: &Amount, seed: u64) -> Self {
        let crowd = Arc::new(Crowd {
            clients: site.clients(),
            layers: site.layers.clone(),
            base: site.base.clone(),
            stop: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            mounted: AtomicUsize::new(0),
            pushes: Mutex::default(),
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let begin = Arc::new(watch::Sender::new(amount.at_once));
        if !amount.at_once {
            let begin = begin.clone();
            let action = Action::hook(move || {
                begin.send_replace(true);
            });
            let fault = Fault::new(action).method(Method::DELETE).path("^/admin/blobs/").times(1);
            site.cluster.sandbox().faults().add(fault);
        }
        let mut seeds = Rng::with_seed(seed);
        let mut spawn = |kind: usize, number: usize| {
            let (crowd, random, mut begin) = (crowd.clone(), seeds.fork(), begin.subscribe());
            let pushes = amount.pushes;
            runtime.spawn(async move {
                match kind {
                    0 => crowd.ask(random).await,
                    1 => crowd.mount(number, random).await,
                    _ => {
                        // It cannot end while this waits.
                        let _ = begin.wait_for(|begun| *begun).await;
                        crowd.push(number, pushes, random).await;
                    }
                }
            })
        };
        let askers = (0..amount.askers).map(|number| spawn(0, number)).collect::<Vec<_>>();
        let mounters = (0..amount.mounters).map(|number| spawn(1, number)).collect::<Vec<_>>();
        let pushers = (0..amount.pushers).map(|number| spawn(2, number)).collect();
        let others = askers.into_iter().chain(mounters).collect();
        Self { crowd, pushers, others, begin, mounters: amount.mounters, runtime }
    }

    /// Waits until everything is pushed, ends the others, and says what was done.
    pub(crate) fn finish(self) -> Tally {
        let Self { crowd, pushers, others, begin, runtime, mounters: _ } = self;
        begin.send_replace(true);
        runtime.block_on(async {
            for pusher in pushers {
                pusher.await.unwrap();
            }
            crowd.stop.store(true, Ordering::Relaxed);
            for other in others {
                other.await.unwrap();
            }
        });
        Tally {
            asked: crowd.asked.load(Ordering::Relaxed),
            mounted: crowd.mounted.load(Ordering::Relaxed),
            pushes: std::mem::take(&mut *crowd.pushes.lock().unwrap()),
        }
    }

    /// Every repository that a layer can be in by now.
    pub(crate) fn repositories(&self) -> BTreeSet<String> {
        let pushed = (0..self.pushers.len()).map(push_repository);
        let mounted = (0..self.mounters).map(mount_repository);
        REPOSITORIES.map(str::to_owned).into_iter().chain(pushed).chain(mounted).collect()
    }
}

fn push_repository(number: usize) -> String {
    format!("load/push-{number}")
}

fn mount_repository(number: usize) -> String {
    format!("load/mount-{number}")
}

impl Crowd {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Asks for layers by HEAD and GET where they were, and where others push and mount them.
    async fn ask(&self, mut random: Rng) {
        while self.goes_on() {
            let layer = random.choice(&self.layers).unwrap();
            let repository = match random.usize(..4) {
                0 => push_repository(random.usize(..3)),
                1 => mount_repository(random.usize(..2)),
                _ => random.choice(&layer.repositories).unwrap().clone(),
            };
            let method = if random.usize(..4) == 0 { Method::GET } else { Method::HEAD };
            let path = format!("/v2/{repository}/blobs/{}", layer.digest);
            // Any answer will do, and none: replicas are killed in some tests.
            let _ = random.choice(&self.clients).unwrap().send(method, &path, &[], "").await;
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Mounts layers into a repository of its own.
    async fn mount(&self, number: usize, mut random: Rng) {
        let repository = mount_repository(number);
        while self.goes_on() {
            let layer = random.choice(&self.layers).unwrap();
            let from = random.choice(&layer.repositories).unwrap();
            let client = random.choice(&self.clients).unwrap();
            if client.mount_blob(&repository, &layer.digest, from).await == Ok(StatusCode::CREATED) {
                self.mounted.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Pushes images with some of the layers that go.
    async fn push(&self, number: usize, pushes: usize, mut random: Rng) {
        let repository = push_repository(number);
        for n in 0..pushes {
            let mut layers = vec![&self.base];
            layers.extend(random.choose_multiple(&self.layers, 2));
            let begun = Instant::now();
            let tag = format!("t{n}");
            let result = push(&self.clients, &repository, &tag, &layers, &mut random).await;
            let push = Push { repository: repository.clone(), tag, begun, result };
            self.pushes.lock().unwrap().push(push);
        }
    }
}

/// Pushes an image as the usual clients do: asks for each blob, tries to mount it or uploads it, then sends the
/// manifest. Each request goes to one of the replicas; an answer that is not to be expected ends it.
async fn push(
    clients: &[Client],
    repository: &str,
    tag: &str,
    layers: &[&Layer],
    random: &mut Rng,
) -> Result<Digest, String> {
    let config =
        json!({ "architecture": "amd64", "os": "linux", "n": random.u64(..) }).to_string().into_bytes();
    let config = Layer { digest: Digest::of(&config), bytes: config, repositories: Vec::new() };
    for layer in layers.iter().copied().chain([&config]) {
        push_blob(random.choice(clients).unwrap(), repository, layer, random).await?;
    }
    let named: Vec<(&str, usize)> =
        layers.iter().map(|layer| (layer.digest.as_str(), layer.bytes.len())).collect();
    let manifest = manifest(&config, &named);
    let headers = [(CONTENT_TYPE.as_str(), DOCKER_MANIFEST)];
    let path = format!("/v2/{repository}/manifests/{tag}");
    let digest = Digest::of(manifest.as_bytes());
    expect(
        random.choice(clients).unwrap(),
        Method::PUT,
        &path,
        &headers,
        manifest.into(),
        StatusCode::CREATED,
    )
    .await?;
    Ok(digest)
}

async fn push_blob(client: &Client, repository: &str, layer: &Layer, random: &mut Rng) -> Result<(), String> {
    let path = format!("/v2/{repository}/blobs/{}", layer.digest);
    let answer = client.send(Method::HEAD, &path, &[], "").await.map_err(|broken| broken.to_string())?;
    match answer.status() {
        StatusCode::OK => return Ok(()),
        StatusCode::NOT_FOUND => {}
        other => return Err(format!("HEAD {path}: {other}")),
    }
    let begin = format!("/v2/{repository}/blobs/uploads/");
    let mount = random.choice(&layer.repositories).filter(|_| random.bool());
    let begin = match mount {
        Some(from) => format!("{begin}?mount={}&from={from}", layer.digest),
        None => begin,
    };
    let answer = client.send(Method::POST, &begin, &[], "").await.map_err(|broken| broken.to_string())?;
    match answer.status() {
        StatusCode::CREATED if mount.is_some() => return Ok(()),
        StatusCode::ACCEPTED => {}
        other => return Err(format!("POST {begin}: {other}")),
    }
    let location = answer.headers()[LOCATION].to_str().unwrap();
    let target = format!("{location}&digest={}", layer.digest);
    let headers = [(CONTENT_TYPE.as_str(), "application/octet-stream")];
    expect(client, Method::PUT, &target, &headers, layer.bytes.clone(), StatusCode::CREATED).await
}

async fn expect(
    client: &Client,
    method: Method,
    target: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
    wanted: StatusCode,
) -> Result<(), String> {
    let answer =
        client.send(method.clone(), target, headers, body).await.map_err(|broken| broken.to_string())?;
    if answer.status() == wanted {
        return Ok(());
    }
    Err(format!("{method} {target}: {} {}", answer.status(), String::from_utf8_lossy(answer.body())))
}

fn manifest(config: &Layer, layers: &[(&str, usize)]) -> String {
    let layers: Value = layers
        .iter()
        .map(|(digest, size)| {
            let media_type = "application/vnd.docker.image.rootfs.diff.tar.gzip";
            json!({ "mediaType": media_type, "size": size, "digest": digest })
        })
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": config.bytes.len(),
            "digest": config.digest.as_str(),
        },
        "layers": layers,
    })
    .to_string()
}

/// New content.
fn layer(random: &mut Rng) -> Layer {
    let mut bytes = vec![0; LAYER_SIZE];
    random.fill(&mut bytes);
    Layer { digest: Digest::of(&bytes), bytes, repositories: Vec::new() }
}
