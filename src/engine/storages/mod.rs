//! Opening, checking and signing in to storages.
//!
//! [`open_storage`] stacks a backend and its wrappers (retries, hedging, concurrency, rate, metering) as the settings
//! say. [`check`] tries everything that an import needs of a storage. [`login`] signs in to Google Drive, and [`drive`]
//! keeps its tokens.

pub(super) mod check;
pub(super) mod drive;
pub(super) mod login;
pub(super) mod open_storage;
