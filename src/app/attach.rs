//! `attach`: adds the imports of a storage to this catalog, from the manifests in that storage.

use super::{App, AttachReport, AttachedImport, SkippedImport, place::Place, plan::file_rows};
use crate::{
    catalog::{FileRow, ImportRow, ImportState, KeyState, Role},
    error::{Error, Kind, Result},
    names,
    storage::{
        attach::{Found, Survey, survey},
        manifest::Manifest,
    },
    torrents::metainfo::Metainfo,
};

impl App {
    /// Adds the imports in a storage that this catalog does not have, without reading payload. With `dry_run` nothing
    /// is recorded. Known imports, unusable manifests, and imports whose objects another one has are listed in the
    /// report.
    ///
    /// # Errors
    /// `NotFound` when the storage has no manifest; otherwise the error of the storage or the catalog.
    pub async fn attach(&self, storage: &str, dry_run: bool) -> Result<AttachReport> {
        let place = self.place(storage).await?;
        let Survey { imports, refused, numbers } = survey(&*place.backend).await?;
        if imports.is_empty() && refused.is_empty() {
            let text = format!("storage {:?} has no manifest of an import", place.name);
            return Err(Error::new(Kind::NotFound, text)
                .hint("name the place as it was named when things were imported there"));
        }
        if let Some(seen) = numbers.get(self.catalog.id()).filter(|_| !dry_run) {
            // A copy of this catalog has used these object numbers already. Skip them, so that no key is used twice.
            self.catalog.skip_numbers(*seen).await?;
        }
        let mut report = AttachReport { refused, ..AttachReport::default() };
        for found in imports {
            self.take_in(found, &place, dry_run, &mut report).await?;
        }
        Ok(report)
    }

    async fn take_in(
        &self,
        found: Found,
        place: &Place,
        dry_run: bool,
        report: &mut AttachReport,
    ) -> Result<()> {
        let (was, name) = (found.manifest.import.to_string(), found.manifest.name.clone());
        if let Some(reason) = self.reason_to_skip(&found, place)? {
            report.skipped.push(SkippedImport { id: was, name, reason });
            return Ok(());
        }
        if let Err(e) = check_torrent(&found) {
            report.refused.push(e.within(format_args!("manifest of import {was} ({name})")));
            return Ok(());
        }
        let (missing, lost, stored) = (found.missing.len(), found.lost(), found.stored());
        let attached = found.into_attached(&place.name);
        let (state, bytes) = (attached.state, attached.new.len);
        let id = match dry_run {
            true => was.clone(),
            false => match self.catalog.attach_import(attached).await {
                Ok(row) => row.id.to_string(),
                Err(e) if e.kind() == Kind::AlreadyExists => {
                    report.refused.push(e.within(format_args!("import {was} ({name})")));
                    return Ok(());
                }
                Err(e) => return Err(e),
            },
        };
        let state = state.as_str().to_owned();
        let was = Some(was).filter(|was| *was != id);
        let import = AttachedImport { id, was, name, bytes, stored, state, missing, lost };
        report.attached.push(import);
        Ok(())
    }

    /// The reason why an import is not attached: this catalog has it already. `None` if it can be attached.
    fn reason_to_skip(&self, found: &Found, place: &Place) -> Result<Option<String>> {
        let manifest = &found.manifest;
        let in_place = |row: &ImportRow| row.storage == place.name;
        let same_torrent = |row: &ImportRow| {
            (row.info_hash_v1, row.info_hash_v2) == (manifest.info_hash_v1, manifest.info_hash_v2)
        };
        let of_torrent =
            self.catalog.find_by_info_hash(manifest.info_hash_v1, manifest.info_hash_v2)?;
        let mut here: Vec<ImportRow> = of_torrent.into_iter().filter(in_place).collect();
        match self.catalog.get(&manifest.import) {
            Ok(row) if in_place(&row) && same_torrent(&row) => here.insert(0, row),
            Ok(_) => {}
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => return Err(e),
        }
        if let Some(row) = here.first() {
            let id = &row.id;
            return Ok(Some(match row.state {
                ImportState::Kept => {
                    format!("it is here as {id}, out of sight: import its torrent again")
                }
                ImportState::Removing => format!("it is here as {id}, being removed"),
                ImportState::Importing | ImportState::Imported => format!("it is here as {id}"),
            }));
        }
        // Two imports with the same objects would delete each other's. So the import is refused also when the same
        // storage is known by another name. Its manifests tell that where all objects have names of files.
        let ours = manifest.objects.iter().filter(|object| object.role != Role::Adopted);
        let manifests = found.manifests.iter().map(|(key, _)| key.as_str());
        let keys = ours.map(|object| object.key.as_str()).chain(manifests);
        let states = self.catalog.key_states(&place.name, keys)?;
        let known = states.iter().any(|state| *state != KeyState::No);
        let reason =
            "another import has objects of these names; is this its storage by another name?";
        Ok(known.then(|| reason.to_owned()))
    }
}

/// Checks a manifest against its torrent, whose hashes verify the bytes: name, files and length must agree. A manifest
/// without a torrent has no hashes; its file names must be as safe as those taken from a server.
fn check_torrent(found: &Found) -> Result<()> {
    let manifest = &found.manifest;
    let no_hash = manifest.info_hash_v1.is_none() && manifest.info_hash_v2.is_none();
    if manifest.metainfo.is_empty() && no_hash {
        return check_names(&manifest.files);
    }
    let meta = Metainfo::parse(&manifest.metainfo)
        .map_err(|e| Error::new(Kind::Corrupt, "its torrent cannot be used").because(e))?;
    let hashes = (meta.info_hash_v1, meta.info_hash_v2);
    let same = hashes == (manifest.info_hash_v1, manifest.info_hash_v2)
        && meta.len == manifest.len
        && same_names(&meta, manifest);
    let differs = || Error::new(Kind::Corrupt, "it says other things than its torrent");
    same.then_some(()).ok_or_else(differs)
}

/// Whether the manifest lists the torrent's files. Where names had to be guessed (from an unknown encoding), another
/// bae may have guessed differently: other names are accepted if they are safe.
fn same_names(meta: &Metainfo, manifest: &Manifest) -> bool {
    if meta.name == manifest.name && file_rows(meta) == manifest.files {
        return true;
    }
    let mut renamed = meta.clone();
    renamed.keep_names(manifest.files.iter().map(|file| file.path.clone()));
    let real = manifest.files.iter().filter(|file| !file.pad);
    meta.guessed_names
        && renamed.name == manifest.name
        && file_rows(&renamed) == manifest.files
        && refuse_unsafe(real.map(|file| file.path.as_str())).is_ok()
}

fn check_names(files: &[FileRow]) -> Result<()> {
    if files.iter().any(|file| file.pad) {
        return Err(Error::new(Kind::Corrupt, "it has files that no server gives"));
    }
    refuse_unsafe(files.iter().map(|file| file.path.as_str()))
}

fn refuse_unsafe<'a>(paths: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
    let unsafe_name = |e: Error| Error::new(Kind::Corrupt, "it has an unsafe name").because(e);
    for path in paths.clone() {
        let safe = names::path_of_server(path).map_err(unsafe_name)?;
        if safe != path {
            return Err(Error::new(Kind::Corrupt, "it has files that no server gives"));
        }
    }
    names::refuse_collisions(paths).map_err(unsafe_name)
}
