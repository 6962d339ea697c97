//! What a caller holds of a running import.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    running_import::{ImportSettings, RunningImport, RunningState},
    seed_handle::SeedHandle,
};
use crate::{
    error::{Error, Kind, Result},
    events::{EventReader, Imported, Progress},
};

/// A running import. Clones share it; dropping all of them does not stop it.
#[derive(Debug, Clone)]
pub struct ImportHandle {
    running: Arc<RunningImport>,
}

impl ImportHandle {
    pub(in crate::engine) fn new(running: Arc<RunningImport>) -> Self {
        Self { running }
    }

    /// The number of this handle in its engine. Events of an import that is not in the catalog yet have only this.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.running.number()
    }

    /// The id of the import, once it is in the catalog.
    #[must_use]
    pub fn id(&self) -> Option<String> {
        self.running.id().borrow().clone()
    }

    /// Waits until the import is in the catalog, and returns its id.
    ///
    /// # Errors
    /// The error of the import when it ended before that.
    pub async fn wait_started(&self) -> Result<String> {
        let (mut id, mut result) = (self.running.id(), self.running.result());
        tokio::select! {
            biased;
            id = id.wait_for(Option::is_some) => {
                if let Some(id) = id.ok().and_then(|id| id.clone()) {
                    return Ok(id);
                }
            }
            ended = result.wait_for(Option::is_some) => {
                if let Some(Err(error)) = ended.ok().and_then(|ended| ended.clone()) {
                    return Err(error);
                }
            }
        }
        self.id().ok_or_else(|| Error::new(Kind::Internal, "the import ended without an id"))
    }

    #[must_use]
    pub fn state(&self) -> RunningState {
        *self.running.state().borrow()
    }

    /// Follows the state.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<RunningState> {
        self.running.state()
    }

    /// Follows the progress, which changes about four times a second while the import runs.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.running.progress()
    }

    /// The events of this import from now on.
    #[must_use]
    pub fn events(&self) -> EventReader {
        self.running.log().subscribe().only_handle(self.number())
    }

    /// All events of this import that the engine's log still has, and those to come.
    #[must_use]
    pub fn all_events(&self) -> EventReader {
        self.running.log().replay_from(1).only_handle(self.number())
    }

    /// Stops the import and keeps it: verified bytes are flushed within 5 s, and its torrent leaves the session, or its
    /// servers are disconnected. Returns at once; the state is [`RunningState::Paused`] when that is done.
    pub fn pause(&self) {
        self.running.pause();
    }

    /// Continues a paused import: fetches what is not durable yet.
    pub fn resume(&self) {
        self.running.resume();
    }

    /// Stops the import, and its seeding. Durable bytes stay; importing the same source again resumes it.
    pub fn cancel(&self) {
        self.running.cancel();
    }

    /// Waits until every byte is durable, or the import has failed or was cancelled. Any number of callers may wait.
    /// With [`ImportRequest::seed`](crate::engine::ImportRequest::seed), seeding continues then: see
    /// [`ImportHandle::seeding`].
    ///
    /// # Errors
    /// The error of the import; `Cancelled` after [`ImportHandle::cancel`].
    pub async fn wait(&self) -> Result<Imported> {
        let mut result = self.running.result();
        let ended = result.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
        ended
            .unwrap_or_else(|| Err(Error::new(Kind::Internal, "the import ended without a result")))
    }

    /// The seeding that followed the import, if it was requested.
    #[must_use]
    pub fn seeding(&self) -> Option<SeedHandle> {
        self.running.seeding()
    }

    #[must_use]
    pub fn settings(&self) -> ImportSettings {
        *self.running.settings().borrow()
    }

    /// Changes the limits of this import in bytes per second, besides those of the whole engine. `None` is no limit.
    pub fn set_limits(&self, download: Option<u64>, upload: Option<u64>) {
        self.running.change_settings(|settings| {
            (settings.download_limit, settings.upload_limit) = (download, upload);
        });
    }

    /// Requests the pieces of a torrent in order from now on, or again by rarity.
    pub fn set_sequential(&self, sequential: bool) {
        self.running.change_settings(|settings| settings.sequential = Some(sequential));
    }
}
