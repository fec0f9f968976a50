//! Which host is the registry: decided from the flag or from what the server computed. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use url::Url;

use crate::error::Failure;
use crate::text::brief;

/// The most foreign hosts that are listed in a failure.
const MOST_HOSTS_LISTED: usize = 10;

/// What is wrong with a registry URL that has a user name or a password.
const USER_INFO: &str = "no user name or password is allowed before <host>[:<port>]";

/// How to speak to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP: the token travels unencrypted.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The scheme as it stands in a URL, without `://`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `[SCHEME://]HOST[:PORT]`: the value of `--registry-url`.
///
/// It holds no user, path, query or fragment, and its host is one that an HTTP client reads in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RegistryUrl {
    scheme: Option<Scheme>,
    host: String,
    port: Option<u16>,
}

impl RegistryUrl {
    /// Reads the value of `--registry-url`.
    ///
    /// The checks and their order are the reference's (`validateRegistryURL` in `pkg/cli/admin/prune/images`). The
    /// failure starts with `invalid --registry-url flag: `; it never repeats what stands before an `@`, which may be
    /// a password. An empty value means "not given": ask before calling.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        parse(text).map_err(|cause| {
            let failure = Failure::usage(format!("invalid --registry-url flag: {cause}"));
            if cause == USER_INFO {
                failure.hint("the registry is logged in to with the bearer token: --token=TOKEN or oc login")
            } else {
                failure.hint("the form is --registry-url=[http://|https://]HOST[:PORT]")
            }
        })
    }

    /// The same registry under the name of its service, without a port: where that is comes from elsewhere.
    pub(super) fn of_service(&self, name: &str) -> Self {
        Self { scheme: self.scheme, host: name.to_ascii_lowercase(), port: None }
    }

    /// The scheme, if one was given.
    #[must_use]
    pub fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    /// The host in lower case: a name, an IPv4 address, or an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if one was given.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// `HOST[:PORT]`, an IPv6 address in brackets.
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
        if let Some(scheme) = self.scheme {
            write!(f, "{scheme}://")?;
        }
        f.write_str(&self.authority())
    }
}

fn parse(text: &str) -> Result<RegistryUrl, String> {
    let (scheme, rest) = match text.split_once("://") {
        None => (None, text),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(Scheme::Http), rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some(Scheme::Https), rest),
        Some((scheme, _)) => return Err(format!("unsupported scheme: {}", brief(scheme))),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    if authority.contains('@') {
        return Err(USER_INFO.to_owned());
    }
    let (tail, fragment) =
        tail.split_once('#').map_or((tail, None), |(tail, fragment)| (tail, Some(fragment)));
    let (path, query) = tail.split_once('?').map_or((tail, None), |(path, query)| (path, Some(query)));
    if !matches!(path, "" | "/") {
        return Err("no path after <host>[:<port>] is allowed".to_owned());
    }
    if query.is_some() {
        return Err("no query arguments are allowed after <host>[:<port>]".to_owned());
    }
    if fragment.is_some() {
        return Err("no fragment is allowed after <host>[:<port>]".to_owned());
    }
    let (host, port) = parse_authority(authority)?;
    Ok(RegistryUrl { scheme, host, port })
}

/// Reads `HOST[:PORT]`.
fn parse_authority(authority: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed
                .split_once(']')
                .ok_or_else(|| format!("missing ']' in address: {}", brief(authority)))?;
            let address: Ipv6Addr =
                host.parse().map_err(|_| format!("not an IPv6 address: {}", brief(host)))?;
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None if rest.is_empty() => None,
                None => return Err(format!("unexpected text after ']': {}", brief(rest))),
            };
            (address.to_string(), port)
        }
        None => match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(format!("an IPv6 address is written in brackets: {}", brief(authority)));
            }
            Some((host, port)) => (parse_host(host)?, Some(port)),
            None => (parse_host(authority)?, None),
        },
    };
    let port = port
        .map(|port| {
            let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            let number = if digits { port.parse().ok() } else { None };
            number.filter(|&number: &u16| number > 0).ok_or_else(|| format!("invalid port: {}", brief(port)))
        })
        .transpose()?;
    Ok((host, port))
}

/// Reads a host name or an IPv4 address.
fn parse_host(host: &str) -> Result<String, String> {
    if host.is_empty() {
        return Err("no host name specified".to_owned());
    }
    let host = host.to_ascii_lowercase();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len());
    let is_name = host.len() <= 253
        && host.bytes().all(allowed)
        && host.strip_suffix('.').unwrap_or(&host).split('.').all(label);
    // HTTP clients read `127.1`, `0x7f000001` and `2130706433` as 127.0.0.1: what we decide on must be the host
    // that they connect to.
    let read_alike = Url::parse(&format!("https://{host}/")).is_ok_and(|url| url.host_str() == Some(&host));
    if is_name && read_alike { Ok(host) } else { Err(format!("not a host name: {}", brief(&host))) }
}

/// Who named the registry's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The administrator, by `--registry-url`.
    Flag,
    /// The server, in `status.dockerImageRepository` of image streams.
    Streams,
}

/// The registry to prune, and who named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Where it is.
    pub url: RegistryUrl,
    /// Who said so.
    pub origin: Origin,
}

/// Decides which host is the registry, and so which host is given the token.
///
/// 1. `--registry-url` wins; nothing else is looked at.
/// 2. Else the host in `status.dockerImageRepository` of the newest image stream that has one. The server computes
///    this field, so every host in it is the registry's own; streams differ only after the registry was renamed.
///    (The reference takes the oldest by a slip.)
/// 3. Each managed image must name a host that some stream names. An Image's `dockerImageReference` can be written
///    by any project editor (imagestreammappings), in any number: a host that stands only there is never asked, not
///    even when most images name it. It may also be an old name of the same registry; only the administrator knows,
///    so the run stops and asks for `--registry-url`.
///
/// References without a host, and hosts that are not `HOST[:PORT]`, name nothing. The order of the inputs does not
/// matter. `T` is a creation time.
pub fn choose<T, S, M>(
    url_flag: Option<&RegistryUrl>,
    stream_repositories: impl IntoIterator<Item = (T, S)>,
    managed_image_references: impl IntoIterator<Item = M>,
) -> Result<Address, Failure>
where
    T: Ord,
    S: AsRef<str>,
    M: AsRef<str>,
{
    if let Some(url) = url_flag {
        return Ok(Address { url: url.clone(), origin: Origin::Flag });
    }
    let mut hosts: BTreeMap<String, (T, RegistryUrl)> = BTreeMap::new();
    for (created, repository) in stream_repositories {
        let Some(url) = host_of(repository.as_ref()) else { continue };
        let name = url.authority();
        if hosts.get(&name).is_none_or(|(newest, _)| *newest < created) {
            hosts.insert(name, (created, url));
        }
    }
    let mut foreign: BTreeMap<String, usize> = BTreeMap::new();
    for reference in managed_image_references {
        let Some(url) = host_of(reference.as_ref()) else { continue };
        let name = url.authority();
        if !hosts.contains_key(&name) {
            *foreign.entry(name).or_default() += 1;
        }
    }
    let known = hosts.keys().cloned().collect::<Vec<_>>().join(", ");
    let Some((_, url)) = hosts.into_values().max_by(|(left, _), (right, _)| left.cmp(right)) else {
        return Err(no_address());
    };
    if foreign.is_empty() {
        return Ok(Address { url, origin: Origin::Streams });
    }
    Err(disagreement(&url, &known, &foreign))
}

fn no_address() -> Failure {
    Failure::nothing_changed(
        "find the registry: no registry address could be found: no image stream has a status.dockerImageRepository",
    )
    .hint("name the registry: --registry-url=<host>[:<port>]")
    .hint("or prune the API objects alone: --prune-registry=false")
}

fn disagreement(chosen: &RegistryUrl, known: &str, foreign: &BTreeMap<String, usize>) -> Failure {
    let mut by_count: Vec<_> = foreign.iter().collect();
    by_count.sort_by(|left, right| right.1.cmp(left.1).then(left.0.cmp(right.0)));
    let mut listed: Vec<String> = by_count
        .iter()
        .take(MOST_HOSTS_LISTED)
        .map(|(host, count)| format!("{host} ({count} image{})", if **count == 1 { "" } else { "s" }))
        .collect();
    if by_count.len() > MOST_HOSTS_LISTED {
        listed.push(format!("and {} more", by_count.len() - MOST_HOSTS_LISTED));
    }
    Failure::nothing_changed(format!(
        "find the registry: managed images name hosts that no image stream names: {}; the image streams name {known}",
        listed.join(", "),
    ))
    .hint(
        "the token is sent only to a host that the server computed or that you name: project users can write what \
         an image says",
    )
    .hint(format!("if it is the registry: --registry-url={chosen}"))
}

/// Returns the host in front of a pull spec or repository, if there is a valid one.
///
/// The first component is a host if it has a `.` or `:` or is `localhost` (`docs/decision.md`, "Which references count").
fn host_of(reference: &str) -> Option<RegistryUrl> {
    let (host, _) = reference.split_once('/')?;
    if !(host.contains(['.', ':']) || host.eq_ignore_ascii_case("localhost")) {
        return None;
    }
    let (host, port) = parse_authority(host).ok()?;
    Some(RegistryUrl { scheme: None, host, port })
}

/// Whether the host is a private address by rule 8.6.3 of the documentation of `oc adm prune images`.
///
/// Literals and `localhost` only: what a name resolves to is decided by whoever runs the name server. Link-local
/// IPv4 addresses (169.254/16) are not in the list.
pub(super) fn is_private(host: &str) -> bool {
    if host == "localhost" {
        return true;
    }
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return address.is_private() || address == Ipv4Addr::LOCALHOST;
    }
    host.parse::<Ipv6Addr>().is_ok_and(|address| {
        address.is_unique_local() || address.is_unicast_link_local() || address == Ipv6Addr::LOCALHOST
    })
}

/// Whether the host is this machine, which no proxy is ever asked for (Go's rule, hence the reference's).
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || host.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        RegistryUrl::parse(text).map_or_else(|failure| failure.message, |url| url.to_string())
    }

    #[test]
    fn the_flag_takes_a_scheme_a_host_and_a_port() {
        for (text, expected) in [
            ("registry.example.com", "registry.example.com"),
            ("registry.example.com/", "registry.example.com"),
            ("Registry.Example.com:5000", "registry.example.com:5000"),
            ("HTTPS://registry.example.com:5443/", "https://registry.example.com:5443"),
            ("http://10.0.0.1:80", "http://10.0.0.1:80"),
            ("http://localhost:5000", "http://localhost:5000"),
            ("[::1]:5000", "[::1]:5000"),
            ("https://[FD00:0::1]", "https://[fd00::1]"),
            ("image_registry:5000", "image_registry:5000"),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn the_flag_is_refused_in_the_words_of_the_reference() {
        for (text, expected) in [
            ("https://registry.example.com:5443/v2/", "no path after <host>[:<port>] is allowed"),
            ("registry.example.com//", "no path after <host>[:<port>] is allowed"),
            ("https://registry.example.com:5443?x=1", "no query arguments are allowed after <host>[:<port>]"),
            ("registry.example.com/?", "no query arguments are allowed after <host>[:<port>]"),
            ("ftp://registry.example.com:5443", "unsupported scheme: ftp"),
            ("://registry.example.com", "unsupported scheme: "),
            ("https://", "no host name specified"),
            ("https:///", "no host name specified"),
            ("https://:5000", "no host name specified"),
            ("", "no host name specified"),
            ("registry.example.com#x", "no fragment is allowed after <host>[:<port>]"),
            (
                "https://me:secret@registry.example.com",
                "no user name or password is allowed before <host>[:<port>]",
            ),
            ("registry.example.com:", "invalid port: "),
            ("registry.example.com:0", "invalid port: 0"),
            ("registry.example.com:65536", "invalid port: 65536"),
            ("registry.example.com:+80", "invalid port: +80"),
            ("::1", "an IPv6 address is written in brackets: ::1"),
            ("[::1", "missing ']' in address: [::1"),
            ("[::1]5000", "unexpected text after ']': 5000"),
            ("[fe80::1%eth0]", "not an IPv6 address: fe80::1%eth0"),
            ("127.1", "not a host name: 127.1"),
            ("0x7f000001", "not a host name: 0x7f000001"),
            ("010.0.0.1", "not a host name: 010.0.0.1"),
            ("registry..example.com", "not a host name: registry..example.com"),
            ("régistry.example.com", "not a host name: régistry.example.com"),
            ("registry.example.com\r\nHost: x", "not a host name: registry.example.com\\r\\nhost"),
            ("a b", "not a host name: a b"),
            ("%31.example.com", "not a host name: %31.example.com"),
        ] {
            let answer = parsed(text);
            assert_eq!(answer, format!("invalid --registry-url flag: {expected}"), "{text}");
            assert!(!answer.contains("secret"), "{answer}");
        }
    }

    const NOW: &str = "image-registry.openshift-image-registry.svc:5000";
    const OLD: &str = "172.30.1.1:5000";

    fn chosen(streams: &[(i64, &str)], images: &[&str]) -> Result<String, Failure> {
        choose(None, streams.iter().copied(), images).map(|address| {
            assert_eq!(address.origin, Origin::Streams);
            address.url.to_string()
        })
    }

    #[test]
    fn the_flag_wins_over_everything() {
        let flag = RegistryUrl::parse("https://mine.example.com").unwrap();
        let address =
            choose(Some(&flag), [(1, format!("{NOW}/a/b"))], ["evil.example.com/a/b@sha256:1"]).unwrap();
        assert_eq!(address, Address { url: flag, origin: Origin::Flag });
    }

    #[test]
    fn the_newest_stream_wins_in_any_order() {
        let old = format!("{OLD}/a/b");
        let new = format!("{NOW}/a/c");
        for streams in [[(1, old.as_str()), (2, new.as_str())], [(2, new.as_str()), (1, old.as_str())]] {
            assert_eq!(chosen(&streams, &[&old, &new]).unwrap(), NOW);
        }
        assert_eq!(chosen(&[(3, &old), (2, &new)], &[]).unwrap(), OLD);
        let mut mixed = [(1, new.as_str()), (2, old.as_str()), (3, new.as_str())];
        assert_eq!(chosen(&mixed, &[]).unwrap(), NOW, "a host counts by its newest stream");
        mixed.reverse();
        assert_eq!(chosen(&mixed, &[]).unwrap(), NOW, "a host counts by its newest stream");
        assert_eq!(
            chosen(&[(1, &old), (1, &new)], &[]).unwrap(),
            chosen(&[(1, &new), (1, &old)], &[]).unwrap()
        );
    }

    #[test]
    fn a_host_that_only_images_name_stops_the_run_however_many_say_so() {
        let stream = format!("{NOW}/a/b");
        let evil = "evil.example.com/a/b@sha256:1";
        let failure =
            chosen(&[(1, &stream)], &[evil, evil, evil, &stream, "172.30.1.1:5000/a/b"]).unwrap_err();
        let text = failure.to_string();
        assert!(text.contains("evil.example.com (3 images), 172.30.1.1:5000 (1 image);"), "{text}");
        assert!(text.contains(&format!("hint: if it is the registry: --registry-url={NOW}")), "{text}");
        assert!(!text.contains("--registry-url=evil"), "{text}");
    }

    #[test]
    fn images_alone_never_name_the_registry() {
        let failure = chosen(&[(1, "")], &["evil.example.com/a/b@sha256:1"]).unwrap_err();
        assert!(failure.message.contains("no registry address could be found"), "{failure}");
        assert!(failure.to_string().contains("--registry-url="), "{failure}");
    }

    #[test]
    fn what_names_no_host_is_skipped() {
        let stream = format!("{NOW}/a/b");
        let images =
            ["", "a/b@sha256:1", "library/busybox", "user@evil.example.com/a/b", "1.2/a/b", "busybox"];
        assert_eq!(chosen(&[(1, &stream), (2, "\u{1b}[0m.x/a/b"), (3, "nohost/a")], &images).unwrap(), NOW);
    }

    #[test]
    fn private_addresses_are_those_of_the_documentation() {
        for host in [
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "127.0.0.1",
            "::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "localhost",
        ] {
            assert!(is_private(host), "{host}");
        }
        for host in [
            "169.254.1.1",
            "127.0.0.2",
            "172.32.0.1",
            "172.15.0.1",
            "192.169.0.1",
            "8.8.8.8",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "localhost.example.com",
            "10.example.com",
        ] {
            assert!(!is_private(host), "{host}");
        }
    }
}
