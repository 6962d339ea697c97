//! Writes a downloaded file to the storage of an import, without touching a local disk.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use bytes::{Buf, Bytes};

use super::target::Target;
use crate::{
    error::{Error, Kind, Result},
    hints::{Operation, hint},
    memory::{BLOCK_LEN, BlockPool, Budget, Mark},
    protocols::RemoteFile,
    storage::{ImportWriter, Pressure},
};

/// The range of one file in an import, as a target.
#[derive(Debug)]
pub struct ImportTarget {
    writer: Arc<ImportWriter>,
    pressure: Arc<Pressure>,
    /// Position of the file in the import.
    base: u64,
    /// The version of the file that is stored.
    version: RemoteFile,
    /// Whether this run has written bytes of the file.
    has_written: AtomicBool,
}

impl ImportTarget {
    /// A second pass must be proven to return the same version.
    #[must_use]
    pub fn new(
        writer: Arc<ImportWriter>,
        pressure: Arc<Pressure>,
        base: u64,
        version: RemoteFile,
    ) -> Self {
        Self { writer, pressure, base, version, has_written: AtomicBool::new(false) }
    }

    fn pool(&self) -> &BlockPool {
        self.pressure.pool()
    }

    /// Whether an earlier run stored bytes of the file.
    fn has_stored(&self) -> bool {
        let end = self.version.len.map_or(u64::MAX, |len| self.base.saturating_add(len));
        self.writer.store().durable_ranges().overlaps(&(self.base..end))
    }
}

/// Whether the file may be sent from its start as `now`, to be stored as `version`: whether this run `has_written`
/// bytes of it, and whether an earlier run `has_stored` some.
fn may_restart(
    version: &RemoteFile,
    now: &RemoteFile,
    has_written: bool,
    has_stored: impl Fn() -> bool,
) -> bool {
    // The import has space for exactly this many bytes.
    let fits = now.len == version.len;
    // The stored bytes were accepted as those of `version`, even where nothing proves it.
    version.is_same_version(now) || !has_written && fits && (version == now || !has_stored())
}

#[async_trait]
impl Target for ImportTarget {
    fn memory(&self) -> &Budget {
        self.pool().memory()
    }

    /// Waits while received bytes fill [`Mark::Full`]. From [`Mark::Pack`] on the writer uploads what it has, so that an
    /// upload is always in flight that will free memory.
    async fn wait_for_capacity(&self) -> Result<()> {
        self.pool().wait_below(Mark::Full).await;
        Ok(())
    }

    async fn write_at(&self, pos: u64, parts: Vec<Bytes>) -> Result<()> {
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let end = self.base.saturating_add(pos).saturating_add(len);
        if end > self.writer.store().layout().len() {
            let text = format!(
                "import {}: received more bytes than the import has",
                self.writer.store().id()
            );
            return Err(Error::new(Kind::Unsupported, text));
        }
        self.wait_for_capacity().await?;
        self.has_written.store(true, Ordering::Relaxed);
        self.writer.write_at(self.base + pos, into_blocks(self.pool(), parts));
        Ok(())
    }

    /// Nothing to do: the writer commits by itself.
    async fn checkpoint(&self) -> Result<()> {
        Ok(())
    }

    /// When the file is sent again, the writer skips bytes that are stored already.
    async fn restart(&self, version: &RemoteFile) -> Result<()> {
        let has_written = self.has_written.load(Ordering::Relaxed);
        if may_restart(&self.version, version, has_written, || self.has_stored()) {
            return Ok(());
        }
        let text = "the file must be sent again from its start, and the server does not prove that it is unchanged";
        Err(Error::new(Kind::Changed, text).hint(hint![
            "run ",
            Operation::Same,
            " again to start over"
        ]))
    }
}

/// Copies the bytes into blocks of the pool, so that they count against the memory budget.
fn into_blocks(pool: &BlockPool, parts: Vec<Bytes>) -> Vec<Bytes> {
    let len: usize = parts.iter().map(Bytes::len).sum();
    let mut blocks = Vec::with_capacity(len.div_ceil(BLOCK_LEN));
    let mut parts = parts.into_iter();
    let mut part = parts.next().unwrap_or_default();
    let mut buffer = Vec::with_capacity(BLOCK_LEN.min(len));
    loop {
        while part.is_empty() {
            match parts.next() {
                Some(next) => part = next,
                None if buffer.is_empty() => return blocks,
                None => {
                    blocks.push(pool.copy(&buffer));
                    return blocks;
                }
            }
        }
        if buffer.is_empty() && part.len() >= BLOCK_LEN {
            blocks.push(pool.copy(&part.split_to(BLOCK_LEN)));
            continue;
        }
        let take = part.len().min(BLOCK_LEN - buffer.len());
        buffer.extend_from_slice(&part[..take]);
        part.advance(take);
        if buffer.len() == BLOCK_LEN {
            blocks.push(pool.copy(&buffer));
            buffer.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocols::Validator;

    #[test]
    fn a_resumed_import_accepts_no_other_version_of_the_same_length() {
        let remote = |len, tag: &str| RemoteFile {
            len: Some(len),
            validator: (!tag.is_empty()).then(|| Validator::ETag(tag.to_owned())),
            ..RemoteFile::from_url("http://x/f".parse().unwrap())
        };
        let (a, b, none) = (remote(9, "\"a\""), remote(9, "\"b\""), remote(9, ""));
        for (version, now, has_written, has_stored, expected) in [
            (&a, &a, true, true, true),
            (&a, &b, false, false, true),
            (&a, &b, false, true, false),
            (&a, &b, true, false, false),
            (&a, &none, false, true, false),
            (&none, &none, false, true, true),
            (&none, &none, true, false, false),
            (&a, &remote(8, "\"b\""), false, false, false),
        ] {
            let what = format!("{version:?} {now:?} {has_written} {has_stored}");
            let may = may_restart(version, now, has_written, || has_stored);
            assert_eq!(may, expected, "{what}");
        }
    }

    proptest! {
        #[test]
        fn blocks_hold_the_same_bytes_in_no_more_memory_than_needed(
            lens in prop::collection::vec(0usize..40_000, 0..8),
        ) {
            let pool = BlockPool::new(1 << 20);
            let mut byte = 0u8;
            let mut part = |len: &usize| {
                byte = byte.wrapping_add(7);
                Bytes::from(vec![byte; *len])
            };
            let parts: Vec<_> = lens.iter().map(&mut part).collect();
            let whole = parts.concat();
            let blocks = into_blocks(&pool, parts);
            prop_assert_eq!(blocks.concat(), &whole[..]);
            prop_assert_eq!(pool.held(), whole.len().div_ceil(BLOCK_LEN) * BLOCK_LEN);
        }
    }
}
