//! `Usage`: where the registry's storage goes, as a document and as a table.

use std::io::{self, Write};

use schemars::JsonSchema;
use serde::Serialize;

use super::document::{API_VERSION, Metadata, View};
use super::human::bytes;
use super::table::{Align, Table};
use crate::model::Inventory;
use crate::plan::usage::{Amounts, Holder, Level, Shown, usage};
use crate::text::printable;

/// By what the rows are sorted. Numbers stand largest first, rows that are equal by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortBy {
    /// `bytes`.
    #[default]
    Bytes,
    /// `uniqueBytes`.
    Unique,
    /// `sharedBytes`.
    Shared,
    /// `referencedBytes`.
    Referenced,
    /// `prunableBytes`.
    Prunable,
    /// `images`.
    Images,
    /// Namespace, stream and tag.
    Name,
}

impl SortBy {
    /// All of them by the word that selects them.
    pub const BY_NAME: [(&'static str, Self); 7] = [
        ("bytes", Self::Bytes),
        ("unique", Self::Unique),
        ("shared", Self::Shared),
        ("referenced", Self::Referenced),
        ("prunable", Self::Prunable),
        ("images", Self::Images),
        ("name", Self::Name),
    ];
}

/// Where the registry's storage goes.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// `prune-images/v1alpha1`.
    pub api_version: &'static str,
    /// `Usage`.
    pub kind: &'static str,
    /// The cluster, and the rules that decide what is prunable. `namespace` and `selector` limit
    /// the rows, not the decision.
    pub metadata: Metadata,
    /// What a row is about: `namespace`, `stream` or `tag`.
    pub by: &'static str,
    /// The holders of storage, sorted.
    pub rows: Vec<UsageRow>,
    /// All rows together: each image and each blob once.
    pub total: UsageAmounts,
    /// What else the administrator should know.
    pub warnings: Vec<String>,
}

/// A holder of storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageRow {
    /// `namespace`, `stream` or `tag`; `untagged` for the images that no image stream names.
    pub holder: &'static str,
    /// The namespace; absent for `untagged`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The image stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// What it holds.
    #[serde(flatten)]
    pub amounts: UsageAmounts,
}

/// What a holder holds: the blobs of its images, sub-manifests included, each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageAmounts {
    /// Image objects.
    pub images: usize,
    /// Those of them that the plan deletes.
    pub prunable_images: usize,
    /// Layers, configs and manifests.
    pub blobs: usize,
    /// Those of them whose size no Image tells: most manifests. They count 0 bytes.
    pub blobs_of_unknown_size: usize,
    /// The bytes of the blobs.
    pub bytes: u64,
    /// Of these, what no other row holds; in `total`, what only one row holds.
    pub unique_bytes: u64,
    /// The rest: what other rows hold, too; also rows that are not shown.
    pub shared_bytes: u64,
    /// What images need that a live object names, by tag or by digest: it stays whatever is kept by number or age.
    pub referenced_bytes: u64,
    /// What a prune with these rules frees.
    pub prunable_bytes: u64,
    /// What only images name that were not pushed to the integrated registry. It holds these blobs only if it mirrored
    /// them.
    pub imported_bytes: u64,
}

impl From<Amounts> for UsageAmounts {
    fn from(amounts: Amounts) -> Self {
        let shared_bytes = amounts.shared_bytes();
        let Amounts {
            images,
            prunable_images,
            blobs,
            blobs_of_unknown_size,
            bytes,
            unique_bytes,
            referenced_bytes,
            prunable_bytes,
            unique_prunable_bytes: _,
            imported_bytes,
        } = amounts;
        Self {
            images,
            prunable_images,
            blobs,
            blobs_of_unknown_size,
            bytes,
            unique_bytes,
            shared_bytes,
            referenced_bytes,
            prunable_bytes,
            imported_bytes,
        }
    }
}

impl Usage {
    /// The document, of what is shown. `metadata` is that of the plan, with what decides what is shown.
    #[must_use]
    pub fn new(
        view: View<'_>,
        metadata: Metadata,
        warnings: Vec<String>,
        (level, sort): (Level, SortBy),
        shown: &Shown,
    ) -> Self {
        let found = usage(view.inventory, view.plan, level, shown);
        let mut rows: Vec<UsageRow> = found
            .holders
            .into_iter()
            .map(|(holder, amounts)| UsageRow::of(view.inventory, holder, amounts.into()))
            .collect();
        // The rows come sorted by name, which a stable sort keeps.
        let by = |key: fn(&UsageAmounts) -> u64| move |row: &UsageRow| std::cmp::Reverse(key(&row.amounts));
        match sort {
            SortBy::Bytes => rows.sort_by_key(by(|amounts| amounts.bytes)),
            SortBy::Unique => rows.sort_by_key(by(|amounts| amounts.unique_bytes)),
            SortBy::Shared => rows.sort_by_key(by(|amounts| amounts.shared_bytes)),
            SortBy::Referenced => rows.sort_by_key(by(|amounts| amounts.referenced_bytes)),
            SortBy::Prunable => rows.sort_by_key(by(|amounts| amounts.prunable_bytes)),
            SortBy::Images => rows.sort_by_key(by(|amounts| amounts.images as u64)),
            SortBy::Name => {
                rows.sort_by(|one, other| {
                    (one.holder == "untagged", one.name()).cmp(&(other.holder == "untagged", other.name()))
                });
            }
        }
        Self {
            api_version: API_VERSION,
            kind: "Usage",
            metadata,
            by: match level {
                Level::Namespace => "namespace",
                Level::Stream => "stream",
                Level::Tag => "tag",
            },
            rows,
            total: found.total.into(),
            warnings,
        }
    }

    /// Writes the table.
    pub fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let depth = match self.by {
            "namespace" => 1,
            "stream" => 2,
            _ => 3,
        };
        let names = ["NAMESPACE", "STREAM", "TAG"].into_iter().take(depth).map(|name| (name, Align::Left));
        let numbers = ["BYTES", "UNIQUE", "SHARED", "REFERENCED", "PRUNABLE", "IMAGES", "PRUNABLE IMAGES"];
        let mut table = Table::new(names.chain(numbers.map(|name| (name, Align::Right))));
        let numbers = |amounts: &UsageAmounts| {
            let UsageAmounts {
                bytes: all,
                unique_bytes,
                shared_bytes,
                referenced_bytes,
                prunable_bytes,
                images,
                prunable_images,
                ..
            } = *amounts;
            let sizes = [all, unique_bytes, shared_bytes, referenced_bytes, prunable_bytes].map(bytes);
            sizes.into_iter().chain([images.to_string(), prunable_images.to_string()])
        };
        for row in &self.rows {
            let names = row.name().map(Option::unwrap_or_default);
            let names = match row.holder {
                "untagged" => [UNTAGGED, "", ""],
                _ => names,
            };
            let names = names.into_iter().take(depth).map(|name| printable(name).into_owned());
            table.row(names.chain(numbers(&row.amounts)));
        }
        let total = ["TOTAL", "", ""].into_iter().take(depth).map(ToOwned::to_owned);
        table.row(total.chain(numbers(&self.total)));
        table.write(out)?;
        for note in self.notes() {
            writeln!(out, "{note}")?;
        }
        Ok(())
    }

    /// What the numbers leave out.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let UsageAmounts { blobs, blobs_of_unknown_size, bytes: all, imported_bytes, .. } = self.total;
        let mut notes = Vec::new();
        if blobs_of_unknown_size > 0 {
            notes.push(format!(
                "Not in the bytes: {blobs_of_unknown_size} of {blobs} blob(s), whose size no Image tells"
            ));
        }
        if imported_bytes > 0 {
            notes.push(format!(
                "{} of {} belong to imported images alone: the registry holds them only if it mirrored them",
                bytes(imported_bytes),
                bytes(all)
            ));
        }
        notes
    }
}

/// What stands in the place of a name for images that no stream names.
pub const UNTAGGED: &str = "(in no stream)";

impl UsageRow {
    fn of(inventory: &Inventory, holder: Holder, amounts: UsageAmounts) -> Self {
        let stream = |position: usize| &inventory.streams[position];
        let mut row = Self { holder: "untagged", namespace: None, stream: None, tag: None, amounts };
        match holder {
            Holder::Untagged => {}
            Holder::Namespace(first) => {
                row.holder = "namespace";
                row.namespace = Some(stream(first).namespace.to_string());
            }
            Holder::Stream(position) => {
                row.holder = "stream";
                row.namespace = Some(stream(position).namespace.to_string());
                row.stream = Some(stream(position).name.to_string());
            }
            Holder::Tag(position, tag) => {
                row.holder = "tag";
                row.namespace = Some(stream(position).namespace.to_string());
                row.stream = Some(stream(position).name.to_string());
                row.tag = Some(inventory.names.words.text(stream(position).tags[tag].name).to_owned());
            }
        }
        row
    }

    fn name(&self) -> [Option<&str>; 3] {
        [self.namespace.as_deref(), self.stream.as_deref(), self.tag.as_deref()]
    }
}
