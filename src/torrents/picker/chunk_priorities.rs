//! Which chunks the piece picker completes first. Pure.
//!
//! Left alone, rarest-first fills every chunk a little, and memory runs out before any chunk is complete. The pieces of
//! a few open chunks therefore get a higher priority: 7 for the oldest chunk, 6 for the next, 5 for the rest. With
//! equal priorities all open chunks would fill at the same pace, and none would be complete soon. All other pieces stay
//! wanted at the normal priority (4), so that a peer without pieces of the open chunks still sends what it has. Chunks
//! are opened until the bytes missing in open chunks are twice the requests in flight, so that the picker does not run
//! past them. The next chunk to open is the rarest; among equals, the first.
//!
//! # Invariants
//! - Every missing wanted piece is in at most one open chunk, and the priority of a piece never falls.
//! - The bytes missing in open chunks stay at or above the target while any chunk is left to open.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, VecDeque},
    ops::Range,
};

/// Priority of the pieces of the oldest open chunk, of the next, and of all later ones.
const PRIORITIES: [u8; 3] = [7, 6, 5];

/// The priority of all other pieces.
const NORMAL: u8 = 4;

/// Sets the piece priorities of one torrent.
#[derive(Debug)]
pub struct ChunkPriorities {
    piece_len: u64,
    /// Missing wanted pieces that are in no open chunk.
    unopened: BTreeSet<u32>,
    /// Chunks not opened yet: (number of peers that have it, index of the chunk), rarest first.
    closed: BinaryHeap<Reverse<(u32, usize)>>,
    chunks: Vec<Range<u32>>,
    /// Oldest first.
    open: VecDeque<PrioritizedChunk>,
    /// The open chunk of each missing piece that is in one.
    chunk_of: HashMap<u32, usize>,
}

#[derive(Debug)]
struct PrioritizedChunk {
    chunk: usize,
    missing: BTreeSet<u32>,
    /// The priority that the picker has for its pieces.
    priority: u8,
}

impl ChunkPriorities {
    /// `chunks` are byte ranges in order; `missing` are the wanted pieces that are not durable.
    #[must_use]
    pub fn new(
        piece_len: u64,
        chunks: &[Range<u64>],
        missing: impl IntoIterator<Item = u32>,
    ) -> Self {
        let piece = |at: u64| u32::try_from(at / piece_len).unwrap_or(u32::MAX);
        let chunks: Vec<_> = chunks
            .iter()
            .map(|c| piece(c.start)..piece(c.end.saturating_sub(1)).saturating_add(1))
            .collect();
        Self {
            piece_len,
            unopened: missing.into_iter().collect(),
            closed: (0..chunks.len()).map(|i| Reverse((0, i))).collect(),
            chunks,
            open: VecDeque::new(),
            chunk_of: HashMap::new(),
        }
    }

    /// Orders the chunks still closed by how many peers have their rarest piece. `peers[p]` is for piece `p`.
    pub fn set_availability(&mut self, peers: &[u32]) {
        let rarest = |range: &Range<u32>| {
            range.clone().filter_map(|p| peers.get(p as usize)).min().copied().unwrap_or(0)
        };
        let closed = std::mem::take(&mut self.closed);
        self.closed = closed
            .into_iter()
            .map(|Reverse((_, i))| Reverse((rarest(&self.chunks[i]), i)))
            .collect();
    }

    /// Records that a piece passed its hash.
    pub fn piece_passed(&mut self, piece: u32) {
        self.unopened.remove(&piece);
        let Some(chunk) = self.chunk_of.remove(&piece) else { return };
        let index = self.open.iter().position(|o| o.chunk == chunk);
        if let Some(index) = index
            && self.open[index].missing.remove(&piece)
            && self.open[index].missing.is_empty()
        {
            self.open.remove(index);
        }
    }

    #[must_use]
    pub fn piece_len(&self) -> u64 {
        self.piece_len
    }

    /// Missing pieces of open chunks, those of the oldest chunk first.
    pub fn open_pieces(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        self.open.iter().flat_map(|open| open.missing.iter().copied())
    }

    /// Whether a piece is wanted and has not passed.
    #[must_use]
    pub fn is_missing(&self, piece: u32) -> bool {
        self.unopened.contains(&piece) || self.chunk_of.contains_key(&piece)
    }

    /// The priority that the picker has for a piece.
    #[must_use]
    pub fn priority(&self, piece: u32) -> u8 {
        let chunk = self.chunk_of.get(&piece);
        let open = chunk.and_then(|chunk| self.open.iter().find(|open| open.chunk == *chunk));
        open.map_or(NORMAL, |open| open.priority)
    }

    /// Opens chunks until `target` bytes are missing in open ones. Returns the pieces whose priority changes, with the
    /// new priority.
    pub fn open_until(&mut self, target: u64) -> Vec<(u8, Vec<u32>)> {
        while (self.chunk_of.len() as u64) * self.piece_len < target {
            let Some(Reverse((_, chunk))) = self.closed.pop() else { break };
            let missing: BTreeSet<u32> =
                self.unopened.range(self.chunks[chunk].clone()).copied().collect();
            for piece in &missing {
                self.unopened.remove(piece);
                self.chunk_of.insert(*piece, chunk);
            }
            if !missing.is_empty() {
                self.open.push_back(PrioritizedChunk { chunk, missing, priority: NORMAL });
            }
        }
        let mut changes = Vec::new();
        for (i, open) in self.open.iter_mut().enumerate() {
            let priority = PRIORITIES[i.min(PRIORITIES.len() - 1)];
            if priority > open.priority {
                open.priority = priority;
                changes.push((priority, open.missing.iter().copied().collect()));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grid(chunk: u64, len: u64) -> Vec<Range<u64>> {
        (0..len.div_ceil(chunk)).map(|i| i * chunk..((i + 1) * chunk).min(len)).collect()
    }

    #[test]
    fn the_rarest_chunk_opens_first_and_equal_ones_in_order() {
        let mut s = ChunkPriorities::new(1, &grid(4, 12), 0..12);
        assert_eq!(s.open_until(4), vec![(7, vec![0, 1, 2, 3])]);
        s.set_availability(&[9, 9, 9, 9, 5, 5, 5, 5, 5, 5, 1, 5]);
        assert_eq!(s.open_until(8), vec![(6, vec![8, 9, 10, 11])]);
        assert_eq!(s.open_pieces().collect::<Vec<_>>(), [0, 1, 2, 3, 8, 9, 10, 11]);
        (0..4).for_each(|p| s.piece_passed(p));
        assert_eq!(s.open_until(8), vec![(7, vec![8, 9, 10, 11]), (6, vec![4, 5, 6, 7])]);
        assert!(!s.is_missing(0) && s.is_missing(4) && !s.is_missing(12));
    }

    #[test]
    fn a_piece_across_two_chunks_is_in_one_of_them() {
        let mut s = ChunkPriorities::new(10, &grid(15, 45), 0..5);
        let mut all: Vec<u32> = s.open_until(u64::MAX).into_iter().flat_map(|c| c.1).collect();
        all.sort_unstable();
        assert_eq!(all, vec![0, 1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn priorities_only_rise_and_open_chunks_stay_above_the_target(
            piece in 1u64..40,
            chunk in 1u64..200,
            len in 1u64..3000,
            target in 1u64..400,
            have in prop::collection::vec(any::<bool>(), 3000),
        ) {
            let pieces = u32::try_from(len.div_ceil(piece)).unwrap();
            let missing: BTreeSet<u32> = (0..pieces).filter(|&p| !have[p as usize]).collect();
            let mut s = ChunkPriorities::new(piece, &grid(chunk, len), missing.iter().copied());
            let mut priorities: HashMap<u32, u8> = HashMap::new();
            let mut open: BTreeSet<u32> = BTreeSet::new();
            loop {
                for (priority, list) in s.open_until(target) {
                    for p in list {
                        prop_assert!(missing.contains(&p));
                        prop_assert!(priorities.insert(p, priority).is_none_or(|before| before < priority));
                        prop_assert_eq!(s.priority(p), priority);
                        open.insert(p);
                    }
                }
                if priorities.len() < missing.len() {
                    prop_assert!(open.len() as u64 * piece >= target);
                }
                let Some(p) = open.pop_last() else { break };
                s.piece_passed(p);
            }
            prop_assert_eq!(priorities.len(), missing.len());
        }
    }
}
