//! Starting, loading, changing and breaking a sandbox.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use reqwest::{Client, Method, RequestBuilder};
use sandbox::api::Rule;
use sandbox::fault::{Action, Answer, Fault};
use sandbox::generate::Generator;
use sandbox::registry_backend::Cluster as _;
use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().build().unwrap()
}

fn trusting(sandbox: &Sandbox) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority = reqwest::Certificate::from_pem(sandbox.ca_pem().as_bytes()).unwrap();
    Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap()
}

fn http() -> Sandbox {
    Sandbox::start(Config { tls: false, ..Config::default() })
}

fn ask(sandbox: &Sandbox, user: &str, method: Method, path: &str) -> RequestBuilder {
    client().request(method, format!("{}{path}", sandbox.api_url())).bearer_auth(sandbox.token(user))
}

async fn get(sandbox: &Sandbox, path: &str) -> Value {
    let answer = ask(sandbox, "admin", Method::GET, path).send().await.unwrap();
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

fn stream(namespace: &str, name: &str) -> Value {
    json!({ "metadata": { "namespace": namespace, "name": name, "labels": { "app": name } } })
}

const STREAMS: &str = "/apis/image.openshift.io/v1/imagestreams";

#[tokio::test]
async fn speaks_tls_and_writes_kubeconfigs() {
    let sandbox = Sandbox::start(Config::default());
    let answer = trusting(&sandbox).get(format!("{}/healthz", sandbox.api_url())).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "ok");

    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = std::fs::read_to_string(sandbox.write_kubeconfig(dir.path(), "pruner")).unwrap();
    for part in [sandbox.api_url(), sandbox.token("pruner"), "certificate-authority-data: ".to_owned()] {
        assert!(kubeconfig.contains(&part), "{part} in {kubeconfig}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_a_user() {
    let sandbox = Sandbox::start(Config::default());
    let identity = sandbox.authority().client("pruner");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(sandbox.ca_pem().as_bytes()).unwrap()])
        .identity(
            reqwest::Identity::from_pem(
                format!("{}{}", identity.certificate_pem, identity.key_pem).as_bytes(),
            )
            .unwrap(),
        )
        .build()
        .unwrap();
    for (path, expected) in [(STREAMS, 200), ("/api/v1/secrets", 403)] {
        assert_eq!(status(client.get(format!("{}{path}", sandbox.api_url()))).await, expected, "{path}");
    }
}

#[test]
fn answers_http_on_https_as_go_does() {
    let sandbox = Sandbox::start(Config::default());
    let address = sandbox.api_url().replace("https://", "");
    let mut connection = TcpStream::connect(address).unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    // The server may reset the connection once it has answered: the request is not read.
    let _ = connection.read_to_string(&mut answer);
    assert!(answer.contains("Client sent an HTTP request to an HTTPS server."), "{answer:?}");
}

#[tokio::test]
async fn tokens_come_and_go() {
    let sandbox = http();
    let token = sandbox.token("pruner");
    let with = |token: &str| client().get(format!("{}{STREAMS}", sandbox.api_url())).bearer_auth(token);
    assert_eq!(status(with(&token)).await, 200);
    sandbox.access().revoke_token(&token);
    assert_eq!(status(with(&token)).await, 401);
    sandbox.access().add_token("pruner", "sha256~new");
    assert_eq!(status(with("sha256~new")).await, 200);
}

#[tokio::test]
async fn rights_are_given_taken_and_impersonated() {
    let config = Config { tls: false, ..Config::default() }
        .deny("pruner", "list", "apps", "daemonsets")
        .user("reader", "view", vec![Rule::new(&["get"], &[""], &["pods"]).in_namespace("shop")]);
    let sandbox = Sandbox::start(config);
    for (user, path, expected) in [
        ("pruner", "/apis/apps/v1/daemonsets", 403),
        ("pruner", "/apis/apps/v1/deployments", 200),
        ("reader", "/api/v1/namespaces/shop/pods/web", 404),
        ("reader", "/api/v1/namespaces/other/pods/web", 403),
    ] {
        assert_eq!(status(ask(&sandbox, user, Method::GET, path)).await, expected, "{user} {path}");
    }
    sandbox.access().grant("reader", Rule::new(&["list"], &["apps"], &["daemonsets"]));
    assert_eq!(status(ask(&sandbox, "reader", Method::GET, "/apis/apps/v1/daemonsets")).await, 200);

    let impersonated = |user: &str| {
        ask(&sandbox, user, Method::GET, "/apis/apps/v1/daemonsets").header("Impersonate-User", "nobody")
    };
    let answer = impersonated("admin").send().await.unwrap().text().await.unwrap();
    assert!(answer.contains(r#"User \"nobody\" cannot list"#), "{answer}");
    let answer = impersonated("pruner").send().await.unwrap().text().await.unwrap();
    assert!(answer.contains(r#"User \"pruner\" cannot impersonate resource \"users\""#), "{answer}");
}

#[tokio::test]
async fn objects_are_created_patched_selected_and_evicted() {
    let sandbox = http();
    for name in ["web", "api"] {
        sandbox.store().create("imagestreams", stream("shop", name));
    }
    let selected = get(&sandbox, &format!("{STREAMS}?labelSelector=app%3Dweb")).await;
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
    let selected = get(&sandbox, &format!("{STREAMS}?fieldSelector=metadata.name%21%3Dweb")).await;
    assert_eq!(selected["items"][0]["metadata"]["name"], "api");
    let page = get(&sandbox, &format!("{STREAMS}?labelSelector=app&limit=1")).await;
    assert!(page["metadata"]["continue"].is_string());
    assert!(page["metadata"].get("remainingItemCount").is_none(), "no count with a selector");

    let leases = "/apis/coordination.k8s.io/v1/namespaces/shop/leases";
    let lease =
        json!({ "kind": "Lease", "metadata": { "name": "prune" }, "spec": { "holderIdentity": "a" } });
    let post = || ask(&sandbox, "admin", Method::POST, leases).body(lease.to_string());
    assert_eq!(status(post()).await, 201);
    assert_eq!(status(post()).await, 409);
    let patch = |content_type: &str, name: &str, body: &Value| {
        ask(&sandbox, "admin", Method::PATCH, &format!("{leases}/{name}"))
            .header("Content-Type", content_type)
            .body(body.to_string())
    };
    let change = json!({ "spec": { "holderIdentity": null, "leaseDurationSeconds": 5 } });
    assert_eq!(status(patch("application/merge-patch+json", "prune", &change)).await, 200);
    let patched = sandbox.store().get("leases", "shop", "prune").unwrap();
    assert_eq!(patched["spec"], json!({ "leaseDurationSeconds": 5 }));
    assert_eq!(status(patch("application/json", "prune", &json!({}))).await, 415);
    let protobuf = post().header("Content-Type", "application/vnd.kubernetes.protobuf");
    assert_eq!(status(protobuf).await, 415);
    let stale = json!({ "metadata": { "resourceVersion": "1" } });
    assert_eq!(status(patch("application/merge-patch+json", "prune", &stale)).await, 409);
    assert_eq!(status(patch("application/apply-patch+yaml", "other", &lease)).await, 201);

    sandbox.store().create("pods", json!({ "metadata": { "namespace": "shop", "name": "web-1" } }));
    let eviction = "/api/v1/namespaces/shop/pods/web-1/eviction";
    assert_eq!(status(ask(&sandbox, "admin", Method::POST, eviction).body("{}")).await, 201);
    assert!(sandbox.store().get("pods", "shop", "web-1").is_none());
}

#[tokio::test]
async fn the_registry_sees_what_was_pushed() {
    let sandbox = http();
    let cluster = sandbox.api();
    let image = |digest: &str, layer: &str| {
        json!({
            "metadata": { "name": digest },
            "dockerImageLayers": [{ "name": layer, "size": 1, "mediaType": "x" }],
            "dockerImageMetadata": { "Id": "sha256:config" },
            "dockerImageManifestMediaType": "application/vnd.docker.distribution.manifest.v2+json",
        })
    };
    cluster.image_pushed("shop", "web", Some("latest"), image("sha256:a", "sha256:layer-a"));
    cluster.image_pushed("shop", "web", Some("latest"), image("sha256:b", "sha256:layer-b"));
    cluster.image_pushed("shop", "web", None, image("sha256:c", "sha256:layer-c"));
    assert_eq!(cluster.stream_tag("shop", "web", "latest").as_deref(), Some("sha256:b"));
    for (digest, named) in [("sha256:a", true), ("sha256:b", true), ("sha256:c", false)] {
        assert_eq!(cluster.stream_names_image("shop", "web", digest), named, "{digest}");
        assert!(cluster.image(digest).is_some());
    }
    for (blob, known) in [("sha256:layer-a", true), ("sha256:config", true), ("sha256:layer-c", false)] {
        assert_eq!(cluster.stream_has_blob("shop", "web", blob), known, "{blob}");
    }
    assert!(cluster.allowed("puller", "get", "imagestreams/layers", "shop", "web"));
    assert!(!cluster.allowed("pruner", "get", "imagestreams/layers", "shop", "web"));
    assert!(cluster.allowed("pruner", "delete", "images", "", ""));

    let tag = "/apis/image.openshift.io/v1/namespaces/shop/imagestreamtags/web:latest";
    assert_eq!(status(ask(&sandbox, "admin", Method::DELETE, tag)).await, 200);
    assert_eq!(status(ask(&sandbox, "admin", Method::GET, tag)).await, 404);
    assert!(!cluster.stream_names_image("shop", "web", "sha256:b"));
}

#[tokio::test]
async fn the_log_has_every_request() {
    let sandbox = http();
    sandbox.store().create("images", json!({ "metadata": { "name": "sha256:a" } }));
    get(&sandbox, &format!("{STREAMS}?limit=5")).await;
    let path = "/apis/image.openshift.io/v1/images/sha256:a";
    let delete = ask(&sandbox, "pruner", Method::DELETE, path).body(r#"{"preconditions":{}}"#);
    assert_eq!(status(delete).await, 200);
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(status(ask(&sandbox, "pruner", Method::POST, review).body("{}")).await, 201);

    let log = sandbox.request_log();
    assert_eq!(log.len(), 3);
    assert_eq!(log.entries()[0].query, "limit=5");
    let [deletion] = &log.mutations()[..] else { unreachable!("{:?}", log.mutations()) };
    assert_eq!((deletion.sequence, deletion.path.as_str()), (1, path));
    assert_eq!((deletion.user.as_deref(), deletion.status), (Some("pruner"), Some(StatusCode::OK)));
    assert_eq!(deletion.json(), json!({ "preconditions": {} }));
}

#[tokio::test]
async fn faults_break_answers() {
    let sandbox = http();
    for name in 0..100 {
        sandbox.store().create("imagestreams", stream("shop", &format!("stream-{name}")));
    }
    let ask_list = || ask(&sandbox, "admin", Method::GET, STREAMS);
    let once = |action: Action| {
        sandbox.faults().clear();
        sandbox.faults().add(Fault::new(action).method(Method::GET).path("/imagestreams").times(1));
    };

    once(Action::Answer(Answer::too_many_requests(7)));
    let answer = ask_list().send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "7"));
    assert_eq!(status(ask_list()).await, 200, "the fault was for one request");

    for action in [Action::ResetBefore, Action::ResetAfter] {
        once(action);
        assert!(ask_list().send().await.is_err());
    }
    let handled: Vec<bool> = sandbox.request_log().entries().iter().map(|entry| entry.handled).collect();
    assert_eq!(handled, [false, true, false, true]);

    once(Action::Truncate(5000));
    let answer = ask_list().send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.bytes().await.is_err(), "a list cut short");

    // One with a length announced.
    once(Action::Truncate(10));
    let short = ask(&sandbox, "admin", Method::GET, &format!("{STREAMS}?limit=1")).send().await.unwrap();
    assert!(short.content_length().unwrap() > 10);
    assert!(short.bytes().await.is_err(), "an object cut short");

    once(Action::Trickle(10_000, Duration::from_millis(20)));
    let begun = Instant::now();
    let whole = ask_list().send().await.unwrap().bytes().await.unwrap();
    assert!(serde_json::from_slice::<Value>(&whole).is_ok());
    assert!(begun.elapsed() > Duration::from_millis(40), "{:?}", begun.elapsed());

    once(Action::garbage());
    let garbage = ask_list().send().await.unwrap();
    assert_eq!(garbage.status(), 200);
    assert!(serde_json::from_slice::<Value>(&garbage.bytes().await.unwrap()).is_err());

    once(Action::Hang);
    assert!(tokio::time::timeout(Duration::from_millis(100), ask_list().send()).await.is_err());
}

#[tokio::test]
async fn a_hook_changes_objects_before_a_request() {
    let sandbox = http();
    sandbox.store().create("imagestreams", stream("shop", "web"));
    let before = sandbox.store().get("imagestreams", "shop", "web").unwrap();
    let hook = sandbox.hook(|store| {
        store.update("imagestreams", "shop", "web", |stream| {
            stream["metadata"]["labels"] = json!({ "a": "b" });
        });
    });
    let path = "/apis/image.openshift.io/v1/namespaces/shop/imagestreams/web/status";
    sandbox.faults().add(Fault::new(hook).method(Method::PUT).path("/status").times(1));
    let put = || ask(&sandbox, "pruner", Method::PUT, path).body(before.to_string());
    assert_eq!(status(put()).await, 409);
}

#[tokio::test]
async fn watches_may_begin_with_what_there_is() {
    let sandbox = http();
    sandbox.api().configure(|settings| settings.watch_list = true);
    sandbox.store().create("imagestreams", stream("shop", "web"));
    let query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&timeoutSeconds=1";
    let answer = ask(&sandbox, "pruner", Method::GET, &format!("{STREAMS}?{query}")).send().await.unwrap();
    let body = answer.text().await.unwrap();
    let events: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["type"], "ADDED");
    assert_eq!(events[1]["type"], "BOOKMARK");
    assert_eq!(events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[test]
fn recorded_clusters_are_moved_to_now() {
    let shared = std::env::var_os("SHARED_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), Into::into);
    let oracle = shared.join("oracle");
    let Ok(cases) = std::fs::read_dir(&oracle) else { return };
    for case in cases.filter_map(|case| Some(case.unwrap().path()).filter(|path| path.is_dir())) {
        let sandbox = http();
        sandbox.load_oracle(&case);
        let cluster: Value =
            serde_json::from_slice(&std::fs::read(case.join("cluster.json")).unwrap()).unwrap();
        let epoch: Timestamp = cluster["epoch"].as_str().unwrap().parse().unwrap();
        for (resource, list) in cluster["objects"].as_object().unwrap() {
            let recorded = list["items"].as_array().map_or(0, Vec::len);
            assert_eq!(sandbox.store().list(resource).len(), recorded, "{}: {resource}", case.display());
        }
        let created = |images: &[Value]| -> Option<Timestamp> {
            let times = images
                .iter()
                .filter_map(|image| image["metadata"]["creationTimestamp"].as_str()?.parse().ok());
            times.max()
        };
        let recorded = created(cluster["objects"]["images"]["items"].as_array().unwrap());
        let moved = created(&sandbox.store().list("images"));
        if let (Some(recorded), Some(moved)) = (recorded, moved) {
            let (old_age, age) = (epoch.duration_since(recorded), Timestamp::now().duration_since(moved));
            let difference = (age - old_age).as_secs();
            assert!((-1..60).contains(&difference), "{}: {difference}s", case.display());
        }
    }
}

#[tokio::test]
async fn a_large_cluster_is_generated_and_paged_through() {
    let sandbox = http();
    let generator = Generator { images: 20_000, streams: 400, ..Generator::default() };
    let begun = Instant::now();
    sandbox.generate(&generator);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());

    let images = "/apis/image.openshift.io/v1/images?limit=5000";
    let (mut path, mut names, mut bytes) = (images.to_owned(), Vec::new(), 0);
    loop {
        let answer = ask(&sandbox, "admin", Method::GET, &path).send().await.unwrap().bytes().await.unwrap();
        bytes += answer.len();
        let page: Value = serde_json::from_slice(&answer).unwrap();
        names.extend(page["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone()));
        let Some(token) = page["metadata"]["continue"].as_str() else { break };
        assert_eq!(page["metadata"]["remainingItemCount"], 20_000 - names.len());
        path = format!("{images}&continue={token}");
    }
    assert_eq!(names.len(), 20_000);
    assert!((5000..7500).contains(&(bytes / 20_000)), "{} bytes each", bytes / 20_000);

    let first = |sandbox: &Sandbox| {
        sandbox.store().list("imagestreams").remove(0)["status"]["tags"][0]["items"][0]["image"].clone()
    };
    let again = http();
    again.generate(&Generator { images: 20_000, streams: 400, referrers: 0, ..Generator::default() });
    assert_eq!(first(&sandbox), first(&again), "the same seed makes the same cluster");
    assert!(!sandbox.store().list("pods").is_empty());
}

#[tokio::test]
async fn a_cluster_made_on_demand_is_the_one_that_is_stored() {
    let generator =
        Generator { images: 230, streams: 12, referrers: 77, manifests: true, ..Generator::default() };
    let (stored, on_demand) = (http(), http());
    stored.generate(&generator);
    on_demand.generate_on_demand(&generator);
    let resources = ["pods", "deployments", "replicasets", "statefulsets", "daemonsets", "jobs"];
    let groups = ["api/v1", "apis/apps/v1", "apis/apps/v1", "apis/apps/v1", "apis/apps/v1", "apis/batch/v1"];
    let mut lists: Vec<String> =
        groups.iter().zip(resources).map(|(group, resource)| format!("/{group}/{resource}")).collect();
    lists.push("/apis/apps.openshift.io/v1/deploymentconfigs".into());
    lists.push("/apis/image.openshift.io/v1/images".into());
    lists.push(STREAMS.into());
    lists.push("/apis/image.openshift.io/v1/namespaces/project-00001/imagestreams".into());
    let mut pages = 0;
    for list in lists {
        let mut token = Some(String::new());
        while let Some(from) = token {
            let path = format!("{list}?limit=50&continue={from}");
            let answers = ["application/vnd.kubernetes.protobuf", "application/json"].map(|accept| {
                [&stored, &on_demand]
                    .map(|sandbox| ask(sandbox, "admin", Method::GET, &path).header("accept", accept).send())
            });
            let mut page = Bytes::new();
            for [one, other] in answers {
                page = other.await.unwrap().bytes().await.unwrap();
                assert!(page.len() > 500 && one.await.unwrap().bytes().await.unwrap() == page, "{path}");
            }
            let page: Value = serde_json::from_slice(&page).unwrap();
            token = page["metadata"]["continue"].as_str().map(ToOwned::to_owned);
            pages += 1;
        }
    }
    assert_eq!(pages, 5 + 9);
    let name = stored.store().names("images").remove(100);
    let path = format!("/apis/image.openshift.io/v1/images/{name}");
    assert_eq!(get(&on_demand, &path).await["metadata"]["name"], name);
    assert_eq!(get(&on_demand, &format!("{path}0")).await["code"], 404);
}
