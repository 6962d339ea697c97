//! What is missing from a stream that was fetched. It is counted while segments are fetched, and reported at the end.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::{
    error::{Error, Kind},
    units::pluralize,
};

/// Counters of one file.
#[derive(Debug, Default)]
pub(in crate::protocols) struct Outcome {
    gaps: AtomicU64,
    skipped: AtomicU64,
    lost: AtomicU64,
    failure: Mutex<Option<Error>>,
}

/// What is missing from a stream.
#[derive(Debug, Clone, Default)]
pub struct StreamSummary {
    /// Segments that the list itself declares as missing.
    pub gaps: u64,
    /// Segments that the server does not have, and that were left out on request.
    pub skipped: u64,
    /// Segments of a live stream that left its list before they were fetched.
    pub lost: u64,
    /// Why the recording of a live stream ended early.
    pub failure: Option<Error>,
}

impl StreamSummary {
    pub(super) fn add(self, other: Self) -> Self {
        Self {
            gaps: self.gaps + other.gaps,
            skipped: self.skipped + other.skipped,
            lost: self.lost + other.lost,
            failure: self.failure.or(other.failure),
        }
    }

    /// The error of a file in which something is missing that the list has.
    #[must_use]
    pub fn error(&self, name: &str) -> Option<Error> {
        if let Some(failure) = &self.failure {
            let text = format!("{name}: the recording ended early: {}", failure.report());
            return Some(Error::new(failure.kind(), text));
        }
        let segments = |count| pluralize(count, "segment");
        let text = match (self.skipped, self.lost) {
            (0, 0) => return None,
            (skipped, 0) => format!("{} skipped", segments(skipped)),
            (0, lost) => format!("{} lost", segments(lost)),
            (skipped, lost) => format!("{} skipped and {} lost", segments(skipped), segments(lost)),
        };
        Some(Error::new(Kind::Corrupt, format!("{name} is not complete: {text}")))
    }
}

impl Outcome {
    /// A segment that the list declares as missing.
    pub(in crate::protocols) fn add_gap(&self, label: &dyn std::fmt::Display) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("{label} is a gap: the list says that the server does not have it");
    }

    pub(in crate::protocols) fn add_skipped(&self, error: &Error) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("{}; it is skipped", error.report());
    }

    pub(in crate::protocols) fn add_lost(&self, count: u64, reason: &str) {
        self.lost.fetch_add(count, Ordering::Relaxed);
        tracing::warn!("{} lost: {reason}", pluralize(count, "segment"));
    }

    pub(in crate::protocols) fn fail(&self, error: Error) {
        self.failure.lock().get_or_insert(error);
    }

    pub(super) fn summary(&self) -> StreamSummary {
        StreamSummary {
            gaps: self.gaps.load(Ordering::Relaxed),
            skipped: self.skipped.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            failure: self.failure.lock().clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_and_lost_segments_are_an_error_and_gaps_are_not() {
        let outcome = Outcome::default();
        outcome.add_gap(&"segment 3");
        assert!(outcome.summary().error("f.ts").is_none());
        outcome.add_skipped(&Error::new(Kind::NotFound, "segment 4"));
        outcome.add_lost(2, "the list has moved on");
        let error = outcome.summary().error("f.ts").unwrap();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert_eq!(error.report(), "f.ts is not complete: 1 segment skipped and 2 segments lost");
        outcome.fail(Error::new(Kind::Network, "host not found"));
        assert_eq!(outcome.summary().error("f.ts").unwrap().kind(), Kind::Network);
    }
}
