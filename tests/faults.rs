//! Every kind of request of a confirmed run, failing in every way: a matrix, printed as a table.
//!
//! In each cell a run meets the fault; then, without faults, `resume --confirm` finishes what it left, and the same run starts
//! again. A cell holds if the first run ends by itself with a documented exit code, deletes nothing that a run without
//! faults keeps and tells its token to nobody, and if cluster, storage and caches end as after that run. Every few cells, and
//! all of them for the deletion of a blob, run by default; `FAULTS=all cargo test --test faults -- --nocapture` runs them all, and
//! `FAULTS='get version'` or `FAULTS='get version/403'` a row or a cell.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests: whatever is wrong here fails them"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::cluster::tags;
use common::shop::{self, REPOSITORIES};
use common::{Plugin, Ran};
use http::{Method, Response, StatusCode};
use jiff::Timestamp;
use sandbox::api::{Rule, pruner_and, timestamp};
use sandbox::fault::{Action, Answer, Fault, Faults};
use sandbox::log::{RequestLog, Server};
use sandbox::registry::{Digest, RegistryConfig};
use sandbox::serve::{Service, Serving, full, listen, serve};
use sandbox::tls::SERVER_NAMES;
use sandbox::{Cluster, ClusterConfig, Config};
use serde_json::json;

/// Who may prune and ask for blobs.
const USER: &str = "checker";
/// The token after the first one has expired.
const RENEWED: &str = "sha256~renewed-in-the-token-file";
/// What a run may have in its memory, in bytes; far less than the endless body.
const MEMORY: u64 = 1 << 30;
const ENDLESS: u64 = 10 << 30;

/// A kind of request.
struct Row {
    name: &'static str,
    server: Option<Server>,
    method: Method,
    path: &'static str,
    /// So many of them pass: the ping comes before the login, which is the same with credentials.
    skip: usize,
}

fn rows() -> Vec<Row> {
    let row = |name, server, method, path| Row { name, server, method, path, skip: 0 };
    let api = Some(Server::Api);
    vec![
        row("list images", api, Method::GET, "^/apis/image.openshift.io/v1/images?"),
        row("list images, page 2", api, Method::GET, "^/apis/image.openshift.io/v1/images?*continue="),
        row("list streams", api, Method::GET, "^/apis/image.openshift.io/v1/imagestreams?"),
        row("list pods", api, Method::GET, "^/api/v1/pods?"),
        row("get version", api, Method::GET, "^/version"),
        row("get stream", api, Method::GET, "^/apis/image.openshift.io/v1/namespaces/shop/imagestreams/"),
        row("put stream status", api, Method::PUT, "/status"),
        row("delete manifest link", None, Method::DELETE, "^/v2/*/manifests/"),
        row("delete layer link", None, Method::DELETE, "^/v2/*/blobs/"),
        row("delete blob", None, Method::DELETE, "^/admin/blobs/"),
        row("delete image", api, Method::DELETE, "^/apis/image.openshift.io/v1/images/"),
        row("registry ping", None, Method::GET, "^/v2/$"),
        Row { skip: 1, ..row("registry login", None, Method::GET, "^/v2/$") },
        row("watch or poll", api, Method::GET, "watch=1"),
        row("evict in replica", Some(Server::Registry(1)), Method::DELETE, "^/admin/blobs/"),
    ]
}

impl Row {
    fn is_api(&self) -> bool {
        self.server == Some(Server::Api)
    }

    /// An error as this server words it.
    fn error(&self, status: StatusCode, reason: &str) -> Answer {
        if self.is_api() {
            return Answer::kubernetes(status, reason, "a fault of the test");
        }
        let body = json!({ "errors": [{ "code": reason.to_uppercase(), "message": "a fault of the test" }] });
        Answer::new(status).header("content-type", "application/json").body(body.to_string())
    }
}

/// A way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    ResetBefore,
    ResetAfter,
    Hang,
    Expired,
    Unauthorized,
    Forbidden,
    NotFound,
    Conflict,
    Gone,
    TooMany,
    InternalOnce,
    Internal,
    UnavailableOnce,
    Truncated,
    Garbage,
    Redirect,
    Endless,
}

const COLUMNS: [(Column, &str); 17] = [
    (Column::ResetBefore, "reset before"),
    (Column::ResetAfter, "reset after"),
    (Column::Hang, "no answer"),
    (Column::Expired, "token expired"),
    (Column::Unauthorized, "401"),
    (Column::Forbidden, "403"),
    (Column::NotFound, "404"),
    (Column::Conflict, "409"),
    (Column::Gone, "410"),
    (Column::TooMany, "429"),
    (Column::InternalOnce, "500 once"),
    (Column::Internal, "500"),
    (Column::UnavailableOnce, "503 once"),
    (Column::Truncated, "cut body"),
    (Column::Garbage, "garbage"),
    (Column::Redirect, "redirect"),
    (Column::Endless, "endless body"),
];

/// What a cell came to.
enum Verdict {
    Held,
    /// The run sent no such request.
    NotReached,
    Broken(String),
}

/// Two replicas that remember everything; two streams with an image that stays and one that goes, which share a layer.
struct Shop {
    cluster: Cluster,
    state: tempfile::TempDir,
    gone: Vec<(Digest, String)>,
    /// Where the user's token stands.
    token_file: std::path::PathBuf,
    token: String,
}

/// What the cluster holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Snapshot {
    images: BTreeSet<String>,
    tags: BTreeSet<(String, String, String)>,
    blobs: BTreeSet<Digest>,
    links: BTreeSet<(&'static str, &'static str, Digest)>,
    /// What a replica still names although the data is gone.
    stale: BTreeSet<String>,
}

impl Snapshot {
    /// What this one lacks of the other.
    fn lost(&self, kept: &Self) -> Vec<String> {
        let mut lost: Vec<String> = kept.images.difference(&self.images).cloned().collect();
        lost.extend(kept.tags.difference(&self.tags).map(|tag| format!("{tag:?}")));
        lost.extend(kept.blobs.difference(&self.blobs).map(|blob| format!("blob {blob}")));
        lost.extend(kept.links.difference(&self.links).map(|link| format!("{link:?}")));
        lost
    }
}

impl Shop {
    /// With so many further images that no rule concerns.
    fn start(more: usize) -> Self {
        let layers = Rule::new(&["get"], &["", "image.openshift.io"], &["imagestreams/layers"]);
        let cluster = Cluster::start(ClusterConfig {
            sandbox: Config::default().user(USER, USER, pruner_and([layers])),
            registry: Some(RegistryConfig::default()),
            replicas: 2,
            ..ClusterConfig::default()
        });
        let state = tempfile::tempdir().unwrap();
        let token = cluster.sandbox().token(USER);
        let token_file = state.path().join("token");
        std::fs::write(&token_file, &token).unwrap();
        let mut shop = Self { cluster, state, gone: Vec::new(), token_file, token };
        let store = shop.cluster.sandbox().store();
        for number in 0..more {
            let name = Digest::of(format!("bystander {number}").as_bytes());
            let metadata = json!({ "name": name.as_str(), "creationTimestamp": timestamp(Timestamp::now()) });
            store.create(
                "images",
                json!({
                    "apiVersion": "image.openshift.io/v1",
                    "kind": "Image",
                    "metadata": metadata,
                    "dockerImageReference": format!("elsewhere.example/a/b@{name}"),
                }),
            );
        }
        shop.gone = shop::fill(&shop.cluster);
        shop
    }

    fn run(&self, args: &[&str], bounded: bool) -> Ran {
        let plugin = Plugin::new();
        let kubeconfig = std::fs::read_to_string(self.cluster.kubeconfig(self.state.path(), USER)).unwrap();
        let inline = format!("token: {}", self.cluster.sandbox().token(USER));
        assert!(kubeconfig.contains(&inline));
        let by_file = format!("tokenFile: {}", self.token_file.display());
        let running = plugin
            .file("ca.crt", self.cluster.sandbox().ca_pem())
            .file("config", kubeconfig.replace(&inline, &by_file))
            .env("XDG_STATE_HOME", self.state.path().join("runs"))
            .args(args)
            .args(["--confirm", "--certificate-authority=ca.crt", "--kubeconfig=config", "--v=10"])
            .start();
        if bounded {
            let limit = format!("--data={MEMORY}");
            let limited =
                Command::new("prlimit").args(["--pid", &running.pid().to_string(), &limit]).output();
            assert!(limited.is_ok(), "{limited:?}");
        }
        running.wait()
    }

    fn prune(&self, args: &[&str], bounded: bool) -> Ran {
        self.run(&[&["--keep-tag-revisions=1"], args].concat(), bounded)
    }

    fn snapshot(&self) -> Snapshot {
        let store = self.cluster.sandbox().store();
        let storage = self.cluster.storage();
        let stale = shop::stale(&self.cluster, &self.gone);
        let mut links = BTreeSet::new();
        for repository in REPOSITORIES {
            links.extend(
                storage.manifest_links(repository).into_iter().map(|link| ("manifest", repository, link)),
            );
            links.extend(storage.layer_links(repository).into_iter().map(|link| ("layer", repository, link)));
        }
        let mut items = BTreeSet::new();
        for stream in store.list("imagestreams") {
            for (tag, digests) in tags(&stream) {
                let repository = common::cluster::repository(&stream);
                items.extend(digests.into_iter().map(|digest| (repository.clone(), tag.clone(), digest)));
            }
        }
        Snapshot {
            images: store.names("images").into_iter().collect(),
            tags: items,
            blobs: storage.blobs(),
            links,
            stale,
        }
    }

    /// Replaces the user's token when this is run: the old one has expired.
    fn expire(&self) -> Action {
        let (access, old, file) =
            (self.cluster.sandbox().access().clone(), self.token.clone(), self.token_file.clone());
        Action::hook(move || {
            access.add_token(USER, RENEWED);
            access.revoke_token(&old);
            std::fs::write(&file, RENEWED).unwrap();
        })
    }
}

/// A host that nobody has credentials for, and what it was asked.
fn other_host(cluster: &Cluster) -> (Serving, RequestLog) {
    let log = RequestLog::default();
    let service = Service {
        server: Server::Route(0),
        handler: Arc::new(|_| Box::pin(async { Response::new(full("{}")) })),
        faults: Faults::default(),
        log: log.clone(),
    };
    let sandbox = cluster.sandbox();
    (serve(&sandbox.runtime(), listen(), Some(sandbox.authority().server(&SERVER_NAMES)), service), log)
}

/// The files below a directory.
fn files(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// Runs a cell; `None` for one whose limit is too long to wait for.
fn cell(row: &Row, column: Column, expected: &Snapshot) -> Option<Verdict> {
    // The registry has 60 s for a deletion, and a watch is ended by the server after as long.
    if column == Column::Hang && (!row.is_api() || row.path == "watch=1") {
        return None;
    }
    let shop = Shop::start(if row.path.contains("continue=") { 500 } else { 0 });
    let before = shop.snapshot();
    let (other, other_log) = other_host(&shop.cluster);
    let location = format!("https://localhost:{}/", other.address().port());
    let error = |status, reason| Action::Answer(row.error(status, reason));
    let is_deletion = row.method == Method::DELETE;
    let (action, times) = match column {
        Column::ResetBefore => (Action::ResetBefore, 1),
        Column::ResetAfter => (Action::ResetAfter, 1),
        Column::Hang => (Action::Hang, 1),
        Column::Expired => (shop.expire(), 1),
        Column::Unauthorized => (error(StatusCode::UNAUTHORIZED, "Unauthorized"), usize::MAX),
        Column::Forbidden => (error(StatusCode::FORBIDDEN, "Forbidden"), usize::MAX),
        // Somebody else has deleted it; nothing is to be made of an answer that lies.
        Column::NotFound if is_deletion => {
            (Action::AnswerAfter(row.error(StatusCode::NOT_FOUND, "NotFound")), 1)
        }
        Column::NotFound => (error(StatusCode::NOT_FOUND, "NotFound"), 1),
        Column::Conflict => (error(StatusCode::CONFLICT, "Conflict"), 1),
        Column::Gone => (error(StatusCode::GONE, "Expired"), 1),
        Column::TooMany => (
            Action::Answer(
                row.error(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests").header("retry-after", "1"),
            ),
            1,
        ),
        Column::InternalOnce => (error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"), 1),
        Column::Internal => (error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"), usize::MAX),
        Column::UnavailableOnce => (error(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"), 1),
        Column::Truncated => (Action::Truncate(20), 1),
        Column::Garbage => (Action::garbage(), 1),
        Column::Redirect => (Action::Answer(Answer::redirect(&location)), usize::MAX),
        Column::Endless => (Action::Flood(ENDLESS), 1),
    };
    let mut fault = Fault::new(action).method(row.method.clone()).path(row.path).skip(row.skip).times(times);
    if let Some(server) = row.server {
        fault = fault.server(server);
    }
    let faults = shop.cluster.sandbox().faults();
    let id = faults.add(fault);
    let args: &[&str] = match column {
        Column::Hang => &["--request-timeout=2s"],
        // Otherwise the run waits until a replica that always refuses has forgotten by itself: ten minutes.
        _ if row.server == Some(Server::Registry(1)) => &["--registry-cache=evict"],
        _ => &[],
    };
    let met = shop.prune(args, column == Column::Endless);
    let hits = faults.hits(id);
    faults.clear();
    let after = shop.snapshot();

    let mut broken = Vec::new();
    if !matches!(met.code, Some(0 | 1 | 3 | 4 | 124)) || met.stderr.contains("panicked") {
        broken.push(format!("it ended with {:?}", met.code));
    }
    if met.code == Some(1) && after != before {
        broken.push("it changed something and says that it did not".to_owned());
    }
    let lost = after.lost(expected);
    if !lost.is_empty() {
        broken.push(format!("it deleted what stays: {lost:?}"));
    }
    let mut written = Vec::new();
    files(&shop.state.path().join("runs"), &mut written);
    let mut texts: Vec<String> = written
        .iter()
        .map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned())
        .collect();
    texts.extend([met.stdout.clone(), met.stderr.clone()]);
    if texts.iter().any(|text| text.contains(&shop.token) || text.contains(RENEWED)) {
        broken.push("it tells its token".to_owned());
    }
    if other_log.entries().iter().any(|entry| entry.authorized) {
        broken.push("it sends its token to another host".to_owned());
    }
    // What the first run began it has written down.
    let resumed = (!matches!(met.code, Some(0 | 1))).then(|| shop.run(&["resume"], false));
    let again = shop.prune(&[], false);
    let end = shop.snapshot();
    if resumed.as_ref().is_some_and(|ran| ran.code != Some(0)) || again.code != Some(0) {
        broken.push("it cannot be finished".to_owned());
    }
    if end != *expected {
        let (lost, left) = (end.lost(expected), expected.lost(&end));
        broken.push(format!("it ends otherwise: lost {lost:?}, left {left:?}, stale {:?}", end.stale));
    }
    drop(other);
    Some(match (broken.is_empty(), hits) {
        (true, 0) => Verdict::NotReached,
        (true, _) => Verdict::Held,
        (false, _) => Verdict::Broken(format!(
            "{}\n{met}\n{}\n{again}",
            broken.join("; "),
            resumed.map(|ran| ran.to_string()).unwrap_or_default()
        )),
    })
}

fn is_chosen(wanted: &str, row: usize, column: usize, names: (&str, &str)) -> bool {
    match wanted {
        "all" => true,
        "" => (row + column).is_multiple_of(CI_EVERY) || names.0 == "delete blob",
        wanted => wanted.split_once('/').map_or(wanted == names.0, |names_wanted| names_wanted == names),
    }
}

/// By default, one cell in so many is run.
const CI_EVERY: usize = 5;

#[test]
fn whatever_fails_nothing_is_lost_and_the_next_runs_finish_it() {
    let expected = |more| {
        let whole = Shop::start(more);
        whole.prune(&[], false).exits(0);
        whole.snapshot()
    };
    let (few, many) = (expected(0), expected(500));
    assert_eq!((few.images.len(), few.blobs.len(), few.stale.len()), (2, 8, 0), "{few:?}");
    let wanted = std::env::var("FAULTS").unwrap_or_default();
    let rows = rows();
    let mut cells = Vec::new();
    for (row_number, row) in rows.iter().enumerate() {
        for (column_number, (column, name)) in COLUMNS.into_iter().enumerate() {
            if is_chosen(&wanted, row_number, column_number, (row.name, name)) {
                cells.push((row, column, name));
            }
        }
    }
    let verdicts: Mutex<BTreeMap<(&str, &str), Option<Verdict>>> = Mutex::default();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // They wait most of the time.
        for _ in 0..12 {
            scope.spawn(|| {
                while let Some((row, column, name)) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let expected = if row.path.contains("continue=") { &many } else { &few };
                    let verdict = catch_unwind(AssertUnwindSafe(|| cell(row, *column, expected)))
                        .unwrap_or_else(|panic| {
                            let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                            Some(Verdict::Broken(said))
                        });
                    verdicts.lock().unwrap().insert((row.name, name), verdict);
                }
            });
        }
    });
    let verdicts = verdicts.into_inner().unwrap();
    eprintln!("{}", shown(&rows, &verdicts));
    let mut broken = String::new();
    for ((row, column), verdict) in &verdicts {
        if let Some(Verdict::Broken(why)) = verdict {
            writeln!(broken, "=== {row}/{column}: {why}").unwrap();
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

fn shown(rows: &[Row], verdicts: &BTreeMap<(&str, &str), Option<Verdict>>) -> String {
    let mut text = String::from("+ held, ! broken, 0 no such request, - takes too long, . not run\n");
    for (number, (_, name)) in COLUMNS.iter().enumerate() {
        writeln!(text, "{:22}{}{name}", "", "| ".repeat(number)).unwrap();
    }
    let (mut run, mut held) = (0, 0);
    for row in rows {
        write!(text, "{:22}", row.name).unwrap();
        for (_, column) in COLUMNS {
            let mark = match verdicts.get(&(row.name, column)) {
                None => '.',
                Some(None) => '-',
                Some(Some(Verdict::NotReached)) => '0',
                Some(Some(Verdict::Held)) => '+',
                Some(Some(Verdict::Broken(_))) => '!',
            };
            run += usize::from(matches!(mark, '+' | '!'));
            held += usize::from(mark == '+');
            write!(text, "{mark} ").unwrap();
        }
        text.push('\n');
    }
    writeln!(text, "cells run: {run}, held: {held}").unwrap();
    text
}
