//! A connection to a server: signed in, and all that is asked on it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use russh::{
    ChannelMsg,
    cipher::{AES_128_GCM, AES_256_GCM},
    client::{Config, Handle},
};
use russh_sftp::{
    client::{Config as SftpConfig, RawSftpSession, rawsession::SftpResult},
    protocol::{File, FileAttributes, OpenFlags},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    address::Address,
    errors::{Trouble, is_end, is_fatal, request, transport},
    host_key::{self, HostKey},
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
/// Files open at a time. The library takes a server's names for open files as text, and OpenSSH counts them in a byte
/// that is no text from 128 on.
const OPEN_FILES: usize = 64;
/// Longer than any queue of requests takes. Whether a server is silent is found out by what comes at all.
const NEVER: u64 = 24 * 3600;

pub(super) struct Connection {
    raw: RawSftpSession,
    handle: Handle<HostKey>,
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
        patience.connecting(doing, Self::connect(address, options, patience)).await
    }

    async fn connect(
        address: &Address,
        options: &FetchOptions,
        patience: Patience,
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
        sign_in(&mut handle, address, &options.identities).await?;
        let raw = start(&handle, address).await?;
        Ok(Self {
            raw,
            handle,
            address: address.clone(),
            patience,
            open_files: Arc::new(Semaphore::new(OPEN_FILES)),
            streams: AtomicUsize::new(0),
            heard: Mutex::new(Instant::now()),
            broken: AtomicBool::new(false),
        })
    }

    pub(super) fn is_of_use(&self) -> bool {
        !self.handle.is_closed() && !self.broken.load(Ordering::Acquire)
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
        answer: impl Future<Output = SftpResult<T>>,
    ) -> Result<SftpResult<T>> {
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
        answer: impl Future<Output = SftpResult<T>>,
    ) -> Result<T> {
        let answer = self.answered(&doing, answer).await?;
        answer.map_err(|e| request(self.at(doing()), e))
    }

    /// What is at `path`; links are followed.
    pub(super) async fn stat(&self, path: &str) -> Result<FileAttributes> {
        let answer = self.ask(|| format!("look at {path:?}"), self.raw.stat(path)).await?;
        Ok(answer.attrs)
    }

    /// Where `path` is once all links are followed.
    pub(super) async fn real_path(&self, path: &str) -> Result<String> {
        let answer = self.ask(|| format!("resolve {path:?}"), self.raw.realpath(path)).await?;
        let none = || Error::new(Kind::Unavailable, self.at(format!("resolve {path:?}")));
        Ok(answer.files.into_iter().next().ok_or_else(none)?.filename)
    }

    /// Opens a file, and says what it is that was opened.
    pub(super) async fn open_file(
        self: &Arc<Self>,
        path: &str,
    ) -> Result<(OpenFile, FileAttributes)> {
        let doing = || format!("open {path:?}");
        let permit = self.permit().await;
        let open = self.raw.open(path, OpenFlags::READ, FileAttributes::empty());
        let file = self.held(permit, self.ask(doing, open).await?.handle);
        let attributes = self.ask(doing, self.raw.fstat(file.handle.as_str())).await?.attrs;
        Ok((file, attributes))
    }

    pub(super) async fn open_folder(self: &Arc<Self>, path: &str) -> Result<OpenFile> {
        let permit = self.permit().await;
        let opened = self.ask(|| format!("open folder {path:?}"), self.raw.opendir(path)).await?;
        Ok(self.held(permit, opened.handle))
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.open_files).acquire_owned().await;
        permit.expect("the semaphore is never closed")
    }

    fn held(self: &Arc<Self>, permit: OwnedSemaphorePermit, handle: String) -> OpenFile {
        OpenFile { connection: Arc::clone(self), handle, permit: Some(permit) }
    }
}

/// A file or folder that is open at the server. Dropped, it is closed.
pub(super) struct OpenFile {
    pub(super) connection: Arc<Connection>,
    handle: String,
    permit: Option<OwnedSemaphorePermit>,
}

impl OpenFile {
    /// Bytes of a file, or fewer than were asked for; `None` at its end.
    pub(super) async fn read(
        &self,
        subject: &str,
        start: u64,
        len: u32,
    ) -> Result<Option<Vec<u8>>> {
        let read = self.connection.raw.read(self.handle.as_str(), start, len);
        match self.connection.answered(|| subject.to_owned(), read).await? {
            Ok(answer) => Ok(Some(answer.data)),
            Err(e) if is_end(&e) => Ok(None),
            Err(e) => Err(request(self.connection.at(subject.to_owned()), e)),
        }
    }

    /// Some of what is in a folder; `None` when that was all.
    pub(super) async fn some(&self, path: &str) -> Result<Option<Vec<File>>> {
        let doing = || format!("list {path:?}");
        let some = self.connection.raw.readdir(self.handle.as_str());
        match self.connection.answered(doing, some).await? {
            Ok(answer) => Ok(Some(answer.files)),
            Err(e) if is_end(&e) => Ok(None),
            Err(e) => Err(request(self.connection.at(doing()), e)),
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let (connection, permit) = (Arc::clone(&self.connection), self.permit.take());
        let handle = std::mem::take(&mut self.handle);
        // Without a runtime the connection is ending anyway, and all that is open with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = connection.raw.close(handle).await;
                drop(permit);
            });
        }
    }
}

/// Starts SFTP on a connection that is signed in.
async fn start(handle: &Handle<HostKey>, address: &Address) -> Result<RawSftpSession> {
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
    let config = SftpConfig { request_timeout_secs: NEVER, ..SftpConfig::default() };
    let raw = RawSftpSession::new_with_config(channel.into_stream(), config);
    raw.init().await.map_err(|e| request(doing(), e))?;
    Ok(raw)
}
