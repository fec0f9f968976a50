//! An API server and a registry that belong together.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};

use tempfile::TempDir;

use crate::registry::client::{Client, Credentials};
use crate::registry::{Backend, Registry, RegistryConfig, Replica, Storage};
use crate::serve::Serving;
use crate::tls::SERVER_NAMES;
use crate::{Config, Sandbox, lock, workload};

/// How a cluster starts.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The API server. Its `settings.registry_host` becomes the registry's, if there is one.
    pub sandbox: Config,
    /// The registry; `None` for a cluster without one. Its `server_address` becomes its own host.
    pub registry: Option<RegistryConfig>,
    /// How many replicas the registry has, each a pod with its own address over the same storage; at least one.
    pub replicas: usize,
    /// Where the registry's storage is; a temporary directory if `None`.
    pub storage_dir: Option<PathBuf>,
    /// Whether the registry speaks https.
    pub registry_tls: bool,
    /// Whether the IPs of the registry's pods can be reached. If not, as for everybody outside of a cluster, nothing
    /// listens there, and port-forwards and the service alone lead to the replicas.
    pub pods_reachable: bool,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            sandbox: Config::default(),
            registry: Some(RegistryConfig::default()),
            replicas: 1,
            storage_dir: None,
            registry_tls: true,
            pods_reachable: true,
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
    /// Those that were stopped stay, so that the numbers of the others do not change.
    members: Mutex<Vec<Member>>,
    tls: bool,
    pods_reachable: bool,
}

/// A replica, and where it is or was served.
#[derive(Debug)]
struct Member {
    replica: Replica,
    /// The name of its pod.
    pod: String,
    address: SocketAddr,
    /// What its pod says about where it listens.
    shown: SocketAddr,
    /// `None` once it was stopped.
    serving: Option<Serving>,
}

impl Cluster {
    /// Starts the API server on 127.0.0.1, and replica N of the registry on 127.0.0.N+1, registered as a pod of
    /// `deployment/image-registry`; works with and without an async runtime around it.
    #[must_use]
    pub fn start(config: ClusterConfig) -> Self {
        let ClusterConfig { sandbox: mut api, registry, replicas, storage_dir, registry_tls, pods_reachable } =
            config;
        // The host has to be known before the first object is made.
        let listeners: Vec<TcpListener> = match registry {
            Some(_) => (0..replicas.max(1)).map(listen_as).collect(),
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
            let members = Mutex::default();
            Running { registry, members, tls: registry_tls, pods_reachable }
        });
        let cluster = Self { sandbox, registry, host, _temporary: temporary };
        if let Some(running) = &cluster.registry {
            workload::register(cluster.sandbox.store(), listeners.len());
            for listener in listeners {
                cluster.serve(running, listener);
            }
        }
        cluster
    }

    /// Serves one more replica, and makes its pod and endpoint.
    fn serve(&self, running: &Running, listener: TcpListener) -> usize {
        let Self { sandbox, .. } = self;
        let replica = running.registry.replica();
        let address = listener.local_addr().expect("the listener's address");
        let own = address.ip().to_string();
        let names: Vec<&str> = SERVER_NAMES.into_iter().chain([own.as_str()]).collect();
        let tls = running.tls.then(|| sandbox.authority().server(&names));
        let serving =
            replica.serve(&sandbox.runtime(), listener, tls, sandbox.faults(), sandbox.request_log());
        let number = replica.number();
        let pod = workload::pod_name(number);
        let shown = if running.pods_reachable { address } else { unreachable(number) };
        workload::add_pod(sandbox.store(), number, shown);
        for port in BTreeSet::from([workload::PORT, address.port(), shown.port()]) {
            sandbox.api().forwards().map(workload::NAMESPACE, &pod, port, address);
        }
        let mut members = running.members();
        members.push(Member { replica, pod, address, shown, serving: Some(serving) });
        workload::set_endpoints(sandbox.store(), &endpoints(&members));
        number
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
        let running = self.running();
        format!("{}://{}", if running.tls { "https" } else { "http" }, running.members()[replica].address)
    }

    /// A replica; they are numbered from 0.
    #[must_use]
    pub fn replica(&self, number: usize) -> Replica {
        self.running().members()[number].replica.clone()
    }

    /// Starts one more replica, with a cache of its own and a pod, and returns its number.
    #[must_use]
    pub fn add_replica(&self) -> usize {
        let running = self.running();
        let number = running.members().len();
        self.serve(running, listen_as(number))
    }

    /// Stops a replica: its connections are closed, its pod and its endpoint are gone.
    pub fn stop_replica(&self, number: usize) {
        self.disconnect_replica(number);
        workload::remove_pod(self.sandbox.store(), number);
        workload::set_endpoints(self.sandbox.store(), &endpoints(&self.running().members()));
    }

    /// Closes a replica's connections and listener and leaves its pod as it is, as a node that lost its network does.
    pub fn disconnect_replica(&self, number: usize) {
        self.running().members()[number].serving = None;
    }

    /// The name of a replica's pod in `openshift-image-registry`.
    #[must_use]
    pub fn pod_name(&self, number: usize) -> String {
        self.running().members()[number].pod.clone()
    }

    /// Says where a port of a pod really listens, for port-forwards: without it, that is the pod's IP and the same
    /// port.
    pub fn map_port(&self, namespace: &str, pod: &str, port: u16, address: SocketAddr) {
        self.sandbox.api().forwards().map(namespace, pod, port, address);
    }

    /// Cuts all port-forwards that are open, as an API server does that is restarted.
    pub fn cut_port_forwards(&self) {
        self.sandbox.api().forwards().cut();
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
        if let Some(Running { registry, members, .. }) = self.registry.take() {
            drop(members);
            registry.stop();
        }
    }
}

impl Running {
    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        lock(&self.members)
    }
}

/// The replicas that are served.
fn endpoints(members: &[Member]) -> Vec<(usize, SocketAddr)> {
    let served = members.iter().filter(|member| member.serving.is_some());
    served.map(|member| (member.replica.number(), member.shown)).collect()
}

/// The loopback address that is the pod IP of this replica: 127.0.0.1 and those that follow.
fn pod_ip(replica: usize) -> Ipv4Addr {
    let offset = u32::try_from(replica).expect("fewer replicas than addresses");
    Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + offset)
}

/// Listens on a free port of the pod IP of this replica.
fn listen_as(replica: usize) -> TcpListener {
    TcpListener::bind((pod_ip(replica), 0)).expect("listen on a loopback address")
}

/// A pod IP where nobody listens, and connections are refused at once.
fn unreachable(replica: usize) -> SocketAddr {
    let [_, first, second, third] = pod_ip(replica).octets();
    SocketAddr::from(([127, 128 | first, second, third], workload::PORT))
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
