//! `verify --repair`: fetches bad pieces again from the swarm, or bad files from their URL.

use std::{sync::Arc, time::Instant};

use tokio_util::sync::CancellationToken;

use super::{
    App, BadPiece, FetchOrder, ImportRequest, RepairRequest, SESSION_END,
    import::{Job, Opened},
    plan::Plan,
};
use crate::{
    catalog::ImportRow,
    config::SeedOptions,
    error::Result,
    events::{EventSink, Imported},
    storage::{stream::resume, sweep::delete_freed},
    torrents::Torrents,
};

impl App {
    /// Forgets the stored bytes of the `bad` pieces, and fetches what the import is missing then. Objects that become
    /// unused are deleted once the new bytes are durable. If stopped before that, it is resumed like any import.
    ///
    /// # Errors
    /// `NotFound`; any error of [`App::import`].
    pub async fn repair(
        &self,
        needle: &str,
        bad: &[BadPiece],
        request: RepairRequest,
        events: EventSink,
        cancel: CancellationToken,
    ) -> Result<Imported> {
        let begun = Instant::now();
        let row = self.catalog.find(needle)?;
        if !row.is_torrent() {
            return self.repair_files(row, bad, request, events, cancel).await;
        }
        let place = self.place_of(&row).await?;
        let (metainfo, meta) = self.metainfo_of(&row)?;
        let ranges = bad.iter().map(|bad| meta.piece_range(bad.piece)).collect();
        let freed = self.catalog.forget_ranges(&row.id, ranges).await?;
        // The cache may hold the bad bytes.
        self.cache.forget(&row.id);
        let store = self.open_store(&row, &place)?;
        resume(&self.catalog, &store).await?;
        let plan = Plan::new(&meta, row.selected.as_deref(), &store);
        let import = request.import(&row);
        let backend = Arc::clone(&place.backend);
        let job = Job { app: self, request: &import, place, events, cancel, begun };
        let opened = Opened { row: row.clone(), metainfo, meta, store, plan };
        let torrents =
            Torrents::start(&import.network, Arc::clone(&self.pressure), self.pool.clone())?;
        let done = job.fill(&torrents, None, opened).await;
        torrents.stop(SESSION_END).await;
        let imported = done?;
        if let Err(e) = delete_freed(&self.catalog, &backend, &row.id, &freed).await {
            tracing::warn!("import {}: {}", row.id, e.report());
        }
        Ok(imported)
    }
}

impl RepairRequest {
    /// The request that fetches the missing bytes of `row`.
    pub(super) fn import(self, row: &ImportRow) -> ImportRequest {
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
            fetch: FetchOrder::default(),
        }
    }
}
