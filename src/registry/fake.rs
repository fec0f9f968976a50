//! A small registry for the tests of this room: answers as told, and remembers what it was asked.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::{Refresh, TokenSource};

/// A recorded answer of the integrated registry.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Recorded {
    pub(super) name: String,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

/// All recorded answers.
pub(super) fn recorded() -> Vec<Recorded> {
    serde_json::from_str(include_str!("testdata/answers.json")).unwrap()
}

/// The recorded answer of that name, as it is sent.
pub(super) fn recording(name: &str) -> Vec<u8> {
    let answer = recorded().into_iter().find(|answer| answer.name == name).unwrap();
    let headers: Vec<_> =
        answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    reply(answer.status, &headers, &answer.body)
}

/// An answer as it is sent.
pub(super) fn reply(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} X\r\n");
    if status != 204 {
        write!(text, "Content-Length: {}\r\n", body.len()).unwrap();
    }
    for (name, value) in headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    format!("{text}\r\n{body}").into_bytes()
}

/// What a server was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// `GET /v2/`.
    pub(super) request: String,
    /// The value of the header `Authorization`.
    pub(super) authorization: Option<String>,
}

/// A server on a free port of all local addresses, until it is dropped.
pub(super) struct Server {
    pub(super) port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Starts a server; an empty answer closes the connection.
    pub(super) async fn start(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let answer = Arc::new(answer);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, log, answer) = (tls.clone(), Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &log, &*answer).await,
                        Some(tls) => {
                            if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                                serve(stream, &log, &*answer).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, seen, task }
    }

    /// Starts a server that is a registry as far as the login goes, and answers deletions in this order; the last
    /// answer stays.
    pub(super) async fn registry(tls: Option<Arc<ServerConfig>>, deletions: Vec<Vec<u8>>) -> Self {
        let deletions = Mutex::new(VecDeque::from(deletions));
        Self::start(tls, move |seen| {
            if seen.request.starts_with("DELETE ") {
                let mut deletions = deletions.lock().unwrap();
                return if deletions.len() > 1 { deletions.pop_front() } else { deletions.front().cloned() }
                    .unwrap_or_else(|| recording("delete.layer-link.first"));
            }
            log_in(seen)
        })
        .await
    }

    /// What it was asked so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The deletions that it was asked for so far.
    pub(super) fn deletions(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.request.starts_with("DELETE ")).collect()
    }
}

/// The answers of the integrated registry to a ping and a login.
pub(super) fn log_in(seen: &Seen) -> Vec<u8> {
    recording(match (seen.request.as_str(), &seen.authorization) {
        ("GET /", _) => "ping.root",
        ("GET /v2/", None) => "ping.v2-anonymous",
        ("GET /v2/", Some(value)) if *value == basic("good") || *value == basic("new") => {
            "ping.v2-pruner-basic"
        }
        ("GET /v2/", Some(_)) => "ping.v2-invalid-basic",
        request => panic!("{request:?}"),
    })
}

/// The header of a login with one of the tokens of these tests.
pub(super) fn basic(token: &str) -> String {
    let encoded = match token {
        "good" => "dW51c2VkOmdvb2Q=",
        "new" => "dW51c2VkOm5ldw==",
        "old" => "dW51c2VkOm9sZA==",
        token => panic!("{token}"),
    };
    format!("Basic {encoded}")
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    log: &Mutex<Vec<Seen>>,
    answer: &(dyn Fn(&Seen) -> Vec<u8> + Send + Sync),
) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            // As Go's server does with a TLS handshake: an answer that is no TLS.
            if buffer.first() == Some(&0x16) {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
                return;
            }
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        };
        let head = String::from_utf8(buffer.drain(..end + 4).collect()).unwrap();
        let request = head.split(" HTTP/1.1").next().unwrap().to_owned();
        let authorization = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("authorization").then(|| value.trim().to_owned())
        });
        let seen = Seen { request, authorization };
        log.lock().unwrap().push(seen.clone());
        let bytes = answer(&seen);
        if bytes.is_empty() || stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// A certificate authority.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    /// A server's configuration with a certificate for these names.
    pub(super) fn server(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.server_with(names, |_| {})
    }

    /// The same, with a certificate that is changed before it is signed.
    pub(super) fn server_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Arc<ServerConfig> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        install_provider();
        let config = ServerConfig::builder().with_no_client_auth();
        Arc::new(config.with_single_cert(vec![certificate.der().clone()], key).unwrap())
    }
}

/// Does what `main` does; the first test wins.
pub(super) fn install_provider() {
    rustls::crypto::ring::default_provider().install_default().ok();
}

/// A source that always has this token.
pub(super) fn token(token: &'static str) -> TokenSource {
    Arc::new(move |_| Box::pin(async move { Ok(Some(SecretString::from(token))) }))
}

/// A source that has one token until a new one is forced; counts how often that happens.
pub(super) fn renewable(old: &'static str, new: &'static str) -> (TokenSource, Arc<Mutex<usize>>) {
    let forced = Arc::new(Mutex::new(0));
    let count = Arc::clone(&forced);
    let source: TokenSource = Arc::new(move |refresh| {
        let mut count = count.lock().unwrap();
        if refresh == Refresh::Force {
            *count += 1;
        }
        let token = if *count > 0 { new } else { old };
        Box::pin(async move { Ok(Some(SecretString::from(token))) })
    });
    (source, forced)
}
