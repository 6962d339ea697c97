//! Objects made part by part: whole files, composed on the server or sent in order.

use std::{fmt, ops::Range};

use async_trait::async_trait;

use super::{Key, Payload};
use crate::{
    error::Result,
    units::{KIB, MIB},
};

/// What a place can do beyond keeping objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// What [`Upload::copy`] takes.
    pub copy: Copying,
    /// Parts of an [`Upload`] must come one after the other; else in any order, several at once.
    pub ordered: bool,
    /// A put can be refused where an object is. Never relied on: places differ in it and some lie.
    pub conditional_put: bool,
    /// [`StorageBackend::url`](super::StorageBackend::url) gives links.
    pub links: bool,
    /// The least worth getting at once where what lies beside it may be wanted by nobody: see [`Capabilities::WINDOW`].
    pub window: u64,
    /// The body of [`StorageBackend::open`](super::StorageBackend::open) comes in blocks of 16 KiB that hold nothing else:
    /// they may be kept one by one.
    pub blocks: bool,
}

impl Capabilities {
    /// Where gets are dear, or cost nothing like the bytes they bring.
    pub const WINDOW: u64 = MIB;
    /// Where bytes are dear. No shorter: a get of less takes as long.
    pub const SHORT_WINDOW: u64 = 256 * KIB;
}

/// Which bytes of other objects a place takes over without sending them through here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copying {
    /// None.
    No,
    /// A whole object as the only part.
    Whole,
    /// Also ranges, as parts of at least `min_part` bytes (all but the last), from objects larger than that.
    Ranges { min_part: u64 },
}

/// The length of an object made part by part, and of its parts but the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub len: u64,
    pub part_len: u64,
}

impl Shape {
    /// S3 takes so many parts at most.
    pub const MAX_PARTS: u64 = 10_000;

    /// How many parts there are; an empty object has one.
    #[must_use]
    pub fn parts(self) -> u64 {
        self.len.div_ceil(self.part_len).max(1)
    }

    /// Which bytes of the object are part `index`, from 0.
    #[must_use]
    pub fn part(self, index: u64) -> Range<u64> {
        let at = |n: u64| n.saturating_mul(self.part_len).min(self.len);
        at(index)..at(index + 1)
    }
}

/// An object being made part by part; nothing is under its key before [`Upload::finish`].
///
/// Each part is given once, with exactly its [`Shape::part`] bytes; where `Capabilities::ordered`, one after the other.
/// Dropping it leaves the upload where it is: the same `begin` goes on from there, also in a later run where the
/// place can. `SessionExpired` means that the place has forgotten it: begin again, from the first part.
#[async_trait]
pub trait Upload: Send + Sync + fmt::Debug {
    /// The parts that are there already, from an earlier run; ascending.
    fn done(&self) -> &[u64];

    /// Sends a part.
    ///
    /// # Errors
    /// As `put`, and `SessionExpired`.
    async fn write(&self, part: u64, payload: Payload) -> Result<()>;

    /// Takes a part from `range` of another object in the same place, as far as `Capabilities::copy` goes.
    ///
    /// # Errors
    /// `Unsupported` beyond that, and where the server turns out not to copy: send the bytes instead. `NotFound`
    /// when there is no such object; else as `write`.
    async fn copy(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()>;

    /// Makes the object, of which every part is there. `Ok` means durable, of the right length, and readable.
    ///
    /// # Errors
    /// As `write`. After an error that may pass it can be called again.
    async fn finish(&self) -> Result<()>;

    /// Gives up and frees what was sent. No error when the place has forgotten it.
    ///
    /// # Errors
    /// When it may still be there.
    async fn abort(&self) -> Result<()>;
}

/// An upload that was begun, and neither finished nor aborted: space that is paid for and names nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// What it would have become.
    pub key: Key,
    /// The place's own name for it. May be a secret: never shown.
    pub id: UploadId,
    /// Seconds since 1970, where the place tells.
    pub begun: Option<i64>,
}

/// A place's own name for an upload.
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
        let shape = Shape { len: 25, part_len: 10 };
        assert_eq!(shape.parts(), 3);
        assert_eq!([0, 1, 2].map(|n| shape.part(n)), [0..10, 10..20, 20..25]);
        let empty = Shape { len: 0, part_len: 10 };
        assert_eq!((empty.parts(), empty.part(0)), (1, 0..0));
    }
}
