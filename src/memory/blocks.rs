//! Blocks of 16 KiB (BitTorrent's transfer unit), allocated one by one and recycled through a free list.
//!
//! Resident memory therefore follows the peak of bytes held at once, not the size of the torrent. A block is frozen to
//! [`Bytes`] without a copy. When the last clone is dropped, its memory returns to the free list of its budget.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::futures::Notified;

use super::{
    budget::Budget,
    ledger::Ledger,
    reservation::Reservation,
    shares::{Mark, Share},
};

/// Length of a block in bytes: BitTorrent's largest transfer unit.
pub const BLOCK_LEN: usize = 16 * 1024;

/// Allocates blocks of a budget. Cheap to clone; all pools of a budget share one free list.
#[derive(Clone)]
pub struct BlockPool {
    memory: Budget,
    /// Whether each block is counted in [`Share::Incoming`]. Others are covered by a reservation of their user.
    is_counted: bool,
}

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockPool")
            .field("memory", &self.memory)
            .field("is_counted", &self.is_counted)
            .finish()
    }
}

impl BlockPool {
    /// A pool of `len` bytes with a separate budget, for tests. A program has one [`Budget`].
    #[must_use]
    pub fn new(len: usize) -> Self {
        let others =
            [(Share::Sends, len / 8), (Share::Windows, len / 4), (Share::Readers, len / 8)];
        let shares: Vec<_> = [(Share::Incoming, len)].into_iter().chain(others).collect();
        Budget::of_shares(&shares).incoming()
    }

    pub(super) fn counted(memory: Budget) -> Self {
        Self { memory, is_counted: true }
    }

    pub(super) fn covered(memory: Budget) -> Self {
        Self { memory, is_counted: false }
    }

    /// The budget that the blocks belong to.
    #[must_use]
    pub fn memory(&self) -> &Budget {
        &self.memory
    }

    /// Bytes of [`Share::Incoming`] in use now. Each block counts as a whole [`BLOCK_LEN`], however little of it is used.
    #[must_use]
    pub fn held(&self) -> usize {
        self.memory.share(Share::Incoming).used()
    }

    /// [`BlockPool::held`], and the bytes that [`Share::Incoming`] lacks because other shares hold more than theirs. To
    /// be compared with marks.
    #[must_use]
    pub fn level(&self) -> usize {
        self.memory.level()
    }

    /// Peak of the bytes of all shares held at once.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.memory.peak()
    }

    /// The length of [`Share::Incoming`] while importing.
    #[must_use]
    pub fn budget(&self) -> usize {
        self.memory.incoming_len()
    }

    /// The level of `mark` in bytes.
    #[must_use]
    pub fn mark(&self, mark: Mark) -> usize {
        mark.of(self.budget())
    }

    /// The number of blocks in use, of all pools of the budget.
    #[must_use]
    pub fn blocks_in_use(&self) -> usize {
        self.memory.ledger().free.list.lock().in_use
    }

    /// Waits until [`BlockPool::level`] is below `mark`.
    pub async fn wait_below(&self, mark: Mark) {
        let mark = self.mark(mark);
        self.memory.wait_for_level(|level| level < mark).await;
    }

    /// Waits until one more block fits below `mark`.
    pub async fn wait_for_block(&self, mark: Mark) {
        let mark = self.mark(mark);
        self.memory.wait_for_level(|level| level + BLOCK_LEN <= mark).await;
    }

    /// Reserves `len` bytes below `mark`, after the reservations requested before.
    pub async fn reserve(&self, len: usize, mark: Mark) -> Reservation {
        self.memory.reserve_incoming(len, mark).await
    }

    /// A wake-up that is sent when the level rises to [`Mark::Full`].
    pub fn filled(&self) -> Notified<'_> {
        self.memory.filled().notified()
    }

    /// Copies `data` into a block. The block returns to the pool when its last clone is dropped.
    ///
    /// # Panics
    /// When `data` is longer than [`BLOCK_LEN`]: callers split longer data first.
    #[must_use]
    pub fn copy(&self, data: &[u8]) -> Bytes {
        self.allocate().fill(data)
    }

    /// As [`BlockPool::copy`], out of a reservation as far as that reaches.
    ///
    /// # Panics
    /// As [`BlockPool::copy`].
    #[must_use]
    pub fn copy_reserved(&self, reservation: &mut Reservation, data: &[u8]) -> Bytes {
        let (ledger, share) = (self.memory.ledger(), reservation.share());
        ledger.add(share, BLOCK_LEN - reservation.take(BLOCK_LEN));
        self.open(Some(share)).fill(data)
    }

    /// A block to write into. Its initial content is unspecified.
    #[must_use]
    pub fn allocate(&self) -> OpenBlock {
        let share = self.is_counted.then_some(Share::Incoming);
        if let Some(share) = share {
            self.memory.ledger().add(share, BLOCK_LEN);
        }
        self.open(share)
    }

    /// A block whose bytes are counted already, in `share` or by a reservation of its user.
    fn open(&self, share: Option<Share>) -> OpenBlock {
        let ledger = self.memory.ledger();
        let buf = ledger.free.take().unwrap_or_else(|| vec![0; BLOCK_LEN].into_boxed_slice());
        OpenBlock(Block { buf, len: BLOCK_LEN, share, ledger: Arc::clone(ledger) })
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

    fn fill(mut self, data: &[u8]) -> Bytes {
        assert!(data.len() <= BLOCK_LEN, "a block holds {BLOCK_LEN} bytes, not {}", data.len());
        self[..data.len()].copy_from_slice(data);
        self.freeze(data.len())
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
    /// The share in which it is counted; `None` when a reservation of its user covers it.
    share: Option<Share>,
    ledger: Arc<Ledger>,
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(share) = self.share {
            self.ledger.release(share, BLOCK_LEN);
        }
        self.ledger.keep_block(std::mem::take(&mut self.buf));
    }
}

/// The returned blocks of a budget.
#[derive(Default)]
pub(super) struct FreeBlocks {
    list: Mutex<FreeList>,
    /// The length of the list, to be read without its lock.
    len: AtomicUsize,
}

#[derive(Default)]
struct FreeList {
    blocks: Vec<Box<[u8]>>,
    in_use: usize,
}

impl FreeBlocks {
    fn take(&self) -> Option<Box<[u8]>> {
        let mut list = self.list.lock();
        list.in_use += 1;
        let block = list.blocks.pop();
        self.len.store(list.blocks.len(), Ordering::Relaxed);
        block
    }

    /// Takes a block back, and keeps it if the list then has at most `room` blocks.
    pub(super) fn put(&self, block: Box<[u8]>, room: usize) {
        let mut list = self.list.lock();
        list.in_use -= 1;
        if list.blocks.len() < room {
            list.blocks.push(block);
            self.len.store(list.blocks.len(), Ordering::Relaxed);
        }
    }

    /// Frees blocks until those that are kept fit into `room` bytes.
    pub(super) fn trim(&self, room: usize) {
        let room = room / BLOCK_LEN;
        if self.len.load(Ordering::Relaxed) > room {
            let mut list = self.list.lock();
            list.blocks.truncate(room);
            self.len.store(list.blocks.len(), Ordering::Relaxed);
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
        assert_eq!((pool.held(), pool.blocks_in_use()), (BLOCK_LEN, 1));
        drop(part);
        assert_eq!((pool.held(), pool.blocks_in_use()), (0, 0));
        assert_eq!(pool.peak(), BLOCK_LEN);
    }

    #[test]
    fn returned_blocks_are_reused_up_to_the_budget() {
        let pool = Budget::of_shares(&[(Share::Incoming, 2 * BLOCK_LEN)]).incoming();
        let free = || pool.memory().ledger().free.list.lock().blocks.len();
        drop([pool.copy(b"1"), pool.copy(b"2"), pool.copy(b"3")]);
        assert_eq!(free(), 2);
        // Both pools of a budget use one free list.
        let covered = pool.memory().covered_blocks().copy(b"4");
        assert_eq!((free(), pool.held(), pool.blocks_in_use()), (1, 0, 1));
        drop(covered);
        assert_eq!(free(), 2);
    }

    #[test]
    fn free_blocks_give_way_to_reserved_bytes() {
        let shares = [(Share::Incoming, 4 * BLOCK_LEN), (Share::Fetches, 4 * BLOCK_LEN)];
        let memory = Budget::of_shares(&shares);
        let blocks: Vec<_> = (0..8).map(|_| memory.covered_blocks().copy(b"x")).collect();
        drop(blocks);
        assert_eq!(memory.ledger().free.list.lock().blocks.len(), 8);
        let _fetch = memory.try_reserve(Share::Fetches, 3 * BLOCK_LEN).unwrap();
        assert_eq!(memory.ledger().free.list.lock().blocks.len(), 5);
    }

    #[tokio::test]
    async fn blocks_out_of_a_reservation_are_counted_once() {
        let pool = BlockPool::new(8 * BLOCK_LEN);
        let mut reservation = pool.reserve(BLOCK_LEN + 5, Mark::Full).await;
        let first = pool.copy_reserved(&mut reservation, &[1; BLOCK_LEN]);
        assert_eq!(pool.held(), BLOCK_LEN + 5);
        // The rest of the reservation covers a part of the second block.
        let second = pool.copy_reserved(&mut reservation, b"12345");
        assert_eq!(pool.held(), 2 * BLOCK_LEN);
        drop((first, reservation));
        assert_eq!(pool.held(), BLOCK_LEN);
        drop(second);
        assert_eq!(pool.held(), 0);
    }
}
