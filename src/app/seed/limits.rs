//! Limits of seeding: the goals of an import, and the monthly budget of bytes or money for
//! reading cloud storage. No I/O.

use crate::{
    catalog::Traffic,
    config::{CloudBudget, SeedGoal},
    units::ByteSize,
};

/// Share of the budget that is spent at full speed. The rest is spread over the remaining month.
const FREELY: f64 = 0.8;
/// Lowest upload rate in bytes per second. Peers have no use for less.
const SLOWEST: u64 = 64 << 10;

/// The goal that an import of `bytes` has reached, as text; `None` if none is reached.
pub(super) fn reached(goal: &SeedGoal, bytes: u64, done: &Traffic) -> Option<String> {
    if let Some(ratio) = goal.ratio.filter(|ratio| real(done.served) >= ratio * real(bytes)) {
        let served = ByteSize(done.served);
        return Some(format!("{served} are with peers, which is {ratio} times its size"));
    }
    let time = goal.time.filter(|time| done.seconds >= time.as_secs())?;
    Some(format!("it was seeded for {} s", time.as_secs()))
}

/// The upload speed that the budget allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    Free,
    /// Limited to this rate in bytes per second.
    Slow(u64),
    Stop,
}

/// The upload speed for the rest of the month. `fetched` is in bytes, and `dollars` is their price.
pub(super) fn pace(budget: CloudBudget, fetched: u64, dollars: f64, seconds_left: u64) -> Pace {
    let bytes = match budget {
        CloudBudget::Bytes(size) => real(size.0),
        // Converts money to bytes at this month's average price.
        CloudBudget::Dollars(most) if dollars > 0.0 => real(fetched) * most / dollars,
        CloudBudget::Dollars(_) => f64::INFINITY,
    };
    let left = bytes - real(fetched);
    if left <= 0.0 {
        return Pace::Stop;
    }
    if real(fetched) < bytes * FREELY {
        return Pace::Free;
    }
    Pace::Slow(whole(left / real(seconds_left.max(1))).max(SLOWEST))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate above zero; the cast saturates"
)]
fn whole(rate: f64) -> u64 {
    rate as u64
}

#[allow(clippy::cast_precision_loss, reason = "a share of bytes needs no 53 bits")]
fn real(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_goal_that_is_reached_is_enough() {
        let goal = SeedGoal { ratio: Some(1.5), time: Some(Duration::from_secs(3600)) };
        let done = |served, seconds| Traffic { served, seconds, ..Traffic::default() };
        assert_eq!(reached(&goal, 1000, &done(1499, 3599)), None);
        assert!(reached(&goal, 1000, &done(1500, 0)).unwrap().contains("1.5 times"));
        assert!(reached(&goal, 1000, &done(0, 3600)).unwrap().contains("3600 s"));
        for never in [SeedGoal::default(), SeedGoal::NONE] {
            assert_eq!(reached(&never, 0, &done(u64::MAX, u64::MAX - 1)), None);
        }
    }

    #[test]
    fn a_budget_slows_before_it_stops() {
        let (gib, day) = (1 << 30, 86_400);
        let pace = |budget: u64, fetched, left| {
            super::pace(CloudBudget::Bytes(ByteSize(budget)), fetched, 0.0, left)
        };
        assert_eq!(pace(20 * gib, 0, 30 * day), Pace::Free);
        assert_eq!(pace(20 * gib, 15 * gib, 30 * day), Pace::Free);
        let Pace::Slow(rate) = pace(20 * gib, 17 * gib, 10 * day) else { panic!("not slow") };
        assert_eq!(rate, SLOWEST, "3 GiB in ten days is less than what is any use");
        assert_eq!(pace(20 * gib, 17 * gib, day / 24), Pace::Slow(3 * gib / 3600));
        assert_eq!(pace(20 * gib, 20 * gib, day), Pace::Stop);
        assert_eq!(pace(20 * gib, 21 * gib, day), Pace::Stop);
    }

    #[test]
    fn a_budget_of_money_is_as_many_bytes_as_they_cost() {
        let five = CloudBudget::Dollars(5.0);
        assert_eq!(pace(five, 1 << 40, 0.0, 60), Pace::Free, "a server of one's own");
        assert_eq!(pace(five, 1 << 30, 3.9, 60), Pace::Free);
        assert_eq!(pace(five, 4 << 30, 4.0, 1 << 10), Pace::Slow(1 << 20));
        assert_eq!(pace(five, 1 << 30, 5.0, 60), Pace::Stop);
    }
}
