//! The facade over all layers: every operation that a surface (today the CLI) can request is a method of [`App`]. Only
//! this module combines the layers.
//!
//! Start order: lock of the data folder, catalog, memory budget. A torrent session starts only in a call that needs
//! one. Stop order: session (its jobs are aborted, its network thread is joined), writers (flushed within a deadline),
//! catalog. Durability does not depend on an orderly stop: a killed process loses only what was not committed.

mod adopt;
mod asking;
mod attach;
mod books;
mod check;
mod drive;
mod estimate;
mod export;
mod fill;
mod get;
mod get_claims;
mod get_file;
mod import;
mod import_files;
mod import_url;
mod lock;
mod login;
mod magnet;
mod manifest;
mod place;
mod plan;
mod publish;
mod read;
mod remote;
mod remove;
mod repair;
mod seed;
mod show;
mod source;
mod source_file;
mod stream;
mod types;
mod url;
mod verify;
mod verify_files;

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
    adopt::{AdoptRequest, AdoptSummary, MissingFile},
    books::{Spent, StorageBooks, storage_books},
    check::{CheckReport, Outcome, Probe, check_storage},
    estimate::{DriveLoad, Estimate, estimate},
    get::{GetItem, GetOrder, Getter},
    login::{LoginStep, LoginWay, login},
    read::ReadStream,
    stream::{FileRead, StreamedFile, StreamedImport, Streams},
    types::{
        Access, AttachReport, AttachedImport, BadPiece, ExportOrder, ExportSummary, FetchOrder,
        FileInfo, FileUrl, GcOrder, GcReport, Goal, GoalChange, ImportInfo, ImportRequest,
        ImportSummary, PublishSummary, Read, RemoveSummary, RepairRequest, Seeded, SkippedImport,
        VerifyReport,
    },
};
use self::{lock::DataLock, place::Place, plan::plain_file};
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
const SESSION_END: Duration = Duration::from_secs(8);
/// Timeout for flushing verified bytes to storage at a stop. Together with [`manifest::AT_STOP`] it is less than the
/// 10 s after which supervisors kill a process.
const FLUSH: Duration = Duration::from_secs(5);

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
pub struct App {
    config: Config,
    catalog: Catalog,
    pool: BlockPool,
    pressure: Arc<Pressure>,
    cache: Arc<WindowCache>,
    /// Number of imports that are being filled now.
    filling: AtomicUsize,
    places: tokio::sync::Mutex<HashMap<String, Arc<Place>>>,
    /// Imports that this process has opened. The usage counts prefer them when several imports share an object.
    opened: Mutex<HashSet<ImportId>>,
    /// Whether this process seeds. Seeding records the usage counts itself.
    seeding: AtomicBool,
    /// The lock of the data folder. Held while the folder is open for writing.
    lock: Option<DataLock>,
}

impl App {
    /// Opens the data folder.
    ///
    /// # Errors
    /// `Unavailable` when another bae process writes to it; `Unsupported` when a newer bae
    /// created it; otherwise the error of the file system.
    pub async fn open(config: Config, access: Access) -> Result<Self> {
        let (lock, catalog) = match access {
            Access::Write => {
                let lock = DataLock::take(&config.data_dir)?;
                (Some(lock), Catalog::open(&config.data_dir)?)
            }
            Access::Read => (None, Catalog::open_read_only(&config.data_dir)?),
            Access::Beside => match Catalog::open_beside(&config.data_dir) {
                // The catalog has an older schema: migrate it first, under the lock.
                Err(e) if e.kind() == Kind::Unsupported => {
                    let lock = DataLock::take(&config.data_dir)?;
                    (Some(lock), Catalog::open(&config.data_dir)?)
                }
                catalog => (None, catalog?),
            },
        };
        let pool = input_pool(&config);
        Ok(Self {
            pressure: Pressure::new(pool.clone()),
            cache: WindowCache::over(config.memory.0 / 2, disk_cache(&config, &catalog)?),
            filling: AtomicUsize::new(0),
            config,
            catalog,
            pool,
            places: tokio::sync::Mutex::default(),
            opened: Mutex::default(),
            seeding: AtomicBool::new(false),
            lock,
        })
    }

    /// Closes the data folder, after recording the last usage counts.
    ///
    /// # Errors
    /// Never fails yet; reserved for backends that can fail at shutdown.
    pub async fn close(self) -> Result<()> {
        self.book_reads().await;
        Ok(())
    }

    /// Guard of an import: while one is held, the read cache shrinks to 1/8 of the memory budget.
    fn importing(&self) -> Importing<'_> {
        self.filling.fetch_add(1, Ordering::Relaxed);
        self.cache.set_room(self.config.memory.0 - input_budget(&self.config));
        Importing(self)
    }

    /// The storage of an import.
    async fn place_of(&self, row: &ImportRow) -> Result<Arc<Place>> {
        self.place(&row.storage).await
    }

    /// The storage with this name or URL. It is opened once per process: connections, limits and sign-in are shared.
    ///
    /// # Errors
    /// `NotFound` when it is a local folder whose disk is not mounted; otherwise any error of opening it.
    async fn place(&self, storage: &str) -> Result<Arc<Place>> {
        let place = self.place_as_it_is(storage).await?;
        place.is_mounted(&self.catalog).await?;
        Ok(place)
    }

    /// As [`App::place`], without the check that the disk is mounted. For removing imports whose objects are lost.
    async fn place_as_it_is(&self, storage: &str) -> Result<Arc<Place>> {
        let mut places = self.places.lock().await;
        if let Some(place) = places.get(storage) {
            return Ok(Arc::clone(place));
        }
        let place = Arc::new(Place::open(&self.config.storage(storage)?, &self.catalog).await?);
        places.insert(storage.to_owned(), Arc::clone(&place));
        Ok(place)
    }

    /// Whether the data folder has no catalog, so that nothing was ever imported into it.
    ///
    /// # Errors
    /// When the path is not a folder, or cannot be read.
    pub fn is_new(config: &Config) -> Result<bool> {
        Catalog::is_in(&config.data_dir).map(|there| !there)
    }

    fn open_store(&self, row: &ImportRow, place: &Place) -> Result<Arc<ImportStore>> {
        self.opened.lock().insert(row.id.clone());
        ImportStore::open(&self.catalog, row, Arc::clone(&place.backend))
    }

    fn reader(&self, store: &Arc<ImportStore>) -> ImportReader {
        ImportReader::new(Arc::clone(store), Arc::clone(&self.cache))
    }

    /// The files of an import, including padding.
    fn files_of(&self, row: &ImportRow) -> Result<Vec<File>> {
        if row.is_torrent() {
            return Ok(self.metainfo_of(row)?.1.files);
        }
        Ok(self.catalog.files(&row.id)?.into_iter().map(plain_file).collect())
    }

    /// The torrent file of an import and its parsed metadata, with the file names that the import uses.
    fn metainfo_of(&self, row: &ImportRow) -> Result<(Vec<u8>, Metainfo)> {
        let bytes = self.catalog.metainfo(&row.id)?;
        let mut meta = Metainfo::parse(&bytes).map_err(|e| {
            Error::new(Kind::Corrupt, format!("import {}: its torrent in the catalog", row.id))
                .because(e)
        })?;
        import::keep_names(&self.catalog, row, &mut meta)?;
        Ok((bytes, meta))
    }
}

/// The on-disk read cache, when configured. Each catalog has its own
/// subfolder, because catalogs can use equal import ids.
fn disk_cache(config: &Config, catalog: &Catalog) -> Result<Option<Arc<DiskCache>>> {
    let open = |dir: &PathBuf| DiskCache::open(&dir.join(catalog.id()), config.cache_size.0);
    config.cache_dir.as_ref().map(open).transpose()
}

/// Guard of [`App::importing`]: when the last one is dropped, the read cache grows back to half of the memory budget.
struct Importing<'a>(&'a App);

impl Drop for Importing<'_> {
    fn drop(&mut self) {
        if self.0.filling.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.cache.set_room(self.0.config.memory.0 / 2);
        }
    }
}
