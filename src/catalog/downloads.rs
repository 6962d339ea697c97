//! The rows of the queue. The queue decides what a record says; here it is text under a number.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Catalog, objects::select, sql_error, sql_int, sql_u64};
use crate::error::Result;

pub(super) const MIGRATIONS: &[&str] = &[
    // Torrent files have a table of their own, because they make rows long, and the start reads all rows.
    // AUTOINCREMENT, so that the number of a removed download is not given to another.
    "
    CREATE TABLE downloads(
        num INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        record TEXT NOT NULL
    );
    CREATE TABLE download_torrents(
        download INTEGER PRIMARY KEY REFERENCES downloads(num) ON DELETE CASCADE,
        bytes BLOB NOT NULL
    );
    CREATE TABLE download_keys(
        key TEXT PRIMARY KEY,
        download TEXT NOT NULL,
        created_at INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX download_keys_by_time ON download_keys(created_at);
    CREATE TABLE queue_values(
        name TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID;
",
];

/// A download that is about to be recorded.
#[derive(Debug, Clone)]
pub struct NewDownloadRow {
    pub id: String,
    pub record: String,
    pub torrent_file: Option<Vec<u8>>,
    /// The key with which the client can repeat the request, and the time in seconds since 1970.
    pub key: Option<(String, u64)>,
}

/// A recorded download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadRow {
    /// Counts up; never used twice.
    pub number: u64,
    pub id: String,
    pub record: String,
}

/// An idempotency key that was used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadKey {
    pub key: String,
    /// Id of the download that the request made.
    pub download: String,
    /// Seconds since 1970.
    pub created_at: u64,
}

fn download_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<DownloadRow> {
    Ok(DownloadRow { number: sql_u64(row.get(0)?), id: row.get(1)?, record: row.get(2)? })
}

fn download_key(row: &rusqlite::Row<'_>) -> rusqlite::Result<DownloadKey> {
    Ok(DownloadKey { key: row.get(0)?, download: row.get(1)?, created_at: sql_u64(row.get(2)?) })
}

fn insert(connection: &Connection, new: &NewDownloadRow) -> Result<u64> {
    let sql = "INSERT INTO downloads(id, record) VALUES(?, ?)";
    connection.execute(sql, params![new.id, new.record]).map_err(sql_error)?;
    let number = connection.last_insert_rowid();
    if let Some(bytes) = &new.torrent_file {
        let sql = "INSERT INTO download_torrents(download, bytes) VALUES(?, ?)";
        connection.execute(sql, params![number, bytes]).map_err(sql_error)?;
    }
    if let Some((key, now)) = &new.key {
        let sql = "INSERT OR REPLACE INTO download_keys(key, download, created_at) VALUES(?, ?, ?)";
        connection.execute(sql, params![key, new.id, sql_int(*now)?]).map_err(sql_error)?;
    }
    Ok(sql_u64(number))
}

impl Catalog {
    /// Records downloads, all or none, and returns their numbers.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn add_downloads(&self, new: Vec<NewDownloadRow>) -> Result<Vec<u64>> {
        self.write(move |connection| new.iter().map(|row| insert(connection, row)).collect()).await
    }

    /// Replaces the records of downloads, all or none. A download that is gone is skipped.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn update_downloads(&self, records: Vec<(u64, String)>) -> Result<()> {
        self.write(move |connection| {
            let sql = "UPDATE downloads SET record = ? WHERE num = ?";
            let mut statement = connection.prepare_cached(sql).map_err(sql_error)?;
            for (number, record) in &records {
                statement.execute(params![record, sql_int(*number)?]).map_err(sql_error)?;
            }
            Ok(())
        })
        .await
    }

    /// Removes downloads, all or none.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn remove_downloads(&self, numbers: Vec<u64>) -> Result<()> {
        self.write(move |connection| {
            let sql = "DELETE FROM download_keys WHERE download IN
                (SELECT id FROM downloads WHERE num = ?)";
            let mut keys = connection.prepare_cached(sql).map_err(sql_error)?;
            let sql = "DELETE FROM downloads WHERE num = ?";
            let mut rows = connection.prepare_cached(sql).map_err(sql_error)?;
            for number in &numbers {
                keys.execute([sql_int(*number)?]).map_err(sql_error)?;
                rows.execute([sql_int(*number)?]).map_err(sql_error)?;
            }
            Ok(())
        })
        .await
    }

    /// All downloads, in the order in which they were added.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn downloads(&self) -> Result<Vec<DownloadRow>> {
        let query = "SELECT num, id, record FROM downloads ORDER BY num";
        self.read(move |connection| select(connection, query, [], download_row)).await
    }

    /// The torrent file of a download.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn download_torrent(&self, number: u64) -> Result<Option<Vec<u8>>> {
        let query = "SELECT bytes FROM download_torrents WHERE download = ?";
        let number = sql_int(number)?;
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(query).map_err(sql_error)?;
            statement.query_row([number], |row| row.get(0)).optional().map_err(sql_error)
        })
        .await
    }

    /// The idempotency keys, oldest first, after those that are older than `oldest` (seconds since 1970) are removed.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn download_keys(&self, oldest: u64) -> Result<Vec<DownloadKey>> {
        let oldest = sql_int(oldest)?;
        self.write(move |connection| {
            let sql = "DELETE FROM download_keys WHERE created_at < ?";
            connection.execute(sql, [oldest]).map_err(sql_error)?;
            let query = "SELECT key, download, created_at FROM download_keys ORDER BY created_at";
            select(connection, query, [], download_key)
        })
        .await
    }

    /// A value of the queue, as set by the caller.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn queue_value(&self, name: &str) -> Result<Option<String>> {
        let query = "SELECT value FROM queue_values WHERE name = ?";
        let name = name.to_owned();
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(query).map_err(sql_error)?;
            statement.query_row([name], |row| row.get(0)).optional().map_err(sql_error)
        })
        .await
    }

    /// Replaces the value that [`Catalog::queue_value`] returns.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn set_queue_value(&self, name: &str, value: String) -> Result<()> {
        let name = name.to_owned();
        let sql = "INSERT OR REPLACE INTO queue_values(name, value) VALUES(?, ?)";
        self.write(move |c| c.execute(sql, params![name, value]).map(drop).map_err(sql_error)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(id: &str, torrent_file: Option<Vec<u8>>) -> NewDownloadRow {
        let key = Some((format!("key of {id}"), 100));
        NewDownloadRow { id: id.into(), record: "{}".into(), torrent_file, key }
    }

    #[tokio::test]
    async fn downloads_keep_their_numbers_and_torrent_files_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let numbers =
            catalog.add_downloads(vec![new("a", Some(vec![1, 2])), new("b", None)]).await.unwrap();
        assert_eq!(numbers, [1, 2]);
        assert!(catalog.add_downloads(vec![new("c", None), new("a", None)]).await.is_err());
        catalog.update_downloads(vec![(2, "{\"x\":1}".into()), (9, String::new())]).await.unwrap();
        catalog.set_queue_value("limits", "1".into()).await.unwrap();
        drop(catalog);
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let rows = catalog.downloads().await.unwrap();
        assert_eq!(rows.len(), 2, "a refused group adds nothing");
        assert_eq!(rows[1].record, "{\"x\":1}");
        assert_eq!(catalog.download_torrent(1).await.unwrap(), Some(vec![1, 2]));
        assert_eq!(catalog.download_torrent(2).await.unwrap(), None);
        assert_eq!(catalog.queue_value("limits").await.unwrap().as_deref(), Some("1"));
        assert_eq!(catalog.download_keys(0).await.unwrap().len(), 2);
        catalog.remove_downloads(vec![2]).await.unwrap();
        assert_eq!(catalog.download_keys(0).await.unwrap().len(), 1);
        assert_eq!(catalog.add_downloads(vec![new("d", None)]).await.unwrap(), [3]);
        assert!(catalog.download_keys(101).await.unwrap().is_empty());
    }
}
