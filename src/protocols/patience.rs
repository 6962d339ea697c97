//! Timeouts of connections and answers.

use std::{future::Future, time::Duration};

use super::FetchOptions;
use crate::error::{Error, Kind, Result};

/// Connect timeout, including all handshakes. A busy, distant server takes a few seconds.
const CONNECT: Duration = Duration::from_secs(20);
/// Idle timeout, the maximum time between two signs of life. Servers that read from tape or a cold disk pause for long.
const SILENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) connect: Duration,
    pub(super) silence: Duration,
}

impl Patience {
    pub(super) fn of(options: &FetchOptions) -> Self {
        Self {
            connect: options.connect_timeout.unwrap_or(CONNECT),
            silence: options.silence.unwrap_or(SILENCE),
        }
    }

    /// Runs `work` under the connect timeout. `what` is the text of the timeout error.
    ///
    /// # Errors
    /// Those of `work`; `Network` after the timeout.
    pub(super) async fn connecting<T>(
        &self,
        what: impl FnOnce() -> String,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        within(self.connect, what, work).await
    }

    /// Runs `work`, which waits for one answer of a server, under the idle timeout. `what` is the text of the timeout
    /// error.
    ///
    /// # Errors
    /// Those of `work`; `Network` after the timeout.
    pub(super) async fn answer<T>(
        &self,
        what: impl FnOnce() -> String,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        within(self.silence, what, work).await
    }
}

async fn within<T>(
    limit: Duration,
    what: impl FnOnce() -> String,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => {
            Err(Error::new(Kind::Network, what()).because(format!("no answer within {limit:?}")))
        }
    }
}
