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

use super::{Engine, estimate::provider};
use crate::{
    backends::Reads,
    calendar::Utc,
    catalog::{Catalog, ImportId, UsageCounts},
    config::{Config, prices::Prices},
    error::{Kind, Result},
};

/// Interval between two recordings, while nothing is seeded.
const RECORD_INTERVAL: Duration = Duration::from_secs(60);

/// Reads by import and storage. The import is `None` where no import has the object.
pub(super) type ReadsByImport = HashMap<(Option<ImportId>, String), Reads>;

impl Engine {
    /// Records the usage counts once a minute. Never returns.
    pub async fn record_usage(&self) -> Infallible {
        loop {
            tokio::time::sleep(RECORD_INTERVAL).await;
            self.record_reads().await;
        }
    }

    /// Records the reads of remote storages since the last call, unless seeding does it. Counts
    /// that cannot be written are lost: reading goes on.
    pub(super) async fn record_reads(&self) {
        if self.seeding.load(Ordering::Relaxed) {
            return;
        }
        let recorded = async {
            let reads = self.take_reads(true).await?;
            let entry = |((import, storage), reads): (_, Reads)| {
                let Reads { gets, bytes } = reads;
                let usage =
                    UsageCounts { read_gets: gets, read_fetched: bytes, ..UsageCounts::default() };
                (import, storage, usage)
            };
            let entries: Vec<_> = reads.into_iter().map(entry).collect();
            if entries.is_empty() {
                return Ok(());
            }
            let month = Utc::now().year_month();
            match self.lock {
                Some(_) => self.catalog.add_usage(month, entries).await,
                // Access is read-only, or shared with another process that writes.
                None => {
                    let shared = Catalog::open_shared(&self.config.data_dir)?;
                    shared.add_usage(month, entries).await
                }
            }
        };
        let recorded: Result<()> = recorded.await;
        if let Err(e) = recorded {
            tracing::info!("cannot record the usage of storage: {}", e.report());
        }
    }

    /// Takes the reads since the last call: of all storages, or only of the
    /// remote ones. The counts of the others are dropped.
    pub(super) async fn take_reads(&self, only_remote: bool) -> Result<ReadsByImport> {
        let mut reads_by_import = ReadsByImport::new();
        for storage in self.storages.lock().await.values() {
            let taken = storage.meter.take();
            if only_remote && !storage.backend.is_remote() {
                continue;
            }
            for (key, reads) in taken {
                let import = self.import_of_object(&storage.name, key.as_str())?;
                *reads_by_import.entry((import, storage.name.clone())).or_default() += reads;
            }
        }
        Ok(reads_by_import)
    }

    /// The import that an object was read for. Several imports can share an object
    /// that the user owns: one that is open is preferred.
    fn import_of_object(&self, storage: &str, key: &str) -> Result<Option<ImportId>> {
        let imports = self.catalog.imports_of_key(storage, key)?;
        let opened = self.opened_imports.lock();
        let open = imports.iter().find(|id| opened.contains(*id)).or(imports.first());
        // Its import was removed meanwhile, or its bytes were moved to
        // another object. Our own keys contain the import id.
        let from_key = || key.split('/').nth(1)?.parse().ok();
        let is_ours = key.starts_with(&self.catalog.key_prefix());
        Ok(open.cloned().or_else(|| if is_ours { from_key() } else { None }))
    }
}

/// Requests and bytes read from a storage, their price, and the bytes sent to peers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct PricedUsage {
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
pub struct StorageUsage {
    /// In this calendar month (UTC).
    pub month: PricedUsage,
    /// Over all time.
    pub total: PricedUsage,
}

/// Usage of every storage that was read from, by its name or URL. Empty where there is no catalog.
///
/// # Errors
/// When the catalog cannot be read.
pub fn storage_usage(config: &Config) -> Result<BTreeMap<String, StorageUsage>> {
    let mut usage = BTreeMap::<String, StorageUsage>::new();
    let catalog = match Catalog::open_read_only(&config.data_dir) {
        Ok(catalog) => catalog,
        // There is no catalog, or one of an older bae without usage counts.
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Unsupported) => return Ok(usage),
        Err(e) => return Err(e),
    };
    for (storage, counts) in catalog.usage_by_storage(None)? {
        let total = priced_usage(config, &storage, &counts);
        usage.entry(storage).or_default().total = total;
    }
    for (storage, counts) in catalog.usage_by_storage(Some(&Utc::now().year_month()))? {
        let month = priced_usage(config, &storage, &counts);
        usage.entry(storage).or_default().month = month;
    }
    Ok(usage)
}

pub(super) fn priced_usage(config: &Config, storage: &str, counts: &UsageCounts) -> PricedUsage {
    let (gets, fetched) = (counts.all_gets(), counts.all_fetched());
    let dollars = price_of_reads(config, storage, gets, fetched);
    PricedUsage { gets, fetched, served: counts.served, dollars }
}

/// Price in dollars of `gets` requests that returned `fetched` bytes. `None` for a storage without known prices, or one
/// that is no longer configured.
pub(super) fn price_of_reads(
    config: &Config,
    storage: &str,
    gets: u64,
    fetched: u64,
) -> Option<f64> {
    let profile = config.storage(storage).ok()?;
    Some(provider(&profile.kind, Prices::table())?.read_cost(gets, fetched))
}
