//! The listing of a folder on a server.

use url::Url;

use super::RemoteFile;
use crate::error::{Error, Kind};

/// Maximum number of files in one listing. A larger folder is refused, to bound memory.
pub const MAX_ENTRIES: usize = 1_000_000;

/// The files below a folder, at any depth.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The URL of the folder, with a slash at the end.
    pub url: Url,
    /// The last segment of its path, or the host for the root of a server. It is not sanitised.
    pub name: String,
    /// Sorted by path, without duplicates.
    pub files: Vec<ListedFile>,
    /// Entries that cannot be fetched. Each one is reported and counts as a failure.
    pub skipped: Vec<SkippedEntry>,
}

/// An entry that the server refuses to send or whose name cannot be used here, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedEntry {
    pub kind: Kind,
    /// What the entry is, its path, and the reason.
    pub text: String,
}

impl From<Error> for SkippedEntry {
    fn from(error: Error) -> Self {
        Self { kind: error.kind(), text: error.report() }
    }
}

impl From<SkippedEntry> for Error {
    fn from(entry: SkippedEntry) -> Self {
        Self::new(entry.kind, entry.text)
    }
}

/// A file in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// Path relative to the folder, separated by `/`. The server chooses the names and they are not sanitised.
    pub path: String,
    pub remote: RemoteFile,
}
