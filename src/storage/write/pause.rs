//! Measures how long storage has refused writes, against the timeout that the user configured. Pure.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// The pause state of an import, fed from the events of its writer.
#[derive(Debug)]
pub struct PauseClock {
    /// `None` waits without a limit.
    timeout: Option<Duration>,
    pause: Option<Pause>,
}

#[derive(Debug)]
struct Pause {
    /// The start of the pause, or the last time bytes became durable during it.
    since: Instant,
    error: Error,
}

impl PauseClock {
    #[must_use]
    pub fn new(timeout: Option<Duration>) -> Self {
        Self { timeout, pause: None }
    }

    /// Storage refuses writes from `now` on.
    pub fn pause(&mut self, error: Error, now: Instant) {
        self.pause = Some(Pause { since: now, error });
    }

    /// Some bytes became durable.
    pub fn record_progress(&mut self, now: Instant) {
        if let Some(pause) = &mut self.pause {
            pause.since = now;
        }
    }

    /// Storage accepts objects again.
    pub fn resume(&mut self) {
        self.pause = None;
    }

    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    /// Checks the pause against the timeout.
    ///
    /// # Errors
    /// The error of the storage, when nothing was stored for the timeout.
    pub fn check(&self, now: Instant) -> Result<()> {
        let Some((timeout, pause)) = self.timeout.zip(self.pause.as_ref()) else { return Ok(()) };
        if now.saturating_duration_since(pause.since) <= timeout {
            return Ok(());
        }
        let text = format!("nothing was stored for {} s", timeout.as_secs_f64());
        let error = Error::new(pause.error.kind(), text).because(pause.error.report());
        Err(error.hint_of(&pause.error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_pause_beyond_the_timeout_ends_with_the_error_of_the_storage() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let full = || Error::new(Kind::NoSpace, "put k: 507").hint("make room");
        let mut clock = PauseClock::new(Some(Duration::from_secs(6)));
        clock.check(at(100)).unwrap();
        clock.pause(full(), at(100));
        clock.check(at(106)).unwrap();
        clock.record_progress(at(103));
        clock.check(at(109)).unwrap();
        let error = clock.check(at(110)).unwrap_err();
        assert_eq!(error.report(), "nothing was stored for 6 s: put k: 507");
        assert_eq!(
            (error.kind(), error.hint_text().as_deref()),
            (Kind::NoSpace, Some("make room"))
        );
        clock.resume();
        clock.check(at(1000)).unwrap();

        let mut unlimited = PauseClock::new(None);
        unlimited.pause(full(), at(0));
        unlimited.check(at(1_000_000)).unwrap();
    }
}
