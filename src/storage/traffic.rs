//! What reading an import cost nobody: the bytes that were here already. What is read from the place is counted there
//! ([`Metered`](crate::backends::Metered)).

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one import, as long as it is open.
#[derive(Debug, Default)]
pub struct Traffic {
    kept: AtomicU64,
}

impl Traffic {
    pub(super) fn count_kept(&self, bytes: u64) {
        self.kept.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that readers had from the cache.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }
}
