//! The lock of a data folder: one writing process at a time. The system
//! releases it when the process ends, even if killed.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
};

use crate::{
    error::{Error, Kind, Result},
    folders,
    hints::{Setting, hint},
};

/// Holds the lock while the data folder is open for writing.
#[derive(Debug)]
pub(super) struct DataLock {
    _file: File,
}

impl DataLock {
    pub(super) fn take(data_dir: &Path) -> Result<Self> {
        let io_error = |e| with_hint(Error::io(format!("data folder {}", data_dir.display()), e));
        folders::create("data folder", data_dir).map_err(with_hint)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(data_dir.join("lock"))
            .map_err(io_error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(data_dir, &mut file)),
            Err(TryLockError::Error(e)) => return Err(io_error(e)),
        }
        let pid = std::process::id();
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{pid}"));
        written.map_err(io_error)?;
        Ok(Self { _file: file })
    }
}

fn with_hint(error: Error) -> Error {
    match (error.kind(), error.typed_hint()) {
        // Temporary errors, and a full disk, can have hints of their own.
        (Kind::Unavailable | Kind::NoSpace, Some(_)) => error,
        (Kind::NoSpace, None) => error
            .hint(
                hint!["free some space there, or choose another folder with ", Setting::DataDir,],
            ),
        _ => error.hint(hint!["name a folder you can write to with ", Setting::DataDir]),
    }
}

fn in_use(data_dir: &Path, file: &mut File) -> Error {
    let mut pid = String::new();
    // The process id is optional: without it the message is still complete.
    let _ = file.read_to_string(&mut pid);
    let holder = match pid.trim() {
        "" => String::new(),
        pid => format!(" (process {pid})"),
    };
    let text = format!("data folder {} is in use by another bae{holder}", data_dir.display());
    Error::new(Kind::Unavailable, text)
        .hint(hint!["wait for it, stop it, or use another folder with ", Setting::DataDir])
}
