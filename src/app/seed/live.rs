//! One import in the session while it is seeded.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use crate::{
    app::{App, plan::Plan},
    catalog::{ImportId, ImportRow, ImportState, Traffic},
    error::{Error, Kind, Result},
    events::{Event, EventSink, Progress, Started},
    storage::ImportStore,
    torrents::{
        Content, Notice, Origin, Start, Status, Torrent, Torrents, Trackers, metainfo::Metainfo,
    },
};

/// Timeout for the first listening address, which is shown to the user.
const LISTENING: Duration = Duration::from_secs(2);
/// Interval for recording seeding time alone. At every recording (5 s), 10,000 idle imports would otherwise write
/// 10,000 catalog rows.
const TIME: Duration = Duration::from_secs(60);

/// An import in the session, which peers can reach.
pub(super) struct Live {
    torrent: Torrent,
    /// Opened when a peer requests the first byte.
    store: Arc<OnceLock<Arc<ImportStore>>>,
    status: Status,
    trackers: Trackers,
    changed: bool,
    /// Usage that is already recorded.
    booked: Booked,
}

#[derive(Clone, Copy)]
struct Booked {
    kept: u64,
    served: u64,
    at: Instant,
}

/// Result of reading the messages of the session.
pub(super) enum Heard {
    Nothing,
    /// The session has ended.
    Ended,
    Failed(Error),
}

impl Live {
    /// For a torrent that is already in the session, with the store that its import is read from.
    pub(super) fn of((torrent, status): (Torrent, Status), store: Arc<ImportStore>) -> Self {
        let kept = store.traffic().kept();
        let booked = Booked { kept, served: torrent.given(), at: Instant::now() };
        let (store, trackers) = (Arc::new(OnceLock::from(store)), Trackers::default());
        Self { torrent, store, status, trackers, changed: true, booked }
    }

    /// Adds an import to the session. Also returns the total length of its files in bytes.
    pub(super) async fn begin(
        app: &App,
        torrents: &Arc<Torrents>,
        row: &ImportRow,
        events: &EventSink,
    ) -> Result<(Self, u64)> {
        let store = Arc::new(OnceLock::new());
        let whole = row.state == ImportState::Imported && row.selected.is_none();
        let torrent = match whole {
            true => add_whole(app, torrents, row, &store).await?,
            false => add_part(app, torrents, row, &store).await?,
        };
        let (files, bytes) = app.catalog.files_in_all(&row.id)?;
        let stored = match store.get() {
            Some(store) => store.stored_bytes(&store.layout().all_stored()),
            None => bytes,
        };
        events.send(Event::Started(Started {
            id: row.id.to_string(),
            name: row.name.clone(),
            bytes,
            stored,
            files,
            info_hash: row.info_hash(),
            listening: listening(torrents).await,
            state: "seeding",
        }));
        let booked = Booked { kept: 0, served: 0, at: Instant::now() };
        let (status, trackers) = (Status::default(), Trackers::default());
        Ok((Self { torrent, store, status, trackers, changed: true, booked }, bytes))
    }

    /// Processes the messages of the session since the last call.
    pub(super) fn look(&mut self, id: &ImportId, events: &EventSink) -> Heard {
        let tell = |text| events.send(Event::Notice { id: Some(id.to_string()), text });
        self.torrent.take_unreadable().into_iter().for_each(tell);
        for (text, is_all) in self.trackers.tick() {
            match is_all {
                true => events.send(Event::Warning { id: Some(id.to_string()), text }),
                false => tell(text),
            }
        }
        loop {
            match self.torrent.try_notice() {
                Ok(None) => return Heard::Nothing,
                Ok(Some(Notice::Status(status))) => (self.status, self.changed) = (status, true),
                Ok(Some(Notice::TrackerAnswered { tracker, peers })) => {
                    self.trackers.answered(tracker, &peers);
                }
                Ok(Some(Notice::TrackerFailed { tracker, text })) => {
                    let told = format!("tracker {tracker}: {text}");
                    if !self.trackers.refused(tracker, text) {
                        tell(told);
                    }
                }
                Ok(Some(Notice::Trouble(text))) => tell(text),
                Ok(Some(Notice::Metadata(_))) => {}
                Ok(Some(Notice::Failed(text))) => {
                    return Heard::Failed(Error::new(Kind::Internal, text));
                }
                Err(_) => return Heard::Ended,
            }
        }
    }

    pub(super) fn has_changed(&self) -> bool {
        self.changed
    }

    /// Whether at least one peer is connected.
    pub(super) fn is_busy(&self) -> bool {
        self.status.peers > 0
    }

    pub(super) fn progress(&mut self, id: &ImportId, bytes: u64, held: u64) -> Progress {
        self.changed = false;
        Progress {
            id: id.to_string(),
            bytes,
            stored: bytes,
            uploaded: self.status.uploaded,
            upload_rate: self.status.upload_rate,
            peers: self.status.peers,
            seeds: self.status.seeds,
            held,
            state: if self.status.paused { "paused" } else { "seeding" },
            ..Progress::default()
        }
    }

    /// Usage that is not recorded yet, without gets and fetched bytes. While seeding is stopped,
    /// no seeding time is counted.
    pub(super) fn pending(&self, stopped: bool) -> Traffic {
        let kept = self.store.get().map_or(0, |store| store.traffic().kept());
        let booked = &self.booked;
        Traffic {
            kept: kept - booked.kept,
            // libtorrent's own counter is one second late, and loses what it has not added yet when a peer disconnects.
            served: self.torrent.given() - booked.served,
            seconds: if stopped { 0 } else { booked.at.elapsed().as_secs() },
            ..Traffic::default()
        }
    }

    /// Returns the same as [`Live::pending`] and marks it as recorded. Returns nothing if it would only be seeding time
    /// of less than [`TIME`], unless this is the last call.
    pub(super) fn unbooked(&mut self, stopped: bool, last: bool) -> Traffic {
        let traffic = self.pending(stopped);
        let is_time = Traffic { seconds: 0, ..traffic }.is_zero();
        if is_time && !stopped && !last && traffic.seconds < TIME.as_secs() {
            return Traffic::default();
        }
        let Booked { kept, served, at } = self.booked;
        // The fraction of a second is counted next time.
        let at = at + Duration::from_secs(at.elapsed().as_secs());
        self.booked = Booked { kept: kept + traffic.kept, served: served + traffic.served, at };
        traffic
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
async fn add_whole(
    app: &App,
    torrents: &Arc<Torrents>,
    row: &ImportRow,
    open: &Arc<OnceLock<Arc<ImportStore>>>,
) -> Result<Torrent> {
    let place = app.place_of(row).await?;
    let torrent = torrents.add(Start::seeding(app.catalog.metainfo(&row.id)?)).await?;
    app.opened.lock().insert(row.id.clone());
    let (catalog, cache) = (app.catalog.clone(), Arc::clone(&app.cache));
    let (row, open) = (row.clone(), Arc::clone(open));
    torrent.attach_later(Box::new(move || {
        let store = ImportStore::open(&catalog, &row, Arc::clone(&place.backend))?;
        let meta = Metainfo::parse(&catalog.metainfo(&row.id)?)?;
        let store = Arc::clone(open.get_or_init(|| store));
        Ok(Content::new(meta, store, Arc::clone(&cache), None))
    }));
    Ok(torrent)
}

/// Adds a partly stored import. Pieces are offered to peers only if they are complete, and their
/// files uploaded to the end.
async fn add_part(
    app: &App,
    torrents: &Arc<Torrents>,
    row: &ImportRow,
    open: &Arc<OnceLock<Arc<ImportStore>>>,
) -> Result<Torrent> {
    let place = app.place_of(row).await?;
    let store = app.open_store(row, &place)?;
    let store = Arc::clone(open.get_or_init(|| store));
    let (metainfo, meta) = app.metainfo_of(row)?;
    let mut have = Plan::new(&meta, row.selected.as_deref(), &store).have;
    for (piece, have) in (0u32..).zip(&mut have) {
        *have &= store.readable(meta.piece_range(piece));
    }
    // Only stored pieces are wanted: seeding fetches nothing.
    let start =
        Start { origin: Origin::File(metainfo), wanted: have.clone(), have, private: meta.private };
    let torrent = torrents.add(start).await?;
    torrent.attach(Content::new(meta, store, Arc::clone(&app.cache), None));
    Ok(torrent)
}

/// The addresses that peers can reach. The system assigns them shortly after the start of the session.
async fn listening(torrents: &Torrents) -> Vec<String> {
    let until = Instant::now() + LISTENING;
    while torrents.listening().is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    torrents.listening()
}
