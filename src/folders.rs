//! Folders made, and what is in their place named.

use std::{fs, io, path::Path};

use crate::error::{Error, Kind, Result};

/// Makes a folder and those above it.
///
/// # Errors
/// `InvalidInput` when a part of the path is a file or a link to nothing; else what the file system says.
pub(crate) fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| refused(path, e))
}

/// Whether a folder is there.
///
/// # Errors
/// As [`make`], when something else is.
pub(crate) fn is_there(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(refused(path, io::ErrorKind::NotADirectory.into())),
        Err(e) if e.kind() == io::ErrorKind::NotFound && !is_dangling(path) => Ok(false),
        Err(e) => Err(refused(path, e)),
    }
}

fn is_dangling(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) && !path.exists()
}

/// Why a folder cannot be there: what is in its place, or in that of one above it.
fn refused(path: &Path, e: io::Error) -> Error {
    let above = path.ancestors().filter(|part| !part.as_os_str().is_empty());
    for part in above {
        let what = match fs::metadata(part) {
            Ok(found) if found.is_dir() => break,
            Ok(_) => "is a file, not a folder",
            Err(_) if is_dangling(part) => "is a link to nothing",
            Err(_) => continue,
        };
        return Error::new(Kind::InvalidInput, format!("{} {what}", part.display()))
            .hint("name another folder");
    }
    Error::io(path.display().to_string(), e)
}
