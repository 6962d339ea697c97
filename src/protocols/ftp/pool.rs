//! Keeps idle sessions for later ranges, because a new login takes seven round trips.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    address::Address,
    session::{IN_STEP, Known, Session, Setup},
};
use crate::error::Result;

/// Maximum idle time of a session. Servers close idle sessions after a minute or more, and count them until then.
const IDLE: Duration = Duration::from_secs(30);
/// Maximum number of idle sessions per address, which is more than downloads use at once.
const KEPT: usize = 16;
/// A session that was used this recently is returned without a test.
const FRESH: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) setup: Arc<Setup>,
    idle: Mutex<HashMap<Address, Vec<Session>>>,
    known: Mutex<HashMap<Address, Arc<Known>>>,
}

impl Pool {
    pub(super) fn new(setup: Setup) -> Self {
        Self { setup: Arc::new(setup), idle: Mutex::default(), known: Mutex::default() }
    }

    /// An idle session that still answers, or a new one.
    pub(super) async fn take(&self, address: &Address) -> Result<Session> {
        while let Some(mut session) = self.pop(address) {
            let idle = session.used.elapsed();
            let sure = !session.doubtful && idle < FRESH;
            if sure || idle < IDLE && session.is_in_step(IN_STEP).await {
                return Ok(session);
            }
        }
        Session::open(&self.setup, address, self.known(address)).await
    }

    fn known(&self, address: &Address) -> Arc<Known> {
        Arc::clone(self.known.lock().entry(address.clone()).or_default())
    }

    fn pop(&self, address: &Address) -> Option<Session> {
        self.idle.lock().get_mut(address)?.pop()
    }

    /// Returns a session to the pool.
    pub(super) fn give(&self, mut session: Session) {
        session.used = Instant::now();
        let mut idle = self.idle.lock();
        let kept = idle.entry(session.address.clone()).or_default();
        if kept.len() < KEPT {
            kept.push(session);
        }
    }
}
