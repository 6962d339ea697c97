//! Imports that are recorded together with existing objects: restored from their manifests, or adopted.

use std::ops::Range;

use super::{
    Catalog, Extent, ImportId, ImportRow, ImportState, NewImport, ObjectNum, Role,
    extents::{insert_extents, share},
    imports::{import_num, insert_import, random_id, unused_id},
    objects::{Encoding, NewObject, insert_object},
    sql::{Row, Sql, scalar, select, values},
    sql_int,
};
use crate::{
    content_root::Root,
    error::{Error, Kind, Result},
};

/// An import with its objects, as found in a storage.
#[derive(Debug, Clone)]
pub struct ImportWithObjects {
    /// Its id, unless another import has this id; then a new one is chosen.
    pub id: ImportId,
    pub new: NewImport,
    pub state: ImportState,
    /// Seconds since 1970.
    pub created_at: i64,
    pub completed_at: Option<i64>,
    /// The objects that exist in the storage.
    pub objects: Vec<ExistingObject>,
    /// Key and length of each of its manifests. They are deleted when the import writes a new one.
    pub manifests: Vec<(String, u64)>,
    /// Ids of the catalogs that its keys start with.
    pub catalogs: Vec<String>,
}

/// An object of such an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingObject {
    pub key: String,
    pub len: u64,
    pub role: Role,
    pub packed: bool,
    /// Each a range of the import, and the offset in the object where it starts.
    pub extents: Vec<(Range<u64>, u64)>,
    /// For an adopted object, the version tag it had when its bytes were verified.
    pub tag: Option<String>,
    pub encoding: Encoding,
    pub root: Option<Root>,
    /// Whether several imports refer to it. The first that is attached has it as an object of its own.
    pub shared: bool,
}

/// An adopted object: key, length, and the version tag when its bytes were verified.
pub(crate) type AdoptedObject = (String, u64, Option<String>);

pub(super) fn select_adopted(db: &dyn Sql, import: i64) -> Result<Vec<AdoptedObject>> {
    let query = "SELECT o.key, o.len, s.tag FROM objects o LEFT JOIN stamps s ON s.object = o.num
        WHERE o.home = ? AND o.role = 'adopted' AND o.state = 'stored' ORDER BY o.num";
    let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    select(db, query, values![import], row)
}

fn attach(db: &dyn Sql, own_id: &str, import: &ImportWithObjects) -> Result<ImportRow> {
    let mut own = Some(import.id.clone());
    let id = unused_id(db, || own.take().map_or_else(random_id, Ok))?;
    let storage = &import.new.storage;
    let row = insert_import(db, &id, &import.new)?;
    let num = import_num(db, &id)?;
    let (state, created) = (import.state, import.created_at);
    let sql = "UPDATE imports SET state = ?, created_at = ?, completed_at = ? WHERE num = ?";
    db.execute(sql, values![state.as_str(), created, import.completed_at, num])?;
    for object in &import.objects {
        let known = known_shared(db, storage, object)?;
        let object_num = match known {
            Some(known) => known,
            None => insert_existing(db, (num, storage), object)?,
        };
        if let Some(tag) = &object.tag {
            let sql = "INSERT INTO stamps(object, tag) VALUES(?, ?)";
            db.execute(sql, values![sql_int(object_num.0)?, tag])?;
        }
        let extent = |(range, offset): &(Range<u64>, u64)| Extent {
            range: range.clone(),
            object: object_num,
            offset: *offset,
        };
        let extents = object.extents.iter().map(extent).collect();
        match known {
            Some(_) => share(db, num, object_num, extents)?,
            None => insert_extents(db, object_num, extents, None)?,
        }
    }
    for (key, len) in &import.manifests {
        let manifest = ExistingObject {
            key: key.clone(),
            len: *len,
            role: Role::Manifest,
            packed: false,
            extents: Vec::new(),
            tag: None,
            encoding: Encoding::default(),
            root: None,
            shared: false,
        };
        let object_num = insert_existing(db, (num, storage), &manifest)?;
        insert_extents(db, object_num, Vec::new(), None)?;
    }
    for catalog in import.catalogs.iter().filter(|catalog| *catalog != own_id) {
        let sql = "INSERT INTO adopted(storage, catalog) VALUES(?, ?) ON CONFLICT DO NOTHING";
        db.execute(sql, values![storage, catalog])?;
    }
    let (created_at, completed_at) = (import.created_at, import.completed_at);
    Ok(ImportRow { state, created_at, completed_at, ..row })
}

/// Refuses a key that another import has. A generated key is compared in every storage, because two names may refer to
/// the same one; the name of a file only within its storage. An adopted object may belong to several imports, because
/// none deletes it.
fn check_key_unused(db: &dyn Sql, storage: &str, key: &str, role: Role) -> Result<()> {
    let query = "SELECT i.id FROM objects o JOIN imports i ON i.num = o.home
        WHERE o.key = ?1 AND NOT (o.role = 'adopted' AND ?2 = 'adopted') AND (i.storage = ?3
            OR o.role NOT IN ('file', 'adopted') OR ?2 NOT IN ('file', 'adopted')) LIMIT 1";
    let other: Option<String> = scalar(db, query, values![key, role.as_str(), storage])?;
    let Some(other) = other else { return Ok(()) };
    let text = format!("object {key:?} belongs to import {other}");
    Err(Error::new(Kind::AlreadyExists, text))
}

/// The object of another import that `object` is, if several imports share it.
fn known_shared(db: &dyn Sql, storage: &str, object: &ExistingObject) -> Result<Option<ObjectNum>> {
    if !object.shared || object.role != Role::Chunk {
        return Ok(None);
    }
    let query = "SELECT o.num FROM objects o JOIN imports i ON i.num = o.home
        WHERE o.key = ? AND i.storage = ? AND o.len = ? AND o.format = ?
        AND o.role = 'chunk' AND o.state = 'stored' AND i.state <> 'removing'";
    let values = values![&object.key, storage, sql_int(object.len)?, object.encoding.format];
    Ok(scalar(db, query, values)?.map(ObjectNum))
}

fn insert_existing(
    db: &dyn Sql,
    (home, storage): (i64, &str),
    object: &ExistingObject,
) -> Result<ObjectNum> {
    check_key_unused(db, storage, &object.key, object.role)?;
    let ExistingObject { key, len, role, packed, encoding, root, .. } = object;
    let (len, role, packed, root) = (*len, *role, *packed, root.as_ref());
    insert_object(db, &NewObject { home, key, len, role, packed, encoding, root })
}

impl Catalog {
    /// Records an import found in its storage, with its objects, in one transaction.
    ///
    /// # Errors
    /// `AlreadyExists` when an object belongs to another import. Adopted objects may belong to several.
    pub async fn attach_import(&self, import: ImportWithObjects) -> Result<ImportRow> {
        let own_id = self.id().to_owned();
        self.write(move |db| attach(db, &own_id, &import)).await
    }

    /// Checks that each of `keys` in `storage` may be adopted.
    ///
    /// # Errors
    /// `AlreadyExists` when an import has it as an object of its own.
    pub async fn check_adoptable(&self, storage: &str, keys: Vec<String>) -> Result<()> {
        let storage = storage.to_owned();
        self.read(move |db| {
            let is_free = |key| check_key_unused(db, &storage, key, Role::Adopted);
            keys.iter().try_for_each(|key| is_free(key))
        })
        .await
    }

    /// The adopted objects of an import.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn adopted_objects(&self, import: &ImportId) -> Result<Vec<AdoptedObject>> {
        let import = import.clone();
        self.read(move |db| select_adopted(db, import_num(db, &import)?)).await
    }

    /// Makes sure that no new object gets a number up to `seen`. For an old copy of a catalog, when its storage has
    /// keys with such numbers from the newer one.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn skip_numbers(&self, seen: u64) -> Result<()> {
        let seen = sql_int(seen)?;
        self.write(move |db| db.skip_numbers("objects", seen)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adopting(id: &str) -> ImportWithObjects {
        let object = |key: &str, len, extents| ExistingObject {
            key: key.into(),
            len,
            role: Role::Adopted,
            packed: false,
            extents,
            tag: Some(format!("tag of {key}")),
            encoding: Encoding::default(),
            root: None,
            shared: false,
        };
        ImportWithObjects {
            id: id.parse().unwrap(),
            new: NewImport { len: 100, storage: "file".into(), ..NewImport::default() },
            state: ImportState::Imported,
            created_at: 5,
            completed_at: Some(5),
            objects: vec![object("a", 60, vec![(0..60, 0)]), object("b", 40, vec![(60..100, 0)])],
            manifests: vec![],
            catalogs: vec![],
        }
    }

    #[tokio::test]
    async fn the_key_of_a_whole_file_is_unique_in_its_storage_only() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let whole = |id: &str, storage: &str, role| {
            let mut import = adopting(id);
            import.new.storage = storage.into();
            for object in &mut import.objects {
                (object.role, object.tag) = (role, None);
            }
            import
        };
        catalog.attach_import(whole("9c4e01ab", "one", Role::File)).await.unwrap();
        catalog.attach_import(whole("0badcafe", "other", Role::File)).await.unwrap();
        for (storage, role) in
            [("one", Role::File), ("one", Role::Adopted), ("elsewhere", Role::Chunk)]
        {
            let refused = catalog.attach_import(whole("00c0ffee", storage, role)).await;
            assert_eq!(refused.unwrap_err().kind(), Kind::AlreadyExists, "{storage} {role:?}");
        }
        assert_eq!(catalog.list().await.unwrap().len(), 2, "a refused import leaves no rows");
        catalog.check_adoptable("elsewhere", vec!["a".into(), "b".into()]).await.unwrap();
        let taken = catalog.check_adoptable("one", vec!["c".into(), "b".into()]).await.unwrap_err();
        assert_eq!(taken.kind(), Kind::AlreadyExists);
    }

    #[tokio::test]
    async fn adopted_objects_are_forgotten_and_never_become_intents() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let id = catalog.attach_import(adopting("9c4e01ab")).await.unwrap().id;
        let listed = catalog.adopted_objects(&id).await.unwrap();
        assert_eq!(listed[0], ("a".into(), 60, Some("tag of a".into())));
        // Several imports may adopt the same object.
        let other = catalog.attach_import(adopting("0badcafe")).await.unwrap().id;

        assert_eq!(catalog.punch_holes(&id, vec![0..10, 70..80]).await.unwrap(), []);
        assert_eq!(catalog.objects(&id).await.unwrap().len(), 2, "each object still has extents");
        assert_eq!(catalog.punch_holes(&id, vec![0..30, 30..60]).await.unwrap(), []);
        let left: Vec<_> = catalog.objects(&id).await.unwrap().into_iter().map(|o| o.key).collect();
        assert_eq!(left, ["b"]);
        let chunk = catalog.intend(&id, 10, false).await.unwrap().num;
        let extent = Extent { range: 70..80, object: chunk, offset: 0 };
        catalog.commit_object(chunk, vec![extent]).await.unwrap();
        let whole = catalog.intend_named(&id, "x/b", 40, Role::File).await.unwrap().row.num;
        let freed = catalog.commit_whole_file(whole, 60..100).await.unwrap();
        assert_eq!(freed.iter().map(|object| object.num).collect::<Vec<_>>(), [chunk]);
        assert!(catalog.adopted_objects(&id).await.unwrap().is_empty());
        assert_eq!(catalog.leftover_intents().await.unwrap(), freed);
        assert_eq!(catalog.adopted_objects(&other).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn imports_that_share_an_object_are_attached_one_after_another() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let sharing = |id: &str, shared| {
            let mut import = adopting(id);
            for object in &mut import.objects {
                (object.role, object.tag, object.shared) = (Role::Chunk, None, shared);
                (object.root, object.len) = (Some([7; 32]), 60);
            }
            import
        };
        let first = catalog.attach_import(sharing("9c4e01ab", true)).await.unwrap().id;
        let second = catalog.attach_import(sharing("0badcafe", true)).await.unwrap().id;
        let objects = catalog.objects(&first).await.unwrap();
        assert_eq!(objects[0].root, Some([7; 32]));
        assert_eq!((objects.len(), &objects), (2, &catalog.objects(&second).await.unwrap()));
        let refused = catalog.attach_import(sharing("00c0ffee", false)).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::AlreadyExists, "its manifest says that it owns them");
        assert_eq!(catalog.release_import(&first).await.unwrap(), []);
        assert_eq!(catalog.release_import(&second).await.unwrap().len(), 2);
    }
}
