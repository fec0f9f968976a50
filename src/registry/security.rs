//! Which connections may be tried, in which order, and what the user is told about insecure ones. Pure.

use super::address::{RegistryUrl, Scheme, is_private};

/// What the settings say about insecure connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowance {
    /// `--force-insecure`.
    pub force_insecure: bool,
    /// A `--certificate-authority` is given: then nothing insecure is ever tried.
    pub ca_given: bool,
    /// The kubeconfig's cluster has `insecure-skip-tls-verify`, or the flag of that name is given.
    pub kubeconfig_insecure: bool,
}

/// How a connection is protected, safest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protection {
    /// https, and the server's certificate is verified.
    Verified,
    /// https with any certificate: a machine in between can read the token.
    Unverified,
    /// http: everyone on the way can read the token.
    Plain,
}

impl Protection {
    /// The scheme of the requests.
    #[must_use]
    pub fn scheme(self) -> Scheme {
        match self {
            Self::Verified | Self::Unverified => Scheme::Https,
            Self::Plain => Scheme::Http,
        }
    }
}

/// What must have happened before an attempt is made: nothing else leads to a less protected connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It is the first attempt.
    First,
    /// The server's certificate was refused.
    CertificateRefused,
    /// The server gave an HTTP answer to an HTTPS client (no other error leads from https to http).
    HttpAnswer,
}

/// Why an insecure connection is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// `--force-insecure`.
    ForceInsecure,
    /// `--registry-url=http://…`.
    HttpUrl,
    /// The kubeconfig itself allows it.
    Kubeconfig,
    /// A private address, given without a scheme.
    PrivateAddress,
}

impl Reason {
    fn text(self) -> &'static str {
        match self {
            Self::ForceInsecure => "--force-insecure is given",
            Self::HttpUrl => "--registry-url says http://",
            Self::Kubeconfig => "the kubeconfig says insecure-skip-tls-verify",
            Self::PrivateAddress => {
                "a private address without a scheme; https:// in --registry-url forbids it"
            }
        }
    }
}

/// One way to reach the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// How it is protected.
    pub protection: Protection,
    /// When it may be made.
    pub condition: Condition,
    /// Why it is allowed; nothing for a verified connection.
    pub reason: Option<Reason>,
}

impl Attempt {
    /// The warning for stderr, without `warning: `, that goes with this connection, every time it is used.
    #[must_use]
    pub fn warning(&self, address: &RegistryUrl) -> Option<String> {
        let why = self.reason?.text();
        let host = address.authority();
        match self.protection {
            Protection::Verified => None,
            Protection::Unverified => Some(format!(
                "insecure connection to the registry {host}: its certificate is not verified ({why})"
            )),
            Protection::Plain => Some(format!(
                "insecure connection to the registry {host}: plain http, the token is sent unencrypted ({why})"
            )),
        }
    }
}

/// Returns the attempts that are allowed, in order.
///
/// - https with verification comes first, except for an `http://` URL, which is never anything else.
/// - With a `--certificate-authority` there is nothing besides. With it, an `http://` URL leaves no attempt at all.
/// - `--force-insecure`, a kubeconfig that allows it, or a private address without a scheme add unverified https, and
///   plain http unless the URL says `https://`.
#[must_use]
pub fn candidates(address: &RegistryUrl, allowance: Allowance) -> Vec<Attempt> {
    let Allowance { force_insecure, ca_given, kubeconfig_insecure } = allowance;
    if address.scheme() == Some(Scheme::Http) {
        let attempt = Attempt {
            protection: Protection::Plain,
            condition: Condition::First,
            reason: Some(Reason::HttpUrl),
        };
        return if ca_given { Vec::new() } else { vec![attempt] };
    }
    let mut attempts =
        vec![Attempt { protection: Protection::Verified, condition: Condition::First, reason: None }];
    let reason = if ca_given {
        None
    } else if force_insecure {
        Some(Reason::ForceInsecure)
    } else if kubeconfig_insecure {
        Some(Reason::Kubeconfig)
    } else if address.scheme().is_none() && is_private(address.host()) {
        Some(Reason::PrivateAddress)
    } else {
        None
    };
    if reason.is_some() {
        attempts.push(Attempt {
            protection: Protection::Unverified,
            condition: Condition::CertificateRefused,
            reason,
        });
        if address.scheme().is_none() {
            attempts.push(Attempt {
                protection: Protection::Plain,
                condition: Condition::HttpAnswer,
                reason,
            });
        }
    }
    attempts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(url: &str, force_insecure: bool, ca_given: bool, kubeconfig_insecure: bool) -> Vec<Protection> {
        let url = RegistryUrl::parse(url).unwrap();
        let attempts = candidates(&url, Allowance { force_insecure, ca_given, kubeconfig_insecure });
        for attempt in &attempts {
            let expected = match attempt.protection {
                _ if attempt.reason == Some(Reason::HttpUrl) => Condition::First,
                Protection::Verified => Condition::First,
                Protection::Unverified => Condition::CertificateRefused,
                Protection::Plain => Condition::HttpAnswer,
            };
            assert_eq!(attempt.condition, expected);
            let insecure = attempt.protection != Protection::Verified;
            assert_eq!(attempt.warning(&url).is_some(), insecure, "every insecure choice is announced");
        }
        attempts.into_iter().map(|attempt| attempt.protection).collect()
    }

    #[test]
    fn insecure_connections_only_where_they_are_allowed() {
        use Protection::{Plain, Unverified, Verified};
        let public = "registry.example.com:5443";
        let with_https = "https://registry.example.com:5443";
        let with_http = "http://registry.example.com:5443";
        let private = "10.0.0.1:5000";
        let link_local = "169.254.1.1:5000";
        let (no, yes) = (false, true);
        let table: &[(&str, bool, bool, bool, &[Protection])] = &[
            // url, --force-insecure, --certificate-authority, insecure kubeconfig
            (public, no, no, no, &[Verified]),
            (public, yes, no, no, &[Verified, Unverified, Plain]),
            (public, no, no, yes, &[Verified, Unverified, Plain]),
            (public, no, yes, yes, &[Verified]),
            (public, yes, yes, yes, &[Verified]),
            (with_https, no, no, no, &[Verified]),
            (with_https, yes, no, no, &[Verified, Unverified]),
            (with_https, no, no, yes, &[Verified, Unverified]),
            (with_http, no, no, no, &[Plain]),
            (with_http, yes, no, yes, &[Plain]),
            (with_http, no, yes, no, &[]),
            (private, no, no, no, &[Verified, Unverified, Plain]),
            (private, no, yes, no, &[Verified]),
            ("https://10.0.0.1:5000", no, no, no, &[Verified]),
            ("https://10.0.0.1:5000", yes, no, no, &[Verified, Unverified]),
            ("localhost:5000", no, no, no, &[Verified, Unverified, Plain]),
            ("[fd00::1]:5000", no, no, no, &[Verified, Unverified, Plain]),
            (link_local, no, no, no, &[Verified]),
        ];
        for (url, force_insecure, ca_given, kubeconfig_insecure, expected) in table {
            assert_eq!(
                tried(url, *force_insecure, *ca_given, *kubeconfig_insecure),
                *expected,
                "{url} {force_insecure} {ca_given} {kubeconfig_insecure}"
            );
        }
    }

    #[test]
    fn the_warning_says_what_and_why() {
        let url = RegistryUrl::parse("localhost:5000").unwrap();
        let attempts = candidates(&url, Allowance { force_insecure: true, ..Allowance::default() });
        assert_eq!(
            attempts[2].warning(&url).unwrap(),
            "insecure connection to the registry localhost:5000: plain http, the token is sent unencrypted \
             (--force-insecure is given)"
        );
    }
}
