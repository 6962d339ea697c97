//! One open piece: its blocks in memory, the acks held for them, and the progress of its hash.
//!
//! Stages: blocks arrive in any order → the contiguous prefix is hashed → libtorrent requests the hash → the piece
//! passes (the bytes go to the writer, the acks stay here until the bytes are durable) or fails (`reset`). An open
//! piece that is not whole may be evicted: its acks complete with `operation_aborted` and the picker requests the
//! blocks again.

use bytes::Bytes;
use cxx::UniquePtr;

use super::{ffi::HashJob, hash_workers::DigestKinds};
use crate::{
    memory::BLOCK_LEN,
    torrents::metainfo::{check::PieceHasher, geometry::Geometry},
};

/// The most blocks hashed in one run, before the lock is taken again: 1 MiB.
const RUN_BLOCKS: usize = 64;

/// A hash request of libtorrent that is not answered yet.
pub(super) struct HashRequest {
    pub(in crate::torrents) job: UniquePtr<HashJob>,
    pub(in crate::torrents) kinds: DigestKinds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    /// The piece passed: the writer has the bytes, and the acks wait until they are durable.
    Passed,
}

/// State of a piece's incremental hash.
enum HasherState {
    /// Nothing is hashed yet.
    Unstarted,
    Idle(PieceHasher),
    /// A worker holds the hasher.
    Busy,
}

pub(super) struct OpenPiece<A> {
    number: u32,
    /// `None`: the block has not arrived, or is all padding (peers never send it).
    blocks: Vec<Option<Bytes>>,
    missing: usize,
    /// Number of blocks in memory.
    held: usize,
    acks: Vec<A>,
    stage: Stage,
    /// Blocks were acknowledged early, so libtorrent cannot request them again: the piece must not be evicted.
    pinned: bool,
    hasher: HasherState,
    /// Number of blocks hashed, from the start of the piece.
    hashed: usize,
    /// Incremented by each reset, so that a late result of a worker is recognised as stale.
    epoch: u32,
    request: Option<HashRequest>,
}

/// Work that a worker takes out of the lock: a hasher and the next blocks for it (`Err(n)` = n zero bytes of padding).
pub(super) struct HashRun {
    pub(in crate::torrents) hasher: PieceHasher,
    pub(in crate::torrents) parts: Vec<Result<Bytes, usize>>,
    epoch: u32,
}

/// What a worker does after it returned its hasher.
pub(super) enum NextStep {
    /// More blocks may be available.
    Continue,
    /// There is nothing to hash now.
    Wait,
    /// All blocks are hashed, and libtorrent waits for the digest.
    Answer(HashRequest, PieceHasher),
}

impl<A> OpenPiece<A> {
    pub(in crate::torrents) fn new(number: u32, geometry: &Geometry) -> Self {
        let n = geometry.blocks(number);
        let pads = (0..n).filter(|&b| geometry.is_pad(&geometry.block(number, b))).count();
        Self {
            number,
            blocks: vec![None; n],
            missing: n - pads,
            held: 0,
            acks: Vec::with_capacity(n),
            stage: Stage::Open,
            pinned: false,
            hasher: HasherState::Unstarted,
            hashed: 0,
            epoch: 0,
            request: None,
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    pub(in crate::torrents) fn is_whole(&self) -> bool {
        self.missing == 0
    }

    /// Whether blocks are still expected: for the first time, or again after the hash failed.
    pub(super) fn expects_blocks(&self) -> bool {
        !self.is_whole() || self.pinned && self.request.is_none()
    }

    pub(super) fn blocks_held(&self) -> usize {
        self.held
    }

    /// Whether the piece may be evicted: never when it is whole, passed, pinned, or waiting for its hash.
    pub(super) fn is_evictable(&self) -> bool {
        self.stage == Stage::Open && !self.is_whole() && !self.pinned && self.request.is_none()
    }

    /// Stores a block. Returns whether to wake a hash worker, and the bytes that were there before; the ack, when the
    /// piece has no such block.
    pub(super) fn put(
        &mut self,
        block: usize,
        data: Bytes,
        ack: A,
    ) -> Result<(bool, Option<Bytes>), A> {
        let Some(slot) = self.blocks.get_mut(block) else { return Err(ack) };
        self.acks.push(ack);
        let replaced = slot.replace(data);
        if replaced.is_some() {
            // Sent again after a failure: the old bytes may be hashed already.
            if block < self.hashed || matches!(self.hasher, HasherState::Busy) {
                self.restart_hash();
            }
        } else {
            self.missing -= 1;
            self.held += 1;
        }
        let wake = !matches!(self.hasher, HasherState::Busy)
            && (self.is_whole() || block >= self.hashed + RUN_BLOCKS / 4 - 1);
        Ok((wake, replaced))
    }

    pub(in crate::torrents) fn get(&self, block: usize) -> Option<&Bytes> {
        self.blocks.get(block)?.as_ref()
    }

    fn restart_hash(&mut self) {
        self.epoch += 1;
        self.hashed = 0;
        self.hasher = HasherState::Unstarted;
    }

    /// The hash failed: returns the acks held so far, and the hash request if there is one. The piece is hashed again
    /// from the start when its blocks have arrived again.
    pub(super) fn reset(&mut self) -> (Vec<A>, Option<HashRequest>) {
        self.restart_hash();
        self.pinned = true;
        (std::mem::take(&mut self.acks), self.request.take())
    }

    /// Stores a hash request. Returns the one before.
    pub(super) fn set_request(&mut self, request: HashRequest) -> Option<HashRequest> {
        self.request.replace(request)
    }

    /// The next blocks to hash, with the hasher. `None` while a worker holds the hasher, or when no block is ready and
    /// no hash is requested.
    pub(super) fn start_hash_run(&mut self, geometry: &Geometry) -> Option<HashRun> {
        let hasher = match std::mem::replace(&mut self.hasher, HasherState::Busy) {
            HasherState::Unstarted => PieceHasher::new(geometry.shape(self.number)),
            HasherState::Idle(hasher) => hasher,
            HasherState::Busy => return None,
        };
        let end = (self.hashed + RUN_BLOCKS).min(self.blocks.len());
        let mut parts = Vec::with_capacity(end - self.hashed);
        for b in self.hashed..end {
            let range = geometry.block(self.number, b);
            match &self.blocks[b] {
                Some(data) => parts.push(Ok(data.clone())),
                None if geometry.is_pad(&range) => {
                    parts.push(Err(usize::try_from(range.end - range.start).unwrap_or(BLOCK_LEN)));
                }
                None => break,
            }
        }
        if parts.is_empty() && self.request.is_none() {
            self.hasher = HasherState::Idle(hasher);
            return None;
        }
        Some(HashRun { hasher, parts, epoch: self.epoch })
    }

    /// A worker returns its hasher after it hashed `hashed` more blocks.
    pub(super) fn finish_hash_run(
        &mut self,
        epoch: u32,
        hasher: PieceHasher,
        hashed: usize,
    ) -> NextStep {
        if epoch != self.epoch {
            return NextStep::Continue;
        }
        self.hashed += hashed;
        if self.hashed == self.blocks.len()
            && let Some(request) = self.request.take()
        {
            return NextStep::Answer(request, hasher);
        }
        self.hasher = HasherState::Idle(hasher);
        if self.hashed < self.blocks.len() { NextStep::Continue } else { NextStep::Wait }
    }

    /// The piece passed: takes its bytes as runs of blocks (offset in the piece, parts).
    pub(super) fn mark_passed(&mut self) -> Vec<(u64, Vec<Bytes>)> {
        self.stage = Stage::Passed;
        self.restart_hash();
        self.held = 0;
        let mut runs: Vec<(u64, Vec<Bytes>)> = Vec::new();
        let mut joined = false;
        for (b, slot) in self.blocks.iter_mut().enumerate() {
            match (slot.take(), runs.last_mut()) {
                (Some(data), Some(run)) if joined => run.1.push(data),
                (Some(data), _) => {
                    runs.push(((b * BLOCK_LEN) as u64, vec![data]));
                    joined = true;
                }
                (None, _) => joined = false,
            }
        }
        runs
    }

    /// Takes the held acks, to complete or to drop them. A dropped ack is aborted.
    pub(super) fn take_acks(&mut self) -> Vec<A> {
        std::mem::take(&mut self.acks)
    }

    /// Excludes the piece from eviction, because acks were completed early.
    pub(in crate::torrents) fn pin(&mut self) {
        self.pinned = true;
    }
}

impl HashRun {
    /// Hashes the blocks: the slow part, without any lock. Returns the epoch, the hasher and the number of blocks
    /// hashed.
    pub(in crate::torrents) fn run(mut self) -> (u32, PieceHasher, usize) {
        static ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];
        let hashed = self.parts.len();
        for part in &self.parts {
            match part {
                Ok(data) => self.hasher.update(data),
                Err(zeros) => self.hasher.update(&ZEROS[..*zeros]),
            }
        }
        (self.epoch, self.hasher, hashed)
    }
}
