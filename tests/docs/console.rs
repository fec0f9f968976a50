//! Runs the ```` ```console ```` blocks of a page, from its top to its end, in one shell session.
//!
//! - `$ ` begins a command; what follows is its output, stdout and stderr as a terminal shows them. A line `...` stands for
//!   any lines, `[..]` for any part of a line. A block that shows no output at all is only run.
//! - Times, digests beyond their first 12 digits and the numbers of kept results are not compared, nor how wide columns are.
//! - Commands end with 0, unless the block says otherwise for its last one: ```` ```console exit=3 ````. `user=admin` runs
//!   it as another user than the pruner.
//! - `<!-- cluster: NAME -->` begins a new session (`session.rs` knows the names); without one it is `example`.

use std::fmt::Write as _;
use std::sync::LazyLock;

use regex::Regex;
use snapbox::Data;
use snapbox::filter::NormalizeToExpected;
use snapbox::report::{Palette, write_diff};

use crate::page::{Block, Page, Piece};
use crate::permissions::{GRANTED, refused_nothing};
use crate::session::{Session, missing};

/// A command and the output that is shown below it.
#[derive(Debug)]
struct Step {
    /// The lines of the command, as they are.
    prompt: Vec<String>,
    output: Vec<String>,
}

impl Step {
    fn command(&self) -> String {
        self.prompt.join("\n").trim_start_matches("$ ").to_owned()
    }
}

fn steps(block: &Block) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in &block.lines {
        let continues = |step: &Step| {
            step.output.is_empty() && step.prompt.last().is_some_and(|line| line.ends_with(['\\', '|']))
        };
        match steps.last_mut() {
            Some(step) if continues(step) => step.prompt.push(line.clone()),
            _ if line.starts_with("$ ") => {
                steps.push(Step { prompt: vec![line.clone()], output: Vec::new() });
            }
            Some(step) => step.output.push(line.clone()),
            None => panic!("line {}: a console begins with a prompt", block.line),
        }
    }
    steps
}

/// What is compared of a line.
fn essence(line: &str) -> String {
    static TIME: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?Z").unwrap()
    });
    static COLUMNS: LazyLock<Regex> = LazyLock::new(|| Regex::new("([^ ])  +").unwrap());
    static KEPT: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("[A-Za-z0-9._-]+/[0-9TZ]+-[0-9]+[.]journal").unwrap());
    let line = TIME.replace_all(line, "TIME");
    let line = KEPT.replace_all(&line, "N.journal");
    COLUMNS.replace_all(&shortened(&line), "$1  ").trim_end().to_owned()
}

fn shortened(line: &str) -> String {
    static DIGEST: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("sha256:([0-9a-f]{12})[0-9a-f]{52}").unwrap());
    DIGEST.replace_all(line, "sha256:$1…").into_owned()
}

fn essence_of(lines: &[String]) -> String {
    lines.iter().map(|line| essence(line) + "\n").collect()
}

/// The difference between the output that is shown and the real one, if it matters; and what should be shown.
fn difference(shown: &[String], real: &str) -> Option<(String, Vec<String>)> {
    let real: Vec<String> = real.lines().map(ToOwned::to_owned).collect();
    let expected = Data::text(essence_of(shown));
    let actual = NormalizeToExpected::new().redact().normalize(Data::text(essence_of(&real)), &expected);
    if actual == expected {
        return None;
    }
    let mut diff = String::new();
    write_diff(&mut diff, &expected, &actual, Some(&"shown"), Some(&"real"), Palette::plain()).unwrap();
    let right = actual.render().unwrap_or_default();
    // Lines that are right stay as they are written, the others come as they were printed; each is taken once, because
    // those that differ in a time alone look the same.
    let mut known: Vec<&String> = shown.iter().chain(&real).collect();
    let mut as_written = |line: &str| {
        let says = |known: &&String| {
            let known = essence(known);
            known == line || known.contains("[..]") && matches(&known, line)
        };
        let found = known.iter().position(says)?;
        Some(known.remove(found).clone())
    };
    let right = right.lines().map(|line| shortened(&as_written(line).unwrap_or_else(|| line.to_owned())));
    let right = right.collect();
    Some((diff, right))
}

/// Whether a line with `[..]` means this one.
fn matches(pattern: &str, line: &str) -> bool {
    let parts: Vec<String> = pattern.split("[..]").map(regex::escape).collect();
    Regex::new(&format!("^{}$", parts.join(".*"))).unwrap().is_match(line)
}

/// Runs a page.
pub(crate) fn check(path: &str) {
    let update = std::env::var_os("UPDATE_DOCS").is_some();
    let mut page = Page::read(path);
    let (mut session, mut skipped, mut problems) = (None, false, String::new());
    // Blocks are written anew from the end, so that line numbers hold.
    let mut rewritten: Vec<(Block, Vec<String>)> = Vec::new();
    for piece in page.pieces() {
        let block = match piece {
            Piece::Comment(text) => {
                if let Some(scene) = text.strip_prefix("cluster: ") {
                    (session, skipped) = (Some(Session::start(scene)), false);
                }
                continue;
            }
            Piece::Block(block) if block.language() == "console" => block,
            _ => continue,
        };
        let steps = steps(&block);
        if let Some(program) = steps.iter().find_map(|step| missing(&step.command())) {
            println!("{path}:{}: {program} is not installed: not run, nor what comes after it", block.line);
            skipped = true;
        }
        if skipped {
            continue;
        }
        let session = session.get_or_insert_with(|| Session::start("example"));
        let only_run = steps.iter().all(|step| step.output.is_empty());
        let mut right = Vec::new();
        for (number, step) in (1..).zip(&steps) {
            let command = step.command();
            let (output, code) = session.run(&command, block.attribute("user").unwrap_or("pruner"));
            let expected = block.attribute("exit").filter(|_| number == steps.len());
            let expected = expected.map_or(0, |code| code.parse().unwrap());
            if code != expected {
                let _ = writeln!(problems, "{path}:{}: exit code {code}: $ {command}\n{output}", block.line);
            }
            right.extend(step.prompt.clone());
            match difference(&step.output, &output).filter(|_| !only_run) {
                Some((diff, lines)) => {
                    if !update {
                        let _ = writeln!(problems, "{path}:{}: $ {command}\n{diff}", block.line);
                    }
                    right.extend(lines);
                }
                None => right.extend(step.output.clone()),
            }
        }
        if block.attribute("user") == Some(GRANTED) {
            refused_nothing(session.cluster(), &format!("{path}:{}", block.line));
        }
        rewritten.push((block, right));
    }
    if update {
        let before = page.lines.clone();
        for (block, lines) in rewritten.into_iter().rev() {
            page.lines.splice(block.line - 1..block.line - 1 + block.lines.len(), lines);
        }
        if page.lines != before {
            page.write();
        }
    }
    assert!(problems.is_empty(), "{problems}\nUPDATE_DOCS=1 cargo test --test docs writes what is real");
}
