//! Finds the way to the registry and goes it: to its address, by a route, through the API server. Which failures lead on
//! to the next way is decided in `via.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use super::address::{Address, Scheme, choose};
use super::client::{Registry, token};
use super::connect::{
    BY_PORT_FORWARD, EXPOSE, Further, OTHER_WAYS, Path, ROUTE, Settings, Trouble, try_connect,
};
use super::pods::{NoPod, Pods};
use super::via::{ForeseenWay, Kind, Routes, Via, Way, routes};
use crate::cache::detect::{self, Need, Place, Rule};
use crate::cause::Cause;
use crate::cluster::{ApiError, ApiRequest, Cluster, Refresh, Retry};
use crate::error::Failure;
use crate::text::sanitize;

/// The API group of routes.
const ROUTE_GROUP: &str = "route.openshift.io";

/// The object that holds the authority of the services, in each namespace, and its key.
const SERVICE_CA: (&str, &str) = ("openshift-service-ca.crt", "service-ca.crt");

/// Reaches the registry by the first way that leads there, of those that `settings.via` allows, and logs in.
///
/// Without `via` that is each of them for an address that the image streams name, and none but the direct one for an
/// address that the administrator names.
///
/// # Errors
///
/// Those of [`super::connect`] for a way that brought an answer; else what failed on each way, and which right or flag
/// would help. Nothing was changed.
pub async fn reach(cluster: &Cluster, place: &Place, settings: Settings) -> Result<Registry, Failure> {
    token(&cluster.token_source(), Refresh::Cached).await?;
    let via = Via::or_default(settings.via, settings.address.origin);
    let mut before: Vec<Failure> = Vec::new();
    // Old clusters have it elsewhere.
    let found = OnceCell::new();
    let whereabouts = async || found.get_or_init(|| detect::whereabouts(cluster, place)).await;
    for way in via.ways() {
        let went = match way {
            Kind::Direct => try_connect(settings.clone(), cluster.token_source()).await,
            Kind::Route => by_route(cluster, &whereabouts().await.0, &settings).await,
            Kind::PortForward => by_port_forward(cluster, whereabouts().await.clone(), &settings).await,
        };
        match went {
            Ok(registry) => return Ok(registry),
            Err(Trouble { failure, leads_on: true }) => {
                tracing::info!("the registry is not reached by this way: {}", failure.message);
                before.push(failure);
            }
            Err(Trouble { failure, leads_on: false }) => return Err(failure),
        }
    }
    Err(nowhere(via, before))
}

/// None of the ways leads to the registry.
fn nowhere(via: Via, failures: Vec<Failure>) -> Failure {
    let mut all = failures.into_iter();
    // Each `Via` has a way at least.
    let Some(mut failure) = all.next() else { return Failure::nothing_changed("failed to ping registry") };
    for other in all {
        failure.message.push_str("\n  ");
        failure.message.push_str(&other.message);
        failure.hints.extend(other.hints);
    }
    if via == Via::Auto {
        // They have been looked for.
        failure.hints.retain(|hint| ![OTHER_WAYS, ROUTE, BY_PORT_FORWARD].contains(&hint.as_str()));
    }
    let mut seen = Vec::new();
    failure.hints.retain(|hint| {
        let is_new = !seen.contains(hint);
        seen.push(hint.clone());
        is_new
    });
    failure
}

/// Tries the routes that may be taken, in order.
async fn by_route(cluster: &Cluster, place: &Place, settings: &Settings) -> Result<Registry, Trouble> {
    let Place { namespace, deployment: service } = place;
    let none = |why: &str| {
        Failure::nothing_changed(format!("find a route to service {service} in namespace {namespace}: {why}"))
    };
    let leads_on = |failure: Failure| Trouble { failure, leads_on: true };
    let found = match routes_of(cluster, place, settings.force_insecure).await {
        Ok(found) => found,
        Err((why, rule)) => {
            let right = rule.map(|rule| format!("for a route a right is missing: {}", rule.command()));
            let hints = right.into_iter().chain([BY_PORT_FORWARD.to_owned()]);
            return Err(leads_on(hints.fold(none(&why), Failure::hint)));
        }
    };
    if found.usable.is_empty() {
        let why = if found.others.is_empty() { "there is none".to_owned() } else { found.others.join("; ") };
        return Err(leads_on(none(&why).hint(EXPOSE).hint(BY_PORT_FORWARD)));
    }
    let mut failures = Vec::new();
    for route in found.usable {
        let address = Address { url: route.url, origin: settings.address.origin };
        let path = Path { way: Way::Route { name: route.name }, pods: None, further: Further::System };
        let settings = Settings { address, path, ..settings.clone() };
        match try_connect(settings, cluster.token_source()).await {
            Err(Trouble { failure, leads_on: true }) => failures.push(failure.hint(BY_PORT_FORWARD)),
            other => return other,
        }
    }
    Err(leads_on(nowhere(Via::Route, failures)))
}

/// Lists the routes that may be taken, and the others; else why not, and the right that is missing, if one is.
async fn routes_of(
    cluster: &Cluster,
    place: &Place,
    insecure: bool,
) -> Result<Routes, (String, Option<Rule>)> {
    let Place { namespace, deployment: service } = place;
    let path = format!("/apis/{ROUTE_GROUP}/v1/namespaces/{namespace}/routes");
    let answer = cluster.request(ApiRequest::get(path)).await.map_err(|error| {
        let rule = Need::list_routes(place).rule;
        let rule = matches!(error, ApiError::Forbidden { .. }).then_some(rule);
        (sanitize(&error.to_string()), rule)
    })?;
    routes(&answer.body, service, insecure)
        .map_err(|error| (format!("the answer cannot be decoded: {}", sanitize(&error.to_string())), None))
}

/// Goes to a pod that is ready.
async fn by_port_forward(
    cluster: &Cluster,
    (place, selector): (Place, String),
    settings: &Settings,
) -> Result<Registry, Trouble> {
    let pods = Pods::new(cluster.clone(), place, selector, settings.announce.clone());
    let pod = match pods.dial().await {
        Ok((_, pod)) => pod,
        Err(no_pod) => return Err(Trouble { failure: no_way(pods.place(), &no_pod), leads_on: true }),
    };
    let name = pods.place().certificate_name(settings.address.url.host());
    let address = Address { url: settings.address.url.of_service(&name), origin: settings.address.origin };
    let further = match address.url.scheme() {
        Some(Scheme::Http) => Further::None,
        _ => Further::Service(service_ca(cluster, pods.place()).await),
    };
    let path = Path { way: Way::PortForward { pod: Some(pod) }, pods: Some(pods), further };
    let settings = Settings { address, path, ..settings.clone() };
    try_connect(settings, cluster.token_source()).await
}

fn no_way(place: &Place, no_pod: &NoPod) -> Failure {
    let failure = Failure::nothing_changed(format!("open a port-forward to the registry: {}", no_pod.why));
    failure.hint(match no_pod.missing.as_slice() {
        [] => format!("see how its pods are: oc get pods -n {}", place.namespace),
        missing => format!("for a port-forward a right is missing: {}", Rule::command_of(missing)),
    })
}

/// How long an address has to take a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// By which ways the registry could be reached from here, in the order in which they are tried: `pod` is the one that a
/// port-forward would lead to, or why there is none. The registry is not asked, nor is the token shown to anybody.
pub async fn foresee(cluster: &Cluster, place: &Place, pod: Result<String, String>) -> Vec<ForeseenWay> {
    let (direct, route) = join(address(cluster), routes_of(cluster, place, false)).await;
    let route = match route {
        Ok(Routes { usable, others }) => match usable.into_iter().next() {
            Some(route) => Ok(format!("route {}: {}", route.name, route.url)),
            None if others.is_empty() => Err("there is none".to_owned()),
            None => Err(others.join("; ")),
        },
        Err((why, rule)) => Err(rule.map_or(why, |rule| format!("a right is missing: {rule}"))),
    };
    vec![
        ForeseenWay::new(Via::Direct, direct),
        ForeseenWay::new(Via::Route, route),
        ForeseenWay::new(Via::PortForward, pod),
    ]
}

/// The registry's address as a stream names it, if it takes connections.
async fn address(cluster: &Cluster) -> Result<String, String> {
    #[derive(serde::Deserialize)]
    struct List {
        items: Vec<Stream>,
    }
    #[derive(serde::Deserialize)]
    struct Stream {
        #[serde(default)]
        status: Status,
    }
    #[derive(serde::Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Status {
        docker_image_repository: String,
    }
    let request = ApiRequest::get("/apis/image.openshift.io/v1/imagestreams?limit=1");
    let answer = cluster.request(request).await.map_err(|error| sanitize(&error.to_string()))?;
    let list: List = serde_json::from_slice(&answer.body).map_err(|error| sanitize(&error.to_string()))?;
    let named = list.items.into_iter().map(|stream| (0, stream.status.docker_image_repository));
    let none: [&str; 0] = [];
    let Ok(Address { url, .. }) = choose(None, named, none) else {
        return Err("no image stream names it".to_owned());
    };
    let connection = TcpStream::connect((url.host(), url.port().unwrap_or(443)));
    match tokio::time::timeout(CONNECT, connection).await {
        Ok(Ok(_)) => Ok(url.to_string()),
        Ok(Err(error)) => Err(format!("{url}: {}", Cause::of(&error))),
        Err(_) => Err(format!("{url}: no connection within {CONNECT:?}")),
    }
}

/// Reads the authority that signs the certificates of services (PEM), from the registry's own namespace: into that one
/// nobody writes who may not read the registry's secrets.
///
/// # Errors
///
/// It is not there, or cannot be read: with the right that is missing, if one is.
pub async fn service_ca(cluster: &Cluster, place: &Place) -> Result<Vec<u8>, Option<Rule>> {
    #[derive(serde::Deserialize)]
    struct Authority {
        data: BTreeMap<String, String>,
    }
    let (name, key) = SERVICE_CA;
    let path = format!("/api/v1/namespaces/{}/configmaps/{name}", place.namespace);
    let request = ApiRequest { retry: Retry::Never, ..ApiRequest::get(path) };
    let answer = cluster.request(request).await.map_err(|error| {
        let rule = Need::read_authority(place).rule;
        matches!(error, ApiError::Forbidden { .. }).then_some(rule)
    })?;
    let mut authority: Authority = serde_json::from_slice(&answer.body).map_err(|_| None)?;
    authority.data.remove(key).map(String::into_bytes).ok_or(None)
}
