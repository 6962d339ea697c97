//! Rate limits per user: Google's quota units per minute, the undocumented limit on creates, and a shared backoff
//! after a refusal.
//!
//! One limiter serves all callers of a backend, because Google counts per user and not per connection. It books
//! ahead: a caller's units are taken at once and the caller waits as told, so callers proceed in order.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::backends::rng::SplitMix64;

/// The rates to keep within.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Google's quota: 325,000 units per minute for one user of a project created since May 2026.
    pub units_per_minute: f64,
    /// Files and folders created per second. Undocumented; more than two or three are refused sooner or later.
    pub creates_per_second: f64,
    /// Creates allowed at once after a pause.
    pub create_burst: f64,
    /// Upper bound of the first wait after a refusal. Doubles up to 32 times this.
    pub first_wait: Duration,
    /// When creates are refused for longer than this, the cause is the daily upload limit and not the rate.
    pub daily_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            units_per_minute: 325_000.0,
            creates_per_second: 2.5,
            create_burst: 5.0,
            first_wait: Duration::from_secs(1),
            daily_after: Duration::from_secs(600),
        }
    }
}

/// What a call costs in Google's quota units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
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
    Session,
}

impl Cost {
    fn units(self) -> f64 {
        match self {
            Self::Read | Self::Other => 5.0,
            Self::List => 100.0,
            Self::Download => 200.0,
            Self::Edit | Self::Create => 50.0,
            Self::Session => 0.0,
        }
    }
}

/// A token bucket that books ahead: its level may fall below zero, and the wait lasts until it is zero again.
#[derive(Debug)]
struct Bucket {
    most: f64,
    per_second: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn full(most: f64, per_second: f64, now: Instant) -> Self {
        Self { most, per_second, level: most, at: now }
    }

    /// Takes `amount`; returns how long to wait before using it.
    fn take(&mut self, amount: f64, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed * self.per_second).min(self.most) - amount;
        self.at = now;
        Duration::try_from_secs_f64((-self.level).max(0.0) / self.per_second).unwrap_or_default()
    }
}

#[derive(Debug)]
struct State {
    units: Bucket,
    creates: Bucket,
    /// No call starts before this time.
    quiet_until: Option<Instant>,
    /// Refusals in a row.
    refusals: u32,
    /// When creates began to be refused, with no success since.
    creates_refused: Option<Instant>,
    rng: SplitMix64,
}

/// The consequence of a rate-limit refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slower {
    /// Retry after this time.
    Wait(Duration),
    /// The daily limit is reached.
    Tomorrow,
}

/// The rate limiter that all callers share.
#[derive(Debug)]
pub(super) struct Limiter {
    limits: Limits,
    state: Mutex<State>,
}

/// Refusals until the wait stops growing, at 2^5 times the first.
const DOUBLINGS: u32 = 5;

impl Limiter {
    pub(super) fn new(limits: Limits) -> Self {
        let now = Instant::now();
        let per_second = limits.units_per_minute / 60.0;
        let state = State {
            // Ten seconds' worth at once: bursts pass, and the sum of a minute stays near the quota.
            units: Bucket::full(per_second * 10.0, per_second, now),
            creates: Bucket::full(limits.create_burst, limits.creates_per_second, now),
            quiet_until: None,
            refusals: 0,
            creates_refused: None,
            rng: SplitMix64::from_system(),
        };
        Self { limits, state: Mutex::new(state) }
    }

    /// Waits until a call of this cost may start.
    pub(super) async fn admit(&self, cost: Cost) {
        let wait = self.book(cost, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn book(&self, cost: Cost, now: Instant) -> Duration {
        let mut state = self.state.lock();
        let units = state.units.take(cost.units(), now);
        let create = match cost {
            Cost::Create => state.creates.take(1.0, now),
            _ => Duration::ZERO,
        };
        let quiet =
            state.quiet_until.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        units.max(create).max(quiet)
    }

    /// Records a rate-limit refusal. All callers then wait: full jitter under a bound that doubles, and at least as
    /// long as the server asked.
    pub(super) fn refused(&self, cost: Cost, asked: Option<Duration>) -> Slower {
        self.refused_at(cost, asked, Instant::now())
    }

    fn refused_at(&self, cost: Cost, asked: Option<Duration>, now: Instant) -> Slower {
        let mut state = self.state.lock();
        if cost == Cost::Create {
            let since = *state.creates_refused.get_or_insert(now);
            if now.saturating_duration_since(since) >= self.limits.daily_after {
                return Slower::Tomorrow;
            }
        }
        let most = self.limits.first_wait.saturating_mul(1 << state.refusals.min(DOUBLINGS));
        state.refusals = state.refusals.saturating_add(1);
        let wait = most.mul_f64(state.rng.fraction()).max(asked.unwrap_or_default());
        let until = state.quiet_until.map_or(now + wait, |at| at.max(now + wait));
        state.quiet_until = Some(until);
        Slower::Wait(until.saturating_duration_since(now))
    }

    /// Records a successful call.
    pub(super) fn accepted(&self, cost: Cost) {
        let mut state = self.state.lock();
        state.refusals = 0;
        if cost == Cost::Create {
            state.creates_refused = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limiter() -> (Limiter, Instant) {
        (Limiter::new(Limits::default()), Instant::now())
    }

    #[test]
    fn creates_keep_their_pace_after_a_burst() {
        let (limiter, start) = limiter();
        let mut now = start;
        for _ in 0..30 {
            now += limiter.book(Cost::Create, now);
        }
        let took = (now - start).as_secs_f64();
        assert!((9.9..10.1).contains(&took), "30 creates took {took} s");
    }

    #[test]
    fn a_minute_of_downloads_is_within_the_quota_and_the_burst() {
        let (limiter, start) = limiter();
        let (mut now, mut done) = (start, 0u32);
        while now - start < 60 * SECOND {
            now += limiter.book(Cost::Download, now);
            done += 1;
        }
        let most = 325_000.0 / 200.0 * 7.0 / 6.0;
        assert!(f64::from(done) <= most + 2.0 && f64::from(done) > 1600.0, "{done} downloads");
    }

    #[test]
    fn a_refusal_keeps_everyone_quiet_for_as_long_as_was_asked() {
        let (limiter, now) = limiter();
        let Slower::Wait(wait) = limiter.refused_at(Cost::Read, Some(7 * SECOND), now) else {
            panic!("not the day's limit")
        };
        assert!(wait >= 7 * SECOND);
        assert_eq!(limiter.book(Cost::Other, now + SECOND), wait - SECOND);
        assert_eq!(limiter.book(Cost::Other, now + wait), Duration::ZERO);
    }

    #[test]
    fn waits_double_up_to_a_bound_while_refusals_go_on() {
        let (limiter, mut now) = limiter();
        for n in 0..20u32 {
            let Slower::Wait(wait) = limiter.refused_at(Cost::Read, None, now) else {
                panic!("not the day's limit")
            };
            assert!(wait <= SECOND * (1 << n.min(5)), "{wait:?} after {n} refusals");
            now += wait;
        }
    }

    #[test]
    fn creates_refused_for_ten_minutes_are_the_limit_of_the_day() {
        let (limiter, now) = limiter();
        let later = now + 601 * SECOND;
        assert!(matches!(limiter.refused_at(Cost::Create, None, now), Slower::Wait(_)));
        assert_eq!(limiter.refused_at(Cost::Create, None, later), Slower::Tomorrow);
        assert!(
            matches!(limiter.refused_at(Cost::Read, None, later), Slower::Wait(_)),
            "reads go on"
        );
        limiter.accepted(Cost::Create);
        assert!(matches!(limiter.refused_at(Cost::Create, None, later), Slower::Wait(_)));
    }
}
