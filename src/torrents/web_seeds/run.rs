//! Fetches a run of pieces from one web seed, range after range and file after file. Each piece is verified against the
//! torrent's hashes before libtorrent gets it.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::OnceCell;
use url::Url;

use super::{
    address::{Reach, file_url, reach},
    names::RawNames,
};
use crate::{
    error::{Error, Kind, Result},
    memory::{BLOCK_LEN, OpenBlock, Share},
    protocols::{Protocol, Protocols, RangeRequest, RemoteFile, display_url, next_bytes},
    torrents::{
        disk::{open_pieces::Holding, torrent_disk::TorrentDisk},
        metainfo::{
            Metainfo,
            check::{PieceHasher, PieceHashes},
        },
        session::{NativeTorrent, TorrentSession},
    },
};

/// A piece that libtorrent does not accept is offered again after this time: it accepts none while it opens a torrent.
const OFFER_INTERVAL: Duration = Duration::from_millis(100);
/// How often a piece is offered before the run ends and its pieces are chosen again.
const MAX_OFFERS: u32 = 100;

/// State shared by the runs of one torrent.
pub(super) struct RunContext {
    pub(super) meta: Arc<Metainfo>,
    pub(super) names: RawNames,
    pub(super) disk: Arc<TorrentDisk>,
    pub(super) torrent: Arc<NativeTorrent>,
    pub(super) session: Arc<TorrentSession>,
    /// For web seeds in the public network.
    pub(super) public: Protocols,
    /// For web seeds on this machine and its network.
    pub(super) private: Protocols,
    pub(super) by_proxy: bool,
}

/// A web seed, shared by its runs.
#[derive(Debug)]
pub(super) struct WebSeed {
    pub(super) url: Url,
    protocol: OnceCell<Arc<dyn Protocol>>,
    /// Whether the server sends whole files only.
    whole_files: AtomicBool,
}

impl WebSeed {
    pub(super) fn new(url: Url) -> Self {
        Self { url, protocol: OnceCell::new(), whole_files: AtomicBool::new(false) }
    }

    pub(super) fn sends_whole_files(&self) -> bool {
        self.whole_files.load(Ordering::Relaxed)
    }

    async fn protocol(&self, context: &RunContext) -> Result<&Arc<dyn Protocol>> {
        let open = || async {
            match reach(&self.url, context.by_proxy).await? {
                Reach::Public => context.public.for_url(&self.url, None),
                Reach::Private => context.private.for_url(&self.url, None),
            }
        };
        self.protocol.get_or_try_init(open).await
    }
}

/// Why a run ended before its last piece.
#[derive(Debug)]
pub(super) enum RunError {
    /// The web seed does not have this file, or has a different version of it.
    File(usize, Error),
    /// The bytes of this piece do not match its hash.
    WrongBytes(u32),
    /// A later request may succeed.
    Retryable(Error),
    /// No request may be sent to the web seed.
    Unusable(Error),
    /// The server turned out to send whole files only.
    WholeFilesOnly,
}

/// How a run ended.
#[derive(Debug)]
pub(in crate::torrents) struct RunOutcome {
    pub(super) seed: usize,
    /// The pieces that were not fetched.
    pub(super) unfetched: Range<u32>,
    /// Number of pieces fetched.
    pub(super) fetched: u32,
    pub(super) error: Option<RunError>,
}

/// Fetches `pieces` from `seed`, whose index in the list of web seeds is `number`.
pub(super) async fn fetch(
    context: Arc<RunContext>,
    seed: Arc<WebSeed>,
    number: usize,
    pieces: Range<u32>,
) -> RunOutcome {
    let first = pieces.start;
    let mut run = WebSeedRun::new(&context, &seed, pieces);
    let error = run.fetch().await.err();
    let fetched = run.pieces.start - first;
    RunOutcome { seed: number, unfetched: run.pieces, fetched, error }
}

/// A run of pieces that is being fetched. It holds one piece at a time, in blocks of the budget.
struct WebSeedRun<'a> {
    context: &'a Arc<RunContext>,
    seed: &'a WebSeed,
    /// Pieces that are not delivered yet; the first one is being assembled.
    pieces: Range<u32>,
    hasher: PieceHasher,
    blocks: Vec<Bytes>,
    /// The block that is being filled, and its bytes so far.
    open: Option<(OpenBlock, usize)>,
    /// Bytes missing in the piece that is being assembled.
    missing: usize,
}

impl<'a> WebSeedRun<'a> {
    fn new(context: &'a Arc<RunContext>, seed: &'a WebSeed, pieces: Range<u32>) -> Self {
        let hasher = PieceHashes::of(&context.meta).hasher(pieces.start);
        let missing = len(&context.meta.piece_range(pieces.start));
        Self { context, seed, pieces, hasher, blocks: Vec::new(), open: None, missing }
    }

    async fn fetch(&mut self) -> Result<(), RunError> {
        let meta = Arc::clone(&self.context.meta);
        self.seed.protocol(self.context).await.map_err(RunError::Unusable)?;
        let start = meta.piece_range(self.pieces.start).start;
        let end = meta.piece_range(self.pieces.end - 1).end;
        let first = meta.file_at(start).map_or(0, |(index, _)| index);
        for (index, file) in meta.files.iter().enumerate().skip(first) {
            let part = file.range.start.max(start)..file.range.end.min(end);
            if file.range.start >= end {
                break;
            }
            if part.is_empty() {
                continue;
            }
            if file.pad {
                self.push_zeros(part.end - part.start).await?;
            } else {
                let within = part.start - file.range.start..part.end - file.range.start;
                self.fetch_file(index, within).await?;
            }
        }
        Ok(())
    }

    async fn fetch_file(&mut self, index: usize, part: Range<u64>) -> Result<(), RunError> {
        let file = &self.context.meta.files[index].range;
        let no_url =
            || Error::new(Kind::Unsupported, "the name of the file cannot be part of a URL");
        let url = file_url(&self.seed.url, &self.context.names, index);
        let url = url.ok_or_else(|| RunError::File(index, no_url()))?;
        let ranges = !self.seed.sends_whole_files();
        let remote = RemoteFile {
            len: Some(file.end - file.start),
            supports_ranges: ranges,
            ..RemoteFile::from_url(url.clone())
        };
        let from = if ranges { part.start } else { 0 };
        let protocol = self.seed.protocol(self.context).await.map_err(RunError::Unusable)?;
        let opened = protocol.open(&remote, RangeRequest::from(from..part.end)).await;
        let mut stream = opened.map_err(|e| self.run_error(index, &url, e))?;
        let (mut skip, mut missing) = (part.start - from, part.end - part.start);
        while let Some(bytes) = next_bytes(&mut stream).await {
            let mut bytes = bytes.map_err(|e| self.run_error(index, &url, e))?;
            let memory = self.context.session.memory();
            let _body = memory.charge(Share::Bodies, bytes.len());
            self.context.disk.download_limit().acquire(bytes.len() as u64).await;
            self.context.session.download_limit().acquire(bytes.len() as u64).await;
            let skipped = bytes.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
            skip -= skipped as u64;
            let bytes = bytes.split_off(skipped);
            self.context.disk.count_received_from_web(bytes.len() as u64);
            missing = missing.saturating_sub(bytes.len() as u64);
            self.push(&bytes).await?;
        }
        if missing > 0 {
            let text = format!("{}: the response ended early", display_url(&url));
            return Err(RunError::Retryable(Error::new(Kind::Network, text)));
        }
        Ok(())
    }

    fn run_error(&self, index: usize, url: &Url, e: Error) -> RunError {
        match e.kind() {
            kind if kind.is_retryable() => RunError::Retryable(e),
            Kind::Unsupported if !self.seed.whole_files.swap(true, Ordering::Relaxed) => {
                RunError::WholeFilesOnly
            }
            Kind::Changed | Kind::Corrupt => {
                let len = self.context.meta.files[index].range.clone();
                let len = len.end - len.start;
                let text = format!(
                    "{}: the file on the server does not have {len} bytes",
                    display_url(url)
                );
                RunError::File(index, Error::new(Kind::Changed, text))
            }
            _ => RunError::File(index, e),
        }
    }

    async fn push_zeros(&mut self, mut zeros: u64) -> Result<(), RunError> {
        static ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];
        while zeros > 0 {
            let part = usize::try_from(zeros).unwrap_or(BLOCK_LEN).min(BLOCK_LEN);
            self.push(&ZEROS[..part]).await?;
            zeros -= part as u64;
        }
        Ok(())
    }

    /// Adds the next bytes of the run.
    async fn push(&mut self, mut bytes: &[u8]) -> Result<(), RunError> {
        while !bytes.is_empty() && !self.pieces.is_empty() {
            let (mut block, filled) = match self.open.take() {
                Some(open) => open,
                None => (self.next_block().await, 0),
            };
            let part = bytes.len().min(BLOCK_LEN - filled).min(self.missing);
            let end = filled + part;
            block[filled..end].copy_from_slice(&bytes[..part]);
            self.missing -= part;
            bytes = &bytes[part..];
            if end == BLOCK_LEN || self.missing == 0 {
                self.hasher.update(&block[..end]);
                self.blocks.push(block.freeze(end));
            } else {
                self.open = Some((block, end));
            }
            if self.missing == 0 {
                self.deliver_piece().await?;
            }
        }
        Ok(())
    }

    /// Waits for the memory of the next block of the piece.
    async fn next_block(&self) -> OpenBlock {
        let disk = self.context.session.disk();
        if self.blocks.is_empty() {
            disk.wait_for_piece_memory().await;
        }
        disk.wait_for_block_memory().await;
        self.context.session.pool().allocate()
    }

    /// Verifies the assembled piece, gives it to libtorrent, and starts the next one.
    async fn deliver_piece(&mut self) -> Result<(), RunError> {
        let piece = self.pieces.start;
        let hashes = PieceHashes::of(&self.context.meta);
        let following = self.pieces.start + 1;
        let hasher = std::mem::replace(&mut self.hasher, hashes.hasher(following));
        let blocks = std::mem::take(&mut self.blocks);
        if !hashes.verify(piece, &hasher.finish()) {
            return Err(RunError::WrongBytes(piece));
        }
        self.context.offer_until_accepted(piece, blocks).await.map_err(RunError::Retryable)?;
        self.pieces.start = following;
        self.missing = len(&self.context.meta.piece_range(following));
        Ok(())
    }
}

impl RunContext {
    /// Offers a verified piece to libtorrent until it is accepted.
    async fn offer_until_accepted(&self, piece: u32, blocks: Vec<Bytes>) -> Result<()> {
        for _ in 0..MAX_OFFERS {
            let offer = self.disk.offer(piece, blocks.clone());
            self.torrent.add_piece(piece).await?;
            drop(offer);
            if self.disk.holding(piece) != Holding::Nothing || self.disk.is_durable(piece) {
                return Ok(());
            }
            tokio::time::sleep(OFFER_INTERVAL).await;
        }
        Err(Error::new(Kind::Unavailable, format!("libtorrent does not accept piece {piece}")))
    }
}

fn len(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("a piece is at most 128 MiB")
}
