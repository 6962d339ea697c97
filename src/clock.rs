//! The time of day, as a value that is handed in, so that tests move it by hand.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

/// A clock. Clones show the same time.
#[derive(Clone, Default)]
pub struct Clock {
    /// Milliseconds since 1970, when it is set by hand.
    by_hand: Option<Arc<AtomicU64>>,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("now", &self.now()).finish()
    }
}

impl Clock {
    /// The clock of the system.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands still until [`Clock::advance`].
    #[must_use]
    pub fn by_hand() -> Self {
        Self { by_hand: Some(Arc::default()) }
    }

    /// The time since 1970.
    #[must_use]
    pub fn now(&self) -> Duration {
        match &self.by_hand {
            Some(now) => Duration::from_millis(now.load(Ordering::Relaxed)),
            None => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// Moves a clock that is set by hand. The clock of the system ignores it.
    pub fn advance(&self, by: Duration) {
        if let Some(now) = &self.by_hand {
            let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            now.fetch_add(by, Ordering::Relaxed);
        }
    }
}
