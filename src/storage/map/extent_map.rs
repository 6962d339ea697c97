//! Maps the ranges of one import to the objects that hold them. Pure.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    catalog::{Extent, ObjectNum},
    error::{Error, Kind, Result},
    ranges::gaps,
};

/// A part of a requested range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtentSegment {
    /// In `object`, from `offset` on.
    Stored { range: Range<u64>, object: ObjectNum, offset: u64 },
    /// Not stored yet.
    Hole(Range<u64>),
}

/// The extents of an import by position; they never overlap.
#[derive(Debug, Clone, Default)]
pub struct ExtentMap {
    by_start: BTreeMap<u64, Extent>,
}

impl ExtentMap {
    /// Adds an extent.
    ///
    /// # Errors
    /// `Internal` when it is empty or overlaps an existing extent.
    pub fn insert(&mut self, extent: Extent) -> Result<()> {
        let Range { start, end } = extent.range;
        if start >= end || self.overlapping(&extent.range).next().is_some() {
            let text = format!("extent {start}..{end} is empty or overlaps another");
            return Err(Error::new(Kind::Internal, text));
        }
        self.by_start.insert(start, extent);
        Ok(())
    }

    /// Inserts `extent` over whatever held its range. Returns the objects that lost a part.
    pub fn replace(&mut self, extent: Extent) -> Vec<ObjectNum> {
        let overlapped: Vec<Extent> = self.overlapping(&extent.range).cloned().collect();
        for old in &overlapped {
            self.by_start.remove(&old.range.start);
            let rest = old.without(&extent.range);
            self.by_start.extend(rest.into_iter().map(|rest| (rest.range.start, rest)));
        }
        if !extent.range.is_empty() {
            self.by_start.insert(extent.range.start, extent);
        }
        overlapped.into_iter().map(|old| old.object).collect()
    }

    /// The extents that overlap `range`, in order.
    fn overlapping(&self, range: &Range<u64>) -> impl Iterator<Item = &Extent> {
        let Range { start, end } = *range;
        let first = self.by_start.range(..start).next_back();
        let rest = self.by_start.range(start..end.max(start));
        first
            .into_iter()
            .chain(rest)
            .map(|(_, e)| e)
            .filter(move |e| e.range.end > start && start < end)
    }

    /// The parts of `range` that are stored, in order.
    pub fn stored_within(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let Range { start, end } = *range;
        self.overlapping(range).map(move |e| e.range.start.max(start)..e.range.end.min(end))
    }

    /// `range` as stored parts and holes, in order and without gaps.
    #[must_use]
    pub fn segments(&self, range: Range<u64>) -> Vec<ExtentSegment> {
        let mut out = Vec::new();
        let mut at = range.start;
        for extent in self.overlapping(&range) {
            let part = extent.range.start.max(range.start)..extent.range.end.min(range.end);
            if at < part.start {
                out.push(ExtentSegment::Hole(at..part.start));
            }
            at = part.end;
            let offset = extent.offset + (part.start - extent.range.start);
            out.push(ExtentSegment::Stored { range: part, object: extent.object, offset });
        }
        if at < range.end {
            out.push(ExtentSegment::Hole(at..range.end));
        }
        out
    }

    /// Whether all of `range` is stored; true for an empty range.
    #[must_use]
    pub fn covers(&self, range: &Range<u64>) -> bool {
        self.holes(range.clone()).is_empty()
    }

    /// The parts of `range` that are not stored, in order.
    #[must_use]
    pub fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        gaps(range.clone(), self.stored_within(&range))
    }

    /// All extents, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.by_start.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEN: u64 = 64;

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0..LEN, 0..LEN).prop_map(|(a, b)| a.min(b)..a.max(b))
    }

    proptest! {
        #[test]
        fn the_map_matches_a_model_of_one_cell_per_byte(
            inserts in prop::collection::vec((range(), 0u64..1000, prop::bool::weighted(0.2)), 0..20),
            queried in range(),
        ) {
            let mut map = ExtentMap::default();
            let mut cells: Vec<Option<(u64, u64)>> = vec![None; usize::try_from(LEN).unwrap()];
            for (num, (range, offset, replace)) in (0u64..).zip(inserts) {
                let at = |n: u64| usize::try_from(n).unwrap();
                let is_free = replace || cells[at(range.start)..at(range.end)].iter().all(Option::is_none);
                let extent = Extent { range: range.clone(), object: ObjectNum(num), offset };
                if replace {
                    map.replace(extent);
                } else {
                    prop_assert_eq!(map.insert(extent).is_ok(), is_free && !range.is_empty());
                }
                if is_free {
                    range.clone().for_each(|n| cells[at(n)] = Some((num, offset + n - range.start)));
                }
            }
            let mut seen = Vec::new();
            for segment in map.segments(queried.clone()) {
                match segment {
                    ExtentSegment::Hole(hole) => seen.extend(hole.map(|_| None)),
                    ExtentSegment::Stored { range, object, offset } => {
                        let byte = |n| Some((object.0, offset + n - range.start));
                        seen.extend(range.clone().map(byte));
                    }
                }
            }
            let expected = &cells[usize::try_from(queried.start).unwrap()..usize::try_from(queried.end).unwrap()];
            prop_assert_eq!(&seen[..], expected);
            prop_assert_eq!(map.covers(&queried), expected.iter().all(Option::is_some));
        }
    }
}
