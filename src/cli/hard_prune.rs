//! The flags of `hard-prune`.

use std::time::Duration;

use clap::Parser;

use super::{
    cluster::ClusterArgs,
    parse::Invocation,
    redis::RedisArgs,
    running::WritingArgs,
    subcommand::{CommonArgs, FORMATS, ReportArgs, Subcommand},
    validate::{self, NO_LIMIT, nonempty, switch, timeout},
};
use crate::{cache::rollout::Pace, error::Failure, hard_prune::HardPruneOptions, text};

/// `--cache-timeout` unless it is given.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Delete from the registry's storage what the API no longer knows of
///
/// Blobs and links whose images and image streams are gone: after prunes with --prune-registry=false, deleted image
/// streams and projects, pushes that broke off. This has the registry's own hard prune do it, in one of its pods, which
/// may take hours. Without --confirm it only says what would be deleted. With it, the registry is read-only meanwhile:
/// pulls work, pushes are refused. Afterwards every replica is restarted, and a Redis is made to forget what was deleted.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER)]
pub(super) struct HardPruneArgs {
    /// Delete, rather than say what would be deleted
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    confirm: Option<String>,

    /// Only say what would be deleted: the default
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    dry_run: Option<String>,

    /// Only put back the read-only mode that a run has left on
    ///
    /// For a run that was killed. What it has left to be deleted stays; every replica is restarted, and a Redis forgets
    /// everything. Any run with --confirm does the same in its end. Without --confirm it is only said.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    restore: Option<String>,

    /// End a hard prune that is deleting in one of the registry's pods
    ///
    /// It goes on there when the run that began it was killed or has lost its connection. What it has not deleted yet, this
    /// run does.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    take_over: Option<String>,

    /// End the run after this time, and leave the rest
    ///
    /// The hard prune is ended, the caches forget what was deleted, and read-only mode is put back, for which
    /// --cache-timeout holds. The exit code is 124. Default: no limit.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,

    /// How long each rollout of the registry may take; default 10m
    #[arg(long, value_name = "DURATION")]
    cache_timeout: Option<String>,

    /// Output: text, json or yaml
    #[arg(long, short, value_name = "FORMAT")]
    output: Option<String>,

    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(flatten)]
    redis: RedisArgs,

    #[command(flatten)]
    writing: WritingArgs,

    #[command(flatten)]
    report: ReportArgs,

    #[command(flatten)]
    common: CommonArgs,
}

const AFTER: &str = "\
Examples:
  {program} hard-prune
  {program} hard-prune --confirm
  {program} hard-prune --restore --confirm

Exit codes:
  0  done; also: there was nothing to delete, a check
  1  nothing was changed: a right is missing, or another hard prune is deleting
  2  the command line is wrong
  3  not everything was deleted, or the registry is still read-only: the message says which
  4  a cache may still name what was deleted, or a replica is still read-only
  124, 130, 143  ended by --timeout, by Ctrl-C, by SIGTERM";

impl Subcommand for HardPruneArgs {
    const SYNOPSIS: &str = "hard-prune [--confirm] [flags]";

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn invocation(self, program: &str) -> Result<Invocation, Failure> {
        let confirm = switch("--confirm", self.confirm.as_deref())?;
        if confirm && switch("--dry-run", self.dry_run.as_deref())? {
            return Err(Failure::usage("--confirm cannot be specified with --dry-run"));
        }
        let restore = switch("--restore", self.restore.as_deref())?;
        let take_over = switch("--take-over", self.take_over.as_deref())?;
        if take_over && !confirm {
            return Err(Failure::usage("--take-over goes with --confirm"));
        }
        let limit = timeout("--timeout", self.timeout.as_deref(), NO_LIMIT)?;
        let rollout_timeout = timeout("--cache-timeout", self.cache_timeout.as_deref(), TIMEOUT)?;
        let output = validate::output_of(self.output.as_deref(), &FORMATS)?;
        let verbosity = self.common.verbosity()?;
        let field_manager = self.writing.field_manager()?;
        let mut access = self.cluster.access()?;
        access.connection.field_manager = field_manager;
        let redis = self.redis.options()?;
        let flags = format!(
            "{}{}{}{}{}",
            access.place.flags(),
            access.registry.flags(),
            redis.flags,
            text::flags([("--cache-timeout", nonempty(self.cache_timeout))]),
            access.connection.writing_flags()
        );
        Ok(Invocation::HardPrune(Box::new(HardPruneOptions {
            access,
            redis,
            confirm,
            restore,
            take_over,
            timeout: (limit != NO_LIMIT).then_some(limit),
            rollout_timeout,
            output,
            report: self.report.path(),
            verbosity,
            program: program.to_owned(),
            flags,
            pace: Pace::default(),
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{options::OutputFormat, parse, subcommand::command};

    fn run(line: &str) -> Result<Invocation, Failure> {
        let words = ["oc-prune_images", "hard-prune"].into_iter().chain(line.split_whitespace());
        parse(words.map(Into::into))
    }

    #[test]
    fn flags_become_options() {
        command::<HardPruneArgs>("oc prune-images").debug_assert();
        let Ok(Invocation::HardPrune(options)) = run("") else { panic!() };
        assert!(!options.confirm && !options.restore && !options.take_over);
        assert_eq!((options.timeout, options.rollout_timeout), (None, TIMEOUT));
        let line =
            "--confirm --take-over --timeout=2h --cache-timeout 90s -o json --redis-url=none --context=c";
        let Ok(Invocation::HardPrune(options)) = run(line) else { panic!() };
        assert!(options.confirm && options.take_over);
        assert_eq!(options.timeout, Some(Duration::from_secs(7200)));
        assert_eq!(options.output, OutputFormat::Json);
        assert_eq!(
            options.command(" --restore --confirm"),
            "oc prune-images hard-prune --restore --confirm --redis-url=none --cache-timeout=90s --context=c"
        );
    }

    #[test]
    fn mistakes_are_told() {
        for (line, message) in [
            ("--confirm --dry-run", "--confirm cannot be specified with --dry-run"),
            ("--take-over", "--take-over goes with --confirm"),
            ("--timeout=0s", "invalid argument \"0s\" for \"--timeout\" flag: it must be greater than 0"),
            ("now", "no arguments are allowed to this command"),
        ] {
            let Err(failure) = run(line) else { panic!("{line}") };
            assert_eq!(failure.message, message);
        }
    }
}
