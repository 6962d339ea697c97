//! Objects: immutable bytes in a storage, which any number of extents may refer to.
//!
//! An object belongs to its storage. Its *home* is the import that it was put for, whose folder is in its key; other
//! imports of the storage may refer to it too. States go one way: an intent becomes stored or dying, a stored object
//! without extents becomes dying. Dying is final: no extent refers to the object again, it is deleted, and then its row.

use super::{
    Catalog, ImportId,
    extents::{insert_extents, referred_objects},
    imports::import_num,
    random_hex,
    sql::{Row, Sql, scalar, select, values},
    sql_int,
};
use crate::{
    content_root::Root,
    error::{Error, Kind, Result},
};

pub use super::extents::Extent;

/// The number of an object. Never reused within a catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectNum(pub u64);

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

/// How far an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectState {
    /// Its put was not acknowledged yet.
    Intent,
    /// Its put was acknowledged and its extents are committed.
    Stored,
    /// To be deleted; nothing refers to it, and nothing ever will.
    Dying,
}

impl ObjectState {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "intent" => Some(Self::Intent),
            "stored" => Some(Self::Stored),
            "dying" => Some(Self::Dying),
            _ => None,
        }
    }
}

/// How the bytes of an object are encoded in the storage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// 0 for plain bytes, the only one that this version reads.
    pub format: u32,
    /// What a reader needs besides the key, for formats that encrypt.
    pub header: Option<Vec<u8>>,
}

/// An object as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRow {
    pub num: ObjectNum,
    /// The import that it was put for.
    pub home: ImportId,
    /// For a chunk `<catalog id>/<home>/<number>-<random>`: the number as 8 or more hexadecimal digits, and 16
    /// random ones, so that a catalog that was restored to an earlier state does not use a key again. For a manifest
    /// the number has the prefix `manifest-`.
    pub key: String,
    pub role: Role,
    pub len: u64,
    pub state: ObjectState,
    /// Whether it holds parts of several chunks instead of one whole chunk.
    pub packed: bool,
    pub encoding: Encoding,
    /// The content root, where it is known: of a whole chunk, or of a whole file.
    pub root: Option<Root>,
}

impl ObjectRow {
    /// Whether its bytes can be read.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.state == ObjectState::Stored
    }

    /// Refuses an object that is being deleted.
    pub(super) fn check_alive(&self) -> Result<()> {
        if self.state != ObjectState::Dying {
            return Ok(());
        }
        Err(Error::new(Kind::Changed, format!("object {} is being deleted", self.key)))
    }
}

pub(super) const COLUMNS: &str = "SELECT o.num, i.id, o.key, o.len, o.state, o.packed, o.role,
    o.format, o.header, o.root FROM objects o JOIN imports i ON i.num = o.home";

pub(super) fn object_row(row: &Row<'_>) -> Result<ObjectRow> {
    Ok(ObjectRow {
        num: ObjectNum(row.get(0)?),
        home: row.parsed(1, |text| text.parse().ok())?,
        key: row.get(2)?,
        len: row.get(3)?,
        state: row.parsed(4, ObjectState::parse)?,
        packed: row.get(5)?,
        role: row.parsed(6, Role::parse)?,
        encoding: Encoding { format: row.get(7)?, header: row.get(8)? },
        root: row.get(9)?,
    })
}

/// The object with this number.
pub(super) fn select_object(db: &dyn Sql, num: ObjectNum) -> Result<Option<ObjectRow>> {
    let query = format!("{COLUMNS} WHERE o.num = ?");
    Ok(select(db, &query, values![sql_int(num.0)?], object_row)?.pop())
}

/// As [`select_object`], of an object that was intended.
pub(super) fn intended_object(db: &dyn Sql, num: ObjectNum) -> Result<ObjectRow> {
    let none = || Error::new(Kind::NotFound, format!("object {} has no intent", num.0));
    select_object(db, num)?.ok_or_else(none)
}

/// The objects whose home is the import, including intents, and those of others that it refers to.
pub(super) fn select_objects(db: &dyn Sql, import: i64) -> Result<Vec<ObjectRow>> {
    let query = format!("{COLUMNS} WHERE o.home = ? ORDER BY o.num");
    let mut objects = select(db, &query, values![import], object_row)?;
    let others = referred_objects(db, import)?;
    if !others.is_empty() {
        objects.extend(others);
        objects.sort_unstable_by_key(|object| object.num);
    }
    Ok(objects)
}

/// A new object, not stored yet.
pub(super) struct NewObject<'a> {
    /// The number of the import that it is put for.
    pub(super) home: i64,
    pub(super) key: &'a str,
    pub(super) len: u64,
    pub(super) role: Role,
    pub(super) packed: bool,
    pub(super) encoding: &'a Encoding,
    pub(super) root: Option<&'a Root>,
}

pub(super) fn insert_object(db: &dyn Sql, object: &NewObject<'_>) -> Result<ObjectNum> {
    let NewObject { home, key, len, role, packed, encoding, root } = object;
    let sql =
        "INSERT INTO objects(storage, home, key, len, state, packed, role, format, header, root)
        SELECT s.num, i.num, ?2, ?3, 'intent', ?4, ?5, ?6, ?7, ?8
        FROM imports i JOIN storages s ON s.name = i.storage WHERE i.num = ?1 RETURNING num";
    let (format, header) = (encoding.format, encoding.header.as_ref());
    let values =
        values![*home, *key, sql_int(*len)?, *packed, role.as_str(), format, header, *root];
    let num = scalar(db, sql, values)?.map(ObjectNum);
    num.ok_or_else(|| Error::new(Kind::Internal, format!("object {key:?} was not recorded")))
}

pub(super) fn insert_intent(
    db: &dyn Sql,
    catalog_id: &str,
    import: &ImportId,
    (len, packed, role): (u64, bool, Role),
) -> Result<ObjectRow> {
    let home = import_num(db, import)?;
    // The key contains the number, which the insert returns. It stays empty until the update in the same transaction.
    let (encoding, root) = (Encoding::default(), None);
    let new = NewObject { home, key: "", len, role, packed, encoding: &encoding, root };
    let num = insert_object(db, &new)?;
    let prefix = if role == Role::Manifest { "manifest-" } else { "" };
    let random = random_hex::<8>()?;
    let key = format!("{catalog_id}/{import}/{prefix}{:08x}-{random}", num.0);
    db.execute("UPDATE objects SET key = ? WHERE num = ?", values![&key, sql_int(num.0)?])?;
    let (home, state) = (import.clone(), ObjectState::Intent);
    Ok(ObjectRow { num, home, key, role, len, state, packed, encoding, root: None })
}

/// Deletes the rows of objects.
pub(super) fn drop_objects(db: &dyn Sql, nums: &[ObjectNum]) -> Result<()> {
    for num in nums {
        db.execute("DELETE FROM objects WHERE num = ?", values![sql_int(num.0)?])?;
    }
    Ok(())
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
                "SELECT * FROM (SELECT o.key FROM objects o JOIN imports i ON i.num = o.home
                WHERE i.storage = ?1 AND o.state = 'stored' AND i.state <> 'removing'
                ORDER BY o.num {order} LIMIT 16) AS some_{order}"
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
    /// `NotFound` when it was never intended; `Changed` when it is being deleted; `Internal` when an extent overlaps
    /// another or is not inside the object; `AlreadyExists` when it was committed with other extents.
    pub async fn commit_object(&self, num: ObjectNum, extents: Vec<Extent>) -> Result<()> {
        self.commit_with_root(num, extents, None).await
    }

    /// As [`Catalog::commit_object`], with the content root of the object's bytes.
    ///
    /// # Errors
    /// As [`Catalog::commit_object`].
    pub async fn commit_with_root(
        &self,
        num: ObjectNum,
        extents: Vec<Extent>,
        root: Option<Root>,
    ) -> Result<()> {
        self.write(move |db| insert_extents(db, num, extents, root.as_ref())).await
    }

    /// Deletes the rows of an object and its extents. Succeeds when there are none.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn drop_object(&self, num: ObjectNum) -> Result<()> {
        self.drop_objects(vec![num]).await
    }

    /// As [`Catalog::drop_object`] for several objects.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn drop_objects(&self, nums: Vec<ObjectNum>) -> Result<()> {
        self.write(move |db| drop_objects(db, &nums)).await
    }

    /// The objects of an import, including intents, and those of other imports that it refers to.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn objects(&self, import: &ImportId) -> Result<Vec<ObjectRow>> {
        let import = import.clone();
        self.read(move |db| match import_num(db, &import) {
            Err(e) if e.kind() == Kind::NotFound => Ok(Vec::new()),
            num => select_objects(db, num?),
        })
        .await
    }

    /// The keys of all stored objects, of every import and storage.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn all_keys(&self) -> Result<Vec<String>> {
        let query = "SELECT key FROM objects WHERE state = 'stored'";
        self.read(move |db| select(db, query, values![], |row| row.get(0))).await
    }

    /// Objects that are not stored: puts in progress, puts cut short by a crash, and objects to be deleted.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn leftover_intents(&self) -> Result<Vec<ObjectRow>> {
        let query = format!("{COLUMNS} WHERE o.state <> 'stored' ORDER BY o.num");
        self.read(move |db| select(db, &query, values![], object_row)).await
    }
}
