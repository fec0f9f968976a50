//! The connection itself: kube's client, with login, retries and limits of our own around it.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::Engine as _;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use hyper_util::{
    client::legacy::connect::HttpConnector,
    rt::{TokioExecutor, TokioIo},
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt as _},
    config::AuthInfo,
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpStream;
use tower::{Layer as _, Service as _};

use super::{
    buffered::Buffered,
    credentials::{self, Credentials, Login, TokenSource},
    error::{self, ApiError, Place},
    exec::Identity,
    kubeconfig::{self, Target},
    options::{ConnectionOptions, Environment, FIELD_MANAGER},
    request::{self, ApiRequest, ApiResponse, Buffers, Failed, Limits, Lines, Retry, Taking, Waits},
    warnings::{Announce, Warnings},
};
use crate::{
    cause::Cause,
    error::Failure,
    text::sanitize,
    throttle::{Turn, Work},
};

/// How requests of this program are named in the API server's audit log.
const USER_AGENT: &str = concat!("oc-prune-images/", env!("CARGO_PKG_VERSION"));

/// Makes ring the process's provider of cryptography. To be called once, before anything uses TLS.
pub fn install_crypto() {
    // A second call finds it installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A cluster that requests can be sent to. Clones share the connection.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
    warnings: Warnings,
}

struct Inner {
    server: String,
    context: Option<String>,
    user_name: Option<String>,
    impersonated: Option<String>,
    ca_pem: Option<Vec<u8>>,
    insecure: bool,
    in_cluster: bool,
    /// Whether the login is kept back, see [`credentials::may_be_sent_to`].
    withheld: bool,
    credentials: Arc<Credentials>,
    limits: Limits,
    field_manager: String,
    /// For connections with another client certificate.
    config: Config,
    connected: Mutex<Connected>,
    /// Whether the server has ever answered.
    reached: AtomicBool,
}

struct Connected {
    client: Client,
    identity: Option<Arc<Identity>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("server", &self.inner.server).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Finds the API server and the login, and gets ready. A login program runs here, no request is sent yet.
    ///
    /// # Errors
    /// What is wrong with the kubeconfig, the flags or the login, with exit code 1.
    pub async fn connect(options: &ConnectionOptions, environment: &Environment) -> Result<Self, Failure> {
        Self::connect_within(options, environment, Limits::new(options.request_timeout)).await
    }

    pub(super) async fn connect_within(
        options: &ConnectionOptions,
        environment: &Environment,
        limits: Limits,
    ) -> Result<Self, Failure> {
        let target = kubeconfig::target(options, environment)?;
        let withheld = !credentials::may_be_sent_to(&target.server);
        let credentials = Arc::new(Credentials::new(&target, environment).await?);
        let login = credentials.login(None).await?;
        let config = config(&target)?;
        let client = build(&config, login.identity.as_deref())?;
        let Target { server, context, user_name, ca_pem, insecure, user, in_cluster, .. } = target;
        Ok(Self {
            inner: Arc::new(Inner {
                server: server.to_string().trim_end_matches('/').to_owned(),
                context,
                user_name,
                impersonated: user.impersonate,
                ca_pem: ca_pem.filter(|_| !in_cluster),
                insecure,
                in_cluster,
                withheld,
                credentials,
                limits,
                field_manager: options.field_manager.clone().unwrap_or_else(|| FIELD_MANAGER.to_owned()),
                config,
                connected: Mutex::new(Connected { client, identity: login.identity }),
                reached: AtomicBool::new(false),
            }),
            warnings: Warnings::default(),
        })
    }

    /// Has this connection and its clones tell what the server warns of: each text once, safe to print.
    #[must_use]
    pub fn on_warning(self, announce: Announce) -> Self {
        Self { warnings: Warnings::to(announce), ..self }
    }

    /// Sends a request, as often as its [`request::Retry`] allows, and reads the whole answer.
    ///
    /// # Errors
    /// Every answer but a success, and no answer, as [`ApiError`]; [`Cluster::failure`] makes a message of it.
    pub async fn request(&self, request: ApiRequest) -> Result<ApiResponse, ApiError> {
        self.request_in(&mut Turn::free(), request).await
    }

    /// The same in a turn of the API server's: it waits for another one before it tries again.
    ///
    /// # Errors
    /// As [`Cluster::request`].
    pub async fn request_in(&self, turn: &mut Turn, request: ApiRequest) -> Result<ApiResponse, ApiError> {
        self.take(turn, request, Taking { buffers: &Buffers::default(), enough: &|_| true }).await
    }

    /// The same with a say in how the answer's body is taken.
    ///
    /// # Errors
    /// As [`Cluster::request`].
    pub async fn request_taking(
        &self,
        request: ApiRequest,
        taking: Taking<'_>,
    ) -> Result<ApiResponse, ApiError> {
        self.take(&mut Turn::free(), request, taking).await
    }

    async fn take(
        &self,
        turn: &mut Turn,
        request: ApiRequest,
        taking: Taking<'_>,
    ) -> Result<ApiResponse, ApiError> {
        let request = &request;
        let work = match request.method {
            Method::DELETE => Work::Delete,
            Method::GET | Method::HEAD => Work::Read,
            _ => Work::Update,
        };
        let attempt = |login| async move { self.send(request, &login, taking).await };
        self.attempts(request.retry, work, turn, attempt).await
    }

    /// Tries as often as `retry` allows, with a login that is renewed where the server refuses it.
    pub(super) async fn attempts<T, F>(
        &self,
        retry: Retry,
        work: Work,
        turn: &mut Turn,
        attempt: impl Fn(Login) -> F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        let inner = &self.inner;
        let mut waits = Waits::new(&inner.limits);
        let mut refreshed = false;
        let mut login = self.login(None).await?;
        loop {
            let obtained = login.obtained;
            let sent = tokio::time::Instant::now();
            let result = attempt(login).await;
            turn.ended(work, sent, Failed::end(&result));
            let failed = match result {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            if failed.error == ApiError::Unauthorized && !refreshed && inner.credentials.can_refresh() {
                refreshed = true;
                tracing::debug!("401: renewing the credentials");
                login = self.login(Some(obtained)).await?;
                continue;
            }
            let reached = inner.reached.load(Ordering::Relaxed);
            let Some(wait) = waits.next(retry, &failed, reached) else { return Err(failed.error) };
            tracing::debug!(error = %failed.error, ?wait, "trying again");
            turn.wait(wait).await;
            login = self.login(None).await?;
        }
    }

    async fn login(&self, newer_than: Option<std::time::Instant>) -> Result<Login, ApiError> {
        self.inner.credentials.login(newer_than).await.map_err(ApiError::Credentials)
    }

    async fn send(
        &self,
        request: &ApiRequest,
        login: &Login,
        taking: Taking<'_>,
    ) -> Result<ApiResponse, Failed> {
        let (client, sent) = self.prepare(request, login)?;
        let started = std::time::Instant::now();
        let result =
            request::send_once(&client, sent, request.max_body, &self.inner.limits, &self.warnings, taking)
                .await;
        let outcome = result.as_ref().map(|response| response.status);
        self.note(&request.method, &request.path_and_query, started.elapsed(), outcome);
        result
    }

    /// Sends a request whose answer is read line by line, as it comes: no limit but that of the head holds for it. A line
    /// may be as long as the request's largest answer.
    ///
    /// # Errors
    /// As [`Cluster::request`].
    pub async fn lines(&self, request: ApiRequest) -> Result<Lines, ApiError> {
        let request = &request;
        let attempt = |login| async move {
            let (client, sent) = self.prepare(request, &login)?;
            let started = std::time::Instant::now();
            let limits = &self.inner.limits;
            let result = request::open_lines(&client, sent, request.max_body, limits, &self.warnings).await;
            let outcome = result.as_ref().map(|_| StatusCode::OK);
            self.note(&request.method, &request.path_and_query, started.elapsed(), outcome);
            result
        };
        self.attempts(request.retry, Work::Read, &mut Turn::free(), attempt).await
    }

    /// The request as it is sent, and the client that sends it.
    fn prepare(
        &self,
        request: &ApiRequest,
        login: &Login,
    ) -> Result<(Client, http::Request<Body>), ApiError> {
        let mut builder = http::Request::builder()
            .method(request.method.clone())
            .uri(&*request.managed_by(&self.inner.field_manager))
            .header(header::ACCEPT, request.accept);
        if let Some(headers) = builder.headers_mut() {
            headers.extend(self.identity(login));
        }
        if request.body.is_some() {
            builder = builder.header(header::CONTENT_TYPE, request.content_type);
        }
        let sent = builder.body(Body::from(request.body.clone().unwrap_or_default())).map_err(|_| {
            ApiError::Malformed(format!("no such path: {}", sanitize(&request.path_and_query)))
        })?;
        Ok((self.client(login).map_err(ApiError::Credentials)?, sent))
    }

    /// Who asks, as headers.
    fn identity(&self, login: &Login) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        if let Some(authorization) = login.authorization.as_ref().filter(|_| !self.inner.withheld) {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        headers
    }

    /// Notes how a try ended.
    pub(super) fn note(
        &self,
        method: &http::Method,
        path: &str,
        took: Duration,
        outcome: Result<StatusCode, &Failed>,
    ) {
        let unanswered =
            matches!(outcome, Err(Failed { error: ApiError::Connection(_) | ApiError::Timeout(_), .. }));
        if !unanswered {
            self.inner.reached.store(true, Ordering::Relaxed);
        }
        let outcome = match outcome {
            Ok(status) => status.as_str().to_owned(),
            Err(failed) => failed.error.to_string(),
        };
        tracing::debug!(%method, path, milliseconds = took.as_millis(), outcome, "request");
    }

    /// A client for requests that kube makes itself, such as upgrades to WebSocket, with our login in them.
    pub(super) fn upgrading_client(&self, login: &Login) -> Result<Client, ApiError> {
        let client = self.client(login).map_err(ApiError::Credentials)?;
        let headers = self.identity(login);
        let service = tower::service_fn(move |mut request: http::Request<Body>| {
            request.headers_mut().extend(headers.clone());
            let client = client.clone();
            async move { client.send(request).await }
        });
        Ok(Client::new(service, "default"))
    }

    /// How long an answer's head may take.
    pub(super) fn answer_limit(&self) -> Option<Duration> {
        self.inner.limits.head.or(self.inner.limits.whole)
    }

    /// The client with the login's certificate: a login program may have given another one than last time.
    fn client(&self, login: &Login) -> Result<Client, Failure> {
        let mut connected = self.inner.connected.lock().unwrap_or_else(PoisonError::into_inner);
        let same = match (&connected.identity, &login.identity) {
            (Some(current), Some(new)) => Arc::ptr_eq(current, new),
            (None, None) => true,
            _ => false,
        };
        if !same {
            let client = build(&self.inner.config, login.identity.as_deref())?;
            *connected = Connected { client, identity: login.identity.clone() };
        }
        Ok(connected.client.clone())
    }

    /// The bearer token, for the registry's login; `None` for a login by password or certificate.
    ///
    /// # Errors
    /// The login could not be renewed.
    pub async fn bearer_token(&self) -> Result<Option<SecretString>, Failure> {
        Ok(self.inner.credentials.login(None).await?.token)
    }

    /// The bearer token whenever it is needed, renewed as it expires or is refused.
    #[must_use]
    pub fn token_source(&self) -> TokenSource {
        credentials::token_source(Arc::clone(&self.inner.credentials))
    }

    /// Whether the kubeconfig or a flag says not to verify certificates.
    #[must_use]
    pub fn allows_insecure(&self) -> bool {
        self.inner.insecure
    }

    /// The kubeconfig's CA, PEM; `None` inside a pod, whose API's CA signs nothing else.
    #[must_use]
    pub fn ca_pem(&self) -> Option<Vec<u8>> {
        self.inner.ca_pem.clone()
    }

    /// Whether the login is the service account of the pod that we run in.
    #[must_use]
    pub fn is_in_cluster(&self) -> bool {
        self.inner.in_cluster
    }

    /// The API server's URL, without a `/` at the end.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.inner.server
    }

    /// The kubeconfig's context, if one is used.
    #[must_use]
    pub fn context(&self) -> Option<&str> {
        self.inner.context.as_deref()
    }

    /// The name of the kubeconfig's user entry, if one is used. The cluster may call the user otherwise.
    #[must_use]
    pub fn user_name(&self) -> Option<&str> {
        self.inner.user_name.as_deref()
    }

    /// The user that the API server sees instead (`--as`). The registry sees the owner of the token.
    #[must_use]
    pub fn impersonated_user(&self) -> Option<&str> {
        self.inner.impersonated.as_deref()
    }

    /// What ends the run when a request failed: `doing` is what it was for, as in `list imagestreams`. Exit code 1;
    /// once something was changed the caller sets another.
    #[must_use]
    pub fn failure(&self, error: &ApiError, doing: &str) -> Failure {
        let place = Place {
            server: &self.inner.server,
            context: self.inner.context.as_deref(),
            in_cluster: self.inner.in_cluster,
            withheld: self.inner.withheld,
        };
        error::failure(error, doing, &place)
    }
}

/// kube's configuration with the connection and the impersonation; the login is ours.
fn config(target: &Target) -> Result<Config, Failure> {
    let user = &target.user;
    let mut config = Config::new(target.server.clone());
    config.default_retry = false;
    // Deadlines are set for each request (`Limits`): kube's would also end a connection that waits in the pool.
    config.read_timeout = None;
    config.accept_invalid_certs = target.insecure;
    config.root_cert = target.ca_pem.as_deref().map(kubeconfig::certificates);
    config.root_cert_file.clone_from(&target.ca_file);
    config.tls_server_name.clone_from(&target.tls_server_name);
    config.proxy_url.clone_from(&target.proxy);
    config.auth_info = AuthInfo {
        impersonate: user.impersonate.clone(),
        impersonate_uid: user.impersonate_uid.clone(),
        impersonate_groups: user.impersonate_groups.clone(),
        impersonate_user_extra: user.impersonate_user_extra.clone(),
        ..AuthInfo::default()
    };
    let data = user.client_certificate_data.as_deref().filter(|data| !data.is_empty());
    let file = user.client_certificate.as_deref().filter(|file| !file.is_empty());
    let certificate = pem(data, file, "client-certificate")?;
    let data = user
        .client_key_data
        .as_ref()
        .map(secrecy::ExposeSecret::expose_secret)
        .filter(|data| !data.is_empty());
    let file = user.client_key.as_deref().filter(|file| !file.is_empty());
    let key = pem(data, file, "client-key")?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => identify(&mut config, &certificate, &key),
        (None, None) => {}
        (certificate, _) => {
            let (there, missing) =
                if certificate.is_some() { ("certificate", "key") } else { ("key", "certificate") };
            return Err(Failure::nothing_changed(format!("a client {there} needs its {missing}")).hint(
                format!("name both: --client-certificate=FILE --client-key=FILE (no {missing} was found)"),
            ));
        }
    }
    Ok(config)
}

fn pem(data: Option<&str>, file: Option<&str>, what: &str) -> Result<Option<Vec<u8>>, Failure> {
    match (data, file) {
        (Some(data), _) => kubeconfig::base64_data(data, &format!("{what}-data")).map(Some),
        (None, Some(file)) => kubeconfig::read(file, what).map(Some),
        (None, None) => Ok(None),
    }
}

fn identify(config: &mut Config, certificate: &[u8], key: &[u8]) {
    let encode = |pem: &[u8]| base64::engine::general_purpose::STANDARD.encode(pem);
    config.auth_info.client_certificate_data = Some(encode(certificate));
    config.auth_info.client_key_data = Some(SecretString::from(encode(key)));
}

fn build(config: &Config, identity: Option<&Identity>) -> Result<Client, Failure> {
    let mut config = config.clone();
    if let Some(identity) = identity {
        identify(&mut config, identity.certificate.as_bytes(), identity.key.expose_secret().as_bytes());
    }
    let server: Uri = config.cluster_url.clone();
    // kube alone speaks with a proxy.
    let client = if config.proxy_url.is_some() {
        ClientBuilder::try_from(config).map(ClientBuilder::build)
    } else {
        build_directly(&config)
    };
    client.map_err(|error| {
        Failure::nothing_changed(format!("connect to {server}: {}", Cause::of(&error)))
            .hint("check certificates and impersonation: kubectl config view --minify")
    })
}

/// kube's client, but for small writes, which do not wait for the acknowledgement of those before (what goes through a
/// port-forward is small, and waited 40 ms each time), and for reading, which is done in large pieces.
fn build_directly(config: &Config) -> Result<Client, kube::Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let connector =
        tower::util::MapResponse::new(connector, Buffered::new as fn(TokioIo<TcpStream>) -> Buffered<_>);
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let limit = config.connect_timeout;
    let connector = tower::service_fn(move |server: Uri| {
        let connecting = connector.clone().call(server);
        Box::pin(async move {
            match limit {
                Some(limit) => tokio::time::timeout(limit, connecting)
                    .await
                    .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())),
                None => connecting.await,
            }
        })
    });
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let client = config.extra_headers_layer()?.layer(client);
    Ok(Client::new(config.base_uri_layer().layer(client), config.default_namespace.clone()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::cause::CauseKind;
    use crate::cluster::{
        credentials::Refresh,
        options::RequestTimeout,
        test_support::{Reply, Server, environment, kubeconfig},
    };

    fn quick() -> Limits {
        Limits {
            head: Some(Duration::from_millis(300)),
            pause: Some(Duration::from_millis(300)),
            whole: None,
            retries: 3,
            first_wait: Duration::from_millis(5),
            longest_wait: Duration::from_millis(1500),
            all_tries: Duration::from_secs(10),
        }
    }

    async fn cluster_with(server: &str, user: &str, folder: &Path) -> Result<Cluster, Failure> {
        let path = folder.join("config");
        fs::write(&path, kubeconfig(server, user)).unwrap();
        let options = ConnectionOptions { kubeconfig: Some(path), ..ConnectionOptions::default() };
        Cluster::connect_within(&options, &environment(&[]), quick()).await
    }

    async fn cluster(server: &Server) -> Cluster {
        let folder = tempfile::tempdir().unwrap();
        cluster_with(&server.url(), "token: abc", folder.path()).await.unwrap()
    }

    /// A login program that counts its runs in `runs` and answers with the run's number as the token.
    fn login_program(folder: &Path) -> String {
        let program = folder.join("login");
        let runs = folder.join("runs");
        let script = format!(
            "#!/bin/sh\necho run >> {0}\nn=$(wc -l < {0})\necho \"$KUBERNETES_EXEC_INFO\" > {1}\n\
             echo '{{\"kind\":\"ExecCredential\",\"apiVersion\":\"client.authentication.k8s.io/v1\",\
             \"status\":{{\"token\":\"run-'$n'\"}}}}'\n",
            runs.display(),
            folder.join("info").display(),
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        format!(
            "exec:\n      apiVersion: client.authentication.k8s.io/v1\n      command: {}\n      \
             interactiveMode: IfAvailable\n      provideClusterInfo: true",
            program.display()
        )
    }

    fn runs(folder: &Path) -> usize {
        fs::read_to_string(folder.join("runs")).unwrap_or_default().lines().count()
    }

    #[tokio::test]
    async fn a_request_carries_login_and_name_and_returns_the_whole_answer() {
        let server = Server::start(vec![Reply::status("200 OK", "Date: today\r\n", "hello")]).await;
        let cluster = cluster(&server).await;
        let response = cluster.request(ApiRequest::get("/api/v1/pods?limit=5")).await.unwrap();
        assert_eq!((response.status.as_u16(), &response.body[..]), (200, &b"hello"[..]));
        assert_eq!(response.headers["date"], "today");
        let head = server.heads().remove(0);
        for line in
            ["get /api/v1/pods?limit=5 http/1.1", "authorization: bearer abc", "user-agent: oc-prune-images/"]
        {
            assert!(head.contains(line), "{line} is missing in {head}");
        }
    }

    #[tokio::test]
    async fn warnings_of_answers_and_errors_are_told_once() {
        let warning = |text: &str| format!("Warning: 299 - \"{text}\"\r\n");
        let server = Server::start(vec![
            Reply::status("200 OK", &warning("v1 is old"), "{}"),
            Reply::status("200 OK", &warning("v1 is old"), "{}"),
            Reply::status("404 Not Found", &warning("v2 is \\\"new\\\""), "{}"),
        ])
        .await;
        let told = Arc::new(Mutex::new(Vec::new()));
        let telling = Arc::clone(&told);
        let announce = Arc::new(move |text: &str| telling.lock().unwrap().push(text.to_owned()));
        let cluster = cluster(&server).await.on_warning(announce);
        for path in ["/a", "/b", "/c"] {
            let _ = cluster.clone().request(ApiRequest::get(path)).await;
        }
        assert_eq!(*told.lock().unwrap(), ["v1 is old", "v2 is \"new\""]);
    }

    #[tokio::test]
    async fn a_token_file_is_trimmed_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "first\n").unwrap();
        let server = Server::start(vec![Reply::ok("{}")]).await;
        let cluster = cluster_with(&server.url(), "tokenFile: token", folder.path()).await.unwrap();
        cluster.request(ApiRequest::get("/a")).await.unwrap();
        fs::write(folder.path().join("token"), "second\r\n").unwrap();
        cluster.request(ApiRequest::get("/b")).await.unwrap();
        fs::remove_file(folder.path().join("token")).unwrap();
        cluster.request(ApiRequest::get("/c")).await.unwrap();
        let heads = server.heads();
        for (head, line) in heads.iter().zip(["bearer first\r\n", "bearer second\r\n", "bearer second\r\n"]) {
            assert!(head.contains(line), "{head}");
        }
        assert_eq!(cluster.bearer_token().await.unwrap().unwrap().expose_secret(), "second");
    }

    #[tokio::test]
    async fn a_login_program_runs_once() {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(vec![Reply::ok("{}")]).await;
        let cluster =
            cluster_with(&server.url(), &login_program(folder.path()), folder.path()).await.unwrap();
        for _ in 0..3 {
            cluster.request(ApiRequest::get("/a")).await.unwrap();
        }
        assert_eq!(cluster.bearer_token().await.unwrap().unwrap().expose_secret(), "run-1");
        assert_eq!(runs(folder.path()), 1);
        let info: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.path().join("info")).unwrap()).unwrap();
        assert_eq!(info["spec"]["interactive"], false);
        assert_eq!(info["spec"]["cluster"]["server"], server.url());
    }

    #[tokio::test]
    async fn a_refused_login_is_renewed_once() {
        let folder = tempfile::tempdir().unwrap();
        let unauthorized = || Reply::status("401 Unauthorized", "", "{}");
        let server = Server::start(vec![unauthorized(), Reply::ok("{}"), unauthorized()]).await;
        let cluster =
            cluster_with(&server.url(), &login_program(folder.path()), folder.path()).await.unwrap();
        cluster.request(ApiRequest::get("/a")).await.unwrap();
        assert_eq!(runs(folder.path()), 2);
        assert!(server.heads()[1].contains("bearer run-2"));
        assert_eq!(cluster.request(ApiRequest::get("/b")).await.unwrap_err(), ApiError::Unauthorized);
        assert_eq!((runs(folder.path()), server.heads().len()), (3, 4));
    }

    #[tokio::test]
    async fn forced_tokens_at_the_same_time_are_one_login() {
        let folder = tempfile::tempdir().unwrap();
        let user = login_program(folder.path());
        let cluster = cluster_with("https://unused.invalid", &user, folder.path()).await.unwrap();
        let source = cluster.token_source();
        let all = futures::future::join_all((0..5).map(|_| source(Refresh::Force))).await;
        for token in all {
            assert_eq!(token.unwrap().unwrap().expose_secret(), "run-2");
        }
        assert_eq!(source(Refresh::Cached).await.unwrap().unwrap().expose_secret(), "run-2");
        assert_eq!(runs(folder.path()), 2);
    }

    #[tokio::test]
    async fn a_missing_login_program_shows_its_install_hint() {
        let folder = tempfile::tempdir().unwrap();
        let user = "exec:\n      apiVersion: client.authentication.k8s.io/v1\n      command: no-such-login\n      \
                    installHint: brew install no-such-login";
        let failure = cluster_with("https://unused.invalid", user, folder.path()).await.unwrap_err();
        assert_eq!(failure.message, "get credentials: exec: executable no-such-login not found");
        assert_eq!(failure.hints, ["brew install no-such-login"]);
    }

    #[tokio::test]
    async fn logins_without_a_token_say_so() {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(vec![Reply::ok("{}")]).await;
        let user = "username: me\n    password: pw";
        let cluster = cluster_with(&server.url(), user, folder.path()).await.unwrap();
        assert!(cluster.bearer_token().await.unwrap().is_none());
        cluster.request(ApiRequest::get("/a")).await.unwrap();
        assert!(server.heads()[0].contains("authorization: basic bwu6chc="));
    }

    #[tokio::test]
    async fn an_old_auth_provider_gives_its_token() {
        let folder = tempfile::tempdir().unwrap();
        let user =
            "auth-provider:\n      name: gcp\n      config: {cmd-path: /usr/bin/printf, cmd-args: old-token}";
        let cluster = cluster_with("https://unused.invalid", user, folder.path()).await.unwrap();
        assert_eq!(cluster.bearer_token().await.unwrap().unwrap().expose_secret(), "old-token");
        let failing = user.replace("/usr/bin/printf", "/bin/false");
        let failure = cluster_with("https://unused.invalid", &failing, folder.path()).await.unwrap_err();
        assert_eq!(failure.message, "get credentials: the auth provider \"gcp\" gave none");
    }

    #[tokio::test]
    async fn credentials_do_not_go_out_in_plain_text() {
        for (server, sent) in [
            ("https://api.example.com:6443", true),
            ("http://127.0.0.1:8001", true),
            ("http://[::1]:8001", true),
            ("http://localhost", true),
            ("http://api.example.com", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(credentials::may_be_sent_to(&server.parse().unwrap()), sent, "{server}");
        }
    }

    #[tokio::test]
    async fn a_hung_answer_ends_in_time() {
        for (reply, doing) in [
            (String::new(), "waiting for the answer"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_owned(), "reading the answer"),
        ] {
            let server = Server::start(vec![Reply::Hang(reply)]).await;
            let mut request = ApiRequest::get("/api/v1/pods");
            request.retry = Retry::Never;
            let cluster = cluster(&server).await;
            let error = tokio::time::timeout(Duration::from_secs(5), cluster.request(request));
            assert_eq!(error.await.expect("hung").unwrap_err(), ApiError::Timeout(doing));
        }
    }

    #[tokio::test]
    async fn a_request_timeout_covers_the_answer_as_a_whole() {
        let server =
            Server::start(vec![Reply::Hang("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_owned())])
                .await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        fs::write(&path, kubeconfig(&server.url(), "token: abc")).unwrap();
        let options = ConnectionOptions {
            kubeconfig: Some(path),
            request_timeout: RequestTimeout::Whole(Duration::from_millis(200)),
            ..ConnectionOptions::default()
        };
        let cluster = Cluster::connect(&options, &environment(&[])).await.unwrap();
        let mut request = ApiRequest::get("/a");
        request.retry = Retry::Never;
        let error =
            tokio::time::timeout(Duration::from_secs(5), cluster.request(request)).await.expect("hung");
        assert_eq!(error.unwrap_err(), ApiError::Timeout("reading the answer"));
    }

    #[tokio::test]
    async fn a_pods_token_is_used_and_its_ca_is_no_ca_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.crt"), ca.pem()).unwrap();
        fs::write(folder.path().join("token"), "pod-token\n").unwrap();
        let mut environment = environment(&[("KUBERNETES_SERVICE_HOST", "fd00::1")]);
        environment.service_account = folder.path().to_owned();
        let cluster = Cluster::connect(&ConnectionOptions::default(), &environment).await.unwrap();
        assert_eq!(cluster.server(), "https://[fd00::1]:443");
        assert!(cluster.is_in_cluster() && cluster.ca_pem().is_none());
        assert_eq!(cluster.bearer_token().await.unwrap().unwrap().expose_secret(), "pod-token");
    }

    #[tokio::test]
    async fn an_unavailable_server_is_asked_again_when_it_says() {
        let busy = || Reply::status("503 Service Unavailable", "Retry-After: 1\r\n", "busy");
        let server = Server::start(vec![busy(), Reply::ok("{}")]).await;
        let cluster = cluster(&server).await;
        let started = std::time::Instant::now();
        cluster.request(ApiRequest::get("/a")).await.unwrap();
        assert!(started.elapsed() >= Duration::from_secs(1), "Retry-After is not honoured");
        assert_eq!(server.heads().len(), 2);
    }

    #[tokio::test]
    async fn retries_are_bounded() {
        let server = Server::start(vec![Reply::status("500 Internal Server Error", "", "broken")]).await;
        let error = cluster(&server).await.request(ApiRequest::get("/a")).await.unwrap_err();
        assert_eq!(error, ApiError::Server { status: 500, message: "broken".to_owned() });
        assert_eq!(server.heads().len(), 4);
    }

    #[tokio::test]
    async fn a_reset_and_a_cut_answer_are_tried_again() {
        let cut = Reply::Bytes("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_owned());
        let server = Server::start(vec![Reply::Reset, cut, Reply::ok("whole")]).await;
        let response = cluster(&server).await.request(ApiRequest::get("/a")).await.unwrap();
        assert_eq!(&response.body[..], b"whole");
        assert_eq!(server.heads().len(), 3);
    }

    #[tokio::test]
    async fn what_may_have_been_done_is_not_done_again() {
        let server = Server::start(vec![Reply::Reset]).await;
        let error =
            cluster(&server).await.request(ApiRequest::new(http::Method::POST, "/a")).await.unwrap_err();
        let ApiError::Connection(cause) = &error else { panic!("{error:?}") };
        assert_eq!(cause.kind, CauseKind::Cut, "{cause}");
        assert_eq!(server.heads().len(), 1);
    }

    #[tokio::test]
    async fn a_large_answer_is_not_taken() {
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsecond\r\n6\r\nsecond\r\n0\r\n\r\n";
        for reply in [Reply::ok("more than eight"), Reply::Bytes(chunked.to_owned())] {
            let server = Server::start(vec![reply]).await;
            let mut request = ApiRequest::get("/a");
            request.max_body = 8;
            let error = cluster(&server).await.request(request).await.unwrap_err();
            assert_eq!(error, ApiError::BodyTooLarge { limit: 8 });
        }
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let elsewhere = Server::start(vec![Reply::ok("{}")]).await;
        let location = format!("Location: {}/oauth?state=geheim\r\n", elsewhere.url());
        let server = Server::start(vec![Reply::status("302 Found", &location, "")]).await;
        let error = cluster(&server).await.request(ApiRequest::get("/a")).await.unwrap_err();
        assert_eq!(error, ApiError::Redirected { to: "127.0.0.1".to_owned() });
        assert!(elsewhere.heads().is_empty());
    }

    #[tokio::test]
    async fn a_login_page_is_recognised() {
        let server = Server::start(vec![Reply::status(
            "200 OK",
            "Content-Type: text/html; charset=utf-8\r\n",
            "<html>",
        )])
        .await;
        let error = cluster(&server).await.request(ApiRequest::get("/a")).await.unwrap_err();
        assert!(matches!(error, ApiError::Malformed(_)), "{error:?}");
    }

    #[tokio::test]
    async fn a_closed_port_and_an_unknown_name_are_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (server, cause) in [
            (format!("http://{closed}"), "connection refused"),
            ("https://no-such-host.invalid:6443".to_owned(), "no such host"),
        ] {
            let cluster = cluster_with(&server, "token: abc", folder.path()).await.unwrap();
            let error = cluster.request(ApiRequest::get("/a")).await.unwrap_err();
            let failure = cluster.failure(&error, "list pods");
            assert_eq!(failure.message, format!("list pods: connect to {server}: {cause}"));
        }
    }

    #[tokio::test]
    async fn tls_failures_read_as_go_writes_them() {
        install_crypto();
        let folder = tempfile::tempdir().unwrap();
        let plain = plain_server().await;
        let tls = tls_server().await;
        for (port, cause) in [
            (plain, "http: server gave HTTP response to HTTPS client"),
            (tls, "tls: failed to verify certificate: x509: certificate signed by unknown authority"),
        ] {
            let server = format!("https://127.0.0.1:{port}");
            let cluster = cluster_with(&server, "token: abc", folder.path()).await.unwrap();
            let error = cluster.request(ApiRequest::get("/a")).await.unwrap_err();
            let ApiError::Connection(found) = error else { panic!("{error:?}") };
            assert_eq!(found.text, cause);
        }
    }

    /// Answers whatever comes in plain HTTP.
    async fn plain_server() -> u16 {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await;
            }
        });
        port
    }

    /// Accepts TLS connections with a certificate that nobody knows.
    async fn tls_server() -> u16 {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = acceptor.accept(stream).await;
            }
        });
        port
    }
}
