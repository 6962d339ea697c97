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
    storage::files::name_probe::{RenamedPaths, need_probing, probe_names},
};

/// The target folder, with the names that it cannot keep.
pub(super) struct Target {
    dir: PathBuf,
    renamed: RenamedPaths,
    /// Files of the import that have names like those of temp files.
    temp_like_paths: HashSet<PathBuf>,
}

/// What exists at a path.
pub(super) enum TargetEntry {
    Missing,
    File(fs::Metadata),
    /// A symbolic link. It is never followed: its target is not part of the export.
    Link,
    Folder,
}

impl Target {
    /// Creates the folder, and tests those names of `files` that its file system may not keep.
    pub(super) async fn open(dir: &Path, files: &[FileRow]) -> Result<Self> {
        folders::create("folder", dir)?;
        let renamed = probe_names_in(dir, files).await?;
        let is_like_temp =
            |path: &&str| path.rsplit('/').next().is_some_and(|name| name.starts_with(".bae-"));
        let paths = files.iter().map(|file| file.path.as_str());
        let temp_like_paths = paths.filter(is_like_temp).map(|path| dir.join(path)).collect();
        Ok(Self { dir: dir.to_owned(), renamed, temp_like_paths })
    }

    pub(super) fn renamed_paths(&self) -> impl Iterator<Item = &str> {
        self.renamed.paths()
    }

    /// The path of a file of the import in the target. The names were checked when the torrent was imported; they are
    /// checked again here in case the catalog was changed.
    pub(super) fn path(&self, path: &str) -> Result<PathBuf> {
        Ok(self.dir.join(relative_path(&self.renamed.target_path(path))?))
    }

    /// The content of a link at `path` to `to`. It is relative, so that the exported folder can be moved.
    pub(super) fn relative(&self, path: &str, to: &str) -> Result<PathBuf> {
        let depth = path.split('/').count() - 1;
        let to = self.renamed.target_path(to);
        Ok(std::iter::repeat_n("..", depth).collect::<PathBuf>().join(relative_path(&to)?))
    }

    /// Whether a path that a temp file could have is that of a file of the import.
    pub(super) fn is_export_file(&self, path: &Path) -> bool {
        self.temp_like_paths.contains(path)
    }

    pub(super) fn entry_at(&self, path: &Path) -> Result<TargetEntry> {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() => Ok(TargetEntry::Link),
            Ok(found) if found.is_dir() => Ok(TargetEntry::Folder),
            Ok(found) => Ok(TargetEntry::File(found)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(TargetEntry::Missing),
            Err(e) => Err(Error::io(format!("cannot read the metadata of {}", path.display()), e)),
        }
    }
}

/// Whether `metadata` is of a regular file of this length, not a pipe or device.
pub(super) fn is_file_of(metadata: &fs::Metadata, len: u64) -> bool {
    metadata.is_file() && metadata.len() == len
}

fn relative_path(path: &str) -> Result<&Path> {
    let is_relative = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if !is_relative || path.is_empty() {
        return Err(Error::new(
            Kind::Corrupt,
            format!("file name {path:?} is outside the target folder"),
        ));
    }
    Ok(Path::new(path))
}

/// Tests the names in a temporary subfolder.
async fn probe_names_in(dir: &Path, files: &[FileRow]) -> Result<RenamedPaths> {
    if !need_probing(files) {
        return Ok(RenamedPaths::default());
    }
    let salt = getrandom::u32().unwrap_or_default();
    let test_dir = dir.join(format!(".bae-{}-{salt:08x}.names", std::process::id()));
    folders::create("folder", dir)?;
    fs::create_dir(&test_dir)
        .map_err(|e| Error::io(format!("cannot create folder {}", test_dir.display()), e))?;
    let renamed = match LocalBackend::open(&test_dir) {
        Ok(backend) => probe_names(&backend, "", files, Default::default).await,
        Err(e) => Err(e),
    };
    // A leftover is one hidden folder, which is not in the way of any exported file.
    let _ = fs::remove_dir_all(&test_dir);
    renamed
}

/// Creates a symbolic link at `path`, and replaces the file or link there.
pub(super) fn make_link(to: &Path, path: &Path) -> Result<()> {
    if let Some(dir) = path.parent() {
        folders::create("folder", dir)?;
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
            Kind::PermissionDenied => {
                error.hint("check whether its file system has symbolic links")
            }
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
    async fn names_that_the_target_supports_are_kept_and_the_test_folder_is_removed() {
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
    fn links_to_renamed_paths_use_the_new_name() {
        let renamed = RenamedPaths::new(["d/a".to_owned()]);
        let target = Target { dir: "/out".into(), renamed, temp_like_paths: HashSet::new() };
        let path = target.path("d/a").unwrap();
        assert!(path.to_str().unwrap().starts_with("/out/d/a."), "{}", path.display());
        let to = target.relative("d/link", "d/a").unwrap();
        assert_eq!(path.file_name(), to.file_name());
        assert_eq!(target.path("d/A").unwrap(), Path::new("/out/d/A"));
    }
}
