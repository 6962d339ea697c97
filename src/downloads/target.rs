//! Where the bytes of a download go.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{error::Result, protocols::Remote};

/// A place for one file's bytes. All calls may run at the same time; positions are the file's.
#[async_trait]
pub trait Target: Send + Sync + fmt::Debug {
    /// Returns when there is room for what is read next.
    ///
    /// # Errors
    /// What became of bytes that were taken before.
    async fn room(&self) -> Result<()>;

    /// Takes `parts`, one after the other from `pos` on. When it returns they are as safe as this process is.
    ///
    /// # Errors
    /// As [`Target::room`].
    async fn write(&self, pos: u64, parts: Vec<Bytes>) -> Result<()>;

    /// Makes what was taken so far survive the process, where that does not happen by itself.
    ///
    /// # Errors
    /// What the place says.
    async fn checkpoint(&self) -> Result<()>;

    /// Forgets all that was taken: the file comes again from its first byte, as `now` says of it.
    ///
    /// # Errors
    /// `Changed` where that cannot be forgotten, and the file may be another; what the place says.
    async fn restart(&self, now: &Remote) -> Result<()>;
}
