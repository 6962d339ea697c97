//! Commands of the command line that run in the daemon, because it holds the data folder.
//!
//! A client connects to `cli.sock` in the data folder and sends its arguments, its working folder, and the descriptors of
//! its standard input, output and error. The command runs here, with the daemon's engine, and writes to the client's
//! terminal or pipes directly: so output, progress bars and back-pressure are those of a command of its own. The answer is
//! the exit code. The byte [`INTERRUPT`] from the client, or its end, is Ctrl-C.
//!
//! Each command has a thread of its own: writing to a terminal may block. Refused: requests above 1 MiB, clients that do not
//! send their request within 10 s, and more than [`MAX_COMMANDS`] at once.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::{net::UnixListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use super::socket::{self, BoundSocket};
use crate::{
    config::Secret,
    error::{Error, Kind, Result},
};

/// The name of the socket in the data folder.
pub const FILE_NAME: &str = "cli.sock";
/// Sent by a client for each Ctrl-C.
pub const INTERRUPT: u8 = b'i';
/// Begins a request. The number is that of the protocol.
const MAGIC: &[u8; 8] = b"bae-cli1";
const MAX_REQUEST: usize = 1 << 20;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Most commands at once.
const MAX_COMMANDS: usize = 64;

/// A command of a client.
#[derive(Debug)]
pub struct CommandRequest {
    /// The arguments, the name of the program first.
    pub args: Vec<String>,
    /// The working folder of the client.
    pub cwd: PathBuf,
    /// The password in the client's environment.
    pub password: Option<Secret>,
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    /// Cancelled by the first Ctrl-C, and when the daemon stops.
    pub cancel: CancellationToken,
}

/// Runs commands. The command line has the implementation.
pub trait CommandRunner: Send + Sync + fmt::Debug {
    /// Runs a command to its end and returns its exit code. Called on a thread of its own, in the context of the runtime.
    fn run(&self, request: CommandRequest) -> u8;
}

#[derive(Serialize, Deserialize)]
struct Head {
    args: Vec<String>,
    cwd: PathBuf,
    password: Option<String>,
}

/// Binds the socket for commands, for the owner only. The caller holds the lock of the data folder.
///
/// # Errors
/// When it cannot be bound.
pub fn bind(data_dir: &Path) -> Result<BoundSocket> {
    socket::bind_as(data_dir, FILE_NAME)
}

/// Connects to the daemon that holds the data folder.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when there is none.
pub fn connect(data_dir: &Path) -> io::Result<UnixStream> {
    socket::connect_to(data_dir, FILE_NAME)
}

/// Accepts commands until `stop`, then waits for those that run: `stop` cancels them.
pub async fn serve(
    listener: UnixListener,
    runner: Arc<dyn CommandRunner>,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_COMMANDS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let (runner, cancel) = (Arc::clone(&runner), stop.child_token());
        let Ok(stream) = stream.into_std() else { continue };
        tokio::task::spawn_blocking(move || {
            if let Err(e) = answer(stream, &*runner, cancel) {
                tracing::debug!("a command of the command line: {e}");
            }
            drop(slot);
        });
    }
    let all = u32::try_from(MAX_COMMANDS).unwrap_or(u32::MAX);
    let _ = slots.acquire_many(all).await;
}

fn answer(
    stream: UnixStream,
    runner: &dyn CommandRunner,
    cancel: CancellationToken,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    let (head, [stdin, stdout, stderr]) = receive(&stream)?;
    stream.set_read_timeout(None)?;
    let watched = stream.try_clone()?;
    let interrupt = cancel.clone();
    // Ends with the connection.
    let watcher = std::thread::Builder::new().name("command".into());
    watcher.spawn(move || {
        // A byte, the end, or an error: the client wants it to stop, or is gone.
        let _ = (&watched).read(&mut [0]);
        interrupt.cancel();
    })?;
    let Head { args, cwd, password } = head;
    let password = password.map(Secret::Text);
    let request = CommandRequest { args, cwd, password, stdin, stdout, stderr, cancel };
    let code = runner.run(request);
    let sent = (&stream).write_all(&[code]);
    // Wakes the watcher.
    let _ = stream.shutdown(std::net::Shutdown::Both);
    sent
}

fn malformed(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// Receives a request. The descriptors come with its first byte.
fn receive(stream: &UnixStream) -> io::Result<(Head, [OwnedFd; 3])> {
    let mut first = [0; 12];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [io::IoSliceMut::new(&mut first)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(list) = message {
            descriptors.extend(list);
        }
    }
    let mut stream = stream;
    stream.read_exact(&mut first[received.bytes..])?;
    let (magic, len) = first.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(malformed("another protocol"));
    }
    let len = u32::from_be_bytes(len.try_into().map_err(|_| malformed("the length"))?) as usize;
    if len > MAX_REQUEST {
        return Err(malformed("the request is too long"));
    }
    let mut text = vec![0; len];
    stream.read_exact(&mut text)?;
    let head = serde_json::from_slice(&text).map_err(|_| malformed("the request"))?;
    let descriptors = descriptors.try_into().map_err(|_| malformed("not three descriptors"))?;
    Ok((head, descriptors))
}

/// Sends a request with the standard descriptors of this process.
///
/// # Errors
/// When the daemon does not take it.
pub fn send(
    stream: &UnixStream,
    args: Vec<String>,
    cwd: PathBuf,
    password: Option<String>,
) -> Result<()> {
    let text = serde_json::to_vec(&Head { args, cwd, password })
        .map_err(|e| Error::new(Kind::Internal, "cannot encode a command").because(e))?;
    if text.len() > MAX_REQUEST {
        return Err(Error::new(Kind::InvalidInput, "the arguments are too long for the daemon"));
    }
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let mut message = MAGIC.to_vec();
    message.extend_from_slice(&len.to_be_bytes());
    let send = || -> io::Result<()> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let descriptors = [
            std::os::fd::AsFd::as_fd(&stdin),
            std::os::fd::AsFd::as_fd(&stdout),
            std::os::fd::AsFd::as_fd(&stderr),
        ];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(malformed("no space for the descriptors"));
        }
        let sent =
            sendmsg(stream, &[io::IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)?;
        let mut stream = stream;
        stream.write_all(&message[sent..])?;
        stream.write_all(&text)
    };
    send().map_err(|e| Error::io("the daemon does not take the command", e))
}
