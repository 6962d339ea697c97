//! What went wrong, said once: what, where, and what to do.
//!
//! [`Kind`] tells the *caller* what to do; three tables hang on it and live here:
//! kind → retry ([`Kind::is_retryable`]), kind → exit code ([`Kind::exit_code`]), kind → HTTP status
//! ([`Kind::http_status`]).
//! The text is lower case and names the thing and the place; the cause is a field, printed once, by
//! [`Error::report`].

use std::{error::Error as StdError, fmt, io, time::Duration};

use rustix::io::Errno;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// There is no such thing: name another.
    NotFound,
    /// It is there already: choose another name, or use what is there.
    AlreadyExists,
    /// What was given cannot be used: a bad argument, a malformed torrent.
    InvalidInput,
    /// Nobody is signed in, or the key is wrong.
    Unauthenticated,
    /// Signed in, but not allowed to do this.
    PermissionDenied,
    /// Asked too often: later.
    RateLimited,
    /// Busy or down: later.
    Unavailable,
    /// Nothing answered in time, or the connection broke.
    Network,
    /// Bytes are not what their hash says.
    Corrupt,
    /// It is not what it was when it was looked at: start afresh.
    Changed,
    /// No room, or the quota is used up.
    NoSpace,
    /// An upload session is gone: start it again.
    SessionExpired,
    /// This build or this place cannot do that.
    Unsupported,
    /// Somebody asked to stop.
    Cancelled,
    /// A defect, or something nobody foresaw. Never retried.
    Internal,
}

impl Kind {
    /// Whether the same call may succeed later with nobody's help.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::RateLimited | Self::Unavailable | Self::Network | Self::SessionExpired)
    }

    /// Whether the error is about certain bytes, so that others of the same place may be well.
    #[must_use]
    pub fn is_about_bytes(self) -> bool {
        matches!(self, Self::NotFound | Self::Corrupt)
    }

    /// The exit code of the program when this is what ended it.
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

    /// The status of an HTTP answer when this is why there is no better one.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidInput => 400,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Changed => 409,
            Self::Internal => 500,
            Self::Unsupported => 501,
            // Whoever asks us is signed in: it is our own call to the storage that was refused, or failed.
            Self::Unauthenticated | Self::PermissionDenied | Self::Corrupt => 502,
            Self::RateLimited | Self::Unavailable | Self::SessionExpired | Self::Cancelled => 503,
            Self::Network => 504,
            Self::NoSpace => 507,
        }
    }
}

/// An error: its kind, what was being done to what, a hint where there is one, and the cause.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    context: String,
    hint: Option<String>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error without a cause. `context` names the thing and the place.
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), hint: None, retry_after: None, source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds how long the other side asked to be left alone (`Retry-After`).
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Puts `place` before the text, for a caller that knows more about where it happened.
    #[must_use]
    pub fn within(mut self, place: impl fmt::Display) -> Self {
        self.context = format!("{place}: {}", self.context);
        self
    }

    /// An I/O error met while doing `context`.
    pub fn io(context: impl Into<String>, e: io::Error) -> Self {
        let (kind, hint) = (io_kind(&e), io_hint(&e));
        Self { hint: hint.map(str::to_owned), ..Self::new(kind, context).because(e) }
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// How long the other side asked to be left alone.
    #[must_use]
    pub fn wait_asked(&self) -> Option<Duration> {
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

/// Of this process and of the system: too many open files. Others will be closed.
const TOO_MANY_OPEN: [i32; 2] = [23, 24];

fn io_kind(e: &io::Error) -> Kind {
    use io::ErrorKind as E;
    if e.raw_os_error().is_some_and(|code| TOO_MANY_OPEN.contains(&code)) {
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
        _ => Errno::from_io_error(e).map_or(Kind::Internal, errno_kind),
    }
}

/// Of those that the standard library has no word for.
fn errno_kind(e: Errno) -> Kind {
    match e {
        // The disk, its cable, or the server of a network drive: it may be back at the next try.
        Errno::IO | Errno::NODEV | Errno::NXIO | Errno::HOSTDOWN | Errno::REMOTEIO => {
            Kind::Unavailable
        }
        Errno::MFILE | Errno::NFILE | Errno::NOLCK => Kind::Unavailable,
        Errno::LOOP => Kind::InvalidInput,
        _ => Kind::Internal,
    }
}

/// What to do, where the number alone tells.
fn io_hint(e: &io::Error) -> Option<&'static str> {
    Some(match Errno::from_io_error(e)? {
        Errno::MFILE | Errno::NFILE => "raise the limit of open files (ulimit -n)",
        Errno::IO | Errno::NODEV | Errno::NXIO => {
            "the disk or the connection to it fails: `dmesg` may say more"
        }
        Errno::ROFS => "the file system is mounted read-only",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_each_cause_once() {
        let e = Error::io("chunk 17 of import 9c4e", io::Error::other("disk on fire"))
            .within("storage \"music\"");
        assert_eq!(e.report(), "storage \"music\": chunk 17 of import 9c4e: disk on fire");
        assert_eq!(e.to_string(), "storage \"music\": chunk 17 of import 9c4e");
    }

    #[test]
    fn a_full_disk_is_told_from_other_io_errors() {
        let full = io::Error::from_raw_os_error(28);
        assert_eq!(Error::io("put", full).kind(), Kind::NoSpace);
        assert_eq!(Error::io("put", io::Error::other("?")).kind(), Kind::Internal);
        assert!(Error::io("open", io::Error::from_raw_os_error(24)).kind().is_retryable());
    }

    #[test]
    fn what_may_pass_by_itself_is_told_from_what_does_not() {
        let kind = |e: Errno| Error::io("put", e.into()).kind();
        for passing in [Errno::MFILE, Errno::NFILE, Errno::IO, Errno::STALE, Errno::NOMEM] {
            assert!(kind(passing).is_retryable(), "{passing:?}");
        }
        for (lasting, expected) in [
            (Errno::NOSPC, Kind::NoSpace),
            (Errno::DQUOT, Kind::NoSpace),
            (Errno::FBIG, Kind::NoSpace),
            (Errno::ROFS, Kind::PermissionDenied),
            (Errno::PERM, Kind::PermissionDenied),
            (Errno::NOENT, Kind::NotFound),
            (Errno::NAMETOOLONG, Kind::InvalidInput),
        ] {
            assert_eq!(kind(lasting), expected, "{lasting:?}");
        }
        let hint = Error::io("open", Errno::MFILE.into()).hint_text().map(str::to_owned);
        assert!(hint.is_some_and(|hint| hint.contains("ulimit -n")));
    }
}
