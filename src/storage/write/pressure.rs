//! Counts the memory that is held by bytes on their way to storage, over all writers.
//!
//! Incoming bytes are *open* (not verified yet), then *sealed* (accepted by a writer), then *in flight* (in a PUT),
//! then freed. Writers count the last two states here. Open bytes are the rest of what the pool holds.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::{Notify, Semaphore, SemaphorePermit, futures::Notified};

use crate::{
    error::{Error, Kind, Result},
    hints::{Setting, hint},
    memory::{BlockPool, Mark, Reservation},
};

/// The counters that all writers of one pool share.
#[derive(Debug)]
pub struct Pressure {
    pool: BlockPool,
    sealed: AtomicUsize,
    in_flight: AtomicUsize,
    drained: AtomicU64,
    /// Notified when sealed bytes were drained or dropped.
    freed: Notify,
    /// Notified when sealed bytes outside of any PUT rise to [`Mark::Pack`].
    crowded: Notify,
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
            freed: Notify::new(),
            crowded: Notify::new(),
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
        self.sealed.load(Ordering::SeqCst)
    }

    /// The part of the sealed bytes that is in a PUT now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Bytes that became durable so far, over all writers. Its growth is the drain rate of the storage.
    #[must_use]
    pub fn drained(&self) -> u64 {
        self.drained.load(Ordering::Relaxed)
    }

    /// [`Mark::Pack`] in bytes. The rest of the memory can still take the bytes that complete chunks.
    #[must_use]
    pub fn pack_mark(&self) -> usize {
        self.pool.mark(Mark::Pack)
    }

    /// Whether a writer should upload incomplete chunks. A pool that has risen to [`Mark::Full`] counts only for an idle
    /// writer: otherwise the PUT in flight is about to free memory.
    pub(super) fn should_pack(&self, idle: bool) -> bool {
        self.waiting() >= self.pack_mark()
            || idle && self.pool.level() >= self.pool.mark(Mark::Full)
    }

    /// The sealed bytes outside of any PUT.
    fn waiting(&self) -> usize {
        self.sealed().saturating_sub(self.in_flight())
    }

    /// Waits until [`Pressure::should_pack`] may have become true by other writers or by blocks of peers. To be called
    /// before the check, and awaited after it.
    pub(super) fn wait_until_crowded(&self) -> impl Future<Output = ()> + Send {
        let (crowded, filled) = (self.crowded.notified(), self.pool.filled());
        async move {
            tokio::select! {
                () = crowded => {}
                () = filled => {}
            }
        }
    }

    /// Waits until at most `mark` bytes are sealed.
    pub async fn wait_until_drained(&self, mark: Mark) {
        let mark = self.pool.mark(mark);
        loop {
            let freed = self.freed();
            if self.sealed() <= mark {
                return;
            }
            freed.await;
        }
    }

    /// A wake-up that is sent when sealed bytes were drained or dropped.
    pub fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// The longest part that may be read back to be sent again.
    #[must_use]
    pub fn max_read_back(&self) -> u64 {
        self.pool.mark(Mark::ReadBackPart) as u64
    }

    /// Waits for the permit to read `len` stored bytes back into the pool, and then until they fit below
    /// [`Mark::ReadBack`] together with all it holds. The rest stays free for bytes from peers. The held bytes drain
    /// without this read, so the wait ends.
    ///
    /// # Errors
    /// `InvalidInput` when `len` is above the mark.
    pub(in crate::storage) async fn acquire_read_back(
        &self,
        len: u64,
    ) -> Result<(Option<SemaphorePermit<'_>>, Reservation)> {
        let most = self.pool.mark(Mark::ReadBack);
        if to_usize(len) > most {
            let text = format!(
                "a part of {len} bytes must be read back from storage, and the memory budget allows {most}"
            );
            return Err(Error::new(Kind::InvalidInput, text).hint(hint!["raise ", Setting::Memory]));
        }
        // The semaphore is never closed.
        let permit = self.read_back.acquire().await.ok();
        Ok((permit, self.pool.reserve(to_usize(len), Mark::ReadBack).await))
    }

    pub(super) fn seal(&self, len: u64) {
        let before = self.sealed.fetch_add(to_usize(len), Ordering::SeqCst);
        self.notify_if_crowded(before.saturating_sub(self.in_flight()));
    }

    pub(in crate::storage) fn drain(&self, len: u64) {
        self.drained.fetch_add(len, Ordering::Relaxed);
        self.release(len);
    }

    pub(in crate::storage) fn release(&self, len: u64) {
        self.sealed.fetch_sub(to_usize(len), Ordering::SeqCst);
        self.freed.notify_waiters();
    }

    /// Notifies writers when fewer than [`Mark::Pack`] bytes waited `before` and as many wait now.
    fn notify_if_crowded(&self, before: usize) {
        let mark = self.pack_mark();
        if before < mark && self.waiting() >= mark {
            self.crowded.notify_waiters();
        }
    }

    /// Counts `len` bytes as in flight until the result is dropped.
    pub(super) fn count_in_flight(self: &Arc<Self>, len: u64) -> InFlightBytes {
        let len = to_usize(len);
        self.in_flight.fetch_add(len, Ordering::SeqCst);
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
        let before = self.pressure.waiting();
        self.pressure.in_flight.fetch_sub(self.len, Ordering::SeqCst);
        self.pressure.notify_if_crowded(before);
    }
}

fn to_usize(len: u64) -> usize {
    usize::try_from(len).expect("these bytes are in memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_never_fits_is_an_error_instead_of_a_wait() {
        let pressure = Pressure::new(BlockPool::new(4 << 20));
        drop(pressure.acquire_read_back(3 << 20).await.unwrap());
        let refused = pressure.acquire_read_back((3 << 20) + 1).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::InvalidInput);
        assert!(refused.report().contains("3145729 bytes"), "{}", refused.report());
    }
}
