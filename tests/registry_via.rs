//! By which way the registry is reached: at its address, by a route, through the API server; and who is never given the
//! token.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use common::planned::{head_everywhere, planned_layers};
use common::{Plugin, Ran};
use http::Method;
use sandbox::api::{Rule, port_forwarder, route_reader, service_ca_reader};
use sandbox::example::Example;
use sandbox::fault::{Action, Fault};
use sandbox::log::{Entry, Server};
use sandbox::tls::Authority;
use sandbox::{Cluster, ClusterConfig, RouteConfig};
use serde_json::json;

const REPLICAS: usize = 3;

/// What the image streams of every cluster name, and nothing outside of it resolves.
const INTERNAL: &str = "image-registry.openshift-image-registry.svc:5000";

/// The same without the port.
const SERVICE: &str = "image-registry.openshift-image-registry.svc";

/// A cluster seen from outside: the registry's name does not resolve, its pods cannot be reached, and its certificates
/// and those of the routes are signed by other authorities than the API server's.
struct Site {
    cluster: Arc<Cluster>,
    router: Authority,
}

impl Site {
    fn start(rights: &[Rule]) -> Self {
        Self::with(rights, |_| ())
    }

    fn with(rights: &[Rule], change: impl FnOnce(&mut ClusterConfig)) -> Self {
        let mut config = ClusterConfig {
            replicas: REPLICAS,
            pods_reachable: false,
            host: Some(INTERNAL.to_owned()),
            service_authority: Some(Authority::new("service")),
            service_names: vec![SERVICE.to_owned()],
            ..ClusterConfig::default()
        };
        change(&mut config);
        let cluster = Cluster::start(config);
        cluster.block_on(Example::build(&cluster)).unwrap();
        for rule in rights {
            cluster.sandbox().access().grant("pruner", rule.clone());
        }
        Self { cluster: Arc::new(cluster), router: Authority::new("router") }
    }

    /// A route that an administrator would use; returns its host.
    fn expose(&self) -> String {
        self.cluster.expose(&RouteConfig::default_route(self.router.server(&["localhost"])))
    }

    fn plugin(&self, args: &[&str]) -> Plugin {
        let plugin = Plugin::new();
        let kubeconfig = self.cluster.kubeconfig(plugin.home(), "pruner");
        let plugin = plugin.file("router.crt", self.router.pem());
        // The system trusts the router, as it trusts those with a certificate that anybody accepts.
        let roots = plugin.home().join("router.crt");
        plugin.env("SSL_CERT_FILE", roots).args(args).arg("--kubeconfig").arg(kubeconfig)
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.plugin(args).run()
    }

    /// Asks every replica for what a dry run plans to delete, so that they all remember it.
    fn warm_up(&self) -> Vec<(String, String)> {
        let plan = self.run(&["-o", "json"]).exits(0).json();
        assert_eq!(plan["metadata"].get("registry"), None, "a dry run needs none");
        let planned = planned_layers(&plan);
        assert!(self.ask(&planned).iter().all(|status| *status == 200));
        planned
    }

    /// The answers of the replicas that are served to HEAD of these blobs.
    fn ask(&self, blobs: &[(String, String)]) -> Vec<u16> {
        head_everywhere(&self.cluster, blobs)
    }

    #[track_caller]
    fn is_fresh(&self, blobs: &[(String, String)]) {
        let answers = self.ask(blobs);
        assert!(answers.iter().all(|status| *status == 404), "{answers:?}");
    }

    fn log(&self, predicate: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        self.cluster.sandbox().request_log().filter(predicate)
    }

    /// What has been asked of the replicas up to now.
    fn mark(&self) -> usize {
        self.cluster.sandbox().request_log().len()
    }

    /// Fails if anything but the API server was shown the token since then.
    #[track_caller]
    fn nobody_was_given_the_token(&self, since: usize) {
        let shown =
            self.log(|entry| entry.sequence >= since && entry.server != Server::Api && entry.authorized);
        assert!(shown.is_empty(), "{shown:#?}");
    }

    /// Fails unless each replica was told to forget each of these blobs: the one that deleted it once more.
    #[track_caller]
    fn every_replica_was_told(&self, blobs: &[(String, String)]) {
        for (_, digest) in blobs {
            let path = format!("/admin/blobs/{digest}");
            let told = |entry: &Entry| entry.method == Method::DELETE && entry.path == path;
            let told = self.log(|entry| matches!(entry.server, Server::Registry(_)) && told(entry));
            let replicas: Vec<Server> = told.iter().map(|entry| entry.server).collect();
            let again = told.iter().skip(1).map(|entry| entry.server).collect::<HashSet<_>>();
            assert_eq!(again.len(), self.cluster.serving().len(), "{digest} was deleted at {replicas:?}");
        }
    }
}

/// All that a run from outside may need.
fn all_rights() -> [Rule; 3] {
    [route_reader(), port_forwarder(), service_ca_reader()]
}

#[test]
fn at_its_address() {
    let site = Site::with(&[], |config| {
        *config = ClusterConfig { replicas: REPLICAS, ..ClusterConfig::default() };
    });
    let planned = site.warm_up();
    let ran = site.run(&["--confirm", "-o", "json"]).exits(0);
    let url = site.cluster.registry_url(0);
    assert_eq!(ran.json()["metadata"]["registry"], json!({ "url": url, "via": "direct" }));
    ran.says(&format!("Registry: {url}, reached directly\n"));
    site.is_fresh(&planned);
    site.every_replica_was_told(&planned);
    let asked = site.log(|entry| entry.path.contains("/routes") || entry.path.contains("/portforward"));
    assert!(asked.is_empty(), "{asked:#?}");
}

#[test]
fn by_a_route_where_only_that_answers() {
    let site = Site::start(&all_rights());
    let host = site.expose();
    let planned = site.warm_up();
    let ran = site.run(&["--confirm", "-o", "json"]).exits(0);
    let registry = json!({ "url": format!("https://{host}"), "via": "route", "route": "default-route" });
    assert_eq!(ran.json()["metadata"]["registry"], registry);
    assert_eq!(ran.json()["cache"]["step"], "evict", "{ran}");
    ran.says(&format!("Registry: https://{host}, reached by route default-route\n"));
    assert!(!site.log(|entry| entry.server == Server::Route(0) && entry.method == Method::DELETE).is_empty());
    site.is_fresh(&planned);
    site.every_replica_was_told(&planned);
}

#[test]
fn through_the_api_server_where_nothing_else_answers() {
    // Neither may routes be listed.
    let site = Site::start(&[port_forwarder(), service_ca_reader()]);
    let planned = site.warm_up();
    let ran = site.run(&["--confirm", "-o", "json"]).exits(0);
    let registry = &ran.json()["metadata"]["registry"];
    let pod = registry["pod"].as_str().unwrap();
    assert_eq!(
        (&registry["url"], &registry["via"]),
        (&format!("https://{SERVICE}").into(), &"portForward".into())
    );
    assert!(site.cluster.replica_of_pod(pod).is_some(), "{pod}");
    assert_eq!(ran.json()["cache"]["step"], "evict", "{ran}");
    ran.says(&format!("Registry: https://{SERVICE}, reached through a port-forward to pod {pod}\n"));
    site.is_fresh(&planned);
    site.every_replica_was_told(&planned);
}

#[test]
fn the_status_says_which_ways_there_are() {
    let site = Site::start(&[route_reader()]);
    let host = site.expose();
    let before = site.mark();
    let ways = |status: &Ran| {
        let ways = status.json()["ways"].as_array().unwrap().clone();
        ways.into_iter().map(|way| (way["open"].clone(), way["detail"].clone())).collect::<Vec<_>>()
    };
    let found = ways(&site.run(&["cache", "status", "-o", "json"]).exits(0));
    assert_eq!(found[0], (false.into(), format!("{INTERNAL}: no such host").into()));
    assert_eq!(found[1], (true.into(), format!("route default-route: https://{host}").into()));
    let right = "a right is missing: get pods/portforward in namespace openshift-image-registry";
    assert_eq!(found[2], (false.into(), right.into()));
    site.nobody_was_given_the_token(before);
    site.cluster.sandbox().access().grant("pruner", port_forwarder());
    let pod = site.cluster.pod_name(0);
    site.run(&["cache", "status"])
        .exits(0)
        .prints("Ways to the registry, of which the first that leads there is taken:\n  direct ")
        .prints(&format!("  yes  route default-route: https://{host}\n"))
        .prints(&format!("  yes  pod {pod}\n"));
}

#[test]
fn one_way_can_be_forced() {
    let site = Site::start(&all_rights());
    let host = site.expose();
    let before = site.mark();
    site.run(&["--confirm", "--registry-via=direct"])
        .exits(1)
        .says("error: failed to ping registry image-registry.openshift-image-registry.svc:5000: ")
        .says("no such host")
        .says("hint: reach it by a route, or else through the API server: --registry-via=auto\n");
    assert!(site.log(|entry| entry.sequence >= before && entry.path.contains("/routes")).is_empty());
    site.nobody_was_given_the_token(before);
    // An address that is named is the only one, too, unless the way is named as well.
    site.run(&["--confirm", "--registry-url=https://127.0.0.1:1"])
        .exits(1)
        .says("error: failed to ping registry https://127.0.0.1:1: ")
        .says("connection refused")
        .says("hint: reach it by a route, or else through the API server: --registry-via=auto\n");
    site.nobody_was_given_the_token(before);
    site.run(&[
        "--confirm",
        "--registry-url=https://127.0.0.1:1",
        "--registry-via=port-forward",
        "--prune-registry",
    ])
    .exits(0)
    .says(&format!("Registry: https://{SERVICE}, reached through a port-forward to pod "));
    site.run(&["--confirm", "--registry-url=https://127.0.0.1:1", "--registry-via=auto"])
        .exits(0)
        .says(&format!("Registry: https://{host}, reached by route default-route\n"));
    site.run(&["--confirm", "--registry-url=https://127.0.0.1:1", "--registry-via=route"])
        .exits(2)
        .says("error: --registry-url cannot be specified with --registry-via=route\n");
}

#[test]
fn what_is_missing_for_each_way_is_said() {
    let site = Site::start(&[]);
    let before = site.mark();
    let route_right = "oc create role prune-images-list-routes --verb=list --resource=routes.route.openshift.io \
                       -n openshift-image-registry && oc adm policy add-role-to-user prune-images-list-routes <user> \
                       --role-namespace=openshift-image-registry -n openshift-image-registry";
    let forward_right = "oc create role prune-images-get-create-pods-portforward --verb=get,create \
                         --resource=pods/portforward -n openshift-image-registry && oc adm policy \
                         add-role-to-user prune-images-get-create-pods-portforward <user> \
                         --role-namespace=openshift-image-registry -n openshift-image-registry";
    site.run(&["--confirm"])
        .exits(1)
        .says("error: failed to ping registry image-registry.openshift-image-registry.svc:5000: ")
        .says("\n  find a route to service image-registry in namespace openshift-image-registry: forbidden: ")
        .says("\n  open a port-forward to the registry: pod image-registry-")
        .says(&format!("hint: for a route a right is missing: {route_right}\n"))
        .says(&format!("hint: for a port-forward a right is missing: {forward_right}\n"));
    site.run(&["--confirm", "--registry-via=route"])
        .exits(1)
        .says("error: find a route to service image-registry in namespace openshift-image-registry: forbidden: ")
        .says(&format!("hint: for a route a right is missing: {route_right}\n"))
        .says("hint: or go through the API server: --registry-via=port-forward\n");
    site.run(&["--confirm", "--registry-via=port-forward"])
        .exits(1)
        .says("error: open a port-forward to the registry: pod image-registry-")
        .says(&format!("hint: for a port-forward a right is missing: {forward_right}\n"));
    site.nobody_was_given_the_token(before);
    assert!(site.log(|entry| entry.sequence >= before && entry.is_mutation()).is_empty());
    site.cluster.sandbox().access().grant("pruner", route_reader());
    site.run(&["--confirm", "--registry-via=route"])
        .exits(1)
        .says("error: find a route to service image-registry in namespace openshift-image-registry: there is none\n")
        .says("hint: make a route if there is none: oc patch configs.imageregistry");
}

#[test]
fn a_refused_certificate_ends_it() {
    let site = Site::start(&all_rights());
    site.expose();
    // Verified, and signed by the authority of the services, which a kubeconfig does not have.
    let direct = site.cluster.registry_url(0);
    let before = site.mark();
    site.run(&["--confirm", "--registry-via=auto", &format!("--registry-url={direct}")])
        .exits(1)
        .says(&format!("error: failed to ping registry {direct}: "))
        .says("certificate signed by unknown authority");
    let went_on = site.log(|entry| {
        entry.sequence >= before
            && (matches!(entry.server, Server::Route(_))
                || entry.path.contains("/routes")
                || entry.path.contains("/portforward"))
    });
    assert!(went_on.is_empty(), "{went_on:#?}");
    site.nobody_was_given_the_token(before);
    // The same for a route, whatever a port-forward would find.
    site.plugin(&["--confirm"])
        .env("SSL_CERT_FILE", "/dev/null")
        .run()
        .exits(1)
        .says("(by route default-route): ")
        .says("certificate signed by unknown authority")
        .says("hint: or go through the API server: --registry-via=port-forward\n");
    site.nobody_was_given_the_token(before);
    assert!(site.log(|entry| entry.sequence >= before && entry.path.contains("/portforward")).is_empty());
}

#[test]
fn a_pod_must_show_the_certificate_of_the_service() {
    let only_forward = &["--confirm", "--registry-via=port-forward"];
    let site = Site::start(&[port_forwarder()]);
    let before = site.mark();
    site.run(only_forward)
        .exits(1)
        .says(&format!("error: failed to ping registry {SERVICE} (through a port-forward to pod image-registry-"))
        .says("certificate signed by unknown authority")
        .says("hint: or give the right to read the service CA: oc create role prune-images-get-configmaps-openshift-service-ca.crt ");
    site.nobody_was_given_the_token(before);
    let plugin = site.plugin(only_forward);
    let ca = site.cluster.sandbox().store().get(
        "configmaps",
        "openshift-image-registry",
        "openshift-service-ca.crt",
    );
    let ca = ca.unwrap()["data"]["service-ca.crt"].as_str().unwrap().to_owned();
    plugin.file("service.crt", ca).arg("--certificate-authority=service.crt").run().exits(0);

    let site = Site::with(&[port_forwarder(), service_ca_reader()], |config| {
        config.service_names = vec!["elsewhere.example.com".to_owned()];
    });
    let before = site.mark();
    site.run(only_forward)
        .exits(1)
        .says(&format!("certificate is valid for elsewhere.example.com, not {SERVICE}"))
        .says("the token was not sent");
    site.nobody_was_given_the_token(before);
}

#[test]
fn another_pod_is_taken_when_one_is_gone() {
    let site = Site::start(&[port_forwarder(), service_ca_reader()]);
    let planned = site.warm_up();
    let cluster = site.cluster.clone();
    let gone = Arc::new(std::sync::OnceLock::new());
    let first = gone.clone();
    // The pod that gets the second deletion ends before it has done it.
    let hook = Action::hook(move || {
        let log = cluster.sandbox().request_log();
        let deletions = log.filter(|entry| entry.method == Method::DELETE);
        let Some(Server::Registry(replica)) = deletions.first().map(|entry| entry.server) else { return };
        if first.set(replica).is_ok() {
            cluster.stop_replica(replica);
        }
    });
    site.cluster.sandbox().faults().add(Fault::new(hook).method(Method::DELETE).skip(1).times(1));
    let ran = site.run(&["--confirm", "-o", "json"]).exits(0);
    let before = site.cluster.pod_name(*gone.get().unwrap());
    assert_eq!(ran.json()["metadata"]["registry"]["pod"], before);
    ran.says("warning: the registry is now reached through a port-forward to pod image-registry-")
        .says(&format!(": pod {before} is no longer there or ready\n"));
    assert_eq!(site.cluster.serving().len(), REPLICAS - 1);
    site.is_fresh(&planned);
}

#[test]
fn only_an_admitted_route_with_tls_is_given_the_token() {
    let site = Site::start(&all_rights());
    let router = site.router.server(&["localhost"]);
    let route = RouteConfig::default_route(router.clone());
    let unadmitted = RouteConfig { admitted: false, ..route.clone() };
    let elsewhere = RouteConfig { name: "a".to_owned(), service: "other".to_owned(), ..route.clone() };
    let plain = RouteConfig { name: "b".to_owned(), tls: None, ..route };
    for route in [&unadmitted, &elsewhere, &plain] {
        site.cluster.expose(route);
    }
    let before = site.mark();
    site.run(&["--confirm", "--registry-via=route"]).exits(1).says(
        "route default-route: no router has admitted it; route a: it leads to other; \
               route b: it is plain http, over which the token goes only with --force-insecure\n",
    );
    site.run(&["--confirm"]).exits(0).says("reached through a port-forward to pod ");
    let asked = site.log(|entry| entry.sequence >= before && matches!(entry.server, Server::Route(_)));
    assert!(asked.is_empty(), "{asked:#?}");
    site.run(&["--confirm", "--registry-via=route", "--force-insecure"])
        .exits(0)
        .says("warning: insecure connection to the registry localhost:")
        .says("reached by route b\n");
    let given = |number| site.log(|entry| entry.server == Server::Route(number) && entry.authorized).len();
    assert_eq!((given(0), given(1)), (0, 0));
    assert!(given(2) > 0);
}

#[test]
fn replicas_are_asked_one_by_one_whatever_the_way() {
    let site = Site::with(&all_rights(), |config| config.pods_reachable = true);
    site.cluster
        .sandbox()
        .access()
        .grant("pruner", Rule::new(&["get"], &["image.openshift.io"], &["imagestreams/layers"]));
    site.warm_up();
    let result = site.run(&["--confirm", "-o", "json", "--registry-via=port-forward"]).exits(0);
    let ask = |via: &str| {
        let before = site.mark();
        let check = site.plugin(&["cache", "check", "--from=result.json", via]);
        check.file("result.json", &result.stdout).run().exits(0);
        let forwards = site.log(|entry| entry.sequence >= before && entry.path.contains("/portforward"));
        forwards.into_iter().map(|entry| entry.path).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(ask("--registry-via=direct"), 0, "their addresses can be reached");
    assert_eq!(ask("--registry-via=route"), 0, "a route leads to no certain one of them");
    assert_eq!(ask("--registry-via=port-forward"), REPLICAS);
}
