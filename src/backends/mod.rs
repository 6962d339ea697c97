//! Storage backends: the trait [`StorageBackend`], its implementations and its wrappers.
//!
//! A backend keeps immutable objects under keys and knows nothing of imports or torrents. A put takes a [`Payload`]
//! (a list of memory buffers, never joined into one); a get returns a byte range. Each concern around a backend is a
//! wrapper of its own: `Retrying<B>` retries, `Hedged<B>` sends a second get when the first is late, `Adaptive<B>`
//! limits concurrent calls, `Throttled<B>` limits the upload rate, `Metered<B>` counts reads, `Faulty<B>` fails on
//! purpose for tests. No backend does any of these itself.
//!
//! A put returns success only when the object is durable. A key is written once: no caller puts other bytes under it.

mod backend_state;
mod body;
#[doc(hidden)]
pub mod conformance;
pub mod drive;
mod endpoint_error;
mod header;
mod idle_timer;
mod key;
pub mod local;
pub mod memory;
mod multipart;
mod payload;
pub mod s3;
pub mod wrappers;

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use url::Url;

use crate::error::Result;

pub use self::wrappers::adaptive::Adaptive;
pub use self::wrappers::faulty::{FaultOp, Faulty};
pub use self::wrappers::hedged::Hedged;
pub use self::wrappers::metered::{Meter, Metered, Reads};
pub use self::wrappers::retry::{Backoff, RetryPolicy, Retrying};
pub use self::wrappers::throttled::Throttled;
pub use backend_state::{BackendState, InMemoryState};
pub use body::Body;
pub use drive::{DriveBackend, DriveSettings};
pub use key::Key;
pub use local::LocalBackend;
pub use memory::MemoryBackend;
pub use multipart::{
    Capabilities, CopySupport, MultipartUpload, UnfinishedUpload, UploadId, UploadLayout,
};
pub use payload::Payload;
pub use s3::{S3Backend, S3Settings, S3Source, SourceObject, SourcePage};

/// One object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub key: Key,
    pub len: u64,
}

/// Identifies one version of an object's bytes. For objects that bae did not write, whose bytes may change under
/// their key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    pub len: u64,
    /// Version tag in the backend's own format (an S3 ETag, a file's modification time). Changes when the bytes
    /// change; `None` when the backend has no tag.
    pub tag: Option<String>,
}

impl ObjectVersion {
    /// Whether both can be of the same version: equal lengths, and equal tags when both have one.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        let tags = self.tag.as_ref().zip(other.tag.as_ref());
        self.len == other.len && tags.is_none_or(|(one, other)| one == other)
    }
}

/// One page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub objects: Vec<ObjectInfo>,
    /// Token for the next page; `None` on the last page.
    pub next: Option<PageToken>,
}

/// Continuation token of a listing, in the backend's own format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken(pub String);

/// Lists every object whose key starts with `prefix`, fetching all pages.
///
/// # Errors
/// The first error that the backend returns.
pub async fn list_all(backend: &dyn StorageBackend, prefix: &str) -> Result<Vec<ObjectInfo>> {
    let mut found = Vec::new();
    let mut page = backend.list(prefix, None).await?;
    loop {
        found.append(&mut page.objects);
        let Some(next) = page.next.take() else { return Ok(found) };
        page = backend.list(prefix, Some(&next)).await?;
    }
}

/// Keeps immutable objects under keys. Every implementation passes the suite in `backends::conformance`.
///
/// All calls may run at the same time, also for the same key. Dropping a future abandons the call; a dropped `put`
/// has stored either the whole object or nothing. Errors name the key and carry a [`Kind`](crate::error::Kind). A
/// kind is retryable if and only if the failure may pass without a change by the user.
#[async_trait]
pub trait StorageBackend: Send + Sync + fmt::Debug {
    // ANCHOR: put
    /// Stores `payload` under `key`. `Ok` means durable: the object survives a crash of this machine.
    ///
    /// Two puts of the same bytes store one object, and both succeed. A put of other bytes under an existing key may
    /// overwrite or fail; no caller does this (a key is written once, and only a crash repeats a put).
    ///
    /// # Errors
    /// `NoSpace`, `PermissionDenied`, or a retryable kind. After an error the key holds either the whole object or
    /// nothing.
    async fn put(&self, key: &Key, payload: Payload) -> Result<()>;
    // ANCHOR_END: put

    /// Returns the bytes of `range`, exactly as many as the range is long.
    ///
    /// # Errors
    /// `NotFound` when the object does not exist; `Corrupt` when it ends before the range does.
    async fn get(&self, key: &Key, range: Range<u64>) -> Result<Bytes>;

    /// Streams the bytes of `range`, which must not be empty, and reads no faster than the caller polls. For ranges
    /// too long to hold in memory at once.
    ///
    /// Only the start of the answer is retried by the wrappers. When the body breaks later, the caller fetches the
    /// rest with `get`.
    ///
    /// # Errors
    /// As `get`, either at once or as an item of the body.
    async fn open(&self, key: &Key, range: Range<u64>) -> Result<Body>;

    /// The length of the object, or `None` when it does not exist.
    ///
    /// # Errors
    /// Only when the storage cannot be reached or refuses to answer.
    async fn head(&self, key: &Key) -> Result<Option<u64>>;

    /// As [`StorageBackend::head`], with a tag that identifies this version of the bytes.
    ///
    /// # Errors
    /// Only when the storage cannot be reached or refuses to answer.
    async fn version(&self, key: &Key) -> Result<Option<ObjectVersion>>;

    /// Removes the object. Succeeds when it does not exist.
    ///
    /// # Errors
    /// When the object may still exist.
    async fn delete(&self, key: &Key) -> Result<()>;

    /// Lists the objects whose key starts with `prefix`, in no particular order, one page at a time: the first page
    /// when `page` is `None`, each further page by the token of the previous one. Unfinished uploads are not listed.
    /// An object that is created or deleted during the listing may be listed or not.
    ///
    /// # Errors
    /// Only when the storage cannot be reached or refuses to answer.
    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page>;

    /// Begins an upload of an object with `layout`, part by part, or resumes the upload that was begun before for this
    /// key with this layout. At most one upload per key at a time.
    ///
    /// # Errors
    /// `Unsupported` when the backend cannot make this layout (for example more than [`UploadLayout::MAX_PARTS`]
    /// parts); otherwise as `put`.
    async fn begin_upload(
        &self,
        key: &Key,
        layout: UploadLayout,
    ) -> Result<Box<dyn MultipartUpload>>;

    /// Lists uploads under `prefix` that were begun and neither finished nor aborted.
    ///
    /// # Errors
    /// Only when the storage cannot be reached or refuses to answer.
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>>;

    /// Aborts an upload and frees its parts. Succeeds when the upload does not exist.
    ///
    /// # Errors
    /// When the upload may still exist.
    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()>;

    /// A link to the object that works without credentials: permanent when the storage is public, otherwise valid for
    /// `expiry`. Does not check that the object exists.
    ///
    /// # Errors
    /// `Unsupported` when the backend has no links.
    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url>;

    /// What the backend can do, as far as is known without a request.
    fn capabilities(&self) -> Capabilities;

    /// Free space in bytes; `None` when the backend does not know it.
    ///
    /// # Errors
    /// Only when the storage cannot be reached or refuses to answer.
    async fn free_space(&self) -> Result<Option<u64>>;

    /// Whether objects leave this machine. Promise 1 (no payload on the local disk for a remote storage) depends on
    /// it.
    fn is_remote(&self) -> bool;

    /// Whether a failed call is waiting for its next retry. Only a retrying wrapper can answer this.
    fn is_retrying(&self) -> bool {
        false
    }
}

/// A shared backend is a backend too, so a wrapper can be put around one that is also used elsewhere.
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

    async fn version(&self, key: &Key) -> Result<Option<ObjectVersion>> {
        (**self).version(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        (**self).delete(key).await
    }

    async fn list(&self, prefix: &str, page: Option<&PageToken>) -> Result<Page> {
        (**self).list(prefix, page).await
    }

    async fn begin_upload(
        &self,
        key: &Key,
        layout: UploadLayout,
    ) -> Result<Box<dyn MultipartUpload>> {
        (**self).begin_upload(key, layout).await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UnfinishedUpload>> {
        (**self).list_uploads(prefix).await
    }

    async fn abort_upload(&self, upload: &UnfinishedUpload) -> Result<()> {
        (**self).abort_upload(upload).await
    }

    async fn url(&self, key: &Key, expiry: Duration) -> Result<Url> {
        (**self).url(key, expiry).await
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    async fn free_space(&self) -> Result<Option<u64>> {
        (**self).free_space().await
    }

    fn is_remote(&self) -> bool {
        (**self).is_remote()
    }

    fn is_retrying(&self) -> bool {
        (**self).is_retrying()
    }
}
