//! The facade over all layers: every operation that a surface (today the CLI) can request is a method of [`Engine`].
//! Only this module combines the layers.
//!
//! An [`Engine`] is a cheap handle. What it stands for is opened once and lives until the last handle and the last task
//! is gone: the lock of the data folder, the catalog, the opened storages, the caches, the memory budget, one libtorrent
//! session (the room `session`), the event log, and the tasks: running imports (`running`), the seeder (`seed`), and the
//! recording of usage (`usage`). Imports and seeding return handles at once and run as tasks; other operations run in
//! the caller.
//!
//! Start order: lock of the data folder, catalog, memory budget, task that records usage. The session starts when the
//! first import or seeding needs a swarm.
//!
//! Stop order ([`Engine::close`]): running imports flush their verified bytes within 5 s and write their manifests
//! within 2 s; at the same time the session ends within 8 s (its jobs are aborted, its network thread is joined). Then
//! the last usage is recorded, and the catalog closes with the last handle. All of it takes less than the 10 s after
//! which supervisors kill a process. Durability does not depend on an orderly stop: a killed process loses only what was
//! not committed.
//!
//! Refused: two operations that write one import at the same time (`running/registry.rs`), and new imports while the
//! engine closes.

mod estimate;
mod get;
mod import;
mod lock;
mod maintain;
mod plan;
mod running;
mod seed;
#[cfg(test)]
mod send_tests;
mod serve;
mod session;
mod show;
mod storages;
mod types;
mod usage;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    ops::Deref,
    path::PathBuf,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use parking_lot::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    estimate::{DriveLoad, Estimate, estimate},
    get::{GetItem, GetOptions, GetPreview, Getter},
    import::identify::{SourceIdentity, identify_link, identify_torrent},
    maintain::adopt::{AdoptRequest, AdoptSummary, MissingFile},
    running::{ImportHandle, ImportSettings, RunningState, SeedHandle, SeedProgress},
    serve::{
        cid::ContentCid,
        file_reader::FileReader,
        read::ReadStream,
        stream::{FileRead, StreamedFile, StreamedImport, Streams},
    },
    storages::{
        check::{CheckReport, Outcome, ProbeResult, check_storage},
        login::{LoginFlow, LoginStep, login},
    },
    types::{
        Access, AttachReport, AttachedImport, BadPiece, ContentProgress, DownloadOptions,
        EngineOptions, ExportOptions, ExportSummary, FileInfo, FileProgress, FileUrl, GcOptions,
        GcReport, ImportInfo, ImportRequest, ImportSummary, PublishSummary, ReadUsage,
        RemoveSummary, RepairRequest, SeedGoalChange, SeedGoalInfo, SeedUsage, SkippedImport,
        StoredMap, VerifyReport,
    },
    usage::{PricedUsage, StorageUsage, storage_usage},
};
use self::{
    lock::DataLock, plan::file_of_row, running::Registry, seed::Seeder, session::SessionSlot,
    storages::open_storage::OpenStorage,
};
use crate::{
    backends::StorageBackend,
    catalog::{Catalog, ImportId, ImportRow, leases::Leases},
    clock::Clock,
    config::Config,
    error::{Error, Kind, Result},
    events::EventLog,
    memory::{BlockPool, Budget, ImportGuard},
    rate::RateLimit,
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

/// An open data folder. Clones share it.
#[derive(Clone)]
pub struct Engine(Arc<EngineInner>);

impl Deref for Engine {
    type Target = EngineInner;

    fn deref(&self) -> &EngineInner {
        &self.0
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("data_dir", &self.config.data_dir).finish_non_exhaustive()
    }
}

/// What all clones of an [`Engine`] share.
#[doc(hidden)]
#[derive(Debug)]
pub struct EngineInner {
    config: Config,
    catalog: Catalog,
    /// The one owner of `--memory`.
    memory: Budget,
    /// The blocks of imports.
    pool: BlockPool,
    pressure: Arc<Pressure>,
    cache: Arc<WindowCache>,
    storages: tokio::sync::Mutex<HashMap<String, Arc<OpenStorage>>>,
    /// Backends of the embedding program, by the name of their storage.
    custom_backends: HashMap<String, Arc<dyn StorageBackend>>,
    /// Imports that this process has opened. The usage counts prefer them when several imports share an object.
    opened_imports: Mutex<HashSet<ImportId>>,
    /// Number of seeder tasks, 0 or 1 except at a change. Seeding records the usage counts itself.
    seeding: AtomicUsize,
    seeder: Seeder,
    session: SessionSlot,
    events: EventLog,
    running: Arc<Registry>,
    /// The download limit of imports from servers. Peers have the limit of the session.
    server_limit: Arc<RateLimit>,
    /// The tasks that [`Engine::close`] waits for.
    tasks: TaskTracker,
    /// Cancelled when the engine closes.
    stopping: CancellationToken,
    /// The lock of the data folder. Held while the folder is open for writing.
    lock: Option<DataLock>,
}

impl Drop for EngineInner {
    fn drop(&mut self) {
        // Ends the task that records usage.
        self.stopping.cancel();
    }
}

impl Engine {
    /// Opens the data folder.
    ///
    /// # Errors
    /// `Unavailable` when another bae process writes to it; `Unsupported` when a newer bae
    /// created it; otherwise the error of the file system.
    pub async fn open(config: Config, options: EngineOptions) -> Result<Self> {
        let (lock, catalog) = match options.access {
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
        // Without the lock another process writes, and this one takes no leases.
        let leases = lock.is_some().then(|| Leases::new(catalog.clone(), Clock::system()));
        let leases = leases.transpose()?;
        let memory = Budget::new(config.memory.0);
        let pool = memory.incoming();
        let pressure = Pressure::new(pool.clone());
        let inner = EngineInner {
            session: SessionSlot::new(options.session, Arc::clone(&pressure), pool.clone()),
            pressure,
            cache: WindowCache::with_memory(memory.clone(), disk_cache(&config, &catalog)?),
            server_limit: RateLimit::new(config.limit_rate),
            config,
            catalog,
            memory,
            pool,
            storages: tokio::sync::Mutex::default(),
            custom_backends: options.backends,
            opened_imports: Mutex::default(),
            seeding: AtomicUsize::new(0),
            seeder: Seeder::default(),
            events: EventLog::new(options.log_limits),
            running: Arc::new(Registry::with_leases(leases.clone())),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            lock,
        };
        let engine = Self(Arc::new(inner));
        engine.spawn_usage_recording();
        if let Some(leases) = leases {
            engine.spawn_lease_renewal(leases);
        }
        Ok(engine)
    }

    /// The settings that the engine was opened with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The catalog, for layers that keep rows of their own in it.
    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The memory budget, and the payload bytes in memory.
    #[must_use]
    pub fn memory_use(&self) -> (u64, u64) {
        (self.memory.total() as u64, self.memory.held() as u64)
    }

    /// Cancelled when the engine closes.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Name and hashes of an import.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) async fn import_identity(&self, import: &str) -> Result<SourceIdentity> {
        let row = self.catalog.get(&import.parse()?).await?;
        Ok(SourceIdentity {
            source: row.source,
            torrent_file: None,
            name: row.name,
            info_hash_v1: row.info_hash_v1,
            info_hash_v2: row.info_hash_v2,
            bytes: Some(row.wanted.bytes),
            host: None,
        })
    }

    /// The events of everything that this engine does.
    #[must_use]
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// Whether the torrent session runs. It starts with the first import or seeding that needs it.
    #[must_use]
    pub fn has_session(&self) -> bool {
        self.session.has_started()
    }

    /// Changes the rate limits of all imports and seeding together, in bytes per second. `None` is no limit.
    ///
    /// # Errors
    /// `Cancelled` when the engine is closed.
    pub fn set_limits(&self, download: Option<u64>, upload: Option<u64>) -> Result<()> {
        self.server_limit.set(download);
        self.session.set_limits(download, upload)
    }

    /// Starts the orderly stop that [`Engine::close`] waits for. From now on no import starts.
    pub fn shutdown(&self) {
        if self.stopping.is_cancelled() {
            return;
        }
        self.stopping.cancel();
        // At the same time as running imports flush.
        let engine = self.clone();
        self.tasks.spawn(async move { engine.session.stop().await });
    }

    /// Stops everything that runs, in order, and records the last usage counts. May be called again, and by any clone.
    ///
    /// # Errors
    /// Never fails yet; reserved for backends that can fail at shutdown.
    pub async fn close(&self) -> Result<()> {
        self.shutdown();
        self.tasks.close();
        self.tasks.wait().await;
        self.record_reads().await;
        Ok(())
    }

    /// # Errors
    /// `Cancelled` while the engine closes; `PermissionDenied` when the data folder is open for reading only.
    fn check_writable(&self) -> Result<()> {
        if self.stopping.is_cancelled() {
            return Err(Error::new(Kind::Cancelled, "the engine is closing"));
        }
        if self.lock.is_none() {
            let text = "the data folder is open for reading only";
            return Err(Error::new(Kind::PermissionDenied, text));
        }
        Ok(())
    }

    /// Guard of an import: while one is held, imports have most of the memory budget.
    fn import_guard(&self) -> ImportGuard {
        self.memory.begin_import()
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
        let profile = self.config.storage(storage)?;
        let custom = self.custom_backends.get(storage);
        let opened = OpenStorage::open(&profile, custom, &self.catalog, &self.memory).await?;
        let opened = Arc::new(opened);
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

    /// As [`Engine::open_store`], for an import whose length is unknown until its transfer ends.
    async fn open_growing_store(
        &self,
        row: &ImportRow,
        storage: &OpenStorage,
    ) -> Result<Arc<ImportStore>> {
        self.opened_imports.lock().insert(row.id.clone());
        ImportStore::open_growing(&self.catalog, row, Arc::clone(&storage.backend)).await
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
