//! One run of a download: from a free slot to the end of its import, and the export after it.

use tokio_util::sync::CancellationToken;

use super::{Run, set_limits};
use crate::{
    engine::{ExportOptions, ImportHandle},
    error::{Error, Kind, Result},
    events::Imported,
    queue::{
        Queue,
        backoff::after_failure,
        download::{Download, InfoHashes, SourceKind},
        state::{Seeding, State},
    },
};

impl Queue {
    /// Occupies a slot, and follows the download in a task.
    pub(super) fn start_run(&self, number: u64) {
        let stop = CancellationToken::new();
        let run = Run { stop: stop.clone(), handle: None };
        self.0.runs.downloads.lock().insert(number, run);
        let queue = self.clone();
        self.spawn(async move {
            // The slot is free again, even when the task panics or the engine closes.
            let slot = Slot { queue: queue.clone(), number };
            if let Err(e) = queue.follow(number, &stop).await {
                tracing::error!("download {number}: its state was not recorded: {}", e.report());
                // The catalog fails: do not try again at once.
                tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            }
            drop(slot);
        });
    }

    /// Runs a download and records how it ends.
    async fn follow(&self, number: u64, stop: &CancellationToken) -> Result<()> {
        let Some(download) = self.by_number(number) else { return Ok(()) };
        let was_exporting = download.state == State::Exporting;
        let now = self.now();
        self.transition(number, |download| match download.state {
            State::Queued | State::Retrying { .. } => {
                download.state = State::Starting;
                download.started_at.get_or_insert(now);
            }
            _ => {}
        })
        .await?;
        // A pause or removal that came after the decision to start.
        let starts = |d: &Download| matches!(d.state, State::Starting | State::Exporting);
        if !self.by_number(number).is_some_and(|download| starts(&download)) {
            return Ok(());
        }
        let outcome = match was_exporting {
            true => Ok(()),
            false => self.import(number, stop).await,
        };
        let outcome = match outcome {
            Ok(()) => self.export(number, stop).await,
            failed => failed,
        };
        match outcome {
            Ok(()) => self.record_done(number).await,
            Err(error) => self.record_failure(number, &error, stop).await,
        }
    }

    /// Fills the import. Returns when every byte is durable.
    async fn import(&self, number: u64, stop: &CancellationToken) -> Result<()> {
        let Some(download) = self.by_number(number) else { return Err(stopped()) };
        let torrent_file = match download.kind {
            SourceKind::Torrent => Some(self.torrent_file(&download).await?),
            _ => None,
        };
        let request = self.import_request(&download, torrent_file)?;
        let handle = tokio::select! {
            handle = self.0.engine.start_import(request) => handle?,
            () = stop.cancelled() => return Err(stopped()),
        };
        set_limits(&handle, &download);
        if let Some(run) = self.0.runs.downloads.lock().get_mut(&number) {
            run.handle = Some(handle.clone());
        }
        let started = async {
            match handle.wait_started().await {
                Ok(id) => self.record_started(number, &id).await,
                // The end of the import has the error.
                Err(_) => Ok(()),
            }
        };
        let started = tokio::select! {
            started = started => started,
            () = stop.cancelled() => Ok(()),
        };
        if let Err(e) = started {
            handle.cancel();
            let _ = handle.wait().await;
            return Err(e);
        }
        let imported = tokio::select! {
            imported = handle.wait() => imported?,
            () = stop.cancelled() => {
                handle.cancel();
                handle.wait().await?
            }
        };
        self.record_imported(number, &imported, &handle).await
    }

    /// The torrent file of a download.
    ///
    /// # Errors
    /// `NotFound` when the download was not made from a torrent file.
    pub async fn torrent_file(&self, download: &Download) -> Result<Vec<u8>> {
        let bytes = self.catalog().download_torrent(download.number).await?;
        bytes.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("download {} has no torrent file", download.id))
        })
    }

    /// The import is in the catalog: its name and hashes are known.
    async fn record_started(&self, number: u64, import: &str) -> Result<()> {
        self.0.runs.removals.lock().started(number, import);
        let facts = self.0.engine.import_identity(import).await?;
        self.transition(number, |download| {
            if download.state == State::Starting {
                download.state = State::Downloading;
            }
            download.import = Some(import.to_owned());
            if download.kind != SourceKind::Url && !download.settings.extra.contains_key("name") {
                download.name.clone_from(&facts.name);
            }
            let known = download.hashes;
            download.hashes = InfoHashes {
                v1: known.v1.or(facts.info_hash_v1),
                v2: known.v2.or(facts.info_hash_v2),
            };
        })
        .await
    }

    async fn record_imported(
        &self,
        number: u64,
        imported: &Imported,
        handle: &ImportHandle,
    ) -> Result<()> {
        let seeding = handle.seeding();
        let exports = self.by_number(number).is_some_and(|d| self.export_folder(&d).is_some());
        let now = self.now();
        self.transition(number, |download| {
            download.import = Some(imported.id.clone());
            download.progress.bytes = Some(download.progress.bytes.unwrap_or(imported.bytes));
            download.progress.stored = download.progress.bytes.unwrap_or(imported.bytes);
            let since_last_copy =
                imported.downloaded.saturating_sub(download.progress.downloaded_now);
            download.progress.downloaded += since_last_copy;
            download.finished_at.get_or_insert(now);
            download.tries = 0;
            if seeding.is_some() {
                download.seeding = Seeding::Active;
            }
            // A pause that came too late: the bytes are stored.
            download.state = if exports { State::Exporting } else { State::Done };
        })
        .await?;
        if let Some(seeding) = seeding {
            self.follow_seeding(number, seeding);
        }
        Ok(())
    }

    fn export_folder(&self, download: &Download) -> Option<std::path::PathBuf> {
        let category = download.settings.category.as_ref().and_then(|name| self.category(name));
        category.and_then(|category| category.export)
    }

    async fn export(&self, number: u64, stop: &CancellationToken) -> Result<()> {
        let Some(download) = self.by_number(number) else { return Err(stopped()) };
        let (Some(folder), Some(import)) = (self.export_folder(&download), &download.import) else {
            return Ok(());
        };
        let name = self.0.engine.import_identity(import).await?.name;
        let (options, progress) = (ExportOptions::default(), Box::new(|_, _| {}));
        let engine = &self.0.engine;
        let summary = engine.export(import, &folder, options, progress, stop.clone()).await?;
        if let Some(failure) = summary.failures.into_iter().next() {
            return Err(failure.with_context("export"));
        }
        let renamed = summary.renamed.first().and_then(|path| path.split('/').next());
        let root = folder.join(renamed.unwrap_or(&name));
        self.transition(number, |download| download.exported = Some(root.clone())).await
    }

    async fn record_done(&self, number: u64) -> Result<()> {
        let seeds = self.by_number(number).is_some_and(|download| self.seeds(&download));
        self.transition(number, |download| {
            download.state = State::Done;
            if seeds && download.seeding == Seeding::Off {
                download.seeding = Seeding::Waiting;
            }
        })
        .await
    }

    /// A stop leaves the state that was requested; one by the schedule, or by a closing engine, leaves the download in
    /// the queue.
    async fn record_failure(
        &self,
        number: u64,
        error: &Error,
        stop: &CancellationToken,
    ) -> Result<()> {
        let is_stop = stop.is_cancelled() || error.kind() == Kind::Cancelled;
        let (now, max_tries) = (self.now(), self.0.options.max_tries);
        self.transition(number, |download| {
            let runs =
                matches!(download.state, State::Starting | State::Downloading | State::Exporting);
            match (runs, is_stop) {
                (false, _) => {}
                (true, true) if download.state == State::Exporting => {}
                (true, true) => download.state = State::Queued,
                (true, false) => {
                    download.tries += 1;
                    download.state = after_failure(error, download.tries, max_tries, now);
                }
            }
        })
        .await
    }

    /// Changes a download by itself. One that was removed in the meantime is left out.
    pub(super) async fn transition(
        &self,
        number: u64,
        mut change: impl FnMut(&mut Download),
    ) -> Result<()> {
        let changes = self.0.changes.lock().await;
        let Some(known) = self.by_number(number) else { return Ok(()) };
        let mut download = Download::clone(&known);
        change(&mut download);
        if download != *known {
            self.commit_one(download).await?;
        }
        drop(changes);
        Ok(())
    }
}

fn stopped() -> Error {
    Error::new(Kind::Cancelled, "stopped")
}

/// Frees the slot when it is dropped.
struct Slot {
    queue: Queue,
    number: u64,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(import) = self.queue.by_number(self.number).and_then(|d| d.import.clone()) {
            self.queue.0.streams.remove(&import);
        }
        self.queue.0.runs.downloads.lock().remove(&self.number);
        self.queue.0.revision.send_modify(|_| {});
        self.queue.0.wake.notify_one();
    }
}
