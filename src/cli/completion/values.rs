//! What is known of the values of flags.

use clap::Arg;

use super::super::{
    journal,
    options::{LookFormat, OutputFormat},
    schedule,
    subcommand::FORMATS,
};
use crate::{
    cache::{Extent, Strategy},
    plan::usage::Level,
    registry::Via,
    report::usage::SortBy,
    verify,
};

/// What a flag's value can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Values {
    /// One of these words.
    Known(Vec<&'static str>),
    /// A name that the kubeconfig or the cluster has.
    Ask(Source),
    /// A file's name.
    Files,
    /// A folder's name.
    Folders,
    /// Nothing that could be proposed.
    Unknown,
}

/// Where names come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The contexts of the kubeconfig.
    Contexts,
    /// The clusters of the kubeconfig.
    Clusters,
    /// The users of the kubeconfig.
    Users,
    /// The namespaces of the cluster.
    Namespaces,
    /// `NAMESPACE/STREAM`, `NAMESPACE/STREAM:TAG` and `NAMESPACE/STREAM@DIGEST` in the cluster.
    Targets,
}

/// Whether the word behind the flag is its value, as opposed to what follows `=` alone.
pub(super) fn takes_next_word(arg: &Arg) -> bool {
    arg.get_action().takes_values() && !arg.is_require_equals_set()
}

/// What the value of a flag can be; `command` is the words of the command that has it.
pub(super) fn of(arg: &Arg, command: &str) -> Values {
    let kind = arg.get_value_names().and_then(<[_]>::first).map_or("", |name| name.as_str());
    match (arg.get_long().unwrap_or_default(), kind) {
        ("output", "FORMAT") => Values::Known(match command {
            "" | "resume" => words(OutputFormat::BY_NAME),
            "usage" | "what-if" => words(LookFormat::BY_NAME),
            "cronjob" | "job" => words(schedule::FORMATS),
            "journal export" => words(journal::EXPORT_FORMATS),
            _ => words(FORMATS),
        }),
        ("registry-cache", _) => Values::Known(words(Strategy::BY_NAME)),
        ("registry-via", _) => Values::Known(words(Via::BY_NAME)),
        ("by", "HOLDER") => Values::Known(words(Level::BY_NAME)),
        ("sort", "COLUMN") => Values::Known(words(SortBy::BY_NAME)),
        ("verify", _) => Values::Known(words(verify::Extent::BY_NAME)),
        ("check", _) => Values::Known(words(Extent::BY_NAME)),
        ("dry-run", kind) if kind != "BOOL" => {
            Values::Known(vec!["client", "server", "none", "true", "false"])
        }
        ("context", _) => Values::Ask(Source::Contexts),
        ("cluster", _) => Values::Ask(Source::Clusters),
        ("user", _) => Values::Ask(Source::Users),
        ("namespace" | "registry-namespace", _) => Values::Ask(Source::Namespaces),
        (_, "BOOL") => Values::Known(vec!["true", "false"]),
        (_, "FILE") => Values::Files,
        (_, "DIR") => Values::Folders,
        _ => Values::Unknown,
    }
}

fn words<T, const N: usize>(by_name: [(&'static str, T); N]) -> Vec<&'static str> {
    by_name.into_iter().map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse::{self, parse};

    /// A flag whose message about a wrong value lists the right ones completes exactly these.
    #[test]
    fn flags_complete_the_words_that_they_accept() {
        let program = "oc prune-images";
        let mut seen = 0;
        for command in parse::commands(program) {
            let path = parse::words(&command, program);
            for arg in command.get_arguments().filter(|arg| arg.get_action().takes_values()) {
                let Some(long) = arg.get_long() else { continue };
                let wrong = format!("--{long}=\u{2603}");
                let line = ["oc-prune_images"].into_iter().chain(path.iter().map(String::as_str));
                let Err(failure) = parse(line.chain([wrong.as_str()]).map(Into::into)) else { continue };
                let listed = ["allowed formats are: ", "it must be one of "]
                    .iter()
                    .find_map(|lead| Some(failure.message.split_once(lead)?.1.to_owned()));
                let Some(listed) = listed else { continue };
                let mut listed: Vec<&str> = listed.split(',').map(str::trim).collect();
                listed.sort_unstable();
                let Values::Known(mut known) = of(arg, &path.join(" ")) else {
                    panic!("{path:?} --{long} takes {listed:?}: name them in completion/values.rs")
                };
                known.sort_unstable();
                assert_eq!(known, listed, "{path:?} --{long}");
                seen += 1;
            }
        }
        assert!(seen >= 4, "{seen}");
    }
}
