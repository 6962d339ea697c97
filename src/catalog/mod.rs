//! The catalog: the database of record. It lists the imports, and which object holds which of their bytes.
//!
//! It is one SQLite file, `catalog.db`, in WAL mode. One thread owns the writing connection and does all writes. It
//! takes all queued commands (at most 1,024), runs them in one transaction with a savepoint each, and answers after
//! the commit. So any number of uploads that finish together cost one fsync, and a failing command undoes only
//! itself. Reads run on two more threads with a connection each, and see the last commit. Callers wait for the answer
//! of these threads without blocking their own (`connection_threads.rs`).
//!
//! An object is recorded in this order: `intend` reserves the key, the caller puts the object, and `commit_object`
//! records its extents. So a crash may leave an object without extents, but never an extent without its object.
//! Overlapping extents and the file of a newer bae are refused. The catalog does not know where or how objects are
//! stored.

mod attach;
mod backend_state;
mod connection_threads;
mod contents;
mod downloads;
mod errors;
mod imports;
mod key_states;
mod manifests;
mod metainfo;
mod module_schemas;
mod objects;
mod partial_uploads;
mod punch_holes;
mod readers;
mod schema;
mod seed_goals;
mod url_imports;
mod usage;
mod wanted_counts;
mod whole_files;
mod writer;

use std::{
    fmt,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use crate::{
    error::{Error, Kind, Result},
    folders,
};

pub use attach::{ExistingObject, ImportWithObjects};
pub use contents::ImportContents;
pub use downloads::{DownloadKey, DownloadRow, NewDownloadRow};
pub(crate) use errors::is_catalog_failure;
pub use imports::{FileRow, ImportRow, ImportState, LayoutKind, NewImport};
pub use key_states::KeyState;
pub use objects::{Extent, ObjectNum, ObjectRow, Role};
pub use usage::UsageCounts;
pub use wanted_counts::WantedCounts;
pub use whole_files::NamedIntent;

use errors::{sql_error, with_path};
use readers::{READERS, Readers};
use writer::Writer;

/// How long a connection waits for the transaction of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

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
    inner: Arc<Inner>,
}

struct Inner {
    id: String,
    path: PathBuf,
    readers: Readers,
    /// `None` when opened for reading only.
    writer: Option<Writer>,
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

impl Catalog {
    /// Opens `<dir>/catalog.db` for reading and writing. Creates the folder and the file when they do not exist.
    ///
    /// The caller makes sure that no other process writes at the same time.
    ///
    /// # Errors
    /// `Unsupported` when a newer bae made the file; `Corrupt` or an I/O kind when it cannot be used.
    pub async fn open(dir: &Path) -> Result<Self> {
        let dir = dir.to_owned();
        Self::open_with(move || Inner::open(&dir)).await
    }

    /// Whether a folder contains a catalog.
    ///
    /// # Errors
    /// When `dir` cannot be read, or is not a folder.
    pub fn exists_in(dir: &Path) -> Result<bool> {
        let path = dir.join("catalog.db");
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
        Self::open_with(move || Inner::open_existing(&dir)).await
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
        Self::open_with(move || Inner::open_shared(&dir)).await
    }

    /// Opens the file on a blocking thread.
    async fn open_with(open: impl FnOnce() -> Result<Inner> + Send + 'static) -> Result<Self> {
        let opened = tokio::task::spawn_blocking(open).await;
        let inner = opened
            .map_err(|e| Error::new(Kind::Internal, "opening the catalog panicked").because(e))??;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The catalog's id: 16 random hexadecimal digits. Every chunk and manifest key starts with it, so that several
    /// catalogs can share a storage.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// The prefix of the catalog's own keys, with the `/`.
    #[must_use]
    pub fn key_prefix(&self) -> String {
        format!("{}/", self.inner.id)
    }

    /// Returns after all earlier commands are committed or refused, including those whose caller is gone.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn flush(&self) -> Result<()> {
        self.write(|_| Ok(())).await
    }

    /// Runs `work` in the writer's next transaction. `Ok` means committed and synced.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match &self.inner.writer {
            Some(writer) => writer.run(work).await.map_err(|e| with_path(&self.inner.path, e)),
            None => Err(Error::new(Kind::Unsupported, "the catalog is open for reading only")),
        }
    }

    /// Runs `work` on a reader thread. All its statements see the same commit.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.inner.readers.run(work).await.map_err(|e| with_path(&self.inner.path, e))
    }
}

impl Inner {
    fn open(dir: &Path) -> Result<Self> {
        folders::create("data folder", dir)?;
        let path = dir.join("catalog.db");
        let mut writing = connect(&path, true)?;
        make_private(&path)?;
        let id = schema::prepare(&mut writing, &path).map_err(|e| with_path(&path, e))?;
        let readers = Readers::spawn(connect_readers(&path)?)?;
        let writer = Some(Writer::spawn(writing, &path)?);
        Ok(Self { id, path, readers, writer })
    }

    fn open_existing(dir: &Path) -> Result<Self> {
        let path = dir.join("catalog.db");
        if !Catalog::exists_in(dir)? {
            let text = format!("no catalog in {}", dir.display());
            return Err(Error::new(Kind::NotFound, text).hint("nothing was imported into it yet"));
        }
        let reading = connect_readers(&path)?;
        let id = schema::check(&reading[0], &path).map_err(|e| with_path(&path, e))?;
        let readers = Readers::spawn(reading)?;
        Ok(Self { id, path, readers, writer: None })
    }

    fn open_shared(dir: &Path) -> Result<Self> {
        let existing = Self::open_existing(dir)?;
        let writer = Some(Writer::spawn(connect(&existing.path, true)?, &existing.path)?);
        Ok(Self { writer, ..existing })
    }
}

fn connect_readers(path: &Path) -> Result<Vec<Connection>> {
    (0..READERS).map(|_| connect(path, false)).collect()
}

fn connect(path: &Path, writing: bool) -> Result<Connection> {
    let open = || -> rusqlite::Result<Connection> {
        // Readers open the file for writing too, because WAL needs its shared memory file. `query_only` prevents
        // writes.
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        flags.set(OpenFlags::SQLITE_OPEN_CREATE, writing);
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(64);
        if writing {
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "full")?;
        } else {
            connection.pragma_update(None, "query_only", true)?;
        }
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(connection)
    };
    open().map_err(|e| with_path(path, sql_error(e)))
}

/// Makes the file private to its owner: it contains trackers' passkeys and upload sessions. SQLite creates its `-wal`
/// and `-shm` files with the same mode.
fn make_private(path: &Path) -> Result<()> {
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, mode)
        .map_err(|e| Error::io(format!("catalog {}", path.display()), e))
}

/// SQLite's integers are signed. A length above their maximum is invalid.
fn sql_int(n: u64) -> Result<i64> {
    i64::try_from(n)
        .map_err(|_| Error::new(Kind::InvalidInput, format!("a length of {n} bytes is too large")))
}

/// A number that was written through [`sql_int`].
fn sql_u64(n: i64) -> u64 {
    n.unsigned_abs()
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
