//! What a C++ exception means: `cpp/errors.cpp` writes the digit of a [`FailureKind`] before the message.

use crate::{
    error::{Error, Kind},
    torrents::disk::ffi::FailureKind,
};

/// The error of a call into libtorrent that threw.
pub(super) fn error(exception: &cxx::Exception) -> Error {
    from_text(exception.what())
}

/// The error of a call that was not made, because the session has ended.
pub(super) fn session_ended() -> Error {
    Error::new(Kind::Cancelled, "the torrent session has ended")
}

fn from_text(text: &str) -> Error {
    let mut chars = text.chars();
    let digit = chars.next().and_then(|c| c.to_digit(10)).and_then(|d| u8::try_from(d).ok());
    let (kind, message) = match digit {
        Some(digit) => (FailureKind { repr: digit }, chars.as_str()),
        None => (FailureKind::Internal, text),
    };
    let error = match kind {
        FailureKind::Cancelled => session_ended(),
        FailureKind::NotFound => Error::new(Kind::NotFound, "the torrent is not in the session"),
        FailureKind::AlreadyExists => {
            Error::new(Kind::AlreadyExists, "the torrent is in the session already")
                .hint("another import or seeding has it: stop that, or wait until it ends")
        }
        FailureKind::Unavailable => Error::new(Kind::Unavailable, "libtorrent cannot do this now"),
        FailureKind::InvalidInput => {
            Error::new(Kind::InvalidInput, "libtorrent does not accept this")
        }
        _ => Error::new(Kind::Internal, "libtorrent failed"),
    };
    error.because(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digit_before_the_message_is_the_kind_of_the_error() {
        let tagged = |kind: FailureKind| from_text(&format!("{}7 files", kind.repr));
        for (failure, kind) in [
            (FailureKind::Cancelled, Kind::Cancelled),
            (FailureKind::NotFound, Kind::NotFound),
            (FailureKind::AlreadyExists, Kind::AlreadyExists),
            (FailureKind::Unavailable, Kind::Unavailable),
            (FailureKind::InvalidInput, Kind::InvalidInput),
            (FailureKind::Internal, Kind::Internal),
        ] {
            let error = tagged(failure);
            assert_eq!(error.kind(), kind);
            assert!(error.report().ends_with(": 7 files"), "{}", error.report());
        }
        for (text, message) in [("", ""), ("lost", "lost"), ("é", "é"), ("9x", "x")] {
            let error = from_text(text);
            assert_eq!((error.kind(), error.report().contains(message)), (Kind::Internal, true));
        }
    }
}
