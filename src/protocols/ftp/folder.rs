//! Folders: `MLSD` where the server has it, else `LIST`, which is meant for people.
//!
//! What a line leaves open is asked: `SIZE` tells files, `CWD` folders. A line that is not understood may be a name
//! alone, and is asked for as one; if it is none, it is an error that quotes the line, so that nothing is left out in
//! silence. `LIST` says when a file was changed to the minute or the day, in a time zone of the server's choosing, so each
//! file's date is asked for: a round trip each, which is why files beyond [`DATED`] go without. Links may point anywhere:
//! one that is given is a file, one to a folder or to nothing is passed over. A folder that may not be
//! listed is left out by name.

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

/// So many files' dates are asked for one by one.
const DATED: usize = 1000;
/// The longest line: a path of 4 KiB, and what is said of it.
const LINE: u64 = 8 << 10;

/// A listing under way.
pub(super) struct Folders<'a> {
    session: &'a mut Session,
    /// Where the first folder is, without a slash at its end.
    top: Vec<u8>,
    /// The folder that is listed now.
    here: Vec<u8>,
    mlsd: bool,
    /// Whether `MLSD` tells the same dates as `MDTM`, by which a file is known again: seen at the first file.
    dates_agree: Option<bool>,
    /// Dates that may still be asked for.
    undated: usize,
}

/// All files below the folder that the session is in.
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
    /// What is in the folder `path`, which is listed from now on.
    async fn children_of(&mut self, path: &[u8]) -> Result<Vec<Told>> {
        if !path.is_empty() {
            self.here = [&self.top, &b"/"[..], path].concat();
            self.go_back().await?;
        }
        self.children().await
    }

    /// Into the folder that is listed now.
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

    /// What a line left open; `None` for what is no file.
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
                // Servers say so too of what they tell no length of. A link that leads nowhere is no error of the folder.
                Size::NotThere => match self.session.is_empty(&name).await? {
                    Answer::Is(is_empty) => {
                        return Ok(Some(Child::File {
                            name,
                            len: is_empty.then_some(0),
                            modified: None,
                        }));
                    }
                    Answer::Refused(_) => return Ok(None),
                },
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

    /// A file with all that can be found out of it.
    async fn file(
        &mut self,
        mut name: Vec<u8>,
        mut len: Option<u64>,
        mut modified: Option<String>,
    ) -> Result<Child> {
        if !self.mlsd && name.starts_with(b" ") {
            // Some servers have more than one space before the name.
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
                // Whoever fetches it is told why.
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
        // As `ls -F` writes it.
        name.pop_if(|last| *last == b'/');
        if self.mlsd || !name.starts_with(b" ") || self.is_folder(&name).await? {
            return Ok(name);
        }
        let bare = name.trim_ascii_start().to_vec();
        Ok(if self.is_folder(&bare).await? { bare } else { name })
    }

    /// What is called so, if anything is.
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
        // A server that tells no lengths may tell dates.
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

    /// What is in the folder that the session is in.
    async fn children(&mut self) -> Result<Vec<Told>> {
        if self.mlsd {
            match self.session.begin("MLSD", b"", 0).await? {
                Answer::Is(transfer) => return self.read(transfer, facts).await,
                Answer::Refused(refusal) if refusal.is_unknown_command() => self.mlsd = false,
                Answer::Refused(refusal) => return nothing_or(refusal),
            }
        }
        // Hidden files too, where the server knows the flag; others take it for a name.
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
                    // TLS that ends without a farewell: the answer on the other connection says whether that was all.
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
        let reply = self.session.end(transfer).await?;
        // vsftpd: "226 Transfer done (but failed to open directory)."
        match reply.filter(|reply| reply.words().contains("failed to open")) {
            Some(reply) => Err(Error::new(Kind::PermissionDenied, subject)
                .because(format!("the server answered {}", reply.said()))),
            None => Ok(found),
        }
    }
}

/// What a line told.
enum Told {
    Child(Child),
    /// The line itself.
    Unread(Vec<u8>),
}

/// Some say so that a folder is empty.
fn nothing_or(refusal: Refusal) -> Result<Vec<Told>> {
    if refusal.says_empty() { Ok(Vec::new()) } else { Err(refusal.into()) }
}
