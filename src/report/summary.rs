//! A plan on one screen, for the person who is going to decide about it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::document::View;
use super::human::bytes;
use crate::plan::{
    Counts, Danger, ImageVerdict, ItemKeep, ItemVerdict, Stage2, StreamDecision, StreamVerdict, UsedBy,
};
use crate::text::printable;

/// How many of the largest streams are shown.
const LARGEST: usize = 10;

/// Columns of a number in the tables.
const NUMBER: usize = 9;

/// Writes what goes, the streams that lose most, and what stays and why. Words fit 40 columns; no line is longer than `width`, but on
/// terminals that are too narrow for anything.
pub fn plan(out: &mut dyn Write, view: View<'_>, width: usize) -> io::Result<()> {
    let mut table = totals(view);
    largest(view, &mut table);
    kept(view, &mut table);
    let longest = table.iter().map(|[name, ..]| name.chars().count()).max().unwrap_or_default();
    let room = longest.min(width.saturating_sub(2 * NUMBER + 3)).max(10);
    for [name, first, second] in &table {
        let line = format!("{:room$} {first:>NUMBER$} {second:>NUMBER$}", cut(name, room));
        writeln!(out, "{}", line.trim_end())?;
    }
    match view.plan.stage2 {
        Stage2::Runs => Ok(()),
        Stage2::SkippedForNamespace => wrapped(
            out,
            "\nNo image goes: images belong to no namespace, and --namespace was given.",
            width,
            0,
        ),
        Stage2::SkippedForSelector => wrapped(
            out,
            "\nNo image goes: images have no labels of a stream, and --selector was given.",
            width,
            0,
        ),
        Stage2::SkippedForMetadata(_) => {
            wrapped(out, "\nNo image goes: one has no metadata, see the warning.", width, 0)
        }
    }?;
    writeln!(out)
}

/// A name and two numbers.
type Row = [String; 3];

fn row(name: &str, first: impl Into<String>, second: impl Into<String>) -> Row {
    [name.to_owned(), first.into(), second.into()]
}

/// What goes, of how much.
fn totals(view: View<'_>) -> Vec<Row> {
    let counts = view.summary();
    let streams = &view.inventory.streams;
    let items: usize = streams.iter().flat_map(|stream| &stream.tags).map(|tag| tag.items.len()).sum();
    let images = view.inventory.images.all().len();
    vec![
        row("", "", ""),
        row("PLAN", "GO", "OF"),
        row("images", grouped(counts.images), grouped(images)),
        row("stream items", grouped(counts.image_stream_tag_items), grouped(items)),
        row("streams changed", grouped(counts.image_streams), grouped(streams.len())),
        row("blobs", grouped(counts.blobs), ""),
        row("links", grouped(counts.manifest_links + counts.layer_links), ""),
        row("storage freed", bytes(counts.bytes), ""),
    ]
}

/// The streams that lose most.
fn largest(view: View<'_>, table: &mut Vec<Row>) {
    let doomed = view.plan.doomed_blobs();
    let mut streams: Vec<(u64, usize, usize)> = view
        .plan
        .streams
        .iter()
        .map(StreamDecision::removed)
        .enumerate()
        .filter(|(_, removed)| *removed > 0)
        .map(|(position, removed)| (view.stream_bytes(position, &doomed), removed, position))
        .collect();
    if streams.is_empty() {
        return;
    }
    // The first of those that are alike is the first in the inventory.
    streams.sort_by(|a, b| (b.0, b.1, a.2).cmp(&(a.0, a.1, b.2)));
    let title = if streams.len() > LARGEST {
        format!("{LARGEST} OF {} STREAMS", grouped(streams.len()))
    } else {
        "STREAMS".to_owned()
    };
    table.push(row("", "", ""));
    table.push(row(&title, "ITEMS GO", "FREED"));
    for (freed, removed, position) in streams.into_iter().take(LARGEST) {
        let repository = view.inventory.streams[position].repository();
        table.push(row(&printable(&repository), grouped(removed), bytes(freed)));
    }
}

/// Why something stays, in the order in which the reasons are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    Revision,
    Young,
    InUse,
    Named,
    InIndex,
    Protected,
    WithinLimit,
    NotManaged,
    Appeared,
    OtherNamespace,
    NotSelected,
    NoMetadata,
    NoImageGoes,
}

impl Reason {
    fn text(self) -> &'static str {
        match self {
            Self::Revision => "newest revisions",
            Self::Young => "young",
            Self::InUse => "in use",
            Self::Named => "named by a stream",
            Self::InIndex => "in a kept index",
            Self::Protected => "marked to be kept",
            Self::WithinLimit => "within the limits",
            Self::NotManaged => "not managed",
            Self::Appeared => "pushed just now",
            Self::OtherNamespace => "other namespaces",
            Self::NotSelected => "not selected",
            Self::NoMetadata => "without metadata",
            Self::NoImageGoes => "no image goes",
        }
    }
}

/// What stays and why: how many items and images for each reason.
fn kept(view: View<'_>, table: &mut Vec<Row>) {
    let mut reasons: BTreeMap<Reason, (usize, usize)> = BTreeMap::new();
    for (stream, decision) in view.inventory.streams.iter().zip(&view.plan.streams) {
        let reason = match decision.verdict {
            StreamVerdict::Examined => None,
            StreamVerdict::OtherNamespace => Some(Reason::OtherNamespace),
            StreamVerdict::NotSelected => Some(Reason::NotSelected),
            StreamVerdict::Young => Some(Reason::Young),
            StreamVerdict::Protected => Some(Reason::Protected),
            StreamVerdict::MetadataAbsent(_) => Some(Reason::NoMetadata),
        };
        if let Some(reason) = reason {
            let items: usize = stream.tags.iter().map(|tag| tag.items.len()).sum();
            reasons.entry(reason).or_default().0 += items;
        }
        for item in &decision.items {
            if let ItemVerdict::Keep(keep, _) = item.verdict {
                reasons.entry(item_reason(keep)).or_default().0 += 1;
            }
        }
    }
    for image in &view.plan.images {
        if let Some(reason) = image_reason(image.verdict) {
            reasons.entry(reason).or_default().1 += 1;
        }
    }
    reasons.retain(|_, (items, images)| *items + *images > 0);
    if reasons.is_empty() {
        return;
    }
    table.push(row("", "", ""));
    table.push(row("WHAT STAYS, AND WHY", "ITEMS", "IMAGES"));
    for (reason, (items, images)) in reasons {
        table.push(row(reason.text(), grouped(items), grouped(images)));
    }
}

fn item_reason(keep: ItemKeep) -> Reason {
    match keep {
        ItemKeep::Young => Reason::Young,
        ItemKeep::TagReferenced | ItemKeep::ImageReferenced | ItemKeep::SubmanifestReferenced => {
            Reason::InUse
        }
        ItemKeep::ImageAppeared | ItemKeep::NotPlanned => Reason::Appeared,
        ItemKeep::Revision => Reason::Revision,
        ItemKeep::WithinSizeLimit => Reason::WithinLimit,
        ItemKeep::Protected => Reason::Protected,
    }
}

fn image_reason(verdict: ImageVerdict) -> Option<Reason> {
    Some(match verdict {
        ImageVerdict::Delete => return None,
        ImageVerdict::KeepStage2Skipped => Reason::NoImageGoes,
        ImageVerdict::KeepUsed(UsedBy::Item { .. }, _) => Reason::Named,
        ImageVerdict::KeepUsed(UsedBy::Index(_), _) => Reason::InIndex,
        ImageVerdict::KeepNotManaged => Reason::NotManaged,
        ImageVerdict::KeepYoung => Reason::Young,
        ImageVerdict::KeepAppeared | ImageVerdict::KeepNotPlanned => Reason::Appeared,
        ImageVerdict::KeepReferenced(..) => Reason::InUse,
        ImageVerdict::KeepProtected => Reason::Protected,
    })
}

/// What goes, in one sentence.
#[must_use]
pub fn sentence(counts: &Counts) -> String {
    let Counts { images, image_stream_tag_items, image_streams, blobs, bytes: freed, .. } = counts;
    format!(
        "{} image(s), {} item(s) of {} image stream(s) and {} blob(s), {}",
        grouped(*images),
        grouped(*image_stream_tag_items),
        grouped(*image_streams),
        grouped(*blobs),
        bytes(*freed)
    )
}

/// Why a plan may be a mistake.
#[must_use]
pub fn danger(view: View<'_>, danger: &Danger) -> String {
    match *danger {
        Danger::NoRevisions => {
            "--keep-tag-revisions=0 keeps no revision of any tag: what is not in use right now goes, the current image of a tag included".to_owned()
        }
        Danger::InvalidReferences(0) => {
            "--ignore-invalid-refs: references that do not parse protect nothing".to_owned()
        }
        Danger::InvalidReferences(count) => format!(
            "--ignore-invalid-refs: {} reference(s) do not parse, and the images that they mean may go although they are in use",
            grouped(count)
        ),
        Danger::MostImages { going, all } => {
            format!("{} of {} images go, more than half", grouped(going), grouped(all))
        }
        Danger::EmptiedStreams { count, first } => {
            let repository = view.inventory.streams[first].repository();
            let others = match count - 1 {
                0 => String::new(),
                others => format!(" and {} more", grouped(others)),
            };
            format!("image stream {}{others} would have no tag left", printable(&repository))
        }
    }
}

/// Writes a text in lines that are not longer than `width`, where its words allow it; `indent` blanks stand before all
/// lines but the first.
pub fn wrapped(out: &mut dyn Write, text: &str, width: usize, indent: usize) -> io::Result<()> {
    // Half of a narrow terminal is not to be blank.
    let indent = if 4 * indent > width { 2.min(indent) } else { indent };
    let mut column = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > indent && column + 1 + length > width {
            write!(out, "\n{:indent$}", "")?;
            column = indent;
        } else if column > 0 {
            write!(out, " ")?;
            column += 1;
        }
        write!(out, "{word}")?;
        column += length;
    }
    writeln!(out)
}

/// The end of a name tells more than its beginning.
fn cut(name: &str, room: usize) -> String {
    const DOTS: &str = "...";
    let length = name.chars().count();
    if length <= room {
        return name.to_owned();
    }
    let end: String = name.chars().skip(length - room.saturating_sub(DOTS.len())).collect();
    format!("{DOTS}{end}")
}

/// A number with a comma between each three digits.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_fit_a_narrow_terminal() {
        use Reason::{
            Appeared, InIndex, InUse, Named, NoImageGoes, NoMetadata, NotManaged, NotSelected,
            OtherNamespace, Protected, Revision, WithinLimit, Young,
        };
        for reason in [
            Revision,
            Young,
            InUse,
            Named,
            InIndex,
            Protected,
            WithinLimit,
            NotManaged,
            Appeared,
            OtherNamespace,
            NotSelected,
            NoMetadata,
            NoImageGoes,
        ] {
            assert!(reason.text().len() <= 40 - 2 * NUMBER - 3, "{reason:?}");
        }
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn lines_are_broken_between_words() {
        for (width, indent, expected) in [
            (6, 0, "a bc\ndef\nlonger-than-that\nx\n"),
            (8, 2, "a bc def\n  longer-than-that\n  x\n"),
            (8, 7, "a bc def\n  longer-than-that\n  x\n"),
        ] {
            let mut out = Vec::new();
            wrapped(&mut out, "a bc def longer-than-that x", width, indent).unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(cut("shop/web", 10), "shop/web");
        assert_eq!(cut("production-shop/web", 10), "...hop/web");
        assert_eq!(cut("production-shop/web", 10).len(), 10);
    }
}
