//! Imports from URLs: information about their servers, and the search by URL.

use super::{
    Catalog, ImportId, ImportRow,
    imports::{import_num, not_found, select, update},
    sql::{Sql, scalar, values},
    sql_int,
    wanted_counts::update_counts,
};
use crate::error::Result;

/// Makes an import at least `end` bytes long. An import whose length is unknown has no length at first, and grows with
/// its extents.
pub(super) fn grow_to(db: &dyn Sql, import: i64, end: u64) -> Result<()> {
    let end = sql_int(end)?;
    let sql = "UPDATE imports SET len = ?1 WHERE num = ?2 AND len < ?1";
    if db.execute(sql, values![end, import])? == 0 {
        return Ok(());
    }
    // The file that grows is the last one.
    let sql = "UPDATE files SET len = ?1 - start WHERE import = ?2
        AND idx = (SELECT max(idx) FROM files WHERE import = ?2)";
    db.execute(sql, values![end, import])?;
    update_counts(db, import)
}

impl Catalog {
    /// Information about the servers of a URL import, as set by the caller; `None` when there is none.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn source_record(&self, id: &ImportId) -> Result<Option<String>> {
        let query = "SELECT remote FROM imports WHERE id = ?";
        let id = id.clone();
        self.read(move |db| {
            scalar(db, query, values![id.as_str()])?.ok_or_else(|| not_found(id.as_str()))
        })
        .await
    }

    /// Replaces the value that [`Catalog::source_record`] returns.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn set_source_record(&self, id: &ImportId, record: Option<String>) -> Result<()> {
        let id = id.clone();
        let sql = "UPDATE imports SET remote = ? WHERE id = ?";
        self.write(move |c| update(c, sql, values![record.as_deref(), id.as_str()], &id)).await
    }

    /// The imports of a source without metainfo, in one storage, newest first. Includes kept ones, not those being
    /// removed.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn find_by_source(&self, source: &str, storage: &str) -> Result<Vec<ImportRow>> {
        let (source, storage) = (source.to_owned(), storage.to_owned());
        let condition = "state <> 'removing' AND source = ? AND storage = ?
            AND NOT EXISTS(SELECT 1 FROM metainfo WHERE import = num)";
        let mut found =
            self.read(move |c| select(c, condition, values![&source, &storage])).await?;
        found.reverse();
        Ok(found)
    }

    /// Sets the length of an import of one file, when it was unknown at the start.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn set_len(&self, id: &ImportId, len: u64) -> Result<()> {
        let (id, len) = (id.clone(), sql_int(len)?);
        self.write(move |db| {
            let num = import_num(db, &id)?;
            let sql = "UPDATE files SET len = ? WHERE import = ? AND idx = 0";
            db.execute(sql, values![len, num])?;
            let sql = "UPDATE imports SET len = ? WHERE num = ?";
            db.execute(sql, values![len, num])?;
            update_counts(db, num)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Extent, FileRow, NewImport};

    #[tokio::test]
    async fn an_import_of_unknown_length_grows_with_its_extents() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let file = |start, len| FileRow { path: format!("{start}"), start, len, pad: false };
        let new = NewImport { len: 4, files: vec![file(0, 4), file(4, 0)], ..NewImport::default() };
        let id = catalog.create_import(new).await.unwrap().id;
        let commit = async |range: std::ops::Range<u64>| {
            let len = range.end - range.start;
            let object = catalog.intend(&id, len, false).await.unwrap().num;
            catalog.commit_object(object, vec![Extent { range, object, offset: 0 }]).await.unwrap();
            let row = catalog.get(&id).await.unwrap();
            let files = catalog.files(&id).await.unwrap();
            (row.len, files[0].len, files[1].len, row.wanted.bytes)
        };
        assert_eq!(commit(0..4).await, (4, 4, 0, 4));
        assert_eq!(commit(8..9).await, (9, 4, 5, 9));
        // An object that becomes durable later does not shorten it.
        assert_eq!(commit(4..8).await, (9, 4, 5, 9));
    }

    #[tokio::test]
    async fn a_url_import_is_found_by_its_url_in_its_storage_only() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let file = FileRow { path: "f".into(), start: 0, len: 9, pad: false };
        let new = NewImport {
            name: "f".into(),
            source: "http://x/f".into(),
            storage: "file".into(),
            chunk_len: 1,
            len: 9,
            files: vec![file],
            source_record: Some("{}".into()),
            ..NewImport::default()
        };
        let torrent = NewImport { metainfo: vec![1], ..new.clone() };
        catalog.create_import(torrent).await.unwrap();
        let row = catalog.create_import(new).await.unwrap();
        let found = catalog.find_by_source("http://x/f", "file").await.unwrap();
        assert_eq!(found.iter().map(|row| &row.id).collect::<Vec<_>>(), [&row.id]);
        assert!(catalog.find_by_source("http://x/f", "other").await.unwrap().is_empty());
        assert_eq!(catalog.source_record(&row.id).await.unwrap().as_deref(), Some("{}"));
        catalog.set_source_record(&row.id, None).await.unwrap();
        assert_eq!(catalog.source_record(&row.id).await.unwrap(), None);
        catalog.set_len(&row.id, 4).await.unwrap();
        let len =
            (catalog.get(&row.id).await.unwrap().len, catalog.files(&row.id).await.unwrap()[0].len);
        assert_eq!(len, (4, 4));
    }
}
