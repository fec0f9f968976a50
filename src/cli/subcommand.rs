//! What all commands that have a name share: flags that each has, and how their words are read.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches};

use super::{
    options::OutputFormat,
    parse::{Invocation, like_pflag, usage},
    validate,
};
use crate::error::Failure;

/// A subcommand: what was typed behind its name.
pub(super) trait Subcommand: CommandFactory + FromArgMatches {
    /// What follows the program's name in the usage line: the words of the command, then what it takes.
    const SYNOPSIS: &str;

    /// The flags that every subcommand has.
    fn common(&self) -> &CommonArgs;

    /// Whether it takes words that are no flags: [`CommonArgs::words`].
    const TAKES_WORDS: bool = false;

    /// Checks the values and fills in the defaults.
    fn invocation(self, program: &str) -> Result<Invocation, Failure>;
}

/// The flags that every subcommand has.
#[derive(Args)]
pub(super) struct CommonArgs {
    /// How much to log on stderr, 0 to 10
    #[arg(long = "v", short = 'v', value_name = "N")]
    verbosity: Option<String>,

    /// Print this text
    #[arg(long = "help", short = 'h', value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    help: Option<String>,

    /// Words that are no flags; caught here also for those that take none.
    #[arg(hide = true)]
    pub(super) words: Vec<OsString>,
}

impl CommonArgs {
    pub(super) fn verbosity(&self) -> Result<u8, Failure> {
        validate::verbosity(self.verbosity.as_deref())
    }
}

/// The flag of those that can write their answer as a page, too.
#[derive(Args)]
pub(super) struct ReportArgs {
    /// Also write a page for a browser to this file
    ///
    /// One file that needs no network and no JavaScript.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl ReportArgs {
    /// The file, if there is to be one.
    pub(super) fn path(self) -> Option<PathBuf> {
        validate::nonempty_path(self.report)
    }
}

/// What `--output` is for those that have it.
pub(super) const FORMATS: [(&str, OutputFormat); 3] =
    [("json", OutputFormat::Json), ("text", OutputFormat::Text), ("yaml", OutputFormat::Yaml)];

/// Reads the words from the subcommand's name on.
pub(super) fn read<A: Subcommand>(words: &[OsString], program: &str) -> Result<Invocation, Failure> {
    let last = words.last().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let mut command = command::<A>(program);
    let args = command
        .try_get_matches_from_mut(words)
        .and_then(|mut matches| A::from_arg_matches_mut(&mut matches))
        .map_err(|error| usage(&error, &last))?;
    let common = args.common();
    if validate::asked_for("--help", common.help.as_deref())? {
        return Ok(Invocation::Print(command.render_long_help().to_string().replace("{program}", program)));
    }
    if !A::TAKES_WORDS {
        validate::no_words(&common.words)?;
    }
    args.invocation(program)
}

pub(super) fn command<A: Subcommand>(program: &str) -> clap::Command {
    let is_word = |part: &&str| part.starts_with(|c: char| c.is_ascii_lowercase());
    let words: Vec<&str> = A::SYNOPSIS.split(' ').take_while(is_word).collect();
    like_pflag(A::command())
        .bin_name(format!("{program} {}", words.join(" ")))
        .override_usage(format!("{program} {}", A::SYNOPSIS))
        .max_term_width(100)
}
