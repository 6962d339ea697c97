//! How long servers are waited for.

use std::{future::Future, time::Duration};

use super::FetchOptions;
use crate::error::{Error, Kind, Result};

/// A connection with all its greetings: a busy server at the other end of the world takes a few seconds.
const CONNECT: Duration = Duration::from_secs(20);
/// Between any two signs of life. Servers that read from tape or a cold disk are silent for long.
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

    /// `work`, given up when it takes longer than a connection may. `what` is what the error names.
    ///
    /// # Errors
    /// Those of `work`; `Network` when it is given up.
    pub(super) async fn connecting<T>(
        &self,
        what: impl FnOnce() -> String,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        within(self.connect, what, work).await
    }

    /// `work`, which is one answer of a server, given up when it takes longer than a server may be silent.
    ///
    /// # Errors
    /// Those of `work`; `Network` when it is given up.
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
