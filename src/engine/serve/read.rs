//! `cat`: streams the bytes of an import, or of one of its files, from memory, cache or storage.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    backends::Payload,
    catalog::{FileRow, ImportRow},
    engine::Engine,
    error::{Error, Kind, Result},
    hints::{Hint, Operation, hint},
    memory::{Budget, Reservation, Share},
    storage::{ImportReader, PieceVerifier, RangeSet, WindowCache},
    torrents::{metainfo::Metainfo, piece_verifier},
    units::{MIB, parse_range},
};

/// The longest step of a stream: one read of the storage.
const STEP: u64 = 4 * MIB;

/// A stream of bytes of an import.
#[derive(Debug)]
pub struct ReadStream {
    reader: VerifyingReader,
    remaining: Range<u64>,
    /// Bytes that were read and not returned yet.
    ready: std::vec::IntoIter<Bytes>,
    /// The memory of the step that is being returned.
    step: Option<Reservation>,
    len: u64,
}

impl ReadStream {
    pub(in crate::engine) fn new(reader: impl Into<VerifyingReader>, range: Range<u64>) -> Self {
        let reader = reader.into();
        let len = range.end - range.start;
        Self { reader, remaining: range, ready: Vec::new().into_iter(), step: None, len }
    }

    /// Length of the whole stream in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The next bytes; `None` after the last.
    ///
    /// # Errors
    /// `NotFound` where bytes are not stored yet; `Corrupt` where they do not match the torrent's hashes; otherwise the
    /// error of the backend.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(part) = self.ready.next() {
                return Ok(Some(part));
            }
            self.step = None;
            if self.remaining.is_empty() {
                return Ok(None);
            }
            let memory = self.reader.memory();
            let end = self.remaining.end.min(self.remaining.start + step_len(memory));
            let len = usize::try_from(end - self.remaining.start).unwrap_or(usize::MAX);
            self.step = Some(memory.reserve(Share::Readers, len).await);
            let payload = self.reader.read_at(self.remaining.start..end).await?;
            self.remaining.start = end;
            self.ready = payload.buffers().to_vec().into_iter();
        }
    }
}

/// The length of a step: at most half of the memory for readers, so that one stream leaves room for others.
fn step_len(memory: &Budget) -> u64 {
    let half = memory.share(Share::Readers).len() as u64 / 2;
    STEP.min(half / MIB * MIB).max(MIB)
}

/// A reader that verifies bytes against the torrent's hashes where possible, and returns them only if they match.
#[derive(Debug, Clone)]
pub(in crate::engine) struct VerifyingReader {
    /// Reads without verification: imports from a URL have no hashes, and an incomplete piece cannot be verified.
    plain: ImportReader,
    verified: Option<VerifiedPieces>,
}

#[derive(Debug, Clone)]
struct VerifiedPieces {
    reader: ImportReader,
    /// Ranges that failed verification so far.
    corrupt: Arc<Mutex<RangeSet>>,
}

impl From<ImportReader> for VerifyingReader {
    fn from(plain: ImportReader) -> Self {
        Self { plain, verified: None }
    }
}

impl VerifiedPieces {
    fn new(plain: &ImportReader, cache: &Arc<WindowCache>, meta: Metainfo) -> Self {
        let corrupt = Arc::<Mutex<RangeSet>>::default();
        let (PieceVerifier { piece_len, check }, noted) =
            (piece_verifier(Arc::new(meta)), Arc::clone(&corrupt));
        let check = move |range: Range<u64>, bytes: &[Bytes]| {
            check(range.clone(), bytes).inspect_err(|_| noted.lock().insert(range))
        };
        let verifier = PieceVerifier { piece_len, check: Box::new(check) };
        let reader =
            ImportReader::for_export(Arc::clone(plain.store()), Arc::clone(cache), verifier);
        Self { reader, corrupt }
    }
}

impl VerifyingReader {
    fn memory(&self) -> &Budget {
        self.plain.memory()
    }

    async fn read_at(&self, range: Range<u64>) -> Result<Payload> {
        let Some(verified) = &self.verified else { return self.plain.read_at(range).await };
        match verified.reader.read_at(range.clone()).await {
            // Another part of the piece is missing or damaged, so these bytes cannot be
            // verified. Read them as they are.
            Err(e)
                if e.kind().is_object_specific() && !verified.corrupt.lock().overlaps(&range) =>
            {
                self.plain.read_at(range).await
            }
            read => read,
        }
    }
}

impl Engine {
    /// Opens a file of an import for reading: the one at `path` (`None` is the only file), or `range` of it as typed.
    ///
    /// # Errors
    /// `NotFound` when there is no such import or file; `InvalidInput` when a path is needed, or the
    /// range is outside the file.
    pub async fn open_read(
        &self,
        import_ref: &str,
        path: Option<&str>,
        range: Option<&str>,
    ) -> Result<ReadStream> {
        let row = self.catalog.find(import_ref).await?;
        let files = self.catalog.files(&row.id).await?;
        let file = find_file(&row, &files, path)?;
        let part = match range {
            Some(text) => parse_range(text, file.len)?,
            None => 0..file.len,
        };
        let range = file.start + part.start..file.start + part.end;
        Ok(ReadStream::new(self.open_verifying(&row).await?, range))
    }

    /// A verifying reader, for `export` and `cat`.
    pub(super) async fn open_verifying(&self, row: &ImportRow) -> Result<VerifyingReader> {
        let plain = self.open_reader(row).await?;
        let verified = match row.is_torrent() {
            true => {
                let (_, meta) = self.metainfo_of(row).await?;
                Some(VerifiedPieces::new(&plain, &self.cache, meta))
            }
            false => None,
        };
        Ok(VerifyingReader { plain, verified })
    }

    pub(super) async fn open_reader(&self, row: &ImportRow) -> Result<ImportReader> {
        let storage = self.storage_of(row).await?;
        let store = self.open_store(row, &storage).await?;
        Ok(self.reader(&store))
    }
}

fn list_files_hint(row: &ImportRow) -> Hint {
    hint![Operation::ImportInfo.on(&row.id), " lists them"]
}

/// Finds a file by its path, by its path without the name of the torrent, or by its number as `info` prints it.
pub(in crate::engine) fn find_file<'a>(
    row: &ImportRow,
    files: &'a [FileRow],
    path: Option<&str>,
) -> Result<&'a FileRow> {
    let real: Vec<&FileRow> = files.iter().filter(|f| !f.pad).collect();
    let Some(path) = path else {
        return match real[..] {
            [only] => Ok(only),
            _ => {
                let text = format!("import {} has {} files: name one of them", row.id, real.len());
                Err(Error::new(Kind::InvalidInput, text).hint(list_files_hint(row)))
            }
        };
    };
    let without_name = |f: &FileRow| f.path.split_once('/').is_some_and(|(_, rest)| rest == path);
    let number = || path.parse::<usize>().ok().and_then(|n| real.get(n.checked_sub(1)?).copied());
    let named = real.iter().copied().find(|f| f.path == path);
    named.or_else(|| real.iter().copied().find(|f| without_name(f))).or_else(number).ok_or_else(
        || {
            let text = format!("import {} has no file {path:?}", row.id);
            Error::new(Kind::NotFound, text).hint(list_files_hint(row))
        },
    )
}
