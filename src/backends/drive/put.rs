//! Puts of one object. All bytes are sent in a single request when nothing fails.

use std::time::Duration;

use md5::{Digest, Md5};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{
    Drive,
    files::{FileMeta, damaged_object},
    names,
    session::{SessionStatus, UploadSession, skip_bytes},
};
use crate::{
    backends::{Backoff, Key, Payload},
    error::{Error, Kind, Result},
};

/// Tries in a row without progress before an upload session is given up.
const MAX_RESUMES: u32 = 5;
/// Upload sessions per put.
const MAX_SESSIONS: u32 = 3;
/// When the server asks for a longer wait, the error goes to the caller, which holds no session while it waits.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Expected length and MD5 of an object.
struct Checksum {
    len: u64,
    md5: String,
}

impl Checksum {
    /// Starts hashing on a blocking thread. 32 MiB take tens of milliseconds, while they are being sent.
    fn spawn(payload: &Payload) -> JoinHandle<Self> {
        let payload = payload.clone();
        tokio::task::spawn_blocking(move || {
            let mut md5 = Md5::new();
            payload.buffers().iter().for_each(|buffer| md5.update(buffer));
            Self { len: payload.len(), md5: names::hex(&md5.finalize()) }
        })
    }

    fn matches(&self, meta: &FileMeta) -> bool {
        let md5 = meta.md5_checksum.as_deref();
        meta.len() == self.len && md5.is_none_or(|md5| md5 == self.md5)
    }
}

impl Drive {
    pub(super) async fn put(&self, key: &Key, payload: &Payload) -> Result<()> {
        // Two concurrent puts of a key would make two files. With the lock the second put finds the first one's file.
        let _one_at_a_time = self.put_lock(key).lock().await;
        let checksum = Checksum::spawn(payload);
        let pending_id = self.pending_ids.lock().get(key).cloned();
        let (id, checksum) = match pending_id {
            Some(id) => (id, join_checksum(checksum).await?),
            None => {
                let existing = self.existing_file(key).await?;
                if let Some(meta) = existing {
                    let checksum = join_checksum(checksum).await?;
                    if checksum.matches(&meta) {
                        return Ok(());
                    }
                    self.delete_object(key).await?;
                    (self.new_id(key).await?, checksum)
                } else {
                    // The checksum is needed only after everything was sent.
                    let id = self.new_id(key).await?;
                    let created = self.create(key, &id, payload).await?;
                    return self
                        .verify_and_record(key, created, &join_checksum(checksum).await?)
                        .await;
                }
            }
        };
        let created = self.create(key, &id, payload).await?;
        self.verify_and_record(key, created, &checksum).await
    }

    /// The file that already exists under the key. A chunk without a saved id counts as absent, because its key is used
    /// once and a search costs more than the put.
    async fn existing_file(&self, key: &Key) -> Result<Option<FileMeta>> {
        let is_chunk = names::visible_path(key).folders.first().is_some_and(|f| f == names::CHUNKS);
        if is_chunk && self.file_ids.get(key).await?.is_none() {
            return Ok(None);
        }
        self.look_up(key, &format!("put of {key}")).await
    }

    /// Reserves an id for the file of `key`. It is kept until the put succeeds, so a repeated put makes the same
    /// file.
    async fn new_id(&self, key: &Key) -> Result<String> {
        let id = self.ids.take(&self.client).await?;
        self.pending_ids.lock().insert(key.clone(), id.clone());
        Ok(id)
    }

    /// Records a file that matches `checksum`, and removes one that does not.
    async fn verify_and_record(
        &self,
        key: &Key,
        created: CreatedFile,
        checksum: &Checksum,
    ) -> Result<()> {
        let CreatedFile(meta) = created;
        let what = format!("put of {key}");
        if !checksum.matches(&meta) {
            self.pending_ids.lock().remove(key);
            self.delete_file(&meta.id, &what).await?;
            return Err(damaged_object(key));
        }
        if meta.trashed {
            // Its folder is in the trash, and the file would be deleted with it.
            self.pending_ids.lock().remove(key);
            self.forget_folders(&names::visible_path(key).folders).await;
            self.delete_file(&meta.id, &what).await?;
            let text = format!("{what}: its folder on Google Drive is in the trash");
            return Err(Error::new(Kind::Unavailable, text));
        }
        self.file_ids.remember(key, &meta.id).await;
        self.pending_ids.lock().remove(key);
        Ok(())
    }

    /// Creates the file `id`, with a new session when one expires or is refused.
    async fn create(&self, key: &Key, id: &str, payload: &Payload) -> Result<CreatedFile> {
        let mut restarted = false;
        let mut sessions = 0;
        loop {
            sessions += 1;
            let sent = match self.open_session(key, id, payload.len(), true).await {
                Ok(session) => {
                    self.send_all(&session, key, payload, UploadSpan::whole(payload.len())).await
                }
                Err(e) => Err(e),
            };
            match sent {
                Ok(SessionStatus::Complete(meta)) => {
                    return self
                        .confirm_created(meta, id, &format!("put of {key}"))
                        .await
                        .map(CreatedFile);
                }
                Ok(SessionStatus::Partial(_)) => return Err(damaged_object(key)),
                Err(e) if e.kind() == Kind::AlreadyExists => {
                    return self.created_earlier(key, id).await;
                }
                Err(e) if sessions == MAX_SESSIONS => return Err(e),
                Err(e) if e.kind() == Kind::SessionExpired => {}
                // Google says to start a new session after any refusal inside one.
                Err(e) if e.kind() == Kind::Internal && !restarted => restarted = true,
                Err(e) => return Err(e),
            }
            tracing::debug!("restarting the upload of {key}");
        }
    }

    /// The file made by an earlier try whose answer was lost.
    async fn created_earlier(&self, key: &Key, id: &str) -> Result<CreatedFile> {
        let what = format!("put of {key}");
        if let Some(meta) = self.meta(id, &what).await? {
            return Ok(CreatedFile(meta));
        }
        // Created and deleted since; the id cannot be used again.
        self.pending_ids.lock().remove(key);
        let text = format!("{what} on Google Drive: the file was created and deleted again");
        Err(Error::new(Kind::Unavailable, text))
    }

    /// Starts an upload session for the file of `key`, and recreates its folders when they are gone. With `with_key`,
    /// the file has the key in its properties from the start.
    pub(super) async fn open_session(
        &self,
        key: &Key,
        id: &str,
        len: u64,
        with_key: bool,
    ) -> Result<UploadSession> {
        match self.start_session(key, &self.upload_metadata(key, id, with_key).await?, len).await {
            Err(e) if e.kind() == Kind::NotFound => {
                self.forget_folders(&names::visible_path(key).folders).await;
                self.start_session(key, &self.upload_metadata(key, id, with_key).await?, len).await
            }
            started => started,
        }
    }

    async fn upload_metadata(&self, key: &Key, id: &str, with_key: bool) -> Result<Value> {
        let mut metadata = self.new_file_metadata(key, id).await?;
        if with_key {
            metadata["appProperties"] = self.properties(key).await?;
        }
        Ok(metadata)
    }

    /// The properties that make a file the object `key`.
    pub(super) async fn properties(&self, key: &Key) -> Result<Value> {
        let properties = names::properties(key, &self.root().await?.id);
        Ok(properties.into_iter().map(|(name, value)| (name, Value::from(value))).collect())
    }

    /// Sends `payload` into a session and resumes after interruptions. Returns when the server has all of it.
    pub(super) async fn send_all(
        &self,
        session: &UploadSession,
        key: &Key,
        payload: &Payload,
        span: UploadSpan,
    ) -> Result<SessionStatus> {
        let end = span.start + payload.len();
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(4));
        let (mut at, mut failures, mut query) = (span.resume_at, 0, span.query_first);
        loop {
            let answer = if query {
                self.session_status(session, key, span.total).await
            } else {
                let remaining = skip_bytes(payload, at - span.start);
                self.send_range(session, key, &remaining, at, span.total).await
            };
            let received = match answer {
                Ok(SessionStatus::Partial(received)) => received,
                Err(e) if is_resumable(&e) && failures < MAX_RESUMES => {
                    tracing::debug!("the upload of {key} was interrupted: {}", e.report());
                    let wait = backoff.next_wait().max(e.requested_wait().unwrap_or_default());
                    tokio::time::sleep(wait).await;
                    (failures, query) = (failures + 1, true);
                    continue;
                }
                complete_or_failed => return complete_or_failed,
            };
            if received >= end && end < span.total {
                return Ok(SessionStatus::Partial(received));
            }
            if received < span.start {
                let text = format!("Google Drive lost the start of the upload of {key}");
                return Err(Error::new(Kind::SessionExpired, text));
            }
            failures = if received > at { 0 } else { failures + u32::from(!query) };
            if failures > MAX_RESUMES {
                let text = format!("put of {key}: the upload to Google Drive makes no progress");
                return Err(Error::new(Kind::Unavailable, text));
            }
            (at, query) = (received.min(end), false);
        }
    }
}

/// A file that exists now.
struct CreatedFile(FileMeta);

/// The position of a payload in its file.
#[derive(Debug, Clone, Copy)]
pub(super) struct UploadSpan {
    pub(super) start: u64,
    /// First byte to send.
    pub(super) resume_at: u64,
    pub(super) total: u64,
    /// Whether to query the session first for the bytes that arrived, because that is unknown.
    pub(super) query_first: bool,
}

impl UploadSpan {
    fn whole(total: u64) -> Self {
        Self { start: 0, resume_at: 0, total, query_first: false }
    }
}

/// Whether to resume the session after this error.
fn is_resumable(e: &Error) -> bool {
    let wait_is_short = e.requested_wait().is_none_or(|wait| wait <= MAX_WAIT);
    e.kind().is_retryable() && e.kind() != Kind::SessionExpired && wait_is_short
}

async fn join_checksum(checksum: JoinHandle<Checksum>) -> Result<Checksum> {
    checksum.await.map_err(|e| Error::new(Kind::Internal, "a checksum was not computed").because(e))
}
