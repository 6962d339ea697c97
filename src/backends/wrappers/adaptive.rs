//! Adaptive limit on concurrent calls: halved when the storage is overloaded, raised while calls succeed.

use std::{future::Future, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};
use url::Url;

use crate::{
    backends::{
        Body, Capabilities, Key, MultipartUpload, ObjectVersion, Page, PageToken, Payload,
        StorageBackend, UnfinishedUpload, UploadLayout,
    },
    error::{Error, Kind, Result},
};

/// Maximum of concurrent calls that send no payload. Reads wait for the server's latency and hardly for bandwidth,
/// and reads of players and peers must not queue behind each other.
const MAX_OTHER_CALLS: usize = 64;
/// Initial limit of these calls. Most storages are fast enough at this, and some accept no more.
const INITIAL_OTHER_CALLS: usize = 16;
/// Minimum time between two halvings. Failures of calls that were already running say nothing about the new limit.
const HALVING_INTERVAL: Duration = Duration::from_secs(1);
/// Longest pause of all calls after one was asked to wait (`Retry-After`). The refused call itself may wait longer.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// AIMD, as in TCP: the limit rises by one per round of successes and is halved by congestion.
///
/// Invariant: `1 <= limit <= max`. Reads no clock; the caller passes the times.
#[derive(Debug)]
pub struct Aimd {
    limit: usize,
    max: usize,
    /// Successes since the limit last changed.
    successes: usize,
    halved_at: Option<Instant>,
}

impl Aimd {
    /// Starts at `max` (at least 1), because storages that report overload are the exception.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self::with_initial(max, max)
    }

    /// Starts at `initial` (at least 1), bounded by `max`.
    fn with_initial(initial: usize, max: usize) -> Self {
        let max = max.max(1);
        Self { limit: initial.clamp(1, max), max, successes: 0, halved_at: None }
    }

    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Records a successful call.
    pub fn on_success(&mut self) {
        self.successes += 1;
        if self.successes >= self.limit {
            self.successes = 0;
            self.limit = self.max.min(self.limit + 1);
        }
    }

    /// Records congestion met by a call that started at `began`. Ignored when the call started before the last
    /// halving, or when that was less than `HALVING_INTERVAL` ago.
    pub fn on_congestion(&mut self, began: Instant, now: Instant) {
        self.successes = 0;
        let is_recent = self.halved_at.is_some_and(|at| began < at || now < at + HALVING_INTERVAL);
        if !is_recent {
            self.limit = (self.limit / 2).max(1);
            self.halved_at = Some(now);
        }
    }
}

/// Calls that share one limit. Permits are granted in the order of arrival.
#[derive(Debug)]
struct CallLimiter {
    permits: Semaphore,
    state: Mutex<CallLimiterState>,
}

#[derive(Debug)]
struct CallLimiterState {
    aimd: Aimd,
    /// Permits in use that are withdrawn when they are released, because the limit has fallen.
    debt: usize,
    /// No call starts before this time.
    paused_until: Option<Instant>,
}

impl CallLimiter {
    fn new(aimd: Aimd) -> Self {
        let permits = Semaphore::new(aimd.limit());
        Self { permits, state: Mutex::new(CallLimiterState { aimd, debt: 0, paused_until: None }) }
    }

    /// Waits for a permit, makes the call, and adjusts the limit by its outcome.
    async fn run<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let _permit = self.acquire().await;
        let began = Instant::now();
        let done = call.await;
        match &done {
            Ok(_) => self.adjust(Aimd::on_success),
            Err(error) if is_congestion(error) => {
                let now = Instant::now();
                self.pause(error, now);
                self.adjust(|aimd| aimd.on_congestion(began, now));
            }
            // The server answered, and the error says nothing about its load.
            Err(_) => {}
        }
        done
    }

    async fn acquire(&self) -> CallPermit<'_> {
        let permit = self.permits.acquire().await.expect("this semaphore is never closed");
        let permit = CallPermit { limiter: self, permit: Some(permit) };
        loop {
            let paused_until = self.state.lock().paused_until;
            match paused_until {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                _ => return permit,
            }
        }
    }

    fn pause(&self, error: &Error, now: Instant) {
        if let Some(wait) = error.requested_wait() {
            let until = now + wait.min(MAX_PAUSE);
            let mut state = self.state.lock();
            state.paused_until = state.paused_until.max(Some(until));
        }
    }

    /// Changes the limit, and the number of permits with it.
    fn adjust(&self, change: impl FnOnce(&mut Aimd)) {
        let mut state = self.state.lock();
        let before = state.aimd.limit();
        change(&mut state.aimd);
        let after = state.aimd.limit();
        if after < before {
            let fewer = before - after;
            state.debt += fewer - self.permits.forget_permits(fewer);
        } else {
            let more = after - before;
            let repaid = more.min(state.debt);
            state.debt -= repaid;
            self.permits.add_permits(more - repaid);
        }
        if after != before {
            tracing::debug!(before, after, "limit on concurrent calls changed");
        }
    }
}

fn is_congestion(error: &Error) -> bool {
    matches!(error.kind(), Kind::RateLimited | Kind::Unavailable | Kind::Network)
}

/// The permit of one call.
struct CallPermit<'a> {
    limiter: &'a CallLimiter,
    permit: Option<SemaphorePermit<'a>>,
}

impl Drop for CallPermit<'_> {
    /// Returns the permit, also when the call is abandoned.
    fn drop(&mut self) {
        // The lock keeps the limit from changing between the check of `debt` and the return of the permit.
        let mut state = self.limiter.state.lock();
        match self.permit.take() {
            Some(permit) if state.debt > 0 => {
                state.debt -= 1;
                permit.forget();
            }
            permit => drop(permit),
        }
    }
}

/// Limits the concurrent calls into `B`: one limit for puts and parts, another for all other calls.
///
/// Placed inside `Retrying`, so that a retry waits for a new permit and other calls run during its backoff. Limits
/// belong to one storage, so a slow storage does not delay another.
#[derive(Debug)]
pub struct Adaptive<B> {
    inner: B,
    limiters: Arc<CallLimiters>,
}

#[derive(Debug)]
struct CallLimiters {
    uploads: CallLimiter,
    others: CallLimiter,
}

impl<B> Adaptive<B> {
    /// Allows at most `uploads` concurrent puts and parts.
    #[must_use]
    pub fn new(inner: B, uploads: usize) -> Self {
        let others = Aimd::with_initial(INITIAL_OTHER_CALLS, MAX_OTHER_CALLS);
        let limiters = CallLimiters {
            uploads: CallLimiter::new(Aimd::new(uploads)),
            others: CallLimiter::new(others),
        };
        Self { inner, limiters: Arc::new(limiters) }
    }

    /// The current limit on concurrent puts and parts.
    #[must_use]
    pub fn upload_limit(&self) -> usize {
        self.limiters.uploads.state.lock().aimd.limit()
    }
}

#[async_trait]
impl<B: StorageBackend> StorageBackend for Adaptive<B> {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.limiters.uploads.run(self.inner.put(key, payload)).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.limiters.others.run(self.inner.get(key, range)).await
    }

    /// Releases the permit when the answer starts, because the reading speed says nothing about the storage's load.
    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        self.limiters.others.run(self.inner.open(key, range)).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.limiters.others.run(self.inner.head(key)).await
    }

    async fn version(&self, key: &Key) -> Result<Option<ObjectVersion>> {
        self.limiters.others.run(self.inner.version(key)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.limiters.others.run(self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.limiters.others.run(self.inner.list(prefix, page)).await
    }

    async fn begin_upload(
        &self,
        key: &Key,
        layout: UploadLayout,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.limiters.others.run(self.inner.begin_upload(key, layout)).await?;
        Ok(Box::new(AdaptiveUpload { inner, limiters: Arc::clone(&self.limiters) }))
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>> {
        self.limiters.others.run(self.inner.list_uploads(prefix)).await
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        self.limiters.others.run(self.inner.abort_upload(upload)).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
        self.limiters.others.run(self.inner.url(key, expiry)).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        self.limiters.others.run(self.inner.free_space()).await
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}

/// An upload in which each call waits for a permit.
#[derive(Debug)]
struct AdaptiveUpload {
    inner: Box<dyn MultipartUpload>,
    limiters: Arc<CallLimiters>,
}

#[async_trait]
impl MultipartUpload for AdaptiveUpload {
    fn stored_parts(&self) -> &[u64] {
        self.inner.stored_parts()
    }

    async fn put_part(&self, part: u64, payload: Payload) -> Result<()> {
        self.limiters.uploads.run(self.inner.put_part(part, payload)).await
    }

    async fn copy_part(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        self.limiters.others.run(self.inner.copy_part(part, from, range)).await
    }

    async fn finish(&self) -> Result<()> {
        self.limiters.others.run(self.inner.finish()).await
    }

    async fn abort(&self) -> Result<()> {
        self.limiters.others.run(self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use proptest::prelude::*;
    use tokio::task::JoinSet;

    use super::*;
    use crate::backends::{Faulty, MemoryBackend, RetryPolicy, Retrying, conformance};

    fn payload() -> Payload {
        Payload::from_iter([Bytes::from_static(b"x")])
    }

    #[tokio::test]
    async fn passes_the_conformance_suite() {
        conformance::check(&Adaptive::new(MemoryBackend::new(), 3)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn passes_the_conformance_suite_under_retries_of_frequent_failures() {
        let faulty = Faulty::new(MemoryBackend::new(), 3);
        faulty.fail_randomly(0.3, Kind::RateLimited);
        let (ms, long) = (Duration::from_millis, Duration::from_secs(20));
        let fast_policy =
            RetryPolicy { base: ms(1), cap: ms(2), send_budget: long, budget: long, resends: 50 };
        let backend = Retrying::with_policy(Adaptive::new(faulty, 4), fast_policy);
        conformance::check(&backend).await;
    }

    #[test]
    fn congestion_halves_the_limit_once_an_interval_and_a_round_of_successes_raises_it_by_one() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut aimd = Aimd::new(8);
        aimd.on_congestion(at(0), at(10));
        assert_eq!(aimd.limit(), 4);
        // Ignored: a call that started before the halving, and a failure less than a second after it.
        aimd.on_congestion(at(0), at(5000));
        aimd.on_congestion(at(20), at(500));
        assert_eq!(aimd.limit(), 4);
        aimd.on_congestion(at(600), at(1010));
        assert_eq!(aimd.limit(), 2);
        (0..2).for_each(|_| aimd.on_success());
        assert_eq!(aimd.limit(), 3);
        (0..3 + 4 + 5 + 6).for_each(|_| aimd.on_success());
        assert_eq!(aimd.limit(), 7);
        (0..100).for_each(|_| aimd.on_success());
        assert_eq!(aimd.limit(), 8);
    }

    proptest! {
        #[test]
        fn the_limit_stays_within_its_bounds_and_changes_by_its_rules(
            max in 0usize..70,
            steps in prop::collection::vec((any::<bool>(), 0u64..3000, 0u64..3000), 0..200),
        ) {
            let mut now = Instant::now() + Duration::from_secs(10);
            let mut aimd = Aimd::new(max);
            for (succeeds, later, took) in steps {
                now += Duration::from_millis(later);
                let before = aimd.limit();
                if succeeds {
                    aimd.on_success();
                    prop_assert!(aimd.limit() == before || aimd.limit() == before + 1);
                } else {
                    aimd.on_congestion(now - Duration::from_millis(took), now);
                    prop_assert!(aimd.limit() == before || aimd.limit() == (before / 2).max(1));
                }
                prop_assert!((1..=max.max(1)).contains(&aimd.limit()));
            }
        }
    }

    /// The highest number of `calls` that ran at the same time.
    async fn max_concurrency(limiter: &Arc<CallLimiter>, calls: usize) -> usize {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..calls {
            let (limiter, running, most) = (limiter.clone(), running.clone(), most.clone());
            tasks.spawn(async move {
                let call = async {
                    most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    running.fetch_sub(1, SeqCst);
                    Err::<(), _>(Error::new(Kind::NotFound, "neither a success nor congestion"))
                };
                limiter.run(call).await
            });
        }
        while tasks.join_next().await.is_some() {}
        most.load(SeqCst)
    }

    #[tokio::test(start_paused = true)]
    async fn concurrency_follows_the_limit_when_it_falls_and_rises() {
        let limiter = Arc::new(CallLimiter::new(Aimd::new(8)));
        assert_eq!(max_concurrency(&limiter, 30).await, 8);
        // The limit falls from 8 to 4 while seven calls run: the one free permit goes, and three are owed.
        let mut running = Vec::new();
        for _ in 0..7 {
            running.push(limiter.acquire().await);
        }
        limiter.adjust(|aimd| aimd.on_congestion(Instant::now(), Instant::now()));
        assert_eq!((limiter.permits.available_permits(), limiter.state.lock().debt), (0, 3));
        drop(running);
        assert_eq!(max_concurrency(&limiter, 30).await, 4);
        for _ in 0..4 {
            limiter.adjust(Aimd::on_success);
        }
        assert_eq!(max_concurrency(&limiter, 30).await, 5);
    }

    #[test]
    fn the_limit_of_reads_rises_with_successes() {
        let mut aimd = Aimd::with_initial(INITIAL_OTHER_CALLS, MAX_OTHER_CALLS);
        for _ in 0..MAX_OTHER_CALLS * MAX_OTHER_CALLS {
            aimd.on_success();
        }
        assert_eq!(aimd.limit(), MAX_OTHER_CALLS);
        let now = Instant::now();
        aimd.on_congestion(now, now);
        assert_eq!(aimd.limit(), MAX_OTHER_CALLS / 2);
    }

    #[tokio::test]
    async fn calls_run_in_order_of_arrival() {
        let limiter = Arc::new(CallLimiter::new(Aimd::new(1)));
        let first = limiter.acquire().await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for n in 0..10 {
            let (limiter, order) = (limiter.clone(), order.clone());
            tasks.spawn(async move {
                let call = async {
                    order.lock().push(n);
                    Ok(())
                };
                limiter.run(call).await
            });
            tokio::task::yield_now().await;
        }
        drop(first);
        tasks.join_all().await;
        assert_eq!(*order.lock(), (0..10).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn congestion_of_puts_slows_neither_reads_nor_other_backends() {
        let backend = Adaptive::new(Faulty::new(MemoryBackend::new(), 1), 8);
        let other = Adaptive::new(MemoryBackend::new(), 8);
        backend.inner.fail_next_puts(1, Kind::Unavailable);
        let key = Key::new("k").unwrap();
        assert!(backend.put(&key, payload()).await.is_err());
        assert_eq!((backend.upload_limit(), other.upload_limit()), (4, 8));
        assert_eq!(backend.limiters.others.state.lock().aimd.limit(), INITIAL_OTHER_CALLS);
        backend.inner.fail_next_puts(1, Kind::NoSpace);
        assert!(backend.put(&key, payload()).await.is_err());
        assert_eq!(backend.upload_limit(), 4, "a full storage is not an overloaded one");
        for _ in 0..4 {
            backend.put(&key, payload()).await.unwrap();
        }
        assert_eq!(backend.upload_limit(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_requested_wait_applies_to_all_calls() {
        let backend = Adaptive::new(Faulty::new(MemoryBackend::new(), 1), 8);
        let (key, wait) = (Key::new("k").unwrap(), Duration::from_millis(150));
        backend.inner.set_retry_after(wait);
        backend.inner.fail_next_puts(1, Kind::RateLimited);
        let began = Instant::now();
        assert!(backend.put(&key, payload()).await.is_err());
        backend.head(&key).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO, "the wait of a put does not delay reads");
        backend.put(&key, payload()).await.unwrap();
        assert!(began.elapsed() >= wait, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_abandoned_call_returns_its_permit() {
        let limiter = CallLimiter::new(Aimd::new(1));
        for _ in 0..3 {
            let call = limiter.run(std::future::pending::<Result<()>>());
            assert!(tokio::time::timeout(Duration::from_millis(5), call).await.is_err());
        }
        assert!(limiter.run(async { Ok(()) }).await.is_ok());
    }
}
