//! Numbers and names as people read them.

use std::borrow::Cow;

/// A number of bytes in binary units, as `oc adm top images` shows them: `12.3MiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut whole = bytes;
    let mut tenths = 0;
    while whole >= 1024 && unit + 1 < UNITS.len() {
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    if unit == 0 { format!("{whole}B") } else { format!("{whole}.{tenths}{}", UNITS[unit]) }
}

/// A name from the cluster with control characters escaped, so that it cannot steer a terminal or forge a line.
#[must_use]
pub fn printable(name: &str) -> Cow<'_, str> {
    let harmless = |c: char| {
        !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if name.chars().all(harmless) {
        return Cow::Borrowed(name);
    }
    let mut escaped = String::with_capacity(name.len());
    for c in name.chars() {
        if harmless(c) { escaped.push(c) } else { escaped.extend(c.escape_default()) }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        for (number, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KiB"),
            (1536, "1.5KiB"),
            (12_897_484, "12.2MiB"),
            (u64::MAX, "15.9EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("shop/web:v1"), "shop/web:v1");
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
    }
}
