//! The API server's answers, compared with those recorded from real servers.
#![expect(clippy::panic, clippy::print_stdout, clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sandbox::{Config, Sandbox};
use serde_json::{Value, json};

/// The recorded answers; `None`, with a message, on machines that have none.
fn fixtures() -> Option<PathBuf> {
    let shared = std::env::var_os("SHARED_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let fixtures = shared.join("fixtures");
    if !fixtures.is_dir() {
        println!("skipped: no recorded answers in {}", fixtures.display());
        return None;
    }
    Some(fixtures)
}

fn json_file(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A recorded request with its answer.
struct Recorded {
    name: String,
    meta: Value,
    body: String,
}

impl Recorded {
    fn read(fixtures: &Path, name: &str) -> Self {
        let meta = json_file(&fixtures.join(format!("{name}.meta.json")));
        let dir = fixtures.join(name).parent().unwrap().to_owned();
        let body = std::fs::read(dir.join(meta["body"].as_str().unwrap())).unwrap();
        Self { name: name.to_owned(), meta, body: String::from_utf8_lossy(&body).into_owned() }
    }

    /// All of a folder that were asked for JSON.
    fn folder(fixtures: &Path, folder: &str) -> Vec<Self> {
        let mut names: Vec<String> = std::fs::read_dir(fixtures.join(folder))
            .unwrap()
            .filter_map(|entry| {
                entry.unwrap().file_name().to_str()?.strip_suffix(".meta.json").map(str::to_owned)
            })
            .filter(|name| name.rsplit('.').next() != Some("pb"))
            .collect();
        names.sort();
        names.iter().map(|name| Self::read(fixtures, &format!("{folder}/{name}"))).collect()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn path(&self) -> &str {
        self.meta["request"]["path"].as_str().unwrap()
    }

    /// Asks the sandbox the same, with another path or body where the recorded ones do not fit.
    async fn ask(&self, sandbox: &Sandbox, path: Option<&str>, body: Option<Value>) -> Answer {
        let request = &self.meta["request"];
        let recorded_body = match &request["body"] {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        let method = request["method"].as_str().unwrap();
        let mut builder = client().request(
            method.parse().unwrap(),
            format!("{}{}", sandbox.api_url(), path.unwrap_or(self.path())),
        );
        for (name, value) in request["headers"].as_object().unwrap() {
            if name != "Authorization" {
                builder = builder.header(name, value.as_str().unwrap());
            }
        }
        builder = match request["user"].as_str() {
            None => builder,
            Some("invalid") => builder.bearer_auth("sha256~unknown"),
            Some(user) => builder.bearer_auth(sandbox.token(user)),
        };
        if let Some(body) = body.map(|body| body.to_string()).or(recorded_body) {
            builder = builder.body(body);
        }
        Answer::from(builder.send().await.unwrap()).await
    }

    fn same_head(&self, answer: &Answer) {
        let response = &self.meta["response"];
        assert_eq!(answer.status, response["status"].as_u64().unwrap(), "{}: {}", self.name, answer.body);
        for header in ["Content-Type", "Cache-Control", "X-Content-Type-Options", "Warning"] {
            let recorded: Vec<&str> = response["headers"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|pair| pair[0] == header)
                .map(|pair| pair[1].as_str().unwrap())
                .collect();
            let found: Vec<&str> =
                answer.headers.get_all(header).iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(found, recorded, "{}: {header}", self.name);
        }
        assert!(answer.headers.contains_key("date"), "{}: no Date", self.name);
    }

    fn same(&self, answer: &Answer) {
        self.same_head(answer);
        // One recorded answer is indented.
        match serde_json::from_str::<Value>(&self.body) {
            Ok(recorded) if self.body.starts_with("{\n") => {
                assert_eq!(answer.json(), recorded, "{}", self.name);
            }
            _ => assert_eq!(answer.body, self.body, "{}", self.name),
        }
    }
}

struct Answer {
    status: u64,
    headers: reqwest::header::HeaderMap,
    body: String,
}

impl Answer {
    async fn from(response: reqwest::Response) -> Self {
        Self {
            status: response.status().as_u16().into(),
            headers: response.headers().clone(),
            body: response.text().await.unwrap(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

fn client() -> reqwest::Client {
    // Only http is spoken here, but the client wants a provider of cryptography; another test may have set it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// A plain-http sandbox with the objects of the recorded lists.
fn recorded_cluster(fixtures: &Path) -> Sandbox {
    let sandbox = Sandbox::start(Config { tls: false, ..Config::default() });
    for recorded in Recorded::folder(fixtures, "lists") {
        let variant = recorded.name.trim_start_matches("lists/").contains('.');
        if !variant {
            sandbox.load_objects(recorded.json());
        }
    }
    sandbox
}

/// Takes out what a sandbox cannot know: revisions, and tokens made of them.
fn without_revisions(mut value: Value) -> Value {
    fn clear(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for field in ["resourceVersion", "continue"] {
                    if fields.get(field).is_some_and(Value::is_string) {
                        fields.insert(field.to_owned(), json!("?"));
                    }
                }
                fields.values_mut().for_each(clear);
            }
            Value::Array(values) => values.iter_mut().for_each(clear),
            _ => {}
        }
    }
    clear(&mut value);
    value
}

fn start_of(token: &str) -> String {
    let token: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).unwrap()).unwrap();
    assert_eq!(token["v"], "meta.k8s.io/v1");
    token["start"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn lists_look_like_the_recorded_ones() {
    let Some(fixtures) = fixtures() else { return };
    let sandbox = recorded_cluster(&fixtures);
    for recorded in Recorded::folder(&fixtures, "lists") {
        // Tables are not served; the recorded list is too short for the server to compress.
        if recorded.name.contains("images.table") || recorded.name.contains("images.gzip") {
            continue;
        }
        let answer = recorded.ask(&sandbox, None, None).await;
        recorded.same_head(&answer);
        assert_eq!(
            without_revisions(answer.json()).to_string(),
            without_revisions(recorded.json()).to_string(),
            "{}",
            recorded.name
        );
    }
}

#[tokio::test]
async fn pages_look_like_the_recorded_ones() {
    let Some(fixtures) = fixtures() else { return };
    let sandbox = recorded_cluster(&fixtures);
    for resource in ["images", "imagestreams", "pods"] {
        let read = |name: &str| Recorded::read(&fixtures, &format!("paging/{resource}.{name}"));
        let (first, second) = (read("1"), read("2"));
        let base = first.path().to_owned();
        let answer = first.ask(&sandbox, None, None).await;
        first.same_head(&answer);
        assert_eq!(without_revisions(answer.json()), without_revisions(first.json()), "{resource}");
        let token = answer.json()["metadata"]["continue"].as_str().unwrap().to_owned();
        assert_eq!(start_of(&token), start_of(first.json()["metadata"]["continue"].as_str().unwrap()));

        // Changed between the pages: the list goes on as it was.
        let last = sandbox.store().list(resource).pop().unwrap();
        let text = |field: &str| last["metadata"][field].as_str().unwrap_or_default().to_owned();
        assert!(sandbox.store().delete(resource, &text("namespace"), &text("name")));
        let next = second.ask(&sandbox, Some(&format!("{base}&continue={token}")), None).await;
        assert_eq!(without_revisions(next.json()), without_revisions(second.json()), "{resource}");
        assert_eq!(next.json()["metadata"]["resourceVersion"], answer.json()["metadata"]["resourceVersion"]);
        let whole = Recorded::read(&fixtures, &format!("lists/{resource}"));
        let rest = format!("{}?continue={token}", whole.path());
        let mut names: Vec<Value> = Vec::new();
        for page in [&answer, &whole.ask(&sandbox, Some(&rest), None).await] {
            names.extend(
                page.json()["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone()),
            );
        }
        let all: Vec<Value> = whole.json()["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["metadata"]["name"].clone())
            .collect();
        assert_eq!(names, all, "{resource}: the object deleted meanwhile is still listed");
        sandbox.store().create(resource, last);

        sandbox.store().compact();
        let expired = read("expired-continue");
        let answer = expired.ask(&sandbox, Some(&format!("{base}&continue={token}")), None).await;
        expired.same(&answer);
        let token = answer.json()["metadata"]["continue"].as_str().unwrap().to_owned();
        let inconsistent = read("inconsistent-continue");
        let answer = inconsistent.ask(&sandbox, Some(&format!("{base}&continue={token}")), None).await;
        assert_eq!(without_revisions(answer.json()), without_revisions(inconsistent.json()), "{resource}");

        for name in ["invalid-continue", "invalid-limit"] {
            let recorded = read(name);
            recorded.same(&recorded.ask(&sandbox, None, None).await);
        }
    }
}

#[tokio::test]
async fn a_continue_token_expires_after_the_pages_asked_for() {
    let Some(fixtures) = fixtures() else { return };
    let sandbox = recorded_cluster(&fixtures);
    let first = Recorded::read(&fixtures, "paging/images.1");
    sandbox.expire_continue_after(2);
    let mut path = first.path().to_owned();
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let answer = first.ask(&sandbox, Some(&path), None).await;
        statuses.push(answer.status);
        let token = answer.json()["metadata"]["continue"].as_str().unwrap().to_owned();
        path = format!("{}&continue={token}", first.path());
    }
    assert_eq!(statuses, [200, 200, 410, 200]);
}

#[tokio::test]
async fn failures_are_worded_as_recorded() {
    let Some(fixtures) = fixtures() else { return };
    let sandbox = recorded_cluster(&fixtures);
    for recorded in Recorded::folder(&fixtures, "errors") {
        // The recorded list of groups is that of a whole cluster.
        if recorded.path() == "/apis" {
            continue;
        }
        sandbox.api().configure(|settings| {
            settings.aggregated_api_down = recorded.name.contains("aggregated-api-down");
            settings.disabled_groups.remove("apps.openshift.io");
            if recorded.name.contains("group-missing") {
                settings.disabled_groups.insert("apps.openshift.io".to_owned());
            }
        });
        recorded.same(&recorded.ask(&sandbox, None, None).await);
    }
}

#[tokio::test]
async fn updates_are_answered_as_recorded() {
    let Some(fixtures) = fixtures() else { return };
    let sandbox = recorded_cluster(&fixtures);
    sandbox.load_objects(json_file(&fixtures.join("update/imagestream.get.body.json")));
    let current =
        || sandbox.store().get("imagestreams", "shop", "web").unwrap()["metadata"]["resourceVersion"].clone();
    // The update without a change was recorded before the one with, the conflict after both.
    let mut updates = Recorded::folder(&fixtures, "update");
    updates.sort_by_key(|recorded| !recorded.name.contains("no-change") && !recorded.name.contains(".get"));
    for recorded in updates {
        let body = match &recorded.meta["request"]["body"] {
            Value::String(text) => serde_json::from_str::<Value>(text).ok(),
            body => Some(body.clone()).filter(Value::is_object),
        };
        let body = body.map(|mut body| {
            if !recorded.name.contains("409") && body["metadata"].get("resourceVersion").is_some() {
                body["metadata"]["resourceVersion"] = current();
            }
            body
        });
        let answer = recorded.ask(&sandbox, None, body).await;
        recorded.same_head(&answer);
        let (found, expected) = (without_revisions(answer.json()), without_revisions(recorded.json()));
        assert_eq!(found.to_string(), expected.to_string(), "{}", recorded.name);
    }
}

#[tokio::test]
async fn an_update_without_a_change_makes_no_revision() {
    let Some(fixtures) = fixtures() else { return };
    let sandbox = recorded_cluster(&fixtures);
    let recorded = Recorded::read(&fixtures, "update/imagestreams-status.200-no-change");
    sandbox.load_objects(json_file(&fixtures.join("update/imagestream.get.body.json")));
    let before = sandbox.store().get("imagestreams", "shop", "web").unwrap();
    let mut body = before.clone();
    body["kind"] = "ImageStream".into();
    body["apiVersion"] = "image.openshift.io/v1".into();
    let answer = recorded.ask(&sandbox, None, Some(body)).await;
    assert_eq!(answer.json()["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn deletions_are_answered_as_recorded() {
    let Some(fixtures) = fixtures() else { return };
    let sandbox = recorded_cluster(&fixtures);
    for (digit, of) in [("0", "image.200"), ("2", "image.200-uid")] {
        let uid = Recorded::read(&fixtures, &format!("delete/{of}")).json()["details"]["uid"].clone();
        let name = format!("sha256:{}", digit.repeat(64));
        sandbox.store().create(
            "images",
            json!({ "metadata": { "name": name, "uid": uid }, "dockerImageReference": "registry/a/b" }),
        );
    }
    for name in ["403", "200", "404", "409-uid", "200-dry-run", "200-uid"] {
        let recorded = Recorded::read(&fixtures, &format!("delete/image.{name}"));
        recorded.same(&recorded.ask(&sandbox, None, None).await);
    }
    assert!(!sandbox.store().names("images").contains(&format!("sha256:{}", "2".repeat(64))));
}

#[tokio::test]
async fn single_objects_look_like_the_recorded_ones() {
    let Some(fixtures) = fixtures() else { return };
    let sandbox = recorded_cluster(&fixtures);
    for recorded in Recorded::folder(&fixtures, "objects") {
        // Recorded after an update, unlike the list.
        if recorded.name == "objects/imagestream" {
            sandbox.load_objects(recorded.json());
        }
        let answer = recorded.ask(&sandbox, None, None).await;
        recorded.same_head(&answer);
        let (found, expected) = (without_revisions(answer.json()), without_revisions(recorded.json()));
        assert_eq!(found, expected, "{}", recorded.name);
    }
}

#[tokio::test]
async fn watches_are_framed_as_recorded() {
    let Some(fixtures) = fixtures() else { return };
    let sandbox = recorded_cluster(&fixtures);
    let events =
        |body: &str| -> Vec<Value> { body.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    for resource in ["imagestreams", "pods"] {
        let changes = Recorded::read(&fixtures, &format!("watch/{resource}.changes"));
        let from = sandbox.store().revision();
        sandbox.store().create(resource, events(&changes.body)[0]["object"].take());
        let update = |object: &mut Value| object["metadata"]["labels"] = json!({ "changed": "yes" });
        assert!(sandbox.store().update(resource, "shop", "watched", update));
        assert!(sandbox.store().delete(resource, "shop", "watched"));
        let base = changes.path().split("&resourceVersion").next().unwrap();
        let path = format!("{base}&resourceVersion={from}&timeoutSeconds=1");
        let answer = changes.ask(&sandbox, Some(&path), None).await;
        changes.same_head(&answer);
        let (found, recorded) = (events(&answer.body), events(&changes.body));
        let types: Vec<&str> = found.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]);
        let revisions: Vec<u64> = found
            .iter()
            .map(|event| event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(revisions, [from + 1, from + 2, from + 3, from + 3]);
        assert_eq!(without_revisions(found[0].clone()), without_revisions(recorded[0].clone()), "{resource}");
        assert_eq!(found[3]["object"]["kind"], recorded[recorded.len() - 1]["object"]["kind"]);

        let initial = Recorded::read(&fixtures, &format!("watch/{resource}.initial"));
        initial.same(&initial.ask(&sandbox, None, None).await);

        let too_old = Recorded::read(&fixtures, &format!("watch/{resource}.too-old"));
        sandbox.store().compact();
        let answer = too_old.ask(&sandbox, None, None).await;
        too_old.same_head(&answer);
        let oldest = sandbox.store().revision();
        let mut expected = events(&too_old.body).remove(0);
        expected["object"]["message"] = format!("too old resource version: 1 ({oldest})").into();
        assert_eq!(answer.body, format!("{expected}\n"));
    }
    let forbidden = Recorded::read(&fixtures, "watch/pods.403");
    forbidden.same(&forbidden.ask(&sandbox, None, None).await);
}

#[tokio::test]
async fn discovery_and_reviews_look_like_the_recorded_ones() {
    let Some(fixtures) = fixtures() else { return };
    let sandbox = recorded_cluster(&fixtures);
    for name in ["healthz", "version", "version-openshift", "image-group", "api"] {
        let recorded = Recorded::read(&fixtures, &format!("discovery/{name}"));
        recorded.same(&recorded.ask(&sandbox, None, None).await);
    }
    for name in ["access.yes", "access.no", "whoami"] {
        let recorded = Recorded::read(&fixtures, &format!("discovery/{name}"));
        let answer = recorded.ask(&sandbox, None, None).await;
        recorded.same_head(&answer);
        assert_eq!(answer.json()["status"], recorded.json()["status"], "{name}");
    }
    // Every resource served is described as recorded, as far as the recorded server has it.
    for name in ["api-v1", "apps", "batch", "build", "image", "apps-openshift"] {
        let recorded = Recorded::read(&fixtures, &format!("discovery/{name}"));
        let answer = recorded.ask(&sandbox, None, None).await;
        recorded.same_head(&answer);
        let known = recorded.json();
        for resource in answer.json()["resources"].as_array().unwrap() {
            let same =
                known["resources"].as_array().unwrap().iter().find(|same| same["name"] == resource["name"]);
            let Some(same) = same else { continue };
            for field in ["namespaced", "kind", "singularName"] {
                assert_eq!(resource[field], same[field], "{name}: {}", resource["name"]);
            }
        }
    }
}

#[tokio::test]
async fn the_pruner_has_exactly_the_recorded_rights() {
    let Some(fixtures) = fixtures() else { return };
    let sandbox = Sandbox::start(Config { tls: false, ..Config::default() });
    for review in json_file(&fixtures.join("rbac.json"))["reviews"].as_array().unwrap() {
        let answer = client()
            .post(format!("{}/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", sandbox.api_url()))
            .bearer_auth(sandbox.token("pruner"))
            .body(json!({ "spec": { "resourceAttributes": review } }).to_string())
            .send()
            .await
            .unwrap();
        let answer = Answer::from(answer).await.json();
        assert_eq!(answer["status"]["allowed"], review["allowed"], "{review}");
    }
}
