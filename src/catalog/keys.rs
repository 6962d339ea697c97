//! What the catalog says of keys: for the sweep, which looks at what a place lists.

use rusqlite::{OptionalExtension, params};

use super::{Catalog, objects::select, sql_error};
use crate::error::Result;

/// What is recorded under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// Nothing.
    No,
    /// An object of this storage that is intended, or that holds nothing any more.
    Intended,
    /// An object that is stored; or of an import that is being removed, which goes with that; or of another storage,
    /// which may be the same place by another name.
    Yes,
}

impl Catalog {
    /// What is recorded under each of `keys`, for objects found in `storage`.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn key_states<'a>(
        &self,
        storage: &str,
        keys: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<KeyState>> {
        let query = "SELECT max(CASE WHEN o.state = 'intent' AND i.storage = ?2
                AND i.state <> 'removing' THEN 1 ELSE 2 END)
            FROM objects o JOIN imports i ON i.num = o.import WHERE o.key = ?1";
        self.read(|connection| {
            let mut statement = connection.prepare_cached(query).map_err(sql_error)?;
            let mut state = |key: &str| {
                let most = |row: &rusqlite::Row<'_>| row.get::<_, Option<i64>>(0);
                match statement.query_row([key, storage], most).map_err(sql_error)? {
                    None => Ok(KeyState::No),
                    Some(1) => Ok(KeyState::Intended),
                    Some(_) => Ok(KeyState::Yes),
                }
            };
            keys.into_iter().map(&mut state).collect()
        })
    }

    /// Whether an import of this catalog has objects under `folder` (its `/` included), or had it made.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn knows_folder(&self, folder: &str) -> Result<bool> {
        // `0` follows `/`: what lies between the two begins with the folder.
        let end = format!("{}0", folder.trim_end_matches('/'));
        let own = folder.strip_prefix(&self.key_prefix()).map(|rest| rest.trim_end_matches('/'));
        let query = "SELECT 1 WHERE EXISTS(SELECT 1 FROM objects WHERE key >= ?1 AND key < ?2)
            OR EXISTS(SELECT 1 FROM imports WHERE id = ?3)";
        self.read(|connection| {
            let found = connection.query_row(query, params![folder, end, own], |_| Ok(()));
            found.optional().map(|found| found.is_some()).map_err(sql_error)
        })
    }

    /// The ids of the catalogs whose objects in `storage` were taken over.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn adopted(&self, storage: &str) -> Result<Vec<String>> {
        let query = "SELECT catalog FROM adopted WHERE storage = ? ORDER BY catalog";
        self.read(|connection| select(connection, query, [storage], |row| row.get(0)))
    }

    /// Every storage that an import is in, whatever its state, or that was attached.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn storages(&self) -> Result<Vec<String>> {
        let query = "SELECT storage FROM imports UNION SELECT storage FROM adopted ORDER BY 1";
        self.read(|connection| select(connection, query, [], |row| row.get(0)))
    }
}
