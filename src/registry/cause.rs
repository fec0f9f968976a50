//! Why a request to the registry got no answer, with the host that was asked, as the reference prints it.

use super::address::{RegistryUrl, Scheme};
use super::pods::NoPod;
use crate::cause::{Cause, CauseKind, chain};
use crate::text::brief;

/// Finds the cause in the chain of sources. `url` is the registry's.
pub(super) fn cause_of(error: &reqwest::Error, url: &RegistryUrl) -> Cause {
    if let Some(unresolved) = chain(error).find_map(|error| error.downcast_ref::<Unresolved>()) {
        return Cause::new(CauseKind::NoSuchHost, format!("dial {unresolved}"));
    }
    if let Some(no_pod) = chain(error).find_map(|error| error.downcast_ref::<NoPod>()) {
        return Cause::new(CauseKind::Other, format!("port-forward: {no_pod}"));
    }
    let host = url.authority();
    let cause = Cause::of(error);
    let text = match cause.kind {
        CauseKind::Refused | CauseKind::Unreachable => format!("dial tcp {host}: connect: {cause}"),
        CauseKind::Cut if cause.text != "EOF" => format!("read tcp: {cause}"),
        // reqwest has an error of its own for time that ran out.
        CauseKind::TimedOut | CauseKind::Other if error.is_timeout() => {
            let text = if error.is_connect() {
                format!("dial tcp {host}: i/o timeout")
            } else {
                "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned()
            };
            return Cause::new(CauseKind::TimedOut, text);
        }
        _ => return cause,
    };
    Cause { text, ..cause }
}

/// Whether the same request may succeed later.
pub(super) fn is_transient(cause: &Cause) -> bool {
    !cause.is_certificate()
        && !matches!(cause.kind, CauseKind::NoTls | CauseKind::HttpServer | CauseKind::MalformedAnswer)
}

/// The cause as the reference prints it: `Get "https://HOST/": …`.
pub(super) fn of_request(
    cause: &Cause,
    method: &str,
    scheme: Scheme,
    url: &RegistryUrl,
    path: &str,
) -> String {
    format!("{method} \"{scheme}://{}{path}\": {cause}", url.authority())
}

/// A name that could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error("tcp: lookup {}: no such host ({})", brief(.host), brief(.detail))]
pub(super) struct Unresolved {
    /// The registry's name, or a proxy's.
    pub(super) host: String,
    /// What the system says.
    pub(super) detail: String,
}
