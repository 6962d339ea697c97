//! Keeps memory inside the budget by controlling the swarm. Never drops verified bytes. Pure: samples in, limits out.
//!
//! Memory is filled by the requests in flight with all peers, and emptied by storage. Four layers limit it, at the
//! [`Mark`]s of the share for incoming bytes:
//!
//! 1. **Requests**: all requests in flight together may fill [`Mark::Requests`], shared among the peers. As memory fills
//!    up from [`Mark::Wait`] on, this falls to a quarter of that.
//! 2. **Back-pressure**: while verified bytes that are not durable (*sealed*) exceed [`Mark::Wait`], sending peers are
//!    told to wait. They resume when sealed bytes fall to [`Mark::Pack`]. Only sealed bytes count, because they drain
//!    without the network. Open pieces need blocks that a waiting peer could not send (measured: counting them stalls
//!    for ever). [`Mark::Pack`] is also the mark at which writers stop waiting for whole chunks, so that an upload is
//!    always running while a peer waits.
//! 3. **Rate**: while storage is the slower side (at least [`Mark::Uploading`] is being uploaded) and more than
//!    [`Mark::Wait`] is held, the download limit follows the measured drain rate: 110 % of it at that mark, falling to
//!    70 % at the hard mark.
//! 4. **Eviction**: past the hard mark, [`Mark::Evict`], the least complete open piece is evicted.
//!
//! # Invariants (each is a property test below)
//! - The limit is never zero, and there is no limit while at most [`Mark::Wait`] is held.
//! - The limit never falls when the drain rate rises, and never rises when more bytes are held.
//! - Requests never exceed [`Mark::Requests`], never fall below a quarter of that, and never rise when more bytes are
//!   held.
//! - `must_wait` is false whenever sealed bytes are at most [`Mark::Pack`], whether or not peers wait.
//! - Eviction frees exactly the bytes held above the hard mark.

use crate::memory::{BLOCK_LEN, Mark};

/// The lowest download limit in bytes per second. It is not zero, so that rates can still be measured.
const MIN_RATE: u64 = 64 * 1024;

/// One measurement, in bytes and bytes per second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// The level of the share for incoming bytes ([`BlockPool::level`](crate::memory::BlockPool::level)).
    pub held: usize,
    /// Bytes being uploaded to storage now.
    pub in_flight: usize,
    /// The recent drain rate of storage.
    pub drain_rate: u64,
}

/// The limits for the session until the next sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// The number of blocks in flight with all peers together.
    pub requests: u32,
    /// Download limit in bytes per second, over all peers.
    pub download_limit: Option<u64>,
}

/// The thresholds of a share for incoming bytes.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    len: usize,
}

impl Marks {
    /// `len` is the length of the share while importing.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self { len }
    }

    fn at(self, mark: Mark) -> usize {
        mark.of(self.len)
    }

    /// Above this many bytes, open pieces are evicted.
    #[must_use]
    pub fn hard(self) -> usize {
        self.at(Mark::Evict)
    }

    /// Bytes to free by eviction.
    #[must_use]
    pub fn excess(self, held: usize) -> usize {
        held.saturating_sub(self.hard())
    }

    // ANCHOR: must_wait
    /// Whether sending peers must wait, given whether they wait already.
    #[must_use]
    pub fn must_wait(self, sealed: usize, waiting: bool) -> bool {
        sealed > self.at(if waiting { Mark::Pack } else { Mark::Wait })
    }
    // ANCHOR_END: must_wait

    #[must_use]
    pub fn limits(self, s: Sample) -> SessionLimits {
        SessionLimits { requests: self.requests(s.held), download_limit: self.download_limit(s) }
    }

    fn requests(self, held: usize) -> u32 {
        let max = self.at(Mark::Requests) / BLOCK_LEN;
        // The full number up to the low mark, a quarter of it at the hard mark.
        let (low, high) = (self.at(Mark::Wait), self.hard());
        let above = held.clamp(low, high) - low;
        let requests = max - max / 4 * 3 * above / (high - low).max(1);
        u32::try_from(requests).unwrap_or(u32::MAX)
    }

    // ANCHOR: download_limit
    fn download_limit(self, s: Sample) -> Option<u64> {
        let (low, high) = (self.at(Mark::Wait), self.hard());
        if s.held <= low || s.in_flight < self.at(Mark::Uploading) {
            return None;
        }
        // 110 % at the low mark, 70 % at the hard mark.
        let above = (s.held.min(high) - low) as u64;
        let percent = 110 - 40 * above / ((high - low) as u64).max(1);
        Some((s.drain_rate.saturating_mul(percent) / 100).max(MIN_RATE))
    }
    // ANCHOR_END: download_limit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::Rate;
    use proptest::prelude::*;

    fn sample() -> impl Strategy<Value = (usize, Sample)> {
        (22usize..34, 0usize..4 << 30, 0usize..1 << 30, 0u64..1 << 34).prop_map(
            |(shift, held, in_flight, drain_rate)| {
                (1 << shift, Sample { held, in_flight, drain_rate })
            },
        )
    }

    proptest! {
        #[test]
        fn the_download_limit_is_never_zero_and_absent_below_its_mark((len, s) in sample()) {
            match Marks::new(len).limits(s).download_limit {
                Some(limit) => {
                    prop_assert!(limit >= MIN_RATE);
                    prop_assert!(s.held > Mark::Wait.of(len));
                }
                None => prop_assert!(
                    s.held <= Mark::Wait.of(len) || s.in_flight < Mark::Uploading.of(len)
                ),
            }
        }

        #[test]
        fn the_download_limit_rises_with_the_drain_rate_and_falls_with_held_bytes((len, s) in sample(), more in 0u64..1 << 30) {
            let marks = Marks::new(len);
            let faster = Sample { drain_rate: s.drain_rate + more, ..s };
            let fuller = Sample { held: s.held + usize::try_from(more).unwrap(), ..s };
            if let Some(limit) = marks.limits(s).download_limit {
                prop_assert!(marks.limits(faster).download_limit.unwrap() >= limit);
                prop_assert!(marks.limits(fuller).download_limit.unwrap() <= limit);
            }
        }

        #[test]
        fn requests_fit_below_their_mark_and_fall_as_memory_fills((len, s) in sample(), more in 0usize..1 << 30) {
            let marks = Marks::new(len);
            let requests = marks.limits(s).requests as usize;
            let max = Mark::Requests.of(len) / BLOCK_LEN;
            prop_assert!(requests <= max && requests >= max / 4);
            let fuller = Sample { held: s.held + more, ..s };
            prop_assert!(marks.limits(fuller).requests as usize <= requests);
        }

        #[test]
        fn peers_wait_above_one_mark_and_resume_where_writers_pack(shift in 22usize..34, sealed in 0usize..4 << 30, waiting: bool) {
            let len = 1usize << shift;
            let marks = Marks::new(len);
            if sealed <= Mark::Pack.of(len) {
                prop_assert!(!marks.must_wait(sealed, waiting));
            }
            if sealed > Mark::Wait.of(len) {
                prop_assert!(marks.must_wait(sealed, waiting));
            }
        }

        #[test]
        fn eviction_frees_exactly_the_excess((len, s) in sample()) {
            let marks = Marks::new(len);
            let left = s.held - marks.excess(s.held);
            prop_assert_eq!(left, s.held.min(marks.hard()));
        }

        #[test]
        fn a_steady_counter_gives_its_rate(step in 1u64..1 << 30) {
            let mut rate = Rate::default();
            let mut last = 0;
            for i in 0..200u32 {
                last = rate.sample(f64::from(i) * 0.25, u64::from(i) * step);
            }
            let truth = step * 4;
            prop_assert!(last <= truth && last >= truth - truth / 100 - 1);
        }
    }
}
