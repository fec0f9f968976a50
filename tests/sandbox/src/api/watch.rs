//! Watches.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::resource::Resource;
use super::select::Selector;
use super::status::Failure;
use super::store::{Object, Store};
use crate::serve::Body;

/// What a watch is asked for.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) resource: &'static Resource,
    pub(crate) namespace: String,
    pub(crate) selector: Arc<Selector>,
    /// Where to begin; without one, with the objects there are.
    pub(crate) after: Option<u64>,
    /// Mark the end of the objects there are.
    pub(crate) mark_initial: bool,
    pub(crate) bookmarks: bool,
    pub(crate) bookmark_interval: Duration,
    pub(crate) timeout: Option<Duration>,
}

/// A stream that consists of one error.
pub(crate) fn failed(failure: &Failure) -> Body {
    crate::serve::full(event("ERROR", &failure.to_json().to_string().into()))
}

fn event(kind: &str, object: &Bytes) -> Bytes {
    let mut event = format!(r#"{{"type":{kind:?},"object":"#).into_bytes();
    event.extend_from_slice(object);
    event.extend_from_slice(b"}\n");
    event.into()
}

impl Watch {
    /// The stream of events: ends with the client, the timeout, or an error.
    pub(crate) fn run(self, store: Store) -> Body {
        let (sender, receiver) = mpsc::channel::<Bytes>(16);
        tokio::spawn(async move {
            // The client left if nobody takes the events.
            let _ = self.send(&store, &sender).await;
        });
        let events = stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|event| (Ok(Frame::data(event)), receiver))
        });
        StreamBody::new(events.boxed()).boxed_unsync()
    }

    async fn send(
        &self,
        store: &Store,
        sender: &mpsc::Sender<Bytes>,
    ) -> Result<(), mpsc::error::SendError<Bytes>> {
        let mut revisions = store.subscribe();
        let end = self.timeout.map(|timeout| Instant::now() + timeout);
        let mut bookmark = Instant::now() + self.bookmark_interval;
        let mut seen = if let Some(revision) = self.after {
            revision
        } else {
            let page = store.page(self.resource, &self.namespace, None, None, usize::MAX, None);
            let page = page.unwrap_or_default();
            for object in page.items.iter().filter(|object| self.selects(object)) {
                sender.send(event("ADDED", &object.complete(self.resource))).await?;
            }
            if self.mark_initial {
                sender.send(self.bookmark(page.revision, true)).await?;
            }
            page.revision
        };
        loop {
            match store.changes(self.resource, seen) {
                Err(oldest) => {
                    let failure = Failure::too_old(seen, oldest).to_json().to_string();
                    return sender.send(event("ERROR", &failure.into())).await;
                }
                Ok((changes, revision)) => {
                    for change in changes {
                        if !self.namespace.is_empty()
                            && change
                                .key
                                .split_once('/')
                                .is_none_or(|(namespace, _)| namespace != self.namespace)
                        {
                            continue;
                        }
                        let before = change.before.as_ref().is_some_and(|object| self.selects(object));
                        let after = change.after.as_ref().is_some_and(|object| self.selects(object));
                        let kind = match (before, after) {
                            (false, true) => "ADDED",
                            (true, true) => "MODIFIED",
                            (true, false) => "DELETED",
                            (false, false) => continue,
                        };
                        sender.send(event(kind, &change.reported.complete(self.resource))).await?;
                    }
                    seen = seen.max(revision);
                }
            }
            tokio::select! {
                () = sender.closed() => return Ok(()),
                changed = revisions.changed() => if changed.is_err() { return Ok(()) },
                () = sleep_until(bookmark), if self.bookmarks => {
                    sender.send(self.bookmark(seen, false)).await?;
                    bookmark = Instant::now() + self.bookmark_interval;
                }
                () = async { sleep_until(end.unwrap_or(bookmark)).await }, if end.is_some() => {
                    if self.bookmarks {
                        sender.send(self.bookmark(seen, false)).await?;
                    }
                    return Ok(());
                }
            }
        }
    }

    fn selects(&self, object: &Object) -> bool {
        self.selector.is_empty() || self.selector.matches(&object.value())
    }

    fn bookmark(&self, revision: u64, initial: bool) -> Bytes {
        let mut object: Value = json!({
            "kind": self.resource.kind,
            "apiVersion": self.resource.api_version(),
            "metadata": { "resourceVersion": revision.to_string() },
        });
        if initial {
            object["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        event("BOOKMARK", &object.to_string().into())
    }
}
