//! The body of a local object. It is read in runs of blocks, on blocking threads, into reusable blocks.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, IoSliceMut, Read},
    num::NonZeroU64,
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use rustix::fs::Advice;
use tokio::sync::Semaphore;

use super::{blocking, files::LocalFiles};
use crate::{
    backends::{Key, body::BodySource},
    error::{Error, Kind, Result},
    memory::{BLOCK_LEN, BlockPool, Budget, OpenBlock},
};

/// Blocks per read: 1 MiB.
const BLOCKS_PER_READ: u64 = 64;

/// The budget of a folder that belongs to no engine. Only its free blocks count: at most this many bytes are kept.
const OWN_BUDGET: u64 = 64 << 20;
/// Concurrent reads of a folder: enough for the disk to order them, few enough not to occupy all CPUs.
const MAX_READERS: usize = 4;

/// State shared by all reads of a folder.
#[derive(Debug)]
pub(super) struct ReaderPool {
    files: Arc<LocalFiles>,
    /// The pool of blocks that bodies are read into. A reservation of their reader covers them.
    blocks: BlockPool,
    readers: Semaphore,
}

impl ReaderPool {
    pub(super) fn new(files: &Arc<LocalFiles>) -> Self {
        Self::with_blocks(files, Budget::new(OWN_BUDGET).covered_blocks())
    }

    pub(super) fn with_blocks(files: &Arc<LocalFiles>, blocks: BlockPool) -> Self {
        Self { files: Arc::clone(files), blocks, readers: Semaphore::new(MAX_READERS) }
    }
}

/// An object that is read run by run.
pub(super) struct LocalBody {
    shared: Arc<ReaderPool>,
    /// `None` while a blocking thread reads from it.
    file: Option<File>,
    /// Bytes still to be read.
    left: u64,
    ready: VecDeque<Bytes>,
    key: Key,
}

impl LocalBody {
    /// Opens the object and reads the first run of `range`, which must be inside it.
    pub(super) async fn begin(
        shared: &Arc<ReaderPool>,
        key: &Key,
        range: &Range<u64>,
    ) -> Result<Self> {
        let (key, range) = (key.clone(), range.clone());
        let left = range.end.saturating_sub(range.start);
        let mut body =
            Self { shared: Arc::clone(shared), file: None, left, ready: VecDeque::new(), key };
        let (shared, key) = (Arc::clone(shared), body.key.clone());
        let open = move || {
            let file = shared.files.open_at(&key, &range)?;
            // The system starts to read the range while the first run is read. Only a hint, so errors are ignored.
            let _ =
                rustix::fs::fadvise(&file, range.start, NonZeroU64::new(left), Advice::WillNeed);
            Ok(file)
        };
        body.read_run(open).await?;
        Ok(body)
    }

    /// Reads the next run of blocks from the file that `open` returns.
    async fn read_run(
        &mut self,
        open: impl FnOnce() -> Result<File> + Send + 'static,
    ) -> Result<()> {
        let _permit = self.shared.readers.acquire().await.ok();
        let (shared, key, left) = (Arc::clone(&self.shared), self.key.clone(), self.left);
        let (blocks, file) = blocking(move || {
            let mut file = open()?;
            let blocks = read_blocks(&shared, &mut file, left);
            Ok((blocks.map_err(|e| shared.files.error("get", &key, e))?, file))
        })
        .await?;
        self.left -= blocks.iter().map(|block| block.len() as u64).sum::<u64>();
        self.ready = blocks;
        self.file = Some(file);
        Ok(())
    }
}

impl BodySource for LocalBody {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.ready.is_empty()
            && self.left > 0
            && let Some(file) = self.file.take()
        {
            self.read_run(move || Ok(file)).await?;
        }
        Ok(self.ready.pop_front())
    }

    fn length_error(&self, detail: &str) -> Error {
        Error::new(Kind::Corrupt, format!("get {}: {detail}", self.key))
    }
}

/// The next bytes of the file, up to [`BLOCKS_PER_READ`] blocks and `left` bytes; empty at the end of the file.
fn read_blocks(shared: &ReaderPool, file: &mut File, left: u64) -> io::Result<VecDeque<Bytes>> {
    let count = left.div_ceil(BLOCK_LEN as u64).min(BLOCKS_PER_READ);
    let mut blocks: Vec<OpenBlock> = (0..count).map(|_| shared.blocks.allocate()).collect();
    let requested = usize::try_from(left.min(count * BLOCK_LEN as u64)).unwrap_or(0);
    let mut filled = 0;
    while filled < requested {
        let slices = blocks[filled / BLOCK_LEN..].iter_mut().enumerate().map(|(n, block)| {
            let start = if n == 0 { filled % BLOCK_LEN } else { 0 };
            let at = (filled / BLOCK_LEN + n) * BLOCK_LEN;
            IoSliceMut::new(&mut block[start..BLOCK_LEN.min(requested - at)])
        });
        match file.read_vectored(&mut slices.collect::<Vec<_>>()) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let full = blocks.into_iter().enumerate().take(filled.div_ceil(BLOCK_LEN));
    Ok(full.map(|(n, block)| block.freeze(filled - n * BLOCK_LEN)).collect())
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;
    use crate::backends::{LocalBackend, Payload, StorageBackend};

    #[tokio::test]
    async fn the_body_of_any_range_consists_of_blocks() {
        let dir = tempfile::tempdir().unwrap();
        LocalBackend::create_folder(dir.path()).unwrap();
        let backend = LocalBackend::open(dir.path()).unwrap();
        let whole: Vec<u8> =
            (0..3 * 1024 * 1024 + 5_usize).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let key = Key::new("object").unwrap();
        backend.put(&key, Payload::from_iter([Bytes::from(whole.clone())])).await.unwrap();
        for range in [0..whole.len(), 0..1, 7..BLOCK_LEN + 7, 1_000_000..3_000_000, 5..5] {
            let requested = range.start as u64..range.end as u64;
            let mut body = backend.open(&key, requested).await.unwrap();
            let mut got = Vec::new();
            while let Some(part) = body.next().await {
                let part = part.unwrap();
                assert!(part.len() == BLOCK_LEN || got.len() + part.len() == range.len());
                got.extend_from_slice(&part);
            }
            assert!(got == whole[range]);
        }
        // All blocks are back in the pool, for later reads.
        assert_eq!(backend.reader_pool.blocks.blocks_in_use(), 0);
    }
}
