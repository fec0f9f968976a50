//! Real Redis servers for the tests: standalone, with TLS, replicas, Sentinels, clusters.
//!
//! ```no_run
//! use sandbox::redis::Server;
//!
//! let server = Server::start(&["requirepass secret"]).with_password("secret");
//! assert_eq!(server.text("SET key value"), "+OK");
//! assert_eq!(server.text("GET key"), "value");
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::tls::Authority;

/// What has not happened by then will never happen.
const LIMIT: Duration = Duration::from_secs(30);

/// Somebody else may take the free port between our asking for one and the server's listening on it.
const ATTEMPTS: usize = 3;

/// What a server logs once it answers. One that loads, or waits for its master, answers as well.
const READY: [&str; 4] =
    ["Ready to accept connections", "Sentinel ID is", "Loading RDB", "MASTER <-> REPLICA sync started"];

/// A `redis-server` process on a port of 127.0.0.1 and a socket. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    process: Option<Child>,
    port: u16,
    directory: TempDir,
    arguments: Vec<String>,
    password: Option<String>,
}

impl Server {
    /// Whether `redis-server` is installed (Debian package `redis-server`).
    #[must_use]
    pub fn installed() -> bool {
        Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok()
    }

    /// Starts a server with further lines of configuration, and waits until it says that it listens.
    ///
    /// # Panics
    /// As all that starts a server: if `redis-server` is missing or ends.
    #[must_use]
    pub fn start(lines: &[&str]) -> Self {
        Self::start_in(temporary(), lines)
    }

    /// Starts a server in a directory, say with the `dump.rdb` that it is to load.
    #[must_use]
    pub fn start_in(directory: TempDir, lines: &[&str]) -> Self {
        let mut text: Vec<String> =
            ["bind 127.0.0.1", "protected-mode no", "save \"\"", "appendonly no"].map(str::to_owned).into();
        text.push(format!("unixsocket {}", directory.path().join("redis.sock").display()));
        text.extend(lines.iter().map(|&line| line.to_owned()));
        Self::spawn(directory, &text, "port", &[])
    }

    /// Starts a server that speaks nothing but TLS, with a certificate of this authority for `localhost` and
    /// `127.0.0.1`. It wants one from its clients unless a line says `tls-auth-clients no`.
    #[must_use]
    pub fn start_tls(authority: &Authority, lines: &[&str]) -> Self {
        let directory = temporary();
        let identity = authority.server_identity(&["localhost", "127.0.0.1"]);
        let ca = authority.pem();
        for (name, text) in
            [("ca.crt", &ca), ("tls.crt", &identity.certificate_pem), ("tls.key", &identity.key_pem)]
        {
            fs::write(directory.path().join(name), text).expect("write a certificate");
        }
        let mut text: Vec<String> =
            ["bind 127.0.0.1", "port 0", "save \"\"", "appendonly no"].map(str::to_owned).into();
        text.push(format!("unixsocket {}", directory.path().join("redis.sock").display()));
        let files = ["tls-ca-cert-file ca.crt", "tls-cert-file tls.crt", "tls-key-file tls.key"];
        text.extend(files.iter().chain(lines).map(|&line| line.to_owned()));
        Self::spawn(directory, &text, "tls-port", &[])
    }

    /// Starts a replica of this server, which has no password, and waits until it follows.
    #[must_use]
    pub fn start_replica(&self, lines: &[&str]) -> Self {
        let of = format!("replicaof 127.0.0.1 {}", self.port);
        let replica = Self::start(&[lines, &[&of]].concat());
        replica.wait_for("INFO replication", "master_link_status:up");
        replica
    }

    /// Starts a Sentinel that knows this server as the master `name`.
    #[must_use]
    pub fn start_sentinel(&self, name: &str) -> Self {
        let directory = temporary();
        let mut text = vec![
            "bind 127.0.0.1".to_owned(),
            "protected-mode no".to_owned(),
            format!("unixsocket {}", directory.path().join("redis.sock").display()),
            format!("sentinel monitor {name} 127.0.0.1 {} 1", self.port),
        ];
        if let Some(password) = &self.password {
            text.push(format!("sentinel auth-pass {name} {password}"));
        }
        Self::spawn(directory, &text, "port", &["--sentinel"])
    }

    /// Starts the masters of a cluster, which share all slots and have no replicas.
    #[must_use]
    pub fn start_cluster(masters: usize) -> Vec<Self> {
        let lines = ["cluster-enabled yes", "cluster-require-full-coverage yes", "cluster-node-timeout 5000"];
        let nodes: Vec<Self> = (0..masters).map(|_| Self::start(&lines)).collect();
        for (n, node) in nodes.iter().enumerate() {
            let (first, last) = (n * 16384 / masters, (n + 1) * 16384 / masters - 1);
            assert_eq!(node.text(&format!("CLUSTER ADDSLOTSRANGE {first} {last}")), "+OK");
            assert_eq!(node.text(&format!("CLUSTER SET-CONFIG-EPOCH {}", n + 1)), "+OK");
        }
        for node in nodes.iter().skip(1) {
            assert_eq!(nodes[0].text(&format!("CLUSTER MEET 127.0.0.1 {}", node.port)), "+OK");
        }
        for node in &nodes {
            node.wait_for("CLUSTER INFO", &format!("cluster_known_nodes:{masters}"));
            node.wait_for("CLUSTER INFO", "cluster_state:ok");
        }
        nodes
    }

    fn spawn(directory: TempDir, lines: &[String], port_key: &str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut server = Self { process: None, port: 0, directory, arguments, password: None };
        for attempt in 1.. {
            server.port = free_port();
            let text = format!("{}\n{port_key} {}\n", lines.join("\n"), server.port);
            fs::write(server.directory.path().join("redis.conf"), text).expect("write redis.conf");
            match server.run_process() {
                Ok(()) => break,
                Err(log) => assert!(attempt < ATTEMPTS, "redis-server ended:\n{log}"),
            }
        }
        server
    }

    /// Runs the process until it listens; the error is its log.
    fn run_process(&mut self) -> Result<(), String> {
        let mut child = Command::new("redis-server")
            .arg(self.directory.path().join("redis.conf"))
            .args(&self.arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("run redis-server");
        let mut log = BufReader::new(child.stdout.take().expect("its output"));
        self.process = Some(child);
        let mut told = String::new();
        while !READY.iter().any(|text| told.contains(text)) {
            if log.read_line(&mut told).expect("text") == 0 {
                self.stop();
                return Err(told);
            }
        }
        // Nobody reads the rest; a full pipe would stop the server.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Ok(())
    }

    /// Kills the server; what it held is lost.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may be gone already, which is what is wanted.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts a server that was stopped, empty, on its old port.
    ///
    /// # Panics
    /// If somebody else has the port.
    pub fn start_again(&mut self) {
        self.stop();
        self.run_process().unwrap_or_else(|log| panic!("redis-server ended:\n{log}"));
    }

    /// The password with which the other functions log in.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its URL, without TLS and password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Its directory, where a `SAVE` leaves `dump.rdb`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Sends commands, each a list of words, over the socket, and returns the payloads of the answers: bytes of strings, lists in
    /// lines, and anything else as it comes, `+OK`, `:1`, `-ERR …`. Nil is empty.
    ///
    /// # Panics
    /// If the server is gone.
    #[must_use]
    pub fn send(&self, commands: &[Vec<Vec<u8>>]) -> Vec<Vec<u8>> {
        let mut stream = UnixStream::connect(self.socket()).expect("the socket of redis-server");
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let mut all = Vec::new();
        if let Some(password) = &self.password {
            all.push(vec![b"AUTH".to_vec(), password.as_bytes().to_vec()]);
        }
        let skipped = all.len();
        all.extend_from_slice(commands);
        let mut reader = BufReader::new(stream.try_clone().expect("the socket"));
        let mut answers = Vec::new();
        for command in &all {
            let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
            for word in command {
                bytes.extend(format!("${}\r\n", word.len()).into_bytes());
                bytes.extend(word);
                bytes.extend(b"\r\n");
            }
            stream.write_all(&bytes).expect("send to redis-server");
            answers.push(answer(&mut reader));
        }
        answers.split_off(skipped)
    }

    /// Sends one command, its words separated by spaces, and returns the payload of the answer.
    #[must_use]
    pub fn run(&self, line: &str) -> Vec<u8> {
        self.send(&[words(line)]).pop().unwrap_or_default()
    }

    /// As [`run`](Self::run), as text.
    #[must_use]
    pub fn text(&self, line: &str) -> String {
        String::from_utf8_lossy(&self.run(line)).into_owned()
    }

    /// Sends commands to one database, the words of each separated by spaces; the answers as [`send`](Self::send) has
    /// them.
    #[must_use]
    pub fn send_lines(&self, database: usize, lines: &[String]) -> Vec<Vec<u8>> {
        let select = format!("SELECT {database}");
        let all = std::iter::once(select.as_str()).chain(lines.iter().map(String::as_str));
        let mut answers = self.send(&all.map(words).collect::<Vec<_>>());
        assert_eq!(answers.remove(0), b"+OK", "{select}");
        answers
    }

    /// Every key of database 0 with its bytes: see [`dump_of`](Self::dump_of).
    #[must_use]
    pub fn dump(&self) -> BTreeMap<String, Vec<u8>> {
        self.dump_of(0)
    }

    /// Every key of a database with its bytes: sets as their members, sorted, in lines, since a Redis keeps them in a
    /// changing order, and all else as `DUMP` has it.
    #[must_use]
    pub fn dump_of(&self, database: usize) -> BTreeMap<String, Vec<u8>> {
        let ask = |lines: &[String]| self.send_lines(database, lines);
        let keys = ask(&["KEYS *".to_owned()]).concat();
        let keys: Vec<_> = String::from_utf8_lossy(&keys).lines().map(str::to_owned).collect();
        let types = ask(&keys.iter().map(|key| format!("TYPE {key}")).collect::<Vec<_>>());
        let is_set: Vec<_> = types.iter().map(|kind| kind == b"+set").collect();
        let question = |(key, is_set): (&String, &bool)| {
            if *is_set { format!("SMEMBERS {key}") } else { format!("DUMP {key}") }
        };
        let mut values = ask(&keys.iter().zip(&is_set).map(question).collect::<Vec<_>>());
        for (value, _) in values.iter_mut().zip(&is_set).filter(|(_, is_set)| **is_set) {
            let members = String::from_utf8_lossy(value).into_owned();
            let mut members: Vec<_> = members.lines().collect();
            members.sort_unstable();
            *value = members.join("\n").into_bytes();
        }
        keys.into_iter().zip(values).collect()
    }

    /// The names of all keys of database 0.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> =
            self.text("KEYS *").lines().filter(|key| !key.is_empty()).map(str::to_owned).collect();
        keys.sort_unstable();
        keys
    }

    /// Asks until the answer has this text: the server says when it has changed, nobody else does.
    ///
    /// # Panics
    /// If that takes longer than 30 seconds.
    pub fn wait_for(&self, question: &str, text: &str) {
        self.wait_until(question, text, |answer| answer.contains(text));
    }

    /// Waits until this Sentinel knows a replica that can take over from the master `name`.
    ///
    /// # Panics
    /// If that takes longer than 30 seconds.
    pub fn wait_for_replica(&self, name: &str) {
        self.wait_until(&format!("SENTINEL REPLICAS {name}"), "replica", |answer| {
            answer.contains("slave") && !answer.contains("disconnected")
        });
    }

    fn wait_until(&self, question: &str, wanted: &str, is_met: impl Fn(&str) -> bool) {
        let begin = Instant::now();
        loop {
            let answer = self.text(question);
            if is_met(&answer) {
                return;
            }
            assert!(begin.elapsed() < LIMIT, "{question}: no {wanted} in\n{answer}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A port of 127.0.0.1 that is free.
#[must_use]
pub fn free_port() -> u16 {
    // A cluster's bus takes the port that is 10000 higher.
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen on 127.0.0.1");
        let port = listener.local_addr().expect("the listener's address").port();
        if port < 55_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            return port;
        }
    }
}

/// An answer's payload; the elements of a list in lines.
fn answer(reader: &mut impl BufRead) -> Vec<u8> {
    let mut line = String::new();
    reader.read_line(&mut line).expect("an answer of redis-server");
    let line = line.trim_end();
    match line.split_at_checked(1) {
        Some(("$", length)) => {
            let Ok(length) = length.parse::<usize>() else { return Vec::new() };
            let mut bytes = vec![0; length + 2];
            reader.read_exact(&mut bytes).expect("the rest of an answer");
            bytes.truncate(length);
            bytes
        }
        Some(("*", length)) => {
            let mut all = Vec::new();
            for _ in 0..length.parse::<usize>().unwrap_or_default() {
                all.extend(answer(reader));
                all.push(b'\n');
            }
            all
        }
        _ => line.as_bytes().to_vec(),
    }
}
