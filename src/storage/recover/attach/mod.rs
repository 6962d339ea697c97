//! Finds the imports of a storage without a catalog, by their manifests.
//!
//! The storage is listed once for manifests. In each import's folder the newest usable manifest is read, and a listing
//! shows which of its objects exist. No payload is read. An import may have manifests in two folders, if it was
//! attached before and has written its own manifest since. It counts as one import: the version with more stored bytes
//! wins.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    manifest::{MAX_MANIFEST, Manifest, ManifestObject},
    presence::find_missing,
};
use crate::storage::map::generated_key::GeneratedKey;
use crate::{
    backends::{Key, ObjectInfo, StorageBackend},
    catalog::{ExistingObject, ImportId, ImportState, ImportWithObjects, NewImport},
    error::{Error, Kind, Result},
};

/// An import that was found in a storage.
#[derive(Debug)]
pub struct FoundImport {
    /// Without the objects that are missing.
    pub manifest: Manifest,
    /// Key and length of each of its manifests, in all folders.
    pub manifests: Vec<(String, u64)>,
    /// The catalogs in whose folders it has manifests or objects.
    pub catalogs: BTreeSet<String>,
    /// Objects that its manifest names and that are missing or have another length.
    pub missing: Vec<ManifestObject>,
}

impl FoundImport {
    /// The number of bytes of the import in objects that exist.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        bytes_in(&self.manifest.objects)
    }

    /// The number of bytes of the import in the missing objects.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        bytes_in(&self.missing)
    }
}

impl FoundImport {
    /// Converts it to an import of `storage` for the catalog. It is complete only when nothing is missing.
    #[must_use]
    pub fn into_attached(self, storage: &str) -> ImportWithObjects {
        let Self { manifest, manifests, catalogs, missing } = self;
        let complete = missing.is_empty() && manifest.state == ImportState::Imported;
        let object = |object: ManifestObject| ExistingObject {
            key: object.key.to_string(),
            len: object.len,
            role: object.role,
            packed: object.packed,
            extents: object.extents,
            tag: object.tag,
            encoding: object.encoding,
            root: object.root,
            shared: object.shared,
        };
        ImportWithObjects {
            id: manifest.import,
            state: if complete { ImportState::Imported } else { ImportState::Importing },
            created_at: manifest.created_at,
            completed_at: manifest.completed_at,
            objects: manifest.objects.into_iter().map(object).collect(),
            manifests,
            catalogs: catalogs.into_iter().collect(),
            new: NewImport {
                name: manifest.name,
                source: manifest.source,
                info_hash_v1: manifest.info_hash_v1,
                info_hash_v2: manifest.info_hash_v2,
                len: manifest.len,
                storage: storage.to_owned(),
                chunk_len: manifest.chunk_len,
                layout: manifest.layout,
                metainfo: manifest.metainfo,
                files: manifest.files,
                selected: manifest.selected,
                source_record: manifest.remote,
            },
        }
    }
}

fn bytes_in(objects: &[ManifestObject]) -> u64 {
    let extents = objects.iter().flat_map(|object| &object.extents);
    extents.map(|(range, _)| range.end - range.start).sum()
}

/// The content of a storage.
#[derive(Debug, Default)]
pub struct Survey {
    pub imports: Vec<FoundImport>,
    /// Manifests that cannot be used, with the reason.
    pub refused: Vec<Error>,
    /// For each catalog the highest number in one of its keys.
    pub numbers: BTreeMap<String, u64>,
}

/// Searches a storage for imports.
///
/// # Errors
/// When the storage cannot be listed or read.
pub async fn survey(backend: &dyn StorageBackend) -> Result<Survey> {
    let mut survey = Survey::default();
    let mut folders: BTreeMap<String, Vec<(u64, ObjectInfo)>> = BTreeMap::new();
    let mut page = backend.list("", None).await?;
    loop {
        for object in page.objects {
            let Some(own_key) = GeneratedKey::parse(object.key.as_str()) else { continue };
            let highest = survey.numbers.entry(own_key.catalog.to_owned()).or_default();
            *highest = own_key.number.max(*highest);
            if own_key.is_manifest {
                folders.entry(own_key.folder()).or_default().push((own_key.number, object));
            }
        }
        let Some(next) = page.next else { break };
        page = backend.list("", Some(&next)).await?;
    }
    let mut imports: HashMap<Identity, Vec<FoundImport>> = HashMap::new();
    for manifests in folders.into_values() {
        if let Some(found) = newest_manifest(backend, manifests, &mut survey.refused).await? {
            imports.entry(Identity::of(&found.manifest)).or_default().push(found);
        }
    }
    survey.imports = imports.into_values().filter_map(most_complete).collect();
    survey.imports.sort_by_key(|found| (found.manifest.created_at, found.manifest.import.clone()));
    Ok(survey)
}

/// Manifests with the same identity belong to one import.
#[derive(PartialEq, Eq, Hash)]
struct Identity(ImportId, Option<[u8; 20]>, Option<[u8; 32]>, u64);

impl Identity {
    fn of(manifest: &Manifest) -> Self {
        let Manifest { import, info_hash_v1, info_hash_v2, len, .. } = manifest;
        Self(import.clone(), *info_hash_v1, *info_hash_v2, *len)
    }
}

/// The newest usable manifest of a folder, with those of its objects that exist. A damaged manifest is skipped for the
/// one before it. A manifest of a newer bae is not skipped: it may hold more of the import than any older one.
async fn newest_manifest(
    backend: &dyn StorageBackend,
    mut manifests: Vec<(u64, ObjectInfo)>,
    refused: &mut Vec<Error>,
) -> Result<Option<FoundImport>> {
    manifests.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
    let all: Vec<_> = manifests.iter().map(|(_, o)| (o.key.to_string(), o.len)).collect();
    for (_, object) in &manifests {
        match read_manifest(backend, object).await {
            Ok(manifest) => return inspect(backend, manifest, all).await.map(Some),
            Err(e) if matches!(e.kind(), Kind::Corrupt | Kind::NotFound | Kind::Unsupported) => {
                let is_final = e.kind() == Kind::Unsupported;
                refused.push(e.with_context(format_args!("manifest {}", object.key)));
                if is_final {
                    return Ok(None);
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

async fn read_manifest(backend: &dyn StorageBackend, object: &ObjectInfo) -> Result<Manifest> {
    if object.len > MAX_MANIFEST {
        return Err(Error::new(
            Kind::Corrupt,
            format!("length of {} bytes is above the limit", object.len),
        ));
    }
    let manifest = Manifest::decode(&backend.get(&object.key, 0..object.len).await?)?;
    let folder = format!("{}/{}/", manifest.catalog, manifest.import);
    if !object.key.as_str().starts_with(&folder) {
        return Err(Error::new(Kind::Corrupt, format!("content belongs to {folder}")));
    }
    Ok(manifest)
}

async fn inspect(
    backend: &dyn StorageBackend,
    mut manifest: Manifest,
    manifests: Vec<(String, u64)>,
) -> Result<FoundImport> {
    let named: Vec<_> = manifest.objects.iter().map(|o| (o.key.as_str(), o.len)).collect();
    let missing_indices: BTreeSet<usize> =
        find_missing(backend, &named).await?.into_iter().collect();
    let keys = manifest.objects.iter().map(|object| &object.key);
    let mut catalogs: BTreeSet<String> = keys.filter_map(catalog_of).collect();
    catalogs.insert(manifest.catalog.clone());
    let (mut present, mut missing) = (Vec::new(), Vec::new());
    for (n, object) in std::mem::take(&mut manifest.objects).into_iter().enumerate() {
        if missing_indices.contains(&n) { missing.push(object) } else { present.push(object) }
    }
    manifest.objects = present;
    Ok(FoundImport { manifest, manifests, catalogs, missing })
}

fn catalog_of(key: &Key) -> Option<String> {
    GeneratedKey::parse(key.as_str()).map(|own_key| own_key.catalog.to_owned())
}

/// The version of an import with the most stored bytes. It takes over the manifests of the other versions.
fn most_complete(mut found: Vec<FoundImport>) -> Option<FoundImport> {
    found.sort_by_key(|found| (found.stored_bytes(), found.manifest.completed_at));
    let mut best = found.pop()?;
    for other in found {
        best.manifests.extend(other.manifests);
        best.catalogs.extend(other.catalogs);
    }
    Some(best)
}

#[cfg(test)]
mod tests;
