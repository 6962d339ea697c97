//! One file on its way to its place.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::Failure;
use crate::{
    app::ReadStream,
    error::{Error, Result},
    folders,
};

/// Written beside its place, and removed again unless it is finished.
pub(super) struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl Part {
    pub(super) fn create(target: &Path) -> Result<Self> {
        let dir = target.parent().unwrap_or(Path::new("."));
        folders::make("folder", dir)?;
        // A short name of its own: the file's may have the longest length there is.
        let path = dir.join(format!(".bae-{}.part", std::process::id()));
        let file = File::create(&path).map_err(|e| trouble(&path, e))?;
        Ok(Self { file, path, target: target.to_owned(), finished: false })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| trouble(&self.target, e))
    }

    pub(super) fn finish(mut self) -> Result<()> {
        fs::rename(&self.path, &self.target).map_err(|e| trouble(&self.target, e))?;
        self.finished = true;
        Ok(())
    }
}

fn trouble(path: &Path, e: io::Error) -> Error {
    Error::io(format!("cannot write {}", path.display()), e)
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.finished {
            // What is left of it is a dot file that the next export writes over.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Lets everybody run a file who may read it.
pub(super) fn make_executable(path: &Path) -> Result<()> {
    let set = || {
        let mode = fs::metadata(path)?.permissions().mode();
        let wanted = mode | (mode & 0o444) >> 2;
        match wanted == mode {
            true => Ok(()),
            false => fs::set_permissions(path, fs::Permissions::from_mode(wanted)),
        }
    };
    set().map_err(|e| Error::io(format!("cannot make {} executable", path.display()), e))
}

/// Whether a file has exactly the bytes of `stream`.
pub(super) async fn same_bytes(stream: &mut ReadStream, path: &Path) -> Result<bool, Failure> {
    let fail = |e| Failure::write(Error::io(format!("cannot read {}", path.display()), e));
    let mut file = File::open(path).map_err(fail)?;
    let mut there = Vec::new();
    while let Some(bytes) = stream.next().await.map_err(Failure::read)? {
        there.clear();
        let wanted = bytes.len() as u64;
        io::Read::by_ref(&mut file).take(wanted).read_to_end(&mut there).map_err(fail)?;
        if there != bytes {
            return Ok(false);
        }
    }
    Ok(file.read(&mut [0]).map_err(fail)? == 0)
}
