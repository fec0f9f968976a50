//! Which proxy a request goes through: the rules of Go's `golang.org/x/net/http/httpproxy`, which kubectl follows.
//!
//! kube compares `NO_PROXY` with the proxy's own address and stumbles over blanks, so it is never asked: the
//! decision is made here and handed over in `Config::proxy_url`.

use std::net::IpAddr;

use http::Uri;

use super::options::Environment;
use crate::error::Failure;

/// The proxy for an API server, from the environment; the kubeconfig's `proxy-url` has precedence over this.
pub(super) fn from_environment(environment: &Environment, server: &Uri) -> Result<Option<Uri>, Failure> {
    let plain = server.scheme_str() == Some("http");
    let names = if plain { ["HTTP_PROXY", "http_proxy"] } else { ["HTTPS_PROXY", "https_proxy"] };
    let Some((name, proxy)) = names.into_iter().find_map(|name| Some((name, environment.variable(name)?)))
    else {
        return Ok(None);
    };
    let no_proxy = ["NO_PROXY", "no_proxy"].into_iter().find_map(|name| environment.variable(name));
    let host = server.host().unwrap_or_default();
    let port = server.port_u16().unwrap_or(if plain { 80 } else { 443 });
    if is_direct(no_proxy.unwrap_or_default(), host, port) {
        return Ok(None);
    }
    parse(proxy).map(Some).map_err(|cause| {
        Failure::nothing_changed(format!("the variable {name} is no proxy URL: {cause}"))
            .hint(format!("set {name}=http://HOST:PORT, or unset it, or add {host} to NO_PROXY"))
    })
}

/// Reads a proxy's URL; without a scheme it is an HTTP proxy. The cause never repeats the URL, which may hold a
/// password.
pub(super) fn parse(text: &str) -> Result<Uri, &'static str> {
    let text = text.trim();
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    // socks5h says that the proxy resolves names, which kube's socks5 does anyway.
    let text = text.strip_prefix("socks5h://").map_or(text.clone(), |rest| format!("socks5://{rest}"));
    let uri: Uri = text.parse().map_err(|_| "not a URL")?;
    match uri.scheme_str() {
        Some("http" | "https" | "socks5") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(uri),
        Some("http" | "https" | "socks5") => Err("no host"),
        _ => Err("the scheme must be http, https or socks5"),
    }
}

/// Whether a host is reached without a proxy: it is this machine, or an entry of `NO_PROXY` matches.
fn is_direct(no_proxy: &str, host: &str, port: u16) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let address = host.parse::<IpAddr>().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    no_proxy
        // Go splits at commas only; a host name has no blanks, so they can only be meant as separators.
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|entry| !entry.is_empty())
        .any(|entry| matches(&entry.to_ascii_lowercase(), &host, address, port))
}

fn matches(entry: &str, host: &str, address: Option<IpAddr>, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some((network, bits)) = parse_cidr(entry) {
        return address.is_some_and(|address| in_network(address, network, bits));
    }
    let (name, wanted) = split_port(entry);
    let port_fits = wanted.is_none_or(|wanted| wanted == port.to_string());
    if let Ok(wanted) = name.parse::<IpAddr>() {
        return port_fits && address.is_some_and(|address| address.to_canonical() == wanted.to_canonical());
    }
    if name.is_empty() || address.is_some() {
        return false;
    }
    // `example.com` means the host and everything below, `.example.com` and `*.example.com` only what is below.
    let below = name.strip_prefix("*.").or_else(|| name.strip_prefix('.'));
    let suffix = below.unwrap_or(name);
    let is_below = host.strip_suffix(suffix).is_some_and(|front| front.ends_with('.'));
    port_fits && (is_below || below.is_none() && host == suffix)
}

/// Splits `host:port` and `[v6]:port`; a bare IPv6 address has no port.
fn split_port(entry: &str) -> (&str, Option<&str>) {
    if let Some((address, tail)) = entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (address, tail.strip_prefix(':').filter(|port| !port.is_empty()));
    }
    match entry.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port).filter(|port| !port.is_empty())),
        _ => (entry, None),
    }
}

fn parse_cidr(entry: &str) -> Option<(IpAddr, u8)> {
    let (network, bits) = entry.split_once('/')?;
    let network: IpAddr = network.parse().ok()?;
    let bits: u8 = bits.parse().ok()?;
    (bits <= if network.is_ipv4() { 32 } else { 128 }).then_some((network, bits))
}

fn in_network(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let bits = u32::from(bits);
    match (address.to_canonical(), network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::test_support::environment;

    #[test]
    fn no_proxy_is_matched_as_go_does() {
        for (no_proxy, host, port, direct) in [
            ("", "api.example.com", 6443, false),
            ("", "localhost", 6443, true),
            ("", "127.0.0.1", 6443, true),
            ("", "[::1]", 6443, true),
            ("*", "api.example.com", 6443, true),
            ("api.example.com", "api.example.com", 6443, true),
            ("api.example.com", "API.Example.COM", 6443, true),
            ("example.com", "api.example.com", 6443, true),
            ("example.com", "example.com", 6443, true),
            ("example.com", "badexample.com", 6443, false),
            (".example.com", "api.example.com", 6443, true),
            (".example.com", "example.com", 6443, false),
            ("*.example.com", "api.example.com", 6443, true),
            ("*.example.com", "example.com", 6443, false),
            ("api.example.com:6443", "api.example.com", 6443, true),
            ("api.example.com:443", "api.example.com", 6443, false),
            (".example.com:6443", "api.example.com", 6443, true),
            ("10.0.0.0/8", "10.1.2.3", 6443, true),
            ("10.0.0.0/8", "11.1.2.3", 6443, false),
            ("10.0.0.0/8", "10.example.com", 6443, false),
            ("0.0.0.0/0", "8.8.8.8", 6443, true),
            ("10.1.2.3", "10.1.2.3", 6443, true),
            ("10.1.2.3:6443", "10.1.2.3", 6443, true),
            ("10.1.2.3:443", "10.1.2.3", 6443, false),
            ("2.3", "10.1.2.3", 6443, false),
            ("fd00::/8", "[fd00::1]", 6443, true),
            ("fd00::1", "[fd00::1]", 6443, true),
            ("[fd00::1]:6443", "[fd00::1]", 6443, true),
            ("[fd00::1]:443", "[fd00::1]", 6443, false),
            (" a.com ,, api.example.com , ", "api.example.com", 6443, true),
            ("a.com api.example.com", "api.example.com", 6443, true),
            (",,", "api.example.com", 6443, false),
            (":6443", "api.example.com", 6443, false),
            ("10.0.0.0/99", "10.1.2.3", 6443, false),
        ] {
            assert_eq!(is_direct(no_proxy, host, port), direct, "NO_PROXY={no_proxy:?} {host}:{port}");
        }
    }

    #[test]
    fn the_variables_are_chosen_by_the_scheme_of_the_server() {
        let environment = environment(&[
            ("HTTPS_PROXY", ""),
            ("https_proxy", "proxy:3128"),
            ("HTTP_PROXY", "http://plain:80"),
            ("no_proxy", "api.internal"),
        ]);
        let proxy = |server: &str| {
            let proxy = from_environment(&environment, &server.parse().unwrap()).unwrap();
            proxy.map(|proxy| proxy.to_string())
        };
        assert_eq!(proxy("https://api.example.com:6443").as_deref(), Some("http://proxy:3128/"));
        assert_eq!(proxy("http://api.example.com").as_deref(), Some("http://plain:80/"));
        assert_eq!(proxy("https://api.internal:6443"), None);
    }

    #[test]
    fn a_bad_proxy_is_named_without_its_password() {
        let environment = environment(&[("HTTPS_PROXY", "ftp://me:geheim@proxy")]);
        let failure = from_environment(&environment, &"https://api:6443".parse().unwrap()).unwrap_err();
        assert_eq!(
            failure.message,
            "the variable HTTPS_PROXY is no proxy URL: the scheme must be http, https or socks5"
        );
        assert!(!failure.to_string().contains("geheim"));
        assert_eq!(parse("socks5h://p:1080").unwrap().to_string(), "socks5://p:1080/");
    }
}
