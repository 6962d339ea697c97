//! Reads the bytes of an import from memory, the cache, or the backend.
//!
//! The backend is read in whole windows only. With [`Checks`] each window is verified before any of it is returned. A
//! window that fails is fetched again. If it still fails, the error names the bad piece. Bytes in memory were verified
//! before they were accepted.

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
    blocks::{Blocks, Cut},
    bringing::{Bringing, Checks},
    cache::{Flight, LONGEST, Slot, WindowCache},
    import::{ImportStore, Source},
    long_get::{Access, Coming, LongGets},
    readahead::{self, Readahead},
    under_way::Taken,
    windows::{Grid, WINDOW},
};
use crate::{
    backends::{Capabilities, Payload},
    error::{Error, Kind, Result},
    memory::BLOCK,
};

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// The number of prefetch runs that are kept in flight, over all sequential readers of one [`ImportReader`].
const RUNS: usize = 32;

/// The number of pieces per window in a local folder, where pieces are small.
const NEAR: u64 = 4;

/// Reads one import. Cheap to clone. Clones share the detection of sequential readers; the cache is shared by all
/// imports.
#[derive(Debug, Clone)]
pub struct ImportReader {
    store: Arc<ImportStore>,
    cache: Arc<WindowCache>,
    grid: Grid,
    checks: Option<Arc<Checks>>,
    ahead: Arc<Mutex<Ahead>>,
    scanned: Arc<AtomicBool>,
    now: fn() -> Instant,
}

/// The sequential readers, and what is prefetched for them.
#[derive(Debug)]
struct Ahead {
    streams: Readahead,
    long: LongGets,
    runs: VecDeque<Vec<Arc<Flight>>>,
    /// Ranges that will be requested soon, and whether a task is fetching them.
    soon: VecDeque<Range<u64>>,
    is_fetching: bool,
}

impl Ahead {
    fn of(sure: u32) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            streams: Readahead::new(sure),
            long: LongGets::default(),
            runs: VecDeque::new(),
            soon: VecDeque::new(),
            is_fetching: false,
        }))
    }
}

impl ImportReader {
    /// A reader that trusts the backend: nothing is verified.
    #[must_use]
    pub fn new(store: Arc<ImportStore>, cache: Arc<WindowCache>) -> Self {
        let grid = Grid::in_order(store.layout().len());
        Self {
            store,
            cache,
            grid,
            checks: None,
            ahead: Ahead::of(readahead::PLAYER),
            scanned: Arc::default(),
            now: Instant::now,
        }
    }

    /// A reader for peers: every fetched byte is verified before it is returned.
    #[must_use]
    pub fn checked(store: Arc<ImportStore>, cache: Arc<WindowCache>, checks: Checks) -> Self {
        let least = least_window(store.backend().capabilities(), checks.piece_len);
        let grid = Grid::of_pieces(store.layout().len(), checks.piece_len, least);
        let ahead = Ahead::of(readahead::PEER);
        Self { grid, checks: Some(Arc::new(checks)), ahead, ..Self::new(store, cache) }
    }

    /// A reader for `export` and `cat`: files in order, each byte verified before it is returned.
    #[must_use]
    pub fn proven(store: Arc<ImportStore>, cache: Arc<WindowCache>, checks: Checks) -> Self {
        let grid = Grid::of_pieces(store.layout().len(), checks.piece_len, WINDOW);
        let ahead = Ahead::of(readahead::PLAYER);
        Self { grid, checks: Some(Arc::new(checks)), ahead, ..Self::new(store, cache) }
    }

    /// The same reader with another clock.
    #[cfg(test)]
    pub(super) fn by_clock(self, now: fn() -> Instant) -> Self {
        Self { now, ..self }
    }

    /// The import that this reads.
    #[must_use]
    pub fn store(&self) -> &Arc<ImportStore> {
        &self.store
    }

    /// Reads the bytes of `range`. Dropping the future cancels the fetches that no other reader waits for.
    ///
    /// # Errors
    /// `NotFound` when a part is not stored yet; `InvalidInput` outside the import; `Corrupt` when the stored bytes are
    /// wrong after every retry; else the error of the backend.
    pub async fn read_at(&self, range: Range<u64>) -> Result<Payload> {
        let Range { start, end } = range;
        if start > end || end > self.store.layout().len() {
            let text = format!("range {start}..{end} is outside of it");
            return Err(self.place(Error::new(Kind::InvalidInput, text)));
        }
        if let Some(payload) = self.try_read(range.clone()) {
            self.go_on(&range);
            return Ok(payload);
        }
        let mut payload = Payload::default();
        let mut at = start;
        while at < end {
            // One run at a time: this bounds the memory that a long read holds beyond the cache.
            let run = self.run(at..end);
            at = run.end;
            self.read_run(run, &mut payload).await.map_err(|e| self.place(e))?;
        }
        Ok(payload)
    }

    async fn read_run(&self, run: Range<u64>, payload: &mut Payload) -> Result<()> {
        let parts: Vec<_> = self.parts(&run).collect();
        let slots: Vec<_> = parts.iter().map(|part| self.slot_of(part)).collect();
        let fetches = self.cache.fetch(&slots, |range| self.work(range));
        self.go_on(&run);
        for ((part, slot), fetch) in parts.into_iter().zip(slots).zip(fetches) {
            let came = match fetch.wait().await {
                Ok(window) => {
                    // Counts the bytes as read.
                    self.cache.peek(&slot, within(&slot, &part), self.heats());
                    window.slice(within(&slot, &part))
                }
                Err(e) if e.kind().is_about_bytes() => self.alone(&part, &slot, e).await?,
                Err(e) => return Err(e),
            };
            came.parts().iter().for_each(|bytes| payload.push(bytes.clone()));
        }
        Ok(())
    }

    /// A window may fail because of another piece than the requested ones, so those are fetched alone.
    async fn alone(&self, part: &Range<u64>, tried: &Slot, error: Error) -> Result<Payload> {
        let slot = self.slot(self.grid.units(part));
        if slot == *tried {
            return Err(error);
        }
        let fetches = self.cache.fetch(std::slice::from_ref(&slot), |range| self.work(range));
        match fetches.into_iter().next() {
            Some(fetch) => Ok(fetch.wait().await?.slice(within(&slot, part))),
            None => Err(error),
        }
    }

    /// As [`ImportReader::read_at`], but without waiting: `None` when the read needs the backend, or fails.
    #[must_use]
    pub fn try_read(&self, range: Range<u64>) -> Option<Payload> {
        self.try_kept(&range).or_else(|| self.try_memory(range))
    }

    /// The bytes of `range` if the cache has all of them, as slices of its windows.
    #[must_use]
    pub fn try_kept(&self, range: &Range<u64>) -> Option<Payload> {
        let mut payload = Payload::default();
        for part in self.parts(range) {
            let look = |slot: &Slot| self.cache.peek(slot, within(slot, &part), self.heats());
            let window = self.slot(self.grid.window(part.start));
            let kept = look(&window).or_else(|| look(&self.slot(self.grid.units(&part))))?;
            kept.parts().iter().for_each(|bytes| payload.push(bytes.clone()));
        }
        self.store.traffic().count_kept(payload.len());
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
                Source::Memory(bytes) => payload.push(bytes),
                Source::Zeros(len) => zeros(len, &mut payload),
                Source::Object(..) | Source::Unfinished(_) | Source::Hole(_) => return None,
            }
        }
        Some(payload)
    }

    /// Records that `range` is being read. For a sequential reader it returns the range to prefetch with
    /// [`ImportReader::fetch_ahead`].
    #[must_use]
    pub fn reads(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let most = self.cache.ahead();
        let mut ahead = self.ahead.lock();
        let next = self.grid.windows(range).filter_map(|w| ahead.streams.reads(&w, most));
        let next = next.reduce(|first, last| first.start..last.end)?;
        Some(next.start..next.end.min(self.store.layout().len()))
    }

    /// Sets scan mode: from now on all readers move over the import together. A cache hit then does not promote a
    /// window, since only the readers further behind will read it again.
    pub fn set_scanned(&self, scanned: bool) {
        self.scanned.store(scanned, Ordering::Relaxed);
    }

    fn heats(&self) -> bool {
        !self.scanned.load(Ordering::Relaxed)
    }

    /// The number of bytes that the cache keeps before it evicts a window.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.cache.keep()
    }

    /// Starts to prefetch the windows of `range` that are stored and not cached, if the budget allows. To be called
    /// inside a runtime.
    pub fn fetch_ahead(&self, range: &Range<u64>) {
        self.begin(range, None);
    }

    /// As [`ImportReader::fetch_ahead`], but in order and with a wait for the budget, for ranges that will certainly be
    /// requested. Returns the task to run inside a runtime, or `None` when one is running already.
    pub fn fetch_soon(
        &self,
        ranges: Vec<Range<u64>>,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let mut ahead = self.ahead.lock();
        ahead.soon.extend(ranges);
        let goes_on = std::mem::replace(&mut ahead.is_fetching, true);
        let reader = self.clone();
        (!goes_on).then_some(async move {
            while let Some(range) = reader.next_soon() {
                let room = reader.cache.turn(range.end.saturating_sub(range.start)).await;
                reader.begin(&range, Some(room));
            }
        })
    }

    /// The next range to fetch: neighbours are merged up to the length of one run.
    fn next_soon(&self) -> Option<Range<u64>> {
        let mut ahead = self.ahead.lock();
        let Some(mut next) = ahead.soon.pop_front() else {
            ahead.is_fetching = false;
            return None;
        };
        while let Some(after) = ahead.soon.pop_front_if(|after| after.start == next.end) {
            next.end = after.end;
        }
        next.end = next.end.min(self.store.layout().len());
        let run = self.run(next.clone());
        if run.end < next.end {
            ahead.soon.push_front(run.end..next.end);
        }
        Some(run)
    }

    /// The start of `range` that is fetched at once: up to the longest fetch, and at least one window.
    fn run(&self, range: Range<u64>) -> Range<u64> {
        let Range { start, end } = range;
        start..self.grid.window(start).end.max(start.saturating_add(LONGEST)).min(end)
    }

    fn begin(&self, range: &Range<u64>, room: Option<Taken>) {
        let windows = self.grid.windows(range);
        let slots: Vec<_> =
            windows.filter(|w| self.store.found(w.clone())).map(|w| self.slot(w)).collect();
        let flights = self.cache.fetch_ahead(&slots, room, |range| self.work_ahead(range));
        let mut ahead = self.ahead.lock();
        // A fetch that has ended needs no handle to keep it alive.
        ahead.runs.retain(|run| run.iter().any(|flight| !flight.has_ended()));
        if !flights.is_empty() {
            ahead.runs.push_back(flights);
        }
        if ahead.runs.len() > RUNS {
            ahead.runs.pop_front();
        }
    }

    fn go_on(&self, range: &Range<u64>) {
        if let Some(next) = self.reads(range) {
            self.fetch_ahead(&next);
        }
    }

    /// `range`, cut at the ends of its windows.
    fn parts(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let range = range.clone();
        let cut = move |w: Range<u64>| w.start.max(range.start)..w.end.min(range.end);
        self.grid.windows(&(cut(0..u64::MAX))).map(cut)
    }

    fn slot(&self, range: Range<u64>) -> Slot {
        let checked = self.checks.is_some();
        Slot { import: self.store.id().clone(), checked, start: range.start, end: range.end }
    }

    /// The cache key to fetch for a part of a window: the whole window, or the smallest unit while the rest is not
    /// stored.
    fn slot_of(&self, part: &Range<u64>) -> Slot {
        let window = self.grid.window(part.start);
        let whole = self.store.found(window.clone());
        self.slot(if whole { window } else { self.grid.units(part) })
    }

    /// The fetch of a range of whole windows, or of whole pieces of one.
    fn work(&self, range: Range<u64>) -> impl Future<Output = Result<Blocks>> + Send + use<> {
        self.bringing().bring(range, Coming::default())
    }

    /// As [`ImportReader::work`], for a sequential reader whose budget is reserved.
    fn work_ahead(&self, range: Range<u64>) -> impl Future<Output = Result<Blocks>> + Send + use<> {
        let (bringing, cut) = (self.bringing(), self.cut());
        let access = Access { store: &self.store, cut: &cut, slots: self.cache.long_gets() };
        // A local folder answers at once, so runs from it need no long GET.
        let is_near = self.store.backend().capabilities().blocks;
        let long = match is_near || bringing.is_on_disk(&range) {
            true => Coming::default(),
            false => self.ahead.lock().long.ask(&range, &access, (self.now)()),
        };
        bringing.bring(range, long)
    }

    fn bringing(&self) -> Bringing {
        let disk = self.cache.disk().cloned();
        Bringing::new(Arc::clone(&self.store), self.grid, self.checks.clone(), disk, self.cut())
    }

    fn cut(&self) -> Cut {
        Cut { pool: self.cache.blocks().clone(), unit: self.grid.unit() }
    }

    fn place(&self, e: Error) -> Error {
        e.within(format_args!("import {} ({})", self.store.id(), self.store.name()))
    }
}

/// The shortest window of a storage. A local folder answers at once, so windows of small pieces are shorter there and
/// fewer unwanted pieces are read.
fn least_window(place: Capabilities, piece_len: u64) -> u64 {
    match place.blocks {
        true => place.window.min(NEAR.saturating_mul(piece_len)),
        false => place.window,
    }
}

fn within(slot: &Slot, part: &Range<u64>) -> Range<usize> {
    let at = |pos: u64| usize::try_from(pos - slot.start).expect("a window fits in memory");
    at(part.start)..at(part.end)
}

fn zeros(mut len: u64, payload: &mut Payload) {
    while len > 0 {
        let part = usize::try_from(len).map_or(BLOCK, |len| len.min(BLOCK));
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
    fn small_pieces_are_read_a_few_at_a_time_out_of_a_folder_and_not_out_of_a_bucket() {
        let bucket = MemoryBackend::new().capabilities();
        let folder = Capabilities { blocks: true, ..bucket };
        assert_eq!(least_window(folder, 16 * KIB), 64 * KIB);
        assert_eq!(least_window(folder, 256 * KIB), MIB);
        assert_eq!(least_window(bucket, 16 * KIB), MIB);
    }
}
