//! `attach`: adds the imports of a storage to this catalog, from the manifests in that storage.

use crate::{
    catalog::{FileRow, ImportRow, ImportState, KeyState, Role},
    engine::{
        AttachReport, AttachedImport, Engine, SkippedImport, plan::file_rows,
        storages::open_storage::OpenStorage,
    },
    error::{Error, Kind, Result},
    names,
    storage::recover::{
        attach::{FoundImport, Survey, survey},
        manifest::{Manifest, ManifestObject},
    },
    torrents::metainfo::Metainfo,
};

impl Engine {
    /// Adds the imports in a storage that this catalog does not have, without reading payload. With `dry_run` nothing
    /// is recorded. Known imports, unusable manifests, and imports whose objects another one has are listed in the
    /// report.
    ///
    /// # Errors
    /// `NotFound` when the storage has no manifest; otherwise the error of the storage or the catalog.
    pub async fn attach(&self, storage: &str, dry_run: bool) -> Result<AttachReport> {
        let opened = self.storage(storage).await?;
        let Survey { imports, refused, numbers } = survey(&*opened.backend).await?;
        if imports.is_empty() && refused.is_empty() {
            let text = format!("storage {:?} has no manifest of an import", opened.name);
            return Err(Error::new(Kind::NotFound, text)
                .hint("use the name or URL of the storage that the imports were made with"));
        }
        if let Some(seen) = numbers.get(self.catalog.id()).filter(|_| !dry_run) {
            // A copy of this catalog has used these object numbers already. Skip them, so that no key is used twice.
            self.catalog.skip_numbers(*seen).await?;
        }
        let mut report = AttachReport { refused, ..AttachReport::default() };
        for found in imports {
            self.attach_one(found, &opened, dry_run, &mut report).await?;
        }
        Ok(report)
    }

    async fn attach_one(
        &self,
        found: FoundImport,
        storage: &OpenStorage,
        dry_run: bool,
        report: &mut AttachReport,
    ) -> Result<()> {
        let (old_id, name) = (found.manifest.import.to_string(), found.manifest.name.clone());
        if let Some(reason) = self.reason_to_skip(&found, storage).await? {
            report.skipped.push(SkippedImport { id: old_id, name, reason });
            return Ok(());
        }
        if let Err(e) = check_torrent(&found) {
            report
                .refused
                .push(e.with_context(format_args!("manifest of import {old_id} ({name})")));
            return Ok(());
        }
        let (missing, lost, stored) =
            (found.missing.len(), found.missing_bytes(), found.stored_bytes());
        let attached = found.into_attached(&storage.name);
        let (state, bytes) = (attached.state, attached.new.len);
        let id = match dry_run {
            true => old_id.clone(),
            false => match self.catalog.attach_import(attached).await {
                Ok(row) => row.id.to_string(),
                Err(e) if e.kind() == Kind::AlreadyExists => {
                    report.refused.push(e.with_context(format_args!("import {old_id} ({name})")));
                    return Ok(());
                }
                Err(e) => return Err(e),
            },
        };
        let old_id = Some(old_id).filter(|old_id| *old_id != id);
        let import = AttachedImport { id, old_id, name, bytes, stored, state, missing, lost };
        report.attached.push(import);
        Ok(())
    }

    /// The reason why an import is not attached: this catalog has it already. `None` if it can be attached.
    async fn reason_to_skip(
        &self,
        found: &FoundImport,
        storage: &OpenStorage,
    ) -> Result<Option<String>> {
        let manifest = &found.manifest;
        let in_storage = |row: &ImportRow| row.storage == storage.name;
        let same_torrent = |row: &ImportRow| {
            (row.info_hash_v1, row.info_hash_v2) == (manifest.info_hash_v1, manifest.info_hash_v2)
        };
        let same_hash =
            self.catalog.find_by_info_hash(manifest.info_hash_v1, manifest.info_hash_v2).await?;
        let mut known: Vec<ImportRow> = same_hash.into_iter().filter(in_storage).collect();
        match self.catalog.get(&manifest.import).await {
            Ok(row) if in_storage(&row) && same_torrent(&row) => known.insert(0, row),
            Ok(_) => {}
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => return Err(e),
        }
        if let Some(row) = known.first() {
            let id = &row.id;
            return Ok(Some(match row.state {
                ImportState::Kept => {
                    format!(
                        "already in the catalog as hidden import {id}: import its torrent again to show it"
                    )
                }
                ImportState::Removing => {
                    format!("already in the catalog as {id}, which is being removed")
                }
                ImportState::Importing | ImportState::Imported => {
                    format!("already in the catalog as {id}")
                }
            }));
        }
        // Two imports with the same objects would delete each other's. So the import is refused also when the same
        // storage is known by another name. Its manifests tell that where all objects have names of files.
        let is_own = |object: &&ManifestObject| object.role != Role::Adopted && !object.shared;
        let own = manifest.objects.iter().filter(is_own);
        let manifests = found.manifests.iter().map(|(key, _)| key.as_str());
        let keys = own.map(|object| object.key.as_str()).chain(manifests);
        let states =
            self.catalog.key_states(&storage.name, keys.map(str::to_owned).collect()).await?;
        let is_taken = states.iter().any(|state| *state != KeyState::Unknown);
        let reason =
            "another import has objects with these keys; is this its storage under another name?";
        Ok(is_taken.then(|| reason.to_owned()))
    }
}

/// Checks a manifest against its torrent, whose hashes verify the bytes: name, files and length must agree. A manifest
/// without a torrent has no hashes; its file names must be as safe as those taken from a server.
fn check_torrent(found: &FoundImport) -> Result<()> {
    let manifest = &found.manifest;
    let no_hash = manifest.info_hash_v1.is_none() && manifest.info_hash_v2.is_none();
    if manifest.metainfo.is_empty() && no_hash {
        return check_names(&manifest.files);
    }
    let meta = Metainfo::parse(&manifest.metainfo).map_err(|e| {
        Error::new(Kind::Corrupt, "the torrent in the manifest is malformed").because(e)
    })?;
    let hashes = (meta.info_hash_v1, meta.info_hash_v2);
    let same = hashes == (manifest.info_hash_v1, manifest.info_hash_v2)
        && meta.len == manifest.len
        && same_names(&meta, manifest);
    let differs = || Error::new(Kind::Corrupt, "the manifest does not match its torrent");
    same.then_some(()).ok_or_else(differs)
}

/// Whether the manifest lists the torrent's files. Where names had to be guessed (from an unknown encoding), another
/// bae may have guessed differently: other names are accepted if they are safe.
fn same_names(meta: &Metainfo, manifest: &Manifest) -> bool {
    if meta.name == manifest.name && file_rows(meta) == manifest.files {
        return true;
    }
    let mut renamed = meta.clone();
    renamed.rename_files(manifest.files.iter().map(|file| file.path.clone()));
    let real = manifest.files.iter().filter(|file| !file.pad);
    meta.guessed_names
        && renamed.name == manifest.name
        && file_rows(&renamed) == manifest.files
        && check_paths_safe(real.map(|file| file.path.as_str())).is_ok()
}

fn check_names(files: &[FileRow]) -> Result<()> {
    if files.iter().any(|file| file.pad) {
        return Err(Error::new(
            Kind::Corrupt,
            "the manifest has file names that no server can have",
        ));
    }
    check_paths_safe(files.iter().map(|file| file.path.as_str()))
}

fn check_paths_safe<'a>(paths: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
    let unsafe_name =
        |e: Error| Error::new(Kind::Corrupt, "the manifest has an unsafe file name").because(e);
    for path in paths.clone() {
        let safe = names::server_path(path).map_err(unsafe_name)?;
        if safe != path {
            return Err(Error::new(
                Kind::Corrupt,
                "the manifest has file names that no server can have",
            ));
        }
    }
    names::reject_collisions(paths).map_err(unsafe_name)
}
