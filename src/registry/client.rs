//! The registry that was connected to: sends deletions, retries them, renews the login. What an answer means is
//! decided in `answer.rs`.
//!
//! Cheap to clone, and shared by all workers: they share one pool of connections.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, Retryable as _};
use reqwest::header::{ACCEPT, RANGE};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::debug;
use url::{Position, Url};

use super::address::RegistryUrl;
use super::answer::{Answer, Deletion, RegistryError, Verdict, judge};
use super::cause::{is_transient, of_request};
use super::connect::read_certificates;
use super::freshness::{Freshness, Step, of_get, of_head, of_storage};
use super::name::Target;
use super::presence::{self, Presence};
use super::security::Protection;
use super::transport::{Limits, Pool, client, pinned_client, send};
use super::via::{RegistryAccess, Way};
use super::{Refresh, TokenSource};
use crate::cause::Cause;
use crate::error::Failure;
use crate::throttle::{End, Turn, Work};

/// The user of the basic auth: the registry looks at the password alone, which is the token.
const USER: &str = "unused";

/// A question that failed so soon is asked again.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How often a question is asked again whose answer tells nothing.
const ATTEMPTS: usize = 2;

/// The media types of manifests and indexes (distribution, OCI image specification).
const MANIFEST_TYPES: [&str; 6] = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v1+json",
];

/// How to get a token.
pub(super) const LOG_IN: &str = "log in with a token: oc login";
/// How to use another one.
pub(super) const PASS_TOKEN: &str =
    "or pass one: --token=\"$(oc create token pruner -n openshift-image-registry)\"";

/// A registry that answered and took the token.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    address: RegistryUrl,
    protection: Protection,
    base: Url,
    pool: Pool,
    token: TokenSource,
    limits: Limits,
    way: Way,
    /// When a new token was last asked for. Held while asking: workers that are refused together ask once, whichever
    /// replica refused them.
    last_login: Arc<Mutex<Option<Instant>>>,
}

/// Why an attempt failed.
enum Trouble {
    /// It may work later.
    Transient { cause: String, after: Option<Duration>, end: End },
    /// It will not work.
    Lasting(RegistryError),
}

impl Trouble {
    /// What an attempt's end says of the registry's load.
    fn end(result: &Result<Deletion, Self>) -> End {
        match result {
            Ok(_) => End::Done,
            Err(Self::Transient { end, .. }) => *end,
            Err(Self::Lasting(_)) => End::Other,
        }
    }
}

impl Registry {
    /// A client of the registry at `address`, spoken to over `client`.
    pub(super) fn new(
        client: Client,
        address: RegistryUrl,
        protection: Protection,
        pool: Pool,
        token: TokenSource,
        limits: Limits,
        way: Way,
    ) -> Result<Self, Failure> {
        let base = base_of(&address, protection)?;
        let last_login = Arc::default();
        let inner = Inner { client, address, protection, base, pool, token, limits, way, last_login };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A client of the one replica at `address`, which has to show a certificate for `name` where certificates are
    /// verified: with the same authorities, protection and login as this one. What a route says of http is said of its
    /// router, and of no replica.
    ///
    /// # Errors
    ///
    /// The name is no host name.
    pub fn pinned(&self, name: &str, address: SocketAddr, limits: Limits) -> Result<Self, Failure> {
        let Inner { protection, pool, token, way, last_login, .. } = &*self.inner;
        let protection = match (way, *protection) {
            (Way::Route { .. }, Protection::Plain) => Protection::Unverified,
            (_, protection) => protection,
        };
        let url = RegistryUrl::parse(&format!("{name}:{}", address.port()))?;
        let base = base_of(&url, protection)?;
        let client = pinned_client(&url, address, protection, pool, &limits).map_err(|cause| {
            Failure::nothing_changed(format!("connect to the registry's replica {address}: {cause}"))
        })?;
        let inner = Inner {
            client,
            address: url,
            protection,
            base,
            pool: pool.clone(),
            token: Arc::clone(token),
            limits,
            way: Way::Direct,
            last_login: Arc::clone(last_login),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same registry with a further authority that may have signed the certificates of its replicas: that of the
    /// services, where this connection goes by a route that another one vouches for.
    ///
    /// # Errors
    ///
    /// It holds no certificate in PEM form.
    pub fn trusting(&self, pem: &[u8]) -> Result<Self, Failure> {
        let Inner { client, address, protection, base, pool, token, limits, way, last_login } = &*self.inner;
        let pool = pool.with(read_certificates(pem, "the service CA")?);
        // Those of the system vouch for the route. A replica's address may be anybody's, and its certificate is the
        // cluster's own.
        let pool = if matches!(way, Way::Route { .. }) { pool.only() } else { pool };
        let inner = Inner {
            client: client.clone(),
            address: address.clone(),
            protection: *protection,
            base: base.clone(),
            pool,
            token: Arc::clone(token),
            limits: limits.clone(),
            way: way.clone(),
            last_login: Arc::clone(last_login),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The host's name, or its address.
    #[must_use]
    pub fn host(&self) -> &str {
        self.inner.address.host()
    }

    /// Where the registry is, with the scheme that is spoken: `https://image-registry.…svc:5000`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.inner.protection.scheme(), self.inner.address.authority())
    }

    /// By which way it is reached.
    #[must_use]
    pub fn way(&self) -> &Way {
        &self.inner.way
    }

    /// Where it is, and by which way it is reached: for the document.
    #[must_use]
    pub fn access(&self) -> RegistryAccess {
        RegistryAccess::new(self.url(), &self.inner.way)
    }

    /// How the connection is protected.
    #[must_use]
    pub fn protection(&self) -> Protection {
        self.inner.protection
    }

    /// Removes a layer's link from a repository: `DELETE /v2/<repository>/blobs/<digest>`.
    ///
    /// The stream's status must have been updated before, or a client that asks in between puts the layer back into
    /// the caches.
    ///
    /// # Errors
    ///
    /// Each variant of [`RegistryError`]; of the 405s [`RegistryError::DeletionDisabled`] and
    /// [`RegistryError::ReadOnly`].
    pub async fn delete_layer_link(
        &self,
        turn: &mut Turn,
        repository: &str,
        digest: &str,
    ) -> Result<Deletion, RegistryError> {
        self.delete(turn, Target::layer_link(repository, digest)?).await
    }

    /// Removes a manifest's link from a repository: `DELETE /v2/<repository>/manifests/<digest>`.
    ///
    /// Refused with [`RegistryError::StillListedOrDisabled`] while the image stream's status lists the digest. A tag
    /// is no digest, and never sent: the registry would accept it.
    pub async fn delete_manifest_link(
        &self,
        turn: &mut Turn,
        repository: &str,
        digest: &str,
    ) -> Result<Deletion, RegistryError> {
        self.delete(turn, Target::manifest_link(repository, digest)?).await
    }

    /// Removes the data of a blob or manifest, and makes the answering replica forget it:
    /// `DELETE /admin/blobs/<digest>`.
    ///
    /// Works even while deletion is disabled or the registry is read-only. An attempt whose answer was lost is sent
    /// again within [`Limits`]; beyond that it must not be repeated, for an upload may have brought the digest back.
    pub async fn delete_blob(&self, turn: &mut Turn, digest: &str) -> Result<Deletion, RegistryError> {
        self.delete(turn, Target::blob(digest)?).await
    }

    async fn delete(&self, turn: &mut Turn, target: Target<'_>) -> Result<Deletion, RegistryError> {
        let limits = &self.inner.limits;
        let url = target.url(&self.inner.base);
        let work = match target {
            Target::Blob { .. } => Work::Delete,
            Target::ManifestLink { .. } => Work::ManifestLink,
            Target::LayerLink { .. } => Work::LayerLink,
        };
        let mut waits = limits.backoff().build();
        loop {
            let sent = Instant::now();
            let result = self.delete_once(target, &url).await;
            turn.ended(work, sent, Trouble::end(&result));
            match result {
                Ok(deletion) => return Ok(deletion),
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Transient { cause, after, .. }) => match limits.wait(waits.next(), after) {
                    Some(wait) => turn.wait(wait).await,
                    None => {
                        return Err(RegistryError::Unavailable { attempts: limits.attempts.max(1), cause });
                    }
                },
            }
        }
    }

    /// Sends a deletion; once more with a new token if the first one is refused.
    async fn delete_once(&self, target: Target<'_>, url: &Url) -> Result<Deletion, Trouble> {
        let answer = self
            .send(&Method::DELETE, url, self.inner.limits.delete)
            .await
            .map_err(Trouble::Lasting)?
            .map_err(|cause| {
                if is_transient(&cause) {
                    Trouble::Transient { cause: cause.text, after: None, end: End::Unanswered }
                } else {
                    let scheme = self.inner.protection.scheme();
                    let cause = of_request(&cause, "Delete", scheme, &self.inner.address, url.path());
                    Trouble::Lasting(RegistryError::Connection { cause })
                }
            })?;
        debug!(path = url.path(), status = answer.status.as_u16(), "registry answered a deletion");
        match judge(target, &answer) {
            Verdict::Gone(deletion) => Ok(deletion),
            Verdict::LogIn { wanted } => Err(Trouble::Lasting(RegistryError::Unauthorized { wanted })),
            Verdict::Retry { cause, after } => {
                let end = match answer.status {
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => End::Refused(after),
                    StatusCode::REQUEST_TIMEOUT | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
                        End::Unanswered
                    }
                    _ => End::Other,
                };
                Err(Trouble::Transient { cause, after, end })
            }
            Verdict::Refused(error) => Err(Trouble::Lasting(error)),
        }
    }

    /// Sends `GET /v2/` with the token.
    pub(super) async fn check_login(&self) -> Result<Result<Answer, Cause>, RegistryError> {
        self.send(&Method::GET, &self.login_url(), self.inner.limits.answer).await
    }

    /// Whether it answers at all: sends `GET /` once, without credentials.
    ///
    /// # Errors
    ///
    /// Why there was no answer, or another one than 200.
    pub async fn ping(&self) -> Result<(), String> {
        let Inner { client, address, base, limits, protection, .. } = &*self.inner;
        let answer = send(client.get(base.clone()).timeout(limits.answer), address)
            .await
            .map_err(|cause| of_request(&cause, "Get", protection.scheme(), address, "/"))?;
        if answer.status == StatusCode::OK {
            Ok(())
        } else {
            Err(format!("unexpected answer: {}", answer.summary()))
        }
    }

    /// Asks whether this registry would still answer for a blob in a repository that had it: whether a cache is stale.
    pub async fn ask(&self, repository: &str, digest: &str) -> Freshness {
        let begun = Instant::now();
        let once = async || match self.try_ask(repository, digest).await {
            Ok(freshness) => freshness,
            Err(error) => Freshness::Unknown(error.to_string()),
        };
        match once().await {
            // A connection that was kept open may lead to a process that is no more.
            Freshness::Unknown(_) if begun.elapsed() < AT_ONCE => once().await,
            freshness => freshness,
        }
    }

    async fn try_ask(&self, repository: &str, digest: &str) -> Result<Freshness, RegistryError> {
        let url = Target::layer_link(repository, digest)?.url(&self.inner.base);
        for method in [Method::HEAD, Method::GET] {
            let answer = match self.send(&method, &url, self.inner.limits.answer).await? {
                Ok(answer) => answer,
                Err(cause) => return Ok(Freshness::Unknown(cause.text)),
            };
            debug!(path = url.path(), status = answer.status.as_u16(), "registry answered for a blob");
            let step = if method == Method::HEAD { of_head(&answer) } else { of_get(digest, &answer) };
            return Ok(match step {
                Step::Is(freshness) => freshness,
                Step::Follow(location) => self.follow(&method, &url, &location).await,
                Step::Get => continue,
            });
        }
        Ok(Freshness::Unknown("no answer settles it".to_owned()))
    }

    async fn follow(&self, method: &Method, asked: &Url, location: &str) -> Freshness {
        match self.ask_storage(method, asked, location, None).await {
            Ok(answer) => of_storage(&answer),
            Err(cause) => Freshness::Unknown(format!("ask the storage: {cause}")),
        }
    }

    /// Asks the storage that the registry points to, once and without credentials: the link is signed.
    async fn ask_storage(
        &self,
        method: &Method,
        asked: &Url,
        location: &str,
        range: Option<&str>,
    ) -> Result<Answer, String> {
        let Inner { pool, limits, .. } = &*self.inner;
        let target = asked.join(location).map_err(|_| "the redirect leads nowhere")?;
        let host = RegistryUrl::parse(&target[..Position::BeforePath])
            .map_err(|_| "the redirect leads to no host")?;
        // The storage is no part of the registry: other authorities vouch for it, and a proxy may lead to it.
        let pool = Pool::SystemAnd(pool.certificates().to_vec());
        let client = client(&host, Protection::Verified, &pool, limits)?;
        let request = client.request(method.clone(), target).timeout(limits.answer);
        let request = match range {
            Some(range) => request.header(RANGE, range),
            None => request,
        };
        send(request, &host).await.map_err(|cause| cause.text)
    }

    /// Asks whether the repository can hand out this blob; its last byte is read, where its size in bytes is known, and
    /// its first one where it is not.
    pub async fn has_blob(&self, repository: &str, digest: &str, bytes: Option<u64>) -> Presence {
        let position = bytes.unwrap_or(1).saturating_sub(1);
        let range = format!("bytes={position}-{position}");
        self.presence(Target::layer_link(repository, digest), async |url| {
            let ranged = |request: RequestBuilder| request.header(RANGE, &range);
            let answer = self.question(&Method::GET, url, &ranged).await?;
            Ok(match answer.map(|answer| presence::of_blob(digest, bytes, &answer)) {
                Ok(presence::Step::Is(presence)) => presence,
                Ok(presence::Step::Follow(location)) => {
                    match self.ask_storage(&Method::GET, url, &location, Some(&range)).await {
                        Ok(answer) => presence::of_storage(bytes, &answer),
                        Err(cause) => Presence::Unknown(format!("ask the storage: {cause}")),
                    }
                }
                Ok(presence::Step::Get) => Presence::Unknown("no answer settles it".to_owned()),
                Err(cause) => Presence::Unknown(cause.text),
            })
        })
        .await
    }

    /// Asks whether the repository can hand out this manifest.
    pub async fn has_manifest(&self, repository: &str, digest: &str) -> Presence {
        self.presence(Target::manifest_link(repository, digest), async |url| {
            // Whatever it is: a registry converts, or refuses, what the client does not name.
            let of_any_type = |request: RequestBuilder| {
                MANIFEST_TYPES.iter().fold(request, |request, media_type| request.header(ACCEPT, *media_type))
            };
            for method in [Method::HEAD, Method::GET] {
                let answer = match self.question(&method, url, &of_any_type).await? {
                    Ok(answer) => answer,
                    Err(cause) => return Ok(Presence::Unknown(cause.text)),
                };
                let step = if method == Method::HEAD {
                    presence::of_manifest_head(&answer)
                } else {
                    presence::of_manifest(digest, &answer)
                };
                match step {
                    presence::Step::Is(presence) => return Ok(presence),
                    presence::Step::Get => {}
                    presence::Step::Follow(_) => break,
                }
            }
            Ok(Presence::Unknown("no answer settles it".to_owned()))
        })
        .await
    }

    /// Asks; again, after a pause, where the answer tells nothing.
    async fn presence(
        &self,
        target: Result<Target<'_>, RegistryError>,
        ask: impl AsyncFn(&Url) -> Result<Presence, RegistryError>,
    ) -> Presence {
        let url = match target {
            Ok(target) => target.url(&self.inner.base),
            Err(error) => return Presence::Unknown(error.to_string()),
        };
        let once = async || match ask(&url).await {
            Ok(Presence::Unknown(cause)) => Err(cause),
            Ok(presence) => Ok(presence),
            Err(error) => Ok(Presence::Unknown(error.to_string())),
        };
        once.retry(self.inner.limits.backoff().with_max_times(ATTEMPTS))
            .await
            .unwrap_or_else(Presence::Unknown)
    }

    /// Sends a request with the token, and once more with a new one if it is refused.
    ///
    /// The outer error: no token; the inner one: no answer.
    async fn send(
        &self,
        method: &Method,
        url: &Url,
        timeout: Duration,
    ) -> Result<Result<Answer, Cause>, RegistryError> {
        self.send_as(method, url, &|request| request.timeout(timeout)).await
    }

    /// As [`send`](Self::send), with what `change` adds to the request; an answer is waited for as long as for a question.
    async fn send_as(
        &self,
        method: &Method,
        url: &Url,
        change: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
    ) -> Result<Result<Answer, Cause>, RegistryError> {
        let token = self.token(Refresh::Cached).await?;
        let answer = self.send_with(method, url, change, &token).await;
        if !is_refused(&answer) {
            return Ok(answer);
        }
        let Some(new) = self.new_token(&token).await? else { return Ok(answer) };
        Ok(self.send_with(method, url, change, &new).await)
    }

    /// As [`send_as`](Self::send_as), where the right to ask may be missing: that is 401 as well, and no reason to log in
    /// again as long as the token is good for anything.
    async fn question(
        &self,
        method: &Method,
        url: &Url,
        change: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
    ) -> Result<Result<Answer, Cause>, RegistryError> {
        let token = self.token(Refresh::Cached).await?;
        let answer = self.send_with(method, url, change, &token).await;
        if !is_refused(&answer) {
            return Ok(answer);
        }
        let login = self.send_with(&Method::GET, &self.login_url(), &|request| request, &token).await;
        if is_refused(&login) { self.send_as(method, url, change).await } else { Ok(answer) }
    }

    fn login_url(&self) -> Url {
        let mut url = self.inner.base.clone();
        url.set_path("/v2/");
        url
    }

    async fn send_with(
        &self,
        method: &Method,
        url: &Url,
        change: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
        token: &SecretString,
    ) -> Result<Answer, Cause> {
        let Inner { client, limits, .. } = &*self.inner;
        let request = change(client.request(method.clone(), url.clone()).timeout(limits.answer))
            // Marks the header as sensitive: it is not printed and not indexed.
            .basic_auth(USER, Some(token.expose_secret()));
        send(request, &self.inner.address).await
    }

    /// Returns another token than the one that was refused, if one can be had.
    async fn new_token(&self, refused: &SecretString) -> Result<Option<SecretString>, RegistryError> {
        let is_other = |token: &SecretString| token.expose_secret() != refused.expose_secret();
        let mut last_login = self.inner.last_login.lock().await;
        let current = self.token(Refresh::Cached).await?;
        if is_other(&current) {
            return Ok(Some(current));
        }
        if last_login.is_some_and(|last| last.elapsed() < self.inner.limits.between_logins) {
            return Ok(None);
        }
        let new = self.token(Refresh::Force).await?;
        *last_login = Some(Instant::now());
        Ok(Some(new).filter(is_other))
    }

    async fn token(&self, refresh: Refresh) -> Result<SecretString, RegistryError> {
        token(&self.inner.token, refresh).await.map_err(RegistryError::Token)
    }
}

/// Whether the token, or its right, was refused: 401 in both cases.
fn is_refused(answer: &Result<Answer, Cause>) -> bool {
    answer.as_ref().is_ok_and(|answer| answer.status == StatusCode::UNAUTHORIZED)
}

fn base_of(address: &RegistryUrl, protection: Protection) -> Result<Url, Failure> {
    Url::parse(&format!("{}://{}/", protection.scheme(), address.authority()))
        .map_err(|error| Failure::nothing_changed(format!("connect to registry {address}: {error}")))
}

/// Gets a token that is not empty.
pub(super) async fn token(source: &TokenSource, refresh: Refresh) -> Result<SecretString, Failure> {
    let token = source(refresh).await?;
    token.filter(|token| !token.expose_secret().is_empty()).ok_or_else(no_token)
}

/// What ends the run when the login has no bearer token: the registry takes nothing else.
#[must_use]
pub fn no_token() -> Failure {
    Failure::nothing_changed(
        "log in to the registry: you must use a client config with a token, and this login has none",
    )
    .hint(LOG_IN)
    .hint(PASS_TOKEN)
    .hint("or remove API objects only, and leave the registry alone: --prune-registry=false")
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("url", &self.url())
            .field("protection", &self.protection())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::address::{Address, Origin};
    use super::super::connect::{Settings, connect};
    use super::super::fake::{self, Server, basic, recorded, recording, renewable, reply, token};
    use super::*;

    const DIGEST: &str = "sha256:fbcafa67735717ef46b93379e0ddcaf8f25fac6a8b071e8ff81bdd16dcf6aa2e";
    const BUSY: &str = "too many requests";

    async fn registry(server: &Server, source: TokenSource) -> Registry {
        fake::install_provider();
        let url = RegistryUrl::parse(&format!("http://localhost:{}", server.port)).unwrap();
        let mut settings = Settings::new(Address { url, origin: Origin::Flag }, Arc::new(|_| ()));
        settings.limits.attempts = 3;
        settings.limits.first_wait = Duration::from_millis(1);
        settings.limits.delete = Duration::from_millis(500);
        settings.limits.longest_retry_after = Duration::from_millis(20);
        connect(settings, source).await.unwrap()
    }

    /// Deletes what is needed until the server's answers are used up.
    async fn delete_layer_link(deletions: Vec<Vec<u8>>) -> (Result<Deletion, RegistryError>, usize) {
        let server = Server::registry(None, deletions).await;
        let outcome = registry(&server, token("good"))
            .await
            .delete_layer_link(&mut Turn::free(), "gone/app", DIGEST)
            .await;
        (outcome, server.deletions().len())
    }

    #[tokio::test]
    async fn recorded_answers_arrive_as_what_they_are() {
        let answers: Vec<_> = recorded().into_iter().filter(|answer| answer.method == "DELETE").collect();
        for answer in answers {
            let server = Server::registry(None, vec![recording(&answer.name)]).await;
            let registry = registry(&server, token("good")).await;
            let outcome = if answer.path.starts_with("/admin/") {
                registry.delete_blob(&mut Turn::free(), DIGEST).await
            } else if answer.path.contains("/manifests/") {
                registry.delete_manifest_link(&mut Turn::free(), "gone/app", DIGEST).await
            } else {
                registry
                    .delete_layer_link(&mut Turn::free(), "gone/app", answer.path.rsplit('/').next().unwrap())
                    .await
            };
            let is_expected = match (answer.status, answer.name.as_str()) {
                (_, "delete.layer-link.invalid-digest") => {
                    matches!(outcome, Err(RegistryError::InvalidName { .. }))
                }
                (_, "delete.blob.invalid-digest") => matches!(outcome, Err(RegistryError::Unexpected { .. })),
                (202 | 204, _) => outcome == Ok(Deletion::Deleted),
                (404 | 500, _) => outcome == Ok(Deletion::AlreadyGone),
                (401, _) => matches!(outcome, Err(RegistryError::Unauthorized { wanted: Some(_) })),
                (405, name) if name.starts_with("readonly.") => outcome == Err(RegistryError::ReadOnly),
                (405, "nodelete.delete.layer-link") => outcome == Err(RegistryError::DeletionDisabled),
                (405, _) => outcome == Err(RegistryError::StillListedOrDisabled),
                _ => false,
            };
            assert!(is_expected, "{}: {outcome:?}", answer.name);
        }
    }

    #[tokio::test]
    async fn each_deletion_goes_to_its_path_with_the_token() {
        let server = Server::registry(None, vec![]).await;
        let registry = registry(&server, token("good")).await;
        registry.delete_manifest_link(&mut Turn::free(), "gone/app", DIGEST).await.unwrap();
        registry.delete_layer_link(&mut Turn::free(), "gone/app", DIGEST).await.unwrap();
        registry.delete_blob(&mut Turn::free(), DIGEST).await.unwrap();
        let seen = server.deletions();
        let paths: Vec<_> = seen.iter().map(|seen| seen.request.clone()).collect();
        assert_eq!(
            paths,
            [
                format!("DELETE /v2/gone/app/manifests/{DIGEST}"),
                format!("DELETE /v2/gone/app/blobs/{DIGEST}"),
                format!("DELETE /admin/blobs/{DIGEST}")
            ]
        );
        assert!(seen.iter().all(|seen| seen.authorization == Some(basic("good"))));
    }

    #[tokio::test]
    async fn a_name_that_is_none_is_never_sent() {
        let server = Server::registry(None, vec![]).await;
        let registry = registry(&server, token("good")).await;
        for outcome in [
            registry.delete_layer_link(&mut Turn::free(), "../admin", DIGEST).await,
            registry.delete_manifest_link(&mut Turn::free(), "gone/app", "latest").await,
            registry.delete_blob(&mut Turn::free(), "sha256:../../x").await,
        ] {
            assert!(matches!(outcome, Err(RegistryError::InvalidName { .. })), "{outcome:?}");
        }
        assert!(server.deletions().is_empty());
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again() {
        let gone = recording("delete.layer-link.first");
        for trouble in
            [reply(429, &[("Retry-After", "3600")], BUSY), reply(503, &[], ""), reply(500, &[], ""), vec![]]
        {
            let (outcome, sent) = delete_layer_link(vec![trouble.clone(), trouble, gone.clone()]).await;
            assert_eq!((outcome, sent), (Ok(Deletion::Deleted), 3));
        }
    }

    #[tokio::test]
    async fn retries_are_bounded() {
        let (outcome, sent) = delete_layer_link(vec![reply(429, &[("Retry-After", "3600")], BUSY)]).await;
        let cause = "429 Too Many Requests: too many requests".to_owned();
        assert_eq!(outcome, Err(RegistryError::Unavailable { attempts: 3, cause }));
        assert_eq!(sent, 3);
        let (outcome, sent) = delete_layer_link(vec![vec![]]).await;
        assert_eq!(outcome.unwrap_err().to_string(), "gave up after 3 attempts: EOF");
        assert_eq!(sent, 3);
        let (outcome, sent) = delete_layer_link(vec![b"\r\n".to_vec()]).await;
        assert!(outcome.unwrap_err().to_string().contains("context deadline exceeded"));
        assert_eq!(sent, 3);
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let elsewhere = Server::registry(None, vec![]).await;
        let location = format!("http://localhost:{}/v2/?token=x", elsewhere.port);
        for status in [301, 302, 303, 307, 308] {
            let (outcome, sent) =
                delete_layer_link(vec![reply(status, &[("Location", &location)], "")]).await;
            let text = outcome.unwrap_err().to_string();
            assert!(
                text.ends_with(&format!("a redirect to http://localhost:{}/v2/", elsewhere.port)),
                "{text}"
            );
            assert_eq!(sent, 1);
        }
        assert!(elsewhere.seen().is_empty());
    }

    #[tokio::test]
    async fn workers_that_are_refused_together_renew_the_token_once() {
        let server = Server::start(None, |seen| match &seen.authorization {
            Some(value) if seen.request.starts_with("DELETE ") && *value != basic("new") => {
                recording("delete.layer-link.invalid-token-basic")
            }
            Some(_) if seen.request.starts_with("DELETE ") => recording("delete.layer-link.first"),
            _ => fake::log_in(seen),
        })
        .await;
        let (source, forced) = renewable("good", "new");
        let registry = registry(&server, source).await;
        let outcomes = futures::future::join_all(
            (0..8).map(|_| async { registry.delete_layer_link(&mut Turn::free(), "gone/app", DIGEST).await }),
        )
        .await;
        assert!(outcomes.iter().all(|outcome| *outcome == Ok(Deletion::Deleted)), "{outcomes:?}");
        assert_eq!(*forced.lock().unwrap(), 1);
    }

    #[tokio::test]
    async fn a_missing_right_does_not_ask_for_a_token_each_time() {
        let server = Server::registry(None, vec![recording("delete.layer-link.nobody-basic")]).await;
        let (source, forced) = renewable("good", "new");
        let registry = registry(&server, source).await;
        for _ in 0..3 {
            let error = registry.delete_layer_link(&mut Turn::free(), "gone/app", DIGEST).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                "unauthorized: the registry refused the token for `delete on repository gone/app`"
            );
        }
        assert_eq!(*forced.lock().unwrap(), 1);
        assert_eq!(server.deletions().len(), 4, "once more with the new token, then never again");
    }

    #[tokio::test]
    async fn a_huge_answer_is_cut() {
        let body = "x".repeat(8 * 1024 * 1024);
        let (outcome, _) =
            delete_layer_link(vec![reply(400, &[("Content-Type", "text/plain")], &body)]).await;
        let text = outcome.unwrap_err().to_string();
        assert!(text.len() < 300, "{}", text.len());
    }

    #[tokio::test]
    async fn a_client_does_not_print_its_token() {
        let server = Server::registry(None, vec![]).await;
        let text = format!("{:?}", registry(&server, token("good")).await);
        assert!(text.starts_with("Registry { url: \"http://localhost:") && !text.contains("good"), "{text}");
    }
}
