//! The names of objects.

use std::{fmt, sync::Arc};

use crate::error::{Error, Kind, Result};

/// The name of an object inside its backend: relative, `/`-separated, and such that every backend can hold it.
///
/// Chunks have keys of hexadecimal digits; published files have the torrent's own names. So a part may be any text
/// of 1 to 255 bytes without control characters and backslashes that is not `.` or `..`, the first part does not
/// begin with a dot (backends keep their own things there), and the whole has up to [`Key::MAX`] bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// S3 takes 1024 bytes, the profile's prefix among them.
    pub const MAX: usize = 800;

    /// # Errors
    /// `InvalidInput` when it is not such a name.
    pub fn new(text: &str) -> Result<Self> {
        let part_ok = |p: &str| {
            (1..=255).contains(&p.len())
                && p != "."
                && p != ".."
                && !p.contains(|c: char| c.is_control() || c == '\\')
        };
        if text.len() <= Self::MAX && !text.starts_with('.') && text.split('/').all(part_ok) {
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
    fn keys_hold_real_file_names_and_nothing_that_leaves_its_folder() {
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
