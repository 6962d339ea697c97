//! Objects that are whole files. Their keys are file names, which may collide, and they take over extents of other
//! objects.

use std::ops::Range;

use super::{
    Catalog, Encoding, Extent, ImportId, ObjectNum, ObjectRow, ObjectState, Role,
    extents::{cut_range, insert_extent},
    imports::import_num,
    objects::{COLUMNS, NewObject, insert_object, intended_object, object_row, select_object},
    partial_uploads::{delete_uploaded, uploaded_range},
    release::release_unused,
    sql::{Sql, scalar, select, values},
    sql_int,
};
use crate::{
    content_root::{Root, root_of_chunks},
    error::{Error, Kind, Result},
};

/// The result of a named intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedIntent {
    pub row: ObjectRow,
    /// Whether the name was recorded by this call. Otherwise an earlier try recorded it, and the object may be
    /// stored.
    pub is_new: bool,
}

fn intend_named(
    db: &dyn Sql,
    import: &ImportId,
    (key, len, role): (&str, u64, Role),
) -> Result<NamedIntent> {
    let num = import_num(db, import)?;
    // Keys must be unique within one storage.
    let query = format!(
        "{COLUMNS} WHERE o.key = ?1
        AND i.storage = (SELECT storage FROM imports WHERE num = ?2)"
    );
    let found = select(db, &query, values![key, num], object_row)?;
    if let Some(other) = found.iter().find(|row| row.home != *import || row.role != role) {
        let text = format!("object {key:?} exists already, in import {}", other.home);
        return Err(Error::new(Kind::AlreadyExists, text));
    }
    if found.iter().any(|row| row.state == ObjectState::Dying) {
        let text = format!("the earlier object {key:?} is being deleted");
        return Err(Error::new(Kind::Unavailable, text));
    }
    if let Some(row) = found.into_iter().find(|row| row.len == len) {
        return Ok(NamedIntent { row, is_new: false });
    }
    let encoding = Encoding::default();
    let (home, packed, root) = (num, false, None);
    let new = NewObject { home, key, len, role, packed, encoding: &encoding, root };
    let new = insert_object(db, &new)?;
    Ok(NamedIntent { row: intended_object(db, new)?, is_new: true })
}

/// The content root of a whole file, from those of the chunks that held it. `None` when they were other chunks than those
/// of the file, or have no roots.
fn root_of_file(
    db: &dyn Sql,
    import: i64,
    cut: &[Extent],
    range: &Range<u64>,
) -> Result<Option<Root>> {
    let chunk_len: Option<u64> =
        scalar(db, "SELECT chunk_len FROM imports WHERE num = ?", values![import])?;
    let (Some(chunk_len), mut at, mut roots) = (chunk_len, range.start, Vec::new()) else {
        return Ok(None);
    };
    for extent in cut {
        let chunk = at..at.saturating_add(chunk_len).min(range.end);
        let object = select_object(db, extent.object)?;
        let object = object.filter(|object| object.len == chunk.end - chunk.start);
        let root = object.and_then(|object| object.root);
        let Some(root) = root.filter(|_| extent.range == chunk && extent.offset == 0) else {
            return Ok(None);
        };
        roots.push(root);
        at = chunk.end;
    }
    Ok(match &roots[..] {
        _ if at != range.end => None,
        [] => None,
        [only] => Some(*only),
        _ => root_of_chunks(roots, chunk_len),
    })
}

/// Checks that `cut` together with the bytes already sent covers all of `range`, and that the object is exactly as
/// long. A whole file is made of stored bytes only.
fn check_covers(
    cut: &[Extent],
    sent: &Range<u64>,
    range: &Range<u64>,
    row: &ObjectRow,
) -> Result<()> {
    let first = if sent.start == range.start { sent.end } else { range.start };
    let end = cut.iter().try_fold(first, |position, e| {
        (e.range.start <= position).then_some(position.max(e.range.end))
    });
    let covered = range.is_empty() || end.is_some_and(|end| end >= range.end);
    if covered && range.end - range.start == row.len {
        return Ok(());
    }
    let text = format!("object {} does not cover {}..{}", row.num.0, range.start, range.end);
    Err(Error::new(Kind::Internal, text))
}

fn commit_whole_file(db: &dyn Sql, num: ObjectNum, range: &Range<u64>) -> Result<Vec<ObjectRow>> {
    let row = intended_object(db, num)?;
    row.check_alive()?;
    if row.is_stored() {
        // The answer to an earlier call was lost. The objects it freed are dying by now.
        return Ok(Vec::new());
    }
    let import = import_num(db, &row.home)?;
    let cut = if range.is_empty() { Vec::new() } else { cut_range(db, import, range)? };
    let sent = uploaded_range(db, sql_int(num.0)?, range.start)?;
    check_covers(&cut, &sent, range, &row)?;
    delete_uploaded(db, sql_int(num.0)?)?;
    if !range.is_empty() {
        let whole = Extent { range: range.clone(), object: num, offset: 0 };
        insert_extent(db, import, &whole)?;
    }
    let root = root_of_file(db, import, &cut, range)?;
    let sql = "UPDATE objects SET state = 'stored', root = ? WHERE num = ?";
    db.execute(sql, values![root.as_ref(), sql_int(num.0)?])?;
    let mut old: Vec<ObjectNum> = cut.iter().map(|extent| extent.object).collect();
    old.sort_unstable();
    old.dedup();
    release_unused(db, old)
}

impl Catalog {
    /// Reserves `key`, a file name, for an object about to be made, or finds the reservation that this import already
    /// has.
    ///
    /// # Errors
    /// `AlreadyExists` when another object of this storage has the key; `Unavailable` while an earlier object of the
    /// import under this key is being deleted; `NotFound` when the import does not exist.
    pub async fn intend_named(
        &self,
        import: &ImportId,
        key: &str,
        len: u64,
        role: Role,
    ) -> Result<NamedIntent> {
        let (import, key) = (import.clone(), key.to_owned());
        self.write(move |db| intend_named(db, &import, (&key, len, role))).await
    }

    /// Records in one transaction that the object `num` is stored and holds `range` of its import, which other
    /// objects held before. Objects without extents are dying then and are returned, to be deleted. Adopted objects
    /// are only forgotten.
    ///
    /// # Errors
    /// `NotFound` when it was never intended; `Internal` when part of `range` is not stored.
    pub async fn commit_whole_file(
        &self,
        num: ObjectNum,
        range: Range<u64>,
    ) -> Result<Vec<ObjectRow>> {
        self.write(move |db| commit_whole_file(db, num, &range)).await
    }

    /// Whether another import in the same storage has an object under `top`: a folder with its `/`, or a key.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn is_used_by_others(&self, import: &ImportId, top: &str) -> Result<bool> {
        let (import, top) = (import.clone(), top.to_owned());
        let query = "SELECT 1 FROM objects o JOIN imports i ON i.num = o.home
            WHERE i.num <> ?1 AND i.storage = (SELECT storage FROM imports WHERE num = ?1)
            AND (o.key = ?2 OR ?3 = 1 AND substr(o.key, 1, length(?2)) = ?2) LIMIT 1";
        self.read(move |db| {
            let num = import_num(db, &import)?;
            let values = values![num, &top, top.ends_with('/')];
            scalar::<i64>(db, query, values).map(|found| found.is_some())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::NewImport;

    async fn rig() -> (tempfile::TempDir, Catalog, ImportId) {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let id = import(&catalog).await;
        (dir, catalog, id)
    }

    async fn import(catalog: &Catalog) -> ImportId {
        let new = NewImport { len: 100, storage: "file".into(), ..NewImport::default() };
        catalog.create_import(new).await.unwrap().id
    }

    async fn stored(catalog: &Catalog, id: &ImportId, runs: &[Range<u64>]) -> ObjectNum {
        let len = runs.iter().map(|run| run.end - run.start).sum();
        let object = catalog.intend(id, len, false).await.unwrap().num;
        let mut offset = 0;
        let extent = |range: &Range<u64>| {
            let extent = Extent { range: range.clone(), object, offset };
            offset += range.end - range.start;
            extent
        };
        catalog.commit_object(object, runs.iter().map(extent).collect()).await.unwrap();
        object
    }

    #[tokio::test]
    async fn a_whole_file_replaces_the_extents_of_its_range_only() {
        let (_dir, catalog, id) = rig().await;
        let shared = stored(&catalog, &id, &[0..30, 60..70]).await;
        let inside = stored(&catalog, &id, std::slice::from_ref(&(30..60))).await;
        let named = catalog.intend_named(&id, "x/a", 50, Role::File).await.unwrap();
        assert!(named.is_new && !named.row.is_stored());
        let again = catalog.intend_named(&id, "x/a", 50, Role::File).await.unwrap();
        assert_eq!((again.is_new, &again.row), (false, &named.row));
        let num = named.row.num;
        assert!(catalog.commit_whole_file(num, 20..60).await.is_err(), "the object is longer");
        let freed = catalog.commit_whole_file(num, 15..65).await.unwrap();
        assert_eq!(freed.iter().map(|row| row.num).collect::<Vec<_>>(), [inside]);
        assert_eq!(catalog.leftover_intents().await.unwrap(), freed);
        let of = |range, object, offset| Extent { range, object, offset };
        let expected = [of(0..15, shared, 0), of(15..65, num, 0), of(65..70, shared, 35)];
        assert_eq!(catalog.extents(&id).await.unwrap(), expected);
        assert_eq!(
            catalog.commit_whole_file(num, 15..65).await.unwrap(),
            [],
            "repeating it succeeds"
        );
        catalog.drop_objects(vec![inside]).await.unwrap();
        assert_eq!(catalog.objects(&id).await.unwrap().len(), 2);
        let rest = catalog.intend_named(&id, "x/b", 15, Role::File).await.unwrap().row.num;
        assert_eq!(
            catalog.commit_whole_file(rest, 0..15).await.unwrap(),
            [],
            "its other extent remains"
        );
    }

    #[tokio::test]
    async fn a_whole_file_with_holes_is_refused_and_an_empty_one_is_stored() {
        let (_dir, catalog, id) = rig().await;
        stored(&catalog, &id, &[0..30, 40..70]).await;
        for range in [20..50, 60..80, 30..40] {
            let len = range.end - range.start;
            let key = format!("x/{}", range.start);
            let num = catalog.intend_named(&id, &key, len, Role::File).await.unwrap().row.num;
            assert_eq!(
                catalog.commit_whole_file(num, range).await.unwrap_err().kind(),
                Kind::Internal
            );
        }
        assert_eq!(
            catalog.extents(&id).await.unwrap().len(),
            2,
            "a refused commit changes nothing"
        );
        let empty = catalog.intend_named(&id, "x/empty", 0, Role::File).await.unwrap().row.num;
        assert_eq!(catalog.commit_whole_file(empty, 35..35).await.unwrap(), []);
        assert!(
            catalog
                .objects(&id)
                .await
                .unwrap()
                .iter()
                .any(|row| row.num == empty && row.is_stored())
        );
    }

    #[tokio::test]
    async fn a_key_belongs_to_one_import_in_a_storage() {
        let (_dir, catalog, id) = rig().await;
        let other = import(&catalog).await;
        catalog.intend_named(&id, "x/a", 5, Role::File).await.unwrap();
        let refused = catalog.intend_named(&other, "x/a", 5, Role::File).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::AlreadyExists);
        for (top, taken) in
            [("x/", true), ("x/a", true), ("x", false), ("x/b", false), ("y/", false)]
        {
            assert_eq!(catalog.is_used_by_others(&other, top).await.unwrap(), taken, "{top}");
        }
        assert!(!catalog.is_used_by_others(&id, "x/").await.unwrap());
    }
}
