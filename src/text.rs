//! Text from outside (names, answers of servers, files), made safe for a terminal and for one line of a report.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use jiff::SignedDuration;

use crate::cli::duration;

/// The longest text that is repeated in a message, in characters.
const LONGEST: usize = 1024;

/// The longest text that is repeated in a line of a list, in characters.
const LONGEST_BRIEF: usize = 200;

/// A name as it is, with what could steer a terminal, hide or forge a line escaped: `a\u{1b}[2Jb\nc`.
#[must_use]
pub fn printable(name: &str) -> Cow<'_, str> {
    // Nearly every name is plain ASCII, and a report has many.
    if name.bytes().all(|byte| matches!(byte, b' '..=b'~')) || !name.contains(is_harmful) {
        return Cow::Borrowed(name);
    }
    let mut escaped = String::with_capacity(name.len() + 8);
    for c in name.chars() {
        if is_harmful(c) {
            // Writing to a `String` cannot fail.
            let _ = write!(escaped, "{}", c.escape_debug());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// A text of unknown length for a message: [`printable`], without blanks around it, and cut.
#[must_use]
pub fn sanitize(text: &str) -> String {
    cut(text, LONGEST)
}

/// As [`sanitize`], but short: for lists of failures, which are long already.
pub(crate) fn brief(text: &str) -> String {
    cut(text, LONGEST_BRIEF)
}

fn cut(text: &str, longest: usize) -> String {
    let text = text.trim();
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}…", printable(&text[..end])),
        None => printable(text).into_owned(),
    }
}

/// Whether a terminal would act on the character, not show it, or show others elsewhere because of it.
///
/// `escape_debug` knows them: control and format characters, odd blanks, unassigned and combining characters. It
/// escapes quotes and backslashes as well, which do no harm.
pub(crate) fn is_harmful(c: char) -> bool {
    !matches!(c, '"' | '\'' | '\\') && c.escape_debug().len() > 1
}

/// A length of time as the flags take it: `10m`, `1h30m`, `2.5s`, `800ms`; rounded to milliseconds.
pub(crate) fn time_text(time: Duration) -> String {
    let milliseconds = time.as_millis();
    if milliseconds < 1000 {
        return format!("{milliseconds}ms");
    }
    let (minutes, rest) = (milliseconds / 60_000, milliseconds % 60_000);
    let mut text = match (minutes / 60, minutes % 60) {
        (0, 0) => String::new(),
        (0, minutes) => format!("{minutes}m"),
        (hours, 0) => format!("{hours}h"),
        (hours, minutes) => format!("{hours}h{minutes}m"),
    };
    if rest > 0 {
        let seconds = rest / 1000;
        let _ = match (rest % 1000).to_string() {
            zero if zero == "0" => write!(text, "{seconds}s"),
            _ if minutes > 0 => write!(text, "{seconds}s"),
            _ => write!(text, "{}.{}s", seconds, format!("{:03}", rest % 1000).trim_end_matches('0')),
        };
    }
    text
}

/// A length of time as `--keep-younger-than` takes it, without a unit that is 0: `30m`, `720h`, `1h30m`, `0`.
pub(crate) fn age_text(age: SignedDuration) -> String {
    if age.is_zero() {
        return "0".to_owned();
    }
    let text = duration::format(age);
    let text = text.strip_suffix("m0s").map_or_else(|| text.clone(), |rest| format!("{rest}m"));
    text.strip_suffix("h0m").map_or_else(|| text.clone(), |rest| format!("{rest}h"))
}

/// Flags to repeat a command with, each with a blank in front, for a shell; those without a value are left out.
#[must_use]
pub(crate) fn flags<'a>(flags: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let mut line = String::new();
    for (flag, value) in flags {
        if let Some(value) = value {
            // Writing to a `String` cannot fail.
            let _ = write!(line, " {flag}={}", quoted(&value));
        }
    }
    line
}

/// A word as a shell takes it.
#[must_use]
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/:@.,_-+=%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", sanitize(word).replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_what_does_no_harm() {
        for name in ["shop/web:v1", " a \"b\" 'c' \\ é "] {
            assert!(matches!(printable(name), Cow::Borrowed(same) if same == name), "{name}");
        }
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        for c in "\u{ad}\u{61c}\u{200b}\u{200f}\u{2028}\u{202e}\u{2060}\u{206f}\u{feff}\u{9b}\u{7}".chars() {
            assert_eq!(printable(&format!("a{c}b")), format!("a\\u{{{:x}}}b", u32::from(c)));
        }
    }

    #[test]
    fn texts_are_one_line_and_not_too_long() {
        assert_eq!(sanitize("  a\r\nb\tc \n"), "a\\r\\nb\\tc");
        assert_eq!(brief("\u{1b}[31mred\u{7}"), "\\u{1b}[31mred\\u{7}");
        assert_eq!(sanitize(""), "");
        let long = "é".repeat(10_000);
        assert_eq!(sanitize(&long).chars().count(), LONGEST + 1);
        assert_eq!(brief(&long).chars().count(), LONGEST_BRIEF + 1);
        assert!(brief(&long).ends_with('…'));
        assert_eq!(brief(&"x".repeat(LONGEST_BRIEF)).len(), LONGEST_BRIEF);
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("a/b:c"), "a/b:c");
        assert_eq!(quoted("it's $HOME"), "'it'\\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn ages_read_as_flags_take_them() {
        for (seconds, text) in [
            (0, "0"),
            (3600, "1h"),
            (5400, "1h30m"),
            (2_592_000, "720h"),
            (1800, "30m"),
            (3605, "1h0m5s"),
            (5, "5s"),
        ] {
            assert_eq!(age_text(SignedDuration::from_secs(seconds)), text);
            assert_eq!(duration::parse(text), Ok(SignedDuration::from_secs(seconds)));
        }
    }

    #[test]
    fn times_read_as_flags_take_them() {
        for (milliseconds, text) in [
            (800, "800ms"),
            (2500, "2.5s"),
            (2050, "2.05s"),
            (60_000, "1m"),
            (61_500, "1m1s"),
            (600_000, "10m"),
            (5_400_000, "1h30m"),
            (3_600_000, "1h"),
            (3_605_000, "1h5s"),
        ] {
            assert_eq!(time_text(Duration::from_millis(milliseconds)), text);
        }
    }
}
