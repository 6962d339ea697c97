//! The engine's one libtorrent session: started by the first import or seeding that needs it, and stopped with the
//! engine. Commands and imports that need no swarm start none.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;

use super::SESSION_STOP_TIMEOUT;
use crate::{
    config::SessionOptions,
    error::{Error, Kind, Result},
    memory::BlockPool,
    storage::Pressure,
    torrents::TorrentSession,
};

/// The session, or its settings until it starts.
#[derive(Debug)]
pub(in crate::engine) struct SessionSlot {
    options: SessionOptions,
    pressure: Arc<Pressure>,
    pool: BlockPool,
    state: Mutex<SlotState>,
    starts: AtomicUsize,
}

#[derive(Debug)]
struct SlotState {
    session: Option<Arc<TorrentSession>>,
    limits: SessionLimits,
    stopped: bool,
}

/// Rate limits of the whole session in bytes per second; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SessionLimits {
    download: Option<u64>,
    upload: Option<u64>,
}

impl SessionSlot {
    pub(in crate::engine) fn new(
        options: SessionOptions,
        pressure: Arc<Pressure>,
        pool: BlockPool,
    ) -> Self {
        let limits = SessionLimits { download: options.limit_rate, upload: options.upload_limit };
        let state = Mutex::new(SlotState { session: None, limits, stopped: false });
        Self { options, pressure, pool, state, starts: AtomicUsize::new(0) }
    }

    pub(in crate::engine) fn options(&self) -> &SessionOptions {
        &self.options
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
        let session = TorrentSession::start(&self.options, pressure, pool)?;
        let SessionLimits { download, upload } = state.limits;
        session.set_limits(download, upload)?;
        self.starts.fetch_add(1, Ordering::Relaxed);
        state.session = Some(Arc::clone(&session));
        Ok(session)
    }

    /// How often a session was started: 0 or 1.
    pub(in crate::engine) fn starts(&self) -> usize {
        self.starts.load(Ordering::Relaxed)
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
        state.limits = SessionLimits { download, upload };
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
