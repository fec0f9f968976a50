//! The flags of `cache check`.

use std::path::PathBuf;

use clap::Parser;

use super::super::{
    cluster::ClusterArgs,
    parse::Invocation,
    subcommand::{CommonArgs, FORMATS, ReportArgs, Subcommand},
    validate::{self, nonempty_path},
};
use crate::{
    cache::{
        Extent,
        commands::{check::CheckOptions, flush::Source},
    },
    error::Failure,
};

/// Ask every replica of the registry for deleted blobs
///
/// A replica whose cache still names a blob that is gone answers for it: such an answer is stale, and pushes that re-use
/// the blob are broken. Asking takes the right to get imagestreams/layers. Nothing is changed.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER)]
pub(super) struct CheckArgs {
    /// What a prune has deleted: its output with -o json or -o yaml
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// The digests to ask for, one per line; - for the standard input
    ///
    /// A line is NAMESPACE/NAME@sha256:HEX, of a repository that had the blob. Blank lines and those that begin with #
    /// are skipped.
    #[arg(long, value_name = "FILE")]
    digests_from: Option<PathBuf>,

    /// How many of them: sample or all
    ///
    /// Default: all.
    #[arg(long, value_name = "EXTENT")]
    check: Option<String>,

    /// Output: text, json or yaml
    #[arg(long, short, value_name = "FORMAT")]
    output: Option<String>,

    #[command(flatten)]
    report: ReportArgs,

    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

const AFTER: &str = "\
Examples:
  {program} cache check --from=result.json
  echo shop/web@sha256:… | {program} cache check --digests-from=-

Exit codes:
  0  every replica answered: no cache names any of the blobs asked for
  1  not every question could be asked or got an answer
  2  the command line is wrong
  4  a cache still names what was deleted
  130, 143  ended by Ctrl-C, by SIGTERM";

/// The values of `--check` here: a check of nothing is none.
const EXTENTS: [(&str, Extent); 2] = [("sample", Extent::Sample), ("all", Extent::All)];

impl Subcommand for CheckArgs {
    const SYNOPSIS: &str = "cache check (--from=FILE | --digests-from=FILE) [flags]";

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn invocation(self, program: &str) -> Result<Invocation, Failure> {
        let source = match (nonempty_path(self.from), nonempty_path(self.digests_from)) {
            (Some(path), None) => Source::Result(path),
            (None, Some(path)) => Source::Digests(path),
            (None, None) => {
                return Err(Failure::usage("one of --digests-from and --from is needed").hint(
                    "write the output of a prune to a file: oc prune-images --confirm -o json > result.json",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(Failure::usage("only one of --digests-from and --from can be specified"));
            }
        };
        let extent = match self.check.filter(|word| !word.is_empty()) {
            None => Extent::All,
            word => validate::word("--check", word, EXTENTS)?,
        };
        Ok(Invocation::CacheCheck(Box::new(CheckOptions {
            source,
            extent,
            output: validate::output_of(self.output.as_deref(), &FORMATS)?,
            report: self.report.path(),
            verbosity: self.common.verbosity()?,
            program: program.to_owned(),
            cluster: self.cluster.access()?,
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{options::OutputFormat, parse, subcommand::command},
        error::Exit,
    };

    fn run(line: &str) -> Result<Invocation, Failure> {
        let words = ["oc-prune_images", "cache", "check"].into_iter().chain(line.split_whitespace());
        parse(words.map(Into::into))
    }

    #[test]
    fn flags_become_options() {
        command::<CheckArgs>("oc prune-images").debug_assert();
        match run("--from=result.json --check=sample -o json --registry-namespace=registry") {
            Ok(Invocation::CacheCheck(options)) => {
                assert_eq!(options.source, Source::Result("result.json".into()));
                assert_eq!((options.extent, options.output), (Extent::Sample, OutputFormat::Json));
                assert_eq!(options.cluster.place.namespace, "registry");
            }
            other => panic!("{other:?}"),
        }
        match run("--digests-from=-") {
            Ok(Invocation::CacheCheck(options)) => assert_eq!(options.extent, Extent::All),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (line, message) in [
            ("", "one of --digests-from and --from is needed"),
            ("--from=a --digests-from=b", "only one of --digests-from and --from can be specified"),
            (
                "--from=a --check=off",
                "invalid argument \"off\" for \"--check\" flag: it must be one of sample, all",
            ),
            ("--from=a more", "no arguments are allowed to this command"),
        ] {
            let failure = run(line).unwrap_err();
            assert_eq!((failure.exit, failure.message.as_str()), (Exit::Usage, message), "{line}");
        }
    }
}
