//! Handles failures while bytes wait to be stored: each is reported once, retried with growing backoff, counted, and in
//! the end given up.
//!
//! A failure that may pass, by itself or because the user frees space or grants a permission, is retried for up to two
//! days. One that cannot pass (a catalog or local folder that is gone or read-only, an invalid request, a bug) is tried
//! [`TRIES`] times. Then [`WriterEvent::Failed`] ends the run; durable bytes stay.

use std::{
    fmt,
    future::{Future, pending},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{ImportStore, WriterEvent, WriterSink};
use crate::{
    backends::Backoff,
    catalog::is_catalog_failure,
    error::{Error, Kind, Result},
};

/// The longest wait between two tries, as a multiple of the first wait: 60 s at the usual 1 s.
const LONGEST_WAIT: u32 = 60;
/// The longest wait that a storage can ask for. Some ask for a day (a daily quota). A user who frees space or pays
/// meanwhile should not have to wait for all of it.
const LONGEST_ASKED: Duration = Duration::from_secs(15 * 60);
/// The number of tries for a failure that does not pass: up to 15 s with first waits of 1 s, for a file that another
/// program closes, or a network folder that reconnects.
const TRIES: u32 = 5;
/// How long a failure that may pass is retried. A used-up daily quota takes a day.
const LONGEST_PAUSE: Duration = Duration::from_secs(48 * 3600);

/// Whether waiting cannot help against a failure of the catalog or of the storage (`remote`, or a local folder).
fn cannot_pass(error: &Error, remote: bool) -> bool {
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

/// The state that the failures of one import's uploads share.
pub(super) struct Troubles {
    /// Names the import in error texts.
    import: String,
    remote: bool,
    retry_base: Duration,
    sink: WriterSink,
    now: Mutex<Now>,
}

impl fmt::Debug for Troubles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Troubles").field("import", &self.import).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Now {
    /// The number of operations that are failing.
    failing: usize,
    /// Those of them that may pass by waiting.
    paused: usize,
    /// A pause was reported, and its end was not.
    told: bool,
}

impl Troubles {
    pub(super) fn new(store: &ImportStore, retry_base: Duration, sink: WriterSink) -> Self {
        let (import, remote) = (format!("import {}", store.id()), store.backend().is_remote());
        Self { import, remote, retry_base, sink, now: Mutex::default() }
    }

    pub(super) fn tell(&self, event: WriterEvent) {
        (self.sink)(event);
    }

    /// Whether an operation is failing now.
    pub(super) fn any(&self) -> bool {
        self.now.lock().failing > 0
    }

    /// A retry loop for one operation that must succeed.
    pub(super) fn of_one(&self) -> Trouble<'_> {
        let state = State::Well;
        Trouble { all: self, state, since: None, tries: 0, backoff: self.backoff() }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(self.retry_base, self.retry_base.saturating_mul(LONGEST_WAIT))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Well,
    /// Fails in a way that may pass.
    Paused,
    /// Fails in a way that does not pass.
    Failing,
}

/// The failures of one operation, counted while they last.
pub(super) struct Trouble<'a> {
    all: &'a Troubles,
    state: State,
    /// The first failure in a row.
    since: Option<Instant>,
    /// The number of failures in a row that cannot pass.
    tries: u32,
    backoff: Backoff,
}

impl Trouble<'_> {
    /// Waits first, if earlier tries ended in `panics` panics.
    pub(super) async fn after_panics(mut self, panics: u32) -> Self {
        if panics > 0 {
            self.tries = panics - 1;
            self.wait_after(Error::new(Kind::Internal, "an upload ended in a panic")).await;
        }
        self
    }

    /// Calls until it succeeds. If it cannot succeed, it reports `Failed`, which ends the run, and never returns.
    pub(super) async fn insist<T, F>(&mut self, mut call: impl FnMut() -> F) -> T
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            match call().await {
                Ok(done) => {
                    self.succeeded();
                    return done;
                }
                Err(e) => self.wait_after(e).await,
            }
        }
    }

    async fn wait_after(&mut self, error: Error) {
        let asked = error.wait_asked().unwrap_or_default().min(LONGEST_ASKED);
        // The backoff with its jitter is added, so that uploads that were asked to wait together do not resume
        // together.
        let wait = asked + self.backoff.next_wait();
        let hopeless = cannot_pass(&error, self.all.remote);
        let error = error.within(&self.all.import);
        self.tries = if hopeless { self.tries + 1 } else { 0 };
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.tries >= TRIES || !hopeless && since.elapsed() > LONGEST_PAUSE {
            self.count(State::Failing, None);
            self.all.tell(WriterEvent::Failed(error));
            return pending().await;
        }
        tracing::info!("{}; trying again in {wait:.1?}", error.report());
        match hopeless {
            true => self.count(State::Failing, None),
            false => self.count(State::Paused, Some(error)),
        }
        tokio::time::sleep(wait).await;
    }

    /// Records the new state of this operation. The first operation that pauses reports the pause. The first success
    /// after the last pause reports its end. Both are sent under the lock, which keeps their order.
    fn count(&mut self, state: State, error: Option<Error>) {
        let before = std::mem::replace(&mut self.state, state);
        let mut now = self.all.now.lock();
        now.failing += usize::from(state != State::Well);
        now.failing -= usize::from(before != State::Well);
        now.paused += usize::from(state == State::Paused);
        now.paused -= usize::from(before == State::Paused);
        if let Some(error) = error
            && !std::mem::replace(&mut now.told, true)
        {
            self.all.tell(WriterEvent::Paused(error));
        }
    }

    fn succeeded(&mut self) {
        if self.state == State::Well {
            return;
        }
        self.count(State::Well, None);
        (self.since, self.tries, self.backoff) = (None, 0, self.all.backoff());
        let mut now = self.all.now.lock();
        if now.paused == 0 && std::mem::take(&mut now.told) {
            self.all.tell(WriterEvent::Resumed);
        }
    }
}

impl Drop for Trouble<'_> {
    fn drop(&mut self) {
        self.count(State::Well, None);
    }
}
