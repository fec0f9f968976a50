//! The HTTP client: built for one protection, sends one request, reads a bounded answer. Decides nothing.

use std::net::SocketAddr;
use std::time::Duration;

use backon::ExponentialBuilder;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder, redirect};

use super::address::{RegistryUrl, is_loopback};
use super::answer::Answer;
use super::cause::{Unresolved, cause_of};
use super::pods::Pods;
use super::security::Protection;
use crate::cause::Cause;

/// The most of an answer's body that is read, in bytes.
const LONGEST_BODY: usize = 64 * 1024;

/// How long to wait, and how often to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The time to resolve, connect and agree on TLS.
    pub connect: Duration,
    /// The time for one whole request of the ping or the login.
    pub answer: Duration,
    /// The time for one whole deletion; object storage can take long.
    pub delete: Duration,
    /// The most requests that are sent for one purpose; at least one is.
    pub attempts: usize,
    /// The wait before the second attempt, before jitter; it doubles each time.
    pub first_wait: Duration,
    /// The longest wait between two attempts, before jitter.
    pub longest_wait: Duration,
    /// The longest wait that a server may ask for with `Retry-After`.
    pub longest_retry_after: Duration,
    /// The least time between two requests for a new token. A missing right is 401 as well, and would otherwise run
    /// an exec plugin for each blob.
    pub between_logins: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            delete: Duration::from_secs(60),
            attempts: 5,
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(5),
            longest_retry_after: Duration::from_secs(30),
            between_logins: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// The waits between attempts.
    pub(super) fn backoff(&self) -> ExponentialBuilder {
        ExponentialBuilder::new()
            .with_jitter()
            .with_min_delay(self.first_wait)
            .with_max_delay(self.longest_wait)
            .with_max_times(self.attempts.saturating_sub(1))
    }

    /// The wait, if there is one, prolonged as the server asks, but not beyond the limit.
    pub(super) fn wait(&self, planned: Option<Duration>, asked: Option<Duration>) -> Option<Duration> {
        planned.map(|planned| asked.map_or(planned, |asked| planned.max(asked.min(self.longest_retry_after))))
    }
}

/// Which authorities may sign the registry's certificate.
#[derive(Debug, Clone)]
pub(super) enum Pool {
    /// These and no others.
    Only(Vec<Certificate>),
    /// Those of the system, and these.
    SystemAnd(Vec<Certificate>),
}

impl Pool {
    /// The same with further ones.
    pub(super) fn with(&self, further: Vec<Certificate>) -> Self {
        match self.clone() {
            Self::Only(certificates) => Self::Only(certificates.into_iter().chain(further).collect()),
            Self::SystemAnd(certificates) => {
                Self::SystemAnd(certificates.into_iter().chain(further).collect())
            }
        }
    }

    /// These alone, also where those of the system counted.
    pub(super) fn only(self) -> Self {
        match self {
            Self::Only(certificates) | Self::SystemAnd(certificates) => Self::Only(certificates),
        }
    }

    /// The authorities beside those of the system.
    pub(super) fn certificates(&self) -> &[Certificate] {
        match self {
            Self::Only(certificates) | Self::SystemAnd(certificates) => certificates,
        }
    }
}

/// Builds a client whose connections go to pods, whatever the name of the host resolves to; the certificate has to be
/// good for the name. The URL has no port: that of the pod counts.
pub(super) fn forwarded_client(
    url: &RegistryUrl,
    pods: &Pods,
    protection: Protection,
    pool: &Pool,
    limits: &Limits,
) -> Result<Client, String> {
    let builder = builder(protection, pool, limits).no_proxy().dns_resolver(pods.clone());
    builder.build().map_err(|error| cause_of(&error, url).text)
}

/// Builds a client that follows no redirect and, on this machine, asks no proxy.
pub(super) fn client(
    url: &RegistryUrl,
    protection: Protection,
    pool: &Pool,
    limits: &Limits,
) -> Result<Client, String> {
    let mut builder = builder(protection, pool, limits);
    if is_loopback(url.host()) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| cause_of(&error, url).text)
}

/// Builds a client that dials this address and no other, whatever the name of the host resolves to; the certificate
/// has to be good for the name.
///
/// A proxy would resolve the name itself, and reach any of the replicas: none is asked.
pub(super) fn pinned_client(
    url: &RegistryUrl,
    address: SocketAddr,
    protection: Protection,
    pool: &Pool,
    limits: &Limits,
) -> Result<Client, String> {
    let builder = builder(protection, pool, limits).no_proxy().resolve(url.host(), address);
    builder.build().map_err(|error| cause_of(&error, url).text)
}

fn builder(protection: Protection, pool: &Pool, limits: &Limits) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(concat!("oc-prune-images/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(limits.connect)
        .dns_resolver(SystemResolver);
    match protection {
        Protection::Verified => match pool {
            Pool::Only(certificates) => builder.tls_certs_only(certificates.clone()),
            Pool::SystemAnd(certificates) => builder.tls_certs_merge(certificates.clone()),
        },
        // No authority is asked: a machine without any must be able to connect all the same.
        Protection::Unverified | Protection::Plain => {
            builder.tls_certs_only([]).tls_danger_accept_invalid_certs(true)
        }
    }
}

/// Sends one request and reads its answer.
///
/// A body that breaks off or is too long is cut: the status has said what matters.
pub(super) async fn send(request: RequestBuilder, url: &RegistryUrl) -> Result<Answer, Cause> {
    let mut response = request.send().await.map_err(|error| cause_of(&error, url))?;
    let (mut body, mut timed_out) = (Vec::new(), false);
    while body.len() < LONGEST_BODY {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => {
                timed_out = error.is_timeout();
                break;
            }
        };
        let room = LONGEST_BODY - body.len();
        body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
    }
    let headers = std::mem::take(response.headers_mut());
    Ok(Answer { status: response.status(), headers, body, timed_out })
}

/// The system's resolver, with an error that tells itself from other errors of a connection.
struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str();
            let addresses = tokio::net::lookup_host((host, 0))
                .await
                .map_err(|error| Unresolved { host: host.to_owned(), detail: detail(&error.to_string()) })?;
            let addresses: Addrs = Box::new(addresses.collect::<Vec<_>>().into_iter());
            Ok(addresses)
        })
    }
}

/// Rust's own words in front of the system's say nothing new.
fn detail(text: &str) -> String {
    text.strip_prefix("failed to lookup address information: ").unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_can_prolong_a_wait_but_not_for_ever() {
        let limits = Limits::default();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(limits.wait(seconds(2), None), seconds(2));
        assert_eq!(limits.wait(seconds(2), seconds(1)), seconds(2));
        assert_eq!(limits.wait(seconds(2), seconds(7)), seconds(7));
        assert_eq!(limits.wait(seconds(2), seconds(86_400)), seconds(30));
        assert_eq!(limits.wait(None, seconds(7)), None, "no attempt is left");
    }
}
