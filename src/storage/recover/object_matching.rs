//! Matches objects that are already in a storage to the files of a torrent, by name and length. Pure.
//!
//! A file matches the object under its path (with or without the torrent's name in front, or as bae would publish it)
//! if the length is the same. Else it matches the one object of its length, if no other file has that length. Hashing
//! shows later whether the bytes are those of the file.

use std::collections::HashMap;

use crate::storage::map::generated_key::GeneratedKey;
use crate::{
    backends::ObjectInfo,
    catalog::FileRow,
    storage::files::{file_names::ImportFolder, name_probe::RenamedPaths},
};

/// The match of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileMatch {
    /// The key of the object that may be the file.
    Object(String),
    /// The object of its name has another length.
    OtherLength(u64),
    /// Several objects have its length, and none has its name.
    Ambiguous,
    NoMatch,
}

/// Consumes a listing object by object; its memory depends on the torrent's files only.
#[derive(Debug)]
pub struct ObjectMatcher<'a> {
    files: &'a [FileRow],
    /// The file that each name belongs to, and the rank of that name: 0 is the best.
    names: HashMap<String, (usize, u8)>,
    /// For each file the best object under one of its names: the rank of the name, the key, the length.
    named: HashMap<usize, (u8, String, u64)>,
    /// For each length of a file: the number of objects with it, and the key of one of them.
    by_len: HashMap<u64, (usize, String)>,
}

impl<'a> ObjectMatcher<'a> {
    /// For `files` of one torrent. Pads and empty files match nothing: they need no object.
    #[must_use]
    pub fn new(files: &'a [FileRow]) -> Self {
        let (mut names, mut by_len) = (HashMap::new(), HashMap::new());
        for (index, file) in files.iter().enumerate().filter(|(_, file)| needs_object(file)) {
            by_len.insert(file.len, (0, String::new()));
            let without = file.path.split_once('/').map(|(_, rest)| rest.to_owned());
            let published = ImportFolder::torrent()
                .key(file, &RenamedPaths::default())
                .ok()
                .map(|key| key.to_string());
            let candidates = [Some(file.path.clone()), without, published];
            for (rank, name) in (0..).zip(candidates).filter_map(|(rank, name)| Some((rank, name?)))
            {
                names.entry(name).or_insert((index, rank));
            }
        }
        Self { files, names, named: HashMap::new(), by_len }
    }

    /// Adds one object of the storage. Chunks and manifests of bae are ignored.
    pub fn add(&mut self, object: &ObjectInfo) {
        let key = object.key.as_str();
        if GeneratedKey::parse(key).is_some() {
            return;
        }
        if let Some((count, one)) = self.by_len.get_mut(&object.len) {
            *count += 1;
            key.clone_into(one);
        }
        let Some((index, rank)) = self.names.get(key) else { return };
        let fits = |len: u64| len == self.files[*index].len;
        let better = self
            .named
            .get(index)
            .is_none_or(|(before, _, len)| (!fits(*len), *before) > (!fits(object.len), *rank));
        if better {
            self.named.insert(*index, (*rank, key.to_owned(), object.len));
        }
    }

    /// One answer for each file, in order; `None` for files that need no object.
    #[must_use]
    pub fn finish(self) -> Vec<Option<FileMatch>> {
        let mut files_of: HashMap<u64, usize> = HashMap::new();
        for file in self.files.iter().filter(|file| needs_object(file)) {
            *files_of.entry(file.len).or_default() += 1;
        }
        let found = |(index, file): (usize, &FileRow)| {
            let named = self.named.get(&index);
            if let Some((_, key, len)) = named
                && *len == file.len
            {
                return FileMatch::Object(key.clone());
            }
            match (self.by_len.get(&file.len), files_of.get(&file.len), named) {
                (Some((1, key)), Some(1), _) => FileMatch::Object(key.clone()),
                (_, _, Some((_, _, len))) => FileMatch::OtherLength(*len),
                (Some((count, _)), _, None) if *count > 0 => FileMatch::Ambiguous,
                _ => FileMatch::NoMatch,
            }
        };
        let files = self.files.iter().enumerate();
        files.map(|(index, file)| needs_object(file).then(|| found((index, file)))).collect()
    }
}

fn needs_object(file: &FileRow) -> bool {
    !file.pad && file.len > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::Key;

    fn matched(files: &[(&str, u64)], objects: &[(&str, u64)]) -> Vec<Option<FileMatch>> {
        let mut start = 0;
        let row = |(path, len): &(&str, u64)| {
            start += len;
            FileRow {
                path: (*path).into(),
                start: start - len,
                len: *len,
                pad: path.contains(".pad"),
            }
        };
        let files: Vec<_> = files.iter().map(row).collect();
        let mut matcher = ObjectMatcher::new(&files);
        for (key, len) in objects {
            matcher.add(&ObjectInfo { key: Key::new(key).unwrap(), len: *len });
        }
        matcher.finish()
    }

    fn object(key: &str) -> Option<FileMatch> {
        Some(FileMatch::Object(key.into()))
    }

    #[test]
    fn a_file_matches_by_name_and_length_or_by_a_unique_length() {
        let files = [("A/1.flac", 10), ("A/.pad/3", 3), ("A/2.flac", 20), ("A/empty", 0)];
        let with_name = [("A/1.flac", 10), ("A/2.flac", 20), ("x", 3)];
        assert_eq!(
            matched(&files, &with_name),
            [object("A/1.flac"), None, object("A/2.flac"), None]
        );
        let without = [("1.flac", 10), ("renamed.flac", 20)];
        let expected = [object("1.flac"), None, object("renamed.flac"), None];
        assert_eq!(matched(&files, &without), expected);
        let both = [("1.flac", 10), ("A/1.flac", 11), ("elsewhere/2.flac", 20)];
        let expected = [object("1.flac"), None, object("elsewhere/2.flac"), None];
        assert_eq!(matched(&files, &both), expected);
        let published = [("_hidden", 5)];
        assert_eq!(matched(&[(".hidden", 5)], &published), [object("_hidden")]);
    }

    #[test]
    fn ambiguous_matches_are_rejected() {
        let nothing = Some(FileMatch::NoMatch);
        assert_eq!(matched(&[("a", 5)], &[("x", 5), ("y", 5)]), [Some(FileMatch::Ambiguous)]);
        let twins = [("T/a", 5), ("T/b", 5)];
        assert_eq!(
            matched(&twins, &[("x", 5)]),
            [Some(FileMatch::Ambiguous), Some(FileMatch::Ambiguous)]
        );
        assert_eq!(matched(&twins, &[("T/b", 5)])[1], object("T/b"));
        assert_eq!(matched(&[("a", 5)], &[("a", 4)]), [Some(FileMatch::OtherLength(4))]);
        assert_eq!(matched(&[("a", 5)], &[("a", 4), ("b", 5)]), [object("b")]);
        let own = ("0123456789abcdef/9c4e01ab/00000001", 5);
        assert_eq!(matched(&[("a", 5)], &[own, ("z", 6)]), [nothing]);
    }
}
