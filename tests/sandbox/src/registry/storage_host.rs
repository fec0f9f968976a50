//! A storage host as S3 and its like are to a redirecting registry: it serves blobs by signed URLs and knows no users.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt as _;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use http::{HeaderValue, Method, Request, StatusCode};
use tokio::runtime::Handle;

use super::answer::{Answer, empty, finish, set, with_body};
use super::digest::Digest;
use super::storage::{Storage, data_path};
use crate::fault::Faults;
use crate::lock;
use crate::log::{RequestLog, Server};
use crate::serve::{Handler, Service, Serving, full, listen, serve};
use crate::tls::ServerTls;

/// How a storage host answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageHostConfig {
    /// The status for what is not there: 404, or 403 from a store whose clients may not list it.
    pub absent: StatusCode,
    /// The status for everything, if the host is out of order: say, 503.
    pub always: Option<StatusCode>,
}

impl Default for StorageHostConfig {
    fn default() -> Self {
        Self { absent: StatusCode::NOT_FOUND, always: None }
    }
}

/// A storage host over the storage of a registry. Dropping it closes its listener.
#[derive(Debug)]
pub struct StorageHost {
    serving: Serving,
    scheme: &'static str,
    config: Arc<Mutex<StorageHostConfig>>,
}

/// The URL of a blob: its path in the storage, signed.
pub(super) fn url(host: &str, digest: &Digest) -> String {
    format!("{}{}?signature={:016x}", host.trim_end_matches('/'), data_path(digest), fastrand::u64(..))
}

impl StorageHost {
    /// Serves the storage on a free port of 127.0.0.1; with `tls` as https, else as http. Faults and log entries are
    /// those of [`Server::Storage`].
    ///
    /// Signed URLs are answered with 200 or [`StorageHostConfig::absent`], unsigned ones with 403, and requests that
    /// bring credentials of their own with 400, as such hosts do: a client must not send the registry's token there.
    #[must_use]
    pub fn start(
        storage: Storage,
        config: StorageHostConfig,
        runtime: &Handle,
        tls: Option<ServerTls>,
        faults: &Faults,
        log: &RequestLog,
    ) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let config = Arc::new(Mutex::new(config));
        let shared = config.clone();
        let handler: Handler = Arc::new(move |request: Request<Bytes>| {
            let answer = answer(&storage, *lock(&shared), &request);
            async move { finish(answer, request.method()).map(full) }.boxed()
        });
        let service = Service { server: Server::Storage, handler, faults: faults.clone(), log: log.clone() };
        Self { serving: serve(runtime, listen(), tls, service), scheme, config }
    }

    /// Its base URL, for [`RegistryConfig::redirect`](super::RegistryConfig::redirect).
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.serving.address())
    }

    /// Answers differently from now on.
    pub fn set(&self, config: StorageHostConfig) {
        *lock(&self.config) = config;
    }
}

fn answer(storage: &Storage, config: StorageHostConfig, request: &Request<Bytes>) -> Answer {
    let problem = |status| {
        let mut answer = with_body(status, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error></Error>");
        set(&mut answer, CONTENT_TYPE, "application/xml");
        answer
    };
    if let Some(status) = config.always {
        return problem(status);
    }
    if request.headers().contains_key(AUTHORIZATION) {
        return problem(StatusCode::BAD_REQUEST);
    }
    if !request.uri().query().is_some_and(|query| query.starts_with("signature=")) {
        return problem(StatusCode::FORBIDDEN);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return problem(StatusCode::METHOD_NOT_ALLOWED);
    }
    let digest = digest_of(request.uri().path());
    let size = digest.as_ref().and_then(|digest| storage.blob_size(digest));
    let Some((digest, size)) = digest.zip(size) else { return problem(config.absent) };
    let mut answer = empty(StatusCode::OK);
    if request.method() == Method::GET {
        let Some(data) = storage.read_blob(&digest) else { return problem(config.absent) };
        *answer.body_mut() = data;
    }
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
    set(&mut answer, CONTENT_TYPE, "binary/octet-stream");
    set(&mut answer, ETAG, &format!("\"{}\"", digest.hex()));
    answer
}

/// The digest whose data this path names.
fn digest_of(path: &str) -> Option<Digest> {
    let mut parts = path.strip_suffix("/data")?.rsplit('/');
    let (hex, _, algorithm) = (parts.next()?, parts.next()?, parts.next()?);
    Digest::parse(&format!("{algorithm}:{hex}")).filter(|digest| data_path(digest) == path)
}
