//! What FTP servers answer when something is wrong, as our kinds: one table, [`verdict`].

use std::io;

use suppaftp::{FtpError, types::Response};

use crate::{
    error::{Error, Kind},
    protocols::{paths::said, tls},
};

/// `doing` names what was done, to what, and where.
pub(super) fn failure(doing: impl Into<String>, error: FtpError) -> Error {
    match error {
        FtpError::UnexpectedResponse(reply) => {
            let (kind, hint) = verdict(&reply);
            let error = Error::new(kind, doing).because(text(&reply));
            hint.into_iter().fold(error, Error::hint)
        }
        FtpError::ConnectionError(e) => lost(doing, e),
        FtpError::SecureError(why) => Error::new(Kind::Network, doing).because(why),
        // A server that is out of step, or no FTP server at all.
        FtpError::BadResponse => Error::new(Kind::Unavailable, doing)
            .because("the server answered something that is not FTP"),
        other => Error::new(Kind::Internal, doing).because(other),
    }
}

/// A connection that broke: whatever the system calls it, it may work the next time.
pub(super) fn lost(doing: impl Into<String>, e: io::Error) -> Error {
    // Of a TLS handshake.
    if let Some(told) = e.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        let error = Error::new(told.kind(), doing).because(told.report());
        return told.hint_text().into_iter().fold(error, Error::hint);
    }
    let kind = match e.kind() {
        // What we would have sent is no command; what came is more than any server has to say.
        io::ErrorKind::InvalidInput => Kind::InvalidInput,
        io::ErrorKind::InvalidData if !is_tls(&e) => Kind::Unsupported,
        _ => Kind::Network,
    };
    match kind {
        Kind::Network => Error::new(kind, doing).because(tls::plain(&e.to_string())),
        _ => Error::new(kind, doing).because(e),
    }
}

fn is_tls(e: &io::Error) -> bool {
    e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Whether the server does not have the command, or not with such an argument.
pub(super) fn is_unknown_command(error: &FtpError) -> bool {
    matches!(reply_code(error), Some(500..=504 | 522))
}

/// Whether there is no such file, or none that we may see: servers give one answer for both.
pub(super) fn is_not_there(error: &FtpError) -> bool {
    matches!(reply_code(error), Some(550 | 551))
}

pub(super) fn reply_code(error: &FtpError) -> Option<u32> {
    if let FtpError::UnexpectedResponse(reply) = error { code(reply) } else { None }
}

/// The three digits; the library has no name for all of them.
fn code(reply: &Response) -> Option<u32> {
    std::str::from_utf8(reply.body.get(..3)?).ok()?.parse().ok()
}

fn text(reply: &Response) -> String {
    format!("answered {}", said(&String::from_utf8_lossy(&reply.body)))
}

/// The table: what an answer means, and what to do about it.
fn verdict(reply: &Response) -> (Kind, Option<&'static str>) {
    let words = String::from_utf8_lossy(&reply.body).to_lowercase();
    let says = |some: &[&str]| some.iter().any(|word| words.contains(word));
    let full = says(&["too many", "maximum", "limit"]);
    match code(reply).unwrap_or_default() {
        421 => (Kind::Unavailable, Some("fewer connections at once may help (-x)")),
        430 | 530 | 532 | 331 | 332 if full => {
            (Kind::RateLimited, Some("fewer connections at once may help (-x)"))
        }
        430 | 530 | 532 | 331 | 332 => {
            (Kind::Unauthenticated, Some("give the user and the password: -u USER"))
        }
        // Asked for TLS, or for it on the data connections too.
        522 | 534 | 536 => (Kind::Unsupported, Some("ftpes:// asks for TLS")),
        550 if says(&["permission", "denied", "not allowed", "forbidden"]) => {
            (Kind::PermissionDenied, None)
        }
        // The second is rclone's.
        550 | 551 => (Kind::NotFound, None),
        425 | 426 => (Kind::Network, None),
        450 | 451 | 452 | 434 => (Kind::Unavailable, None),
        500..=504 => (Kind::Unsupported, None),
        552 | 553 => (Kind::PermissionDenied, None),
        400..=499 => (Kind::Unavailable, None),
        _ => (Kind::Internal, None),
    }
}

#[cfg(test)]
mod tests {
    use suppaftp::Status;

    use super::*;

    fn kind(answer: &str) -> Kind {
        let reply = Response::new(Status::Unknown, answer.as_bytes().to_vec());
        failure("get x", FtpError::UnexpectedResponse(reply)).kind()
    }

    #[test]
    fn every_answer_has_a_kind() {
        for (answer, wanted) in [
            ("421 Service not available\r\n", Kind::Unavailable),
            ("530 Login incorrect.\r\n", Kind::Unauthenticated),
            ("530 Sorry, the maximum number of clients is reached\r\n", Kind::RateLimited),
            ("530 Too many users\r\n", Kind::RateLimited),
            ("550 Failed to open file.\r\n", Kind::NotFound),
            ("551 File not available\r\n", Kind::NotFound),
            ("550 Permission denied.\r\n", Kind::PermissionDenied),
            ("522 Data connections must be encrypted\r\n", Kind::Unsupported),
            ("425 Can't open data connection\r\n", Kind::Network),
            ("426 Transfer aborted\r\n", Kind::Network),
            ("451 Local error\r\n", Kind::Unavailable),
            ("502 Command not implemented\r\n", Kind::Unsupported),
            ("553 Name not allowed\r\n", Kind::PermissionDenied),
            ("200 fine\r\n", Kind::Internal),
        ] {
            assert_eq!(kind(answer), wanted, "{answer}");
        }
    }

    #[test]
    fn what_a_server_says_is_told_on_one_line() {
        let reply = Response::new(Status::Unknown, b"550-no\r\n550 such file\r\n".to_vec());
        let error = failure("get x", FtpError::UnexpectedResponse(reply));
        assert_eq!(error.report(), "get x: answered 550-no  550 such file");
    }

    #[test]
    fn a_broken_connection_may_work_the_next_time() {
        for e in [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset] {
            assert_eq!(lost("get x", e.into()).kind(), Kind::Network);
        }
        assert_eq!(lost("get x", io::ErrorKind::InvalidInput.into()).kind(), Kind::InvalidInput);
    }
}
