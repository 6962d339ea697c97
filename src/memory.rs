//! The memory budget of payload bytes. Every payload byte that bae holds lives in a [`Block`] and is counted here.
//!
//! Blocks are 16 KiB (BitTorrent's transfer unit), allocated one by one and recycled through a free list. Resident
//! memory therefore follows the peak of bytes held at once, not the size of the torrent. A block is frozen to [`Bytes`]
//! without a copy. When the last clone is dropped, the block returns to the pool and its bytes to the budget.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

/// Length of a block in bytes: BitTorrent's largest transfer unit.
pub const BLOCK_LEN: usize = 16 * 1024;

/// Allocates blocks and counts the bytes held in them. Cheap to clone; all clones share one pool.
#[derive(Clone)]
pub struct BlockPool {
    shared: Arc<Shared>,
}

struct Shared {
    /// Bytes of blocks in use. May exceed `budget`: the pool only counts, its users enforce the limit.
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

    /// Bytes in use now. Each block counts as a whole [`BLOCK_LEN`], however little of it is used.
    #[must_use]
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::Relaxed)
    }

    /// Peak of bytes in use at once.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.shared.peak.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn budget(&self) -> usize {
        self.shared.budget
    }

    /// Copies `data` into a block. The block returns to the pool when its last clone is dropped.
    ///
    /// # Panics
    /// When `data` is longer than [`BLOCK_LEN`]: callers split longer data first.
    #[must_use]
    pub fn copy(&self, data: &[u8]) -> Bytes {
        assert!(data.len() <= BLOCK_LEN, "a block holds {BLOCK_LEN} bytes, not {}", data.len());
        let mut block = self.allocate();
        block[..data.len()].copy_from_slice(data);
        block.freeze(data.len())
    }

    /// A block to write into. Its initial content is unspecified.
    #[must_use]
    pub fn allocate(&self) -> OpenBlock {
        let free = self.shared.free.lock().pop();
        let buf = free.unwrap_or_else(|| vec![0; BLOCK_LEN].into_boxed_slice());
        let held = self.shared.held.fetch_add(BLOCK_LEN, Ordering::Relaxed) + BLOCK_LEN;
        self.shared.peak.fetch_max(held, Ordering::Relaxed);
        OpenBlock(Block { buf, len: BLOCK_LEN, pool: Arc::clone(&self.shared) })
    }
}

/// A block that is being written.
pub struct OpenBlock(Block);

impl OpenBlock {
    /// Freezes the first `len` bytes. The block returns to the pool when the last clone is dropped.
    #[must_use]
    pub fn freeze(mut self, len: usize) -> Bytes {
        self.0.len = len.min(BLOCK_LEN);
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

/// A block in use; exposed only as [`Bytes`] over it.
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
        let held = self.pool.held.fetch_sub(BLOCK_LEN, Ordering::Relaxed) - BLOCK_LEN;
        let mut free = self.pool.free.lock();
        // Keep the block only while used and free blocks together stay within the budget.
        if held + free.len() * BLOCK_LEN < self.pool.budget {
            free.push(std::mem::take(&mut self.buf));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_charged_until_its_last_clone_is_dropped() {
        let pool = BlockPool::new(2 * BLOCK_LEN);
        let a = pool.copy(b"abc");
        let part = a.slice(1..);
        assert_eq!(pool.held(), BLOCK_LEN);
        drop(a);
        assert_eq!(&part[..], b"bc");
        assert_eq!(pool.held(), BLOCK_LEN);
        drop(part);
        assert_eq!(pool.held(), 0);
        assert_eq!(pool.peak(), BLOCK_LEN);
    }

    #[test]
    fn returned_blocks_are_reused_up_to_the_budget() {
        let pool = BlockPool::new(2 * BLOCK_LEN);
        drop([pool.copy(b"1"), pool.copy(b"2"), pool.copy(b"3")]);
        assert_eq!(pool.shared.free.lock().len(), 2);
    }
}
