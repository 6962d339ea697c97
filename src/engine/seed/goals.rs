//! Seed goals and their precedence: flags of the run, the import, its trackers, the default.

use url::Url;

use crate::{
    catalog::ImportRow,
    config::{SeedGoal, SeedOptions},
    engine::{Engine, SeedGoalChange, SeedGoalInfo},
    error::Result,
};

impl Engine {
    /// Changes the seed goal of an import, and returns the result. A bae that seeds the import
    /// applies it within seconds.
    ///
    /// # Errors
    /// `NotFound` when there is no such import; when the catalog cannot be written.
    pub async fn change_seed_goal(
        &self,
        import_ref: &str,
        change: SeedGoalChange,
    ) -> Result<(ImportRow, SeedGoalInfo)> {
        let row = self.catalog.find(import_ref).await?;
        let before = match change.reset {
            true => SeedGoal::default(),
            false => self.catalog.seed_goal(&row.id).await?,
        };
        let goal = change.goal.or(before);
        if !change.is_none() {
            self.catalog.set_seed_goal(&row.id, goal).await?;
        }
        Ok((row, goal.into()))
    }

    /// The goal that the config has for an import. Its trackers are looked up only if the config has goals by tracker.
    pub(super) async fn config_goal(
        &self,
        row: &ImportRow,
        options: &SeedOptions,
    ) -> Result<SeedGoal> {
        if options.trackers.is_empty() {
            return Ok(options.goal_for_hosts([]));
        }
        let (_, meta) = self.original_metainfo_of(row).await?;
        let host = |tracker: &String| Url::parse(tracker).ok()?.host_str().map(str::to_owned);
        let hosts: Vec<_> = meta.trackers.iter().flatten().filter_map(host).collect();
        Ok(options.goal_for_hosts(hosts.iter().map(String::as_str)))
    }
}
