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
    assembly::{Assembly, ObjectPlan},
    pressure::Pressure,
    upload::{Uploader, WriterSink},
};
use crate::{
    catalog::Catalog,
    content_root::Root,
    error::{Error, Kind, Result},
    ranges::RangeSet,
    storage::{
        files::{
            direct_files::DirectFiles,
            sequential_files::{PlannedPart, SequentialFiles},
        },
        map::import_store::ImportStore,
        retry_loop::FailureTracker,
    },
};

/// Interval of the checks whether storage refuses writes, while a writer stops.
const REFUSAL_POLL: Duration = Duration::from_millis(100);

/// The options of a writer.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// The number of uploads in flight at once (at least 1).
    pub upload_concurrency: usize,
    /// The longest first wait after a failure. The limit doubles with each further failure, up to 60 times this.
    pub retry_base: Duration,
    /// Set where files become objects of their own.
    pub direct: Option<DirectFiles>,
    /// The content roots of chunks that are known before their bytes, by the start of the chunk.
    pub known_roots: HashMap<u64, Root>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            upload_concurrency: 3,
            retry_base: Duration::from_secs(1),
            direct: None,
            known_roots: HashMap::new(),
        }
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
        let assembly = Assembly::new(Arc::clone(store.layout()), wanted, store.durable_ranges());
        let sequential_files =
            options.direct.as_ref().map(DirectFiles::sequential_files).unwrap_or_default();
        let uploader = Arc::new(Uploader {
            failures: FailureTracker::new(&store, options.retry_base, sink),
            store,
            catalog,
            pressure,
            direct: options.direct,
            known_roots: options.known_roots,
            stored_total: AtomicU64::new(0),
        });
        let (commands, queue) = mpsc::unbounded_channel();
        let actor = Actor {
            uploader: Arc::clone(&uploader),
            concurrency: options.upload_concurrency.max(1),
            assembly,
            sequential_files,
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
            () = self.until_refused() => {}
            () = tokio::time::sleep(deadline) => {}
        }
        self.abandon().await
    }

    /// Whether storage currently refuses writes or does not answer, as of the last call.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.uploader.failures.any_failing() || self.uploader.store.backend().is_retrying()
    }

    async fn until_refused(&self) {
        while !self.is_refused() {
            tokio::time::sleep(REFUSAL_POLL).await;
        }
    }

    /// The number of bytes that are written and not durable.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
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
            tracing::error!("the writer of import {} has stopped", self.uploader.store.id());
        }
    }
}

impl Uploader {
    fn abandon(&self) -> u64 {
        let dropped = self.store.drop_pending();
        self.pressure.release(dropped);
        dropped
    }
}

/// A plan with its number in the order of plans.
#[derive(Debug, Clone)]
struct UploadJob {
    number: u64,
    plan: ObjectPlan,
    /// Set for a part of a file that is sent in order.
    planned_part: Option<PlannedPart>,
    /// Whether some of the part is read back from storage first, which may wait for memory.
    reads_back: bool,
    /// The number of uploads of this plan that ended in a panic.
    panics: u32,
}

impl UploadJob {
    fn file_index(&self) -> Option<usize> {
        self.planned_part.map(|planned_part| planned_part.file)
    }
}

struct Actor {
    uploader: Arc<Uploader>,
    concurrency: usize,
    assembly: Assembly,
    sequential_files: SequentialFiles,
    /// Plans to upload next, from flushes and from uploads that panicked.
    queued: VecDeque<UploadJob>,
    /// Each returns whether its sequential file continues.
    uploads: JoinSet<bool>,
    running: HashMap<task::Id, UploadJob>,
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
        let pressure = Arc::clone(&self.uploader.pressure);
        loop {
            // Before the pressure is checked, so that no change of it is missed.
            let crowded = pressure.wait_until_crowded();
            // The pressure counts these bytes already. A chunk that they complete must not be packed.
            while let Ok(command) = commands.try_recv() {
                self.handle(command);
            }
            self.start_uploads();
            self.complete_flushes();
            let can_pack = self.assembly.waiting() > 0 && self.has_free_permit();
            tokio::select! {
                () = stopping.cancelled() => break,
                command = commands.recv() => {
                    let Some(command) = command else { break };
                    self.handle(command);
                }
                Some(ended) = self.uploads.join_next_with_id() => self.finish_upload(ended),
                () = crowded, if can_pack => {}
            }
        }
        self.uploads.shutdown().await;
        // A commit that was requested completes even if its upload is cancelled. The next open of the import must see
        // it.
        if let Err(e) = self.uploader.catalog.flush().await {
            tracing::warn!("import {}: {}", self.uploader.store.id(), e.report());
        }
        self.uploader.abandon()
    }

    fn handle(&mut self, command: Command) {
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
        let next: Vec<_> = self.sequential_files.next_chunks(true).collect();
        for (file_index, first) in next {
            for chunk in first.. {
                let Some(job) = self.plan_part(file_index, chunk) else { break };
                self.queued.push_back(job);
            }
        }
        let max = self.uploader.store.layout().chunk_len();
        while let Some(plan) = self.assembly.take_full().or_else(|| self.assembly.take_packed(max))
        {
            let job = self.new_job(plan, None, false);
            self.queued.push_back(job);
        }
    }

    fn new_job(
        &mut self,
        plan: ObjectPlan,
        planned_part: Option<PlannedPart>,
        reads_back: bool,
    ) -> UploadJob {
        let number = self.next;
        self.next += 1;
        self.outstanding.insert(number);
        UploadJob { number, plan, planned_part, reads_back, panics: 0 }
    }

    /// Plans `chunk` as a part of its file, if it is the file's next chunk and complete.
    fn plan_part(&mut self, file_index: usize, chunk: usize) -> Option<UploadJob> {
        if !self.sequential_files.next_chunks(true).any(|next| next == (file_index, chunk)) {
            return None;
        }
        let plan = self.assembly.take_chunk(chunk)?;
        let reads_back =
            plan.runs != std::slice::from_ref(&self.uploader.store.layout().chunks()[chunk]);
        let planned_part = self.sequential_files.plan_next(file_index);
        Some(self.new_job(plan, Some(planned_part), reads_back))
    }

    fn start_uploads(&mut self) {
        while self.has_free_permit() {
            let Some(job) = self.next_job() else { return };
            // A part that is read back may wait until other bytes are freed. It does not count as in flight, or those
            // bytes would seem to be fewer than they are.
            let in_flight = if job.reads_back { 0 } else { job.plan.len() };
            let in_flight = self.uploader.pressure.count_in_flight(in_flight);
            let (uploader, plan, panics) =
                (Arc::clone(&self.uploader), job.plan.clone(), job.panics);
            let part = job.planned_part.map(|planned_part| {
                let file = self.sequential_files.file(planned_part.file);
                (Arc::clone(&file.upload), file.row.clone(), planned_part.part)
            });
            let upload = async move {
                match part {
                    Some((sequential_upload, file, part)) => {
                        uploader
                            .send_part(&sequential_upload, &file, part, plan, in_flight, panics)
                            .await
                    }
                    None => uploader.upload(plan, in_flight, panics).await,
                }
            };
            let handle = self.uploads.spawn(upload.in_current_span());
            self.running.insert(handle.id(), job);
        }
    }

    /// A part that is read back takes no upload permit: it may wait for other uploads to free memory.
    fn has_free_permit(&self) -> bool {
        self.running.values().filter(|job| !job.reads_back).count() < self.concurrency
    }

    fn is_reading_back(&self) -> bool {
        self.running.values().any(|job| job.reads_back)
    }

    fn next_job(&mut self) -> Option<UploadJob> {
        let reading_back = self.is_reading_back();
        let mut busy: Vec<usize> =
            self.running.values().filter_map(UploadJob::file_index).collect();
        let next = self.queued.iter().position(|job| {
            let Some(file_index) = job.file_index() else { return true };
            let is_blocked = busy.contains(&file_index) || job.reads_back && reading_back;
            // Later parts of the same file wait for this one.
            busy.push(file_index);
            !is_blocked
        });
        if let Some(at) = next {
            return self.queued.remove(at);
        }
        if let Some(job) = self.next_part() {
            return Some(job);
        }
        let plan =
            self.assembly.take_full_where(|chunk| !self.sequential_files.contains_chunk(chunk));
        match plan.or_else(|| self.next_packed()) {
            Some(plan) => Some(self.new_job(plan, None, false)),
            None => self.spill(),
        }
    }

    /// The next part of a file that is sent in order: from memory, or read back if it had to be stored as chunks.
    fn next_part(&mut self) -> Option<UploadJob> {
        let next: Vec<_> = self.sequential_files.next_chunks(false).collect();
        let reading_back = self.is_reading_back();
        let ready = next.iter().find_map(|(file_index, chunk)| {
            let is_allowed = !reading_back || !self.assembly.has_settled(*chunk);
            is_allowed.then(|| self.plan_part(*file_index, *chunk)).flatten()
        });
        if ready.is_some() || reading_back {
            return ready;
        }
        let store = &self.uploader.store;
        let is_stored = |(file_index, chunk): &(usize, usize)| {
            // A file that is durable to its end is left to the publisher.
            let file = self.sequential_files.file(*file_index).upload.file();
            store.is_durable(store.layout().chunks()[*chunk].clone())
                && !store.is_durable(file.clone())
        };
        let (file_index, _) = next.into_iter().find(is_stored)?;
        let planned_part = self.sequential_files.plan_next(file_index);
        Some(self.new_job(ObjectPlan { runs: Vec::new(), packed: false }, Some(planned_part), true))
    }

    /// Selects a plan to upload early under pressure. `None` while a part is being sent: that part is about to free
    /// memory, and a chunk stored now would be sent twice.
    fn next_packed(&mut self) -> Option<ObjectPlan> {
        let is_sending =
            self.running.values().any(|job| job.planned_part.is_some() && !job.reads_back);
        let is_idle = self.running.values().all(|job| job.reads_back);
        if is_sending || !self.uploader.pressure.should_pack(is_idle) {
            return None;
        }
        let max = self.uploader.store.layout().chunk_len();
        match self.assembly.last_full(|chunk| self.sequential_files.contains_chunk(chunk)) {
            Some(chunk) => self.assembly.take_chunk(chunk),
            None => self.assembly.take_packed(max),
        }
    }

    /// Under pressure: stores the last queued part that can be unplanned as a chunk object, while an earlier part is
    /// read back. That frees memory, which the read may be waiting for.
    fn spill(&mut self) -> Option<UploadJob> {
        let is_idle = self.running.values().all(|job| job.reads_back);
        if !self.is_reading_back() || !self.uploader.pressure.should_pack(is_idle) {
            return None;
        }
        let sequential_files = &mut self.sequential_files;
        let at = self.queued.iter().rposition(|job| {
            let planned_part = job.planned_part.filter(|_| !job.plan.is_empty());
            planned_part.is_some_and(|planned_part| sequential_files.unplan(planned_part))
        })?;
        let job = self.queued.remove(at)?;
        Some(UploadJob { planned_part: None, reads_back: false, ..job })
    }

    fn finish_upload(&mut self, ended: Result<(task::Id, bool), JoinError>) {
        let (id, continues) = match ended {
            Ok((id, continues)) => (id, Some(continues)),
            Err(e) => (e.id(), None),
        };
        let Some(job) = self.running.remove(&id) else { return };
        let Some(continues) = continues else {
            let panics = job.panics + 1;
            return self.queued.push_front(UploadJob { panics, ..job });
        };
        self.outstanding.remove(&job.number);
        if let Some(planned_part) = job.planned_part {
            self.sequential_files.finish_part(planned_part, !continues);
        }
    }

    fn complete_flushes(&mut self) {
        let first = self.outstanding.first().copied().unwrap_or(self.next);
        let waiting = self.flushes.extract_if(.., |(until, _)| *until <= first);
        for (_, done) in waiting {
            // The caller of the flush may be gone.
            let _ = done.send(());
        }
    }
}
