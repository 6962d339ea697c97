//! Who reads in order, and how far ahead of them to fetch. Pure.
//!
//! libtorrent does not say which peer a read is for, and a player may have several connections, so readers are told
//! apart by where they are: a read that begins where another ended goes on with it. After some windows in order what
//! follows is fetched ahead, twice as much each time up to a limit and to a quarter of what was read in order, and when
//! half of it is read the next. So a stream costs few, long gets, and somebody who reads here and there no byte too much.
//!
//! Peers and players differ. A player goes on, and waits for every byte. A peer asks for 8 MiB before it has the first
//! block, so it waits for nothing; and a fast libtorrent takes eight pieces in order and then goes elsewhere (seen:
//! fetching ahead after the fourth fetched a quarter of the payload twice).

use std::{collections::VecDeque, ops::Range};

/// Readers in order that are told apart at once; the one that moved least recently is forgotten first.
const STREAMS: usize = 8;
/// Windows that a player reads in order before anything is fetched ahead.
pub(super) const PLAYER: u32 = 3;
/// The same for peers.
pub(super) const PEER: u32 = 16;

/// Somebody who reads in order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stream {
    /// The end of the last window that was read.
    at: u64,
    /// Windows that followed each other.
    run: u32,
    /// Up to where it is fetched.
    ahead: u64,
    /// How much is fetched next.
    step: u64,
}

/// The readers of one import.
#[derive(Debug)]
pub(super) struct Readahead {
    /// Windows read in order before anything is fetched ahead.
    sure: u32,
    /// The one that moved last at the back.
    streams: VecDeque<Stream>,
}

impl Readahead {
    pub(super) fn new(sure: u32) -> Self {
        Self { sure, streams: VecDeque::new() }
    }

    /// Notes that `window` is read now, and answers what to fetch ahead for that, `most` bytes at a time.
    pub(super) fn reads(&mut self, window: &Range<u64>, most: u64) -> Option<Range<u64>> {
        // Several blocks of one window, or of one that was fetched ahead and is asked for again.
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

    /// What was fetched ahead, in windows.
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
        // Runs of eight, each somewhere else.
        let order = (0..128).flat_map(|n| (0..8).map(move |m| n * 37 % 128 * 9 + m));
        assert_eq!(read(&mut ahead, order), []);
        let fetched = read(&mut ahead, 5000..5100);
        assert_eq!(fetched[0].start, 5017);
    }

    #[test]
    fn who_reads_here_and_there_costs_nothing() {
        let mut ahead = Readahead::new(PLAYER);
        // Every piece once, as rarest-first asks for them.
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
