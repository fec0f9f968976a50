//! Writes files for others to find, and none that is not ours over.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::cause::io_text;
use crate::cli::{NewFile, PlaceFilesOptions};
use crate::error::{Exit, Failure};
use crate::text::{quoted, sanitize};
use crate::ui::Ui;

/// Writes the files: all are looked at before the first is written.
pub(super) fn run(options: &PlaceFilesOptions, ui: &Ui) -> Result<Exit, Failure> {
    let doing = options.doing;
    if let Some(reason) = options.for_unix_alone
        && !cfg!(unix)
    {
        return Err(Failure::nothing_changed(format!("{doing}: {reason}")));
    }
    let failed = |path: &Path, error: &io::Error| {
        Failure::nothing_changed(format!("{doing}: {}: {}", shown(path), io_text(error)))
    };
    let mut folder = options.directory.clone();
    match fs::metadata(&folder) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(Failure::nothing_changed(format!("{doing}: {} is no folder", shown(&folder)))),
        Err(error) => {
            let failure = failed(&folder, &error);
            return Err(
                failure.hint(format!("make it first: mkdir -p {}", quoted(&folder.to_string_lossy())))
            );
        }
    }
    if let Some(below) = options.subdirectory {
        folder.push(below);
        fs::create_dir_all(&folder).map_err(|error| failed(&folder, &error))?;
    }
    let files: Vec<(PathBuf, &NewFile)> =
        options.files.iter().map(|file| (folder.join(&file.name), file)).collect();
    for (path, _) in &files {
        if !may_write(path, options.ours).map_err(|error| failed(path, &error))? {
            return Err(Failure::nothing_changed(format!(
                "{doing}: {} is there, and was not written by this command",
                shown(path)
            ))
            .hint("move it away, or name another folder"));
        }
    }
    for (path, file) in &files {
        write(path, file).map_err(|error| failed(path, &error))?;
        ui.result(|out| writeln!(out, "{}", shown(path)));
    }
    if options.on_path && !is_on_path(&folder) {
        ui.warning(&format!(
            "{} is not on the PATH: oc and kubectl will not find what is in it",
            shown(&folder)
        ));
    }
    Ok(Exit::Done)
}

fn shown(path: &Path) -> String {
    sanitize(&path.to_string_lossy())
}

/// Whether nothing is there, or a file that contains what ours do. A link would lead elsewhere.
fn may_write(path: &Path, ours: &str) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
        Ok(found) if !found.is_file() => Ok(false),
        Ok(_) => Ok(String::from_utf8_lossy(&fs::read(path)?).contains(ours)),
    }
}

/// Writes beside it and renames: nobody runs half of a file.
fn write(path: &Path, file: &NewFile) -> io::Result<()> {
    let beside = path.with_file_name(format!(".{}.{}", file.name, std::process::id()));
    let mut options = fs::OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if file.executable { 0o777 } else { 0o666 });
    let written = options
        .write(true)
        .create_new(true)
        .open(&beside)
        .and_then(|mut new| new.write_all(&file.content))
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // Nothing more can be done about what stays behind.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn is_on_path(folder: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    std::env::split_paths(&path)
        .filter(|entry| entry.as_os_str() != OsStr::new(""))
        .any(|entry| real(&entry) == real(folder))
}
