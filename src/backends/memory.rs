//! Objects in this process's memory: for tests, and for trying bae out.

use std::{collections::BTreeMap, ops::Range};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::RwLock;

use super::{Key, ObjectInfo, Payload, StorageBackend};
use crate::error::{Error, Kind, Result};

/// Keeps every object as one run of bytes; gone with the process.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    objects: RwLock<BTreeMap<Key, Bytes>>,
}

impl MemoryBackend {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl StorageBackend for MemoryBackend {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        // A copy on purpose: keeping the caller's blocks would keep them charged to the memory budget.
        let mut whole = BytesMut::with_capacity(usize::try_from(payload.len()).unwrap_or(0));
        payload.parts().iter().for_each(|p| whole.extend_from_slice(p));
        self.objects.write().insert(key.clone(), whole.freeze());
        Ok(())
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let Some(object) = self.objects.read().get(key).cloned() else {
            return Err(missing(key));
        };
        let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        match bounds {
            Some((start, end)) if start <= end && end <= object.len() => {
                // Not a slice: the caller's bytes must not keep a whole object alive.
                Ok(Bytes::copy_from_slice(&object[start..end]))
            }
            _ => Err(too_short(key, object.len() as u64, &range)),
        }
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        Ok(self.objects.read().get(key).map(|o| o.len() as u64))
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.objects.write().remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let objects = self.objects.read();
        let named = objects.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        Ok(named.map(|(key, o)| ObjectInfo { key: key.clone(), len: o.len() as u64 }).collect())
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn is_remote(&self) -> bool {
        false
    }
}

/// The error of a `get` or a read of an object that is not there.
pub(super) fn missing(key: &Key) -> Error {
    Error::new(Kind::NotFound, format!("object {key} is not there"))
}

/// The error of a `get` past the end of an object.
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
