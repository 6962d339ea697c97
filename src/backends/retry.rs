//! Trying again what may pass by itself, with waits that spread out.

use std::{future::Future, ops::Range, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use url::Url;

use super::{
    Capabilities, Key, Page, PageToken, Payload, Shape, StorageBackend, Unfinished, Upload,
    rng::SplitMix64,
};
use crate::error::{Kind, Result};

/// Waits of full-jitter exponential backoff: each uniform in `[0, min(cap, base * 2^n)]`.
///
/// Full jitter because many puts fail together when a place goes away, and must not come back together.
#[derive(Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    tries: u32,
    rng: SplitMix64,
}

impl Backoff {
    #[must_use]
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, tries: 0, rng: SplitMix64::from_system() }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        // 2^16 times any base is past every cap in use.
        let most = self.base.saturating_mul(1 << self.tries.min(16)).min(self.cap);
        self.tries += 1;
        most.mul_f64(self.rng.fraction())
    }
}

/// How long to keep trying.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// The longest first wait; it doubles from there.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
    /// No try begins later than this after the first; the last error is returned then.
    pub budget: Duration,
}

impl Default for RetryPolicy {
    /// 1 s doubling to 60 s, within two minutes: a place that is away for longer is news for the user.
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self { base: secs(1), cap: secs(60), budget: secs(120) }
    }
}

/// Repeats the calls into `B` that fail with a retryable kind.
#[derive(Debug)]
pub struct Retrying<B> {
    inner: B,
    retries: Retries,
}

#[derive(Debug, Clone)]
struct Retries {
    policy: RetryPolicy,
}

impl<B> Retrying<B> {
    #[must_use]
    pub fn new(inner: B) -> Self {
        Self::with_policy(inner, RetryPolicy::default())
    }

    #[must_use]
    pub fn with_policy(inner: B, policy: RetryPolicy) -> Self {
        Self { inner, retries: Retries { policy } }
    }
}

impl Retries {
    async fn repeat<T, F>(&self, what: &str, thing: &str, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let deadline = Instant::now() + self.policy.budget;
        let mut backoff = Backoff::new(self.policy.base, self.policy.cap);
        loop {
            let error = match call().await {
                Ok(done) => return Ok(done),
                Err(e) => e,
            };
            let wait = backoff.next_wait().max(error.wait_asked().unwrap_or_default());
            let passes = error.kind().is_retryable() && error.kind() != Kind::SessionExpired;
            if !passes || Instant::now() + wait > deadline {
                return Err(error);
            }
            tracing::warn!("{what} {thing} will be tried again in {wait:.1?}: {}", error.report());
            tokio::time::sleep(wait).await;
        }
    }
}

#[async_trait]
impl<B: StorageBackend> StorageBackend for Retrying<B> {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.retries.repeat("put", key.as_str(), || self.inner.put(key, payload.clone())).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.retries.repeat("get", key.as_str(), || self.inner.get(key, range.clone())).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.retries.repeat("head", key.as_str(), || self.inner.head(key)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.retries.repeat("delete", key.as_str(), || self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.retries.repeat("list", prefix, || self.inner.list(prefix, page)).await
    }

    async fn begin(&self, key: &Key, shape: Shape) -> Result<Box<dyn Upload>> {
        let begin = || self.inner.begin(key, shape);
        let inner = self.retries.repeat("begin", key.as_str(), begin).await?;
        Ok(Box::new(RetryingUpload { inner, key: key.clone(), retries: self.retries.clone() }))
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        self.retries.repeat("list uploads", prefix, || self.inner.unfinished(prefix)).await
    }

    async fn abort(&self, upload: &Unfinished) -> Result<()> {
        self.retries.repeat("abort", upload.key.as_str(), || self.inner.abort(upload)).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
        self.retries.repeat("link", key.as_str(), || self.inner.url(key, expiry)).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        self.retries.repeat("ask", "free room", || self.inner.free_room()).await
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}

/// The parts of an object, each tried again like a put. An expired upload is not: its parts are gone.
#[derive(Debug)]
struct RetryingUpload {
    inner: Box<dyn Upload>,
    key: Key,
    retries: Retries,
}

#[async_trait]
impl Upload for RetryingUpload {
    fn done(&self) -> &[u64] {
        self.inner.done()
    }

    async fn write(&self, part: u64, payload: Payload) -> Result<()> {
        let write = || self.inner.write(part, payload.clone());
        self.retries.repeat("write a part of", self.key.as_str(), write).await
    }

    async fn copy(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        let copy = || self.inner.copy(part, from, range.clone());
        self.retries.repeat("copy a part of", self.key.as_str(), copy).await
    }

    async fn finish(&self) -> Result<()> {
        self.retries.repeat("finish", self.key.as_str(), || self.inner.finish()).await
    }

    async fn abort(&self) -> Result<()> {
        self.retries.repeat("abort", self.key.as_str(), || self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::{Faulty, MemoryBackend, conformance};

    fn hasty() -> RetryPolicy {
        let ms = Duration::from_millis;
        RetryPolicy { base: ms(1), cap: ms(4), budget: Duration::from_secs(20) }
    }

    #[tokio::test]
    async fn keeps_the_contract_over_a_place_that_fails_often() {
        let faulty = Faulty::new(MemoryBackend::new(), 11);
        faulty.fail_randomly(0.5, Kind::Unavailable);
        conformance::check(&Retrying::with_policy(faulty, hasty())).await;
    }

    #[tokio::test]
    async fn tries_again_only_what_may_pass() {
        let faulty = Faulty::new(MemoryBackend::new(), 1);
        let key = Key::new("k").unwrap();
        let retrying = Retrying::with_policy(faulty, hasty());
        retrying.inner.fail_next_puts(1, Kind::NoSpace);
        let refused = retrying.put(&key, Payload::default()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::NoSpace);
        retrying.inner.fail_next_puts(5, Kind::RateLimited);
        retrying.put(&key, Payload::default()).await.unwrap();
        assert_eq!(retrying.inner.puts(), 7);
    }

    #[tokio::test]
    async fn gives_up_when_the_time_is_used_up() {
        let faulty = Faulty::new(MemoryBackend::new(), 1);
        faulty.fail_next_puts(u64::MAX, Kind::Network);
        let policy = RetryPolicy { budget: Duration::from_millis(30), ..hasty() };
        let retrying = Retrying::with_policy(faulty, policy);
        let error = retrying.put(&Key::new("k").unwrap(), Payload::default()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Network);
        assert!(retrying.inner.puts() > 2);
    }

    #[test]
    fn waits_stay_under_the_doubling_bound_and_the_cap() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        for n in 0..40u32 {
            let most = Duration::from_secs(1 << n.min(6)).min(Duration::from_secs(60));
            assert!(backoff.next_wait() <= most);
        }
    }
}
