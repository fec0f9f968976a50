//! Durations as Go writes and reads them: the grammar, the limits and the error texts of `time.ParseDuration`.
//!
//! Scripts and cron jobs hold values such as `96h` or `1h30m`, and administrators search for Go's messages, so
//! both are those of Go's `time` package to the letter.

use jiff::SignedDuration;
use thiserror::Error;

/// The largest magnitude in nanoseconds: Go keeps durations in an `int64`.
const LIMIT: u64 = 1 << 63;

/// A text that is no Go duration; displays as Go's own message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DurationError {
    /// The text does not follow the grammar, or the value does not fit into 64 bits of nanoseconds.
    #[error("time: invalid duration {}", quote(.0))]
    Invalid(String),
    /// A number without a unit, such as `3`.
    #[error("time: missing unit in duration {}", quote(.0))]
    MissingUnit(String),
    /// A unit that Go does not know, such as `d`.
    #[error("time: unknown unit {} in duration {}", quote(unit), quote(text))]
    UnknownUnit {
        /// The unit as typed.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// Reads a duration as Go's `time.ParseDuration` does: `1h30m`, `1.5h`, `-1m`, `0`, `300µs`.
pub fn parse(text: &str) -> Result<SignedDuration, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after_whole) = leading_integer(rest).ok_or_else(invalid)?;
        let (fraction, after_number) = match after_whole.strip_prefix('.') {
            Some(digits) => leading_fraction(digits),
            None => (Fraction::default(), after_whole),
        };
        let has_digits = after_whole.len() < rest.len() || fraction.digits > 0;
        if !has_digits {
            return Err(invalid());
        }
        let unit_end =
            after_number.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after_number.len());
        if unit_end == 0 {
            return Err(DurationError::MissingUnit(text.to_owned()));
        }
        let (unit, after_unit) = after_number.split_at(unit_end);
        let nanoseconds = unit_nanoseconds(unit)
            .ok_or_else(|| DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() })?;
        total = whole
            .checked_mul(nanoseconds)
            .and_then(|value| value.checked_add(fraction.of(nanoseconds)))
            .and_then(|value| total.checked_add(value))
            .filter(|value| *value <= LIMIT)
            .ok_or_else(invalid)?;
        rest = after_unit;
    }
    let signed = i128::from(total) * if negative { -1 } else { 1 };
    let nanoseconds = i64::try_from(signed).map_err(|_| invalid())?;
    Ok(SignedDuration::from_nanos(nanoseconds))
}

/// Writes a duration as Go's `Duration.String` does: `1h0m0s`, `1.5s`, `300µs`, `0s`.
#[must_use]
pub fn format(duration: SignedDuration) -> String {
    let sign = if duration.is_negative() { "-" } else { "" };
    let nanoseconds = duration.as_nanos().unsigned_abs();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    if nanoseconds < 1_000_000_000 {
        let (unit, name) = match nanoseconds {
            0..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            _ => (1_000_000, "ms"),
        };
        return format!("{sign}{}{name}", decimal(nanoseconds, unit));
    }
    let minutes = nanoseconds / 60_000_000_000;
    let seconds = decimal(nanoseconds % 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// Writes `value / unit` without trailing zeros; `unit` is a power of ten.
fn decimal(value: u128, unit: u128) -> String {
    let (whole, part) = (value / unit, value % unit);
    if part == 0 {
        return whole.to_string();
    }
    let digits = unit.to_string().len() - 1;
    let part = format!("{part:0digits$}");
    format!("{whole}.{}", part.trim_end_matches('0'))
}

/// The digits after a decimal point: the value `numerator / scale`.
#[derive(Debug, Default)]
struct Fraction {
    numerator: u64,
    scale: f64,
    /// Digits read, those beyond 64 bits of precision included.
    digits: usize,
}

impl Fraction {
    /// The fraction of a unit in whole nanoseconds, by the same floating-point steps as Go's.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "Go computes in float64 and cuts; the result is below one hour of nanoseconds"
    )]
    fn of(&self, unit: u64) -> u64 {
        if self.numerator == 0 { 0 } else { (self.numerator as f64 * (unit as f64 / self.scale)) as u64 }
    }
}

/// Reads the digits in front; `None` if they exceed Go's range.
fn leading_integer(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let value = if digits.is_empty() { 0 } else { digits.parse::<u64>().ok()? };
    (value <= LIMIT).then_some((value, rest))
}

/// Reads the digits in front as a fraction; digits beyond the precision are dropped, as Go drops them.
fn leading_fraction(text: &str) -> (Fraction, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let mut fraction = Fraction { numerator: 0, scale: 1.0, digits: digits.len() };
    for digit in digits.bytes().map(|byte| u64::from(byte - b'0')) {
        if fraction.numerator > (LIMIT - 1) / 10 {
            break;
        }
        let next = fraction.numerator * 10 + digit;
        if next > LIMIT {
            break;
        }
        fraction.numerator = next;
        fraction.scale *= 10.0;
    }
    (fraction, rest)
}

fn unit_nanoseconds(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        // U+00B5 (micro sign) and U+03BC (Greek mu), as in Go.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// Quotes as Go's `time` package does: control and non-ASCII bytes become `\xNN`.
fn quote(text: &str) -> String {
    use std::fmt::Write as _;
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='\u{7f}' => quoted.push(c),
            _ => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    // Writing to a `String` cannot fail.
                    let _ = write!(quoted, "\\x{byte:02x}");
                }
            }
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;
    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;

    #[test]
    fn reads_what_go_reads() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("+0", 0),
            ("-0", 0),
            ("5s", 5 * SECOND),
            ("+5s", 5 * SECOND),
            ("-5s", -5 * SECOND),
            ("60m", HOUR),
            ("96h", 96 * HOUR),
            ("1h30m", 90 * MINUTE),
            ("1.5h", 90 * MINUTE),
            ("-1m", -MINUTE),
            ("5.s", 5 * SECOND),
            (".5s", SECOND / 2),
            ("1.004s", SECOND + 4_000_000),
            ("100.00100s", 100 * SECOND + 1_000_000),
            ("10ns", 10),
            ("12us", 12_000),
            ("12\u{b5}s", 12_000),
            ("12\u{3bc}s", 12_000),
            ("13ms", 13_000_000),
            ("10.5s4m", 4 * MINUTE + 10 * SECOND + SECOND / 2),
            ("39h9m14.425s", 39 * HOUR + 9 * MINUTE + 14 * SECOND + 425_000_000),
            ("9007199254.740993ms", 9_007_199_254_740_993),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("0.3333333333333333333h", 20 * MINUTE),
            ("0.100000000000000000000h", 6 * MINUTE),
        ] {
            assert_eq!(parse(text).map(|d| d.as_nanos()), Ok(i128::from(nanoseconds)), "{text}");
        }
    }

    #[test]
    fn refuses_in_the_words_of_go() {
        for (text, message) in [
            ("", r#"time: invalid duration """#),
            ("ten", r#"time: invalid duration "ten""#),
            ("-", r#"time: invalid duration "-""#),
            (".", r#"time: invalid duration ".""#),
            (".s", r#"time: invalid duration ".s""#),
            ("-.s", r#"time: invalid duration "-.s""#),
            ("+ 5s", r#"time: invalid duration "+ 5s""#),
            ("3", r#"time: missing unit in duration "3""#),
            ("1h3", r#"time: missing unit in duration "1h3""#),
            ("1d", r#"time: unknown unit "d" in duration "1d""#),
            ("1h 30m", r#"time: unknown unit "h " in duration "1h 30m""#),
            ("60 m", r#"time: unknown unit " m" in duration "60 m""#),
            ("9223372036854775808ns", r#"time: invalid duration "9223372036854775808ns""#),
            ("9223372036854775.808us", r#"time: invalid duration "9223372036854775.808us""#),
            ("3000000h", r#"time: invalid duration "3000000h""#),
            ("99999999999999999999s", r#"time: invalid duration "99999999999999999999s""#),
            ("é", r#"time: invalid duration "\xc3\xa9""#),
            ("1\n", r#"time: unknown unit "\x0a" in duration "1\x0a""#),
        ] {
            assert_eq!(parse(text).map_err(|error| error.to_string()), Err(message.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn writes_as_go_writes() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (4 * MINUTE + 5 * SECOND, "4m5s"),
            (4 * MINUTE + 5 * SECOND + 1_000_000, "4m5.001s"),
            (HOUR, "1h0m0s"),
            (-96 * HOUR, "-96h0m0s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(format(SignedDuration::from_nanos(nanoseconds)), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn reads_back_what_it_wrote(nanoseconds in -(1_i64 << 53)..1 << 53) {
            // Go's fractions go through a float64: only below 2^53 is the way back exact.
            let duration = SignedDuration::from_nanos(nanoseconds);
            proptest::prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn never_panics(text: String) {
            let _ = parse(&text);
        }
    }
}
