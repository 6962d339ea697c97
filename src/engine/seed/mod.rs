//! `seed`: offers stored imports to the swarm. Starting needs only the catalog: nothing is hashed, read or listed.
//!
//! An engine has one [`Seeder`]. [`Engine::seed`] hands it a group of imports, and an import with
//! [`ImportRequest::seed`](super::ImportRequest::seed) its own, with the torrent that is in the session already. The
//! first group starts the seeder's task ([`Seeding`]); the task ends with the last group. Groups come and go while it
//! runs. Each import is claimed, so that no other operation writes it.
//!
//! [`Seeding`] adds up to `at_once` imports of all groups to the session and rotates the others in ([`Rotation`]). Of a
//! complete import, only the torrent is loaded at first; the location of its bytes is loaded from the catalog when a
//! peer requests the first one. Usage is recorded every 5 s, and the monthly budget is checked then. Seed goals are
//! checked every second.
//!
//! [`Rotation`]: rotation::Rotation

mod budget;
mod goals;
mod group;
mod limits;
mod rotation;
mod seeding;
mod seeding_import;

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use self::{group::NewGroup, seeding::Seeding};
use super::{
    Engine, SeedHandle,
    import::ImportJob,
    running::{Claim, ClaimKey, Purpose, RunningSeed},
};
use crate::{
    catalog::{ImportRow, ImportState},
    config::{SeedOptions, TorrentOptions},
    error::{Error, Kind, Result},
    hints::{Operation, hint},
    storage::ImportStore,
    torrents::{Status, Torrent},
};

/// The way to the seeder's task.
#[derive(Debug, Default)]
pub(super) struct Seeder {
    /// `None` while no task runs.
    groups: Mutex<Option<mpsc::UnboundedSender<NewGroup>>>,
    /// Wakes the task when a group is stopped.
    wake: Arc<Notify>,
}

/// A torrent in the session with its import, after the import is complete.
pub(super) type ReadyTorrent = ((Torrent, Status), Arc<ImportStore>);

impl Engine {
    /// Seeds the named imports (without names, all complete ones) until stopped or until all goals are reached. The
    /// engine may seed and import others at the same time. `torrent` are the settings of each torrent in the session.
    ///
    /// # Errors
    /// `NotFound` when there is nothing to seed; `Unavailable` when a named import is running or is seeded already; when
    /// the torrent session cannot start. [`SeedHandle::wait`] returns the first error when every import failed.
    pub async fn seed(
        &self,
        import_refs: Vec<String>,
        options: SeedOptions,
        torrent: TorrentOptions,
    ) -> Result<SeedHandle> {
        self.check_writable()?;
        let rows = self.rows_to_seed(&import_refs).await?;
        let mut imports = Vec::with_capacity(rows.len());
        for row in rows {
            match self.claim_to_seed(&row).await {
                Ok(claim) => imports.push((row, Arc::new(claim))),
                // All others are seeded.
                Err(_) if import_refs.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        if imports.is_empty() {
            return Err(nothing_to_seed());
        }
        let running = self.new_running_seed();
        let events = running.sink();
        self.add_group(NewGroup { imports, ready: None, options, torrent, events, running })
    }

    /// Seeds an import that was just filled, with the torrent that is in the session.
    ///
    /// # Errors
    /// `Cancelled` when the engine closes.
    pub(super) fn seed_after_import(
        &self,
        job: &ImportJob,
        row: ImportRow,
        ready: ReadyTorrent,
    ) -> Result<SeedHandle> {
        job.claim.continue_seeding();
        let running = self.new_running_seed();
        self.add_group(NewGroup {
            imports: vec![(row, Arc::clone(&job.claim))],
            ready: Some(ready),
            options: job.request.seeding.clone(),
            torrent: job.request.torrent.clone(),
            events: job.events.clone(),
            running,
        })
    }

    fn new_running_seed(&self) -> Arc<RunningSeed> {
        let (log, wake) = (self.events.clone(), Arc::clone(&self.seeder.wake));
        RunningSeed::new(self.running.next_number(), log, wake)
    }

    async fn claim_to_seed(&self, row: &ImportRow) -> Result<Claim> {
        let claim = self.running.claim_import(Purpose::Seed, &row.id).await?;
        let torrent = ClaimKey::of_torrent(row.info_hash_v1, row.info_hash_v2, &row.storage);
        claim.add(torrent).await?;
        Ok(claim)
    }

    /// Hands a group to the seeder's task, and starts the task if none runs.
    fn add_group(&self, group: NewGroup) -> Result<SeedHandle> {
        let handle = SeedHandle::new(Arc::clone(&group.running));
        let torrents = self.session.get()?;
        let mut groups = self.seeder.groups.lock();
        let group = match &*groups {
            Some(running) => match running.send(group) {
                Ok(()) => return Ok(handle),
                Err(ended) => ended.0,
            },
            None => group,
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        // This cannot fail: the receiver is here.
        let _ = sender.send(group);
        *groups = Some(sender);
        let seeding = Seeding::new(self.clone(), torrents);
        self.tasks.spawn(seeding.run(receiver, Arc::clone(&self.seeder.wake)));
        Ok(handle)
    }

    async fn rows_to_seed(&self, import_refs: &[String]) -> Result<Vec<ImportRow>> {
        let rows: Vec<ImportRow> = if import_refs.is_empty() {
            let mut rows = self.catalog.list().await?;
            // Imports from a URL have no swarm.
            rows.retain(|row| row.state == ImportState::Imported && row.is_torrent());
            rows
        } else {
            let mut rows = Vec::with_capacity(import_refs.len());
            for import_ref in import_refs {
                rows.push(self.torrent_to_seed(import_ref).await?);
            }
            rows
        };
        // A torrent in two storages is one torrent in the swarm.
        let mut seen = HashSet::new();
        let rows: Vec<_> = rows.into_iter().filter(|row| seen.insert(row.info_hash())).collect();
        if rows.is_empty() {
            return Err(nothing_to_seed());
        }
        Ok(rows)
    }

    async fn torrent_to_seed(&self, import_ref: &str) -> Result<ImportRow> {
        let row = self.catalog.find(import_ref).await?;
        if row.is_torrent() {
            return Ok(row);
        }
        let text = format!("import {} ({}) is from a URL and has no swarm", row.id, row.name);
        Err(Error::new(Kind::InvalidInput, text).hint("leave it out"))
    }
}

fn nothing_to_seed() -> Error {
    let text = "nothing to seed: no import is complete";
    Error::new(Kind::NotFound, text).hint(hint![Operation::ListImports, " lists the imports"])
}

impl Seeder {
    /// Takes the next group, or lets the task end: then the next group starts another.
    fn take_or_end(&self, groups: &mut mpsc::UnboundedReceiver<NewGroup>) -> Option<NewGroup> {
        let mut sender = self.groups.lock();
        let next = groups.try_recv().ok();
        if next.is_none() {
            *sender = None;
        }
        next
    }
}
