//! Duplicate paths, and files at the path of a folder: the later ones get a number, as in libtorrent.

use std::collections::{HashMap, HashSet};

use crate::{names::with_suffix, torrents::metainfo::file_layout::File};

/// Gives every file a unique path. Pads are left alone: their paths have no meaning.
pub(in crate::torrents) fn number_duplicates(files: &mut [File]) {
    if !has_duplicates(files) {
        return;
    }
    let renamed = plan_renames(files);
    for (index, path) in renamed {
        files[index].path = path;
    }
}

/// Whether a path occurs twice, or is the folder of another path.
fn has_duplicates(files: &[File]) -> bool {
    let mut paths: Vec<&str> = real(files).map(|(_, file)| file.path.as_str()).collect();
    // By component, so that a file inside `a` directly follows `a`, before `a.txt`.
    paths.sort_unstable_by(|a, b| a.split('/').cmp(b.split('/')));
    let clash = |pair: &[&str]| match pair[1].strip_prefix(pair[0]) {
        Some(rest) => rest.is_empty() || rest.starts_with('/'),
        None => false,
    };
    paths.windows(2).any(clash)
}

/// The files that get another path. The first file of a path keeps it, unless the path is a folder.
fn plan_renames(files: &[File]) -> Vec<(usize, String)> {
    let folders = folders(files);
    let paths: HashSet<&str> = real(files).map(|(_, file)| file.path.as_str()).collect();
    let (mut seen, mut assigned, mut counts) = (HashSet::new(), HashSet::new(), HashMap::new());
    let mut renamed = Vec::new();
    for (index, file) in real(files) {
        let path = file.path.as_str();
        if seen.insert(path) && !folders.contains(path) {
            continue;
        }
        let count = counts.entry(path).or_insert(0u32);
        let free = loop {
            *count += 1;
            let path = numbered(path, *count);
            let used = paths.contains(path.as_str()) || folders.contains(path.as_str());
            if !used && assigned.insert(path.clone()) {
                break path;
            }
        };
        renamed.push((index, free));
    }
    renamed
}

fn real(files: &[File]) -> impl Iterator<Item = (usize, &File)> {
    files.iter().enumerate().filter(|(_, file)| !file.pad)
}

/// Every folder that contains a file or a folder.
fn folders(files: &[File]) -> HashSet<&str> {
    let mut folders = HashSet::new();
    for (_, file) in real(files) {
        let mut path = file.path.as_str();
        // If a folder is known, all folders above it are known too.
        while let Some((folder, _)) = path.rsplit_once('/')
            && folders.insert(folder)
        {
            path = folder;
        }
    }
    folders
}

/// `a/b.txt` becomes `a/b.1.txt`.
fn numbered(path: &str, number: u32) -> String {
    let tag = format!(".{number}");
    match path.rsplit_once('/') {
        Some((folder, name)) => format!("{folder}/{}", with_suffix(name, &tag)),
        None => with_suffix(path, &tag),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(paths: &[&str]) -> Vec<String> {
        let file = |path: &&str| File {
            path: (*path).to_owned(),
            range: 0..1,
            pad: path.contains(".pad"),
            executable: false,
            symlink: None,
        };
        let mut files: Vec<File> = paths.iter().map(file).collect();
        number_duplicates(&mut files);
        files.into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn later_duplicates_get_a_number() {
        assert_eq!(numbered(&["t/a", "t/b", "t/A"]), ["t/a", "t/b", "t/A"]);
        assert_eq!(numbered(&["t/a", "t/a", "t/a"]), ["t/a", "t/a.1", "t/a.2"]);
        assert_eq!(numbered(&["t/a.txt", "t/a.txt"]), ["t/a.txt", "t/a.1.txt"]);
        assert_eq!(numbered(&["t/.pad/5", "t/.pad/5"]), ["t/.pad/5", "t/.pad/5"]);
    }

    #[test]
    fn a_numbered_path_is_never_that_of_another_file() {
        let paths = numbered(&["t/a", "t/a", "t/a.1", "t/a.2/x", "t/a"]);
        assert_eq!(paths, ["t/a", "t/a.3", "t/a.1", "t/a.2/x", "t/a.4"]);
    }

    #[test]
    fn a_file_at_the_path_of_a_folder_gets_a_number() {
        assert_eq!(numbered(&["t/a", "t/a/b/c", "t/a"]), ["t/a.1", "t/a/b/c", "t/a.2"]);
        assert_eq!(numbered(&["t/a!", "t/a/x/y", "t/a"]), ["t/a!", "t/a/x/y", "t/a.1"]);
        assert_eq!(numbered(&["t/a/b", "t/a/b/c"]), ["t/a/b.1", "t/a/b/c"]);
    }

    #[test]
    fn many_duplicates_are_numbered_fast() {
        let many = numbered(&["t/a"; 50_000]);
        assert_eq!(many.iter().collect::<HashSet<_>>().len(), 50_000);
    }
}
