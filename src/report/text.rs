//! Text for people, with one line for each change in the words of `oc adm prune images`, which log scrapers read.

use std::io::{self, Write};
use std::time::Duration;

use super::document::{
    BlobEntry, InvalidEntry, LeftoverEntries, MissingEntry, Owner, ReferrerEntry, Reimports, View,
};
use super::human::bytes;
use super::reason::{image_text, keep_text, remove_text, stream_text};
use crate::execute::{BrokenImage, Change, FailedObject, Outcome, Spared};
use crate::plan::{
    Counts, ImageDecision, ImageVerdict, ItemDecision, ItemVerdict, Reimport, Stage2, StreamVerdict, Use,
};
use crate::text::{printable, quoted, time_text};

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
    let (delete, update) =
        if dry_run { ("would delete ", "would update ") } else { ("deleted ", "updated ") };
    format!("Summary: {}", enumeration(counts, delete, update))
}

/// What a run that was ended early did not do.
#[must_use]
pub fn left_line(left: &Counts) -> String {
    format!("left: {}; {} in the registry's storage", enumeration(left, "", ""), bytes(left.bytes))
}

/// What there is of each kind, with a verb in front.
fn enumeration(counts: &Counts, delete: &str, update: &str) -> String {
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
        .map(|(verb, count, what)| format!("{verb}{count} {what}"))
        .collect();
    if parts.is_empty() { format!("{delete}0 objects") } else { parts.join(", ") }
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

/// Writes what is to go, and why; with `kept` also everything that stays, and why. Dry run and real run print the same.
pub fn plan(out: &mut dyn Write, view: View<'_>, kept: bool) -> io::Result<()> {
    let doomed = view.plan.doomed_blobs();
    for (position, (stream, decision)) in view.inventory.streams.iter().zip(&view.plan.streams).enumerate() {
        let removed = decision.removed();
        if removed == 0 && !(kept && decision.verdict.is_in_scope()) {
            continue;
        }
        write!(out, "Image stream {}: ", printable(&stream.repository()))?;
        match decision.verdict {
            StreamVerdict::Examined => writeln!(
                out,
                "{removed} of {} items go, {} freed",
                decision.items.len(),
                bytes(view.stream_bytes(position, &doomed))
            )?,
            verdict => writeln!(out, "stays as it is: {}", stream_text(verdict))?,
        }
        let shown = |item: &&ItemDecision| kept || matches!(item.verdict, ItemVerdict::Remove(_));
        let widths = decision.items.iter().filter(shown).fold((0, 0), |(tag, position), item| {
            let name = printable(view.word(stream.tags[item.tag as usize].name)).chars().count();
            (name.max(tag), item.position.to_string().len().max(position))
        });
        for item in decision.items.iter().filter(shown) {
            write_item(out, view, position, item, widths)?;
        }
    }
    let skipped = match view.plan.stage2 {
        Stage2::Runs => None,
        Stage2::SkippedForNamespace => Some("with --namespace no image is deleted".to_owned()),
        Stage2::SkippedForSelector => Some("with --selector no image is deleted".to_owned()),
        Stage2::SkippedForMetadata(position) => {
            let image = view.text(view.inventory.images.all()[position].name);
            Some(format!("image {} has no metadata", printable(&image)))
        }
    };
    if let Some(why) = skipped {
        writeln!(out, "Images: all stay: {why}")?;
    } else {
        for (image, decision) in view.inventory.images.all().iter().zip(&view.plan.images) {
            write_image(out, view, &view.text(image.name), decision, kept)?;
        }
    }
    write_leftovers(out, view)?;
    write_reimports(out, view)?;
    write_missing(out, view)?;
    write_invalid(out, view)
}

/// What a run that was cut short has left behind.
fn write_leftovers(out: &mut dyn Write, view: View<'_>) -> io::Result<()> {
    let Some(LeftoverEntries { manifest_links, layer_links, blobs }) = view.leftovers() else {
        return Ok(());
    };
    writeln!(out, "Left behind by a run that was cut short, and named by nothing:")?;
    for (what, links) in [("manifest link", manifest_links), ("layer link", layer_links)] {
        for link in links {
            writeln!(out, "  {what} {}", printable(&link))?;
        }
    }
    for BlobEntry { digest, bytes: size } in blobs {
        writeln!(out, "  blob {} ({})", printable(&digest), size.map_or_else(|| "?".to_owned(), bytes))?;
    }
    Ok(())
}

fn write_item(
    out: &mut dyn Write,
    view: View<'_>,
    position: usize,
    item: &ItemDecision,
    (tag_width, position_width): (usize, usize),
) -> io::Result<()> {
    let (stream, decision) = (&view.inventory.streams[position], &view.plan.streams[position]);
    let tag = printable(view.word(stream.tags[item.tag as usize].name)).into_owned();
    let image = view.text(item.image);
    let (image, rules) = (printable(&image), view.plan.rules.keep);
    let why = match item.verdict {
        ItemVerdict::Keep(keep, _) => {
            format!("stays: {}{}", keep_text(rules, keep), sample(view, view.item_referrers(position, item)))
        }
        ItemVerdict::Remove(remove) => format!("goes: {}", remove_text(rules, remove)),
    };
    let again = match decision.reimport(stream, item) {
        None => String::new(),
        Some(reimport) => format!("; will be imported again {}", reimport_text(reimport)),
    };
    writeln!(out, "  {tag:tag_width$}  {:>position_width$}  {image}  {why}{again}", item.position)
}

fn write_image(
    out: &mut dyn Write,
    view: View<'_>,
    name: &str,
    decision: ImageDecision<'_>,
    kept: bool,
) -> io::Result<()> {
    let (name, why) = (printable(name), image_text(decision.verdict));
    if decision.verdict == ImageVerdict::Delete {
        writeln!(out, "Image {name}: goes: {why}, {} freed", bytes(view.image_bytes(decision)))?;
        for blob in decision.blobs {
            let size = view.inventory.images.blob_bytes(*blob).map_or_else(|| "?".to_owned(), bytes);
            writeln!(out, "  {size:>10}  blob {}", printable(&view.text(*blob)))?;
        }
    } else if kept {
        let by = view.used_by(decision.verdict).map(|by| format!(": {}", printable(&by))).unwrap_or_default();
        let uses = match decision.verdict {
            ImageVerdict::KeepReferenced(referenced, _) => view.plan.references.of_digest(referenced),
            _ => &[],
        };
        writeln!(out, "Image {name}: stays: {why}{by}{}", sample(view, uses))?;
    }
    Ok(())
}

pub(super) fn reimport_text(reimport: Reimport) -> &'static str {
    match reimport {
        Reimport::AtOnce => "at once",
        Reimport::OnSchedule => "with the next scheduled import",
    }
}

/// The command that ends the import of a tag, and deletes the tag.
#[must_use]
pub fn end_of_import(repository: &str, tag: &str) -> String {
    format!("oc tag -d {}", quoted(&printable(&format!("{repository}:{tag}"))))
}

/// Items that come back, and how to end that.
fn write_reimports(out: &mut dyn Write, view: View<'_>) -> io::Result<()> {
    let Reimports { items, bytes: again } = view.reimport_counts();
    if items == 0 {
        return Ok(());
    }
    writeln!(
        out,
        "{items} item(s) that go will be imported again, because spec.tags asks for them ({} of what is freed):",
        bytes(again)
    )?;
    for (position, item, reimport) in view.reimports() {
        let stream = &view.inventory.streams[position];
        let (repository, tag) = (stream.repository(), view.word(stream.tags[item.tag as usize].name));
        let place = format!("{repository}:{tag}");
        writeln!(
            out,
            "  {}  {}; no more after: {}",
            printable(&place),
            reimport_text(reimport),
            end_of_import(&repository, tag)
        )?;
    }
    Ok(())
}

/// Items whose Image object somebody deleted, and who needs it.
fn write_missing(out: &mut dyn Write, view: View<'_>) -> io::Result<()> {
    let missing = view.missing_images();
    if missing.is_empty() {
        return Ok(());
    }
    writeln!(out, "{} item(s) whose Image object does not exist:", missing.len())?;
    for (MissingEntry { namespace, name, tag, position, image, referrers, .. }, verdict) in missing {
        let rules = view.plan.rules.keep;
        let why = match verdict {
            Ok(ItemVerdict::Keep(keep, _)) => format!("stays: {}", keep_text(rules, keep)),
            Ok(ItemVerdict::Remove(_)) => "goes".to_owned(),
            Err(verdict) => format!("stays: {}", stream_text(verdict)),
        };
        let place = format!("{namespace}/{name}:{tag}");
        writeln!(out, "  {}  {position}  {}  {why}", printable(&place), printable(&image))?;
        for referrer in referrers {
            writeln!(out, "    used by {}", referrer_text(&referrer))?;
        }
    }
    Ok(())
}

/// References that do not parse, with what each of them protects nevertheless.
fn write_invalid(out: &mut dyn Write, view: View<'_>) -> io::Result<()> {
    let invalid = view.invalid_references();
    if invalid.is_empty() {
        return Ok(());
    }
    writeln!(out, "{} reference(s) that do not parse:", invalid.len())?;
    for entry in &invalid {
        writeln!(out, "  {}", invalid_line(entry))?;
    }
    Ok(())
}

/// A reference that does not parse: where it stands, in the reference's words, what it protects, and who to ask.
#[must_use]
pub fn invalid_line(entry: &InvalidEntry) -> String {
    let InvalidEntry { referrer, message, protects, value: _ } = entry;
    let effect = match protects {
        Some(target) => format!("it protects {}, which it names without the white space", printable(target)),
        None => "it protects nothing".to_owned(),
    };
    let owner = referrer.owner.as_ref().map(|owner| format!(" ({})", owner_text(owner))).unwrap_or_default();
    format!("{} - ignored: {effect}{owner}", printable(message))
}

/// An object that refers to an image, where in it the reference stands, and what controls the object.
fn referrer_text(referrer: &ReferrerEntry) -> String {
    let ReferrerEntry { kind, namespace, name, place, owner } = referrer;
    let place = if place.is_empty() { String::new() } else { format!(" {place}") };
    let owner = owner.as_ref().map(|owner| format!(" ({})", owner_text(owner))).unwrap_or_default();
    format!("{}{owner}", printable(&format!("{kind}/{namespace}/{name}{place}")))
}

/// `of deployment/web`.
#[must_use]
pub fn owner_text(owner: &Owner) -> String {
    let Owner { kind, name } = owner;
    format!("of {}", printable(&format!("{kind}/{name}")))
}

/// Writes the line of each change that a confirmed run would make, which prints them as they happen.
pub fn changes(out: &mut dyn Write, view: View<'_>) -> io::Result<()> {
    let mut line = |change: &Change| writeln!(out, "{}", change_line(change));
    for (stream, decision) in view.inventory.streams.iter().zip(&view.plan.streams) {
        let (repository, items) = (stream.repository(), decision.removed());
        if items > 0 {
            line(&Change::Items { repository: repository.clone(), items })?;
        }
        for link in &decision.manifest_links {
            line(&Change::ManifestLink { repository: repository.clone(), digest: view.text(*link) })?;
        }
        for link in &decision.layer_links {
            line(&Change::LayerLink { repository: repository.clone(), digest: view.text(*link) })?;
        }
    }
    for (image, decision) in view.inventory.images.all().iter().zip(&view.plan.images) {
        if decision.verdict == ImageVerdict::Delete {
            for blob in decision.blobs {
                line(&Change::Blob { digest: view.text(*blob), bytes: None, repositories: Vec::new() })?;
            }
            line(&Change::Image { name: view.text(image.name) })?;
        }
    }
    Ok(())
}

/// Writes all that a dry run shows.
pub fn dry_run(out: &mut dyn Write, view: View<'_>, kept: bool) -> io::Result<()> {
    plan(out, view, kept)?;
    changes(out, view)?;
    end(out, &view.summary(), true)
}

/// The last two lines: how much, and what the registry's storage gets back.
pub fn end(out: &mut dyn Write, counts: &Counts, dry_run: bool) -> io::Result<()> {
    writeln!(out, "{}", summary_line(counts, dry_run))?;
    writeln!(out, "{}", space_line(counts.bytes, counts.blobs_of_unknown_size, dry_run))
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
    for Spared { object, reason, by } in spared {
        let why = match *reason {
            "referencedNewly" => match by {
                Some(by) => format!("in use by now: {}", printable(&by.to_string())),
                None => "in use by now".to_owned(),
            },
            "failedRemoval" => "something that names it, or belongs to it, could not be deleted".to_owned(),
            "heldByIndex" => "an index in the stream holds it".to_owned(),
            other => other.to_owned(),
        };
        let _ = write!(text, "\n  {}: {why}", printable(object));
    }
    text
}

/// What cannot be watched, and how often it is read again.
#[must_use]
pub fn polled_line(lists: &[String], every: Duration) -> String {
    let more = match lists.len().saturating_sub(1) {
        0 => String::new(),
        1 => " and 1 more kind".to_owned(),
        more => format!(" and {more} more kinds"),
    };
    format!(
        "{}{more} cannot be watched with these rights: they are read again every {}",
        printable(lists.first().map_or("", String::as_str)),
        time_text(every)
    )
}

/// An image that lacks a part by now: what needs it, and what it lacks.
#[must_use]
pub fn broken_line(image: &BrokenImage) -> String {
    let BrokenImage { repository, tag, image, by, missing, unlisted, certain } = image;
    let mut place = match (repository.as_str(), tag.as_str()) {
        ("", _) => image.clone(),
        (repository, "") => format!("{repository}@{image}"),
        (repository, tag) => format!("{repository}:{tag} ({image})"),
    };
    if let Some(by) = by {
        place = format!("{place}, needed by {by},");
    }
    let mut lacks = missing.join(", ");
    if *unlisted {
        let what = "its item in the stream or its Image object";
        lacks = if lacks.is_empty() { what.to_owned() } else { format!("{what}, {lacks}") };
    }
    let verb = if *certain { "lacks" } else { "may lack" };
    format!("{} {verb} {}", printable(&place), printable(&lacks))
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
