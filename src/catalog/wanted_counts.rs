//! Counts of an import's wanted files, for listings. Updated when they change, not whenever they are read.

use rusqlite::{Connection, params};

use super::{
    Catalog, ImportId, ImportState,
    imports::{now, update},
    sql_error, sql_int,
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

/// One statement for all files, one for a selection. The latter looks up each selected file by its key, so its time
/// is linear in their number and not quadratic.
const COUNTS: [&str; 2] = [
    "UPDATE imports SET wanted_stored = NULL, (wanted_files, wanted_bytes) = (
        SELECT count(*), coalesce(sum(len), 0) FROM files WHERE import = imports.num AND NOT pad
    ) WHERE num = ? AND selected IS NULL",
    "UPDATE imports SET wanted_stored = NULL, (wanted_files, wanted_bytes) = (
        SELECT count(*), coalesce(sum(len), 0) FROM json_each(imports.selected) AS chosen
        CROSS JOIN files ON import = imports.num AND idx = chosen.value AND NOT pad
    ) WHERE num = ? AND selected IS NOT NULL",
];

/// Counts an import's wanted files again.
pub(super) fn update_counts(connection: &Connection, import: i64) -> Result<()> {
    COUNTS.iter().try_for_each(|sql| {
        let mut statement = connection.prepare_cached(sql).map_err(sql_error)?;
        statement.execute([import]).map(drop).map_err(sql_error)
    })
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
        self.write(move |c| update(c, sql, params![state, now(), stored, id.as_str()], &id)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{FileRow, NewImport};

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
    /// The steps that SQLite takes to count `files` files, of which all but one are selected.
    fn steps(files: u32) -> i32 {
        let mut connection = Connection::open_in_memory().unwrap();
        crate::catalog::schema::prepare(&mut connection, std::path::Path::new("memory")).unwrap();
        let selected: Vec<u32> = (1..files).collect();
        let file = |n: u32| FileRow { path: n.to_string(), start: n.into(), len: 1, pad: false };
        let new = NewImport {
            len: files.into(),
            files: (0..files).map(file).collect(),
            selected: Some(selected),
            ..NewImport::default()
        };
        let id = "0000abcd".parse().unwrap();
        let row = crate::catalog::imports::insert_import(&connection, &id, &new).unwrap();
        assert_eq!(row.wanted.files, u64::from(files) - 1);
        let mut statement = connection.prepare(COUNTS[1]).unwrap();
        statement.execute([1]).unwrap();
        statement.get_status(rusqlite::StatementStatus::VmStep)
    }

    #[test]
    fn counting_a_selection_is_linear_in_its_files() {
        let (few, many) = (steps(500), steps(4000));
        assert!(many < few * 10, "{few} steps for 500 files, {many} for 4000");
    }
}
