//! FTP, and FTP over TLS: `ftp://`, `ftpes://` (explicit TLS, by command) and `ftps://` (TLS from the first byte).
//!
//! The [`Pool`] supplies a [`Session`], which is a logged-in control connection, or opens a new one. The length and the
//! date of the file are requested again, to detect a version other than the probed one. `REST` and `RETR` start the
//! transfer on a data connection of its own, and [`Body`] passes on its bytes as they arrive. After the last byte of
//! the range the data connection is closed, even if the server would send more, and the session returns to the pool.
//!
//! [`address`] parses URLs. [`reply`] and [`control`] are the control connection, and [`errors`] is the table of
//! replies. [`login`] opens a [`session`], which sends the commands. [`data`] has the addresses of data connections.
//! [`rest`] tests whether the server really serves ranges. [`pool`] keeps idle sessions, and [`body`] is a transfer.
//! [`folder`] lists folders with the parsers [`listing`] and [`list_line`].
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
mod rest;
mod session;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream;
use url::Url;

use self::{
    address::Address,
    body::{Body, Order},
    errors::Refusal,
    pool::Pool,
    session::{Answer, Session, Setup, Size, show},
};
use super::{
    ByteStream, FetchOptions, Found, Protocol, Remote, Validator, Wanted, paths::file_name,
    walk::Walk,
};
use crate::error::{Error, Kind, Result};

pub(super) const SCHEMES: &[&str] = &["ftp", "ftps", "ftpes"];

/// The protocol of FTP URLs: files and folders.
#[derive(Debug)]
pub(super) struct Ftp {
    pool: Arc<Pool>,
}

pub(super) fn make(options: &Arc<FetchOptions>) -> Result<Arc<dyn Protocol>> {
    if options.proxy.is_some() && options.ftp_active {
        let text = "a server cannot connect to us through a proxy";
        return Err(Error::new(Kind::InvalidInput, text).hint("leave out --ftp-active or --proxy"));
    }
    Ok(Arc::new(Ftp { pool: Arc::new(Pool::new(Setup::new(options))) }))
}

#[async_trait]
impl Protocol for Ftp {
    async fn probe(&self, url: &Url) -> Result<Found> {
        let address = Address::of(url, &self.pool.setup.options)?;
        let path = address::path(url)?;
        let mut session = self.pool.take(&address).await?;
        session.features().await?;
        let ranges = session.takes_rest().await?;
        let folder = path.strip_suffix(b"/").unwrap_or(&path);
        let is_folder = path.is_empty() || path.ends_with(b"/");
        let size = if is_folder { Size::NotThere } else { session.size(&path).await? };
        // `CWD` is sent even if there is a length: some servers report a length for folders.
        let entered = match folder {
            b"" if path.is_empty() => Answer::Is(()),
            b"" => session.enter(b"/").await?,
            folder => session.enter(folder).await?,
        };
        let refusal = match entered {
            Answer::Is(()) => {
                // The session ends in some subfolder. Relative paths no longer start at the login folder, so it is not
                // reused.
                let listing = folder::list(&mut session, Walk::new(url), ranges).await?;
                return Ok(Found::Folder(listing));
            }
            Answer::Refused(refusal) if is_folder => {
                self.pool.give(session);
                return Err(refusal.into());
            }
            Answer::Refused(refusal) => refusal,
        };
        let modified = session.modified(&path).await?;
        let len = match size {
            Size::Is(len) if len > 0 => Some(len),
            Size::Unknown | Size::NotThere if modified.is_some() => None,
            _ => match session.is_empty(&path).await? {
                Answer::Is(is_empty) => is_empty.then_some(0),
                Answer::Refused(retr) => {
                    self.pool.give(session);
                    let is_there = size.len().is_some();
                    return Err(not_given(retr, refusal, is_there));
                }
            },
        };
        self.pool.give(session);
        let file = session::remote(url.clone(), len, modified, ranges);
        Ok(Found::File(Remote { name: file_name(url), ..file }))
    }

    async fn open(&self, remote: &Remote, range: Wanted) -> Result<ByteStream> {
        let address = Address::of(&remote.url, &self.pool.setup.options)?;
        let path = address::path(&remote.url)?;
        let subject = format!("get {} from {address}", show(&path));
        let whole_only = |why: &str| Error::new(Kind::Unsupported, subject.clone()).because(why);
        if range.start > 0 && !remote.ranges {
            return Err(whole_only("the server gives it from its beginning only"));
        }
        let mut session = self.pool.take(&address).await?;
        if !path.is_ascii() {
            session.features().await?;
        }
        let len = same_version(&mut session, remote, &path, &subject).await?;
        let end = range.end.or(len);
        if let Some(len) = len.filter(|len| range.start > *len || end > Some(*len)) {
            self.pool.give(session);
            return Err(Error::new(Kind::Corrupt, subject)
                .because(format!("the file has {len} bytes, and more were asked for")));
        }
        let left = end.map(|end| end.saturating_sub(range.start));
        // The length from the listing is used if `SIZE` reports none.
        let known = len.or(remote.len);
        if left == Some(0) {
            self.pool.give(session);
            return Ok(Box::pin(stream::empty()));
        }
        if let Some(len) = len.filter(|_| range.start > 0)
            && !session.rest_is_done(&path, len, range.start).await?
        {
            self.pool.give(session);
            return Err(whole_only("the server takes REST and does not begin there"));
        }
        match session.begin("RETR", &path, range.start).await? {
            Answer::Is(transfer) => {
                let ends_at = known.filter(|len| end == Some(*len));
                let announced = transfer.announced.filter(|_| range.start == 0 && end.is_none());
                let order = Order { subject, address, path, left, announced, ends_at };
                Ok(Body::new(&self.pool, session, transfer, order).stream())
            }
            Answer::Refused(refusal) => {
                if refusal.is_of("REST") {
                    *session.known.rest.lock() = Some(false);
                }
                let is_there = refusal.is_not_there() && session.size(&path).await?.len().is_some();
                self.pool.give(session);
                Err(refused(refusal, subject, is_there))
            }
        }
    }
}

/// Checks that the file is still the probed version. Returns its length, if the server reports one. A reported length
/// of 0 counts only if the probe had a length too: the probe tests whether such a file is really empty.
async fn same_version(
    session: &mut Session,
    remote: &Remote,
    path: &[u8],
    subject: &str,
) -> Result<Option<u64>> {
    let changed = |was: String, is: String| {
        let error = Error::new(Kind::Changed, subject);
        error.because(format!("the file was {was} and is {is} now"))
    };
    let len = session.size(path).await?.len().filter(|len| *len > 0 || remote.len.is_some());
    if let (Some(was), Some(is)) = (remote.len, len)
        && was != is
    {
        return Err(changed(format!("{was} bytes long"), is.to_string()));
    }
    if let (Some(Validator::Modified(was, _)), Some(_)) = (&remote.validator, len) {
        let is = session.modified(path).await?.unwrap_or_default();
        if is != *was {
            return Err(changed(format!("of {was}"), format!("of {is}")));
        }
    }
    Ok(len)
}

/// The error of a refused transfer. A file with a length exists, so its refusal means that it may not be read.
fn refused(refusal: Refusal, subject: String, is_there: bool) -> Error {
    if refusal.is_of("REST") {
        return Error::new(Kind::Unsupported, subject).because(Error::from(refusal));
    }
    if is_there {
        return Error::new(Kind::PermissionDenied, subject).because(Error::from(refusal));
    }
    refusal.into()
}

/// The error of a path that is neither a folder nor a readable file.
fn not_given(retr: Refusal, cwd: Refusal, is_there: bool) -> Error {
    match (is_there, retr.is_not_there()) {
        (true, true) => retr.of_kind(Kind::PermissionDenied),
        (false, true) => cwd.into(),
        (_, false) => retr.into(),
    }
}
