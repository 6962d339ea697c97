//! A folder at a server.

use url::Url;

use super::Remote;

/// The most files of one listing: a folder beyond that is refused rather than held in memory.
pub const MAX_ENTRIES: usize = 1_000_000;

/// The files below a folder, at any depth.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The folder, with a slash at its end.
    pub url: Url,
    /// The last part of its path, not made safe; the host for the root of a server.
    pub name: String,
    /// Sorted by path, each path once.
    pub files: Vec<Entry>,
}

/// A file of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the folder, `/`-separated, not made safe: names of the server's choosing.
    pub path: String,
    pub remote: Remote,
}
