//! Hedged gets: when a get is late, the same get is sent a second time, and the first success counts. This bypasses a
//! single slow connection or disk.
//!
//! A get is late after 1.5 times the 95th percentile of recent gets of similar length. Second gets are limited to 3 %
//! of the bytes received, so that a storage that is slow as a whole does not get twice the requests.

use std::{
    collections::VecDeque,
    future::Future,
    ops::Range,
    pin::pin,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use url::Url;

use super::{
    Body, Capabilities, Key, Page, PageToken, Payload, Shape, Stamp, StorageBackend, Unfinished,
    Upload,
};
use crate::error::Result;

/// Gets remembered per length class, and how many of them are needed before a get can count as late.
const REMEMBERED: usize = 64;
const ENOUGH: usize = 20;
/// No get is late before this. On a fast connection a second request costs more than the delay.
const LEAST: Duration = Duration::from_millis(50);
/// Bytes that second gets may use, in percent of the bytes received, and the most that can accumulate.
const PERCENT: u64 = 3;
const SAVED: u64 = 32 << 20;

/// Durations of recent gets, and the byte budget of second gets. Does no IO and reads no clock.
#[derive(Debug, Default)]
pub struct Hedge {
    /// Class n holds gets of up to 256 KiB times 2^n; the last one also all longer gets.
    took: [VecDeque<Duration>; 8],
    saved: u64,
}

fn class(len: u64) -> usize {
    let n = len.max(1).div_ceil(256 << 10).next_power_of_two().trailing_zeros();
    usize::try_from(n).unwrap_or(usize::MAX).min(7)
}

impl Hedge {
    /// How long a get of `len` bytes may take before it is late; `None` before enough gets are known.
    #[must_use]
    pub fn late_after(&self, len: u64) -> Option<Duration> {
        let took = &self.took[class(len)];
        if took.len() < ENOUGH {
            return None;
        }
        let mut sorted: Vec<_> = took.iter().copied().collect();
        sorted.sort_unstable();
        let usual = sorted[sorted.len() * 95 / 100];
        Some((usual + usual / 2).max(LEAST))
    }

    /// Records that a get of `len` bytes took `time`, and adds its share to the budget.
    pub fn took(&mut self, len: u64, time: Duration) {
        let took = &mut self.took[class(len)];
        if took.len() == REMEMBERED {
            took.pop_front();
        }
        took.push_back(time);
        self.saved = (self.saved + len * PERCENT / 100).min(SAVED);
    }

    /// Takes `len` bytes from the budget of second gets, if it has as many.
    pub fn spend(&mut self, len: u64) -> bool {
        let enough = self.saved >= len;
        self.saved -= if enough { len } else { 0 };
        enough
    }
}

/// Returns the first success of `call`, which is made a second time when the first is late.
async fn hedged<T, F: Future<Output = Result<T>>>(
    hedge: &Mutex<Hedge>,
    len: u64,
    call: impl Fn() -> F,
) -> Result<T> {
    let began = Instant::now();
    let late = hedge.lock().late_after(len);
    let mut first = pin!(call());
    let in_time = async {
        match late {
            Some(late) => tokio::time::timeout(late, first.as_mut()).await.ok(),
            None => Some(first.as_mut().await),
        }
    };
    let got = match in_time.await {
        Some(got) => got,
        None if !hedge.lock().spend(len) => first.await,
        None => {
            tracing::debug!(len, "a get is late: asked a second time");
            let mut second = pin!(call());
            // When one of the two fails, the other may still succeed.
            tokio::select! {
                got = first.as_mut() => if got.is_ok() { got } else { second.await },
                got = second.as_mut() => if got.is_ok() { got } else { first.await },
            }
        }
    };
    if got.is_ok() {
        hedge.lock().took(len, began.elapsed());
    }
    got
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
        self.inner.begin(key, shape).await
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        self.inner.unfinished(prefix).await
    }

    async fn abort(&self, upload: &Unfinished) -> Result<()> {
        self.inner.abort(upload).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
        self.inner.url(key, expiry).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        self.inner.free_room().await
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
    async fn keeps_the_contract() {
        conformance::check(&Hedged::new(MemoryBackend::new())).await;
    }

    /// The state after 1,000 gets of 1 MiB that took 10 ms each.
    fn experienced() -> Mutex<Hedge> {
        let mut hedge = Hedge::default();
        (0..1000).for_each(|_| hedge.took(MIB, Duration::from_millis(10)));
        Mutex::new(hedge)
    }

    #[test]
    fn late_is_what_hardly_ever_happens_and_only_a_few_bytes_are_asked_for_twice() {
        let mut hedge = Hedge::default();
        assert_eq!(hedge.late_after(MIB), None);
        for n in 0..100 {
            hedge.took(MIB, Duration::from_millis(if n % 10 == 0 { 900 } else { 100 }));
        }
        assert_eq!(hedge.late_after(MIB), Some(Duration::from_millis(1350)));
        assert_eq!(hedge.late_after(8 * MIB), None, "nothing is known of such long ones");
        assert_eq!(
            (0..100).filter(|_| hedge.spend(MIB)).count(),
            2,
            "3 % of what came, rounded down a little"
        );
    }

    #[tokio::test]
    async fn a_get_that_hangs_is_overtaken_by_a_second_one() {
        let (hedge, calls) = (experienced(), AtomicU32::new(0));
        let call = || async {
            if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                std::future::pending::<()>().await;
            }
            Ok(7)
        };
        assert_eq!(hedged(&hedge, MIB, call).await.unwrap(), 7);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn an_error_of_one_leaves_the_other_its_chance() {
        let (hedge, calls) = (experienced(), AtomicU32::new(0));
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
