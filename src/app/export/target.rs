//! The target folder of an export, and the file names in it.

use std::{
    collections::HashSet,
    fs, io,
    path::{Component, Path, PathBuf},
};

use crate::{
    backends::LocalBackend,
    catalog::FileRow,
    error::{Error, Kind, Result},
    folders,
    storage::place_names::{Renamed, are_suspect, try_names},
};

/// The target folder, with the names that it cannot keep.
pub(super) struct Target {
    dir: PathBuf,
    renamed: Renamed,
    /// Files of the import that are called as temp files are.
    like_temp: HashSet<PathBuf>,
}

/// What exists at a path.
pub(super) enum Was {
    Nothing,
    File(fs::Metadata),
    /// A symbolic link. It is never followed: its target is not part of the export.
    Link,
    Folder,
}

impl Target {
    /// Creates the folder, and tests those names of `files` that its file system may not keep.
    pub(super) async fn open(dir: &Path, files: &[FileRow]) -> Result<Self> {
        folders::make("folder", dir)?;
        let renamed = try_in(dir, files).await?;
        let is_like_temp =
            |path: &&str| path.rsplit('/').next().is_some_and(|name| name.starts_with(".bae-"));
        let paths = files.iter().map(|file| file.path.as_str());
        let like_temp = paths.filter(is_like_temp).map(|path| dir.join(path)).collect();
        Ok(Self { dir: dir.to_owned(), renamed, like_temp })
    }

    pub(super) fn renamed_paths(&self) -> impl Iterator<Item = &str> {
        self.renamed.paths()
    }

    /// The path of a file of the import in the target. The names were checked when the torrent was imported; they are
    /// checked again here in case the catalog was changed.
    pub(super) fn path(&self, path: &str) -> Result<PathBuf> {
        Ok(self.dir.join(plain(&self.renamed.in_target(path))?))
    }

    /// The content of a link at `path` to `to`. It is relative, so that the exported folder can be moved.
    pub(super) fn relative(&self, path: &str, to: &str) -> Result<PathBuf> {
        let depth = path.split('/').count() - 1;
        let to = self.renamed.in_target(to);
        Ok(std::iter::repeat_n("..", depth).collect::<PathBuf>().join(plain(&to)?))
    }

    /// Whether a path that a temp file could have is that of a file of the import.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.like_temp.contains(path)
    }

    pub(super) fn look(&self, path: &Path) -> Result<Was> {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() => Ok(Was::Link),
            Ok(found) if found.is_dir() => Ok(Was::Folder),
            Ok(found) => Ok(Was::File(found)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Was::Nothing),
            Err(e) => Err(Error::io(format!("cannot look at {}", path.display()), e)),
        }
    }
}

/// Whether `there` is a regular file of this length, not a pipe or device.
pub(super) fn is_file_of(there: &fs::Metadata, len: u64) -> bool {
    there.is_file() && there.len() == len
}

fn plain(path: &str) -> Result<&Path> {
    let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if !plain || path.is_empty() {
        return Err(Error::new(Kind::Corrupt, format!("file name {path:?} leaves the target")));
    }
    Ok(Path::new(path))
}

/// Tests the names in a temporary subfolder.
async fn try_in(dir: &Path, files: &[FileRow]) -> Result<Renamed> {
    if !are_suspect(files) {
        return Ok(Renamed::default());
    }
    let salt = getrandom::u32().unwrap_or_default();
    let trial = dir.join(format!(".bae-{}-{salt:08x}.names", std::process::id()));
    folders::make("folder", dir)?;
    fs::create_dir(&trial)
        .map_err(|e| Error::io(format!("cannot make folder {}", trial.display()), e))?;
    let tried = match LocalBackend::open(&trial) {
        Ok(place) => try_names(&place, "", files, Default::default).await,
        Err(e) => Err(e),
    };
    // A leftover is one hidden folder, which is not in the way of any exported file.
    let _ = fs::remove_dir_all(&trial);
    tried
}

/// Creates a symbolic link at `path`, and replaces the file or link there.
pub(super) fn make_link(to: &Path, path: &Path) -> Result<()> {
    if let Some(dir) = path.parent() {
        folders::make("folder", dir)?;
    }
    let make = || {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        std::os::unix::fs::symlink(to, path)
    };
    make().map_err(|e| {
        let error = Error::io(format!("cannot link {} to {}", path.display(), to.display()), e);
        match error.kind() {
            Kind::PermissionDenied => error.hint("does its file system have symbolic links?"),
            _ => error,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(paths: &[&str]) -> Vec<FileRow> {
        paths.iter().map(|path| FileRow { path: (*path).into(), ..FileRow::default() }).collect()
    }

    #[tokio::test]
    async fn names_that_the_target_keeps_are_kept_and_the_trial_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["d/A", "d/a", "d/what: ever?", ".hidden/x"];
        let target = Target::open(dir.path(), &rows(&paths)).await.unwrap();
        assert_eq!(target.renamed_paths().count(), 0);
        for path in paths {
            assert_eq!(target.path(path).unwrap(), dir.path().join(path));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let out = target.relative("d/sub/link", "d/A").unwrap();
        assert_eq!(out, Path::new("../../d/A"));
        for bad in ["../x", "/etc/x", ""] {
            assert_eq!(target.path(bad).unwrap_err().kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn renamed_parts_have_their_other_name_in_links_too() {
        let renamed = Renamed::of(["d/a".to_owned()]);
        let target = Target { dir: "/out".into(), renamed, like_temp: HashSet::new() };
        let path = target.path("d/a").unwrap();
        assert!(path.to_str().unwrap().starts_with("/out/d/a."), "{}", path.display());
        let to = target.relative("d/link", "d/a").unwrap();
        assert_eq!(path.file_name(), to.file_name());
        assert_eq!(target.path("d/A").unwrap(), Path::new("/out/d/A"));
    }
}
