//! Whole files: sent part by part into one session that survives a restart, or copied on the server.
//!
//! The last part creates the file, but it becomes an object only at `finish`, which adds the key to its properties.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use md5::{Digest, Md5};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Mutex;

use super::{
    Drive,
    client::Call,
    files::{FIELDS, Meta},
    limits::Cost,
    names,
    put::Span,
    session::{GRAIN, Sent, Session},
};
use crate::{
    backends::{Key, Payload, Shape, Unfinished, Upload, UploadId, memory::missing},
    error::{Error, Kind, Result},
};

/// The note of an upload. Contains the session URI, so it is never shown.
#[derive(Clone, Serialize, Deserialize)]
struct Saved {
    session: Session,
    id: String,
    len: u64,
    part_len: u64,
    begun: i64,
}

pub(super) struct DriveUpload {
    drive: Arc<Drive>,
    key: Key,
    shape: Shape,
    done: Vec<u64>,
    state: Mutex<State>,
}

impl std::fmt::Debug for DriveUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { key, shape, .. } = self;
        f.debug_struct("DriveUpload")
            .field("key", key)
            .field("shape", shape)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    saved: Option<Saved>,
    /// Bytes that the server has.
    received: u64,
    /// A request failed, so the number of bytes that arrived is unknown.
    unsure: bool,
    /// MD5 of all bytes up to `hashed`; `None` when an earlier process sent some of them.
    md5: Option<Md5>,
    hashed: u64,
    made: Option<Meta>,
    /// Id of the file to copy, and the id reserved for the copy.
    copy: Option<(String, String)>,
    /// The server has forgotten the upload.
    expired: bool,
}

/// Timeout of a server-side copy. The request waits for the copy, and Google states no time for a large file.
const COPY: Duration = Duration::from_secs(600);

fn note(key: &Key) -> String {
    format!("upload:{key}")
}

impl Drive {
    pub(super) async fn begin_upload(
        self: &Arc<Self>,
        key: &Key,
        shape: Shape,
    ) -> Result<DriveUpload> {
        if !shape.part_len.is_multiple_of(GRAIN) && shape.parts() > 1 {
            let text = format!(
                "parts of {} bytes: Google Drive takes multiples of 256 KiB",
                shape.part_len
            );
            return Err(Error::new(Kind::Unsupported, text));
        }
        let saved = self.notes.get(&note(key))?.and_then(|text| serde_json::from_str(&text).ok());
        let state = match saved {
            Some(saved) => self.resume(key, shape, saved).await?,
            None => State::fresh(),
        };
        let done = match &state.made {
            Some(_) => (0..shape.parts()).collect(),
            None => (0..state.received / shape.part_len.max(1)).collect(),
        };
        Ok(DriveUpload {
            drive: Arc::clone(self),
            key: key.clone(),
            shape,
            done,
            state: Mutex::new(state),
        })
    }

    /// The state of an upload that an earlier run began.
    async fn resume(&self, key: &Key, shape: Shape, saved: Saved) -> Result<State> {
        if (saved.len, saved.part_len) != (shape.len, shape.part_len) {
            self.end_upload(key, &saved).await?;
            return Ok(State::fresh());
        }
        let sent = match self.status(&saved.session, key, shape.len).await {
            Err(e) if e.kind() == Kind::SessionExpired => {
                let what = format!("upload of {key}");
                match self.meta(&saved.id, &what).await?.filter(|meta| meta.len() == shape.len) {
                    // The file was complete before the session expired, and the answer was lost.
                    Some(meta) => Sent::Made(meta),
                    None => {
                        self.end_upload(key, &saved).await?;
                        return Ok(State::fresh());
                    }
                }
            }
            sent => sent?,
        };
        Ok(match sent {
            Sent::Made(meta) => State {
                saved: Some(saved),
                received: shape.len,
                made: Some(meta),
                ..State::default()
            },
            Sent::Received(0) => State { saved: Some(saved), ..State::fresh() },
            Sent::Received(received) => State { saved: Some(saved), received, ..State::default() },
        })
    }

    /// Aborts an upload: cancels its session, and removes the file that it may have created and its note.
    async fn end_upload(&self, key: &Key, saved: &Saved) -> Result<()> {
        self.give_up(&saved.session, key).await?;
        self.remove(&saved.id, &format!("end of the upload of {key}")).await?;
        self.notes.set(&note(key), None).await
    }

    pub(super) fn unfinished_uploads(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        let noted = self.notes.list(&format!("upload:{prefix}"))?;
        let unfinished = |(name, text): (String, String)| {
            let saved: Saved = serde_json::from_str(&text).ok()?;
            let key = Key::new(name.strip_prefix("upload:")?).ok()?;
            Some(Unfinished { key, id: UploadId(text), begun: Some(saved.begun) })
        };
        Ok(noted.into_iter().filter_map(unfinished).collect())
    }

    pub(super) async fn abort_upload(&self, upload: &Unfinished) -> Result<()> {
        match serde_json::from_str::<Saved>(&upload.id.0) {
            Ok(saved) => self.end_upload(&upload.key, &saved).await,
            // Not an id made by this backend, so there is nothing to remove.
            Err(_) => Ok(()),
        }
    }
}

impl State {
    /// The state of an upload without any bytes.
    fn fresh() -> Self {
        Self { md5: Some(Md5::new()), ..Self::default() }
    }
}

impl DriveUpload {
    /// The upload session, started with the first part because a copy needs none.
    async fn session(&self, state: &mut State) -> Result<Session> {
        if let Some(saved) = &state.saved {
            return Ok(saved.session.clone());
        }
        let id = self.drive.ids.take(&self.drive.client).await?;
        let session = self.drive.open(&self.key, &id, self.shape.len, false).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let saved = Saved {
            session: session.clone(),
            id,
            len: self.shape.len,
            part_len: self.shape.part_len,
            begun: i64::try_from(now).unwrap_or(i64::MAX),
        };
        let text = serde_json::to_string(&saved)
            .map_err(|e| Error::new(Kind::Internal, "note of an upload").because(e))?;
        // Noted before the first byte is sent, so that the upload can be resumed or removed.
        self.drive.notes.set(&note(&self.key), Some(text)).await?;
        state.saved = Some(saved);
        Ok(session)
    }

    async fn forget(&self, state: &mut State) -> Result<()> {
        *state = State { expired: true, ..State::default() };
        self.drive.notes.set(&note(&self.key), None).await
    }

    fn expired(&self) -> Error {
        let text = format!("the upload of {} to Google Drive is not there any more", self.key);
        Error::new(Kind::SessionExpired, text)
    }

    /// Adds a sent part to the checksum.
    async fn hash(&self, state: &mut State, range: &Range<u64>, payload: Payload) {
        if state.hashed != range.start {
            return;
        }
        let Some(mut md5) = state.md5.take() else { return };
        let hashed = tokio::task::spawn_blocking(move || {
            payload.parts().iter().for_each(|part| md5.update(part));
            md5
        });
        state.md5 = hashed.await.ok();
        state.hashed = range.end;
    }

    /// The file that all parts together made, once it exists.
    async fn made(&self, state: &mut State) -> Result<Option<Meta>> {
        if state.made.is_none()
            && let Some(saved) = &state.saved
            && let Sent::Made(meta) =
                self.drive.status(&saved.session, &self.key, self.shape.len).await?
        {
            state.made = Some(meta);
        }
        let (Some(made), Some(saved)) = (state.made.clone(), &state.saved) else {
            return Ok(state.made.clone());
        };
        let what = format!("finish of {}", self.key);
        state.made = Some(self.drive.told(made, &saved.id, &what).await?);
        Ok(state.made.clone())
    }

    /// Whether an earlier `finish` succeeded and its answer was lost.
    async fn is_finished(&self) -> Result<bool> {
        let what = format!("finish of {}", self.key);
        let found = self.drive.look_up(&self.key, &what).await?;
        Ok(found.is_some_and(|meta| meta.len() == self.shape.len))
    }

    async fn finish_copy(&self, from: &str, id: &str) -> Result<Meta> {
        let drive = &self.drive;
        let what = format!("copy to {}", self.key);
        let mut description = drive.description(&self.key, id).await?;
        description["appProperties"] = drive.properties(&self.key).await?;
        let path = format!("drive/v3/files/{from}/copy");
        let url = drive.client.url(&path, &[("fields", FIELDS)]);
        // The server reads and writes every byte of the file.
        let call = Call::new(Method::POST, url, &what, Cost::Create).within(COPY);
        match drive.client.json::<Meta>(&call, |request| request.json(&description)).await {
            Err(e) if e.kind() == Kind::AlreadyExists => {
                drive.meta(id, &what).await?.ok_or_else(|| self.expired())
            }
            copied => drive.told(copied?, id, &what).await,
        }
    }

    /// Makes the finished file the object of the key, and removes the file that was the object before.
    async fn give_key(&self, meta: &Meta, named: bool) -> Result<()> {
        let what = format!("finish of {}", self.key);
        let drive = &self.drive;
        let before = drive.known.get(&self.key)?.filter(|id| *id != meta.id);
        if !named {
            let change = json!({ "appProperties": drive.properties(&self.key).await? });
            drive.patch(&meta.id, &change, &what).await?;
        }
        drive.known.remember(&self.key, &meta.id).await;
        match before {
            Some(id) => drive.remove(&id, &what).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Upload for DriveUpload {
    fn done(&self) -> &[u64] {
        &self.done
    }

    async fn write(&self, part: u64, payload: Payload) -> Result<()> {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        let range = self.shape.part(part);
        if state.expired {
            return Err(self.expired());
        }
        if state.made.is_some() || (range.end <= state.received && !range.is_empty()) {
            return Ok(());
        }
        if range.start > state.received || payload.len() != range.end - range.start {
            let text = format!("part {part} of {} is not the next one, or not as long", self.key);
            return Err(Error::new(Kind::Internal, text));
        }
        let session = self.session(state).await?;
        let span = Span {
            start: range.start,
            from: state.received,
            total: self.shape.len,
            ask: std::mem::replace(&mut state.unsure, true),
        };
        let sent = match self.drive.fill(&session, &self.key, &payload, span).await {
            Err(e) if e.kind() == Kind::SessionExpired => {
                self.forget(state).await?;
                return Err(e);
            }
            sent => sent?,
        };
        state.unsure = false;
        match sent {
            Sent::Made(meta) => (state.received, state.made) = (self.shape.len, Some(meta)),
            Sent::Received(received) => state.received = received,
        }
        self.hash(state, &range, payload).await;
        Ok(())
    }

    async fn copy(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        let what = format!("copy of {from}");
        let source = self.drive.look_up(from, &what).await?.ok_or_else(|| missing(from))?;
        if self.shape.parts() != 1 || part != 0 || range != (0..source.len()) {
            let text = format!("{what}: Google Drive copies whole files only");
            return Err(Error::new(Kind::Unsupported, text).hint("send the bytes instead"));
        }
        let mut state = self.state.lock().await;
        if let Some(saved) = state.saved.take() {
            self.drive.end_upload(&self.key, &saved).await?;
        }
        let id = self.drive.ids.take(&self.drive.client).await?;
        // `finish` makes the copy, because the object must not exist before.
        *state = State { copy: Some((source.id, id)), ..State::default() };
        Ok(())
    }

    async fn finish(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        let named = state.copy.is_some();
        let meta = match &state.copy {
            Some((from, id)) => Some(self.finish_copy(from, id).await?),
            None => self.made(state).await?,
        };
        let Some(meta) = meta else {
            return if self.is_finished().await? { Ok(()) } else { Err(self.expired()) };
        };
        let complete = state.hashed == self.shape.len;
        let md5 = state.md5.clone().filter(|_| complete).map(|md5| names::hex(&md5.finalize()));
        let same = md5.is_none() || meta.md5_checksum.is_none() || md5 == meta.md5_checksum;
        if meta.len() != self.shape.len || !same {
            self.drive.remove(&meta.id, &format!("finish of {}", self.key)).await?;
            self.forget(state).await?;
            let text =
                format!("{} arrived damaged on Google Drive, and was removed there", self.key);
            return Err(Error::new(Kind::SessionExpired, text));
        }
        self.give_key(&meta, named).await?;
        self.drive.notes.set(&note(&self.key), None).await
    }

    async fn abort(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        if let Some(saved) = &state.saved {
            self.drive.end_upload(&self.key, saved).await?;
        }
        *state = State { expired: true, ..State::default() };
        Ok(())
    }
}
