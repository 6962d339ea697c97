//! Cuts an import into chunks: the ranges that become one object each when memory allows. Pure.
//!
//! The grid starts anew at each file, so that the objects of a file hold nothing else, and equal files make equal
//! objects. Small files share a chunk, since an object of a few bytes costs a request and a minimum charge. They do not
//! share one where files are to become objects of their own. Padding is known to be zeros: it lies in no chunk and is
//! never stored.

use std::ops::Range;

use crate::{
    catalog::{FileRow, LayoutKind},
    content_root::subtree_width,
    error::{Error, Kind, Result},
    ranges::RangeSet,
    units::MIB,
};

/// Files below this length share chunks. It is also the smallest part that S3 can compose server-side.
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

/// The chunks of one import. Every byte that is not padding lies in exactly one chunk.
#[derive(Debug, Clone)]
pub struct Layout {
    len: u64,
    chunk_len: u64,
    pads: RangeSet,
    /// Sorted and disjoint. A chunk with several files may have padding inside, never at its ends.
    chunks: Vec<Range<u64>>,
    /// For each chunk the width of its tree of hashes, if it belongs to one file; 0 if it has no content root.
    root_widths: Vec<u32>,
}

/// A chunk of small files that is being filled.
struct SharedChunk {
    range: Range<u64>,
    /// The number of bytes in it without padding.
    filled: u64,
    files: usize,
}

impl Layout {
    /// Cuts `[0, len)` into chunks for layout `kind`. A chunk holds at most `chunk_len` bytes, padding not counted.
    ///
    /// # Errors
    /// `InvalidInput` when the spans leave a gap, overlap or do not end at `len`, or `chunk_len` is 0.
    pub fn new(
        len: u64,
        spans: impl IntoIterator<Item = FileSpan>,
        chunk_len: u64,
        kind: LayoutKind,
    ) -> Result<Self> {
        let invalid = |text: String| Err(Error::new(Kind::InvalidInput, text));
        if chunk_len == 0 {
            return invalid("the chunk length is 0".into());
        }
        let (pads, chunks, root_widths) = (RangeSet::new(), Vec::new(), Vec::new());
        let mut layout = Self { len, chunk_len, pads, chunks, root_widths };
        let mut at = 0;
        let mut shared: Option<SharedChunk> = None;
        for FileSpan { range, pad } in spans {
            if range.start != at || range.end < at {
                let Range { start, end } = range;
                return invalid(format!(
                    "file at {start}..{end} does not start at {at}, where the file before it ends"
                ));
            }
            at = range.end;
            if pad {
                layout.pads.insert(range);
            } else if !range.is_empty() {
                let unshared = kind == LayoutKind::Files || !layout.is_small(&range);
                layout.add_file(range, &mut shared, unshared);
            }
        }
        layout.end_shared(&mut shared);
        if at == len {
            return Ok(layout);
        }
        invalid(format!("the files end at {at}, but the import ends at {len}"))
    }

    fn is_small(&self, file: &Range<u64>) -> bool {
        let len = file.end - file.start;
        len < SMALL_FILE && len <= self.chunk_len
    }

    fn add_file(&mut self, file: Range<u64>, shared: &mut Option<SharedChunk>, unshared: bool) {
        let len = file.end - file.start;
        if !unshared {
            match shared {
                Some(chunk) if chunk.filled + len <= self.chunk_len => {
                    chunk.range.end = file.end;
                    chunk.filled += len;
                    chunk.files += 1;
                }
                _ => {
                    self.end_shared(shared);
                    *shared = Some(SharedChunk { range: file, filled: len, files: 1 });
                }
            }
            return;
        }
        self.end_shared(shared);
        // A file of one chunk has a tree of its own. The chunks of a longer file are subtrees of its tree.
        let width = if len <= self.chunk_len { Some(1) } else { subtree_width(self.chunk_len) };
        let width = width.and_then(|width| u32::try_from(width).ok()).unwrap_or(0);
        let mut start = file.start;
        while start < file.end {
            let end = start.saturating_add(self.chunk_len).min(file.end);
            self.chunks.push(start..end);
            self.root_widths.push(width);
            start = end;
        }
    }

    fn end_shared(&mut self, shared: &mut Option<SharedChunk>) {
        if let Some(chunk) = shared.take() {
            self.chunks.push(chunk.range);
            self.root_widths.push(u32::from(chunk.files == 1));
        }
    }

    /// The width for [`RootHasher::finish`](crate::content_root::RootHasher::finish), if `run` is one whole chunk of one
    /// file.
    #[must_use]
    pub fn root_width(&self, run: &Range<u64>) -> Option<u64> {
        let index = self.chunk_at(run.start).filter(|index| self.chunks[*index] == *run)?;
        let width = self.root_widths[index];
        (width > 0).then_some(width.into())
    }

    /// The whole chunks of one file, and the widths of their trees.
    pub fn rooted_chunks(&self) -> impl Iterator<Item = (&Range<u64>, u64)> {
        let chunks = self.chunks.iter().zip(&self.root_widths);
        chunks.filter(|(_, width)| **width > 0).map(|(chunk, width)| (chunk, (*width).into()))
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
    pub fn chunks(&self) -> &[Range<u64>] {
        &self.chunks
    }

    /// The index of the chunk that holds `pos`; `None` for padding and past the end.
    #[must_use]
    pub fn chunk_at(&self, pos: u64) -> Option<usize> {
        let index = self.chunks.partition_point(|chunk| chunk.end <= pos);
        let inside = self.chunks.get(index).is_some_and(|chunk| chunk.start <= pos);
        (inside && !self.pads.overlaps(&(pos..pos + 1))).then_some(index)
    }

    /// The parts of `range` that have to be stored: inside the import, and not padding.
    pub fn unpadded(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let end = range.end.min(self.len);
        self.pads.holes(range.start.min(end)..end).into_iter()
    }

    /// Everything that is stored of a complete import.
    #[must_use]
    pub fn all_unpadded(&self) -> RangeSet {
        self.unpadded(0..self.len).collect()
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
    fn files_to_be_published_share_no_chunk() {
        let (len, spans) = spans(&[(10, false), (5, true), (20, false), (0, false), (MIB, false)]);
        let cut = Layout::new(len, spans, 16, LayoutKind::Files).unwrap();
        assert_eq!(cut.chunks()[..4], [0..10, 15..31, 31..35, 35..51]);
    }

    #[test]
    fn chunks_start_anew_at_each_large_file_and_small_files_share_one() {
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
        assert_eq!(cut.chunks(), [0..2 * m, 2 * m..18 * m, 18 * m..22 * m, 22 * m..28 * m]);
        assert_eq!(cut.chunk_at(2 * m), Some(1));
        assert_eq!(cut.chunk_at(24 * m), None, "padding is in no chunk");
        assert_eq!(cut.chunk_at(25 * m), Some(3));
        assert_eq!(cut.chunk_at(28 * m), None);
        assert_eq!(
            cut.unpadded(23 * m..27 * m).collect::<Vec<_>>(),
            [23 * m..24 * m, 25 * m..27 * m]
        );
    }

    #[test]
    fn spans_with_gaps_overlaps_or_a_wrong_end_are_refused() {
        let span = |range| FileSpan { range, pad: false };
        for spans in
            [vec![span(0..5), span(6..10)], vec![span(0..6), span(5..10)], vec![span(0..9)], vec![]]
        {
            assert_eq!(
                Layout::new(10, spans, 4, LayoutKind::Chunks).unwrap_err().kind(),
                Kind::InvalidInput
            );
        }
        assert!(Layout::new(10, [span(0..10)], 0, LayoutKind::Chunks).is_err());
        assert!(Layout::new(0, [], 1, LayoutKind::Chunks).unwrap().chunks().is_empty());
    }

    #[test]
    fn many_small_files_share_few_chunks_and_a_huge_file_has_many() {
        let many: Vec<_> = (0..10_000).map(|n| (20_000 + n % 7, n % 3 == 0)).collect();
        assert!(layout(&many, 16 * MIB).chunks().len() < 20);
        assert_eq!(layout(&[(100 << 30, false)], 16 * MIB).chunks().len(), 6400);
    }

    proptest! {
        #[test]
        fn every_unpadded_byte_lies_in_exactly_one_chunk(
            files in prop::collection::vec((0u64..30, prop::bool::weighted(0.3)), 0..20),
            chunk_len in 1u64..40,
        ) {
            let cut = layout(&files, chunk_len);
            let mut seen = vec![0; usize::try_from(cut.len()).unwrap()];
            for (index, chunk) in cut.chunks().iter().enumerate() {
                let filled: u64 = cut.unpadded(chunk.clone()).map(|r| r.end - r.start).sum();
                prop_assert!(filled > 0 && filled <= chunk_len);
                for pos in cut.unpadded(chunk.clone()).flatten() {
                    seen[usize::try_from(pos).unwrap()] += 1;
                    prop_assert_eq!(cut.chunk_at(pos), Some(index));
                }
            }
            for (pos, times) in (0u64..).zip(seen) {
                let pad = cut.pads().contains(&(pos..pos + 1));
                prop_assert_eq!(times, i32::from(!pad));
                prop_assert_eq!(cut.chunk_at(pos).is_none(), pad);
            }
        }
    }
}
