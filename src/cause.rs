//! Why a request got no answer, in the words that administrators search for: those of Go, which `oc` and `kubectl`
//! print.
//!
//! Rust's libraries nest the interesting error three to six levels deep and word it differently
//! (`invalid peer certificate: UnknownIssuer`), so the chain is walked and translated.

use std::{error::Error, fmt, io};

use rustls::{CertificateError, InvalidMessage, pki_types::ServerName};

use crate::text::{printable, sanitize};

/// The class of a [`Cause`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CauseKind {
    /// Nobody listens at the address.
    Refused,
    /// The name does not resolve.
    NoSuchHost,
    /// The network has no way to the address.
    Unreachable,
    /// The other side, or something in between, cut the connection.
    Cut,
    /// Time ran out.
    TimedOut,
    /// No TLS came back where TLS was spoken: HTTP, most likely.
    NoTls,
    /// Plain HTTP where TLS was expected.
    HttpServer,
    /// No HTTP came back where plain HTTP was spoken: TLS, most likely.
    MalformedAnswer,
    /// The certificate is not signed by a known authority.
    UnknownAuthority,
    /// The certificate is for other names.
    OtherName,
    /// The certificate is not good for another reason: dates, form.
    Certificate,
    /// A proxy did not let the connection through.
    Proxy,
    /// Anything else.
    Other,
}

/// The reason behind a failed connection, with a text fit for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The class, to choose hints by.
    pub kind: CauseKind,
    /// Go's wording where it has one.
    pub text: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Cause {
    /// Finds the telling error in a chain of sources.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        // What TLS says counts more than the errors around it, which may have a kind of their own.
        if let Some(tls) = chain(error).find_map(|error| error.downcast_ref::<rustls::Error>()) {
            return Self::of_tls(tls);
        }
        if let Some(cause) = chain(error).find_map(Self::of_one) {
            return cause;
        }
        let texts: Vec<_> = chain(error).map(ToString::to_string).collect();
        let innermost = texts.last().map_or("", String::as_str);
        if innermost.contains("failed to lookup address") || innermost.contains("dns error") {
            Self::new(CauseKind::NoSuchHost, "no such host")
        } else if texts.iter().any(|text| text.contains("tunnel") || text.contains("proxy")) {
            Self::new(CauseKind::Proxy, format!("proxyconnect: {}", sanitize(innermost)))
        } else {
            Self::new(CauseKind::Other, sanitize(innermost))
        }
    }

    pub(crate) fn new(kind: CauseKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// [`CauseKind::NoTls`] where it is plain HTTP that came back.
    pub(crate) fn http_server() -> Self {
        Self::new(CauseKind::HttpServer, "http: server gave HTTP response to HTTPS client")
    }

    /// The certificate was refused: the connection would stand if nobody looked at it.
    pub(crate) fn is_certificate(&self) -> bool {
        matches!(self.kind, CauseKind::UnknownAuthority | CauseKind::OtherName | CauseKind::Certificate)
    }

    fn of_one(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(http) = error.downcast_ref::<hyper::Error>() {
            return if http.is_parse() {
                Some(Self::new(CauseKind::MalformedAnswer, format!("malformed HTTP response ({http})")))
            } else if http.is_incomplete_message() {
                Some(Self::new(CauseKind::Cut, "EOF"))
            } else {
                None
            };
        }
        let error = error.downcast_ref::<io::Error>()?;
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => CauseKind::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => CauseKind::Cut,
            io::ErrorKind::TimedOut => CauseKind::TimedOut,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => CauseKind::Unreachable,
            _ => return None,
        };
        Some(Self::new(kind, io_text(error)))
    }

    fn of_tls(error: &rustls::Error) -> Self {
        let (kind, text) = match error {
            rustls::Error::InvalidCertificate(error) => of_certificate(error),
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                let text = "tls: first record does not look like a TLS handshake";
                return Self::new(CauseKind::NoTls, text);
            }
            other => return Self::new(CauseKind::Other, format!("tls: {}", sanitize(&other.to_string()))),
        };
        Self::new(kind, format!("tls: failed to verify certificate: x509: {text}"))
    }
}

fn of_certificate(error: &CertificateError) -> (CauseKind, String) {
    let unknown = "certificate signed by unknown authority";
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            (CauseKind::UnknownAuthority, unknown.to_owned())
        }
        // Go takes a CA certificate that a server shows as its own; rustls takes it from nobody.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            (CauseKind::Certificate, format!("{unknown} (the server shows a CA certificate as its own)"))
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            (CauseKind::OtherName, other_name(expected, presented))
        }
        CertificateError::NotValidForName => {
            (CauseKind::OtherName, "certificate is not valid for the server's name".to_owned())
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => (
            CauseKind::Certificate,
            format!("certificate has expired or is not yet valid: {}", sanitize(&error.to_string())),
        ),
        error => (CauseKind::Certificate, sanitize(&error.to_string())),
    }
}

/// What Go says about a certificate for other names.
fn other_name(expected: &ServerName<'_>, presented: &[String]) -> String {
    let names = |kind: &str| {
        // Presented names come as `DnsName("a.example.com")`; Go lists them bare.
        let name = |text: &String| {
            let name = text.strip_prefix(kind)?.strip_prefix('(')?.strip_suffix(')')?;
            Some(printable(name.trim_matches('"')).into_owned())
        };
        sanitize(&presented.iter().filter_map(name).collect::<Vec<_>>().join(", "))
    };
    let wanted = expected.to_str();
    let is_address = matches!(expected, ServerName::IpAddress(_));
    match names(if is_address { "IpAddress" } else { "DnsName" }) {
        none if none.is_empty() && is_address => {
            format!("cannot validate certificate for {wanted} because it doesn't contain any IP SANs")
        }
        none if none.is_empty() => {
            format!("certificate is not valid for any names, but wanted to match {wanted}")
        }
        valid => format!("certificate is valid for {valid}, not {wanted}"),
    }
}

/// The errors of a chain, outermost first. An `io::Error` hides the error that it wraps from `source`.
pub(crate) fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        }
    })
}

/// What an operating system error is called, without Rust's `(os error N)`.
#[must_use]
pub fn io_text(error: &io::Error) -> String {
    let text = match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory",
        io::ErrorKind::PermissionDenied => "permission denied",
        io::ErrorKind::IsADirectory => "is a directory",
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset => "connection reset by peer",
        io::ErrorKind::ConnectionAborted => "software caused connection abort",
        io::ErrorKind::BrokenPipe => "broken pipe",
        io::ErrorKind::UnexpectedEof => "EOF",
        io::ErrorKind::TimedOut => "i/o timeout",
        io::ErrorKind::HostUnreachable => "no route to host",
        io::ErrorKind::NetworkUnreachable => "network is unreachable",
        _ => {
            let text = error.to_string();
            return sanitize(text.split(" (os error").next().unwrap_or(&text));
        }
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    fn nested(error: impl Into<Box<dyn Error + Send + Sync>>) -> Outer {
        Outer(io::Error::other(io::Error::other(error)))
    }

    #[test]
    fn finds_the_telling_error_however_deep() {
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        // Errors around it have kinds that do not count.
        for error in [nested(unknown()), nested(io::Error::new(io::ErrorKind::UnexpectedEof, unknown()))] {
            let cause = Cause::of(&error);
            assert_eq!(cause.kind, CauseKind::UnknownAuthority);
            assert_eq!(
                cause.text,
                "tls: failed to verify certificate: x509: certificate signed by unknown authority"
            );
        }
        let refused = Cause::of(&nested(io::Error::from(io::ErrorKind::ConnectionRefused)));
        assert_eq!((refused.kind, refused.text.as_str()), (CauseKind::Refused, "connection refused"));
        let dns = Cause::of(&nested("failed to lookup address information: Name or service not known"));
        assert_eq!((dns.kind, dns.text.as_str()), (CauseKind::NoSuchHost, "no such host"));
        let proxy = Cause::of(&nested("tunnel error: unsuccessful"));
        assert_eq!(
            (proxy.kind, &*proxy.text),
            (CauseKind::Proxy, "proxyconnect: tunnel error: unsuccessful")
        );
    }

    #[test]
    fn a_certificate_for_another_name_is_told_in_the_words_of_go() {
        let text = |expected: &str, presented: &[&str]| {
            let presented: Vec<_> = presented.iter().map(|&name| name.to_owned()).collect();
            other_name(&ServerName::try_from(expected).unwrap(), &presented)
        };
        assert_eq!(
            text("r.example.com", &["DnsName(\"a.svc\")", "IpAddress(10.0.0.1)", "DnsName(\"b.\u{1b}svc\")"]),
            "certificate is valid for a.svc, b.\\u{1b}svc, not r.example.com"
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
        let error = rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("a.example.com").unwrap(),
            presented: vec!["DnsName(\"b.example.com\")".to_owned()],
        });
        assert_eq!(
            Cause::of(&error).text,
            "tls: failed to verify certificate: x509: certificate is valid for b.example.com, not a.example.com"
        );
    }

    #[test]
    fn system_errors_read_as_go_writes_them() {
        let missing = std::fs::read("/no/such/file").unwrap_err();
        assert_eq!(io_text(&missing), "no such file or directory");
        assert_eq!(io_text(&std::fs::read("/").unwrap_err()), "is a directory");
    }
}
