//! Patches and evictions, as kubectl and oc send them.
#![expect(clippy::unwrap_used, reason = "helpers of tests are no tests to clippy")]

use http::{Method, StatusCode};
use sandbox::api::{
    Rule, evictor, operator_configurator, port_forwarder, pruner_and, restarter, settings_reader,
};
use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

const NAMESPACE: &str = "openshift-image-registry";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/openshift-image-registry/deployments/image-registry";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";

struct Answer {
    status: StatusCode,
    body: Value,
}

struct Fixture {
    sandbox: Sandbox,
    http: reqwest::Client,
}

impl Fixture {
    fn start(config: Config) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let sandbox = Sandbox::start(Config { tls: false, ..config });
        Self { sandbox, http: reqwest::Client::new() }
    }

    async fn send(&self, user: &str, method: Method, path: &str, kind: &str, body: &Value) -> Answer {
        let request = self
            .http
            .request(method, format!("{}{path}", self.sandbox.api_url()))
            .bearer_auth(self.sandbox.token(user))
            .header("content-type", kind)
            .body(body.to_string());
        let answer = request.send().await.unwrap();
        let status = answer.status();
        Answer { status, body: serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap() }
    }

    async fn patch(&self, kind: &str, path: &str, body: Value) -> Answer {
        self.send("admin", Method::PATCH, path, kind, &body).await
    }

    async fn evict(&self, user: &str, pod: &str, options: Value) -> Answer {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction");
        let body = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": { "namespace": NAMESPACE, "name": pod },
            "deleteOptions": options,
        });
        self.send(user, Method::POST, &path, "application/json", &body).await
    }

    fn deployment(&self, replicas: usize) {
        self.sandbox.store().create(
            "deployments",
            json!({
                "metadata": { "namespace": NAMESPACE, "name": "image-registry", "generation": 1 },
                "spec": {
                    "replicas": replicas,
                    "template": {
                        "metadata": { "labels": { "docker-registry": "default" } },
                        "spec": { "containers": [{
                            "name": "registry",
                            "env": [
                                { "name": "A", "value": "1" },
                                { "name": "B", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } },
                            ],
                        }] },
                    },
                },
            }),
        );
    }

    fn pod(&self, name: &str, ready: bool) {
        self.sandbox.store().create(
            "pods",
            json!({
                "metadata": { "namespace": NAMESPACE, "name": name, "labels": { "docker-registry": "default" } },
                "spec": { "nodeName": "worker-0" },
                "status": {
                    "phase": "Running",
                    "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
                },
            }),
        );
    }

    fn budget(&self, spec: &Value) {
        let mut object =
            json!({ "metadata": { "namespace": NAMESPACE, "name": "image-registry" }, "spec": spec });
        object["spec"]["selector"] = json!({ "matchLabels": { "docker-registry": "default" } });
        let store = self.sandbox.store();
        store.delete("poddisruptionbudgets", NAMESPACE, "image-registry");
        store.create("poddisruptionbudgets", object);
    }
}

#[tokio::test]
async fn a_restart_annotation_makes_a_new_generation_and_an_annotation_of_the_deployment_does_not() {
    let fixture = Fixture::start(Config::default());
    fixture.deployment(1);
    let restart = json!({ "spec": { "template": { "metadata": {
        "annotations": { "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z" },
    } } } });
    for kind in [STRATEGIC, MERGE] {
        let answer = fixture.patch(kind, DEPLOYMENT, restart.clone()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        assert_eq!(answer.body["metadata"]["generation"], 2);
        let template = &answer.body["spec"]["template"];
        assert_eq!(template["metadata"]["labels"], json!({ "docker-registry": "default" }));
        assert_eq!(template["spec"]["containers"][0]["env"].as_array().unwrap().len(), 2);
    }
    let note = json!({ "metadata": { "annotations": { "note": "x" } } });
    let answer = fixture.patch(STRATEGIC, DEPLOYMENT, note).await;
    assert_eq!(answer.body["metadata"]["generation"], 2);
    assert_eq!(answer.body["metadata"]["annotations"]["note"], "x");
}

#[tokio::test]
async fn variables_are_merged_by_name_strategically_and_replaced_otherwise() {
    let fixture = Fixture::start(Config::default());
    fixture.deployment(1);
    let env = |variables: Value| json!({ "spec": { "template": { "spec": { "containers": [{ "name": "registry", "env": variables }] } } } });
    let answer = fixture.patch(STRATEGIC, DEPLOYMENT, env(json!([{ "name": "C", "value": "3" }]))).await;
    let names = |answer: &Answer| -> Vec<String> {
        let variables = answer.body["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
        variables.iter().map(|variable| variable["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&answer), ["A", "B", "C"]);
    // A value does not push a reference aside.
    let answer = fixture.patch(STRATEGIC, DEPLOYMENT, env(json!([{ "name": "B", "value": "2" }]))).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.body);
    let cleared = json!([{ "name": "B", "value": "2", "valueFrom": null }]);
    let answer = fixture.patch(STRATEGIC, DEPLOYMENT, env(cleared)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let gone = json!([{ "name": "A", "$patch": "delete" }]);
    let answer = fixture.patch(STRATEGIC, DEPLOYMENT, env(gone)).await;
    assert_eq!(names(&answer), ["B", "C"]);
    let answer = fixture.patch(MERGE, DEPLOYMENT, env(json!([{ "name": "D", "value": "4" }]))).await;
    assert_eq!(names(&answer), ["D"]);

    let step = |op: &str, value: &str| json!([{ "op": op, "path": "/spec/template/spec/containers/0/env/0/value", "value": value }]);
    let answer = fixture.patch(JSON_PATCH, DEPLOYMENT, step("test", "5")).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let answer = fixture.patch(JSON_PATCH, DEPLOYMENT, step("replace", "5")).await;
    assert_eq!(answer.body["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"], "5");
    let answer = fixture.patch("application/json", DEPLOYMENT, json!({})).await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn stale_writes_conflict() {
    let fixture = Fixture::start(Config::default());
    fixture.deployment(1);
    let old = fixture.sandbox.store().get("deployments", NAMESPACE, "image-registry").unwrap();
    let scale =
        |version: &Value| json!({ "metadata": { "resourceVersion": version }, "spec": { "replicas": 2 } });
    let answer = fixture.patch(MERGE, DEPLOYMENT, scale(&old["metadata"]["resourceVersion"])).await;
    assert_eq!(answer.status, StatusCode::OK);
    let answer = fixture.patch(MERGE, DEPLOYMENT, scale(&old["metadata"]["resourceVersion"])).await;
    assert_eq!((answer.status, &answer.body["reason"]), (StatusCode::CONFLICT, &json!("Conflict")));
    let answer = fixture.send("admin", Method::PUT, DEPLOYMENT, "application/json", &old).await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn leases_are_updated_by_their_version_and_with_times_of_six_digits() {
    const TIME: &str = "2026-11-24T16:00:00.000000Z";
    let fixture = Fixture::start(Config::default());
    let path = "/apis/coordination.k8s.io/v1/namespaces/openshift-image-registry/leases";
    let lease = |time: &str, version: &str| {
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": "a", "namespace": NAMESPACE, "resourceVersion": version },
            "spec": { "holderIdentity": "x", "leaseDurationSeconds": 1, "renewTime": time },
        })
    };
    let json = "application/json";
    let send = |method, path: String, body: Value| {
        let fixture = &fixture;
        async move { fixture.send("admin", method, &path, json, &body).await }
    };
    let short = send(Method::POST, path.to_owned(), lease("2026-11-24T16:00:00Z", "")).await;
    assert_eq!(short.status, StatusCode::BAD_REQUEST);
    let made = send(Method::POST, path.to_owned(), lease(TIME, "")).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let version = made.body["metadata"]["resourceVersion"].as_str().unwrap();
    let own = format!("{path}/a");
    for (version, status) in
        [("", StatusCode::UNPROCESSABLE_ENTITY), (version, StatusCode::OK), ("1", StatusCode::CONFLICT)]
    {
        let mut lease = lease(TIME, version);
        lease["spec"]["leaseDurationSeconds"] = 2.into();
        assert_eq!(send(Method::PUT, own.clone(), lease).await.status, status, "{version:?}");
    }
}

#[tokio::test]
async fn the_operators_configuration_knows_no_strategy() {
    let fixture = Fixture::start(Config::default().with_group("imageregistry.operator.openshift.io"));
    let path = "/apis/imageregistry.operator.openshift.io/v1/configs";
    let object = json!({ "metadata": { "name": "cluster" }, "spec": { "managementState": "Managed" } });
    let answer = fixture.send("admin", Method::POST, path, "application/json", &object).await;
    assert_eq!((answer.status, &answer.body["metadata"]["generation"]), (StatusCode::CREATED, &json!(1)));
    let path = format!("{path}/cluster");
    let change = json!({ "spec": { "managementState": "Unmanaged" } });
    let answer = fixture.patch(STRATEGIC, &path, change.clone()).await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let answer = fixture.patch(MERGE, &path, change).await;
    assert_eq!((answer.status, &answer.body["metadata"]["generation"]), (StatusCode::OK, &json!(2)));
}

#[tokio::test]
async fn budgets_hold_evictions_back() {
    let fixture = Fixture::start(Config::default());
    fixture.deployment(3);
    let refused = |answer: Answer, needed: i64, healthy: i64| {
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{}", answer.body);
        let cause = format!(
            "The disruption budget image-registry needs {needed} healthy pods and has {healthy} currently"
        );
        let wanted = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "Cannot evict pod as it would violate the pod's disruption budget.",
            "reason": "TooManyRequests",
            "details": { "causes": [{ "reason": "DisruptionBudget", "message": cause }] },
            "code": 429,
        });
        assert_eq!(answer.body, wanted);
    };
    for (spec, needed) in [
        (json!({ "minAvailable": 3 }), 3),
        (json!({ "minAvailable": "90%" }), 3),
        (json!({ "maxUnavailable": 0 }), 3),
        (json!({ "maxUnavailable": "0%" }), 3),
    ] {
        fixture.budget(&spec);
        for name in ["a", "b", "c"] {
            fixture.sandbox.store().delete("pods", NAMESPACE, name);
            fixture.pod(name, true);
        }
        refused(fixture.evict("admin", "a", json!({})).await, needed, 3);
    }
    for spec in
        [json!({ "minAvailable": 2 }), json!({ "minAvailable": "50%" }), json!({ "maxUnavailable": "1%" })]
    {
        fixture.budget(&spec);
        let answer = fixture.evict("admin", "a", json!({})).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        refused(fixture.evict("admin", "b", json!({})).await, 2, 2);
        fixture.pod("a", true);
    }
    // Pods that are not ready serve nobody.
    fixture.pod("unready", false);
    fixture.budget(&json!({ "minAvailable": 3 }));
    assert_eq!(fixture.evict("admin", "unready", json!({})).await.status, StatusCode::CREATED);
    fixture.pod("unready", false);
    fixture.budget(&json!({ "minAvailable": 4 }));
    refused(fixture.evict("admin", "unready", json!({})).await, 4, 3);
    fixture.budget(&json!({ "minAvailable": 4, "unhealthyPodEvictionPolicy": "AlwaysAllow" }));
    assert_eq!(fixture.evict("admin", "unready", json!({})).await.status, StatusCode::CREATED);

    fixture.sandbox.store().delete("poddisruptionbudgets", NAMESPACE, "image-registry");
    fixture.sandbox.api().configure(|settings| settings.refuse_evictions = 1);
    assert_eq!(fixture.evict("admin", "b", json!({})).await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(fixture.evict("admin", "b", json!({})).await.status, StatusCode::CREATED);
    assert_eq!(fixture.evict("admin", "b", json!({})).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_eviction_of_another_pod_of_that_name_conflicts() {
    let fixture = Fixture::start(Config::default());
    fixture.pod("a", true);
    let store = fixture.sandbox.store();
    let uid = store.get("pods", NAMESPACE, "a").unwrap()["metadata"]["uid"].clone();
    let answer = fixture.evict("admin", "a", json!({ "preconditions": { "uid": "other" } })).await;
    assert_eq!((answer.status, &answer.body["reason"]), (StatusCode::CONFLICT, &json!("Conflict")));
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/a");
    let options = json!({ "preconditions": { "uid": "other" } });
    let answer = fixture.send("admin", Method::DELETE, &path, "application/json", &options).await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    let answer = fixture.evict("admin", "a", json!({ "preconditions": { "uid": uid } })).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert!(store.get("pods", NAMESPACE, "a").is_none());
}

#[tokio::test]
async fn with_nodes_a_pod_goes_gracefully() {
    let mut config = Config::default();
    config.settings.nodes = true;
    let fixture = Fixture::start(config);
    let store = fixture.sandbox.store();
    for (name, how) in [("a", "evict"), ("b", "delete")] {
        fixture.pod(name, true);
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}");
        for _ in 0..2 {
            let answer = match how {
                "evict" => fixture.evict("admin", name, json!({})).await,
                _ => fixture.send("admin", Method::DELETE, &path, "application/json", &json!({})).await,
            };
            assert!(answer.status.is_success(), "{}", answer.body);
        }
        let pod = store.get("pods", NAMESPACE, name).unwrap();
        assert!(pod["metadata"]["deletionTimestamp"].is_string());
        assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 30);
        let now = json!({ "gracePeriodSeconds": 0 });
        fixture.send("admin", Method::DELETE, &path, "application/json", &now).await;
        assert!(store.get("pods", NAMESPACE, name).is_none());
    }
}

#[tokio::test]
async fn roles_allow_what_they_are_for_and_nothing_else() {
    let config = Config::default()
        .user("forwarder", "forwarder", pruner_and([port_forwarder()]))
        .user("restarter", "restarter", pruner_and([restarter()]))
        .user("evictor", "evictor", pruner_and([evictor()]))
        .user("configurator", "configurator", pruner_and([operator_configurator()]))
        .user("reader", "reader", pruner_and([settings_reader()]));
    let fixture = Fixture::start(config);
    let (registry, operator) = (NAMESPACE, "imageregistry.operator.openshift.io");
    let questions = [
        ("create", "", "pods", "portforward", registry, "x", &["forwarder"][..]),
        ("create", "", "pods", "portforward", "shop", "x", &[]),
        ("get", "", "pods", "portforward", registry, "", &["forwarder"]),
        ("patch", "apps", "deployments", "", registry, "image-registry", &["restarter"]),
        ("patch", "apps", "deployments", "", registry, "", &[]),
        ("create", "", "pods", "eviction", registry, "x", &["evictor"]),
        ("update", operator, "configs", "", "", "cluster", &["configurator"]),
        ("update", operator, "configs", "", "", "other", &[]),
        ("get", "", "secrets", "", registry, "x", &["reader"]),
        ("delete", "", "pods", "", registry, "x", &[]),
    ];
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for (verb, group, resource, subresource, namespace, name, allowed) in questions {
        for user in ["pruner", "forwarder", "restarter", "evictor", "configurator", "reader"] {
            let attributes = json!({
                "verb": verb, "group": group, "resource": resource, "subresource": subresource,
                "namespace": namespace, "name": name,
            });
            let review = json!({ "spec": { "resourceAttributes": attributes } });
            let answer = fixture.send(user, Method::POST, path, "application/json", &review).await;
            let found = answer.body["status"]["allowed"].as_bool().unwrap();
            assert_eq!(found, allowed.contains(&user), "{user} {attributes}");
        }
    }
    let restart = json!({ "metadata": { "annotations": { "a": "b" } } });
    fixture.deployment(1);
    let answer = fixture.send("restarter", Method::PATCH, DEPLOYMENT, MERGE, &restart).await;
    assert_eq!(answer.status, StatusCode::OK);
    let answer = fixture.send("evictor", Method::PATCH, DEPLOYMENT, MERGE, &restart).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let rule = Rule::new(&["get"], &[""], &["secrets"]).named(&["s"]);
    fixture.sandbox.access().grant("evictor", rule);
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/s");
    let answer = fixture.send("evictor", Method::GET, &path, "application/json", &json!({})).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}
