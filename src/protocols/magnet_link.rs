//! A magnet link that a server returns in place of a file.

use std::fmt;

/// The source of an error of [`Protocol::probe`](super::Protocol::probe) when the URL leads to this magnet link.
#[derive(Clone, PartialEq, Eq)]
pub struct MagnetLink(pub String);

impl fmt::Debug for MagnetLink {
    /// Omits the link: its trackers may contain passkeys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MagnetLink")
    }
}

impl fmt::Display for MagnetLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a magnet link")
    }
}

impl std::error::Error for MagnetLink {}
