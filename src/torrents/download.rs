//! Fills one import from the swarm, or seeds it: joins a [`Torrent`] to an import's writer and reader, controls the
//! picker, and reports progress. Done means durable: every wanted byte is acknowledged by storage and committed.

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
    silence::{Silence, wrong},
    steering::Steering,
    trackers::Trackers,
    web_seeds::{Outcome, Wants, WebSeeds},
};
use crate::{
    error::{Error, Kind, Result},
    events::{Event, EventSink, Progress},
    rate::Rate,
    storage::{ImportStore, PauseClock, Publishing, RangeSet, WriterEvent},
};

/// Interval of progress events.
const TICK: Duration = Duration::from_millis(250);
/// Interval at which the rarity of chunks is updated (it costs a round trip to the network thread).
const AVAILABILITY: Duration = Duration::from_secs(5);

/// The shortest time between two updates of the picker for readers: a player that seeks back and forth causes at most
/// ten updates a second.
const HURRY: Duration = Duration::from_millis(100);

/// When peers have sent nothing for this long, web seeds also fetch pieces that peers have sent a part of.
const STALLED: Duration = Duration::from_secs(5);
/// The priority of a piece that a web seed fetches: peers are asked for it only when there is no other piece.
const LEFT_TO_WEB: u8 = 1;

/// The events of an import's writer.
pub type WriterEvents = mpsc::UnboundedReceiver<WriterEvent>;

impl Torrent {
    /// The event sink for the writer of this torrent's import, and the receiver of its events. The sink also completes
    /// the acks of durable pieces, and wakes peers that wait for memory.
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

    /// Sets the torrent's content and lets libtorrent start it. Called once.
    pub fn attach(&self, content: Content) {
        self.disk().set_content(content);
        self.disk().start();
    }

    /// As [`Torrent::attach`], with content that is loaded when a peer first requests a byte. Called once, and instead
    /// of it.
    pub fn attach_later(&self, loader: Loader) {
        self.disk().set_loader(loader);
    }
}

/// The bytes and pieces that a [`Download`] fills.
#[derive(Debug)]
pub struct Goal {
    pub id: String,
    /// Bytes to store, without padding.
    pub wanted: RangeSet,
    /// Wanted pieces that are not durable yet.
    pub missing: Vec<u32>,
    /// Bytes of `wanted` that are durable already.
    pub stored: u64,
    /// Bytes that should be missing in open chunks: twice all requests in flight.
    pub lead: u64,
    /// Chunks are opened by position instead of rarity, because files are uploaded from their start.
    pub in_order: bool,
}

/// Waiting readers, and the deadlines set in the picker for them.
#[derive(Debug, Default)]
struct Readers {
    demand: Arc<Demand>,
    urgent: Vec<u32>,
    /// Whether something changed since the picker was updated.
    stale: bool,
    told: Option<Instant>,
}

/// One running download of a torrent.
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
    /// Payload bytes received by the last tick.
    received: u64,
    receive_rate: Rate,
    store_rate: Rate,
    begun: Instant,
    /// Time when bytes last arrived or became durable.
    last_arrival: Instant,
    last_availability: Instant,
    readers: Readers,
    pause: PauseClock,
    trackers: Trackers,
    web: WebSeeds,
    /// Bytes received from peers by the last tick, and when that number last changed.
    from_peers: (u64, Instant),
    /// Whether a piece passed in this run.
    some_passed: bool,
    /// Whether the user was told that only wrong bytes arrived.
    told_wrong: bool,
    state: &'static str,
}

impl Download {
    /// A download of `goal`. `timeout`: it gives up when nothing arrived, or storage accepted nothing, for this long.
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
            trackers: Trackers::default(),
            web: WebSeeds::none(),
            from_peers: (0, now),
            some_passed: false,
            told_wrong: false,
            state: "importing",
        }
    }

    /// Requests the pieces that the readers of `demand` wait for before all others, from now on.
    #[must_use]
    pub fn with_readers(mut self, demand: Arc<Demand>) -> Self {
        self.readers.demand = demand;
        self
    }

    /// Also fetches from the web seeds of the torrent `meta`, whose file is `metainfo`.
    #[must_use]
    pub fn with_web_seeds(mut self, meta: &Metainfo, metainfo: &[u8]) -> Self {
        let (web, told) = WebSeeds::of(meta, metainfo, &self.torrent);
        self.web = web;
        told.into_iter().for_each(|text| self.warn(text));
        self
    }

    /// Payload bytes received from peers and web seeds.
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

    /// The bytes to store.
    #[must_use]
    pub fn wanted(&self) -> &RangeSet {
        &self.goal.wanted
    }

    /// Runs until every wanted byte is durable.
    ///
    /// # Errors
    /// `Cancelled` when `stop` is cancelled; `Network` when nothing arrived within the timeout; the error of the
    /// storage when it accepted nothing for as long, or cannot accept anything; the error of libtorrent when the
    /// torrent failed.
    pub async fn fill(&mut self, stop: &CancellationToken) -> Result<()> {
        self.run(stop, |me| me.goal.stored >= me.goal.wanted.len()).await
    }

    /// Continues after [`Download::fill`], until `publishing` has published all files.
    ///
    /// # Errors
    /// As [`Download::fill`].
    pub async fn publish(
        &mut self,
        publishing: &Publishing,
        stop: &CancellationToken,
    ) -> Result<()> {
        self.state = "publishing";
        // Nothing more is expected to arrive.
        self.timeout = None;
        self.run(stop, |_| publishing.is_done()).await
    }

    /// The torrent, for seeding after the download has ended.
    #[must_use]
    pub fn into_torrent(self) -> (Torrent, Status) {
        (self.torrent, self.status)
    }

    async fn run(&mut self, stop: &CancellationToken, done: impl Fn(&Self) -> bool) -> Result<()> {
        let mut tick = tokio::time::interval(TICK);
        let disk = Arc::clone(self.torrent.disk());
        let demand = Arc::clone(&self.readers.demand);
        self.steer().await;
        self.feed();
        while !done(self) {
            tokio::select! {
                () = stop.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
                notice = self.torrent.notice() => self.heard(notice)?,
                event = next(&mut self.writer) => self.written(event)?,
                outcome = self.web.next() => self.web_ended(outcome),
                () = disk.progress() => {
                    self.steer().await;
                    self.feed();
                }
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
            Some(Notice::TrackerAnswered { tracker, peers }) => {
                self.trackers.answered(tracker, &peers);
            }
            Some(Notice::TrackerFailed { tracker, text }) => {
                let told = format!("tracker {tracker}: {text}");
                // A tracker's first refusal is reported a little later, as a warning or a notice (see `tell`).
                if !self.trackers.refused(tracker, text) {
                    self.notice(told);
                }
            }
            Some(Notice::Trouble(text)) => self.notice(text),
            Some(Notice::Metadata(_)) => {}
        }
        Ok(())
    }

    fn notice(&self, text: String) {
        self.events.send(Event::Notice { id: Some(self.goal.id.clone()), text });
    }

    fn warn(&self, text: String) {
        self.events.send(Event::Warning { id: Some(self.goal.id.clone()), text });
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

    /// Updates the deadlines in the picker: sets those of the pieces that readers wait for now, and clears the others.
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
        // New deadlines first: if none were left, setting the next one would cancel the requests in flight.
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

    /// Updates the priorities in the picker: more chunks are opened as pieces of the open ones pass.
    async fn steer(&mut self) {
        let passed = self.torrent.disk().take_passed();
        if !passed.is_empty() {
            self.some_passed = true;
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
        for (priority, mut pieces) in self.steering.lead(self.goal.lead) {
            pieces.retain(|piece| !self.web.has_taken(*piece));
            if let Err(e) = self.torrent.prioritize(&pieces, priority) {
                tracing::warn!(error = %e.report(), "cannot prefer the pieces of open chunks");
            }
        }
    }

    /// Starts web seeds on pieces that no peer sends.
    fn feed(&mut self) {
        let now = Instant::now();
        if !self.web.is_free(now) || self.goal.stored >= self.goal.wanted.len() {
            return;
        }
        let is_alone = self.status.peers == 0;
        let open = self.steering.open_pieces();
        // Peers are asked for the oldest chunks first, so web seeds start with the newest.
        let open: Vec<u32> = if is_alone { open.collect() } else { open.rev().collect() };
        let urgent = &self.readers.urgent;
        let first: Vec<u32> = urgent.iter().copied().chain(open).collect();
        let wants = Wants {
            first: &first,
            is_missing: &|piece| self.steering.is_missing(piece),
            partial: is_alone || self.from_peers.1.elapsed() >= STALLED,
        };
        let mut begun = self.web.feed(&wants, now);
        begun.retain(|piece| !urgent.contains(piece));
        self.prioritize(&begun, LEFT_TO_WEB);
    }

    fn web_ended(&mut self, outcome: Outcome) {
        let (left, told) = self.web.ended(outcome, Instant::now());
        for piece in left.filter(|piece| !self.readers.urgent.contains(piece)) {
            self.prioritize(&[piece], self.steering.priority(piece));
        }
        match told {
            Some(text) if self.status.peers == 0 => self.warn(text),
            Some(text) => self.notice(text),
            None => {}
        }
        self.feed();
    }

    fn prioritize(&self, pieces: &[u32], priority: u8) {
        if pieces.is_empty() {
            return;
        }
        if let Err(e) = self.torrent.prioritize(pieces, priority) {
            tracing::warn!(error = %e.report(), "cannot change what peers are asked for");
        }
    }

    fn tick(&mut self) -> Result<()> {
        if self.readers.stale {
            self.hurry();
        }
        self.feed();
        self.tell();
        let now = self.begun.elapsed().as_secs_f64();
        let store_rate = self.store_rate.sample(now, self.goal.stored);
        let received = self.arrived();
        if received > self.received {
            self.received = received;
            self.last_arrival = Instant::now();
        }
        let from_peers = self.torrent.disk().received_from_peers();
        if from_peers > self.from_peers.0 {
            self.from_peers = (from_peers, Instant::now());
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
            web_seeds: self.web.usable(),
            held: self.torrent.session().held(),
            eta_seconds: left.checked_div(store_rate),
            state: if self.pause.is_paused() { "paused" } else { self.state },
            trouble: None,
        }));
        self.pause.check(Instant::now())?;
        match self.timeout {
            Some(timeout) if !self.pause.is_paused() && self.last_arrival.elapsed() > timeout => {
                Err(Silence {
                    timeout,
                    failed: self.only_wrong(),
                    trackers: &self.trackers,
                    web_seeds: self.web.report(),
                }
                .error(&self.goal.id))
            }
            _ => Ok(()),
        }
    }

    /// Payload bytes that arrived, including incomplete blocks. libtorrent counts those, about once a second.
    fn arrived(&self) -> u64 {
        let disk = self.torrent.disk();
        let from_web = disk.received() - disk.received_from_peers();
        disk.received().max(self.status.downloaded + from_web)
    }

    /// Number of pieces that arrived with wrong bytes; 0 when a piece passed in this run.
    fn only_wrong(&self) -> u64 {
        if self.some_passed { 0 } else { self.torrent.disk().failed() }
    }

    /// Reports the messages that were not reported yet.
    fn tell(&mut self) {
        self.torrent.disk().take_unreadable().into_iter().for_each(|text| self.notice(text));
        for (text, is_all) in self.trackers.tick() {
            if is_all { self.warn(text) } else { self.notice(text) }
        }
        let failed = self.only_wrong();
        if failed > 0 && self.status.peers == 0 && !self.told_wrong {
            self.told_wrong = true;
            let text = format!("{}; a peer that sends wrong bytes is banned", wrong(failed));
            self.warn(text);
        }
    }
}

/// The next event of the writer. An import that is only seeded has no writer: then this never completes.
async fn next(events: &mut WriterEvents) -> WriterEvent {
    match events.recv().await {
        Some(event) => event,
        None => pending().await,
    }
}
