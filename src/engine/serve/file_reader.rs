//! A file of an import as tokio's [`AsyncRead`] and [`AsyncSeek`], for programs that embed bae.
//!
//! Reads pass through a [`FileRead`], which prefetches, and waits for missing bytes while the import is filled here. A
//! seek outside the bytes at hand drops it: its read deadlines and its prefetch end, and the next read starts anew.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};

use super::stream::{FileRead, StreamedFile, StreamedImport};
use crate::error::{Error, Kind, Result};

type NextBytes = Pin<Box<dyn Future<Output = (FileRead, Result<Option<Bytes>>)> + Send>>;

/// Reads one file of an import from any position.
///
/// Between reads it keeps up to 256 KiB, besides the memory budget: so any number of readers may be open at once.
///
/// Errors are [`io::Error`]s whose inner error is the [`Error`]: `Unavailable` when the bytes are not stored and are
/// not being fetched, otherwise the error of the storage. A failed read may be repeated.
pub struct FileReader {
    import: Arc<StreamedImport>,
    file: StreamedFile,
    /// Position of the next byte, in the file.
    position: u64,
    /// Bytes from `position` on that were read already.
    at_hand: Bytes,
    read: ReadState,
}

enum ReadState {
    /// No read has begun at this position.
    Idle,
    /// Between two steps.
    Open(FileRead),
    /// A step is being read.
    Reading(NextBytes),
}

impl fmt::Debug for FileReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileReader")
            .field("import", &self.import.id())
            .field("path", &self.file.path)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl FileReader {
    /// A reader at the start of the file at `path`.
    ///
    /// # Errors
    /// `NotFound` when the import has no such file, or the file is not selected.
    pub fn open(import: Arc<StreamedImport>, path: &str) -> Result<Self> {
        let file =
            import.files().iter().find(|file| file.path == path).cloned().ok_or_else(|| {
                Error::new(Kind::NotFound, format!("import {} has no file {path:?}", import.id()))
            })?;
        Ok(Self { import, file, position: 0, at_hand: Bytes::new(), read: ReadState::Idle })
    }

    /// Length of the file in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.file.bytes
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes bytes available at the position. Returns false at the end of the file.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if !self.at_hand.is_empty() {
                return Poll::Ready(Ok(true));
            }
            if self.position >= self.len() {
                return Poll::Ready(Ok(false));
            }
            self.read = match std::mem::replace(&mut self.read, ReadState::Idle) {
                ReadState::Idle => {
                    ReadState::Open(self.import.read(&self.file, self.position..self.len()))
                }
                ReadState::Open(read) => ReadState::Reading(Box::pin(read_step(read))),
                ReadState::Reading(mut next) => {
                    let Poll::Ready((read, bytes)) = next.as_mut().poll(cx) else {
                        self.read = ReadState::Reading(next);
                        return Poll::Pending;
                    };
                    self.at_hand = bytes.map_err(io_error)?.unwrap_or_default();
                    ReadState::Open(read)
                }
            };
        }
    }
}

/// Reads the next bytes, with the memory of a reader.
async fn read_step(mut read: FileRead) -> (FileRead, Result<Option<Bytes>>) {
    let memory = read.import().reserve_reader().await;
    let bytes = read.next().await;
    drop(memory);
    (read, bytes)
}

fn io_error(error: Error) -> io::Error {
    let kind = match error.kind() {
        Kind::NotFound => io::ErrorKind::NotFound,
        Kind::PermissionDenied | Kind::Unauthenticated => io::ErrorKind::PermissionDenied,
        Kind::Corrupt => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

impl AsyncRead for FileReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() > 0 && ready!(self.poll_fill(cx))? {
            let len = buf.remaining().min(self.at_hand.len());
            buf.put_slice(&self.at_hand.split_to(len));
            self.position += len as u64;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncSeek for FileReader {
    /// A position after the end is valid; reads there return no bytes.
    fn start_seek(mut self: Pin<&mut Self>, target: io::SeekFrom) -> io::Result<()> {
        let position = match target {
            io::SeekFrom::Start(position) => Some(position),
            io::SeekFrom::End(offset) => self.len().checked_add_signed(offset),
            io::SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        let before_start = || io::Error::new(io::ErrorKind::InvalidInput, "seek before the start");
        let position = position.ok_or_else(before_start)?;
        let skipped = position.checked_sub(self.position).and_then(|n| usize::try_from(n).ok());
        match skipped.filter(|n| *n <= self.at_hand.len()) {
            Some(n) => drop(self.at_hand.split_to(n)),
            None => {
                self.at_hand = Bytes::new();
                self.read = ReadState::Idle;
            }
        }
        self.position = position;
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position))
    }
}
