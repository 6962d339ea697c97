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
    address::Address,
    client::{Answer, Client, Handle},
    errors::{Trouble, is_end, is_fatal, request, transport},
    host_key::{self, HostKey},
    packet::{Attributes, Entry, FileKind},
    sign_in::sign_in,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{FetchOptions, dial::dial, patience::Patience},
};

/// SSH window in bytes: how much the server may send without an acknowledgement. It exceeds all reads in flight, so
/// that only the requests limit the rate.
const WINDOW: u32 = 32 << 20;
/// Maximum number of messages of up to 32 KiB that wait to be read, per connection.
const MESSAGES: usize = 32;
/// Maximum number of open files. Some servers allow no more than a hundred.
const OPEN_FILES: usize = 64;
/// Maximum number of consecutive answers without an entry in a listing, or without a byte of a file. Normally there is
/// none.
const EMPTY: usize = 100;

pub(super) struct Connection {
    client: Client,
    ssh: ssh::Handle<HostKey>,
    pub(super) address: Address,
    pub(super) patience: Patience,
    open_files: Arc<Semaphore>,
    /// Number of streams on this connection.
    pub(super) streams: AtomicUsize,
    heard: Mutex<Instant>,
    broken: AtomicBool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects, verifies the server's key, logs in, and starts SFTP.
    ///
    /// # Errors
    /// As [`Protocol::probe`](crate::protocols::Protocol::probe).
    pub(super) async fn open(address: &Address, options: &FetchOptions) -> Result<Self> {
        let patience = Patience::of(options);
        let doing = || format!("connect to {address}");
        let mut refused = false;
        let connecting = Self::connect(address, options, patience, &mut refused);
        let failed = match patience.connecting(doing, connecting).await {
            Err(e) if refused && address.password.is_none() && options.passwords.can_ask() => e,
            done => return done,
        };
        // Only a password is left to try. The prompt comes between two connections, because the server would not wait
        // for it.
        tracing::info!("{}", failed.report());
        let password = options.passwords.of(&address.user, &address.host).await?;
        let known = Address { password: Some(password), ..address.clone() };
        let connecting = Self::connect(&known, options, patience, &mut refused);
        let connected = patience.connecting(doing, connecting).await?;
        Ok(Self { address: address.clone(), ..connected })
    }

    /// `refused` is set to whether the login failed.
    async fn connect(
        address: &Address,
        options: &FetchOptions,
        patience: Patience,
        refused: &mut bool,
    ) -> Result<Self> {
        let doing = format!("connect to {address}");
        let known = Arc::new(host_key::known(address, &options.host_keys).await?);
        let mut config =
            Config { window_size: WINDOW, channel_buffer_size: MESSAGES, ..Config::default() };
        config.preferred.key = known.first(&config.preferred.key).into();
        // Processors have instructions for AES-GCM, which make it several times as fast as the usual first choice.
        let ciphers = [AES_128_GCM, AES_256_GCM];
        let others = config.preferred.cipher.iter().filter(|c| !ciphers.contains(c)).copied();
        config.preferred.cipher = ciphers.into_iter().chain(others).collect();
        let check = HostKey::new(address, known, &options.host_keys);
        let (proxy, outgoing) = (options.proxy.as_ref(), &options.outgoing);
        let stream = dial(&address.host, address.port, proxy, outgoing).await;
        let stream = stream.map_err(|e| e.within(&doing))?;
        let connected = russh::client::connect_stream(Arc::new(config), stream, check).await;
        let mut handle = connected.map_err(|e: Trouble| e.told(&doing))?;
        let signed_in = sign_in(&mut handle, address, &options.identities).await;
        *refused = signed_in.as_ref().is_err_and(|e| e.kind() == Kind::Unauthenticated);
        signed_in?;
        let client = start(&handle, address).await?;
        Ok(Self {
            client,
            ssh: handle,
            address: address.clone(),
            patience,
            open_files: Arc::new(Semaphore::new(OPEN_FILES)),
            streams: AtomicUsize::new(0),
            heard: Mutex::new(Instant::now()),
            broken: AtomicBool::new(false),
        })
    }

    pub(super) fn is_of_use(&self) -> bool {
        !self.ssh.is_closed() && !self.broken.load(Ordering::Acquire)
    }

    /// Records that the server has answered.
    fn hear(&self) {
        *self.heard.lock() = Instant::now();
    }

    /// The time since the server last answered.
    fn silent_for(&self) -> Duration {
        self.heard.lock().elapsed()
    }

    /// Waits for the answer to one request. The inner error is the server's. `doing` is the text of an error.
    async fn answered<T>(
        &self,
        doing: impl Fn() -> String,
        answer: impl Future<Output = Answer<T>>,
    ) -> Result<Answer<T>> {
        let mut answer = std::pin::pin!(answer);
        loop {
            let silence = self.patience.silence;
            match tokio::time::timeout(silence, &mut answer).await {
                Ok(Err(e)) if is_fatal(&e) => {
                    self.broken.store(true, Ordering::Release);
                    return Err(request(self.at(doing()), e));
                }
                Ok(answer) => {
                    self.hear();
                    return Ok(answer);
                }
                // Other requests are answered on the same connection, and this one waits behind them.
                Err(_) if self.silent_for() < silence => {}
                Err(_) => {
                    self.broken.store(true, Ordering::Release);
                    let error = Error::new(Kind::Network, self.at(doing()));
                    return Err(error.because(format!("no answer within {silence:?}")));
                }
            }
        }
    }

    fn at(&self, doing: String) -> String {
        format!("{doing} on {}", self.address)
    }

    async fn ask<T>(
        &self,
        doing: impl Fn() -> String,
        answer: impl Future<Output = Answer<T>>,
    ) -> Result<T> {
        let answer = self.answered(&doing, answer).await?;
        answer.map_err(|e| request(self.at(doing()), e))
    }

    /// The attributes at `path`. Links are followed.
    pub(super) async fn stat(&self, path: &[u8]) -> Result<Attributes> {
        self.ask(|| format!("look at {}", show(path)), self.client.stat(path)).await
    }

    /// The attributes and the type at `path`. If the server reports no type, it is found by trying. `listed` has the
    /// attributes from a listing.
    pub(super) async fn typed(
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
                let looked = self.client.lstat(path);
                let found = self.answered(|| format!("look at {}", show(path)), looked).await?;
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
        Ok(self.answered(|| format!("open folder {}", show(path)), opened).await?.is_ok())
    }

    /// Tests by a read whether a file is empty: servers also report length 0 for files that are generated on request.
    pub(super) async fn is_empty(self: &Arc<Self>, path: &[u8]) -> Result<bool> {
        let (file, _) = self.open_file(path).await?;
        let first = file.read(&format!("read {}", show(path)), 0, 1).await?;
        Ok(first.is_none())
    }

    /// The real path of `path`, with all links resolved.
    pub(super) async fn real_path(&self, path: &[u8]) -> Result<Answer<Bytes>> {
        self.answered(|| format!("resolve {}", show(path)), self.client.real_path(path)).await
    }

    /// Opens a file and returns the attributes of the open file.
    pub(super) async fn open_file(self: &Arc<Self>, path: &[u8]) -> Result<(OpenFile, Attributes)> {
        let doing = || format!("open {}", show(path));
        let permit = self.permit().await;
        let handle = self.ask(doing, self.client.open(path)).await?;
        let file = self.held(permit, handle);
        let attributes = match self.answered(doing, self.client.fstat(&file.handle)).await? {
            Ok(attributes) => attributes,
            // Some servers report attributes only by path, whatever they call the refusal.
            Err(_) => self.ask(doing, self.client.stat(path)).await?,
        };
        Ok((file, attributes))
    }

    pub(super) async fn open_folder(self: &Arc<Self>, path: &[u8]) -> Result<OpenFile> {
        let permit = self.permit().await;
        let opened = self.client.open_folder(path);
        let handle = self.ask(|| format!("open folder {}", show(path)), opened).await?;
        Ok(self.held(permit, handle))
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.open_files).acquire_owned().await;
        permit.expect("the semaphore is never closed")
    }

    fn held(self: &Arc<Self>, permit: OwnedSemaphorePermit, handle: Handle) -> OpenFile {
        OpenFile { connection: Arc::clone(self), handle, _permit: permit }
    }
}

/// Formats a path for error messages.
pub(super) fn show(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

/// A file or folder that is open on the server. Dropping it closes it.
pub(super) struct OpenFile {
    handle: Handle,
    pub(super) connection: Arc<Connection>,
    _permit: OwnedSemaphorePermit,
}

impl OpenFile {
    /// Reads up to `len` bytes of a file; `None` at its end.
    pub(super) async fn read(&self, subject: &str, start: u64, len: u32) -> Result<Option<Bytes>> {
        let read = || self.connection.client.read(&self.handle, start, len);
        self.until_some(|| subject.to_owned(), "bytes", read, Bytes::is_empty).await
    }

    /// Requests until an answer has something; `None` at the end, which only a status declares.
    async fn until_some<T, F: Future<Output = Answer<T>>>(
        &self,
        doing: impl Fn() -> String,
        what: &str,
        request_more: impl Fn() -> F,
        is_empty: impl Fn(&T) -> bool,
    ) -> Result<Option<T>> {
        let at = || self.connection.at(doing());
        for _ in 0..EMPTY {
            match self.connection.answered(&doing, request_more()).await? {
                Ok(some) if is_empty(&some) => {}
                Ok(some) => return Ok(Some(some)),
                Err(e) if is_end(&e) => return Ok(None),
                Err(e) => return Err(request(at(), e)),
            }
        }
        Err(Error::new(Kind::Unsupported, at())
            .because(format!("the server gives answers without {what} and no end")))
    }

    /// Whether the file is now longer than `len` bytes, according to the server.
    pub(super) async fn is_longer_than(&self, subject: &str, len: u64) -> Result<bool> {
        let asked = self.connection.client.fstat(&self.handle);
        match self.connection.answered(|| subject.to_owned(), asked).await? {
            Ok(now) => Ok(now.len.is_some_and(|now| now > len)),
            Err(e) => Err(request(self.connection.at(subject.to_owned()), e)),
        }
    }

    /// The next entries of a folder; `None` after the last ones.
    pub(super) async fn some(&self, path: &[u8]) -> Result<Option<Vec<Entry>>> {
        let read = || self.connection.client.read_folder(&self.handle);
        self.until_some(|| format!("list {}", show(path)), "entries", read, Vec::is_empty).await
    }
}

/// Starts SFTP on a logged-in connection.
async fn start(handle: &ssh::Handle<HostKey>, address: &Address) -> Result<Client> {
    let doing = || format!("start SFTP on {address}");
    let lost = |e| transport(doing(), e);
    let mut channel = handle.channel_open_session().await.map_err(lost)?;
    channel.request_subsystem(true, "sftp").await.map_err(lost)?;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => break,
            Some(ChannelMsg::Failure) | None => {
                return Err(Error::new(Kind::Unsupported, doing())
                    .because("the server does not have it for this user"));
            }
            Some(_) => {}
        }
    }
    let started = Client::start(channel.into_stream()).await;
    started.map_err(|why| {
        Error::new(Kind::Unsupported, doing())
            .because(why)
            .hint("a start-up file of the user there may print something: SFTP needs silence")
    })
}
