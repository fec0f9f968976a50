//! Raw requests to the API server, their answers, and how often and how long they are tried.

use std::{
    borrow::Cow,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use kube::client::Body;

use super::{
    error::{ApiError, Status},
    options::RequestTimeout,
    warnings::Warnings,
};
use crate::{
    cause::{Cause, CauseKind},
    text::sanitize,
    throttle::End,
};

/// The largest answer that a request takes unless it says otherwise, in bytes.
const MAX_BODY: usize = 256 << 20;

/// How much of an error's body is read, in bytes.
const MAX_ERROR_BODY: usize = 64 << 10;

/// Which failures are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// None.
    Never,
    /// Only those where the server did nothing: no connection, or 429.
    Unsent,
    /// All that may pass: for requests that do no harm when they are carried out twice. The second try of a
    /// deletion may find it done (404), that of an update may find a conflict (409) with itself.
    Idempotent,
}

/// A request to the API server.
#[derive(Debug, Clone)]
pub struct ApiRequest {
    /// The HTTP method.
    pub method: Method,
    /// `/apis/…?limit=500`, below the server's URL.
    pub path_and_query: String,
    /// What to send, if anything.
    pub body: Option<Bytes>,
    /// The `Content-Type` of the body.
    pub content_type: &'static str,
    /// The `Accept` header.
    pub accept: &'static str,
    /// Which failures are tried again.
    pub retry: Retry,
    /// The largest answer that is taken, in bytes.
    pub max_body: usize,
}

impl ApiRequest {
    /// A request with JSON both ways and the retries that suit the method.
    pub fn new(method: Method, path_and_query: impl Into<String>) -> Self {
        let retry = if matches!(method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE) {
            Retry::Idempotent
        } else {
            Retry::Unsent
        };
        Self {
            method,
            path_and_query: path_and_query.into(),
            body: None,
            content_type: "application/json",
            accept: "application/json",
            retry,
            max_body: MAX_BODY,
        }
    }

    /// A read.
    pub fn get(path_and_query: impl Into<String>) -> Self {
        Self::new(Method::GET, path_and_query)
    }

    /// An update, sent once: whether one without an answer was made is for the caller to find out.
    pub fn put(path_and_query: impl Into<String>, body: Bytes) -> Self {
        Self { body: Some(body), retry: Retry::Unsent, ..Self::new(Method::PUT, path_and_query) }
    }

    /// A deletion with `DeleteOptions`.
    pub fn delete(path_and_query: impl Into<String>, options: Bytes) -> Self {
        Self { body: Some(options), ..Self::new(Method::DELETE, path_and_query) }
    }

    /// The path and query; where an object is changed, with the name under which the server notes that.
    pub(super) fn managed_by(&self, field_manager: &str) -> Cow<'_, str> {
        let path = &self.path_and_query;
        if !matches!(self.method, Method::PUT | Method::PATCH) || path.contains("fieldManager=") {
            return path.into();
        }
        let query: String = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("fieldManager", field_manager)
            .finish();
        let separator = if path.contains('?') { '&' } else { '?' };
        format!("{path}{separator}{query}").into()
    }

    /// Takes an answer of at most this many bytes.
    #[must_use]
    pub fn max_body(self, max_body: usize) -> Self {
        Self { max_body, ..self }
    }
}

/// Memory for the bodies of large answers that come one after the other, which is used again. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// The largest buffer that is kept, in bytes.
const KEPT_BUFFER: usize = 16 << 20;

impl Buffers {
    fn take(&self) -> Lent {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Lent { buffer: free.pop().unwrap_or_default(), home: self.clone() }
    }
}

/// A buffer that returns to where it came from.
struct Lent {
    buffer: Vec<u8>,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        if buffer.capacity() <= KEPT_BUFFER {
            self.home.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}

/// How the body of an answer is taken.
#[derive(Clone, Copy)]
pub struct Taking<'a> {
    /// Where the memory for it comes from.
    pub buffers: &'a Buffers,
    /// Sees what has come of it so far, until it says that it has seen enough. An answer that broke off is seen again
    /// from its start.
    pub enough: &'a (dyn Fn(&[u8]) -> bool + Sync),
}

/// An answer with a status of success (2xx).
#[derive(Debug, Clone)]
pub struct ApiResponse {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers, such as `Date`.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// For the answer's head; an API server ends a list itself after 60 s.
    pub(super) head: Option<Duration>,
    /// Between two pieces of the answer's body.
    pub(super) pause: Option<Duration>,
    /// For one try as a whole.
    pub(super) whole: Option<Duration>,
    /// Tries after the first.
    pub(super) retries: usize,
    /// The first wait; each further one is twice as long, and up to as much again by chance.
    pub(super) first_wait: Duration,
    /// The longest wait, also if the server asks for more.
    pub(super) longest_wait: Duration,
    /// No further try begins this long after the first.
    pub(super) all_tries: Duration,
}

impl Limits {
    pub(super) fn new(timeout: RequestTimeout) -> Self {
        let (head, pause, whole) = match timeout {
            RequestTimeout::Progress => (Some(Duration::from_secs(90)), Some(Duration::from_secs(60)), None),
            RequestTimeout::Whole(limit) => (None, None, Some(limit)),
            RequestTimeout::Unlimited => (None, None, None),
        };
        Self {
            head,
            pause,
            whole,
            retries: 5,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(30),
            all_tries: Duration::from_secs(120),
        }
    }
}

/// A try that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: ApiError,
    /// How long the server wants to be left alone.
    pub(super) retry_after: Option<Duration>,
}

impl Failed {
    /// What an attempt's end says of the server's load.
    pub(super) fn end<T>(result: &Result<T, Self>) -> End {
        match result {
            Ok(_)
            | Err(Self {
                error: ApiError::NotFound { group_missing: false, .. } | ApiError::Conflict { .. },
                ..
            }) => End::Done,
            Err(Self {
                error: ApiError::TooManyRequests { .. } | ApiError::Unavailable { status: 503, .. },
                retry_after,
            }) => End::Refused(*retry_after),
            Err(Self {
                error:
                    ApiError::Unavailable { .. }
                    | ApiError::Timeout(_)
                    | ApiError::Connection(_)
                    | ApiError::Truncated { .. },
                ..
            }) => End::Unanswered,
            Err(_) => End::Other,
        }
    }
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        Self { error, retry_after: None }
    }
}

/// The waits between the tries of one request.
pub(super) struct Waits {
    backoff: ExponentialBackoff,
    longest: Duration,
    until: Instant,
    /// `--request-timeout` was given.
    limited: bool,
}

impl Waits {
    pub(super) fn new(limits: &Limits) -> Self {
        let backoff = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(limits.first_wait)
            .with_max_delay(limits.longest_wait)
            .with_max_times(limits.retries)
            .build();
        let until = Instant::now() + limits.all_tries;
        Self { backoff, longest: limits.longest_wait, until, limited: limits.whole.is_some() }
    }

    /// How long to wait before the next try, or `None` if there is none. `reached` says whether this server has
    /// ever answered: one that never did is more likely misnamed than restarting.
    pub(super) fn next(&mut self, retry: Retry, failed: &Failed, reached: bool) -> Option<Duration> {
        let passes = match &failed.error {
            ApiError::TooManyRequests { .. } => retry != Retry::Never,
            ApiError::Connection(Cause { kind: CauseKind::Refused | CauseKind::Unreachable, .. }) => {
                retry != Retry::Never && reached
            }
            ApiError::Connection(cause) => {
                retry == Retry::Idempotent
                    && matches!(cause.kind, CauseKind::Cut | CauseKind::Proxy | CauseKind::Other)
            }
            ApiError::Unavailable { .. }
            | ApiError::Server { status: 500, .. }
            | ApiError::Truncated { .. } => retry == Retry::Idempotent,
            // Who gave a limit wants an answer in that time, not five times as late.
            ApiError::Timeout(_) => retry == Retry::Idempotent && !self.limited,
            _ => false,
        };
        if !passes {
            return None;
        }
        let asked = failed.retry_after.unwrap_or_default().min(self.longest);
        let wait = self.backoff.next()?.max(asked);
        (Instant::now() + wait < self.until).then_some(wait)
    }
}

/// A deadline for one try.
#[derive(Clone, Copy)]
struct Clock {
    end: Option<tokio::time::Instant>,
}

impl Clock {
    fn start(whole: Option<Duration>) -> Self {
        Self { end: whole.and_then(|whole| tokio::time::Instant::now().checked_add(whole)) }
    }

    /// Waits for the next step, at most `limit` and at most until the end.
    async fn step<T>(
        self,
        limit: Option<Duration>,
        what: &'static str,
        future: impl Future<Output = T>,
    ) -> Result<T, ApiError> {
        let limit = limit.and_then(|limit| tokio::time::Instant::now().checked_add(limit));
        match [limit, self.end].into_iter().flatten().min() {
            Some(end) => tokio::time::timeout_at(end, future).await.map_err(|_| ApiError::Timeout(what)),
            None => Ok(future.await),
        }
    }
}

/// Sends a request once, up to the head of the answer, which is one of success.
async fn open(
    client: &kube::Client,
    request: http::Request<Body>,
    limits: &Limits,
    clock: Clock,
    warnings: &Warnings,
) -> Result<(http::response::Parts, Body), Failed> {
    let response = clock.step(limits.head, "waiting for the answer", client.send(request)).await?;
    let response = response.map_err(|error| of_connection(&error))?;
    let (parts, body) = response.into_parts();
    let status = parts.status;
    warnings.tell(&parts.headers);
    if status.is_redirection() {
        return Err(ApiError::Redirected { to: redirect_target(&parts.headers) }.into());
    }
    if !status.is_success() {
        // What can be read of the explanation; the status itself is already known.
        let mut read = Vec::new();
        let _ = read_body(body, &mut read, MAX_ERROR_BODY, clock, limits.pause, &|_| true).await;
        let explanation = Status::read(&read);
        let seconds =
            parts.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let seconds =
            seconds.or_else(|| explanation.as_ref().map(Status::retry_after)).filter(|seconds| *seconds > 0);
        let wait = seconds.map(Duration::from_secs);
        let mut error = ApiError::of_answer(status, &read, explanation);
        if let ApiError::TooManyRequests { retry_after, .. } = &mut error {
            *retry_after = wait;
        }
        return Err(Failed { error, retry_after: wait });
    }
    Ok((parts, body))
}

/// Sends a request once and reads the answer.
pub(super) async fn send_once(
    client: &kube::Client,
    request: http::Request<Body>,
    max_body: usize,
    limits: &Limits,
    warnings: &Warnings,
    taking: Taking<'_>,
) -> Result<ApiResponse, Failed> {
    let wants_json = request.headers().get(header::ACCEPT).is_some_and(|accept| accept == "application/json");
    let clock = Clock::start(limits.whole);
    let (parts, body) = open(client, request, limits, clock, warnings).await?;
    let status = parts.status;
    let announced =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > max_body)) {
        return Err(ApiError::BodyTooLarge { limit: max_body }.into());
    }
    if wants_json && is_page(&parts.headers) {
        return Err(
            ApiError::Malformed("a web page instead of JSON (a login page or a proxy?)".to_owned()).into()
        );
    }
    let mut read = taking.buffers.take();
    read_body(body, &mut read.buffer, max_body, clock, limits.pause, taking.enough).await?;
    Ok(ApiResponse { status, headers: parts.headers, body: Bytes::from_owner(read) })
}

/// Sends a request once; the answer is read line by line. Only its head has to come in the time of a request.
pub(super) async fn open_lines(
    client: &kube::Client,
    request: http::Request<Body>,
    max_line: usize,
    limits: &Limits,
    warnings: &Warnings,
) -> Result<Lines, Failed> {
    let (_, body) = open(client, request, limits, Clock::start(limits.whole), warnings).await?;
    Ok(Lines { body, read: BytesMut::new(), searched: 0, max_line })
}

/// An answer without an end of its own, such as a watch: one line after the other.
#[derive(Debug)]
pub struct Lines {
    body: Body,
    read: BytesMut,
    /// So much of it has no end of a line.
    searched: usize,
    max_line: usize,
}

impl Lines {
    /// The next line, without its end; `None` at the end of the answer. May be dropped while it waits.
    ///
    /// # Errors
    /// The connection broke, or a line is longer than the request allows.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            if let Some(found) = self.read[self.searched..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.read.split_to(self.searched + found + 1);
                line.truncate(self.searched + found);
                self.searched = 0;
                return Ok(Some(line.freeze()));
            }
            self.searched = self.read.len();
            if self.read.len() > self.max_line {
                return Err(ApiError::BodyTooLarge { limit: self.max_line });
            }
            let Some(frame) = self.body.frame().await else {
                let rest = std::mem::take(&mut self.read).freeze();
                self.searched = 0;
                return Ok(Some(rest).filter(|rest| !rest.is_empty()));
            };
            let frame = frame.map_err(|error| ApiError::Truncated {
                received: self.read.len(),
                cause: Cause::of(&error).text,
            })?;
            if let Ok(data) = frame.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }
}

async fn read_body(
    mut body: Body,
    read: &mut Vec<u8>,
    limit: usize,
    clock: Clock,
    pause: Option<Duration>,
    enough: &(dyn Fn(&[u8]) -> bool + Sync),
) -> Result<(), ApiError> {
    let mut seen = false;
    while let Some(frame) = clock.step(pause, "reading the answer", body.frame()).await? {
        let frame = frame
            .map_err(|error| ApiError::Truncated { received: read.len(), cause: Cause::of(&error).text })?;
        if let Ok(data) = frame.into_data() {
            if data.len() > limit - read.len() {
                return Err(ApiError::BodyTooLarge { limit });
            }
            read.extend_from_slice(&data);
            seen = seen || enough(read);
        }
    }
    Ok(())
}

/// The error of a request that got no answer.
pub(super) fn of_connection(error: &kube::Error) -> ApiError {
    let cause = Cause::of(error);
    match cause.kind {
        CauseKind::TimedOut => ApiError::Timeout("connecting"),
        // What else would answer without TLS.
        CauseKind::NoTls => ApiError::Connection(Cause::http_server()),
        _ => ApiError::Connection(cause),
    }
}

/// The host that a redirect names; never its path or query, which may hold a state or a code.
fn redirect_target(headers: &HeaderMap) -> String {
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match location.parse::<http::Uri>().ok().and_then(|uri| Some(uri.host()?.to_owned())) {
        Some(host) => sanitize(&host),
        None => "another path".to_owned(),
    }
}

fn is_page(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    media_type.is_some_and(|media_type| media_type.trim_start().to_ascii_lowercase().starts_with("text/html"))
}

/// Whether it is the name of an object, a DNS subdomain, and so can stand in a path.
pub(crate) fn is_object_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            label.bytes().all(|byte| inner(byte) || byte == b'-')
                && label.bytes().next().is_some_and(inner)
                && label.bytes().next_back().is_some_and(inner)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_is_noted_under_a_name() {
        let path = |method, path: &str| ApiRequest::new(method, path).managed_by("a b&c").into_owned();
        assert_eq!(path(Method::PUT, "/a"), "/a?fieldManager=a+b%26c");
        assert_eq!(path(Method::PATCH, "/a?dryRun=All"), "/a?dryRun=All&fieldManager=a+b%26c");
        assert_eq!(path(Method::PATCH, "/a?fieldManager=own"), "/a?fieldManager=own");
        for method in [Method::GET, Method::DELETE, Method::POST] {
            assert_eq!(path(method, "/a?x=1"), "/a?x=1");
        }
    }

    #[test]
    fn only_names_stand_in_paths() {
        for name in ["a", "image-registry", "a.b-c.d1"] {
            assert!(is_object_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a%2fb", "A", "-a", "a-", "a..b", "a?b", "a b", "é"] {
            assert!(!is_object_name(name), "{name}");
        }
        assert!(!is_object_name(&"a".repeat(254)));
    }
}
