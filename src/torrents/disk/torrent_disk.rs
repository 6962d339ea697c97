//! One torrent's side of the disk: its open pieces, and the hand-over of verified bytes to the writer.
//!
//! Calls on the network thread never wait: [`OpenPieces`] holds its lock only for lookups and moves, and acks are
//! completed outside of it. A read finds a piece's bytes in exactly one place: in the open piece until it passes, then
//! in the import's store (memory, cache or object).

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cxx::UniquePtr;
use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell};

use super::{
    content::{Content, Loader},
    ffi::{CheckJob, WriteJob},
    open_pieces::{Holding, OpenPieces},
    piece::{HashRequest, NextStep, OpenPiece},
    send_buffers::SendBuffer,
};
use crate::{
    backends::Payload,
    error::{Error, Kind, Result},
    memory::BLOCK_LEN,
    torrents::{
        metainfo::check::PieceDigests,
        picker::{download_limit::DownloadLimit, suggester::Suggester},
    },
};

pub(in crate::torrents) struct TorrentDisk {
    number: u64,
    content: OnceCell<Content>,
    /// Loads the content of a torrent that starts without it.
    loader: OnceLock<Loader>,
    pieces: OpenPieces<UniquePtr<WriteJob>>,
    /// libtorrent's `check_files` jobs, held until there is content to start with.
    check_jobs: Mutex<Vec<UniquePtr<CheckJob>>>,
    passed: Mutex<Vec<u32>>,
    /// Verified pieces of web seeds, by block. A block leaves the list when libtorrent writes it.
    offers: Mutex<HashMap<u32, Vec<Option<Bytes>>>>,
    /// Pieces that a reader waits for. They are evicted only when there is no other piece to evict.
    urgent: Mutex<BTreeSet<u32>>,
    /// The limit of this torrent alone.
    download_limit: Arc<DownloadLimit>,
    /// Payload bytes received from peers and web seeds.
    received: AtomicU64,
    /// The part of `received` that came from web seeds.
    from_web: AtomicU64,
    /// Pieces whose hash failed.
    failed_pieces: AtomicU64,
    /// Payload bytes handed to libtorrent for sending to peers.
    served: AtomicU64,
    /// Notified when a piece passed.
    progress: Notify,
    /// Suggestions to peers; `None` until the first peer became interested.
    suggester: Mutex<Option<Suggester>>,
    /// Pieces that cannot be read, and the messages about them that were not taken yet.
    unreadable: Mutex<(HashSet<u32>, Vec<Error>)>,
}

impl TorrentDisk {
    pub(in crate::torrents) fn new(number: u64) -> Arc<Self> {
        Arc::new(Self {
            number,
            content: OnceCell::new(),
            loader: OnceLock::new(),
            pieces: OpenPieces::default(),
            check_jobs: Mutex::default(),
            passed: Mutex::default(),
            offers: Mutex::default(),
            urgent: Mutex::default(),
            download_limit: Arc::new(DownloadLimit::new(None)),
            received: AtomicU64::new(0),
            from_web: AtomicU64::new(0),
            failed_pieces: AtomicU64::new(0),
            served: AtomicU64::new(0),
            progress: Notify::new(),
            suggester: Mutex::default(),
            unreadable: Mutex::default(),
        })
    }

    pub(in crate::torrents) fn number(&self) -> u64 {
        self.number
    }

    pub(in crate::torrents) fn download_limit(&self) -> &Arc<DownloadLimit> {
        &self.download_limit
    }

    pub(in crate::torrents) fn suggester(&self) -> &Mutex<Option<Suggester>> {
        &self.suggester
    }

    pub(in crate::torrents) fn content(&self) -> Option<&Content> {
        self.content.get()
    }

    /// Sets the content, once. libtorrent starts the torrent when [`TorrentDisk::start`] follows.
    pub(in crate::torrents) fn set_content(&self, content: Content) {
        assert!(self.content.set(content).is_ok(), "the torrent's content is set once");
    }

    /// Starts the torrent with content that is loaded on first use, once.
    pub(in crate::torrents) fn set_loader(&self, loader: Loader) {
        assert!(self.loader.set(loader).is_ok(), "the torrent's content is set once");
        self.start();
    }

    /// The content. Loads it from the catalog on first use. A peer sends many requests at once: the first read loads,
    /// and the others wait for it.
    ///
    /// # Errors
    /// When the catalog cannot be read, or there is no content yet.
    pub(super) async fn load_content(&self) -> Result<&Content> {
        let load = async || match self.loader.get() {
            Some(loader) => loader().await,
            None => Err(Error::new(Kind::Internal, "the torrent has no content yet")),
        };
        self.content.get_or_try_init(load).await
    }

    /// Records for the user that a piece cannot be read, once per piece.
    pub(super) fn report_unreadable(&self, piece: u32, error: Error) {
        let mut unreadable = self.unreadable.lock();
        if unreadable.0.insert(piece) {
            unreadable.1.push(error);
        }
    }

    /// Takes the errors of unreadable pieces recorded since the last call.
    pub(in crate::torrents) fn take_unreadable(&self) -> Vec<Error> {
        std::mem::take(&mut self.unreadable.lock().1)
    }

    /// Completes libtorrent's pending `check_files` jobs: the torrent may start.
    pub(in crate::torrents) fn start(&self) {
        for mut job in std::mem::take(&mut *self.check_jobs.lock()) {
            job.pin_mut().complete();
        }
    }

    pub(in crate::torrents) fn check_files(&self, mut job: UniquePtr<CheckJob>) {
        let mut check_jobs = self.check_jobs.lock();
        if self.content.get().is_some() || self.loader.get().is_some() {
            job.pin_mut().complete();
        } else {
            check_jobs.push(job);
        }
    }

    /// Accepts a block. `None` when the block is refused (its ack is dropped, which aborts it); otherwise whether to
    /// wake a hash worker.
    pub(super) fn accept_block(
        &self,
        piece: u32,
        start: usize,
        data: Bytes,
        mut ack: UniquePtr<WriteJob>,
    ) -> Option<bool> {
        let geometry = &self.content()?.geometry;
        let block = start / BLOCK_LEN;
        if !start.is_multiple_of(BLOCK_LEN)
            || piece >= geometry.pieces()
            || block >= geometry.blocks(piece)
        {
            return None;
        }
        if geometry.is_pad(&geometry.block(piece, block)) {
            // No peer sends padding, but libtorrent writes all blocks of a web seed's piece.
            ack.pin_mut().complete();
            return Some(false);
        }
        match self.pieces.put(piece, block, data, ack, geometry) {
            Ok(wake) => Some(wake),
            Err(mut ack) => {
                // A duplicate block of a piece that passed: the acknowledgement loses nothing.
                ack.pin_mut().complete();
                Some(false)
            }
        }
    }

    /// Stores libtorrent's hash request. Returns it as `Err` when the piece is not whole in memory: evicted in the
    /// meantime, or already stored.
    pub(super) fn request_hash(&self, piece: u32, request: HashRequest) -> Result<(), HashRequest> {
        self.pieces.request_hash(piece, request)
    }

    /// Called by a hash worker: hashes the available blocks, and answers libtorrent's request after the last block.
    pub(super) fn hash_ready_blocks(&self, piece: u32) {
        let Some(content) = self.content() else { return };
        loop {
            let Some(run) = self.pieces.start_hash_run(piece, &content.geometry) else { return };
            let Some(next) = self.pieces.finish_hash_run(piece, run.run()) else { return };
            match next {
                NextStep::Continue => {}
                NextStep::Wait => return,
                NextStep::Answer(request, hasher) => {
                    return answer_hash_request(request, &hasher.finish());
                }
            }
        }
    }

    /// The piece passed its hash: hands its bytes to the writer. Also called for pieces that were stored at the start;
    /// then it does nothing.
    pub(in crate::torrents) fn piece_passed(&self, piece: u32) {
        let Some(content) = self.content() else { return };
        let _span = tracing::debug_span!("piece", import = %content.store.id(), piece).entered();
        let base = content.geometry.piece(piece).start;
        let write = |runs: Vec<(u64, Vec<Bytes>)>| {
            let Some(writer) = &content.writer else { return };
            runs.into_iter().for_each(|(at, parts)| writer.write_at(base + at, parts));
        };
        if self.pieces.pass(piece, write) {
            self.passed.lock().push(piece);
            self.progress.notify_one();
        }
    }

    /// Payload bytes received from peers and web seeds so far, including bytes that were discarded later.
    pub(in crate::torrents) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The part of [`TorrentDisk::received`] that came from peers.
    pub(in crate::torrents) fn received_from_peers(&self) -> u64 {
        self.received().saturating_sub(self.from_web.load(Ordering::Relaxed))
    }

    /// Counts payload bytes received from a peer.
    pub(super) fn count_received_from_peer(&self, len: usize) {
        self.received.fetch_add(len as u64, Ordering::Relaxed);
    }

    /// Counts payload bytes received from a web seed.
    pub(in crate::torrents) fn count_received_from_web(&self, len: u64) {
        self.from_web.fetch_add(len, Ordering::Relaxed);
        self.received.fetch_add(len, Ordering::Relaxed);
    }

    /// Counts a piece that failed its hash.
    pub(super) fn count_failed(&self) {
        self.failed_pieces.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::torrents) fn failed_pieces(&self) -> u64 {
        self.failed_pieces.load(Ordering::Relaxed)
    }

    /// Makes the blocks of a verified piece available to libtorrent's writes, until the result is dropped.
    pub(in crate::torrents) fn offer(&self, piece: u32, blocks: Vec<Bytes>) -> Offer<'_> {
        self.offers.lock().insert(piece, blocks.into_iter().map(Some).collect());
        Offer { disk: self, piece }
    }

    /// Takes an offered block of this length out of the offer.
    pub(super) fn take_offered(&self, piece: u32, start: usize, len: usize) -> Option<Bytes> {
        let mut offers = self.offers.lock();
        let block = offers.get_mut(&piece)?.get_mut(start / BLOCK_LEN)?;
        if block.as_ref()?.len() == len { block.take() } else { None }
    }

    /// How much of a piece is in memory and not durable yet.
    pub(in crate::torrents) fn holding(&self, piece: u32) -> Holding {
        self.pieces.holding(piece)
    }

    /// Whether a piece is durable.
    pub(in crate::torrents) fn is_durable(&self, piece: u32) -> bool {
        let stored = |content: &Content| content.store.is_durable(content.geometry.piece(piece));
        self.content().is_some_and(stored)
    }

    /// Counts bytes handed out for a peer's request.
    pub(super) fn count_served(&self, bytes: &Bytes) {
        self.served.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }

    pub(in crate::torrents) fn bytes_served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Waits until a piece passed since the previous wait.
    pub(in crate::torrents) async fn wait_for_progress(&self) {
        self.progress.notified().await;
    }

    /// Takes the pieces that passed since the last call.
    pub(in crate::torrents) fn take_passed(&self) -> Vec<u32> {
        std::mem::take(&mut *self.passed.lock())
    }

    /// The hash failed. The acks are completed before the caller completes the clear job: a later success would mark a
    /// block that was requested again as finished. A v1 piece is dropped as a whole; of a v2 piece only bad blocks are
    /// downloaded again.
    pub(in crate::torrents) fn clear(&self, piece: u32) {
        let has_v2 = self.content().is_none_or(|content| content.geometry.has_v2());
        complete_acks(self.pieces.fail(piece, has_v2));
    }

    /// The torrent stops (pause, removal, shutdown): no ack may be held any longer. Partial pieces are dropped and
    /// their acks aborted; their blocks are requested again after a resume. All other pieces stay, with their acks
    /// completed.
    pub(in crate::torrents) fn stop(&self) {
        complete_acks(self.pieces.stop());
    }

    /// Drops everything in flight; the jobs complete with `operation_aborted`.
    pub(in crate::torrents) fn abort(&self) {
        let check_jobs = std::mem::take(&mut *self.check_jobs.lock());
        drop(check_jobs);
        self.pieces.abort();
    }

    /// Sets the pieces that a reader waits for now.
    pub(in crate::torrents) fn set_urgent(&self, pieces: impl IntoIterator<Item = u32>) {
        *self.urgent.lock() = pieces.into_iter().collect();
    }

    /// The next piece to evict: whether a reader waits for it, the number of blocks it holds, and its number.
    pub(super) fn least_complete(&self) -> Option<(bool, usize, u32)> {
        self.pieces.least_complete(&self.urgent.lock())
    }

    /// Evicts a partial piece; its acks complete with `operation_aborted`. Returns the number of blocks freed.
    pub(in crate::torrents) fn evict(&self, piece: u32) -> usize {
        self.pieces.evict(piece)
    }

    /// Objects were committed: completes the acks of pieces that are durable now.
    pub(in crate::torrents) fn on_durable(&self, ranges: &[Range<u64>]) {
        let Some(content) = self.content() else { return };
        let pieces = ranges.iter().flat_map(|range| content.geometry.pieces_in(range));
        let is_durable = |piece| content.store.is_durable(content.geometry.piece(piece));
        complete_acks(self.pieces.close_durable(pieces, is_durable));
    }

    /// Bytes that are in memory already, open or verified. Without a `buffer` only the bytes of open pieces, which
    /// [`Content::reader`] cannot read.
    pub(super) fn read_memory(
        &self,
        buffer: Option<SendBuffer>,
        piece: u32,
        start: usize,
        len: usize,
    ) -> Option<Bytes> {
        let content = self.content()?;
        if let Some(read) = self.pieces.read(piece, |open| read_open(open, start, len)) {
            let payload = read?;
            return Some(match buffer {
                Some(buffer) => buffer.lend(&payload),
                None => payload.to_bytes(),
            });
        }
        let buffer = buffer?;
        Some(buffer.lend(&content.reader.try_read(content.block(piece, start, len))?))
    }
}

/// An offered piece. Dropping it withdraws the blocks that were not written.
pub(in crate::torrents) struct Offer<'a> {
    disk: &'a TorrentDisk,
    piece: u32,
}

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        self.disk.offers.lock().remove(&self.piece);
    }
}

fn read_open<A>(open: &OpenPiece<A>, start: usize, len: usize) -> Option<Payload> {
    let (first, at) = (start / BLOCK_LEN, start % BLOCK_LEN);
    let one = open.get(first)?;
    if at + len <= one.len() {
        return Some(Payload::from_iter([one.slice(at..at + len)]));
    }
    let two = open.get(first + 1)?;
    let front = one.get(at..)?.len();
    let back = two.get(..len.checked_sub(front)?)?.len();
    Some(Payload::from_iter([one.slice(at..), two.slice(..back)]))
}

fn complete_acks(acks: Vec<UniquePtr<WriteJob>>) {
    for mut ack in acks {
        ack.pin_mut().complete();
    }
}

/// Sends libtorrent the digests it requested.
pub(super) fn answer_hash_request(mut request: HashRequest, digests: &PieceDigests) {
    let v1 = digests.v1.filter(|_| request.kinds.v1);
    let v2 = if request.kinds.v2 { digests.v2_blocks.as_flattened() } else { &[] };
    request.job.pin_mut().complete(v1.as_ref().map_or(&[], |d| &d[..]), v2);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::{
        backends::MemoryBackend,
        catalog::{Catalog, FileRow, NewImport},
        storage::{ImportStore, WindowCache},
        torrents::metainfo::Metainfo,
    };

    async fn content(catalog: &Catalog) -> Result<Content> {
        let meta = Metainfo::parse(include_bytes!("../metainfo/testdata/multi_v1.torrent"))?;
        let files = vec![FileRow { len: meta.len, ..FileRow::default() }];
        let new = NewImport { len: meta.len, chunk_len: 1 << 20, files, ..NewImport::default() };
        let row = catalog.create_import(new).await?;
        let store = ImportStore::open(catalog, &row, Arc::new(MemoryBackend::default())).await?;
        Ok(Content::new(meta, store, WindowCache::new(1 << 20), None))
    }

    #[tokio::test]
    async fn many_reads_at_once_load_the_content_once_and_a_failure_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let disk = TorrentDisk::new(1);
        assert!(disk.load_content().await.is_err(), "there is no loader yet");
        let loads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&loads);
        disk.set_loader(Box::new(move || {
            let (catalog, is_first) =
                (catalog.clone(), counted.fetch_add(1, Ordering::Relaxed) == 0);
            Box::pin(async move {
                match is_first {
                    true => Err(Error::new(Kind::Unavailable, "not now")),
                    false => content(&catalog).await,
                }
            })
        }));
        assert_eq!(disk.load_content().await.unwrap_err().kind(), Kind::Unavailable);
        assert!(disk.content().is_none());
        let reads = (0..20).map(|_| disk.load_content());
        futures_util::future::try_join_all(reads).await.unwrap();
        assert_eq!(loads.load(Ordering::Relaxed), 2);
        assert!(disk.content().is_some());
    }
}
