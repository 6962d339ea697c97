//! One torrent in the session: how it starts, its events, and the calls about it.

use std::{fmt, sync::Arc};

use tokio::sync::mpsc;

use super::{TorrentControl, TorrentSession};
use crate::{
    config::TorrentOptions,
    error::{Error, Kind, Result},
    torrents::disk::{ffi::SessionBox, torrent_disk::TorrentDisk},
};

/// Milliseconds between the deadlines of pieces that a reader waits for. Only their order matters: libtorrent requests
/// the piece due first from the fastest peers, and requests a late block twice.
const DEADLINE_STEP_MS: i32 = 250;

/// Events of one torrent, in order.
#[derive(Debug, Clone)]
pub enum TorrentEvent {
    /// The info dictionary arrived (magnets only).
    Metadata(Vec<u8>),
    Status(Status),
    /// A tracker's warning, or a failure that is retried: a piece's hash, a read for a peer, a magnet's metadata.
    NonFatal(String),
    /// A tracker, by scheme, host and port, returned this many peers.
    TrackerAnswered {
        tracker: String,
        peers: String,
    },
    /// A tracker could not be reached, or refused the announce.
    TrackerFailed {
        tracker: String,
        text: String,
    },
    /// The torrent stopped with an error.
    Failed(String),
}

/// libtorrent's view of a torrent in the session: payload bytes of this run, bytes per second, numbers of peers.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Includes incomplete blocks.
    pub downloaded: u64,
    pub uploaded: u64,
    pub upload_rate: u64,
    pub peers: usize,
    pub seeds: usize,
    pub paused: bool,
}

/// The source of a torrent's metainfo.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A .torrent file's bytes, checked by [`Metainfo::parse`](crate::torrents::metainfo::Metainfo::parse).
    File(Vec<u8>),
    /// A .torrent file of which every piece is stored. It is not checked again.
    Stored(Vec<u8>),
    Magnet(String),
}

/// How a torrent starts.
#[derive(Debug, Clone)]
pub struct Start {
    pub origin: Origin,
    /// One entry per piece; empty = no piece is stored.
    pub have: Vec<bool>,
    /// The wanted pieces, one entry per piece; empty = all.
    pub wanted: Vec<bool>,
}

impl Start {
    /// A torrent of which every piece is stored.
    #[must_use]
    pub fn seeding(torrent: Vec<u8>) -> Self {
        Self { origin: Origin::Stored(torrent), have: Vec::new(), wanted: Vec::new() }
    }

    /// A torrent of which only the magnet link is known.
    #[must_use]
    pub fn magnet(link: String) -> Self {
        Self { origin: Origin::Magnet(link), have: Vec::new(), wanted: Vec::new() }
    }
}

/// One torrent in the session. Dropping it without [`Torrent::remove`] removes it too.
pub struct Torrent {
    number: u64,
    disk: Arc<TorrentDisk>,
    events: mpsc::UnboundedReceiver<TorrentEvent>,
    session: Arc<TorrentSession>,
    options: TorrentOptions,
    removed: bool,
}

impl fmt::Debug for Torrent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Torrent").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Torrent {
    pub(super) fn new(
        number: u64,
        disk: Arc<TorrentDisk>,
        events: mpsc::UnboundedReceiver<TorrentEvent>,
        session: Arc<TorrentSession>,
        options: TorrentOptions,
    ) -> Self {
        Self { number, disk, events, session, options, removed: false }
    }

    pub(in crate::torrents) fn disk(&self) -> &Arc<TorrentDisk> {
        &self.disk
    }

    pub(in crate::torrents) fn session(&self) -> &Arc<TorrentSession> {
        &self.session
    }

    /// For changing the settings of this torrent while a download owns it.
    #[must_use]
    pub fn control(&self) -> TorrentControl {
        TorrentControl::new(&self.session, self.number)
    }

    pub(in crate::torrents) fn options(&self) -> &TorrentOptions {
        &self.options
    }

    /// Waits for the next event of the torrent; `None` once the session ended.
    pub(in crate::torrents) async fn next_event(&mut self) -> Option<TorrentEvent> {
        self.events.recv().await
    }

    /// The next queued event of the torrent, without waiting; `None` when there is none.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub fn try_next_event(&mut self) -> Result<Option<TorrentEvent>> {
        match self.events.try_recv() {
            Ok(notice) => Ok(Some(notice)),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => {
                Err(Error::new(Kind::Cancelled, "the torrent session has ended"))
            }
        }
    }

    /// Payload bytes handed to libtorrent for sending to peers so far.
    #[must_use]
    pub fn bytes_served(&self) -> u64 {
        self.disk.bytes_served()
    }

    /// Takes the messages about pieces that peers requested and that cannot be read, recorded since the last call.
    #[must_use]
    pub fn take_unreadable(&self) -> Vec<Error> {
        self.disk.take_unreadable()
    }

    /// Sets one priority (0 to 7) for the given pieces.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub fn prioritize(&self, pieces: &[u32], priority: u8) -> Result<()> {
        self.session.call(|s| s.get().prioritize(self.number, pieces, priority))
    }

    /// Sets deadlines: the given pieces are requested before all others, in this order.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub(in crate::torrents) fn set_deadlines(&self, pieces: &[u32]) -> Result<()> {
        self.session.call(|s| s.get().set_deadlines(self.number, pieces, DEADLINE_STEP_MS))
    }

    /// Removes the deadlines that [`Torrent::set_deadlines`] set for these pieces. The caller must set their priority
    /// again.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub(in crate::torrents) fn clear_deadlines(&self, pieces: &[u32]) -> Result<()> {
        self.session.call(|s| s.get().clear_deadlines(self.number, pieces))
    }

    /// Makes libtorrent write a piece whose bytes were offered to the torrent's disk ([`TorrentDisk::offer`]), as if a
    /// peer had sent it. The bytes are written when this returns, unless libtorrent accepts no pieces at the moment.
    pub(in crate::torrents) async fn add_piece(
        session: &Arc<TorrentSession>,
        number: u64,
        piece: u32,
    ) -> Result<()> {
        blocking(session, move |s| s.get().add_piece(number, piece)).await
    }

    /// How many connected peers have each piece.
    pub(in crate::torrents) async fn availability(&self) -> Result<Vec<u32>> {
        let number = self.number;
        self.blocking(move |s| s.get().availability(number)).await
    }

    /// The whole .torrent file, with the v2 piece layers known so far.
    ///
    /// # Errors
    /// `InvalidInput` while piece layers are missing.
    pub async fn torrent_file(&self) -> Result<Vec<u8>> {
        let number = self.number;
        self.blocking(move |s| s.get().torrent_file(number)).await
    }

    /// Stops requesting from peers and serving them; held acks are released.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub fn pause(&self) -> Result<()> {
        self.session.call(|s| s.get().pause(self.number))
    }

    /// # Errors
    /// `Cancelled` when the session has ended.
    pub fn resume(&self) -> Result<()> {
        self.session.call(|s| s.get().resume(self.number))
    }

    /// Connects to a peer now.
    ///
    /// # Errors
    /// `InvalidInput` when `endpoint` is not `ip:port`.
    pub fn connect(&self, endpoint: &str) -> Result<()> {
        self.session.call(|s| s.get().connect_peer(self.number, endpoint))
    }

    /// Removes the torrent from the session. Bytes that its writer has are still uploaded.
    pub fn remove(mut self) {
        self.remove_from_session();
    }

    fn remove_from_session(&mut self) {
        if std::mem::replace(&mut self.removed, true) {
            return;
        }
        // The session may have ended before, and the torrent with it.
        let _ = self.session.call(|s| s.get_mut().remove(self.number));
        self.session.event_senders.lock().remove(&self.number);
        self.session.disk.registry().forget(self.number);
        self.session.tracker_messages.lock().retain(|(torrent, _), _| *torrent != self.number);
        self.disk.abort();
    }

    pub(super) async fn blocking<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut SessionBox) -> Result<R, cxx::Exception> + Send + 'static,
    ) -> Result<R> {
        blocking(&self.session, f).await
    }
}

/// Runs a call that waits for libtorrent's network thread.
async fn blocking<R: Send + 'static>(
    session: &Arc<TorrentSession>,
    f: impl FnOnce(&mut SessionBox) -> Result<R, cxx::Exception> + Send + 'static,
) -> Result<R> {
    let session = Arc::clone(session);
    tokio::task::spawn_blocking(move || session.call(f))
        .await
        .map_err(|e| Error::new(Kind::Internal, "a call into libtorrent panicked").because(e))?
}

impl Drop for Torrent {
    fn drop(&mut self) {
        self.remove_from_session();
    }
}
