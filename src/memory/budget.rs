//! Counts the bytes of all shares, and lets tasks wait for room.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;
use tokio::sync::{Mutex as Queue, Notify};

use super::{
    blocks::{BLOCK_LEN, BlockPool, FreeBlocks},
    reservation::Reservation,
    shares::{COUNT, Mark, Share, Table},
};

/// The memory budget. Cheap to clone; all clones share one count.
#[derive(Clone)]
pub struct Budget {
    ledger: Arc<Ledger>,
}

/// The owner of cached windows, which are evicted when other bytes need their memory.
pub trait EvictWindows: Send + Sync {
    /// Evicts windows until the limit of [`Share::Windows`] holds and `len` more bytes fit into the budget, or until one
    /// window is left.
    fn evict_for(&self, len: usize);
}

/// The counts behind a [`Budget`].
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
enum Blocked {
    /// The share is full.
    Share,
    /// The share has room, but the budget has none.
    Whole,
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("held", &self.held())
            .field("total", &self.total())
            .finish_non_exhaustive()
    }
}

impl Budget {
    /// A budget of `total` bytes, divided as the table says.
    #[must_use]
    pub fn new(total: u64) -> Self {
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        Self::with_table(total, Table::of(total))
    }

    /// A budget of these shares alone, for what is used without an engine.
    #[must_use]
    pub fn of_shares(shares: &[(Share, usize)]) -> Self {
        let total = shares.iter().map(|(_, len)| len).sum();
        Self::with_table(total, Table::fixed(shares))
    }

    fn with_table(total: usize, table: Table) -> Self {
        let ledger = Ledger {
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
        };
        Self { ledger: Arc::new(ledger) }
    }

    /// The most bytes that may be held.
    #[must_use]
    pub fn total(&self) -> usize {
        self.ledger.total
    }

    /// The bytes of all shares that are held or reserved now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.ledger.held.load(SeqCst)
    }

    /// The highest that [`Budget::held`] has been.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.ledger.peak.load(SeqCst)
    }

    #[must_use]
    pub fn share(&self, share: Share) -> ShareView<'_> {
        ShareView { ledger: &self.ledger, share }
    }

    /// Switches to the allocation for imports until the result is dropped. Cached windows that exceed their share then
    /// are evicted before this returns. [`Share::Incoming`] grows as other shares fall to their new lengths.
    #[must_use]
    pub fn begin_import(&self) -> ImportGuard {
        self.ledger.imports.fetch_add(1, SeqCst);
        self.ledger.evict_windows_for(0);
        self.ledger.wake_all();
        ImportGuard { ledger: Arc::clone(&self.ledger) }
    }

    /// Reserves `len` bytes of `share`, after the reservations requested before. A reservation that is longer than its
    /// share is granted when the share is empty. Cancel safe.
    pub async fn reserve(&self, share: Share, len: usize) -> Reservation {
        let ledger = &*self.ledger;
        self.reserve_within(share, len, move || ledger.len(share)).await
    }

    /// As [`Budget::reserve`], but the share may also displace cached windows.
    pub async fn reserve_displacing(&self, share: Share, len: usize) -> Reservation {
        let ledger = &*self.ledger;
        let limit = move || ledger.len(share) + ledger.len(Share::Windows);
        if ledger.admit(share, len, limit(), Eviction::Allowed).is_ok() {
            return self.counted(share, len);
        }
        self.reserve_within(share, len, limit).await
    }

    /// As [`Budget::reserve`], up to `mark` of [`Share::Incoming`].
    pub(super) async fn reserve_incoming(&self, len: usize, mark: Mark) -> Reservation {
        let ledger = &*self.ledger;
        let limit = move || mark.of(ledger.incoming_len()).min(ledger.room(Share::Incoming));
        self.reserve_within(Share::Incoming, len, limit).await
    }

    async fn reserve_within(
        &self,
        share: Share,
        len: usize,
        limit: impl Fn() -> usize + Send,
    ) -> Reservation {
        let ledger = &*self.ledger;
        let state = ledger.state(share);
        let admit = move || ledger.admit(share, len, limit(), Eviction::Allowed);
        if state.queued.load(SeqCst) == 0 && admit().is_ok() {
            return self.counted(share, len);
        }
        let _queued = Count::new(&state.queued);
        let _first = state.queue.lock().await;
        ledger.wait_until(share, admit).await;
        self.counted(share, len)
    }

    /// Reserves `len` bytes of `share` if that needs no waiting and no other reservation waits.
    #[must_use]
    pub fn try_reserve(&self, share: Share, len: usize) -> Option<Reservation> {
        self.try_admit(share, len, Eviction::Allowed)
    }

    /// As [`Budget::try_reserve`], but evicts no windows: for their owner, under its lock.
    #[must_use]
    pub fn try_reserve_free(&self, share: Share, len: usize) -> Option<Reservation> {
        self.try_admit(share, len, Eviction::Forbidden)
    }

    fn try_admit(&self, share: Share, len: usize, eviction: Eviction) -> Option<Reservation> {
        let ledger = &*self.ledger;
        let is_first = ledger.state(share).queued.load(SeqCst) == 0;
        let admitted = is_first && ledger.admit(share, len, ledger.len(share), eviction).is_ok();
        admitted.then(|| self.counted(share, len))
    }

    /// Counts `len` bytes of `share` that have arrived already. They may exceed the share.
    #[must_use]
    pub fn charge(&self, share: Share, len: usize) -> Reservation {
        self.ledger.add(share, len);
        self.counted(share, len)
    }

    /// Waits until `share` is below its length. For bytes that are counted when they arrive.
    pub async fn wait_for_room(&self, share: Share) {
        let ledger = &*self.ledger;
        let has_room = || match ledger.is_full(share) {
            true => Err(Blocked::Share),
            false => Ok(()),
        };
        ledger.wait_until(share, has_room).await;
    }

    /// The blocks of imports, which are counted in [`Share::Incoming`].
    #[must_use]
    pub fn incoming(&self) -> BlockPool {
        BlockPool::counted(self.clone())
    }

    /// Blocks that the caller's reservation or charge covers.
    #[must_use]
    pub fn covered_blocks(&self) -> BlockPool {
        BlockPool::covered(self.clone())
    }

    /// Sets the owner of the cached windows.
    pub fn set_windows(&self, owner: Weak<dyn EvictWindows>) {
        *self.ledger.windows.lock() = Some(owner);
    }

    fn counted(&self, share: Share, len: usize) -> Reservation {
        Reservation::of_counted(&self.ledger, share, len)
    }

    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Waits until the level of [`Share::Incoming`] passes `check`.
    pub(super) async fn wait_for_level(&self, check: impl Fn(usize) -> bool + Send) {
        let ledger = &*self.ledger;
        let check = move || match check(ledger.level()) {
            true => Ok(()),
            // What other shares hold of this one may be freed too.
            false if ledger.lacking() > 0 => Err(Blocked::Whole),
            false => Err(Blocked::Share),
        };
        ledger.wait_until(Share::Incoming, check).await;
    }

    /// Notified when the level of [`Share::Incoming`] rises to [`Mark::Full`].
    pub(super) fn filled(&self) -> &Notify {
        &self.ledger.state(Share::Incoming).filled
    }

    pub(super) fn level(&self) -> usize {
        self.ledger.level()
    }

    pub(super) fn incoming_len(&self) -> usize {
        self.ledger.incoming_len()
    }
}

/// Whether cached windows may be evicted for new bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Eviction {
    Allowed,
    Forbidden,
}

impl Ledger {
    fn state(&self, share: Share) -> &ShareState {
        &self.shares[share.index()]
    }

    fn used(&self, share: Share) -> usize {
        self.state(share).used.load(SeqCst)
    }

    /// The length of a share in the present allocation.
    fn len(&self, share: Share) -> usize {
        let lengths = self.table.lengths(share);
        if self.imports.load(SeqCst) > 0 { lengths.importing } else { lengths.serving }
    }

    /// What other shares leave of the budget.
    fn room(&self, share: Share) -> usize {
        let others = self.held.load(SeqCst).saturating_sub(self.used(share));
        self.total.saturating_sub(others)
    }

    /// The length of a share, or less while other shares hold more than theirs.
    fn limit(&self, share: Share) -> usize {
        self.len(share).min(self.room(share))
    }

    /// The length of [`Share::Incoming`] while importing.
    fn incoming_len(&self) -> usize {
        self.table.lengths(Share::Incoming).importing
    }

    /// The bytes that [`Share::Incoming`] lacks to its length while importing, because other shares hold them.
    fn lacking(&self) -> usize {
        self.incoming_len().saturating_sub(self.room(Share::Incoming))
    }

    /// The bytes of [`Share::Incoming`] and those that it lacks.
    fn level(&self) -> usize {
        self.used(Share::Incoming) + self.lacking()
    }

    fn is_full(&self, share: Share) -> bool {
        self.used(share) >= self.len(share).max(1)
    }

    /// Counts `len` bytes if they fit: into `limit` of the share, and into the whole budget. An empty share takes any
    /// number.
    fn admit(
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
        self.held.load(SeqCst).saturating_add(len) <= self.total
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
        if held > self.peak.load(SeqCst) {
            self.peak.fetch_max(held, SeqCst);
        }
    }

    /// Other shares may have taken from what imports had.
    fn after_growth(&self, share: Share) {
        // Blocks take their memory from the free ones. A block that is sent is counted once more, without new memory.
        if matches!(share, Share::Fetches | Share::Readers | Share::Bodies) {
            self.free.trim(self.total.saturating_sub(self.held.load(SeqCst)));
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
        let room = self.total.saturating_sub(self.held.load(SeqCst)) / BLOCK_LEN;
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
    async fn wait_until(&self, share: Share, check: impl Fn() -> Result<(), Blocked> + Send) {
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

/// The figures of one share.
#[derive(Clone, Copy)]
pub struct ShareView<'a> {
    ledger: &'a Ledger,
    share: Share,
}

impl fmt::Debug for ShareView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShareView")
            .field("share", &self.share)
            .field("used", &self.used())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[allow(clippy::len_without_is_empty, reason = "a share is a length, not a collection")]
impl ShareView<'_> {
    /// The length of the share now, in bytes.
    #[must_use]
    pub fn len(self) -> usize {
        self.ledger.len(self.share)
    }

    /// The length, or less while other shares hold more than theirs.
    #[must_use]
    pub fn limit(self) -> usize {
        self.ledger.limit(self.share)
    }

    /// The bytes that are held or reserved.
    #[must_use]
    pub fn used(self) -> usize {
        self.ledger.used(self.share)
    }

    #[must_use]
    pub fn is_full(self) -> bool {
        self.ledger.is_full(self.share)
    }
}

/// While one exists, imports have most of the budget.
pub struct ImportGuard {
    ledger: Arc<Ledger>,
}

impl fmt::Debug for ImportGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportGuard").finish_non_exhaustive()
    }
}

impl Drop for ImportGuard {
    fn drop(&mut self) {
        self.ledger.imports.fetch_sub(1, SeqCst);
        self.ledger.wake_all();
    }
}
