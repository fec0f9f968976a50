//! What changes after the lists were read: watched where the user may, otherwise read again from time to time.
//!
//! Where it is read again, the server sends names and versions alone (`PartialObjectMetadataList`), and only what is new
//! or changed is asked for: an object is, if its resource version is greater than that of the list that was read before
//! (<https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>: they are compared as numbers).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;

use super::decode::{DecodeError, PageMetadata, Text};
use super::lists::{Absence, Content, List, ListState, Parts};
use super::read::{
    GETS_IN_FLIGHT, LISTS_IN_FLIGHT, PAGE_BYTES, PAGE_LIMIT, Reader, page_path, read_list, segment,
};
use crate::cluster::{ApiError, ApiRequest, Cluster, Lines, Retry, sanitize};
use crate::error::Failure;
use crate::model::{Inventory, Stream};

/// The server ends a watch after this time, so that one whose connection died unnoticed does not stay blind for long.
const WATCH: Duration = Duration::from_secs(60);
/// How much later than that the end may come.
const WATCH_LATE: Duration = Duration::from_secs(10);
/// A watch that is shorter did not work; the next one waits as long, and longer each time.
const SHORT: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// After so many failures in a row a list is no longer watched.
const FAILURES: u32 = 5;
/// The largest object that a watch tells of, in bytes: etcd takes a few MiB at most.
const EVENT_BYTES: usize = 32 << 20;
/// The shortest pause between two readings.
const POLL: Duration = Duration::from_secs(15);
/// A reading may take this part of the time.
const POLL_SHARE: u32 = 10;
/// If more objects changed, the list is read as a whole.
const FEW: usize = 100;

/// What was seen of the cluster since its lists were read, each object in an inventory of its own.
#[derive(Debug, Default)]
pub struct News {
    seen: Mutex<Vec<Inventory>>,
    count: AtomicUsize,
    changed: Notify,
}

impl News {
    /// What was seen since the last call. Costs next to nothing if there is nothing.
    pub fn take(&self) -> Vec<Inventory> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.count.store(0, Ordering::Release);
        std::mem::take(&mut *seen)
    }

    fn add(&self, seen: Inventory) {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(seen);
        self.count.store(all.len(), Ordering::Release);
        drop(all);
        self.changed.notify_one();
    }

    /// Waits until something was seen that was not taken.
    pub async fn wait(&self) {
        while self.count.load(Ordering::Acquire) == 0 {
            self.changed.notified().await;
        }
    }
}

/// What there is to be said of watching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// These resources cannot be watched, and are read again so often.
    Polled(Vec<String>, Duration),
    /// This resource could not be read again.
    Unread(String, String),
}

/// Who hears of it.
pub type Tell = Arc<dyn Fn(Told) + Send + Sync>;

/// Everything that is followed from the lists on. Ends when it is dropped.
#[derive(Debug)]
pub struct Watching {
    news: Arc<News>,
    followers: Vec<Arc<Follower>>,
    _tasks: JoinSet<()>,
}

impl Watching {
    /// Follows these lists. When this returns, each is watched, or was read again. `every` is how often lists are read again
    /// that cannot be watched; without it, as often as their size allows.
    ///
    /// # Errors
    /// A list can neither be watched nor read again.
    pub async fn begin(
        cluster: &Cluster,
        states: Vec<ListState>,
        every: Option<Duration>,
        tell: Tell,
    ) -> Result<Self, Failure> {
        let news = Arc::new(News::default());
        let mut tasks = JoinSet::new();
        let (mut followers, mut begun) = (Vec::new(), Vec::new());
        for ListState { list, namespace, version } in states {
            // Limits protect nothing.
            if list.content == Content::LimitRanges {
                continue;
            }
            let follower = Arc::new(Follower {
                cluster: cluster.clone(),
                // What was read must not be missed because it cannot be read any longer.
                list: List { absence: Absence::Stops, ..list },
                namespace,
                version: tokio::sync::Mutex::new(version),
                is_polled: AtomicBool::new(false),
                news: Arc::clone(&news),
            });
            let (ready, is_ready) = oneshot::channel();
            tasks.spawn(Arc::clone(&follower).follow(ready, Arc::clone(&tell)));
            followers.push(follower);
            begun.push(is_ready);
        }
        let start = Instant::now();
        for ready in begun {
            // A task that panicked says nothing.
            ready.await.unwrap_or_else(|_| Err(Failure::nothing_changed("watch the cluster")))?;
        }
        let mut polling = Polling { every, announced: 0, pause: Duration::ZERO, tell };
        polling.adapt(&followers, start.elapsed());
        tasks.spawn(poll(followers.clone(), polling));
        Ok(Self { news, followers, _tasks: tasks })
    }

    /// What is seen.
    #[must_use]
    pub fn news(&self) -> &Arc<News> {
        &self.news
    }

    /// Reads once more what is not watched.
    ///
    /// # Errors
    /// As [`super::read`].
    pub async fn look_again(&self) -> Result<(), Failure> {
        for (_, result) in read_again(&self.followers).await {
            result?;
        }
        Ok(())
    }
}

/// How often is read again what cannot be watched.
struct Polling {
    every: Option<Duration>,
    /// How many lists it was said of.
    announced: usize,
    pause: Duration,
    tell: Tell,
}

impl Polling {
    /// Adapts the pause to what the last reading took, and says so.
    fn adapt(&mut self, followers: &[Arc<Follower>], took: Duration) {
        let polled: Vec<String> = followers
            .iter()
            .filter(|follower| follower.is_polled())
            .map(|follower| follower.name())
            .collect();
        let asked =
            self.every.unwrap_or_else(|| POLL.max(Duration::from_secs((took * POLL_SHARE).as_secs())));
        // Up to twice as long as was said is the same.
        if polled.len() > self.announced || asked > self.pause * 2 {
            self.pause = asked;
            self.announced = polled.len();
            if self.announced > 0 {
                (self.tell)(Told::Polled(polled, self.pause));
            }
        }
    }
}

/// Reads again what cannot be watched, for ever.
async fn poll(followers: Vec<Arc<Follower>>, mut polling: Polling) {
    loop {
        tokio::time::sleep(polling.pause).await;
        let begun = Instant::now();
        for (name, result) in read_again(&followers).await {
            if let Err(failure) = result {
                (polling.tell)(Told::Unread(name, failure.message));
            }
        }
        polling.adapt(&followers, begun.elapsed());
    }
}

async fn read_again(followers: &[Arc<Follower>]) -> Vec<(String, Result<(), Failure>)> {
    let polled = followers.iter().filter(|follower| follower.is_polled());
    let readings = polled.map(|follower| async { (follower.name(), follower.read_changed().await) });
    // Collected first: a closure that borrows makes the stream's future no `Send` one.
    let readings: Vec<_> = readings.collect();
    futures::stream::iter(readings).buffered(LISTS_IN_FLIGHT).collect().await
}

/// A list that is followed.
#[derive(Debug)]
struct Follower {
    cluster: Cluster,
    list: List,
    namespace: Option<String>,
    /// The state up to which everything was seen.
    version: tokio::sync::Mutex<String>,
    is_polled: AtomicBool,
    news: Arc<News>,
}

/// One line of a watch.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// A page of a list, of which names and versions alone are read.
#[derive(Deserialize)]
struct PartialPage<'a> {
    #[serde(default)]
    metadata: Option<PageMetadata>,
    #[serde(borrow, default)]
    items: Option<Vec<PartialObject<'a>>>,
}

#[derive(Deserialize)]
struct PartialObject<'a> {
    #[serde(borrow)]
    metadata: PartialMetadata<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PartialMetadata<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    namespace: Text<'a>,
    #[serde(borrow)]
    resource_version: Text<'a>,
}

/// What an `ERROR` of a watch says.
#[derive(Default, Deserialize)]
#[serde(default)]
struct StatusObject {
    code: u16,
    message: String,
}

impl Follower {
    fn is_polled(&self) -> bool {
        self.is_polled.load(Ordering::Relaxed)
    }

    fn name(&self) -> String {
        self.list.qualified()
    }

    /// Watches for ever, or until it is seen that this cannot be done. `ready` hears once nothing can be missed any more.
    async fn follow(self: Arc<Self>, ready: oneshot::Sender<Result<(), Failure>>, tell: Tell) {
        let mut ready = Some(ready);
        let mut failures = 0_u32;
        loop {
            let begun = Instant::now();
            let error = self.watch(&mut ready).await.err();
            tracing::debug!(list = self.name(), ?error, "the watch ended");
            let lasted = begun.elapsed() >= SHORT;
            let is_expired = matches!(error, Some(ApiError::Gone { .. }));
            match &error {
                Some(error) if is_final(error) => failures = FAILURES,
                _ if lasted => failures = 0,
                None => failures = (failures + 1).min(FAILURES - 1),
                Some(_) => failures += 1,
            }
            let gives_up = failures >= FAILURES;
            self.is_polled.store(gives_up, Ordering::Relaxed);
            // What happened since the last version is not told of any more, or nobody knows when it will be.
            if gives_up || is_expired || (error.is_some() && ready.is_some()) {
                let result = self.read_changed().await;
                match (ready.take(), result) {
                    (Some(ready), result) => {
                        let failed = result.is_err();
                        let _ = ready.send(result);
                        if failed {
                            return;
                        }
                    }
                    (None, Err(failure)) => tell(Told::Unread(self.name(), failure.message)),
                    (None, Ok(())) => {}
                }
            }
            if gives_up {
                return;
            }
            if failures > 1 || (failures > 0 && !is_expired && error.is_some()) {
                tokio::time::sleep((SHORT * 2_u32.pow(failures - 1)).min(LONGEST_PAUSE)).await;
            }
        }
    }

    /// Watches until the server ends it.
    async fn watch(&self, ready: &mut Option<oneshot::Sender<Result<(), Failure>>>) -> Result<(), ApiError> {
        let mut version = self.version.lock().await;
        if version.is_empty() {
            return Err(ApiError::Gone {
                message: "the list had no version".to_owned(),
                continue_token: None,
            });
        }
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("watch", "1")
            .append_pair("allowWatchBookmarks", "true")
            .append_pair("resourceVersion", &version)
            .append_pair("timeoutSeconds", &WATCH.as_secs().to_string())
            .finish();
        let request = ApiRequest::get(format!("{}?{query}", self.list.path(self.namespace.as_deref())));
        let request = ApiRequest { retry: Retry::Never, ..request.max_body(EVENT_BYTES) };
        let mut lines = self.cluster.lines(request).await?;
        let end = tokio::time::Instant::now() + WATCH + WATCH_LATE;
        if let Some(ready) = ready.take() {
            let _ = ready.send(Ok(()));
        }
        let ended = tokio::time::timeout_at(end, self.events(&mut lines, &mut version)).await;
        ended.unwrap_or(Err(ApiError::Timeout("watching")))
    }

    async fn events(&self, lines: &mut Lines, version: &mut String) -> Result<(), ApiError> {
        let malformed = |error: serde_json::Error| ApiError::Malformed(format!("watch: {error}"));
        while let Some(line) = lines.next().await? {
            let event: Event = serde_json::from_slice(&line).map_err(malformed)?;
            let object = event.object.get();
            match &*event.kind {
                "ERROR" => {
                    let StatusObject { code, message } = serde_json::from_str(object).unwrap_or_default();
                    return Err(match code {
                        410 => ApiError::Gone { message, continue_token: None },
                        status => ApiError::Server { status, message },
                    });
                }
                "ADDED" | "MODIFIED" => {
                    self.seen(&page_of(&[object]))
                        .map_err(|error| ApiError::Malformed(format!("watch: {error}")))?;
                }
                // What is gone names nothing any more; a bookmark tells how far we are.
                _ => {}
            }
            let object: PartialObject = serde_json::from_str(object).map_err(malformed)?;
            if !object.metadata.resource_version.is_empty() {
                *version = object.metadata.resource_version.0.into_owned();
            }
        }
        Ok(())
    }

    /// Tells of the objects in a page.
    fn seen(&self, page: &[u8]) -> Result<(), DecodeError> {
        let mut parts = Parts::default();
        parts.page(&self.list, page)?;
        self.add(parts);
        Ok(())
    }

    fn add(&self, parts: Parts) {
        let seen = parts.finish().inventory;
        let names = if tracing::enabled!(tracing::Level::DEBUG) { names(&seen) } else { Vec::new() };
        self.news.add(seen);
        for name in names {
            tracing::debug!("new or changed: {} {name}", self.name());
        }
    }

    /// Reads what is new or has changed.
    async fn read_changed(&self) -> Result<(), Failure> {
        let mut version = self.version.lock().await;
        let doing = format!("list {}", self.name());
        let (now, changed) =
            self.changed(&version).await.map_err(|error| self.cluster.failure(&error, &doing))?;
        let objects = match changed {
            Some(changed) if changed.len() <= FEW => self.get(&changed).await,
            _ => Ok(None),
        };
        match objects.map_err(|error| self.cluster.failure(&error, &doing))? {
            Some(objects) if objects.is_empty() => {}
            Some(objects) => {
                let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
                self.seen(&page_of(&objects))
                    .map_err(|error| Failure::nothing_changed(format!("{doing}: {error}")))?;
            }
            None => {
                let mut parts = Parts::default();
                let namespace = self.namespace.as_deref();
                let reader = Reader::new(&self.cluster, &|_| {});
                read_list(&reader, &self.list, namespace, &mut parts).await?;
                self.add(parts);
            }
        }
        *version = now;
        Ok(())
    }

    /// The version of the list now, and what changed since the other one: namespaces and names, unless that cannot be
    /// told.
    async fn changed(&self, since: &str) -> Result<(String, Option<Vec<(String, String)>>), ApiError> {
        let before: Option<u64> = since.parse().ok();
        let path = self.list.path(self.namespace.as_deref());
        let (mut limit, mut token) = (PAGE_LIMIT, String::new());
        let mut changed = before.map(|_| Vec::new());
        loop {
            let request = ApiRequest {
                accept: "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
                ..ApiRequest::get(page_path(&path, limit, &token)).max_body(PAGE_BYTES)
            };
            let body = match self.cluster.request(request).await {
                Ok(answer) => answer.body,
                // The server forgot the state that the pages show: all at once, then.
                Err(ApiError::Gone { .. }) if limit > 0 && !token.is_empty() => {
                    limit = 0;
                    token.clear();
                    changed = before.map(|_| Vec::new());
                    continue;
                }
                // A server that has only one form of everything.
                Err(ApiError::Server { status: 406, .. }) => return Ok((String::new(), None)),
                Err(error) => return Err(error),
            };
            let page: PartialPage = serde_json::from_slice(&body)
                .map_err(|error| ApiError::Malformed(format!("{}: {error}", self.name())))?;
            let Some(items) = page.items else {
                return Err(ApiError::Malformed(format!("{}: no items in it", self.name())));
            };
            for PartialObject { metadata } in items {
                let version = metadata.resource_version.parse::<u64>().ok();
                match (&mut changed, before, version) {
                    (Some(_), Some(before), Some(version)) if version <= before => {}
                    (Some(changed), Some(_), Some(_)) => {
                        changed.push((metadata.namespace.0.into_owned(), metadata.name.0.into_owned()));
                    }
                    _ => changed = None,
                }
            }
            let PageMetadata { resource_version, next } = page.metadata.unwrap_or_default();
            if next.is_empty() {
                return Ok((resource_version, changed));
            }
            token = next;
        }
    }

    /// These objects, as far as they are still there; nothing if they may not be read one by one.
    async fn get(&self, names: &[(String, String)]) -> Result<Option<Vec<String>>, ApiError> {
        let gets = names.iter().map(|(namespace, name)| {
            let namespace = Some(namespace.as_str()).filter(|namespace| !namespace.is_empty()).map(segment);
            let mut path = self.list.path(namespace.as_deref());
            let _ = write!(path, "/{}", segment(name));
            async move {
                match self.cluster.request(ApiRequest::get(path).max_body(PAGE_BYTES)).await {
                    Ok(answer) => Ok(Some(answer.body)),
                    Err(ApiError::NotFound { .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        });
        let gets: Vec<_> = gets.collect();
        let found: Result<Vec<_>, ApiError> =
            futures::stream::iter(gets).buffered(GETS_IN_FLIGHT).try_collect().await;
        let found = match found {
            Ok(found) => found,
            Err(ApiError::Forbidden { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let texts = found.into_iter().flatten().map(|body| {
            String::from_utf8(body.into()).map_err(|error| ApiError::Malformed(error.to_string()))
        });
        texts.collect::<Result<_, _>>().map(Some)
    }
}

/// Whether a watch that failed like this fails always.
fn is_final(error: &ApiError) -> bool {
    matches!(
        error,
        ApiError::Forbidden { .. }
            | ApiError::NotFound { .. }
            | ApiError::Invalid { .. }
            | ApiError::Server { status: 405 | 406 | 415 | 501, .. }
    )
}

/// The names of these objects, for the log.
fn names(seen: &Inventory) -> Vec<String> {
    let images = seen.images.all().iter().map(|image| seen.names.text(image.name).into_owned());
    let streams = seen.streams.iter().map(Stream::repository);
    let text = |word| seen.names.words.text(word);
    let referrers = seen.referrers.all().iter();
    let referrers = referrers.map(|referrer| format!("{}/{}", text(referrer.namespace), text(referrer.name)));
    images.chain(streams).chain(referrers).map(|name| sanitize(&name)).collect()
}

/// A page of these objects, as a list has it.
fn page_of(objects: &[&str]) -> Vec<u8> {
    format!(r#"{{"items":[{}]}}"#, objects.join(",")).into_bytes()
}
