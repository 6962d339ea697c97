//! The messages of one torrent's trackers. A refusal is reported once, and the last message of each tracker is kept for
//! the error at the end. Pure; time passes as ticks.

use std::collections::{BTreeMap, BTreeSet};

/// Ticks of 250 ms until a refusal is reported. Meanwhile another tracker may answer, or the same tracker at another
/// address.
const REPORT_DELAY_TICKS: u32 = 8;

/// The most trackers whose refusals are reported: the first ones.
const MAX_REPORTED: usize = 8;

/// The trackers of a torrent, by scheme, host and port.
#[derive(Debug, Default)]
pub struct Trackers {
    answered: bool,
    last_messages: BTreeMap<String, String>,
    refused: BTreeSet<String>,
    /// Refusals that are not reported yet, and the ticks they still wait.
    waiting: Vec<(String, u32)>,
}

impl Trackers {
    /// A tracker accepted the announce and returned this many peers.
    pub fn answered(&mut self, tracker: String, peers: &str) {
        self.answered = true;
        self.last_messages.insert(tracker, format!("{peers} peers"));
    }

    /// A tracker could not be reached, or refused the announce. Returns true when this is the tracker's first refusal
    /// and will be reported.
    pub fn refused(&mut self, tracker: String, why: String) -> bool {
        let first = self.refused.len() < MAX_REPORTED && self.refused.insert(tracker.clone());
        if first {
            self.waiting.push((describe(&tracker, &why), REPORT_DELAY_TICKS));
        }
        self.last_messages.insert(tracker, why);
        first
    }

    /// To be called every 250 ms. Returns the refusals to report now, each with whether no tracker has answered so far.
    pub fn tick(&mut self) -> Vec<(String, bool)> {
        self.waiting.iter_mut().for_each(|(_, left)| *left = left.saturating_sub(1));
        let (due, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, left)| *left == 0);
        self.waiting = waiting;
        let due: Vec<(String, u32)> = due;
        due.into_iter().map(|(text, _)| (text, !self.answered)).collect()
    }

    /// The last message of each tracker; `None` when there is none.
    #[must_use]
    pub fn report(&self) -> Option<String> {
        let all: Vec<_> =
            self.last_messages.iter().map(|(tracker, text)| describe(tracker, text)).collect();
        match all.len() {
            0 => None,
            n if n > MAX_REPORTED => {
                Some(format!("{}; and {} more", all[..MAX_REPORTED].join("; "), n - MAX_REPORTED))
            }
            _ => Some(all.join("; ")),
        }
    }
}

fn describe(tracker: &str, text: &str) -> String {
    format!("tracker {tracker}: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(trackers: &mut Trackers, n: u32) -> Vec<(String, bool)> {
        (0..n).flat_map(|_| trackers.tick()).collect()
    }

    #[test]
    fn the_first_refusal_of_a_tracker_is_reported_once() {
        let mut trackers = Trackers::default();
        assert!(trackers.refused("http://a".into(), "unregistered torrent".into()));
        assert!(ticks(&mut trackers, REPORT_DELAY_TICKS - 1).is_empty());
        let reported = ticks(&mut trackers, 1);
        assert_eq!(reported, [("tracker http://a: unregistered torrent".to_owned(), true)]);
        assert!(!trackers.refused("http://a".into(), "no".into()));
        assert!(ticks(&mut trackers, 100).is_empty());
        assert_eq!(trackers.report().unwrap(), "tracker http://a: no");
    }

    #[test]
    fn a_refusal_is_a_notice_when_another_tracker_has_answered() {
        let mut trackers = Trackers::default();
        trackers.refused("udp://a:1".into(), "timed out".into());
        trackers.answered("http://b".into(), "0");
        assert_eq!(
            ticks(&mut trackers, REPORT_DELAY_TICKS),
            [("tracker udp://a:1: timed out".into(), false)]
        );
        assert_eq!(
            trackers.report().unwrap(),
            "tracker http://b: 0 peers; tracker udp://a:1: timed out"
        );
    }

    #[test]
    fn reports_of_many_trackers_are_limited() {
        let mut trackers = Trackers::default();
        for n in 0..300 {
            trackers.refused(format!("http://{n}"), "no".into());
        }
        assert_eq!(ticks(&mut trackers, REPORT_DELAY_TICKS).len(), MAX_REPORTED);
        assert!(trackers.report().unwrap().ends_with("and 292 more"));
    }
}
