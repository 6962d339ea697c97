//! Tests whether a server really supports `REST`.
//!
//! Some servers accept `REST` and send the file from its start; others have offsets of only 32 bits. Bytes would then
//! land at wrong positions. Therefore, before the first range that does not start at 0, the last byte of the file is
//! requested: exactly one byte must arrive.

use super::session::{CommandOutcome, Session};
use crate::error::{Error, Result};

/// The highest offset at which `REST` is known to work.
#[derive(Debug, Default)]
pub(super) struct VerifiedOffsets {
    max_verified: Option<u64>,
}

impl VerifiedOffsets {
    fn covers(&self, start: u64) -> bool {
        self.max_verified.is_some_and(|verified| start <= max_covered(verified))
    }
}

/// The highest offset that `verified` covers: all offsets with as many bits (31, 32 or 64) count as verified.
fn max_covered(verified: u64) -> u64 {
    const LIMITS: [u64; 2] = [(1 << 31) - 1, (1 << 32) - 1];
    LIMITS.into_iter().find(|limit| verified <= *limit).unwrap_or(u64::MAX)
}

impl Session {
    /// Whether a transfer of the file at `path`, which is `len` bytes long, can start at `start`.
    ///
    /// # Errors
    /// If the file is refused, or if the connection breaks.
    pub(super) async fn can_start_at(&mut self, path: &[u8], len: u64, start: u64) -> Result<bool> {
        let facts = std::sync::Arc::clone(&self.facts);
        if *facts.supports_rest.lock() == Some(false) {
            return Ok(false);
        }
        // Concurrent callers wait here: one test is enough for all.
        let mut verified = facts.verified_offsets.lock().await;
        if verified.covers(start) {
            return Ok(true);
        }
        // ANCHOR: rest_check
        let works = match self.start_transfer("RETR", path, len - 1).await? {
            CommandOutcome::Accepted(transfer) => self.count_bytes(transfer, 2).await? == 1,
            CommandOutcome::Refused(refusal) if refusal.is_reply_to("REST") => false,
            CommandOutcome::Refused(refusal) => return Err(Error::from(refusal)),
        };
        // ANCHOR_END: rest_check
        match works {
            true => verified.max_verified = verified.max_verified.max(Some(len - 1)),
            false => *facts.supports_rest.lock() = Some(false),
        }
        Ok(works)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_verifies_all_offsets_of_as_many_bits() {
        let covers =
            |verified, start| VerifiedOffsets { max_verified: Some(verified) }.covers(start);
        assert!(!VerifiedOffsets::default().covers(1));
        assert!(covers(1000, 1 << 30));
        assert!(!covers(1000, 1 << 31));
        assert!(covers(1 << 31, u64::from(u32::MAX)));
        assert!(!covers(u64::from(u32::MAX), 1 << 32));
        assert!(covers(1 << 32, 1 << 40));
    }
}
