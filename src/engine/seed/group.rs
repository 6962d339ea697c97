//! The imports of one [`SeedHandle`](crate::engine::SeedHandle).

use std::{collections::HashSet, fmt, sync::Arc};

use super::ReadyTorrent;
use crate::{
    catalog::{ImportRow, UsageCounts},
    config::{SeedGoal, SeedOptions, TorrentOptions},
    engine::running::{Claim, RunningSeed},
    error::{Error, Result},
    events::EventSink,
};

/// A group on its way to the seeder.
pub(super) struct NewGroup {
    pub(super) imports: Vec<(ImportRow, Arc<Claim>)>,
    /// The torrent of the only import, when it is in the session already.
    pub(super) ready: Option<ReadyTorrent>,
    pub(super) options: SeedOptions,
    /// Of each torrent that is added to the session.
    pub(super) torrent: TorrentOptions,
    pub(super) events: EventSink,
    pub(super) running: Arc<RunningSeed>,
}

impl fmt::Debug for NewGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewGroup").field("running", &self.running).finish_non_exhaustive()
    }
}

/// A group in the seeder.
pub(super) struct Group {
    pub(super) options: SeedOptions,
    /// Of each torrent that is added to the session.
    pub(super) torrent: TorrentOptions,
    pub(super) events: EventSink,
    pub(super) running: Arc<RunningSeed>,
    /// The imports that are still to be seeded.
    pub(super) members: HashSet<usize>,
    /// The number of imports at the start.
    pub(super) count: usize,
    /// The first error of an import.
    pub(super) failed: Option<Error>,
    /// Whether an import was ever in the session.
    pub(super) seeded: bool,
    /// Whether an import has reached a goal.
    pub(super) reached: bool,
}

impl Group {
    /// The result when no import is left: an error only if none was seeded to its goal.
    pub(super) fn result(&mut self) -> Result<()> {
        self.failed.take().filter(|_| !self.reached).map_or(Ok(()), Err)
    }
}

/// An import to be seeded.
pub(super) struct SeedCandidate {
    pub(super) row: ImportRow,
    /// The number of its group.
    pub(super) group: u64,
    /// The goal from the config.
    pub(super) goal: SeedGoal,
    /// Recorded usage.
    pub(super) recorded: UsageCounts,
    /// Total length of its files in bytes. Until the import is in the session, the length with padding.
    pub(super) bytes: u64,
    /// Keeps other operations away from the import.
    pub(super) _claim: Arc<Claim>,
}
