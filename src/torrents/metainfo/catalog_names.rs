//! The file names of an import as the catalog has them. They stay as they were at the import, although the names in the
//! torrent might be read differently today.

use std::collections::HashMap;

use super::Metainfo;

impl Metainfo {
    /// Renames the files to the paths of the catalog, one path per file. Symbolic links are changed to the new paths of
    /// their targets. Does nothing when the number of paths differs.
    pub fn rename_files(&mut self, paths: impl ExactSizeIterator<Item = String>) {
        if paths.len() != self.files.len() {
            return;
        }
        let mut renamed = HashMap::new();
        for (file, path) in self.files.iter_mut().zip(paths) {
            if file.path != path && !file.pad {
                renamed.extend(prefixes(&file.path).zip(prefixes(&path)).filter(|(a, b)| a != b));
            }
            file.path = path;
        }
        for file in &mut self.files {
            if let Some(path) = file.symlink.as_ref().and_then(|to| renamed.get(to)) {
                file.symlink = Some(path.clone());
            }
        }
        let first = self.files.first().map(|file| file.path.as_str()).unwrap_or_default();
        self.name = first.split('/').next().unwrap_or_default().to_owned();
    }
}

/// `a/b/c` gives `a`, `a/b` and `a/b/c`.
fn prefixes(path: &str) -> impl Iterator<Item = String> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.map(|end| path[..end].to_owned())
}
