//! Repeats the requests for a segment. Everywhere else `downloads` decides about retries; here the protocol does,
//! because one missing segment must not start a whole stream over.

use std::{
    fmt::Display,
    future::Future,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    backends::Backoff,
    error::{Error, Kind, Result},
};

/// Upper bounds of the first wait after a failure, and of all waits.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Longest delay requested by a server that is waited for.
const MAX_SERVER_WAIT: Duration = Duration::from_secs(600);
/// Tries for a segment that the server does not have, or whose bytes are not those of a stream. Servers behind one host
/// name may differ for a moment.
const MAX_TRIES_OF_MISSING: u32 = 3;

/// The tries for the segments of one list. Another segment that succeeds shows that the server works. The failures of a
/// segment then count from the start again, so that a busy server does not end a long stream.
#[derive(Debug)]
pub(in crate::protocols) struct ListTries {
    max: u32,
    successes: AtomicU64,
}

impl ListTries {
    /// At most `max` tries in a row.
    pub(super) fn new(max: u32) -> Self {
        Self { max: max.max(1), successes: AtomicU64::new(0) }
    }

    pub(super) fn succeeded(&self) {
        self.successes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Consecutive failures of one segment.
#[derive(Debug)]
pub(super) struct SegmentTries {
    failed: u32,
    backoff: Backoff,
    /// Successes of the list before the last failure.
    successes: u64,
}

impl SegmentTries {
    pub(super) fn new(list: &ListTries) -> Self {
        Self {
            failed: 0,
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
            successes: list.successes.load(Ordering::Relaxed),
        }
    }

    /// Counts from the start again, because bytes arrived.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
        self.backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    }

    /// The wait before the next try after `error`; `None` when there is none.
    pub(super) fn next_wait(&mut self, list: &ListTries, error: &Error) -> Option<Duration> {
        let max = match error.kind() {
            kind if kind.is_retryable() => {
                let successes = list.successes.load(Ordering::Relaxed);
                if successes > self.successes {
                    self.successes = successes;
                    self.reset();
                }
                list.max
            }
            Kind::NotFound | Kind::Corrupt => list.max.min(MAX_TRIES_OF_MISSING),
            _ => return None,
        };
        self.failed += 1;
        let server_wait = error.requested_wait().unwrap_or_default();
        let may_retry = self.failed < max && server_wait <= MAX_SERVER_WAIT;
        may_retry.then(|| self.backoff.next_wait().max(server_wait))
    }
}

/// Runs `work` until it succeeds, as often as `list` allows. Errors begin with `what`, the segment or what it needs.
pub(in crate::protocols) async fn with_tries<T, F: Future<Output = Result<T>>>(
    list: &ListTries,
    what: impl Display,
    mut work: impl FnMut() -> F,
) -> Result<T> {
    let mut tries = SegmentTries::new(list);
    loop {
        let error = match work().await {
            Ok(done) => {
                list.succeeded();
                return Ok(done);
            }
            Err(error) => error,
        };
        let Some(wait) = tries.next_wait(list, &error) else {
            return Err(error.with_context(what));
        };
        tracing::info!("{what}: {}; trying again in {:.1} s", error.report(), wait.as_secs_f64());
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::segments::Label;

    /// How often a segment is tried that always fails.
    fn count(max: u32, kind: Kind) -> u32 {
        let list = ListTries::new(max);
        let (mut tries, mut count) = (SegmentTries::new(&list), 1);
        while tries.next_wait(&list, &Error::new(kind, "x/7.ts")).is_some() {
            count += 1;
        }
        count
    }

    #[test]
    fn only_failures_that_may_pass_are_repeated() {
        assert_eq!(count(5, Kind::Network), 5);
        assert_eq!((count(5, Kind::NotFound), count(5, Kind::Corrupt)), (3, 3));
        assert_eq!(count(1, Kind::NotFound), 1);
        for kind in [Kind::PermissionDenied, Kind::Unsupported, Kind::Changed] {
            assert_eq!(count(5, kind), 1, "{kind:?}");
        }
        let list = ListTries::new(5);
        let mut tries = SegmentTries::new(&list);
        let busy = Error::new(Kind::RateLimited, "busy").retry_after(Duration::from_secs(30));
        assert!(tries.next_wait(&list, &busy).unwrap() >= Duration::from_secs(30));
        let closed = busy.retry_after(Duration::from_secs(3600));
        assert_eq!(tries.next_wait(&list, &closed), None);
    }

    #[test]
    fn a_segment_that_succeeds_gives_the_others_new_tries() {
        let list = ListTries::new(2);
        let mut tries = SegmentTries::new(&list);
        let mut may_retry = |kind| tries.next_wait(&list, &Error::new(kind, "x/7.ts")).is_some();
        for _ in 0..9 {
            assert!(may_retry(Kind::Unavailable));
            list.succeeded();
        }
        assert!(may_retry(Kind::Unavailable) && !may_retry(Kind::Unavailable));
        list.succeeded();
        assert!(!may_retry(Kind::NotFound), "a missing segment is not a busy server");
    }

    #[tokio::test]
    async fn an_error_names_the_segment() {
        let list = ListTries::new(1);
        let failed = with_tries(&list, Label::Media(7), || {
            std::future::ready(Err::<(), _>(Error::new(Kind::NotFound, "x/7.ts")))
        });
        assert_eq!(failed.await.unwrap_err().report(), "segment 7: x/7.ts");
    }
}
