//! Who we are for the API server and the registry, and how that is renewed.

use std::{sync::Arc, time::Instant};

use base64::Engine as _;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri, header::AUTHORIZATION};
use jiff::Timestamp;
use kube::{
    Config,
    client::{Body, ConfigExt as _, middleware::AuthLayer},
    config::AuthInfo,
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;
use tower::{BoxError, Layer as _, ServiceExt as _, service_fn};

use super::{
    exec::{ExecPlugin, Identity},
    kubeconfig::Target,
    options::Environment,
};
use crate::{cause::io_text, error::Failure, text::sanitize};

/// Whether a token that is at hand will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// A token that is not about to expire will do.
    Cached,
    /// The last one was refused: get a new one. Calls at the same time get one new token together.
    Force,
}

/// Gives the bearer token for the registry's login, and `None` for a login that has none.
pub type TokenSource =
    Arc<dyn Fn(Refresh) -> BoxFuture<'static, Result<Option<SecretString>, Failure>> + Send + Sync>;

/// What goes into a request.
#[derive(Debug, Clone)]
pub(super) struct Login {
    /// Marked as sensitive, so that it does not show in logs.
    pub(super) authorization: Option<HeaderValue>,
    pub(super) token: Option<SecretString>,
    /// A client certificate that a login program gave; that of the kubeconfig belongs to the connection.
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) obtained: Instant,
    renew_at: Option<Timestamp>,
}

/// The login that the kubeconfig, the flags or the pod give.
pub(super) struct Credentials {
    source: Source,
    /// The last login; held while a new one is obtained, so that a login program never runs twice at once.
    last: Mutex<Option<Login>>,
}

enum Source {
    None,
    Token(SecretString),
    /// With the kubeconfig's `token`, which counts while the file cannot be read.
    File {
        path: String,
        fallback: Option<SecretString>,
    },
    Basic {
        user: String,
        password: SecretString,
    },
    Exec(ExecPlugin),
    /// The old `auth-provider`s (OIDC), which kube renews.
    Provider(Box<AuthLayer>),
}

impl Credentials {
    /// Chooses by client-go's precedence: token, password, login program, auth provider.
    pub(super) async fn new(target: &Target, environment: &Environment) -> Result<Self, Failure> {
        let user = &target.user;
        let file = user.token_file.as_ref().filter(|path| !path.is_empty());
        let token = user.token.as_ref().filter(|token| !token.expose_secret().trim().is_empty());
        let source = match (file, token, user.username.as_ref().filter(|name| !name.is_empty())) {
            (Some(path), fallback, _) => Source::File { path: path.clone(), fallback: fallback.cloned() },
            (None, Some(token), _) => Source::Token(token.clone()),
            (None, None, Some(name)) => {
                Source::Basic { user: name.clone(), password: user.password.clone().unwrap_or_default() }
            }
            (None, None, None) => match (&user.exec, &user.auth_provider) {
                (Some(exec), _) => Source::Exec(ExecPlugin::new(exec, target, environment)?),
                (None, Some(_)) => provider(user.clone()).await?,
                (None, None) => Source::None,
            },
        };
        Ok(Self { source, last: Mutex::new(None) })
    }

    /// Whether asking again can give another login.
    pub(super) fn can_refresh(&self) -> bool {
        matches!(self.source, Source::File { .. } | Source::Exec(_))
    }

    /// Gives a login that does not expire soon, and that was obtained after `newer_than`.
    pub(super) async fn login(&self, newer_than: Option<Instant>) -> Result<Login, Failure> {
        let mut last = self.last.lock().await;
        if let Some(login) = last.as_ref() {
            let fresh = newer_than.is_none_or(|instant| login.obtained > instant);
            let lives = login.renew_at.is_none_or(|renew_at| Timestamp::now() < renew_at);
            // A file is read for every request: its content changes without notice, and reading is cheap.
            let rereads = matches!(self.source, Source::File { .. } | Source::Provider(_));
            if !rereads && lives && (fresh || !self.can_refresh()) {
                return Ok(login.clone());
            }
        }
        let previous = last.as_ref().and_then(|login| login.token.clone());
        let login = self.obtain(previous).await?;
        *last = Some(login.clone());
        Ok(login)
    }

    async fn obtain(&self, previous: Option<SecretString>) -> Result<Login, Failure> {
        let obtained = Instant::now();
        let mut login = Login { authorization: None, token: None, identity: None, obtained, renew_at: None };
        match &self.source {
            Source::None => return Ok(login),
            Source::Basic { user, password } => {
                let pair = format!("{user}:{}", password.expose_secret());
                let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
                login.authorization = Some(header("Basic", &encoded)?);
                return Ok(login);
            }
            Source::Provider(layer) => {
                login.authorization = ask_provider(layer).await?;
                let value = login.authorization.as_ref().and_then(|value| value.to_str().ok());
                login.token = value.and_then(|value| value.strip_prefix("Bearer ")).map(SecretString::from);
                return Ok(login);
            }
            Source::Token(token) => login.token = Some(token.clone()),
            Source::File { path, fallback } => {
                login.token = Some(token_file(path, previous.or_else(|| fallback.clone())).await?);
            }
            Source::Exec(plugin) => {
                let credential = plugin.run().await?;
                // A login program may wait for somebody to type: the login is as old as its end.
                login.obtained = Instant::now();
                login.token = credential.token;
                login.identity = credential.identity.map(Arc::new);
                login.renew_at = credential.renew_at;
            }
        }
        // Tokens come from files and shells: the line's end is not part of them.
        login.token = login.token.map(|token| SecretString::from(token.expose_secret().trim()));
        login.authorization =
            login.token.as_ref().map(|token| header("Bearer", token.expose_secret())).transpose()?;
        Ok(login)
    }
}

/// Whether credentials may go to this server: kubectl sends none without TLS; to this very machine they may go.
pub(super) fn may_be_sent_to(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    server.scheme_str() == Some("https") || loopback || host.eq_ignore_ascii_case("localhost")
}

/// Makes a source of bearer tokens that outlives the connection.
pub(super) fn token_source(credentials: Arc<Credentials>) -> TokenSource {
    Arc::new(move |refresh| {
        let credentials = Arc::clone(&credentials);
        let newer_than = match refresh {
            Refresh::Cached => None,
            Refresh::Force => Some(Instant::now()),
        };
        Box::pin(async move { Ok(credentials.login(newer_than).await?.token) })
    })
}

fn header(scheme: &str, value: &str) -> Result<HeaderValue, Failure> {
    let mut header = HeaderValue::try_from(format!("{scheme} {value}")).map_err(|_| {
        Failure::nothing_changed(
            "get credentials: the token has characters that no token has (a line break?)",
        )
        .hint("get a token: oc whoami --show-token, and pass it: --token=TOKEN")
    })?;
    header.set_sensitive(true);
    Ok(header)
}

async fn token_file(path: &str, previous: Option<SecretString>) -> Result<SecretString, Failure> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) if !text.trim().is_empty() => Ok(SecretString::from(text)),
        // Some take the file away once it was read (https://github.com/kubernetes/kubernetes/issues/68164).
        result => previous.ok_or_else(|| {
            let cause = result.map_or_else(|error| io_text(&error), |_| "the file is empty".to_owned());
            Failure::nothing_changed(format!("get credentials: read token file {}: {cause}", sanitize(path)))
                .hint("log in again: oc login")
        }),
    }
}

async fn provider(user: AuthInfo) -> Result<Source, Failure> {
    let name = user.auth_provider.as_ref().map(|provider| sanitize(&provider.name)).unwrap_or_default();
    let mut config = Config::new(Uri::from_static("https://unused.invalid"));
    config.auth_info = AuthInfo { auth_provider: user.auth_provider, ..AuthInfo::default() };
    // Some providers run a program right here.
    let layer = tokio::task::spawn_blocking(move || config.auth_layer())
        .await
        .map_err(|_| provider_failure(&name))?;
    match layer {
        Ok(Some(layer)) => Ok(Source::Provider(Box::new(layer))),
        Ok(None) => Ok(Source::None),
        // kube's message repeats the output of the provider's program, tokens included.
        Err(_) => Err(provider_failure(&name)),
    }
}

fn provider_failure(name: &str) -> Failure {
    Failure::nothing_changed(format!("get credentials: the auth provider \"{name}\" gave none"))
        .hint("log in again: oc login, or pass a token: --token=TOKEN")
}

/// Lets kube's layer put its header into a request that goes nowhere: the only public way to its token.
fn ask_provider(layer: &AuthLayer) -> BoxFuture<'static, Result<Option<HeaderValue>, Failure>> {
    let service = layer.layer(service_fn(echo));
    Box::pin(async move {
        let response =
            service.oneshot(Request::new(Body::empty())).await.map_err(|_| provider_failure("oidc"))?;
        Ok(response.headers().get(AUTHORIZATION).cloned())
    })
}

async fn echo(request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let mut response = Response::new(Body::empty());
    if let Some(value) = request.headers().get(AUTHORIZATION) {
        response.headers_mut().insert(AUTHORIZATION, value.clone());
    }
    Ok(response)
}
