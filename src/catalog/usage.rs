//! Reads from storage and bytes sent to peers, per month, storage and import.

use rusqlite::{Row, params};

use super::{Catalog, ImportId, objects::select, sql_error, sql_int, sql_u64};
use crate::error::Result;

/// Usage counts to be added, or their sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageCounts {
    /// Ranged gets from storage for peers.
    pub gets: u64,
    /// Bytes that these gets returned.
    pub fetched: u64,
    /// Bytes for peers that came from the cache.
    pub from_cache: u64,
    /// Payload bytes sent to peers.
    pub served: u64,
    /// Seconds during which peers could reach the import.
    pub seconds: u64,
    /// Gets for all other readers: players, exports, checks.
    pub read_gets: u64,
    /// Bytes that these gets returned.
    pub read_fetched: u64,
}

impl UsageCounts {
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// Bytes read from storage, for peers and all other readers.
    #[must_use]
    pub fn all_fetched(&self) -> u64 {
        self.fetched.saturating_add(self.read_fetched)
    }

    /// Gets from storage, for peers and all other readers.
    #[must_use]
    pub fn all_gets(&self) -> u64 {
        self.gets.saturating_add(self.read_gets)
    }
}

impl std::ops::AddAssign for UsageCounts {
    fn add_assign(&mut self, other: Self) {
        let Self { gets, fetched, from_cache, served, seconds, read_gets, read_fetched } = other;
        self.gets += gets;
        self.fetched += fetched;
        self.from_cache += from_cache;
        self.served += served;
        self.seconds += seconds;
        self.read_gets += read_gets;
        self.read_fetched += read_fetched;
    }
}

const SUMS: &str = "SELECT sum(gets), sum(fetched), sum(kept), sum(served), sum(seconds),
    sum(read_gets), sum(read_fetched)";

fn usage_row(row: &Row<'_>) -> rusqlite::Result<UsageCounts> {
    let n = |column| row.get::<_, Option<i64>>(column).map(|n| sql_u64(n.unwrap_or(0)));
    Ok(UsageCounts {
        gets: n(0)?,
        fetched: n(1)?,
        from_cache: n(2)?,
        served: n(3)?,
        seconds: n(4)?,
        read_gets: n(5)?,
        read_fetched: n(6)?,
    })
}

impl Catalog {
    /// Adds to the counts of a month (`2026-11`), in one transaction. The id is `None` for reads that belong to no
    /// import.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn add_usage(
        &self,
        month: String,
        entries: Vec<(Option<ImportId>, String, UsageCounts)>,
    ) -> Result<()> {
        let sql =
            "INSERT INTO traffic(month, storage, import, gets, fetched, kept, served, seconds,
                read_gets, read_fetched)
            VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(month, storage, import) DO UPDATE SET
            gets = gets + excluded.gets, fetched = fetched + excluded.fetched,
            kept = kept + excluded.kept, served = served + excluded.served,
            seconds = seconds + excluded.seconds, read_gets = read_gets + excluded.read_gets,
            read_fetched = read_fetched + excluded.read_fetched";
        self.write(move |connection| {
            let mut statement = connection.prepare_cached(sql).map_err(sql_error)?;
            for (import, storage, t) in entries {
                let n = |n: u64| sql_int(n).unwrap_or(i64::MAX);
                let id = import.as_ref().map_or("", ImportId::as_str);
                let counts = (n(t.gets), n(t.fetched), n(t.from_cache), n(t.served), n(t.seconds));
                let (gets, fetched, kept, served, seconds) = counts;
                let (read_gets, read_fetched) = (n(t.read_gets), n(t.read_fetched));
                let values = params![
                    month,
                    storage,
                    id,
                    gets,
                    fetched,
                    kept,
                    served,
                    seconds,
                    read_gets,
                    read_fetched
                ];
                statement.execute(values).map_err(sql_error)?;
            }
            Ok(())
        })
        .await
    }

    /// The sums of each of `imports` over all months.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn usage_of_each(&self, imports: Vec<ImportId>) -> Result<Vec<UsageCounts>> {
        let query = format!("{SUMS} FROM traffic WHERE import = ?");
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(&query).map_err(sql_error)?;
            let mut sums = |import: &ImportId| statement.query_row([import.as_str()], usage_row);
            imports.iter().map(|import| sums(import).map_err(sql_error)).collect()
        })
        .await
    }

    /// The sums of an import over all months.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn usage_of(&self, import: &ImportId) -> Result<UsageCounts> {
        let found = self.usage_of_each(vec![import.clone()]).await?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    /// The sums per storage of a month, or of all months. Includes imports that were removed, because their cost
    /// remains.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn usage_by_storage(
        &self,
        month: Option<&str>,
    ) -> Result<Vec<(String, UsageCounts)>> {
        let query = format!(
            "{SUMS}, storage FROM traffic WHERE ?1 IS NULL OR month = ?1 GROUP BY storage ORDER BY storage"
        );
        let row = |row: &Row<'_>| Ok((row.get::<_, String>(7)?, usage_row(row)?));
        let month = month.map(str::to_owned);
        self.read(move |connection| select(connection, &query, [month], row)).await
    }

    /// For each of `keys`, the imports in a storage that have an object with this key: one, or several when it is
    /// adopted.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn imports_of_keys(
        &self,
        storage: &str,
        keys: Vec<String>,
    ) -> Result<Vec<Vec<ImportId>>> {
        let query = "SELECT i.id FROM objects o JOIN imports i ON i.num = o.import
            WHERE o.key = ? AND i.storage = ? ORDER BY i.num";
        let storage = storage.to_owned();
        self.read(move |connection| {
            let imports = |key: &String| {
                let id = |row: &Row<'_>| row.get::<_, String>(0);
                let found = select(connection, query, [key, &storage], id)?;
                found.iter().map(|id| id.parse()).collect()
            };
            keys.iter().map(imports).collect()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn usage_counts_add_up_by_import_and_by_month() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).await.unwrap();
        let id = |text: &str| text.parse::<ImportId>().unwrap();
        let (a, b) = (id("0000000a"), id("0000000b"));
        assert!(catalog.usage_of(&a).await.unwrap().is_zero());
        let mut one = UsageCounts {
            gets: 1,
            fetched: 10,
            from_cache: 20,
            served: 30,
            seconds: 5,
            ..UsageCounts::default()
        };
        one += UsageCounts { read_gets: 2, read_fetched: 7, ..UsageCounts::default() };
        let entry = |id: &ImportId, storage: &str| (Some(id.clone()), storage.to_owned(), one);
        let october = vec![entry(&a, "s3"), entry(&b, "s3"), entry(&b, "file")];
        catalog.add_usage("2026-10".into(), october).await.unwrap();
        catalog.add_usage("2026-11".into(), vec![entry(&a, "s3")]).await.unwrap();
        catalog.add_usage("2026-11".into(), vec![entry(&a, "s3")]).await.unwrap();
        let all = catalog.usage_of(&a).await.unwrap();
        assert_eq!((all.gets, all.fetched, all.served, all.seconds), (3, 30, 90, 15));
        assert_eq!((all.all_gets(), all.all_fetched()), (9, 51));
        catalog.add_usage("2026-11".into(), vec![(None, "s3".into(), one)]).await.unwrap();
        assert_eq!(catalog.usage_of(&a).await.unwrap(), all);
        let ever = catalog.usage_by_storage(None).await.unwrap();
        assert_eq!((ever[1].0.as_str(), ever[1].1.fetched), ("s3", 50));
        let october = catalog.usage_by_storage(Some("2026-10")).await.unwrap();
        let fetched: Vec<_> = october.iter().map(|(s, t)| (s.as_str(), t.fetched)).collect();
        assert_eq!(fetched, [("file", 10), ("s3", 20)]);
        assert!(catalog.usage_by_storage(Some("2026-12")).await.unwrap().is_empty());
    }
}
