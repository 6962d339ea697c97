//! The catalog: the database of record. It lists the imports, and which object holds which of their bytes.
//!
//! Its logic is portable SQL over a small port (`sql`); the database is one SQLite file, `catalog.db` (`sqlite`). A read
//! or a write is one closure in one transaction, on a thread of the database: callers wait without blocking their own.
//!
//! An object is recorded in this order: `intend` reserves the key, the caller puts the object, and `commit_object`
//! records its extents. So a crash may leave an object without extents, but never an extent without its object. Objects
//! belong to a storage; extents are the references to them, and an object without any is dying, which is final.
//! Overlapping extents and the file of a newer bae are refused. The catalog does not know where or how objects are
//! stored.

mod attach;
mod backend_state;
mod contents;
mod downloads;
mod errors;
mod extents;
mod feed_items;
mod imports;
mod key_states;
pub(crate) mod leases;
mod manifests;
mod metainfo;
pub(crate) mod modules;
mod objects;
mod partial_uploads;
mod punch_holes;
mod release;
mod seed_goals;
pub(crate) mod sql;
mod sqlite;
mod url_imports;
mod usage;
mod wanted_counts;
mod whole_files;

use std::{fmt, path::Path, str::FromStr, sync::Arc};

use crate::{
    error::{Error, Kind, Result},
    folders,
};

pub use attach::{ExistingObject, ImportWithObjects};
pub use contents::ImportContents;
pub use downloads::{DownloadKey, DownloadRow, NewDownloadRow};
pub(crate) use errors::is_catalog_failure;
pub use feed_items::FeedItemRow;
pub use imports::{FileRow, ImportRow, ImportState, LayoutKind, NewImport};
pub use key_states::KeyState;
pub use objects::{Encoding, Extent, ObjectNum, ObjectRow, ObjectState, Role};
pub use usage::UsageCounts;
pub use wanted_counts::WantedCounts;
pub use whole_files::NamedIntent;

use self::{sql::Sql, sqlite::Database};

/// The id of an import: 8 random hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImportId(Arc<str>);

impl ImportId {
    /// A random id. A collision is very unlikely, and is refused when the import is recorded.
    ///
    /// # Errors
    /// `Internal` when the system has no randomness.
    pub fn random() -> Result<Self> {
        imports::random_id()
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImportId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 8 && text.bytes().all(digit) {
            return Ok(Self(text.into()));
        }
        Err(Error::new(Kind::InvalidInput, format!("{text:?} is not the id of an import")))
    }
}

impl fmt::Display for ImportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The open catalog. Cheap to clone; all clones share the threads that read and write the file, which end with the
/// last clone.
#[derive(Clone)]
pub struct Catalog {
    inner: Arc<Database>,
    /// Checked by each write, where the handle belongs to a lease.
    fence: Option<Arc<leases::Fence>>,
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Catalog {
    /// Opens `<dir>/catalog.db` for reading and writing. Creates the folder and the file when they do not exist.
    ///
    /// The caller makes sure that no other process writes at the same time. So the leases of all processes end.
    ///
    /// # Errors
    /// `Unsupported` when a newer bae made the file; `Corrupt` or an I/O kind when it cannot be used.
    pub async fn open(dir: &Path) -> Result<Self> {
        let dir = dir.to_owned();
        let catalog = Self::open_with(move || Database::open(&dir)).await?;
        catalog.add_module(&leases::MODULE).await?;
        catalog.end_leases().await?;
        Ok(catalog)
    }

    /// Whether a folder contains a catalog.
    ///
    /// # Errors
    /// When `dir` cannot be read, or is not a folder.
    pub fn exists_in(dir: &Path) -> Result<bool> {
        let path = Database::path_in(dir);
        folders::exists("data folder", dir)?;
        path.try_exists().map_err(|e| Error::io(format!("catalog {}", path.display()), e))
    }

    /// Opens an existing catalog for reading, while another process may write it. Writing methods return
    /// `Unsupported`.
    ///
    /// # Errors
    /// `NotFound` when there is no catalog; `Unsupported` when it is of another version; otherwise as
    /// [`Catalog::open`].
    pub async fn open_read_only(dir: &Path) -> Result<Self> {
        let dir = dir.to_owned();
        Self::open_with(move || {
            Self::require_in(&dir)?;
            Database::open_existing(&dir)
        })
        .await
    }

    /// Opens an existing catalog for writing while another process may write it too, for rows that do not depend on
    /// the other process's work. Migrates nothing, so that an older bae in the other process keeps the tables it
    /// knows.
    ///
    /// # Errors
    /// `NotFound` when there is no catalog; `Unsupported` when it is of another version; otherwise as
    /// [`Catalog::open`].
    pub async fn open_shared(dir: &Path) -> Result<Self> {
        let dir = dir.to_owned();
        Self::open_with(move || {
            Self::require_in(&dir)?;
            Database::open_shared(&dir)
        })
        .await
    }

    fn require_in(dir: &Path) -> Result<()> {
        if Self::exists_in(dir)? {
            return Ok(());
        }
        let text = format!("no catalog in {}", dir.display());
        Err(Error::new(Kind::NotFound, text).hint("nothing was imported into it yet"))
    }

    /// Opens the file on a blocking thread.
    async fn open_with(open: impl FnOnce() -> Result<Database> + Send + 'static) -> Result<Self> {
        let opened = tokio::task::spawn_blocking(open).await;
        let inner = opened
            .map_err(|e| Error::new(Kind::Internal, "opening the catalog panicked").because(e))??;
        Ok(Self { inner: Arc::new(inner), fence: None })
    }

    /// The catalog's id: 16 random hexadecimal digits. Every chunk and manifest key starts with it, so that several
    /// catalogs can share a storage.
    #[must_use]
    pub fn id(&self) -> &str {
        self.inner.id()
    }

    /// The prefix of the catalog's own keys, with the `/`.
    #[must_use]
    pub fn key_prefix(&self) -> String {
        format!("{}/", self.id())
    }

    /// Returns after all earlier commands are committed or refused, including those whose caller is gone. It writes
    /// nothing, so it needs no lease.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn flush(&self) -> Result<()> {
        self.inner.write(|_| Ok(())).await
    }

    /// Runs `work` in the next writing transaction, which checks the lease of a fenced handle first. `Ok` means committed
    /// and synced.
    ///
    /// # Errors
    /// `Unsupported` when the catalog is open for reading only; the error of `work`, which then changes nothing.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Sql) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let fence = self.fence.clone();
        let fenced = move |db: &dyn Sql| {
            fence.map_or(Ok(()), |fence| fence.check(db))?;
            work(db)
        };
        self.inner.write(fenced).await
    }

    /// Runs `work` in a reading transaction: all its statements see the same commit.
    ///
    /// # Errors
    /// The error of `work`, or of the catalog.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Sql) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.inner.read(work).await
    }
}

/// The integers of databases are signed. A length above their maximum is invalid.
fn sql_int(n: u64) -> Result<i64> {
    i64::try_from(n)
        .map_err(|_| Error::new(Kind::InvalidInput, format!("a length of {n} bytes is too large")))
}

fn random_hex<const BYTES: usize>() -> Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::new(Kind::Internal, format!("no randomness: {e}")))?;
    Ok(hex(&bytes))
}

/// Two hexadecimal digits per byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, b| {
        write!(out, "{b:02x}").expect("a String takes all text");
        out
    })
}

#[cfg(test)]
mod tests;
