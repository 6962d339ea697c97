//! The file of record: which imports there are, and which object holds which of their bytes.
//!
//! One SQLite file, `catalog.db`, in WAL mode. All writing goes through one thread that owns the writing
//! connection: it takes everything queued at once, runs it in one transaction with a savepoint per command, and
//! answers after the commit. So any number of uploads that finish together cost one fsync, and a command that
//! fails undoes itself only. Readers have a connection of their own beside it and see what was last committed.
//!
//! An object is recorded in this order, so that a crash leaves an object without a name and never a name without
//! an object: `intend` (the key is taken), the put, `commit_object` (the extents name it). What it refuses: extents
//! that overlap, a file of a newer bae, and any knowledge of where and how objects are kept.

mod attached;
mod failure;
mod figures;
mod forget;
mod goals;
mod imports;
mod keys;
mod manifests;
mod metainfo;
mod notes;
mod objects;
mod remote;
mod schema;
mod streamed;
mod traffic;
mod whole;
mod writer;

use std::{
    fmt,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};

use crate::{
    error::{Error, Kind, Result},
    folders,
};

pub use attached::{Attached, AttachedObject};
pub(crate) use failure::is_catalog_failure;
pub use figures::Figures;
pub use imports::{FileRow, ImportRow, ImportState, LayoutKind, NewImport};
pub use keys::KeyState;
pub use objects::{Extent, ObjectNum, ObjectRow, Role};
pub use traffic::Traffic;
pub use whole::Named;

use failure::{of_file, sql_error};
use writer::Writer;

/// How long a connection waits for another process's transaction before it gives up.
const BUSY: Duration = Duration::from_secs(10);

/// The name of an import: 8 hexadecimal digits, at random.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImportId(Arc<str>);

impl ImportId {
    /// One that no import has, almost surely: a clash is refused when it is recorded.
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

/// The open catalog. Cheap to clone; all clones share the writer thread, which ends with the last of them.
#[derive(Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

struct Inner {
    id: String,
    path: PathBuf,
    reader: Mutex<Connection>,
    /// `None` when opened for reading only.
    writer: Option<Writer>,
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").field("id", &self.inner.id).finish_non_exhaustive()
    }
}

impl Catalog {
    /// Opens `<dir>/catalog.db` for reading and writing, making both if need be.
    ///
    /// That no other process writes too is the caller's to see to.
    ///
    /// # Errors
    /// `Unsupported` when a newer bae made it; `Corrupt` or an I/O kind when it cannot be used.
    pub fn open(dir: &Path) -> Result<Self> {
        folders::make("data folder", dir)?;
        let path = dir.join("catalog.db");
        let mut writing = connect(&path, true)?;
        keep_private(&path)?;
        let id = schema::prepare(&mut writing, &path).map_err(|e| of_file(&path, e))?;
        let reader = Mutex::new(connect(&path, false)?);
        let writer = Some(Writer::spawn(writing, &path)?);
        Ok(Self { inner: Arc::new(Inner { id, path, reader, writer }) })
    }

    /// Whether a folder has a catalog.
    ///
    /// # Errors
    /// When it cannot be looked at, or is no folder.
    pub fn is_in(dir: &Path) -> Result<bool> {
        let path = dir.join("catalog.db");
        folders::is_there("data folder", dir)?;
        path.try_exists().map_err(|e| Error::io(format!("catalog {}", path.display()), e))
    }

    /// Opens an existing catalog for reading, beside whoever writes it. Writing methods answer `Unsupported`.
    ///
    /// # Errors
    /// `NotFound` when there is none; else as [`Catalog::open`].
    pub fn open_read_only(dir: &Path) -> Result<Self> {
        let path = dir.join("catalog.db");
        if !Self::is_in(dir)? {
            let text = format!("no catalog in {}", dir.display());
            return Err(Error::new(Kind::NotFound, text).hint("nothing was imported there yet"));
        }
        let reader = connect(&path, false)?;
        let id = schema::check(&reader, &path).map_err(|e| of_file(&path, e))?;
        let reader = Mutex::new(reader);
        Ok(Self { inner: Arc::new(Inner { id, path, reader, writer: None }) })
    }

    /// Opens an existing catalog for writing, beside another process that may be writing it: for a row that neither
    /// hangs on what the other does. Nothing is migrated, so that an older bae at work finds what it knows.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Unsupported` when another bae made it; else as [`Catalog::open`].
    pub fn open_beside(dir: &Path) -> Result<Self> {
        let catalog = Self::open_read_only(dir)?;
        let path = dir.join("catalog.db");
        let writer = Some(Writer::spawn(connect(&path, true)?, &path)?);
        let inner = Arc::into_inner(catalog.inner).expect("nobody else has it");
        Ok(Self { inner: Arc::new(Inner { writer, ..inner }) })
    }

    /// 16 hexadecimal digits, at random: the first part of every key, so that catalogs can share a place.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// What the keys of all objects of this catalog begin with, `/` included.
    #[must_use]
    pub fn key_prefix(&self) -> String {
        format!("{}/", self.inner.id)
    }

    /// Returns when everything asked for before is committed or refused, also where the asker has gone.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn settle(&self) -> Result<()> {
        self.write(|_| Ok(())).await
    }

    /// Runs `work` in the writer's next transaction; `Ok` means committed and synced.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match &self.inner.writer {
            Some(writer) => writer.run(work).await.map_err(|e| of_file(&self.inner.path, e)),
            None => Err(Error::new(Kind::Unsupported, "the catalog is open for reading only")),
        }
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        work(&self.inner.reader.lock()).map_err(|e| of_file(&self.inner.path, e))
    }
}

fn connect(path: &Path, writing: bool) -> Result<Connection> {
    let open = || -> rusqlite::Result<Connection> {
        // A reader opens for writing too: WAL needs its shared memory file, and `query_only` holds it to reading.
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        flags.set(OpenFlags::SQLITE_OPEN_CREATE, writing);
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
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
    open().map_err(|e| of_file(path, sql_error(e)))
}

/// Nobody else's to read: the catalog holds trackers' passkeys and upload sessions. SQLite gives the files beside it
/// the same mode.
fn keep_private(path: &Path) -> Result<()> {
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, mode)
        .map_err(|e| Error::io(format!("catalog {}", path.display()), e))
}

/// SQLite's integers are signed: past their end is no length that can be.
fn sql_int(n: u64) -> Result<i64> {
    i64::try_from(n).map_err(|_| Error::new(Kind::InvalidInput, format!("{n} bytes is too long")))
}

/// A number we wrote through [`sql_int`].
fn sql_u64(n: i64) -> u64 {
    n.unsigned_abs()
}

fn random_hex<const BYTES: usize>() -> Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::new(Kind::Internal, format!("no randomness: {e}")))?;
    Ok(hex(&bytes))
}

/// Two digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, b| {
        write!(out, "{b:02x}").expect("a String takes all text");
        out
    })
}

#[cfg(test)]
mod tests;
