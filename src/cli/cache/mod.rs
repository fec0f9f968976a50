//! The subcommands of `cache`: their flags as typed, and what becomes of them.

mod check;
mod flush;
mod status;
mod switch;

use std::ffi::OsString;

use clap::{Args, CommandFactory, FromArgMatches};

use super::{
    options::OutputFormat,
    parse::{Invocation, like_pflag, usage},
    validate,
};
use crate::{error::Failure, text::sanitize};

/// What `cache` prints when no subcommand follows.
const COMMANDS: &str = "\
Make the registry's caches forget what was deleted

Usage: {program} cache COMMAND [flags]

Commands:
  check    Ask every replica of the registry for deleted blobs
  flush    Remove deleted blobs from the registry's Redis
  disable  Turn the registry's caches off for good
  enable   Turn them on again
  status   Show which caches the registry has, and what can be done about them

See '{program} cache COMMAND --help' for the flags.
";

/// Reads what follows the word `cache`.
pub(super) fn invocation(words: &[OsString], program: &str) -> Result<Invocation, Failure> {
    let commands = || Ok(Invocation::Print(COMMANDS.replace("{program}", program)));
    let Some(first) = words.first() else { return commands() };
    match first.to_string_lossy().as_ref() {
        "check" => read::<check::CheckArgs>(words, program),
        "flush" => read::<flush::FlushArgs>(words, program),
        "disable" => read::<switch::DisableArgs>(words, program),
        "enable" => read::<switch::EnableArgs>(words, program),
        "status" => read::<status::StatusArgs>(words, program),
        "-h" | "--help" => commands(),
        other => {
            Err(Failure::usage(format!("unknown command \"{}\" for \"{program} cache\"", sanitize(other)))
                .hint(format!("see what there is: {program} cache --help")))
        }
    }
}

/// A subcommand: what was typed behind its name.
trait Subcommand: CommandFactory + FromArgMatches {
    /// What follows `cache` in the text of `--help`; the name first.
    const SYNOPSIS: &str;

    /// The flags that every subcommand has.
    fn common(&self) -> &CommonArgs;

    /// Checks the values and fills in the defaults.
    fn invocation(self, program: &str) -> Result<Invocation, Failure>;
}

/// The flags that every subcommand has.
#[derive(Args)]
struct CommonArgs {
    /// How much to log on stderr, 0 to 10
    #[arg(long = "v", short = 'v', value_name = "N")]
    verbosity: Option<String>,

    /// Print this text
    #[arg(long = "help", short = 'h', value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    help: Option<String>,

    /// Words that are no flags; caught here because no subcommand takes any.
    #[arg(hide = true)]
    words: Vec<OsString>,
}

impl CommonArgs {
    fn verbosity(&self) -> Result<u8, Failure> {
        validate::verbosity(self.verbosity.as_deref())
    }
}

/// What `--output` is for those that have it.
const FORMATS: [(&str, OutputFormat); 3] =
    [("json", OutputFormat::Json), ("text", OutputFormat::Text), ("yaml", OutputFormat::Yaml)];

/// Reads the words from the subcommand's name on.
fn read<A: Subcommand>(words: &[OsString], program: &str) -> Result<Invocation, Failure> {
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
    validate::no_words(&common.words)?;
    args.invocation(program)
}

fn command<A: Subcommand>(program: &str) -> clap::Command {
    let name = A::SYNOPSIS.split(' ').next().unwrap_or_default();
    like_pflag(A::command())
        .bin_name(format!("{program} cache {name}"))
        .override_usage(format!("{program} cache {}", A::SYNOPSIS))
        .max_term_width(100)
}
