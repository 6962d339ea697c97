//! Cuts an import into slots: the ranges that become one object each when memory allows. Pure.
//!
//! The grid starts anew at each file, so that the objects of a file hold nothing else, and equal files make equal
//! objects. Small files share a slot, since an object of a few bytes costs a request and a minimum charge. They do not
//! share one where files are to become objects of their own. Padding is known to be zeros: it lies in no slot and is
//! never stored.

use std::ops::Range;

use super::ranges::RangeSet;
use crate::{
    catalog::{FileRow, LayoutKind},
    error::{Error, Kind, Result},
    units::MIB,
};

/// Files below this length share slots. It is also the smallest part that S3 can compose server-side.
pub const SMALL_FILE: u64 = 5 * MIB;

/// The range of one file. The spans of an import cover it in order; empty files have empty ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpan {
    pub range: Range<u64>,
    pub pad: bool,
}

impl From<&FileRow> for FileSpan {
    fn from(file: &FileRow) -> Self {
        Self { range: file.start..file.start.saturating_add(file.len), pad: file.pad }
    }
}

/// The slots of one import. Every byte that is not padding lies in exactly one slot.
#[derive(Debug, Clone)]
pub struct Layout {
    len: u64,
    chunk_len: u64,
    pads: RangeSet,
    /// Sorted and disjoint. A slot with several files may have padding inside, never at its ends.
    slots: Vec<Range<u64>>,
}

impl Layout {
    /// Cuts `[0, len)` into slots for layout `kind`. A slot holds at most `chunk_len` bytes, padding not counted.
    ///
    /// # Errors
    /// `InvalidInput` when the spans leave a gap, overlap or do not end at `len`, or `chunk_len` is 0.
    pub fn new(
        len: u64,
        spans: impl IntoIterator<Item = FileSpan>,
        chunk_len: u64,
        kind: LayoutKind,
    ) -> Result<Self> {
        let bad = |text: String| Err(Error::new(Kind::InvalidInput, text));
        if chunk_len == 0 {
            return bad("a chunk of 0 bytes holds nothing".into());
        }
        let mut layout = Self { len, chunk_len, pads: RangeSet::new(), slots: Vec::new() };
        let mut at = 0;
        // The slot of small files being filled, and the number of bytes in it without padding.
        let mut shared: Option<(Range<u64>, u64)> = None;
        for FileSpan { range, pad } in spans {
            if range.start != at || range.end < at {
                let Range { start, end } = range;
                return bad(format!(
                    "file at {start}..{end} does not follow the one before, at {at}"
                ));
            }
            at = range.end;
            if pad {
                layout.pads.insert(range);
            } else if !range.is_empty() {
                let alone = kind == LayoutKind::Files || !layout.is_small(&range);
                layout.add_file(range, &mut shared, alone);
            }
        }
        layout.slots.extend(shared.map(|(slot, _)| slot));
        if at == len {
            return Ok(layout);
        }
        bad(format!("the files end at {at}, the import at {len}"))
    }

    fn is_small(&self, file: &Range<u64>) -> bool {
        let len = file.end - file.start;
        len < SMALL_FILE && len <= self.chunk_len
    }

    fn add_file(&mut self, file: Range<u64>, shared: &mut Option<(Range<u64>, u64)>, alone: bool) {
        let len = file.end - file.start;
        if !alone {
            match shared {
                Some((slot, held)) if *held + len <= self.chunk_len => {
                    slot.end = file.end;
                    *held += len;
                }
                _ => self.slots.extend(shared.replace((file, len)).map(|(slot, _)| slot)),
            }
            return;
        }
        self.slots.extend(shared.take().map(|(slot, _)| slot));
        let mut start = file.start;
        while start < file.end {
            let end = start.saturating_add(self.chunk_len).min(file.end);
            self.slots.push(start..end);
            start = end;
        }
    }

    /// The length in bytes, padding included.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[must_use]
    pub fn chunk_len(&self) -> u64 {
        self.chunk_len
    }

    #[must_use]
    pub fn pads(&self) -> &RangeSet {
        &self.pads
    }

    #[must_use]
    pub fn slots(&self) -> &[Range<u64>] {
        &self.slots
    }

    /// The index of the slot that holds `pos`; `None` for padding and past the end.
    #[must_use]
    pub fn slot_at(&self, pos: u64) -> Option<usize> {
        let index = self.slots.partition_point(|slot| slot.end <= pos);
        let inside = self.slots.get(index).is_some_and(|slot| slot.start <= pos);
        (inside && !self.pads.overlaps(&(pos..pos + 1))).then_some(index)
    }

    /// The parts of `range` that have to be stored: inside the import, and not padding.
    pub fn stored(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let end = range.end.min(self.len);
        self.pads.holes(range.start.min(end)..end).into_iter()
    }

    /// Everything that is stored of a complete import.
    #[must_use]
    pub fn all_stored(&self) -> RangeSet {
        self.stored(0..self.len).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spans(files: &[(u64, bool)]) -> (u64, Vec<FileSpan>) {
        let mut at = 0;
        let mut spans = Vec::new();
        for (len, pad) in files {
            spans.push(FileSpan { range: at..at + len, pad: *pad });
            at += len;
        }
        (at, spans)
    }

    fn layout(files: &[(u64, bool)], chunk_len: u64) -> Layout {
        let (len, spans) = spans(files);
        Layout::new(len, spans, chunk_len, LayoutKind::Chunks).unwrap()
    }

    #[test]
    fn files_to_be_published_share_nothing() {
        let (len, spans) = spans(&[(10, false), (5, true), (20, false), (0, false), (MIB, false)]);
        let cut = Layout::new(len, spans, 16, LayoutKind::Files).unwrap();
        assert_eq!(cut.slots()[..4], [0..10, 15..31, 31..35, 35..51]);
    }

    #[test]
    fn the_grid_starts_at_each_large_file_and_small_ones_share() {
        let m = MIB;
        let files = [
            (m, false),
            (m, false),
            (20 * m, false),
            (0, false),
            (2 * m, false),
            (m, true),
            (3 * m, false),
        ];
        let cut = layout(&files, 16 * m);
        assert_eq!(cut.slots(), [0..2 * m, 2 * m..18 * m, 18 * m..22 * m, 22 * m..28 * m]);
        assert_eq!(cut.slot_at(2 * m), Some(1));
        assert_eq!(cut.slot_at(24 * m), None, "padding is in no slot");
        assert_eq!(cut.slot_at(25 * m), Some(3));
        assert_eq!(cut.slot_at(28 * m), None);
        assert_eq!(
            cut.stored(23 * m..27 * m).collect::<Vec<_>>(),
            [23 * m..24 * m, 25 * m..27 * m]
        );
    }

    #[test]
    fn spans_with_gaps_overlaps_or_a_wrong_end_are_refused() {
        let span = |range| FileSpan { range, pad: false };
        for bad in
            [vec![span(0..5), span(6..10)], vec![span(0..6), span(5..10)], vec![span(0..9)], vec![]]
        {
            assert_eq!(
                Layout::new(10, bad, 4, LayoutKind::Chunks).unwrap_err().kind(),
                Kind::InvalidInput
            );
        }
        assert!(Layout::new(10, [span(0..10)], 0, LayoutKind::Chunks).is_err());
        assert!(Layout::new(0, [], 1, LayoutKind::Chunks).unwrap().slots().is_empty());
    }

    #[test]
    fn many_small_files_and_huge_ones_are_cheap() {
        let many: Vec<_> = (0..10_000).map(|n| (20_000 + n % 7, n % 3 == 0)).collect();
        assert!(layout(&many, 16 * MIB).slots().len() < 20);
        assert_eq!(layout(&[(100 << 30, false)], 16 * MIB).slots().len(), 6400);
    }

    proptest! {
        #[test]
        fn every_stored_byte_lies_in_exactly_one_slot(
            files in prop::collection::vec((0u64..30, prop::bool::weighted(0.3)), 0..20),
            chunk_len in 1u64..40,
        ) {
            let cut = layout(&files, chunk_len);
            let mut seen = vec![0; usize::try_from(cut.len()).unwrap()];
            for (index, slot) in cut.slots().iter().enumerate() {
                let held: u64 = cut.stored(slot.clone()).map(|r| r.end - r.start).sum();
                prop_assert!(held > 0 && held <= chunk_len);
                for pos in cut.stored(slot.clone()).flatten() {
                    seen[usize::try_from(pos).unwrap()] += 1;
                    prop_assert_eq!(cut.slot_at(pos), Some(index));
                }
            }
            for (pos, times) in (0u64..).zip(seen) {
                let pad = cut.pads().contains(&(pos..pos + 1));
                prop_assert_eq!(times, i32::from(!pad));
                prop_assert_eq!(cut.slot_at(pos).is_none(), pad);
            }
        }
    }
}
