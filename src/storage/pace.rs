//! Decides for one import whether one long GET at a time is as fast as several short ones. Pure.
//!
//! Some storages limit the rate of each connection, so that one connection reads a third of what three do. Others give
//! the whole line to one connection. Only a trial can tell: where long GETs are slow, short ones are tried, and the
//! faster kind is used for the next 1 GiB.

use std::time::{Duration, Instant};

use crate::units::MIB;

/// The number of bytes per measurement, and the number of bytes read with the winner of a trial before the next
/// measurement.
const SPAN: u64 = 64 * MIB;
const SETTLED: u64 = 1024 * MIB;
/// A rate in bytes per second that needs no trial: about a quarter of a 1 Gbit/s line.
const FAST: f64 = 32.0 * 1024.0 * 1024.0;
/// How much faster short GETs must be to justify their higher cost.
const WORTH: f64 = 1.25;
/// A reader that requests nothing for this long is not limited by the storage.
const PAUSE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Turn {
    Long,
    /// Short GETs as a trial. Holds the rate of the long GETs in bytes per second.
    Trial(f64),
    Settled {
        long: bool,
    },
}

/// The current mode and the measurement in progress.
#[derive(Debug)]
pub(super) struct Pace {
    turn: Turn,
    bytes: u64,
    began: Option<Instant>,
    last: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { turn: Turn::Long, bytes: 0, began: None, last: None }
    }
}

impl Pace {
    /// Records a request for `len` more bytes, which is sent when the bytes before have arrived. Returns whether to use
    /// a long GET.
    pub(super) fn is_long(&mut self, len: u64, now: Instant) -> bool {
        let paused = self.last.is_none_or(|last| now.duration_since(last) > PAUSE);
        self.last = Some(now);
        match self.began.filter(|_| !paused) {
            Some(began) if self.bytes >= self.span() => {
                let seconds = now.duration_since(began).as_secs_f64().max(1e-3);
                #[expect(clippy::cast_precision_loss, reason = "it is a rate")]
                let rate = self.bytes as f64 / seconds;
                self.turn = self.turn.next(rate);
                (self.bytes, self.began) = (0, Some(now));
            }
            Some(_) => {}
            None => (self.bytes, self.began) = (0, Some(now)),
        }
        self.bytes += len;
        matches!(self.turn, Turn::Long | Turn::Settled { long: true })
    }

    fn span(&self) -> u64 {
        if matches!(self.turn, Turn::Settled { .. }) { SETTLED } else { SPAN }
    }
}

impl Turn {
    fn next(self, rate: f64) -> Self {
        match self {
            Self::Long if rate < FAST => Self::Trial(rate),
            Self::Long | Self::Settled { .. } => Self::Long,
            Self::Trial(before) => Self::Settled { long: rate < before * WORTH },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `count` runs of 8 MiB, the number that used long GETs, where long GETs read `long` MiB/s and short ones
    /// `short` MiB/s.
    fn long_runs(count: u32, long: u32, short: u32) -> u32 {
        let (mut pace, mut now, mut longs) = (Pace::default(), Instant::now(), 0);
        for _ in 0..count {
            let is_long = pace.is_long(8 * MIB, now);
            longs += u32::from(is_long);
            now += Duration::from_secs(8) / if is_long { long } else { short };
        }
        longs
    }

    #[test]
    fn where_long_gets_are_fast_nothing_else_is_tried() {
        assert_eq!(long_runs(1000, 60, 200), 1000);
    }

    #[test]
    fn where_several_are_faster_most_are_short() {
        let longs = long_runs(1000, 15, 45);
        assert!((50..150).contains(&longs), "{longs}");
    }

    #[test]
    fn where_the_line_is_the_limit_most_are_long() {
        let longs = long_runs(1000, 15, 16);
        assert!(longs > 900, "{longs}");
    }

    #[test]
    fn who_pauses_says_nothing_of_the_place() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..1000 {
            assert!(pace.is_long(8 * MIB, now));
            now += 2 * PAUSE;
        }
    }
}
