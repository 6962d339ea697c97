//! Bytes of an import, from wherever they are: memory, the cache, or the backend.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::Bytes;

use super::{
    cache::{Fetch, WINDOW, WindowCache},
    import::{ImportStore, Source, StoredObject},
};
use crate::{
    backends::{Key, Payload},
    error::{Error, Kind, Result},
    memory::BLOCK,
};

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Windows of one read that are fetched at once: hides the latency, bounds what a long read holds beyond the cache.
const AHEAD: usize = 8;

/// Reads one import. Cheap to make; the cache is shared by all.
#[derive(Debug, Clone)]
pub struct ImportReader {
    store: Arc<ImportStore>,
    cache: Arc<WindowCache>,
}

/// A piece of the answer: bytes at hand, or a slice of a window.
enum Piece {
    Zeros(u64),
    Ready(Bytes),
    Window { object: StoredObject, index: u64, slice: Range<usize> },
}

impl ImportReader {
    #[must_use]
    pub fn new(store: Arc<ImportStore>, cache: Arc<WindowCache>) -> Self {
        Self { store, cache }
    }

    /// Drops what is cached of an object that goes: another may take its name.
    pub(super) fn forget(&self, key: &Key) {
        self.cache.forget(key);
    }

    /// The import it reads.
    #[must_use]
    pub fn store(&self) -> &Arc<ImportStore> {
        &self.store
    }

    /// The bytes of `range`. Dropping the future does not stop a fetch that others may wait for.
    ///
    /// # Errors
    /// `NotFound` when a part is not stored yet; `InvalidInput` outside the import; else what the backend says.
    pub async fn read_at(&self, range: Range<u64>) -> Result<Payload> {
        loop {
            let moves = self.store.moves();
            match self.read_once(range.clone()).await {
                // The bytes moved to another object after it was looked up where they are: they are there now.
                Err(e) if e.kind() == Kind::NotFound && self.store.moves() != moves => {}
                read => return read,
            }
        }
    }

    async fn read_once(&self, range: Range<u64>) -> Result<Payload> {
        let mut pieces = self.pieces(range)?.into_iter();
        let mut started: VecDeque<(Piece, Option<Fetch>)> = VecDeque::with_capacity(AHEAD);
        let mut payload = Payload::default();
        loop {
            while started.len() < AHEAD {
                let Some(piece) = pieces.next() else { break };
                let fetch = match &piece {
                    Piece::Window { object, index, .. } => {
                        Some(self.cache.fetch(self.store.backend(), object, *index))
                    }
                    _ => None,
                };
                started.push_back((piece, fetch));
            }
            let Some((piece, fetch)) = started.pop_front() else { return Ok(payload) };
            let window = match fetch {
                Some(fetch) => fetch.wait().await.map_err(|e| self.place(e))?,
                None => Bytes::new(),
            };
            push(&mut payload, piece, &window);
        }
    }

    /// As [`ImportReader::read_at`], but without waiting: `None` when that needs the backend, or fails.
    #[must_use]
    pub fn try_read(&self, range: Range<u64>) -> Option<Payload> {
        let mut payload = Payload::default();
        for piece in self.pieces(range).ok()? {
            let window = match &piece {
                Piece::Window { object, index, .. } => self.cache.peek(object, *index)?,
                _ => Bytes::new(),
            };
            push(&mut payload, piece, &window);
        }
        Some(payload)
    }

    fn pieces(&self, range: Range<u64>) -> Result<Vec<Piece>> {
        let Range { start, end } = range;
        if start > end || end > self.store.layout().len() {
            let text = format!("range {start}..{end} is outside of it");
            return Err(self.place(Error::new(Kind::InvalidInput, text)));
        }
        let mut pieces = Vec::new();
        for source in self.store.locate(range) {
            match source {
                Source::Zeros(len) => pieces.push(Piece::Zeros(len)),
                Source::Memory(bytes) => pieces.push(Piece::Ready(bytes)),
                Source::Object(object, range) => windows(&object, range, &mut pieces),
                Source::Unfinished(range) => {
                    let text = format!(
                        "bytes {}..{} are in a file that is not uploaded to its end",
                        range.start, range.end
                    );
                    let error = Error::new(Kind::Unavailable, text);
                    return Err(self.place(error.hint("readable when the file is complete")));
                }
                Source::Hole(hole) => {
                    let text = format!("bytes {}..{} are not stored yet", hole.start, hole.end);
                    let error = Error::new(Kind::NotFound, text);
                    return Err(self.place(error.hint("import it again to fetch the rest")));
                }
            }
        }
        Ok(pieces)
    }

    fn place(&self, e: Error) -> Error {
        e.within(format_args!("import {} ({})", self.store.id(), self.store.name()))
    }
}

/// Cuts a range of an object where its windows end.
fn windows(object: &StoredObject, range: Range<u64>, pieces: &mut Vec<Piece>) {
    let mut at = range.start;
    while at < range.end {
        let index = at / WINDOW;
        let base = index * WINDOW;
        let end = range.end.min(base + WINDOW);
        let inside = |pos: u64| usize::try_from(pos - base).expect("a window is 1 MiB");
        let slice = inside(at)..inside(end);
        pieces.push(Piece::Window { object: object.clone(), index, slice });
        at = end;
    }
}

fn push(payload: &mut Payload, piece: Piece, window: &Bytes) {
    match piece {
        Piece::Ready(bytes) => payload.push(bytes),
        Piece::Window { slice, .. } => payload.push(window.slice(slice)),
        Piece::Zeros(mut len) => {
            while len > 0 {
                let part = usize::try_from(len).map_or(BLOCK, |len| len.min(BLOCK));
                payload.push(Bytes::from_static(&ZEROS[..part]));
                len -= part as u64;
            }
        }
    }
}
