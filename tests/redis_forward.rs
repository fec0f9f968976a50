//! Port-forwards through the API server, and a Redis that only they lead to: standalone, TLS, Sentinel, cluster.
//!
//! Needs `redis-server` for most of it; without it those tests say so and do nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests: whatever is wrong here fails them"
)]

#[path = "common/redis.rs"]
mod redis_keys;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use oc_prune_images::cache::redis::{
    Access, Certificates, Dialer, Evicted, Layout, Problem, Redis, RedisFailure, SharedCache,
};
use oc_prune_images::cluster::{ApiError, Cluster, ConnectionOptions, Environment, Forward, install_crypto};
use redis_keys::{
    SOON, access, assert_forgotten, digest, doomed, dump_all, is_installed, seed, seed_cluster, silent, soon,
};
use sandbox::api::{Rule, pruner_and};
use sandbox::redis::{Server, free_port};
use sandbox::tls::Authority;
use sandbox::{Config, Sandbox};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const NAMESPACE: &str = "shop";

/// Nobody listens there.
const POD_IP: &str = "127.200.0.7";
const SERVICE_IP: &str = "127.200.1.1";

struct Fixture {
    sandbox: Sandbox,
    directory: TempDir,
}

impl Fixture {
    /// A cluster where `forwarder` may do what it takes, and `reader`, `lister` and `pruner` less and less of it.
    fn start() -> Self {
        install_crypto();
        let rule =
            |verbs: &[&str], resource: &str| Rule::new(verbs, &[""], &[resource]).in_namespace(NAMESPACE);
        let services = || rule(&["get", "list"], "services");
        let forward = || rule(&["get", "create"], "pods/portforward");
        let config = Config::default()
            .user("forwarder", "", pruner_and([services(), forward()]))
            .user("reader", "", pruner_and([services()]))
            .user("podless", "", vec![services(), forward()]);
        Self { sandbox: Sandbox::start(config), directory: tempfile::tempdir().unwrap() }
    }

    async fn with(&self, kubeconfig: PathBuf) -> Cluster {
        let options = ConnectionOptions { kubeconfig: Some(kubeconfig), ..ConnectionOptions::default() };
        Cluster::connect(&options, &Environment::of_process()).await.unwrap()
    }

    async fn cluster(&self, user: &str) -> Cluster {
        self.with(self.sandbox.write_kubeconfig(self.directory.path(), user)).await
    }

    async fn dialer(&self, user: &str) -> Dialer {
        Dialer::through(self.cluster(user).await, NAMESPACE)
    }

    /// A pod whose port 6379, named `redis`, is this one.
    fn pod(&self, name: &str, ip: &str, port: u16) {
        self.sandbox.store().create("pods", pod(name, ip, true));
        self.map(name, 6379, port);
    }

    fn map(&self, pod: &str, port: u16, to: u16) {
        self.sandbox.api().forwards().map(NAMESPACE, pod, port, SocketAddr::from(([127, 0, 0, 1], to)));
    }

    /// A service `redis` with ports 6379 and 7000 for the pods.
    fn service(&self, cluster_ip: &str) {
        self.sandbox.store().create(
            "services",
            json!({
                "metadata": { "namespace": NAMESPACE, "name": "redis" },
                "spec": {
                    "clusterIP": cluster_ip,
                    "clusterIPs": [cluster_ip],
                    "selector": { "app": "redis" },
                    "ports": [
                        { "name": "a", "port": 6379, "targetPort": 6379 },
                        { "name": "b", "port": 7000, "targetPort": "redis" },
                        { "name": "c", "port": 7001, "targetPort": "other" },
                    ],
                },
            }),
        );
    }

    async fn whether_open(&self, wanted: usize) {
        soon(self.sandbox.api().forwards().wait_open(wanted)).await;
    }
}

fn pod(name: &str, ip: &str, is_ready: bool) -> Value {
    json!({
        "metadata": { "namespace": NAMESPACE, "name": name, "labels": { "app": "redis" } },
        "spec": {
            "nodeName": "worker-0",
            "containers": [{ "name": "redis", "ports": [{ "name": "redis", "containerPort": 6379 }] }],
        },
        "status": {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{ "ip": ip }],
            "conditions": [{ "type": "Ready", "status": if is_ready { "True" } else { "False" } }],
        },
    })
}

/// A server that sends back what it gets, and how often it was connected to.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await
            });
        }
    });
    port
}

async fn says_back(stream: &mut TcpStream, text: &str) -> bool {
    let mut answer = vec![0; text.len()];
    let exchange = async {
        stream.write_all(text.as_bytes()).await?;
        stream.read_exact(&mut answer).await
    };
    soon(exchange).await.is_ok() && answer == text.as_bytes()
}

async fn connect(forward: &Forward) -> TcpStream {
    assert!(forward.address().ip().is_loopback());
    TcpStream::connect(forward.address()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_local_port_end_in_the_pod() {
    let fixture = Fixture::start();
    fixture.pod("redis-0", POD_IP, echo().await);
    let cluster = fixture.cluster("forwarder").await;
    let forward = cluster.forward(NAMESPACE, "redis-0", 6379).await.unwrap();
    // The one that showed that it works is there for the first connection.
    fixture.whether_open(1).await;
    let mut first = connect(&forward).await;
    let mut second = connect(&forward).await;
    assert!(says_back(&mut first, "one").await && says_back(&mut second, "two").await);
    fixture.whether_open(2).await;
    let large = "x".repeat(3 << 20);
    assert!(says_back_while_sending(&mut second, &large).await);
    drop(first);
    fixture.whether_open(1).await;
    assert!(says_back(&mut second, "two again").await);
    let address = forward.address();
    drop(forward);
    fixture.whether_open(0).await;
    assert_eq!(second.read(&mut [0; 8]).await.unwrap_or_default(), 0, "the connection has ended");
    assert!(TcpStream::connect(address).await.is_err(), "the local port is closed");
}

async fn says_back_while_sending(stream: &mut TcpStream, text: &str) -> bool {
    let (mut reader, mut writer) = stream.split();
    let mut answer = vec![0; text.len()];
    let (sent, read) =
        soon(futures::future::join(writer.write_all(text.as_bytes()), reader.read_exact(&mut answer))).await;
    sent.is_ok() && read.is_ok() && answer == text.as_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_forwarded_is_told_at_once() {
    let fixture = Fixture::start();
    fixture.pod("redis-0", POD_IP, free_port());
    let forward = async |user: &str, pod: &str| {
        let error = fixture.cluster(user).await.forward(NAMESPACE, pod, 6379).await.unwrap_err();
        (error.to_string(), error)
    };
    let (text, error) = forward("reader", "redis-0").await;
    assert!(matches!(error, ApiError::Forbidden { .. }), "{error:?}");
    assert!(text.contains("pods \"redis-0\" is forbidden") && text.contains("pods/portforward"), "{text}");
    let (text, error) = forward("forwarder", "redis-1").await;
    assert!(matches!(error, ApiError::NotFound { .. }), "{error:?}");
    assert_eq!(text, "not found: pods \"redis-1\" not found");
    let (text, error) = forward("forwarder", "redis-0").await;
    assert!(matches!(error, ApiError::PortForward(_)), "{error:?}");
    let wanted =
        "port-forward: port 6379 of pod shop/redis-0: nobody listens there (error forwarding port 6379";
    assert!(text.starts_with(wanted), "{text}");
    let (text, error) = forward("forwarder", "../../secrets/x?").await;
    assert!(matches!(error, ApiError::Invalid { .. }), "{text}");
    let mut unscheduled = pod("redis-2", POD_IP, true);
    unscheduled["spec"]["nodeName"] = Value::Null;
    fixture.sandbox.store().create("pods", unscheduled);
    let (text, error) = forward("forwarder", "redis-2").await;
    assert!(matches!(error, ApiError::Invalid { .. }), "{error:?}");
    assert!(text.contains("does not have a host assigned"), "{text}");
    fixture.whether_open(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_fails_takes_down_no_other() {
    let fixture = Fixture::start();
    fixture.pod("redis-0", POD_IP, echo().await);
    let cluster = fixture.cluster("forwarder").await;
    let forward = cluster.forward(NAMESPACE, "redis-0", 6379).await.unwrap();
    let mut first = connect(&forward).await;
    assert!(says_back(&mut first, "one").await);
    assert_eq!(forward.failure(), None);
    fixture.map("redis-0", 6379, free_port());
    let mut second = connect(&forward).await;
    assert_eq!(soon(second.read(&mut [0; 8])).await.unwrap_or_default(), 0, "it has ended");
    // It is told a moment after the connection has ended.
    let told = async {
        loop {
            if let Some(failure) = forward.failure() {
                return failure;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let failure = soon(told).await;
    assert!(failure.starts_with("nobody listens there"), "{failure}");
    assert!(says_back(&mut first, "one again").await);
    fixture.map("redis-0", 6379, echo().await);
    let mut third = connect(&forward).await;
    assert!(says_back(&mut third, "three").await);
    assert_eq!(forward.failure(), None);
    // The API server is restarted: what was open is cut, what comes is forwarded.
    fixture.sandbox.api().forwards().cut();
    assert_eq!(soon(first.read(&mut [0; 8])).await.unwrap_or_default(), 0);
    assert!(says_back(&mut connect(&forward).await, "four").await);
    assert!(fixture.sandbox.store().delete("pods", NAMESPACE, "redis-0"));
    let mut fifth = connect(&forward).await;
    assert_eq!(soon(fifth.read(&mut [0; 8])).await.unwrap_or_default(), 0);
    assert_eq!(forward.failure().unwrap(), "not found: pods \"redis-0\" not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_forward_that_was_cut_before_its_use_is_not_used() {
    let fixture = Fixture::start();
    fixture.pod("redis-0", POD_IP, echo().await);
    let cluster = fixture.cluster("forwarder").await;
    let forward = cluster.forward(NAMESPACE, "redis-0", 6379).await.unwrap();
    fixture.whether_open(1).await;
    fixture.sandbox.api().forwards().cut();
    fixture.whether_open(0).await;
    // The server has closed it; nothing tells when the news has come through the loopback.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(says_back(&mut connect(&forward).await, "one").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn port_forwards_have_the_login_of_other_requests() {
    let fixture = Fixture::start();
    fixture.pod("redis-0", POD_IP, echo().await);
    let directory = fixture.directory.path();
    // A client certificate.
    let cluster = fixture.with(fixture.sandbox.write_certificate_kubeconfig(directory, "forwarder")).await;
    let forward = cluster.forward(NAMESPACE, "redis-0", 6379).await.unwrap();
    assert!(says_back(&mut connect(&forward).await, "certificate").await);
    // A token file that changes.
    let path = fixture.sandbox.write_kubeconfig(directory, "forwarder");
    let config = std::fs::read_to_string(&path).unwrap();
    let config =
        config.replace(&format!("token: {}", fixture.sandbox.token("forwarder")), "tokenFile: token");
    std::fs::write(directory.join("config"), config).unwrap();
    let access = fixture.sandbox.access();
    access.add_token("forwarder", "first");
    std::fs::write(directory.join("token"), "first\n").unwrap();
    let cluster = fixture.with(directory.join("config")).await;
    let forward = cluster.forward(NAMESPACE, "redis-0", 6379).await.unwrap();
    assert!(says_back(&mut connect(&forward).await, "first").await);
    access.revoke_token("first");
    access.add_token("forwarder", "second");
    std::fs::write(directory.join("token"), "second\n").unwrap();
    assert!(says_back(&mut connect(&forward).await, "second").await);
    // Somebody else.
    let options = ConnectionOptions {
        kubeconfig: Some(fixture.sandbox.write_kubeconfig(directory, "admin")),
        impersonate: Some("pruner".to_owned()),
        ..ConnectionOptions::default()
    };
    let cluster = Cluster::connect(&options, &Environment::of_process()).await.unwrap();
    let error = cluster.forward(NAMESPACE, "redis-0", 6379).await.unwrap_err();
    assert!(error.to_string().contains("User \"pruner\""), "{error}");
    // Nobody.
    access.revoke_token("second");
    let error = fixture.with(directory.join("config")).await.forward(NAMESPACE, "redis-0", 6379).await;
    assert_eq!(error.unwrap_err(), ApiError::Unauthorized);
}

async fn evict(access: Access, dialer: Dialer, n: usize) -> Result<(), RedisFailure> {
    let mut redis = Redis::connect(access, dialer, false, silent()).await?;
    let mut done = Evicted::default();
    redis.evict(&Layout::default().evictions(&doomed(n)), &mut done).await?;
    assert_eq!((done.keys, done.members), (3, 2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_is_reached_by_the_names_and_addresses_that_pods_use() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[]);
    seed(&server, 0..20);
    let before = server.dump();
    let fixture = Fixture::start();
    fixture.sandbox.store().create("pods", pod("redis-starting", "127.200.0.6", false));
    fixture.pod("redis-0", POD_IP, server.port());
    fixture.service(SERVICE_IP);
    let urls = [
        "redis://redis",
        "redis://redis.shop",
        "redis://redis.shop.svc:7000",
        "redis://redis.shop.svc.cluster.local.",
        "redis://redis-0.redis.shop.svc.cluster.local",
        &format!("redis://{POD_IP}"),
        &format!("redis://{SERVICE_IP}"),
        &format!("redis://{SERVICE_IP}:7000"),
        // Directly.
        &server.url(),
        &format!("redis://localhost:{}", server.port()),
    ];
    for (n, url) in urls.into_iter().enumerate() {
        let dialer = fixture.dialer("forwarder").await;
        if let Err(failure) = soon(evict(access(url), dialer, n)).await {
            panic!("{url}: {failure}");
        }
        // It ends with the connection.
        fixture.whether_open(0).await;
    }
    assert_forgotten(&before, &server.dump(), &(0..urls.len()).map(digest).collect::<Vec<_>>());
    // Only what the connection itself cannot do is asked of the API server.
    let requests = fixture.sandbox.request_log().len();
    soon(evict(access(&server.url()), fixture.dialer("forwarder").await, 15)).await.unwrap();
    assert_eq!(fixture.sandbox.request_log().len(), requests);
    // A headless service stands for its pods, whose ports are their own.
    assert!(fixture.sandbox.store().delete("services", NAMESPACE, "redis"));
    fixture.service("None");
    soon(evict(access("redis://redis"), fixture.dialer("forwarder").await, 16)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_of_the_cluster_a_name_that_was_found_there_is_not_taken_for_another_host() {
    let fixture = Fixture::start();
    // The machine that the test runs on answers to a name, too, as another host may answer to the service's name here.
    let name = std::fs::read_to_string("/etc/hostname").unwrap_or_default().trim().to_owned();
    if name.is_empty()
        || name.contains('.')
        || std::net::ToSocketAddrs::to_socket_addrs(&(name.as_str(), 1)).is_err()
    {
        return;
    }
    let other = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
    other.set_nonblocking(true).unwrap();
    let url = format!("redis://:geheim@{name}:{}", other.local_addr().unwrap().port());
    let access = Access { patience: Duration::from_secs(2), ..access(&url) };
    let dialer = Dialer::found_in(fixture.cluster("pruner").await, NAMESPACE);
    let failure = soon(evict(access, dialer, 0)).await.unwrap_err();
    assert!(failure.to_string().contains("not tried directly"), "{failure}");
    assert!(other.accept().is_err(), "nobody was asked, or told the password");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_bars_the_way_is_told_with_the_right_that_is_missing() {
    let fixture = Fixture::start();
    let fails = async |user: &str, url: &str| {
        let access = Access { patience: Duration::from_secs(2), ..access(url) };
        let address = access.address.clone();
        let failure = soon(evict(access, fixture.dialer(user).await, 0)).await.unwrap_err();
        let hints = failure.hints(&address).join("\n");
        (failure.problem, failure.to_string(), hints)
    };
    // There is nothing of this name or address.
    let (problem, text, hints) = fails("forwarder", "redis://redis").await;
    assert_eq!(problem, Problem::Unreachable);
    assert!(text.starts_with("connect to redis:6379: no such host"), "{text}");
    assert!(
        text.ends_with("by way of the API server: there is no service redis in namespace shop"),
        "{text}"
    );
    assert!(hints.contains("see whether Redis runs"), "{hints}");
    let (problem, text, _) = fails("forwarder", &format!("redis://{POD_IP}")).await;
    assert_eq!(problem, Problem::Refused);
    assert!(text.ends_with("no pod and no service of namespace shop has this address"), "{text}");
    let (_, text, _) = fails("forwarder", "redis://redis.example.com").await;
    assert_eq!(text, "connect to redis.example.com:6379: no such host");
    fixture.service(SERVICE_IP);
    let (problem, text, _) = fails("forwarder", "redis://redis").await;
    assert_eq!(problem, Problem::Unreachable);
    assert!(text.ends_with("find a pod of service shop/redis: none of 0 is ready"), "{text}");
    let (_, text, _) = fails("forwarder", "redis://redis:6380").await;
    assert!(text.ends_with("it has no port 6380, but 6379, 7000, 7001"), "{text}");
    fixture.pod("redis-0", POD_IP, free_port());
    let (_, text, _) = fails("forwarder", "redis://redis:7001").await;
    assert!(text.ends_with("pod redis-0 has no port named other"), "{text}");
    let (problem, text, _) = fails("forwarder", "redis://redis").await;
    assert_eq!(problem, Problem::Refused);
    assert!(text.contains("port 6379 of pod shop/redis-0: nobody listens there"), "{text}");
    // Each right.
    for (user, url, right) in [
        ("pruner", "redis://redis", "get services in namespace shop"),
        ("pruner", "redis://127.200.9.9", "list services in namespace shop"),
        ("podless", "redis://redis", "list pods in namespace shop"),
        ("podless", "redis://127.200.0.7", "list pods in namespace shop"),
        ("reader", "redis://redis", "create pods/portforward in namespace shop"),
    ] {
        let (problem, text, hints) = fails(user, url).await;
        assert_eq!(problem, Problem::NoWay, "{text}");
        assert!(text.contains("forbidden: "), "{text}");
        assert!(
            hints.contains(&format!("a right is missing: {right}; who has it: oc adm policy")),
            "{hints}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_against_the_name_of_the_service() {
    if !is_installed() {
        return;
    }
    let fixture = Fixture::start();
    fixture.service(SERVICE_IP);
    let authority = Authority::default();
    let identity = authority.server_identity(&["redis.shop.svc"]);
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [("tls.crt", &identity.certificate_pem), ("tls.key", &identity.key_pem)] {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    std::fs::write(directory.path().join("ca.crt"), authority.pem()).unwrap();
    let port = free_port();
    let tls = format!("tls-port {port}");
    let files = ["tls-ca-cert-file ca.crt", "tls-cert-file tls.crt", "tls-key-file tls.key"];
    let lines = [&files[..], &[&tls, "tls-auth-clients no"]].concat();
    let server = Server::start_in(directory, &lines);
    seed(&server, 0..2);
    let ca = authority.pem();
    fixture.pod("redis-0", POD_IP, port);
    let with = |url: &str, ca: &str| {
        let certificates = Certificates { ca: Some(ca.as_bytes().to_vec()), client: None };
        Access { certificates, ..access(url) }
    };
    let dialer = fixture.dialer("forwarder").await;
    soon(evict(with("rediss://redis.shop.svc", &ca), dialer.clone(), 0)).await.unwrap();
    let failure = evict(with("rediss://redis", &ca), dialer.clone(), 1);
    let failure = soon(failure).await.unwrap_err();
    assert_eq!(failure.problem, Problem::Certificate);
    assert!(failure.cause.contains("certificate is valid for redis.shop.svc, not redis"), "{failure}");
    let failure = soon(evict(with("rediss://redis.shop.svc", &Authority::default().pem()), dialer, 1))
        .await
        .unwrap_err();
    assert_eq!(failure.problem, Problem::Certificate);
    assert!(failure.cause.contains("certificate signed by unknown authority"), "{failure}");
}

/// A Sentinel that knows one master.
async fn sentinel(host: &str, port: u16) -> u16 {
    let answer = format!("*2\r\n${}\r\n{host}\r\n${}\r\n{port}\r\n", host.len(), port.to_string().len());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listening = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut question = [0; 1024];
                while stream.read(&mut question).await.is_ok_and(|length| length > 0) {
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    listening
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_that_a_sentinel_or_a_replica_names_is_reached_in_its_pod() {
    if !is_installed() {
        return;
    }
    let fixture = Fixture::start();
    let master = Server::start(&[]);
    seed(&master, 0..4);
    let before = master.dump();
    fixture.pod("redis-0", POD_IP, master.port());
    fixture.service(SERVICE_IP);
    let sentinel = sentinel(POD_IP, 6379).await;
    fixture.sandbox.store().create("pods", pod("sentinel-0", "127.200.0.8", true));
    fixture.map("sentinel-0", 26379, sentinel);
    let url = "redis-sentinel://127.200.0.8/mymaster";
    soon(evict(access(url), fixture.dialer("forwarder").await, 0)).await.unwrap();
    // It never gets through to its master, whose name it tells all the same.
    let replica = Server::start(&["replicaof redis.shop.svc 6379"]);
    fixture.sandbox.store().create("pods", pod("replica-0", "127.200.0.9", true));
    fixture.map("replica-0", 6379, replica.port());
    soon(evict(access("redis://127.200.0.9"), fixture.dialer("forwarder").await, 1)).await.unwrap();
    assert_forgotten(&before, &master.dump(), &[digest(0), digest(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_master_of_a_cluster_is_reached_in_its_pod() {
    if !is_installed() {
        return;
    }
    let fixture = Fixture::start();
    let nodes = Server::start_cluster(3);
    for (n, node) in nodes.iter().enumerate() {
        let name = format!("redis-{n}");
        for setting in [
            format!("cluster-announce-hostname {name}.redis.shop.svc.cluster.local"),
            "cluster-preferred-endpoint-type hostname".to_owned(),
        ] {
            assert_eq!(node.text(&format!("CONFIG SET {setting}")), "+OK");
        }
        fixture.sandbox.store().create("pods", pod(&name, &format!("127.200.0.{}", 20 + n), true));
        for port in [node.port(), 6379] {
            fixture.map(&name, port, node.port());
        }
    }
    fixture.service("None");
    // Each has heard of the names of the others.
    for node in &nodes {
        node.wait_for("CLUSTER SLOTS", "redis-0.");
        node.wait_for("CLUSTER SLOTS", "redis-1.");
        node.wait_for("CLUSTER SLOTS", "redis-2.");
    }
    seed_cluster(&nodes, 0..40);
    let before = dump_all(&nodes);
    let dialer = fixture.dialer("forwarder").await;
    let url = "redis-cluster://redis.shop.svc";
    let cache = SharedCache::connect(access(url), dialer, Layout::default(), silent()).await.unwrap();
    for n in 0..30 {
        soon(cache.evict(doomed(n), SOON)).await.unwrap();
    }
    assert_forgotten(&before, &dump_all(&nodes), &(0..30).map(digest).collect::<Vec<_>>());
    assert!(soon(cache.finish()).await.unwrap().blobs.is_empty());
    drop(cache);
    fixture.whether_open(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_replaced_during_a_prune_is_found_again() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[]);
    seed(&server, 0..10);
    let before = server.dump();
    let fixture = Fixture::start();
    fixture.pod("redis-0", POD_IP, server.port());
    fixture.service(SERVICE_IP);
    let dialer = fixture.dialer("forwarder").await;
    let cache =
        SharedCache::connect(access("redis://redis"), dialer, Layout::default(), silent()).await.unwrap();
    soon(cache.evict(doomed(0), SOON)).await.unwrap();
    // The API server is restarted, then the pod replaced.
    fixture.sandbox.api().forwards().cut();
    soon(cache.evict(doomed(1), SOON)).await.unwrap();
    assert!(fixture.sandbox.store().delete("pods", NAMESPACE, "redis-0"));
    fixture.sandbox.api().forwards().forget(NAMESPACE, "redis-0");
    let failure = cache.evict(doomed(2), Duration::from_millis(1500)).await.unwrap_err();
    assert!(failure.cause.contains("by way of the API server"), "{failure}");
    fixture.pod("redis-1", "127.200.0.8", server.port());
    soon(async {
        while !cache.unconfirmed().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    soon(cache.evict(doomed(3), SOON)).await.unwrap();
    assert_forgotten(&before, &server.dump(), &(0..4).map(digest).collect::<Vec<_>>());
}
