//! Why a Redis did not do what was asked, in words of its own for each kind of mistake. Pure.

use std::error::Error;
use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::address::{RedisAddress, Topology, host_text};
use crate::cause::{Cause, CauseKind};
use crate::text::sanitize;

/// The class of a [`RedisFailure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// User or password are wrong.
    WrongPassword,
    /// A password is wanted, and none was given.
    NoPassword,
    /// The user may not run a command or touch a key.
    NotAllowed,
    /// A replica, which takes no changes.
    ReadOnly,
    /// The server is still reading its data from disk.
    Loading,
    /// The cluster or the master is away for the moment.
    Down,
    /// The server is a node of a cluster, and was not spoken to as one.
    IsCluster,
    /// The server is none of a cluster, and was spoken to as one.
    NoCluster,
    /// No Sentinel knows a master by this name.
    NoMaster,
    /// What answers speaks no Redis: TLS where plain text was spoken, or HTTP.
    NotRedis,
    /// Plain text came back where TLS was spoken.
    NoTls,
    /// The server's certificate is not trusted.
    Certificate,
    /// The server wants a client certificate, or refuses the one that it got.
    ClientCertificate,
    /// Nobody listens at the address.
    Refused,
    /// The address cannot be reached.
    Unreachable,
    /// The connection was cut.
    Cut,
    /// Time ran out.
    TimedOut,
    /// The way through the API server is barred: a right is missing, or the API server does not answer.
    NoWay,
    /// The server does not know the command.
    UnknownCommand,
    /// Anything else.
    Other,
}

impl Problem {
    /// Whether it may be over by itself in a moment.
    pub(super) fn passes(self) -> bool {
        matches!(self, Self::Loading | Self::Down)
    }

    /// Whether a new connection may help, where one stood before.
    pub(super) fn is_lost_connection(self) -> bool {
        matches!(self, Self::Cut | Self::TimedOut | Self::Refused | Self::Unreachable)
    }
}

/// What failed at a Redis, and why. Never holds a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {cause}")]
pub struct RedisFailure {
    /// The class, to choose hints by.
    pub problem: Problem,
    /// What was to be done: `connect to redis://…`.
    pub step: String,
    /// Why it failed.
    pub cause: String,
    /// What helps here in particular.
    help: Vec<String>,
}

impl RedisFailure {
    pub(super) fn new(problem: Problem, step: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { problem, step: step.into(), cause: cause.into(), help: Vec::new() }
    }

    pub(super) fn of(step: impl Into<String>, error: &RedisError) -> Self {
        let (problem, cause) = classify(error);
        Self::new(problem, step, cause)
    }

    /// The same as the reason why a greater step failed, with what comes before it.
    pub(super) fn at(self, step: impl Into<String>, before: &str) -> Self {
        let cause = format!("{before}{}: {}", self.step, self.cause);
        Self { step: step.into(), cause, ..self }
    }

    /// Adds what helps here in particular.
    pub(super) fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }

    /// Replaces a secret that a server has repeated, as it does for a command that it does not know.
    pub(super) fn without(mut self, secret: &str) -> Self {
        if !secret.is_empty() {
            self.cause = self.cause.replace(secret, "***");
        }
        self
    }

    /// What helps, as lines for `hint:`.
    #[must_use]
    pub fn hints(&self, address: &RedisAddress) -> Vec<String> {
        let with_tls = |tls: bool| RedisAddress { tls, ..address.clone() };
        let user = address.user.as_deref().map_or_else(|| "default".to_owned(), sanitize);
        let text = match self.problem {
            Problem::WrongPassword => format!(
                "it was tried as user {user}: give another user in --redis-url=redis://USER@HOST, and the password in --redis-password-file=FILE"
            ),
            Problem::NoPassword => "give the password in a file: --redis-password-file=FILE".to_owned(),
            Problem::NotAllowed => format!(
                "let the user do what an eviction needs: ACL SETUSER {user} ~blobs::* ~repository::* +ping +unlink +del +srem +exists +sismember +scan +role +select +cluster|slots"
            ),
            Problem::ReadOnly => "name the master in --redis-url, or the Sentinels that know it: redis-sentinel://HOST,HOST/MASTER".to_owned(),
            Problem::Loading => "wait until Redis has read its data (redis-cli INFO persistence: loading:0), or give it longer: --redis-timeout=10m".to_owned(),
            Problem::Down => "see redis-cli CLUSTER INFO, or INFO replication, and run this again when the master is back".to_owned(),
            Problem::IsCluster => match &address.topology {
                Topology::Single { host, port } => {
                    let scheme = if address.tls { "rediss-cluster" } else { "redis-cluster" };
                    format!("speak to it as a cluster: --redis-url={scheme}://{}", host_text(host, *port))
                }
                _ => "speak to it as a cluster: --redis-url=redis-cluster://HOST,HOST".to_owned(),
            },
            Problem::NoCluster => {
                let scheme = if address.tls { "rediss" } else { "redis" };
                format!("speak to it as a single server: --redis-url={scheme}://HOST")
            }
            Problem::NoMaster => "see which masters there are: redis-cli -p 26379 SENTINEL MASTERS".to_owned(),
            Problem::NotRedis | Problem::Cut if !address.tls && !matches!(address.topology, Topology::Unix(_)) => {
                format!("if the server wants TLS: --redis-url={}", with_tls(true))
            }
            // TLS 1.3 refuses a client after the handshake, and the refusal may come too late to be read.
            Problem::Cut if address.tls => {
                "if the server wants a client certificate: --redis-client-certificate=FILE --redis-client-key=FILE".to_owned()
            }
            Problem::NoTls => format!("if the server speaks no TLS: --redis-url={}", with_tls(false)),
            Problem::Certificate => "give the CA that signed the server's certificate: --redis-ca=FILE; and call the server by a name that the certificate has".to_owned(),
            Problem::ClientCertificate => {
                "give a certificate that the server's authority has signed: --redis-client-certificate=FILE --redis-client-key=FILE".to_owned()
            }
            Problem::Refused | Problem::Unreachable => {
                "see whether Redis runs and can be reached from here; inside a cluster's network: oc port-forward svc/REDIS 6379".to_owned()
            }
            Problem::TimedOut => "see whether Redis answers (redis-cli PING), or give it longer: --redis-timeout=5m".to_owned(),
            Problem::NotRedis
            | Problem::Cut
            | Problem::NoWay
            | Problem::UnknownCommand
            | Problem::Other => return self.help.clone(),
        };
        let mut hints = self.help.clone();
        hints.push(text);
        if self.problem == Problem::TimedOut && address.tls {
            // A server without TLS takes the handshake for the beginning of a command, and waits for its end.
            hints.push(format!("if the server speaks no TLS: --redis-url={}", with_tls(false)));
        }
        hints
    }
}

/// The class and the wording of an error of the library.
fn classify(error: &RedisError) -> (Problem, String) {
    let code = error.code().unwrap_or_default();
    let detail = error.detail().map(sanitize).unwrap_or_default();
    let told = match (code, detail.as_str()) {
        ("", detail) => detail.to_owned(),
        (code, "") => sanitize(code),
        (code, detail) => format!("{} {detail}", sanitize(code)),
    };
    match error.kind() {
        ErrorKind::AuthenticationFailed => (Problem::WrongPassword, "the password is wrong".to_owned()),
        ErrorKind::Server(kind) => match kind {
            ServerErrorKind::BusyLoading => {
                (Problem::Loading, format!("Redis is still loading its data ({told})"))
            }
            ServerErrorKind::ReadOnly => (Problem::ReadOnly, format!("it is a read-only replica ({told})")),
            ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::CrossSlot => {
                (Problem::IsCluster, format!("it is a node of a Redis Cluster ({told})"))
            }
            ServerErrorKind::TryAgain | ServerErrorKind::ClusterDown | ServerErrorKind::MasterDown => {
                (Problem::Down, format!("the cluster or the master is down ({told})"))
            }
            ServerErrorKind::NoPerm => (Problem::NotAllowed, format!("it is not allowed ({told})")),
            _ if detail.contains("cluster support disabled") => {
                (Problem::NoCluster, "it is no node of a Redis Cluster".to_owned())
            }
            _ if detail.starts_with("unknown command") || detail.starts_with("unknown subcommand") => {
                (Problem::UnknownCommand, told)
            }
            _ if detail.contains("without any password configured") => (
                Problem::WrongPassword,
                "a password was given, and the server has none for this user".to_owned(),
            ),
            _ if detail.contains("No such master") => (Problem::NoMaster, told),
            _ => (Problem::Other, told),
        },
        ErrorKind::Extension => match code {
            "WRONGPASS" => (Problem::WrongPassword, format!("the user or the password is wrong ({told})")),
            "NOAUTH" => (Problem::NoPassword, format!("a password is wanted ({told})")),
            "NOPROTO" => (Problem::Other, format!("the server does not speak RESP3 ({told})")),
            // A master whose replicas are gone, one that cannot save: none takes changes for now.
            "NOREPLICAS" | "MISCONF" => (Problem::Down, told),
            _ => (Problem::Other, told),
        },
        ErrorKind::Parse => {
            (Problem::NotRedis, "the answer is not in Redis's protocol: TLS or HTTP, most likely".to_owned())
        }
        ErrorKind::ClusterConnectionNotFound => {
            (Problem::Cut, "no node of the cluster can be reached".to_owned())
        }
        _ => of_connection(error),
    }
}

fn of_connection(error: &RedisError) -> (Problem, String) {
    // The library wraps the telling error in an `Arc`, which hides it from everyone who walks the chain.
    let wrapped = error.source().and_then(|source| source.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    let cause = match wrapped {
        Some(wrapped) => Cause::of(wrapped.as_ref()),
        None => Cause::of(error),
    };
    let is_refusal = |alert: &str| cause.text.ends_with(&format!("received fatal alert: {alert}"));
    if ["CertificateRequired", "UnknownCA", "BadCertificate", "CertificateExpired", "HandshakeFailure"]
        .into_iter()
        .any(is_refusal)
    {
        return (Problem::ClientCertificate, format!("the server refuses the client ({})", cause.text));
    }
    let problem = match cause.kind {
        CauseKind::Refused => Problem::Refused,
        CauseKind::NoSuchHost | CauseKind::Unreachable => Problem::Unreachable,
        CauseKind::Cut | CauseKind::MalformedAnswer => Problem::Cut,
        CauseKind::TimedOut => Problem::TimedOut,
        CauseKind::NoTls | CauseKind::HttpServer => Problem::NoTls,
        CauseKind::UnknownAuthority | CauseKind::OtherName | CauseKind::Certificate => Problem::Certificate,
        CauseKind::Proxy | CauseKind::Other if error.is_connection_refusal() => Problem::Refused,
        CauseKind::Proxy | CauseKind::Other if error.is_connection_dropped() => Problem::Cut,
        CauseKind::Proxy | CauseKind::Other => Problem::Other,
    };
    (problem, cause.text)
}

#[cfg(test)]
mod tests {
    use std::io;

    use redis::make_extension_error;

    use super::*;

    fn server(kind: ServerErrorKind, detail: &str) -> RedisError {
        (ErrorKind::Server(kind), "", detail.to_owned()).into()
    }

    #[test]
    fn each_mistake_has_its_own_words_and_hint() {
        let address = RedisAddress::parse("redis://cache:geheim@h").unwrap();
        let extension = |code: &str, text: &str| make_extension_error(code.to_owned(), Some(text.to_owned()));
        let tls = |error: rustls::Error| RedisError::from(io::Error::new(io::ErrorKind::InvalidData, error));
        for (error, problem, cause, hint) in [
            (extension("WRONGPASS", "invalid"), Problem::WrongPassword, "password is wrong", "user cache"),
            (
                extension("NOAUTH", "Authentication required."),
                Problem::NoPassword,
                "wanted",
                "--redis-password-file",
            ),
            (
                server(ServerErrorKind::NoPerm, "no 'del'"),
                Problem::NotAllowed,
                "not allowed (NOPERM no 'del')",
                "ACL SETUSER cache",
            ),
            (
                server(ServerErrorKind::ReadOnly, "x"),
                Problem::ReadOnly,
                "read-only replica",
                "redis-sentinel://",
            ),
            (server(ServerErrorKind::BusyLoading, "x"), Problem::Loading, "still loading", "--redis-timeout"),
            (
                server(ServerErrorKind::Moved, "1 h:2"),
                Problem::IsCluster,
                "node of a Redis Cluster",
                "--redis-url=redis-cluster://h:6379",
            ),
            (
                server(ServerErrorKind::ResponseError, "This instance has cluster support disabled"),
                Problem::NoCluster,
                "no node",
                "--redis-url=redis://HOST",
            ),
            (
                io::Error::from(io::ErrorKind::ConnectionRefused).into(),
                Problem::Refused,
                "connection refused",
                "oc port-forward",
            ),
            (
                io::Error::from(io::ErrorKind::TimedOut).into(),
                Problem::TimedOut,
                "i/o timeout",
                "--redis-timeout",
            ),
            (
                io::Error::from(io::ErrorKind::ConnectionReset).into(),
                Problem::Cut,
                "reset",
                "--redis-url=rediss://cache@h:6379",
            ),
            (
                tls(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)),
                Problem::NoTls,
                "does not look like a TLS handshake",
                "--redis-url=redis://cache@h:6379",
            ),
            (
                tls(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)),
                Problem::Certificate,
                "signed by unknown authority",
                "--redis-ca=FILE",
            ),
        ] {
            let failure = RedisFailure::of("connect", &error);
            assert_eq!(failure.problem, problem, "{failure}");
            assert!(failure.cause.contains(cause), "{failure}");
            let hints = failure.hints(&address).join("\n");
            assert!(hints.contains(hint), "{failure}: {hints}");
            assert!(!hints.contains("geheim"));
        }
    }

    #[test]
    fn a_secret_that_the_server_repeats_is_hidden() {
        let error = server(
            ServerErrorKind::ResponseError,
            "unknown command 'AUTH', with args beginning with: 'geheim'",
        );
        let failure = RedisFailure::of("log in", &error).without("geheim");
        assert_eq!(failure.problem, Problem::UnknownCommand);
        assert!(failure.to_string().contains("***") && !failure.to_string().contains("geheim"));
    }
}
