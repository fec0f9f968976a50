//! `docs/troubleshooting.md` names errors by their texts: whether each is really printed, and whether any is left out.

use std::path::Path;

use regex::Regex;

use crate::page::{Page, Piece, root};

const PAGE: &str = "docs/troubleshooting.md";

/// What stands between the variable parts of a text.
fn fixed(text: &str) -> Vec<&str> {
    text.split('…').map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// Whether the line has all these parts in this order.
fn has(line: &str, parts: &[&str]) -> bool {
    let mut rest = line;
    parts.iter().all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

/// Every file of the program, without its unit tests, strings joined where they are broken.
fn sources() -> String {
    fn collect(directory: &Path, all: &mut String) {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, all);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                all.push_str(text.split("#[cfg(test)]").next().unwrap_or_default());
            }
        }
    }
    let mut all = String::new();
    collect(&root().join("src"), &mut all);
    Regex::new(r"\\\n *").unwrap().replace_all(&all, "").into_owned()
}

/// The text in backticks that a line begins with.
fn quoted(line: &str) -> Option<&str> {
    line.strip_prefix('`')?.split('`').next()
}

#[test]
fn headings_are_what_the_runs_below_them_print() {
    let mut open: Option<String> = None;
    let mut headings = 0;
    for piece in Page::read(PAGE).pieces() {
        match piece {
            Piece::Heading(text) => {
                assert_eq!(open, None, "nothing below this heading prints it");
                open = quoted(&text).map(ToOwned::to_owned);
            }
            Piece::Block(block) => {
                let Some(text) = open.take() else { continue };
                headings += 1;
                let printed = block.lines.iter().any(|line| has(line, &fixed(&text)));
                assert!(printed, "{PAGE}:{}: not printed: {text}", block.line);
            }
            Piece::Comment(_) => {}
        }
    }
    assert!(headings > 15, "{headings}");
}

#[test]
fn texts_of_the_table_are_those_of_the_code() {
    let sources = sources();
    let page = Page::read(PAGE);
    let rows: Vec<&str> = page.lines.iter().filter_map(|line| quoted(line.strip_prefix("| ")?)).collect();
    assert!(rows.len() > 15, "{rows:?}");
    for part in rows.iter().flat_map(|row| fixed(row)) {
        let escaped = part.replace('"', "\\\"");
        assert!(sources.contains(part) || sources.contains(&escaped), "{PAGE}: no such text in src/: {part}");
    }
}

/// Texts with less than this between two variable parts cannot be looked for: they are other errors put together.
const TELLING: usize = 17;

#[test]
fn no_failure_is_left_out() {
    let sources = sources();
    let failure =
        Regex::new(r#"Failure::(?:nothing_changed|before)\(\s*(?:format!\(\s*)?"((?:[^"\\]|\\.)*)""#)
            .unwrap();
    let variable = Regex::new(r"\{[^}]*\}|\\n").unwrap();
    let page = Page::read(PAGE).text();
    let (mut checked, mut left_out) = (0, Vec::new());
    for found in failure.captures_iter(&sources) {
        let text = found[1].replace("\\\"", "\"");
        let parts = variable.split(&text).map(|part| part.trim_matches([':', ' ', '"', ';']));
        let Some(telling) = parts.max_by_key(|part| part.len()).filter(|part| part.len() >= TELLING) else {
            continue;
        };
        checked += 1;
        if !page.contains(telling) {
            left_out.push(text.clone());
        }
    }
    assert!(left_out.is_empty(), "{PAGE} does not name: {left_out:#?}");
    assert!(checked > 20, "{checked}");
}
