//! Content roots: the name of a file's or chunk's bytes, whatever source they came from.
//!
//! A root is that of BEP 52: the SHA-256 of each 16 KiB is a leaf of a binary tree, padded with leaves of zeros. The root
//! of a file is its `pieces root` in a v2 torrent. A chunk whose length is a power of two is a subtree of its file's
//! tree, so the root of the file follows from the roots of its chunks ([`root_of_chunks`]). The trees of torrents
//! (`torrents/metainfo/merkle.rs`) are made by `tree` too.

use aws_lc_rs::digest::{Context, SHA256, digest};

/// A SHA-256.
pub type Root = [u8; 32];

/// The bytes of a leaf.
pub const LEAF_LEN: u64 = LEAF as u64;
const LEAF: usize = 16 << 10;

/// Hashes bytes in order.
pub struct RootHasher {
    leaf: Context,
    /// The bytes in `leaf`.
    filled: usize,
    leaves: Vec<Root>,
}

impl std::fmt::Debug for RootHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootHasher").field("leaves", &self.leaves.len()).finish_non_exhaustive()
    }
}

impl Default for RootHasher {
    fn default() -> Self {
        Self { leaf: Context::new(&SHA256), filled: 0, leaves: Vec::new() }
    }
}

impl RootHasher {
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(LEAF - self.filled));
            bytes = rest;
            if now.len() == LEAF {
                self.leaves.push(sha256(now));
                continue;
            }
            self.leaf.update(now);
            self.filled += now.len();
            if self.filled == LEAF {
                self.end_leaf();
            }
        }
    }

    fn end_leaf(&mut self) {
        let leaf = std::mem::replace(&mut self.leaf, Context::new(&SHA256));
        self.leaves.push(to_root(leaf.finish().as_ref()));
        self.filled = 0;
    }

    /// The root of the bytes, as a tree of `width` leaves, or of as many as they need when `width` is less.
    #[must_use]
    pub fn finish(mut self, width: u64) -> Root {
        if self.filled > 0 {
            self.end_leaf();
        }
        tree(self.leaves, width, [0; 32])
    }
}

/// The root of a file from the roots of its chunks in order, which all have the width `chunk_len`, the last one too.
/// `None` when `chunk_len` is not one of a subtree.
#[must_use]
pub fn root_of_chunks(chunks: Vec<Root>, chunk_len: u64) -> Option<Root> {
    let width = subtree_width(chunk_len)?;
    Some(tree(chunks, 1, zeros(width)))
}

/// The number of leaves of a chunk of `chunk_len` bytes, if it is a subtree.
#[must_use]
pub fn subtree_width(chunk_len: u64) -> Option<u64> {
    (chunk_len.is_power_of_two() && chunk_len >= LEAF_LEN).then_some(chunk_len / LEAF_LEN)
}

/// The root of a tree of `width` leaves of zeros.
pub(crate) fn zeros(width: u64) -> Root {
    tree(Vec::new(), width, [0; 32])
}

/// The root of a tree with these nodes, padded with `pad` to a power of two of at least `width` nodes. The padding is
/// never built: one hash per level stands for all of it, so the cost depends on `nodes` and not on `width`.
pub(crate) fn tree(mut nodes: Vec<Root>, width: u64, mut pad: Root) -> Root {
    let mut width = width.max(nodes.len() as u64).max(1).next_power_of_two();
    while width > 1 {
        for i in 0..nodes.len().div_ceil(2) {
            nodes[i] = parent(nodes[2 * i], *nodes.get(2 * i + 1).unwrap_or(&pad));
        }
        nodes.truncate(nodes.len().div_ceil(2));
        pad = parent(pad, pad);
        width /= 2;
    }
    nodes.first().copied().unwrap_or(pad)
}

fn parent(left: Root, right: Root) -> Root {
    let mut both = [0; 64];
    both[..32].copy_from_slice(&left);
    both[32..].copy_from_slice(&right);
    sha256(&both)
}

/// The SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Root {
    to_root(digest(&SHA256, bytes).as_ref())
}

fn to_root(digest: &[u8]) -> Root {
    digest.try_into().expect("a SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|n| u8::try_from(n * n % 251).unwrap()).collect()
    }

    /// The definition, without layers.
    fn naive(bytes: &[u8], width: usize) -> Root {
        if width == 1 {
            return if bytes.is_empty() { [0; 32] } else { sha256(bytes) };
        }
        let half = bytes.len().min(width / 2 * 16384);
        parent(naive(&bytes[..half], width / 2), naive(&bytes[half..], width / 2))
    }

    fn root(bytes: &[u8], width: u64, step: usize) -> Root {
        let mut hasher = RootHasher::default();
        bytes.chunks(step).for_each(|part| hasher.update(part));
        hasher.finish(width)
    }

    #[test]
    fn roots_follow_the_definition_for_any_split() {
        for len in [1, 16383, 16384, 16385, 50_000, 65_536, 100_000] {
            let bytes = bytes(len);
            let own = len.div_ceil(16384).next_power_of_two();
            for step in [7000, 16384, 20_000, 1 << 20] {
                assert_eq!(root(&bytes, 1, step), naive(&bytes, own), "{len} {step}");
                assert_eq!(root(&bytes, 16, step), naive(&bytes, 16), "{len} {step}");
            }
        }
    }

    #[test]
    fn the_root_of_a_file_follows_from_its_chunks() {
        for len in [65_537, 131_072, 200_000, 300_000] {
            let bytes = bytes(len);
            let chunks = bytes.chunks(65_536).map(|chunk| root(chunk, 4, 16384)).collect();
            assert_eq!(root_of_chunks(chunks, 65_536), Some(root(&bytes, 1, 16384)), "{len}");
        }
        assert_eq!(root_of_chunks(vec![[1; 32]], 100_000), None);
        assert_eq!(subtree_width(16 << 20), Some(1024));
    }

    /// `pieces root` of a file of 50,000 zeros, from its definition with Python's hashlib.
    #[test]
    fn the_root_of_a_known_file_is_known() {
        let expected = "9cf06d0dcd321e60473bf368d24054a28b9a2e2a0f8794e0745aacb726ded7a0";
        assert_eq!(crate::catalog::hex(&root(&[0; 50_000], 1, 16384)), expected);
    }
}
