//! How much memory is taken by bytes that wait for storage, over all writers.
//!
//! Bytes on their way in are *open* (not verified yet), then *sealed* (accepted by a writer), then *in flight* (in
//! a put), then gone. Writers count the last two here; the first is what the pool holds beyond them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::memory::BlockPool;

/// How often it is looked whether there is room again: what makes it says nothing.
const LOOK: Duration = Duration::from_millis(50);

/// The counters all writers of one pool share.
#[derive(Debug)]
pub struct Pressure {
    pool: BlockPool,
    sealed: AtomicUsize,
    in_flight: AtomicUsize,
    drained: AtomicU64,
    /// Whoever reads stored bytes back to send them again has the turn while it fills its memory.
    turn: Semaphore,
}

impl Pressure {
    #[must_use]
    pub fn new(pool: BlockPool) -> Arc<Self> {
        Arc::new(Self {
            pool,
            sealed: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            drained: AtomicU64::new(0),
            turn: Semaphore::new(1),
        })
    }

    #[must_use]
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Bytes accepted by writers and not durable yet, those in flight included.
    #[must_use]
    pub fn sealed(&self) -> usize {
        self.sealed.load(Ordering::Relaxed)
    }

    /// Of the sealed bytes, those in a put now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Bytes that became durable so far, over all writers: how fast it grows is how fast storage drains.
    #[must_use]
    pub fn drained(&self) -> u64 {
        self.drained.load(Ordering::Relaxed)
    }

    /// Sealed bytes in no put from which on writers stop waiting for whole chunks: three eighths of the budget, so that
    /// the rest still takes what makes chunks whole. Not above the mark at which waiting peers go on, or nothing might be
    /// on its way to storage while all of them wait.
    #[must_use]
    pub fn pack_mark(&self) -> usize {
        self.pool.budget() / 8 * 3
    }

    /// Whether a writer should put what it has. A nearly full pool counts only for a writer with no put in flight:
    /// otherwise that put is about to make room.
    pub(super) fn wants_packing(&self, idle: bool) -> bool {
        let waiting = self.sealed().saturating_sub(self.in_flight());
        waiting >= self.pack_mark() || idle && self.pool.held() >= self.pool.budget() / 8 * 7
    }

    /// The longest part that should be read back to be sent again: of these, one is read while others are sent.
    #[must_use]
    pub fn most_read_back(&self) -> u64 {
        self.pool.budget() as u64 / 4
    }

    /// Waits for the turn to read `len` stored bytes back into the pool, and until they fit in three quarters of it
    /// with all it holds: what comes from peers must find room meanwhile. All of that drains without this, so it ends.
    pub(super) async fn turn_to_read(&self, len: u64) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        let turn = self.turn.acquire().await.ok();
        let fits = |held: usize| held + in_memory(len) <= self.pool.budget() / 4 * 3;
        while self.pool.held() > 0 && !fits(self.pool.held()) {
            tokio::time::sleep(LOOK).await;
        }
        turn
    }

    pub(super) fn seal(&self, len: u64) {
        self.sealed.fetch_add(in_memory(len), Ordering::Relaxed);
    }

    pub(super) fn drain(&self, len: u64) {
        self.release(len);
        self.drained.fetch_add(len, Ordering::Relaxed);
    }

    pub(super) fn release(&self, len: u64) {
        self.sealed.fetch_sub(in_memory(len), Ordering::Relaxed);
    }

    /// Counts `len` bytes as in flight until the result is dropped.
    pub(super) fn take_off(self: &Arc<Self>, len: u64) -> InFlight {
        let len = in_memory(len);
        self.in_flight.fetch_add(len, Ordering::Relaxed);
        InFlight { pressure: Arc::clone(self), len }
    }
}

/// Bytes in a put.
#[derive(Debug)]
pub(super) struct InFlight {
    pressure: Arc<Pressure>,
    len: usize,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.pressure.in_flight.fetch_sub(self.len, Ordering::Relaxed);
    }
}

fn in_memory(len: u64) -> usize {
    usize::try_from(len).expect("these bytes are in memory")
}
