//! Parses dates of servers: the forms of RFC 9110, and common deviations from them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// The time in `text`; `None` if it is not a date. Weekdays are ignored, case is ignored, a day may have one digit, and
/// a zone may be a number.
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    if let Ok(time) = httpdate::parse_http_date(text.trim()) {
        return Some(time);
    }
    let lower = text.trim().to_ascii_lowercase();
    let words: Vec<&str> = lower.split([' ', ',', '\t']).filter(|word| !word.is_empty()).collect();
    // Accepted forms: `2 Nov 2020 11:00:00 GMT`, `2-Nov-2020 …`, `Nov 2 11:00:00 2020`.
    let words = match words.as_slice() {
        [first, rest @ ..] if first.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            if month(first).is_some() { words.as_slice() } else { rest }
        }
        all => all,
    };
    let (day, month, year, time, zone) = match words {
        [date, time, zone @ ..] if date.contains('-') => {
            let mut parts = date.splitn(3, '-');
            let (day, month) = (parts.next()?, parts.next()?);
            (day, self::month(month)?, parts.next()?, *time, zone)
        }
        [name, day, time, year, zone @ ..] if month(name).is_some() => {
            (*day, month(name)?, *year, *time, zone)
        }
        [day, name, year, time, zone @ ..] => (*day, month(name)?, *year, *time, zone),
        _ => return None,
    };
    let days = days(number(year)?, month, number(day)?)?;
    let seconds = i64::try_from(days).ok()? * 86_400 + clock(time)? - offset(zone)?;
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

fn month(name: &str) -> Option<u64> {
    let at = MONTHS.iter().position(|month| name.get(..3) == Some(*month))?;
    u64::try_from(at).ok().map(|at| at + 1)
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// Days since 1970-01-01. Two-digit years mean 1970 to 2069.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = match year {
        0..=69 => year + 2000,
        70..=99 => year + 1900,
        1970.. => year,
        _ => return None,
    };
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let long = |month: u64| match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u64::from(leap(year)),
        _ => 31,
    };
    if !(1..=long(month)).contains(&day) {
        return None;
    }
    let years: u64 = (1970..year).map(|year| 365 + u64::from(leap(year))).sum();
    Some(years + (1..month).map(long).sum::<u64>() + day - 1)
}

fn clock(text: &str) -> Option<i64> {
    let parts: Vec<u64> = text.split(':').map(number).collect::<Option<_>>()?;
    let (hour, minute, second) = match parts.as_slice() {
        [hour, minute] => (*hour, *minute, 0),
        [hour, minute, second] => (*hour, *minute, *second),
        _ => return None,
    };
    let is_time = hour < 24 && minute < 60 && second <= 60;
    is_time.then(|| i64::try_from(hour * 3600 + minute * 60 + second).ok())?
}

/// Offset of the time zone in seconds, positive east of Greenwich.
fn offset(zone: &[&str]) -> Option<i64> {
    match zone {
        [] | ["gmt" | "utc" | "ut" | "z"] => Some(0),
        [zone] if zone.len() == 5 && zone.is_ascii() => {
            let sign = match &zone[..1] {
                "+" => 1,
                "-" => -1,
                _ => return None,
            };
            let (hours, minutes) = (number(&zone[1..3])?, number(&zone[3..])?);
            i64::try_from(hours * 3600 + minutes * 60).ok().map(|seconds| sign * seconds)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_are_parsed_in_all_forms() {
        let wanted = parse("Mon, 02 Nov 2020 11:00:00 GMT").unwrap();
        assert_eq!(wanted, UNIX_EPOCH + Duration::from_secs(1_604_314_800));
        for text in [
            "Mon, 2 Nov 2020 11:00:00 GMT",
            "Fri, 02 Nov 2020 11:00:00 GMT",
            "mon, 02 nov 2020 11:00:00 gmt",
            "Mon, 02 Nov 2020 11:00:00 UTC",
            "Mon, 02 Nov 2020 12:30:00 +0130",
            "02 Nov 2020 11:00:00",
            "Monday, 02-Nov-20 11:00:00 GMT",
            "2-Nov-2020 11:00 GMT",
            "Mon Nov  2 11:00:00 2020",
            "November 2 11:00:00 2020 GMT",
        ] {
            assert_eq!(parse(text), Some(wanted), "{text}");
        }
        let leap = parse("29 Feb 2024 00:00:00 GMT").unwrap();
        assert_eq!(leap, UNIX_EPOCH + Duration::from_secs(1_709_164_800));
    }

    #[test]
    fn invalid_dates_are_none() {
        for text in [
            "",
            "0",
            "now",
            "2020-11-02T11:00:00Z",
            "Mon, 32 Nov 2020 11:00:00 GMT",
            "Mon, 29 Feb 2023 11:00:00 GMT",
            "Mon, 02 Nov 2020 25:00:00 GMT",
            "Mon, 02 Nov 2020 11:00:00 CEST",
            "Mon, 02 Nov 1920 11:00:00 GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in ".{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn formatted_dates_round_trip(seconds in 0u64..4_000_000_000) {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            let text = httpdate::fmt_http_date(time);
            prop_assert_eq!(parse(&text), Some(time));
            // The parser of this module reads the same.
            prop_assert_eq!(parse(&text.to_lowercase()), Some(time));
        }
    }
}
