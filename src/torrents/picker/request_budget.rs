//! The blocks that may be requested from all peers together, and each peer's share of them.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Until the governor has taken its first sample.
const INITIAL_BLOCKS: u32 = 512;
/// Below 4 blocks, round trips cost more than the memory. Above 500 there is no gain, even on loopback.
const SHARE: (u32, u32) = (4, 500);

/// Set from any thread, shared out on libtorrent's network thread.
#[derive(Debug)]
pub(in crate::torrents) struct RequestBudget {
    blocks: AtomicU32,
    /// Peers connected now.
    peers: AtomicU32,
    /// Peers that ever connected.
    connections: AtomicU64,
}

impl RequestBudget {
    pub(in crate::torrents) fn new() -> Self {
        let (blocks, peers) = (AtomicU32::new(INITIAL_BLOCKS), AtomicU32::new(0));
        Self { blocks, peers, connections: AtomicU64::new(0) }
    }

    pub(in crate::torrents) fn set_blocks(&self, blocks: u32) {
        self.blocks.store(blocks, Ordering::Relaxed);
    }

    /// A peer connected. Returns its number.
    pub(in crate::torrents) fn connect(&self) -> u64 {
        self.peers.fetch_add(1, Ordering::Relaxed);
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(in crate::torrents) fn disconnect(&self) {
        self.peers.fetch_sub(1, Ordering::Relaxed);
    }

    /// The number of blocks that may be requested from each peer.
    pub(in crate::torrents) fn share(&self) -> u16 {
        let peers = self.peers.load(Ordering::Relaxed).max(1);
        let share = (self.blocks.load(Ordering::Relaxed) / peers).clamp(SHARE.0, SHARE.1);
        u16::try_from(share).expect("at most 500")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_are_shared_among_connected_peers() {
        let budget = RequestBudget::new();
        assert_eq!(budget.share(), 500);
        let numbers: Vec<u64> = (0..8).map(|_| budget.connect()).collect();
        assert_eq!((numbers[0], numbers[7], budget.share()), (1, 8, 64));
        budget.set_blocks(16);
        assert_eq!(budget.share(), 4);
        (0..7).for_each(|_| budget.disconnect());
        assert_eq!((budget.share(), budget.connect()), (16, 9));
    }
}
