//! Failures of libtorrent to listen. Each is reported once, and listening pauses when the process has no more file
//! descriptors. Pure.
//!
//! Without a file descriptor for a waiting connection, libtorrent retries to accept it at once, as fast as it can.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// The most different failures that are reported.
const TOLD: usize = 16;
/// The first and the longest pause of listening.
const DEAF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// The failures of listening so far.
#[derive(Debug, Default)]
pub(super) struct Listening {
    told: BTreeSet<String>,
    deaf_until: Option<Instant>,
    times: u32,
}

/// How to react to a failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// The failure is new and should be reported.
    pub(super) tell: bool,
    /// Listening should stop for now.
    pub(super) close: bool,
}

impl Listening {
    pub(super) fn failed(&mut self, text: &str, now: Instant) -> Heard {
        let tell = self.told.len() < TOLD && self.told.insert(text.to_owned());
        let no_files = text.contains("sock_accept") && text.contains("Too many open files");
        let close = no_files && self.deaf_until.is_none();
        if close {
            let wait = DEAF.0.saturating_mul(1 << self.times.min(16)).min(DEAF.1);
            self.times += 1;
            self.deaf_until = Some(now + wait);
        }
        Heard { tell, close }
    }

    /// Whether the pause is over; true once.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        self.deaf_until.take_if(|until| *until <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once_and_too_many_open_files_end_listening_for_longer_and_longer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let text = "listening on 0.0.0.0:1 failed: [sock_accept] [TCP] Too many open files";
        let mut listening = Listening::default();
        assert_eq!(listening.failed("address in use", at(0)), Heard { tell: true, close: false });
        assert_eq!(listening.failed(text, at(0)), Heard { tell: true, close: true });
        for _ in 0..100_000 {
            assert_eq!(listening.failed(text, at(1)), Heard { tell: false, close: false });
        }
        assert!(!listening.is_over(at(9)));
        assert!(listening.is_over(at(10)) && !listening.is_over(at(10)));
        assert_eq!(listening.failed(text, at(11)), Heard { tell: false, close: true });
        assert!(!listening.is_over(at(30)) && listening.is_over(at(31)));
        for n in 0..100 {
            listening.failed(&format!("other {n}"), at(40));
        }
        assert_eq!(listening.told.len(), TOLD);
    }
}
