//! Seeding of finished downloads, until a goal is reached or the user stops it.

use crate::{
    engine::SeedHandle,
    error::Kind,
    queue::{
        Queue,
        download::Download,
        state::{Seeding, State},
    },
};

impl Queue {
    /// Hands a finished torrent to the seeder.
    pub(super) async fn start_seeding(&self, download: &Download) {
        let Some(import) = download.import.clone() else { return };
        let (options, torrent) = (self.seed_options(download), self.torrent_options(download));
        let number = download.number;
        match self.0.engine.seed(vec![import], options, torrent).await {
            Ok(handle) => {
                // A pause or removal that came after the decision to seed.
                let is_wanted = |d: &Download| d.seeding == Seeding::Waiting;
                if !self.by_number(number).is_some_and(|download| is_wanted(&download)) {
                    handle.stop();
                }
                self.follow_seeding(number, handle);
            }
            // Another operation has the import: the next decision tries again.
            Err(e) if e.kind() == Kind::Unavailable => {}
            Err(e) => {
                tracing::warn!("download {}: not seeded: {}", download.id, e.report());
                self.record_seeding(number, Seeding::Off).await;
            }
        }
    }

    /// Waits, in a task, for the end of the seeding.
    pub(super) fn follow_seeding(&self, number: u64, handle: SeedHandle) {
        self.0.runs.seeds.lock().insert(number, handle.clone());
        let queue = self.clone();
        self.spawn(async move {
            queue.record_seeding(number, Seeding::Active).await;
            let ended = handle.wait().await;
            queue.0.runs.seeds.lock().remove(&number);
            queue.0.revision.send_modify(|_| {});
            if let Err(e) = &ended {
                tracing::warn!("download {number}: seeding ended: {}", e.report());
            }
            let ended = if ended.is_ok() { Seeding::GoalReached } else { Seeding::Off };
            queue.record_seeding_end(number, ended).await;
            queue.0.wake.notify_one();
        });
    }

    async fn record_seeding(&self, number: u64, seeding: Seeding) {
        let recorded = self
            .transition(number, |download| {
                // A request to stop came first.
                if download.seeding != Seeding::Paused {
                    download.seeding = seeding;
                }
            })
            .await;
        if let Err(e) = recorded {
            tracing::warn!("download {number}: its seeding was not recorded: {}", e.report());
        }
    }

    /// Records the end of seeding, unless the end was requested.
    async fn record_seeding_end(&self, number: u64, ended: Seeding) {
        let recorded = self
            .transition(number, |download| {
                if download.seeding == Seeding::Active && download.state.is_stored() {
                    download.seeding = ended;
                } else if download.state != State::Done && download.seeding == Seeding::Active {
                    download.seeding = Seeding::Off;
                }
            })
            .await;
        if let Err(e) = recorded {
            tracing::warn!("download {number}: its seeding was not recorded: {}", e.report());
        }
    }
}
