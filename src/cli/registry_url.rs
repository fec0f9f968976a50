//! The value of `--registry-url`: `[SCHEME://]HOST[:PORT]`, and nothing else.

use std::{fmt, net::Ipv6Addr};

use thiserror::Error;

/// How a registry is spoken to, when the user says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

/// The address of a registry as the user gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryUrl {
    /// The scheme in front, if any: without one, the rules of `facts.md` 5 (private addresses) apply.
    pub scheme: Option<Scheme>,
    /// A host name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port, if given.
    pub port: Option<u16>,
}

impl RegistryUrl {
    /// `HOST[:PORT]`, an IPv6 address in brackets: as in a URL and in a `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }
}

impl fmt::Display for RegistryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Some(Scheme::Http) => "http://",
            Some(Scheme::Https) => "https://",
            None => "",
        };
        write!(f, "{scheme}{}", self.authority())
    }
}

/// What is wrong with a registry URL; the first five texts are the reference's (`fixtures/oc/errors.txt`).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RegistryUrlError {
    /// Neither `http://` nor `https://`.
    #[error("unsupported scheme: {0}")]
    Scheme(String),
    /// More than a lone `/` after the host.
    #[error("no path after <host>[:<port>] is allowed")]
    Path,
    /// A `?`.
    #[error("no query arguments are allowed after <host>[:<port>]")]
    Query,
    /// Nothing where the host should be.
    #[error("no host name specified")]
    NoHost,
    /// Something after the colon that is no port.
    #[error("invalid port {0:?} after host")]
    Port(String),
    /// A `#`.
    #[error("no fragment is allowed after <host>[:<port>]")]
    Fragment,
    /// A user name or a password, which the message does not repeat.
    #[error("no user name or password is allowed before <host>")]
    UserInfo,
    /// Characters that no host name has.
    #[error("invalid character {0:?} in host name")]
    Host(char),
    /// Brackets without an IPv6 address in them.
    #[error("invalid IPv6 address in brackets")]
    Ipv6,
}

/// Reads `[SCHEME://]HOST[:PORT]`; a lone `/` at the end is allowed.
pub(super) fn parse(text: &str) -> Result<RegistryUrl, RegistryUrlError> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(parse_scheme(scheme)?), rest),
        None => (None, text),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    if authority.contains('@') {
        return Err(RegistryUrlError::UserInfo);
    }
    let (tail, fragment) = tail.split_once('#').map_or((tail, false), |(tail, _)| (tail, true));
    let (path, query) = tail.split_once('?').map_or((tail, false), |(path, _)| (path, true));
    if !matches!(path, "" | "/") {
        return Err(RegistryUrlError::Path);
    }
    if query {
        return Err(RegistryUrlError::Query);
    }
    if fragment {
        return Err(RegistryUrlError::Fragment);
    }
    let (host, port) = split_authority(authority)?;
    let port = port.map(parse_port).transpose()?;
    Ok(RegistryUrl { scheme, host, port })
}

fn parse_scheme(scheme: &str) -> Result<Scheme, RegistryUrlError> {
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Ok(Scheme::Http),
        "https" => Ok(Scheme::Https),
        _ => Err(RegistryUrlError::Scheme(scheme.escape_debug().to_string())),
    }
}

fn split_authority(authority: &str) -> Result<(String, Option<&str>), RegistryUrlError> {
    if let Some(bracketed) = authority.strip_prefix('[') {
        let (address, tail) = bracketed.split_once(']').ok_or(RegistryUrlError::Ipv6)?;
        let address: Ipv6Addr = address.parse().map_err(|_| RegistryUrlError::Ipv6)?;
        let port = match tail.strip_prefix(':') {
            Some(port) => Some(port),
            None if tail.is_empty() => None,
            None => return Err(RegistryUrlError::Ipv6),
        };
        return Ok((address.to_string(), port));
    }
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    if host.is_empty() {
        return Err(RegistryUrlError::NoHost);
    }
    if let Some(bad) = host.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))) {
        return Err(RegistryUrlError::Host(bad));
    }
    Ok((host.to_ascii_lowercase(), port))
}

fn parse_port(port: &str) -> Result<u16, RegistryUrlError> {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    port.parse()
        .ok()
        .filter(|number| digits && *number > 0)
        .ok_or_else(|| RegistryUrlError::Port(port.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_hosts_with_and_without_scheme_and_port() {
        for (text, scheme, host, port, shown) in [
            ("registry.example.com", None, "registry.example.com", None, "registry.example.com"),
            (
                "Registry.example.com:5000",
                None,
                "registry.example.com",
                Some(5000),
                "registry.example.com:5000",
            ),
            ("https://r.example.com/", Some(Scheme::Https), "r.example.com", None, "https://r.example.com"),
            ("HTTP://10.0.0.1:80", Some(Scheme::Http), "10.0.0.1", Some(80), "http://10.0.0.1:80"),
            ("[::1]:5000", None, "::1", Some(5000), "[::1]:5000"),
            ("https://[FD00::1]/", Some(Scheme::Https), "fd00::1", None, "https://[fd00::1]"),
        ] {
            let url = parse(text).unwrap();
            assert_eq!((url.scheme, url.host.as_str(), url.port), (scheme, host, port), "{text}");
            assert_eq!(url.to_string(), shown);
        }
    }

    #[test]
    fn refuses_everything_else() {
        for (text, message) in [
            ("https://registry.example.com:5443/v2/", "no path after <host>[:<port>] is allowed"),
            ("registry.example.com/v2", "no path after <host>[:<port>] is allowed"),
            ("https://r.example.com//", "no path after <host>[:<port>] is allowed"),
            ("https://r.example.com?x=1", "no query arguments are allowed after <host>[:<port>]"),
            ("https://r.example.com/?", "no query arguments are allowed after <host>[:<port>]"),
            ("ftp://r.example.com", "unsupported scheme: ftp"),
            ("://r.example.com", "unsupported scheme: "),
            ("https://", "no host name specified"),
            ("https://:5000", "no host name specified"),
            ("/", "no host name specified"),
            ("https://r.example.com#top", "no fragment is allowed after <host>[:<port>]"),
            ("https://u:geheim@r.example.com", "no user name or password is allowed before <host>"),
            ("r.example.com:", "invalid port \"\" after host"),
            ("r.example.com:0", "invalid port \"0\" after host"),
            ("r.example.com:+80", "invalid port \"+80\" after host"),
            ("r.example.com:65536", "invalid port \"65536\" after host"),
            ("r.example.com:80:80", "invalid port \"80:80\" after host"),
            ("::1", "no host name specified"),
            ("[::1", "invalid IPv6 address in brackets"),
            ("[::1]x", "invalid IPv6 address in brackets"),
            ("[nope]:1", "invalid IPv6 address in brackets"),
            ("r example.com", "invalid character ' ' in host name"),
            ("r\u{1b}.com", "invalid character '\\u{1b}' in host name"),
        ] {
            assert_eq!(parse(text).map_err(|error| error.to_string()), Err(message.to_owned()), "{text}");
        }
    }
}
