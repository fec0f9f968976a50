//! Kubernetes quantities (`k8s.io/apimachinery/pkg/api/resource`), exact.

use std::cmp::Ordering;

/// A quantity as the exact decimal `mantissa × 10^exponent × 1024^binary`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity {
    mantissa: i128,
    exponent: i32,
    binary: u32,
}

impl Quantity {
    /// Parses Kubernetes' notation: sign, decimal number, suffix (`Ki`…`Ei`, `n`…`E`, or a decimal exponent).
    ///
    /// Returns `None` for anything the API server would refuse, and for numbers of more than 30 digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits_end =
            text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits_end);
        let (negative, unsigned) = match number.as_bytes().first()? {
            b'-' => (true, &number[1..]),
            b'+' => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let fraction = fraction.trim_end_matches('0');
        if unsigned.is_empty() || unsigned == "." || whole.len() + fraction.len() > 30 {
            return None;
        }
        let mut mantissa: i128 = 0;
        for digit in whole.bytes().chain(fraction.bytes()) {
            if !digit.is_ascii_digit() {
                return None;
            }
            mantissa = mantissa * 10 + i128::from(digit - b'0');
        }
        let (exponent, binary) = match suffix {
            "n" => (-9, 0),
            "u" => (-6, 0),
            "m" => (-3, 0),
            "" => (0, 0),
            "k" => (3, 0),
            "M" => (6, 0),
            "G" => (9, 0),
            "T" => (12, 0),
            "P" => (15, 0),
            "E" => (18, 0),
            "Ki" => (0, 1),
            "Mi" => (0, 2),
            "Gi" => (0, 3),
            "Ti" => (0, 4),
            "Pi" => (0, 5),
            "Ei" => (0, 6),
            _ => (suffix.strip_prefix(['e', 'E'])?.parse::<i8>().ok()?.into(), 0),
        };
        let fraction_digits = i32::try_from(fraction.len()).ok()?;
        let mantissa = if negative { -mantissa } else { mantissa };
        Some(Self { mantissa, exponent: exponent - fraction_digits, binary })
    }

    /// Compares with a number of bytes, exactly.
    #[must_use]
    pub fn cmp_bytes(&self, bytes: i64) -> Ordering {
        // mantissa has at most 30 digits and 1024^6 at most 19: what does not fit is decided by its sign, because
        // it is larger than any i64.
        let scaled = self.mantissa.checked_mul(1024_i128.pow(self.binary));
        let by_sign = if self.mantissa < 0 { Ordering::Less } else { Ordering::Greater };
        if self.mantissa == 0 {
            return 0.cmp(&bytes);
        }
        let Some(scaled) = scaled else { return by_sign };
        let Some(power) = 10_i128.checked_pow(self.exponent.unsigned_abs()) else {
            return if self.exponent > 0 { by_sign } else { 0.cmp(&bytes).then(by_sign) };
        };
        if self.exponent >= 0 {
            scaled.checked_mul(power).map_or(by_sign, |value| value.cmp(&i128::from(bytes)))
        } else {
            match i128::from(bytes).checked_mul(power) {
                Some(other) => scaled.cmp(&other),
                None => 0.cmp(&bytes),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_every_notation_exactly() {
        let table: &[(&str, i64)] = &[
            ("64Mi", 64 << 20),
            ("1Gi", 1 << 30),
            ("100M", 100_000_000),
            ("1.5Gi", 3 << 29),
            ("0.5Ki", 512),
            ("1e6", 1_000_000),
            ("1E3", 1000),
            ("12E-1k", 0),
            ("5k", 5000),
            ("1000m", 1),
            ("0", 0),
            ("-5", -5),
            ("+7", 7),
            ("1.", 1),
            (".5k", 500),
            ("2E", 2_000_000_000_000_000_000),
        ];
        for (text, bytes) in table {
            let Some(quantity) = Quantity::parse(text) else {
                assert_eq!(*text, "12E-1k");
                continue;
            };
            assert_eq!(quantity.cmp_bytes(*bytes), Ordering::Equal, "{text}");
            assert_eq!(quantity.cmp_bytes(bytes + 1), Ordering::Less, "{text}");
            assert_eq!(quantity.cmp_bytes(bytes - 1), Ordering::Greater, "{text}");
        }
    }

    #[test]
    fn fractions_and_extremes_do_not_round() {
        assert_eq!(Quantity::parse("1m").unwrap().cmp_bytes(0), Ordering::Greater);
        assert_eq!(Quantity::parse("1m").unwrap().cmp_bytes(1), Ordering::Less);
        assert_eq!(Quantity::parse("9Ei").unwrap().cmp_bytes(i64::MAX), Ordering::Greater);
        assert_eq!(Quantity::parse("1e100").unwrap().cmp_bytes(i64::MAX), Ordering::Greater);
        assert_eq!(Quantity::parse("1e-100").unwrap().cmp_bytes(0), Ordering::Greater);
        assert_eq!(Quantity::parse("1e-100").unwrap().cmp_bytes(1), Ordering::Less);
        assert_eq!(Quantity::parse("-1e-100").unwrap().cmp_bytes(0), Ordering::Less);
    }

    #[test]
    fn refuses_what_the_api_server_refuses() {
        for text in ["", "Mi", "1.2.3", "1x", "1KiB", "--1", "1e", "one", "."] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
    }
}
