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
    disk::content::{Content, Loader},
    idle_timeout::{IdleTimeout, wrong_pieces},
    metainfo::Metainfo,
    picker::{chunk_priorities::ChunkPriorities, read_deadlines::ReadDeadlines},
    session::{Status, Torrent, TorrentEvent},
    trackers::Trackers,
    web_seeds::{RunOutcome, WantedPieces, WebSeeds},
};
use crate::{
    error::{Error, Kind, Result},
    events::{Activity, Event, EventSink, Progress},
    memory::Share,
    rate::Rate,
    storage::{BackgroundPublisher, ImportStore, PauseClock, RangeSet, WriterEvent},
};

/// Interval of progress events.
const TICK: Duration = Duration::from_millis(250);
/// Interval at which the rarity of chunks is updated (it costs a round trip to the network thread).
const AVAILABILITY_INTERVAL: Duration = Duration::from_secs(5);

/// The shortest time between two updates of the picker for readers: a player that seeks back and forth causes at most
/// ten updates a second.
const DEADLINE_INTERVAL: Duration = Duration::from_millis(100);

/// When peers have sent nothing for this long, web seeds also fetch pieces that peers have sent a part of.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The priority of a piece that a web seed fetches: it is requested from peers only when there is no other piece.
const WEB_SEED_PRIORITY: u8 = 1;

/// The events of an import's writer.
pub type WriterEvents = mpsc::UnboundedReceiver<WriterEvent>;

impl Torrent {
    /// The event sink for the writer of this torrent's import, and the receiver of its events. The sink also completes
    /// the acks of durable pieces.
    #[must_use]
    pub fn writer_sink(&self) -> (Box<dyn Fn(WriterEvent) + Send + Sync>, WriterEvents) {
        let (tx, rx) = mpsc::unbounded_channel();
        // Weak: the torrent owns the writer, which owns this sink.
        let disk = Arc::downgrade(self.disk());
        let sink = move |event: WriterEvent| {
            if let WriterEvent::Durable(ranges) = &event
                && let Some(disk) = disk.upgrade()
            {
                disk.on_durable(ranges);
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
pub struct DownloadGoal {
    pub id: String,
    /// Bytes to store, without padding.
    pub wanted: RangeSet,
    /// Wanted pieces that are not durable yet.
    pub missing: Vec<u32>,
    /// Bytes of `wanted` that are durable already.
    pub stored: u64,
    /// Bytes that should be missing in open chunks: twice all requests in flight.
    pub open_bytes: u64,
    /// Chunks are opened by position instead of rarity, because files are uploaded from their start.
    pub in_order: bool,
}

/// Waiting readers, and the deadlines set in the picker for them.
#[derive(Debug, Default)]
struct Readers {
    deadlines: Arc<ReadDeadlines>,
    urgent: Vec<u32>,
    /// Whether something changed since the picker was updated.
    stale: bool,
    updated: Option<Instant>,
}

/// One running download of a torrent.
#[derive(Debug)]
pub struct Download {
    torrent: Torrent,
    store: Arc<ImportStore>,
    goal: DownloadGoal,
    priorities: ChunkPriorities,
    writer: WriterEvents,
    events: EventSink,
    timeout: Option<Duration>,
    status: Status,
    /// Payload bytes received by the last tick.
    received: u64,
    receive_rate: Rate,
    store_rate: Rate,
    started: Instant,
    /// Time when bytes last arrived or became durable.
    last_arrival: Instant,
    last_availability: Instant,
    readers: Readers,
    pause: PauseClock,
    trackers: Trackers,
    web_seeds: WebSeeds,
    /// Bytes received from peers by the last tick, and when that number last changed.
    from_peers: (u64, Instant),
    /// Whether a piece passed in this run.
    any_passed: bool,
    /// Whether a warning about wrong bytes was reported.
    warned_wrong_bytes: bool,
    state: Activity,
}

impl Download {
    /// A download of `goal`. `timeout`: it gives up when nothing arrived, or storage accepted nothing, for this long.
    #[must_use]
    pub fn new(
        torrent: Torrent,
        meta: &Metainfo,
        store: Arc<ImportStore>,
        goal: DownloadGoal,
        writer: WriterEvents,
        events: EventSink,
        timeout: Option<Duration>,
    ) -> Self {
        let chunks = store.layout().chunks();
        let missing = goal.missing.iter().copied();
        let priorities = ChunkPriorities::new(u64::from(meta.piece_length), chunks, missing);
        let now = Instant::now();
        Self {
            torrent,
            store,
            goal,
            priorities,
            writer,
            events,
            timeout,
            status: Status::default(),
            received: 0,
            receive_rate: Rate::default(),
            store_rate: Rate::default(),
            started: now,
            last_arrival: now,
            last_availability: now,
            readers: Readers::default(),
            pause: PauseClock::new(timeout),
            trackers: Trackers::default(),
            web_seeds: WebSeeds::none(),
            from_peers: (0, now),
            any_passed: false,
            warned_wrong_bytes: false,
            state: Activity::Importing,
        }
    }

    /// Requests the pieces that the readers of `deadlines` wait for before all others, from now on.
    #[must_use]
    pub fn with_readers(mut self, deadlines: Arc<ReadDeadlines>) -> Self {
        self.readers.deadlines = deadlines;
        self
    }

    /// Also fetches from the web seeds of the torrent `meta`, whose file is `metainfo`.
    #[must_use]
    pub fn with_web_seeds(mut self, meta: &Metainfo, metainfo: &[u8]) -> Self {
        let (web_seeds, warnings) = WebSeeds::of(meta, metainfo, &self.torrent);
        self.web_seeds = web_seeds;
        warnings.into_iter().for_each(|text| self.warn(text));
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
        self.run_until(stop, |me| me.goal.stored >= me.goal.wanted.len()).await
    }

    /// Continues after [`Download::fill`], until `publishing` has published all files.
    ///
    /// # Errors
    /// As [`Download::fill`].
    pub async fn publish(
        &mut self,
        publishing: &BackgroundPublisher,
        stop: &CancellationToken,
    ) -> Result<()> {
        self.state = Activity::Publishing;
        // Nothing more is expected to arrive.
        self.timeout = None;
        self.run_until(stop, |_| publishing.is_done()).await
    }

    /// The torrent, for seeding after the download has ended.
    #[must_use]
    pub fn into_torrent(self) -> (Torrent, Status) {
        (self.torrent, self.status)
    }

    async fn run_until(
        &mut self,
        stop: &CancellationToken,
        done: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let mut tick = tokio::time::interval(TICK);
        let disk = Arc::clone(self.torrent.disk());
        let deadlines = Arc::clone(&self.readers.deadlines);
        self.update_priorities().await;
        self.start_web_seeds();
        while !done(self) {
            tokio::select! {
                () = stop.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
                event = self.torrent.next_event() => self.on_torrent_event(event)?,
                event = next_writer_event(&mut self.writer) => self.on_writer_event(event)?,
                outcome = self.web_seeds.next() => self.on_web_seed_run(outcome),
                () = disk.wait_for_progress() => {
                    self.update_priorities().await;
                    self.start_web_seeds();
                }
                () = deadlines.changed() => self.readers_changed(),
                _ = tick.tick() => self.tick()?,
            }
        }
        self.tick()
    }

    fn on_torrent_event(&mut self, event: Option<TorrentEvent>) -> Result<()> {
        match event {
            None => return Err(Error::new(Kind::Cancelled, "the torrent session has ended")),
            Some(TorrentEvent::Failed(text)) => {
                return Err(Error::new(Kind::Internal, text).with_context(&self.goal.id));
            }
            Some(TorrentEvent::Status(status)) => self.status = status,
            Some(TorrentEvent::TrackerAnswered { tracker, peers }) => {
                self.trackers.answered(tracker, &peers);
            }
            Some(TorrentEvent::TrackerFailed { tracker, text }) => {
                let message = format!("tracker {tracker}: {text}");
                // A tracker's first refusal is reported a little later, as a warning or a notice (see
                // `report_messages`).
                if !self.trackers.refused(tracker, text) {
                    self.notice(message);
                }
            }
            Some(TorrentEvent::NonFatal(text)) => self.notice(text),
            Some(TorrentEvent::Metadata) => {}
        }
        Ok(())
    }

    fn notice(&self, text: String) {
        self.events.send(Event::Notice { id: Some(self.goal.id.clone()), text });
    }

    fn warn(&self, text: String) {
        self.events.send(Event::Warning { id: Some(self.goal.id.clone()), text });
    }

    fn on_writer_event(&mut self, event: WriterEvent) -> Result<()> {
        match event {
            WriterEvent::Durable(ranges) => {
                self.last_arrival = Instant::now();
                self.pause.record_progress(self.last_arrival);
                self.goal.stored += ranges.iter().map(|r| r.end - r.start).sum::<u64>();
            }
            WriterEvent::Paused(error) => {
                self.events.paused(&self.goal.id, &error);
                self.pause.pause(error, Instant::now());
            }
            WriterEvent::Resumed => {
                self.pause.resume();
                self.events.send(Event::Resumed { id: self.goal.id.clone() });
            }
            WriterEvent::Lost(error) | WriterEvent::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn readers_changed(&mut self) {
        self.readers.stale = true;
        if self.readers.updated.is_none_or(|updated| updated.elapsed() >= DEADLINE_INTERVAL) {
            self.update_deadlines();
        }
    }

    /// Updates the deadlines in the picker: sets those of the pieces that readers wait for now, and clears the others.
    fn update_deadlines(&mut self) {
        self.readers.stale = false;
        self.readers.updated = Some(Instant::now());
        let (piece_len, max_bytes) = (self.priorities.piece_len(), self.goal.open_bytes / 2);
        let range = |piece: u32| {
            let start = u64::from(piece) * piece_len;
            start..(start + piece_len).min(self.store.layout().len())
        };
        let is_readable = |piece: &u32| self.store.is_readable(range(*piece));
        let missing = |piece: u32| self.goal.wanted.overlaps(&range(piece)) && !is_readable(&piece);
        let urgent = self.readers.deadlines.urgent_pieces(piece_len, max_bytes, missing);
        if urgent == self.readers.urgent {
            return;
        }
        self.torrent.disk().set_urgent(urgent.iter().copied());
        let dropped = self.readers.urgent.iter().filter(|p| !urgent.contains(p) && !is_readable(p));
        let dropped: Vec<u32> = dropped.copied().collect();
        // New deadlines first: if none were left, setting the next one would cancel the requests in flight.
        let mut result = self
            .torrent
            .set_deadlines(&urgent)
            .and_then(|()| self.torrent.clear_deadlines(&dropped));
        for piece in dropped {
            let priority = self.priorities.priority(piece);
            result = result.and_then(|()| self.torrent.prioritize(&[piece], priority));
        }
        if let Err(e) = result {
            tracing::warn!(error = %e.report(), "cannot update the deadlines of pieces that readers wait for");
        }
        self.readers.urgent = urgent;
    }

    /// Updates the priorities in the picker: more chunks are opened as pieces of the open ones pass.
    async fn update_priorities(&mut self) {
        let passed = self.torrent.disk().take_passed();
        if !passed.is_empty() {
            self.any_passed = true;
            passed.into_iter().for_each(|piece| self.priorities.piece_passed(piece));
            self.readers.deadlines.notify_arrival();
            if !self.readers.urgent.is_empty() {
                self.readers_changed();
            }
        }
        let is_by_rarity = !self.goal.in_order && self.status.peers > 1;
        if is_by_rarity && self.last_availability.elapsed() > AVAILABILITY_INTERVAL {
            self.last_availability = Instant::now();
            if let Ok(peers) = self.torrent.availability().await
                && !peers.is_empty()
            {
                self.priorities.set_availability(&peers);
            }
        }
        for (priority, mut pieces) in self.priorities.open_until(self.goal.open_bytes) {
            pieces.retain(|piece| !self.web_seeds.is_fetching(*piece));
            if let Err(e) = self.torrent.prioritize(&pieces, priority) {
                tracing::warn!(error = %e.report(), "cannot raise the priority of pieces in open chunks");
            }
        }
    }

    /// Starts web seeds on pieces that no peer sends.
    fn start_web_seeds(&mut self) {
        let now = Instant::now();
        if !self.web_seeds.can_start_run(now) || self.goal.stored >= self.goal.wanted.len() {
            return;
        }
        let is_alone = self.status.peers == 0;
        let open = self.priorities.open_pieces();
        // Peers are asked for the oldest chunks first, so web seeds start with the newest.
        let open: Vec<u32> = if is_alone { open.collect() } else { open.rev().collect() };
        let urgent = &self.readers.urgent;
        let preferred: Vec<u32> = urgent.iter().copied().chain(open).collect();
        let wanted = WantedPieces {
            preferred: &preferred,
            is_missing: &|piece| self.priorities.is_missing(piece),
            allow_partial: is_alone || self.from_peers.1.elapsed() >= STALL_TIMEOUT,
        };
        let mut started = self.web_seeds.start_runs(&wanted, now);
        started.retain(|piece| !urgent.contains(piece));
        self.prioritize(&started, WEB_SEED_PRIORITY);
    }

    fn on_web_seed_run(&mut self, outcome: RunOutcome) {
        let (unfetched, message) = self.web_seeds.on_run_ended(outcome, Instant::now());
        for piece in unfetched.filter(|piece| !self.readers.urgent.contains(piece)) {
            self.prioritize(&[piece], self.priorities.priority(piece));
        }
        match message {
            Some(text) if self.status.peers == 0 => self.warn(text),
            Some(text) => self.notice(text),
            None => {}
        }
        self.start_web_seeds();
    }

    fn prioritize(&self, pieces: &[u32], priority: u8) {
        if pieces.is_empty() {
            return;
        }
        if let Err(e) = self.torrent.prioritize(pieces, priority) {
            tracing::warn!(error = %e.report(), "cannot change the priority of pieces");
        }
    }

    fn tick(&mut self) -> Result<()> {
        if self.readers.stale {
            self.update_deadlines();
        }
        self.start_web_seeds();
        self.report_messages();
        let now = self.started.elapsed().as_secs_f64();
        let store_rate = self.store_rate.sample(now, self.goal.stored);
        let received = self.received_bytes();
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
            web_seeds: self.web_seeds.usable(),
            held: self.torrent.session().memory().held() as u64,
            cached: self.torrent.session().memory().share(Share::Windows).used() as u64,
            eta_seconds: left.checked_div(store_rate),
            state: if self.pause.is_paused() { Activity::Paused } else { self.state },
            trouble: None,
        }));
        self.pause.check(Instant::now())?;
        match self.timeout {
            Some(timeout) if !self.pause.is_paused() && self.last_arrival.elapsed() > timeout => {
                Err(IdleTimeout {
                    timeout,
                    failed_pieces: self.failed_pieces(),
                    trackers: &self.trackers,
                    web_seeds: self.web_seeds.report(),
                }
                .into_error(&self.goal.id))
            }
            _ => Ok(()),
        }
    }

    /// Payload bytes received, including incomplete blocks. libtorrent counts those, about once a second.
    fn received_bytes(&self) -> u64 {
        let disk = self.torrent.disk();
        let from_web = disk.received() - disk.received_from_peers();
        disk.received().max(self.status.downloaded + from_web)
    }

    /// Number of pieces that arrived with wrong bytes; 0 when a piece passed in this run.
    fn failed_pieces(&self) -> u64 {
        if self.any_passed { 0 } else { self.torrent.disk().failed_pieces() }
    }

    /// Reports the messages that were not reported yet.
    fn report_messages(&mut self) {
        for error in self.torrent.disk().take_unreadable() {
            self.events.unreadable(&self.goal.id, &error);
        }
        for (text, none_answered) in self.trackers.tick() {
            if none_answered { self.warn(text) } else { self.notice(text) }
        }
        let failed = self.failed_pieces();
        if failed > 0 && self.status.peers == 0 && !self.warned_wrong_bytes {
            self.warned_wrong_bytes = true;
            let text = format!("{}; peers that send wrong bytes are banned", wrong_pieces(failed));
            self.warn(text);
        }
    }
}

/// The next event of the writer. An import that is only seeded has no writer: then this never completes.
async fn next_writer_event(events: &mut WriterEvents) -> WriterEvent {
    match events.recv().await {
        Some(event) => event,
        None => pending().await,
    }
}
