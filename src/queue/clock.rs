//! The time, as the scheduler sees it. Tests bring their own.

use std::{fmt, time::SystemTime};

use chrono::{Datelike as _, Local, Timelike as _};

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Seconds since 1970.
    pub unix: u64,
    /// Minutes since Monday 00:00 of the local time zone, below [`MINUTES_PER_WEEK`].
    pub minute_of_week: u16,
}

pub const MINUTES_PER_WEEK: u16 = 7 * 24 * 60;

/// A source of the time.
pub trait Clock: Send + Sync + fmt::Debug {
    fn now(&self) -> Now;
}

/// The clock of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let local = Local::now();
        let minute =
            local.weekday().num_days_from_monday() * 1440 + local.hour() * 60 + local.minute();
        let minute_of_week = u16::try_from(minute).unwrap_or(0) % MINUTES_PER_WEEK;
        Now { unix: since.as_secs(), minute_of_week }
    }
}
