//! Writing the manifest of an import to its storage.

use std::time::Duration;

use super::{App, place::Place};
use crate::{
    catalog::ImportRow,
    error::{Error, Kind},
    storage::manifest::write_manifest,
};

/// Timeout for writing the manifest at a stop. The manifest is one small object, and the import is complete without it.
pub(super) const AT_STOP: Duration = Duration::from_secs(2);

impl App {
    /// Writes the manifest of the import as it is now, unless the stored one is equal. A failure is only logged: the
    /// next command that opens the import for writing tries again.
    pub(super) async fn leave_manifest(&self, row: &ImportRow, place: &Place) {
        if let Err(e) = write_manifest(&self.catalog, &place.backend, row).await {
            tracing::warn!(
                "import {}: its manifest is not up to date: {}; the import is whole, and the next run writes it",
                row.id,
                e.report()
            );
        }
    }

    /// As [`App::leave_manifest`], with the timeout [`AT_STOP`]. Skipped when the storage has just refused a request.
    pub(super) async fn leave_manifest_at_stop(
        &self,
        row: &ImportRow,
        place: &Place,
        refused: bool,
    ) {
        if refused {
            tracing::info!("import {}: no manifest is written: storage refuses", row.id);
            return;
        }
        if tokio::time::timeout(AT_STOP, self.leave_manifest(row, place)).await.is_err() {
            let e = Error::new(Kind::Unavailable, "storage did not take it in time");
            tracing::warn!("import {}: its manifest is not up to date: {}", row.id, e.report());
        }
    }
}
