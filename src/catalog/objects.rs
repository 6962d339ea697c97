//! Objects, and the extents that refer to them.

use std::ops::Range;

use super::{
    Catalog, ImportId,
    imports::import_num,
    random_hex,
    sql::{Row, Sql, first, scalar, select, values},
    sql_int,
    url_imports::grow_to,
};
use crate::error::{Error, Kind, Result};

/// The number of an object. Never reused within a catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectNum(pub u64);

/// A range of an import and its location: in `object`, starting at `offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    pub range: Range<u64>,
    pub object: ObjectNum,
    pub offset: u64,
}

/// What an object contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Bytes of its import, under a key chosen by bae.
    Chunk,
    /// A whole file of its import, under the file's own name.
    File,
    /// No bytes of its import, but the information to restore it without this catalog.
    Manifest,
    /// Bytes of its import in an object that belongs to the user. Read in place, never written and never deleted.
    Adopted,
}

impl Role {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chunk => "chunk",
            Self::File => "file",
            Self::Manifest => "manifest",
            Self::Adopted => "adopted",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let all = [Self::Chunk, Self::File, Self::Manifest, Self::Adopted];
        all.into_iter().find(|role| role.as_str() == text)
    }
}

/// An object as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRow {
    pub num: ObjectNum,
    pub import: ImportId,
    /// For a chunk `<catalog id>/<import id>/<number>-<random>`: the number as 8 or more hexadecimal digits, and 16
    /// random ones, so that a catalog that was restored to an earlier state does not use a key again. For a manifest
    /// the number has the prefix `manifest-`.
    pub key: String,
    pub role: Role,
    pub len: u64,
    /// Whether the put was acknowledged and the extents were committed. Otherwise only the intent is recorded.
    pub stored: bool,
    /// Whether it holds parts of several chunks instead of one whole chunk.
    pub packed: bool,
}

pub(super) const COLUMNS: &str = "SELECT o.num, i.id, o.key, o.len, o.state, o.packed, o.role
    FROM objects o JOIN imports i ON i.num = o.import";

pub(super) fn object_row(row: &Row<'_>) -> Result<ObjectRow> {
    Ok(ObjectRow {
        num: ObjectNum(row.get(0)?),
        import: row.parsed(1, |text| text.parse().ok())?,
        key: row.get(2)?,
        len: row.get(3)?,
        stored: row.get::<String>(4)? == "stored",
        packed: row.get(5)?,
        role: row.parsed(6, Role::parse)?,
    })
}

/// The columns of [`extent_row`].
pub(super) const EXTENTS: &str = r#"SELECT start, "end", object, "offset" FROM extents"#;

pub(super) fn extent_row(row: &Row<'_>) -> Result<Extent> {
    let range = row.get(0)?..row.get(1)?;
    let object = ObjectNum(row.get(2)?);
    Ok(Extent { range, object, offset: row.get(3)? })
}

/// The objects of an import, including intents.
pub(super) fn select_objects(db: &dyn Sql, import: &ImportId) -> Result<Vec<ObjectRow>> {
    let query = format!("{COLUMNS} WHERE i.id = ? ORDER BY o.num");
    select(db, &query, values![import.as_str()], object_row)
}

/// The extents of an import, by position.
pub(super) fn select_extents(db: &dyn Sql, import: i64) -> Result<Vec<Extent>> {
    let query = format!("{EXTENTS} WHERE import = ? ORDER BY start");
    select(db, &query, values![import], extent_row)
}

fn extents_of_object(db: &dyn Sql, object: i64) -> Result<Vec<Extent>> {
    let query = format!("{EXTENTS} WHERE object = ? ORDER BY start");
    select(db, &query, values![object], extent_row)
}

pub(super) fn insert_intent(
    db: &dyn Sql,
    catalog_id: &str,
    import: &ImportId,
    (len, packed, role): (u64, bool, Role),
) -> Result<ObjectRow> {
    let import_num = import_num(db, import)?;
    // The key contains the number, which the insert returns. It stays empty until the update in the same transaction.
    let sql = "INSERT INTO objects(import, key, len, state, packed, role)
        VALUES(?, '', ?, 'intent', ?, ?) RETURNING num";
    let values = values![import_num, sql_int(len)?, packed, role.as_str()];
    let num: Option<u64> = scalar(db, sql, values)?;
    let num = num.ok_or_else(|| Error::new(Kind::Internal, "the object was not recorded"))?;
    let prefix = if role == Role::Manifest { "manifest-" } else { "" };
    let random = random_hex::<8>()?;
    let key = format!("{catalog_id}/{import}/{prefix}{num:08x}-{random}");
    db.execute("UPDATE objects SET key = ? WHERE num = ?", values![&key, sql_int(num)?])?;
    let num = ObjectNum(num);
    Ok(ObjectRow { num, import: import.clone(), key, role, len, stored: false, packed })
}

pub(super) fn insert_extents(db: &dyn Sql, num: ObjectNum, mut extents: Vec<Extent>) -> Result<()> {
    let object = sql_int(num.0)?;
    let query = "SELECT import, len, state FROM objects WHERE num = ?";
    let columns = |row: &Row<'_>| {
        Ok((row.get::<i64>(0)?, row.get::<u64>(1)?, row.get::<String>(2)? == "stored"))
    };
    let found = first(db, query, values![object], columns)?;
    let (import, len, stored) = found
        .ok_or_else(|| Error::new(Kind::NotFound, format!("object {} has no intent", num.0)))?;
    extents.sort_unstable_by_key(|extent| extent.range.start);
    if stored {
        // The answer to an earlier commit was lost. The same extents again are accepted.
        if extents_of_object(db, object)? == extents {
            return Ok(());
        }
        let text = format!("object {} has other extents already", num.0);
        return Err(Error::new(Kind::AlreadyExists, text));
    }
    for extent in &extents {
        check_extent(db, import, extent, num, len)?;
        insert_extent(db, import, extent)?;
    }
    if let Some(last) = extents.last() {
        grow_to(db, import, last.range.end)?;
    }
    let sql = "UPDATE objects SET state = 'stored' WHERE num = ?";
    db.execute(sql, values![object]).map(drop)
}

pub(super) fn insert_extent(db: &dyn Sql, import: i64, extent: &Extent) -> Result<()> {
    let sql =
        r#"INSERT INTO extents(import, start, "end", object, "offset") VALUES(?, ?, ?, ?, ?)"#;
    let (start, end) = (sql_int(extent.range.start)?, sql_int(extent.range.end)?);
    let values = values![import, start, end, sql_int(extent.object.0)?, sql_int(extent.offset)?];
    db.execute(sql, values).map(drop)
}

/// Refuses an extent that is empty, not inside its object, or overlaps another one.
fn check_extent(
    db: &dyn Sql,
    import: i64,
    extent: &Extent,
    num: ObjectNum,
    object_len: u64,
) -> Result<()> {
    let Extent { range, object, offset } = extent;
    let inside = range.end.checked_sub(range.start).and_then(|len| len.checked_add(*offset));
    let fits = *object == num && !range.is_empty() && inside.is_some_and(|end| end <= object_len);
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

/// Turns those of `objects` that have no extents left into intents and returns them, to be deleted. Adopted objects
/// belong to the user: their rows are deleted at once, so that the objects never are.
pub(super) fn release_unused(
    db: &dyn Sql,
    objects: impl IntoIterator<Item = ObjectNum>,
) -> Result<Vec<ObjectRow>> {
    let mut freed = Vec::new();
    for object in objects {
        let object = sql_int(object.0)?;
        let empty = "num = ?1 AND NOT EXISTS(SELECT 1 FROM extents WHERE object = ?1)";
        let sql = format!("DELETE FROM objects WHERE {empty} AND role = 'adopted'");
        db.execute(&sql, values![object])?;
        let sql = format!("UPDATE objects SET state = 'intent' WHERE {empty}");
        if db.execute(&sql, values![object])? > 0 {
            let query = format!("{COLUMNS} WHERE o.num = ?");
            freed.extend(select(db, &query, values![object], object_row)?);
        }
    }
    Ok(freed)
}

impl Catalog {
    /// Keys of stored objects in a storage, to check whether the storage has them: up to 16 of the oldest and 16 of
    /// the newest.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn sample_keys(&self, storage: &str) -> Result<Vec<String>> {
        let some = |order: &str| {
            format!(
                "SELECT * FROM (SELECT o.key FROM objects o JOIN imports i ON i.num = o.import
                WHERE i.storage = ?1 AND o.state = 'stored' AND i.state <> 'removing'
                ORDER BY o.num {order} LIMIT 16)"
            )
        };
        let query = format!("{} UNION {}", some("DESC"), some("ASC"));
        let storage = storage.to_owned();
        self.read(move |db| select(db, &query, values![&storage], |row| row.get(0))).await
    }

    /// Reserves a key for an object of `len` bytes that is about to be put.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn intend(&self, import: &ImportId, len: u64, packed: bool) -> Result<ObjectRow> {
        let rows = self.intend_many(import, vec![(len, packed)]).await?;
        let row = rows.into_iter().next();
        row.ok_or_else(|| Error::new(Kind::Internal, "the intent was not recorded"))
    }

    /// As [`Catalog::intend`] for several objects, each given as `(len, packed)`, in one transaction.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn intend_many(
        &self,
        import: &ImportId,
        objects: Vec<(u64, bool)>,
    ) -> Result<Vec<ObjectRow>> {
        let (id, import) = (self.id().to_owned(), import.clone());
        self.write(move |db| {
            let intent =
                |(len, packed)| insert_intent(db, &id, &import, (len, packed, Role::Chunk));
            objects.into_iter().map(intent).collect()
        })
        .await
    }

    /// Records in one transaction that the object is stored, and its extents. Repeating it with the same extents
    /// succeeds.
    ///
    /// # Errors
    /// `NotFound` when it was never intended; `Internal` when an extent overlaps another or is not inside the object;
    /// `AlreadyExists` when it was committed with other extents.
    pub async fn commit_object(&self, num: ObjectNum, extents: Vec<Extent>) -> Result<()> {
        self.write(move |db| insert_extents(db, num, extents)).await
    }

    /// Deletes the rows of an object and its extents. Succeeds when there are none.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn drop_object(&self, num: ObjectNum) -> Result<()> {
        let num = sql_int(num.0)?;
        let sql = "DELETE FROM objects WHERE num = ?";
        self.write(move |c| c.execute(sql, values![num]).map(drop)).await
    }

    /// The objects of an import, including intents.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn objects(&self, import: &ImportId) -> Result<Vec<ObjectRow>> {
        let import = import.clone();
        self.read(move |db| select_objects(db, &import)).await
    }

    /// The extents of an import, by position.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn extents(&self, import: &ImportId) -> Result<Vec<Extent>> {
        let import = import.clone();
        self.read(move |db| select_extents(db, import_num(db, &import)?)).await
    }

    /// The keys of all stored objects, of every import and storage.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn all_keys(&self) -> Result<Vec<String>> {
        let query = "SELECT key FROM objects WHERE state = 'stored'";
        self.read(move |db| select(db, query, values![], |row| row.get(0))).await
    }

    /// Objects that were intended and are not committed: puts in progress, puts cut short by a crash, and objects to
    /// be deleted.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn leftover_intents(&self) -> Result<Vec<ObjectRow>> {
        let query = format!("{COLUMNS} WHERE o.state = 'intent' ORDER BY o.num");
        self.read(move |db| select(db, &query, values![], object_row)).await
    }
}
