//! The flags of `cache disable` and `cache enable`.

use std::time::Duration;

use clap::{Args, Parser};

use super::super::{
    connection::ConnectionArgs,
    parse::Invocation,
    place::PlaceArgs,
    running::WritingArgs,
    subcommand::{CommonArgs, ReportArgs, Subcommand},
    validate::{invalid, nonempty, switch, timeout},
};
use crate::{
    cache::{
        commands::switch::{Consent, SPELLED_OUT, SwitchOptions, Turn},
        rollout::Pace,
    },
    cluster::ConnectionOptions,
    error::Failure,
    text,
};

/// `--cache-timeout` unless it is given.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Turn the registry's caches off for good
///
/// Without caches the registry never answers for what was deleted; it asks the storage more often instead. This sets
/// two variables in the registry's pod template (without --confirm it only says which), keeps the old values in an
/// annotation, and returns once no pod with a cache serves any more.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER_DISABLE)]
pub(super) struct DisableArgs {
    /// Have the operator keep its hands off the registry (managementState: Unmanaged)
    ///
    /// An operator that manages the registry turns the change back. Unmanaged means that cluster upgrades no longer
    /// update the registry, until cache enable puts the state back. It has to be confirmed by typing a word; where
    /// nobody is at a terminal, by --set-unmanaged=yes-the-registry-gets-no-more-updates.
    #[arg(long, value_name = "WORD", num_args = 0..=1, require_equals = true, default_missing_value = "ask")]
    set_unmanaged: Option<String>,

    #[command(flatten)]
    switch: SwitchArgs,
}

/// Turn the registry's caches on again, as they were before cache disable
///
/// Restores what cache disable changed, the operator's managementState included, and returns once every pod that
/// serves is configured so.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER_ENABLE)]
pub(super) struct EnableArgs {
    /// The Redis that the registry had was flushed
    ///
    /// It may still hold blobs that were pruned while it was out of use: flush it first, with cache flush --all.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    redis_is_flushed: Option<String>,

    #[command(flatten)]
    switch: SwitchArgs,
}

/// The flags that both have.
#[derive(Args)]
struct SwitchArgs {
    /// Do it, rather than say what would be done
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    confirm: Option<String>,

    /// Only say what would be done: the default
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    dry_run: Option<String>,

    /// How long the rollout may take; default 10m
    #[arg(long, value_name = "DURATION")]
    cache_timeout: Option<String>,

    #[command(flatten)]
    place: PlaceArgs,

    #[command(flatten)]
    writing: WritingArgs,

    #[command(flatten)]
    report: ReportArgs,

    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

const AFTER_DISABLE: &str = "\
Examples:
  {program} cache disable
  {program} cache disable --confirm
  {program} cache disable --confirm --set-unmanaged

Exit codes:
  0  no pod with a cache serves any more; also: a dry run
  1  nothing was changed
  2  the command line is wrong
  4  changed, but a pod with a cache may still serve
  130, 143  ended by Ctrl-C, by SIGTERM";

const AFTER_ENABLE: &str = "\
Examples:
  {program} cache enable
  {program} cache enable --confirm

Exit codes:
  0  every pod that serves is configured as before; also: a dry run
  1  nothing was changed
  2  the command line is wrong
  4  changed, but not every pod is configured so yet
  130, 143  ended by Ctrl-C, by SIGTERM";

impl Subcommand for DisableArgs {
    const SYNOPSIS: &str = "cache disable [--confirm] [flags]";

    fn common(&self) -> &CommonArgs {
        &self.switch.common
    }

    fn invocation(self, program: &str) -> Result<Invocation, Failure> {
        let set_unmanaged = match self.set_unmanaged.as_deref() {
            None => Consent::None,
            Some("ask") => Consent::Ask,
            Some(SPELLED_OUT) => Consent::Given,
            Some(word) => {
                return Err(invalid("--set-unmanaged", word, "it takes effect only if it is spelled out").hint(format!(
                    "type the confirmation at a terminal: --set-unmanaged; or spell it out: --set-unmanaged={SPELLED_OUT}"
                )));
            }
        };
        let options = options(self.switch, program, Turn::Off)?;
        Ok(Invocation::CacheSwitch(Box::new(SwitchOptions { set_unmanaged, ..options })))
    }
}

impl Subcommand for EnableArgs {
    const SYNOPSIS: &str = "cache enable [--confirm] [flags]";

    fn common(&self) -> &CommonArgs {
        &self.switch.common
    }

    fn invocation(self, program: &str) -> Result<Invocation, Failure> {
        let redis_is_flushed = switch("--redis-is-flushed", self.redis_is_flushed.as_deref())?;
        let options = options(self.switch, program, Turn::On)?;
        Ok(Invocation::CacheSwitch(Box::new(SwitchOptions { redis_is_flushed, ..options })))
    }
}

fn options(args: SwitchArgs, program: &str, turn: Turn) -> Result<SwitchOptions, Failure> {
    let confirm = switch("--confirm", args.confirm.as_deref())?;
    if confirm && switch("--dry-run", args.dry_run.as_deref())? {
        return Err(Failure::usage("--confirm cannot be specified with --dry-run"));
    }
    let place = args.place.place()?;
    let timeout = timeout("--cache-timeout", args.cache_timeout.as_deref(), TIMEOUT)?;
    let word = if turn == Turn::Off { "disable" } else { "enable" };
    let connection =
        ConnectionOptions { field_manager: args.writing.field_manager()?, ..args.connection.options()? };
    let repeat = format!(
        "{program} cache {word} --confirm{}{}{}",
        place.flags(),
        text::flags([("--cache-timeout", nonempty(args.cache_timeout))]),
        connection.writing_flags()
    );
    Ok(SwitchOptions {
        connection,
        place,
        turn,
        confirm,
        timeout,
        set_unmanaged: Consent::None,
        redis_is_flushed: false,
        report: args.report.path(),
        verbosity: args.common.verbosity()?,
        program: program.to_owned(),
        repeat,
        pace: Pace::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::detect::Place;
    use crate::{
        cli::{parse, subcommand::command},
        error::Exit,
    };

    fn run(line: &str) -> Result<Invocation, Failure> {
        let words = std::iter::once("oc-prune_images").chain(line.split_whitespace());
        parse(words.map(Into::into))
    }

    fn switch_options(line: &str) -> SwitchOptions {
        match run(line) {
            Ok(Invocation::CacheSwitch(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definitions_are_sound() {
        command::<DisableArgs>("oc prune-images").debug_assert();
        command::<EnableArgs>("oc prune-images").debug_assert();
        for word in ["disable", "enable"] {
            match run(&format!("cache {word} --help")) {
                Ok(Invocation::Print(text)) => {
                    assert!(text.contains(&format!("oc prune-images cache {word} [--confirm]")), "{text}");
                    assert!(!text.contains("{program}"), "{text}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn flags_become_options() {
        let options = switch_options("cache disable");
        assert_eq!((options.turn, options.confirm, options.set_unmanaged), (Turn::Off, false, Consent::None));
        assert_eq!((options.place, options.timeout), (Place::default(), TIMEOUT));
        let options = switch_options(
            "cache disable --confirm --set-unmanaged --registry-namespace=a --registry-deployment b --cache-timeout=90s",
        );
        assert_eq!(options.set_unmanaged, Consent::Ask);
        assert_eq!(options.place, Place { namespace: "a".to_owned(), deployment: "b".to_owned() });
        assert_eq!(options.timeout, Duration::from_secs(90));
        assert_eq!(
            options.repeat,
            "oc prune-images cache disable --confirm --registry-namespace=a --registry-deployment=b --cache-timeout=90s"
        );
        let spelled = switch_options(&format!("cache disable --set-unmanaged={SPELLED_OUT}"));
        assert_eq!(spelled.set_unmanaged, Consent::Given);
        let options = switch_options("cache enable --redis-is-flushed --dry-run");
        assert_eq!((options.turn, options.redis_is_flushed, options.confirm), (Turn::On, true, false));
    }

    #[test]
    fn mistakes_are_told() {
        for (line, message) in [
            (
                "cache disable --set-unmanaged=yes",
                "invalid argument \"yes\" for \"--set-unmanaged\" flag: it takes effect only if it is spelled out",
            ),
            ("cache disable --confirm --dry-run", "--confirm cannot be specified with --dry-run"),
            ("cache enable --set-unmanaged", "unknown flag: --set-unmanaged"),
            ("cache enable now", "no arguments are allowed to this command"),
            (
                "cache enable --cache-timeout=0s",
                "invalid argument \"0s\" for \"--cache-timeout\" flag: it must be greater than 0",
            ),
        ] {
            let failure = run(line).unwrap_err();
            assert_eq!((failure.exit, failure.message.as_str()), (Exit::Usage, message), "{line}");
        }
        let failure = run("cache disable --registry-namespace=../x").unwrap_err();
        assert!(failure.message.contains("a namespace has at most 63"), "{failure}");
    }
}
