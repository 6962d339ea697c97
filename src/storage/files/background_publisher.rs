//! Publishes the files of a running import, each as soon as all its bytes are durable.
//!
//! Invariants:
//! - Each file is waiting (a part is not durable), ready, being published, or done; `left` counts all files that are
//!   not done.
//! - A failure is retried like that of an upload, until it succeeds or the run has to end.

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

use crate::{
    catalog::FileRow,
    error::{Error, Kind, Result},
    storage::{
        ImportStore, Published, Publisher, WriterEvent, WriterSink, retry_loop::FailureTracker,
    },
};

/// The number of files in flight at once; each has several parts in flight.
const MAX_FILES_IN_FLIGHT: usize = 2;

/// Publishes the files of a running import in the background.
#[derive(Debug)]
pub struct BackgroundPublisher {
    durable: mpsc::UnboundedSender<Vec<Range<u64>>>,
    stopping: CancellationToken,
    shared: Arc<Shared>,
    /// What was published so far, and whether all files are done.
    progress: watch::Receiver<(Published, bool)>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl BackgroundPublisher {
    /// Starts to publish `files`. `sink` receives the failures (`Paused`, `Resumed`, `Lost`, `Failed`), and at the end
    /// a `Durable` event without ranges, as a wake-up. Failures are retried after `retry_base` and up to 60 times that.
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
        let (durable, queue) = mpsc::unbounded_channel();
        let (progress_sender, progress) = watch::channel((Published::default(), false));
        let stopping = CancellationToken::new();
        let span = tracing::info_span!("publish", id = %publisher.store().id());
        let failures = FailureTracker::new(publisher.store(), retry_base, sink);
        let shared = Shared { publisher, failures };
        let shared = Arc::new(shared);
        let actor = Actor {
            shared: Arc::clone(&shared),
            states: vec![State::Waiting; files.len()],
            left: files.len(),
            files,
            ready: VecDeque::new(),
            running: JoinSet::new(),
            indices: HashMap::new(),
            progress_sender,
        };
        let task = tokio::spawn(actor.run(queue, stopping.clone()).instrument(span));
        Arc::new(Self { durable, stopping, shared, progress, task: Mutex::new(Some(task)) })
    }

    /// Reports ranges that became durable.
    pub fn add_durable(&self, ranges: &[Range<u64>]) {
        // The receiver is gone only after a stop.
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

    /// Whether storage currently refuses to make a file, as of the last call.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.shared.failures.any_failing()
    }

    /// Waits until all files are published.
    ///
    /// # Errors
    /// `Cancelled` when it was stopped before that.
    pub async fn wait_until_done(&self) -> Result<Published> {
        let mut progress = self.progress.clone();
        let stopped = |_| Error::new(Kind::Cancelled, "publishing was stopped");
        let done = progress.wait_for(|(_, done)| *done).await.map_err(stopped)?;
        Ok(done.0)
    }

    /// Stops. When it returns, none of its work is in flight. The next run resumes what was started.
    pub async fn stop(&self) {
        self.stopping.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task {
            // A panic of the task was reported by the panic hook.
            let _ = task.await;
        }
    }
}

impl Drop for BackgroundPublisher {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Claimed,
}

struct Actor {
    shared: Arc<Shared>,
    /// By position.
    files: Vec<FileRow>,
    states: Vec<State>,
    left: usize,
    /// File index, and the number of tries that ended in a panic.
    ready: VecDeque<(usize, u32)>,
    running: JoinSet<Published>,
    indices: HashMap<task::Id, (usize, u32)>,
    progress_sender: watch::Sender<(Published, bool)>,
}

impl Actor {
    async fn run(
        mut self,
        mut durable: mpsc::UnboundedReceiver<Vec<Range<u64>>>,
        stopping: CancellationToken,
    ) {
        self.check_files(0..self.files.len());
        // Leftovers of an earlier run are deleted even if there is no file to publish.
        let shared = Arc::clone(&self.shared);
        let mut retry = shared.failures.retry_loop();
        tokio::select! {
            () = stopping.cancelled() => return,
            () = retry.until_ok(|| shared.publisher.delete_freed()) => {}
        }
        while self.left > 0 {
            self.start_files();
            tokio::select! {
                () = stopping.cancelled() => break,
                Some(ranges) = durable.recv() => ranges.iter().for_each(|r| self.check_within(r)),
                Some(ended) = self.running.join_next_with_id() => self.finish_file(ended),
            }
        }
        self.running.shutdown().await;
        // A requested catalog write completes even if its caller is gone. The next open of the import must see it.
        if let Err(e) = self.shared.publisher.catalog().flush().await {
            tracing::warn!("{}", e.report());
        }
        if self.left == 0 {
            self.progress_sender.send_modify(|(_, done)| *done = true);
            self.shared.failures.emit(WriterEvent::Durable(Vec::new()));
        }
    }

    fn store(&self) -> &Arc<ImportStore> {
        self.shared.publisher.store()
    }

    /// Checks the files that `range` may have completed.
    fn check_within(&mut self, range: &Range<u64>) {
        let first = self.files.partition_point(|file| file.start + file.len <= range.start);
        let end = self.files.partition_point(|file| file.start < range.end);
        self.check_files(first..end);
    }

    fn check_files(&mut self, indices: Range<usize>) {
        for index in indices {
            let file = &self.files[index];
            let range = file.start..file.start + file.len;
            if self.states[index] == State::Waiting && self.store().is_durable(range) {
                self.states[index] = State::Claimed;
                self.ready.push_back((index, 0));
            }
        }
    }

    fn start_files(&mut self) {
        while self.running.len() < MAX_FILES_IN_FLIGHT {
            let Some((index, panics)) = self.ready.pop_front() else { return };
            let (shared, file) = (Arc::clone(&self.shared), self.files[index].clone());
            let publish = async move {
                let mut retry = shared.failures.retry_loop().after_panics(panics).await;
                let published = retry.until_ok(|| shared.publish(&file)).await;
                retry.until_ok(|| shared.publisher.delete_freed()).await;
                published
            };
            let handle = self.running.spawn(publish.in_current_span());
            self.indices.insert(handle.id(), (index, panics));
        }
    }

    fn finish_file(&mut self, ended: Result<(task::Id, Published), JoinError>) {
        match ended {
            Ok((id, published)) => {
                self.indices.remove(&id);
                self.left -= 1;
                self.progress_sender.send_modify(|(sum, _)| *sum += published);
            }
            // A bug, reported by the panic hook. The file is tried again after the others.
            Err(e) => {
                let panicked = self.indices.remove(&e.id());
                self.ready.extend(panicked.map(|(index, panics)| (index, panics + 1)));
            }
        }
    }
}

#[derive(Debug)]
struct Shared {
    publisher: Arc<Publisher>,
    failures: FailureTracker,
}

impl Shared {
    async fn publish(&self, file: &FileRow) -> Result<Published> {
        let range = file.start..file.start + file.len;
        match self.publisher.publish(file, &|_| {}).await {
            Err(e) if !self.publisher.store().is_durable(range) => {
                // The next run fetches the lost bytes again.
                self.failures.emit(WriterEvent::Lost(e));
                std::future::pending().await
            }
            published => published,
        }
    }
}
