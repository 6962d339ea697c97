//! Temp files of an export.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::Failure;
use crate::{
    engine::ReadStream,
    error::{Error, Result},
    folders,
};

/// A temp file in the folder of its target. Deleted when dropped, unless it was finished.
pub(super) struct TempFile {
    file: File,
    path: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl TempFile {
    /// `is_taken` tells the paths that are files of the export itself.
    pub(super) fn create(target: &Path, is_taken: impl Fn(&Path) -> bool) -> Result<Self> {
        let dir = target.parent().unwrap_or(Path::new("."));
        folders::create("folder", dir)?;
        let (file, path) = create_unused(dir, is_taken)?;
        Ok(Self { file, path, target: target.to_owned(), finished: false })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| write_error(&self.target, e))
    }

    /// Gives the file its name, once its bytes are on the disk: network file systems report a full disk only then.
    pub(super) fn finish(mut self) -> Result<()> {
        self.file.sync_all().map_err(|e| write_error(&self.target, e))?;
        fs::rename(&self.path, &self.target).map_err(|e| write_error(&self.target, e))?;
        self.finished = true;
        Ok(())
    }
}

/// Opens a temp file in `dir` that no other export uses: one that a killed export left, or a new one. The temp name is
/// short, because the target's name may already have the maximum length.
fn create_unused(dir: &Path, is_taken: impl Fn(&Path) -> bool) -> Result<(File, PathBuf)> {
    for n in 1.. {
        let path = dir.join(format!(".bae-{n}.part"));
        if is_taken(&path) {
            continue;
        }
        if let Some(file) = open_locked(&path).map_err(|e| write_error(&path, e))? {
            return Ok((file, path));
        }
    }
    unreachable!("there are more numbers than exports")
}

/// Opens and locks a temp file. `None` when another export has locked it, or it is not a regular file. Without support
/// for locks it is opened all the same, and the last export to open it truncates it.
fn open_locked(path: &Path) -> io::Result<Option<File>> {
    loop {
        if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Ok(None);
        }
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        // Another export may have renamed the file to its target between the opening and the lock.
        let is_same_file =
            |metadata: fs::Metadata| file.metadata().map(|m| m.ino() == metadata.ino());
        if fs::symlink_metadata(path).and_then(is_same_file).unwrap_or(false) {
            file.set_len(0)?;
            return Ok(Some(file));
        }
    }
}

fn write_error(path: &Path, e: io::Error) -> Error {
    Error::io(format!("cannot write {}", path.display()), e)
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.finished {
            // A leftover is a hidden file that the next export into this folder reuses.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the names in a folder durable, where its file system can do that.
pub(super) fn sync_folder(dir: &Path) -> Result<()> {
    match File::open(dir).and_then(|dir| dir.sync_all()) {
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        synced => synced.map_err(|e| write_error(dir, e)),
    }
}

/// Makes a file executable for all users that may read it.
pub(super) fn make_executable(path: &Path) -> Result<()> {
    let set_mode = || {
        let mode = fs::metadata(path)?.permissions().mode();
        let wanted = mode | (mode & 0o444) >> 2;
        match wanted == mode {
            true => Ok(()),
            false => fs::set_permissions(path, fs::Permissions::from_mode(wanted)),
        }
    };
    set_mode().map_err(|e| Error::io(format!("cannot make {} executable", path.display()), e))
}

/// Whether a file has exactly the bytes of `stream`.
pub(super) async fn same_bytes(stream: &mut ReadStream, path: &Path) -> Result<bool, Failure> {
    let fail = |e| Failure::write(Error::io(format!("cannot read {}", path.display()), e));
    let mut file = File::open(path).map_err(fail)?;
    let mut existing = Vec::new();
    while let Some(bytes) = stream.next().await.map_err(Failure::read)? {
        existing.clear();
        let wanted = bytes.len() as u64;
        io::Read::by_ref(&mut file).take(wanted).read_to_end(&mut existing).map_err(fail)?;
        if existing != bytes {
            return Ok(false);
        }
    }
    Ok(file.read(&mut [0]).map_err(fail)? == 0)
}
