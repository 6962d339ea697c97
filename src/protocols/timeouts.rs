//! Timeouts of connections and answers.

use std::{future::Future, time::Duration};

use super::FetchOptions;
use crate::error::{Error, Kind, Result};

/// Connect timeout, including all handshakes. A busy, distant server takes a few seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Idle timeout, the maximum time between two signs of life. Servers that read from tape or a cold disk pause for long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) connect: Duration,
    pub(super) idle: Duration,
}

impl Timeouts {
    pub(super) fn from_options(options: &FetchOptions) -> Self {
        Self {
            connect: options.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            idle: options.idle_timeout.unwrap_or(IDLE_TIMEOUT),
        }
    }

    /// Runs `work` under the connect timeout. `context` is the text of the timeout error.
    ///
    /// # Errors
    /// Those of `work`; `Network` after the timeout.
    pub(super) async fn run_connect<T>(
        &self,
        context: impl FnOnce() -> String,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        run_with_timeout(self.connect, context, work).await
    }

    /// Runs `work`, which waits for one answer of a server, under the idle timeout. `context` is the text of the
    /// timeout error.
    ///
    /// # Errors
    /// Those of `work`; `Network` after the timeout.
    #[cfg(any(feature = "ftp", feature = "sftp"))]
    pub(super) async fn wait_for_answer<T>(
        &self,
        context: impl FnOnce() -> String,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        run_with_timeout(self.idle, context, work).await
    }
}

async fn run_with_timeout<T>(
    limit: Duration,
    context: impl FnOnce() -> String,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => {
            Err(Error::new(Kind::Network, context()).because(format!("no answer within {limit:?}")))
        }
    }
}
