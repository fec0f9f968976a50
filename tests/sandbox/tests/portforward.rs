//! Port-forwards to pods, with the client that the plugin has.
#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Portforwarder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use sandbox::api::{Rule, image_pruner};
use sandbox::{Cluster, ClusterConfig};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

const REGISTRY: &str = "openshift-image-registry";
const SOON: Duration = Duration::from_secs(20);

async fn client(cluster: &Cluster, user: &str) -> Client {
    // Another test of this process may have done it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig(directory.path(), user)).unwrap();
    let options = KubeConfigOptions::default();
    Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap()).unwrap()
}

async fn pods(cluster: &Cluster, user: &str, namespace: &str) -> Api<Pod> {
    Api::namespaced(client(cluster, user).await, namespace)
}

/// A pod outside of the registry's namespace.
fn pod(cluster: &Cluster, name: &str) {
    cluster.sandbox().store().create(
        "pods",
        json!({
            "metadata": { "namespace": "shop", "name": name },
            "spec": { "nodeName": "worker-0", "containers": [{ "name": "main" }] },
            "status": { "phase": "Running", "podIP": "127.0.0.1" },
        }),
    );
}

/// Reads to the end, which has to come.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut text = String::new();
    timeout(SOON, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    text
}

async fn whether_open(cluster: &Cluster, wanted: usize) {
    let forwards = cluster.sandbox().api().forwards();
    timeout(SOON, forwards.wait_open(wanted)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_replica_is_reached_through_its_pod_alone() {
    let cluster = Cluster::start(ClusterConfig {
        replicas: 2,
        registry_tls: false,
        pods_reachable: false,
        ..ClusterConfig::default()
    });
    let pods = pods(&cluster, "admin", REGISTRY).await;
    for number in [0, 1] {
        let name = cluster.pod_name(number);
        let status = pods.get(&name).await.unwrap().status.unwrap();
        let shown: SocketAddr = format!("{}:5000", status.pod_ip.unwrap()).parse().unwrap();
        assert!(tokio::net::TcpStream::connect(shown).await.is_err(), "{shown} answers");

        let mut forwarder = pods.portforward(&name, &[5000]).await.unwrap();
        let mut stream = forwarder.take_stream(5000).unwrap();
        let request = format!("GET /number-{number} HTTP/1.1\r\nHost: registry\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(rest(&mut stream).await.starts_with("HTTP/1.1 404 Not Found\r\n"));
        let log = cluster.sandbox().request_log();
        let server = sandbox::log::Server::Registry(number);
        assert_eq!(
            log.filter(|entry| entry.server == server && entry.path == format!("/number-{number}")).len(),
            1
        );
    }
}

/// Sends back what it is sent, on all its connections.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn megabytes_flow_both_ways_through_several_connections_and_ports() {
    let cluster = Cluster::start(ClusterConfig { registry: None, ..ClusterConfig::default() });
    pod(&cluster, "web");
    let (one, two) = (echo().await, echo().await);
    cluster.map_port("shop", "web", 80, one);
    let pods = pods(&cluster, "admin", "shop").await;
    // The second port has no mapping: it is the one that really listens at the pod's IP.
    let ports = [80, two.port()];
    let connect = || async { pods.portforward("web", &ports).await.unwrap() };
    let mut forwarders: Vec<Portforwarder> = futures::future::join_all((0..4).map(|_| connect())).await;
    whether_open(&cluster, 4).await;
    let exchange = |mut stream: tokio::io::DuplexStream, seed: u8| async move {
        let sent: Vec<u8> = (0..3_000_000_u32).map(|byte| (byte % 251) as u8 ^ seed).collect();
        let mut received = vec![0; sent.len()];
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        let (sending, receiving) =
            tokio::join!(writer.write_all(&sent), timeout(SOON, reader.read_exact(&mut received)));
        sending.unwrap();
        receiving.unwrap().unwrap();
        assert!(sent == received);
    };
    let mut exchanges = Vec::new();
    for (number, forwarder) in forwarders.iter_mut().enumerate() {
        for port in ports {
            let seed = u8::try_from(number).unwrap();
            exchanges.push(exchange(forwarder.take_stream(port).unwrap(), seed));
        }
    }
    futures::future::join_all(exchanges).await;
    drop(forwarders);
    whether_open(&cluster, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_its_half_ends_the_connection_to_the_pod() {
    let cluster = Cluster::start(ClusterConfig { registry: None, ..ClusterConfig::default() });
    pod(&cluster, "web");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    cluster.map_port("shop", "web", 80, listener.local_addr().unwrap());
    let pods = pods(&cluster, "admin", "shop").await;
    let mut forwarder = pods.portforward("web", &[80]).await.unwrap();
    let mut stream = forwarder.take_stream(80).unwrap();
    stream.write_all(b"the last words").await.unwrap();
    let (mut accepted, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut accepted).await, "the last words");
    whether_open(&cluster, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_pod_said_last_arrives_before_the_end() {
    let cluster = Cluster::start(ClusterConfig { registry: None, ..ClusterConfig::default() });
    pod(&cluster, "web");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    cluster.map_port("shop", "web", 80, listener.local_addr().unwrap());
    let pods = pods(&cluster, "admin", "shop").await;
    let mut forwarder = pods.portforward("web", &[80]).await.unwrap();
    let mut stream = forwarder.take_stream(80).unwrap();
    let (mut accepted, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    accepted.write_all(&vec![b'x'; 500_000]).await.unwrap();
    drop(accepted);
    assert_eq!(rest(&mut stream).await.len(), 500_000);
    whether_open(&cluster, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_where_nobody_listens_is_an_error_of_that_port() {
    let cluster = Cluster::start(ClusterConfig { registry: None, ..ClusterConfig::default() });
    pod(&cluster, "web");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    cluster.map_port("shop", "web", 80, closed);
    cluster.map_port("shop", "web", 81, echo().await);
    let pods = pods(&cluster, "admin", "shop").await;
    let mut forwarder = pods.portforward("web", &[80, 81]).await.unwrap();
    let error = timeout(SOON, forwarder.take_error(80).unwrap()).await.unwrap().unwrap();
    assert!(error.starts_with("error forwarding port 80 to pod "), "{error}");
    assert!(error.ends_with("dial tcp4 127.0.0.1:80: connect: connection refused"), "{error}");
    let mut other = forwarder.take_stream(81).unwrap();
    other.write_all(b"still here").await.unwrap();
    let mut answer = [0; 10];
    timeout(SOON, other.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_goes_and_a_server_that_is_cut_take_their_connections_along() {
    let cluster = Cluster::start(ClusterConfig { registry: None, ..ClusterConfig::default() });
    let address = echo().await;
    for name in ["goes", "stays"] {
        pod(&cluster, name);
        cluster.map_port("shop", name, 80, address);
    }
    let pods = pods(&cluster, "admin", "shop").await;
    let mut going = pods.portforward("goes", &[80]).await.unwrap();
    let mut staying = pods.portforward("stays", &[80]).await.unwrap();
    whether_open(&cluster, 2).await;
    cluster.sandbox().store().delete("pods", "shop", "goes");
    whether_open(&cluster, 1).await;
    going.take_stream(80).unwrap();
    assert!(timeout(SOON, going.join()).await.unwrap().is_err(), "cut without a farewell");

    let mut stream = staying.take_stream(80).unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    timeout(SOON, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    cluster.cut_port_forwards();
    whether_open(&cluster, 0).await;
    assert!(timeout(SOON, stream.read(&mut answer)).await.unwrap().is_ok_and(|length| length == 0));
    assert!(pods.portforward("goes", &[80]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn get_and_create_are_both_needed() {
    let mut config = ClusterConfig { registry: None, ..ClusterConfig::default() };
    for (user, verbs) in [("get", &["get"][..]), ("create", &["create"]), ("both", &["get", "create"])] {
        let rule = Rule::new(verbs, &[""], &["pods/portforward"]);
        config.sandbox = config.sandbox.user(user, user, image_pruner().into_iter().chain([rule]).collect());
    }
    let cluster = Cluster::start(config);
    pod(&cluster, "web");
    cluster.map_port("shop", "web", 80, echo().await);
    for (user, allowed) in [("pruner", false), ("get", false), ("create", false), ("both", true)] {
        let answer = pods(&cluster, user, "shop").await.portforward("web", &[80]).await;
        match answer {
            Ok(_) => assert!(allowed, "{user}"),
            Err(error) => {
                assert!(!allowed, "{user}: {error}");
                assert!(error.to_string().contains("403"), "{user}: {error}");
            }
        }
    }
}

/// The status and text of an answer to a request of a user.
async fn ask(client: &Client, method: Method, path: &str) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path).body(Vec::new()).unwrap();
    let answer = client.send(request.map(kube::client::Body::from)).await.unwrap();
    let status = answer.status();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_forwarded_is_refused() {
    let cluster = Cluster::start(ClusterConfig { registry: None, ..ClusterConfig::default() });
    pod(&cluster, "web");
    let store = cluster.sandbox().store();
    store.create("pods", json!({ "metadata": { "namespace": "shop", "name": "pending" }, "spec": {} }));
    let client = client(&cluster, "admin").await;
    let path = |rest: &str| format!("/api/v1/namespaces/shop/pods/{rest}");
    for (method, rest, status, text) in [
        (Method::GET, "none/portforward?ports=80", StatusCode::NOT_FOUND, "pods \\\"none\\\" not found"),
        (
            Method::GET,
            "pending/portforward?ports=80",
            StatusCode::BAD_REQUEST,
            "does not have a host assigned",
        ),
        (Method::GET, "web/portforward?ports=80", StatusCode::BAD_REQUEST, "Upgrade request required"),
        (Method::POST, "web/portforward?ports=80", StatusCode::BAD_REQUEST, "Upgrade request required"),
    ] {
        let (found, body) = ask(&client, method, &path(rest)).await;
        assert_eq!(found, status, "{rest}: {body}");
        assert!(body.contains(text), "{rest}: {body}");
    }
}

#[test]
fn kubectl_that_tunnels_spdy_is_refused_at_once() {
    if std::process::Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        return;
    }
    let cluster = Cluster::start(ClusterConfig { registry: None, ..ClusterConfig::default() });
    pod(&cluster, "web");
    let directory = tempfile::tempdir().unwrap();
    let kubeconfig = cluster.kubeconfig(Path::new(directory.path()), "admin");
    let output = std::process::Command::new("kubectl")
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .args(["port-forward", "--namespace=shop", "pod/web", "0:80"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("error upgrading connection"), "{text}");
}
