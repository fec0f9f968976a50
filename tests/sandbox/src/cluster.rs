//! An API server and a registry that belong together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::api::{Api, Store};
use crate::controller::{self, Controllers, Nodes, Operator, Pace};
use crate::fault::Faults;
use crate::log::RequestLog;
use crate::registry::client::{Client, Credentials};
use crate::registry::{self, Backend, HardPrune, Registry, RegistryConfig, Replica, Storage};
use crate::route::{self, RouteConfig};
use crate::serve::{Serving, listen};
use crate::tls::{Authority, SERVER_NAMES};
use crate::workload::{self, Endpoint, NAME, NAMESPACE};
use crate::{Config, Sandbox, lock};

/// How a cluster starts.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The API server. Its `settings.registry_host` becomes the registry's, if there is one.
    pub sandbox: Config,
    /// The registry; `None` for a cluster without one. Its `server_address` becomes its own host. The environment of the
    /// pods says the same, except with an operator, which writes it as operators do.
    pub registry: Option<RegistryConfig>,
    /// How many replicas the registry has, each a pod with its own address over the same storage; at least one, unless
    /// there is a controller.
    pub replicas: usize,
    /// Where the registry's storage is; a temporary directory if `None`.
    pub storage_dir: Option<PathBuf>,
    /// Whether the registry speaks https.
    pub registry_tls: bool,
    /// Whether the IPs of the registry's pods can be reached. If not, as for everybody outside of a cluster, nothing
    /// listens there, and port-forwards and the service alone lead to the replicas.
    pub pods_reachable: bool,
    /// The host as streams and images name it, where that is not where the registry is: for everybody outside of a
    /// cluster it leads nowhere.
    pub host: Option<String>,
    /// Who signs the certificates of the registry's service: the authority of the API server, unless another one does, as
    /// in clusters. Each namespace has it in a `ConfigMap`; here, that of the registry.
    pub service_authority: Option<Authority>,
    /// The names that the certificates of the registry's service are for.
    pub service_names: Vec<String>,
    /// What keeps the pods as the Deployment wants them, and how fast. Without it a changed Deployment changes nothing,
    /// and tests start and stop replicas; with it each pod's replica is configured by the environment of the pod.
    pub controller: Option<Pace>,
    /// The operator of the registry; comes with a controller, and with the API group of its configuration.
    pub operator: Option<Operator>,
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
            host: None,
            service_authority: None,
            service_names: SERVER_NAMES.map(str::to_owned).to_vec(),
            controller: None,
            operator: None,
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
    registry: Option<Arc<Running>>,
    host: String,
    /// Where the service really is.
    service: String,
    /// What acts by itself: the controllers and the service.
    tasks: Vec<AbortHandle>,
    /// What its routes' routers listen with.
    routes: Mutex<Vec<Serving>>,
    /// Removed last.
    _temporary: Option<TempDir>,
}

/// A registry that runs, and all that its replicas are served with.
#[derive(Debug)]
pub(crate) struct Running {
    registry: Registry,
    base: RegistryConfig,
    /// Those that were stopped stay, so that the numbers of the others do not change.
    members: Mutex<Vec<Member>>,
    tls: bool,
    pods_reachable: bool,
    controlled: bool,
    api: Api,
    authority: Authority,
    names: Vec<String>,
    faults: Faults,
    log: RequestLog,
    runtime: Handle,
    nodes: Nodes,
    /// Where names that the registry's environment uses really lead.
    hosts: Mutex<HashMap<String, SocketAddr>>,
}

/// A replica, and where it is or was served.
#[derive(Debug)]
struct Member {
    replica: Replica,
    /// Its pod, and what that says about where it listens.
    endpoint: Endpoint,
    address: SocketAddr,
    /// `None` once it was stopped.
    serving: Option<Serving>,
}

/// How long a cluster may take to start with a controller.
const STARTED: Duration = Duration::from_secs(20);

impl Cluster {
    /// Starts the API server on 127.0.0.1, and replica N of the registry on 127.0.0.N+1, registered as a pod of
    /// `deployment/image-registry`; works with and without an async runtime around it. With a controller the registry's
    /// host is that of a service of its own, and this waits until all pods are ready (for a while: they may never be).
    #[must_use]
    pub fn start(config: ClusterConfig) -> Self {
        let ClusterConfig { sandbox: mut api, registry, replicas, storage_dir, registry_tls, .. } = config;
        let controller = config.controller.or_else(|| config.operator.is_some().then(Pace::default));
        let controller = controller.filter(|_| registry.is_some());
        if controller.is_some() {
            Controllers::settings(&mut api.settings);
        }
        if config.operator.is_some() {
            api = api.with_group("imageregistry.operator.openshift.io");
        }
        // The host has to be known before the first object is made.
        let mut listeners: Vec<TcpListener> = match registry {
            Some(_) if controller.is_some() => vec![listen()],
            Some(_) => (0..replicas.max(1)).map(listen_as).collect(),
            None => Vec::new(),
        };
        if let Some(listener) = listeners.first() {
            api.settings.registry_host = listener.local_addr().expect("the listener's address").to_string();
        }
        let service = api.settings.registry_host.clone();
        if let Some(host) = config.host {
            api.settings.registry_host = host;
        }
        let host = api.settings.registry_host.clone();
        let sandbox = Sandbox::start(api);
        let temporary = (registry.is_some() && storage_dir.is_none())
            .then(|| tempfile::tempdir().expect("a temporary directory"));
        let storage = storage_dir.or_else(|| temporary.as_ref().map(|dir| dir.path().to_owned()));
        let registry = registry.zip(storage).map(|(settings, storage)| {
            let base = RegistryConfig { server_address: host.clone(), ..settings };
            let starting = Registry::new(storage, Arc::new(sandbox.api().clone()), base.clone());
            Arc::new(Running {
                registry: wait_for(&sandbox, starting).expect("start the registry"),
                base,
                members: Mutex::default(),
                tls: registry_tls,
                pods_reachable: config.pods_reachable,
                controlled: controller.is_some(),
                api: sandbox.api().clone(),
                authority: config.service_authority.unwrap_or_else(|| sandbox.authority().clone()),
                names: config.service_names,
                faults: sandbox.faults().clone(),
                log: sandbox.request_log().clone(),
                runtime: sandbox.runtime(),
                nodes: Nodes::default(),
                hosts: Mutex::default(),
            })
        });
        let mut cluster = Self {
            sandbox,
            registry,
            host,
            service,
            tasks: Vec::new(),
            routes: Mutex::default(),
            _temporary: temporary,
        };
        let Some(running) = cluster.registry.clone() else { return cluster };
        let program = HardPrune::new(running.registry.storage().clone(), running.api.clone());
        running.api.execs().install(Arc::new(program));
        workload::prepare(running.api.store(), &running.authority.pem());
        if let Some(pace) = controller {
            cluster.control(&running, listeners.remove(0), pace, config.operator, replicas);
        } else {
            workload::create_deployment(
                running.api.store(),
                listeners.len(),
                &workload::environment(&running.base),
            );
            for listener in listeners {
                running.add(listener);
            }
        }
        cluster
    }

    /// Hands the registry over to controllers.
    fn control(
        &mut self,
        running: &Arc<Running>,
        listener: TcpListener,
        pace: Pace,
        operator: Option<Operator>,
        replicas: usize,
    ) {
        let store = running.api.store();
        workload::create_secret(store, &running.base);
        if let Some(operator) = &operator {
            operator.install(store, replicas);
        } else {
            let replicas = i64::try_from(replicas).expect("fewer replicas than that");
            let mut deployment = workload::deployment(replicas, &workload::environment(&running.base));
            deployment["metadata"]["generation"] = 1.into();
            store.create("deployments", deployment);
        }
        self.tasks.push(controller::serve_service(running, listener, pace.seed));
        let controllers = Controllers::new(running.clone(), pace, operator);
        self.tasks.push(running.runtime.spawn(controllers.run()).abort_handle());
        let store = store.clone();
        wait_for(&self.sandbox, async move {
            // A test may want a registry that does not start.
            let _ = tokio::time::timeout(STARTED, until(&store, settled)).await;
        });
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

    /// The registry's host and port (those of the first replica or, with a controller, those of the service) as streams
    /// and images name it.
    #[must_use]
    pub fn registry_host(&self) -> &str {
        &self.host
    }

    /// The URL where the registry's service really is.
    #[must_use]
    pub fn service_url(&self) -> String {
        format!("{}://{}", self.running().scheme(), self.service)
    }

    /// The URL of a replica; they are numbered from 0.
    #[must_use]
    pub fn registry_url(&self, replica: usize) -> String {
        let running = self.running();
        format!("{}://{}", running.scheme(), running.members()[replica].address)
    }

    /// A replica; they are numbered from 0, in the order in which they started.
    #[must_use]
    pub fn replica(&self, number: usize) -> Replica {
        self.running().members()[number].replica.clone()
    }

    /// The numbers of the replicas that are served.
    #[must_use]
    pub fn serving(&self) -> Vec<usize> {
        let members = self.running().members();
        members
            .iter()
            .filter(|member| member.serving.is_some())
            .map(|member| member.replica.number())
            .collect()
    }

    /// The number of the replica that is served in a pod.
    #[must_use]
    pub fn replica_of_pod(&self, pod: &str) -> Option<usize> {
        let members = self.running().members();
        let mut own = members.iter().filter(|member| member.serving.is_some() && member.endpoint.pod == pod);
        own.next().map(|member| member.replica.number())
    }

    /// Starts one more replica, with a cache of its own and a pod, and returns its number.
    ///
    /// # Panics
    /// With a controller: change the Deployment instead.
    #[must_use]
    pub fn add_replica(&self) -> usize {
        let running = self.running();
        assert!(!running.controlled, "replicas come from the Deployment");
        let number = running.members().len();
        running.add(listen_as(number))
    }

    /// Stops a replica: its connections are closed, its pod and its endpoint are gone. (With a controller the endpoint
    /// goes a little later, and another pod comes.)
    pub fn stop_replica(&self, number: usize) {
        self.disconnect_replica(number);
        let running = self.running();
        running.api.store().delete("pods", NAMESPACE, &self.pod_name(number));
        if !running.controlled {
            workload::set_endpoints(running.api.store(), &running.endpoints());
        }
    }

    /// Closes a replica's connections and listener and leaves its pod as it is, as a node that lost its network does.
    pub fn disconnect_replica(&self, number: usize) {
        self.running().end(number);
    }

    /// Ends a replica as a crash does: with a controller its pod stays, and after a while there is another replica in it.
    pub fn crash_replica(&self, number: usize) {
        self.disconnect_replica(number);
        self.running().nodes.crash(&self.pod_name(number));
    }

    /// Makes a route, and the router that answers for it on a port of its own; returns its host.
    pub fn expose(&self, config: &RouteConfig) -> String {
        let running = self.registry.as_ref().expect("a cluster with a registry");
        let mut routes = lock(&self.routes);
        let (host, serving) = route::expose(running, config, routes.len());
        routes.push(serving);
        host
    }

    /// The name of a replica's pod in `openshift-image-registry`.
    #[must_use]
    pub fn pod_name(&self, number: usize) -> String {
        self.running().members()[number].endpoint.pod.clone()
    }

    /// The UID of a replica's pod.
    #[must_use]
    pub fn pod_uid(&self, number: usize) -> String {
        self.running().members()[number].endpoint.uid.clone()
    }

    /// What tests do to the nodes, where there is a controller.
    #[must_use]
    pub fn nodes(&self) -> &Nodes {
        &self.running().nodes
    }

    /// Says where a port of a pod really listens, for port-forwards: without it, that is the pod's IP and the same
    /// port.
    pub fn map_port(&self, namespace: &str, pod: &str, port: u16, address: SocketAddr) {
        self.sandbox.api().forwards().map(namespace, pod, port, address);
    }

    /// Says where a name and port (`redis.cache.svc:6379`) in the registry's environment really lead, where there is a
    /// controller: for pods that start from now on.
    pub fn map_host(&self, host: &str, address: SocketAddr) {
        lock(&self.running().hosts).insert(host.to_owned(), address);
    }

    /// Cuts all port-forwards that are open, as an API server does that is restarted.
    pub fn cut_port_forwards(&self) {
        self.sandbox.api().forwards().cut();
    }

    /// Waits until the objects are as wanted; returns whether they were within the time.
    pub async fn wait_until(&self, time: Duration, wanted: impl Fn(&Store) -> bool) -> bool {
        tokio::time::timeout(time, until(self.sandbox.store(), wanted)).await.is_ok()
    }

    /// Waits until the Deployment's rollout is over, as `oc rollout status` does, no pod of before is left, and the
    /// endpoints say so; returns whether that was within the time.
    pub async fn wait_for_rollout(&self, time: Duration) -> bool {
        self.wait_until(time, settled).await
    }

    /// The storage that the replicas share.
    #[must_use]
    pub fn storage(&self) -> &Storage {
        self.registry().storage()
    }

    /// A client of the first replica (with a controller: of the service) with a token of the user.
    #[must_use]
    pub fn client(&self, user: &str) -> Client {
        self.client_at(&self.service_url(), user)
    }

    /// A client of a replica with a token of the user.
    #[must_use]
    pub fn client_of(&self, replica: usize, user: &str) -> Client {
        self.client_at(&self.registry_url(replica), user)
    }

    fn client_at(&self, url: &str, user: &str) -> Client {
        let credentials = Credentials::Basic(self.sandbox.token(user));
        let authority = self.registry.as_ref().map(|running| running.authority.pem());
        Client::new(url, credentials, Some(&authority.unwrap_or_else(|| self.sandbox.ca_pem())))
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
        for task in &self.tasks {
            task.abort();
        }
        if let Some(running) = self.registry.take() {
            running.members().clear();
            running.registry.stop();
        }
    }
}

impl Running {
    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        lock(&self.members)
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    pub(crate) fn api(&self) -> &Api {
        &self.api
    }

    pub(crate) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    pub(crate) fn faults(&self) -> &Faults {
        &self.faults
    }

    pub(crate) fn log(&self) -> &RequestLog {
        &self.log
    }

    /// A replica that is served.
    pub(crate) fn any(&self) -> Option<Replica> {
        let members = self.members();
        let served = members.iter().find(|member| member.serving.is_some());
        served.map(|member| member.replica.clone())
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// What a replica makes of its environment and its file.
    pub(crate) fn configured(
        &self,
        env: &BTreeMap<String, String>,
        file: Option<&str>,
    ) -> Result<RegistryConfig, String> {
        let mut config = registry::configured(&self.base, env, file)?;
        // Pull specs name the host where the registry can really be reached.
        config.server_address.clone_from(&self.base.server_address);
        if let Some(redis) = &mut config.redis
            && let Some(address) = lock(&self.hosts).get(&redis.address)
        {
            redis.address = address.to_string();
        }
        Ok(config)
    }

    /// Serves one more replica, and makes its pod and endpoint.
    fn add(&self, listener: TcpListener) -> usize {
        let replica = self.registry.replica();
        let number = replica.number();
        let address = listener.local_addr().expect("the listener's address");
        let shown = self.shown(number, address);
        let endpoint = workload::add_pod(self.api.store(), number, shown, &workload::environment(&self.base));
        self.begin(replica, listener, endpoint);
        workload::set_endpoints(self.api.store(), &self.endpoints());
        number
    }

    /// Serves one more replica in a pod that there is; returns its number and where its pod is to say that it listens.
    pub(crate) fn serve(&self, pod: &str, uid: &str, config: &RegistryConfig) -> (usize, SocketAddr) {
        let replica = self.registry.replica_with(config.clone());
        let number = replica.number();
        // A pod keeps its IP when its container starts again.
        let earlier = self.members().iter().position(|member| member.endpoint.uid == uid);
        let listener = listen_as(earlier.unwrap_or(number));
        let address = listener.local_addr().expect("the listener's address");
        let shown = self.shown(earlier.unwrap_or(number), address);
        let endpoint = Endpoint {
            pod: pod.to_owned(),
            uid: uid.to_owned(),
            node: String::new(),
            address: shown,
            ready: true,
            terminating: false,
        };
        self.begin(replica, listener, endpoint);
        (number, shown)
    }

    fn begin(&self, replica: Replica, listener: TcpListener, endpoint: Endpoint) {
        let address = listener.local_addr().expect("the listener's address");
        let own = address.ip().to_string();
        let names: Vec<&str> = self.names.iter().map(String::as_str).chain([own.as_str()]).collect();
        let tls = self.tls.then(|| self.authority.server(&names));
        let serving = replica.serve(&self.runtime, listener, tls, &self.faults, &self.log);
        for port in BTreeSet::from([workload::PORT, address.port(), endpoint.address.port()]) {
            self.api.forwards().map(NAMESPACE, &endpoint.pod, port, address);
        }
        self.members().push(Member { replica, endpoint, address, serving: Some(serving) });
    }

    /// Closes a replica's connections and listener.
    pub(crate) fn end(&self, number: usize) {
        // There is none any more when the cluster ends.
        if let Some(member) = self.members().get_mut(number) {
            member.serving = None;
        }
    }

    /// Forgets where the ports of a pod were.
    pub(crate) fn forget(&self, pod: &str) {
        self.api.forwards().forget(NAMESPACE, pod);
    }

    /// Where the replica in a pod really listens.
    pub(crate) fn address_of(&self, pod: &str) -> Option<SocketAddr> {
        let members = self.members();
        members.iter().rev().find(|member| member.endpoint.pod == pod).map(|member| member.address)
    }

    /// Where a replica's pod says that it listens.
    fn shown(&self, number: usize, address: SocketAddr) -> SocketAddr {
        if self.pods_reachable { address } else { unreachable(number) }
    }

    /// The replicas that are served.
    fn endpoints(&self) -> Vec<Endpoint> {
        let members = self.members();
        let served = members.iter().filter(|member| member.serving.is_some());
        served.map(|member| member.endpoint.clone()).collect()
    }
}

/// Waits until the objects are as wanted.
async fn until(store: &Store, wanted: impl Fn(&Store) -> bool) {
    let mut revisions = store.subscribe();
    loop {
        revisions.borrow_and_update();
        if wanted(store) || revisions.changed().await.is_err() {
            return;
        }
    }
}

/// Whether the Deployment is as it is to be, and so are its pods and endpoints.
fn settled(store: &Store) -> bool {
    let Some(deployment) = store.get("deployments", NAMESPACE, NAME) else { return false };
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
    let (status, generation) = (&deployment["status"], &deployment["metadata"]["generation"]);
    let number = |field: &str| status[field].as_u64().unwrap_or_default();
    let fields = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
    let pods = store.in_namespace("pods", NAMESPACE);
    let pods: BTreeSet<&str> = pods
        .iter()
        .filter(|pod| pod["metadata"]["labels"]["docker-registry"] == "default")
        .filter_map(|pod| pod["metadata"]["uid"].as_str())
        .collect();
    let endpoints = store.get("endpoints", NAMESPACE, NAME).unwrap_or_default();
    let subsets = endpoints["subsets"].as_array();
    let addresses =
        subsets.into_iter().flatten().filter_map(|subset| subset["addresses"].as_array()).flatten();
    let listed: BTreeSet<&str> =
        addresses.filter_map(|address| address["targetRef"]["uid"].as_str()).collect();
    &status["observedGeneration"] == generation
        && fields.into_iter().all(|field| number(field) == wanted)
        && pods.len() as u64 == wanted
        && listed == pods
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
