//! Windows of objects, fetched once and kept while there is room.
//!
//! A window is a 1 MiB aligned piece of an object, clipped to the object's end: one ranged GET. Whoever asks for a
//! window that is being fetched waits for the same GET. The fetch is a task of its own, so that a reader that goes
//! away takes nothing from the others. Errors are handed to those who waited and not kept. Always safe to drop.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::import::StoredObject;
use crate::{
    backends::{Key, StorageBackend},
    error::{Error, Kind, Result},
    units::MIB,
};

/// The length of a window.
pub const WINDOW: u64 = MIB;

/// A least-recently-used cache of windows. Shared by the readers of all imports, since keys are unique over them.
#[derive(Debug)]
pub struct WindowCache {
    max_bytes: u64,
    state: Mutex<State>,
}

type Slot = (Key, u64);

/// What a fetch ended with; the error shared by all who waited. `None` while it runs.
type Outcome = Option<Result<Bytes, Arc<Error>>>;

#[derive(Debug, Default)]
struct State {
    windows: HashMap<Slot, (u64, Bytes)>,
    /// When each window was last used, oldest first.
    by_use: BTreeMap<u64, Slot>,
    clock: u64,
    bytes: u64,
    fetching: HashMap<Slot, watch::Receiver<Outcome>>,
}

impl State {
    fn get(&mut self, slot: &Slot) -> Option<Bytes> {
        let (used, bytes) = self.windows.get_mut(slot)?;
        self.clock += 1;
        let key = self.by_use.remove(used).unwrap_or_else(|| slot.clone());
        *used = self.clock;
        self.by_use.insert(self.clock, key);
        Some(bytes.clone())
    }

    fn remove(&mut self, slot: &Slot) {
        if let Some((used, bytes)) = self.windows.remove(slot) {
            self.by_use.remove(&used);
            self.bytes -= bytes.len() as u64;
        }
    }

    fn insert(&mut self, slot: Slot, bytes: Bytes, max_bytes: u64) {
        self.clock += 1;
        self.bytes += bytes.len() as u64;
        if let Some((used, old)) = self.windows.insert(slot.clone(), (self.clock, bytes)) {
            self.by_use.remove(&used);
            self.bytes -= old.len() as u64;
        }
        self.by_use.insert(self.clock, slot);
        while self.bytes > max_bytes {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            let dropped = self.windows.remove(&oldest).map_or(0, |(_, bytes)| bytes.len());
            self.bytes -= dropped as u64;
        }
    }
}

impl WindowCache {
    /// Keeps up to `max_bytes`; what is being fetched or still read comes on top.
    #[must_use]
    pub fn new(max_bytes: u64) -> Arc<Self> {
        Arc::new(Self { max_bytes, state: Mutex::default() })
    }

    /// Bytes kept now.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.state.lock().bytes
    }

    /// Drops the windows of `key`: its object goes, and another may take the name.
    pub fn forget(&self, key: &Key) {
        let mut state = self.state.lock();
        let gone: Vec<Slot> = state.windows.keys().filter(|slot| slot.0 == *key).cloned().collect();
        gone.iter().for_each(|slot| state.remove(slot));
    }

    /// The window, if it is here.
    pub(super) fn peek(&self, object: &StoredObject, index: u64) -> Option<Bytes> {
        self.state.lock().get(&(object.key.clone(), index))
    }

    /// The window, or the fetch of it: the one under way, or a new one.
    pub(super) fn fetch(
        self: &Arc<Self>,
        backend: &Arc<dyn StorageBackend>,
        object: &StoredObject,
        index: u64,
    ) -> Fetch {
        let slot = (object.key.clone(), index);
        let mut state = self.state.lock();
        if let Some(bytes) = state.get(&slot) {
            return Fetch::Ready(bytes);
        }
        if let Some(running) = state.fetching.get(&slot) {
            return Fetch::Running(running.clone());
        }
        let (outcome, running) = watch::channel(None);
        state.fetching.insert(slot.clone(), running.clone());
        drop(state);
        let flight = Flight { cache: Arc::clone(self), slot, outcome };
        tokio::spawn(flight.run(Arc::clone(backend), object.len));
        Fetch::Running(running)
    }
}

/// A window on its way.
pub(super) enum Fetch {
    Ready(Bytes),
    Running(watch::Receiver<Outcome>),
}

impl Fetch {
    pub(super) async fn wait(self) -> Result<Bytes> {
        let mut running = match self {
            Self::Ready(bytes) => return Ok(bytes),
            Self::Running(running) => running,
        };
        let gone = |_| Error::new(Kind::Internal, "a fetch ended without a word");
        match &*running.wait_for(Option::is_some).await.map_err(gone)? {
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

/// The one fetch of a window; whatever ends it takes it off the list.
struct Flight {
    cache: Arc<WindowCache>,
    slot: Slot,
    outcome: watch::Sender<Outcome>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.cache.state.lock().fetching.remove(&self.slot);
    }
}

impl Flight {
    async fn run(self, backend: Arc<dyn StorageBackend>, object_len: u64) {
        let (key, index) = &self.slot;
        let start = index * WINDOW;
        let end = object_len.min(start + WINDOW);
        let got = match backend.get(key, start..end).await {
            Ok(bytes) if bytes.len() as u64 == end - start => Ok(bytes),
            Ok(bytes) => {
                let text = format!("object {key}: {} bytes came for {start}..{end}", bytes.len());
                Err(Arc::new(Error::new(Kind::Corrupt, text)))
            }
            Err(e) => Err(Arc::new(e)),
        };
        {
            // Kept and off the list in one step: between the two, another reader would fetch it again.
            let mut state = self.cache.state.lock();
            if let Ok(bytes) = &got {
                state.insert(self.slot.clone(), bytes.clone(), self.cache.max_bytes);
            }
            state.fetching.remove(&self.slot);
        }
        self.outcome.send_replace(Some(got));
    }
}
