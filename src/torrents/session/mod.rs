//! The session: starts libtorrent, adds torrents to it, forwards its alerts, and stops it in order.
//!
//! One background task ([`pump`]) wakes when libtorrent has alerts, and four times a second. [`torrent`] has the calls
//! about one torrent. Calls into libtorrent that wait for its network thread (`add`, `add_piece`, `availability`, `torrent_file`) run on the blocking
//! pool.

mod control;
pub(super) mod features;
pub(super) mod listen_failures;
mod listening;
mod pump;
pub(super) mod settings;
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

use self::{
    control::RateLimits, features::Feature, listen_failures::ListenFailures,
    settings::check_interfaces,
};
pub use self::{
    control::TorrentControl,
    torrent::{Origin, Start, Status, Torrent, TorrentEvent},
};
use super::{
    disk::{
        Disk,
        ffi::{AddTorrent, SessionBox},
        torrent_disk::TorrentDisk,
    },
    metainfo::{
        MAX_PIECES,
        rewrite::{LibtorrentFile, for_libtorrent},
    },
};
use crate::{
    config::{SessionOptions, TorrentOptions},
    error::{Error, Kind, Result},
    memory::{BlockPool, Budget},
    rate::RateLimit,
    storage::Pressure,
};

/// The running session. Stop it with [`TorrentSession::stop`].
pub struct TorrentSession {
    session: Mutex<Option<SessionBox>>,
    disk: Arc<Disk>,
    options: SessionOptions,
    pressure: Arc<Pressure>,
    pool: BlockPool,
    limits: Mutex<RateLimits>,
    /// Limits the web seeds, so that they and the peers keep to one limit together.
    web_limit: Arc<RateLimit>,
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
    /// interface does not exist, or libtorrent refuses a setting.
    pub fn start(
        options: &SessionOptions,
        pressure: Arc<Pressure>,
        pool: BlockPool,
    ) -> Result<Arc<Self>> {
        features::check_library()?;
        check_interfaces(options)?;
        let disk =
            Disk::new(Arc::clone(&pressure), pool.clone(), Handle::current(), options.suggest)?;
        // The numbers of requests and uploads were measured with seven eighths of `--memory`.
        let settings = settings::session(options, pool.memory().total() / 8 * 7);
        let smart_ban = features::is_safe(Feature::SmartBan);
        let session = SessionBox::new(&settings, Arc::clone(&disk), smart_ban).map_err(|e| {
            Error::new(Kind::InvalidInput, "cannot start the torrent session").because(e)
        })?;
        let session = Arc::new(Self {
            session: Mutex::new(Some(session)),
            disk,
            options: options.clone(),
            pressure,
            pool,
            limits: Mutex::new(RateLimits {
                download: options.limit_rate,
                upload: options.upload_limit,
                budget: None,
            }),
            web_limit: RateLimit::new(options.limit_rate),
            event_senders: Mutex::default(),
            tracker_messages: Mutex::default(),
            listen_addresses: Mutex::default(),
            listening: Notify::new(),
            listen_failures: Mutex::default(),
            next_number: AtomicU64::new(1),
            stopping: CancellationToken::new(),
            pump: Mutex::new(None),
        });
        let pump = tokio::spawn(pump::pump(Arc::clone(&session)));
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
    /// `InvalidInput` when libtorrent refuses it.
    pub async fn add(self: &Arc<Self>, start: Start, options: TorrentOptions) -> Result<Torrent> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let disk = TorrentDisk::new(number);
        let (sender, events) = mpsc::unbounded_channel();
        self.event_senders.lock().insert(number, sender);
        self.disk.registry().add(Arc::clone(&disk));
        let add = self.add_params(number, start, &options)?;
        let session = Arc::clone(self);
        let torrent = Torrent::new(number, disk, events, session, options);
        torrent.blocking(move |s| s.get_mut().add(&add)).await?;
        Ok(torrent)
    }

    fn add_params(
        &self,
        torrent: u64,
        start: Start,
        options: &TorrentOptions,
    ) -> Result<AddTorrent> {
        let complete = matches!(start.origin, Origin::Stored(_));
        let (file, magnet) = match start.origin {
            Origin::File(bytes) | Origin::Stored(bytes) => (for_libtorrent(&bytes)?, String::new()),
            Origin::Magnet(uri) => (LibtorrentFile { bytes: Vec::new(), private: false }, uri),
        };
        let private = options.private || file.private;
        Ok(AddTorrent {
            torrent,
            metainfo: file.bytes,
            magnet,
            max_pieces: MAX_PIECES,
            complete,
            have: start.have.into_iter().map(u8::from).collect(),
            priorities: start.wanted.into_iter().map(|w| if w { 4 } else { 0 }).collect(),
            peers: options.peers.iter().map(ToString::to_string).collect(),
            sequential: options.sequential,
            dht: self.options.dht && !private,
            lsd: self.options.lsd && !private,
            pex: self.options.pex && !private,
        })
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
        if let Err(e) = self.call(|s| s.get_mut().apply(&settings::listen(options))) {
            tracing::warn!(error = %e.report(), "cannot change the listen addresses");
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

    pub(super) fn web_limit(&self) -> &RateLimit {
        &self.web_limit
    }

    /// Called when sealed bytes became durable.
    pub(super) fn on_drained(&self) {
        self.disk.on_drained();
    }

    fn call<R>(&self, f: impl FnOnce(&mut SessionBox) -> Result<R, cxx::Exception>) -> Result<R> {
        let mut session = self.session.lock();
        let session = session
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Cancelled, "the torrent session has ended"))?;
        f(session)
            .map_err(|e| Error::new(Kind::InvalidInput, "libtorrent refused the call").because(e))
    }

    /// Ends the session without waiting for it. For an owner that is dropped and cannot wait.
    pub fn abandon(&self) {
        self.stopping.cancel();
        self.destroy(|| {});
    }

    /// Destroys libtorrent's session on a thread of its own, and calls `done` then.
    fn destroy(&self, done: impl FnOnce() + Send + 'static) {
        let session = self.session.lock().take();
        // No job may stay open: libtorrent waits for each of them before its thread ends.
        self.disk.abort();
        // A separate thread: the destructor joins libtorrent's thread, which may need the runtime to finish jobs.
        std::thread::spawn(move || {
            drop(session);
            done();
        });
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
        let (done, ended) = tokio::sync::oneshot::channel();
        // The receiver is gone when the deadline has passed.
        self.destroy(move || {
            let _ = done.send(());
        });
        let in_time = tokio::time::timeout(deadline, ended).await.is_ok();
        if !in_time {
            tracing::warn!("the torrent session did not end in time and is abandoned");
        }
        in_time
    }
}
