//! Durations and sizes as people write them: `300ms`, `5s`, `1536KiB`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration with its unit: `250us`, `300ms`, `5s`, `2m`, `1h`. Whole numbers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes, with or without a unit: `4096`, `4KiB`, `2MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub usize);

/// A text that is no duration or no size; says what would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a whole number followed by a unit of time.
    #[error("a duration is a whole number and a unit (us, ms, s, m, h), for example 300ms")]
    Span,
    /// Not a whole number, or not followed by a unit of size.
    #[error("a size is a whole number of bytes, or one with a unit (KiB, MiB, GiB), for example 4KiB")]
    Size,
}

/// Units of time in microseconds, largest first.
const SPANS: [(&str, u64); 5] =
    [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];
/// Units of size in bytes, largest first.
const SIZES: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Splits `300ms` into `300` and `ms`; blanks around the unit do not count.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    (number, unit.trim_start())
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text);
        let number: u64 = number.parse().map_err(|_| UnitError::Span)?;
        let micros = match unit {
            "" if number == 0 => 0,
            unit => SPANS.iter().find(|(name, _)| *name == unit).ok_or(UnitError::Span)?.1,
        };
        number.checked_mul(micros).map(|micros| Self(Duration::from_micros(micros))).ok_or(UnitError::Span)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        let fits = |unit: u64| micros > 0 && micros.is_multiple_of(u128::from(unit));
        match SPANS.iter().find(|(_, unit)| fits(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", micros / u128::from(*unit)),
            None => write!(f, "0s"),
        }
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, unit) = split(text);
        let number: usize = number.parse().map_err(|_| UnitError::Size)?;
        let bytes = match unit {
            "" | "B" => 1,
            unit => SIZES.iter().find(|(name, _)| *name == unit).ok_or(UnitError::Size)?.1,
        };
        number.checked_mul(bytes).map(Self).ok_or(UnitError::Size)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZES.iter().find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown_in_the_largest_whole_unit() {
        let check = |text: &str, micros: u64, shown: &str| {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_micros(micros), "{text}");
            assert_eq!(span.to_string(), shown);
        };
        check("300ms", 300_000, "300ms");
        check("5s", 5_000_000, "5s");
        check("1500ms", 1_500_000, "1500ms");
        check("120 s", 120_000_000, "2m");
        check("1h", 3_600_000_000, "1h");
        check("250us", 250, "250us");
        check("0", 0, "0s");
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "5", "ms", "-1s", "1.5s", "5 parsecs", "18446744073709551615h"] {
            assert_eq!(text.parse::<Span>(), Err(UnitError::Span), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_and_shown_in_the_largest_whole_unit() {
        let check = |text: &str, bytes: usize, shown: &str| {
            let size: Size = text.parse().unwrap();
            assert_eq!(size.0, bytes, "{text}");
            assert_eq!(size.to_string(), shown);
        };
        check("4096", 4096, "4KiB");
        check("1536KiB", 1536 << 10, "1536KiB");
        check("2 MiB", 2 << 20, "2MiB");
        check("100B", 100, "100");
        check("0", 0, "0");
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "KiB", "-1", "1.5MiB", "2MB", "99999999999999999999"] {
            assert_eq!(text.parse::<Size>(), Err(UnitError::Size), "{text}");
        }
    }
}
