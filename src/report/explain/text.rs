//! An `Explanation` as text: the first line is the answer.

use std::io::{self, Write};

use super::{
    BlobFateEntry, ChangeEntry, ExplainedImage, Explanation, ObstacleEntry, PlaceEntry, StuckEntry,
    StuckStreamEntry, TargetEntry, referrer_name,
};
use crate::report::bytes;
use crate::report::text::{end_of_import, reimport_text};
use crate::text::printable;

/// How many images of one target are explained in full; of more, only where each stands and why.
const IN_FULL: usize = 3;

/// How many stuck tags of a stream are shown.
const STUCK_TAGS: usize = 10;

/// How many tags a command in the text may name.
const IN_COMMAND: usize = 30;

/// Writes the document for people. `program` is how the user calls the plugin.
///
/// # Errors
/// Those of the writer.
pub fn write_text(out: &mut dyn Write, document: &Explanation, program: &str) -> io::Result<()> {
    for (position, target) in document.explanations.iter().enumerate() {
        if position > 0 {
            writeln!(out)?;
        }
        write_target(out, target, program)?;
    }
    if let Some(stuck) = &document.stuck {
        write_stuck(out, stuck, program)?;
    }
    Ok(())
}

fn write_target(out: &mut dyn Write, target: &TargetEntry, program: &str) -> io::Result<()> {
    match (target.images.as_slice(), &target.image_stream) {
        ([], stream) => {
            let stream = stream.as_deref().unwrap_or(&target.target);
            writeln!(out, "Image stream {} has no items: there is nothing to prune in it", printable(stream))
        }
        ([image], _) => write_image(out, image),
        (images, stream) => {
            let stream = stream.as_deref().unwrap_or_default();
            let mut places: Vec<(&PlaceEntry, &ExplainedImage)> = Vec::new();
            for image in images {
                places.extend(
                    image.places.iter().filter(|place| is_asked(place, target)).map(|place| (place, image)),
                );
            }
            let tag = target.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
            let stay = places.iter().filter(|(place, _)| place.decision == "keep").count();
            writeln!(
                out,
                "{}: {} of {} items go, {stay} stay",
                printable(&format!("{stream}{tag}")),
                places.len() - stay,
                places.len()
            )?;
            for (place, image) in &places {
                let then = match (place.decision, image.decision) {
                    ("remove", "keep") => "; the image stays, because others hold it",
                    ("remove", "delete") => "; the image goes, too",
                    _ => "",
                };
                writeln!(
                    out,
                    "  {} at position {} out of {}  {}  {}: {}{}{then}",
                    printable(&place.tag),
                    place.position,
                    place.of,
                    printable(&image.name),
                    if place.decision == "keep" { "stays" } else { "goes" },
                    place.why,
                    by(place.held_by.first())
                )?;
            }
            if images.len() <= IN_FULL {
                for image in images {
                    writeln!(out)?;
                    write_image(out, image)?;
                }
            } else if let Some(image) = images.iter().find(|image| image.decision == "keep") {
                writeln!(
                    out,
                    "What would have to change for one of them to be pruned: {program} explain {}",
                    crate::text::quoted(&format!("{stream}@{}", image.name))
                )?;
            }
            Ok(())
        }
    }
}

fn is_asked(place: &PlaceEntry, target: &TargetEntry) -> bool {
    place.through.is_none()
        && target.image_stream.as_ref().is_none_or(|stream| *stream == place.image_stream)
        && target.tag.as_ref().is_none_or(|tag| *tag == place.tag)
}

/// The first referrers of a rule, for one line.
fn by(obstacle: Option<&ObstacleEntry>) -> String {
    match obstacle.map(|obstacle| obstacle.referrers.as_slice()) {
        None | Some([]) => String::new(),
        Some([one]) => format!(" by {}", printable(&referrer_name(one))),
        Some([one, rest @ ..]) => format!(" by {} and {} more", printable(&referrer_name(one)), rest.len()),
    }
}

fn write_image(out: &mut dyn Write, image: &ExplainedImage) -> io::Result<()> {
    writeln!(out, "{} {}", printable(&image.name), printable(&image.why))?;
    if let (Some(created), Some(age)) = (&image.created, &image.age) {
        writeln!(out, "  created {created}: {age}")?;
    }
    if !image.submanifests.is_empty() {
        writeln!(out, "  an image index of {} image(s):", image.submanifests.len())?;
        for name in &image.submanifests {
            writeln!(out, "    {}", printable(name))?;
        }
    }
    if !image.places.is_empty() {
        writeln!(out, "\n  Where it stands:")?;
        for place in &image.places {
            write_place(out, place)?;
        }
    }
    let mut told: Vec<String> = image
        .places
        .iter()
        .flat_map(|place| &place.held_by)
        .flat_map(|rule| &rule.referrers)
        .map(referrer_name)
        .collect();
    if !image.held_by.is_empty() {
        writeln!(out, "\n  What holds it beside its items:")?;
        for rule in &image.held_by {
            write_rule(out, rule, "    ", &mut told)?;
        }
    }
    if !image.because.is_empty() {
        writeln!(out, "\n  Why it goes:")?;
        for reason in &image.because {
            writeln!(out, "    - {}", printable(reason))?;
        }
    }
    if let Some(remedy) = &image.to_be_pruned {
        if remedy.possible {
            writeln!(out, "\n  For it to be pruned, all of this has to change:")?;
            write_changes(out, &remedy.all_of)?;
        } else {
            writeln!(out, "\n  No flag makes it go, since no limit can be smaller than what it holds.")?;
        }
        if !remedy.or_all_of.is_empty() {
            writeln!(out, "  Or all of this:")?;
            write_changes(out, &remedy.or_all_of)?;
        }
    }
    write_blobs(out, image)
}

fn write_place(out: &mut dyn Write, place: &PlaceEntry) -> io::Result<()> {
    let name = format!("{}:{}", place.image_stream, place.tag);
    let through = match &place.through {
        Some(index) => format!(" (by image index {})", printable(index)),
        None => String::new(),
    };
    let verb = if place.decision == "keep" { "stays" } else { "goes" };
    writeln!(
        out,
        "    {} at position {} out of {}{through}: {verb}, {}",
        printable(&name),
        place.position,
        place.of,
        printable(&place.why)
    )?;
    if let Some(created) = &place.created {
        let age = place.age.as_deref().map(|age| format!(": {age}")).unwrap_or_default();
        writeln!(out, "      since {created}{age}")?;
    }
    if let Some(reimport) = place.reimport {
        let end = end_of_import(&place.image_stream, &place.tag);
        writeln!(out, "      will be imported again {}; no more after: {end}", reimport_text(reimport))?;
    }
    for (position, rule) in place.held_by.iter().enumerate() {
        if position > 0 {
            writeln!(out, "      also held: {}", printable(&rule.why))?;
        }
        write_details(out, rule, "        ", &mut Vec::new())?;
    }
    Ok(())
}

fn write_rule(
    out: &mut dyn Write,
    rule: &ObstacleEntry,
    indent: &str,
    told: &mut Vec<String>,
) -> io::Result<()> {
    writeln!(out, "{indent}{}", printable(&rule.why))?;
    write_details(out, rule, &format!("{indent}  "), told)
}

/// Referrers that were told already are not told again.
fn write_details(
    out: &mut dyn Write,
    rule: &ObstacleEntry,
    indent: &str,
    told: &mut Vec<String>,
) -> io::Result<()> {
    let before = told.len();
    for referrer in &rule.referrers {
        let name = referrer_name(referrer);
        if !told[..before].contains(&name) {
            writeln!(out, "{indent}by {}", printable(&name))?;
            told.push(name);
        }
    }
    if told.len() == before && !rule.referrers.is_empty() {
        writeln!(out, "{indent}by those above")?;
    }
    for image in &rule.images {
        writeln!(out, "{indent}{}", printable(image))?;
    }
    if let Some(until) = &rule.until {
        writeln!(out, "{indent}until {until}")?;
    }
    Ok(())
}

fn write_changes(out: &mut dyn Write, changes: &[ChangeEntry]) -> io::Result<()> {
    for change in changes {
        writeln!(out, "    - {}", printable(&change.text))?;
        if let Some(command) = &change.command {
            writeln!(out, "        {}", printable(command))?;
        }
    }
    Ok(())
}

fn write_blobs(out: &mut dyn Write, image: &ExplainedImage) -> io::Result<()> {
    if image.blobs.is_empty() {
        return Ok(());
    }
    let of_fate =
        |fate: &str| -> Vec<&BlobFateEntry> { image.blobs.iter().filter(|blob| blob.fate == fate).collect() };
    let (goes, shared) = (of_fate("goes"), of_fate("shared"));
    let head = if image.decision == "delete" { "With it go" } else { "If it went, it would free" };
    writeln!(out, "\n  {head} {} in {} blob(s)", bytes(image.freed_bytes), goes.len())?;
    if !shared.is_empty() {
        writeln!(
            out,
            "  {} blob(s) of {} stay, because other images share them:",
            shared.len(),
            bytes(image.shared_bytes)
        )?;
        for blob in shared {
            let size = blob.bytes.map_or_else(|| "unknown size".to_owned(), bytes);
            let more = match blob.shared_with.saturating_sub(blob.for_instance.len()) {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            writeln!(
                out,
                "    {} ({size}): {}{more}",
                printable(&blob.digest),
                printable(&blob.for_instance.join(", "))
            )?;
        }
    }
    Ok(())
}

fn write_stuck(out: &mut dyn Write, stuck: &StuckEntry, program: &str) -> io::Result<()> {
    if stuck.image_streams.is_empty() {
        return writeln!(
            out,
            "Nothing is stuck: every image can be pruned by some value of --keep-tag-revisions above 0, or is in use"
        );
    }
    writeln!(
        out,
        "{} image(s) in {} image stream(s) are stuck: no value of --keep-tag-revisions above 0 can ever prune them",
        stuck.images,
        stuck.image_streams.len()
    )?;
    writeln!(
        out,
        "They hold {}. The commands below, and a prune, free {} of it.",
        bytes(stuck.bytes),
        bytes(stuck.freed_bytes)
    )?;
    writeln!(
        out,
        "Each is the only item of its tag, so that nothing pushes it back. The newest tags of a stream are left out.\n\
         (--keep-tag-revisions=0 would prune them, too: with the current item of every tag that nothing uses.)"
    )?;
    for stream in &stuck.image_streams {
        write_stuck_stream(out, stream, program)?;
    }
    Ok(())
}

fn write_stuck_stream(out: &mut dyn Write, stream: &StuckStreamEntry, program: &str) -> io::Result<()> {
    let name = format!("{}/{}", stream.namespace, stream.name);
    writeln!(
        out,
        "\n{}: {} tag(s) with one item, {} with a date in the name; {} held, {} to be freed",
        printable(&name),
        stream.tags.len(),
        stream.dated,
        bytes(stream.bytes),
        bytes(stream.freed_bytes)
    )?;
    for tag in stream.tags.iter().take(STUCK_TAGS) {
        let date = tag.date.as_deref().unwrap_or("no date");
        let newest = if tag.proposed { "" } else { "  among the newest" };
        writeln!(
            out,
            "  {}  ({date})  {}  {}, {} of it unique{newest}",
            printable(&tag.tag),
            printable(&tag.image),
            bytes(tag.bytes),
            bytes(tag.unique_bytes)
        )?;
    }
    if let more @ 1.. = stream.tags.len().saturating_sub(STUCK_TAGS) {
        writeln!(out, "  and {more} more, all of them in -o json")?;
    }
    let proposed = stream.tags.iter().filter(|tag| tag.proposed).count();
    match &stream.command {
        None => writeln!(out, "  All of them are among the newest tags of the stream: nothing is proposed"),
        Some(command) if proposed <= IN_COMMAND => writeln!(out, "  {}", printable(command)),
        Some(_) => writeln!(
            out,
            "  The command that deletes {proposed} tags: {program} explain --stuck -n {} -o json | jq -r \
             '.stuck.imageStreams[] | select(.name == \"{}\") | .command'",
            printable(&stream.namespace),
            printable(&stream.name)
        ),
    }
}
