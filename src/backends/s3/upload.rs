//! An object made of parts: a multipart upload, or a single copy when the object is a copy of one whole object.
//!
//! The multipart upload is created with the first part only, so a copy of a whole object leaves nothing behind. Its
//! id is noted before a part is sent. The parts are not noted: on resume the server is asked for them. An empty
//! object has no parts and is put at the end.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::{
    client::{PATIENCE, Wire},
    errors::{Failure, Op},
    names::encoded,
    object::{SignedAs, Sums, body, signed},
    quirks::MIN_PART,
    unfinished::{Noted, Part, forget},
};
use crate::{
    backends::{
        Copying, Key, Notes, Payload, Shape, Upload,
        memory::{missing, too_short, wrong_length},
        progress::Progress,
    },
    error::{Error, Kind, Result},
};

/// The longest part, and the longest object that one request copies.
const MAX_PART: u64 = 5 << 30;
/// Timeout for calls in which servers join thousands of parts, or copy gigabytes, before they answer.
const JOINING: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct S3Upload {
    wire: Arc<Wire>,
    notes: Arc<dyn Notes>,
    copying: Copying,
    key: Key,
    shape: Shape,
    done: Vec<u64>,
    /// The server's upload id, once the upload is created.
    id: OnceCell<String>,
    /// ETags of the stored parts.
    parts: Mutex<BTreeMap<u64, String>>,
    /// The object that this one will be a copy of.
    whole: Mutex<Option<Key>>,
}

impl S3Upload {
    pub(super) async fn begin(
        wire: Arc<Wire>,
        notes: Arc<dyn Notes>,
        copying: Copying,
        key: Key,
        shape: Shape,
    ) -> Result<Self> {
        check(&key, shape)?;
        let (mut id, mut parts) = (None, BTreeMap::new());
        if let Some(noted) = Noted::get(&*notes, &key)? {
            if noted.is_of(shape) {
                (id, parts) = take_up(&wire, &*notes, &key, shape, noted).await?;
            } else {
                wire.abort(&*notes, &key, &noted.upload_id).await?;
            }
        }
        let done = parts.keys().copied().collect();
        let (parts, whole) = (Mutex::new(parts), Mutex::default());
        let id = OnceCell::new_with(id);
        Ok(Self { wire, notes, copying, key, shape, done, id, parts, whole })
    }

    /// The server's upload id. Creates the upload on first use.
    async fn id(&self) -> Result<&str> {
        let begin = || async {
            let request = self.wire.client.create_multipart_upload().bucket(&self.wire.bucket);
            let request = request.key(self.wire.name(&self.key));
            let request = request.content_type(super::object::CONTENT_TYPE).send();
            let begun = self.wire.call(Op::Begin, self.key.as_str(), PATIENCE, request).await?;
            let id = begun.upload_id.ok_or_else(|| {
                self.wire.silence(Op::Begin, self.key.as_str(), "the answer names no upload")
            })?;
            Noted::new(&id, self.shape).set(&*self.notes, &self.key).await?;
            Ok::<_, Error>(id)
        };
        Ok(self.id.get_or_try_init(begin).await?.as_str())
    }

    fn without_tag(&self, op: Op, part: u64) -> Box<Failure> {
        self.wire.silence(op, self.key.as_str(), format!("part {part} got no entity tag"))
    }

    /// Returns the ETag of the part, when the answer has one.
    async fn send_part(
        &self,
        part: u64,
        payload: &Payload,
        summed: bool,
    ) -> Result<Result<Option<String>, Box<Failure>>> {
        let (wire, progress) = (&self.wire, Progress::new());
        let sums = Sums::of(payload, summed).await;
        let request = wire
            .client
            .upload_part()
            .bucket(&wire.bucket)
            .key(wire.name(&self.key))
            .upload_id(self.id().await?)
            .part_number(number(part))
            .content_length(signed(payload.len()))
            .set_content_md5(sums.md5)
            .body(body(payload, &progress))
            .customize()
            .interceptor(SignedAs(sums.sha256))
            .send();
        let sent = wire.call_sending(Op::Write, self.key.as_str(), &progress, request).await;
        Ok(sent.map(|sent| sent.e_tag.filter(|tag| !tag.is_empty())))
    }

    /// Finds out what became of a part without an answer: it was stored, or the server does not know the upload.
    async fn settle(&self, part: u64, len: u64, failure: Box<Failure>) -> Result<()> {
        match self.wire.parts(&self.key, self.id().await?).await {
            Ok(parts) => {
                let ours = |p: &Part| p.number == number(part) && p.len == len;
                let found = parts.into_iter().find(ours).ok_or(failure)?;
                self.parts.lock().insert(part, found.etag);
                Ok(())
            }
            Err(asked) if asked.is_expired() => Err(asked.into()),
            Err(_) => Err(failure.into()),
        }
    }

    fn has_length(&self, part: u64, len: u64) -> Result<()> {
        let wanted = self.shape.part(part);
        if wanted.end - wanted.start == len {
            return Ok(());
        }
        let text = format!("part {part} of {} is {wanted:?}, and {len} bytes came", self.key);
        Err(Error::new(Kind::Internal, text))
    }

    async fn copy_range(&self, part: u64, from: &Key, range: &Range<u64>) -> Result<()> {
        let wire = &self.wire;
        let request = wire
            .client
            .upload_part_copy()
            .bucket(&wire.bucket)
            .key(wire.name(&self.key))
            .upload_id(self.id().await?)
            .part_number(number(part))
            .copy_source(source(wire, from))
            .copy_source_range(format!("bytes={}-{}", range.start, range.end - 1))
            .customize()
            // The SDK sends no length with an empty body, and Ceph requires one.
            .mutate_request(|request| {
                request.headers_mut().insert("content-length", "0");
            })
            .send();
        match wire.call(Op::Copy, self.key.as_str(), JOINING, request).await {
            Ok(copied) => {
                let tag = copied.copy_part_result.and_then(|result| result.e_tag);
                let tag = tag.filter(|tag| !tag.is_empty());
                let tag = tag.ok_or_else(|| self.without_tag(Op::Copy, part))?;
                self.parts.lock().insert(part, tag);
                Ok(())
            }
            Err(failure) => Err(self.why_not_copied(from, range, failure).await),
        }
    }

    /// Explains a failed copy. Servers use many codes for a range beyond the source's end.
    async fn why_not_copied(&self, from: &Key, range: &Range<u64>, why: Box<Failure>) -> Error {
        if why.is_missing() {
            return missing(from);
        }
        let (past_the_end, refuses) = (why.is_past_the_end(), why.refuses_copies());
        let error = Error::from(why);
        if (past_the_end || error.kind() == Kind::InvalidInput)
            && let Ok(Some(len)) = self.wire.head(from).await
            && len < range.end
        {
            return too_short(from, len, range);
        }
        if refuses { no_copies(error) } else { error }
    }

    /// Sends the one request that makes the object.
    async fn make(&self) -> Result<Made> {
        let whole = self.whole.lock().clone();
        if let Some(from) = whole {
            return Ok(self.copy_whole(&from).await);
        }
        if self.shape.len == 0 {
            self.wire.put(&self.key, &Payload::default()).await?;
            return Ok(Ok(()));
        }
        let parts = self.parts.lock().clone();
        if let Some(part) = (0..self.shape.parts()).find(|part| !parts.contains_key(part)) {
            let text = format!("part {part} of {} was not sent", self.key);
            return Err(Error::new(Kind::Internal, text));
        }
        let part = |(part, etag): (&u64, &String)| {
            CompletedPart::builder().part_number(number(*part)).e_tag(etag).build()
        };
        let parts = parts.iter().map(part).collect();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.wire.client.complete_multipart_upload().bucket(&self.wire.bucket);
        let request = request.key(self.wire.name(&self.key)).upload_id(self.id().await?);
        let request = request.multipart_upload(parts).send();
        let done = self.wire.call(Op::Finish, self.key.as_str(), JOINING, request).await;
        Ok(done.map(drop))
    }

    async fn copy_whole(&self, from: &Key) -> Made {
        let request = self.wire.client.copy_object().bucket(&self.wire.bucket);
        let request = request.key(self.wire.name(&self.key)).copy_source(source(&self.wire, from));
        let done = self.wire.call(Op::Copy, self.key.as_str(), JOINING, request.send()).await;
        done.map(drop)
    }
}

/// The answer to the request that makes the object.
type Made = Result<(), Box<Failure>>;

#[async_trait]
impl Upload for S3Upload {
    fn done(&self) -> &[u64] {
        &self.done
    }

    async fn write(&self, part: u64, payload: Payload) -> Result<()> {
        self.has_length(part, payload.len())?;
        if self.shape.len == 0 {
            return Ok(());
        }
        let summed = self.wire.wants_checksums();
        match self.send_part(part, &payload, summed).await? {
            Err(failure) if self.wire.learns_checksums(summed, &failure) => {
                self.write(part, payload).await
            }
            Err(failure) if failure.outcome_is_unknown() || failure.is_page() => {
                self.settle(part, payload.len(), failure).await
            }
            Err(failure) => Err(failure.into()),
            Ok(Some(etag)) => {
                self.parts.lock().insert(part, etag);
                Ok(())
            }
            Ok(None) => {
                let failure = self.without_tag(Op::Write, part);
                self.settle(part, payload.len(), failure).await
            }
        }
    }

    async fn copy(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        self.has_length(part, range.end.saturating_sub(range.start))?;
        if self.shape.parts() == 1 && range.start == 0 {
            match self.wire.head(from).await? {
                None => return Err(missing(from)),
                Some(len) if len < range.end => return Err(too_short(from, len, &range)),
                Some(len) if len == range.end && len <= MAX_PART => {
                    *self.whole.lock() = Some(from.clone());
                    return Ok(());
                }
                Some(_) => {}
            }
        }
        match self.copying {
            Copying::Ranges { .. } => self.copy_range(part, from, &range).await,
            Copying::No | Copying::Whole => {
                let text = format!("{} does not copy parts of objects", self.wire.place);
                Err(Error::new(Kind::Unsupported, text))
            }
        }
    }

    async fn finish(&self) -> Result<()> {
        let made = self.make().await?;
        let copies = self.whole.lock().is_some();
        let may_be_there = |f: &Failure| f.is_expired() || f.outcome_is_unknown();
        match made {
            Err(failure) if failure.lost_parts() => {
                // It cannot succeed with these parts, so the next `begin` must not resume it.
                self.abort().await?;
                return Err(failure.into());
            }
            Err(failure) if copies && failure.refuses_copies() => {
                return Err(no_copies(failure.into()));
            }
            Err(failure) if !may_be_there(&failure) => return Err(failure.into()),
            // The answer to this or an earlier finish may be lost. The object's existence decides.
            _ => {}
        }
        match (self.wire.head(&self.key).await?, made) {
            (Some(len), _) if len == self.shape.len => forget(&*self.notes, &self.key).await,
            (_, Err(failure)) => Err(failure.into()),
            (Some(len), Ok(())) => Err(wrong_length(&self.key, len, self.shape.len)),
            (None, Ok(())) => {
                let why = "it was made, and is not there";
                Err(self.wire.silence(Op::Finish, self.key.as_str(), why).into())
            }
        }
    }

    async fn abort(&self) -> Result<()> {
        match self.id.get() {
            Some(id) => self.wire.abort(&*self.notes, &self.key, id).await,
            None => Ok(()),
        }
    }
}

/// The error for refused copies, by missing permission or by the server's rules. The caller sends the bytes instead.
fn no_copies(why: Error) -> Error {
    Error::new(Kind::Unsupported, "the storage refuses to copy").because(why)
}

/// The upload of an earlier run and its parts, if the server still has it.
async fn take_up(
    wire: &Wire,
    notes: &dyn Notes,
    key: &Key,
    shape: Shape,
    noted: Noted,
) -> Result<(Option<String>, BTreeMap<u64, String>)> {
    let found = match wire.parts(key, &noted.upload_id).await {
        Err(failure) if failure.is_expired() || failure.is_missing() || failure.tells_nothing() => {
            // When the parts are unknown, everything is sent again in a new upload. Some servers report an upload
            // without parts as unknown and keep it all the same, so it is aborted.
            wire.abort(notes, key, &noted.upload_id).await?;
            return Ok((None, BTreeMap::new()));
        }
        found => found?,
    };
    let mut parts = BTreeMap::new();
    for part in found {
        // Counted from 0 here. A part of another length is not ours; it is sent again and replaces it.
        let Some(index) = u64::try_from(part.number).ok().and_then(|n| n.checked_sub(1)) else {
            continue;
        };
        let wanted = shape.part(index);
        if index < shape.parts() && wanted.end - wanted.start == part.len {
            parts.insert(index, part.etag);
        }
    }
    Ok((Some(noted.upload_id), parts))
}

fn check(key: &Key, shape: Shape) -> Result<()> {
    let parts = shape.parts();
    let why = if parts > Shape::MAX_PARTS {
        format!("{parts} parts, and S3 takes {}", Shape::MAX_PARTS)
    } else if parts > 1 && shape.part_len < MIN_PART {
        format!("parts of {} bytes, and S3 takes none below {MIN_PART}", shape.part_len)
    } else if shape.len.min(shape.part_len) > MAX_PART {
        format!("parts of {} bytes, and S3 takes none above {MAX_PART}", shape.part_len)
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::Unsupported, format!("object {key} would have {why}")))
}

/// S3 counts parts from 1 to 10,000.
fn number(part: u64) -> i32 {
    i32::try_from(part + 1).unwrap_or(i32::MAX)
}

fn source(wire: &Wire, from: &Key) -> String {
    encoded(&format!("{}/{}", wire.bucket, wire.name(from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_that_s3_does_not_take_are_refused() {
        let key = Key::new("k").unwrap();
        let check = |len, part_len| check(&key, Shape { len, part_len }).map_err(|e| e.kind());
        assert_eq!(check(100 << 20, 16 << 20), Ok(()));
        assert_eq!(check(3 << 10, 1 << 10), Err(Kind::Unsupported));
        assert_eq!(check(10, 10), Ok(()));
        assert_eq!(check(0, 1), Ok(()));
        assert_eq!(check(10_000 * MIN_PART, MIN_PART), Ok(()));
        assert_eq!(check(10_000 * MIN_PART + 1, MIN_PART), Err(Kind::Unsupported));
        assert_eq!(check(6 << 30, 6 << 30), Err(Kind::Unsupported));
        assert_eq!((number(0), number(9_999)), (1, 10_000));
    }
}
