//! The subcommands of `cache`: their flags as typed, and what becomes of them.

mod check;
mod flush;
mod status;
mod switch;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches};

use super::parse::{Invocation, like_pflag, usage};
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
        "check" => check::invocation(words, program),
        "flush" => flush::invocation(words, program),
        "disable" => switch::disable(words, program),
        "enable" => switch::enable(words, program),
        "status" => status::invocation(words, program),
        "-h" | "--help" => commands(),
        other => {
            Err(Failure::usage(format!("unknown command \"{}\" for \"{program} cache\"", sanitize(other)))
                .hint(format!("see what there is: {program} cache --help")))
        }
    }
}

/// Reads the words from the subcommand's name on: its arguments, and the text of `--help`. `synopsis` is what follows
/// `cache` in that text.
fn read<A: CommandFactory + FromArgMatches>(
    words: &[OsString],
    program: &str,
    synopsis: &str,
) -> Result<(A, String), Failure> {
    let last = words.last().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let name = synopsis.split(' ').next().unwrap_or_default();
    let mut command = like_pflag(A::command())
        .bin_name(format!("{program} cache {name}"))
        .override_usage(format!("{program} cache {synopsis}"))
        .max_term_width(100);
    let args = command
        .try_get_matches_from_mut(words)
        .and_then(|mut matches| A::from_arg_matches_mut(&mut matches))
        .map_err(|error| usage(&error, &last))?;
    Ok((args, command.render_long_help().to_string().replace("{program}", program)))
}
