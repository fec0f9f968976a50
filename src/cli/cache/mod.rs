//! The subcommands of `cache`: their flags as typed, and what becomes of them.

mod check;
mod flush;
mod status;
mod switch;

use std::ffi::OsString;

use super::{
    parse::Invocation,
    subcommand::{command, read},
};
use crate::{error::Failure, text::sanitize};

/// The word that the subcommands stand behind.
pub(super) const WORD: &str = "cache";

/// What they are for.
pub(super) const ABOUT: &str = "Make the registry's caches forget what was deleted";

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

/// The subcommands with their flags.
pub(super) fn commands(program: &str) -> [clap::Command; 5] {
    [
        command::<check::CheckArgs>(program),
        command::<flush::FlushArgs>(program),
        command::<switch::DisableArgs>(program),
        command::<switch::EnableArgs>(program),
        command::<status::StatusArgs>(program),
    ]
}
