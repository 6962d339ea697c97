//! The bytes of a range for a reader: from a disk, by a long get, or by a get of their own; checked, where there is something
//! to hold them against, and got again when they came wrong.

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

/// How often bytes that came wrong are got again before they count as stored wrong, which a peer is told for good.
const AGAIN: u32 = 5;
/// The wait before the first of that, twice as long each time: what spoils bytes under way may be a moment's trouble.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Says whether the bytes of a range, which is whole pieces, are what they should be.
/// They come in parts, none of which lies in two pieces.
type Check = Box<dyn Fn(Range<u64>, &[Bytes]) -> Result<()> + Send + Sync>;

/// What fetched bytes are held against.
pub struct Checks {
    /// What can be checked by itself.
    pub piece_len: u64,
    /// `Corrupt`, naming what is wrong. Called off the threads that others wait for.
    pub check: Check,
}

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checks").field("piece_len", &self.piece_len).finish_non_exhaustive()
    }
}

/// Where the bytes come from, and what they are held against.
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
        // Only what is checked when it comes back is kept there.
        let disk = disk.filter(|_| checks.is_some());
        Self { store, grid, checks, disk, cut }
    }

    /// Whether some of `range` is on the disk, as far as is known.
    pub(super) fn is_on_disk(&self, range: &Range<u64>) -> bool {
        let has = |disk: &Arc<DiskCache>| {
            self.whole_windows(range).any(|window| disk.has(self.store.id(), &window))
        };
        self.disk.as_ref().is_some_and(has)
    }

    /// The bytes of `range`; `long` may bring the first of them, where none is on the disk.
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

    /// A window, if it is on the disk and right.
    async fn kept(&self, window: &Range<u64>) -> Option<Blocks> {
        let (disk, checks) = (self.disk.as_ref()?, self.checks.clone()?);
        let bytes = disk.get(self.store.id(), window).await?;
        let mut blocks = self.cut.from(window.start);
        blocks.write(&bytes);
        let checked = hold_against(checks, window.clone(), blocks.finish()).await;
        checked.inspect_err(|_| disk.drop_window(self.store.id(), window)).ok()
    }

    /// From the place, and onto the disk.
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

    /// The bytes of `range`, fetched again when they come spoilt. `long` may bring the first of them.
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

    /// The bytes of `range`, held against what they should be where they are not from memory alone: those were when they
    /// came there.
    async fn fetch_checked(&self, range: Range<u64>, long: Coming) -> Result<Blocks> {
        let Fetched { bytes, from_place } =
            long.or_fetch(&self.store, range.clone(), &self.cut).await?;
        match self.checks.clone().filter(|_| from_place) {
            Some(checks) => hold_against(checks, range, bytes).await,
            None => Ok(bytes),
        }
    }
}

/// Checks bytes where nobody waits for the thread: hashing a MiB takes a millisecond.
async fn hold_against(checks: Arc<Checks>, range: Range<u64>, blocks: Blocks) -> Result<Blocks> {
    let check = move || (checks.check)(range, blocks.parts()).map(|()| blocks);
    tokio::task::spawn_blocking(check)
        .await
        .map_err(|e| Error::new(Kind::Internal, "a check did not finish").because(e))?
}

/// Whether an answer was not what was asked for, by itself or something between, so that the next may be.
fn is_spoilt(kind: Kind) -> bool {
    matches!(kind, Kind::Corrupt | Kind::Unsupported)
}
