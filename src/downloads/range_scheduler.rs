//! Range scheduler of one file: which ranges are done, in flight or unassigned, and which range a worker fetches next.
//! Pure.
//!
//! Invariants:
//! - Every byte of the range is in exactly one of: done, a run, unassigned.
//! - In a run, `written <= granted <= end`. Bytes up to `written` are done. Bytes from there up to `granted` have been
//!   received and are being written to the target. Only the bytes after `granted` can be taken over by another worker.
//! - A run is at least `min_split` long when it is assigned, unless its hole was shorter from the start.

use std::{collections::BTreeMap, ops::Range};

use crate::{storage::RangeSet, units::MIB};

// ANCHOR: run
/// A worker's run, until it is written to its end or given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(u64);

#[derive(Debug, Clone)]
struct Run {
    written: u64,
    granted: u64,
    end: u64,
    /// The server has accepted the request.
    accepted: bool,
}
// ANCHOR_END: run

/// How holes are split into runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitStrategy {
    /// Evenly among the workers, with few requests. Long holes are split for two rounds of runs. A fast worker takes
    /// more runs of the second round, and less must be taken over from slow workers.
    Even,
    /// In order, in runs of so many bytes that end at multiples of it. The ranges in flight stay close together, for a
    /// target that makes one object of neighbouring bytes.
    InOrder(u64),
}

/// The state of one part of the range, for display.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    Done,
    /// A run is at work in it.
    Running,
    /// Given back by a failed worker, and waiting.
    Failed,
    Missing,
}

/// Minimum length of a run for two rounds of runs. Every run costs a round trip, in which a distant server could send 1
/// or 2 MiB.
const MIN_ROUND_RUN: u64 = 8 * MIB;

/// The state of one file's range.
#[derive(Debug)]
pub struct RangeScheduler {
    range: Range<u64>,
    done: RangeSet,
    unassigned: RangeSet,
    /// The part of `unassigned` that was given back.
    failed: RangeSet,
    runs: BTreeMap<RunId, Run>,
    next: u64,
    min_split: u64,
    strategy: SplitStrategy,
    /// Runs are split at multiples of so many bytes (at least 1).
    grain: u64,
    /// Maximum length of an even run. Set by the first call, which has the number of workers.
    max_run: Option<u64>,
}

impl RangeScheduler {
    /// All of `range` except `done` will be fetched. Splitting creates no runs shorter than `min_split` (at least 1).
    #[must_use]
    pub fn new(
        range: Range<u64>,
        done: &RangeSet,
        min_split: u64,
        strategy: SplitStrategy,
    ) -> Self {
        let done: RangeSet = done.within(range.clone()).collect();
        let unassigned = done.holes(range.clone()).into_iter().collect();
        let (runs, failed) = (BTreeMap::new(), RangeSet::new());
        Self {
            range,
            done,
            unassigned,
            failed,
            runs,
            next: 0,
            min_split: min_split.max(1),
            strategy,
            grain: 1,
            max_run: None,
        }
    }

    /// Splits runs only at multiples of `grain` bytes (at least 1).
    #[must_use]
    pub fn with_grain(self, grain: u64) -> Self {
        Self { grain: grain.max(1), ..self }
    }

    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.done.len() == self.range.end - self.range.start
    }

    /// Bytes that are done.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.len()
    }

    /// Number of runs in flight.
    #[must_use]
    pub fn running(&self) -> usize {
        self.runs.len()
    }

    /// Takes a run for one of `workers` idle workers: from the unassigned holes, else the second half of the longest
    /// remaining run. `None` when nothing is left that is worth a request.
    pub fn take(&mut self, workers: usize) -> Option<(RunId, Range<u64>)> {
        let range = self.next_unassigned(workers).or_else(|| self.steal())?;
        Some(self.assign(range, false))
    }

    /// Takes the run of a response that is open already and contains everything from the start of the range on, for one
    /// of `workers`. With two rounds of runs this run is as long as both, since a second run would cost another
    /// request. `None` when the start of the range is not unassigned.
    pub fn take_first(&mut self, workers: usize) -> Option<(RunId, Range<u64>)> {
        let hole = self.unassigned.iter().next().filter(|hole| hole.start == self.range.start)?;
        let range = match self.strategy {
            SplitStrategy::Even => {
                let two_rounds = self.max_run(workers).saturating_mul(2);
                self.share_of(&hole, workers, two_rounds)
            }
            SplitStrategy::InOrder(grain) => head_of(&hole, grain),
        };
        Some(self.assign(range, true))
    }

    fn assign(&mut self, range: Range<u64>, accepted: bool) -> (RunId, Range<u64>) {
        self.unassigned.remove(range.clone());
        self.failed.remove(range.clone());
        let id = RunId(self.next);
        self.next += 1;
        let Range { start, end } = range;
        self.runs.insert(id, Run { written: start, granted: start, end, accepted });
        (id, start..end)
    }

    fn next_unassigned(&mut self, workers: usize) -> Option<Range<u64>> {
        match self.strategy {
            SplitStrategy::Even => {
                let max = self.max_run(workers);
                let longest = self.unassigned.iter().max_by_key(|hole| hole.end - hole.start)?;
                Some(self.share_of(&longest, workers, max))
            }
            SplitStrategy::InOrder(grain) => Some(head_of(&self.unassigned.iter().next()?, grain)),
        }
    }

    /// The part of a hole that one of `workers` takes: at most `max` bytes, and up to the next multiple of the grain.
    fn share_of(&self, hole: &Range<u64>, workers: usize, max: u64) -> Range<u64> {
        let len = hole.end - hole.start;
        let shares = (len / self.min_split).min(workers as u64).max(1);
        let share = len.div_ceil(shares).min(max);
        let end = (hole.start + share).next_multiple_of(self.grain);
        // Take the whole hole rather than leave a rest that is too short.
        let is_rest_short = end >= hole.end || hole.end - end < self.min_split;
        hole.start..if is_rest_short { hole.end } else { end }
    }

    /// The maximum length of a run, when `workers` start.
    fn max_run(&mut self, workers: usize) -> u64 {
        let half = self.unassigned.len().div_ceil(2 * workers.max(1) as u64);
        let two_rounds = workers > 1 && half >= self.min_split.max(MIN_ROUND_RUN);
        *self.max_run.get_or_insert(if two_rounds { half } else { u64::MAX })
    }

    // ANCHOR: steal
    fn steal(&mut self) -> Option<Range<u64>> {
        let remaining = |run: &Run| run.end - run.granted;
        let victim = self.runs.values_mut().max_by_key(|run| remaining(run))?;
        if remaining(victim) < self.min_split.saturating_mul(2) {
            return None;
        }
        let middle = victim.granted + remaining(victim) / 2;
        let after = middle.next_multiple_of(self.grain);
        let cuts = [after, after.saturating_sub(self.grain)];
        let is_long = |at: &u64| {
            victim.granted.saturating_add(self.min_split) <= *at
                && at.saturating_add(self.min_split) <= victim.end
        };
        let middle = cuts.into_iter().find(is_long)?;
        let stolen = middle..victim.end;
        victim.end = middle;
        Some(stolen)
    }
    // ANCHOR_END: steal

    /// Records that the server has accepted the request for the run.
    pub fn accepted(&mut self, id: RunId) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.accepted = true;
        }
    }

    /// Extends a run past its end: over an unassigned hole, or over the run of another worker without a response, which
    /// ends that run. `false` when another worker is being served behind it, or at the end of the range.
    pub fn extend(&mut self, id: RunId) -> bool {
        let Some(end) = self.runs.get(&id).map(|run| run.end) else { return false };
        let hole = self.unassigned.iter().find(|hole| hole.start == end);
        let is_waiting = |run: &Run| !run.accepted && run.granted == end && run.written == end;
        let waiting = self.runs.iter().find(|(other, run)| **other != id && is_waiting(run));
        let next = match (hole, waiting.map(|(other, run)| (*other, run.end))) {
            (Some(hole), _) => {
                let next = match self.strategy {
                    SplitStrategy::Even => hole,
                    SplitStrategy::InOrder(grain) => head_of(&hole, grain),
                };
                self.unassigned.remove(next.clone());
                self.failed.remove(next.clone());
                next.end
            }
            (None, Some((other, next))) => {
                self.runs.remove(&other);
                next
            }
            (None, None) => return false,
        };
        self.runs.get_mut(&id).is_some_and(|run| {
            run.end = next;
            true
        })
    }

    /// How many of `len` received bytes still belong to the run: fewer if another worker took over its end, 0 if the
    /// run is over.
    pub fn grant(&mut self, id: RunId, len: u64) -> u64 {
        let Some(run) = self.runs.get_mut(&id) else { return 0 };
        let granted = len.min(run.end - run.granted);
        run.granted += granted;
        granted
    }

    /// Whether all bytes of the run have been received.
    #[must_use]
    pub fn is_received(&self, id: RunId) -> bool {
        self.runs.get(&id).is_none_or(|run| run.granted == run.end)
    }

    /// Records that the next `len` granted bytes are written to the target.
    pub fn wrote(&mut self, id: RunId, len: u64) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let end = (run.written + len).min(run.granted);
        self.done.insert(run.written..end);
        run.written = end;
        if run.written == run.end {
            self.runs.remove(&id);
        }
    }

    /// Ends a run. Its unwritten bytes become unassigned again.
    pub fn give_back(&mut self, id: RunId) {
        if let Some(run) = self.runs.remove(&id) {
            self.unassigned.insert(run.written..run.end);
            self.failed.insert(run.written..run.end);
        }
    }

    /// The states of `count` equal parts of the range, in order; fewer if the range has fewer bytes.
    #[must_use]
    pub fn cells(&self, count: u64) -> Vec<Cell> {
        let len = self.range.end - self.range.start;
        let count = count.min(len);
        let at = |n: u64| {
            let part = u128::from(len) * u128::from(n) / u128::from(count.max(1));
            self.range.start + u64::try_from(part).unwrap_or(len)
        };
        (0..count).map(|n| self.cell(&(at(n)..at(n + 1)))).collect()
    }

    fn cell(&self, part: &Range<u64>) -> Cell {
        let is_in = |run: &Run| run.written < part.end && part.start < run.end;
        // A run counts only in the part it is working in; its remaining parts are shown as missing.
        let is_at = |run: &Run| is_in(run) && part.contains(&run.granted.min(run.end - 1));
        if self.done.contains(part) {
            Cell::Done
        } else if self.runs.values().any(is_at) {
            Cell::Running
        } else if self.failed.overlaps(part) {
            Cell::Failed
        } else {
            Cell::Missing
        }
    }
}

/// The start of `hole`, up to the next multiple of `grain`.
fn head_of(hole: &Range<u64>, grain: u64) -> Range<u64> {
    let grain = grain.max(1);
    let next = (hole.start / grain + 1).saturating_mul(grain);
    hole.start..hole.end.min(next)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROUND: u64 = MIN_ROUND_RUN;

    fn scheduler(len: u64, min_split: u64, strategy: SplitStrategy) -> RangeScheduler {
        RangeScheduler::new(0..len, &RangeSet::new(), min_split, strategy)
    }

    #[test]
    fn a_file_is_split_evenly_among_the_workers() {
        let mut h = scheduler(100, 10, SplitStrategy::Even);
        let runs: Vec<_> = (0..4).map(|n| h.take(4 - n).unwrap().1).collect();
        assert_eq!(runs, [0..25, 25..50, 50..75, 75..100]);
        let mut small = scheduler(15, 10, SplitStrategy::Even);
        assert_eq!(small.take(4).unwrap().1, 0..15, "not worth two requests");
        assert!(small.take(3).is_none());
    }

    #[test]
    fn a_long_file_is_split_into_two_rounds_of_runs() {
        let mut h = scheduler(8 * ROUND, MIB, SplitStrategy::Even);
        let first: Vec<_> = (0..4).map(|n| h.take(4 - n).unwrap()).collect();
        for (n, (_, range)) in (0..).zip(&first) {
            assert_eq!(*range, n * ROUND..(n + 1) * ROUND);
        }
        for n in 4..8 {
            let (id, range) = h.take(1).unwrap();
            assert_eq!(
                range,
                n * ROUND..(n + 1) * ROUND,
                "one worker may take the whole second round"
            );
            h.grant(id, ROUND);
            h.wrote(id, ROUND);
        }
        let half = ROUND / 2;
        assert_eq!(
            h.take(1).unwrap().1,
            4 * ROUND - half..4 * ROUND,
            "then half of another worker's run"
        );
        assert_eq!(scheduler(8 * ROUND, MIB, SplitStrategy::Even).take(1).unwrap().1, 0..8 * ROUND);
        let short = scheduler(8 * ROUND - 8, MIB, SplitStrategy::Even).take(4).unwrap().1;
        assert_eq!(short, 0..2 * ROUND - 2, "too short for two rounds");
    }

    #[test]
    fn the_first_response_gets_a_run_of_two_rounds() {
        let mut h = scheduler(8 * ROUND, MIB, SplitStrategy::Even);
        assert_eq!(h.take_first(4).unwrap().1, 0..2 * ROUND);
        let others: Vec<_> =
            (0..6).map(|n: usize| h.take(3_usize.saturating_sub(n).max(1)).unwrap().1).collect();
        for (n, range) in (2..).zip(&others) {
            assert_eq!(*range, n * ROUND..(n + 1) * ROUND);
        }
        let mut short = scheduler(100, 10, SplitStrategy::Even);
        let runs = [short.take_first(4), short.take(3), short.take(2), short.take(1)];
        assert_eq!(runs.map(|run| run.unwrap().1), [0..25, 25..50, 50..75, 75..100]);
        assert_eq!(scheduler(30, 1, SplitStrategy::InOrder(10)).take_first(3).unwrap().1, 0..10);
        let done = RangeSet::from(0..1);
        assert!(RangeScheduler::new(0..30, &done, 1, SplitStrategy::Even).take_first(3).is_none());
    }

    #[test]
    fn the_first_response_extends_its_run_until_the_next_worker_is_served() {
        for strategy in [SplitStrategy::Even, SplitStrategy::InOrder(10)] {
            let mut h = scheduler(40, 10, strategy);
            let (first, _) = h.take_first(4).unwrap();
            let others: Vec<_> = (1..4).map(|n| h.take(4 - n).unwrap()).collect();
            assert_eq!(h.grant(first, 40), 10);
            assert!(h.extend(first), "the next worker has no response yet");
            assert_eq!(h.grant(first, 30), 10);
            assert!(h.is_received(others[0].0), "its run is taken over");
            h.give_back(others[0].0);
            h.give_back(others[1].0);
            assert!(h.extend(first), "the next worker was refused");
            assert_eq!(h.grant(first, 30), 10);
            h.accepted(others[2].0);
            assert!(!h.extend(first), "the next worker is served");
            h.wrote(first, 30);
            h.grant(others[2].0, 10);
            h.wrote(others[2].0, 10);
            assert!(h.is_complete() && !h.extend(first), "{strategy:?}");
        }
    }

    #[test]
    fn an_idle_worker_takes_the_second_half_of_the_longest_run() {
        let mut h = scheduler(100, 10, SplitStrategy::Even);
        let (slow, _) = h.take(2).unwrap();
        let (fast, _) = h.take(1).unwrap();
        assert_eq!(h.grant(fast, 50), 50);
        h.wrote(fast, 50);
        assert_eq!(h.grant(slow, 10), 10);
        assert_eq!(h.take(1).unwrap().1, 30..50);
        assert_eq!(h.grant(slow, 99), 20, "the rest belongs to the other worker");
        assert!(h.is_received(slow));
        assert_eq!(h.grant(slow, 1), 0);
    }

    #[test]
    fn in_order_runs_end_at_multiples() {
        let mut h =
            RangeScheduler::new(5..30, &RangeSet::from(12..14), 1, SplitStrategy::InOrder(10));
        let runs: Vec<_> = (0..4).map(|_| h.take(9).unwrap().1).collect();
        assert_eq!(runs, [5..10, 10..12, 14..20, 20..30]);
    }

    #[test]
    fn a_run_given_back_is_shown_as_failed_and_assigned_again() {
        let mut h = scheduler(40, 1, SplitStrategy::InOrder(10));
        let (id, _) = h.take(1).unwrap();
        h.grant(id, 10);
        h.wrote(id, 10);
        let (id, _) = h.take(1).unwrap();
        h.grant(id, 5);
        h.wrote(id, 2);
        h.take(1).unwrap();
        h.give_back(id);
        assert_eq!(h.cells(4), [Cell::Done, Cell::Failed, Cell::Running, Cell::Missing]);
        assert_eq!(h.take(1).unwrap().1, 12..20);
        assert_eq!(h.cells(1000).len(), 40);
        assert!(
            scheduler(0, 1, SplitStrategy::Even).is_complete()
                && scheduler(0, 1, SplitStrategy::Even).cells(9).is_empty()
        );
    }

    #[derive(Debug, Clone)]
    enum Op {
        Take(usize),
        Grant(usize, u64),
        Wrote(usize, u64),
        GiveBack(usize),
        Accepted(usize),
        Extend(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (1usize..6).prop_map(Op::Take),
            4 => (0usize..6, 0u64..40).prop_map(|(n, len)| Op::Grant(n, len)),
            4 => (0usize..6, 0u64..40).prop_map(|(n, len)| Op::Wrote(n, len)),
            1 => (0usize..6).prop_map(Op::GiveBack),
            1 => (0usize..6).prop_map(Op::Accepted),
            2 => (0usize..6).prop_map(Op::Extend),
        ]
    }

    fn check(h: &RangeScheduler, ids: &[RunId]) -> Result<(), TestCaseError> {
        let mut seen = RangeSet::new();
        let mut total = 0;
        let runs = h.runs.values().map(|run| run.written..run.end);
        for part in h.done.iter().chain(h.unassigned.iter()).chain(runs) {
            total += part.end - part.start;
            seen.insert(part);
        }
        prop_assert_eq!(total, h.range.end - h.range.start, "a byte is in two states, or in none");
        prop_assert_eq!(seen.len(), total);
        for run in h.runs.values() {
            prop_assert!(run.written <= run.granted && run.granted <= run.end);
        }
        prop_assert!(h.runs.keys().all(|id| ids.contains(id)));
        Ok(())
    }

    #[test]
    fn runs_are_split_at_multiples_of_the_grain() {
        let new = |len, grain| scheduler(len, 10, SplitStrategy::Even).with_grain(grain);
        let mut h = new(100, 16);
        let runs: Vec<_> = (0..4).map(|n| h.take(4 - n).unwrap().1).collect();
        assert_eq!(runs, [0..32, 32..64, 64..100, 80..100], "a cut at 96 would leave 4");
        let mut h = new(100, 16);
        let (first, range) = h.take(1).unwrap();
        assert_eq!(range, 0..100);
        h.grant(first, 20);
        h.wrote(first, 20);
        assert_eq!(h.take(1).unwrap().1, 64..100, "half of 20..100, and four more");
        let mut h = new(27, 16);
        let (first, _) = h.take(1).unwrap();
        assert!(h.take(1).is_some_and(|(_, range)| range == (16..27)));
        h.give_back(first);
        let mut h = new(30, 25);
        h.take(1).unwrap();
        assert!(h.take(1).is_none(), "a cut at 25 would leave 5");
    }

    proptest! {
        #[test]
        fn every_byte_is_in_one_state_and_all_are_done_in_the_end(
            start in 0u64..50, len in 0u64..300, min_split in 0u64..20, grain in 0u64..40, cut_at in 1u64..30,
            known in (0u64..300, 0u64..300), with_first in any::<bool>(),
            ops in prop::collection::vec(op(), 0..80),
        ) {
            let done = RangeSet::from(known.0.min(known.1)..known.0.max(known.1));
            let strategy = if grain == 0 { SplitStrategy::Even } else { SplitStrategy::InOrder(grain) };
            let mut h = RangeScheduler::new(start..start + len, &done, min_split, strategy).with_grain(cut_at);
            let mut ids = Vec::new();
            if with_first {
                ids.extend(h.take_first(3).map(|(id, _)| id));
            }
            for op in ops {
                let nth = |n: usize| ids.get(ids.len().wrapping_sub(1 + n)).copied();
                match op {
                    Op::Take(workers) => {
                        if let Some((id, range)) = h.take(workers) {
                            prop_assert!(!range.is_empty());
                            ids.push(id);
                        }
                    }
                    Op::Grant(n, len) => if let Some(id) = nth(n) { h.grant(id, len); },
                    Op::Wrote(n, len) => if let Some(id) = nth(n) { h.wrote(id, len); },
                    Op::GiveBack(n) => if let Some(id) = nth(n) { h.give_back(id); },
                    Op::Accepted(n) => if let Some(id) = nth(n) { h.accepted(id); },
                    Op::Extend(n) => if let Some(id) = nth(n) { h.extend(id); },
                }
                check(&h, &ids)?;
                prop_assert!(h.cells(7).len() <= 7);
            }
            for id in ids.clone() {
                h.give_back(id);
            }
            while let Some((id, range)) = h.take(3) {
                ids.push(id);
                let len = range.end - range.start;
                h.grant(id, len);
                h.wrote(id, len);
            }
            check(&h, &ids)?;
            prop_assert!(h.is_complete());
        }
    }
}
