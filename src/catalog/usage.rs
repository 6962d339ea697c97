//! Reads from storage and bytes sent to peers, per month, storage and import.

use super::{
    Catalog, ImportId,
    sql::{Row, first, select, values},
    sql_int,
};
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

const SUMS: &str = "SELECT CAST(sum(gets) AS BIGINT), CAST(sum(fetched) AS BIGINT),
    CAST(sum(kept) AS BIGINT), CAST(sum(served) AS BIGINT), CAST(sum(seconds) AS BIGINT),
    CAST(sum(read_gets) AS BIGINT), CAST(sum(read_fetched) AS BIGINT)";

fn usage_row(row: &Row<'_>) -> Result<UsageCounts> {
    let n = |column| row.get::<Option<u64>>(column).map(Option::unwrap_or_default);
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
            gets = traffic.gets + excluded.gets, fetched = traffic.fetched + excluded.fetched,
            kept = traffic.kept + excluded.kept, served = traffic.served + excluded.served,
            seconds = traffic.seconds + excluded.seconds,
            read_gets = traffic.read_gets + excluded.read_gets,
            read_fetched = traffic.read_fetched + excluded.read_fetched";
        self.write(move |db| {
            for (import, storage, t) in entries {
                let n = |n: u64| sql_int(n).unwrap_or(i64::MAX);
                let id = import.as_ref().map_or("", ImportId::as_str);
                let counts = (n(t.gets), n(t.fetched), n(t.from_cache), n(t.served), n(t.seconds));
                let (gets, fetched, kept, served, seconds) = counts;
                let (read_gets, read_fetched) = (n(t.read_gets), n(t.read_fetched));
                let values = values![
                    &month,
                    &storage,
                    id,
                    gets,
                    fetched,
                    kept,
                    served,
                    seconds,
                    read_gets,
                    read_fetched
                ];
                db.execute(sql, values)?;
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
        self.read(move |db| {
            let sums = |import: &ImportId| {
                let sums = first(db, &query, values![import.as_str()], usage_row)?;
                Ok(sums.unwrap_or_default())
            };
            imports.iter().map(sums).collect()
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
        let condition = if month.is_some() { "WHERE month = ?" } else { "" };
        let query =
            format!("{SUMS}, storage FROM traffic {condition} GROUP BY storage ORDER BY storage");
        let row = |row: &Row<'_>| Ok((row.get::<String>(7)?, usage_row(row)?));
        let month = month.map(str::to_owned);
        self.read(move |db| match &month {
            Some(month) => select(db, &query, values![month], row),
            None => select(db, &query, values![], row),
        })
        .await
    }

    /// For each of `keys`, the imports in a storage that have an object with this key: one, or several when it is
    /// shared or adopted.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn imports_of_keys(
        &self,
        storage: &str,
        keys: Vec<String>,
    ) -> Result<Vec<Vec<ImportId>>> {
        let query = "SELECT i.id, i.num FROM objects o JOIN imports i ON i.num = o.home
            WHERE o.key = ?1 AND i.storage = ?2
            UNION SELECT i.id, i.num FROM objects o JOIN extents e ON e.object = o.num
            JOIN imports i ON i.num = e.import WHERE o.key = ?1 AND i.storage = ?2 ORDER BY 2";
        let storage = storage.to_owned();
        self.read(move |db| {
            let imports = |key: &String| {
                let id = |row: &Row<'_>| row.parsed(0, |text| text.parse().ok());
                select(db, query, values![key, &storage], id)
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
