//! Imports that come back from their manifests.

use std::ops::Range;

use rusqlite::{Connection, OptionalExtension, params};

use super::{
    Catalog, Extent, ImportId, ImportRow, ImportState, NewImport, ObjectNum, Role,
    imports::{import_num, insert_import, random_id},
    objects::insert_extents,
    sql_error, sql_int, sql_u64,
};
use crate::error::{Error, Kind, Result};

/// An import as its manifest tells it.
#[derive(Debug, Clone)]
pub struct Attached {
    /// Its id, unless another import has it.
    pub id: ImportId,
    pub new: NewImport,
    pub state: ImportState,
    /// Seconds since 1970.
    pub created_at: i64,
    pub completed_at: Option<i64>,
    /// Those that are there.
    pub objects: Vec<AttachedObject>,
    /// Key and length of every manifest of it; they go when it writes its own.
    pub manifests: Vec<(String, u64)>,
    /// The catalogs whose ids its keys begin with.
    pub catalogs: Vec<String>,
}

/// An object of such an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedObject {
    pub key: String,
    pub len: u64,
    pub role: Role,
    pub packed: bool,
    /// Each a range of the import, and where in the object it begins.
    pub extents: Vec<(Range<u64>, u64)>,
}

fn attach(connection: &Connection, own: &str, attached: &Attached) -> Result<ImportRow> {
    let taken = match import_num(connection, &attached.id) {
        Ok(_) => true,
        Err(e) if e.kind() == Kind::NotFound => false,
        Err(e) => return Err(e),
    };
    let id = if taken { random_id()? } else { attached.id.clone() };
    let storage = &attached.new.storage;
    let row = insert_import(connection, &id, &attached.new)?;
    let num = import_num(connection, &id)?;
    let (state, created) = (attached.state, attached.created_at);
    let sql = "UPDATE imports SET state = ?, created_at = ?, completed_at = ? WHERE num = ?";
    connection
        .execute(sql, params![state.as_str(), created, attached.completed_at, num])
        .map_err(sql_error)?;
    for object in &attached.objects {
        let object_num = insert_object(connection, num, object)?;
        let extent = |(range, offset): &(Range<u64>, u64)| Extent {
            range: range.clone(),
            object: object_num,
            offset: *offset,
        };
        insert_extents(connection, object_num, object.extents.iter().map(extent).collect())?;
    }
    for (key, len) in &attached.manifests {
        let (key, extents) = (key.clone(), Vec::new());
        let manifest =
            AttachedObject { key, len: *len, role: Role::Manifest, packed: false, extents };
        let object_num = insert_object(connection, num, &manifest)?;
        insert_extents(connection, object_num, Vec::new())?;
    }
    for catalog in attached.catalogs.iter().filter(|catalog| *catalog != own) {
        let sql = "INSERT OR IGNORE INTO adopted(storage, catalog) VALUES(?, ?)";
        connection.execute(sql, [storage, catalog]).map_err(sql_error)?;
    }
    let (created_at, completed_at) = (attached.created_at, attached.completed_at);
    Ok(ImportRow { state, created_at, completed_at, ..row })
}

fn insert_object(
    connection: &Connection,
    import: i64,
    object: &AttachedObject,
) -> Result<ObjectNum> {
    // In any storage: two may be one place.
    let query = "SELECT i.id FROM objects o JOIN imports i ON i.num = o.import
        WHERE o.key = ? LIMIT 1";
    let mut statement = connection.prepare_cached(query).map_err(sql_error)?;
    let other: Option<String> =
        statement.query_row([&object.key], |row| row.get(0)).optional().map_err(sql_error)?;
    if let Some(other) = other {
        let text = format!("object {:?} belongs to import {other}", object.key);
        return Err(Error::new(Kind::AlreadyExists, text));
    }
    let sql = "INSERT INTO objects(import, key, len, state, packed, role)
        VALUES(?, ?, ?, 'intent', ?, ?)";
    let mut statement = connection.prepare_cached(sql).map_err(sql_error)?;
    let AttachedObject { key, len, role, packed, .. } = object;
    let values = params![import, key, sql_int(*len)?, packed, role.as_str()];
    statement.insert(values).map(|num| ObjectNum(sql_u64(num))).map_err(sql_error)
}

impl Catalog {
    /// Records an import that was found in its storage, with its objects, in one transaction.
    ///
    /// # Errors
    /// `AlreadyExists` when another import has one of its objects.
    pub async fn attach_import(&self, attached: Attached) -> Result<ImportRow> {
        let own = self.inner.id.clone();
        self.write(move |connection| attach(connection, &own, &attached)).await
    }

    /// Never gives an object a number up to `seen`: keys with such numbers are in a storage already, of a newer
    /// catalog than this copy of it.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn skip_numbers(&self, seen: u64) -> Result<()> {
        let seen = sql_int(seen)?;
        self.write(move |connection| {
            let sql = "INSERT INTO sqlite_sequence(name, seq) SELECT 'objects', 0
                WHERE NOT EXISTS(SELECT 1 FROM sqlite_sequence WHERE name = 'objects')";
            connection.execute(sql, []).map_err(sql_error)?;
            let sql = "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'objects'";
            connection.execute(sql, [seen]).map(drop).map_err(sql_error)
        })
        .await
    }
}
