//! Settings that change while the session runs: rate limits of all torrents together and of one, and the order of its
//! pieces.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use super::{TorrentSession, settings};
use crate::{
    error::{Error, Kind, Result},
    torrents::disk::ffi::SessionBox,
};

/// The limits of all torrents together, in bytes per second.
#[derive(Debug, Clone, Copy)]
pub(super) struct RateLimits {
    pub(super) download: Option<u64>,
    pub(super) upload: Option<u64>,
    /// The upload rate that the monthly budget leaves.
    pub(super) budget: Option<u64>,
}

impl TorrentSession {
    /// Changes the limits of all torrents together, in bytes per second, from now on. `None` is no limit.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub fn set_limits(&self, download: Option<u64>, upload: Option<u64>) -> Result<()> {
        {
            let mut limits = self.limits.lock();
            (limits.download, limits.upload) = (download, upload);
        }
        // The governor applies the download limit at its next sample, because it knows the limit of the memory.
        self.apply_upload_limit()
    }

    /// Limits uploads to peers to the budget of the month, besides the limit of the user. `None` removes this limit.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended.
    pub fn set_budget_limit(&self, rate: Option<u64>) -> Result<()> {
        self.limits.lock().budget = rate;
        self.apply_upload_limit()
    }

    fn apply_upload_limit(&self) -> Result<()> {
        let RateLimits { upload, budget, .. } = *self.limits.lock();
        let rate = upload.into_iter().chain(budget).min();
        self.call(|s| s.get_mut().apply(&settings::upload_limit(rate)))
    }
}

/// Changes settings of a torrent from elsewhere while its owner runs it.
#[derive(Clone)]
pub struct TorrentControl {
    session: Weak<TorrentSession>,
    number: u64,
}

impl fmt::Debug for TorrentControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TorrentControl").field("number", &self.number).finish_non_exhaustive()
    }
}

impl TorrentControl {
    pub(super) fn new(session: &Arc<TorrentSession>, number: u64) -> Self {
        Self { session: Arc::downgrade(session), number }
    }

    /// Sets the limits of this torrent's peers in bytes per second, besides those of the session. `None` is no limit.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended; `InvalidInput` when the torrent has left it.
    pub fn set_limits(&self, download: Option<u64>, upload: Option<u64>) -> Result<()> {
        let (download, upload) = (settings::torrent_rate(download), settings::torrent_rate(upload));
        self.call(|s| s.get().set_limits(self.number, download, upload))
    }

    /// Requests the pieces in order from now on, or again by rarity.
    ///
    /// # Errors
    /// As [`TorrentControl::set_limits`].
    pub fn set_sequential(&self, sequential: bool) -> Result<()> {
        self.call(|s| s.get().set_sequential(self.number, sequential))
    }

    fn call(&self, f: impl FnOnce(&mut SessionBox) -> Result<(), cxx::Exception>) -> Result<()> {
        match self.session.upgrade() {
            Some(session) => session.call(f),
            None => Err(Error::new(Kind::Cancelled, "the torrent session has ended")),
        }
    }
}
