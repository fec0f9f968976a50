//! What krew takes from an archive: a gzip'd tar of regular files and folders.

use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;
use regex::Regex;
use sandbox::registry::Digest;
use tar::{Archive, EntryType};

/// An entry, with what an archive that is made twice must not differ in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) is_folder: bool,
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    pub(crate) modified: u64,
    pub(crate) content: Vec<u8>,
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Digest::of(bytes).as_str().trim_start_matches("sha256:").to_owned()
}

/// The entries as `internal/download/downloader.go` reads them.
pub(crate) fn entries(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Err("neither zip nor gzip".to_owned());
    }
    let mut archive = Archive::new(GzDecoder::new(bytes));
    let mut entries = Vec::new();
    for entry in archive.entries().map_err(|error| error.to_string())? {
        let mut entry = entry.map_err(|error| error.to_string())?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if name.contains("..") || name.starts_with(['/', '\\']) {
            return Err(format!("{name} leads out of the archive"));
        }
        let is_folder = match entry.header().entry_type() {
            EntryType::Regular => false,
            EntryType::Directory => true,
            other => return Err(format!("{name} is neither file nor folder: {other:?}")),
        };
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(|error| error.to_string())?;
        let header = entry.header();
        entries.push(Entry {
            name: name.trim_end_matches('/').to_owned(),
            is_folder,
            mode: header.mode().unwrap(),
            owner: (header.uid().unwrap(), header.gid().unwrap()),
            modified: header.mtime().unwrap(),
            content,
        });
    }
    Ok(entries)
}

/// Whether there is a licence by a name that the review of krew-index accepts.
pub(crate) fn has_licence(names: impl IntoIterator<Item = impl AsRef<str>>) -> bool {
    let accepted = Regex::new(r"(?i)^(license|licenses|copying)(\.txt|\.md)?$").unwrap();
    names.into_iter().any(|name| {
        let file = Path::new(name.as_ref()).file_name().map(|name| name.to_string_lossy().into_owned());
        // `copying.md` is not in krew's list.
        file.is_some_and(|file| accepted.is_match(&file) && !file.eq_ignore_ascii_case("copying.md"))
    })
}
