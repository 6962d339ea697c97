//! Blocks on their way to peers: bytes that stay in memory until libtorrent has sent them, even after a cache eviction.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

use crate::{backends::Payload, memory::BLOCK};

/// Counts the bytes lent to libtorrent. Cheap to clone; all clones share one count.
#[derive(Debug, Clone)]
pub(super) struct Sends {
    /// A whole block is counted for each read, because that much stays in memory.
    held: Arc<AtomicUsize>,
    budget: usize,
}

/// Bytes that are counted while libtorrent holds them.
struct Lent {
    bytes: Bytes,
    held: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.held.fetch_sub(BLOCK, Ordering::Relaxed);
    }
}

impl Sends {
    pub(super) fn new(budget: usize) -> Self {
        Self { held: Arc::default(), budget }
    }

    pub(super) fn has_room(&self) -> bool {
        self.held.load(Ordering::Relaxed) < self.budget
    }

    /// Counts and returns the bytes of one read: a single part without a copy, several parts joined.
    pub(super) fn lend(&self, payload: &Payload) -> Bytes {
        self.held.fetch_add(BLOCK, Ordering::Relaxed);
        Bytes::from_owner(Lent { bytes: payload.joined(), held: Arc::clone(&self.held) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_lent_without_a_copy_and_counted_until_it_is_sent() {
        let sends = Sends::new(BLOCK);
        let block = Bytes::from(vec![7; BLOCK]);
        let lent = sends.lend(&Payload::from_iter([block.clone()]));
        assert!(lent.as_ptr() == block.as_ptr() && !sends.has_room());
        drop(lent);
        assert!(sends.has_room());
        let parts = Payload::from_iter([Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        assert_eq!(&sends.lend(&parts)[..], b"ab");
    }
}
