//! Long gets: whoever reads a lot in order has it by few requests, each read as far as there is room for it.
//!
//! Runs that are fetched ahead are as long as what may be held at once, and a request for each is most of what cheap
//! storage costs. So when some runs have followed each other, the next asks for more than itself, as much as was read in
//! order so far, and the runs after it are the rest of the same answer. It is read no faster than runs are asked for, so
//! it holds no memory of its own but what its connection has in buffers.
//!
//! A long get is a convenience: it is given up when it breaks, stalls, or nobody wants more of it, and whoever waited for
//! its bytes gets them as if there had been none. Where several short gets at once are faster, those are made ([`Pace`]).

use std::{
    collections::VecDeque,
    future::Future,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{
    cache::LONGEST,
    fetch::{Fetched, fetch},
    import::{ImportStore, Source},
    pace::Pace,
};
use crate::{
    backends::{Body, Key, Payload, StorageBackend},
    error::{Error, Kind, Result},
    units::MIB,
};

/// Readers in order that are told apart; the one that moved least recently is forgotten first.
const RUNS: usize = 4;
/// The most that one request asks for: what is given up half-way has been sent in part.
const MOST: u64 = 64 * MIB;
/// What is read in order before a long get is worth its risk: of one that is given up, some MiB are under way.
const SURE: u64 = 32 * MIB;
/// The next get begins while the last still has this to bring.
const SOON: u64 = 16 * MIB;
/// What is read and thrown away rather than to give a long get up for it.
const SKIP: u64 = 4 * MIB;
/// How long the next part may take to come. A plain get is asked a second time when it is late; this only ends.
const STALL: Duration = Duration::from_secs(3);
/// Whoever comes for the next run later than this is too slow: a server may hang up on them, and what it has sent by then
/// was sent in vain.
const QUICK: Duration = Duration::from_secs(4);
/// How long the connection is held for somebody who does not go on.
const IDLE: Duration = Duration::from_secs(20);

/// The long gets of one import.
#[derive(Debug, Default)]
pub(super) struct LongGets {
    /// The one that moved last at the back.
    runs: VecDeque<Run>,
    pace: Pace,
}

/// Somebody who has all fetched in order.
#[derive(Debug, Default)]
struct Run {
    next: u64,
    in_order: u64,
    asked: Option<Instant>,
    /// What follows, in order and without gaps.
    open: VecDeque<Open>,
}

/// A long get that is under way: it has the bytes up to `end`, and hands them out in order.
#[derive(Debug)]
struct Open {
    end: u64,
    jobs: mpsc::UnboundedSender<Job>,
}

#[derive(Debug)]
enum Job {
    Bring { len: usize, done: oneshot::Sender<Bytes> },
    Skip(usize),
}

/// Bytes that long gets will bring, from the start of a range and one after the other, if it goes well.
#[derive(Debug, Default)]
pub(super) struct Coming(Vec<Part>);

#[derive(Debug)]
struct Part {
    end: u64,
    bytes: oneshot::Receiver<Bytes>,
}

impl Coming {
    pub(super) fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of `range`, fetched where no long get brings them.
    pub(super) async fn or_fetch(self, store: &ImportStore, range: Range<u64>) -> Result<Fetched> {
        let Some(last) = self.0.last() else { return fetch(store, range).await };
        let end = last.end;
        let (came, rest) = tokio::join!(self.came(range.start), rest(store, end..range.end));
        let (at, mut payload) = came;
        if at < end {
            payload.push(fetch(store, at..end).await?.bytes);
        }
        rest?.into_iter().for_each(|rest| payload.push(rest));
        Ok(Fetched { bytes: payload.joined(), from_place: true })
    }

    /// What came of it from `at` on, and up to where.
    async fn came(self, mut at: u64) -> (u64, Payload) {
        let mut payload = Payload::default();
        for part in self.0 {
            let Ok(bytes) = part.bytes.await else { break };
            at = part.end;
            payload.push(bytes);
        }
        (at, payload)
    }
}

async fn rest(store: &ImportStore, range: Range<u64>) -> Result<Option<Bytes>> {
    if range.is_empty() { Ok(None) } else { Ok(Some(fetch(store, range).await?.bytes)) }
}

impl LongGets {
    /// Notes that `range` is fetched ahead now, and answers what of it long gets will bring: those under way, and new ones
    /// where they are worth it. `slots` limits how many are open. Inside a runtime.
    pub(super) fn ask(
        &mut self,
        range: &Range<u64>,
        store: &ImportStore,
        slots: &Arc<Semaphore>,
        now: Instant,
    ) -> Coming {
        let mut run = self.run_before(range.start);
        // How fast it went before long gets began says nothing of them.
        let is_long = run.is_quick(now)
            && (run.in_order < 2 * SURE || self.pace.is_long(range.end - range.start, now));
        let coming = match is_long {
            true => run.ask(range, store, slots),
            false => Coming::default(),
        };
        run.pass(range, now);
        self.runs.push_back(run);
        coming
    }

    /// The run that goes on at `start`, else a new one. Others that would are behind it, and nobody's.
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
    /// Some of what lies between may have been fetched for somebody else.
    fn is_continued_at(&self, start: u64) -> bool {
        (self.next..=self.next + LONGEST).contains(&start)
    }

    fn is_quick(&self, now: Instant) -> bool {
        self.asked.is_some_and(|asked| now.duration_since(asked) < QUICK)
    }

    /// Goes on to the end of `range`. What is open is given up where it does not begin there.
    fn pass(&mut self, range: &Range<u64>, now: Instant) {
        self.asked = Some(now);
        self.jump(range.end);
        self.in_order += range.end - range.start;
    }

    fn ask(&mut self, range: &Range<u64>, store: &ImportStore, slots: &Arc<Semaphore>) -> Coming {
        self.go_to(range.start);
        let most = self.in_order.min(MOST);
        let mut coming = Coming::default();
        while self.next < range.end {
            if self.open.is_empty() && self.in_order >= SURE {
                self.open.extend(begin(self.next..range.end, most, store, slots));
            }
            let Some(part) = self.take(range.end) else { break };
            coming.0.push(part);
        }
        // The next is on its way while this one is read to its end.
        let end = self.open.back().map_or(self.next, |last| last.end);
        if self.in_order >= 2 * SURE && self.open.len() < 2 && end - self.next <= SOON {
            self.open.extend(begin(end..end + LONGEST, most, store, slots));
        }
        coming
    }

    /// Over what is fetched already to `start`.
    fn go_to(&mut self, start: u64) {
        let near = (self.next..=self.next + SKIP).contains(&start);
        while near && self.next < start && self.tell(start, Job::Skip).is_some() {}
        self.jump(start);
    }

    /// What is open goes on from here, and nowhere else.
    fn jump(&mut self, to: u64) {
        if self.next != to {
            self.next = to;
            self.open.clear();
        }
    }

    /// What the open get has from here to `end`.
    fn take(&mut self, end: u64) -> Option<Part> {
        let (done, bytes) = oneshot::channel();
        let end = self.tell(end, |len| Job::Bring { len, done })?;
        Some(Part { end, bytes })
    }

    /// Has the open get do a job from here to `end`, or as far as it goes: up to where, if there is one.
    fn tell(&mut self, end: u64, job: impl FnOnce(usize) -> Job) -> Option<u64> {
        let open = self.open.front()?;
        let end = end.min(open.end);
        let len = usize::try_from(end - self.next).ok()?;
        if open.jobs.send(job(len)).is_err() {
            // It broke: before the next one there are plain gets for a while.
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

/// Begins a get of up to `most` bytes from where `range` begins; `None` where the object has no more than that.
fn begin(
    range: Range<u64>,
    most: u64,
    store: &ImportStore,
    slots: &Arc<Semaphore>,
) -> Option<Open> {
    let end = range.start.saturating_add(most).min(store.layout().len());
    let first = store.locate(range.start..end).into_iter().next();
    let Some(Source::Object(object, part)) = first else { return None };
    let end = range.start + (part.end - part.start);
    if end <= range.end {
        return None;
    }
    let slot = Arc::clone(slots).try_acquire_owned().ok()?;
    let (jobs, queue) = mpsc::unbounded_channel();
    tokio::spawn(serve(Arc::clone(store.backend()), object.key, part, queue, slot));
    Some(Open { end, jobs })
}

/// Reads the object's bytes as they are asked for, until nobody asks or something is wrong.
async fn serve(
    backend: Arc<dyn StorageBackend>,
    key: Key,
    range: Range<u64>,
    mut queue: mpsc::UnboundedReceiver<Job>,
    _slot: OwnedSemaphorePermit,
) {
    tracing::trace!(%key, ?range, "a long get");
    let reading = async {
        let body = in_time(backend.open(&key, range)).await?;
        let mut answer = Answer { body, over: Bytes::new() };
        while let Ok(Some(job)) = timeout(IDLE, queue.recv()).await {
            match job {
                Job::Skip(len) => drop(answer.take(len).await?),
                Job::Bring { len, mut done } => {
                    let bytes = tokio::select! {
                        bytes = answer.take(len) => bytes?,
                        () = done.closed() => break,
                    };
                    if done.send(bytes).is_err() {
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

/// A body, and what came of it that was not asked for yet.
struct Answer {
    body: Body,
    over: Bytes,
}

impl Answer {
    /// The next `len` bytes.
    async fn take(&mut self, len: usize) -> Result<Bytes> {
        let mut bytes = BytesMut::with_capacity(len);
        while bytes.len() < len {
            if self.over.is_empty() {
                let ended = || Error::new(Kind::Corrupt, "it ended early");
                let next = async { self.body.next().await.unwrap_or_else(|| Err(ended())) };
                self.over = in_time(next).await?;
            }
            let more = self.over.split_to(self.over.len().min(len - bytes.len()));
            bytes.extend_from_slice(&more);
        }
        Ok(bytes.freeze())
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::new(Kind::Network, format!("nothing came for {STALL:?}"));
    timeout(STALL, work).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backends::Reads, storage::tests::Rig};

    /// Runs of 8 MiB of an object of 128 MiB, one each `pause`; how many came by long gets.
    async fn long_runs(rig: &Rig, mut gets: LongGets, pause: Duration) -> usize {
        let mut now = Instant::now();
        let slots = Arc::new(Semaphore::new(2));
        let mut long = 0;
        for n in 0..16 {
            let range = n * LONGEST..(n + 1) * LONGEST;
            let coming = gets.ask(&range, &rig.store, &slots, now);
            long += usize::from(!coming.is_nothing());
            coming.or_fetch(&rig.store, range).await.unwrap();
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
