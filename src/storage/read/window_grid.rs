//! Divides an import into windows for reading. Each window is fetched, verified and cached as a whole. Pure.
//!
//! A window for peers consists of whole pieces, so that it can be verified before any of it is sent. It has as many
//! pieces as are worth one GET from its storage ([`Capabilities::window`](crate::backends::Capabilities)), or one piece
//! that is longer. Peers request pieces in no order, so neighbours of a requested piece are often evicted before a peer
//! requests them. Players read sequentially: their window is 1 MiB.
//!
//! The grid covers the import, not its objects. So no piece lies in two windows, and a piece is fetched once wherever
//! its file begins and wherever its bytes were moved meanwhile.

use std::ops::Range;

use crate::units::MIB;

/// The window length for sequential readers. Smaller windows cost more requests than they save bytes.
pub(in crate::storage) const WINDOW: u64 = MIB;

/// The window grid of one import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WindowGrid {
    /// The length of the unit that can be verified by itself (a piece); `None` without verification.
    unit: Option<u64>,
    window: u64,
    len: u64,
}

impl WindowGrid {
    /// For an import of `len` bytes that is read sequentially.
    pub(in crate::storage) fn sequential(len: u64) -> Self {
        Self { unit: None, window: WINDOW, len }
    }

    // ANCHOR: of_pieces
    /// For an import of `len` bytes in pieces of `piece_len`, which are verified. One GET should read at least
    /// `min_len` bytes.
    pub(in crate::storage) fn of_pieces(len: u64, piece_len: u64, min_len: u64) -> Self {
        let unit = piece_len.max(1);
        Self { unit: Some(unit), window: unit * min_len.max(1).div_ceil(unit), len }
    }
    // ANCHOR_END: of_pieces

    /// The window that contains `pos`.
    pub(in crate::storage) fn window(&self, pos: u64) -> Range<u64> {
        let start = pos / self.window * self.window;
        start..(start + self.window).min(self.len)
    }

    /// The smallest range that can be fetched for `range`: whole pieces where they are verified.
    pub(in crate::storage) fn units(&self, range: &Range<u64>) -> Range<u64> {
        let Some(unit) = self.unit else { return range.clone() };
        range.start / unit * unit..range.end.next_multiple_of(unit).min(self.len)
    }

    /// A window may be cut at each multiple of this length.
    pub(in crate::storage) fn unit(&self) -> u64 {
        self.unit.unwrap_or(self.window)
    }

    /// The windows that overlap `range`, in order.
    pub(in crate::storage) fn windows(
        &self,
        range: &Range<u64>,
    ) -> impl Iterator<Item = Range<u64>> + use<> {
        let (grid, end) = (*self, range.end.min(self.len));
        let first = (range.start < end).then(|| grid.window(range.start));
        std::iter::successors(first, move |last| (last.end < end).then(|| grid.window(last.end)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::units::KIB;

    #[test]
    fn a_window_is_the_fewest_whole_pieces_worth_a_get() {
        let window =
            |piece, min_len| WindowGrid::of_pieces(100 * MIB, piece, min_len).window(0).end;
        assert_eq!(WindowGrid::sequential(100 * MIB).window(0).end, MIB);
        assert_eq!(window(256 * KIB, MIB), MIB);
        assert_eq!(window(256 * KIB, 512 * KIB), 512 * KIB);
        assert_eq!(window(16 * KIB, 256 * KIB), 256 * KIB);
        assert_eq!(window(768 * KIB, MIB), 1536 * KIB);
        assert_eq!(window(4 * MIB, MIB), 4 * MIB);
        let odd = WindowGrid::of_pieces(5 * MIB + 3, 4 * MIB, MIB);
        assert_eq!(odd.window(5 * MIB), 4 * MIB..5 * MIB + 3);
        assert_eq!(odd.units(&(10..11)), 0..4 * MIB);
        assert_eq!(odd.windows(&(0..0)).count(), 0);
    }

    proptest! {
        #[test]
        fn the_windows_of_a_range_cover_it_without_gaps(
            piece in proptest::option::of(1u64..3 * MIB),
            len in 1u64..20 * MIB,
            min_len in 1u64..3 * MIB,
            a in 0u64..20 * MIB,
            b in 0u64..20 * MIB,
        ) {
            let range = a.min(b).min(len)..a.max(b).min(len);
            let grid = match piece {
                Some(piece) => WindowGrid::of_pieces(len, piece, min_len),
                None => WindowGrid::sequential(len),
            };
            let min_len = piece.map_or(WINDOW, |_| min_len);
            let windows: Vec<_> = grid.windows(&range).collect();
            prop_assert_eq!(windows.is_empty(), range.is_empty());
            for pair in windows.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
            }
            if let (Some(first), Some(last)) = (windows.first(), windows.last()) {
                prop_assert!(first.start <= range.start && range.end <= last.end);
                prop_assert!(range.start < first.end && last.start < range.end);
                for window in &windows {
                    prop_assert!(window.end - window.start >= min_len.min(len) || window.end == len);
                    prop_assert_eq!(&grid.units(window), window);
                }
            }
        }
    }
}
