//! Bytes of an import, from wherever they are: memory, the cache, or the backend.
//!
//! Nothing is got from the backend but whole windows. Where there is something to hold them against ([`Checks`]), a
//! window is checked before any of it is given to anyone: what came wrong is got again, and what stays wrong is an error
//! that names it. Bytes in memory were checked before they came there.

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

/// Runs fetched ahead that are kept going at once, over all who read in order.
const RUNS: usize = 32;

/// Pieces that are read together out of a folder, where they are small.
const NEAR: u64 = 4;

/// Reads one import. Cheap to clone, and clones know of each other who reads in order; the cache is shared by all.
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

/// Who reads in order, and what is fetched for them.
#[derive(Debug)]
struct Ahead {
    streams: Readahead,
    long: LongGets,
    runs: VecDeque<Vec<Arc<Flight>>>,
    /// What will be asked for soon, and whether somebody sees to it.
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
    /// A reader that believes the backend.
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

    /// A reader for peers: it gives nothing away that was fetched and not checked.
    #[must_use]
    pub fn checked(store: Arc<ImportStore>, cache: Arc<WindowCache>, checks: Checks) -> Self {
        let least = least_window(store.backend().capabilities(), checks.piece_len);
        let grid = Grid::of_pieces(store.layout().len(), checks.piece_len, least);
        let ahead = Ahead::of(readahead::PEER);
        Self { grid, checks: Some(Arc::new(checks)), ahead, ..Self::new(store, cache) }
    }

    /// A reader for `export` and `cat`: files in order, each byte checked before it is given.
    #[must_use]
    pub fn proven(store: Arc<ImportStore>, cache: Arc<WindowCache>, checks: Checks) -> Self {
        let grid = Grid::of_pieces(store.layout().len(), checks.piece_len, WINDOW);
        let ahead = Ahead::of(readahead::PLAYER);
        Self { grid, checks: Some(Arc::new(checks)), ahead, ..Self::new(store, cache) }
    }

    /// The same by another clock.
    #[cfg(test)]
    pub(super) fn by_clock(self, now: fn() -> Instant) -> Self {
        Self { now, ..self }
    }

    /// The import it reads.
    #[must_use]
    pub fn store(&self) -> &Arc<ImportStore> {
        &self.store
    }

    /// The bytes of `range`. Dropping the future gives up the fetches that nobody else waits for.
    ///
    /// # Errors
    /// `NotFound` when a part is not stored yet; `InvalidInput` outside the import; `Corrupt` when what is stored is not
    /// what it should be, however often it is got; else what the backend says.
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
            // So much at a time: bounds what one long read holds beyond the cache.
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
                    // Counts as read.
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

    /// What is wrong with a window may be wrong with another piece of it than those asked for: they are fetched alone.
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

    /// As [`ImportReader::read_at`], but without waiting: `None` when that needs the backend, or fails.
    #[must_use]
    pub fn try_read(&self, range: Range<u64>) -> Option<Payload> {
        self.try_kept(&range).or_else(|| self.try_memory(range))
    }

    /// The bytes of `range` when the cache has them: slices of its windows.
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

    /// The bytes of `range` when none of them is only in the backend.
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

    /// Notes that `range` is read by somebody, and answers what they will want next when they read in order:
    /// for [`ImportReader::fetch_ahead`].
    #[must_use]
    pub fn reads(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let most = self.cache.ahead();
        let mut ahead = self.ahead.lock();
        let next = self.grid.windows(range).filter_map(|w| ahead.streams.reads(&w, most));
        let next = next.reduce(|first, last| first.start..last.end)?;
        Some(next.start..next.end.min(self.store.layout().len()))
    }

    /// Says whether all who read it go over it together from now on: then what several of them read is not worth more than
    /// what the last of them are still to read.
    pub fn set_scanned(&self, scanned: bool) {
        self.scanned.store(scanned, Ordering::Relaxed);
    }

    fn heats(&self) -> bool {
        !self.scanned.load(Ordering::Relaxed)
    }

    /// Bytes of windows that stay in memory before the first of them goes.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.cache.keep()
    }

    /// Begins to fetch what of `range` is stored and not here, where there is room. Inside a runtime.
    pub fn fetch_ahead(&self, range: &Range<u64>) {
        self.begin(range, None);
    }

    /// As [`ImportReader::fetch_ahead`], but in order, and each as soon as it is its turn: for what is certain to be asked
    /// for. Answers the work of that, unless it is going on already; to be run inside a runtime.
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

    /// What is to be fetched next: neighbours together, as far as one run goes.
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

    /// The beginning of `range` that is fetched at a time: as long as may be, and a window at least.
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
        // What has arrived needs nobody to want it.
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

    /// `range`, cut where its windows end.
    fn parts(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let range = range.clone();
        let cut = move |w: Range<u64>| w.start.max(range.start)..w.end.min(range.end);
        self.grid.windows(&(cut(0..u64::MAX))).map(cut)
    }

    fn slot(&self, range: Range<u64>) -> Slot {
        let checked = self.checks.is_some();
        Slot { import: self.store.id().clone(), checked, start: range.start, end: range.end }
    }

    /// What is fetched for a part of a window: all of it, or as little as can be while the rest is not stored.
    fn slot_of(&self, part: &Range<u64>) -> Slot {
        let window = self.grid.window(part.start);
        let whole = self.store.found(window.clone());
        self.slot(if whole { window } else { self.grid.units(part) })
    }

    /// The fetch of a range that is whole windows, or whole pieces of one.
    fn work(&self, range: Range<u64>) -> impl Future<Output = Result<Blocks>> + Send + use<> {
        self.bringing().bring(range, Coming::default())
    }

    /// As [`ImportReader::work`], for somebody who reads in order and has taken room for it.
    fn work_ahead(&self, range: Range<u64>) -> impl Future<Output = Result<Blocks>> + Send + use<> {
        let (bringing, cut) = (self.bringing(), self.cut());
        let access = Access { store: &self.store, cut: &cut, slots: self.cache.long_gets() };
        // A folder answers at once: runs of it need nothing to go before them.
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

/// The shortest window of a place. A folder answers at once: of small pieces fewer are read that nobody may ask for.
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
