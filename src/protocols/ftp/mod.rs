//! FTP, and FTP over TLS: `ftp://`, `ftpes://` (TLS is asked for) and `ftps://` (TLS from the first byte).
//!
//! The path of a byte: a session (a control connection that is signed in) is taken from the pool or opened; the length
//! and the date of the file are asked for again, so that another version is not taken for the one that was probed; `REST`
//! and `RETR` begin the transfer, on a data connection of its own, whose bytes are handed on as they come. After the last
//! byte of the range the data connection is closed, whatever the server would still send, and the session goes back to
//! the pool.
//!
//! [`address`] is what a URL says, [`errors`] the one table of answers, [`session`] asks, [`pool`] keeps sessions, [`body`] is
//! a transfer, [`folder`] a listing; [`flushed`] is TLS as the library wants it.
//!
//! What it refuses: addresses that a server gives for its data connections (they are made to where the control connection
//! goes, else a server could have us connect to anyone), line breaks in names and passwords, and to go on without
//! TLS where it was asked for.

mod address;
mod body;
mod errors;
mod flushed;
mod folder;
mod pool;
mod session;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream;
use url::Url;

use self::{
    address::Address,
    body::Body,
    pool::Pool,
    session::{Answer, Refusal, Session, Setup},
};
use super::{
    ByteStream, FetchOptions, Found, Protocol, Remote, Validator, Wanted, paths::last_part,
    walk::Walk,
};
use crate::error::{Error, Kind, Result};

pub(super) const SCHEMES: &[&str] = &["ftp", "ftps", "ftpes"];

/// Files and folders of FTP servers.
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
        let features = session.features().await?;
        let ranges = features.rest || session.takes_rest().await?;
        let folder = path.trim_end_matches('/');
        let is_folder = path.is_empty() || path.ends_with('/');
        let len = if is_folder { None } else { session.size(&path).await? };
        // Asked even of what has a length: some servers say how long a folder is.
        let entered = match folder {
            "" if path.is_empty() => Answer::Is(()),
            "" => session.enter("/").await?,
            folder => session.enter(folder).await?,
        };
        let refusal = match entered {
            Answer::Is(()) => {
                return Ok(Found::Folder(
                    folder::list(&mut session, Walk::new(url), ranges).await?,
                ));
            }
            Answer::Refused(refusal) => refusal,
        };
        let modified = if is_folder { None } else { session.modified(&path).await? };
        self.pool.give(session);
        if len.is_none() && modified.is_none() {
            return Err(refusal.into());
        }
        let file = session::remote(url.clone(), len, modified, ranges);
        Ok(Found::File(Remote { name: Some(last_part(url)), ..file }))
    }

    async fn open(&self, remote: &Remote, range: Wanted) -> Result<ByteStream> {
        let address = Address::of(&remote.url, &self.pool.setup.options)?;
        let path = address::path(&remote.url)?;
        if range.start > 0 && !remote.ranges {
            let text = format!("{address} gives {path:?} from its beginning only");
            return Err(Error::new(Kind::Unsupported, text));
        }
        let mut session = self.pool.take(&address).await?;
        if !path.is_ascii() {
            session.features().await?;
        }
        let subject = format!("get {path:?} from {address}");
        let len = same_version(&mut session, remote, &path, &subject).await?;
        let end = range.end.or(len);
        if let Some(len) = len.filter(|len| range.start > *len || end > Some(*len)) {
            self.pool.give(session);
            return Err(Error::new(Kind::Corrupt, subject)
                .because(format!("the file has {len} bytes, and more were asked for")));
        }
        let left = end.map(|end| end.saturating_sub(range.start));
        if left == Some(0) {
            self.pool.give(session);
            return Ok(Box::pin(stream::empty()));
        }
        match session.begin(&format!("RETR {path}"), range.start).await? {
            Answer::Is(data) => {
                let to_the_end = range.end.is_none() || range.end == len;
                Ok(Body::new(&self.pool, session, data, subject, left, to_the_end).stream())
            }
            Answer::Refused(refusal) => {
                let is_there = refusal.is_not_there() && session.size(&path).await?.is_some();
                self.pool.give(session);
                Err(refused(refusal, subject, range, is_there))
            }
        }
    }
}

/// Holds the file against what was probed. Its length, where the server tells it.
async fn same_version(
    session: &mut Session,
    remote: &Remote,
    path: &str,
    subject: &str,
) -> Result<Option<u64>> {
    let changed = |was: String, is: String| {
        let error = Error::new(Kind::Changed, subject);
        error.because(format!("the file was {was} and is {is} now"))
    };
    let len = session.size(path).await?;
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

/// Why a transfer did not begin. A file that has a length is there, so one that is not given is not ours to read.
fn refused(refusal: Refusal, subject: String, range: Wanted, is_there: bool) -> Error {
    if refusal.is_unknown_command() && range.start > 0 {
        return Error::new(Kind::Unsupported, subject).because(Error::from(refusal));
    }
    if is_there {
        return Error::new(Kind::PermissionDenied, subject).because(Error::from(refusal));
    }
    refusal.into()
}
