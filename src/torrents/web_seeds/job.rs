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
    names::Names,
};
use crate::{
    error::{Error, Kind, Result},
    memory::BLOCK,
    protocols::{Protocol, Protocols, Remote, Wanted, next, place},
    torrents::{
        check::{PieceHasher, PieceHashes},
        metainfo::Metainfo,
        session::{Torrent, Torrents},
        torrent_disk::{Holding, TorrentDisk},
    },
};

/// A piece that libtorrent does not accept is offered again after this time: it accepts none while it opens a torrent.
const AGAIN: Duration = Duration::from_millis(100);
/// How often a piece is offered before the job ends and its pieces are chosen again.
const TRIES: u32 = 100;

/// State shared by the jobs of one torrent.
pub(super) struct Shared {
    pub(super) meta: Arc<Metainfo>,
    pub(super) names: Names,
    pub(super) disk: Arc<TorrentDisk>,
    pub(super) session: Arc<Torrents>,
    /// For web seeds in the public network.
    pub(super) public: Protocols,
    /// For web seeds on this machine and its network.
    pub(super) private: Protocols,
    pub(super) by_proxy: bool,
}

/// A web seed, shared by its jobs.
#[derive(Debug)]
pub(super) struct Seed {
    pub(super) url: Url,
    protocol: OnceCell<Arc<dyn Protocol>>,
    /// Whether the server sends whole files only.
    whole_files: AtomicBool,
}

impl Seed {
    pub(super) fn new(url: Url) -> Self {
        Self { url, protocol: OnceCell::new(), whole_files: AtomicBool::new(false) }
    }

    pub(super) fn gives_whole_files(&self) -> bool {
        self.whole_files.load(Ordering::Relaxed)
    }

    async fn protocol(&self, shared: &Shared) -> Result<&Arc<dyn Protocol>> {
        let open = || async {
            match reach(&self.url, shared.by_proxy).await? {
                Reach::Public => shared.public.of(&self.url, None),
                Reach::Private => shared.private.of(&self.url, None),
            }
        };
        self.protocol.get_or_try_init(open).await
    }
}

/// Why a job ended before its last piece.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The web seed does not have this file, or has a different version of it.
    File(usize, Error),
    /// The bytes of this piece do not match its hash.
    Wrong(u32),
    /// A later request may succeed.
    Later(Error),
    /// No request may be sent to the web seed.
    Never(Error),
    /// The server turned out to send whole files only.
    WholeFiles,
}

/// How a job ended.
#[derive(Debug)]
pub(in crate::torrents) struct Outcome {
    pub(super) seed: usize,
    /// The pieces that were not fetched.
    pub(super) left: Range<u32>,
    /// Number of pieces fetched.
    pub(super) brought: u32,
    pub(super) trouble: Option<Trouble>,
}

/// Fetches `pieces` from `seed`, whose index in the list of web seeds is `number`.
pub(super) async fn fetch(
    shared: Arc<Shared>,
    seed: Arc<Seed>,
    number: usize,
    pieces: Range<u32>,
) -> Outcome {
    let begun = pieces.start;
    let mut run = Run::new(&shared, &seed, pieces);
    let trouble = run.fetch().await.err();
    let brought = run.pieces.start - begun;
    Outcome { seed: number, left: run.pieces, brought, trouble }
}

/// A run of pieces that is being fetched. It holds one piece at a time, in blocks of the budget.
struct Run<'a> {
    shared: &'a Arc<Shared>,
    seed: &'a Seed,
    /// Pieces that are not delivered yet; the first one is being assembled.
    pieces: Range<u32>,
    hasher: PieceHasher,
    blocks: Vec<Bytes>,
    buffer: Vec<u8>,
    /// Bytes missing in the piece that is being assembled.
    missing: usize,
}

impl<'a> Run<'a> {
    fn new(shared: &'a Arc<Shared>, seed: &'a Seed, pieces: Range<u32>) -> Self {
        let hasher = PieceHashes::of(&shared.meta).hasher(pieces.start);
        let missing = len(&shared.meta.piece_range(pieces.start));
        let (blocks, buffer) = (Vec::new(), Vec::with_capacity(BLOCK));
        Self { shared, seed, pieces, hasher, blocks, buffer, missing }
    }

    async fn fetch(&mut self) -> Result<(), Trouble> {
        let meta = Arc::clone(&self.shared.meta);
        self.seed.protocol(self.shared).await.map_err(Trouble::Never)?;
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
                self.take_zeros(part.end - part.start).await?;
            } else {
                let within = part.start - file.range.start..part.end - file.range.start;
                self.fetch_file(index, within).await?;
            }
        }
        Ok(())
    }

    async fn fetch_file(&mut self, index: usize, part: Range<u64>) -> Result<(), Trouble> {
        let file = &self.shared.meta.files[index].range;
        let no_url = || Error::new(Kind::Unsupported, "its name is none in a URL");
        let url = file_url(&self.seed.url, &self.shared.names, index);
        let url = url.ok_or_else(|| Trouble::File(index, no_url()))?;
        let ranges = !self.seed.gives_whole_files();
        let remote = Remote { len: Some(file.end - file.start), ranges, ..Remote::at(url.clone()) };
        let from = if ranges { part.start } else { 0 };
        let protocol = self.seed.protocol(self.shared).await.map_err(Trouble::Never)?;
        let opened = protocol.open(&remote, Wanted::from(from..part.end)).await;
        let mut stream = opened.map_err(|e| self.trouble(index, &url, e))?;
        let (mut skip, mut left) = (part.start - from, part.end - part.start);
        while let Some(bytes) = next(&mut stream).await {
            let mut bytes = bytes.map_err(|e| self.trouble(index, &url, e))?;
            self.shared.session.web_limit().pass(bytes.len() as u64).await;
            let passed_over = bytes.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
            skip -= passed_over as u64;
            let bytes = bytes.split_off(passed_over);
            self.shared.disk.arrived(bytes.len() as u64);
            left = left.saturating_sub(bytes.len() as u64);
            self.take(&bytes).await?;
        }
        if left > 0 {
            let text = format!("{}: the answer ends too early", place(&url));
            return Err(Trouble::Later(Error::new(Kind::Network, text)));
        }
        Ok(())
    }

    fn trouble(&self, index: usize, url: &Url, e: Error) -> Trouble {
        match e.kind() {
            kind if kind.is_retryable() => Trouble::Later(e),
            Kind::Unsupported if !self.seed.whole_files.swap(true, Ordering::Relaxed) => {
                Trouble::WholeFiles
            }
            Kind::Changed | Kind::Corrupt => {
                let len = self.shared.meta.files[index].range.clone();
                let len = len.end - len.start;
                let text = format!("{}: the file there has not {len} bytes", place(url));
                Trouble::File(index, Error::new(Kind::Changed, text))
            }
            _ => Trouble::File(index, e),
        }
    }

    async fn take_zeros(&mut self, mut zeros: u64) -> Result<(), Trouble> {
        static ZEROS: [u8; BLOCK] = [0; BLOCK];
        while zeros > 0 {
            let part = usize::try_from(zeros).unwrap_or(BLOCK).min(BLOCK);
            self.take(&ZEROS[..part]).await?;
            zeros -= part as u64;
        }
        Ok(())
    }

    /// Adds the next bytes of the run.
    async fn take(&mut self, mut bytes: &[u8]) -> Result<(), Trouble> {
        while !bytes.is_empty() && !self.pieces.is_empty() {
            if self.blocks.is_empty() && self.buffer.is_empty() {
                self.shared.session.disk().room_for_piece().await;
            }
            let part = bytes.len().min(BLOCK - self.buffer.len()).min(self.missing);
            self.buffer.extend_from_slice(&bytes[..part]);
            self.missing -= part;
            bytes = &bytes[part..];
            if self.buffer.len() == BLOCK || self.missing == 0 {
                self.shared.session.disk().room_for_block().await;
                self.hasher.update(&self.buffer);
                self.blocks.push(self.shared.session.pool().copy(&self.buffer));
                self.buffer.clear();
            }
            if self.missing == 0 {
                self.give().await?;
            }
        }
        Ok(())
    }

    /// Verifies the assembled piece, gives it to libtorrent, and starts the next one.
    async fn give(&mut self) -> Result<(), Trouble> {
        let piece = self.pieces.start;
        let hashes = PieceHashes::of(&self.shared.meta);
        let following = self.pieces.start + 1;
        let hasher = std::mem::replace(&mut self.hasher, hashes.hasher(following));
        let blocks = std::mem::take(&mut self.blocks);
        if !hashes.verify(piece, &hasher.finish()) {
            return Err(Trouble::Wrong(piece));
        }
        self.shared.give(piece, blocks).await.map_err(Trouble::Later)?;
        self.pieces.start = following;
        self.missing = len(&self.shared.meta.piece_range(following));
        Ok(())
    }
}

impl Shared {
    async fn give(&self, piece: u32, blocks: Vec<Bytes>) -> Result<()> {
        for _ in 0..TRIES {
            let offer = self.disk.offer(piece, blocks.clone());
            Torrent::add_piece(&self.session, self.disk.number(), piece).await?;
            drop(offer);
            if self.disk.holding(piece) != Holding::Nothing || self.disk.is_stored(piece) {
                return Ok(());
            }
            tokio::time::sleep(AGAIN).await;
        }
        Err(Error::new(Kind::Unavailable, format!("libtorrent does not take piece {piece}")))
    }
}

fn len(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("a piece is at most 128 MiB")
}
