//! Seed goals that the user has set for single imports.

use std::{collections::HashMap, time::Duration};

use super::{
    Catalog, ImportId,
    imports::import_num,
    sql::{Row, select, values},
    sql_int,
};
use crate::{config::SeedGoal, error::Result};

/// In the table, 0 is a goal that is never reached.
fn goal_row(row: &Row<'_>) -> Result<(String, SeedGoal)> {
    let ratio = row.get::<Option<f64>>(1)?;
    let time = row.get::<Option<u64>>(2)?;
    let goal = SeedGoal {
        ratio: ratio.map(|ratio| if ratio > 0.0 { ratio } else { SeedGoal::NO_RATIO }),
        time: time.map(|s| if s > 0 { Duration::from_secs(s) } else { SeedGoal::NO_TIME }),
    };
    Ok((row.get(0)?, goal))
}

impl Catalog {
    /// The goals of all imports that have their own.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn seed_goals(&self) -> Result<HashMap<ImportId, SeedGoal>> {
        let query =
            "SELECT i.id, g.ratio, g.seconds FROM goals g JOIN imports i ON i.num = g.import";
        let rows = self.read(move |db| select(db, query, values![], goal_row)).await?;
        rows.into_iter().map(|(id, goal)| Ok((id.parse()?, goal))).collect()
    }

    /// The goal of an import; empty when none was set.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn seed_goal(&self, id: &ImportId) -> Result<SeedGoal> {
        let id = id.clone();
        let query =
            "SELECT i.id, g.ratio, g.seconds FROM goals g JOIN imports i ON i.num = g.import
            WHERE i.id = ?";
        let rows = self.read(move |c| select(c, query, values![id.as_str()], goal_row)).await?;
        Ok(rows.into_iter().next().map_or_else(SeedGoal::default, |row| row.1))
    }

    /// Replaces the goal of an import.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn set_seed_goal(&self, id: &ImportId, goal: SeedGoal) -> Result<()> {
        let id = id.clone();
        let ratio = goal.ratio.map(|ratio| if ratio.is_finite() { ratio } else { 0.0 });
        let seconds = |time: Duration| match time {
            SeedGoal::NO_TIME => Ok(0),
            // 0 means never, so a goal below one second is stored as 1.
            time => sql_int(time.as_secs().max(1)),
        };
        let seconds = goal.time.map(seconds).transpose()?;
        self.write(move |db| {
            let num = import_num(db, &id)?;
            let sql = "INSERT INTO goals(import, ratio, seconds) VALUES(?, ?, ?)
                ON CONFLICT(import) DO UPDATE SET ratio = excluded.ratio, seconds = excluded.seconds";
            db.execute(sql, values![num, ratio, seconds])?;
            let sql = "DELETE FROM goals WHERE import = ? AND ratio IS NULL AND seconds IS NULL";
            db.execute(sql, values![num]).map(drop)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{catalog::NewImport, error::Kind};

    #[tokio::test]
    async fn a_goal_is_stored_until_it_is_reset_or_its_import_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let id = catalog.create_import(NewImport::default()).await.unwrap().id;
        let other = catalog.create_import(NewImport::default()).await.unwrap().id;
        assert_eq!(catalog.seed_goal(&id).await.unwrap(), SeedGoal::default());
        let half = SeedGoal { ratio: Some(0.5), time: Some(Duration::from_millis(1500)) };
        let kept = SeedGoal { time: Some(Duration::from_secs(1)), ..half };
        for (goal, kept) in [(half, kept), (SeedGoal::UNLIMITED, SeedGoal::UNLIMITED)] {
            catalog.set_seed_goal(&id, goal).await.unwrap();
            assert_eq!(catalog.seed_goal(&id).await.unwrap(), kept);
            assert_eq!(catalog.seed_goals().await.unwrap(), [(id.clone(), kept)].into());
        }
        catalog.set_seed_goal(&other, half).await.unwrap();
        catalog.set_seed_goal(&other, SeedGoal::default()).await.unwrap();
        assert_eq!(catalog.seed_goals().await.unwrap().len(), 1);
        catalog.delete_import(&id).await.unwrap();
        assert!(catalog.seed_goals().await.unwrap().is_empty());
        let refused = catalog.set_seed_goal(&id, half).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::NotFound);
    }
}
