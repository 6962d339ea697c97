//! Sends a file of several chunks straight into its own object. This is used on storages that need parts in order and
//! cannot compose objects.
//!
//! The file's name is recorded as an intent before the first byte, as for any object. After each part that the storage
//! acknowledged, the catalog records how much of the file was sent. Those bytes are durable and their memory is free,
//! and no later run fetches or sends them again. They cannot be read until the object is finished and holds the file.
//! Bytes that cannot wait in memory for their part are stored in chunk objects, and read back when the part is due.
//!
//! Invariants:
//! - The bytes recorded as sent are in the upload that continues the file; without a record, nothing counts as sent. So
//!   when the storage has forgotten the upload, those of its bytes that are in no chunk become holes again.
//! - All bytes are recorded as sent before the object is finished. So an object under the file's name with the file's
//!   length is the file.

use std::ops::Range;

use tokio::sync::Mutex;

use super::{composition::ORDERED_STEP, publisher::abort_uploads};
use crate::{
    backends::{Capabilities, CopySupport, Key, MultipartUpload, Payload, UploadLayout},
    catalog::{Catalog, FileRow, ObjectRow},
    error::{Error, Kind, Result},
    hints::{Operation, hint},
    storage::{ImportStore, Published, Publisher},
};

/// The upload of one file. The writer sends the parts that are in memory, the publisher sends the rest. The task that
/// holds the lock of `state` has the upload to itself.
#[derive(Debug)]
pub(in crate::storage) struct SequentialUpload {
    file: Range<u64>,
    layout: UploadLayout,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    row: Option<ObjectRow>,
    upload: Option<Box<dyn MultipartUpload>>,
    /// The number of parts that the storage has.
    sent: u64,
    /// The number of bytes that the publisher read back and sent.
    resent: u64,
    finished: bool,
    /// No more parts are sent: the file is made of its chunks, or by a later run.
    ended: bool,
}

/// The outcome of sending a part.
#[derive(Debug)]
pub(in crate::storage) enum SendOutcome {
    Recorded,
    /// The part was not sent; its bytes are to be stored as a chunk object.
    Refused,
    /// As `Refused`, and the parts sent before are lost: their ranges are holes again.
    Lost(Error),
}

/// The parts of a file that can be sent as it arrives, which are its chunks; `None` where it is not sent so.
pub(in crate::storage) fn upload_layout(
    file: &Range<u64>,
    chunk_len: u64,
    capabilities: Capabilities,
) -> Option<UploadLayout> {
    let layout = UploadLayout { len: file.end - file.start, part_len: chunk_len };
    let can_compose = matches!(capabilities.copy, CopySupport::Ranges { .. });
    let has_valid_parts = chunk_len.is_multiple_of(ORDERED_STEP)
        && (2..=UploadLayout::MAX_PARTS).contains(&layout.part_count());
    (capabilities.ordered_parts && !can_compose && has_valid_parts).then_some(layout)
}

impl SequentialUpload {
    pub(in crate::storage) fn new(file: &FileRow, layout: UploadLayout) -> Self {
        let file = file.start..file.start + file.len;
        Self { file, layout, state: Mutex::default() }
    }

    /// The range of a part in the import.
    pub(in crate::storage) fn part(&self, index: u64) -> Range<u64> {
        let Range { start, end } = self.layout.part_range(index);
        self.file.start + start..self.file.start + end
    }

    pub(in crate::storage) fn file(&self) -> &Range<u64> {
        &self.file
    }

    /// Sends part `index` and records it. The parts before it must have been sent; a part that the storage has already
    /// is skipped.
    ///
    /// # Errors
    /// An error that may pass: call again.
    pub(in crate::storage) async fn send_part(
        &self,
        publisher: &Publisher,
        file: &FileRow,
        index: u64,
        payload: Payload,
    ) -> Result<SendOutcome> {
        let mut state = self.state.lock().await;
        if state.finished {
            return Ok(SendOutcome::Recorded);
        }
        if state.ended {
            return Ok(SendOutcome::Refused);
        }
        match self.try_send_part(publisher, file, &mut state, index, payload).await {
            Err(e) if is_session_lost(&e) => self.end_lost_session(publisher, &mut state, e).await,
            sent => sent.map(|()| SendOutcome::Recorded),
        }
    }

    async fn try_send_part(
        &self,
        publisher: &Publisher,
        file: &FileRow,
        state: &mut State,
        index: u64,
        payload: Payload,
    ) -> Result<()> {
        self.open(publisher, file, state).await?;
        if index > state.sent {
            let text = format!("part {index} of file {:?} is not the next one", file.path);
            return Err(Error::new(Kind::Internal, text));
        }
        if index == state.sent {
            let upload = open_upload(state)?;
            if let Err(e) = upload.put_part(index, payload).await {
                drop_failed_session(state, &e);
                return Err(e);
            }
            state.sent += 1;
        }
        self.record(publisher, state).await
    }

    /// Starts the upload, or resumes that of an earlier run.
    async fn open(&self, publisher: &Publisher, file: &FileRow, state: &mut State) -> Result<()> {
        if state.upload.is_some() {
            return Ok(());
        }
        let store = publisher.store();
        let row =
            publisher.object_row(file, store.uploaded_range_at(self.file.start).is_some()).await?;
        if row.is_stored() {
            // A repair left holes in a file that is an object already: it is made again from chunks.
            return Err(Error::new(Kind::Unsupported, "the file is an object already"));
        }
        let key = Key::new(&row.key)?;
        let uploaded = store.uploaded_range_at(self.file.start);
        if uploaded.is_none() {
            // Left by a run that recorded nothing as sent. Its parts may have another length.
            abort_uploads(store.backend(), &key).await?;
        }
        let upload = store.backend().begin_upload(&key, self.layout).await?;
        let stored_parts = leading_parts(upload.stored_parts());
        let recorded = uploaded.map_or(0, |range| self.part_count(&range));
        if stored_parts < recorded {
            let text = format!("the upload session of {key} is gone");
            return Err(Error::new(Kind::SessionExpired, text));
        }
        state.row = Some(row);
        state.upload = Some(upload);
        state.sent = stored_parts;
        Ok(())
    }

    fn part_count(&self, sent: &Range<u64>) -> u64 {
        (sent.end - sent.start).div_ceil(self.layout.part_len)
    }

    /// The range in the import of the first `parts` parts.
    fn sent_range(&self, parts: u64) -> Range<u64> {
        self.file.start..self.part(parts).start
    }

    async fn record(&self, publisher: &Publisher, state: &State) -> Result<()> {
        let Some(row) = &state.row else { return Ok(()) };
        let sent = self.sent_range(state.sent);
        publisher.catalog().set_uploaded(row.num, sent.clone()).await?;
        publisher.store().set_uploaded(row.num, sent);
        Ok(())
    }

    /// Ends the upload, which the storage has forgotten or does not accept.
    async fn end_lost_session(
        &self,
        publisher: &Publisher,
        state: &mut State,
        error: Error,
    ) -> Result<SendOutcome> {
        state.upload = None;
        let mut lost = Vec::new();
        if let Some(num) = publisher.store().partial_upload_at(self.file.start) {
            let empty = self.file.start..self.file.start;
            publisher.catalog().set_uploaded(num, empty.clone()).await?;
            lost = publisher.store().truncate_uploaded(num, empty);
        }
        state.ended = true;
        Ok(if lost.is_empty() {
            SendOutcome::Refused
        } else {
            SendOutcome::Lost(session_lost_error(error))
        })
    }

    /// Sends the rest of the file, all of which is durable, and finishes its object. `None` when nothing was sent so
    /// far: the file is then made of its chunks like any other. It can be called again after an error.
    pub(in crate::storage) async fn finish(
        &self,
        publisher: &Publisher,
        file: &FileRow,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Option<(ObjectRow, Published)>> {
        let mut state = self.state.lock().await;
        let has_sent = publisher.store().uploaded_range_at(self.file.start).is_some();
        if state.ended || state.upload.is_none() && !has_sent && !state.finished {
            state.ended = true;
            return Ok(None);
        }
        match self.try_finish(publisher, file, &mut state, progress).await {
            Err(e) if is_session_lost(&e) => {
                match self.end_lost_session(publisher, &mut state, e).await? {
                    SendOutcome::Lost(error) => Err(error),
                    SendOutcome::Recorded | SendOutcome::Refused => Ok(None),
                }
            }
            Err(e) => {
                drop_failed_session(&mut state, &e);
                Err(e)
            }
            Ok(row) => {
                let (bytes, sent) = (self.layout.len, state.resent);
                Ok(Some((row, Published { files: 1, bytes, copied: 0, sent })))
            }
        }
    }

    async fn try_finish(
        &self,
        publisher: &Publisher,
        file: &FileRow,
        state: &mut State,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<ObjectRow> {
        if !state.finished && !self.is_finished_object(publisher, file, state).await? {
            self.open(publisher, file, state).await?;
            let sent = self.sent_range(state.sent);
            progress(sent.end - sent.start);
            self.record(publisher, state).await?;
            while state.sent < self.layout.part_count() {
                let range = self.part(state.sent);
                let payload = publisher.read(range.clone()).await?;
                open_upload(state)?.put_part(state.sent, payload).await?;
                state.sent += 1;
                state.resent += range.end - range.start;
                self.record(publisher, state).await?;
                progress(range.end - range.start);
            }
            open_upload(state)?.finish().await?;
        }
        state.finished = true;
        state.upload = None;
        let row = state.row.clone();
        row.ok_or_else(|| Error::new(Kind::Internal, "a finished file has no object row"))
    }

    /// Whether an earlier try finished the object and did not record it.
    async fn is_finished_object(
        &self,
        publisher: &Publisher,
        file: &FileRow,
        state: &mut State,
    ) -> Result<bool> {
        if state.upload.is_some()
            || publisher.store().uploaded_range_at(self.file.start) != Some(self.file.clone())
        {
            return Ok(false);
        }
        let row = publisher.object_row(file, true).await?;
        let len = publisher.store().backend().head(&Key::new(&row.key)?).await?;
        state.row = Some(row);
        Ok(len == Some(self.layout.len))
    }
}

/// The number of consecutive parts from the first on.
fn leading_parts(stored_parts: &[u64]) -> u64 {
    (0..).zip(stored_parts).take_while(|(n, part)| n == *part).count() as u64
}

fn open_upload(state: &State) -> Result<&dyn MultipartUpload> {
    let upload = state.upload.as_deref();
    upload.ok_or_else(|| Error::new(Kind::Internal, "an upload was not started"))
}

/// After an error that is not retryable, the next try opens the upload session anew.
fn drop_failed_session(state: &mut State, error: &Error) {
    if !error.kind().is_retryable() {
        state.upload = None;
    }
}

fn is_session_lost(error: &Error) -> bool {
    matches!(error.kind(), Kind::SessionExpired | Kind::Unsupported)
}

fn session_lost_error(error: Error) -> Error {
    Error::new(Kind::Unavailable, "the storage dropped an upload session").because(error).hint(
        hint!["run ", Operation::Same, " again: the bytes sent in that session are fetched again",],
    )
}

/// Checks how much of each partly sent file the storage still has, and forgets uploads that are gone or have less than
/// recorded: their bytes must be fetched again. To be called before the ranges to fetch are planned.
///
/// # Errors
/// When the storage or the catalog cannot be read.
pub async fn check_partial_uploads(catalog: &Catalog, store: &ImportStore) -> Result<()> {
    let part_len = store.layout().chunk_len();
    for (object, range) in catalog.partial_uploads(store.id()).await? {
        let key = Key::new(&object.key)?;
        let context = |e: Error| e.with_context(format_args!("upload of {key}"));
        let layout = UploadLayout { len: object.len, part_len };
        let complete = range.end - range.start == object.len;
        if complete && store.backend().head(&key).await.map_err(context)? == Some(object.len) {
            continue;
        }
        let stored_parts = match store.backend().begin_upload(&key, layout).await {
            Ok(upload) => leading_parts(upload.stored_parts()),
            Err(e) if is_session_lost(&e) => 0,
            Err(e) => return Err(context(e)),
        };
        let kept = range.start..range.start + layout.part_range(stored_parts).start.min(object.len);
        if kept.end < range.end {
            tracing::warn!(
                "import {}: the storage dropped the upload of {key}; its bytes are fetched again",
                store.id()
            );
            // The upload is useless now, and its parts would be in the way of a new one.
            abort_uploads(store.backend(), &key).await.map_err(context)?;
            let empty = range.start..range.start;
            catalog.set_uploaded(object.num, empty.clone()).await?;
            store.truncate_uploaded(object.num, empty);
        }
    }
    Ok(())
}
