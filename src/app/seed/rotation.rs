//! Rotation of imports, when more are to be seeded than may be in the session at once. No I/O.
//!
//! An import in the session costs memory (its piece hashes), announces and timers; a waiting one costs a row. So their
//! number is limited. Imports without connected peers are replaced, after their time, by those that wait longest.
//!
//! # Invariants
//! - Each import is in exactly one state: in the session, waiting, put off, or finished.
//! - An import with connected peers is not removed from the session, and none is removed before its time.

use std::{collections::VecDeque, time::Duration};

/// Minimum time in the session. A tracker keeps returning an announced address to peers for half an hour.
pub(super) const TURN: Duration = Duration::from_secs(30 * 60);

/// Imports in the session, and waiting ones. Times are relative to the start.
#[derive(Debug)]
pub(super) struct Rotation {
    waiting: VecDeque<usize>,
    /// With the time they entered; the earliest at the front.
    live: VecDeque<(usize, Duration)>,
    /// With the time from which they wait again.
    put_off: Vec<(usize, Duration)>,
    at_once: usize,
}

impl Rotation {
    /// For `count` imports, at most `at_once` (at least 1) in the session.
    pub(super) fn new(count: usize, at_once: usize) -> Self {
        let at_once = at_once.max(1);
        let (live, put_off) = (VecDeque::new(), Vec::new());
        Self { waiting: (0..count).collect(), live, put_off, at_once }
    }

    /// Moves the next waiting import into the session, if there is a free slot.
    pub(super) fn enter(&mut self, now: Duration) -> Option<usize> {
        let due = self.put_off.extract_if(.., |(_, until)| *until <= now);
        self.waiting.extend(due.map(|(n, _)| n));
        if self.live.len() >= self.at_once {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.live.push_back((next, now));
        Some(next)
    }

    /// Moves an import without peers, whose time is over, back to the waiting ones. Only if another import waits.
    pub(super) fn leave(
        &mut self,
        now: Duration,
        is_busy: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if self.waiting.is_empty() {
            return None;
        }
        let over =
            |&(n, since): &(usize, Duration)| now.saturating_sub(since) >= TURN && !is_busy(n);
        let at = self.live.iter().position(over)?;
        let (gone, _) = self.live.remove(at)?;
        self.waiting.push_back(gone);
        Some(gone)
    }

    /// Removes an import for good: it reached its goal, or failed.
    pub(super) fn finish(&mut self, index: usize) {
        self.live.retain(|(n, _)| *n != index);
        self.waiting.retain(|n| *n != index);
        self.put_off.retain(|(n, _)| *n != index);
    }

    /// Removes an import, which waits again from `until`.
    pub(super) fn put_off(&mut self, index: usize, until: Duration) {
        self.finish(index);
        self.put_off.push((index, until));
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_idle() && self.put_off.is_empty()
    }

    /// Whether no import is in the session or waits for a slot. Some may be put off.
    pub(super) fn is_idle(&self) -> bool {
        self.live.is_empty() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn fill(rotation: &mut Rotation, now: Duration) -> Vec<usize> {
        std::iter::from_fn(|| rotation.enter(now)).collect()
    }

    #[test]
    fn everybody_has_a_turn_and_the_busy_stay() {
        let mut rotation = Rotation::new(5, 2);
        assert_eq!(fill(&mut rotation, Duration::ZERO), [0, 1]);
        assert_eq!(rotation.leave(29 * MINUTE, |_| false), None, "its time is not over");
        assert_eq!(rotation.leave(30 * MINUTE, |n| n == 0), Some(1));
        assert_eq!(fill(&mut rotation, 30 * MINUTE), [2]);
        let mut seen = vec![];
        for n in 2..8 {
            let now = n * TURN;
            while rotation.leave(now, |n| n == 0).is_some() {
                seen.extend(fill(&mut rotation, now));
            }
        }
        assert_eq!(seen, [3, 4, 1, 2, 3, 4]);
        assert_eq!(rotation.leave(9 * TURN, |_| false), Some(0), "nobody asks any more");
    }

    #[test]
    fn nobody_goes_when_nobody_waits_and_what_is_done_does_not_come_back() {
        let mut rotation = Rotation::new(2, 5);
        assert_eq!(fill(&mut rotation, Duration::ZERO), [0, 1]);
        assert_eq!(rotation.leave(100 * TURN, |_| false), None);
        rotation.finish(0);
        assert!(!rotation.is_over() && fill(&mut rotation, TURN).is_empty());
        rotation.finish(1);
        assert!(rotation.is_over());
    }
    #[test]
    fn what_is_put_off_waits_again_when_its_time_has_come() {
        let mut rotation = Rotation::new(2, 1);
        assert_eq!(rotation.enter(Duration::ZERO), Some(0));
        rotation.put_off(0, MINUTE);
        assert_eq!(fill(&mut rotation, Duration::ZERO), [1]);
        rotation.finish(1);
        assert!(rotation.is_idle() && !rotation.is_over());
        assert!(fill(&mut rotation, MINUTE / 2).is_empty());
        assert_eq!(fill(&mut rotation, MINUTE), [0]);
        rotation.put_off(0, 2 * MINUTE);
        rotation.finish(0);
        assert!(rotation.is_over());
    }
}
