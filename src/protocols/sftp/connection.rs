//! A connection to a server: signed in, and all that is asked on it.

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
    errors::{Trouble, is_end, is_fatal, is_unsupported, request, transport},
    host_key::{self, HostKey},
    packet::{Attributes, Entry, FileKind},
    sign_in::sign_in,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{FetchOptions, dial::dial, patience::Patience},
};

/// Bytes that the server may send before it hears that they were taken. Beyond all that is ever asked for at once, so
/// that requests alone set the pace.
const WINDOW: u32 = 32 << 20;
/// Messages of up to 32 KiB that wait to be read, on each connection.
const MESSAGES: usize = 32;
/// Files open at a time: some servers allow no more than a hundred.
const OPEN_FILES: usize = 64;
/// Answers without any entry that a listing may have in a row: none is usual.
const EMPTY: usize = 100;

pub(super) struct Connection {
    client: Client,
    ssh: ssh::Handle<HostKey>,
    pub(super) address: Address,
    pub(super) patience: Patience,
    open_files: Arc<Semaphore>,
    /// Streams under way.
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
    /// Connects, looks at the server's key, signs in, and starts SFTP.
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
        // Nothing else is left to try. The server would not wait for the answer.
        tracing::info!("{}", failed.report());
        let password = options.passwords.of(&address.user, &address.host).await?;
        let known = Address { password: Some(password), ..address.clone() };
        let connecting = Self::connect(&known, options, patience, &mut refused);
        let connected = patience.connecting(doing, connecting).await?;
        Ok(Self { address: address.clone(), ..connected })
    }

    /// `refused` tells whether it was the login that failed.
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
        // The processor has instructions for it, which makes it several times as fast as what is usually preferred.
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

    /// Something came from the server.
    fn hear(&self) {
        *self.heard.lock() = Instant::now();
    }

    /// For how long nothing came.
    fn silent_for(&self) -> Duration {
        self.heard.lock().elapsed()
    }

    /// One request and what the server says to it. `doing` is what the error names.
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
                // Answers to others come by the same connection, and this one waits its turn.
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

    /// What is at `path`; links are followed.
    pub(super) async fn stat(&self, path: &[u8]) -> Result<Attributes> {
        self.ask(|| format!("look at {}", show(path)), self.client.stat(path)).await
    }

    /// What is at `path`, with a type: where the server does not tell one, by trying. `listed` is what a listing said.
    pub(super) async fn typed(
        self: &Arc<Self>,
        path: &[u8],
        listed: Option<Attributes>,
    ) -> Result<(Attributes, FileKind)> {
        let mut attributes = match listed {
            Some(listed) if listed.kind() != FileKind::Unknown => {
                return Ok((listed, listed.kind()));
            }
            // First as it is, so that a link is one.
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

    /// Whether a file has no bytes, as a read shows: servers say length 0 also of what they make on request.
    pub(super) async fn is_empty(self: &Arc<Self>, path: &[u8]) -> Result<bool> {
        let (file, _) = self.open_file(path).await?;
        let first = file.read(&format!("read {}", show(path)), 0, 1).await?;
        Ok(first.is_none_or(|bytes| bytes.is_empty()))
    }

    /// Where `path` is once all links are followed.
    pub(super) async fn real_path(&self, path: &[u8]) -> Result<Answer<Bytes>> {
        self.answered(|| format!("resolve {}", show(path)), self.client.real_path(path)).await
    }

    /// What a link leads to; the inner error is the server's.
    pub(super) async fn target(&self, link: &[u8]) -> Result<Answer<Attributes>> {
        self.answered(|| format!("look at {}", show(link)), self.client.stat(link)).await
    }

    /// Opens a file, and says what it is that was opened.
    pub(super) async fn open_file(self: &Arc<Self>, path: &[u8]) -> Result<(OpenFile, Attributes)> {
        let doing = || format!("open {}", show(path));
        let permit = self.permit().await;
        let handle = self.ask(doing, self.client.open(path)).await?;
        let file = self.held(permit, handle);
        let attributes = match self.answered(doing, self.client.fstat(&file.handle)).await? {
            // Some servers know what a name is only.
            Err(e) if is_unsupported(&e) => self.ask(doing, self.client.stat(path)).await?,
            answer => answer.map_err(|e| request(self.at(doing()), e))?,
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

/// A path as errors show it.
pub(super) fn show(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

/// A file or folder that is open at the server. Dropped, it is closed.
pub(super) struct OpenFile {
    handle: Handle,
    pub(super) connection: Arc<Connection>,
    _permit: OwnedSemaphorePermit,
}

impl OpenFile {
    /// Bytes of a file, or fewer than were asked for; `None` at its end.
    pub(super) async fn read(&self, subject: &str, start: u64, len: u32) -> Result<Option<Bytes>> {
        let read = self.connection.client.read(&self.handle, start, len);
        match self.connection.answered(|| subject.to_owned(), read).await? {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if is_end(&e) => Ok(None),
            Err(e) => Err(request(self.connection.at(subject.to_owned()), e)),
        }
    }

    /// Whether the file has more bytes than `len` by now, by what the server says.
    pub(super) async fn is_longer_than(&self, subject: &str, len: u64) -> Result<bool> {
        let asked = self.connection.client.fstat(&self.handle);
        match self.connection.answered(|| subject.to_owned(), asked).await? {
            Ok(now) => Ok(now.len.is_some_and(|now| now > len)),
            Err(e) => Err(request(self.connection.at(subject.to_owned()), e)),
        }
    }

    /// Some of what is in a folder; `None` when that was all.
    pub(super) async fn some(&self, path: &[u8]) -> Result<Option<Vec<Entry>>> {
        let doing = || format!("list {}", show(path));
        for _ in 0..EMPTY {
            let some = self.connection.client.read_folder(&self.handle);
            match self.connection.answered(doing, some).await? {
                Ok(entries) if entries.is_empty() => {}
                Ok(entries) => return Ok(Some(entries)),
                Err(e) if is_end(&e) => return Ok(None),
                Err(e) => return Err(request(self.connection.at(doing()), e)),
            }
        }
        Err(Error::new(Kind::Unsupported, self.connection.at(doing()))
            .because("the server gives answers without entries and no end"))
    }
}

/// Starts SFTP on a connection that is signed in.
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
