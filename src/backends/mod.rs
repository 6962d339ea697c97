//! Where objects live: the trait every storage place implements, and the places.
//!
//! A backend keeps immutable objects under keys and knows nothing of imports or torrents. Bytes come in as a
//! [`Payload`] (pieces of memory, never joined into one) and go out as ranges. Retrying, limiting and failing on
//! purpose are wrappers (`Retrying<B>`, `Throttled<B>`, `Faulty<B>`), so that no backend does them itself.
//! What it refuses: overwriting a key with other bytes, and calling a put done before it is durable.

#[doc(hidden)]
pub mod conformance;
pub mod faulty;
pub mod local;
pub mod memory;
pub mod retry;
mod rng;
pub mod throttled;

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{Error, Kind, Result};

pub use faulty::Faulty;
pub use local::LocalBackend;
pub use memory::MemoryBackend;
pub use retry::{Backoff, RetryPolicy, Retrying};
pub use throttled::Throttled;

/// The name of an object inside its backend: `/`-separated, relative, each part of `[A-Za-z0-9._-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// # Errors
    /// `InvalidInput` when a part is empty, begins with a dot, or has a character outside the set.
    pub fn new(text: &str) -> Result<Self> {
        let part_ok = |p: &str| {
            !p.is_empty()
                && !p.starts_with('.')
                && p.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if text.len() <= 512 && text.split('/').all(part_ok) {
            Ok(Self(text.into()))
        } else {
            Err(Error::new(Kind::InvalidInput, format!("{text:?} is not an object key")))
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The bytes of one object, as the pieces of memory they arrived in. Cloning copies no bytes.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    parts: Vec<Bytes>,
    len: u64,
}

impl Payload {
    pub fn push(&mut self, part: Bytes) {
        self.len += part.len() as u64;
        self.parts.push(part);
    }

    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes as one run; copied only when they are in several parts.
    #[must_use]
    pub fn joined(&self) -> Bytes {
        match &self.parts[..] {
            [one] => one.clone(),
            parts => parts.concat().into(),
        }
    }

    #[must_use]
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }
}

impl FromIterator<Bytes> for Payload {
    fn from_iter<I: IntoIterator<Item = Bytes>>(parts: I) -> Self {
        let mut payload = Self::default();
        parts.into_iter().for_each(|p| payload.push(p));
        payload
    }
}

/// What a listing says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub key: Key,
    pub len: u64,
}

/// A place that keeps immutable objects. Every implementation passes the one suite in `backends::conformance`.
///
/// All calls may run at the same time, for the same key too. Dropping a future abandons the call: a `put` then has
/// stored the whole object or nothing under its key. Errors carry the key and a [`Kind`]; what may pass by itself
/// has a retryable kind, and nothing else has.
#[async_trait]
pub trait StorageBackend: Send + Sync + fmt::Debug {
    /// Stores `payload` under `key`. `Ok` means durable: it survives a crash of this machine.
    ///
    /// The same bytes put twice are stored once and both calls succeed; a put over other bytes may do either, since
    /// no caller does it (a key is written once, and only a crash repeats a put).
    ///
    /// # Errors
    /// `NoSpace`, `PermissionDenied`, or a retryable kind. After an error the key may or may not hold the object,
    /// whole.
    async fn put(&self, key: &Key, payload: Payload) -> Result<()>;

    /// The bytes of `range`, exactly as many as asked for.
    ///
    /// # Errors
    /// `NotFound` when there is no such object; `Corrupt` when it ends before the range does.
    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes>;

    /// The length of the object, or `None` when there is none.
    ///
    /// # Errors
    /// Only when the place cannot be asked.
    async fn head(&self, key: &Key) -> Result<Option<u64>>;

    /// Removes the object; no error when there is none.
    ///
    /// # Errors
    /// When it is still there.
    async fn delete(&self, key: &Key) -> Result<()>;

    /// Every object whose key begins with `prefix`, in no order. Objects half written are not listed.
    ///
    /// # Errors
    /// Only when the place cannot be asked.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>>;

    /// The bytes that still fit, where the place can tell.
    ///
    /// # Errors
    /// Only when the place cannot be asked; a place that does not know answers `None`.
    async fn free_room(&self) -> Result<Option<u64>>;

    /// Whether bytes leave this machine on the way there (promise 1 hangs on it).
    fn is_remote(&self) -> bool;
}

/// A shared backend is a backend, so that wrappers can go around one that others hold too.
#[async_trait]
impl<B: StorageBackend + ?Sized> StorageBackend for Arc<B> {
    async fn put(&self, key: &Key, payload: Payload) -> Result<()> {
        (**self).put(key, payload).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        (**self).get(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        (**self).head(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        (**self).delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        (**self).list(prefix).await
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        (**self).free_room().await
    }

    fn is_remote(&self) -> bool {
        (**self).is_remote()
    }
}
