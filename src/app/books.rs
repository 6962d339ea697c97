//! The books: what reading the imports cost, for peers and for everybody else, by import and storage.
//!
//! Every place counts what is got from it, by object, where the requests leave for it: what is tried again or asked twice
//! counts as often. From time to time, and at the end, the counts are taken and go into the catalog under the month, for
//! the import that names the object. A bae that was killed has lost those of the last minute.

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

/// How often what is read goes into the books, while nothing is seeded.
const OFTEN: Duration = Duration::from_secs(60);

/// What was read, by import (none where no import names the object) and storage.
pub(super) type ReadBy = HashMap<(Option<ImportId>, String), Reads>;

impl App {
    /// Writes into the books from time to time.
    pub async fn keep_books(&self) -> Infallible {
        loop {
            tokio::time::sleep(OFTEN).await;
            self.book_reads().await;
        }
    }

    /// Writes into the books what was read from places that are not on this machine since the last time, unless seeding
    /// does it. What cannot be written is lost: nobody is kept from reading by that.
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
                // Open for reading only, or beside a process that writes.
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

    /// What was read since this was last asked: of all places, or only of those that are not on this machine.
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

    /// The import that an object was read for. An object that is the user's own may be in several: it was for one that
    /// is open.
    fn whose(&self, storage: &str, key: &str) -> Result<Option<ImportId>> {
        let imports = self.catalog.imports_of_key(storage, key)?;
        let opened = self.opened.lock();
        let open = imports.iter().find(|id| opened.contains(*id)).or(imports.first());
        // Removed meanwhile, perhaps because its bytes are in another object now: our keys tell it.
        let told = || key.split('/').nth(1)?.parse().ok();
        let ours = key.starts_with(&self.catalog.key_prefix());
        Ok(open.cloned().or_else(|| if ours { told() } else { None }))
    }
}

/// What reading from a storage cost, and what peers got of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spent {
    pub gets: u64,
    /// Bytes they brought.
    pub fetched: u64,
    /// Bytes sent to peers.
    pub served: u64,
    /// What the gets and their bytes cost at list prices; `None` where those are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dollars: Option<f64>,
}

/// The books of a storage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StorageBooks {
    /// In this calendar month (UTC).
    pub month: Spent,
    /// Ever.
    pub total: Spent,
}

/// The books of every storage that anything was read from, by its name or URL. Empty where there is no catalog.
///
/// # Errors
/// When the catalog cannot be read.
pub fn storage_books(config: &Config) -> Result<BTreeMap<String, StorageBooks>> {
    let mut books = BTreeMap::<String, StorageBooks>::new();
    let catalog = match Catalog::open_read_only(&config.data_dir) {
        Ok(catalog) => catalog,
        // None yet, or of an older bae, which had no such books.
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

/// The money for so many gets that brought so many bytes. A storage that is not configured any more has no prices.
pub(super) fn dollars(config: &Config, storage: &str, gets: u64, fetched: u64) -> Option<f64> {
    let profile = config.storage(storage).ok()?;
    Some(provider(&profile.kind, Prices::table())?.reading(gets, fetched))
}
