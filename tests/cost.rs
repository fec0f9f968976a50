//! What reading and deciding cost, in allocations and bytes: of a fixed cluster they are the same in every run, on every
//! machine, unlike times. `cargo bench --bench decide` measures times and whole processes.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its data fails")]

#[path = "../benches/pages/mod.rs"]
mod pages;

use std::collections::BTreeMap;
use std::path::Path;

use allocation_counter::measure;
use oc_prune_images::inventory::read_pages;
use oc_prune_images::plan::{Keep, Plan, Rules, decide};
use oc_prune_images::report::document::View;
use oc_prune_images::report::text;
use pages::{Cluster, Format, NOW, PAGE};
use serde::{Deserialize, Serialize};

/// How much more than what is recorded is an error, in percent.
const TOLERANCE: u64 = 20;

/// What a piece of work costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Cost {
    allocations: u64,
    bytes: u64,
    /// The most bytes held at once.
    peak: u64,
}

impl Cost {
    fn of(work: impl FnOnce()) -> Self {
        let measured = measure(work);
        Self { allocations: measured.count_total, bytes: measured.bytes_total, peak: measured.bytes_max }
    }

    fn figures(self) -> [(&'static str, u64); 3] {
        [("allocations", self.allocations), ("bytes", self.bytes), ("peak", self.peak)]
    }
}

fn costs() -> BTreeMap<String, Cost> {
    let mut costs = BTreeMap::new();
    for (name, format) in [("JSON", Format::Json), ("protobuf", Format::Protobuf)] {
        let cluster = Cluster { images: PAGE, streams: 25, referrers: 2 * PAGE, padding: 1000 };
        for (resource, page) in cluster.pages(format) {
            let read = || drop(read_pages([(resource, &page)], None).unwrap());
            // Whatever is made once in a process is made now.
            read();
            costs.insert(format!("decode a page of {resource} in {name}"), Cost::of(read));
        }
    }
    let cluster = Cluster { padding: 0, ..Cluster::of(4000) };
    let inventory = read_pages(cluster.pages(Format::Protobuf), None).unwrap().inventory;
    let cutoff = i128::from(NOW - 3600) * 1_000_000_000;
    let rules = Rules {
        keep: Keep::Recent { tag_revisions: 3, cutoff },
        all: true,
        namespace: None,
        prune_registry: true,
    };
    let mut plan: Option<Plan> = None;
    costs.insert("decide about 4000 images".into(), Cost::of(|| plan = Some(decide(&inventory, &rules))));
    let plan = plan.unwrap();
    let view = View { inventory: &inventory, plan: &plan };
    let report = || text::dry_run(&mut std::io::sink(), view, true).unwrap();
    costs.insert("write a dry run of 4000 images".into(), Cost::of(report));
    // A clone allocates exactly what is held.
    let hold = || drop(std::hint::black_box(inventory.clone()));
    costs.insert("hold what was read of 4000 images".into(), Cost::of(hold));
    costs
}

#[test]
fn reading_and_deciding_allocate_no_more_than_is_recorded() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cost.json");
    let costs = costs();
    if std::env::var_os("UPDATE_COSTS").is_some() {
        let text = serde_json::to_string_pretty(&costs).unwrap();
        std::fs::write(&path, text + "\n").unwrap();
        return;
    }
    let recorded: BTreeMap<String, Cost> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(
        recorded.keys().eq(costs.keys()),
        "record what is measured now: UPDATE_COSTS=1 cargo test --test cost"
    );
    let mut worse = Vec::new();
    for ((name, now), before) in costs.iter().zip(recorded.values()) {
        for ((figure, now), (_, before)) in now.figures().into_iter().zip(before.figures()) {
            if now * 100 > before * (100 + TOLERANCE) {
                worse.push(format!("{name}: {now} {figure}, {before} are recorded"));
            }
        }
    }
    assert!(
        worse.is_empty(),
        "more than {TOLERANCE} % more than tests/cost.json says:\n{}\nif it is worth that: UPDATE_COSTS=1 cargo test --test cost",
        worse.join("\n")
    );
}
