//! The flags of `journal show` and `journal export`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser};

use super::{
    connection::ConnectionArgs,
    options::OutputFormat,
    parse::Invocation,
    subcommand::{self, CommonArgs, FORMATS, Subcommand},
    validate,
};
use crate::{cluster::ConnectionOptions, error::Failure, text::sanitize};

/// What the commands of this group begin with.
pub(super) const WORD: &str = "journal";

/// Which journal, as typed.
#[derive(Args)]
struct WhichArgs {
    /// The journal
    ///
    /// Default: the newest of this cluster below $XDG_STATE_HOME/oc-prune-images.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,

    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Show what a prune has done, and what is left of it
///
/// Reads the journal that a confirmed prune keeps; the cluster is not asked.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER_SHOW)]
pub(super) struct ShowArgs {
    /// Output: text, json or yaml
    #[arg(long, short, value_name = "FORMAT")]
    output: Option<String>,

    #[command(flatten)]
    which: WhichArgs,
}

const AFTER_SHOW: &str = "\
Examples:
  {program} journal show
  {program} journal show -o json | jq '.left'

Exit codes:
  0  done
  1  there is no journal, or it cannot be read
  2  the command line is wrong";

/// Print the objects as they were before a prune deleted or changed them
///
/// A List of the Image objects that were deleted, without what only the server sets, for oc create -f -. Their blobs are gone
/// unless the prune left the registry alone (--prune-registry=false): such an image can be looked at, and not pulled. With
/// --streams the image streams as they were before their first update.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER_EXPORT)]
pub(super) struct ExportArgs {
    /// The image streams, instead of the Image objects
    ///
    /// Their tags' histories are in the status, which an update of the status alone restores; what was pushed since is lost
    /// from the stream by that.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    streams: Option<String>,

    /// Output: json or yaml
    #[arg(long, short, value_name = "FORMAT")]
    output: Option<String>,

    #[command(flatten)]
    which: WhichArgs,
}

const AFTER_EXPORT: &str = "\
Examples:
  {program} journal export | oc create -f -
  {program} journal export --streams | oc replace --subresource=status -f -

Exit codes:
  0  done
  1  there is no journal, or it cannot be read
  2  the command line is wrong";

/// What is asked of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalTask {
    /// `show`.
    Show(OutputFormat),
    /// `export`.
    Export {
        /// Image streams; else Image objects.
        streams: bool,
        /// YAML; else JSON.
        yaml: bool,
    },
}

/// What `journal show` or `journal export` was asked for.
#[derive(Debug, Clone)]
pub struct JournalOptions {
    /// How the user calls the program, for hints.
    pub program: String,
    /// What is asked.
    pub task: JournalTask,
    /// `--journal`.
    pub journal: Option<PathBuf>,
    /// `-v`.
    pub verbosity: u8,
    /// Which cluster's.
    pub connection: ConnectionOptions,
}

impl WhichArgs {
    fn invocation(self, task: JournalTask, program: &str) -> Result<Invocation, Failure> {
        Ok(Invocation::Journal(Box::new(JournalOptions {
            program: program.to_owned(),
            task,
            journal: validate::nonempty_path(self.journal),
            verbosity: self.common.verbosity()?,
            connection: self.connection.options()?,
        })))
    }
}

impl Subcommand for ShowArgs {
    const SYNOPSIS: &str = "journal show [flags]";

    fn common(&self) -> &CommonArgs {
        &self.which.common
    }

    fn invocation(self, program: &str) -> Result<Invocation, Failure> {
        let format = validate::output_of(self.output.as_deref(), &FORMATS)?;
        self.which.invocation(JournalTask::Show(format), program)
    }
}

impl Subcommand for ExportArgs {
    const SYNOPSIS: &str = "journal export [flags]";

    fn common(&self) -> &CommonArgs {
        &self.which.common
    }

    fn invocation(self, program: &str) -> Result<Invocation, Failure> {
        let streams = validate::switch("--streams", self.streams.as_deref())?;
        // JSON, too, is what kubectl takes, and can be written as it is read.
        let yaml = validate::output_of(self.output.as_deref(), &EXPORT_FORMATS)?;
        self.which.invocation(JournalTask::Export { streams, yaml }, program)
    }
}

/// `--output` of `journal export`.
pub(super) const EXPORT_FORMATS: [(&str, bool); 2] = [("json", false), ("yaml", true)];

/// What they are for.
pub(super) const ABOUT: &str = "What a prune has done, and what it deleted";

/// What `journal` prints when no subcommand follows.
const COMMANDS: &str = "\
What a prune has done, and what it deleted

Usage: {program} journal COMMAND [flags]

Commands:
  show    Show what a prune has done, and what is left of it
  export  Print the objects as they were before a prune deleted or changed them

See '{program} journal COMMAND --help' for the flags.
";

/// Reads the words behind `journal`.
pub(super) fn invocation(words: &[OsString], program: &str) -> Result<Invocation, Failure> {
    match words.first().map(|word| word.to_string_lossy()).as_deref() {
        Some("show") => subcommand::read::<ShowArgs>(words, program),
        Some("export") => subcommand::read::<ExportArgs>(words, program),
        None | Some("-h" | "--help") => Ok(Invocation::Print(COMMANDS.replace("{program}", program))),
        Some(word) => {
            Err(Failure::usage(format!("unknown command \"{}\" for \"{program} journal\"", sanitize(word)))
                .hint(format!("see what there is: {program} journal --help")))
        }
    }
}

/// Both with their flags.
pub(super) fn commands(program: &str) -> [clap::Command; 2] {
    [subcommand::command::<ShowArgs>(program), subcommand::command::<ExportArgs>(program)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{parse, subcommand::command};

    fn run(line: &str) -> Result<Invocation, Failure> {
        parse(["oc-prune_images"].into_iter().chain(line.split_whitespace()).map(Into::into))
    }

    #[test]
    fn flags_become_options() {
        command::<ShowArgs>("oc prune-images").debug_assert();
        command::<ExportArgs>("oc prune-images").debug_assert();
        let options = |line: &str| match run(line) {
            Ok(Invocation::Journal(options)) => *options,
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(options("journal show -o yaml").task, JournalTask::Show(OutputFormat::Yaml));
        let export = options("journal export --streams --journal=a");
        assert_eq!(export.task, JournalTask::Export { streams: true, yaml: false });
        assert_eq!(export.journal, Some("a".into()));
        for line in ["journal", "journal --help"] {
            assert!(
                matches!(run(line), Ok(Invocation::Print(text)) if text.contains("prune-images journal COMMAND"))
            );
        }
        let Err(failure) = run("journal list") else { panic!() };
        assert_eq!(failure.message, "unknown command \"list\" for \"oc prune-images journal\"");
    }
}
