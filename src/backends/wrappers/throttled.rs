//! Limits the upload rate, for connections that are shared with others.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use url::Url;

use crate::{
    backends::{
        Body, Capabilities, Key, MultipartUpload, ObjectVersion, Page, PageToken, Payload,
        StorageBackend, UnfinishedUpload, UploadLayout,
    },
    error::Result,
    rate::RateLimit,
};

/// Limits the combined rate of all puts and parts; reads are not limited.
///
/// A put first waits for the time that its bytes take at this rate, behind the puts that arrived before it, and then
/// runs: the connection behaves like a queue. Bursts are not allowed: an idle connection saves nothing up.
#[derive(Debug)]
pub struct Throttled<B> {
    inner: B,
    limit: Arc<RateLimit>,
}

impl<B> Throttled<B> {
    /// Limits the puts into `inner` to `bytes_per_second` (at least 1).
    #[must_use]
    pub fn new(inner: B, bytes_per_second: u64) -> Self {
        Self { inner, limit: RateLimit::new(Some(bytes_per_second.max(1))) }
    }
}

#[async_trait]
impl<B: StorageBackend> StorageBackend for Throttled<B> {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.limit.acquire(payload.len()).await;
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

    async fn version(&self, key: &Key) -> Result<Option<ObjectVersion>> {
        self.inner.version(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.inner.list(prefix, page).await
    }

    async fn begin_upload(
        &self,
        key: &Key,
        layout: UploadLayout,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.begin_upload(key, layout).await?;
        Ok(Box::new(ThrottledUpload { inner, limit: Arc::clone(&self.limit) }))
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>> {
        self.inner.list_uploads(prefix).await
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        self.inner.abort_upload(upload).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
        self.inner.url(key, expiry).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        self.inner.free_space().await
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}

/// An upload whose parts share the rate limit of the puts. Copies on the server are not limited.
#[derive(Debug)]
struct ThrottledUpload {
    inner: Box<dyn MultipartUpload>,
    limit: Arc<RateLimit>,
}

#[async_trait]
impl MultipartUpload for ThrottledUpload {
    fn stored_parts(&self) -> &[u64] {
        self.inner.stored_parts()
    }

    async fn put_part(&self, part: u64, payload: Payload) -> Result<()> {
        self.limit.acquire(payload.len()).await;
        self.inner.put_part(part, payload).await
    }

    async fn copy_part(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        self.inner.copy_part(part, from, range).await
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
    async fn passes_the_conformance_suite() {
        conformance::check(&Throttled::new(MemoryBackend::new(), 1 << 30)).await;
    }

    #[tokio::test(start_paused = true)]
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
