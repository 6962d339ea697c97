//! Limits of seeding: the goals of an import, and the monthly budget of bytes or money for
//! reading cloud storage. No I/O.

use crate::{
    catalog::UsageCounts,
    config::{CloudBudget, SeedGoal},
    units::ByteSize,
};

/// Share of the budget that is spent at full speed. The rest is spread over the remaining month.
const FULL_SPEED_SHARE: f64 = 0.8;
/// Lowest upload rate in bytes per second. Peers have no use for less.
const MIN_UPLOAD_RATE: u64 = 64 << 10;

/// The goal that an import of `bytes` has reached, as text; `None` if none is reached.
pub(super) fn reached_goal(goal: &SeedGoal, bytes: u64, usage: &UsageCounts) -> Option<String> {
    if let Some(ratio) = goal.ratio.filter(|ratio| to_f64(usage.served) >= ratio * to_f64(bytes)) {
        let served = ByteSize(usage.served);
        return Some(format!("seed ratio {ratio} reached: {served} sent to peers"));
    }
    let time = goal.time.filter(|time| usage.seconds >= time.as_secs())?;
    Some(format!("seed time of {} s reached", time.as_secs()))
}

/// The upload speed that the budget allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SeedThrottle {
    Unlimited,
    /// Limited to this rate in bytes per second.
    Limited(u64),
    Paused,
}

/// The upload speed for the rest of the month. `fetched` is in bytes, and `dollars` is their price.
pub(super) fn seed_throttle(
    budget: CloudBudget,
    fetched: u64,
    dollars: f64,
    seconds_left: u64,
) -> SeedThrottle {
    let bytes = match budget {
        CloudBudget::Bytes(size) => to_f64(size.0),
        // Converts money to bytes at this month's average price.
        CloudBudget::Dollars(most) if dollars > 0.0 => to_f64(fetched) * most / dollars,
        CloudBudget::Dollars(_) => f64::INFINITY,
    };
    let left = bytes - to_f64(fetched);
    if left <= 0.0 {
        return SeedThrottle::Paused;
    }
    if to_f64(fetched) < bytes * FULL_SPEED_SHARE {
        return SeedThrottle::Unlimited;
    }
    SeedThrottle::Limited(to_u64(left / to_f64(seconds_left.max(1))).max(MIN_UPLOAD_RATE))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate above zero; the cast saturates"
)]
fn to_u64(rate: f64) -> u64 {
    rate as u64
}

#[allow(clippy::cast_precision_loss, reason = "a share of bytes needs no 53 bits")]
fn to_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn reaching_one_of_the_goals_is_enough() {
        let goal = SeedGoal { ratio: Some(1.5), time: Some(Duration::from_secs(3600)) };
        let done = |served, seconds| UsageCounts { served, seconds, ..UsageCounts::default() };
        assert_eq!(reached_goal(&goal, 1000, &done(1499, 3599)), None);
        assert!(reached_goal(&goal, 1000, &done(1500, 0)).unwrap().contains("ratio 1.5"));
        assert!(reached_goal(&goal, 1000, &done(0, 3600)).unwrap().contains("3600 s"));
        for never in [SeedGoal::default(), SeedGoal::UNLIMITED] {
            assert_eq!(reached_goal(&never, 0, &done(u64::MAX, u64::MAX - 1)), None);
        }
    }

    #[test]
    fn a_budget_limits_the_rate_before_it_pauses_seeding() {
        let (gib, day) = (1 << 30, 86_400);
        let throttle = |budget: u64, fetched, left| {
            super::seed_throttle(CloudBudget::Bytes(ByteSize(budget)), fetched, 0.0, left)
        };
        assert_eq!(throttle(20 * gib, 0, 30 * day), SeedThrottle::Unlimited);
        assert_eq!(throttle(20 * gib, 15 * gib, 30 * day), SeedThrottle::Unlimited);
        let SeedThrottle::Limited(rate) = throttle(20 * gib, 17 * gib, 10 * day) else {
            panic!("not limited")
        };
        assert_eq!(rate, MIN_UPLOAD_RATE, "3 GiB in ten days is below the minimum rate");
        assert_eq!(throttle(20 * gib, 17 * gib, day / 24), SeedThrottle::Limited(3 * gib / 3600));
        assert_eq!(throttle(20 * gib, 20 * gib, day), SeedThrottle::Paused);
        assert_eq!(throttle(20 * gib, 21 * gib, day), SeedThrottle::Paused);
    }

    #[test]
    fn a_budget_of_money_is_converted_at_the_average_price() {
        let five = CloudBudget::Dollars(5.0);
        assert_eq!(
            seed_throttle(five, 1 << 40, 0.0, 60),
            SeedThrottle::Unlimited,
            "a server without prices"
        );
        assert_eq!(seed_throttle(five, 1 << 30, 3.9, 60), SeedThrottle::Unlimited);
        assert_eq!(seed_throttle(five, 4 << 30, 4.0, 1 << 10), SeedThrottle::Limited(1 << 20));
        assert_eq!(seed_throttle(five, 1 << 30, 5.0, 60), SeedThrottle::Paused);
    }
}
