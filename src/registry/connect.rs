//! Reaches the registry and logs in: ping without credentials, choose the connection, know the registry, then log in.
//!
//! A client is made for one host and one protection (`transport.rs`), and the name that is verified is independent of the
//! address dialled.

use std::io;
use std::path::PathBuf;

use backon::Retryable;
use reqwest::header::LOCATION;
use reqwest::{Certificate, Client, StatusCode};

use super::address::{Address, Origin, RegistryUrl, Scheme};
use super::answer::{Answer, RegistryError, status_line};
use super::cause::{is_transient, of_request};
use super::client::{LOG_IN, PASS_TOKEN, Registry, token};
use super::pods::Pods;
use super::security::{Allowance, Attempt, Condition, Protection, candidates};
use super::transport::{Limits, Pool, client, forwarded_client, send};
use super::via::{Via, Way, leads_on};
use super::{Announce, Refresh, TokenSource};
use crate::cache::detect::Rule;
use crate::cause::{Cause, CauseKind};
use crate::cli::RegistryOptions;
use crate::cluster::Cluster;
use crate::error::Failure;
use crate::text::brief;

/// Where a pod finds the CA that signs the registry's certificate.
pub const SERVICE_CA: &str = "/var/run/secrets/kubernetes.io/serviceaccount/service-ca.crt";

/// What decides how the registry is connected to.
#[derive(Clone)]
pub struct Settings {
    /// Where the registry is.
    pub address: Address,
    /// `--force-insecure`.
    pub force_insecure: bool,
    /// The PEM text in the file of `--certificate-authority`.
    pub ca_pem: Option<Vec<u8>>,
    /// The PEM text of the cluster's CA in the kubeconfig, or of the API's CA inside a pod.
    pub kubeconfig_ca: Option<Vec<u8>>,
    /// The kubeconfig's cluster has `insecure-skip-tls-verify`, or the flag of that name is given.
    pub kubeconfig_insecure: bool,
    /// The configuration is the one of a pod: the API's CA does not sign the registry, the service CA does.
    pub in_cluster: bool,
    /// The service CA's file, which is read inside a pod where it exists.
    pub service_ca: PathBuf,
    /// Is told of an insecure connection before the token is sent over it.
    pub announce: Announce,
    /// How long to wait, and how often to try.
    pub limits: Limits,
    /// `--registry-via`.
    pub via: Option<Via>,
    /// By which way the address is reached: directly, unless [`super::reach`] finds another one.
    pub path: Path,
}

/// A way to the registry, and what it brings along.
#[derive(Clone)]
pub struct Path {
    /// The way.
    pub(super) way: Way,
    /// Where connections go to instead of what the name resolves to.
    pub(super) pods: Option<Pods>,
    /// What further authorities count.
    pub(super) further: Further,
}

/// Authorities beside those that the settings name.
#[derive(Clone)]
pub(super) enum Further {
    /// None.
    None,
    /// Those of the system: a route's certificate is its router's, which may be anybody's in public.
    System,
    /// The one that signs the certificates of services (PEM), or the right that would show it.
    Service(Result<Vec<u8>, Option<Rule>>),
}

impl Default for Path {
    fn default() -> Self {
        Self { way: Way::Direct, pods: None, further: Further::None }
    }
}

impl Settings {
    /// The settings that the flags and the connection to the cluster make.
    #[must_use]
    pub fn of(options: &RegistryOptions, cluster: &Cluster, address: Address, announce: Announce) -> Self {
        Self {
            force_insecure: options.force_insecure,
            ca_pem: options.ca.as_ref().map(|ca| ca.pem.clone()),
            kubeconfig_ca: cluster.ca_pem(),
            kubeconfig_insecure: cluster.allows_insecure(),
            in_cluster: cluster.is_in_cluster(),
            via: options.via,
            ..Self::new(address, announce)
        }
    }

    /// Settings that allow nothing insecure but what the address itself allows.
    #[must_use]
    pub fn new(address: Address, announce: Announce) -> Self {
        Self {
            address,
            force_insecure: false,
            ca_pem: None,
            kubeconfig_ca: None,
            kubeconfig_insecure: false,
            in_cluster: false,
            service_ca: PathBuf::from(SERVICE_CA),
            announce,
            limits: Limits::default(),
            via: None,
            path: Path::default(),
        }
    }

    /// The registry as messages name it.
    fn shown(&self) -> String {
        let url = &self.address.url;
        match &self.path.way {
            Way::Direct => url.to_string(),
            way => format!("{url} ({way})"),
        }
    }
}

/// Why there is no connection.
pub(super) struct Trouble {
    /// What the administrator reads.
    pub(super) failure: Failure,
    /// Whether it leads on to the next way.
    pub(super) leads_on: bool,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self { failure, leads_on: false }
    }
}

/// Reaches the registry, chooses the connection and logs in.
///
/// Needs the process-wide TLS provider of `rustls`, installed by `main`. Proxies are taken from the environment.
///
/// # Errors
///
/// Without a token, before anything is sent. Then each way in which a registry cannot be reached, with the phrase of
/// the reference and the flag that fixes it; what is no image registry; a refused token. Nothing was changed.
pub async fn connect(settings: Settings, token_source: TokenSource) -> Result<Registry, Failure> {
    try_connect(settings, token_source).await.map_err(|trouble| trouble.failure)
}

pub(super) async fn try_connect(settings: Settings, token_source: TokenSource) -> Result<Registry, Trouble> {
    token(&token_source, Refresh::Cached).await?;
    let url = &settings.address.url;
    let allowance = Allowance {
        force_insecure: settings.force_insecure,
        ca_given: settings.ca_pem.is_some(),
        kubeconfig_insecure: settings.kubeconfig_insecure,
    };
    let attempts = candidates(url, allowance);
    let pool = pool(&settings).await?;
    let (attempt, client) = reach(&settings, &attempts, &pool).await?;
    if let Some(warning) = attempt.warning(url) {
        (settings.announce)(&warning);
    }
    recognise(&settings, attempt.protection, &client).await?;
    let (limits, way) = (settings.limits.clone(), settings.path.way.clone());
    let registry = Registry::new(client, url.clone(), attempt.protection, pool, token_source, limits, way)?;
    log_in(&registry, &settings).await?;
    Ok(registry)
}

/// A registry that is spoken to by its replicas alone ([`Registry::pinned`]): nothing is sent here.
///
/// # Errors
///
/// Without a token; authorities that cannot be read.
pub async fn for_replicas(settings: Settings, token_source: TokenSource) -> Result<Registry, Failure> {
    token(&token_source, Refresh::Cached).await?;
    let url = &settings.address.url;
    let protection = match url.scheme() {
        Some(Scheme::Http) => Protection::Plain,
        _ if settings.force_insecure || settings.kubeconfig_insecure && settings.ca_pem.is_none() => {
            (settings.announce)(&format!(
                "the certificates of the registry's replicas are not verified ({})",
                if settings.force_insecure { "--force-insecure" } else { "--insecure-skip-tls-verify" }
            ));
            Protection::Unverified
        }
        _ => Protection::Verified,
    };
    let pool = pool(&settings).await?;
    let client = build(&settings, protection, &pool)?;
    let way = match settings.via {
        Some(Via::PortForward) => Way::PortForward { pod: None },
        // A route leads to any of them: it is no way to a certain one.
        _ => Way::Direct,
    };
    Registry::new(client, url.clone(), protection, pool, token_source, settings.limits.clone(), way)
}

/// Collects the authorities that may sign the registry's certificate.
///
/// `--certificate-authority` is added to the kubeconfig's CA; with neither, the system's count. Inside a pod the API's
/// CA does not sign the registry: the service CA is added where there is one, else the system's. A way may bring further
/// ones along.
async fn pool(settings: &Settings) -> Result<Pool, Failure> {
    let mut certificates = Vec::new();
    let mut is_complete = !settings.in_cluster && settings.kubeconfig_ca.is_some();
    if let Some(pem) = &settings.ca_pem {
        certificates.extend(read_certificates(pem, "--certificate-authority")?);
        is_complete = true;
    }
    if let Some(pem) = &settings.kubeconfig_ca {
        certificates.extend(read_certificates(pem, "the cluster's CA")?);
    }
    if settings.in_cluster {
        match tokio::fs::read(&settings.service_ca).await {
            Ok(pem) => {
                certificates.extend(read_certificates(&pem, &settings.service_ca.display().to_string())?);
                is_complete = true;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Failure::nothing_changed(format!(
                    "read the service CA {}: {error}",
                    settings.service_ca.display()
                )));
            }
        }
    }
    match &settings.path.further {
        Further::None | Further::Service(Err(_)) => {}
        Further::System => is_complete &= settings.ca_pem.is_some(),
        Further::Service(Ok(pem)) => {
            certificates.extend(read_certificates(pem, "the service CA")?);
            is_complete = true;
        }
    }
    Ok(if is_complete { Pool::Only(certificates) } else { Pool::SystemAnd(certificates) })
}

pub(super) fn read_certificates(pem: &[u8], origin: &str) -> Result<Vec<Certificate>, Failure> {
    match Certificate::from_pem_bundle(pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(Failure::nothing_changed(format!(
            "unable to load root certificates: no valid certificate authority data seen in {origin}"
        ))
        .hint("the file must hold certificates in PEM form: -----BEGIN CERTIFICATE-----")),
    }
}

/// Why a ping failed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PingError {
    /// There was no answer.
    NoAnswer { protection: Protection, cause: Cause },
    /// There was another answer than 200 OK.
    Status { status: StatusCode, redirect: Option<String> },
}

/// Pings over each attempt whose condition is met, until one answers.
async fn reach(settings: &Settings, attempts: &[Attempt], pool: &Pool) -> Result<(Attempt, Client), Trouble> {
    let mut errors = Vec::new();
    let mut next = attempts.iter().find(|attempt| attempt.condition == Condition::First);
    while let Some(attempt) = next {
        let client = build(settings, attempt.protection, pool)?;
        let Err(mut error) = ping(settings, attempt.protection, &client).await else {
            return Ok((*attempt, client));
        };
        if let PingError::NoAnswer { cause, .. } = &mut error
            && cause.kind == CauseKind::NoTls
            && answers_in_http(settings, pool).await?
        {
            *cause = Cause::http_server();
        }
        next = following(attempts, *attempt, &error);
        errors.push(error);
    }
    let is_way_on = |error: &PingError| matches!(error, PingError::NoAnswer { cause, .. } if leads_on(cause));
    let leads_on = !errors.is_empty() && errors.iter().all(is_way_on);
    Err(Trouble { failure: explain(settings, &errors), leads_on })
}

/// Returns the attempt that the error leads to. Each is less protected than the one before, so this ends.
fn following<'a>(attempts: &'a [Attempt], made: Attempt, error: &PingError) -> Option<&'a Attempt> {
    let PingError::NoAnswer { cause, .. } = error else { return None };
    let met = match cause.kind {
        _ if cause.is_certificate() => Condition::CertificateRefused,
        CauseKind::HttpServer => Condition::HttpAnswer,
        _ => return None,
    };
    attempts.iter().find(|attempt| attempt.condition == met && attempt.protection > made.protection)
}

fn build(settings: &Settings, protection: Protection, pool: &Pool) -> Result<Client, Failure> {
    let url = &settings.address.url;
    let built = match &settings.path.pods {
        Some(pods) => forwarded_client(url, pods, protection, pool, &settings.limits),
        None => client(url, protection, pool, &settings.limits),
    };
    built.map_err(|cause| {
        Failure::nothing_changed(format!("failed to ping registry {}: {cause}", settings.shown()))
            .hint("name the CA that signed the registry's certificate: --certificate-authority=<file>")
    })
}

/// Asks `/`, then `/healthz`, as the reference does, but without credentials.
async fn ping(settings: &Settings, protection: Protection, client: &Client) -> Result<(), PingError> {
    let mut last = None;
    for path in ["/", "/healthz"] {
        let answer = get(settings, protection, client, path)
            .await
            .map_err(|cause| PingError::NoAnswer { protection, cause })?;
        if answer.status == StatusCode::OK {
            return Ok(());
        }
        let location = answer.headers.get(LOCATION).filter(|_| answer.status.is_redirection());
        last = Some(PingError::Status {
            status: answer.status,
            redirect: location.map(|location| brief(&String::from_utf8_lossy(location.as_bytes()))),
        });
    }
    last.map_or(Ok(()), Err)
}

/// Whether a plain request, without credentials, is answered: only that is an "HTTP answer to an HTTPS client".
async fn answers_in_http(settings: &Settings, pool: &Pool) -> Result<bool, Failure> {
    let client = build(settings, Protection::Plain, pool)?;
    Ok(get(settings, Protection::Plain, &client, "/").await.is_ok())
}

/// Sends a request without credentials; again while the answer may pass.
async fn get(
    settings: &Settings,
    protection: Protection,
    client: &Client,
    path: &str,
) -> Result<Answer, Cause> {
    let limits = &settings.limits;
    let url = &settings.address.url;
    let target = format!("{}://{}{path}", protection.scheme(), url.authority());
    let busy = async || match send(client.get(&target).timeout(limits.answer), url).await {
        Ok(answer) if answer.is_transient() => Err(Ok(answer)),
        Ok(answer) => Ok(answer),
        Err(cause) => Err(Err(cause)),
    };
    // A host that cannot be reached is reported at once: that is a wrong address, mostly.
    busy.retry(limits.backoff())
        .when(Result::is_ok)
        .adjust(|answer, planned| limits.wait(planned, answer.as_ref().ok().and_then(Answer::retry_after)))
        .await
        .or_else(|last| last)
}

/// Asks `/v2/` without credentials, so that the token is sent to nothing but an image registry.
async fn recognise(settings: &Settings, protection: Protection, client: &Client) -> Result<(), Failure> {
    let url = &settings.address.url;
    let answer = get(settings, protection, client, "/v2/").await.map_err(|cause| {
        let cause = of_request(&cause, "Get", protection.scheme(), url, "/v2/");
        Failure::nothing_changed(format!("failed to log in to registry {}: {cause}", settings.shown()))
            .hint(LOGS)
    })?;
    if answer.is_registry() {
        return Ok(());
    }
    Err(Failure::nothing_changed(format!(
        "failed to log in to registry {}: {}://{}/v2/ answered {}, but it is not an image registry",
        settings.shown(),
        protection.scheme(),
        url.authority(),
        answer.summary(),
    ))
    .hint("the token was not sent; name the registry's own address: --registry-url=<host>[:<port>]")
    .hint(ROUTE))
}

/// Asks `/v2/` with the token.
async fn log_in(registry: &Registry, settings: &Settings) -> Result<(), Failure> {
    let failed = |cause: &str| {
        Failure::nothing_changed(format!(
            "failed to log in to registry {}: {}/v2/: {cause}",
            settings.shown(),
            registry.url()
        ))
    };
    let without_answer = |cause: &str| failed(cause).hint(LOGS);
    let check = async || match registry.check_login().await {
        Ok(Ok(answer)) if answer.is_transient() => {
            Err((true, answer.retry_after(), without_answer(&answer.summary())))
        }
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(cause)) => Err((is_transient(&cause), None, without_answer(&cause.text))),
        Err(RegistryError::Token(failure)) => Err((false, None, failure)),
        Err(error) => Err((false, None, without_answer(&error.to_string()))),
    };
    let limits = &settings.limits;
    let answer = check
        .retry(limits.backoff())
        .when(|(may_pass, _, _)| *may_pass)
        .adjust(|(_, asked, _), planned| limits.wait(planned, *asked))
        .await
        .map_err(|(_, _, failure)| failure)?;
    match answer.status {
        StatusCode::OK | StatusCode::NOT_FOUND if answer.is_registry() => Ok(()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(failed(&format!("the token was refused by the registry: {}", answer.summary()))
                .hint("see whether the token is still valid: oc whoami")
                .hint(LOG_IN)
                .hint(PASS_TOKEN))
        }
        _ => Err(failed(&format!("unexpected answer: {}", answer.summary())).hint(LOGS)),
    }
}

pub(super) const ROUTE: &str = "a route from outside the cluster: oc get route -n openshift-image-registry -o jsonpath='{.items[*].spec.host}'";
pub(super) const EXPOSE: &str = "make a route if there is none: oc patch configs.imageregistry.operator.openshift.io/cluster --type=merge -p '{\"spec\":{\"defaultRoute\":true}}'";
const LOGS: &str =
    "see what the registry says: oc logs -n openshift-image-registry deployment/image-registry";
const REACHABLE: &str = "Please provide a reachable route to the integrated registry using --registry-url.";
/// How to let another way be found.
pub(super) const OTHER_WAYS: &str =
    "reach it by a route, or else through the API server: --registry-via=auto";
/// How to go without the network between here and the registry.
pub(super) const BY_PORT_FORWARD: &str = "or go through the API server: --registry-via=port-forward";
const FORCE: &str =
    "Append --force-insecure if you really want to prune the registry using insecure connection.";

/// Turns the errors of all attempts into what the administrator reads.
fn explain(settings: &Settings, errors: &[PingError]) -> Failure {
    let url = &settings.address.url;
    let texts: Vec<String> = errors.iter().map(|error| ping_text(error, url)).collect();
    let text = match texts.as_slice() {
        // No attempt is allowed: see `candidates`.
        [] => {
            return Failure::usage("--certificate-authority cannot be specified for insecure http protocol")
                .hint(format!("--registry-url=https://{}", url.authority()));
        }
        [text] => text.clone(),
        texts => format!("[{}]", texts.join(", ")),
    };
    let failure = Failure::nothing_changed(format!("failed to ping registry {}: {text}", settings.shown()));
    let hints = errors.last().map(|error| hints(settings, error)).unwrap_or_default();
    hints.into_iter().fold(failure, Failure::hint)
}

fn ping_text(error: &PingError, url: &RegistryUrl) -> String {
    match error {
        PingError::NoAnswer { protection, cause } => of_request(cause, "Get", protection.scheme(), url, "/"),
        PingError::Status { status, redirect: None } => {
            format!("unexpected status: {}", status_line(*status))
        }
        PingError::Status { status, redirect: Some(location) } => {
            format!("unexpected status: {} (a redirect to {location})", status_line(*status))
        }
    }
}

/// What helps against a failed ping.
fn hints(settings: &Settings, error: &PingError) -> Vec<String> {
    let host = settings.address.url.authority();
    let speak_https = format!("if it is an https server: --registry-url=https://{host}");
    match error {
        PingError::Status { status: StatusCode::BAD_REQUEST, .. } => vec![speak_https],
        PingError::Status { .. } => {
            vec![
                format!("{host} is not the image registry, or the registry is not running"),
                ROUTE.to_owned(),
            ]
        }
        PingError::NoAnswer { protection, cause } => match cause.kind {
            CauseKind::HttpServer => {
                let http = format!("speak plain http to it: --registry-url=http://{host}");
                if settings.ca_pem.is_some() {
                    vec![format!("{http}, and leave --certificate-authority out: it forbids http")]
                } else if settings.address.url.scheme().is_none() {
                    vec![http, FORCE.to_owned()]
                } else {
                    vec![http]
                }
            }
            CauseKind::MalformedAnswer => vec![speak_https],
            CauseKind::UnknownAuthority => authority_hints(settings),
            CauseKind::OtherName if settings.path.pods.is_some() => vec![format!(
                "whoever has no certificate for {} is not taken for a replica of the registry: the token was not sent",
                settings.address.url.host()
            )],
            CauseKind::OtherName => {
                vec![
                    "use the name that the certificate is for: --registry-url=https://<name>[:<port>]"
                        .to_owned(),
                ]
            }
            CauseKind::Certificate => {
                let mut hints = vec!["have the registry's certificate renewed".to_owned()];
                if settings.ca_pem.is_none() {
                    hints.push(FORCE.to_owned());
                }
                hints
            }
            CauseKind::NoSuchHost | CauseKind::Refused | CauseKind::Unreachable | CauseKind::TimedOut => {
                match &settings.path.way {
                    Way::Direct => {
                        vec![elsewhere(settings), OTHER_WAYS.to_owned(), ROUTE.to_owned(), EXPOSE.to_owned()]
                    }
                    Way::Route { .. } | Way::PortForward { .. } => vec![],
                }
            }
            CauseKind::Proxy => vec![format!(
                "a proxy of the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY) is used; to go without it: NO_PROXY={}",
                settings.address.url.host()
            )],
            CauseKind::NoTls | CauseKind::Cut | CauseKind::Other if settings.path.pods.is_some() => {
                vec![LOGS.to_owned()]
            }
            CauseKind::NoTls | CauseKind::Cut | CauseKind::Other => {
                vec![
                    elsewhere(settings),
                    ROUTE.to_owned(),
                    format!("see who answers there: curl -vk {}://{host}/", protection.scheme()),
                ]
            }
        },
    }
}

/// Where nobody answers: what the reference says of an address that it found itself, or which flag names it.
fn elsewhere(settings: &Settings) -> String {
    match settings.address.origin {
        Origin::Streams => REACHABLE.to_owned(),
        Origin::Flag => format!("check the host and the port in --registry-url={}", settings.address.url),
    }
}

fn authority_hints(settings: &Settings) -> Vec<String> {
    let mut hints = given_authority_hints(settings);
    match &settings.path.further {
        Further::Service(Err(Some(rule))) => {
            hints.insert(0, format!("or give the right to read the service CA: {}", rule.command()));
        }
        Further::System => hints.push(BY_PORT_FORWARD.to_owned()),
        // Outside of the cluster the name may be somebody else's.
        Further::None if settings.address.origin == Origin::Streams => hints.push(BY_PORT_FORWARD.to_owned()),
        Further::None | Further::Service(_) => {}
    }
    hints
}

fn given_authority_hints(settings: &Settings) -> Vec<String> {
    if settings.ca_pem.is_some() {
        return vec![
            "another CA than the one in --certificate-authority signed the registry's certificate".to_owned(),
            "of the service: oc get configmap openshift-service-ca.crt -n openshift-image-registry -o \
             jsonpath='{.data.service-ca\\.crt}'"
                .to_owned(),
            "of a route: oc extract secret/router-ca -n openshift-ingress-operator --keys=tls.crt --to=-"
                .to_owned(),
        ];
    }
    vec![
        "name the CA that signed the registry's certificate: --certificate-authority=<file>".to_owned(),
        FORCE.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::super::fake::{self, Authority, Server, basic, recording, reply, token};
    use super::*;
    use crate::error::Exit;

    type Warnings = Arc<Mutex<Vec<String>>>;

    fn settings(url: &str) -> (Settings, Warnings) {
        fake::install_provider();
        let warnings = Warnings::default();
        let told = Arc::clone(&warnings);
        let address = Address { url: RegistryUrl::parse(url).unwrap(), origin: Origin::Flag };
        let announce: Announce = Arc::new(move |text| told.lock().unwrap().push(text.to_owned()));
        let mut settings = Settings::new(address, announce);
        settings.limits.connect = Duration::from_secs(2);
        settings.limits.answer = Duration::from_secs(2);
        settings.limits.attempts = 2;
        settings.limits.first_wait = Duration::from_millis(1);
        settings.limits.longest_retry_after = Duration::from_millis(1);
        // Nothing that a test machine trusts decides a test.
        settings.kubeconfig_ca = Some(Authority::new().pem());
        (settings, warnings)
    }

    async fn failure(settings: Settings) -> Failure {
        let failure = connect(settings, token("good")).await.unwrap_err();
        assert_eq!(failure.exit, Exit::NothingChanged, "{failure}");
        failure
    }

    #[track_caller]
    fn assert_says(failure: &Failure, message: &str, hint: &str) {
        assert!(failure.message.contains(message), "{failure}\nlacks {message}");
        assert!(failure.hints.iter().any(|line| line.contains(hint)), "{failure}\nlacks hint {hint}");
    }

    #[tokio::test]
    async fn a_verified_connection_is_used_and_the_ping_is_anonymous() {
        let authority = Authority::new();
        let server = Server::registry(Some(authority.server(&["localhost"])), vec![]).await;
        // A private address without a scheme: insecure ways are allowed, and not taken.
        let (mut settings, warnings) = settings(&format!("localhost:{}", server.port));
        settings.kubeconfig_ca = Some(authority.pem());
        let registry = connect(settings, token("good")).await.unwrap();
        assert_eq!(registry.protection(), Protection::Verified);
        assert_eq!(registry.url(), format!("https://localhost:{}", server.port));
        let seen = server.seen();
        let seen: Vec<_> = seen.iter().map(|seen| (&*seen.request, seen.authorization.clone())).collect();
        assert_eq!(seen, [("GET /", None), ("GET /v2/", None), ("GET /v2/", Some(basic("good")))]);
        assert!(warnings.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_given_ca_is_added_to_that_of_the_kubeconfig() {
        let authority = Authority::new();
        let server = Server::registry(Some(authority.server(&["localhost"])), vec![]).await;
        let (mut settings, _) = settings(&format!("https://localhost:{}", server.port));
        settings.ca_pem = Some(authority.pem());
        connect(settings, token("good")).await.unwrap();
    }

    #[tokio::test]
    async fn a_pod_trusts_the_service_ca() {
        let authority = Authority::new();
        let server = Server::registry(Some(authority.server(&["localhost"])), vec![]).await;
        let (mut settings, _) = settings(&format!("https://localhost:{}", server.port));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), authority.pem()).unwrap();
        settings.service_ca = file.path().to_owned();
        assert_says(
            &failure(settings.clone()).await,
            "signed by unknown authority",
            "--certificate-authority=",
        );
        settings.in_cluster = true;
        connect(settings.clone(), token("good")).await.unwrap();
        std::fs::write(file.path(), "no certificate").unwrap();
        assert!(failure(settings).await.message.contains("no valid certificate authority data seen"));
    }

    #[tokio::test]
    async fn an_unknown_authority() {
        let server = Server::registry(Some(Authority::new().server(&["localhost"])), vec![]).await;
        let url = format!("https://localhost:{}", server.port);
        let (settings, _) = settings(&url);
        let failure = failure(settings).await;
        assert_eq!(
            failure.message,
            format!(
                "failed to ping registry {url}: Get \"{url}/\": tls: failed to verify certificate: x509: certificate \
                 signed by unknown authority"
            )
        );
        assert_says(&failure, "", "--certificate-authority=");
        assert!(server.seen().is_empty());
    }

    #[tokio::test]
    async fn a_wrong_authority_forbids_what_a_private_address_allows() {
        let server = Server::registry(Some(Authority::new().server(&["localhost"])), vec![]).await;
        let (mut settings, _) = settings(&format!("localhost:{}", server.port));
        settings.ca_pem = Some(Authority::new().pem());
        let failure = failure(settings).await;
        assert_says(
            &failure,
            "certificate signed by unknown authority",
            "another CA than the one in --certificate-authority",
        );
        assert!(!failure.to_string().contains("--force-insecure"), "{failure}");
        assert!(server.seen().is_empty());
    }

    #[tokio::test]
    async fn a_certificate_for_another_name_or_another_time() {
        let authority = Authority::new();
        let other = Server::registry(Some(authority.server(&["other.svc"])), vec![]).await;
        let ended = authority
            .server_with(&["localhost"], |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
        let expired = Server::registry(Some(ended), vec![]).await;
        let of_ca = authority.server_with(&["localhost"], |params| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        });
        let of_ca = Server::registry(Some(of_ca), vec![]).await;
        for (url, message, hint) in [
            (
                format!("https://localhost:{}", other.port),
                "x509: certificate is valid for other.svc, not localhost",
                "use the name that the certificate is for",
            ),
            (
                format!("https://127.0.0.1:{}", other.port),
                "x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs",
                "use the name that the certificate is for",
            ),
            (
                format!("https://localhost:{}", of_ca.port),
                "x509: certificate signed by unknown authority (the server shows a CA certificate as its own)",
                "have the registry's certificate renewed",
            ),
            (
                format!("https://localhost:{}", expired.port),
                "x509: certificate has expired or is not yet valid",
                "have the registry's certificate renewed",
            ),
        ] {
            let (mut settings, _) = settings(&url);
            settings.ca_pem = Some(authority.pem());
            assert_says(&failure(settings).await, message, hint);
        }
    }

    #[tokio::test]
    async fn an_http_server_behind_https() {
        let server = Server::registry(None, vec![]).await;
        for (url, force, ca) in [
            (format!("https://127.0.0.1:{}", server.port), false, false),
            (format!("https://127.0.0.1:{}", server.port), true, false),
            (format!("127.0.0.1:{}", server.port), false, true),
            // No private address: nothing insecure without the flag.
            (format!("127.0.0.2:{}", server.port), false, false),
        ] {
            let (mut settings, _) = settings(&url);
            settings.force_insecure = force;
            settings.ca_pem = ca.then(|| Authority::new().pem());
            let failure = failure(settings).await;
            assert_says(
                &failure,
                "/\": http: server gave HTTP response to HTTPS client",
                "--registry-url=http://",
            );
            if force {
                // The reference's line, to the letter: with https:// the flag leads to no other attempt.
                assert_eq!(
                    failure.message,
                    format!(
                        "failed to ping registry {url}: Get \"{url}/\": http: server gave HTTP response to HTTPS client"
                    )
                );
            }
        }
        assert!(server.seen().iter().all(|seen| seen.authorization.is_none()), "the token was sent");
    }

    #[tokio::test]
    async fn plain_http_where_it_is_allowed_and_announced() {
        let server = Server::registry(None, vec![]).await;
        for (url, force, kubeconfig) in [
            (format!("http://127.0.0.2:{}", server.port), false, false),
            (format!("127.0.0.1:{}", server.port), false, false),
            (format!("127.0.0.2:{}", server.port), true, false),
            (format!("127.0.0.2:{}", server.port), false, true),
        ] {
            let (mut settings, warnings) = settings(&url);
            settings.force_insecure = force;
            settings.kubeconfig_insecure = kubeconfig;
            let registry = connect(settings, token("good")).await.unwrap();
            assert_eq!(registry.protection(), Protection::Plain, "{url}");
            let warnings = warnings.lock().unwrap();
            assert_eq!(warnings.len(), 1, "{url}");
            assert!(warnings[0].contains("plain http"), "{warnings:?}");
        }
    }

    #[tokio::test]
    async fn verification_is_skipped_where_that_is_allowed_and_announced() {
        let server = Server::registry(Some(Authority::new().server(&["other.svc"])), vec![]).await;
        for (url, force) in [
            (format!("127.0.0.1:{}", server.port), false),
            (format!("127.0.0.2:{}", server.port), true),
            (format!("https://127.0.0.2:{}", server.port), true),
        ] {
            let (mut settings, warnings) = settings(&url);
            settings.force_insecure = force;
            let registry = connect(settings, token("good")).await.unwrap();
            assert_eq!(registry.protection(), Protection::Unverified, "{url}");
            assert!(warnings.lock().unwrap()[0].contains("certificate is not verified"));
        }
    }

    #[tokio::test]
    async fn a_certificate_error_never_leads_to_plain_http() {
        let attempts = candidates(
            &RegistryUrl::parse("10.0.0.1").unwrap(),
            Allowance { force_insecure: true, ..Allowance::default() },
        );
        let error =
            |kind| PingError::NoAnswer { protection: Protection::Verified, cause: Cause::new(kind, "") };
        let next = |made: usize, error: &PingError| {
            following(&attempts, attempts[made], error).map(|next| next.protection)
        };
        let certificate = error(CauseKind::UnknownAuthority);
        assert_eq!(next(0, &certificate), Some(Protection::Unverified));
        assert_eq!(next(1, &certificate), None);
        assert_eq!(next(0, &error(CauseKind::HttpServer)), Some(Protection::Plain));
        assert_eq!(next(2, &error(CauseKind::HttpServer)), None);
        for kind in [
            CauseKind::NoTls,
            CauseKind::Refused,
            CauseKind::TimedOut,
            CauseKind::MalformedAnswer,
            CauseKind::Cut,
            CauseKind::Other,
        ] {
            assert_eq!(next(0, &error(kind)), None);
        }
        assert_eq!(next(0, &PingError::Status { status: StatusCode::BAD_REQUEST, redirect: None }), None);
    }

    #[tokio::test]
    async fn an_https_server_spoken_to_in_http() {
        let rustls = Server::registry(Some(Authority::new().server(&["localhost"])), vec![]).await;
        let (given, _) = settings(&format!("http://localhost:{}", rustls.port));
        assert_says(&failure(given).await, "malformed HTTP response", "--registry-url=https://localhost");
        let go = Server::start(None, |_| {
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n".to_vec()
        })
        .await;
        // HTTP/1.0 without a length ends with the connection, which the small server does not end.
        let (mut given, _) = settings(&format!("http://localhost:{}", go.port));
        given.limits.answer = Duration::from_millis(300);
        assert_says(
            &failure(given).await,
            ": unexpected status: 400 Bad Request",
            "--registry-url=https://localhost",
        );
    }

    #[tokio::test]
    async fn what_is_given_with_http_and_a_ca_is_a_mistake() {
        let (mut settings, _) = settings("http://localhost:1");
        settings.ca_pem = Some(Authority::new().pem());
        let failure = connect(settings, token("good")).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert_says(
            &failure,
            "--certificate-authority cannot be specified for insecure http protocol",
            "https://",
        );
    }

    #[tokio::test]
    async fn nobody_listens() {
        let port = Server::registry(None, vec![]).await.port;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let url = format!("127.0.0.1:{port}");
        let (mut settings, _) = settings(&url);
        assert_says(&failure(settings.clone()).await, "", &format!("in --registry-url={url}"));
        settings.address.origin = Origin::Streams;
        let failure = failure(settings).await;
        assert_says(&failure, "connect: connection refused", REACHABLE);
        assert_says(
            &failure,
            &format!("Get \"https://127.0.0.1:{port}/\": dial tcp"),
            "oc get route -n openshift-image-registry",
        );
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_resolved() {
        let (mut settings, _) = settings("https://no-such-host.invalid:5000");
        settings.limits.connect = Duration::from_secs(20);
        settings.limits.answer = Duration::from_secs(20);
        settings.address.origin = Origin::Streams;
        let failure = failure(settings).await;
        assert_says(&failure, "dial tcp: lookup no-such-host.invalid: no such host", REACHABLE);
        assert_says(
            &failure,
            "failed to ping registry https://no-such-host.invalid:5000: Get ",
            "oc get route -n",
        );
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_in_time() {
        let silent = Server::start(None, |_| b"\r\n".to_vec()).await;
        let (mut given, _) = settings(&format!("http://localhost:{}", silent.port));
        given.limits.answer = Duration::from_millis(100);
        assert_says(&failure(given).await, "context deadline exceeded", "check the host and the port");
        // Nobody accepts: the kernel takes the connection, and no TLS follows.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut given, _) = settings(&format!("127.0.0.1:{}", listener.local_addr().unwrap().port()));
        given.limits.connect = Duration::from_millis(100);
        assert_says(&failure(given).await, "i/o timeout", "check the host and the port");
    }

    #[tokio::test]
    async fn the_old_health_endpoint_is_asked_too() {
        let server = Server::start(None, |seen| match seen.request.as_str() {
            "GET /" => reply(404, &[], ""),
            "GET /healthz" => recording("ping.healthz"),
            _ => fake::log_in(seen),
        })
        .await;
        let (settings, _) = settings(&format!("http://localhost:{}", server.port));
        connect(settings, token("good")).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_registry_gets_no_token() {
        let page = |_: &fake::Seen| reply(200, &[("Content-Type", "text/html")], "<html>Log in</html>");
        let server = Server::start(None, page).await;
        let (given, _) = settings(&format!("http://localhost:{}", server.port));
        let text = failure(given).await;
        assert_says(
            &text,
            "/v2/ answered 200 OK (a web page), but it is not an image registry",
            "the token was not sent",
        );
        assert!(server.seen().iter().all(|seen| seen.authorization.is_none()));

        let elsewhere = Server::registry(None, vec![]).await;
        let location = format!("http://localhost:{}/", elsewhere.port);
        let server = Server::start(None, move |_| reply(302, &[("Location", &location)], "")).await;
        let (given, _) = settings(&format!("http://localhost:{}", server.port));
        let text = failure(given).await;
        assert_says(
            &text,
            "unexpected status: 302 Found (a redirect to http://localhost:",
            "is not the image registry",
        );
        assert!(elsewhere.seen().is_empty(), "a redirect was followed");
    }

    #[tokio::test]
    async fn a_refused_token_is_named_and_not_printed() {
        let server = Server::registry(None, vec![]).await;
        let (given, _) = settings(&format!("http://localhost:{}", server.port));
        let failure = connect(given.clone(), token("old")).await.unwrap_err();
        assert_says(
            &failure,
            "the token was refused by the registry: 401 Unauthorized",
            "is still valid: oc whoami",
        );
        assert!(!failure.to_string().contains("old"), "{failure}");
        let (source, forced) = fake::renewable("old", "new");
        connect(given, source).await.unwrap();
        assert_eq!(*forced.lock().unwrap(), 1);
    }

    #[tokio::test]
    async fn without_a_token_nothing_is_sent() {
        let server = Server::registry(None, vec![]).await;
        for none in [None, Some("")] {
            let (given, _) = settings(&format!("http://localhost:{}", server.port));
            let source: TokenSource = Arc::new(move |_| Box::pin(async move { Ok(none.map(Into::into)) }));
            let failure = connect(given, source).await.unwrap_err();
            assert_says(&failure, "you must use a client config with a token", "oc login");
            assert_says(&failure, "", "--token=\"$(oc create token pruner -n openshift-image-registry)\"");
        }
        assert!(server.seen().is_empty());
    }

    #[tokio::test]
    async fn a_busy_registry_is_asked_again_but_not_for_ever() {
        let server = Server::start(None, |_| reply(503, &[("Retry-After", "3600")], "")).await;
        let (given, _) = settings(&format!("http://localhost:{}", server.port));
        assert_says(&failure(given).await, "unexpected status: 503 Service Unavailable", ROUTE);
        let asked: Vec<_> = server.seen().into_iter().map(|seen| seen.request).collect();
        assert_eq!(asked, ["GET /", "GET /", "GET /healthz", "GET /healthz"]);
    }
}
