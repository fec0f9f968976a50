//! What the API server warns of, such as deprecated versions: `Warning` headers (RFC 7234, 5.5), as kubectl shows them.

use std::{
    collections::HashSet,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderMap, header::WARNING};

use crate::text::sanitize;

/// Takes a warning for stderr, without `warning: `.
pub type Announce = Arc<dyn Fn(&str) + Send + Sync>;

/// Tells each warning once. Clones share what was told.
#[derive(Clone, Default)]
pub(super) struct Warnings {
    announce: Option<Announce>,
    told: Arc<Mutex<HashSet<String>>>,
}

impl Warnings {
    pub(super) fn to(announce: Announce) -> Self {
        Self { announce: Some(announce), ..Self::default() }
    }

    /// Tells what is new among the warnings of an answer.
    pub(super) fn tell(&self, headers: &HeaderMap) {
        let Some(announce) = &self.announce else { return };
        for value in headers.get_all(WARNING) {
            for text in texts(&String::from_utf8_lossy(value.as_bytes())) {
                if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(text.clone()) {
                    announce(&text);
                }
            }
        }
    }
}

/// The texts of code 299 in a header's value: `299 AGENT "TEXT" ["DATE"], …`. Ends at what is none.
fn texts(value: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut rest = value;
    while let Some((code, text, after)) = first(rest) {
        // Kubernetes sends no other code; the others speak of caches.
        let text = sanitize(&text);
        if code == "299" && !text.is_empty() {
            texts.push(text);
        }
        rest = after;
    }
    texts
}

/// Splits the first warning off: its code, its text, and what follows it.
fn first(value: &str) -> Option<(&str, String, &str)> {
    let (code, rest) = value.trim_start_matches([' ', '\t', ',']).split_once(' ')?;
    let (_agent, rest) = rest.trim_start().split_once(' ')?;
    let (text, rest) = quoted(rest.trim_start())?;
    let date = rest.strip_prefix(' ').and_then(quoted);
    Some((code, text, date.map_or(rest, |(_, rest)| rest)))
}

/// Reads a quoted string, with a backslash in front of each character that stands for itself.
fn quoted(value: &str) -> Option<(String, &str)> {
    let inner = value.strip_prefix('"')?;
    let mut text = String::new();
    let mut escaped = false;
    for (position, c) in inner.char_indices() {
        match c {
            _ if mem::take(&mut escaped) => text.push(c),
            '\\' => escaped = true,
            '"' => return Some((text, &inner[position + 1..])),
            c => text.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn warnings_are_read_as_kubectl_reads_them() {
        for (value, expected) in [
            (r#"299 - "v1 is deprecated""#, &["v1 is deprecated"][..]),
            (
                r#"299 - "a \"quoted\" \\ text, with a comma" "Mon, 23 Nov 2026 21:34:06 GMT""#,
                &[r#"a "quoted" \ text, with a comma"#],
            ),
            (r#"299 agent:80 "one", 299 - "two""#, &["one", "two"]),
            (r#"299 - "one" "Mon, 23 Nov 2026 21:34:06 GMT" , 299 - "two""#, &["one", "two"]),
            (r#"110 cache "stale", 299 - "one""#, &["one"]),
            ("299 - \"\u{1b}[2Jé\u{202e}\"", &["\\u{1b}[2Jé\\u{202e}"]),
            (r#"299 - """#, &[]),
            (r#"299 - "open"#, &[]),
            (r#"299 - "open\""#, &[]),
            ("299 - bare", &[]),
            ("299", &[]),
            ("", &[]),
        ] {
            assert_eq!(texts(value), expected, "{value}");
        }
    }

    #[test]
    fn each_warning_is_told_once() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let telling = Arc::clone(&seen);
        let warnings = Warnings::to(Arc::new(move |text| telling.lock().unwrap().push(text.to_owned())));
        let mut headers = HeaderMap::new();
        for value in [r#"299 - "one""#, r#"299 - "two""#, r#"299 - "one""#] {
            headers.append(WARNING, HeaderValue::from_static(value));
        }
        warnings.tell(&headers);
        warnings.clone().tell(&headers);
        assert_eq!(*seen.lock().unwrap(), ["one", "two"]);
    }
}
