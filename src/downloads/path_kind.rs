//! What exists at the target path of a file. A file may be replaced, a device or a pipe is written to as it is, and a
//! folder allows neither.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use crate::{
    error::{Error, Kind, Result},
    hints::{Setting, hint},
};

/// Maximum number of symlinks in a row, as in Linux.
const MAX_LINKS: usize = 40;

/// What a path names. Symlinks are followed.
#[derive(Debug)]
pub enum PathKind {
    Missing,
    File(Metadata),
    Folder,
    /// A dangling symlink.
    DanglingLink,
    /// A character device, a FIFO, or an open file of a process. It is written to and never replaced.
    Stream,
    /// A block device. It is written to, and its content is lost.
    BlockDevice,
    Socket,
}

impl PathKind {
    /// # Errors
    /// I/O errors.
    pub fn at(path: &Path) -> Result<Self> {
        let context = |e| Error::io(format!("cannot write {}", path.display()), e);
        if descriptor_path(path).is_some() {
            return Ok(Self::Stream);
        }
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(match fs::symlink_metadata(path) {
                    Ok(_) => Self::DanglingLink,
                    Err(_) => Self::Missing,
                });
            }
            Err(e) => return Err(context(e)),
        };
        let kind = found.file_type();
        Ok(match () {
            () if kind.is_file() => Self::File(found),
            () if kind.is_dir() => Self::Folder,
            () if kind.is_char_device() || kind.is_fifo() => Self::Stream,
            () if kind.is_block_device() => Self::BlockDevice,
            () => Self::Socket,
        })
    }
}

/// Whether `path` names the standard output of this process.
#[must_use]
pub fn is_stdout(path: &Path) -> bool {
    descriptor_path(path).is_some_and(|found| found == own_descriptors().join("1"))
}

/// Opens a path that [`PathKind`] reports as a stream or a disk. Blocks until a FIFO has a reader.
///
/// # Errors
/// I/O errors.
pub fn open_stream(path: &Path) -> Result<File> {
    let context = |e| Error::io(format!("cannot write {}", path.display()), e);
    if is_stdout(path) {
        // A file opened again by its name would be written from its start.
        return io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(context);
    }
    let append = descriptor_path(path).is_some();
    OpenOptions::new().write(true).append(append).open(path).map_err(context)
}

/// The path in `/proc` of an open file, if `path` leads to one, as `/dev/stdout` and `/dev/fd/3` do.
fn descriptor_path(path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?;
        let entry = parent.join(path.file_name()?);
        if parent.starts_with("/proc") && parent.ends_with("fd") {
            return Some(entry);
        }
        path = parent.join(fs::read_link(entry).ok()?);
    }
    None
}

fn own_descriptors() -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd", std::process::id()))
}

/// Opens a regular file of ours, or creates it. Symlinks and everything else are rejected.
///
/// # Errors
/// `AlreadyExists` when something else is there; I/O errors.
pub(super) fn open_regular_file(path: &Path) -> Result<File> {
    let context = |e| Error::io(format!("cannot write {}", path.display()), e);
    regular_file_exists(path)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    let file = options.open(path).map_err(context)?;
    match file.metadata().map_err(context)?.is_file() {
        true => Ok(file),
        false => Err(not_regular_error(path)),
    }
}

/// Whether a regular file is at `path`. A symlink to one does not count.
///
/// # Errors
/// `AlreadyExists` when anything else is there; I/O errors.
pub(super) fn regular_file_exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(true),
        Ok(_) => Err(not_regular_error(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(format!("cannot read {}", path.display()), e)),
    }
}

fn not_regular_error(path: &Path) -> Error {
    let text = format!("{} is not a regular file", path.display());
    Error::new(Kind::AlreadyExists, text)
        .hint(hint!["move it away, or choose another name with ", Setting::OutName])
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn name_of_kind(path: &Path) -> &'static str {
        match PathKind::at(path).unwrap() {
            PathKind::Missing => "missing",
            PathKind::File(_) => "file",
            PathKind::Folder => "folder",
            PathKind::DanglingLink => "dangling link",
            PathKind::Stream => "stream",
            PathKind::BlockDevice => "block device",
            PathKind::Socket => "socket",
        }
    }

    #[test]
    fn path_kinds_are_found_through_symlinks() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for (link, to) in [("to-file", "file"), ("to-pipe", "pipe"), ("to-dir", "."), ("dead", "x")]
        {
            symlink(to, at(link)).unwrap();
        }
        symlink("/dev/null", at("to-null")).unwrap();
        for (name, expected) in [
            ("none", "missing"),
            ("file", "file"),
            ("to-file", "file"),
            ("pipe", "stream"),
            ("to-pipe", "stream"),
            ("to-null", "stream"),
            ("to-dir", "folder"),
            ("dead", "dangling link"),
            ("socket", "socket"),
        ] {
            assert_eq!(name_of_kind(&at(name)), expected, "{name}");
        }
    }

    #[test]
    fn open_files_of_a_process_are_streams() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        for path in [format!("/dev/fd/{number}"), format!("/proc/self/fd/{number}")] {
            assert_eq!(name_of_kind(Path::new(&path)), "stream", "{path}");
            assert!(!is_stdout(Path::new(&path)), "{path}");
        }
        symlink("/dev/stdout", dir.path().join("out")).unwrap();
        for path in [Path::new("/dev/stdout"), &dir.path().join("out"), Path::new("/dev/fd/1")] {
            assert_eq!(name_of_kind(path), "stream", "{}", path.display());
            assert!(is_stdout(path), "{}", path.display());
        }
    }
}
