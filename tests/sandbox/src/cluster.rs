//! An API server and a registry that belong together.

use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use tempfile::TempDir;

use crate::registry::client::{Client, Credentials};
use crate::registry::{Backend, Registry, RegistryConfig, Replica, Storage};
use crate::serve::{Serving, listen};
use crate::tls::SERVER_NAMES;
use crate::{Config, Sandbox};

/// How a cluster starts.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The API server. Its `settings.registry_host` becomes the registry's, if there is one.
    pub sandbox: Config,
    /// The registry; `None` for a cluster without one. Its `server_address` becomes its own host.
    pub registry: Option<RegistryConfig>,
    /// How many replicas the registry has, each on its own port over the same storage; at least one.
    pub replicas: usize,
    /// Where the registry's storage is; a temporary directory if `None`.
    pub storage_dir: Option<PathBuf>,
    /// Whether the registry speaks https.
    pub registry_tls: bool,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            sandbox: Config::default(),
            registry: Some(RegistryConfig::default()),
            replicas: 1,
            storage_dir: None,
            registry_tls: true,
        }
    }
}

impl ClusterConfig {
    /// With a `docker-registry` process behind the registry's front, if that is installed.
    #[must_use]
    pub fn with_installed_registry(mut self) -> Self {
        self.registry.get_or_insert_default().backend = Backend::installed();
        self
    }
}

/// A running API server with a registry. Dropping it ends all that it started, `docker-registry` included, and
/// removes a temporary storage.
///
/// ```no_run
/// use sandbox::{Cluster, ClusterConfig};
///
/// let cluster = Cluster::start(ClusterConfig { replicas: 2, ..ClusterConfig::default() });
/// let kubeconfig = cluster.kubeconfig(std::path::Path::new("/tmp"), "pruner");
/// assert!(cluster.storage().blobs().is_empty());
/// # drop(kubeconfig);
/// ```
#[derive(Debug)]
pub struct Cluster {
    sandbox: Sandbox,
    registry: Option<Running>,
    host: String,
    /// Removed last.
    _temporary: Option<TempDir>,
}

#[derive(Debug)]
struct Running {
    registry: Registry,
    replicas: Vec<(Replica, Serving)>,
    tls: bool,
}

impl Cluster {
    /// Starts all servers on 127.0.0.1; works with and without an async runtime around it.
    #[must_use]
    pub fn start(config: ClusterConfig) -> Self {
        let ClusterConfig { sandbox: mut api, registry, replicas, storage_dir, registry_tls } = config;
        // The host has to be known before the first object is made.
        let listeners: Vec<TcpListener> = match registry {
            Some(_) => std::iter::repeat_with(listen).take(replicas.max(1)).collect(),
            None => Vec::new(),
        };
        if let Some(listener) = listeners.first() {
            api.settings.registry_host = listener.local_addr().expect("the listener's address").to_string();
        }
        let host = api.settings.registry_host.clone();
        let sandbox = Sandbox::start(api);
        let temporary = (registry.is_some() && storage_dir.is_none())
            .then(|| tempfile::tempdir().expect("a temporary directory"));
        let storage = storage_dir.or_else(|| temporary.as_ref().map(|dir| dir.path().to_owned()));
        let registry = registry.zip(storage).map(|(settings, storage)| {
            let settings = RegistryConfig { server_address: host.clone(), ..settings };
            let starting = Registry::new(storage, Arc::new(sandbox.api().clone()), settings);
            let registry = wait_for(&sandbox, starting).expect("start the registry");
            let serve = |listener| {
                let replica = registry.replica();
                let tls = registry_tls.then(|| sandbox.authority().server(&SERVER_NAMES));
                let (faults, log) = (sandbox.faults(), sandbox.request_log());
                let serving = replica.serve(&sandbox.runtime(), listener, tls, faults, log);
                (replica, serving)
            };
            let replicas = listeners.into_iter().map(serve).collect();
            Running { registry, replicas, tls: registry_tls }
        });
        Self { sandbox, registry, host, _temporary: temporary }
    }

    /// The API server; the log and the faults are the registry's, too.
    #[must_use]
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    fn running(&self) -> &Running {
        self.registry.as_ref().expect("a cluster with a registry")
    }

    /// The registry.
    ///
    /// # Panics
    /// Like everything here that asks for the registry: if the cluster has none.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.running().registry
    }

    /// The registry's host and port (those of the first replica) as streams and images name it.
    #[must_use]
    pub fn registry_host(&self) -> &str {
        &self.host
    }

    /// The URL of a replica; they are numbered from 0.
    #[must_use]
    pub fn registry_url(&self, replica: usize) -> String {
        let Running { replicas, tls, .. } = self.running();
        format!("{}://{}", if *tls { "https" } else { "http" }, replicas[replica].1.address())
    }

    /// A replica; they are numbered from 0.
    #[must_use]
    pub fn replica(&self, number: usize) -> &Replica {
        &self.running().replicas[number].0
    }

    /// The storage that the replicas share.
    #[must_use]
    pub fn storage(&self) -> &Storage {
        self.registry().storage()
    }

    /// A client of the first replica with a token of the user.
    #[must_use]
    pub fn client(&self, user: &str) -> Client {
        self.client_of(0, user)
    }

    /// A client of a replica with a token of the user.
    #[must_use]
    pub fn client_of(&self, replica: usize, user: &str) -> Client {
        let credentials = Credentials::Basic(self.sandbox.token(user));
        Client::new(&self.registry_url(replica), credentials, Some(&self.sandbox.ca_pem()))
    }

    /// Writes `kubeconfig-<user>` with a token of the user into a directory.
    #[must_use]
    pub fn kubeconfig(&self, dir: &Path, user: &str) -> PathBuf {
        self.sandbox.write_kubeconfig(dir, user)
    }

    /// Waits, in code that is not async, for what a [`Client`] does.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.sandbox.runtime().block_on(future)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(Running { registry, replicas, .. }) = self.registry.take() {
            drop(replicas);
            registry.stop();
        }
    }
}

/// Waits for a future on the sandbox's runtime. Unlike `block_on`, this is allowed inside another runtime.
fn wait_for<T: Send + 'static>(sandbox: &Sandbox, future: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, receiver) = mpsc::sync_channel(1);
    sandbox.runtime().spawn(async move {
        // The receiver waits below.
        let _ = sender.send(future.await);
    });
    receiver.recv().expect("the sandbox's runtime runs")
}
