//! Reads of stored imports: for programs, players, links and plain files.
//!
//! [`read`] gives a range in order (`bae cat`), [`stream`] serves players with seeks and waits for missing bytes,
//! [`file_reader`] is a file of an import for other
//! programs, [`export`] writes plain files, and [`url`] signs links to whole files.

pub(super) mod cid;
pub(super) mod export;
pub(super) mod file_reader;
pub(super) mod read;
pub(super) mod stream;
pub(super) mod url;
