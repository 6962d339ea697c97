//! Keeps idle sessions for later ranges, because a new login takes seven round trips.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    address::FtpAddress,
    session::{SYNC_TIMEOUT, ServerFacts, Session, SessionConfig},
};
use crate::error::Result;

/// Maximum idle time of a session. Servers close idle sessions after a minute or more, and count them until then.
const MAX_IDLE_TIME: Duration = Duration::from_secs(30);
/// Maximum number of idle sessions per address, which is more than downloads use at once.
const MAX_IDLE_SESSIONS: usize = 16;
/// Idle time up to which a session is returned without a test.
const UNTESTED_IDLE_TIME: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct SessionPool {
    pub(super) config: Arc<SessionConfig>,
    idle: Mutex<HashMap<FtpAddress, Vec<Session>>>,
    facts: Mutex<HashMap<FtpAddress, Arc<ServerFacts>>>,
}

impl SessionPool {
    pub(super) fn new(config: SessionConfig) -> Self {
        Self { config: Arc::new(config), idle: Mutex::default(), facts: Mutex::default() }
    }

    /// An idle session that still answers, or a new one.
    pub(super) async fn acquire(&self, address: &FtpAddress) -> Result<Session> {
        while let Some(mut session) = self.pop_idle(address) {
            let idle = session.last_used.elapsed();
            let needs_no_test = !session.awaits_stale_reply && idle < UNTESTED_IDLE_TIME;
            if needs_no_test || idle < MAX_IDLE_TIME && session.is_in_sync(SYNC_TIMEOUT).await {
                return Ok(session);
            }
        }
        Session::open(&self.config, address, self.facts_of(address)).await
    }

    fn facts_of(&self, address: &FtpAddress) -> Arc<ServerFacts> {
        Arc::clone(self.facts.lock().entry(address.clone()).or_default())
    }

    fn pop_idle(&self, address: &FtpAddress) -> Option<Session> {
        self.idle.lock().get_mut(address)?.pop()
    }

    /// Returns a session to the pool.
    pub(super) fn release(&self, mut session: Session) {
        session.last_used = Instant::now();
        let mut idle = self.idle.lock();
        let sessions = idle.entry(session.address.clone()).or_default();
        if sessions.len() < MAX_IDLE_SESSIONS {
            sessions.push(session);
        }
    }
}
