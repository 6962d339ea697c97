//! An object made of parts: a multipart upload, or a single copy when the object is a copy of one whole object.
//!
//! The multipart upload is created with the first part only, so a copy of a whole object leaves nothing behind. Its
//! id is saved before a part is sent. The parts are not saved: on resume the server is asked for them. An empty
//! object has no parts and is put at the end.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::{
    abandoned_uploads::{StoredPart, UploadRecord, delete_record},
    client::{CALL_TIMEOUT, S3Client},
    encoding::percent_encode,
    errors::{S3Error, S3Op},
    object::{PayloadHashes, SignPayloadHash, body, to_sdk_len},
    quirks::MIN_PART,
};
use crate::{
    backends::{
        BackendState, CopySupport, Key, MultipartUpload, Payload, UploadLayout,
        idle_timer::IdleTimer,
        memory::{object_not_found, object_too_short, wrong_object_length},
    },
    error::{Error, Kind, Result},
};

/// The longest part, and the longest object that one request copies.
const MAX_PART: u64 = 5 << 30;
/// Timeout for calls in which servers join thousands of parts, or copy gigabytes, before they answer.
const COMPLETE_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct S3Upload {
    client: Arc<S3Client>,
    backend_state: Arc<dyn BackendState>,
    copy_support: CopySupport,
    key: Key,
    layout: UploadLayout,
    stored_parts: Vec<u64>,
    /// The server's upload id, once the upload is created.
    id: OnceCell<String>,
    /// ETags of the stored parts.
    parts: Mutex<BTreeMap<u64, String>>,
    /// The object that this one will be a copy of.
    copied_from: Mutex<Option<Key>>,
}

impl S3Upload {
    pub(super) async fn begin(
        client: Arc<S3Client>,
        backend_state: Arc<dyn BackendState>,
        copy_support: CopySupport,
        key: Key,
        layout: UploadLayout,
    ) -> Result<Self> {
        check_layout(&key, layout)?;
        let (mut id, mut parts) = (None, BTreeMap::new());
        if let Some(record) = UploadRecord::get(&*backend_state, &key).await? {
            if record.has_layout(layout) {
                (id, parts) = resume_upload(&client, &*backend_state, &key, layout, record).await?;
            } else {
                client.abort(&*backend_state, &key, &record.upload_id).await?;
            }
        }
        let stored_parts = parts.keys().copied().collect();
        let (parts, copied_from) = (Mutex::new(parts), Mutex::default());
        let id = OnceCell::new_with(id);
        Ok(Self {
            client,
            backend_state,
            copy_support,
            key,
            layout,
            stored_parts,
            id,
            parts,
            copied_from,
        })
    }

    /// The server's upload id. Creates the upload on first use.
    async fn id(&self) -> Result<&str> {
        let create = || async {
            let request = self.client.sdk.create_multipart_upload().bucket(&self.client.bucket);
            let request = request.key(self.client.name(&self.key));
            let request = request.content_type(super::object::CONTENT_TYPE).send();
            let created = self
                .client
                .call(S3Op::BeginUpload, self.key.as_str(), CALL_TIMEOUT, request)
                .await?;
            let id = created.upload_id.ok_or_else(|| {
                self.client.no_answer(
                    S3Op::BeginUpload,
                    self.key.as_str(),
                    "the response has no upload id",
                )
            })?;
            UploadRecord::new(&id, self.layout).set(&*self.backend_state, &self.key).await?;
            Ok::<_, Error>(id)
        };
        Ok(self.id.get_or_try_init(create).await?.as_str())
    }

    fn missing_e_tag(&self, op: S3Op, part: u64) -> Box<S3Error> {
        self.client.no_answer(
            op,
            self.key.as_str(),
            format!("the response has no ETag for part {part}"),
        )
    }

    /// Returns the ETag of the part, when the answer has one.
    async fn send_part(
        &self,
        part: u64,
        payload: &Payload,
        with_md5: bool,
    ) -> Result<Result<Option<String>, Box<S3Error>>> {
        let (client, idle_timer) = (&self.client, IdleTimer::new());
        let hashes = PayloadHashes::of(payload, with_md5).await;
        let request = client
            .sdk
            .upload_part()
            .bucket(&client.bucket)
            .key(client.name(&self.key))
            .upload_id(self.id().await?)
            .part_number(part_number(part))
            .content_length(to_sdk_len(payload.len()))
            .set_content_md5(hashes.md5)
            .body(body(payload, &idle_timer))
            .customize()
            .interceptor(SignPayloadHash(hashes.sha256))
            .send();
        let sent =
            client.call_sending(S3Op::PutPart, self.key.as_str(), &idle_timer, request).await;
        Ok(sent.map(|sent| sent.e_tag.filter(|tag| !tag.is_empty())))
    }

    /// Finds out what became of a part without an answer: it was stored, or the server does not know the upload.
    async fn resolve_part(&self, part: u64, len: u64, failure: Box<S3Error>) -> Result<()> {
        match self.client.parts(&self.key, self.id().await?).await {
            Ok(parts) => {
                let is_ours = |p: &StoredPart| p.number == part_number(part) && p.len == len;
                let found = parts.into_iter().find(is_ours).ok_or(failure)?;
                self.parts.lock().insert(part, found.etag);
                Ok(())
            }
            Err(probe) if probe.is_expired() => Err(probe.into()),
            Err(_) => Err(failure.into()),
        }
    }

    fn check_part_len(&self, part: u64, len: u64) -> Result<()> {
        let expected = self.layout.part_range(part);
        if expected.end - expected.start == len {
            return Ok(());
        }
        let text = format!("part {part} of {} is {expected:?}, but has {len} bytes", self.key);
        Err(Error::new(Kind::Internal, text))
    }

    async fn copy_range(&self, part: u64, from: &Key, range: &Range<u64>) -> Result<()> {
        let client = &self.client;
        let request = client
            .sdk
            .upload_part_copy()
            .bucket(&client.bucket)
            .key(client.name(&self.key))
            .upload_id(self.id().await?)
            .part_number(part_number(part))
            .copy_source(copy_source_header(client, from))
            .copy_source_range(format!("bytes={}-{}", range.start, range.end - 1))
            .customize()
            // The SDK sends no length with an empty body, and Ceph requires one.
            .mutate_request(|request| {
                request.headers_mut().insert("content-length", "0");
            })
            .send();
        match client.call(S3Op::Copy, self.key.as_str(), COMPLETE_TIMEOUT, request).await {
            Ok(copied) => {
                let tag = copied.copy_part_result.and_then(|result| result.e_tag);
                let tag = tag.filter(|tag| !tag.is_empty());
                let tag = tag.ok_or_else(|| self.missing_e_tag(S3Op::Copy, part))?;
                self.parts.lock().insert(part, tag);
                Ok(())
            }
            Err(failure) => Err(self.copy_error(from, range, failure).await),
        }
    }

    /// Explains a failed copy. Servers use many codes for a range beyond the source's end.
    async fn copy_error(&self, from: &Key, range: &Range<u64>, why: Box<S3Error>) -> Error {
        if why.is_missing() {
            return object_not_found(from);
        }
        let (out_of_range, refused) = (why.is_out_of_range(), why.refuses_copies());
        let error = Error::from(why);
        if (out_of_range || error.kind() == Kind::InvalidInput)
            && let Ok(Some(len)) = self.client.head(from).await
            && len < range.end
        {
            return object_too_short(from, len, range);
        }
        if refused { copy_refused(error) } else { error }
    }

    /// Sends the one request that makes the object.
    async fn complete(&self) -> Result<CompleteResult> {
        let copied_from = self.copied_from.lock().clone();
        if let Some(from) = copied_from {
            return Ok(self.copy_object(&from).await);
        }
        if self.layout.len == 0 {
            self.client.put(&self.key, &Payload::default()).await?;
            return Ok(Ok(()));
        }
        let parts = self.parts.lock().clone();
        if let Some(part) = (0..self.layout.part_count()).find(|part| !parts.contains_key(part)) {
            let text = format!("part {part} of {} was not sent", self.key);
            return Err(Error::new(Kind::Internal, text));
        }
        let part = |(part, etag): (&u64, &String)| {
            CompletedPart::builder().part_number(part_number(*part)).e_tag(etag).build()
        };
        let parts = parts.iter().map(part).collect();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.client.sdk.complete_multipart_upload().bucket(&self.client.bucket);
        let request = request.key(self.client.name(&self.key)).upload_id(self.id().await?);
        let request = request.multipart_upload(parts).send();
        let done = self
            .client
            .call(S3Op::FinishUpload, self.key.as_str(), COMPLETE_TIMEOUT, request)
            .await;
        Ok(done.map(drop))
    }

    async fn copy_object(&self, from: &Key) -> CompleteResult {
        let request = self.client.sdk.copy_object().bucket(&self.client.bucket);
        let request = request
            .key(self.client.name(&self.key))
            .copy_source(copy_source_header(&self.client, from));
        let done =
            self.client.call(S3Op::Copy, self.key.as_str(), COMPLETE_TIMEOUT, request.send()).await;
        done.map(drop)
    }
}

/// The answer to the request that makes the object.
type CompleteResult = Result<(), Box<S3Error>>;

#[async_trait]
impl MultipartUpload for S3Upload {
    fn stored_parts(&self) -> &[u64] {
        &self.stored_parts
    }

    async fn put_part(&self, part: u64, payload: Payload) -> Result<()> {
        self.check_part_len(part, payload.len())?;
        if self.layout.len == 0 {
            return Ok(());
        }
        let with_md5 = self.client.sends_checksums();
        match self.send_part(part, &payload, with_md5).await? {
            Err(failure) if self.client.enable_checksums_if_required(with_md5, &failure) => {
                self.put_part(part, payload).await
            }
            Err(failure) if failure.outcome_is_unknown() || failure.is_web_page() => {
                self.resolve_part(part, payload.len(), failure).await
            }
            Err(failure) => Err(failure.into()),
            Ok(Some(etag)) => {
                self.parts.lock().insert(part, etag);
                Ok(())
            }
            Ok(None) => {
                let failure = self.missing_e_tag(S3Op::PutPart, part);
                self.resolve_part(part, payload.len(), failure).await
            }
        }
    }

    async fn copy_part(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        self.check_part_len(part, range.end.saturating_sub(range.start))?;
        if self.layout.part_count() == 1 && range.start == 0 {
            match self.client.head(from).await? {
                None => return Err(object_not_found(from)),
                Some(len) if len < range.end => return Err(object_too_short(from, len, &range)),
                Some(len) if len == range.end && len <= MAX_PART => {
                    *self.copied_from.lock() = Some(from.clone());
                    return Ok(());
                }
                Some(_) => {}
            }
        }
        match self.copy_support {
            CopySupport::Ranges { .. } => self.copy_range(part, from, &range).await,
            CopySupport::No | CopySupport::Whole => {
                let text = format!("{} does not support copies of ranges", self.client.address);
                Err(Error::new(Kind::Unsupported, text))
            }
        }
    }

    async fn finish(&self) -> Result<()> {
        let outcome = self.complete().await?;
        let is_copy = self.copied_from.lock().is_some();
        let may_exist = |f: &S3Error| f.is_expired() || f.outcome_is_unknown();
        match outcome {
            Err(failure) if failure.lost_parts() => {
                // It cannot succeed with these parts, so the next `begin_upload` must not resume it.
                self.abort().await?;
                return Err(failure.into());
            }
            Err(failure) if is_copy && failure.refuses_copies() => {
                return Err(copy_refused(failure.into()));
            }
            Err(failure) if !may_exist(&failure) => return Err(failure.into()),
            // The answer to this or an earlier finish may be lost. The object's existence decides.
            _ => {}
        }
        match (self.client.head(&self.key).await?, outcome) {
            (Some(len), _) if len == self.layout.len => {
                delete_record(&*self.backend_state, &self.key).await
            }
            (_, Err(failure)) => Err(failure.into()),
            (Some(len), Ok(())) => Err(wrong_object_length(&self.key, len, self.layout.len)),
            (None, Ok(())) => {
                let why = "the upload was completed, but the object does not exist";
                Err(self.client.no_answer(S3Op::FinishUpload, self.key.as_str(), why).into())
            }
        }
    }

    async fn abort(&self) -> Result<()> {
        match self.id.get() {
            Some(id) => self.client.abort(&*self.backend_state, &self.key, id).await,
            None => Ok(()),
        }
    }
}

/// The error for refused copies, by missing permission or by the server's rules. The caller sends the bytes instead.
fn copy_refused(why: Error) -> Error {
    Error::new(Kind::Unsupported, "the storage refuses to copy").because(why)
}

/// The upload of an earlier run and its parts, if the server still has it.
async fn resume_upload(
    client: &S3Client,
    backend_state: &dyn BackendState,
    key: &Key,
    layout: UploadLayout,
    record: UploadRecord,
) -> Result<(Option<String>, BTreeMap<u64, String>)> {
    let found = match client.parts(key, &record.upload_id).await {
        Err(failure)
            if failure.is_expired()
                || failure.is_missing()
                || failure.is_unsupported_or_unreadable() =>
        {
            // When the parts are unknown, everything is sent again in a new upload. Some servers report an upload
            // without parts as unknown and keep it all the same, so it is aborted.
            client.abort(backend_state, key, &record.upload_id).await?;
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
        let expected = layout.part_range(index);
        if index < layout.part_count() && expected.end - expected.start == part.len {
            parts.insert(index, part.etag);
        }
    }
    Ok((Some(record.upload_id), parts))
}

fn check_layout(key: &Key, layout: UploadLayout) -> Result<()> {
    let parts = layout.part_count();
    let why = if parts > UploadLayout::MAX_PARTS {
        format!("{parts} parts; S3 allows {}", UploadLayout::MAX_PARTS)
    } else if parts > 1 && layout.part_len < MIN_PART {
        format!("parts of {} bytes; the minimum of S3 is {MIN_PART}", layout.part_len)
    } else if layout.len.min(layout.part_len) > MAX_PART {
        format!("parts of {} bytes; the maximum of S3 is {MAX_PART}", layout.part_len)
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::Unsupported, format!("object {key} would have {why}")))
}

/// S3 counts parts from 1 to 10,000.
fn part_number(part: u64) -> i32 {
    i32::try_from(part + 1).unwrap_or(i32::MAX)
}

fn copy_source_header(client: &S3Client, from: &Key) -> String {
    percent_encode(&format!("{}/{}", client.bucket, client.name(from)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_beyond_the_limits_of_s3_are_rejected() {
        let key = Key::new("k").unwrap();
        let check = |len, part_len| {
            check_layout(&key, UploadLayout { len, part_len }).map_err(|e| e.kind())
        };
        assert_eq!(check(100 << 20, 16 << 20), Ok(()));
        assert_eq!(check(3 << 10, 1 << 10), Err(Kind::Unsupported));
        assert_eq!(check(10, 10), Ok(()));
        assert_eq!(check(0, 1), Ok(()));
        assert_eq!(check(10_000 * MIN_PART, MIN_PART), Ok(()));
        assert_eq!(check(10_000 * MIN_PART + 1, MIN_PART), Err(Kind::Unsupported));
        assert_eq!(check(6 << 30, 6 << 30), Err(Kind::Unsupported));
        assert_eq!((part_number(0), part_number(9_999)), (1, 10_000));
    }
}
