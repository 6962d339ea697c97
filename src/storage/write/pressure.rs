//! Counts the memory that is held by bytes on their way to storage, over all writers.
//!
//! Incoming bytes are *open* (not verified yet), then *sealed* (accepted by a writer), then *in flight* (in a PUT),
//! then freed. Writers count the last two states here. Open bytes are the rest of what the pool holds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::memory::BlockPool;

/// How often the free memory is polled: the pool sends no notification when memory is freed.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The counters that all writers of one pool share.
#[derive(Debug)]
pub struct Pressure {
    pool: BlockPool,
    sealed: AtomicUsize,
    in_flight: AtomicUsize,
    drained: AtomicU64,
    /// Held by the one task that reads stored bytes back into memory, while it does so.
    read_back: Semaphore,
}

impl Pressure {
    #[must_use]
    pub fn new(pool: BlockPool) -> Arc<Self> {
        Arc::new(Self {
            pool,
            sealed: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            drained: AtomicU64::new(0),
            read_back: Semaphore::new(1),
        })
    }

    #[must_use]
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Bytes accepted by writers that are not durable yet, including those in flight.
    #[must_use]
    pub fn sealed(&self) -> usize {
        self.sealed.load(Ordering::Relaxed)
    }

    /// The part of the sealed bytes that is in a PUT now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Bytes that became durable so far, over all writers. Its growth is the drain rate of the storage.
    #[must_use]
    pub fn drained(&self) -> u64 {
        self.drained.load(Ordering::Relaxed)
    }

    /// The mark of sealed bytes outside of any PUT at which writers stop waiting for complete chunks: three eighths of
    /// the budget, so that the rest can still take the bytes that complete chunks. The mark must not be above the one
    /// at which waiting peers resume. Otherwise all peers could wait while no byte is on its way to storage.
    #[must_use]
    pub fn pack_mark(&self) -> usize {
        self.pool.budget() / 8 * 3
    }

    /// Whether a writer should upload incomplete chunks. A pool that is seven eighths full counts only for an idle
    /// writer: otherwise the PUT in flight is about to free memory.
    pub(super) fn should_pack(&self, idle: bool) -> bool {
        let waiting = self.sealed().saturating_sub(self.in_flight());
        waiting >= self.pack_mark() || idle && self.pool.held() >= self.pool.budget() / 8 * 7
    }

    /// The longest part that may be read back to be sent again: a quarter of the budget, since one part is read while
    /// others are sent.
    #[must_use]
    pub fn max_read_back(&self) -> u64 {
        self.pool.budget() as u64 / 4
    }

    /// Waits for the permit to read `len` stored bytes back into the pool, and then until they fit into three quarters
    /// of it together with all it holds. The last quarter stays free for bytes from peers. The held bytes drain without
    /// this read, so the wait ends.
    pub(in crate::storage) async fn acquire_read_back(
        &self,
        len: u64,
    ) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        let permit = self.read_back.acquire().await.ok();
        let fits = |held: usize| held + to_usize(len) <= self.pool.budget() / 4 * 3;
        while self.pool.held() > 0 && !fits(self.pool.held()) {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        permit
    }

    pub(super) fn seal(&self, len: u64) {
        self.sealed.fetch_add(to_usize(len), Ordering::Relaxed);
    }

    pub(in crate::storage) fn drain(&self, len: u64) {
        self.release(len);
        self.drained.fetch_add(len, Ordering::Relaxed);
    }

    pub(in crate::storage) fn release(&self, len: u64) {
        self.sealed.fetch_sub(to_usize(len), Ordering::Relaxed);
    }

    /// Counts `len` bytes as in flight until the result is dropped.
    pub(super) fn count_in_flight(self: &Arc<Self>, len: u64) -> InFlightBytes {
        let len = to_usize(len);
        self.in_flight.fetch_add(len, Ordering::Relaxed);
        InFlightBytes { pressure: Arc::clone(self), len }
    }
}

/// Bytes in a PUT.
#[derive(Debug)]
pub(super) struct InFlightBytes {
    pressure: Arc<Pressure>,
    len: usize,
}

impl Drop for InFlightBytes {
    fn drop(&mut self) {
        self.pressure.in_flight.fetch_sub(self.len, Ordering::Relaxed);
    }
}

fn to_usize(len: u64) -> usize {
    usize::try_from(len).expect("these bytes are in memory")
}
