//! Where objects live: the trait every storage place implements, and the places.
//!
//! A backend keeps immutable objects under keys and knows nothing of imports or torrents. Bytes come in as a
//! [`Payload`] (pieces of memory, never joined into one) and go out as ranges. Retrying, limiting and failing on
//! purpose are wrappers (`Retrying<B>`, `Hedged<B>`, `Adaptive<B>`, `Throttled<B>`, `Metered<B>`, `Faulty<B>`), so that no backend does them itself.
//! What it refuses: overwriting a key with other bytes, and calling a put done before it is durable.

pub mod adaptive;
mod body;
#[doc(hidden)]
pub mod conformance;
pub mod drive;
pub mod faulty;
mod header;
pub mod hedged;
mod key;
pub mod local;
pub mod memory;
pub mod metered;
mod notes;
mod payload;
mod progress;
pub mod retry;
mod rng;
pub mod s3;
pub mod throttled;
mod unfit;
mod whole;

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use url::Url;

use crate::error::Result;

pub use adaptive::Adaptive;
pub use body::Body;
pub use drive::{DriveBackend, DriveSettings};
pub use faulty::{Faulty, Op};
pub use hedged::Hedged;
pub use key::Key;
pub use local::LocalBackend;
pub use memory::MemoryBackend;
pub use metered::{Meter, Metered, Reads};
pub use notes::{MemoryNotes, Notes};
pub use payload::Payload;
pub use retry::{Backoff, RetryPolicy, Retrying};
pub use s3::{S3Backend, S3Settings, S3Source, SourceObject, SourcePage};
pub use throttled::Throttled;
pub use whole::{Capabilities, Copying, Shape, Unfinished, Upload, UploadId};

/// What a listing says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub key: Key,
    pub len: u64,
}

/// What tells an object's bytes from others that may come under the same key: of objects that are not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    pub len: u64,
    /// Changes with the bytes, in the place's own words (an S3 ETag, the time of a file's last change); `None` where the
    /// place has no word for it.
    pub tag: Option<String>,
}

impl Stamp {
    /// Whether an object of this stamp is that of `other`, as far as both tell.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let tags = self.tag.as_ref().zip(other.tag.as_ref());
        self.len == other.len && tags.is_none_or(|(one, other)| one == other)
    }
}

/// Some of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub objects: Vec<ObjectInfo>,
    /// Gives the objects that follow, when there are more.
    pub next: Option<PageToken>,
}

/// Where a listing goes on; the place's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken(pub String);

/// Everything that begins with `prefix`, page by page.
///
/// # Errors
/// The first that the place gives.
pub async fn list_all(place: &dyn StorageBackend, prefix: &str) -> Result<Vec<ObjectInfo>> {
    let mut found = Vec::new();
    let mut page = place.list(prefix, None).await?;
    loop {
        found.append(&mut page.objects);
        let Some(next) = page.next.take() else { return Ok(found) };
        page = place.list(prefix, Some(&next)).await?;
    }
}

/// A place that keeps immutable objects. Every implementation passes the one suite in `backends::conformance`.
///
/// All calls may run at the same time, for the same key too. Dropping a future abandons the call: a `put` then has
/// stored the whole object or nothing under its key. Errors carry the key and a [`Kind`](crate::error::Kind); what may
/// pass by itself has a retryable kind, and nothing else has.
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

    /// The bytes of `range`, which is not empty, as they come and no faster than they are asked for: for ranges longer
    /// than what may be held at once.
    ///
    /// Only the beginning is as sure as a `get`: no wrapper goes on where it breaks, or asks a second time. Whoever
    /// reads it does that, by `get`.
    ///
    /// # Errors
    /// As `get`, at once or in the place of bytes.
    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body>;

    /// The length of the object, or `None` when there is none.
    ///
    /// # Errors
    /// Only when the place cannot be asked.
    async fn head(&self, key: &Key) -> Result<Option<u64>>;

    /// As [`StorageBackend::head`], with what tells the object's bytes from others under its key.
    ///
    /// # Errors
    /// Only when the place cannot be asked.
    async fn stamp(&self, key: &Key) -> Result<Option<Stamp>>;

    /// Removes the object; no error when there is none.
    ///
    /// # Errors
    /// When it is still there.
    async fn delete(&self, key: &Key) -> Result<()>;

    /// The objects whose key begins with `prefix`, in no order, a page at a time: the first one without `page`, each
    /// further one by the token of the one before. Objects half made are not listed. What comes or goes meanwhile may
    /// be listed or not.
    ///
    /// # Errors
    /// Only when the place cannot be asked.
    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page>;

    /// Begins an object of `shape` that is made part by part, or goes on with the one that was begun before for this
    /// key with this shape. One at a time for a key.
    ///
    /// # Errors
    /// `Unsupported` when the shape is beyond the place (more than [`Shape::MAX_PARTS`]); else as `put`.
    async fn begin(&self, key: &Key, shape: Shape) -> Result<Box<dyn Upload>>;

    /// Uploads whose key begins with `prefix` that were begun and neither finished nor aborted.
    ///
    /// # Errors
    /// Only when the place cannot be asked.
    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>>;

    /// Gives up an upload and frees what was sent; no error when there is none.
    ///
    /// # Errors
    /// When it may still be there.
    async fn abort(&self, upload: &Unfinished) -> Result<()>;

    /// A link to the object for anyone who has it: public where the place is, else good for `expiry`. Whether the
    /// object is there is not looked at.
    ///
    /// # Errors
    /// `Unsupported` where the place has no links.
    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url>;

    /// What the place can do, as far as is known without asking it.
    fn capabilities(&self) -> Capabilities;

    /// The bytes that still fit, where the place can tell.
    ///
    /// # Errors
    /// Only when the place cannot be asked; a place that does not know answers `None`.
    async fn free_room(&self) -> Result<Option<u64>>;

    /// Whether bytes leave this machine on the way there (promise 1 hangs on it).
    fn is_remote(&self) -> bool;

    /// Whether a call that was refused or got no answer waits now to be tried again. Only a wrapper that tries again
    /// knows that.
    fn refuses(&self) -> bool {
        false
    }
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

    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body> {
        (**self).open(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<u64>> {
        (**self).head(key).await
    }

    async fn stamp(&self, key: &Key) -> Result<Option<Stamp>> {
        (**self).stamp(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        (**self).delete(key).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        (**self).list(prefix, page).await
    }

    async fn begin(&self, key: &Key, shape: Shape) -> Result<Box<dyn Upload>> {
        (**self).begin(key, shape).await
    }

    async fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        (**self).unfinished(prefix).await
    }

    async fn abort(&self, upload: &Unfinished) -> Result<()> {
        (**self).abort(upload).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
        (**self).url(key, expiry).await
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    async fn free_room(&self) -> Result<Option<u64>> {
        (**self).free_room().await
    }

    fn is_remote(&self) -> bool {
        (**self).is_remote()
    }

    fn refuses(&self) -> bool {
        (**self).refuses()
    }
}
