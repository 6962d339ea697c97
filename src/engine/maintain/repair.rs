//! `verify --repair`: fetches bad pieces again from the swarm, or bad files from their URL.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use crate::{
    catalog::ImportRow,
    config::SeedOptions,
    engine::{
        BadPiece, DownloadOptions, Engine, ImportRequest, RepairRequest, SESSION_STOP_TIMEOUT,
        import::{ImportJob, OpenTorrentImport},
        plan::Plan,
    },
    error::Result,
    events::{EventSink, Imported},
    storage::{files::sequential_upload::check_partial_uploads, sweep::delete_freed},
    torrents::TorrentSession,
};

impl Engine {
    /// Discards the stored bytes of the `bad` pieces, and fetches what the import is missing then. Objects that become
    /// unused are deleted once the new bytes are durable. If stopped before that, it is resumed like any import.
    ///
    /// # Errors
    /// `NotFound`; any error of [`Engine::import`].
    pub async fn repair(
        &self,
        import_ref: &str,
        bad: &[BadPiece],
        request: RepairRequest,
        events: EventSink,
        cancel: CancellationToken,
    ) -> Result<Imported> {
        let started_at = Instant::now();
        let row = self.catalog.find(import_ref).await?;
        if !row.is_torrent() {
            return self.repair_files(row, bad, request, events, cancel).await;
        }
        let storage = self.storage_of(&row).await?;
        let (metainfo, meta) = self.metainfo_of(&row).await?;
        let ranges = bad.iter().map(|bad| meta.piece_range(bad.piece)).collect();
        let freed = self.catalog.punch_holes(&row.id, ranges).await?;
        // The cache may hold the bad bytes.
        self.cache.forget(&row.id);
        let store = self.open_store(&row, &storage).await?;
        check_partial_uploads(&self.catalog, &store).await?;
        let plan = Plan::new(&meta, row.selected.as_deref(), &store);
        let import = request.into_import_request(&row);
        let backend = Arc::clone(&storage.backend);
        let id = OnceLock::from(row.id.to_string());
        let job =
            ImportJob { engine: self, request: &import, storage, events, cancel, started_at, id };
        let opened = OpenTorrentImport { row: row.clone(), metainfo, meta, store, plan };
        let torrents =
            TorrentSession::start(&import.network, Arc::clone(&self.pressure), self.pool.clone())?;
        let done = job.fill_from_torrent(&torrents, None, opened).await;
        torrents.stop(SESSION_STOP_TIMEOUT).await;
        let imported = done.inspect_err(|e| job.report_failure(e))?;
        if let Err(e) = delete_freed(&self.catalog, &backend, &row.id, &freed).await {
            tracing::warn!("import {}: {}", row.id, e.report());
        }
        Ok(imported)
    }
}

impl RepairRequest {
    /// The request that fetches the missing bytes of `row`.
    pub(in crate::engine) fn into_import_request(self, row: &ImportRow) -> ImportRequest {
        ImportRequest {
            source: row.source.clone(),
            storage: row.storage.clone(),
            select: None,
            layout: row.layout,
            network: self.network,
            seed: false,
            seeding: SeedOptions::default(),
            timeout: self.timeout,
            streams: None,
            download: DownloadOptions::default(),
        }
    }
}
