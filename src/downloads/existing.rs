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

use crate::error::{Error, Kind, Result};

/// Maximum number of symlinks in a row, as in Linux.
const LINKS: usize = 40;

/// What a path names. Symlinks are followed.
#[derive(Debug)]
pub enum Existing {
    Nothing,
    File(Metadata),
    Folder,
    /// A dangling symlink.
    DeadLink,
    /// A character device, a FIFO, or an open file of a process. It is written to and never replaced.
    Stream,
    /// A block device. It is written to, and its content is lost.
    Disk,
    Socket,
}

impl Existing {
    /// # Errors
    /// I/O errors.
    pub fn at(path: &Path) -> Result<Self> {
        let place = |e| Error::io(format!("cannot write {}", path.display()), e);
        if descriptor(path).is_some() {
            return Ok(Self::Stream);
        }
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(match fs::symlink_metadata(path) {
                    Ok(_) => Self::DeadLink,
                    Err(_) => Self::Nothing,
                });
            }
            Err(e) => return Err(place(e)),
        };
        let kind = found.file_type();
        Ok(match () {
            () if kind.is_file() => Self::File(found),
            () if kind.is_dir() => Self::Folder,
            () if kind.is_char_device() || kind.is_fifo() => Self::Stream,
            () if kind.is_block_device() => Self::Disk,
            () => Self::Socket,
        })
    }
}

/// Whether `path` names the standard output of this process.
#[must_use]
pub fn is_stdout(path: &Path) -> bool {
    descriptor(path).is_some_and(|found| found == own_descriptors().join("1"))
}

/// Opens a path that [`Existing`] reports as a stream or a disk. Blocks until a FIFO has a reader.
///
/// # Errors
/// I/O errors.
pub fn open_stream(path: &Path) -> Result<File> {
    let place = |e| Error::io(format!("cannot write {}", path.display()), e);
    if is_stdout(path) {
        // A file opened again by its name would be written from its start.
        return io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(place);
    }
    let append = descriptor(path).is_some();
    OpenOptions::new().write(true).append(append).open(path).map_err(place)
}

/// The path in `/proc` of an open file, if `path` leads to one, as `/dev/stdout` and `/dev/fd/3` do.
fn descriptor(path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()?;
        let here = parent.join(path.file_name()?);
        if parent.starts_with("/proc") && parent.ends_with("fd") {
            return Some(here);
        }
        path = parent.join(fs::read_link(here).ok()?);
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
pub(super) fn open_own(path: &Path) -> Result<File> {
    let place = |e| Error::io(format!("cannot write {}", path.display()), e);
    is_own(path)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    let file = options.open(path).map_err(place)?;
    match file.metadata().map_err(place)?.is_file() {
        true => Ok(file),
        false => Err(in_the_way(path)),
    }
}

/// Whether a regular file is at `path`. A symlink to one does not count.
///
/// # Errors
/// `AlreadyExists` when anything else is there; I/O errors.
pub(super) fn is_own(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(true),
        Ok(_) => Err(in_the_way(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(format!("cannot read {}", path.display()), e)),
    }
}

fn in_the_way(path: &Path) -> Error {
    let text = format!("{} is no file, and its name is needed", path.display());
    Error::new(Kind::AlreadyExists, text).hint("move it away, or choose another name with -o")
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn is(path: &Path) -> &'static str {
        match Existing::at(path).unwrap() {
            Existing::Nothing => "nothing",
            Existing::File(_) => "file",
            Existing::Folder => "folder",
            Existing::DeadLink => "dead link",
            Existing::Stream => "stream",
            Existing::Disk => "disk",
            Existing::Socket => "socket",
        }
    }

    #[test]
    fn what_is_at_a_path_is_told_through_links_too() {
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
        for (name, wanted) in [
            ("none", "nothing"),
            ("file", "file"),
            ("to-file", "file"),
            ("pipe", "stream"),
            ("to-pipe", "stream"),
            ("to-null", "stream"),
            ("to-dir", "folder"),
            ("dead", "dead link"),
            ("socket", "socket"),
        ] {
            assert_eq!(is(&at(name)), wanted, "{name}");
        }
    }

    #[test]
    fn what_a_process_has_open_is_a_stream_whatever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        for path in [format!("/dev/fd/{number}"), format!("/proc/self/fd/{number}")] {
            assert_eq!(is(Path::new(&path)), "stream", "{path}");
            assert!(!is_stdout(Path::new(&path)), "{path}");
        }
        symlink("/dev/stdout", dir.path().join("out")).unwrap();
        for path in [Path::new("/dev/stdout"), &dir.path().join("out"), Path::new("/dev/fd/1")] {
            assert_eq!(is(path), "stream", "{}", path.display());
            assert!(is_stdout(path), "{}", path.display());
        }
    }
}
