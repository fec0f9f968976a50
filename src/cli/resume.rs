//! The flags of `resume`.

use std::path::PathBuf;

use clap::Parser;

use super::{
    caching::CacheArgs,
    connection::ConnectionArgs,
    options::{Keep, Options, OutputFormat, PruneOptions},
    parse::Invocation,
    registry::RegistryArgs,
    running::RunningArgs,
    subcommand::{CommonArgs, Subcommand},
    validate,
};
use crate::{cluster::ConnectionOptions, error::Failure};

/// Finish a prune that was cut short
///
/// Reads the journal of that run, decides by its flags what is left to do in the cluster as it is now, and with --confirm
/// does it: items, links, blobs and images that were agreed to and that still nothing uses, links and blobs that no list
/// of the cluster names any longer, and the registry's caches for everything that either run deleted.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER)]
pub(super) struct ResumeArgs {
    /// Really finish it; without, only say what is left
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    confirm: Option<String>,

    /// The journal of that run
    ///
    /// Default: every one of this cluster below $XDG_STATE_HOME/oc-prune-images with something left to do, the oldest first.
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,

    #[command(flatten)]
    registry: RegistryArgs,

    /// How many deletions are in flight
    ///
    /// As for a prune.
    #[arg(long, value_name = "N")]
    num_workers: Option<String>,

    /// Output: text, wide, json, yaml or name
    #[arg(long, short, value_name = "FORMAT")]
    output: Option<String>,

    #[command(flatten)]
    running: RunningArgs,

    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    cache: CacheArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

const AFTER: &str = "\
Examples:
  {program} resume
  {program} resume --confirm
  {program} journal show

Exit codes:
  0  done; also: nothing is left, and what is left was only shown
  1  an error before any change was made; also: another run is changing this cluster
  2  the command line is wrong
  3  finished, and some objects could not be pruned
  4  a registry cache may still name what was deleted
  124  ended by --timeout
  130, 143  ended by Ctrl-C, by SIGTERM";

impl Subcommand for ResumeArgs {
    const SYNOPSIS: &str = "resume [--confirm] [flags]";

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn invocation(self, program: &str) -> Result<Invocation, Failure> {
        let output: OutputFormat = validate::output_of(self.output.as_deref(), &OutputFormat::BY_NAME)?;
        let running = self.running.options(output)?;
        Ok(Invocation::Resume(Box::new(Options {
            program: program.to_owned(),
            prune: of_the_journal(),
            num_workers: validate::num_workers(self.num_workers.as_deref())?,
            output,
            show_kept: running.show_kept,
            verify: running.verify.unwrap_or_default(),
            poll_interval: running.poll_interval,
            timeout: running.timeout,
            metrics_file: running.metrics_file,
            report: running.report,
            verbosity: self.common.verbosity()?,
            confirm: validate::switch("--confirm", self.confirm.as_deref())?,
            may_ask: false,
            journal: validate::nonempty_path(self.journal),
            cache: self.cache.options()?,
            connection: ConnectionOptions {
                field_manager: running.field_manager,
                ..self.connection.options()?
            },
            // Last, because it reads a file.
            registry: self.registry.options()?,
        })))
    }
}

/// What is pruned stands in the journal, and takes the place of this.
fn of_the_journal() -> PruneOptions {
    PruneOptions {
        all: false,
        keep: Keep::OverSizeLimit,
        ignore_invalid_refs: false,
        namespace: None,
        selector: None,
        referrers_from: Vec::new(),
        prune_registry: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{parse, subcommand::command},
        error::Exit,
    };

    fn run(line: &str) -> Result<Invocation, Failure> {
        parse(["oc-prune_images", "resume"].into_iter().chain(line.split_whitespace()).map(Into::into))
    }

    #[test]
    fn flags_become_options() {
        command::<ResumeArgs>("oc prune-images").debug_assert();
        let Ok(Invocation::Resume(options)) =
            run("--confirm --journal=j --registry-cache=restart -o json --context=c --timeout=5m -v 2")
        else {
            panic!()
        };
        assert!(options.confirm && options.journal == Some("j".into()) && !options.may_ask);
        assert_eq!((options.output, options.verbosity), (OutputFormat::Json, 2));
        assert_eq!(options.connection.context.as_deref(), Some("c"));
        let Ok(Invocation::Resume(options)) = run("") else { panic!() };
        assert!(!options.confirm && options.journal.is_none());
    }

    #[test]
    fn what_is_pruned_stands_in_the_journal() {
        for line in ["--keep-tag-revisions=3", "--namespace=shop", "--all"] {
            let Err(failure) = run(line) else { panic!("{line}") };
            assert!(failure.exit == Exit::Usage && failure.message.starts_with("unknown flag"), "{failure}");
        }
    }
}
