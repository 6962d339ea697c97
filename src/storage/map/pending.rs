//! Holds verified bytes that are not durable yet, by position. Pure.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;

use crate::ranges::gaps;

/// Parts in memory by position; they never overlap. Bytes are sliced, never copied.
#[derive(Debug, Default)]
pub(super) struct PendingBytes {
    parts: BTreeMap<u64, Bytes>,
}

impl PendingBytes {
    /// The parts that overlap `range`, in order, clipped to it.
    pub(in crate::storage) fn within(
        &self,
        range: &Range<u64>,
    ) -> impl Iterator<Item = (u64, Bytes)> {
        let Range { start, end } = *range;
        let first = self.parts.range(..start).next_back();
        let rest = self.parts.range(start..end.max(start));
        first.into_iter().chain(rest).filter_map(move |(at, part)| clip(*at, part, &(start..end)))
    }

    /// The ranges of `range` without pending bytes, in order.
    pub(in crate::storage) fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let parts = self.within(&range).map(|(at, part)| at..at + part.len() as u64);
        gaps(range.clone(), parts)
    }

    /// Adds those bytes of `parts`, which begin at `pos`, that lie in `new`: sorted ranges without pending bytes.
    pub(in crate::storage) fn insert(&mut self, pos: u64, parts: Vec<Bytes>, new: &[Range<u64>]) {
        let mut at = pos;
        let mut new = new.iter().peekable();
        for part in parts {
            let end = at + part.len() as u64;
            while let Some(range) = new.peek().filter(|range| range.start < end) {
                if let Some((at, part)) = clip(at, &part, range) {
                    self.parts.insert(at, part);
                }
                if range.end > end {
                    break;
                }
                new.next();
            }
            at = end;
        }
    }

    /// Removes `range` and returns its parts, so that the caller can free them without holding a lock.
    pub(in crate::storage) fn remove(&mut self, range: &Range<u64>) -> Vec<Bytes> {
        let starts: Vec<u64> = {
            let first = self.parts.range(..range.start).next_back();
            let rest = self.parts.range(range.start..range.end.max(range.start));
            first.into_iter().chain(rest).map(|(at, _)| *at).collect()
        };
        let mut out = Vec::with_capacity(starts.len());
        for at in starts {
            let end = at + self.parts.get(&at).map_or(0, |part| part.len() as u64);
            if end <= range.start {
                continue;
            }
            let Some(part) = self.parts.remove(&at) else { continue };
            // A part may extend beyond the object; the bytes outside of it stay.
            for outside in [at..range.start, range.end..end] {
                if let Some((at, rest)) = clip(at, &part, &outside) {
                    self.parts.insert(at, rest);
                }
            }
            out.extend(clip(at, &part, range).map(|(_, part)| part));
        }
        out
    }

    /// The number of pending bytes.
    pub(in crate::storage) fn len(&self) -> u64 {
        self.parts.values().map(|part| part.len() as u64).sum()
    }

    /// Removes and returns all parts.
    pub(super) fn take_all(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.parts).into_values().collect()
    }
}

/// The overlap of the part at `at` with `range`; `None` when they do not overlap.
fn clip(at: u64, part: &Bytes, range: &Range<u64>) -> Option<(u64, Bytes)> {
    let start = range.start.max(at);
    let end = range.end.min(at + part.len() as u64);
    if start >= end {
        return None;
    }
    let index = |pos: u64| usize::try_from(pos - at).expect("an index into a slice in memory");
    Some((start, part.slice(index(start)..index(end))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(range: &Range<u64>) -> Bytes {
        range.clone().map(|n| u8::try_from(n).unwrap()).collect::<Vec<_>>().into()
    }

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0..100u64, 0..20u64).prop_map(|(start, len)| start..start + len)
    }

    proptest! {
        #[test]
        fn parts_keep_their_position_through_inserts_and_removes(
            steps in prop::collection::vec((any::<bool>(), range(), 1usize..8), 1..40),
        ) {
            let mut pending = PendingBytes::default();
            let mut model = vec![false; 128];
            let at = |n: u64| usize::try_from(n).unwrap();
            for (insert, range, part_len) in steps {
                let flags = &mut model[at(range.start)..at(range.end)];
                if insert {
                    let new = pending.holes(range.clone());
                    let whole = bytes(&range);
                    let parts = whole.chunks(part_len).map(Bytes::copy_from_slice).collect();
                    pending.insert(range.start, parts, &new);
                    flags.fill(true);
                } else {
                    let removed: usize = pending.remove(&range).iter().map(Bytes::len).sum();
                    prop_assert_eq!(removed, flags.iter().filter(|f| **f).count());
                    flags.fill(false);
                }
                let mut seen = vec![false; 128];
                for (start, part) in pending.within(&(0..128)) {
                    let range = start..start + part.len() as u64;
                    prop_assert_eq!(&part, &bytes(&range));
                    range.for_each(|n| seen[at(n)] = true);
                }
                prop_assert_eq!(&seen, &model);
            }
        }
    }
}
