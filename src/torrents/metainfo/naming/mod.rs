//! Turns the names in a torrent, bytes from a stranger, into unique paths that are safe and usable on every system.
//!
//! A usable name stays as it is. In any other name, separators and control characters become `_`; a device name of
//! Windows gets a `_` at its end. Such a name, and a name that is too long, also gets a short hash of its bytes, so
//! that it differs from all others and is the same on every run. Names that are not UTF-8 are decoded in the encoding
//! that the torrent declares, or in the one that fits all of them together. Paths that are equal after that get a
//! number. `..` is rejected: no maker writes it.

mod duplicates;
mod encoding;

use encoding_rs::Encoding;

pub(in crate::torrents) use self::duplicates::number_duplicates;
use crate::{
    error::{Error, Kind, Result},
    names::{self, DIRECTION_MARKS, MAX_COMPONENT, MAX_PATH},
};

/// How the names of one torrent are decoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Naming {
    encoding: Option<&'static Encoding>,
}

impl Naming {
    /// `names`: all names in the torrent. `declared`: the value of its `encoding`.
    pub(in crate::torrents) fn of<'a>(
        names: impl Iterator<Item = &'a [u8]> + Clone,
        declared: Option<&[u8]>,
    ) -> Self {
        Self { encoding: encoding::detect(names, declared) }
    }

    /// Whether a name was not UTF-8. A better guess may decode such a name differently.
    pub(super) fn is_guessed(self) -> bool {
        self.encoding.is_some()
    }

    /// Joins `components` to `base` with `/`. Components that are empty or `.` are skipped. When none is left, the name
    /// is `_`, as in libtorrent.
    ///
    /// # Errors
    /// `InvalidInput` for the component `..`, and when the path is longer than [`MAX_PATH`].
    pub(in crate::torrents) fn join<'a>(
        self,
        base: &str,
        components: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<String> {
        let mut path = base.to_owned();
        for raw in components {
            if let Some(name) = self.component(raw)? {
                push_component(&mut path, &name)?;
            }
        }
        if path.len() == base.len() {
            push_component(&mut path, "_")?;
        }
        Ok(path)
    }

    /// One component as a usable name; `None` when it is empty or `.`.
    ///
    /// # Errors
    /// `InvalidInput` for `..`.
    pub(in crate::torrents) fn component(self, raw: &[u8]) -> Result<Option<String>> {
        let (mut name, mut changed) = self.decode(raw);
        name.retain(|c| !DIRECTION_MARKS.contains(&c));
        match name.as_str() {
            "" | "." => return Ok(None),
            ".." => return Err(bad("the name \"..\" would leave its folder")),
            _ => {}
        }
        let unusable = |c: char| c == '/' || c == '\\' || c.is_control();
        if name.contains(unusable) {
            (name, changed) = (name.replace(unusable, "_"), true);
        }
        if names::is_device(&name) {
            name.push('_');
            changed = true;
        }
        changed |= name.len() > MAX_COMPONENT;
        Ok(Some(if changed { names::with_hash(&name, raw) } else { name }))
    }

    /// The text of a name, and whether no encoding could decode it.
    fn decode(self, raw: &[u8]) -> (String, bool) {
        if let Ok(text) = std::str::from_utf8(raw) {
            return (text.to_owned(), false);
        }
        let decoded =
            |e: &'static Encoding| e.decode_without_bom_handling_and_without_replacement(raw);
        if let Some(text) = self.encoding.and_then(decoded) {
            return (text.into_owned(), false);
        }
        // Latin-1 keeps different bytes different. Control characters in the result are replaced later.
        (raw.iter().map(|b| char::from(*b)).collect(), true)
    }
}

fn push_component(path: &mut String, name: &str) -> Result<()> {
    if !path.is_empty() {
        path.push('/');
    }
    path.push_str(name);
    if path.len() > MAX_PATH {
        let quoted = names::quote(path);
        return Err(bad(format!("the path {quoted} is longer than {MAX_PATH} bytes")));
    }
    Ok(())
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Kind::InvalidInput, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naming(names: &[&[u8]]) -> Naming {
        Naming::of(names.iter().copied(), None)
    }

    fn name(raw: &[u8]) -> String {
        naming(&[raw]).component(raw).unwrap().expect("not empty")
    }

    #[test]
    fn usable_names_stay_as_they_are() {
        for good in ["a", "...", "..a", "aux.c", "con.txt", "COM0", "lpt", "ünï", " x ", "a:b?"] {
            assert_eq!(name(good.as_bytes()), good);
        }
    }

    #[test]
    fn unusable_names_are_replaced_and_stay_different() {
        for (raw, begins, ends) in [
            (&b"Icon\r"[..], "Icon_.", ""),
            (b"a\nb.txt", "a_b.", ".txt"),
            ("Artist \u{96} Title.mp3".as_bytes(), "Artist _ Title.", ".mp3"),
            (b"Release R1/beta6.iso", "Release R1_beta6.", ".iso"),
            (b"textures\\a.dds", "textures_a.", ".dds"),
            (b"/etc/passwd", "_etc_passwd.", ""),
            (b"../x", "..", "._x"),
            (b"a\0b", "a_b.", ""),
            (b"\x1b[31m", "_[31m.", ""),
            (b"NUL", "NUL_.", ""),
            (b"Com1", "Com1_.", ""),
        ] {
            let name = name(raw);
            assert!(name.starts_with(begins) && name.ends_with(ends), "{name}");
            assert_eq!(name.len(), begins.len() + 8 + ends.len(), "{name}");
        }
        assert_ne!(name(b"a/b"), name(b"a\\b"));
        assert_ne!(name(b"a/b"), name(b"a_b"));
        assert_eq!(name(b"a/b"), name(b"a/b"));
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for raw in [&b".."[..], "\u{200e}..".as_bytes()] {
            let e = naming(&[]).component(raw).unwrap_err();
            assert_eq!(e.to_string(), "the name \"..\" would leave its folder");
        }
    }

    #[test]
    fn join_skips_empty_and_dot_components() {
        let join = |base: &str, parts: &[&[u8]]| {
            naming(&[]).join(base, parts.iter().copied()).map_err(|e| e.to_string())
        };
        assert_eq!(join("t", &[b"", b"a", b".", b"b"]).unwrap(), "t/a/b");
        assert_eq!(join("", &[b"a"]).unwrap(), "a");
        assert_eq!(join("t", &[b"."]).unwrap(), "t/_");
        assert_eq!(join("t", &[]).unwrap(), "t/_");
        assert!(join("t", &[&b"abcdefg"[..]; 400]).unwrap_err().contains("longer than 3072 bytes"));
    }

    #[test]
    fn names_in_another_encoding_are_decoded() {
        let raw: [&[u8]; 2] = [b"\x95\x5c.txt", b"\x83\x5c.txt"];
        let naming = naming(&raw);
        let read = raw.map(|raw| naming.component(raw).unwrap().unwrap());
        assert_eq!(read, ["表.txt", "ソ.txt"]);
        assert!(naming.is_guessed());
        assert_eq!(name(b"caf\xe9.txt"), "café.txt");
    }

    #[test]
    fn a_name_that_no_encoding_decodes_becomes_latin_1_with_a_hash() {
        let (a, b) = (b"\x81\xff\xfe\x80.mp3", b"\x82\xff\xfe\x80.mp3");
        let broken = Naming { encoding: None };
        let [a, b] = [a, b].map(|raw| broken.component(raw).unwrap().unwrap());
        assert_ne!(a, b);
        assert!(a.starts_with("_ÿþ_.") && a.ends_with(".mp3"), "{a}");
    }

    proptest! {
        #[test]
        fn every_accepted_name_is_safe(raw in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(Some(name)) = naming(&[&raw]).component(&raw) {
                prop_assert!(name.len() <= MAX_COMPONENT && !name.is_empty());
                prop_assert!(name != "." && name != ".." && !name.contains(['/', '\\']));
                prop_assert!(!name.contains(char::is_control));
            }
        }
    }
}
