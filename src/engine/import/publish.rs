//! Publishing: turns files of an import into objects with the torrent's file names. Used by `publish`, and by `import`
//! with the layout of whole files.
//!
//! During an import, [`spawn_publishing`] starts a [`BackgroundPublisher`], which publishes each file as soon as it is
//! complete. The command [`Engine::publish`] publishes the complete files of an import and returns.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{ImportJob, ImportView};
use crate::{
    catalog::{Catalog, FileRow, ImportRow, ImportState, LayoutKind},
    engine::{
        Engine, ProgressFn, PublishSummary, plan::publishable_files, running::Purpose,
        serve::read::find_file, storages::open_storage::OpenStorage,
    },
    error::{Error, Kind, Result},
    events::{Event, EventSink},
    hints::{Operation, hint},
    storage::{
        BackgroundPublisher, DirectFiles, ImportStore, PauseClock, Published, Publisher,
        WriterEvent,
    },
};

/// Longest delay before the first retry, as for uploads.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Interval for checking whether a pause of the storage is too long.
const PAUSE_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Files that the command publishes at once. Small files mostly wait for the server's answers.
const MAX_CONCURRENT_FILES: usize = 4;

/// The event sink of a writer, shared with publishing. It is called from any thread, under the writer's lock: it must
/// return quickly and not call back.
pub(in crate::engine) type SharedSink = Arc<dyn Fn(WriterEvent) + Send + Sync>;

/// The unpublished files of an import, and their publisher.
pub(in crate::engine) struct UnpublishedFiles {
    publisher: Arc<Publisher>,
    files: Vec<FileRow>,
}

impl UnpublishedFiles {
    /// For the writer, which stores a file of one chunk directly under its own name.
    pub(in crate::engine) fn direct(&self) -> DirectFiles {
        DirectFiles::new(Arc::clone(&self.publisher), &self.files)
    }
}

/// Starts to publish each file when it is complete.
pub(in crate::engine) fn spawn_publishing(
    UnpublishedFiles { publisher, files }: UnpublishedFiles,
    sink: &SharedSink,
) -> Arc<BackgroundPublisher> {
    let sink = Arc::clone(sink);
    BackgroundPublisher::spawn(publisher, files, RETRY_DELAY, Box::new(move |event| sink(event)))
}

impl ImportJob {
    /// The files to publish; `None` when the layout is not whole files, or all are published.
    pub(in crate::engine) async fn publisher(
        &self,
        import: ImportView<'_>,
    ) -> Result<Option<UnpublishedFiles>> {
        if import.row.layout != LayoutKind::Files {
            return Ok(None);
        }
        let all = publishable_files(import.files, None);
        let publisher =
            self.engine.publisher(self.catalog(), import.store, &self.storage, &all).await?;
        let mut files = publishable_files(import.files, import.row.selected.as_deref());
        files.retain(|file| !publisher.is_published(file));
        Ok((!files.is_empty()).then_some(UnpublishedFiles { publisher, files }))
    }

    /// Publishes the remaining files, when nothing is left to fetch.
    pub(in crate::engine) async fn publish_rest(&self, import: ImportView<'_>) -> Result<()> {
        let Some(files) = self.publisher(import).await? else { return Ok(()) };
        let _guard = self.engine.import_guard();
        self.catalog().set_state(&import.row.id, ImportState::Importing).await?;
        let (sink, mut fatal_errors) =
            writer_events(&self.events, import.row, self.request.timeout);
        let publishing = spawn_publishing(files, &sink);
        let result = tokio::select! {
            result = publishing.wait_until_done() => result.map(drop),
            error = fatal_errors.wait() => Err(error),
            () = self.cancel.cancelled() => Err(Error::new(Kind::Cancelled, "stopped")),
        };
        publishing.stop().await;
        result
    }
}

/// Fatal errors of an import's writer and publishing.
pub(in crate::engine) struct FatalErrors {
    failed: mpsc::UnboundedReceiver<Error>,
    pause: Arc<Mutex<PauseClock>>,
}

impl FatalErrors {
    /// Waits for a fatal error: bytes that cannot be stored, or a storage that has been paused
    /// for longer than the timeout.
    pub(in crate::engine) async fn wait(&mut self) -> Error {
        let mut tick = tokio::time::interval(PAUSE_CHECK_INTERVAL);
        loop {
            tokio::select! {
                Some(error) = self.failed.recv() => return error,
                _ = tick.tick() => {
                    if let Err(e) = self.pause.lock().check(Instant::now()) {
                        return e;
                    }
                }
            }
        }
    }
}

/// The sink that turns the events of writer and publishing into events of the import, and the receiver of fatal errors.
pub(in crate::engine) fn writer_events(
    events: &EventSink,
    row: &ImportRow,
    timeout: Option<Duration>,
) -> (SharedSink, FatalErrors) {
    let (events, id) = (events.clone(), row.id.to_string());
    let (tx, failed) = mpsc::unbounded_channel();
    let pause = Arc::new(Mutex::new(PauseClock::new(timeout)));
    let fatal_errors = FatalErrors { failed, pause: Arc::clone(&pause) };
    let sink: SharedSink = Arc::new(move |event| match event {
        // Sending fails only when the receiver has stopped already; the error is then not needed.
        WriterEvent::Lost(error) | WriterEvent::Failed(error) => drop(tx.send(error)),
        WriterEvent::Paused(error) => {
            events.paused(&id, &error);
            pause.lock().pause(error, Instant::now());
        }
        WriterEvent::Resumed => {
            pause.lock().resume();
            events.send(Event::Resumed { id: id.clone() });
        }
        WriterEvent::Durable(_) => pause.lock().record_progress(Instant::now()),
    });
    (sink, fatal_errors)
}

impl Engine {
    /// Publishes the files of an import: each becomes one object with the torrent's file name. The storage composes it
    /// by itself where it can. `paths` chooses files; without it, all files are published, and the import has the
    /// layout of whole files from then on. Files that are not completely stored are counted and left out. Can be
    /// interrupted and repeated.
    ///
    /// # Errors
    /// `NotFound` when there is no such import or file; `AlreadyExists` when a file's name is taken by another object;
    /// `Cancelled`; otherwise the error of the storage.
    pub async fn publish(
        &self,
        import_ref: &str,
        paths: &[String],
        progress: ProgressFn,
        cancel: CancellationToken,
    ) -> Result<PublishSummary> {
        let row = self.catalog.find(import_ref).await?;
        let claim = self.running.claim_import(Purpose::Publish, &row.id).await?;
        let catalog = claim.fenced(&self.catalog);
        let all = self.files_of(&row).await?;
        let publishable = publishable_files(&all, row.selected.as_deref());
        let files = self.choose_files(&row, publishable, paths).await?;
        if paths.is_empty() && row.layout != LayoutKind::Files {
            catalog.set_layout(&row.id, LayoutKind::Files).await?;
        }
        let storage = self.storage_of(&row).await?;
        let store = self.open_store(&row, &storage).await?;
        let all = publishable_files(&all, None);
        let publisher = self.publisher(catalog.clone(), &store, &storage, &all).await?;
        // Bytes that are read back and uploaded use the memory for incoming bytes.
        let _guard = self.import_guard();
        let (already, rest): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|file| publisher.is_published(file));
        let is_stored = |file: &FileRow| store.is_durable(file.start..file.start + file.len);
        let (ready, incomplete): (Vec<_>, Vec<_>) = rest.into_iter().partition(is_stored);
        let done = tokio::select! {
            done = publish_each(&publisher, ready, progress) => done,
            () = cancel.cancelled() => Err(Error::new(Kind::Cancelled, "stopped")
                .hint(hint!["run ", Operation::Same, " again to resume"])),
        };
        catalog.flush().await?;
        self.update_manifest(&catalog, &row, &storage).await;
        Ok(PublishSummary { done: done?, already: already.len(), incomplete: incomplete.len() })
    }

    async fn choose_files(
        &self,
        row: &ImportRow,
        all: Vec<FileRow>,
        paths: &[String],
    ) -> Result<Vec<FileRow>> {
        if paths.is_empty() {
            return Ok(all);
        }
        let files = self.catalog.files(&row.id).await?;
        let choose = |path: &String| {
            let file = find_file(row, &files, Some(path))?;
            if all.contains(file) {
                return Ok(file.clone());
            }
            let text = format!("import {}: {path:?} is a link, or was not selected", row.id);
            Err(Error::new(Kind::NotFound, text))
        };
        paths.iter().map(choose).collect()
    }

    /// A publisher for these files. Their names have been tested in the storage.
    async fn publisher(
        &self,
        catalog: Catalog,
        store: &Arc<ImportStore>,
        storage: &OpenStorage,
        files: &[FileRow],
    ) -> Result<Arc<Publisher>> {
        let (pressure, concurrency) = (Arc::clone(&self.pressure), storage.upload_concurrency);
        let publisher = Publisher::new(self.reader(store), catalog, pressure, concurrency).await?;
        publisher.probe_names(files).await?;
        Ok(publisher)
    }
}

async fn publish_each(
    publisher: &Arc<Publisher>,
    files: Vec<FileRow>,
    progress: ProgressFn,
) -> Result<Published> {
    // Objects that an earlier run freed.
    publisher.delete_freed().await?;
    let total = files.iter().map(|file| file.len).sum();
    let (progress, bytes) = (Arc::new(progress), Arc::new(Mutex::new(0)));
    let mut sum = Published::default();
    let mut running: JoinSet<Result<Published>> = JoinSet::new();
    for file in files {
        while running.len() >= MAX_CONCURRENT_FILES {
            sum += task_result(running.join_next().await)?;
        }
        let (publisher, progress, bytes) =
            (Arc::clone(publisher), Arc::clone(&progress), Arc::clone(&bytes));
        running.spawn(async move {
            let step = move |len| {
                let mut bytes = bytes.lock();
                *bytes += len;
                progress(*bytes, total);
            };
            let published = publisher.publish(&file, &step).await?;
            publisher.delete_freed().await?;
            Ok(published)
        });
    }
    while let Some(done) = running.join_next().await {
        sum += task_result(Some(done))?;
    }
    Ok(sum)
}

fn task_result(
    done: Option<Result<Result<Published>, tokio::task::JoinError>>,
) -> Result<Published> {
    match done {
        None => Ok(Published::default()),
        Some(Ok(published)) => published,
        Some(Err(e)) => Err(Error::new(Kind::Internal, "publishing a file panicked").because(e)),
    }
}
