//! Writes markup that is well-formed whatever text is put into it.
//!
//! Names of elements and attributes are literals of this program; everything else goes through [`Escaped`]. There is no
//! way to insert text as it is, so that a name from the cluster cannot become markup. The result is HTML that also
//! reads as XML.

use std::fmt::{self, Display, Write as _};

use crate::text::is_harmful;

/// Attributes of an element, by name.
pub(super) type Attributes<'a> = &'a [(&'static str, &'a dyn Display)];

/// A page in the making.
#[derive(Debug, Default)]
pub(super) struct Html {
    markup: String,
}

impl Html {
    /// A page with its document type.
    pub(super) fn page() -> Self {
        Self { markup: "<!DOCTYPE html>\n".to_owned() }
    }

    /// An element and what is in it.
    pub(super) fn element(
        &mut self,
        name: &'static str,
        attributes: Attributes<'_>,
        inside: impl FnOnce(&mut Self),
    ) {
        self.open(name, attributes);
        self.markup.push('>');
        inside(self);
        self.markup.push_str("</");
        self.markup.push_str(name);
        self.markup.push('>');
        if is_block(name) {
            self.markup.push('\n');
        }
    }

    /// An element with nothing but text in it.
    pub(super) fn leaf(&mut self, name: &'static str, attributes: Attributes<'_>, text: impl Display) {
        self.element(name, attributes, |html| html.text(text));
    }

    /// An element that holds nothing, in HTML (`meta`) or in SVG (`rect`).
    pub(super) fn empty(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.open(name, attributes);
        self.markup.push_str("/>");
    }

    /// Text.
    pub(super) fn text(&mut self, text: impl Display) {
        // Writing to a `String` cannot fail.
        let _ = write!(Escaped(&mut self.markup), "{text}");
    }

    /// A style sheet of this program. It has none of the characters that would end it.
    pub(super) fn style(&mut self, sheet: &'static str) {
        self.markup.push_str("<style>");
        self.markup.push_str(sheet);
        self.markup.push_str("</style>\n");
    }

    /// The page.
    pub(super) fn finish(self) -> String {
        self.markup
    }

    fn open(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.markup.push('<');
        self.markup.push_str(name);
        for (name, value) in attributes {
            self.markup.push(' ');
            self.markup.push_str(name);
            self.markup.push_str("=\"");
            // Writing to a `String` cannot fail.
            let _ = write!(Escaped(&mut self.markup), "{value}");
            self.markup.push('"');
        }
    }
}

fn is_block(name: &str) -> bool {
    matches!(
        name,
        "tr" | "p" | "section" | "table" | "svg" | "h1" | "h2" | "li" | "ul" | "head" | "body" | "title"
    )
}

/// Escapes what is written to it, for text as well as for a quoted value: markup, and characters that hide or reorder
/// others, as [`printable`](crate::text::printable) does.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c if is_harmful(c) => write!(self.0, "{}", c.escape_debug())?,
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

/// The beginning of a text that may be too long for its place.
pub(super) fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(longest.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A name that may be too long for its place, without its middle: names often differ in their ends.
pub(super) fn squeeze(name: &str, longest: usize) -> String {
    let letters = name.chars().count();
    if letters <= longest || longest < 5 {
        return cut(name, longest);
    }
    let tail = (longest - 1) / 2;
    let head = longest - 1 - tail;
    name.chars().take(head).chain(['…']).chain(name.chars().skip(letters - tail)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_put_in_becomes_markup() {
        let mut html = Html::default();
        let hostile = "</text><script>alert('1')</script>\" onload=\"x&\u{202e}\n\0";
        html.element("g", &[("id", &hostile)], |html| {
            html.leaf("text", &[], hostile);
            html.empty("rect", &[("class", &"a\"b"), ("x", &1.5)]);
        });
        let escaped = "&lt;/text&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&quot; onload=&quot;x&amp;\\u{202e}\\n\\0";
        assert_eq!(
            html.finish(),
            format!("<g id=\"{escaped}\"><text>{escaped}</text><rect class=\"a&quot;b\" x=\"1.5\"/></g>")
        );
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("äöüß", 3), "äö…");
        assert_eq!(cut("xy", 0), "…");
        assert_eq!(squeeze("project-12", 10), "project-12");
        assert_eq!(squeeze("project-123", 10), "proje…-123");
        assert_eq!(squeeze("äöüßäöüß", 6), "äöü…üß");
        assert_eq!(squeeze("project-12", 4), "pro…");
    }
}
