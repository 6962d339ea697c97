//! `rm` and `gc`: imports out of storage, and what a crash left there.

use std::{collections::BTreeSet, sync::Arc};

use super::{App, GcReport, RemoveSummary};
use crate::{
    catalog::ImportState,
    error::Result,
    storage::sweep::{find_leftovers, remove, remove_import},
};

impl App {
    /// Removes an import and its objects; with `keep_objects` only from sight, so that the same torrent imported again
    /// finds them.
    ///
    /// # Errors
    /// `NotFound`; what the backend says, in which case `gc` finishes what was begun.
    pub async fn remove(&self, needle: &str, keep_objects: bool) -> Result<RemoveSummary> {
        let row = self.catalog.find(needle)?;
        let place = self.place_of(&row).await?;
        let objects = self.catalog.objects(&row.id)?;
        remove_import(&self.catalog, &place.backend, &row, keep_objects).await?;
        if keep_objects {
            return Ok(RemoveSummary { objects: 0, bytes: 0 });
        }
        let stored = objects.iter().filter(|o| o.stored);
        Ok(RemoveSummary { objects: objects.len(), bytes: stored.map(|o| o.len).sum() })
    }

    /// Finds objects that no import names, in every storage that imports are in, and with `really` removes them.
    ///
    /// # Errors
    /// What a backend says when it cannot be listed or does not delete.
    pub async fn gc(&self, really: bool) -> Result<GcReport> {
        let mut report = GcReport { objects: 0, bytes: 0, removed: really };
        for storage in self.storages()? {
            let place = self.place(&storage).await?;
            let left = find_leftovers(&self.catalog, &*place.backend, &storage).await?;
            report.objects += left.objects.len();
            report.bytes += left.bytes();
            for row in &left.removing {
                let objects = self.catalog.objects(&row.id)?;
                report.objects += objects.len();
                report.bytes += objects.iter().map(|o| o.len).sum::<u64>();
            }
            if really {
                remove(&self.catalog, &Arc::clone(&place.backend), &left).await?;
            }
        }
        Ok(report)
    }

    /// Every storage an import is in, and the default one.
    fn storages(&self) -> Result<BTreeSet<String>> {
        let mut rows = self.catalog.list()?;
        for state in [ImportState::Removing, ImportState::Kept] {
            rows.extend(self.catalog.list_in_state(state)?);
        }
        let default = self.config.storage("file")?.canonical();
        Ok(rows.into_iter().map(|r| r.storage).chain([default]).collect())
    }
}
