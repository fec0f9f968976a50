//! Text for people, with one line for each change in the words of `oc adm prune images`, which log scrapers read.

use std::io::{self, Write};

use super::document::{View, image_reason, stream_verdict};
use super::human::bytes;
use crate::execute::{Change, FailedObject, Outcome, Spared};
use crate::model::Stream;
use crate::plan::{
    Counts, ImageVerdict, ItemDecision, ItemKeep, ItemRemove, ItemVerdict, Keep, Plan, StreamVerdict, Use,
};
use crate::text::printable;

/// The reference's line about a change.
#[must_use]
pub fn change_line(change: &Change) -> String {
    match change {
        Change::Items { repository, items } => {
            format!("Deleting {items} items from image stream {}", printable(repository))
        }
        Change::ManifestLink { repository, digest } => {
            format!("Deleting manifest link {} in repository {}", printable(digest), printable(repository))
        }
        Change::LayerLink { repository, digest } => {
            format!("Deleting layer link {} in repository {}", printable(digest), printable(repository))
        }
        Change::Blob { digest, .. } => format!("Deleting blob {}", printable(digest)),
        Change::Image { name } => format!("Deleting image {}", printable(name)),
    }
}

/// The reference's summary; in a dry run with `would`.
#[must_use]
pub fn summary_line(counts: &Counts, dry_run: bool) -> String {
    let (delete, update) = if dry_run { ("would delete", "would update") } else { ("deleted", "updated") };
    let parts = [
        (delete, counts.images, "image object(s)"),
        (delete, counts.image_stream_tag_items, "image stream tag item(s)"),
        (update, counts.image_streams, "image stream(s)"),
        (delete, counts.layer_links, "layer link(s)"),
        (delete, counts.manifest_links, "manifest link(s)"),
        (delete, counts.blobs, "blob(s)"),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(_, count, _)| *count > 0)
        .map(|(verb, count, what)| format!("{verb} {count} {what}"))
        .collect();
    if parts.is_empty() {
        format!("Summary: {delete} 0 objects")
    } else {
        format!("Summary: {}", parts.join(", "))
    }
}

/// The last line: what the registry's storage gets back.
#[must_use]
pub fn space_line(freed: u64, of_unknown_size: usize, dry_run: bool) -> String {
    let verb = if dry_run { "Would free" } else { "Freed" };
    let unknown = match of_unknown_size {
        0 => String::new(),
        n => format!(", and {n} blob(s) whose size no Image tells"),
    };
    format!("{verb} {} ({freed} bytes) in the registry's storage{unknown}", bytes(freed))
}

/// Writes what a dry run shows; `wide` adds everything that stays, and why.
pub fn dry_run(out: &mut dyn Write, view: View<'_>, wide: bool) -> io::Result<()> {
    let doomed = view.doomed_blobs();
    for (position, (stream, decision)) in view.inventory.streams.iter().zip(&view.plan.streams).enumerate() {
        let removed = decision.removed();
        if removed == 0 && !(wide && decision.verdict.is_in_scope()) {
            continue;
        }
        let repository = stream.repository();
        write!(out, "Image stream {}: ", printable(&repository))?;
        match decision.verdict {
            StreamVerdict::Examined => writeln!(
                out,
                "{removed} of {} items go, {} freed",
                decision.items.len(),
                bytes(view.stream_bytes(position, &doomed))
            )?,
            verdict => writeln!(out, "stays as it is ({})", stream_verdict(verdict))?,
        }
        for item in &decision.items {
            if wide || matches!(item.verdict, ItemVerdict::Remove(_)) {
                write_item(out, view, position, stream, item)?;
            }
        }
        if removed > 0 {
            writeln!(
                out,
                "{}",
                change_line(&Change::Items { repository: repository.clone(), items: removed })
            )?;
        }
        for link in &decision.manifest_links {
            let change = Change::ManifestLink { repository: repository.clone(), digest: view.text(*link) };
            writeln!(out, "{}", change_line(&change))?;
        }
        for link in &decision.layer_links {
            let change = Change::LayerLink { repository: repository.clone(), digest: view.text(*link) };
            writeln!(out, "{}", change_line(&change))?;
        }
    }
    for (image, decision) in view.inventory.images.all().iter().zip(&view.plan.images) {
        let name = view.text(image.name);
        if decision.verdict == ImageVerdict::Delete {
            writeln!(
                out,
                "Image {}: goes: unused, {} freed",
                printable(&name),
                bytes(view.image_bytes(decision))
            )?;
            for blob in &decision.blobs {
                let size = view.inventory.images.blob_bytes(*blob).map_or_else(|| "?".to_owned(), bytes);
                writeln!(out, "  {size:>10}  blob {}", printable(&view.text(*blob)))?;
            }
            for blob in &decision.blobs {
                let change = Change::Blob { digest: view.text(*blob), bytes: None, repositories: Vec::new() };
                writeln!(out, "{}", change_line(&change))?;
            }
            writeln!(out, "{}", change_line(&Change::Image { name }))?;
        } else if wide {
            let by =
                view.used_by(decision.verdict).map(|by| format!(" {}", printable(&by))).unwrap_or_default();
            let uses = match decision.verdict {
                ImageVerdict::KeepReferenced(referenced, _) => view.plan.references.of_digest(referenced),
                _ => &[],
            };
            let reason = image_reason(decision.verdict);
            writeln!(out, "Image {}: stays ({reason}{by}{})", printable(&name), sample(view, uses))?;
        }
    }
    let summary = view.summary();
    writeln!(out, "{}", summary_line(&summary, true))?;
    writeln!(out, "{}", space_line(summary.bytes, summary.blobs_of_unknown_size, true))
}

fn write_item(
    out: &mut dyn Write,
    view: View<'_>,
    position: usize,
    stream: &Stream,
    item: &ItemDecision,
) -> io::Result<()> {
    let tag = printable(&stream.tags[item.tag as usize].name).into_owned();
    let image = view.text(item.image);
    let why = match item.verdict {
        ItemVerdict::Keep(keep, _) => format!("stays: {}", keep_text(view.plan, keep)),
        ItemVerdict::Remove(remove) => format!("goes: {}", remove_text(view.plan, remove)),
    };
    let uses = view.item_referrers(position, item);
    writeln!(out, "  {tag}  {}  {}  {why}{}", item.position, printable(&image), sample(view, uses))
}

fn keep_text(plan: &Plan, keep: ItemKeep) -> String {
    match keep {
        ItemKeep::Young => "younger than --keep-younger-than".into(),
        ItemKeep::TagReferenced => "the tag is in use".into(),
        ItemKeep::ImageAppeared => "its image was pushed just now".into(),
        ItemKeep::Revision => match plan.rules.keep {
            Keep::Recent { tag_revisions, .. } => format!("within --keep-tag-revisions={tag_revisions}"),
            Keep::WithinSizeLimit => "within --keep-tag-revisions".into(),
        },
        ItemKeep::WithinSizeLimit => "exceeds no limit of its namespace".into(),
        ItemKeep::ImageReferenced => "the image is in use".into(),
        ItemKeep::SubmanifestReferenced(_) => "a sub-manifest of it is in use".into(),
        ItemKeep::Protected => "marked with prune-images/keep".into(),
    }
}

fn remove_text(plan: &Plan, remove: ItemRemove) -> String {
    match (remove, plan.rules.keep) {
        (ItemRemove::ImageMissing, _) => "its Image object does not exist".into(),
        (ItemRemove::Unreferenced, Keep::Recent { tag_revisions, .. }) => {
            format!("beyond --keep-tag-revisions={tag_revisions}, and nothing uses it")
        }
        (ItemRemove::Unreferenced | ItemRemove::OverSizeLimit, _) => {
            "exceeds a limit of its namespace, and nothing uses it".into()
        }
    }
}

/// The first referrers, for a line of text.
fn sample(view: View<'_>, uses: &[Use]) -> String {
    const SHOWN: usize = 3;
    if uses.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = view
        .referrers(&uses[..uses.len().min(SHOWN)])
        .into_iter()
        .map(|entry| printable(&format!("{}/{}/{}", entry.kind, entry.namespace, entry.name)).into_owned())
        .collect();
    let more = match uses.len().saturating_sub(SHOWN) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!(" by {}{more}", shown.join(", "))
}

/// A failure as it happens, in the reference's words.
#[must_use]
pub fn failed_line(failed: &FailedObject) -> String {
    let FailedObject { failed, cause, object, hints: _ } = failed;
    let (object, cause) = (printable(object), printable(cause));
    match *failed {
        "delete blob" => format!("error deleting blob {object} from the registry: {cause}"),
        "delete image" => format!("error deleting image {object} from server: {cause}"),
        "update image stream" => {
            format!("error updating image stream {object} to remove image references: {cause}")
        }
        other => format!("error: {other} {object}: {cause}"),
    }
}

/// What stays because of what happened meanwhile.
#[must_use]
pub fn spared(spared: &[Spared]) -> String {
    use std::fmt::Write as _;
    let mut text = format!("{} planned object(s) stay because of what happened meanwhile:", spared.len());
    for Spared { object, reason } in spared {
        let why = match *reason {
            "referencedNewly" => "in use by now",
            "failedRemoval" => "something that names it, or belongs to it, could not be deleted",
            "heldByIndex" => "an index in the stream holds it",
            other => other,
        };
        let _ = write!(text, "\n  {}: {why}", printable(object));
    }
    text
}

/// The end of a confirmed run.
pub fn outcome(out: &mut dyn Write, outcome: &Outcome) -> io::Result<()> {
    let deleted = &outcome.deleted;
    writeln!(out, "{}", summary_line(deleted, false))?;
    writeln!(out, "{}", space_line(deleted.bytes, deleted.blobs_of_unknown_size, false))
}

/// The API objects that would change, one `resource/name` in a line.
pub fn names(out: &mut dyn Write, view: View<'_>) -> io::Result<()> {
    for (stream, decision) in view.inventory.streams.iter().zip(&view.plan.streams) {
        if decision.removed() > 0 {
            writeln!(out, "{}", stream_name(&stream.repository()))?;
        }
    }
    for (image, decision) in view.inventory.images.all().iter().zip(&view.plan.images) {
        if decision.verdict == ImageVerdict::Delete {
            writeln!(out, "{}", image_name(&view.text(image.name)))?;
        }
    }
    Ok(())
}

/// The API objects that were changed, one `resource/name` in a line.
pub fn changed_names(out: &mut dyn Write, outcome: &Outcome) -> io::Result<()> {
    for change in &outcome.changes {
        match change {
            Change::Items { repository, .. } => writeln!(out, "{}", stream_name(repository))?,
            Change::Image { name } => writeln!(out, "{}", image_name(name))?,
            Change::ManifestLink { .. } | Change::LayerLink { .. } | Change::Blob { .. } => {}
        }
    }
    Ok(())
}

fn stream_name(repository: &str) -> String {
    format!("imagestream.image.openshift.io/{}", printable(repository))
}

fn image_name(name: &str) -> String {
    format!("image.image.openshift.io/{}", printable(name))
}
