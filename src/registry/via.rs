//! By which way the registry is reached: what may be asked for, which failures lead on to the next way, and which routes
//! may be taken. Pure.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address::{Origin, RegistryUrl};
use crate::cause::{Cause, CauseKind};
use crate::text::brief;

/// `--registry-via`: by which way the registry is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Via {
    /// Whichever leads there first: its address, a route, a port-forward.
    #[default]
    Auto,
    /// At its address.
    Direct,
    /// By a route to its service.
    Route,
    /// Through the API server, to one of its pods.
    PortForward,
}

/// One way to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// At its address.
    Direct,
    /// By a route to its service.
    Route,
    /// Through the API server, to one of its pods.
    PortForward,
}

impl Via {
    /// All of them, by the word that asks for them.
    pub const BY_NAME: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("direct", Self::Direct),
        ("route", Self::Route),
        ("port-forward", Self::PortForward),
    ];

    /// The word that asks for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Route => "route",
            Self::PortForward => "port-forward",
        }
    }

    /// What counts where nothing was asked for: whoever names an address means that one.
    pub(super) fn or_default(asked: Option<Self>, origin: Origin) -> Self {
        asked.unwrap_or(match origin {
            Origin::Flag => Self::Direct,
            Origin::Streams => Self::Auto,
        })
    }

    /// The ways that may be tried, in this order.
    pub(super) fn ways(self) -> &'static [Kind] {
        match self {
            Self::Auto => &[Kind::Direct, Kind::Route, Kind::PortForward],
            Self::Direct => &[Kind::Direct],
            Self::Route => &[Kind::Route],
            Self::PortForward => &[Kind::PortForward],
        }
    }
}

/// The way that was taken to the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// At its address.
    Direct,
    /// By a route to its service.
    Route {
        /// The route's name.
        name: String,
    },
    /// Through the API server, to one of its pods; to another one when that is gone.
    PortForward {
        /// The pod that was taken first; absent where replicas alone are spoken to, one by one.
        pod: Option<String>,
    },
}

impl fmt::Display for Way {
    /// Ends a sentence that begins with the registry's URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("directly"),
            Self::Route { name } => write!(f, "by route {}", brief(name)),
            Self::PortForward { pod: Some(pod) } => write!(f, "through a port-forward to pod {}", brief(pod)),
            Self::PortForward { pod: None } => f.write_str("through port-forwards"),
        }
    }
}

/// Where the registry is, and by which way it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryAccess {
    /// The registry's URL, with the scheme that is spoken.
    pub url: String,
    /// `direct`, `route` or `portForward`.
    pub via: &'static str,
    /// The name of the route, if it is reached by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The pod that was taken first, if it is reached by a port-forward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

impl RegistryAccess {
    /// A registry at this URL, reached by this way.
    #[must_use]
    pub fn new(url: String, way: &Way) -> Self {
        let (via, route, pod) = match way {
            Way::Direct => ("direct", None, None),
            Way::Route { name } => ("route", Some(name.clone()), None),
            Way::PortForward { pod } => ("portForward", None, pod.clone()),
        };
        Self { url, via, route, pod }
    }
}

/// A way to the registry, as far as it can be foreseen without asking the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForeseenWay {
    /// The word of `--registry-via` for it: `direct`, `route` or `port-forward`.
    pub via: &'static str,
    /// Whether it seems to lead there.
    pub open: bool,
    /// Where it leads, or why it does not.
    pub detail: String,
}

impl ForeseenWay {
    pub(super) fn new(via: Via, found: Result<String, String>) -> Self {
        let open = found.is_ok();
        Self { via: via.word(), open, detail: found.unwrap_or_else(|why| why) }
    }
}

/// Whether a failure means that this way leads nowhere, so that the next one may be tried.
///
/// Whatever came back from somebody is an answer, and shown: a certificate above all, for whoever stands in between
/// must not be able to choose the way that the token goes.
pub(super) fn leads_on(cause: &Cause) -> bool {
    match cause.kind {
        CauseKind::NoSuchHost
        | CauseKind::Refused
        | CauseKind::Unreachable
        | CauseKind::TimedOut
        // The way to the address is the proxy's, and it found none.
        | CauseKind::Proxy => true,
        CauseKind::Cut
        | CauseKind::NoTls
        | CauseKind::HttpServer
        | CauseKind::MalformedAnswer
        | CauseKind::UnknownAuthority
        | CauseKind::OtherName
        | CauseKind::Certificate
        | CauseKind::Other => false,
    }
}

/// A route by which the registry may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// Its name.
    pub(super) name: String,
    /// Where it leads from, with the only scheme that may be spoken.
    pub(super) url: RegistryUrl,
}

/// The routes of the registry's namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Routes {
    /// Those that may be taken, in the order in which they are tried.
    pub(super) usable: Vec<Route>,
    /// Why each of the others may not, in one line, safe to print.
    pub(super) others: Vec<String>,
}

/// The operator's own route, which comes first.
const DEFAULT_ROUTE: &str = "default-route";

/// Reads a list of routes, and says which of them may be given the token: those that lead to this service and to nothing
/// else, at a host at which a router has admitted them. Who may write such a route into the registry's namespace may
/// read the registry's secrets as well.
///
/// Plain http is for `insecure` (`--force-insecure`) alone, which `--insecure-skip-tls-verify` is not.
pub(super) fn routes(body: &[u8], service: &str, insecure: bool) -> Result<Routes, serde_json::Error> {
    let RouteList { mut items } = serde_json::from_slice(body)?;
    items.sort_by(|left, right| {
        let key = |route: &Object| (route.metadata.name != DEFAULT_ROUTE, route.metadata.name.clone());
        key(left).cmp(&key(right))
    });
    let mut routes = Routes::default();
    for object in items {
        let name = object.metadata.name.clone();
        match object.urls(service, insecure) {
            Ok(urls) => {
                routes.usable.extend(urls.into_iter().map(|url| Route { name: name.clone(), url }));
            }
            Err(why) => routes.others.push(format!("route {}: {why}", brief(&name))),
        }
    }
    Ok(routes)
}

#[derive(Deserialize)]
struct RouteList {
    items: Vec<Object>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Object {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metadata {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    path: String,
    to: Backend,
    alternate_backends: Option<Vec<Backend>>,
    tls: Option<serde_json::Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Backend {
    kind: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    ingress: Option<Vec<Ingress>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Ingress {
    host: String,
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
}

impl Object {
    /// Where it leads from, or why it may not be taken.
    fn urls(&self, service: &str, insecure: bool) -> Result<Vec<RegistryUrl>, String> {
        let Self { spec, status, .. } = self;
        let backends = std::iter::once(&spec.to).chain(spec.alternate_backends.iter().flatten());
        for backend in backends {
            if !matches!(backend.kind.as_str(), "" | "Service") || backend.name != service {
                return Err(format!("it leads to {}", brief(&backend.name)));
            }
        }
        if !matches!(spec.path.as_str(), "" | "/") {
            return Err(format!("it leads only from the path {}", brief(&spec.path)));
        }
        let scheme = match spec.tls {
            Some(_) => "https",
            None if insecure => "http",
            None => {
                return Err(
                    "it is plain http, over which the token goes only with --force-insecure".to_owned()
                );
            }
        };
        let ingresses = status.ingress.iter().flatten();
        let admitted: Vec<&Ingress> = ingresses.filter(|ingress| ingress.is_admitted()).collect();
        if admitted.is_empty() {
            return Err("no router has admitted it".to_owned());
        }
        let urls: Vec<RegistryUrl> = admitted
            .iter()
            .filter_map(|ingress| RegistryUrl::parse(&format!("{scheme}://{}", ingress.host)).ok())
            .collect();
        if urls.is_empty() { Err("it has no host".to_owned()) } else { Ok(urls) }
    }
}

impl Ingress {
    fn is_admitted(&self) -> bool {
        let mut conditions = self.conditions.iter().flatten();
        conditions.any(|condition| condition.r#type == "Admitted" && condition.status == "True")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_what_brought_no_answer_leads_on() {
        let kinds = [
            (CauseKind::NoSuchHost, true),
            (CauseKind::Refused, true),
            (CauseKind::Unreachable, true),
            (CauseKind::TimedOut, true),
            (CauseKind::Proxy, true),
            (CauseKind::Cut, false),
            (CauseKind::NoTls, false),
            (CauseKind::HttpServer, false),
            (CauseKind::MalformedAnswer, false),
            (CauseKind::UnknownAuthority, false),
            (CauseKind::OtherName, false),
            (CauseKind::Certificate, false),
            (CauseKind::Other, false),
        ];
        for (kind, expected) in kinds {
            assert_eq!(leads_on(&Cause::new(kind, "")), expected, "{kind:?}");
        }
    }

    #[test]
    fn whoever_names_an_address_means_that_one() {
        assert_eq!(Via::or_default(None, Origin::Streams), Via::Auto);
        assert_eq!(Via::or_default(None, Origin::Flag), Via::Direct);
        for (word, via) in Via::BY_NAME {
            assert_eq!(Via::or_default(Some(via), Origin::Flag), via);
            assert_eq!(via.word(), word);
        }
    }

    fn admitted(name: &str, host: &str) -> Value {
        json!({
            "metadata": { "name": name },
            "spec": { "to": { "kind": "Service", "name": "image-registry" }, "tls": { "termination": "reencrypt" } },
            "status": { "ingress": [{ "host": host, "conditions": [{ "type": "Admitted", "status": "True" }] }] },
        })
    }

    fn read(routes_of: &[Value], insecure: bool) -> (Vec<String>, Vec<String>) {
        let body = json!({ "items": routes_of }).to_string();
        let Routes { usable, others } = routes(body.as_bytes(), "image-registry", insecure).unwrap();
        (usable.iter().map(|route| format!("{} {}", route.name, route.url)).collect(), others)
    }

    #[test]
    fn the_default_route_comes_first() {
        let mut two_routers = admitted("default-route", "a.example.com");
        let second =
            json!({ "host": "b.example.com", "conditions": [{ "type": "Admitted", "status": "True" }] });
        let third =
            json!({ "host": "c.example.com", "conditions": [{ "type": "Admitted", "status": "False" }] });
        let ingress = two_routers["status"]["ingress"].as_array_mut().unwrap();
        ingress.extend([second, third]);
        let (usable, others) = read(&[admitted("another", "z.example.com"), two_routers], false);
        let expected = [
            "default-route https://a.example.com",
            "default-route https://b.example.com",
            "another https://z.example.com",
        ];
        assert_eq!((usable, others), (expected.map(str::to_owned).to_vec(), Vec::new()));
    }

    #[test]
    fn a_route_must_be_admitted_and_lead_to_the_service_alone() {
        type Change = fn(&mut Value);
        let changed = |change: Change| {
            let mut route = admitted("default-route", "registry.example.com");
            change(&mut route);
            read(&[route], false)
        };
        let cases: [(Change, &str); 9] = [
            (|route| route["status"] = json!({}), "no router has admitted it"),
            (|route| route["status"]["ingress"] = Value::Null, "no router has admitted it"),
            (
                |route| route["status"]["ingress"][0]["conditions"][0]["status"] = "False".into(),
                "no router has admitted it",
            ),
            (
                |route| {
                    route["status"]["ingress"][0]["conditions"][0]["type"] =
                        "UnservableInFutureVersions".into();
                },
                "no router has admitted it",
            ),
            (|route| route["spec"]["to"]["name"] = "other".into(), "it leads to other"),
            (
                |route| route["spec"]["alternateBackends"] = json!([{ "kind": "Service", "name": "canary" }]),
                "it leads to canary",
            ),
            (|route| route["spec"]["path"] = "/v2".into(), "it leads only from the path /v2"),
            (
                |route| route["spec"]["tls"] = Value::Null,
                "it is plain http, over which the token goes only with --force-insecure",
            ),
            (|route| route["status"]["ingress"][0]["host"] = "evil.example.com/x".into(), "it has no host"),
        ];
        for (change, why) in cases {
            let (usable, others) = changed(change);
            assert_eq!((usable, others), (Vec::new(), vec![format!("route default-route: {why}")]));
        }
    }

    #[test]
    fn plain_http_takes_force_insecure() {
        let mut plain = admitted("plain", "registry.example.com");
        plain["spec"].as_object_mut().unwrap().remove("tls");
        assert_eq!(read(&[plain.clone()], true).0, ["plain http://registry.example.com"]);
        assert!(read(&[plain], false).0.is_empty());
        // With TLS it stays TLS.
        let usable = read(&[admitted("a", "registry.example.com")], true).0;
        assert_eq!(usable, ["a https://registry.example.com"]);
    }
}
