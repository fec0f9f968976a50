//! One page for a browser: what was found and decided, in pictures and tables. It needs no network, no script and no
//! other file, and follows the reader's choice of light or dark.

mod curves;
mod markup;
mod storage;
mod treemap;

use std::fmt::Display;

pub use storage::Storage;

use super::cache::CacheReport;
use super::document::{Metadata, View};
use super::human::bytes;
use super::text;
use super::usage::{UNTAGGED, Usage, UsageRow};
use super::what_if::{Combination, WhatIf, with_days};
use crate::cache::CacheOutcome;
use crate::execute::{FailedObject, Outcome, Spared};
use crate::plan::Counts;
use crate::plan::stays::{Reason, Stays, stays};
use crate::plan::usage::{Area, Shown};
use crate::verify::Verification;
use markup::{Html, cut};

/// The most rows of a table.
const MOST_ROWS: usize = 30;
/// The longest name or message, in characters.
const LONGEST: usize = 300;

/// What was found and decided before anything was changed.
#[derive(Debug, Clone)]
pub struct Found {
    /// The cluster, and the rules of the decision.
    pub metadata: Metadata,
    /// What the plan deletes.
    pub planned: Counts,
    /// The storage.
    pub storage: Storage,
    /// The same in numbers.
    pub usage: Usage,
    /// What stays, by reason.
    pub stays: Vec<Stays>,
    /// What other values would free; not in over-size mode.
    pub what_if: Option<WhatIf>,
    /// What else the administrator should know.
    pub warnings: Vec<String>,
}

impl Found {
    /// Takes from a plan what the page shows.
    #[must_use]
    pub fn new(view: View<'_>, usage: Usage, what_if: Option<WhatIf>, shown: &Shown) -> Self {
        Self {
            metadata: usage.metadata.clone(),
            planned: view.summary(),
            storage: Storage::new(view, shown),
            stays: stays(view.inventory, view.plan),
            what_if,
            warnings: usage.warnings.clone(),
            usage,
        }
    }
}

/// What a confirmed run did.
#[derive(Debug, Clone, Copy)]
pub struct Done<'a> {
    /// What was deleted, what failed, what was spared.
    pub outcome: &'a Outcome,
    /// How the cache step ended.
    pub cache: &'a CacheOutcome,
    /// The same in words.
    pub report: &'a CacheReport,
}

/// Writes the page. Without `done` nothing was changed.
#[must_use]
pub fn page(title: &str, found: &Found, done: Option<Done<'_>>) -> String {
    whole(title, found, done, None)
}

/// Writes the page of a command that explains: what it printed, and the storage that it is about.
#[must_use]
pub fn page_with_text(title: &str, found: &Found, text: &str) -> String {
    whole(title, found, None, Some(text))
}

/// Writes the page of a command that is about no storage: what it printed, and about which cluster.
#[must_use]
pub fn text_page(title: &str, server: Option<&str>, text: &str) -> String {
    document(title, |html| {
        html.element("header", &[], |html| {
            html.leaf("h1", &[], title);
            if let Some(server) = server {
                html.leaf("p", &[("class", &"muted")], format!("Cluster {}", cut(server, LONGEST)));
            }
        });
        html.element("main", &[], |html| printed(html, text));
    })
}

fn whole(title: &str, found: &Found, done: Option<Done<'_>>, text: Option<&str>) -> String {
    document(title, |html| {
        html.element("header", &[], |html| {
            html.leaf("h1", &[], title);
            html.leaf("p", &[("class", &"muted")], place(&found.metadata));
            facts(html, found, done);
        });
        html.element("main", &[], |html| {
            if let Some(done) = done {
                result(html, done);
            }
            warnings(html, &found.warnings);
            if let Some(text) = text {
                printed(html, text);
            }
            storage_section(html, found, done.is_some());
            reasons(html, found);
            if let Some(what_if) = &found.what_if {
                what_if_section(html, what_if);
            }
        });
        definitions(html);
    })
}

/// What stands around every page.
fn document(title: &str, body: impl FnOnce(&mut Html)) -> String {
    let mut html = Html::page();
    html.element("html", &[("lang", &"en")], |html| {
        html.element("head", &[], |html| {
            html.empty("meta", &[("charset", &"utf-8")]);
            html.empty(
                "meta",
                &[
                    ("http-equiv", &"Content-Security-Policy"),
                    (
                        "content",
                        &"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
                    ),
                ],
            );
            html.empty("meta", &[("name", &"viewport"), ("content", &"width=device-width, initial-scale=1")]);
            html.empty("meta", &[("name", &"color-scheme"), ("content", &"light dark")]);
            html.empty("meta", &[("name", &"referrer"), ("content", &"no-referrer")]);
            html.leaf("title", &[], title);
            html.style(include_str!("style.css"));
        });
        html.element("body", &[], body);
    });
    html.finish()
}

/// The text that went to stdout.
fn printed(html: &mut Html, text: &str) {
    section(html, "Answer", |html| html.leaf("pre", &[], text.trim_end()));
}

/// Where, when and by which rules.
fn place(metadata: &Metadata) -> String {
    let Metadata {
        server,
        now,
        keep_tag_revisions,
        cutoff,
        prune_over_size_limit,
        all,
        namespace,
        selector,
        prune_registry,
        ignore_invalid_refs: _,
        registry: _,
    } = metadata;
    let mut parts = vec![format!("Cluster {server}, read at {now}")];
    if let Some(namespace) = namespace {
        parts.push(format!("namespace {namespace}"));
    }
    if let Some(selector) = selector {
        parts.push(format!("streams with {selector}"));
    }
    if let Some(revisions) = keep_tag_revisions {
        parts.push(format!("--keep-tag-revisions={revisions}"));
    }
    if let Some(cutoff) = cutoff {
        parts.push(format!("younger than {cutoff} stays"));
    }
    for (is_given, flag) in [
        (*prune_over_size_limit, "--prune-over-size-limit"),
        (!all, "--all=false"),
        (!prune_registry, "--prune-registry=false"),
    ] {
        if is_given {
            parts.push(flag.to_owned());
        }
    }
    cut(&parts.join(" · "), 2 * LONGEST)
}

fn facts(html: &mut Html, found: &Found, done: Option<Done<'_>>) {
    let total = &found.usage.total;
    let (counts, would) = match done {
        Some(done) => (&done.outcome.deleted, ""),
        None => (&found.planned, "would be "),
    };
    let was = if done.is_some() { "before the run" } else { "of images in storage" };
    let facts = [
        (bytes(total.bytes), was.to_owned()),
        (bytes(counts.bytes), format!("{would}freed{}", share(counts.bytes, total.bytes))),
        (counts.images.to_string(), format!("of {} images {would}deleted", total.images)),
        (counts.image_stream_tag_items.to_string(), format!("tag event items {would}removed")),
        (bytes(total.referenced_bytes), "needed by something in the cluster".to_owned()),
    ];
    html.element("ul", &[("class", &"facts")], |html| {
        for (number, what) in facts {
            html.element("li", &[], |html| {
                html.leaf("b", &[], number);
                html.leaf("span", &[], what);
            });
        }
    });
}

/// A part of a whole, as ` (12%)`; nothing where there is no whole.
fn share(part: u64, whole: u64) -> String {
    match u128::from(part) * 100 {
        _ if whole == 0 => String::new(),
        hundred => format!(" ({}%)", hundred / u128::from(whole)),
    }
}

fn section(html: &mut Html, title: &'static str, inside: impl FnOnce(&mut Html)) {
    html.element("section", &[], |html| {
        html.leaf("h2", &[], title);
        inside(html);
    });
}

fn warnings(html: &mut Html, warnings: &[String]) {
    if warnings.is_empty() {
        return;
    }
    section(html, "Warnings", |html| lines(html, "warn", warnings));
}

/// A list of messages; of many only the first.
fn lines<T: AsRef<str>>(html: &mut Html, class: &'static str, messages: &[T]) {
    html.element("ul", &[("class", &format!("lines {class}"))], |html| {
        for message in messages.iter().take(MOST_ROWS) {
            html.leaf("li", &[], cut(message.as_ref(), LONGEST));
        }
        if messages.len() > MOST_ROWS {
            html.leaf("li", &[], format!("and {} more", messages.len() - MOST_ROWS));
        }
    });
}

fn verified(html: &mut Html, verification: &Verification) {
    let class = if verification.broken.is_empty() { "muted" } else { "bad" };
    html.leaf("p", &[("class", &class)], format!("Whether images can be pulled: {}", verification.line()));
    let images = verification.broken.iter();
    let images =
        images.map(|image| format!("{}:{} ({})", image.repository, image.tags.join(", "), image.image));
    lines(html, "bad", &images.collect::<Vec<_>>());
}

fn result(html: &mut Html, done: Done<'_>) {
    let Done { outcome, cache, report } = done;
    let Outcome { deleted, changes: _, failures, spared, broken, verification, interrupted, left: _ } =
        outcome;
    section(html, "Result of the run", |html| {
        let clean =
            failures.is_empty() && broken.is_empty() && interrupted.is_none() && !outcome.has_broken();
        let (class, verdict) = match interrupted {
            _ if clean => ("good", "Everything that was planned is done.".to_owned()),
            Some(signal) => (
                "bad",
                format!("Ended early by {signal}: what was begun is finished, the rest is as it was."),
            ),
            None if failures.is_empty() && broken.is_empty() => (
                "bad",
                "Everything that was planned is done; some images that stay cannot be pulled.".to_owned(),
            ),
            None => ("bad", format!("{} object(s) could not be pruned.", failures.len() + broken.len())),
        };
        html.leaf("p", &[("class", &class)], verdict);
        let counts = [
            ("Images deleted", deleted.images),
            ("Tag event items removed", deleted.image_stream_tag_items),
            ("Image streams updated", deleted.image_streams),
            ("Layer links deleted", deleted.layer_links),
            ("Manifest links deleted", deleted.manifest_links),
            ("Blobs deleted", deleted.blobs),
        ];
        html.element("table", &[], |html| {
            for (what, number) in counts {
                html.element("tr", &[], |html| {
                    html.leaf("th", &[("scope", &"row")], what);
                    html.leaf("td", &[("class", &"n")], number);
                });
            }
            html.element("tr", &[("class", &"total")], |html| {
                html.leaf("th", &[("scope", &"row")], "Freed in the registry's storage");
                html.leaf(
                    "td",
                    &[("class", &"n")],
                    format!("{} ({} bytes)", bytes(deleted.bytes), deleted.bytes),
                );
            });
        });
        let failed = |FailedObject { failed, cause, object, hints: _ }: &FailedObject| {
            format!("{failed} {object}: {cause}")
        };
        if !failures.is_empty() {
            lines(html, "bad", &failures.iter().map(failed).collect::<Vec<_>>());
        }
        if !broken.is_empty() {
            html.leaf(
                "p",
                &[("class", &"bad")],
                "Needed by now, and lacks what was deleted before that was seen; push or build it again:",
            );
            lines(html, "bad", &broken.iter().map(text::broken_line).collect::<Vec<_>>());
        }
        if let Some(verification) = verification {
            verified(html, verification);
        }
        if !spared.is_empty() {
            html.leaf("p", &[], "Planned, and stays because of what happened meanwhile:");
            let objects = spared.iter().map(|Spared { object, reason, by }| match by {
                Some(by) => format!("{object}: {reason}: {by}"),
                None => format!("{object}: {reason}"),
            });
            lines(html, "muted", &objects.collect::<Vec<_>>());
        }
    });
    section(html, "The registry's caches", |html| {
        let (class, verdict) = if !cache.needed {
            ("muted", "Nothing was deleted from the registry: no cache can be stale.")
        } else if cache.may_lie() {
            ("bad", "A cache may still name what was deleted.")
        } else if cache.is_proven() {
            ("good", "Every replica was asked, and none names a deleted blob any more.")
        } else if report.warnings.is_empty() {
            ("muted", "The cache step is done; the replicas were not asked.")
        } else {
            ("warn", "The caches were left as they are.")
        };
        html.leaf("p", &[("class", &class)], verdict);
        html.leaf("p", &[("class", &"muted")], cut(&cache.plan.message, LONGEST));
        let failure = report.failure.iter().flat_map(|failure| {
            failure.message.lines().map(str::trim).chain(failure.hints.iter().map(String::as_str))
        });
        let all: Vec<&str> = report
            .lines
            .iter()
            .chain(&report.warnings)
            .chain(&report.hints)
            .map(String::as_str)
            .chain(failure)
            .collect();
        if !all.is_empty() {
            lines(html, "cache", &all);
        }
    });
}

fn storage_section(html: &mut Html, found: &Found, is_done: bool) {
    section(html, "Where the storage goes", |html| {
        let total = found.storage.total;
        if total.bytes == 0 {
            html.leaf(
                "p",
                &[("class", &"muted")],
                "No image tells the size of its layers: there is nothing to draw.",
            );
        } else {
            let (verb, when) = if is_done { ("went", ", as it was before the run") } else { ("goes", "") };
            html.leaf(
                "p",
                &[],
                format!(
                    "Each area is what one image stream holds alone, or what is shared{when}; {} of {} {verb}{}.",
                    bytes(total.prunable),
                    bytes(total.bytes),
                    share(total.prunable, total.bytes)
                ),
            );
            hatch(html);
            found.storage.draw(html, "map-wide", "wide", 1000.0, 520.0);
            found.storage.draw(html, "map-narrow", "narrow", 372.0, 620.0);
            key(html, verb);
            if found.storage.unseen > 0 {
                html.leaf(
                    "p",
                    &[("class", &"muted")],
                    format!(
                        "{} image stream(s) hold too little alone to have an area of their own.",
                        found.storage.unseen
                    ),
                );
            }
        }
        usage_table(html, &found.usage);
        for note in found.usage.notes() {
            html.leaf("p", &[("class", &"muted")], format!("{note}."));
        }
    });
}

/// The pattern of what goes. A picture that is not shown lends no pattern: it has a picture of its own.
fn hatch(html: &mut Html) {
    html.element(
        "svg",
        &[("class", &"defs"), ("width", &"0"), ("height", &"0"), ("aria-hidden", &"true")],
        |html| {
            html.element(
                "pattern",
                &[
                    ("id", &"hatch"),
                    ("width", &"10"),
                    ("height", &"10"),
                    ("patternUnits", &"userSpaceOnUse"),
                    ("patternTransform", &"rotate(45)"),
                ],
                |html| {
                    html.empty("rect", &[("class", &"hatch-ground"), ("width", &"10"), ("height", &"10")]);
                    html.empty(
                        "line",
                        &[("class", &"hatch-line"), ("x1", &"1"), ("x2", &"1"), ("y1", &"0"), ("y2", &"10")],
                    );
                },
            );
        },
    );
}

fn key(html: &mut Html, verb: &str) {
    html.element("ul", &[("class", &"key")], |html| {
        for (class, what) in [
            ("tile", "an image stream, alone".to_owned()),
            ("tile shared", "shared by several, or by nobody".to_owned()),
            ("goes", verb.to_owned()),
        ] {
            html.element("li", &[], |html| {
                html.element(
                    "svg",
                    &[("width", &"22"), ("height", &"16"), ("aria-hidden", &"true")],
                    |html| {
                        html.empty("rect", &[("class", &class), ("width", &"22"), ("height", &"16")]);
                    },
                );
                html.text(what);
            });
        }
    });
}

fn head(html: &mut Html, columns: &[(&str, bool)]) {
    html.element("thead", &[], |html| {
        html.element("tr", &[], |html| {
            for (name, is_number) in columns {
                let class = if *is_number { "n" } else { "" };
                html.leaf("th", &[("scope", &"col"), ("class", &class)], name);
            }
        });
    });
}

fn number(html: &mut Html, number: impl Display) {
    html.leaf("td", &[("class", &"n")], number);
}

fn usage_table(html: &mut Html, usage: &Usage) {
    let what = match usage.by {
        "namespace" => "Namespace",
        "tag" => "Tag",
        _ => "Image stream",
    };
    let cells = |html: &mut Html, amounts: &super::usage::UsageAmounts| {
        for size in [
            amounts.bytes,
            amounts.unique_bytes,
            amounts.shared_bytes,
            amounts.referenced_bytes,
            amounts.prunable_bytes,
        ] {
            number(html, bytes(size));
        }
        number(html, format!("{} of {}", amounts.prunable_images, amounts.images));
    };
    html.element(
        "div",
        &[
            ("class", &"scroll"),
            ("tabindex", &"0"),
            ("role", &"region"),
            ("aria-label", &"Storage in numbers"),
        ],
        |html| {
            html.element("table", &[], |html| {
                let shown = usage.rows.len().min(MOST_ROWS);
                html.leaf(
                    "caption",
                    &[],
                    format!("{shown} of {} rows; usage -o json has all", usage.rows.len()),
                );
                head(
                    html,
                    &[
                        (what, false),
                        ("Bytes", true),
                        ("Unique", true),
                        ("Shared", true),
                        ("Referenced", true),
                        ("Prunable", true),
                        ("Images that go", true),
                    ],
                );
                html.element("tbody", &[], |html| {
                    for row in usage.rows.iter().take(MOST_ROWS) {
                        html.element("tr", &[], |html| {
                            html.leaf(
                                "th",
                                &[("scope", &"row"), ("class", &"name")],
                                cut(&row_name(row), LONGEST),
                            );
                            cells(html, &row.amounts);
                        });
                    }
                    html.element("tr", &[("class", &"total")], |html| {
                        html.leaf("th", &[("scope", &"row")], "Total");
                        cells(html, &usage.total);
                    });
                });
            });
        },
    );
}

fn row_name(row: &UsageRow) -> String {
    let UsageRow { holder: _, namespace, stream, tag, amounts: _ } = row;
    let Some(namespace) = namespace else { return UNTAGGED.to_owned() };
    let mut name = namespace.clone();
    if let Some(stream) = stream {
        name = format!("{name}/{stream}");
    }
    if let Some(tag) = tag {
        name = format!("{name}:{tag}");
    }
    name
}

fn reason_text(reason: Reason) -> &'static str {
    match reason {
        Reason::InUse => "something in the cluster uses them",
        Reason::Protected => "they are marked with prune-images/keep",
        Reason::Revision => "they are within --keep-tag-revisions",
        Reason::Young => "they are younger than --keep-younger-than",
        Reason::WithinSizeLimit => "they exceed no limit of their namespace",
        Reason::NotManaged => "they were not pushed to the integrated registry (--all=false)",
        Reason::OutOfScope => "no images are deleted with these flags",
        Reason::Unclear => "they were pushed meanwhile, or have no metadata",
    }
}

fn reasons(html: &mut Html, found: &Found) {
    section(html, "Why what stays stays", |html| {
        if found.stays.is_empty() {
            html.leaf("p", &[("class", &"muted")], "No image stays.");
            return;
        }
        let whole: u64 = found.stays.iter().map(|stays| stays.bytes).sum();
        html.element("div", &[("class", &"scroll"), ("tabindex", &"0"), ("role", &"region"), ("aria-label", &"Reasons in numbers")], |html| {
            html.element("table", &[], |html| {
                html.leaf(
                    "caption",
                    &[],
                    "Each image and each blob counts once, in the uppermost row that it belongs to; an item that is young as well as in use counts as young",
                );
                head(html, &[("They stay because", false), ("", false), ("Images", true), ("Bytes", true)]);
                html.element("tbody", &[], |html| {
                    for Stays { reason, images, bytes: size } in &found.stays {
                        html.element("tr", &[], |html| {
                            html.leaf("th", &[("scope", &"row"), ("class", &"name")], reason_text(*reason));
                            html.element("td", &[("class", &"part")], |html| {
                                bar(html, Area { bytes: whole, prunable: *size });
                            });
                            number(html, images);
                            number(html, bytes(*size));
                        });
                    }
                });
            });
        });
    });
}

/// A part of a whole as a bar.
fn bar(html: &mut Html, Area { bytes: whole, prunable: part }: Area) {
    let promille = if whole == 0 { 0 } else { u128::from(part) * 1000 / u128::from(whole) };
    let width = format!("{}.{}%", promille / 10, promille % 10);
    html.element("svg", &[("width", &"100%"), ("height", &"14"), ("aria-hidden", &"true")], |html| {
        html.empty("rect", &[("class", &"track"), ("width", &"100%"), ("height", &"14")]);
        html.empty("rect", &[("class", &"bar"), ("width", &width), ("height", &"14")]);
    });
}

fn what_if_section(html: &mut Html, what_if: &WhatIf) {
    section(html, "What other values would free", |html| {
        let ages = what_if.ages();
        curves::draw(html, what_if, "curves-wide", "wide", 960.0, 380.0);
        curves::draw(html, what_if, "curves-narrow", "narrow", 372.0, 330.0);
        curves::legend(html, what_if);
        if ages.len() > curves::MOST_LINES {
            html.leaf(
                "p",
                &[("class", &"muted")],
                format!("The picture shows the first {} of {} ages.", curves::MOST_LINES, ages.len()),
            );
        }
        let what =
            if what_if.frees_bytes() { "Bytes freed (images deleted)" } else { "Tag event items deleted" };
        html.element(
            "div",
            &[
                ("class", &"scroll"),
                ("tabindex", &"0"),
                ("role", &"region"),
                ("aria-label", &"What other values would free, in numbers"),
            ],
            |html| {
                html.element("table", &[], |html| {
                    html.leaf(
                        "caption",
                        &[],
                        format!("{what}, by --keep-tag-revisions (down) and --keep-younger-than (across)"),
                    );
                    let names: Vec<String> = ages.iter().map(|age| with_days(age)).collect();
                    let columns: Vec<(&str, bool)> = std::iter::once(("Revisions", true))
                        .chain(names.iter().map(|name| (name.as_str(), true)))
                        .collect();
                    head(html, &columns);
                    html.element("tbody", &[], |html| {
                        for row in what_if.combinations.chunks(ages.len().max(1)) {
                            html.element("tr", &[], |html| {
                                if let Some(one) = row.first() {
                                    html.leaf(
                                        "th",
                                        &[("scope", &"row"), ("class", &"n")],
                                        one.keep_tag_revisions,
                                    );
                                }
                                for one in row {
                                    let class = if one.is_automatic_pruner { "n today" } else { "n" };
                                    html.leaf("td", &[("class", &class)], combination(what_if, one));
                                }
                            });
                        }
                    });
                });
            },
        );
        html.leaf("p", &[("class", &"muted")], format!("{}.", what_if.automatic_pruner.line()));
        for note in what_if.notes() {
            html.leaf("p", &[("class", &"muted")], format!("{note}."));
        }
    });
}

fn combination(what_if: &WhatIf, one: &Combination) -> String {
    let mark = if one.is_automatic_pruner { "* " } else { "" };
    if what_if.frees_bytes() {
        format!("{mark}{} ({})", curves::value_text(what_if, one.counts.bytes), one.counts.images)
    } else {
        format!("{mark}{}", one.counts.image_stream_tag_items)
    }
}

fn definitions(html: &mut Html) {
    html.element("footer", &[], |html| {
        html.leaf("h2", &[], "What the numbers mean");
        html.leaf(
            "p",
            &[("class", &"muted")],
            "Bytes are those of the blobs that images name: layers, configs and manifests, each blob once in each sum, as \
             far as an Image tells their sizes. Unique is what no other row holds, shared the rest. Referenced is what \
             images need that something in the cluster names: it stays whatever the flags. Prunable is what a prune with \
             the rules above frees.",
        );
        html.leaf("p", &[("class", &"muted")], concat!("Written by oc prune-images ", env!("CARGO_PKG_VERSION"), "."));
    });
}
