//! Objects made part by part: whole files, composed on the server or uploaded in order.

use std::{fmt, ops::Range};

use async_trait::async_trait;

use super::{Key, Payload};
use crate::{
    error::Result,
    units::{KIB, MIB},
};

/// What a backend can do beyond storing objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Which ranges [`MultipartUpload::copy_part`] accepts.
    pub copy: CopySupport,
    /// Whether the parts of a [`MultipartUpload`] must be sent in order, one at a time. Otherwise they may be sent in
    /// any order, several at once.
    pub ordered_parts: bool,
    /// Whether a put can be made to fail when the key exists. Never relied on: servers differ, and some accept the
    /// condition and ignore it.
    pub conditional_put: bool,
    /// Whether [`StorageBackend::url`](super::StorageBackend::url) returns links.
    pub links: bool,
    /// Smallest useful read in bytes, when the neighbouring bytes may not be needed: see [`Capabilities::WINDOW`].
    pub window: u64,
    /// Whether the body of [`StorageBackend::open`](super::StorageBackend::open) consists of separately allocated
    /// blocks of 16 KiB, so that each can be cached on its own.
    pub body_in_blocks: bool,
}

impl Capabilities {
    /// For storages where requests cost more than traffic, or where a seek takes longer than the read.
    pub const WINDOW: u64 = MIB;
    /// For storages where traffic costs more than requests. Not shorter, because a smaller get takes as long.
    pub const SHORT_WINDOW: u64 = 256 * KIB;
}

/// Which ranges of existing objects a server can copy into a new object, without the bytes passing through this
/// machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopySupport {
    /// No copies.
    No,
    /// Only a whole object, as the only part of the new one.
    Whole,
    /// Also ranges, as parts of at least `min_part` bytes (except the last), from objects larger than `min_part`.
    Ranges { min_part: u64 },
}

// ANCHOR: layout
/// Length of an object that is made part by part, and of each part except the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadLayout {
    pub len: u64,
    pub part_len: u64,
}
// ANCHOR_END: layout

impl UploadLayout {
    /// S3's limit on the parts of one upload.
    pub const MAX_PARTS: u64 = 10_000;

    /// The number of parts. An empty object has one.
    #[must_use]
    pub fn part_count(self) -> u64 {
        self.len.div_ceil(self.part_len).max(1)
    }

    /// The range of the object that is part `index`, counted from 0.
    #[must_use]
    pub fn part_range(self, index: u64) -> Range<u64> {
        let at = |n: u64| n.saturating_mul(self.part_len).min(self.len);
        at(index)..at(index + 1)
    }
}

/// An upload in progress. Nothing exists under its key before [`MultipartUpload::finish`].
///
/// Each part is written once and has exactly the length of its [`UploadLayout::part_range`]; with
/// `Capabilities::ordered_parts` the parts are written in order. Dropping the upload does not abort it: the same
/// `begin_upload` resumes it, also in a later run where the backend can. `SessionExpired` means that the server has
/// forgotten the upload: begin again with the first part.
#[async_trait]
pub trait MultipartUpload: Send + Sync + fmt::Debug {
    /// Parts that an earlier run has stored, in ascending order.
    fn stored_parts(&self) -> &[u64];

    /// Sends one part.
    ///
    /// # Errors
    /// As `put`, and `SessionExpired`.
    async fn put_part(&self, part: u64, payload: Payload) -> Result<()>;

    /// Copies `range` of another object in the same storage as one part, as far as `Capabilities::copy` allows.
    ///
    /// # Errors
    /// `Unsupported` beyond that, and when the server turns out not to copy: send the bytes instead. `NotFound` when
    /// the source does not exist; otherwise as `put_part`.
    async fn copy_part(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()>;

    /// Completes the object after every part was written. `Ok` means durable, of the right length, and readable.
    ///
    /// # Errors
    /// As `put_part`. After a retryable error it can be called again.
    async fn finish(&self) -> Result<()>;

    /// Aborts the upload and frees its parts. Succeeds when the server has forgotten the upload.
    ///
    /// # Errors
    /// When the upload may still exist.
    async fn abort(&self) -> Result<()>;
}

/// An upload that was begun and neither finished nor aborted. It costs space, and no object refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedUpload {
    /// Key of the object that was being uploaded.
    pub key: Key,
    /// The server's id of the upload. May be a secret, so it is never shown.
    pub id: UploadId,
    /// Start time in seconds since 1970, when the server reports it.
    pub started_at: Option<i64>,
}

/// The server's id of an upload. `Debug` hides it, because it may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct UploadId(pub String);

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UploadId(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_an_object_exactly() {
        let layout = UploadLayout { len: 25, part_len: 10 };
        assert_eq!(layout.part_count(), 3);
        assert_eq!([0, 1, 2].map(|n| layout.part_range(n)), [0..10, 10..20, 20..25]);
        let empty = UploadLayout { len: 0, part_len: 10 };
        assert_eq!((empty.part_count(), empty.part_range(0)), (1, 0..0));
    }
}
