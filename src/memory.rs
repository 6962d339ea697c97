//! The one byte budget: every payload byte that bae holds lives in a [`Block`] and is charged here.
//!
//! Blocks are 16 KiB (BitTorrent's transfer unit), allocated one by one and recycled through a free list, so that
//! resident memory follows the most that was ever held at once and never the size of the torrent. A block is frozen
//! to [`Bytes`] without a copy; when its last clone is dropped, the block returns to the pool and the budget.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

/// The length of a block: BitTorrent's largest transfer unit.
pub const BLOCK: usize = 16 * 1024;

/// Hands out blocks and counts the bytes held in them. Cheap to clone; all clones are one pool.
#[derive(Clone)]
pub struct BlockPool {
    shared: Arc<Shared>,
}

struct Shared {
    /// Bytes of blocks handed out and not yet returned. May pass `budget`: the pool counts, its users decide.
    held: AtomicUsize,
    peak: AtomicUsize,
    budget: usize,
    free: Mutex<Vec<Box<[u8]>>>,
}

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockPool")
            .field("held", &self.held())
            .field("budget", &self.budget())
            .finish_non_exhaustive()
    }
}

impl BlockPool {
    /// A pool that keeps up to `budget` bytes of returned blocks for reuse.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        let shared = Shared {
            held: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            budget,
            free: Mutex::new(Vec::new()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Bytes held now, a whole [`BLOCK`] for each block however little of it is used.
    #[must_use]
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::Relaxed)
    }

    /// The most bytes ever held at once.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.shared.peak.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn budget(&self) -> usize {
        self.shared.budget
    }

    /// Copies `data` into a block. The result returns to the pool with its last clone.
    ///
    /// # Panics
    /// When `data` is longer than [`BLOCK`]: callers split before.
    #[must_use]
    pub fn copy(&self, data: &[u8]) -> Bytes {
        assert!(data.len() <= BLOCK, "a block holds {BLOCK} bytes, not {}", data.len());
        let mut block = self.take();
        block[..data.len()].copy_from_slice(data);
        block.freeze(data.len())
    }

    /// A block to write into; what it holds before that is anything.
    #[must_use]
    pub fn take(&self) -> OpenBlock {
        let free = self.shared.free.lock().pop();
        let buf = free.unwrap_or_else(|| vec![0; BLOCK].into_boxed_slice());
        let held = self.shared.held.fetch_add(BLOCK, Ordering::Relaxed) + BLOCK;
        self.shared.peak.fetch_max(held, Ordering::Relaxed);
        OpenBlock(Block { buf, len: BLOCK, pool: Arc::clone(&self.shared) })
    }
}

/// A block that is being written.
pub struct OpenBlock(Block);

impl OpenBlock {
    /// Its first `len` bytes, which change no more. The block returns to the pool with their last clone.
    #[must_use]
    pub fn freeze(mut self, len: usize) -> Bytes {
        self.0.len = len.min(BLOCK);
        Bytes::from_owner(self.0)
    }
}

impl std::ops::Deref for OpenBlock {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.buf
    }
}

impl std::ops::DerefMut for OpenBlock {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0.buf
    }
}

impl fmt::Debug for OpenBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenBlock").finish_non_exhaustive()
    }
}

/// A block in use; only ever seen as the [`Bytes`] over it.
struct Block {
    buf: Box<[u8]>,
    len: usize,
    pool: Arc<Shared>,
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let held = self.pool.held.fetch_sub(BLOCK, Ordering::Relaxed) - BLOCK;
        let mut free = self.pool.free.lock();
        // Held and free together stay within the budget, or within what was over it anyway.
        if held + free.len() * BLOCK < self.pool.budget {
            free.push(std::mem::take(&mut self.buf));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_charged_until_its_last_clone_is_gone() {
        let pool = BlockPool::new(2 * BLOCK);
        let a = pool.copy(b"abc");
        let part = a.slice(1..);
        assert_eq!(pool.held(), BLOCK);
        drop(a);
        assert_eq!(&part[..], b"bc");
        assert_eq!(pool.held(), BLOCK);
        drop(part);
        assert_eq!(pool.held(), 0);
        assert_eq!(pool.peak(), BLOCK);
    }

    #[test]
    fn returned_blocks_are_reused_up_to_the_budget() {
        let pool = BlockPool::new(2 * BLOCK);
        drop([pool.copy(b"1"), pool.copy(b"2"), pool.copy(b"3")]);
        assert_eq!(pool.shared.free.lock().len(), 2);
    }
}
