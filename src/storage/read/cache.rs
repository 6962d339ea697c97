//! The window cache: windows of imports are fetched once and kept within a byte limit.
//!
//! Readers that request a window in flight wait for the same fetch. Each fetch is a separate task, so one reader can
//! be cancelled without affecting the others. A fetch is cancelled when no reader wants any of its windows. Bytes in
//! flight have a budget too, so memory is bounded for any number of readers. Errors are returned to the readers that
//! waited, and are not cached. The cache is always safe to drop.

use std::{
    collections::HashMap,
    future::Future,
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    blocks::Blocks,
    disk_cache::DiskCache,
    fetch_budget::{FetchBudget, Reservation},
    segmented_lru::SegmentedLru,
};
use crate::{
    backends::Payload,
    catalog::ImportId,
    error::{Error, Kind, Result},
    memory::BlockPool,
    units::MIB,
};

/// The longest fetch for a sequential reader.
pub(super) const MAX_FETCH: u64 = 8 * MIB;

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
    outcome: watch::Receiver<Outcome>,
    _keep_alive: Arc<DropGuard>,
}

/// A requested window.
#[derive(Debug)]
pub(in crate::storage) enum RequestedWindow {
    Ready(Blocks),
    InFlight(Arc<InFlightWindow>),
}

/// The cache, shared by the readers of all imports.
#[derive(Debug)]
pub struct WindowCache {
    /// The capacity in bytes: five eighths for cached windows, three eighths for fetches in flight.
    capacity: AtomicU64,
    budget: Arc<FetchBudget>,
    state: Mutex<State>,
    /// The cache on disk, for windows that do not fit into memory.
    disk: Option<Arc<DiskCache>>,
    /// The permits for long GETs, shared by all imports.
    range_stream_permits: Arc<Semaphore>,
    /// The pool that windows are allocated from.
    blocks: BlockPool,
}

#[derive(Debug, Default)]
struct State {
    lru: SegmentedLru<WindowKey>,
    in_flight: HashMap<WindowKey, Weak<InFlightWindow>>,
}

impl WindowCache {
    /// A cache of up to `capacity` bytes, fetches in flight included. A single window that is longer is kept all the
    /// same.
    #[must_use]
    pub fn new(capacity: u64) -> Arc<Self> {
        Self::with_disk(capacity, None)
    }

    /// As [`WindowCache::new`], with a larger and slower disk cache behind it for verified windows.
    #[must_use]
    pub fn with_disk(capacity: u64, disk: Option<Arc<DiskCache>>) -> Arc<Self> {
        Arc::new(Self {
            capacity: AtomicU64::new(capacity),
            budget: FetchBudget::new(capacity / 8 * 3),
            state: Mutex::default(),
            disk,
            range_stream_permits: Arc::new(Semaphore::new(MAX_RANGE_STREAMS)),
            blocks: BlockPool::new(usize::try_from(capacity).unwrap_or(usize::MAX)),
        })
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

    /// Changes the capacity, and evicts at once what does not fit any more.
    pub fn set_capacity(&self, capacity: u64) {
        self.capacity.store(capacity, Ordering::Relaxed);
        self.budget.set_limit(capacity / 8 * 3);
        self.state.lock().lru.shrink(self.window_capacity());
    }

    /// The number of bytes that are cached now.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.state.lock().lru.bytes()
    }

    fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// The capacity for cached windows.
    pub(super) fn window_capacity(&self) -> u64 {
        self.capacity() / 8 * 5
    }

    /// The longest prefetch for one reader, so that several readers fit side by side.
    pub(super) fn max_prefetch(&self) -> u64 {
        (self.capacity() / 16).min(MAX_FETCH)
    }

    /// Drops the windows of an import whose bytes are about to change.
    pub fn forget(&self, import: &ImportId) {
        self.disk.iter().for_each(|disk| disk.forget(import));
        let mut state = self.state.lock();
        state.lru.retain(|key| key.import != *import);
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
            RequestedWindow::InFlight(
                state.in_flight.get(key).and_then(Weak::upgrade).unwrap_or_else(|| {
                    if batches.last().is_none_or(|batch| !batch.accepts(key)) {
                        batches.push(FetchBatch::new(self));
                    }
                    let batch = batches.last_mut().expect("one was pushed if there was none");
                    let window = batch.add(key.clone());
                    state.in_flight.insert(key.clone(), Arc::downgrade(&window));
                    window
                }),
            )
        });
        let requested = requested.collect();
        drop(state);
        for batch in batches {
            tracing::debug!(range = ?batch.range(), "fetch");
            let work = fetch(batch.range());
            tokio::spawn(batch.run(work, None));
        }
        requested
    }

    /// Reserves `len` bytes of the fetch budget, after the reservations requested before.
    pub(in crate::storage) async fn reserve(&self, len: u64) -> Reservation {
        self.budget.reserve(len).await
    }

    /// Prefetches those of the given adjacent windows that are neither cached nor in flight. Without a
    /// `reservation` it fetches only if one can be made without waiting. Dropping the returned handles cancels the
    /// fetches that no reader waits for.
    pub(in crate::storage) fn prefetch<F, Fut>(
        self: &Arc<Self>,
        keys: &[WindowKey],
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
            handles.extend(batches.last_mut().map(|batch| batch.add(key.clone())));
        }
        let len: u64 = batches.iter().map(|batch| batch.range().end - batch.range().start).sum();
        let reservation = reservation.or_else(|| self.budget.try_reserve(len));
        let Some(reservation) = reservation.filter(|_| len > 0) else {
            return Vec::new();
        };
        for window in batches.iter().flat_map(|batch| &batch.windows) {
            state.in_flight.insert(window.key.clone(), window.handle.clone());
        }
        drop(state);
        let reservation = Arc::new(reservation);
        for batch in batches {
            let range = batch.range();
            tracing::debug!(?range, "prefetch");
            drop(tokio::spawn(batch.run(fetch(range), Some(Arc::clone(&reservation)))));
        }
        handles
    }
}

impl InFlightWindow {
    pub(in crate::storage) fn has_ended(&self) -> bool {
        self.outcome.borrow().is_some()
    }
}

impl RequestedWindow {
    pub(in crate::storage) async fn wait(self) -> Result<Blocks> {
        let window = match self {
            Self::Ready(bytes) => return Ok(bytes),
            Self::InFlight(window) => window,
        };
        let no_outcome = || Error::new(Kind::Internal, "a fetch ended without an outcome");
        let mut outcome = window.outcome.clone();
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
    outcome: watch::Sender<Outcome>,
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

    fn add(&mut self, key: WindowKey) -> Arc<InFlightWindow> {
        let (sender, outcome) = watch::channel(None);
        let keep_alive = self.keep_alive.as_ref().expect("dropped only when the fetch begins");
        let handle = Arc::new(InFlightWindow { outcome, _keep_alive: Arc::clone(keep_alive) });
        self.windows.push(BatchWindow { key, outcome: sender, handle: Arc::downgrade(&handle) });
        handle
    }

    fn range(&self) -> Range<u64> {
        let first = self.windows.first().map_or(0, |window| window.key.start);
        first..self.windows.last().map_or(first, |window| window.key.end)
    }

    /// Without a `reservation` the fetch waits for its own.
    async fn run(
        mut self,
        work: impl Future<Output = Result<Blocks>>,
        reservation: Option<Arc<Reservation>>,
    ) {
        self.keep_alive = None;
        let (range, cancelled) = (self.range(), self.cancelled.clone());
        let budget = Arc::clone(&self.cache.budget);
        let fetch = async {
            let _reservation = match reservation {
                Some(reservation) => reservation,
                None => Arc::new(budget.reserve(range.end - range.start).await),
            };
            work.await
        };
        tokio::select! {
            biased;
            fetched = fetch => self.complete(fetched),
            () = cancelled.cancelled() => {}
        }
    }

    fn complete(&mut self, mut fetched: Result<Blocks>) {
        let window_capacity = self.cache.window_capacity();
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
                        state.lru.insert(key, bytes.clone(), window_capacity);
                    }
                }
            }
            window.outcome.send_replace(Some(outcome));
        }
    }
}

impl State {
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
