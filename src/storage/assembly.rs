//! Tracks which verified ranges wait for storage, and decides which of them make the next object. Pure.
//!
//! Invariants:
//! - An added byte is either waiting or settled (stored before, or taken by a plan), never both.
//! - A byte leaves in exactly one plan; adding it again changes nothing.
//! - `missing` of an open slot counts its wanted bytes that are neither waiting nor settled; `ready` counts its wanted
//!   bytes that wait. The slot is full when `missing` is 0 and `ready` is not.
//! - `open` holds exactly the slots with waiting bytes; `full` holds exactly the full ones of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use super::{layout::Layout, ranges::RangeSet};

/// The content of the next object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Sorted, disjoint, never adjacent. The object holds them one after the other.
    pub runs: Vec<Range<u64>>,
    /// Whether this is less than a whole slot, or parts of several: such an object cannot be composed server-side
    /// later.
    pub packed: bool,
}

impl Plan {
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
struct Open {
    waiting: RangeSet,
    missing: u64,
    ready: u64,
}

impl Open {
    fn is_full(&self) -> bool {
        self.missing == 0 && self.ready > 0
    }
}

/// The state of one import's slots.
#[derive(Debug)]
pub struct Assembly {
    layout: Arc<Layout>,
    wanted: RangeSet,
    settled: RangeSet,
    open: BTreeMap<usize, Open>,
    full: BTreeSet<usize>,
    waiting: u64,
}

impl Assembly {
    /// An assembly without waiting bytes. `wanted` is what will be stored in the end, `stored` what is stored already.
    #[must_use]
    pub fn new(layout: Arc<Layout>, wanted: &RangeSet, stored: RangeSet) -> Self {
        let wanted = wanted.intersect(&layout.all_stored());
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
        let new = layout.stored(range).flat_map(|part| self.settled.holes(part));
        for part in new.collect::<Vec<_>>() {
            let mut at = part.start;
            while let Some(index) = layout.slot_at(at).filter(|_| at < part.end) {
                let end = part.end.min(layout.slots()[index].end);
                self.add_to_slot(index, at..end);
                at = end;
            }
        }
    }

    fn add_to_slot(&mut self, index: usize, range: Range<u64>) {
        if !self.open.contains_key(&index) {
            let (missing, ready) = self.count(index, &RangeSet::new());
            self.open.insert(index, Open { waiting: RangeSet::new(), missing, ready });
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

    /// Computes `missing` and `ready` of a slot from scratch.
    fn count(&self, index: usize, waiting: &RangeSet) -> (u64, u64) {
        let wanted = self.wanted.within(self.layout.slots()[index].clone());
        let unsettled: Vec<_> = wanted.flat_map(|part| self.settled.holes(part)).collect();
        let total: u64 = unsettled.iter().map(|part| part.end - part.start).sum();
        let ready = unsettled.into_iter().map(|part| waiting.len_within(part)).sum();
        (total - ready, ready)
    }

    /// Changes the set of wanted bytes. Slots may become full by it.
    pub fn set_wanted(&mut self, wanted: &RangeSet) {
        self.wanted = wanted.intersect(&self.layout.all_stored());
        let mut open = std::mem::take(&mut self.open);
        for (index, slot) in &mut open {
            (slot.missing, slot.ready) = self.count(*index, &slot.waiting);
        }
        self.full =
            open.iter().filter(|(_, slot)| slot.is_full()).map(|(index, _)| *index).collect();
        self.open = open;
    }

    /// The rest of a slot whose wanted bytes are all there.
    pub fn take_full(&mut self) -> Option<Plan> {
        self.take_full_where(|_| true)
    }

    /// As [`Assembly::take_full`], limited to the slots that `may` be taken.
    pub fn take_full_where(&mut self, may: impl Fn(usize) -> bool) -> Option<Plan> {
        let index = self.full.iter().copied().find(|index| may(*index))?;
        self.take_slot(index)
    }

    /// The last slot whose wanted bytes are all there, of those that `may` be taken.
    pub fn last_full(&self, may: impl Fn(usize) -> bool) -> Option<usize> {
        self.full.iter().rev().copied().find(|index| may(*index))
    }

    /// Whether some bytes of this slot were stored before, or taken by a plan.
    #[must_use]
    pub fn has_settled(&self, index: usize) -> bool {
        self.settled.overlaps(&self.layout.slots()[index])
    }

    /// The rest of this slot, if it is full.
    pub fn take_slot(&mut self, index: usize) -> Option<Plan> {
        if !self.full.remove(&index) {
            return None;
        }
        let slot = self.open.remove(&index)?;
        let packed = self.has_settled(index);
        Some(self.settle(slot.waiting, packed))
    }

    /// The waiting bytes of the slots that are furthest from full, up to `max_len` bytes: nearly full slots are worth
    /// waiting for. A slot is split only when its waiting bytes alone are longer than `max_len`.
    pub fn take_packed(&mut self, max_len: u64) -> Option<Plan> {
        let mut order: Vec<_> = self.open.iter().map(|(i, slot)| (slot.missing, *i)).collect();
        order.sort_unstable_by_key(|(missing, index)| (u64::MAX - missing, *index));
        let mut taken = RangeSet::new();
        for (_, index) in order {
            let room = max_len - taken.len();
            let Some(slot) = self.open.get_mut(&index) else { continue };
            if slot.waiting.len() <= room {
                slot.waiting.iter().for_each(|run| taken.insert(run));
                self.open.remove(&index);
                self.full.remove(&index);
            } else if taken.is_empty() {
                let part = first_bytes(&slot.waiting, max_len);
                slot.waiting = slot.waiting.minus(&part);
                slot.ready -= part.iter().map(|run| self.wanted.len_within(run)).sum::<u64>();
                if !slot.is_full() {
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

    fn settle(&mut self, taken: RangeSet, packed: bool) -> Plan {
        self.waiting -= taken.len();
        let runs: Vec<_> = taken.iter().collect();
        runs.iter().for_each(|run| self.settled.insert(run.clone()));
        Plan { runs, packed }
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
    use crate::storage::layout::FileSpan;
    use proptest::prelude::*;

    const LEN: u64 = 60;

    /// Files of 22, 8 (padding) and 30 bytes in chunks of 10: slots begin at 0, 10, 20 (2 bytes long), 30, 40 and 50.
    fn layout() -> Arc<Layout> {
        let span = |range, pad| FileSpan { range, pad };
        let spans = [span(0..22, false), span(22..30, true), span(30..LEN, false)];
        Arc::new(Layout::new(LEN, spans, 10, crate::catalog::LayoutKind::Chunks).unwrap())
    }

    fn assembly() -> Assembly {
        Assembly::new(layout(), &RangeSet::from(0..LEN), RangeSet::new())
    }

    #[test]
    fn a_slot_leaves_whole_when_its_last_byte_comes() {
        let mut a = assembly();
        a.add(10..15);
        a.add(16..20);
        assert_eq!(a.take_full(), None);
        a.add(0..17);
        assert_eq!(a.take_full(), Some(Plan { runs: vec![0..10], packed: false }));
        assert_eq!(a.take_full(), Some(Plan { runs: vec![10..20], packed: false }));
        a.add(5..25);
        let last = a.take_full().unwrap();
        assert_eq!(last.runs, [20..22], "a file's end is a whole slot");
        assert!(!last.packed);
        assert_eq!((a.take_full(), a.waiting()), (None, 0));
    }

    #[test]
    fn packing_takes_the_slots_furthest_from_full_first() {
        let mut a = assembly();
        a.add(0..9);
        a.add(10..13);
        a.add(30..32);
        assert_eq!(a.take_packed(10), Some(Plan { runs: vec![10..13, 30..32], packed: true }));
        a.add(9..10);
        assert_eq!(a.take_full().unwrap().runs, [0..10]);
        a.add(13..20);
        let rest = a.take_full().unwrap();
        assert_eq!(
            rest,
            Plan { runs: vec![13..20], packed: true },
            "the rest of a slot is not whole"
        );
    }

    #[test]
    fn unwanted_bytes_wait_without_filling_a_slot() {
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
        Full,
        Packed(u64),
        Want(Range<u64>),
    }

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0..=LEN, 0..=LEN).prop_map(|(a, b)| a.min(b)..a.max(b))
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => range().prop_map(Op::Add),
            2 => Just(Op::Full),
            1 => (1u64..20).prop_map(Op::Packed),
            1 => range().prop_map(Op::Want),
        ]
    }

    proptest! {
        #[test]
        fn every_added_byte_leaves_in_exactly_one_plan(
            stored in range(),
            ops in prop::collection::vec(op(), 0..40),
        ) {
            let stored: RangeSet = layout().stored(stored).collect();
            let mut a = Assembly::new(layout(), &RangeSet::from(0..LEN), stored.clone());
            let (mut added, mut left) = (RangeSet::new(), RangeSet::new());
            let mut plans = Vec::new();
            for op in ops {
                match op {
                    Op::Add(range) => {
                        layout().stored(range.clone()).for_each(|part| added.insert(part));
                        a.add(range);
                    }
                    Op::Full => plans.extend(a.take_full()),
                    Op::Packed(max) => {
                        let plan = a.take_packed(max);
                        prop_assert!(plan.as_ref().is_none_or(|p| p.len() <= max));
                        plans.extend(plan);
                    }
                    Op::Want(range) => a.set_wanted(&RangeSet::from(range)),
                }
            }
            while let Some(plan) = a.take_full().or_else(|| a.take_packed(7)) {
                plans.push(plan);
            }
            prop_assert_eq!(a.waiting(), 0);
            prop_assert!(a.open.is_empty() && a.full.is_empty());
            for run in plans.into_iter().flat_map(|plan| plan.runs) {
                prop_assert!(!left.overlaps(&run), "{:?} left twice", run);
                left.insert(run);
            }
            prop_assert_eq!(left, added.minus(&stored));
        }

        #[test]
        fn a_whole_import_in_any_order_makes_one_unpacked_object_per_slot(
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
            prop_assert_eq!(runs, layout().slots().to_vec());
        }
    }
}
