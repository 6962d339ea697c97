//! A folder at a server.

use url::Url;

use super::Remote;
use crate::error::{Error, Kind};

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
    /// What is in it and cannot be fetched. Never passed over in silence: each is told, and counts as a failure.
    pub left_out: Vec<LeftOut>,
}

/// Something in a folder that its server does not give, or that has no name here, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    pub kind: Kind,
    /// What it is, where, and what is wrong with it.
    pub text: String,
}

impl From<Error> for LeftOut {
    fn from(error: Error) -> Self {
        Self { kind: error.kind(), text: error.report() }
    }
}

impl From<LeftOut> for Error {
    fn from(left_out: LeftOut) -> Self {
        Self::new(left_out.kind, left_out.text)
    }
}

/// A file of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the folder, `/`-separated, not made safe: names of the server's choosing.
    pub path: String,
    pub remote: Remote,
}
