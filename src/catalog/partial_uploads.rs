//! Ranges sent into uploads that are not finished: the server has the bytes, but they are not readable yet.
//!
//! Parts are sent in order, so each object has one such range, which starts at the object's first byte.

use std::{collections::HashMap, ops::Range};

use super::{
    Catalog, ImportId, ObjectNum, ObjectRow,
    objects::{COLUMNS, object_row},
    sql::{Row, Sql, first, select, values},
    sql_int,
};
use crate::error::{Error, Kind, Result};

fn set_uploaded(db: &dyn Sql, num: ObjectNum, range: &Range<u64>) -> Result<()> {
    let object = sql_int(num.0)?;
    if range.is_empty() {
        return delete_uploaded(db, object);
    }
    let sql = r#"INSERT INTO streamed(object, start, "end")
        SELECT num, ?2, ?3 FROM objects WHERE num = ?1 AND state = 'intent'
        ON CONFLICT(object) DO UPDATE SET start = excluded.start, "end" = excluded."end""#;
    let values = values![object, sql_int(range.start)?, sql_int(range.end)?];
    match db.execute(sql, values)? {
        0 => Err(Error::new(Kind::NotFound, format!("object {object} has no intent"))),
        _ => Ok(()),
    }
}

pub(super) fn delete_uploaded(db: &dyn Sql, object: i64) -> Result<()> {
    let sql = "DELETE FROM streamed WHERE object = ?";
    db.execute(sql, values![object]).map(drop)
}

/// The range of the import that was sent into `object`; empty at `start` when nothing was sent.
pub(super) fn uploaded_range(db: &dyn Sql, object: i64, start: u64) -> Result<Range<u64>> {
    let query = r#"SELECT start, "end" FROM streamed WHERE object = ?"#;
    let range = |row: &Row<'_>| Ok(row.get(0)?..row.get(1)?);
    let found = first(db, query, values![object], range)?;
    Ok(found.unwrap_or(start..start))
}

/// The intended objects of an import into which bytes were sent, with their ranges.
pub(super) fn select_partial_uploads(
    db: &dyn Sql,
    import: &ImportId,
) -> Result<Vec<(ObjectRow, Range<u64>)>> {
    let query = r#"SELECT s.object, s.start, s."end" FROM streamed s
        JOIN objects o ON o.num = s.object JOIN imports i ON i.num = o.home WHERE i.id = ?"#;
    let ranges = select(db, query, values![import.as_str()], |row| {
        let num = ObjectNum(row.get(0)?);
        Ok((num, row.get(1)?..row.get(2)?))
    })?;
    let mut ranges: HashMap<_, _> = ranges.into_iter().collect();
    let query =
        format!("{COLUMNS} JOIN streamed s ON s.object = o.num WHERE i.id = ? ORDER BY s.start");
    let objects = select(db, &query, values![import.as_str()], object_row)?;
    let with_range = |object: ObjectRow| Some((object.clone(), ranges.remove(&object.num)?));
    Ok(objects.into_iter().filter_map(with_range).collect())
}

/// Deletes the entries of uploads that contain bytes of `ranges`. These bytes are bad, so the uploads are unusable.
pub(super) fn discard_uploaded(db: &dyn Sql, import: i64, ranges: &[Range<u64>]) -> Result<()> {
    let sql = r#"DELETE FROM streamed WHERE start < ?3 AND "end" > ?2
        AND object IN (SELECT num FROM objects WHERE home = ?1)"#;
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        let values = values![import, sql_int(range.start)?, sql_int(range.end)?];
        db.execute(sql, values)?;
    }
    Ok(())
}

impl Catalog {
    /// Records that `range` of its import was sent into the upload of the intended object `num`, starting at the
    /// object's first byte. An empty range means that nothing sent is valid any more.
    ///
    /// # Errors
    /// `NotFound` when there is no such intent.
    pub async fn set_uploaded(&self, num: ObjectNum, range: Range<u64>) -> Result<()> {
        self.write(move |db| set_uploaded(db, num, &range)).await
    }

    /// The intended objects of an import into which bytes were sent, with their ranges.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn partial_uploads(&self, import: &ImportId) -> Result<Vec<(ObjectRow, Range<u64>)>> {
        let import = import.clone();
        self.read(move |db| select_partial_uploads(db, &import)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Extent, NewImport, Role};

    #[tokio::test]
    async fn a_whole_file_covers_uploaded_bytes_and_bytes_in_chunks() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let new = NewImport { len: 100, storage: "file".into(), ..NewImport::default() };
        let id = catalog.create_import(new).await.unwrap().id;
        let file = catalog.intend_named(&id, "x/a", 80, Role::File).await.unwrap().row;
        catalog.set_uploaded(file.num, 10..30).await.unwrap();
        catalog.set_uploaded(file.num, 10..50).await.unwrap();
        assert_eq!(catalog.partial_uploads(&id).await.unwrap(), [(file.clone(), 10..50)]);
        assert!(catalog.commit_whole_file(file.num, 10..90).await.is_err(), "50..90 is not stored");
        // The chunk overlaps the sent range, as after a read-back.
        let chunk = catalog.intend(&id, 60, false).await.unwrap();
        let extent = Extent { range: 40..100, object: chunk.num, offset: 0 };
        catalog.commit_object(chunk.num, vec![extent]).await.unwrap();
        assert_eq!(catalog.commit_whole_file(file.num, 10..90).await.unwrap(), []);
        let ranges: Vec<_> =
            catalog.extents(&id).await.unwrap().into_iter().map(|e| e.range).collect();
        assert_eq!(ranges, [10..90, 90..100]);
        assert_eq!(catalog.partial_uploads(&id).await.unwrap(), []);
        let refused = catalog.set_uploaded(file.num, 10..20).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::NotFound, "a stored object accepts no upload");
    }

    #[tokio::test]
    async fn bad_and_dropped_uploads_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let new = NewImport { len: 100, storage: "file".into(), ..NewImport::default() };
        let id = catalog.create_import(new).await.unwrap().id;
        let intend = async |name: &str| {
            catalog.intend_named(&id, name, 50, Role::File).await.unwrap().row.num
        };
        let (a, b) = (intend("x/a").await, intend("x/b").await);
        catalog.set_uploaded(a, 0..20).await.unwrap();
        catalog.set_uploaded(b, 50..70).await.unwrap();
        catalog.punch_holes(&id, vec![20..50, 19..19]).await.unwrap();
        assert_eq!(catalog.partial_uploads(&id).await.unwrap().len(), 2);
        catalog.punch_holes(&id, std::iter::once(19..25).collect()).await.unwrap();
        assert_eq!(catalog.partial_uploads(&id).await.unwrap().len(), 1);
        catalog.drop_objects(vec![b]).await.unwrap();
        assert_eq!(catalog.partial_uploads(&id).await.unwrap(), []);
    }
}
