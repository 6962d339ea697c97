//! The disk that libtorrent sees: each call finds its torrent, and either completes its job at once or hands it on.
//!
//! Calls come on libtorrent's network thread, the only thread of the session. A call copies at most one block, holds
//! locks only briefly, and never waits. Slow work runs elsewhere and completes its job from there: hashing on the hash
//! workers, reads of stored bytes on the runtime.

pub(super) mod callbacks;
pub(super) mod content;
pub(super) mod ffi;
pub(super) mod hash_workers;
pub(super) mod open_pieces;
mod peer;
pub(super) mod piece;
pub(super) mod registry;
pub(super) mod send_buffers;
pub(super) mod torrent_disk;
pub(super) mod verified_reads;
mod waiting_peers;

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use cxx::UniquePtr;
use tokio::{runtime::Handle, sync::Notify};
use tokio_util::sync::CancellationToken;

use self::{
    content::Content,
    ffi::{CheckJob, DiskError, FenceJob, HashJob, ReadJob, WaitingPeer, WriteJob, complete_read},
    hash_workers::{DigestKinds, HashWorkers},
    piece::HashRequest,
    registry::StorageRegistry,
    send_buffers::{SendBuffer, SendBuffers},
    torrent_disk::{TorrentDisk, answer_hash_request},
    waiting_peers::WaitingPeers,
};
use super::{
    metainfo::check::{PieceDigests, PieceHasher},
    picker::{
        governor::Marks,
        request_budget::RequestBudget,
        suggester::{Have, Suggester},
    },
};
use crate::{
    error::Result,
    memory::{BLOCK_LEN, BlockPool, Mark, Share},
    storage::Pressure,
    units::MIB,
};

/// How long a read of bytes that are not fully uploaded yet is retried. After that the read fails, and the peer
/// requests the piece from other peers.
const PENDING_RETRY: Duration = Duration::from_secs(20);
/// How long a read of uploaded bytes is retried while the storage is unreachable, on top of the backend's own two
/// minutes of retries. A peer can do nothing about an outage, and an impatient peer disconnects by itself.
const OUTAGE_RETRY: Duration = Duration::from_secs(10 * 60);
/// Interval of these retries.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The longest that a read waits for peers that are behind.
const SLOW_PEER_WAIT: Duration = Duration::from_secs(1);
/// Interval of the checks whether it must still wait.
const SLOW_PEER_POLL: Duration = Duration::from_millis(20);

pub(super) struct Disk {
    registry: StorageRegistry,
    pressure: Arc<Pressure>,
    pool: BlockPool,
    /// Blocks that libtorrent is sending to peers.
    send_buffers: SendBuffers,
    marks: Marks,
    hash_workers: HashWorkers,
    runtime: Handle,
    /// Whether pieces are suggested to peers (BEP 6).
    suggests: bool,
    waiting: WaitingPeers<UniquePtr<WaitingPeer>>,
    requests: RequestBudget,
    evicted: AtomicU64,
    alerts_ready: Notify,
    aborted: CancellationToken,
}

impl Disk {
    pub(super) fn new(
        pressure: Arc<Pressure>,
        pool: BlockPool,
        runtime: Handle,
        suggests: bool,
    ) -> Result<Arc<Self>> {
        let hash_workers = HashWorkers::start()
            .map_err(|e| crate::Error::io("cannot start the hash threads", e))?;
        Ok(Arc::new(Self {
            registry: StorageRegistry::default(),
            marks: Marks::new(pool.budget()),
            pressure,
            send_buffers: SendBuffers::new(pool.memory().clone()),
            waiting: WaitingPeers::new(Marks::new(pool.budget())),
            pool,
            hash_workers,
            runtime,
            suggests,
            requests: RequestBudget::new(),
            evicted: AtomicU64::new(0),
            alerts_ready: Notify::new(),
            aborted: CancellationToken::new(),
        }))
    }

    pub(super) fn registry(&self) -> &StorageRegistry {
        &self.registry
    }

    /// Notified by libtorrent when there are alerts to pop.
    pub(super) fn alerts_ready(&self) -> &Notify {
        &self.alerts_ready
    }

    /// The blocks that may be requested from all peers together.
    pub(super) fn requests(&self) -> &RequestBudget {
        &self.requests
    }

    pub(super) fn suggests(&self) -> bool {
        self.suggests
    }

    pub(super) fn blocks_in_use(&self) -> i64 {
        i64::try_from(self.pool.held() / BLOCK_LEN).unwrap_or(i64::MAX)
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
        let Some(torrent) = self.torrent_at(storage) else { return };
        let buffer = self.send_buffers.try_reserve();
        if let Some(bytes) = torrent.read_memory(buffer, piece, start, len) {
            self.read_ahead(&torrent, piece, start, len);
            torrent.count_served(&bytes);
            return complete_read(&mut job, bytes);
        }
        let (aborted, buffers) = (self.aborted.clone(), self.send_buffers.clone());
        self.runtime.spawn(async move {
            let read = read_stored(&torrent, &buffers, piece, start, len);
            tokio::select! {
                // Dropping the job completes it with operation_aborted.
                () = aborted.cancelled() => {}
                bytes = read => match bytes {
                    Some(bytes) => {
                        torrent.count_served(&bytes);
                        complete_read(&mut job, bytes);
                    }
                    None => job.pin_mut().fail(DiskError::Fatal),
                },
            }
        });
    }

    /// Records a read, and fetches ahead for peers that read sequentially.
    fn read_ahead(&self, torrent: &Arc<TorrentDisk>, piece: u32, start: usize, len: usize) {
        let Some(content) = torrent.content() else { return };
        if let Some(next) = content.reader.record_read(&content.block(piece, start, len)) {
            let reader = content.reader.clone();
            self.runtime.spawn(async move { reader.prefetch(&next) });
        }
    }

    /// Accepts a block. Returns whether the peer that sent it would have to wait for memory.
    pub(super) fn write(
        &self,
        storage: u32,
        piece: u32,
        start: usize,
        data: &[u8],
        ack: UniquePtr<WriteJob>,
    ) -> bool {
        let Some(torrent) = self.torrent_at(storage) else { return false };
        if data.len() > BLOCK_LEN {
            return false;
        }
        let offered = torrent.take_offered(piece, start, data.len());
        let from_peer = offered.is_none();
        let bytes = offered.unwrap_or_else(|| self.copy_block(&torrent, piece, start, data));
        let accepted = torrent.accept_block(piece, start, bytes, ack);
        if from_peer && accepted.is_some() {
            torrent.count_received_from_peer(data.len());
        }
        if accepted == Some(true) {
            self.hash_workers.enqueue(&torrent, piece);
        }
        self.evict();
        self.waiting.must_wait(self.pressure.sealed())
    }

    /// Registers a peer if it must wait for memory, and returns whether it must.
    pub(super) fn wait_for_memory(&self, peer: UniquePtr<WaitingPeer>) -> bool {
        !self.aborted.is_cancelled()
            && self.waiting.wait(peer.id(), peer, || self.pressure.sealed())
    }

    /// Copies a peer's block into the memory budget. Padding becomes zeros, whatever the peer sent.
    fn copy_block(&self, torrent: &TorrentDisk, piece: u32, start: usize, data: &[u8]) -> Bytes {
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
    pub(super) async fn wait_for_piece_memory(&self) {
        self.pressure.wait_until_drained(Mark::Pack).await;
    }

    /// Waits until a block fits under the hard mark, and evicts open pieces of peers for it. Returns early when there
    /// are no sealed bytes: then no more memory becomes free by waiting.
    pub(super) async fn wait_for_block_memory(&self) {
        let fits = || self.marks.excess(self.pool.level() + BLOCK_LEN) == 0;
        while !fits() {
            self.evict();
            // Before the check, so that the end of the last sealed bytes is not missed.
            let drained = self.pressure.freed();
            if fits() || self.pressure.sealed() == 0 {
                return;
            }
            tokio::select! {
                () = drained => {}
                () = self.pool.wait_for_block(Mark::Evict) => {}
            }
        }
    }

    pub(super) fn hash(
        &self,
        storage: u32,
        piece: u32,
        kinds: DigestKinds,
        job: UniquePtr<HashJob>,
    ) {
        let Some(torrent) = self.torrent_at(storage) else { return };
        match torrent.request_hash(piece, HashRequest { job, kinds }) {
            Ok(()) => self.hash_workers.enqueue(&torrent, piece),
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
            tokio::select! {
                () = aborted.cancelled() => {}
                digests = hash_stored_piece(content, piece) => if let Ok(digests) = digests {
                    answer_hash_request(request, &digests);
                },
            }
        });
    }

    pub(super) fn clear_piece(&self, storage: u32, piece: u32, mut job: UniquePtr<FenceJob>) {
        if let Some(torrent) = self.registry.by_index(storage) {
            torrent.clear(piece);
        }
        job.pin_mut().complete();
    }

    pub(super) fn check_files(&self, storage: u32, job: UniquePtr<CheckJob>) {
        if let Some(torrent) = self.torrent_at(storage) {
            torrent.check_files(job);
        }
    }

    pub(super) fn stop_torrent(&self, storage: u32, mut job: UniquePtr<FenceJob>) {
        if let Some(torrent) = self.registry.by_index(storage) {
            torrent.stop();
        }
        job.pin_mut().complete();
    }

    pub(super) fn piece_passed(&self, torrent: u64, piece: u32) {
        if let Some(torrent) = self.registry.by_number(torrent) {
            torrent.piece_passed(piece);
        }
    }

    pub(super) fn piece_failed(&self, torrent: u64, piece: u32) {
        if let Some(torrent) = self.registry.by_number(torrent) {
            torrent.count_failed();
        }
        tracing::warn!(torrent, piece, "a piece failed its hash and is fetched again");
    }

    /// Returns the pieces to suggest to a peer of a complete torrent. The pair is (number of pieces, length).
    fn suggest(
        &self,
        torrent: &TorrentDisk,
        peer: u64,
        requested: Option<u32>,
        (pieces, piece_len): (u32, u64),
        have: Have<'_>,
    ) -> Vec<u32> {
        if !self.suggests {
            return Vec::new();
        }
        let content = torrent.content();
        let capacity = content
            .map_or_else(|| self.cache_capacity(), |content| content.reader.cache_capacity());
        let mut suggester = torrent.suggester().lock();
        let suggester = suggester.get_or_insert_with(|| Suggester::new(pieces, piece_len));
        let suggestions = suggester.on_request(peer, requested, have, capacity, Instant::now());
        content
            .iter()
            .for_each(|content| content.reader.set_scan_resistant(suggester.has_followers()));
        if let Some(reader) = content.map(|content| content.reader.clone())
            && !suggestions.prefetch.is_empty()
        {
            let aborted = self.aborted.clone();
            if let Some(fetching) = reader.queue_prefetch(suggestions.prefetch) {
                self.runtime.spawn(async move { aborted.run_until_cancelled(fetching).await });
            }
        }
        suggestions.pieces
    }

    fn cache_capacity(&self) -> u64 {
        self.pool.memory().share(Share::Windows).len() as u64
    }

    /// Completes every job in flight with `operation_aborted`, and every later job at once. Idempotent.
    pub(super) fn abort(&self) {
        self.aborted.cancel();
        for torrent in self.registry.all() {
            torrent.abort();
        }
        self.waiting.clear();
    }

    /// Wakes the waiting peers if there is memory for them. To be called after each fall of the sealed bytes.
    pub(super) fn on_drained(&self) {
        self.waiting.release(|| self.pressure.sealed()).iter().for_each(|peer| peer.wake());
    }

    /// Layer 4 of the governor: past the hard mark, evicts the least complete open pieces of all torrents.
    fn evict(&self) {
        let mut excess = self.marks.excess(self.pool.level());
        if excess == 0 {
            return;
        }
        let torrents = self.registry.all();
        while excess > 0 {
            let least = torrents
                .iter()
                .filter_map(|t| t.least_complete().map(|p| (p, t)))
                .min_by_key(|x| x.0);
            let Some(((_, _, piece), torrent)) = least else { return };
            let freed = torrent.evict(piece) * BLOCK_LEN;
            self.evicted.fetch_add(freed as u64, Ordering::Relaxed);
            tracing::debug!(piece, freed, "evicted an open piece to stay in the budget");
            excess = excess.saturating_sub(freed.max(1));
        }
    }

    /// The torrent of a storage index. On `None` the caller drops its job, which aborts the job.
    fn torrent_at(&self, storage: u32) -> Option<Arc<TorrentDisk>> {
        if self.aborted.is_cancelled() { None } else { self.registry.by_index(storage) }
    }
}

async fn read_stored(
    torrent: &Arc<TorrentDisk>,
    buffers: &SendBuffers,
    piece: u32,
    start: usize,
    len: usize,
) -> Option<Bytes> {
    let content = match torrent.load_content().await {
        Ok(content) => content,
        Err(e) => {
            tracing::warn!(error = %e.report(), "cannot open a torrent that a peer requests");
            return None;
        }
    };
    let range = content.block(piece, start, len);
    wait_for_slow_peers(torrent, content, piece).await;
    let started = Instant::now();
    loop {
        match read_and_lend(content, buffers, range.clone()).await {
            Ok(bytes) => return Some(bytes),
            Err(e)
                if e.kind().is_retryable() && started.elapsed() < retry_time(content, &range) =>
            {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            Err(e) => {
                let what = verified_reads::describe_piece(&content.meta, piece);
                let error = e.with_context(format_args!("cannot serve {what}"));
                tracing::warn!("{}", error.report());
                torrent.report_unreadable(piece, error);
                return None;
            }
        }
    }
}

/// Reads bytes and counts them as being sent. Bytes that wait for a send buffer stay in the cache, where they may be
/// evicted and have to be read again.
async fn read_and_lend(
    content: &Content,
    buffers: &SendBuffers,
    range: Range<u64>,
) -> Result<Bytes> {
    let payload = content.reader.read_at(range.clone()).await?;
    if let Some(buffer) = buffers.try_reserve() {
        return Ok(buffer.lend(&payload));
    }
    drop(payload);
    let buffer: SendBuffer = buffers.reserve().await;
    let payload = match content.reader.try_read_again(range.clone()) {
        Some(payload) => payload,
        None => content.reader.read_at(range).await?,
    };
    Ok(buffer.lend(&payload))
}

/// Hashes a stored piece, which is read in steps of 1 MiB.
async fn hash_stored_piece(content: &Content, piece: u32) -> Result<PieceDigests> {
    let (mut range, step) = (content.geometry.piece(piece), MIB);
    let mut hasher = PieceHasher::new(content.geometry.shape(piece));
    let memory = content.reader.memory();
    let _step = memory.reserve(Share::Readers, usize::try_from(step).unwrap_or(BLOCK_LEN)).await;
    while !range.is_empty() {
        let end = range.end.min(range.start + step);
        let payload = content.reader.read_at(range.start..end).await?;
        payload.buffers().iter().for_each(|part| hasher.update(part));
        range.start = end;
    }
    Ok(hasher.finish())
}

/// Waits while the fetch of the piece's window is held back for peers that are behind.
async fn wait_for_slow_peers(torrent: &TorrentDisk, content: &Content, piece: u32) {
    let until = Instant::now() + SLOW_PEER_WAIT;
    while Instant::now() < until {
        let released = match &mut *torrent.suggester().lock() {
            Some(suggester) if suggester.is_pending(piece) => {
                suggester.take_released(Instant::now())
            }
            _ => return,
        };
        if !released.is_empty()
            && let Some(fetching) = content.reader.queue_prefetch(released)
        {
            tokio::spawn(fetching);
        }
        tokio::time::sleep(SLOW_PEER_POLL).await;
    }
    torrent.suggester().lock().iter_mut().for_each(|suggester| suggester.start_fetch(piece));
}

fn retry_time(content: &Content, range: &Range<u64>) -> Duration {
    if content.store.is_readable(range.clone()) { OUTAGE_RETRY } else { PENDING_RETRY }
}
