//! Windows of imports, fetched once and kept while there is room.
//!
//! Whoever asks for a window that is being fetched waits for the same fetch. A fetch is a task of its own, so that a
//! reader that goes away takes nothing from the others; when nobody is left who wants any of it, it is given up. What
//! is under way shares a room too, so that memory is bounded however many ask. Errors are handed to those who waited and
//! not kept. Always safe to drop.

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

/// The most that one fetch brings, for somebody who reads in order.
pub(super) const LONGEST: u64 = 8 * MIB;

/// Long gets that are open at once: each holds a connection, and what that has in its buffers.
const LONG_GETS: usize = 16;

/// A window: of which import, and where. Windows whose bytes were checked against the torrent are others than those
/// that were not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) import: ImportId,
    pub(super) checked: bool,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// What a fetch ended with; the error shared by all who waited. `None` while it runs.
type Outcome = Option<Result<Blocks, Arc<Error>>>;

/// A window on its way. It goes on while somebody holds this, or another of the same fetch.
#[derive(Debug)]
pub(super) struct Flight {
    outcome: watch::Receiver<Outcome>,
    _wanted: Arc<DropGuard>,
}

/// A window that was asked for.
#[derive(Debug)]
pub(super) enum Fetch {
    Ready(Blocks),
    Running(Arc<Flight>),
}

/// The cache. Shared by the readers of all imports.
#[derive(Debug)]
pub struct WindowCache {
    /// For what is kept and what is under way, five parts to three.
    room: AtomicU64,
    under_way: Arc<UnderWay>,
    state: Mutex<State>,
    /// What does not fit, on a disk.
    disk: Option<Arc<DiskCache>>,
    /// How many more long gets may be open, of all imports together.
    long_gets: Arc<Semaphore>,
    /// What windows are made of.
    blocks: BlockPool,
}

#[derive(Debug, Default)]
struct State {
    kept: Kept<Slot>,
    flights: HashMap<Slot, Weak<Flight>>,
}

impl WindowCache {
    /// Holds up to `room` bytes, what is under way included; a single window that is longer is held all the same.
    #[must_use]
    pub fn new(room: u64) -> Arc<Self> {
        Self::over(room, None)
    }

    /// As [`WindowCache::new`], with a larger and slower one behind it for windows that were checked.
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

    /// Changes the room; what does not fit any more goes at once.
    pub fn set_room(&self, room: u64) {
        self.room.store(room, Ordering::Relaxed);
        self.under_way.set_limit(room / 8 * 3);
        self.state.lock().kept.shrink(self.keep());
    }

    /// Bytes kept now.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.state.lock().kept.bytes()
    }

    fn room(&self) -> u64 {
        self.room.load(Ordering::Relaxed)
    }

    /// The room for what is kept.
    pub(super) fn keep(&self) -> u64 {
        self.room() / 8 * 5
    }

    /// The most to fetch ahead of one reader: several have to fit beside each other.
    pub(super) fn ahead(&self) -> u64 {
        (self.room() / 16).min(LONGEST)
    }

    /// Drops the windows of an import: its bytes are about to be others.
    pub fn forget(&self, import: &ImportId) {
        self.disk.iter().for_each(|disk| disk.forget(import));
        let mut state = self.state.lock();
        state.kept.retain(|slot| slot.import != *import);
        state.flights.retain(|slot, _| slot.import != *import);
    }

    /// The `part` of a window, if that is here. `heats`: whether it stays longer for being read.
    pub(super) fn peek(&self, slot: &Slot, part: Range<usize>, heats: bool) -> Option<Payload> {
        self.state.lock().kept.get(slot, part, self.keep(), heats)
    }

    /// The windows, which follow each other, or the fetches of them: those under way, or new ones. Neighbours that are
    /// to be fetched come by one fetch.
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
            tracing::trace!(range = ?trip.range(), "fetch");
            let work = fetch(trip.range());
            tokio::spawn(trip.run(work, None));
        }
        asked
    }

    /// Room for `len` bytes to be fetched, when it is this call's turn.
    pub(super) async fn turn(&self, len: u64) -> Taken {
        self.under_way.take(len).await
    }

    /// Fetches those of the windows, which follow each other, that nobody fetched yet, into room that was taken for them,
    /// else as far as there is room beside what others need. Dropping the answer gives them up again.
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
            tracing::trace!(?range, "fetch ahead");
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

/// An error that several waited for: each gets its kind, text and hint.
fn shared(e: &Arc<Error>) -> Error {
    let error = Error::new(e.kind(), e.report());
    match e.hint_text() {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// One fetch of neighbouring windows; whatever ends it takes them off the list.
struct Trip {
    cache: Arc<WindowCache>,
    windows: Vec<Window>,
    /// Cancelled when nobody wants any of the windows.
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

    /// Whether the window can come by the same fetch.
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

    /// `room`: taken already; else it waits for some.
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
                // Kept and off the list in one step: between the two, another reader would fetch it again.
                let mut state = self.cache.state.lock();
                // Not when it was forgotten meanwhile.
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
            // Another fetch of it may have begun since this one was given up.
            if state.is_listed(&window.slot, &window.flight) {
                state.flights.remove(&window.slot);
            }
        }
    }
}
