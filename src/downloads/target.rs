//! The destination of a download's bytes.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{error::Result, memory::Budget, protocols::RemoteFile};

/// The destination of one file's bytes. All calls may run concurrently; positions are those of the file.
#[async_trait]
pub trait Target: Send + Sync + fmt::Debug {
    /// The memory budget that bytes on their way to the target count against.
    fn memory(&self) -> &Budget;

    /// Waits until there is capacity for the next bytes.
    ///
    /// # Errors
    /// The error of an earlier write.
    async fn wait_for_capacity(&self) -> Result<()>;

    /// Writes `parts` consecutively from `pos` on. When it returns, the bytes are lost only with the process.
    ///
    /// # Errors
    /// As [`Target::wait_for_capacity`].
    async fn write_at(&self, pos: u64, parts: Vec<Bytes>) -> Result<()>;

    /// Makes the bytes written so far survive the process, unless the target does that by itself.
    ///
    /// # Errors
    /// Errors of the target.
    async fn checkpoint(&self) -> Result<()>;

    /// Discards all bytes written so far. The file is sent again from its first byte, as `version`.
    ///
    /// # Errors
    /// `Changed` when the bytes cannot be discarded and the file may be another one; errors of the target.
    async fn restart(&self, version: &RemoteFile) -> Result<()>;
}
