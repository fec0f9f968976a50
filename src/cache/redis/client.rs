//! Speaks with the Redis of a registry's cache: finds the master, evicts in pipelined batches, scans.
//!
//! Every eviction may be done twice, so whatever the connection does meanwhile, a batch is repeated until each of its
//! commands has an answer, or until nothing has moved for as long as the user has patience.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, IntoConnectionInfo as _,
    ProtocolVersion, RedisConnectionInfo, RedisError, TlsCertificates, TlsMode, Value,
};
use secrecy::ExposeSecret as _;

use super::address::{Access, Protocol, Topology, host_text};
use super::keys::{Doomed, Eviction, Layout};
use super::problem::{Problem, RedisFailure};

/// How many commands are under way at once. They are sent without waiting for each other's answers.
const BATCH: usize = 512;

/// How many keys a server looks at for one answer of a scan.
const SCAN: usize = 1000;

/// The pauses between attempts, doubled from the first to the last.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];

/// A replica of a replica of a replica is none that anybody runs.
const LONGEST_CHAIN: usize = 4;

/// How often a scan begins anew because the masters have changed meanwhile.
const SCANS: usize = 3;

/// What was removed, or in a dry run would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Whole keys.
    pub keys: u64,
    /// Members of sets that hold others.
    pub members: u64,
    /// How many keys a scan has looked at.
    pub scanned: u64,
}

impl std::ops::AddAssign for Evicted {
    fn add_assign(&mut self, other: Self) {
        self.keys += other.keys;
        self.members += other.members;
        self.scanned += other.scanned;
    }
}

/// Which of the keys that a scan finds are evicted.
#[derive(Debug, Clone, Copy)]
pub enum Selection<'a> {
    /// Every key of the cache.
    All,
    /// What any repository has of these blobs.
    RepositoriesOf(&'a Doomed),
}

/// What happens on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A server is a replica: what it names is used instead.
    Followed {
        /// The replica.
        replica: String,
        /// Its master.
        master: String,
    },
    /// A scan goes on; so much is done.
    Scanned(Evicted),
}

/// Tells what happens on the way.
pub type Tell = Arc<dyn Fn(&Event) + Send + Sync>;

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Tcp(String, u16),
    Unix(std::path::PathBuf),
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) => f.write_str(&host_text(host, *port)),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[derive(Clone)]
enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    async fn send(&self, command: &Cmd) -> Result<Value, RedisError> {
        let answer = match self.clone() {
            Self::Single(mut connection) => connection.req_packed_command(command).await,
            Self::Cluster(mut connection) => connection.req_packed_command(command).await,
        };
        answer.and_then(Value::extract_error)
    }
}

/// A connection to the Redis of a cache.
pub struct Redis {
    access: Access,
    tell: Tell,
    connection: Connection,
    /// The master, where there is one.
    node: Option<Node>,
    has_unlink: bool,
    dry_run: bool,
}

impl Redis {
    /// Connects, logs in and finds the master.
    ///
    /// # Errors
    /// Each kind of mistake has a [`Problem`] of its own. Only a server that is still loading is waited for.
    pub async fn connect(access: Access, dry_run: bool, tell: Tell) -> Result<Self, RedisFailure> {
        let mut retry = Retry::new(access.patience);
        let (connection, node) = loop {
            match establish(&access, &tell).await {
                Ok(connected) => break connected,
                Err(failure) if failure.problem.passes() => retry.pause(failure).await?,
                Err(failure) => return Err(failure),
            }
        };
        Ok(Self { access, tell, connection, node, has_unlink: true, dry_run })
    }

    /// Evicts, in bounded batches; in a dry run, counts what is there.
    ///
    /// # Errors
    /// Nothing moved for as long as there is patience, or something is not allowed. What was evicted stays evicted.
    pub async fn evict(&mut self, evictions: &[Eviction], done: &mut Evicted) -> Result<(), RedisFailure> {
        let mut commands = Vec::with_capacity(BATCH.min(evictions.len()));
        for eviction in evictions {
            match eviction {
                Eviction::Key(key) => commands.push(Command::Remove(key)),
                Eviction::Members { set, digests } if self.dry_run => {
                    commands.extend(digests.iter().map(|digest| Command::IsMember(set, digest)));
                }
                Eviction::Members { set, digests } => commands.push(Command::RemoveMembers(set, digests)),
            }
        }
        for batch in commands.chunks(BATCH) {
            self.batch(batch, done).await?;
        }
        Ok(())
    }

    /// Repeats a batch until each of its commands has an answer.
    async fn batch(&mut self, commands: &[Command<'_>], done: &mut Evicted) -> Result<(), RedisFailure> {
        let step = if self.dry_run { "look at keys" } else { "evict keys" };
        let mut pending: Vec<_> = commands.iter().collect();
        let mut retry = Retry::new(self.access.patience);
        loop {
            let encoded: Vec<_> =
                pending.iter().map(|command| command.encode(self.dry_run, self.has_unlink)).collect();
            let connection = &self.connection;
            let answers = join_all(encoded.iter().map(|command| connection.send(command))).await;
            let before = pending.len();
            let mut left = Vec::new();
            let mut failure: Option<RedisFailure> = None;
            for (command, answer) in pending.into_iter().zip(answers) {
                match answer {
                    Ok(answer) => command.count(&answer, done),
                    Err(error) => {
                        left.push(command);
                        failure.get_or_insert_with(|| RedisFailure::of(step, &error));
                    }
                }
            }
            let Some(failure) = failure else { return Ok(()) };
            if left.len() < before {
                retry = Retry::new(self.access.patience);
            }
            pending = left;
            let unlink_is_refused =
                matches!(failure.problem, Problem::UnknownCommand | Problem::NotAllowed) && !self.dry_run;
            if unlink_is_refused && self.has_unlink && pending.iter().any(|command| command.is_removal()) {
                self.has_unlink = false;
                continue;
            }
            self.recover(failure, &mut retry).await?;
        }
    }

    /// Asks one question, again where a new connection or some patience helps.
    async fn ask(&mut self, step: &str, command: &Cmd) -> Result<Value, RedisFailure> {
        let mut retry = Retry::new(self.access.patience);
        loop {
            match self.connection.send(command).await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.recover(RedisFailure::of(step, &error), &mut retry).await?,
            }
        }
    }

    /// Waits, connects anew or finds the master; gives the failure back if none of it helps.
    async fn recover(&mut self, failure: RedisFailure, retry: &mut Retry) -> Result<(), RedisFailure> {
        let problem = failure.problem;
        if !problem.passes() && !problem.is_lost_connection() && problem != Problem::ReadOnly {
            return Err(failure);
        }
        retry.pause(failure).await?;
        if problem.passes() {
            return Ok(());
        }
        loop {
            match establish(&self.access, &self.tell).await {
                Ok((connection, node)) => {
                    self.connection = connection;
                    self.node = node;
                    return Ok(());
                }
                Err(failure) if failure.problem.passes() || failure.problem.is_lost_connection() => {
                    retry.pause(failure).await?;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Evicts what a scan of every master finds; other keys are not touched.
    ///
    /// # Errors
    /// As [`Redis::evict`].
    pub async fn scan(
        &mut self,
        layout: &Layout,
        selection: Selection<'_>,
        done: &mut Evicted,
    ) -> Result<(), RedisFailure> {
        for _ in 0..SCANS {
            let masters = self.masters().await?;
            match &masters {
                Some(nodes) => {
                    for node in nodes {
                        self.scan_node(Some(node), layout, selection, done).await?;
                    }
                }
                None => self.scan_node(None, layout, selection, done).await?,
            }
            // Keys that were on their way from one node to another, and those of a master that took over, may have
            // been overlooked.
            if self.dry_run || self.masters().await? == masters {
                return Ok(());
            }
        }
        Err(RedisFailure::new(Problem::Down, "scan for keys", "the cluster's masters change all the time"))
    }

    async fn scan_node(
        &mut self,
        node: Option<&Node>,
        layout: &Layout,
        selection: Selection<'_>,
        done: &mut Evicted,
    ) -> Result<(), RedisFailure> {
        const STEP: &str = "scan for keys";
        let pattern = layout.pattern();
        // A master of a cluster is asked for its own keys; evictions find their way through the cluster's connection.
        let mut scanner = match node {
            Some(node) => {
                let Access { patience, .. } = self.access;
                let connection = login(&self.access, node, Purpose::Data).await?;
                Some((node, connection, Retry::new(patience)))
            }
            None => None,
        };
        let mut server = self.node.clone();
        let mut cursor = "0".to_owned();
        loop {
            let mut command = redis::cmd("SCAN");
            command.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN);
            let page = match &mut scanner {
                None => self.ask(STEP, &command).await?,
                Some((node, connection, retry)) => {
                    match Connection::Single(connection.clone()).send(&command).await {
                        Ok(page) => {
                            *retry = Retry::new(self.access.patience);
                            page
                        }
                        Err(error) => {
                            let failure = RedisFailure::of(format!("{STEP} of {node}"), &error);
                            if !failure.problem.passes() && !failure.problem.is_lost_connection() {
                                return Err(failure);
                            }
                            retry.pause(failure).await?;
                            if let Ok(anew) = login(&self.access, node, Purpose::Data).await {
                                *connection = anew;
                            }
                            continue;
                        }
                    }
                }
            };
            let (next, keys) = redis::from_redis_value::<(String, Vec<Vec<u8>>)>(page).map_err(|error| {
                RedisFailure::new(Problem::NotRedis, STEP, crate::text::brief(&error.to_string()))
            })?;
            done.scanned += keys.len() as u64;
            let mut evictions = Vec::new();
            for key in &keys {
                // Keys of the layout are ASCII: what is no text is foreign.
                let Ok(key) = std::str::from_utf8(key) else { continue };
                let Some(entry) = layout.entry(key) else { continue };
                match selection {
                    Selection::All => evictions.push(Eviction::Key(key.to_owned())),
                    Selection::RepositoriesOf(doomed) => {
                        evictions.extend(layout.evictions_of_found(entry, doomed));
                    }
                }
            }
            self.evict(&evictions, done).await?;
            (self.tell)(&Event::Scanned(*done));
            if node.is_none() && self.node != server {
                // Another master: its cursors are others, too.
                server.clone_from(&self.node);
                "0".clone_into(&mut cursor);
                continue;
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// The masters of a cluster, sorted; `None` where there is only one.
    async fn masters(&mut self) -> Result<Option<Vec<Node>>, RedisFailure> {
        let Topology::Cluster(seeds) = &self.access.address.topology else { return Ok(None) };
        let mut failure = None;
        for (host, port) in seeds {
            match masters_of(&self.access, host, *port).await {
                Ok(masters) => return Ok(Some(masters)),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure
            .unwrap_or_else(|| RedisFailure::new(Problem::Other, "list the masters", "no node is known")))
    }
}

/// One command of a batch.
#[derive(Debug, Clone, Copy)]
enum Command<'a> {
    Remove(&'a str),
    RemoveMembers(&'a str, &'a [String]),
    IsMember(&'a str, &'a str),
}

impl Command<'_> {
    fn encode(self, dry_run: bool, has_unlink: bool) -> Cmd {
        let mut command;
        match self {
            Self::Remove(key) => {
                command = redis::cmd(match (dry_run, has_unlink) {
                    (true, _) => "EXISTS",
                    (false, true) => "UNLINK",
                    (false, false) => "DEL",
                });
                command.arg(key);
            }
            Self::RemoveMembers(set, digests) => {
                command = redis::cmd("SREM");
                command.arg(set).arg(digests);
            }
            Self::IsMember(set, digest) => {
                command = redis::cmd("SISMEMBER");
                command.arg(set).arg(digest);
            }
        }
        command
    }

    fn is_removal(self) -> bool {
        matches!(self, Self::Remove(_))
    }

    fn count(self, answer: &Value, done: &mut Evicted) {
        let number = match answer {
            Value::Int(number) => u64::try_from(*number).unwrap_or_default(),
            Value::Boolean(true) => 1,
            _ => 0,
        };
        match self {
            Self::Remove(_) => done.keys += number,
            Self::RemoveMembers(..) | Self::IsMember(..) => done.members += number,
        }
    }
}

/// The pauses between attempts, and when to give up.
struct Retry {
    until: Instant,
    next: Duration,
}

impl Retry {
    fn new(patience: Duration) -> Self {
        Self { until: Instant::now() + patience, next: PAUSES[0] }
    }

    /// Waits before the next attempt; gives the failure back once the patience is over.
    async fn pause(&mut self, failure: RedisFailure) -> Result<(), RedisFailure> {
        if Instant::now() + self.next >= self.until {
            return Err(failure);
        }
        tracing::info!("{failure}; trying again");
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(PAUSES[1]);
        Ok(())
    }
}

/// Whose password, database and protocol a connection takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Data,
    /// A Sentinel has neither databases nor, mostly, a password.
    Sentinel,
}

async fn establish(access: &Access, tell: &Tell) -> Result<(Connection, Option<Node>), RedisFailure> {
    match &access.address.topology {
        Topology::Unix(path) => follow(access, Node::Unix(path.clone()), tell).await,
        Topology::Single { host, port } => follow(access, Node::Tcp(host.clone(), *port), tell).await,
        Topology::Sentinel { sentinels, master } => {
            let node = ask_sentinels(access, sentinels, master).await?;
            let connection = login(access, &node, Purpose::Data).await?;
            // A Sentinel that has not noticed a failover yet names the old master.
            if let Some(newer) = master_of(&connection).await {
                let cause = format!("it is a replica of {newer} by now");
                return Err(RedisFailure::new(Problem::Down, format!("use the master {node}"), cause));
            }
            Ok((Connection::Single(connection), Some(node)))
        }
        Topology::Cluster(seeds) => {
            let connection = connect_cluster(access, seeds).await?;
            Ok((Connection::Cluster(connection), None))
        }
    }
}

/// Connects to a server or, if it is a replica, to its master.
async fn follow(
    access: &Access,
    mut node: Node,
    tell: &Tell,
) -> Result<(Connection, Option<Node>), RedisFailure> {
    for _ in 0..LONGEST_CHAIN {
        let connection = login(access, &node, Purpose::Data).await?;
        match master_of(&connection).await {
            None => return Ok((Connection::Single(connection), Some(node))),
            Some(master) => {
                tell(&Event::Followed { replica: node.to_string(), master: master.to_string() });
                node = master;
            }
        }
    }
    Err(RedisFailure::new(
        Problem::ReadOnly,
        format!("find the master of {node}"),
        "each is a replica of another one",
    ))
}

/// The master that a replica follows. A server that does not tell is taken for a master: the first change shows.
async fn master_of(connection: &MultiplexedConnection) -> Option<Node> {
    let connection = Connection::Single(connection.clone());
    if let Ok(role) = connection.send(&redis::cmd("ROLE")).await {
        let Value::Array(parts) = role else { return None };
        let [role, host, port, ..] = parts.as_slice() else { return None };
        let text = |value: &Value| redis::from_redis_value_ref::<String>(value).ok();
        if text(role)? != "slave" {
            return None;
        }
        return Some(Node::Tcp(text(host)?, redis::from_redis_value_ref(port).ok()?));
    }
    let info = connection.send(redis::cmd("INFO").arg("replication")).await.ok()?;
    let info: String = redis::from_redis_value(info).ok()?;
    let field =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if field("role")? != "slave" {
        return None;
    }
    Some(Node::Tcp(field("master_host")?.to_owned(), field("master_port")?.parse().ok()?))
}

async fn ask_sentinels(
    access: &Access,
    sentinels: &[(String, u16)],
    master: &str,
) -> Result<Node, RedisFailure> {
    let mut unknown = None;
    let mut failure = None;
    for (host, port) in sentinels {
        let node = Node::Tcp(host.clone(), *port);
        match ask_sentinel(access, &node, master).await {
            Ok(Some(master)) => return Ok(master),
            Ok(None) => unknown = Some(node),
            Err(error) => failure = Some(error),
        }
    }
    let step = format!("find the master {master}");
    match (unknown, failure) {
        (Some(node), _) => Err(RedisFailure::new(
            Problem::NoMaster,
            step,
            format!("the Sentinel {node} knows no master by this name"),
        )),
        (None, Some(failure)) => Err(failure),
        (None, None) => Err(RedisFailure::new(Problem::NoMaster, step, "there are no Sentinels")),
    }
}

async fn ask_sentinel(access: &Access, node: &Node, master: &str) -> Result<Option<Node>, RedisFailure> {
    let step = format!("ask the Sentinel {node}");
    let connection = login(access, node, Purpose::Sentinel).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    let connection = Connection::Single(connection);
    let answer = match connection.send(&question).await {
        Err(error) if error.code() == Some("NOAUTH") => {
            authenticate(access, &connection, &step).await?;
            connection.send(&question).await
        }
        answer => answer,
    };
    let answer = answer.map_err(|error| RedisFailure::of(&step, &error))?;
    let address: Option<(String, u16)> = redis::from_redis_value(answer).map_err(|error| {
        RedisFailure::new(Problem::NotRedis, step, crate::text::brief(&error.to_string()))
    })?;
    Ok(address.map(|(host, port)| Node::Tcp(host, port)))
}

/// Connects to one server and logs in there.
///
/// The library would do both, but tells every refusal as the same "authentication failed".
async fn login(
    access: &Access,
    node: &Node,
    purpose: Purpose,
) -> Result<MultiplexedConnection, RedisFailure> {
    let address = &access.address;
    let step = format!("connect to {node}");
    let failed = |error: &RedisError| RedisFailure::of(&step, error);
    let with_password = address.password.is_some() && purpose == Purpose::Data;
    let plain = RedisConnectionInfo::default().set_skip_set_lib_name();
    let connection = open(access, node, plain.clone()).await.map_err(|error| failed(&error))?;
    let session = Connection::Single(connection.clone());
    if with_password {
        authenticate(access, &session, &step).await?;
    }
    if purpose == Purpose::Sentinel {
        return Ok(connection);
    }
    // Says LOADING, NOAUTH and MOVED's kin before anything depends on it; what an ACL says about PING does not count.
    match session.send(&redis::cmd("PING")).await.map_err(|error| failed(&error)) {
        Err(failure) if failure.problem != Problem::NotAllowed => return Err(failure),
        _ => {}
    }
    if address.protocol == Protocol::Resp3 {
        let mut full = plain.set_protocol(ProtocolVersion::RESP3).set_db(address.database);
        if let Some(password) = &address.password {
            full = full.set_password(password.expose_secret());
            full = full.set_username(address.user.as_deref().unwrap_or("default"));
        }
        return open(access, node, full).await.map_err(|error| failed(&error));
    }
    if address.database != 0 {
        let select = session.send(redis::cmd("SELECT").arg(address.database)).await;
        select.map_err(|error| {
            RedisFailure::of(format!("use database {} of {node}", address.database), &error)
        })?;
    }
    Ok(connection)
}

async fn authenticate(access: &Access, connection: &Connection, step: &str) -> Result<(), RedisFailure> {
    let Some(password) = &access.address.password else {
        return Err(RedisFailure::new(Problem::NoPassword, step, "a password is wanted (NOAUTH)"));
    };
    let password = password.expose_secret();
    let mut auth = redis::cmd("AUTH");
    if let Some(user) = &access.address.user {
        auth.arg(user);
    }
    auth.arg(password);
    match connection.send(&auth).await {
        Ok(_) => Ok(()),
        Err(error) => Err(RedisFailure::of(step, &error).without(password)),
    }
}

async fn open(
    access: &Access,
    node: &Node,
    settings: RedisConnectionInfo,
) -> Result<MultiplexedConnection, RedisError> {
    let address = match node {
        Node::Unix(path) => ConnectionAddr::Unix(path.clone()),
        Node::Tcp(host, port) if access.address.tls => {
            ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
        }
        Node::Tcp(host, port) => ConnectionAddr::Tcp(host.clone(), *port),
    };
    let is_tls = matches!(address, ConnectionAddr::TcpTls { .. });
    let info = address.into_connection_info()?.set_redis_settings(settings);
    let client =
        if is_tls { Client::build_with_tls(info, certificates(access))? } else { Client::open(info)? };
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(connect_timeout(access)))
        .set_response_timeout(Some(answer_timeout(access)));
    client.get_multiplexed_async_connection_with_config(&config).await
}

fn certificates(access: &Access) -> TlsCertificates {
    let client_tls = access.certificates.client.as_ref().map(|(certificate, key)| ClientTlsConfig {
        client_cert: certificate.clone(),
        client_key: key.expose_secret().as_bytes().to_vec(),
    });
    TlsCertificates { client_tls, root_cert: access.certificates.ca.clone() }
}

/// A connection takes no longer than this, however patient the user is: what hangs in the network stays there.
fn connect_timeout(access: &Access) -> Duration {
    access.patience.min(Duration::from_secs(10))
}

fn answer_timeout(access: &Access) -> Duration {
    access.patience.min(Duration::from_secs(30))
}

async fn connect_cluster(
    access: &Access,
    seeds: &[(String, u16)],
) -> Result<ClusterConnection, RedisFailure> {
    // The library tells why no node could be reached only as a text: the first node that answers is asked before.
    let mut failure = None;
    for (host, port) in seeds {
        match masters_of(access, host, *port).await {
            Ok(_) => {
                failure = None;
                break;
            }
            Err(error) => failure = Some(error),
        }
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    let address = &access.address;
    let nodes = seeds.iter().map(|(host, port)| {
        if address.tls {
            ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host.clone(), *port)
        }
    });
    let mut builder = ClusterClient::builder(nodes)
        .connection_timeout(connect_timeout(access))
        .response_timeout(answer_timeout(access));
    if address.tls {
        builder = builder.tls(TlsMode::Secure).certs(certificates(access));
    }
    if address.protocol == Protocol::Resp3 {
        builder = builder.use_protocol(ProtocolVersion::RESP3);
    }
    if let Some(password) = &address.password {
        builder = builder.password(password.expose_secret());
        if let Some(user) = &address.user {
            builder = builder.username(user);
        }
    }
    let failed = |error: RedisError| RedisFailure::of(format!("connect to {address}"), &error);
    builder.build().map_err(failed)?.get_async_connection().await.map_err(failed)
}

/// The masters with slots, as one node of a cluster tells them.
async fn masters_of(access: &Access, host: &str, port: u16) -> Result<Vec<Node>, RedisFailure> {
    let node = Node::Tcp(host.to_owned(), port);
    let step = format!("list the masters of the cluster at {node}");
    let connection = Connection::Single(login(access, &node, Purpose::Data).await?);
    let answer = connection
        .send(redis::cmd("CLUSTER").arg("SLOTS"))
        .await
        .map_err(|error| RedisFailure::of(&step, &error))?;
    let Value::Array(ranges) = answer else {
        return Err(RedisFailure::new(Problem::NotRedis, step, "the answer is no list"));
    };
    let mut masters: Vec<(String, u16)> = Vec::new();
    for range in ranges {
        let Value::Array(parts) = range else { continue };
        let Some(Value::Array(master)) = parts.get(2) else { continue };
        let [name, master_port, ..] = master.as_slice() else { continue };
        let Ok(master_port) = redis::from_redis_value_ref::<u16>(master_port) else { continue };
        // An empty name means: the one that was asked.
        let name = redis::from_redis_value_ref::<Option<String>>(name)
            .ok()
            .flatten()
            .filter(|name| !name.is_empty());
        masters.push((name.unwrap_or_else(|| host.to_owned()), master_port));
    }
    masters.sort();
    masters.dedup();
    if masters.is_empty() {
        return Err(RedisFailure::new(Problem::Down, step, "no master has any slots"));
    }
    Ok(masters.into_iter().map(|(host, port)| Node::Tcp(host, port)).collect())
}
