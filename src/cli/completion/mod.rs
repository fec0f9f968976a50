//! The flags of `completion`, and the scripts and shims that it prints and installs.

mod scripts;
mod values;
pub(super) mod words;

use std::path::PathBuf;

use clap::Parser;

use super::{
    parse::Invocation,
    place_files::{NewFile, PlaceFilesOptions},
    subcommand::{CommonArgs, Subcommand},
    validate::nonempty_path,
};
use crate::{error::Failure, text::sanitize};
use scripts::SHELLS;
pub use values::Source;
pub use words::{Candidate, Completion};

/// Complete the command line in bash, zsh, fish and PowerShell
///
/// oc and kubectl (1.26 and newer) complete a plugin's words by a program of their own, oc_complete-prune_images and
/// kubectl_complete-prune_images, wherever oc or kubectl themselves are completed: --install DIR writes both into DIR,
/// which has to be on the PATH. They complete contexts, namespaces, image streams and tags, too.
/// SHELL prints a script that completes oc-prune_images and kubectl-prune_images, called by these names.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER)]
pub(super) struct CompletionArgs {
    /// Write the two programs that oc and kubectl ask into DIR
    ///
    /// Files that are there and were not written by this command are left alone.
    #[arg(long, value_name = "DIR")]
    install: Option<PathBuf>,

    #[command(flatten)]
    common: CommonArgs,
}

const AFTER: &str = "\
Examples:
  {program} completion --install ~/.local/bin
  source <({program} completion bash)
  {program} completion zsh > \"${fpath[1]}/_oc-prune_images\"
  {program} completion fish | source
  {program} completion powershell | Out-String | Invoke-Expression

Exit codes:
  0  done
  1  nothing was written, or not all of it
  2  the command line is wrong";

/// What a file that this command wrote begins with.
const SHIM: &str = "#!/bin/sh\n# Written by: oc prune-images completion --install\n";

impl Subcommand for CompletionArgs {
    const SYNOPSIS: &str = "completion [bash|zsh|fish|powershell] [flags]";
    const TAKES_WORDS: bool = true;

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn invocation(self, program: &str) -> Result<Invocation, Failure> {
        let words: Vec<_> = self.common.words.iter().map(|word| word.to_string_lossy()).collect();
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        match (words.as_slice(), nonempty_path(self.install)) {
            ([], Some(directory)) => Ok(Invocation::PlaceFiles(Box::new(shims(directory)))),
            ([], None) => Err(Failure::usage("say which shell, or where to install")
                .hint(format!("{program} completion --install DIR"))
                .hint(format!("{program} completion {}", SHELLS.join("|")))),
            ([shell], None) => scripts::script(shell, program).map(Invocation::Print).ok_or_else(|| {
                Failure::usage(format!("unknown shell \"{}\"", sanitize(shell)))
                    .hint(format!("the shells are {}", SHELLS.join(", ")))
            }),
            (_, Some(_)) => Err(Failure::usage("--install cannot be specified with a shell")
                .hint("the programs that it writes serve all shells")),
            (_, None) => Err(Failure::usage("one shell at a time")),
        }
    }
}

fn shims(directory: PathBuf) -> PlaceFilesOptions {
    // kubectl knows the plugin by this name alone, oc by both.
    let shim = |name: &str, exec: &str| NewFile {
        name: name.into(),
        content: format!("{SHIM}exec {exec} __complete \"$@\"\n").into_bytes(),
        executable: true,
    };
    PlaceFilesOptions {
        doing: "install the completion",
        directory,
        subdirectory: None,
        files: vec![
            shim("kubectl_complete-prune_images", "kubectl-prune_images"),
            shim(
                "oc_complete-prune_images",
                "\"$(command -v oc-prune_images || command -v kubectl-prune_images)\"",
            ),
        ],
        ours: SHIM,
        for_unix_alone: Some("kubectl and oc run no shell scripts here: use completion powershell"),
        on_path: true,
    }
}
