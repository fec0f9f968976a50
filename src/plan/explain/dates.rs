//! Tags with a date in their name: a new one for each build, so that none of them ever gets a history.

use std::sync::LazyLock;

use jiff::civil::Date;
use regex::Regex;

// A year of four digits and two digits each for month and day, with the same separator, or none at all; a time may
// follow directly. The regex has no look-around, so what stands before and behind is looked at below.
static NUMERIC: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(20[0-9]{2})(?:([0-9]{2})([0-9]{2})|([-._])([0-9]{2})([-._])([0-9]{2}))").ok()
});

// `may-2016`, `24-nov-2026`, `2016-may`.
static WITH_MONTH: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let month = "(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t|tember)?\
                 |oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)";
    Regex::new(&format!(
        r"(?i)(?:^|[-._])(?:(?:([0-9]{{1,2}})[-._]?)?{month}[-._]?(20[0-9]{{2}})|(20[0-9]{{2}})[-._]?{month})(?:$|[-._])"
    ))
    .ok()
});

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// The date in the name of a tag: `20261124`, `v2-2026-11-24`, `2026.11.24-153000`, `20261124T1530Z`, `may-2016` (its
/// first day). Numbers of builds and versions, and hex digits of commits, are none.
#[must_use]
pub fn date_in(tag: &str) -> Option<Date> {
    numeric(tag).or_else(|| with_month(tag))
}

fn numeric(tag: &str) -> Option<Date> {
    // Matches may overlap a number that is none: each is tried from where it begins.
    let mut from = 0;
    while let Some(parts) = NUMERIC.as_ref().and_then(|regex| regex.captures_at(tag, from)) {
        let whole = parts.get(0)?;
        from = whole.start() + 1;
        let number = |index: usize| parts.get(index).and_then(|part| part.as_str().parse::<i8>().ok());
        if parts.get(4).map(|one| one.as_str()) != parts.get(6).map(|other| other.as_str()) {
            continue;
        }
        let (Some(month), Some(day)) = (number(2).or(number(5)), number(3).or(number(7))) else { continue };
        let Ok(year) = parts[1].parse() else { continue };
        let (before, behind) = (&tag[..whole.start()], &tag[whole.end()..]);
        let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        let compact = parts.get(4).is_none();
        let digits = behind.chars().take_while(char::is_ascii_digit).count();
        // `202611241530` and `20261124153000` go on with a time.
        let ends = digits == 0 || compact && matches!(digits, 4 | 6);
        if is_digit(before.chars().next_back()) || !ends || compact && is_in_hex(before, behind) {
            continue;
        }
        if let Ok(date) = Date::new(year, month, day) {
            return Some(date);
        }
    }
    None
}

/// Whether the digits stand in a word of hex digits with letters among them: a commit.
fn is_in_hex(before: &str, behind: &str) -> bool {
    let left = before.chars().rev().take_while(char::is_ascii_alphanumeric);
    let right = behind.chars().take_while(char::is_ascii_alphanumeric);
    let word: Vec<char> = left.chain(right).collect();
    word.iter().any(char::is_ascii_alphabetic) && word.iter().all(char::is_ascii_hexdigit)
}

fn with_month(tag: &str) -> Option<Date> {
    let parts = WITH_MONTH.as_ref()?.captures(tag)?;
    let text = |index: usize| parts.get(index).map(|part| part.as_str());
    let month = text(2).or(text(5))?.to_ascii_lowercase();
    let month = MONTHS.iter().zip(1..).find(|(name, _)| month.starts_with(**name))?.1;
    let day = text(1).map_or(Some(1), |day| day.parse().ok())?;
    Date::new(text(3).or(text(4))?.parse().ok()?, month, day).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_found_and_other_numbers_are_not() {
        for (tag, date) in [
            ("20261124", "2026-11-24"),
            ("2026-11-24", "2026-11-24"),
            ("2026.11.24-153000", "2026-11-24"),
            ("2026_11_24", "2026-11-24"),
            ("v2.1-20261124-abcdef0", "2026-11-24"),
            ("build20261124", "2026-11-24"),
            ("20261124153000", "2026-11-24"),
            ("202611241530", "2026-11-24"),
            ("20261124T153000Z", "2026-11-24"),
            ("main-2024-02-29.3", "2024-02-29"),
            ("v2.1-may-2016", "2016-05-01"),
            ("24-Nov-2026", "2026-11-24"),
            ("24nov2026", "2026-11-24"),
            ("2016-september", "2016-09-01"),
            ("12320261124-20250101", "2025-01-01"),
        ] {
            assert_eq!(date_in(tag).map(|date| date.to_string()).as_deref(), Some(date), "{tag}");
        }
        for tag in [
            "",
            "latest",
            "v1.2.3",
            "20261324",
            "20260230",
            "2023-02-29",
            "12345678",
            "120261124",
            "202611241",
            "1764000000",
            "ab20261124c0",
            "20261124abc",
            "2026-11.24",
            "2026.1.5",
            "24.04.1",
            "2026.11",
            "mayor-20",
            "build-2026",
            "dismay-2016",
            "market-2016",
            "sha-0a1b2c3d",
        ] {
            assert_eq!(date_in(tag), None, "{tag}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(tag in ".{0,30}", digits in "[0-9.-]{0,20}") {
            let _ = (date_in(&tag), date_in(&digits));
        }
    }
}
