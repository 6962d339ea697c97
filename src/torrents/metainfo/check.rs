//! Verifies pieces against the torrent's hashes, for v1, v2 and both at once.
//!
//! [`PieceHasher`] hashes a piece's bytes in order, in portions of any size. It needs only lengths ([`PieceShape`]), so
//! that it can also answer libtorrent's own requests for digests. [`PieceHashes`] compares digests with the torrent.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::{
    Metainfo,
    merkle::{self, BLOCK_LEN, Hash},
};

const BLOCK: usize = 16 * 1024;
const _: () = assert!(BLOCK as u64 == BLOCK_LEN);

/// The lengths needed to hash a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceShape {
    /// Length of the piece, pads included. v1 hashes all of it, pads as zeros.
    pub len: u32,
    /// Number of bytes that v2 hashes: those of the one file in the piece, up to the pad.
    pub data_len: u32,
    pub v1: bool,
    pub v2: bool,
}

/// The digests of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceDigests {
    /// The SHA-1 of the whole piece, when the shape includes v1.
    pub v1: Option<[u8; 20]>,
    /// The SHA-256 of each 16 KiB block, the last over its real length. Empty when the shape does not include v2.
    pub v2_blocks: Vec<Hash>,
}

/// Hashes one piece as its bytes arrive.
pub struct PieceHasher {
    sha1: Option<Context>,
    /// The open block, and how many bytes are missing in it.
    block: Option<(Context, usize)>,
    blocks: Vec<Hash>,
    /// Bytes of data that belong to later blocks.
    data_left: usize,
}

impl fmt::Debug for PieceHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PieceHasher").field("blocks", &self.blocks.len()).finish_non_exhaustive()
    }
}

impl PieceHasher {
    #[must_use]
    pub fn new(shape: PieceShape) -> Self {
        let data = if shape.v2 { shape.data_len as usize } else { 0 };
        Self {
            sha1: shape.v1.then(|| Context::new(&SHA1_FOR_LEGACY_USE_ONLY)),
            block: None,
            blocks: Vec::with_capacity(data.div_ceil(BLOCK)),
            data_left: data,
        }
    }

    /// Adds the next bytes. Pads are passed as zeros; in a v2-only torrent, those behind the data may be left out.
    pub fn update(&mut self, mut data: &[u8]) {
        if let Some(sha1) = &mut self.sha1 {
            sha1.update(data);
        }
        while !data.is_empty() {
            let (mut block, missing) = match self.block.take() {
                Some(open) => open,
                None if self.data_left == 0 => return,
                None => {
                    let len = self.data_left.min(BLOCK);
                    self.data_left -= len;
                    (Context::new(&SHA256), len)
                }
            };
            let (now, later) = data.split_at(missing.min(data.len()));
            block.update(now);
            if now.len() == missing {
                self.blocks.push(merkle::to_array(block.finish().as_ref()));
            } else {
                self.block = Some((block, missing - now.len()));
            }
            data = later;
        }
    }

    /// The digests of the bytes so far. For an incomplete piece, the SHA-1 covers these bytes, and the open block is
    /// left out.
    #[must_use]
    pub fn finish(self) -> PieceDigests {
        let v1 = self.sha1.map(|c| merkle::to_array(c.finish().as_ref()));
        PieceDigests { v1, v2_blocks: self.blocks }
    }
}

/// The hashes of a torrent, to check pieces against.
#[derive(Debug, Clone, Copy)]
pub struct PieceHashes<'m> {
    meta: &'m Metainfo,
}

impl<'m> PieceHashes<'m> {
    #[must_use]
    pub fn of(meta: &'m Metainfo) -> Self {
        Self { meta }
    }

    /// The lengths of `piece`; all 0 past the end.
    #[must_use]
    pub fn shape(self, piece: u32) -> PieceShape {
        let range = self.meta.piece_range(piece);
        let (v1, v2) = (self.meta.info_hash_v1.is_some(), self.meta.info_hash_v2.is_some());
        let data_end = match self.meta.file_at(range.start) {
            // In v2, a piece starts at the start of its file, or inside it.
            Some((_, file)) if v2 => file.range.end.min(range.end),
            _ => range.end,
        };
        let len = |end: u64| u32::try_from(end - range.start).expect("at most a piece");
        PieceShape { len: len(range.end), data_len: len(data_end), v1, v2 }
    }

    /// A hasher for `piece`.
    #[must_use]
    pub fn hasher(self, piece: u32) -> PieceHasher {
        PieceHasher::new(self.shape(piece))
    }

    /// Whether there is a hash to check `piece` against. There is none for a file longer than a piece in a v2-only
    /// torrent without piece layers.
    #[must_use]
    pub fn is_known(self, piece: u32) -> bool {
        self.v1(piece).is_some() || self.meta.piece_v2(piece).is_some()
    }

    /// Whether `digests` match `piece`. A piece of a hybrid must match both hashes, or the only one that is known.
    /// `false` when no hash is known ([`PieceHashes::is_known`]).
    #[must_use]
    pub fn verify(self, piece: u32, digests: &PieceDigests) -> bool {
        let v1 = self.v1(piece).map(|hash| digests.v1.as_ref() == Some(hash));
        let v2 = self.meta.piece_v2(piece);
        let v2 = v2.map(|hash| self.v2_root(piece, &digests.v2_blocks).as_ref() == Some(hash));
        match (v1, v2) {
            (Some(v1), Some(v2)) => v1 && v2,
            (one, other) => one.or(other).unwrap_or(false),
        }
    }

    /// As [`PieceHashes::verify`], for the bytes themselves, with pads as zeros.
    pub fn verify_piece<'d>(self, piece: u32, data: impl IntoIterator<Item = &'d [u8]>) -> bool {
        let mut hasher = self.hasher(piece);
        data.into_iter().for_each(|part| hasher.update(part));
        self.verify(piece, &hasher.finish())
    }

    /// Whether bytes that were verified before still match `piece`, with pads as zeros. Uses only one hash where there
    /// are two, which takes half the time. `true` when no hash is known.
    #[must_use]
    pub fn verify_again<'d>(self, piece: u32, data: impl IntoIterator<Item = &'d [u8]>) -> bool {
        let mut shape = self.shape(piece);
        shape.v2 &= self.v1(piece).is_none();
        let mut hasher = PieceHasher::new(shape);
        data.into_iter().for_each(|part| hasher.update(part));
        let digests = hasher.finish();
        match (self.v1(piece), self.meta.piece_v2(piece)) {
            (Some(v1), _) => digests.v1.as_ref() == Some(v1),
            (None, Some(v2)) => self.v2_root(piece, &digests.v2_blocks).as_ref() == Some(v2),
            (None, None) => true,
        }
    }

    /// The v2 hash of `piece` from the hashes of its blocks; `None` when the number of blocks is wrong.
    #[must_use]
    pub fn v2_root(self, piece: u32, blocks: &[Hash]) -> Option<Hash> {
        let shape = self.shape(piece);
        if blocks.is_empty() || blocks.len() != (shape.data_len as usize).div_ceil(BLOCK) {
            return None;
        }
        let (_, file) = self.meta.file_at(self.meta.piece_range(piece).start)?;
        let small = file.range.end - file.range.start <= u64::from(self.meta.piece_length);
        Some(if small {
            merkle::small_file_root(blocks)
        } else {
            merkle::piece_root(blocks, self.meta.piece_length)
        })
    }

    fn v1(self, piece: u32) -> Option<&'m [u8; 20]> {
        self.meta.pieces_v1().get(piece as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bytes of the file that `testdata/generate.py` makes with this `seed`.
    fn data(len: usize, seed: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from((31 * i + 17 * seed + i / 256) % 256).unwrap()).collect()
    }

    /// The linear space of a torrent of `testdata`, with pads as zeros.
    fn payload(meta: &Metainfo) -> Vec<u8> {
        let seeds =
            [("m/a.bin", 1), ("m/sub/b.bin", 2), ("m/z.bin", 4), ("one.bin", 5), ("s.bin", 6)];
        let mut all = Vec::new();
        for file in &meta.files {
            let len = usize::try_from(file.range.end - file.range.start).unwrap();
            match seeds.iter().find(|(path, _)| *path == file.path) {
                Some((_, seed)) if !file.pad => all.extend(data(len, *seed)),
                _ => all.extend(vec![0; len]),
            }
        }
        all
    }

    fn torrents() -> Vec<(&'static str, Metainfo)> {
        let all: [(&str, &[u8]); 9] = [
            ("multi_v1", include_bytes!("testdata/multi_v1.torrent")),
            ("multi_v2", include_bytes!("testdata/multi_v2.torrent")),
            ("multi_hybrid", include_bytes!("testdata/multi_hybrid.torrent")),
            ("single_v1", include_bytes!("testdata/single_v1.torrent")),
            ("single_v2", include_bytes!("testdata/single_v2.torrent")),
            ("single_hybrid", include_bytes!("testdata/single_hybrid.torrent")),
            ("tiny_v1", include_bytes!("testdata/tiny_v1.torrent")),
            ("tiny_v2", include_bytes!("testdata/tiny_v2.torrent")),
            ("tiny_hybrid", include_bytes!("testdata/tiny_hybrid.torrent")),
        ];
        all.into_iter().map(|(name, bytes)| (name, Metainfo::parse(bytes).expect(name))).collect()
    }

    fn piece<'p>(meta: &Metainfo, payload: &'p [u8], piece: u32) -> &'p [u8] {
        let range = meta.piece_range(piece);
        &payload[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
    }

    #[test]
    fn pieces_hashed_by_libtorrent_pass() {
        for (name, meta) in torrents() {
            let (hashes, payload) = (PieceHashes::of(&meta), payload(&meta));
            assert_eq!(payload.len() as u64, meta.len);
            for p in 0..meta.pieces() {
                assert!(hashes.is_known(p));
                assert!(hashes.verify_piece(p, [piece(&meta, &payload, p)]), "{name} piece {p}");
            }
            assert!(!hashes.is_known(meta.pieces()));
            assert!(!hashes.verify_piece(meta.pieces(), [&b"x"[..]]));
        }
    }

    #[test]
    fn any_changed_or_missing_byte_fails() {
        for (name, meta) in torrents() {
            let (hashes, payload) = (PieceHashes::of(&meta), payload(&meta));
            for p in 0..meta.pieces() {
                let shape = hashes.shape(p);
                let whole = piece(&meta, &payload, p);
                for at in [0, shape.data_len as usize / 2, shape.data_len as usize - 1] {
                    let mut changed = whole.to_vec();
                    changed[at] ^= 1;
                    assert!(!hashes.verify_piece(p, [&changed[..]]), "{name} piece {p} byte {at}");
                }
                let short = &whole[..shape.data_len as usize - 1];
                assert!(!hashes.verify_piece(p, [short]), "{name} piece {p}");
                assert!(!hashes.verify_piece(p, []), "{name} piece {p}");
            }
        }
    }

    #[test]
    fn a_hybrid_piece_must_match_both_hashes() {
        let (_, meta) = torrents().swap_remove(2);
        let (hashes, payload) = (PieceHashes::of(&meta), payload(&meta));
        let mut hasher = hashes.hasher(0);
        hasher.update(piece(&meta, &payload, 0));
        let good = hasher.finish();
        assert!(hashes.verify(0, &good));
        let mut other = good.clone();
        other.v1 = Some([7; 20]);
        assert!(!hashes.verify(0, &other));
        let mut other = good.clone();
        other.v2_blocks[1] = [7; 32];
        assert!(!hashes.verify(0, &other));
        assert!(!hashes.verify(0, &PieceDigests { v1: None, ..good.clone() }));
        assert!(!hashes.verify(0, &PieceDigests { v2_blocks: Vec::new(), ..good }));
    }

    #[test]
    fn v2_neither_needs_nor_hashes_the_pad() {
        let (_, meta) = torrents().swap_remove(1);
        let (hashes, payload) = (PieceHashes::of(&meta), payload(&meta));
        let shape = hashes.shape(1);
        assert_eq!(shape, PieceShape { len: 32768, data_len: 100, v1: false, v2: true });
        assert!(hashes.verify_piece(1, [&piece(&meta, &payload, 1)[..100]]));
        assert!(hashes.verify_piece(1, [&piece(&meta, &payload, 1)[..100], b"junk in the pad"]));
    }

    proptest! {
        #[test]
        fn the_digest_does_not_depend_on_how_bytes_are_split(cuts in prop::collection::vec(1usize..20_000, 1..12)) {
            for (_, meta) in torrents() {
                let (hashes, payload) = (PieceHashes::of(&meta), payload(&meta));
                let mut rest = piece(&meta, &payload, 0);
                let mut parts = Vec::new();
                for cut in &cuts {
                    let (part, later) = rest.split_at(rest.len().min(*cut));
                    parts.push(part);
                    rest = later;
                }
                parts.push(rest);
                prop_assert!(hashes.verify_piece(0, parts));
            }
        }
    }
}
