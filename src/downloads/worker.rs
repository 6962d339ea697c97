//! The work of one connection: it fetches run after run until none is left.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::{Bytes, BytesMut};

use super::{fetch::Shared, holes::RunId};
use crate::{
    error::{Error, Kind, Result},
    protocols::{ByteStream, next, place},
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
pub(super) enum Ended {
    /// No run is left that is worth a request.
    Idle,
    /// The server refused the request for a run.
    Refused(Error),
    /// The connection broke during a run.
    Broke(Error),
    /// The target failed.
    Target(Error),
}

/// Fetches runs from the mirror with index `mirror`, `run` first, until none is left.
pub(super) async fn work(run: Run, mirror: usize) -> Ended {
    let shared = Arc::clone(&run.shared);
    let mut next = Some(run);
    while let Some(run) = next {
        if let Err(e) = shared.target.room().await {
            return Ended::Target(e);
        }
        let stream = match shared.source.mirrors()[mirror].open(run.range.clone().into()).await {
            Ok(stream) => stream,
            Err(e) => return Ended::Refused(e),
        };
        shared.holes.lock().answered(run.id);
        if let Err(ended) = run.fetch(stream, mirror, false).await {
            return ended;
        }
        drop(run);
        next = Run::begin(&shared, 1);
    }
    Ended::Idle
}

/// Reads the first response up to the position where another worker is served, and then works like the other workers.
pub(super) async fn work_on(first: FirstRun) -> Ended {
    let FirstRun { run, stream, open } = first;
    let shared = Arc::clone(&run.shared);
    if let Err(e) = shared.target.room().await {
        return Ended::Target(e);
    }
    if let Err(ended) = run.fetch(stream, 0, true).await {
        return ended;
    }
    drop((run, open));
    match Run::begin(&shared, 1) {
        Some(run) => work(run, 0).await,
        None => Ended::Idle,
    }
}

/// The response to the first request, with its first run.
pub(super) struct FirstRun {
    run: Run,
    stream: ByteStream,
    open: FirstOpen,
}

impl FirstRun {
    /// Takes the run for one of `workers`. The wanted range must start at byte 0. `None` when its first bytes are
    /// present already.
    pub(super) fn begin(shared: &Arc<Shared>, stream: ByteStream, workers: usize) -> Option<Self> {
        let (id, range) = shared.holes.lock().take_first(workers)?;
        let run = Run { shared: Arc::clone(shared), id, range };
        Some(Self { run, stream, open: FirstOpen::new(shared) })
    }
}

/// Marks the first response as being read, until dropped.
struct FirstOpen(Arc<Shared>);

impl FirstOpen {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.first_open.store(true, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for FirstOpen {
    fn drop(&mut self) {
        self.0.first_open.store(false, Ordering::Relaxed);
    }
}

/// A run held by a worker. It is given back when dropped, for whatever reason.
pub(super) struct Run {
    shared: Arc<Shared>,
    id: RunId,
    /// The range as it was taken. Another worker may take over its end.
    range: Range<u64>,
}

impl Run {
    /// Takes a run for one of `workers` idle workers. `None` when no run is worth a request.
    pub(super) fn begin(shared: &Arc<Shared>, workers: usize) -> Option<Self> {
        let (id, range) = shared.holes.lock().take(workers)?;
        Some(Self { shared: Arc::clone(shared), id, range })
    }

    /// Reads the run from `stream`. With `goes_on` the stream has all bytes from the run's start on, and is read past
    /// the run's end as far as `Holes::go_on` allows.
    async fn fetch(
        &self,
        mut stream: ByteStream,
        mirror: usize,
        goes_on: bool,
    ) -> Result<(), Ended> {
        let mut batch = Batch::at(self.range.start);
        let came = loop {
            if self.has_come(goes_on) {
                break Ok(());
            }
            match next(&mut stream).await {
                Some(Ok(bytes)) => self.take(bytes, &mut batch, goes_on).await?,
                Some(Err(e)) => break Err(e),
                None => break Err(ended_early(&self.shared, mirror)),
            }
            // Extend the run before writing: a run that is written to its end is over and cannot be extended.
            if batch.is_due() && !self.has_come(goes_on) {
                self.hand_over(&mut batch).await?;
            }
        };
        // Bytes received before an error are written too.
        self.hand_over(&mut batch).await?;
        came.map_err(Ended::Broke)
    }

    fn has_come(&self, goes_on: bool) -> bool {
        let mut holes = self.shared.holes.lock();
        holes.has_come(self.id) && !(goes_on && holes.go_on(self.id))
    }

    async fn take(&self, mut bytes: Bytes, batch: &mut Batch, goes_on: bool) -> Result<(), Ended> {
        loop {
            let granted = self.shared.holes.lock().grant(self.id, bytes.len() as u64);
            let rest = bytes.split_off(usize::try_from(granted).unwrap_or(bytes.len()));
            self.shared.arrived(granted).await;
            batch.push(bytes);
            if rest.is_empty() || self.has_come(goes_on) {
                break;
            }
            bytes = rest;
        }
        // Read more only when the target has capacity for it.
        self.shared.target.room().await.map_err(Ended::Target)
    }

    async fn hand_over(&self, batch: &mut Batch) -> Result<(), Ended> {
        let Some((pos, len, parts)) = batch.take() else { return Ok(()) };
        self.shared.target.write(pos, parts).await.map_err(Ended::Target)?;
        self.shared.holes.lock().wrote(self.id, len);
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.shared.holes.lock().give_back(self.id);
    }
}

fn ended_early(shared: &Shared, mirror: usize) -> Error {
    let place = place(&shared.source.mirrors()[mirror].remote().url);
    Error::new(Kind::Network, format!("{place}: the connection ended before the range did"))
}

/// Consecutive bytes, collected for one write.
pub(super) struct Batch {
    pos: u64,
    len: u64,
    parts: Vec<Bytes>,
    /// Small pieces that follow `parts`.
    small: BytesMut,
    since: Instant,
}

impl Batch {
    pub(super) fn at(pos: u64) -> Self {
        Self { pos, len: 0, parts: Vec::new(), small: BytesMut::new(), since: Instant::now() }
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        if self.len == 0 {
            self.since = Instant::now();
        }
        self.len += bytes.len() as u64;
        if bytes.len() < SMALL {
            self.small.extend_from_slice(&bytes);
        } else {
            self.close_small();
            self.parts.push(bytes);
        }
    }

    fn close_small(&mut self) {
        if !self.small.is_empty() {
            self.parts.push(std::mem::take(&mut self.small).freeze());
        }
    }

    pub(super) fn is_due(&self) -> bool {
        self.len >= BATCH || self.len > 0 && self.since.elapsed().as_millis() >= BATCH_AGE_MS
    }

    /// The position, the length and the bytes; `None` when the batch is empty.
    pub(super) fn take(&mut self) -> Option<(u64, u64, Vec<Bytes>)> {
        let (pos, len) = (self.pos, std::mem::take(&mut self.len));
        self.pos += len;
        self.close_small();
        (len > 0).then(|| (pos, len, std::mem::take(&mut self.parts)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_batch_has_what_was_pushed_in_its_order(
            pushes in prop::collection::vec((0usize..100_000, any::<bool>()), 0..12),
        ) {
            let (mut batch, mut wanted, mut at) = (Batch::at(7), Vec::new(), 7);
            let mut taken = Vec::new();
            for (n, (len, takes)) in (0u8..).zip(pushes) {
                let bytes = vec![n; len];
                wanted.extend_from_slice(&bytes);
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
            let got: Vec<Bytes> = taken.into_iter().flat_map(|(_, _, parts)| parts).collect();
            prop_assert_eq!(got.concat(), wanted);
        }
    }
}
