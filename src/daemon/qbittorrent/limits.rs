//! Seed goals in this API's numbers: -2 is the setting of all torrents, -1 is no limit; times are minutes. No I/O.

use std::time::Duration;

use super::fields::{TorrentFields, int};
use crate::{
    config::SeedGoal,
    queue::{SeedLimits, Seeding},
};

/// Takes the setting of all torrents.
const GLOBAL: i64 = -2;
const NO_LIMIT: i64 = -1;
/// The ratio that stands for 0, which is no limit in the queue: every upload reaches it.
const AT_ONCE: f64 = 1e-9;
/// The difference of ratios that clients ignore.
const TOLERANCE: f64 = 0.001;

/// The ratio of a request: `None` for -2, 0 (no limit) for -1.
pub(super) fn ratio_of(number: f64) -> Option<f64> {
    match number {
        n if n >= 0.0 => Some(n.max(AT_ONCE)),
        n if n > -1.5 => Some(0.0),
        _ => None,
    }
}

/// The seconds of a request in minutes: `None` for -2, 0 (no limit) for -1.
pub(super) fn seconds_of(minutes: i64) -> Option<u64> {
    match u64::try_from(minutes) {
        Ok(minutes) => Some(minutes.saturating_mul(60).max(1)),
        Err(_) if minutes == NO_LIMIT => Some(0),
        Err(_) => None,
    }
}

/// The limits of a request; what it leaves out stays.
pub(super) fn changed(before: SeedLimits, ratio: Option<f64>, minutes: Option<i64>) -> SeedLimits {
    SeedLimits {
        ratio: ratio.map_or(before.ratio, ratio_of),
        seconds: minutes.map_or(before.seconds, seconds_of),
    }
}

fn shown(ratio: f64) -> f64 {
    if ratio <= AT_ONCE { 0.0 } else { ratio }
}

#[allow(clippy::cast_precision_loss, reason = "small constants")]
const fn float(number: i64) -> f64 {
    number as f64
}

/// The limit of a torrent: its own, else that of its category, else -2.
pub(super) fn shown_ratio(own: Option<f64>, category: SeedGoal) -> f64 {
    match (own, category.ratio) {
        (Some(ratio), _) if ratio <= 0.0 => float(NO_LIMIT),
        (Some(ratio), _) => shown(ratio),
        (None, Some(ratio)) if ratio.is_finite() => ratio,
        (None, Some(_)) => float(NO_LIMIT),
        (None, None) => float(GLOBAL),
    }
}

/// As [`shown_ratio`], in minutes.
pub(super) fn shown_minutes(own: Option<u64>, category: SeedGoal) -> i64 {
    match (own, category.time) {
        (Some(0), _) => NO_LIMIT,
        (Some(seconds), _) => int(seconds / 60),
        (None, Some(time)) => minutes(time),
        (None, None) => GLOBAL,
    }
}

/// Whole minutes; -1 for no limit.
pub(super) fn minutes(time: Duration) -> i64 {
    if time == SeedGoal::NO_TIME { NO_LIMIT } else { int(time.as_secs().div_ceil(60)) }
}

/// The limit that applies, with that of the config for -2.
pub(super) fn effective_ratio(shown: f64, global: SeedGoal) -> f64 {
    match global.ratio.filter(|ratio| ratio.is_finite()) {
        _ if shown > -1.5 => shown,
        Some(ratio) => ratio,
        None => float(NO_LIMIT),
    }
}

/// As [`effective_ratio`], in minutes.
pub(super) fn effective_minutes(shown: i64, global: SeedGoal) -> i64 {
    match global.time {
        _ if shown != GLOBAL => shown,
        Some(time) => minutes(time),
        None => NO_LIMIT,
    }
}

/// A goal that the engine says is reached is shown as reached. The queue's counts may be a moment behind the engine's,
/// and a client removes a torrent only when its own comparison succeeds.
pub(super) fn show_reached(fields: &mut TorrentFields, seeding: Seeding) {
    if seeding != Seeding::GoalReached {
        return;
    }
    let has_ratio = fields.max_ratio >= 0.0;
    let has_time = fields.max_seeding_time >= 0;
    let goal_seconds = fields.max_seeding_time.saturating_mul(60);
    let ratio_reached = has_ratio && fields.ratio >= fields.max_ratio - TOLERANCE;
    let time_reached = has_time && fields.seeding_time >= goal_seconds;
    if ratio_reached || time_reached {
    } else if has_time {
        fields.seeding_time = goal_seconds;
    } else if has_ratio {
        fields.ratio = fields.max_ratio;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_back_as_they_were_set() {
        for number in [-2.0, -1.0, 0.0, 0.5, 3.0] {
            assert_eq!(shown_ratio(ratio_of(number), SeedGoal::default()), number);
        }
        for minutes in [-2, -1, 0, 1, 1440] {
            assert_eq!(shown_minutes(seconds_of(minutes), SeedGoal::default()), minutes);
        }
        assert_eq!(seconds_of(i64::MIN), None);
        assert!(seconds_of(i64::MAX).is_some());
    }

    #[test]
    fn the_categorys_goal_is_the_limit_of_its_torrents() {
        let goal = SeedGoal { ratio: Some(2.0), time: Some(Duration::from_secs(90)) };
        assert_eq!((shown_ratio(None, goal), shown_minutes(None, goal)), (2.0, 2));
        assert_eq!((shown_ratio(Some(0.0), goal), shown_minutes(Some(0), goal)), (-1.0, -1));
        assert_eq!(shown_ratio(None, SeedGoal::UNLIMITED), -1.0);
        assert_eq!(shown_minutes(None, SeedGoal::UNLIMITED), -1);
        assert_eq!((effective_ratio(-2.0, goal), effective_minutes(-2, goal)), (2.0, 2));
        assert_eq!((effective_ratio(-1.0, goal), effective_minutes(-1, goal)), (-1.0, -1));
        assert_eq!(effective_ratio(-2.0, SeedGoal::default()), -1.0);
    }

    #[test]
    fn limits_that_are_left_out_stay() {
        let before = SeedLimits { ratio: Some(1.5), seconds: Some(60) };
        assert_eq!(changed(before, None, None), before);
        let after = changed(before, Some(-2.0), Some(-1));
        assert_eq!(after, SeedLimits { ratio: None, seconds: Some(0) });
    }
}
