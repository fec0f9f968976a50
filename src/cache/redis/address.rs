//! Where a Redis is, and how to log in: the URLs of `--redis-url`. Pure.
//!
//! Never shows a password, not even of a URL that does not parse.

use std::{fmt, path::PathBuf, time::Duration};

use secrecy::SecretString;
use thiserror::Error;

use crate::text::brief;

/// Where a Redis listens unless it is told otherwise.
pub(in crate::cache) const PORT: u16 = 6379;
/// Where a Sentinel does.
pub(in crate::cache) const SENTINEL_PORT: u16 = 26379;

/// Why a text is no address of a Redis. Holds nothing that may be a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Neither of the known schemes.
    #[error(
        "the scheme must be one of redis, rediss, unix, redis-cluster, rediss-cluster, redis-sentinel, rediss-sentinel"
    )]
    Scheme,
    /// There is no host, or an empty one.
    #[error("a host is missing")]
    NoHost,
    /// A port is no number from 1 to 65535.
    #[error("the port of a host is not a number from 1 to 65535")]
    Port,
    /// Several hosts where one is wanted.
    #[error("several hosts, but neither a cluster nor Sentinels")]
    SeveralHosts,
    /// The database is no number.
    #[error("\"{}\" is no database's number", brief(.0))]
    Database(String),
    /// A cluster has no other database than 0.
    #[error("a cluster has only database 0")]
    ClusterDatabase,
    /// Sentinels know several masters by name.
    #[error("the name of the master is missing")]
    NoMaster,
    /// The part after the `?`.
    #[error("unknown setting \"{}\" after the ?", brief(.0))]
    Setting(String),
    /// A `?` before an `@`: a part of the password, or of a setting. Either way what follows may be a password.
    #[error("a ? stands before an @: in a user or a password it is written %3F, and no setting holds an @")]
    Ambiguous,
    /// User or password are not percent-encoded text.
    #[error("the user or the password is not percent-encoded UTF-8")]
    Encoding,
}

/// The protocol's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Spoken by every Redis.
    #[default]
    Resp2,
    /// Redis 6 and later.
    Resp3,
}

/// How the servers are arranged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// One server, or a replica that knows its master.
    Single {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// One server, by its socket.
    Unix(PathBuf),
    /// A Redis Cluster, by some of its nodes.
    Cluster(Vec<(String, u16)>),
    /// Sentinels that know where the master is.
    Sentinel {
        /// The Sentinels.
        sentinels: Vec<(String, u16)>,
        /// The name that they know the master by.
        master: String,
    },
}

/// A Redis, and who to be there.
#[derive(Debug, Clone)]
pub struct RedisAddress {
    /// How the servers are arranged.
    pub topology: Topology,
    /// Speak TLS.
    pub tls: bool,
    /// The database's number.
    pub database: i64,
    /// The ACL user; without one the default user.
    pub user: Option<String>,
    /// The password in the URL.
    pub password: Option<SecretString>,
    /// `?protocol=resp3`.
    pub protocol: Protocol,
}

impl RedisAddress {
    /// Reads a URL: `redis://[user[:password]@]host[:port][/database]` and its relatives (`docs/cache.md`).
    ///
    /// # Errors
    /// It is no such URL.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = url.split_once("://").ok_or(AddressError::Scheme)?;
        let (rest, settings) = rest.split_once('?').unwrap_or((rest, ""));
        if settings.contains('@') {
            return Err(AddressError::Ambiguous);
        }
        let (kind, tls) = match scheme {
            "redis" => (Kind::Single, false),
            "rediss" => (Kind::Single, true),
            "unix" => (Kind::Unix, false),
            "redis-cluster" => (Kind::Cluster, false),
            "rediss-cluster" => (Kind::Cluster, true),
            "redis-sentinel" => (Kind::Sentinel, false),
            "rediss-sentinel" => (Kind::Sentinel, true),
            _ => return Err(AddressError::Scheme),
        };
        // A password may hold what ends a host: the last `@` before the path separates them.
        let end = rest.rfind('@').map_or(0, |at| at + 1);
        let (login, place) = rest.split_at(end);
        let (user, password) = login_of(login.strip_suffix('@').unwrap_or(login))?;
        let mut address = Self {
            topology: Topology::Unix(PathBuf::new()),
            tls,
            database: 0,
            user,
            password,
            protocol: Protocol::default(),
        };
        for setting in settings.split('&').filter(|setting| !setting.is_empty()) {
            match setting.split_once('=') {
                Some(("protocol", "resp2" | "2")) => address.protocol = Protocol::Resp2,
                Some(("protocol", "resp3" | "3")) => address.protocol = Protocol::Resp3,
                Some(("db", number)) => address.database = database(number)?,
                _ => {
                    // Only the name: the value may be a password.
                    let name = setting.split('=').next().unwrap_or_default();
                    return Err(AddressError::Setting(name.to_owned()));
                }
            }
        }
        if kind == Kind::Unix {
            if place.is_empty() {
                return Err(AddressError::NoHost);
            }
            address.topology = Topology::Unix(place.into());
            return Ok(address);
        }
        let (hosts, path) = place.split_once('/').unwrap_or((place, ""));
        let port = if kind == Kind::Sentinel { SENTINEL_PORT } else { PORT };
        let mut hosts =
            hosts.split(',').map(|host| host_and_port(host, port)).collect::<Result<Vec<_>, _>>()?;
        let mut path = path.trim_end_matches('/');
        address.topology = match kind {
            Kind::Cluster => Topology::Cluster(hosts),
            Kind::Sentinel => {
                let (master, rest) = path.split_once('/').unwrap_or((path, ""));
                path = rest;
                if master.is_empty() {
                    return Err(AddressError::NoMaster);
                }
                Topology::Sentinel { sentinels: hosts, master: decoded(master)? }
            }
            Kind::Single | Kind::Unix => {
                let (host, port) = hosts.pop().ok_or(AddressError::NoHost)?;
                if !hosts.is_empty() {
                    return Err(AddressError::SeveralHosts);
                }
                Topology::Single { host, port }
            }
        };
        if !path.is_empty() {
            address.database = database(path)?;
        }
        if kind == Kind::Cluster && address.database != 0 {
            return Err(AddressError::ClusterDatabase);
        }
        Ok(address)
    }

    fn scheme(&self) -> &'static str {
        match (&self.topology, self.tls) {
            (Topology::Single { .. }, false) => "redis",
            (Topology::Single { .. }, true) => "rediss",
            (Topology::Unix(_), _) => "unix",
            (Topology::Cluster(_), false) => "redis-cluster",
            (Topology::Cluster(_), true) => "rediss-cluster",
            (Topology::Sentinel { .. }, false) => "redis-sentinel",
            (Topology::Sentinel { .. }, true) => "rediss-sentinel",
        }
    }
}

/// The URL without its password.
impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topology, tls: _, database, user, password: _, protocol } = self;
        write!(f, "{}://", self.scheme())?;
        if let Some(user) = user {
            write!(f, "{}@", encoded(user))?;
        }
        let list = |hosts: &[(String, u16)]| {
            hosts.iter().map(|(host, port)| host_text(host, *port)).collect::<Vec<_>>().join(",")
        };
        match topology {
            Topology::Single { host, port } => f.write_str(&host_text(host, *port))?,
            Topology::Unix(path) => write!(f, "{}", path.display())?,
            Topology::Cluster(nodes) => f.write_str(&list(nodes))?,
            Topology::Sentinel { sentinels, master } => {
                write!(f, "{}/{}", list(sentinels), encoded(master))?;
            }
        }
        let mut separator = '?';
        match topology {
            _ if *database == 0 => {}
            Topology::Unix(_) => {
                write!(f, "?db={database}")?;
                separator = '&';
            }
            _ => write!(f, "/{database}")?,
        }
        match protocol {
            Protocol::Resp2 => Ok(()),
            Protocol::Resp3 => write!(f, "{separator}protocol=resp3"),
        }
    }
}

/// `host:port`, an IPv6 address in brackets.
pub(super) fn host_text(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Single,
    Unix,
    Cluster,
    Sentinel,
}

fn login_of(login: &str) -> Result<(Option<String>, Option<SecretString>), AddressError> {
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (login, None),
    };
    let user = Some(decoded(user)?).filter(|user| !user.is_empty());
    let password = password.filter(|password| !password.is_empty()).map(decoded).transpose()?;
    Ok((user, password.map(SecretString::from)))
}

/// What [`decoded`] makes this text of.
fn encoded(text: &str) -> String {
    let text: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    text.replace('+', "%20")
}

fn decoded(text: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
            let (Some(high), Some(low)) = (digit(), digit()) else { return Err(AddressError::Encoding) };
            // Two hex digits are at most 255.
            bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| AddressError::Encoding)
}

/// Reads `HOST[:PORT]`, an IPv6 address in brackets.
pub(in crate::cache) fn host_and_port(text: &str, default: u16) -> Result<(String, u16), AddressError> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or(AddressError::Port)?)),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err(AddressError::NoHost);
    }
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(AddressError::Port)?,
        None => default,
    };
    Ok((host.to_owned(), port))
}

fn database(text: &str) -> Result<i64, AddressError> {
    text.parse::<u32>().map(i64::from).map_err(|_| AddressError::Database(text.to_owned()))
}

/// Certificates for TLS, in PEM.
#[derive(Debug, Clone, Default)]
pub struct Certificates {
    /// `--redis-ca`: trusted instead of the system's roots.
    pub ca: Option<Vec<u8>>,
    /// `--redis-client-certificate` and `--redis-client-key`.
    pub client: Option<(Vec<u8>, SecretString)>,
}

/// Everything that a connection needs.
#[derive(Debug, Clone)]
pub struct Access {
    /// Where, and as whom.
    pub address: RedisAddress,
    /// How to trust the server, and how to be trusted.
    pub certificates: Certificates,
    /// How long one step may go without an answer or any progress.
    pub patience: Duration,
}

/// Where the Redis is, as far as flags say.
#[derive(Debug, Clone, Default)]
pub enum Whereabouts {
    /// Where the registry's configuration says.
    #[default]
    Detect,
    /// `--redis-url=none`: there is none, whatever the configuration seems to say.
    Absent,
    /// `--redis-url`.
    At(RedisAddress),
}

/// What flags say about the Redis.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// Where it is.
    pub whereabouts: Whereabouts,
    /// How to trust it, and how to be trusted.
    pub certificates: Certificates,
    /// The password of `--redis-password-file`, which wins over one that is detected.
    pub password: Option<SecretString>,
    /// How long one step may go without an answer or any progress.
    pub patience: Duration,
    /// The flags as they are to be repeated, each with a blank in front; without the password.
    pub flags: String,
}

impl RedisOptions {
    /// How to reach the Redis: the one of `--redis-url`, else the one that was detected, if one was.
    #[must_use]
    pub fn access(&self, detected: Option<RedisAddress>) -> Option<Access> {
        let mut address = match &self.whereabouts {
            Whereabouts::At(address) => address.clone(),
            Whereabouts::Detect => detected?,
            Whereabouts::Absent => return None,
        };
        if let Some(password) = &self.password {
            address.password = Some(password.clone());
        }
        Some(Access { address, certificates: self.certificates.clone(), patience: self.patience })
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn parse(url: &str) -> RedisAddress {
        RedisAddress::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn urls_are_shown_without_the_password() {
        for (url, shown) in [
            ("redis://localhost", "redis://localhost:6379"),
            ("redis://:geheim@h:1/2", "redis://h:1/2"),
            ("rediss://cache:geheim@h", "rediss://cache@h:6379"),
            ("rediss://a%20b:ge%40heim@[::1]:7", "rediss://a%20b@[::1]:7"),
            ("redis://:geheim@x@h/0", "redis://h:6379"),
            ("unix:///run/redis.sock?db=3", "unix:///run/redis.sock?db=3"),
            ("unix://u:geheim@/run/r.sock?db=3&protocol=resp3", "unix://u@/run/r.sock?db=3&protocol=resp3"),
            ("redis-cluster://a,b:7,[::1]", "redis-cluster://a:6379,b:7,[::1]:6379"),
            ("rediss-sentinel://:geheim@a,b:7/mymaster/1", "rediss-sentinel://a:26379,b:7/mymaster/1"),
            ("redis-sentinel://h/my%2Fma%25ster/1", "redis-sentinel://h:26379/my%2Fma%25ster/1"),
            ("redis://h?protocol=3", "redis://h:6379?protocol=resp3"),
        ] {
            let address = parse(url);
            assert_eq!(address.to_string(), shown);
            assert_eq!(parse(shown).to_string(), shown, "what is shown can be typed");
            assert!(!format!("{address:?}").contains("geheim"));
        }
    }

    #[test]
    fn logins_are_decoded() {
        let address = parse("redis://us%3Aer:p%40%25w:%C3%A9@h");
        assert_eq!(address.user.as_deref(), Some("us:er"));
        assert_eq!(address.password.unwrap().expose_secret(), "p@%w:é");
        let address = parse("redis://user@h");
        assert_eq!((address.user.as_deref(), address.password.is_none()), (Some("user"), true));
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_a_password() {
        for (url, error) in [
            ("localhost:6379", AddressError::Scheme),
            ("http://:geheim@h", AddressError::Scheme),
            ("redis://", AddressError::NoHost),
            ("redis://:geheim@", AddressError::NoHost),
            ("redis://:geheim@h:port", AddressError::Port),
            ("redis://h:0", AddressError::Port),
            ("redis://a,b", AddressError::SeveralHosts),
            ("redis://h/x", AddressError::Database("x".into())),
            ("redis-cluster://h/1", AddressError::ClusterDatabase),
            ("redis-sentinel://h", AddressError::NoMaster),
            ("redis://h?password=geheim", AddressError::Setting("password".into())),
            ("redis://:ge%zzheim@h", AddressError::Encoding),
            ("redis://:x?geheim@h:6379/0", AddressError::Ambiguous),
            ("redis://:x?db=geheim@h", AddressError::Ambiguous),
            ("redis://h?password=x@geheim", AddressError::Ambiguous),
        ] {
            let found = RedisAddress::parse(url).unwrap_err();
            assert_eq!(found, error, "{url}");
            assert!(!found.to_string().contains("geheim"));
        }
    }
}
