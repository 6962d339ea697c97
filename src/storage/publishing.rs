//! The files of an import published one after the other while it goes on: each as soon as all its bytes are durable.
//!
//! Invariants:
//! - A file waits (part of it is not durable), is ready, is being published, or is done; `left` counts all but the done.
//! - What fails is tried again until it succeeds, as uploads are: nothing here ends an import.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    task::{self, JoinError, JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{ImportStore, Published, Publisher, WriterEvent, WriterSink};
use crate::{
    backends::Backoff,
    catalog::FileRow,
    error::{Error, Kind, Result},
};

/// Files on their way at once: each has several parts on theirs.
const AT_ONCE: usize = 2;
/// The longest wait between two tries, in first waits.
const LONGEST_WAIT: u32 = 30;

/// Files on their way to be published.
#[derive(Debug)]
pub struct Publishing {
    durable: mpsc::UnboundedSender<Vec<Range<u64>>>,
    stopping: CancellationToken,
    /// What was published so far, and whether that is all.
    progress: watch::Receiver<(Published, bool)>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Publishing {
    /// Starts to publish `files`. `sink` hears of failures (`Paused`, `Resumed`), and at the end of nothing durable, as
    /// a wake-up. Failures are tried again after `retry_base` and up to 30 times that.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn spawn(
        publisher: Arc<Publisher>,
        mut files: Vec<FileRow>,
        retry_base: Duration,
        sink: WriterSink,
    ) -> Arc<Self> {
        files.sort_by_key(|file| (file.start, file.len));
        let (durable, heard) = mpsc::unbounded_channel();
        let (told, progress) = watch::channel((Published::default(), false));
        let stopping = CancellationToken::new();
        let span = tracing::info_span!("publish", id = %publisher.store().id());
        let shared = Shared { publisher, retry_base, sink, failing: Mutex::new(0) };
        let actor = Actor {
            shared: Arc::new(shared),
            states: vec![State::Waiting; files.len()],
            left: files.len(),
            files,
            ready: VecDeque::new(),
            running: JoinSet::new(),
            indices: HashMap::new(),
            told,
        };
        let task = tokio::spawn(actor.run(heard, stopping.clone()).instrument(span));
        Arc::new(Self { durable, stopping, progress, task: Mutex::new(Some(task)) })
    }

    /// Tells of ranges that became durable.
    pub fn durable(&self, ranges: &[Range<u64>]) {
        // When it is stopped nobody needs to know.
        let _ = self.durable.send(ranges.to_vec());
    }

    /// Whether all files are published.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.progress.borrow().1
    }

    /// What was published so far.
    #[must_use]
    pub fn published(&self) -> Published {
        self.progress.borrow().0
    }

    /// Waits until all files are published.
    ///
    /// # Errors
    /// `Cancelled` when it was stopped before.
    pub async fn finished(&self) -> Result<Published> {
        let mut progress = self.progress.clone();
        let stopped = |_| Error::new(Kind::Cancelled, "publishing was stopped");
        let done = progress.wait_for(|(_, done)| *done).await.map_err(stopped)?;
        Ok(done.0)
    }

    /// Stops. When it returns nothing of it is under way any more; what was begun is taken up by the next run.
    pub async fn stop(&self) {
        self.stopping.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task {
            // A panic there was told by its own hook.
            let _ = task.await;
        }
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Taken,
}

struct Actor {
    shared: Arc<Shared>,
    /// By position.
    files: Vec<FileRow>,
    states: Vec<State>,
    left: usize,
    ready: VecDeque<usize>,
    running: JoinSet<Published>,
    indices: HashMap<task::Id, usize>,
    told: watch::Sender<(Published, bool)>,
}

impl Actor {
    async fn run(
        mut self,
        mut durable: mpsc::UnboundedReceiver<Vec<Range<u64>>>,
        stopping: CancellationToken,
    ) {
        self.look_at(0..self.files.len());
        // Also what an earlier run left goes, when no file is left to take it along.
        let swept = Arc::clone(&self.shared);
        tokio::select! {
            () = stopping.cancelled() => return,
            () = swept.insist(|| swept.publisher.delete_freed()) => {}
        }
        while self.left > 0 {
            self.start();
            tokio::select! {
                () = stopping.cancelled() => break,
                Some(ranges) = durable.recv() => ranges.iter().for_each(|r| self.look_within(r)),
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
            }
        }
        self.running.shutdown().await;
        // What was asked of the catalog runs although nobody waits: whoever opens the import next must see it.
        if let Err(e) = self.shared.publisher.catalog().settle().await {
            tracing::warn!("{}", e.report());
        }
        if self.left == 0 {
            self.told.send_modify(|(_, done)| *done = true);
            (self.shared.sink)(WriterEvent::Durable(Vec::new()));
        }
    }

    fn store(&self) -> &Arc<ImportStore> {
        self.shared.publisher.store()
    }

    /// Files that `range` may have completed.
    fn look_within(&mut self, range: &Range<u64>) {
        let first = self.files.partition_point(|file| file.start + file.len <= range.start);
        let end = self.files.partition_point(|file| file.start < range.end);
        self.look_at(first..end);
    }

    fn look_at(&mut self, indices: Range<usize>) {
        for index in indices {
            let file = &self.files[index];
            let range = file.start..file.start + file.len;
            if self.states[index] == State::Waiting && self.store().covered(range) {
                self.states[index] = State::Taken;
                self.ready.push_back(index);
            }
        }
    }

    fn start(&mut self) {
        while self.running.len() < AT_ONCE {
            let Some(index) = self.ready.pop_front() else { return };
            let (shared, file) = (Arc::clone(&self.shared), self.files[index].clone());
            let publish = async move {
                let published = shared.insist(|| shared.publish(&file)).await;
                shared.insist(|| shared.publisher.delete_freed()).await;
                published
            };
            let handle = self.running.spawn(publish.in_current_span());
            self.indices.insert(handle.id(), index);
        }
    }

    fn ended(&mut self, ended: Result<(task::Id, Published), JoinError>) {
        match ended {
            Ok((id, published)) => {
                self.indices.remove(&id);
                self.left -= 1;
                self.told.send_modify(|(sum, _)| *sum += published);
            }
            // A defect, told by the panic's own hook; the file is tried again, behind the others.
            Err(e) => self.ready.extend(self.indices.remove(&e.id())),
        }
    }
}

struct Shared {
    publisher: Arc<Publisher>,
    retry_base: Duration,
    sink: WriterSink,
    /// Files that are failing now.
    failing: Mutex<usize>,
}

impl Shared {
    async fn publish(&self, file: &FileRow) -> Result<Published> {
        let range = file.start..file.start + file.len;
        match self.publisher.publish(file, &|_| {}).await {
            Err(e) if !self.publisher.store().covered(range) => {
                // What is fetched again is not for this run.
                (self.sink)(WriterEvent::Lost(e));
                std::future::pending().await
            }
            published => published,
        }
    }

    /// Does it until it succeeds, and tells when it does not and when it does again.
    async fn insist<T, F: Future<Output = Result<T>>>(&self, mut call: impl FnMut() -> F) -> T {
        let longest = self.retry_base.saturating_mul(LONGEST_WAIT);
        let mut backoff = Backoff::new(self.retry_base, longest);
        let mut trouble = None;
        loop {
            let error = match call().await {
                Ok(done) => return done,
                Err(e) => e,
            };
            let wait = backoff.next_wait().max(error.wait_asked().unwrap_or_default());
            tracing::warn!("{}; trying again in {wait:.1?}", error.report());
            trouble.get_or_insert_with(|| Trouble::begin(self, error));
            tokio::time::sleep(wait).await;
        }
    }
}

/// One file that fails, for as long as it does.
struct Trouble<'a>(&'a Shared);

impl<'a> Trouble<'a> {
    fn begin(shared: &'a Shared, error: Error) -> Self {
        // Told under the lock, so that pauses and resumptions keep their order.
        let mut failing = shared.failing.lock();
        *failing += 1;
        if *failing == 1 {
            (shared.sink)(WriterEvent::Paused(error));
        }
        Self(shared)
    }
}

impl Drop for Trouble<'_> {
    fn drop(&mut self) {
        let mut failing = self.0.failing.lock();
        *failing -= 1;
        if *failing == 0 {
            (self.0.sink)(WriterEvent::Resumed);
        }
    }
}
