//! Turns failures of SSH connections and of SFTP requests into errors.

use std::fmt;

use super::{client::Failure, packet::Status};
use crate::{
    error::{Error, Kind},
    protocols::paths::said,
};

/// The reason why a connection failed: an SSH error, or the check of the server's key.
#[derive(Debug)]
pub(super) enum Trouble {
    Ssh(russh::Error),
    Host(Box<Error>),
}

impl From<russh::Error> for Trouble {
    fn from(e: russh::Error) -> Self {
        Self::Ssh(e)
    }
}

impl Trouble {
    pub(super) fn told(self, doing: impl fmt::Display) -> Error {
        match self {
            Self::Ssh(e) => transport(doing, e),
            Self::Host(e) => *e,
        }
    }
}

/// The error of a connection that fails. Incompatible algorithms and wrong keys are permanent; other failures may be
/// temporary.
pub(super) fn transport(doing: impl fmt::Display, e: russh::Error) -> Error {
    use russh::Error as E;
    let kind = match &e {
        E::NoCommonAlgo { .. } | E::Version | E::UnsupportedAuthMethod => Kind::Unsupported,
        E::WrongServerSig | E::UnknownKey | E::KeyChanged { .. } => Kind::Unauthenticated,
        _ => Kind::Network,
    };
    Error::new(kind, doing.to_string()).because(e)
}

/// Status codes of the draft, and codes of later versions that servers send anyway.
const END_OF_FILE: u32 = 1;

/// The error of a failed request: the server's status, or a broken connection.
pub(super) fn request(doing: impl Into<String>, failure: Failure) -> Error {
    let status = match failure {
        Failure::Status(status) => status,
        Failure::Broken(why) => return Error::new(Kind::Network, doing).because(said(&why)),
    };
    let (kind, name) = match status.code {
        END_OF_FILE => (Kind::Corrupt, "end of file"),
        2 => (Kind::NotFound, "no such file"),
        3 => (Kind::PermissionDenied, "permission denied"),
        6 => (Kind::Network, "no connection"),
        7 => (Kind::Network, "connection lost"),
        8 => (Kind::Unsupported, "not supported"),
        10 => (Kind::NotFound, "no such path"),
        20 => (Kind::InvalidInput, "invalid file name"),
        // Servers use this code for many failures: too many open files, a disk that does not answer.
        _ => (Kind::Unavailable, "failure"),
    };
    let words = match said(&status.message) {
        words if words.is_empty() => format!("answered status {} ({name})", status.code),
        words => format!("answered {name}: {words}"),
    };
    Error::new(kind, doing).because(words)
}

pub(super) fn is_end(failure: &Failure) -> bool {
    matches!(failure, Failure::Status(Status { code: END_OF_FILE, .. }))
}

/// Whether the server says that there is nothing under a name.
pub(super) fn is_missing(failure: &Failure) -> bool {
    matches!(failure, Failure::Status(Status { code: 2 | 10, .. }))
}

/// Whether the connection is no longer usable.
pub(super) fn is_fatal(failure: &Failure) -> bool {
    matches!(failure, Failure::Broken(_))
}
