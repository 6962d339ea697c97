//! Objects, and the extents that refer to them.

use std::ops::Range;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    Catalog, ImportId, imports::import_num, random_hex, sql_error, sql_int, sql_u64,
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

pub(super) const COLUMNS: &str =
    "SELECT o.num, i.id, o.key, o.len, o.state = 'stored', o.packed, o.role
    FROM objects o JOIN imports i ON i.num = o.import";

pub(super) fn object_row(row: &Row<'_>) -> rusqlite::Result<ObjectRow> {
    let id: String = row.get(1)?;
    let role: String = row.get(6)?;
    Ok(ObjectRow {
        num: ObjectNum(sql_u64(row.get(0)?)),
        import: id.parse().map_err(|_| rusqlite::Error::InvalidQuery)?,
        key: row.get(2)?,
        len: sql_u64(row.get(3)?),
        stored: row.get(4)?,
        packed: row.get(5)?,
        role: Role::parse(&role).ok_or(rusqlite::Error::InvalidQuery)?,
    })
}

pub(super) fn extent_row(row: &Row<'_>) -> rusqlite::Result<Extent> {
    let range = sql_u64(row.get(0)?)..sql_u64(row.get(1)?);
    let object = ObjectNum(sql_u64(row.get(2)?));
    Ok(Extent { range, object, offset: sql_u64(row.get(3)?) })
}

pub(super) fn select<T>(
    connection: &Connection,
    query: &str,
    values: impl rusqlite::Params,
    row: fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let mut statement = connection.prepare_cached(query).map_err(sql_error)?;
    let rows = statement.query_map(values, row).map_err(sql_error)?;
    rows.collect::<rusqlite::Result<_>>().map_err(sql_error)
}

/// The objects of an import, including intents.
pub(super) fn select_objects(connection: &Connection, import: &ImportId) -> Result<Vec<ObjectRow>> {
    let query = format!("{COLUMNS} WHERE i.id = ? ORDER BY o.num");
    select(connection, &query, [import.as_str()], object_row)
}

/// The extents of an import, by position.
pub(super) fn select_extents(connection: &Connection, import: i64) -> Result<Vec<Extent>> {
    let query = "SELECT start, end, object, offset FROM extents WHERE import = ? ORDER BY start";
    select(connection, query, [import], extent_row)
}

fn extents_of_object(connection: &Connection, object: i64) -> Result<Vec<Extent>> {
    let query = "SELECT start, end, object, offset FROM extents WHERE object = ? ORDER BY start";
    select(connection, query, [object], extent_row)
}

pub(super) fn insert_intent(
    connection: &Connection,
    catalog_id: &str,
    import: &ImportId,
    (len, packed, role): (u64, bool, Role),
) -> Result<ObjectRow> {
    let import_num = import_num(connection, import)?;
    // The key contains the number, which the insert returns. It stays empty until the update in the same transaction.
    let sql = "INSERT INTO objects(import, key, len, state, packed, role)
        VALUES(?, '', ?, 'intent', ?, ?)";
    let mut statement = connection.prepare_cached(sql).map_err(sql_error)?;
    let values = params![import_num, sql_int(len)?, packed, role.as_str()];
    let num = statement.insert(values).map_err(sql_error)?;
    let prefix = if role == Role::Manifest { "manifest-" } else { "" };
    let random = random_hex::<8>()?;
    let key = format!("{catalog_id}/{import}/{prefix}{num:08x}-{random}");
    let mut statement =
        connection.prepare_cached("UPDATE objects SET key = ? WHERE num = ?").map_err(sql_error)?;
    statement.execute(params![key, num]).map_err(sql_error)?;
    let num = ObjectNum(sql_u64(num));
    Ok(ObjectRow { num, import: import.clone(), key, role, len, stored: false, packed })
}

pub(super) fn insert_extents(
    connection: &Connection,
    num: ObjectNum,
    mut extents: Vec<Extent>,
) -> Result<()> {
    let object = sql_int(num.0)?;
    let query = "SELECT import, len, state = 'stored' FROM objects WHERE num = ?";
    let columns =
        |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, sql_u64(row.get(1)?), row.get::<_, bool>(2)?));
    let found = connection.query_row(query, [object], columns).optional().map_err(sql_error)?;
    let (import, len, stored) = found
        .ok_or_else(|| Error::new(Kind::NotFound, format!("object {} has no intent", num.0)))?;
    extents.sort_unstable_by_key(|extent| extent.range.start);
    if stored {
        // The answer to an earlier commit was lost. The same extents again are accepted.
        if extents_of_object(connection, object)? == extents {
            return Ok(());
        }
        let text = format!("object {} has other extents already", num.0);
        return Err(Error::new(Kind::AlreadyExists, text));
    }
    for extent in &extents {
        check_extent(connection, import, extent, num, len)?;
        let sql = "INSERT INTO extents(import, start, end, object, offset) VALUES(?, ?, ?, ?, ?)";
        let mut statement = connection.prepare_cached(sql).map_err(sql_error)?;
        let (start, end) = (sql_int(extent.range.start)?, sql_int(extent.range.end)?);
        let values = params![import, start, end, object, sql_int(extent.offset)?];
        statement.execute(values).map_err(sql_error)?;
    }
    if let Some(last) = extents.last() {
        grow_to(connection, import, last.range.end)?;
    }
    let sql = "UPDATE objects SET state = 'stored' WHERE num = ?";
    connection.execute(sql, [object]).map(drop).map_err(sql_error)
}

/// Refuses an extent that is empty, not inside its object, or overlaps another one.
fn check_extent(
    connection: &Connection,
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
        "SELECT end FROM extents WHERE import = ? AND start < ? ORDER BY start DESC LIMIT 1";
    let mut statement = connection.prepare_cached(query).map_err(sql_error)?;
    let before: Option<i64> = statement
        .query_row(params![import, sql_int(range.end)?], |row| row.get(0))
        .optional()
        .map_err(sql_error)?;
    if fits && before.is_none_or(|end| sql_u64(end) <= range.start) {
        return Ok(());
    }
    let reason = if fits { "overlaps another" } else { "is not inside its object" };
    let text = format!("extent {}..{} of object {} {reason}", range.start, range.end, num.0);
    Err(Error::new(Kind::Internal, text))
}

/// Turns those of `objects` that have no extents left into intents and returns them, to be deleted. Adopted objects
/// belong to the user: their rows are deleted at once, so that the objects never are.
pub(super) fn release_unused(
    connection: &Connection,
    objects: impl IntoIterator<Item = ObjectNum>,
) -> Result<Vec<ObjectRow>> {
    let mut freed = Vec::new();
    for object in objects {
        let object = sql_int(object.0)?;
        let empty = "num = ?1 AND NOT EXISTS(SELECT 1 FROM extents WHERE object = ?1)";
        let sql = format!("DELETE FROM objects WHERE {empty} AND role = 'adopted'");
        connection.execute(&sql, [object]).map_err(sql_error)?;
        let sql = format!("UPDATE objects SET state = 'intent' WHERE {empty}");
        if connection.execute(&sql, [object]).map_err(sql_error)? > 0 {
            let query = format!("{COLUMNS} WHERE o.num = ?");
            freed.extend(select(connection, &query, [object], object_row)?);
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
        self.read(move |connection| select(connection, &query, [storage], |row| row.get(0))).await
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
        let (id, import) = (self.inner.id.clone(), import.clone());
        self.write(move |connection| {
            let intent =
                |(len, packed)| insert_intent(connection, &id, &import, (len, packed, Role::Chunk));
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
        self.write(move |connection| insert_extents(connection, num, extents)).await
    }

    /// Deletes the rows of an object and its extents. Succeeds when there are none.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn drop_object(&self, num: ObjectNum) -> Result<()> {
        let num = sql_int(num.0)?;
        let sql = "DELETE FROM objects WHERE num = ?";
        self.write(move |c| c.execute(sql, [num]).map(drop).map_err(sql_error)).await
    }

    /// The objects of an import, including intents.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn objects(&self, import: &ImportId) -> Result<Vec<ObjectRow>> {
        let import = import.clone();
        self.read(move |connection| select_objects(connection, &import)).await
    }

    /// The extents of an import, by position.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn extents(&self, import: &ImportId) -> Result<Vec<Extent>> {
        let import = import.clone();
        self.read(move |connection| select_extents(connection, import_num(connection, &import)?))
            .await
    }

    /// The keys of all stored objects, of every import and storage.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn all_keys(&self) -> Result<Vec<String>> {
        let query = "SELECT key FROM objects WHERE state = 'stored'";
        self.read(move |connection| select(connection, query, [], |row| row.get(0))).await
    }

    /// Objects that were intended and are not committed: puts in progress, puts cut short by a crash, and objects to
    /// be deleted.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn leftover_intents(&self) -> Result<Vec<ObjectRow>> {
        let query = format!("{COLUMNS} WHERE o.state = 'intent' ORDER BY o.num");
        self.read(move |connection| select(connection, &query, [], object_row)).await
    }
}
