//! UTC dates from seconds since 1970, to display times and to find the end of a month.

use std::{fmt, time::SystemTime};

/// Seconds per day.
const SECONDS_PER_DAY: u64 = 86_400;

/// A time in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Utc {
    /// Seconds since 1970-01-01 00:00:00 UTC.
    pub seconds: u64,
    pub year: u64,
    /// 1 to 12.
    pub month: u64,
    /// 1 to 31.
    pub day: u64,
}

impl Utc {
    #[must_use]
    pub fn at(seconds: u64) -> Self {
        // Howard Hinnant's days-to-civil algorithm. Years start in March, so that the leap day is the last day of a
        // year. 719468 days lie between 1 March of year 0 and 1 January 1970; 146097 days are 400 years.
        let day = seconds / SECONDS_PER_DAY + 719_468;
        let (era, day_of_era) = (day / 146_097, day % 146_097);
        let year =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        Self { seconds, year: year + era * 400 + u64::from(month <= 2), month, day }
    }

    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self::at(since.as_secs())
    }

    /// Year and month, like `2026-11`.
    #[must_use]
    pub fn year_month(self) -> String {
        format!("{:04}-{:02}", self.year, self.month)
    }

    /// Seconds until the next month begins.
    #[must_use]
    pub fn seconds_to_next_month(self) -> u64 {
        let leap = self.year.is_multiple_of(4) && !self.year.is_multiple_of(100)
            || self.year.is_multiple_of(400);
        let days = match self.month {
            2 => 28 + u64::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        (days - self.day + 1) * SECONDS_PER_DAY - self.seconds % SECONDS_PER_DAY
    }
}

impl fmt::Display for Utc {
    /// Formats as `2025-11-21 06:49:00 UTC`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, .. } = self;
        let time = self.seconds % SECONDS_PER_DAY;
        let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_displayed_as_dates() {
        let text = |seconds| Utc::at(seconds).to_string();
        assert_eq!(text(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(text(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(text(1_763_707_740), "2025-11-21 06:49:00 UTC");
        assert_eq!(text(4_107_542_399), "2100-02-28 23:59:59 UTC");
    }

    #[test]
    fn a_month_ends_where_the_next_begins() {
        for seconds in [0, 951_782_400, 1_763_707_740, 4_107_542_399, 1_735_689_599] {
            let now = Utc::at(seconds);
            let next = Utc::at(seconds + now.seconds_to_next_month());
            assert_eq!((next.day, next.seconds % SECONDS_PER_DAY), (1, 0), "{now}");
            assert_eq!(next.month, now.month % 12 + 1, "{now}");
            assert_eq!(Utc::at(next.seconds - 1).year_month(), now.year_month());
        }
    }
}
