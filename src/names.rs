//! Converts file names from torrents and servers to paths that are safe and usable on Linux, or rejects them.
//!
//! A rejected name gets no replacement: two names "cleaned" to the same name would overwrite each other. Only two
//! things are changed: names longer than 240 bytes, and marks that change the writing direction and so disguise the
//! name. The result stays unique and is the same on every run.

use std::borrow::Cow;

use aws_lc_rs::digest::{SHA256, digest};

use crate::error::{Error, Kind, Result};

/// Longest component in bytes. Linux allows 255; 15 are reserved for suffixes such as `.partial`.
pub const MAX_COMPONENT: usize = 240;
/// Longest path in bytes. Linux allows 4096; 1 KiB is reserved for the parent folder.
pub const MAX_PATH: usize = 3072;
/// Longest extension in bytes that is kept when a name is shortened.
const MAX_EXTENSION: usize = 16;

/// Device names on Windows. A file with such a name in a shared library would hang a Windows client.
const WINDOWS_DEVICES: [&str; 4] = ["CON", "PRN", "AUX", "NUL"];

/// Marks that change the writing direction and can show `gpj.exe` as `exe.jpg`. libtorrent drops the same seven.
pub(crate) const DIRECTION_MARKS: [char; 7] =
    ['\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{200e}', '\u{200f}'];

/// Joins `components` to `base` with `/`. Empty components are skipped.
///
/// # Errors
/// `InvalidInput` when a component could leave the folder or is not a usable name (the error quotes it), when the path
/// is longer than [`MAX_PATH`], or when the result is empty.
pub fn join<'a>(base: &str, components: impl IntoIterator<Item = &'a [u8]>) -> Result<String> {
    join_with(base, components, component)
}

/// As [`join`], for the path of a file on a server, relative to the fetched folder. See [`server_component`].
///
/// # Errors
/// As [`join`].
pub fn server_path(path: &str) -> Result<String> {
    join_with("", path.split('/').map(str::as_bytes), server_component)
}

fn join_with<'a>(
    base: &str,
    components: impl IntoIterator<Item = &'a [u8]>,
    component: fn(&[u8]) -> Result<Option<String>>,
) -> Result<String> {
    let mut path = base.to_owned();
    for raw in components {
        let Some(name) = component(raw)? else { continue };
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(&name);
        if path.len() > MAX_PATH {
            return Err(invalid(format!(
                "the path {} is longer than {MAX_PATH} bytes",
                quote(&path)
            )));
        }
    }
    if path.len() == base.len() { Err(invalid("the path is empty")) } else { Ok(path) }
}

/// Converts one component to its name on disk; `None` when it is empty.
///
/// # Errors
/// As [`join`].
pub fn component(raw: &[u8]) -> Result<Option<String>> {
    check_component(raw, true)
}

/// As [`component`], for the name of a file on a server. Accepts any name that is valid on this system, including
/// device names and backslashes, which are invalid on Windows.
///
/// # Errors
/// As [`join`].
pub fn server_component(raw: &[u8]) -> Result<Option<String>> {
    check_component(raw, cfg!(windows))
}

fn check_component(raw: &[u8], windows_rules: bool) -> Result<Option<String>> {
    let mut name = decode(raw).into_owned();
    name.retain(|c| !DIRECTION_MARKS.contains(&c));
    let reject = |reason: &str| Err(invalid(format!("the name {} {reason}", quote(&name))));
    match name.as_str() {
        "" => return Ok(None),
        "." | ".." => return reject("would leave its folder"),
        _ => {}
    }
    if name.contains('/') || windows_rules && name.contains('\\') {
        return reject("contains a path separator");
    }
    if name.contains(char::is_control) {
        return reject("contains a control character");
    }
    if windows_rules && is_device(&name) {
        return reject("is a device name on Windows");
    }
    Ok(Some(if name.len() > MAX_COMPONENT { with_hash(&name, raw) } else { name }))
}

pub(crate) fn is_device(name: &str) -> bool {
    let port = |kind: &str| {
        let (stem, digit) = (name.get(..3), name.get(3..));
        stem.is_some_and(|s| s.eq_ignore_ascii_case(kind))
            && matches!(digit.map(str::as_bytes), Some([b'1'..=b'9']))
    };
    WINDOWS_DEVICES.iter().any(|d| name.eq_ignore_ascii_case(d)) || port("COM") || port("LPT")
}

/// Decodes a name. UTF-8 stays as it is. Other bytes are read as Latin-1, which keeps distinct names distinct. If that
/// yields control characters (0x80 to 0x9f, for example from an East Asian encoding), they become `_` and a hash of the
/// bytes keeps the names distinct.
pub(crate) fn decode(raw: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(raw) {
        return Cow::Borrowed(text);
    }
    let is_c1 = |b: &u8| (0x80..0xa0).contains(b);
    let text = raw.iter().map(|b| if is_c1(b) { '_' } else { char::from(*b) }).collect::<String>();
    Cow::Owned(if raw.iter().any(is_c1) { with_hash(&text, raw) } else { text })
}

/// Changes `stem.ext` to `stem.1a2b3c4d.ext` and shortens the stem so that the result is at most [`MAX_COMPONENT`]
/// bytes. The hash covers the raw name, so the result is the same on every run.
pub(crate) fn with_hash(name: &str, raw: &[u8]) -> String {
    let hash = digest(&SHA256, raw);
    let hash = hash.as_ref();
    with_suffix(name, &format!(".{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]))
}

/// Changes `stem.ext` to `stem{suffix}.ext`. Shortens the stem so that the result is at most [`MAX_COMPONENT`] bytes.
pub(crate) fn with_suffix(name: &str, suffix: &str) -> String {
    let (stem, extension) = match name.rfind('.') {
        Some(dot) if dot > 0 && (2..=MAX_EXTENSION + 1).contains(&(name.len() - dot)) => {
            name.split_at(dot)
        }
        _ => (name, ""),
    };
    let end = stem.floor_char_boundary(MAX_COMPONENT - suffix.len() - extension.len());
    format!("{}{suffix}{extension}", &stem[..end])
}

/// Rejects paths that cannot all exist: duplicates, and a path that is a parent folder of another.
///
/// # Errors
/// `InvalidInput` that quotes the path.
pub fn reject_collisions<'a>(paths: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut paths: Vec<&str> = paths.collect();
    // Sort by component, so that the contents of `a` directly follow `a` rather than `a.txt`.
    paths.sort_unstable_by(|a, b| a.split('/').cmp(b.split('/')));
    for pair in paths.windows(2) {
        let (path, next) = (pair[0], pair[1]);
        match next.strip_prefix(path) {
            Some("") => return Err(invalid(format!("the path {} occurs twice", quote(path)))),
            Some(rest) if rest.starts_with('/') => {
                return Err(invalid(format!(
                    "the path {} is both a file and a folder",
                    quote(path)
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Quotes and escapes an untrusted name, cut to 80 characters.
pub(crate) fn quote(name: &str) -> String {
    const SHOWN: usize = 80;
    match name.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{:?}…", &name[..cut]),
        None => format!("{name:?}"),
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(raw: &[u8]) -> String {
        component(raw).unwrap().expect("not empty")
    }

    #[test]
    fn ordinary_names_are_unchanged() {
        for good in
            ["a", "...", "..a", "aux.c", "con.txt", "COM0", "COM10", "lpt", "ünï", " x ", "COMé"]
        {
            assert_eq!(name(good.as_bytes()), good);
        }
    }

    #[test]
    fn names_that_escape_or_are_invalid_are_rejected() {
        let table: &[(&[u8], &str)] = &[
            (b".", "the name \".\" would leave its folder"),
            (b"..", "the name \"..\" would leave its folder"),
            ("\u{200e}..".as_bytes(), "the name \"..\" would leave its folder"),
            (b"/etc", "the name \"/etc\" contains a path separator"),
            (b"a\\b", "the name \"a\\\\b\" contains a path separator"),
            (b"a\0b", "the name \"a\\0b\" contains a control character"),
            (b"a\nb", "the name \"a\\nb\" contains a control character"),
            ("\u{9b}31m".as_bytes(), "the name \"\\u{9b}31m\" contains a control character"),
            (b"NUL", "the name \"NUL\" is a device name on Windows"),
            (b"aux", "the name \"aux\" is a device name on Windows"),
            (b"Com1", "the name \"Com1\" is a device name on Windows"),
            (b"lpt9", "the name \"lpt9\" is a device name on Windows"),
        ];
        for (raw, message) in table {
            assert_eq!(component(raw).unwrap_err().to_string(), *message);
        }
    }

    #[test]
    #[cfg(not(windows))]
    fn server_names_are_accepted_if_this_system_allows_them() {
        for good in ["aux", "CON", "Lpt1", "a\\b", "x:y?"] {
            assert_eq!(server_component(good.as_bytes()).unwrap().as_deref(), Some(good));
        }
        assert_eq!(server_path("aux//b").unwrap(), "aux/b");
        for bad in ["..", "a/../b", "a\tb", "\u{200e}.."] {
            assert_eq!(server_path(bad).unwrap_err().kind(), Kind::InvalidInput, "{bad:?}");
        }
    }

    #[test]
    fn long_names_are_shortened_and_stay_distinct() {
        let long = |last: char| format!("{}{last}.mkv", "é".repeat(150));
        let (a, b) = (name(long('a').as_bytes()), name(long('b').as_bytes()));
        assert_ne!(a, b);
        assert_eq!(a, name(long('a').as_bytes()));
        assert!(a.len() <= MAX_COMPONENT && a.ends_with(".mkv"), "{a}");
        assert_eq!(name("x".repeat(240).as_bytes()), "x".repeat(240));
        assert_eq!(name("x".repeat(241).as_bytes()).len(), 240);
        let odd = format!("{}.{}", "x".repeat(10), "y".repeat(300));
        assert_eq!(name(odd.as_bytes()).len(), 240);
    }

    #[test]
    fn names_in_other_encodings_stay_readable_and_distinct() {
        assert_eq!(name(b"caf\xe9.txt"), "café.txt");
        let (a, b) = (name(b"\x83\x65.mp3"), name(b"\x84\x65.mp3"));
        assert_ne!(a, b);
        assert!(a.starts_with("_e.") && a.ends_with(".mp3"), "{a}");
    }

    #[test]
    fn join_skips_empty_components() {
        assert_eq!(join("t", [&b""[..], b"a", b"", b"b"]).unwrap(), "t/a/b");
        assert_eq!(join("", [&b"a"[..]]).unwrap(), "a");
        assert_eq!(join("t", [&b""[..]]).unwrap_err().to_string(), "the path is empty");
        let deep = std::iter::repeat_n(&b"abcdefg"[..], 400);
        assert!(join("t", deep).unwrap_err().to_string().contains("longer than 3072 bytes"));
    }

    #[test]
    fn paths_that_cannot_all_exist_are_rejected() {
        let check =
            |paths: &[&str]| reject_collisions(paths.iter().copied()).err().map(|e| e.to_string());
        assert_eq!(check(&["t/a", "t/a.txt", "t/b/a", "t/A"]), None);
        assert_eq!(check(&["t/a", "t/b", "t/a"]).unwrap(), "the path \"t/a\" occurs twice");
        let folder = "the path \"t/a\" is both a file and a folder";
        assert_eq!(check(&["t/a!", "t/a/x/y", "t/a", "t/a.b"]).unwrap(), folder);
    }

    proptest! {
        #[test]
        fn accepted_names_are_safe(raw in prop::collection::vec(any::<u8>(), 0..400)) {
            for name in [component(&raw), server_component(&raw)].into_iter().flatten().flatten() {
                prop_assert!(name.len() <= MAX_COMPONENT && !name.is_empty());
                prop_assert!(name != "." && name != ".." && !name.contains(['/', '\0']));
            }
        }
    }
}
