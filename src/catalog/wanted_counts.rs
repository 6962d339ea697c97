//! Counts of an import's wanted files, for listings. Updated when they change, not whenever they are read.

use std::collections::HashSet;

use super::{
    Catalog, ImportId, ImportState,
    imports::{now, update},
    sql::{Sql, first, values},
    sql_int,
};
use crate::error::Result;

/// Counts of an import's wanted files, without padding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WantedCounts {
    pub files: u64,
    pub bytes: u64,
    /// Bytes stored when it was last complete, in whole pieces, so with a selection they may be more than `bytes`.
    /// `None` when they were not counted since the selection changed.
    pub stored: Option<u64>,
}

/// Counts an import's wanted files again, in one pass over its files.
pub(super) fn update_counts(db: &dyn Sql, import: i64) -> Result<()> {
    let query = "SELECT selected FROM imports WHERE num = ?";
    let selected = first(db, query, values![import], |row| match row.get::<Option<String>>(0)? {
        None => Ok(None),
        Some(_) => row.parsed(0, |text| serde_json::from_str(text).ok()).map(Some),
    });
    let selected: Option<HashSet<u32>> = selected?.flatten();
    let (mut files, mut bytes) = (0i64, 0i64);
    let query = "SELECT idx, len FROM files WHERE import = ? AND pad = 0";
    db.query(query, values![import], &mut |row| {
        let (index, len) = (row.get::<u32>(0)?, row.get::<i64>(1)?);
        if selected.as_ref().is_none_or(|selected| selected.contains(&index)) {
            files += 1;
            bytes += len;
        }
        Ok(())
    })?;
    let sql = "UPDATE imports SET wanted_stored = NULL, wanted_files = ?, wanted_bytes = ?
        WHERE num = ?";
    db.execute(sql, values![files, bytes, import]).map(drop)
}

impl Catalog {
    /// Sets the state to [`ImportState::Imported`]. `stored` is the bytes of its wanted pieces.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn set_imported(&self, id: &ImportId, stored: u64) -> Result<()> {
        let (id, stored) = (id.clone(), sql_int(stored)?);
        let sql = "UPDATE imports SET state = ?, completed_at = coalesce(completed_at, ?),
            wanted_stored = ? WHERE id = ?";
        let state = ImportState::Imported.as_str();
        self.write(move |c| update(c, sql, values![state, now(), stored, id.as_str()], &id)).await
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::catalog::{
        FileRow, NewImport,
        sql::{Row, Value},
    };

    #[tokio::test]
    async fn counts_follow_the_selection_and_the_length() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let file = |start, len, pad| FileRow { path: format!("{start}"), start, len, pad };
        let files =
            vec![file(0, 10, false), file(10, 6, true), file(16, 0, false), file(16, 5, false)];
        let new = NewImport { len: 21, files, ..NewImport::default() };
        let row = catalog.create_import(new).await.unwrap();
        let all = WantedCounts { files: 3, bytes: 15, stored: None };
        assert_eq!(row.wanted, all);
        let now = async || catalog.get(&row.id).await.unwrap().wanted;
        catalog.set_imported(&row.id, 15).await.unwrap();
        assert_eq!(now().await, WantedCounts { stored: Some(15), ..all });
        catalog.set_selected(&row.id, Some(vec![1, 3])).await.unwrap();
        assert_eq!(now().await, WantedCounts { files: 1, bytes: 5, stored: None });
        catalog.set_selected(&row.id, None).await.unwrap();
        catalog.set_len(&row.id, 4).await.unwrap();
        assert_eq!(now().await, WantedCounts { bytes: 9, ..all });
    }

    /// Counts the statements and rows that pass through it.
    struct Counting<'a>(&'a dyn Sql, Cell<usize>);

    impl Sql for Counting<'_> {
        fn execute(&self, statement: &str, values: &[Value<'_>]) -> Result<usize> {
            self.1.set(self.1.get() + 1);
            self.0.execute(statement, values)
        }

        fn query(
            &self,
            query: &str,
            values: &[Value<'_>],
            each: &mut dyn FnMut(&Row<'_>) -> Result<()>,
        ) -> Result<()> {
            self.0.query(query, values, &mut |row| {
                self.1.set(self.1.get() + 1);
                each(row)
            })
        }

        fn execute_script(&self, script: &str) -> Result<()> {
            self.0.execute_script(script)
        }

        fn skip_numbers(&self, table: &str, seen: i64) -> Result<()> {
            self.0.skip_numbers(table, seen)
        }
    }

    /// The statements and rows that it takes to count `files` files, of which all but one are selected.
    async fn steps(files: u32) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let file = |n: u32| FileRow { path: n.to_string(), start: n.into(), len: 1, pad: false };
        let new = NewImport {
            len: files.into(),
            files: (0..files).map(file).collect(),
            selected: Some((1..files).collect()),
            ..NewImport::default()
        };
        let row = catalog.create_import(new).await.unwrap();
        assert_eq!(row.wanted.files, u64::from(files) - 1);
        let count = |db: &dyn Sql| {
            let counting = Counting(db, Cell::new(0));
            update_counts(&counting, 1)?;
            Ok(counting.1.get())
        };
        catalog.write(count).await.unwrap()
    }

    #[tokio::test]
    async fn counting_a_selection_is_linear_in_its_files() {
        let (few, many) = (steps(500).await, steps(4000).await);
        assert!(many < few * 10, "{few} steps for 500 files, {many} for 4000");
    }
}
