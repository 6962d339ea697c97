//! The positions of pieces and blocks in an import's byte space. Pure.

use std::ops::Range;

use super::{Metainfo, check::PieceShape};
use crate::memory::BLOCK_LEN;

/// The piece layout of one torrent.
#[derive(Debug, Clone)]
pub(in crate::torrents) struct Geometry {
    piece_len: u64,
    len: u64,
    v1: bool,
    v2: bool,
    /// Pad files, in order. Their bytes are zeros: hashed by v1, never sent, never stored.
    pads: Vec<Range<u64>>,
    /// Real files that are not empty, in order (v2 hashes end at the end of a file).
    files: Vec<Range<u64>>,
}

impl Geometry {
    #[must_use]
    pub(in crate::torrents) fn of(meta: &Metainfo) -> Self {
        let files = meta.files.iter().map(|f| (f.range.clone(), f.pad));
        let versions = (meta.info_hash_v1.is_some(), meta.info_hash_v2.is_some());
        Self::new(u64::from(meta.piece_length), meta.len, versions, files)
    }

    /// `versions`: whether the torrent has v1 and v2 hashes; `files`: every file in order, with whether it is padding.
    fn new(
        piece_len: u64,
        len: u64,
        (v1, v2): (bool, bool),
        files: impl Iterator<Item = (Range<u64>, bool)>,
    ) -> Self {
        let (pads, files): (Vec<_>, Vec<_>) =
            files.filter(|(r, _)| !r.is_empty()).partition(|f| f.1);
        let ranges = |list: Vec<(Range<u64>, bool)>| list.into_iter().map(|f| f.0).collect();
        Self { piece_len, len, v1, v2, pads: ranges(pads), files: ranges(files) }
    }

    #[must_use]
    pub(in crate::torrents) fn pieces(&self) -> u32 {
        u32::try_from(self.len.div_ceil(self.piece_len)).unwrap_or(u32::MAX)
    }

    /// The bytes of a piece; the last one may be shorter.
    #[must_use]
    pub(in crate::torrents) fn piece(&self, piece: u32) -> Range<u64> {
        let start = u64::from(piece) * self.piece_len;
        start.min(self.len)..(start + self.piece_len).min(self.len)
    }

    /// The pieces that overlap `range`.
    #[must_use]
    pub(in crate::torrents) fn pieces_in(&self, range: &Range<u64>) -> Range<u32> {
        if range.is_empty() {
            return 0..0;
        }
        let at = |pos: u64| u32::try_from(pos / self.piece_len).unwrap_or(u32::MAX);
        at(range.start)..at(range.end - 1).saturating_add(1)
    }

    /// Number of blocks of a piece.
    #[must_use]
    pub(in crate::torrents) fn blocks(&self, piece: u32) -> usize {
        let range = self.piece(piece);
        usize::try_from((range.end - range.start).div_ceil(BLOCK_LEN as u64)).unwrap_or(usize::MAX)
    }

    /// The bytes of a block of a piece.
    #[must_use]
    pub(in crate::torrents) fn block(&self, piece: u32, block: usize) -> Range<u64> {
        let range = self.piece(piece);
        let start = range.start + (block * BLOCK_LEN) as u64;
        start..(start + BLOCK_LEN as u64).min(range.end)
    }

    #[must_use]
    pub(in crate::torrents) fn has_v2(&self) -> bool {
        self.v2
    }

    /// The lengths needed to hash a piece. v2 covers a piece up to the end of the file it lies in.
    #[must_use]
    pub(in crate::torrents) fn shape(&self, piece: u32) -> PieceShape {
        let range = self.piece(piece);
        let i = self.files.partition_point(|f| f.end <= range.start);
        let data =
            self.files.get(i).map_or(0, |f| f.end.min(range.end).saturating_sub(range.start));
        let short = |len: u64| u32::try_from(len).expect("a piece is at most 128 MiB");
        PieceShape {
            len: short(range.end - range.start),
            data_len: short(data),
            v1: self.v1,
            v2: self.v2,
        }
    }

    /// The padding inside `range`.
    pub(in crate::torrents) fn pads_in(
        &self,
        range: &Range<u64>,
    ) -> impl Iterator<Item = Range<u64>> + '_ {
        let range = range.clone();
        let first = self.pads.partition_point(|p| p.end <= range.start);
        self.pads[first..]
            .iter()
            .take_while({
                let end = range.end;
                move |p| p.start < end
            })
            .map(move |p| p.start.max(range.start)..p.end.min(range.end))
    }

    /// Whether `range` is all padding (peers never send such a block).
    #[must_use]
    pub(in crate::torrents) fn is_pad(&self, range: &Range<u64>) -> bool {
        !self.pads.is_empty()
            && self.pads_in(range).map(|p| p.end - p.start).sum::<u64>() == range.end - range.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_piece_and_block_are_shorter() {
        let g = Geometry::new(40_000, 100_001, (true, false), std::iter::once((0..100_001, false)));
        assert_eq!(g.pieces(), 3);
        assert_eq!(g.piece(2), 80_000..100_001);
        assert_eq!(g.blocks(2), 2);
        assert_eq!(g.block(2, 1), 80_000 + 16_384..100_001);
        assert_eq!(g.pieces_in(&(39_999..40_001)), 0..2);
        assert_eq!(g.shape(2).len, 20_001);
    }

    #[test]
    fn v2_hashes_end_at_padding() {
        let files = [(0..20_000, false), (20_000..32_768, true), (32_768..32_769, false)];
        let g = Geometry::new(32_768, 32_769, (true, true), files.into_iter());
        assert_eq!(g.shape(0).data_len, 20_000);
        assert_eq!(g.shape(1).data_len, 1);
        assert!(!g.is_pad(&g.block(0, 1)));
        assert_eq!(g.pads_in(&g.block(0, 1)).collect::<Vec<_>>(), vec![20_000..32_768]);
        let v1 = Geometry::new(
            65_536,
            65_536,
            (true, false),
            [(0..1, false), (1..65_536, true)].into_iter(),
        );
        assert!(v1.is_pad(&v1.block(0, 1)) && !v1.is_pad(&v1.block(0, 0)));
    }
}
