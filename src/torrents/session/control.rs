//! Settings that change while the session runs: rate limits of all torrents together and of one, and the order of its
//! pieces.

use std::{fmt, sync::Arc};

use super::{TorrentSession, native::NativeTorrent, settings};
use crate::{error::Result, torrents::picker::download_limit::DownloadLimit};

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
        self.native.call(|session| session.apply(&settings::upload_limit(rate)))
    }
}

/// Changes settings of a torrent from elsewhere while its owner runs it.
#[derive(Clone)]
pub struct TorrentControl {
    native: Arc<NativeTorrent>,
    download_limit: Arc<DownloadLimit>,
}

impl fmt::Debug for TorrentControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TorrentControl").finish_non_exhaustive()
    }
}

impl TorrentControl {
    pub(super) fn new(native: &Arc<NativeTorrent>, download_limit: &Arc<DownloadLimit>) -> Self {
        Self { native: Arc::clone(native), download_limit: Arc::clone(download_limit) }
    }

    /// Sets the limits of this torrent in bytes per second, besides those of the session. The download limit includes
    /// web seeds. `None` is no limit.
    ///
    /// # Errors
    /// `Cancelled` when the session has ended; `NotFound` when the torrent has left it.
    pub fn set_limits(&self, download: Option<u64>, upload: Option<u64>) -> Result<()> {
        self.download_limit.set(download);
        self.native.call(|torrent| {
            torrent.set_download_limit(settings::rate(download))?;
            torrent.set_upload_limit(settings::rate(upload))
        })
    }

    /// Requests the pieces in order from now on, or again by rarity.
    ///
    /// # Errors
    /// As [`TorrentControl::set_limits`].
    pub fn set_sequential(&self, sequential: bool) -> Result<()> {
        self.native.call(|torrent| torrent.set_sequential(sequential))
    }
}
