//! Failures of libtorrent to listen. Each is reported once, and listening pauses when the process has no more file
//! descriptors. Pure.
//!
//! Without a file descriptor for a waiting connection, libtorrent retries to accept it at once, as fast as it can.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// The most different failures that are reported.
const MAX_REPORTED: usize = 16;
/// The first pause of failures. Each later pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause of failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// The failures of listening so far.
#[derive(Debug, Default)]
pub(super) struct ListenFailures {
    reported: BTreeSet<String>,
    paused_until: Option<Instant>,
    pauses: u32,
}

/// How to react to a failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FailureResponse {
    /// The failure is new and should be reported.
    pub(in crate::torrents) report: bool,
    /// Listening should stop for now.
    pub(in crate::torrents) pause: bool,
}

impl ListenFailures {
    pub(super) fn on_failure(&mut self, text: &str, now: Instant) -> FailureResponse {
        let report = self.reported.len() < MAX_REPORTED && self.reported.insert(text.to_owned());
        let is_out_of_files = text.contains("sock_accept") && text.contains("Too many open files");
        let pause = is_out_of_files && self.paused_until.is_none();
        if pause {
            let wait = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(16)).min(LONGEST_PAUSE);
            self.pauses += 1;
            self.paused_until = Some(now + wait);
        }
        FailureResponse { report, pause }
    }

    /// Whether the pause is over; true once.
    pub(super) fn take_pause_end(&mut self, now: Instant) -> bool {
        self.paused_until.take_if(|until| *until <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_is_reported_once_and_too_many_open_files_pause_listening_ever_longer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let text = "listening on 0.0.0.0:1 failed: [sock_accept] [TCP] Too many open files";
        let mut failures = ListenFailures::default();
        assert_eq!(
            failures.on_failure("address in use", at(0)),
            FailureResponse { report: true, pause: false }
        );
        assert_eq!(failures.on_failure(text, at(0)), FailureResponse { report: true, pause: true });
        for _ in 0..100_000 {
            assert_eq!(
                failures.on_failure(text, at(1)),
                FailureResponse { report: false, pause: false }
            );
        }
        assert!(!failures.take_pause_end(at(9)));
        assert!(failures.take_pause_end(at(10)) && !failures.take_pause_end(at(10)));
        assert_eq!(
            failures.on_failure(text, at(11)),
            FailureResponse { report: false, pause: true }
        );
        assert!(!failures.take_pause_end(at(30)) && failures.take_pause_end(at(31)));
        for n in 0..100 {
            failures.on_failure(&format!("other {n}"), at(40));
        }
        assert_eq!(failures.reported.len(), MAX_REPORTED);
    }
}
