//! How a Redis node is reached: directly, or by a port-forward to the pod behind its name or address.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::List;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use redis::io::AsyncDNSResolver;
use redis::{ErrorKind, RedisError, RedisFuture};
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use super::address::host_text;
use super::problem::{Problem, RedisFailure};
use crate::cause::io_text;
use crate::cluster::{ApiError, ApiRequest, Cluster, Forward};
use crate::text::{quoted, sanitize};

/// How long a node may take to accept a connection before another way is looked for. One that no other way leads to
/// gets its usual time.
const DIRECT: Duration = Duration::from_secs(1);

/// How long the way through the API server may take to find.
const SEARCH: Duration = Duration::from_secs(20);

/// How the nodes of a Redis are reached. Clones share what they have found.
#[derive(Clone, Default)]
pub struct Dialer {
    inner: Option<Arc<Inner>>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dialer").field(&self.inner.as_ref().map(|inner| &inner.namespace)).finish()
    }
}

struct Inner {
    cluster: Cluster,
    namespace: String,
    order: Order,
    ways: Mutex<HashMap<(String, u16), Way>>,
}

/// Which way is tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    DirectFirst,
    ClusterFirst,
}

/// What is known about the way to a node.
enum Way {
    Forward(Arc<Forward>),
    /// There is none through the API server: why.
    None(String),
}

/// What may be behind a host.
#[derive(Debug, PartialEq, Eq)]
enum Host {
    Service {
        namespace: String,
        name: String,
    },
    /// `redis-0.redis.shop.svc`, as a stateful set's pods are called.
    Pod {
        namespace: String,
        name: String,
    },
    /// A pod's or a service's.
    Address(IpAddr),
}

/// The end of a port-forward.
#[derive(Debug, PartialEq, Eq)]
struct End {
    namespace: String,
    pod: String,
    port: u16,
}

/// Why the API server leads nowhere.
enum Dead {
    /// The node is none of the cluster's, as far as can be told.
    Foreign(String),
    /// It could not be asked, or did not forward.
    Barred(Box<RedisFailure>),
}

impl Dialer {
    /// Nodes are reached directly or not at all.
    #[must_use]
    pub fn direct() -> Self {
        Self::default()
    }

    /// Nodes that cannot be reached directly are looked for in this cluster. `namespace` is where a service without one
    /// is, and where IP addresses are looked for: the registry's.
    #[must_use]
    pub fn through(cluster: Cluster, namespace: impl Into<String>) -> Self {
        Self::new(cluster, namespace, Order::DirectFirst)
    }

    /// The same for an address that was found in the registry's configuration and not named by the user: outside of the
    /// cluster such a name or address may be another host's, and the password that was found with it is not for that
    /// one. So the cluster's own way comes first there, and no other one is taken if it is barred.
    #[must_use]
    pub fn found_in(cluster: Cluster, namespace: impl Into<String>) -> Self {
        let order = if cluster.is_in_cluster() { Order::DirectFirst } else { Order::ClusterFirst };
        Self::new(cluster, namespace, order)
    }

    fn new(cluster: Cluster, namespace: impl Into<String>, order: Order) -> Self {
        let namespace = namespace.into();
        Self { inner: Some(Arc::new(Inner { cluster, namespace, order, ways: Mutex::default() })) }
    }

    /// Whether nodes that cannot be reached directly are looked for in a cluster.
    pub(super) fn goes_through_cluster(&self) -> bool {
        self.inner.is_some()
    }

    /// Where to connect to for this node; `None`: to the node itself.
    pub(super) async fn dial(&self, host: &str, port: u16) -> Result<Option<SocketAddr>, RedisFailure> {
        let Some(inner) = &self.inner else { return Ok(None) };
        if let Some(address) = inner.kept(host, port) {
            return Ok(Some(address));
        }
        let Some(behind) = behind(host, &inner.namespace) else { return Ok(None) };
        // This machine is nobody else's.
        let is_here = matches!(behind, Host::Address(address) if address.is_loopback());
        let direct = if inner.order == Order::ClusterFirst && !is_here {
            "not tried directly, for outside of the cluster it may be another host".to_owned()
        } else {
            match tokio::time::timeout(DIRECT, TcpStream::connect((host, port))).await {
                Ok(Ok(stream)) => return Ok(stream.peer_addr().ok()),
                Ok(Err(error)) => io_text(&error),
                Err(_) => format!("no connection within {DIRECT:?}"),
            }
        };
        let step = format!("connect to {}", host_text(&sanitize(host), port));
        // Boxed: every connection would have room for it otherwise.
        let found = Box::pin(tokio::time::timeout(SEARCH, inner.forward(&behind, port))).await;
        let found = match found {
            Ok(found) => found,
            Err(_) => Err(Dead::Barred(Box::new(RedisFailure::new(
                Problem::NoWay,
                "find its pod",
                format!("the API server has not answered within {SEARCH:?}"),
            )))),
        };
        match found {
            Ok(forward) => Ok(Some(inner.keep(host, port, forward))),
            // The library tries the node once more, with all its time, and says what is wrong with it.
            Err(Dead::Foreign(why)) if inner.order == Order::ClusterFirst && !is_here => {
                let cause = format!(
                    "{why}, and outside of the cluster it may be another host: name it with --redis-url"
                );
                Err(RedisFailure::new(Problem::NoWay, step, cause))
            }
            Err(Dead::Foreign(why)) => {
                inner.ways().insert((host.to_owned(), port), Way::None(why));
                Ok(None)
            }
            Err(Dead::Barred(failure)) => {
                Err(failure.at(step, &format!("{direct}; by way of the API server: ")))
            }
        }
    }

    /// Adds what the way through the API server has to do with a failure.
    pub(super) fn explained(&self, mut failure: RedisFailure, host: &str, port: u16) -> RedisFailure {
        let Some(inner) = &self.inner else { return failure };
        if failure.problem.is_lost_connection()
            && let Some(way) = inner.ways().get(&(host.to_owned(), port))
        {
            let why = match way {
                Way::Forward(forward) => forward.failure(),
                Way::None(why) => Some(why.clone()),
            };
            if let Some(why) = why {
                failure.cause = format!("{}; by way of the API server: {why}", failure.cause);
            }
        }
        failure
    }
}

/// For connections that the library makes itself, to the nodes of a cluster.
impl AsyncDNSResolver for Dialer {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let found: Vec<_> = match self.dial(host, port).await {
                Ok(Some(address)) => vec![address],
                Ok(None) => tokio::net::lookup_host((host, port)).await?.collect(),
                Err(failure) => {
                    let error = (ErrorKind::Io, "no way to a node", failure.to_string());
                    return Err(RedisError::from(error));
                }
            };
            Ok(Box::new(found.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}

impl Inner {
    fn ways(&self) -> MutexGuard<'_, HashMap<(String, u16), Way>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The port-forward that is there, unless it has failed: the pod may be another one by now.
    fn kept(&self, host: &str, port: u16) -> Option<SocketAddr> {
        let key = (host.to_owned(), port);
        let mut ways = self.ways();
        let Some(Way::Forward(forward)) = ways.get(&key) else { return None };
        if forward.failure().is_none() {
            return Some(forward.address());
        }
        ways.remove(&key);
        None
    }

    /// Keeps a port-forward, or takes the one that another call has made meanwhile.
    fn keep(&self, host: &str, port: u16, forward: Forward) -> SocketAddr {
        let mut ways = self.ways();
        let way = ways.entry((host.to_owned(), port)).or_insert_with(|| Way::None(String::new()));
        if let Way::Forward(other) = way
            && other.failure().is_none()
        {
            return other.address();
        }
        let address = forward.address();
        *way = Way::Forward(Arc::new(forward));
        address
    }

    async fn forward(&self, behind: &Host, port: u16) -> Result<Forward, Dead> {
        let End { namespace, pod, port } = self.end(behind, port).await?;
        let step = format!("forward to port {port} of pod {namespace}/{pod}");
        self.cluster.forward(&namespace, &pod, port).await.map_err(|error| match error {
            ApiError::NotFound { .. } => {
                Dead::Barred(Box::new(RedisFailure::new(Problem::Unreachable, step, error.to_string())))
            }
            // Its text names the port and the pod.
            ApiError::PortForward(why) => {
                Dead::Barred(Box::new(RedisFailure::new(Problem::Refused, "forward its port", why)))
            }
            error => barred(&step, &error, "create", "pods/portforward", &namespace),
        })
    }

    /// Finds the pod.
    async fn end(&self, behind: &Host, port: u16) -> Result<End, Dead> {
        match behind {
            Host::Pod { namespace, name } => {
                Ok(End { namespace: namespace.clone(), pod: name.clone(), port })
            }
            Host::Service { namespace, name } => {
                let step = format!("read service {namespace}/{name}");
                let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
                match self.read::<Service>(&path).await {
                    Ok(service) => self.end_of(&service, namespace, port).await,
                    Err(ApiError::NotFound { .. }) => {
                        Err(Dead::Foreign(format!("there is no service {name} in namespace {namespace}")))
                    }
                    Err(error) => Err(barred(&step, &error, "get", "services", namespace)),
                }
            }
            Host::Address(address) => {
                let namespace = &self.namespace;
                let pods = self.pods(namespace, "").await?;
                if let Some(pod) = pod_at(&pods, *address, port) {
                    return Ok(End { namespace: namespace.clone(), pod: name_of(pod), port });
                }
                let path = format!("/api/v1/namespaces/{namespace}/services");
                let services = self.read::<List<Service>>(&path).await;
                let services = services.map_err(|error| {
                    let step = format!("list the services of namespace {namespace}");
                    barred(&step, &error, "list", "services", namespace)
                })?;
                match services.items.iter().find(|service| is_at(service, *address)) {
                    Some(service) => self.end_of(service, namespace, port).await,
                    None => Err(Dead::Foreign(format!(
                        "no pod and no service of namespace {namespace} has this address"
                    ))),
                }
            }
        }
    }

    async fn end_of(&self, service: &Service, namespace: &str, port: u16) -> Result<End, Dead> {
        let name = service.metadata.name.as_deref().map(sanitize).unwrap_or_default();
        let dead = |cause: String| {
            let step = format!("find a pod of service {namespace}/{name}");
            Dead::Barred(Box::new(RedisFailure::new(Problem::Unreachable, step, cause)))
        };
        let target = target_port(service, port).map_err(dead)?;
        let selector = selector(service).ok_or_else(|| dead("it selects none".to_owned()))?;
        let pods = self.pods(namespace, &selector).await?;
        let Some(pod) = pods.iter().find(|pod| is_ready(pod)) else {
            return Err(dead(format!("none of {} is ready", pods.len())));
        };
        let port = match target {
            TargetPort::Number(number) => number,
            TargetPort::Name(wanted) => named_port(pod, &wanted).ok_or_else(|| {
                dead(format!("pod {} has no port named {}", name_of(pod), sanitize(&wanted)))
            })?,
        };
        Ok(End { namespace: namespace.to_owned(), pod: name_of(pod), port })
    }

    async fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>, Dead> {
        let selector: String = url::form_urlencoded::byte_serialize(selector.as_bytes()).collect();
        let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector={selector}");
        let pods = self.read::<List<Pod>>(&path).await;
        pods.map(|list| list.items).map_err(|error| {
            barred(&format!("list the pods of namespace {namespace}"), &error, "list", "pods", namespace)
        })
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let answer = self.cluster.request(ApiRequest::get(path)).await?;
        serde_json::from_slice(&answer.body)
            .map_err(|error| ApiError::Malformed(sanitize(&error.to_string())))
    }
}

/// What a failed request means; a missing right is named.
fn barred(step: &str, error: &ApiError, verb: &str, resource: &str, namespace: &str) -> Dead {
    let failure = RedisFailure::new(Problem::NoWay, step, error.to_string());
    Dead::Barred(Box::new(match error {
        ApiError::Forbidden { .. } => failure.help(format!(
            "a right is missing: {verb} {resource} in namespace {namespace}; who has it: oc adm policy who-can {verb} {resource} -n {}",
            quoted(namespace)
        )),
        _ => failure,
    }))
}

/// What may be behind a host, seen from a pod of this namespace; `None` for what is outside of any cluster.
fn behind(host: &str, namespace: &str) -> Option<Host> {
    if let Ok(address) = host.parse::<IpAddr>() {
        let is_here =
            [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])].contains(&address);
        return (!is_here).then_some(Host::Address(address));
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let labels: Vec<&str> = host.split('.').collect();
    let is_label = |label: &&str| {
        let of_names = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(of_names)
    };
    if host == "localhost" || !labels.iter().all(is_label) {
        return None;
    }
    let service = |name: &str, namespace: &str| Host::Service {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    match labels.as_slice() {
        [name] => Some(service(name, namespace)),
        [name, namespace] | [name, namespace, "svc", ..] => Some(service(name, namespace)),
        [pod, _, namespace, "svc", ..] => {
            Some(Host::Pod { namespace: (*namespace).to_owned(), name: (*pod).to_owned() })
        }
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum TargetPort {
    Number(u16),
    Name(String),
}

/// Where a service sends what comes to a port of it.
fn target_port(service: &Service, port: u16) -> Result<TargetPort, String> {
    let spec = service.spec.as_ref();
    // The name of a headless service stands for its pods themselves.
    if spec.is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None")) {
        return Ok(TargetPort::Number(port));
    }
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let Some(found) = ports.iter().find(|found| found.port == i32::from(port)) else {
        let others: Vec<_> = ports.iter().map(|port| port.port.to_string()).collect();
        return Err(match others.as_slice() {
            [] => "it has no ports".to_owned(),
            others => format!("it has no port {port}, but {}", others.join(", ")),
        });
    };
    match &found.target_port {
        None | Some(IntOrString::Int(0)) => Ok(TargetPort::Number(port)),
        Some(IntOrString::Int(number)) => {
            u16::try_from(*number).map(TargetPort::Number).map_err(|_| format!("its target port is {number}"))
        }
        Some(IntOrString::String(name)) => Ok(match name.parse() {
            Ok(number) => TargetPort::Number(number),
            Err(_) => TargetPort::Name(name.clone()),
        }),
    }
}

/// The selector as a request takes it; `None` for a service whose endpoints somebody writes by hand.
fn selector(service: &Service) -> Option<String> {
    let labels = service.spec.as_ref()?.selector.as_ref().filter(|labels| !labels.is_empty())?;
    Some(labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(","))
}

fn is_at(service: &Service, address: IpAddr) -> bool {
    let Some(spec) = &service.spec else { return false };
    let ips = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
    ips.chain(spec.external_ips.iter().flatten()).any(|ip| ip.parse() == Ok(address))
}

/// The pod at an address. On a node's own network there may be several: then the one with this port.
fn pod_at(pods: &[Pod], address: IpAddr, port: u16) -> Option<&Pod> {
    let has_address = |pod: &&Pod| {
        let Some(status) = &pod.status else { return false };
        let others = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
        let mut ips = status.pod_ip.iter().chain(others);
        // Addresses of pods that have ended are given to others.
        !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
            && ips.any(|ip| ip.parse() == Ok(address))
    };
    let found: Vec<_> = pods.iter().filter(has_address).collect();
    let has_port = |pod: &&Pod| ports(pod).any(|(_, number)| number == i32::from(port));
    found.iter().copied().find(has_port).or_else(|| found.first().copied())
}

fn ports(pod: &Pod) -> impl Iterator<Item = (Option<&str>, i32)> {
    let spec = pod.spec.iter();
    let restarting = |container: &&k8s_openapi::api::core::v1::Container| {
        container.restart_policy.as_deref() == Some("Always")
    };
    let containers = spec.flat_map(move |spec| {
        spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(restarting))
    });
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.map(|port| (port.name.as_deref(), port.container_port))
}

fn named_port(pod: &Pod, wanted: &str) -> Option<u16> {
    let (_, number) = ports(pod).find(|(name, _)| *name == Some(wanted))?;
    u16::try_from(number).ok()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn name_of(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of<T: DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn hosts_are_what_they_are_in_a_pod_of_the_registrys_namespace() {
        let service =
            |namespace: &str| Some(Host::Service { namespace: namespace.into(), name: "redis".into() });
        for (host, wanted) in [
            ("redis", service("registry")),
            ("redis.shop", service("shop")),
            ("redis.shop.svc", service("shop")),
            ("redis.shop.svc.cluster.local", service("shop")),
            ("redis.shop.svc.example.org.", service("shop")),
            (
                "redis-0.redis.shop.svc.cluster.local",
                Some(Host::Pod { namespace: "shop".into(), name: "redis-0".into() }),
            ),
            ("10.1.2.3", Some(Host::Address([10, 1, 2, 3].into()))),
            ("fd00::1", Some(Host::Address("fd00::1".parse().unwrap()))),
            ("127.0.0.1", None),
            ("::1", None),
            ("localhost", None),
            ("redis.example.com", None),
            ("a.b.c.d.svc", None),
            ("Redis", None),
            ("redis/../secrets", None),
            ("redis..svc", None),
            ("", None),
        ] {
            assert_eq!(behind(host, "registry"), wanted, "{host}");
        }
    }

    #[test]
    fn a_service_says_which_port_its_pods_have() {
        let service = |target: serde_json::Value| -> Service {
            of(
                json!({ "spec": { "clusterIP": "10.0.0.1", "ports": [{ "port": 6379, "targetPort": target }] } }),
            )
        };
        let number = |number| Ok(TargetPort::Number(number));
        assert_eq!(target_port(&service(json!(6380)), 6379), number(6380));
        assert_eq!(target_port(&service(json!(0)), 6379), number(6379));
        assert_eq!(target_port(&service(json!("6380")), 6379), number(6380));
        assert_eq!(target_port(&service(json!("redis")), 6379), Ok(TargetPort::Name("redis".into())));
        assert_eq!(target_port(&of(json!({ "spec": { "ports": [{ "port": 6379 }] } })), 6379), number(6379));
        let error = target_port(&service(json!(1)), 6380).unwrap_err();
        assert_eq!(error, "it has no port 6380, but 6379");
        assert_eq!(target_port(&of(json!({})), 6379).unwrap_err(), "it has no ports");
        // A headless service passes nothing on: clients speak with the pods themselves.
        assert_eq!(target_port(&of(json!({ "spec": { "clusterIP": "None" } })), 7000), number(7000));
        let selected = of(json!({ "spec": { "selector": { "app": "redis", "tier": "db" } } }));
        assert_eq!(selector(&selected).as_deref(), Some("app=redis,tier=db"));
        assert_eq!(selector(&of(json!({ "spec": { "externalName": "redis.example.com" } }))), None);
        let two_stacks: Service = of(json!({ "spec": { "clusterIPs": ["10.0.0.1", "fd00::0:1"] } }));
        assert!(is_at(&two_stacks, "fd00::1".parse().unwrap()));
        assert!(!is_at(&two_stacks, "fd00::2".parse().unwrap()));
    }

    #[test]
    fn a_pod_is_found_by_its_address_unless_it_has_ended() {
        let pod = |name: &str, phase: &str, port: u16| -> Pod {
            of(json!({
                "metadata": { "name": name },
                "spec": { "containers": [{ "name": "a", "ports": [{ "containerPort": port, "name": "redis" }] }] },
                "status": { "phase": phase, "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }] },
            }))
        };
        let pods = [pod("ended", "Succeeded", 6379), pod("a", "Running", 80), pod("b", "Running", 6379)];
        let at = |address: &str, port| pod_at(&pods, address.parse().unwrap(), port).map(name_of);
        // Both are on their node's network.
        assert_eq!(at("10.0.0.1", 6379).as_deref(), Some("b"));
        assert_eq!(at("fd00:0::1", 6380).as_deref(), Some("a"));
        assert_eq!(at("10.0.0.2", 6379), None);
        assert_eq!((named_port(&pods[2], "redis"), named_port(&pods[2], "other")), (Some(6379), None));
    }

    #[test]
    fn only_pods_that_are_ready_and_stay_are_forwarded_to() {
        let pod = |condition: &str, status: &str| -> Pod {
            of(json!({ "status": { "conditions": [{ "type": condition, "status": status }] } }))
        };
        assert!(is_ready(&pod("Ready", "True")));
        assert!(!is_ready(&pod("Ready", "False")) && !is_ready(&pod("Initialized", "True")));
        assert!(!is_ready(&of(json!({}))));
        let mut going = pod("Ready", "True");
        going.metadata = of(json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" }));
        assert!(!is_ready(&going));
    }
}
