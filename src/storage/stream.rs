//! Sends a file of several chunks straight into its own object. This is used on storages that need parts in order and
//! cannot compose objects.
//!
//! The file's name is recorded as an intent before the first byte, as for any object. After each part that the storage
//! acknowledged, the catalog records how much of the file was sent. Those bytes are durable and their memory is free,
//! and no later run fetches or sends them again. They cannot be read until the object is finished and holds the file.
//! Bytes that cannot wait in memory for their part are stored in chunks, and read back when the part is due.
//!
//! Invariants:
//! - The bytes recorded as sent are in the upload that continues the file; without a record, nothing counts as sent. So
//!   when the storage has forgotten the upload, those of its bytes that are in no chunk become holes again.
//! - All bytes are recorded as sent before the object is finished. So an object under the file's name with the file's
//!   length is the file.

use std::ops::Range;

use tokio::sync::Mutex;

use super::{ImportStore, Published, Publisher, compose::ORDERED_STEP, publish::give_up};
use crate::{
    backends::{Capabilities, Copying, Key, Payload, Shape, Upload},
    catalog::{Catalog, FileRow, ObjectRow},
    error::{Error, Kind, Result},
};

/// The upload of one file. The writer sends the parts that are in memory, the publisher sends the rest. The task that
/// holds the lock of `state` has the upload to itself.
#[derive(Debug)]
pub(super) struct Stream {
    file: Range<u64>,
    shape: Shape,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    row: Option<ObjectRow>,
    upload: Option<Box<dyn Upload>>,
    /// The number of parts that the storage has.
    sent: u64,
    /// The number of bytes that the publisher read back and sent.
    resent: u64,
    finished: bool,
    /// No more parts are sent: the file is made of its chunks, or by a later run.
    over: bool,
}

/// The outcome of sending a part.
#[derive(Debug)]
pub(super) enum Sent {
    Recorded,
    /// The part was not sent; its bytes are to be stored as a chunk.
    Refused,
    /// As `Refused`, and the parts sent before are lost: their ranges are holes again.
    Lost(Error),
}

/// The parts of a file that can be sent as it arrives, which are its chunks; `None` where it is not sent so.
pub(super) fn shape(file: &Range<u64>, chunk_len: u64, can: Capabilities) -> Option<Shape> {
    let shape = Shape { len: file.end - file.start, part_len: chunk_len };
    let composes = matches!(can.copy, Copying::Ranges { .. });
    let fits =
        chunk_len.is_multiple_of(ORDERED_STEP) && (2..=Shape::MAX_PARTS).contains(&shape.parts());
    (can.ordered && !composes && fits).then_some(shape)
}

impl Stream {
    pub(super) fn new(file: &FileRow, shape: Shape) -> Self {
        let file = file.start..file.start + file.len;
        Self { file, shape, state: Mutex::default() }
    }

    /// The range of a part in the import.
    pub(super) fn part(&self, index: u64) -> Range<u64> {
        let Range { start, end } = self.shape.part(index);
        self.file.start + start..self.file.start + end
    }

    pub(super) fn file(&self) -> &Range<u64> {
        &self.file
    }

    /// Sends part `index` and records it. The parts before it must have been sent; a part that the storage has already
    /// is skipped.
    ///
    /// # Errors
    /// An error that may pass: call again.
    pub(super) async fn send(
        &self,
        publisher: &Publisher,
        file: &FileRow,
        index: u64,
        payload: Payload,
    ) -> Result<Sent> {
        let mut state = self.state.lock().await;
        if state.finished {
            return Ok(Sent::Recorded);
        }
        if state.over {
            return Ok(Sent::Refused);
        }
        match self.try_send(publisher, file, &mut state, index, payload).await {
            Err(e) if is_gone(&e) => self.lose(publisher, &mut state, e).await,
            sent => sent.map(|()| Sent::Recorded),
        }
    }

    async fn try_send(
        &self,
        publisher: &Publisher,
        file: &FileRow,
        state: &mut State,
        index: u64,
        payload: Payload,
    ) -> Result<()> {
        self.open(publisher, file, state).await?;
        if index > state.sent {
            let text = format!("part {index} is not the next of file {:?}", file.path);
            return Err(Error::new(Kind::Internal, text));
        }
        if index == state.sent {
            let upload = opened(state)?;
            if let Err(e) = upload.write(index, payload).await {
                forget_failed(state, &e);
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
        let row = publisher.name_of(file, store.streamed_at(self.file.start).is_some()).await?;
        if row.stored {
            // A repair left holes in a file that is an object already: it is made again from chunks.
            return Err(Error::new(Kind::Unsupported, "the file is an object already"));
        }
        let key = Key::new(&row.key)?;
        let known = store.streamed_at(self.file.start);
        if known.is_none() {
            // Left by a run that recorded nothing as sent. Its parts may have another length.
            give_up(store.backend(), &key).await?;
        }
        let upload = store.backend().begin(&key, self.shape).await?;
        let there = leading(upload.done());
        let recorded = known.map_or(0, |range| self.parts_in(&range));
        if there < recorded {
            let text = format!("the upload of {key} is not there any more");
            return Err(Error::new(Kind::SessionExpired, text));
        }
        state.row = Some(row);
        state.upload = Some(upload);
        state.sent = there;
        Ok(())
    }

    fn parts_in(&self, sent: &Range<u64>) -> u64 {
        (sent.end - sent.start).div_ceil(self.shape.part_len)
    }

    /// The range in the import of the first `parts` parts.
    fn sent(&self, parts: u64) -> Range<u64> {
        self.file.start..self.part(parts).start
    }

    async fn record(&self, publisher: &Publisher, state: &State) -> Result<()> {
        let Some(row) = &state.row else { return Ok(()) };
        let sent = self.sent(state.sent);
        publisher.catalog().set_streamed(row.num, sent.clone()).await?;
        publisher.store().set_streamed(row.num, sent);
        Ok(())
    }

    /// Ends the upload, which the storage has forgotten or does not accept.
    async fn lose(&self, publisher: &Publisher, state: &mut State, error: Error) -> Result<Sent> {
        state.upload = None;
        let mut lost = Vec::new();
        if let Some(num) = publisher.store().streaming(self.file.start) {
            let nothing = self.file.start..self.file.start;
            publisher.catalog().set_streamed(num, nothing.clone()).await?;
            lost = publisher.store().cut_streamed(num, nothing);
        }
        state.over = true;
        Ok(if lost.is_empty() { Sent::Refused } else { Sent::Lost(told(error)) })
    }

    /// Sends the rest of the file, all of which is durable, and finishes its object. `None` when nothing was sent so
    /// far: the file is then made of its chunks like any other. It can be called again after an error.
    pub(super) async fn finish(
        &self,
        publisher: &Publisher,
        file: &FileRow,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Option<(ObjectRow, Published)>> {
        let mut state = self.state.lock().await;
        let begun = publisher.store().streamed_at(self.file.start).is_some();
        if state.over || state.upload.is_none() && !begun && !state.finished {
            state.over = true;
            return Ok(None);
        }
        match self.try_finish(publisher, file, &mut state, progress).await {
            Err(e) if is_gone(&e) => match self.lose(publisher, &mut state, e).await? {
                Sent::Lost(error) => Err(error),
                Sent::Recorded | Sent::Refused => Ok(None),
            },
            Err(e) => {
                forget_failed(&mut state, &e);
                Err(e)
            }
            Ok(row) => {
                let (bytes, sent) = (self.shape.len, state.resent);
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
        if !state.finished && !self.was_finished(publisher, file, state).await? {
            self.open(publisher, file, state).await?;
            let sent = self.sent(state.sent);
            progress(sent.end - sent.start);
            self.record(publisher, state).await?;
            while state.sent < self.shape.parts() {
                let range = self.part(state.sent);
                let payload = publisher.read(range.clone()).await?;
                opened(state)?.write(state.sent, payload).await?;
                state.sent += 1;
                state.resent += range.end - range.start;
                self.record(publisher, state).await?;
                progress(range.end - range.start);
            }
            opened(state)?.finish().await?;
        }
        state.finished = true;
        state.upload = None;
        let row = state.row.clone();
        row.ok_or_else(|| Error::new(Kind::Internal, "a finished file has no name"))
    }

    /// Whether an earlier try finished the object and did not record it.
    async fn was_finished(
        &self,
        publisher: &Publisher,
        file: &FileRow,
        state: &mut State,
    ) -> Result<bool> {
        if state.upload.is_some()
            || publisher.store().streamed_at(self.file.start) != Some(self.file.clone())
        {
            return Ok(false);
        }
        let row = publisher.name_of(file, true).await?;
        let there = publisher.store().backend().head(&Key::new(&row.key)?).await?;
        let is_there = there == Some(self.shape.len);
        state.row = Some(row);
        Ok(is_there)
    }
}

/// The number of consecutive parts from the first on.
fn leading(done: &[u64]) -> u64 {
    (0..).zip(done).take_while(|(n, part)| n == *part).count() as u64
}

fn opened(state: &State) -> Result<&dyn Upload> {
    let upload = state.upload.as_deref();
    upload.ok_or_else(|| Error::new(Kind::Internal, "an upload was not begun"))
}

/// After an error that is not retryable, the next try opens the upload session anew.
fn forget_failed(state: &mut State, error: &Error) {
    if !error.kind().is_retryable() {
        state.upload = None;
    }
}

fn is_gone(error: &Error) -> bool {
    matches!(error.kind(), Kind::SessionExpired | Kind::Unsupported)
}

fn told(error: Error) -> Error {
    Error::new(Kind::Unavailable, "the storage has forgotten an upload session")
        .because(error)
        .hint("run the same command again: what was sent in that session is fetched again")
}

/// Checks how much of each partly sent file the storage still has, and forgets uploads that are gone or have less than
/// recorded: their bytes must be fetched again. To be called before the ranges to fetch are planned.
///
/// # Errors
/// When the storage or the catalog cannot be read.
pub async fn resume(catalog: &Catalog, store: &ImportStore) -> Result<()> {
    let part_len = store.layout().chunk_len();
    for (object, range) in catalog.streamed(store.id())? {
        let key = Key::new(&object.key)?;
        let place = |e: Error| e.within(format_args!("upload of {key}"));
        let shape = Shape { len: object.len, part_len };
        let complete = range.end - range.start == object.len;
        if complete && store.backend().head(&key).await.map_err(place)? == Some(object.len) {
            continue;
        }
        let there = match store.backend().begin(&key, shape).await {
            Ok(upload) => leading(upload.done()),
            Err(e) if is_gone(&e) => 0,
            Err(e) => return Err(place(e)),
        };
        let stands = range.start..range.start + shape.part(there).start.min(object.len);
        if stands.end < range.end {
            tracing::warn!(
                "import {}: the storage has forgotten the upload of {key}; its bytes are fetched again",
                store.id()
            );
            // The upload is useless now, and its parts would be in the way of a new one.
            give_up(store.backend(), &key).await.map_err(place)?;
            let nothing = range.start..range.start;
            catalog.set_streamed(object.num, nothing.clone()).await?;
            store.cut_streamed(object.num, nothing);
        }
    }
    Ok(())
}
