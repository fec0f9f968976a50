//! What the servers of a sandbox were asked, in order.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Method, StatusCode};

use crate::lock;

/// Which server of the sandbox a request went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Server {
    /// The API server.
    Api,
    /// A registry replica, by its number.
    Registry(usize),
    /// A route to the registry, by its number; such a request is a replica's as well.
    Route(usize),
    /// The storage host of a redirecting registry.
    Storage,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Counts the requests of all servers that share the log, from 0, in the order of their arrival.
    pub sequence: usize,
    /// The server asked.
    pub server: Server,
    /// The method.
    pub method: Method,
    /// The path, still percent-encoded.
    pub path: String,
    /// The query, still percent-encoded; empty without one.
    pub query: String,
    /// Whether the client showed who it is: with a token or a password, right or wrong.
    pub authorized: bool,
    /// The user, once the server knows.
    pub user: Option<String>,
    /// The status answered; `None` while the request is being handled, and for a connection cut before an answer.
    pub status: Option<StatusCode>,
    /// Whether the server itself handled the request, as opposed to a fault that answered in its place.
    pub handled: bool,
    /// The body of a mutating request; empty for others.
    pub body: Bytes,
    /// When the request arrived.
    pub at: Instant,
}

impl Entry {
    /// Whether the request asks for a change (anything but GET, HEAD and OPTIONS, reviews apart).
    #[must_use]
    pub fn is_mutation(&self) -> bool {
        is_mutation(&self.method, &self.path)
    }

    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// The requests of all servers that share the log.
#[derive(Clone, Debug, Default)]
pub struct RequestLog {
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl RequestLog {
    /// All requests so far.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.entries).clone()
    }

    /// The requests so far for which the predicate holds.
    #[must_use]
    pub fn filter(&self, predicate: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        lock(&self.entries).iter().filter(|entry| predicate(entry)).cloned().collect()
    }

    /// The requests so far that asked for a change.
    #[must_use]
    pub fn mutations(&self) -> Vec<Entry> {
        self.filter(Entry::is_mutation)
    }

    /// How many requests came in so far.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.entries).len()
    }

    /// Whether nothing has been asked yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes down a request that has just arrived and returns its sequence number.
    pub(crate) fn arrived(&self, server: Server, head: &Parts, body: &Bytes) -> usize {
        let Parts { method, uri, headers, .. } = head;
        let mut entries = lock(&self.entries);
        let sequence = entries.len();
        entries.push(Entry {
            sequence,
            server,
            method: method.clone(),
            path: uri.path().to_owned(),
            query: uri.query().unwrap_or_default().to_owned(),
            authorized: headers.contains_key(AUTHORIZATION),
            user: None,
            status: None,
            handled: false,
            body: if method.is_safe() { Bytes::new() } else { body.clone() },
            at: Instant::now(),
        });
        sequence
    }

    /// Changes what is known about a request.
    pub(crate) fn update(&self, sequence: usize, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = lock(&self.entries).get_mut(sequence) {
            change(entry);
        }
    }
}

/// Whether a request asks the server to change something.
pub(crate) fn is_mutation(method: &http::Method, path: &str) -> bool {
    // Reviews are POSTs that ask a question.
    !method.is_safe() && !path.contains("reviews")
}
