//! Turns failures of SSH connections and of SFTP requests into errors.

use std::fmt;

use super::{client::RequestFailure, packet::Status};
use crate::{
    error::{Error, Kind},
    protocols::url_paths::one_line_excerpt,
};

/// The reason why a connection failed: an SSH error, or the check of the server's key.
#[derive(Debug)]
pub(super) enum ConnectError {
    Ssh(russh::Error),
    HostKey(Box<Error>),
}

impl From<russh::Error> for ConnectError {
    fn from(e: russh::Error) -> Self {
        Self::Ssh(e)
    }
}

impl ConnectError {
    pub(super) fn into_error(self, action: impl fmt::Display) -> Error {
        match self {
            Self::Ssh(e) => ssh_error(action, e),
            Self::HostKey(e) => *e,
        }
    }
}

/// The error of a connection that fails. Incompatible algorithms and wrong keys are permanent; other failures may be
/// temporary.
pub(super) fn ssh_error(action: impl fmt::Display, e: russh::Error) -> Error {
    use russh::Error as E;
    let kind = match &e {
        E::NoCommonAlgo { .. } | E::Version | E::UnsupportedAuthMethod => Kind::Unsupported,
        E::WrongServerSig | E::UnknownKey | E::KeyChanged { .. } => Kind::Unauthenticated,
        _ => Kind::Network,
    };
    Error::new(kind, action.to_string()).because(e)
}

/// Status codes of the draft, and codes of later versions that servers send anyway.
const END_OF_FILE: u32 = 1;

/// The error of a failed request: the server's status, or a broken connection.
pub(super) fn request_error(action: impl Into<String>, failure: RequestFailure) -> Error {
    let status = match failure {
        RequestFailure::Status(status) => status,
        RequestFailure::ConnectionLost(reason) => {
            return Error::new(Kind::Network, action).because(one_line_excerpt(&reason));
        }
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
    let words = match one_line_excerpt(&status.message) {
        words if words.is_empty() => format!("answered status {} ({name})", status.code),
        words => format!("answered {name}: {words}"),
    };
    Error::new(kind, action).because(words)
}

pub(super) fn is_end_of_file(failure: &RequestFailure) -> bool {
    matches!(failure, RequestFailure::Status(Status { code: END_OF_FILE, .. }))
}

/// Whether the server says that there is nothing under a name.
pub(super) fn is_not_found(failure: &RequestFailure) -> bool {
    matches!(failure, RequestFailure::Status(Status { code: 2 | 10, .. }))
}

/// Whether the connection is no longer usable.
pub(super) fn is_connection_lost(failure: &RequestFailure) -> bool {
    matches!(failure, RequestFailure::ConnectionLost(_))
}
