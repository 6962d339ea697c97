//! Duplicate paths, and files at the path of a folder: the later ones get a number, as in libtorrent.

use std::collections::{HashMap, HashSet};

use crate::{names::with_tag, torrents::layout::File};

/// Gives every file a unique path. Pads are left alone: their paths have no meaning.
pub(in crate::torrents) fn number(files: &mut [File]) {
    if !collide(files) {
        return;
    }
    let renamed = plan(files);
    for (index, path) in renamed {
        files[index].path = path;
    }
}

/// Whether a path occurs twice, or is the folder of another path.
fn collide(files: &[File]) -> bool {
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
fn plan(files: &[File]) -> Vec<(usize, String)> {
    let folders = folders(files);
    let paths: HashSet<&str> = real(files).map(|(_, file)| file.path.as_str()).collect();
    let (mut seen, mut given, mut counts) = (HashSet::new(), HashSet::new(), HashMap::new());
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
            if !used && given.insert(path.clone()) {
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
        Some((folder, name)) => format!("{folder}/{}", with_tag(name, &tag)),
        None => with_tag(path, &tag),
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
        number(&mut files);
        files.into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn the_second_of_a_path_gets_a_number() {
        assert_eq!(numbered(&["t/a", "t/b", "t/A"]), ["t/a", "t/b", "t/A"]);
        assert_eq!(numbered(&["t/a", "t/a", "t/a"]), ["t/a", "t/a.1", "t/a.2"]);
        assert_eq!(numbered(&["t/a.txt", "t/a.txt"]), ["t/a.txt", "t/a.1.txt"]);
        assert_eq!(numbered(&["t/.pad/5", "t/.pad/5"]), ["t/.pad/5", "t/.pad/5"]);
    }

    #[test]
    fn a_number_takes_no_name_that_another_file_has() {
        let given = numbered(&["t/a", "t/a", "t/a.1", "t/a.2/x", "t/a"]);
        assert_eq!(given, ["t/a", "t/a.3", "t/a.1", "t/a.2/x", "t/a.4"]);
    }

    #[test]
    fn a_file_gives_way_to_a_folder() {
        assert_eq!(numbered(&["t/a", "t/a/b/c", "t/a"]), ["t/a.1", "t/a/b/c", "t/a.2"]);
        assert_eq!(numbered(&["t/a!", "t/a/x/y", "t/a"]), ["t/a!", "t/a/x/y", "t/a.1"]);
        assert_eq!(numbered(&["t/a/b", "t/a/b/c"]), ["t/a/b.1", "t/a/b/c"]);
    }

    #[test]
    fn many_of_one_name_are_cheap() {
        let many = numbered(&["t/a"; 50_000]);
        assert_eq!(many.iter().collect::<HashSet<_>>().len(), 50_000);
    }
}
