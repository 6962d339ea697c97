//! Fetches segments whose lengths are not known, in order and several at once, into one stream.
//!
//! The bytes of the first segment in flight pass at once; those of the others wait in memory, each up to its share of
//! [`BUFFER_LEN`]. A segment that fails is fetched again, and the bytes that have already passed are skipped.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::{
    build::absent_error,
    client::ListClient,
    content::Content,
    open::{check_start, location},
    outcome::Outcome,
    segment::{Label, Segment},
    streamed_check::StreamedCheck,
    tries::SegmentTries,
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{ByteStream, next_bytes},
};

/// Bytes that may wait in memory, over all segments in flight.
const BUFFER_LEN: usize = 16 << 20;
/// The least of these for one segment.
const MIN_BUFFER_LEN: usize = 512 << 10;

/// How segments are fetched in order.
pub(super) struct OrderedFetch {
    pub(super) client: Arc<ListClient>,
    pub(super) outcome: Arc<Outcome>,
    /// The container of all media segments.
    pub(super) content: Option<Content>,
    /// A segment that the server has no more is counted as lost, and the end of the server is the end of the stream.
    pub(super) is_live: bool,
}

impl OrderedFetch {
    /// The bytes of `segments`.
    pub(super) fn stream(self, segments: BoxStream<'static, Segment>) -> ByteStream {
        let max_slots = self.client.options.connections.max(1);
        let state = OrderedState {
            buffer_len: (BUFFER_LEN / max_slots).max(MIN_BUFFER_LEN),
            fetch: Arc::new(self),
            segments: segments.fuse(),
            max_slots,
            slots: VecDeque::new(),
            is_last_known: false,
            has_bytes: false,
            absent: None,
        };
        Box::pin(stream::unfold(state, |mut state| async move {
            state.next().await.map(|item| (item, state))
        }))
    }
}

struct OrderedState {
    fetch: Arc<OrderedFetch>,
    segments: stream::Fuse<BoxStream<'static, Segment>>,
    max_slots: usize,
    /// Bytes that may wait for each segment.
    buffer_len: usize,
    slots: VecDeque<Slot>,
    is_last_known: bool,
    has_bytes: bool,
    /// A segment before this one that the list may have counted too many.
    absent: Option<Label>,
}

/// A segment in flight.
struct Slot {
    segment: Segment,
    received: mpsc::UnboundedReceiver<(Result<Bytes>, Option<OwnedSemaphorePermit>)>,
    has_bytes: bool,
    _task: AbortOnDropHandle<()>,
}

impl OrderedState {
    async fn next(&mut self) -> Option<Result<Bytes>> {
        loop {
            if self.slots.is_empty() && self.is_last_known {
                // A live stream that failed at once has nothing to keep.
                let failure = self.fetch.outcome.summary().failure;
                return failure.filter(|_| !std::mem::replace(&mut self.has_bytes, true)).map(Err);
            }
            let may_start = !self.is_last_known && self.slots.len() < self.max_slots;
            let first = self.slots.front_mut();
            tokio::select! {
                biased;
                segment = self.segments.next(), if may_start => match segment {
                    Some(segment) => {
                        let slot = Slot::start(&self.fetch, segment, self.buffer_len);
                        self.slots.push_back(slot);
                    }
                    None => self.is_last_known = true,
                },
                Some(item) = next_of(first) => match item {
                    Some(Ok(bytes)) => {
                        self.has_bytes = true;
                        return Some(self.check_absent().map(|()| bytes));
                    }
                    Some(Err(error)) => {
                        if let Some(error) = self.failed(error) {
                            return Some(Err(error));
                        }
                    }
                    None => drop(self.slots.pop_front()),
                },
            }
        }
    }

    /// Fails if the first segment in flight follows an absent one. One that must exist begins the next period.
    fn check_absent(&mut self) -> Result<()> {
        match (self.absent.take(), self.slots.front()) {
            (Some(label), Some(slot)) if slot.segment.may_be_absent => Err(absent_error(label)),
            _ => Ok(()),
        }
    }

    /// Handles the failure of the first segment in flight. `Some` when it ends the stream with an error.
    fn failed(&mut self, error: Error) -> Option<Error> {
        let slot = self.slots.pop_front()?;
        let outcome = &self.fetch.outcome;
        let is_missing = matches!(error.kind(), Kind::NotFound | Kind::Corrupt) && !slot.has_bytes;
        if slot.segment.may_be_absent && error.kind() == Kind::NotFound {
            self.absent.get_or_insert(slot.segment.label);
            return None;
        }
        if is_missing && self.fetch.is_live {
            outcome.add_lost(1, &error.report());
            return None;
        }
        if is_missing && self.fetch.client.options.skip_missing {
            outcome.add_skipped(&error);
            return None;
        }
        if self.fetch.is_live && self.has_bytes {
            // What was recorded is kept, and the error is reported when the file is complete.
            outcome.fail(error);
            self.slots.clear();
            self.is_last_known = true;
            return None;
        }
        Some(error)
    }
}

/// The next item of the first slot: `Some(None)` at its end, `None` without a slot.
async fn next_of(first: Option<&mut Slot>) -> Option<Option<Result<Bytes>>> {
    let Some(slot) = first else { return std::future::pending().await };
    let item = slot.received.recv().await.map(|(item, _permit)| item);
    slot.has_bytes |= matches!(item, Some(Ok(_)));
    Some(item)
}

impl Slot {
    fn start(fetch: &Arc<OrderedFetch>, segment: Segment, buffer_len: usize) -> Self {
        let (sender, received) = mpsc::unbounded_channel();
        let buffer = Arc::new(Semaphore::new(buffer_len));
        let (fetch, for_task) = (Arc::clone(fetch), segment.clone());
        let task = tokio::spawn(async move {
            let mut transfer =
                Transfer { fetch, segment: for_task, sender, buffer, buffer_len, passed: 0 };
            if let Err(error) = transfer.run().await {
                // The receiver may be gone.
                let _ = transfer.sender.send((Err(error), None));
            }
        });
        Self { segment, received, has_bytes: false, _task: AbortOnDropHandle::new(task) }
    }
}

/// Fetches one segment.
struct Transfer {
    fetch: Arc<OrderedFetch>,
    segment: Segment,
    sender: mpsc::UnboundedSender<(Result<Bytes>, Option<OwnedSemaphorePermit>)>,
    buffer: Arc<Semaphore>,
    buffer_len: usize,
    /// Bytes that were sent on.
    passed: u64,
}

impl Transfer {
    async fn run(&mut self) -> Result<()> {
        let client = Arc::clone(&self.fetch.client);
        let mut tries = SegmentTries::new(&client.tries);
        loop {
            let before = self.passed;
            let Err(error) = self.attempt().await else {
                client.tries.succeeded();
                return Ok(());
            };
            if self.passed > before {
                tries.reset();
            }
            let no_try = self.segment.may_be_absent && error.kind() == Kind::NotFound;
            let wait = if no_try { None } else { tries.next_wait(&client.tries, &error) };
            let Some(wait) = wait else { return Err(error.with_context(self.segment.label)) };
            let label = self.segment.label;
            tracing::info!(
                "{label}: {}; trying again in {:.1} s",
                error.report(),
                wait.as_secs_f64()
            );
            tokio::time::sleep(wait).await;
        }
    }

    /// Fetches the segment from its first byte, and passes the bytes that have not been passed yet.
    async fn attempt(&mut self) -> Result<()> {
        let stream = self.fetch.client.open_whole(&self.segment).await?;
        let (mut stream, content) = match self.segment.is_media() {
            true => {
                let checked = check_start(stream, self.fetch.content, true, &self.segment).await?;
                (checked.stream, checked.content)
            }
            false => (stream, None),
        };
        let mut check = StreamedCheck::new(content.unwrap_or(Content::Other));
        let mut skip = self.passed;
        while let Some(bytes) = next_bytes(&mut stream).await.transpose()? {
            check.update(&bytes);
            let skipped = skip.min(bytes.len() as u64);
            skip -= skipped;
            let rest = bytes.slice(usize::try_from(skipped).unwrap_or(bytes.len())..);
            self.pass(rest).await?;
        }
        match check.finish() {
            Some(reason) => {
                let text = format!("{}: {reason}", location(&self.segment.source));
                Err(Error::new(Kind::Corrupt, text))
            }
            None => Ok(()),
        }
    }

    async fn pass(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let permits = u32::try_from(bytes.len().min(self.buffer_len)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.buffer).acquire_many_owned(permits).await;
        let permit = permit.map_err(|e| Error::new(Kind::Internal, "segment buffer").because(e))?;
        self.passed += bytes.len() as u64;
        // The receiver is gone only if the whole stream was dropped.
        let _ = self.sender.send((Ok(bytes), Some(permit)));
        Ok(())
    }
}
