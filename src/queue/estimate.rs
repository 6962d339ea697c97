//! The estimate of a download that is not in the queue: what its import would take.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    Queue,
    add::{self, NewDownload},
    download::{Download, DownloadId, InfoHashes, Progress},
    state::{Seeding, State},
};
use crate::{
    engine::Estimate,
    error::{Error, Kind, Result},
};

/// Time for peers to send the metadata of a magnet link, and for a server to answer. A client waits for the answer.
const TIMEOUT: Duration = Duration::from_secs(30);

impl Queue {
    /// Estimates the import of a download, and tells whether it is in the queue already. Adds nothing, and fetches no
    /// payload.
    ///
    /// # Errors
    /// As [`Queue::add`] and [`Engine::estimate`](crate::engine::Engine::estimate).
    pub async fn estimate(
        &self,
        new: NewDownload,
        cancel: CancellationToken,
    ) -> Result<(Estimate, bool)> {
        add::check(&new)?;
        let work = move || {
            let identified = add::identify(&new);
            (new, identified)
        };
        let (new, identified) = tokio::task::spawn_blocking(work)
            .await
            .map_err(|e| Error::new(Kind::Internal, "reading a torrent panicked").because(e))?;
        let (kind, identity) = identified?;
        let category = self.category_of(&new)?;
        let storage = self.storage_for(&new, category.as_ref())?;
        let is_queued = self.known(&new, &identity, &storage)?.is_some();
        let mut settings = new.settings;
        settings.storage = storage;
        settings.layout = new.layout.unwrap_or_else(|| self.layout_for(category.as_ref()));
        let torrent_file = identity.torrent_file.as_ref().map(|bytes| bytes.to_vec());
        let download = Download {
            id: DownloadId::random()?,
            number: 0,
            name: identity.name,
            kind,
            source: identity.source,
            hashes: InfoHashes { v1: identity.info_hash_v1, v2: identity.info_hash_v2 },
            host: identity.host,
            settings,
            position: 0,
            state: State::Queued,
            seeding: Seeding::Off,
            import: None,
            exported: None,
            progress: Progress::default(),
            tries: 0,
            added_at: self.now(),
            started_at: None,
            finished_at: None,
            last_activity: None,
            removing: None,
            revision: 0,
        };
        let mut request = self.import_request(&download, torrent_file)?;
        let configured = request.timeout.unwrap_or(TIMEOUT);
        (request.timeout, request.seed, request.streams) =
            (Some(configured.min(TIMEOUT)), false, None);
        let estimate = self.engine().estimate(&request, cancel).await?;
        Ok((estimate, is_queued))
    }
}
