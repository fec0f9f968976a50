//! The flags as typed. Nothing here is checked: values are kept as words, so that the messages about them can be
//! those of the reference (`validate.rs`).

use std::ffi::OsString;

use clap::{ArgAction, Parser};

use super::{
    connection::ConnectionArgs,
    place::{CACHE, PlaceArgs},
    redis::RedisArgs,
    registry::RegistryArgs,
};

/// Prune images that nothing uses any more
///
/// Removes old image stream items, the images that no stream names any more, and their data in the registry.
/// Without --confirm nothing is changed: the run only says what it would delete.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER)]
pub(super) struct PruneArgs {
    /// Really delete; without it, only say what would be deleted
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) confirm: Option<String>,

    /// How many revisions of each tag stay
    ///
    /// The newest ones stay, whatever their age. Default: 3.
    #[arg(long, value_name = "N")]
    pub(super) keep_tag_revisions: Option<String>,

    /// Keep whatever is younger than this
    ///
    /// A duration with units: 90m, 96h, 1h30m, 0. There are no days: 1 day is 24h. Also protects what recent pods
    /// used, and image streams that are younger. Default: 60m.
    #[arg(long, value_name = "DURATION")]
    pub(super) keep_younger_than: Option<String>,

    /// Select by size: images over the limits of their namespace
    ///
    /// Compares with the largest image that the LimitRanges of the namespace allow (type openshift.io/Image).
    /// Excludes --keep-tag-revisions and --keep-younger-than.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) prune_over_size_limit: Option<String>,

    /// Also images that were not pushed to the integrated registry
    ///
    /// With --all=false only images with the annotation openshift.io/image.managed are deleted. Default: true.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) all: Option<String>,

    /// Also remove data from the registry
    ///
    /// With --prune-registry=false only API objects are pruned, and no registry is contacted. Default: true.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) prune_registry: Option<String>,

    #[command(flatten)]
    pub(super) registry: RegistryArgs,

    /// Go on although references to images do not parse
    ///
    /// A reference that does not parse protects no image. Without this flag such a reference stops the run.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) ignore_invalid_refs: Option<String>,

    /// How many deletions are in flight
    ///
    /// Default (also for 0): 5.
    #[arg(long, value_name = "N")]
    pub(super) num_workers: Option<String>,

    /// Only the image streams of this namespace
    ///
    /// What uses them is looked for in all namespaces, and no image objects are deleted. The namespace of the
    /// kubeconfig's context does not count.
    #[arg(long, short, value_name = "NAME")]
    pub(super) namespace: Option<String>,

    /// Resources whose objects use images, too (can be repeated)
    ///
    /// RESOURCE, RESOURCE.GROUP or RESOURCE.VERSION.GROUP, several with commas between them: rollouts.argoproj.io. An
    /// image that any string in their spec, status or data names, as HOST/NAMESPACE/NAME[:TAG|@DIGEST], stays.
    /// Without a version the one that the server prefers is read.
    #[arg(long, value_name = "RESOURCES", action = ArgAction::Append)]
    pub(super) referrers_from: Vec<String>,

    /// Output: text, wide, json, yaml or name
    #[arg(long, short, value_name = "FORMAT")]
    pub(super) output: Option<String>,

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

    /// What makes the registry's caches forget the deleted blobs
    ///
    /// auto: the first that is possible and complete of evict, restart and wait. evict: Redis and each replica forget
    /// each blob right after it is deleted, without downtime. restart: Redis, then all replicas are replaced. flush:
    /// Redis alone. wait: Redis, then until what the replicas remember has expired. disable: the caches are switched
    /// off for good, before the first deletion. none: nothing; what stays stale is said.
    #[arg(long, value_name = "STEP", help_heading = CACHE)]
    pub(super) registry_cache: Option<String>,

    /// How many deleted blobs to ask every replica for at the end
    ///
    /// off, sample or all. Asking needs the right to get imagestreams/layers. Default: sample.
    #[arg(long, value_name = "EXTENT", help_heading = CACHE)]
    pub(super) check: Option<String>,

    /// How long the replacement of the replicas may take
    ///
    /// Default: 10m.
    #[arg(long, value_name = "DURATION", help_heading = CACHE)]
    pub(super) cache_timeout: Option<String>,

    #[command(flatten)]
    pub(super) place: PlaceArgs,

    #[command(flatten)]
    pub(super) redis: RedisArgs,

    #[command(flatten)]
    pub(super) connection: ConnectionArgs,

    /// Words that are no flags; caught here because the command takes none.
    #[arg(hide = true)]
    pub(super) words: Vec<OsString>,
}

const AFTER: &str = "\
Commands:
  {program} cache status              Show the registry's caches, and what would be done
  {program} cache check               Ask every replica for deleted blobs
  {program} cache flush               Remove deleted blobs from the registry's Redis
  {program} cache disable, enable     Switch the registry's caches off, and on again

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
  130, 143  ended by Ctrl-C, by SIGTERM";

/// What `-h` prints: every flag, on 24 lines of 80 columns.
pub(super) const SUMMARY: &str = "\
Prune images that nothing uses any more; a dry run without --confirm
Usage: {program} [flags]

      --confirm                 Really delete, not only say what would go
      --keep-tag-revisions=3    How many revisions of each tag stay
      --keep-younger-than=60m   Keep whatever is younger: 90m, 96h, 0
      --prune-over-size-limit   Select by size: images over their limits
      --all=false               Only images pushed to the integrated registry
      --prune-registry=false    Only API objects, no data in the registry
      --ignore-invalid-refs     Go on although references do not parse
      --referrers-from=RESOURCES  Resources whose objects use images, too
      --num-workers=5           How many deletions are in flight
  -n, --namespace=NAME          Only the image streams of this namespace
  -o, --output=FORMAT           text, wide, json, yaml or name
  -v, --v=N, -h, --help, --version  Log 0 to 10; this summary, all, the version
Registry: --registry-url --certificate-authority --force-insecure
Its caches: --registry-cache=auto|evict|restart|flush|wait|disable|none
  --check=off|sample|all --cache-timeout --registry-namespace
  --registry-deployment --redis-url --redis-password-file --redis-ca
  --redis-client-certificate --redis-client-key --redis-timeout
Connection, as kubectl's: --kubeconfig --context --cluster --user -s/--server
  --token --as --as-group --as-uid --client-certificate --client-key
  --insecure-skip-tls-verify --tls-server-name --request-timeout
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
    fn the_summary_names_every_flag_and_fits_a_terminal() {
        for arg in PruneArgs::command().get_arguments().filter(|arg| !arg.is_positional()) {
            if let Some(long) = arg.get_long() {
                assert!(SUMMARY.contains(&format!("--{long}")), "--{long} is missing");
            }
        }
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
