//! Blocks on their way to peers: bytes that stay in memory until libtorrent has sent them, even after a cache eviction.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

use crate::{backends::Payload, memory::BLOCK_LEN};

/// Counts the bytes lent to libtorrent. Cheap to clone; all clones share one count.
#[derive(Debug, Clone)]
pub(super) struct SendBuffers {
    /// A whole block is counted for each read, because that much stays in memory.
    held: Arc<AtomicUsize>,
    budget: usize,
}

/// Bytes that are counted while libtorrent holds them.
struct LentBytes {
    bytes: Bytes,
    held: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for LentBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for LentBytes {
    fn drop(&mut self) {
        self.held.fetch_sub(BLOCK_LEN, Ordering::Relaxed);
    }
}

impl SendBuffers {
    pub(in crate::torrents) fn new(budget: usize) -> Self {
        Self { held: Arc::default(), budget }
    }

    pub(super) fn has_capacity(&self) -> bool {
        self.held.load(Ordering::Relaxed) < self.budget
    }

    /// Counts and returns the bytes of one read: a single part without a copy, several parts joined.
    pub(super) fn lend(&self, payload: &Payload) -> Bytes {
        self.held.fetch_add(BLOCK_LEN, Ordering::Relaxed);
        Bytes::from_owner(LentBytes { bytes: payload.to_bytes(), held: Arc::clone(&self.held) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_lent_without_a_copy_and_counted_until_it_is_sent() {
        let buffers = SendBuffers::new(BLOCK_LEN);
        let block = Bytes::from(vec![7; BLOCK_LEN]);
        let lent = buffers.lend(&Payload::from_iter([block.clone()]));
        assert!(lent.as_ptr() == block.as_ptr() && !buffers.has_capacity());
        drop(lent);
        assert!(buffers.has_capacity());
        let parts = Payload::from_iter([Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        assert_eq!(&buffers.lend(&parts)[..], b"ab");
    }
}
