//! What FTP servers answer when something is wrong, as our kinds: one table, [`verdict`].

use std::io;

use super::{
    control::Broken,
    reply::{NoReply, Reply},
};
use crate::{
    error::{Error, Kind},
    protocols::tls,
};

/// A command that was refused.
#[derive(Debug)]
pub(super) struct Refusal {
    /// What was done, to what, and where.
    doing: String,
    /// The command, without its argument, which may be a password.
    command: String,
    reply: Reply,
    /// What was answered to another command that would have done as well.
    before: Option<String>,
}

impl Refusal {
    pub(super) fn new(doing: String, command: &str, reply: Reply) -> Self {
        Self { doing, command: command.to_owned(), reply, before: None }
    }

    /// The same, after `other` was refused too.
    pub(super) fn after(self, other: &Self) -> Self {
        Self { before: Some(other.answered()), ..self }
    }

    pub(super) fn is_of(&self, command: &str) -> bool {
        self.command == command
    }

    /// Whether there is no such file, or none that we may see: servers give one answer for both.
    pub(super) fn is_not_there(&self) -> bool {
        matches!(self.reply.code, 550 | 551)
    }

    /// Whether the server does not have the command, or not with such an argument.
    pub(super) fn is_unknown_command(&self) -> bool {
        matches!(self.reply.code, 202 | 500..=504 | 522)
    }

    /// Whether a listing is refused because there is nothing to list.
    pub(super) fn says_empty(&self) -> bool {
        let words = self.reply.words();
        let nothing =
            ["no files", "no such file", "not found", "empty", "no members", "no entries"];
        matches!(self.reply.code, 450 | 550) && nothing.iter().any(|text| words.contains(text))
    }

    fn answered(&self) -> String {
        format!("{} answered {}", self.command, self.reply.said())
    }

    /// As an error about too many connections: the same login is in already.
    pub(super) fn one_too_many(self) -> Error {
        Error::new(Kind::RateLimited, self.doing.clone())
            .because(format!("{}, while another connection has the same login", self.answered()))
            .hint(FEWER)
    }

    /// As an error about a server that serves nobody now: nothing was asked of it yet.
    pub(super) fn not_now(self) -> Error {
        Error::new(Kind::Unavailable, self.doing.clone()).because(self.answered())
    }

    /// As an error of this kind.
    pub(super) fn of_kind(self, kind: Kind) -> Error {
        Error::new(kind, self.doing.clone()).because(self.answered())
    }
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

/// There is no reply. `doing` names what was done, to what, and where.
pub(super) fn broken(doing: impl Into<String>, broken: Broken) -> Error {
    match broken {
        Broken::Io(e) => lost(doing, e),
        // A server that is out of step, or no FTP server at all.
        Broken::NoReply(NoReply::Foreign(said)) => Error::new(Kind::Unavailable, doing)
            .because(format!("the server answered something that is not FTP: {said:?}")),
        Broken::NoReply(NoReply::TooLong) => {
            Error::new(Kind::Unsupported, doing).because("an answer of the server has no end")
        }
    }
}

/// A connection that broke: whatever the system calls it, it may work the next time.
pub(super) fn lost(doing: impl Into<String>, e: io::Error) -> Error {
    let kind = match e.kind() {
        // What we would have sent is no command.
        io::ErrorKind::InvalidInput => Kind::InvalidInput,
        _ => Kind::Network,
    };
    match kind {
        Kind::Network => Error::new(kind, doing).because(tls::plain(&e.to_string())),
        _ => Error::new(kind, doing).because(e),
    }
}

/// A connection on which TLS did not come about.
pub(super) fn no_tls(doing: impl Into<String>, e: io::Error) -> Error {
    let told = tls::handshake(&e);
    let error = Error::new(told.kind(), doing).because(told.report());
    told.hint_text().into_iter().fold(error, Error::hint)
}

/// The table: what an answer means, and what to do about it.
fn verdict(reply: &Reply) -> (Kind, Option<&'static str>) {
    let words = reply.words();
    let says = |some: &[&str]| some.iter().any(|word| words.contains(word));
    let full = says(&["too many", "maximum", "limit", "simultaneous", "only one", "restricted to"]);
    match reply.code {
        421 => (Kind::Unavailable, Some(FEWER)),
        430 | 530 | 532 | 331 | 332 if full => (Kind::RateLimited, Some(FEWER)),
        332 | 532 => (Kind::Unauthenticated, Some("the server wants an account (ACCT) as well")),
        430 | 530 | 331 => (Kind::Unauthenticated, Some("give the user and the password: -u USER")),
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
        for answer in ["550 Permission denied", "450 File busy", "550 Failed", "451 No files"] {
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
