//! The flags of `cache flush`.

use std::path::PathBuf;

use clap::Parser;

use super::super::{
    cluster::ClusterArgs,
    parse::Invocation,
    redis::RedisArgs,
    subcommand::{CommonArgs, ReportArgs, Subcommand},
    validate::{nonempty, nonempty_path, switch},
};
use crate::{
    cache::{
        commands::{
            ClusterAccess,
            flush::{FlushOptions, Source},
        },
        redis::Whereabouts,
    },
    error::Failure,
    text,
};

/// Remove deleted blobs from the registry's Redis
///
/// A registry with a Redis cache goes on answering for blobs whose data is gone: pushes that re-use them are broken.
/// This removes the keys of deleted blobs, and no others. With --redis-url it needs no cluster: it works for any
/// registry that is built on distribution, Harbor's and GitLab's included. Without, the Redis of the cluster's
/// registry is found, and replicas that are stale are made to forget, too.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER)]
pub(super) struct FlushArgs {
    /// The digests to forget, one per line; - for the standard input
    ///
    /// A line is sha256:HEX or NAMESPACE/NAME@sha256:HEX. Blank lines and those that begin with # are skipped.
    #[arg(long, value_name = "FILE")]
    digests_from: Option<PathBuf>,

    /// What a prune has deleted: its output with -o json or -o yaml
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// Every key of the cache, found by a scan
    ///
    /// Other keys are not touched. The registry fills the cache again as it is asked.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    all: Option<String>,

    /// Find the repositories of the digests by a scan
    ///
    /// For digests without a repository, whose entries in repositories cannot be computed.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    scan_repositories: Option<String>,

    /// Only count what would be removed
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    dry_run: Option<String>,

    /// What stands in front of every key
    #[arg(long, value_name = "TEXT")]
    key_prefix: Option<String>,

    /// Also the replicas of the registry, with --redis-url
    ///
    /// A replica that answers that a deleted blob's data is missing is told to forget it. Without --redis-url the cluster
    /// is spoken to anyway: it tells where Redis is.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    replicas: Option<String>,

    #[command(flatten)]
    redis: RedisArgs,

    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(flatten)]
    report: ReportArgs,

    #[command(flatten)]
    common: CommonArgs,
}

const AFTER: &str = "\
Examples:
  {program} cache flush --from=result.json
  {program} cache flush --redis-url=redis://redis:6379/1 --from=result.json
  {program} cache flush --redis-url=rediss://cache@redis --redis-password-file=pw --all --dry-run
  sed -n 's/^blob eligible for deletion: //p' gc.log |
    {program} cache flush --redis-url=redis://redis --digests-from=- --scan-repositories

Exit codes:
  0  done; also: nothing to do, a dry run
  1  the input cannot be read, or a dry run failed
  2  the command line is wrong
  4  a cache may still name what was deleted
  130, 143  ended by Ctrl-C, by SIGTERM";

impl Subcommand for FlushArgs {
    const SYNOPSIS: &str =
        "cache flush [--redis-url=URL] (--from=FILE | --digests-from=FILE | --all) [flags]";

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn invocation(self, program: &str) -> Result<Invocation, Failure> {
        options(self, program).map(|options| Invocation::CacheFlush(Box::new(options)))
    }
}

fn options(args: FlushArgs, program: &str) -> Result<FlushOptions, Failure> {
    let source = source(&args)?;
    let scan_repositories = switch("--scan-repositories", args.scan_repositories.as_deref())?;
    if scan_repositories && source == Source::All {
        return Err(Failure::usage("--scan-repositories cannot be specified with --all")
            .hint("leave --scan-repositories out: --all removes the entries of every repository"));
    }
    let dry_run = switch("--dry-run", args.dry_run.as_deref())?;
    let verbosity = args.common.verbosity()?;
    let flags = own_flags(&args);
    let redis = args.redis.options()?;
    let replicas = switch("--replicas", args.replicas.as_deref())?;
    let alone = matches!(redis.whereabouts, Whereabouts::At(_)) && !replicas;
    if alone && args.cluster.is_given() {
        return Err(Failure::usage("--redis-url goes without the cluster unless --replicas is specified")
            .hint("also make the registry's replicas forget: --replicas"));
    }
    let cluster = if alone { None } else { Some(args.cluster.access()?) };
    let access = cluster.as_ref().map(ClusterAccess::flags).unwrap_or_default();
    let repeat = format!("{program} cache flush{}{access}{flags}", redis.flags);
    Ok(FlushOptions {
        redis,
        cluster,
        source,
        scan_repositories,
        dry_run,
        key_prefix: args.key_prefix.unwrap_or_default(),
        report: args.report.path(),
        verbosity,
        repeat,
    })
}

fn source(args: &FlushArgs) -> Result<Source, Failure> {
    let all = switch("--all", args.all.as_deref())?.then_some(Source::All);
    let digests = nonempty_path(args.digests_from.clone()).map(Source::Digests);
    let result = nonempty_path(args.from.clone()).map(Source::Result);
    let mut given = [digests, result, all].into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(source), None) => Ok(source),
        (None, _) => Err(Failure::usage("one of --digests-from, --from and --all is needed")
            .hint("every key of the cache, and no others: --all; see first what that is: --all --dry-run")),
        (Some(_), Some(_)) => {
            Err(Failure::usage("only one of --digests-from, --from and --all can be specified"))
        }
    }
}

/// The flags to repeat this with, but for those of Redis.
fn own_flags(args: &FlushArgs) -> String {
    let path =
        |path: &Option<PathBuf>| nonempty_path(path.clone()).map(|path| path.to_string_lossy().into_owned());
    let mut line = text::flags([
        ("--key-prefix", nonempty(args.key_prefix.clone())),
        ("--digests-from", path(&args.digests_from)),
        ("--from", path(&args.from)),
    ]);
    // All were read before.
    for (flag, word) in [
        ("--all", &args.all),
        ("--scan-repositories", &args.scan_repositories),
        ("--replicas", &args.replicas),
    ] {
        if switch(flag, word.as_deref()).unwrap_or_default() {
            line.push(' ');
            line.push_str(flag);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::{
        cli::{parse, subcommand::command},
        error::Exit,
    };

    fn run(line: &str) -> Result<Invocation, Failure> {
        let words = std::iter::once("oc-prune_images").chain(line.split_whitespace());
        parse(words.map(Into::into))
    }

    fn flush_options(line: &str) -> FlushOptions {
        match run(&format!("cache flush {line}")) {
            Ok(Invocation::CacheFlush(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn failure(line: &str) -> Failure {
        match run(line) {
            Err(failure) => failure,
            Ok(other) => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definitions_are_sound() {
        command::<FlushArgs>("oc prune-images").debug_assert();
        for line in ["cache", "cache --help", "cache -h"] {
            match run(line) {
                Ok(Invocation::Print(text)) => {
                    assert!(text.contains("oc prune-images cache COMMAND"), "{text}");
                }
                other => panic!("{line}: {other:?}"),
            }
        }
        match run("cache flush --help") {
            Ok(Invocation::Print(text)) => {
                assert!(text.contains("oc prune-images cache flush [--redis-url=URL]"), "{text}");
                assert!(!text.contains("{program}"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_options() {
        let options = flush_options(
            "--redis-url redis://cache:geheim@h/2 --digests-from - --scan-repositories --dry-run --key-prefix p: \
             --redis-timeout=2m -v 3",
        );
        assert_eq!(options.source, Source::Digests("-".into()));
        assert!(options.scan_repositories && options.dry_run);
        assert_eq!((options.key_prefix.as_str(), options.verbosity), ("p:", 3));
        assert_eq!(options.redis.patience, Duration::from_secs(120));
        assert_eq!(
            options.redis.access(None).unwrap().address.password.as_ref().unwrap().expose_secret(),
            "geheim"
        );
        assert!(!format!("{options:?}").contains("geheim"));
        assert_eq!(
            options.repeat,
            "oc prune-images cache flush --redis-url=redis://cache@h:6379/2 --redis-password-file=FILE \
             --redis-timeout=2m --key-prefix=p: --digests-from=- --scan-repositories"
        );
        assert_eq!(flush_options("--redis-url=redis://h --all").source, Source::All);
        assert_eq!(flush_options("--redis-url=redis://h --from=a").source, Source::Result("a".into()));
    }

    #[test]
    fn mistakes_are_told_without_the_password() {
        for (line, message) in [
            ("cache flsh", "unknown command \"flsh\" for \"oc prune-images cache\""),
            ("cache flush --redis-url=redis://h", "one of --digests-from, --from and --all is needed"),
            (
                "cache flush --redis-url=redis://h --all --from=x",
                "only one of --digests-from, --from and --all can be specified",
            ),
            (
                "cache flush --redis-url=redis://h --all --scan-repositories",
                "--scan-repositories cannot be specified with --all",
            ),
            (
                "cache flush --all --redis-url=redis://h --registry-namespace=n",
                "--redis-url goes without the cluster unless --replicas is specified",
            ),
            (
                "cache flush --all --redis-url=redis://:geheim@a,b",
                "invalid argument for \"--redis-url\" flag: several hosts, but neither a cluster nor Sentinels",
            ),
            (
                "cache flush --all --redis-url=redis://:geheim@h --redis-password-file=x",
                "--redis-password-file cannot be specified with a password in --redis-url",
            ),
            (
                "cache flush --all --redis-url=redis://u@h",
                "--redis-url names a user, and there is no password",
            ),
            (
                "cache flush --all --redis-url=redis://h --redis-ca=x",
                "certificates cannot be specified without TLS",
            ),
            (
                "cache flush --all --redis-url=rediss://h --redis-client-key=x",
                "--redis-client-certificate and --redis-client-key need each other",
            ),
            (
                "cache flush --all --redis-url=redis://h --redis-timeout=0s",
                "invalid argument \"0s\" for \"--redis-timeout\" flag: it must be greater than 0",
            ),
            ("cache flush --al", "unknown flag: --al"),
            ("cache flush --redis-url", "flag needs an argument: --redis-url"),
            ("cache flush more", "no arguments are allowed to this command"),
            ("more", "no arguments are allowed to this command"),
            ("-n cache flush", "no arguments are allowed to this command"),
        ] {
            let failure = failure(line);
            assert_eq!((failure.exit, failure.message.as_str()), (Exit::Usage, message), "{line}");
            assert!(!failure.to_string().contains("geheim"), "{failure}");
        }
    }

    #[test]
    fn files_that_cannot_be_read_are_no_misuse() {
        for (flag, url) in [("--redis-password-file", "redis://h"), ("--redis-ca", "rediss://h")] {
            let failure = failure(&format!("cache flush --all --redis-url={url} {flag}=/no/such"));
            assert_eq!(failure.exit, Exit::NothingChanged);
            assert_eq!(failure.message, format!("read {flag}: /no/such: no such file or directory"));
        }
    }
}
