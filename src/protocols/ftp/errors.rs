//! Turns replies and broken connections of FTP servers into errors. [`verdict`] is the table of replies.

use std::io;

use super::{
    control::Broken,
    reply::{NoReply, Reply},
};
use crate::{
    error::{Error, Kind},
    protocols::tls,
};

/// A command that the server refused.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The action, its object and the server, for the error text.
    doing: String,
    /// The command, without its argument, which may be a password.
    command: String,
    reply: Reply,
    /// The reply to an alternative command that was refused before.
    before: Option<String>,
}

impl Refusal {
    pub(super) fn new(doing: String, command: &str, reply: Reply) -> Self {
        Self { doing, command: command.to_owned(), reply, before: None }
    }

    /// Adds that the alternative command `other` was refused before.
    pub(super) fn after(self, other: &Self) -> Self {
        Self { before: Some(other.answered()), ..self }
    }

    pub(super) fn is_of(&self, command: &str) -> bool {
        self.command == command
    }

    /// Whether the file does not exist or may not be seen. Servers answer both cases with the same code.
    pub(super) fn is_not_there(&self) -> bool {
        matches!(self.reply.code, 550 | 551)
    }

    /// Whether the server does not support the command, or not with this argument.
    pub(super) fn is_unknown_command(&self) -> bool {
        matches!(self.reply.code, 202 | 500..=504 | 522)
    }

    /// Whether a listing is refused because the folder is empty.
    pub(super) fn says_empty(&self) -> bool {
        const NOTHING: [&str; 9] = [
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
        let words = without_names(&self.reply.words());
        matches!(self.reply.code, 450 | 550)
            && !speaks_of_permission(&words)
            && NOTHING.iter().any(|text| words.contains(text))
    }

    /// Whether a file is refused because it does not exist, and not because it may not be read.
    pub(super) fn says_missing(&self) -> bool {
        self.is_not_there() && !speaks_of_permission(&without_names(&self.reply.words()))
    }

    fn answered(&self) -> String {
        format!("{} answered {}", self.command, self.reply.said())
    }

    /// The error for too many connections: the same login already has a session.
    pub(super) fn one_too_many(self) -> Error {
        Error::new(Kind::RateLimited, self.doing.clone())
            .because(format!("{}, while another connection has the same login", self.answered()))
            .hint(FEWER)
    }

    /// The error of a refused connection before the login: the server is temporarily unavailable.
    pub(super) fn not_now(self) -> Error {
        Error::new(Kind::Unavailable, self.doing.clone()).because(self.answered())
    }

    /// The error with this kind.
    pub(super) fn of_kind(self, kind: Kind) -> Error {
        Error::new(kind, self.doing.clone()).because(self.answered())
    }
}

/// Words of replies that refuse a permission.
const PERMISSION: [&str; 4] = ["permission", "denied", "not allowed", "forbidden"];

fn speaks_of_permission(words: &str) -> bool {
    let also = ["not permitted", "access is"];
    PERMISSION.iter().chain(&also).any(|text| words.contains(text))
}

/// The words of a reply without quoted names, and without the path in `550 /a path: No such file`.
fn without_names(words: &str) -> String {
    let unquoted: String = words.split('"').step_by(2).collect();
    unquoted.rsplit_once(": ").map_or(unquoted.clone(), |(_, said)| said.to_owned())
}

const FEWER: &str = "fewer connections at once may help (-x)";

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let (kind, hint) = verdict(&refusal.reply);
        let answered = refusal.answered();
        let why = refusal.before.map_or(answered.clone(), |before| format!("{before}; {answered}"));
        let error = Error::new(kind, refusal.doing).because(why);
        hint.into_iter().fold(error, Error::hint)
    }
}

/// The error when there is no reply. `doing` names the action, its object and the server.
pub(super) fn broken(doing: impl Into<String>, broken: Broken) -> Error {
    match broken {
        Broken::Io(e) => lost(doing, e),
        // The server is out of step with the commands, or it is not an FTP server.
        Broken::NoReply(NoReply::Foreign(said)) => Error::new(Kind::Unavailable, doing)
            .because(format!("the server answered something that is not FTP: {said:?}")),
        Broken::NoReply(NoReply::TooLong) => {
            Error::new(Kind::Unsupported, doing).because("an answer of the server has no end")
        }
    }
}

/// The error of a broken connection. It is retryable, whatever the I/O error says.
pub(super) fn lost(doing: impl Into<String>, e: io::Error) -> Error {
    let kind = match e.kind() {
        // Our own command was invalid and was not sent.
        io::ErrorKind::InvalidInput => Kind::InvalidInput,
        _ => Kind::Network,
    };
    match kind {
        Kind::Network => Error::new(kind, doing).because(tls::plain(&e.to_string())),
        _ => Error::new(kind, doing).because(e),
    }
}

/// The error of a failed TLS handshake.
pub(super) fn no_tls(doing: impl Into<String>, e: io::Error) -> Error {
    let told = tls::handshake(&e);
    let error = Error::new(told.kind(), doing).because(told.report());
    told.hint_text().into_iter().fold(error, Error::hint)
}

/// The table of replies: the kind of the error, and a hint.
fn verdict(reply: &Reply) -> (Kind, Option<&'static str>) {
    let words = reply.words();
    let says = |some: &[&str]| some.iter().any(|word| words.contains(word));
    let full = says(&["too many", "maximum", "limit", "simultaneous", "only one", "restricted to"]);
    match reply.code {
        421 => (Kind::Unavailable, Some(FEWER)),
        430 | 530 | 532 | 331 | 332 if full => (Kind::RateLimited, Some(FEWER)),
        332 | 532 => (Kind::Unauthenticated, Some("the server wants an account (ACCT) as well")),
        430 | 530 | 331 => (Kind::Unauthenticated, Some("give the user and the password: -u USER")),
        // The server requires TLS, for the login or for data connections.
        522 | 534 | 536 => (Kind::Unsupported, Some("ftpes:// asks for TLS")),
        550 if says(&PERMISSION) => (Kind::PermissionDenied, None),
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
        Refusal::new("get x".into(), "RETR", Reply::of(answer)).into()
    }

    #[test]
    fn every_answer_has_a_kind() {
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
    fn an_error_names_the_command_that_was_answered() {
        assert_eq!(
            refused("550-no\r\n550 such file\r\n").report(),
            "get x: RETR answered 550-no 550 such file"
        );
        let first = Refusal::new("get x".into(), "EPSV", Reply::of("425 no"));
        let second = Refusal::new("get x".into(), "PASV", Reply::of("502 no"));
        let both = Error::from(second.after(&first)).report();
        assert_eq!(both, "get x: EPSV answered 425 no; PASV answered 502 no");
    }

    #[test]
    fn an_empty_folder_is_told_from_one_that_may_not_be_listed() {
        let says_empty =
            |answer| Refusal::new("list".into(), "LIST", Reply::of(answer)).says_empty();
        for answer in ["450 No files found", "550 No such file or directory.", "450 /x: not found"]
        {
            assert!(says_empty(answer), "{answer}");
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
            assert!(!says_empty(answer), "{answer}");
        }
    }

    #[test]
    fn a_broken_connection_may_work_the_next_time() {
        for e in [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset] {
            assert_eq!(lost("get x", e.into()).kind(), Kind::Network);
        }
        assert_eq!(lost("get x", io::ErrorKind::InvalidInput.into()).kind(), Kind::InvalidInput);
    }
}
