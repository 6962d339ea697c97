//! `verify --repair`: fetches bad pieces again from the swarm, or bad files from their URL.

use std::{sync::Arc, time::Instant};

use tokio_util::sync::CancellationToken;

use crate::{
    catalog::{ImportRow, ObjectRow},
    config::SeedOptions,
    engine::{
        BadPiece, DownloadOptions, Engine, ImportHandle, ImportRequest, RepairRequest,
        import::{ImportJob, ImportTask, OpenTorrentImport, from_url::selection_spec},
        plan::Plan,
        running::{Attempt, ClaimKey, Purpose},
    },
    error::Result,
    events::Imported,
    storage::{files::sequential_upload::check_partial_uploads, sweep::delete_freed},
};

/// A running repair.
struct Repair {
    task: ImportTask,
    row: ImportRow,
    bad: Vec<BadPiece>,
    /// The objects that lost bytes, once the bad bytes are discarded.
    freed: Option<Vec<ObjectRow>>,
}

impl Engine {
    /// Discards the stored bytes of the `bad` pieces, and fetches what the import is missing then. In an import of a
    /// URL, [`BadPiece::piece`] is the index of a file. Objects that become unused are deleted once the new bytes are
    /// durable. If stopped before that, it is resumed like any import.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` when the import is running or being seeded; any error of [`Engine::start_import`].
    pub async fn start_repair(
        &self,
        import_ref: &str,
        bad: Vec<BadPiece>,
        request: RepairRequest,
    ) -> Result<ImportHandle> {
        let started_at = Instant::now();
        self.check_writable()?;
        let row = self.catalog.find(import_ref).await?;
        let storage = self.storage_of(&row).await?;
        let claim = self.running.claim_import(Purpose::Repair, &row.id).await?;
        let torrent = ClaimKey::of_torrent(row.info_hash_v1, row.info_hash_v2, &row.storage);
        claim.add(torrent).await?;
        let mut request = request.into_import_request(&row);
        request.download.fetch.ipfs = self.config.ipfs.clone();
        let task = ImportTask::new(self, request, storage, claim, started_at);
        task.running.set_id(row.id.as_str());
        let running = Arc::clone(&task.running);
        Ok(self.spawn_import(running, Repair { task, row, bad, freed: None }))
    }
}

impl Attempt for Repair {
    async fn run(&mut self, cancel: CancellationToken) -> Result<Imported> {
        if self.freed.is_none() {
            self.freed = Some(self.discard_bad().await?);
        }
        let job = self.task.job(cancel);
        let imported = match self.row.is_torrent() {
            true => self.fill(&job).await?,
            false => job.run().await?,
        };
        let (catalog, backend) = (&self.task.catalog(), &self.task.storage.backend);
        let freed = self.freed.as_deref().unwrap_or_default();
        if let Err(e) = delete_freed(catalog, backend, &self.row.id, freed).await {
            tracing::warn!("import {}: {}", self.row.id, e.report());
        }
        Ok(imported)
    }
}

impl Repair {
    async fn discard_bad(&self) -> Result<Vec<ObjectRow>> {
        let engine = &self.task.engine;
        let ranges = if self.row.is_torrent() {
            let (_, meta) = engine.metainfo_of(&self.row).await?;
            self.bad.iter().map(|bad| meta.piece_range(bad.piece)).collect()
        } else {
            let files = engine.files_of(&self.row).await?;
            let file = |bad: &BadPiece| files.get(bad.piece as usize).map(|f| f.range.clone());
            self.bad.iter().filter_map(file).collect()
        };
        let freed = self.task.catalog().punch_holes(&self.row.id, ranges).await?;
        // The cache may hold the bad bytes.
        engine.cache.forget(&self.row.id);
        Ok(freed)
    }

    /// Fetches the missing pieces of a torrent.
    async fn fill(&self, job: &ImportJob) -> Result<Imported> {
        let engine = &self.task.engine;
        let (metainfo, meta) = engine.metainfo_of(&self.row).await?;
        let store = engine.open_store(&self.row, &self.task.storage).await?;
        check_partial_uploads(&self.task.catalog(), &store).await?;
        let plan = Plan::new(&meta, self.row.selected.as_deref(), &store);
        let opened = OpenTorrentImport { row: self.row.clone(), metainfo, meta, store, plan };
        job.fill_from_torrent(&engine.session.get()?, None, opened).await
    }
}

impl RepairRequest {
    /// The request that fetches the missing bytes of `row`.
    pub(in crate::engine) fn into_import_request(self, row: &ImportRow) -> ImportRequest {
        // A torrent is filled by its row; only an import from a URL selects its files again.
        let select = row.selected.as_deref().filter(|_| !row.is_torrent()).map(selection_spec);
        ImportRequest {
            source: row.source.clone(),
            torrent_file: None,
            storage: row.storage.clone(),
            select,
            layout: row.layout,
            torrent: self.torrent,
            seed: false,
            seeding: SeedOptions::default(),
            timeout: self.timeout,
            streams: None,
            download: DownloadOptions::default(),
        }
    }
}
