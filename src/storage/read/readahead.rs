//! Detects sequential readers and decides how far ahead of them to fetch. Pure.
//!
//! libtorrent does not say which peer a read is for, and a player may have several connections. So readers are told
//! apart by position: a read that begins where another ended continues it. After some windows in order, the following
//! bytes are prefetched. When half of a prefetched range is read, the next range is prefetched, each twice as long as
//! the one before, up to a limit and to a quarter of what was read in order. So a sequential reader costs few, long
//! GETs, and random reads fetch no extra byte.
//!
//! Peers and players differ. A player reads on, and waits for every byte. A peer requests 8 MiB before it has the first
//! block, so it waits for nothing. A fast libtorrent peer reads eight pieces in order and then jumps. Measured:
//! prefetch after the fourth piece fetched a quarter of the payload twice.

use std::{collections::VecDeque, ops::Range};

/// The number of sequential readers that are tracked at once. The least recently used one is forgotten first.
const MAX_READERS: usize = 8;
/// Windows that a player reads in order before prefetch starts.
pub(super) const PLAYER_MIN_RUN: u32 = 3;
/// The same for peers.
pub(super) const PEER_MIN_RUN: u32 = 16;

/// A sequential reader.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SequentialReader {
    /// The end of the last window that was read.
    position: u64,
    /// The number of windows read in order.
    windows_in_order: u32,
    /// The end of what was prefetched.
    prefetched_to: u64,
    /// The length of the next prefetch in bytes.
    step: u64,
}

/// The readers of one import.
#[derive(Debug)]
pub(super) struct Readahead {
    /// Windows read in order before prefetch starts.
    min_run: u32,
    /// Least recently used first.
    readers: VecDeque<SequentialReader>,
}

impl Readahead {
    pub(in crate::storage) fn new(min_run: u32) -> Self {
        Self { min_run, readers: VecDeque::new() }
    }

    /// Records that `window` is read now. Returns the range to prefetch, at most `max_len` bytes long.
    pub(in crate::storage) fn record_read(
        &mut self,
        window: &Range<u64>,
        max_len: u64,
    ) -> Option<Range<u64>> {
        // Another block of the same window, or a repeated read of a prefetched window.
        if self.readers.iter().any(|reader| reader.position == window.end) {
            return None;
        }
        let position = self.readers.iter().position(|reader| reader.position == window.start);
        let Some(mut reader) = position.and_then(|n| self.readers.remove(n)) else {
            if self.readers.len() == MAX_READERS {
                self.readers.pop_front();
            }
            let len = window.end - window.start;
            self.readers.push_back(SequentialReader {
                position: window.end,
                windows_in_order: 1,
                prefetched_to: window.end,
                step: len,
            });
            return None;
        };
        reader.position = window.end;
        reader.windows_in_order += 1;
        reader.prefetched_to = reader.prefetched_to.max(window.end);
        let len = window.end - window.start;
        let step = reader
            .step
            .min(max_len)
            .min((u64::from(reader.windows_in_order) / 4).max(1).saturating_mul(len));
        let due = reader.windows_in_order > self.min_run
            && step > 0
            && reader.prefetched_to - reader.position <= step / 2;
        let fetch = due.then(|| {
            let range = reader.prefetched_to..reader.prefetched_to.saturating_add(step);
            reader.prefetched_to = range.end;
            reader.step = step.saturating_mul(2);
            range
        });
        self.readers.push_back(reader);
        fetch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MIB;

    const MAX_LEN: u64 = 8 * MIB;

    fn window(n: u64) -> Range<u64> {
        n * MIB..(n + 1) * MIB
    }

    /// The prefetched ranges, in windows.
    fn read(ahead: &mut Readahead, order: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
        let fetched = order.into_iter().filter_map(|n| ahead.record_read(&window(n), MAX_LEN));
        fetched.map(|range| range.start / MIB..range.end / MIB).collect()
    }

    #[test]
    fn a_sequential_reader_gets_longer_and_longer_prefetches() {
        let mut ahead = Readahead::new(PLAYER_MIN_RUN);
        let fetched = read(&mut ahead, 0..100);
        assert_eq!(fetched[0], 4..5);
        assert!(fetched.windows(2).all(|two| two[0].end == two[1].start), "{fetched:?}");
        assert!(fetched.iter().any(|run| run.end - run.start == 8), "{fetched:?}");
        assert!(fetched.len() < 25 && fetched.last().unwrap().end <= 100 + 12, "{fetched:?}");
    }

    #[test]
    fn a_peer_that_reads_eight_pieces_in_order_gets_no_prefetch() {
        let mut ahead = Readahead::new(PEER_MIN_RUN);
        // Runs of eight windows, each at another position.
        let order = (0..128).flat_map(|n| (0..8).map(move |m| n * 37 % 128 * 9 + m));
        assert_eq!(read(&mut ahead, order), []);
        let fetched = read(&mut ahead, 5000..5100);
        assert_eq!(fetched[0].start, 5017);
    }

    #[test]
    fn random_reads_get_no_prefetch() {
        let mut ahead = Readahead::new(PLAYER_MIN_RUN);
        // Every piece once, in the scattered order of rarest-first.
        let order = (0..1024).map(|n| n * 389 % 1024);
        assert_eq!(read(&mut ahead, order), []);
        assert_eq!(read(&mut ahead, [5, 5, 5, 6, 6, 5, 6]), []);
    }

    #[test]
    fn sequential_readers_are_distinguished() {
        let mut ahead = Readahead::new(PLAYER_MIN_RUN);
        let both = (0..60).flat_map(|n| [n, 500 + n, (n * 389) % 300 + 100]);
        let fetched = read(&mut ahead, both);
        assert!(
            fetched.iter().any(|run| run.start < 90) && fetched.iter().any(|run| run.start > 499)
        );
        assert!(fetched.iter().any(|run| run.end - run.start == 8));
    }

    #[test]
    fn a_limit_of_zero_disables_prefetch() {
        let mut ahead = Readahead::new(PLAYER_MIN_RUN);
        assert!((0..20).all(|n| ahead.record_read(&window(n), 0).is_none()));
    }
}
