//! The flags of `verify`.

use std::path::PathBuf;

use clap::Parser;

use super::{
    cluster::ClusterArgs,
    options::OutputFormat,
    parse::Invocation,
    selection::namespace,
    subcommand::{CommonArgs, FORMATS, ReportArgs, Subcommand},
    validate::{self, invalid, nonempty, switch},
};
use crate::{cache::commands::ClusterAccess, error::Failure};

/// How many images are asked for unless the command line says otherwise.
const SAMPLE: usize = 100;

/// Ask the registry whether images can be pulled
///
/// For images that were pushed to the integrated registry: whether the manifest, the config and every layer can be had
/// from each repository that uses them, and whether the last byte is there. What cannot be pulled is reported by stream
/// and tag, with who runs it. Asking takes the right to get imagestreams/layers. Nothing is changed.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER)]
pub(super) struct VerifyArgs {
    /// So many images, chosen at random
    ///
    /// Default: 100.
    #[arg(long, value_name = "N")]
    sample: Option<String>,

    /// Every image
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    all: Option<String>,

    /// Only the image streams of this namespace
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,

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
  {program} verify
  {program} verify --all -n shop
  {program} verify --all -o json | jq '.broken[].repository'

Exit codes:
  0  every image that was asked for can be pulled
  1  not every question could be asked or got an answer
  2  the command line is wrong
  3  an image cannot be pulled
  130, 143  ended by Ctrl-C, by SIGTERM";

/// What `verify` was asked for.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Which cluster, and where its registry is.
    pub cluster: ClusterAccess,
    /// `--sample`: how many images; all without it.
    pub sample: Option<usize>,
    /// `--namespace`.
    pub namespace: Option<String>,
    /// `--output`.
    pub output: OutputFormat,
    /// `--report`.
    pub report: Option<PathBuf>,
    /// `-v`.
    pub verbosity: u8,
    /// `oc prune-images`, or how else it is called.
    pub program: String,
}

impl Subcommand for VerifyArgs {
    const SYNOPSIS: &str = "verify [--sample=N | --all] [flags]";

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn invocation(self, program: &str) -> Result<Invocation, Failure> {
        let all = switch("--all", self.all.as_deref())?;
        let sample = match nonempty(self.sample) {
            Some(_) if all => return Err(Failure::usage("--sample cannot be specified with --all")),
            Some(word) => match word.parse() {
                Ok(size @ 1..) => Some(size),
                _ => return Err(invalid("--sample", &word, "it must be a whole number greater than 0")),
            },
            None => (!all).then_some(SAMPLE),
        };
        Ok(Invocation::Verify(Box::new(VerifyOptions {
            sample,
            namespace: namespace(self.namespace)?,
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
        cli::{parse, subcommand::command},
        error::Exit,
    };

    fn run(line: &str) -> Result<Invocation, Failure> {
        parse(["oc-prune_images", "verify"].into_iter().chain(line.split_whitespace()).map(Into::into))
    }

    #[test]
    fn flags_become_options() {
        command::<VerifyArgs>("oc prune-images").debug_assert();
        for (line, sample, namespace) in
            [("", Some(SAMPLE), None), ("--all -n shop", None, Some("shop")), ("--sample=7", Some(7), None)]
        {
            let Ok(Invocation::Verify(options)) = run(line) else { panic!("{line}") };
            assert_eq!((options.sample, options.namespace.as_deref()), (sample, namespace), "{line}");
        }
        for (line, message) in [
            ("--all --sample=1", "--sample cannot be specified with --all"),
            ("--sample=0", "it must be a whole number greater than 0"),
            ("-n ../x", "a namespace has at most 63 lower case letters, digits and '-'"),
            ("shop/web", "no arguments are allowed to this command"),
        ] {
            let failure = run(line).unwrap_err();
            assert!(failure.exit == Exit::Usage && failure.message.contains(message), "{failure}");
        }
    }
}
