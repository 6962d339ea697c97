//! One torrent in the session: its calls and its events.

use std::{fmt, sync::Arc};

use tokio::sync::mpsc;

use super::{
    TorrentControl, TorrentSession,
    native::NativeTorrent,
    start::{address, parse_peer},
};
use crate::{
    config::TorrentOptions,
    error::{Error, Kind, Result},
    torrents::{disk::torrent_disk::TorrentDisk, metainfo::MAX_PIECE_LENGTH},
};

/// Milliseconds between the deadlines of pieces that a reader waits for. Only their order matters: libtorrent requests
/// the piece due first from the fastest peers, and requests a late block twice.
const DEADLINE_STEP_MS: i32 = 250;

/// Events of one torrent, in order.
#[derive(Debug, Clone)]
pub enum TorrentEvent {
    /// The info dictionary arrived (magnets only).
    Metadata,
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

/// A torrent's place in the storage registry and among the receivers of events. It ends with the value.
pub(super) struct Registration {
    pub(super) number: u64,
    pub(super) disk: Arc<TorrentDisk>,
    pub(super) session: Arc<TorrentSession>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.session.event_senders.lock().remove(&self.number);
        self.session.disk.registry().forget(self.number);
        self.session.tracker_messages.lock().retain(|(torrent, _), _| *torrent != self.number);
        self.disk.abort();
    }
}

/// One torrent in the session. Dropping it without [`Torrent::remove`] removes it too.
pub struct Torrent {
    native: Arc<NativeTorrent>,
    events: mpsc::UnboundedReceiver<TorrentEvent>,
    options: TorrentOptions,
    registration: Registration,
}

impl fmt::Debug for Torrent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Torrent").field("number", &self.registration.number).finish_non_exhaustive()
    }
}

impl Torrent {
    pub(super) fn new(
        native: NativeTorrent,
        events: mpsc::UnboundedReceiver<TorrentEvent>,
        options: TorrentOptions,
        registration: Registration,
    ) -> Self {
        Self { native: Arc::new(native), events, options, registration }
    }

    pub(in crate::torrents) fn disk(&self) -> &Arc<TorrentDisk> {
        &self.registration.disk
    }

    pub(in crate::torrents) fn session(&self) -> &Arc<TorrentSession> {
        &self.registration.session
    }

    /// For changing the settings of this torrent while a download owns it.
    #[must_use]
    pub fn control(&self) -> TorrentControl {
        TorrentControl::new(&self.native, self.disk().download_limit())
    }

    /// For calls that may outlast the torrent: they are `NotFound` then.
    pub(in crate::torrents) fn native(&self) -> &Arc<NativeTorrent> {
        &self.native
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
        self.disk().bytes_served()
    }

    /// Takes the messages about pieces that peers requested and that cannot be read, recorded since the last call.
    #[must_use]
    pub fn take_unreadable(&self) -> Vec<Error> {
        self.disk().take_unreadable()
    }

    /// Sets one priority (0 to 7) for the given pieces.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub fn prioritize(&self, pieces: &[u32], priority: u8) -> Result<()> {
        self.native.call(|torrent| torrent.prioritize(pieces, priority))
    }

    /// Sets deadlines: the given pieces are requested before all others, in this order.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub(in crate::torrents) fn set_deadlines(&self, pieces: &[u32]) -> Result<()> {
        self.native.call(|torrent| torrent.set_deadlines(pieces, DEADLINE_STEP_MS))
    }

    /// Removes the deadlines that [`Torrent::set_deadlines`] set for these pieces. The caller must set their priority
    /// again.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub(in crate::torrents) fn clear_deadlines(&self, pieces: &[u32]) -> Result<()> {
        self.native.call(|torrent| torrent.clear_deadlines(pieces))
    }

    /// How many connected peers have each piece.
    pub(in crate::torrents) async fn availability(&self) -> Result<Vec<u32>> {
        let peers = self.native.wait(|torrent| torrent.availability()).await?;
        Ok(peers.iter().map(|peers| u32::try_from(*peers).unwrap_or(0)).collect())
    }

    /// The info dictionary.
    ///
    /// # Errors
    /// `Unavailable` before [`TorrentEvent::Metadata`]; `Cancelled` when the session has ended.
    pub(in crate::torrents) async fn info_dictionary(&self) -> Result<Vec<u8>> {
        Ok(self.native.wait(|torrent| torrent.info_dictionary()).await?.as_slice().to_vec())
    }

    /// The whole .torrent file, with the v2 piece layers known so far.
    ///
    /// # Errors
    /// `Unavailable` before the metadata arrived; `Cancelled` when the session has ended.
    pub async fn torrent_file(&self) -> Result<Vec<u8>> {
        Ok(self.native.wait(|torrent| torrent.torrent_file()).await?.as_slice().to_vec())
    }

    /// Stops requesting from peers and serving them; held acks are released.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub fn pause(&self) -> Result<()> {
        self.native.call(|torrent| torrent.pause())
    }

    /// # Errors
    /// `Cancelled` when the session has ended.
    pub fn resume(&self) -> Result<()> {
        self.native.call(|torrent| torrent.resume())
    }

    /// Connects to a peer now.
    ///
    /// # Errors
    /// `InvalidInput` when `endpoint` is not `IP:PORT`; `Cancelled` when the session has ended.
    pub fn connect(&self, endpoint: &str) -> Result<()> {
        let peer = address(parse_peer(endpoint)?);
        self.native.call(|torrent| torrent.connect_peer(&peer))
    }

    /// Removes the torrent from the session. Bytes that its writer has are still uploaded.
    pub fn remove(self) {
        drop(self);
    }
}

impl Drop for Torrent {
    fn drop(&mut self) {
        // The session may have ended before, and the torrent with it.
        let _ = self.native.remove();
    }
}

impl NativeTorrent {
    /// Makes libtorrent write a piece whose bytes were offered to the torrent's disk ([`TorrentDisk::offer`]), as if a
    /// peer had sent it. The bytes are written when this returns, unless libtorrent accepts no pieces at the moment.
    pub(in crate::torrents) async fn add_piece(self: &Arc<Self>, piece: u32) -> Result<()> {
        self.wait(move |torrent| torrent.add_piece(piece, MAX_PIECE_LENGTH)).await
    }
}
