//! The session: starts libtorrent, adds torrents to it, forwards its alerts, and stops it in order.
//!
//! One background task (the pump) wakes when libtorrent has alerts, and four times a second. It pops alerts and
//! forwards each to its torrent, requests statuses, and applies the limits of the memory governor. Calls into
//! libtorrent that wait for its network thread (`add`, `add_piece`, `availability`, `torrent_file`) run on the blocking
//! pool.

mod control;
pub(super) mod features;
pub(super) mod listen_failures;
mod listening;
pub(super) mod settings;
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

pub use self::control::TorrentControl;
use self::{
    control::RateLimits, features::Feature, listen_failures::ListenFailures,
    settings::check_interfaces,
};
use super::{
    disk::{
        Disk,
        ffi::{AddTorrent, AlertInfo, AlertKind, SessionBox, TorrentStatus},
        torrent_disk::TorrentDisk,
    },
    metainfo::{
        MAX_PIECES,
        rewrite::{LibtorrentFile, for_libtorrent},
    },
    picker::governor::{Marks, Sample, SessionLimits},
};
use crate::{
    config::{SessionOptions, TorrentOptions},
    error::{Error, Kind, Result},
    memory::{BlockPool, Budget},
    rate::{Rate, RateLimit},
    redact,
    storage::Pressure,
};

/// Interval of status requests and memory samples.
const TICK: Duration = Duration::from_millis(250);

/// Milliseconds between the deadlines of pieces that a reader waits for. Only their order matters: libtorrent requests
/// the piece due first from the fastest peers, and requests a late block twice.
const DEADLINE_STEP_MS: i32 = 250;

/// Bytes per second that web seeds always get, even while peers use the whole limit, so that a running request still
/// shows whether its server answers.
const MIN_WEB_SEED_RATE: u64 = 1024;

/// The most tracker messages that are remembered.
const MAX_TRACKER_MESSAGES: usize = 1000;

/// Events of one torrent, in order.
#[derive(Debug, Clone)]
pub enum TorrentEvent {
    /// The info dictionary arrived (magnets only).
    Metadata(Vec<u8>),
    Status(Status),
    /// A tracker's warning, or a failure that is retried: a piece's hash, a read for a peer, a magnet's metadata.
    NonFatal(String),
    /// A tracker, by scheme, host and port, returned this many peers.
    TrackerAnswered {
        tracker: String,
        peers: String,
    },
    /// A tracker could not be reached, or refused the announce.
    TrackerFailed {
        tracker: String,
        text: String,
    },
    /// The torrent stopped with an error.
    Failed(String),
}

/// libtorrent's view of a torrent in the session: payload bytes of this run, bytes per second, numbers of peers.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Includes incomplete blocks.
    pub downloaded: u64,
    pub uploaded: u64,
    pub upload_rate: u64,
    pub peers: usize,
    pub seeds: usize,
    pub paused: bool,
}

/// The source of a torrent's metainfo.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A .torrent file's bytes, checked by [`super::metainfo::Metainfo::parse`].
    File(Vec<u8>),
    /// A .torrent file of which every piece is stored. It is not checked again.
    Stored(Vec<u8>),
    Magnet(String),
}

/// How a torrent starts.
#[derive(Debug, Clone)]
pub struct Start {
    pub origin: Origin,
    /// One entry per piece; empty = no piece is stored.
    pub have: Vec<bool>,
    /// The wanted pieces, one entry per piece; empty = all.
    pub wanted: Vec<bool>,
}

impl Start {
    /// A torrent of which every piece is stored.
    #[must_use]
    pub fn seeding(torrent: Vec<u8>) -> Self {
        Self { origin: Origin::Stored(torrent), have: Vec::new(), wanted: Vec::new() }
    }

    /// A torrent of which only the magnet link is known.
    #[must_use]
    pub fn magnet(link: String) -> Self {
        Self { origin: Origin::Magnet(link), have: Vec::new(), wanted: Vec::new() }
    }
}

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
        let pump = tokio::spawn(pump(Arc::clone(&session)));
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
        let torrent = Torrent { number, disk, events, session, options, removed: false };
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

/// Wakes when libtorrent has alerts, and every [`TICK`].
async fn pump(session: Arc<TorrentSession>) {
    let mut governor = Governor::new(&session);
    let mut tick = tokio::time::interval(TICK);
    loop {
        let ticked = tokio::select! {
            () = session.stopping.cancelled() => return,
            _ = tick.tick() => true,
            () = session.disk.alerts_ready().notified() => false,
        };
        let (mut alerts, mut statuses) = (Vec::new(), Vec::new());
        let popped = session.call(|s| s.get_mut().pop_alerts(&mut alerts, &mut statuses));
        if let Err(e) = popped {
            tracing::error!(error = %e.report(), "cannot read libtorrent's alerts");
        }
        alerts.into_iter().for_each(|a| match a.kind {
            AlertKind::TrackerError if !a.data.is_empty() => query_tracker_message(&session, a),
            _ => forward_alert(&session, a),
        });
        statuses.iter().for_each(|s| forward_status(&session, s));
        if ticked {
            if session.listen_failures.lock().take_pause_end(Instant::now()) {
                session.set_listen_addresses(Some(&session.options));
            }
            let _ = session.call(|s| s.get_mut().post_updates());
            governor.govern(&session);
        }
    }
}

/// Forwards a refusal once the tracker's message is known. The tracker is queried once per torrent.
fn query_tracker_message(session: &Arc<TorrentSession>, mut alert: AlertInfo) {
    let key = (alert.torrent, alert.url.clone());
    let known = session.tracker_messages.lock().get(&key).cloned();
    if let Some(message) = known {
        alert.text = message;
        return forward_alert(session, alert);
    }
    let session = Arc::clone(session);
    tokio::spawn(async move {
        let message = udp_tracker::refusal(&alert.url, &alert.data, &session.options).await;
        if let Some(message) = message.filter(|message| !message.is_empty()) {
            alert.text = message;
        }
        let mut known = session.tracker_messages.lock();
        if known.len() < MAX_TRACKER_MESSAGES {
            known.insert(key, alert.text.clone());
        }
        drop(known);
        forward_alert(&session, alert);
    });
}

fn forward_alert(session: &TorrentSession, alert: AlertInfo) {
    let event = match alert.kind {
        AlertKind::Listening => {
            let mut addresses = session.listen_addresses.lock();
            // The same again, after a pause of listening.
            if !addresses.contains(&alert.text) {
                addresses.push(alert.text);
            }
            drop(addresses);
            return session.listening.notify_waiters();
        }
        AlertKind::ListenFailed => return session.on_listen_failure(&alert.text),
        AlertKind::Metadata => TorrentEvent::Metadata(alert.data),
        AlertKind::TrackerError => TorrentEvent::TrackerFailed {
            tracker: redact::tracker_origin(&alert.url),
            text: redact::tracker_message(&alert.url, &alert.text),
        },
        AlertKind::TrackerReply => TorrentEvent::TrackerAnswered {
            tracker: redact::tracker_origin(&alert.url),
            peers: alert.text,
        },
        AlertKind::TrackerWarning => TorrentEvent::NonFatal(format!(
            "tracker {} warns: {}",
            redact::tracker_origin(&alert.url),
            redact::tracker_message(&alert.url, &alert.text)
        )),
        AlertKind::NonFatalError => TorrentEvent::NonFatal(alert.text),
        AlertKind::TorrentError => TorrentEvent::Failed(alert.text),
        _ => return,
    };
    if let Some(sender) = session.event_senders.lock().get(&alert.torrent) {
        // Sending fails when the torrent's owner is gone and the torrent is being removed.
        let _ = sender.send(event);
    }
}

fn forward_status(session: &TorrentSession, status: &TorrentStatus) {
    let status_event = Status {
        downloaded: status.downloaded,
        uploaded: status.uploaded,
        upload_rate: status.upload_rate,
        peers: status.peers as usize,
        seeds: status.seeds as usize,
        paused: status.paused,
    };
    if let Some(sender) = session.event_senders.lock().get(&status.torrent) {
        let _ = sender.send(TorrentEvent::Status(status_event));
    }
}

/// Samples memory for the governor, and applies its limits when they change.
struct Governor {
    marks: Marks,
    drain_rate: Rate,
    /// The rate at which peers send.
    peer_rate: Rate,
    started: Instant,
    last: Option<SessionLimits>,
}

impl Governor {
    fn new(session: &TorrentSession) -> Self {
        let marks = Marks::new(session.pool.budget());
        let (drain_rate, peer_rate) = (Rate::default(), Rate::default());
        Self { marks, drain_rate, peer_rate, started: Instant::now(), last: None }
    }

    fn govern(&mut self, session: &TorrentSession) {
        session.on_drained();
        let limits = self.marks.limits(Sample {
            held: session.pool.level(),
            in_flight: session.pressure.in_flight(),
            drain_rate: self
                .drain_rate
                .sample(self.started.elapsed().as_secs_f64(), session.pressure.drained()),
        });
        let user_limit = session.limits.lock().download;
        let download_limit = limits.download_limit.into_iter().chain(user_limit).min();
        let limits = SessionLimits { download_limit, ..limits };
        // Web seeds get what peers leave of the limit, so that both keep to it together.
        let received =
            session.disk.registry().all().iter().map(|t| t.received_from_peers()).sum::<u64>();
        let peer_rate = self.peer_rate.sample(self.started.elapsed().as_secs_f64(), received);
        let remaining = |limit: u64| limit.saturating_sub(peer_rate).max(MIN_WEB_SEED_RATE);
        session.web_limit.set(limits.download_limit.map(remaining));
        if self.last == Some(limits) {
            return;
        }
        let applied = session.call(|s| {
            s.get().set_requests(limits.requests);
            s.get_mut().apply(&settings::download_limit(limits.download_limit))
        });
        match applied {
            Ok(()) => self.last = Some(limits),
            Err(e) => tracing::warn!(error = %e.report(), "cannot change the download limit"),
        }
    }
}

/// One torrent in the session. Dropping it without [`Torrent::remove`] removes it too.
pub struct Torrent {
    number: u64,
    disk: Arc<TorrentDisk>,
    events: mpsc::UnboundedReceiver<TorrentEvent>,
    session: Arc<TorrentSession>,
    options: TorrentOptions,
    removed: bool,
}

impl fmt::Debug for Torrent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Torrent").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Torrent {
    pub(super) fn disk(&self) -> &Arc<TorrentDisk> {
        &self.disk
    }

    pub(super) fn session(&self) -> &Arc<TorrentSession> {
        &self.session
    }

    /// For changing the settings of this torrent while a download owns it.
    #[must_use]
    pub fn control(&self) -> TorrentControl {
        TorrentControl::new(&self.session, self.number)
    }

    pub(super) fn options(&self) -> &TorrentOptions {
        &self.options
    }

    /// Waits for the next event of the torrent; `None` once the session ended.
    pub(super) async fn next_event(&mut self) -> Option<TorrentEvent> {
        self.events.recv().await
    }

    /// The next queued event of the torrent, without waiting; `None` when there is none.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub fn try_next_event(&mut self) -> Result<Option<TorrentEvent>> {
        match self.events.try_recv() {
            Ok(notice) => Ok(Some(notice)),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => {
                Err(Error::new(Kind::Cancelled, "the torrent session has ended"))
            }
        }
    }

    /// Payload bytes handed to libtorrent for sending to peers so far.
    #[must_use]
    pub fn bytes_served(&self) -> u64 {
        self.disk.bytes_served()
    }

    /// Takes the messages about pieces that peers requested and that cannot be read, recorded since the last call.
    #[must_use]
    pub fn take_unreadable(&self) -> Vec<Error> {
        self.disk.take_unreadable()
    }

    /// Sets one priority (0 to 7) for the given pieces.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub fn prioritize(&self, pieces: &[u32], priority: u8) -> Result<()> {
        self.session.call(|s| s.get().prioritize(self.number, pieces, priority))
    }

    /// Sets deadlines: the given pieces are requested before all others, in this order.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub(super) fn set_deadlines(&self, pieces: &[u32]) -> Result<()> {
        self.session.call(|s| s.get().set_deadlines(self.number, pieces, DEADLINE_STEP_MS))
    }

    /// Removes the deadlines that [`Torrent::set_deadlines`] set for these pieces. The caller must set their priority
    /// again.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub(super) fn clear_deadlines(&self, pieces: &[u32]) -> Result<()> {
        self.session.call(|s| s.get().clear_deadlines(self.number, pieces))
    }

    /// Makes libtorrent write a piece whose bytes were offered to the torrent's disk ([`TorrentDisk::offer`]), as if a
    /// peer had sent it. The bytes are written when this returns, unless libtorrent accepts no pieces at the moment.
    pub(super) async fn add_piece(
        session: &Arc<TorrentSession>,
        number: u64,
        piece: u32,
    ) -> Result<()> {
        blocking(session, move |s| s.get().add_piece(number, piece)).await
    }

    /// How many connected peers have each piece.
    pub(super) async fn availability(&self) -> Result<Vec<u32>> {
        let number = self.number;
        self.blocking(move |s| s.get().availability(number)).await
    }

    /// The whole .torrent file, with the v2 piece layers known so far.
    ///
    /// # Errors
    /// `InvalidInput` while piece layers are missing.
    pub async fn torrent_file(&self) -> Result<Vec<u8>> {
        let number = self.number;
        self.blocking(move |s| s.get().torrent_file(number)).await
    }

    /// Stops requesting from peers and serving them; held acks are released.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub fn pause(&self) -> Result<()> {
        self.session.call(|s| s.get().pause(self.number))
    }

    /// # Errors
    /// `Cancelled` when the session has ended.
    pub fn resume(&self) -> Result<()> {
        self.session.call(|s| s.get().resume(self.number))
    }

    /// Connects to a peer now.
    ///
    /// # Errors
    /// `InvalidInput` when `endpoint` is not `ip:port`.
    pub fn connect(&self, endpoint: &str) -> Result<()> {
        self.session.call(|s| s.get().connect_peer(self.number, endpoint))
    }

    /// Removes the torrent from the session. Bytes that its writer has are still uploaded.
    pub fn remove(mut self) {
        self.remove_from_session();
    }

    fn remove_from_session(&mut self) {
        if std::mem::replace(&mut self.removed, true) {
            return;
        }
        // The session may have ended before, and the torrent with it.
        let _ = self.session.call(|s| s.get_mut().remove(self.number));
        self.session.event_senders.lock().remove(&self.number);
        self.session.disk.registry().forget(self.number);
        self.session.tracker_messages.lock().retain(|(torrent, _), _| *torrent != self.number);
        self.disk.abort();
    }

    async fn blocking<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut SessionBox) -> Result<R, cxx::Exception> + Send + 'static,
    ) -> Result<R> {
        blocking(&self.session, f).await
    }
}

/// Runs a call that waits for libtorrent's network thread.
async fn blocking<R: Send + 'static>(
    session: &Arc<TorrentSession>,
    f: impl FnOnce(&mut SessionBox) -> Result<R, cxx::Exception> + Send + 'static,
) -> Result<R> {
    let session = Arc::clone(session);
    tokio::task::spawn_blocking(move || session.call(f))
        .await
        .map_err(|e| Error::new(Kind::Internal, "a call into libtorrent panicked").because(e))?
}

impl Drop for Torrent {
    fn drop(&mut self) {
        self.remove_from_session();
    }
}
