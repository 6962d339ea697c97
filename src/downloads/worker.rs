//! The work of one connection: it fetches run after run until none is left.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::{Bytes, BytesMut};

use super::{file_download::Shared, range_scheduler::RunId};
use crate::{
    error::{Error, Kind, Result},
    memory::{Budget, Reservation, Share},
    protocols::{ByteStream, display_url, next_bytes},
};

/// Bytes per write to the target. A TLS record has only 16 KiB, and each write costs a wake-up.
const BATCH: u64 = 128 << 10;
/// Pieces below this length are copied into one buffer. Each of them could keep a read buffer alive that is several
/// times as large.
const SMALL: usize = 64 << 10;
/// Maximum age of a batch in milliseconds, for slow connections.
const BATCH_AGE_MS: u128 = 500;

/// Why a worker ended.
#[derive(Debug)]
pub(super) enum WorkerExit {
    /// No run is left that is worth a request.
    Idle,
    /// The server refused the request for a run.
    Refused(Error),
    /// The connection broke during a run.
    ConnectionLost(Error),
    /// The target failed.
    TargetFailed(Error),
}

/// Fetches runs from the mirror with index `mirror`, `run` first, until none is left.
pub(super) async fn run_worker(run: AssignedRun, mirror: usize) -> WorkerExit {
    let shared = Arc::clone(&run.shared);
    let mut next = Some(run);
    while let Some(run) = next {
        if let Err(e) = shared.target.wait_for_capacity().await {
            return WorkerExit::TargetFailed(e);
        }
        let stream = match shared.source.mirrors()[mirror].open(run.range.clone().into()).await {
            Ok(stream) => stream,
            Err(e) => return WorkerExit::Refused(e),
        };
        shared.scheduler.lock().accepted(run.id);
        if let Err(exit) = run.fetch(stream, mirror, false).await {
            return exit;
        }
        drop(run);
        next = AssignedRun::take(&shared, 1);
    }
    WorkerExit::Idle
}

/// Reads the first response up to the position where another worker is served, and then works like the other workers.
pub(super) async fn run_first_worker(first: FirstRun) -> WorkerExit {
    let FirstRun { run, stream, open } = first;
    let shared = Arc::clone(&run.shared);
    if let Err(e) = shared.target.wait_for_capacity().await {
        return WorkerExit::TargetFailed(e);
    }
    if let Err(exit) = run.fetch(stream, 0, true).await {
        return exit;
    }
    drop((run, open));
    match AssignedRun::take(&shared, 1) {
        Some(run) => run_worker(run, 0).await,
        None => WorkerExit::Idle,
    }
}

/// The response to the first request, with its first run.
pub(super) struct FirstRun {
    run: AssignedRun,
    stream: ByteStream,
    open: FirstResponseGuard,
}

impl FirstRun {
    /// Takes the run for one of `workers`. The wanted range must start at byte 0. `None` when its first bytes are
    /// present already.
    pub(super) fn take(shared: &Arc<Shared>, stream: ByteStream, workers: usize) -> Option<Self> {
        let (id, range) = shared.scheduler.lock().take_first(workers)?;
        let run = AssignedRun { shared: Arc::clone(shared), id, range };
        Some(Self { run, stream, open: FirstResponseGuard::new(shared) })
    }
}

/// Marks the first response as being read, until dropped.
struct FirstResponseGuard(Arc<Shared>);

impl FirstResponseGuard {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.first_response_open.store(true, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for FirstResponseGuard {
    fn drop(&mut self) {
        self.0.first_response_open.store(false, Ordering::Relaxed);
    }
}

/// A run held by a worker. It is given back when dropped, for whatever reason.
pub(super) struct AssignedRun {
    shared: Arc<Shared>,
    id: RunId,
    /// The range as it was taken. Another worker may take over its end.
    range: Range<u64>,
}

impl AssignedRun {
    /// Takes a run for one of `workers` idle workers. `None` when no run is worth a request.
    pub(super) fn take(shared: &Arc<Shared>, workers: usize) -> Option<Self> {
        let (id, range) = shared.scheduler.lock().take(workers)?;
        Some(Self { shared: Arc::clone(shared), id, range })
    }

    /// Reads the run from `stream`. With `extendable` the stream has all bytes from the run's start on, and is read
    /// past the run's end as far as `RangeScheduler::extend` allows.
    async fn fetch(
        &self,
        mut stream: ByteStream,
        mirror: usize,
        extendable: bool,
    ) -> Result<(), WorkerExit> {
        let memory = self.shared.target.memory();
        let mut batch = Batch::at(self.range.start, memory);
        let outcome = loop {
            if self.is_exhausted(extendable) {
                break Ok(());
            }
            // Read more only when there is memory for it. The batch is written first: it would hold what it waits for.
            if memory.share(Share::Bodies).is_full() {
                self.write_batch(&mut batch).await?;
                memory.wait_for_room(Share::Bodies).await;
            }
            self.shared.target.wait_for_capacity().await.map_err(WorkerExit::TargetFailed)?;
            match next_bytes(&mut stream).await {
                Some(Ok(bytes)) => self.receive(bytes, &mut batch, extendable).await,
                Some(Err(e)) => break Err(e),
                None => break Err(early_end_error(&self.shared, mirror)),
            }
            // Extend the run before writing: a run that is written to its end is over and cannot be extended.
            if batch.is_due() && !self.is_exhausted(extendable) {
                self.write_batch(&mut batch).await?;
            }
        };
        // Bytes received before an error are written too.
        self.write_batch(&mut batch).await?;
        outcome.map_err(WorkerExit::ConnectionLost)
    }

    /// Whether all bytes of the run have been received and it is not extended now.
    fn is_exhausted(&self, extendable: bool) -> bool {
        let mut scheduler = self.shared.scheduler.lock();
        scheduler.is_received(self.id) && !(extendable && scheduler.extend(self.id))
    }

    async fn receive(&self, mut bytes: Bytes, batch: &mut Batch, extendable: bool) {
        loop {
            let granted = self.shared.scheduler.lock().grant(self.id, bytes.len() as u64);
            let rest = bytes.split_off(usize::try_from(granted).unwrap_or(bytes.len()));
            self.shared.record_received(granted).await;
            batch.push(bytes);
            if rest.is_empty() || self.is_exhausted(extendable) {
                return;
            }
            bytes = rest;
        }
    }

    async fn write_batch(&self, batch: &mut Batch) -> Result<(), WorkerExit> {
        let Some((pos, len, parts)) = batch.take() else { return Ok(()) };
        self.shared.target.write_at(pos, parts).await.map_err(WorkerExit::TargetFailed)?;
        self.shared.scheduler.lock().wrote(self.id, len);
        Ok(())
    }
}

impl Drop for AssignedRun {
    fn drop(&mut self) {
        self.shared.scheduler.lock().give_back(self.id);
    }
}

fn early_end_error(shared: &Shared, mirror: usize) -> Error {
    let url = display_url(&shared.source.mirrors()[mirror].remote().url);
    Error::new(Kind::Network, format!("{url}: connection closed before the end of the range"))
}

/// Consecutive bytes, collected for one write. They are counted in [`Share::Bodies`] until the target drops them.
pub(super) struct Batch {
    pos: u64,
    len: u64,
    parts: Vec<Bytes>,
    /// Small pieces that follow `parts`, and their memory.
    small: BytesMut,
    small_memory: Option<Reservation>,
    memory: Budget,
    since: Instant,
}

impl Batch {
    pub(super) fn at(pos: u64, memory: &Budget) -> Self {
        Self {
            pos,
            len: 0,
            parts: Vec::new(),
            small: BytesMut::new(),
            small_memory: None,
            memory: memory.clone(),
            since: Instant::now(),
        }
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        if self.len == 0 {
            self.since = Instant::now();
        }
        self.len += bytes.len() as u64;
        if bytes.len() < SMALL {
            let memory = &self.memory;
            let small = self.small_memory.get_or_insert_with(|| memory.charge(Share::Bodies, 0));
            small.grow(bytes.len());
            self.small.extend_from_slice(&bytes);
        } else {
            self.flush_small();
            self.parts.push(self.memory.charge(Share::Bodies, bytes.len()).attach_to(bytes));
        }
    }

    fn flush_small(&mut self) {
        if let Some(memory) = self.small_memory.take() {
            self.parts.push(memory.attach_to(std::mem::take(&mut self.small).freeze()));
        }
    }

    pub(super) fn is_due(&self) -> bool {
        self.len >= BATCH || self.len > 0 && self.since.elapsed().as_millis() >= BATCH_AGE_MS
    }

    /// The position, the length and the bytes; `None` when the batch is empty.
    pub(super) fn take(&mut self) -> Option<(u64, u64, Vec<Bytes>)> {
        let (pos, len) = (self.pos, std::mem::take(&mut self.len));
        self.pos += len;
        self.flush_small();
        (len > 0).then(|| (pos, len, std::mem::take(&mut self.parts)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_batch_returns_the_pushed_bytes_in_order(
            pushes in prop::collection::vec((0usize..100_000, any::<bool>()), 0..12),
        ) {
            let memory = Budget::new(32 << 20);
            let (mut batch, mut expected, mut at) = (Batch::at(7, &memory), Vec::new(), 7);
            let mut taken = Vec::new();
            for (n, (len, takes)) in (0u8..).zip(pushes) {
                let bytes = vec![n; len];
                expected.extend_from_slice(&bytes);
                batch.push(bytes.into());
                if takes {
                    taken.extend(batch.take());
                }
            }
            taken.extend(batch.take());
            prop_assert!(batch.take().is_none());
            for (pos, len, parts) in &taken {
                prop_assert_eq!(*pos, at);
                prop_assert_eq!(parts.iter().map(|part| part.len() as u64).sum::<u64>(), *len);
                at += len;
            }
            prop_assert_eq!(memory.held(), expected.len());
            let got: Vec<Bytes> = taken.into_iter().flat_map(|(_, _, parts)| parts).collect();
            prop_assert_eq!(got.concat(), expected);
            drop(got);
            prop_assert_eq!(memory.held(), 0);
        }
    }
}
