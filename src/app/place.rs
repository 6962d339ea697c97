//! A storage profile, opened.

use std::sync::Arc;

use crate::{
    backends::{LocalBackend, StorageBackend, Throttled},
    config::Profile,
    error::Result,
};

/// Where an import's objects go, and how.
#[derive(Debug)]
pub(super) struct Place {
    /// What the catalog calls it.
    pub(super) name: String,
    pub(super) backend: Arc<dyn StorageBackend>,
    pub(super) upload_concurrency: usize,
    chunk: u64,
}

impl Place {
    pub(super) fn open(profile: &Profile) -> Result<Self> {
        // Nothing retries under the writer: it tells the user of the first failure and goes on trying by itself.
        let local = LocalBackend::open(profile.local_path()?)?;
        let backend: Arc<dyn StorageBackend> = match profile.upload_limit {
            Some(limit) => Arc::new(Throttled::new(local, limit)),
            None => Arc::new(local),
        };
        Ok(Self {
            name: profile.canonical(),
            backend,
            upload_concurrency: profile.upload_concurrency,
            chunk: profile.chunk,
        })
    }

    /// The chunk length of a new import: the profile's, or less where the memory budget holds fewer than eight of them
    /// (one is filled while others are on their way, and neither may take all).
    pub(super) fn chunk_len(&self, memory: u64) -> u64 {
        let fits = (memory / 8).max(1);
        self.chunk.min(1 << fits.ilog2())
    }
}
