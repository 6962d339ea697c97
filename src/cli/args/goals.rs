//! Seeding flags, applied over the settings of the config file.

use std::time::Duration;

use clap::Args;

use super::{budget, ratio, time};
use crate::config::{CloudBudget, SeedGoal, SeedOptions};

#[derive(Debug, Args)]
#[command(next_help_heading = "Seeding")]
pub(in crate::cli) struct GoalArgs {
    /// Seed each import until peers received this many times its size, such as 2 or 1.5; 0 for no ratio goal
    #[arg(long, env = "BAE_SEED_RATIO", value_name = "RATIO", value_parser = ratio)]
    seed_ratio: Option<f64>,
    /// Seed each import for this long over all runs, such as 12h or 7d; 0 for no time goal
    #[arg(long, env = "BAE_SEED_TIME", value_name = "TIME", value_parser = time)]
    seed_time: Option<Duration>,
    /// Maximum bytes or dollars read from storage per month, such as 20GB or $5; seeding slows down near the limit and
    /// stops at it; 0 for no limit
    #[arg(long, env = "BAE_CLOUD_BUDGET", value_name = "SIZE|$", value_parser = budget)]
    cloud_budget: Option<CloudBudget>,
}

impl GoalArgs {
    pub(in crate::cli) fn resolve(self, mut base: SeedOptions) -> SeedOptions {
        base.from_flags.ratio = self.seed_ratio;
        base.from_flags.time = self.seed_time.map(time_goal);
        let budget = self.cloud_budget.or(base.cloud_budget);
        base.cloud_budget = budget.filter(|budget| !budget.is_zero());
        base
    }
}

/// 0 is no goal.
pub(in crate::cli) fn time_goal(time: Duration) -> Duration {
    if time.is_zero() { SeedGoal::NO_TIME } else { time }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::units::ByteSize;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        goals: GoalArgs,
    }

    #[test]
    fn flags_take_precedence_over_the_file() {
        let seven = Some(CloudBudget::Dollars(7.0));
        let base = SeedOptions { cloud_budget: seven, ..SeedOptions::default() };
        let of = |line: &str| {
            let args = Only::try_parse_from(line.split_whitespace()).expect("parses");
            args.goals.resolve(base.clone())
        };
        assert_eq!(of("x").cloud_budget, seven);
        let gib = Some(CloudBudget::Bytes(ByteSize(1 << 30)));
        assert_eq!(of("x --cloud-budget 1GiB").cloud_budget, gib);
        assert_eq!(of("x --cloud-budget 0").cloud_budget, None);
        let from_flags = of("x --seed-ratio 1.5 --seed-time 2h").from_flags;
        assert_eq!(
            (from_flags.ratio, from_flags.time),
            (Some(1.5), Some(Duration::from_secs(7200)))
        );
        assert_eq!(of("x --seed-ratio 0 --seed-time 0").from_flags, SeedGoal::UNLIMITED);
        for bad in ["-1", "much", "inf"] {
            assert!(Only::try_parse_from(["x", &format!("--seed-ratio={bad}")]).is_err(), "{bad}");
        }
    }
}
