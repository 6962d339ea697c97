//! Parsing and display of sizes, durations and ranges. Suffixes are binary: `16MiB`, `16M` and `16m` are equal.

use std::{fmt, ops::Range, str::FromStr, time::Duration};

use crate::error::{Error, Kind, Result};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// A count with its noun: `1 file`, `2 files`. For nouns with a plural in s.
#[must_use]
pub fn pluralize(count: impl TryInto<u64>, noun: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

/// A number of bytes, parsed from and displayed as `16MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let bad = || {
            Error::new(Kind::InvalidInput, format!("size {s:?} is not a number of bytes"))
                .hint("write it like 512KiB, 16M or 1.5GiB")
        };
        let text = s.trim();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let shift = match suffix.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(bad()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(1 << shift).map(Self).ok_or_else(bad);
        }
        let value =
            number.parse::<f64>().map_err(|_| bad())? * f64::from(1u32 << (shift / 2)).powi(2);
        if !(0.0..9e18).contains(&value) {
            return Err(bad());
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was checked on the line above"
        )]
        Ok(Self(value as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1u64 << 40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
        match units.into_iter().find(|(unit, _)| self.0 >= *unit) {
            None => write!(f, "{} B", self.0),
            Some((unit, name)) if self.0.is_multiple_of(unit) => {
                write!(f, "{} {name}", self.0 / unit)
            }
            #[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
            Some((unit, name)) => write!(f, "{:.1} {name}", self.0 as f64 / unit as f64),
        }
    }
}

/// Parses a duration: `90`, `90s`, `5m`, `2h`, `7d`, `250ms`. A bare number is seconds.
///
/// # Errors
/// `InvalidInput` for any other form.
pub fn parse_duration(s: &str) -> Result<Duration> {
    let split = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    let (number, suffix) = s.split_at(split);
    let millis = match suffix.trim() {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|n| n.checked_mul(millis)) {
        Some(ms) if millis > 0 => Ok(Duration::from_millis(ms)),
        _ => Err(Error::new(Kind::InvalidInput, format!("{s:?} is not a duration"))
            .hint("write it like 30, 30s, 5m, 2h or 7d")),
    }
}

/// Parses a byte range of `--range` to a half-open range within `[0, len)`. Forms: `A-B` (B included, as in HTTP), `A-`
/// and `-N`.
///
/// # Errors
/// `InvalidInput` when it does not parse or lies outside `len`.
pub fn parse_range(s: &str, len: u64) -> Result<Range<u64>> {
    let bad = |why: &str| {
        Error::new(Kind::InvalidInput, format!("range {s:?}: {why}"))
            .hint("write it like 0-1023, 4096- or -512 (both ends included)")
    };
    let number = |t: &str| t.parse::<u64>().map_err(|_| bad("not a number"));
    let (a, b) = s.split_once('-').ok_or_else(|| bad("no dash"))?;
    let range = match (a, b) {
        ("", "") => return Err(bad("empty")),
        ("", n) => len.saturating_sub(number(n)?)..len,
        (a, "") => number(a)?..len,
        (a, b) => {
            let (first, last) = (number(a)?, number(b)?);
            if last < first {
                return Err(bad("the end is before the start"));
            }
            first..last.saturating_add(1).min(len)
        }
    };
    let is_everything = range.start == 0 && range.end == len;
    if range.is_empty() && !is_everything {
        let past_the_end = Error::new(
            Kind::InvalidInput,
            format!("range {s:?}: the start is past the end of {len} bytes"),
        );
        return Err(if a.is_empty() { bad("no bytes") } else { past_the_end });
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_of_one_is_singular() {
        let counts = [0usize, 1, 2].map(|n| pluralize(n, "file"));
        assert_eq!(counts, ["0 files", "1 file", "2 files"]);
    }
    use proptest::prelude::*;

    #[test]
    fn all_size_suffixes_are_binary() {
        for text in ["16MiB", "16M", "16m", "16 MB", "16777216"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, 16 << 20, "{text}");
        }
        assert_eq!("1.5GiB".parse::<ByteSize>().unwrap().0, 3 << 29);
        for text in ["", "MiB", "16Q", "-1", "1e400", "99999999999T"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_and_ranges_are_parsed() {
        assert_eq!(parse_duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(parse_duration("2h").unwrap(), Duration::from_secs(7200));
        assert!(parse_duration("soon").is_err());
        assert_eq!(parse_range("0-0", 10).unwrap(), 0..1);
        assert_eq!(parse_range("-4", 10).unwrap(), 6..10);
        assert_eq!(parse_range("4-", 10).unwrap(), 4..10);
        assert_eq!(parse_range("-40", 10).unwrap(), 0..10);
        assert_eq!(parse_range("0-", 0).unwrap(), 0..0, "all of an empty file");
        for (text, message) in [
            ("5-2", "the end is before the start"),
            ("10-", "past the end of 10 bytes"),
            ("11-12", "past the end of 10 bytes"),
            ("-0", "no bytes"),
        ] {
            let error = parse_range(text, 10).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
        assert!(parse_range("-", 10).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_rejected_without_panic(s in ".{0,24}", len in any::<u64>()) {
            let _ = s.parse::<ByteSize>();
            let _ = parse_duration(&s);
            if let Ok(r) = parse_range(&s, len) {
                prop_assert!(r.start <= r.end && r.end <= len);
            }
        }

        #[test]
        fn whole_units_survive_a_round_trip(n in 0u64..1024, shift in prop::sample::select(vec![0, 10, 20, 30, 40])) {
            let size = ByteSize(n << shift);
            prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }
    }
}
