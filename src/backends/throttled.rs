//! A limit on how fast bytes go out: for links that other people use too.

use std::{ops::Range, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Key, ObjectInfo, Payload, StorageBackend};
use crate::error::Result;

/// Holds the puts of all callers together to a rate; reads pass freely.
///
/// A put first waits for the time its bytes take at the rate, behind the puts that came before it, and then runs:
/// each is delayed as if the link were a queue. There is no burst: an idle link saves nothing up.
#[derive(Debug)]
pub struct Throttled<B> {
    inner: B,
    bytes_per_second: u64,
    /// When the bytes of every put so far will have gone out.
    drained_at: Mutex<Instant>,
}

impl<B> Throttled<B> {
    /// Limits the puts into `inner` to `bytes_per_second` (at least 1).
    #[must_use]
    pub fn new(inner: B, bytes_per_second: u64) -> Self {
        let bytes_per_second = bytes_per_second.max(1);
        Self { inner, bytes_per_second, drained_at: Mutex::new(Instant::now()) }
    }

    fn reserve(&self, len: u64) -> Instant {
        #[allow(clippy::cast_precision_loss, reason = "a delay needs no 53 bits")]
        let seconds = len as f64 / self.bytes_per_second as f64;
        let mut drained_at = self.drained_at.lock();
        // A year's wait stands for anything longer: an `Instant` must not overflow.
        let takes = Duration::from_secs_f64(seconds.min(3.2e7));
        *drained_at = (*drained_at).max(Instant::now()) + takes;
        *drained_at
    }
}

#[async_trait]
impl<B: StorageBackend> StorageBackend for Throttled<B> {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        tokio::time::sleep_until(self.reserve(payload.len())).await;
        self.inner.put(key, payload).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.inner.get(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.inner.head(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.inner.list(prefix).await
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        self.inner.free_room().await
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::{MemoryBackend, conformance};

    #[tokio::test]
    async fn keeps_the_contract() {
        conformance::check(&Throttled::new(MemoryBackend::new(), 1 << 30)).await;
    }

    #[tokio::test]
    async fn concurrent_puts_share_one_rate() {
        let slow = Throttled::new(MemoryBackend::new(), 1000);
        let body = || Payload::from_iter([Bytes::from(vec![1; 100])]);
        let (a, b) = (Key::new("a").unwrap(), Key::new("b").unwrap());
        let began = Instant::now();
        let (x, y) = tokio::join!(slow.put(&a, body()), slow.put(&b, body()));
        x.and(y).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(199), "{:?}", began.elapsed());
    }
}
