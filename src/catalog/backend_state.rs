//! Values that storage backends keep between runs, by storage and name.

use rusqlite::{OptionalExtension, params};

use super::{Catalog, sql_error};
use crate::error::Result;

impl Catalog {
    /// The last value set under `name` for `storage`.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn backend_value(&self, storage: &str, name: &str) -> Result<Option<String>> {
        let query = "SELECT value FROM notes WHERE storage = ? AND name = ?";
        let values = [storage.to_owned(), name.to_owned()];
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(query).map_err(sql_error)?;
            statement.query_row(values, |row| row.get(0)).optional().map_err(sql_error)
        })
        .await
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
            WHERE storage = ? AND substr(name, 1, length(?2)) = ?2 ORDER BY name";
        let values = [storage.to_owned(), prefix.to_owned()];
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(query).map_err(sql_error)?;
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            let rows = statement.query_map(values, row).map_err(sql_error)?;
            rows.collect::<rusqlite::Result<_>>().map_err(sql_error)
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
        self.write(move |connection| {
            let done = match value {
                Some(value) => {
                    let sql = "INSERT OR REPLACE INTO notes(storage, name, value) VALUES(?, ?, ?)";
                    connection.execute(sql, params![storage, name, value])
                }
                None => {
                    let sql = "DELETE FROM notes WHERE storage = ? AND name = ?";
                    connection.execute(sql, [storage, name])
                }
            };
            done.map(drop).map_err(sql_error)
        })
        .await
    }
}
