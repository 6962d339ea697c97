//! Puts of one object. All bytes are sent in a single request when nothing fails.

use std::time::Duration;

use md5::{Digest, Md5};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{
    Drive,
    files::{Meta, damaged},
    names,
    session::{Sent, Session, rest_of},
};
use crate::{
    backends::{Backoff, Key, Payload},
    error::{Error, Kind, Result},
};

/// Tries in a row without progress before an upload session is given up.
const RESUMES: u32 = 5;
/// Upload sessions per put.
const SESSIONS: u32 = 3;
/// When the server asks for a longer wait, the error goes to the caller, which holds no session while it waits.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Expected length and MD5 of an object.
struct Sum {
    len: u64,
    md5: String,
}

impl Sum {
    /// Starts hashing on a blocking thread. 32 MiB take tens of milliseconds, while they are being sent.
    fn begin(payload: &Payload) -> JoinHandle<Self> {
        let payload = payload.clone();
        tokio::task::spawn_blocking(move || {
            let mut md5 = Md5::new();
            payload.parts().iter().for_each(|part| md5.update(part));
            Self { len: payload.len(), md5: names::hex(&md5.finalize()) }
        })
    }

    fn fits(&self, meta: &Meta) -> bool {
        let md5 = meta.md5_checksum.as_deref();
        meta.len() == self.len && md5.is_none_or(|md5| md5 == self.md5)
    }
}

impl Drive {
    pub(super) async fn put(&self, key: &Key, payload: &Payload) -> Result<()> {
        // Two concurrent puts of a key would make two files. With the lock the second put finds the first one's file.
        let _one_at_a_time = self.lock_of(key).lock().await;
        let sum = Sum::begin(payload);
        let pending = self.pending.lock().get(key).cloned();
        let (id, sum) = match pending {
            Some(id) => (id, sum_of(sum).await?),
            None => {
                let before = self.before_put(key).await?;
                if let Some(meta) = before {
                    let sum = sum_of(sum).await?;
                    if sum.fits(&meta) {
                        return Ok(());
                    }
                    self.remove_key(key).await?;
                    (self.new_id(key).await?, sum)
                } else {
                    // The checksum is needed only after everything was sent.
                    let id = self.new_id(key).await?;
                    let made = self.create(key, &id, payload).await?;
                    return self.accept(key, made, &sum_of(sum).await?).await;
                }
            }
        };
        let made = self.create(key, &id, payload).await?;
        self.accept(key, made, &sum).await
    }

    /// The file that already exists under the key. A chunk without a note counts as absent, because its key is used
    /// once and a search costs more than the put.
    async fn before_put(&self, key: &Key) -> Result<Option<Meta>> {
        let is_chunk = names::placing(key).folders.first().is_some_and(|f| f == names::CHUNKS);
        if is_chunk && self.known.get(key)?.is_none() {
            return Ok(None);
        }
        self.look_up(key, &format!("put of {key}")).await
    }

    /// Reserves an id for the file of `key`. It is kept until the put succeeds, so a repeated put makes the same
    /// file.
    async fn new_id(&self, key: &Key) -> Result<String> {
        let id = self.ids.take(&self.client).await?;
        self.pending.lock().insert(key.clone(), id.clone());
        Ok(id)
    }

    /// Notes a file that matches `sum`, and removes one that does not.
    async fn accept(&self, key: &Key, made: Made, sum: &Sum) -> Result<()> {
        let Made(meta) = made;
        let what = format!("put of {key}");
        if !sum.fits(&meta) {
            self.pending.lock().remove(key);
            self.remove(&meta.id, &what).await?;
            return Err(damaged(key));
        }
        if meta.trashed {
            // Its folder is in the trash, and the file would be deleted with it.
            self.pending.lock().remove(key);
            self.forget_folders(&names::placing(key).folders).await;
            self.remove(&meta.id, &what).await?;
            let text = format!("{what}: its folder on Google Drive is in the trash");
            return Err(Error::new(Kind::Unavailable, text));
        }
        self.known.remember(key, &meta.id).await;
        self.pending.lock().remove(key);
        Ok(())
    }

    /// Creates the file `id`, with a new session when one expires or is refused.
    async fn create(&self, key: &Key, id: &str, payload: &Payload) -> Result<Made> {
        let mut restarted = false;
        let mut sessions = 0;
        loop {
            sessions += 1;
            let sent = match self.open(key, id, payload.len(), true).await {
                Ok(session) => self.fill(&session, key, payload, Span::whole(payload.len())).await,
                Err(e) => Err(e),
            };
            match sent {
                Ok(Sent::Made(meta)) => {
                    return self.told(meta, id, &format!("put of {key}")).await.map(Made);
                }
                Ok(Sent::Received(_)) => return Err(damaged(key)),
                Err(e) if e.kind() == Kind::AlreadyExists => {
                    return self.made_before(key, id).await;
                }
                Err(e) if sessions == SESSIONS => return Err(e),
                Err(e) if e.kind() == Kind::SessionExpired => {}
                // Google says to start a new session after any refusal inside one.
                Err(e) if e.kind() == Kind::Internal && !restarted => restarted = true,
                Err(e) => return Err(e),
            }
            tracing::debug!("the upload of {key} is begun again");
        }
    }

    /// The file made by an earlier try whose answer was lost.
    async fn made_before(&self, key: &Key, id: &str) -> Result<Made> {
        let what = format!("put of {key}");
        if let Some(meta) = self.meta(id, &what).await? {
            return Ok(Made(meta));
        }
        // Created and deleted since; the id cannot be used again.
        self.pending.lock().remove(key);
        let text = format!("{what} on Google Drive: the file is gone again");
        Err(Error::new(Kind::Unavailable, text))
    }

    /// Starts an upload session for the file of `key`, and recreates its folders when they are gone. With `named`,
    /// the file has the key in its properties from the start.
    pub(super) async fn open(&self, key: &Key, id: &str, len: u64, named: bool) -> Result<Session> {
        match self.start(key, &self.described(key, id, named).await?, len).await {
            Err(e) if e.kind() == Kind::NotFound => {
                self.forget_folders(&names::placing(key).folders).await;
                self.start(key, &self.described(key, id, named).await?, len).await
            }
            started => started,
        }
    }

    async fn described(&self, key: &Key, id: &str, named: bool) -> Result<Value> {
        let mut description = self.description(key, id).await?;
        if named {
            description["appProperties"] = self.properties(key).await?;
        }
        Ok(description)
    }

    /// The properties that make a file the object `key`.
    pub(super) async fn properties(&self, key: &Key) -> Result<Value> {
        let properties = names::properties(key, &self.root().await?.id);
        Ok(properties.into_iter().map(|(name, value)| (name, Value::from(value))).collect())
    }

    /// Sends `payload` into a session and resumes after interruptions. Returns when the server has all of it.
    pub(super) async fn fill(
        &self,
        session: &Session,
        key: &Key,
        payload: &Payload,
        span: Span,
    ) -> Result<Sent> {
        let end = span.start + payload.len();
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(4));
        let (mut at, mut stuck, mut ask) = (span.from, 0, span.ask);
        loop {
            let answer = if ask {
                self.status(session, key, span.total).await
            } else {
                let rest = rest_of(payload, at - span.start);
                self.send(session, key, &rest, at, span.total).await
            };
            let received = match answer {
                Ok(Sent::Received(received)) => received,
                Err(e) if passes(&e) && stuck < RESUMES => {
                    tracing::debug!("the upload of {key} stopped: {}", e.report());
                    let wait = backoff.next_wait().max(e.wait_asked().unwrap_or_default());
                    tokio::time::sleep(wait).await;
                    (stuck, ask) = (stuck + 1, true);
                    continue;
                }
                made_or_failed => return made_or_failed,
            };
            if received >= end && end < span.total {
                return Ok(Sent::Received(received));
            }
            if received < span.start {
                let text = format!("Google Drive lost the beginning of the upload of {key}");
                return Err(Error::new(Kind::SessionExpired, text));
            }
            stuck = if received > at { 0 } else { stuck + u32::from(!ask) };
            if stuck > RESUMES {
                let text = format!("put of {key}: Google Drive takes no more of it");
                return Err(Error::new(Kind::Unavailable, text));
            }
            (at, ask) = (received.min(end), false);
        }
    }
}

/// A file that exists now.
struct Made(Meta);

/// The position of a payload in its file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) start: u64,
    /// First byte to send.
    pub(super) from: u64,
    pub(super) total: u64,
    /// Whether to ask the session first how much has arrived, because that is unknown.
    pub(super) ask: bool,
}

impl Span {
    fn whole(total: u64) -> Self {
        Self { start: 0, from: 0, total, ask: false }
    }
}

/// Whether to resume the session after this error.
fn passes(e: &Error) -> bool {
    let waits = e.wait_asked().is_none_or(|wait| wait <= LONGEST_WAIT);
    e.kind().is_retryable() && e.kind() != Kind::SessionExpired && waits
}

async fn sum_of(sum: JoinHandle<Sum>) -> Result<Sum> {
    sum.await.map_err(|e| Error::new(Kind::Internal, "a checksum was not computed").because(e))
}
