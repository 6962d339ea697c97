//! SQLite's errors as bae's: stated once, with the file, and with what its file system lacks.

use std::{error::Error as StdError, fs::File, io, path::Path};

use rusqlite::ffi;
use rustix::fs::Access;

use crate::{
    catalog::errors::Failure,
    error::{Error, Kind},
    hints::{Hint, Setting, hint},
};

const CANNOT_OPEN: &str = "it cannot be opened";
const DISK_FAILURE_HINT: &str = "the disk or the connection to it fails: see `dmesg`";

fn local_disk_hint() -> Hint {
    hint!["name a folder on a local disk with ", Setting::DataDir]
}

/// Converts an SQLite error, with the kind and hint for the caller.
pub(super) fn sql_error(e: rusqlite::Error) -> Error {
    let extended = e.sqlite_error().map_or(0, |e| e.extended_code);
    let (kind, text, hint) = classify(extended);
    let text = text.map_or_else(|| e.to_string(), str::to_owned);
    let error = failure(kind, text);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn failure(kind: Kind, text: String) -> Error {
    Error::new(kind, "catalog").because(Failure(text))
}

/// Kind, text and hint by SQLite's extended result code. Without a text, SQLite's message is used.
fn classify(code: i32) -> (Kind, Option<&'static str>, Option<Hint>) {
    match code {
        ffi::SQLITE_READONLY_DBMOVED => {
            (Kind::NotFound, Some("the file was moved or removed while it was open"), None)
        }
        ffi::SQLITE_IOERR_LOCK
        | ffi::SQLITE_IOERR_UNLOCK
        | ffi::SQLITE_IOERR_RDLOCK
        | ffi::SQLITE_IOERR_CHECKRESERVEDLOCK
        | ffi::SQLITE_IOERR_SHMLOCK
        | ffi::SQLITE_PROTOCOL => (
            Kind::Unsupported,
            Some("its file system does not lock files"),
            Some(local_disk_hint()),
        ),
        // SQLite extends this file before mapping it. That hardly ever fails except on a full disk.
        ffi::SQLITE_IOERR_SHMSIZE => (
            Kind::NoSpace,
            Some("no space for its shared index, or its disk fails"),
            Some("free some space on its disk".into()),
        ),
        ffi::SQLITE_IOERR_SHMOPEN | ffi::SQLITE_IOERR_SHMMAP | ffi::SQLITE_IOERR_MMAP => (
            Kind::Unsupported,
            Some("its file system does not support shared memory maps (mmap)"),
            Some(local_disk_hint()),
        ),
        ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC => (
            Kind::Unavailable,
            Some("its file system failed to sync it"),
            Some(DISK_FAILURE_HINT.into()),
        ),
        _ => match code & 0xff {
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => {
                (Kind::Unavailable, Some("it is locked by another process"), None)
            }
            ffi::SQLITE_FULL => (
                Kind::NoSpace,
                Some("its disk is full"),
                Some("free some space on its disk".into()),
            ),
            ffi::SQLITE_READONLY | ffi::SQLITE_PERM => {
                (Kind::PermissionDenied, Some("it cannot be written"), Some(local_disk_hint()))
            }
            // Retryable, because the next try may succeed. `with_path` replaces it when the system names a reason.
            ffi::SQLITE_CANTOPEN => (Kind::Unavailable, Some(CANNOT_OPEN), None),
            ffi::SQLITE_IOERR => (Kind::Unavailable, None, Some(DISK_FAILURE_HINT.into())),
            ffi::SQLITE_CORRUPT => {
                (Kind::Corrupt, Some("it is damaged, or its disk cannot be read"), None)
            }
            ffi::SQLITE_NOTADB => (Kind::Corrupt, Some("the file is not an SQLite database"), None),
            _ => (Kind::Internal, None, None),
        },
    }
}

/// Adds the file's path, and the system's reason when SQLite could not open it. Other errors are returned unchanged.
pub(super) fn with_path(path: &Path, error: Error) -> Error {
    let Some(failure) = StdError::source(&error).and_then(|e| e.downcast_ref::<Failure>()) else {
        return error;
    };
    let context = format!("catalog {}", path.display());
    if error.to_string().starts_with(&context) {
        return error;
    }
    // SQLite does not report the system's reason, so the file is checked again.
    if failure.0 == CANNOT_OPEN
        && let Err(e) = check_openable(path)
    {
        let system = Error::io(&context, e);
        let named = Error::new(system.kind(), context).because(Failure(cause(&system)));
        return named.hint_of(&system);
    }
    let named = Error::new(error.kind(), context).because(Failure(failure.0.clone()));
    named.hint_of(&error)
}

/// The system's reason why a file cannot be opened. The file itself is not opened, because closing it would release
/// the locks that SQLite holds on it; `/dev/null` is opened instead, to detect a lack of file descriptors.
fn check_openable(path: &Path) -> io::Result<()> {
    rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK)?;
    File::open("/dev/null").map(drop)
}

/// The error for a catalog whose file was moved or removed while open.
pub(super) fn file_moved(path: &Path) -> Error {
    let (kind, text, _) = classify(ffi::SQLITE_READONLY_DBMOVED);
    with_path(path, failure(kind, text.unwrap_or_default().to_owned()))
}

fn cause(e: &Error) -> String {
    StdError::source(e).map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::catalog::is_catalog_failure;

    fn of(code: i32) -> Error {
        let text = Some("words of SQLite".to_owned());
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), text);
        with_path(Path::new("/d/catalog.db"), sql_error(error))
    }

    #[test]
    fn an_error_names_the_file_and_the_cause_once() {
        let full = of(ffi::SQLITE_FULL);
        assert_eq!(full.report(), "catalog /d/catalog.db: its disk is full");
        assert_eq!(full.kind(), Kind::NoSpace);
        let lock = of(ffi::SQLITE_IOERR_LOCK);
        assert_eq!(lock.kind(), Kind::Unsupported);
        assert!(lock.report().contains("does not lock files"), "{}", lock.report());
        assert!(lock.typed_hint().unwrap().names_setting(Setting::DataDir));
        let other = of(ffi::SQLITE_IOERR_READ);
        assert_eq!(other.report(), "catalog /d/catalog.db: words of SQLite");
        assert!(is_catalog_failure(&other) && is_catalog_failure(&other.clone()));
        assert_eq!(other.clone().report(), other.report());
    }

    #[test]
    fn an_error_of_opening_the_file_has_the_systems_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone/catalog.db");
        let error = with_path(&path, sql_error(Connection::open(&path).unwrap_err()));
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.report().contains("No such file"), "{}", error.report());
        assert!(is_catalog_failure(&error));
    }

    #[test]
    fn other_errors_stay_unchanged() {
        let error = with_path(Path::new("/d"), Error::new(Kind::NotFound, "no import is called x"));
        assert_eq!(error.report(), "no import is called x");
        assert!(!is_catalog_failure(&error));
    }
}
