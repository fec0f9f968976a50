//! What a registry keeps in Redis, for tests with real servers; how they get at it, and what has to be left of it.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests: whatever is wrong here fails the test"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use oc_prune_images::cache::redis::{Access, Certificates, Doomed, Event, RedisAddress, Tell};
use sandbox::redis::Server;

/// For what has to happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Fails instead of waiting for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it takes too long")
}

pub(crate) fn access(url: &str) -> Access {
    Access {
        address: RedisAddress::parse(url).unwrap(),
        certificates: Certificates::default(),
        patience: SOON,
    }
}

pub(crate) fn silent() -> Tell {
    Arc::new(|_: &Event| ())
}

/// A blob that both repositories had.
pub(crate) fn doomed(n: usize) -> Doomed {
    let mut doomed = Doomed::default();
    doomed.blob(&digest(n));
    for repository in ["shop/web", "shop/api"] {
        doomed.link(repository, &digest(n));
    }
    doomed
}

pub(crate) fn is_installed() -> bool {
    let found = Server::installed();
    if !found {
        eprintln!("skipped: redis-server is missing; apt-get install redis-server");
    }
    found
}

pub(crate) fn digest(n: usize) -> String {
    format!("sha256:{n:064x}")
}

/// What a registry writes for blobs that two repositories have, and keys of others.
pub(crate) fn seeds(blobs: std::ops::Range<usize>) -> Vec<String> {
    let mut lines = Vec::new();
    for n in blobs {
        let digest = digest(n);
        lines.push(format!(
            "HSET blobs::{digest} digest {digest} size {n} mediatype application/octet-stream"
        ));
        for repository in ["shop/web", "shop/api"] {
            lines.push(format!("SADD repository::{repository}::blobs {digest}"));
            lines.push(format!(
                "HSET repository::{repository}::blobs::{digest} mediatype application/octet-stream"
            ));
        }
    }
    lines
}

pub(crate) const FOREIGN: [&str; 6] = [
    "SET session:1 blobs",
    "SET blobs::photos 1",
    "HSET repository::A::blobs x y",
    "SET myblobs::sha256:00 1",
    "SADD upload:blobs a b c",
    "ZADD scores 1 repository::a/b::blobs",
];

pub(crate) fn seed(server: &Server, blobs: std::ops::Range<usize>) {
    let lines = seeds(blobs).into_iter().chain(FOREIGN.map(str::to_owned));
    let commands: Vec<_> =
        lines.map(|line| line.split(' ').map(|word| word.as_bytes().to_vec()).collect()).collect();
    for answer in server.send(&commands) {
        assert!(!answer.starts_with(b"-"), "{}", String::from_utf8_lossy(&answer));
    }
}

/// Asserts that the doomed blobs are forgotten, and that everything else is byte for byte as it was.
#[track_caller]
pub(crate) fn assert_forgotten(
    before: &BTreeMap<String, Vec<u8>>,
    after: &BTreeMap<String, Vec<u8>>,
    doomed: &[String],
) {
    for (key, bytes) in before {
        let is_doomed = doomed.iter().any(|digest| key.contains(digest.as_str()));
        let is_set = key == "repository::shop/web::blobs" || key == "repository::shop/api::blobs";
        match after.get(key) {
            None => assert!(is_doomed, "{key} is lost"),
            Some(_) if is_doomed => panic!("{key} is still there"),
            Some(now) if is_set => {
                let kept = |bytes: &[u8]| -> Vec<String> {
                    let members = String::from_utf8_lossy(bytes);
                    members
                        .lines()
                        .filter(|line| !doomed.iter().any(|digest| digest == line))
                        .map(str::to_owned)
                        .collect()
                };
                assert_eq!(kept(now), kept(bytes), "{key} has lost members");
            }
            Some(now) => assert_eq!(now, bytes, "{key} has changed"),
        }
    }
    assert!(after.keys().all(|key| before.contains_key(key)), "keys came");
}

/// Passes bytes on, and cuts the first connections after some of them.
pub(crate) fn cutting_proxy(to: u16, cuts: usize, after: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (n, client) in listener.incoming().map_while(Result::ok).enumerate() {
            let mut server = TcpStream::connect(("127.0.0.1", to)).unwrap();
            let (mut back, mut client_back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back, &mut client_back));
            std::thread::spawn(move || {
                let limit = if n < cuts { after as u64 } else { u64::MAX };
                let _ = std::io::copy(&mut client.try_clone().unwrap().take(limit), &mut server);
                let _ = client.shutdown(std::net::Shutdown::Both);
                let _ = server.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    port
}

/// Writes every key to the node that has its slot.
pub(crate) fn seed_cluster(nodes: &[Server], blobs: std::ops::Range<usize>) {
    for line in seeds(blobs).into_iter().chain(FOREIGN.map(str::to_owned)) {
        let told = nodes.iter().filter(|node| !node.text(&line).starts_with("-MOVED")).count();
        assert_eq!(told, 1, "{line}");
    }
}

pub(crate) fn dump_all(nodes: &[Server]) -> BTreeMap<String, Vec<u8>> {
    nodes.iter().flat_map(Server::dump).collect()
}

/// [`Server::dump`] for servers that have copied or loaded their data, which keep it in another order.
pub(crate) fn contents(server: &Server) -> BTreeMap<String, Vec<u8>> {
    let mut all = server.dump();
    for (key, bytes) in &mut all {
        if server.text(&format!("TYPE {key}")) == "+hash" {
            let answer = server.text(&format!("HGETALL {key}"));
            let words: Vec<_> = answer.lines().collect();
            let mut fields: Vec<_> = words.chunks(2).map(|field| field.join(" ")).collect();
            fields.sort_unstable();
            *bytes = fields.join("\n").into_bytes();
        }
    }
    all
}
