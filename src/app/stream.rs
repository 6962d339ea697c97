//! Imports open to readers that come and go, each at a place of its own: what the stream server reads from.
//!
//! What is stored is read as by `cat`, a quarter of a MiB at a time, with the next window on its way into the cache
//! while this one is sent. Of an import that is being filled by this process, a reader waits for what is not here yet:
//! it says what it needs ([`Demand`]), the swarm is asked for that first, and the bytes are read from memory as soon as
//! their piece is verified. An import that another process fills is looked up in the catalog again where bytes are
//! missing, at most once a second.
//!
//! Memory: a reader at work holds two of its steps and, for a moment, a window of the cache; there are so many at
//! once as fit into an eighth of the budget that way ([`Streams::turn`]).

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{App, plan::is_selected};
use crate::{
    backends::Payload,
    catalog::{Catalog, FileRow, ImportRow},
    error::{Error, Kind, Result},
    storage::{ImportReader, ImportStore, WindowCache},
    torrents::{Demand, Wanted},
    units::{ByteSize, MIB},
};

/// What a reader takes at a time: a slow one holds little, and a quarter of a cache window costs no request of its own.
const STEP: u64 = 256 << 10;
/// What is fetched at a time from storage, and so far ahead of a reader.
const WINDOW: u64 = MIB;
/// How often the catalog is asked for bytes that another process may have stored meanwhile.
const LOOK: Duration = Duration::from_secs(1);

/// The imports that are open for streaming. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Streams {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    imports: Mutex<Vec<Arc<StreamedImport>>>,
    /// How many there are; whoever waits for the next hears of it.
    count: watch::Sender<usize>,
    turns: Arc<Semaphore>,
}

impl Streams {
    /// None yet. `memory` is the budget that readers have an eighth of.
    #[must_use]
    pub fn new(memory: ByteSize) -> Self {
        // A step that is sent, one that is next, and the window both come from: not quite a MiB each.
        let readers = usize::try_from(memory.0 / 8 / MIB).unwrap_or(usize::MAX).clamp(4, 64);
        let shared = Shared {
            imports: Mutex::default(),
            count: watch::Sender::new(0),
            turns: Arc::new(Semaphore::new(readers)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// All of them, in the order they were opened.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<StreamedImport>> {
        self.shared.imports.lock().clone()
    }

    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<StreamedImport>> {
        self.shared.imports.lock().iter().find(|import| import.id == id).cloned()
    }

    /// The one that is opened after `seen` others, as soon as it is.
    pub async fn opened(&self, seen: usize) -> Arc<StreamedImport> {
        let mut count = self.shared.count.subscribe();
        loop {
            // The sender is in `self`, so it is not gone.
            let _ = count.wait_for(|count| *count > seen).await;
            if let Some(import) = self.shared.imports.lock().get(seen) {
                return Arc::clone(import);
            }
        }
    }

    /// The right to hold the memory of one reader, once it is free.
    ///
    /// # Errors
    /// `Cancelled` never: nobody closes it.
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.shared.turns).acquire_owned().await;
        turn.map_err(|e| Error::new(Kind::Cancelled, "streaming has ended").because(e))
    }

    fn add(&self, import: StreamedImport) {
        let mut imports = self.shared.imports.lock();
        imports.push(Arc::new(import));
        self.shared.count.send_replace(imports.len());
    }
}

/// A file as players see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamedFile {
    pub path: String,
    pub bytes: u64,
    /// Changes with its bytes, and is no other file's.
    pub tag: String,
    start: u64,
}

/// An import that is open for streaming.
#[derive(Debug)]
pub struct StreamedImport {
    id: String,
    name: String,
    files: Vec<StreamedFile>,
    reader: Mutex<ImportReader>,
    filling: Filling,
}

/// Who stores what is missing.
#[derive(Debug)]
enum Filling {
    /// This process.
    Here(Arc<Demand>),
    /// Another one, or nobody.
    Elsewhere {
        row: Box<ImportRow>,
        catalog: Catalog,
        cache: Arc<WindowCache>,
        looked: Mutex<Instant>,
    },
}

impl StreamedImport {
    fn new(row: &ImportRow, files: &[FileRow], reader: ImportReader, filling: Filling) -> Self {
        let hash = row.info_hash();
        let of = if hash.is_empty() { row.id.as_str() } else { &hash };
        let wanted = |index: usize| is_selected(row.selected.as_deref(), index);
        let files = files.iter().enumerate().filter(|(index, file)| !file.pad && wanted(*index));
        let files = files.map(|(index, file)| StreamedFile {
            path: file.path.clone(),
            bytes: file.len,
            tag: format!("{of}-{index}"),
            start: file.start,
        });
        Self {
            id: row.id.to_string(),
            name: row.name.clone(),
            files: files.collect(),
            reader: Mutex::new(reader),
            filling,
        }
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The files that are wanted, in order.
    #[must_use]
    pub fn files(&self) -> &[StreamedFile] {
        &self.files
    }

    /// Whether what is missing is on its way, so that a read of it waits.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        matches!(&self.filling, Filling::Here(demand) if !demand.has_ended())
    }

    /// Reads `range` of `file`, which is inside of it, from its start on.
    #[must_use]
    pub fn read(self: &Arc<Self>, file: &StreamedFile, range: Range<u64>) -> FileRead {
        let wanted = match &self.filling {
            Filling::Here(demand) => Some(demand.reader()),
            Filling::Elsewhere { .. } => None,
        };
        let end = file.bytes.min(range.end);
        let left = file.start + range.start.min(end)..file.start + end;
        FileRead { import: Arc::clone(self), file_start: file.start, left, wanted, ahead: None }
    }

    fn reader(&self) -> ImportReader {
        self.reader.lock().clone()
    }

    /// The beginning of `range` that can be read, once there is one; `until` is where the reader will end.
    async fn ready(&self, range: Range<u64>, until: u64, wanted: Option<&Wanted>) -> Range<u64> {
        let reader = self.reader();
        loop {
            let (demand, wanted) = match (&self.filling, wanted) {
                (Filling::Here(demand), Some(wanted)) => (demand, wanted),
                _ => return reader.store().ready(range),
            };
            let arrival = demand.arrival();
            wanted.set(range.start..until);
            let ready = reader.store().ready(range.clone());
            if !ready.is_empty() || demand.has_ended() {
                return ready;
            }
            tokio::select! {
                () = arrival => {}
                // What makes bytes readable without a piece that passes: a whole file that is finished.
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Looks the import up again, unless that was just done. Whether there is a point in trying once more.
    async fn look_again(&self) -> Result<bool> {
        let Filling::Elsewhere { row, catalog, cache, looked } = &self.filling else {
            return Ok(false);
        };
        if std::mem::replace(&mut *looked.lock(), Instant::now()).elapsed() < LOOK {
            return Ok(false);
        }
        let (catalog, row, cache) = (catalog.clone(), row.clone(), Arc::clone(cache));
        let backend = Arc::clone(self.reader().store().backend());
        let open = move || ImportStore::open(&catalog, &row, backend);
        let store = tokio::task::spawn_blocking(open)
            .await
            .map_err(|e| Error::new(Kind::Internal, "opening an import panicked").because(e))??;
        *self.reader.lock() = ImportReader::new(store, cache);
        Ok(true)
    }

    async fn read_at(
        &self,
        range: Range<u64>,
        until: u64,
        wanted: Option<&Wanted>,
    ) -> Result<Payload> {
        loop {
            let ready = self.ready(range.clone(), until, wanted).await;
            let read = match ready.is_empty() {
                true => Err(self.missing(range.start)),
                false => self.reader().read_at(ready).await,
            };
            match read {
                // Stored, or put into another object, by the process that fills it.
                Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Unavailable) => {
                    if !self.look_again().await? {
                        return Err(e);
                    }
                }
                read => return read,
            }
        }
    }

    fn missing(&self, at: u64) -> Error {
        let text = format!("import {} ({}): byte {at} is not stored yet", self.id, self.name);
        Error::new(Kind::Unavailable, text)
            .hint("`bae import --stream` plays it while it comes; elsewhere try again later")
    }
}

/// A file being read. Dropped, nothing is asked for on its account any more.
#[derive(Debug)]
pub struct FileRead {
    import: Arc<StreamedImport>,
    file_start: u64,
    left: Range<u64>,
    wanted: Option<Wanted>,
    /// The window that is fetched into the cache, and where it begins.
    ahead: Option<(u64, AbortOnDropHandle<()>)>,
}

impl FileRead {
    /// The bytes that it has not given.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left.end - self.left.start
    }

    /// The next bytes, up to 256 KiB, in memory of their own; `None` after the last. May be dropped and called again.
    ///
    /// # Errors
    /// `Unavailable` where nothing is stored and nothing comes; what the backend says.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.left.is_empty() {
            return Ok(None);
        }
        self.look_ahead();
        // Steps end where windows do: none needs two.
        let inside = (self.left.start - self.file_start) % STEP;
        let end = self.left.end.min(self.left.start + STEP - inside);
        let range = self.left.start..end;
        let payload = self.import.read_at(range, self.left.end, self.wanted.as_ref()).await?;
        let mut bytes = BytesMut::with_capacity(usize::try_from(payload.len()).unwrap_or(0));
        payload.parts().iter().for_each(|part| bytes.extend_from_slice(part));
        self.left.start += payload.len();
        Ok(Some(bytes.freeze()))
    }

    /// Takes back the last `len` bytes given, which are read again.
    pub fn put_back(&mut self, len: u64) {
        self.left.start -= len.min(self.left.start - self.file_start);
    }

    /// Has the next window fetched, whose first byte is enough for that.
    fn look_ahead(&mut self) {
        let inside = self.left.start - self.file_start;
        let next = self.file_start + (inside / WINDOW + 1) * WINDOW;
        let known = self.ahead.as_ref().is_some_and(|(at, _)| *at == next);
        if known || next >= self.left.end {
            return;
        }
        let reader = self.import.reader();
        // What it cannot read will be told when it is its turn.
        let fetch = async move { drop(reader.read_at(next..next + 1).await) };
        self.ahead = Some((next, AbortOnDropHandle::new(tokio::spawn(fetch))));
    }
}

impl App {
    /// Opens an import for streaming, as one more of `streams`, and returns it.
    ///
    /// # Errors
    /// `NotFound` when there is no such import; what opening its storage fails with.
    pub async fn stream(&self, needle: &str, streams: &Streams) -> Result<Arc<StreamedImport>> {
        let row = self.catalog.find(needle)?;
        let reader = self.open_reader(&row).await?;
        let filling = Filling::Elsewhere {
            row: Box::new(row.clone()),
            catalog: self.catalog.clone(),
            cache: Arc::clone(&self.cache),
            looked: Mutex::new(Instant::now()),
        };
        let seen = streams.list().len();
        streams.add(StreamedImport::new(&row, &self.catalog.files(&row.id)?, reader, filling));
        Ok(streams.opened(seen).await)
    }

    /// Opens an import that is about to be filled by this process. What comes is to be told to the demand.
    pub(super) fn stream_filling(
        &self,
        row: &ImportRow,
        store: &Arc<ImportStore>,
        streams: &Streams,
    ) -> Result<EndOnDrop> {
        let demand = Demand::new();
        let filling = Filling::Here(Arc::clone(&demand));
        let files = self.catalog.files(&row.id)?;
        streams.add(StreamedImport::new(row, &files, self.reader(store), filling));
        Ok(EndOnDrop(demand))
    }
}

/// The demand of an import's readers, who hear when its filling ends however that comes.
pub(super) struct EndOnDrop(pub(super) Arc<Demand>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}
