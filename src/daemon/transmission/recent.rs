//! What changed lately, for `"ids": "recently-active"`.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How far back changes are recent.
const WINDOW: Duration = Duration::from_secs(60);
/// Least time between two remembered revisions.
const STEP: Duration = Duration::from_secs(1);

/// Revisions of the queue, with the time at which each was seen.
#[derive(Debug)]
pub(super) struct Recent(Mutex<VecDeque<(Instant, u64)>>);

impl Recent {
    /// Begins at the start of the daemon.
    pub(super) fn new(now: Instant, revision: u64) -> Self {
        Self(Mutex::new([(now, revision)].into()))
    }

    /// The revision since which changes are recent. `revision` is the present one.
    pub(super) fn since(&self, now: Instant, revision: u64) -> u64 {
        let mut seen = self.0.lock();
        // The last one that is old enough stays.
        let is_old = |at: Instant| now.saturating_duration_since(at) >= WINDOW;
        while seen.get(1).is_some_and(|(at, _)| is_old(*at)) {
            seen.pop_front();
        }
        let since = seen.front().map_or(0, |(_, revision)| *revision);
        let is_due = seen.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= STEP);
        if is_due {
            seen.push_back((now, revision));
        }
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_the_last_minute_are_recent() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let recent = Recent::new(start, 5);
        assert_eq!(recent.since(at(0), 5), 5);
        assert_eq!(recent.since(at(1), 10), 5);
        assert_eq!(recent.since(at(30), 20), 5, "everything since the start");
        assert_eq!(recent.since(at(61), 30), 10);
        assert_eq!(recent.since(at(89), 35), 10);
        assert_eq!(recent.since(at(90), 40), 20);
        assert_eq!(recent.since(at(1000), 50), 40);
        for ms in 0..100_000 {
            recent.since(at(2000) + Duration::from_millis(ms), 60);
        }
        assert!(recent.0.lock().len() < 70);
    }
}
