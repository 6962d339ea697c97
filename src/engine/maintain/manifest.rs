//! Writing the manifest of an import to its storage.

use std::time::Duration;

use crate::{
    catalog::{Catalog, ImportRow},
    engine::{Engine, storages::open_storage::OpenStorage},
    error::{Error, Kind},
    storage::recover::manifest::write_manifest,
};

/// Timeout for writing the manifest at a stop. The manifest is one small object, and the import is complete without it.
pub(in crate::engine) const STOP_TIMEOUT: Duration = Duration::from_secs(2);

impl Engine {
    /// Writes the manifest of the import as it is now, unless the stored one is equal. A failure is only logged: the
    /// next command that opens the import for writing tries again.
    ///
    /// `catalog` is the handle of the operation that writes the import.
    pub(in crate::engine) async fn update_manifest(
        &self,
        catalog: &Catalog,
        row: &ImportRow,
        storage: &OpenStorage,
    ) {
        if let Err(e) = write_manifest(catalog, &storage.backend, row).await {
            tracing::warn!(
                "import {}: its manifest is out of date: {}; the import is complete, and the next run writes the manifest",
                row.id,
                e.report()
            );
        }
    }

    /// As [`Engine::update_manifest`], with the timeout [`STOP_TIMEOUT`]. Skipped when the storage has just refused a
    /// request.
    pub(in crate::engine) async fn update_manifest_at_stop(
        &self,
        catalog: &Catalog,
        row: &ImportRow,
        storage: &OpenStorage,
        refused: bool,
    ) {
        if refused {
            tracing::info!(
                "import {}: the manifest is not written, because storage refused a request",
                row.id
            );
            return;
        }
        let written = self.update_manifest(catalog, row, storage);
        if tokio::time::timeout(STOP_TIMEOUT, written).await.is_err() {
            let e = Error::new(
                Kind::Unavailable,
                format!("not written within {} s", STOP_TIMEOUT.as_secs()),
            );
            tracing::warn!("import {}: its manifest is out of date: {}", row.id, e.report());
        }
    }
}
