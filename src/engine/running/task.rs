//! The task of a running import: makes attempts until one ends by itself, or none is wanted any more.

use std::{future::Future, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{handle::ImportHandle, registry::Registry, running_import::RunningImport};
use crate::{
    engine::Engine,
    error::{Error, Kind, Result},
    events::Imported,
};

/// How an import is filled. Each call continues where the last one was stopped.
pub(in crate::engine) trait Attempt: Send + 'static {
    /// # Errors
    /// `Cancelled` when `cancel` ended it, after all verified bytes were flushed.
    fn run(&mut self, cancel: CancellationToken) -> impl Future<Output = Result<Imported>> + Send;
}

impl Engine {
    /// Starts the task of an import.
    pub(in crate::engine) fn spawn_import(
        &self,
        running: Arc<RunningImport>,
        attempt: impl Attempt,
    ) -> ImportHandle {
        self.running.add_import(&running);
        let handle = ImportHandle::new(Arc::clone(&running));
        let ending = Ending { running, registry: Arc::clone(&self.running) };
        self.tasks.spawn(drive(ending, self.stopping.clone(), attempt));
        handle
    }

    /// The imports that are running or paused, oldest first.
    #[must_use]
    pub fn imports(&self) -> Vec<ImportHandle> {
        self.running.imports().into_iter().map(ImportHandle::new).collect()
    }

    /// The handle of the running or paused import with this id.
    #[must_use]
    pub fn import_handle(&self, id: &str) -> Option<ImportHandle> {
        self.imports().into_iter().find(|handle| handle.id().as_deref() == Some(id))
    }
}

// ANCHOR: drive
async fn drive(ending: Ending, stopping: CancellationToken, attempt: impl Attempt) {
    let running = &ending.running;
    let mut attempt = attempt;
    let result = loop {
        let cancel = running.begin_attempt(&stopping);
        let result = attempt.run(cancel.clone()).await;
        let was_stopped = cancel.is_cancelled()
            && matches!(&result, Err(error) if error.kind() == Kind::Cancelled);
        if !was_stopped || !running.wait_for_resume(&stopping).await {
            break result;
        }
    };
    // The claims end first, so that a caller that waited can start the next operation.
    drop(attempt);
    ending.end(result);
}
// ANCHOR_END: drive

/// Ends the import, also when its task panics.
struct Ending {
    running: Arc<RunningImport>,
    registry: Arc<Registry>,
}

impl Ending {
    fn end(&self, result: Result<Imported>) {
        self.registry.remove_import(self.running.number());
        self.running.finish(result);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.running.has_ended() {
            self.end(Err(Error::new(Kind::Internal, "the task of the import panicked")));
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::{super::running_import::RunningState, *};
    use crate::events::EventLog;

    /// Counts its attempts. Each waits until it is stopped, except the last.
    struct Counting {
        attempts: Arc<Mutex<usize>>,
        last: usize,
    }

    impl Attempt for Counting {
        async fn run(&mut self, cancel: CancellationToken) -> Result<Imported> {
            *self.attempts.lock() += 1;
            if *self.attempts.lock() < self.last {
                cancel.cancelled().await;
                return Err(Error::new(Kind::Cancelled, "stopped"));
            }
            let (name, info_hash) = (String::new(), String::new());
            let (bytes, files, downloaded) = (1, 1, 1);
            let (seconds, peak_held, evicted, packed) = (0.0, 0, 0, 0);
            let id = "9c4e".to_owned();
            Ok(Imported {
                id,
                name,
                bytes,
                seconds,
                files,
                info_hash,
                downloaded,
                peak_held,
                evicted,
                packed,
            })
        }
    }

    struct Driven {
        handle: ImportHandle,
        attempts: Arc<Mutex<usize>>,
        stopping: CancellationToken,
        registry: Arc<Registry>,
    }

    fn driven(last: usize) -> Driven {
        let registry = Arc::new(Registry::default());
        let running = RunningImport::new(1, EventLog::default());
        registry.add_import(&running);
        let handle = ImportHandle::new(Arc::clone(&running));
        let (attempts, stopping) = (Arc::default(), CancellationToken::new());
        let ending = Ending { running, registry: Arc::clone(&registry) };
        let counting = Counting { attempts: Arc::clone(&attempts), last };
        tokio::spawn(drive(ending, stopping.clone(), counting));
        Driven { handle, attempts, stopping, registry }
    }

    async fn wait_for(handle: &ImportHandle, state: RunningState) {
        handle.states().wait_for(|now| *now == state).await.unwrap();
    }

    #[tokio::test]
    async fn a_paused_run_waits_and_makes_another_attempt_when_it_is_resumed() {
        let Driven { handle, attempts, registry, .. } = driven(2);
        handle.pause();
        wait_for(&handle, RunningState::Paused).await;
        assert_eq!(*attempts.lock(), 1);
        handle.pause();
        assert_eq!(handle.state(), RunningState::Paused);
        handle.resume();
        assert_eq!(handle.wait().await.unwrap().id, "9c4e");
        assert_eq!((*attempts.lock(), handle.state()), (2, RunningState::Imported));
        assert_eq!(handle.wait_started().await.unwrap(), "9c4e");
        assert!(registry.imports().is_empty());
        handle.pause();
        assert_eq!(handle.state(), RunningState::Imported);
    }

    #[tokio::test]
    async fn a_run_ends_when_it_is_cancelled_while_it_runs_or_while_it_is_paused() {
        let running = driven(9);
        tokio::task::yield_now().await;
        running.handle.cancel();
        assert_eq!(running.handle.wait().await.unwrap_err().kind(), Kind::Cancelled);
        let paused = driven(9);
        paused.handle.pause();
        wait_for(&paused.handle, RunningState::Paused).await;
        paused.handle.cancel();
        paused.handle.resume();
        assert_eq!(paused.handle.wait().await.unwrap_err().kind(), Kind::Cancelled);
        assert_eq!((*paused.attempts.lock(), paused.handle.state()), (1, RunningState::Cancelled));
        assert_eq!(paused.handle.wait_started().await.unwrap_err().kind(), Kind::Cancelled);
    }

    #[tokio::test]
    async fn a_stopping_engine_ends_running_and_paused_runs() {
        let (running, paused) = (driven(9), driven(9));
        paused.handle.pause();
        wait_for(&paused.handle, RunningState::Paused).await;
        for driven in [&running, &paused] {
            driven.stopping.cancel();
            assert_eq!(driven.handle.wait().await.unwrap_err().kind(), Kind::Cancelled);
        }
    }

    #[tokio::test]
    async fn every_waiter_gets_the_result_and_a_panic_is_an_error() {
        struct Panicking;
        impl Attempt for Panicking {
            async fn run(&mut self, _: CancellationToken) -> Result<Imported> {
                panic!("on purpose")
            }
        }
        let running = RunningImport::new(1, EventLog::default());
        let handle = ImportHandle::new(Arc::clone(&running));
        let ending = Ending { running, registry: Arc::default() };
        drop(tokio::spawn(drive(ending, CancellationToken::new(), Panicking)));
        let (one, two) = tokio::join!(handle.wait(), handle.wait());
        assert_eq!(one.unwrap_err().kind(), Kind::Internal);
        assert_eq!(two.unwrap_err().kind(), Kind::Internal);
    }
}
