//! A page of the documentation, taken apart as far as the tests need it. The pages keep to the Markdown that is read here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// The pages that users read, by their paths from the root.
pub(crate) fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned()];
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
            pages.push(format!("docs/{name}"));
        }
    }
    pages.sort();
    pages
}

/// A path from the root, given how a page refers to it.
pub(crate) fn beside(page: &str, file: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in file.split('/') {
        match part {
            ".." => {
                parts.pop();
            }
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A page.
#[derive(Debug)]
pub(crate) struct Page {
    path: PathBuf,
    pub(crate) lines: Vec<String>,
}

/// A fenced block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// What stands behind the backticks.
    pub(crate) info: String,
    /// The number of the first line between the fences, from 1.
    pub(crate) line: usize,
    pub(crate) lines: Vec<String>,
}

impl Block {
    pub(crate) fn language(&self) -> &str {
        self.info.split(' ').next().unwrap_or_default()
    }

    /// The value of `name=value` behind the language.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.info.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }
}

/// What of a page the tests look at, in its order.
#[derive(Debug)]
pub(crate) enum Piece {
    /// `<!-- … -->` on a line of its own.
    Comment(String),
    /// A heading's text.
    Heading(String),
    Block(Block),
}

impl Page {
    pub(crate) fn read(path: &str) -> Self {
        let path = root().join(path);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path, lines: text.lines().map(ToOwned::to_owned).collect() }
    }

    pub(crate) fn text(&self) -> String {
        self.lines.join("\n") + "\n"
    }

    pub(crate) fn write(&self) {
        std::fs::write(&self.path, self.text()).unwrap();
    }

    pub(crate) fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut lines = (1..).zip(&self.lines);
        while let Some((number, line)) = lines.next() {
            if let Some(info) = line.strip_prefix("```") {
                let content = lines.by_ref().map(|(_, line)| line.clone()).take_while(|line| line != "```");
                let info = info.to_owned();
                pieces.push(Piece::Block(Block { info, line: number + 1, lines: content.collect() }));
            } else if let Some(text) = line.strip_prefix('#') {
                pieces.push(Piece::Heading(text.trim_start_matches('#').trim().to_owned()));
            } else if let Some(text) = line.strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->")) {
                pieces.push(Piece::Comment(text.trim().to_owned()));
            }
        }
        pieces
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        let block = |piece| if let Piece::Block(block) = piece { Some(block) } else { None };
        self.pieces().into_iter().filter_map(block).collect()
    }

    /// The lines outside of blocks, each with its number.
    pub(crate) fn prose(&self) -> Vec<(usize, &str)> {
        let mut inside = false;
        let outside = |(_, line): &(usize, &str)| {
            let fence = line.starts_with("```");
            inside ^= fence;
            !inside && !fence
        };
        (1..).zip(self.lines.iter().map(String::as_str)).filter(outside).collect()
    }

    /// The targets of all links, each with the number of its line.
    pub(crate) fn links(&self) -> Vec<(usize, String)> {
        static LINK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\]\(([^)\s]+)\)").unwrap());
        let prose = self.prose();
        let links = prose.iter().flat_map(|(number, line)| {
            LINK.captures_iter(line).map(move |found| (*number, found[1].to_owned()))
        });
        links.collect()
    }

    /// What a link may have behind `#`, as GitHub makes it from the headings.
    pub(crate) fn anchors(&self) -> BTreeSet<String> {
        let mut anchors = BTreeSet::new();
        for piece in self.pieces() {
            let Piece::Heading(text) = piece else { continue };
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            let anchor: String = text.to_lowercase().chars().filter(kept).collect();
            anchors.insert(anchor.replace(' ', "-"));
        }
        anchors
    }
}
