//! An API server and a registry that know each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Method;
use sandbox::log::{Entry, Server};
use sandbox::registry::{Digest, Link, Registry, RegistryConfig};
use sandbox::serve::{Serving, listen};
use sandbox::tls::SERVER_NAMES;
use sandbox::{Config, Sandbox};
use serde_json::Value;
use tempfile::TempDir;

use super::{Plugin, Ran};

pub(crate) struct Cluster {
    pub(crate) sandbox: Sandbox,
    pub(crate) registry: Registry,
    serving: Serving,
    directory: TempDir,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::with(Config::default(), RegistryConfig::default())
    }

    pub(crate) fn with(config: Config, registry: RegistryConfig) -> Self {
        let sandbox = Sandbox::start(config);
        let directory = tempfile::tempdir().unwrap();
        let objects = Arc::new(sandbox.api().clone());
        let storage = directory.path().join("registry");
        let registry = sandbox.runtime().block_on(Registry::new(storage, objects, registry)).unwrap();
        let serving = registry.replica().serve(
            &sandbox.runtime(),
            listen(),
            Some(sandbox.authority().server(&SERVER_NAMES)),
            sandbox.faults(),
            sandbox.request_log(),
        );
        Self { sandbox, registry, serving, directory }
    }

    /// A cluster with these objects, whose blobs and links are in the registry.
    pub(crate) fn of(objects: impl Into<Value>) -> Self {
        let cluster = Self::start();
        cluster.sandbox.load_objects(objects.into());
        cluster.seed();
        cluster
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn registry_url(&self) -> String {
        format!("https://{}", self.serving.address())
    }

    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.sandbox.write_kubeconfig(self.directory.path(), user)
    }

    /// A run with a kubeconfig whose user has this instead of a token.
    pub(crate) fn plugin_with(&self, credentials: &str) -> Plugin {
        let kubeconfig = std::fs::read_to_string(self.kubeconfig("pruner")).unwrap();
        let token = format!("token: {}", self.sandbox.token("pruner"));
        let registry = format!("--registry-url={}", self.registry_url());
        let plugin = Plugin::new().file("config", kubeconfig.replace(&token, credentials));
        plugin.arg("--kubeconfig=config").arg(registry)
    }

    /// A run as this user against this cluster.
    pub(crate) fn plugin(&self, user: &str) -> Plugin {
        Plugin::new().arg("--kubeconfig").arg(self.kubeconfig(user))
    }

    /// A dry run as the pruner.
    pub(crate) fn dry_run(&self, args: &[&str]) -> Ran {
        self.plugin("pruner").args(args).run()
    }

    /// A confirmed run as the pruner, not yet started.
    pub(crate) fn confirmed(&self, args: &[&str]) -> Plugin {
        let registry = format!("--registry-url={}", self.registry_url());
        self.plugin("pruner").args(["--confirm".to_owned(), registry]).args(args)
    }

    /// A confirmed run as the pruner.
    pub(crate) fn prune(&self, args: &[&str]) -> Ran {
        self.confirmed(args).run()
    }

    /// Puts data for every Image into the registry's storage, and links into the repositories of the streams.
    pub(crate) fn seed(&self) {
        let storage = self.registry.storage();
        let images: BTreeMap<String, Value> = self
            .sandbox
            .store()
            .list("images")
            .into_iter()
            .map(|image| (image["metadata"]["name"].as_str().unwrap_or_default().to_owned(), image))
            .collect();
        for (name, image) in &images {
            for (digest, size) in blobs(image).into_iter().chain([(name.clone(), 1)]) {
                if let Some(digest) = Digest::parse(&digest) {
                    storage.seed_fake(&digest, size, &[], &[]).unwrap();
                }
            }
        }
        for stream in self.sandbox.store().list("imagestreams") {
            let repository = repository(&stream);
            let mut open: Vec<String> = tags(&stream).into_values().flatten().collect();
            let mut seen = BTreeSet::new();
            while let Some(name) = open.pop() {
                let (Some(image), Some(digest), true) =
                    (images.get(&name), Digest::parse(&name), seen.insert(name.clone()))
                else {
                    continue;
                };
                storage.link(Link::Manifest, &repository, &digest).unwrap();
                for (digest, _) in blobs(image) {
                    if let Some(digest) = Digest::parse(&digest) {
                        storage.link(Link::Layer, &repository, &digest).unwrap();
                    }
                }
                let manifests = image["dockerImageManifests"].as_array().into_iter().flatten();
                open.extend(
                    manifests.filter_map(|manifest| manifest["digest"].as_str()).map(ToOwned::to_owned),
                );
            }
        }
    }

    /// What the servers were asked to change since the log had this many entries.
    pub(crate) fn changes_since(&self, sequence: usize) -> Changes {
        let entries = self.sandbox.request_log().entries();
        Changes::of(entries.iter().skip(sequence))
    }

    pub(crate) fn changes(&self) -> Changes {
        self.changes_since(0)
    }

    /// Tags and digests of a stream as it is now.
    pub(crate) fn tags(&self, namespace: &str, name: &str) -> BTreeMap<String, Vec<String>> {
        tags(&self.sandbox.store().get("imagestreams", namespace, name).unwrap_or_default())
    }

    pub(crate) fn images(&self) -> BTreeSet<String> {
        self.sandbox.store().names("images").into_iter().collect()
    }

    /// Whether the registry has the data of a blob.
    pub(crate) fn has_blob(&self, digest: &str) -> bool {
        self.registry.storage().blob_size(&Digest::parse(digest).unwrap()).is_some()
    }
}

/// Layers and config with their sizes.
fn blobs(image: &Value) -> Vec<(String, u64)> {
    let layers = image["dockerImageLayers"].as_array().into_iter().flatten();
    let layers = layers.map(|layer| (&layer["name"], layer["size"].as_u64().unwrap_or(1)));
    let config = (&image["dockerImageMetadata"]["Id"], 1);
    layers.chain([config]).filter_map(|(name, size)| Some((name.as_str()?.to_owned(), size))).collect()
}

pub(crate) fn repository(stream: &Value) -> String {
    let text = |field: &str| stream["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

/// Tags with items, and the digests of these.
pub(crate) fn tags(stream: &Value) -> BTreeMap<String, Vec<String>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let lists = stream["status"]["tags"].as_array().into_iter().flatten();
    lists
        .map(|list| {
            let items = list["items"].as_array().into_iter().flatten();
            (text(&list["tag"]), items.map(|item| text(&item["image"])).collect::<Vec<_>>())
        })
        .filter(|(_, items)| !items.is_empty())
        .collect()
}

/// The mutations in a request log, each with the sequence numbers of its requests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// `namespace/name`.
    pub(crate) statuses: BTreeMap<String, Vec<usize>>,
    /// `namespace/name@digest`.
    pub(crate) manifest_links: BTreeMap<String, Vec<usize>>,
    /// `namespace/name@digest`.
    pub(crate) layer_links: BTreeMap<String, Vec<usize>>,
    pub(crate) blobs: BTreeMap<String, Vec<usize>>,
    pub(crate) images: BTreeMap<String, Vec<usize>>,
}

impl Changes {
    fn of<'a>(entries: impl Iterator<Item = &'a Entry>) -> Self {
        let mut changes = Self::default();
        for entry in entries.filter(|entry| entry.is_mutation()) {
            let path = percent_decoded(&entry.path);
            let parts: Vec<&str> = path.split('/').skip(1).collect();
            // The Lease that keeps a second run away prunes nothing.
            if let (Server::Api, ["apis", "coordination.k8s.io", ..]) = (entry.server, parts.as_slice()) {
                continue;
            }
            let (set, object) = match (entry.server, &entry.method, parts.as_slice()) {
                (
                    Server::Api,
                    &Method::PUT,
                    [
                        "apis",
                        "image.openshift.io",
                        "v1",
                        "namespaces",
                        namespace,
                        "imagestreams",
                        name,
                        "status",
                    ],
                ) => (&mut changes.statuses, format!("{namespace}/{name}")),
                (Server::Api, &Method::DELETE, ["apis", "image.openshift.io", "v1", "images", name]) => {
                    (&mut changes.images, (*name).to_owned())
                }
                (Server::Registry(_), &Method::DELETE, ["admin", "blobs", digest]) => {
                    (&mut changes.blobs, (*digest).to_owned())
                }
                (Server::Registry(_), &Method::DELETE, ["v2", namespace, name, kind, digest]) => {
                    let set = match *kind {
                        "manifests" => &mut changes.manifest_links,
                        "blobs" => &mut changes.layer_links,
                        _ => panic!("an unexpected mutation: {entry:#?}"),
                    };
                    (set, format!("{namespace}/{name}@{digest}"))
                }
                _ => panic!("an unexpected mutation: {entry:#?}"),
            };
            set.entry(object).or_default().push(entry.sequence);
        }
        changes
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The keys of a set of mutations.
pub(crate) fn names(set: &BTreeMap<String, Vec<usize>>) -> BTreeSet<String> {
    set.keys().cloned().collect()
}

fn percent_decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(hex, 16).unwrap());
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).unwrap()
}
