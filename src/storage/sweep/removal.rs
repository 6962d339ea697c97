//! Removes one import, and the objects that a repair replaced.

use std::{collections::BTreeSet, sync::Arc};

use super::{Failures, batch_delete::BatchDelete, list_unfinished, uploads_of_files};
use crate::{
    backends::{Key, StorageBackend, UnfinishedUpload},
    catalog::{Catalog, ImportId, ImportRow, ImportState, ObjectRow, Role},
    error::Result,
    storage::map::generated_key::GeneratedKey,
};

/// Removes an import in this order: it is hidden, and what no other import refers to is marked as dying; then its
/// manifests, its uploads and objects, and its rows are deleted. So a crash leaves an import that the next sweep
/// finishes, and never a manifest that names deleted objects.
/// What cannot be deleted keeps its row, and the import stays in [`ImportState::Removing`].
///
/// Objects that belong to the user are not deleted, only removed from the catalog.
///
/// With `keep_objects` the import is only hidden, and a later import of the same torrent uses its objects again. Its
/// writer must have stopped.
///
/// # Errors
/// How many objects are left, and the first reason; or the error of the catalog.
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
    let mut unfinished = catalog.objects(&row.id).await?;
    unfinished.retain(|object| !object.is_stored());
    let dying = catalog.release_import(&row.id).await?;
    let (manifests, objects): (Vec<_>, Vec<_>) =
        dying.into_iter().partition(|object| object.role == Role::Manifest);
    let context = format!("import {}", row.id);
    delete(catalog, backend, &manifests)
        .await?
        .into_result(manifests.len(), "manifests")
        .map_err(|e| e.with_context(&context))?;
    let mut failures = abort_uploads(backend, catalog, row, &objects, &unfinished).await;
    failures.append(delete(catalog, backend, &objects).await?);
    failures.into_result(objects.len(), "objects").map_err(|e| e.with_context(&context))?;
    catalog.delete_import(&row.id).await
}

/// Deletes objects that a repair or a publishing emptied, if they are still empty, with their rows. What cannot be
/// deleted stays dying, and the sweep finds it.
///
/// # Errors
/// How many objects are left, and the first reason; or the error of the catalog.
pub async fn delete_freed(
    catalog: &Catalog,
    backend: &Arc<dyn StorageBackend>,
    import: &ImportId,
    freed: &[ObjectRow],
) -> Result<()> {
    let dying = catalog.mark_dying(freed.iter().map(|object| object.num).collect()).await?;
    if dying.is_empty() {
        return Ok(());
    }
    // A key that was taken again belongs to an object that holds bytes.
    let mut named = catalog.objects(import).await?;
    named.retain(ObjectRow::is_stored);
    let used: BTreeSet<_> = named.iter().map(|object| object.key.as_str()).collect();
    let dying: Vec<_> =
        dying.into_iter().filter(|object| !used.contains(object.key.as_str())).collect();
    delete(catalog, backend, &dying).await?.into_result(dying.len(), "replaced objects")
}

/// Deletes objects, and the rows of those that are gone.
async fn delete(
    catalog: &Catalog,
    backend: &Arc<dyn StorageBackend>,
    objects: &[ObjectRow],
) -> Result<Failures> {
    let mut batch = BatchDelete::new(backend);
    // The catalog returns no user's objects here. If it ever did, they would be skipped.
    for object in objects.iter().filter(|object| object.role != Role::Adopted) {
        batch.start(Key::new(&object.key)?, Some(object.len), Some(object.num)).await;
    }
    batch.wait().await;
    let nums = std::mem::take(&mut batch.deleted.nums);
    catalog.drop_objects(nums).await?;
    Ok(batch.failures)
}

async fn abort_uploads(
    backend: &Arc<dyn StorageBackend>,
    catalog: &Catalog,
    row: &ImportRow,
    objects: &[ObjectRow],
    unfinished: &[ObjectRow],
) -> Failures {
    let mut failures = Failures::default();
    let keys = objects.iter().filter_map(|object| GeneratedKey::parse(&object.key));
    let mut folders: BTreeSet<String> = keys.map(|key| key.folder()).collect();
    folders.insert(format!("{}{}/", catalog.key_prefix(), row.id));
    let mut uploads: Vec<UnfinishedUpload> = Vec::new();
    for folder in folders {
        match list_unfinished(backend, &folder).await {
            Ok(found) => uploads.extend(found),
            Err(e) => failures.add(e),
        }
    }
    match uploads_of_files(backend, unfinished).await {
        Ok(found) => uploads.extend(found),
        Err(e) => failures.add(e),
    }
    for upload in uploads {
        if let Err(e) = backend.abort_upload(&upload).await {
            failures.add(e.with_context(format_args!("upload of {}", upload.key)));
        }
    }
    failures
}
