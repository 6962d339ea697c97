//! Counts the bytes of an import that were served from the cache. Reads from the storage are counted by
//! [`Metered`](crate::backends::Metered).

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one import, from opening it to closing it.
#[derive(Debug, Default)]
pub struct Traffic {
    kept: AtomicU64,
}

impl Traffic {
    pub(super) fn count_kept(&self, bytes: u64) {
        self.kept.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that readers received from the cache.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }
}
