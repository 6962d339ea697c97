//! One pass over the listing of a prefix, compared with the catalog.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{ObjectTally, Sweep, batch_delete::BatchDelete};
use crate::{
    backends::{ObjectInfo, Page},
    catalog::{KeyState, ObjectRow},
    error::Result,
    storage::map::generated_key::GeneratedKey,
};

/// Objects under a prefix that no stored row names.
#[derive(Debug, Default)]
pub(super) struct PrefixScan {
    pub(super) unnamed: ObjectTally,
    /// Objects of leftover intents.
    pub(super) intended: ObjectTally,
    pub(super) unclaimed: BTreeSet<String>,
}

/// The unnamed objects in one import's folder.
#[derive(Default)]
struct FolderContent {
    tally: ObjectTally,
    has_manifest: bool,
}

impl PrefixScan {
    /// Counts the objects. Those of intents count only if they are `leftovers`. Memory grows with the number of imports
    /// and of leftovers, not of objects.
    pub(super) async fn new(
        sweep: Sweep<'_>,
        prefix: &str,
        leftovers: &[ObjectRow],
    ) -> Result<Self> {
        let leftovers: HashSet<&str> = leftovers.iter().map(|intent| intent.key.as_str()).collect();
        let mut scan = Self::default();
        let mut folders: BTreeMap<String, FolderContent> = BTreeMap::new();
        let mut next = Some(sweep.backend.list(prefix, None).await?);
        while let Some(page) = next {
            for (object, state) in with_states(sweep, &page).await? {
                if state == KeyState::Intent {
                    if leftovers.contains(object.key.as_str()) {
                        scan.intended.add(object.len);
                    }
                    continue;
                }
                let folder = folders.entry(folder_of(&object)).or_default();
                let manifest =
                    GeneratedKey::parse(object.key.as_str()).is_some_and(|k| k.is_manifest);
                folder.has_manifest |= manifest;
                folder.tally.add(object.len);
            }
            next = next_page(sweep, prefix, page).await?;
        }
        let (with_manifest, others): (Vec<_>, Vec<_>) =
            folders.into_iter().partition(|(_, folder)| folder.has_manifest);
        others.iter().for_each(|(_, folder)| scan.unnamed.merge(folder.tally));
        let names = with_manifest.iter().map(|(name, _)| name.clone()).collect();
        let known = sweep.catalog.has_folders(names).await?;
        for ((name, folder), is_known) in with_manifest.into_iter().zip(known) {
            if is_known {
                scan.unnamed.merge(folder.tally);
            } else {
                scan.unclaimed.insert(name);
            }
        }
        Ok(scan)
    }
}

/// Deletes the objects that no row names, except those in the `unclaimed` folders.
pub(super) async fn delete_unnamed(
    sweep: Sweep<'_>,
    prefix: &str,
    unclaimed: &BTreeSet<String>,
    batch: &mut BatchDelete<'_>,
) -> Result<()> {
    let mut next = Some(sweep.backend.list(prefix, None).await?);
    while let Some(page) = next {
        for (object, state) in with_states(sweep, &page).await? {
            if state == KeyState::Unknown && !unclaimed.contains(&folder_of(&object)) {
                batch.start(object.key.clone(), Some(object.len), None).await;
            }
        }
        next = next_page(sweep, prefix, page).await?;
    }
    Ok(())
}

/// The objects of a page that no stored row names. The catalog is read after the listing, so objects committed since
/// then count as named.
async fn with_states(sweep: Sweep<'_>, page: &Page) -> Result<Vec<(ObjectInfo, KeyState)>> {
    let keys = page.objects.iter().map(|object| object.key.as_str().to_owned()).collect();
    let states = sweep.catalog.key_states(sweep.storage, keys).await?;
    let unnamed =
        page.objects.iter().zip(states).filter(|(_, state)| *state != KeyState::Protected);
    Ok(unnamed.map(|(object, state)| (object.clone(), state)).collect())
}

async fn next_page(sweep: Sweep<'_>, prefix: &str, page: Page) -> Result<Option<Page>> {
    match page.next {
        Some(token) => sweep.backend.list(prefix, Some(&token)).await.map(Some),
        None => Ok(None),
    }
}

/// The import's folder, or for other keys the part before the last `/`.
fn folder_of(object: &ObjectInfo) -> String {
    let key = object.key.as_str();
    let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
    GeneratedKey::parse(key).map_or_else(|| format!("{folder}/"), |own| own.folder())
}
