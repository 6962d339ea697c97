//! Fetches the bytes of a range for a reader: from the disk cache, a long GET, or a GET of its own. With [`Checks`] the
//! bytes are verified, and fetched again when they are wrong.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    blocks::{Blocks, Cut},
    disk_cache::DiskCache,
    fetch::Fetched,
    import::ImportStore,
    long_get::Coming,
    windows::Grid,
};
use crate::error::{Error, Kind, Result};

/// How often wrong bytes are fetched again before they count as stored wrong. That answer is final for a peer.
const AGAIN: u32 = 5;
/// The wait before the first retry; it doubles each time. What corrupts bytes in transit may last only a moment.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Checks the bytes of a range of whole pieces. The bytes come in parts, none of which spans two pieces.
type Check = Box<dyn Fn(Range<u64>, &[Bytes]) -> Result<()> + Send + Sync>;

/// How fetched bytes are verified.
pub struct Checks {
    /// The length of the unit that can be verified by itself.
    pub piece_len: u64,
    /// Returns `Corrupt` with the name of the bad piece. Called on the blocking thread pool.
    pub check: Check,
}

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checks").field("piece_len", &self.piece_len).finish_non_exhaustive()
    }
}

/// A fetch: where the bytes come from, and how they are verified.
pub(super) struct Bringing {
    store: Arc<ImportStore>,
    grid: Grid,
    checks: Option<Arc<Checks>>,
    disk: Option<Arc<DiskCache>>,
    cut: Cut,
}

impl Bringing {
    pub(super) fn new(
        store: Arc<ImportStore>,
        grid: Grid,
        checks: Option<Arc<Checks>>,
        disk: Option<Arc<DiskCache>>,
        cut: Cut,
    ) -> Self {
        // The disk cache holds only windows that can be verified when they are read back.
        let disk = disk.filter(|_| checks.is_some());
        Self { store, grid, checks, disk, cut }
    }

    /// Whether a window of `range` is in the disk cache, as far as the index knows.
    pub(super) fn is_on_disk(&self, range: &Range<u64>) -> bool {
        let has = |disk: &Arc<DiskCache>| {
            self.whole_windows(range).any(|window| disk.has(self.store.id(), &window))
        };
        self.disk.as_ref().is_some_and(has)
    }

    /// The bytes of `range`. `long` may deliver the first of them, and then the disk cache is not read.
    pub(super) async fn bring(self, range: Range<u64>, long: Coming) -> Result<Blocks> {
        if !long.is_nothing() || !self.is_on_disk(&range) {
            return self.fresh(range, long).await;
        }
        let (mut whole, mut at) = (self.cut.from(range.start), range.start);
        for window in self.whole_windows(&range) {
            let Some(kept) = self.kept(&window).await else { continue };
            if at < window.start {
                let fresh = self.fresh(at..window.start, Coming::default()).await?;
                fresh.parts().iter().for_each(|part| whole.take(part.clone()));
            }
            kept.parts().iter().for_each(|part| whole.take(part.clone()));
            at = window.end;
        }
        if at < range.end {
            let fresh = self.fresh(at..range.end, Coming::default()).await?;
            fresh.parts().iter().for_each(|part| whole.take(part.clone()));
        }
        Ok(whole.finish())
    }

    fn whole_windows(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let Range { start, end } = *range;
        self.grid.windows(range).filter(move |window| start <= window.start && window.end <= end)
    }

    /// A window from the disk cache, if it is there and verifies.
    async fn kept(&self, window: &Range<u64>) -> Option<Blocks> {
        let (disk, checks) = (self.disk.as_ref()?, self.checks.clone()?);
        let bytes = disk.get(self.store.id(), window).await?;
        let mut blocks = self.cut.from(window.start);
        blocks.write(&bytes);
        let checked = hold_against(checks, window.clone(), blocks.finish()).await;
        checked.inspect_err(|_| disk.drop_window(self.store.id(), window)).ok()
    }

    /// Fetches `range` from the storage, and writes its windows to the disk cache.
    async fn fresh(&self, range: Range<u64>, long: Coming) -> Result<Blocks> {
        let blocks = self.insist(range.clone(), long).await?;
        if let Some(disk) = &self.disk {
            let at = |pos: u64| usize::try_from(pos - range.start).unwrap_or(usize::MAX);
            for window in self.whole_windows(&range) {
                let part = blocks.slice(at(window.start)..at(window.end));
                disk.put(self.store.id(), &window, part.joined());
            }
        }
        Ok(blocks)
    }

    /// Fetches `range`, again when the bytes are corrupted. `long` may deliver the first of them.
    async fn insist(&self, range: Range<u64>, mut long: Coming) -> Result<Blocks> {
        let mut tries = 0;
        loop {
            match self.fetch_checked(range.clone(), std::mem::take(&mut long)).await {
                Err(e) if self.checks.is_some() && is_spoilt(e.kind()) && tries < AGAIN => {
                    let import = self.store.id();
                    tracing::warn!("import {import}: {}; fetched again", e.report());
                    tokio::time::sleep(AGAIN_AFTER * (1 << tries)).await;
                    tries += 1;
                }
                fetched => return fetched,
            }
        }
    }

    /// Fetches and verifies `range`. Bytes from memory alone are not verified again: they were when they were accepted.
    async fn fetch_checked(&self, range: Range<u64>, long: Coming) -> Result<Blocks> {
        let Fetched { bytes, from_place } =
            long.or_fetch(&self.store, range.clone(), &self.cut).await?;
        match self.checks.clone().filter(|_| from_place) {
            Some(checks) => hold_against(checks, range, bytes).await,
            None => Ok(bytes),
        }
    }
}

/// Verifies bytes on the blocking thread pool: hashing 1 MiB takes about 1 ms.
async fn hold_against(checks: Arc<Checks>, range: Range<u64>, blocks: Blocks) -> Result<Blocks> {
    let check = move || (checks.check)(range, blocks.parts()).map(|()| blocks);
    tokio::task::spawn_blocking(check)
        .await
        .map_err(|e| Error::new(Kind::Internal, "a check did not finish").because(e))?
}

/// Whether the response was corrupted at the server or in transit, so that a retry may help.
fn is_spoilt(kind: Kind) -> bool {
    matches!(kind, Kind::Corrupt | Kind::Unsupported)
}
