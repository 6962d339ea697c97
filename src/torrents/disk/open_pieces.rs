//! The open pieces of one torrent, under one lock.
//!
//! The lock is held for map lookups and moves of pointers. Acks, hash requests and blocks are handed out and completed or
//! dropped by the caller after the lock is released: completing one takes the lock of the completion queue, and a piece
//! of 128 MiB has 8,192 of them. The piece to evict next is kept in an index, because the lookup is made for each block
//! that arrives while memory is full.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use parking_lot::Mutex;

use super::piece::{HashRequest, HashRun, NextStep, OpenPiece, Stage};
use crate::torrents::metainfo::{check::PieceHasher, geometry::Geometry};

/// Acks are generic: only the caller completes them.
pub(super) struct OpenPieces<A> {
    table: Mutex<Table<A>>,
}

struct Table<A> {
    pieces: HashMap<u32, OpenPiece<A>>,
    /// The pieces that may be evicted: blocks held, number of the piece.
    evictable: BTreeSet<(usize, u32)>,
}

impl<A> Default for OpenPieces<A> {
    fn default() -> Self {
        let table = Table { pieces: HashMap::new(), evictable: BTreeSet::new() };
        Self { table: Mutex::new(table) }
    }
}

impl<A> Table<A> {
    /// Changes a piece, and keeps the index.
    fn change<R>(&mut self, piece: u32, change: impl FnOnce(&mut OpenPiece<A>) -> R) -> Option<R> {
        let open = self.pieces.get_mut(&piece)?;
        let before = rank(open);
        let result = change(open);
        let after = rank(open);
        if before != after {
            before.map(|held| self.evictable.remove(&(held, piece)));
            after.map(|held| self.evictable.insert((held, piece)));
        }
        Some(result)
    }

    fn remove(&mut self, piece: u32) -> Option<OpenPiece<A>> {
        let open = self.pieces.remove(&piece)?;
        rank(&open).map(|held| self.evictable.remove(&(held, piece)));
        Some(open)
    }
}

/// The number of blocks that an eviction of the piece frees; `None` when it must not be evicted, or holds nothing.
fn rank<A>(open: &OpenPiece<A>) -> Option<usize> {
    (open.is_evictable() && open.blocks_held() > 0).then(|| open.blocks_held())
}

/// How much of a piece is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::torrents) enum Holding {
    Nothing,
    /// Blocks are missing, or are downloaded again after the hash failed.
    Partial,
    /// The piece is being hashed, or is on its way to storage.
    Whole,
}

impl<A> OpenPieces<A> {
    /// Stores a block. Returns whether to wake a hash worker; the ack, when the piece has passed already or has no such
    /// block.
    pub(super) fn put(
        &self,
        piece: u32,
        block: usize,
        data: Bytes,
        ack: A,
        geometry: &Geometry,
    ) -> Result<bool, A> {
        let mut table = self.table.lock();
        table.pieces.entry(piece).or_insert_with(|| OpenPiece::new(piece, geometry));
        let put = table.change(piece, |open| match open.stage() {
            Stage::Passed => Err(ack),
            Stage::Open => open.put(block, data, ack),
        });
        drop(table);
        let (wake, _replaced) = put.expect("the piece was inserted above")?;
        Ok(wake)
    }

    /// Stores libtorrent's hash request. Returns it as `Err` when the piece is not whole in memory.
    pub(super) fn request_hash(&self, piece: u32, request: HashRequest) -> Result<(), HashRequest> {
        let mut table = self.table.lock();
        match table.pieces.get(&piece) {
            Some(open) if open.stage() == Stage::Open && open.is_whole() => {}
            _ => return Err(request),
        }
        let replaced = table.change(piece, |open| open.set_request(request));
        drop(table);
        drop(replaced);
        Ok(())
    }

    pub(super) fn start_hash_run(&self, piece: u32, geometry: &Geometry) -> Option<HashRun> {
        self.table.lock().change(piece, |open| open.start_hash_run(geometry))?
    }

    /// `None` when the piece is not open any more.
    pub(super) fn finish_hash_run(
        &self,
        piece: u32,
        (epoch, hasher, hashed): (u32, PieceHasher, usize),
    ) -> Option<NextStep> {
        self.table.lock().change(piece, |open| open.finish_hash_run(epoch, hasher, hashed))
    }

    /// The piece passed: `take` gets its bytes, as runs of blocks with their offset in the piece. It is called under the
    /// lock, because a read that finds the piece passed must find its bytes in the store. Returns whether the piece was
    /// open.
    pub(super) fn pass(&self, piece: u32, take: impl FnOnce(Vec<(u64, Vec<Bytes>)>)) -> bool {
        let pass = |open: &mut OpenPiece<A>| {
            let passes = open.stage() == Stage::Open;
            if passes {
                take(open.mark_passed());
            }
            passes
        };
        self.table.lock().change(piece, pass).unwrap_or(false)
    }

    /// The hash failed: returns the acks of the piece. Its blocks stay if `keep`, since only bad ones are sent again.
    pub(super) fn fail(&self, piece: u32, keep: bool) -> Vec<A> {
        let mut table = self.table.lock();
        let failed = table.change(piece, OpenPiece::reset);
        let removed = if keep { None } else { table.remove(piece) };
        drop(table);
        drop(removed);
        failed.map_or_else(Vec::new, |(acks, _request)| acks)
    }

    /// Drops the pieces that may be evicted, and returns the acks of all others, which may not be evicted any more.
    pub(super) fn stop(&self) -> Vec<A> {
        let mut table = self.table.lock();
        let (partial, rest): (HashMap<_, _>, HashMap<_, _>) = std::mem::take(&mut table.pieces)
            .into_iter()
            .partition(|(_, open)| open.is_evictable());
        table.evictable.clear();
        table.pieces = rest;
        let acks = table.pieces.values_mut().flat_map(|open| {
            open.pin();
            open.take_acks()
        });
        let acks: Vec<A> = acks.collect();
        drop(table);
        drop(partial);
        acks
    }

    /// Drops everything.
    pub(super) fn abort(&self) {
        let mut table = self.table.lock();
        table.evictable.clear();
        let pieces = std::mem::take(&mut table.pieces);
        drop(table);
        drop(pieces);
    }

    /// The piece to evict next: whether it is in `urgent`, the number of blocks it holds, and its number. Pieces that
    /// are not urgent come first, and of these the least complete one.
    pub(super) fn least_complete(&self, urgent: &BTreeSet<u32>) -> Option<(bool, usize, u32)> {
        let table = self.table.lock();
        let first = table.evictable.first().map(|&(held, piece)| (true, held, piece));
        let free = table.evictable.iter().find(|(_, piece)| !urgent.contains(piece));
        free.map(|&(held, piece)| (false, held, piece)).or(first)
    }

    /// Drops a piece, if it may be evicted. Returns the number of blocks that it held.
    pub(super) fn evict(&self, piece: u32) -> usize {
        let mut table = self.table.lock();
        let evictable = table.pieces.get(&piece).is_some_and(OpenPiece::is_evictable);
        let evicted = if evictable { table.remove(piece) } else { None };
        drop(table);
        evicted.map_or(0, |open| open.blocks_held())
    }

    /// Closes those of `pieces` that passed and are durable. Returns their acks.
    pub(super) fn close_durable(
        &self,
        pieces: impl Iterator<Item = u32>,
        is_durable: impl Fn(u32) -> bool,
    ) -> Vec<A> {
        let mut table = self.table.lock();
        let mut closed = Vec::new();
        for piece in pieces {
            let passed = table.pieces.get(&piece).is_some_and(|open| open.stage() == Stage::Passed);
            if passed && is_durable(piece) {
                closed.extend(table.remove(piece));
            }
        }
        drop(table);
        closed.into_iter().flat_map(|mut open| open.take_acks()).collect()
    }

    /// Reads a piece that has not passed. The outer `None` means that there is no such piece.
    pub(super) fn read<T>(
        &self,
        piece: u32,
        read: impl FnOnce(&OpenPiece<A>) -> Option<T>,
    ) -> Option<Option<T>> {
        let table = self.table.lock();
        table.pieces.get(&piece).filter(|open| open.stage() == Stage::Open).map(read)
    }

    pub(super) fn holding(&self, piece: u32) -> Holding {
        match self.table.lock().pieces.get(&piece) {
            None => Holding::Nothing,
            Some(open) if open.stage() == Stage::Open && open.expects_blocks() => Holding::Partial,
            Some(_) => Holding::Whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    };

    use cxx::UniquePtr;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        memory::BLOCK_LEN,
        torrents::{disk::hash_workers::DigestKinds, metainfo::Metainfo},
    };

    type Pieces = OpenPieces<Ack>;

    /// Counts how many acks were dropped, and how many of them while the pieces were locked.
    #[derive(Default)]
    struct Counts {
        dropped: AtomicUsize,
        under_lock: AtomicUsize,
    }

    struct Ack {
        counts: Arc<Counts>,
        pieces: Weak<Pieces>,
    }

    impl Drop for Ack {
        fn drop(&mut self) {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            let pieces = self.pieces.upgrade();
            let is_locked = pieces.is_some_and(|pieces| pieces.table.try_lock().is_none());
            self.counts.under_lock.fetch_add(usize::from(is_locked), Ordering::Relaxed);
        }
    }

    /// 8 pieces of 4 blocks.
    fn geometry() -> Geometry {
        let len = 8 * 4 * BLOCK_LEN;
        let hashes = "a".repeat(20 * 8);
        let torrent = format!(
            "d4:infod6:lengthi{len}e4:name1:x12:piece lengthi{}e6:pieces160:{hashes}ee",
            4 * BLOCK_LEN
        );
        Geometry::of(&Metainfo::parse(torrent.as_bytes()).unwrap())
    }

    struct Rig {
        pieces: Arc<Pieces>,
        counts: Arc<Counts>,
        geometry: Geometry,
    }

    impl Rig {
        fn new() -> Self {
            Self { pieces: Arc::default(), counts: Arc::default(), geometry: geometry() }
        }

        fn put(&self, piece: u32, block: usize) {
            let counts = Arc::clone(&self.counts);
            let ack = Ack { counts, pieces: Arc::downgrade(&self.pieces) };
            let data = Bytes::from_static(&[0; BLOCK_LEN]);
            // The ack of a duplicate is dropped here.
            let _ = self.pieces.put(piece, block, data, ack, &self.geometry);
        }

        fn request_hash(&self, piece: u32) -> bool {
            let kinds = DigestKinds { v1: true, v2: false };
            let request = HashRequest { job: UniquePtr::null(), kinds };
            self.pieces.request_hash(piece, request).is_ok()
        }

        fn dropped(&self) -> usize {
            self.counts.dropped.load(Ordering::Relaxed)
        }

        /// The piece to evict next, found by looking at every block.
        fn least_complete(&self, urgent: &BTreeSet<u32>) -> Option<(bool, usize, u32)> {
            let table = self.pieces.table.lock();
            let held = |open: &OpenPiece<Ack>| (0..4).filter(|b| open.get(*b).is_some()).count();
            let evictable = table.pieces.iter().filter(|(_, open)| open.is_evictable());
            let all = evictable.map(|(n, open)| (urgent.contains(n), held(open), *n));
            all.filter(|(_, held, _)| *held > 0).min()
        }
    }

    #[test]
    fn acks_are_never_completed_under_the_lock() {
        let rig = Rig::new();
        for piece in 0..8 {
            // Even pieces become whole.
            (0..4 - piece as usize % 2).for_each(|block| rig.put(piece, block));
        }
        assert_eq!((rig.pieces.evict(1), rig.dropped()), (3, 3));
        assert_eq!((rig.pieces.evict(0), rig.dropped()), (0, 3));
        assert!(rig.request_hash(0) && !rig.request_hash(3));
        drop(rig.pieces.fail(0, false));
        assert_eq!(rig.dropped(), 7);
        assert!(rig.pieces.pass(2, |runs| assert_eq!(runs[0].1.len(), 4)));
        assert!(!rig.pieces.pass(2, drop) && !rig.pieces.pass(0, drop));
        rig.put(2, 0);
        assert_eq!(rig.dropped(), 8);
        drop(rig.pieces.close_durable(0..8, |piece| piece == 2));
        assert_eq!(rig.dropped(), 12);
        drop(rig.pieces.stop());
        rig.put(4, 0);
        rig.pieces.abort();
        assert_eq!(rig.dropped(), 30);
        assert_eq!(rig.counts.under_lock.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_urgent_piece_is_evicted_last() {
        let rig = Rig::new();
        rig.put(1, 0);
        [0, 1, 2].iter().for_each(|block| rig.put(2, *block));
        let urgent = BTreeSet::from([1]);
        assert_eq!(rig.pieces.least_complete(&urgent), Some((false, 3, 2)));
        assert_eq!(rig.pieces.evict(2), 3);
        assert_eq!(rig.pieces.least_complete(&urgent), Some((true, 1, 1)));
    }

    proptest! {
        #[test]
        fn the_piece_to_evict_is_the_one_with_the_fewest_blocks(
            steps in proptest::collection::vec((0u8..12, 0u32..8, 0usize..4), 1..200),
            urgent in proptest::collection::btree_set(0u32..8, 0..3),
        ) {
            let rig = Rig::new();
            for (step, piece, block) in steps {
                match step {
                    0..=6 => rig.put(piece, block),
                    7 => _ = rig.request_hash(piece),
                    8 => drop(rig.pieces.fail(piece, block > 1)),
                    9 => _ = rig.pieces.pass(piece, drop),
                    10 => _ = rig.pieces.evict(piece),
                    _ => drop(rig.pieces.stop()),
                }
                prop_assert_eq!(rig.pieces.least_complete(&urgent), rig.least_complete(&urgent));
            }
            prop_assert_eq!(rig.counts.under_lock.load(Ordering::Relaxed), 0);
        }
    }
}
