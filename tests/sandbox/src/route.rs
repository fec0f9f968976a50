//! Routes to the registry, and the routers that answer for them.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::cluster::Running;
use crate::log::Server;
use crate::serve::{Body, Handler, Service, Serving, User, full, listen, serve};
use crate::tls::ServerTls;
use crate::workload::{NAME, NAMESPACE};

/// How a route is made.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// Its name.
    pub name: String,
    /// The service that it says it leads to. (It leads to the registry, whatever it says.)
    pub service: String,
    /// What its router shows as certificate; plain http without.
    pub tls: Option<ServerTls>,
    /// Whether a router says that it has admitted it.
    pub admitted: bool,
}

impl RouteConfig {
    /// The operator's own route, with this certificate.
    #[must_use]
    pub fn default_route(tls: ServerTls) -> Self {
        Self { name: "default-route".to_owned(), service: NAME.to_owned(), tls: Some(tls), admitted: true }
    }
}

/// Makes a route and its router. Names below `localhost` do not resolve everywhere, so that each has the host
/// `localhost`, and a port of its own.
pub(crate) fn expose(running: &Arc<Running>, config: &RouteConfig, number: usize) -> (String, Serving) {
    let listener = listen();
    let port = listener.local_addr().expect("the listener's address").port();
    let host = format!("localhost:{port}");
    let service = Service {
        server: Server::Route(number),
        handler: handler(running.clone(), host.clone()),
        faults: running.faults().clone(),
        log: running.log().clone(),
    };
    let serving = serve(running.runtime(), listener, config.tls.clone(), service);
    running.api().store().create("routes", object(config, &host));
    (host, serving)
}

fn object(config: &RouteConfig, host: &str) -> Value {
    let RouteConfig { name, service, tls, admitted } = config;
    let mut spec = json!({
        "host": host,
        "to": { "kind": "Service", "name": service, "weight": 100 },
        "wildcardPolicy": "None",
    });
    if tls.is_some() {
        spec["tls"] = json!({ "termination": "reencrypt" });
    }
    let (status, reason) = if *admitted { ("True", "") } else { ("False", "HostAlreadyClaimed") };
    json!({
        "metadata": { "namespace": NAMESPACE, "name": name },
        "spec": spec,
        "status": { "ingress": [{
            "host": host,
            "routerName": "default",
            "wildcardPolicy": "None",
            "conditions": [{ "type": "Admitted", "status": status, "reason": reason }],
        }] },
    })
}

/// Passes requests for the route's own host on to a replica.
fn handler(running: Arc<Running>, host: String) -> Handler {
    Arc::new(move |request: Request<Bytes>| {
        let (running, host) = (running.clone(), host.clone());
        Box::pin(async move {
            let asked = request.headers().get(HOST).and_then(|host| host.to_str().ok());
            let replica = running.any().filter(|_| asked == Some(host.as_str()));
            let Some(replica) = replica else { return unavailable() };
            let (head, body) = request.into_parts();
            let sequence = running.log().arrived(Server::Registry(replica.number()), &head, &body);
            let answer = replica.handler("https")(Request::from_parts(head, body)).await;
            running.log().update(sequence, |entry| {
                entry.handled = true;
                entry.user = answer.extensions().get::<User>().map(|user| user.0.clone());
                entry.status = Some(answer.status());
            });
            answer
        })
    })
}

/// What a router says for a host that leads nowhere.
fn unavailable() -> Response<Body> {
    let mut answer = Response::new(full("<html><body><h1>Application is not available</h1></body></html>"));
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    answer
}
