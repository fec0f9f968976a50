//! What the registry's answers mean. Pure; the answers were recorded from the integrated registry.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER};
use serde::Deserialize;
use serde_json::Value;

use super::name::Target;
use crate::error::Failure;
use crate::text::brief;

/// The header that every answer of a registry's own handlers carries.
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// How a deletion ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// The registry deleted it. For a blob also: it was not there (204 in both cases).
    Deleted,
    /// It was not there.
    AlreadyGone,
}

/// Why something could not be deleted: one line for the list of failures, free of what steers a terminal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The name cannot stand in a path; nothing was sent.
    #[error("not sent: `{name}` is not a valid {kind}")]
    InvalidName {
        /// `repository` or `digest`.
        kind: &'static str,
        /// The name, sanitized.
        name: String,
    },
    /// The registry refuses the token, or the token lacks the right. It says 401 in both cases.
    #[error("unauthorized: the registry refused the token{}", for_action(.wanted.as_deref()))]
    Unauthorized {
        /// The action that the registry wanted a right to: `delete on repository shop/web`, `prune on admin`.
        wanted: Option<String>,
    },
    /// 405 for a manifest. The registry gives the same answer for both causes.
    #[error(
        "method not allowed: the image stream still lists the manifest, or the registry has deletion disabled"
    )]
    StillListedOrDisabled,
    /// 405: the registry has deletion disabled.
    #[error("method not allowed: the registry has deletion disabled")]
    DeletionDisabled,
    /// 405: the registry is in read-only mode.
    #[error("method not allowed: the registry is in read-only mode")]
    ReadOnly,
    /// An answer that means nothing here; a redirect is one, for the token must not follow it.
    #[error("unexpected answer: {answer}")]
    Unexpected {
        /// Status and, where there is one, the server's text.
        answer: String,
    },
    /// Every attempt failed in a way that may pass.
    #[error("gave up after {attempts} attempt{}: {cause}", if *.attempts == 1 { "" } else { "s" })]
    Unavailable {
        /// How many requests were sent.
        attempts: usize,
        /// The last attempt's cause.
        cause: String,
    },
    /// The connection is not what it was when the run began: nothing that a retry could help.
    #[error("{cause}")]
    Connection {
        /// The cause.
        cause: String,
    },
    /// No token could be got to log in with.
    #[error("{}", .0.message)]
    Token(Failure),
}

impl RegistryError {
    pub(super) fn invalid_name(kind: &'static str, name: &str) -> Self {
        Self::InvalidName { kind, name: brief(name) }
    }

    /// What helps: the exact command or flag, one line each, without `hint: `.
    #[must_use]
    pub fn hints(&self) -> Vec<String> {
        let enable = "oc set env deployment/image-registry -n openshift-image-registry REGISTRY_STORAGE_DELETE_ENABLED=true";
        match self {
            Self::InvalidName { .. }
            | Self::Unexpected { .. }
            | Self::Unavailable { .. }
            | Self::Connection { .. } => Vec::new(),
            Self::Unauthorized { .. } => {
                vec!["oc adm policy add-cluster-role-to-user system:image-pruner USER".to_owned()]
            }
            Self::StillListedOrDisabled => vec![format!(
                "if the image stream does not list it any more, enable deletion in the registry: {enable}"
            )],
            Self::DeletionDisabled => vec![enable.to_owned()],
            Self::ReadOnly => vec![
                "oc patch configs.imageregistry.operator.openshift.io/cluster --type=merge -p '{\"spec\":{\"readOnly\":false}}'"
                    .to_owned(),
            ],
            Self::Token(failure) => failure.hints.clone(),
        }
    }
}

/// The part of an answer that decisions are made from.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// The body's beginning.
    pub(super) body: Vec<u8>,
    /// Time ran out before the body ended.
    pub(super) timed_out: bool,
}

/// What follows from an answer to a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is gone.
    Gone(Deletion),
    /// 401: a new token may help, once.
    LogIn { wanted: Option<String> },
    /// It may work later.
    Retry { cause: String, after: Option<Duration> },
    /// It will not work.
    Refused(RegistryError),
}

/// Decides what the answer to a deletion means.
pub(super) fn judge(target: Target<'_>, answer: &Answer) -> Verdict {
    match answer.status {
        StatusCode::ACCEPTED | StatusCode::NO_CONTENT => Verdict::Gone(Deletion::Deleted),
        StatusCode::NOT_FOUND if answer.is_about_the_object() => Verdict::Gone(Deletion::AlreadyGone),
        StatusCode::INTERNAL_SERVER_ERROR if is_missing_link(target, answer) => {
            Verdict::Gone(Deletion::AlreadyGone)
        }
        StatusCode::UNAUTHORIZED => Verdict::LogIn { wanted: answer.wanted_action() },
        StatusCode::METHOD_NOT_ALLOWED => Verdict::Refused(match target {
            _ if answer.first_error().is_none()
                && answer.text().is_some_and(|text| text == "Method not allowed") =>
            {
                RegistryError::ReadOnly
            }
            Target::ManifestLink { .. } => RegistryError::StillListedOrDisabled,
            Target::LayerLink { .. } => RegistryError::DeletionDisabled,
            // Deletion of data is exempt from both: something else answered.
            Target::Blob { .. } => RegistryError::Unexpected { answer: answer.summary() },
        }),
        _ if answer.is_transient() => Verdict::Retry { cause: answer.summary(), after: answer.retry_after() },
        _ => Verdict::Refused(RegistryError::Unexpected { answer: answer.summary() }),
    }
}

/// Whether a 500 says that the layer's link is missing: a replica whose cache still has the blob looks for the link in
/// the storage and does not find it.
fn is_missing_link(target: Target<'_>, answer: &Answer) -> bool {
    let Target::LayerLink { digest, .. } = target else { return false };
    let hex = digest.rsplit(':').next().unwrap_or(digest);
    answer
        .first_error()
        .and_then(|error| error.detail.get("Path")?.as_str().map(str::to_owned))
        .is_some_and(|path| path.contains("/_layers/") && path.contains(hex))
}

impl Answer {
    /// Whether an image registry answered, as far as its answer to `/v2/` shows.
    ///
    /// A login page or a router's error page has neither the header nor the body. A bare 404 tells nothing: the
    /// deletions need no `/v2/`, and the reference implementation never asks for it.
    pub(super) fn is_registry(&self) -> bool {
        self.is_bare_not_found() || self.shows_registry()
    }

    fn is_bare_not_found(&self) -> bool {
        let kind = self.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        self.status == StatusCode::NOT_FOUND && (self.body.is_empty() || kind.starts_with("text/plain"))
    }

    fn shows_registry(&self) -> bool {
        self.headers.contains_key(API_VERSION)
            || (self.status == StatusCode::OK && self.text().is_some_and(|text| text == "{}"))
            || (self.status == StatusCode::UNAUTHORIZED && self.first_error().is_some())
    }

    /// Whether a 404 is the registry's word on the object.
    ///
    /// An unknown path (a plain registry has no `/admin/blobs`) and a proxy's error page are 404 as well: to take
    /// those for "already gone" would leave the data where it is, and nobody told.
    fn is_about_the_object(&self) -> bool {
        self.first_error().is_some() || self.body.is_empty()
    }

    /// Whether the same request may get another answer later.
    pub(super) fn is_transient(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
            || self.status == StatusCode::REQUEST_TIMEOUT
            || self.status.is_server_error()
    }

    /// How long the server asks to wait: seconds, or a date, which is compared with the server's own `Date`.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let value = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = value.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let time = |text: &str| -> Option<Timestamp> { Some(rfc2822::parse(text).ok()?.timestamp()) };
        let now = time(self.headers.get(DATE)?.to_str().ok()?)?;
        Some(Duration::try_from(now.duration_until(time(value)?)).unwrap_or_default())
    }

    /// Status, the server's own words where it is no web page, and where a redirect leads.
    pub(super) fn summary(&self) -> String {
        let status = status_line(self.status);
        let header =
            |name| self.headers.get(name).map(|value| brief(&String::from_utf8_lossy(value.as_bytes())));
        if let (true, Some(location)) = (self.status.is_redirection(), header(LOCATION)) {
            return format!("{status}, a redirect to {}", without_query(&location));
        }
        if let Some(error) = self.first_error() {
            return format!("{status}: {}", brief(&format!("{} {}", error.code, error.message)));
        }
        match (header(CONTENT_TYPE), self.text()) {
            (Some(kind), _) if kind.starts_with("text/html") => format!("{status} (a web page)"),
            (_, Some(text)) if !text.is_empty() => format!("{status}: {}", brief(text)),
            _ => status,
        }
    }

    /// The action that a 401 names in `errors[0].detail`.
    pub(super) fn wanted_action(&self) -> Option<String> {
        let error = self.first_error()?;
        let wanted = match &error.detail {
            Value::Array(list) => list.first()?,
            detail => detail,
        };
        let field = |name| wanted.get(name)?.as_str().map(brief).filter(|text| !text.is_empty());
        let (action, kind) = (field("Action")?, field("Type")?);
        Some(match field("Name") {
            Some(name) => format!("{action} on {kind} {name}"),
            None => format!("{action} on {kind}"),
        })
    }

    /// Whether the answer says that this digest's data is missing in the storage: what a replica says whose cache still
    /// has the blob.
    ///
    /// It names the file that is missing; or, where only its digest cache has the blob and what is behind it has not,
    /// passes on an error without any fields. Errors of a storage have fields.
    pub(super) fn misses_data_of(&self, digest: &str) -> bool {
        let hex = digest.rsplit(':').next().unwrap_or(digest);
        let Some(ServerError { code, detail, .. }) = self.first_error() else { return false };
        let names_file = detail.get("Path").and_then(Value::as_str).is_some_and(|path| path.contains(hex));
        let has_no_fields = code == "UNKNOWN" && detail.as_object().is_some_and(serde_json::Map::is_empty);
        self.status == StatusCode::INTERNAL_SERVER_ERROR && (names_file || has_no_fields)
    }

    /// Where a redirect leads.
    pub(super) fn redirect(&self) -> Option<String> {
        let location = self.headers.get(LOCATION).filter(|_| self.status.is_redirection())?;
        Some(String::from_utf8_lossy(location.as_bytes()).into_owned())
    }

    fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.body).ok().map(str::trim)
    }

    fn first_error(&self) -> Option<ServerError> {
        let errors: ServerErrors = serde_json::from_slice(&self.body).ok()?;
        errors.errors.into_iter().next()
    }
}

/// A status as Go prints it: `400 Bad Request`.
pub(super) fn status_line(status: StatusCode) -> String {
    status
        .canonical_reason()
        .map_or_else(|| status.as_str().to_owned(), |reason| format!("{} {reason}", status.as_str()))
}

/// The end of a sentence about a refused token.
fn for_action(wanted: Option<&str>) -> String {
    wanted.map_or_else(String::new, |wanted| format!(" for `{wanted}`"))
}

/// A redirect's query may hold a signature: it is nobody's business.
fn without_query(location: &str) -> &str {
    location.split(['?', '#']).next().unwrap_or(location)
}

/// The error document of the distribution API.
#[derive(Deserialize)]
struct ServerErrors {
    errors: Vec<ServerError>,
}

#[derive(Deserialize)]
struct ServerError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    detail: Value,
}

/// An answer with these headers and this body.
#[cfg(test)]
pub(super) fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    let status = StatusCode::from_u16(status).unwrap();
    Answer { status, headers: map, body: body.into(), timed_out: false }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Recorded, recorded};
    use super::*;

    fn of(recorded: &Recorded) -> Answer {
        let headers: Vec<_> =
            recorded.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        answer(recorded.status, &headers, &recorded.body)
    }

    const HEX: &str = "fbcafa67735717ef46b93379e0ddcaf8f25fac6a8b071e8ff81bdd16dcf6aa2e";

    fn layer_link(digest: &str) -> Target<'_> {
        Target::LayerLink { repository: "gone/app", digest }
    }

    #[test]
    fn every_recorded_deletion_is_understood() {
        use Deletion::{AlreadyGone, Deleted};
        let gone = Verdict::Gone;
        let mut rows = 0;
        for answer in recorded() {
            if answer.method != "DELETE" {
                continue;
            }
            rows += 1;
            let digest = answer.path.rsplit('/').next().unwrap();
            let target = if answer.path.starts_with("/admin/") {
                Target::Blob { digest }
            } else if answer.path.contains("/manifests/") {
                Target::ManifestLink { repository: "gone/app", digest }
            } else {
                layer_link(digest)
            };
            let wanted = match target {
                Target::Blob { .. } => "prune on admin",
                _ => "delete on repository gone/app",
            };
            let expected = match answer.name.as_str() {
                "delete.layer-link.first" | "delete.layer-link.bearer" | "delete.manifest.first" => {
                    gone(Deleted)
                }
                name if name.ends_with("delete-blob") || name.ends_with(".delete.blob") => gone(Deleted),
                "delete.blob.first" | "delete.blob.again" | "delete.blob.bearer" | "delete.blob.unknown" => {
                    gone(Deleted)
                }
                "delete.layer-link.again"
                | "delete.layer-link.unknown"
                | "delete.layer-link.unknown-repository"
                | "delete.manifest.again"
                | "delete.manifest.unknown" => gone(AlreadyGone),
                name if name.ends_with("pruned-layer.delete-link") => gone(AlreadyGone),
                name if name.contains(".nobody") || name.contains(".invalid-token") => {
                    Verdict::LogIn { wanted: Some(wanted.to_owned()) }
                }
                "delete.manifest.405-still-in-image-stream" | "nodelete.delete.manifest" => {
                    Verdict::Refused(RegistryError::StillListedOrDisabled)
                }
                "nodelete.delete.layer-link" => Verdict::Refused(RegistryError::DeletionDisabled),
                "readonly.delete.layer-link" | "readonly.delete.manifest" => {
                    Verdict::Refused(RegistryError::ReadOnly)
                }
                "delete.blob.invalid-digest" => Verdict::Refused(RegistryError::Unexpected {
                    answer: "404 Not Found: 404 page not found".to_owned(),
                }),
                "delete.layer-link.invalid-digest" => Verdict::Refused(RegistryError::Unexpected {
                    answer: "400 Bad Request: DIGEST_INVALID provided digest did not match uploaded content"
                        .to_owned(),
                }),
                name => panic!("{name} is not in the table"),
            };
            assert_eq!(judge(target, &of(&answer)), expected, "{}", answer.name);
        }
        assert_eq!(rows, 33);
    }

    #[test]
    fn a_500_means_gone_only_for_the_link_that_was_asked_for() {
        let digest = format!("sha256:{HEX}");
        let path = |path: &str| {
            let body = format!(
                r#"{{"errors":[{{"code":"UNKNOWN","message":"unknown error","detail":{{"Path":"{path}"}}}}]}}"#
            );
            answer(500, &[("Docker-Distribution-Api-Version", "registry/2.0")], &body)
        };
        let link = path(&format!("/docker/registry/v2/repositories/gone/app/_layers/sha256/{HEX}/link"));
        assert_eq!(judge(layer_link(&digest), &link), Verdict::Gone(Deletion::AlreadyGone));
        let retried = |verdict: Verdict| matches!(verdict, Verdict::Retry { .. });
        assert!(retried(judge(Target::Blob { digest: &digest }, &link)));
        assert!(retried(judge(Target::ManifestLink { repository: "gone/app", digest: &digest }, &link)));
        assert!(retried(judge(layer_link("sha256:00"), &link)));
        assert!(retried(judge(
            layer_link(&digest),
            &path(&format!("/docker/registry/v2/blobs/sha256/{HEX}/data"))
        )));
        assert!(retried(judge(layer_link(&digest), &answer(500, &[], "{\"errors\":[{}]}"))));
    }

    #[test]
    fn a_404_of_something_else_is_not_gone() {
        let digest = format!("sha256:{HEX}");
        let own = ("Docker-Distribution-Api-Version", "registry/2.0");
        let blob = Target::Blob { digest: &digest };
        assert_eq!(judge(blob, &answer(404, &[own], "")), Verdict::Gone(Deletion::AlreadyGone));
        assert_eq!(judge(blob, &answer(404, &[], "")), Verdict::Gone(Deletion::AlreadyGone));
        for other in [
            answer(404, &[own, ("Content-Type", "text/plain")], "404 page not found\n"),
            answer(404, &[("Content-Type", "text/html")], "<html>no such route</html>"),
            answer(404, &[], r#"{"message":"no Route matched"}"#),
        ] {
            assert!(
                matches!(judge(blob, &other), Verdict::Refused(RegistryError::Unexpected { .. })),
                "{other:?}"
            );
        }
    }

    #[test]
    fn other_answers_are_named() {
        let digest = format!("sha256:{HEX}");
        for (answer, expected) in [
            (answer(200, &[("Content-Type", "text/html; charset=utf-8")], "<html>"), "200 OK (a web page)"),
            (answer(201, &[], ""), "201 Created"),
            (answer(403, &[], "no\u{1b}[31m way\n"), "403 Forbidden: no\\u{1b}[31m way"),
            (
                answer(307, &[("Location", "https://bucket.example.com/x?X-Signature=secret")], ""),
                "307 Temporary Redirect, a redirect to https://bucket.example.com/x",
            ),
            (answer(599, &[], ""), "599"),
        ] {
            match judge(layer_link(&digest), &answer) {
                Verdict::Refused(RegistryError::Unexpected { answer })
                | Verdict::Retry { cause: answer, .. } => {
                    assert_eq!(answer, expected);
                }
                verdict => panic!("{verdict:?}"),
            }
        }
    }

    #[test]
    fn the_server_says_how_long_to_wait() {
        let wait =
            |headers: &[(&str, &str)]| answer(429, headers, "").retry_after().map(|wait| wait.as_secs());
        let now = ("Date", "Mon, 23 Nov 2026 21:34:06 GMT");
        assert_eq!(wait(&[("Retry-After", "7")]), Some(7));
        assert_eq!(wait(&[("Retry-After", "Mon, 23 Nov 2026 21:34:16 GMT"), now]), Some(10));
        assert_eq!(wait(&[("Retry-After", "Mon, 23 Nov 2026 21:34:00 GMT"), now]), Some(0));
        assert_eq!(wait(&[("Retry-After", "Mon, 23 Nov 2026 21:34:16 GMT")]), None);
        assert_eq!(wait(&[("Retry-After", "soon"), now]), None);
        assert_eq!(wait(&[]), None);
    }

    #[test]
    fn a_registry_is_recognised_by_its_answer_to_v2() {
        for answer in recorded() {
            if answer.path == "/v2/" {
                assert!(of(&answer).is_registry(), "{}", answer.name);
            }
        }
        assert!(answer(200, &[], "{}\n").is_registry());
        assert!(!answer(200, &[("Content-Type", "text/html")], "<html>Log in</html>").is_registry());
        assert!(!answer(200, &[], "").is_registry());
        assert!(!answer(401, &[("WWW-Authenticate", "Basic realm=intranet")], "Unauthorized").is_registry());
        assert!(
            answer(404, &[("Content-Type", "text/plain; charset=utf-8")], "404 page not found\n")
                .is_registry()
        );
        assert!(!answer(404, &[("Content-Type", "text/html")], "<html>no such route</html>").is_registry());
        assert!(!answer(503, &[], "").is_registry());
    }

    #[test]
    fn an_error_is_one_line_without_control_characters() {
        let error = RegistryError::invalid_name("repository", "../admin\n\u{1b}[2J");
        assert_eq!(error.to_string(), "not sent: `../admin\\n\\u{1b}[2J` is not a valid repository");
        let error = RegistryError::Unauthorized { wanted: Some("prune on admin".to_owned()) };
        assert_eq!(error.to_string(), "unauthorized: the registry refused the token for `prune on admin`");
        assert!(error.hints()[0].contains("system:image-pruner"));
    }
}
