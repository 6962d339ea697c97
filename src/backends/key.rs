//! Object keys.

use std::{fmt, sync::Arc};

use crate::error::{Error, Kind, Result};

/// The key of an object: a relative, `/`-separated name that every backend can store.
///
/// Chunks have keys of hexadecimal digits; published files have names from the torrent. Each component is 1 to 255
/// bytes of any text without control characters and backslashes, and is not `.` or `..`. The key does not begin with
/// a dot (backends keep their own files under such names) and is at most [`Key::MAX`] bytes long.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Leaves room for the storage's prefix within S3's limit of 1024 bytes.
    pub const MAX: usize = 800;

    /// Checks `text` and makes it a key.
    ///
    /// # Errors
    /// `InvalidInput` when `text` is not a valid key.
    pub fn new(text: &str) -> Result<Self> {
        let is_component = |p: &str| {
            (1..=255).contains(&p.len())
                && p != "."
                && p != ".."
                && !p.contains(|c: char| c.is_control() || c == '\\')
        };
        if text.len() <= Self::MAX && !text.starts_with('.') && text.split('/').all(is_component) {
            Ok(Self(text.into()))
        } else {
            Err(Error::new(Kind::InvalidInput, format!("{text:?} is not an object key")))
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_allow_file_names_and_reject_paths_that_leave_their_folder() {
        for good in ["a", "a/b/.hidden", "Björk/01 - Jóga (live).flac", "a/..b/c...", "a b/ c"] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(256);
        for bad in
            ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.", ".tmp/a", "a\\b", "a\nb", &long]
        {
            assert_eq!(Key::new(bad).unwrap_err().kind(), Kind::InvalidInput, "{bad:?}");
        }
        assert!(Key::new(&"x/".repeat(500)).is_err());
    }
}
