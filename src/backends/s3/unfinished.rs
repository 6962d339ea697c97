//! Abandoned multipart uploads: lists them and frees their parts.
//!
//! Not every server lists them: s3s answers 501, and MinIO lists nothing for a folder. So each upload in the notes
//! that the listing lacks is checked on its own.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{
    client::{PATIENCE, Wire},
    errors::{Failure, Op},
    listing::GOES_NOT_ON,
    object::unsigned,
};
use crate::{
    backends::{Key, Notes, Shape, Unfinished, UploadId},
    error::{Error, Kind, Result},
};

/// Prefix of the name of a note, before the key.
const NOTE: &str = "upload:";

/// The note about an upload in progress.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Noted {
    pub(super) upload_id: String,
    len: u64,
    part_len: u64,
}

impl Noted {
    pub(super) fn new(upload_id: &str, shape: Shape) -> Self {
        Self { upload_id: upload_id.to_owned(), len: shape.len, part_len: shape.part_len }
    }

    pub(super) fn is_of(&self, shape: Shape) -> bool {
        (self.len, self.part_len) == (shape.len, shape.part_len)
    }

    /// Reads the note of a key. An unreadable note counts as missing: losing one loses no data.
    pub(super) fn get(notes: &dyn Notes, key: &Key) -> Result<Option<Self>> {
        let text = notes.get(&format!("{NOTE}{key}"))?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    pub(super) async fn set(&self, notes: &dyn Notes, key: &Key) -> Result<()> {
        let text = serde_json::to_string(self).map_err(|e| {
            Error::new(Kind::Internal, format!("note the upload of {key}")).because(e)
        })?;
        notes.set(&format!("{NOTE}{key}"), Some(text)).await
    }
}

/// Deletes the note of a key.
pub(super) async fn forget(notes: &dyn Notes, key: &Key) -> Result<()> {
    notes.set(&format!("{NOTE}{key}"), None).await
}

/// A part that the server has stored.
#[derive(Debug)]
pub(super) struct Part {
    /// From 1, as S3 counts.
    pub(super) number: i32,
    pub(super) len: u64,
    pub(super) etag: String,
}

/// What the server still has of an upload.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    /// Some servers (s3s) also answer this for an unknown upload. Neither takes space.
    NoParts,
    Parts,
    /// The server cannot list parts.
    Unknown,
}

impl Wire {
    pub(super) async fn unfinished(
        &self,
        notes: &dyn Notes,
        prefix: &str,
    ) -> Result<Vec<Unfinished>> {
        // Read before the listing: an upload noted here and not listed then is gone, or the server does not list it.
        let noted = notes.list(&format!("{NOTE}{prefix}"))?;
        let mut found = match self.list_uploads(prefix).await {
            Err(failure) if failure.is_unsupported() => Vec::new(),
            listed => listed?,
        };
        let listed: HashSet<String> = found.iter().map(|u| u.id.0.clone()).collect();
        for (name, text) in noted {
            let key = name.strip_prefix(NOTE).and_then(|key| Key::new(key).ok());
            let Some((key, noted)) = key.zip(serde_json::from_str::<Noted>(&text).ok()) else {
                continue;
            };
            if listed.contains(&noted.upload_id) {
                continue;
            }
            if self.left(&key, &noted.upload_id).await? == Left::Nothing {
                forget(notes, &key).await?;
            } else {
                found.push(Unfinished { key, id: UploadId(noted.upload_id), begun: None });
            }
        }
        Ok(found)
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<Unfinished>, Box<Failure>> {
        let mut found = Vec::new();
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let request = self
                .client
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .prefix(format!("{}{prefix}", self.prefix))
                .set_key_marker(key_marker.clone())
                .set_upload_id_marker(id_marker.clone())
                .send();
            let subject = format!("{prefix:?}");
            let page = self.call(Op::ListUploads, &subject, PATIENCE, request).await?;
            for upload in page.uploads() {
                let key = upload.key().and_then(|name| self.key(name));
                if let Some((key, id)) = key.zip(upload.upload_id()) {
                    let begun = upload.initiated().map(aws_sdk_s3::primitives::DateTime::secs);
                    found.push(Unfinished { key, id: UploadId(id.to_owned()), begun });
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
                return Err(self.senseless(Op::ListUploads, &subject, GOES_NOT_ON));
            }
            (key_marker, id_marker) = next;
        }
    }

    /// The parts of an upload, over all pages.
    pub(super) async fn parts(&self, key: &Key, id: &str) -> Result<Vec<Part>, Box<Failure>> {
        let mut found = Vec::new();
        let mut marker: Option<String> = None;
        loop {
            let request = self
                .client
                .list_parts()
                .bucket(&self.bucket)
                .key(self.name(key))
                .upload_id(id)
                .set_part_number_marker(marker.clone())
                .send();
            let page = self.call(Op::ListParts, key.as_str(), PATIENCE, request).await?;
            for part in page.parts() {
                if let (Some(number), Some(etag)) = (part.part_number(), part.e_tag()) {
                    found.push(Part { number, len: unsigned(part.size()), etag: etag.to_owned() });
                }
            }
            if page.is_truncated != Some(true) {
                return Ok(found);
            }
            let last = || found.last().map(|part| part.number.to_string());
            let next = page.next_part_number_marker.or_else(last);
            if next.is_none() || next == marker {
                return Err(self.senseless(Op::ListParts, key.as_str(), GOES_NOT_ON));
            }
            marker = next;
        }
    }

    async fn left(&self, key: &Key, id: &str) -> Result<Left> {
        match self.parts(key, id).await {
            Ok(parts) if parts.is_empty() => Ok(Left::NoParts),
            Ok(_) => Ok(Left::Parts),
            Err(failure) if failure.is_expired() || failure.is_missing() => Ok(Left::Nothing),
            Err(failure) if failure.tells_nothing() => Ok(Left::Unknown),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Aborts an upload and deletes its note. Aborts once more when parts are left, because a part that arrives
    /// during the abort can remain.
    pub(super) async fn abort(&self, notes: &dyn Notes, key: &Key, id: &str) -> Result<()> {
        for _ in 0..2 {
            let request = self.client.abort_multipart_upload().bucket(&self.bucket);
            let request = request.key(self.name(key)).upload_id(id).send();
            match self.call(Op::Abort, key.as_str(), PATIENCE, request).await {
                Err(failure) if !failure.is_expired() && !failure.is_missing() => {
                    return Err(failure.into());
                }
                _ => {}
            }
            if self.left(key, id).await? != Left::Parts {
                let noted = Noted::get(notes, key)?;
                return match noted.filter(|noted| noted.upload_id == id) {
                    Some(_) => forget(notes, key).await,
                    None => Ok(()),
                };
            }
        }
        Err(self.silence(Op::Abort, key.as_str(), "it is still there").into())
    }
}
