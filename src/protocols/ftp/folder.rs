//! Lists folders by `MLSD` where the server has it, else by `LIST`, whose output is meant for people.
//!
//! What a line leaves open is resolved by commands: `SIZE` recognises files, `CWD` folders. A line that cannot be
//! parsed may be a bare name and is tried as one. If it is not, the listing fails with an error that quotes the line,
//! so that nothing is left out silently. `LIST` gives dates only to the minute or day, in an unknown time zone.
//! Therefore the date of each file is requested, which takes one round trip each, for the first [`DATED`] files only.
//! Links may point anywhere: a link that can be fetched is a file; a link to a folder or to nothing is skipped. A
//! folder that may not be listed is reported as left out.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::{
    errors::{Refusal, lost},
    list_line,
    listing::{Child, Line, facts},
    session::{Answer, Session, Size, Transfer, remote, show},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{Listing, walk::Walk},
};

/// Maximum number of files whose dates are requested one by one.
const DATED: usize = 1000;
/// Maximum length of a line in bytes: a path of 4 KiB and its attributes.
const LINE: u64 = 8 << 10;

/// Stems of "truncated", in the languages of FTP servers.
const TRUNCATED: [&str; 9] = [
    "truncat", "beschr", "gekürzt", "tronqu", "truncad", "troncat", "afgekort", "avkort", "obcięt",
];

/// A listing in progress.
pub(super) struct Folders<'a> {
    session: &'a mut Session,
    /// The path of the first folder, without a slash at the end.
    top: Vec<u8>,
    /// The path of the folder that is being listed.
    here: Vec<u8>,
    mlsd: bool,
    /// Whether `MLSD` and `MDTM` report the same date, which is tested at the first file. Validators use the date of
    /// `MDTM`.
    dates_agree: Option<bool>,
    /// Number of dates that may still be requested.
    undated: usize,
}

/// Lists all files below the current folder of the session.
///
/// # Errors
/// As [`Protocol::probe`](crate::protocols::Protocol::probe).
pub(super) async fn list(session: &mut Session, mut walk: Walk, ranges: bool) -> Result<Listing> {
    let mut top = session.here().await?;
    while top.ends_with(b"/") {
        top.pop();
    }
    let mlsd = session.features().await?.mlsd;
    let mut folders =
        Folders { session, top, here: Vec::new(), mlsd, dates_agree: None, undated: DATED };
    while let Some(path) = walk.next_folder() {
        let Some(children) = walk.listed(folders.children_of(&path).await)? else { continue };
        for line in children {
            match folders.asked(line).await? {
                Some(Child::Folder(name)) => walk.folder(&name)?,
                Some(Child::File { name, len, modified }) => {
                    walk.file(&name, |url| remote(url, len, modified, ranges))?;
                }
                Some(Child::Link(_) | Child::Unknown(_)) | None => {}
            }
        }
    }
    Ok(walk.finish())
}

impl Folders<'_> {
    /// Lists the folder `path` and makes it the current one.
    async fn children_of(&mut self, path: &[u8]) -> Result<Vec<Told>> {
        if !path.is_empty() {
            self.here = [&self.top, &b"/"[..], path].concat();
            self.go_back().await?;
        }
        self.children().await
    }

    /// Changes to the folder that is being listed.
    async fn go_back(&mut self) -> Result<()> {
        let here: &[u8] = match (&self.here[..], &self.top[..]) {
            ([], []) => b"/",
            ([], top) => top,
            (here, _) => here,
        };
        match self.session.enter(here).await? {
            Answer::Is(()) => Ok(()),
            Answer::Refused(refusal) => Err(refusal.into()),
        }
    }

    /// Resolves what a line leaves open; `None` for entries to skip.
    async fn asked(&mut self, line: Told) -> Result<Option<Child>> {
        let (name, len, modified) = match line {
            Told::Child(Child::File { name, len, modified }) => (name, len, modified),
            Told::Child(Child::Folder(name)) => {
                return Ok(Some(Child::Folder(self.trimmed_folder(name).await?)));
            }
            Told::Child(Child::Link(name)) => match self.session.size(&name).await? {
                Size::Is(len) => (name, Some(len), None),
                _ if self.is_folder(&name).await? => return Ok(None),
                Size::Unknown => (name, None, None),
                // Some servers also answer this for files whose length they do not report, so a transfer decides. A
                // dangling link is not an error of the folder.
                Size::NotThere => {
                    let len = match self.session.is_empty(&name).await? {
                        Answer::Is(is_empty) => is_empty.then_some(0),
                        Answer::Refused(refusal) if refusal.says_missing() => return Ok(None),
                        // The refusal is reported when the file is fetched.
                        Answer::Refused(_) => None,
                    };
                    return Ok(Some(Child::File { name, len, modified: None }));
                }
            },
            Told::Child(Child::Unknown(name)) => match self.kind_of(&name).await? {
                Some(Child::File { name, len, modified }) => (name, len, modified),
                Some(folder) => return Ok(Some(folder)),
                None => return Err(self.unread(&name)),
            },
            Told::Unread(line) => match self.kind_of(&line).await? {
                Some(Child::File { name, len, modified }) => (name, len, modified),
                Some(folder) => return Ok(Some(folder)),
                None => return Err(self.unread(&line)),
            },
        };
        self.file(name, len, modified).await.map(Some)
    }

    /// A file with all metadata that the server reports.
    async fn file(
        &mut self,
        mut name: Vec<u8>,
        mut len: Option<u64>,
        mut modified: Option<String>,
    ) -> Result<Child> {
        if !self.mlsd && name.starts_with(b" ") {
            // Some servers write more than one space before the name.
            let bare = name.trim_ascii_start().to_vec();
            let exact = self.session.size(&name).await?;
            if exact.len().is_none() && self.session.size(&bare).await?.len().is_some() {
                name = bare;
            }
        }
        if len.is_none() {
            len = self.session.size(&name).await?.len();
        }
        if len == Some(0) {
            len = match self.session.is_empty(&name).await? {
                Answer::Is(true) => Some(0),
                Answer::Is(false) => None,
                // The refusal is reported when the file is fetched.
                Answer::Refused(_) => None,
            };
        }
        if modified.is_some() && self.dates_agree.is_none() {
            let told = self.session.modified(&name).await?;
            self.dates_agree = Some(told == modified);
            return Ok(Child::File { name, len, modified: told });
        }
        modified = modified.filter(|_| self.dates_agree == Some(true));
        if modified.is_none() && self.undated > 0 {
            self.undated -= 1;
            modified = self.session.modified(&name).await?;
        }
        Ok(Child::File { name, len, modified })
    }

    async fn trimmed_folder(&mut self, mut name: Vec<u8>) -> Result<Vec<u8>> {
        // `ls -F` appends a slash to folders.
        name.pop_if(|last| *last == b'/');
        if self.mlsd || !name.starts_with(b" ") || self.is_folder(&name).await? {
            return Ok(name);
        }
        let bare = name.trim_ascii_start().to_vec();
        Ok(if self.is_folder(&bare).await? { bare } else { name })
    }

    /// The file or folder of this name, if there is one.
    async fn kind_of(&mut self, name: &[u8]) -> Result<Option<Child>> {
        if name.contains(&0) || matches!(name, b"." | b"..") {
            return Ok(None);
        }
        let name = name.to_vec();
        if let Size::Is(len) = self.session.size(&name).await? {
            return Ok(Some(Child::File { name, len: Some(len), modified: None }));
        }
        if self.is_folder(&name).await? {
            return Ok(Some(Child::Folder(name)));
        }
        // A server that reports no lengths may report dates.
        let modified = self.session.modified(&name).await?;
        Ok(modified.map(|date| Child::File { name, len: None, modified: Some(date) }))
    }

    async fn is_folder(&mut self, name: &[u8]) -> Result<bool> {
        if let Answer::Refused(_) = self.session.enter(name).await? {
            return Ok(false);
        }
        self.go_back().await?;
        Ok(true)
    }

    fn unread(&self, line: &[u8]) -> Error {
        let place = match &self.here[..] {
            [] => String::new(),
            here => format!(" of {}", show(here)),
        };
        let text = format!("a listing{place} on {}", self.session.address);
        Error::new(Kind::Unsupported, text)
            .because(format!("the line {} is not understood", show(line)))
            .hint("fetch the files one by one")
    }

    /// Lists the current folder of the session.
    async fn children(&mut self) -> Result<Vec<Told>> {
        if self.mlsd {
            match self.session.begin("MLSD", b"", 0).await? {
                Answer::Is(transfer) => return self.read(transfer, facts).await,
                Answer::Refused(refusal) if refusal.is_unknown_command() => self.mlsd = false,
                Answer::Refused(refusal) => return nothing_or(refusal),
            }
        }
        // `-a` adds hidden files. Servers that do not know the flag take it for a name.
        if let Answer::Is(transfer) = self.session.begin("LIST", b"-a", 0).await? {
            let told = self.read(transfer, list_line::read).await?;
            if !told.is_empty() && !told.iter().any(|line| matches!(line, Told::Unread(_))) {
                return Ok(told);
            }
        }
        match self.session.begin("LIST", b"", 0).await? {
            Answer::Is(transfer) => self.read(transfer, list_line::read).await,
            Answer::Refused(refusal) => nothing_or(refusal),
        }
    }

    async fn read(&mut self, transfer: Transfer, parse: fn(&[u8]) -> Line) -> Result<Vec<Told>> {
        let subject = format!("a listing of {}", self.session.address);
        let bad = |what: &str| Error::new(Kind::Unsupported, subject.clone()).because(what);
        let patience = self.session.patience();
        let mut transfer = transfer;
        let mut data = BufReader::new(&mut transfer.data);
        let mut found = Vec::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = async {
                match (&mut data).take(LINE).read_until(b'\n', &mut line).await {
                    // TLS closed without close_notify. The reply on the control connection tells whether the listing is
                    // complete.
                    Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(0),
                    read => read.map_err(|e| lost(subject.clone(), e)),
                }
            };
            if patience.answer(|| subject.clone(), read).await? == 0 {
                break;
            }
            if !line.ends_with(b"\n") && line.len() as u64 == LINE {
                return Err(bad("a line of it is endless"));
            }
            if found.len() > crate::protocols::MAX_ENTRIES {
                return Err(bad("it has too many lines"));
            }
            while line.ends_with(b"\n") || line.ends_with(b"\r") {
                line.pop();
            }
            match parse(&line) {
                Line::Is(child) => found.push(Told::Child(child)),
                Line::Nothing => {}
                Line::Unread => found.push(Told::Unread(line.clone())),
            }
        }
        let Some(reply) = self.session.end(transfer).await? else { return Ok(found) };
        let words = reply.words();
        let failed = |kind| {
            Err(Error::new(kind, subject.clone())
                .because(format!("the server answered {}", reply.said())))
        };
        // vsftpd reports this failure with a code of success: "226 Transfer done (but failed to open directory)."
        if words.contains("failed to open") {
            return failed(Kind::PermissionDenied);
        }
        // So does pure-ftpd, in its own language: "226 Output truncated to 10000 matches".
        match TRUNCATED.iter().any(|stem| words.contains(stem)) {
            true => failed(Kind::Unsupported),
            false => Ok(found),
        }
    }
}

/// A line of a listing after parsing.
enum Told {
    Child(Child),
    /// A line that could not be parsed.
    Unread(Vec<u8>),
}

/// An empty listing if the refusal means that the folder is empty, as some servers answer.
fn nothing_or(refusal: Refusal) -> Result<Vec<Told>> {
    if refusal.says_empty() { Ok(Vec::new()) } else { Err(refusal.into()) }
}
