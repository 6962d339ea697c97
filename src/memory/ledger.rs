//! The counts of all shares: what fits, what is held, and who waits. Lock-free, except for the tasks that wait.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use parking_lot::Mutex;
use tokio::sync::{Mutex as Queue, Notify};

use super::{
    blocks::{BLOCK_LEN, FreeBlocks},
    shares::{COUNT, Mark, Share, Table},
};

/// The owner of cached windows, which are evicted when other bytes need their memory.
pub trait EvictWindows: Send + Sync {
    /// Evicts windows until the limit of [`Share::Windows`] holds and `len` more bytes fit into the budget, or until one
    /// window is left.
    fn evict_for(&self, len: usize);
}

/// The counts behind a [`Budget`](super::Budget).
pub(super) struct Ledger {
    total: usize,
    table: Table,
    /// The number of imports that are being filled now.
    imports: AtomicUsize,
    held: AtomicUsize,
    peak: AtomicUsize,
    shares: [ShareState; COUNT],
    /// The number of tasks that wait for the whole: their share has room, the budget has none.
    waiting: AtomicUsize,
    freed: Notify,
    windows: Mutex<Option<Weak<dyn EvictWindows>>>,
    pub(super) free: FreeBlocks,
}

#[derive(Default)]
struct ShareState {
    used: AtomicUsize,
    /// The number of reservations that wait. A new one must not overtake them.
    queued: AtomicUsize,
    /// Held by the first of them.
    queue: Queue<()>,
    /// The number of tasks that wait for this share.
    waiting: AtomicUsize,
    freed: Notify,
    /// Notified when the share has risen to [`Mark::Full`]. Only for [`Share::Incoming`].
    filled: Notify,
}

/// Why bytes do not fit.
pub(super) enum Blocked {
    /// The share is full.
    Share,
    /// The share has room, but the budget has none.
    Whole,
}

/// Whether cached windows may be evicted for new bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Eviction {
    Allowed,
    Forbidden,
}

impl Ledger {
    pub(super) fn new(total: usize, table: Table) -> Arc<Self> {
        Arc::new(Self {
            total,
            table,
            imports: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            shares: Default::default(),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
            windows: Mutex::new(None),
            free: FreeBlocks::default(),
        })
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(SeqCst)
    }

    pub(super) fn peak(&self) -> usize {
        self.peak.load(SeqCst)
    }

    /// Notified when the level of [`Share::Incoming`] rises to [`Mark::Full`].
    pub(super) fn filled(&self) -> &Notify {
        &self.state(Share::Incoming).filled
    }

    pub(super) fn set_windows(&self, owner: Weak<dyn EvictWindows>) {
        *self.windows.lock() = Some(owner);
    }

    pub(super) fn begin_import(&self) {
        self.imports.fetch_add(1, SeqCst);
        self.evict_windows_for(0);
        self.wake_all();
    }

    pub(super) fn end_import(&self) {
        self.imports.fetch_sub(1, SeqCst);
        self.wake_all();
    }

    fn state(&self, share: Share) -> &ShareState {
        &self.shares[share.index()]
    }

    pub(super) fn used(&self, share: Share) -> usize {
        self.state(share).used.load(SeqCst)
    }

    /// The length of a share in the present allocation.
    pub(super) fn len(&self, share: Share) -> usize {
        let lengths = self.table.lengths(share);
        if self.imports.load(SeqCst) > 0 { lengths.importing } else { lengths.serving }
    }

    /// What other shares leave of the budget.
    pub(super) fn room(&self, share: Share) -> usize {
        let others = self.held().saturating_sub(self.used(share));
        self.total.saturating_sub(others)
    }

    /// The length of a share, or less while other shares hold more than theirs.
    pub(super) fn limit(&self, share: Share) -> usize {
        self.len(share).min(self.room(share))
    }

    /// The length of [`Share::Incoming`] while importing.
    pub(super) fn incoming_len(&self) -> usize {
        self.table.lengths(Share::Incoming).importing
    }

    /// The bytes that [`Share::Incoming`] lacks to its length while importing, because other shares hold them.
    pub(super) fn lacking(&self) -> usize {
        self.incoming_len().saturating_sub(self.room(Share::Incoming))
    }

    /// The bytes of [`Share::Incoming`] and those that it lacks.
    pub(super) fn level(&self) -> usize {
        self.used(Share::Incoming) + self.lacking()
    }

    pub(super) fn is_full(&self, share: Share) -> bool {
        self.used(share) >= self.len(share).max(1)
    }

    /// Counts `len` bytes as soon as they fit, after the reservations that wait already.
    pub(super) async fn admit_in_order(
        &self,
        share: Share,
        len: usize,
        limit: impl Fn() -> usize + Send,
    ) {
        let state = self.state(share);
        let admit = move || self.admit(share, len, limit(), Eviction::Allowed);
        if state.queued.load(SeqCst) == 0 && admit().is_ok() {
            return;
        }
        let _queued = Count::new(&state.queued);
        let _first = state.queue.lock().await;
        self.wait_until(share, admit).await;
    }

    /// Counts `len` bytes if they fit and no reservation waits for the share.
    pub(super) fn try_admit(&self, share: Share, len: usize, eviction: Eviction) -> bool {
        let is_first = self.state(share).queued.load(SeqCst) == 0;
        is_first && self.admit(share, len, self.len(share), eviction).is_ok()
    }

    /// Counts `len` bytes if they fit: into `limit` of the share, and into the whole budget. An empty share takes any
    /// number.
    pub(super) fn admit(
        &self,
        share: Share,
        len: usize,
        limit: usize,
        eviction: Eviction,
    ) -> Result<(), Blocked> {
        let state = self.state(share);
        let mut used = state.used.load(SeqCst);
        loop {
            if used > 0 && used.saturating_add(len) > limit {
                return Err(Blocked::Share);
            }
            let fits = self.fits(len)
                || eviction == Eviction::Allowed && {
                    self.evict_windows_for(len);
                    self.fits(len)
                };
            if used > 0 && !fits {
                return Err(Blocked::Whole);
            }
            match state.used.compare_exchange_weak(used, used + len, SeqCst, SeqCst) {
                Ok(_) => break,
                Err(now) => used = now,
            }
        }
        if used == 0 {
            self.hold(len);
        } else if !self.try_hold(len) {
            // Another share took the room meanwhile.
            state.used.fetch_sub(len, SeqCst);
            self.wake(share);
            return Err(Blocked::Whole);
        }
        self.after_growth(share);
        Ok(())
    }

    /// Counts `len` bytes that have arrived already.
    pub(super) fn add(&self, share: Share, len: usize) {
        // The owner of the windows holds its lock here.
        if share != Share::Windows && !self.fits(len) {
            self.evict_windows_for(len);
        }
        let before = self.state(share).used.fetch_add(len, SeqCst);
        self.hold(len);
        if share == Share::Incoming {
            let full = Mark::Full.of(self.incoming_len()).saturating_sub(self.lacking());
            if before < full && before + len >= full {
                self.state(share).filled.notify_waiters();
            }
        } else {
            self.after_growth(share);
        }
    }

    /// Counts `len` bytes if they fit into the whole budget. Evicts no windows.
    pub(super) fn try_add(&self, share: Share, len: usize) -> bool {
        let fits = self.try_hold(len);
        if fits {
            self.state(share).used.fetch_add(len, SeqCst);
            self.after_growth(share);
        }
        fits
    }

    pub(super) fn release(&self, share: Share, len: usize) {
        if len > 0 {
            self.state(share).used.fetch_sub(len, SeqCst);
            self.held.fetch_sub(len, SeqCst);
            self.wake(share);
        }
    }

    fn fits(&self, len: usize) -> bool {
        self.held().saturating_add(len) <= self.total
    }

    fn hold(&self, len: usize) {
        let held = self.held.fetch_add(len, SeqCst) + len;
        self.record_peak(held);
    }

    fn try_hold(&self, len: usize) -> bool {
        let fit = |held: usize| held.checked_add(len).filter(|held| *held <= self.total);
        match self.held.fetch_update(SeqCst, SeqCst, fit) {
            Ok(before) => {
                self.record_peak(before + len);
                true
            }
            Err(_) => false,
        }
    }

    fn record_peak(&self, held: usize) {
        if held > self.peak() {
            self.peak.fetch_max(held, SeqCst);
        }
    }

    /// Other shares may have taken from what imports had.
    fn after_growth(&self, share: Share) {
        // Blocks take their memory from the free ones. A block that is sent is counted once more, without new memory.
        if matches!(share, Share::Fetches | Share::Readers | Share::Bodies) {
            self.free.trim(self.total.saturating_sub(self.held()));
        }
        if self.imports.load(SeqCst) > 0 && share != Share::Incoming && self.lacking() > 0 {
            self.state(Share::Incoming).filled.notify_waiters();
        }
    }

    fn evict_windows_for(&self, len: usize) {
        let owner = self.windows.lock().as_ref().and_then(Weak::upgrade);
        if let Some(owner) = owner {
            owner.evict_for(len);
        }
    }

    /// Keeps a returned block for reuse if all bytes and all free blocks together stay within the budget.
    pub(super) fn keep_block(&self, block: Box<[u8]>) {
        let room = self.total.saturating_sub(self.held()) / BLOCK_LEN;
        self.free.put(block, room);
    }

    fn wake(&self, share: Share) {
        let state = self.state(share);
        if state.waiting.load(SeqCst) > 0 {
            state.freed.notify_waiters();
        }
        if self.waiting.load(SeqCst) > 0 {
            self.freed.notify_waiters();
        }
    }

    fn wake_all(&self) {
        Share::ALL.iter().for_each(|share| self.wake(*share));
    }

    /// Waits until `check` passes. Each release of bytes that it is blocked by repeats it.
    pub(super) async fn wait_until(
        &self,
        share: Share,
        check: impl Fn() -> Result<(), Blocked> + Send,
    ) {
        let state = self.state(share);
        let _waiting = Count::new(&state.waiting);
        let mut for_whole = None;
        loop {
            // From here on no wake-up is missed: a release before the check is seen by the check.
            let (in_share, in_whole) = (state.freed.notified(), self.freed.notified());
            match check() {
                Ok(()) => return,
                Err(Blocked::Share) => {
                    for_whole = None;
                    in_share.await;
                }
                Err(Blocked::Whole) if for_whole.is_some() => in_whole.await,
                // The check is repeated, because releases wake this task only from here on.
                Err(Blocked::Whole) => for_whole = Some(Count::new(&self.waiting)),
            }
        }
    }
}

/// Counts a task while it waits.
struct Count<'a>(&'a AtomicUsize);

impl<'a> Count<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}
