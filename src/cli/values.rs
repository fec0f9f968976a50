//! Values of flags as Go's `pflag` and `strconv` read them, with their error texts.

use crate::text::is_harmful;

/// Why a word is no integer; displays as `strconv` says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum IntegerError {
    #[error("strconv.ParseInt: parsing {}: invalid syntax", quote(.0))]
    Syntax(String),
    #[error("strconv.ParseInt: parsing {}: value out of range", quote(.0))]
    Range(String),
}

/// A word that is neither true nor false; displays as `strconv` says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("strconv.ParseBool: parsing {}: invalid syntax", quote(.0))]
pub(super) struct BooleanError(String);

/// Reads a boolean as Go's `strconv.ParseBool` does.
pub(super) fn boolean(word: &str) -> Result<bool, BooleanError> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(BooleanError(word.to_owned())),
    }
}

/// Reads an integer as Go's `strconv.ParseInt` with base 0 does: decimal, `0x1f`, `0o17`, `017`, `0b1`, `1_000`.
pub(super) fn integer(word: &str) -> Result<i64, IntegerError> {
    let syntax = || IntegerError::Syntax(word.to_owned());
    let (negative, digits) = match word.as_bytes().first() {
        Some(b'-') => (true, &word[1..]),
        Some(b'+') => (false, &word[1..]),
        _ => (false, word),
    };
    let prefix = digits.get(..2).map(str::to_ascii_lowercase);
    let (radix, digits, prefixed) = match prefix.as_deref() {
        Some("0x") => (16, &digits[2..], true),
        Some("0o") => (8, &digits[2..], true),
        Some("0b") => (2, &digits[2..], true),
        Some(_) if digits.starts_with('0') => (8, &digits[1..], true),
        _ => (10, digits, false),
    };
    let mut value: u128 = 0;
    // An underscore must stand between digits; a prefix counts as one.
    let mut after_digit = prefixed;
    let mut any = false;
    for c in digits.chars() {
        if c == '_' {
            if !after_digit {
                return Err(syntax());
            }
            after_digit = false;
            continue;
        }
        let digit = c.to_digit(radix).ok_or_else(syntax)?;
        value = value.saturating_mul(u128::from(radix)).saturating_add(u128::from(digit));
        (after_digit, any) = (true, true);
    }
    if !any || !after_digit {
        return Err(syntax());
    }
    let signed = i128::try_from(value).unwrap_or(i128::MAX) * if negative { -1 } else { 1 };
    i64::try_from(signed).map_err(|_| IntegerError::Range(word.to_owned()))
}

/// Quotes as Go's `%q`: printable characters stay, everything else is escaped.
pub(super) fn quote(text: &str) -> String {
    use std::fmt::Write as _;
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if is_harmful(c) => {
                // Writing to a `String` cannot fail.
                let _ = match u32::from(c) {
                    code @ 0..0x80 => write!(quoted, "\\x{code:02x}"),
                    code @ 0x80..0x1_0000 => write!(quoted, "\\u{code:04x}"),
                    code => write!(quoted, "\\U{code:08x}"),
                };
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_those_of_go() {
        for word in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(boolean(word), Ok(true), "{word}");
        }
        for word in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(boolean(word), Ok(false), "{word}");
        }
        for word in ["", "yes", "tRUE", "on", " true"] {
            assert!(boolean(word).is_err(), "{word}");
        }
        assert_eq!(
            boolean("maybe").unwrap_err().to_string(),
            r#"strconv.ParseBool: parsing "maybe": invalid syntax"#
        );
    }

    #[test]
    fn integers_are_those_of_go() {
        for (word, value) in [
            ("0", 0),
            ("3", 3),
            ("+3", 3),
            ("-1", -1),
            ("0x1F", 31),
            ("0b101", 5),
            ("0o17", 15),
            ("017", 15),
            ("0_7", 7),
            ("0x_f", 15),
            ("1_000", 1000),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(integer(word), Ok(value), "{word}");
        }
        for word in ["", "-", "x", "3.0", "1e3", "08", "0x", "1__0", "_1", "1_", " 3", "٣"] {
            assert_eq!(integer(word), Err(IntegerError::Syntax(word.to_owned())), "{word}");
        }
        assert_eq!(
            integer("9223372036854775808").unwrap_err().to_string(),
            r#"strconv.ParseInt: parsing "9223372036854775808": value out of range"#
        );
    }

    #[test]
    fn quotes_make_harmless() {
        assert_eq!(quote("ten"), r#""ten""#);
        assert_eq!(quote("a\"b\\c'd"), r#""a\"b\\c'd""#);
        assert_eq!(quote("\u{1b}[31m\n\u{202e}é"), r#""\x1b[31m\n\u202eé""#);
    }
}
