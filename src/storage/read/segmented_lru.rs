//! A segmented LRU cache: decides which entries are evicted first. Pure.
//!
//! Both segments are LRU lists. A new entry starts in the new segment. An entry that is read more than once over is
//! promoted to the hot segment. New entries are evicted first, so that one scan over everything does not evict what
//! many readers use. "Once over" counts bytes: a window is read in 64 blocks, and that is one reading, not 64.
//!
//! # Invariants
//! - `bytes` is the sum of the memory of the entries ([`Blocks::footprint`]). After each insert it is within the capacity, unless a single entry is
//!   longer.
//! - Hot entries fill at most three quarters of the capacity; the oldest of them are demoted to the new segment. An
//!   entry that is not read while [`STALE_FACTOR`] times the capacity arrives is demoted too, so an entry that was hot
//!   last week is evicted in the end.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    ops::Range,
};

use super::blocks::Blocks;
use crate::backends::Payload;

/// How many times the capacity may arrive before a hot entry that is not read is demoted. A shorter scan leaves it
/// alone.
const STALE_FACTOR: u64 = 32;

/// Bytes by key, within a capacity.
#[derive(Debug)]
pub(super) struct SegmentedLru<K> {
    entries: HashMap<K, Entry>,
    /// By last use, oldest first.
    new: BTreeMap<u64, K>,
    hot: BTreeMap<u64, K>,
    clock: u64,
    /// The number of bytes inserted so far.
    inserted: u64,
    bytes: u64,
    hot_bytes: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: Blocks,
    last_use: u64,
    /// The value of `inserted` at the last use.
    inserted_at_use: u64,
    hot: bool,
    /// Bytes returned since it was inserted, or since it was demoted.
    bytes_read: u64,
}

impl<K> Default for SegmentedLru<K> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            new: BTreeMap::new(),
            hot: BTreeMap::new(),
            clock: 0,
            inserted: 0,
            bytes: 0,
            hot_bytes: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> SegmentedLru<K> {
    pub(in crate::storage) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The number of entries.
    pub(in crate::storage) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(in crate::storage) fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// All bytes of an entry, without counting them as read.
    pub(in crate::storage) fn peek(&self, key: &K) -> Option<Blocks> {
        self.entries.get(key).map(|entry| entry.bytes.clone())
    }

    /// Reads a `part` of an entry. `promotes`: whether the read counts for promotion and age. Without it the entry
    /// keeps its position in the LRU order.
    pub(in crate::storage) fn get(
        &mut self,
        key: &K,
        part: Range<usize>,
        capacity: u64,
        promotes: bool,
    ) -> Option<Payload> {
        let entry = self.entries.get_mut(key)?;
        let part_bytes = entry.bytes.slice(part);
        if !promotes {
            return Some(part_bytes);
        }
        entry.bytes_read += part_bytes.len();
        let len = entry.bytes.footprint();
        let is_promoted = !entry.hot && entry.bytes_read > entry.bytes.len() as u64;
        let segment = if entry.hot { &mut self.hot } else { &mut self.new };
        segment.remove(&entry.last_use);
        self.clock += 1;
        (entry.last_use, entry.inserted_at_use) = (self.clock, self.inserted);
        if is_promoted {
            entry.hot = true;
            self.hot_bytes += len;
        }
        let segment = if entry.hot { &mut self.hot } else { &mut self.new };
        segment.insert(self.clock, key.clone());
        if is_promoted {
            self.demote_excess(capacity);
        }
        Some(part_bytes)
    }

    /// Inserts `bytes`, and evicts what no longer fits.
    pub(in crate::storage) fn insert(&mut self, key: K, bytes: Blocks, capacity: u64) {
        self.remove(&key);
        self.clock += 1;
        self.bytes += bytes.footprint();
        self.inserted += bytes.footprint();
        let entry = Entry {
            bytes,
            last_use: self.clock,
            inserted_at_use: self.inserted,
            hot: false,
            bytes_read: 0,
        };
        self.entries.insert(key.clone(), entry);
        self.new.insert(self.clock, key);
        self.shrink(capacity);
    }

    /// Evicts entries until the rest fits, or only one is left.
    pub(super) fn shrink(&mut self, capacity: u64) {
        self.demote_excess(capacity);
        while self.bytes > capacity && self.entries.len() > 1 {
            let oldest = self.new.first_key_value().or_else(|| self.hot.first_key_value());
            let Some(key) = oldest.map(|(_, key)| key.clone()) else { return };
            self.remove(&key);
        }
    }

    pub(in crate::storage) fn remove(&mut self, key: &K) {
        let Some(entry) = self.entries.remove(key) else { return };
        let len = entry.bytes.footprint();
        self.bytes -= len;
        if entry.hot {
            self.hot_bytes -= len;
            self.hot.remove(&entry.last_use);
        } else {
            self.new.remove(&entry.last_use);
        }
    }

    pub(in crate::storage) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        let removed: Vec<K> = self.entries.keys().filter(|key| !keep(key)).cloned().collect();
        removed.iter().for_each(|key| self.remove(key));
    }

    /// Demotes the oldest hot entries while the hot segment is too large or they are stale.
    fn demote_excess(&mut self, capacity: u64) {
        loop {
            let Some(oldest) = self.hot.first_entry() else { return };
            let Some(entry) = self.entries.get_mut(oldest.get()) else { return };
            let stale =
                self.inserted - entry.inserted_at_use > capacity.saturating_mul(STALE_FACTOR);
            if self.hot_bytes <= capacity / 4 * 3 && !stale {
                return;
            }
            let key = oldest.remove();
            self.hot_bytes -= entry.bytes.footprint();
            self.clock += 1;
            (entry.hot, entry.bytes_read, entry.last_use) = (false, 0, self.clock);
            self.new.insert(self.clock, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy)]
    struct ModelEntry {
        key: u8,
        len: u64,
        bytes_read: u64,
        inserted_at_use: u64,
    }

    /// The reference model: two lists, oldest first.
    #[derive(Default)]
    struct Model {
        new: Vec<ModelEntry>,
        hot: Vec<ModelEntry>,
        inserted: u64,
    }

    impl Model {
        fn bytes(&self) -> u64 {
            self.new.iter().chain(&self.hot).map(|entry| entry.len).sum()
        }

        fn take(&mut self, key: u8) -> Option<(ModelEntry, bool)> {
            let at = |list: &[ModelEntry]| list.iter().position(|entry| entry.key == key);
            let new = at(&self.new).map(|n| (self.new.remove(n), false));
            new.or_else(|| at(&self.hot).map(|n| (self.hot.remove(n), true)))
        }

        fn get(&mut self, key: u8, len: u64, capacity: u64) -> bool {
            let Some((mut entry, hot)) = self.take(key) else { return false };
            entry.bytes_read += len.min(entry.len);
            entry.inserted_at_use = self.inserted;
            let hot_now = hot || entry.bytes_read > entry.len;
            if hot_now {
                self.hot.push(entry)
            } else {
                self.new.push(entry)
            }
            if hot_now && !hot {
                self.demote_excess(capacity);
            }
            true
        }

        fn insert(&mut self, key: u8, len: u64, capacity: u64) {
            self.take(key);
            self.inserted += len;
            self.new.push(ModelEntry { key, len, bytes_read: 0, inserted_at_use: self.inserted });
            self.shrink(capacity);
        }

        fn shrink(&mut self, capacity: u64) {
            self.demote_excess(capacity);
            while self.bytes() > capacity && self.new.len() + self.hot.len() > 1 {
                if self.new.is_empty() {
                    self.hot.remove(0)
                } else {
                    self.new.remove(0)
                };
            }
        }

        fn demote_excess(&mut self, capacity: u64) {
            while let Some(oldest) = self.hot.first().copied() {
                let too_many =
                    self.hot.iter().map(|entry| entry.len).sum::<u64>() > capacity / 4 * 3;
                if !too_many && self.inserted - oldest.inserted_at_use <= capacity * STALE_FACTOR {
                    return;
                }
                self.hot.remove(0);
                self.new.push(ModelEntry { bytes_read: 0, ..oldest });
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Get(u8, u64),
        Insert(u8, u64),
        Shrink(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..12, 1u64..40).prop_map(|(key, len)| Step::Get(key, len)),
            3 => (0u8..12, 1u64..40).prop_map(|(key, len)| Step::Insert(key, len)),
            1 => (20u64..120).prop_map(Step::Shrink),
        ]
    }

    fn bytes(len: u64) -> Blocks {
        Blocks::from(Bytes::from(vec![0; usize::try_from(len).unwrap()]))
    }

    proptest! {
        #[test]
        fn entries_and_order_match_the_plain_model(steps in proptest::collection::vec(step(), 1..200)) {
            let (mut lru, mut model, mut capacity) = (SegmentedLru::default(), Model::default(), 100);
            for step in steps {
                match step {
                    Step::Get(key, len) => {
                        let whole = lru.entries.get(&key).map_or(0, |e| e.bytes.len());
                        let part = 0..usize::try_from(len).unwrap().min(whole);
                        let got = lru.get(&key, part, capacity, true).is_some();
                        prop_assert_eq!(got, model.get(key, len, capacity));
                    }
                    Step::Insert(key, len) => {
                        lru.insert(key, bytes(len), capacity);
                        model.insert(key, len, capacity);
                    }
                    Step::Shrink(to) => {
                        capacity = to;
                        lru.shrink(capacity);
                        model.shrink(capacity);
                    }
                }
                prop_assert_eq!(lru.bytes(), model.bytes());
                prop_assert!(lru.bytes() <= capacity || lru.entries.len() == 1);
                let keys = |list: &BTreeMap<u64, u8>| list.values().copied().collect::<Vec<_>>();
                prop_assert_eq!(keys(&lru.new), model.new.iter().map(|t| t.key).collect::<Vec<_>>());
                prop_assert_eq!(keys(&lru.hot), model.hot.iter().map(|t| t.key).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_scan_does_not_evict_hot_entries() {
        let mut lru = SegmentedLru::default();
        let capacity = 100 * 16;
        let read = |lru: &mut SegmentedLru<u32>, key: u32| {
            if !lru.contains(&key) {
                lru.insert(key, bytes(16), capacity);
            }
            // Peers read in blocks.
            (0..4).all(|n| lru.get(&key, 4 * n..4 * n + 4, capacity, true).is_some())
        };
        for _ in 0..2 {
            (0..50).for_each(|key| assert!(read(&mut lru, key)));
        }
        (1000..4000).for_each(|key| assert!(read(&mut lru, key)));
        assert!((0..50).all(|key| lru.contains(&key)), "after a scan of 30 times the capacity");
        // Another set of keys that is read repeatedly replaces them.
        (0..2).for_each(|_| (100..140).for_each(|key| assert!(read(&mut lru, key))));
        (1000..4000).for_each(|key| assert!(read(&mut lru, key)));
        assert!((100..140).all(|key| lru.contains(&key)));
        assert!(
            (0..50).all(|key| !lru.contains(&key)),
            "not read while 60 times the capacity arrived"
        );
    }

    #[test]
    fn entries_of_a_shared_scan_are_evicted_in_insertion_order() {
        let mut lru = SegmentedLru::default();
        let capacity = 20 * 16;
        for front in 0u32..200 {
            lru.insert(front, bytes(16), capacity);
            // Some readers are at the front, others up to 18 windows behind it.
            for behind in [0, 0, 6, 12, 18] {
                let read = front
                    .checked_sub(behind)
                    .is_none_or(|key| lru.get(&key, 0..16, capacity, false).is_some());
                assert!(read, "{behind} behind {front}");
            }
        }
    }

    #[test]
    fn an_entry_above_the_capacity_is_cached_until_the_next_insert() {
        let mut lru = SegmentedLru::default();
        lru.insert(1, bytes(50), 10);
        assert!(lru.contains(&1));
        lru.insert(2, bytes(5), 10);
        assert!(!lru.contains(&1) && lru.contains(&2));
    }
}
