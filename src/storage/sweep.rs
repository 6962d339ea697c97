//! Finding and removing what nothing names: what crashes leave, and imports that are no longer wanted.

use std::{collections::HashSet, sync::Arc};

use tokio::task::JoinSet;

use super::publish::give_up;
use crate::{
    backends::{Key, ObjectInfo, StorageBackend, list_all},
    catalog::{Catalog, ImportRow, ImportState, ObjectRow, Role},
    error::{Error, Kind, Result},
};

/// Deletes under way at once.
const AT_ONCE: usize = 8;

/// What one storage holds for nothing.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Objects of this catalog that no stored object row names.
    pub objects: Vec<ObjectInfo>,
    /// Intents that were never committed; their object may or may not be there.
    pub intents: Vec<ObjectRow>,
    /// Imports whose removal was cut short.
    pub removing: Vec<ImportRow>,
}

impl Leftovers {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.intents.is_empty() && self.removing.is_empty()
    }

    /// Bytes of the objects that nothing names.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.len).sum()
    }
}

/// Looks for what `backend`, which imports know as `storage`, holds for nothing. Objects of other catalogs in the
/// same place are not looked at. No writer may be running: a put that is not committed yet looks like a leftover.
///
/// # Errors
/// When the catalog cannot be read or the backend not listed.
pub async fn find_leftovers(
    catalog: &Catalog,
    backend: &dyn StorageBackend,
    storage: &str,
) -> Result<Leftovers> {
    // Listed before the catalog is read: what is committed in between is then known.
    let listed = list_all(backend, &catalog.key_prefix()).await?;
    let known: HashSet<String> = catalog.all_keys()?.into_iter().collect();
    let unnamed = listed.into_iter().filter(|object| !known.contains(object.key.as_str()));
    let mut removing = catalog.list_in_state(ImportState::Removing)?;
    removing.retain(|row| row.storage == storage);
    let mut intents = Vec::new();
    for intent in catalog.leftover_intents()? {
        if catalog.get(&intent.import)?.storage == storage {
            intents.push(intent);
        }
    }
    Ok(Leftovers { objects: unnamed.collect(), intents, removing })
}

/// Removes what [`find_leftovers`] found. May be cut short and done again.
///
/// # Errors
/// The first that the backend or the catalog gives.
pub async fn remove(
    catalog: &Catalog,
    backend: &Arc<dyn StorageBackend>,
    leftovers: &Leftovers,
) -> Result<()> {
    let mut keys: Vec<Key> = leftovers.objects.iter().map(|object| object.key.clone()).collect();
    for intent in &leftovers.intents {
        keys.push(Key::new(&intent.key)?);
    }
    give_up_uploads(backend, &leftovers.intents).await?;
    delete_all(backend, keys).await?;
    for intent in &leftovers.intents {
        catalog.drop_object(intent.num).await?;
    }
    for row in &leftovers.removing {
        remove_import(catalog, backend, row, false).await?;
    }
    Ok(())
}

/// Removes an import: first from sight, then its objects, then its rows, so that a crash in between leaves an
/// import that the next sweep finishes. With `keep_objects` it only goes from sight, and a later import of the same
/// torrent takes its objects up again. Its writer must have stopped.
///
/// # Errors
/// The first that the backend or the catalog gives.
pub async fn remove_import(
    catalog: &Catalog,
    backend: &Arc<dyn StorageBackend>,
    row: &ImportRow,
    keep_objects: bool,
) -> Result<()> {
    if keep_objects {
        return catalog.set_state(&row.id, ImportState::Kept).await;
    }
    catalog.set_state(&row.id, ImportState::Removing).await?;
    let objects = catalog.objects(&row.id)?;
    let keys = objects.iter().map(|object| Key::new(&object.key)).collect::<Result<_>>()?;
    give_up_uploads(backend, &objects).await?;
    delete_all(backend, keys).await.map_err(|e| e.within(format_args!("import {}", row.id)))?;
    catalog.delete_import(&row.id).await
}

/// Whole files may have been begun and not finished.
async fn give_up_uploads(backend: &Arc<dyn StorageBackend>, objects: &[ObjectRow]) -> Result<()> {
    let begun = objects.iter().filter(|object| object.role == Role::File && !object.stored);
    for object in begun {
        give_up(backend, &Key::new(&object.key)?).await?;
    }
    Ok(())
}

pub(super) async fn delete_all(backend: &Arc<dyn StorageBackend>, keys: Vec<Key>) -> Result<()> {
    let mut running = JoinSet::new();
    for key in keys {
        if running.len() >= AT_ONCE {
            ended(running.join_next().await)?;
        }
        let backend = Arc::clone(backend);
        running.spawn(async move { backend.delete(&key).await });
    }
    while let Some(done) = running.join_next().await {
        ended(Some(done))?;
    }
    Ok(())
}

fn ended(done: Option<Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    match done {
        None => Ok(()),
        Some(Ok(deleted)) => deleted,
        Some(Err(e)) => Err(Error::new(Kind::Internal, "a delete did not finish").because(e)),
    }
}
