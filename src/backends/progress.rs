//! Noticing a request that has stopped moving, however long it may take as a whole.

use std::{future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::{Error, Kind, Result};

/// When a request last moved. The bodies of requests and answers tell it of each piece they pass.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn moved(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Runs `call`, and gives up with `Network` once nothing moved for `idle`. A limit on the whole time would have to
    /// know the line: 16 MiB may take a second or ten minutes, and both are fine.
    pub(super) async fn guard<T>(
        &self,
        idle: Duration,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.moved();
        let mut call = std::pin::pin!(call);
        loop {
            let until = *self.0.lock() + idle;
            tokio::select! {
                done = &mut call => return done,
                () = tokio::time::sleep_until(until) => {}
            }
            if *self.0.lock() + idle <= Instant::now() {
                let text = format!("nothing moved for {} s", idle.as_secs());
                return Err(Error::new(Kind::Network, text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_call_goes_on_and_a_stalled_one_ends() {
        let idle = Duration::from_secs(30);
        let progress = Progress::new();
        let slow = async {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(29)).await;
                progress.moved();
            }
            Ok(7)
        };
        assert_eq!(progress.guard(idle, slow).await.unwrap(), 7);
        let began = Instant::now();
        let stalled = progress.guard(idle, std::future::pending::<Result<()>>()).await;
        assert_eq!(stalled.unwrap_err().kind(), Kind::Network);
        assert_eq!(began.elapsed(), idle);
    }
}
