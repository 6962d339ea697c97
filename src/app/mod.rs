//! The one way in: everything a surface (the CLI today) can ask for, and the only place that puts the layers together.
//!
//! Start order: lock of the data folder, catalog, memory budget; a torrent session only for a call that needs one.
//! Stop order: session (its jobs are aborted, its network thread joined), writers (flushed within a deadline), catalog.
//! Nothing durable depends on any of it happening: a killed process loses what was not committed, no more.

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

/// Called with the bytes done and the bytes there are.
pub type ProgressFn = Box<dyn Fn(u64, u64) + Send + Sync>;

/// How long the torrent session may take to end: trackers hear of it within five seconds.
const SESSION_END: Duration = Duration::from_secs(8);
/// How long a stop waits for storage to take what is verified already. With [`manifest::AT_STOP`] less than the 10 s
/// after which supervisors kill.
const FLUSH: Duration = Duration::from_secs(5);

/// One budget: seven eighths for bytes on their way in, one eighth for what is read again. While nothing comes in, half of
/// it is for what is read: the allocator needs some room to move, and blocks on their way to peers have their own.
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
    /// Imports that are being filled now.
    filling: AtomicUsize,
    places: tokio::sync::Mutex<HashMap<String, Arc<Place>>>,
    /// Imports that were opened to be read.
    opened: Mutex<HashSet<ImportId>>,
    /// Whether what is read is for peers.
    seeding: AtomicBool,
    /// Held as long as the folder is open for writing.
    lock: Option<DataLock>,
}

impl App {
    /// Opens the data folder.
    ///
    /// # Errors
    /// `Unavailable` when another bae writes to it; `Unsupported` when a newer bae made it; else what the file system
    /// says.
    pub async fn open(config: Config, access: Access) -> Result<Self> {
        let (lock, catalog) = match access {
            Access::Write => {
                let lock = DataLock::take(&config.data_dir)?;
                (Some(lock), Catalog::open(&config.data_dir)?)
            }
            Access::Read => (None, Catalog::open_read_only(&config.data_dir)?),
            Access::Beside => match Catalog::open_beside(&config.data_dir) {
                // Of an older bae: brought up to date first, by one process.
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

    /// Closes the data folder.
    ///
    /// # Errors
    /// None today; a place for those of backends that say goodbye.
    pub async fn close(self) -> Result<()> {
        self.book_reads().await;
        Ok(())
    }

    /// To be held while bytes come in: they need the memory that reading has meanwhile.
    fn importing(&self) -> Importing<'_> {
        self.filling.fetch_add(1, Ordering::Relaxed);
        self.cache.set_room(self.config.memory.0 - input_budget(&self.config));
        Importing(self)
    }

    /// The place an import lives in.
    async fn place_of(&self, row: &ImportRow) -> Result<Arc<Place>> {
        self.place(&row.storage).await
    }

    /// The place of a storage's name or URL, opened once: its connections, limits and sign-in are shared.
    ///
    /// # Errors
    /// `NotFound` when it is a folder whose disk is not mounted; else what opening it says.
    async fn place(&self, storage: &str) -> Result<Arc<Place>> {
        let place = self.place_as_it_is(storage).await?;
        place.is_mounted(&self.catalog).await?;
        Ok(place)
    }

    /// As [`App::place`], whatever is there: to remove what is left.
    async fn place_as_it_is(&self, storage: &str) -> Result<Arc<Place>> {
        let mut places = self.places.lock().await;
        if let Some(place) = places.get(storage) {
            return Ok(Arc::clone(place));
        }
        let place = Arc::new(Place::open(&self.config.storage(storage)?, &self.catalog).await?);
        places.insert(storage.to_owned(), Arc::clone(&place));
        Ok(place)
    }

    /// Whether nothing was ever imported into this data folder: there is no catalog.
    ///
    /// # Errors
    /// When the data folder cannot be one, or not be looked at.
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

    /// The files of an import, pads included.
    fn files_of(&self, row: &ImportRow) -> Result<Vec<File>> {
        if row.is_torrent() {
            return Ok(self.metainfo_of(row)?.1.files);
        }
        Ok(self.catalog.files(&row.id)?.into_iter().map(plain_file).collect())
    }

    /// The torrent of an import, as it was checked when it came.
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

/// The cache folder, when one is asked for. Each catalog has its own in it: their imports may have the same ids.
fn disk_cache(config: &Config, catalog: &Catalog) -> Result<Option<Arc<DiskCache>>> {
    let open = |dir: &PathBuf| DiskCache::open(&dir.join(catalog.id()), config.cache_size.0);
    config.cache_dir.as_ref().map(open).transpose()
}

/// An import is being filled.
struct Importing<'a>(&'a App);

impl Drop for Importing<'_> {
    fn drop(&mut self) {
        if self.0.filling.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.cache.set_room(self.0.config.memory.0 / 2);
        }
    }
}
