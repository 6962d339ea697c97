//! How a key is stored on Drive: the visible folder and file name, and the properties that contain the key.
//!
//! The key is in the file's `appProperties` and not in its name or folder, so a file that the user renames or moves
//! is still the same object. A property holds 124 bytes including its name, so a key is split over several. Searches
//! use hashes, because a query can only compare whole property values.

use std::collections::BTreeMap;

use aws_lc_rs::digest;

use crate::backends::Key;

/// Property name to value, as Drive stores them.
pub(super) type Properties = BTreeMap<String, String>;

/// Property with the id of the root folder. Separates the objects of several storages in one account.
pub(super) const ROOT_ID: &str = "bae";
/// Property with the hash of the key.
const KEY_HASH: &str = "h";
/// Property with the hash of the key's first folder, for listing one import.
const TOP_FOLDER_HASH: &str = "d";
/// Property with the number of pieces that the key is split into. A copy keeps its source's properties beside its
/// own, so pieces beyond this number are ignored.
const FRAGMENT_COUNT: &str = "n";
/// Folder for chunks.
pub(super) const CHUNKS: &str = "chunks";
/// Bytes of a key in one property. With a name such as `k0` it fits in 124.
const FRAGMENT_LEN: usize = 120;

/// Where the user sees an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct VisiblePath {
    /// Below the root folder, outermost first.
    pub(super) folders: Vec<String>,
    pub(super) name: String,
}

/// Chunks are spread over 256 folders, because a folder holds at most 500,000 files and becomes slow long before.
/// Other objects are placed as their key says.
pub(super) fn visible_path(key: &Key) -> VisiblePath {
    let parts: Vec<&str> = key.as_str().split('/').collect();
    if is_chunk(&parts) {
        let shard = hash(key.as_str())[..2].to_owned();
        return VisiblePath { folders: vec![CHUNKS.into(), shard], name: parts.join("-") };
    }
    let (name, folders) = parts.split_last().expect("a split gives at least one part");
    let folders = folders.iter().map(|&folder| folder.to_owned()).collect();
    VisiblePath { folders, name: (*name).to_owned() }
}

/// Whether a key has the form `<16 hex>/<8 hex>/<hex>`, which is a chunk.
fn is_chunk(parts: &[&str]) -> bool {
    let hex = |part: &&str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    matches!(parts, [catalog, import, _, ..] if catalog.len() == 16 && import.len() == 8)
        && parts.iter().all(hex)
}

/// The properties by which the file of `key` is found again.
pub(super) fn properties(key: &Key, root: &str) -> Properties {
    let fragments = fragments(key.as_str());
    let mut out = Properties::from([
        (ROOT_ID.to_owned(), root.to_owned()),
        (KEY_HASH.to_owned(), hash(key.as_str())),
        (FRAGMENT_COUNT.to_owned(), fragments.len().to_string()),
    ]);
    if let Some((first, _)) = key.as_str().split_once('/') {
        out.insert(TOP_FOLDER_HASH.to_owned(), hash(first));
    }
    out.extend(
        fragments
            .into_iter()
            .enumerate()
            .map(|(n, fragment)| (format!("k{n}"), fragment.to_owned())),
    );
    out
}

/// The key in a file's properties; `None` when they are damaged or not from bae.
pub(super) fn key_of(properties: &Properties) -> Option<Key> {
    let fragments: usize = properties.get(FRAGMENT_COUNT)?.parse().ok()?;
    if fragments > Key::MAX {
        return None;
    }
    let mut text = String::new();
    for n in 0..fragments {
        text.push_str(properties.get(&format!("k{n}"))?);
    }
    (properties.get(KEY_HASH)? == &hash(&text)).then(|| Key::new(&text).ok())?
}

/// The query for the files of `key`.
pub(super) fn query_key(key: &Key, root: &str) -> String {
    format!(
        "{} and {} and trashed = false",
        has_property(ROOT_ID, root),
        has_property(KEY_HASH, &hash(key.as_str()))
    )
}

/// The query for all files whose key may start with `prefix`.
pub(super) fn query_prefix(prefix: &str, root: &str) -> String {
    match prefix.split_once('/') {
        Some((first, _)) => {
            let first = has_property(TOP_FOLDER_HASH, &hash(first));
            format!("{} and {first} and trashed = false", has_property(ROOT_ID, root))
        }
        None => format!("{} and trashed = false", has_property(ROOT_ID, root)),
    }
}

/// The query for folders called `name` in `parent`.
pub(super) fn query_folder(name: &str, parent: &str) -> String {
    format!(
        "name = {} and mimeType = '{FOLDER_MIME_TYPE}' and {} in parents and trashed = false",
        quoted(name),
        quoted(parent)
    )
}

/// Drive's MIME type of a folder.
pub(super) const FOLDER_MIME_TYPE: &str = "application/vnd.google-apps.folder";

fn has_property(key: &str, value: &str) -> String {
    format!("appProperties has {{ key='{key}' and value={} }}", quoted(value))
}

/// Quotes and escapes a text for a query.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The first 128 bits of SHA-256, as 32 hexadecimal digits.
fn hash(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    hex(&digest.as_ref()[..16])
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Splits `text` between characters into pieces that fit a property.
fn fragments(mut text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    while !text.is_empty() {
        let (fragment, rest) = text.split_at(text.floor_char_boundary(FRAGMENT_LEN));
        out.push(fragment);
        text = rest;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn chunks_are_sharded_and_named_files_keep_their_path() {
        let chunk = visible_path(&key("0123456789abcdef/00000001/0000002a"));
        assert_eq!(chunk.folders[0], "chunks");
        assert_eq!((chunk.folders[1].len(), chunk.folders.len()), (2, 2));
        assert_eq!(chunk.name, "0123456789abcdef-00000001-0000002a");
        let track = visible_path(&key("Album/Disc 1/01 - Track.flac"));
        assert_eq!(track.folders, ["Album", "Disc 1"]);
        assert_eq!(track.name, "01 - Track.flac");
        assert!(visible_path(&key("alone")).folders.is_empty());
    }

    #[test]
    fn a_copy_with_leftover_fragments_of_its_source_has_its_own_key() {
        let mut kept = properties(&key("long/".repeat(60).trim_end_matches('/')), "R");
        kept.extend(properties(&key("short"), "R"));
        assert_eq!(key_of(&kept), Some(key("short")));
        kept.insert("k0".into(), "shorn".into());
        assert_eq!(key_of(&kept), None);
    }

    #[test]
    fn quotes_and_backslashes_in_a_query_are_escaped() {
        let query = query_folder(r"it's \ here", "root");
        assert!(query.starts_with(r"name = 'it\'s \\ here' and "), "{query}");
    }

    proptest! {
        #[test]
        fn any_key_is_recovered_and_its_properties_fit_drives_limits(
            text in "[a-zé日/ .']{1,700}",
        ) {
            if let Ok(key) = Key::new(&text) {
                let kept = properties(&key, "1aB_cD-0123456789012345678901234567");
                prop_assert!(kept.len() <= 30);
                prop_assert!(kept.iter().all(|(name, value)| name.len() + value.len() <= 124));
                prop_assert_eq!(key_of(&kept), Some(key));
            }
        }
    }
}
