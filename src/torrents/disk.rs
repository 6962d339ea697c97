//! The disk that libtorrent sees: each call finds its torrent, and either completes its job at once or hands it on.
//!
//! Calls come on libtorrent's network thread, the only thread of the session. A call copies at most one block, holds
//! locks only briefly, and never waits. Slow work runs elsewhere and completes its job from there: hashing on the hash
//! workers, reads of stored bytes on the runtime.

use std::{
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use cxx::UniquePtr;
use tokio::{runtime::Handle, sync::Notify};
use tokio_util::sync::CancellationToken;

use super::{
    check::PieceHasher,
    content::Content,
    ffi::{CheckJob, DiskError, Doorbell, FenceJob, HashJob, ReadJob, WriteJob, complete_read},
    governor::Marks,
    guide::{Guide, Have},
    hashing::{Hashers, Wants},
    piece::HashRequest,
    registry::Registry,
    sends::Sends,
    serve,
    torrent_disk::{TorrentDisk, answer},
};
use crate::{
    error::Result,
    memory::{BLOCK, BlockPool},
    storage::Pressure,
};

/// How long a read of bytes that are not fully uploaded yet is retried. After that the read fails, and the peer
/// requests the piece from other peers.
const HOLD: Duration = Duration::from_secs(20);
/// How long a read of uploaded bytes is retried while the storage is unreachable, on top of the backend's own two
/// minutes of retries. A peer can do nothing about an outage, and an impatient peer disconnects by itself.
const OUTAGE: Duration = Duration::from_secs(10 * 60);
/// Interval of these retries.
const LOOK: Duration = Duration::from_millis(500);

/// Cached blocks on their way to peers may hold the memory budget divided by this number.
const SENDS: usize = 8;
/// How long a read waits for memory while such blocks exceed their share. After that its block is sent anyway, because
/// the blocks in the way may belong to peers that no longer read.
const CROWDED: Duration = Duration::from_secs(1);
/// Interval of the checks for free memory.
const SOON: Duration = Duration::from_millis(5);
/// The longest that a read waits for peers that are behind.
const HELD: Duration = Duration::from_secs(1);
/// Interval of the checks whether it must still wait.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub(super) struct Disk {
    registry: Registry,
    pressure: Arc<Pressure>,
    pool: BlockPool,
    /// Cached blocks that libtorrent is sending to peers.
    sends: Sends,
    marks: Marks,
    hashers: Hashers,
    runtime: Handle,
    /// Whether pieces are suggested to peers (BEP 6).
    suggests: bool,
    doorbell: OnceLock<Doorbell>,
    /// Whether a peer was told to wait for memory.
    waiting: AtomicBool,
    evicted: AtomicU64,
    alerts: Notify,
    aborted: CancellationToken,
}

impl Disk {
    pub(super) fn new(
        pressure: Arc<Pressure>,
        pool: BlockPool,
        runtime: Handle,
        suggests: bool,
    ) -> Result<Arc<Self>> {
        let hashers =
            Hashers::start().map_err(|e| crate::Error::io("cannot start the hash threads", e))?;
        Ok(Arc::new(Self {
            registry: Registry::default(),
            marks: Marks::new(pool.budget()),
            pressure,
            sends: Sends::new(pool.budget() / SENDS),
            pool,
            hashers,
            runtime,
            suggests,
            doorbell: OnceLock::new(),
            waiting: AtomicBool::new(false),
            evicted: AtomicU64::new(0),
            alerts: Notify::new(),
            aborted: CancellationToken::new(),
        }))
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Notified by libtorrent when there are alerts to pop.
    pub(super) fn alerts(&self) -> &Notify {
        &self.alerts
    }

    pub(super) fn attach(&self, doorbell: Doorbell) {
        // One session per disk: a second attach cannot happen.
        let _ = self.doorbell.set(doorbell);
    }

    pub(super) fn blocks_in_use(&self) -> i64 {
        i64::try_from(self.pool.held() / BLOCK).unwrap_or(i64::MAX)
    }

    /// Payload bytes evicted to stay in the budget. They are downloaded again.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    pub(super) fn read(
        &self,
        storage: u32,
        piece: u32,
        start: usize,
        len: usize,
        mut job: UniquePtr<ReadJob>,
    ) {
        let Some(torrent) = self.live(storage) else { return };
        let sends = self.sends.has_room().then_some(&self.sends);
        if let Some(bytes) = torrent.read_memory(sends, piece, start, len) {
            self.go_on(&torrent, piece, start, len);
            torrent.gave(&bytes);
            return complete_read(&mut job, bytes);
        }
        let (aborted, sends) = (self.aborted.clone(), self.sends.clone());
        self.runtime.spawn(async move {
            let read = read_stored(&torrent, &sends, piece, start, len);
            tokio::select! {
                // Dropping the job completes it with operation_aborted.
                () = aborted.cancelled() => {}
                bytes = read => match bytes {
                    Some(bytes) => {
                        torrent.gave(&bytes);
                        complete_read(&mut job, bytes);
                    }
                    None => job.pin_mut().fail(DiskError::Fatal),
                },
            }
        });
    }

    /// Notes a read, and fetches ahead for peers that read sequentially.
    fn go_on(&self, torrent: &Arc<TorrentDisk>, piece: u32, start: usize, len: usize) {
        let Some(content) = torrent.content() else { return };
        if let Some(next) = content.reader.reads(&content.block(piece, start, len)) {
            let reader = content.reader.clone();
            self.runtime.spawn(async move { reader.fetch_ahead(&next) });
        }
    }

    /// Accepts a block. True tells the peer's connection to wait until the doorbell rings.
    pub(super) fn write(
        &self,
        storage: u32,
        piece: u32,
        start: usize,
        data: &[u8],
        ack: UniquePtr<WriteJob>,
    ) -> bool {
        let Some(torrent) = self.live(storage) else { return false };
        if data.len() > BLOCK {
            return false;
        }
        let offered = torrent.take_offered(piece, start, data.len());
        let from_peer = offered.is_none();
        let bytes = offered.unwrap_or_else(|| self.copy_of(&torrent, piece, start, data));
        let written = torrent.write(piece, start, bytes, ack);
        if from_peer && written.is_some() {
            torrent.count_received(data.len());
        }
        if written == Some(true) {
            self.hashers.wake(&torrent, piece);
        }
        self.evict();
        self.exceeded()
    }

    /// Copies a peer's block into the memory budget. Padding becomes zeros, whatever the peer sent.
    fn copy_of(&self, torrent: &TorrentDisk, piece: u32, start: usize, data: &[u8]) -> Bytes {
        let Some(content) = torrent.content() else { return self.pool.copy(data) };
        let at = content.geometry.piece(piece).start + start as u64;
        let range = at..at + data.len() as u64;
        let mut pads = content.geometry.pads_in(&range).peekable();
        if pads.peek().is_none() {
            return self.pool.copy(data);
        }
        let mut clean = data.to_vec();
        for pad in pads {
            let within = |pos: u64| usize::try_from(pos - at).unwrap_or(0);
            clean[within(pad.start)..within(pad.end)].fill(0);
        }
        self.pool.copy(&clean)
    }

    /// Waits until a piece of a web seed may be started: while sealed bytes exceed the mark at which waiting peers
    /// resume. Sealed bytes drain without the network, so the wait ends.
    pub(super) async fn room_for_piece(&self) {
        while self.marks.exceeded(self.pressure.sealed(), true) {
            tokio::time::sleep(SOON).await;
        }
    }

    /// Waits until a block fits under the hard mark, and evicts open pieces of peers for it. Returns early when there
    /// are no sealed bytes: then no more memory becomes free by waiting.
    pub(super) async fn room_for_block(&self) {
        while self.marks.excess(self.pool.held() + BLOCK) > 0 {
            self.evict();
            if self.pressure.sealed() == 0 || self.marks.excess(self.pool.held() + BLOCK) == 0 {
                return;
            }
            tokio::time::sleep(SOON).await;
        }
    }

    pub(super) fn hash(&self, storage: u32, piece: u32, wants: Wants, job: UniquePtr<HashJob>) {
        let Some(torrent) = self.live(storage) else { return };
        match torrent.ask_hash(piece, HashRequest { job, wants }) {
            Ok(()) => self.hashers.wake(&torrent, piece),
            Err(request) => self.hash_stored(torrent, piece, request),
        }
    }

    /// Hashes a piece that is not open: reads it back from storage. The request is aborted when the piece is not stored
    /// either. In that case the piece was evicted while the request was in flight; its acks were aborted before, in the
    /// same queue.
    fn hash_stored(&self, torrent: Arc<TorrentDisk>, piece: u32, request: HashRequest) {
        let aborted = self.aborted.clone();
        self.runtime.spawn(async move {
            let Some(content) = torrent.content() else { return };
            let range = content.geometry.piece(piece);
            let mut hasher = PieceHasher::new(content.geometry.shape(piece));
            let read = content.reader.read_at(range);
            tokio::select! {
                () = aborted.cancelled() => {}
                bytes = read => if let Ok(bytes) = bytes {
                    bytes.parts().iter().for_each(|p| hasher.update(p));
                    answer(request, &hasher.finish());
                },
            }
        });
    }

    pub(super) fn clear_piece(&self, storage: u32, piece: u32, mut job: UniquePtr<FenceJob>) {
        if let Some(torrent) = self.registry.at(storage) {
            torrent.clear(piece);
        }
        job.pin_mut().complete();
    }

    pub(super) fn check_files(&self, storage: u32, job: UniquePtr<CheckJob>) {
        if let Some(torrent) = self.live(storage) {
            torrent.check(job);
        }
    }

    pub(super) fn stop_torrent(&self, storage: u32, mut job: UniquePtr<FenceJob>) {
        if let Some(torrent) = self.registry.at(storage) {
            torrent.stop();
        }
        job.pin_mut().complete();
    }

    pub(super) fn piece_passed(&self, torrent: u64, piece: u32) {
        if let Some(torrent) = self.registry.torrent(torrent) {
            torrent.pass(piece);
        }
    }

    pub(super) fn piece_failed(&self, torrent: u64, piece: u32) {
        if let Some(torrent) = self.registry.torrent(torrent) {
            torrent.count_failed();
        }
        tracing::warn!(torrent, piece, "a piece failed its hash and is fetched again");
    }

    /// Returns the pieces to suggest to a peer of a complete torrent. The pair is (number of pieces, length).
    pub(super) fn suggest(
        &self,
        torrent: u64,
        peer: u64,
        asked: Option<u32>,
        (pieces, piece_len): (u32, u64),
        have: Have<'_>,
    ) -> Vec<u32> {
        let torrent = self.registry.torrent(torrent).filter(|_| self.suggests);
        let Some(torrent) = torrent else { return Vec::new() };
        let content = torrent.content();
        // Before the content is loaded, an estimate of the cache capacity.
        let room = content.map_or(self.pool.budget() as u64 / 4, |content| content.reader.room());
        let mut guide = torrent.guide().lock();
        let guide = guide.get_or_insert_with(|| Guide::new(pieces, piece_len));
        let advice = guide.asks(peer, asked, have, room, Instant::now());
        content.iter().for_each(|content| content.reader.set_scanned(guide.leads()));
        if let Some(reader) = content.map(|content| content.reader.clone())
            && !advice.ahead.is_empty()
        {
            let aborted = self.aborted.clone();
            if let Some(fetching) = reader.fetch_soon(advice.ahead) {
                self.runtime.spawn(async move { aborted.run_until_cancelled(fetching).await });
            }
        }
        advice.pieces
    }

    pub(super) fn peer_gone(&self, torrent: u64, peer: u64) {
        if let Some(torrent) = self.registry.torrent(torrent)
            && let Some(guide) = &mut *torrent.guide().lock()
        {
            guide.forget(peer);
        }
    }

    /// Completes every job in flight with `operation_aborted`, and every later job at once. Idempotent.
    pub(super) fn abort(&self) {
        self.aborted.cancel();
        for torrent in self.registry.all() {
            torrent.abort();
        }
    }

    /// Wakes the waiting peers if there is room. Called when sealed bytes were drained, and periodically, because a
    /// peer may be told to wait at the moment the last sealed bytes drain.
    pub(super) fn drained(&self) {
        if !self.marks.exceeded(self.pressure.sealed(), self.waiting.load(Ordering::Acquire)) {
            self.waiting.store(false, Ordering::Release);
            if let Some(doorbell) = self.doorbell.get() {
                doorbell.ring();
            }
        }
    }

    fn exceeded(&self) -> bool {
        let waiting = self.waiting.load(Ordering::Acquire);
        let exceeded = self.marks.exceeded(self.pressure.sealed(), waiting);
        if exceeded && !waiting {
            self.waiting.store(true, Ordering::Release);
        }
        exceeded
    }

    /// Layer 4 of the governor: past the hard mark, evicts the least complete open pieces of all torrents.
    fn evict(&self) {
        let mut excess = self.marks.excess(self.pool.held());
        while excess > 0 {
            let torrents = self.registry.all();
            let least = torrents
                .iter()
                .filter_map(|t| t.least_complete().map(|p| (p, t)))
                .min_by_key(|x| x.0);
            let Some(((_, _, piece), torrent)) = least else { return };
            let freed = torrent.evict(piece) * BLOCK;
            self.evicted.fetch_add(freed as u64, Ordering::Relaxed);
            tracing::debug!(piece, freed, "evicted an open piece to stay in the budget");
            excess = excess.saturating_sub(freed.max(1));
        }
    }

    /// The torrent of a storage index. On `None` the caller drops its job, which aborts the job.
    fn live(&self, storage: u32) -> Option<Arc<TorrentDisk>> {
        if self.aborted.is_cancelled() { None } else { self.registry.at(storage) }
    }
}

async fn read_stored(
    torrent: &Arc<TorrentDisk>,
    sends: &Sends,
    piece: u32,
    start: usize,
    len: usize,
) -> Option<Bytes> {
    let content = match torrent.loaded().await {
        Ok(content) => content,
        Err(e) => {
            tracing::warn!(error = %e.report(), "a torrent that a peer asks for cannot be opened");
            return None;
        }
    };
    let range = content.block(piece, start, len);
    turn(torrent, content, piece).await;
    let begun = Instant::now();
    loop {
        match content.reader.read_at(range.clone()).await {
            Ok(payload) => {
                let until = Instant::now() + CROWDED;
                while !sends.has_room() && Instant::now() < until {
                    tokio::time::sleep(SOON).await;
                }
                return Some(sends.lend(&payload));
            }
            Err(e) if e.kind().is_retryable() && begun.elapsed() < patience(content, &range) => {
                tokio::time::sleep(LOOK).await;
            }
            Err(e) => {
                let what = serve::name(&content.meta, piece);
                let hint = e.hint_text().map(|hint| format!("; {hint}")).unwrap_or_default();
                let text = format!("a peer does not get {what}: {}{hint}", e.report());
                tracing::warn!("{text}");
                torrent.unreadable(piece, text);
                return None;
            }
        }
    }
}

/// Waits while the fetch of the piece's window is held back for peers that are behind.
async fn turn(torrent: &TorrentDisk, content: &Content, piece: u32) {
    let until = Instant::now() + HELD;
    while Instant::now() < until {
        let released = match &mut *torrent.guide().lock() {
            Some(guide) if guide.is_pending(piece) => guide.release(Instant::now()),
            _ => return,
        };
        if !released.is_empty()
            && let Some(fetching) = content.reader.fetch_soon(released)
        {
            tokio::spawn(fetching);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    torrent.guide().lock().iter_mut().for_each(|guide| guide.fetches(piece));
}

fn patience(content: &Content, range: &Range<u64>) -> Duration {
    if content.store.found(range.clone()) { OUTAGE } else { HOLD }
}
