//! What a journal says, as a document and as text.

use std::io::{self, Write};
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::document::API_VERSION;
use crate::journal::{End, Found, Header, LinkKind, Loaded, Resumed, Selection, Standing};
use crate::text::printable;

/// What a prune has done, and what is left of it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JournalReport {
    /// `prune-images/v1alpha1`.
    pub api_version: &'static str,
    /// `Journal`.
    pub kind: &'static str,
    /// The file.
    pub path: String,
    /// `running`, `void` (nothing was changed), `cutShort`, `open` (it ended, and left something that only its journal knows
    /// of), `early` (it was ended early, or could not prune everything), `finished`.
    pub standing: &'static str,
    /// The URL of the API server.
    pub server: String,
    /// Who began it.
    pub user: String,
    /// The machine or pod that it ran on.
    pub host: String,
    /// When it began (RFC 3339).
    pub started: String,
    /// When it was resumed (RFC 3339).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resumed: Vec<String>,
    /// When it ended (RFC 3339), if it ended in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// The flags that decided.
    pub flags: String,
    /// What was planned.
    pub planned: Amounts,
    /// What is done.
    pub done: Amounts,
    /// What is not done, as far as the journal knows: `resume` finds out what of it still may go.
    pub left: Amounts,
    /// The other journals of this cluster, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Others>,
}

/// How much of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Amounts {
    /// Image objects.
    pub images: usize,
    /// Manifest links.
    pub manifest_links: usize,
    /// Layer links.
    pub layer_links: usize,
    /// Blobs.
    pub blobs: usize,
}

impl Amounts {
    fn without(self, other: Self) -> Self {
        Self {
            images: self.images.saturating_sub(other.images),
            manifest_links: self.manifest_links.saturating_sub(other.manifest_links),
            layer_links: self.layer_links.saturating_sub(other.layer_links),
            blobs: self.blobs.saturating_sub(other.blobs),
        }
    }

    fn line(self) -> String {
        let Self { images, manifest_links, layer_links, blobs } = self;
        format!(
            "{images} image(s), {manifest_links} manifest link(s), {layer_links} layer link(s), {blobs} blob(s)"
        )
    }
}

/// Another journal.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Others {
    /// The file.
    pub path: String,
    /// As above.
    pub standing: &'static str,
    /// When it began (RFC 3339).
    pub started: String,
}

impl Others {
    /// What is said of it.
    #[must_use]
    pub fn of(found: &Found) -> Self {
        Self {
            path: found.path.to_string_lossy().into_owned(),
            standing: word(&found.standing),
            started: found.header.started.to_string(),
        }
    }
}

fn word(standing: &Standing) -> &'static str {
    match standing {
        Standing::Running => "running",
        Standing::Void => "void",
        Standing::CutShort => "cutShort",
        Standing::Open(_) => "open",
        Standing::Early(_) => "early",
        Standing::Finished(_) => "finished",
    }
}

fn sentence(standing: &str) -> &'static str {
    match standing {
        "running" => "it goes on",
        "void" => "it changed nothing",
        "cutShort" => "it was cut short",
        "open" => "it left something that only this journal knows of",
        "early" => "it was ended early, or could not prune everything: the next prune does the rest",
        _ => "it is finished",
    }
}

impl JournalReport {
    /// What is said of a journal.
    #[must_use]
    pub fn of(path: &Path, loaded: &Loaded, standing: &Standing, others: Vec<Others>) -> Self {
        let Header { server, user, host, started, selection, .. } = &loaded.header;
        let links = |kind: LinkKind, done: bool| {
            loaded.links.iter().filter(|((_, of, _), is_done)| *of == kind && (!done || **is_done)).count()
        };
        let amounts = |done: bool| Amounts {
            images: loaded.images.values().filter(|image| !done || image.done).count(),
            manifest_links: links(LinkKind::Manifest, done),
            layer_links: links(LinkKind::Layer, done),
            blobs: loaded.blobs.values().filter(|blob| !done || blob.done).count(),
        };
        let (planned, done) = (amounts(false), amounts(true));
        Self {
            api_version: API_VERSION,
            kind: "Journal",
            path: path.to_string_lossy().into_owned(),
            standing: word(standing),
            server: server.clone(),
            user: user.clone(),
            host: host.clone(),
            started: started.to_string(),
            resumed: loaded.resumed.iter().map(|Resumed { started, .. }| started.to_string()).collect(),
            ended: loaded.end.as_ref().map(|End { at, .. }| at.to_string()),
            flags: flags(selection),
            planned,
            done,
            left: planned.without(done),
            others,
        }
    }

    /// Writes it for people.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut line = |name: &str, text: &str| writeln!(out, "{name:9} {}", printable(text));
        line("Journal", &self.path)?;
        line("Cluster", &self.server)?;
        line("Begun", &format!("{} by {} on {}", self.started, self.user, self.host))?;
        line("Flags", &self.flags)?;
        for resumed in &self.resumed {
            line("Resumed", resumed)?;
        }
        let ended = self.ended.as_ref().map(|at| format!(" ({at})")).unwrap_or_default();
        line("State", &format!("{}{ended}", sentence(self.standing)))?;
        line("Planned", &self.planned.line())?;
        line("Done", &self.done.line())?;
        line("Left", &self.left.line())?;
        for Others { path, standing, started } in &self.others {
            line("Another", &format!("{path}, of {started}: {}", sentence(standing)))?;
        }
        Ok(())
    }
}

/// The flags that decided, but for those with their default of a prune of everything.
fn flags(selection: &Selection) -> String {
    let Selection {
        now: _,
        keep_tag_revisions,
        keep_younger_than,
        all,
        namespace,
        selector,
        referrers_from,
        prune_registry,
        ignore_invalid_refs,
    } = selection;
    let mut flags = match (keep_tag_revisions, keep_younger_than) {
        (Some(revisions), Some(age)) => vec![
            format!("--keep-tag-revisions={revisions}"),
            format!("--keep-younger-than={}", crate::text::age_text(*age)),
        ],
        _ => vec!["--prune-over-size-limit".to_owned()],
    };
    flags.extend(namespace.iter().map(|name| format!("--namespace={name}")));
    flags.extend(selector.iter().map(|labels| format!("--selector={}", crate::text::quoted(labels))));
    flags.extend(
        (!referrers_from.is_empty()).then(|| format!("--referrers-from={}", referrers_from.join(","))),
    );
    flags.extend((!all).then(|| "--all=false".to_owned()));
    flags.extend((!prune_registry).then(|| "--prune-registry=false".to_owned()));
    flags.extend(ignore_invalid_refs.then(|| "--ignore-invalid-refs".to_owned()));
    flags.join(" ")
}
