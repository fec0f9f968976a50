//! What `__complete` answers: the words typed so far, the last of which is unfinished -> what can stand in its place.
//!
//! The protocol is that of cobra, by which kubectl and oc ask a plugin: one candidate in a line, a description behind a
//! tab, at the end `:` and a number that says what the shell does with them.

use std::{collections::BTreeSet, ffi::OsString};

use clap::{Arg, ArgAction, Args as _, Command, FromArgMatches as _};

use super::{
    super::{
        cache,
        connection::ConnectionArgs,
        journal,
        parse::{self, like_pflag},
    },
    scripts::SHELLS,
    values::{self, Source, Values},
};
use crate::cluster::ConnectionOptions;

/// What can stand in place of an unfinished word.
#[derive(Debug, Clone)]
pub enum Completion {
    /// These.
    Known(Vec<Candidate>),
    /// Names that the kubeconfig or the cluster has.
    Ask {
        /// Which names.
        source: Source,
        /// What they begin with.
        typed: String,
        /// Which cluster, and as whom.
        connection: Box<ConnectionOptions>,
    },
    /// Names of files.
    Files,
    /// Names of folders.
    Folders,
}

/// A word that can stand there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// The word.
    pub word: String,
    /// What it is, in one line.
    pub about: String,
}

impl Candidate {
    fn new(word: impl Into<String>, about: impl Into<String>) -> Self {
        Self { word: word.into(), about: about.into() }
    }
}

/// What can stand in place of the last word. Never an error: nobody would read it.
pub(in crate::cli) fn complete(words: &[OsString], program: &str) -> Completion {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let (typed, before) = words.split_last().map_or(("", [].as_slice()), |(last, rest)| (*last, rest));
    let commands: Vec<(Vec<String>, Command)> = parse::commands(program)
        .into_iter()
        .map(|command| (parse::words(&command, program), command))
        .collect();

    let starts_like_typed = |path: &[String]| {
        path.len() >= before.len() && path.iter().zip(before).all(|(part, word)| part == word)
    };
    let next =
        if typed.starts_with('-') { BTreeSet::new() } else { next(&commands, before, starts_like_typed) };
    let command = commands
        .iter()
        .filter(|(path, _)| {
            path.len() <= before.len() && path.iter().zip(before).all(|(part, word)| part == word)
        })
        .max_by_key(|(path, _)| path.len());
    // `cache` and `journal` are no commands of their own.
    let is_group = before.first().is_some_and(|word| group_about(word).is_some());
    let command = command.filter(|(path, _)| !path.is_empty() || !is_group);
    if !next.is_empty() || command.is_none() {
        return known(next, typed);
    }
    match command {
        Some((path, command)) => in_command(command, &path.join(" "), &before[path.len()..], typed),
        None => known([], typed),
    }
}

/// What a word is for that is no command, but stands in front of some.
pub(super) fn group_about(word: &str) -> Option<&'static str> {
    match word {
        cache::WORD => Some(cache::ABOUT),
        journal::WORD => Some(journal::ABOUT),
        _ => None,
    }
}

/// The words that may follow `before`, if it is the beginning of a command.
fn next(
    commands: &[(Vec<String>, Command)],
    before: &[&str],
    starts_like_typed: impl Fn(&[String]) -> bool,
) -> BTreeSet<Candidate> {
    let following = commands.iter().filter(|(path, _)| starts_like_typed(path));
    following
        .filter_map(|(path, command)| {
            let word = path.get(before.len())?;
            let about = match group_about(word) {
                Some(about) => about.to_owned(),
                None => command.get_about().map(ToString::to_string).unwrap_or_default(),
            };
            Some(Candidate::new(word, about))
        })
        .collect()
}

fn in_command(command: &Command, path: &str, before: &[&str], typed: &str) -> Completion {
    let mut given = Given::default();
    for word in before {
        given.read(command, word);
    }
    if let Some(arg) = given.pending {
        return value(arg, path, typed, &given);
    }
    if !given.only_words && typed.starts_with('-') {
        if let Some((flag, typed)) = typed.split_once('=')
            && let Some(arg) = flag.strip_prefix("--").and_then(|long| by_long(command, long))
        {
            // The shells put the flag in front themselves.
            return value(arg, path, typed, &given);
        }
        return known(flags(command, &given), typed);
    }
    match path {
        "completion" => known(SHELLS.map(|shell| Candidate::new(shell, "")), typed),
        "explain" => ask(Source::Targets, typed, &given),
        _ => known([], typed),
    }
}

/// What the finished words say.
#[derive(Default)]
struct Given<'a> {
    /// The flag whose value comes next.
    pending: Option<&'a Arg>,
    /// `--` was seen.
    only_words: bool,
    seen: Vec<&'a Arg>,
    /// The flags with their values, as `--flag=value`.
    values: Vec<(&'a Arg, String)>,
}

impl<'a> Given<'a> {
    fn read(&mut self, command: &'a Command, word: &str) {
        if let Some(arg) = self.pending.take() {
            return self.take(arg, Some(word));
        }
        if word == "--" {
            self.only_words = true;
        }
        if self.only_words {
            return;
        }
        if let Some(flag) = word.strip_prefix("--") {
            let (long, attached) =
                flag.split_once('=').map_or((flag, None), |(long, value)| (long, Some(value)));
            if let Some(arg) = by_long(command, long) {
                self.take(arg, attached);
            }
        } else if let Some(letters) = word.strip_prefix('-') {
            for (index, letter) in letters.char_indices() {
                let found = command.get_arguments().find(|arg| arg.get_short() == Some(letter));
                let Some(arg) = found else { return };
                let rest = &letters[index + letter.len_utf8()..];
                if values::takes_next_word(arg) && !rest.is_empty() {
                    return self.take(arg, Some(rest.strip_prefix('=').unwrap_or(rest)));
                }
                self.take(arg, None);
            }
        }
    }

    fn take(&mut self, arg: &'a Arg, value: Option<&str>) {
        self.seen.push(arg);
        match value {
            Some(value) => self.values.push((arg, value.to_owned())),
            None if values::takes_next_word(arg) => self.pending = Some(arg),
            None => self.values.push((arg, "true".to_owned())),
        }
    }

    /// The connection that the flags describe; `None` if they are wrong.
    fn connection(&self) -> Option<ConnectionOptions> {
        let command = like_pflag(ConnectionArgs::augment_args(Command::new("connection")));
        let belongs = |arg: &Arg| command.get_arguments().any(|other| other.get_id() == arg.get_id());
        let given = self.values.iter().filter(|(arg, _)| belongs(arg));
        let words: Vec<String> =
            given.filter_map(|(arg, value)| Some(format!("--{}={value}", arg.get_long()?))).collect();
        let words = std::iter::once("connection".to_owned()).chain(words);
        let matches = command.try_get_matches_from(words).ok()?;
        ConnectionArgs::from_arg_matches(&matches).ok()?.options().ok()
    }
}

fn by_long<'a>(command: &'a Command, long: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| arg.get_long() == Some(long))
}

fn value(arg: &Arg, path: &str, typed: &str, given: &Given<'_>) -> Completion {
    match values::of(arg, path) {
        Values::Known(words) => known(words.into_iter().map(|word| Candidate::new(word, "")), typed),
        Values::Ask(source) => ask(source, typed, given),
        Values::Files => Completion::Files,
        Values::Folders => Completion::Folders,
        Values::Unknown => known([], typed),
    }
}

fn ask(source: Source, typed: &str, given: &Given<'_>) -> Completion {
    match given.connection() {
        Some(connection) => {
            Completion::Ask { source, typed: typed.to_owned(), connection: Box::new(connection) }
        }
        None => known([], typed),
    }
}

/// The flags that can be given, without those that are there and count once.
fn flags(command: &Command, given: &Given<'_>) -> Vec<Candidate> {
    let again = |arg: &Arg| matches!(arg.get_action(), ArgAction::Append);
    let open = |arg: &&Arg| {
        !arg.is_hide_set() && (again(arg) || !given.seen.iter().any(|seen| seen.get_id() == arg.get_id()))
    };
    command
        .get_arguments()
        .filter(open)
        .filter_map(|arg| {
            let about = arg.get_help().map(ToString::to_string).unwrap_or_default();
            Some(Candidate::new(format!("--{}", arg.get_long()?), about))
        })
        .collect()
}

fn known(candidates: impl IntoIterator<Item = Candidate>, typed: &str) -> Completion {
    Completion::Known(candidates.into_iter().filter(|candidate| candidate.word.starts_with(typed)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(line: &[&str]) -> Completion {
        let words: Vec<OsString> = line.iter().map(Into::into).collect();
        super::complete(&words, "oc prune-images")
    }

    fn words(line: &[&str]) -> Vec<String> {
        match complete(line) {
            Completion::Known(candidates) => candidates.into_iter().map(|candidate| candidate.word).collect(),
            other => panic!("{line:?}: {other:?}"),
        }
    }

    #[test]
    fn commands_come_first() {
        let first = words(&[""]);
        for word in ["cache", "completion", "man"] {
            assert!(first.contains(&word.to_owned()), "{first:?}");
        }
        assert!(!first.contains(&"__complete".to_owned()));
        assert_eq!(words(&["cac"]), ["cache"]);
        assert_eq!(words(&["cache", "s"]), ["status"]);
        assert_eq!(words(&["cache", ""]), ["check", "disable", "enable", "flush", "status"]);
        assert_eq!(words(&["cache", "nonsense", ""]), [""; 0]);
        assert_eq!(words(&["completion", ""]), SHELLS);
        assert_eq!(words(&["completion", "z"]), ["zsh"]);
        assert_eq!(words(&[]), first);
    }

    #[test]
    fn flags_are_those_of_the_command() {
        let flags = words(&["--"]);
        assert!(
            flags.contains(&"--keep-tag-revisions".to_owned()) && flags.contains(&"--as-group".to_owned())
        );
        assert_eq!(words(&["--keep-t"]), ["--keep-tag-revisions"]);
        assert_eq!(words(&["cache", "status", "--out"]), ["--output"]);
        assert_eq!(words(&["cache", "status", "--keep"]), [""; 0]);
        assert_eq!(words(&["-n", "shop", "--namesp"]), [""; 0], "given");
        assert_eq!(words(&["--as-group=a", "--as-g"]), ["--as-group"], "can be repeated");
        assert_eq!(words(&["--confirm", "--output", "--conf"]), [""; 0], "a value");
        assert_eq!(words(&["--", "--conf"]), [""; 0], "no flag any more");
    }

    #[test]
    fn values_are_those_of_the_flag() {
        for line in [
            ["-o", "j"].as_slice(),
            &["--output", "j"],
            &["--output=j"],
            &["--confirm", "-v", "3", "-o", "j"],
        ] {
            assert_eq!(words(line), ["json"], "{line:?}");
        }
        assert_eq!(words(&["--registry-cache=e"]), ["evict"]);
        assert_eq!(words(&["--confirm="]), ["true", "false"]);
        assert_eq!(words(&["--keep-tag-revisions", ""]), [""; 0]);
        assert!(matches!(complete(&["--kubeconfig", ""]), Completion::Files));
        assert!(matches!(complete(&["--kubeconfig=a"]), Completion::Files));
        assert!(matches!(complete(&["completion", "--install", ""]), Completion::Folders));
    }

    #[test]
    fn names_are_asked_of_the_cluster_that_the_flags_name() {
        let asked = |line: &[&str]| match complete(line) {
            Completion::Ask { source, typed, connection } => (source, typed, connection),
            other => panic!("{line:?}: {other:?}"),
        };
        let (source, typed, connection) =
            asked(&["--context=prod", "--as", "me", "--insecure-skip-tls-verify", "-v3", "-n", "sh"]);
        assert_eq!((source, typed.as_str()), (Source::Namespaces, "sh"));
        assert_eq!(connection.context.as_deref(), Some("prod"));
        assert_eq!(connection.impersonate.as_deref(), Some("me"));
        assert!(connection.insecure_skip_tls_verify);
        assert_eq!(asked(&["cache", "status", "--context", ""]).0, Source::Contexts);
        assert_eq!(asked(&["--cluster="]).0, Source::Clusters);
        assert_eq!(asked(&["--user="]).0, Source::Users);
        assert_eq!(
            asked(&["-s", "https://other:6443", "-n", ""]).2.server.as_deref(),
            Some("https://other:6443")
        );
        // What would be refused is not asked for.
        assert_eq!(words(&["--request-timeout=soon", "-n", ""]), [""; 0]);
    }
}
