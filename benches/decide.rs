//! What a decision costs: reading pages, deciding and reporting a dry run, without I/O, for clusters of growing size.
//!
//! ```text
//! cargo bench --bench decide
//! ```
//!
//! `DECIDE_IMAGES=N` takes one size; `DECIDE_FORMAT=json` reads JSON instead of protobuf. Each size runs in a process of
//! its own, so that peaks of memory are its own, too. Times are CPU times of the one thread that there is.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark: whatever is wrong here ends it, and its result is what it prints"
)]

mod pages;

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use oc_prune_images::inventory::read_pages;
use oc_prune_images::plan::{Keep, Rules, decide};
use oc_prune_images::report::document::View;
use oc_prune_images::report::text;
use pages::{Cluster, Format, NOW};

const SIZES: [usize; 4] = [125_000, 250_000, 500_000, 1_000_000];

fn main() {
    let format = match std::env::var("DECIDE_FORMAT").as_deref() {
        Ok("json") => Format::Json,
        _ => Format::Protobuf,
    };
    if let Ok(images) = std::env::var("DECIDE_IMAGES") {
        measure(images.parse().unwrap(), format);
        return;
    }
    println!(
        "| images | blobs | decode | decide | dry run's text | read: peak MiB | decided: peak MiB | reported: peak MiB | bytes for each image beside 44 for each blob |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for images in SIZES {
        let own = std::env::current_exe().unwrap();
        let status = Command::new(own).env("DECIDE_IMAGES", images.to_string()).status().unwrap();
        assert!(status.success(), "{status}");
    }
}

fn measure(images: usize, format: Format) {
    let cluster = Cluster::of(images);
    let mut bytes = 0;
    let mut making = Duration::ZERO;
    let mut pages = cluster.pages(format);
    // The time that making the pages takes is not the reader's.
    let timed = std::iter::from_fn(|| {
        let begun = on_cpu();
        let page = pages.next();
        making += on_cpu().saturating_sub(begun);
        bytes += page.as_ref().map_or(0, |(_, page)| page.len());
        page
    });
    let begun = on_cpu();
    let read = read_pages(timed, None).unwrap();
    let reading = on_cpu().saturating_sub(begun + making);
    let after_reading = peak();
    let mut inventory = read.inventory;
    // As whoever reads a cluster does.
    inventory.names.rest();
    let cutoff = i128::from(NOW - 3600) * 1_000_000_000;
    let rules = Rules {
        keep: Keep::Recent { tag_revisions: 3, cutoff },
        all: true,
        namespace: None,
        prune_registry: true,
    };
    let begun = on_cpu();
    let plan = decide(&inventory, &rules);
    let deciding = on_cpu().saturating_sub(begun);
    let after_deciding = peak();
    let begun = on_cpu();
    let mut out = std::io::BufWriter::new(Counted(0));
    text::dry_run(&mut out, View { inventory: &inventory, plan: &plan }, false).unwrap();
    out.flush().unwrap();
    let reporting = on_cpu().saturating_sub(begun);
    let after_reporting = peak();
    let blobs = blobs(&inventory);
    let rest = after_reporting.saturating_sub(44 * blobs) as f64 / images as f64;
    println!(
        "| {images} | {blobs} | {:.2} s, {:.0} MB/s | {:.2} s | {:.2} s, {:.0} MB | {} | {} | {} | {rest:.0} |",
        reading.as_secs_f64(),
        bytes as f64 / 1e6 / reading.as_secs_f64(),
        deciding.as_secs_f64(),
        reporting.as_secs_f64(),
        out.get_ref().0 as f64 / 1e6,
        after_reading >> 20,
        after_deciding >> 20,
        after_reporting >> 20,
    );
    // The end of the process frees them at once.
    std::mem::forget((inventory, plan));
}

/// Distinct names of layers, configs and manifests.
fn blobs(inventory: &oc_prune_images::model::Inventory) -> usize {
    let mut seen = vec![false; inventory.names.len()];
    for position in 0..inventory.images.all().len() {
        for blob in oc_prune_images::plan::named_blobs(inventory, position) {
            seen[blob.index()] = true;
        }
    }
    seen.into_iter().filter(|seen| *seen).count()
}

/// How long this thread has run.
fn on_cpu() -> Duration {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(schedule.split(' ').next().unwrap().parse().unwrap())
}

/// The most memory that this process ever held, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Counts what is written, and forgets it.
struct Counted(usize);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
