//! The arguments of `limit`.

use std::time::Duration;

use clap::{Args, builder::BoolishValueParser};

use super::{goals::time_goal, ratio, time};
use crate::{config::SeedGoal, engine::SeedGoalChange};

// Separate variables: those of `seed` apply to one run and must not be stored.
#[derive(Debug, Args)]
pub(in crate::cli) struct LimitArgs {
    /// Ids, unique names, or info-hash prefixes
    #[arg(required = true, value_name = "IMPORT")]
    pub(in crate::cli) imports: Vec<String>,
    /// Seed until peers received this many times the import's size, such as 2 or 1.5; 0 for no ratio goal, overriding
    /// the config
    #[arg(long, env = "BAE_LIMIT_SEED_RATIO", value_name = "RATIO", value_parser = ratio)]
    pub(in crate::cli) seed_ratio: Option<f64>,
    /// Seed for this long, such as 12h or 7d; 0 for no time goal, overriding the config
    #[arg(long, env = "BAE_LIMIT_SEED_TIME", value_name = "TIME", value_parser = time)]
    pub(in crate::cli) seed_time: Option<Duration>,
    /// Seed without limit, overriding the config
    #[arg(long, env = "BAE_NO_LIMIT", value_parser = BoolishValueParser::new(),
          conflicts_with_all = ["seed_ratio", "seed_time", "reset"])]
    pub(in crate::cli) no_limit: bool,
    /// Remove the stored goals before setting those given here
    #[arg(long, env = "BAE_RESET", value_parser = BoolishValueParser::new())]
    pub(in crate::cli) reset: bool,
}

impl LimitArgs {
    /// The change of the stored goals; [`SeedGoalChange::is_none`] without any argument.
    pub(in crate::cli) fn change(&self) -> SeedGoalChange {
        let goal = SeedGoal { ratio: self.seed_ratio, time: self.seed_time.map(time_goal) };
        let goal = if self.no_limit { SeedGoal::UNLIMITED } else { goal };
        SeedGoalChange { reset: self.reset, goal }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        args: LimitArgs,
    }

    fn change(line: &str) -> SeedGoalChange {
        Only::try_parse_from(line.split_whitespace()).expect("parses").args.change()
    }

    #[test]
    fn only_the_given_goals_are_changed() {
        assert!(change("x a b").is_none());
        let goal = change("x a --seed-ratio 2 --seed-time 0").goal;
        assert_eq!((goal.ratio, goal.time), (Some(2.0), Some(SeedGoal::NO_TIME)));
        assert_eq!(change("x a --no-limit").goal, SeedGoal::UNLIMITED);
        assert!(change("x a --reset --seed-ratio 2").reset);
        for bad in ["x", "x a --no-limit --seed-ratio 2", "x a --seed-ratio -1"] {
            assert!(Only::try_parse_from(bad.split_whitespace()).is_err(), "{bad}");
        }
    }
}
