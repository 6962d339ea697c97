//! Fills one import from the swarm, or seeds it: joins a [`Torrent`] to an import's writer and reader, leads the picker,
//! and says how far it is. Done means durable: every wanted byte acknowledged by storage and committed.

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    content::{Content, Loader},
    demand::Demand,
    metainfo::Metainfo,
    session::{Notice, Status, Torrent},
    steering::Steering,
};
use crate::{
    error::{Error, Kind, Result},
    events::{Event, EventSink, Progress},
    rate::Rate,
    storage::{ImportStore, PauseClock, Publishing, RangeSet, WriterEvent},
};

/// How often progress is told.
const TICK: Duration = Duration::from_millis(250);
/// How often the rarity of chunks is looked at (it costs a round trip to the network thread).
const AVAILABILITY: Duration = Duration::from_secs(5);

/// The least time between two words to the picker on what readers wait for: a player that seeks about tells ten places
/// a second at most.
const HURRY: Duration = Duration::from_millis(100);

/// What a writer says, and the wake-up calls that hang on it.
pub type WriterEvents = mpsc::UnboundedReceiver<WriterEvent>;

impl Torrent {
    /// The sink for the writer of this torrent's import, and what comes out of it.
    #[must_use]
    pub fn writer_sink(&self) -> (Box<dyn Fn(WriterEvent) + Send + Sync>, WriterEvents) {
        let (tx, rx) = mpsc::unbounded_channel();
        // Weak: the torrent owns the writer, which owns this sink.
        let disk = Arc::downgrade(self.disk());
        let session = Arc::downgrade(self.session());
        let sink = move |event: WriterEvent| {
            if let WriterEvent::Durable(ranges) = &event
                && let Some(disk) = disk.upgrade()
            {
                disk.durable(ranges);
            }
            if let Some(session) = session.upgrade() {
                session.drained();
            }
            let _ = tx.send(event);
        };
        (Box::new(sink), rx)
    }

    /// Gives the torrent its content and lets libtorrent start on it. Once.
    pub fn attach(&self, content: Content) {
        self.disk().set_content(content);
        self.disk().start();
    }

    /// As [`Torrent::attach`], with content that is made when the first peer asks for a byte. Once, and not both.
    pub fn attach_later(&self, loader: Loader) {
        self.disk().set_loader(loader);
    }
}

/// What is to be filled.
#[derive(Debug)]
pub struct Goal {
    pub id: String,
    /// Bytes to be stored, padding left out.
    pub wanted: RangeSet,
    /// Wanted pieces that are not durable yet.
    pub missing: Vec<u32>,
    /// Of `wanted`, durable already.
    pub stored: u64,
    /// Bytes that should be missing in open chunks: all requests in flight, twice.
    pub lead: u64,
    /// Chunks are opened by position, not by rarity: files are sent from their beginning.
    pub in_order: bool,
}

/// Readers that wait, and what the picker was told of them.
#[derive(Debug, Default)]
struct Readers {
    demand: Arc<Demand>,
    urgent: Vec<u32>,
    /// Something changed since the picker was told.
    stale: bool,
    told: Option<Instant>,
}

/// One torrent at work.
#[derive(Debug)]
pub struct Download {
    torrent: Torrent,
    store: Arc<ImportStore>,
    goal: Goal,
    steering: Steering,
    writer: WriterEvents,
    events: EventSink,
    timeout: Option<Duration>,
    status: Status,
    /// Payload received when it was last looked at, and how fast it came and was stored.
    received: u64,
    receive_rate: Rate,
    store_rate: Rate,
    begun: Instant,
    /// When something last arrived or became durable.
    last_arrival: Instant,
    last_availability: Instant,
    readers: Readers,
    pause: PauseClock,
    state: &'static str,
}

impl Download {
    /// `timeout`: give up when nothing arrived, or storage took nothing, for so long.
    #[must_use]
    pub fn new(
        torrent: Torrent,
        meta: &Metainfo,
        store: Arc<ImportStore>,
        goal: Goal,
        writer: WriterEvents,
        events: EventSink,
        timeout: Option<Duration>,
    ) -> Self {
        let chunks = store.layout().slots();
        let missing = goal.missing.iter().copied();
        let steering = Steering::new(u64::from(meta.piece_length), chunks, missing);
        let now = Instant::now();
        Self {
            torrent,
            store,
            goal,
            steering,
            writer,
            events,
            timeout,
            status: Status::default(),
            received: 0,
            receive_rate: Rate::default(),
            store_rate: Rate::default(),
            begun: now,
            last_arrival: now,
            last_availability: now,
            readers: Readers::default(),
            pause: PauseClock::new(timeout),
            state: "importing",
        }
    }

    /// Asks from now on for what the readers of `demand` wait for before all else.
    #[must_use]
    pub fn with_readers(mut self, demand: Arc<Demand>) -> Self {
        self.readers.demand = demand;
        self
    }

    /// Payload bytes received from peers.
    #[must_use]
    pub fn downloaded(&self) -> u64 {
        self.torrent.disk().received()
    }

    #[must_use]
    pub fn torrent(&self) -> &Torrent {
        &self.torrent
    }

    #[must_use]
    pub fn store(&self) -> &Arc<ImportStore> {
        &self.store
    }

    /// The bytes to be stored.
    #[must_use]
    pub fn wanted(&self) -> &RangeSet {
        &self.goal.wanted
    }

    /// Runs until every wanted byte is durable.
    ///
    /// # Errors
    /// `Cancelled` when `stop` is; `Network` when nothing arrived for the timeout; what storage said when it took nothing
    /// for as long, or cannot take anything; what libtorrent said when the torrent failed.
    pub async fn fill(&mut self, stop: &CancellationToken) -> Result<()> {
        self.run(stop, |me| me.goal.stored >= me.goal.wanted.len()).await
    }

    /// Runs on, after [`Download::fill`], until `publishing` has published all files.
    ///
    /// # Errors
    /// As of `fill`.
    pub async fn publish(
        &mut self,
        publishing: &Publishing,
        stop: &CancellationToken,
    ) -> Result<()> {
        self.state = "publishing";
        // Nothing more is to arrive.
        self.timeout = None;
        self.run(stop, |_| publishing.is_done()).await
    }

    /// The torrent, to be seeded: nothing more is to be filled.
    #[must_use]
    pub fn into_torrent(self) -> (Torrent, Status) {
        (self.torrent, self.status)
    }

    async fn run(&mut self, stop: &CancellationToken, done: impl Fn(&Self) -> bool) -> Result<()> {
        let mut tick = tokio::time::interval(TICK);
        let disk = Arc::clone(self.torrent.disk());
        let demand = Arc::clone(&self.readers.demand);
        self.steer().await;
        while !done(self) {
            tokio::select! {
                () = stop.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
                notice = self.torrent.notice() => self.heard(notice)?,
                event = next(&mut self.writer) => self.written(event)?,
                () = disk.progress() => self.steer().await,
                () = demand.changed() => self.readers_changed(),
                _ = tick.tick() => self.tick()?,
            }
        }
        self.tick()
    }

    fn heard(&mut self, notice: Option<Notice>) -> Result<()> {
        match notice {
            None => return Err(Error::new(Kind::Cancelled, "the torrent session has ended")),
            Some(Notice::Failed(text)) => {
                return Err(Error::new(Kind::Internal, text).within(&self.goal.id));
            }
            Some(Notice::Status(status)) => self.status = status,
            Some(Notice::TrackerFailed(text) | Notice::Trouble(text)) => {
                self.events.send(Event::Notice { id: Some(self.goal.id.clone()), text });
            }
            Some(Notice::Metadata(_)) => {}
        }
        Ok(())
    }

    fn written(&mut self, event: WriterEvent) -> Result<()> {
        match event {
            WriterEvent::Durable(ranges) => {
                self.last_arrival = Instant::now();
                self.pause.stored(self.last_arrival);
                self.goal.stored += ranges.iter().map(|r| r.end - r.start).sum::<u64>();
            }
            WriterEvent::Paused(error) => {
                self.events.paused(&self.goal.id, &error);
                self.pause.paused(error, Instant::now());
            }
            WriterEvent::Resumed => {
                self.pause.resumed();
                self.events.send(Event::Resumed { id: self.goal.id.clone() });
            }
            WriterEvent::Lost(error) | WriterEvent::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn readers_changed(&mut self) {
        self.readers.stale = true;
        if self.readers.told.is_none_or(|told| told.elapsed() >= HURRY) {
            self.hurry();
        }
    }

    /// Tells the picker what readers wait for now, and what none waits for any more.
    fn hurry(&mut self) {
        self.readers.stale = false;
        self.readers.told = Some(Instant::now());
        let (piece_len, most) = (self.steering.piece_len(), self.goal.lead / 2);
        let range = |piece: u32| {
            let start = u64::from(piece) * piece_len;
            start..(start + piece_len).min(self.store.layout().len())
        };
        let here = |piece: &u32| self.store.here(range(*piece));
        let missing = |piece: u32| self.goal.wanted.overlaps(&range(piece)) && !here(&piece);
        let urgent = self.readers.demand.urgent(piece_len, most, missing);
        if urgent == self.readers.urgent {
            return;
        }
        self.torrent.disk().set_urgent(urgent.iter().copied());
        let gone = self.readers.urgent.iter().filter(|p| !urgent.contains(p) && !here(p));
        let gone: Vec<u32> = gone.copied().collect();
        // New ones first: with none left that is due, the next would cancel what is under way.
        let mut told = self.torrent.hurry(&urgent).and_then(|()| self.torrent.relax(&gone));
        for piece in gone {
            let priority = self.steering.priority(piece);
            told = told.and_then(|()| self.torrent.prioritize(&[piece], priority));
        }
        if let Err(e) = told {
            tracing::warn!(error = %e.report(), "cannot ask first for what a reader waits for");
        }
        self.readers.urgent = urgent;
    }

    /// Leads the picker on: more chunks are opened as pieces of the open ones pass.
    async fn steer(&mut self) {
        let passed = self.torrent.disk().take_passed();
        if !passed.is_empty() {
            passed.into_iter().for_each(|piece| self.steering.done(piece));
            self.readers.demand.has_arrived();
            if !self.readers.urgent.is_empty() {
                self.readers_changed();
            }
        }
        let looks = !self.goal.in_order && self.status.peers > 1;
        if looks && self.last_availability.elapsed() > AVAILABILITY {
            self.last_availability = Instant::now();
            if let Ok(peers) = self.torrent.availability().await
                && !peers.is_empty()
            {
                self.steering.set_availability(&peers);
            }
        }
        for (priority, pieces) in self.steering.lead(self.goal.lead) {
            if let Err(e) = self.torrent.prioritize(&pieces, priority) {
                tracing::warn!(error = %e.report(), "cannot prefer the pieces of open chunks");
            }
        }
    }

    fn tick(&mut self) -> Result<()> {
        if self.readers.stale {
            self.hurry();
        }
        let now = self.begun.elapsed().as_secs_f64();
        let store_rate = self.store_rate.sample(now, self.goal.stored);
        let received = self.downloaded();
        if received > self.received {
            self.received = received;
            self.last_arrival = Instant::now();
        }
        for text in self.torrent.disk().take_unreadable() {
            self.events.send(Event::Notice { id: Some(self.goal.id.clone()), text });
        }
        let left = self.goal.wanted.len().saturating_sub(self.goal.stored);
        self.events.send(Event::Progress(Progress {
            id: self.goal.id.clone(),
            bytes: self.goal.wanted.len(),
            stored: self.goal.stored,
            downloaded: received,
            download_rate: self.receive_rate.sample(now, received),
            store_rate,
            uploaded: self.status.uploaded,
            upload_rate: self.status.upload_rate,
            peers: self.status.peers,
            seeds: self.status.seeds,
            held: self.torrent.session().held(),
            eta_seconds: left.checked_div(store_rate),
            state: if self.pause.is_paused() { "paused" } else { self.state },
        }));
        self.pause.check(Instant::now())?;
        match self.timeout {
            Some(timeout) if !self.pause.is_paused() && self.last_arrival.elapsed() > timeout => {
                Err(silence(timeout, &self.goal.id))
            }
            _ => Ok(()),
        }
    }
}

/// Waits for a magnet's info dictionary.
///
/// # Errors
/// `Cancelled` when `stop` is; `Network` when nobody sent it within `timeout`.
pub async fn metadata(
    torrent: &mut Torrent,
    stop: &CancellationToken,
    timeout: Option<Duration>,
) -> Result<Vec<u8>> {
    let limit = async {
        match timeout {
            Some(t) => tokio::time::sleep(t).await,
            None => pending().await,
        }
    };
    tokio::pin!(limit);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
            () = &mut limit => return Err(silence(timeout.unwrap_or_default(), "magnet link")
                .hint("no peer sent the torrent's metadata: check the link, name a peer with --peer, or wait longer with --timeout")),
            notice = torrent.notice() => match notice {
                None => return Err(Error::new(Kind::Cancelled, "the torrent session has ended")),
                Some(Notice::Metadata(info)) => return Ok(info),
                Some(Notice::Failed(text)) => return Err(Error::new(Kind::InvalidInput, text).within("magnet link")),
                Some(_) => {}
            },
        }
    }
}

fn silence(timeout: Duration, what: &str) -> Error {
    Error::new(Kind::Network, format!("{what}: nothing arrived for {} s", timeout.as_secs_f64()))
        .hint("are there peers? name one with --peer, or wait longer with --timeout")
}

/// An import that is only seeded has no writer: nothing ever comes then.
async fn next(events: &mut WriterEvents) -> WriterEvent {
    match events.recv().await {
        Some(event) => event,
        None => pending().await,
    }
}
