//! Fills an import from a torrent: connects session, [`ImportWriter`] and [`Download`], and records the result.

use std::{collections::HashMap, convert::Infallible, future::pending, ops::Range, sync::Arc};

use tokio::sync::watch;
use tracing::Instrument as _;

use super::publish::{SharedSink, UnpublishedFiles, spawn_publishing};
use super::{ImportJob, ImportView, OpenTorrentImport};
use crate::{
    catalog::{ImportRow, ImportState, LayoutKind},
    content_root::Root,
    engine::{
        FLUSH_TIMEOUT, ImportSettings,
        plan::{selected_bytes, selected_files},
        serve::stream::DeadlinesGuard,
    },
    error::{Error, Kind, Result},
    events::{Activity, Event, EventSink, Imported, Started},
    hints::{Operation, hint},
    memory::Mark,
    storage::{
        BackgroundPublisher, DirectFiles, ImportWriter, RangeSet, WriterEvent, WriterOptions,
    },
    torrents::{
        Content, Download, DownloadGoal, Origin, Start, Torrent, TorrentControl, TorrentSession,
        WriterEvents, metainfo::Metainfo,
    },
    units::ByteSize,
};

impl ImportJob {
    /// Fills an import. `torrent` is in the session already when its metadata came from the swarm.
    pub(in crate::engine) async fn fill_from_torrent(
        &self,
        torrents: &Arc<TorrentSession>,
        torrent: Option<Torrent>,
        opened: OpenTorrentImport,
    ) -> Result<Imported> {
        let guard = self.engine.import_guard();
        let torrent = match torrent {
            Some(torrent) => torrent,
            None => {
                let options = self.request.torrent.clone();
                torrents.add(start_options(&opened), options).await?
            }
        };
        let files = self.publisher(opened.view()).await?;
        let incomplete = files.is_some() || opened.plan.missing().next().is_some();
        let state = if incomplete { ImportState::Importing } else { ImportState::Imported };
        self.catalog().set_state(&opened.row.id, state).await?;
        let stored = opened.store.durable_bytes(&opened.plan.wanted);
        let bytes = opened.plan.wanted.len();
        report_started(torrents, &opened.row, &opened.meta, bytes, stored, &self.events).await;

        let (sink, writer_events) = torrent.writer_sink();
        let sink: SharedSink = sink.into();
        let direct = files.as_ref().map(UnpublishedFiles::direct);
        let publishing = files.map(|files| spawn_publishing(files, &sink));
        let roots = known_roots(&opened);
        let writer = self.writer(opened.view(), roots, sink, direct, publishing.clone());
        let writer = Arc::new(writer);
        let (store, cache) = (Arc::clone(&opened.store), Arc::clone(&self.engine.cache));
        let content = Content::new(opened.meta.clone(), store, cache, Some(Arc::clone(&writer)));
        torrent.attach(content);
        let readers = self.open_stream(opened.view()).await?;
        let deadlines = readers.as_ref().map(|readers| Arc::clone(&readers.0)).unwrap_or_default();
        let download = self.download(torrent, &opened, stored, writer_events);
        let download = download.with_readers(deadlines);
        let mut download = download.with_web_seeds(&opened.meta, &opened.metainfo);
        let span = tracing::info_span!("import", id = %opened.row.id);
        let settings = apply_settings(download.torrent().control(), self.running.settings());
        let filled = async {
            download.fill(&self.cancel).await?;
            match &publishing {
                Some(publishing) => download.publish(publishing, &self.cancel).await,
                None => Ok(()),
            }
        };
        let filled = async {
            tokio::select! {
                filled = filled => filled,
                never = settings => match never {},
            }
        };
        if let Err(e) = filled.instrument(span).await {
            // The torrent leaves the session first: no peer sends more while storage takes the verified bytes.
            drop(download);
            return Err(self.interrupt(opened.view(), &writer, publishing, e).await);
        }
        self.complete_metainfo(&opened, &download).await?;
        let bytes = (download.downloaded(), torrents.evicted());
        let imported = self.finish(opened.view(), bytes).await?;
        drop(guard);
        if self.request.seed {
            let ready = (download.into_torrent(), opened.store);
            match self.engine.seed_after_import(self, opened.row, ready) {
                Ok(seeding) => self.running.set_seeding(seeding),
                // The engine closes. The import is complete.
                Err(e) if e.kind() == Kind::Cancelled => {}
                Err(e) => return Err(e),
            }
        }
        Ok(imported)
    }

    /// Opens the import to players if requested. Their reads wait for missing bytes until the result is dropped.
    pub(in crate::engine) async fn open_stream(
        &self,
        import: ImportView<'_>,
    ) -> Result<Option<DeadlinesGuard>> {
        let Some(streams) = &self.request.streams else { return Ok(None) };
        self.engine.stream_during_import(import.row, import.store, streams).await.map(Some)
    }

    /// The writer of an import. Ranges that become durable are reported to `publishing` as well.
    pub(in crate::engine) fn writer(
        &self,
        import: ImportView<'_>,
        known_roots: HashMap<u64, Root>,
        sink: SharedSink,
        direct: Option<DirectFiles>,
        publishing: Option<Arc<BackgroundPublisher>>,
    ) -> ImportWriter {
        let options = WriterOptions {
            upload_concurrency: self.storage.upload_concurrency,
            direct,
            known_roots,
            ..WriterOptions::default()
        };
        let sink = move |event| {
            if let (WriterEvent::Durable(ranges), Some(publishing)) = (&event, &publishing) {
                publishing.add_durable(ranges);
            }
            sink(event);
        };
        ImportWriter::spawn(
            Arc::clone(import.store),
            self.catalog(),
            Arc::clone(&self.engine.pressure),
            import.wanted,
            options,
            Box::new(sink),
        )
    }

    fn download(
        &self,
        torrent: Torrent,
        opened: &OpenTorrentImport,
        stored: u64,
        writer: WriterEvents,
    ) -> Download {
        let goal = DownloadGoal {
            id: opened.row.id.to_string(),
            wanted: opened.plan.wanted.clone(),
            missing: opened.plan.missing().collect(),
            stored,
            open_bytes: self.engine.pool.mark(Mark::OpenChunks) as u64,
            in_order: opened.row.layout == LayoutKind::Files
                && self.storage.backend.capabilities().ordered_parts,
        };
        let (store, events) = (Arc::clone(&opened.store), self.events.clone());
        Download::new(torrent, &opened.meta, store, goal, writer, events, self.request.timeout)
    }

    /// Adds the piece layers to the stored metadata. A v2 torrent from a magnet link starts without them; libtorrent
    /// has requested them from peers during the download.
    async fn complete_metainfo(
        &self,
        opened: &OpenTorrentImport,
        download: &Download,
    ) -> Result<()> {
        let pieces = opened.meta.pieces();
        let lacks_layers = opened.meta.info_hash_v2.is_some()
            && (0..pieces).any(|p| opened.meta.piece_v2(p).is_none());
        if !lacks_layers {
            return Ok(());
        }
        let complete = download
            .torrent()
            .torrent_file()
            .await
            .and_then(|bytes| Metainfo::parse(&bytes).map(|meta| (meta, bytes)));
        match complete {
            Ok((meta, bytes)) if meta.info_hash_v2 == opened.meta.info_hash_v2 => {
                self.catalog().set_metainfo(&opened.row.id, bytes).await
            }
            Ok(_) => Ok(()),
            Err(e) => {
                tracing::warn!(error = %e.report(), "the torrent's piece layers are incomplete; they are requested from peers again when seeding");
                Ok(())
            }
        }
    }

    /// Ends an import early. Verified bytes that storage accepts within [`FLUSH_TIMEOUT`] are kept.
    /// Returns `error` with a hint.
    pub(in crate::engine) async fn interrupt(
        &self,
        import: ImportView<'_>,
        writer: &ImportWriter,
        publishing: Option<Arc<BackgroundPublisher>>,
        error: Error,
    ) -> Error {
        let refused = writer.is_refused() || publishing.as_ref().is_some_and(|p| p.is_refused());
        let error = stop_writer(writer, import.wanted, error).await;
        if let Some(publishing) = publishing {
            publishing.stop().await;
        }
        let refused = refused || self.storage.backend.is_retrying();
        let catalog = self.catalog();
        // The import may have grown.
        let row = catalog.get(&import.row.id).await;
        let row = row.as_ref().unwrap_or(import.row);
        self.engine.update_manifest_at_stop(&catalog, row, &self.storage, refused).await;
        error
    }

    /// Records the import as complete and reports it, with the bytes fetched and the bytes evicted to stay in the
    /// memory budget.
    pub(in crate::engine) async fn finish(
        &self,
        import: ImportView<'_>,
        (downloaded, evicted): (u64, u64),
    ) -> Result<Imported> {
        let catalog = self.catalog();
        catalog.set_imported(&import.row.id, import.wanted.len()).await?;
        self.engine.update_manifest(&catalog, import.row, &self.storage).await;
        let imported = Imported {
            id: import.row.id.to_string(),
            name: import.row.name.clone(),
            bytes: selected_bytes(import.files, import.row.selected.as_deref()),
            seconds: self.started_at.elapsed().as_secs_f64(),
            files: selected_files(import.files, import.row.selected.as_deref()).count(),
            info_hash: import.row.info_hash(),
            downloaded,
            evicted,
            peak_held: self.engine.memory.peak() as u64,
            packed: import.store.packed_bytes(),
        };
        self.events.send(Event::Imported(imported.clone()));
        Ok(imported)
    }
}

/// How the torrent of an open import enters the session.
pub(super) fn start_options(opened: &OpenTorrentImport) -> Start {
    Start {
        origin: Origin::File(opened.metainfo.clone()),
        have: opened.plan.have.clone(),
        wanted: opened.plan.wanted_pieces.clone(),
    }
}

/// Stops a writer early, and adds the progress to the error.
async fn stop_writer(writer: &ImportWriter, wanted: &RangeSet, error: Error) -> Error {
    let waiting = writer.pending_bytes();
    if waiting > 0 && !writer.is_refused() {
        let (waiting, limit) = (ByteSize(waiting), FLUSH_TIMEOUT.as_secs());
        tracing::warn!("waiting up to {limit} s for storage to take {waiting}");
    }
    let left = writer.stop(FLUSH_TIMEOUT).await;
    if left > 0 {
        tracing::warn!("{} are not stored and will be fetched again", ByteSize(left));
    }
    let stored = writer.store().durable_bytes(wanted);
    let progress = format!("{} of {} are durable", ByteSize(stored), ByteSize(wanted.len()));
    match (error.kind(), error.typed_hint()) {
        (Kind::Cancelled, _) => Error::new(Kind::Cancelled, format!("stopped; {progress}"))
            .hint(hint!["run ", Operation::Same, " again to resume"]),
        (_, Some(_)) => error,
        (_, None) => error.hint(hint![progress, "; run ", Operation::Same, " again to resume"]),
    }
}

/// Applies the settings of an import to its torrent, now and whenever they change.
async fn apply_settings(
    torrent: TorrentControl,
    mut settings: watch::Receiver<ImportSettings>,
) -> Infallible {
    let mut applied = ImportSettings::default();
    loop {
        let wanted = *settings.borrow_and_update();
        let limits = |settings: &ImportSettings| (settings.download_limit, settings.upload_limit);
        let mut result = Ok(());
        if limits(&wanted) != limits(&applied) {
            result = torrent.set_limits(wanted.download_limit, wanted.upload_limit);
        }
        if let Some(sequential) =
            wanted.sequential.filter(|_| wanted.sequential != applied.sequential)
        {
            result = result.and_then(|()| torrent.set_sequential(sequential));
        }
        if let Err(e) = result {
            tracing::warn!(error = %e.report(), "cannot change the settings of a torrent");
        }
        applied = wanted;
        if settings.changed().await.is_err() {
            // The import has ended.
            return pending().await;
        }
    }
}

/// The content roots of chunks, as far as the torrent tells them.
fn known_roots(opened: &OpenTorrentImport) -> HashMap<u64, Root> {
    let root = |(chunk, width): (&Range<u64>, u64)| {
        Some((chunk.start, opened.meta.content_root(chunk, width)?))
    };
    opened.store.layout().rooted_chunks().filter_map(root).collect()
}

/// Reports that an import has started, with the addresses that peers can reach.
pub(super) async fn report_started(
    torrents: &TorrentSession,
    row: &ImportRow,
    meta: &Metainfo,
    bytes: u64,
    stored: u64,
    events: &EventSink,
) {
    let listening = torrents.wait_listening().await;
    events.send(Event::Started(Started {
        id: row.id.to_string(),
        name: meta.name.clone(),
        bytes,
        stored,
        files: selected_files(&meta.files, row.selected.as_deref()).count(),
        info_hash: row.info_hash(),
        listening,
        state: Activity::Importing,
    }));
}
