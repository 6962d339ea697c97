//! Keeps memory inside the budget by controlling the swarm. Never drops verified bytes. Pure: samples in, limits out.
//!
//! Memory is filled by the requests in flight with all peers, and emptied by storage. Four layers limit it:
//!
//! 1. **Requests**: all requests in flight together may fill an eighth of the budget, shared among the peers. As memory
//!    fills up, this falls to a quarter of that.
//! 2. **Back-pressure**: while verified bytes that are not durable (*sealed*) exceed half of the budget, sending peers
//!    are told to wait. They resume when sealed bytes fall to three eighths. Only sealed bytes count, because they
//!    drain without the network. Open pieces need blocks that a waiting peer could not send (measured: counting them
//!    stalls for ever). Three eighths is also the mark at which writers stop waiting for whole chunks
//!    ([`Pressure::pack_mark`]), so that an upload is always running while a peer waits.
//! 3. **Rate**: while storage is the slower side (at least an eighth of the budget is being uploaded) and more than
//!    half of the budget is held, the download limit follows the measured drain rate: 110 % of it at half, falling to
//!    70 % at the hard mark.
//! 4. **Eviction**: past the hard mark (fifteen sixteenths) the least complete open piece is evicted.
//!
//! [`Pressure::pack_mark`]: crate::storage::Pressure::pack_mark
//!
//! # Invariants (each is a property test below)
//! - The limit is never zero, and there is no limit while at most half of the budget is held.
//! - The limit never falls when the drain rate rises, and never rises when more bytes are held.
//! - Requests never exceed an eighth of the budget, never fall below a quarter of that, and never rise when more bytes
//!   are held.
//! - `must_wait` is false whenever sealed bytes are at most three eighths, whether or not peers wait.
//! - Eviction frees exactly the bytes held above the hard mark.

use crate::memory::BLOCK_LEN;

/// The lowest download limit in bytes per second. It is not zero, so that rates can still be measured.
const MIN_RATE: u64 = 64 * 1024;

/// One measurement, in bytes and bytes per second.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// Payload bytes in memory, of every kind.
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

/// The thresholds of one budget.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    budget: usize,
}

impl Marks {
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self { budget }
    }

    /// Above this many bytes, open pieces are evicted.
    #[must_use]
    pub fn hard(self) -> usize {
        self.budget / 16 * 15
    }

    /// Bytes to free by eviction.
    #[must_use]
    pub fn excess(self, held: usize) -> usize {
        held.saturating_sub(self.hard())
    }

    /// Whether sending peers must wait, given whether they wait already.
    #[must_use]
    pub fn must_wait(self, sealed: usize, waiting: bool) -> bool {
        sealed > if waiting { self.budget / 8 * 3 } else { self.budget / 2 }
    }

    #[must_use]
    pub fn limits(self, s: Sample) -> SessionLimits {
        SessionLimits { requests: self.requests(s.held), download_limit: self.download_limit(s) }
    }

    fn requests(self, held: usize) -> u32 {
        let max = self.budget / 8 / BLOCK_LEN;
        // The full number up to half of the budget, a quarter of it at the hard mark.
        let (low, high) = (self.budget / 2, self.hard());
        let above = held.clamp(low, high) - low;
        let requests = max - max / 4 * 3 * above / (high - low).max(1);
        u32::try_from(requests).unwrap_or(u32::MAX)
    }

    fn download_limit(self, s: Sample) -> Option<u64> {
        let (low, high) = (self.budget / 2, self.hard());
        if s.held <= low || s.in_flight < self.budget / 8 {
            return None;
        }
        // 110 % at the low mark, 70 % at the hard mark.
        let above = (s.held.min(high) - low) as u64;
        let percent = 110 - 40 * above / ((high - low) as u64).max(1);
        Some((s.drain_rate.saturating_mul(percent) / 100).max(MIN_RATE))
    }
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
        fn the_download_limit_is_never_zero_and_absent_while_half_is_free((budget, s) in sample()) {
            match Marks::new(budget).limits(s).download_limit {
                Some(limit) => {
                    prop_assert!(limit >= MIN_RATE);
                    prop_assert!(s.held > budget / 2);
                }
                None => prop_assert!(s.held <= budget / 2 || s.in_flight < budget / 8),
            }
        }

        #[test]
        fn the_download_limit_rises_with_the_drain_rate_and_falls_with_held_bytes((budget, s) in sample(), more in 0u64..1 << 30) {
            let marks = Marks::new(budget);
            let faster = Sample { drain_rate: s.drain_rate + more, ..s };
            let fuller = Sample { held: s.held + usize::try_from(more).unwrap(), ..s };
            if let Some(limit) = marks.limits(s).download_limit {
                prop_assert!(marks.limits(faster).download_limit.unwrap() >= limit);
                prop_assert!(marks.limits(fuller).download_limit.unwrap() <= limit);
            }
        }

        #[test]
        fn requests_fit_an_eighth_of_the_budget_and_fall_as_memory_fills((budget, s) in sample(), more in 0usize..1 << 30) {
            let marks = Marks::new(budget);
            let requests = marks.limits(s).requests as usize;
            let max = budget / 8 / BLOCK_LEN;
            prop_assert!(requests <= max && requests >= max / 4);
            let fuller = Sample { held: s.held + more, ..s };
            prop_assert!(marks.limits(fuller).requests as usize <= requests);
        }

        #[test]
        fn peers_wait_above_half_and_resume_at_three_eighths_of_the_budget(shift in 22usize..34, sealed in 0usize..4 << 30, waiting: bool) {
            let budget = 1usize << shift;
            let marks = Marks::new(budget);
            if sealed <= budget / 8 * 3 {
                prop_assert!(!marks.must_wait(sealed, waiting));
            }
            if sealed > budget / 2 {
                prop_assert!(marks.must_wait(sealed, waiting));
            }
        }

        #[test]
        fn eviction_frees_exactly_the_excess((budget, s) in sample()) {
            let marks = Marks::new(budget);
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
