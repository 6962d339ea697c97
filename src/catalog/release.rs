//! The end of objects: what no extent refers to any more is marked as dying, then deleted, then its row is.

use super::{
    Catalog, ImportId, ObjectNum, ObjectRow, Role,
    imports::import_num,
    objects::{COLUMNS, drop_objects, object_row, select_object},
    sql::{Sql, select, values},
    sql_int,
};
use crate::error::{Kind, Result};

/// Marks those of `objects` that have no extents left as dying and returns them, to be deleted. Adopted objects belong
/// to the user: their rows are deleted at once, so that the objects never are. An object that its home does not refer
/// to any more goes to one of the imports that do.
pub(super) fn release_unused(
    db: &dyn Sql,
    objects: impl IntoIterator<Item = ObjectNum>,
) -> Result<Vec<ObjectRow>> {
    let mut freed = Vec::new();
    for num in objects {
        let object = sql_int(num.0)?;
        let unused = "num = ?1 AND NOT EXISTS(SELECT 1 FROM extents WHERE object = ?1)";
        let sql = format!("DELETE FROM objects WHERE {unused} AND role = 'adopted'");
        db.execute(&sql, values![object])?;
        let sql = format!("UPDATE objects SET state = 'dying' WHERE {unused}");
        if db.execute(&sql, values![object])? > 0 {
            freed.extend(select_object(db, num)?);
            continue;
        }
        let sql = "UPDATE objects SET home = (SELECT min(import) FROM extents WHERE object = ?1)
            WHERE num = ?1 AND NOT EXISTS(
                SELECT 1 FROM extents WHERE object = ?1 AND import = objects.home)";
        db.execute(sql, values![object])?;
    }
    Ok(freed)
}

/// Removes all extents of an import, and marks its objects that no other import refers to as dying, its intents and
/// manifests too. Returns all of its dying objects.
fn release_import(db: &dyn Sql, import: i64) -> Result<Vec<ObjectRow>> {
    let query = "SELECT num FROM objects WHERE home = ?1
        UNION SELECT object FROM extents WHERE import = ?1";
    let objects = select(db, query, values![import], |row| row.get(0).map(ObjectNum))?;
    db.execute("DELETE FROM extents WHERE import = ?", values![import])?;
    release_unused(db, objects)?;
    let query = format!("{COLUMNS} WHERE o.home = ? AND o.state = 'dying' ORDER BY o.num");
    select(db, &query, values![import], object_row)
}

/// Marks those of `objects` that are not stored as dying. Returns all that are dying then.
fn mark_dying(db: &dyn Sql, objects: &[ObjectNum]) -> Result<Vec<ObjectRow>> {
    let mut dying = Vec::new();
    for num in objects {
        let sql = "UPDATE objects SET state = 'dying'
            WHERE num = ? AND state = 'intent' AND role <> 'adopted'";
        db.execute(sql, values![sql_int(num.0)?])?;
        let is_ours = |object: &ObjectRow| object.role != Role::Adopted;
        let found = select_object(db, *num)?.filter(|object| object.check_alive().is_err());
        dying.extend(found.filter(is_ours));
    }
    Ok(dying)
}

impl Catalog {
    /// Gives up those of `objects` that were intended and are not stored, so that no put that is still in flight can be
    /// committed. Returns these and those that were dying already: they may be deleted now. Adopted objects are never
    /// among them.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn mark_dying(&self, objects: Vec<ObjectNum>) -> Result<Vec<ObjectRow>> {
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        self.write(move |db| mark_dying(db, &objects)).await
    }

    /// Removes the extents of an import. Returns its objects that no import refers to any more, to be deleted. Objects
    /// of the user are only forgotten. Can be repeated.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn release_import(&self, import: &ImportId) -> Result<Vec<ObjectRow>> {
        let import = import.clone();
        self.write(move |db| release_import(db, import_num(db, &import)?)).await
    }

    /// Deletes the rows of an import, its files and extents, and its objects that no other import refers to. Succeeds
    /// when it does not exist.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn delete_import(&self, id: &ImportId) -> Result<()> {
        let id = id.clone();
        self.write(move |db| {
            let import = match import_num(db, &id) {
                Err(e) if e.kind() == Kind::NotFound => return Ok(()),
                num => num?,
            };
            let dying = release_import(db, import)?;
            drop_objects(db, &dying.iter().map(|object| object.num).collect::<Vec<_>>())?;
            db.execute("DELETE FROM imports WHERE num = ?", values![import]).map(drop)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Extent, NewImport};

    async fn rig() -> (tempfile::TempDir, Catalog, [ImportId; 2]) {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let new = || NewImport { len: 100, storage: "file".into(), ..NewImport::default() };
        let a = catalog.create_import(new()).await.unwrap().id;
        let b = catalog.create_import(new()).await.unwrap().id;
        (dir, catalog, [a, b])
    }

    fn extent(object: ObjectNum) -> Extent {
        Extent { range: 10..40, object, offset: 5 }
    }

    /// An object of `a` that `b` refers to as well.
    async fn shared(catalog: &Catalog, [a, b]: &[ImportId; 2]) -> ObjectRow {
        let object = catalog.intend(a, 50, false).await.unwrap();
        let early = catalog.share_object(b, object.num, vec![extent(object.num)]).await;
        assert_eq!(early.unwrap_err().kind(), Kind::InvalidInput, "it is not stored yet");
        catalog.commit_object(object.num, vec![extent(object.num)]).await.unwrap();
        for _ in 0..2 {
            catalog.share_object(b, object.num, vec![extent(object.num)]).await.unwrap();
        }
        let objects = catalog.objects(b).await.unwrap();
        assert_eq!(objects, catalog.objects(a).await.unwrap());
        objects.into_iter().next().unwrap()
    }

    #[tokio::test]
    async fn a_shared_object_lives_until_both_imports_are_removed_in_each_order() {
        for first in [0, 1] {
            let (_dir, catalog, ids) = rig().await;
            let object = shared(&catalog, &ids).await;
            let other = 1 - first;
            assert_eq!(catalog.release_import(&ids[first]).await.unwrap(), []);
            catalog.delete_import(&ids[first]).await.unwrap();
            let left = catalog.objects(&ids[other]).await.unwrap();
            assert!(left.len() == 1 && left[0].is_stored() && left[0].key == object.key);
            assert_eq!(left[0].home, ids[other], "its home is an import that exists");
            assert_eq!(catalog.extents(&ids[other]).await.unwrap(), [extent(object.num)]);
            let freed = catalog.release_import(&ids[other]).await.unwrap();
            assert_eq!(freed.iter().map(|object| object.num).collect::<Vec<_>>(), [object.num]);
            assert_eq!(catalog.release_import(&ids[other]).await.unwrap(), freed);
            catalog.delete_import(&ids[other]).await.unwrap();
            assert_eq!(catalog.leftover_intents().await.unwrap(), []);
        }
    }

    #[tokio::test]
    async fn dying_is_final() {
        let (_dir, catalog, [a, b]) = rig().await;
        let object = shared(&catalog, &[a.clone(), b.clone()]).await.num;
        let holes = || std::iter::once(0..100).collect::<Vec<_>>();
        assert_eq!(catalog.punch_holes(&a, holes()).await.unwrap(), []);
        assert_eq!(catalog.punch_holes(&b, holes()).await.unwrap().len(), 1);
        let intent = catalog.intend(&a, 50, false).await.unwrap().num;
        assert_eq!(catalog.mark_dying(vec![object, intent]).await.unwrap().len(), 2);
        for num in [object, intent] {
            let extents = vec![extent(num)];
            for refused in [
                catalog.share_object(&b, num, extents.clone()).await,
                catalog.commit_object(num, extents).await,
                catalog.commit_whole_file(num, 10..60).await.map(drop),
            ] {
                let refused = refused.unwrap_err();
                assert_eq!(refused.kind(), Kind::Changed, "{}", refused.report());
                assert!(refused.report().contains("is being deleted"), "{}", refused.report());
            }
        }
        assert!(catalog.extents(&a).await.unwrap().is_empty());
        catalog.drop_objects(vec![object, intent]).await.unwrap();
        assert_eq!(catalog.mark_dying(vec![object, intent]).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_stored_object_is_not_marked_and_other_storages_are_not_shared() {
        let (_dir, catalog, [a, b]) = rig().await;
        let object = shared(&catalog, &[a, b]).await.num;
        assert_eq!(catalog.mark_dying(vec![object]).await.unwrap(), []);
        let new = NewImport { len: 100, storage: "other".into(), ..NewImport::default() };
        let elsewhere = catalog.create_import(new).await.unwrap().id;
        let refused = catalog.share_object(&elsewhere, object, vec![extent(object)]).await;
        assert_eq!(refused.unwrap_err().kind(), Kind::InvalidInput);
    }
}
