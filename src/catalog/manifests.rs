//! The manifest objects, from which an import is restored when this catalog is lost.
//!
//! A key is written once, so each new manifest is a new object. The previous one is marked as dying in the
//! transaction that records the new one, so that it is deleted even after a crash.

use super::{
    Catalog, ImportId, ObjectNum, ObjectRow, Role,
    imports::import_num,
    objects::{COLUMNS, insert_intent, intended_object, object_row},
    sql::{scalar, select, values},
    sql_int,
};
use crate::error::{Error, Kind, Result};

impl Catalog {
    /// Reserves a key for a manifest of `len` bytes that is about to be put.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn intend_manifest(&self, import: &ImportId, len: u64) -> Result<ObjectRow> {
        let (id, import) = (self.id().to_owned(), import.clone());
        self.write(move |db| insert_intent(db, &id, &import, (len, false, Role::Manifest))).await
    }

    /// Records that the manifest `num` is stored, and the digest of its content. All other manifests of its import
    /// are dying then and are returned, to be deleted. Repeating the call succeeds.
    ///
    /// # Errors
    /// `NotFound` when it was never intended.
    pub async fn commit_manifest(&self, num: ObjectNum, digest: String) -> Result<Vec<ObjectRow>> {
        let num = sql_int(num.0)?;
        self.write(move |db| {
            let query = "SELECT home FROM objects WHERE num = ? AND role = 'manifest'";
            let import: Option<i64> = scalar(db, query, values![num])?;
            let no_intent = || Error::new(Kind::NotFound, format!("manifest {num} has no intent"));
            let import = import.ok_or_else(no_intent)?;
            intended_object(db, ObjectNum(num.unsigned_abs()))?.check_alive()?;
            let sql = "UPDATE objects SET state = CASE num WHEN ?1 THEN 'stored' ELSE 'dying' END
                WHERE home = ?2 AND role = 'manifest'";
            db.execute(sql, values![num, import])?;
            let sql = "UPDATE imports SET manifest = ? WHERE num = ?";
            db.execute(sql, values![&digest, import])?;
            let query = format!(
                "{COLUMNS} WHERE o.home = ? AND o.role = 'manifest' AND o.num <> ? ORDER BY o.num"
            );
            select(db, &query, values![import, num], object_row)
        })
        .await
    }

    /// The objects of an import that other imports refer to as well.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn shared_objects(&self, import: &ImportId) -> Result<Vec<ObjectNum>> {
        let query = "SELECT DISTINCT e.object FROM extents e JOIN extents other
            ON other.object = e.object AND other.import <> e.import WHERE e.import = ?";
        let import = import.clone();
        self.read(move |db| {
            let num = import_num(db, &import)?;
            select(db, query, values![num], |row| row.get(0).map(ObjectNum))
        })
        .await
    }

    /// The digest of the stored manifest's content; `None` when an import has none.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn manifest_digest(&self, import: &ImportId) -> Result<Option<String>> {
        let query = "SELECT i.manifest FROM imports i WHERE i.id = ? AND EXISTS(
            SELECT 1 FROM objects WHERE home = i.num AND role = 'manifest' AND state = 'stored')";
        let import = import.clone();
        self.read(move |db| scalar(db, query, values![import.as_str()]).map(Option::flatten)).await
    }
}
