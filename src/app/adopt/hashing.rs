//! One pass over objects that may be a torrent's files: which of its pieces are right.
//!
//! Runs of pieces are read and hashed side by side, each in steps of 4 MiB, so that memory is bounded whatever the
//! length of a piece. A piece with a part in a file that nothing was found for is not read.

use std::{ops::Range, sync::Arc};

use tokio::task::JoinSet;

use super::Candidate;
use crate::{
    app::ProgressFn,
    backends::StorageBackend,
    error::{Error, Kind, Result},
    storage::RangeSet,
    torrents::{
        check::{PieceHasher, PieceHashes},
        metainfo::Metainfo,
    },
    units::MIB,
};

/// What is read at a time: few requests, and little memory for each of those that run.
const STEP: u64 = 4 * MIB;
/// Pieces are hashed in runs of at least so many bytes (a piece at least).
const RUN: u64 = 16 * MIB;
/// A block of zeros, for padding.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The pass.
#[derive(Debug)]
pub(super) struct Hashing {
    shared: Arc<Shared>,
    at_once: usize,
}

#[derive(Debug)]
struct Shared {
    meta: Metainfo,
    backend: Arc<dyn StorageBackend>,
    /// In order; they cover what can be read.
    parts: Vec<Part>,
}

/// A range of the torrent and what holds it.
#[derive(Debug, Clone)]
enum Part {
    Object(Candidate),
    Zeros(Range<u64>),
}

impl Part {
    fn range(&self) -> Range<u64> {
        match self {
            Self::Object(candidate) => candidate.range(),
            Self::Zeros(range) => range.clone(),
        }
    }
}

impl Hashing {
    /// `memory` is the budget, of which it takes a quarter.
    pub(super) fn new(
        meta: &Metainfo,
        candidates: &[Candidate],
        backend: &Arc<dyn StorageBackend>,
        memory: u64,
    ) -> Self {
        let pads = meta.files.iter().filter(|file| file.pad && !file.range.is_empty());
        let mut parts: Vec<_> = pads.map(|file| Part::Zeros(file.range.clone())).collect();
        parts.extend(candidates.iter().cloned().map(Part::Object));
        parts.sort_by_key(|part| part.range().start);
        let shared = Shared { meta: meta.clone(), backend: Arc::clone(backend), parts };
        let at_once = usize::try_from(memory / 4 / STEP).unwrap_or(usize::MAX).clamp(2, 8);
        Self { shared: Arc::new(shared), at_once }
    }

    /// The ranges of the pieces that are right.
    pub(super) async fn run(self, progress: ProgressFn) -> Result<RangeSet> {
        let runs = self.shared.runs();
        let total = runs.iter().map(|run| self.shared.len_of(run)).sum();
        let (mut good, mut done) = (RangeSet::new(), 0);
        let mut running: JoinSet<Result<(Range<u32>, Vec<u32>)>> = JoinSet::new();
        let mut runs = runs.into_iter();
        loop {
            while running.len() < self.at_once {
                let Some(run) = runs.next() else { break };
                let shared = Arc::clone(&self.shared);
                running.spawn(async move {
                    let right = shared.hash(run.clone()).await?;
                    Ok((run, right))
                });
            }
            let Some(ended) = running.join_next().await else { return Ok(good) };
            let ended = ended
                .map_err(|e| Error::new(Kind::Internal, "hashing an object panicked").because(e))?;
            let (run, right) = ended?;
            right.iter().for_each(|piece| good.insert(self.shared.meta.piece_range(*piece)));
            done += self.shared.len_of(&run);
            progress(done, total);
        }
    }
}

impl Shared {
    /// Neighbouring pieces that can be read and checked, in runs.
    fn runs(&self) -> Vec<Range<u32>> {
        let here: RangeSet = self.parts.iter().map(Part::range).collect();
        let hashes = PieceHashes::of(&self.meta);
        let mut runs: Vec<Range<u32>> = Vec::new();
        for piece in 0..self.meta.pieces() {
            if !hashes.is_known(piece) || !here.contains(&self.meta.piece_range(piece)) {
                continue;
            }
            match runs.last_mut() {
                Some(last) if last.end == piece && self.len_of(last) < RUN => last.end += 1,
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

    /// Those of the pieces that are right.
    async fn hash(&self, run: Range<u32>) -> Result<Vec<u32>> {
        let bytes = self.bytes_of(&run);
        let mut state = Running::new(&self.meta, run.start);
        let first = self.parts.partition_point(|part| part.range().end <= bytes.start);
        let parts = self.parts[first..].iter().take_while(|part| part.range().start < bytes.end);
        for part in parts {
            let range = part.range();
            let mut inside = range.start.max(bytes.start)..range.end.min(bytes.end);
            while !inside.is_empty() {
                let end = inside.end.min(inside.start + STEP);
                self.feed(part, inside.start..end, &mut state).await?;
                inside.start = end;
            }
        }
        Ok(state.right)
    }

    async fn feed(&self, part: &Part, range: Range<u64>, state: &mut Running<'_>) -> Result<()> {
        let len = range.end - range.start;
        let candidate = match part {
            Part::Object(candidate) => candidate,
            Part::Zeros(_) => {
                let mut left = len;
                while left > 0 {
                    let some = usize::try_from(left).map_or(ZEROS.len(), |n| n.min(ZEROS.len()));
                    state.update(&ZEROS[..some]);
                    left -= some as u64;
                }
                return Ok(());
            }
        };
        let inside = range.start - candidate.file.start..range.end - candidate.file.start;
        match self.backend.get(&candidate.key, inside).await {
            Ok(bytes) => state.update(&bytes),
            // It was changed or taken away meanwhile: that is to say, it is not what the torrent says.
            Err(e) if e.kind().is_about_bytes() => {
                tracing::warn!(error = %e.report(), "an object cannot be read");
                state.skip(len);
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

/// The hashing of one run, piece after piece.
struct Running<'m> {
    meta: &'m Metainfo,
    piece: u32,
    /// How far it is in the torrent.
    at: u64,
    /// Of the piece under way; `None` when a part of that is lost.
    hasher: Option<PieceHasher>,
    right: Vec<u32>,
}

impl<'m> Running<'m> {
    fn new(meta: &'m Metainfo, piece: u32) -> Self {
        let hasher = Some(PieceHashes::of(meta).hasher(piece));
        Self { meta, piece, at: meta.piece_range(piece).start, hasher, right: Vec::new() }
    }

    /// Takes the next bytes.
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(self.left().min(bytes.len()));
            if let Some(hasher) = &mut self.hasher {
                hasher.update(now);
            }
            self.go_on(now.len());
            bytes = later;
        }
    }

    /// The next `len` bytes are lost, and with them every piece they are a part of.
    fn skip(&mut self, len: u64) {
        let mut len = len;
        while len > 0 {
            let now = usize::try_from(len).map_or(self.left(), |len| len.min(self.left()));
            self.hasher = None;
            self.go_on(now);
            len -= now as u64;
        }
    }

    /// What is left of the piece under way.
    fn left(&self) -> usize {
        let left = self.meta.piece_range(self.piece).end - self.at;
        usize::try_from(left).expect("a piece is at most 128 MiB")
    }

    fn go_on(&mut self, len: usize) {
        self.at += len as u64;
        if self.left() > 0 {
            return;
        }
        let hashes = PieceHashes::of(self.meta);
        let done = self.hasher.take().map(PieceHasher::finish);
        if done.is_some_and(|digests| hashes.verify(self.piece, &digests)) {
            self.right.push(self.piece);
        }
        self.piece += 1;
        if self.piece < self.meta.pieces() {
            self.hasher = Some(hashes.hasher(self.piece));
        }
    }
}
