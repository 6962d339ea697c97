//! Usage counts: the requests and bytes that reading cost, by import, storage and month.
//!
//! The [`Metered`](crate::backends::Metered) wrapper of each storage counts gets by object, below retries and hedges: a
//! repeated request counts each time. Every minute, and when the data folder is closed, the counts are taken, assigned
//! to the import that owns the object, and added to the catalog under the current month. A killed process loses the
//! counts of the last minute. Reads of local storage are not recorded here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde::Serialize;

use super::{Engine, estimate::provider, storages::open_storage::OpenStorage};
use crate::{
    backends::{Key, Reads},
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
    /// Starts the task that records the usage counts once a minute. It ends with the engine and does not keep it open.
    pub(super) fn spawn_usage_recording(&self) {
        let (engine, stopping) = (Arc::downgrade(&self.0), self.stopping.clone());
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = tokio::time::sleep(RECORD_INTERVAL) => {}
                }
                match engine.upgrade() {
                    Some(engine) => Engine(engine).record_reads().await,
                    None => return,
                }
            }
        });
    }

    /// Records the reads of remote storages since the last call, unless seeding does it. Counts
    /// that cannot be written are lost: reading goes on.
    pub(super) async fn record_reads(&self) {
        if self.seeding.load(Ordering::Relaxed) > 0 {
            return;
        }
        let recorded = async {
            let found = self.find_reads(true).await?;
            if found.is_empty() {
                return Ok(());
            }
            // Access may be read-only, or shared with another process that writes.
            let shared = match self.lock {
                Some(_) => Ok(None),
                None => Catalog::open_shared(&self.config.data_dir).await.map(Some),
            };
            let entry = |((import, storage), reads): (_, Reads)| {
                let Reads { gets, bytes } = reads;
                let usage =
                    UsageCounts { read_gets: gets, read_fetched: bytes, ..UsageCounts::default() };
                (import, storage, usage)
            };
            let entries = found.take().into_iter().map(entry).collect();
            let catalog = shared?.unwrap_or_else(|| self.catalog.clone());
            catalog.add_usage(Utc::now().year_month(), entries).await
        };
        let recorded: Result<()> = recorded.await;
        if let Err(e) = recorded {
            tracing::info!("cannot record the usage of storage: {}", e.report());
        }
    }

    /// Finds the reads that are not recorded yet: of all storages, or only of the
    /// remote ones. The counts of the others are dropped.
    pub(super) async fn find_reads(&self, only_remote: bool) -> Result<UnrecordedReads> {
        let storages: Vec<_> = self.storages.lock().await.values().cloned().collect();
        let mut found = Vec::new();
        for storage in storages {
            if only_remote && !storage.backend.is_remote() {
                drop(storage.meter.take());
                continue;
            }
            let keys = storage.meter.keys();
            if keys.is_empty() {
                continue;
            }
            let names = keys.iter().map(|key| key.as_str().to_owned()).collect();
            let imports = self.catalog.imports_of_keys(&storage.name, names).await?;
            let by_key = keys.into_iter().zip(imports).map(|(key, imports)| {
                let import = self.import_of_object(key.as_str(), &imports);
                (key, import)
            });
            let by_key = by_key.collect();
            found.push((storage, by_key));
        }
        Ok(UnrecordedReads(found))
    }

    /// The import that an object was read for. Several `imports` can share an object
    /// that the user owns: one that is open is preferred.
    fn import_of_object(&self, key: &str, imports: &[ImportId]) -> Option<ImportId> {
        let opened = self.opened_imports.lock();
        let open = imports.iter().find(|id| opened.contains(*id)).or(imports.first());
        // Its import was removed meanwhile, or its bytes were moved to
        // another object. Our own keys contain the import id.
        let from_key = || key.split('/').nth(1)?.parse().ok();
        let is_ours = key.starts_with(&self.catalog.key_prefix());
        open.cloned().or_else(|| if is_ours { from_key() } else { None })
    }
}

/// The import of each object that was read, as in [`ReadsByImport`].
type ImportsByKey = HashMap<Key, Option<ImportId>>;

/// Reads that are not recorded yet, by storage.
pub(super) struct UnrecordedReads(Vec<(Arc<OpenStorage>, ImportsByKey)>);

impl UnrecordedReads {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the counts. The caller queues their record before it waits for anything else: it may be cancelled at a
    /// wait, and the counts would be lost.
    pub(super) fn take(self) -> ReadsByImport {
        let mut reads_by_import = ReadsByImport::new();
        for (storage, imports) in self.0 {
            for (key, reads) in storage.meter.take_if(|key| imports.contains_key(key)) {
                let import = imports.get(&key).cloned().flatten();
                *reads_by_import.entry((import, storage.name.clone())).or_default() += reads;
            }
        }
        reads_by_import
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
pub async fn storage_usage(config: &Config) -> Result<BTreeMap<String, StorageUsage>> {
    let mut usage = BTreeMap::<String, StorageUsage>::new();
    let catalog = match Catalog::open_read_only(&config.data_dir).await {
        Ok(catalog) => catalog,
        // There is no catalog, or one of an older bae without usage counts.
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Unsupported) => return Ok(usage),
        Err(e) => return Err(e),
    };
    for (storage, counts) in catalog.usage_by_storage(None).await? {
        let total = priced_usage(config, &storage, &counts);
        usage.entry(storage).or_default().total = total;
    }
    let this_month = Utc::now().year_month();
    for (storage, counts) in catalog.usage_by_storage(Some(&this_month)).await? {
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
