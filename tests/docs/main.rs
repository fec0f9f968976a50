//! Whatever the documentation shows is run, and what it says about the code is compared with the code.
//!
//! `UPDATE_DOCS=1 cargo test --test docs` writes outputs and generated parts anew; look at the difference before you
//! commit it.
#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a page that cannot be read, or a cluster that does not start, fails the test"
)]

mod console;
mod flags;
mod page;
mod permissions;
mod session;
mod troubleshooting;

use std::collections::BTreeSet;

use page::{Page, pages};

/// One test for each page, so that they run side by side; the last test knows when one is missing.
macro_rules! pages {
    ($($name:ident: $path:literal,)*) => {
        const RUN: &[&str] = &[$($path),*];
        $(#[test]
        fn $name() {
            console::check($path);
        })*
    };
}

pages! {
    readme: "README.md",
    cache: "docs/cache.md",
    decision: "docs/decision.md",
    dependencies: "docs/dependencies.md",
    exit_codes: "docs/exit-codes.md",
    flags: "docs/flags.md",
    output: "docs/output.md",
    permissions: "docs/permissions.md",
    scheduling: "docs/scheduling.md",
    troubleshooting: "docs/troubleshooting.md",
    usage: "docs/usage.md",
}

#[test]
fn every_page_is_run() {
    let run: BTreeSet<&str> = RUN.iter().copied().collect();
    let there = pages();
    assert_eq!(there.iter().map(String::as_str).collect::<BTreeSet<_>>(), run);
}

#[test]
fn blocks_say_what_they_are() {
    for path in pages() {
        for block in Page::read(&path).blocks() {
            let known = ["console", "json", "mermaid", "promql", "sh", "text", "yaml"];
            let place = format!("{path}:{}", block.line);
            assert!(known.contains(&block.language()), "{place}: ```{} is none of {known:?}", block.info);
            let prompts = block.lines.iter().any(|line| line.starts_with("$ "));
            assert_eq!(
                prompts,
                block.language() == "console",
                "{place}: a prompt, and only it, makes a console"
            );
        }
    }
}

#[test]
fn links_lead_somewhere() {
    for path in pages().into_iter().chain(["CONTRIBUTING.md".to_owned(), "CHANGELOG.md".to_owned()]) {
        let page = Page::read(&path);
        for (line, target) in page.links().into_iter().filter(|(_, target)| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if file.is_empty() { path.clone() } else { page::beside(&path, file) };
            assert!(page::root().join(&file).exists(), "{path}:{line}: there is no {file}");
            if !anchor.is_empty() {
                assert!(
                    Page::read(&file).anchors().contains(anchor),
                    "{path}:{line}: {file} has no #{anchor}"
                );
            }
        }
    }
}

/// The codes of `src/error.rs` are those of the page, with their numbers.
#[test]
fn exit_codes_are_those_of_the_code() {
    let source = std::fs::read_to_string(page::root().join("src/error.rs")).unwrap();
    let (_, variants) = source.split_once("pub enum Exit {").unwrap();
    let variants = variants.split_once("\n}").unwrap().0.lines();
    let number = |line: &str| line.split_once(" = ")?.1.trim_end_matches(',').parse::<u8>().ok();
    let codes: Vec<u8> = variants.filter_map(number).collect();
    assert!(codes.len() > 5, "{codes:?}");
    let page = Page::read("docs/exit-codes.md");
    let rows = page.lines.iter().filter_map(|line| line.split('|').nth(1)?.trim().parse::<u8>().ok());
    assert_eq!(rows.collect::<Vec<_>>(), codes);
}
