//! Files that a command writes for others to find: shims of the completion, manual pages.

use std::path::PathBuf;

/// What is written, and where.
#[derive(Debug, Clone)]
pub struct PlaceFilesOptions {
    /// What it is for, for messages: `install the completion`.
    pub doing: &'static str,
    /// The folder that was named; it must exist.
    pub directory: PathBuf,
    /// A folder in it, made if it is missing.
    pub subdirectory: Option<&'static str>,
    /// The files.
    pub files: Vec<NewFile>,
    /// What an older version of each of the files contains: any other file is left alone.
    pub ours: &'static str,
    /// Why nothing is written on Windows, if nothing is.
    pub for_unix_alone: Option<&'static str>,
    /// Whether the folder has to be on the PATH.
    pub on_path: bool,
}

/// A file to be written.
#[derive(Debug, Clone)]
pub struct NewFile {
    /// Its name in the folder.
    pub name: String,
    /// All of it.
    pub content: Vec<u8>,
    /// Whether it is a program.
    pub executable: bool,
}
