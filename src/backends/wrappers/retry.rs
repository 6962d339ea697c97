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

use super::rng::SplitMix64;
use crate::{
    backends::{
        Body, Capabilities, Key, MultipartUpload, ObjectVersion, Page, PageToken, Payload,
        StorageBackend, UnfinishedUpload, UploadLayout,
    },
    error::{Error, Kind, Result},
};

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
const WARN_AFTER: Duration = Duration::from_secs(5);
/// Minimum time between two warnings.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Failed calls of one storage that are being retried.
#[derive(Debug, Default)]
struct FailingCalls {
    calls: AtomicUsize,
    /// When the user was last warned. Cleared by a success that comes [`WARN_INTERVAL`] or more after the warning.
    warned_at: Mutex<Option<Instant>>,
}

impl FailingCalls {
    /// Whether to warn the user of a failing call. True once, however many calls fail together.
    fn should_warn(&self, now: Instant) -> bool {
        let mut warned_at = self.warned_at.lock();
        let first = warned_at.is_none();
        warned_at.get_or_insert(now);
        first
    }

    fn succeeded(&self, now: Instant) {
        let mut warned_at = self.warned_at.lock();
        *warned_at = warned_at.filter(|at| now < *at + WARN_INTERVAL);
    }
}

/// Counts one call as failing for as long as it is retried.
struct FailingCall<'a>(&'a FailingCalls);

impl<'a> FailingCall<'a> {
    fn new(failing: &'a FailingCalls) -> Self {
        failing.calls.fetch_add(1, Ordering::Relaxed);
        Self(failing)
    }
}

impl Drop for FailingCall<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Retries the calls into `B` that fail with a retryable kind.
#[derive(Debug)]
pub struct Retrying<B> {
    inner: B,
    policy: RetryPolicy,
    failing: Arc<FailingCalls>,
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
    fn with_payload<'a>(&'a self, op: &'static str, subject: &'a str, len: u64) -> CallRetry<'a> {
        CallRetry::with_payload(self.policy, &self.failing, op, subject, len)
    }

    fn without_payload<'a>(&'a self, op: &'static str, subject: &'a str) -> CallRetry<'a> {
        CallRetry::without_payload(self.policy, &self.failing, op, subject)
    }
}

/// Retry state of one call: its time budget and the resends left.
struct CallRetry<'a> {
    op: &'static str,
    subject: &'a str,
    policy: RetryPolicy,
    failing: &'a FailingCalls,
    budget: Duration,
    resends: u32,
    /// Whether a retry starts a new upload session, which makes `SessionExpired` retryable.
    restarts_session: bool,
    /// Whether to warn the user of a lasting failure. For calls with payload the writer reports it, as a pause.
    warns: bool,
}

impl<'a> CallRetry<'a> {
    fn with_payload(
        policy: RetryPolicy,
        failing: &'a FailingCalls,
        op: &'static str,
        subject: &'a str,
        len: u64,
    ) -> Self {
        // Resending an empty payload costs nothing.
        let resends = if len == 0 { u32::MAX } else { policy.resends };
        let base = Self::without_payload(policy, failing, op, subject);
        Self { budget: policy.send_budget, resends, warns: false, ..base }
    }

    fn without_payload(
        policy: RetryPolicy,
        failing: &'a FailingCalls,
        op: &'static str,
        subject: &'a str,
    ) -> Self {
        let (budget, resends) = (policy.budget, u32::MAX);
        Self { op, subject, policy, failing, budget, resends, restarts_session: true, warns: true }
    }
}

impl CallRetry<'_> {
    /// For a call inside an upload, which cannot start a new session by itself.
    fn within_upload(mut self) -> Self {
        self.restarts_session = false;
        self
    }

    fn is_retryable(&self, error: &Error) -> bool {
        error.kind().is_retryable()
            && (self.restarts_session || error.kind() != Kind::SessionExpired)
    }

    async fn run<T, F>(mut self, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let (mut deadline, mut failing_call) = (None, None);
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
            let wait =
                error.requested_wait().unwrap_or_default().saturating_add(backoff.next_wait());
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.is_retryable(&error) || self.resends == 0 || wait > left {
                return Err(error);
            }
            self.resends -= 1;
            failing_call.get_or_insert_with(|| FailingCall::new(self.failing));
            let Self { op, subject, .. } = &self;
            let text = format!("{op} {subject}: retrying in {wait:.1?}");
            // A failure that passes within seconds is not shown: some storages refuse a call now and then every day.
            let is_lasting = self.budget - left >= WARN_AFTER;
            if is_lasting && self.warns && self.failing.should_warn(Instant::now()) {
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
        let retry = self.with_payload("put", key.as_str(), payload.len());
        retry.run(|| self.inner.put(key, payload.clone())).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.without_payload("get", key.as_str()).run(|| self.inner.get(key, range.clone())).await
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        let retry = self.without_payload("get", key.as_str());
        retry.run(|| self.inner.open(key, range.clone())).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.without_payload("head", key.as_str()).run(|| self.inner.head(key)).await
    }

    async fn version(&self, key: &Key) -> Result<Option<ObjectVersion>> {
        self.without_payload("head", key.as_str()).run(|| self.inner.version(key)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.without_payload("delete", key.as_str()).run(|| self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.without_payload("list", prefix).run(|| self.inner.list(prefix, page)).await
    }

    async fn begin_upload(
        &self,
        key: &Key,
        layout: UploadLayout,
    ) -> Result<Box<dyn MultipartUpload>> {
        let retry = self.without_payload("begin", key.as_str());
        let inner = retry.run(|| self.inner.begin_upload(key, layout)).await?;
        let failing = Arc::clone(&self.failing);
        Ok(Box::new(RetryingUpload { inner, key: key.clone(), policy: self.policy, failing }))
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>> {
        self.without_payload("list uploads", prefix).run(|| self.inner.list_uploads(prefix)).await
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        let retry = self.without_payload("abort", upload.key.as_str());
        retry.run(|| self.inner.abort_upload(upload)).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
        self.without_payload("link", key.as_str()).run(|| self.inner.url(key, expiry)).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        self.without_payload("query", "free space").run(|| self.inner.free_space()).await
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }

    fn is_retrying(&self) -> bool {
        self.failing.calls.load(Ordering::Relaxed) > 0
    }
}

/// Retries each part like a put. An expired upload is not retried, because its parts are gone.
#[derive(Debug)]
struct RetryingUpload {
    inner: Box<dyn MultipartUpload>,
    key: Key,
    policy: RetryPolicy,
    failing: Arc<FailingCalls>,
}

impl RetryingUpload {
    fn without_payload(&self, op: &'static str) -> CallRetry<'_> {
        CallRetry::without_payload(self.policy, &self.failing, op, self.key.as_str())
            .within_upload()
    }
}

#[async_trait]
impl MultipartUpload for RetryingUpload {
    fn stored_parts(&self) -> &[u64] {
        self.inner.stored_parts()
    }

    async fn put_part(&self, part: u64, payload: Payload) -> Result<()> {
        let (op, key) = ("write a part of", self.key.as_str());
        let retry = CallRetry::with_payload(self.policy, &self.failing, op, key, payload.len());
        let retry = retry.within_upload();
        retry.run(|| self.inner.put_part(part, payload.clone())).await
    }

    async fn copy_part(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        let retry = self.without_payload("copy a part of");
        retry.run(|| self.inner.copy_part(part, from, range.clone())).await
    }

    async fn finish(&self) -> Result<()> {
        self.without_payload("finish").run(|| self.inner.finish()).await
    }

    async fn abort(&self) -> Result<()> {
        self.without_payload("abort").run(|| self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::{Faulty, MemoryBackend, conformance};

    fn fast_policy() -> RetryPolicy {
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

    #[tokio::test(start_paused = true)]
    async fn passes_the_conformance_suite_over_frequent_failures() {
        let faulty = Faulty::new(MemoryBackend::new(), 11);
        faulty.fail_randomly(0.5, Kind::Unavailable);
        conformance::check(&Retrying::with_policy(faulty, fast_policy())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn only_retryable_errors_are_retried() {
        let retrying = Retrying::with_policy(faulty(), fast_policy());
        retrying.inner.fail_next_puts(1, Kind::NoSpace);
        let refused = retrying.put(&key(), body()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::NoSpace);
        retrying.inner.fail_next_puts(5, Kind::RateLimited);
        retrying.put(&key(), body()).await.unwrap();
        assert_eq!(retrying.inner.puts(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn retries_end_with_the_time_budget() {
        let backend = faulty();
        backend.fail_next_puts(u64::MAX, Kind::Network);
        let policy = RetryPolicy { send_budget: Duration::from_millis(30), ..fast_policy() };
        let retrying = Retrying::with_policy(backend, policy);
        let error = retrying.put(&key(), body()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Network);
        assert!(retrying.inner.puts() > 2);
    }

    #[tokio::test(start_paused = true)]
    async fn resends_of_a_payload_are_limited_unless_it_is_empty() {
        let policy = RetryPolicy { resends: 3, ..fast_policy() };
        let retrying = Retrying::with_policy(faulty(), policy);
        retrying.inner.fail_next_puts(20, Kind::Unavailable);
        assert!(retrying.put(&key(), body()).await.is_err());
        assert_eq!(retrying.inner.puts(), 4, "one call and three retries");
        retrying.put(&key(), Payload::default()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_requested_wait_is_honoured() {
        let retrying = Retrying::with_policy(faulty(), fast_policy());
        retrying.inner.set_retry_after(Duration::from_millis(120));
        retrying.inner.fail_next_puts(1, Kind::RateLimited);
        let began = Instant::now();
        retrying.put(&key(), body()).await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(120), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_beyond_the_budget_is_returned_to_the_caller() {
        let retrying = Retrying::with_policy(faulty(), fast_policy());
        let hour = Duration::from_secs(3600);
        retrying.inner.set_retry_after(hour);
        retrying.inner.fail_next_puts(1, Kind::RateLimited);
        let error = retrying.put(&key(), body()).await.unwrap_err();
        assert_eq!((error.kind(), error.requested_wait()), (Kind::RateLimited, Some(hour)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_slower_than_the_budget_is_retried_once() {
        let policy = RetryPolicy { send_budget: Duration::from_millis(20), ..fast_policy() };
        let retrying = Retrying::with_policy(faulty(), policy);
        retrying.inner.delay(Duration::from_millis(60));
        retrying.inner.fail_next_puts(1, Kind::Network);
        retrying.put(&key(), body()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_upload_is_not_retried() {
        let retrying = Retrying::with_policy(faulty(), fast_policy());
        let upload =
            retrying.begin_upload(&key(), UploadLayout { len: 4, part_len: 4 }).await.unwrap();
        retrying.inner.fail_next_uploads(1, Kind::SessionExpired);
        assert_eq!(upload.put_part(0, body()).await.unwrap_err().kind(), Kind::SessionExpired);
        retrying.inner.fail_next_uploads(2, Kind::Unavailable);
        upload.put_part(0, body()).await.unwrap();
        retrying.inner.fail_next_uploads(2, Kind::Network);
        upload.finish().await.unwrap();
        retrying.inner.fail_next_puts(1, Kind::SessionExpired);
        retrying.put(&key(), body()).await.unwrap();
    }

    #[test]
    fn waits_stay_below_the_doubling_bound_and_the_cap() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        for n in 0..40u32 {
            let most = Duration::from_secs(1 << n.min(6)).min(Duration::from_secs(60));
            assert!(backoff.next_wait() <= most);
        }
    }
}
