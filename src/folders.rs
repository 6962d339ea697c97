//! Creates and checks folders. Errors name the file or dangling symlink that is in the way.

use std::{fs, io, path::Path};

use crate::error::{Error, Kind, Result};

/// Creates a folder and its parents. `what` describes the folder in errors, as in `data folder`.
///
/// # Errors
/// `InvalidInput` when a component of the path is a file or a dangling symlink; otherwise the I/O error.
pub(crate) fn create(what: &str, path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| unusable(what, path, e))
}

/// Whether the folder exists.
///
/// # Errors
/// As [`create`], when the path is something other than a folder.
pub(crate) fn exists(what: &str, path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(unusable(what, path, io::ErrorKind::NotADirectory.into())),
        Err(e) if e.kind() == io::ErrorKind::NotFound && !is_dangling(path) => Ok(false),
        Err(e) => Err(unusable(what, path, e)),
    }
}

fn is_dangling(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) && !path.exists()
}

/// The error for a folder that cannot be used: names the file or dangling symlink at `path` or at one of its parents.
fn unusable(what: &str, path: &Path, e: io::Error) -> Error {
    let context = format!("{what} {}", path.display());
    let ancestors = path.ancestors().filter(|part| !part.as_os_str().is_empty());
    for part in ancestors {
        let problem = match fs::metadata(part) {
            Ok(found) if found.is_dir() => break,
            Ok(_) => "is a file, not a folder",
            Err(_) if is_dangling(part) => "is a dangling symlink",
            Err(_) => continue,
        };
        let text = if part == path {
            format!("{context} {problem}")
        } else {
            format!("{context}: {} {problem}", part.display())
        };
        return Error::new(Kind::InvalidInput, text).hint("choose another folder");
    }
    Error::io(context, e)
}
