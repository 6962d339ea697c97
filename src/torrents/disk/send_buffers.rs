//! Blocks on their way to peers: bytes that stay in memory until libtorrent has sent them, even after a cache eviction.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::{
    backends::Payload,
    memory::{BLOCK_LEN, Budget, Reservation, Share},
};

/// How long a read waits for memory while the blocks of [`Share::Sends`] fill it. After that its block may displace
/// cached windows, because the blocks in the way may belong to peers that no longer read.
const SEND_WAIT: Duration = Duration::from_secs(1);

/// Counts the blocks lent to libtorrent. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct SendBuffers {
    memory: Budget,
}

/// The memory of one block that is to be sent. A whole block is counted for each read, because that much stays in
/// memory.
#[derive(Debug)]
pub(super) struct SendBuffer(Reservation);

impl SendBuffers {
    pub(in crate::torrents) fn new(memory: Budget) -> Self {
        Self { memory }
    }

    /// A buffer, if there is memory for one now.
    pub(super) fn try_reserve(&self) -> Option<SendBuffer> {
        self.memory.try_reserve(Share::Sends, BLOCK_LEN).map(SendBuffer)
    }

    /// Waits for a buffer.
    pub(super) async fn reserve(&self) -> SendBuffer {
        let reserved = timeout(SEND_WAIT, self.memory.reserve(Share::Sends, BLOCK_LEN)).await;
        SendBuffer(match reserved {
            Ok(reservation) => reservation,
            Err(_) => self.memory.reserve_displacing(Share::Sends, BLOCK_LEN).await,
        })
    }
}

impl SendBuffer {
    /// The bytes of one read, counted until they are sent: a single part without a copy, several parts joined.
    pub(super) fn lend(self, payload: &Payload) -> Bytes {
        self.0.attach_to(payload.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_lent_without_a_copy_and_counted_until_it_is_sent() {
        let memory = Budget::of_shares(&[(Share::Sends, BLOCK_LEN)]);
        let buffers = SendBuffers::new(memory.clone());
        let block = Bytes::from(vec![7; BLOCK_LEN]);
        let lent = buffers.try_reserve().unwrap().lend(&Payload::from_iter([block.clone()]));
        assert!(lent.as_ptr() == block.as_ptr() && buffers.try_reserve().is_none());
        assert_eq!(memory.held(), BLOCK_LEN);
        drop(lent);
        assert_eq!(memory.held(), 0);
        let parts = Payload::from_iter([Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        assert_eq!(&buffers.try_reserve().unwrap().lend(&parts)[..], b"ab");
    }
}
