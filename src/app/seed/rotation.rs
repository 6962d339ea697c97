//! Rotation of imports, when more are to be seeded than may be in the session at once. No I/O.
//!
//! An import in the session costs memory (its piece hashes), announces and timers; a waiting one costs a row. So their
//! number is limited. Imports without connected peers are replaced, after their time, by those that wait longest.
//!
//! # Invariants
//! - Each import is in exactly one state: in the session, waiting, or finished.
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
    at_once: usize,
}

impl Rotation {
    /// For `count` imports, at most `at_once` (at least 1) in the session.
    pub(super) fn new(count: usize, at_once: usize) -> Self {
        let at_once = at_once.max(1);
        Self { waiting: (0..count).collect(), live: VecDeque::new(), at_once }
    }

    /// Moves the next waiting import into the session, if there is a free slot.
    pub(super) fn enter(&mut self, now: Duration) -> Option<usize> {
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
    }

    pub(super) fn is_over(&self) -> bool {
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
}
