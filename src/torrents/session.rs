//! The session: starts libtorrent, adds torrents to it, forwards its alerts, and stops it in order.
//!
//! One background task (the pump) wakes when libtorrent has alerts, and four times a second. It pops alerts and
//! forwards each to its torrent, requests statuses, and applies the orders of the memory governor. Calls into
//! libtorrent that wait for its network thread (`add`, `add_piece`, `availability`, `torrent_file`) run on the blocking
//! pool.

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
use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    disk::Disk,
    features::{self, Feature},
    ffi::{AddTorrent, AlertInfo, AlertKind, SessionBox, TorrentStatus},
    governor::{Marks, Orders, Sample},
    listening::Listening,
    metainfo::MAX_PIECES,
    rewrite::for_libtorrent,
    settings::{self, check_interfaces},
    torrent_disk::TorrentDisk,
    udp_tracker,
};
use crate::{
    config::NetworkOptions,
    error::{Error, Kind, Result},
    memory::BlockPool,
    rate::{Rate, RateLimit},
    redact,
    storage::Pressure,
};

/// Interval of status requests and memory samples.
const TICK: Duration = Duration::from_millis(250);

/// Milliseconds between the deadlines of pieces that a reader waits for. Only their order matters: libtorrent requests
/// the piece due first from the fastest peers, and requests a late block twice.
const DUE_STEP_MS: i32 = 250;

/// Bytes per second that web seeds always get, even while peers use the whole limit, so that a running request still
/// shows whether its server answers.
const SLOWEST_WEB: u64 = 1024;

/// The most tracker messages that are remembered.
const MOST_WORDS: usize = 1000;

/// Events of one torrent, in order.
#[derive(Debug, Clone)]
pub enum Notice {
    /// The info dictionary arrived (magnets only).
    Metadata(Vec<u8>),
    Status(Status),
    /// A tracker's warning, or a failure that is retried: a piece's hash, a read for a peer, a magnet's metadata.
    Trouble(String),
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
    pub private: bool,
}

impl Start {
    /// A torrent of which every piece is stored.
    #[must_use]
    pub fn seeding(torrent: Vec<u8>) -> Self {
        let origin = Origin::Stored(torrent);
        Self { origin, have: Vec::new(), wanted: Vec::new(), private: false }
    }
}

/// The running session. Stop it with [`Torrents::stop`].
pub struct Torrents {
    session: Mutex<Option<SessionBox>>,
    disk: Arc<Disk>,
    options: NetworkOptions,
    pressure: Arc<Pressure>,
    pool: BlockPool,
    /// Limits the web seeds, so that they and the peers keep to one limit together.
    web_limit: Arc<RateLimit>,
    routes: Mutex<HashMap<u64, mpsc::UnboundedSender<Notice>>>,
    /// Messages of UDP trackers, by torrent and URL.
    words: Mutex<HashMap<(u64, String), String>>,
    listening: Mutex<Vec<String>>,
    deaf: Mutex<Listening>,
    next: AtomicU64,
    stopping: CancellationToken,
    pump: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Torrents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Torrents").field("listening", &self.listening()).finish_non_exhaustive()
    }
}

impl Torrents {
    /// Starts libtorrent. Must be called inside a runtime.
    ///
    /// # Errors
    /// `Unsupported` when the installed library is not the version that bae was built for; `InvalidInput` when an
    /// interface does not exist, or libtorrent refuses a setting.
    pub fn start(
        options: &NetworkOptions,
        pressure: Arc<Pressure>,
        pool: BlockPool,
    ) -> Result<Arc<Self>> {
        features::check_library()?;
        check_interfaces(options)?;
        let disk =
            Disk::new(Arc::clone(&pressure), pool.clone(), Handle::current(), options.suggest)?;
        let settings = settings::session(options, pool.budget());
        let smart_ban = features::is_safe(Feature::SmartBan);
        let session = SessionBox::new(&settings, Arc::clone(&disk), smart_ban).map_err(|e| {
            Error::new(Kind::InvalidInput, "cannot start the torrent session").because(e)
        })?;
        let torrents = Arc::new(Self {
            session: Mutex::new(Some(session)),
            disk,
            options: options.clone(),
            pressure,
            pool,
            web_limit: RateLimit::new(options.limit_rate),
            routes: Mutex::default(),
            words: Mutex::default(),
            listening: Mutex::default(),
            deaf: Mutex::default(),
            next: AtomicU64::new(1),
            stopping: CancellationToken::new(),
            pump: Mutex::new(None),
        });
        let pump = tokio::spawn(pump(Arc::clone(&torrents)));
        *torrents.pump.lock() = Some(pump);
        Ok(torrents)
    }

    /// Addresses on which peers can connect, as `ip:port`.
    #[must_use]
    pub fn listening(&self) -> Vec<String> {
        self.listening.lock().clone()
    }

    /// Payload bytes held in memory now.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.pool.held() as u64
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
    pub async fn add(self: &Arc<Self>, start: Start) -> Result<Torrent> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let disk = TorrentDisk::new(number);
        let (tx, notices) = mpsc::unbounded_channel();
        self.routes.lock().insert(number, tx);
        self.disk.registry().add(Arc::clone(&disk));
        let torrent = Torrent { number, disk, notices, session: Arc::clone(self), gone: false };
        let add = self.add_torrent(number, start)?;
        torrent.blocking(move |s| s.get_mut().add(&add)).await?;
        Ok(torrent)
    }

    fn add_torrent(&self, torrent: u64, start: Start) -> Result<AddTorrent> {
        let complete = matches!(start.origin, Origin::Stored(_));
        let (metainfo, magnet) = match start.origin {
            Origin::File(bytes) | Origin::Stored(bytes) => (for_libtorrent(&bytes)?, String::new()),
            Origin::Magnet(uri) => (Vec::new(), uri),
        };
        Ok(AddTorrent {
            torrent,
            metainfo,
            magnet,
            max_pieces: MAX_PIECES,
            complete,
            have: start.have.into_iter().map(u8::from).collect(),
            priorities: start.wanted.into_iter().map(|w| if w { 4 } else { 0 }).collect(),
            peers: self.options.peers.iter().map(ToString::to_string).collect(),
            sequential: self.options.sequential,
            dht: self.options.dht && !start.private,
            lsd: self.options.lsd && !start.private,
            pex: self.options.pex && !start.private,
        })
    }

    /// Sets a limit for uploads to peers from now on. `None` leaves only the limit of the options.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub fn limit_upload(&self, rate: Option<u64>) -> Result<()> {
        let rate = rate.into_iter().chain(self.options.upload_limit).min();
        self.call(|s| s.get_mut().apply(&settings::upload_limit(rate)))
    }

    /// libtorrent could not listen, or could not accept a connection.
    fn cannot_listen(&self, text: &str) {
        let heard = self.deaf.lock().failed(text, Instant::now());
        if heard.tell {
            tracing::warn!("peers cannot connect there: {text}");
        }
        if heard.close {
            tracing::warn!("too many open files: no peer is let in for a while (ulimit -n)");
            self.listen(None);
        }
    }

    fn listen(&self, options: Option<&NetworkOptions>) {
        if let Err(e) = self.call(|s| s.get_mut().apply(&settings::listen(options))) {
            tracing::warn!(error = %e.report(), "cannot change where it listens");
        }
    }

    pub(super) fn options(&self) -> &NetworkOptions {
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
    pub(super) fn drained(&self) {
        self.disk.drained();
    }

    fn call<R>(&self, f: impl FnOnce(&mut SessionBox) -> Result<R, cxx::Exception>) -> Result<R> {
        let mut session = self.session.lock();
        let session = session
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Cancelled, "the torrent session has ended"))?;
        f(session).map_err(|e| Error::new(Kind::InvalidInput, "libtorrent refused").because(e))
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
        let session = self.session.lock().take();
        // No job may stay open: libtorrent waits for each of them before its thread ends.
        self.disk.abort();
        let (done, ended) = tokio::sync::oneshot::channel();
        // A separate thread: the destructor joins libtorrent's thread, which may need the runtime to finish jobs.
        std::thread::spawn(move || {
            drop(session);
            let _ = done.send(());
        });
        let in_time = tokio::time::timeout(deadline, ended).await.is_ok();
        if !in_time {
            tracing::warn!("the torrent session did not end in time; leaving it behind");
        }
        in_time
    }
}

/// Wakes when libtorrent has alerts, and every [`TICK`].
async fn pump(torrents: Arc<Torrents>) {
    let mut memory = Memory::new(&torrents);
    let mut tick = tokio::time::interval(TICK);
    loop {
        let ticked = tokio::select! {
            () = torrents.stopping.cancelled() => return,
            _ = tick.tick() => true,
            () = torrents.disk.alerts().notified() => false,
        };
        let (mut alerts, mut statuses) = (Vec::new(), Vec::new());
        let popped = torrents.call(|s| s.get_mut().pop_alerts(&mut alerts, &mut statuses));
        if let Err(e) = popped {
            tracing::error!(error = %e.report(), "cannot read libtorrent's alerts");
        }
        alerts.into_iter().for_each(|a| match a.kind {
            AlertKind::TrackerError if !a.data.is_empty() => ask_for_words(&torrents, a),
            _ => route(&torrents, a),
        });
        statuses.iter().for_each(|s| report(&torrents, s));
        if ticked {
            if torrents.deaf.lock().is_over(Instant::now()) {
                torrents.listen(Some(&torrents.options));
            }
            let _ = torrents.call(|s| s.get_mut().post_updates());
            memory.govern(&torrents);
        }
    }
}

/// Forwards a refusal once the tracker's message is known. The tracker is queried once per torrent.
fn ask_for_words(torrents: &Arc<Torrents>, mut alert: AlertInfo) {
    let key = (alert.torrent, alert.url.clone());
    let known = torrents.words.lock().get(&key).cloned();
    if let Some(words) = known {
        alert.text = words;
        return route(torrents, alert);
    }
    let torrents = Arc::clone(torrents);
    tokio::spawn(async move {
        let words = udp_tracker::refusal(&alert.url, &alert.data, &torrents.options).await;
        if let Some(words) = words.filter(|words| !words.is_empty()) {
            alert.text = words;
        }
        let mut known = torrents.words.lock();
        if known.len() < MOST_WORDS {
            known.insert(key, alert.text.clone());
        }
        drop(known);
        route(&torrents, alert);
    });
}

fn route(torrents: &Torrents, alert: AlertInfo) {
    let notice = match alert.kind {
        AlertKind::Listening => return torrents.listening.lock().push(alert.text),
        AlertKind::ListenFailed => return torrents.cannot_listen(&alert.text),
        AlertKind::Metadata => Notice::Metadata(alert.data),
        AlertKind::TrackerError => Notice::TrackerFailed {
            tracker: redact::tracker(&alert.url),
            text: redact::tracker_words(&alert.url, &alert.text),
        },
        AlertKind::TrackerReply => {
            Notice::TrackerAnswered { tracker: redact::tracker(&alert.url), peers: alert.text }
        }
        AlertKind::TrackerWarning => Notice::Trouble(format!(
            "tracker {} warns: {}",
            redact::tracker(&alert.url),
            redact::tracker_words(&alert.url, &alert.text)
        )),
        AlertKind::Trouble => Notice::Trouble(alert.text),
        AlertKind::TorrentError => Notice::Failed(alert.text),
        _ => return,
    };
    if let Some(route) = torrents.routes.lock().get(&alert.torrent) {
        // Sending fails when the torrent's owner is gone and the torrent is being removed.
        let _ = route.send(notice);
    }
}

fn report(torrents: &Torrents, status: &TorrentStatus) {
    let notice = Status {
        downloaded: status.downloaded,
        uploaded: status.uploaded,
        upload_rate: status.upload_rate,
        peers: status.peers as usize,
        seeds: status.seeds as usize,
        paused: status.paused,
    };
    if let Some(route) = torrents.routes.lock().get(&status.torrent) {
        let _ = route.send(Notice::Status(notice));
    }
}

/// Samples memory for the governor, and applies its orders when they change.
struct Memory {
    marks: Marks,
    drain: Rate,
    /// The rate at which peers send.
    peers: Rate,
    begun: Instant,
    last: Option<Orders>,
}

impl Memory {
    fn new(torrents: &Torrents) -> Self {
        let marks = Marks::new(torrents.pool.budget());
        let (drain, peers) = (Rate::default(), Rate::default());
        Self { marks, drain, peers, begun: Instant::now(), last: None }
    }

    fn govern(&mut self, torrents: &Torrents) {
        torrents.drained();
        let orders = self.marks.orders(Sample {
            held: torrents.pool.held(),
            in_flight: torrents.pressure.in_flight(),
            drain_rate: self
                .drain
                .sample(self.begun.elapsed().as_secs_f64(), torrents.pressure.drained()),
        });
        let user = torrents.options.limit_rate;
        let orders = Orders { limit: orders.limit.into_iter().chain(user).min(), ..orders };
        // Web seeds get what peers leave of the limit, so that both keep to it together.
        let received =
            torrents.disk.registry().all().iter().map(|t| t.received_from_peers()).sum::<u64>();
        let peers = self.peers.sample(self.begun.elapsed().as_secs_f64(), received);
        let left = |limit: u64| limit.saturating_sub(peers).max(SLOWEST_WEB);
        torrents.web_limit.set(orders.limit.map(left));
        if self.last == Some(orders) {
            return;
        }
        let applied = torrents.call(|s| {
            s.get().set_requests(orders.requests);
            s.get_mut().apply(&settings::download_limit(orders.limit))
        });
        match applied {
            Ok(()) => self.last = Some(orders),
            Err(e) => tracing::warn!(error = %e.report(), "cannot change the download limit"),
        }
    }
}

/// One torrent in the session. Dropping it without [`Torrent::remove`] removes it too.
pub struct Torrent {
    number: u64,
    disk: Arc<TorrentDisk>,
    notices: mpsc::UnboundedReceiver<Notice>,
    session: Arc<Torrents>,
    gone: bool,
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

    pub(super) fn session(&self) -> &Arc<Torrents> {
        &self.session
    }

    /// Waits for the next event of the torrent; `None` once the session ended.
    pub(super) async fn notice(&mut self) -> Option<Notice> {
        self.notices.recv().await
    }

    /// The next queued event of the torrent, without waiting; `None` when there is none.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub fn try_notice(&mut self) -> Result<Option<Notice>> {
        match self.notices.try_recv() {
            Ok(notice) => Ok(Some(notice)),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => {
                Err(Error::new(Kind::Cancelled, "the torrent session has ended"))
            }
        }
    }

    /// Payload bytes handed to libtorrent for sending to peers so far.
    #[must_use]
    pub fn given(&self) -> u64 {
        self.disk.given()
    }

    /// Takes the messages about pieces that peers requested and that cannot be read, recorded since the last call.
    #[must_use]
    pub fn take_unreadable(&self) -> Vec<String> {
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
    pub(super) fn hurry(&self, pieces: &[u32]) -> Result<()> {
        self.session.call(|s| s.get().hurry(self.number, pieces, DUE_STEP_MS))
    }

    /// Removes the deadlines that [`Torrent::hurry`] set for these pieces. The caller must set their priority again.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub(super) fn relax(&self, pieces: &[u32]) -> Result<()> {
        self.session.call(|s| s.get().relax(self.number, pieces))
    }

    /// Makes libtorrent write a piece whose bytes were offered to the torrent's disk ([`TorrentDisk::offer`]), as if a
    /// peer had sent it. The bytes are written when this returns, unless libtorrent accepts no pieces at the moment.
    pub(super) async fn add_piece(session: &Arc<Torrents>, number: u64, piece: u32) -> Result<()> {
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
        self.leave();
    }

    fn leave(&mut self) {
        if std::mem::replace(&mut self.gone, true) {
            return;
        }
        // The session may have ended before, and the torrent with it.
        let _ = self.session.call(|s| s.get_mut().remove(self.number));
        self.session.routes.lock().remove(&self.number);
        self.session.disk.registry().forget(self.number);
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
    session: &Arc<Torrents>,
    f: impl FnOnce(&mut SessionBox) -> Result<R, cxx::Exception> + Send + 'static,
) -> Result<R> {
    let session = Arc::clone(session);
    tokio::task::spawn_blocking(move || session.call(f))
        .await
        .map_err(|e| Error::new(Kind::Internal, "a call into libtorrent panicked").because(e))?
}

impl Drop for Torrent {
    fn drop(&mut self) {
        self.leave();
    }
}
