//! Connects to a Redis: finds the master, logs in, and tells each kind of mistake apart.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::io::AsyncDNSResolver;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, IntoConnectionInfo as _,
    ProtocolVersion, RedisConnectionInfo, RedisError, RedisFuture, TlsCertificates, TlsMode, Value,
};
use secrecy::ExposeSecret as _;

use super::address::{Access, Protocol, Topology, host_text};
use super::client::{Event, Tell};
use super::dial::Dialer;
use super::problem::{Problem, RedisFailure};

/// A replica of a replica of a replica is none that anybody runs.
const LONGEST_CHAIN: usize = 4;

/// How often the library sends a command on to where its key is by now. What else goes wrong is retried by us, who know
/// how patient the user is, and tell it.
const REDIRECTS: u32 = 3;

/// How long the library may take to connect to one node of a cluster: the way through the API server included.
const THROUGH_CLUSTER: Duration = Duration::from_secs(30);

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
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
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, RedisError> {
        let answer = match self.clone() {
            Self::Single(mut connection) => connection.req_packed_command(command).await,
            Self::Cluster(mut connection) => connection.req_packed_command(command).await,
        };
        answer.and_then(Value::extract_error)
    }

    /// What it means that a command has failed.
    pub(super) fn failure(&self, step: &str, error: &RedisError) -> RedisFailure {
        let mut failure = RedisFailure::of(step, error);
        if failure.problem == Problem::IsCluster && matches!(self, Self::Cluster(_)) {
            // The library follows these; one that is left leads to a node that cannot be reached.
            failure.problem = Problem::Down;
            failure.cause = format!("slots are moving, or the node that has them is down: {}", failure.cause);
        }
        failure
    }
}

/// What is connected to, and how.
pub(super) struct Connector {
    pub(super) access: Access,
    pub(super) dialer: Dialer,
    pub(super) tell: Tell,
    /// The masters of a cluster when they were last listed.
    pub(super) known: Mutex<Vec<(String, u16)>>,
}

/// Whose password, database and protocol a connection takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Data,
    /// A Sentinel has neither databases nor, mostly, a password.
    Sentinel,
}

impl Connector {
    /// Connects, logs in and finds the master, which is `None` in a cluster.
    pub(super) async fn establish(&self) -> Result<(Connection, Option<Node>), RedisFailure> {
        match &self.access.address.topology {
            Topology::Unix(path) => self.follow(Node::Unix(path.clone())).await,
            Topology::Single { host, port } => self.follow(Node::Tcp(host.clone(), *port)).await,
            Topology::Sentinel { sentinels, master } => {
                let node = self.ask_sentinels(sentinels, master).await?;
                let connection = self.login(&node, Purpose::Data).await?;
                // A Sentinel that has not noticed a failover yet names the old master.
                if let Some(newer) = master_of(&connection).await {
                    let cause = format!("it is a replica of {newer} by now");
                    return Err(RedisFailure::new(Problem::Down, format!("use the master {node}"), cause));
                }
                Ok((Connection::Single(connection), Some(node)))
            }
            Topology::Cluster(seeds) => {
                let connection = self.connect_cluster(seeds).await?;
                Ok((Connection::Cluster(connection), None))
            }
        }
    }

    /// Connects to a server or, if it is a replica, to its master.
    async fn follow(&self, mut node: Node) -> Result<(Connection, Option<Node>), RedisFailure> {
        for _ in 0..LONGEST_CHAIN {
            let connection = self.login(&node, Purpose::Data).await?;
            match master_of(&connection).await {
                None => return Ok((Connection::Single(connection), Some(node))),
                Some(master) => {
                    (self.tell)(&Event::Followed { replica: node.to_string(), master: master.to_string() });
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

    async fn ask_sentinels(&self, sentinels: &[(String, u16)], master: &str) -> Result<Node, RedisFailure> {
        let mut unknown = None;
        let mut failure = None;
        for (host, port) in sentinels {
            let node = Node::Tcp(host.clone(), *port);
            match self.ask_sentinel(&node, master).await {
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

    async fn ask_sentinel(&self, node: &Node, master: &str) -> Result<Option<Node>, RedisFailure> {
        let step = format!("ask the Sentinel {node}");
        let connection = self.login(node, Purpose::Sentinel).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let connection = Connection::Single(connection);
        let answer = match connection.send(&question).await {
            Err(error) if error.code() == Some("NOAUTH") => {
                self.authenticate(&connection, &step).await?;
                connection.send(&question).await
            }
            answer => answer,
        };
        let answer = answer.map_err(|error| self.failure(&step, &error))?;
        let address: Option<(String, u16)> = redis::from_redis_value(answer).map_err(|error| {
            RedisFailure::new(Problem::NotRedis, step, crate::text::brief(&error.to_string()))
        })?;
        Ok(address.map(|(host, port)| Node::Tcp(host, port)))
    }

    /// Connects to one server and logs in there.
    ///
    /// The library would do both, but tells every refusal as the same "authentication failed".
    pub(super) async fn login(
        &self,
        node: &Node,
        purpose: Purpose,
    ) -> Result<MultiplexedConnection, RedisFailure> {
        self.log_in(node, purpose).await.map_err(|failure| match node {
            Node::Tcp(host, port) => self.dialer.explained(failure, host, *port),
            Node::Unix(_) => failure,
        })
    }

    async fn log_in(&self, node: &Node, purpose: Purpose) -> Result<MultiplexedConnection, RedisFailure> {
        let address = &self.access.address;
        let step = format!("connect to {node}");
        let with_password = address.password.is_some() && purpose == Purpose::Data;
        let plain = RedisConnectionInfo::default().set_skip_set_lib_name();
        let connection = self.open(node, plain.clone(), &step).await?;
        let session = Connection::Single(connection.clone());
        if with_password {
            self.authenticate(&session, &step).await?;
        }
        if purpose == Purpose::Sentinel {
            return Ok(connection);
        }
        // Says LOADING, NOAUTH and MOVED's kin before anything depends on it; what an ACL says about PING does not count.
        match session.send(&redis::cmd("PING")).await.map_err(|error| self.failure(&step, &error)) {
            Err(failure) if failure.problem != Problem::NotAllowed => return Err(failure),
            _ => {}
        }
        if address.protocol == Protocol::Resp3 {
            let mut full = plain.set_protocol(ProtocolVersion::RESP3).set_db(address.database);
            if let Some(password) = &address.password {
                full = full.set_password(password.expose_secret());
                full = full.set_username(address.user.as_deref().unwrap_or("default"));
            }
            return self.open(node, full, &step).await;
        }
        if address.database != 0 {
            let select = session.send(redis::cmd("SELECT").arg(address.database)).await;
            select.map_err(|error| {
                self.failure(format!("use database {} of {node}", address.database), &error)
            })?;
        }
        Ok(connection)
    }

    /// What it means that something has failed here. A server that does not know a command may repeat its arguments,
    /// the password among them.
    fn failure(&self, step: impl Into<String>, error: &RedisError) -> RedisFailure {
        let failure = RedisFailure::of(step, error);
        match &self.access.address.password {
            Some(password) => failure.without(password.expose_secret()),
            None => failure,
        }
    }

    async fn authenticate(&self, connection: &Connection, step: &str) -> Result<(), RedisFailure> {
        let Some(password) = &self.access.address.password else {
            return Err(RedisFailure::new(Problem::NoPassword, step, "a password is wanted (NOAUTH)"));
        };
        let mut auth = redis::cmd("AUTH");
        if let Some(user) = &self.access.address.user {
            auth.arg(user);
        }
        auth.arg(password.expose_secret());
        match connection.send(&auth).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failure(step, &error)),
        }
    }

    async fn open(
        &self,
        node: &Node,
        settings: RedisConnectionInfo,
        step: &str,
    ) -> Result<MultiplexedConnection, RedisFailure> {
        let access = &self.access;
        let failed = |error: RedisError| self.failure(step, &error);
        let mut config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect_timeout(access)))
            .set_response_timeout(Some(answer_timeout(access)));
        let address = match node {
            Node::Unix(path) => ConnectionAddr::Unix(path.clone()),
            Node::Tcp(host, port) => {
                if let Some(address) = self.dialer.dial(host, *port).await? {
                    config = config.set_dns_resolver(Known(address));
                }
                self.address(host, *port)
            }
        };
        let is_tls = matches!(address, ConnectionAddr::TcpTls { .. });
        let info = address.into_connection_info().map_err(failed)?.set_redis_settings(settings);
        let client =
            if is_tls { Client::build_with_tls(info, certificates(access)) } else { Client::open(info) };
        client.map_err(failed)?.get_multiplexed_async_connection_with_config(&config).await.map_err(failed)
    }

    /// An address for the library. The host stays what it is, however it is reached: the certificate is for it.
    fn address(&self, host: &str, port: u16) -> ConnectionAddr {
        let host = host.to_owned();
        if self.access.address.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    }

    async fn connect_cluster(&self, seeds: &[(String, u16)]) -> Result<ClusterConnection, RedisFailure> {
        // The library tells why no node could be reached only as a text: the first node that answers is asked before.
        self.cluster_masters(seeds).await?;
        let access = &self.access;
        let address = &access.address;
        let nodes = self.nodes(seeds).into_iter().map(|(host, port)| self.address(&host, port));
        let mut builder = ClusterClient::builder(nodes)
            .connection_timeout(connect_timeout(access))
            .response_timeout(answer_timeout(access))
            .retries(REDIRECTS);
        if self.dialer.goes_through_cluster() {
            builder = builder.async_dns_resolver(self.dialer.clone()).connection_timeout(THROUGH_CLUSTER);
        }
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
        let failed = |error: RedisError| self.failure(format!("connect to {address}"), &error);
        builder.build().map_err(failed)?.get_async_connection().await.map_err(failed)
    }

    /// The masters of a cluster, sorted, as the first node tells them that answers.
    pub(super) async fn cluster_masters(&self, seeds: &[(String, u16)]) -> Result<Vec<Node>, RedisFailure> {
        let mut failure: Option<RedisFailure> = None;
        for (host, port) in self.nodes(seeds) {
            match self.masters_of(&host, port).await {
                Ok(masters) => {
                    let known = masters.iter().filter_map(|node| match node {
                        Node::Tcp(host, port) => Some((host.clone(), *port)),
                        Node::Unix(_) => None,
                    });
                    *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known.collect();
                    return Ok(masters);
                }
                // A node that answers knows more than one that is down.
                Err(error) => match &failure {
                    Some(earlier) if !earlier.problem.is_lost_connection() => {}
                    Some(_) if error.problem.is_lost_connection() => {}
                    _ => failure = Some(error),
                },
            }
        }
        Err(failure
            .unwrap_or_else(|| RedisFailure::new(Problem::Other, "list the masters", "no node is known")))
    }

    /// The nodes that the user has named, then those that are known: the former may be down.
    fn nodes(&self, seeds: &[(String, u16)]) -> Vec<(String, u16)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let further = known.iter().filter(|node| !seeds.contains(node));
        seeds.iter().chain(further).cloned().collect()
    }

    /// The masters with slots, as one node of a cluster tells them.
    async fn masters_of(&self, host: &str, port: u16) -> Result<Vec<Node>, RedisFailure> {
        let node = Node::Tcp(host.to_owned(), port);
        let step = format!("list the masters of the cluster at {node}");
        let connection = Connection::Single(self.login(&node, Purpose::Data).await?);
        let answer = connection
            .send(redis::cmd("CLUSTER").arg("SLOTS"))
            .await
            .map_err(|error| self.failure(&step, &error))?;
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

/// The answer of a resolver that has nothing to look up.
struct Known(SocketAddr);

impl AsyncDNSResolver for Known {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        _: &'b str,
        _: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        let found: Box<dyn Iterator<Item = SocketAddr> + Send + 'a> = Box::new(std::iter::once(self.0));
        Box::pin(std::future::ready(Ok(found)))
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::cache::redis::{Certificates, RedisAddress};

    /// A node of a cluster that knows one master.
    async fn node(master: Option<u16>) -> (u16, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let master = master.unwrap_or(port);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut question = [0; 1024];
                    while let Ok(length @ 1..) = stream.read(&mut question).await {
                        let slots =
                            format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:{master}\r\n");
                        let is_ping = question[..length].windows(4).any(|word| word == b"PING");
                        let answer = if is_ping { "+PONG\r\n" } else { &slots };
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        (port, task)
    }

    /// A server that does not know HELLO, and says so as Redis does: with what was sent.
    #[tokio::test]
    async fn a_password_that_is_repeated_while_the_protocol_is_agreed_upon_is_hidden() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut question = [0; 1024];
                    while let Ok(length @ 1..) = stream.read(&mut question).await {
                        let is_hello = question[..length].windows(5).any(|word| word == b"HELLO");
                        let answer = if is_hello {
                            "-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'geheim'\r\n"
                        } else {
                            "+OK\r\n"
                        };
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        let url = format!("redis://:geheim@127.0.0.1:{port}?protocol=resp3");
        let access = Access {
            address: RedisAddress::parse(&url).unwrap(),
            certificates: Certificates::default(),
            patience: Duration::from_secs(10),
        };
        let known = Mutex::default();
        let connector = Connector { access, dialer: Dialer::direct(), tell: Arc::new(|_| ()), known };
        let Err(failure) = connector.establish().await else { panic!() };
        let shown = format!("{failure} {failure:?}");
        assert!(!shown.contains("geheim") && shown.contains("***"), "{shown}");
    }

    #[tokio::test]
    async fn masters_that_were_listed_once_are_asked_when_the_named_nodes_are_down() {
        let (master, _running) = node(None).await;
        let (seed, running) = node(Some(master)).await;
        let access = Access {
            address: RedisAddress::parse(&format!("redis-cluster://127.0.0.1:{seed}")).unwrap(),
            certificates: Certificates::default(),
            patience: Duration::from_secs(10),
        };
        let known = Mutex::default();
        let connector = Connector { access, dialer: Dialer::direct(), tell: Arc::new(|_| ()), known };
        let seeds = [("127.0.0.1".to_owned(), seed)];
        let masters = [Node::Tcp("127.0.0.1".to_owned(), master)];
        assert_eq!(connector.cluster_masters(&seeds).await.unwrap(), masters);
        running.abort();
        let _ = running.await;
        assert_eq!(connector.cluster_masters(&seeds).await.unwrap(), masters);
        assert_eq!(connector.nodes(&[("127.0.0.1".to_owned(), master)]).len(), 1, "each is asked once");
    }
}
