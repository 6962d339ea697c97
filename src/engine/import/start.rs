//! Starts an import: claims its source, and spawns the task that makes its attempts.

use std::{ops::Deref, sync::Arc, time::Instant};

use tokio_util::sync::CancellationToken;

use crate::{
    catalog::Catalog,
    engine::{
        Engine, ImportHandle, ImportRequest,
        running::{Attempt, Claim, ClaimKey, Purpose, RunningImport},
        storages::open_storage::OpenStorage,
    },
    error::Result,
    events::{EventSink, Imported},
};

/// The parts of an import that stay the same over its attempts.
#[derive(Clone)]
pub(in crate::engine) struct ImportTask {
    pub(in crate::engine) engine: Engine,
    pub(in crate::engine) request: Arc<ImportRequest>,
    pub(in crate::engine) storage: Arc<OpenStorage>,
    pub(in crate::engine) events: EventSink,
    pub(in crate::engine) running: Arc<RunningImport>,
    pub(in crate::engine) claim: Arc<Claim>,
    pub(in crate::engine) started_at: Instant,
}

impl ImportTask {
    pub(in crate::engine) fn new(
        engine: &Engine,
        request: ImportRequest,
        storage: Arc<OpenStorage>,
        claim: Claim,
        started_at: Instant,
    ) -> Self {
        let running = RunningImport::new(engine.running.next_number(), engine.events.clone());
        Self {
            engine: engine.clone(),
            request: Arc::new(request),
            storage,
            events: running.sink(),
            running,
            claim: Arc::new(claim),
            started_at,
        }
    }

    /// The catalog, as the one writer of the import has it.
    pub(in crate::engine) fn catalog(&self) -> Catalog {
        self.claim.fenced(&self.engine.catalog)
    }

    /// One attempt, which ends when `cancel` is cancelled.
    pub(in crate::engine) fn job(&self, cancel: CancellationToken) -> ImportJob {
        ImportJob { task: self.clone(), cancel }
    }
}

impl Attempt for ImportTask {
    async fn run(&mut self, cancel: CancellationToken) -> Result<Imported> {
        self.job(cancel).run().await
    }
}

/// One attempt of an import.
pub(in crate::engine) struct ImportJob {
    task: ImportTask,
    pub(in crate::engine) cancel: CancellationToken,
}

impl Deref for ImportJob {
    type Target = ImportTask;

    fn deref(&self) -> &ImportTask {
        &self.task
    }
}

impl Engine {
    /// Imports a torrent, or the files at a URL. Returns when the storage is open; the import runs as a task of the
    /// engine, and its handle reports everything else. It is complete when every selected byte is durable. With
    /// [`ImportRequest::seed`] the import is seeded from then on.
    ///
    /// # Errors
    /// `Unavailable` when an import of the same source into the same storage is running; otherwise any error of opening
    /// the storage. [`ImportHandle::wait`] returns the errors of source and selection, before the payload is fetched;
    /// `NoSpace` when the import does not fit; `Network` when no bytes arrive for the idle timeout.
    pub async fn start_import(&self, request: ImportRequest) -> Result<ImportHandle> {
        let started_at = Instant::now();
        self.check_writable()?;
        self.session.check_interfaces()?;
        let storage = self.storage(&request.storage).await?;
        let source = ClaimKey::of_source(&request.source, &storage.name);
        let claim = self.running.claim(Purpose::Import, source).await?;
        let task = ImportTask::new(self, request, storage, claim, started_at);
        Ok(self.spawn_import(Arc::clone(&task.running), task))
    }
}
