//! The reading itself: pages, several lists in flight, restarts.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::Either;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;

use super::decode::{self, DecodeError, PageMetadata};
use super::lists::{Absence, Content, List, Parts, Read};
use crate::cluster::{ApiError, ApiRequest, Buffers, Cluster, Taking};
use crate::error::Failure;
use crate::model::{Id, Inventory, Kind, Names, Selector, Stream};

/// Objects in a page, as kubectl asks for.
pub(super) const PAGE_LIMIT: usize = 500;
/// The largest page that is taken, in bytes. A larger one is asked for again in smaller pieces.
pub(super) const PAGE_BYTES: usize = 128 << 20;
/// How often a list whose continue token expired is started again.
const RESTARTS: usize = 4;
/// How often a list with a page that is no JSON is started again: something between us and the server may have cut it.
const MALFORMED_RETRIES: usize = 2;
/// How many lists are read at once, beside that of images.
pub(super) const LISTS_IN_FLIGHT: usize = 6;
/// How many pages of all lists are in memory, from the request on until they are decoded.
const PAGES_IN_MEMORY: usize = 6;
/// How long the list of images may take to fail as well, once another list has failed.
const LAST_WORD: Duration = Duration::from_secs(1);
/// How many single objects are asked for at once.
pub(super) const GETS_IN_FLIGHT: usize = 16;

/// What is to be read.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// `--namespace`: only these streams and limits; referrers are always read cluster-wide.
    pub namespace: Option<String>,
    /// `--referrers-from`: resources whose objects protect images, too.
    pub referrers_from: Vec<ResourceName>,
    /// `--selector`: which streams are looked at; all are read.
    pub selector: Option<Selector>,
}

/// A resource as kubectl writes it: `resource`, `resource.group` or `resource.version.group`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceName {
    /// The plural name.
    pub resource: String,
    /// The version, if it was given.
    pub version: Option<String>,
    /// The group; empty for core.
    pub group: String,
}

impl ResourceName {
    /// Reads a resource as kubectl does. A group's first part may look like a version, too: then the version is needed.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !word.split('.').all(|part| !part.is_empty() && part.chars().all(is_name)) {
            return None;
        }
        let (resource, rest) = word.split_once('.').unwrap_or((word, ""));
        let (second, group) = rest.split_once('.').unwrap_or((rest, ""));
        let (version, group) =
            if is_version(second) { (Some(second.to_owned()), group) } else { (None, rest) };
        Some(Self { resource: resource.to_owned(), version, group: group.to_owned() })
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, version, group } = self;
        f.write_str(resource)?;
        let parts = version
            .as_deref()
            .into_iter()
            .chain([group.as_str()].into_iter().filter(|group| !group.is_empty()));
        parts.into_iter().try_for_each(|part| write!(f, ".{part}"))
    }
}

/// Whether it looks like an API version: `v1`, `v1beta2`, `v2alpha1`.
fn is_version(part: &str) -> bool {
    let is_number = |text: &str| text.starts_with(|c| matches!(c, '1'..='9')) && text.parse::<u32>().is_ok();
    let Some(rest) = part.strip_prefix('v') else { return false };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, stage) = rest.split_at(end);
    let is_stage = |name: &str| stage.strip_prefix(name).is_some_and(is_number);
    is_number(major) && (stage.is_empty() || is_stage("alpha") || is_stage("beta"))
}

/// What happens while reading, for progress and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// So many objects of this resource so far.
    Progress(String, usize),
    /// The list expired and starts again.
    Restarted(String),
    /// The list cannot be read, and need not be.
    Skipped(String, String),
    /// The list may not be read, and need not be: it would only protect more.
    Forbidden(String, String),
}

/// Reads every list of the inventory.
///
/// # Errors
/// A list that may not be read stops the run, with the right that is missing; so does one that cannot be decoded.
pub async fn read(cluster: &Cluster, scope: &Scope, tell: &(dyn Fn(Event) + Sync)) -> Result<Read, Failure> {
    let others = other_lists(cluster, scope).await?;
    let reader = Reader::new(cluster, tell);
    let images_then_streams = async {
        let mut parts = Parts::with(Names::default(), scope.selector.clone());
        read_list(&reader, &List::images(), None, &mut parts).await?;
        read_list(&reader, &List::image_streams(), scope.namespace.as_deref(), &mut parts).await?;
        Ok(parts)
    };
    let rest = read_lists(&reader, others, scope.namespace.as_deref());
    let images_then_streams = std::pin::pin!(images_then_streams);
    let rest = std::pin::pin!(rest);
    let (mut parts, rest) = match futures::future::select(images_then_streams, rest).await {
        Either::Left((Ok(parts), rest)) => (parts, rest.await.map_err(together)?),
        Either::Left((Err(failure), rest)) => {
            let mut failures = rest.await.err().unwrap_or_default();
            failures.push(failure);
            return Err(together(failures));
        }
        Either::Right((Ok(rest), images)) => (images.await?, rest),
        Either::Right((Err(mut failures), images)) => {
            // Whoever lacks one right mostly lacks others: a moment for the images to say so, too.
            if let Ok(Err(failure)) = tokio::time::timeout(LAST_WORD, images).await {
                failures.push(failure);
            }
            return Err(together(failures));
        }
    };
    for other in rest {
        parts.merge(other);
    }
    Ok(parts.finish())
}

/// Every list but those of images and image streams.
async fn other_lists(cluster: &Cluster, scope: &Scope) -> Result<Vec<List>, Failure> {
    let mut others = List::others();
    for name in &scope.referrers_from {
        others.push(resolve(cluster, name).await?);
    }
    Ok(others)
}

/// Reads lists side by side; all of them, so that all missing rights are seen.
async fn read_lists(
    reader: &Reader<'_>,
    lists: Vec<List>,
    namespace: Option<&str>,
) -> Result<Vec<Parts>, Vec<Failure>> {
    let results = futures::stream::iter(lists).map(|list| async move {
        // Referrers are read cluster-wide, whatever the streams are limited to.
        let namespace = namespace.filter(|_| list.content == Content::LimitRanges);
        let mut parts = Parts::default();
        read_list(reader, &list, namespace, &mut parts).await.map(|()| parts)
    });
    let (mut all, mut failures) = (Vec::new(), Vec::new());
    for result in results.buffered(LISTS_IN_FLIGHT).collect::<Vec<Result<Parts, Failure>>>().await {
        match result {
            Ok(parts) => all.push(parts),
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() { Ok(all) } else { Err(failures) }
}

/// Several lists that cannot be read are one failure, so that all missing rights are seen at once.
fn together(failures: Vec<Failure>) -> Failure {
    let mut all = failures.into_iter();
    let mut first = all.next().unwrap_or_else(|| Failure::nothing_changed("read the cluster"));
    for failure in all {
        let _ = write!(first.message, "\n       {}", failure.message);
        for hint in failure.hints {
            if !first.hints.contains(&hint) {
                first.hints.push(hint);
            }
        }
    }
    first
}

pub(super) async fn read_list(
    reader: &Reader<'_>,
    list: &List,
    namespace: Option<&str>,
    parts: &mut Parts,
) -> Result<(), Failure> {
    let Reader { cluster, tell, .. } = reader;
    let doing = format!("list {}", list.qualified());
    match pages(reader, list, namespace, parts).await {
        Ok(()) => Ok(()),
        Err(PageError::Api(ApiError::NotFound { .. })) if list.absence != Absence::Stops => {
            tell(Event::Skipped(list.qualified(), "the server does not serve it".into()));
            Ok(())
        }
        Err(PageError::Api(error @ ApiError::Forbidden { .. }))
            if list.absence == Absence::MayBeUnreadable =>
        {
            tell(Event::Forbidden(list.qualified(), error.to_string()));
            Ok(())
        }
        Err(PageError::Api(error)) => Err(cluster.failure(&error, &doing)),
        Err(PageError::Decode(error)) => Err(Failure::nothing_changed(format!("{doing}: {error}")).hint(
            format!("look at what the server answers: oc get --raw '{}?limit=1'", list.path(namespace)),
        )),
    }
}

#[derive(Debug)]
enum PageError {
    Api(ApiError),
    Decode(DecodeError),
}

async fn pages(
    reader: &Reader<'_>,
    list: &List,
    namespace: Option<&str>,
    parts: &mut Parts,
) -> Result<(), PageError> {
    parts.begin();
    let list = Arc::new(list.clone());
    let path = list.path(namespace);
    let mut limit = PAGE_LIMIT;
    let (mut restarts, mut malformed) = (0, 0);
    let mut token = String::new();
    let mut coming = reader.ask(&list, page_path(&path, limit, &token));
    loop {
        // The next page is asked for as soon as this one has said where it begins.
        let next = coming.next().await;
        let ahead = next.map(|next| (reader.ask(&list, page_path(&path, limit, &next)), next));
        let page = match coming.page().await {
            Ok(page) => page,
            Err(ApiError::Gone { .. }) if restarts < RESTARTS => {
                // The server forgot the state that the pages show. The inconsistent token that it offers would mix
                // two states, so the list starts again, in larger pages: it has to finish before the next
                // compaction of etcd.
                restarts += 1;
                limit = if restarts == RESTARTS { 0 } else { limit.saturating_mul(4) };
                token.clear();
                parts.restart(&list);
                (reader.tell)(Event::Restarted(list.qualified()));
                coming = reader.ask(&list, page_path(&path, limit, &token));
                continue;
            }
            Err(ApiError::BodyTooLarge { .. }) if limit != 1 => {
                limit = if limit == 0 { PAGE_LIMIT } else { (limit / 8).max(1) };
                coming = reader.ask(&list, page_path(&path, limit, &token));
                continue;
            }
            Err(error) => return Err(PageError::Api(error)),
        };
        let metadata = match decoded(parts, &list, page).await {
            Ok(metadata) => metadata,
            Err(DecodeError::Malformed(_) | DecodeError::Protobuf(_)) if malformed < MALFORMED_RETRIES => {
                // Half of the page may have been taken before the fault: the list starts again.
                malformed += 1;
                token.clear();
                parts.restart(&list);
                (reader.tell)(Event::Restarted(list.qualified()));
                coming = reader.ask(&list, page_path(&path, limit, &token));
                continue;
            }
            Err(error) => return Err(PageError::Decode(error)),
        };
        (reader.tell)(Event::Progress(list.qualified(), parts.objects()));
        if metadata.next.is_empty() {
            parts.end(&list, namespace, metadata.resource_version);
            return Ok(());
        }
        token = metadata.next;
        coming = match ahead {
            Some((ahead, asked)) if asked == token => ahead,
            // The page said nothing in time, or broke off and came again from another state.
            _ => reader.ask(&list, page_path(&path, limit, &token)),
        };
    }
}

/// Decodes a page on a thread of its own: meanwhile others come in.
async fn decoded(parts: &mut Parts, list: &Arc<List>, page: Page) -> Result<PageMetadata, DecodeError> {
    let (mut taken, list) = (std::mem::take(parts), Arc::clone(list));
    let decoding = tokio::task::spawn_blocking(move || {
        let metadata = taken.page(&list, &page.body);
        (taken, metadata)
    });
    match decoding.await {
        Ok((taken, metadata)) => {
            *parts = taken;
            metadata
        }
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Reads lists, several at once.
pub(super) struct Reader<'a> {
    cluster: &'a Cluster,
    tell: &'a (dyn Fn(Event) + Sync),
    /// How many more pages may be in memory.
    room: Arc<Semaphore>,
    buffers: Buffers,
}

/// A page in memory.
struct Page {
    body: Bytes,
    _room: OwnedSemaphorePermit,
}

/// A page that was asked for. It is given up if this is dropped.
struct Coming {
    task: JoinHandle<Result<Page, ApiError>>,
    next: oneshot::Receiver<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(cluster: &'a Cluster, tell: &'a (dyn Fn(Event) + Sync)) -> Self {
        Self { cluster, tell, room: Arc::new(Semaphore::new(PAGES_IN_MEMORY)), buffers: Buffers::default() }
    }

    /// Asks for a page as soon as there is room for it.
    fn ask(&self, list: &List, path: String) -> Coming {
        let (cluster, buffers, room) = (self.cluster.clone(), self.buffers.clone(), Arc::clone(&self.room));
        let request = page_request(list, path);
        let (sender, next) = oneshot::channel();
        let task = tokio::spawn(async move {
            // Nobody closes the semaphore.
            let room = room.acquire_owned().await.unwrap_or_else(|_| unreachable!());
            let sender = Mutex::new(Some(sender));
            let enough = |beginning: &[u8]| {
                let Some(next) = decode::next_of_beginning(beginning) else { return false };
                if let Some(sender) = sender.lock().unwrap_or_else(PoisonError::into_inner).take()
                    && !next.is_empty()
                {
                    // An error means that nobody wants the list any more.
                    let _ = sender.send(next);
                }
                true
            };
            let taking = Taking { buffers: &buffers, enough: &enough };
            let answer = cluster.request_taking(request, taking).await?;
            Ok(Page { body: answer.body, _room: room })
        });
        Coming { task, next }
    }
}

impl Coming {
    /// The token for the page behind it, once its beginning tells; `None` if it does not.
    async fn next(&mut self) -> Option<String> {
        (&mut self.next).await.ok()
    }

    async fn page(&mut self) -> Result<Page, ApiError> {
        match (&mut self.task).await {
            Ok(page) => page,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Protobuf is smaller and faster to read; servers that do not speak it, as for custom resources, answer in JSON.
fn page_request(list: &List, path: String) -> ApiRequest {
    let request = ApiRequest::get(path).max_body(PAGE_BYTES);
    match &list.content {
        // Nobody knows the field numbers of a resource that the user names.
        Content::Referrers(Kind::Other(_)) => request,
        _ => ApiRequest { accept: "application/vnd.kubernetes.protobuf,application/json", ..request },
    }
}

pub(super) fn page_path(path: &str, limit: usize, token: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if limit > 0 {
        query.append_pair("limit", &limit.to_string());
    }
    if !token.is_empty() {
        query.append_pair("continue", token);
    }
    format!("{path}?{}", query.finish())
}

/// Finds the version of a resource named with `--referrers-from`.
async fn resolve(cluster: &Cluster, name: &ResourceName) -> Result<List, Failure> {
    let ResourceName { resource, version, group } = name;
    let version = match version {
        Some(version) => version.clone(),
        None if group.is_empty() => "v1".to_owned(),
        None => {
            let doing = format!("find the API group {group} of --referrers-from={resource}.{group}");
            let answer = cluster.request(ApiRequest::get(format!("/apis/{group}"))).await;
            let body = answer.map_err(|error| cluster.failure(&error, &doing))?.body;
            let found: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let preferred = found.pointer("/preferredVersion/version").and_then(serde_json::Value::as_str);
            preferred.map(ToOwned::to_owned).ok_or_else(|| {
                Failure::nothing_changed(format!("{doing}: the server names no preferred version"))
                    .hint(format!("name the version: --referrers-from={resource}.VERSION.{group}"))
            })?
        }
    };
    Ok(List::of_referrers(group, &version, resource))
}

/// The path of a single Image.
#[must_use]
pub fn image_path(name: &str) -> String {
    format!("/apis/image.openshift.io/v1/images/{}", segment(name))
}

/// The path of a single image stream.
#[must_use]
pub fn stream_path(stream: &Stream) -> String {
    let (namespace, name) = (segment(&stream.namespace), segment(&stream.name));
    format!("/apis/image.openshift.io/v1/namespaces/{namespace}/imagestreams/{name}")
}

/// A name as one segment of a path, whatever is in it.
pub(super) fn segment(name: &str) -> String {
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' | b':' => {
                segment.push(char::from(byte));
            }
            b'.' if name.trim_matches('.').is_empty() => segment.push_str("%2E"),
            b'.' => segment.push('.'),
            _ => {
                let _ = write!(segment, "%{byte:02X}");
            }
        }
    }
    segment
}

/// Asks for images by name that the list of images did not have, and adds those that exist by now; indexes with
/// their sub-manifests. Returns how many.
///
/// # Errors
/// An answer other than "here it is" and "not found": nobody knows whether the image is there.
pub async fn add_appeared(
    cluster: &Cluster,
    inventory: &mut Inventory,
    missing: &[Id],
) -> Result<usize, Failure> {
    let before = inventory.images.all().len();
    let mut asked: BTreeSet<Id> = missing.iter().copied().collect();
    let mut open = missing.to_vec();
    while !open.is_empty() {
        let names: Vec<String> = open.drain(..).map(|id| inventory.names.text(id).into_owned()).collect();
        let found: Vec<(String, Option<Bytes>)> = futures::stream::iter(names)
            .map(|name| async move {
                match cluster.request(ApiRequest::get(image_path(&name)).max_body(PAGE_BYTES)).await {
                    Ok(response) => Ok((name, Some(response.body))),
                    Err(ApiError::NotFound { .. }) => Ok((name, None)),
                    Err(error) => Err(cluster.failure(&error, &format!("get image {name}"))),
                }
            })
            .buffered(GETS_IN_FLIGHT)
            .try_collect()
            .await?;
        let added = inventory.images.all().len();
        for (name, body) in found.into_iter().filter_map(|(name, body)| Some((name, body?))) {
            let reduced = decode::image(&body)
                .map_err(|error| error.to_string())
                .and_then(|object| object.reduce(&mut inventory.names, &mut inventory.images, true));
            reduced.map_err(|error| Failure::nothing_changed(format!("get image {name}: {error}")))?;
        }
        // An index that appeared brings its sub-manifests, which no item names.
        for position in added..inventory.images.all().len() {
            let manifests = inventory.images.manifests(position).iter();
            open.extend(manifests.filter(|id| inventory.images.find(**id).is_none() && asked.insert(**id)));
        }
    }
    Ok(inventory.images.all().len() - before)
}

/// Reads everything that refers to images again: what became referenced since the plan was made stays.
///
/// # Errors
/// As [`read`]; the inventory is then as it was.
pub async fn reread_referrers(
    cluster: &Cluster,
    scope: &Scope,
    inventory: &mut Inventory,
) -> Result<(), Failure> {
    let mut lists = other_lists(cluster, scope).await?;
    lists.retain(|list| matches!(list.content, Content::Referrers(_)));
    for list in &mut lists {
        // What protected when the plan was made must not stop doing so because it cannot be read any longer.
        if inventory
            .referrers
            .all()
            .iter()
            .any(|referrer| list.content == Content::Referrers(referrer.kind.clone()))
        {
            list.absence = Absence::Stops;
        }
    }
    let parts = read_lists(&Reader::new(cluster, &|_| {}), lists, None).await.map_err(together)?;
    let mut all = Parts::default();
    for part in parts {
        all.merge(part);
    }
    inventory.referrers = all.into_referrers(&mut inventory.names);
    Ok(())
}

/// Reads all image streams again: what they name now is in use, whatever the first reading said.
///
/// # Errors
/// As [`read`]; the inventory is then as it was.
pub async fn reread_streams(cluster: &Cluster, inventory: &mut Inventory) -> Result<(), Failure> {
    let mut parts = Parts::with(std::mem::take(&mut inventory.names), inventory.selector.clone());
    let result = read_list(&Reader::new(cluster, &|_| {}), &List::image_streams(), None, &mut parts).await;
    let (names, streams) = parts.into_streams();
    inventory.names = names;
    if result.is_ok() {
        inventory.streams = streams;
    }
    result
}

/// Takes what the plan needs of a single image stream.
///
/// # Errors
/// The text says why it cannot be decoded.
pub fn reduce_stream(inventory: &mut Inventory, body: &[u8]) -> Result<Stream, String> {
    let Inventory { names, selector, .. } = inventory;
    decode::stream(body)
        .map(|object| object.reduce(names, selector.as_ref()))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ConnectionOptions;
    use crate::cluster::test_support::{Reply, Server, environment, kubeconfig};

    /// The names of the images that are read from a server with these answers, and the paths that it was asked for.
    async fn images(replies: Vec<Reply>) -> (Vec<String>, Vec<String>) {
        let server = Server::start(replies).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, kubeconfig(&server.url(), "token: abc")).unwrap();
        let options = ConnectionOptions { kubeconfig: Some(path), ..ConnectionOptions::default() };
        let cluster = Cluster::connect(&options, &environment(&[])).await.unwrap();
        let mut parts = Parts::default();
        let reader = Reader::new(&cluster, &|_| {});
        let list = List::images();
        let reading = read_list(&reader, &list, None, &mut parts);
        tokio::time::timeout(Duration::from_secs(20), reading).await.expect("hung").unwrap();
        let inventory = parts.finish().inventory;
        let names = inventory.images.all().iter().map(|image| inventory.names.text(image.name).into_owned());
        let asked = server.heads().iter().map(|head| head.split(' ').nth(1).unwrap().to_owned()).collect();
        (names.collect(), asked)
    }

    fn page(next: &str, name: &str) -> (String, String) {
        let head = format!(r#"{{"metadata":{{"resourceVersion":"1","continue":"{next}"}},"items":["#);
        let rest = format!(r#"{{"metadata":{{"name":"{name}"}}}}]}}"#);
        let length = head.len() + rest.len();
        (format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{head}"), rest)
    }

    fn whole((head, rest): (String, String)) -> Reply {
        Reply::Bytes(head + &rest)
    }

    #[tokio::test]
    async fn the_next_page_is_asked_for_before_all_of_this_one_is_there() {
        let (head, rest) = page("b", "first");
        let (names, asked) = images(vec![Reply::Parts(head, rest), whole(page("", "second"))]).await;
        assert_eq!(names, ["first", "second"]);
        assert!(asked[1].ends_with("limit=500&continue=b"), "{asked:?}");
    }

    #[tokio::test]
    async fn a_page_that_came_again_from_another_state_says_where_the_next_one_begins() {
        let (cut, _) = page("old", "never");
        let replies = vec![
            Reply::Bytes(cut),
            whole(page("", "of the old state")),
            whole(page("new", "first")),
            whole(page("", "second")),
        ];
        let (names, asked) = images(replies).await;
        assert_eq!(names, ["first", "second"], "{asked:?}");
        assert!(asked[3].ends_with("continue=new"), "{asked:?}");
    }

    #[test]
    fn no_name_leaves_its_segment() {
        assert_eq!(segment("sha256:ab"), "sha256:ab");
        assert_eq!(segment("../admin"), "..%2Fadmin");
        assert_eq!(segment(".."), "%2E%2E");
        let streams = "/apis/image.openshift.io/v1/namespaces/..%2Fx/imagestreams";
        assert_eq!(List::image_streams().path(Some("../x")), streams);
        assert_eq!(segment("a?b#c%d é"), "a%3Fb%23c%25d%20%C3%A9");
        assert_eq!(page_path("/api/v1/pods", 500, "a b/=&"), "/api/v1/pods?limit=500&continue=a+b%2F%3D%26");
    }
}
