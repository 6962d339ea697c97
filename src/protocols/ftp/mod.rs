//! FTP, and FTP over TLS: `ftp://`, `ftpes://` (explicit TLS, by command) and `ftps://` (TLS from the first byte).
//!
//! The [`SessionPool`] supplies a [`Session`], which is a logged-in control connection, or opens a new one. The length
//! and the date of the file are requested again, to detect a version other than the probed one. `REST` and `RETR` start
//! the transfer on a separate data connection, and [`FtpStream`] passes on its bytes as they arrive. After the last
//! byte of the range the data connection is closed, even if the server would send more, and the session returns to the
//! pool.
//!
//! [`address`] parses URLs. [`reply`] and [`control`] are the control connection, and [`errors`] is the table of
//! replies. [`login`] opens a [`session`], which sends the commands. [`data`] has the addresses of data connections.
//! [`rest_check`] tests whether the server really serves ranges. [`pool`] keeps idle sessions, and [`body`] is a
//! transfer. [`folder`] lists folders with the parsers [`listing`] and [`list_line`].
//!
//! What it refuses: the host that a server names for data connections, because a server could name any host (they go to
//! the host of the control connection); line breaks in names and passwords; listing lines that cannot be parsed; and to
//! continue without TLS where the URL requires it.

mod address;
mod body;
mod control;
mod data;
mod errors;
mod folder;
mod list_line;
mod listing;
mod login;
mod pool;
mod reply;
mod rest_check;
mod session;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::stream;
use url::Url;

use self::{
    address::FtpAddress,
    body::{FtpStream, TransferSpec},
    errors::Refusal,
    pool::SessionPool,
    session::{CommandOutcome, Session, SessionConfig, SizeReply, quote_path},
};
use super::{
    ByteStream, FetchOptions, Protocol, RangeRequest, RemoteFile, UrlTarget, Validator,
    folder_walk::FolderWalk, url_paths::last_segment,
};
use crate::{
    error::{Error, Kind, Result},
    hints::{Setting, hint},
};

pub(super) const SCHEMES: &[&str] = &["ftp", "ftps", "ftpes"];

/// The protocol of FTP URLs: files and folders.
#[derive(Debug)]
pub(super) struct Ftp {
    pool: Arc<SessionPool>,
}

pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
    if options.proxy.is_some() && options.ftp_active {
        let text = "FTP active mode does not work through a proxy";
        return Err(Error::new(Kind::InvalidInput, text).hint(hint![
            "leave out ",
            Setting::FtpActive,
            " or ",
            Setting::Proxy,
        ]));
    }
    Ok(Arc::new(Ftp { pool: Arc::new(SessionPool::new(SessionConfig::new(options))) }))
}

#[async_trait]
impl Protocol for Ftp {
    async fn probe(&self, url: &Url) -> Result<UrlTarget> {
        let address = FtpAddress::from_url(url, &self.pool.config.options)?;
        let path = address::command_path(url)?;
        let mut session = self.pool.acquire(&address).await?;
        session.features().await?;
        let ranges = session.supports_rest().await?;
        let folder = path.strip_suffix(b"/").unwrap_or(&path);
        let is_folder = path.is_empty() || path.ends_with(b"/");
        let size = if is_folder { SizeReply::NotFound } else { session.size(&path).await? };
        // `CWD` is sent even if there is a length: some servers report a length for folders.
        let entered = match folder {
            b"" if path.is_empty() => CommandOutcome::Accepted(()),
            b"" => session.change_folder(b"/").await?,
            folder => session.change_folder(folder).await?,
        };
        let refusal = match entered {
            CommandOutcome::Accepted(()) => {
                // The session ends in some subfolder. Relative paths no longer start at the login folder, so it is not
                // reused.
                let listing = folder::list(&mut session, FolderWalk::new(url), ranges).await?;
                return Ok(UrlTarget::Folder(listing));
            }
            CommandOutcome::Refused(refusal) if is_folder => {
                self.pool.release(session);
                return Err(refusal.into());
            }
            CommandOutcome::Refused(refusal) => refusal,
        };
        let modified = session.modified(&path).await?;
        let len = match size {
            SizeReply::Len(len) if len > 0 => Some(len),
            SizeReply::Unknown | SizeReply::NotFound if modified.is_some() => None,
            _ => match session.is_empty(&path).await? {
                CommandOutcome::Accepted(is_empty) => is_empty.then_some(0),
                CommandOutcome::Refused(retr) => {
                    self.pool.release(session);
                    let has_len = size.len().is_some();
                    return Err(probe_error(retr, refusal, has_len));
                }
            },
        };
        self.pool.release(session);
        let file = session::remote_file(url.clone(), len, modified, ranges);
        Ok(UrlTarget::File(RemoteFile { name: last_segment(url), ..file }))
    }

    async fn open(&self, remote: &RemoteFile, range: RangeRequest) -> Result<ByteStream> {
        let address = FtpAddress::from_url(&remote.url, &self.pool.config.options)?;
        let path = address::command_path(&remote.url)?;
        let subject = format!("get {} from {address}", quote_path(&path));
        let whole_only =
            |reason: &str| Error::new(Kind::Unsupported, subject.clone()).because(reason);
        if range.start > 0 && !remote.supports_ranges {
            return Err(whole_only("the server sends only the whole file"));
        }
        let mut session = self.pool.acquire(&address).await?;
        if !path.is_ascii() {
            session.features().await?;
        }
        let len = check_version(&mut session, remote, &path, &subject).await?;
        let end = range.end.or(len);
        if let Some(len) = len.filter(|len| range.start > *len || end > Some(*len)) {
            self.pool.release(session);
            return Err(Error::new(Kind::Corrupt, subject)
                .because(format!("the range exceeds the file, which has {len} bytes")));
        }
        let remaining = end.map(|end| end.saturating_sub(range.start));
        // The length from the listing is used if `SIZE` reports none.
        let known = len.or(remote.len);
        if remaining == Some(0) {
            self.pool.release(session);
            return Ok(Box::pin(stream::empty()));
        }
        if let Some(len) = len.filter(|_| range.start > 0)
            && !session.can_start_at(&path, len, range.start).await?
        {
            self.pool.release(session);
            return Err(whole_only("the server accepts REST but starts at another offset"));
        }
        match session.start_transfer("RETR", &path, range.start).await? {
            CommandOutcome::Accepted(transfer) => {
                let file_len = known.filter(|len| end == Some(*len));
                let remaining_announced =
                    transfer.announced_len.filter(|_| range.start == 0 && end.is_none());
                let spec = TransferSpec {
                    subject,
                    address,
                    path,
                    remaining,
                    remaining_announced,
                    file_len,
                };
                Ok(FtpStream::new(&self.pool, session, transfer, spec).stream())
            }
            CommandOutcome::Refused(refusal) => {
                if refusal.is_reply_to("REST") {
                    *session.facts.supports_rest.lock() = Some(false);
                }
                let has_len =
                    refusal.is_missing_or_hidden() && session.size(&path).await?.len().is_some();
                self.pool.release(session);
                Err(transfer_error(refusal, subject, has_len))
            }
        }
    }
}

/// Checks that the file is still the probed version. Returns its length, if the server reports one. A reported length
/// of 0 counts only if the probe had a length too: the probe tests whether such a file is really empty.
async fn check_version(
    session: &mut Session,
    remote: &RemoteFile,
    path: &[u8],
    subject: &str,
) -> Result<Option<u64>> {
    let changed = |what: &str, was: &dyn fmt::Display, now: &dyn fmt::Display| {
        let error = Error::new(Kind::Changed, subject);
        error.because(format!("the {what} of the file has changed from {was} to {now}"))
    };
    let len = session.size(path).await?.len().filter(|len| *len > 0 || remote.len.is_some());
    if let (Some(was), Some(now)) = (remote.len, len)
        && was != now
    {
        return Err(changed("length", &was, &now));
    }
    if let (Some(Validator::Modified(was, _)), Some(_)) = (&remote.validator, len) {
        let now = session.modified(path).await?.unwrap_or_default();
        if now != *was {
            return Err(changed("date", was, &now));
        }
    }
    Ok(len)
}

/// The error of a refused transfer. A file with a length exists, so its refusal means that it may not be read.
fn transfer_error(refusal: Refusal, subject: String, has_len: bool) -> Error {
    if refusal.is_reply_to("REST") {
        return Error::new(Kind::Unsupported, subject).because(Error::from(refusal));
    }
    if has_len {
        return Error::new(Kind::PermissionDenied, subject).because(Error::from(refusal));
    }
    refusal.into()
}

/// The error of a path that is neither a folder nor a readable file.
fn probe_error(retr: Refusal, cwd: Refusal, has_len: bool) -> Error {
    match (has_len, retr.is_missing_or_hidden()) {
        (true, true) => retr.into_kind(Kind::PermissionDenied),
        (false, true) => cwd.into(),
        (_, false) => retr.into(),
    }
}
