//! What reading an import costs: gets, the bytes they brought, and those that needed none.

use std::sync::atomic::{AtomicU64, Ordering};

use super::fetch::Spent;

/// Counters of one import, as long as it is open.
#[derive(Debug, Default)]
pub struct Traffic {
    gets: AtomicU64,
    fetched: AtomicU64,
    kept: AtomicU64,
}

/// What was counted so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ranged gets that the backend answered.
    pub gets: u64,
    /// Bytes they brought.
    pub fetched: u64,
    /// Bytes that readers had from the cache.
    pub kept: u64,
}

impl Traffic {
    pub(super) fn fetched(&self, spent: Spent) {
        self.gets.fetch_add(spent.gets, Ordering::Relaxed);
        self.fetched.fetch_add(spent.bytes, Ordering::Relaxed);
    }

    pub(super) fn kept(&self, bytes: usize) {
        self.kept.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    #[must_use]
    pub fn tally(&self) -> Tally {
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Tally { gets: count(&self.gets), fetched: count(&self.fetched), kept: count(&self.kept) }
    }
}
