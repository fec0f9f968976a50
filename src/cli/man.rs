//! The flags of `man`, and the manual pages, made from the definitions of the flags.

use std::path::PathBuf;

use clap::{Command, Parser};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::{
    parse::{self, Invocation},
    place_files::{NewFile, PlaceFilesOptions},
    subcommand::{CommonArgs, Subcommand},
    validate::nonempty_path,
};
use crate::{error::Failure, text::sanitize};

/// Print a manual page, or install all of them
#[derive(Parser)]
#[command(next_help_heading = "Flags", after_long_help = AFTER)]
pub(super) struct ManArgs {
    /// Write all pages into DIR/man1
    ///
    /// Files that are there and are no manual pages of this program are left alone.
    #[arg(long, value_name = "DIR")]
    install: Option<PathBuf>,

    #[command(flatten)]
    common: CommonArgs,
}

const AFTER: &str = "\
Examples:
  {program} man | man -l -
  {program} man cache status | man -l -
  {program} man --install ~/.local/share/man

Exit codes:
  0  done
  1  nothing was written, or not all of it
  2  the command line is wrong";

impl Subcommand for ManArgs {
    const SYNOPSIS: &str = "man [COMMAND...] [flags]";
    const TAKES_WORDS: bool = true;

    fn common(&self) -> &CommonArgs {
        &self.common
    }

    fn invocation(self, program: &str) -> Result<Invocation, Failure> {
        let words: Vec<_> =
            self.common.words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let commands = parse::commands(program);
        let Some(directory) = nonempty_path(self.install) else {
            let found = commands.iter().find(|command| parse::words(command, program) == words);
            return found.map(|command| Invocation::Print(page(command, &commands, program))).ok_or_else(
                || {
                    Failure::usage(format!("no manual page for \"{}\"", sanitize(&words.join(" "))))
                        .hint(format!("the commands are listed in: {program} --help"))
                },
            );
        };
        if !words.is_empty() {
            return Err(Failure::usage("--install cannot be specified with a command")
                .hint("it writes the pages of all commands"));
        }
        let files = commands.iter().map(|command| NewFile {
            name: format!("{}.1", name(command, program)),
            content: page(command, &commands, program).into_bytes(),
            executable: false,
        });
        Ok(Invocation::PlaceFiles(Box::new(PlaceFilesOptions {
            doing: "install the manual pages",
            directory,
            subdirectory: Some("man1"),
            files: files.collect(),
            ours: MANUAL,
            for_unix_alone: None,
            on_path: false,
        })))
    }
}

/// The name of the manual, in the head of each page.
const MANUAL: &str = "Pruning OpenShift images";

/// The page's name: the words with hyphens between them, as in `oc-prune-images-cache-status`.
fn name(command: &Command, program: &str) -> String {
    let words = std::iter::once(program.replace(' ', "-")).chain(parse::words(command, program));
    words.collect::<Vec<_>>().join("-")
}

/// The page of one of the commands.
fn page(command: &Command, commands: &[Command], program: &str) -> String {
    let name = name(command, program);
    let text = |text: &clap::builder::StyledStr| text.to_string().replace("{program}", program);
    let mut shown = command.clone().name(name.clone()).version(env!("CARGO_PKG_VERSION"));
    if let Some(about) = command.get_long_about() {
        shown = shown.long_about(text(about));
    }
    let man = Man::new(shown).source(format!("oc-prune-images {}", env!("CARGO_PKG_VERSION"))).manual(MANUAL);
    let mut page = Vec::new();
    // Writing into memory cannot fail.
    let _ = man
        .render_title(&mut page)
        .and_then(|()| man.render_name_section(&mut page))
        .and_then(|()| man.render_synopsis_section(&mut page))
        .and_then(|()| man.render_description_section(&mut page))
        .and_then(|()| man.render_options_section(&mut page));
    let mut rest = Roff::new();
    if let Some(after) = command.get_after_long_help() {
        sections(&mut rest, &text(after));
    }
    see_also(&mut rest, &name, commands, program);
    String::from_utf8_lossy(&page).into_owned() + &rest.render()
}

/// The blocks behind the flags, each a heading with lines that stay lines.
fn sections(page: &mut Roff, text: &str) {
    for block in text.split("\n\n") {
        let (heading, lines) = block.split_once('\n').unwrap_or((block, ""));
        page.control("SH", [heading.trim_end_matches(':').to_uppercase().as_str()]);
        page.control("nf", []);
        for line in lines.lines() {
            page.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
        }
        page.control("fi", []);
    }
}

fn see_also(page: &mut Roff, own: &str, commands: &[Command], program: &str) {
    page.control("SH", ["SEE ALSO"]);
    let others: Vec<String> =
        commands.iter().map(|command| name(command, program)).filter(|name| name != own).collect();
    for (index, other) in others.iter().enumerate() {
        let comma = if index + 1 < others.len() { "," } else { "" };
        page.text([bold(other.as_str()), roman(format!("(1){comma}"))]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        for program in ["oc prune-images", "kubectl prune-images"] {
            let commands = parse::commands(program);
            for command in &commands {
                let page = page(command, &commands, program);
                for part in
                    [".TH", ".SH NAME", ".SH SYNOPSIS", ".SH FLAGS", ".SH EXAMPLES", "SEE ALSO", MANUAL]
                {
                    assert!(page.contains(part), "{part}\n{page}");
                }
                assert!(!page.contains("{program}") && page.contains(program.split(' ').next().unwrap()));
            }
        }
    }
}
