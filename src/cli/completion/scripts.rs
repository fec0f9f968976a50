//! Scripts for the shells, made from the definitions of the flags. They know no cluster.

use clap::{Arg, ArgAction, Command, ValueHint, builder::PossibleValuesParser};
use clap_complete::{Shell, generate};

use super::{
    super::parse,
    values::{self, Values},
    words::group_about,
};

/// The shells, by the word that selects each.
pub(in crate::cli) const SHELLS: [&str; 4] = ["bash", "zsh", "fish", "powershell"];

/// The names of the program's file, the first of which the script is generated for.
const NAMES: [&str; 2] = ["oc-prune_images", "kubectl-prune_images"];

/// A name without a hyphen.
const PLAIN: &str = "oc_prune_images";

/// The script that completes both names; `None` for an unknown shell.
pub(super) fn script(shell: &str, program: &str) -> Option<String> {
    let [name, other] = NAMES;
    let mut tree = tree(program);
    let mut generated = |shell: Shell, name: &str| {
        let mut script = Vec::new();
        generate(shell, &mut tree, name, &mut script);
        String::from_utf8_lossy(&script).into_owned()
    };
    Some(match shell {
        // With a hyphen in the name, clap_complete 4.6 looks for the flags of subcommands by another name than it has
        // filed them by.
        "bash" => {
            generated(Shell::Bash, PLAIN).replace(&format!(" {PLAIN}\n"), &format!(" {name} {other}\n"))
        }
        "zsh" => generated(Shell::Zsh, name)
            .replace(&format!("#compdef {name}\n"), &format!("#compdef {name} {other}\n"))
            .replace(&format!("compdef _{name} {name}\n"), &format!("compdef _{name} {name} {other}\n")),
        "fish" => generated(Shell::Fish, name) + &format!("complete -c {other} -w {name}\n"),
        "powershell" => generated(Shell::PowerShell, name)
            .replace(&format!("-CommandName '{name}'"), &format!("-CommandName '{name}', '{other}'"))
            .trim_start()
            .to_owned(),
        _ => return None,
    })
}

/// All commands as one tree, with what is known of the flags' values.
fn tree(program: &str) -> Command {
    let mut root = Command::new(NAMES[0]).disable_help_flag(true).disable_help_subcommand(true);
    for command in parse::commands(program) {
        let words = parse::words(&command, program);
        root = with(root, &words, &command, &words.join(" "));
    }
    root
}

/// The tree with the command below these words.
fn with(tree: Command, words: &[String], command: &Command, path: &str) -> Command {
    let Some((word, rest)) = words.split_first() else {
        let flags = command.get_arguments().filter(|arg| !arg.is_positional());
        let tree = tree.args(flags.map(|arg| flag(arg, path)));
        let tree = if path == "completion" {
            tree.arg(Arg::new("shell").value_parser(PossibleValuesParser::new(SHELLS)))
        } else {
            tree
        };
        return match command.get_about() {
            Some(about) => tree.about(about.clone()),
            None => tree,
        };
    };
    if tree.find_subcommand(word).is_none() {
        let below = Command::new(word.clone()).disable_help_flag(true).disable_help_subcommand(true);
        let below = match group_about(word) {
            Some(about) => below.about(about),
            None => below,
        };
        return tree.subcommand(with(below, rest, command, path));
    }
    tree.mut_subcommand(word.clone(), |below| with(below, rest, command, path))
}

/// The flag as a script needs it: one that may stand alone takes no next word.
fn flag(arg: &Arg, path: &str) -> Arg {
    let mut flag = Arg::new(arg.get_id().clone());
    flag = arg.get_long().into_iter().fold(flag, |flag, long| flag.long(long.to_owned()));
    flag = arg.get_short().into_iter().fold(flag, Arg::short);
    flag = arg.get_help().into_iter().fold(flag, |flag, help| flag.help(help.clone()));
    if !values::takes_next_word(arg) {
        return flag.action(ArgAction::SetTrue);
    }
    let names = arg.get_value_names().unwrap_or_default();
    flag = flag.action(arg.get_action().clone()).value_names(names.iter().cloned());
    match values::of(arg, path) {
        Values::Known(words) => flag.value_parser(PossibleValuesParser::new(words)),
        Values::Files => flag.value_hint(ValueHint::FilePath),
        Values::Folders => flag.value_hint(ValueHint::DirPath),
        Values::Ask(_) | Values::Unknown => flag.value_hint(ValueHint::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_script_serves_both_names_and_all_commands() {
        for shell in SHELLS {
            let script = script(shell, "oc prune-images").unwrap();
            for part in [
                "oc-prune_images",
                "kubectl-prune_images",
                "status",
                "keep-younger-than",
                "sample",
                "powershell",
            ] {
                // clap_complete completes no words that are not flags in fish and PowerShell.
                if part != "powershell" || matches!(shell, "bash" | "zsh") {
                    assert!(script.contains(part), "{shell}: {part}");
                }
            }
            assert!(!script.contains("{program}"), "{shell}");
        }
        assert_eq!(script("csh", "oc prune-images"), None);
    }
}
