//! What a caller holds of imports that are seeded.

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, Kind, Result},
    events::{EventLog, EventReader, EventSink},
};

/// Totals over the imports of one [`SeedHandle`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeedProgress {
    /// Imports that are still to be seeded.
    pub imports: usize,
    /// Those of them that are in the session.
    pub active: usize,
    pub peers: usize,
    /// Payload bytes sent to peers by the imports in the session.
    pub uploaded: u64,
    /// Bytes per second.
    pub upload_rate: u64,
}

/// What the seeder and the handles of one call share.
#[derive(Debug)]
pub(in crate::engine) struct RunningSeed {
    number: u64,
    log: EventLog,
    stop: CancellationToken,
    /// Wakes the seeder after a stop.
    wake: Arc<Notify>,
    progress: watch::Sender<SeedProgress>,
    result: watch::Sender<Option<Result<()>>>,
}

impl RunningSeed {
    pub(in crate::engine) fn new(number: u64, log: EventLog, wake: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            number,
            log,
            stop: CancellationToken::new(),
            wake,
            progress: watch::Sender::default(),
            result: watch::Sender::new(None),
        })
    }

    pub(in crate::engine) fn number(&self) -> u64 {
        self.number
    }

    pub(in crate::engine) fn sink(&self) -> EventSink {
        EventSink::to_log(self.log.clone(), Some(self.number))
    }

    pub(in crate::engine) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(in crate::engine) fn report(&self, progress: SeedProgress) {
        self.progress.send_if_modified(|known| std::mem::replace(known, progress) != progress);
    }

    pub(in crate::engine) fn finish(&self, result: Result<()>) {
        self.result.send_replace(Some(result));
    }
}

/// Imports that are seeded together. Clones share them; dropping all clones does not stop the seeding.
#[derive(Debug, Clone)]
pub struct SeedHandle {
    running: Arc<RunningSeed>,
}

impl SeedHandle {
    pub(in crate::engine) fn new(running: Arc<RunningSeed>) -> Self {
        Self { running }
    }

    /// The number of this handle in its engine.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.running.number
    }

    /// Waits until all imports have reached their goals, or were stopped.
    ///
    /// # Errors
    /// The first error when every import failed.
    pub async fn wait(&self) -> Result<()> {
        let mut result = self.running.result.subscribe();
        let ended = result.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
        ended.unwrap_or_else(|| Err(Error::new(Kind::Internal, "seeding ended without a result")))
    }

    /// Ends the seeding of these imports. [`SeedHandle::wait`] returns when they have left the session.
    pub fn stop(&self) {
        self.running.stop.cancel();
        self.running.wake.notify_one();
    }

    /// Follows the totals.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<SeedProgress> {
        self.running.progress.subscribe()
    }

    /// The events of these imports from now on.
    #[must_use]
    pub fn events(&self) -> EventReader {
        self.running.log.subscribe().only_handle(self.running.number)
    }
}
