//! The unix socket in the data folder. Its permissions are its access control: only the owner connects.

use std::{
    fs::{self, File, Permissions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{fs::PermissionsExt as _, net::UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

use crate::error::{Error, Result};

/// Its name in the data folder.
pub const FILE_NAME: &str = "daemon.sock";

/// A bound socket.
#[derive(Debug)]
pub struct BoundSocket {
    pub listener: UnixListener,
    pub file: SocketFile,
}

/// Removes the file of the socket when it is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Binds the socket, for the owner only. The caller holds the lock of the data folder, so that a file that is there
/// already belongs to no process.
///
/// # Errors
/// When it cannot be bound.
pub fn bind(data_dir: &Path) -> Result<BoundSocket> {
    bind_as(data_dir, FILE_NAME)
}

/// As [`bind`], under another name.
///
/// # Errors
/// As [`bind`].
pub(super) fn bind_as(data_dir: &Path, name: &str) -> Result<BoundSocket> {
    let path = data_dir.join(name);
    let error = |e| Error::io(format!("unix socket {}", path.display()), e);
    let temp = format!("{name}.new");
    let bind = || {
        // Bound under another name first: under its own, the socket never has other permissions.
        let _ = fs::remove_file(data_dir.join(&temp));
        let listener = with_short_path(data_dir, &temp, |short| UnixListener::bind(short))?;
        fs::set_permissions(data_dir.join(&temp), Permissions::from_mode(0o600))?;
        fs::rename(data_dir.join(&temp), &path)?;
        Ok(listener)
    };
    let listener = bind().map_err(error)?;
    Ok(BoundSocket { listener, file: SocketFile(path) })
}

/// Connects to the daemon that holds the data folder.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when there is none.
pub async fn connect(data_dir: &Path) -> io::Result<UnixStream> {
    let stream = connect_to(data_dir, FILE_NAME)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Connects to the socket of a name, in blocking mode.
pub(super) fn connect_to(data_dir: &Path, name: &str) -> io::Result<StdUnixStream> {
    with_short_path(data_dir, name, |path| StdUnixStream::connect(path))
}

/// Calls `work` with a path to `name` in `dir`. The path of a socket has at most 107 bytes, that of a folder more: so the
/// folder is opened, and named by its descriptor.
fn with_short_path<T>(
    dir: &Path,
    name: &str,
    work: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let direct = dir.join(name);
    if direct.as_os_str().len() < 108 {
        return work(&direct);
    }
    let folder =
        rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let folder = File::from(folder);
    work(Path::new(&format!("/proc/self/fd/{}/{name}", folder.as_raw_fd())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_owner_connects_whatever_the_length_of_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(120));
        fs::create_dir(&long).unwrap();
        for dir in [dir.path(), &long] {
            assert!(connect(dir).await.is_err());
            // The file of a daemon that was killed.
            fs::write(dir.join(FILE_NAME), "").unwrap();
            let socket = bind(dir).unwrap();
            let mode = fs::metadata(dir.join(FILE_NAME)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let (connected, accepted) = tokio::join!(connect(dir), socket.listener.accept());
            connected.unwrap();
            accepted.unwrap();
            drop(socket.file);
            assert!(!dir.join(FILE_NAME).exists());
        }
    }
}
