//! Long GETs: a sequential reader is served by few requests, each read as far as there is budget for its bytes.
//!
//! A prefetch run is as long as what may be held in memory at once. On cheap storage, one request per run is most of
//! the cost. So after some runs in order, the next request covers more than its own run: as much as was read in order
//! so far, up to 64 MiB. The runs after it are read from the same response. The response is read only as fast as runs
//! are requested, so a long GET holds no memory except the buffers of its connection.
//!
//! A long GET is an optimisation. It is dropped when it breaks, stalls, or is not used any more, and the reader fetches
//! the missing bytes with plain GETs. Where several short GETs at once are faster, those are used instead ([`Pace`]).

use std::{
    collections::VecDeque,
    future::Future,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{
    blocks::{Blocks, Cut, Filling},
    cache::LONGEST,
    fetch::{Fetched, fetch},
    import::{ImportStore, Source},
    pace::Pace,
};
use crate::{
    backends::{Body, Key, StorageBackend},
    error::{Error, Kind, Result},
    units::MIB,
};

/// The number of sequential readers that are tracked. The least recently used one is forgotten first.
const RUNS: usize = 4;
/// The longest range of one request: a request that is dropped half-way has still sent a part of its bytes.
const MOST: u64 = 64 * MIB;
/// Bytes read in order before a long GET is worth its risk: a dropped one wastes some MiB in flight.
const SURE: u64 = 32 * MIB;
/// The next GET is opened when this many bytes of the open ones are left: more than a fast line transfers during the
/// latency of a distant storage.
const SOON: u64 = 24 * MIB;
/// The number of open GETs per reader, where objects are short.
const OPEN: usize = 6;
/// The shortest object that gets a long GET: shorter ones arrive faster by several plain GETs at once.
const LEAST: u64 = MIB;
/// The longest gap that is read and discarded to keep a long GET.
const SKIP: u64 = 4 * MIB;
/// The longest wait for the next bytes. A late plain GET is hedged with a second one; a late long GET ends.
const STALL: Duration = Duration::from_secs(3);
/// A reader that requests its next run later than this is too slow: the server may close the connection, and the bytes
/// already sent would be wasted.
const QUICK: Duration = Duration::from_secs(4);
/// How long a connection is kept open for a reader that requests nothing.
const IDLE: Duration = Duration::from_secs(20);

/// The long GETs of one import.
#[derive(Debug, Default)]
pub(super) struct LongGets {
    /// Least recently used first.
    runs: VecDeque<Run>,
    pace: Pace,
}

/// A sequential reader.
#[derive(Debug, Default)]
struct Run {
    next: u64,
    in_order: u64,
    asked: Option<Instant>,
    /// The open GETs after `next`, in order and without gaps.
    open: VecDeque<Open>,
}

/// An open long GET. It delivers the bytes up to `end`, in order.
#[derive(Debug)]
struct Open {
    end: u64,
    jobs: mpsc::UnboundedSender<Job>,
}

#[derive(Debug)]
enum Job {
    Bring { to: Filling, len: u64, done: oneshot::Sender<Blocks> },
    Skip(u64),
}

/// What long GETs need: the import, the way to cut its bytes into blocks, and the permits for open GETs.
pub(super) struct Access<'a> {
    pub(super) store: &'a ImportStore,
    pub(super) cut: &'a Cut,
    pub(super) slots: &'a Arc<Semaphore>,
}

/// Bytes that long GETs will deliver: consecutive parts from the start of a range. Each part may fail.
#[derive(Debug, Default)]
pub(super) struct Coming(Vec<Part>);

#[derive(Debug)]
struct Part {
    end: u64,
    bytes: oneshot::Receiver<Blocks>,
}

impl Coming {
    pub(super) fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of `range`. What the long GETs do not deliver is fetched.
    pub(super) async fn or_fetch(
        self,
        store: &ImportStore,
        range: Range<u64>,
        cut: &Cut,
    ) -> Result<Fetched> {
        let Some(last) = self.0.last() else { return fetch(store, range, cut).await };
        let end = last.end;
        let rest = async {
            match end < range.end {
                true => Ok::<_, Error>(Some(fetch(store, end..range.end, cut).await?.bytes)),
                false => Ok(None),
            }
        };
        let (mut came, rest) = tokio::join!(self.came(), rest);
        let at: u64 = range.start + came.iter().map(|part| part.len() as u64).sum::<u64>();
        if at < end {
            came.push(fetch(store, at..end, cut).await?.bytes);
        }
        came.extend(rest?);
        if let [one] = &came[..] {
            return Ok(Fetched { bytes: one.clone(), from_place: true });
        }
        let mut filling = cut.from(range.start);
        came.iter().flat_map(Blocks::parts).for_each(|part| filling.take(part.clone()));
        Ok(Fetched { bytes: filling.finish(), from_place: true })
    }

    /// The parts that arrived before the first failure.
    async fn came(self) -> Vec<Blocks> {
        let mut came = Vec::with_capacity(self.0.len() + 2);
        for part in self.0 {
            let Ok(bytes) = part.bytes.await else { break };
            came.push(bytes);
        }
        came
    }
}

impl LongGets {
    /// Records that `range` is prefetched now. Returns the parts of it that long GETs will deliver: those open, and new
    /// ones where they are worth it. To be called inside a runtime.
    pub(super) fn ask(&mut self, range: &Range<u64>, from: &Access<'_>, now: Instant) -> Coming {
        let mut run = self.run_before(range.start);
        // Rates from before the first long GET say nothing about long GETs.
        let is_long = run.is_quick(now)
            && (run.in_order < 2 * SURE || self.pace.is_long(range.end - range.start, now));
        let coming = match is_long {
            true => run.ask(range, from),
            false => Coming::default(),
        };
        run.pass(range, now);
        self.runs.push_back(run);
        coming
    }

    /// Removes and returns the run that continues at `start`, else a new run. Drops older runs overtaken by it.
    fn run_before(&mut self, start: u64) -> Run {
        let runs = self.runs.iter().enumerate();
        let near = runs.filter(|(_, run)| run.is_continued_at(start));
        let nearest = near.max_by_key(|(_, run)| run.next).map(|(n, _)| n);
        let found = nearest.and_then(|n| self.runs.remove(n)).unwrap_or_default();
        self.runs.retain(|run| !run.is_continued_at(start));
        if self.runs.len() == RUNS {
            self.runs.pop_front();
        }
        found
    }
}

impl Run {
    /// The bytes in between may have been fetched for another reader.
    fn is_continued_at(&self, start: u64) -> bool {
        (self.next..=self.next + LONGEST).contains(&start)
    }

    fn is_quick(&self, now: Instant) -> bool {
        self.asked.is_some_and(|asked| now.duration_since(asked) < QUICK)
    }

    /// Advances to the end of `range`. Open GETs that do not begin there are dropped.
    fn pass(&mut self, range: &Range<u64>, now: Instant) {
        self.asked = Some(now);
        self.jump(range.end);
        self.in_order += range.end - range.start;
    }

    fn ask(&mut self, range: &Range<u64>, from: &Access<'_>) -> Coming {
        self.go_to(range.start);
        if self.in_order >= SURE {
            self.open_to(range.end, from);
        }
        let mut coming = Coming::default();
        while self.next < range.end {
            let Some(part) = self.take(range.end, from.cut) else { break };
            coming.0.push(part);
        }
        // The next GET is on its way while this one is read to its end.
        if self.in_order >= 2 * SURE && self.next == range.end {
            self.open_to(range.end + SOON, from);
        }
        coming
    }

    /// Opens GETs, one per object, until the open ones reach `end`.
    fn open_to(&mut self, end: u64, from: &Access<'_>) {
        let mut at = self.open.back().map_or(self.next, |last| last.end);
        while at < end && self.open.len() < OPEN {
            let Some(open) = begin(at, self.in_order.min(MOST), from) else { break };
            at = open.end;
            self.open.push_back(open);
        }
    }

    /// Moves to `start`, over bytes that were fetched before.
    fn go_to(&mut self, start: u64) {
        let near = (self.next..=self.next + SKIP).contains(&start);
        while near && self.next < start && self.tell(start, Job::Skip).is_some() {}
        self.jump(start);
    }

    /// Open GETs continue at `next` only; any other position drops them.
    fn jump(&mut self, to: u64) {
        if self.next != to {
            self.next = to;
            self.open.clear();
        }
    }

    /// Requests the bytes from `next` to `end` from the first open GET, as far as it reaches.
    fn take(&mut self, end: u64, cut: &Cut) -> Option<Part> {
        let (done, bytes) = oneshot::channel();
        let to = cut.from(self.next);
        let end = self.tell(end, |len| Job::Bring { to, len, done })?;
        Some(Part { end, bytes })
    }

    /// Gives the first open GET a job from `next` to `end`, or to its own end. Returns where the job ends, or `None`
    /// without an open GET.
    fn tell(&mut self, end: u64, job: impl FnOnce(u64) -> Job) -> Option<u64> {
        let open = self.open.front()?;
        let end = end.min(open.end);
        if open.jobs.send(job(end - self.next)).is_err() {
            // The GET broke: plain GETs are used until enough was read in order again.
            self.open.clear();
            self.in_order = 0;
            return None;
        }
        self.next = end;
        if end == open.end {
            self.open.pop_front();
        }
        Some(end)
    }
}

/// Opens a GET of up to `most` bytes from `start`, within one object. `None` where the object has too little left, the
/// bytes are in no object, or there is no permit.
fn begin(start: u64, most: u64, from: &Access<'_>) -> Option<Open> {
    let end = start.saturating_add(most).min(from.store.layout().len());
    let first = from.store.locate(start..end).into_iter().next();
    let Some(Source::Object(object, part)) = first else { return None };
    let is_rest = part.end == object.len && object.len >= LEAST;
    if !is_rest && part.end - part.start < LEAST {
        return None;
    }
    let end = start + (part.end - part.start);
    let slot = Arc::clone(from.slots).try_acquire_owned().ok()?;
    let (jobs, queue) = mpsc::unbounded_channel();
    tokio::spawn(serve(Arc::clone(from.store.backend()), object.key, part, queue, slot));
    Some(Open { end, jobs })
}

/// Reads the object as its bytes are requested, until requests stop or an error occurs.
async fn serve(
    backend: Arc<dyn StorageBackend>,
    key: Key,
    range: Range<u64>,
    mut queue: mpsc::UnboundedReceiver<Job>,
    _slot: OwnedSemaphorePermit,
) {
    tracing::debug!(%key, ?range, "a long get");
    let reading = async {
        let body = in_time(backend.open(&key, range)).await?;
        let mut answer = Answer { body, over: Bytes::new() };
        while let Ok(Some(job)) = timeout(IDLE, queue.recv()).await {
            match job {
                Job::Skip(len) => answer.take(len, |_| ()).await?,
                Job::Bring { mut to, len, mut done } => {
                    tokio::select! {
                        came = answer.take(len, |bytes| to.write(bytes)) => came?,
                        () = done.closed() => break,
                    }
                    if done.send(to.finish()).is_err() {
                        break;
                    }
                }
            }
        }
        Ok::<_, Error>(())
    };
    if let Err(e) = reading.await {
        tracing::debug!("a long get of {key} is given up: {}", e.report());
    }
}

/// A response body, and the received bytes that were not requested yet.
struct Answer {
    body: Body,
    over: Bytes,
}

impl Answer {
    /// Passes the next `len` bytes to `to`.
    async fn take(&mut self, mut len: u64, mut to: impl FnMut(&[u8])) -> Result<()> {
        while len > 0 {
            if self.over.is_empty() {
                let ended = || Error::new(Kind::Corrupt, "it ended early");
                let next = async { self.body.next().await.unwrap_or_else(|| Err(ended())) };
                self.over = in_time(next).await?;
            }
            let more = usize::try_from(len).unwrap_or(usize::MAX).min(self.over.len());
            to(&self.over[..more]);
            self.over.advance(more);
            len -= more as u64;
        }
        Ok(())
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::new(Kind::Network, format!("nothing came for {STALL:?}"));
    timeout(STALL, work).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backends::Reads, memory::BlockPool, storage::tests::Rig};

    /// Requests 16 runs of 8 MiB from an object of 128 MiB, one each `pause`. Returns how many used long GETs.
    async fn long_runs(rig: &Rig, mut gets: LongGets, pause: Duration) -> usize {
        let mut now = Instant::now();
        let slots = Arc::new(Semaphore::new(2));
        let cut = Cut { pool: BlockPool::new(8 << 20), unit: MIB };
        let mut long = 0;
        for n in 0..16 {
            let range = n * LONGEST..(n + 1) * LONGEST;
            let from = Access { store: &rig.store, cut: &cut, slots: &slots };
            let coming = gets.ask(&range, &from, now);
            long += usize::from(!coming.is_nothing());
            let came = coming.or_fetch(&rig.store, range, &cut).await.unwrap();
            assert_eq!(came.bytes.len() as u64, LONGEST);
            now += pause;
        }
        long
    }

    #[tokio::test]
    async fn who_comes_late_for_each_run_has_it_by_plain_gets() {
        let rig = Rig::new(&[128 << 20], 128 << 20, 256 << 20).await;
        rig.write(0..128 << 20);
        rig.writer.flush().await.unwrap();
        assert_eq!(long_runs(&rig, LongGets::default(), QUICK / 2).await, 12);
        rig.spent();
        assert_eq!(long_runs(&rig, LongGets::default(), QUICK).await, 0);
        assert_eq!(rig.spent(), Reads { gets: 16, bytes: 128 << 20 });
    }

    #[tokio::test]
    async fn somebody_elses_run_beside_it_takes_nothing_from_who_reads_in_order() {
        let rig = Rig::new(&[128 << 20], 128 << 20, 256 << 20).await;
        rig.write(0..128 << 20);
        rig.writer.flush().await.unwrap();
        let stray = |next| Run { next, in_order: MIB, ..Run::default() };
        let gets =
            LongGets { runs: [stray(12 * MIB), stray(37 * MIB)].into(), ..Default::default() };
        assert_eq!(long_runs(&rig, gets, QUICK / 2).await, 12);
        assert_eq!(rig.spent().bytes, 128 << 20);
    }
}
