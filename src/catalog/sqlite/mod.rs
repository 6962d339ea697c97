//! The catalog's database as one SQLite file in WAL mode, the only place that names SQLite.
//!
//! One thread owns the writing connection and does all writes. It takes all queued commands (at most 1,024), runs them
//! in one transaction with a savepoint each, and answers after the commit. So any number of uploads that finish together
//! cost one fsync, and a failing command undoes only itself. Reads run on two more threads with a connection each, and
//! see the last commit. Callers wait for the answer of these threads without blocking their own.

mod connection_threads;
mod errors;
mod port;
mod readers;
pub(super) mod schema;
mod writer;

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use self::{
    errors::{sql_error, with_path},
    readers::{READERS, Readers},
    writer::Writer,
};
use crate::{
    catalog::sql::Sql,
    error::{Error, Kind, Result},
    folders,
};

/// How long a connection waits for the transaction of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The open file, with its threads. They end when it is dropped, after the queued work.
pub(super) struct Database {
    id: String,
    path: PathBuf,
    readers: Readers,
    /// `None` when opened for reading only.
    writer: Option<Writer>,
}

impl Database {
    /// The path of the file in a data folder.
    pub(super) fn path_in(dir: &Path) -> PathBuf {
        dir.join("catalog.db")
    }

    /// Opens the file for writing; creates or migrates it.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        folders::create("data folder", dir)?;
        let path = Self::path_in(dir);
        let mut writing = connect(&path, true)?;
        make_private(&path)?;
        let id = schema::prepare(&mut writing, &path).map_err(|e| with_path(&path, e))?;
        let readers = Readers::spawn(connect_readers(&path)?)?;
        let writer = Some(Writer::spawn(writing, &path)?);
        Ok(Self { id, path, readers, writer })
    }

    /// Opens an existing file for reading. Migrates nothing.
    pub(super) fn open_existing(dir: &Path) -> Result<Self> {
        let path = Self::path_in(dir);
        let reading = connect_readers(&path)?;
        let id = schema::check(&reading[0], &path).map_err(|e| with_path(&path, e))?;
        let readers = Readers::spawn(reading)?;
        Ok(Self { id, path, readers, writer: None })
    }

    /// Opens an existing file for writing, beside another process. Migrates nothing.
    pub(super) fn open_shared(dir: &Path) -> Result<Self> {
        let existing = Self::open_existing(dir)?;
        let writer = Some(Writer::spawn(connect(&existing.path, true)?, &existing.path)?);
        Ok(Self { writer, ..existing })
    }

    /// The id that was drawn when the file was created.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Whether it was opened for writing.
    pub(super) fn is_writable(&self) -> bool {
        self.writer.is_some()
    }

    /// Runs `work` in the writer's next transaction. `Ok` means committed and synced.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Sql) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match &self.writer {
            Some(writer) => writer.run(work).await.map_err(|e| with_path(&self.path, e)),
            None => Err(Error::new(Kind::Unsupported, "the catalog is open for reading only")),
        }
    }

    /// Queues `work` for the writer's next transaction, without waiting for it. A read-only file is left as it is.
    pub(super) fn post(&self, work: impl FnOnce(&dyn Sql) -> Result<()> + Send + 'static) {
        if let Some(writer) = &self.writer {
            writer.post(work);
        }
    }

    /// Runs `work` on a reader thread. All its statements see the same commit.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Sql) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.readers.run(work).await.map_err(|e| with_path(&self.path, e))
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
