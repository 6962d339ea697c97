//! The mark of errors of the catalog itself, as opposed to refused commands.

use std::{error::Error as StdError, fmt};

use crate::error::Error;

/// The text of the database's error. The database's own error type would print it twice, as message and as cause.
#[derive(Debug)]
pub(super) struct Failure(pub(super) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Failure {}

/// Whether the catalog itself failed, as opposed to a refused command.
pub(crate) fn is_catalog_failure(error: &Error) -> bool {
    StdError::source(error).is_some_and(|source| source.is::<Failure>())
}
