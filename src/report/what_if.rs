//! `WhatIf`: what other values of `--keep-tag-revisions` and `--keep-younger-than` would free, as a document and as a
//! table.

use std::fmt::Write as _;
use std::io::{self, Write};

use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::Serialize;

use super::document::{API_VERSION, Metadata};
use super::human::bytes;
use super::table::{Align, Table};
use crate::plan::{Counts, Freed};
use crate::schedule::operator::{AutomaticPruner, PrunerSettings};
use crate::text::{age_text, printable};

/// What each combination of values would free.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WhatIf {
    /// `prune-images/v1alpha1`.
    pub api_version: &'static str,
    /// `WhatIf`.
    pub kind: &'static str,
    /// The cluster, and the other rules of the decision. `keepTagRevisions` and `cutoff` are absent.
    pub metadata: Metadata,
    /// The cluster's automatic pruner, `imagepruners.imageregistry.operator.openshift.io/cluster`.
    pub automatic_pruner: PrunerEntry,
    /// The combinations, by `keepTagRevisions`, then by `keepYoungerThan`.
    pub combinations: Vec<Combination>,
    /// What else the administrator should know.
    pub warnings: Vec<String>,
}

/// The cluster's automatic pruner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrunerEntry {
    /// `active`, `suspended`, `absent`, or `unknown`.
    pub state: &'static str,
    /// Why it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many revisions of each tag it keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_tag_revisions: Option<u32>,
    /// What is younger than this stays, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_younger_than_seconds: Option<i64>,
    /// The same as `--keep-younger-than` takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_younger_than: Option<String>,
}

/// One combination of values, and what it frees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Combination {
    /// The value of `--keep-tag-revisions`.
    pub keep_tag_revisions: u32,
    /// The value of `--keep-younger-than`.
    pub keep_younger_than: String,
    /// The same in seconds.
    pub keep_younger_than_seconds: i64,
    /// Whether these are the values of the automatic pruner.
    pub is_automatic_pruner: bool,
    /// What a prune with these values deletes.
    #[serde(flatten)]
    pub counts: Counts,
    /// References that do not parse and count with these values: a prune stops at one, unless
    /// `--ignore-invalid-refs`.
    #[serde(skip_serializing_if = "is_zero")]
    pub invalid_references: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// The values of which every combination is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    /// Values of `--keep-tag-revisions`, sorted.
    pub revisions: Vec<u32>,
    /// Values of `--keep-younger-than`, sorted.
    pub ages: Vec<SignedDuration>,
}

impl Default for Grid {
    /// 0 to 10 revisions; an hour, a day, a week and 30 days.
    fn default() -> Self {
        Self { revisions: (0..=10).collect(), ages: [1, 24, 168, 720].map(SignedDuration::from_hours).into() }
    }
}

impl Grid {
    /// Adds a combination with its row and its column.
    pub fn add(&mut self, revisions: u32, age: SignedDuration) {
        if let Err(position) = self.revisions.binary_search(&revisions) {
            self.revisions.insert(position, revisions);
        }
        if let Err(position) = self.ages.binary_search(&age) {
            self.ages.insert(position, age);
        }
    }

    /// Adds what the automatic pruner is set to.
    pub fn add_pruner(&mut self, pruner: &AutomaticPruner) {
        if let AutomaticPruner::Found(PrunerSettings { keep_tag_revisions, keep_younger_than, .. }) = pruner {
            self.add(*keep_tag_revisions, *keep_younger_than);
        }
    }

    /// Every combination, by revisions, then by age.
    pub fn combinations(&self) -> impl Iterator<Item = (u32, SignedDuration)> + '_ {
        self.revisions.iter().flat_map(|revisions| self.ages.iter().map(|age| (*revisions, *age)))
    }
}

impl WhatIf {
    /// The document; `freed` has one entry for each combination of the grid, in its order.
    #[must_use]
    pub fn new(
        mut metadata: Metadata,
        warnings: Vec<String>,
        pruner: &AutomaticPruner,
        grid: &Grid,
        freed: &[Freed],
    ) -> Self {
        (metadata.keep_tag_revisions, metadata.cutoff) = (None, None);
        let automatic_pruner = PrunerEntry::of(pruner);
        let combination = |((revisions, age), freed): ((u32, SignedDuration), &Freed)| Combination {
            keep_tag_revisions: revisions,
            keep_younger_than: age_text(age),
            keep_younger_than_seconds: age.as_secs(),
            is_automatic_pruner: matches!(pruner, AutomaticPruner::Found(settings)
                if (settings.keep_tag_revisions, settings.keep_younger_than) == (revisions, age)),
            counts: freed.counts,
            invalid_references: freed.invalid_references,
        };
        Self {
            api_version: API_VERSION,
            kind: "WhatIf",
            metadata,
            combinations: grid.combinations().zip(freed).map(combination).collect(),
            automatic_pruner,
            warnings,
        }
    }

    /// The values of `--keep-younger-than`, as text.
    #[must_use]
    pub fn ages(&self) -> Vec<&str> {
        let first = self.combinations.first().map(|first| first.keep_tag_revisions);
        let row = self.combinations.iter().take_while(|one| Some(one.keep_tag_revisions) == first);
        row.map(|one| one.keep_younger_than.as_str()).collect()
    }

    /// Whether images are deleted at all; else only tag event items are.
    #[must_use]
    pub fn frees_bytes(&self) -> bool {
        self.metadata.namespace.is_none() && self.metadata.selector.is_none()
    }

    /// Writes the table.
    pub fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let items = !self.frees_bytes();
        let what = if items { "tag event items deleted" } else { "bytes freed (images deleted)" };
        writeln!(out, "{what}, by --keep-tag-revisions (down) and --keep-younger-than (across)")?;
        let ages = self.ages();
        let head = ages.iter().map(|age| (with_days(age), Align::Right));
        let mut table = Table::new(std::iter::once(("REVISIONS".to_owned(), Align::Right)).chain(head));
        for row in self.combinations.chunks(ages.len().max(1)) {
            let cells = row.iter().map(|one| {
                let mark = if one.is_automatic_pruner { "*" } else { "" };
                if items {
                    format!("{mark}{}", one.counts.image_stream_tag_items)
                } else {
                    format!("{mark}{} ({})", bytes(one.counts.bytes), one.counts.images)
                }
            });
            let revisions = row.first().map(|one| one.keep_tag_revisions.to_string());
            table.row(revisions.into_iter().chain(cells));
        }
        table.write(out)?;
        writeln!(out, "{}", self.automatic_pruner.line())?;
        for note in self.notes() {
            writeln!(out, "{note}")?;
        }
        Ok(())
    }

    /// What the numbers leave out.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.frees_bytes() {
            notes.push(
                "With --namespace or --selector no images are deleted and no bytes are freed".to_owned(),
            );
        }
        let unknown = self.combinations.iter().map(|one| one.counts.blobs_of_unknown_size).max().unwrap_or(0);
        if unknown > 0 {
            notes.push(format!("Not in the bytes: up to {unknown} blob(s) whose size no Image tells"));
        }
        notes
    }
}

/// An age with the days that it is, if it is whole days: `7d (168h)`.
#[must_use]
pub fn with_days(age: &str) -> String {
    let hours = age.strip_suffix('h').and_then(|hours| hours.parse::<u64>().ok());
    match hours {
        Some(hours) if hours > 0 && hours % 24 == 0 => format!("{}d ({age})", hours / 24),
        _ => age.to_owned(),
    }
}

impl PrunerEntry {
    fn of(pruner: &AutomaticPruner) -> Self {
        let nothing = Self {
            state: "absent",
            reason: None,
            keep_tag_revisions: None,
            keep_younger_than_seconds: None,
            keep_younger_than: None,
        };
        match pruner {
            AutomaticPruner::Absent => nothing,
            AutomaticPruner::Unknown(reason) => {
                Self { state: "unknown", reason: Some(reason.clone()), ..nothing }
            }
            AutomaticPruner::Found(settings) => Self {
                state: if settings.suspended { "suspended" } else { "active" },
                keep_tag_revisions: Some(settings.keep_tag_revisions),
                keep_younger_than_seconds: Some(settings.keep_younger_than.as_secs()),
                keep_younger_than: Some(age_text(settings.keep_younger_than)),
                ..nothing
            },
        }
    }

    /// The line about it.
    #[must_use]
    pub fn line(&self) -> String {
        match (self.state, &self.reason) {
            ("absent", _) => "This cluster has no automatic pruner".to_owned(),
            (_, Some(reason)) => {
                format!("The automatic pruner's setting is not known: {}", printable(reason))
            }
            (state, None) => {
                let mut line = "* The automatic pruner's setting".to_owned();
                if let (Some(revisions), Some(age)) = (self.keep_tag_revisions, &self.keep_younger_than) {
                    // Writing to a `String` cannot fail.
                    let _ = write!(line, ": --keep-tag-revisions={revisions} --keep-younger-than={age}");
                }
                if state == "suspended" {
                    line.push_str("; it is suspended and never runs");
                }
                line
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_days_are_named() {
        for (age, text) in
            [("24h", "1d (24h)"), ("720h", "30d (720h)"), ("1h", "1h"), ("90m", "90m"), ("0", "0")]
        {
            assert_eq!(with_days(age), text);
        }
    }

    #[test]
    fn the_pruner_s_setting_gets_a_row_and_a_column_once() {
        let mut grid = Grid::default();
        let settings = PrunerSettings::default();
        grid.add_pruner(&AutomaticPruner::Found(settings.clone()));
        assert_eq!(grid, Grid::default());
        let keep_younger_than = SignedDuration::from_hours(96);
        let other = PrunerSettings { keep_tag_revisions: 12, keep_younger_than, ..settings };
        grid.add_pruner(&AutomaticPruner::Found(other));
        assert_eq!(grid.combinations().count(), 12 * 5);
        assert_eq!(grid.ages[2], keep_younger_than);
    }
}
