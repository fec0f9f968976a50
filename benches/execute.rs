//! A confirmed run: 20,000 image deletions and 60,000 deletions in the registry, against servers that answer after 5 ms.
//!
//! ```text
//! cargo bench --bench execute
//! ```
//!
//! `EXECUTE_IMAGES=N` takes another number of images, `EXECUTE_ROWS=1,4` only some rows. The servers delay by a timer, do
//! nothing else, and run on the same cores as the plugin.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark: whatever is wrong here ends it, and its result is what it prints"
)]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use sandbox::Sandbox;
use sandbox::api::timestamp;
use sandbox::fault::Faults;
use sandbox::log::{RequestLog, Server as Asked};
use sandbox::serve::{Body, Handler, Service, Serving, full, listen, serve};
use sandbox::tls::SERVER_NAMES;
use serde_json::{Value, json};

const LATENCY: Duration = Duration::from_millis(5);
/// A layer, the config and the manifest.
const BLOBS: usize = 3;
const REPOSITORIES: usize = 50;

/// What each row runs: its name, the flag, and above how many requests at once each server refuses.
const ROWS: [(&str, Option<usize>, usize); 7] = [
    ("--num-workers=5", Some(5), usize::MAX),
    ("--num-workers=16", Some(16), usize::MAX),
    ("--num-workers=32", Some(32), usize::MAX),
    ("--num-workers=64", Some(64), usize::MAX),
    ("default", None, usize::MAX),
    ("default, refused above 16", None, 16),
    ("--num-workers=64, refused above 16", Some(64), 16),
];

fn main() {
    let images = std::env::var("EXECUTE_IMAGES").map_or(20_000, |text| text.parse().unwrap());
    let rows: Vec<usize> = std::env::var("EXECUTE_ROWS").map_or_else(
        |_| (1..=ROWS.len()).collect(),
        |text| text.split(',').map(|row| row.parse().unwrap()).collect(),
    );
    println!("{images} images, {} deletions in the registry, {LATENCY:?} each\n", images * BLOBS);
    println!(
        "| run | at once on average (API + registry) | at most | refused | latency as served | time | requests × that ÷ concurrency | ratio | CPU | peak memory |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for row in rows {
        let (name, number, bound) = ROWS[row - 1];
        measure(images, name, number, bound);
    }
}

/// A server that delays, counts, and refuses what is too much.
struct Slow {
    bound: usize,
    in_flight: AtomicUsize,
    most: AtomicUsize,
    done: AtomicUsize,
    refused: AtomicUsize,
    /// How long requests were there, in microseconds, together.
    spent: AtomicU64,
    /// The first deletion and the last one.
    times: Mutex<Option<(Instant, Instant)>>,
}

impl Slow {
    fn new(bound: usize) -> Arc<Self> {
        Arc::new(Self {
            bound,
            in_flight: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            spent: AtomicU64::new(0),
            times: Mutex::new(None),
        })
    }

    /// Answers a deletion after the latency.
    async fn delete(self: Arc<Self>, success: Response<Body>, refusal: Response<Body>) -> Response<Body> {
        let begun = Instant::now();
        let in_flight = self.in_flight.fetch_add(1, Relaxed) + 1;
        self.most.fetch_max(in_flight, Relaxed);
        let is_refused = in_flight > self.bound;
        if !is_refused {
            // The timer counts in milliseconds and rounds up: half a millisecond on average.
            tokio::time::sleep(LATENCY.saturating_sub(Duration::from_micros(500))).await;
        }
        self.in_flight.fetch_sub(1, Relaxed);
        if is_refused {
            self.refused.fetch_add(1, Relaxed);
            return refusal;
        }
        self.done.fetch_add(1, Relaxed);
        let ended = Instant::now();
        self.spent.fetch_add(u64::try_from(ended.duration_since(begun).as_micros()).unwrap(), Relaxed);
        let mut times = self.times.lock().unwrap();
        let first = times.map_or(begun, |(first, _)| first);
        *times = Some((first, ended));
        success
    }
}

fn answer(status: StatusCode, body: &'static str) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

fn with_header(mut response: Response<Body>, name: &'static str, value: &'static str) -> Response<Body> {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

/// The API server: everything but deletions is the sandbox's.
fn api(slow: Arc<Slow>, sandbox: Handler) -> Handler {
    Arc::new(move |request: Request<Bytes>| -> BoxFuture<'static, Response<Body>> {
        if request.method() != Method::DELETE {
            return sandbox(request);
        }
        let success = answer(StatusCode::OK, r#"{"kind":"Status","apiVersion":"v1","status":"Success"}"#);
        let refusal =
            answer(StatusCode::TOO_MANY_REQUESTS, r#"{"kind":"Status","status":"Failure","code":429}"#);
        Arc::clone(&slow).delete(success, with_header(refusal, "retry-after", "1")).boxed()
    })
}

/// The registry.
fn registry(slow: Arc<Slow>) -> Handler {
    Arc::new(move |request: Request<Bytes>| -> BoxFuture<'static, Response<Body>> {
        let version = |answer| with_header(answer, "docker-distribution-api-version", "registry/2.0");
        if request.method() != Method::DELETE {
            return std::future::ready(version(answer(StatusCode::OK, "{}"))).boxed();
        }
        let success = version(answer(StatusCode::NO_CONTENT, ""));
        Arc::clone(&slow).delete(success, version(answer(StatusCode::SERVICE_UNAVAILABLE, ""))).boxed()
    })
}

fn measure(images: usize, name: &str, number: Option<usize>, bound: usize) {
    let sandbox = Sandbox::start(sandbox::Config::default());
    let (at_api, at_registry) = (Slow::new(bound), Slow::new(bound));
    let start = |server, handler| -> Serving {
        let service = Service { server, handler, faults: Faults::default(), log: RequestLog::default() };
        let tls = sandbox.authority().server(&SERVER_NAMES);
        serve(&sandbox.runtime(), listen(), Some(tls), service)
    };
    let front = start(Asked::Api, api(Arc::clone(&at_api), sandbox.api().handler()));
    let registry = start(Asked::Registry(0), registry(Arc::clone(&at_registry)));
    for number in 0..images {
        sandbox.store().create("images", image(number));
    }
    let home = tempfile::tempdir().unwrap();
    let kubeconfig: PathBuf = sandbox.write_kubeconfig(home.path(), "pruner");
    let text = std::fs::read_to_string(&kubeconfig).unwrap();
    std::fs::write(&kubeconfig, text.replace(&sandbox.api_url(), &format!("https://{}", front.address())))
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_oc-prune_images"));
    command
        .args(["--confirm", "--check=off", "--registry-cache=none", "--keep-younger-than=0s"])
        .arg(format!("--registry-url=https://{}", registry.address()))
        .args(number.map(|number| format!("--num-workers={number}")))
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .arg("--certificate-authority")
        .arg(sandbox.write_ca(home.path()))
        .env("HOME", home.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let (cpu, memory) = run(command.spawn().unwrap());

    let both = [&at_api, &at_registry];
    let latency = both.iter().map(|slow| slow.spent.load(Relaxed) as f64 / 1e6).sum::<f64>();
    let latency = latency / (images * (1 + BLOBS)) as f64;
    let done: Vec<usize> = both.iter().map(|slow| slow.done.load(Relaxed)).collect();
    assert_eq!(done, [images, images * BLOBS], "{name}");
    let times = both.map(|slow| slow.times.lock().unwrap().unwrap());
    let first = times.iter().map(|(first, _)| *first).min().unwrap();
    let last = times.iter().map(|(_, last)| *last).max().unwrap();
    let wall = last.duration_since(first).as_secs_f64();
    let spent = both.map(|slow| slow.spent.load(Relaxed) as f64 / 1e6);
    let average = spent.map(|spent| spent / wall);
    let most = both.map(|slow| slow.most.load(Relaxed));
    // A number is that of all requests together. What a server bears, or the default allows, it has for itself, and the
    // registry has the most to do.
    let together = number.map_or(0.0, |number| (images * (1 + BLOBS)) as f64 / number as f64);
    let alone = (images * BLOBS) as f64 / bound.min(number.unwrap_or(64)) as f64;
    let ideal = latency * together.max(alone);
    println!(
        "| {name} | {:.1} + {:.1} | {} + {} | {} + {} | {:.1} ms | {wall:.2} s | {ideal:.2} s | {:.2} | {cpu:.1} s | {memory} MiB |",
        average[0],
        average[1],
        most[0],
        most[1],
        at_api.refused.load(Relaxed),
        at_registry.refused.load(Relaxed),
        latency * 1e3,
        wall / ideal,
    );
    drop((front, registry));
}

/// Waits for the run; returns its CPU time in seconds and its peak memory in MiB.
fn run(mut child: Child) -> (f64, u64) {
    let (id, ended) = (child.id(), Arc::new(AtomicBool::new(false)));
    let watching = Arc::clone(&ended);
    let watch = std::thread::spawn(move || {
        let mut seen = (0.0, 0);
        while !watching.load(Relaxed) {
            if let Ok(status) = std::fs::read_to_string(format!("/proc/{id}/status"))
                && let Some(peak) = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))
            {
                seen.1 = peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024;
            }
            if let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat")) {
                let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
                let ticks = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
                if ticks > 0.0 {
                    seen.0 = ticks / 100.0;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        seen
    });
    let status = child.wait().unwrap();
    ended.store(true, Relaxed);
    assert!(status.success(), "{status}");
    watch.join().unwrap()
}

/// An image that nothing uses, with blobs of its own.
fn image(number: usize) -> Value {
    let digest = |part: usize| format!("sha256:{:064x}", number * BLOBS + part + 1);
    let old = timestamp(Timestamp::now() - SignedDuration::from_hours(100));
    json!({
        "metadata": {
            "name": digest(0),
            "creationTimestamp": old,
            "annotations": { "openshift.io/image.managed": "true" },
        },
        "dockerImageReference": format!("registry.invalid/bench/r{}@{}", number % REPOSITORIES, digest(0)),
        "dockerImageMetadata": { "kind": "DockerImage", "apiVersion": "image.openshift.io/1.0", "Id": digest(1), "Size": 9000 },
        "dockerImageMetadataVersion": "1.0",
        "dockerImageLayers": [{
            "name": digest(2),
            "size": 1000 + number,
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        }],
        "dockerImageManifestMediaType": "application/vnd.oci.image.manifest.v1+json",
    })
}
