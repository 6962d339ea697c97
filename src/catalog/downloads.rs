//! The rows of the queue. The queue decides what a record says; here it is text under a number.

use super::{
    Catalog, FeedItemRow, feed_items,
    modules::Module,
    sql::{Row, Sql, scalar, select, values},
    sql_int,
};
use crate::error::{Error, Kind, Result};

/// The tables of the queue.
static MODULE: Module = Module {
    name: "queue",
    // Torrent files have a table of their own, because they make rows long, and the start reads all rows. The last number
    // is recorded, so that the number of a removed download is not given to another.
    steps: &["
        CREATE TABLE queue_numbers(last BIGINT NOT NULL);
        INSERT INTO queue_numbers(last) VALUES(0);
        CREATE TABLE queue_downloads(
            num BIGINT NOT NULL PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            record TEXT NOT NULL
        );
        CREATE TABLE queue_torrents(
            download BIGINT NOT NULL PRIMARY KEY REFERENCES queue_downloads(num) ON DELETE CASCADE,
            bytes BLOB NOT NULL
        );
        CREATE TABLE queue_keys(
            key TEXT NOT NULL PRIMARY KEY,
            download TEXT NOT NULL,
            created_at BIGINT NOT NULL
        );
        CREATE INDEX queue_keys_by_time ON queue_keys(created_at);
        CREATE TABLE queue_values(name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL);
    "],
};

/// A download that is about to be recorded.
#[derive(Debug, Clone)]
pub struct NewDownloadRow {
    pub id: String,
    pub record: String,
    pub torrent_file: Option<Vec<u8>>,
    /// The key with which the client can repeat the request, and the time in seconds since 1970.
    pub key: Option<(String, u64)>,
    /// The item of a feed that it is made from.
    pub feed_item: Option<FeedItemRow>,
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

fn download_row(row: &Row<'_>) -> Result<DownloadRow> {
    Ok(DownloadRow { number: row.get(0)?, id: row.get(1)?, record: row.get(2)? })
}

fn download_key(row: &Row<'_>) -> Result<DownloadKey> {
    Ok(DownloadKey { key: row.get(0)?, download: row.get(1)?, created_at: row.get(2)? })
}

fn insert(db: &dyn Sql, new: &NewDownloadRow) -> Result<u64> {
    let sql = "UPDATE queue_numbers SET last = last + 1 RETURNING last";
    let number: Option<i64> = scalar(db, sql, values![])?;
    let number = number
        .ok_or_else(|| Error::new(Kind::Corrupt, "the queue has no number for a download"))?;
    let sql = "INSERT INTO queue_downloads(num, id, record) VALUES(?, ?, ?)";
    db.execute(sql, values![number, &new.id, &new.record])?;
    if let Some(bytes) = &new.torrent_file {
        let sql = "INSERT INTO queue_torrents(download, bytes) VALUES(?, ?)";
        db.execute(sql, values![number, bytes])?;
    }
    if let Some((key, now)) = &new.key {
        let sql = "INSERT INTO queue_keys(key, download, created_at) VALUES(?, ?, ?)
            ON CONFLICT(key) DO UPDATE
            SET download = excluded.download, created_at = excluded.created_at";
        db.execute(sql, values![key, &new.id, sql_int(*now)?])?;
    }
    if let Some(item) = &new.feed_item {
        feed_items::insert(db, item)?;
    }
    Ok(number.unsigned_abs())
}

impl Catalog {
    /// Adds the tables of the queue and its feeds. Must be called before all other methods of the queue.
    ///
    /// # Errors
    /// `Unsupported` when a newer bae has changed the tables, or when the catalog is open for reading only and lacks
    /// them; otherwise when the catalog cannot be written.
    pub async fn add_queue(&self) -> Result<()> {
        self.add_module(&MODULE).await?;
        self.add_module(&feed_items::MODULE).await
    }

    /// Records downloads, all or none, and returns their numbers.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn add_downloads(&self, new: Vec<NewDownloadRow>) -> Result<Vec<u64>> {
        self.write(move |db| new.iter().map(|row| insert(db, row)).collect()).await
    }

    /// Replaces the records of downloads, all or none. A download that is gone is skipped.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn update_downloads(&self, records: Vec<(u64, String)>) -> Result<()> {
        self.write(move |db| {
            let sql = "UPDATE queue_downloads SET record = ? WHERE num = ?";
            for (number, record) in &records {
                db.execute(sql, values![record, sql_int(*number)?])?;
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
        self.write(move |db| {
            for number in &numbers {
                let number = sql_int(*number)?;
                let sql = "DELETE FROM queue_keys WHERE download IN
                    (SELECT id FROM queue_downloads WHERE num = ?)";
                db.execute(sql, values![number])?;
                db.execute("DELETE FROM queue_downloads WHERE num = ?", values![number])?;
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
        let query = "SELECT num, id, record FROM queue_downloads ORDER BY num";
        self.read(move |db| select(db, query, values![], download_row)).await
    }

    /// The torrent file of a download.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn download_torrent(&self, number: u64) -> Result<Option<Vec<u8>>> {
        let query = "SELECT bytes FROM queue_torrents WHERE download = ?";
        let number = sql_int(number)?;
        self.read(move |db| scalar(db, query, values![number])).await
    }

    /// The idempotency keys, oldest first, after those that are older than `oldest` (seconds since 1970) are removed.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn download_keys(&self, oldest: u64) -> Result<Vec<DownloadKey>> {
        let oldest = sql_int(oldest)?;
        self.write(move |db| {
            db.execute("DELETE FROM queue_keys WHERE created_at < ?", values![oldest])?;
            let query = "SELECT key, download, created_at FROM queue_keys ORDER BY created_at";
            select(db, query, values![], download_key)
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
        self.read(move |db| scalar(db, query, values![&name])).await
    }

    /// Replaces the value that [`Catalog::queue_value`] returns.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn set_queue_value(&self, name: &str, value: String) -> Result<()> {
        let name = name.to_owned();
        let sql = "INSERT INTO queue_values(name, value) VALUES(?, ?)
            ON CONFLICT(name) DO UPDATE SET value = excluded.value";
        self.write(move |db| db.execute(sql, values![&name, &value]).map(drop)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(id: &str, torrent_file: Option<Vec<u8>>) -> NewDownloadRow {
        let key = Some((format!("key of {id}"), 100));
        let record = "{}".into();
        NewDownloadRow { id: id.into(), record, torrent_file, key, feed_item: None }
    }

    #[tokio::test]
    async fn downloads_keep_their_numbers_and_torrent_files_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        catalog.add_queue().await.unwrap();
        let numbers =
            catalog.add_downloads(vec![new("a", Some(vec![1, 2])), new("b", None)]).await.unwrap();
        assert_eq!(numbers, [1, 2]);
        assert!(catalog.add_downloads(vec![new("c", None), new("a", None)]).await.is_err());
        catalog.update_downloads(vec![(2, "{\"x\":1}".into()), (9, String::new())]).await.unwrap();
        catalog.set_queue_value("limits", "1".into()).await.unwrap();
        drop(catalog);
        let catalog = Catalog::open(dir.path()).await.unwrap();
        catalog.add_queue().await.unwrap();
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
