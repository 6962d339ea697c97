//! The facade over all layers: every operation that a surface (today the CLI) can request is a method of [`Engine`].
//! Only this module combines the layers.
//!
//! Start order: lock of the data folder, catalog, memory budget. A torrent session starts only in a call that needs
//! one. Stop order: session (its jobs are aborted, its network thread is joined), writers (flushed within a deadline),
//! catalog. Durability does not depend on an orderly stop: a killed process loses only what was not committed.

mod estimate;
mod get;
mod import;
mod lock;
mod maintain;
mod plan;
mod seed;
mod serve;
mod show;
mod storages;
mod types;
mod usage;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

pub use self::{
    estimate::{DriveLoad, Estimate, estimate},
    get::{GetItem, GetOptions, Getter},
    maintain::adopt::{AdoptRequest, AdoptSummary, MissingFile},
    serve::{
        read::ReadStream,
        stream::{FileRead, StreamedFile, StreamedImport, Streams},
    },
    storages::{
        check::{CheckReport, Outcome, ProbeResult, check_storage},
        login::{LoginFlow, LoginStep, login},
    },
    types::{
        Access, AttachReport, AttachedImport, BadPiece, DownloadOptions, ExportOptions,
        ExportSummary, FileInfo, FileUrl, GcOptions, GcReport, ImportInfo, ImportRequest,
        ImportSummary, PublishSummary, ReadUsage, RemoveSummary, RepairRequest, SeedGoalChange,
        SeedGoalInfo, SeedUsage, SkippedImport, VerifyReport,
    },
    usage::{PricedUsage, StorageUsage, storage_usage},
};
use self::{lock::DataLock, plan::file_of_row, storages::open_storage::OpenStorage};
use crate::{
    catalog::{Catalog, ImportId, ImportRow},
    config::Config,
    error::{Error, Kind, Result},
    memory::BlockPool,
    storage::{DiskCache, ImportReader, ImportStore, Pressure, WindowCache},
    torrents::metainfo::{File, Metainfo},
};

/// Progress callback: bytes done, bytes in total.
pub type ProgressFn = Box<dyn Fn(u64, u64) + Send + Sync>;

/// Timeout for stopping the torrent session. Announcing the stop to trackers takes at most 5 s of it.
const SESSION_STOP_TIMEOUT: Duration = Duration::from_secs(8);
/// Timeout for flushing verified bytes to storage at a stop. Together with [`maintain::manifest::STOP_TIMEOUT`] it is
/// less than the 10 s after which supervisors kill a process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The share of the memory budget for incoming bytes: 7/8. The read cache gets the other 1/8
/// during an import, and 1/2 at other times. It never gets all: the allocator needs slack, and
/// blocks that are sent to peers have a pool of their own.
fn input_budget(config: &Config) -> u64 {
    config.memory.0 - config.memory.0 / 8
}

fn input_pool(config: &Config) -> BlockPool {
    BlockPool::new(usize::try_from(input_budget(config)).unwrap_or(usize::MAX))
}

/// An open data folder.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    catalog: Catalog,
    pool: BlockPool,
    pressure: Arc<Pressure>,
    cache: Arc<WindowCache>,
    /// Number of imports that are being filled now.
    active_imports: AtomicUsize,
    storages: tokio::sync::Mutex<HashMap<String, Arc<OpenStorage>>>,
    /// Imports that this process has opened. The usage counts prefer them when several imports share an object.
    opened_imports: Mutex<HashSet<ImportId>>,
    /// Whether this process seeds. Seeding records the usage counts itself.
    seeding: AtomicBool,
    /// The lock of the data folder. Held while the folder is open for writing.
    lock: Option<DataLock>,
}

impl Engine {
    /// Opens the data folder.
    ///
    /// # Errors
    /// `Unavailable` when another bae process writes to it; `Unsupported` when a newer bae
    /// created it; otherwise the error of the file system.
    pub async fn open(config: Config, access: Access) -> Result<Self> {
        let (lock, catalog) = match access {
            Access::Write => {
                let lock = DataLock::take(&config.data_dir)?;
                (Some(lock), Catalog::open(&config.data_dir).await?)
            }
            Access::Read => (None, Catalog::open_read_only(&config.data_dir).await?),
            Access::Shared => match Catalog::open_shared(&config.data_dir).await {
                // The catalog has an older schema: migrate it first, under the lock.
                Err(e) if e.kind() == Kind::Unsupported => {
                    let lock = DataLock::take(&config.data_dir)?;
                    (Some(lock), Catalog::open(&config.data_dir).await?)
                }
                catalog => (None, catalog?),
            },
        };
        let pool = input_pool(&config);
        Ok(Self {
            pressure: Pressure::new(pool.clone()),
            cache: WindowCache::with_disk(config.memory.0 / 2, disk_cache(&config, &catalog)?),
            active_imports: AtomicUsize::new(0),
            config,
            catalog,
            pool,
            storages: tokio::sync::Mutex::default(),
            opened_imports: Mutex::default(),
            seeding: AtomicBool::new(false),
            lock,
        })
    }

    /// Closes the data folder, after recording the last usage counts.
    ///
    /// # Errors
    /// Never fails yet; reserved for backends that can fail at shutdown.
    pub async fn close(self) -> Result<()> {
        self.record_reads().await;
        Ok(())
    }

    /// Guard of an import: while one is held, the read cache shrinks to 1/8 of the memory budget.
    fn import_guard(&self) -> ImportGuard<'_> {
        self.active_imports.fetch_add(1, Ordering::Relaxed);
        self.cache.set_capacity(self.config.memory.0 - input_budget(&self.config));
        ImportGuard(self)
    }

    /// The storage of an import.
    async fn storage_of(&self, row: &ImportRow) -> Result<Arc<OpenStorage>> {
        self.storage(&row.storage).await
    }

    /// The storage with this name or URL. It is opened once per process: connections, limits and sign-in are shared.
    ///
    /// # Errors
    /// `NotFound` when it is a local folder whose disk is not mounted; otherwise any error of opening it.
    async fn storage(&self, storage: &str) -> Result<Arc<OpenStorage>> {
        let opened = self.storage_unchecked(storage).await?;
        opened.check_mounted(&self.catalog).await?;
        Ok(opened)
    }

    /// As [`Engine::storage`], without the check that the disk is mounted. For removing imports whose objects are lost.
    async fn storage_unchecked(&self, storage: &str) -> Result<Arc<OpenStorage>> {
        let mut storages = self.storages.lock().await;
        if let Some(opened) = storages.get(storage) {
            return Ok(Arc::clone(opened));
        }
        let opened =
            Arc::new(OpenStorage::open(&self.config.storage(storage)?, &self.catalog).await?);
        storages.insert(storage.to_owned(), Arc::clone(&opened));
        Ok(opened)
    }

    /// Whether the data folder has no catalog, so that nothing was ever imported into it.
    ///
    /// # Errors
    /// When the path is not a folder, or cannot be read.
    pub fn is_new(config: &Config) -> Result<bool> {
        Catalog::exists_in(&config.data_dir).map(|exists| !exists)
    }

    async fn open_store(&self, row: &ImportRow, storage: &OpenStorage) -> Result<Arc<ImportStore>> {
        self.opened_imports.lock().insert(row.id.clone());
        ImportStore::open(&self.catalog, row, Arc::clone(&storage.backend)).await
    }

    fn reader(&self, store: &Arc<ImportStore>) -> ImportReader {
        ImportReader::new(Arc::clone(store), Arc::clone(&self.cache))
    }

    /// The files of an import, including padding.
    async fn files_of(&self, row: &ImportRow) -> Result<Vec<File>> {
        if row.is_torrent() {
            return Ok(self.metainfo_of(row).await?.1.files);
        }
        Ok(self.catalog.files(&row.id).await?.into_iter().map(file_of_row).collect())
    }

    /// The torrent file of an import and its parsed metadata, with the file names that the import uses.
    async fn metainfo_of(&self, row: &ImportRow) -> Result<(Vec<u8>, Metainfo)> {
        let (bytes, mut meta) = self.original_metainfo_of(row).await?;
        import::use_recorded_names(&self.catalog, row, &mut meta).await?;
        Ok((bytes, meta))
    }

    /// As [`Engine::metainfo_of`], with the file names that the torrent file has.
    async fn original_metainfo_of(&self, row: &ImportRow) -> Result<(Vec<u8>, Metainfo)> {
        let bytes = self.catalog.metainfo(&row.id).await?;
        let meta = Metainfo::parse(&bytes).map_err(|e| {
            Error::new(
                Kind::Corrupt,
                format!("import {}: the torrent file in the catalog is malformed", row.id),
            )
            .because(e)
        })?;
        Ok((bytes, meta))
    }
}

/// The on-disk read cache, when configured. Each catalog has its own
/// subfolder, because catalogs can use equal import ids.
fn disk_cache(config: &Config, catalog: &Catalog) -> Result<Option<Arc<DiskCache>>> {
    let open = |dir: &PathBuf| DiskCache::open(&dir.join(catalog.id()), config.cache_size.0);
    config.cache_dir.as_ref().map(open).transpose()
}

/// Guard of [`Engine::import_guard`]: when the last one is dropped, the read cache grows back to half of the memory
/// budget.
struct ImportGuard<'a>(&'a Engine);

impl Drop for ImportGuard<'_> {
    fn drop(&mut self) {
        if self.0.active_imports.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.cache.set_capacity(self.0.config.memory.0 / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn futures_of_the_engine_can_be_spawned() {
        fn assert_send<F: Send>(_: impl FnOnce(&'static Engine) -> F) {}
        assert_send(|engine| engine.list());
        assert_send(|engine| engine.info("x"));
        assert_send(|engine| engine.verify_quick("x"));
        assert_send(|engine| engine.remove("x", false));
        assert_send(|engine| engine.gc(GcOptions { remove: true, attached: false }));
        assert_send(|engine| engine.attach("file", true));
        assert_send(|engine| engine.open_read("x", None, None));
        assert_send(|engine| engine.record_usage());
    }
}
