//! The one writer of an import: takes verified bytes at positions, and stores them as durable objects.
//!
//! An actor owns the [`Assembly`] and starts the uploads, a few at a time. Nothing else decides which bytes an object
//! holds.
//!
//! Invariants:
//! - Each plan from the assembly is queued, uploading, or durable. An upload that panics starts again.
//! - A file that is sent in order has one part in flight at a time. Its later parts wait as long as memory allows, and
//!   then become chunks.
//! - `outstanding` holds exactly the numbers of the plans that are not durable. A flush waits for the plans before it.
//! - Bytes count as sealed from `write_at` until the store frees or drops them.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinError, JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    assembly::{Assembly, Plan},
    direct::DirectFiles,
    import::ImportStore,
    lanes::{Lanes, Turn},
    pressure::Pressure,
    ranges::RangeSet,
    trouble::Troubles,
    upload::{Uploader, WriterSink},
};
use crate::{
    catalog::Catalog,
    error::{Error, Kind, Result},
};

/// How often the pressure is polled while bytes wait: other writers change it without notifying this one.
const TICK: Duration = Duration::from_millis(100);

/// The options of a writer.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// The number of uploads in flight at once (at least 1).
    pub upload_concurrency: usize,
    /// The longest first wait after a failure. The limit doubles with each further failure, up to 60 times this.
    pub retry_base: Duration,
    /// Set where files become objects of their own.
    pub direct: Option<DirectFiles>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { upload_concurrency: 3, retry_base: Duration::from_secs(1), direct: None }
    }
}

enum Command {
    Written(Vec<Range<u64>>),
    Wanted(RangeSet),
    Flush(oneshot::Sender<()>),
}

/// Adds verified bytes to an import. Dropping it without [`ImportWriter::stop`] abandons the bytes that are not
/// durable, but not at once, so the import must not be opened again in this process.
pub struct ImportWriter {
    uploader: Arc<Uploader>,
    commands: mpsc::UnboundedSender<Command>,
    /// Stops the actor even if other handles of the writer exist.
    stopping: CancellationToken,
    actor: Mutex<Option<JoinHandle<u64>>>,
}

impl fmt::Debug for ImportWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportWriter")
            .field("import", self.uploader.store.id())
            .finish_non_exhaustive()
    }
}

impl ImportWriter {
    /// Starts the writer of `store`, which can have one at a time. A chunk is complete when all of its `wanted` bytes
    /// are there.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn spawn(
        store: Arc<ImportStore>,
        catalog: Catalog,
        pressure: Arc<Pressure>,
        wanted: &RangeSet,
        options: WriterOptions,
        sink: WriterSink,
    ) -> Self {
        let assembly = Assembly::new(Arc::clone(store.layout()), wanted, store.stored());
        let lanes = options.direct.as_ref().map(DirectFiles::lanes).unwrap_or_default();
        let uploader = Arc::new(Uploader {
            troubles: Troubles::new(&store, options.retry_base, sink),
            store,
            catalog,
            pressure,
            direct: options.direct,
            stored_total: AtomicU64::new(0),
        });
        let (commands, queue) = mpsc::unbounded_channel();
        let actor = Actor {
            uploader: Arc::clone(&uploader),
            concurrency: options.upload_concurrency.max(1),
            assembly,
            lanes,
            queued: VecDeque::new(),
            uploads: JoinSet::new(),
            running: HashMap::new(),
            outstanding: BTreeSet::new(),
            next: 0,
            flushes: Vec::new(),
        };
        let stopping = CancellationToken::new();
        let span = tracing::info_span!("import", id = %uploader.store.id());
        let actor = tokio::spawn(actor.run(queue, stopping.clone()).instrument(span));
        Self { uploader, commands, stopping, actor: Mutex::new(Some(actor)) }
    }

    /// Accepts verified bytes that begin at `pos`. They are readable when this returns. Padding, and bytes that are
    /// durable or pending already, are skipped. Never waits: the callers bound the memory with [`Pressure`].
    pub fn write_at(&self, pos: u64, parts: Vec<Bytes>) {
        let new = self.uploader.store.accept(pos, parts);
        let len: u64 = new.iter().map(|range| range.end - range.start).sum();
        if len > 0 {
            self.uploader.pressure.seal(len);
            self.send(Command::Written(new));
        }
    }

    /// Changes the set of wanted bytes.
    pub fn set_wanted(&self, wanted: RangeSet) {
        self.send(Command::Wanted(wanted));
    }

    /// Uploads everything written before this call, without waiting for complete chunks, and returns when it is
    /// durable. Does not return while storage refuses writes.
    ///
    /// # Errors
    /// `Internal` when the writer has stopped.
    pub async fn flush(&self) -> Result<()> {
        let (tx, rx) = oneshot::channel();
        self.send(Command::Flush(tx));
        rx.await.map_err(|_| {
            let text = format!("the writer of import {} has stopped", self.uploader.store.id());
            Error::new(Kind::Internal, text)
        })
    }

    /// Flushes until `deadline`, or until storage refuses writes, and then abandons the bytes that are not durable.
    /// Objects in flight stay as intents for the sweep. Returns the number of abandoned bytes.
    pub async fn stop(&self, deadline: Duration) -> u64 {
        tokio::select! {
            biased;
            // A flush fails only when the actor has stopped; the count below covers that.
            _ = self.flush() => {}
            () = self.refused() => {}
            () = tokio::time::sleep(deadline) => {}
        }
        self.abandon().await
    }

    /// Whether storage currently refuses writes or does not answer, as of the last call.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.uploader.troubles.any() || self.uploader.store.backend().refuses()
    }

    async fn refused(&self) {
        while !self.is_refused() {
            tokio::time::sleep(TICK).await;
        }
    }

    /// The number of bytes that are written and not durable.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.uploader.store.pending_bytes()
    }

    /// Stops at once. When it returns, no work of this writer is in flight, and the import can be opened again. Returns
    /// the number of abandoned bytes.
    pub async fn abandon(&self) -> u64 {
        self.stopping.cancel();
        let actor = self.actor.lock().take();
        match actor {
            Some(actor) => actor.await.unwrap_or_else(|_| self.uploader.abandon()),
            None => 0,
        }
    }

    /// The number of bytes that this writer made durable.
    #[must_use]
    pub fn stored_total(&self) -> u64 {
        self.uploader.stored_total.load(Ordering::Relaxed)
    }

    /// The import that this writes.
    #[must_use]
    pub fn store(&self) -> &Arc<ImportStore> {
        &self.uploader.store
    }

    fn send(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::error!("import {}: its writer has stopped", self.uploader.store.id());
        }
    }
}

impl Uploader {
    fn abandon(&self) -> u64 {
        let dropped = self.store.forget_pending();
        self.pressure.release(dropped);
        dropped
    }
}

/// A plan with its number in the order of plans.
#[derive(Debug, Clone)]
struct Job {
    number: u64,
    plan: Plan,
    /// Set for a part of a file that is sent in order.
    turn: Option<Turn>,
    /// Whether some of the part is read back from storage first, which may wait for memory.
    reads: bool,
    /// The number of uploads of this plan that ended in a panic.
    panics: u32,
}

impl Job {
    fn lane(&self) -> Option<usize> {
        self.turn.map(|turn| turn.lane)
    }
}

struct Actor {
    uploader: Arc<Uploader>,
    concurrency: usize,
    assembly: Assembly,
    lanes: Lanes,
    /// Plans to upload next, from flushes and from uploads that panicked.
    queued: VecDeque<Job>,
    /// Each returns whether its lane continues.
    uploads: JoinSet<bool>,
    running: HashMap<task::Id, Job>,
    outstanding: BTreeSet<u64>,
    next: u64,
    /// Each flush, with the number of the first plan that it does not wait for.
    flushes: Vec<(u64, oneshot::Sender<()>)>,
}

impl Drop for Actor {
    /// Also runs when the runtime shuts down under the actor: the memory budget must be released.
    fn drop(&mut self) {
        self.uploader.abandon();
    }
}

impl Actor {
    /// Runs until the writer stops or is dropped. Returns the number of abandoned bytes.
    async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        stopping: CancellationToken,
    ) -> u64 {
        loop {
            self.start_uploads();
            self.answer_flushes();
            let looks = self.assembly.waiting() > 0 && self.has_room();
            tokio::select! {
                () = stopping.cancelled() => break,
                command = commands.recv() => {
                    let Some(command) = command else { break };
                    self.obey(command);
                    while let Ok(command) = commands.try_recv() {
                        self.obey(command);
                    }
                }
                Some(ended) = self.uploads.join_next_with_id() => self.upload_ended(ended),
                () = tokio::time::sleep(TICK), if looks => {}
            }
        }
        self.uploads.shutdown().await;
        // A commit that was requested completes even if its upload is cancelled. The next open of the import must see
        // it.
        if let Err(e) = self.uploader.catalog.settle().await {
            tracing::warn!("import {}: {}", self.uploader.store.id(), e.report());
        }
        self.uploader.abandon()
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Written(ranges) => ranges.into_iter().for_each(|r| self.assembly.add(r)),
            Command::Wanted(wanted) => self.assembly.set_wanted(&wanted),
            Command::Flush(done) => {
                self.queue_all();
                self.flushes.push((self.next, done));
            }
        }
    }

    /// Plans all waiting bytes: the next parts of files that are sent in order, and the rest as chunks.
    fn queue_all(&mut self) {
        let turns: Vec<_> = self.lanes.next(true).collect();
        for (lane, first) in turns {
            for slot in first.. {
                let Some(job) = self.part(lane, slot) else { break };
                self.queued.push_back(job);
            }
        }
        let max = self.uploader.store.layout().chunk_len();
        while let Some(plan) = self.assembly.take_full().or_else(|| self.assembly.take_packed(max))
        {
            let job = self.number(plan, None, false);
            self.queued.push_back(job);
        }
    }

    fn number(&mut self, plan: Plan, turn: Option<Turn>, reads: bool) -> Job {
        let number = self.next;
        self.next += 1;
        self.outstanding.insert(number);
        Job { number, plan, turn, reads, panics: 0 }
    }

    /// Plans `slot` as a part of the lane, if it is the lane's next slot and complete.
    fn part(&mut self, lane: usize, slot: usize) -> Option<Job> {
        if !self.lanes.next(true).any(|turn| turn == (lane, slot)) {
            return None;
        }
        let plan = self.assembly.take_slot(slot)?;
        let reads = plan.runs != std::slice::from_ref(&self.uploader.store.layout().slots()[slot]);
        let turn = self.lanes.plan(lane);
        Some(self.number(plan, Some(turn), reads))
    }

    fn start_uploads(&mut self) {
        while self.has_room() {
            let Some(job) = self.next_job() else { return };
            // A part that is read back may wait until other bytes are freed. It does not count as in flight, or those
            // bytes would seem to be fewer than they are.
            let in_flight = if job.reads { 0 } else { job.plan.len() };
            let in_flight = self.uploader.pressure.take_off(in_flight);
            let (uploader, plan, panics) =
                (Arc::clone(&self.uploader), job.plan.clone(), job.panics);
            let part = job.turn.map(|turn| {
                let lane = self.lanes.lane(turn);
                (Arc::clone(&lane.stream), lane.file.clone(), turn.part)
            });
            let upload = async move {
                match part {
                    Some((stream, file, part)) => {
                        uploader.send(&stream, &file, part, plan, in_flight, panics).await
                    }
                    None => uploader.upload(plan, in_flight, panics).await,
                }
            };
            let handle = self.uploads.spawn(upload.in_current_span());
            self.running.insert(handle.id(), job);
        }
    }

    /// A part that is read back takes no upload permit: it may wait for other uploads to free memory.
    fn has_room(&self) -> bool {
        self.running.values().filter(|job| !job.reads).count() < self.concurrency
    }

    fn reads(&self) -> bool {
        self.running.values().any(|job| job.reads)
    }

    fn next_job(&mut self) -> Option<Job> {
        let reads = self.reads();
        let mut busy: Vec<usize> = self.running.values().filter_map(Job::lane).collect();
        let next = self.queued.iter().position(|job| {
            let Some(lane) = job.lane() else { return true };
            let waits = busy.contains(&lane) || job.reads && reads;
            // Later parts of the same lane wait for this one.
            busy.push(lane);
            !waits
        });
        if let Some(at) = next {
            return self.queued.remove(at);
        }
        if let Some(job) = self.next_part() {
            return Some(job);
        }
        let plan = self.assembly.take_full_where(|slot| !self.lanes.holds(slot));
        match plan.or_else(|| self.packed()) {
            Some(plan) => Some(self.number(plan, None, false)),
            None => self.out_of_turn(),
        }
    }

    /// The next part of a file that is sent in order: from memory, or read back if it had to be stored as chunks.
    fn next_part(&mut self) -> Option<Job> {
        let turns: Vec<_> = self.lanes.next(false).collect();
        let reads = self.reads();
        let ready = turns.iter().find_map(|(lane, slot)| {
            let may = !reads || !self.assembly.has_settled(*slot);
            may.then(|| self.part(*lane, *slot)).flatten()
        });
        if ready.is_some() || reads {
            return ready;
        }
        let store = &self.uploader.store;
        let stored = |(lane, slot): &(usize, usize)| {
            // A file that is durable to its end is left to the publisher.
            let file = self.lanes.lane(Turn { lane: *lane, part: 0 }).stream.file();
            store.covered(store.layout().slots()[*slot].clone()) && !store.covered(file.clone())
        };
        let (lane, _) = turns.into_iter().find(stored)?;
        let turn = self.lanes.plan(lane);
        Some(self.number(Plan { runs: Vec::new(), packed: false }, Some(turn), true))
    }

    /// Selects a plan to upload early under pressure. `None` while a part is being sent: that part is about to free
    /// memory, and a chunk stored now would be sent twice.
    fn packed(&mut self) -> Option<Plan> {
        let sends = self.running.values().any(|job| job.turn.is_some() && !job.reads);
        let idle = self.running.values().all(|job| job.reads);
        if sends || !self.uploader.pressure.wants_packing(idle) {
            return None;
        }
        let max = self.uploader.store.layout().chunk_len();
        match self.assembly.last_full(|slot| self.lanes.holds(slot)) {
            Some(slot) => self.assembly.take_slot(slot),
            None => self.assembly.take_packed(max),
        }
    }

    /// Under pressure: turns the last queued part that can be unplanned into a chunk, while an earlier part is read
    /// back. That frees memory, which the read may be waiting for.
    fn out_of_turn(&mut self) -> Option<Job> {
        let idle = self.running.values().all(|job| job.reads);
        if !self.reads() || !self.uploader.pressure.wants_packing(idle) {
            return None;
        }
        let lanes = &mut self.lanes;
        let at = self.queued.iter().rposition(|job| {
            let turn = job.turn.filter(|_| !job.plan.is_empty());
            turn.is_some_and(|turn| lanes.take_back(turn))
        })?;
        let job = self.queued.remove(at)?;
        Some(Job { turn: None, reads: false, ..job })
    }

    fn upload_ended(&mut self, ended: Result<(task::Id, bool), JoinError>) {
        let (id, goes_on) = match ended {
            Ok((id, goes_on)) => (id, Some(goes_on)),
            Err(e) => (e.id(), None),
        };
        let Some(job) = self.running.remove(&id) else { return };
        let Some(goes_on) = goes_on else {
            let panics = job.panics + 1;
            return self.queued.push_front(Job { panics, ..job });
        };
        self.outstanding.remove(&job.number);
        if let Some(turn) = job.turn {
            self.lanes.done(turn, !goes_on);
        }
    }

    fn answer_flushes(&mut self) {
        let first = self.outstanding.first().copied().unwrap_or(self.next);
        let waiting = self.flushes.extract_if(.., |(until, _)| *until <= first);
        for (_, done) in waiting {
            // The caller of the flush may be gone.
            let _ = done.send(());
        }
    }
}
