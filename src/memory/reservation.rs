//! A part of the budget that is taken: given back when it is dropped.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{ledger::Ledger, shares::Share};

/// Bytes that are counted in a share until this is dropped.
pub struct Reservation {
    ledger: Arc<Ledger>,
    share: Share,
    len: usize,
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("share", &self.share)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Reservation {
    /// `len` bytes of `share` must have been counted already.
    pub(super) fn of_counted(ledger: &Arc<Ledger>, share: Share, len: usize) -> Self {
        Self { ledger: Arc::clone(ledger), share, len }
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Gives back all but `len` bytes.
    pub fn shrink_to(&mut self, len: usize) {
        let freed = self.len.saturating_sub(len);
        self.len -= freed;
        self.ledger.release(self.share, freed);
    }

    /// Counts `len` more bytes, which have arrived already.
    pub fn grow(&mut self, len: usize) {
        self.ledger.add(self.share, len);
        self.len += len;
    }

    /// As [`Reservation::grow`], if the bytes fit into the whole budget. Evicts no windows.
    #[must_use]
    pub fn try_grow(&mut self, len: usize) -> bool {
        let fits = self.ledger.try_add(self.share, len);
        self.len += if fits { len } else { 0 };
        fits
    }

    /// Takes up to `len` bytes out of the reservation. They stay counted; the caller gives them back.
    pub(super) fn take(&mut self, len: usize) -> usize {
        let taken = self.len.min(len);
        self.len -= taken;
        taken
    }

    pub(super) fn share(&self) -> Share {
        self.share
    }

    /// The same bytes, counted until their last clone is dropped.
    #[must_use]
    pub fn attach_to(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(CountedBytes { bytes, _reservation: self })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.release(self.share, self.len);
    }
}

struct CountedBytes {
    bytes: Bytes,
    _reservation: Reservation,
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
