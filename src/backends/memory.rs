//! Objects in this process's memory: for tests, and for trying bae out.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use parking_lot::RwLock;
use url::Url;

use super::{
    Body, Capabilities, Copying, Key, ObjectInfo, Page, PageToken, Payload, Shape, Stamp,
    StorageBackend, Unfinished, Upload, UploadId,
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
const PAGE: usize = 100;
/// Bytes per item of a body.
const PART: usize = 100_000;

impl MemoryBackend {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl StorageBackend for MemoryBackend {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        self.objects.write().insert(key.clone(), copied(&payload));
        Ok(())
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        get(&self.objects.read(), key, &range)
    }

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        let mut left = get(&self.objects.read(), key, &range)?;
        // Several items, so that tests exercise readers with more than one.
        let parts = std::iter::from_fn(move || {
            let part = left.split_to(left.len().min(PART));
            (!part.is_empty()).then_some(Ok(part))
        });
        Ok(Box::pin(stream::iter(parts)))
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        Ok(self.objects.read().get(key).map(|o| o.len() as u64))
    }

    async fn stamp(&self, key: &Key) -> Result<Option<Stamp>> {
        let objects = self.objects.read();
        Ok(objects.get(key).map(|o| Stamp { len: o.len() as u64, tag: None }))
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
        let objects: Vec<_> = rest.take(PAGE).map(info).collect();
        let full = objects.len() == PAGE;
        let next = objects.last().filter(|_| full).map(|o| PageToken(o.key.to_string()));
        Ok(Page { objects, next })
    }

    async fn begin(&self, key: &Key, shape: Shape) -> Result<Box<dyn Upload>> {
        let done = self.uploads.write().entry(key.clone()).or_default().keys().copied().collect();
        let (objects, uploads) = (Arc::clone(&self.objects), Arc::clone(&self.uploads));
        Ok(Box::new(MemoryUpload { key: key.clone(), shape, done, objects, uploads }))
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        let uploads = self.uploads.read();
        let named = uploads.keys().filter(|key| key.as_str().starts_with(prefix)).cloned();
        Ok(named.map(|key| Unfinished { key, id: UploadId(String::new()), begun: None }).collect())
    }

    async fn abort(&self, upload: &Unfinished) -> Result<()> {
        self.uploads.write().remove(&upload.key);
        Ok(())
    }

    async fn url(&self, _: &Key, _: Duration) -> Result<Url> {
        Err(Error::new(Kind::Unsupported, "memory has no links"))
    }

    fn capabilities(&self) -> Capabilities {
        let copy = Copying::Ranges { min_part: 1 };
        Capabilities {
            copy,
            ordered: false,
            conditional_put: false,
            links: false,
            window: Capabilities::WINDOW,
            blocks: false,
        }
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn is_remote(&self) -> bool {
        false
    }
}

fn copied(payload: &Payload) -> Bytes {
    // Copies on purpose: keeping the caller's blocks would keep them charged to the memory budget.
    let mut whole = BytesMut::with_capacity(usize::try_from(payload.len()).unwrap_or(0));
    payload.parts().iter().for_each(|p| whole.extend_from_slice(p));
    whole.freeze()
}

fn get(objects: &BTreeMap<Key, Bytes>, key: &Key, range: &Range<u64>) -> Result<Bytes> {
    let object = objects.get(key).ok_or_else(|| missing(key))?;
    let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
    match bounds {
        Some((start, end)) if start <= end && end <= object.len() => {
            // Copies instead of slicing, so that the caller's bytes do not keep the whole object alive.
            Ok(Bytes::copy_from_slice(&object[start..end]))
        }
        _ => Err(too_short(key, object.len() as u64, range)),
    }
}

#[derive(Debug)]
struct MemoryUpload {
    key: Key,
    shape: Shape,
    done: Vec<u64>,
    objects: Arc<RwLock<BTreeMap<Key, Bytes>>>,
    uploads: Arc<RwLock<BTreeMap<Key, Parts>>>,
}

impl MemoryUpload {
    fn add(&self, part: u64, bytes: Bytes) -> Result<()> {
        let mut uploads = self.uploads.write();
        let parts = uploads.get_mut(&self.key).ok_or_else(|| expired(&self.key))?;
        parts.insert(part, bytes);
        Ok(())
    }
}

#[async_trait]
impl Upload for MemoryUpload {
    fn done(&self) -> &[u64] {
        &self.done
    }

    async fn write(&self, part: u64, payload: Payload) -> Result<()> {
        self.add(part, copied(&payload))
    }

    async fn copy(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        let bytes = get(&self.objects.read(), from, &range)?;
        self.add(part, bytes)
    }

    async fn finish(&self) -> Result<()> {
        let mut uploads = self.uploads.write();
        let mut objects = self.objects.write();
        let Some(parts) = uploads.remove(&self.key) else {
            // The answer to an earlier finish was lost.
            return objects.get(&self.key).map(drop).ok_or_else(|| expired(&self.key));
        };
        let whole: Bytes = parts.into_values().flatten().collect();
        if whole.len() as u64 != self.shape.len {
            return Err(wrong_length(&self.key, whole.len() as u64, self.shape.len));
        }
        objects.insert(self.key.clone(), whole);
        Ok(())
    }

    async fn abort(&self) -> Result<()> {
        self.uploads.write().remove(&self.key);
        Ok(())
    }
}

fn expired(key: &Key) -> Error {
    Error::new(Kind::SessionExpired, format!("the upload of {key} is not there any more"))
}

/// The error for a finished object whose length differs from its shape.
pub(super) fn wrong_length(key: &Key, len: u64, wanted: u64) -> Error {
    Error::new(Kind::Corrupt, format!("object {key} has {len} bytes instead of {wanted}"))
}

/// The error for a read or an opened body of an object that does not exist.
pub(super) fn missing(key: &Key) -> Error {
    Error::new(Kind::NotFound, format!("object {key} is not there"))
}

/// The error for a read past the end of an object.
pub(super) fn too_short(key: &Key, len: u64, range: &Range<u64>) -> Error {
    let Range { start, end } = range;
    Error::new(Kind::Corrupt, format!("object {key} has {len} bytes, asked for {start}..{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::conformance;

    #[tokio::test]
    async fn keeps_the_contract() {
        conformance::check(&MemoryBackend::new()).await;
    }
}
