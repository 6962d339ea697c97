//! The files of an import published one after the other while it goes on: each as soon as all its bytes are durable.
//!
//! Invariants:
//! - A file waits (part of it is not durable), is ready, is being published, or is done; `left` counts all but the done.
//! - What fails is tried again as uploads are, until it succeeds or the run is told to end.

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

use super::{ImportStore, Published, Publisher, WriterEvent, WriterSink, trouble::Troubles};
use crate::{
    catalog::FileRow,
    error::{Error, Kind, Result},
};

/// Files on their way at once: each has several parts on theirs.
const AT_ONCE: usize = 2;

/// Files on their way to be published.
#[derive(Debug)]
pub struct Publishing {
    durable: mpsc::UnboundedSender<Vec<Range<u64>>>,
    stopping: CancellationToken,
    shared: Arc<Shared>,
    /// What was published so far, and whether that is all.
    progress: watch::Receiver<(Published, bool)>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Publishing {
    /// Starts to publish `files`. `sink` hears of failures (`Paused`, `Resumed`, `Failed`), and at the end of nothing
    /// durable, as a wake-up. Failures are tried again after `retry_base` and up to 60 times that.
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
        let troubles = Troubles::new(publisher.store(), retry_base, sink);
        let shared = Shared { publisher, troubles };
        let shared = Arc::new(shared);
        let actor = Actor {
            shared: Arc::clone(&shared),
            states: vec![State::Waiting; files.len()],
            left: files.len(),
            files,
            ready: VecDeque::new(),
            running: JoinSet::new(),
            indices: HashMap::new(),
            told,
        };
        let task = tokio::spawn(actor.run(heard, stopping.clone()).instrument(span));
        Arc::new(Self { durable, stopping, shared, progress, task: Mutex::new(Some(task)) })
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

    /// Whether storage refuses to make a file, as far as was seen a moment ago.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.shared.troubles.any()
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
    /// Each with the tries of it that ended in a panic.
    ready: VecDeque<(usize, u32)>,
    running: JoinSet<Published>,
    indices: HashMap<task::Id, (usize, u32)>,
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
        let mut trouble = swept.troubles.of_one();
        tokio::select! {
            () = stopping.cancelled() => return,
            () = trouble.insist(|| swept.publisher.delete_freed()) => {}
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
            self.shared.troubles.tell(WriterEvent::Durable(Vec::new()));
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
                self.ready.push_back((index, 0));
            }
        }
    }

    fn start(&mut self) {
        while self.running.len() < AT_ONCE {
            let Some((index, panics)) = self.ready.pop_front() else { return };
            let (shared, file) = (Arc::clone(&self.shared), self.files[index].clone());
            let publish = async move {
                let mut trouble = shared.troubles.of_one().after_panics(panics).await;
                let published = trouble.insist(|| shared.publish(&file)).await;
                trouble.insist(|| shared.publisher.delete_freed()).await;
                published
            };
            let handle = self.running.spawn(publish.in_current_span());
            self.indices.insert(handle.id(), (index, panics));
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
    troubles: Troubles,
}

impl Shared {
    async fn publish(&self, file: &FileRow) -> Result<Published> {
        let range = file.start..file.start + file.len;
        match self.publisher.publish(file, &|_| {}).await {
            Err(e) if !self.publisher.store().covered(range) => {
                // What is fetched again is not for this run.
                self.troubles.tell(WriterEvent::Lost(e));
                std::future::pending().await
            }
            published => published,
        }
    }
}
