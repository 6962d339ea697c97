//! Whose turn it is when there are more imports than peers can reach at once. Pure.
//!
//! An import that is in the session costs memory (its piece hashes), announces and timers; one that waits costs a row. So
//! only so many are in it, and those that nobody asks for give way after their time to those that wait longest.
//!
//! # Invariants
//! - Each import is in one place: live, waiting, or done for good.
//! - An import that peers are connected to is not sent away, and none before its time.

use std::{collections::VecDeque, time::Duration};

/// How long an import that nobody asks for stays: a tracker that was told of it names it to others for half an hour.
pub(super) const TURN: Duration = Duration::from_secs(30 * 60);

/// Who is live, and who waits. Times are since the start.
#[derive(Debug)]
pub(super) struct Rotation {
    waiting: VecDeque<usize>,
    /// The one that came first at the front.
    live: VecDeque<(usize, Duration)>,
    at_once: usize,
}

impl Rotation {
    /// Of `count` imports at most `at_once` (at least 1) are live.
    pub(super) fn new(count: usize, at_once: usize) -> Self {
        let at_once = at_once.max(1);
        Self { waiting: (0..count).collect(), live: VecDeque::new(), at_once }
    }

    /// The next that comes in, while there is room for one.
    pub(super) fn enter(&mut self, now: Duration) -> Option<usize> {
        if self.live.len() >= self.at_once {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.live.push_back((next, now));
        Some(next)
    }

    /// One that has had its time and is asked for by nobody, if another waits for its place.
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

    /// It has been seeded enough, or cannot be: it comes no more.
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
