//! `journal show` and `journal export`: what a prune did, and the objects as they were.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{keeping, look, start, write_document};
use crate::cli::{JournalOptions, JournalTask, OutputFormat};
use crate::error::{Exit, Failure};
use crate::journal::{self, Found, Loaded, Object, Place, Standing, objects_path};
use crate::report::journal::{JournalReport, Others};
use crate::text::printable;
use crate::ui::Ui;

/// Does what was asked for.
pub(super) fn run(options: &JournalOptions, ui: &Arc<Ui>) -> Result<Exit, Failure> {
    start(options.verbosity, async {
        let (path, others) = find(options, ui).await?;
        let loaded = keeping::load(&path)?;
        match options.task {
            JournalTask::Show(format) => show(&path, &loaded, others, format, ui),
            JournalTask::Export { streams, yaml } => export(&path, &loaded, streams, yaml, ui)?,
        }
        Ok(Exit::Done)
    })
}

/// The journal that is meant, and the others of its cluster.
async fn find(options: &JournalOptions, ui: &Arc<Ui>) -> Result<(PathBuf, Vec<Found>), Failure> {
    if let Some(path) = &options.journal {
        return Ok((path.clone(), Vec::new()));
    }
    let cluster = look::connect(&options.connection, ui).await?;
    let place = keeping::place(&cluster);
    let mut journals = place.as_ref().map(Place::journals).unwrap_or_default();
    if let Some(newest) = journals.pop() {
        return Ok((newest.path, journals));
    }
    let folder = place.map(|place| place.folder().to_string_lossy().into_owned());
    let folder = folder.unwrap_or_else(|| "$XDG_STATE_HOME/oc-prune-images".to_owned());
    Err(Failure::nothing_changed(format!("find a journal: there is none in {}", printable(&folder)))
        .hint("a confirmed prune writes one; name one that is somewhere else: --journal=FILE"))
}

fn show(path: &Path, loaded: &Loaded, others: Vec<Found>, format: OutputFormat, ui: &Ui) {
    let standing = Found::look(path).map_or(Standing::CutShort, |found| found.standing);
    let others = others.into_iter().map(|found| Others::of(&found)).collect();
    let report = JournalReport::of(path, loaded, &standing, others);
    match format {
        OutputFormat::Json | OutputFormat::Yaml => write_document(ui, format, &report),
        OutputFormat::Text | OutputFormat::Wide | OutputFormat::Name => ui.result(|out| report.write(out)),
    }
}

/// Writes a `List`, object by object: there may be many.
fn export(path: &Path, loaded: &Loaded, streams: bool, yaml: bool, ui: &Ui) -> Result<(), Failure> {
    let deleted: BTreeSet<String> = loaded
        .images
        .iter()
        .filter(|(_, image)| image.done)
        .map(|(id, _)| loaded.names.text(*id).into_owned())
        .collect();
    let path = objects_path(path);
    let failed = |error: &dyn std::fmt::Display| {
        Failure::nothing_changed(format!(
            "read the objects {}: {}",
            printable(&path.to_string_lossy()),
            printable(&error.to_string())
        ))
    };
    let file = File::open(&path).map_err(|error| failed(&crate::cause::io_text(&error)))?;
    let mut result = Ok(());
    ui.result(|out| {
        let mut seen = BTreeSet::new();
        let mut first = true;
        let head = if yaml {
            "apiVersion: v1\nkind: List\nitems:"
        } else {
            r#"{"apiVersion":"v1","kind":"List","items":["#
        };
        write!(out, "{head}")?;
        let mut told = Ok(());
        let read = journal::objects(BufReader::new(file), |object| {
            let (kind, raw) = match object {
                Object::Image(raw) if !streams => ("Image", raw),
                Object::Stream(raw) if streams => ("ImageStream", raw),
                Object::Image(_) | Object::Stream(_) => return Ok(()),
            };
            let Some(object) = journal::export(kind, raw.get()) else { return Ok(()) };
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
            // Of an image only the deletion matters; of a stream that was updated twice, how it was first.
            let is_wanted = if streams { true } else { deleted.contains(&text("name")) };
            if is_wanted && seen.insert((text("namespace"), text("name"))) {
                let before = if first || yaml { "\n" } else { ",\n" };
                first = false;
                told = write_item(out, &object, before, yaml);
                if let Err(error) = &told {
                    return Err(io::Error::from(error.kind()));
                }
            }
            Ok(())
        });
        told?;
        result = read.map_err(|error| failed(&error));
        match (yaml, first) {
            (true, true) => writeln!(out, " []"),
            (true, false) => writeln!(out),
            (false, _) => writeln!(out, "\n]}}"),
        }
    });
    result
}

fn write_item(
    out: &mut dyn io::Write,
    object: &serde_json::Value,
    before: &str,
    yaml: bool,
) -> io::Result<()> {
    if !yaml {
        return write!(out, "{before}{object}");
    }
    let text = serde_saphyr::to_string(object).map_err(io::Error::other)?;
    for (number, line) in text.lines().enumerate() {
        let mark = if number == 0 { "- " } else { "  " };
        write!(out, "{before}{mark}{line}")?;
    }
    Ok(())
}
