//! Content roots that follow from the hashes of a v2 torrent, so that the bytes need not be hashed again for them.

use std::ops::Range;

use super::{
    Metainfo,
    merkle::{Hash, blocks_per_piece},
};
use crate::content_root::{tree, zeros};

impl Metainfo {
    /// The content root of a chunk of one file, as a tree of `width` leaves. `None` for v1, where piece layers are
    /// missing, and where a piece is longer than the chunk.
    #[must_use]
    pub fn content_root(&self, chunk: &Range<u64>, width: u64) -> Option<Hash> {
        let (index, file) = self.file_at(chunk.start)?;
        let root = *self.root(index)?;
        if *chunk == file.range {
            return Some(root);
        }
        let piece = u64::from(self.piece_length);
        let blocks = blocks_per_piece(self.piece_length);
        if !width.is_multiple_of(blocks) || !chunk.start.is_multiple_of(piece) {
            return None;
        }
        let pieces = u32::try_from(chunk.start / piece).ok()?..;
        let pieces = pieces.take(usize::try_from((chunk.end - chunk.start).div_ceil(piece)).ok()?);
        let roots: Option<Vec<Hash>> = pieces.map(|piece| self.piece_v2(piece).copied()).collect();
        Some(tree(roots?, width / blocks, zeros(blocks)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content_root::{LEAF_LEN, RootHasher};

    fn hashed(bytes: &[u8], width: u64) -> Hash {
        let mut hasher = RootHasher::default();
        hasher.update(bytes);
        hasher.finish(width)
    }

    /// The bytes of the file of `testdata/generate.py` with this seed.
    fn data(len: u64, seed: u64) -> Vec<u8> {
        (0..len).map(|i| ((31 * i + 17 * seed + i / 256) % 256).to_le_bytes()[0]).collect()
    }

    #[test]
    fn the_roots_of_a_torrent_are_those_of_its_bytes() {
        for torrent in [
            &include_bytes!("testdata/multi_v2.torrent")[..],
            include_bytes!("testdata/multi_hybrid.torrent"),
        ] {
            let meta = Metainfo::parse(torrent).unwrap();
            let file = |name: &str| meta.files.iter().find(|f| f.path == name).unwrap();
            for (name, seed) in [("m/a.bin", 1), ("m/sub/b.bin", 2), ("m/z.bin", 4)] {
                let range = file(name).range.clone();
                let bytes = data(range.end - range.start, seed);
                assert_eq!(meta.content_root(&range, 1), Some(hashed(&bytes, 1)), "{name}");
            }
            let range = file("m/z.bin").range.clone();
            let bytes = data(range.end - range.start, 4);
            for (part, width) in [(0..4, 4), (4..6, 4), (0..2, 2), (4..6, 2)] {
                let start = range.start + part.start * LEAF_LEN;
                let chunk = start..range.end.min(range.start + part.end * LEAF_LEN);
                let at = |pos: u64| usize::try_from(pos - range.start).unwrap();
                let expected = hashed(&bytes[at(chunk.start)..at(chunk.end)], width);
                assert_eq!(meta.content_root(&chunk, width), Some(expected), "{part:?}");
            }
            let half_a_piece = range.start..range.start + LEAF_LEN;
            assert_eq!(meta.content_root(&half_a_piece, 1), None);
        }
        let v1 = Metainfo::parse(include_bytes!("testdata/multi_v1.torrent")).unwrap();
        assert_eq!(v1.content_root(&v1.files[0].range, 1), None);
    }
}
