//! The files and folders of a torrent by path, with and without the torrent's name.

use std::collections::{HashMap, HashSet};

use crate::torrents::metainfo::File;

/// Built once for a selection that does not consist of numbers alone.
pub(super) struct PathIndex<'a> {
    all: &'a [File],
    files: HashMap<&'a str, usize>,
    /// By the path without the torrent's name.
    inner: HashMap<&'a str, usize>,
    folders: HashSet<&'a str>,
    max_commas: usize,
}

impl<'a> PathIndex<'a> {
    pub(super) fn of(all: &'a [File]) -> Self {
        let (files, inner, folders) = (HashMap::new(), HashMap::new(), HashSet::new());
        let mut paths = Self { all, files, inner, folders, max_commas: 0 };
        for (index, file) in all.iter().enumerate().filter(|(_, file)| !file.pad) {
            let path = file.path.as_str();
            paths.max_commas = paths.max_commas.max(path.matches(',').count());
            paths.files.insert(path, index);
            paths.add_folders(path);
            if let Some((_, inner)) = path.split_once('/') {
                paths.inner.insert(inner, index);
                paths.add_folders(inner);
            }
        }
        paths
    }

    fn add_folders(&mut self, mut path: &'a str) {
        // If a folder is known, all folders above it are known too.
        while let Some((folder, _)) = path.rsplit_once('/')
            && self.folders.insert(folder)
        {
            path = folder;
        }
    }

    /// The largest number of commas in a path.
    pub(super) fn max_commas(&self) -> usize {
        self.max_commas
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.file(path).is_some() || self.folders.contains(without_slash(path))
    }

    /// The files that a path selects. A path that ends with a slash, or is not a file, is a folder.
    pub(super) fn find(&self, path: &str) -> Option<Vec<usize>> {
        if let Some(file) = self.file(path) {
            return Some(vec![file]);
        }
        let folder = without_slash(path);
        self.folders.contains(folder).then(|| self.files_below(folder))
    }

    /// The file at a path. The path with the torrent's name is tried first, then the one without it.
    fn file(&self, path: &str) -> Option<usize> {
        self.files.get(path).or_else(|| self.inner.get(path)).copied()
    }

    fn files_below(&self, folder: &str) -> Vec<usize> {
        let is_below = |path: &str| path.strip_prefix(folder).is_some_and(|p| p.starts_with('/'));
        let chosen = |file: &File| {
            let inner = file.path.split_once('/').map(|(_, inner)| inner);
            !file.pad && (is_below(&file.path) || inner.is_some_and(is_below))
        };
        (0..self.all.len()).filter(|index| chosen(&self.all[*index])).collect()
    }
}

fn without_slash(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}
