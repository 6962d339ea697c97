//! Items of feeds that were added to the queue. The queue decides what the key of an item is.

use std::collections::HashMap;

use super::{
    Catalog,
    modules::Module,
    sql::{Sql, scalar, values},
    sql_int,
};
use crate::error::Result;

/// The tables of feeds.
pub(super) static MODULE: Module = Module {
    name: "feed",
    steps: &["
        CREATE TABLE feed_items(
            feed TEXT NOT NULL,
            item TEXT NOT NULL,
            download TEXT NOT NULL,
            added_at BIGINT NOT NULL,
            PRIMARY KEY(feed, item)
        );
        CREATE INDEX feed_items_by_time ON feed_items(feed, added_at);
    "],
};

/// Items that are remembered of each feed: several times what a feed lists at once.
const MAX_ITEMS: i64 = 20_000;

/// An item that is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedItemRow {
    pub feed: String,
    /// Its key in the feed.
    pub item: String,
    /// Id of the download.
    pub download: String,
    /// Seconds since 1970.
    pub added_at: u64,
}

/// Remembers an item.
pub(super) fn insert(db: &dyn Sql, row: &FeedItemRow) -> Result<()> {
    let FeedItemRow { feed, item, download, added_at } = row;
    let sql = "INSERT INTO feed_items(feed, item, download, added_at) VALUES(?, ?, ?, ?)
        ON CONFLICT(feed, item) DO UPDATE
        SET download = excluded.download, added_at = excluded.added_at";
    db.execute(sql, values![feed, item, download, sql_int(*added_at)?]).map(drop)
}

impl Catalog {
    /// Remembers an item whose download is in the queue already.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn remember_feed_item(&self, row: FeedItemRow) -> Result<()> {
        self.write(move |db| insert(db, &row)).await
    }

    /// Forgets the oldest items of a feed above [`MAX_ITEMS`].
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn trim_feed_items(&self, feed: &str) -> Result<()> {
        let feed = feed.to_owned();
        let sql = "DELETE FROM feed_items WHERE feed = ?1 AND added_at < (SELECT added_at
            FROM feed_items WHERE feed = ?1 ORDER BY added_at DESC LIMIT 1 OFFSET ?2)";
        self.write(move |db| db.execute(sql, values![&feed, MAX_ITEMS - 1]).map(drop)).await
    }

    /// Those of the items that were added, with the ids of their downloads, which may be gone.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn added_feed_items(
        &self,
        feed: &str,
        items: Vec<String>,
    ) -> Result<HashMap<String, String>> {
        let feed = feed.to_owned();
        let query = "SELECT download FROM feed_items WHERE feed = ? AND item = ?";
        self.read(move |db| {
            let mut found = HashMap::new();
            for item in items {
                if let Some(download) = scalar(db, query, values![&feed, &item])? {
                    found.insert(item, download);
                }
            }
            Ok(found)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::NewDownloadRow;

    fn row(feed: &str, item: &str, added_at: u64) -> FeedItemRow {
        let download = format!("download of {item}");
        FeedItemRow { feed: feed.into(), item: item.into(), download, added_at }
    }

    #[tokio::test]
    async fn an_item_is_remembered_with_its_download_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        catalog.add_queue().await.unwrap();
        let new = |id: &str, item: &str| NewDownloadRow {
            id: id.into(),
            record: "{}".into(),
            torrent_file: None,
            key: None,
            feed_item: Some(row("f", item, 1)),
        };
        catalog.add_downloads(vec![new("a", "1")]).await.unwrap();
        assert!(catalog.add_downloads(vec![new("b", "2"), new("a", "3")]).await.is_err());
        catalog.remember_feed_item(row("g", "2", 1)).await.unwrap();
        drop(catalog);
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let items = vec!["1".to_owned(), "2".into(), "3".into()];
        let known = catalog.added_feed_items("f", items).await.unwrap();
        assert_eq!(known, [("1".to_owned(), "download of 1".to_owned())].into());
    }

    #[tokio::test]
    async fn the_oldest_items_of_a_feed_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        catalog.add_queue().await.unwrap();
        catalog.remember_feed_item(row("other", "0", 0)).await.unwrap();
        let all = MAX_ITEMS.unsigned_abs() + 10;
        catalog
            .write(move |db| (0..all).try_for_each(|n| insert(db, &row("f", &n.to_string(), n))))
            .await
            .unwrap();
        catalog.trim_feed_items("f").await.unwrap();
        catalog.trim_feed_items("other").await.unwrap();
        let items = vec!["9".to_owned(), "10".into()];
        let known = catalog.added_feed_items("f", items).await.unwrap();
        assert_eq!(known.into_keys().collect::<Vec<_>>(), ["10"]);
        let other = catalog.added_feed_items("other", vec!["0".into()]).await.unwrap();
        assert_eq!(other.len(), 1);
    }
}
