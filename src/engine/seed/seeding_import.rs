//! One import in the session while it is seeded.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use crate::{
    backends::StorageBackend,
    catalog::{Catalog, ImportId, ImportRow, ImportState, UsageCounts},
    config::TorrentOptions,
    engine::{Engine, plan::Plan},
    error::{Error, Kind, Result},
    events::{Activity, Event, EventSink, Progress, Started},
    memory::{Budget, Share},
    storage::{ImportStore, WindowCache},
    torrents::{
        Content, Origin, Start, Status, Torrent, TorrentEvent, TorrentSession, Trackers,
        metainfo::Metainfo,
    },
};

/// Interval for recording seeding time alone. At every recording (5 s), 10,000 idle imports would otherwise write
/// 10,000 catalog rows.
const IDLE_RECORD_INTERVAL: Duration = Duration::from_secs(60);

/// An import in the session, which peers can reach.
pub(super) struct SeedingImport {
    torrent: Torrent,
    /// Opened when a peer requests the first byte.
    store: Arc<OnceLock<Arc<ImportStore>>>,
    status: Status,
    trackers: Trackers,
    changed: bool,
    /// Usage that is already recorded.
    recorded: RecordedUsage,
}

#[derive(Clone, Copy)]
struct RecordedUsage {
    from_cache: u64,
    served: u64,
    at: Instant,
}

/// Result of reading the messages of the session.
pub(super) enum SessionState {
    Running,
    /// The session has ended.
    Ended,
    Failed(Error),
}

impl SeedingImport {
    /// For a torrent that is already in the session, with the store that its import is read from.
    pub(super) fn from_torrent(
        (torrent, status): (Torrent, Status),
        store: Arc<ImportStore>,
    ) -> Self {
        let from_cache = store.read_stats().cached_bytes();
        let recorded =
            RecordedUsage { from_cache, served: torrent.bytes_served(), at: Instant::now() };
        let (store, trackers) = (Arc::new(OnceLock::from(store)), Trackers::default());
        Self { torrent, store, status, trackers, changed: true, recorded }
    }

    /// Adds an import to the session. Also returns the total length of its files in bytes.
    pub(super) async fn add(
        engine: &Engine,
        session: (&Arc<TorrentSession>, &TorrentOptions),
        row: &ImportRow,
        events: &EventSink,
    ) -> Result<(Self, u64)> {
        let store = Arc::new(OnceLock::new());
        let complete = row.state == ImportState::Imported && row.selected.is_none();
        let torrent = match complete {
            true => add_complete(engine, session, row, &store).await?,
            false => add_partial(engine, session, row, &store).await?,
        };
        let (files, bytes) = engine.catalog.file_totals(&row.id).await?;
        let stored = match store.get() {
            Some(store) => store.durable_bytes(&store.layout().all_unpadded()),
            None => bytes,
        };
        events.send(Event::Started(Started {
            id: row.id.to_string(),
            name: row.name.clone(),
            bytes,
            stored,
            files,
            info_hash: row.info_hash(),
            listening: session.0.wait_listening().await,
            state: Activity::Seeding,
        }));
        let recorded = RecordedUsage { from_cache: 0, served: 0, at: Instant::now() };
        let (status, trackers) = (Status::default(), Trackers::default());
        Ok((Self { torrent, store, status, trackers, changed: true, recorded }, bytes))
    }

    /// Processes the messages of the session since the last call.
    pub(super) fn poll(&mut self, id: &ImportId, events: &EventSink) -> SessionState {
        let report = |text| events.send(Event::Notice { id: Some(id.to_string()), text });
        for error in self.torrent.take_unreadable() {
            events.unreadable(id.as_str(), &error);
        }
        for (text, is_all) in self.trackers.tick() {
            match is_all {
                true => events.send(Event::Warning { id: Some(id.to_string()), text }),
                false => report(text),
            }
        }
        loop {
            match self.torrent.try_next_event() {
                Ok(None) => return SessionState::Running,
                Ok(Some(TorrentEvent::Status(status))) => {
                    (self.status, self.changed) = (status, true)
                }
                Ok(Some(TorrentEvent::TrackerAnswered { tracker, peers })) => {
                    self.trackers.answered(tracker, &peers);
                }
                Ok(Some(TorrentEvent::TrackerFailed { tracker, text })) => {
                    let notice = format!("tracker {tracker}: {text}");
                    if !self.trackers.refused(tracker, text) {
                        report(notice);
                    }
                }
                Ok(Some(TorrentEvent::NonFatal(text))) => report(text),
                Ok(Some(TorrentEvent::Metadata)) => {}
                Ok(Some(TorrentEvent::Failed(text))) => {
                    return SessionState::Failed(Error::new(Kind::Internal, text));
                }
                Err(_) => return SessionState::Ended,
            }
        }
    }

    pub(super) fn has_changed(&self) -> bool {
        self.changed
    }

    pub(super) fn status(&self) -> &Status {
        &self.status
    }

    /// Whether at least one peer is connected.
    pub(super) fn has_peers(&self) -> bool {
        self.status.peers > 0
    }

    pub(super) fn progress(&mut self, id: &ImportId, bytes: u64, memory: &Budget) -> Progress {
        self.changed = false;
        Progress {
            id: id.to_string(),
            bytes,
            stored: bytes,
            uploaded: self.status.uploaded,
            upload_rate: self.status.upload_rate,
            peers: self.status.peers,
            seeds: self.status.seeds,
            held: memory.held() as u64,
            cached: memory.share(Share::Windows).used() as u64,
            state: if self.status.paused { Activity::Paused } else { Activity::Seeding },
            ..Progress::default()
        }
    }

    /// Usage that is not recorded yet, without gets and fetched bytes. While seeding is stopped,
    /// no seeding time is counted.
    pub(super) fn unrecorded(&self, stopped: bool) -> UsageCounts {
        let from_cache = self.store.get().map_or(0, |store| store.read_stats().cached_bytes());
        let recorded = &self.recorded;
        UsageCounts {
            from_cache: from_cache - recorded.from_cache,
            // libtorrent's own counter is one second late, and loses what it has not added yet when a peer disconnects.
            served: self.torrent.bytes_served() - recorded.served,
            seconds: if stopped { 0 } else { recorded.at.elapsed().as_secs() },
            ..UsageCounts::default()
        }
    }

    /// Returns the same as [`SeedingImport::unrecorded`] and marks it as recorded. Returns nothing if it would only be
    /// seeding time of less than [`IDLE_RECORD_INTERVAL`], unless this is the last call.
    pub(super) fn take_unrecorded(&mut self, stopped: bool, last: bool) -> UsageCounts {
        let usage = self.unrecorded(stopped);
        let is_only_time = UsageCounts { seconds: 0, ..usage }.is_zero();
        if is_only_time && !stopped && !last && usage.seconds < IDLE_RECORD_INTERVAL.as_secs() {
            return UsageCounts::default();
        }
        let RecordedUsage { from_cache, served, at } = self.recorded;
        // The fraction of a second is counted next time.
        let at = at + Duration::from_secs(at.elapsed().as_secs());
        self.recorded = RecordedUsage {
            from_cache: from_cache + usage.from_cache,
            served: served + usage.served,
            at,
        };
        usage
    }

    pub(super) fn pause(&self) {
        // The only error is that the session has ended: nothing is seeded then.
        let _ = self.torrent.pause();
    }

    pub(super) fn resume(&self) {
        let _ = self.torrent.resume();
    }
}

/// Adds a completely stored import. Its files and objects are loaded from the catalog when a
/// peer requests the first byte.
async fn add_complete(
    engine: &Engine,
    (torrents, options): (&Arc<TorrentSession>, &TorrentOptions),
    row: &ImportRow,
    opened_store: &Arc<OnceLock<Arc<ImportStore>>>,
) -> Result<Torrent> {
    let storage = engine.storage_of(row).await?;
    let metainfo = engine.catalog.metainfo(&row.id).await?;
    let torrent = torrents.add(Start::seeding(metainfo), options.clone()).await?;
    engine.opened_imports.lock().insert(row.id.clone());
    let unopened = Arc::new(UnopenedImport {
        row: row.clone(),
        catalog: engine.catalog.clone(),
        backend: Arc::clone(&storage.backend),
        cache: Arc::clone(&engine.cache),
        store: Arc::clone(opened_store),
    });
    torrent.attach_later(Box::new(move || Box::pin(Arc::clone(&unopened).load())));
    Ok(torrent)
}

/// A complete import that no peer has requested yet.
struct UnopenedImport {
    row: ImportRow,
    catalog: Catalog,
    backend: Arc<dyn StorageBackend>,
    cache: Arc<WindowCache>,
    /// Set when the import is opened.
    store: Arc<OnceLock<Arc<ImportStore>>>,
}

impl UnopenedImport {
    async fn load(self: Arc<Self>) -> Result<Content> {
        let opened = ImportStore::open(&self.catalog, &self.row, Arc::clone(&self.backend)).await?;
        let store = Arc::clone(self.store.get_or_init(|| opened));
        let metainfo = self.catalog.metainfo(&self.row.id).await?;
        let cache = Arc::clone(&self.cache);
        // The metadata of a large torrent takes milliseconds to parse.
        let parse = move || Ok(Content::new(Metainfo::parse(&metainfo)?, store, cache, None));
        let panicked =
            |e| Error::new(Kind::Internal, "loading the torrent's content panicked").because(e);
        tokio::task::spawn_blocking(parse).await.map_err(panicked)?
    }
}

/// Adds a partly stored import. Pieces are offered to peers only if they are complete, and their
/// files uploaded to the end.
async fn add_partial(
    engine: &Engine,
    (torrents, options): (&Arc<TorrentSession>, &TorrentOptions),
    row: &ImportRow,
    opened_store: &Arc<OnceLock<Arc<ImportStore>>>,
) -> Result<Torrent> {
    let storage = engine.storage_of(row).await?;
    let store = engine.open_store(row, &storage).await?;
    let store = Arc::clone(opened_store.get_or_init(|| store));
    let (metainfo, meta) = engine.metainfo_of(row).await?;
    let mut have = Plan::new(&meta, row.selected.as_deref(), &store).have;
    for (piece, have) in (0u32..).zip(&mut have) {
        *have &= store.is_in_finished_objects(meta.piece_range(piece));
    }
    // Only stored pieces are wanted: seeding fetches nothing.
    let start = Start { origin: Origin::File(metainfo), wanted: have.clone(), have };
    let torrent = torrents.add(start, options.clone()).await?;
    torrent.attach(Content::new(meta, store, Arc::clone(&engine.cache), None));
    Ok(torrent)
}
