//! Usage counts: the requests and bytes that reading cost, by import, storage and month.
//!
//! The [`Metered`](crate::backends::Metered) wrapper of each storage counts gets by object, below retries and hedges: a
//! repeated request counts each time. Every minute, and when the data folder is closed, the counts are taken, assigned
//! to the import that owns the object, and added to the catalog under the current month. A killed process loses the
//! counts of the last minute. Reads of local storage are not recorded here.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::atomic::Ordering,
    time::Duration,
};

use serde::Serialize;

use super::{App, estimate::provider};
use crate::{
    backends::Reads,
    calendar::Utc,
    catalog::{Catalog, ImportId, Traffic},
    config::{Config, prices::Prices},
    error::{Kind, Result},
};

/// Interval between two recordings, while nothing is seeded.
const OFTEN: Duration = Duration::from_secs(60);

/// Reads by import and storage. The import is `None` where no import has the object.
pub(super) type ReadBy = HashMap<(Option<ImportId>, String), Reads>;

impl App {
    /// Records the usage counts once a minute. Never returns.
    pub async fn keep_books(&self) -> Infallible {
        loop {
            tokio::time::sleep(OFTEN).await;
            self.book_reads().await;
        }
    }

    /// Records the reads of remote storages since the last call, unless seeding does it. Counts
    /// that cannot be written are lost: reading goes on.
    pub(super) async fn book_reads(&self) {
        if self.seeding.load(Ordering::Relaxed) {
            return;
        }
        let booked = async {
            let reads = self.take_reads(true).await?;
            let entry = |((import, storage), reads): (_, Reads)| {
                let Reads { gets, bytes } = reads;
                let traffic =
                    Traffic { read_gets: gets, read_fetched: bytes, ..Traffic::default() };
                (import, storage, traffic)
            };
            let entries: Vec<_> = reads.into_iter().map(entry).collect();
            if entries.is_empty() {
                return Ok(());
            }
            let month = Utc::now().month_name();
            match self.lock {
                Some(_) => self.catalog.add_traffic(month, entries).await,
                // Access is read-only, or shared with another process that writes.
                None => {
                    let beside = Catalog::open_beside(&self.config.data_dir)?;
                    beside.add_traffic(month, entries).await
                }
            }
        };
        let booked: Result<()> = booked.await;
        if let Err(e) = booked {
            tracing::info!("what was read is not in the books: {}", e.report());
        }
    }

    /// Takes the reads since the last call: of all storages, or only of the
    /// remote ones. The counts of the others are dropped.
    pub(super) async fn take_reads(&self, only_remote: bool) -> Result<ReadBy> {
        let mut found = ReadBy::new();
        for place in self.places.lock().await.values() {
            let taken = place.meter.take();
            if only_remote && !place.backend.is_remote() {
                continue;
            }
            for (key, reads) in taken {
                let import = self.whose(&place.name, key.as_str())?;
                *found.entry((import, place.name.clone())).or_default() += reads;
            }
        }
        Ok(found)
    }

    /// The import that an object was read for. Several imports can share an object
    /// that the user owns: one that is open is preferred.
    fn whose(&self, storage: &str, key: &str) -> Result<Option<ImportId>> {
        let imports = self.catalog.imports_of_key(storage, key)?;
        let opened = self.opened.lock();
        let open = imports.iter().find(|id| opened.contains(*id)).or(imports.first());
        // Its import was removed meanwhile, or its bytes were moved to
        // another object. Our own keys contain the import id.
        let told = || key.split('/').nth(1)?.parse().ok();
        let ours = key.starts_with(&self.catalog.key_prefix());
        Ok(open.cloned().or_else(|| if ours { told() } else { None }))
    }
}

/// Requests and bytes read from a storage, their price, and the bytes sent to peers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spent {
    pub gets: u64,
    /// Bytes those gets returned.
    pub fetched: u64,
    /// Bytes sent to peers.
    pub served: u64,
    /// Price of the gets and their bytes, from the provider's list; `None` where the prices are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dollars: Option<f64>,
}

/// Usage of a storage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StorageBooks {
    /// In this calendar month (UTC).
    pub month: Spent,
    /// Over all time.
    pub total: Spent,
}

/// Usage of every storage that was read from, by its name or URL. Empty where there is no catalog.
///
/// # Errors
/// When the catalog cannot be read.
pub fn storage_books(config: &Config) -> Result<BTreeMap<String, StorageBooks>> {
    let mut books = BTreeMap::<String, StorageBooks>::new();
    let catalog = match Catalog::open_read_only(&config.data_dir) {
        Ok(catalog) => catalog,
        // There is no catalog, or one of an older bae without usage counts.
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Unsupported) => return Ok(books),
        Err(e) => return Err(e),
    };
    for (storage, traffic) in catalog.traffic_in(None)? {
        let total = spent(config, &storage, &traffic);
        books.entry(storage).or_default().total = total;
    }
    for (storage, traffic) in catalog.traffic_in(Some(&Utc::now().month_name()))? {
        let month = spent(config, &storage, &traffic);
        books.entry(storage).or_default().month = month;
    }
    Ok(books)
}

pub(super) fn spent(config: &Config, storage: &str, traffic: &Traffic) -> Spent {
    let (gets, fetched) = (traffic.all_gets(), traffic.all_fetched());
    let dollars = dollars(config, storage, gets, fetched);
    Spent { gets, fetched, served: traffic.served, dollars }
}

/// Price in dollars of `gets` requests that returned `fetched` bytes. `None` for a storage without known prices, or one
/// that is no longer configured.
pub(super) fn dollars(config: &Config, storage: &str, gets: u64, fetched: u64) -> Option<f64> {
    let profile = config.storage(storage).ok()?;
    Some(provider(&profile.kind, Prices::table())?.reading(gets, fetched))
}
