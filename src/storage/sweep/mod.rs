//! Finding and removing what nothing names: what crashes leave, and imports that are no longer wanted.
//!
//! What a place lists is compared page by page with the catalog, so that a hundred thousand objects take no more
//! memory than a few. Looked at are the keys of this catalog and of those whose imports were attached; whatever else
//! is in the place is none of ours.
//!
//! What it refuses: touching an import that has a manifest and is not in the catalog. Somebody can still attach it (it
//! is of a newer copy of this catalog, or was left out when others were attached), and then remove it by name. And
//! giving up at the first object that cannot be removed: the rest goes, and the failures are told.

mod deleting;
mod import;
mod walk;

use std::{collections::BTreeSet, sync::Arc};

pub use deleting::Failures;
pub use import::{delete_freed, remove_import};

use self::{deleting::Deleting, walk::Walk};
use crate::{
    backends::{Key, StorageBackend, Unfinished},
    catalog::{Catalog, ImportRow, ImportState, KeyState, ObjectRow, Role},
    error::{Kind, Result},
};

/// Objects, and what they take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub objects: usize,
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, len: u64) {
        self.objects += 1;
        self.bytes += len;
    }

    fn merge(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

/// What one storage holds for nothing.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Objects of this catalog that no stored object row names, and those of intents.
    pub own: Tally,
    /// Objects of catalogs that were taken over, of which nothing is recorded.
    pub adopted: Tally,
    /// Intents that were never committed; their object may or may not be there.
    pub intents: Vec<ObjectRow>,
    /// Uploads that were begun and not finished.
    pub uploads: Vec<Unfinished>,
    /// Imports whose removal was cut short.
    pub removing: Vec<ImportRow>,
    /// Folders of imports that have a manifest and are not in the catalog; nothing in them is counted or removed.
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

/// What was removed, and what could not be.
#[derive(Debug, Default)]
pub struct Removed {
    pub tally: Tally,
    pub uploads: usize,
    pub failures: Failures,
}

/// The sweep of one storage. No writer of the catalog may be running: a put that is not committed yet looks like a
/// leftover.
#[derive(Debug, Clone, Copy)]
pub struct Sweep<'a> {
    pub catalog: &'a Catalog,
    pub backend: &'a Arc<dyn StorageBackend>,
    /// What imports call the backend.
    pub storage: &'a str,
}

impl Sweep<'_> {
    /// Looks for what the storage holds for nothing.
    ///
    /// # Errors
    /// When the catalog cannot be read or the backend not listed.
    pub async fn find(&self) -> Result<Leftovers> {
        let mut found = Leftovers { intents: self.intents()?, ..Leftovers::default() };
        found.removing = self.catalog.list_in_state(ImportState::Removing)?;
        found.removing.retain(|row| row.storage == self.storage);
        for (intent, state) in self.with_states(&found.intents)? {
            // A name of the torrent's is under no prefix of ours.
            if intent.role != Role::File || state == KeyState::Yes {
                continue;
            }
            if let Some(len) = self.backend.head(&Key::new(&intent.key)?).await? {
                found.own.add(len);
            }
        }
        for (prefix, is_own) in self.prefixes()? {
            let walk = Walk::new(*self, &prefix).await?;
            found.own.merge(walk.intended);
            let tally = if is_own { &mut found.own } else { &mut found.adopted };
            tally.merge(walk.unnamed);
            found.unclaimed.extend(walk.unclaimed);
            found.uploads.extend(unfinished(self.backend, &prefix).await?);
        }
        found.uploads.extend(uploads_of(self.backend, &found.intents).await?);
        Ok(found)
    }

    /// Removes what [`Sweep::find`] found, with `adopted` also what catalogs that were taken over left. Goes on past
    /// what cannot be removed. May be cut short and done again.
    ///
    /// # Errors
    /// When the catalog cannot be used or the backend not listed.
    pub async fn remove(&self, found: &Leftovers, adopted: bool) -> Result<Removed> {
        let mut removed = Removed::default();
        for upload in &found.uploads {
            match self.backend.abort(upload).await {
                Ok(()) => removed.uploads += 1,
                Err(e) => removed.failures.add(e.within(format_args!("upload of {}", upload.key))),
            }
        }
        let mut deleting = Deleting::new(self.backend);
        for (prefix, is_own) in self.prefixes()? {
            if is_own || adopted {
                walk::delete_unnamed(*self, &prefix, &found.unclaimed, &mut deleting).await?;
            }
        }
        deleting.wait().await;
        let unnamed = std::mem::take(&mut deleting.deleted);
        removed.tally = unnamed.tally;
        self.remove_intents(&found.intents, &mut deleting).await?;
        removed.tally.merge(deleting.deleted.tally);
        removed.failures.append(deleting.failures);
        for row in &found.removing {
            let objects = self.catalog.objects(&row.id)?;
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

    /// Deletes the objects of intents and, of those that are gone, the rows.
    async fn remove_intents(
        &self,
        intents: &[ObjectRow],
        deleting: &mut Deleting<'_>,
    ) -> Result<()> {
        for (intent, state) in self.with_states(intents)? {
            if state == KeyState::Yes {
                // Another object has the name by now: only the row goes.
                deleting.deleted.nums.push(intent.num);
                continue;
            }
            let key = Key::new(&intent.key)?;
            // What is counted is what takes room: most intents have no object.
            let len = self.backend.head(&key).await.ok().flatten();
            deleting.start(key, len, Some(intent.num)).await;
        }
        deleting.wait().await;
        self.catalog.drop_objects(std::mem::take(&mut deleting.deleted.nums)).await
    }

    fn with_states<'r>(&self, rows: &'r [ObjectRow]) -> Result<Vec<(&'r ObjectRow, KeyState)>> {
        let keys = rows.iter().map(|row| row.key.as_str());
        let states = self.catalog.key_states(self.storage, keys)?;
        Ok(rows.iter().zip(states).collect())
    }

    fn intents(&self) -> Result<Vec<ObjectRow>> {
        let mut intents = Vec::new();
        let mut leftover = self.catalog.leftover_intents()?;
        leftover.retain(|intent| intent.role != Role::Adopted);
        for intent in leftover {
            let row = self.catalog.get(&intent.import)?;
            if row.state == ImportState::Importing && self.is_streamed(&intent)? {
                // Durable bytes of an import that goes on are in its upload.
                continue;
            }
            // An import that is being removed takes its intents with it.
            if row.storage == self.storage && row.state != ImportState::Removing {
                intents.push(intent);
            }
        }
        Ok(intents)
    }

    fn is_streamed(&self, intent: &ObjectRow) -> Result<bool> {
        let mut streamed = self.catalog.streamed(&intent.import)?.into_iter();
        Ok(intent.role == Role::File && streamed.any(|(object, _)| object.num == intent.num))
    }

    /// What the keys begin with that are looked at, and whether they are of this catalog.
    fn prefixes(&self) -> Result<Vec<(String, bool)>> {
        let adopted = self.catalog.adopted(self.storage)?.into_iter();
        let adopted = adopted.map(|id| (format!("{id}/"), false));
        Ok(std::iter::once((self.catalog.key_prefix(), true)).chain(adopted).collect())
    }
}

/// Uploads under a prefix; a place that cannot list them has none that could be found.
async fn unfinished(backend: &Arc<dyn StorageBackend>, prefix: &str) -> Result<Vec<Unfinished>> {
    match backend.unfinished(prefix).await {
        Err(e) if e.kind() == Kind::Unsupported => Ok(Vec::new()),
        found => found,
    }
}

/// Uploads of whole files that are intended.
async fn uploads_of(
    backend: &Arc<dyn StorageBackend>,
    objects: &[ObjectRow],
) -> Result<Vec<Unfinished>> {
    let mut uploads = Vec::new();
    for file in objects.iter().filter(|object| object.role == Role::File && !object.stored) {
        let found = unfinished(backend, &file.key).await?;
        uploads.extend(found.into_iter().filter(|upload| upload.key.as_str() == file.key));
    }
    Ok(uploads)
}
