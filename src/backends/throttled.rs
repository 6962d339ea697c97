//! Limits the upload rate, for connections that are shared with others.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use url::Url;

use super::{
    Body, Capabilities, Key, Page, PageToken, Payload, Shape, Stamp, StorageBackend, Unfinished,
    Upload,
};
use crate::{error::Result, rate::RateLimit};

/// Limits the combined rate of all puts and parts; reads are not limited.
///
/// A put first waits for the time that its bytes take at this rate, behind the puts that arrived before it, and then
/// runs: the connection behaves like a queue. Bursts are not allowed: an idle connection saves nothing up.
#[derive(Debug)]
pub struct Throttled<B> {
    inner: B,
    link: Arc<RateLimit>,
}

impl<B> Throttled<B> {
    /// Limits the puts into `inner` to `bytes_per_second` (at least 1).
    #[must_use]
    pub fn new(inner: B, bytes_per_second: u64) -> Self {
        Self { inner, link: RateLimit::new(Some(bytes_per_second.max(1))) }
    }
}

#[async_trait]
impl<B: StorageBackend> StorageBackend for Throttled<B> {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.link.pass(payload.len()).await;
        self.inner.put(key, payload).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.inner.get(key, range).await
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        self.inner.open(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.inner.head(key).await
    }

    async fn stamp(&self, key: &Key) -> Result<Option<Stamp>> {
        self.inner.stamp(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.inner.list(prefix, page).await
    }

    async fn begin(&self, key: &Key, shape: Shape) -> Result<Box<dyn Upload>> {
        let inner = self.inner.begin(key, shape).await?;
        Ok(Box::new(ThrottledUpload { inner, link: Arc::clone(&self.link) }))
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        self.inner.unfinished(prefix).await
    }

    async fn abort(&self, upload: &Unfinished) -> Result<()> {
        self.inner.abort(upload).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
        self.inner.url(key, expiry).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        self.inner.free_room().await
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}

/// An upload whose parts share the rate limit of the puts. Copies on the server are not limited.
#[derive(Debug)]
struct ThrottledUpload {
    inner: Box<dyn Upload>,
    link: Arc<RateLimit>,
}

#[async_trait]
impl Upload for ThrottledUpload {
    fn done(&self) -> &[u64] {
        self.inner.done()
    }

    async fn write(&self, part: u64, payload: Payload) -> Result<()> {
        self.link.pass(payload.len()).await;
        self.inner.write(part, payload).await
    }

    async fn copy(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        self.inner.copy(part, from, range).await
    }

    async fn finish(&self) -> Result<()> {
        self.inner.finish().await
    }

    async fn abort(&self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

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
