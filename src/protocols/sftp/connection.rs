//! A logged-in connection to a server, and all requests that are sent on it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use russh::{
    ChannelMsg,
    cipher::{AES_128_GCM, AES_256_GCM},
    client::{self as ssh, Config},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    address::SftpAddress,
    client::{Handle, RequestResult, SftpClient},
    errors::{ConnectError, is_connection_lost, is_end_of_file, request_error, ssh_error},
    host_key::{self, HostKeyVerifier},
    login::log_in,
    packet::{Attributes, FileKind, FolderEntry},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{FetchOptions, dial::dial, timeouts::Timeouts},
};

/// SSH window in bytes: how much the server may send without an acknowledgement. It exceeds all reads in flight, so
/// that only the requests limit the rate.
const SSH_WINDOW: u32 = 32 << 20;
/// Maximum number of messages of up to 32 KiB that wait to be read, per connection.
const MAX_UNREAD_MESSAGES: usize = 32;
/// Maximum number of open files. Some servers allow no more than a hundred.
const MAX_OPEN_FILES: usize = 64;
/// Maximum number of consecutive answers without an entry in a listing, or without a byte of a file. Normally there is
/// none.
const MAX_EMPTY_ANSWERS: usize = 100;

pub(super) struct SftpConnection {
    client: SftpClient,
    ssh: ssh::Handle<HostKeyVerifier>,
    pub(super) address: SftpAddress,
    pub(super) timeouts: Timeouts,
    open_files: Arc<Semaphore>,
    /// Number of streams on this connection.
    pub(super) streams: AtomicUsize,
    last_answer: Mutex<Instant>,
    broken: AtomicBool,
}

impl std::fmt::Debug for SftpConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

impl SftpConnection {
    /// Connects, verifies the server's key, logs in, and starts SFTP.
    ///
    /// # Errors
    /// As [`Protocol::probe`](crate::protocols::Protocol::probe).
    pub(super) async fn open(address: &SftpAddress, options: &FetchOptions) -> Result<Self> {
        let timeouts = Timeouts::from_options(options);
        let action = || format!("connect to {address}");
        let mut refused = false;
        let connecting = Self::connect(address, options, timeouts, &mut refused);
        let failure = match timeouts.run_connect(action, connecting).await {
            Err(e) if refused && address.password.is_none() && options.passwords.can_prompt() => e,
            result => return result,
        };
        // Only a password is left to try. The prompt comes between two connections, because the server would not wait
        // for it.
        tracing::info!("{}", failure.report());
        let password = options.passwords.password_for(&address.user, &address.host).await?;
        let with_password = SftpAddress { password: Some(password), ..address.clone() };
        let connecting = Self::connect(&with_password, options, timeouts, &mut refused);
        let connected = timeouts.run_connect(action, connecting).await?;
        Ok(Self { address: address.clone(), ..connected })
    }

    /// `refused` is set to whether the login failed.
    async fn connect(
        address: &SftpAddress,
        options: &FetchOptions,
        timeouts: Timeouts,
        refused: &mut bool,
    ) -> Result<Self> {
        let action = format!("connect to {address}");
        let known_keys = Arc::new(host_key::load_known_hosts(address, &options.host_keys).await?);
        let mut config = Config {
            window_size: SSH_WINDOW,
            channel_buffer_size: MAX_UNREAD_MESSAGES,
            ..Config::default()
        };
        config.preferred.key = known_keys.prefer_known_types(&config.preferred.key).into();
        // Processors have instructions for AES-GCM, which make it several times as fast as the usual first choice.
        let ciphers = [AES_128_GCM, AES_256_GCM];
        let others = config.preferred.cipher.iter().filter(|c| !ciphers.contains(c)).copied();
        config.preferred.cipher = ciphers.into_iter().chain(others).collect();
        let verifier = HostKeyVerifier::new(address, known_keys, &options.host_keys);
        let (proxy, outgoing) = (options.proxy.as_ref(), &options.outgoing);
        let stream = dial(&address.host, address.port, proxy, outgoing).await;
        let stream = stream.map_err(|e| e.with_context(&action))?;
        let connected = russh::client::connect_stream(Arc::new(config), stream, verifier).await;
        let mut handle = connected.map_err(|e: ConnectError| e.into_error(&action))?;
        let login = log_in(&mut handle, address, &options.identities).await;
        *refused = login.as_ref().is_err_and(|e| e.kind() == Kind::Unauthenticated);
        login?;
        let client = start_sftp(&handle, address).await?;
        Ok(Self {
            client,
            ssh: handle,
            address: address.clone(),
            timeouts,
            open_files: Arc::new(Semaphore::new(MAX_OPEN_FILES)),
            streams: AtomicUsize::new(0),
            last_answer: Mutex::new(Instant::now()),
            broken: AtomicBool::new(false),
        })
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.ssh.is_closed() && !self.broken.load(Ordering::Acquire)
    }

    /// Records that the server has answered.
    fn record_answer(&self) {
        *self.last_answer.lock() = Instant::now();
    }

    /// The time since the server last answered.
    fn since_last_answer(&self) -> Duration {
        self.last_answer.lock().elapsed()
    }

    /// Waits for the answer to one request. The inner error is the server's. `action` is the text of errors.
    async fn wait_for_answer<T>(
        &self,
        action: impl Fn() -> String,
        answer: impl Future<Output = RequestResult<T>>,
    ) -> Result<RequestResult<T>> {
        let mut answer = std::pin::pin!(answer);
        loop {
            let idle_timeout = self.timeouts.idle;
            match tokio::time::timeout(idle_timeout, &mut answer).await {
                Ok(Err(e)) if is_connection_lost(&e) => {
                    self.broken.store(true, Ordering::Release);
                    return Err(request_error(self.with_server(action()), e));
                }
                Ok(answer) => {
                    self.record_answer();
                    return Ok(answer);
                }
                // Other requests are answered on the same connection, and this one waits behind them.
                Err(_) if self.since_last_answer() < idle_timeout => {}
                Err(_) => {
                    self.broken.store(true, Ordering::Release);
                    let error = Error::new(Kind::Network, self.with_server(action()));
                    return Err(error.because(format!("no answer within {idle_timeout:?}")));
                }
            }
        }
    }

    fn with_server(&self, action: String) -> String {
        format!("{action} on {}", self.address)
    }

    async fn request<T>(
        &self,
        action: impl Fn() -> String,
        answer: impl Future<Output = RequestResult<T>>,
    ) -> Result<T> {
        let answer = self.wait_for_answer(&action, answer).await?;
        answer.map_err(|e| request_error(self.with_server(action()), e))
    }

    /// The attributes at `path`. Links are followed.
    pub(super) async fn stat(&self, path: &[u8]) -> Result<Attributes> {
        self.request(|| format!("stat {}", quote_path(path)), self.client.stat(path)).await
    }

    /// The attributes and the type at `path`. If the server reports no type, it is found by trying. `listed` has the
    /// attributes from a listing.
    pub(super) async fn stat_with_kind(
        self: &Arc<Self>,
        path: &[u8],
        listed: Option<Attributes>,
    ) -> Result<(Attributes, FileKind)> {
        let mut attributes = match listed {
            Some(listed) if listed.kind() != FileKind::Unknown => {
                return Ok((listed, listed.kind()));
            }
            // At first without following links, to recognise a link.
            Some(listed) => {
                let by_lstat = self.client.lstat(path);
                let found =
                    self.wait_for_answer(|| format!("stat {}", quote_path(path)), by_lstat).await?;
                found.unwrap_or(listed)
            }
            None => self.stat(path).await?,
        };
        if attributes.kind() == FileKind::Unknown && listed.is_some() {
            attributes = self.stat(path).await?;
        }
        let kind = match attributes.kind() {
            FileKind::Unknown if self.is_folder(path).await? => FileKind::Folder,
            FileKind::Unknown => FileKind::File,
            kind => kind,
        };
        Ok((attributes, kind))
    }

    async fn is_folder(self: &Arc<Self>, path: &[u8]) -> Result<bool> {
        let opened = self.client.open_folder(path);
        Ok(self
            .wait_for_answer(|| format!("open folder {}", quote_path(path)), opened)
            .await?
            .is_ok())
    }

    /// Tests by a read whether a file is empty: servers also report length 0 for files that are generated on request.
    pub(super) async fn is_empty(self: &Arc<Self>, path: &[u8]) -> Result<bool> {
        let (file, _) = self.open_file(path).await?;
        let first = file.read(&format!("read {}", quote_path(path)), 0, 1).await?;
        Ok(first.is_none())
    }

    /// The real path of `path`, with all links resolved.
    pub(super) async fn real_path(&self, path: &[u8]) -> Result<RequestResult<Bytes>> {
        self.wait_for_answer(
            || format!("resolve {}", quote_path(path)),
            self.client.real_path(path),
        )
        .await
    }

    /// Opens a file and returns the attributes of the open file.
    pub(super) async fn open_file(self: &Arc<Self>, path: &[u8]) -> Result<(OpenFile, Attributes)> {
        let action = || format!("open {}", quote_path(path));
        let permit = self.open_file_permit().await;
        let handle = self.request(action, self.client.open(path)).await?;
        let file = self.open_file_with(permit, handle);
        let attributes = match self.wait_for_answer(action, self.client.fstat(&file.handle)).await?
        {
            Ok(attributes) => attributes,
            // Some servers report attributes only by path, whatever they call the refusal.
            Err(_) => self.request(action, self.client.stat(path)).await?,
        };
        Ok((file, attributes))
    }

    pub(super) async fn open_folder(self: &Arc<Self>, path: &[u8]) -> Result<OpenFile> {
        let permit = self.open_file_permit().await;
        let opened = self.client.open_folder(path);
        let handle = self.request(|| format!("open folder {}", quote_path(path)), opened).await?;
        Ok(self.open_file_with(permit, handle))
    }

    async fn open_file_permit(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.open_files).acquire_owned().await;
        permit.expect("the semaphore is never closed")
    }

    fn open_file_with(self: &Arc<Self>, permit: OwnedSemaphorePermit, handle: Handle) -> OpenFile {
        OpenFile { connection: Arc::clone(self), handle, _permit: permit }
    }
}

/// Formats a path for error messages.
pub(super) fn quote_path(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

/// A file or folder that is open on the server. Dropping it closes it.
pub(super) struct OpenFile {
    handle: Handle,
    pub(super) connection: Arc<SftpConnection>,
    _permit: OwnedSemaphorePermit,
}

impl OpenFile {
    /// Reads up to `len` bytes of a file; `None` at its end.
    pub(super) async fn read(&self, subject: &str, start: u64, len: u32) -> Result<Option<Bytes>> {
        let read = || self.connection.client.read(&self.handle, start, len);
        self.until_not_empty(|| subject.to_owned(), "bytes", read, Bytes::is_empty).await
    }

    /// Requests until an answer has something; `None` at the end, which only a status declares.
    async fn until_not_empty<T, F: Future<Output = RequestResult<T>>>(
        &self,
        action: impl Fn() -> String,
        what: &str,
        request_more: impl Fn() -> F,
        is_empty: impl Fn(&T) -> bool,
    ) -> Result<Option<T>> {
        let context = || self.connection.with_server(action());
        for _ in 0..MAX_EMPTY_ANSWERS {
            match self.connection.wait_for_answer(&action, request_more()).await? {
                Ok(some) if is_empty(&some) => {}
                Ok(some) => return Ok(Some(some)),
                Err(e) if is_end_of_file(&e) => return Ok(None),
                Err(e) => return Err(request_error(context(), e)),
            }
        }
        Err(Error::new(Kind::Unsupported, context())
            .because(format!("the server sent {MAX_EMPTY_ANSWERS} answers without {what}")))
    }

    /// Whether the file is now longer than `len` bytes, according to the server.
    pub(super) async fn is_longer_than(&self, subject: &str, len: u64) -> Result<bool> {
        let by_fstat = self.connection.client.fstat(&self.handle);
        match self.connection.wait_for_answer(|| subject.to_owned(), by_fstat).await? {
            Ok(now) => Ok(now.len.is_some_and(|now| now > len)),
            Err(e) => Err(request_error(self.connection.with_server(subject.to_owned()), e)),
        }
    }

    /// The next entries of a folder; `None` after the last ones.
    pub(super) async fn next_entries(&self, path: &[u8]) -> Result<Option<Vec<FolderEntry>>> {
        let read = || self.connection.client.read_folder(&self.handle);
        self.until_not_empty(
            || format!("list {}", quote_path(path)),
            "entries",
            read,
            Vec::is_empty,
        )
        .await
    }
}

/// Starts SFTP on a logged-in connection.
async fn start_sftp(
    handle: &ssh::Handle<HostKeyVerifier>,
    address: &SftpAddress,
) -> Result<SftpClient> {
    let action = || format!("start SFTP on {address}");
    let failed = |e| ssh_error(action(), e);
    let mut channel = handle.channel_open_session().await.map_err(failed)?;
    channel.request_subsystem(true, "sftp").await.map_err(failed)?;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => break,
            Some(ChannelMsg::Failure) | None => {
                return Err(Error::new(Kind::Unsupported, action())
                    .because("the server does not offer SFTP to this user"));
            }
            Some(_) => {}
        }
    }
    let started = SftpClient::start(channel.into_stream()).await;
    started.map_err(|reason| {
        Error::new(Kind::Unsupported, action())
            .because(reason)
            .hint("a start-up file of the user on the server may print text, which breaks SFTP")
    })
}
