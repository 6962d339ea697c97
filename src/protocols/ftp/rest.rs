//! Tests whether a server really supports `REST`.
//!
//! Some servers accept `REST` and send the file from its start; others have offsets of only 32 bits. Bytes would then
//! land at wrong positions. Therefore, before the first range that does not start at 0, the last byte of the file is
//! requested: exactly one byte must arrive.

use super::session::{Answer, Session};
use crate::error::{Error, Result};

/// The highest offset at which `REST` is known to work.
#[derive(Debug, Default)]
pub(super) struct Proof {
    up_to: Option<u64>,
}

impl Proof {
    fn covers(&self, start: u64) -> bool {
        self.up_to.is_some_and(|proven| start <= reach(proven))
    }
}

/// The highest offset that `proven` covers: all offsets with as many bits (31, 32 or 64) count as proven.
fn reach(proven: u64) -> u64 {
    const LIMITS: [u64; 2] = [(1 << 31) - 1, (1 << 32) - 1];
    LIMITS.into_iter().find(|limit| proven <= *limit).unwrap_or(u64::MAX)
}

impl Session {
    /// Whether a transfer of the file at `path`, which is `len` bytes long, can start at `start`.
    ///
    /// # Errors
    /// If the file is refused, or if the connection breaks.
    pub(super) async fn rest_is_done(&mut self, path: &[u8], len: u64, start: u64) -> Result<bool> {
        let known = std::sync::Arc::clone(&self.known);
        if *known.rest.lock() == Some(false) {
            return Ok(false);
        }
        // Concurrent callers wait here: one test is enough for all.
        let mut proof = known.proof.lock().await;
        if proof.covers(start) {
            return Ok(true);
        }
        let is_done = match self.begin("RETR", path, len - 1).await? {
            Answer::Is(transfer) => self.bytes_up_to(transfer, 2).await? == 1,
            Answer::Refused(refusal) if refusal.is_of("REST") => false,
            Answer::Refused(refusal) => return Err(Error::from(refusal)),
        };
        match is_done {
            true => proof.up_to = proof.up_to.max(Some(len - 1)),
            false => *known.rest.lock() = Some(false),
        }
        Ok(is_done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_reaches_as_far_as_its_number_of_bits() {
        let covers = |proven, start| Proof { up_to: Some(proven) }.covers(start);
        assert!(!Proof::default().covers(1));
        assert!(covers(1000, 1 << 30));
        assert!(!covers(1000, 1 << 31));
        assert!(covers(1 << 31, u64::from(u32::MAX)));
        assert!(!covers(u64::from(u32::MAX), 1 << 32));
        assert!(covers(1 << 32, 1 << 40));
    }
}
