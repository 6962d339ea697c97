//! Decides the key under which a file of an import is published: the torrent's own names, as far as every storage
//! accepts them. Pure.

use std::collections::{HashMap, HashSet};

use super::name_probe::{MAX_PORTABLE_LEN, RenamedPaths, path_prefixes};
use crate::{
    backends::Key,
    catalog::{FileRow, ImportId, ObjectRow, Role},
    error::Result,
};

/// The longest part of a key, in bytes.
const MAX_PART_LEN: usize = 255;
/// The longest extension that is kept, in bytes with its dot.
const MAX_EXTENSION_LEN: usize = 17;

/// The folder of an import in its storage, if it is not the torrent's own name.
///
/// A torrent of one file has no folder of its own; under another name it gets one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::storage) struct ImportFolder(Option<String>);

impl ImportFolder {
    /// Keeps the torrent's own names.
    pub(in crate::storage) fn torrent() -> Self {
        Self(None)
    }

    /// A separate folder for the import, if the torrent's name is taken in this storage.
    pub(in crate::storage) fn separate(
        name: &str,
        renamed: &RenamedPaths,
        import: &ImportId,
    ) -> Self {
        let (name, tag) = (renamed.apply(&usable_path(name)), format!(" [{import}]"));
        Self(Some(format!("{}{tag}", truncate(&name, MAX_PART_LEN - tag.len()))))
    }

    /// The folder that shows in `key`, the key of the file at `path`.
    pub(in crate::storage) fn from_key(key: &str, path: &str) -> Self {
        let first = |text: &str| text.split_once('/').map(|(first, _)| first.to_owned());
        let folder = first(key);
        Self(folder.filter(|folder| first(&usable_path(path)).as_ref() != Some(folder)))
    }

    /// The key of a file.
    pub(in crate::storage) fn key(&self, file: &FileRow, renamed: &RenamedPaths) -> Result<Key> {
        let path = renamed.apply(&usable_path(&file.path));
        let key = match (&self.0, path.split_once('/')) {
            (None, _) => path,
            (Some(folder), Some((_, rest))) => format!("{folder}/{rest}"),
            (Some(folder), None) => format!("{folder}/{path}"),
        };
        Key::new(&shorten_key(&key, &file.path))
    }

    /// What to look up to see whether the names of `file`'s import are free: a folder to list, or one key.
    pub(super) fn top_level(&self, file: &FileRow, renamed: &RenamedPaths) -> Result<String> {
        let key = self.key(file, renamed)?;
        Ok(match key.as_str().split_once('/') {
            Some((folder, _)) => format!("{folder}/"),
            None => key.as_str().to_owned(),
        })
    }
}

impl RenamedPaths {
    /// A usable path with the names that its parts have in the storage.
    pub(in crate::storage) fn apply(&self, path: &str) -> String {
        if self.is_empty() {
            return path.to_owned();
        }
        let part = |(whole, part)| match self.contains(whole) {
            true => Self::renamed_part(whole, part),
            false => String::from(part),
        };
        path_prefixes(path).map(part).collect::<Vec<_>>().join("/")
    }

    /// The path with its renamed parts replaced, and otherwise unchanged.
    #[must_use]
    pub fn target_path(&self, path: &str) -> String {
        let usable = usable_path(path);
        if usable == path {
            return self.apply(path);
        }
        // Only backends reserve names with a leading dot, so other targets keep them.
        let renamed = self.apply(&usable);
        if renamed == usable { path.to_owned() } else { renamed }
    }

    /// The name of a part of a path that cannot keep its own: without the characters that some storages refuse, short,
    /// and with a hash of the path, which makes it unique.
    fn renamed_part(whole: &str, part: &str) -> String {
        let safe = part.replace([':', '?', '*', '"', '<', '>', '|'], "_");
        let safe = safe.trim_end_matches(['.', ' ']);
        hashed_name(if safe.is_empty() { "_" } else { safe }, whole, MAX_PORTABLE_LEN)
    }
}

/// The objects of an import that are whole files, or are intended to be.
#[derive(Debug, Clone, Default)]
pub struct FileObjects {
    by_key: HashMap<String, ObjectRow>,
    /// Whether a key looks as if a part of it was renamed.
    has_renamed_parts: bool,
}

impl FileObjects {
    /// The whole files among the objects of one import.
    #[must_use]
    pub fn of(objects: &[ObjectRow]) -> Self {
        let mut whole = Self::default();
        let named = objects.iter().filter(|object| object.role == Role::File);
        named.for_each(|object| whole.insert(object.clone()));
        whole
    }

    /// The object of `file`, stored or only intended.
    #[must_use]
    pub fn find(&self, file: &FileRow) -> Option<&ObjectRow> {
        let folder = self.folder(file)?;
        let find =
            |renamed: &RenamedPaths| self.by_key.get(folder.key(file, renamed).ok()?.as_str());
        let own = find(&RenamedPaths::default());
        if own.is_some() || !self.has_renamed_parts {
            return own;
        }
        // The keys alone show which parts were renamed: rarely more than two of one path.
        let path = usable_path(&file.path);
        let parts: Vec<String> = path_prefixes(&path).map(|(whole, _)| whole.to_owned()).collect();
        let sets = parts.iter().enumerate().flat_map(|(n, one)| {
            let alone = RenamedPaths::new([one.clone()]);
            let pairs =
                parts[n + 1..].iter().map(|two| RenamedPaths::new([one.clone(), two.clone()]));
            std::iter::once(alone).chain(pairs)
        });
        sets.chain([RenamedPaths::new(parts.clone())]).find_map(|renamed| find(&renamed))
    }

    pub(in crate::storage) fn forget(&mut self, objects: &[ObjectRow]) {
        objects.iter().for_each(|object| drop(self.by_key.remove(&object.key)));
    }

    /// The folder of the import. Every file of an import is in one folder, so any key shows it.
    pub(in crate::storage) fn folder(&self, file: &FileRow) -> Option<ImportFolder> {
        self.by_key.keys().next().map(|key| ImportFolder::from_key(key, &file.path))
    }

    pub(in crate::storage) fn get(&self, key: &Key) -> Option<ObjectRow> {
        self.by_key.get(key.as_str()).cloned()
    }

    pub(in crate::storage) fn insert(&mut self, object: ObjectRow) {
        self.has_renamed_parts |= object.key.split('/').any(has_hash);
        self.by_key.insert(object.key.clone(), object);
    }

    /// The paths, including folders, whose names stored objects have. `top` is the first part of the import's paths.
    pub(super) fn stored_paths(&self, top: &str) -> HashSet<String> {
        let mut paths = HashSet::new();
        for (key, _) in self.by_key.iter().filter(|(_, object)| object.is_stored()) {
            let path = match key.split_once('/') {
                Some((_, rest)) => format!("{top}/{rest}"),
                None => key.clone(),
            };
            paths.extend(path_prefixes(&path).map(|(whole, _)| whole.to_owned()));
        }
        paths
    }
}

/// Whether a part of a key has a hash before its extension, or at its end.
fn has_hash(part: &str) -> bool {
    let hash = |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    part.rsplit('.').take(2).any(hash)
}

/// The path in a form that backends accept: without a leading dot, which they reserve, without backslashes, and with
/// parts of limited length.
pub(super) fn usable_path(path: &str) -> String {
    let path = match path.strip_prefix('.') {
        Some(_) => format!("_{path}"),
        None => path.to_owned(),
    };
    let parts =
        path.split('/').map(|part| match part.len() > MAX_PART_LEN || part.contains('\\') {
            true => hashed_part(&part.replace('\\', "_"), part),
            false => part.to_owned(),
        });
    parts.collect::<Vec<_>>().join("/")
}

/// Shortens a key that is too long: it loses its innermost folders, and the file name gets a hash of the whole path.
fn shorten_key(key: &str, path: &str) -> String {
    if key.len() <= Key::MAX {
        return key.to_owned();
    }
    let (folders, name) = key.rsplit_once('/').unwrap_or(("", key));
    let name = hashed_part(name, path);
    let mut short = String::new();
    for folder in folders.split('/') {
        if short.len() + folder.len() + name.len() + 2 > Key::MAX {
            break;
        }
        short.push_str(folder);
        short.push('/');
    }
    short + &name
}

/// Turns `stem.ext` into `stem.0123456789abcdef.ext`, with the stem cut to the longest part of a key.
fn hashed_part(name: &str, of: &str) -> String {
    hashed_name(name, of, MAX_PART_LEN)
}

fn hashed_name(name: &str, of: &str, max: usize) -> String {
    let (stem, extension) = match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= MAX_EXTENSION_LEN => name.split_at(dot),
        _ => (name, ""),
    };
    let tag = format!(".{:016x}", fnv(of));
    format!("{}{tag}{extension}", truncate(stem, max - tag.len() - extension.len()))
}

fn truncate(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// FNV-1a with 64 bits: different names get different keys, the same in every run. An attacker gains nothing by a
/// collision, which the catalog rejects.
fn fnv(text: &str) -> u64 {
    let step = |hash: u64, b: u8| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(path: &str) -> FileRow {
        FileRow { path: path.into(), ..FileRow::default() }
    }

    fn key(folder: &ImportFolder, path: &str) -> String {
        folder.key(&file(path), &RenamedPaths::default()).unwrap().to_string()
    }

    #[test]
    fn files_keep_the_names_of_the_torrent_or_share_a_separate_folder() {
        let id: ImportId = "9c4e01ab".parse().unwrap();
        let own = ImportFolder::torrent();
        assert_eq!(key(&own, "An Album/CD 1/01.flac"), "An Album/CD 1/01.flac");
        assert_eq!(key(&own, "film.mkv"), "film.mkv");
        assert_eq!(key(&own, ".hidden/.x"), "_.hidden/.x");
        let separate = ImportFolder::separate("An Album", &RenamedPaths::default(), &id);
        assert_eq!(key(&separate, "An Album/CD 1/01.flac"), "An Album [9c4e01ab]/CD 1/01.flac");
        assert_eq!(
            key(&ImportFolder::separate("film.mkv", &RenamedPaths::default(), &id), "film.mkv"),
            "film.mkv [9c4e01ab]/film.mkv"
        );
        assert_eq!(
            separate.top_level(&file("An Album/x"), &RenamedPaths::default()).unwrap(),
            "An Album [9c4e01ab]/"
        );
        assert_eq!(own.top_level(&file("film.mkv"), &RenamedPaths::default()).unwrap(), "film.mkv");
    }

    #[test]
    fn any_key_shows_the_folder_of_the_import() {
        let id: ImportId = "9c4e01ab".parse().unwrap();
        for path in ["An Album/CD 1/01.flac", "film.mkv", ".x/y", "a\\b/c\\d"] {
            let name = path.split('/').next().unwrap();
            for folder in [
                ImportFolder::torrent(),
                ImportFolder::separate(name, &RenamedPaths::default(), &id),
            ] {
                assert_eq!(ImportFolder::from_key(&key(&folder, path), path), folder, "{path}");
            }
        }
    }

    #[test]
    fn long_paths_are_shortened_keep_their_extension_and_stay_distinct() {
        let deep =
            |last: &str| format!("{}{last}.flac", "a folder of thirty bytes, or so/".repeat(60));
        let (a, b) =
            (key(&ImportFolder::torrent(), &deep("a")), key(&ImportFolder::torrent(), &deep("b")));
        assert_ne!(a, b);
        assert!(a.len() <= Key::MAX && a.len() > 600 && a.ends_with(".flac"), "{a}");
        let long = format!("x/{}.mkv", "é".repeat(300));
        assert!(key(&ImportFolder::torrent(), &long).ends_with(".mkv"));
    }

    #[test]
    fn renamed_parts_are_recognised_from_the_keys_alone() {
        let id: ImportId = "9c4e01ab".parse().unwrap();
        let paths = ["d/Disc/01.flac", "d/disc/01.flac", "d/disc/A: b.flac", "d/disc/c.flac"];
        let renamed = RenamedPaths::new(["d/disc", "d/disc/A: b.flac"].map(str::to_owned));
        for folder in [ImportFolder::torrent(), ImportFolder::separate("d", &renamed, &id)] {
            let mut whole = FileObjects::default();
            let keys = paths.map(|path| folder.key(&file(path), &renamed).unwrap().to_string());
            for key in &keys {
                let row = ObjectRow { key: key.clone(), ..object() };
                whole.insert(row);
            }
            for (path, key) in paths.iter().zip(&keys) {
                assert_eq!(whole.find(&file(path)).map(|o| &o.key), Some(key), "{path}");
            }
            assert!(keys[1].contains("/disc.") && keys[2].contains("/A_ b."), "{keys:?}");
            assert!(whole.find(&file("d/disc/other")).is_none());
        }
    }

    fn object() -> ObjectRow {
        ObjectRow {
            num: crate::catalog::ObjectNum(1),
            home: "9c4e01ab".parse().unwrap(),
            key: String::new(),
            role: Role::File,
            len: 1,
            state: crate::catalog::ObjectState::Stored,
            packed: false,
            encoding: crate::catalog::Encoding::default(),
            root: None,
        }
    }

    proptest! {
        #[test]
        fn every_path_of_a_torrent_becomes_a_valid_key(
            parts in prop::collection::vec("[^/\\p{Cc}]{1,80}", 1..40),
            separate: bool,
        ) {
            prop_assume!(parts.iter().all(|part| part != "." && part != ".."));
            let path = parts.join("/");
            let id: ImportId = "9c4e01ab".parse().unwrap();
            let folder = if separate { ImportFolder::separate(&parts[0], &RenamedPaths::default(), &id) } else { ImportFolder::torrent() };
            prop_assert!(folder.key(&file(&path), &RenamedPaths::default()).is_ok(), "{path}");
        }
    }
}
