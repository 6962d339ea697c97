//! Sets of positions as sorted, disjoint, non-adjacent half-open ranges. Pure.

use std::{
    collections::BTreeMap,
    ops::{Bound, Range},
};

/// A set of `u64` positions. An operation costs O(log n) plus the number of ranges it touches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// Start to end. Invariant: `start < end`, and each end lies before the next start.
    map: BTreeMap<u64, u64>,
    len: u64,
}

impl RangeSet {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of positions.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.map.iter().map(|(start, end)| *start..*end)
    }

    /// Adds every position of `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        if let Some((s, e)) = self.map.range(..=start).next_back().filter(|(_, e)| **e >= start) {
            if *e >= end {
                return;
            }
            start = *s;
        }
        while let Some((&s, &e)) = self.map.range(start..=end).next() {
            self.map.remove(&s);
            self.len -= e - s;
            end = end.max(e);
        }
        self.map.insert(start, end);
        self.len += end - start;
    }

    /// Removes every position of `range`.
    pub fn remove(&mut self, range: Range<u64>) {
        while let Some(cut) = self.first_within(&range) {
            let (&start, &end) = self
                .map
                .range(..=cut.start)
                .next_back()
                .expect("a part inside the range lies in some range of the set");
            self.map.remove(&start);
            if start < cut.start {
                self.map.insert(start, cut.start);
            }
            if cut.end < end {
                self.map.insert(cut.end, end);
            }
            self.len -= cut.end - cut.start;
        }
    }

    /// Whether every position of `range` is in the set; true for an empty range.
    #[must_use]
    pub fn contains(&self, range: &Range<u64>) -> bool {
        let before = self.map.range(..=range.start).next_back();
        range.is_empty() || before.is_some_and(|(_, end)| *end >= range.end)
    }

    /// Whether any position of `range` is in the set.
    #[must_use]
    pub fn overlaps(&self, range: &Range<u64>) -> bool {
        self.first_within(range).is_some()
    }

    fn first_within(&self, range: &Range<u64>) -> Option<Range<u64>> {
        self.within(range.clone()).next()
    }

    /// The parts of the set inside `range`, in order.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let Range { start, end } = range;
        let end = end.max(start);
        let first = self.map.range(..=start).next_back();
        let rest = (Bound::Excluded(start), Bound::Included(end));
        // The end is included because a `BTreeMap` panics when both bounds exclude the same value; the filter drops it.
        let parts = first.into_iter().chain(self.map.range(rest));
        parts.map(move |(s, e)| start.max(*s)..end.min(*e)).filter(|part| part.start < part.end)
    }

    /// The number of positions of `range` in the set.
    #[must_use]
    pub fn len_within(&self, range: Range<u64>) -> u64 {
        self.within(range).map(|part| part.end - part.start).sum()
    }

    /// The parts of `range` that are not in the set, in order.
    #[must_use]
    pub fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        gaps(range.clone(), self.within(range))
    }

    /// The positions that are in both sets.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        self.iter().flat_map(|range| other.within(range)).collect()
    }

    /// The positions of this set that are not in the other.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.iter().flat_map(|range| other.holes(range)).collect()
    }
}

/// The gaps of `range` between `parts`, which lie inside it in order.
pub(super) fn gaps(
    range: Range<u64>,
    parts: impl IntoIterator<Item = Range<u64>>,
) -> Vec<Range<u64>> {
    let mut out = Vec::new();
    let mut at = range.start;
    for part in parts {
        if at < part.start {
            out.push(at..part.start);
        }
        at = part.end;
    }
    if at < range.end {
        out.push(at..range.end);
    }
    out
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::new();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

impl From<Range<u64>> for RangeSet {
    fn from(range: Range<u64>) -> Self {
        Self::from_iter([range])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEN: usize = 48;

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0..LEN as u64, 0..LEN as u64).prop_map(|(a, b)| a.min(b)..a.max(b))
    }

    fn bits(ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<bool> {
        let mut bits = vec![false; LEN];
        for range in ranges {
            for at in range {
                bits[usize::try_from(at).unwrap()] = true;
            }
        }
        bits
    }

    proptest! {
        #[test]
        fn a_set_matches_a_row_of_bits(
            steps in prop::collection::vec((any::<bool>(), range()), 0..40),
            queried in range(),
        ) {
            let mut set = RangeSet::new();
            let mut model = vec![false; LEN];
            for (insert, range) in steps {
                for at in range.clone() {
                    model[usize::try_from(at).unwrap()] = insert;
                }
                if insert { set.insert(range) } else { set.remove(range) }
                prop_assert_eq!(&bits(set.iter()), &model);
                prop_assert_eq!(set.len(), model.iter().filter(|b| **b).count() as u64);
                let ranges: Vec<_> = set.iter().collect();
                prop_assert!(ranges.windows(2).all(|w| w[0].end < w[1].start));
            }
            let slice = &model[usize::try_from(queried.start).unwrap()..usize::try_from(queried.end).unwrap()];
            prop_assert_eq!(set.contains(&queried), slice.iter().all(|b| *b));
            prop_assert_eq!(set.overlaps(&queried), slice.iter().any(|b| *b));
            prop_assert_eq!(set.len_within(queried.clone()), slice.iter().filter(|b| **b).count() as u64);
            let mut both = bits(set.within(queried.clone()));
            prop_assert!(bits(set.intersect(&queried.clone().into()).iter()) == both);
            for at in set.holes(queried.clone()).into_iter().flatten() {
                both[usize::try_from(at).unwrap()] = true;
            }
            prop_assert_eq!(both, bits([queried.clone()]));
            let rest = set.minus(&queried.clone().into());
            prop_assert_eq!(rest.len() + set.len_within(queried.clone()), set.len());
            prop_assert!(!rest.overlaps(&queried));
        }
    }
}
