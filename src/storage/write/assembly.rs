//! Tracks which verified ranges wait for storage, and decides which of them make the next object. Pure.
//!
//! Invariants:
//! - An added byte is either waiting or settled (stored before, or taken by a plan), never both.
//! - A byte leaves in exactly one plan; adding it again changes nothing.
//! - `missing` of an open chunk counts its wanted bytes that are neither waiting nor settled; `ready` counts its wanted
//!   bytes that wait. The chunk is full when `missing` is 0 and `ready` is not.
//! - `open` holds exactly the chunks with waiting bytes; `full` holds exactly the full ones of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use crate::{ranges::RangeSet, storage::map::layout::Layout};

/// The content of the next object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectPlan {
    /// Sorted, disjoint, never adjacent. The object holds them one after the other.
    pub runs: Vec<Range<u64>>,
    /// Whether this is less than a whole chunk, or parts of several: such an object cannot be composed server-side
    /// later.
    pub packed: bool,
}

impl ObjectPlan {
    #[must_use]
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

#[derive(Debug, Default)]
struct OpenChunk {
    waiting: RangeSet,
    missing: u64,
    ready: u64,
}

impl OpenChunk {
    fn is_full(&self) -> bool {
        self.missing == 0 && self.ready > 0
    }
}

/// The state of one import's chunks.
#[derive(Debug)]
pub struct Assembly {
    layout: Arc<Layout>,
    wanted: RangeSet,
    settled: RangeSet,
    open: BTreeMap<usize, OpenChunk>,
    full: BTreeSet<usize>,
    waiting: u64,
}

impl Assembly {
    /// An assembly without waiting bytes. `wanted` is what will be stored in the end, `stored` what is stored already.
    #[must_use]
    pub fn new(layout: Arc<Layout>, wanted: &RangeSet, stored: RangeSet) -> Self {
        let wanted = wanted.intersect(&layout.all_unpadded());
        let (open, full) = (BTreeMap::new(), BTreeSet::new());
        Self { layout, wanted, settled: stored, open, full, waiting: 0 }
    }

    /// The number of waiting bytes.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Adds a verified range. Padding, and bytes that were added or stored before, are skipped. Unwanted bytes wait
    /// too, since verified bytes are never dropped.
    pub fn add(&mut self, range: Range<u64>) {
        let layout = Arc::clone(&self.layout);
        let new = layout.unpadded(range).flat_map(|part| self.settled.holes(part));
        for part in new.collect::<Vec<_>>() {
            let mut at = part.start;
            while let Some(index) = layout.chunk_at(at).filter(|_| at < part.end) {
                let end = part.end.min(layout.chunks()[index].end);
                self.add_to_chunk(index, at..end);
                at = end;
            }
        }
    }

    fn add_to_chunk(&mut self, index: usize, range: Range<u64>) {
        if !self.open.contains_key(&index) {
            let (missing, ready) = self.count(index, &RangeSet::new());
            self.open.insert(index, OpenChunk { waiting: RangeSet::new(), missing, ready });
        }
        let Some(open) = self.open.get_mut(&index) else { return };
        for hole in open.waiting.holes(range) {
            let wanted = self.wanted.len_within(hole.clone());
            open.missing -= wanted;
            open.ready += wanted;
            self.waiting += hole.end - hole.start;
            open.waiting.insert(hole);
        }
        if open.is_full() {
            self.full.insert(index);
        }
    }

    /// Computes `missing` and `ready` of a chunk from scratch.
    fn count(&self, index: usize, waiting: &RangeSet) -> (u64, u64) {
        let wanted = self.wanted.within(self.layout.chunks()[index].clone());
        let unsettled: Vec<_> = wanted.flat_map(|part| self.settled.holes(part)).collect();
        let total: u64 = unsettled.iter().map(|part| part.end - part.start).sum();
        let ready = unsettled.into_iter().map(|part| waiting.len_within(part)).sum();
        (total - ready, ready)
    }

    /// Changes the set of wanted bytes. Slots may become full by it.
    pub fn set_wanted(&mut self, wanted: &RangeSet) {
        self.wanted = wanted.intersect(&self.layout.all_unpadded());
        let mut open = std::mem::take(&mut self.open);
        for (index, chunk) in &mut open {
            (chunk.missing, chunk.ready) = self.count(*index, &chunk.waiting);
        }
        self.full =
            open.iter().filter(|(_, chunk)| chunk.is_full()).map(|(index, _)| *index).collect();
        self.open = open;
    }

    /// The rest of a chunk whose wanted bytes are all there.
    pub fn take_full(&mut self) -> Option<ObjectPlan> {
        self.take_full_where(|_| true)
    }

    /// As [`Assembly::take_full`], limited to the chunks for which `is_allowed` holds.
    pub fn take_full_where(&mut self, is_allowed: impl Fn(usize) -> bool) -> Option<ObjectPlan> {
        let index = self.full.iter().copied().find(|index| is_allowed(*index))?;
        self.take_chunk(index)
    }

    /// The last chunk whose wanted bytes are all there, of those for which `is_allowed` holds.
    pub fn last_full(&self, is_allowed: impl Fn(usize) -> bool) -> Option<usize> {
        self.full.iter().rev().copied().find(|index| is_allowed(*index))
    }

    /// Whether some bytes of this chunk were stored before, or taken by a plan.
    #[must_use]
    pub fn has_settled(&self, index: usize) -> bool {
        self.settled.overlaps(&self.layout.chunks()[index])
    }

    /// The rest of this chunk, if it is full.
    pub fn take_chunk(&mut self, index: usize) -> Option<ObjectPlan> {
        if !self.full.remove(&index) {
            return None;
        }
        let chunk = self.open.remove(&index)?;
        let packed = self.has_settled(index);
        Some(self.settle(chunk.waiting, packed))
    }

    /// The waiting bytes of the chunks that are furthest from full, up to `max_len` bytes: nearly full chunks are worth
    /// waiting for. A chunk is split only when its waiting bytes alone are longer than `max_len`.
    pub fn take_packed(&mut self, max_len: u64) -> Option<ObjectPlan> {
        let mut order: Vec<_> = self.open.iter().map(|(i, chunk)| (chunk.missing, *i)).collect();
        order.sort_unstable_by_key(|(missing, index)| (u64::MAX - missing, *index));
        let mut taken = RangeSet::new();
        for (_, index) in order {
            let left = max_len - taken.len();
            let Some(chunk) = self.open.get_mut(&index) else { continue };
            if chunk.waiting.len() <= left {
                chunk.waiting.iter().for_each(|run| taken.insert(run));
                self.open.remove(&index);
                self.full.remove(&index);
            } else if taken.is_empty() {
                let part = first_bytes(&chunk.waiting, max_len);
                chunk.waiting = chunk.waiting.minus(&part);
                chunk.ready -= part.iter().map(|run| self.wanted.len_within(run)).sum::<u64>();
                if !chunk.is_full() {
                    self.full.remove(&index);
                }
                taken = part;
            }
            if taken.len() == max_len {
                break;
            }
        }
        (!taken.is_empty()).then(|| self.settle(taken, true))
    }

    fn settle(&mut self, taken: RangeSet, packed: bool) -> ObjectPlan {
        self.waiting -= taken.len();
        let runs: Vec<_> = taken.iter().collect();
        runs.iter().for_each(|run| self.settled.insert(run.clone()));
        ObjectPlan { runs, packed }
    }
}

fn first_bytes(set: &RangeSet, len: u64) -> RangeSet {
    let mut left = len;
    let mut first = RangeSet::new();
    for run in set.iter() {
        let end = run.end.min(run.start + left);
        left -= end - run.start;
        first.insert(run.start..end);
        if left == 0 {
            break;
        }
    }
    first
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of runs, some of one run")]
mod tests {
    use super::*;
    use crate::storage::map::layout::FileSpan;
    use proptest::prelude::*;

    const LEN: u64 = 60;

    /// Files of 22, 8 (padding) and 30 bytes in chunks of 10, which begin at 0, 10, 20 (2 bytes long), 30, 40 and 50.
    fn layout() -> Arc<Layout> {
        let span = |range, pad| FileSpan { range, pad };
        let spans = [span(0..22, false), span(22..30, true), span(30..LEN, false)];
        Arc::new(Layout::new(LEN, spans, 10, crate::catalog::LayoutKind::Chunks).unwrap())
    }

    fn assembly() -> Assembly {
        Assembly::new(layout(), &RangeSet::from(0..LEN), RangeSet::new())
    }

    #[test]
    fn a_chunk_is_planned_when_its_last_byte_arrives() {
        let mut a = assembly();
        a.add(10..15);
        a.add(16..20);
        assert_eq!(a.take_full(), None);
        a.add(0..17);
        assert_eq!(a.take_full(), Some(ObjectPlan { runs: vec![0..10], packed: false }));
        assert_eq!(a.take_full(), Some(ObjectPlan { runs: vec![10..20], packed: false }));
        a.add(5..25);
        let last = a.take_full().unwrap();
        assert_eq!(last.runs, [20..22], "the end of a file is a whole chunk");
        assert!(!last.packed);
        assert_eq!((a.take_full(), a.waiting()), (None, 0));
    }

    #[test]
    fn packing_takes_the_chunks_furthest_from_full_first() {
        let mut a = assembly();
        a.add(0..9);
        a.add(10..13);
        a.add(30..32);
        assert_eq!(
            a.take_packed(10),
            Some(ObjectPlan { runs: vec![10..13, 30..32], packed: true })
        );
        a.add(9..10);
        assert_eq!(a.take_full().unwrap().runs, [0..10]);
        a.add(13..20);
        let rest = a.take_full().unwrap();
        assert_eq!(
            rest,
            ObjectPlan { runs: vec![13..20], packed: true },
            "the rest of a chunk is not a whole chunk"
        );
    }

    #[test]
    fn unwanted_bytes_wait_without_filling_a_chunk() {
        let mut a = Assembly::new(layout(), &RangeSet::from(0..4), RangeSet::from(0..2));
        a.add(12..14);
        a.add(3..6);
        assert_eq!(a.take_full(), None);
        a.set_wanted(&RangeSet::from(3..5));
        assert_eq!(a.take_full().unwrap().runs, [3..6]);
        assert_eq!(a.take_packed(1).unwrap().runs, [12..13]);
        assert_eq!(a.take_packed(1).unwrap().runs, [13..14]);
        assert_eq!(a.take_packed(1), None);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Add(Range<u64>),
        TakeFull,
        TakePacked(u64),
        SetWanted(Range<u64>),
    }

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0..=LEN, 0..=LEN).prop_map(|(a, b)| a.min(b)..a.max(b))
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => range().prop_map(Op::Add),
            2 => Just(Op::TakeFull),
            1 => (1u64..20).prop_map(Op::TakePacked),
            1 => range().prop_map(Op::SetWanted),
        ]
    }

    proptest! {
        #[test]
        fn every_added_byte_is_in_exactly_one_plan(
            stored in range(),
            ops in prop::collection::vec(op(), 0..40),
        ) {
            let stored: RangeSet = layout().unpadded(stored).collect();
            let mut a = Assembly::new(layout(), &RangeSet::from(0..LEN), stored.clone());
            let (mut added, mut planned) = (RangeSet::new(), RangeSet::new());
            let mut plans = Vec::new();
            for op in ops {
                match op {
                    Op::Add(range) => {
                        layout().unpadded(range.clone()).for_each(|part| added.insert(part));
                        a.add(range);
                    }
                    Op::TakeFull => plans.extend(a.take_full()),
                    Op::TakePacked(max) => {
                        let plan = a.take_packed(max);
                        prop_assert!(plan.as_ref().is_none_or(|p| p.len() <= max));
                        plans.extend(plan);
                    }
                    Op::SetWanted(range) => a.set_wanted(&RangeSet::from(range)),
                }
            }
            while let Some(plan) = a.take_full().or_else(|| a.take_packed(7)) {
                plans.push(plan);
            }
            prop_assert_eq!(a.waiting(), 0);
            prop_assert!(a.open.is_empty() && a.full.is_empty());
            for run in plans.into_iter().flat_map(|plan| plan.runs) {
                prop_assert!(!planned.overlaps(&run), "{:?} planned twice", run);
                planned.insert(run);
            }
            prop_assert_eq!(planned, added.minus(&stored));
        }

        #[test]
        fn a_whole_import_in_any_order_makes_one_unpacked_object_per_chunk(
            order in Just((0..LEN / 2).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut a = assembly();
            let mut objects = Vec::new();
            for n in order {
                a.add(2 * n..2 * n + 2);
                objects.extend(a.take_full());
            }
            prop_assert!(objects.iter().all(|plan| !plan.packed && plan.runs.len() == 1));
            objects.sort_by_key(|plan| plan.runs[0].start);
            let runs: Vec<_> = objects.into_iter().flat_map(|plan| plan.runs).collect();
            prop_assert_eq!(runs, layout().chunks().to_vec());
        }
    }
}
