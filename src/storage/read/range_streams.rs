//! Range streams: a sequential reader is served by few long GETs, each read as far as there is budget for its bytes.
//!
//! A prefetch run is as long as what may be held in memory at once. On cheap storage, one request per run is most of
//! the cost. So after some runs in order, the next request covers more than its own run: as much as was read in order
//! so far, up to 64 MiB. The runs after it are read from the same response. The response is read only as fast as runs
//! are requested, so a long GET holds no memory except the buffers of its connection.
//!
//! A long GET is an optimisation. It is dropped when it breaks, stalls, or is not used any more, and the reader fetches
//! the missing bytes with plain GETs. Where several short GETs at once are faster, those are used instead
//! ([`GetStrategy`]).

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
    blocks::{BlockCutter, BlockWriter, Blocks},
    cache::MAX_FETCH,
    fetch::{Fetched, fetch},
    get_strategy::GetStrategy,
};
use crate::{
    backends::{Body, Key, StorageBackend},
    error::{Error, Kind, Result},
    storage::map::import_store::{ByteSource, ImportStore},
    units::MIB,
};

/// The number of sequential readers that are tracked. The least recently used one is forgotten first.
const MAX_RUNS: usize = 4;
/// The longest range of one request: a request that is dropped half-way has still sent a part of its bytes.
const MAX_STREAM_LEN: u64 = 64 * MIB;
/// Bytes read in order before a long GET is worth its risk: a dropped one wastes some MiB in flight.
const MIN_IN_ORDER: u64 = 32 * MIB;
/// The next GET is opened when this many bytes of the open ones are left: more than a fast line transfers during the
/// latency of a distant storage.
const OPEN_AHEAD: u64 = 24 * MIB;
/// The number of open GETs per reader, where objects are short.
const MAX_OPEN: usize = 6;
/// The shortest object that gets a long GET: shorter ones arrive faster by several plain GETs at once.
const MIN_OBJECT_LEN: u64 = MIB;
/// The longest gap that is read and discarded to keep a long GET.
const MAX_SKIP: u64 = 4 * MIB;
/// The longest wait for the next bytes. A late plain GET is hedged with a second one; a late long GET ends.
const STALL_TIMEOUT: Duration = Duration::from_secs(3);
/// A reader that requests its next run later than this is too slow: the server may close the connection, and the bytes
/// already sent would be wasted.
const MAX_REQUEST_GAP: Duration = Duration::from_secs(4);
/// How long a connection is kept open for a reader that requests nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// The open range streams (long GETs) of one import.
#[derive(Debug, Default)]
pub(super) struct RangeStreams {
    /// Least recently used first.
    runs: VecDeque<SequentialRun>,
    strategy: GetStrategy,
}

/// A sequential reader.
#[derive(Debug, Default)]
struct SequentialRun {
    next: u64,
    in_order: u64,
    last_request: Option<Instant>,
    /// The open GETs after `next`, in order and without gaps.
    open: VecDeque<RangeStream>,
}

/// An open long GET. It delivers the bytes up to `end`, in order.
#[derive(Debug)]
struct RangeStream {
    end: u64,
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Debug)]
enum Command {
    Read { to: BlockWriter, len: u64, done: oneshot::Sender<Blocks> },
    Skip(u64),
}

/// What long GETs need: the import, the way to cut its bytes into blocks, and the permits for open GETs.
pub(super) struct StreamContext<'a> {
    pub(in crate::storage) store: &'a ImportStore,
    pub(super) cutter: &'a BlockCutter,
    pub(in crate::storage) permits: &'a Arc<Semaphore>,
}

/// Bytes that long GETs will deliver: consecutive parts from the start of a range. Each part may fail.
#[derive(Debug, Default)]
pub(super) struct PendingParts(Vec<PendingPart>);

#[derive(Debug)]
struct PendingPart {
    end: u64,
    bytes: oneshot::Receiver<Blocks>,
}

impl PendingParts {
    pub(in crate::storage) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of `range`. What the long GETs do not deliver is fetched.
    pub(super) async fn collect_or_fetch(
        self,
        store: &ImportStore,
        range: Range<u64>,
        cutter: &BlockCutter,
    ) -> Result<Fetched> {
        let Some(last) = self.0.last() else { return fetch(store, range, cutter).await };
        let end = last.end;
        let rest = async {
            match end < range.end {
                true => Ok::<_, Error>(Some(fetch(store, end..range.end, cutter).await?.bytes)),
                false => Ok(None),
            }
        };
        let (mut received, rest) = tokio::join!(self.collect_received(), rest);
        let at: u64 = range.start + received.iter().map(|part| part.len() as u64).sum::<u64>();
        if at < end {
            received.push(fetch(store, at..end, cutter).await?.bytes);
        }
        received.extend(rest?);
        if let [one] = &received[..] {
            return Ok(Fetched { bytes: one.clone(), from_storage: true });
        }
        let mut writer = cutter.writer_at(range.start);
        received.iter().flat_map(Blocks::parts).for_each(|part| writer.push(part.clone()));
        Ok(Fetched { bytes: writer.finish(), from_storage: true })
    }

    /// The parts that arrived before the first failure.
    async fn collect_received(self) -> Vec<Blocks> {
        let mut received = Vec::with_capacity(self.0.len() + 2);
        for part in self.0 {
            let Ok(bytes) = part.bytes.await else { break };
            received.push(bytes);
        }
        received
    }
}

impl RangeStreams {
    /// Records that `range` is prefetched now. Returns the parts of it that long GETs will deliver: those open, and new
    /// ones where they are worth it. To be called inside a runtime.
    pub(in crate::storage) fn request(
        &mut self,
        range: &Range<u64>,
        context: &StreamContext<'_>,
        now: Instant,
    ) -> PendingParts {
        let mut run = self.take_run(range.start);
        // Rates from before the first long GET say nothing about long GETs.
        let use_long_get = run.keeps_up(now)
            && (run.in_order < 2 * MIN_IN_ORDER
                || self.strategy.use_long_get(range.end - range.start, now));
        let pending = match use_long_get {
            true => run.request(range, context),
            false => PendingParts::default(),
        };
        run.advance(range, now);
        self.runs.push_back(run);
        pending
    }

    /// Removes and returns the run that continues at `start`, else a new run. Drops older runs overtaken by it.
    fn take_run(&mut self, start: u64) -> SequentialRun {
        let runs = self.runs.iter().enumerate();
        let near = runs.filter(|(_, run)| run.is_continued_at(start));
        let nearest = near.max_by_key(|(_, run)| run.next).map(|(n, _)| n);
        let run = nearest.and_then(|n| self.runs.remove(n)).unwrap_or_default();
        self.runs.retain(|run| !run.is_continued_at(start));
        if self.runs.len() == MAX_RUNS {
            self.runs.pop_front();
        }
        run
    }
}

impl SequentialRun {
    /// The bytes in between may have been fetched for another reader.
    fn is_continued_at(&self, start: u64) -> bool {
        (self.next..=self.next + MAX_FETCH).contains(&start)
    }

    fn keeps_up(&self, now: Instant) -> bool {
        self.last_request
            .is_some_and(|last_request| now.duration_since(last_request) < MAX_REQUEST_GAP)
    }

    /// Advances to the end of `range`. Open GETs that do not begin there are dropped.
    fn advance(&mut self, range: &Range<u64>, now: Instant) {
        self.last_request = Some(now);
        self.seek(range.end);
        self.in_order += range.end - range.start;
    }

    fn request(&mut self, range: &Range<u64>, context: &StreamContext<'_>) -> PendingParts {
        self.skip_to(range.start);
        if self.in_order >= MIN_IN_ORDER {
            self.open_until(range.end, context);
        }
        let mut pending = PendingParts::default();
        while self.next < range.end {
            let Some(part) = self.request_part(range.end, context.cutter) else { break };
            pending.0.push(part);
        }
        // The next GET is on its way while this one is read to its end.
        if self.in_order >= 2 * MIN_IN_ORDER && self.next == range.end {
            self.open_until(range.end + OPEN_AHEAD, context);
        }
        pending
    }

    /// Opens GETs, one per object, until the open ones reach `end`.
    fn open_until(&mut self, end: u64, context: &StreamContext<'_>) {
        let mut at = self.open.back().map_or(self.next, |last| last.end);
        while at < end && self.open.len() < MAX_OPEN {
            let Some(stream) = open_stream(at, self.in_order.min(MAX_STREAM_LEN), context) else {
                break;
            };
            at = stream.end;
            self.open.push_back(stream);
        }
    }

    /// Moves to `start`, over bytes that were fetched before.
    fn skip_to(&mut self, start: u64) {
        let is_near = (self.next..=self.next + MAX_SKIP).contains(&start);
        while is_near && self.next < start && self.send(start, Command::Skip).is_some() {}
        self.seek(start);
    }

    /// Open GETs continue at `next` only; any other position drops them.
    fn seek(&mut self, to: u64) {
        if self.next != to {
            self.next = to;
            self.open.clear();
        }
    }

    /// Requests the bytes from `next` to `end` from the first open GET, as far as it reaches.
    fn request_part(&mut self, end: u64, cutter: &BlockCutter) -> Option<PendingPart> {
        let (done, bytes) = oneshot::channel();
        let to = cutter.writer_at(self.next);
        let end = self.send(end, |len| Command::Read { to, len, done })?;
        Some(PendingPart { end, bytes })
    }

    /// Sends the first open GET a command for the bytes from `next` to `end`, or to its own end. Returns where they
    /// end, or `None` without an open GET.
    fn send(&mut self, end: u64, command: impl FnOnce(u64) -> Command) -> Option<u64> {
        let stream = self.open.front()?;
        let end = end.min(stream.end);
        if stream.commands.send(command(end - self.next)).is_err() {
            // The GET broke: plain GETs are used until enough was read in order again.
            self.open.clear();
            self.in_order = 0;
            return None;
        }
        self.next = end;
        if end == stream.end {
            self.open.pop_front();
        }
        Some(end)
    }
}

/// Opens a GET of up to `max_len` bytes from `start`, within one object. `None` where the object has too little left,
/// the bytes are in no object, or there is no permit.
fn open_stream(start: u64, max_len: u64, context: &StreamContext<'_>) -> Option<RangeStream> {
    let end = start.saturating_add(max_len).min(context.store.layout().len());
    let first = context.store.locate(start..end).into_iter().next();
    let Some(ByteSource::Object(object, part)) = first else { return None };
    let is_rest = part.end == object.len && object.len >= MIN_OBJECT_LEN;
    if !is_rest && part.end - part.start < MIN_OBJECT_LEN {
        return None;
    }
    let end = start + (part.end - part.start);
    let permit = Arc::clone(context.permits).try_acquire_owned().ok()?;
    let (commands, queue) = mpsc::unbounded_channel();
    tokio::spawn(serve_stream(
        Arc::clone(context.store.backend()),
        object.key,
        part,
        queue,
        permit,
    ));
    Some(RangeStream { end, commands })
}

/// Reads the object as its bytes are requested, until requests stop or an error occurs.
async fn serve_stream(
    backend: Arc<dyn StorageBackend>,
    key: Key,
    range: Range<u64>,
    mut queue: mpsc::UnboundedReceiver<Command>,
    _permit: OwnedSemaphorePermit,
) {
    tracing::debug!(%key, ?range, "long GET");
    let reading = async {
        let body = with_stall_timeout(backend.open(&key, range)).await?;
        let mut response = Response { body, buffered: Bytes::new() };
        while let Ok(Some(command)) = timeout(IDLE_TIMEOUT, queue.recv()).await {
            match command {
                Command::Skip(len) => response.read(len, |_| ()).await?,
                Command::Read { mut to, len, mut done } => {
                    tokio::select! {
                        received = response.read(len, |bytes| to.write(bytes)) => received?,
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
        tracing::debug!("long GET of {key} ended: {}", e.report());
    }
}

/// A response body, and the received bytes that were not requested yet.
struct Response {
    body: Body,
    buffered: Bytes,
}

impl Response {
    /// Passes the next `len` bytes to `to`.
    async fn read(&mut self, mut len: u64, mut to: impl FnMut(&[u8])) -> Result<()> {
        while len > 0 {
            if self.buffered.is_empty() {
                let ended = || Error::new(Kind::Corrupt, "the response ended early");
                let next = async { self.body.next().await.unwrap_or_else(|| Err(ended())) };
                self.buffered = with_stall_timeout(next).await?;
            }
            let more = usize::try_from(len).unwrap_or(usize::MAX).min(self.buffered.len());
            to(&self.buffered[..more]);
            self.buffered.advance(more);
            len -= more as u64;
        }
        Ok(())
    }
}

async fn with_stall_timeout<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let stalled = |_| Error::new(Kind::Network, format!("stalled for {STALL_TIMEOUT:?}"));
    timeout(STALL_TIMEOUT, work).await.map_err(stalled)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backends::Reads, memory::BlockPool, storage::tests::Rig};

    /// Requests 16 runs of 8 MiB from an object of 128 MiB, one each `pause`. Returns how many used long GETs.
    async fn streamed_runs(rig: &Rig, mut streams: RangeStreams, pause: Duration) -> usize {
        let mut now = Instant::now();
        let permits = Arc::new(Semaphore::new(2));
        let cutter = BlockCutter { pool: BlockPool::new(8 << 20), unit: MIB };
        let mut long = 0;
        for n in 0..16 {
            let range = n * MAX_FETCH..(n + 1) * MAX_FETCH;
            let context = StreamContext { store: &rig.store, cutter: &cutter, permits: &permits };
            let pending = streams.request(&range, &context, now);
            long += usize::from(!pending.is_empty());
            let received = pending.collect_or_fetch(&rig.store, range, &cutter).await.unwrap();
            assert_eq!(received.bytes.len() as u64, MAX_FETCH);
            now += pause;
        }
        long
    }

    #[tokio::test]
    async fn a_slow_reader_is_served_by_plain_gets() {
        let rig = Rig::new(&[128 << 20], 128 << 20, 256 << 20).await;
        rig.write(0..128 << 20);
        rig.writer.flush().await.unwrap();
        assert_eq!(streamed_runs(&rig, RangeStreams::default(), MAX_REQUEST_GAP / 2).await, 12);
        rig.take_reads();
        assert_eq!(streamed_runs(&rig, RangeStreams::default(), MAX_REQUEST_GAP).await, 0);
        assert_eq!(rig.take_reads(), Reads { gets: 16, bytes: 128 << 20 });
    }

    #[tokio::test]
    async fn a_run_of_another_reader_nearby_does_not_interrupt_a_sequential_reader() {
        let rig = Rig::new(&[128 << 20], 128 << 20, 256 << 20).await;
        rig.write(0..128 << 20);
        rig.writer.flush().await.unwrap();
        let other_run = |next| SequentialRun { next, in_order: MIB, ..SequentialRun::default() };
        let streams = RangeStreams {
            runs: [other_run(12 * MIB), other_run(37 * MIB)].into(),
            ..Default::default()
        };
        assert_eq!(streamed_runs(&rig, streams, MAX_REQUEST_GAP / 2).await, 12);
        assert_eq!(rig.take_reads().bytes, 128 << 20);
    }
}
