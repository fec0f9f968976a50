//! Why a request got no answer, in the words of the reference: administrators search for them. Decides nothing.

use std::error::Error;
use std::io;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, InvalidMessage};

use super::address::{RegistryUrl, Scheme};
use super::text::sanitise;

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cause {
    /// No TLS came back where TLS was spoken: http, perhaps. A plain request tells.
    NoTls,
    /// The server speaks http where https was spoken: [`Cause::NoTls`], confirmed.
    HttpAnswer,
    /// No HTTP came back where plain HTTP was spoken: https, perhaps.
    MalformedAnswer(String),
    /// Nobody who is trusted signed the certificate.
    UnknownAuthority(String),
    /// The certificate is for other names.
    OtherName(String),
    /// The certificate is refused for another reason.
    Certificate(String),
    /// The name cannot be resolved.
    NoSuchHost(String),
    /// Nobody listens.
    ConnectionRefused(String),
    /// The time for connecting or answering is over.
    Timeout(String),
    /// A proxy did not let the connection through.
    Proxy(String),
    /// Anything else.
    Other(String),
}

impl Cause {
    /// Finds the cause in the chain of sources. `url` is the registry's, with the scheme that was spoken.
    pub(super) fn of(error: &reqwest::Error, url: &RegistryUrl) -> Self {
        let host = url.authority();
        let mut is_proxy = false;
        let mut innermost = String::new();
        for error in chain(error) {
            if let Some(unresolved) = error.downcast_ref::<Unresolved>() {
                return Self::NoSuchHost(format!("dial {unresolved}"));
            }
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Self::of_tls(tls, url);
            }
            if let Some(io) = error.downcast_ref::<io::Error>() {
                match io.kind() {
                    io::ErrorKind::ConnectionRefused => {
                        return Self::ConnectionRefused(format!(
                            "dial tcp {host}: connect: connection refused"
                        ));
                    }
                    io::ErrorKind::ConnectionReset => {
                        return Self::Other("read tcp: connection reset by peer".to_owned());
                    }
                    io::ErrorKind::UnexpectedEof => return Self::Other("EOF".to_owned()),
                    _ => {}
                }
            }
            if let Some(http) = error.downcast_ref::<hyper::Error>() {
                if http.is_parse() {
                    return Self::MalformedAnswer(format!("malformed HTTP response ({http})"));
                }
                if http.is_incomplete_message() {
                    return Self::Other("EOF".to_owned());
                }
            }
            innermost = error.to_string();
            is_proxy |= innermost.contains("tunnel") || innermost.contains("proxy");
        }
        if error.is_timeout() {
            return Self::Timeout(if error.is_connect() {
                format!("dial tcp {host}: i/o timeout")
            } else {
                "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned()
            });
        }
        let innermost = sanitise(&innermost);
        if is_proxy { Self::Proxy(format!("proxyconnect: {innermost}")) } else { Self::Other(innermost) }
    }

    fn of_tls(error: &rustls::Error, url: &RegistryUrl) -> Self {
        let refused = |cause: &str| format!("tls: failed to verify certificate: x509: {cause}");
        match error {
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NoTls,
            rustls::Error::InvalidCertificate(error) => match error {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    Self::UnknownAuthority(refused("certificate signed by unknown authority"))
                }
                // Go takes a CA certificate that a server shows as its own; rustls takes it from nobody.
                CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
                    Self::Certificate(refused(
                        "certificate signed by unknown authority (the server shows a CA certificate as its own)",
                    ))
                }
                CertificateError::NotValidForNameContext { expected, presented } => {
                    Self::OtherName(refused(&other_name(expected, presented)))
                }
                CertificateError::NotValidForName => {
                    Self::OtherName(refused(&format!("certificate is not valid for {}", url.host())))
                }
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::Certificate(refused(&format!(
                    "certificate has expired or is not yet valid: {}",
                    sanitise(&error.to_string())
                ))),
                error => Self::Certificate(refused(&sanitise(&error.to_string()))),
            },
            error => Self::Other(format!("tls: {}", sanitise(&error.to_string()))),
        }
    }

    /// The certificate was refused: the connection would stand if nobody looked at it.
    pub(super) fn is_certificate(&self) -> bool {
        matches!(self, Self::UnknownAuthority(_) | Self::OtherName(_) | Self::Certificate(_))
    }

    /// Whether the same request may succeed later.
    pub(super) fn is_transient(&self) -> bool {
        !self.is_certificate() && !matches!(self, Self::NoTls | Self::HttpAnswer | Self::MalformedAnswer(_))
    }

    /// The cause without the request.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::NoTls => "tls: first record does not look like a TLS handshake",
            Self::HttpAnswer => "http: server gave HTTP response to HTTPS client",
            Self::MalformedAnswer(text)
            | Self::UnknownAuthority(text)
            | Self::OtherName(text)
            | Self::Certificate(text)
            | Self::NoSuchHost(text)
            | Self::ConnectionRefused(text)
            | Self::Timeout(text)
            | Self::Proxy(text)
            | Self::Other(text) => text,
        }
    }

    /// The cause as the reference prints it: `Get "https://HOST/": …`.
    pub(super) fn of_request(&self, method: &str, scheme: Scheme, url: &RegistryUrl, path: &str) -> String {
        format!("{method} \"{scheme}://{}{path}\": {}", url.authority(), self.text())
    }
}

/// What Go says about a certificate for other names.
fn other_name(expected: &ServerName<'_>, presented: &[String]) -> String {
    let names = |kind: &str| {
        let name = |text: &String| {
            let name = text.strip_prefix(kind)?.strip_prefix('(')?.strip_suffix(')')?;
            Some(sanitise(name.trim_matches('"')))
        };
        presented.iter().filter_map(name).collect::<Vec<_>>().join(", ")
    };
    let wanted = expected.to_str();
    if let ServerName::IpAddress(_) = expected {
        let valid = names("IpAddress");
        return if valid.is_empty() {
            format!("cannot validate certificate for {wanted} because it doesn't contain any IP SANs")
        } else {
            format!("certificate is valid for {valid}, not {wanted}")
        };
    }
    let valid = names("DnsName");
    if valid.is_empty() {
        format!("certificate is not valid for any names, but wanted to match {wanted}")
    } else {
        format!("certificate is valid for {valid}, not {wanted}")
    }
}

/// The errors of a chain, outermost first. An `io::Error` hides the error that it wraps from `source`.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| inner(error))
}

/// The error below `error`.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

/// A name that could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error("tcp: lookup {host}: no such host ({detail})")]
pub(super) struct Unresolved {
    /// The registry's name, or a proxy's.
    pub(super) host: String,
    /// What the system says.
    pub(super) detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_for_another_name_is_told_in_the_words_of_go() {
        let text = |expected: &str, presented: &[&str]| {
            let presented: Vec<_> = presented.iter().map(|&name| name.to_owned()).collect();
            other_name(&ServerName::try_from(expected).unwrap(), &presented)
        };
        assert_eq!(
            text("r.example.com", &["DnsName(\"a.svc\")", "IpAddress(10.0.0.1)", "DnsName(\"b.\u{1b}svc\")"]),
            "certificate is valid for a.svc, b.\u{fffd}svc, not r.example.com"
        );
        assert_eq!(
            text("10.0.0.2", &["DnsName(\"a.svc\")", "IpAddress(10.0.0.1)"]),
            "certificate is valid for 10.0.0.1, not 10.0.0.2"
        );
        assert_eq!(
            text("127.0.0.1", &["DnsName(\"a.svc\")"]),
            "cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs"
        );
        assert_eq!(
            text("r.example.com", &[]),
            "certificate is not valid for any names, but wanted to match r.example.com"
        );
    }
}
