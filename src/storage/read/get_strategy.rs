//! Decides for one import whether one long GET at a time is as fast as several short ones. Pure.
//!
//! Some storages limit the rate of each connection, so that one connection reads a third of what three do. Others give
//! the whole line to one connection. Only a trial can tell: where long GETs are slow, short ones are tried, and the
//! faster kind is used for the next 1 GiB.

use std::time::{Duration, Instant};

use crate::units::MIB;

/// The number of bytes per measurement, and the number of bytes read with the winner of a trial before the next
/// measurement.
const MEASURED_LEN: u64 = 64 * MIB;
const SETTLED_LEN: u64 = 1024 * MIB;
/// A rate in bytes per second that needs no trial: about a quarter of a 1 Gbit/s line.
const FAST_RATE: f64 = 32.0 * 1024.0 * 1024.0;
/// How much faster short GETs must be to justify their higher cost.
const MIN_SPEEDUP: f64 = 1.25;
/// A reader that requests nothing for this long is not limited by the storage.
const PAUSE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Long,
    /// Short GETs as a trial. Holds the rate of the long GETs in bytes per second.
    Trial(f64),
    Settled {
        long: bool,
    },
}

/// The current mode and the measurement in progress.
#[derive(Debug)]
pub(super) struct GetStrategy {
    mode: Mode,
    bytes: u64,
    started: Option<Instant>,
    last_request: Option<Instant>,
}

impl Default for GetStrategy {
    fn default() -> Self {
        Self { mode: Mode::Long, bytes: 0, started: None, last_request: None }
    }
}

impl GetStrategy {
    /// Records a request for `len` more bytes, which is sent when the bytes before have arrived. Returns whether to use
    /// a long GET.
    pub(super) fn use_long_get(&mut self, len: u64, now: Instant) -> bool {
        let paused =
            self.last_request.is_none_or(|last_request| now.duration_since(last_request) > PAUSE);
        self.last_request = Some(now);
        match self.started.filter(|_| !paused) {
            Some(started) if self.bytes >= self.measured_len() => {
                let seconds = now.duration_since(started).as_secs_f64().max(1e-3);
                #[expect(clippy::cast_precision_loss, reason = "it is a rate")]
                let rate = self.bytes as f64 / seconds;
                self.mode = self.mode.next(rate);
                (self.bytes, self.started) = (0, Some(now));
            }
            Some(_) => {}
            None => (self.bytes, self.started) = (0, Some(now)),
        }
        self.bytes += len;
        matches!(self.mode, Mode::Long | Mode::Settled { long: true })
    }

    fn measured_len(&self) -> u64 {
        if matches!(self.mode, Mode::Settled { .. }) { SETTLED_LEN } else { MEASURED_LEN }
    }
}

impl Mode {
    fn next(self, rate: f64) -> Self {
        match self {
            Self::Long if rate < FAST_RATE => Self::Trial(rate),
            Self::Long | Self::Settled { .. } => Self::Long,
            Self::Trial(before) => Self::Settled { long: rate < before * MIN_SPEEDUP },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `count` runs of 8 MiB, the number that used long GETs, where long GETs read `long` MiB/s and short ones
    /// `short` MiB/s.
    fn long_runs(count: u32, long: u32, short: u32) -> u32 {
        let (mut strategy, mut now, mut longs) = (GetStrategy::default(), Instant::now(), 0);
        for _ in 0..count {
            let use_long_get = strategy.use_long_get(8 * MIB, now);
            longs += u32::from(use_long_get);
            now += Duration::from_secs(8) / if use_long_get { long } else { short };
        }
        longs
    }

    #[test]
    fn fast_long_gets_are_never_compared_with_short_ones() {
        assert_eq!(long_runs(1000, 60, 200), 1000);
    }

    #[test]
    fn short_gets_are_used_where_several_are_faster() {
        let longs = long_runs(1000, 15, 45);
        assert!((50..150).contains(&longs), "{longs}");
    }

    #[test]
    fn long_gets_are_used_where_the_line_is_the_limit() {
        let longs = long_runs(1000, 15, 16);
        assert!(longs > 900, "{longs}");
    }

    #[test]
    fn pauses_of_the_reader_are_not_measured() {
        let (mut strategy, mut now) = (GetStrategy::default(), Instant::now());
        for _ in 0..1000 {
            assert!(strategy.use_long_get(8 * MIB, now));
            now += 2 * PAUSE;
        }
    }
}
