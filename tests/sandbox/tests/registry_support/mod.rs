//! A registry of two replicas over a stub of a cluster, and layers that were pruned from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use http::{Method, StatusCode};
use sandbox::fault::Faults;
use sandbox::log::RequestLog;
use sandbox::registry::client::{Client, Credentials, Format};
use sandbox::registry::{
    Backend, DOCKER_MANIFEST, Digest, Registry, RegistryConfig, Replica, Storage, docker_registry_binary,
};
use sandbox::registry_backend::Cluster;
use sandbox::serve::{Serving, listen};
use sandbox::tls::{Authority, SERVER_NAMES};
use serde_json::{Value, json};
use tokio::runtime::Handle;

pub(crate) const ADMIN: &str = "admin-token";
pub(crate) const PRUNER: &str = "pruner-token-for-a-local-stack";

/// A cluster with three users that keeps what is pushed.
#[derive(Debug, Default)]
pub(crate) struct Stub {
    pub(crate) images: Mutex<BTreeMap<String, Value>>,
    /// Stream → tag → digests, newest first.
    streams: Mutex<BTreeMap<String, BTreeMap<String, Vec<String>>>>,
}

impl Stub {
    pub(crate) fn add_item(&self, stream: &str, tag: &str, digest: &str) {
        let mut streams = self.streams.lock().unwrap();
        let tags = streams.entry(stream.to_owned()).or_default();
        tags.entry(tag.to_owned()).or_default().insert(0, digest.to_owned());
    }

    pub(crate) fn add_stream(&self, stream: &str) {
        self.streams.lock().unwrap().entry(stream.to_owned()).or_default();
    }

    /// Removes all items, as a prune of everything would.
    pub(crate) fn empty_stream(&self, stream: &str) {
        self.streams.lock().unwrap().insert(stream.to_owned(), BTreeMap::new());
    }

    pub(crate) fn remove_stream(&self, stream: &str) {
        self.streams.lock().unwrap().remove(stream);
    }

    /// The images that a stream lists, those below an index included.
    pub(crate) fn listed(&self, stream: &str) -> BTreeSet<String> {
        let images = self.images.lock().unwrap();
        let streams = self.streams.lock().unwrap();
        let mut open: Vec<String> =
            streams.get(stream).into_iter().flatten().flat_map(|(_, d)| d.clone()).collect();
        let mut listed = BTreeSet::new();
        while let Some(digest) = open.pop() {
            let below = images.get(&digest).and_then(|image| image["dockerImageManifests"].as_array());
            open.extend(below.into_iter().flatten().map(|m| m["digest"].as_str().unwrap().to_owned()));
            listed.insert(digest);
        }
        listed
    }
}

impl Cluster for Stub {
    fn user(&self, token: &str) -> Option<String> {
        let users = [(ADMIN, "admin"), (PRUNER, "pruner"), ("nobody-token", "nobody")];
        users.iter().find(|(known, _)| *known == token).map(|(_, user)| (*user).to_owned())
    }

    fn allowed(&self, user: &str, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let pruner = [("delete", "images"), ("list", "imagestreams")];
        match user {
            "admin" => true,
            "pruner" => pruner.contains(&(verb, resource)) && namespace.is_empty() && name.is_empty(),
            _ => false,
        }
    }

    fn stream_exists(&self, namespace: &str, name: &str) -> bool {
        self.streams.lock().unwrap().contains_key(&format!("{namespace}/{name}"))
    }

    fn stream_names_image(&self, namespace: &str, name: &str, digest: &str) -> bool {
        self.listed(&format!("{namespace}/{name}")).contains(digest)
    }

    fn stream_has_blob(&self, namespace: &str, name: &str, digest: &str) -> bool {
        let listed = self.listed(&format!("{namespace}/{name}"));
        let images = self.images.lock().unwrap();
        listed.iter().filter_map(|image| images.get(image)).any(|image| {
            let layers = image["dockerImageLayers"].as_array();
            image["dockerImageMetadata"]["Id"] == digest
                || layers.into_iter().flatten().any(|layer| layer["name"] == digest)
        })
    }

    fn stream_digests(&self, namespace: &str, name: &str) -> Vec<String> {
        let listed = self.listed(&format!("{namespace}/{name}"));
        let images = self.images.lock().unwrap();
        let of_image = |image: &Value| {
            let layers = image["dockerImageLayers"].as_array().into_iter().flatten();
            let all = layers.map(|layer| &layer["name"]).chain([&image["dockerImageMetadata"]["Id"]]);
            all.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
        };
        let blobs = listed.iter().filter_map(|digest| images.get(digest)).flat_map(of_image);
        blobs.chain(listed.iter().cloned()).collect()
    }

    fn stream_tag(&self, namespace: &str, name: &str, tag: &str) -> Option<String> {
        let streams = self.streams.lock().unwrap();
        streams.get(&format!("{namespace}/{name}"))?.get(tag)?.first().cloned()
    }

    fn image_pushed(&self, namespace: &str, name: &str, tag: Option<&str>, image: Value) {
        let digest = image["metadata"]["name"].as_str().unwrap().to_owned();
        self.images.lock().unwrap().insert(digest.clone(), image);
        if let Some(tag) = tag {
            self.add_item(&format!("{namespace}/{name}"), tag, &digest);
        }
    }

    fn image(&self, digest: &str) -> Option<Value> {
        self.images.lock().unwrap().get(digest).cloned()
    }
}

/// A registry whose replicas are served over TLS.
pub(crate) struct Served {
    pub(crate) cluster: Arc<Stub>,
    pub(crate) registry: Registry,
    pub(crate) replicas: Vec<(Replica, Serving)>,
    pub(crate) authority: Authority,
    pub(crate) faults: Faults,
    pub(crate) log: RequestLog,
    _directory: tempfile::TempDir,
}

impl Served {
    /// Two replicas that are set up alike.
    pub(crate) async fn start(config: RegistryConfig) -> Self {
        Self::with([config.clone(), config]).await
    }

    /// Two replicas over one storage; the first one's configuration is the registry's.
    pub(crate) async fn with(configs: [RegistryConfig; 2]) -> Self {
        Self::over(tempfile::tempdir().unwrap(), configs).await
    }

    /// The same over this storage directory.
    pub(crate) async fn over(directory: tempfile::TempDir, configs: [RegistryConfig; 2]) -> Self {
        let cluster = Arc::new(Stub::default());
        let registry = Registry::new(directory.path(), cluster.clone(), configs[0].clone()).await.unwrap();
        let (authority, faults, log) = (Authority::default(), Faults::default(), RequestLog::default());
        let replicas = configs
            .into_iter()
            .map(|config| {
                let replica = registry.replica_with(config);
                let tls = Some(authority.server(&SERVER_NAMES));
                let serving = replica.serve(&Handle::current(), listen(), tls, &faults, &log);
                (replica, serving)
            })
            .collect();
        Self { cluster, registry, replicas, authority, faults, log, _directory: directory }
    }

    pub(crate) fn storage(&self) -> &Storage {
        self.registry.storage()
    }

    pub(crate) fn client(&self, replica: usize, credentials: Credentials) -> Client {
        let url = format!("https://{}", self.replicas[replica].1.address());
        Client::new(&url, credentials, Some(&self.authority.pem()))
    }

    pub(crate) fn admin(&self, replica: usize) -> Client {
        self.client(replica, Credentials::Basic(ADMIN.to_owned()))
    }

    pub(crate) fn pruner(&self, replica: usize) -> Client {
        self.client(replica, Credentials::Bearer(PRUNER.to_owned()))
    }
}

pub(crate) async fn status(client: &Client, method: Method, path: &str) -> StatusCode {
    client.send(method, path, &[], "").await.unwrap().status()
}

pub(crate) fn in_process() -> RegistryConfig {
    RegistryConfig::default()
}

/// Both backends, or the one that is there.
pub(crate) fn backends() -> Vec<RegistryConfig> {
    let real = docker_registry_binary();
    if real.is_none() {
        eprintln!("docker-registry is not installed: the tests with it are skipped");
    }
    let real = real.map(|binary| Backend::DockerRegistry { binary });
    let configs = real.into_iter().map(|backend| RegistryConfig { backend, ..in_process() });
    [in_process()].into_iter().chain(configs).collect()
}

pub(crate) fn digest(text: &str) -> Digest {
    Digest::parse(text).unwrap()
}

/// A layer that both replicas know, and that is pruned through replica 0.
pub(crate) struct Pruned {
    pub(crate) served: Served,
    pub(crate) layer: Digest,
    pub(crate) config: Value,
}

/// What a replica with a stale answer for a pruned layer says: HEAD and GET where it was, its mount elsewhere, and the
/// pushes of manifests that name it there and here.
pub(crate) const STALE: [u16; 5] = [500, 500, 201, 201, 201];
/// The same where the digest cache alone is stale, and the descriptor cache another one or none: the mount leaves a link
/// that leads to nothing.
pub(crate) const STALE_ALONE: [u16; 5] = [500, 500, 201, 400, 201];
/// What a replica says that knows better.
pub(crate) const CLEAN: [u16; 5] = [404, 404, 202, 400, 400];

impl Pruned {
    /// Pushed, pulled through replica 1, and pruned.
    pub(crate) async fn start(config: RegistryConfig) -> Self {
        let pushed = Self::pushed(Served::start(config).await).await;
        pushed.prune().await;
        pushed
    }

    /// Pushed and pulled through replica 1: `a/one` has the layer, `a/two` has the config only.
    pub(crate) async fn pushed(served: Served) -> Self {
        let layer = b"a layer that is going to be pruned".to_vec();
        let config = json!({"architecture": "amd64", "config": {}});
        let client = served.admin(0);
        let layers = std::slice::from_ref(&layer);
        client.push_image("a/one", Some("latest"), Format::Docker, layers, &config).await.unwrap();
        served.admin(1).pull_whole("a/one", "latest").await.unwrap();
        client.push_blob("a/two", config.to_string().as_bytes()).await.unwrap();
        served.cluster.add_stream("a/two");
        Self { served, layer: Digest::of(&layer), config }
    }

    /// In the order that keeps replica 0 from caching anything again: stream, link, blob.
    pub(crate) async fn prune(&self) {
        self.served.cluster.empty_stream("a/one");
        self.unlink().await;
        self.delete_blob(0).await;
    }

    /// In the order of the reference, which updates the stream after the links, while a client asks this replica.
    pub(crate) async fn prune_while_asked(&self, replica: usize) {
        self.unlink().await;
        assert_eq!(self.head(replica).await, StatusCode::OK);
        self.served.cluster.empty_stream("a/one");
        self.delete_blob(0).await;
    }

    pub(crate) async fn unlink(&self) {
        assert_eq!(status(&self.served.pruner(0), Method::DELETE, &self.path()).await, StatusCode::ACCEPTED);
    }

    /// Sends `DELETE /admin/blobs/<digest>` to a replica.
    pub(crate) async fn delete_blob(&self, replica: usize) {
        let answer = status(&self.served.pruner(replica), Method::DELETE, &self.blob()).await;
        assert_eq!(answer, StatusCode::NO_CONTENT);
    }

    pub(crate) async fn head(&self, replica: usize) -> StatusCode {
        status(&self.served.admin(replica), Method::HEAD, &self.path()).await
    }

    pub(crate) fn path(&self) -> String {
        format!("/v2/a/one/blobs/{}", self.layer)
    }

    pub(crate) fn blob(&self) -> String {
        format!("/admin/blobs/{}", self.layer)
    }

    /// Asks a replica what [`STALE`] and [`CLEAN`] answer. The questions leave links and manifests behind.
    pub(crate) async fn ask(&self, replica: usize) -> [u16; 5] {
        let client = self.served.admin(replica);
        let get = async || status(&client, Method::GET, &self.path()).await;
        let (head, get) = (self.head(replica).await, get().await);
        let mount = client.mount_blob("a/two", &self.layer, "a/one").await.unwrap();
        let config = self.config.to_string();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": "", "size": config.len(), "digest": Digest::of(config.as_bytes()).as_str()},
            "layers": [{"mediaType": "", "size": 34, "digest": self.layer.as_str()}],
        });
        let put = async |repository: &str| {
            let headers = [("content-type", DOCKER_MANIFEST)];
            let path = format!("/v2/{repository}/manifests/broken");
            client.send(Method::PUT, &path, &headers, manifest.to_string()).await.unwrap().status()
        };
        let (there, here) = (put("a/two").await, put("a/one").await);
        [head, get, mount, there, here].map(|status| status.as_u16())
    }
}
