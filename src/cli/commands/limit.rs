//! `limit`: sets or shows the seed goals that are stored with an import.

use serde::Serialize;

use crate::{
    cli::{
        args::limit::LimitArgs,
        context::Context,
        output::{Failure, progress::short_time, sanitize},
    },
    engine::{Access, SeedGoalInfo},
};

#[derive(Serialize)]
struct LimitLine<'a> {
    event: &'static str,
    id: &'a str,
    name: &'a str,
    goal: SeedGoalInfo,
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
    use super::*;

    #[test]
    fn a_goal_has_a_short_text() {
        let text = |ratio, seconds| goal_text(&SeedGoalInfo { ratio, seconds });
        assert_eq!(text(None, None), None);
        assert_eq!(text(Some(1.5), Some(604_800)).unwrap(), "ratio 1.5, 7d0h");
        assert_eq!(text(Some(0.0), Some(0)).unwrap(), "no ratio goal, no time goal");
    }
}
