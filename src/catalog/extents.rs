//! Extents: the references of imports to objects. An object lives while an extent refers to it.

use std::ops::Range;

use super::{
    Catalog, ImportId, ObjectNum, ObjectRow, Role,
    imports::import_num,
    objects::{COLUMNS, intended_object, object_row},
    sql::{Row, Sql, scalar, select, values},
    sql_int,
    url_imports::grow_to,
};
use crate::{
    content_root::Root,
    error::{Error, Kind, Result},
};

/// A range of an import and its location: in `object`, starting at `offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    pub range: Range<u64>,
    pub object: ObjectNum,
    pub offset: u64,
}

impl Extent {
    /// The parts of this extent outside `range`: at most one before and one after it.
    pub(crate) fn without(&self, range: &Range<u64>) -> Vec<Extent> {
        let Range { start, end } = self.range;
        let parts = [start..end.min(range.start), start.max(range.end)..end];
        let part = |part: Range<u64>| Extent {
            offset: self.offset + (part.start - start),
            range: part,
            object: self.object,
        };
        parts.into_iter().filter(|part| part.start < part.end).map(part).collect()
    }
}

const EXTENTS: &str = r#"SELECT start, "end", object, "offset" FROM extents"#;

fn extent_row(row: &Row<'_>) -> Result<Extent> {
    let range = row.get(0)?..row.get(1)?;
    Ok(Extent { range, object: ObjectNum(row.get(2)?), offset: row.get(3)? })
}

/// The extents of an import, by position.
pub(super) fn select_extents(db: &dyn Sql, import: i64) -> Result<Vec<Extent>> {
    let query = format!("{EXTENTS} WHERE import = ? ORDER BY start");
    select(db, &query, values![import], extent_row)
}

/// The extents of an import in one object, by position.
fn extents_in(db: &dyn Sql, import: i64, object: ObjectNum) -> Result<Vec<Extent>> {
    let query = format!("{EXTENTS} WHERE object = ? AND import = ? ORDER BY start");
    select(db, &query, values![sql_int(object.0)?, import], extent_row)
}

/// The objects of other homes that an import refers to.
pub(super) fn referred_objects(db: &dyn Sql, import: i64) -> Result<Vec<ObjectRow>> {
    let query = format!(
        "{COLUMNS} WHERE o.num IN (SELECT object FROM extents WHERE import = ?1) AND o.home <> ?1"
    );
    select(db, &query, values![import], object_row)
}

/// Marks the object as stored, with its first extents, which are of its home.
pub(super) fn insert_extents(
    db: &dyn Sql,
    num: ObjectNum,
    extents: Vec<Extent>,
    root: Option<&Root>,
) -> Result<()> {
    let object = intended_object(db, num)?;
    object.check_alive()?;
    let home = import_num(db, &object.home)?;
    refer(db, home, &object, extents)?;
    if object.is_stored() {
        return Ok(());
    }
    let sql = "UPDATE objects SET state = 'stored', root = coalesce(?, root) WHERE num = ?";
    db.execute(sql, values![root, sql_int(num.0)?]).map(drop)
}

/// Adds the extents of an import in an object. If it has some in a stored object already, they must be the same: the
/// answer to an earlier call was lost.
fn refer(db: &dyn Sql, import: i64, object: &ObjectRow, mut extents: Vec<Extent>) -> Result<()> {
    extents.sort_unstable_by_key(|extent| extent.range.start);
    let before = match object.is_stored() {
        true => extents_in(db, import, object.num)?,
        false => Vec::new(),
    };
    if !before.is_empty() || object.is_stored() && extents.is_empty() {
        if before == extents {
            return Ok(());
        }
        let text = format!("object {} has other extents already", object.num.0);
        return Err(Error::new(Kind::AlreadyExists, text));
    }
    for extent in &extents {
        check_extent(db, import, extent, object)?;
        insert_extent(db, import, extent)?;
    }
    extents.last().map_or(Ok(()), |last| grow_to(db, import, last.range.end))
}

pub(super) fn insert_extent(db: &dyn Sql, import: i64, extent: &Extent) -> Result<()> {
    let sql =
        r#"INSERT INTO extents(import, start, "end", object, "offset") VALUES(?, ?, ?, ?, ?)"#;
    let (start, end) = (sql_int(extent.range.start)?, sql_int(extent.range.end)?);
    let values = values![import, start, end, sql_int(extent.object.0)?, sql_int(extent.offset)?];
    db.execute(sql, values).map(drop)
}

/// Refuses an extent that is empty, not inside its object, or overlaps another one.
fn check_extent(db: &dyn Sql, import: i64, extent: &Extent, object: &ObjectRow) -> Result<()> {
    let Extent { range, object: num, offset } = extent;
    let inside = range.end.checked_sub(range.start).and_then(|len| len.checked_add(*offset));
    let fits =
        *num == object.num && !range.is_empty() && inside.is_some_and(|end| end <= object.len);
    // Extents do not overlap, so it is enough to check the last one that starts before this one's end.
    let query =
        r#"SELECT "end" FROM extents WHERE import = ? AND start < ? ORDER BY start DESC LIMIT 1"#;
    let before: Option<u64> = scalar(db, query, values![import, sql_int(range.end)?])?;
    if fits && before.is_none_or(|end| end <= range.start) {
        return Ok(());
    }
    let reason = if fits { "overlaps another" } else { "is not inside its object" };
    let text = format!("extent {}..{} of object {} {reason}", range.start, range.end, num.0);
    Err(Error::new(Kind::Internal, text))
}

/// Removes `range` from the extents of the import, and returns these extents as they were.
pub(super) fn cut_range(db: &dyn Sql, import: i64, range: &Range<u64>) -> Result<Vec<Extent>> {
    // Extents do not overlap, so of those that start before the range only the last can reach into it.
    let query = format!(
        r#"{EXTENTS} WHERE import = ?1 AND start < ?3 AND "end" > ?2 AND start >= coalesce(
            (SELECT max(start) FROM extents WHERE import = ?1 AND start <= ?2), 0)
        ORDER BY start"#
    );
    let (start, end) = (sql_int(range.start)?, sql_int(range.end)?);
    let cut = select(db, &query, values![import, start, end], extent_row)?;
    for extent in &cut {
        let sql = "DELETE FROM extents WHERE import = ? AND start = ?";
        db.execute(sql, values![import, sql_int(extent.range.start)?])?;
        for rest in extent.without(range) {
            insert_extent(db, import, &rest)?;
        }
    }
    Ok(cut)
}

impl Catalog {
    /// The extents of an import, by position.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn extents(&self, import: &ImportId) -> Result<Vec<Extent>> {
        let import = import.clone();
        self.read(move |db| select_extents(db, import_num(db, &import)?)).await
    }

    /// Adds extents of an import in the object `num`, which another import of the same storage has stored. From then on
    /// the object lives until both have removed theirs. Repeating it with the same extents succeeds.
    ///
    /// # Errors
    /// `NotFound` when there is no such object or import; `Changed` when the object is being deleted; `InvalidInput`
    /// when it is not a stored chunk of the import's storage; otherwise as [`Catalog::commit_object`].
    pub async fn share_object(
        &self,
        import: &ImportId,
        num: ObjectNum,
        extents: Vec<Extent>,
    ) -> Result<()> {
        let import = import.clone();
        self.write(move |db| share(db, import_num(db, &import)?, num, extents)).await
    }
}

/// As [`Catalog::share_object`].
pub(super) fn share(db: &dyn Sql, import: i64, num: ObjectNum, extents: Vec<Extent>) -> Result<()> {
    let object = intended_object(db, num)?;
    object.check_alive()?;
    let query = "SELECT 1 FROM objects o JOIN storages s ON s.num = o.storage
        JOIN imports i ON i.storage = s.name WHERE o.num = ? AND i.num = ?";
    let is_here = scalar::<i64>(db, query, values![sql_int(num.0)?, import])?.is_some();
    if !object.is_stored() || !is_here || object.role != Role::Chunk {
        let text = format!("object {} is no stored chunk of the same storage", object.key);
        return Err(Error::new(Kind::InvalidInput, text));
    }
    refer(db, import, &object, extents)
}
