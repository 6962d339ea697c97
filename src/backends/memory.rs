//! Objects in this process's memory: for tests, and for trying bae out.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use parking_lot::RwLock;
use url::Url;

use super::{
    Body, Capabilities, CopySupport, Key, MultipartUpload, ObjectInfo, ObjectVersion, Page,
    PageToken, Payload, StorageBackend, UnfinishedUpload, UploadId, UploadLayout,
};
use crate::error::{Error, Kind, Result};

/// Keeps each object as one buffer until the process ends.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    objects: Arc<RwLock<BTreeMap<Key, Bytes>>>,
    uploads: Arc<RwLock<BTreeMap<Key, Parts>>>,
}

/// Parts received so far, by part index.
type Parts = BTreeMap<u64, Bytes>;

/// Objects per page of a listing. Small, so that tests see several pages.
const PAGE_LEN: usize = 100;
/// Bytes per item of a body.
const BODY_ITEM_LEN: usize = 100_000;

impl MemoryBackend {
    pub const CAPABILITIES: Capabilities = Capabilities {
        copy: CopySupport::Ranges { min_part: 1 },
        ordered_parts: false,
        conditional_put: false,
        links: false,
        window: Capabilities::WINDOW,
        body_in_blocks: false,
    };

    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl StorageBackend for MemoryBackend {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.objects.write().insert(key.clone(), copy_payload(&payload));
        Ok(())
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        get(&self.objects.read(), key, &range)
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        let mut remaining = get(&self.objects.read(), key, &range)?;
        // Several items, so that tests exercise readers with more than one.
        let items = std::iter::from_fn(move || {
            let item = remaining.split_to(remaining.len().min(BODY_ITEM_LEN));
            (!item.is_empty()).then_some(Ok(item))
        });
        Ok(Box::pin(stream::iter(items)))
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        Ok(self.objects.read().get(key).map(|o| o.len() as u64))
    }

    async fn version(&self, key: &Key) -> Result<Option<ObjectVersion>> {
        let objects = self.objects.read();
        Ok(objects.get(key).map(|o| ObjectVersion { len: o.len() as u64, tag: None }))
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.objects.write().remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        let objects = self.objects.read();
        let after = page.map_or("", |token| token.0.as_str());
        let named = objects.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        let rest = named.filter(|(key, _)| page.is_none() || key.as_str() > after);
        let info = |(key, o): (&Key, &Bytes)| ObjectInfo { key: key.clone(), len: o.len() as u64 };
        let objects: Vec<_> = rest.take(PAGE_LEN).map(info).collect();
        let full = objects.len() == PAGE_LEN;
        let next = objects.last().filter(|_| full).map(|o| PageToken(o.key.to_string()));
        Ok(Page { objects, next })
    }

    async fn begin_upload(
        &self,
        key: &Key,
        layout: UploadLayout,
    ) -> Result<Box<dyn MultipartUpload>> {
        let stored = self.uploads.write().entry(key.clone()).or_default().keys().copied().collect();
        let (objects, uploads) = (Arc::clone(&self.objects), Arc::clone(&self.uploads));
        Ok(Box::new(MemoryUpload { key: key.clone(), layout, stored, objects, uploads }))
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>> {
        let uploads = self.uploads.read();
        let named = uploads.keys().filter(|key| key.as_str().starts_with(prefix)).cloned();
        Ok(named
            .map(|key| UnfinishedUpload { key, id: UploadId(String::new()), started_at: None })
            .collect())
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        self.uploads.write().remove(&upload.key);
        Ok(())
    }

    async fn url(&self, _: &Key, _: Duration) -> Result<Url> {
        Err(Error::new(Kind::Unsupported, "the memory storage has no links"))
    }

    fn capabilities(&self) -> Capabilities {
        Self::CAPABILITIES
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn is_remote(&self) -> bool {
        false
    }
}

fn copy_payload(payload: &Payload) -> Bytes {
    // Copies on purpose: keeping the caller's blocks would keep them charged to the memory budget.
    let mut whole = BytesMut::with_capacity(usize::try_from(payload.len()).unwrap_or(0));
    payload.buffers().iter().for_each(|buffer| whole.extend_from_slice(buffer));
    whole.freeze()
}

fn get(objects: &BTreeMap<Key, Bytes>, key: &Key, range: &Range<u64>) -> Result<Bytes> {
    let object = objects.get(key).ok_or_else(|| object_not_found(key))?;
    let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
    match bounds {
        Some((start, end)) if start <= end && end <= object.len() => {
            // Copies instead of slicing, so that the caller's bytes do not keep the whole object alive.
            Ok(Bytes::copy_from_slice(&object[start..end]))
        }
        _ => Err(object_too_short(key, object.len() as u64, range)),
    }
}

#[derive(Debug)]
struct MemoryUpload {
    key: Key,
    layout: UploadLayout,
    stored: Vec<u64>,
    objects: Arc<RwLock<BTreeMap<Key, Bytes>>>,
    uploads: Arc<RwLock<BTreeMap<Key, Parts>>>,
}

impl MemoryUpload {
    fn add_part(&self, part: u64, bytes: Bytes) -> Result<()> {
        let mut uploads = self.uploads.write();
        let parts = uploads.get_mut(&self.key).ok_or_else(|| upload_expired(&self.key))?;
        parts.insert(part, bytes);
        Ok(())
    }
}

#[async_trait]
impl MultipartUpload for MemoryUpload {
    fn stored_parts(&self) -> &[u64] {
        &self.stored
    }

    async fn put_part(&self, part: u64, payload: Payload) -> Result<()> {
        self.add_part(part, copy_payload(&payload))
    }

    async fn copy_part(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        let bytes = get(&self.objects.read(), from, &range)?;
        self.add_part(part, bytes)
    }

    async fn finish(&self) -> Result<()> {
        let mut uploads = self.uploads.write();
        let mut objects = self.objects.write();
        let Some(parts) = uploads.remove(&self.key) else {
            // The answer to an earlier finish was lost.
            return objects.get(&self.key).map(drop).ok_or_else(|| upload_expired(&self.key));
        };
        let whole: Bytes = parts.into_values().flatten().collect();
        if whole.len() as u64 != self.layout.len {
            return Err(wrong_object_length(&self.key, whole.len() as u64, self.layout.len));
        }
        objects.insert(self.key.clone(), whole);
        Ok(())
    }

    async fn abort(&self) -> Result<()> {
        self.uploads.write().remove(&self.key);
        Ok(())
    }
}

fn upload_expired(key: &Key) -> Error {
    Error::new(Kind::SessionExpired, format!("the upload of {key} no longer exists"))
}

/// The error for a finished object whose length differs from its shape.
pub(super) fn wrong_object_length(key: &Key, len: u64, expected: u64) -> Error {
    Error::new(Kind::Corrupt, format!("object {key} has {len} bytes instead of {expected}"))
}

/// The error for a read or an opened body of an object that does not exist.
pub(super) fn object_not_found(key: &Key) -> Error {
    Error::new(Kind::NotFound, format!("object {key} does not exist"))
}

/// The error for a read past the end of an object.
pub(super) fn object_too_short(key: &Key, len: u64, range: &Range<u64>) -> Error {
    let Range { start, end } = range;
    Error::new(
        Kind::Corrupt,
        format!("object {key} has {len} bytes, but {start}..{end} was requested"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::conformance;

    #[tokio::test]
    async fn passes_the_conformance_suite() {
        conformance::check(&MemoryBackend::new()).await;
    }
}
