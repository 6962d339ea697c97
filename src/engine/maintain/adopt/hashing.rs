//! Hashes the candidate objects of a torrent in one pass, and finds the pieces that match.
//!
//! Runs of pieces are read and hashed concurrently, each in steps of 4 MiB, so memory is bounded whatever the piece
//! length. A piece that overlaps a file without a candidate is not read.

use std::{ops::Range, sync::Arc};

use tokio::task::JoinSet;

use super::Candidate;
use crate::{
    backends::StorageBackend,
    engine::ProgressFn,
    error::{Error, Kind, Result},
    memory::{Budget, Share},
    storage::RangeSet,
    torrents::metainfo::{
        Metainfo,
        check::{PieceHasher, PieceHashes},
    },
    units::MIB,
};

/// Bytes per request: long enough for few requests, and short enough for the memory of all concurrent runs.
const STEP: usize = 4 << 20;
/// A run of pieces ends with the piece that makes it at least this long, in bytes.
const RUN_LEN: u64 = 16 * MIB;
/// Zeros, for padding.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The pass over all candidates.
#[derive(Debug)]
pub(super) struct CandidateHasher {
    shared: Arc<Shared>,
    max_running: usize,
}

#[derive(Debug)]
struct Shared {
    meta: Metainfo,
    backend: Arc<dyn StorageBackend>,
    memory: Budget,
    /// In order of their position. They cover all bytes that can be read.
    parts: Vec<RangeSource>,
}

/// A range of the torrent, and its source.
#[derive(Debug, Clone)]
enum RangeSource {
    Object(Candidate),
    Zeros(Range<u64>),
}

impl RangeSource {
    fn range(&self) -> Range<u64> {
        match self {
            Self::Object(candidate) => candidate.range(),
            Self::Zeros(range) => range.clone(),
        }
    }
}

impl CandidateHasher {
    /// Steps wait for [`Share::Fetches`] of `memory`.
    pub(super) fn new(
        meta: &Metainfo,
        candidates: &[Candidate],
        backend: &Arc<dyn StorageBackend>,
        memory: &Budget,
    ) -> Self {
        let pads = meta.files.iter().filter(|file| file.pad && !file.range.is_empty());
        let mut parts: Vec<_> = pads.map(|file| RangeSource::Zeros(file.range.clone())).collect();
        parts.extend(candidates.iter().cloned().map(RangeSource::Object));
        parts.sort_by_key(|part| part.range().start);
        let (meta, backend, memory) = (meta.clone(), Arc::clone(backend), memory.clone());
        let max_running = (memory.total() / 4 / STEP).clamp(2, 8);
        let shared = Shared { meta, backend, memory, parts };
        Self { shared: Arc::new(shared), max_running }
    }

    /// The ranges of the pieces that match their hash.
    pub(super) async fn run(self, progress: ProgressFn) -> Result<RangeSet> {
        let runs = self.shared.runs();
        let total = runs.iter().map(|run| self.shared.len_of(run)).sum();
        let (mut verified, mut done) = (RangeSet::new(), 0);
        let mut running: JoinSet<Result<(Range<u32>, Vec<u32>)>> = JoinSet::new();
        let mut runs = runs.into_iter();
        loop {
            while running.len() < self.max_running {
                let Some(run) = runs.next() else { break };
                let shared = Arc::clone(&self.shared);
                running.spawn(async move {
                    let matching = shared.hash(run.clone()).await?;
                    Ok((run, matching))
                });
            }
            let Some(result) = running.join_next().await else { return Ok(verified) };
            let result = result
                .map_err(|e| Error::new(Kind::Internal, "hashing an object panicked").because(e))?;
            let (run, matching) = result?;
            matching.iter().for_each(|piece| verified.insert(self.shared.meta.piece_range(*piece)));
            done += self.shared.len_of(&run);
            progress(done, total);
        }
    }
}

impl Shared {
    /// Runs of adjacent pieces that can be read and have a known hash.
    fn runs(&self) -> Vec<Range<u32>> {
        let readable: RangeSet = self.parts.iter().map(RangeSource::range).collect();
        let hashes = PieceHashes::of(&self.meta);
        let mut runs: Vec<Range<u32>> = Vec::new();
        for piece in 0..self.meta.pieces() {
            if !hashes.is_known(piece) || !readable.contains(&self.meta.piece_range(piece)) {
                continue;
            }
            match runs.last_mut() {
                Some(last) if last.end == piece && self.len_of(last) < RUN_LEN => last.end += 1,
                _ => runs.push(piece..piece + 1),
            }
        }
        runs
    }

    fn len_of(&self, run: &Range<u32>) -> u64 {
        let range = self.bytes_of(run);
        range.end - range.start
    }

    fn bytes_of(&self, run: &Range<u32>) -> Range<u64> {
        self.meta.piece_range(run.start).start..self.meta.piece_range(run.end - 1).end
    }

    /// Hashes a run. Returns the pieces that match.
    async fn hash(&self, run: Range<u32>) -> Result<Vec<u32>> {
        let bytes = self.bytes_of(&run);
        let mut hasher = RunHasher::new(&self.meta, run.start);
        let first = self.parts.partition_point(|part| part.range().end <= bytes.start);
        let parts = self.parts[first..].iter().take_while(|part| part.range().start < bytes.end);
        for part in parts {
            let range = part.range();
            let mut inside = range.start.max(bytes.start)..range.end.min(bytes.end);
            while !inside.is_empty() {
                let end = inside.end.min(inside.start + STEP as u64);
                self.feed(part, inside.start..end, &mut hasher).await?;
                inside.start = end;
            }
        }
        Ok(hasher.matching)
    }

    async fn feed(
        &self,
        part: &RangeSource,
        range: Range<u64>,
        hasher: &mut RunHasher<'_>,
    ) -> Result<()> {
        let len = range.end - range.start;
        let candidate = match part {
            RangeSource::Object(candidate) => candidate,
            RangeSource::Zeros(_) => {
                let mut zeros = len;
                while zeros > 0 {
                    let step = usize::try_from(zeros).map_or(ZEROS.len(), |n| n.min(ZEROS.len()));
                    hasher.update(&ZEROS[..step]);
                    zeros -= step as u64;
                }
                return Ok(());
            }
        };
        let _step = self.memory.reserve(Share::Fetches, STEP).await;
        let inside = range.start - candidate.file.start..range.end - candidate.file.start;
        match self.backend.get(&candidate.key, inside).await {
            Ok(bytes) => hasher.update(&bytes),
            // The object changed or was deleted meanwhile. Its pieces then do not match the torrent.
            Err(e) if e.kind().is_object_specific() => {
                tracing::warn!(error = %e.report(), "an object cannot be read");
                hasher.skip(len);
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

/// Progress of one run.
struct RunHasher<'m> {
    meta: &'m Metainfo,
    piece: u32,
    /// Position in the torrent.
    position: u64,
    /// Hasher of the current piece; `None` when a part of the piece could not be read.
    hasher: Option<PieceHasher>,
    matching: Vec<u32>,
}

impl<'m> RunHasher<'m> {
    fn new(meta: &'m Metainfo, piece: u32) -> Self {
        let hasher = Some(PieceHashes::of(meta).hasher(piece));
        Self { meta, piece, position: meta.piece_range(piece).start, hasher, matching: Vec::new() }
    }

    /// Hashes the next bytes.
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(self.left_in_piece().min(bytes.len()));
            if let Some(hasher) = &mut self.hasher {
                hasher.update(now);
            }
            self.advance(now.len());
            bytes = later;
        }
    }

    /// Skips `len` bytes that could not be read. Pieces that overlap them do not match.
    fn skip(&mut self, len: u64) {
        let mut len = len;
        while len > 0 {
            let now = usize::try_from(len)
                .map_or(self.left_in_piece(), |len| len.min(self.left_in_piece()));
            self.hasher = None;
            self.advance(now);
            len -= now as u64;
        }
    }

    /// Remaining bytes of the current piece.
    fn left_in_piece(&self) -> usize {
        let left = self.meta.piece_range(self.piece).end - self.position;
        usize::try_from(left).expect("a piece is at most 128 MiB")
    }

    fn advance(&mut self, len: usize) {
        self.position += len as u64;
        if self.left_in_piece() > 0 {
            return;
        }
        let hashes = PieceHashes::of(self.meta);
        let done = self.hasher.take().map(PieceHasher::finish);
        if done.is_some_and(|digests| hashes.verify(self.piece, &digests)) {
            self.matching.push(self.piece);
        }
        self.piece += 1;
        if self.piece < self.meta.pieces() {
            self.hasher = Some(hashes.hasher(self.piece));
        }
    }
}
