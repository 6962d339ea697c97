//! Abandoned multipart uploads: lists them and frees their parts.
//!
//! Not every server lists them: s3s answers 501, and MinIO lists nothing for a folder. So each upload in the
//! backend state that the listing lacks is checked on its own.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{
    client::{CALL_TIMEOUT, S3Client},
    errors::{S3Error, S3Op},
    listing::NO_NEXT_PAGE,
    object::from_sdk_len,
};
use crate::{
    backends::{BackendState, Key, UnfinishedUpload, UploadId, UploadLayout},
    error::{Error, Kind, Result},
};

/// Prefix of the name of an entry in the backend state, before the key.
const ENTRY_PREFIX: &str = "upload:";

/// The saved state of an upload in progress.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct UploadRecord {
    pub(super) upload_id: String,
    len: u64,
    part_len: u64,
}

impl UploadRecord {
    pub(super) fn new(upload_id: &str, layout: UploadLayout) -> Self {
        Self { upload_id: upload_id.to_owned(), len: layout.len, part_len: layout.part_len }
    }

    pub(super) fn has_layout(&self, layout: UploadLayout) -> bool {
        (self.len, self.part_len) == (layout.len, layout.part_len)
    }

    /// Reads the record of a key. An unreadable record counts as missing: losing one loses no data.
    pub(super) async fn get(backend_state: &dyn BackendState, key: &Key) -> Result<Option<Self>> {
        let text = backend_state.get(&format!("{ENTRY_PREFIX}{key}")).await?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    pub(super) async fn set(&self, backend_state: &dyn BackendState, key: &Key) -> Result<()> {
        let text = serde_json::to_string(self).map_err(|e| {
            Error::new(Kind::Internal, format!("save the state of the upload of {key}")).because(e)
        })?;
        backend_state.set(&format!("{ENTRY_PREFIX}{key}"), Some(text)).await
    }
}

/// Deletes the record of a key.
pub(super) async fn delete_record(backend_state: &dyn BackendState, key: &Key) -> Result<()> {
    backend_state.set(&format!("{ENTRY_PREFIX}{key}"), None).await
}

/// A part that the server has stored.
#[derive(Debug)]
pub(super) struct StoredPart {
    /// From 1, as S3 counts.
    pub(super) number: i32,
    pub(super) len: u64,
    pub(super) etag: String,
}

/// What the server still has of an upload.
#[derive(Debug, PartialEq, Eq)]
enum UploadRemains {
    Nothing,
    /// Some servers (s3s) also answer this for an unknown upload. Neither takes space.
    NoParts,
    Parts,
    /// The server cannot list parts.
    Unknown,
}

impl S3Client {
    pub(super) async fn unfinished_uploads(
        &self,
        backend_state: &dyn BackendState,
        prefix: &str,
    ) -> Result<Vec<UnfinishedUpload>> {
        // Read before the listing: an upload recorded here and not listed then is gone, or the server does not list it.
        let records = backend_state.list(&format!("{ENTRY_PREFIX}{prefix}")).await?;
        let mut found = match self.list_multipart_uploads(prefix).await {
            Err(failure) if failure.is_unsupported() => Vec::new(),
            listed => listed?,
        };
        let listed: HashSet<String> = found.iter().map(|u| u.id.0.clone()).collect();
        for (name, text) in records {
            let key = name.strip_prefix(ENTRY_PREFIX).and_then(|key| Key::new(key).ok());
            let Some((key, record)) = key.zip(serde_json::from_str::<UploadRecord>(&text).ok())
            else {
                continue;
            };
            if listed.contains(&record.upload_id) {
                continue;
            }
            if self.upload_remains(&key, &record.upload_id).await? == UploadRemains::Nothing {
                delete_record(backend_state, &key).await?;
            } else {
                found.push(UnfinishedUpload {
                    key,
                    id: UploadId(record.upload_id),
                    started_at: None,
                });
            }
        }
        Ok(found)
    }

    async fn list_multipart_uploads(
        &self,
        prefix: &str,
    ) -> Result<Vec<UnfinishedUpload>, Box<S3Error>> {
        let mut found = Vec::new();
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let request = self
                .sdk
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .prefix(format!("{}{prefix}", self.prefix))
                .set_key_marker(key_marker.clone())
                .set_upload_id_marker(id_marker.clone())
                .send();
            let subject = format!("{prefix:?}");
            let page = self.call(S3Op::ListUploads, &subject, CALL_TIMEOUT, request).await?;
            for upload in page.uploads() {
                let key = upload.key().and_then(|name| self.key(name));
                if let Some((key, id)) = key.zip(upload.upload_id()) {
                    let started_at = upload.initiated().map(aws_sdk_s3::primitives::DateTime::secs);
                    found.push(UnfinishedUpload { key, id: UploadId(id.to_owned()), started_at });
                }
            }
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if page.is_truncated != Some(true) {
                return Ok(found);
            }
            // A server that gives no marker means: after the last upload of this page.
            let last = page.uploads.unwrap_or_default().pop();
            let last = last.map(|last| (last.key, last.upload_id)).unwrap_or_default();
            let next = if next.0.is_some() { next } else { last };
            if next.0.is_none() || next == (key_marker, id_marker) {
                return Err(self.contradiction(S3Op::ListUploads, &subject, NO_NEXT_PAGE));
            }
            (key_marker, id_marker) = next;
        }
    }

    /// The parts of an upload, over all pages.
    pub(super) async fn parts(&self, key: &Key, id: &str) -> Result<Vec<StoredPart>, Box<S3Error>> {
        let mut found = Vec::new();
        let mut marker: Option<String> = None;
        loop {
            let request = self
                .sdk
                .list_parts()
                .bucket(&self.bucket)
                .key(self.name(key))
                .upload_id(id)
                .set_part_number_marker(marker.clone())
                .send();
            let page = self.call(S3Op::ListParts, key.as_str(), CALL_TIMEOUT, request).await?;
            for part in page.parts() {
                if let (Some(number), Some(etag)) = (part.part_number(), part.e_tag()) {
                    found.push(StoredPart {
                        number,
                        len: from_sdk_len(part.size()),
                        etag: etag.to_owned(),
                    });
                }
            }
            if page.is_truncated != Some(true) {
                return Ok(found);
            }
            let last_part = || found.last().map(|part| part.number.to_string());
            let next = page.next_part_number_marker.or_else(last_part);
            if next.is_none() || next == marker {
                return Err(self.contradiction(S3Op::ListParts, key.as_str(), NO_NEXT_PAGE));
            }
            marker = next;
        }
    }

    async fn upload_remains(&self, key: &Key, id: &str) -> Result<UploadRemains> {
        match self.parts(key, id).await {
            Ok(parts) if parts.is_empty() => Ok(UploadRemains::NoParts),
            Ok(_) => Ok(UploadRemains::Parts),
            Err(failure) if failure.is_expired() || failure.is_missing() => {
                Ok(UploadRemains::Nothing)
            }
            Err(failure) if failure.is_unsupported_or_unreadable() => Ok(UploadRemains::Unknown),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Aborts an upload and deletes its record. Aborts once more when parts are left, because a part that arrives
    /// during the abort can remain.
    pub(super) async fn abort(
        &self,
        backend_state: &dyn BackendState,
        key: &Key,
        id: &str,
    ) -> Result<()> {
        for _ in 0..2 {
            let request = self.sdk.abort_multipart_upload().bucket(&self.bucket);
            let request = request.key(self.name(key)).upload_id(id).send();
            match self.call(S3Op::AbortUpload, key.as_str(), CALL_TIMEOUT, request).await {
                Err(failure) if !failure.is_expired() && !failure.is_missing() => {
                    return Err(failure.into());
                }
                _ => {}
            }
            if self.upload_remains(key, id).await? != UploadRemains::Parts {
                let record = UploadRecord::get(backend_state, key).await?;
                return match record.filter(|record| record.upload_id == id) {
                    Some(_) => delete_record(backend_state, key).await,
                    None => Ok(()),
                };
            }
        }
        Err(self.no_answer(S3Op::AbortUpload, key.as_str(), "the upload still exists").into())
    }
}
