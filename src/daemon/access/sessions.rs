//! Sessions of logins: a cookie instead of the token in each request.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::Role;
use crate::error::{Error, Kind, Result};

/// A session ends when it was not used for so long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Most sessions. The one that was idle longest makes room.
const MAX_SESSIONS: usize = 1024;

/// The secret id of a session.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(String);

impl SessionId {
    /// An id as a client sent it.
    #[must_use]
    pub fn from_client(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// The text for the client's cookie.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(…)")
    }
}

#[derive(Debug)]
struct Session {
    role: Role,
    used: Instant,
}

/// All sessions. They end with the process.
#[derive(Debug)]
pub struct Sessions {
    open: Mutex<HashMap<SessionId, Session>>,
    /// Counts the rotations of the tokens. Sockets end when it changes.
    rotations: watch::Sender<u64>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { open: Mutex::default(), rotations: watch::Sender::new(0) }
    }
}

impl Sessions {
    /// Begins a session.
    ///
    /// # Errors
    /// `Internal` when the system has no randomness.
    pub fn begin(&self, role: Role) -> Result<SessionId> {
        let mut bytes = [0; 24];
        getrandom::fill(&mut bytes)
            .map_err(|e| Error::new(Kind::Internal, format!("no randomness: {e}")))?;
        let id = SessionId(crate::catalog::hex(&bytes));
        let mut open = self.open.lock();
        open.retain(|_, session| session.used.elapsed() < IDLE_TIMEOUT);
        if open.len() >= MAX_SESSIONS {
            let oldest = open.iter().min_by_key(|(_, session)| session.used);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                open.remove(&oldest);
            }
        }
        open.insert(id.clone(), Session { role, used: Instant::now() });
        Ok(id)
    }

    /// The role of a session that has not ended. Counts as use.
    #[must_use]
    pub fn role(&self, id: &SessionId) -> Option<Role> {
        let mut open = self.open.lock();
        let session = open.get_mut(id)?;
        if session.used.elapsed() >= IDLE_TIMEOUT {
            open.remove(id);
            return None;
        }
        session.used = Instant::now();
        Some(session.role)
    }

    /// Ends a session.
    pub fn end(&self, id: &SessionId) {
        self.open.lock().remove(id);
    }

    pub(super) fn end_all(&self) {
        self.open.lock().clear();
        self.rotations.send_modify(|count| *count += 1);
    }

    /// Changes when the tokens are replaced: long connections end then.
    #[must_use]
    pub fn rotations(&self) -> watch::Receiver<u64> {
        self.rotations.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_lasts_until_it_is_ended_or_the_tokens_are_replaced() {
        let sessions = Sessions::default();
        let (one, other) =
            (sessions.begin(Role::Admin).unwrap(), sessions.begin(Role::Reader).unwrap());
        assert_eq!(sessions.role(&one), Some(Role::Admin));
        assert_eq!(sessions.role(&SessionId::from_client("x")), None);
        sessions.end(&one);
        assert_eq!((sessions.role(&one), sessions.role(&other)), (None, Some(Role::Reader)));
        let mut rotations = sessions.rotations();
        sessions.end_all();
        assert_eq!(sessions.role(&other), None);
        rotations.changed().await.unwrap();
        assert!(!format!("{other:?}").contains(other.reveal()));
    }

    #[test]
    fn the_number_of_sessions_is_bounded() {
        let sessions = Sessions::default();
        for _ in 0..MAX_SESSIONS + 10 {
            sessions.begin(Role::Reader).unwrap();
        }
        assert_eq!(sessions.open.lock().len(), MAX_SESSIONS);
    }
}
