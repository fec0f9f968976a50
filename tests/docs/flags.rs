//! `docs/flags.md`, made from the definitions of the command line, and the help texts as users see them.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

use clap::{Arg, Command};

use crate::page::{Page, root};

/// How the program is called in the documentation.
const PROGRAM: &str = "oc prune-images";

const INTRODUCTION: &str = "\
# Flags

Every command with its flags, written by `UPDATE_DOCS=1 cargo test --test docs` from the definitions of the command line.
What to do with them is in [usage by task](usage.md).

Values follow the flag as `--flag=VALUE` or `--flag VALUE`; the last one counts if a flag that takes one value is repeated.
Flags that switch something on or off take `=true` or `=false`, and mean `true` without it: `--all=false`. Flags stand after the
plugin's name: `oc -n shop prune-images` fails with `flags cannot be placed before plugin name`.
";

fn commands() -> Vec<Command> {
    oc_prune_images::cli::commands(PROGRAM)
}

/// The words that call a command.
fn name(command: &Command) -> &str {
    command.get_bin_name().unwrap_or_default()
}

/// The page as it should be.
fn expected() -> String {
    let mut page = INTRODUCTION.to_owned();
    // Groups of flags that were written already, and the command that has them.
    let mut written: HashMap<String, String> = HashMap::new();
    for mut command in commands() {
        let name = name(&command).to_owned();
        let about =
            command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
        let usage = command.render_usage().to_string();
        let _ = writeln!(page, "\n## `{name}`\n\n{}", sentence(&about.replace("{program}", PROGRAM)));
        let _ = writeln!(page, "\n```text\n{}\n```", usage.trim_start_matches("Usage: "));
        for (heading, flags) in groups(&command) {
            let table = format!("| flag | |\n| --- | --- |\n{}", flags.concat());
            let _ = writeln!(page, "\n**{heading}**");
            if let Some(first) = written.get(&table) {
                let anchor = first.replace(' ', "-");
                let _ = writeln!(page, "as of [`{first}`](#{anchor})");
            } else {
                let _ = write!(page, "\n{table}");
                written.insert(table, name.clone());
            }
        }
        if let Some(after) = command.get_after_long_help() {
            let _ = writeln!(page, "\n```text\n{}\n```", after.to_string().replace("{program}", PROGRAM));
        }
    }
    page
}

/// The flags of a command by their headings, as table rows, in the order of the help.
fn groups(command: &Command) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let heading = arg.get_help_heading().unwrap_or("Arguments");
        if groups.last().is_none_or(|(last, _)| last != heading)
            && !groups.iter().any(|(known, _)| known == heading)
        {
            groups.push((heading.to_owned(), Vec::new()));
        }
        if let Some((_, rows)) = groups.iter_mut().find(|(known, _)| known == heading) {
            rows.push(row(arg));
        }
    }
    groups
}

fn row(arg: &Arg) -> String {
    let value = arg.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
    let takes_value = arg.get_action().takes_values() && !arg.is_require_equals_set();
    let mut spelled: Vec<String> = arg.get_short().map(|short| format!("`-{short}`")).into_iter().collect();
    spelled.extend(
        arg.get_long().map(
            |long| {
                if takes_value { format!("`--{long}={value}`") } else { format!("`--{long}`") }
            },
        ),
    );
    if arg.is_positional() {
        spelled.push(format!("`{value}`"));
    }
    let short = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let long = arg.get_long_help().map_or_else(|| short.clone(), ToString::to_string);
    let cell = sentence(&long).replace('|', "\\|").replace('<', "&lt;");
    format!("| {} | {} |\n", spelled.join(", ").replace('|', "\\|"), cell.replace('\n', " "))
}

/// A help text whose first line has no full stop, as prose.
fn sentence(help: &str) -> String {
    match help.split_once("\n\n") {
        Some((first, rest)) => format!("{first}. {}", rest.replace("\n\n", " ")),
        None => help.to_owned(),
    }
}

#[test]
fn flags_are_those_of_the_command_line() {
    let (path, expected) = (root().join("docs/flags.md"), expected());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == expected, "docs/flags.md is not current: UPDATE_DOCS=1 cargo test --test docs");
}

/// `--help` of every command, and `-h` of the first one, word for word.
#[test]
fn help_texts_are_those_that_were_seen() {
    let mut texts = String::new();
    let calls = commands().iter().map(|command| format!("{} --help", name(command))).collect::<Vec<_>>();
    for call in std::iter::once(format!("{PROGRAM} -h")).chain(calls) {
        let words = call.strip_prefix(PROGRAM).unwrap().split_whitespace();
        let mut plugin = std::process::Command::new(env!("CARGO_BIN_EXE_oc-prune_images"));
        let output = plugin.args(words).env_clear().output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{call}: {output:?}");
        let _ = writeln!(texts, "$ {call}\n{}", String::from_utf8(output.stdout).unwrap());
    }
    let path = root().join("tests/docs/help.txt");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &texts).unwrap();
    }
    let seen = std::fs::read_to_string(path).unwrap_or_default();
    snapbox::assert_data_eq!(texts, snapbox::Data::text(seen).raw());
}

/// Flags of other programs that the pages name.
const FOREIGN: &[&str] = &[
    "--archive",
    "--available",
    "--flag",
    "--manifest",
    "--out",
    "--locked",
    "--path",
    "--test",
    "--type",
    "--verb",
    "--resource",
    "--resource-name",
    "--role-namespace",
    "--subresource",
];

#[test]
fn pages_name_no_flag_and_no_command_that_does_not_exist() {
    let commands = commands();
    let flags: BTreeSet<String> = commands
        .iter()
        .flat_map(Command::get_arguments)
        .filter_map(|arg| arg.get_long().map(|long| format!("--{long}")))
        .collect();
    let names: Vec<&str> = commands.iter().map(name).collect();
    let flag = regex::Regex::new("--[a-z][a-z0-9-]*").unwrap();
    let call = regex::Regex::new("(?:oc|kubectl) prune-images((?: [a-z][a-z-]+)*)").unwrap();
    for path in crate::page::pages() {
        let page = Page::read(&path);
        // What is shown to be wrong names what does not exist.
        let blocks = page.blocks().into_iter().filter(|block| block.attribute("exit") != Some("2"));
        let in_blocks = blocks.flat_map(|block| (block.line..).zip(block.lines));
        let prose = page.prose().into_iter().map(|(number, line)| (number, line.to_owned()));
        for (number, line) in prose.chain(in_blocks) {
            for found in flag.find_iter(&line) {
                let name = found.as_str().trim_end_matches('-');
                let known = flags.contains(name) || FOREIGN.contains(&name);
                assert!(known, "{path}:{number}: no command has the flag {name}");
            }
            for found in call.captures_iter(&line) {
                let words: Vec<&str> = found[1].split_whitespace().collect();
                let known =
                    |words: &[&str]| names.contains(&format!("{PROGRAM} {}", words.join(" ")).as_str());
                let group = words.first().is_some_and(|word| {
                    names.iter().any(|name| name.starts_with(&format!("{PROGRAM} {word} ")))
                });
                let known = words.is_empty() || (1..=words.len()).any(|end| known(&words[..end])) || group;
                assert!(known, "{path}:{number}: no command is called {:?}", &found[0]);
            }
        }
    }
}
