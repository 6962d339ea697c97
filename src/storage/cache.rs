//! The window cache: windows of imports are fetched once and kept within a byte limit.
//!
//! Readers that request a window in flight wait for the same fetch. Each fetch is a task of its own, so one reader can
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
    kept::Kept,
    under_way::{Taken, UnderWay},
};
use crate::{
    backends::Payload,
    catalog::ImportId,
    error::{Error, Kind, Result},
    memory::BlockPool,
    units::MIB,
};

/// The longest fetch for a sequential reader.
pub(super) const LONGEST: u64 = 8 * MIB;

/// The number of long GETs that are open at once. Each holds a connection and the bytes in its buffers.
const LONG_GETS: usize = 16;

/// The key of a window: its import and its range. A window that was verified against the torrent has another key than
/// one that was not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) import: ImportId,
    pub(super) checked: bool,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// The outcome of a fetch, with an error shared by all readers that waited. `None` while the fetch runs.
type Outcome = Option<Result<Blocks, Arc<Error>>>;

/// A window in flight. The fetch is cancelled when its last handle, over all of its windows, is dropped.
#[derive(Debug)]
pub(super) struct Flight {
    outcome: watch::Receiver<Outcome>,
    _wanted: Arc<DropGuard>,
}

/// A requested window.
#[derive(Debug)]
pub(super) enum Fetch {
    Ready(Blocks),
    Running(Arc<Flight>),
}

/// The cache, shared by the readers of all imports.
#[derive(Debug)]
pub struct WindowCache {
    /// The capacity in bytes: five eighths for cached windows, three eighths for fetches in flight.
    room: AtomicU64,
    under_way: Arc<UnderWay>,
    state: Mutex<State>,
    /// The cache on disk, for windows that do not fit into memory.
    disk: Option<Arc<DiskCache>>,
    /// The permits for long GETs, shared by all imports.
    long_gets: Arc<Semaphore>,
    /// The pool that windows are allocated from.
    blocks: BlockPool,
}

#[derive(Debug, Default)]
struct State {
    kept: Kept<Slot>,
    flights: HashMap<Slot, Weak<Flight>>,
}

impl WindowCache {
    /// A cache of up to `room` bytes, fetches in flight included. A single window that is longer is kept all the same.
    #[must_use]
    pub fn new(room: u64) -> Arc<Self> {
        Self::over(room, None)
    }

    /// As [`WindowCache::new`], with a larger and slower disk cache behind it for verified windows.
    #[must_use]
    pub fn over(room: u64, disk: Option<Arc<DiskCache>>) -> Arc<Self> {
        Arc::new(Self {
            room: AtomicU64::new(room),
            under_way: UnderWay::new(room / 8 * 3),
            state: Mutex::default(),
            disk,
            long_gets: Arc::new(Semaphore::new(LONG_GETS)),
            blocks: BlockPool::new(usize::try_from(room).unwrap_or(usize::MAX)),
        })
    }

    pub(super) fn disk(&self) -> Option<&Arc<DiskCache>> {
        self.disk.as_ref()
    }

    pub(super) fn blocks(&self) -> &BlockPool {
        &self.blocks
    }

    pub(super) fn long_gets(&self) -> &Arc<Semaphore> {
        &self.long_gets
    }

    /// Changes the capacity, and evicts at once what does not fit any more.
    pub fn set_room(&self, room: u64) {
        self.room.store(room, Ordering::Relaxed);
        self.under_way.set_limit(room / 8 * 3);
        self.state.lock().kept.shrink(self.keep());
    }

    /// The number of bytes that are cached now.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.state.lock().kept.bytes()
    }

    fn room(&self) -> u64 {
        self.room.load(Ordering::Relaxed)
    }

    /// The capacity for cached windows.
    pub(super) fn keep(&self) -> u64 {
        self.room() / 8 * 5
    }

    /// The longest prefetch for one reader, so that several readers fit side by side.
    pub(super) fn ahead(&self) -> u64 {
        (self.room() / 16).min(LONGEST)
    }

    /// Drops the windows of an import whose bytes are about to change.
    pub fn forget(&self, import: &ImportId) {
        self.disk.iter().for_each(|disk| disk.forget(import));
        let mut state = self.state.lock();
        state.kept.retain(|slot| slot.import != *import);
        state.flights.retain(|slot, _| slot.import != *import);
    }

    /// The `part` of a window, if it is cached. `heats`: whether this read promotes the window.
    pub(super) fn peek(&self, slot: &Slot, part: Range<usize>, heats: bool) -> Option<Payload> {
        self.state.lock().kept.get(slot, part, self.keep(), heats)
    }

    /// The given windows, which are adjacent: from the cache, from a fetch in flight, or from a new fetch. Neighbours
    /// that are missing share one fetch.
    pub(super) fn fetch<F, Fut>(self: &Arc<Self>, slots: &[Slot], fetch: F) -> Vec<Fetch>
    where
        F: Fn(Range<u64>) -> Fut,
        Fut: Future<Output = Result<Blocks>> + Send + 'static,
    {
        let mut trips: Vec<Trip> = Vec::new();
        let mut state = self.state.lock();
        let asked = slots.iter().map(|slot| {
            if let Some(bytes) = state.kept.whole(slot) {
                return Fetch::Ready(bytes);
            }
            Fetch::Running(state.flights.get(slot).and_then(Weak::upgrade).unwrap_or_else(|| {
                if trips.last().is_none_or(|trip| !trip.takes(slot)) {
                    trips.push(Trip::new(self));
                }
                let trip = trips.last_mut().expect("one was pushed if there was none");
                let flight = trip.add(slot.clone());
                state.flights.insert(slot.clone(), Arc::downgrade(&flight));
                flight
            }))
        });
        let asked = asked.collect();
        drop(state);
        for trip in trips {
            tracing::debug!(range = ?trip.range(), "fetch");
            let work = fetch(trip.range());
            tokio::spawn(trip.run(work, None));
        }
        asked
    }

    /// Reserves `len` bytes of the fetch budget, after the reservations requested before.
    pub(super) async fn turn(&self, len: u64) -> Taken {
        self.under_way.take(len).await
    }

    /// Prefetches those of the given adjacent windows that are neither cached nor in flight. Without a reservation in
    /// `room` it fetches only if one can be made without waiting. Dropping the returned handles cancels the fetches
    /// that no reader waits for.
    pub(super) fn fetch_ahead<F, Fut>(
        self: &Arc<Self>,
        slots: &[Slot],
        room: Option<Taken>,
        fetch: F,
    ) -> Vec<Arc<Flight>>
    where
        F: Fn(Range<u64>) -> Fut,
        Fut: Future<Output = Result<Blocks>> + Send + 'static,
    {
        let (mut flights, mut trips) = (Vec::new(), Vec::<Trip>::new());
        let mut state = self.state.lock();
        for slot in slots {
            if state.kept.contains(slot) {
                continue;
            }
            if let Some(flight) = state.flights.get(slot).and_then(Weak::upgrade) {
                flights.push(flight);
                continue;
            }
            if trips.last().is_none_or(|trip| !trip.takes(slot)) {
                trips.push(Trip::new(self));
            }
            flights.extend(trips.last_mut().map(|trip| trip.add(slot.clone())));
        }
        let len: u64 = trips.iter().map(|trip| trip.range().end - trip.range().start).sum();
        let Some(room) = room.or_else(|| self.under_way.try_take(len)).filter(|_| len > 0) else {
            return Vec::new();
        };
        for window in trips.iter().flat_map(|trip| &trip.windows) {
            state.flights.insert(window.slot.clone(), window.flight.clone());
        }
        drop(state);
        let room = Arc::new(room);
        for trip in trips {
            let range = trip.range();
            tracing::debug!(?range, "fetch ahead");
            drop(tokio::spawn(trip.run(fetch(range), Some(Arc::clone(&room)))));
        }
        flights
    }
}

impl Flight {
    pub(super) fn has_ended(&self) -> bool {
        self.outcome.borrow().is_some()
    }
}

impl Fetch {
    pub(super) async fn wait(self) -> Result<Blocks> {
        let flight = match self {
            Self::Ready(bytes) => return Ok(bytes),
            Self::Running(flight) => flight,
        };
        let gone = |_| Error::new(Kind::Internal, "a fetch ended without a word");
        let mut outcome = flight.outcome.clone();
        match &*outcome.wait_for(Option::is_some).await.map_err(gone)? {
            Some(Ok(bytes)) => Ok(bytes.clone()),
            Some(Err(e)) => Err(shared(e)),
            None => Err(Error::new(Kind::Internal, "a fetch ended with nothing")),
        }
    }
}

/// An error that several readers waited for: each gets its kind, text and hint.
fn shared(e: &Arc<Error>) -> Error {
    let error = Error::new(e.kind(), e.report());
    match e.hint_text() {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// One fetch of adjacent windows. However it ends, its windows leave the list of windows in flight.
struct Trip {
    cache: Arc<WindowCache>,
    windows: Vec<Window>,
    /// Cancelled when no reader wants any of the windows.
    given_up: CancellationToken,
    wanted: Option<Arc<DropGuard>>,
}

struct Window {
    slot: Slot,
    outcome: watch::Sender<Outcome>,
    flight: Weak<Flight>,
}

impl Trip {
    fn new(cache: &Arc<WindowCache>) -> Self {
        let given_up = CancellationToken::new();
        let wanted = Some(Arc::new(given_up.clone().drop_guard()));
        Self { cache: Arc::clone(cache), windows: Vec::new(), given_up, wanted }
    }

    /// Whether the same fetch can include the window.
    fn takes(&self, slot: &Slot) -> bool {
        let range = self.range();
        self.windows.is_empty() || range.end == slot.start && slot.end - range.start <= LONGEST
    }

    fn add(&mut self, slot: Slot) -> Arc<Flight> {
        let (sender, outcome) = watch::channel(None);
        let wanted = self.wanted.as_ref().expect("it is given away when the fetch begins");
        let flight = Arc::new(Flight { outcome, _wanted: Arc::clone(wanted) });
        self.windows.push(Window { slot, outcome: sender, flight: Arc::downgrade(&flight) });
        flight
    }

    fn range(&self) -> Range<u64> {
        let first = self.windows.first().map_or(0, |window| window.slot.start);
        first..self.windows.last().map_or(first, |window| window.slot.end)
    }

    /// `room` is the reservation; without one, the fetch waits for its own.
    async fn run(mut self, work: impl Future<Output = Result<Blocks>>, room: Option<Arc<Taken>>) {
        self.wanted = None;
        let (range, given_up) = (self.range(), self.given_up.clone());
        let under_way = Arc::clone(&self.cache.under_way);
        let fetch = async {
            let _room = match room {
                Some(room) => room,
                None => Arc::new(under_way.take(range.end - range.start).await),
            };
            work.await
        };
        tokio::select! {
            biased;
            got = fetch => self.arrive(got.map_err(Arc::new)),
            () = given_up.cancelled() => {}
        }
    }

    fn arrive(&mut self, mut got: Result<Blocks, Arc<Error>>) {
        let keep = self.cache.keep();
        for window in std::mem::take(&mut self.windows) {
            let slot = window.slot;
            let len = usize::try_from(slot.end - slot.start).unwrap_or(usize::MAX);
            let outcome = got.as_ref().map(|blocks| blocks.split(len)).map_err(Arc::clone);
            let outcome = outcome.map(|(window, rest)| {
                got = Ok(rest);
                window
            });
            {
                // The window is cached and taken off the list in one step: between two steps, another reader would
                // fetch it again.
                let mut state = self.cache.state.lock();
                // A window that was dropped by `forget` meanwhile is not cached.
                if state.is_listed(&slot, &window.flight) {
                    state.flights.remove(&slot);
                    if let Ok(bytes) = &outcome {
                        state.kept.insert(slot, bytes.clone(), keep);
                    }
                }
            }
            window.outcome.send_replace(Some(outcome));
        }
    }
}

impl State {
    fn is_listed(&self, slot: &Slot, flight: &Weak<Flight>) -> bool {
        self.flights.get(slot).is_some_and(|listed| listed.ptr_eq(flight))
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        if self.windows.is_empty() {
            return;
        }
        let mut state = self.cache.state.lock();
        for window in &self.windows {
            // A new fetch of the window may have begun since this one was cancelled.
            if state.is_listed(&window.slot, &window.flight) {
                state.flights.remove(&window.slot);
            }
        }
    }
}
