//! The torrent files of imports. In a table of their own, so that listing imports does not read them.

use super::{
    Catalog, ImportId,
    imports::import_num,
    sql::{Sql, scalar, values},
};
use crate::error::Result;

/// Stores the torrent file of an import. An empty one, as of a URL import, is not stored.
pub(super) fn store_metainfo(db: &dyn Sql, import: i64, metainfo: &[u8]) -> Result<()> {
    if metainfo.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO metainfo(import, bytes) VALUES(?, ?)
        ON CONFLICT(import) DO UPDATE SET bytes = excluded.bytes";
    db.execute(sql, values![import, metainfo]).map(drop)
}

impl Catalog {
    /// Replaces the torrent file of an import. An empty one changes nothing.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn set_metainfo(&self, id: &ImportId, metainfo: Vec<u8>) -> Result<()> {
        let id = id.clone();
        self.write(move |db| store_metainfo(db, import_num(db, &id)?, &metainfo)).await
    }

    /// The torrent file of an import; empty when it has none.
    ///
    /// # Errors
    /// `NotFound` when the import does not exist.
    pub async fn metainfo(&self, id: &ImportId) -> Result<Vec<u8>> {
        let id = id.clone();
        self.read(move |db| {
            let num = import_num(db, &id)?;
            let query = "SELECT bytes FROM metainfo WHERE import = ?";
            scalar(db, query, values![num]).map(Option::unwrap_or_default)
        })
        .await
    }
}
