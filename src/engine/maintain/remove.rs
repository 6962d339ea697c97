//! `rm` and `gc`: deletes imports, and objects that no import has.

use std::collections::BTreeSet;

use crate::{
    catalog::{ImportId, ImportState, Role},
    engine::{
        Engine, GcOptions, GcReport, RemoveSummary,
        running::{Claim, Purpose},
    },
    error::{Error, Result},
    storage::sweep::{Failures, Leftovers, Sweep, remove_import},
};

impl Engine {
    /// Removes an import and deletes its objects. With `keep_objects` the import is only hidden, and importing the same
    /// torrent again finds its objects.
    ///
    /// # Errors
    /// `NotFound`; the number of objects that are left, with the first error. `gc` then completes the removal.
    pub async fn remove(&self, import_ref: &str, keep_objects: bool) -> Result<RemoveSummary> {
        let row = self.catalog.find(import_ref).await?;
        let claim = self.running.claim_import(Purpose::Remove, &row.id).await?;
        let storage = self.storage_unchecked(&row.storage).await?;
        let mut objects = self.catalog.objects(&row.id).await?;
        remove_import(&claim.fenced(&self.catalog), &storage.backend, &row, keep_objects).await?;
        if keep_objects {
            return Ok(RemoveSummary { objects: 0, bytes: 0 });
        }
        objects.retain(|object| !matches!(object.role, Role::Manifest | Role::Adopted));
        let stored = objects.iter().filter(|o| o.is_stored());
        Ok(RemoveSummary { objects: objects.len(), bytes: stored.map(|o| o.len).sum() })
    }

    /// Finds objects and uploads that no import has, in every configured storage and every storage with imports.
    /// Deletes them if requested. Errors of single objects and storages are collected and returned; the others are
    /// still processed.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn gc(&self, options: GcOptions) -> Result<(GcReport, Failures)> {
        let mut report = GcReport { removed: options.remove, ..GcReport::default() };
        let mut failures = Failures::default();
        let storages = self.known_storages(&mut failures).await?;
        for storage in storages {
            if let Err(e) = self.collect(&storage, options, &mut report, &mut failures).await {
                failures.add(e.with_context(format_args!("storage {storage:?}")));
            }
        }
        report.failed = failures.count();
        Ok((report, failures))
    }

    async fn collect(
        &self,
        storage: &str,
        options: GcOptions,
        report: &mut GcReport,
        failures: &mut Failures,
    ) -> Result<()> {
        let opened = self.storage(storage).await?;
        let (idle, claim) = self.claim_leftovers().await?;
        let (catalog, backend) = (&claim.fenced(&self.catalog), &opened.backend);
        let sweep = Sweep { catalog, backend, storage, idle: Some(&idle) };
        let found = sweep.find().await?;
        report.unclaimed += found.unclaimed.len();
        if !options.attached {
            report.held_back += found.adopted.objects;
        }
        if options.remove {
            let removed = sweep.remove(&found, options.attached).await?;
            report.objects += removed.tally.objects;
            report.bytes += removed.tally.bytes;
            report.uploads += removed.uploads;
            failures.append(removed.failures);
            return Ok(());
        }
        self.count(&found, options, report).await
    }

    /// Claims the imports with leftovers that no other operation writes, so that none of them starts during the sweep.
    async fn claim_leftovers(&self) -> Result<(BTreeSet<ImportId>, Claim)> {
        let intents = self.catalog.leftover_intents().await?;
        let removing = self.catalog.list_in_state(ImportState::Removing).await?;
        let intents = intents.into_iter().map(|intent| intent.home);
        let imports: BTreeSet<ImportId> =
            intents.chain(removing.into_iter().map(|row| row.id)).collect();
        let (claim, idle) = self.running.claim_free(Purpose::Sweep, imports).await?;
        Ok((idle.into_iter().collect(), claim))
    }

    async fn count(
        &self,
        found: &Leftovers,
        options: GcOptions,
        report: &mut GcReport,
    ) -> Result<()> {
        report.uploads += found.uploads.len();
        report.objects += found.own.objects;
        report.bytes += found.own.bytes;
        if options.attached {
            report.objects += found.adopted.objects;
            report.bytes += found.adopted.bytes;
        }
        for row in &found.removing {
            let mut objects = self.catalog.objects(&row.id).await?;
            objects.retain(|object| object.role != Role::Adopted);
            report.objects += objects.len();
            report.bytes += objects.iter().map(|o| o.len).sum::<u64>();
        }
        Ok(())
    }

    /// Every storage with imports, every attached one, and every configured one.
    async fn known_storages(&self, failures: &mut Failures) -> Result<BTreeSet<String>> {
        let mut storages: BTreeSet<String> = self.catalog.storages().await?.into_iter().collect();
        for name in self.config.storage_names() {
            match self.config.storage(name) {
                Ok(profile) => drop(storages.insert(profile.canonical_name())),
                Err(e) => failures.add(Error::with_context(e, format_args!("storage {name:?}"))),
            }
        }
        Ok(storages)
    }
}
