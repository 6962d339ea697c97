//! The changes of downloads, at the pace of a client.
//!
//! # Invariants
//! - A batch has one entry for each download, however often it changed. The next look at the queue waits until the batch
//!   is sent.
//! - Entries are sent in the order of their revisions, each with its own as its position. So a client may continue after
//!   any of them, and misses nothing.
//! - A download is sent in its latest state, which may be newer than its entry. It is sent again then with its own entry.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::pb::{self, progress_update::Change};
use crate::{
    error::Result,
    queue::{Download, DownloadId, Filter, Page, Queue, Removal, StateName},
};

/// Shortest time between two looks at the queue: a look takes time that grows with the number of downloads.
const MIN_INTERVAL: Duration = Duration::from_millis(20);

/// A follower of downloads.
pub(super) struct Follow {
    queue: Queue,
    run: Arc<str>,
    /// `None` follows all.
    ids: Option<HashSet<DownloadId>>,
    revisions: watch::Receiver<u64>,
    /// Revision of the last look at the queue.
    seen: u64,
    pending: VecDeque<Pending>,
    interval: Duration,
    next_look: Instant,
    has_looked: bool,
    until_finished: bool,
    /// Whether the batch is the last one.
    is_last: bool,
}

/// What is to be sent.
enum Pending {
    Reset,
    Changed(Arc<Download>),
    Removed(Removal),
    /// With the revision up to which the client has everything.
    UpToDate(u64),
}

impl Pending {
    fn sequence(&self) -> u64 {
        match self {
            Self::Reset => 0,
            Self::Changed(download) => download.revision,
            Self::Removed(removal) => removal.revision,
            Self::UpToDate(revision) => *revision,
        }
    }
}

impl Follow {
    /// Follows the downloads of a request. `run` is the run of the daemon.
    ///
    /// # Errors
    /// `NotFound` and `InvalidInput` as of [`Queue::find`].
    pub(super) fn new(
        queue: &Queue,
        run: &Arc<str>,
        request: &pb::StreamProgressRequest,
    ) -> Result<Self> {
        let ids = match request.downloads.as_slice() {
            [] => None,
            texts => {
                let find = |text: &String| Ok(queue.find(text)?.id.clone());
                Some(texts.iter().map(find).collect::<Result<_>>()?)
            }
        };
        let after = request.after.as_ref().filter(|position| *position.run == **run);
        let mut follow = Self {
            queue: queue.clone(),
            run: Arc::clone(run),
            ids,
            revisions: queue.subscribe(),
            seen: after.map_or(0, |position| position.sequence),
            pending: VecDeque::new(),
            interval: Duration::from_millis(request.min_interval_ms.into()).max(MIN_INTERVAL),
            next_look: Instant::now(),
            has_looked: false,
            until_finished: request.until_finished,
            is_last: false,
        };
        follow.look();
        Ok(follow)
    }

    /// The next update; `None` at the end. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<pb::ProgressUpdate> {
        loop {
            while let Some(pending) = self.pending.pop_front() {
                if let Some(update) = self.update(pending) {
                    return Some(update);
                }
            }
            if self.is_last {
                return None;
            }
            tokio::time::sleep_until(self.next_look).await;
            self.revisions.changed().await.ok()?;
            self.look();
        }
    }

    /// Puts what changed since the last look into the batch.
    fn look(&mut self) {
        self.next_look = Instant::now() + self.interval;
        // Before the changes are read: the last ones are in the batch then.
        self.is_last = self.until_finished && self.all_finished();
        let changes = self.queue.changes_since(self.seen);
        // Revision 0 has nothing that could be outdated.
        let is_reset = changes.is_full && !(self.has_looked && self.seen == 0);
        if is_reset {
            self.pending.push_back(Pending::Reset);
        }
        let changed = changes.changed.into_iter().filter(|d| self.follows(&d.id));
        let removed = changes.removed.into_iter().filter(|removal| self.follows(&removal.id));
        let mut batch: Vec<Pending> =
            changed.map(Pending::Changed).chain(removed.map(Pending::Removed)).collect();
        batch.sort_by_key(Pending::sequence);
        self.pending.extend(batch);
        if is_reset || !self.has_looked {
            self.pending.push_back(Pending::UpToDate(changes.revision));
        }
        self.seen = changes.revision;
        self.has_looked = true;
    }

    fn follows(&self, id: &DownloadId) -> bool {
        self.ids.as_ref().is_none_or(|ids| ids.contains(id))
    }

    /// The message for an entry; `None` when the next look has it.
    fn update(&self, pending: Pending) -> Option<pb::ProgressUpdate> {
        let sequence = pending.sequence();
        let change = match pending {
            Pending::Reset => Change::Reset(pb::Reset {}),
            // One that is gone was removed after the look.
            Pending::Changed(download) => {
                Change::Download((&*self.queue.get(&download.id).ok()?).into())
            }
            Pending::Removed(removal) => Change::Removed(removal.id.to_string()),
            Pending::UpToDate(_) => Change::UpToDate(pb::UpToDate {}),
        };
        let position = pb::Position { run: self.run.to_string(), sequence };
        Some(pb::ProgressUpdate { position: Some(position), change: Some(change) })
    }

    fn all_finished(&self) -> bool {
        let is_final = |d: &Download| matches!(d.state.name(), StateName::Done | StateName::Failed);
        match &self.ids {
            Some(ids) => ids.iter().all(|id| self.queue.get(id).map_or(true, |d| is_final(&d))),
            None => {
                let all = self.queue.list(&Filter::default(), Page::default()).downloads;
                all.iter().all(|download| is_final(download))
            }
        }
    }
}
