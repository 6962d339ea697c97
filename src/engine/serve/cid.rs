//! Computes the CIDs of the files of an import, and of the folder that they make, from the stored bytes in one pass.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use super::read::find_file;
use crate::{
    catalog::FileRow,
    engine::{Engine, ReadStream, plan::is_selected},
    error::{Error, Kind, Result},
    protocols::{CidProfile, FileImporter, FolderEntry, ImportedNode, import_folder},
};

/// The CID of a file, or of the folder of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ContentCid {
    /// Path inside the import.
    pub path: String,
    pub bytes: u64,
    pub cid: String,
    /// Name of the way in which the file is split.
    pub profile: &'static str,
    pub folder: bool,
}

impl Engine {
    /// Computes the CID of the file at `path`, or of all selected files and then of their folder. Calls `found` with
    /// each CID as soon as it is known.
    ///
    /// # Errors
    /// `NotFound` for an unknown import or file, and for bytes that are not stored; errors of the backend.
    pub async fn cids(
        &self,
        import_ref: &str,
        path: Option<&str>,
        profile: CidProfile,
        mut found: impl FnMut(ContentCid) -> Result<()>,
    ) -> Result<()> {
        let row = self.catalog.find(import_ref).await?;
        let files = self.catalog.files(&row.id).await?;
        let selected: Vec<&FileRow> = match path {
            Some(_) => vec![find_file(&row, &files, path)?],
            None => {
                let numbered = files.iter().enumerate();
                let wanted = numbered.filter(|(n, _)| is_selected(row.selected.as_deref(), *n));
                wanted.map(|(_, file)| file).filter(|file| !file.pad).collect()
            }
        };
        let reader = self.open_verifying(&row).await?;
        let mut folder = FolderTree::default();
        for file in selected {
            let range = file.start..file.start + file.len;
            let mut stream = ReadStream::new(reader.clone(), range);
            let mut importer = FileImporter::new(profile);
            while let Some(bytes) = stream.next().await? {
                importer.update(&bytes, &mut |_, _| {});
            }
            let node = importer.finish(&mut |_, _| {});
            found(describe(&file.path, &node, profile, false))?;
            folder.add(&file.path, node);
        }
        // A file by itself is no folder. A folder begins with the name of the import.
        if let (None, [FolderPart::Folder(top)]) = (path, folder.parts().as_slice()) {
            let node = top.import(profile)?;
            found(describe(&row.name, &node, profile, true))?;
        }
        Ok(())
    }
}

fn describe(path: &str, node: &ImportedNode, profile: CidProfile, folder: bool) -> ContentCid {
    let (path, cid) = (path.to_owned(), node.cid.to_string());
    ContentCid { path, bytes: node.len, cid, profile: profile.name(), folder }
}

/// The files of an import by their paths.
#[derive(Debug, Default)]
struct FolderTree(BTreeMap<String, FolderPart>);

#[derive(Debug)]
enum FolderPart {
    File(ImportedNode),
    Folder(FolderTree),
}

impl FolderTree {
    fn add(&mut self, path: &str, node: ImportedNode) {
        match path.split_once('/') {
            None => drop(self.0.insert(path.to_owned(), FolderPart::File(node))),
            Some((name, rest)) => {
                let folder = || FolderPart::Folder(Self::default());
                if let FolderPart::Folder(folder) =
                    self.0.entry(name.to_owned()).or_insert_with(folder)
                {
                    folder.add(rest, node);
                }
            }
        }
    }

    fn parts(&self) -> Vec<&FolderPart> {
        self.0.values().collect()
    }

    fn import(&self, profile: CidProfile) -> Result<ImportedNode> {
        let mut entries = Vec::with_capacity(self.0.len());
        for (name, part) in &self.0 {
            let node = match part {
                FolderPart::File(node) => node.clone(),
                FolderPart::Folder(folder) => folder.import(profile)?,
            };
            entries.push(FolderEntry { name: Bytes::copy_from_slice(name.as_bytes()), node });
        }
        import_folder(profile, entries, &mut |_, _| {}).ok_or_else(|| {
            Error::new(Kind::Unsupported, "two names of the folder have the same hash")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(profile: CidProfile, text: &str) -> ImportedNode {
        let mut importer = FileImporter::new(profile);
        importer.update(text.as_bytes(), &mut |_, _| {});
        importer.finish(&mut |_, _| {})
    }

    #[test]
    fn folders_are_made_of_the_paths_of_files() {
        let mut tree = FolderTree::default();
        for (path, text) in [("top/a", "a"), ("top/sub/b", "b"), ("top/sub/c", "c")] {
            tree.add(path, node(CidProfile::UnixfsV0, text));
        }
        let parts = tree.parts();
        let [FolderPart::Folder(top)] = parts.as_slice() else { panic!("{parts:?}") };
        let Some(FolderPart::Folder(sub)) = top.0.get("sub") else { panic!("{top:?}") };
        let sub = sub.import(CidProfile::UnixfsV0).unwrap();
        let top = top.import(CidProfile::UnixfsV0).unwrap();
        assert!(top.cid.to_string().starts_with("Qm") && top.cid != sub.cid);
        assert!(top.total_len > sub.total_len);
    }
}
