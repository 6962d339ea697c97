//! Hedged gets: when a get is late, the same get is sent a second time, and the first success counts. This bypasses a
//! single slow connection or disk.
//!
//! A get is late after 1.5 times the 95th percentile of recent gets of similar length. Second gets are limited to 3 %
//! of the bytes received, so that a storage that is slow as a whole does not get twice the requests.

use std::{collections::VecDeque, future::Future, ops::Range, pin::pin, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::{
    backends::{
        Body, Capabilities, Key, MultipartUpload, ObjectVersion, Page, PageToken, Payload,
        StorageBackend, UnfinishedUpload, UploadLayout,
    },
    error::Result,
};

/// Gets remembered per length class, and how many of them are needed before a get can count as late.
const MAX_SAMPLES: usize = 64;
const MIN_SAMPLES: usize = 20;
/// No get is late before this. On a fast connection a second request costs more than the delay.
const MIN_DELAY: Duration = Duration::from_millis(50);
/// Bytes that second gets may use, in percent of the bytes received, and the most that can accumulate.
const BUDGET_PERCENT: u64 = 3;
const MAX_BUDGET: u64 = 32 << 20;

/// Durations of recent gets, and the byte budget of second gets. Does no IO and reads no clock.
#[derive(Debug, Default)]
pub struct Hedge {
    /// Class n holds gets of up to 256 KiB times 2^n; the last one also all longer gets.
    durations: [VecDeque<Duration>; 8],
    budget: u64,
}

fn length_class(len: u64) -> usize {
    let n = len.max(1).div_ceil(256 << 10).next_power_of_two().trailing_zeros();
    usize::try_from(n).unwrap_or(usize::MAX).min(7)
}

impl Hedge {
    /// How long a get of `len` bytes may take before it is late; `None` before enough gets are known.
    #[must_use]
    pub fn late_after(&self, len: u64) -> Option<Duration> {
        let durations = &self.durations[length_class(len)];
        if durations.len() < MIN_SAMPLES {
            return None;
        }
        let mut sorted: Vec<_> = durations.iter().copied().collect();
        sorted.sort_unstable();
        let p95 = sorted[sorted.len() * 95 / 100];
        Some((p95 + p95 / 2).max(MIN_DELAY))
    }

    /// Records that a get of `len` bytes took `time`, and adds its share to the budget.
    pub fn record(&mut self, len: u64, time: Duration) {
        let durations = &mut self.durations[length_class(len)];
        if durations.len() == MAX_SAMPLES {
            durations.pop_front();
        }
        durations.push_back(time);
        self.budget = (self.budget + len * BUDGET_PERCENT / 100).min(MAX_BUDGET);
    }

    /// Takes `len` bytes from the budget of second gets, if it has as many.
    pub fn try_spend(&mut self, len: u64) -> bool {
        let allowed = self.budget >= len;
        self.budget -= if allowed { len } else { 0 };
        allowed
    }
}

/// Returns the first success of `call`, which is made a second time when the first is late.
async fn hedged<T, F: Future<Output = Result<T>>>(
    hedge: &Mutex<Hedge>,
    len: u64,
    call: impl Fn() -> F,
) -> Result<T> {
    let began = Instant::now();
    let late_after = hedge.lock().late_after(len);
    let mut first = pin!(call());
    let in_time = async {
        match late_after {
            Some(delay) => tokio::time::timeout(delay, first.as_mut()).await.ok(),
            None => Some(first.as_mut().await),
        }
    };
    let result = match in_time.await {
        Some(result) => result,
        None if !hedge.lock().try_spend(len) => first.await,
        None => {
            tracing::debug!(len, "get is late: sending a second request");
            let mut second = pin!(call());
            // When one of the two fails, the other may still succeed.
            tokio::select! {
                result = first.as_mut() => if result.is_ok() { result } else { second.await },
                result = second.as_mut() => if result.is_ok() { result } else { first.await },
            }
        }
    };
    if result.is_ok() {
        hedge.lock().record(len, began.elapsed());
    }
    result
}

/// Sends a second get to `B` when the first is late.
#[derive(Debug)]
pub struct Hedged<B> {
    inner: B,
    hedge: Mutex<Hedge>,
}

impl<B> Hedged<B> {
    #[must_use]
    pub fn new(inner: B) -> Self {
        Self { inner, hedge: Mutex::default() }
    }
}

#[async_trait]
impl<B: StorageBackend> StorageBackend for Hedged<B> {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.inner.put(key, payload).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let len = range.end.saturating_sub(range.start);
        hedged(&self.hedge, len, || self.inner.get(key, range.clone())).await
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
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::{
        backends::{MemoryBackend, conformance},
        error::{Error, Kind},
    };

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn passes_the_conformance_suite() {
        conformance::check(&Hedged::new(MemoryBackend::new())).await;
    }

    /// The state after 1,000 gets of 1 MiB that took 10 ms each.
    fn hedge_with_history() -> Mutex<Hedge> {
        let mut hedge = Hedge::default();
        (0..1000).for_each(|_| hedge.record(MIB, Duration::from_millis(10)));
        Mutex::new(hedge)
    }

    #[test]
    fn few_gets_are_late_and_few_bytes_are_requested_twice() {
        let mut hedge = Hedge::default();
        assert_eq!(hedge.late_after(MIB), None);
        for n in 0..100 {
            hedge.record(MIB, Duration::from_millis(if n % 10 == 0 { 900 } else { 100 }));
        }
        assert_eq!(hedge.late_after(MIB), Some(Duration::from_millis(1350)));
        assert_eq!(hedge.late_after(8 * MIB), None, "no samples of this length");
        assert_eq!(
            (0..100).filter(|_| hedge.try_spend(MIB)).count(),
            2,
            "3 % of the received bytes, rounded down"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_get_is_overtaken_by_a_second_one() {
        let (hedge, calls) = (hedge_with_history(), AtomicU32::new(0));
        let call = || async {
            if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                std::future::pending::<()>().await;
            }
            Ok(7)
        };
        assert_eq!(hedged(&hedge, MIB, call).await.unwrap(), 7);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_other_get_can_succeed_after_an_error() {
        let (hedge, calls) = (hedge_with_history(), AtomicU32::new(0));
        let call = || async {
            if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(150)).await;
                return Ok(7);
            }
            Err(Error::new(Kind::Network, "reset"))
        };
        assert_eq!(hedged(&hedge, MIB, call).await.unwrap(), 7);
    }
}
