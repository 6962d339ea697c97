//! The experience with one gateway in this run, and how good a choice it is for the next request. Pure: times are
//! arguments.

use std::time::Duration;

use tokio::time::Instant;

/// Assumed time of an answer while nothing is known of any gateway.
const UNKNOWN_LATENCY: Duration = Duration::from_millis(100);
/// Share of the last answer in the average, as a divisor.
const AVERAGE_OVER: u32 = 4;
/// From so many failed CARs in a row on, single blocks are requested.
const MAX_FAILED_CARS: u32 = 3;
/// From so many missing blocks in a row on, others are preferred.
const MANY_MISSING: u32 = 3;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The gateway sent what was requested.
    Sent,
    NotHere,
    /// The gateway wants no requests for this time.
    Busy(Duration),
    /// The gateway does not know this kind of request.
    UnknownFormat,
    /// The connection failed, or the answer makes no sense.
    Failed,
    /// The gateway sent bytes that are not those of the block, or refuses all requests.
    Useless,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Raw,
    Car,
}

/// The experience with a gateway.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Never used again in this run.
    useless: bool,
    raw_unknown: bool,
    car_unknown: bool,
    /// The gateway has limited the number of requests.
    was_busy: bool,
    not_before: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    /// CARs in a row that broke off.
    failed_cars: u32,
    /// Missing blocks in a row.
    missing: u32,
    in_flight: u32,
    /// Average time of an answer.
    latency: Option<Duration>,
}

impl Health {
    pub(super) fn start(&mut self) {
        self.in_flight += 1;
    }

    /// Records the end of a request that took `elapsed`. `None` if it was given up without an outcome.
    pub(super) fn end(
        &mut self,
        format: Format,
        outcome: Option<Outcome>,
        elapsed: Duration,
        now: Instant,
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match outcome {
            None => {}
            Some(Outcome::Sent) => {
                (self.failures, self.missing) = (0, 0);
                if format == Format::Car {
                    self.failed_cars = 0;
                } else {
                    let average = self.latency.unwrap_or(elapsed);
                    self.latency = Some((average * (AVERAGE_OVER - 1) + elapsed) / AVERAGE_OVER);
                }
            }
            Some(Outcome::NotHere) => self.missing += 1,
            Some(Outcome::Busy(wait)) => {
                self.was_busy = true;
                self.not_before = self.not_before.max(Some(now + wait));
            }
            Some(Outcome::UnknownFormat) if format == Format::Raw => self.raw_unknown = true,
            Some(Outcome::UnknownFormat) => self.car_unknown = true,
            Some(Outcome::Failed) => {
                self.failures += 1;
                self.failed_cars += u32::from(format == Format::Car);
            }
            Some(Outcome::Useless) => self.useless = true,
        }
    }

    /// Records that another gateway answered first, although this one was asked `elapsed` before.
    pub(super) fn was_late(&mut self, elapsed: Duration) {
        self.failures += 1;
        self.latency = Some(self.latency.unwrap_or(elapsed).max(elapsed));
    }

    /// Whether the gateway may be asked for a single block at all in this run.
    pub(super) fn is_usable(&self) -> bool {
        !self.useless && !self.raw_unknown
    }

    /// How long the gateway wants no requests.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let wait = self.not_before?.saturating_duration_since(now);
        Some(wait).filter(|wait| !wait.is_zero())
    }

    /// Whether CARs may be requested.
    pub(super) fn may_have_cars(&self) -> bool {
        !self.useless && !self.car_unknown && self.failed_cars < MAX_FAILED_CARS
    }

    /// Whether the gateway has limited the number of requests, so that fewer and longer ones are better.
    pub(super) fn was_busy(&self) -> bool {
        self.was_busy
    }

    pub(super) fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// Expected time until the next answer, relative to other gateways: smaller is better. `best` is the shortest
    /// average of all gateways; one that was not tried yet is assumed to be as good.
    pub(super) fn expected_time(&self, best: Option<Duration>) -> Duration {
        let latency = self.latency.or(best).unwrap_or(UNKNOWN_LATENCY);
        // An error counts like three further requests in flight.
        let missing = self.missing.saturating_sub(MANY_MISSING);
        let load = 1 + self.in_flight + 3 * self.failures.min(1000) + missing.min(1000);
        latency.saturating_mul(load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(10);
    const SLOW: Duration = Duration::from_millis(50);

    fn health(outcomes: &[(Outcome, Duration)]) -> Health {
        let mut health = Health::default();
        for (outcome, elapsed) in outcomes {
            health.start();
            health.end(Format::Raw, Some(*outcome), *elapsed, Instant::now());
        }
        health
    }

    #[test]
    fn the_faster_and_less_busy_gateway_is_the_better_choice() {
        let (mut fast, slow) = (health(&[(Outcome::Sent, FAST)]), health(&[(Outcome::Sent, SLOW)]));
        let better =
            |a: &Health, b: &Health| a.expected_time(Some(FAST)) < b.expected_time(Some(FAST));
        assert!(better(&fast, &slow));
        (0..5).for_each(|_| fast.start());
        assert!(better(&slow, &fast), "five requests in flight outweigh the latency");
        let untried = Health::default();
        assert!(better(&untried, &slow) && better(&untried, &fast));
    }

    #[test]
    fn failures_and_many_missing_blocks_make_others_the_better_choice() {
        let good = health(&[(Outcome::Sent, SLOW)]);
        let failed =
            health(&[(Outcome::Sent, FAST), (Outcome::Failed, FAST), (Outcome::Failed, FAST)]);
        let late = {
            let mut late = health(&[]);
            late.was_late(SLOW);
            late
        };
        let missing = health(&[(Outcome::NotHere, FAST); 12]);
        let good_time = good.expected_time(Some(FAST));
        for other in [failed, late, missing] {
            assert!(other.expected_time(Some(FAST)) > good_time, "{other:?}");
            assert!(other.is_usable());
        }
        let recovered = health(&[(Outcome::Failed, FAST), (Outcome::Sent, FAST)]);
        assert_eq!(recovered.expected_time(None), FAST);
    }

    #[test]
    fn a_gateway_that_lied_is_not_usable_and_a_busy_one_waits() {
        let now = Instant::now();
        assert!(!health(&[(Outcome::Useless, FAST)]).is_usable());
        assert!(!health(&[(Outcome::Useless, FAST)]).may_have_cars());
        let busy = health(&[(Outcome::Busy(Duration::from_secs(60)), FAST)]);
        assert!(busy.is_usable() && busy.was_busy());
        assert!(busy.wait(now).is_some_and(|wait| wait > Duration::from_secs(59)));
        assert_eq!(busy.wait(now + Duration::from_secs(61)), None);
        let mut raw_only = Health::default();
        raw_only.start();
        raw_only.end(Format::Car, Some(Outcome::UnknownFormat), FAST, now);
        assert!(raw_only.is_usable() && !raw_only.may_have_cars());
        let mut cut = Health::default();
        for _ in 0..MAX_FAILED_CARS {
            assert!(cut.may_have_cars());
            cut.start();
            cut.end(Format::Car, Some(Outcome::Failed), FAST, now);
        }
        assert!(!cut.may_have_cars());
        assert!(!health(&[(Outcome::UnknownFormat, FAST)]).is_usable());
    }
}
