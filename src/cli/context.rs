//! What every command works with: the config, the output and the cancellation.

use std::future::{Future, pending};

use tokio_util::sync::CancellationToken;

use super::output::{Failure, Output};
use crate::{
    config::{Config, Secret},
    daemon::ApiState,
    engine::{Access, Engine, EngineOptions},
    error::{Error, Kind, Result},
};

/// The daemon that a command runs in.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) api: ApiState,
}

/// What every command receives.
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) out: Output,
    /// The password of `BAE_PASSWORD`.
    pub(super) password: Option<Secret>,
    /// `None` in a process of its own.
    pub(super) host: Option<Host>,
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
        if let Some(host) = &self.host {
            return work(host.api.engine()).await;
        }
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

    /// Waits for something that runs in the engine. In a process of its own, the engine stops it after Ctrl-C; in a
    /// daemon, the engine lives on, and `stop` is called.
    pub(super) async fn wait_or_stop<T>(
        &self,
        stop: impl FnOnce(),
        wait: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let stopped = async {
            self.cancel.cancelled().await;
            if self.host.is_some() {
                stop();
            }
            pending().await
        };
        tokio::select! {
            done = wait => done,
            never = stopped => never,
        }
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
