//! Rate limits per user: Google's quota units per minute, the undocumented limit on creates, and a shared backoff
//! after a refusal.
//!
//! One limiter serves all callers of a backend, because Google counts per user and not per connection. It books
//! ahead: a caller's units are taken at once and the caller waits as told, so callers proceed in order.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::backends::wrappers::rng::SplitMix64;

/// The rates to keep within.
#[derive(Debug, Clone, Copy)]
pub struct DriveLimits {
    /// Google's quota: 325,000 units per minute for one user of a project created since May 2026.
    pub units_per_minute: f64,
    /// Files and folders created per second. Undocumented; more than two or three are refused sooner or later.
    pub creates_per_second: f64,
    /// Creates allowed at once after a pause.
    pub create_burst: f64,
    /// Upper bound of the first wait after a refusal. Doubles up to 32 times this.
    pub first_wait: Duration,
    /// When creates are refused for longer than this, the cause is the daily upload limit and not the rate.
    pub daily_limit_after: Duration,
}

impl Default for DriveLimits {
    fn default() -> Self {
        Self {
            units_per_minute: 325_000.0,
            creates_per_second: 2.5,
            create_burst: 5.0,
            first_wait: Duration::from_secs(1),
            daily_limit_after: Duration::from_secs(600),
        }
    }
}

/// What a call costs in Google's quota units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QuotaCost {
    /// Metadata of one file.
    Read,
    List,
    Download,
    /// A change to a file.
    Edit,
    /// A change that creates a file or folder.
    Create,
    /// Reserving ids and the like.
    Other,
    /// A request to an upload session, which its `Create` has paid for.
    UploadSession,
}

impl QuotaCost {
    fn units(self) -> f64 {
        match self {
            Self::Read | Self::Other => 5.0,
            Self::List => 100.0,
            Self::Download => 200.0,
            Self::Edit | Self::Create => 50.0,
            Self::UploadSession => 0.0,
        }
    }
}

/// A token bucket that books ahead: its level may fall below zero, and the wait lasts until it is zero again.
#[derive(Debug)]
struct TokenBucket {
    capacity: f64,
    per_second: f64,
    level: f64,
    updated_at: Instant,
}

impl TokenBucket {
    fn full(capacity: f64, per_second: f64, now: Instant) -> Self {
        Self { capacity, per_second, level: capacity, updated_at: now }
    }

    /// Takes `amount`; returns how long to wait before using it.
    fn take(&mut self, amount: f64, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.updated_at).as_secs_f64();
        self.level = (self.level + elapsed * self.per_second).min(self.capacity) - amount;
        self.updated_at = now;
        Duration::try_from_secs_f64((-self.level).max(0.0) / self.per_second).unwrap_or_default()
    }
}

#[derive(Debug)]
struct LimiterState {
    units: TokenBucket,
    creates: TokenBucket,
    /// No call starts before this time.
    paused_until: Option<Instant>,
    /// Refusals in a row.
    refusals: u32,
    /// When creates began to be refused, with no success since.
    creates_refused_since: Option<Instant>,
    rng: SplitMix64,
}

/// The consequence of a rate-limit refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RateLimitWait {
    /// Retry after this time.
    Retry(Duration),
    /// The daily limit is reached.
    DailyLimit,
}

/// The rate limiter that all callers share.
#[derive(Debug)]
pub(super) struct Limiter {
    limits: DriveLimits,
    state: Mutex<LimiterState>,
}

/// Refusals until the wait stops growing, at 2^5 times the first.
const MAX_DOUBLINGS: u32 = 5;

impl Limiter {
    pub(super) fn new(limits: DriveLimits) -> Self {
        let now = Instant::now();
        let per_second = limits.units_per_minute / 60.0;
        let state = LimiterState {
            // Ten seconds' worth at once: bursts pass, and the sum of a minute stays near the quota.
            units: TokenBucket::full(per_second * 10.0, per_second, now),
            creates: TokenBucket::full(limits.create_burst, limits.creates_per_second, now),
            paused_until: None,
            refusals: 0,
            creates_refused_since: None,
            rng: SplitMix64::from_system(),
        };
        Self { limits, state: Mutex::new(state) }
    }

    /// Waits until a call of this cost may start.
    pub(super) async fn admit(&self, cost: QuotaCost) {
        let wait = self.reserve(cost, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn reserve(&self, cost: QuotaCost, now: Instant) -> Duration {
        let mut state = self.state.lock();
        let units = state.units.take(cost.units(), now);
        let create = match cost {
            QuotaCost::Create => state.creates.take(1.0, now),
            _ => Duration::ZERO,
        };
        let pause =
            state.paused_until.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        units.max(create).max(pause)
    }

    /// Records a rate-limit refusal. All callers then wait: full jitter under a bound that doubles, and at least as
    /// long as the server asked.
    pub(super) fn record_refusal(
        &self,
        cost: QuotaCost,
        requested_wait: Option<Duration>,
    ) -> RateLimitWait {
        self.record_refusal_at(cost, requested_wait, Instant::now())
    }

    fn record_refusal_at(
        &self,
        cost: QuotaCost,
        requested_wait: Option<Duration>,
        now: Instant,
    ) -> RateLimitWait {
        let mut state = self.state.lock();
        if cost == QuotaCost::Create {
            let since = *state.creates_refused_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= self.limits.daily_limit_after {
                return RateLimitWait::DailyLimit;
            }
        }
        let max_wait =
            self.limits.first_wait.saturating_mul(1 << state.refusals.min(MAX_DOUBLINGS));
        state.refusals = state.refusals.saturating_add(1);
        let wait = max_wait.mul_f64(state.rng.fraction()).max(requested_wait.unwrap_or_default());
        let until = state.paused_until.map_or(now + wait, |at| at.max(now + wait));
        state.paused_until = Some(until);
        RateLimitWait::Retry(until.saturating_duration_since(now))
    }

    /// Records a successful call.
    pub(super) fn record_success(&self, cost: QuotaCost) {
        let mut state = self.state.lock();
        state.refusals = 0;
        if cost == QuotaCost::Create {
            state.creates_refused_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limiter() -> (Limiter, Instant) {
        (Limiter::new(DriveLimits::default()), Instant::now())
    }

    #[test]
    fn creates_keep_their_rate_after_a_burst() {
        let (limiter, start) = limiter();
        let mut now = start;
        for _ in 0..30 {
            now += limiter.reserve(QuotaCost::Create, now);
        }
        let took = (now - start).as_secs_f64();
        assert!((9.9..10.1).contains(&took), "30 creates took {took} s");
    }

    #[test]
    fn downloads_of_a_minute_stay_within_quota_and_burst() {
        let (limiter, start) = limiter();
        let (mut now, mut done) = (start, 0u32);
        while now - start < 60 * SECOND {
            now += limiter.reserve(QuotaCost::Download, now);
            done += 1;
        }
        let max = 325_000.0 / 200.0 * 7.0 / 6.0;
        assert!(f64::from(done) <= max + 2.0 && f64::from(done) > 1600.0, "{done} downloads");
    }

    #[test]
    fn a_rate_limit_pauses_all_calls_for_the_requested_wait() {
        let (limiter, now) = limiter();
        let RateLimitWait::Retry(wait) =
            limiter.record_refusal_at(QuotaCost::Read, Some(7 * SECOND), now)
        else {
            panic!("not the daily limit")
        };
        assert!(wait >= 7 * SECOND);
        assert_eq!(limiter.reserve(QuotaCost::Other, now + SECOND), wait - SECOND);
        assert_eq!(limiter.reserve(QuotaCost::Other, now + wait), Duration::ZERO);
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let (limiter, mut now) = limiter();
        for n in 0..20u32 {
            let RateLimitWait::Retry(wait) = limiter.record_refusal_at(QuotaCost::Read, None, now)
            else {
                panic!("not the daily limit")
            };
            assert!(wait <= SECOND * (1 << n.min(5)), "{wait:?} after {n} refusals");
            now += wait;
        }
    }

    #[test]
    fn creates_refused_for_ten_minutes_mean_the_daily_limit() {
        let (limiter, now) = limiter();
        let later = now + 601 * SECOND;
        assert!(matches!(
            limiter.record_refusal_at(QuotaCost::Create, None, now),
            RateLimitWait::Retry(_)
        ));
        assert_eq!(
            limiter.record_refusal_at(QuotaCost::Create, None, later),
            RateLimitWait::DailyLimit
        );
        assert!(
            matches!(
                limiter.record_refusal_at(QuotaCost::Read, None, later),
                RateLimitWait::Retry(_)
            ),
            "reads are not affected"
        );
        limiter.record_success(QuotaCost::Create);
        assert!(matches!(
            limiter.record_refusal_at(QuotaCost::Create, None, later),
            RateLimitWait::Retry(_)
        ));
    }
}
