//! Values that storage backends keep between runs, by storage and name.

use super::{
    Catalog,
    sql::{scalar, select, values},
};
use crate::error::Result;

impl Catalog {
    /// The last value set under `name` for `storage`.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn backend_value(&self, storage: &str, name: &str) -> Result<Option<String>> {
        let query = "SELECT value FROM notes WHERE storage = ? AND name = ?";
        let (storage, name) = (storage.to_owned(), name.to_owned());
        self.read(move |db| scalar(db, query, values![&storage, &name])).await
    }

    /// All names of `storage` that start with `prefix`, with their values, ordered by name.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn backend_values(
        &self,
        storage: &str,
        prefix: &str,
    ) -> Result<Vec<(String, String)>> {
        let query = "SELECT name, value FROM notes
            WHERE storage = ?1 AND substr(name, 1, length(?2)) = ?2 ORDER BY name";
        let (storage, prefix) = (storage.to_owned(), prefix.to_owned());
        self.read(move |db| {
            select(db, query, values![&storage, &prefix], |row| Ok((row.get(0)?, row.get(1)?)))
        })
        .await
    }

    /// Sets the value of `name`, or removes it with `None`.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn set_backend_value(
        &self,
        storage: &str,
        name: &str,
        value: Option<String>,
    ) -> Result<()> {
        let (storage, name) = (storage.to_owned(), name.to_owned());
        self.write(move |db| {
            let done = match value {
                Some(value) => {
                    let sql = "INSERT INTO notes(storage, name, value) VALUES(?, ?, ?)
                        ON CONFLICT(storage, name) DO UPDATE SET value = excluded.value";
                    db.execute(sql, values![&storage, &name, &value])
                }
                None => {
                    let sql = "DELETE FROM notes WHERE storage = ? AND name = ?";
                    db.execute(sql, values![&storage, &name])
                }
            };
            done.map(drop)
        })
        .await
    }
}
