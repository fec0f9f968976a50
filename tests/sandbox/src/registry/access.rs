//! Who may do what: credentials, wanted access, and the challenges of a refusal.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::{Value, json};

use super::answer::{Answer, unauthorized};
use crate::registry_backend::Cluster;
use crate::serve::User;

/// The token that `/openshift/token` hands to those without credentials.
pub(super) const ANONYMOUS_TOKEN: &str = "anonymous";
const ANONYMOUS_USER: &str = "system:anonymous";

/// What a request wants to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Read from a repository.
    Pull(String),
    /// Write to a repository.
    Push(String),
    /// Remove something from a repository. Cancelling an upload asks for the right to write, all else for the right
    /// to prune.
    Delete { repository: String, upload: bool },
    /// Remove a blob.
    Prune,
    /// List the repositories.
    Catalog,
}

impl Access {
    fn describe(&self) -> Value {
        let (kind, name, action) = match self {
            Self::Pull(repository) => ("repository", repository.as_str(), "pull"),
            Self::Push(repository) => ("repository", repository.as_str(), "push"),
            Self::Delete { repository, .. } => ("repository", repository.as_str(), "delete"),
            Self::Prune => ("admin", "", "prune"),
            Self::Catalog => ("registry", "catalog", "*"),
        };
        json!({"Type": kind, "Class": "", "Name": name, "Action": action})
    }

    fn is_allowed(&self, cluster: &dyn Cluster, user: &str) -> bool {
        let layers = |verb, repository: &str| {
            let (namespace, name) = repository.split_once('/').unwrap_or((repository, ""));
            cluster.allowed(user, verb, "imagestreams/layers", namespace, name)
        };
        match self {
            Self::Pull(repository) => layers("get", repository),
            Self::Push(repository) | Self::Delete { repository, upload: true } => {
                layers("update", repository)
            }
            Self::Delete { upload: false, .. } | Self::Prune => {
                cluster.allowed(user, "delete", "images", "", "")
            }
            Self::Catalog => cluster.allowed(user, "list", "imagestreams", "", ""),
        }
    }
}

/// That a request may go on.
#[derive(Debug)]
pub(super) struct Granted {
    /// Who asks.
    pub(super) user: User,
    /// Repositories that the request named as the source of a mount and may not read.
    pub(super) unreadable: BTreeSet<String>,
}

/// The credentials of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Credentials {
    /// None, or of a kind that is not understood.
    Missing,
    /// Basic auth without a password.
    Malformed,
    /// The anonymous token.
    Anonymous,
    /// A token, as the bearer token or as the password of basic auth.
    Token(String),
}

impl Credentials {
    /// The credentials in a request's headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let Some((scheme, rest)) =
            headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|v| v.split_once(' '))
        else {
            return Self::Missing;
        };
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" if rest == ANONYMOUS_TOKEN => Self::Anonymous,
            "bearer" => Self::Token(rest.to_owned()),
            "basic" => password(rest).map_or(Self::Malformed, Self::Token),
            _ => Self::Missing,
        }
    }
}

fn password(encoded: &str) -> Option<String> {
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (_, password) = decoded.split_once(':')?;
    (!password.is_empty()).then(|| password.to_owned())
}

/// Grants all of the wanted access or refuses the request. `base` is the URL that the client used, for the challenge.
pub(super) fn authorize(
    cluster: &dyn Cluster,
    headers: &HeaderMap,
    base: &str,
    wanted: &[Access],
) -> Result<Granted, Box<Answer>> {
    let detail = || match wanted {
        [] => Value::Null,
        _ => wanted.iter().map(Access::describe).collect(),
    };
    let refused = |challenge: &str| Box::new(unauthorized(challenge, detail()));
    let denied = "Basic realm=openshift,error=\"access denied\"";
    let user = match Credentials::of(headers) {
        Credentials::Missing => return Err(refused(&format!("Bearer realm=\"{base}/openshift/token\""))),
        Credentials::Malformed => {
            return Err(refused("Basic realm=openshift,error=\"failed to decode credentials\""));
        }
        Credentials::Anonymous => ANONYMOUS_USER.to_owned(),
        Credentials::Token(token) => cluster.user(&token).ok_or_else(|| refused(denied))?,
    };

    let pushed: BTreeSet<&str> = wanted
        .iter()
        .filter_map(
            |access| if let Access::Push(repository) = access { Some(repository.as_str()) } else { None },
        )
        .collect();
    let mut granted = Granted { user: User(user), unreadable: BTreeSet::new() };
    for access in wanted {
        if access.is_allowed(cluster, &granted.user.0) {
            continue;
        }
        match access {
            // Only the mount fails then: the client may upload the blob instead.
            Access::Pull(repository) if !pushed.is_empty() && !pushed.contains(repository.as_str()) => {
                granted.unreadable.insert(repository.clone());
            }
            _ => {
                let mut answer = refused(denied);
                answer.extensions_mut().insert(granted.user);
                return Err(answer);
            }
        }
    }
    Ok(granted)
}
