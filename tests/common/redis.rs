//! Real Redis servers for tests: standalone, cluster, Sentinel. Needs `redis-server`.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests: whatever is wrong here fails the test"
)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A server that is not ready by then will never be.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) const PASSWORD: &str = "geheim-9f3c";

/// A Redis that ends with the test.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) port: u16,
    pub(crate) dir: TempDir,
    pub(crate) password: Option<&'static str>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn is_installed() -> bool {
    let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("skipped: redis-server is missing; apt-get install redis-server");
    }
    found
}

pub(crate) fn free_port() -> u16 {
    // A cluster's bus takes the port that is 10000 higher.
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < 55_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}

/// Starts a server with further lines of configuration, and waits until it says that it listens.
pub(crate) fn start(lines: &[&str]) -> Server {
    start_in(tempfile::tempdir().unwrap(), free_port(), lines, &[])
}

pub(crate) fn start_in(dir: TempDir, port: u16, lines: &[&str], args: &[&str]) -> Server {
    let socket = dir.path().join("redis.sock");
    let config = dir.path().join("redis.conf");
    let mut text = vec!["bind 127.0.0.1".to_owned(), "protected-mode no".to_owned()];
    if !lines.contains(&"port 0") {
        text.push(format!("port {port}"));
    }
    if !args.contains(&"--sentinel") {
        text.extend(["save \"\"", "appendonly no"].map(str::to_owned));
        text.push(format!("unixsocket {}", socket.display()));
    }
    text.extend(lines.iter().map(|&line| line.to_owned()));
    std::fs::write(&config, text.join("\n")).unwrap();
    let mut child = Command::new("redis-server")
        .arg(&config)
        .args(args)
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap());
    let mut told = String::new();
    let ready =
        ["Ready to accept connections", "Sentinel ID is", "Loading RDB", "MASTER <-> REPLICA sync started"];
    while !ready.iter().any(|text| told.contains(text)) {
        assert!(log.read_line(&mut told).unwrap() > 0, "redis-server ended:\n{told}");
    }
    // Nobody reads the rest; a full pipe would stop the server.
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    Server { child, port, dir, password: None }
}

impl Server {
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends commands in a pipeline, over the socket, and returns the raw answers.
    pub(crate) fn send(&self, commands: &[Vec<Vec<u8>>]) -> Vec<Vec<u8>> {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut all = Vec::new();
        if let Some(password) = self.password {
            all.push(vec![b"AUTH".to_vec(), password.as_bytes().to_vec()]);
        }
        let skipped = all.len();
        all.extend_from_slice(commands);
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut answers = Vec::new();
        for command in &all {
            let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
            for word in command {
                bytes.extend(format!("${}\r\n", word.len()).into_bytes());
                bytes.extend(word);
                bytes.extend(b"\r\n");
            }
            stream.write_all(&bytes).unwrap();
            answers.push(answer(&mut reader));
        }
        answers.split_off(skipped)
    }

    pub(crate) fn run(&self, line: &str) -> Vec<u8> {
        let words = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        self.send(&[words]).pop().unwrap()
    }

    pub(crate) fn text(&self, line: &str) -> String {
        String::from_utf8_lossy(&self.run(line)).into_owned()
    }

    /// Every key with its bytes; the repositories' sets as sorted members, which Redis keeps in a changing order.
    pub(crate) fn dump(&self) -> BTreeMap<String, Vec<u8>> {
        let keys = self.text("KEYS *");
        let bytes = |key: &str| {
            if key.starts_with("repository::shop/") && key.ends_with("::blobs") {
                let members = self.text(&format!("SMEMBERS {key}"));
                let mut members: Vec<_> = members.lines().collect();
                members.sort_unstable();
                return members.join("\n").into_bytes();
            }
            self.send(&[vec![b"DUMP".to_vec(), key.as_bytes().to_vec()]]).pop().unwrap()
        };
        keys.lines().filter(|key| !key.is_empty()).map(|key| (key.to_owned(), bytes(key))).collect()
    }

    /// [`Server::dump`] for servers that have copied or loaded their data, which keep it in another order.
    pub(crate) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let mut all = self.dump();
        for (key, bytes) in &mut all {
            let (question, size) = match self.text(&format!("TYPE {key}")).as_str() {
                "+hash" => ("HGETALL", 2),
                "+set" => ("SMEMBERS", 1),
                _ => continue,
            };
            let answer = self.text(&format!("{question} {key}"));
            let words: Vec<_> = answer.lines().collect();
            let mut parts: Vec<_> = words.chunks(size).map(|part| part.join(" ")).collect();
            parts.sort_unstable();
            *bytes = parts.join("\n").into_bytes();
        }
        all
    }

    /// Asks until the answer has this text: the server says when it has changed, nobody else does.
    pub(crate) fn wait_for(&self, question: &str, text: &str) {
        let begin = Instant::now();
        loop {
            let answer = self.text(question);
            if answer.contains(text) {
                return;
            }
            assert!(begin.elapsed() < LIMIT, "{question}: no {text} in\n{answer}");
            std::thread::yield_now();
        }
    }
}

/// An answer's payload; the elements of a list in lines.
pub(crate) fn answer(reader: &mut impl std::io::BufRead) -> Vec<u8> {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let line = line.trim_end();
    let (kind, rest) = line.split_at(1);
    match kind {
        "$" => {
            let Ok(length) = rest.parse::<usize>() else { return Vec::new() };
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes).unwrap();
            bytes.truncate(length);
            bytes
        }
        "*" => {
            let mut all = Vec::new();
            for _ in 0..rest.parse::<usize>().unwrap_or_default() {
                all.extend(answer(reader));
                all.push(b'\n');
            }
            all
        }
        _ => line.as_bytes().to_vec(),
    }
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

/// Three masters, all slots, no replicas.
pub(crate) fn cluster() -> Vec<Server> {
    cluster_with(|_| Vec::new())
}

/// [`cluster`] with further lines in the configuration of each.
pub(crate) fn cluster_with(further: impl Fn(usize) -> Vec<String>) -> Vec<Server> {
    let nodes: Vec<_> = (0..3)
        .map(|n| {
            let mut lines =
                vec!["cluster-enabled yes", "cluster-require-full-coverage yes", "cluster-node-timeout 5000"];
            let further = further(n);
            lines.extend(further.iter().map(String::as_str));
            start(&lines)
        })
        .collect();
    for (n, node) in nodes.iter().enumerate() {
        let (first, last) = (n * 16384 / 3, (n + 1) * 16384 / 3 - 1);
        assert_eq!(node.text(&format!("CLUSTER ADDSLOTSRANGE {first} {last}")), "+OK");
        assert_eq!(node.text(&format!("CLUSTER SET-CONFIG-EPOCH {}", n + 1)), "+OK");
    }
    for node in &nodes[1..] {
        assert_eq!(nodes[0].text(&format!("CLUSTER MEET 127.0.0.1 {}", node.port)), "+OK");
    }
    for node in &nodes {
        node.wait_for("CLUSTER INFO", "cluster_known_nodes:3");
        node.wait_for("CLUSTER INFO", "cluster_state:ok");
    }
    nodes
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
