//! The owner of `--memory`: reserves, counts and waits, for all users of the budget.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use tokio::sync::Notify;

use super::{
    blocks::BlockPool,
    ledger::{Blocked, EvictWindows, Eviction, Ledger},
    reservation::Reservation,
    shares::{Mark, Share, Table},
};

/// The memory budget. Cheap to clone; all clones share one count.
#[derive(Clone)]
pub struct Budget {
    ledger: Arc<Ledger>,
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
        Self { ledger: Ledger::new(total, table) }
    }

    /// The most bytes that may be held.
    #[must_use]
    pub fn total(&self) -> usize {
        self.ledger.total()
    }

    /// The bytes of all shares that are held or reserved now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.ledger.held()
    }

    /// The highest that [`Budget::held`] has been.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.ledger.peak()
    }

    #[must_use]
    pub fn share(&self, share: Share) -> ShareView<'_> {
        ShareView { ledger: &self.ledger, share }
    }

    /// Switches to the allocation for imports until the result is dropped. Cached windows that exceed their share then
    /// are evicted before this returns. [`Share::Incoming`] grows as other shares fall to their new lengths.
    #[must_use]
    pub fn begin_import(&self) -> ImportGuard {
        self.ledger.begin_import();
        ImportGuard { ledger: Arc::clone(&self.ledger) }
    }

    /// Reserves `len` bytes of `share`, after the reservations requested before. A reservation that is longer than its
    /// share is granted when the share is empty. Cancel safe.
    pub async fn reserve(&self, share: Share, len: usize) -> Reservation {
        let ledger = &*self.ledger;
        ledger.admit_in_order(share, len, move || ledger.len(share)).await;
        self.counted(share, len)
    }

    /// As [`Budget::reserve`], but the share may also displace cached windows. For a caller that has waited long enough:
    /// it does not wait behind others while there are windows to displace.
    pub async fn reserve_displacing(&self, share: Share, len: usize) -> Reservation {
        let ledger = &*self.ledger;
        let limit = move || ledger.len(share) + ledger.len(Share::Windows);
        if ledger.admit(share, len, limit(), Eviction::Allowed).is_err() {
            ledger.admit_in_order(share, len, limit).await;
        }
        self.counted(share, len)
    }

    /// As [`Budget::reserve`], up to `mark` of [`Share::Incoming`].
    pub(super) async fn reserve_incoming(&self, len: usize, mark: Mark) -> Reservation {
        let ledger = &*self.ledger;
        let limit = move || mark.of(ledger.incoming_len()).min(ledger.room(Share::Incoming));
        ledger.admit_in_order(Share::Incoming, len, limit).await;
        self.counted(Share::Incoming, len)
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
        self.ledger.try_admit(share, len, eviction).then(|| self.counted(share, len))
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
        self.ledger.set_windows(owner);
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
        self.ledger.filled()
    }

    pub(super) fn level(&self) -> usize {
        self.ledger.level()
    }

    pub(super) fn incoming_len(&self) -> usize {
        self.ledger.incoming_len()
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
        self.ledger.end_import();
    }
}
