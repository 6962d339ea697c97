//! A test storage that enforces the rules of real storages for uploads: the order of parts, their length, and what can
//! be copied.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::Rig;
use crate::{
    backends::{
        Body, Capabilities, CopySupport, Faulty, Key, MemoryBackend, MultipartUpload,
        ObjectVersion, Page, PageToken, Payload, StorageBackend, UnfinishedUpload, UploadLayout,
    },
    error::{Error, Kind, Result},
};

/// A storage with stricter rules than the memory backend. It panics when they are broken.
#[derive(Debug)]
pub(in crate::storage) struct StrictBackend {
    pub(in crate::storage) inner: Arc<Faulty<MemoryBackend>>,
    pub(in crate::storage) capabilities: Capabilities,
    /// Whether it rejects copies although its capabilities promise them.
    pub(in crate::storage) refuses_copies: bool,
    /// The number of upload sessions that it will forget, each at its second part.
    pub(super) sessions_to_forget: AtomicU64,
    pub(super) uploads_started: AtomicU64,
    /// The shortest part, except for the last one.
    pub(in crate::storage) min_part: u64,
    /// Bytes sent in PUTs and parts, failed ones included.
    pub(super) sent_bytes: Arc<AtomicU64>,
    /// Calls that change the storage, those on uploads included.
    pub(super) calls: watch::Sender<u64>,
}

impl StrictBackend {
    /// Waits for the call of this number.
    pub(super) async fn until_calls(&self, number: u64) {
        let mut calls = self.calls.subscribe();
        calls.wait_for(|calls| *calls >= number).await.expect("the sender is in `self`");
    }
}

fn count(calls: &watch::Sender<u64>) {
    calls.send_modify(|calls| *calls += 1);
}

#[derive(Debug)]
struct StrictUpload {
    inner: Box<dyn MultipartUpload>,
    layout: UploadLayout,
    capabilities: Capabilities,
    refuses_copies: bool,
    next_part: AtomicU64,
    is_forgotten: bool,
    min_part: u64,
    sent_bytes: Arc<AtomicU64>,
    calls: watch::Sender<u64>,
}

impl StrictUpload {
    fn part(&self, part: u64) -> Result<Range<u64>> {
        if self.capabilities.ordered_parts {
            assert_eq!(self.next_part.load(Ordering::Relaxed), part, "parts in order");
        }
        if self.is_forgotten && part == 1 {
            return Err(Error::new(Kind::SessionExpired, "forgotten on purpose"));
        }
        let range = self.layout.part_range(part);
        let last = part + 1 == self.layout.part_count();
        assert!(last || range.end - range.start >= self.min_part, "parts are long enough");
        Ok(range)
    }
}

#[async_trait]
impl MultipartUpload for StrictUpload {
    fn stored_parts(&self) -> &[u64] {
        self.inner.stored_parts()
    }

    async fn put_part(&self, part: u64, payload: Payload) -> Result<()> {
        count(&self.calls);
        let range = self.part(part)?;
        assert_eq!(payload.len(), range.end - range.start);
        self.sent_bytes.fetch_add(payload.len(), Ordering::Relaxed);
        self.inner.put_part(part, payload).await?;
        self.next_part.store(part + 1, Ordering::Relaxed);
        Ok(())
    }

    async fn copy_part(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        count(&self.calls);
        let expected = self.part(part)?;
        assert_eq!(range.end - range.start, expected.end - expected.start);
        if self.refuses_copies {
            return Err(Error::new(Kind::Unsupported, "does not copy"));
        }
        assert_ne!(self.capabilities.copy, CopySupport::No);
        assert!(self.capabilities.copy != CopySupport::Whole || self.layout.part_count() == 1);
        self.inner.copy_part(part, from, range).await?;
        self.next_part.store(part + 1, Ordering::Relaxed);
        Ok(())
    }

    async fn finish(&self) -> Result<()> {
        count(&self.calls);
        self.inner.finish().await
    }

    async fn abort(&self) -> Result<()> {
        self.inner.abort().await
    }
}

#[async_trait]
impl StorageBackend for StrictBackend {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        count(&self.calls);
        self.sent_bytes.fetch_add(payload.len(), Ordering::Relaxed);
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
        count(&self.calls);
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
        count(&self.calls);
        self.uploads_started.fetch_add(1, Ordering::Relaxed);
        let sessions_to_forget = |n: u64| n.checked_sub(1);
        let is_forgotten = self
            .sessions_to_forget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, sessions_to_forget)
            .is_ok();
        if is_forgotten {
            crate::storage::files::publisher::abort_uploads(&(Arc::clone(&self.inner) as _), key)
                .await?;
        }
        let inner = self.inner.begin_upload(key, layout).await?;
        let next_part = AtomicU64::new(inner.stored_parts().len() as u64);
        let (capabilities, refuses_copies) = (self.capabilities, self.refuses_copies);
        let (min_part, sent_bytes) = (self.min_part, Arc::clone(&self.sent_bytes));
        Ok(Box::new(StrictUpload {
            inner,
            layout,
            capabilities,
            refuses_copies,
            next_part,
            is_forgotten,
            min_part,
            sent_bytes,
            calls: self.calls.clone(),
        }))
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>> {
        self.inner.list_uploads(prefix).await
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        self.inner.abort_upload(upload).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<url::Url> {
        self.inner.url(key, expiry).await
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn is_remote(&self) -> bool {
        true
    }
}

/// A strict storage over the backend of `rig`.
pub(in crate::storage) fn strict(rig: &Rig, copy: CopySupport, ordered: bool) -> StrictBackend {
    let capabilities = Capabilities {
        copy,
        ordered_parts: ordered,
        conditional_put: false,
        links: false,
        window: Capabilities::WINDOW,
        body_in_blocks: false,
    };
    StrictBackend {
        inner: Arc::clone(&rig.backend),
        capabilities,
        refuses_copies: false,
        sessions_to_forget: AtomicU64::new(0),
        uploads_started: AtomicU64::new(0),
        min_part: 5 << 20,
        sent_bytes: Arc::default(),
        calls: watch::Sender::new(0),
    }
}
