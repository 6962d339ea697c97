//! Seed goals, and the budget for reading from storage while seeding.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use serde::Deserialize;

use super::file::{budget, duration};
use crate::{
    error::{Error, Kind, Result},
    units::ByteSize,
};

/// When to stop seeding an import: at the first goal reached. `None` inherits; without any goal seeding has no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SeedGoal {
    /// Bytes sent to peers per byte of the import, over all runs.
    pub ratio: Option<f64>,
    /// Seeding time over all runs.
    pub time: Option<Duration>,
}

impl SeedGoal {
    /// A ratio that is never reached. Overrides inherited ratios.
    pub const NO_RATIO: f64 = f64::INFINITY;
    /// A time that is never reached. Overrides inherited times.
    pub const NO_TIME: Duration = Duration::MAX;
    /// Seeds without limit.
    pub const UNLIMITED: Self = Self { ratio: Some(Self::NO_RATIO), time: Some(Self::NO_TIME) };

    /// The goals of `self`; those that are `None` come from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { ratio: self.ratio.or(other.ratio), time: self.time.or(other.time) }
    }
}

/// The seeding settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SeedOptions {
    /// Goals from the flags of this run. They override all others.
    pub from_flags: SeedGoal,
    /// Goals by tracker host, for torrents with that tracker.
    pub trackers: BTreeMap<String, SeedGoal>,
    /// Goals for all other imports.
    pub goal: SeedGoal,
    /// Monthly budget for reading from remote storages.
    pub cloud_budget: Option<CloudBudget>,
    /// Maximum imports that peers can reach at once; the others are rotated in.
    pub at_once: Option<usize>,
}

impl SeedOptions {
    /// The goal of a torrent with trackers on these hosts, without goals of the run or the import.
    pub fn goal_for_hosts<'a>(&self, hosts: impl IntoIterator<Item = &'a str>) -> SeedGoal {
        let tracker = hosts.into_iter().find_map(|host| self.trackers.get(host)).copied();
        tracker.unwrap_or_default().or(self.goal)
    }
}

/// The budget for reading from remote storages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CloudBudget {
    Bytes(ByteSize),
    /// US dollars at list prices, including requests.
    Dollars(f64),
}

impl CloudBudget {
    /// Zero means no budget.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Bytes(size) => size.0 == 0,
            Self::Dollars(dollars) => *dollars <= 0.0,
        }
    }
}

impl FromStr for CloudBudget {
    type Err = Error;

    /// Parses `20GB`, `$5` or `5USD`.
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let lower = text.to_ascii_lowercase();
        let Some(money) = lower.strip_prefix('$').or_else(|| lower.strip_suffix("usd")) else {
            return text.parse().map(Self::Bytes);
        };
        match money.trim().parse::<f64>() {
            Ok(dollars) if dollars.is_finite() && dollars >= 0.0 => Ok(Self::Dollars(dollars)),
            _ => Err(Error::new(Kind::InvalidInput, format!("{text:?} is not an amount of money"))
                .hint("write it as $5 or 2.50USD")),
        }
    }
}

impl fmt::Display for CloudBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(size) => write!(f, "{size}"),
            Self::Dollars(dollars) => write!(f, "${dollars:.2}"),
        }
    }
}

/// Checks a seed ratio.
///
/// # Errors
/// `InvalidInput` unless it is a finite number above 0.
pub fn check_ratio(ratio: f64) -> Result<f64> {
    if ratio.is_finite() && ratio > 0.0 {
        return Ok(ratio);
    }
    Err(Error::new(Kind::InvalidInput, format!("seed ratio {ratio} is not a number above 0"))
        .hint("2 means twice the bytes of the import"))
}

/// The `[seeding]` section of the config file.
#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SeedingSection {
    ratio: Option<f64>,
    #[serde(deserialize_with = "duration")]
    time: Option<Duration>,
    #[serde(deserialize_with = "budget")]
    cloud_budget: Option<CloudBudget>,
    at_once: Option<usize>,
    trackers: BTreeMap<String, GoalSection>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct GoalSection {
    ratio: Option<f64>,
    #[serde(deserialize_with = "duration")]
    time: Option<Duration>,
}

impl SeedingSection {
    pub(super) fn resolve(self) -> Result<SeedOptions> {
        let goal = |ratio: Option<f64>, time: Option<Duration>| -> Result<SeedGoal> {
            let ratio = ratio.map(check_ratio).transpose();
            let context = |e: Error| e.with_context("[seeding] in the config file");
            Ok(SeedGoal { ratio: ratio.map_err(context)?, time: time.filter(|t| !t.is_zero()) })
        };
        let trackers = self.trackers.into_iter();
        let trackers =
            trackers.map(|(host, section)| Ok((host, goal(section.ratio, section.time)?)));
        Ok(SeedOptions {
            from_flags: SeedGoal::default(),
            trackers: trackers.collect::<Result<_>>()?,
            goal: goal(self.ratio, self.time)?,
            cloud_budget: self.cloud_budget.filter(|budget| !budget.is_zero()),
            at_once: self.at_once.filter(|n| *n > 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_of_a_tracker_take_precedence_over_the_default_goals() {
        let hour = Duration::from_secs(3600);
        let of_tracker = SeedGoal { ratio: Some(1.0), time: None };
        let options = SeedOptions {
            trackers: [("t.example".to_owned(), of_tracker)].into(),
            goal: SeedGoal { ratio: Some(5.0), time: Some(hour) },
            ..SeedOptions::default()
        };
        let goal = options.goal_for_hosts(["other", "t.example"]);
        assert_eq!((goal.ratio, goal.time), (Some(1.0), Some(hour)));
        assert_eq!(options.goal_for_hosts(["other"]).ratio, Some(5.0));
        let never = SeedGoal { ratio: Some(SeedGoal::NO_RATIO), time: None };
        assert_eq!(never.or(goal), SeedGoal { ratio: Some(f64::INFINITY), time: Some(hour) });
    }

    #[test]
    fn the_section_is_parsed_and_errors_are_reported() {
        let section = |text: &str| toml::from_str::<SeedingSection>(text);
        let text =
            "ratio = 2.0\ntime = '7d'\ncloud_budget = '20GB'\n[trackers.'t.example']\ntime = '1h'";
        let options = section(text).unwrap().resolve().unwrap();
        assert_eq!(options.cloud_budget, Some(CloudBudget::Bytes(ByteSize(20 << 30))));
        for (text, dollars) in [("$5", 5.0), ("2.50 USD", 2.5), ("$0", 0.0)] {
            assert_eq!(text.parse::<CloudBudget>().unwrap(), CloudBudget::Dollars(dollars));
        }
        for bad in ["$", "$much", "$-1", "$inf", "€5"] {
            assert!(bad.parse::<CloudBudget>().is_err(), "{bad}");
        }
        assert_eq!(options.goal_for_hosts(["t.example"]).time, Some(Duration::from_secs(3600)));
        assert_eq!(options.goal_for_hosts([]).time, Some(Duration::from_secs(7 * 86_400)));
        assert!(section("ratio = 0.0").unwrap().resolve().is_err());
        assert!(section("rato = 1.0").is_err());
    }
}
