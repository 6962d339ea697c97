//! Counts the bytes of an import that were served from the cache. Reads from the storage are counted by
//! [`Metered`](crate::backends::Metered).

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one import, from opening it to closing it.
#[derive(Debug, Default)]
pub struct ReadStats {
    cached_bytes: AtomicU64,
}

impl ReadStats {
    pub(in crate::storage) fn add_cached_bytes(&self, bytes: u64) {
        self.cached_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that readers received from the cache.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.cached_bytes.load(Ordering::Relaxed)
    }
}
