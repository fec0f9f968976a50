//! What the cache step adds to a prune: requests and time, for 10,000 blobs with 2 and 5 replicas.
//!
//! ```text
//! cargo bench --bench evict
//! ```
//!
//! `EVICT_BLOBS=N` takes another number. The sandbox's servers run on the same cores as the plugin, so the times are upper
//! bounds. Rows with Redis need `redis-server`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark: whatever is wrong here ends it, and its result is what it prints"
)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use sandbox::api::timestamp;
use sandbox::log::Server as Asked;
use sandbox::redis::Server;
use sandbox::registry::{RedisCache, RegistryConfig};
use sandbox::{Cluster, ClusterConfig};
use serde_json::{Value, json};

/// The blobs of one image: layers, config and manifest.
const EACH: usize = 10;
const REPOSITORIES: usize = 50;

struct Measured {
    wall: Duration,
    requests: usize,
    redis_commands: u64,
}

fn main() {
    let blobs: usize = std::env::var("EVICT_BLOBS").map_or(10_000, |text| text.parse().unwrap());
    println!("| caches | replicas | step | registry requests | Redis commands | wall time |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for with_redis in [false, true] {
        if with_redis && !Server::installed() {
            continue;
        }
        for replicas in [2, 5] {
            for step in ["none", "evict"] {
                let Measured { wall, requests, redis_commands } = measure(blobs, replicas, with_redis, step);
                println!(
                    "| {} | {replicas} | {step} | {requests} | {redis_commands} | {:.2} s |",
                    if with_redis { "Redis" } else { "in-memory" },
                    wall.as_secs_f64()
                );
            }
        }
    }
}

fn measure(blobs: usize, replicas: usize, with_redis: bool, step: &str) -> Measured {
    let redis = with_redis.then(|| Server::start(&[]));
    let cache = redis.as_ref().map(|server| RedisCache::at(server.address()));
    let cluster = Cluster::start(ClusterConfig {
        registry: Some(RegistryConfig { redis: cache, ..RegistryConfig::default() }),
        replicas,
        ..ClusterConfig::default()
    });
    for number in 0..blobs / EACH {
        cluster.sandbox().store().create("images", image(&cluster, number));
    }
    let home = tempfile::tempdir().unwrap();
    let commands = || redis.as_ref().map_or(0, commands_of);
    let (before, log) = (commands(), cluster.sandbox().request_log());
    let asked = || log.filter(|entry| matches!(entry.server, Asked::Registry(_))).len();
    let already = asked();
    let begun = Instant::now();
    let status = Command::new(env!("CARGO_BIN_EXE_oc-prune_images"))
        .args(["--confirm", "--check=off", "--keep-younger-than=0s"])
        .arg(format!("--registry-cache={step}"))
        .arg(format!("--registry-url={}", cluster.registry_url(0)))
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig(home.path(), "pruner"))
        .arg("--certificate-authority")
        .arg(cluster.sandbox().write_ca(home.path()))
        .env("HOME", home.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let wall = begun.elapsed();
    assert!(status.success(), "{status}");
    Measured { wall, requests: asked() - already, redis_commands: commands().saturating_sub(before) }
}

/// An image that nothing uses, with blobs of its own. The registry confirms their deletion whether they are there or not.
fn image(cluster: &Cluster, number: usize) -> Value {
    let digest = |part: usize| format!("sha256:{:064x}", number * EACH + part + 1);
    let layers: Vec<Value> = (2..EACH)
        .map(|part| json!({ "name": digest(part), "size": 1000, "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip" }))
        .collect();
    let old = timestamp(Timestamp::now() - SignedDuration::from_hours(100));
    json!({
        "metadata": {
            "name": digest(0),
            "creationTimestamp": old,
            "annotations": { "openshift.io/image.managed": "true" },
        },
        "dockerImageReference":
            format!("{}/bench/r{}@{}", cluster.registry_host(), number % REPOSITORIES, digest(0)),
        "dockerImageMetadata": { "kind": "DockerImage", "apiVersion": "image.openshift.io/1.0", "Id": digest(1), "Size": 9000 },
        "dockerImageMetadataVersion": "1.0",
        "dockerImageLayers": layers,
        "dockerImageManifestMediaType": "application/vnd.oci.image.manifest.v1+json",
    })
}

/// How many commands that change something a Redis has carried out.
fn commands_of(server: &Server) -> u64 {
    let stats = String::from_utf8_lossy(&server.run("INFO commandstats")).into_owned();
    let calls = stats.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let counts = matches!(name, "unlink" | "del" | "srem");
        counts.then(|| rest.split(',').next()?.parse::<u64>().ok())?
    });
    calls.sum()
}
