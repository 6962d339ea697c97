//! Reads the bytes of an import from memory, the cache, or the backend.
//!
//! The backend is read in whole windows only. With a [`PieceVerifier`] each window is verified before any of it is
//! returned. A window that fails is fetched again. If it still fails, the error names the bad piece. Bytes in memory
//! were verified before they were accepted.

use std::{
    collections::VecDeque,
    future::Future,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    blocks::{BlockCutter, Blocks},
    cache::{FetchCost, InFlightWindow, MAX_FETCH, WindowCache, WindowKey},
    range_streams::{PendingParts, RangeStreams, StreamContext},
    readahead::{self, Readahead},
    verified_fetch::{PieceVerifier, VerifiedFetch},
    window_grid::{WINDOW, WindowGrid},
};
use crate::{
    backends::{Capabilities, Payload},
    error::{Error, Kind, Result},
    memory::{BLOCK_LEN, Budget, Reservation},
    storage::map::import_store::{ByteSource, ImportStore},
};

static ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];

/// The number of prefetch runs that are kept in flight, over all sequential readers of one [`ImportReader`].
const MAX_PREFETCH_RUNS: usize = 32;

/// The number of pieces per window in a local folder, where pieces are small.
const LOCAL_WINDOW_PIECES: u64 = 4;

/// Reads one import. Cheap to clone. Clones share the detection of sequential readers; the cache is shared by all
/// imports.
#[derive(Debug, Clone)]
pub struct ImportReader {
    store: Arc<ImportStore>,
    cache: Arc<WindowCache>,
    grid: WindowGrid,
    verifier: Option<Arc<PieceVerifier>>,
    prefetching: Arc<Mutex<Prefetch>>,
    scan_resistant: Arc<AtomicBool>,
    now: fn() -> Instant,
}

/// The sequential readers, and what is prefetched for them.
#[derive(Debug)]
struct Prefetch {
    readahead: Readahead,
    range_streams: RangeStreams,
    in_flight: VecDeque<Vec<Arc<InFlightWindow>>>,
    /// Ranges that will be requested soon, and whether a task is fetching them.
    queued: VecDeque<Range<u64>>,
    is_fetching: bool,
}

impl Prefetch {
    fn new(min_run: u32) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            readahead: Readahead::new(min_run),
            range_streams: RangeStreams::default(),
            in_flight: VecDeque::new(),
            queued: VecDeque::new(),
            is_fetching: false,
        }))
    }
}

impl ImportReader {
    /// A reader that trusts the backend: nothing is verified.
    #[must_use]
    pub fn new(store: Arc<ImportStore>, cache: Arc<WindowCache>) -> Self {
        let grid = WindowGrid::sequential(store.layout().len());
        Self {
            store,
            cache,
            grid,
            verifier: None,
            prefetching: Prefetch::new(readahead::PLAYER_MIN_RUN),
            scan_resistant: Arc::default(),
            now: Instant::now,
        }
    }

    /// A reader for peers: every fetched byte is verified before it is returned.
    #[must_use]
    pub fn for_peers(
        store: Arc<ImportStore>,
        cache: Arc<WindowCache>,
        verifier: PieceVerifier,
    ) -> Self {
        let min_len = min_window_len(store.backend().capabilities(), verifier.piece_len);
        let grid = WindowGrid::of_pieces(store.layout().len(), verifier.piece_len, min_len);
        let prefetching = Prefetch::new(readahead::PEER_MIN_RUN);
        Self { grid, verifier: Some(Arc::new(verifier)), prefetching, ..Self::new(store, cache) }
    }

    /// A reader for `export` and `cat`: files in order, each byte verified before it is returned.
    #[must_use]
    pub fn for_export(
        store: Arc<ImportStore>,
        cache: Arc<WindowCache>,
        verifier: PieceVerifier,
    ) -> Self {
        let grid = WindowGrid::of_pieces(store.layout().len(), verifier.piece_len, WINDOW);
        let prefetching = Prefetch::new(readahead::PLAYER_MIN_RUN);
        Self { grid, verifier: Some(Arc::new(verifier)), prefetching, ..Self::new(store, cache) }
    }

    /// The same reader with another clock.
    #[cfg(test)]
    pub(in crate::storage) fn with_clock(self, now: fn() -> Instant) -> Self {
        Self { now, ..self }
    }

    /// The import that this reads.
    #[must_use]
    pub fn store(&self) -> &Arc<ImportStore> {
        &self.store
    }

    /// The memory budget that reads count against.
    #[must_use]
    pub fn memory(&self) -> &Budget {
        self.cache.memory()
    }

    /// Reads the bytes of `range`. Dropping the future cancels the fetches that no other reader waits for.
    ///
    /// # Errors
    /// `NotFound` when a part is not stored yet; `InvalidInput` outside the import; `Corrupt` when the stored bytes are
    /// wrong after every retry; else the error of the backend.
    pub async fn read_at(&self, range: Range<u64>) -> Result<Payload> {
        let Range { start, end } = range;
        if start > end || end > self.store.layout().len() {
            let text = format!("range {start}..{end} is outside the import");
            return Err(self.with_context(Error::new(Kind::InvalidInput, text)));
        }
        if let Some(payload) = self.try_read(range.clone()) {
            self.prefetch_next(&range);
            return Ok(payload);
        }
        let mut payload = Payload::default();
        let mut at = start;
        while at < end {
            // One run at a time: this bounds the memory that a long read holds beyond the cache.
            let run = self.first_run(at..end);
            at = run.end;
            self.read_run(run, &mut payload).await.map_err(|e| self.with_context(e))?;
        }
        Ok(payload)
    }

    async fn read_run(&self, run: Range<u64>, payload: &mut Payload) -> Result<()> {
        let parts: Vec<_> = self.parts(&run).collect();
        let keys: Vec<_> = parts.iter().map(|part| self.key_for_part(part)).collect();
        let fetches = self.cache.fetch(&keys, self.cost(), |range| self.fetch_range(range));
        self.prefetch_next(&run);
        for ((part, key), fetch) in parts.into_iter().zip(keys).zip(fetches) {
            let received = match fetch.wait().await {
                Ok(window) => {
                    // Counts the bytes as read.
                    self.cache.read_part(&key, within(&key, &part), self.promotes());
                    window.slice(within(&key, &part))
                }
                Err(e) if e.kind().is_object_specific() => self.fetch_alone(&part, &key, e).await?,
                Err(e) => return Err(e),
            };
            received.buffers().iter().for_each(|bytes| payload.push(bytes.clone()));
        }
        Ok(())
    }

    /// A window may fail because of another piece than the requested ones, so those are fetched alone.
    async fn fetch_alone(
        &self,
        part: &Range<u64>,
        failed: &WindowKey,
        error: Error,
    ) -> Result<Payload> {
        let key = self.key(self.grid.units(part));
        if key == *failed {
            return Err(error);
        }
        let keys = std::slice::from_ref(&key);
        let fetches = self.cache.fetch(keys, self.cost(), |range| self.fetch_range(range));
        match fetches.into_iter().next() {
            Some(fetch) => Ok(fetch.wait().await?.slice(within(&key, part))),
            None => Err(error),
        }
    }

    /// As [`ImportReader::read_at`], but without waiting: `None` when the read needs the backend, or fails.
    #[must_use]
    pub fn try_read(&self, range: Range<u64>) -> Option<Payload> {
        self.try_cached(&range).or_else(|| self.try_memory(range))
    }

    /// As [`ImportReader::try_read`], for bytes that were read and counted before.
    #[must_use]
    pub fn try_read_again(&self, range: Range<u64>) -> Option<Payload> {
        self.cached(&range, false).or_else(|| self.try_memory(range))
    }

    /// The bytes of `range` if the cache has all of them, as slices of its windows.
    #[must_use]
    pub fn try_cached(&self, range: &Range<u64>) -> Option<Payload> {
        let payload = self.cached(range, self.promotes())?;
        self.store.read_stats().add_cached_bytes(payload.len());
        Some(payload)
    }

    fn cached(&self, range: &Range<u64>, promotes: bool) -> Option<Payload> {
        let mut payload = Payload::default();
        for part in self.parts(range) {
            let from_cache =
                |key: &WindowKey| self.cache.read_part(key, within(key, &part), promotes);
            let window = self.key(self.grid.window(part.start));
            let cached =
                from_cache(&window).or_else(|| from_cache(&self.key(self.grid.units(&part))))?;
            cached.buffers().iter().for_each(|bytes| payload.push(bytes.clone()));
        }
        Some(payload)
    }

    /// The bytes of `range` if all of them are in memory or padding.
    #[must_use]
    pub fn try_memory(&self, range: Range<u64>) -> Option<Payload> {
        if range.start > range.end || range.end > self.store.layout().len() {
            return None;
        }
        let mut payload = Payload::default();
        for source in self.store.locate(range) {
            match source {
                ByteSource::Memory(bytes) => payload.push(bytes),
                ByteSource::Zeros(len) => zeros(len, &mut payload),
                ByteSource::Object(..) | ByteSource::Unfinished(_) | ByteSource::Hole(_) => {
                    return None;
                }
            }
        }
        Some(payload)
    }

    /// Records that `range` is being read. For a sequential reader it returns the range to prefetch with
    /// [`ImportReader::prefetch`].
    #[must_use]
    pub fn record_read(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let max_len = self.cache.max_prefetch();
        let mut state = self.prefetching.lock();
        let next =
            self.grid.windows(range).filter_map(|w| state.readahead.record_read(&w, max_len));
        let next = next.reduce(|first, last| first.start..last.end)?;
        Some(next.start..next.end.min(self.store.layout().len()))
    }

    /// Sets scan mode: from now on all readers move over the import together. A cache hit then does not promote a
    /// window, since only the readers further behind will read it again.
    pub fn set_scan_resistant(&self, scan_resistant: bool) {
        self.scan_resistant.store(scan_resistant, Ordering::Relaxed);
    }

    fn promotes(&self) -> bool {
        !self.scan_resistant.load(Ordering::Relaxed)
    }

    /// The number of bytes that the cache keeps before it evicts a window.
    #[must_use]
    pub fn cache_capacity(&self) -> u64 {
        self.cache.window_capacity()
    }

    /// Starts to prefetch the windows of `range` that are stored and not cached, if the budget allows. To be called
    /// inside a runtime.
    pub fn prefetch(&self, range: &Range<u64>) {
        self.start_prefetch(range, None);
    }

    /// As [`ImportReader::prefetch`], but in order and with a wait for the budget, for ranges that will certainly be
    /// requested. Returns the task to run inside a runtime, or `None` when one is running already.
    pub fn queue_prefetch(
        &self,
        ranges: Vec<Range<u64>>,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let mut state = self.prefetching.lock();
        state.queued.extend(ranges);
        let is_running = std::mem::replace(&mut state.is_fetching, true);
        let reader = self.clone();
        (!is_running).then_some(async move {
            while let Some(range) = reader.next_queued() {
                let len = range.end.saturating_sub(range.start);
                let reservation = reader.cache.reserve(reader.cost(), len).await;
                reader.start_prefetch(&range, Some(reservation));
            }
        })
    }

    /// The next range to fetch: neighbours are merged up to the length of one run.
    fn next_queued(&self) -> Option<Range<u64>> {
        let mut state = self.prefetching.lock();
        let Some(mut next) = state.queued.pop_front() else {
            state.is_fetching = false;
            return None;
        };
        while let Some(after) = state.queued.pop_front_if(|after| after.start == next.end) {
            next.end = after.end;
        }
        next.end = next.end.min(self.store.layout().len());
        let run = self.first_run(next.clone());
        if run.end < next.end {
            state.queued.push_front(run.end..next.end);
        }
        Some(run)
    }

    /// The start of `range` that is fetched at once: up to the longest fetch, and at least one window.
    fn first_run(&self, range: Range<u64>) -> Range<u64> {
        let Range { start, end } = range;
        start..self.grid.window(start).end.max(start.saturating_add(MAX_FETCH)).min(end)
    }

    fn start_prefetch(&self, range: &Range<u64>, reservation: Option<Reservation>) {
        let windows = self.grid.windows(range);
        let keys: Vec<_> =
            windows.filter(|w| self.store.is_readable(w.clone())).map(|w| self.key(w)).collect();
        let fetch = |range| self.fetch_range_ahead(range);
        let windows = self.cache.prefetch(&keys, self.cost(), reservation, fetch);
        let mut state = self.prefetching.lock();
        // A fetch that has ended needs no handle to keep it alive.
        state.in_flight.retain(|run| run.iter().any(|window| !window.has_ended()));
        if !windows.is_empty() {
            state.in_flight.push_back(windows);
        }
        if state.in_flight.len() > MAX_PREFETCH_RUNS {
            state.in_flight.pop_front();
        }
    }

    fn prefetch_next(&self, range: &Range<u64>) {
        if let Some(next) = self.record_read(range) {
            self.prefetch(&next);
        }
    }

    /// `range`, cut at the ends of its windows.
    fn parts(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let range = range.clone();
        let clip = move |w: Range<u64>| w.start.max(range.start)..w.end.min(range.end);
        self.grid.windows(&(clip(0..u64::MAX))).map(clip)
    }

    fn key(&self, range: Range<u64>) -> WindowKey {
        let verified = self.verifier.is_some();
        WindowKey { import: self.store.id().clone(), verified, start: range.start, end: range.end }
    }

    /// The cache key to fetch for a part of a window: the whole window, or the smallest unit while the rest is not
    /// stored.
    fn key_for_part(&self, part: &Range<u64>) -> WindowKey {
        let window = self.grid.window(part.start);
        let whole = self.store.is_readable(window.clone());
        self.key(if whole { window } else { self.grid.units(part) })
    }

    /// The fetch of a range of whole windows, or of whole pieces of one.
    fn fetch_range(
        &self,
        range: Range<u64>,
    ) -> impl Future<Output = Result<Blocks>> + Send + use<> {
        self.verified_fetch().run(range, PendingParts::default())
    }

    /// As [`ImportReader::fetch_range`], for a sequential reader whose budget is reserved.
    fn fetch_range_ahead(
        &self,
        range: Range<u64>,
    ) -> impl Future<Output = Result<Blocks>> + Send + use<> {
        let (verified_fetch, cutter) = (self.verified_fetch(), self.cutter());
        let context = StreamContext {
            store: &self.store,
            cutter: &cutter,
            permits: self.cache.range_stream_permits(),
        };
        // A local folder answers at once, so runs from it need no long GET.
        let is_local = self.store.backend().capabilities().body_in_blocks;
        let pending = match is_local || verified_fetch.is_on_disk(&range) {
            true => PendingParts::default(),
            false => self.prefetching.lock().range_streams.request(&range, &context, (self.now)()),
        };
        verified_fetch.run(range, pending)
    }

    fn verified_fetch(&self) -> VerifiedFetch {
        let disk = self.cache.disk().cloned();
        VerifiedFetch::new(
            Arc::clone(&self.store),
            self.grid,
            self.verifier.clone(),
            disk,
            self.cutter(),
        )
    }

    fn cost(&self) -> FetchCost {
        let is_copied =
            !self.store.backend().capabilities().body_in_blocks || self.cache.disk().is_some();
        FetchCost { unit: self.grid.unit(), is_copied }
    }

    fn cutter(&self) -> BlockCutter {
        BlockCutter { pool: self.cache.blocks().clone(), unit: self.grid.unit() }
    }

    fn with_context(&self, e: Error) -> Error {
        e.with_context(format_args!("import {} ({})", self.store.id(), self.store.name()))
    }
}

/// The shortest window of a storage. A local folder answers at once, so windows of small pieces are shorter there and
/// fewer unwanted pieces are read.
fn min_window_len(capabilities: Capabilities, piece_len: u64) -> u64 {
    match capabilities.body_in_blocks {
        true => capabilities.window.min(LOCAL_WINDOW_PIECES.saturating_mul(piece_len)),
        false => capabilities.window,
    }
}

fn within(key: &WindowKey, part: &Range<u64>) -> Range<usize> {
    let at = |pos: u64| usize::try_from(pos - key.start).expect("a window fits in memory");
    at(part.start)..at(part.end)
}

fn zeros(mut len: u64, payload: &mut Payload) {
    while len > 0 {
        let part = usize::try_from(len).map_or(BLOCK_LEN, |len| len.min(BLOCK_LEN));
        payload.push(Bytes::from_static(&ZEROS[..part]));
        len -= part as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backends::{MemoryBackend, StorageBackend as _},
        units::{KIB, MIB},
    };

    #[test]
    fn windows_of_small_pieces_are_shorter_in_a_folder_than_in_a_bucket() {
        let bucket = MemoryBackend::new().capabilities();
        let folder = Capabilities { body_in_blocks: true, ..bucket };
        assert_eq!(min_window_len(folder, 16 * KIB), 64 * KIB);
        assert_eq!(min_window_len(folder, 256 * KIB), MIB);
        assert_eq!(min_window_len(bucket, 16 * KIB), MIB);
    }
}
