//! The window cache: windows of imports are fetched once and kept within a byte limit.
//!
//! Readers that request a window in flight wait for the same fetch. Each fetch is a separate task, so one reader can
//! be cancelled without affecting the others. A fetch is cancelled when no reader wants any of its windows. It begins
//! when its bytes are reserved, so memory is bounded for any number of readers. Errors are returned to the readers that
//! waited, and are not cached. The cache is always safe to drop.
//!
//! The cache owns [`Share::Windows`] of the memory budget and evicts windows when other bytes need the memory.

use std::{
    collections::HashMap,
    future::Future,
    ops::Range,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{blocks::Blocks, disk_cache::DiskCache, segmented_lru::SegmentedLru};
use crate::{
    backends::Payload,
    catalog::ImportId,
    error::{Error, Kind, Result},
    memory::{BLOCK_LEN, BlockPool, Budget, EvictWindows, Reservation, Share},
    units::MIB,
};

/// The longest fetch for a sequential reader.
pub(super) const MAX_FETCH: u64 = 8 * MIB;

/// The longest prefetch for one reader is this part of [`Share::Fetches`], so that several readers fit side by side.
const PREFETCH_PARTS: usize = 12;

/// The number of long GETs that are open at once. Each holds a connection and the bytes in its buffers.
const MAX_RANGE_STREAMS: usize = 16;

/// The key of a window: its import and its range. A window that was verified against the torrent has another key than
/// one that was not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::storage) struct WindowKey {
    pub(in crate::storage) import: ImportId,
    pub(in crate::storage) verified: bool,
    pub(in crate::storage) start: u64,
    pub(in crate::storage) end: u64,
}

/// The outcome of a fetch, with an error shared by all readers that waited. `None` while the fetch runs.
type Outcome = Option<Result<Blocks>>;

/// A window in flight. The fetch is cancelled when its last handle, over all of its windows, is dropped.
#[derive(Debug)]
pub(in crate::storage) struct InFlightWindow {
    /// Gone when the fetch has ended, so that a handle keeps no bytes in memory.
    outcome: Weak<watch::Sender<Outcome>>,
    _keep_alive: Arc<DropGuard>,
}

/// A requested window.
#[derive(Debug)]
pub(in crate::storage) enum RequestedWindow {
    Ready(Blocks),
    InFlight(watch::Receiver<Outcome>, Arc<InFlightWindow>),
}

/// The memory that fetches of one reader need.
#[derive(Debug, Clone, Copy)]
pub(in crate::storage) struct FetchCost {
    /// Each multiple of this length starts a new block.
    pub(super) unit: u64,
    /// Whether the response is copied into blocks, so that its bytes are held twice. A late GET that is hedged has two
    /// responses, but no blocks yet.
    pub(super) is_copied: bool,
}

impl FetchCost {
    /// The bytes in memory for a fetch of `len` bytes.
    pub(super) fn of(self, len: u64) -> usize {
        let (unit, block) = (self.unit.max(1), BLOCK_LEN as u64);
        let rest = (len % unit).next_multiple_of(block);
        let blocks = (len / unit).saturating_mul(unit.next_multiple_of(block)).saturating_add(rest);
        let response = if self.is_copied { len } else { 0 };
        usize::try_from(blocks.saturating_add(response)).unwrap_or(usize::MAX)
    }
}

/// The cache, shared by the readers of all imports.
#[derive(Debug)]
pub struct WindowCache {
    memory: Budget,
    state: Mutex<State>,
    /// The cache on disk, for windows that do not fit into memory.
    disk: Option<Arc<DiskCache>>,
    /// The permits for long GETs, shared by all imports.
    range_stream_permits: Arc<Semaphore>,
    /// The pool that windows are allocated from. [`Share::Fetches`] and then [`Share::Windows`] cover its blocks.
    blocks: BlockPool,
}

#[derive(Debug)]
struct State {
    lru: SegmentedLru<WindowKey>,
    /// As long as the cached windows.
    charge: Reservation,
    in_flight: HashMap<WindowKey, Weak<InFlightWindow>>,
}

impl WindowCache {
    /// A cache with a separate budget, for tests: five eighths of `capacity` for cached windows, three eighths for
    /// fetches in flight. A program has one [`Budget`].
    #[must_use]
    pub fn new(capacity: u64) -> Arc<Self> {
        Self::with_disk(capacity, None)
    }

    /// As [`WindowCache::new`], with a larger and slower disk cache behind it for verified windows.
    #[must_use]
    pub fn with_disk(capacity: u64, disk: Option<Arc<DiskCache>>) -> Arc<Self> {
        let eighth = usize::try_from(capacity / 8).unwrap_or(usize::MAX / 16);
        let (windows, fetches) = ((Share::Windows, 5 * eighth), (Share::Fetches, 6 * eighth));
        let others = [(Share::Readers, eighth), (Share::Bodies, eighth)];
        let shares = [windows, fetches].into_iter().chain(others).collect::<Vec<_>>();
        Self::with_memory(Budget::of_shares(&shares), disk)
    }

    /// A cache that uses [`Share::Windows`] and [`Share::Fetches`] of `memory`. A single window that is longer than its
    /// share is kept all the same.
    #[must_use]
    pub fn with_memory(memory: Budget, disk: Option<Arc<DiskCache>>) -> Arc<Self> {
        let charge = memory.charge(Share::Windows, 0);
        let lru = SegmentedLru::default();
        let cache = Arc::new(Self {
            state: Mutex::new(State { lru, charge, in_flight: HashMap::new() }),
            disk,
            range_stream_permits: Arc::new(Semaphore::new(MAX_RANGE_STREAMS)),
            blocks: memory.covered_blocks(),
            memory,
        });
        let owner: Weak<dyn EvictWindows> = Arc::<Self>::downgrade(&cache) as _;
        cache.memory.set_windows(owner);
        cache
    }

    /// The budget that the cached windows belong to.
    #[must_use]
    pub fn memory(&self) -> &Budget {
        &self.memory
    }

    pub(in crate::storage) fn disk(&self) -> Option<&Arc<DiskCache>> {
        self.disk.as_ref()
    }

    pub(in crate::storage) fn blocks(&self) -> &BlockPool {
        &self.blocks
    }

    pub(in crate::storage) fn range_stream_permits(&self) -> &Arc<Semaphore> {
        &self.range_stream_permits
    }

    /// The number of bytes that are cached now.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.state.lock().lru.bytes()
    }

    /// The capacity for cached windows.
    pub(super) fn window_capacity(&self) -> u64 {
        self.memory.share(Share::Windows).len() as u64
    }

    /// The longest prefetch for one reader.
    pub(super) fn max_prefetch(&self) -> u64 {
        let fetches = self.memory.share(Share::Fetches).len();
        ((fetches / PREFETCH_PARTS) as u64).min(MAX_FETCH)
    }

    /// Drops the windows of an import whose bytes are about to change.
    pub fn forget(&self, import: &ImportId) {
        self.disk.iter().for_each(|disk| disk.forget(import));
        let mut state = self.state.lock();
        state.lru.retain(|key| key.import != *import);
        state.settle();
        state.in_flight.retain(|key, _| key.import != *import);
    }

    /// The `part` of a window, if it is cached. `promotes`: whether this read promotes the window.
    pub(super) fn read_part(
        &self,
        key: &WindowKey,
        part: Range<usize>,
        promotes: bool,
    ) -> Option<Payload> {
        self.state.lock().lru.get(key, part, self.window_capacity(), promotes)
    }

    /// The given windows, which are adjacent: from the cache, from a fetch in flight, or from a new fetch. Neighbours
    /// that are missing share one fetch.
    pub(in crate::storage) fn fetch<F, Fut>(
        self: &Arc<Self>,
        keys: &[WindowKey],
        cost: FetchCost,
        fetch: F,
    ) -> Vec<RequestedWindow>
    where
        F: Fn(Range<u64>) -> Fut,
        Fut: Future<Output = Result<Blocks>> + Send + 'static,
    {
        let mut batches: Vec<FetchBatch> = Vec::new();
        let mut state = self.state.lock();
        let requested = keys.iter().map(|key| {
            if let Some(bytes) = state.lru.peek(key) {
                return RequestedWindow::Ready(bytes);
            }
            if let Some(requested) = state.in_flight(key) {
                return requested;
            }
            if batches.last().is_none_or(|batch| !batch.accepts(key)) {
                batches.push(FetchBatch::new(self));
            }
            let batch = batches.last_mut().expect("one was pushed if there was none");
            let (window, outcome) = batch.add(key.clone());
            state.in_flight.insert(key.clone(), Arc::downgrade(&window));
            RequestedWindow::InFlight(outcome, window)
        });
        let requested = requested.collect();
        drop(state);
        for batch in batches {
            tracing::debug!(range = ?batch.range(), "fetch");
            let (work, len) = (fetch(batch.range()), cost.of(batch.len()));
            let memory = self.memory.clone();
            let reserve = async move { Arc::new(memory.reserve(Share::Fetches, len).await) };
            tokio::spawn(batch.run(work, reserve));
        }
        requested
    }

    /// Reserves the memory for a fetch of `len` bytes, after the reservations requested before.
    pub(in crate::storage) async fn reserve(&self, cost: FetchCost, len: u64) -> Reservation {
        self.memory.reserve(Share::Fetches, cost.of(len)).await
    }

    /// Prefetches those of the given adjacent windows that are neither cached nor in flight. Without a
    /// `reservation` it fetches only if one can be made without waiting. Dropping the returned handles cancels the
    /// fetches that no reader waits for.
    pub(in crate::storage) fn prefetch<F, Fut>(
        self: &Arc<Self>,
        keys: &[WindowKey],
        cost: FetchCost,
        reservation: Option<Reservation>,
        fetch: F,
    ) -> Vec<Arc<InFlightWindow>>
    where
        F: Fn(Range<u64>) -> Fut,
        Fut: Future<Output = Result<Blocks>> + Send + 'static,
    {
        let (mut handles, mut batches) = (Vec::new(), Vec::<FetchBatch>::new());
        let mut state = self.state.lock();
        for key in keys {
            if state.lru.contains(key) {
                continue;
            }
            if let Some(window) = state.in_flight.get(key).and_then(Weak::upgrade) {
                handles.push(window);
                continue;
            }
            if batches.last().is_none_or(|batch| !batch.accepts(key)) {
                batches.push(FetchBatch::new(self));
            }
            handles.extend(batches.last_mut().map(|batch| batch.add(key.clone()).0));
        }
        let len: usize = batches.iter().map(|batch| cost.of(batch.len())).sum();
        if len == 0 {
            return Vec::new();
        }
        // Evicts no windows: this holds the lock that an eviction takes.
        let reserve = || self.memory.try_reserve_free(Share::Fetches, len);
        let Some(reservation) = reservation.or_else(reserve) else { return Vec::new() };
        for window in batches.iter().flat_map(|batch| &batch.windows) {
            state.in_flight.insert(window.key.clone(), window.handle.clone());
        }
        drop(state);
        let reservation = Arc::new(reservation);
        for batch in batches {
            let range = batch.range();
            tracing::debug!(?range, "prefetch");
            let reserved = std::future::ready(Arc::clone(&reservation));
            drop(tokio::spawn(batch.run(fetch(range), reserved)));
        }
        handles
    }
}

impl InFlightWindow {
    pub(in crate::storage) fn has_ended(&self) -> bool {
        self.outcome.strong_count() == 0
    }
}

impl EvictWindows for WindowCache {
    fn evict_for(&self, len: usize) {
        let mut state = self.state.lock();
        let excess = (self.memory.held() + len).saturating_sub(self.memory.total()) as u64;
        let left = state.lru.bytes().saturating_sub(excess);
        state.lru.shrink(left.min(self.memory.share(Share::Windows).limit() as u64));
        state.settle();
    }
}

impl RequestedWindow {
    pub(in crate::storage) async fn wait(self) -> Result<Blocks> {
        let (mut outcome, _keep_alive) = match self {
            Self::Ready(bytes) => return Ok(bytes),
            Self::InFlight(outcome, window) => (outcome, window),
        };
        let no_outcome = || Error::new(Kind::Internal, "a fetch ended without an outcome");
        match &*outcome.wait_for(Option::is_some).await.map_err(|_| no_outcome())? {
            Some(Ok(bytes)) => Ok(bytes.clone()),
            Some(Err(e)) => Err(e.clone()),
            None => Err(no_outcome()),
        }
    }
}

/// One fetch of adjacent windows. However it ends, its windows leave the list of windows in flight.
struct FetchBatch {
    cache: Arc<WindowCache>,
    windows: Vec<BatchWindow>,
    /// Cancelled when no reader wants any of the windows.
    cancelled: CancellationToken,
    keep_alive: Option<Arc<DropGuard>>,
}

struct BatchWindow {
    key: WindowKey,
    outcome: Arc<watch::Sender<Outcome>>,
    handle: Weak<InFlightWindow>,
}

impl FetchBatch {
    fn new(cache: &Arc<WindowCache>) -> Self {
        let cancelled = CancellationToken::new();
        let keep_alive = Some(Arc::new(cancelled.clone().drop_guard()));
        Self { cache: Arc::clone(cache), windows: Vec::new(), cancelled, keep_alive }
    }

    /// Whether the same fetch can include the window.
    fn accepts(&self, key: &WindowKey) -> bool {
        let range = self.range();
        self.windows.is_empty() || range.end == key.start && key.end - range.start <= MAX_FETCH
    }

    fn add(&mut self, key: WindowKey) -> (Arc<InFlightWindow>, watch::Receiver<Outcome>) {
        let (sender, receiver) = watch::channel(None);
        let outcome = Arc::new(sender);
        let keep_alive = self.keep_alive.as_ref().expect("dropped only when the fetch begins");
        let handle = Arc::new(InFlightWindow {
            outcome: Arc::downgrade(&outcome),
            _keep_alive: Arc::clone(keep_alive),
        });
        self.windows.push(BatchWindow { key, outcome, handle: Arc::downgrade(&handle) });
        (handle, receiver)
    }

    fn range(&self) -> Range<u64> {
        let first = self.windows.first().map_or(0, |window| window.key.start);
        first..self.windows.last().map_or(first, |window| window.key.end)
    }

    fn len(&self) -> u64 {
        let range = self.range();
        range.end - range.start
    }

    /// The reservation covers the fetched bytes until they are in the cache.
    async fn run(
        mut self,
        work: impl Future<Output = Result<Blocks>>,
        reserve: impl Future<Output = Arc<Reservation>>,
    ) {
        self.keep_alive = None;
        let cancelled = self.cancelled.clone();
        let fetch = async {
            let reservation = reserve.await;
            (work.await, reservation)
        };
        tokio::select! {
            biased;
            (fetched, reservation) = fetch => {
                self.complete(fetched);
                drop(reservation);
            }
            () = cancelled.cancelled() => {}
        }
    }

    fn complete(&mut self, mut fetched: Result<Blocks>) {
        for window in std::mem::take(&mut self.windows) {
            let key = window.key;
            let len = usize::try_from(key.end - key.start).unwrap_or(usize::MAX);
            let outcome = fetched.as_ref().map(|blocks| blocks.split(len)).map_err(Error::clone);
            let outcome = outcome.map(|(window, rest)| {
                fetched = Ok(rest);
                window
            });
            {
                // The window is cached and taken off the list in one step: between two steps, another reader would
                // fetch it again.
                let mut state = self.cache.state.lock();
                // A window that was dropped by `forget` meanwhile is not cached.
                if state.is_listed(&key, &window.handle) {
                    state.in_flight.remove(&key);
                    if let Ok(bytes) = &outcome {
                        let capacity = self.cache.memory.share(Share::Windows).limit() as u64;
                        state.lru.insert(key, bytes.clone(), capacity);
                        state.settle();
                    }
                }
            }
            window.outcome.send_replace(Some(outcome));
        }
    }
}

impl State {
    /// The window with this key, if it is in flight.
    fn in_flight(&self, key: &WindowKey) -> Option<RequestedWindow> {
        let window = self.in_flight.get(key)?.upgrade()?;
        let outcome = window.outcome.upgrade()?.subscribe();
        Some(RequestedWindow::InFlight(outcome, window))
    }

    /// Makes the charge as long as the cached windows. Windows that the budget has no room for are evicted, except the
    /// last one.
    fn settle(&mut self) {
        loop {
            let (bytes, charged) = (self.lru.bytes(), self.charge.len() as u64);
            let more = usize::try_from(bytes.saturating_sub(charged)).unwrap_or(usize::MAX);
            if more == 0 {
                return self.charge.shrink_to(usize::try_from(bytes).unwrap_or(usize::MAX));
            }
            if self.charge.try_grow(more) {
                return;
            }
            if self.lru.len() <= 1 {
                return self.charge.grow(more);
            }
            self.lru.shrink(bytes - 1);
        }
    }

    fn is_listed(&self, key: &WindowKey, handle: &Weak<InFlightWindow>) -> bool {
        self.in_flight.get(key).is_some_and(|listed| listed.ptr_eq(handle))
    }
}

impl Drop for FetchBatch {
    fn drop(&mut self) {
        if self.windows.is_empty() {
            return;
        }
        let mut state = self.cache.state.lock();
        for window in &self.windows {
            // A new fetch of the window may have begun since this one was cancelled.
            if state.is_listed(&window.key, &window.handle) {
                state.in_flight.remove(&window.key);
            }
        }
    }
}
