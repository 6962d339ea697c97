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
    client::DriveCall,
    files::{FIELDS, FileMeta},
    limits::QuotaCost,
    names,
    put::UploadSpan,
    session::{PART_MULTIPLE, SessionStatus, UploadSession},
};
use crate::{
    backends::{
        Key, MultipartUpload, Payload, UnfinishedUpload, UploadId, UploadLayout,
        memory::object_not_found,
    },
    error::{Error, Kind, Result},
};

/// The saved state of an upload. Contains the session URI, so it is never shown.
#[derive(Clone, Serialize, Deserialize)]
struct SessionRecord {
    session: UploadSession,
    id: String,
    len: u64,
    part_len: u64,
    #[serde(rename = "begun")]
    started: i64,
}

pub(super) struct DriveUpload {
    drive: Arc<Drive>,
    key: Key,
    layout: UploadLayout,
    stored_parts: Vec<u64>,
    state: Mutex<UploadState>,
}

impl std::fmt::Debug for DriveUpload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { key, layout, .. } = self;
        f.debug_struct("DriveUpload")
            .field("key", key)
            .field("layout", layout)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct UploadState {
    record: Option<SessionRecord>,
    /// Bytes that the server has.
    received: u64,
    /// A request failed, so the number of bytes that arrived is unknown.
    must_query: bool,
    /// MD5 of all bytes up to `hashed`; `None` when an earlier process sent some of them.
    md5: Option<Md5>,
    hashed: u64,
    created: Option<FileMeta>,
    /// Id of the file to copy, and the id reserved for the copy.
    copy: Option<(String, String)>,
    /// The server has forgotten the upload.
    expired: bool,
}

/// Timeout of a server-side copy. The request waits for the copy, and Google states no time for a large file.
const COPY_TIMEOUT: Duration = Duration::from_secs(600);

fn entry_name(key: &Key) -> String {
    format!("upload:{key}")
}

impl Drive {
    pub(super) async fn begin_upload(
        self: &Arc<Self>,
        key: &Key,
        layout: UploadLayout,
    ) -> Result<DriveUpload> {
        if !layout.part_len.is_multiple_of(PART_MULTIPLE) && layout.part_count() > 1 {
            let text = format!(
                "parts of {} bytes: Google Drive requires multiples of 256 KiB",
                layout.part_len
            );
            return Err(Error::new(Kind::Unsupported, text));
        }
        let record = self
            .backend_state
            .get(&entry_name(key))
            .await?
            .and_then(|text| serde_json::from_str(&text).ok());
        let state = match record {
            Some(record) => self.resume(key, layout, record).await?,
            None => UploadState::empty(),
        };
        let stored_parts = match &state.created {
            Some(_) => (0..layout.part_count()).collect(),
            None => (0..state.received / layout.part_len.max(1)).collect(),
        };
        Ok(DriveUpload {
            drive: Arc::clone(self),
            key: key.clone(),
            layout,
            stored_parts,
            state: Mutex::new(state),
        })
    }

    /// The state of an upload that an earlier run began.
    async fn resume(
        &self,
        key: &Key,
        layout: UploadLayout,
        record: SessionRecord,
    ) -> Result<UploadState> {
        if (record.len, record.part_len) != (layout.len, layout.part_len) {
            self.discard_upload(key, &record).await?;
            return Ok(UploadState::empty());
        }
        let sent = match self.session_status(&record.session, key, layout.len).await {
            Err(e) if e.kind() == Kind::SessionExpired => {
                let what = format!("upload of {key}");
                match self.meta(&record.id, &what).await?.filter(|meta| meta.len() == layout.len) {
                    // The file was complete before the session expired, and the answer was lost.
                    Some(meta) => SessionStatus::Complete(meta),
                    None => {
                        self.discard_upload(key, &record).await?;
                        return Ok(UploadState::empty());
                    }
                }
            }
            sent => sent?,
        };
        Ok(match sent {
            SessionStatus::Complete(meta) => UploadState {
                record: Some(record),
                received: layout.len,
                created: Some(meta),
                ..UploadState::default()
            },
            SessionStatus::Partial(0) => {
                UploadState { record: Some(record), ..UploadState::empty() }
            }
            SessionStatus::Partial(received) => {
                UploadState { record: Some(record), received, ..UploadState::default() }
            }
        })
    }

    /// Aborts an upload: cancels its session, and removes the file that it may have created and its
    /// record.
    async fn discard_upload(&self, key: &Key, record: &SessionRecord) -> Result<()> {
        self.cancel_session(&record.session, key).await?;
        self.delete_file(&record.id, &format!("abort of the upload of {key}")).await?;
        self.backend_state.set(&entry_name(key), None).await
    }

    pub(super) async fn unfinished_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>> {
        let entries = self.backend_state.list(&format!("upload:{prefix}")).await?;
        let to_upload = |(name, text): (String, String)| {
            let record: SessionRecord = serde_json::from_str(&text).ok()?;
            let key = Key::new(name.strip_prefix("upload:")?).ok()?;
            Some(UnfinishedUpload { key, id: UploadId(text), started_at: Some(record.started) })
        };
        Ok(entries.into_iter().filter_map(to_upload).collect())
    }

    pub(super) async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        match serde_json::from_str::<SessionRecord>(&upload.id.0) {
            Ok(record) => self.discard_upload(&upload.key, &record).await,
            // Not an id made by this backend, so there is nothing to remove.
            Err(_) => Ok(()),
        }
    }
}

impl UploadState {
    /// The state of an upload without any bytes.
    fn empty() -> Self {
        Self { md5: Some(Md5::new()), ..Self::default() }
    }
}

impl DriveUpload {
    /// The upload session, started with the first part because a copy needs none.
    async fn session(&self, state: &mut UploadState) -> Result<UploadSession> {
        if let Some(record) = &state.record {
            return Ok(record.session.clone());
        }
        let id = self.drive.ids.take(&self.drive.client).await?;
        let session = self.drive.open_session(&self.key, &id, self.layout.len, false).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let record = SessionRecord {
            session: session.clone(),
            id,
            len: self.layout.len,
            part_len: self.layout.part_len,
            started: i64::try_from(now).unwrap_or(i64::MAX),
        };
        let text = serde_json::to_string(&record)
            .map_err(|e| Error::new(Kind::Internal, "saved state of an upload").because(e))?;
        // Saved before the first byte is sent, so that the upload can be resumed or removed.
        self.drive.backend_state.set(&entry_name(&self.key), Some(text)).await?;
        state.record = Some(record);
        Ok(session)
    }

    async fn forget(&self, state: &mut UploadState) -> Result<()> {
        *state = UploadState { expired: true, ..UploadState::default() };
        self.drive.backend_state.set(&entry_name(&self.key), None).await
    }

    fn expired(&self) -> Error {
        let text = format!("the upload of {} to Google Drive no longer exists", self.key);
        Error::new(Kind::SessionExpired, text)
    }

    /// Adds a sent part to the checksum.
    async fn update_md5(&self, state: &mut UploadState, range: &Range<u64>, payload: Payload) {
        if state.hashed != range.start {
            return;
        }
        let Some(mut md5) = state.md5.take() else { return };
        let hashed = tokio::task::spawn_blocking(move || {
            payload.buffers().iter().for_each(|buffer| md5.update(buffer));
            md5
        });
        state.md5 = hashed.await.ok();
        state.hashed = range.end;
    }

    /// The file that all parts together made, once it exists.
    async fn created_file(&self, state: &mut UploadState) -> Result<Option<FileMeta>> {
        if state.created.is_none()
            && let Some(record) = &state.record
            && let SessionStatus::Complete(meta) =
                self.drive.session_status(&record.session, &self.key, self.layout.len).await?
        {
            state.created = Some(meta);
        }
        let (Some(created), Some(record)) = (state.created.clone(), &state.record) else {
            return Ok(state.created.clone());
        };
        let what = format!("finish of {}", self.key);
        state.created = Some(self.drive.confirm_created(created, &record.id, &what).await?);
        Ok(state.created.clone())
    }

    /// Whether an earlier `finish` succeeded and its answer was lost.
    async fn is_finished(&self) -> Result<bool> {
        let what = format!("finish of {}", self.key);
        let found = self.drive.look_up(&self.key, &what).await?;
        Ok(found.is_some_and(|meta| meta.len() == self.layout.len))
    }

    async fn finish_copy(&self, from: &str, id: &str) -> Result<FileMeta> {
        let drive = &self.drive;
        let what = format!("copy to {}", self.key);
        let mut metadata = drive.new_file_metadata(&self.key, id).await?;
        metadata["appProperties"] = drive.properties(&self.key).await?;
        let path = format!("drive/v3/files/{from}/copy");
        let url = drive.client.url(&path, &[("fields", FIELDS)]);
        // The server reads and writes every byte of the file.
        let call =
            DriveCall::new(Method::POST, url, &what, QuotaCost::Create).with_timeout(COPY_TIMEOUT);
        match drive.client.json::<FileMeta>(&call, |request| request.json(&metadata)).await {
            Err(e) if e.kind() == Kind::AlreadyExists => {
                drive.meta(id, &what).await?.ok_or_else(|| self.expired())
            }
            copied => drive.confirm_created(copied?, id, &what).await,
        }
    }

    /// Makes the finished file the object of the key, and removes the file that was the object before.
    async fn assign_key(&self, meta: &FileMeta, has_key: bool) -> Result<()> {
        let what = format!("finish of {}", self.key);
        let drive = &self.drive;
        let replaced = drive.file_ids.get(&self.key).await?.filter(|id| *id != meta.id);
        if !has_key {
            let change = json!({ "appProperties": drive.properties(&self.key).await? });
            drive.update_metadata(&meta.id, &change, &what).await?;
        }
        drive.file_ids.remember(&self.key, &meta.id).await;
        match replaced {
            Some(id) => drive.delete_file(&id, &what).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl MultipartUpload for DriveUpload {
    fn stored_parts(&self) -> &[u64] {
        &self.stored_parts
    }

    async fn put_part(&self, part: u64, payload: Payload) -> Result<()> {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        let range = self.layout.part_range(part);
        if state.expired {
            return Err(self.expired());
        }
        if state.created.is_some() || (range.end <= state.received && !range.is_empty()) {
            return Ok(());
        }
        if range.start > state.received || payload.len() != range.end - range.start {
            let text =
                format!("part {part} of {} is out of order or has the wrong length", self.key);
            return Err(Error::new(Kind::Internal, text));
        }
        let session = self.session(state).await?;
        let span = UploadSpan {
            start: range.start,
            resume_at: state.received,
            total: self.layout.len,
            query_first: std::mem::replace(&mut state.must_query, true),
        };
        let sent = match self.drive.send_all(&session, &self.key, &payload, span).await {
            Err(e) if e.kind() == Kind::SessionExpired => {
                self.forget(state).await?;
                return Err(e);
            }
            sent => sent?,
        };
        state.must_query = false;
        match sent {
            SessionStatus::Complete(meta) => {
                (state.received, state.created) = (self.layout.len, Some(meta))
            }
            SessionStatus::Partial(received) => state.received = received,
        }
        self.update_md5(state, &range, payload).await;
        Ok(())
    }

    async fn copy_part(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        let what = format!("copy of {from}");
        let source =
            self.drive.look_up(from, &what).await?.ok_or_else(|| object_not_found(from))?;
        if self.layout.part_count() != 1 || part != 0 || range != (0..source.len()) {
            let text = format!("{what}: Google Drive copies whole files only");
            return Err(Error::new(Kind::Unsupported, text).hint("send the bytes instead"));
        }
        let mut state = self.state.lock().await;
        if let Some(record) = state.record.take() {
            self.drive.discard_upload(&self.key, &record).await?;
        }
        let id = self.drive.ids.take(&self.drive.client).await?;
        // `finish` makes the copy, because the object must not exist before.
        *state = UploadState { copy: Some((source.id, id)), ..UploadState::default() };
        Ok(())
    }

    async fn finish(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        let has_key = state.copy.is_some();
        let meta = match &state.copy {
            Some((from, id)) => Some(self.finish_copy(from, id).await?),
            None => self.created_file(state).await?,
        };
        let Some(meta) = meta else {
            return if self.is_finished().await? { Ok(()) } else { Err(self.expired()) };
        };
        let is_fully_hashed = state.hashed == self.layout.len;
        let md5 =
            state.md5.clone().filter(|_| is_fully_hashed).map(|md5| names::hex(&md5.finalize()));
        let md5_matches = md5.is_none() || meta.md5_checksum.is_none() || md5 == meta.md5_checksum;
        if meta.len() != self.layout.len || !md5_matches {
            self.drive.delete_file(&meta.id, &format!("finish of {}", self.key)).await?;
            self.forget(state).await?;
            let text = format!(
                "{} was damaged on the way to Google Drive, and was deleted there",
                self.key
            );
            return Err(Error::new(Kind::SessionExpired, text));
        }
        self.assign_key(&meta, has_key).await?;
        self.drive.backend_state.set(&entry_name(&self.key), None).await
    }

    async fn abort(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        if let Some(record) = &state.record {
            self.drive.discard_upload(&self.key, record).await?;
        }
        *state = UploadState { expired: true, ..UploadState::default() };
        Ok(())
    }
}
