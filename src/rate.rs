//! Bytes a second: a limit that many share and that may change while they wait, and a measure.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// A waiter looks up at least this often, so that a new limit is felt at once.
const LOOK: Duration = Duration::from_millis(100);

/// A link that lets bytes pass in the order they came, at its rate. It saves nothing up: an idle link has no burst.
#[derive(Debug)]
pub struct RateLimit {
    link: Mutex<Link>,
}

/// Invariant: `drained <= asked`.
#[derive(Debug)]
struct Link {
    /// `None` lets everything pass.
    bytes_per_second: Option<u64>,
    /// Bytes that wanted to pass so far.
    asked: f64,
    /// Of these, those whose time has come, at the time below.
    drained: f64,
    at: Instant,
}

impl Link {
    #[allow(clippy::cast_precision_loss, reason = "a delay needs no 53 bits")]
    fn advance(&mut self) {
        let now = Instant::now();
        let since = now.duration_since(self.at).as_secs_f64();
        self.at = now;
        self.drained = match self.bytes_per_second {
            Some(rate) => self.asked.min(self.drained + rate as f64 * since),
            None => self.asked,
        };
    }

    #[allow(clippy::cast_precision_loss, reason = "a delay needs no 53 bits")]
    fn wait_for(&mut self, ticket: f64) -> Option<Duration> {
        self.advance();
        let rate = self.bytes_per_second? as f64;
        let left = ticket - self.drained;
        (left > 0.0).then(|| Duration::from_secs_f64((left / rate).min(LOOK.as_secs_f64())))
    }
}

impl RateLimit {
    /// `None` is no limit.
    #[must_use]
    pub fn new(bytes_per_second: Option<u64>) -> Arc<Self> {
        let bytes_per_second = bytes_per_second.filter(|rate| *rate > 0);
        let link = Link { bytes_per_second, asked: 0.0, drained: 0.0, at: Instant::now() };
        Arc::new(Self { link: Mutex::new(link) })
    }

    /// Changes the limit, for those too who wait already.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        let mut link = self.link.lock();
        link.advance();
        link.bytes_per_second = bytes_per_second.filter(|rate| *rate > 0);
    }

    /// Returns when the time of `len` bytes has gone by, behind those that came before.
    #[allow(clippy::cast_precision_loss, reason = "a delay needs no 53 bits")]
    pub async fn pass(&self, len: u64) {
        let ticket = {
            let mut link = self.link.lock();
            link.advance();
            link.asked += len as f64;
            link.asked
        };
        loop {
            let wait = self.link.lock().wait_for(ticket);
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return,
            }
        }
    }
}

/// Bytes a second over the last few seconds, from a counter sampled at uneven times.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rate {
    last: Option<(f64, u64)>,
    rate: f64,
}

impl Rate {
    /// Half of the weight is on the last two seconds.
    const HALF_LIFE: f64 = 2.0;

    /// Takes the counter's value at `now` (seconds on any steady clock) and answers the rate.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is an estimate, never negative, and far below 2^52"
    )]
    pub fn sample(&mut self, now: f64, total: u64) -> u64 {
        if let Some((then, before)) = self.last {
            let dt = now - then;
            if dt <= 0.0 {
                return self.rate as u64;
            }
            let current = total.saturating_sub(before) as f64 / dt;
            let keep = 0.5f64.powf(dt / Self::HALF_LIFE);
            // The first figure stands alone: from zero it would take seconds to come near the truth.
            let before = if self.rate == 0.0 { current } else { self.rate };
            self.rate = before * keep + current * (1.0 - keep);
        }
        self.last = Some((now, total));
        self.rate as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_pass_in_their_order_at_the_rate() {
        let limit = RateLimit::new(Some(10_000));
        let began = Instant::now();
        tokio::join!(limit.pass(1000), limit.pass(1000));
        assert!(began.elapsed() >= Duration::from_millis(195), "{:?}", began.elapsed());
        limit.pass(0).await;
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_new_limit_is_felt_by_those_who_wait() {
        let limit = RateLimit::new(Some(1));
        let waits = async {
            limit.pass(1_000_000).await;
        };
        let lifts = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            limit.set(None);
        };
        let both = async { tokio::join!(waits, lifts) };
        tokio::time::timeout(Duration::from_secs(5), both).await.expect("lifted");
    }
}
