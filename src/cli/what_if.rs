//! The flags of `what-if`.

use std::path::PathBuf;

use clap::Parser;

use super::{
    connection::ConnectionArgs,
    options::{Keep, LookFormat, PruneOptions},
    parse::Invocation,
    selection::{self, ScopeArgs},
    subcommand::{CommonArgs, ReportArgs, Subcommand},
    validate::{self, nonempty},
};
use crate::{cluster::ConnectionOptions, error::Failure, report::what_if::Grid};

/// Each combination is a decision about the whole cluster.
const MOST_COMBINATIONS: usize = 400;

/// Show what other values of --keep-tag-revisions and --keep-younger-than would free
///
/// Reads the cluster once, and decides for each combination of values as a prune would. The setting of the cluster's
/// automatic pruner is marked. Nothing is changed.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER)]
pub(super) struct WhatIfArgs {
    /// Numbers of revisions to try, with commas between them
    ///
    /// Default: 0,1,2,3,4,5,6,7,8,9,10.
    #[arg(long, value_name = "LIST")]
    keep_tag_revisions: Option<String>,

    /// Ages to try, with commas between them
    ///
    /// Durations with units: 90m, 96h, 0. There are no days: 1 day is 24h. Default: 1h,24h,168h,720h.
    #[arg(long, value_name = "LIST")]
    keep_younger_than: Option<String>,

    #[command(flatten)]
    scope: ScopeArgs,

    /// Output: table, json, yaml or html
    #[arg(long, short, value_name = "FORMAT")]
    output: Option<String>,

    #[command(flatten)]
    report: ReportArgs,

    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

const AFTER: &str = "\
Examples:
  {program} what-if
  {program} what-if --keep-tag-revisions=1,3,5 --keep-younger-than=24h,168h
  {program} what-if -o json | jq '.combinations[] | select(.bytes > 1e9)'
  {program} what-if -o html > what-if.html

Exit codes:
  0  done; also: the automatic pruner's setting cannot be read
  1  the cluster cannot be read
  2  the command line is wrong
  130, 143  ended by Ctrl-C, by SIGTERM";

/// What `what-if` was asked for.
#[derive(Debug, Clone)]
pub struct WhatIfOptions {
    /// All but the values that are tried; [`PruneOptions::keep`] is the most cautious combination.
    pub prune: PruneOptions,
    /// The values to try.
    pub grid: Grid,
    /// `--output`.
    pub output: LookFormat,
    /// `--report`.
    pub report: Option<PathBuf>,
    /// `-v`.
    pub verbosity: u8,
    /// Which cluster, and as whom.
    pub connection: ConnectionOptions,
}

impl Subcommand for WhatIfArgs {
    const SYNOPSIS: &str = "what-if [flags]";

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn invocation(self, _program: &str) -> Result<Invocation, Failure> {
        let mut grid = Grid::default();
        if let Some(words) = nonempty(self.keep_tag_revisions) {
            grid.revisions = selection::list_of_revisions(&words)?;
        }
        if let Some(words) = nonempty(self.keep_younger_than) {
            grid.ages = selection::list_of_ages(&words)?;
        }
        let combinations = grid.combinations().count();
        if combinations > MOST_COMBINATIONS {
            return Err(Failure::usage(format!(
                "{combinations} combinations of --keep-tag-revisions and --keep-younger-than are more than {MOST_COMBINATIONS}"
            )));
        }
        let most = |(keep_tag_revisions, keep_younger_than)| Keep::Revisions {
            keep_tag_revisions,
            keep_younger_than,
        };
        // The lists are never empty: a word without numbers is refused above.
        let keep = grid.combinations().last().map_or(Keep::OverSizeLimit, most);
        Ok(Invocation::WhatIf(Box::new(WhatIfOptions {
            prune: self.scope.options(keep)?,
            grid,
            output: validate::output_of(self.output.as_deref(), &LookFormat::BY_NAME)?,
            report: self.report.path(),
            verbosity: self.common.verbosity()?,
            connection: self.connection.options()?,
        })))
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::{
        cli::{parse, subcommand::command},
        error::Exit,
    };

    fn run(line: &str) -> Result<Invocation, Failure> {
        parse(["oc-prune_images", "what-if"].into_iter().chain(line.split_whitespace()).map(Into::into))
    }

    #[test]
    fn lists_become_a_grid() {
        command::<WhatIfArgs>("oc prune-images").debug_assert();
        let Ok(Invocation::WhatIf(options)) = run("") else { panic!() };
        assert_eq!(options.grid, Grid::default());
        let Ok(Invocation::WhatIf(options)) =
            run("--keep-tag-revisions=5,0,3,3 --keep-younger-than=168h,24h --report page.html -n shop")
        else {
            panic!()
        };
        assert_eq!(
            (&options.grid.revisions[..], &options.grid.ages[..]),
            (&[0, 3, 5][..], &[24, 168].map(SignedDuration::from_hours)[..])
        );
        assert_eq!(options.prune.namespace.as_deref(), Some("shop"));
        let keep_younger_than = SignedDuration::from_hours(168);
        assert_eq!(options.prune.keep, Keep::Revisions { keep_tag_revisions: 5, keep_younger_than });
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let many: Vec<String> = (0..101).map(|number| number.to_string()).collect();
        for (line, message) in [
            ("--keep-tag-revisions=1,x", "strconv.ParseInt: parsing \"x\": invalid syntax"),
            ("--keep-tag-revisions=1,", "strconv.ParseInt: parsing \"\": invalid syntax"),
            ("--keep-tag-revisions=-1", "must be greater than or equal to 0"),
            ("--keep-younger-than=7d", "time: unknown unit \"d\" in duration \"7d\""),
            ("--keep-younger-than=1h,-1h", "must be greater than or equal to 0"),
            (&format!("--keep-tag-revisions={}", many.join(",")), "404 combinations"),
            ("--prune-over-size-limit", "unknown flag: --prune-over-size-limit"),
        ] {
            let Err(failure) = run(line) else { panic!("{line}") };
            assert!(failure.exit == Exit::Usage && failure.message.contains(message), "{failure}");
        }
    }
}
