//! A segmented LRU cache: decides which entries are evicted first. Pure.
//!
//! Both segments are LRU lists. A new entry starts in the new segment. An entry that is read more than once over is
//! promoted to the hot segment. New entries are evicted first, so that one scan over everything does not evict what
//! many readers use. "Once over" counts bytes: a window is read in 64 blocks, and that is one reading, not 64.
//!
//! # Invariants
//! - `bytes` is the sum of the kept lengths. After each insert it is within the capacity, unless a single entry is
//!   longer.
//! - Hot entries fill at most three quarters of the capacity; the oldest of them are demoted to the new segment. An
//!   entry that is not read while [`STALE`] times the capacity arrives is demoted too, so what was hot last week is
//!   evicted in the end.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    ops::Range,
};

use super::blocks::Blocks;
use crate::backends::Payload;

/// How many times the capacity may arrive before a hot entry that is not read is demoted. A shorter scan leaves it
/// alone.
const STALE: u64 = 32;

/// Bytes by key, within a capacity.
#[derive(Debug)]
pub(super) struct Kept<K> {
    entries: HashMap<K, Entry>,
    /// By last use, oldest first.
    new: BTreeMap<u64, K>,
    hot: BTreeMap<u64, K>,
    clock: u64,
    /// The number of bytes inserted so far.
    came: u64,
    bytes: u64,
    hot_bytes: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: Blocks,
    used: u64,
    /// The value of `came` at the last use.
    came: u64,
    hot: bool,
    /// Bytes returned since it was inserted, or since it was demoted.
    given: u64,
}

impl<K> Default for Kept<K> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            new: BTreeMap::new(),
            hot: BTreeMap::new(),
            clock: 0,
            came: 0,
            bytes: 0,
            hot_bytes: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Kept<K> {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// All bytes of an entry, without counting them as read.
    pub(super) fn whole(&self, key: &K) -> Option<Blocks> {
        self.entries.get(key).map(|entry| entry.bytes.clone())
    }

    /// Reads a `part` of an entry. `heats`: whether the read counts for promotion and age. Without it the entry keeps
    /// its position in the LRU order.
    pub(super) fn get(
        &mut self,
        key: &K,
        part: Range<usize>,
        room: u64,
        heats: bool,
    ) -> Option<Payload> {
        let entry = self.entries.get_mut(key)?;
        let given = entry.bytes.slice(part);
        if !heats {
            return Some(given);
        }
        entry.given += given.len();
        let len = entry.bytes.len() as u64;
        let becomes_hot = !entry.hot && entry.given > len;
        let segment = if entry.hot { &mut self.hot } else { &mut self.new };
        segment.remove(&entry.used);
        self.clock += 1;
        (entry.used, entry.came) = (self.clock, self.came);
        if becomes_hot {
            entry.hot = true;
            self.hot_bytes += len;
        }
        let segment = if entry.hot { &mut self.hot } else { &mut self.new };
        segment.insert(self.clock, key.clone());
        if becomes_hot {
            self.cool(room);
        }
        Some(given)
    }

    /// Inserts `bytes`, and evicts what no longer fits.
    pub(super) fn insert(&mut self, key: K, bytes: Blocks, room: u64) {
        self.remove(&key);
        self.clock += 1;
        self.bytes += bytes.len() as u64;
        self.came += bytes.len() as u64;
        let entry = Entry { bytes, used: self.clock, came: self.came, hot: false, given: 0 };
        self.entries.insert(key.clone(), entry);
        self.new.insert(self.clock, key);
        self.shrink(room);
    }

    /// Evicts entries until the rest fits, or only one is left.
    pub(super) fn shrink(&mut self, room: u64) {
        self.cool(room);
        while self.bytes > room && self.entries.len() > 1 {
            let oldest = self.new.first_key_value().or_else(|| self.hot.first_key_value());
            let Some(key) = oldest.map(|(_, key)| key.clone()) else { return };
            self.remove(&key);
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        let Some(entry) = self.entries.remove(key) else { return };
        let len = entry.bytes.len() as u64;
        self.bytes -= len;
        if entry.hot {
            self.hot_bytes -= len;
            self.hot.remove(&entry.used);
        } else {
            self.new.remove(&entry.used);
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        let gone: Vec<K> = self.entries.keys().filter(|key| !keep(key)).cloned().collect();
        gone.iter().for_each(|key| self.remove(key));
    }

    /// Demotes the oldest hot entries while the hot segment is too large or they are stale.
    fn cool(&mut self, room: u64) {
        loop {
            let Some(oldest) = self.hot.first_entry() else { return };
            let Some(entry) = self.entries.get_mut(oldest.get()) else { return };
            let stale = self.came - entry.came > room.saturating_mul(STALE);
            if self.hot_bytes <= room / 4 * 3 && !stale {
                return;
            }
            let key = oldest.remove();
            self.hot_bytes -= entry.bytes.len() as u64;
            self.clock += 1;
            (entry.hot, entry.given, entry.used) = (false, 0, self.clock);
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
    struct Thing {
        key: u8,
        len: u64,
        given: u64,
        came: u64,
    }

    /// The reference model: two lists, oldest first.
    #[derive(Default)]
    struct Model {
        new: Vec<Thing>,
        hot: Vec<Thing>,
        came: u64,
    }

    impl Model {
        fn bytes(&self) -> u64 {
            self.new.iter().chain(&self.hot).map(|thing| thing.len).sum()
        }

        fn take(&mut self, key: u8) -> Option<(Thing, bool)> {
            let at = |list: &[Thing]| list.iter().position(|thing| thing.key == key);
            let new = at(&self.new).map(|n| (self.new.remove(n), false));
            new.or_else(|| at(&self.hot).map(|n| (self.hot.remove(n), true)))
        }

        fn get(&mut self, key: u8, len: u64, room: u64) -> bool {
            let Some((mut thing, hot)) = self.take(key) else { return false };
            thing.given += len.min(thing.len);
            thing.came = self.came;
            let hot_now = hot || thing.given > thing.len;
            if hot_now {
                self.hot.push(thing)
            } else {
                self.new.push(thing)
            }
            if hot_now && !hot {
                self.cool(room);
            }
            true
        }

        fn insert(&mut self, key: u8, len: u64, room: u64) {
            self.take(key);
            self.came += len;
            self.new.push(Thing { key, len, given: 0, came: self.came });
            self.shrink(room);
        }

        fn shrink(&mut self, room: u64) {
            self.cool(room);
            while self.bytes() > room && self.new.len() + self.hot.len() > 1 {
                if self.new.is_empty() {
                    self.hot.remove(0)
                } else {
                    self.new.remove(0)
                };
            }
        }

        fn cool(&mut self, room: u64) {
            while let Some(oldest) = self.hot.first().copied() {
                let much = self.hot.iter().map(|thing| thing.len).sum::<u64>() > room / 4 * 3;
                if !much && self.came - oldest.came <= room * STALE {
                    return;
                }
                self.hot.remove(0);
                self.new.push(Thing { given: 0, ..oldest });
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
        fn it_keeps_what_the_plain_model_keeps(steps in proptest::collection::vec(step(), 1..200)) {
            let (mut kept, mut model, mut room) = (Kept::default(), Model::default(), 100);
            for step in steps {
                match step {
                    Step::Get(key, len) => {
                        let whole = kept.entries.get(&key).map_or(0, |e| e.bytes.len());
                        let part = 0..usize::try_from(len).unwrap().min(whole);
                        let got = kept.get(&key, part, room, true).is_some();
                        prop_assert_eq!(got, model.get(key, len, room));
                    }
                    Step::Insert(key, len) => {
                        kept.insert(key, bytes(len), room);
                        model.insert(key, len, room);
                    }
                    Step::Shrink(to) => {
                        room = to;
                        kept.shrink(room);
                        model.shrink(room);
                    }
                }
                prop_assert_eq!(kept.bytes(), model.bytes());
                prop_assert!(kept.bytes() <= room || kept.entries.len() == 1);
                let keys = |list: &BTreeMap<u64, u8>| list.values().copied().collect::<Vec<_>>();
                prop_assert_eq!(keys(&kept.new), model.new.iter().map(|t| t.key).collect::<Vec<_>>());
                prop_assert_eq!(keys(&kept.hot), model.hot.iter().map(|t| t.key).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_scan_does_not_flush_what_is_hot() {
        let mut kept = Kept::default();
        let room = 100 * 16;
        let read = |kept: &mut Kept<u32>, key: u32| {
            if !kept.contains(&key) {
                kept.insert(key, bytes(16), room);
            }
            // Peers read in blocks.
            (0..4).all(|n| kept.get(&key, 4 * n..4 * n + 4, room, true).is_some())
        };
        for _ in 0..2 {
            (0..50).for_each(|key| assert!(read(&mut kept, key)));
        }
        (1000..4000).for_each(|key| assert!(read(&mut kept, key)));
        assert!((0..50).all(|key| kept.contains(&key)), "a scan of 30 rooms");
        // Another set of keys that is read repeatedly replaces them.
        (0..2).for_each(|_| (100..140).for_each(|key| assert!(read(&mut kept, key))));
        (1000..4000).for_each(|key| assert!(read(&mut kept, key)));
        assert!((100..140).all(|key| kept.contains(&key)));
        assert!((0..50).all(|key| !kept.contains(&key)), "not asked for while 60 rooms came");
    }

    #[test]
    fn what_many_read_in_one_scan_goes_in_the_order_it_came() {
        let mut kept = Kept::default();
        let room = 20 * 16;
        for front in 0u32..200 {
            kept.insert(front, bytes(16), room);
            // Some readers are at the front, others up to 18 windows behind it.
            for behind in [0, 0, 6, 12, 18] {
                let read = front
                    .checked_sub(behind)
                    .is_none_or(|key| kept.get(&key, 0..16, room, false).is_some());
                assert!(read, "{behind} behind {front}");
            }
        }
    }

    #[test]
    fn one_thing_longer_than_the_room_is_kept_until_the_next_comes() {
        let mut kept = Kept::default();
        kept.insert(1, bytes(50), 10);
        assert!(kept.contains(&1));
        kept.insert(2, bytes(5), 10);
        assert!(!kept.contains(&1) && kept.contains(&2));
    }
}
