//! Numbers about a run in the text format of Prometheus. Pure: the times are given.

use std::io::{self, Write};

use crate::execute::Outcome;
use crate::plan::Counts;

const LAST_SUCCESS: &str = "oc_prune_images_last_success_timestamp_seconds";

/// What is told of a run.
#[derive(Debug, Clone)]
pub struct RunMetrics<'a> {
    /// When it began, in seconds since the Unix epoch.
    pub started: i64,
    /// When it was over, likewise.
    pub ended: i64,
    /// How long it took, in seconds.
    pub duration: f64,
    /// Its exit code.
    pub exit: u8,
    /// Whether nothing was to be changed.
    pub dry_run: bool,
    /// When a confirmed run ended with 0 last: this one, or one before it.
    pub last_success: Option<i64>,
    /// What was planned, if it came to a plan.
    pub planned: Option<Counts>,
    /// What was done, if it came to that.
    pub outcome: Option<&'a Outcome>,
    /// The cache step that was chosen, or would be.
    pub cache_step: Option<&'static str>,
    /// Whether no cache can name what was deleted, if anything was to be deleted.
    pub cache_clean: Option<bool>,
}

impl RunMetrics<'_> {
    /// Writes all metrics, each with its help and type.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self {
            started,
            ended,
            duration,
            exit,
            dry_run,
            last_success,
            planned,
            outcome,
            cache_step,
            cache_clean,
        } = self;
        let one = |value: &dyn ToString| vec![(String::new(), value.to_string())];
        let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
        family(out, "info", "The program that wrote this.", &[(version, "1".to_owned())])?;
        family(out, "start_timestamp_seconds", "When the last run began.", &one(started))?;
        family(out, "end_timestamp_seconds", "When the last run was over.", &one(ended))?;
        family(out, "duration_seconds", "How long the last run took.", &one(&format!("{duration:.3}")))?;
        family(out, "exit_code", "How the last run ended: docs/exit-codes.md.", &one(exit))?;
        family(out, "dry_run", "Whether the last run was to change nothing.", &one(&u8::from(*dry_run)))?;
        let last: Vec<_> = last_success.iter().flat_map(|time| one(time)).collect();
        family(
            out,
            "last_success_timestamp_seconds",
            "When a run with --confirm ended with exit code 0 last.",
            &last,
        )?;
        objects(out, planned.as_ref(), *outcome)?;
        let failures: Vec<_> = outcome.iter().flat_map(|outcome| one(&outcome.failures.len())).collect();
        family(out, "failures", "Objects that could not be pruned.", &failures)?;
        let broken: Vec<_> = outcome.iter().flat_map(|outcome| one(&outcome.broken.len())).collect();
        family(
            out,
            "broken_images",
            "Images that were pushed or became referenced meanwhile, and lack a part.",
            &broken,
        )?;
        let step: Vec<_> =
            cache_step.iter().map(|step| (format!("{{step=\"{step}\"}}"), "1".to_owned())).collect();
        family(out, "cache_step", "What was done about the registry's caches, as a label.", &step)?;
        let clean: Vec<_> = cache_clean.iter().flat_map(|clean| one(&u8::from(*clean))).collect();
        family(out, "cache_clean", "Whether no cache of the registry names what was deleted.", &clean)
    }
}

/// Takes one number out of many.
type Counter = fn(&Counts) -> u64;

/// What is counted: the metric, its help, the number, and what `FailedObject::failed` says where one failed.
const OBJECTS: [(&str, &str, Counter, &str); 7] = [
    ("images", "Image objects.", |counts| wide(counts.images), "delete image"),
    ("items", "Tag event items of image streams.", |counts| wide(counts.image_stream_tag_items), ""),
    ("streams", "Image streams that lose items.", |counts| wide(counts.image_streams), "update image stream"),
    ("layer_links", "Layer links in repositories.", |counts| wide(counts.layer_links), "delete layer link"),
    (
        "manifest_links",
        "Manifest links in repositories.",
        |counts| wide(counts.manifest_links),
        "delete manifest link",
    ),
    ("blobs", "Blobs in the registry's storage.", |counts| wide(counts.blobs), "delete blob"),
    ("bytes", "Bytes of these blobs, as far as Images tell them.", |counts| counts.bytes, ""),
];

const fn wide(count: usize) -> u64 {
    count as u64
}

/// Numbers of objects by what became of them.
fn objects(out: &mut dyn Write, planned: Option<&Counts>, outcome: Option<&Outcome>) -> io::Result<()> {
    for (name, help, count, failed) in OBJECTS {
        let mut states: Vec<(&str, u64)> =
            planned.iter().map(|planned| ("planned", count(planned))).collect();
        if let Some(Outcome { deleted, left, failures, .. }) = outcome {
            states.push(("deleted", count(deleted)));
            states.extend(left.iter().map(|left| ("left", count(left))));
            if !failed.is_empty() {
                states.push(("failed", wide(failures.iter().filter(|one| one.failed == failed).count())));
            }
        }
        let samples: Vec<_> = states
            .into_iter()
            .map(|(state, value)| (format!("{{state=\"{state}\"}}"), value.to_string()))
            .collect();
        family(out, name, help, &samples)?;
    }
    Ok(())
}

/// The samples of one metric, each with its labels; nothing without any.
fn family(out: &mut dyn Write, name: &str, help: &str, samples: &[(String, String)]) -> io::Result<()> {
    if samples.is_empty() {
        return Ok(());
    }
    let name = format!("oc_prune_images_{name}");
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge")?;
    for (labels, value) in samples {
        writeln!(out, "{name}{labels} {value}")?;
    }
    Ok(())
}

/// When the last success was, as an earlier file says it.
#[must_use]
pub fn last_success(text: &str) -> Option<i64> {
    text.lines().find_map(|line| line.strip_prefix(LAST_SUCCESS)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::FailedObject;

    fn metrics(outcome: Option<&Outcome>) -> RunMetrics<'_> {
        RunMetrics {
            started: 1_767_225_600,
            ended: 1_767_225_661,
            duration: 61.2504,
            exit: 3,
            dry_run: false,
            last_success: Some(1_767_139_200),
            planned: Some(Counts { images: 3, image_stream_tag_items: 4, bytes: 3000, ..Counts::default() }),
            outcome,
            cache_step: Some("evict"),
            cache_clean: Some(true),
        }
    }

    fn text(metrics: &RunMetrics<'_>) -> String {
        let mut out = Vec::new();
        metrics.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_metric_has_its_help_and_type_once_and_in_front() {
        let failed = FailedObject {
            failed: "delete image",
            cause: String::new(),
            object: String::new(),
            hints: Vec::new(),
        };
        let outcome = Outcome {
            deleted: Counts { images: 2, bytes: 2000, ..Counts::default() },
            failures: vec![failed],
            left: Some(Counts { images: 1, ..Counts::default() }),
            ..Outcome::default()
        };
        let text = text(&metrics(Some(&outcome)));
        let mut seen = std::collections::BTreeSet::new();
        let mut current = "";
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                current = help.split(' ').next().unwrap();
                assert!(seen.insert(current), "{current} twice");
                assert!(text.contains(&format!("\n# TYPE {current} gauge\n")));
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(name, current, "{line}");
                assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
            }
        }
        for line in [
            "oc_prune_images_duration_seconds 61.250",
            "oc_prune_images_exit_code 3",
            "oc_prune_images_images{state=\"planned\"} 3",
            "oc_prune_images_images{state=\"deleted\"} 2",
            "oc_prune_images_images{state=\"left\"} 1",
            "oc_prune_images_images{state=\"failed\"} 1",
            "oc_prune_images_bytes{state=\"deleted\"} 2000",
            "oc_prune_images_failures 1",
            "oc_prune_images_cache_step{step=\"evict\"} 1",
            "oc_prune_images_cache_clean 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let metrics = RunMetrics {
            planned: None,
            last_success: None,
            cache_step: None,
            cache_clean: None,
            ..metrics(None)
        };
        let text = text(&metrics);
        for name in ["images{", "failures", "cache", "last_success"] {
            assert!(!text.contains(name), "{name} is in\n{text}");
        }
    }

    #[test]
    fn the_last_success_is_found_again() {
        assert_eq!(last_success(&text(&metrics(None))), Some(1_767_139_200));
        assert_eq!(last_success("something else\n"), None);
        assert_eq!(last_success("oc_prune_images_last_success_timestamp_seconds soon\n"), None);
    }
}
