//! Downloads one file over several connections: starts workers, handles their failures, and decides when to give up.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    task::{self, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    range_scheduler::{Cell, RangeScheduler, SplitStrategy},
    source::DownloadSource,
    target::Target,
    worker::{AssignedRun, FirstRun, WorkerExit, run_first_worker, run_worker},
};
use crate::{
    backends::Backoff,
    error::{Error, Kind, Result},
    protocols::ByteStream,
    rate::RateLimit,
    storage::RangeSet,
    units::MIB,
};

/// Interval between progress reports.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Interval between checkpoints, which make the received bytes survive a crash.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// Longest delay requested by a server that is waited for. A longer one ends the download.
const MAX_SERVER_WAIT: Duration = Duration::from_secs(600);
/// Upper bounds of the first backoff wait after a failure, and of all waits.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Number of cells in a snapshot.
pub(super) const CELLS: u64 = 32;

/// Limits on connections, splitting and retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimits {
    /// Maximum connections to one server (at least 1).
    pub per_server: usize,
    /// Maximum connections for one file, over all its mirrors (at least 1).
    pub per_file: usize,
    /// A run is split only if both halves have at least this many bytes.
    pub min_split: u64,
    /// Consecutive failures, without a byte received between them, before the download is given up (at least 1).
    pub max_tries: u32,
    pub strategy: SplitStrategy,
}

impl Default for FetchLimits {
    /// Four connections: enough where a server throttles each connection, few enough where it limits their number.
    fn default() -> Self {
        Self {
            per_server: 4,
            per_file: usize::MAX,
            min_split: MIB,
            max_tries: 5,
            strategy: SplitStrategy::Even,
        }
    }
}

/// Progress of a download.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Bytes present at the target.
    pub done: u64,
    /// Total bytes, if known.
    pub len: Option<u64>,
    /// Bytes received in this run, including discarded bytes.
    pub received: u64,
    pub connections: usize,
    /// The file in equal parts, if its length is known.
    pub cells: Vec<Cell>,
    /// The last error, while a retry is pending.
    pub trouble: Option<String>,
}

/// Called with the progress about four times a second.
pub(super) type SnapshotSink = Box<dyn Fn(Snapshot) + Send + Sync>;

/// Result of a finished download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownloadSummary {
    /// Length of the file, or of the wanted part of it.
    pub len: u64,
    /// Bytes received in this run, including discarded bytes.
    pub received: u64,
}

/// State shared by all workers of a file.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) source: DownloadSource,
    pub(super) target: Arc<dyn Target>,
    pub(super) scheduler: Mutex<RangeScheduler>,
    /// The response to the first request is still being read.
    pub(super) first_response_open: AtomicBool,
    rate_limits: Vec<Arc<RateLimit>>,
    received: AtomicU64,
}

impl Shared {
    /// Counts received bytes, and waits as the rate limits require.
    pub(super) async fn record_received(&self, len: u64) {
        self.received.fetch_add(len, Ordering::Relaxed);
        for limit in &self.rate_limits {
            limit.acquire(len).await;
        }
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// A download of one file.
pub struct FileDownload {
    pub(super) shared: Arc<Shared>,
    pub(super) limits: FetchLimits,
    /// The wanted range. `None` when not even the length is known: everything is read.
    pub(super) range: Option<Range<u64>>,
    /// The caller chose the range; otherwise it is the whole file.
    pub(super) is_partial: bool,
    pub(super) sink: SnapshotSink,
    pub(super) tries: Tries,
}

impl std::fmt::Debug for FileDownload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileDownload").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl FileDownload {
    /// `range` is the wanted part of the file, `None` for all of it. `have` is what the target already has of that.
    #[must_use]
    pub fn new(
        source: DownloadSource,
        target: Arc<dyn Target>,
        range: Option<Range<u64>>,
        have: &RangeSet,
        limits: FetchLimits,
        rate_limits: Vec<Arc<RateLimit>>,
        sink: SnapshotSink,
    ) -> Self {
        let is_partial = range.is_some();
        let range = range.or_else(|| source.len().map(|len| 0..len));
        let wanted = range.clone().unwrap_or(0..0);
        let scheduler = RangeScheduler::new(wanted, have, limits.min_split, limits.strategy)
            .with_grain(source.range_grain());
        let shared = Arc::new(Shared {
            source,
            target,
            scheduler: Mutex::new(scheduler),
            first_response_open: AtomicBool::new(false),
            rate_limits,
            received: AtomicU64::new(0),
        });
        let tries = Tries::new(limits.max_tries);
        Self { shared, limits, range, is_partial, sink, tries }
    }

    /// Runs until every wanted byte is written to the target. After an error the target keeps what was written.
    ///
    /// # Errors
    /// `Cancelled`; `Changed` when the file is no longer the one that was probed; the server's last error when the
    /// download is given up; errors of the target.
    pub async fn run(mut self, cancel: &CancellationToken) -> Result<DownloadSummary> {
        let first = self.shared.source.take_first();
        let done = match &self.range {
            Some(range) if self.shared.source.supports_ranges() || range.is_empty() => {
                self.run_parallel(first, cancel).await
            }
            _ => self.run_in_one_pass(first, cancel).await,
        };
        (self.sink)(self.snapshot(0, None));
        match done {
            Ok(len) => Ok(DownloadSummary { len, received: self.shared.received() }),
            Err(error) => {
                if let Err(e) = self.shared.target.checkpoint().await {
                    tracing::debug!("cannot save the last received bytes: {}", e.report());
                }
                Err(error)
            }
        }
    }

    async fn run_parallel(
        &mut self,
        first: Option<ByteStream>,
        cancel: &CancellationToken,
    ) -> Result<u64> {
        let mut pool = WorkerPool::new(&self.limits, self.shared.source.mirrors().len());
        let from_start = self.range.as_ref().is_some_and(|range| range.start == 0);
        if let Some(stream) = first.filter(|_| from_start) {
            pool.spawn_first(FirstRun::take(&self.shared, stream, pool.max));
        }
        let mut checkpoints = Checkpoints::new(Arc::clone(&self.shared.target));
        let done = self.run_workers(&mut pool, &mut checkpoints, cancel).await;
        pool.workers.shutdown().await;
        // A running checkpoint must not write older state after this returns.
        checkpoints.wait_until_idle().await;
        let Err(error) = done else { return done };
        let first = self.prepare_one_pass(error).await?;
        self.run_in_one_pass(first, cancel).await
    }

    /// Prepares to fetch the file in one pass after `error`, because its ranges cannot be fetched: the server sends
    /// only the whole file, or the file is another version and nothing of the earlier one is present. Returns the
    /// stream of that pass, if a request like the first returns it. The pass discards the bytes that are present, so
    /// the server is queried first, and must answer with the version that they are of.
    ///
    /// # Errors
    /// `Changed` when the server answers with another version; `error` when one pass is no remedy.
    async fn prepare_one_pass(&self, error: Error) -> Result<Option<ByteStream>> {
        let has_bytes = self.shared.scheduler.lock().done() > 0;
        let helps = match error.kind() {
            Kind::Unsupported => true,
            Kind::Changed => !has_bytes,
            _ => false,
        };
        if !helps || !self.is_whole_file() || self.shared.source.stream().is_some() {
            return Err(error);
        }
        let mirror = &self.shared.source.mirrors()[0];
        match mirror.repeat_first_request(has_bytes).await {
            Ok(Some(first)) => return Ok(Some(first)),
            Ok(None) => {}
            Err(e) if e.kind() == Kind::Changed => return Err(e),
            Err(_) => return Err(error),
        }
        match mirror.probe_again().await {
            Ok(()) if !mirror.remote().supports_ranges => Ok(None),
            _ => Err(error),
        }
    }

    async fn run_workers(
        &mut self,
        pool: &mut WorkerPool,
        checkpoints: &mut Checkpoints,
        cancel: &CancellationToken,
    ) -> Result<u64> {
        let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
        loop {
            let (complete, done) = {
                let scheduler = self.shared.scheduler.lock();
                (scheduler.is_complete(), scheduler.done())
            };
            if complete {
                return Ok(done);
            }
            self.spawn_workers(pool);
            tokio::select! {
                () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
                Some(joined) = pool.workers.join_next_with_id() => {
                    if let Some(error) = self.handle_exit(pool, joined).await?
                        // The first response may have brought the rest since.
                        && !self.shared.scheduler.lock().is_complete()
                    {
                        return Err(error);
                    }
                }
                done = checkpoints.next_result() => done?,
                _ = tick.tick() => {
                    checkpoints.start_if_due();
                    (self.sink)(self.snapshot(pool.workers.len(), self.tries.trouble()));
                }
            }
        }
    }

    fn is_whole_file(&self) -> bool {
        self.range.as_ref().is_some_and(|r| r.start == 0 && Some(r.end) == self.shared.source.len())
    }

    /// Starts as many workers as the limits allow and the work requires.
    fn spawn_workers(&self, pool: &mut WorkerPool) {
        if self.tries.is_waiting() {
            return;
        }
        while pool.workers.len() < pool.max {
            let Some(mirror) = pool.free_mirror(self.limits.per_server) else { return };
            let idle = pool.max - pool.workers.len();
            if pool.saturated_at >= pool.workers.len() && pool.saturated_at > 0 {
                return;
            }
            // Runs are taken here and in order. Workers start in any order, and would split the work by an outdated
            // number of idle workers.
            let Some(run) = AssignedRun::take(&self.shared, idle) else {
                // The rest is too small to share: no further worker is needed until one of the running ones ends.
                pool.saturated_at = pool.workers.len();
                return;
            };
            let id = pool.workers.spawn(run_worker(run, mirror)).id();
            pool.mirror_of.insert(id, mirror);
        }
    }

    /// Handles the end of a worker. `Some` when it ends the download.
    async fn handle_exit(
        &mut self,
        pool: &mut WorkerPool,
        joined: Result<(task::Id, WorkerExit), task::JoinError>,
    ) -> Result<Option<Error>> {
        let (id, exit) = match joined {
            Ok(joined) => joined,
            Err(e) => {
                let id = e.id();
                let error = Error::new(Kind::Internal, "a download worker panicked").because(e);
                (id, WorkerExit::ConnectionLost(error))
            }
        };
        let mirror = pool.mirror_of.remove(&id).unwrap_or(0);
        let (error, refused) = match exit {
            WorkerExit::Idle => {
                // As in `spawn_workers`: no further worker is needed now.
                pool.saturated_at = pool.workers.len();
                return Ok(None);
            }
            WorkerExit::TargetFailed(error) => return Ok(Some(error)),
            WorkerExit::Refused(error) => (error, true),
            WorkerExit::ConnectionLost(error) => (error, false),
        };
        pool.saturated_at = 0;
        let others = pool.workers.len();
        let may_be_overloaded = matches!(
            error.kind(),
            Kind::RateLimited | Kind::Unavailable | Kind::Network | Kind::PermissionDenied
        );
        let first_response_covers =
            mirror == 0 && self.shared.first_response_open.load(Ordering::Relaxed);
        if refused && others > 0 && (may_be_overloaded || first_response_covers) {
            // The server still serves the other connections, so this one was one too many. The first response carries
            // the whole file, whatever the server answers to later requests.
            tracing::debug!("{}; continuing with {others} connections", error.report());
            pool.max = others;
            return Ok(None);
        }
        if !error.kind().is_retryable() {
            let source = &self.shared.source;
            if refused
                && source.mirrors()[mirror].may_have_moved(&error)
                && self.tries.allows_retry(&error, 0)
            {
                return Ok(source.mirrors()[mirror].probe_again().await.err());
            }
            if pool.exclude_mirror(mirror) {
                tracing::warn!("{}; continuing without this mirror", error.report());
                return Ok(None);
            }
            return Ok(Some(error));
        }
        if others == 0 {
            // The server serves no connection now. It may accept more of them after the wait.
            pool.max = pool.max.saturating_mul(2).min(pool.desired);
        }
        Ok((!self.tries.allows_retry(&error, self.shared.received())).then_some(error))
    }

    pub(super) fn snapshot(&self, connections: usize, trouble: Option<String>) -> Snapshot {
        let scheduler = self.shared.scheduler.lock();
        Snapshot {
            done: scheduler.done(),
            len: self.range.as_ref().map(|range| range.end - range.start),
            received: self.shared.received(),
            connections,
            cells: scheduler.cells(CELLS),
            trouble,
        }
    }
}

/// The workers of a download.
struct WorkerPool {
    workers: JoinSet<WorkerExit>,
    /// The mirror that each worker uses.
    mirror_of: HashMap<task::Id, usize>,
    /// Per mirror, whether it is still used.
    usable: Vec<bool>,
    /// Desired number of workers.
    desired: usize,
    /// Maximum number of workers; lower after a refusal.
    max: usize,
    /// Number of running workers at which a further one finds nothing to do.
    saturated_at: usize,
}

impl WorkerPool {
    fn new(limits: &FetchLimits, mirrors: usize) -> Self {
        let max = limits.per_file.min(limits.per_server.saturating_mul(mirrors)).max(1);
        let usable = vec![true; mirrors];
        Self {
            workers: JoinSet::new(),
            mirror_of: HashMap::new(),
            usable,
            desired: max,
            max,
            saturated_at: 0,
        }
    }

    fn spawn_first(&mut self, first: Option<FirstRun>) {
        if let Some(first) = first {
            let id = self.workers.spawn(run_first_worker(first)).id();
            self.mirror_of.insert(id, 0);
        }
    }

    /// The usable mirror with the fewest workers, if it may have one more.
    fn free_mirror(&self, per_server: usize) -> Option<usize> {
        let busy = |mirror: &usize| self.mirror_of.values().filter(|used| *used == mirror).count();
        let usable = (0..self.usable.len()).filter(|mirror| self.usable[*mirror]);
        usable.min_by_key(busy).filter(|mirror| busy(mirror) < per_server.max(1))
    }

    /// Stops using a mirror. Returns whether other mirrors remain.
    fn exclude_mirror(&mut self, mirror: usize) -> bool {
        self.usable[mirror] = false;
        self.usable.iter().any(|usable| *usable)
    }
}

/// Checkpoints of the target, one at a time, in parallel with the download.
struct Checkpoints {
    target: Arc<dyn Target>,
    running: JoinSet<Result<()>>,
    last: Instant,
}

impl Checkpoints {
    fn new(target: Arc<dyn Target>) -> Self {
        Self { target, running: JoinSet::new(), last: Instant::now() }
    }

    fn start_if_due(&mut self) {
        if self.running.is_empty() && self.last.elapsed() >= CHECKPOINT_INTERVAL {
            self.last = Instant::now();
            let target = Arc::clone(&self.target);
            self.running.spawn(async move { target.checkpoint().await });
        }
    }

    async fn wait_until_idle(&mut self) {
        while self.running.join_next().await.is_some() {}
    }

    /// Waits for the running checkpoint. Pending while there is none.
    async fn next_result(&mut self) -> Result<()> {
        match self.running.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(e)) => Err(Error::new(Kind::Internal, "a checkpoint panicked").because(e)),
            None => std::future::pending().await,
        }
    }
}

/// Consecutive failures, and the wait until the next try.
#[derive(Debug)]
pub(super) struct Tries {
    max: u32,
    failed: u32,
    /// Bytes received at the last failure. Any bytes received since then reset the count.
    received: u64,
    backoff: Backoff,
    not_before: Instant,
    trouble: Option<String>,
}

impl Tries {
    pub(super) fn new(max: u32) -> Self {
        Self {
            max: max.max(1),
            failed: 0,
            received: 0,
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
            not_before: Instant::now(),
            trouble: None,
        }
    }

    /// Whether to retry after `error`. If so, the next try must wait.
    pub(super) fn allows_retry(&mut self, error: &Error, received: u64) -> bool {
        if received > self.received {
            self.failed = 0;
            self.backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        }
        self.received = self.received.max(received);
        self.failed += 1;
        let server_wait = error.requested_wait().unwrap_or(Duration::ZERO);
        if self.failed >= self.max || server_wait > MAX_SERVER_WAIT {
            return false;
        }
        self.not_before = Instant::now() + self.backoff.next_wait().max(server_wait);
        self.trouble = Some(error.report());
        let wait = self.not_before.saturating_duration_since(Instant::now());
        let (text, wait) = (error.report(), wait.as_secs_f64());
        tracing::info!("{text}; try {} of {} failed, next in {wait:.1} s", self.failed, self.max);
        true
    }

    pub(super) fn is_waiting(&self) -> bool {
        Instant::now() < self.not_before
    }

    pub(super) async fn wait(&self) {
        tokio::time::sleep_until(self.not_before).await;
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.clone().filter(|_| self.is_waiting())
    }
}

#[cfg(test)]
#[path = "file_download_tests.rs"]
mod tests;
