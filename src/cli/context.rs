//! What every command works with: the config, the output and the cancellation.

use std::future::{Future, pending};

use tokio_util::sync::CancellationToken;

use super::output::{Failure, Output};
use crate::{
    config::Config,
    engine::{Access, Engine, EngineOptions},
    error::{Error, Kind, Result},
};

/// What every command receives.
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) out: Output,
    /// Cancelled by the first Ctrl-C, SIGTERM or SIGHUP.
    pub(super) cancel: CancellationToken,
}

impl Context {
    /// Opens the data folder, runs `work`, and closes the folder even when `work` failed.
    ///
    /// # Errors
    /// The error of `work`; if it succeeded, the error of closing.
    pub(super) async fn with_engine<T>(
        &self,
        access: Access,
        work: impl AsyncFnOnce(&Engine) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.with_engine_options(EngineOptions::new(access), work).await
    }

    /// As [`Context::with_engine`], for commands that may need the torrent session.
    pub(super) async fn with_engine_options<T>(
        &self,
        options: EngineOptions,
        work: impl AsyncFnOnce(&Engine) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let engine = self.unless_cancelled(Engine::open(self.config.clone(), options)).await?;
        let stop = async {
            self.cancel.cancelled().await;
            engine.shutdown();
            pending().await
        };
        let worked = tokio::select! {
            worked = work(&engine) => worked,
            never = stop => never,
        };
        let closed = engine.close().await;
        let value = worked?;
        closed?;
        Ok(value)
    }

    /// Runs a call that does not watch the cancellation token itself.
    pub(super) async fn unless_cancelled<T>(
        &self,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            done = call => done,
            () = self.cancel.cancelled() => Err(interrupted()),
        }
    }
}

/// The error of a command that the user stopped.
pub(super) fn interrupted() -> Error {
    Error::new(Kind::Cancelled, "interrupted")
}
