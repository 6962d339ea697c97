//! How a key is kept on Drive: which folder and name the user sees, and which properties say the key.
//!
//! The key is in the file's `appProperties`, not in its name or folder: a file that the user renames or moves is still
//! the same object. A property holds 124 bytes with its name, so a key is cut into several. Properties are found
//! through hashes, because a query can ask for a property's whole value only.

use std::collections::BTreeMap;

use aws_lc_rs::digest;

use crate::backends::Key;

/// Property → value, as Drive has them.
pub(super) type Properties = BTreeMap<String, String>;

/// The id of the root folder: tells the objects of one place from those of others in the same account.
pub(super) const PLACE: &str = "bae";
/// The key's hash.
const KEY_HASH: &str = "h";
/// The hash of the key's first folder: the listing of one import asks for it.
const FIRST_HASH: &str = "d";
/// How many pieces the key is in: a copy keeps the properties of its source beside its own.
const PIECES: &str = "n";
/// The folder of chunks.
pub(super) const CHUNKS: &str = "chunks";
/// Bytes of a key in one property: 124 less `k0`.
const PIECE: usize = 120;

/// Where the user sees an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placing {
    /// Below the root folder, outermost first.
    pub(super) folders: Vec<String>,
    pub(super) name: String,
}

/// Chunks go to one of 256 folders, since a folder holds 500,000 files and slows down long before; whatever has a name
/// that means something goes where the name says.
pub(super) fn placing(key: &Key) -> Placing {
    let parts: Vec<&str> = key.as_str().split('/').collect();
    if is_chunk(&parts) {
        let shard = hash(key.as_str())[..2].to_owned();
        return Placing { folders: vec![CHUNKS.into(), shard], name: parts.join("-") };
    }
    let (name, folders) = parts.split_last().expect("a split gives at least one part");
    let folders = folders.iter().map(|&folder| folder.to_owned()).collect();
    Placing { folders, name: (*name).to_owned() }
}

/// `<16 hex>/<8 hex>/<hex>`: names that mean nothing to anyone.
fn is_chunk(parts: &[&str]) -> bool {
    let hex = |part: &&str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    matches!(parts, [catalog, import, _, ..] if catalog.len() == 16 && import.len() == 8)
        && parts.iter().all(hex)
}

/// What a file carries to be found again.
pub(super) fn properties(key: &Key, root: &str) -> Properties {
    let pieces = pieces(key.as_str());
    let mut out = Properties::from([
        (PLACE.to_owned(), root.to_owned()),
        (KEY_HASH.to_owned(), hash(key.as_str())),
        (PIECES.to_owned(), pieces.len().to_string()),
    ]);
    if let Some((first, _)) = key.as_str().split_once('/') {
        out.insert(FIRST_HASH.to_owned(), hash(first));
    }
    out.extend(
        pieces.into_iter().enumerate().map(|(n, piece)| (format!("k{n}"), piece.to_owned())),
    );
    out
}

/// The key that a file carries; `None` where it is damaged or not ours.
pub(super) fn key_of(properties: &Properties) -> Option<Key> {
    let pieces: usize = properties.get(PIECES)?.parse().ok()?;
    if pieces > Key::MAX {
        return None;
    }
    let mut text = String::new();
    for n in 0..pieces {
        text.push_str(properties.get(&format!("k{n}"))?);
    }
    (properties.get(KEY_HASH)? == &hash(&text)).then(|| Key::new(&text).ok())?
}

/// The query for the files of `key`.
pub(super) fn query_key(key: &Key, root: &str) -> String {
    format!("{} and {} and trashed = false", has(PLACE, root), has(KEY_HASH, &hash(key.as_str())))
}

/// The query for the files whose keys may begin with `prefix`.
pub(super) fn query_prefix(prefix: &str, root: &str) -> String {
    match prefix.split_once('/') {
        Some((first, _)) => {
            let first = has(FIRST_HASH, &hash(first));
            format!("{} and {first} and trashed = false", has(PLACE, root))
        }
        None => format!("{} and trashed = false", has(PLACE, root)),
    }
}

/// The query for folders called `name` in `parent`.
pub(super) fn query_folder(name: &str, parent: &str) -> String {
    format!(
        "name = {} and mimeType = '{FOLDER}' and {} in parents and trashed = false",
        quoted(name),
        quoted(parent)
    )
}

/// What Drive takes for a folder's type.
pub(super) const FOLDER: &str = "application/vnd.google-apps.folder";

fn has(key: &str, value: &str) -> String {
    format!("appProperties has {{ key='{key}' and value={} }}", quoted(value))
}

/// A text in a query: in quotes, with those inside escaped.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// 128 bits of SHA-256, as 32 hexadecimal digits.
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

/// `text` in pieces that fit a property, cut between characters.
fn pieces(mut text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    while !text.is_empty() {
        let (piece, rest) = text.split_at(text.floor_char_boundary(PIECE));
        out.push(piece);
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
    fn chunks_are_spread_and_named_files_are_where_their_names_say() {
        let chunk = placing(&key("0123456789abcdef/00000001/0000002a"));
        assert_eq!(chunk.folders[0], "chunks");
        assert_eq!((chunk.folders[1].len(), chunk.folders.len()), (2, 2));
        assert_eq!(chunk.name, "0123456789abcdef-00000001-0000002a");
        let track = placing(&key("Album/Disc 1/01 - Track.flac"));
        assert_eq!(track.folders, ["Album", "Disc 1"]);
        assert_eq!(track.name, "01 - Track.flac");
        assert!(placing(&key("alone")).folders.is_empty());
    }

    #[test]
    fn a_copy_that_kept_more_pieces_of_its_source_still_says_its_own_key() {
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
        fn any_key_is_recovered_and_its_properties_keep_within_drives_bounds(
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
