//! The flags of `explain`.

use clap::Parser;

use super::{
    connection::ConnectionArgs,
    options::{ExplainOptions, Keep},
    parse::Invocation,
    selection::SelectionArgs,
    subcommand::{CommonArgs, FORMATS, ReportArgs, Subcommand},
    validate,
};
use crate::error::Failure;

/// Explain why an image stays or goes, and what would have to change
///
/// Takes the flags of a prune that select, and answers for a prune with these flags: where each image stands in image
/// streams, which rules hold it there, who refers to it, and all that would have to change for it to be pruned; or why
/// it goes, and which blobs go with it. Reads what a dry run reads, asks no registry, and changes nothing.
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER)]
pub(super) struct ExplainArgs {
    /// List images that no value of --keep-tag-revisions can prune
    ///
    /// No value above 0, that is: the current item of a tag always stays, and that of a tag with a single item is never
    /// pushed back by a newer one. So it is where each build makes a tag of its own, with a date or a commit in the name.
    /// Lists those that are older than --keep-younger-than and that nothing else holds, with the bytes they hold, and a
    /// command for each stream that deletes all of these tags but the newest, as many as --keep-tag-revisions.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    stuck: Option<String>,

    #[command(flatten)]
    selection: SelectionArgs,

    /// Output: text, json or yaml
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
A TARGET is one of
  sha256:0f3a…                  a digest, or the beginning of one, with sha256: or without
  NAMESPACE/STREAM              all images of an image stream
  NAMESPACE/STREAM:TAG          the images in the history of a tag
  NAMESPACE/STREAM@sha256:0f3a  an image in a stream
  HOST/NAMESPACE/STREAM:TAG     a pull spec, as in a pod; whatever the host

Examples:
  {program} explain shop/web:latest
  {program} explain 0f3a --keep-tag-revisions=1
  {program} explain --stuck --keep-younger-than=720h
  {program} explain shop/web -o json | jq '.explanations[].images[] | select(.decision == \"keep\")'

Exit codes:
  0  explained
  1  a target was not found, or the API server cannot be reached
  2  the command line is wrong
  130, 143  ended by Ctrl-C, by SIGTERM";

impl Subcommand for ExplainArgs {
    const SYNOPSIS: &str = "explain (TARGET... | --stuck) [flags]";

    const TAKES_WORDS: bool = true;

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn invocation(self, program: &str) -> Result<Invocation, Failure> {
        let stuck = validate::switch("--stuck", self.stuck.as_deref())?;
        let targets: Vec<String> =
            self.common.words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let prune = self.selection.options()?;
        match (targets.is_empty(), stuck) {
            (true, false) => {
                return Err(Failure::usage("a target is needed, or --stuck")
                    .hint(format!("for instance: {program} explain shop/web:latest")));
            }
            (false, true) => {
                return Err(Failure::usage("--stuck takes no targets")
                    .hint("limit it to a namespace: --stuck --namespace=NAME"));
            }
            (true, true) | (false, false) => {}
        }
        if stuck && prune.keep == Keep::OverSizeLimit {
            return Err(Failure::usage("--stuck cannot be specified with --prune-over-size-limit"));
        }
        Ok(Invocation::Explain(Box::new(ExplainOptions {
            program: program.to_owned(),
            targets,
            stuck,
            prune,
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
        let words = ["oc-prune_images", "explain"].into_iter().chain(line.split_whitespace());
        parse(words.map(Into::into))
    }

    #[test]
    fn targets_and_flags_become_options() {
        command::<ExplainArgs>("oc prune-images").debug_assert();
        match run("shop/web --keep-tag-revisions=1 0f3a -o json -n shop --context=c") {
            Ok(Invocation::Explain(options)) => {
                assert_eq!(options.targets, ["shop/web", "0f3a"]);
                assert_eq!(options.prune.namespace.as_deref(), Some("shop"));
                assert!(matches!(options.prune.keep, Keep::Revisions { keep_tag_revisions: 1, .. }));
                assert_eq!((options.output, options.stuck), (OutputFormat::Json, false));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(run("--stuck"), Ok(Invocation::Explain(options)) if options.stuck));
        match run("--help") {
            Ok(Invocation::Print(text)) => assert!(!text.contains("{program}"), "{text}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (line, message) in [
            ("", "a target is needed, or --stuck"),
            ("--stuck shop/web", "--stuck takes no targets"),
            ("--stuck --prune-over-size-limit", "--stuck cannot be specified with --prune-over-size-limit"),
            ("shop/web --confirm", "unknown flag: --confirm"),
            ("shop/web --keep-tag-revisions=x", "invalid argument \"x\""),
        ] {
            let failure = run(line).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{line}");
            assert!(failure.message.contains(message), "{line}: {}", failure.message);
        }
    }
}
