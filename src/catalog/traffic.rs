//! What reading the imports cost and what peers got, by month: the books of seeding.

use rusqlite::params;

use super::{Catalog, ImportId, objects::select, sql_error, sql_int, sql_u64};
use crate::error::Result;

/// What is added to the books, or was added up from them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Ranged gets from storage.
    pub gets: u64,
    /// Bytes they brought.
    pub fetched: u64,
    /// Bytes that were read from the cache instead.
    pub kept: u64,
    /// Payload bytes sent to peers.
    pub served: u64,
    /// Seconds in which peers could reach it.
    pub seconds: u64,
}

impl Traffic {
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

fn traffic_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Traffic> {
    let n = |column| row.get::<_, Option<i64>>(column).map(|n| sql_u64(n.unwrap_or(0)));
    Ok(Traffic { gets: n(0)?, fetched: n(1)?, kept: n(2)?, served: n(3)?, seconds: n(4)? })
}

const SUMS: &str =
    "SELECT sum(gets), sum(fetched), sum(kept), sum(served), sum(seconds) FROM traffic";

impl Catalog {
    /// Adds to the books of a month (`2026-11`), all in one transaction.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn add_traffic(
        &self,
        month: String,
        entries: Vec<(ImportId, String, Traffic)>,
    ) -> Result<()> {
        let sql =
            "INSERT INTO traffic(month, storage, import, gets, fetched, kept, served, seconds)
            VALUES(?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(month, storage, import) DO UPDATE SET
            gets = gets + excluded.gets, fetched = fetched + excluded.fetched,
            kept = kept + excluded.kept, served = served + excluded.served,
            seconds = seconds + excluded.seconds";
        self.write(move |connection| {
            let mut statement = connection.prepare_cached(sql).map_err(sql_error)?;
            for (import, storage, traffic) in entries {
                let Traffic { gets, fetched, kept, served, seconds } = traffic;
                let [gets, fetched, kept, served, seconds] =
                    [gets, fetched, kept, served, seconds].map(|n| sql_int(n).unwrap_or(i64::MAX));
                let id = import.as_str();
                let values = params![month, storage, id, gets, fetched, kept, served, seconds];
                statement.execute(values).map_err(sql_error)?;
            }
            Ok(())
        })
        .await
    }

    /// All that is in the books of an import.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn traffic_of(&self, import: &ImportId) -> Result<Traffic> {
        let query = format!("{SUMS} WHERE import = ?");
        let found = self.read(|c| select(c, &query, [import.as_str()], traffic_row))?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    /// The books of a month, by storage. Imports that are gone count: what they cost was spent.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn traffic_in(&self, month: &str) -> Result<Vec<(String, Traffic)>> {
        let query = "SELECT sum(gets), sum(fetched), sum(kept), sum(served), sum(seconds), storage
            FROM traffic WHERE month = ? GROUP BY storage ORDER BY storage";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(5)?, traffic_row(row)?));
        self.read(|connection| select(connection, query, [month], row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_books_add_up_by_import_and_by_month() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).unwrap();
        let id = |text: &str| text.parse::<ImportId>().unwrap();
        let (a, b) = (id("0000000a"), id("0000000b"));
        assert!(catalog.traffic_of(&a).unwrap().is_zero());
        let one = Traffic { gets: 1, fetched: 10, kept: 20, served: 30, seconds: 5 };
        let entry = |id: &ImportId, storage: &str| (id.clone(), storage.to_owned(), one);
        let october = vec![entry(&a, "s3"), entry(&b, "s3"), entry(&b, "file")];
        catalog.add_traffic("2026-10".into(), october).await.unwrap();
        catalog.add_traffic("2026-11".into(), vec![entry(&a, "s3")]).await.unwrap();
        catalog.add_traffic("2026-11".into(), vec![entry(&a, "s3")]).await.unwrap();
        let all = catalog.traffic_of(&a).unwrap();
        assert_eq!((all.gets, all.fetched, all.served, all.seconds), (3, 30, 90, 15));
        let october = catalog.traffic_in("2026-10").unwrap();
        let fetched: Vec<_> = october.iter().map(|(s, t)| (s.as_str(), t.fetched)).collect();
        assert_eq!(fetched, [("file", 10), ("s3", 20)]);
        assert!(catalog.traffic_in("2026-12").unwrap().is_empty());
    }
}
