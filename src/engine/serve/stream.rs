//! Imports that are open for streaming, each with any number of independent readers. The stream server reads from here.
//!
//! Each [`FileRead`] returns steps of up to 256 KiB, and prefetches the next window of 1 MiB into the cache meanwhile.
//! In an import that this process fills, a read of missing bytes waits: the reader declares the range that it needs
//! ([`ReadDeadlines`]), the download requests those pieces first, and the bytes are read from memory as soon as their
//! piece is verified. In an import that another process fills, a read of missing bytes reopens the import from the
//! catalog, at most once per second, and fails if the bytes are still missing.
//!
//! Memory: an active reader holds one step, and for a moment the blocks that the next one is copied from.
//! [`StreamedImport::reserve_reader`] admits as many readers at once as fit into [`Share::Readers`].

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    backends::Payload,
    catalog::{Catalog, FileRow, ImportRow},
    engine::{Engine, plan::is_selected},
    error::{Error, Kind, Result},
    hints::{Operation, hint},
    memory::{BLOCK_LEN, Reservation, Share},
    storage::{ImportReader, ImportStore, WindowCache},
    torrents::{ReadDeadlines, ReaderPosition},
    units::MIB,
};

/// Bytes per step. A slow reader holds little memory, and four steps share one request for a cache window.
const STEP: u64 = 256 << 10;
/// The memory of an active reader: a step, and the blocks of the next one, of which the first and the last may reach
/// beyond it.
const READER_LEN: usize = (256 << 10) + (256 << 10) + 2 * BLOCK_LEN;
/// Length of a cache window: the unit of requests to storage, and the distance of the prefetch.
const WINDOW: u64 = MIB;
/// Shortest interval between two lookups of missing bytes in the catalog.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// The imports that are open for streaming. Cheap to clone; all clones share the same list.
#[derive(Debug, Clone, Default)]
pub struct Streams {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    imports: Mutex<Vec<Arc<StreamedImport>>>,
    /// Number of imports. Changes wake the callers of [`Streams::wait_opened`].
    count: watch::Sender<usize>,
}

impl Streams {
    /// All imports, in the order in which they were opened.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<StreamedImport>> {
        self.shared.imports.lock().clone()
    }

    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<StreamedImport>> {
        self.shared.imports.lock().iter().find(|import| import.id == id).cloned()
    }

    /// Waits for the import at `index` of the list.
    pub async fn wait_opened(&self, index: usize) -> Arc<StreamedImport> {
        let mut count = self.shared.count.subscribe();
        loop {
            // This cannot fail: `self` holds the sender.
            let _ = count.wait_for(|count| *count > index).await;
            if let Some(import) = self.shared.imports.lock().get(index) {
                return Arc::clone(import);
            }
        }
    }

    /// Leaves an import out from now on. Reads that run go on.
    pub fn remove(&self, id: &str) {
        self.shared.imports.lock().retain(|import| import.id != id);
    }

    /// Adds an import, in the place of one with the same id.
    fn add(&self, import: StreamedImport) -> Arc<StreamedImport> {
        let import = Arc::new(import);
        let mut imports = self.shared.imports.lock();
        match imports.iter_mut().find(|opened| opened.id == import.id) {
            Some(opened) => *opened = Arc::clone(&import),
            None => imports.push(Arc::clone(&import)),
        }
        self.shared.count.send_replace(imports.len());
        import
    }
}

/// A file in the form that players need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamedFile {
    pub path: String,
    pub bytes: u64,
    /// Entity tag: unique to the file, and different when its bytes are.
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
    filled_by: FilledBy,
}

/// Which process stores the missing bytes.
#[derive(Debug)]
enum FilledBy {
    /// This process.
    ThisProcess(Arc<ReadDeadlines>),
    /// Another process, or none.
    OtherProcess {
        row: Box<ImportRow>,
        catalog: Catalog,
        cache: Arc<WindowCache>,
        reopened_at: Mutex<Instant>,
    },
}

impl StreamedImport {
    fn new(row: &ImportRow, files: &[FileRow], reader: ImportReader, filled_by: FilledBy) -> Self {
        let hash = row.info_hash();
        let tag_prefix = if hash.is_empty() { row.id.as_str() } else { &hash };
        let is_wanted = |index: usize| is_selected(row.selected.as_deref(), index);
        let files = files.iter().enumerate().filter(|(index, file)| !file.pad && is_wanted(*index));
        let files = files.map(|(index, file)| StreamedFile {
            path: file.path.clone(),
            bytes: file.len,
            tag: format!("{tag_prefix}-{index}"),
            start: file.start,
        });
        Self {
            id: row.id.to_string(),
            name: row.name.clone(),
            files: files.collect(),
            reader: Mutex::new(reader),
            filled_by,
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

    /// The selected files, in order.
    #[must_use]
    pub fn files(&self) -> &[StreamedFile] {
        &self.files
    }

    /// Whether missing bytes are being fetched by this process, so that reads of them wait.
    #[must_use]
    pub fn is_being_filled(&self) -> bool {
        matches!(&self.filled_by, FilledBy::ThisProcess(deadlines) if !deadlines.has_ended())
    }

    /// Reserves the memory of one active reader, after the readers that wait already.
    pub async fn reserve_reader(&self) -> Reservation {
        let reader = self.reader();
        reader.memory().reserve(Share::Readers, READER_LEN).await
    }

    /// A reader of `range` of `file`. The range is cut to the length of the file.
    #[must_use]
    pub fn read(self: &Arc<Self>, file: &StreamedFile, range: Range<u64>) -> FileRead {
        let position = match &self.filled_by {
            FilledBy::ThisProcess(deadlines) => Some(deadlines.add_reader()),
            FilledBy::OtherProcess { .. } => None,
        };
        let end = file.bytes.min(range.end);
        let remaining = file.start + range.start.min(end)..file.start + end;
        FileRead {
            import: Arc::clone(self),
            file_start: file.start,
            remaining,
            position,
            prefetching: None,
        }
    }

    fn reader(&self) -> ImportReader {
        self.reader.lock().clone()
    }

    /// Waits until the start of `range` is readable, and returns the readable part of `range` from there.
    /// Returns an empty range when the bytes are missing and this process does not fetch them. `until` is
    /// the end of the whole read.
    async fn wait_readable(
        &self,
        range: Range<u64>,
        until: u64,
        position: Option<&ReaderPosition>,
    ) -> Range<u64> {
        let reader = self.reader();
        loop {
            let (deadlines, position) = match (&self.filled_by, position) {
                (FilledBy::ThisProcess(deadlines), Some(position)) => (deadlines, position),
                _ => return reader.store().readable_prefix(range),
            };
            let arrival = deadlines.arrival();
            position.set(range.start..until);
            let ready = reader.store().readable_prefix(range.clone());
            if !ready.is_empty() || deadlines.has_ended() {
                return ready;
            }
            tokio::select! {
                () = arrival => {}
                // Bytes can also become readable when a whole file is finished, without a notification.
                () = tokio::time::sleep(REOPEN_INTERVAL) => {}
            }
        }
    }

    /// Reopens the import from the catalog, unless that was done less than a second ago. Returns
    /// whether to try the read again.
    async fn reopen(&self) -> Result<bool> {
        let FilledBy::OtherProcess { row, catalog, cache, reopened_at } = &self.filled_by else {
            return Ok(false);
        };
        if std::mem::replace(&mut *reopened_at.lock(), Instant::now()).elapsed() < REOPEN_INTERVAL {
            return Ok(false);
        }
        let backend = Arc::clone(self.reader().store().backend());
        let store = ImportStore::open(catalog, row, backend).await?;
        *self.reader.lock() = ImportReader::new(store, Arc::clone(cache));
        Ok(true)
    }

    async fn read_at(
        &self,
        range: Range<u64>,
        until: u64,
        position: Option<&ReaderPosition>,
    ) -> Result<Payload> {
        loop {
            let ready = self.wait_readable(range.clone(), until, position).await;
            let read = match ready.is_empty() {
                true => Err(self.missing(range.start)),
                false => self.reader().read_at(ready).await,
            };
            match read {
                // The process that fills the import may have stored these bytes meanwhile, or moved
                // them to another object.
                Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Unavailable) => {
                    if !self.reopen().await? {
                        return Err(e);
                    }
                }
                read => return read,
            }
        }
    }

    fn missing(&self, at: u64) -> Error {
        let text = format!("import {} ({}): byte {at} is not stored yet", self.id, self.name);
        Error::new(Kind::Unavailable, text).hint(hint![
            "use ",
            Operation::ImportAndStream,
            " to play it during the import, or try again later",
        ])
    }
}

/// A read of a file. Dropping it withdraws its demand and its prefetch.
#[derive(Debug)]
pub struct FileRead {
    import: Arc<StreamedImport>,
    file_start: u64,
    remaining: Range<u64>,
    position: Option<ReaderPosition>,
    /// Start of the window that is being prefetched, and the task.
    prefetching: Option<(u64, AbortOnDropHandle<()>)>,
}

impl FileRead {
    /// The import that this reads.
    #[must_use]
    pub fn import(&self) -> &Arc<StreamedImport> {
        &self.import
    }

    /// Bytes that are still to be returned.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining.end - self.remaining.start
    }

    /// The next bytes, up to 256 KiB, in an allocation of their own; `None` after the last. Cancel safe.
    ///
    /// # Errors
    /// `Unavailable` when the bytes are not stored and are not being fetched; otherwise the error of the backend.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.remaining.is_empty() {
            return Ok(None);
        }
        self.prefetch();
        // Steps are aligned, so that none spans two windows.
        let inside = (self.remaining.start - self.file_start) % STEP;
        let end = self.remaining.end.min(self.remaining.start + STEP - inside);
        let range = self.remaining.start..end;
        let payload =
            self.import.read_at(range, self.remaining.end, self.position.as_ref()).await?;
        let mut bytes = BytesMut::with_capacity(usize::try_from(payload.len()).unwrap_or(0));
        payload.buffers().iter().for_each(|part| bytes.extend_from_slice(part));
        self.remaining.start += payload.len();
        Ok(Some(bytes.freeze()))
    }

    /// Puts back the last `len` bytes that were returned: they will be read again.
    pub fn put_back(&mut self, len: u64) {
        self.remaining.start -= len.min(self.remaining.start - self.file_start);
    }

    /// Prefetches the next window. Reading its first byte loads the whole window into the cache.
    fn prefetch(&mut self) {
        let inside = self.remaining.start - self.file_start;
        let next = self.file_start + (inside / WINDOW + 1) * WINDOW;
        let known = self.prefetching.as_ref().is_some_and(|(at, _)| *at == next);
        if known || next >= self.remaining.end {
            return;
        }
        let reader = self.import.reader();
        // An error is reported by the read of the window itself.
        let fetch = async move { drop(reader.read_at(next..next + 1).await) };
        self.prefetching = Some((next, AbortOnDropHandle::new(tokio::spawn(fetch))));
    }
}

impl Engine {
    /// Opens an import for streaming, adds it to `streams` unless it is there, and returns it.
    ///
    /// # Errors
    /// `NotFound` when there is no such import; otherwise any error of opening its storage.
    pub async fn stream(&self, import_ref: &str, streams: &Streams) -> Result<Arc<StreamedImport>> {
        let row = self.catalog.find(import_ref).await?;
        if let Some(opened) = streams.find(row.id.as_str()) {
            return Ok(opened);
        }
        let reader = self.open_reader(&row).await?;
        let filled_by = FilledBy::OtherProcess {
            row: Box::new(row.clone()),
            catalog: self.catalog.clone(),
            cache: Arc::clone(&self.cache),
            reopened_at: Mutex::new(Instant::now()),
        };
        let files = self.catalog.files(&row.id).await?;
        Ok(streams.add(StreamedImport::new(&row, &files, reader, filled_by)))
    }

    /// Opens an import that this process is about to fill. The download must report its progress
    /// to the returned [`ReadDeadlines`].
    pub(in crate::engine) async fn stream_during_import(
        &self,
        row: &ImportRow,
        store: &Arc<ImportStore>,
        streams: &Streams,
    ) -> Result<DeadlinesGuard> {
        let deadlines = ReadDeadlines::new();
        let filled_by = FilledBy::ThisProcess(Arc::clone(&deadlines));
        let files = self.catalog.files(&row.id).await?;
        streams.add(StreamedImport::new(row, &files, self.reader(store), filled_by));
        Ok(DeadlinesGuard(deadlines))
    }
}

/// The read deadlines of an import's readers. Dropping it ends all waits, however the filling ended.
pub(in crate::engine) struct DeadlinesGuard(pub(in crate::engine) Arc<ReadDeadlines>);

impl Drop for DeadlinesGuard {
    fn drop(&mut self) {
        self.0.end();
    }
}
