//! `usage`, `what-if` and the page of `--report`: numbers, formats, and that no name becomes markup.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::path::Path;

use common::objects::{HOST, KEEP_ONE, digest, image, pod, shop, stream};
use common::{Cluster, Plugin, Ran};
use jsonschema::Validator;
use oc_prune_images::model::{Image, Import, Inventory, Item, Stream, Tag};
use oc_prune_images::plan::usage::{Level, Shown};
use oc_prune_images::plan::{Keep, Rules, decide};
use oc_prune_images::report::document::{Context, View};
use oc_prune_images::report::html::{Found, page};
use oc_prune_images::report::usage::{SortBy, Usage};
use sandbox::Config;
use sandbox::fault::{Action, Answer, Fault};
use sandbox::registry::RegistryConfig;
use serde_json::{Value, json};

#[track_caller]
fn assert_valid(schema: &str, document: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema").join(schema);
    let schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let schema: Validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> =
        schema.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

fn run(cluster: &Cluster, command: &str, args: &[&str]) -> Ran {
    run_as(cluster, "admin", command, args)
}

fn run_as(cluster: &Cluster, user: &str, command: &str, args: &[&str]) -> Ran {
    Plugin::new().arg(command).arg("--kubeconfig").arg(cluster.kubeconfig(user)).args(args).run()
}

/// A cluster whose registry's operator is installed, with these objects.
fn with_operator(objects: Vec<Value>) -> Cluster {
    let config = Config::default().with_group("imageregistry.operator.openshift.io");
    let cluster = Cluster::with(config, RegistryConfig::default());
    cluster.sandbox.load_objects(objects.into());
    cluster
}

/// The shop, with a stream of another namespace that holds one of its images, too.
fn cluster() -> Cluster {
    let mut objects = shop();
    objects.push(stream("tools", "web", &["a"]));
    with_operator(objects)
}

fn pruner(spec: &Value) -> Value {
    json!({
        "apiVersion": "imageregistry.operator.openshift.io/v1",
        "kind": "ImagePruner",
        "metadata": { "name": "cluster" },
        "spec": spec,
    })
}

/// The columns of a table's line.
fn columns(ran: &Ran, first: &str) -> Vec<String> {
    let line = ran.stdout.lines().find(|line| line.starts_with(first)).unwrap_or_default();
    line.split_whitespace().map(ToOwned::to_owned).collect()
}

#[test]
fn usage_tells_what_is_unique_shared_in_use_and_prunable() {
    let cluster = cluster();
    let usage = run(&cluster, "usage", &[KEEP_ONE, "--sort=name", "-ojson"]).exits(0).json();
    // The layers of an image have 1000, 1001 and 1002 bytes; the config has 999 where there are two.
    let expected = [
        // base, a1, bd, b1, c1, d1 and the configs of a and c; c is in use, a is held by tools, too, b and d go.
        ("shop web", [8005, 5005, 3000, 3000, 3005, 4, 2]),
        ("shop api", [5000, 4000, 1000, 1000, 2000, 2, 1]),
        ("tools web", [3000, 0, 3000, 1000, 0, 1, 0]),
        ("untagged", [3000, 2000, 1000, 1000, 2000, 1, 1]),
        ("total", [14005, 11005, 3000, 3000, 7005, 7, 4]),
    ];
    let rows = usage["rows"].as_array().unwrap();
    let named = |name: &str| match name.split_once(' ') {
        Some((namespace, stream)) => {
            rows.iter().find(|row| row["namespace"] == namespace && row["stream"] == stream).unwrap()
        }
        None if name == "untagged" => rows.last().unwrap(),
        None => &usage["total"],
    };
    for (name, numbers) in expected {
        let row = named(name);
        let fields = [
            "bytes",
            "uniqueBytes",
            "sharedBytes",
            "referencedBytes",
            "prunableBytes",
            "images",
            "prunableImages",
        ];
        assert_eq!(fields.map(|field| row[field].as_u64().unwrap()), numbers, "{name}: {row:#}");
    }
    let plan = cluster.dry_run(&[KEEP_ONE, "-ojson"]).exits(0).json();
    assert_eq!(usage["total"]["prunableBytes"], plan["summary"]["bytes"]);
    assert_eq!(usage["total"]["prunableImages"], plan["summary"]["images"]);
    let table = run(&cluster, "usage", &[KEEP_ONE]).exits(0);
    assert_eq!(
        columns(&table, "shop"),
        ["shop", "web", "7.8KiB", "4.8KiB", "2.9KiB", "2.9KiB", "2.9KiB", "4", "2"],
        "{table}"
    );
    assert_eq!(
        columns(&table, "TOTAL")[1..],
        ["13.6KiB", "10.7KiB", "2.9KiB", "2.9KiB", "6.8KiB", "7", "4"],
        "{table}"
    );
    table.prints("(in no stream)").prints("Not in the bytes: ");
    assert!(cluster.changes().is_empty());
}

#[test]
fn usage_goes_by_namespace_stream_or_tag_and_shows_one_namespace() {
    let cluster = cluster();
    let rows = |args: &[&str]| {
        let document = run(&cluster, "usage", args).exits(0).json();
        assert_valid("usage.json", &document);
        let name = |row: &Value| {
            let part = |field: &str| row[field].as_str().unwrap_or("-").to_owned();
            format!("{} {} {} {}", part("holder"), part("namespace"), part("stream"), part("tag"))
        };
        let rows: Vec<String> = document["rows"].as_array().unwrap().iter().map(name).collect();
        (rows, document)
    };
    let (namespaces, _) = rows(&["--by=namespace", "--sort=name", "-ojson"]);
    assert_eq!(namespaces, ["namespace shop - -", "namespace tools - -", "untagged - - -"]);
    let (tags, document) = rows(&["--by=tag", "-n", "tools", "-ojson"]);
    assert_eq!(tags, ["tag tools web latest"]);
    // The whole cluster decides all the same: nothing of it is its own.
    assert_eq!((&document["total"]["uniqueBytes"], &document["total"]["bytes"]), (&0.into(), &3000.into()));
    let (largest, _) = rows(&["--sort=prunable", KEEP_ONE, "-ojson"]);
    assert_eq!(largest[0], "stream shop web -");
    let yaml = run(&cluster, "usage", &["-oyaml"]).exits(0);
    assert!(yaml.stdout.contains("kind: Usage\n"), "{yaml}");
    run(&cluster, "usage", &["-n", "nowhere"])
        .exits(0)
        .says("there is no such image stream: nothing to show");
}

#[test]
fn what_if_says_what_the_plan_says_and_marks_the_automatic_pruner() {
    let cluster = cluster();
    cluster
        .sandbox
        .load_objects(pruner(&json!({ "keepTagRevisions": 1, "keepYoungerThanDuration": "60m0s" })));
    let lists = ["--keep-tag-revisions=0,1,3", "--keep-younger-than=1h,49h,720h"];
    let before = cluster.sandbox.request_log().entries().len();
    let ran = run(&cluster, "what-if", &[lists[0], lists[1], "-ojson"]).exits(0);
    let requests = cluster.sandbox.request_log().entries();
    let reads = requests[before..].iter().filter(|entry| entry.path.ends_with("/imagestreams")).count();
    assert_eq!(reads, 1, "the cluster is read once");
    let document = ran.json();
    assert_valid("what-if.json", &document);
    assert_eq!(document["automaticPruner"]["state"], "active");
    let combinations = document["combinations"].as_array().unwrap();
    assert_eq!(combinations.len(), 9);
    for one in combinations {
        let revisions = format!("--keep-tag-revisions={}", one["keepTagRevisions"]);
        let age = format!("--keep-younger-than={}", one["keepYoungerThan"].as_str().unwrap());
        let plan = cluster.dry_run(&[&revisions, &age, "-ojson"]).exits(0).json();
        for field in ["bytes", "images", "blobs", "imageStreamTagItems"] {
            assert_eq!(one[field], plan["summary"][field], "{field} with {revisions} {age}");
        }
        let is_todays = revisions.ends_with("=1") && age.ends_with("=1h");
        assert_eq!(one["isAutomaticPruner"], is_todays, "{one}");
    }
    let table = run(&cluster, "what-if", &lists).exits(0);
    assert_eq!(columns(&table, "        1")[1..3], ["*6.8KiB", "(4)"], "{table}");
    table
        .prints("30d (720h)")
        .prints("* The automatic pruner's setting: --keep-tag-revisions=1 --keep-younger-than=1h\n");
    assert!(cluster.changes().is_empty());
}

#[test]
fn the_automatic_pruner_may_be_absent_suspended_odd_or_out_of_reach() {
    let cluster = cluster();
    let one = ["--keep-tag-revisions=1", "--keep-younger-than=1h"];
    run(&cluster, "what-if", &one).exits(0).prints("This cluster has no automatic pruner\n");
    // Its setting gets a row and a column, whatever the lists.
    cluster.sandbox.load_objects(pruner(
        &json!({ "keepTagRevisions": 12, "keepYoungerThan": 7_200_000_000_000_i64, "suspend": true }),
    ));
    let suspended = run(&cluster, "what-if", &one).exits(0).prints("; it is suspended and never runs\n");
    assert!(
        suspended.stdout.lines().any(|line| line.starts_with("       12") && line.contains('*')),
        "{suspended}"
    );
    cluster.sandbox.load_objects(pruner(&json!({ "keepYoungerThanDuration": "3d" })));
    run(&cluster, "what-if", &one)
        .exits(0)
        .prints("setting is not known: spec.keepYoungerThanDuration: time: unknown unit");
    let forbidden = run_as(&cluster, "pruner", "what-if", &one).exits(0);
    forbidden.prints("takes the right to get imagepruners.imageregistry.operator.openshift.io\n");
    let broken = Action::Answer(Answer::new(http::StatusCode::INTERNAL_SERVER_ERROR));
    cluster.sandbox.faults().add(Fault::new(broken).path("/imagepruners/cluster"));
    run(&cluster, "what-if", &one).exits(0).prints("The automatic pruner's setting is not known: ");
}

#[test]
fn one_namespace_frees_no_bytes() {
    let cluster = cluster();
    let ran =
        run(&cluster, "what-if", &["-nshop", "--keep-tag-revisions=0,1", "--keep-younger-than=1h"]).exits(0);
    assert_eq!(columns(&ran, "        1")[1..], ["3"], "{ran}");
    ran.prints("With --namespace or --selector no images are deleted and no bytes are freed\n");
}

#[test]
fn references_that_do_not_parse_stop_looking_as_they_stop_a_prune() {
    let mut objects = shop();
    objects.push(pod("shop", "odd", &format!("{HOST}/shop/web:")));
    let cluster = Cluster::of(objects);
    for command in ["usage", "what-if"] {
        run(&cluster, command, &[]).exits(1).says("--ignore-invalid-refs");
        run(&cluster, command, &["--ignore-invalid-refs"]).exits(0);
    }
}

/// Names that would be markup, hide text or break the layout.
const HOSTILE: [&str; 8] = [
    "<script>alert(1)</script>",
    "\"><svg onload=alert(1)>",
    "' onmouseover='alert(1)",
    "</title></svg><img src=https://example.com/x>",
    "a&lt;b&amp;c",
    "\u{202e}gnp.exe\u{2066}\u{200b}\u{0}\u{1b}[31m",
    "שלום-مرحبا-🦀-👩‍👩‍👧",
    "]]><!--",
];

/// A cluster without a server: so many streams in so many namespaces, an image of its own for each, and a shared layer.
fn inventory(names: impl Iterator<Item = (String, String)>) -> Inventory {
    let mut inventory = Inventory::default();
    let base = inventory.names.intern(&digest("base"));
    inventory.images.set_blob_bytes(base, 1 << 30);
    for (number, (namespace, name)) in names.enumerate() {
        let layer = inventory.names.intern(&digest(&format!("layer {number}")));
        inventory.images.set_blob_bytes(layer, i64::try_from(number % 97 + 1).unwrap() << 20);
        let mut items = Vec::new();
        for of in ["new", "old"] {
            let image = inventory.names.intern(&digest(&format!("{of} {number}")));
            let layers = if of == "new" { vec![base] } else { vec![base, layer] };
            let mut record = Image::named(image);
            record.managed = true;
            inventory.images.push(record, &layers, &[]);
            items.push(Item { created: 0, image });
        }
        let latest = inventory.names.words.intern("latest");
        let tag = Tag { name: latest, items, import: Import::Never };
        inventory.streams.push(Stream {
            namespace: namespace.into(),
            name: name.into(),
            resource_version: "1".into(),
            created: 0,
            protected: false,
            selected: true,
            tags: vec![tag],
        });
    }
    inventory.streams.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    inventory
}

fn page_of(inventory: &Inventory, warnings: Vec<String>) -> String {
    let keep = Keep::Recent { tag_revisions: 1, cutoff: i128::from(i64::MAX) };
    let plan = decide(inventory, &Rules { keep, all: true, namespace: None, prune_registry: true });
    let now = jiff::Timestamp::from_second(1_767_225_600).unwrap();
    let context = Context {
        server: "https://api.example.com".into(),
        now,
        ignore_invalid_refs: false,
        registry: None,
        warnings,
    };
    let view = View { inventory, plan: &plan };
    let shown = Shown::all();
    let by = (Level::Tag, SortBy::Bytes);
    let usage = Usage::new(view, view.metadata(&context), context.warnings.clone(), by, &shown);
    page("Title <b>", &Found::new(view, usage, None, &shown), None)
}

#[test]
fn no_name_becomes_markup() {
    let long = "x".repeat(5000);
    let hostile: Vec<&str> = HOSTILE.into_iter().chain([long.as_str()]).collect();
    let names = hostile
        .iter()
        .flat_map(|namespace| hostile.iter().map(|name| ((*namespace).to_owned(), (*name).to_owned())));
    let page = page_of(&inventory(names), hostile.iter().map(|name| (*name).to_owned()).collect());
    check(&page);
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "names are shown as they are");
    assert!(!page.contains('\u{202e}') && !page.contains('\u{0}') && !page.contains('\u{1b}'));
    assert!(page.len() < 1 << 20, "{} bytes", page.len());
}

#[test]
fn a_page_of_very_many_streams_stays_small() {
    for (streams, per_namespace) in [(50_000, 5), (5_000, 5_000)] {
        let names = (0..streams)
            .map(|number| (format!("project-{}", number / per_namespace), format!("app-{number}")));
        let page = page_of(&inventory(names), Vec::new());
        check(&page);
        assert!(page.len() < 1 << 20, "{} bytes", page.len());
        assert!(page.contains("hold too little alone to have an area of their own"));
    }
}

#[test]
fn a_cluster_without_sizes_has_a_page_too() {
    let page = page_of(&Inventory::default(), Vec::new());
    check(&page);
    assert!(page.contains("there is nothing to draw"));
}

#[test]
fn pages_are_written_by_every_command_that_looks() {
    let mut objects = shop();
    for name in HOSTILE {
        objects.push(stream("shop", name, &["a"]));
    }
    objects.push(pruner(&json!({})));
    // Such names have no place in a registry: there is none.
    let cluster = with_operator(objects);
    for command in ["usage", "what-if"] {
        let path = cluster.directory().join(format!("{command}.html"));
        let report = format!("--report={}", path.display());
        let ran = run(&cluster, command, &["-ohtml", &report, KEEP_ONE]).exits(0);
        let written = std::fs::read_to_string(&path).unwrap();
        assert_eq!(written, ran.stdout.as_str());
        check(&written);
        assert!(written.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert_eq!(written.contains("<polyline"), command == "what-if");
    }
    let left: Vec<_> = std::fs::read_dir(cluster.directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(".part"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_other_commands_answer_stands_on_a_page_too() {
    let mut objects = shop();
    objects.push(stream("shop", HOSTILE[2], &["a"]));
    let cluster = with_operator(objects);
    let path = cluster.directory().join("page.html");
    let report = format!("--report={}", path.display());
    let target = format!("shop/{}", HOSTILE[2]);
    let kubeconfig = cluster.kubeconfig("admin");
    for (words, answer) in [
        (&["explain", &target][..], " stays: shop/&#39; onmouseover=&#39;alert(1):"),
        (&["explain", "--stuck", "-ojson"], "<pre>"),
        (&["cache", "status"], "<h1>The registry&#39;s caches</h1>"),
    ] {
        Plugin::new().args(words).arg("--kubeconfig").arg(&kubeconfig).arg(&report).run().exits(0);
        let written = std::fs::read_to_string(&path).unwrap();
        check(&written);
        assert!(written.contains(answer), "{words:?}: {written}");
        assert_eq!(written.contains("<svg"), words[0] == "explain");
    }
}

#[test]
fn what_is_done_about_the_caches_stands_on_a_page_also_where_it_fails() {
    let cluster = cluster();
    cluster.seed();
    let path = cluster.directory().join("page.html");
    let report = format!("--report={}", path.display());
    let kubeconfig = cluster.kubeconfig("admin");
    let digests = cluster.directory().join("digests");
    std::fs::write(&digests, format!("shop/app@sha256:{}\n", "0".repeat(64))).unwrap();
    let from = format!("--digests-from={}", digests.display());
    for (words, code, answer) in [
        (&["cache", "disable"][..], 1, "there is no deployment/image-registry"),
        (&["cache", "flush", &from], 4, "find the registry&#39;s Redis"),
        (&["cache", "flush", "--from=nowhere.json"], 1, "read the result from nowhere.json"),
    ] {
        let ran = Plugin::new().args(words).arg("--kubeconfig").arg(&kubeconfig).arg(&report).run();
        let ran = ran.exits(code);
        let written = std::fs::read_to_string(&path).unwrap();
        check(&written);
        assert!(written.contains(answer), "{words:?}: {written}\n{ran}");
    }
}

#[test]
fn the_page_of_a_prune_tells_what_would_be_done_or_was_done() {
    let cluster = cluster();
    cluster.seed();
    let path = cluster.directory().join("prune.html");
    let report = format!("--report={}", path.display());
    let planned = cluster.dry_run(&[KEEP_ONE, &report, "-ojson"]).exits(0).json();
    let page = std::fs::read_to_string(&path).unwrap();
    check(&page);
    assert!(page.contains("<h1>What a prune would do</h1>") && page.contains("<polyline"));
    assert!(page.contains(&format!(
        "<b>{}</b><span>of 7 images would be deleted</span>",
        planned["summary"]["images"]
    )));
    assert!(!page.contains("Result of the run"));
    let done = cluster.prune(&[KEEP_ONE, &report, "--registry-cache=none"]).exits(0);
    let page = std::fs::read_to_string(&path).unwrap();
    check(&page);
    assert!(
        page.contains("<h1>What a prune did</h1>") && page.contains("Everything that was planned is done.")
    );
    assert!(page.contains("The caches were left as they are."), "{done}");
    assert!(page.contains("<b>4</b><span>of 7 images deleted</span>"));
}

#[test]
fn a_page_that_cannot_be_written_is_said_before_anything_is_read() {
    let cluster = cluster();
    let before = cluster.sandbox.request_log().entries().len();
    for (path, message) in [
        ("nowhere/page.html", "write the report nowhere/page.html: no such file or directory"),
        (".", "write the report .: it is there, and no regular file"),
    ] {
        run(&cluster, "usage", &["--report", path])
            .exits(1)
            .says(message)
            .says("hint: name a file in a folder");
    }
    assert_eq!(cluster.sandbox.request_log().entries().len(), before);
    // Nothing but a whole page has the name: a run that fails leaves what was there.
    let path = cluster.directory().join("kept.html");
    std::fs::write(&path, "old").unwrap();
    let report = format!("--report={}", path.display());
    run(&cluster, "usage", &[&report, "--context=none"]).exits(1);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
    run(&cluster, "usage", &[&report]).exits(0);
    check(&std::fs::read_to_string(&path).unwrap());
}

/// Fails unless the page is well-formed, has only elements and attributes that this program writes, and asks for
/// nothing from elsewhere.
#[track_caller]
fn check(page: &str) {
    const ELEMENTS: [&str; 40] = [
        "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section", "div",
        "pre", "h1", "h2", "p", "ul", "li", "b", "span", "table", "caption", "thead", "tbody", "tr", "th",
        "td", "svg", "desc", "g", "rect", "text", "line", "polyline", "polygon", "circle", "pattern", "code",
        "dl", "dt", "dd",
    ];
    const ATTRIBUTES: [&str; 33] = [
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "class",
        "id",
        "role",
        "scope",
        "tabindex",
        "aria-label",
        "aria-labelledby",
        "aria-hidden",
        "width",
        "height",
        "x",
        "y",
        "x1",
        "x2",
        "y1",
        "y2",
        "cx",
        "cy",
        "r",
        "points",
        "viewBox",
        "patternUnits",
        "patternTransform",
        "d",
        "rx",
        "ry",
        "colspan",
        "rowspan",
    ];
    let mut rest = page.strip_prefix("<!DOCTYPE html>\n").unwrap();
    let mut open: Vec<&str> = Vec::new();
    let mut ids = Vec::new();
    while let Some(start) = rest.find('<') {
        let (text, tag) = rest.split_at(start);
        if open.last() == Some(&"style") {
            assert!(!text.contains("@import") && !text.contains("//"), "a style sheet that loads something");
            let urls = text.matches("url(").count();
            assert_eq!(urls, text.matches("url(#hatch)").count());
        } else {
            check_text(text);
        }
        let end = tag.find('>').unwrap();
        let inside = &tag[1..end];
        rest = &tag[end + 1..];
        if let Some(name) = inside.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "near {}", &tag[..tag.len().min(80)].escape_debug());
            continue;
        }
        let (inside, closed) = inside.strip_suffix('/').map_or((inside, false), |inside| (inside, true));
        let (name, mut attributes) = inside.split_once(' ').unwrap_or((inside, ""));
        assert!(ELEMENTS.contains(&name), "element {name}");
        if open.is_empty() {
            assert_eq!(name, "html");
        }
        let mut seen = Vec::new();
        while !attributes.is_empty() {
            let (attribute, after) = attributes.split_once("=\"").unwrap();
            assert!(ATTRIBUTES.contains(&attribute) && !seen.contains(&attribute), "attribute {attribute}");
            seen.push(attribute);
            let (value, after) = after.split_once('"').unwrap();
            check_text(value);
            assert!(!value.contains("//") && !value.contains("javascript:"), "{attribute}={value}");
            if attribute == "id" {
                assert!(!ids.contains(&value), "two of {value}");
                ids.push(value);
            }
            attributes = after.trim_start();
        }
        if name == "meta" && inside.contains("Content-Security-Policy") {
            assert!(
                inside.contains("default-src &#39;none&#39;; style-src &#39;unsafe-inline&#39;"),
                "{inside}"
            );
            ids.push("policy");
        }
        if !closed {
            open.push(name);
        }
    }
    check_text(rest);
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?}");
    assert!(ids.contains(&"policy"));
    // Every picture that says something has a title and a description.
    assert_eq!(page.matches("role=\"img\"").count(), page.matches("<desc ").count());
}

#[track_caller]
fn check_text(text: &str) {
    assert!(!text.contains(['<', '>', '\u{0}']), "{}", text.escape_debug());
    for (start, _) in text.match_indices('&') {
        let known = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
        assert!(
            known.iter().any(|entity| text[start..].starts_with(entity)),
            "{}",
            text[start..].escape_debug()
        );
    }
}

#[test]
fn images_of_many_streams_are_drawn_once() {
    // Two streams of a namespace that hold the same image: it is shared, and belongs to neither.
    let objects = vec![
        image("a", &["base"]),
        stream("one", "x", &["a"]),
        stream("one", "y", &["a"]),
        stream("two", "z", &[]),
    ];
    let cluster = Cluster::of(objects);
    let page = run(&cluster, "usage", &["-ohtml"]).exits(0).stdout;
    check(&page);
    assert_eq!(page.matches("<title>one: shared by its streams: 2.9KiB</title>").count(), 2, "{page}");
    assert!(!page.contains("<title>one/x:"), "{page}");
}
