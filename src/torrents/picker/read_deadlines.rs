//! The pieces that readers wait for while an import is being filled, for example a player at a position that is not
//! downloaded yet.
//!
//! Each reader sets the range that it reads next ([`ReaderPosition`]). [`Download`](crate::torrents::Download) gives
//! deadlines to the first missing pieces of each reader, so that the picker requests them before all others, and
//! removes the deadlines when the reader is gone. The picker is updated at most ten times a second. A position that a
//! player seeks to and leaves again within a tenth of a second is therefore never requested.
//!
//! # Invariants
//! - Urgent pieces are missing pieces that some reader wants. The first missing piece of each reader is among them,
//!   unless there are more readers than urgent pieces allowed.
//! - Urgent pieces have at most the given number of bytes together, but there is at least one piece. They use memory
//!   that others need too, and a chunk that only readers opened is packed when memory runs short.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, futures::Notified};

/// How far ahead of a reader pieces are urgent: 8 MiB, some seconds of a film.
const URGENT_AHEAD: u64 = 8 << 20;

/// The readers of one import, and the ranges they wait for.
#[derive(Debug, Default)]
pub struct ReadDeadlines {
    state: Mutex<State>,
    /// Notified when the range of a reader changes.
    changed: Notify,
    /// Notified when a piece passed, and at the end.
    arrival: Notify,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    /// Keyed in order of arrival. The value is the rest of what the reader will read.
    readers: BTreeMap<u64, Range<u64>>,
    ended: bool,
}

impl ReadDeadlines {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Adds a reader, which wants nothing yet.
    #[must_use]
    pub fn add_reader(self: &Arc<Self>) -> ReaderPosition {
        let mut state = self.state.lock();
        state.next_id += 1;
        ReaderPosition { id: state.next_id, deadlines: Arc::clone(self) }
    }

    /// Whether the import stopped, so that no more pieces arrive.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state.lock().ended
    }

    /// Completes when a piece passed after this call, or when the import stopped.
    pub fn arrival(&self) -> Notified<'_> {
        self.arrival.notified()
    }

    /// Marks the import as stopped: no more pieces arrive.
    pub fn end(&self) {
        self.state.lock().ended = true;
        self.arrival.notify_waiters();
    }

    pub(in crate::torrents) fn notify_arrival(&self) {
        self.arrival.notify_waiters();
    }

    pub(in crate::torrents) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The missing pieces to request before all others, most urgent first. The newest reader comes first.
    pub(in crate::torrents) fn urgent_pieces(
        &self,
        piece_len: u64,
        max_bytes: u64,
        missing: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        let readers: Vec<_> = self.state.lock().readers.values().rev().cloned().collect();
        most_urgent(&readers, piece_len, max_bytes, missing)
    }
}

/// The range that one reader wants. Dropping it withdraws the range.
#[derive(Debug)]
pub struct ReaderPosition {
    id: u64,
    deadlines: Arc<ReadDeadlines>,
}

impl ReaderPosition {
    /// Sets the range that the reader wants from now on. Its start is the most urgent.
    pub fn set(&self, range: Range<u64>) {
        let before = self.deadlines.state.lock().readers.insert(self.id, range.clone());
        if before != Some(range) {
            self.deadlines.changed.notify_one();
        }
    }
}

impl Drop for ReaderPosition {
    fn drop(&mut self) {
        if self.deadlines.state.lock().readers.remove(&self.id).is_some() {
            self.deadlines.changed.notify_one();
        }
    }
}

/// The first missing piece of each reader, then the second of each, and so on, up to `max_bytes` bytes.
fn most_urgent(
    readers: &[Range<u64>],
    piece_len: u64,
    max_bytes: u64,
    missing: impl Fn(u32) -> bool,
) -> Vec<u32> {
    let piece = |at: u64| u32::try_from(at / piece_len).unwrap_or(u32::MAX);
    let mut next: Vec<_> = readers
        .iter()
        .filter(|range| !range.is_empty())
        .map(|range| {
            let end = range.end.min(range.start + URGENT_AHEAD.max(piece_len));
            (piece(range.start)..piece(end - 1).saturating_add(1)).filter(|p| missing(*p))
        })
        .collect();
    let max_pieces = usize::try_from(max_bytes / piece_len).unwrap_or(usize::MAX).max(1);
    let mut urgent = Vec::new();
    loop {
        let round: Vec<u32> = next.iter_mut().filter_map(Iterator::next).collect();
        if round.is_empty() {
            return urgent;
        }
        for piece in round {
            if urgent.len() == max_pieces {
                return urgent;
            }
            if !urgent.contains(&piece) {
                urgent.push(piece);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn urgent_pieces_alternate_between_readers_and_the_newest_comes_first() {
        let deadlines = ReadDeadlines::new();
        let (film, seek) = (deadlines.add_reader(), deadlines.add_reader());
        film.set(0..100 * MIB);
        seek.set(50 * MIB..100 * MIB);
        let all = |_| true;
        assert_eq!(deadlines.urgent_pieces(MIB, 4 * MIB, all), [50, 0, 51, 1]);
        assert_eq!(deadlines.urgent_pieces(MIB, 3 * MIB, |p| p > 1), [50, 2, 51]);
        drop(seek);
        assert_eq!(
            deadlines.urgent_pieces(MIB, 100 * MIB, all),
            [0, 1, 2, 3, 4, 5, 6, 7],
            "8 MiB ahead"
        );
        film.set(99 * MIB + 5..99 * MIB + 6);
        assert_eq!(deadlines.urgent_pieces(MIB, 100 * MIB, all), [99]);
        drop(film);
        assert!(deadlines.urgent_pieces(MIB, 100 * MIB, all).is_empty());
    }

    #[tokio::test]
    async fn setting_the_same_range_again_is_no_change() {
        let deadlines = ReadDeadlines::new();
        let reader = deadlines.add_reader();
        reader.set(0..5);
        deadlines.changed().await;
        reader.set(0..5);
        assert!(deadlines.changed().now_or_never().is_none());
        let arrival = deadlines.arrival();
        deadlines.end();
        arrival.await;
        assert!(deadlines.has_ended());
    }

    proptest! {
        #[test]
        fn urgent_pieces_are_missing_and_wanted_and_limited_in_bytes(
            readers in prop::collection::vec((0u64..1000, 0u64..1000), 0..8),
            piece_len in 1u64..50,
            max_bytes in 1u64..500,
            have in prop::collection::vec(any::<bool>(), 1000),
        ) {
            let readers: Vec<_> = readers.into_iter().map(|(a, b)| a.min(b)..a.max(b)).collect();
            let missing = |p: u32| !have[p as usize];
            let urgent = most_urgent(&readers, piece_len, max_bytes, missing);
            prop_assert!(urgent.len() as u64 <= (max_bytes / piece_len).max(1));
            for (n, p) in urgent.iter().enumerate() {
                let range = u64::from(*p) * piece_len..u64::from(p + 1) * piece_len;
                prop_assert!(missing(*p) && !urgent[..n].contains(p));
                prop_assert!(readers.iter().any(|r| r.start < range.end && range.start < r.end));
            }
            let first = |r: &Range<u64>| {
                (r.start / piece_len..r.end.div_ceil(piece_len)).find(|p| missing(u32::try_from(*p).unwrap()))
            };
            if readers.len() as u64 <= max_bytes / piece_len {
                for first in readers.iter().filter(|r| !r.is_empty()).filter_map(first) {
                    prop_assert!(urgent.contains(&u32::try_from(first).unwrap()));
                }
            }
        }
    }
}
