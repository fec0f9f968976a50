//! What was deleted, in a file, until the registry's caches are known to have forgotten it.

use std::path::PathBuf;

use jiff::Timestamp;

use crate::execute::Outcome;
use crate::report;

/// What was deleted, written down before the cache step is finished: if that fails or is cut short, it is what
/// `cache flush` repeats it from. Removed once nothing is left to be done.
pub(super) struct KeptResult(pub(super) PathBuf);

/// The part of a `PruneResult` that `cache flush` reads.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct KeptDocument<'a> {
    api_version: &'static str,
    kind: &'static str,
    server: &'a str,
    result: &'a Outcome,
}

impl KeptResult {
    /// Writes it below `XDG_STATE_HOME`; nothing if nothing was deleted, or it cannot be written.
    pub(super) fn write(server: &str, outcome: &Outcome) -> Option<Self> {
        if outcome.changes.is_empty() {
            return None;
        }
        let folder = state_folder()?;
        let path =
            folder.join(format!("result-{}-{}.json", Timestamp::now().as_second(), std::process::id()));
        let document = KeptDocument {
            api_version: report::document::API_VERSION,
            kind: "PruneResult",
            server,
            result: outcome,
        };
        let written = std::fs::create_dir_all(&folder).and_then(|()| {
            let mut file = std::fs::OpenOptions::new();
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600);
            let file = file.write(true).create_new(true).open(&path)?;
            let mut file = std::io::BufWriter::new(file);
            serde_json::to_writer(&mut file, &document)?;
            std::io::Write::flush(&mut file)
        });
        match written {
            Ok(()) => Some(Self(path)),
            Err(error) => {
                tracing::info!("{} cannot be written: {error}", path.display());
                None
            }
        }
    }

    pub(super) fn remove(self) {
        // A file that stays does no harm.
        let _ = std::fs::remove_file(self.0);
    }
}

/// `$XDG_STATE_HOME/oc-prune-images`, by the XDG Base Directory Specification.
fn state_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("oc-prune-images"))
}
