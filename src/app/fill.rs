//! Fills an import from a torrent: connects session, [`ImportWriter`] and [`Download`], and records the result.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::Instrument as _;

use super::{
    FLUSH, SESSION_END,
    import::{Filled, Job, Opened},
    plan::{bytes_wanted, files_wanted},
    publish::{Files, SharedSink, publish},
    stream::EndOnDrop,
};
use crate::{
    catalog::{ImportRow, ImportState, LayoutKind},
    error::{Error, Kind, Result},
    events::{Event, EventSink, Imported, Started},
    storage::{DirectFiles, ImportWriter, Publishing, RangeSet, WriterEvent, WriterOptions},
    torrents::{
        Content, Download, Goal, Origin, Start, Torrent, Torrents, WriterEvents, metainfo::Metainfo,
    },
    units::ByteSize,
};

/// Timeout for the first listening address, which is shown to the user.
const LISTENING: Duration = Duration::from_secs(2);

impl Job<'_> {
    /// Fills an import. `torrent` is in the session already when its metadata came from the swarm.
    pub(super) async fn fill(
        &self,
        torrents: &Arc<Torrents>,
        torrent: Option<Torrent>,
        opened: Opened,
    ) -> Result<Imported> {
        let importing = self.app.importing();
        let torrent = match torrent {
            Some(torrent) => torrent,
            None => torrents.add(start(&opened)).await?,
        };
        let files = self.publisher(opened.import()).await?;
        let open = files.is_some() || opened.plan.missing().next().is_some();
        let state = if open { ImportState::Importing } else { ImportState::Imported };
        self.app.catalog.set_state(&opened.row.id, state).await?;
        let stored = opened.store.stored_bytes(&opened.plan.wanted);
        let bytes = opened.plan.wanted.len();
        started(torrents, &opened.row, &opened.meta, bytes, stored, &self.events).await;

        let (sink, writer_events) = torrent.writer_sink();
        let sink: SharedSink = sink.into();
        let direct = files.as_ref().map(Files::direct);
        let publishing = files.map(|files| publish(files, &sink));
        let writer = Arc::new(self.writer(opened.import(), sink, direct, publishing.clone()));
        let (store, cache) = (Arc::clone(&opened.store), Arc::clone(&self.app.cache));
        let content = Content::new(opened.meta.clone(), store, cache, Some(Arc::clone(&writer)));
        torrent.attach(content);
        let readers = self.open_stream(&opened)?;
        let demand = readers.as_ref().map(|readers| Arc::clone(&readers.0)).unwrap_or_default();
        let download = self.download(torrent, &opened, stored, writer_events);
        let download = download.with_readers(demand);
        let mut download = download.with_web_seeds(&opened.meta, &opened.metainfo);
        let span = tracing::info_span!("import", id = %opened.row.id);
        let filled = async {
            download.fill(&self.cancel).await?;
            match &publishing {
                Some(publishing) => download.publish(publishing, &self.cancel).await,
                None => Ok(()),
            }
        };
        if let Err(e) = filled.instrument(span).await {
            // In parallel: storage takes the verified bytes, and the session stops requests to peers and announces the
            // stop to trackers.
            let (error, _) = tokio::join!(
                self.leave_off(opened.import(), &writer, publishing, e),
                torrents.stop(SESSION_END)
            );
            return Err(error);
        }
        self.complete_metainfo(&opened, &download).await?;
        let traffic = (download.downloaded(), torrents.evicted());
        let imported = self.finish(opened.import(), traffic).await?;
        drop(importing);
        if self.request.seed {
            let seeded = (opened.row, download.into_torrent(), opened.store);
            let Job { events, cancel, .. } = self;
            self.app.seed_on(torrents, seeded, &self.request.seeding, events, cancel).await?;
        }
        Ok(imported)
    }

    /// Opens the import to players if requested. Their reads wait for missing bytes until the result is dropped.
    pub(super) fn open_stream(&self, opened: &Opened) -> Result<Option<EndOnDrop>> {
        let streams = self.request.streams.as_ref();
        streams
            .map(|streams| self.app.stream_filling(&opened.row, &opened.store, streams))
            .transpose()
    }

    /// The writer of an import. Ranges that become durable are reported to `publishing` as well.
    pub(super) fn writer(
        &self,
        opened: Filled<'_>,
        sink: SharedSink,
        direct: Option<DirectFiles>,
        publishing: Option<Arc<Publishing>>,
    ) -> ImportWriter {
        let options = WriterOptions {
            upload_concurrency: self.place.upload_concurrency,
            direct,
            ..WriterOptions::default()
        };
        let sink = move |event| {
            if let (WriterEvent::Durable(ranges), Some(publishing)) = (&event, &publishing) {
                publishing.durable(ranges);
            }
            sink(event);
        };
        ImportWriter::spawn(
            Arc::clone(opened.store),
            self.app.catalog.clone(),
            Arc::clone(&self.app.pressure),
            opened.wanted,
            options,
            Box::new(sink),
        )
    }

    fn download(
        &self,
        torrent: Torrent,
        opened: &Opened,
        stored: u64,
        writer: WriterEvents,
    ) -> Download {
        let goal = Goal {
            id: opened.row.id.to_string(),
            wanted: opened.plan.wanted.clone(),
            missing: opened.plan.missing().collect(),
            stored,
            lead: self.app.pool.budget() as u64 / 4,
            in_order: opened.row.layout == LayoutKind::Files
                && self.place.backend.capabilities().ordered,
        };
        let (store, events) = (Arc::clone(&opened.store), self.events.clone());
        Download::new(torrent, &opened.meta, store, goal, writer, events, self.request.timeout)
    }

    /// Adds the piece layers to the stored metadata. A v2 torrent from a magnet link starts without them; libtorrent
    /// has requested them from peers during the download.
    async fn complete_metainfo(&self, opened: &Opened, download: &Download) -> Result<()> {
        let pieces = opened.meta.pieces();
        let lacking = opened.meta.info_hash_v2.is_some()
            && (0..pieces).any(|p| opened.meta.piece_v2(p).is_none());
        if !lacking {
            return Ok(());
        }
        let whole = download
            .torrent()
            .torrent_file()
            .await
            .and_then(|bytes| Metainfo::parse(&bytes).map(|meta| (meta, bytes)));
        match whole {
            Ok((meta, bytes)) if meta.info_hash_v2 == opened.meta.info_hash_v2 => {
                self.app.catalog.set_metainfo(&opened.row.id, bytes).await
            }
            Ok(_) => Ok(()),
            Err(e) => {
                tracing::warn!(error = %e.report(), "the torrent's piece layers are not complete; peers are asked again when seeding");
                Ok(())
            }
        }
    }

    /// Ends an import early. Verified bytes that storage accepts within [`FLUSH`] are kept.
    /// Returns `error` with a hint.
    pub(super) async fn leave_off(
        &self,
        opened: Filled<'_>,
        writer: &ImportWriter,
        publishing: Option<Arc<Publishing>>,
        error: Error,
    ) -> Error {
        let refused = writer.is_refused() || publishing.as_ref().is_some_and(|p| p.is_refused());
        let error = stopped(writer, opened.wanted, error).await;
        if let Some(publishing) = publishing {
            publishing.stop().await;
        }
        let refused = refused || self.place.backend.refuses();
        self.app.leave_manifest_at_stop(opened.row, &self.place, refused).await;
        error
    }

    /// Records the import as complete and reports it, with the bytes fetched and the bytes evicted to stay in the
    /// memory budget.
    pub(super) async fn finish(
        &self,
        opened: Filled<'_>,
        (downloaded, evicted): (u64, u64),
    ) -> Result<Imported> {
        self.app.catalog.set_imported(&opened.row.id, opened.wanted.len()).await?;
        self.app.leave_manifest(opened.row, &self.place).await;
        let imported = Imported {
            id: opened.row.id.to_string(),
            name: opened.row.name.clone(),
            bytes: bytes_wanted(opened.files, opened.row.selected.as_deref()),
            seconds: self.begun.elapsed().as_secs_f64(),
            files: files_wanted(opened.files, opened.row.selected.as_deref()).count(),
            info_hash: opened.row.info_hash(),
            downloaded,
            evicted,
            peak_held: self.app.pool.peak() as u64,
            packed: opened.store.packed_bytes(),
        };
        self.events.send(Event::Imported(imported.clone()));
        Ok(imported)
    }
}

/// How the torrent of an open import enters the session.
pub(super) fn start(opened: &Opened) -> Start {
    Start {
        origin: Origin::File(opened.metainfo.clone()),
        have: opened.plan.have.clone(),
        wanted: opened.plan.wanted_pieces.clone(),
        private: opened.meta.private,
    }
}

/// Stops a writer early, and adds the progress to the error.
async fn stopped(writer: &ImportWriter, wanted: &RangeSet, error: Error) -> Error {
    let waiting = writer.waiting();
    if waiting > 0 && !writer.is_refused() {
        let (waiting, limit) = (ByteSize(waiting), FLUSH.as_secs());
        tracing::warn!("waiting up to {limit} s for storage to take {waiting}");
    }
    let left = writer.stop(FLUSH).await;
    if left > 0 {
        tracing::warn!("{} are not stored and will be fetched again", ByteSize(left));
    }
    let stored = writer.store().stored_bytes(wanted);
    let progress = format!("{} of {} are durable", ByteSize(stored), ByteSize(wanted.len()));
    match (error.kind(), error.hint_text()) {
        (Kind::Cancelled, _) => Error::new(Kind::Cancelled, format!("stopped; {progress}"))
            .hint("run the same command again to go on from there"),
        (_, Some(_)) => error,
        (_, None) => {
            error.hint(format!("{progress}; run the same command again to go on from there"))
        }
    }
}

/// Reports that an import has started, with the addresses that peers can reach. The system assigns them shortly after
/// the start of the session.
pub(super) async fn started(
    torrents: &Torrents,
    row: &ImportRow,
    meta: &Metainfo,
    bytes: u64,
    stored: u64,
    events: &EventSink,
) {
    let until = Instant::now() + LISTENING;
    while torrents.listening().is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    events.send(Event::Started(Started {
        id: row.id.to_string(),
        name: meta.name.clone(),
        bytes,
        stored,
        files: files_wanted(&meta.files, row.selected.as_deref()).count(),
        info_hash: row.info_hash(),
        listening: torrents.listening(),
        state: "importing",
    }));
}
