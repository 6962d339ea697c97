//! Rotation of imports, when more are to be seeded than may be in the session at once. No I/O.
//!
//! An import in the session costs memory (its piece hashes), announces and timers; a waiting one costs a row. So their
//! number is limited. Imports without connected peers are replaced, after their time, by those that wait longest.
//!
//! # Invariants
//! - Each import is in exactly one state: in the session, waiting, postponed, or finished.
//! - An import with connected peers is not removed from the session, and none is removed before its time.

use std::{collections::VecDeque, time::Duration};

/// Minimum time in the session. A tracker keeps returning an announced address to peers for half an hour.
pub(super) const MIN_ACTIVE_TIME: Duration = Duration::from_secs(30 * 60);

/// Imports in the session, and waiting ones. Times are relative to the start.
#[derive(Debug)]
pub(super) struct Rotation {
    waiting: VecDeque<usize>,
    /// With the time they entered; the earliest at the front.
    active: VecDeque<(usize, Duration)>,
    /// With the time from which they wait again.
    postponed: Vec<(usize, Duration)>,
    max_active: usize,
}

impl Rotation {
    /// For `count` imports, at most `max_active` (at least 1) in the session.
    pub(super) fn new(count: usize, max_active: usize) -> Self {
        let max_active = max_active.max(1);
        let (active, postponed) = (VecDeque::new(), Vec::new());
        Self { waiting: (0..count).collect(), active, postponed, max_active }
    }

    /// Adds an import, which waits for a slot.
    pub(super) fn add(&mut self, index: usize) {
        self.waiting.push_back(index);
    }

    /// Adds an import that is in the session already, even if there is no free slot.
    pub(super) fn add_active(&mut self, index: usize, now: Duration) {
        self.active.push_back((index, now));
    }

    /// Changes how many imports may be in the session. More stay there until they are rotated out or finished.
    pub(super) fn set_max_active(&mut self, max_active: usize) {
        self.max_active = max_active.max(1);
    }

    /// Whether the import is in the session, or waits for a slot.
    pub(super) fn has(&self, index: usize) -> bool {
        self.waiting.contains(&index) || self.active.iter().any(|(n, _)| *n == index)
    }

    /// Moves the next waiting import into the session, if there is a free slot.
    pub(super) fn activate_next(&mut self, now: Duration) -> Option<usize> {
        let due = self.postponed.extract_if(.., |(_, until)| *until <= now);
        self.waiting.extend(due.map(|(n, _)| n));
        if self.active.len() >= self.max_active {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.active.push_back((next, now));
        Some(next)
    }

    /// Moves an import without peers, whose time is over, back to the waiting ones. Only if another import waits.
    pub(super) fn rotate_out(
        &mut self,
        now: Duration,
        is_busy: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if self.waiting.is_empty() {
            return None;
        }
        let is_over = |&(n, since): &(usize, Duration)| {
            now.saturating_sub(since) >= MIN_ACTIVE_TIME && !is_busy(n)
        };
        let at = self.active.iter().position(is_over)?;
        let (removed, _) = self.active.remove(at)?;
        self.waiting.push_back(removed);
        Some(removed)
    }

    /// Removes an import for good: it reached its goal, or failed.
    pub(super) fn finish(&mut self, index: usize) {
        self.active.retain(|(n, _)| *n != index);
        self.waiting.retain(|n| *n != index);
        self.postponed.retain(|(n, _)| *n != index);
    }

    /// Removes an import, which waits again from `until`.
    pub(super) fn postpone(&mut self, index: usize, until: Duration) {
        self.finish(index);
        self.postponed.push((index, until));
    }

    /// Whether no import is in the session, waits for a slot or is postponed.
    #[cfg(test)]
    fn is_finished(&self) -> bool {
        self.is_idle() && self.postponed.is_empty()
    }

    #[cfg(test)]
    fn is_idle(&self) -> bool {
        self.active.is_empty() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn fill(rotation: &mut Rotation, now: Duration) -> Vec<usize> {
        std::iter::from_fn(|| rotation.activate_next(now)).collect()
    }

    #[test]
    fn idle_imports_take_turns_and_imports_with_peers_stay() {
        let mut rotation = Rotation::new(5, 2);
        assert_eq!(fill(&mut rotation, Duration::ZERO), [0, 1]);
        assert_eq!(rotation.rotate_out(29 * MINUTE, |_| false), None, "its time is not over");
        assert_eq!(rotation.rotate_out(30 * MINUTE, |n| n == 0), Some(1));
        assert_eq!(fill(&mut rotation, 30 * MINUTE), [2]);
        let mut seen = vec![];
        for n in 2..8 {
            let now = n * MIN_ACTIVE_TIME;
            while rotation.rotate_out(now, |n| n == 0).is_some() {
                seen.extend(fill(&mut rotation, now));
            }
        }
        assert_eq!(seen, [3, 4, 1, 2, 3, 4]);
        assert_eq!(
            rotation.rotate_out(9 * MIN_ACTIVE_TIME, |_| false),
            Some(0),
            "it has no peers any more"
        );
    }

    #[test]
    fn nothing_is_rotated_without_waiting_imports_and_finished_ones_do_not_return() {
        let mut rotation = Rotation::new(2, 5);
        assert_eq!(fill(&mut rotation, Duration::ZERO), [0, 1]);
        assert_eq!(rotation.rotate_out(100 * MIN_ACTIVE_TIME, |_| false), None);
        rotation.finish(0);
        assert!(!rotation.is_finished() && fill(&mut rotation, MIN_ACTIVE_TIME).is_empty());
        rotation.finish(1);
        assert!(rotation.is_finished());
    }

    #[test]
    fn imports_are_added_while_others_are_seeded() {
        let mut rotation = Rotation::new(1, 2);
        assert_eq!(fill(&mut rotation, Duration::ZERO), [0]);
        rotation.add_active(1, Duration::ZERO);
        rotation.add(2);
        assert!(fill(&mut rotation, MINUTE).is_empty(), "both slots are taken");
        assert!(rotation.has(1) && rotation.has(2) && !rotation.has(3));
        rotation.finish(0);
        assert_eq!(fill(&mut rotation, MINUTE), [2]);
        rotation.add(3);
        rotation.set_max_active(3);
        assert_eq!(fill(&mut rotation, MINUTE), [3]);
    }

    #[test]
    fn a_postponed_import_waits_again_after_its_delay() {
        let mut rotation = Rotation::new(2, 1);
        assert_eq!(rotation.activate_next(Duration::ZERO), Some(0));
        rotation.postpone(0, MINUTE);
        assert_eq!(fill(&mut rotation, Duration::ZERO), [1]);
        rotation.finish(1);
        assert!(rotation.is_idle() && !rotation.is_finished());
        assert!(fill(&mut rotation, MINUTE / 2).is_empty());
        assert_eq!(fill(&mut rotation, MINUTE), [0]);
        rotation.postpone(0, 2 * MINUTE);
        rotation.finish(0);
        assert!(rotation.is_finished());
    }
}
