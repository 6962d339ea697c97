//! A run of a file in an object.

use std::ops::Range;

use crate::backends::Key;

/// A run of a file and the object that holds it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRun {
    /// In the file, from 0.
    pub range: Range<u64>,
    pub key: Key,
    pub object_len: u64,
    /// The offset of the run in the object.
    pub offset: u64,
}
