//! Adaptive limit on concurrent calls: halved when the storage is overloaded, raised while calls succeed.

use std::{
    future::Future,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use url::Url;

use super::{
    Body, Capabilities, Key, Page, PageToken, Payload, Shape, Stamp, StorageBackend, Unfinished,
    Upload,
};
use crate::error::{Error, Kind, Result};

/// Maximum of concurrent calls that send no payload. Reads wait for the server's latency and hardly for bandwidth,
/// and reads of players and peers must not queue behind each other.
const OTHER_CALLS: usize = 64;
/// Initial limit of these calls. Most storages are fast enough at this, and some accept no more.
const OTHER_CALLS_AT_FIRST: usize = 16;
/// Minimum time between two halvings. Failures of calls that were already running say nothing about the new limit.
const EPOCH: Duration = Duration::from_secs(1);
/// Longest pause of all calls after one was asked to wait (`Retry-After`). The refused call itself may wait longer.
const LONGEST_QUIET: Duration = Duration::from_secs(60);

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
        Self::starting_at(max, max)
    }

    /// Starts at `first` (at least 1), bounded by `max`.
    fn starting_at(first: usize, max: usize) -> Self {
        let max = max.max(1);
        Self { limit: first.clamp(1, max), max, successes: 0, halved_at: None }
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
    /// halving, or when that was less than `EPOCH` ago.
    pub fn on_congestion(&mut self, began: Instant, now: Instant) {
        self.successes = 0;
        let known = self.halved_at.is_some_and(|at| began < at || now < at + EPOCH);
        if !known {
            self.limit = (self.limit / 2).max(1);
            self.halved_at = Some(now);
        }
    }
}

/// Calls that share one limit. Permits are granted in the order of arrival.
#[derive(Debug)]
struct Lane {
    turns: Semaphore,
    state: Mutex<LaneState>,
}

#[derive(Debug)]
struct LaneState {
    aimd: Aimd,
    /// Permits in use that are withdrawn when they are released, because the limit has fallen.
    debt: usize,
    /// No call starts before this time.
    quiet_until: Option<Instant>,
}

impl Lane {
    fn new(aimd: Aimd) -> Self {
        let turns = Semaphore::new(aimd.limit());
        Self { turns, state: Mutex::new(LaneState { aimd, debt: 0, quiet_until: None }) }
    }

    /// Waits for a permit, makes the call, and adjusts the limit by its outcome.
    async fn run<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let _turn = self.turn().await;
        let began = Instant::now();
        let done = call.await;
        match &done {
            Ok(_) => self.adjust(Aimd::on_success),
            Err(error) if is_congestion(error) => {
                let now = Instant::now();
                self.be_quiet(error, now);
                self.adjust(|aimd| aimd.on_congestion(began, now));
            }
            // The server answered, and the error says nothing about its load.
            Err(_) => {}
        }
        done
    }

    async fn turn(&self) -> Turn<'_> {
        let permit = self.turns.acquire().await.expect("this semaphore is never closed");
        let turn = Turn { lane: self, permit: Some(permit) };
        loop {
            let quiet = self.state.lock().quiet_until;
            match quiet {
                Some(until) if until > Instant::now() => {
                    tokio::time::sleep_until(until.into()).await
                }
                _ => return turn,
            }
        }
    }

    fn be_quiet(&self, error: &Error, now: Instant) {
        if let Some(wait) = error.wait_asked() {
            let until = now + wait.min(LONGEST_QUIET);
            let mut state = self.state.lock();
            state.quiet_until = state.quiet_until.max(Some(until));
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
            state.debt += fewer - self.turns.forget_permits(fewer);
        } else {
            let more = after - before;
            let kept = more.min(state.debt);
            state.debt -= kept;
            self.turns.add_permits(more - kept);
        }
        if after != before {
            tracing::debug!(before, after, "calls at once");
        }
    }
}

fn is_congestion(error: &Error) -> bool {
    matches!(error.kind(), Kind::RateLimited | Kind::Unavailable | Kind::Network)
}

/// The permit of one call.
struct Turn<'a> {
    lane: &'a Lane,
    permit: Option<SemaphorePermit<'a>>,
}

impl Drop for Turn<'_> {
    /// Returns the permit, also when the call is abandoned.
    fn drop(&mut self) {
        // The lock keeps the limit from changing between the check of `debt` and the return of the permit.
        let mut state = self.lane.state.lock();
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
    lanes: Arc<Lanes>,
}

#[derive(Debug)]
struct Lanes {
    sends: Lane,
    others: Lane,
}

impl<B> Adaptive<B> {
    /// Allows at most `uploads` concurrent puts and parts.
    #[must_use]
    pub fn new(inner: B, uploads: usize) -> Self {
        let others = Aimd::starting_at(OTHER_CALLS_AT_FIRST, OTHER_CALLS);
        let lanes = Lanes { sends: Lane::new(Aimd::new(uploads)), others: Lane::new(others) };
        Self { inner, lanes: Arc::new(lanes) }
    }

    /// The current limit on concurrent puts and parts.
    #[must_use]
    pub fn uploads_at_once(&self) -> usize {
        self.lanes.sends.state.lock().aimd.limit()
    }
}

#[async_trait]
impl<B: StorageBackend> StorageBackend for Adaptive<B> {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.lanes.sends.run(self.inner.put(key, payload)).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.lanes.others.run(self.inner.get(key, range)).await
    }

    /// Releases the permit when the answer starts, because the reading speed says nothing about the storage's load.
    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        self.lanes.others.run(self.inner.open(key, range)).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.lanes.others.run(self.inner.head(key)).await
    }

    async fn stamp(&self, key: &Key) -> Result<Option<Stamp>> {
        self.lanes.others.run(self.inner.stamp(key)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.lanes.others.run(self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        self.lanes.others.run(self.inner.list(prefix, page)).await
    }

    async fn begin(&self, key: &Key, shape: Shape) -> Result<Box<dyn Upload>> {
        let inner = self.lanes.others.run(self.inner.begin(key, shape)).await?;
        Ok(Box::new(AdaptiveUpload { inner, lanes: Arc::clone(&self.lanes) }))
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        self.lanes.others.run(self.inner.unfinished(prefix)).await
    }

    async fn abort(&self, upload: &Unfinished) -> Result<()> {
        self.lanes.others.run(self.inner.abort(upload)).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
        self.lanes.others.run(self.inner.url(key, expiry)).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        self.lanes.others.run(self.inner.free_room()).await
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}

/// An upload in which each call waits for a permit.
#[derive(Debug)]
struct AdaptiveUpload {
    inner: Box<dyn Upload>,
    lanes: Arc<Lanes>,
}

#[async_trait]
impl Upload for AdaptiveUpload {
    fn done(&self) -> &[u64] {
        self.inner.done()
    }

    async fn write(&self, part: u64, payload: Payload) -> Result<()> {
        self.lanes.sends.run(self.inner.write(part, payload)).await
    }

    async fn copy(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        self.lanes.others.run(self.inner.copy(part, from, range)).await
    }

    async fn finish(&self) -> Result<()> {
        self.lanes.others.run(self.inner.finish()).await
    }

    async fn abort(&self) -> Result<()> {
        self.lanes.others.run(self.inner.abort()).await
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
    async fn keeps_the_contract() {
        conformance::check(&Adaptive::new(MemoryBackend::new(), 3)).await;
    }

    #[tokio::test]
    async fn keeps_the_contract_under_retries_over_a_place_that_fails_often() {
        let faulty = Faulty::new(MemoryBackend::new(), 3);
        faulty.fail_randomly(0.3, Kind::RateLimited);
        let (ms, long) = (Duration::from_millis, Duration::from_secs(20));
        let hasty =
            RetryPolicy { base: ms(1), cap: ms(2), send_budget: long, budget: long, resends: 50 };
        let place = Retrying::with_policy(Adaptive::new(faulty, 4), hasty);
        conformance::check(&place).await;
    }

    #[test]
    fn congestion_halves_once_an_epoch_and_successes_raise_by_one_a_round() {
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
        fn the_limit_stays_within_its_bounds_and_moves_as_it_says(
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
    async fn at_once(lane: &Arc<Lane>, calls: usize) -> usize {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..calls {
            let (lane, running, most) = (lane.clone(), running.clone(), most.clone());
            tasks.spawn(async move {
                let call = async {
                    most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    running.fetch_sub(1, SeqCst);
                    Err::<(), _>(Error::new(Kind::NotFound, "neither a success nor congestion"))
                };
                lane.run(call).await
            });
        }
        while tasks.join_next().await.is_some() {}
        most.load(SeqCst)
    }

    #[tokio::test]
    async fn only_so_many_calls_run_at_once_before_and_after_the_limit_falls_and_rises() {
        let lane = Arc::new(Lane::new(Aimd::new(8)));
        assert_eq!(at_once(&lane, 30).await, 8);
        // The limit falls from 8 to 4 while seven calls run: the one free permit goes, and three are owed.
        let mut running = Vec::new();
        for _ in 0..7 {
            running.push(lane.turn().await);
        }
        lane.adjust(|aimd| aimd.on_congestion(Instant::now(), Instant::now()));
        assert_eq!((lane.turns.available_permits(), lane.state.lock().debt), (0, 3));
        drop(running);
        assert_eq!(at_once(&lane, 30).await, 4);
        for _ in 0..4 {
            lane.adjust(Aimd::on_success);
        }
        assert_eq!(at_once(&lane, 30).await, 5);
    }

    #[test]
    fn reads_become_more_at_once_while_the_place_is_well() {
        let mut aimd = Aimd::starting_at(OTHER_CALLS_AT_FIRST, OTHER_CALLS);
        for _ in 0..OTHER_CALLS * OTHER_CALLS {
            aimd.on_success();
        }
        assert_eq!(aimd.limit(), OTHER_CALLS);
        let now = Instant::now();
        aimd.on_congestion(now, now);
        assert_eq!(aimd.limit(), OTHER_CALLS / 2);
    }

    #[tokio::test]
    async fn calls_run_in_the_order_they_came() {
        let lane = Arc::new(Lane::new(Aimd::new(1)));
        let first = lane.turn().await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for n in 0..10 {
            let (lane, order) = (lane.clone(), order.clone());
            tasks.spawn(async move {
                let call = async {
                    order.lock().push(n);
                    Ok(())
                };
                lane.run(call).await
            });
            tokio::task::yield_now().await;
        }
        drop(first);
        tasks.join_all().await;
        assert_eq!(*order.lock(), (0..10).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_place_that_refuses_gets_fewer_puts_and_its_reads_and_other_places_are_not_slowed() {
        let place = Adaptive::new(Faulty::new(MemoryBackend::new(), 1), 8);
        let other = Adaptive::new(MemoryBackend::new(), 8);
        place.inner.fail_next_puts(1, Kind::Unavailable);
        let key = Key::new("k").unwrap();
        assert!(place.put(&key, payload()).await.is_err());
        assert_eq!((place.uploads_at_once(), other.uploads_at_once()), (4, 8));
        assert_eq!(place.lanes.others.state.lock().aimd.limit(), OTHER_CALLS_AT_FIRST);
        place.inner.fail_next_puts(1, Kind::NoSpace);
        assert!(place.put(&key, payload()).await.is_err());
        assert_eq!(place.uploads_at_once(), 4, "a full place is not a busy one");
        for _ in 0..4 {
            place.put(&key, payload()).await.unwrap();
        }
        assert_eq!(place.uploads_at_once(), 5);
    }

    #[tokio::test]
    async fn when_one_is_asked_to_wait_all_do() {
        let place = Adaptive::new(Faulty::new(MemoryBackend::new(), 1), 8);
        let (key, asked) = (Key::new("k").unwrap(), Duration::from_millis(150));
        place.inner.ask_to_wait(asked);
        place.inner.fail_next_puts(1, Kind::RateLimited);
        let began = Instant::now();
        assert!(place.put(&key, payload()).await.is_err());
        place.head(&key).await.unwrap();
        assert!(began.elapsed() < asked, "a put's wait is none of a read's business");
        place.put(&key, payload()).await.unwrap();
        assert!(began.elapsed() >= asked, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn an_abandoned_call_gives_its_turn_back() {
        let lane = Lane::new(Aimd::new(1));
        for _ in 0..3 {
            let call = lane.run(std::future::pending::<Result<()>>());
            assert!(tokio::time::timeout(Duration::from_millis(5), call).await.is_err());
        }
        assert!(lane.run(async { Ok(()) }).await.is_ok());
    }
}
