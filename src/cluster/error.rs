//! What can go wrong with a request to the API server, and what to tell the administrator.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use thiserror::Error;

use crate::{
    cause::{Cause, CauseKind},
    error::Failure,
    text::sanitize,
    wire::{self, Fields, WireError, inner},
};

/// A request that did not end well. Texts are the server's own, made harmless for a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApiError {
    /// 401, also after the credentials were renewed.
    #[error("You must be logged in to the server (Unauthorized)")]
    Unauthorized,
    /// 403.
    #[error("forbidden: {message}")]
    Forbidden {
        /// Names user, verb and resource.
        message: String,
    },
    /// 404.
    #[error("not found{}", message.as_ref().map(|message| format!(": {message}")).unwrap_or_default())]
    NotFound {
        /// Absent if the answer was no Status.
        message: Option<String>,
        /// The server does not serve the API group or version (`404 page not found`).
        group_missing: bool,
    },
    /// 409.
    #[error("conflict: {message}")]
    Conflict {
        /// What changed meanwhile.
        message: String,
    },
    /// 410: the list or watch has to start again.
    #[error("expired: {message}")]
    Gone {
        /// What is too old.
        message: String,
        /// The token to go on with at the price of an inconsistent list, if the server offers one.
        continue_token: Option<String>,
    },
    /// 400 or 422.
    #[error("refused as invalid: {message}")]
    Invalid {
        /// What the server finds wrong.
        message: String,
    },
    /// 429, also after the retries.
    #[error("the server has received too many requests: {message}")]
    TooManyRequests {
        /// What the server says.
        message: String,
        /// How long it wants to be left alone, if it says.
        retry_after: Option<Duration>,
    },
    /// 502, 503 or 504, also after the retries: the API, or the server behind it, is not there.
    #[error("the server is unavailable ({status}): {message}")]
    Unavailable {
        /// The HTTP status.
        status: u16,
        /// What the server says.
        message: String,
    },
    /// Any other status.
    #[error("the server answered {status}: {message}")]
    Server {
        /// The HTTP status.
        status: u16,
        /// What the server says.
        message: String,
    },
    /// No answer, because there was no connection or it broke before the answer.
    #[error("{0}")]
    Connection(Cause),
    /// No answer, or no progress of one, in time.
    #[error("{0}: timed out")]
    Timeout(&'static str),
    /// The answer is larger than the request allowed.
    #[error("the answer is larger than {limit} bytes")]
    BodyTooLarge {
        /// What the request allowed, in bytes.
        limit: usize,
    },
    /// The connection broke inside the answer.
    #[error("the answer broke off after {received} bytes: {cause}")]
    Truncated {
        /// What had arrived, in bytes.
        received: usize,
        /// Why it broke off.
        cause: String,
    },
    /// The server points elsewhere; redirects are not followed, for the credentials belong to this server.
    #[error("the server redirects to {to}, which is not followed")]
    Redirected {
        /// The host, or what else the server named.
        to: String,
    },
    /// The answer is not what was asked for.
    #[error("unexpected answer: {0}")]
    Malformed(String),
    /// A port-forward was opened, and leads nowhere: nobody listens on the port, or something in between cut it.
    #[error("port-forward: {0}")]
    PortForward(String),
    /// The login could not be renewed.
    #[error("{}", .0.message)]
    Credentials(Failure),
}

/// The parts of a Kubernetes `Status` that matter here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    kind: String,
    message: String,
    metadata: StatusMetadata,
    details: StatusDetails,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StatusMetadata {
    #[serde(rename = "continue")]
    continue_token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StatusDetails {
    #[serde(rename = "retryAfterSeconds")]
    retry_after_seconds: u64,
}

impl Status {
    /// Reads an answer's body, JSON or protobuf; `None` if it is no Status.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        match wire::object(body) {
            Some(object) => Self::of_protobuf(object.ok()?).ok(),
            None => serde_json::from_slice::<Self>(body).ok().filter(|status| status.kind == "Status"),
        }
    }

    /// By the field numbers of `k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto`. An error's object is a Status.
    fn of_protobuf(object: &[u8]) -> Result<Self, WireError> {
        let mut status = Self { kind: "Status".to_owned(), ..Self::default() };
        for field in Fields::new(object) {
            match field? {
                (1, metadata) => inner(metadata, 3, |token| {
                    token.text()?.clone_into(&mut status.metadata.continue_token);
                    Ok(())
                })?,
                (3, message) => message.text()?.clone_into(&mut status.message),
                (5, details) => inner(details, 5, |seconds| {
                    status.details.retry_after_seconds = seconds.number()?;
                    Ok(())
                })?,
                _ => {}
            }
        }
        Ok(status)
    }

    /// How long the server wants to be left alone, in seconds; 0 if it does not say.
    pub(super) fn retry_after(&self) -> u64 {
        self.details.retry_after_seconds
    }
}

impl ApiError {
    /// Whether the same request may succeed later; the server may even have carried it out.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::TooManyRequests { .. }
                | Self::Unavailable { .. }
                | Self::Server { .. }
                | Self::Connection(_)
                | Self::Timeout(_)
                | Self::Truncated { .. }
                | Self::PortForward(_)
                | Self::Malformed(_)
                | Self::BodyTooLarge { .. }
        )
    }

    /// The error that an answer with this status and body stands for.
    pub(super) fn of_answer(code: StatusCode, body: &[u8], status: Option<Status>) -> Self {
        let text = sanitize(String::from_utf8_lossy(body).trim());
        let from_status = status.is_some();
        let status = status.unwrap_or_default();
        let message = match sanitize(&status.message) {
            empty if empty.is_empty() => {
                // An error page of something in between tells nothing and fills the screen.
                let page = text.is_empty() || text.starts_with('<');
                if page { code.canonical_reason().unwrap_or("no message").to_owned() } else { text.clone() }
            }
            message => message,
        };
        match code.as_u16() {
            401 => Self::Unauthorized,
            403 => Self::Forbidden { message },
            404 => Self::NotFound {
                message: from_status.then_some(message),
                group_missing: text == "404 page not found",
            },
            409 => Self::Conflict { message },
            410 => Self::Gone {
                message,
                continue_token: Some(status.metadata.continue_token).filter(|token| !token.is_empty()),
            },
            400 | 422 => Self::Invalid { message },
            429 => Self::TooManyRequests { message, retry_after: None },
            status @ 502..=504 => Self::Unavailable { status, message },
            status => Self::Server { status, message },
        }
    }
}

/// What a hint needs to know about the connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Place<'a> {
    pub(super) server: &'a str,
    pub(super) context: Option<&'a str>,
    pub(super) in_cluster: bool,
    /// Credentials are kept back, because the server is spoken to without TLS.
    pub(super) withheld: bool,
}

/// Lifts an error to what ends the run. `doing` is what failed, as in `list imagestreams`.
pub(super) fn failure(error: &ApiError, doing: &str, place: &Place<'_>) -> Failure {
    let server = sanitize(place.server);
    match error {
        ApiError::Credentials(failure) => failure.clone(),
        ApiError::Unauthorized if place.withheld => Failure::nothing_changed(error.to_string()).hint(
            format!("{server} is not https, so no credentials were sent: use --server=https://HOST:PORT"),
        ),
        ApiError::Unauthorized if place.in_cluster => Failure::nothing_changed(error.to_string()).hint(
            "the pod's token is not accepted: does its service account still exist? oc get serviceaccounts",
        ),
        ApiError::Unauthorized => Failure::nothing_changed(error.to_string())
            .hint(format!("log in again: oc login {server}"))
            .hint("or pass a token: --token=\"$(oc create token pruner -n openshift-image-registry)\""),
        ApiError::Forbidden { message } => {
            forbidden(Failure::nothing_changed(format!("{doing}: {error}")), message)
        }
        ApiError::Connection(cause) => unreachable(doing, &server, cause, place),
        ApiError::Timeout(_) => Failure::nothing_changed(format!("{doing}: {server}: {error}"))
            .hint("give it more time: --request-timeout=5m"),
        ApiError::Unavailable { .. } => Failure::nothing_changed(format!("{doing}: {error}"))
            .hint("see what is down: oc get apiservices, oc get clusteroperators"),
        ApiError::NotFound { group_missing: true, .. } => {
            Failure::nothing_changed(format!("{doing}: the server does not serve this API"))
                .hint(format!("is {server} an OpenShift cluster? oc api-versions lists what it serves"))
        }
        ApiError::Invalid { message } if message.contains("HTTP request to an HTTPS server") => {
            Failure::nothing_changed(format!("{doing}: {error}")).hint(format!(
                "{server} speaks https: --server={}",
                server.replacen("http://", "https://", 1)
            ))
        }
        ApiError::Redirected { .. } => Failure::nothing_changed(format!("{doing}: {error}")).hint(format!(
            "{server} is not the API server itself; name it: --server=https://api.CLUSTER:6443"
        )),
        _ => Failure::nothing_changed(format!("{doing}: {error}")),
    }
}

fn unreachable(doing: &str, server: &str, cause: &Cause, place: &Place<'_>) -> Failure {
    let failure = Failure::nothing_changed(format!("{doing}: connect to {server}: {cause}"));
    let elsewhere = match place.context {
        Some(context) => {
            format!("is this the right cluster? context \"{}\"; another: --context=NAME", sanitize(context))
        }
        None => "is this the right cluster? another: --server=URL or --context=NAME".to_owned(),
    };
    match cause.kind {
        CauseKind::UnknownAuthority => failure
            .hint("the kubeconfig must name the CA of the API server: oc login --certificate-authority=FILE")
            .hint("or do not verify it: --insecure-skip-tls-verify"),
        CauseKind::OtherName => failure
            .hint("if the certificate carries another name: --tls-server-name=NAME")
            .hint("or do not verify it: --insecure-skip-tls-verify"),
        CauseKind::Certificate => failure
            .hint("have the certificate of the API server renewed")
            .hint("or do not verify it: --insecure-skip-tls-verify"),
        CauseKind::Proxy => failure.hint(
            "a proxy is used (proxy-url in the kubeconfig, or HTTPS_PROXY); to go without it: export NO_PROXY=HOST",
        ),
        CauseKind::HttpServer => {
            failure.hint("the server speaks plain HTTP there; check the port: --server=https://HOST:PORT")
        }
        _ => failure.hint(elsewhere),
    }
}

/// What `system:image-pruner` may do, by verb.
const PRUNER_READS: [&str; 14] = [
    "pods",
    "replicationcontrollers",
    "builds",
    "buildconfigs",
    "deploymentconfigs",
    "jobs",
    "cronjobs",
    "daemonsets",
    "deployments",
    "replicasets",
    "statefulsets",
    "limitranges",
    "images",
    "imagestreams",
];

/// Whether `system:image-pruner` gives this verb on this resource, in whatever group has it.
pub(crate) fn pruner_may(verb: &str, resource: &str) -> bool {
    match verb {
        "list" => PRUNER_READS.contains(&resource),
        "get" => PRUNER_READS.contains(&resource) && resource != "limitranges",
        "watch" => matches!(resource, "images" | "imagestreams"),
        "update" => resource == "imagestreams/status",
        "delete" => resource == "images",
        _ => false,
    }
}

/// Adds the command that grants the right, with user, verb and resource from the server's message:
/// `User "nobody" cannot list resource "pods" in API group "" at the cluster scope`.
fn forbidden(failure: Failure, message: &str) -> Failure {
    let quoted = |before: &str| {
        let (_, rest) = message.split_once(before)?;
        rest.split_once('"').map(|(text, _)| text)
    };
    let user = quoted("User \"").unwrap_or("USER");
    if user == "system:anonymous" {
        return failure.hint("log in first: oc login, or pass a token: --token=TOKEN");
    }
    let verb = message
        .split_once("\" cannot ")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .unwrap_or_default();
    let resource = quoted("resource \"").unwrap_or_default();
    if verb.is_empty() || pruner_may(verb, resource) {
        return failure.hint(format!(
            "oc adm policy add-cluster-role-to-user system:image-pruner {}",
            shell_word(user)
        ));
    }
    let group = quoted("API group \"").filter(|group| !group.is_empty()).map(|group| format!(".{group}"));
    failure.hint(format!(
        "the role system:image-pruner does not include this; see who may: oc adm policy who-can {verb} {}",
        shell_word(&format!("{resource}{}", group.unwrap_or_default())),
    ))
}

/// A name from outside as one word of a shell command.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '@' | '.' | '_' | '-' | '/');
    if !text.is_empty() && text.chars().all(plain) && !text.starts_with('-') {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, body: &str) -> ApiError {
        ApiError::of_answer(
            StatusCode::from_u16(code).unwrap(),
            body.as_bytes(),
            Status::read(body.as_bytes()),
        )
    }

    fn place() -> Place<'static> {
        Place { server: "https://api:6443", context: Some("prod"), ..Place::default() }
    }

    // The bodies are those of `fixtures/errors` and `fixtures/paging`.
    const FORBIDDEN: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"images.image.openshift.io is forbidden: User \"nobody\" cannot list resource \"images\" in API group \"image.openshift.io\" at the cluster scope","reason":"Forbidden","details":{"group":"image.openshift.io","kind":"images"},"code":403}"#;

    #[test]
    fn answers_become_their_errors() {
        let text = |text: &str| text.to_owned();
        assert_eq!(answer(401, r#"{"kind":"Status","message":"Unauthorized"}"#), ApiError::Unauthorized);
        assert_eq!(
            answer(404, "404 page not found\n"),
            ApiError::NotFound { message: None, group_missing: true }
        );
        assert_eq!(
            answer(404, r#"{"kind":"Status","message":"images \"x\" not found"}"#),
            ApiError::NotFound { message: Some(text("images \"x\" not found")), group_missing: false }
        );
        assert_eq!(
            answer(
                410,
                r#"{"kind":"Status","metadata":{"continue":"abc"},"message":"too old","reason":"Expired"}"#
            ),
            ApiError::Gone { message: text("too old"), continue_token: Some(text("abc")) }
        );
        assert_eq!(
            answer(409, r#"{"kind":"Status","message":"m"}"#),
            ApiError::Conflict { message: text("m") }
        );
        assert_eq!(
            answer(422, r#"{"kind":"Status","message":"m"}"#),
            ApiError::Invalid { message: text("m") }
        );
        assert_eq!(
            answer(
                503,
                "error trying to reach service: dial tcp 127.0.0.1:21003: connect: connection refused\n"
            ),
            ApiError::Unavailable {
                status: 503,
                message: text(
                    "error trying to reach service: dial tcp 127.0.0.1:21003: connect: connection refused"
                ),
            }
        );
        assert_eq!(
            answer(502, "<html>\u{1b}]0;pwned\u{7}</html>"),
            ApiError::Unavailable { status: 502, message: text("Bad Gateway") }
        );
        assert_eq!(answer(405, ""), ApiError::Server { status: 405, message: text("Method Not Allowed") });
    }

    #[test]
    fn a_status_in_protobuf_says_the_same() {
        // `fixtures/errors/401-invalid-token.images.pb` and, shortened, `fixtures/paging/*.expired-continue.pb`.
        let unauthorized = b"k8s\0\n\x0c\n\x02v1\x12\x06Status\x120\n\x06\n\0\x12\0\x1a\0\x12\x07Failure\x1a\x0cUnauthorized\"\x0cUnauthorized0\x91\x03\x1a\0\"\0";
        let gone = b"k8s\0\n\x0c\n\x02v1\x12\x06Status\x12\x21\n\x09\n\0\x12\0\x1a\x03abc\x12\x07Failure\x1a\x07too old*\x02(\x070\x9a\x03";
        let read = |code, body: &[u8]| {
            ApiError::of_answer(StatusCode::from_u16(code).unwrap(), body, Status::read(body))
        };
        assert_eq!(read(401, unauthorized), ApiError::Unauthorized);
        let expected =
            ApiError::Gone { message: "too old".to_owned(), continue_token: Some("abc".to_owned()) };
        assert_eq!(read(410, gone), expected);
        assert_eq!(Status::read(gone).unwrap().retry_after(), 7);
        for length in 0..gone.len() {
            // An answer that broke off has some text or other, and does no harm.
            let _ = read(410, &gone[..length]);
        }
    }

    #[test]
    fn a_hostile_message_is_made_harmless() {
        let error = answer(500, r#"{"kind":"Status","message":"a\u001b[2Jb\nc"}"#);
        assert_eq!(error.to_string(), r"the server answered 500: a\u{1b}[2Jb\nc");
    }

    #[test]
    fn a_forbidden_list_names_verb_resource_and_the_command() {
        let failure = failure(&answer(403, FORBIDDEN), "list images", &place());
        assert_eq!(
            failure.to_string(),
            "error: list images: forbidden: images.image.openshift.io is forbidden: User \"nobody\" cannot list \
             resource \"images\" in API group \"image.openshift.io\" at the cluster scope\n\
             hint: oc adm policy add-cluster-role-to-user system:image-pruner nobody"
        );
    }

    #[test]
    fn users_and_rights_decide_the_hint() {
        let hint = |user: &str, verb: &str, resource: &str| {
            let message = format!(
                "x is forbidden: User \"{user}\" cannot {verb} resource \"{resource}\" in API group \"\""
            );
            failure(&ApiError::Forbidden { message }, "x", &place()).hints.remove(0)
        };
        assert_eq!(
            hint("system:serviceaccount:a:b", "list", "pods"),
            "oc adm policy add-cluster-role-to-user system:image-pruner system:serviceaccount:a:b"
        );
        assert_eq!(
            hint("x; rm -rf /'", "list", "pods"),
            r"oc adm policy add-cluster-role-to-user system:image-pruner 'x; rm -rf /'\'''"
        );
        assert!(hint("system:anonymous", "list", "pods").starts_with("log in first: oc login"));
        assert!(hint("nobody", "list", "namespaces").ends_with("oc adm policy who-can list namespaces"));
    }

    #[test]
    fn every_failure_that_a_user_can_cause_has_a_hint() {
        let cause = |kind| ApiError::Connection(Cause { kind, text: "c".to_owned() });
        for (error, hint) in [
            (ApiError::Unauthorized, "oc login https://api:6443"),
            (cause(CauseKind::Refused), "context \"prod\""),
            (cause(CauseKind::NoSuchHost), "--context=NAME"),
            (cause(CauseKind::UnknownAuthority), "--certificate-authority=FILE"),
            (cause(CauseKind::OtherName), "--tls-server-name=NAME"),
            (cause(CauseKind::Certificate), "renewed"),
            (cause(CauseKind::Proxy), "NO_PROXY=HOST"),
            (cause(CauseKind::HttpServer), "check the port"),
            (ApiError::Timeout("the answer"), "--request-timeout=5m"),
            (ApiError::Unavailable { status: 503, message: String::new() }, "oc get apiservices"),
            (ApiError::NotFound { message: None, group_missing: true }, "oc api-versions"),
            (ApiError::Redirected { to: "login.example.com".to_owned() }, "--server="),
        ] {
            let failure = failure(&error, "list pods", &place());
            assert!(failure.hints[0].contains(hint), "{failure}");
        }
        let refused = failure(&cause(CauseKind::Refused), "list pods", &place());
        assert_eq!(refused.message, "list pods: connect to https://api:6443: c");
        let unauthorized = failure(&ApiError::Unauthorized, "list pods", &place());
        assert_eq!(unauthorized.message, "You must be logged in to the server (Unauthorized)");
    }
}
