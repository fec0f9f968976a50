//! Why a connection failed, in the words that administrators search for: those of Go, which `oc` and `kubectl`
//! print.
//!
//! Rust's libraries nest the interesting error three to six levels deep and word it differently
//! (`invalid peer certificate: UnknownIssuer`), so the chain is walked and translated.

use std::{error::Error, fmt, io};

use rustls::CertificateError;

/// The longest text from outside that is repeated in a message, in characters.
const LONGEST: usize = 1024;

/// The reason behind a failed connection.
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
    /// Plain HTTP where TLS was expected.
    HttpServer,
    /// The certificate is not signed by a known authority.
    UnknownAuthority,
    /// The certificate is not good for another reason: name, dates, form.
    Certificate,
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
        let mut current = Some(error);
        let mut innermost = error.to_string();
        while let Some(error) = current {
            if let Some(cause) = Self::of_one(error) {
                return cause;
            }
            innermost = error.to_string();
            // A wrapping `io::Error` leaves the error it holds out of its `source`.
            current = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(held) => Some(held),
                None => error.source(),
            };
        }
        Self::by_text(&innermost)
    }

    fn new(kind: CauseKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    fn of_one(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(Self::of_tls(error));
        }
        let error = error.downcast_ref::<io::Error>()?;
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => CauseKind::Refused,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
                if error.get_ref().is_none() =>
            {
                CauseKind::Cut
            }
            io::ErrorKind::TimedOut => CauseKind::TimedOut,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => CauseKind::Unreachable,
            _ => return None,
        };
        Some(Self::new(kind, io_text(error)))
    }

    fn of_tls(error: &rustls::Error) -> Self {
        const VERIFY: &str = "tls: failed to verify certificate: x509:";
        match error {
            rustls::Error::InvalidCertificate(error) => match error {
                CertificateError::UnknownIssuer => Self::new(
                    CauseKind::UnknownAuthority,
                    format!("{VERIFY} certificate signed by unknown authority"),
                ),
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::new(
                    CauseKind::Certificate,
                    format!("{VERIFY} certificate has expired or is not yet valid"),
                ),
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Self::new(CauseKind::Certificate, format!("{VERIFY} {}", wrong_name(error)))
                }
                // What webpki says of a self-signed certificate that is itself no trusted root.
                CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                    Self::new(
                        CauseKind::UnknownAuthority,
                        format!("{VERIFY} certificate signed by unknown authority (a CA's own certificate)"),
                    )
                }
                other => {
                    Self::new(CauseKind::Certificate, format!("{VERIFY} {}", sanitize(&other.to_string())))
                }
            },
            rustls::Error::InvalidMessage(_) => {
                Self::new(CauseKind::HttpServer, "http: server gave HTTP response to HTTPS client")
            }
            other => Self::new(CauseKind::Other, format!("tls: {}", sanitize(&other.to_string()))),
        }
    }

    /// Errors that the libraries make from text only.
    fn by_text(text: &str) -> Self {
        if text.contains("failed to lookup address") || text.contains("dns error") {
            return Self::new(CauseKind::NoSuchHost, "no such host");
        }
        if text.contains("connection closed before message completed") || text.contains("unexpected EOF") {
            return Self::new(CauseKind::Cut, "unexpected EOF");
        }
        Self::new(CauseKind::Other, sanitize(text))
    }
}

fn wrong_name(error: &CertificateError) -> String {
    let CertificateError::NotValidForNameContext { expected, presented } = error else {
        return "certificate is not valid for the server's name".to_owned();
    };
    let expected = sanitize(&expected.to_str());
    if presented.is_empty() {
        return format!("certificate is not valid for any names, but wanted to match {expected}");
    }
    // Presented names come as `DnsName("a.example.com")`; Go lists them bare.
    let names: Vec<_> =
        presented.iter().map(|name| sanitize(name.split('"').nth(1).unwrap_or(name))).collect();
    format!("certificate is valid for {}, not {expected}", names.join(", "))
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
        io::ErrorKind::UnexpectedEof => "unexpected EOF",
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

/// Makes a text from outside harmless on a terminal: one line, control and format characters escaped, not too long.
#[must_use]
pub fn sanitize(text: &str) -> String {
    use std::fmt::Write as _;
    let text = text.trim();
    let mut clean = String::with_capacity(text.len().min(LONGEST));
    for (count, c) in text.chars().enumerate() {
        if count == LONGEST {
            clean.push('…');
            break;
        }
        match c {
            '"' | '\'' | '\\' => clean.push(c),
            c if c.escape_debug().len() > 1 => {
                // Writing to a `String` cannot fail.
                let _ = write!(clean, "{}", c.escape_debug());
            }
            c => clean.push(c),
        }
    }
    clean
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
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let cause = Cause::of(&nested(unknown));
        assert_eq!(cause.kind, CauseKind::UnknownAuthority);
        assert_eq!(
            cause.text,
            "tls: failed to verify certificate: x509: certificate signed by unknown authority"
        );
        let refused = Cause::of(&nested(io::Error::from(io::ErrorKind::ConnectionRefused)));
        assert_eq!((refused.kind, refused.text.as_str()), (CauseKind::Refused, "connection refused"));
        let dns = Cause::of(&nested("failed to lookup address information: Name or service not known"));
        assert_eq!((dns.kind, dns.text.as_str()), (CauseKind::NoSuchHost, "no such host"));
    }

    #[test]
    fn names_the_names_of_a_certificate() {
        let error = rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected: rustls::pki_types::ServerName::try_from("a.example.com").unwrap(),
            presented: vec!["DnsName(\"b.example.com\")".to_owned()],
        });
        assert_eq!(
            Cause::of(&error).text,
            "tls: failed to verify certificate: x509: certificate is valid for b.example.com, not a.example.com"
        );
    }

    #[test]
    fn texts_from_outside_are_made_harmless() {
        assert_eq!(
            sanitize(" a \"b\" 'c' \\ é\n\u{1b}[31m\u{202e}x "),
            "a \"b\" 'c' \\ é\\n\\u{1b}[31m\\u{202e}x"
        );
        let long = sanitize(&"x".repeat(5000));
        assert_eq!(long.chars().count(), LONGEST + 1);
    }

    #[test]
    fn system_errors_read_as_go_writes_them() {
        let missing = std::fs::read("/no/such/file").unwrap_err();
        assert_eq!(io_text(&missing), "no such file or directory");
        assert_eq!(io_text(&std::fs::read("/").unwrap_err()), "is a directory");
    }
}
