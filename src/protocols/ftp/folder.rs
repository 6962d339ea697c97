//! Lists folders by `MLSD` where the server has it, else by `LIST`, whose output is meant for people.
//!
//! What a line leaves open is resolved by commands: `SIZE` recognises files, `CWD` folders. A line that cannot be
//! parsed may be a bare name and is tried as one. If it is not, the listing fails with an error that quotes the line,
//! so that nothing is left out silently. `LIST` gives dates only to the minute or day, in an unknown time zone.
//! Therefore the date of each file is requested, which takes one round trip each, for the first [`MAX_DATE_REQUESTS`]
//! files only. Links may point anywhere: a link that can be fetched is a file; a link to a folder or to nothing is
//! skipped. A folder that may not be listed is reported as left out.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::{
    errors::{Refusal, connection_lost},
    list_line,
    listing::{ListedChild, ParsedLine, parse_mlsd_line},
    session::{CommandOutcome, Session, SizeReply, Transfer, quote_path, remote_file},
};
use crate::{
    error::{Error, Kind, Result},
    protocols::{Listing, folder_walk::FolderWalk},
};

/// Maximum number of files whose dates are requested one by one.
const MAX_DATE_REQUESTS: usize = 1000;
/// Maximum length of a line in bytes: a path of 4 KiB and its attributes.
const MAX_LINE_LEN: u64 = 8 << 10;

/// Stems of "truncated", in the languages of FTP servers.
const TRUNCATED: [&str; 9] = [
    "truncat", "beschr", "gekürzt", "tronqu", "truncad", "troncat", "afgekort", "avkort", "obcięt",
];

/// A listing in progress.
pub(super) struct FolderLister<'a> {
    session: &'a mut Session,
    /// The path of the first folder, without a slash at the end.
    top: Vec<u8>,
    /// The path of the folder that is being listed.
    current: Vec<u8>,
    use_mlsd: bool,
    /// Whether `MLSD` and `MDTM` report the same date, which is tested at the first file. Validators use the date of
    /// `MDTM`.
    dates_agree: Option<bool>,
    /// Number of dates that may still be requested.
    date_requests_left: usize,
}

/// Lists all files below the current folder of the session.
///
/// # Errors
/// As [`Protocol::probe`](crate::protocols::Protocol::probe).
pub(super) async fn list(
    session: &mut Session,
    mut walk: FolderWalk,
    ranges: bool,
) -> Result<Listing> {
    let mut top = session.current_folder().await?;
    while top.ends_with(b"/") {
        top.pop();
    }
    let use_mlsd = session.features().await?.mlsd;
    let mut lister = FolderLister {
        session,
        top,
        current: Vec::new(),
        use_mlsd,
        dates_agree: None,
        date_requests_left: MAX_DATE_REQUESTS,
    };
    while let Some(path) = walk.next_folder() {
        let Some(children) = walk.skip_if_refused(lister.list_folder(&path).await)? else {
            continue;
        };
        for line in children {
            match lister.resolve(line).await? {
                Some(ListedChild::Folder(name)) => walk.add_folder(&name)?,
                Some(ListedChild::File { name, len, modified }) => {
                    walk.add_file(&name, |url| remote_file(url, len, modified, ranges))?;
                }
                Some(ListedChild::Link(_) | ListedChild::Unknown(_)) | None => {}
            }
        }
    }
    Ok(walk.finish())
}

impl FolderLister<'_> {
    /// Lists the folder `path` and makes it the current one.
    async fn list_folder(&mut self, path: &[u8]) -> Result<Vec<ListingLine>> {
        if !path.is_empty() {
            self.current = [&self.top, &b"/"[..], path].concat();
            self.enter_current().await?;
        }
        self.list_current().await
    }

    /// Changes to the folder that is being listed.
    async fn enter_current(&mut self) -> Result<()> {
        let folder: &[u8] = match (&self.current[..], &self.top[..]) {
            ([], []) => b"/",
            ([], top) => top,
            (current, _) => current,
        };
        match self.session.change_folder(folder).await? {
            CommandOutcome::Accepted(()) => Ok(()),
            CommandOutcome::Refused(refusal) => Err(refusal.into()),
        }
    }

    /// Resolves what a line leaves open; `None` for entries to skip.
    async fn resolve(&mut self, line: ListingLine) -> Result<Option<ListedChild>> {
        let (name, len, modified) = match line {
            ListingLine::Child(ListedChild::File { name, len, modified }) => (name, len, modified),
            ListingLine::Child(ListedChild::Folder(name)) => {
                return Ok(Some(ListedChild::Folder(self.real_folder_name(name).await?)));
            }
            ListingLine::Child(ListedChild::Link(name)) => match self.session.size(&name).await? {
                SizeReply::Len(len) => (name, Some(len), None),
                _ if self.is_folder(&name).await? => return Ok(None),
                SizeReply::Unknown => (name, None, None),
                // Some servers also answer this for files whose length they do not report, so a transfer decides. A
                // dangling link is not an error of the folder.
                SizeReply::NotFound => {
                    let len = match self.session.is_empty(&name).await? {
                        CommandOutcome::Accepted(is_empty) => is_empty.then_some(0),
                        CommandOutcome::Refused(refusal) if refusal.means_missing() => {
                            return Ok(None);
                        }
                        // The refusal is reported when the file is fetched.
                        CommandOutcome::Refused(_) => None,
                    };
                    return Ok(Some(ListedChild::File { name, len, modified: None }));
                }
            },
            ListingLine::Child(ListedChild::Unknown(name)) => match self.stat_by_name(&name).await?
            {
                Some(ListedChild::File { name, len, modified }) => (name, len, modified),
                Some(folder) => return Ok(Some(folder)),
                None => return Err(self.unparsed_line_error(&name)),
            },
            ListingLine::Unparsed(line) => match self.stat_by_name(&line).await? {
                Some(ListedChild::File { name, len, modified }) => (name, len, modified),
                Some(folder) => return Ok(Some(folder)),
                None => return Err(self.unparsed_line_error(&line)),
            },
        };
        self.complete_file(name, len, modified).await.map(Some)
    }

    /// A file with all metadata that the server reports.
    async fn complete_file(
        &mut self,
        mut name: Vec<u8>,
        mut len: Option<u64>,
        mut modified: Option<String>,
    ) -> Result<ListedChild> {
        if !self.use_mlsd && name.starts_with(b" ") {
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
                CommandOutcome::Accepted(true) => Some(0),
                CommandOutcome::Accepted(false) => None,
                // The refusal is reported when the file is fetched.
                CommandOutcome::Refused(_) => None,
            };
        }
        if modified.is_some() && self.dates_agree.is_none() {
            let by_mdtm = self.session.modified(&name).await?;
            self.dates_agree = Some(by_mdtm == modified);
            return Ok(ListedChild::File { name, len, modified: by_mdtm });
        }
        modified = modified.filter(|_| self.dates_agree == Some(true));
        if modified.is_none() && self.date_requests_left > 0 {
            self.date_requests_left -= 1;
            modified = self.session.modified(&name).await?;
        }
        Ok(ListedChild::File { name, len, modified })
    }

    async fn real_folder_name(&mut self, mut name: Vec<u8>) -> Result<Vec<u8>> {
        // `ls -F` appends a slash to folders.
        name.pop_if(|last| *last == b'/');
        if self.use_mlsd || !name.starts_with(b" ") || self.is_folder(&name).await? {
            return Ok(name);
        }
        let bare = name.trim_ascii_start().to_vec();
        Ok(if self.is_folder(&bare).await? { bare } else { name })
    }

    /// The file or folder of this name, if there is one.
    async fn stat_by_name(&mut self, name: &[u8]) -> Result<Option<ListedChild>> {
        if name.contains(&0) || matches!(name, b"." | b"..") {
            return Ok(None);
        }
        let name = name.to_vec();
        if let SizeReply::Len(len) = self.session.size(&name).await? {
            return Ok(Some(ListedChild::File { name, len: Some(len), modified: None }));
        }
        if self.is_folder(&name).await? {
            return Ok(Some(ListedChild::Folder(name)));
        }
        // A server that reports no lengths may report dates.
        let modified = self.session.modified(&name).await?;
        Ok(modified.map(|date| ListedChild::File { name, len: None, modified: Some(date) }))
    }

    async fn is_folder(&mut self, name: &[u8]) -> Result<bool> {
        if let CommandOutcome::Refused(_) = self.session.change_folder(name).await? {
            return Ok(false);
        }
        self.enter_current().await?;
        Ok(true)
    }

    fn unparsed_line_error(&self, line: &[u8]) -> Error {
        let location = match &self.current[..] {
            [] => String::new(),
            current => format!(" of {}", quote_path(current)),
        };
        let text = format!("listing{location} on {}", self.session.address);
        Error::new(Kind::Unsupported, text)
            .because(format!("the line {} has an unknown format", quote_path(line)))
            .hint("fetch the files one by one")
    }

    /// Lists the current folder of the session.
    async fn list_current(&mut self) -> Result<Vec<ListingLine>> {
        if self.use_mlsd {
            match self.session.start_transfer("MLSD", b"", 0).await? {
                CommandOutcome::Accepted(transfer) => {
                    return self.read_listing(transfer, parse_mlsd_line).await;
                }
                CommandOutcome::Refused(refusal) if refusal.is_unsupported_command() => {
                    self.use_mlsd = false
                }
                CommandOutcome::Refused(refusal) => return empty_or_error(refusal),
            }
        }
        // `-a` adds hidden files. Servers that do not know the flag take it for a name.
        if let CommandOutcome::Accepted(transfer) =
            self.session.start_transfer("LIST", b"-a", 0).await?
        {
            let lines = self.read_listing(transfer, list_line::parse_list_line).await?;
            if !lines.is_empty()
                && !lines.iter().any(|line| matches!(line, ListingLine::Unparsed(_)))
            {
                return Ok(lines);
            }
        }
        match self.session.start_transfer("LIST", b"", 0).await? {
            CommandOutcome::Accepted(transfer) => {
                self.read_listing(transfer, list_line::parse_list_line).await
            }
            CommandOutcome::Refused(refusal) => empty_or_error(refusal),
        }
    }

    async fn read_listing(
        &mut self,
        transfer: Transfer,
        parse: fn(&[u8]) -> ParsedLine,
    ) -> Result<Vec<ListingLine>> {
        let subject = format!("listing on {}", self.session.address);
        let unsupported =
            |reason: &str| Error::new(Kind::Unsupported, subject.clone()).because(reason);
        let timeouts = self.session.timeouts();
        let mut transfer = transfer;
        let mut data = BufReader::new(&mut transfer.data);
        let mut found = Vec::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = async {
                match (&mut data).take(MAX_LINE_LEN).read_until(b'\n', &mut line).await {
                    // TLS closed without close_notify. The reply on the control connection tells whether the listing is
                    // complete.
                    Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(0),
                    read => read.map_err(|e| connection_lost(subject.clone(), e)),
                }
            };
            if timeouts.wait_for_answer(|| subject.clone(), read).await? == 0 {
                break;
            }
            if !line.ends_with(b"\n") && line.len() as u64 == MAX_LINE_LEN {
                return Err(unsupported("a line exceeds 8 KiB"));
            }
            if found.len() > crate::protocols::MAX_ENTRIES {
                return Err(unsupported("it has too many lines"));
            }
            while line.ends_with(b"\n") || line.ends_with(b"\r") {
                line.pop();
            }
            match parse(&line) {
                ParsedLine::Child(child) => found.push(ListingLine::Child(child)),
                ParsedLine::Ignored => {}
                ParsedLine::Unparsed => found.push(ListingLine::Unparsed(line.clone())),
            }
        }
        let Some(reply) = self.session.finish_transfer(transfer).await? else { return Ok(found) };
        let words = reply.lower_case_text();
        let failed = |kind| {
            Err(Error::new(kind, subject.clone())
                .because(format!("the server answered {}", reply.display_text())))
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
enum ListingLine {
    Child(ListedChild),
    /// A line that could not be parsed.
    Unparsed(Vec<u8>),
}

/// An empty listing if the refusal means that the folder is empty, as some servers answer.
fn empty_or_error(refusal: Refusal) -> Result<Vec<ListingLine>> {
    if refusal.means_empty() { Ok(Vec::new()) } else { Err(refusal.into()) }
}
