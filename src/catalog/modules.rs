//! Tables that other modules keep in the catalog, each with migrations of its own.
//!
//! A module registers a list of steps and adds them with [`Catalog::add_module`] when it starts. The table `migrations`
//! records each applied step. Steps only add: an older bae, and one without the module, ignore the tables that they do
//! not know.

use super::{
    Catalog,
    imports::now,
    sql::{Sql, scalar, values},
    sql_int,
};
use crate::{
    error::{Error, Kind, Result},
    hints::{Operation, hint},
};

/// A module with tables in the catalog.
#[derive(Debug)]
pub(crate) struct Module {
    /// Its tables' names begin with this name.
    pub(crate) name: &'static str,
    /// The statements of each step. Steps are never changed, only added. They use the types `BIGINT`, `TEXT` and `BLOB`.
    pub(crate) steps: &'static [&'static str],
}

impl Module {
    /// The number of steps that are applied.
    fn applied(&self, db: &dyn Sql) -> Result<usize> {
        let query = "SELECT count(*) FROM migrations WHERE module = ?1";
        let applied: u32 = scalar(db, query, values![self.name])?.unwrap_or(0);
        let applied = applied as usize;
        if applied <= self.steps.len() {
            return Ok(applied);
        }
        let text = format!("the tables of {} in the catalog have version {applied}", self.name);
        Err(Error::new(Kind::Unsupported, text)
            .hint("they were created by a newer bae: update bae"))
    }

    fn migrate(&self, db: &dyn Sql) -> Result<()> {
        for (number, step) in (1u64..).zip(self.steps).skip(self.applied(db)?) {
            db.execute_script(step)?;
            let sql = "INSERT INTO migrations(module, step, applied_at) VALUES(?1, ?2, ?3)";
            db.execute(sql, values![self.name, sql_int(number)?, now()])?;
        }
        Ok(())
    }
}

impl Catalog {
    /// Applies the steps of a module that the catalog lacks. Must be called before the module's tables are used.
    ///
    /// # Errors
    /// `Unsupported` when a newer bae has changed the module's tables, or when the catalog is open for reading only and
    /// lacks a step.
    pub(crate) async fn add_module(&self, module: &'static Module) -> Result<()> {
        let applied = self.read(move |db| module.applied(db)).await?;
        if applied == module.steps.len() {
            return Ok(());
        }
        if !self.inner.is_writable() {
            let text = format!("the catalog lacks tables of {}", module.name);
            return Err(Error::new(Kind::Unsupported, text).hint(hint![
                "run an operation that writes, such as ",
                Operation::FindLeftovers,
                ", to add them",
            ]));
        }
        self.write(move |db| module.migrate(db)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Module = Module {
        name: "testing",
        steps: &["CREATE TABLE testing_items(name TEXT PRIMARY KEY);
            INSERT INTO testing_items VALUES('a')"],
    };
    static OLD: Module = FIRST;
    static NEW: Module = Module {
        name: "testing",
        steps: &[
            FIRST.steps[0],
            "ALTER TABLE testing_items ADD COLUMN size BIGINT NOT NULL DEFAULT 7",
        ],
    };
    static BROKEN: Module =
        Module { name: "broken", steps: &["CREATE TABLE broken_a(x BIGINT); no statement"] };

    #[tokio::test]
    async fn each_module_migrates_its_own_tables_once() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let reader = Catalog::open_read_only(dir.path()).await.unwrap();
        assert_eq!(reader.add_module(&OLD).await.unwrap_err().kind(), Kind::Unsupported);
        for module in [&OLD, &OLD, &NEW, &NEW] {
            catalog.add_module(module).await.unwrap();
        }
        reader.add_module(&NEW).await.unwrap();
        let size =
            catalog.read(|db| scalar::<i64>(db, "SELECT size FROM testing_items", values![]));
        assert_eq!(size.await.unwrap(), Some(7));
        let refused = catalog.add_module(&OLD).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported);
        assert!(refused.hint_text().unwrap().contains("update bae"));
        assert!(catalog.add_module(&BROKEN).await.is_err());
        let table =
            catalog.read(|db| scalar::<i64>(db, "SELECT count(*) FROM broken_a", values![]));
        assert!(table.await.is_err(), "a failed step leaves no table");
    }
}
