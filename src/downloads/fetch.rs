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
    holes::{Cell, Cut, Holes},
    source::Source,
    target::Target,
    worker::{Ended, FirstRun, Run, work, work_on},
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
pub(super) const TICK: Duration = Duration::from_millis(250);
/// Interval between checkpoints, which make the received bytes survive a crash.
const CHECKPOINT: Duration = Duration::from_secs(1);
/// Longest delay requested by a server that is waited for. A longer one ends the download.
const PATIENCE: Duration = Duration::from_secs(600);
/// Upper bounds of the first backoff wait after a failure, and of all waits.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Number of cells in a snapshot.
pub(super) const CELLS: u64 = 32;

/// Limits on connections, splitting and retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Maximum connections to one server (at least 1).
    pub per_server: usize,
    /// Maximum connections for one file, over all its mirrors (at least 1).
    pub split: usize,
    /// A run is split only if both halves have at least this many bytes.
    pub min_split: u64,
    /// Consecutive failures, without a byte received between them, before the download is given up (at least 1).
    pub max_tries: u32,
    pub cut: Cut,
}

impl Default for Effort {
    /// Four connections: enough where a server throttles each connection, few enough where it limits their number.
    fn default() -> Self {
        Self { per_server: 4, split: usize::MAX, min_split: MIB, max_tries: 5, cut: Cut::Even }
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
pub struct Fetched {
    /// Length of the file, or of the wanted part of it.
    pub len: u64,
    /// Bytes received in this run, including discarded bytes.
    pub received: u64,
}

/// State shared by all workers of a file.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) source: Source,
    pub(super) target: Arc<dyn Target>,
    pub(super) holes: Mutex<Holes>,
    /// The response to the first request is still being read.
    pub(super) first_open: AtomicBool,
    limits: Vec<Arc<RateLimit>>,
    received: AtomicU64,
}

impl Shared {
    /// Counts received bytes, and waits as the rate limits require.
    pub(super) async fn arrived(&self, len: u64) {
        self.received.fetch_add(len, Ordering::Relaxed);
        for limit in &self.limits {
            limit.pass(len).await;
        }
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// A download of one file.
pub struct Fetch {
    pub(super) shared: Arc<Shared>,
    pub(super) effort: Effort,
    /// The wanted range. `None` when not even the length is known: everything is read.
    pub(super) range: Option<Range<u64>>,
    /// The caller chose the range; otherwise it is the whole file.
    pub(super) part: bool,
    pub(super) sink: SnapshotSink,
    pub(super) tries: Tries,
}

impl std::fmt::Debug for Fetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetch").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Fetch {
    /// `range` is the wanted part of the file, `None` for all of it. `have` is what the target already has of that.
    #[must_use]
    pub fn new(
        source: Source,
        target: Arc<dyn Target>,
        range: Option<Range<u64>>,
        have: &RangeSet,
        effort: Effort,
        limits: Vec<Arc<RateLimit>>,
        sink: SnapshotSink,
    ) -> Self {
        let part = range.is_some();
        let range = range.or_else(|| source.len().map(|len| 0..len));
        let holes = Holes::new(range.clone().unwrap_or(0..0), have, effort.min_split, effort.cut);
        let (holes, received) = (Mutex::new(holes), AtomicU64::new(0));
        let first_open = AtomicBool::new(false);
        let shared = Arc::new(Shared { source, target, holes, first_open, limits, received });
        let tries = Tries::new(effort.max_tries);
        Self { shared, effort, range, part, sink, tries }
    }

    /// Runs until every wanted byte is written to the target. After an error the target keeps what was written.
    ///
    /// # Errors
    /// `Cancelled`; `Changed` when the file is no longer the one that was probed; the server's last error when the
    /// download is given up; errors of the target.
    pub async fn run(mut self, cancel: &CancellationToken) -> Result<Fetched> {
        let first = self.shared.source.take_first();
        let done = match &self.range {
            Some(range) if self.shared.source.ranges() || range.is_empty() => {
                self.in_parts(first, cancel).await
            }
            _ => self.in_one_pass(first, cancel).await,
        };
        (self.sink)(self.snapshot(0, None));
        match done {
            Ok(len) => Ok(Fetched { len, received: self.shared.received() }),
            Err(error) => {
                if let Err(e) = self.shared.target.checkpoint().await {
                    tracing::debug!("what came last is not kept: {}", e.report());
                }
                Err(error)
            }
        }
    }

    async fn in_parts(
        &mut self,
        first: Option<ByteStream>,
        cancel: &CancellationToken,
    ) -> Result<u64> {
        let mut team = Team::new(&self.effort, self.shared.source.mirrors().len());
        let from_start = self.range.as_ref().is_some_and(|range| range.start == 0);
        if let Some(stream) = first.filter(|_| from_start) {
            team.begin(FirstRun::begin(&self.shared, stream, team.most));
        }
        let mut checkpoints = Checkpoints::new(Arc::clone(&self.shared.target));
        let done = self.rounds(&mut team, &mut checkpoints, cancel).await;
        team.workers.shutdown().await;
        // A running checkpoint must not write older state after this returns.
        checkpoints.settle().await;
        let Err(error) = done else { return done };
        let first = self.anew(error).await?;
        self.in_one_pass(first, cancel).await
    }

    /// Prepares to fetch the file in one pass after `error`, because its ranges cannot be fetched: the server sends
    /// only the whole file, or the file is another version and nothing of the earlier one is present. Returns the
    /// stream of that pass, if a request like the first returns it. The pass discards the bytes that are present, so
    /// the server is queried first, and must answer with the version that they are of.
    ///
    /// # Errors
    /// `Changed` when the server answers with another version; `error` when one pass is no remedy.
    async fn anew(&self, error: Error) -> Result<Option<ByteStream>> {
        let kept = self.shared.holes.lock().done() > 0;
        let is_worth = match error.kind() {
            Kind::Unsupported => true,
            Kind::Changed => !kept,
            _ => false,
        };
        if !is_worth || !self.whole_file() {
            return Err(error);
        }
        let mirror = &self.shared.source.mirrors()[0];
        match mirror.begin_again(kept).await {
            Ok(Some(first)) => return Ok(Some(first)),
            Ok(None) => {}
            Err(e) if e.kind() == Kind::Changed => return Err(e),
            Err(_) => return Err(error),
        }
        match mirror.find_again().await {
            Ok(()) if !mirror.remote().ranges => Ok(None),
            _ => Err(error),
        }
    }

    async fn rounds(
        &mut self,
        team: &mut Team,
        checkpoints: &mut Checkpoints,
        cancel: &CancellationToken,
    ) -> Result<u64> {
        let mut tick = tokio::time::interval(TICK);
        loop {
            let (complete, done) = {
                let holes = self.shared.holes.lock();
                (holes.is_complete(), holes.done())
            };
            if complete {
                return Ok(done);
            }
            self.employ(team);
            tokio::select! {
                () = cancel.cancelled() => return Err(Error::new(Kind::Cancelled, "stopped")),
                Some(ended) = team.workers.join_next_with_id() => {
                    if let Some(error) = self.ended(team, ended).await? {
                        return Err(error);
                    }
                }
                done = checkpoints.ended() => done?,
                _ = tick.tick() => {
                    checkpoints.begin_when_due();
                    (self.sink)(self.snapshot(team.workers.len(), self.tries.trouble()));
                }
            }
        }
    }

    fn whole_file(&self) -> bool {
        self.range.as_ref().is_some_and(|r| r.start == 0 && Some(r.end) == self.shared.source.len())
    }

    /// Starts as many workers as the limits allow and the work requires.
    fn employ(&self, team: &mut Team) {
        if self.tries.waits() {
            return;
        }
        while team.workers.len() < team.most {
            let Some(mirror) = team.free_mirror(self.effort.per_server) else { return };
            let idle = team.most - team.workers.len();
            if team.content >= team.workers.len() && team.content > 0 {
                return;
            }
            // Runs are taken here and in order. Workers start in any order, and would split the work by an outdated
            // number of idle workers.
            let Some(run) = Run::begin(&self.shared, idle) else {
                // The rest is too small to share: no further worker is needed until one of the running ones ends.
                team.content = team.workers.len();
                return;
            };
            let id = team.workers.spawn(work(run, mirror)).id();
            team.at.insert(id, mirror);
        }
    }

    /// Handles the end of a worker. `Some` when it ends the download.
    async fn ended(
        &mut self,
        team: &mut Team,
        ended: Result<(task::Id, Ended), task::JoinError>,
    ) -> Result<Option<Error>> {
        let (id, ended) = match ended {
            Ok(ended) => ended,
            Err(e) => {
                (e.id(), Ended::Broke(Error::new(Kind::Internal, "a worker failed").because(e)))
            }
        };
        let mirror = team.at.remove(&id).unwrap_or(0);
        let (error, refused) = match ended {
            Ended::Idle => {
                // As in `employ`: no further worker is needed now.
                team.content = team.workers.len();
                return Ok(None);
            }
            Ended::Target(error) => return Ok(Some(error)),
            Ended::Refused(error) => (error, true),
            Ended::Broke(error) => (error, false),
        };
        team.content = 0;
        let others = team.workers.len();
        let crowded = matches!(
            error.kind(),
            Kind::RateLimited | Kind::Unavailable | Kind::Network | Kind::PermissionDenied
        );
        let covered = mirror == 0 && self.shared.first_open.load(Ordering::Relaxed);
        if refused && others > 0 && (crowded || covered) {
            // The server still serves the other connections, so this one was one too many. The first response carries
            // the whole file, whatever the server answers to later requests.
            tracing::debug!("{}; going on with {others} connections", error.report());
            team.most = others;
            return Ok(None);
        }
        if !error.kind().is_retryable() {
            let source = &self.shared.source;
            if refused
                && source.mirrors()[mirror].may_have_moved(&error)
                && self.tries.again(&error, 0)
            {
                return Ok(source.mirrors()[mirror].find_again().await.err());
            }
            if team.leave_out(mirror) {
                tracing::warn!("{}; going on without that mirror", error.report());
                return Ok(None);
            }
            return Ok(Some(error));
        }
        if others == 0 {
            // The server serves no connection now. It may accept more of them after the wait.
            team.most = team.most.saturating_mul(2).min(team.wanted);
        }
        Ok((!self.tries.again(&error, self.shared.received())).then_some(error))
    }

    pub(super) fn snapshot(&self, connections: usize, trouble: Option<String>) -> Snapshot {
        let holes = self.shared.holes.lock();
        Snapshot {
            done: holes.done(),
            len: self.range.as_ref().map(|range| range.end - range.start),
            received: self.shared.received(),
            connections,
            cells: holes.cells(CELLS),
            trouble,
        }
    }
}

/// The workers of a download.
struct Team {
    workers: JoinSet<Ended>,
    /// The mirror that each worker uses.
    at: HashMap<task::Id, usize>,
    /// Per mirror, whether it is still used.
    good: Vec<bool>,
    /// Desired number of workers.
    wanted: usize,
    /// Maximum number of workers; lower after a refusal.
    most: usize,
    /// Number of running workers at which a further one finds nothing to do.
    content: usize,
}

impl Team {
    fn new(effort: &Effort, mirrors: usize) -> Self {
        let most = effort.split.min(effort.per_server.saturating_mul(mirrors)).max(1);
        let good = vec![true; mirrors];
        Self { workers: JoinSet::new(), at: HashMap::new(), good, wanted: most, most, content: 0 }
    }

    fn begin(&mut self, first: Option<FirstRun>) {
        if let Some(first) = first {
            let id = self.workers.spawn(work_on(first)).id();
            self.at.insert(id, 0);
        }
    }

    /// The usable mirror with the fewest workers, if it may have one more.
    fn free_mirror(&self, per_server: usize) -> Option<usize> {
        let busy = |mirror: &usize| self.at.values().filter(|at| *at == mirror).count();
        let good = (0..self.good.len()).filter(|mirror| self.good[*mirror]);
        good.min_by_key(busy).filter(|mirror| busy(mirror) < per_server.max(1))
    }

    /// Stops using a mirror. Returns whether other mirrors remain.
    fn leave_out(&mut self, mirror: usize) -> bool {
        self.good[mirror] = false;
        self.good.iter().any(|good| *good)
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

    fn begin_when_due(&mut self) {
        if self.running.is_empty() && self.last.elapsed() >= CHECKPOINT {
            self.last = Instant::now();
            let target = Arc::clone(&self.target);
            self.running.spawn(async move { target.checkpoint().await });
        }
    }

    async fn settle(&mut self) {
        while self.running.join_next().await.is_some() {}
    }

    /// Waits for the running checkpoint. Pending while there is none.
    async fn ended(&mut self) -> Result<()> {
        match self.running.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(e)) => Err(Error::new(Kind::Internal, "a checkpoint failed").because(e)),
            None => std::future::pending().await,
        }
    }
}

/// Consecutive failures, and the wait until the next try.
#[derive(Debug)]
pub(super) struct Tries {
    most: u32,
    failed: u32,
    /// Bytes received at the last failure. Any bytes received since then reset the count.
    received: u64,
    backoff: Backoff,
    not_before: Instant,
    trouble: Option<String>,
}

impl Tries {
    pub(super) fn new(most: u32) -> Self {
        Self {
            most: most.max(1),
            failed: 0,
            received: 0,
            backoff: Backoff::new(RETRY.0, RETRY.1),
            not_before: Instant::now(),
            trouble: None,
        }
    }

    /// Whether to retry after `error`. If so, the next try must wait.
    pub(super) fn again(&mut self, error: &Error, received: u64) -> bool {
        if received > self.received {
            self.failed = 0;
            self.backoff = Backoff::new(RETRY.0, RETRY.1);
        }
        self.received = self.received.max(received);
        self.failed += 1;
        let asked = error.wait_asked().unwrap_or(Duration::ZERO);
        if self.failed >= self.most || asked > PATIENCE {
            return false;
        }
        self.not_before = Instant::now() + self.backoff.next_wait().max(asked);
        self.trouble = Some(error.report());
        let wait = self.not_before.saturating_duration_since(Instant::now());
        let (failed, most) = (self.failed, self.most);
        let text = error.report();
        tracing::info!("{text}; try {failed} of {most}, again in {:.1} s", wait.as_secs_f64());
        true
    }

    pub(super) fn waits(&self) -> bool {
        Instant::now() < self.not_before
    }

    pub(super) async fn wait(&self) {
        tokio::time::sleep_until(self.not_before).await;
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.clone().filter(|_| self.waits())
    }
}
