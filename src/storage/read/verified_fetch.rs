//! Fetches the bytes of a range for a reader: from the disk cache, a range stream, or a ranged GET. With a
//! [`PieceVerifier`] the bytes are verified, and fetched again when they are wrong.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    blocks::{BlockCutter, Blocks},
    disk_cache::DiskCache,
    fetch::Fetched,
    range_streams::PendingParts,
    window_grid::WindowGrid,
};
use crate::{
    error::{Error, Kind, Result},
    memory::Share,
    storage::map::import_store::ImportStore,
};

/// How often wrong bytes are fetched again before they count as stored wrong. That answer is final for a peer.
const MAX_REFETCHES: u32 = 5;
/// The wait before the first retry; it doubles each time. What corrupts bytes in transit may last only a moment.
const FIRST_REFETCH_WAIT: Duration = Duration::from_millis(200);
/// Checks the bytes of a range of whole pieces. The bytes come in parts, none of which spans two pieces.
type CheckFn = Box<dyn Fn(Range<u64>, &[Bytes]) -> Result<()> + Send + Sync>;

/// How fetched bytes are verified.
pub struct PieceVerifier {
    /// The length of the unit that can be verified by itself.
    pub piece_len: u64,
    /// Returns `Corrupt` with the name of the bad piece. Called on the blocking thread pool.
    pub check: CheckFn,
}

impl std::fmt::Debug for PieceVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PieceVerifier").field("piece_len", &self.piece_len).finish_non_exhaustive()
    }
}

/// A fetch: where the bytes come from, and how they are verified.
pub(super) struct VerifiedFetch {
    store: Arc<ImportStore>,
    grid: WindowGrid,
    verifier: Option<Arc<PieceVerifier>>,
    disk: Option<Arc<DiskCache>>,
    cutter: BlockCutter,
}

impl VerifiedFetch {
    pub(in crate::storage) fn new(
        store: Arc<ImportStore>,
        grid: WindowGrid,
        verifier: Option<Arc<PieceVerifier>>,
        disk: Option<Arc<DiskCache>>,
        cutter: BlockCutter,
    ) -> Self {
        // The disk cache holds only windows that can be verified when they are read back.
        let disk = disk.filter(|_| verifier.is_some());
        Self { store, grid, verifier, disk, cutter }
    }

    /// Whether a window of `range` is in the disk cache, as far as the index knows.
    pub(super) fn is_on_disk(&self, range: &Range<u64>) -> bool {
        let has_window = |disk: &Arc<DiskCache>| {
            self.whole_windows(range).any(|window| disk.contains(self.store.id(), &window))
        };
        self.disk.as_ref().is_some_and(has_window)
    }

    /// The bytes of `range`. `pending` may deliver the first of them, and then the disk cache is not read.
    pub(in crate::storage) async fn run(
        self,
        range: Range<u64>,
        pending: PendingParts,
    ) -> Result<Blocks> {
        if !pending.is_empty() || !self.is_on_disk(&range) {
            return self.fetch_and_cache(range, pending).await;
        }
        let (mut writer, mut at) = (self.cutter.writer_at(range.start), range.start);
        for window in self.whole_windows(&range) {
            let Some(cached) = self.read_from_disk(&window).await else { continue };
            if at < window.start {
                let before =
                    self.fetch_and_cache(at..window.start, PendingParts::default()).await?;
                before.parts().iter().for_each(|part| writer.push(part.clone()));
            }
            cached.parts().iter().for_each(|part| writer.push(part.clone()));
            at = window.end;
        }
        if at < range.end {
            let rest = self.fetch_and_cache(at..range.end, PendingParts::default()).await?;
            rest.parts().iter().for_each(|part| writer.push(part.clone()));
        }
        Ok(writer.finish())
    }

    fn whole_windows(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let Range { start, end } = *range;
        self.grid.windows(range).filter(move |window| start <= window.start && window.end <= end)
    }

    /// A window from the disk cache, if it is there and verifies.
    async fn read_from_disk(&self, window: &Range<u64>) -> Option<Blocks> {
        let (disk, verifier) = (self.disk.as_ref()?, self.verifier.clone()?);
        let bytes = disk.get(self.store.id(), window).await?;
        let mut blocks = self.cutter.writer_at(window.start);
        blocks.write(&bytes);
        let verified = verify(verifier, window.clone(), blocks.finish()).await;
        verified.inspect_err(|_| disk.drop_window(self.store.id(), window)).ok()
    }

    /// Fetches `range` from the storage, and writes its windows to the disk cache.
    async fn fetch_and_cache(&self, range: Range<u64>, pending: PendingParts) -> Result<Blocks> {
        let blocks = self.fetch_with_retries(range.clone(), pending).await?;
        if let Some(disk) = &self.disk {
            let at = |pos: u64| usize::try_from(pos - range.start).unwrap_or(usize::MAX);
            for window in self.whole_windows(&range) {
                if !disk.lacks(self.store.id(), &window) {
                    continue;
                }
                let len = usize::try_from(window.end - window.start).unwrap_or(usize::MAX);
                let reservation = self.cutter.pool.memory().reserve(Share::Bodies, len).await;
                let part = blocks.slice(at(window.start)..at(window.end));
                disk.put(self.store.id(), &window, part, reservation);
            }
        }
        Ok(blocks)
    }

    /// Fetches `range`, again when the bytes are corrupted. `pending` may deliver the first of them.
    async fn fetch_with_retries(
        &self,
        range: Range<u64>,
        mut pending: PendingParts,
    ) -> Result<Blocks> {
        let mut refetches = 0;
        loop {
            match self.fetch_verified(range.clone(), std::mem::take(&mut pending)).await {
                Err(e)
                    if self.verifier.is_some()
                        && is_corrupted(e.kind())
                        && refetches < MAX_REFETCHES =>
                {
                    let import = self.store.id();
                    tracing::warn!("import {import}: {}; fetching again", e.report());
                    tokio::time::sleep(FIRST_REFETCH_WAIT * (1 << refetches)).await;
                    refetches += 1;
                }
                result => return result,
            }
        }
    }

    /// Fetches and verifies `range`. Bytes from memory alone are not verified again: they were when they were accepted.
    async fn fetch_verified(&self, range: Range<u64>, pending: PendingParts) -> Result<Blocks> {
        let Fetched { bytes, from_storage } =
            pending.collect_or_fetch(&self.store, range.clone(), &self.cutter).await?;
        match self.verifier.clone().filter(|_| from_storage) {
            Some(verifier) => verify(verifier, range, bytes).await,
            None => Ok(bytes),
        }
    }
}

/// Verifies bytes on the blocking thread pool: hashing 1 MiB takes about 1 ms.
async fn verify(verifier: Arc<PieceVerifier>, range: Range<u64>, blocks: Blocks) -> Result<Blocks> {
    let check = move || (verifier.check)(range, blocks.parts()).map(|()| blocks);
    tokio::task::spawn_blocking(check)
        .await
        .map_err(|e| Error::new(Kind::Internal, "a verification task panicked").because(e))?
}

/// Whether the response was corrupted at the server or in transit, so that a retry may help.
fn is_corrupted(kind: Kind) -> bool {
    matches!(kind, Kind::Corrupt | Kind::Unsupported)
}
