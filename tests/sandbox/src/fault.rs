//! Faults that a test injects into the answers of the API server and the registry.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::lock;
use crate::log::{Server, is_mutation};

/// What goes wrong with a matching request.
#[derive(Clone)]
pub enum Action {
    /// Wait, then go on (with the faults added later, too).
    Latency(Duration),
    /// Run something of the test's before the request is handled, then go on (with the faults added later, too).
    /// A test changes an object between a client's list and its update with it.
    Hook(Arc<dyn Fn() + Send + Sync>),
    /// Run something of the test's once the server has handled the request, before the answer.
    HookAfter(Arc<dyn Fn() + Send + Sync>),
    /// Answer this; the server never sees the request.
    Answer(Answer),
    /// The server handles the request, but the client is answered this, as from a proxy that timed out.
    AnswerAfter(Answer),
    /// Cut the connection; the server never sees the request.
    ResetBefore,
    /// The server handles the request, then the connection is cut before the answer.
    ResetAfter,
    /// Never answer; the server never sees the request.
    Hang,
    /// Send the real answer's head and this many bytes of its body, then cut the connection. The head announces the
    /// whole length if it is known.
    Truncate(usize),
    /// Send the real answer's body in pieces of this many bytes with a pause before each.
    Trickle(usize, Duration),
    /// Set these headers of the real answer, say a `Date` of another clock.
    SetHeaders(HeaderMap),
    /// Replace the body of the real answer, keeping its status and headers.
    ReplaceBody(Bytes),
    /// Replace the body of the real answer by this many spaces, without saying how many there will be.
    Flood(u64),
}

/// An answer that stands in for the server's.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// An answer with an empty body.
    #[must_use]
    pub fn new(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// A Kubernetes `Status` with this reason and message.
    #[must_use]
    pub fn kubernetes(status: StatusCode, reason: &str, message: &str) -> Self {
        let body = serde_json::json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": status.as_u16(),
        });
        Self::new(status).header("content-type", "application/json").body(body.to_string())
    }

    /// What an overloaded server says: 429 with `Retry-After`.
    #[must_use]
    pub fn too_many_requests(retry_after_seconds: u32) -> Self {
        Self::kubernetes(
            StatusCode::TOO_MANY_REQUESTS,
            "TooManyRequests",
            "the server has received too many requests and has asked us to try again later",
        )
        .header("retry-after", &retry_after_seconds.to_string())
    }

    /// A temporary redirect to this location.
    #[must_use]
    pub fn redirect(location: &str) -> Self {
        Self::new(StatusCode::TEMPORARY_REDIRECT).header("location", location)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a header value");
        self.headers.push((HeaderName::from_static(name), value));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

impl Action {
    /// A body that is neither JSON nor anything else a client could read.
    #[must_use]
    pub fn garbage() -> Self {
        Self::ReplaceBody(Bytes::from_static(b"\x00\xff<html>{\"kind\":"))
    }

    /// A hook from a closure.
    #[must_use]
    pub fn hook(run: impl Fn() + Send + Sync + 'static) -> Self {
        Self::Hook(Arc::new(run))
    }

    /// A hook from a closure, for what comes after the request was handled.
    #[must_use]
    pub fn hook_after(run: impl Fn() + Send + Sync + 'static) -> Self {
        Self::HookAfter(Arc::new(run))
    }

    /// Whether further faults are looked at after this one.
    fn goes_on(&self) -> bool {
        matches!(self, Self::Latency(_) | Self::Hook(_))
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latency(pause) => f.debug_tuple("Latency").field(pause).finish(),
            Self::Hook(_) => f.debug_tuple("Hook").finish_non_exhaustive(),
            Self::HookAfter(_) => f.debug_tuple("HookAfter").finish_non_exhaustive(),
            Self::Answer(answer) => f.debug_tuple("Answer").field(answer).finish(),
            Self::AnswerAfter(answer) => f.debug_tuple("AnswerAfter").field(answer).finish(),
            Self::ResetBefore => f.write_str("ResetBefore"),
            Self::ResetAfter => f.write_str("ResetAfter"),
            Self::Hang => f.write_str("Hang"),
            Self::Truncate(bytes) => f.debug_tuple("Truncate").field(bytes).finish(),
            Self::Trickle(bytes, pause) => f.debug_tuple("Trickle").field(bytes).field(pause).finish(),
            Self::SetHeaders(headers) => f.debug_tuple("SetHeaders").field(headers).finish(),
            Self::ReplaceBody(body) => f.debug_tuple("ReplaceBody").field(body).finish(),
            Self::Flood(bytes) => f.debug_tuple("Flood").field(bytes).finish(),
        }
    }
}

/// A rule: which requests fail, and how. Without further narrowing, every request does, for ever.
#[derive(Clone, Debug)]
pub struct Fault {
    action: Action,
    server: Option<Server>,
    method: Option<Method>,
    mutations: bool,
    path: String,
    skip: usize,
    times: usize,
}

impl Fault {
    /// A fault that hits every request.
    #[must_use]
    pub fn new(action: Action) -> Self {
        Self {
            action,
            server: None,
            method: None,
            mutations: false,
            path: String::new(),
            skip: 0,
            times: usize::MAX,
        }
    }

    /// Only requests to this server.
    #[must_use]
    pub fn server(mut self, server: Server) -> Self {
        self.server = Some(server);
        self
    }

    /// Only requests with this method.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// Only requests that change something, by [`Entry::is_mutation`](crate::log::Entry::is_mutation).
    #[must_use]
    pub fn mutations(mut self) -> Self {
        self.mutations = true;
        self
    }

    /// Only requests whose path and query (`/path?query`, as sent) contain this text; `*` stands for any characters, a `^` in
    /// front ties it to the beginning and a `$` behind to the end.
    #[must_use]
    pub fn path(mut self, pattern: &str) -> Self {
        pattern.clone_into(&mut self.path);
        self
    }

    /// Lets the first `count` matching requests through.
    #[must_use]
    pub fn skip(mut self, count: usize) -> Self {
        self.skip = count;
        self
    }

    /// Hits this many requests, then never again.
    #[must_use]
    pub fn times(mut self, count: usize) -> Self {
        self.times = count;
        self
    }

    fn matches(&self, server: Server, method: &Method, target: &str) -> bool {
        self.server.is_none_or(|wanted| wanted == server)
            && self.method.as_ref().is_none_or(|wanted| wanted == method)
            && (!self.mutations || is_mutation(method, target))
            && glob(&self.path, target)
    }
}

/// Whether the pattern of [`Fault::path`] fits the target.
fn glob(pattern: &str, target: &str) -> bool {
    let (pattern, at_start) = pattern.strip_prefix('^').map_or((pattern, false), |rest| (rest, true));
    let (pattern, at_end) = pattern.strip_suffix('$').map_or((pattern, false), |rest| (rest, true));
    let mut rest = target;
    let mut pieces = pattern.split('*').enumerate().peekable();
    while let Some((index, piece)) = pieces.next() {
        let last = pieces.peek().is_none();
        let found = match (index == 0 && at_start, last && at_end) {
            (true, true) => (rest == piece).then_some(0),
            (true, false) => rest.starts_with(piece).then_some(0),
            (false, true) => rest.ends_with(piece).then(|| rest.len() - piece.len()),
            (false, false) => rest.find(piece),
        };
        let Some(found) = found else { return false };
        rest = &rest[found + piece.len()..];
    }
    true
}

/// Names a fault that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultId(usize);

#[derive(Debug)]
struct Active {
    id: FaultId,
    fault: Fault,
    seen: usize,
    hits: usize,
}

/// The faults of a sandbox; clones share them. Faults may be added and removed while requests come in.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    active: Arc<Mutex<(usize, Vec<Active>)>>,
}

impl Faults {
    /// Adds a fault behind those already there.
    pub fn add(&self, fault: Fault) -> FaultId {
        let mut active = lock(&self.active);
        let id = FaultId(active.0);
        active.0 += 1;
        active.1.push(Active { id, fault, seen: 0, hits: 0 });
        id
    }

    /// Removes a fault.
    pub fn remove(&self, id: FaultId) {
        lock(&self.active).1.retain(|active| active.id != id);
    }

    /// Removes all faults.
    pub fn clear(&self) {
        lock(&self.active).1.clear();
    }

    /// How many requests a fault has hit so far; 0 once it has been removed.
    #[must_use]
    pub fn hits(&self, id: FaultId) -> usize {
        lock(&self.active).1.iter().find(|active| active.id == id).map_or(0, |active| active.hits)
    }

    /// What is to happen to a request, in order. Only the last action can be one that ends it; the faults behind
    /// that one do not count the request.
    pub(crate) fn hit(&self, server: Server, method: &Method, target: &str) -> Vec<Action> {
        let mut actions = Vec::new();
        for active in &mut lock(&self.active).1 {
            if !active.fault.matches(server, method, target) {
                continue;
            }
            active.seen += 1;
            if active.seen <= active.fault.skip || active.hits >= active.fault.times {
                continue;
            }
            active.hits += 1;
            actions.push(active.fault.action.clone());
            if !active.fault.action.goes_on() {
                break;
            }
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, target, fits) in [
            ("", "/a", true),
            ("/images", "/apis/x/images?limit=2", true),
            ("^/images", "/apis/x/images", false),
            ("/images$", "/apis/x/images?limit=2", false),
            ("/images$", "/images/images", true),
            ("^/v2/*/blobs/*$", "/v2/shop/web/blobs/sha256:1", true),
            ("^/v2/*/manifests/*$", "/v2/shop/web/blobs/sha256:1", false),
            ("/namespaces/*/imagestreams", "/namespaces/shop/imagestreams/web/status", true),
        ] {
            assert_eq!(glob(pattern, target), fits, "{pattern} on {target}");
        }
    }

    #[test]
    fn skips_then_hits_then_stops() {
        let faults = Faults::default();
        let id = faults.add(Fault::new(Action::Hang).path("/pods").skip(1).times(2));
        let hits: Vec<usize> =
            (0..5).map(|_| faults.hit(Server::Api, &Method::GET, "/api/v1/pods").len()).collect();
        assert_eq!(hits, [0, 1, 1, 0, 0]);
        assert_eq!(faults.hits(id), 2);
        faults.remove(id);
        assert!(faults.hit(Server::Api, &Method::GET, "/api/v1/pods").is_empty());
    }

    #[test]
    fn latency_and_hooks_do_not_end_a_request() {
        let faults = Faults::default();
        faults.add(Fault::new(Action::Latency(Duration::ZERO)));
        faults.add(Fault::new(Action::ResetBefore));
        let last = faults.add(Fault::new(Action::Hang));
        assert_eq!(faults.hit(Server::Registry(0), &Method::DELETE, "/").len(), 2);
        assert_eq!(faults.hits(last), 0);
    }
}
