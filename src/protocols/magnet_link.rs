//! What a server hands out in place of a file.

use std::fmt;

/// The cause of an error of [`Protocol::probe`](super::Protocol::probe): the URL leads to this magnet link.
#[derive(Clone, PartialEq, Eq)]
pub struct MagnetLink(pub String);

impl fmt::Debug for MagnetLink {
    /// Without its trackers, which may have passkeys.
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
