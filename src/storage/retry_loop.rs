//! Handles failures while bytes wait to be stored: each is reported once, retried with growing backoff, counted, and in
//! the end given up.
//!
//! A failure that may pass, by itself or because the user frees space or grants a permission, is retried for up to two
//! days. One that cannot pass (a catalog or local folder that is gone or read-only, an invalid request, a bug) is tried
//! [`MAX_TRIES`] times. Then [`WriterEvent::Failed`] ends the run; durable bytes stay.

use std::{
    fmt,
    future::{Future, pending},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{ImportStore, WriterEvent, WriterSink};
use crate::{
    backends::Backoff,
    catalog::{is_catalog_failure, leases::is_lease_lost},
    error::{Error, Kind, Result},
};

/// The longest wait between two tries, as a multiple of the first wait: 60 s at the usual 1 s.
const MAX_WAIT_FACTOR: u32 = 60;
/// The longest wait that a storage can ask for. Some ask for a day (a daily quota). A user who frees space or pays
/// meanwhile should not have to wait for all of it.
const MAX_REQUESTED_WAIT: Duration = Duration::from_secs(15 * 60);
/// The number of tries for a failure that does not pass: up to 15 s with first waits of 1 s, for a file that another
/// program closes, or a network folder that reconnects.
const MAX_TRIES: u32 = 5;
/// How long a failure that may pass is retried. A used-up daily quota takes a day.
const MAX_PAUSE: Duration = Duration::from_secs(48 * 3600);

// ANCHOR: is_permanent
/// Whether waiting cannot help against a failure of the catalog or of the storage (`remote`, or a local folder).
fn is_permanent(error: &Error, remote: bool) -> bool {
    match error.kind() {
        Kind::NoSpace
        | Kind::RateLimited
        | Kind::Unavailable
        | Kind::Network
        | Kind::SessionExpired
        // Another object has the name: the user can move it away.
        | Kind::AlreadyExists => false,
        // The owner of a bucket can create it or grant the permission.
        Kind::NotFound | Kind::PermissionDenied | Kind::Unauthenticated => {
            !remote || is_catalog_failure(error)
        }
        Kind::InvalidInput
        | Kind::Corrupt
        | Kind::Changed
        | Kind::Unsupported
        | Kind::Cancelled
        | Kind::Internal => true,
    }
}
// ANCHOR_END: is_permanent

/// The state that the failures of one import's uploads share.
pub(in crate::storage) struct FailureTracker {
    /// Names the import in error texts.
    import: String,
    remote: bool,
    retry_base: Duration,
    sink: WriterSink,
    counts: Mutex<Counts>,
}

impl fmt::Debug for FailureTracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailureTracker").field("import", &self.import).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Counts {
    /// The number of operations that are failing.
    failing: usize,
    /// Those of them that may pass by waiting.
    paused: usize,
    /// A pause was reported, and its end was not.
    pause_reported: bool,
}

impl FailureTracker {
    pub(in crate::storage) fn new(
        store: &ImportStore,
        retry_base: Duration,
        sink: WriterSink,
    ) -> Self {
        let (import, remote) = (format!("import {}", store.id()), store.backend().is_remote());
        Self { import, remote, retry_base, sink, counts: Mutex::default() }
    }

    pub(in crate::storage) fn emit(&self, event: WriterEvent) {
        (self.sink)(event);
    }

    /// Whether an operation is failing now.
    pub(in crate::storage) fn any_failing(&self) -> bool {
        self.counts.lock().failing > 0
    }

    /// A retry loop for one operation that must succeed.
    pub(in crate::storage) fn retry_loop(&self) -> RetryLoop<'_> {
        let state = State::Healthy;
        RetryLoop {
            tracker: self,
            state,
            failing_since: None,
            permanent_tries: 0,
            backoff: self.backoff(),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(self.retry_base, self.retry_base.saturating_mul(MAX_WAIT_FACTOR))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Healthy,
    /// Fails in a way that may pass.
    Paused,
    /// Fails in a way that does not pass.
    Failing,
}

/// The failures of one operation, counted while they last.
pub(in crate::storage) struct RetryLoop<'a> {
    tracker: &'a FailureTracker,
    state: State,
    /// The first failure in a row.
    failing_since: Option<Instant>,
    /// The number of failures in a row that cannot pass.
    permanent_tries: u32,
    backoff: Backoff,
}

impl RetryLoop<'_> {
    /// Waits first, if earlier tries ended in `panics` panics.
    pub(in crate::storage) async fn after_panics(mut self, panics: u32) -> Self {
        if panics > 0 {
            self.permanent_tries = panics - 1;
            self.wait_after(Error::new(Kind::Internal, "an upload panicked")).await;
        }
        self
    }

    /// Calls until it succeeds. If it cannot succeed, it reports `Failed`, which ends the run, and never returns.
    pub(in crate::storage) async fn until_ok<T, F>(&mut self, mut call: impl FnMut() -> F) -> T
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            match call().await {
                Ok(done) => {
                    self.record_success();
                    return done;
                }
                Err(e) => self.wait_after(e).await,
            }
        }
    }

    async fn wait_after(&mut self, error: Error) {
        let requested = error.requested_wait().unwrap_or_default().min(MAX_REQUESTED_WAIT);
        // The backoff with its jitter is added, so that uploads that were asked to wait together do not resume
        // together.
        let wait = requested + self.backoff.next_wait();
        let permanent = is_permanent(&error, self.tracker.remote);
        self.permanent_tries = match permanent {
            // Another process writes the import now.
            true if is_lease_lost(&error) => MAX_TRIES,
            true => self.permanent_tries + 1,
            false => 0,
        };
        let error = error.with_context(&self.tracker.import);
        let failing_since = *self.failing_since.get_or_insert_with(Instant::now);
        if self.permanent_tries >= MAX_TRIES || !permanent && failing_since.elapsed() > MAX_PAUSE {
            self.set_state(State::Failing, None);
            self.tracker.emit(WriterEvent::Failed(error));
            return pending().await;
        }
        tracing::info!("{}; trying again in {wait:.1?}", error.report());
        match permanent {
            true => self.set_state(State::Failing, None),
            false => self.set_state(State::Paused, Some(error)),
        }
        tokio::time::sleep(wait).await;
    }

    /// Records the new state of this operation. The first operation that pauses reports the pause. The first success
    /// after the last pause reports its end. Both are sent under the lock, which keeps their order.
    fn set_state(&mut self, state: State, error: Option<Error>) {
        let before = std::mem::replace(&mut self.state, state);
        let mut counts = self.tracker.counts.lock();
        counts.failing += usize::from(state != State::Healthy);
        counts.failing -= usize::from(before != State::Healthy);
        counts.paused += usize::from(state == State::Paused);
        counts.paused -= usize::from(before == State::Paused);
        if let Some(error) = error
            && !std::mem::replace(&mut counts.pause_reported, true)
        {
            self.tracker.emit(WriterEvent::Paused(error));
        }
    }

    fn record_success(&mut self) {
        if self.state == State::Healthy {
            return;
        }
        self.set_state(State::Healthy, None);
        (self.failing_since, self.permanent_tries, self.backoff) =
            (None, 0, self.tracker.backoff());
        let mut counts = self.tracker.counts.lock();
        if counts.paused == 0 && std::mem::take(&mut counts.pause_reported) {
            self.tracker.emit(WriterEvent::Resumed);
        }
    }
}

impl Drop for RetryLoop<'_> {
    fn drop(&mut self) {
        self.set_state(State::Healthy, None);
    }
}
