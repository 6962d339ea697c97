//! Counts the reads from a storage, per object. Innermost of the wrappers, so that a retry or a second get counts
//! again.

use std::{collections::HashMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use url::Url;

use crate::{
    backends::{
        Body, Capabilities, Key, MultipartUpload, ObjectVersion, Page, PageToken, Payload,
        StorageBackend, UnfinishedUpload, UploadLayout,
    },
    error::Result,
};

/// Number of gets, and the bytes they returned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reads {
    pub gets: u64,
    pub bytes: u64,
}

impl std::ops::AddAssign for Reads {
    fn add_assign(&mut self, other: Self) {
        self.gets += other.gets;
        self.bytes += other.bytes;
    }
}

/// Reads since they were last taken.
#[derive(Debug, Default)]
pub struct Meter {
    by_key: Mutex<HashMap<Key, Reads>>,
}

impl Meter {
    /// Returns the counts and resets them.
    #[must_use]
    pub fn take(&self) -> HashMap<Key, Reads> {
        std::mem::take(&mut *self.by_key.lock())
    }

    /// The keys that were read.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.by_key.lock().keys().cloned().collect()
    }

    /// Returns the counts of the keys that `is_wanted` accepts, and resets them.
    #[must_use]
    pub fn take_if(&self, is_wanted: impl Fn(&Key) -> bool) -> HashMap<Key, Reads> {
        self.by_key.lock().extract_if(|key, _| is_wanted(key)).collect()
    }

    fn count(&self, key: &Key, reads: Reads) {
        let mut by_key = self.by_key.lock();
        match by_key.get_mut(key) {
            Some(sum) => *sum += reads,
            None => drop(by_key.insert(key.clone(), reads)),
        }
    }
}

/// A get in flight. When it is dropped before its answer (a second get was faster, a player moved to another position),
/// the whole range is counted, because the bytes already sent are unknown. A failed get counts 0 bytes.
struct GetInFlight<'a> {
    meter: &'a Meter,
    key: &'a Key,
    bytes: u64,
}

impl Drop for GetInFlight<'_> {
    fn drop(&mut self) {
        self.meter.count(self.key, Reads { gets: 1, bytes: self.bytes });
    }
}

/// Counts the gets from `B`.
#[derive(Debug)]
pub struct Metered<B> {
    inner: B,
    meter: Arc<Meter>,
}

impl<B> Metered<B> {
    #[must_use]
    pub fn new(inner: B, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }
}

#[async_trait]
impl<B: StorageBackend> StorageBackend for Metered<B> {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.inner.put(key, payload).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let requested = range.end.saturating_sub(range.start);
        let mut in_flight = GetInFlight { meter: &self.meter, key, bytes: requested };
        let got = self.inner.get(key, range).await;
        in_flight.bytes = got.as_ref().map_or(0, |bytes| bytes.len() as u64);
        got
    }

    /// Counts the bytes as the body is read, so a body dropped early counts only what was received.
    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        self.meter.count(key, Reads { gets: 1, bytes: 0 });
        let body = self.inner.open(key, range).await?;
        let (meter, key) = (Arc::clone(&self.meter), key.clone());
        Ok(Box::pin(body.inspect(move |part| {
            let bytes = part.as_ref().map_or(0, |bytes| bytes.len() as u64);
            meter.count(&key, Reads { gets: 0, bytes });
        })))
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
        self.inner.begin_upload(key, layout).await
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backends::{Faulty, MemoryBackend, RetryPolicy, Retrying, conformance},
        error::Kind,
    };

    #[tokio::test]
    async fn passes_the_conformance_suite() {
        conformance::check(&Metered::new(MemoryBackend::new(), Arc::default())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn retries_count_again_and_abandoned_gets_count_their_whole_range() {
        let (key, meter) = (Key::new("a").unwrap(), Arc::<Meter>::default());
        let faulty = Arc::new(Faulty::new(MemoryBackend::new(), 1));
        faulty.put(&key, Payload::from_iter([Bytes::from(vec![7; 100])])).await.unwrap();
        faulty.fail_next_gets(2, Kind::Unavailable);
        let metered = Metered::new(Arc::clone(&faulty), Arc::clone(&meter));
        let retrying = Retrying::with_policy(metered, RetryPolicy::brief());
        assert_eq!(retrying.get(&key, 10..30).await.unwrap().len(), 20);
        let taken = meter.take();
        assert_eq!(taken, [(key.clone(), Reads { gets: 3, bytes: 20 })].into());
        assert!(meter.take().is_empty());
        faulty.delay(Duration::from_secs(3600));
        let abandoned = tokio::time::timeout(Duration::from_millis(1), retrying.get(&key, 0..50));
        assert!(abandoned.await.is_err());
        assert_eq!(meter.take()[&key], Reads { gets: 1, bytes: 50 });
    }

    #[tokio::test]
    async fn counts_that_are_not_taken_stay() {
        let (meter, backend) = (Arc::<Meter>::default(), MemoryBackend::new());
        let metered = Metered::new(backend, Arc::clone(&meter));
        let keys = ["a", "b"].map(|key| Key::new(key).unwrap());
        for key in &keys {
            metered.put(key, Payload::from_iter([Bytes::from_static(b"x")])).await.unwrap();
            metered.get(key, 0..1).await.unwrap();
        }
        let one = Reads { gets: 1, bytes: 1 };
        assert_eq!(meter.take_if(|key| *key == keys[0]), [(keys[0].clone(), one)].into());
        assert_eq!(meter.keys(), [keys[1].clone()]);
        assert_eq!(meter.take(), [(keys[1].clone(), one)].into());
    }
}
