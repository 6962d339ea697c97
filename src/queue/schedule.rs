//! The bandwidth schedule: which rate limits hold at a minute of the week.

use super::{
    clock::{MINUTES_PER_WEEK, Now},
    download::RateLimits,
};
use crate::config::ScheduleEntry;

/// What the schedule says about a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bandwidth {
    /// No entry covers the moment: the limits that the user set hold.
    Default,
    Limited(RateLimits),
    /// Nothing is downloaded.
    Stopped,
}

/// What holds now. Of several entries that cover the moment, the last one decides.
#[must_use]
pub(super) fn bandwidth_at(schedule: &[ScheduleEntry], now: Now) -> Bandwidth {
    let entry = schedule.iter().rev().find(|entry| covers(entry, now.minute_of_week));
    match entry {
        None => Bandwidth::Default,
        Some(ScheduleEntry { download: Some(0), .. }) => Bandwidth::Stopped,
        Some(entry) => {
            Bandwidth::Limited(RateLimits { download: entry.download, upload: entry.upload })
        }
    }
}

/// Minutes until an entry begins or ends; `None` without entries.
#[must_use]
pub(super) fn minutes_to_change(schedule: &[ScheduleEntry], now: Now) -> Option<u16> {
    let ahead = |minute: u16| {
        let wait = (minute + MINUTES_PER_WEEK - now.minute_of_week) % MINUTES_PER_WEEK;
        if wait == 0 { MINUTES_PER_WEEK } else { wait }
    };
    let edges = schedule.iter().flat_map(|entry| (0..7).flat_map(move |day| edges(entry, day)));
    edges.map(ahead).min()
}

fn edges(entry: &ScheduleEntry, day: u16) -> [u16; 2] {
    let (start, len) = span(entry, day);
    [start, (start + len) % MINUTES_PER_WEEK]
}

/// Start and length of an entry on one day, in minutes of the week.
fn span(entry: &ScheduleEntry, day: u16) -> (u16, u16) {
    let len = match entry.to > entry.from {
        true => entry.to - entry.from,
        false => entry.to + 1440 - entry.from,
    };
    (day * 1440 + entry.from % 1440, len)
}

fn covers(entry: &ScheduleEntry, minute: u16) -> bool {
    (0..7u16).zip(entry.days).filter(|(_, on)| *on).any(|(day, _)| {
        let (start, len) = span(entry, day);
        (minute + MINUTES_PER_WEEK - start % MINUTES_PER_WEEK) % MINUTES_PER_WEEK < len
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(days: [bool; 7], from: u16, to: u16, download: Option<u64>) -> ScheduleEntry {
        ScheduleEntry { days, from, to, download, upload: None }
    }

    fn at(minute_of_week: u16) -> Now {
        Now { unix: 0, minute_of_week }
    }

    #[test]
    fn an_entry_over_midnight_ends_on_the_next_day() {
        let mut days = [false; 7];
        days[6] = true;
        let night = [entry(days, 23 * 60, 6 * 60, Some(0))];
        assert_eq!(bandwidth_at(&night, at(6 * 1440 + 23 * 60)), Bandwidth::Stopped);
        assert_eq!(bandwidth_at(&night, at(5 * 60 + 59)), Bandwidth::Stopped);
        assert_eq!(bandwidth_at(&night, at(6 * 60)), Bandwidth::Default);
        assert_eq!(bandwidth_at(&night, at(6 * 1440 + 22 * 60)), Bandwidth::Default);
    }

    #[test]
    fn the_last_entry_decides() {
        let all = entry([true; 7], 0, 1440, Some(5));
        let noon = entry([true; 7], 720, 780, None);
        let limits = |download| Bandwidth::Limited(RateLimits { download, upload: None });
        assert_eq!(bandwidth_at(&[all, noon], at(725)), limits(None));
        assert_eq!(bandwidth_at(&[all, noon], at(780)), limits(Some(5)));
        assert_eq!(bandwidth_at(&[noon, all], at(725)), limits(Some(5)));
    }

    fn entries() -> impl Strategy<Value = Vec<ScheduleEntry>> {
        let one = (any::<[bool; 7]>(), 0u16..1440, 0u16..=1440, proptest::option::of(0u64..3));
        let one = one.prop_map(|(days, from, to, download)| entry(days, from, to, download));
        proptest::collection::vec(one, 0..4)
    }

    proptest! {
        #[test]
        fn nothing_changes_before_the_next_edge(
            schedule in entries(), minute in 0..MINUTES_PER_WEEK,
        ) {
            let here = bandwidth_at(&schedule, at(minute));
            let until = minutes_to_change(&schedule, at(minute)).unwrap_or(MINUTES_PER_WEEK);
            for ahead in 0..until {
                let later = at((minute + ahead) % MINUTES_PER_WEEK);
                prop_assert_eq!(bandwidth_at(&schedule, later), here);
            }
        }
    }
}
