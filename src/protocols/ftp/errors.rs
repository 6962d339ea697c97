//! Turns replies and broken connections of FTP servers into errors. [`kind_and_hint`] is the table of replies.

use std::io;

use super::{
    control::ReplyFailure,
    reply::{InvalidReply, Reply},
};
use crate::{
    error::{Error, Kind},
    hints::{Hint, Setting, hint},
    protocols::tls,
};

/// A command that the server refused.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The action, its object and the server, for the error text.
    action: String,
    /// The command, without its argument, which may be a password.
    command: String,
    reply: Reply,
    /// The reply to an alternative command that was refused before.
    earlier_reply: Option<String>,
}

impl Refusal {
    pub(super) fn new(action: String, command: &str, reply: Reply) -> Self {
        Self { action, command: command.to_owned(), reply, earlier_reply: None }
    }

    /// Adds that the alternative command `other` was refused before.
    pub(super) fn after_refusal_of(self, other: &Self) -> Self {
        Self { earlier_reply: Some(other.reply_text()), ..self }
    }

    pub(super) fn is_reply_to(&self, command: &str) -> bool {
        self.command == command
    }

    /// Whether the file does not exist or may not be seen. Servers answer both cases with the same code.
    pub(super) fn is_missing_or_hidden(&self) -> bool {
        matches!(self.reply.code, 550 | 551)
    }

    /// Whether the server does not support the command, or not with this argument.
    pub(super) fn is_unsupported_command(&self) -> bool {
        matches!(self.reply.code, 202 | 500..=504 | 522)
    }

    /// Whether a listing is refused because the folder is empty.
    pub(super) fn means_empty(&self) -> bool {
        const EMPTY_WORDS: [&str; 9] = [
            "no files",
            "no such file",
            "not found",
            "is empty",
            "empty directory",
            "empty folder",
            "directory empty",
            "no members",
            "no entries",
        ];
        let words = without_quoted_names(&self.reply.lower_case_text());
        matches!(self.reply.code, 450 | 550)
            && !mentions_permission(&words)
            && EMPTY_WORDS.iter().any(|text| words.contains(text))
    }

    /// Whether a file is refused because it does not exist, and not because it may not be read.
    pub(super) fn means_missing(&self) -> bool {
        self.is_missing_or_hidden()
            && !mentions_permission(&without_quoted_names(&self.reply.lower_case_text()))
    }

    fn reply_text(&self) -> String {
        format!("{} answered {}", self.command, self.reply.display_text())
    }

    /// The error for too many connections: the same login already has a session.
    pub(super) fn into_too_many_sessions(self) -> Error {
        Error::new(Kind::RateLimited, self.action.clone())
            .because(format!("{}, while another connection has the same login", self.reply_text()))
            .hint(fewer_connections_hint())
    }

    /// The error of a refused connection before the login: the server is temporarily unavailable.
    pub(super) fn into_unavailable(self) -> Error {
        Error::new(Kind::Unavailable, self.action.clone()).because(self.reply_text())
    }

    /// The error with this kind.
    pub(super) fn into_kind(self, kind: Kind) -> Error {
        Error::new(kind, self.action.clone()).because(self.reply_text())
    }
}

/// Words of replies that refuse a permission.
const PERMISSION_WORDS: [&str; 4] = ["permission", "denied", "not allowed", "forbidden"];

fn mentions_permission(words: &str) -> bool {
    let more_words = ["not permitted", "access is"];
    PERMISSION_WORDS.iter().chain(&more_words).any(|text| words.contains(text))
}

/// The words of a reply without quoted names, and without the path in `550 /a path: No such file`.
fn without_quoted_names(words: &str) -> String {
    let unquoted: String = words.split('"').step_by(2).collect();
    unquoted.rsplit_once(": ").map_or(unquoted.clone(), |(_, reason)| reason.to_owned())
}

fn fewer_connections_hint() -> Hint {
    hint!["use fewer connections (", Setting::Workers, ")"]
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let (kind, hint) = kind_and_hint(&refusal.reply);
        let reply = refusal.reply_text();
        let cause = match refusal.earlier_reply {
            Some(earlier) => format!("{earlier}; {reply}"),
            None => reply,
        };
        let error = Error::new(kind, refusal.action).because(cause);
        hint.into_iter().fold(error, Error::hint)
    }
}

/// The error when there is no reply. `action` also names its object and the server.
pub(super) fn reply_failure(action: impl Into<String>, failure: ReplyFailure) -> Error {
    match failure {
        ReplyFailure::Io(e) => connection_lost(action, e),
        // The server is out of step with the commands, or it is not an FTP server.
        ReplyFailure::Invalid(InvalidReply::NotFtp(text)) => Error::new(Kind::Unavailable, action)
            .because(format!("the server's answer is not FTP: {text:?}")),
        ReplyFailure::Invalid(InvalidReply::TooLong) => {
            Error::new(Kind::Unsupported, action).because("a reply of the server exceeds 64 KiB")
        }
    }
}

/// The error of a broken connection. It is retryable, whatever the I/O error says.
pub(super) fn connection_lost(action: impl Into<String>, e: io::Error) -> Error {
    let kind = match e.kind() {
        // Our own command was invalid and was not sent.
        io::ErrorKind::InvalidInput => Kind::InvalidInput,
        _ => Kind::Network,
    };
    match kind {
        Kind::Network => Error::new(kind, action).because(tls::readable_io_error(&e.to_string())),
        _ => Error::new(kind, action).because(e),
    }
}

/// The error of a failed TLS handshake.
pub(super) fn tls_error(action: impl Into<String>, e: io::Error) -> Error {
    let cause = tls::handshake_error(&e);
    let error = Error::new(cause.kind(), action).because(cause.report());
    error.hint_of(&cause)
}

/// The table of replies: the kind of the error, and a hint.
fn kind_and_hint(reply: &Reply) -> (Kind, Option<Hint>) {
    let words = reply.lower_case_text();
    let has_any = |options: &[&str]| options.iter().any(|word| words.contains(word));
    let too_many_sessions =
        has_any(&["too many", "maximum", "limit", "simultaneous", "only one", "restricted to"]);
    match reply.code {
        421 => (Kind::Unavailable, Some(fewer_connections_hint())),
        430 | 530 | 532 | 331 | 332 if too_many_sessions => {
            (Kind::RateLimited, Some(fewer_connections_hint()))
        }
        332 | 532 => (
            Kind::Unauthenticated,
            Some("the server requires an account (ACCT), which is not supported".into()),
        ),
        430 | 530 | 331 => (
            Kind::Unauthenticated,
            Some(hint!["set the user and the password with ", Setting::User.with("USER")]),
        ),
        // The server requires TLS, for the login or for data connections.
        522 | 534 | 536 => (Kind::Unsupported, Some("use ftpes:// for TLS".into())),
        550 if has_any(&PERMISSION_WORDS) => (Kind::PermissionDenied, None),
        // rclone sends 551 for a missing file.
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
    use super::*;

    fn refused(answer: &str) -> Error {
        Refusal::new("get x".into(), "RETR", Reply::parse(answer)).into()
    }

    #[test]
    fn every_reply_has_an_error_kind() {
        for (answer, wanted) in [
            ("421 Service not available\r\n", Kind::Unavailable),
            ("530 Login incorrect.\r\n", Kind::Unauthenticated),
            ("530 Sorry, the maximum number of clients is reached\r\n", Kind::RateLimited),
            ("530 Too many users\r\n", Kind::RateLimited),
            ("530 Your account is restricted to 1 simultaneous logins.\r\n", Kind::RateLimited),
            ("530 This server allows only one login per user.\r\n", Kind::RateLimited),
            ("332 Need account\r\n", Kind::Unauthenticated),
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
            assert_eq!(refused(answer).kind(), wanted, "{answer}");
        }
    }

    #[test]
    fn an_error_names_the_refused_command() {
        assert_eq!(
            refused("550-no\r\n550 such file\r\n").report(),
            "get x: RETR answered 550-no 550 such file"
        );
        let first = Refusal::new("get x".into(), "EPSV", Reply::parse("425 no"));
        let second = Refusal::new("get x".into(), "PASV", Reply::parse("502 no"));
        let both = Error::from(second.after_refusal_of(&first)).report();
        assert_eq!(both, "get x: EPSV answered 425 no; PASV answered 502 no");
    }

    #[test]
    fn an_empty_folder_differs_from_one_without_permission() {
        let means_empty =
            |answer| Refusal::new("list".into(), "LIST", Reply::parse(answer)).means_empty();
        for answer in ["450 No files found", "550 No such file or directory.", "450 /x: not found"]
        {
            assert!(means_empty(answer), "{answer}");
        }
        for answer in [
            "550 Permission denied",
            "550 /srv/empty-orders: Permission denied",
            "550 \"/no files/is empty\": no access",
            "550 /srv/empty: Failed",
            "450 File busy",
            "550 Failed",
            "451 No files",
        ] {
            assert!(!means_empty(answer), "{answer}");
        }
    }

    #[test]
    fn a_broken_connection_is_retryable() {
        for e in [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset] {
            assert_eq!(connection_lost("get x", e.into()).kind(), Kind::Network);
        }
        assert_eq!(
            connection_lost("get x", io::ErrorKind::InvalidInput.into()).kind(),
            Kind::InvalidInput
        );
    }
}
