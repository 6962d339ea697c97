//! The hash trees of BitTorrent v2 (BEP 52): SHA-256 over 16 KiB blocks, then over pairs, up to one root per file.
//!
//! A tree is padded to a power of two with leaves of 32 zero bytes. A file no longer than a piece is padded only to its
//! own next power of two. In a longer file every piece, including the last, is padded to the blocks of a whole piece.

use crate::content_root::{tree, zeros};

pub use crate::content_root::{LEAF_LEN as BLOCK_LEN, Root as Hash, sha256};

/// The root of a file no longer than a piece, from the hashes of its blocks.
#[must_use]
pub fn small_file_root(blocks: &[Hash]) -> Hash {
    tree(blocks.to_vec(), 1, [0; 32])
}

/// The root of one piece of a longer file, from the hashes of its blocks. The last piece may have fewer blocks.
#[must_use]
pub fn piece_root(blocks: &[Hash], piece_length: u32) -> Hash {
    tree(blocks.to_vec(), blocks_per_piece(piece_length), [0; 32])
}

/// The root of a file longer than a piece, from its piece layer (the roots of its pieces in order).
#[must_use]
pub fn file_root(layer: &[Hash], piece_length: u32) -> Hash {
    tree(layer.to_vec(), 1, zeros(blocks_per_piece(piece_length)))
}

/// The blocks under the root of a whole piece.
pub(super) fn blocks_per_piece(piece_length: u32) -> u64 {
    u64::from(piece_length).div_ceil(BLOCK_LEN)
}

pub(super) fn to_array<const N: usize>(digest: &[u8]) -> [u8; N] {
    digest.try_into().expect("the algorithm fixes the length of its digest")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(n: u8) -> Vec<Hash> {
        (0..n).map(|i| sha256(&[i])).collect()
    }

    fn hex(hash: Hash) -> String {
        hash.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The expected values are the end of the output of `testdata/generate.py`, which uses only hashlib.
    #[test]
    fn roots_match_an_independent_implementation() {
        let small = |n| hex(small_file_root(&leaves(n)));
        assert_eq!(small(1), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        assert_eq!(small(2), "30e1867424e66e8b6d159246db94e3486778136f7e386ff5f001859d6b8484ab");
        assert_eq!(small(3), "7ee5fcde741ff935e2c5fee3f08c8761b800957f20035d9d5dac2897f942a5eb");
        assert_eq!(small(5), "41886469306e351e1887e826f9fd0a51c08cfa38881129135e646320e3a134a2");
        let piece = |n, length| hex(piece_root(&leaves(n), length));
        let one_of_four = "31d526fa442b00d60b5327e4801cbd74de5f3efdc904f608497a4720abbbd8df";
        assert_eq!(piece(1, 65536), one_of_four);
        let three_of_eight = "39f095f708a10dd2d37cca937757247d12a0ab163f9e3a24b2494f6e0203b2d8";
        assert_eq!(piece(3, 131_072), three_of_eight);
        assert_eq!(piece(1, 16384), small(1));
        let of_pieces = "7557cfc2f10a22df1624bbfc69282f70008c18e3b2c1c8be02fbe839ab32629b";
        assert_eq!(hex(file_root(&leaves(3), 65536)), of_pieces);
    }

    /// Hashing blocks directly to the root gives the same result as hashing them through the piece layer.
    #[test]
    fn the_piece_layer_leads_to_the_same_root() {
        let blocks = leaves(37);
        let layer: Vec<Hash> = blocks.chunks(4).map(|b| piece_root(b, 65536)).collect();
        assert_eq!(file_root(&layer, 65536), small_file_root(&blocks));
    }
}
