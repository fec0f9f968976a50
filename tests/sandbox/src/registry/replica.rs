//! One replica: routes, checks and answers.

use std::collections::BTreeSet;
use std::fmt;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use http::header::{
    ACCEPT, ACCEPT_RANGES, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HOST, IF_NONE_MATCH, LINK, LOCATION, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::access::{ANONYMOUS_TOKEN, Access, Credentials, Granted, authorize};
use super::answer::{
    API_VERSION, Answer, CONTENT_DIGEST, Code, Fault, SIGNATURES, created, empty, errors, finish, json_line,
    method_not_allowed, moved_to_v2, page_not_found, pong, set, with_body,
};
use super::cache::DigestCache;
use super::descriptors::RedisDescriptors;
use super::digest::Digest;
use super::docker::DockerRegistry;
use super::manifest::{DOCKER_LIST, DOCKER_MANIFEST, Manifest, OCI_INDEX, OCI_MANIFEST};
use super::storage::{Link, Storage, data_path, link_path};
use super::storage_host;
use super::{RegistryConfig, Shared};
use crate::fault::Faults;
use crate::log::{RequestLog, Server};
use crate::registry_backend::Cluster;
use crate::serve::{Handler, Service, Serving, User, full, serve};
use crate::tls::ServerTls;

/// The digests of empty layers, which every repository has.
pub(super) const EMPTY_LAYERS: [&str; 2] = [
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4",
];

/// How many repositories the catalog names at once.
const CATALOG_PAGE: usize = 100;

/// One replica of a registry. Clones are the same replica.
#[derive(Clone)]
pub struct Replica {
    pub(super) shared: Arc<Shared>,
    pub(super) config: Arc<RegistryConfig>,
    pub(super) cache: Arc<DigestCache>,
    pub(super) redis: Option<Arc<RedisDescriptors>>,
    number: usize,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("number", &self.number).finish_non_exhaustive()
    }
}

/// A request on its way through a replica.
pub(super) struct Call<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    pub(super) query: &'a str,
    pub(super) body: Bytes,
    /// `scheme://host` as the client wrote it.
    pub(super) base: &'a str,
}

/// `bytes=0-41`: the positions of the first and the last byte.
fn byte_range(header: &str) -> Option<(usize, usize)> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

impl Call<'_> {
    /// The first value of a query parameter, if it is not empty.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let value = self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            (decode(key) == name).then(|| decode(&value.replace('+', " ")))
        })?;
        (!value.is_empty()).then_some(value)
    }
}

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Base,
    Catalog,
    AdminBlob(String),
    Blob(String, String),
    Upload(String, Option<String>),
    Manifest(String, String),
    Tags(String),
}

impl Route {
    /// The route of a decoded path, if there is one.
    fn of(path: &str) -> Option<Self> {
        if let Some(digest) = path.strip_prefix("/admin/blobs/") {
            return is_digest_like(digest).then(|| Self::AdminBlob(digest.to_owned()));
        }
        let rest = path.strip_prefix("/v2/")?;
        match rest {
            "" => return Some(Self::Base),
            "_catalog" => return Some(Self::Catalog),
            _ => {}
        }
        let (left, last) = rest.rsplit_once('/')?;
        let (route, name) = if let Some(name) = left.strip_suffix("/blobs/uploads") {
            let id = (!last.is_empty()).then(|| last.to_owned());
            (Self::Upload(name.to_owned(), id), name)
        } else if let Some(name) = left.strip_suffix("/blobs").filter(|_| last.contains(':')) {
            (Self::Blob(name.to_owned(), last.to_owned()), name)
        } else if let Some(name) = left.strip_suffix("/manifests").filter(|_| !last.is_empty()) {
            (Self::Manifest(name.to_owned(), last.to_owned()), name)
        } else if let Some(name) = left.strip_suffix("/tags").filter(|_| last == "list") {
            (Self::Tags(name.to_owned()), name)
        } else {
            return None;
        };
        is_repository_name(name).then_some(route)
    }

    fn repository(&self) -> Option<&str> {
        match self {
            Self::Base | Self::Catalog | Self::AdminBlob(_) => None,
            Self::Blob(name, _) | Self::Upload(name, _) | Self::Manifest(name, _) | Self::Tags(name) => {
                Some(name)
            }
        }
    }

    /// What a request to this route wants to do.
    fn wanted(&self, call: &Call<'_>) -> Vec<Access> {
        let Some(repository) = self.repository().map(str::to_owned) else {
            return match self {
                Self::AdminBlob(_) => vec![Access::Prune],
                Self::Catalog => vec![Access::Catalog],
                _ => Vec::new(),
            };
        };
        let mut wanted = match *call.method {
            Method::GET | Method::HEAD => vec![Access::Pull(repository)],
            Method::POST | Method::PUT | Method::PATCH => {
                vec![Access::Pull(repository.clone()), Access::Push(repository)]
            }
            Method::DELETE => {
                vec![Access::Delete { repository, upload: matches!(self, Self::Upload(..)) }]
            }
            _ => Vec::new(),
        };
        wanted.extend(call.parameter("from").map(Access::Pull));
        wanted
    }
}

impl Replica {
    pub(super) fn new(shared: Arc<Shared>, config: RegistryConfig, number: usize) -> Self {
        let ttl = if config.cache_disabled { Duration::ZERO } else { config.ttl };
        let redis = config.redis.clone().map(|redis| Arc::new(RedisDescriptors::new(redis)));
        Self { shared, config: Arc::new(config), cache: Arc::new(DigestCache::new(ttl)), redis, number }
    }

    /// The number under which its requests are logged.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// How it is set up.
    #[must_use]
    pub fn config(&self) -> &RegistryConfig {
        &self.config
    }

    /// Forgets everything, as a new process would.
    pub fn restart(&self) {
        self.cache.clear();
    }

    /// Whether the replica would answer for this digest from its cache.
    #[must_use]
    pub fn remembers(&self, digest: &Digest) -> bool {
        self.cache.size(digest).is_some()
    }

    /// The handler for a server that speaks `scheme` (`https` or `http`).
    #[must_use]
    pub fn handler(&self, scheme: &'static str) -> Handler {
        let replica = self.clone();
        Arc::new(move |request| {
            let replica = replica.clone();
            async move { replica.answer(scheme, request).await.map(full) }.boxed()
        })
    }

    /// Serves the replica until the returned value is dropped; with `tls` as https, else as http.
    #[must_use]
    pub fn serve(
        &self,
        runtime: &Handle,
        listener: TcpListener,
        tls: Option<ServerTls>,
        faults: &Faults,
        log: &RequestLog,
    ) -> Serving {
        let service = Service {
            server: Server::Registry(self.number),
            handler: self.handler(if tls.is_some() { "https" } else { "http" }),
            faults: faults.clone(),
            log: log.clone(),
        };
        serve(runtime, listener, tls, service)
    }

    async fn answer(&self, scheme: &str, request: Request<Bytes>) -> Answer {
        let (head, body) = request.into_parts();
        let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host =
            host.or_else(|| head.uri.authority().map(http::uri::Authority::as_str)).unwrap_or("localhost");
        let base = format!("{scheme}://{host}");
        let query = head.uri.query().unwrap_or_default();
        let call = Call { method: &head.method, headers: &head.headers, query, body, base: &base };
        let path = decode(head.uri.path());
        if matches!(path.as_str(), "/" | "/healthz") {
            return finish(pong(), call.method);
        }
        let mut answer = match Route::of(&path) {
            _ if path == "/v2" => moved_to_v2(),
            _ if path == "/openshift/token" => self.token(&call),
            None => page_not_found(),
            Some(Route::AdminBlob(_)) if call.method != Method::DELETE => {
                empty(StatusCode::METHOD_NOT_ALLOWED)
            }
            Some(route) => {
                let mut answer = self.routed(&route, call).await;
                set(&mut answer, SIGNATURES, "1");
                answer
            }
        };
        set(&mut answer, API_VERSION, "registry/2.0");
        finish(answer, &head.method)
    }

    async fn routed(&self, route: &Route, call: Call<'_>) -> Answer {
        // Streams have two names: no more, no less.
        if route.repository().is_some_and(|name| name.split('/').count() != 2) {
            return empty(StatusCode::BAD_REQUEST);
        }
        let granted = match authorize(&*self.shared.cluster, call.headers, call.base, &route.wanted(&call)) {
            Ok(granted) => granted,
            Err(refusal) => return *refusal,
        };
        let user = granted.user.clone();
        let mut answer = self.handled(route, call, granted).await.unwrap_or_else(Answer::from);
        answer.extensions_mut().insert::<User>(user);
        answer
    }

    async fn handled(&self, route: &Route, call: Call<'_>, granted: Granted) -> Result<Answer, Fault> {
        let readonly = self.config.readonly;
        match route {
            Route::Base => {
                let mut answer = with_body(StatusCode::OK, "{}");
                set(&mut answer, CONTENT_TYPE, "application/json");
                Ok(answer)
            }
            Route::Catalog => self.catalog(&call),
            Route::AdminBlob(text) => self.delete_blob(text),
            Route::Tags(repository) => self.tags(repository),
            Route::Blob(repository, text) => {
                let digest =
                    Digest::parse(text).ok_or_else(|| Fault::with_detail(Code::DigestInvalid, json!({})))?;
                match *call.method {
                    Method::GET | Method::HEAD => self.get_blob(repository, &digest, &call).await,
                    Method::DELETE if !readonly => self.delete_layer_link(repository, &digest, &call).await,
                    _ => Ok(method_not_allowed(if readonly { "GET, HEAD" } else { "DELETE, GET, HEAD" })),
                }
            }
            Route::Manifest(repository, reference) => match *call.method {
                Method::GET | Method::HEAD => self.get_manifest(repository, reference, &call).await,
                Method::PUT if !readonly => self.put_manifest(repository, reference, call).await,
                Method::DELETE if !readonly => self.delete_manifest_link(repository, reference, &call).await,
                _ => Ok(method_not_allowed(if readonly { "GET, HEAD" } else { "DELETE, GET, HEAD, PUT" })),
            },
            Route::Upload(repository, id) => self.upload(repository, id.as_deref(), call, &granted).await,
        }
    }

    pub(super) fn storage(&self) -> &Storage {
        &self.shared.storage
    }

    pub(super) fn docker(&self) -> Option<&DockerRegistry> {
        self.shared.docker.as_ref()
    }

    pub(super) fn cluster(&self) -> &dyn Cluster {
        &*self.shared.cluster
    }

    fn token(&self, call: &Call<'_>) -> Answer {
        if call.method != Method::GET {
            return empty(StatusCode::METHOD_NOT_ALLOWED);
        }
        let basic = call
            .headers
            .get(AUTHORIZATION)
            .is_some_and(|value| value.as_bytes().to_ascii_lowercase().starts_with(b"basic "));
        let token = match Credentials::of(call.headers) {
            Credentials::Missing if !call.headers.contains_key(AUTHORIZATION) => {
                Some(ANONYMOUS_TOKEN.to_owned())
            }
            Credentials::Token(token) if basic => self.cluster().user(&token).map(|_| token),
            _ => None,
        };
        if let Some(token) = token {
            return json_line(StatusCode::OK, &json!({"access_token": token, "token": token}));
        }
        let mut answer = empty(StatusCode::UNAUTHORIZED);
        set(&mut answer, CONTENT_TYPE, "application/json");
        answer
    }

    fn catalog(&self, call: &Call<'_>) -> Result<Answer, Fault> {
        let page = match call.parameter("n") {
            None => CATALOG_PAGE,
            Some(n) => n
                .parse()
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| Fault::with_detail(Code::PaginationNumberInvalid, json!({"n": n})))?,
        };
        let last = call.parameter("last").unwrap_or_default();
        let mut names: Vec<String> = self
            .storage()
            .repositories()
            .into_iter()
            .filter(|repository| {
                let (namespace, name) = namespace_and_name(repository);
                *repository > last && self.cluster().stream_exists(namespace, name)
            })
            .collect();
        let more = names.len() > page;
        names.truncate(page);
        let mut answer = json_line(StatusCode::OK, &json!({"repositories": names}));
        if let Some(last) = names.last().filter(|_| more) {
            let last = last.replace('/', "%2F");
            set(&mut answer, LINK, &format!("</v2/_catalog?last={last}&n={page}>; rel=\"next\""));
        }
        Ok(answer)
    }

    fn tags(&self, repository: &str) -> Result<Answer, Fault> {
        let (namespace, name) = namespace_and_name(repository);
        if !self.cluster().stream_exists(namespace, name) {
            return Err(Fault::with_detail(Code::NameUnknown, json!({"name": repository})));
        }
        let tags: BTreeSet<String> = self
            .storage()
            .tags(repository)
            .into_iter()
            .filter(|tag| self.cluster().stream_tag(namespace, name, tag).is_some())
            .collect();
        Ok(json_line(StatusCode::OK, &json!({"name": repository, "tags": tags})))
    }

    /// `DELETE /admin/blobs/<digest>`: this replica forgets the digest first, then the data goes. Neither read-only
    /// mode nor disabled deletion keeps it from that.
    fn delete_blob(&self, text: &str) -> Result<Answer, Fault> {
        let digest = Digest::parse(text).ok_or_else(|| Fault::new(Code::BlobUnknown))?;
        self.cache.remove(&digest);
        self.storage().delete_blob(&digest)?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    async fn get_blob(&self, repository: &str, digest: &Digest, call: &Call<'_>) -> Result<Answer, Fault> {
        if self.stat(Link::Layer, repository, digest).await.is_none() {
            return Err(Fault::with_detail(Code::BlobUnknown, digest.as_str()));
        }
        // The registry looks once more before it serves a blob, and then for its size, whoever has it. What is gone by
        // then, or what the digest cache alone believed in, is an error.
        if self.stat(Link::Layer, repository, digest).await.is_none()
            || self.stat_anywhere(digest).await.is_none()
        {
            return Err(Fault::with_detail(Code::Unknown, json!({})));
        }
        if let Some(host) = &self.config.redirect {
            return Ok(redirected(host, digest));
        }
        let missing = || Fault::path_not_found(&data_path(digest));
        let size = self.storage().blob_size(digest).ok_or_else(missing)?;
        let body = if call.method == Method::HEAD {
            Bytes::new()
        } else {
            self.fetch(call, &format!("/v2/{repository}/blobs/{digest}"), digest).await.ok_or_else(missing)?
        };
        // As Go's http.ServeContent does.
        let range = call.headers.get(RANGE).filter(|_| call.method == Method::GET);
        let mut answer = match range.and_then(|range| byte_range(range.to_str().ok()?)) {
            None => with_body(StatusCode::OK, body),
            Some((first, _)) if first >= body.len() => {
                let text = "invalid range: failed to overlap\n";
                let mut answer = with_body(StatusCode::RANGE_NOT_SATISFIABLE, text);
                set(&mut answer, CONTENT_RANGE, &format!("bytes */{size}"));
                return Ok(answer);
            }
            Some((first, last)) => {
                let last = last.min(body.len() - 1);
                let mut answer = with_body(StatusCode::PARTIAL_CONTENT, body.slice(first..=last));
                set(&mut answer, CONTENT_RANGE, &format!("bytes {first}-{last}/{size}"));
                answer
            }
        };
        let size = if range.is_some() { answer.body().len() as u64 } else { size };
        let headers = answer.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=31536000"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        set(&mut answer, CONTENT_DIGEST, digest.as_str());
        set(&mut answer, ETAG, &format!("\"{digest}\""));
        Ok(answer)
    }

    /// The data of a blob or manifest, from `docker-registry` if there is one. What that does not serve because the
    /// repository has no link, the replica reads itself: the image stream may still list it.
    async fn fetch(&self, call: &Call<'_>, target: &str, digest: &Digest) -> Option<Bytes> {
        if let Some(docker) = self.docker() {
            let accept = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX].join(", ");
            let headers = HeaderValue::from_str(&accept)
                .into_iter()
                .map(|value| (ACCEPT, value))
                .collect::<HeaderMap>();
            let answer =
                docker.forward(call.base, &Method::GET, target, &headers, Bytes::new()).await.ok()?;
            if answer.status() == StatusCode::OK {
                return Some(answer.into_body());
            }
        }
        self.storage().read_blob(digest)
    }

    async fn delete_layer_link(
        &self,
        repository: &str,
        digest: &Digest,
        call: &Call<'_>,
    ) -> Result<Answer, Fault> {
        if !self.config.delete_enabled {
            return Err(Fault::new(Code::Unsupported));
        }
        if self.stat(Link::Layer, repository, digest).await.is_none() {
            return Err(Fault::new(Code::BlobUnknown));
        }
        self.forget(Link::Layer, repository, digest).await?;
        let target = format!("/v2/{repository}/blobs/{digest}");
        if !self.unlink(Link::Layer, repository, digest, call.base, &target).await? {
            return Err(Fault::path_not_found(&link_path(Link::Layer, repository, digest)));
        }
        Ok(empty(StatusCode::ACCEPTED))
    }

    /// Removes a link and says whether there was one. `docker-registry` will not remove the link of a blob that has no
    /// data any more; the replica does.
    async fn unlink(
        &self,
        link: Link,
        repository: &str,
        digest: &Digest,
        base: &str,
        target: &str,
    ) -> Result<bool, Fault> {
        if let Some(docker) = self.docker() {
            let answer =
                docker.forward(base, &Method::DELETE, target, &HeaderMap::new(), Bytes::new()).await?;
            if answer.status() == StatusCode::ACCEPTED {
                return Ok(true);
            }
        }
        Ok(self.storage().unlink(link, repository, digest)?)
    }

    async fn get_manifest(
        &self,
        repository: &str,
        reference: &str,
        call: &Call<'_>,
    ) -> Result<Answer, Fault> {
        let (namespace, name) = namespace_and_name(repository);
        let digest = match Digest::parse(reference) {
            Some(digest) => digest,
            None if !self.cluster().stream_exists(namespace, name) => {
                let cause =
                    json!({"code": "NAME_UNKNOWN", "message": "repository name not known to registry"});
                return Err(Fault::with_detail(Code::Unknown, cause));
            }
            None => self
                .cluster()
                .stream_tag(namespace, name, reference)
                .and_then(|digest| Digest::parse(&digest))
                .ok_or_else(|| Fault::with_detail(Code::ManifestUnknown, json!({"Tag": reference})))?,
        };
        let etag = format!("\"{digest}\"");
        let known = call.headers.get_all(IF_NONE_MATCH);
        if known.iter().any(|value| value == digest.as_str() || value == etag.as_str()) {
            return Ok(empty(StatusCode::NOT_MODIFIED));
        }

        let unknown = || {
            let detail = json!({"Name": repository, "Revision": digest.as_str()});
            Fault::with_detail(Code::ManifestUnknown, detail)
        };
        if !self.cluster().stream_names_image(namespace, name, digest.as_str()) {
            return Err(unknown());
        }
        self.stat(Link::Manifest, repository, &digest).await.ok_or_else(unknown)?;
        let target = format!("/v2/{repository}/manifests/{digest}");
        let body = self.fetch(call, &target, &digest).await.ok_or_else(unknown)?;
        if let Some(image) = self.cluster().image(digest.as_str()) {
            self.remember_members(repository, &image);
        }
        // Fakes have no contents to tell their kind from.
        let media_type =
            Manifest::parse(None, body.clone()).map_or(DOCKER_MANIFEST, |manifest| manifest.media_type);
        let accepted = |kind: &str| {
            call.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
                value.split(',').any(|part| part.split(';').next().is_some_and(|part| part.trim() == kind))
            })
        };
        let refusal = match media_type {
            OCI_MANIFEST => "OCI manifest found, but accept header does not support OCI manifests",
            OCI_INDEX => "OCI index found, but accept header does not support OCI indexes",
            _ => "",
        };
        if !refusal.is_empty() && !accepted(media_type) {
            return Err(Fault::with_message(Code::ManifestUnknown, refusal));
        }
        let mut answer = with_body(StatusCode::OK, body);
        set(&mut answer, CONTENT_TYPE, media_type);
        set(&mut answer, CONTENT_DIGEST, digest.as_str());
        set(&mut answer, ETAG, &etag);
        Ok(answer)
    }

    /// Remembers that a repository has the blobs of an image that was pulled from it.
    fn remember_members(&self, repository: &str, image: &Value) {
        let layers = image["dockerImageLayers"].as_array().into_iter().flatten().map(|layer| &layer["name"]);
        let has_config =
            matches!(image["dockerImageManifestMediaType"].as_str(), Some(DOCKER_MANIFEST | OCI_MANIFEST));
        let config = has_config.then_some(&image["dockerImageMetadata"]["Id"]);
        for digest in layers.chain(config).filter_map(Value::as_str).filter_map(Digest::parse) {
            self.cache.add(&digest, None, Some(repository));
        }
    }

    async fn put_manifest(&self, repository: &str, reference: &str, call: Call<'_>) -> Result<Answer, Fault> {
        let declared = call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let manifest = declared
            .and_then(|declared| Manifest::parse(Some(declared), call.body.clone()))
            .ok_or_else(|| Fault::with_detail(Code::ManifestInvalid, json!({})))?;
        let tag = match Digest::parse(reference) {
            Some(digest) if digest != manifest.digest => return Err(Fault::new(Code::DigestInvalid)),
            Some(_) => None,
            None => Some(reference),
        };
        let mut faults = Vec::new();
        for descriptor in manifest.references() {
            let size = match Digest::parse(&descriptor.digest) {
                Some(digest) => self.stat(Link::Layer, repository, &digest).await,
                None => None,
            };
            match size {
                None => {
                    faults.push(Fault::with_detail(Code::ManifestBlobUnknown, descriptor.digest.as_str()));
                }
                Some(size) if size == descriptor.size => {}
                Some(size) => {
                    let detail = json!({
                        "Digest": descriptor.digest,
                        "ActualSize": size,
                        "SizeInManifest": descriptor.size,
                    });
                    faults.push(Fault::with_detail(Code::Unknown, detail));
                }
            }
        }
        if !faults.is_empty() {
            return Ok(errors(&faults));
        }

        self.store_manifest(repository, tag, &manifest, &call).await?;
        let mut config = Bytes::new();
        if let super::manifest::Content::Image { config: descriptor, .. } = &manifest.content {
            config = Digest::parse(&descriptor.digest)
                .and_then(|digest| self.storage().read_blob(&digest))
                .ok_or_else(|| Fault::with_detail(Code::Unknown, json!({})))?;
        }
        let digest = &manifest.digest;
        let pull_spec = format!("{}/{repository}@{digest}", self.config.server_address);
        let (namespace, name) = namespace_and_name(repository);
        self.cluster().image_pushed(namespace, name, tag, manifest.image(&pull_spec, &config));
        Ok(created(&format!("{}/v2/{repository}/manifests/{digest}", call.base), digest))
    }

    /// Stores a manifest and links it. A replica that believes it has the data does not write them again, which is how
    /// a stale one stores a manifest that nobody can read.
    async fn store_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        manifest: &Manifest,
        call: &Call<'_>,
    ) -> Result<(), Fault> {
        let digest = &manifest.digest;
        let believed = self.stat_anywhere(digest).await.is_some();
        let mut stored = false;
        if let Some(docker) =
            self.docker().filter(|_| !believed || self.storage().blob_size(digest).is_some())
        {
            let target = format!("/v2/{repository}/manifests/{}", tag.unwrap_or(digest.as_str()));
            let answer =
                docker.forward(call.base, call.method, &target, call.headers, call.body.clone()).await?;
            // It refuses what a replica with a stale cache, or one that knows sparse indexes, accepts.
            stored = answer.status() == StatusCode::CREATED;
        }
        if !stored {
            if !believed {
                self.storage().put_blob(&manifest.body)?;
            }
            self.storage().link(Link::Manifest, repository, digest)?;
            if let Some(tag) = tag {
                self.storage().tag(repository, tag, digest)?;
            }
        }
        self.remember(Link::Manifest, repository, digest, manifest.body.len() as u64).await;
        Ok(())
    }

    async fn delete_manifest_link(
        &self,
        repository: &str,
        reference: &str,
        call: &Call<'_>,
    ) -> Result<Answer, Fault> {
        // Tags are the image stream's: there is nothing to delete, and no complaint about it.
        let Some(digest) = Digest::parse(reference) else { return Ok(empty(StatusCode::ACCEPTED)) };
        let (namespace, name) = namespace_and_name(repository);
        let listed = self.cluster().stream_names_image(namespace, name, digest.as_str());
        if listed || !self.config.delete_enabled {
            return Err(Fault::new(Code::Unsupported));
        }
        if self.stat(Link::Manifest, repository, &digest).await.is_none() {
            return Err(Fault::new(Code::ManifestUnknown));
        }
        self.forget(Link::Manifest, repository, &digest).await?;
        let target = format!("/v2/{repository}/manifests/{digest}");
        if !self.unlink(Link::Manifest, repository, &digest, call.base, &target).await? {
            return Err(Fault::new(Code::Unknown));
        }
        // The link is gone, yet looking for the tags of a stream that is gone, too, fails.
        if !self.cluster().stream_exists(namespace, name) {
            return Err(Fault::with_detail(Code::Unknown, json!({"Name": repository})));
        }
        Ok(empty(StatusCode::ACCEPTED))
    }
}

/// Sends a client to the storage host, which nobody asks whether it has the data.
fn redirected(host: &str, digest: &Digest) -> Answer {
    let mut answer = empty(StatusCode::TEMPORARY_REDIRECT);
    set(&mut answer, CONTENT_TYPE, "application/octet-stream");
    set(&mut answer, LOCATION, &storage_host::url(host, digest));
    answer
}

pub(super) fn namespace_and_name(repository: &str) -> (&str, &str) {
    repository.split_once('/').unwrap_or((repository, ""))
}

fn is_repository_name(name: &str) -> bool {
    name.split('/').all(|part| {
        let ends = [part.bytes().next(), part.bytes().last()];
        ends.iter().all(|end| end.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
            && part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
    })
}

/// What the router takes for a digest; not all of these are valid ones.
fn is_digest_like(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b))
            && algorithm.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Undoes percent-encoding; what is not valid stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(byte) = bytes.get(index) {
        let escaped = text.get(index + 1..index + 3).filter(|_| *byte == b'%');
        if let Some(value) = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            decoded.push(value);
            index += 3;
        } else {
            decoded.push(*byte);
            index += 1;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
