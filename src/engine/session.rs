//! The engine's one libtorrent session: started by the first import or seeding that needs it, and stopped with the
//! engine. Commands and imports that need no swarm start none.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use super::SESSION_STOP_TIMEOUT;
use crate::{
    config::SessionOptions,
    error::{Error, Kind, Result},
    memory::BlockPool,
    storage::Pressure,
    torrents::{TorrentSession, check_interfaces},
};

/// The session, or its settings until it starts.
#[derive(Debug)]
pub(in crate::engine) struct SessionSlot {
    pressure: Arc<Pressure>,
    pool: BlockPool,
    state: Mutex<SlotState>,
    has_started: AtomicBool,
}

#[derive(Debug)]
struct SlotState {
    /// Of a session that starts from now on.
    options: SessionOptions,
    session: Option<Arc<TorrentSession>>,
    stopped: bool,
}

impl SessionSlot {
    pub(in crate::engine) fn new(
        options: SessionOptions,
        pressure: Arc<Pressure>,
        pool: BlockPool,
    ) -> Self {
        let state = Mutex::new(SlotState { options, session: None, stopped: false });
        Self { pressure, pool, state, has_started: AtomicBool::new(false) }
    }

    /// Checks the interfaces of the settings.
    ///
    /// # Errors
    /// `InvalidInput` when one does not exist.
    pub(in crate::engine) fn check_interfaces(&self) -> Result<()> {
        check_interfaces(&self.state.lock().options)
    }

    /// The session. Starts it if it does not run yet. Must be called inside a runtime.
    ///
    /// # Errors
    /// The error of [`TorrentSession::start`]; `Cancelled` when the engine is closing.
    pub(in crate::engine) fn get(&self) -> Result<Arc<TorrentSession>> {
        let mut state = self.state.lock();
        if state.stopped {
            return Err(Error::new(Kind::Cancelled, "the engine is closing"));
        }
        if let Some(session) = &state.session {
            return Ok(Arc::clone(session));
        }
        let (pressure, pool) = (Arc::clone(&self.pressure), self.pool.clone());
        let session = TorrentSession::start(&state.options, pressure, pool)?;
        self.has_started.store(true, Ordering::Relaxed);
        state.session = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Whether a session was started. It stays true after the stop.
    pub(in crate::engine) fn has_started(&self) -> bool {
        self.has_started.load(Ordering::Relaxed)
    }

    /// Changes the limits of the session that runs, and of one that starts later.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub(in crate::engine) fn set_limits(
        &self,
        download: Option<u64>,
        upload: Option<u64>,
    ) -> Result<()> {
        let mut state = self.state.lock();
        (state.options.limit_rate, state.options.upload_limit) = (download, upload);
        match &state.session {
            Some(session) => session.set_limits(download, upload),
            None => Ok(()),
        }
    }

    /// Stops the session within [`SESSION_STOP_TIMEOUT`], if it runs. None starts after that.
    pub(in crate::engine) async fn stop(&self) {
        let session = {
            let mut state = self.state.lock();
            state.stopped = true;
            state.session.take()
        };
        if let Some(session) = session {
            session.stop(SESSION_STOP_TIMEOUT).await;
        }
    }
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        if let Some(session) = self.state.get_mut().session.take() {
            session.abandon();
        }
    }
}
