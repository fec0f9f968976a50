//! The flags of `usage`.

use std::path::PathBuf;

use clap::Parser;

use super::{
    connection::ConnectionArgs,
    options::{LookFormat, PruneOptions},
    parse::Invocation,
    selection::SelectionArgs,
    subcommand::{CommonArgs, ReportArgs, Subcommand},
    validate,
};
use crate::{cluster::ConnectionOptions, error::Failure, plan::usage::Level, report::usage::SortBy};

/// Show where the registry's storage goes
///
/// Bytes per namespace, image stream or tag: what each holds alone, what it shares, what something in the cluster needs,
/// and what a prune with the given flags would free. Nothing is changed.
#[derive(Parser)]
#[command(
    next_help_heading = "Flags",
    after_long_help = AFTER,
    mut_arg("namespace", |arg| arg.help("Show only this namespace").long_help(NAMESPACE)),
    mut_arg("selector", |arg| arg.help("Show only the image streams with these labels").long_help(SELECTOR)),
)]
pub(super) struct UsageArgs {
    /// A row for each namespace, stream or tag
    ///
    /// Default: stream.
    #[arg(long, value_name = "HOLDER")]
    by: Option<String>,

    /// Sort by bytes, unique, shared, referenced, prunable, images or name
    ///
    /// Numbers are sorted with the largest first. Default: bytes.
    #[arg(long, value_name = "COLUMN")]
    sort: Option<String>,

    /// Output: table, json, yaml or html
    #[arg(long, short, value_name = "FORMAT")]
    output: Option<String>,

    #[command(flatten)]
    report: ReportArgs,

    #[command(flatten)]
    selection: SelectionArgs,

    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

const NAMESPACE: &str = "\
Show only this namespace

The decision what is prunable is about the whole cluster all the same, and what other namespaces hold is not unique.";

const SELECTOR: &str = "\
Show only the image streams with these labels

kubectl's grammar: app=web,tier in (a,b),!old. The decision what is prunable is about all of them all the same.";

const AFTER: &str = "\
Columns:
  BYTES            the blobs of all images, each blob once
  UNIQUE           of these, what no other row holds
  SHARED           the rest
  REFERENCED       what something in the cluster needs: it stays whatever the flags
  PRUNABLE         what a prune with these flags frees
  IMAGES           the images
  PRUNABLE IMAGES  those of them that a prune with these flags deletes

Examples:
  {program} usage --by=namespace
  {program} usage -n shop --by=tag --sort=prunable
  {program} usage --keep-tag-revisions=1 -o json | jq '.rows[:10]'
  {program} usage -o html > usage.html

Exit codes:
  0  done
  1  the cluster cannot be read
  2  the command line is wrong
  130, 143  ended by Ctrl-C, by SIGTERM";

/// What `usage` was asked for.
#[derive(Debug, Clone)]
pub struct UsageOptions {
    /// What would be pruned: of the whole cluster, [`PruneOptions::namespace`] is absent.
    /// [`PruneOptions::selector`] says what is shown.
    pub prune: PruneOptions,
    /// `--namespace`: what is shown.
    pub namespace: Option<String>,
    /// `--by`.
    pub by: Level,
    /// `--sort`.
    pub sort: SortBy,
    /// `--output`.
    pub output: LookFormat,
    /// `--report`.
    pub report: Option<PathBuf>,
    /// `-v`.
    pub verbosity: u8,
    /// Which cluster, and as whom.
    pub connection: ConnectionOptions,
}

impl Subcommand for UsageArgs {
    const SYNOPSIS: &str = "usage [flags]";

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn invocation(self, _program: &str) -> Result<Invocation, Failure> {
        // What is shown is a part of what is decided.
        let mut prune = self.selection.options()?;
        Ok(Invocation::Usage(Box::new(UsageOptions {
            namespace: prune.namespace.take(),
            prune,
            by: validate::word("--by", self.by, Level::BY_NAME)?,
            sort: validate::word("--sort", self.sort, SortBy::BY_NAME)?,
            output: validate::output_of(self.output.as_deref(), &LookFormat::BY_NAME)?,
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
        cli::{options::Keep, parse, subcommand::command},
        error::Exit,
    };

    fn run(line: &str) -> Result<Invocation, Failure> {
        parse(["oc-prune_images", "usage"].into_iter().chain(line.split_whitespace()).map(Into::into))
    }

    #[test]
    fn flags_become_options() {
        command::<UsageArgs>("oc prune-images").debug_assert();
        let Ok(Invocation::Usage(options)) = run(
            "-n shop --by=tag --sort prunable -o html --report=page.html --keep-tag-revisions=7 --all=false",
        ) else {
            panic!()
        };
        assert_eq!((options.namespace.as_deref(), options.prune.namespace.as_deref()), (Some("shop"), None));
        assert_eq!(
            (options.by, options.sort, options.output),
            (Level::Tag, SortBy::Prunable, LookFormat::Html)
        );
        assert_eq!(options.report, Some("page.html".into()));
        assert!(!options.prune.all);
        assert!(matches!(options.prune.keep, Keep::Revisions { keep_tag_revisions: 7, .. }));
        match run("--help") {
            Ok(Invocation::Print(text)) => {
                assert!(text.contains("Show only this namespace") && !text.contains("{program}"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_that_mean_nothing_are_refused() {
        for (line, message) in [
            ("--by=image", "it must be one of namespace, stream, tag"),
            ("--sort=size", "it must be one of bytes, unique, shared, referenced, prunable, images, name"),
            ("-o text", "allowed formats are: html,json,table,yaml"),
            ("shop", "no arguments are allowed to this command"),
        ] {
            let Err(failure) = run(line) else { panic!("{line}") };
            assert!(failure.exit == Exit::Usage && failure.message.contains(message), "{failure}");
        }
    }
}
