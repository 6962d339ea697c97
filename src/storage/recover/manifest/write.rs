//! Writes the manifest of an import to its storage.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{Manifest, ManifestObject};
use crate::{
    backends::{Key, Payload, StorageBackend},
    catalog::{Catalog, Extent, ImportRow, ImportState, ObjectNum, ObjectRow, Role},
    error::Result,
    redact,
};

/// Writes a manifest of the import's current state, unless the stored one has the same content. `row` may be older than
/// the catalog. Afterwards the older manifests are deleted, or are dying and left to the sweep. Returns whether a
/// manifest was written. No writer of the import may be running: the manifest would miss what it commits meanwhile.
///
/// Nothing is written for an import that has no bytes yet, or that is being removed.
///
/// # Errors
/// The error of the storage or the catalog. The import is intact even so, and the next call tries again.
pub async fn write_manifest(
    catalog: &Catalog,
    backend: &Arc<dyn StorageBackend>,
    row: &ImportRow,
) -> Result<bool> {
    let row = catalog.get(&row.id).await?;
    let stored_digest = catalog.manifest_digest(&row.id).await?;
    if !matches!(row.state, ImportState::Importing | ImportState::Imported) {
        return Ok(false);
    }
    let manifest = describe(catalog, &row).await?;
    if manifest.objects.is_empty() && row.state == ImportState::Importing && stored_digest.is_none()
    {
        return Ok(false);
    }
    let encoded = manifest.encode()?;
    drop(manifest);
    if stored_digest.as_ref() == Some(&encoded.digest) {
        return Ok(false);
    }
    let object = catalog.intend_manifest(&row.id, encoded.bytes.len() as u64).await?;
    let key = Key::new(&object.key)?;
    backend.put(&key, Payload::from_iter([Bytes::from(encoded.bytes)])).await?;
    let older = catalog.commit_manifest(object.num, encoded.digest).await?;
    for old in older {
        if let Err(e) = remove(catalog, backend, &old).await {
            tracing::warn!("import {}: an older manifest was not deleted: {}", row.id, e.report());
        }
    }
    Ok(true)
}

async fn remove(
    catalog: &Catalog,
    backend: &Arc<dyn StorageBackend>,
    old: &ObjectRow,
) -> Result<()> {
    backend.delete(&Key::new(&old.key)?).await?;
    catalog.drop_objects(vec![old.num]).await
}

async fn describe(catalog: &Catalog, row: &ImportRow) -> Result<Manifest> {
    let mut extents: HashMap<ObjectNum, Vec<Extent>> = HashMap::new();
    let contents = catalog.contents(&row.id).await?;
    for extent in contents.extents {
        extents.entry(extent.object).or_default().push(extent);
    }
    let adopted = contents.adopted.into_iter();
    let mut tags: HashMap<String, Option<String>> =
        adopted.map(|(key, _, tag)| (key, tag)).collect();
    let shared: HashSet<_> = catalog.shared_objects(&row.id).await?.into_iter().collect();
    let object = |object: ObjectRow| {
        let held = extents.remove(&object.num).unwrap_or_default();
        Ok(ManifestObject {
            key: Key::new(&object.key)?,
            len: object.len,
            role: object.role,
            packed: object.packed,
            extents: held.into_iter().map(|extent| (extent.range, extent.offset)).collect(),
            tag: tags.remove(&object.key).flatten().filter(|_| object.role == Role::Adopted),
            encoding: object.encoding,
            root: object.root,
            shared: shared.contains(&object.num),
        })
    };
    let objects = contents.objects.into_iter();
    let listed = objects.filter(|o| o.is_stored() && o.role != Role::Manifest);
    let objects = listed.map(object).collect::<Result<_>>()?;
    Ok(Manifest {
        catalog: catalog.id().to_owned(),
        import: row.id.clone(),
        name: row.name.clone(),
        source: redact::without_password(&row.source),
        info_hash_v1: row.info_hash_v1,
        info_hash_v2: row.info_hash_v2,
        len: row.len,
        chunk_len: row.chunk_len,
        layout: row.layout,
        selected: row.selected.clone(),
        state: row.state,
        created_at: row.created_at,
        completed_at: row.completed_at,
        metainfo: catalog.metainfo(&row.id).await?,
        remote: catalog.source_record(&row.id).await?,
        files: contents.files,
        objects,
    })
}
