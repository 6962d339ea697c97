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

use super::tests::Rig;
use crate::{
    backends::{
        Body, Capabilities, Copying, Faulty, Key, MemoryBackend, Page, PageToken, Payload, Shape,
        Stamp, StorageBackend, Unfinished, Upload,
    },
    error::{Error, Kind, Result},
};

/// A storage with stricter rules than the memory backend. It panics when they are broken.
#[derive(Debug)]
pub(super) struct Strict {
    pub(super) inner: Arc<Faulty<MemoryBackend>>,
    pub(super) can: Capabilities,
    /// Whether it rejects copies although its capabilities promise them.
    pub(super) refuses_copies: bool,
    /// The number of upload sessions that it will forget, each at its second part.
    pub(super) forgets: AtomicU64,
    pub(super) begun: AtomicU64,
    /// The shortest part, except for the last one.
    pub(super) least: u64,
    /// Bytes sent in PUTs and parts, failed ones included.
    pub(super) sent: Arc<AtomicU64>,
}

#[derive(Debug)]
struct StrictUpload {
    inner: Box<dyn Upload>,
    shape: Shape,
    can: Capabilities,
    refuses_copies: bool,
    next: AtomicU64,
    forgotten: bool,
    least: u64,
    sent: Arc<AtomicU64>,
}

impl StrictUpload {
    fn part(&self, part: u64) -> Result<Range<u64>> {
        if self.can.ordered {
            assert_eq!(self.next.load(Ordering::Relaxed), part, "parts in order");
        }
        if self.forgotten && part == 1 {
            return Err(Error::new(Kind::SessionExpired, "forgotten on purpose"));
        }
        let range = self.shape.part(part);
        let last = part + 1 == self.shape.parts();
        assert!(last || range.end - range.start >= self.least, "parts are long enough");
        Ok(range)
    }
}

#[async_trait]
impl Upload for StrictUpload {
    fn done(&self) -> &[u64] {
        self.inner.done()
    }

    async fn write(&self, part: u64, payload: Payload) -> Result<()> {
        let range = self.part(part)?;
        assert_eq!(payload.len(), range.end - range.start);
        self.sent.fetch_add(payload.len(), Ordering::Relaxed);
        self.inner.write(part, payload).await?;
        self.next.store(part + 1, Ordering::Relaxed);
        Ok(())
    }

    async fn copy(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        let wanted = self.part(part)?;
        assert_eq!(range.end - range.start, wanted.end - wanted.start);
        if self.refuses_copies {
            return Err(Error::new(Kind::Unsupported, "does not copy"));
        }
        assert_ne!(self.can.copy, Copying::No);
        assert!(self.can.copy != Copying::Whole || self.shape.parts() == 1);
        self.inner.copy(part, from, range).await?;
        self.next.store(part + 1, Ordering::Relaxed);
        Ok(())
    }

    async fn finish(&self) -> Result<()> {
        self.inner.finish().await
    }

    async fn abort(&self) -> Result<()> {
        self.inner.abort().await
    }
}

#[async_trait]
impl StorageBackend for Strict {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.sent.fetch_add(payload.len(), Ordering::Relaxed);
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
        self.begun.fetch_add(1, Ordering::Relaxed);
        let forgets = |n: u64| n.checked_sub(1);
        let forgotten =
            self.forgets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, forgets).is_ok();
        if forgotten {
            super::publish::give_up(&(Arc::clone(&self.inner) as _), key).await?;
        }
        let inner = self.inner.begin(key, shape).await?;
        let next = AtomicU64::new(inner.done().len() as u64);
        let (can, refuses_copies) = (self.can, self.refuses_copies);
        let (least, sent) = (self.least, Arc::clone(&self.sent));
        Ok(Box::new(StrictUpload {
            inner,
            shape,
            can,
            refuses_copies,
            next,
            forgotten,
            least,
            sent,
        }))
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        self.inner.unfinished(prefix).await
    }

    async fn abort(&self, upload: &Unfinished) -> Result<()> {
        self.inner.abort(upload).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<url::Url> {
        self.inner.url(key, expiry).await
    }

    fn capabilities(&self) -> Capabilities {
        self.can
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn is_remote(&self) -> bool {
        true
    }
}

/// A strict storage over the backend of `rig`.
pub(super) fn strict(rig: &Rig, copy: Copying, ordered: bool) -> Strict {
    let can = Capabilities {
        copy,
        ordered,
        conditional_put: false,
        links: false,
        window: Capabilities::WINDOW,
        blocks: false,
    };
    Strict {
        inner: Arc::clone(&rig.backend),
        can,
        refuses_copies: false,
        forgets: AtomicU64::new(0),
        begun: AtomicU64::new(0),
        least: 5 << 20,
        sent: Arc::default(),
    }
}
