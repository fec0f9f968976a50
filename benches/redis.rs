//! What eviction from Redis depends on: 20,000 pruned blobs in caches of 50,000 and of 5,000,000 keys; and the way by hand,
//! which scans.
//!
//! ```text
//! cargo bench --bench redis
//! ```
//!
//! Needs `redis-server` and `redis-cli`, and 2 GB of memory. `REDIS_KEYS=N` takes another number instead of 5,000,000.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark: whatever is wrong here ends it, and its result is what it prints"
)]

use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sandbox::redis::Server;
use serde_json::json;

const PRUNED: usize = 20_000;
const FEW: usize = 50_000;
const REPOSITORIES: usize = 1000;
/// How often each eviction is measured; the shortest counts, for other programs of this machine only make it longer.
const TIMES: usize = 9;

fn main() {
    let many = std::env::var("REDIS_KEYS").map_or(5_000_000, |text| text.parse().unwrap());
    let home = tempfile::tempdir().unwrap();
    let result = home.path().join("result.json");
    std::fs::write(&result, document()).unwrap();
    println!("{PRUNED} pruned blobs; each has 2 keys and a place in a set\n");
    println!(
        "| keys | `cache flush --from` | the same as a dry run | in Redis, each UNLINK | `redis-cli --scan … \\| xargs redis-cli unlink` |"
    );
    println!("| --- | --- | --- | --- | --- |");
    let mut times = Vec::new();
    for keys in [FEW, many] {
        let server = Server::start(&[]);
        // Two keys for each blob, and the sets.
        fill(&server, 0..(keys - REPOSITORIES) / 2);
        let evictions = (0..TIMES).map(|_| {
            fill(&server, pruned());
            let took = flush(&server, &result, home.path(), &["--dry-run"]);
            (took, flush(&server, &result, home.path(), &[]))
        });
        let (dry, real): (Vec<_>, Vec<_>) = evictions.unzip();
        let (dry, real) = (dry.iter().min().unwrap(), real.iter().min().unwrap());
        let each = micros(&server);
        let left = server.run("DBSIZE");
        fill(&server, pruned());
        let by_hand = by_hand(&server);
        println!(
            "| {keys} | {:.3} s | {:.3} s | {each} µs | {:.2} s ({:.0}×) |",
            real.as_secs_f64(),
            dry.as_secs_f64(),
            by_hand.as_secs_f64(),
            by_hand.as_secs_f64() / real.as_secs_f64()
        );
        let left: usize = String::from_utf8_lossy(&left).trim_matches([':', '\r', '\n']).parse().unwrap();
        assert!(left + 2 * PRUNED >= keys - 2 && left + 2 * PRUNED <= keys + 2, "{left} keys are left");
        times.push(real.as_secs_f64());
    }
    println!("\n{many} keys ÷ {FEW} keys: {:.2}", times[1] / times[0]);
}

/// The blobs that are pruned, by number.
fn pruned() -> Range<usize> {
    0..PRUNED
}

/// Digests are spread evenly, as hashes are.
fn digest(number: usize) -> String {
    let mut text = "sha256:".to_owned();
    let mut state = number as u64;
    for _ in 0..4 {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        write!(text, "{:016x}", mixed ^ (mixed >> 31)).unwrap();
    }
    text
}

fn repository(number: usize) -> String {
    format!("bench/repository-{}", number % REPOSITORIES)
}

/// Writes what a registry caches of blobs: `redis-cli --pipe` reads it.
fn fill(server: &Server, blobs: Range<usize>) {
    let mut loading = Command::new("redis-cli")
        .args(["-p", &server.port().to_string(), "--pipe"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = BufWriter::with_capacity(1 << 20, loading.stdin.take().unwrap());
    let mut command = |words: &[&str]| {
        write!(pipe, "*{}\r\n", words.len()).unwrap();
        for word in words {
            write!(pipe, "${}\r\n{word}\r\n", word.len()).unwrap();
        }
    };
    for number in blobs {
        let (digest, repository) = (digest(number), repository(number));
        let media_type = "application/octet-stream";
        command(&[
            "HSET",
            &format!("blobs::{digest}"),
            "digest",
            &digest,
            "size",
            "1048576",
            "mediatype",
            media_type,
        ]);
        command(&["SADD", &format!("repository::{repository}::blobs"), &digest]);
        command(&["HSET", &format!("repository::{repository}::blobs::{digest}"), "mediatype", media_type]);
    }
    drop(pipe);
    assert!(loading.wait().unwrap().success());
}

/// The document of a prune that deleted these blobs.
fn document() -> String {
    let changes = pruned().map(|number| {
        json!({ "kind": "blob", "digest": digest(number), "bytes": 1, "repositories": [repository(number)] })
    });
    json!({ "kind": "PruneResult", "result": { "changes": changes.collect::<Vec<_>>() } }).to_string()
}

/// From the start of the process to its end.
fn flush(server: &Server, result: &Path, home: &Path, args: &[&str]) -> Duration {
    let begun = Instant::now();
    let status = Command::new(env!("CARGO_BIN_EXE_oc-prune_images"))
        .args(["cache", "flush", &format!("--redis-url=redis://127.0.0.1:{}", server.port())])
        .arg(format!("--from={}", result.display()))
        .args(args)
        .env("HOME", home)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    begun.elapsed()
}

/// How long Redis itself took for each key on average.
fn micros(server: &Server) -> String {
    let stats = server.text("INFO commandstats");
    let unlink = stats.lines().find(|line| line.starts_with("cmdstat_unlink:")).unwrap();
    unlink.split("usec_per_call=").nth(1).unwrap().split(',').next().unwrap().to_owned()
}

/// What people do: it forgets every blob, those that stay, too, and leaves the entries of repositories behind.
fn by_hand(server: &Server) -> Duration {
    let line = format!(
        "redis-cli -p {port} --scan --pattern 'blobs::*' | xargs redis-cli -p {port} unlink > /dev/null",
        port = server.port()
    );
    let begun = Instant::now();
    assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success());
    begun.elapsed()
}
