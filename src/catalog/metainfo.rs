//! The torrent files of imports. In a table of their own, so that listing imports does not read them.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Catalog, ImportId, imports::import_num, sql_error};
use crate::error::Result;

/// Stores the torrent file of an import. An empty one, as of a URL import, is not stored.
pub(super) fn store_metainfo(connection: &Connection, import: i64, metainfo: &[u8]) -> Result<()> {
    if metainfo.is_empty() {
        return Ok(());
    }
    let sql = "INSERT OR REPLACE INTO metainfo(import, bytes) VALUES(?, ?)";
    connection.execute(sql, params![import, metainfo]).map(drop).map_err(sql_error)
}

impl Catalog {
    /// Replaces the torrent file of an import. An empty one changes nothing.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn set_metainfo(&self, id: &ImportId, metainfo: Vec<u8>) -> Result<()> {
        let id = id.clone();
        self.write(move |connection| {
            store_metainfo(connection, import_num(connection, &id)?, &metainfo)
        })
        .await
    }

    /// The torrent file of an import; empty when it has none.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn metainfo(&self, id: &ImportId) -> Result<Vec<u8>> {
        let id = id.clone();
        self.read(move |connection| {
            let num = import_num(connection, &id)?;
            let query = "SELECT bytes FROM metainfo WHERE import = ?";
            let mut statement = connection.prepare_cached(query).map_err(sql_error)?;
            let row = statement.query_row([num], |row| row.get(0)).optional();
            row.map(Option::unwrap_or_default).map_err(sql_error)
        })
        .await
    }
}
