//! One torrent's side of the disk: its open pieces, and where verified bytes go.
//!
//! Locks: `pieces` is held for a map lookup and a pointer push, never across hashing, a put or a completion of many
//! jobs; nothing here waits. A piece's bytes are in exactly one place a read looks at: the open piece until it passes,
//! the import's store from then on (memory, cache, object).

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
use tokio::sync::Notify;

use super::{
    check::PieceDigests,
    content::{Content, Loader},
    ffi::{CheckJob, WriteJob},
    guide::Guide,
    piece::{AfterRun, HashRequest, OpenPiece, Stage},
    sends::Sends,
};
use crate::{
    backends::Payload,
    error::{Error, Kind, Result},
    memory::BLOCK,
};

pub(super) struct TorrentDisk {
    number: u64,
    content: OnceLock<Content>,
    /// Where content comes from that is not there yet.
    loader: OnceLock<Loader>,
    loading: Mutex<()>,
    pieces: Mutex<HashMap<u32, OpenPiece>>,
    /// libtorrent's question "may I start?", held until there is content to start on.
    checks: Mutex<Vec<UniquePtr<CheckJob>>>,
    passed: Mutex<Vec<u32>>,
    /// Pieces that came from a web seed, for the writes that libtorrent makes of them: by block, until it is written.
    offers: Mutex<HashMap<u32, Vec<Option<Bytes>>>>,
    /// Pieces that a reader waits for: evicted only when there is no other.
    urgent: Mutex<BTreeSet<u32>>,
    /// Payload bytes received from peers and web seeds, and of these the web seeds'.
    received: AtomicU64,
    from_web: AtomicU64,
    /// Pieces whose hash failed.
    failed: AtomicU64,
    /// Payload bytes handed over to be sent to them.
    given: AtomicU64,
    /// Rung when a piece passed.
    progress: Notify,
    /// Where peers are led, once there was one.
    guide: Mutex<Option<Guide>>,
    /// Pieces that cannot be read, and what of that nobody has been told yet.
    unreadable: Mutex<(HashSet<u32>, Vec<String>)>,
}

impl TorrentDisk {
    pub(super) fn new(number: u64) -> Arc<Self> {
        Arc::new(Self {
            number,
            content: OnceLock::new(),
            loader: OnceLock::new(),
            loading: Mutex::default(),
            pieces: Mutex::default(),
            checks: Mutex::default(),
            passed: Mutex::default(),
            offers: Mutex::default(),
            urgent: Mutex::default(),
            received: AtomicU64::new(0),
            from_web: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            given: AtomicU64::new(0),
            progress: Notify::new(),
            guide: Mutex::default(),
            unreadable: Mutex::default(),
        })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn guide(&self) -> &Mutex<Option<Guide>> {
        &self.guide
    }

    pub(super) fn content(&self) -> Option<&Content> {
        self.content.get()
    }

    /// Gives the torrent its content, once. libtorrent starts when [`TorrentDisk::start`] follows.
    pub(super) fn set_content(&self, content: Content) {
        assert!(self.content.set(content).is_ok(), "a torrent gets its content once");
    }

    /// Lets the torrent start with content that is made when it is needed, once.
    pub(super) fn set_loader(&self, loader: Loader) {
        assert!(self.loader.set(loader).is_ok(), "a torrent gets its content once");
        self.start();
    }

    /// The content, made now if need be: that reads the catalog.
    ///
    /// # Errors
    /// When the catalog cannot be read, or there is no content yet.
    pub(super) async fn loaded(self: &Arc<Self>) -> Result<&Content> {
        if self.content.get().is_none() {
            let this = Arc::clone(self);
            let load = move || {
                let Some(loader) = this.loader.get() else { return Ok(()) };
                // A peer asks for many blocks at once: the first read loads.
                let _turn = this.loading.lock();
                if this.content.get().is_some() {
                    return Ok(());
                }
                loader().map(|content| drop(this.content.set(content)))
            };
            let broke =
                |e| Error::new(Kind::Internal, "a torrent's content was not read").because(e);
            tokio::task::spawn_blocking(load).await.map_err(broke)??;
        }
        self.content.get().ok_or_else(|| Error::new(Kind::Internal, "a torrent has no content yet"))
    }

    /// Notes that a piece cannot be read, for whoever tells the user. Told once a piece.
    pub(super) fn unreadable(&self, piece: u32, text: String) {
        let mut unreadable = self.unreadable.lock();
        if unreadable.0.insert(piece) {
            unreadable.1.push(text);
        }
    }

    /// What nobody has been told yet of pieces that cannot be read.
    pub(super) fn take_unreadable(&self) -> Vec<String> {
        std::mem::take(&mut self.unreadable.lock().1)
    }

    /// Answers libtorrent's pending "may I start?".
    pub(super) fn start(&self) {
        for mut job in std::mem::take(&mut *self.checks.lock()) {
            job.pin_mut().complete();
        }
    }

    pub(super) fn check(&self, mut job: UniquePtr<CheckJob>) {
        let mut checks = self.checks.lock();
        if self.content.get().is_some() || self.loader.get().is_some() {
            job.pin_mut().complete();
        } else {
            checks.push(job);
        }
    }

    /// Takes a block. `None` when it is not wanted any more (the ack is dropped); else whether to wake a hasher.
    pub(super) fn write(
        &self,
        piece: u32,
        start: usize,
        data: Bytes,
        mut ack: UniquePtr<WriteJob>,
    ) -> Option<bool> {
        let content = self.content()?;
        if !start.is_multiple_of(BLOCK) || piece >= content.geometry.pieces() {
            return None;
        }
        if content.geometry.is_pad(&content.geometry.block(piece, start / BLOCK)) {
            // No peer sends it, but a piece of a web seed is written whole.
            ack.pin_mut().complete();
            return Some(false);
        }
        let mut pieces = self.pieces.lock();
        let open = pieces.entry(piece).or_insert_with(|| OpenPiece::new(piece, &content.geometry));
        if open.stage() == Stage::Passed {
            // A duplicate of a block that passed already: nothing is lost by saying yes.
            ack.pin_mut().complete();
            return Some(false);
        }
        Some(open.put(start / BLOCK, data, ack))
    }

    /// Remembers libtorrent's question. False when the piece is not whole in memory (evicted meanwhile, or stored).
    pub(super) fn ask_hash(&self, piece: u32, request: HashRequest) -> Result<(), HashRequest> {
        match self.pieces.lock().get_mut(&piece) {
            Some(open) if open.stage() == Stage::Open && open.is_whole() => {
                open.ask(request);
                Ok(())
            }
            _ => Err(request),
        }
    }

    /// A hash worker's turn: feeds what is there, and answers libtorrent when all of it was.
    pub(super) fn hash_front(&self, piece: u32) {
        let Some(content) = self.content() else { return };
        loop {
            let run = match self.pieces.lock().get_mut(&piece) {
                Some(open) => open.take_run(&content.geometry),
                None => None,
            };
            let Some(run) = run else { return };
            let (epoch, hasher, fed) = run.feed();
            let after = match self.pieces.lock().get_mut(&piece) {
                Some(open) => open.give_back(epoch, hasher, fed),
                None => return,
            };
            match after {
                AfterRun::Again => {}
                AfterRun::Idle => return,
                AfterRun::Answer(request, hasher) => return answer(request, &hasher.finish()),
            }
        }
    }

    /// The piece passed: its bytes go to the writer. Also called for pieces that were here from the start: no-op.
    pub(super) fn pass(&self, piece: u32) {
        let Some(content) = self.content() else { return };
        let _span = tracing::debug_span!("piece", import = %content.store.id(), piece).entered();
        let runs = match self.pieces.lock().get_mut(&piece) {
            Some(open) if open.stage() == Stage::Open => {
                let runs = open.pass();
                let Some(writer) = &content.writer else { return };
                let base = content.geometry.piece(piece).start;
                // Under the lock: a read that finds the piece passed must find its bytes in the store.
                for (at, parts) in runs {
                    writer.write_at(base + at, parts);
                }
                true
            }
            _ => false,
        };
        if runs {
            self.passed.lock().push(piece);
            self.progress.notify_one();
        }
    }

    /// Payload bytes received from peers and web seeds so far, whatever became of them.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Of these, those of peers.
    pub(super) fn received_from_peers(&self) -> u64 {
        self.received().saturating_sub(self.from_web.load(Ordering::Relaxed))
    }

    /// Counts bytes of a peer.
    pub(super) fn count_received(&self, len: usize) {
        self.received.fetch_add(len as u64, Ordering::Relaxed);
    }

    /// Counts bytes of a web seed.
    pub(super) fn arrived(&self, len: u64) {
        self.from_web.fetch_add(len, Ordering::Relaxed);
        self.received.fetch_add(len, Ordering::Relaxed);
    }

    /// Counts a piece that failed its hash.
    pub(super) fn count_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Holds the blocks of a verified piece ready for libtorrent's writes, until the result is dropped.
    pub(super) fn offer(&self, piece: u32, blocks: Vec<Bytes>) -> Offer<'_> {
        self.offers.lock().insert(piece, blocks.into_iter().map(Some).collect());
        Offer { disk: self, piece }
    }

    /// A block that was offered, given away.
    pub(super) fn take_offered(&self, piece: u32, start: usize, len: usize) -> Option<Bytes> {
        let mut offers = self.offers.lock();
        let block = offers.get_mut(&piece)?.get_mut(start / BLOCK)?;
        if block.as_ref()?.len() == len { block.take() } else { None }
    }

    /// What of a piece is here and not durable yet.
    pub(super) fn holding(&self, piece: u32) -> Holding {
        match self.pieces.lock().get(&piece) {
            None => Holding::Nothing,
            Some(open) if open.stage() == Stage::Open && open.is_to_come() => Holding::Part,
            Some(_) => Holding::Whole,
        }
    }

    /// Whether a piece is durable.
    pub(super) fn is_stored(&self, piece: u32) -> bool {
        let stored = |content: &Content| content.store.covered(content.geometry.piece(piece));
        self.content().is_some_and(stored)
    }

    /// Counts bytes that answer a peer's request.
    pub(super) fn gave(&self, bytes: &Bytes) {
        self.given.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }

    pub(super) fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    /// Waits until a piece passed since the last wait.
    pub(super) async fn progress(&self) {
        self.progress.notified().await;
    }

    /// Pieces that passed since the last call.
    pub(super) fn take_passed(&self) -> Vec<u32> {
        std::mem::take(&mut *self.passed.lock())
    }

    /// The hash failed. Acks go out before the caller completes the clear job: a late success would mark a block that
    /// was asked for again as finished. Of a v1 piece nothing is kept; of a v2 piece only bad blocks come again.
    pub(super) fn clear(&self, piece: u32) {
        let mut pieces = self.pieces.lock();
        let Some(open) = pieces.get_mut(&piece) else { return };
        let acks = open.reset();
        if self.content().is_some_and(|c| !c.geometry.has_v2()) {
            pieces.remove(&piece);
        }
        drop(pieces);
        complete(acks);
    }

    /// The torrent stops (pause, removal, shutdown): no ack may be held any longer. Partial pieces are given up (their
    /// blocks are asked for again after a resume); whole and passed ones stay on their way.
    pub(super) fn stop(&self) {
        let mut pieces = self.pieces.lock();
        pieces.retain(|_, open| !open.is_evictable());
        let acks: Vec<_> = pieces
            .values_mut()
            .flat_map(|open| {
                open.pin();
                open.take_acks()
            })
            .collect();
        drop(pieces);
        complete(acks);
    }

    /// Everything in flight is given up; jobs complete with `operation_aborted`.
    pub(super) fn abort(&self) {
        let checks = std::mem::take(&mut *self.checks.lock());
        let pieces = std::mem::take(&mut *self.pieces.lock());
        drop((checks, pieces));
    }

    /// Says which pieces a reader waits for now.
    pub(super) fn set_urgent(&self, pieces: impl IntoIterator<Item = u32>) {
        *self.urgent.lock() = pieces.into_iter().collect();
    }

    /// The piece that may go first: whether a reader waits for it, the blocks it holds, and which it is.
    pub(super) fn least_complete(&self) -> Option<(bool, usize, u32)> {
        let urgent = self.urgent.lock().clone();
        let pieces = self.pieces.lock();
        let open = pieces.iter().filter(|(_, p)| p.is_evictable() && p.received() > 0);
        open.map(|(&n, p)| (urgent.contains(&n), p.received(), n)).min()
    }

    /// Gives up a partial piece; its acks complete with `operation_aborted`. Answers the blocks freed.
    pub(super) fn evict(&self, piece: u32) -> usize {
        let mut pieces = self.pieces.lock();
        match pieces.get(&piece) {
            Some(open) if open.is_evictable() => pieces.remove(&piece).map_or(0, |p| p.received()),
            _ => 0,
        }
    }

    /// Objects were committed: pieces that are durable now get their acks.
    pub(super) fn durable(&self, ranges: &[Range<u64>]) {
        let Some(content) = self.content() else { return };
        let mut acks = Vec::new();
        let mut pieces = self.pieces.lock();
        for piece in ranges.iter().flat_map(|r| content.geometry.pieces_in(r)) {
            let Some(open) = pieces.get_mut(&piece) else { continue };
            if open.stage() == Stage::Passed && content.store.covered(content.geometry.piece(piece))
            {
                acks.extend(open.take_acks());
                pieces.remove(&piece);
            }
        }
        drop(pieces);
        complete(acks);
    }

    /// Bytes that are in memory already, open or verified. What the cache has is counted by `sends`, and left there
    /// without it.
    pub(super) fn read_memory(
        &self,
        sends: Option<&Sends>,
        piece: u32,
        start: usize,
        len: usize,
    ) -> Option<Bytes> {
        let content = self.content()?;
        if let Some(open) = self.pieces.lock().get(&piece).filter(|p| p.stage() == Stage::Open) {
            return read_open(open, start, len);
        }
        let range = content.block(piece, start, len);
        let kept = sends.and_then(|sends| Some(sends.lend(&content.reader.try_kept(&range)?)));
        kept.or_else(|| content.reader.try_memory(range).map(|p| p.joined()))
    }
}

/// What of a piece is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    Nothing,
    /// Blocks are missing, or come again after the hash failed.
    Part,
    /// It is being hashed, or on its way to storage.
    Whole,
}

/// An offered piece. Dropping it takes back what was not written.
pub(super) struct Offer<'a> {
    disk: &'a TorrentDisk,
    piece: u32,
}

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        self.disk.offers.lock().remove(&self.piece);
    }
}

fn read_open(open: &OpenPiece, start: usize, len: usize) -> Option<Bytes> {
    let (first, at) = (start / BLOCK, start % BLOCK);
    let one = open.get(first)?;
    if at + len <= one.len() {
        return Some(one.slice(at..at + len));
    }
    let two = open.get(first + 1)?;
    let front = one.get(at..)?.len();
    let back = two.get(..len.checked_sub(front)?)?.len();
    Some(Payload::from_iter([one.slice(at..), two.slice(..back)]).joined())
}

fn complete(acks: Vec<UniquePtr<WriteJob>>) {
    for mut ack in acks {
        ack.pin_mut().complete();
    }
}

/// Tells libtorrent the digests it asked for.
pub(super) fn answer(mut request: HashRequest, digests: &PieceDigests) {
    let v1 = digests.v1.filter(|_| request.wants.v1);
    let v2 = if request.wants.v2 { digests.v2_blocks.as_flattened() } else { &[] };
    request.job.pin_mut().complete(v1.as_ref().map_or(&[], |d| &d[..]), v2);
}
