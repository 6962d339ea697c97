//! The error type: what failed, on which object and storage, and what to do about it.
//!
//! [`Kind`] tells the *caller* what to do. Four tables depend on it and live here: kind → retry
//! ([`Kind::is_retryable`]), kind → exit code ([`Kind::exit_code`]), kind → HTTP status ([`Kind::http_status`]), and
//! kind → gRPC status ([`Kind::grpc_code`]).
//! The text is lower case and names the object and the storage. The cause is a separate field, and [`Error::report`]
//! prints it once.

use std::{error::Error as StdError, fmt, io, sync::Arc, time::Duration};

use rustix::io::Errno;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::hints::Hint;

/// The result of every fallible function in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an [`Error`]. JSON has its name in snake case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// The named object does not exist: name another.
    NotFound,
    /// It already exists: choose another name, or use the existing one.
    AlreadyExists,
    /// The input is not usable: a bad argument, a malformed torrent.
    InvalidInput,
    /// Not signed in, or wrong credentials.
    Unauthenticated,
    /// Signed in, but not allowed to do this.
    PermissionDenied,
    /// Too many requests: retry later.
    RateLimited,
    /// Busy or down: retry later.
    Unavailable,
    /// A timeout or a broken connection.
    Network,
    /// The bytes do not match their hash.
    Corrupt,
    /// The object changed since it was first read: start over.
    Changed,
    /// No free space, or the quota is used up.
    NoSpace,
    /// An upload session has expired: start the upload again.
    SessionExpired,
    /// This build, system or storage does not support it.
    Unsupported,
    /// Stopped on request.
    Cancelled,
    /// A bug or an unforeseen error. Never retried.
    Internal,
}

impl Kind {
    /// Whether the same call may succeed later without user action.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::RateLimited | Self::Unavailable | Self::Network | Self::SessionExpired)
    }

    /// Whether the error concerns certain bytes only, so that other bytes of the same storage may be readable.
    #[must_use]
    pub fn is_object_specific(self) -> bool {
        matches!(self, Self::NotFound | Self::Corrupt)
    }

    // ANCHOR: exit_code
    /// The exit code of the program when this error ended it.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::AlreadyExists | Self::Changed | Self::Unsupported | Self::Internal => 1,
            Self::InvalidInput => 2,
            Self::NotFound => 3,
            Self::RateLimited | Self::Unavailable | Self::SessionExpired => 5,
            Self::Network => 6,
            Self::Cancelled => 7,
            Self::NoSpace => 8,
            Self::Unauthenticated | Self::PermissionDenied => 24,
            Self::Corrupt => 32,
        }
    }
    // ANCHOR_END: exit_code

    /// The HTTP status for this kind, when no more specific one applies.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidInput => 400,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Changed => 409,
            Self::Internal => 500,
            Self::Unsupported => 501,
            // The HTTP client is signed in; our own request to the storage was rejected or failed.
            Self::Unauthenticated | Self::PermissionDenied | Self::Corrupt => 502,
            Self::RateLimited | Self::Unavailable | Self::SessionExpired | Self::Cancelled => 503,
            Self::Network => 504,
            Self::NoSpace => 507,
        }
    }

    /// The code of gRPC's status for this kind.
    #[must_use]
    pub fn grpc_code(self) -> i32 {
        match self {
            Self::Cancelled => 1,
            Self::InvalidInput => 3,
            Self::NotFound => 5,
            Self::AlreadyExists => 6,
            Self::PermissionDenied => 7,
            Self::RateLimited | Self::NoSpace => 8,
            Self::Changed => 10,
            Self::Unsupported => 12,
            Self::Internal => 13,
            Self::Unavailable | Self::Network | Self::SessionExpired => 14,
            Self::Corrupt => 15,
            Self::Unauthenticated => 16,
        }
    }
}

/// An error: its kind, the operation and object, an optional hint, and the cause. Clones share the cause, so that one
/// failure can be reported to all callers that waited for it.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    context: String,
    hint: Option<Hint>,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error without a cause. `context` names the object and the storage.
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), hint: None, retry_after: None, source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Adds a hint: what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Hint>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Takes over the hint of `other`, if it has one.
    #[must_use]
    pub fn hint_of(mut self, other: &Self) -> Self {
        if let Some(hint) = &other.hint {
            self.hint = Some(hint.clone());
        }
        self
    }

    /// Adds the delay that the server requested (`Retry-After`).
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Prefixes the text with `context`, for a caller that knows where the error occurred.
    #[must_use]
    pub fn with_context(mut self, context: impl fmt::Display) -> Self {
        self.context = format!("{context}: {}", self.context);
        self
    }

    /// An I/O error; `context` names the operation.
    pub fn io(context: impl Into<String>, e: io::Error) -> Self {
        let (kind, hint) = (io_kind(&e), io_hint(&e));
        Self { hint: hint.map(Hint::from), ..Self::new(kind, context).because(e) }
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The hint with its typed settings and operations.
    #[must_use]
    pub fn typed_hint(&self) -> Option<&Hint> {
        self.hint.as_ref()
    }

    /// The hint in neutral words.
    #[must_use]
    pub fn hint_text(&self) -> Option<String> {
        self.hint.as_ref().map(ToString::to_string)
    }

    /// The delay that the server requested.
    #[must_use]
    pub fn requested_wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The text, then each cause once, joined by `: `.
    #[must_use]
    pub fn report(&self) -> String {
        let mut out = self.context.clone();
        let mut next = self.source();
        while let Some(e) = next {
            let text = e.to_string();
            if !out.contains(&text) {
                out.push_str(": ");
                out.push_str(&text);
            }
            next = e.source();
        }
        out
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|e| &**e as _)
    }
}

/// ENFILE (system limit) and EMFILE (process limit): too many open files. Retryable, since other files will be closed.
const TOO_MANY_OPEN_FILES: [i32; 2] = [23, 24];

fn io_kind(e: &io::Error) -> Kind {
    use io::ErrorKind as E;
    if e.raw_os_error().is_some_and(|code| TOO_MANY_OPEN_FILES.contains(&code)) {
        return Kind::Unavailable;
    }
    match e.kind() {
        E::NotFound => Kind::NotFound,
        E::AlreadyExists => Kind::AlreadyExists,
        E::PermissionDenied | E::ReadOnlyFilesystem => Kind::PermissionDenied,
        E::StorageFull | E::QuotaExceeded | E::FileTooLarge => Kind::NoSpace,
        E::TimedOut
        | E::ConnectionRefused
        | E::ConnectionReset
        | E::ConnectionAborted
        | E::NotConnected
        | E::BrokenPipe
        | E::HostUnreachable
        | E::NetworkUnreachable => Kind::Network,
        E::Interrupted
        | E::WouldBlock
        | E::ResourceBusy
        | E::OutOfMemory
        | E::StaleNetworkFileHandle => Kind::Unavailable,
        E::InvalidInput | E::InvalidFilename | E::NotADirectory | E::IsADirectory => {
            Kind::InvalidInput
        }
        E::Unsupported => Kind::Unsupported,
        // A file that is shorter than the catalog says.
        E::UnexpectedEof => Kind::Corrupt,
        _ => Errno::from_io_error(e).map_or(Kind::Internal, errno_kind),
    }
}

/// Maps an errno that has no [`io::ErrorKind`].
fn errno_kind(e: Errno) -> Kind {
    match e {
        // The disk, its cable, or the server of a network drive; a retry may succeed.
        Errno::IO | Errno::NODEV | Errno::NXIO | Errno::HOSTDOWN | Errno::REMOTEIO => {
            Kind::Unavailable
        }
        Errno::MFILE | Errno::NFILE | Errno::NOLCK => Kind::Unavailable,
        Errno::LOOP => Kind::InvalidInput,
        _ => Kind::Internal,
    }
}

/// The hint for an errno, where the errno alone suffices.
fn io_hint(e: &io::Error) -> Option<&'static str> {
    Some(match Errno::from_io_error(e)? {
        Errno::MFILE | Errno::NFILE => "raise the limit of open files (ulimit -n)",
        Errno::IO | Errno::NODEV | Errno::NXIO => "the disk or its connection fails: see `dmesg`",
        Errno::ROFS => "the file system is mounted read-only",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_contains_each_cause_once() {
        let e = Error::io("chunk 17 of import 9c4e", io::Error::other("disk on fire"))
            .with_context("storage \"music\"");
        assert_eq!(e.report(), "storage \"music\": chunk 17 of import 9c4e: disk on fire");
        assert_eq!(e.to_string(), "storage \"music\": chunk 17 of import 9c4e");
    }

    #[test]
    fn a_full_disk_has_its_own_kind() {
        let full = io::Error::from_raw_os_error(28);
        assert_eq!(Error::io("put", full).kind(), Kind::NoSpace);
        assert_eq!(Error::io("put", io::Error::other("?")).kind(), Kind::Internal);
        assert!(Error::io("open", io::Error::from_raw_os_error(24)).kind().is_retryable());
    }

    #[test]
    fn only_transient_io_errors_are_retryable() {
        let kind = |e: Errno| Error::io("put", e.into()).kind();
        for transient in [Errno::MFILE, Errno::NFILE, Errno::IO, Errno::STALE, Errno::NOMEM] {
            assert!(kind(transient).is_retryable(), "{transient:?}");
        }
        for (permanent, expected) in [
            (Errno::NOSPC, Kind::NoSpace),
            (Errno::DQUOT, Kind::NoSpace),
            (Errno::FBIG, Kind::NoSpace),
            (Errno::ROFS, Kind::PermissionDenied),
            (Errno::PERM, Kind::PermissionDenied),
            (Errno::NOENT, Kind::NotFound),
            (Errno::NAMETOOLONG, Kind::InvalidInput),
        ] {
            assert_eq!(kind(permanent), expected, "{permanent:?}");
        }
        let hint = Error::io("open", Errno::MFILE.into()).hint_text();
        assert!(hint.is_some_and(|hint| hint.contains("ulimit -n")));
    }

    #[test]
    fn kinds_are_named_in_snake_case() {
        let name = |kind: Kind| serde_json::to_string(&kind).unwrap();
        assert_eq!(name(Kind::NotFound), "\"not_found\"");
        assert_eq!(name(Kind::Corrupt), "\"corrupt\"");
        let read: Kind = serde_json::from_str("\"session_expired\"").unwrap();
        assert_eq!(read, Kind::SessionExpired);
    }
}
