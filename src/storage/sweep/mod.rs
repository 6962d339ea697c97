//! Finds and removes objects that no catalog row names: leftovers of crashes, and imports that are no longer wanted.
//!
//! The listing of a storage is compared with the catalog page by page, so that 100,000 objects take no more memory than
//! a few. Only the keys of this catalog and of catalogs whose imports were attached are examined. All other objects in
//! the storage are ignored.
//!
//! An import that has a manifest but is not in the catalog is never touched. It can still be attached and then removed
//! by name: it belongs to a newer copy of this catalog, or was left out when others were attached. An object that
//! cannot be removed does not stop the sweep: the rest is removed, and the failures are reported.

mod batch_delete;
mod prefix_scan;
mod removal;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

pub use batch_delete::Failures;
pub use removal::{delete_freed, remove_import};

use self::{batch_delete::BatchDelete, prefix_scan::PrefixScan};
use crate::{
    backends::{Key, StorageBackend, UnfinishedUpload},
    catalog::{Catalog, ImportId, ImportRow, ImportState, KeyState, ObjectRow, Role},
    error::{Kind, Result},
};

/// The number and total length of objects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObjectTally {
    pub objects: usize,
    pub bytes: u64,
}

impl ObjectTally {
    fn add(&mut self, len: u64) {
        self.objects += 1;
        self.bytes += len;
    }

    fn merge(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

/// The leftovers in one storage.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Objects of this catalog that no stored object row names, and objects of intents.
    pub own: ObjectTally,
    /// Objects of attached catalogs that no row names.
    pub adopted: ObjectTally,
    /// Intents that were never committed; their objects may or may not exist.
    pub intents: Vec<ObjectRow>,
    /// Uploads that were started and not finished.
    pub uploads: Vec<UnfinishedUpload>,
    /// Imports whose removal was interrupted.
    pub removing: Vec<ImportRow>,
    /// Folders of imports that have a manifest and are not in the catalog. Their objects are not counted or removed.
    pub unclaimed: BTreeSet<String>,
}

impl Leftovers {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let objects = self.own.objects + self.adopted.objects;
        objects == 0
            && self.intents.is_empty()
            && self.uploads.is_empty()
            && self.removing.is_empty()
    }
}

/// The result of a sweep: the removed objects, and the failures.
#[derive(Debug, Default)]
pub struct Removed {
    pub tally: ObjectTally,
    pub uploads: usize,
    pub failures: Failures,
}

/// The sweep of one storage.
///
/// Other imports may be written meanwhile: an object or upload has its intent before it is started, and only the intents
/// of idle imports count as leftovers.
#[derive(Debug, Clone, Copy)]
pub struct Sweep<'a> {
    pub catalog: &'a Catalog,
    pub backend: &'a Arc<dyn StorageBackend>,
    /// The name of the storage in the rows of imports.
    pub storage: &'a str,
    /// The imports that no other operation writes or starts to write during the sweep. `None` is all.
    pub idle: Option<&'a BTreeSet<ImportId>>,
}

impl Sweep<'_> {
    /// Searches the storage for leftovers.
    ///
    /// # Errors
    /// When the catalog cannot be read, or the backend cannot be listed.
    pub async fn find(&self) -> Result<Leftovers> {
        let mut found = Leftovers { intents: self.intents().await?, ..Leftovers::default() };
        found.removing = self.catalog.list_in_state(ImportState::Removing).await?;
        found.removing.retain(|row| row.storage == self.storage && self.is_idle(&row.id));
        for (intent, state) in self.with_states(&found.intents).await? {
            // A file's own name is under none of the key prefixes.
            if intent.role != Role::File || state == KeyState::Protected {
                continue;
            }
            if let Some(len) = self.backend.head(&Key::new(&intent.key)?).await? {
                found.own.add(len);
            }
        }
        for (prefix, is_own) in self.prefixes().await? {
            let scan = PrefixScan::new(*self, &prefix, &found.intents).await?;
            found.own.merge(scan.intended);
            let tally = if is_own { &mut found.own } else { &mut found.adopted };
            tally.merge(scan.unnamed);
            found.unclaimed.extend(scan.unclaimed);
            let uploads = list_unfinished(self.backend, &prefix).await?;
            found.uploads.extend(self.abandoned(uploads, &found.intents).await?);
        }
        found.uploads.extend(uploads_of_files(self.backend, &found.intents).await?);
        Ok(found)
    }

    /// Removes what [`Sweep::find`] found; with `adopted` also the leftovers of attached catalogs. Continues after
    /// failures. It can be interrupted and repeated.
    ///
    /// # Errors
    /// When the catalog cannot be used, or the backend cannot be listed.
    pub async fn remove(&self, found: &Leftovers, adopted: bool) -> Result<Removed> {
        let mut removed = Removed::default();
        for upload in &found.uploads {
            match self.backend.abort_upload(upload).await {
                Ok(()) => removed.uploads += 1,
                Err(e) => {
                    removed.failures.add(e.with_context(format_args!("upload of {}", upload.key)))
                }
            }
        }
        let mut batch = BatchDelete::new(self.backend);
        for (prefix, is_own) in self.prefixes().await? {
            if is_own || adopted {
                prefix_scan::delete_unnamed(*self, &prefix, &found.unclaimed, &mut batch).await?;
            }
        }
        batch.wait().await;
        let unnamed = std::mem::take(&mut batch.deleted);
        removed.tally = unnamed.tally;
        self.remove_intents(&found.intents, &mut batch).await?;
        removed.tally.merge(batch.deleted.tally);
        removed.failures.append(batch.failures);
        for row in &found.removing {
            let objects = self.catalog.objects(&row.id).await?;
            match remove_import(self.catalog, self.backend, row, false).await {
                Ok(()) => objects
                    .iter()
                    .filter(|object| object.role != Role::Adopted)
                    .for_each(|object| removed.tally.add(object.len)),
                Err(e) => removed.failures.add(e),
            }
        }
        Ok(removed)
    }

    /// Marks intents as dying, deletes their objects, and the rows of those that are gone.
    async fn remove_intents(
        &self,
        intents: &[ObjectRow],
        batch: &mut BatchDelete<'_>,
    ) -> Result<()> {
        // A put of one of them that is still in flight cannot be committed from now on.
        let dying = self.catalog.mark_dying(intents.iter().map(|intent| intent.num).collect());
        for (intent, state) in self.with_states(&dying.await?).await? {
            if state == KeyState::Protected {
                // Another object has the name now: only the row is deleted.
                batch.deleted.nums.push(intent.num);
                continue;
            }
            let key = Key::new(&intent.key)?;
            // Only objects that take space are counted: most intents have no object.
            let len = self.backend.head(&key).await.ok().flatten();
            batch.start(key, len, Some(intent.num)).await;
        }
        batch.wait().await;
        self.catalog.drop_objects(std::mem::take(&mut batch.deleted.nums)).await
    }

    fn is_idle(&self, import: &ImportId) -> bool {
        self.idle.is_none_or(|idle| idle.contains(import))
    }

    /// The uploads that belong to no intent, or to one of these `leftovers`. The catalog is read after the listing, so an
    /// upload that has started since has its intent.
    async fn abandoned(
        &self,
        mut uploads: Vec<UnfinishedUpload>,
        leftovers: &[ObjectRow],
    ) -> Result<Vec<UnfinishedUpload>> {
        let keys = uploads.iter().map(|upload| upload.key.as_str().to_owned()).collect();
        let mut states = self.catalog.key_states(self.storage, keys).await?.into_iter();
        let leftovers: HashSet<&str> = leftovers.iter().map(|intent| intent.key.as_str()).collect();
        uploads.retain(|upload| {
            states.next() != Some(KeyState::Intent) || leftovers.contains(upload.key.as_str())
        });
        Ok(uploads)
    }

    async fn with_states<'r>(
        &self,
        rows: &'r [ObjectRow],
    ) -> Result<Vec<(&'r ObjectRow, KeyState)>> {
        let keys = rows.iter().map(|row| row.key.clone()).collect();
        let states = self.catalog.key_states(self.storage, keys).await?;
        Ok(rows.iter().zip(states).collect())
    }

    async fn intents(&self) -> Result<Vec<ObjectRow>> {
        let mut by_import: BTreeMap<ImportId, Vec<ObjectRow>> = BTreeMap::new();
        for intent in self.catalog.leftover_intents().await? {
            if intent.role != Role::Adopted && self.is_idle(&intent.home) {
                by_import.entry(intent.home.clone()).or_default().push(intent);
            }
        }
        let mut intents = Vec::new();
        for (import, mut leftover) in by_import {
            let row = self.catalog.get(&import).await?;
            // The intents of an import that is being removed are deleted with it.
            if row.storage != self.storage || row.state == ImportState::Removing {
                continue;
            }
            if row.state == ImportState::Importing {
                // Uploads that hold durable bytes of an import that will resume.
                let uploads = self.catalog.partial_uploads(&import).await?;
                let resumes = |num| uploads.iter().any(|(object, _)| object.num == num);
                leftover.retain(|intent| intent.role != Role::File || !resumes(intent.num));
            }
            intents.append(&mut leftover);
        }
        intents.sort_unstable_by_key(|intent| intent.num);
        Ok(intents)
    }

    /// The key prefixes to examine, and whether each belongs to this catalog.
    async fn prefixes(&self) -> Result<Vec<(String, bool)>> {
        let adopted = self.catalog.attached_catalogs(self.storage).await?.into_iter();
        let adopted = adopted.map(|id| (format!("{id}/"), false));
        Ok(std::iter::once((self.catalog.key_prefix(), true)).chain(adopted).collect())
    }
}

/// The unfinished uploads under a prefix; none if the storage cannot list them.
async fn list_unfinished(
    backend: &Arc<dyn StorageBackend>,
    prefix: &str,
) -> Result<Vec<UnfinishedUpload>> {
    match backend.list_uploads(prefix).await {
        Err(e) if e.kind() == Kind::Unsupported => Ok(Vec::new()),
        found => found,
    }
}

/// The unfinished uploads of whole files that are intents.
async fn uploads_of_files(
    backend: &Arc<dyn StorageBackend>,
    objects: &[ObjectRow],
) -> Result<Vec<UnfinishedUpload>> {
    let mut uploads = Vec::new();
    for file in objects.iter().filter(|object| object.role == Role::File && !object.is_stored()) {
        let found = list_unfinished(backend, &file.key).await?;
        uploads.extend(found.into_iter().filter(|upload| upload.key.as_str() == file.key));
    }
    Ok(uploads)
}
