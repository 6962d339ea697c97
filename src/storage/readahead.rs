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
const STREAMS: usize = 8;
/// Windows that a player reads in order before prefetch starts.
pub(super) const PLAYER: u32 = 3;
/// The same for peers.
pub(super) const PEER: u32 = 16;

/// A sequential reader.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stream {
    /// The end of the last window that was read.
    at: u64,
    /// The number of windows read in order.
    run: u32,
    /// The end of what was prefetched.
    ahead: u64,
    /// The length of the next prefetch in bytes.
    step: u64,
}

/// The readers of one import.
#[derive(Debug)]
pub(super) struct Readahead {
    /// Windows read in order before prefetch starts.
    sure: u32,
    /// Least recently used first.
    streams: VecDeque<Stream>,
}

impl Readahead {
    pub(super) fn new(sure: u32) -> Self {
        Self { sure, streams: VecDeque::new() }
    }

    /// Records that `window` is read now. Returns the range to prefetch, at most `most` bytes long.
    pub(super) fn reads(&mut self, window: &Range<u64>, most: u64) -> Option<Range<u64>> {
        // Another block of the same window, or a repeated read of a prefetched window.
        if self.streams.iter().any(|stream| stream.at == window.end) {
            return None;
        }
        let known = self.streams.iter().position(|stream| stream.at == window.start);
        let Some(mut stream) = known.and_then(|n| self.streams.remove(n)) else {
            if self.streams.len() == STREAMS {
                self.streams.pop_front();
            }
            let len = window.end - window.start;
            self.streams.push_back(Stream { at: window.end, run: 1, ahead: window.end, step: len });
            return None;
        };
        stream.at = window.end;
        stream.run += 1;
        stream.ahead = stream.ahead.max(window.end);
        let len = window.end - window.start;
        let step =
            stream.step.min(most).min((u64::from(stream.run) / 4).max(1).saturating_mul(len));
        let due = stream.run > self.sure && step > 0 && stream.ahead - stream.at <= step / 2;
        let fetch = due.then(|| {
            let range = stream.ahead..stream.ahead.saturating_add(step);
            stream.ahead = range.end;
            stream.step = step.saturating_mul(2);
            range
        });
        self.streams.push_back(stream);
        fetch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MIB;

    const MOST: u64 = 8 * MIB;

    fn window(n: u64) -> Range<u64> {
        n * MIB..(n + 1) * MIB
    }

    /// The prefetched ranges, in windows.
    fn read(ahead: &mut Readahead, order: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
        let fetched = order.into_iter().filter_map(|n| ahead.reads(&window(n), MOST));
        fetched.map(|range| range.start / MIB..range.end / MIB).collect()
    }

    #[test]
    fn a_stream_is_fetched_ahead_in_longer_and_longer_runs() {
        let mut ahead = Readahead::new(PLAYER);
        let fetched = read(&mut ahead, 0..100);
        assert_eq!(fetched[0], 4..5);
        assert!(fetched.windows(2).all(|two| two[0].end == two[1].start), "{fetched:?}");
        assert!(fetched.iter().any(|run| run.end - run.start == 8), "{fetched:?}");
        assert!(fetched.len() < 25 && fetched.last().unwrap().end <= 100 + 12, "{fetched:?}");
    }

    #[test]
    fn a_fast_peer_that_takes_eight_pieces_in_order_costs_no_byte_too_much() {
        let mut ahead = Readahead::new(PEER);
        // Runs of eight windows, each at another position.
        let order = (0..128).flat_map(|n| (0..8).map(move |m| n * 37 % 128 * 9 + m));
        assert_eq!(read(&mut ahead, order), []);
        let fetched = read(&mut ahead, 5000..5100);
        assert_eq!(fetched[0].start, 5017);
    }

    #[test]
    fn who_reads_here_and_there_costs_nothing() {
        let mut ahead = Readahead::new(PLAYER);
        // Every piece once, in the scattered order of rarest-first.
        let order = (0..1024).map(|n| n * 389 % 1024);
        assert_eq!(read(&mut ahead, order), []);
        assert_eq!(read(&mut ahead, [5, 5, 5, 6, 6, 5, 6]), []);
    }

    #[test]
    fn several_streams_do_not_disturb_each_other() {
        let mut ahead = Readahead::new(PLAYER);
        let both = (0..60).flat_map(|n| [n, 500 + n, (n * 389) % 300 + 100]);
        let fetched = read(&mut ahead, both);
        assert!(
            fetched.iter().any(|run| run.start < 90) && fetched.iter().any(|run| run.start > 499)
        );
        assert!(fetched.iter().any(|run| run.end - run.start == 8));
    }

    #[test]
    fn nothing_is_fetched_ahead_where_there_is_no_room() {
        let mut ahead = Readahead::new(PLAYER);
        assert!((0..20).all(|n| ahead.reads(&window(n), 0).is_none()));
    }
}
