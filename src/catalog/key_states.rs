//! What the catalog records about object keys, for the sweep, which compares it with a storage's listing.

use super::{
    Catalog,
    sql::{scalar, select, values},
};
use crate::error::Result;

/// What is recorded under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// Nothing.
    Unknown,
    /// An object of this storage that is not stored yet, or is dying.
    Intent,
    /// An object that the sweep must not delete: it is stored, or its import is being removed (which deletes it), or
    /// it belongs to another storage, which may be the same one by another name. Of other storages, only the keys that
    /// a bae has generated count: names of files are the same wherever a torrent is.
    Protected,
}

impl Catalog {
    /// The state of each of `keys`, for objects found in `storage`.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn key_states(&self, storage: &str, keys: Vec<String>) -> Result<Vec<KeyState>> {
        let storage = storage.to_owned();
        let query = "SELECT max(CASE WHEN o.state <> 'stored' AND i.storage = ?2
                AND i.state <> 'removing' THEN 1 ELSE 2 END)
            FROM objects o JOIN imports i ON i.num = o.home
            WHERE o.key = ?1 AND (i.storage = ?2 OR o.role NOT IN ('file', 'adopted'))";
        self.read(move |db| {
            let state = |key: &String| {
                let most: Option<Option<i64>> = scalar(db, query, values![key, &storage])?;
                Ok(match most.flatten() {
                    None => KeyState::Unknown,
                    Some(1) => KeyState::Intent,
                    Some(_) => KeyState::Protected,
                })
            };
            keys.iter().map(state).collect()
        })
        .await
    }

    /// Whether each of `folders` (with its `/`) contains recorded objects, or is the chunk folder of an import of this
    /// catalog.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn has_folders(&self, folders: Vec<String>) -> Result<Vec<bool>> {
        let query = "SELECT 1 WHERE EXISTS(SELECT 1 FROM objects WHERE key >= ?1 AND key < ?2)
            OR EXISTS(SELECT 1 FROM imports WHERE id = ?3)";
        let key_prefix = self.key_prefix();
        self.read(move |db| {
            let is_known = |folder: &String| {
                // `0` follows `/` in ASCII, so every key between the two starts with the folder.
                let end = format!("{}0", folder.trim_end_matches('/'));
                let own = folder.strip_prefix(&key_prefix).map(|rest| rest.trim_end_matches('/'));
                let found: Option<i64> = scalar(db, query, values![folder, &end, own])?;
                Ok(found.is_some())
            };
            folders.iter().map(is_known).collect()
        })
        .await
    }

    /// The ids of the catalogs whose objects in `storage` this catalog has attached.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn attached_catalogs(&self, storage: &str) -> Result<Vec<String>> {
        let query = "SELECT catalog FROM adopted WHERE storage = ? ORDER BY catalog";
        let storage = storage.to_owned();
        self.read(move |db| select(db, query, values![&storage], |row| row.get(0))).await
    }

    /// Every storage that has an import, in any state, or that was attached.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn storages(&self) -> Result<Vec<String>> {
        let query = "SELECT storage FROM imports UNION SELECT storage FROM adopted ORDER BY 1";
        self.read(move |db| select(db, query, values![], |row| row.get(0))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Extent, NewImport, Role};

    #[tokio::test]
    async fn the_key_of_a_whole_file_counts_in_its_storage_only_and_a_generated_key_everywhere() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let new = NewImport { len: 10, storage: "a".into(), ..NewImport::default() };
        let id = catalog.create_import(new).await.unwrap().id;
        let chunk = catalog.intend(&id, 10, false).await.unwrap();
        let file = catalog.intend_named(&id, "x/f", 0, Role::File).await.unwrap().row;
        let extent = Extent { range: 0..10, object: chunk.num, offset: 0 };
        catalog.commit_object(chunk.num, vec![extent]).await.unwrap();
        let states = async |storage| {
            let keys = vec![chunk.key.clone(), file.key.clone()];
            catalog.key_states(storage, keys).await.unwrap()
        };
        assert_eq!(states("a").await, [KeyState::Protected, KeyState::Intent]);
        assert_eq!(states("b").await, [KeyState::Protected, KeyState::Unknown]);
    }
}
