//! `limit`: sets or shows the seed goals that are stored with an import.

use std::time::Duration;

use clap::{Args, builder::BoolishValueParser};
use serde::Serialize;

use crate::{
    cli::{
        Context,
        args::{goals::time_goal, ratio, time},
        output::{Failure, progress::short_time, sanitize},
    },
    config::SeedGoal,
    engine::{Access, SeedGoalChange, SeedGoalInfo},
};

// Separate variables: those of `seed` apply to one run and must not be stored.
#[derive(Debug, Args)]
pub(in crate::cli) struct LimitArgs {
    /// Ids, unique names, or info-hash prefixes
    #[arg(required = true, value_name = "IMPORT")]
    imports: Vec<String>,
    /// Seed until peers received this many times the import's size, such as 2 or 1.5; 0 for no ratio goal, overriding
    /// the config
    #[arg(long, env = "BAE_LIMIT_SEED_RATIO", value_name = "RATIO", value_parser = ratio)]
    seed_ratio: Option<f64>,
    /// Seed for this long, such as 12h or 7d; 0 for no time goal, overriding the config
    #[arg(long, env = "BAE_LIMIT_SEED_TIME", value_name = "TIME", value_parser = time)]
    seed_time: Option<Duration>,
    /// Seed without limit, overriding the config
    #[arg(long, env = "BAE_NO_LIMIT", value_parser = BoolishValueParser::new(),
          conflicts_with_all = ["seed_ratio", "seed_time", "reset"])]
    no_limit: bool,
    /// Remove the stored goals; goals given with it are set anew
    #[arg(long, env = "BAE_RESET", value_parser = BoolishValueParser::new())]
    reset: bool,
}

#[derive(Serialize)]
struct LimitLine<'a> {
    event: &'static str,
    id: &'a str,
    name: &'a str,
    goal: SeedGoalInfo,
}

impl LimitArgs {
    fn change(&self) -> SeedGoalChange {
        let goal = SeedGoal { ratio: self.seed_ratio, time: self.seed_time.map(time_goal) };
        let goal = if self.no_limit { SeedGoal::UNLIMITED } else { goal };
        SeedGoalChange { reset: self.reset, goal }
    }
}

/// Without a change, prints the current goals.
pub(in crate::cli) async fn limit(context: Context, args: LimitArgs) -> Result<(), Failure> {
    let change = args.change();
    let access = if change.is_none() { Access::Read } else { Access::Shared };
    context
        .with_engine(access, async |engine| {
            for import in &args.imports {
                let (row, goal) = engine.change_seed_goal(import, change).await?;
                let (id, name) = (row.id.as_str(), row.name.as_str());
                if context.out.is_json() {
                    context.out.json(&LimitLine { event: "limits", id, name, goal })?;
                    continue;
                }
                let text = goal_text(&goal)
                    .unwrap_or_else(|| "no goals set, the config applies".to_owned());
                context.out.result(format_args!("{id} {}: {text}", sanitize(name)))?;
            }
            Ok(())
        })
        .await
}

/// Formats a goal as `ratio 2, 7d0h`; `None` when no goal is set.
pub(super) fn goal_text(goal: &SeedGoalInfo) -> Option<String> {
    let ratio = goal.ratio.map(|ratio| match ratio {
        0.0 => "no ratio goal".to_owned(),
        ratio => format!("ratio {ratio}"),
    });
    let time = goal.seconds.map(|seconds| match seconds {
        0 => "no time goal".to_owned(),
        seconds => short_time(seconds),
    });
    let goals: Vec<_> = ratio.into_iter().chain(time).collect();
    (!goals.is_empty()).then(|| goals.join(", "))
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

    #[test]
    fn a_goal_has_a_short_text() {
        let text = |ratio, seconds| goal_text(&SeedGoalInfo { ratio, seconds });
        assert_eq!(text(None, None), None);
        assert_eq!(text(Some(1.5), Some(604_800)).unwrap(), "ratio 1.5, 7d0h");
        assert_eq!(text(Some(0.0), Some(0)).unwrap(), "no ratio goal, no time goal");
    }
}
