//! When a failed download is tried again.

use std::time::Duration;

use super::state::{Failure, State};
use crate::error::{Error, Kind};

/// Delays after the first, second, … failure. The last one repeats.
const DELAYS: [u64; 8] = [5, 15, 60, 120, 300, 600, 1800, 3600];
/// Storage that is full or refuses writes needs the user.
const STORAGE_DELAY: u64 = 600;
/// A server's wish to be left alone is kept up to this.
pub(super) const MAX_DELAY: u64 = 24 * 3600;

/// The state after a failure. `tries` counts the failures, this one included.
#[must_use]
pub(super) fn after_failure(error: &Error, tries: u32, max_tries: u32, now: u64) -> State {
    let failure = Failure::from(error);
    if !may_pass(error.kind()) || tries >= max_tries {
        return State::Failed { error: failure };
    }
    let index = usize::try_from(tries.saturating_sub(1)).unwrap_or(usize::MAX);
    let delay = DELAYS[index.min(DELAYS.len() - 1)];
    let delay = if error.kind() == Kind::NoSpace { delay.max(STORAGE_DELAY) } else { delay };
    let requested = error.requested_wait().as_ref().map_or(0, Duration::as_secs);
    State::Retrying { at: now + delay.max(requested.min(MAX_DELAY)), error: failure }
}

/// Whether the same download may succeed later without a change of its settings.
fn may_pass(kind: Kind) -> bool {
    kind.is_retryable() || matches!(kind, Kind::NoSpace | Kind::Changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry_at(kind: Kind, tries: u32) -> Option<u64> {
        match after_failure(&Error::new(kind, "x"), tries, 12, 1000) {
            State::Retrying { at, .. } => Some(at - 1000),
            State::Failed { .. } => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn delays_grow_up_to_an_hour_until_the_tries_are_used_up() {
        let delays: Vec<_> = (1..12).map(|tries| retry_at(Kind::Network, tries).unwrap()).collect();
        assert!(delays.is_sorted());
        assert_eq!((delays[0], delays[10]), (5, 3600));
        assert_eq!(retry_at(Kind::Network, 12), None);
    }

    #[test]
    fn errors_that_need_another_request_are_not_retried() {
        for kind in [Kind::NotFound, Kind::InvalidInput, Kind::Unauthenticated, Kind::Internal] {
            assert_eq!(retry_at(kind, 1), None, "{kind:?}");
        }
        assert_eq!(retry_at(Kind::NoSpace, 1), Some(600));
        let asked = Error::new(Kind::RateLimited, "x").retry_after(Duration::from_secs(1_000_000));
        let State::Retrying { at, .. } = after_failure(&asked, 1, 12, 0) else { panic!() };
        assert_eq!(at, MAX_DELAY);
    }
}
