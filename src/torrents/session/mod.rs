//! The session: starts libtorrent, adds torrents to it, and stops it in order.
//!
//! [`native`] owns libtorrent's session and says which calls are safe when, [`start`] has the plain values that a torrent
//! starts with, [`torrent`] the calls on one torrent, and [`control`] the settings that change while it runs. [`pump`]
//! forwards alerts ([`alerts`]) and applies the limits of the memory governor. No lock is held around a call into
//! libtorrent. Calls that wait for its network thread
//! (`add`, `add_piece`, `availability`, `info_dictionary`, `torrent_file`) run on the blocking pool.

mod alerts;
mod control;
mod failures;
pub(super) mod features;
pub(super) mod listen_failures;
mod listening;
mod native;
mod pump;
pub(super) mod settings;
mod start;
#[cfg(test)]
mod tests;
mod torrent;
pub(super) mod udp_tracker;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub(super) use self::native::NativeTorrent;
use self::{
    control::RateLimits, features::Feature, listen_failures::ListenFailures, native::NativeSession,
    settings::check_interfaces, torrent::Registration,
};
pub use self::{
    control::TorrentControl,
    start::{Origin, Start},
    torrent::{Status, Torrent, TorrentEvent},
};
use super::{
    disk::{Disk, ffi::SessionConfig, torrent_disk::TorrentDisk},
    picker::download_limit::DownloadLimit,
};
use crate::{
    config::{SessionOptions, TorrentOptions},
    error::Result,
    memory::{BlockPool, Budget},
    storage::Pressure,
};

/// The running session. Stop it with [`TorrentSession::stop`].
pub struct TorrentSession {
    native: NativeSession,
    disk: Arc<Disk>,
    options: SessionOptions,
    pressure: Arc<Pressure>,
    pool: BlockPool,
    limits: Mutex<RateLimits>,
    /// The download limit now: that of the user, or a lower one of the governor.
    download_limit: DownloadLimit,
    event_senders: Mutex<HashMap<u64, mpsc::UnboundedSender<TorrentEvent>>>,
    /// Messages of UDP trackers, by torrent and URL.
    tracker_messages: Mutex<HashMap<(u64, String), String>>,
    listen_addresses: Mutex<Vec<String>>,
    /// Notified of each new listen address.
    listening: Notify,
    listen_failures: Mutex<ListenFailures>,
    next_number: AtomicU64,
    stopping: CancellationToken,
    pump: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for TorrentSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TorrentSession")
            .field("listen_addresses", &self.listen_addresses())
            .finish_non_exhaustive()
    }
}

impl TorrentSession {
    /// Starts libtorrent. Must be called inside a runtime.
    ///
    /// # Errors
    /// `Unsupported` when the installed library is not the version that bae was built for; `InvalidInput` when an
    /// interface does not exist, or libtorrent refuses a setting; `Unavailable` without memory or threads for it.
    pub fn start(
        options: &SessionOptions,
        pressure: Arc<Pressure>,
        pool: BlockPool,
    ) -> Result<Arc<Self>> {
        features::check_library()?;
        check_interfaces(options)?;
        let disk =
            Disk::new(Arc::clone(&pressure), pool.clone(), Handle::current(), options.suggest)?;
        let config = SessionConfig {
            // The numbers of requests and uploads were measured with seven eighths of `--memory`.
            settings: settings::session(options, pool.memory().total() / 8 * 7),
            smart_ban: features::is_safe(Feature::SmartBan),
            // The bytes of peers on the local network use memory like all others.
            limit_local_peers: true,
        };
        let session = Arc::new(Self {
            native: NativeSession::start(&config, Arc::clone(&disk))?,
            disk,
            options: options.clone(),
            pressure,
            pool,
            limits: Mutex::new(RateLimits {
                download: options.limit_rate,
                upload: options.upload_limit,
                budget: None,
            }),
            download_limit: DownloadLimit::new(options.limit_rate),
            event_senders: Mutex::default(),
            tracker_messages: Mutex::default(),
            listen_addresses: Mutex::default(),
            listening: Notify::new(),
            listen_failures: Mutex::default(),
            next_number: AtomicU64::new(1),
            stopping: CancellationToken::new(),
            pump: Mutex::new(None),
        });
        let pump = tokio::spawn(pump::run(Arc::clone(&session)));
        *session.pump.lock() = Some(pump);
        Ok(session)
    }

    /// Addresses on which peers can connect, as `ip:port`.
    #[must_use]
    pub fn listen_addresses(&self) -> Vec<String> {
        self.listen_addresses.lock().clone()
    }

    /// The memory budget of the session.
    #[must_use]
    pub fn memory(&self) -> &Budget {
        self.pool.memory()
    }

    /// Payload bytes evicted to stay in the memory budget.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.disk.evicted()
    }

    /// Adds a torrent. It starts when its content is attached ([`Torrent::attach`]).
    ///
    /// # Errors
    /// `InvalidInput` when libtorrent refuses it; `AlreadyExists` when it is in the session; `Cancelled` when the
    /// session has ended.
    pub async fn add(self: &Arc<Self>, start: Start, options: TorrentOptions) -> Result<Torrent> {
        let session = Arc::clone(self);
        // Also when this future is dropped, the torrent is dropped only after it was added, and then removed again.
        native::blocking(move || session.add_now(start, options)).await
    }

    fn add_now(self: Arc<Self>, start: Start, options: TorrentOptions) -> Result<Torrent> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let add = start.for_libtorrent(number, &options, &self.options)?;
        let disk = TorrentDisk::new(number);
        disk.download_limit().set(options.limit_rate);
        let (sender, events) = mpsc::unbounded_channel();
        self.event_senders.lock().insert(number, sender);
        self.disk.registry().add(Arc::clone(&disk));
        let registration = Registration { number, disk, session: Arc::clone(&self) };
        let native = self.native.add(&add)?;
        Ok(Torrent::new(native, events, options, registration))
    }

    /// libtorrent could not listen, or could not accept a connection.
    fn on_listen_failure(&self, text: &str) {
        let response = self.listen_failures.lock().on_failure(text, Instant::now());
        if response.report {
            tracing::warn!("cannot accept connections of peers: {text}");
        }
        if response.pause {
            tracing::warn!(
                "too many open files: connections of peers are refused for a while; raise the limit (ulimit -n)"
            );
            self.set_listen_addresses(None);
        }
    }

    fn set_listen_addresses(&self, options: Option<&SessionOptions>) {
        let applied = self.native.call(|session| session.apply(&settings::listen(options)));
        if let Err(e) = applied {
            tracing::warn!(error = %e.report(), "cannot change the listen addresses");
        }
    }

    fn send_event(&self, torrent: u64, event: TorrentEvent) {
        if let Some(sender) = self.event_senders.lock().get(&torrent) {
            // Sending fails when the torrent's owner is gone and the torrent is being removed.
            let _ = sender.send(event);
        }
    }

    pub(super) fn options(&self) -> &SessionOptions {
        &self.options
    }

    pub(super) fn pool(&self) -> &BlockPool {
        &self.pool
    }

    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    pub(super) fn download_limit(&self) -> &DownloadLimit {
        &self.download_limit
    }

    /// Ends the session without waiting for it. For an owner that is dropped and cannot wait.
    pub fn abandon(&self) {
        self.stopping.cancel();
        self.end();
    }

    /// Ends libtorrent's session. The result is cancelled when it has ended.
    fn end(&self) -> CancellationToken {
        self.event_senders.lock().clear();
        // No job may stay open: libtorrent waits for each of them before its thread ends.
        self.disk.abort();
        self.native.end()
    }

    /// Ends the session: aborts jobs in flight, announces the stop to trackers, and joins the network thread. Verified
    /// bytes belong to the writers and are not touched. Returns false when the session did not end within `deadline`;
    /// the process can end regardless.
    pub async fn stop(&self, deadline: Duration) -> bool {
        self.stopping.cancel();
        let pump = self.pump.lock().take();
        if let Some(pump) = pump {
            // The pump ends at its next wake-up, which `cancel` caused.
            let _ = pump.await;
        }
        let ended = self.end();
        let in_time = tokio::time::timeout(deadline, ended.cancelled()).await.is_ok();
        if !in_time {
            tracing::warn!("the torrent session did not end in time and is abandoned");
        }
        in_time
    }
}
