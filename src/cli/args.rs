//! The flags as typed. Nothing here is checked: values are kept as words, so that the messages about them can be
//! those of the reference (`validate.rs`).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Parser};

use super::{
    caching::CacheArgs, connection::ConnectionArgs, registry::RegistryArgs, running::RunningArgs,
    selection::SelectionArgs,
};

/// Prune images that nothing uses any more
#[derive(Parser)]
#[command(next_help_heading = "Flags", long_about = ABOUT, after_long_help = AFTER)]
pub(super) struct PruneArgs {
    /// Really delete; without it, only say what would be deleted
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) confirm: Option<String>,

    /// Only say what would be deleted: the default, without questions
    ///
    /// As kubectl spells it: also --dry-run=client and --dry-run=server, which mean the same here. --dry-run=none and
    /// --dry-run=false are as if it were not given.
    #[arg(long, value_name = "WORD", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) dry_run: Option<String>,

    #[command(flatten)]
    pub(super) selection: SelectionArgs,

    #[command(flatten)]
    pub(super) registry: RegistryArgs,

    /// How many deletions are in flight
    ///
    /// No more requests than that are on their way at once, to the API server and the registry together; fewer while one
    /// of them answers that there are too many (429, 503), or not at all. Default (also for 0): for each of the two as
    /// many as it answers without getting slower, from 5 to 64.
    #[arg(long, value_name = "N")]
    pub(super) num_workers: Option<String>,

    /// Output: text, wide, json, yaml or name
    #[arg(long, short, value_name = "FORMAT")]
    pub(super) output: Option<String>,

    #[command(flatten)]
    pub(super) running: RunningArgs,

    /// Where the journal of a confirmed run goes
    ///
    /// What is about to be deleted, what was deleted, and the objects as they were; a run that was cut short is finished
    /// from it. Default: a new file below $XDG_STATE_HOME/oc-prune-images (~/.local/state).
    #[arg(long, value_name = "FILE")]
    pub(super) journal: Option<PathBuf>,

    /// How much to log on stderr, 0 to 10
    #[arg(long = "v", short = 'v', value_name = "N")]
    pub(super) verbosity: Option<String>,

    /// Print a summary of the flags
    #[arg(short = 'h', action = ArgAction::SetTrue)]
    pub(super) help_summary: bool,

    /// Print this text
    #[arg(long = "help", value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide_possible_values = true)]
    pub(super) help_text: Option<String>,

    /// Print the version
    #[arg(long = "version", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) version_text: Option<String>,

    #[command(flatten)]
    pub(super) cache: CacheArgs,

    #[command(flatten)]
    pub(super) connection: ConnectionArgs,

    /// Words that are no flags; caught here because the command takes none.
    #[arg(hide = true)]
    pub(super) words: Vec<OsString>,
}

const ABOUT: &str = "\
Prune images that nothing uses any more

Removes old image stream items, the images that no stream names any more, and their data in the registry; then makes the \
registry's caches forget them. Without --confirm nothing is changed: the run only says what it would delete, and in a \
terminal it asks.

Commands:
  {program}                        What would go
  {program} --confirm              Delete it
  {program} resume                 Finish a prune that was cut short
  {program} journal show, export   What a prune did; the objects that it deleted
  {program} explain TARGET         Why an image stays or goes
  {program} usage                  Where the registry's storage goes
  {program} what-if                What other values would free
  {program} cronjob, job           Print the objects that prune on a schedule, or once
  {program} verify                 Ask the registry whether images can be pulled
  {program} cache status           Show the registry's caches, and what would be done
  {program} cache check            Ask every replica for deleted blobs
  {program} cache flush            Remove deleted blobs from the registry's Redis
  {program} cache disable, enable  Switch the registry's caches off, and on again
  {program} hard-prune             Delete from the storage what the API no longer knows of
  {program} completion             Complete the command line in shells, oc and kubectl
  {program} man                    Manual pages";

const AFTER: &str = "\
Examples:
  {program}                           What would go
  {program} --confirm                 Delete it
  {program} -n shop --keep-younger-than=96h
  {program} --referrers-from=services.serving.knative.dev,rollouts.v1alpha1.argoproj.io
  {program} --confirm --registry-url=https://registry.example.com --certificate-authority=ca.crt

Exit codes:
  0  done; also: nothing to do, a dry run
  1  an error before any change was made
  2  the command line is wrong
  3  finished, and some objects could not be pruned
  4  a registry cache may still name what was deleted
  124  ended by --timeout
  130, 143  ended by Ctrl-C, by SIGTERM";

/// What `-h` prints: the first screen, on 24 lines of 80 columns.
pub(super) const SUMMARY: &str = "\
Prune images that nothing uses any more; make the registry's caches forget them

  {program}                  What would go; in a terminal, then asks
  {program} --confirm        Delete it
  {program} explain TARGET   Why an image stays, or goes

More commands:
  usage, what-if   Where the storage goes; what other values would free
  cronjob, job     Manifests that prune on a schedule, or once
  verify, resume   Whether images can be pulled; finish a run that was cut short
  cache            The registry's caches: status, check, flush, disable, enable
  completion, man  Completion for bash, zsh, fish, PowerShell; manual pages

Flags:
      --keep-tag-revisions=3    How many revisions of each tag stay
      --keep-younger-than=60m   Keep whatever is younger: 90m, 96h, 0
  -n, --namespace=NAME          Only the image streams of this namespace
      --registry-cache=auto     How the registry's caches are made to forget
  -o, --output=FORMAT           text, wide, json, yaml or name
      --context, --kubeconfig, --token, --as, ...  The connection, as kubectl's

All flags, exit codes: {program} --help
Those of a command: {program} COMMAND --help
";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::parse::like_pflag;

    #[test]
    fn the_definitions_are_sound() {
        like_pflag(PruneArgs::command()).debug_assert();
    }

    #[test]
    fn the_summary_fits_a_terminal() {
        let summary = SUMMARY.replace("{program}", "kubectl prune-images");
        // One line is left for the prompt that follows.
        assert!(summary.lines().count() <= 23, "{} lines", summary.lines().count());
        for line in summary.lines() {
            assert!(line.chars().count() <= 80, "too wide: {line}");
        }
    }

    #[test]
    fn every_flag_explains_itself_in_one_line() {
        for arg in PruneArgs::command().get_arguments() {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                !help.is_empty() && help.len() <= 70 && !help.ends_with('.') || arg.is_positional(),
                "{arg}: {help}"
            );
        }
    }
}
