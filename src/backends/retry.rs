//! Retries failed calls with exponential backoff and jitter.

use std::{
    future::Future,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;
use url::Url;

use super::{
    Body, Capabilities, Key, Page, PageToken, Payload, Shape, Stamp, StorageBackend, Unfinished,
    Upload, rng::SplitMix64,
};
use crate::error::{Error, Kind, Result};

/// Exponential backoff with full jitter: each wait is uniform in `[0, min(cap, base * 2^n)]`.
///
/// Full jitter, because many puts fail together when a storage goes away, and their retries must not arrive together.
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

    /// The wait before the next retry.
    pub fn next_wait(&mut self) -> Duration {
        // `base * 2^16` is above every cap in use.
        let most = self.base.saturating_mul(1 << self.tries.min(16)).min(self.cap);
        self.tries += 1;
        most.mul_f64(self.rng.fraction())
    }
}

/// How long to retry, and how often to resend a payload.
///
/// Budgets count from the first failure, so that a slow call gets a retry too. A retry that would start after the
/// budget is not made: the last error is returned, with the wait that the server asked for, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Upper bound of the first wait. It doubles with each retry.
    pub base: Duration,
    /// Upper bound of any wait, unless the server asks for more.
    pub cap: Duration,
    /// Time budget of calls that send payload.
    pub send_budget: Duration,
    /// Time budget of all other calls.
    pub budget: Duration,
    /// How many times one call may resend its payload.
    pub resends: u32,
}

impl RetryPolicy {
    /// For a single check of a storage while the user waits for the answer.
    #[must_use]
    pub fn brief() -> Self {
        let ms = Duration::from_millis;
        Self { base: ms(200), cap: ms(800), send_budget: ms(2000), budget: ms(2000), resends: 3 }
    }
}

impl Default for RetryPolicy {
    /// Waits from 1 s, doubling to 60 s. Calls without payload retry for two minutes; a storage that is away for
    /// longer is reported to the user.
    ///
    /// Calls with payload retry for 30 s only, because the writer above retries without end and reports a pause. 30 s
    /// is long enough to hide the 503 answers that some storages give every day, and short enough to report an outage
    /// soon. They resend at most eight times, because sent bytes cost money or daily quota (750 GB on Google Drive)
    /// even when they are not stored. With these waits, 30 s allows five or six resends.
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self { base: secs(1), cap: secs(60), send_budget: secs(30), budget: secs(120), resends: 8 }
    }
}

/// A failure is shown to the user only when it lasts longer than this.
const UNTOLD: Duration = Duration::from_secs(5);
/// Minimum time between two warnings.
const TOLD: Duration = Duration::from_secs(60);

/// Failed calls of one storage that are being retried.
#[derive(Debug, Default)]
struct Failing {
    calls: AtomicUsize,
    /// When the user was last warned. Cleared by a success that comes [`TOLD`] or more after the warning.
    told: Mutex<Option<Instant>>,
}

impl Failing {
    /// Whether to warn the user of a failing call. True once, however many calls fail together.
    fn is_news(&self, now: Instant) -> bool {
        let mut told = self.told.lock();
        let news = told.is_none();
        told.get_or_insert(now);
        news
    }

    fn succeeded(&self, now: Instant) {
        let mut told = self.told.lock();
        *told = told.filter(|at| now < *at + TOLD);
    }
}

/// Counts one call as failing for as long as it is retried.
struct Counted<'a>(&'a Failing);

impl<'a> Counted<'a> {
    fn new(failing: &'a Failing) -> Self {
        failing.calls.fetch_add(1, Ordering::Relaxed);
        Self(failing)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Retries the calls into `B` that fail with a retryable kind.
#[derive(Debug)]
pub struct Retrying<B> {
    inner: B,
    policy: RetryPolicy,
    failing: Arc<Failing>,
}

impl<B> Retrying<B> {
    #[must_use]
    pub fn new(inner: B) -> Self {
        Self::with_policy(inner, RetryPolicy::default())
    }

    #[must_use]
    pub fn with_policy(inner: B, policy: RetryPolicy) -> Self {
        Self { inner, policy, failing: Arc::default() }
    }

    /// Retry state of a call that sends `len` bytes of payload.
    fn sending<'a>(&'a self, what: &'static str, thing: &'a str, len: u64) -> Patience<'a> {
        Patience::sending(self.policy, &self.failing, what, thing, len)
    }

    fn asking<'a>(&'a self, what: &'static str, thing: &'a str) -> Patience<'a> {
        Patience::asking(self.policy, &self.failing, what, thing)
    }
}

/// Retry state of one call: its time budget and the resends left.
struct Patience<'a> {
    what: &'static str,
    thing: &'a str,
    policy: RetryPolicy,
    failing: &'a Failing,
    budget: Duration,
    resends: u32,
    /// Whether a retry starts a new upload session, which makes `SessionExpired` retryable.
    begins_anew: bool,
    /// Whether to warn the user of a lasting failure. For calls with payload the writer reports it, as a pause.
    tells: bool,
}

impl<'a> Patience<'a> {
    fn sending(
        policy: RetryPolicy,
        failing: &'a Failing,
        what: &'static str,
        thing: &'a str,
        len: u64,
    ) -> Self {
        // Resending an empty payload costs nothing.
        let resends = if len == 0 { u32::MAX } else { policy.resends };
        let asking = Self::asking(policy, failing, what, thing);
        Self { budget: policy.send_budget, resends, tells: false, ..asking }
    }

    fn asking(
        policy: RetryPolicy,
        failing: &'a Failing,
        what: &'static str,
        thing: &'a str,
    ) -> Self {
        let (budget, resends) = (policy.budget, u32::MAX);
        Self { what, thing, policy, failing, budget, resends, begins_anew: true, tells: true }
    }
}

impl Patience<'_> {
    /// For a call inside an upload, which cannot start a new session by itself.
    fn within_upload(mut self) -> Self {
        self.begins_anew = false;
        self
    }

    fn may_pass(&self, error: &Error) -> bool {
        error.kind().is_retryable() && (self.begins_anew || error.kind() != Kind::SessionExpired)
    }

    async fn repeat<T, F>(mut self, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let (mut deadline, mut counted) = (None, None);
        let mut backoff = Backoff::new(self.policy.base, self.policy.cap);
        loop {
            let error = match call().await {
                Ok(done) => {
                    self.failing.succeeded(Instant::now());
                    return Ok(done);
                }
                Err(e) => e,
            };
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.budget);
            // The jitter is added to the requested wait; otherwise all refused callers would return at the same
            // moment.
            let wait = error.wait_asked().unwrap_or_default().saturating_add(backoff.next_wait());
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.may_pass(&error) || self.resends == 0 || wait > left {
                return Err(error);
            }
            self.resends -= 1;
            counted.get_or_insert_with(|| Counted::new(self.failing));
            let Self { what, thing, .. } = &self;
            let text = format!("{what} {thing} will be tried again in {wait:.1?}");
            // A failure that passes within seconds is not shown: some storages refuse a call now and then every day.
            let lasts = self.budget - left >= UNTOLD;
            if lasts && self.tells && self.failing.is_news(Instant::now()) {
                tracing::warn!("{text}: {}", error.report());
            } else {
                tracing::info!("{text}: {}", error.report());
            }
            tokio::time::sleep(wait).await;
        }
    }
}

#[async_trait]
impl<B: StorageBackend> StorageBackend for Retrying<B> {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        let patience = self.sending("put", key.as_str(), payload.len());
        patience.repeat(|| self.inner.put(key, payload.clone())).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.asking("get", key.as_str()).repeat(|| self.inner.get(key, range.clone())).await
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        let patience = self.asking("get", key.as_str());
        patience.repeat(|| self.inner.open(key, range.clone())).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.asking("head", key.as_str()).repeat(|| self.inner.head(key)).await
    }

    async fn stamp(&self, key: &Key) -> Result<Option<Stamp>> {
        self.asking("head", key.as_str()).repeat(|| self.inner.stamp(key)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.asking("delete", key.as_str()).repeat(|| self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.asking("list", prefix).repeat(|| self.inner.list(prefix, page)).await
    }

    async fn begin(&self, key: &Key, shape: Shape) -> Result<Box<dyn Upload>> {
        let patience = self.asking("begin", key.as_str());
        let inner = patience.repeat(|| self.inner.begin(key, shape)).await?;
        let failing = Arc::clone(&self.failing);
        Ok(Box::new(RetryingUpload { inner, key: key.clone(), policy: self.policy, failing }))
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        self.asking("list uploads", prefix).repeat(|| self.inner.unfinished(prefix)).await
    }

    async fn abort(&self, upload: &Unfinished) -> Result<()> {
        let patience = self.asking("abort", upload.key.as_str());
        patience.repeat(|| self.inner.abort(upload)).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
        self.asking("link", key.as_str()).repeat(|| self.inner.url(key, expiry)).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        self.asking("ask", "free room").repeat(|| self.inner.free_room()).await
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }

    fn refuses(&self) -> bool {
        self.failing.calls.load(Ordering::Relaxed) > 0
    }
}

/// Retries each part like a put. An expired upload is not retried, because its parts are gone.
#[derive(Debug)]
struct RetryingUpload {
    inner: Box<dyn Upload>,
    key: Key,
    policy: RetryPolicy,
    failing: Arc<Failing>,
}

impl RetryingUpload {
    fn asking(&self, what: &'static str) -> Patience<'_> {
        Patience::asking(self.policy, &self.failing, what, self.key.as_str()).within_upload()
    }
}

#[async_trait]
impl Upload for RetryingUpload {
    fn done(&self) -> &[u64] {
        self.inner.done()
    }

    async fn write(&self, part: u64, payload: Payload) -> Result<()> {
        let (what, key) = ("write a part of", self.key.as_str());
        let patience = Patience::sending(self.policy, &self.failing, what, key, payload.len());
        let patience = patience.within_upload();
        patience.repeat(|| self.inner.write(part, payload.clone())).await
    }

    async fn copy(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        let patience = self.asking("copy a part of");
        patience.repeat(|| self.inner.copy(part, from, range.clone())).await
    }

    async fn finish(&self) -> Result<()> {
        self.asking("finish").repeat(|| self.inner.finish()).await
    }

    async fn abort(&self) -> Result<()> {
        self.asking("abort").repeat(|| self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::{Faulty, MemoryBackend, conformance};

    fn hasty() -> RetryPolicy {
        let (ms, long) = (Duration::from_millis, Duration::from_secs(20));
        RetryPolicy { base: ms(1), cap: ms(4), send_budget: long, budget: long, resends: 100 }
    }

    fn faulty() -> Faulty<MemoryBackend> {
        Faulty::new(MemoryBackend::new(), 1)
    }

    fn key() -> Key {
        Key::new("k").unwrap()
    }

    fn body() -> Payload {
        Payload::from_iter([Bytes::from_static(b"body")])
    }

    #[tokio::test]
    async fn keeps_the_contract_over_a_place_that_fails_often() {
        let faulty = Faulty::new(MemoryBackend::new(), 11);
        faulty.fail_randomly(0.5, Kind::Unavailable);
        conformance::check(&Retrying::with_policy(faulty, hasty())).await;
    }

    #[tokio::test]
    async fn tries_again_only_what_may_pass() {
        let retrying = Retrying::with_policy(faulty(), hasty());
        retrying.inner.fail_next_puts(1, Kind::NoSpace);
        let refused = retrying.put(&key(), body()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::NoSpace);
        retrying.inner.fail_next_puts(5, Kind::RateLimited);
        retrying.put(&key(), body()).await.unwrap();
        assert_eq!(retrying.inner.puts(), 7);
    }

    #[tokio::test]
    async fn gives_up_when_the_time_is_used_up() {
        let place = faulty();
        place.fail_next_puts(u64::MAX, Kind::Network);
        let policy = RetryPolicy { send_budget: Duration::from_millis(30), ..hasty() };
        let retrying = Retrying::with_policy(place, policy);
        let error = retrying.put(&key(), body()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Network);
        assert!(retrying.inner.puts() > 2);
    }

    #[tokio::test]
    async fn a_payload_is_sent_again_only_so_often_and_an_empty_one_costs_nothing() {
        let policy = RetryPolicy { resends: 3, ..hasty() };
        let retrying = Retrying::with_policy(faulty(), policy);
        retrying.inner.fail_next_puts(20, Kind::Unavailable);
        assert!(retrying.put(&key(), body()).await.is_err());
        assert_eq!(retrying.inner.puts(), 4, "once, and three times again");
        retrying.put(&key(), Payload::default()).await.unwrap();
    }

    #[tokio::test]
    async fn waits_as_long_as_it_is_asked_to() {
        let retrying = Retrying::with_policy(faulty(), hasty());
        retrying.inner.ask_to_wait(Duration::from_millis(120));
        retrying.inner.fail_next_puts(1, Kind::RateLimited);
        let began = Instant::now();
        retrying.put(&key(), body()).await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(120), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_wait_beyond_the_budget_is_handed_to_the_caller_at_once() {
        let retrying = Retrying::with_policy(faulty(), hasty());
        let hour = Duration::from_secs(3600);
        retrying.inner.ask_to_wait(hour);
        retrying.inner.fail_next_puts(1, Kind::RateLimited);
        let error = retrying.put(&key(), body()).await.unwrap_err();
        assert_eq!((error.kind(), error.wait_asked()), (Kind::RateLimited, Some(hour)));
    }

    #[tokio::test]
    async fn a_slow_call_has_its_second_try_too() {
        let policy = RetryPolicy { send_budget: Duration::from_millis(20), ..hasty() };
        let retrying = Retrying::with_policy(faulty(), policy);
        retrying.inner.delay(Duration::from_millis(60));
        retrying.inner.fail_next_puts(1, Kind::Network);
        retrying.put(&key(), body()).await.unwrap();
    }

    #[tokio::test]
    async fn an_expired_upload_is_for_whoever_began_it() {
        let retrying = Retrying::with_policy(faulty(), hasty());
        let upload = retrying.begin(&key(), Shape { len: 4, part_len: 4 }).await.unwrap();
        retrying.inner.fail_next_uploads(1, Kind::SessionExpired);
        assert_eq!(upload.write(0, body()).await.unwrap_err().kind(), Kind::SessionExpired);
        retrying.inner.fail_next_uploads(2, Kind::Unavailable);
        upload.write(0, body()).await.unwrap();
        retrying.inner.fail_next_uploads(2, Kind::Network);
        upload.finish().await.unwrap();
        retrying.inner.fail_next_puts(1, Kind::SessionExpired);
        retrying.put(&key(), body()).await.unwrap();
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
