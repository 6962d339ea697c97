//! systemd's side of a service: sockets that it opened for us, and reports of our state to it.

use std::{
    env, io,
    net::TcpListener as StdTcpListener,
    os::{
        fd::{OwnedFd, RawFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram, UnixListener as StdUnixListener},
    },
};

use rustix::{
    net::{AddressFamily, getsockname},
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};
use tokio::net::{TcpListener, UnixListener};

use super::Server;
use crate::error::{Error, Result};

/// The first descriptor that systemd passes.
const FIRST_FD: RawFd = 3;
/// Most sockets that a unit may pass.
const MAX_FDS: RawFd = 64;

/// Adds the sockets that systemd opened (`LISTEN_FDS`) to the server. Returns how many there are.
///
/// # Errors
/// `InvalidInput` when one is no listening stream socket.
pub fn take_sockets(server: &mut Server) -> Result<usize> {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    let is_for_us = number("LISTEN_PID") == Some(getpid().as_raw_nonzero().get());
    let count = number("LISTEN_FDS").filter(|count| is_for_us && *count > 0);
    let Some(count) = count.map(|count| count.min(MAX_FDS)) else { return Ok(0) };
    for fd in FIRST_FD..FIRST_FD + count {
        add_socket(server, fd)
            .map_err(|e| Error::io(format!("socket {fd} from systemd"), e))
            .map_err(|e| e.hint("the unit needs ListenStream= with an address or a path"))?;
    }
    Ok(usize::try_from(count).unwrap_or(0))
}

fn add_socket(server: &mut Server, fd: RawFd) -> io::Result<()> {
    let socket = duplicate(fd)?;
    let address = getsockname(&socket)?;
    match address.address_family() {
        AddressFamily::INET | AddressFamily::INET6 => {
            let listener = StdTcpListener::from(socket);
            listener.set_nonblocking(true)?;
            server.add_tcp(TcpListener::from_std(listener)?);
        }
        AddressFamily::UNIX => {
            let listener = StdUnixListener::from(socket);
            listener.set_nonblocking(true)?;
            server.add_unix(UnixListener::from_std(listener)?);
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    Ok(())
}

/// A descriptor of our own for one that was passed as a number.
fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(this, fd, PidfdGetfdFlags::empty())?)
}

/// Reports a state to systemd, like `READY=1`. Does nothing when the process is no service of systemd.
pub fn notify(state: &str) {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(e) = send(&path, state) {
        tracing::warn!("the state was not reported to systemd: {e}");
    }
}

fn send(path: &std::ffi::OsStr, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    let address = match path.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reaches_both_kinds_of_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        let mut buffer = [0; 64];
        let len = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"READY=1");
        let name = format!("bae-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let receiver = UnixDatagram::bind_addr(&address).unwrap();
        send(format!("@{name}").as_ref(), "STOPPING=1").unwrap();
        let len = receiver.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"STOPPING=1");
    }

    #[tokio::test]
    async fn a_passed_descriptor_becomes_a_listener() {
        use std::os::fd::AsRawFd as _;
        let listener = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let mut server = Server::default();
        add_socket(&mut server, listener.as_raw_fd()).unwrap();
        assert_eq!(server.addresses(), [listener.local_addr().unwrap()]);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(add_socket(&mut server, file.as_raw_fd()).is_err());
    }
}
