//! Detects a stalled request by an idle timeout, independent of the total duration.

use std::{future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Idle timeout: after 30 s without progress the server or the connection counts as gone.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a body that the kernel may still buffer after the last write, and the slowest connection allowed for, in
/// bytes per second.
const KERNEL_BUFFER: u64 = 4 << 20;
const MIN_RATE: u64 = 64 << 10;

/// When a request last made progress. Its body reports each buffer that it hands to the connection.
#[derive(Debug, Clone)]
pub(super) struct IdleTimer(Arc<Mutex<Instant>>);

impl IdleTimer {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn reset(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Records that all `len` bytes were handed over. Extends the idle timeout by the time that the kernel's buffer
    /// may need to drain, because the server answers only after that.
    pub(super) fn all_sent(&self, len: u64) {
        let buffered = Duration::from_secs(len.min(KERNEL_BUFFER) / MIN_RATE);
        *self.0.lock() = Instant::now() + buffered;
    }

    /// Returns the outcome of `call`, or `None` after 30 s without progress. There is no limit on the total time,
    /// because the right one depends on the connection: 16 MiB may take a second or ten minutes, and both are fine.
    pub(super) async fn watch<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        self.watch_for(IDLE_TIMEOUT, call).await
    }

    async fn watch_for<T>(&self, idle: Duration, call: impl Future<Output = T>) -> Option<T> {
        self.reset();
        let mut call = std::pin::pin!(call);
        loop {
            let until = *self.0.lock() + idle;
            tokio::select! {
                done = &mut call => return Some(done),
                () = tokio::time::sleep_until(until) => {}
            }
            if *self.0.lock() + idle <= Instant::now() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(400);

    #[tokio::test(start_paused = true)]
    async fn a_slow_call_continues_and_a_stalled_call_ends() {
        let idle_timer = IdleTimer::new();
        let slow = async {
            for _ in 0..10 {
                tokio::time::sleep(SHORT / 5).await;
                idle_timer.reset();
            }
            7
        };
        assert_eq!(idle_timer.watch_for(SHORT, slow).await, Some(7));
        let began = Instant::now();
        assert_eq!(idle_timer.watch_for(SHORT, std::future::pending::<()>()).await, None);
        assert!(began.elapsed() >= SHORT && began.elapsed() < 2 * SHORT, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_kernel_buffer_has_time_to_drain() {
        let idle_timer = IdleTimer::new();
        let began = Instant::now();
        let call = async {
            idle_timer.all_sent(MIN_RATE);
            std::future::pending::<()>().await;
        };
        assert_eq!(idle_timer.watch_for(SHORT, call).await, None);
        let least = SHORT + Duration::from_secs(1);
        assert!(began.elapsed() >= least && began.elapsed() < 2 * least, "{:?}", began.elapsed());
    }
}
