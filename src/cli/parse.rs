//! From the process's arguments to an [`Invocation`]: the only file that speaks with the command line library.
//!
//! The library's own messages are replaced by those of Go's `pflag`, which `oc` and `kubectl` print.

use std::{ffi::OsString, path::Path};

use clap::{
    CommandFactory as _, FromArgMatches as _,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{
    args::{PruneArgs, SUMMARY},
    cache, completion,
    completion::Completion,
    explain::ExplainArgs,
    hard_prune::HardPruneArgs,
    journal,
    journal::JournalOptions,
    man,
    options::{ExplainOptions, Options},
    place_files::PlaceFilesOptions,
    resume::ResumeArgs,
    schedule, subcommand,
    usage::{UsageArgs, UsageOptions},
    validate,
    verify::{VerifyArgs, VerifyOptions},
    what_if::{WhatIfArgs, WhatIfOptions},
};
use crate::{
    cache::commands::{
        check::CheckOptions, flush::FlushOptions, status::StatusOptions, switch::SwitchOptions,
    },
    error::Failure,
    hard_prune::HardPruneOptions,
    schedule::ScheduleOptions,
    text::sanitize,
};

/// What the user asks for.
#[derive(Debug, Clone)]
pub enum Invocation {
    /// Print this text on stdout and exit with 0: help or version.
    Print(String),
    /// Plan a prune, and carry it out if [`Options::confirm`] says so.
    Prune(Box<Options>),
    /// Finish a prune that was cut short, or say what is left of it.
    Resume(Box<Options>),
    /// Show what a journal says.
    Journal(Box<JournalOptions>),
    /// Say why images stay or go.
    Explain(Box<ExplainOptions>),
    /// Ask the registry's replicas for what was deleted.
    CacheCheck(Box<CheckOptions>),
    /// Make the registry's Redis forget what was deleted.
    CacheFlush(Box<FlushOptions>),
    /// Turn the registry's caches off, or on again.
    CacheSwitch(Box<SwitchOptions>),
    /// Show which caches the registry has.
    CacheStatus(Box<StatusOptions>),
    /// Have the registry delete what the API no longer knows of.
    HardPrune(Box<HardPruneOptions>),
    /// Print or apply the objects of a prune that the cluster runs.
    Schedule(Box<ScheduleOptions>),
    /// Answer a shell that asks how a word can go on.
    Complete(Box<Completion>),
    /// Write files for other programs to find.
    PlaceFiles(Box<PlaceFilesOptions>),
    /// Show where the registry's storage goes.
    Usage(Box<UsageOptions>),
    /// Ask the registry whether images can be pulled.
    Verify(Box<VerifyOptions>),
    /// Show what other values would free.
    WhatIf(Box<WhatIfOptions>),
}

/// Reads the arguments, the program's own name first.
///
/// # Errors
/// A [`Failure`] with exit code 2 for a mistake on the command line, and with 1 for a file of CA certificates that
/// cannot be used; in the reference's words where it has some.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Invocation, Failure> {
    parse_called_by(argv, None)
}

/// As [`parse`]; `caller` is the program that started this one as its plugin, if it said so (`KUBECTL_PATH`).
///
/// # Errors
/// As those of [`parse`].
pub fn parse_called_by(
    argv: impl IntoIterator<Item = OsString>,
    caller: Option<&Path>,
) -> Result<Invocation, Failure> {
    let argv: Vec<_> = argv.into_iter().collect();
    let program = program(argv.first().map_or(Path::new(""), Path::new), caller);
    invocation(argv, &program).map_err(|failure| match failure.exit {
        crate::error::Exit::Usage => failure.hint(format!("see '{program} --help' for usage")),
        _ => failure,
    })
}

fn invocation(words: Vec<OsString>, program: &str) -> Result<Invocation, Failure> {
    // Commands have names; everything else is the reference's command line, which takes no words.
    if let [_, named @ ..] = words.as_slice()
        && let [word, rest @ ..] = named
    {
        match word.to_str() {
            Some(cache::WORD) => return cache::invocation(rest, program),
            Some("completion") => return subcommand::read::<completion::CompletionArgs>(named, program),
            Some("explain") => return subcommand::read::<ExplainArgs>(named, program),
            Some("cronjob") => return subcommand::read::<schedule::CronJobArgs>(named, program),
            Some(journal::WORD) => return journal::invocation(rest, program),
            Some("resume") => return subcommand::read::<ResumeArgs>(named, program),
            Some("job") => return subcommand::read::<schedule::JobArgs>(named, program),
            Some("hard-prune") => return subcommand::read::<HardPruneArgs>(named, program),
            Some("man") => return subcommand::read::<man::ManArgs>(named, program),
            Some("__complete") => {
                return Ok(Invocation::Complete(Box::new(completion::words::complete(rest, program))));
            }
            Some("usage") => return subcommand::read::<UsageArgs>(named, program),
            Some("verify") => return subcommand::read::<VerifyArgs>(named, program),
            Some("what-if") => return subcommand::read::<WhatIfArgs>(named, program),
            _ => {}
        }
    }
    let last = words.last().cloned().unwrap_or_default();
    let mut command = command(program);
    let args = command
        .try_get_matches_from_mut(words)
        .and_then(|mut matches| PruneArgs::from_arg_matches_mut(&mut matches))
        .map_err(|error| usage(&error, &last.to_string_lossy()))?;
    if args.help_summary {
        return Ok(Invocation::Print(SUMMARY.replace("{program}", program)));
    }
    if validate::asked_for("--help", args.help_text.as_deref())? {
        let text = command.render_long_help().to_string();
        return Ok(Invocation::Print(text.replace("{program}", program)));
    }
    if validate::asked_for("--version", args.version_text.as_deref())? {
        return Ok(Invocation::Print(format!("{program} {}\n", env!("CARGO_PKG_VERSION"))));
    }
    validate::validate(args, program.to_owned()).map(|options| Invocation::Prune(Box::new(options)))
}

/// Every command with its flags, the one without a name first: for the pages and scripts that are made from them.
#[must_use]
pub fn commands(program: &str) -> Vec<clap::Command> {
    let mut commands = vec![command(program)];
    commands.push(subcommand::command::<ResumeArgs>(program));
    commands.extend(journal::commands(program));
    commands.push(subcommand::command::<ExplainArgs>(program));
    commands.extend([subcommand::command::<UsageArgs>(program), subcommand::command::<WhatIfArgs>(program)]);
    commands.push(subcommand::command::<VerifyArgs>(program));
    commands.extend(cache::commands(program));
    commands.push(subcommand::command::<HardPruneArgs>(program));
    commands.extend(schedule::commands(program));
    commands.push(subcommand::command::<completion::CompletionArgs>(program));
    commands.push(subcommand::command::<man::ManArgs>(program));
    commands
}

/// The words that call a command of [`commands`]: none for the one without a name.
pub(super) fn words(command: &clap::Command, program: &str) -> Vec<String> {
    let called = command.get_bin_name().and_then(|name| name.strip_prefix(program)).unwrap_or_default();
    called.split_whitespace().map(ToOwned::to_owned).collect()
}

fn command(program: &str) -> clap::Command {
    like_pflag(PruneArgs::command())
        .bin_name(program)
        .override_usage(format!("{program} [flags]"))
        .max_term_width(100)
}

/// What pflag does: the last of a flag's values counts, and the next word is the value whatever it looks like
/// (`--keep-tag-revisions -1`). `--help` and `--version` are flags as others are.
pub(super) fn like_pflag(command: clap::Command) -> clap::Command {
    let command = command
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args_override_self(true);
    command.mut_args(|arg| {
        let takes_next_word =
            !arg.is_positional() && !arg.is_require_equals_set() && arg.get_action().takes_values();
        if takes_next_word { arg.allow_hyphen_values(true) } else { arg }
    })
}

/// How the user calls the program: `kubectl` finds `kubectl-prune_images`, `oc` finds that or `oc-prune_images`.
/// From kubectl 1.37 on the caller says who it is.
fn program(path: &Path, caller: Option<&Path>) -> String {
    let stem = |path: &Path| path.file_stem().map(|name| name.to_string_lossy().to_lowercase());
    let is_plugin_of = |caller: &str| stem(path).is_some_and(|name| name.starts_with(&format!("{caller}-")));
    let caller = match caller.and_then(stem).as_deref() {
        Some("oc") => "oc",
        Some("kubectl") => "kubectl",
        _ if is_plugin_of("kubectl") => "kubectl",
        _ => "oc",
    };
    format!("{caller} prune-images")
}

pub(super) fn usage(error: &clap::Error, last_word: &str) -> Failure {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        Some(ContextValue::Strings(texts)) => texts.first().map_or("", String::as_str),
        _ => "",
    };
    // `--registry-url <URL>`: the flag's name is the first word.
    let invalid = context(ContextKind::InvalidArg);
    let flag = sanitize(invalid.split([' ', '=', '[']).next().unwrap_or(invalid));
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let failure = if flag.starts_with("--") {
                Failure::usage(format!("unknown flag: {flag}"))
            } else {
                let letter = flag.trim_start_matches('-');
                Failure::usage(format!("unknown shorthand flag: '{letter}' in -{letter}"))
            };
            match context(ContextKind::SuggestedArg) {
                "" => failure,
                suggestion => failure.hint(format!("did you mean {suggestion}?")),
            }
        }
        ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            match last_word.strip_prefix('-').filter(|letter| letter.len() == 1 && *letter != "-") {
                Some(letter) => Failure::usage(format!("flag needs an argument: '{letter}' in -{letter}")),
                None => Failure::usage(format!("flag needs an argument: {flag}")),
            }
        }
        ErrorKind::InvalidUtf8 => Failure::usage("an argument is not valid UTF-8"),
        _ => Failure::usage(sanitize(
            error.to_string().trim_start_matches("error: ").lines().next().unwrap_or_default(),
        )),
    }
}
