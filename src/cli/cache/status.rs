//! The flags of `cache status`.

use clap::Parser;

use super::super::{
    connection::ConnectionArgs,
    parse::Invocation,
    place::PlaceArgs,
    redis::RedisArgs,
    subcommand::{CommonArgs, FORMATS, ReportArgs, Subcommand},
    validate,
};
use crate::{cache::commands::status::StatusOptions, error::Failure};

/// Show which caches the registry has, and what can be done about them
///
/// Reads the registry's configuration as far as the rights reach, looks which replicas can be reached from here, and asks
/// what the user may do. What cannot be read is said, with the command that would allow it. Nothing is changed.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER)]
pub(super) struct StatusArgs {
    /// Output: text, json or yaml
    #[arg(long, short, value_name = "FORMAT")]
    output: Option<String>,

    #[command(flatten)]
    report: ReportArgs,

    #[command(flatten)]
    place: PlaceArgs,

    #[command(flatten)]
    redis: RedisArgs,

    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

const AFTER: &str = "\
Examples:
  {program} cache status
  {program} cache status -o json | jq '.caches.digestCache'
  {program} cache status --registry-namespace=default --registry-deployment=docker-registry

Exit codes:
  0  done; also: there is no registry, or not all of it can be read
  1  the API server cannot be reached
  2  the command line is wrong
  130, 143  ended by Ctrl-C, by SIGTERM";

impl Subcommand for StatusArgs {
    const SYNOPSIS: &str = "cache status [flags]";

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn invocation(self, _program: &str) -> Result<Invocation, Failure> {
        Ok(Invocation::CacheStatus(Box::new(StatusOptions {
            place: self.place.place()?,
            redis: self.redis.options()?,
            output: validate::output_of(self.output.as_deref(), &FORMATS)?,
            report: self.report.path(),
            verbosity: self.common.verbosity()?,
            connection: self.connection.options()?,
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
        let words = ["oc-prune_images", "cache", "status"].into_iter().chain(line.split_whitespace());
        parse(words.map(Into::into))
    }

    #[test]
    fn flags_become_options() {
        command::<StatusArgs>("oc prune-images").debug_assert();
        let Ok(Invocation::CacheStatus(options)) = run(
            "-o yaml --registry-namespace=default --registry-deployment=docker.registry-2 --context=c -v 3",
        ) else {
            panic!()
        };
        assert_eq!((&*options.place.namespace, &*options.place.deployment), ("default", "docker.registry-2"));
        assert_eq!((options.output, options.verbosity), (OutputFormat::Yaml, 3));
        assert_eq!(options.connection.context.as_deref(), Some("c"));
        match run("--help") {
            Ok(Invocation::Print(text)) => assert!(!text.contains("{program}"), "{text}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_refused() {
        for (flag, names) in [
            ("--registry-namespace", ["../x", "a/b", "a.b", "A", "a?b", "-a"]),
            ("--registry-deployment", ["../x", "a/b", "a..b", "A", "a?b", ".a"]),
        ] {
            for name in names {
                let Err(failure) = run(&format!("{flag}={name}")) else { panic!("{flag}={name}") };
                assert_eq!(failure.exit, Exit::Usage);
                assert!(failure.message.contains(&format!("for \"{flag}\" flag")), "{failure}");
            }
        }
        let Err(failure) = run("-o wide") else { panic!() };
        assert_eq!(
            failure.message,
            "unable to match a printer suitable for the output format \"wide\", allowed formats are: json,text,yaml"
        );
        let Err(failure) = run("more") else { panic!() };
        assert_eq!(failure.message, "no arguments are allowed to this command");
    }
}
