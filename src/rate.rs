//! Rates in bytes per second: a shared limit that can change while callers wait, and a measurement.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Longest sleep of a waiter before it checks the limit again, so that a new limit applies within 100 ms.
const RECHECK: Duration = Duration::from_millis(100);

/// A rate limit that lets bytes pass in the order of the calls. Unused capacity is not saved, so an idle link has no
/// burst.
#[derive(Debug)]
pub struct RateLimit {
    link: Mutex<Link>,
}

/// Invariant: `passed <= requested`.
#[derive(Debug)]
struct Link {
    /// `None` is no limit.
    bytes_per_second: Option<u64>,
    /// Total bytes requested so far.
    requested: f64,
    /// Bytes of these that have passed at time `updated_at`.
    passed: f64,
    updated_at: Instant,
}

impl Link {
    #[allow(clippy::cast_precision_loss, reason = "a delay needs no 53 bits")]
    fn advance(&mut self) {
        let now = Instant::now();
        let since = now.duration_since(self.updated_at).as_secs_f64();
        self.updated_at = now;
        self.passed = match self.bytes_per_second {
            Some(rate) => self.requested.min(self.passed + rate as f64 * since),
            None => self.requested,
        };
    }

    #[allow(clippy::cast_precision_loss, reason = "a delay needs no 53 bits")]
    fn remaining_wait(&mut self, ticket: f64) -> Option<Duration> {
        self.advance();
        let rate = self.bytes_per_second? as f64;
        let left = ticket - self.passed;
        (left > 0.0).then(|| Duration::from_secs_f64((left / rate).min(RECHECK.as_secs_f64())))
    }
}

impl RateLimit {
    /// `None` or 0 is no limit.
    #[must_use]
    pub fn new(bytes_per_second: Option<u64>) -> Arc<Self> {
        let bytes_per_second = bytes_per_second.filter(|rate| *rate > 0);
        let link =
            Link { bytes_per_second, requested: 0.0, passed: 0.0, updated_at: Instant::now() };
        Arc::new(Self { link: Mutex::new(link) })
    }

    /// Changes the limit, also for calls that are already waiting.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        let mut link = self.link.lock();
        link.advance();
        link.bytes_per_second = bytes_per_second.filter(|rate| *rate > 0);
    }

    /// Waits until `len` bytes may pass, after those of earlier calls.
    #[allow(clippy::cast_precision_loss, reason = "a delay needs no 53 bits")]
    pub async fn acquire(&self, len: u64) {
        let ticket = {
            let mut link = self.link.lock();
            link.advance();
            link.requested += len as f64;
            link.requested
        };
        loop {
            let wait = self.link.lock().remaining_wait(ticket);
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return,
            }
        }
    }
}

/// Rate in bytes per second over the last few seconds, from a counter sampled at uneven intervals.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rate {
    last: Option<(f64, u64)>,
    rate: f64,
}

impl Rate {
    /// Seconds after which a sample has half its weight.
    const HALF_LIFE: f64 = 2.0;

    /// Records the counter's value at `now` (seconds on any steady clock) and returns the rate.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is an estimate, never negative, and far below 2^52"
    )]
    pub fn sample(&mut self, now: f64, total: u64) -> u64 {
        if let Some((last_time, last_total)) = self.last {
            let dt = now - last_time;
            if dt <= 0.0 {
                return self.rate as u64;
            }
            let current = total.saturating_sub(last_total) as f64 / dt;
            let keep = 0.5f64.powf(dt / Self::HALF_LIFE);
            // The first rate is used directly: averaging from zero would take seconds to reach the true value.
            let previous = if self.rate == 0.0 { current } else { self.rate };
            self.rate = previous * keep + current * (1.0 - keep);
        }
        self.last = Some((now, total));
        self.rate as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_in_order_at_the_limited_rate() {
        let limit = RateLimit::new(Some(10_000));
        let began = Instant::now();
        tokio::join!(limit.acquire(1000), limit.acquire(1000));
        let elapsed = began.elapsed();
        assert!((200..210).contains(&elapsed.as_millis()), "{elapsed:?} for 2,000 bytes");
        limit.acquire(0).await;
        assert_eq!(began.elapsed(), elapsed, "no bytes take no time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_limit_applies_to_waiting_calls() {
        let limit = RateLimit::new(Some(1));
        let waiter = async {
            limit.acquire(1_000_000).await;
        };
        let lift = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            limit.set(None);
        };
        let began = Instant::now();
        tokio::join!(waiter, lift);
        assert!(began.elapsed() <= Duration::from_millis(20) + RECHECK, "{:?}", began.elapsed());
    }
}
