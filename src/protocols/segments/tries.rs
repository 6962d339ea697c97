//! Repeats the requests for a segment. Everywhere else `downloads` decides about retries; here the protocol does,
//! because one missing segment must not start a whole stream over.

use std::{future::Future, time::Duration};

use super::segment::Label;
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

/// Consecutive failures of one segment.
#[derive(Debug)]
pub(super) struct SegmentTries {
    max: u32,
    failed: u32,
    backoff: Backoff,
}

impl SegmentTries {
    pub(super) fn new(max: u32) -> Self {
        Self { max: max.max(1), failed: 0, backoff: Backoff::new(BACKOFF.0, BACKOFF.1) }
    }

    /// Counts from the start again, because bytes arrived.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.max);
    }

    /// The wait before the next try after `error`; `None` when there is none.
    pub(super) fn next_wait(&mut self, error: &Error) -> Option<Duration> {
        let max = match error.kind() {
            kind if kind.is_retryable() => self.max,
            Kind::NotFound | Kind::Corrupt => self.max.min(MAX_TRIES_OF_MISSING),
            _ => return None,
        };
        self.failed += 1;
        let server_wait = error.requested_wait().unwrap_or_default();
        let may_retry = self.failed < max && server_wait <= MAX_SERVER_WAIT;
        may_retry.then(|| self.backoff.next_wait().max(server_wait))
    }
}

/// Runs `work` for a segment until it succeeds, at most `max` times. Errors name the segment.
pub(in crate::protocols) async fn with_tries<T, F: Future<Output = Result<T>>>(
    max: u32,
    label: Label,
    mut work: impl FnMut() -> F,
) -> Result<T> {
    let mut tries = SegmentTries::new(max);
    loop {
        let error = match work().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let Some(wait) = tries.next_wait(&error) else { return Err(error.with_context(label)) };
        tracing::info!("{label}: {}; trying again in {:.1} s", error.report(), wait.as_secs_f64());
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a segment is tried that always fails.
    fn count(max: u32, kind: Kind) -> u32 {
        let (mut tries, mut count) = (SegmentTries::new(max), 1);
        while tries.next_wait(&Error::new(kind, "x/7.ts")).is_some() {
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
        let mut tries = SegmentTries::new(5);
        let busy = Error::new(Kind::RateLimited, "busy").retry_after(Duration::from_secs(30));
        assert!(tries.next_wait(&busy).unwrap() >= Duration::from_secs(30));
        let closed = busy.retry_after(Duration::from_secs(3600));
        assert_eq!(tries.next_wait(&closed), None);
    }

    #[tokio::test]
    async fn an_error_names_the_segment() {
        let failed = with_tries(1, Label::Media(7), || {
            std::future::ready(Err::<(), _>(Error::new(Kind::NotFound, "x/7.ts")))
        });
        assert_eq!(failed.await.unwrap_err().report(), "segment 7: x/7.ts");
    }
}
