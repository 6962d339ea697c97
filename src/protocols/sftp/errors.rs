//! What goes wrong with an SSH connection and with a request on it, as our kinds.

use std::fmt;

use russh_sftp::{client::error::Error as SftpError, protocol::StatusCode};

use crate::{
    error::{Error, Kind},
    protocols::paths::said,
};

/// What ends the making of a connection: the transport's troubles, or ours with the server's key.
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

/// A transport that does not come about or breaks. What two sides cannot agree on stays so; all else may pass.
pub(super) fn transport(doing: impl fmt::Display, e: russh::Error) -> Error {
    use russh::Error as E;
    let kind = match &e {
        E::NoCommonAlgo { .. } | E::Version | E::UnsupportedAuthMethod => Kind::Unsupported,
        E::WrongServerSig | E::UnknownKey | E::KeyChanged { .. } => Kind::Unauthenticated,
        _ => Kind::Network,
    };
    Error::new(kind, doing.to_string()).because(e)
}

/// A request that failed: the server's answer, or none.
pub(super) fn request(doing: impl Into<String>, e: SftpError) -> Error {
    let (kind, why) = match &e {
        SftpError::Status(status) => {
            let kind = match status.status_code {
                StatusCode::NoSuchFile => Kind::NotFound,
                StatusCode::PermissionDenied => Kind::PermissionDenied,
                StatusCode::OpUnsupported => Kind::Unsupported,
                StatusCode::Eof => Kind::Corrupt,
                StatusCode::NoConnection | StatusCode::ConnectionLost => Kind::Network,
                // Of which servers say no more: too many open files, a disk that does not answer.
                StatusCode::Ok | StatusCode::Failure | StatusCode::BadMessage => Kind::Unavailable,
            };
            (kind, format!("answered {}: {}", status.status_code, said(&status.error_message)))
        }
        SftpError::Limited(why) => (Kind::Unavailable, why.clone()),
        other => (Kind::Network, said(&other.to_string())),
    };
    Error::new(kind, doing).because(why)
}

pub(super) fn is_end(e: &SftpError) -> bool {
    matches!(e, SftpError::Status(status) if status.status_code == StatusCode::Eof)
}

/// Whether the connection is of no use any more.
pub(super) fn is_fatal(e: &SftpError) -> bool {
    !matches!(e, SftpError::Status(_) | SftpError::Limited(_))
}
